"""What `evaluators.detection` knows before it sees any method: its parameters, the detector, the confidence, the quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.checking import check_at_least, check_below_one, check_choice, check_within
from bench.contracts import Job, Score
from bench.data.contract import CLEAR, OPACITY, Box
from bench.data.imageset import ImageSet
from bench.errors import PreflightError
from bench.files import digest
from evaluators import tv_detector, yolo
from evaluators.counting import (
    IOU,
    average_precision,
    average_precision_interval,
    best_confidence,
    blurred,
    counts,
    pool_detections,
)
from evaluators.detectors import Annotated, Detections, Detector, annotated, detect_all, identity, packed, unpacked
from evaluators.statistics import N_BOOT

Bytes = npt.NDArray[np.uint8]

#: Bumped whenever the same inputs could give other detections, another confidence or another mAP50.
VERSION = 2
TITLES = {"yolo": "YOLOv5u", **tv_detector.TITLES}
#: Counted at where no validation image has boxes: YOLOv5's own default.
DEFAULT_CONFIDENCE = 0.25
#: Sigma of the control blur that is the same for all methods, as a share of the image's side.
BLUR = 1 / 64


@dataclass(frozen=True)
class DetectionConfig:
    """Parameters of `Detection`.

    Attributes:
        detector: ``yolo`` (YOLOv5u of ultralytics, AGPL-3.0) or torchvision's ``fcos``, ``retinanet`` or ``ssdlite`` (BSD-3).
        weights: file of the user's own for that detector; empty trains one here.
        classes: of weights that know several classes, those that count as lesions (``yolo``).
        yolo_model: ``yolov5n``, ``yolov5s``, ``yolov5m``, ``yolov5l`` or ``yolov5x``.
        backbone, width: of FCOS and RetinaNet; see `evaluators.tv_detector.TorchvisionSettings`.
        confidence: least confidence that counts; 0 chooses the one with the highest F1 at IoU 0.5 on real validation images.
        nms_iou: of two boxes that overlap more, the less confident one goes.
        max_detections: most boxes an image.
        image_size: side that images are resized to inside the detector, a multiple of 32.
        epochs: training of ``yolo``.
        iterations: training of the others.
        batch_size: of both.
        lr: peak learning rate of AdamW; 0 takes the detector's own: 1e-3 for ``yolo`` and ``ssdlite``, 3e-4 for ``fcos`` and
            ``retinanet`` (at 1e-3 FCOS learns where lesions usually are, and not what they look like).
        model_seed: of initial weights, order and augmentation, whatever the run's seed.
        map_floor: mAP50 below which counts are marked as not to be relied upon, likewise where the lower end of its interval is:
            then it is not shown to be above. Boxes where lesions usually are, whatever the image shows (those found in another
            image), reached 0.03 to 0.10 on the embedded data.
        n_boot: bootstrap resamples over patients behind each interval.
    """

    detector: str = "yolo"
    weights: str = ""
    classes: tuple[str, ...] = ()
    yolo_model: str = "yolov5s"
    backbone: str = "resnet50"
    width: int = 256
    confidence: float = 0.0
    nms_iou: float = 0.45
    max_detections: int = 50
    image_size: int = 512
    epochs: int = 100
    iterations: int = 20_000
    batch_size: int = 16
    lr: float = 0.0
    model_seed: int = 0
    map_floor: float = 0.10
    n_boot: int = N_BOOT

    def __post_init__(self) -> None:
        check_choice(self, tuple(TITLES), "detector")
        check_below_one(self, "confidence")
        check_within(self, 0, 1, "map_floor")
        check_at_least(self, 1, "n_boot")
        if self.detector == "yolo":
            self.yolo_settings()
        else:
            self.torchvision_settings()

    @property
    def path(self) -> Path:
        """The user's own weights, where there are any."""
        return Path(self.weights).expanduser()

    def yolo_settings(self) -> yolo.YoloSettings:
        """For `evaluators.yolo`."""
        return yolo.YoloSettings(
            model=self.yolo_model, image_size=self.image_size, epochs=self.epochs, batch_size=self.batch_size,
            lr=self.lr or yolo.YoloSettings.lr, seed=self.model_seed, nms_iou=self.nms_iou, max_detections=self.max_detections,
            classes=tuple(self.classes),
        )  # fmt: skip

    def torchvision_settings(self) -> tv_detector.TorchvisionSettings:
        """For `evaluators.tv_detector`."""
        return tv_detector.TorchvisionSettings(
            architecture=self.detector, backbone=self.backbone, width=self.width, image_size=self.image_size,
            iterations=self.iterations, batch_size=self.batch_size, lr=self.lr or tv_detector.LR[self.detector],
            seed=self.model_seed, nms_iou=self.nms_iou, max_detections=self.max_detections,
        )  # fmt: skip

    def missing(self) -> list[str]:
        """ultralytics where it is wanted and not installed, the user's weights where they are not there or not of this detector."""
        found = [yolo.missing_yolo()] if self.detector == "yolo" else []
        if self.weights and not self.path.is_file():
            found.append(
                f"evaluators.detection.weights={self.weights}: no such file. Name the weights of a {TITLES[self.detector]} "
                "detector, or leave it empty to train one."
            )
        elif self.weights:
            own = yolo.file_problem(self.path) if self.detector == "yolo" else self._torchvision_problem()
            found.append(own and f"evaluators.detection.weights: {own}")
        return [line for line in found if line]

    def _torchvision_problem(self) -> str:
        return tv_detector.file_problem(self.path, self.torchvision_settings())

    def parts(self) -> tuple[str, ...]:
        """Versions that detections and thresholds depend on."""
        if self.detector == "yolo":
            return f"looks {VERSION}", f"yolo {yolo.VERSION}", f"ultralytics {yolo.library_version()}"
        return f"looks {VERSION}", f"tv_detector {tv_detector.VERSION}", tv_detector.library()


