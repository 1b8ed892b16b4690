"""Lung segmentation: is a lung easier to find after translation? Table 1 of the paper.

Opacities hide lung: a segmenter misses what lies under them. Segmenters that never saw a translated image find the lungs of
real opacity images before and after translation, and the same frozen segmenter is used for both. "Do nothing" stands at a
change of 0. That opacity is what makes a segmenter fail is not taken for granted: the same segmenters' results on clear
counterparts (or, where there are none, on clear images) stand beside it.

The headline is the reference's: intersection over union of the lung (left or right) of each image, then its mean over
patients. Undecided pixels and padding count nowhere; images without a lung pixel in their reference are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bench.contracts import Evaluator, Job, Metric, Score, ScoreJob
from bench.data.contract import CLEAR, MASK_IGNORE, MASK_LUNG, OPACITY
from bench.data.imageset import ImageSet
from bench.data.sampling import Augment
from bench.errors import UsageError, unknown
from bench.registry import register_evaluator
from evaluators.overlap import (
    Overlap,
    confusion,
    dice,
    difference,
    estimate,
    hd95,
    iou,
    iou_two_classes,
    per_image,
    sensitivity,
    two_lungs,
)
from evaluators.segmentation_figure import Case, draw
from evaluators.segmentation_models import Laboratory, Ready, inside
from evaluators.segmenter_files import entries, locate, problem
from evaluators.segmenters import ARCHS, ENCODERS, Distort, segment
from evaluators.statistics import N_BOOT, FloatArray, IntArray, mean_interval

#: Images whose predictions are in memory at once.
_CHUNK = 128
#: What `recipes` may say of an architecture.
_RECIPE = {"iterations": int, "batch_size": int, "lr": float}
AVERAGE = "Average"
NO_LUNG = "no image of this test set has a lung mask that is not empty"
ONE_PATIENT = "nothing to train segmenters on: no training image has a lung mask, and cross-fitting needs two patients"


@dataclass(frozen=True)
class SegmentationConfig:
    """Parameters of `Segmentation`. Defaults train from scratch as section C.4 of the protocol has it.

    Attributes:
        archs: architectures: ``unet``, ``pspnet``, ``cenet``, ``vgg``.
        iterations: training steps of each.
        batch_size: images a step.
        lr: greatest learning rate, encoder from scratch.
        lr_pretrained: likewise where the encoder starts from a file.
        weight_decay: of AdamW.
        warmup: share of the steps in which the rate rises.
        beta2: decay of AdamW's mean of squared gradients; 0.999 averages over more steps than a short training has.
        recipes: ``ARCH.iterations=N``, ``ARCH.batch_size=N`` and ``ARCH.lr=X`` for single architectures.
        precision: of the training, ``fp32`` or ``bf16``; predictions are always fp32.
        channels_last: layout in training; faster on some machines.
        rotation: greatest rotation in degrees.
        min_crop: least side of the random square crop, as a share of the image (so objects appear up to 1 / min_crop larger).
        brightness, contrast: greatest changes of grey values; see `Augment`.
        gamma: greatest exponent of grey values, and the inverse of the least; 1 is off.
        expand: greatest width of a black margin around training images before they are cropped, as a share of their side: lungs
            appear smaller, too.
        flip: mirror every second training image. Off: the heart has its side, and where a reference leaves it out the left
            lung's outline is learnt from its place. Both lungs are one class, so it can be tried where images are few.
        folds: of cross-fitting, where no training image has a lung mask.
        model_seed: of weights, order of images, augmentation and folds.
        weights: ``ARCH=PATH``: segmenters of the user's own, used as they are.
        encoder_weights: ``resnet34=PATH`` and ``vgg16_bn=PATH``: what encoders start from.
        definition: ``image`` (mean over images) or ``pooled`` (all pixels of the test set together).
        classes: ``lung``, or ``both`` for the mean of lung and background.
        postprocess: keep only the two largest components of a prediction (of at least 1 % of the image) and fill their holes.
        n_boot: bootstrap resamples over patients behind each interval.
        cases: rows of the figure.
    """

    archs: tuple[str, ...] = tuple(ARCHS)
    iterations: int = 15_000
    batch_size: int = 8
    lr: float = 1e-3
    lr_pretrained: float = 3e-4
    weight_decay: float = 1e-4
    warmup: float = 0.03
    beta2: float = 0.999
    recipes: tuple[str, ...] = ()
    precision: str = "fp32"
    channels_last: bool = False
    rotation: float = 15.0
    min_crop: float = 0.8
    brightness: float = 0.1
    contrast: float = 0.3
    gamma: float = 1.5
    expand: float = 0.1
    flip: bool = False
    folds: int = 5
    model_seed: int = 0
    weights: tuple[str, ...] = ()
    encoder_weights: tuple[str, ...] = ()
    definition: str = "image"
    classes: str = "lung"
    postprocess: bool = False
    n_boot: int = N_BOOT
    cases: int = 4

    def __post_init__(self) -> None:
        for arch in self.archs:
            if arch not in ARCHS:
                raise unknown("segmenter", arch, ARCHS)
        if not self.archs or len(set(self.archs)) < len(self.archs):
            raise UsageError("segmentation: archs must name at least one segmenter, each once.")
        choices = {"definition": ("image", "pooled"), "classes": ("lung", "both"), "precision": ("fp32", "bf16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"segmentation: {name} '{getattr(self, name)}' is none of {', '.join(allowed)}.")
        if self.folds < 2 or self.n_boot < 1 or self.cases < 1 or not 0 <= self.warmup <= 1 or not 0 < self.beta2 < 1:
            raise UsageError("segmentation: folds >= 2, n_boot >= 1, cases >= 1, warmup in [0, 1], beta2 in (0, 1).")
        for arch in self.archs:
            recipe = self.recipe(arch)
            if min(recipe["iterations"], recipe["batch_size"]) < 1 or recipe["lr"] < 0 or min(self.lr, self.lr_pretrained) <= 0:
                raise UsageError(f"segmentation: iterations and batch_size of {arch} must be >= 1, learning rates above 0.")
        _ = self.augment, self.distort, self.own, self.encoders  # these raise, too

    @cached_property
    def augment(self) -> Augment:
        """Augmentation of training images."""
        return Augment(self.min_crop, self.rotation, self.brightness, self.contrast)

    @cached_property
    def distort(self) -> Distort:
        """The rest of it."""
        return Distort(self.expand, self.gamma, self.flip)

    @cached_property
    def own(self) -> dict[str, str]:
        """Architecture -> file of the user's own segmenter, as given; in the order of `archs`."""
        found = entries(self.weights, tuple(ARCHS), "weights")
        return {arch: found[arch] for arch in self.archs if arch in found}

    @cached_property
    def encoders(self) -> dict[str, str]:
        """Encoder -> file to start from, as given."""
        return entries(self.encoder_weights, ENCODERS, "encoder_weights")

    def recipe(self, arch: str) -> dict[str, Any]:
        """``iterations``, ``batch_size`` and ``lr`` (0: not set) of an architecture."""
        found: dict[str, Any] = {"iterations": self.iterations, "batch_size": self.batch_size, "lr": 0.0}
        for text in self.recipes:
            where, _, value = text.partition("=")
            name, _, key = where.partition(".")
            if name not in ARCHS or key not in _RECIPE:
                raise UsageError(f"segmentation: recipes '{text}': expected ARCH.KEY=VALUE, KEY one of {', '.join(_RECIPE)}.")
            try:
                parsed = _RECIPE[key](value)
            except ValueError:
                raise UsageError(f"segmentation: recipes '{text}': '{value}' is not a number.") from None
            if name == arch:
                found[key] = parsed
        return found


