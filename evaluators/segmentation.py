"""Lung segmentation: is a lung easier to find after translation? Table 1 of the paper.

Opacities hide lung: a segmenter misses what lies under them. Segmenters that never saw a translated image find the lungs of
real opacity images before and after translation, and the same frozen segmenter is used for both. "Do nothing" stands at a
change of 0: a prediction is made once for an image, and what a translator leaves alone keeps it. That opacity is what makes a
segmenter fail is not taken for granted: the same segmenters' results on clear counterparts (or, where there are none, on clear
images) stand beside it, and those on dense lungs beside those on clear ones.

The headline is the reference's: intersection over union of the lung (left or right) of each image, then its mean over
patients. Undecided pixels and padding count nowhere; images without a lung pixel in their reference are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.assets import Slot, locate
from bench.contracts import Evaluator, Job, Metric, Score, ScoreJob
from bench.data.contract import CLEAR, MASK_IGNORE, MASK_LUNG, OPACITY
from bench.data.imageset import ImageSet
from bench.registry import register_evaluator
from evaluators.overlap import confusion, hd95, iou, two_lungs
from evaluators.padding import unpadded
from evaluators.segmentation_config import SegmentationConfig
from evaluators.segmentation_figure import LUNGS, Case, draw, keep
from evaluators.segmentation_models import LUNG, NO_LUNG, UNMASKED, Ready, SegmenterEnsemble, versions
from evaluators.segmentation_scores import Found, Images, Scores, definition
from evaluators.segmenter_files import ENCODER_FLAG, FLAG, problem
from evaluators.segmenters import ARCHS, ENCODERS, segment
from evaluators.statistics import FloatArray, IntArray

#: Images whose predictions are in memory at once.
_CHUNK = 128
AVERAGE = "Average"
DENSITY = "IoU, densest third of lungs minus clearest third"
NOTHING = "no image of this test set has a lung mask that is not empty"
ONE_PATIENT = "nothing to train segmenters on: no training image has a lung mask, and cross-fitting needs two patients"


@register_evaluator("segmentation")
class Segmentation(Evaluator):
    """Overlap of segmenters' lungs with the reference before and after translation, for each architecture and on average."""

    Config: ClassVar[type] = SegmentationConfig
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"lung_mask"})
    min_images: ClassVar[int] = 1

    @classmethod
    def learns(cls, params: Any) -> str:
        """Lung masks, unless the user brings all segmenters."""
        return "" if set(params.own) == set(params.archs) else "lung_mask"

    @classmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        """The average over architectures first, then each architecture; what concerns real images only is `Metric.shared`."""
        suffix, name = definition(params)
        found: list[Metric] = []
        for part, end in (("", ""), *((ARCHS[arch].title, f"/{arch}") for arch in params.archs)):
            main = not part
            found += [
                Metric(f"miou{suffix}{end}", name, "higher", "%", 2, primary=main, part=part),
                Metric(f"sensitivity{suffix}{end}", "Lung sensitivity", "higher", "%", 2, part=part),
                Metric(f"miou_delta{suffix}{end}", f"{name} delta", "higher", "pp", 2, primary=main, part=part),
                Metric(f"dice{suffix}{end}", "Lung Dice", "higher", "%", 2, part=part),
                Metric(f"hd95{end}", "HD95 (of diagonal)", "lower", "%", 2, part=part),
            ]
        for part, end in ((AVERAGE, ""), *((ARCHS[arch].title, f"/{arch}") for arch in params.archs)):
            found += [
                Metric(f"opacity_real{end}", "IoU, real opacity images", "none", "%", 2, part=part, shared=True),
                Metric(f"clear_real{end}", "IoU, clear images", "none", "%", 2, part=part, shared=True),
                Metric(f"opacity_effect{end}", "Opacity effect", "none", "pp", 2, part=part, shared=True),
                Metric(f"density_effect{end}", DENSITY, "none", "pp", 2, part=part, shared=True),
            ]
        return tuple(found)

    @classmethod
    def missing_assets(cls, params: Any, assets: tuple[Path, ...]) -> list[str]:
        """Weight files that are not there, or hold another architecture."""
        asked = [(arch, path, True) for arch, path in params.own.items()]
        asked += [(kind, path, False) for kind, path in params.encoders.items()]
        return [line for name, path, full in asked if (line := problem(name, path, full, assets))]

    @classmethod
    def slots(cls, params: Any, assets: tuple[Path, ...]) -> tuple[Slot, ...]:
        """A whole segmenter for each architecture, and encoders to start from."""
        own, encoders = params.own, params.encoders
        whole = [
            Slot(f"{FLAG}{arch}=FILE", f"a {ARCHS[arch].title} used as it is (state dict of one class, images in [-1, 1])",
                 own.get(arch, ""), locate(own[arch], assets) if arch in own else None)
            for arch in params.archs
        ]  # fmt: skip
        starts = [
            Slot(f"{ENCODER_FLAG}{kind}=FILE", f"what the {kind} encoders start from (torchvision, timm or smp keys)",
                 encoders.get(kind, ""), locate(encoders[kind], assets) if kind in encoders else None)
            for kind in ENCODERS
        ]  # fmt: skip
        return (*whole, *starts)

    @classmethod
    def files(cls, params: Any, assets: tuple[Path, ...]) -> tuple[Path, ...]:
        """The user's weight files."""
        found = (locate(path, assets) for path in (*params.own.values(), *params.encoders.values()))
        return tuple(path for path in found if path is not None)

    @classmethod
    def parts(cls, params: Any) -> tuple[str, ...]:
        """Version of the library, of the training where anything is trained, and of what a pooled score is for one image."""
        pooled = ("values by image have the pooled score as their mean",) if params.definition == "pooled" else ()
        return (*versions(cls.learns(params) != ""), *pooled)

    def prepare(self, job: Job) -> None:
        """Train every segmenter and let it look at the real images."""
        ensemble = SegmenterEnsemble(job, self.version)
        chosen = _Chosen(job, ensemble.masked)
        for arch in job.params.archs if chosen.problem(ensemble) == "" else ():
            for ready in ensemble.ready(arch):
                _real(job, arch, ready, chosen, self.version)

    def score(self, job: ScoreJob) -> dict[str, Score]:
        """Segment translated images, and compare with what was found before."""
        ensemble = SegmenterEnsemble(job, self.version)
        chosen = _Chosen(job, ensemble.masked)
        why = chosen.problem(ensemble)
        if why:
            return {metric.key: Score(None, 0, note=why) for metric in self.metrics(job.params)}
        views: dict[str, dict[str, Found]] = {}
        for arch in job.params.archs:
            parts: dict[str, list[tuple[IntArray, Found]]] = {"before": [], "after": [], "clear": []}
            for ready in ensemble.ready(arch):
                real = _real(job, arch, ready, chosen, self.version)
                for view, found in real.items():
                    parts[view].append(found)
                parts["after"].append(_after(job, ready, real["before"]))
            views[arch] = {view: _join(found) for view, found in parts.items()}
        draw(job.source, job.translated, _cases(job, chosen, views), job.scratch / "segmentation.png")
        images = chosen.images(job)
        seen = {ARCHS[arch].title: view["after"].masks for arch, view in views.items()}
        keep(seen, images.ids, job.source.size, job.scratch / LUNGS)
        return Scores(job, images, views, "; ".join((ensemble.story(), *chosen.notes))).all()