class RealImages:
    """The detector and what it sees in real images. Everything is made once, whatever the number of methods.

    Attributes:
        job: the evaluator's job.
        params: its parameters.
        detector: which finds the lesions.
        taught: names of the image sets that it learnt from where it was trained here.
        check: validation images with known boxes.
        dropped: what of their boxes could not be used.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.params = job, job.params
        learn, dropped = annotated(job.learn)
        self.check, also = annotated(job.check)
        self.detector = _detector(job, learn, self.check)
        self.taught = _names(learn)
        self.dropped = "; ".join(f"{kind}: {text}" for kind, text in (("training", dropped), ("validation", also)) if text)

    @cached_property
    def before(self) -> list[Detections]:
        """In the untranslated test images."""
        return self._detections(self.job.source, {}, self.job.source.bytes)

    @cached_property
    def control(self) -> list[Detections]:
        """In the blurred opacity images (`BLUR`)."""
        images = self.job.source.where(OPACITY)
        sigma = BLUR * images.size
        return self._detections(images, {"blur": sigma}, lambda: blurred(images.bytes(), sigma))

    def _detections(self, images: ImageSet, more: Mapping[str, Any], pixels: Callable[[], Bytes]) -> list[Detections]:
        inputs = {"version": VERSION, "detector": self.detector.id, "images": images.fingerprint, **more}
        return unpacked(self.job.fits.arrays("detections", inputs, lambda: packed(detect_all(self.detector, pixels()))))

    def _of(self, chosen: Sequence[Annotated]) -> tuple[list[Detections], list[tuple[Box, ...]], list[str]]:
        """Detections, true boxes and patients of annotated images."""
        found: list[Detections] = []
        for images, rows in chosen:
            if images.fingerprint == self.job.source.fingerprint:
                found += [self.before[row] for row in rows]
            else:
                found += self._detections(images, {"rows": digest(rows)}, partial(images.bytes, rows))
        items = [images.items[row] for images, rows in chosen for row in rows]
        return found, [item.boxes or () for item in items], [item.patient_id for item in items]

    @cached_property
    def threshold(self) -> Mapping[str, Any]:
        """``confidence`` that counts, and ``note``, how it came about; what validation images tell is kept with the fits."""
        if self.params.confidence:
            return {"confidence": float(self.params.confidence), "note": "as configured"}
        if not _has_boxes(self.check):
            return {"confidence": DEFAULT_CONFIDENCE, "note": "YOLOv5's default: no validation image has boxes"}

        def make(_: Path) -> dict[str, Any]:
            found, truth, _patients = self._of(self.check)
            confidence, f1 = best_confidence(pool_detections(found, truth))
            return {"confidence": confidence if f1 else DEFAULT_CONFIDENCE, "f1": round(f1, 6), "images": len(truth)}

        inputs = {"version": VERSION, "detector": self.detector.id, "check": identity(self.check)}
        facts = self.job.fits.folder("detection-confidence", inputs, make)[1]
        how = f"highest F1, {facts['f1']:.2f}, at IoU {IOU:g}" if facts["f1"] else "YOLOv5's default: no hit"
        return {**facts, "note": f"{how} on {facts['images']} images of {_names(self.check)}"}

    @property
    def confidence(self) -> float:
        """Least confidence that counts."""
        return float(self.threshold["confidence"])

    @cached_property
    def _tested(self) -> tuple[list[Annotated], str]:
        """Test images with known boxes, and what of those could not be used."""
        return annotated([self.job.source])

    @cached_property
    def judged(self) -> str:
        """Name of the image set that the mAP50 is of: the untouched test images where any has a box, else the validation images;
        empty where neither has."""
        chosen = self._tested[0] if _has_boxes(self._tested[0]) else self.check
        return _names(chosen) if _has_boxes(chosen) else ""

    @cached_property
    def lesion_free(self) -> bool:
        """Whether every test image is known to have no lesion. Then nothing in it can be found rightly, and there is no mAP50."""
        return all(item.boxes == () for item in self.job.source.items)

    @cached_property
    def borrowed(self) -> str:
        """Why the mAP50 does not tell how well lesions of the test set are seen: it is of another dataset; else empty."""
        own = {_dataset(images) for images, _ in self.check} <= {_dataset(self.job.source)}
        if own or self.lesion_free or not self.judged or _has_boxes(self._tested[0]):
            return ""  # where there is no lesion, a false alarm is one whatever the mAP50
        return f"of {self.judged}, and {self.job.source.name} has no boxes"

    @cached_property
    def quality(self) -> Score:
        """mAP50 on the untouched test images where any has a box, else on validation images; in doubt where those are of another
        dataset."""
        tested, lost = self._tested
        chosen = tested if _has_boxes(tested) else self.check
        if not _has_boxes(chosen):
            why = "no lesion in this test set, and " if self.lesion_free else ""
            return Score(None, 0, note=f"{why}no image with boxes to measure it on")
        inputs = {
            "version": VERSION, "detector": self.detector.id, "images": identity(chosen), "seed": self.job.seed,
            "n_boot": self.params.n_boot,
        }  # fmt: skip
        facts = self.job.fits.folder("detection-quality", inputs, partial(self._measured, chosen))[1]
        ci = facts["ci"] and (float(facts["ci"][0]), float(facts["ci"][1]))
        lacks = "no lesion in this test set" if self.lesion_free else "no test image has boxes"
        notes = [
            f"on {facts['images']} untouched images of {self.judged} (boxes found in another image would get {facts['chance']:.2f})",
            "" if chosen is tested else lacks, lost,
        ]  # fmt: skip
        told = "; ".join(note for note in notes if note)
        return Score(float(facts["map50"]), int(facts["images"]), ci=ci, note=told, doubt=self.borrowed)

    def _measured(self, chosen: Sequence[Annotated], _: Path) -> dict[str, Any]:
        found, truth, patients = self._of(chosen)
        ranked = pool_detections(found, truth)
        ci = average_precision_interval(ranked, patients, self.job.seed, self.params.n_boot)
        chance = np.mean([average_precision(pool_detections(found[k:] + found[:k], truth)) for k in _shifts(len(found))])
        return {
            "map50": average_precision(ranked), "ci": ci, "chance": float(chance), "images": len(truth),
            "boxes": int(ranked.boxes.sum()),
        }  # fmt: skip

    @cached_property
    def doubt(self) -> str:
        """Why no count of this detector must be relied upon; empty where there is no reason."""
        score = self.quality
        if score.value is None:
            return "nobody knows whether the detector sees anything: no untouched image has boxes to measure its mAP50 on"
        if score.value < self.params.map_floor:
            return f"the detector is blind: mAP50 {score.value:.2f} on {self.judged}, floor {self.params.map_floor:.2f}"
        if score.ci and score.ci[0] < self.params.map_floor:
            return (
                f"the detector may be blind: mAP50 {score.value:.2f} [{score.ci[0]:.2f}, {score.ci[1]:.2f}] on {self.judged}, "
                f"floor {self.params.map_floor:.2f}"
            )
        if score.ci is None and self.params.map_floor > 0:
            return f"the detector may be blind: too few patients for an interval of its mAP50 {score.value:.2f} on {self.judged}"
        unknown = f"how well it sees lesions here is unknown: mAP50 {score.value:.2f} is {self.borrowed}" if self.borrowed else ""
        return self._found_before() or unknown

    def _found_before(self) -> str:
        """What speaks against the detector in the untouched test images."""
        found, domains = counts(self.before, self.confidence), np.array(self.job.source.domains)
        opacity, clear = (found[domains == domain] for domain in (OPACITY, CLEAR))
        if len(opacity) and not opacity.any():
            return f"the detector finds nothing in {len(opacity)} untouched opacity images: nothing could be lost"
        if len(opacity) and len(clear) and opacity.mean() <= clear.mean():
            return (
                f"the detector finds no more in untouched opacity images ({opacity.mean():.2f} an image) than in clear ones "
                f"({clear.mean():.2f}): what it counts are not opacities"
            )
        return ""

    @property
    def note(self) -> str:
        """How counts came about, beyond what the record's models and parameters tell."""
        facts, title = self.detector.facts, TITLES[self.params.detector]
        origin = f"weights {facts['file']}" if self.params.weights else f"trained on {facts.get('images', 0)} images of {self.taught}"
        parts = [f"{title} {origin}", f"confidence >= {self.confidence:g} ({self.threshold['note']})", self.dropped]
        return "; ".join(part for part in parts if part)


def _detector(job: Job, learn: Sequence[Annotated], check: Sequence[Annotated]) -> Detector:
    params: DetectionConfig = job.params
    if missing := params.missing():
        raise PreflightError(" ".join(missing))
    if params.detector == "yolo":
        settings = params.yolo_settings()
        return yolo.load_yolo(job, params.path, settings) if params.weights else yolo.train_yolo(job, settings, learn, check)
    own = params.torchvision_settings()
    return tv_detector.load_torchvision(job, params.path, own) if params.weights else tv_detector.train_torchvision(job, own, learn)


def _shifts(n: int) -> list[int]:
    """A few ways of handing every image the detections of another one."""
    return sorted({max(1, round(n * share)) for share in (0.1, 0.3, 0.5, 0.7, 0.9)})


def _names(chosen: Sequence[Annotated]) -> str:
    return ", ".join(dict.fromkeys(images.name for images, _ in chosen))


def _dataset(images: ImageSet) -> str:
    return images.name.partition("/")[0]


def _has_boxes(chosen: Sequence[Annotated]) -> bool:
    return any(images.items[row].boxes for images, rows in chosen for row in rows)