@dataclass(frozen=True)
class Found:
    """What a segmenter found in n images.

    Attributes:
        masks: n x S x ceil(S / 8), packed bits.
        counts: n x 4, see `confusion`.
        hd95: (n,), percent of the diagonal.
        empty: (n,), whether nothing was found at all.
    """

    masks: npt.NDArray[np.uint8]
    counts: IntArray
    hd95: FloatArray
    empty: npt.NDArray[np.bool_]

    def mask(self, index: int, size: int) -> npt.NDArray[np.bool_]:
        """One prediction, S x S."""
        return np.unpackbits(self.masks[index], axis=-1, count=size).astype(np.bool_)


@register_evaluator("segmentation")
class Segmentation(Evaluator):
    """Overlap of segmenters' lungs with the reference before and after translation, for each architecture and on average."""

    Config: ClassVar[type] = SegmentationConfig
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"lung_mask"})
    min_images: ClassVar[int] = 1

    @classmethod
    def learns(cls, params: Any) -> str:
        """Lung masks, unless the user brings all segmenters."""
        return "" if set(params.own) == set(params.archs) else "lung_mask"

    @classmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        """The average over architectures first, then each architecture; what concerns real images only is `Metric.shared`."""
        suffix, name = _definition(params)
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
                Metric(f"clear_real{end}", "IoU, their clear counterparts", "none", "%", 2, part=part, shared=True),
                Metric(f"opacity_effect{end}", "Opacity effect", "none", "pp", 2, part=part, shared=True),
            ]
        return tuple(found)

    @classmethod
    def missing_assets(cls, params: Any, assets: tuple[Path, ...]) -> list[str]:
        """Weight files that are not there, or hold another architecture."""
        asked = [(arch, path, True) for arch, path in params.own.items()]
        asked += [(kind, path, False) for kind, path in params.encoders.items()]
        return [line for name, path, full in asked if (line := problem(name, path, full, assets))]

    @classmethod
    def files(cls, params: Any, assets: tuple[Path, ...]) -> tuple[Path, ...]:
        """The user's weight files."""
        found = (locate(path, assets) for path in (*params.own.values(), *params.encoders.values()))
        return tuple(path for path in found if path is not None)

    def prepare(self, job: Job) -> None:
        """Train every segmenter and let it look at the real images."""
        laboratory = Laboratory(job, self.version)
        chosen = _Chosen(job, laboratory.rows)
        for arch in job.params.archs if chosen.problem(laboratory) == "" else ():
            for ready in laboratory.ready(arch):
                _real(job, arch, ready, chosen, self.version)

    def score(self, job: ScoreJob) -> dict[str, Score]:
        """Segment translated images, and compare with what was found before."""
        laboratory = Laboratory(job, self.version)
        chosen = _Chosen(job, laboratory.rows)
        why = chosen.problem(laboratory)
        if why:
            return {metric.key: Score(None, 0, note=why) for metric in self.metrics(job.params)}
        views: dict[str, dict[str, Found]] = {}
        for arch in job.params.archs:
            parts: dict[str, list[tuple[IntArray, Found]]] = {"before": [], "after": [], "clear": []}
            for ready in laboratory.ready(arch):
                for view, found in _real(job, arch, ready, chosen, self.version).items():
                    parts[view].append(found)
                rows = np.intersect1d(chosen.rows, ready.rows)
                parts["after"].append((rows, _look(job, ready, job.translated, "image", rows)))
            views[arch] = {view: _join(found) for view, found in parts.items() if found}
        draw(job.source, job.translated, _cases(job, chosen, views), job.scratch / "segmentation.png")
        return _Scores(job, chosen, views, laboratory.story()).all()