class _Chosen:
    """Which images of a test set are segmented.

    Attributes:
        rows: the opacity images with lung (all images with lung where there is no opacity image).
        clear: rows of what they are compared with, on plane `plane`: themselves on ``counterpart``, else the clear images.
        notes: how masks are compared, what was left out, and why.
    """

    def __init__(self, job: Job, masked: IntArray) -> None:
        domains = np.array(job.source.domains, dtype=object)
        self.opacity = bool((domains == OPACITY).any())
        asked = np.flatnonzero(domains == OPACITY) if self.opacity else np.arange(len(domains))
        self.rows: IntArray = asked[masked[asked] == LUNG]
        self.paired = "counterpart" in job.source.planes
        self.plane = "counterpart" if self.paired else "image"
        clear = self.rows if self.paired else np.flatnonzero((domains == CLEAR) & (masked == LUNG))
        self.clear: IntArray = clear if self.opacity else clear[:0]
        self.notes = [f"masks compared at {job.source.size} px, padding left out"]
        if not self.opacity:
            self.notes.append("no opacity images in this test set: all images are scored")
        for state, why in ((UNMASKED, "no lung mask"), (NO_LUNG, "no lung in their mask")):
            if n := int((masked[asked] == state).sum()):
                self.notes.append(f"{n} of {len(asked)} images left out: {why}")

    def images(self, job: Job) -> Images:
        """What `Scores` needs to know of them."""
        ids, patients = job.source.ids, job.source.patients
        return Images(
            [ids[row] for row in self.rows], [patients[row] for row in self.rows], [ids[row] for row in self.clear],
            [patients[row] for row in self.clear], self.opacity, self.paired, _density(job, self.rows),
        )  # fmt: skip

    def problem(self, ensemble: SegmenterEnsemble) -> str:
        """Why nothing can be scored, or an empty text."""
        if not len(self.rows):
            return NOTHING
        return ONE_PATIENT if ensemble.trained and not ensemble.trainings else ""