def _definition(params: SegmentationConfig) -> tuple[str, str]:
    """Suffix of keys and name of the headline: another definition is another metric and must not share a column."""
    pooled, both = params.definition == "pooled", params.classes == "both"
    name = "mIoU of lung and background" if both else "Lung mIoU"
    return ("_both" if both else "") + ("_pooled" if pooled else ""), name + (", pooled" if pooled else "")


class _Chosen:
    """Which images of a test set are segmented.

    Attributes:
        rows: the opacity images with lung (all images with lung where there is no opacity image).
        clear: rows of what they are compared with, on plane `plane`: themselves on ``counterpart``, else the clear images.
        notes: what was left out, and why.
    """

    def __init__(self, job: Job, with_lung: IntArray) -> None:
        domains = np.array(job.source.domains, dtype=object)
        opacity = with_lung[domains[with_lung] == OPACITY]
        self.notes: list[str] = []
        asked = int((domains == OPACITY).sum())
        if not asked:
            self.notes.append("no opacity images in this test set: all images are scored")
            opacity, asked = with_lung, len(domains)
        self.rows: IntArray = opacity
        self.opacity = bool((domains == OPACITY).any())
        self.paired = "counterpart" in job.source.planes
        self.plane = "counterpart" if self.paired else "image"
        self.clear: IntArray = self.rows if self.paired else with_lung[domains[with_lung] == CLEAR]
        if not self.opacity:
            self.clear = self.rows[:0]
        if len(self.rows) < asked:
            self.notes.append(f"{asked - len(self.rows)} of {asked} images left out: no lung in their mask")

    def problem(self, laboratory: Laboratory) -> str:
        """Why nothing can be scored, or an empty text."""
        if not len(self.rows):
            return NO_LUNG
        return ONE_PATIENT if laboratory.trained and not laboratory.trainings else ""


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
        reference = inside(job.source, row, codes)
        mask, lung, counted = inside(job.source, row, found[k]), reference == MASK_LUNG, reference != MASK_IGNORE
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