def _real(
    job: Job, arch: str, ready: Ready, chosen: _Chosen, version: int
) -> dict[str, tuple[IntArray, Found]]:
    """``before`` and ``clear`` -> rows and what was found in real images; computed once, whatever is scored with it."""
    out = {}
    for view, rows, plane in (("before", chosen.rows, "image"), ("clear", chosen.clear, chosen.plane)):
        mine = np.intersect1d(rows, ready.rows)
        key = {
            "version": version, "model": ready.id, "images": job.source.fingerprint, "plane": plane, "rows": mine.tolist(),
            "postprocess": job.params.postprocess,
        }  # fmt: skip
        arrays = job.fits.arrays(f"lungs-{arch}", key, lambda p=plane, r=mine: vars(_look(job, ready, job.source, p, r)))  # type: ignore[misc]
        out[view] = (mine, Found(**arrays))
    return out


def _after(job: ScoreJob, ready: Ready, before: tuple[IntArray, Found]) -> tuple[IntArray, Found]:
    """Rows and what was found in translated images. What the translator left as it was is not looked at again."""
    rows, known = before
    changed = np.array([k for k, row in enumerate(rows) if _differs(job, row)], dtype=np.int64)
    fresh = _look(job, ready, job.translated, "image", rows[changed])
    out = {name: values.copy() for name, values in vars(known).items()}
    for name, values in vars(fresh).items():
        out[name][changed] = values
    return rows, Found(**out)


def _differs(job: ScoreJob, row: int) -> bool:
    return not np.array_equal(job.source.bytes([row]), job.translated.bytes([row]))


def _density(job: Job, rows: IntArray) -> FloatArray:
    """Mean grey level of untranslated images inside the reference lung: the denser a lung, the brighter."""
    found = np.zeros(len(rows))
    for k, row in enumerate(rows):
        planes = job.source.pixels([row]), job.source.raw([row], "lung_mask")
        image, codes = (unpadded(job.source, row, plane[0]) for plane in planes)
        found[k] = image[codes == MASK_LUNG].mean()
    return found


def _look(job: Job, ready: Ready, images: ImageSet, plane: str, rows: IntArray) -> Found:
    """Segment some rows of a set and compare with the source's reference."""
    parts = [_look_at(job, ready, images, plane, rows[i : i + _CHUNK]) for i in range(0, max(1, len(rows)), _CHUNK)]
    return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def _look_at(job: Job, ready: Ready, images: ImageSet, plane: str, rows: IntArray) -> Found:
    found = segment(ready.segmenter, images.bytes(rows, plane), job.device)
    if job.params.postprocess:
        found = np.stack([two_lungs(mask) for mask in found]) if len(found) else found
    counts, distance, empty = np.zeros((len(rows), 4), np.int64), np.zeros(len(rows)), np.zeros(len(rows), np.bool_)
    for k, (row, codes) in enumerate(zip(rows, job.source.raw(rows, "lung_mask"), strict=True)):
        reference = unpadded(job.source, row, codes)
        mask, lung, counted = unpadded(job.source, row, found[k]), reference == MASK_LUNG, reference != MASK_IGNORE
        counts[k], distance[k] = confusion(mask, lung, counted), hd95(mask, lung, counted)
        empty[k] = not (mask & counted).any()
    return Found(np.packbits(found, axis=-1), counts, distance, empty)


def _join(parts: Sequence[tuple[IntArray, Found]]) -> Found:
    """Found by several segmenters in their own images -> all of them in the order of their rows."""
    order = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
    names = vars(parts[0][1])
    return Found(*(np.concatenate([getattr(found, name) for _, found in parts])[order] for name in names))


def _cases(job: ScoreJob, chosen: _Chosen, views: Mapping[str, Mapping[str, Found]]) -> list[Case]:
    """The first images in order, with what each segmenter found before and after."""
    size = job.source.size
    return [
        Case(
            int(row),
            {
                ARCHS[arch].title: [
                    (found.mask(k, size), float(iou(found.counts[k]))) for found in (view["before"], view["after"])
                ]
                for arch, view in views.items()
            },
        )
        for k, row in enumerate(chosen.rows[: job.params.cases])
    ]