class _Scores:
    """Turns counts into scores."""

    def __init__(self, job: ScoreJob, chosen: _Chosen, views: Mapping[str, Mapping[str, Found]], story: str) -> None:
        self.job, self.chosen, self.views, self.params = job, chosen, views, job.params
        self.ids = [job.source.ids[row] for row in chosen.rows]
        self.patients = [job.source.patients[row] for row in chosen.rows]
        self.note = "; ".join((story, *chosen.notes))

    def all(self) -> dict[str, Score]:
        """Every metric."""
        archs = tuple(self.views)
        scores: dict[str, Score] = {}
        for chosen, end in ((archs, ""), *(((arch,), f"/{arch}") for arch in archs)):
            scores |= self._overlaps(chosen, end) | {f"hd95{end}": self._distance(chosen)} | self._effect(chosen, end)
        return scores

    def _counts(self, archs: Sequence[str], view: str) -> IntArray:
        """n x architectures x 4."""
        return np.stack([self.views[arch][view].counts for arch in archs], axis=1)

    def _overlaps(self, archs: Sequence[str], end: str) -> dict[str, Score]:
        suffix, _ = _definition(self.params)
        headline: Overlap = iou_two_classes if self.params.classes == "both" else iou
        after, before = self._counts(archs, "after"), self._counts(archs, "before")
        asked: list[tuple[str, Overlap, IntArray | None]] = [
            ("miou", headline, None), ("sensitivity", sensitivity, None), ("miou_delta", headline, before), ("dice", dice, None),
        ]  # fmt: skip
        return {f"{key}{suffix}{end}": self._overlap(after, of, minus) for key, of, minus in asked}

    def _overlap(self, after: IntArray, of: Overlap, before: IntArray | None) -> Score:
        pooled = self.params.definition == "pooled"
        found = estimate(after, of, self.patients, self.job.seed, self.params.n_boot, pooled, before)
        return self._percent(found, per_image(after, of, before), 100)

    def _distance(self, archs: Sequence[str]) -> Score:
        values = np.mean([self.views[arch]["after"].hd95 for arch in archs], axis=0)
        empty = sum(int(self.views[arch]["after"].empty.sum()) for arch in archs)
        found = mean_interval(values, self.patients, self.job.seed, self.params.n_boot)
        return self._percent(found, values, 1, f"{empty} empty predictions count as 100 %" if empty else "")

    def _percent(self, found: Any, values: FloatArray, scale: float, note: str = "") -> Score:
        ci = (scale * found.ci[0], scale * found.ci[1]) if found.ci else None
        own = {image: scale * float(value) for image, value in zip(self.ids, values, strict=True)}
        return Score(scale * found.value, len(values), ci=ci, note="; ".join(n for n in (self.note, note) if n), per_image=own)

    def _effect(self, archs: Sequence[str], end: str) -> dict[str, Score]:
        """What opacity does to the segmenters on real images: per image, lung, whatever the headline's definition."""
        keys = [f"{key}{end}" for key in ("opacity_real", "clear_real", "opacity_effect")]
        if not self.chosen.opacity or not len(self.chosen.clear):
            why = "no clear images with a lung mask" if self.chosen.opacity else "no opacity images in this test set"
            return {key: Score(None, 0, note=why) for key in keys}
        ids = [self.job.source.ids[row] for row in self.chosen.clear]
        patients = [self.job.source.patients[row] for row in self.chosen.clear]
        opacity, clear = (100 * per_image(self._counts(archs, view), iou) for view in ("before", "clear"))
        seed, n_boot, pairs = self.job.seed, self.params.n_boot, self.chosen.paired
        gap = (
            mean_interval(opacity - clear, self.patients, seed, n_boot) if pairs
            else difference(opacity, self.patients, clear, patients, seed, n_boot)
        )  # fmt: skip
        against = "clear: the true counterparts of the same images" if pairs else "clear: other images, not counterparts"
        found = []
        for whose, who, values in ((self.ids, self.patients, opacity), (ids, patients, clear)):
            mean = mean_interval(values, who, seed, n_boot)
            each = dict(zip(whose, values.tolist(), strict=True))
            found.append(Score(mean.value, len(values), ci=mean.ci, note=f"{self.note}; {against}", per_image=each))
        own = dict(zip(ids, (opacity - clear).tolist(), strict=True)) if pairs else None
        found.append(Score(gap.value, len(opacity), ci=gap.ci, note=f"{self.note}; {against}", per_image=own))
        return dict(zip(keys, found, strict=True))
