"""What segmenters found, as scores: the overlap before and after translation, and what opacity does to it on real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bench.contracts import Score, ScoreJob
from evaluators.overlap import (
    Overlap,
    dice,
    difference,
    estimate,
    iou,
    iou_two_classes,
    per_image,
    sensitivity,
    shares_of_pooled,
)
from evaluators.segmentation_config import SegmentationConfig
from evaluators.segmenters import ARCHS
from evaluators.statistics import Estimate, FloatArray, IntArray, mean_interval

#: Segmenters whose mean IoU on real clear images is below this see no lungs there: what they say of others means nothing.
FLOOR = 0.5
#: Density is compared between the outer thirds of at least so many images.
LEAST = 6


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


@dataclass(frozen=True)
class Images:
    """Which images were segmented.

    Attributes:
        ids, patients: of the n images that are translated.
        clear_ids, clear_patients: of the clear images they are compared with; of the images themselves where `paired`.
        opacity: whether the n images are of domain opacity.
        paired: the clear images are the true counterparts.
        density: (n,), mean grey level in [0, 1] of the untranslated images inside the reference lung.
    """

    ids: Sequence[str]
    patients: Sequence[str]
    clear_ids: Sequence[str]
    clear_patients: Sequence[str]
    opacity: bool
    paired: bool
    density: FloatArray


def definition(params: SegmentationConfig) -> tuple[str, str]:
    """Suffix of keys and name of the headline: another definition is another metric and must not share a column."""
    pooled, both = params.definition == "pooled", params.classes == "both"
    name = "mIoU of lung and background" if both else "Lung mIoU"
    return ("_both" if both else "") + ("_pooled" if pooled else ""), name + (", pooled" if pooled else "")


class Scores:
    """Turns counts into scores.

    Args:
        job: what is scored.
        images: which.
        views: architecture -> ``before``, ``after`` and ``clear`` -> what was found.
        note: where the segmenters come from and what was left out; part of every score's note.
    """

    def __init__(self, job: ScoreJob, images: Images, views: Mapping[str, Mapping[str, Found]], note: str) -> None:
        self.images, self.views, self.note, self.params = images, views, note, job.params
        self.seed, self.n_boot = job.seed, job.params.n_boot

    def all(self) -> dict[str, Score]:
        """Every metric."""
        archs = tuple(self.views)
        scores: dict[str, Score] = {}
        for some, end in ((archs, ""), *(((arch,), f"/{arch}") for arch in archs)):
            found = self._overlaps(some) | {"hd95": self._distance(some)} | self._effect(some)
            found["density_effect"] = self._dense(some)
            doubt = self._doubt(some)
            scores |= {f"{key}{end}": replace(score, doubt=doubt) for key, score in found.items()}
        return scores

    def _doubt(self, archs: Sequence[str]) -> str:
        """Why segmenters are not to be trusted here, or an empty text: each must find lungs where nothing hides them."""
        clear = len(self.images.clear_ids) > 0
        means = {arch: float(iou(self.views[arch]["clear" if clear else "before"].counts).mean()) for arch in archs}
        blind = [f"{100 * value:.0f} % ({ARCHS[arch].title})" for arch, value in means.items() if value < FLOOR]
        if not blind:
            return ""
        where = f"untranslated {'clear ' if clear else ''}images"
        return f"the segmenters hardly find lungs here: mean IoU {', '.join(blind)} in {where}, floor {100 * FLOOR:.0f} %"

    def _counts(self, archs: Sequence[str], view: str) -> IntArray:
        """n x architectures x 4."""
        return np.stack([self.views[arch][view].counts for arch in archs], axis=1)

    def _overlaps(self, archs: Sequence[str]) -> dict[str, Score]:
        suffix, _ = definition(self.params)
        headline: Overlap = iou_two_classes if self.params.classes == "both" else iou
        after, before = self._counts(archs, "after"), self._counts(archs, "before")
        asked: list[tuple[str, Overlap, IntArray | None]] = [
            ("miou", headline, None), ("sensitivity", sensitivity, None), ("miou_delta", headline, before), ("dice", dice, None),
        ]  # fmt: skip
        return {f"{key}{suffix}": self._overlap(after, of, minus) for key, of, minus in asked}

    def _overlap(self, after: IntArray, of: Overlap, before: IntArray | None) -> Score:
        patients, pooled = self.images.patients, self.params.definition == "pooled"
        found = estimate(after, of, patients, self.seed, self.n_boot, pooled, before)
        values = shares_of_pooled(after, of, patients, before) if pooled else per_image(after, of, before)
        return self._score(found, self.images.ids, values, scale=100)

    def _distance(self, archs: Sequence[str]) -> Score:
        values = np.mean([self.views[arch]["after"].hd95 for arch in archs], axis=0)
        empty = sum(int(self.views[arch]["after"].empty.sum()) for arch in archs)
        found = mean_interval(values, self.images.patients, self.seed, self.n_boot)
        return self._score(found, self.images.ids, values, f"{empty} empty predictions count as 100 %" if empty else "")

    def _score(self, found: Estimate, ids: Sequence[str], values: FloatArray, note: str = "", scale: float = 1) -> Score:
        ci = (scale * found.ci[0], scale * found.ci[1]) if found.ci else None
        own = {image: scale * float(value) for image, value in zip(ids, values, strict=True)}
        return Score(scale * found.value, len(values), ci=ci, note="; ".join(filter(None, (self.note, note))), per_image=own)

    def _effect(self, archs: Sequence[str]) -> dict[str, Score]:
        """What opacity does to the segmenters on real images: per image, lung, whatever the headline's definition."""
        images, keys = self.images, ("opacity_real", "clear_real", "opacity_effect")
        opacity = 100 * per_image(self._counts(archs, "before"), iou)
        if not images.opacity:
            return {key: Score(None, 0, note="no opacity images in this test set") for key in keys}
        seen = mean_interval(opacity, images.patients, self.seed, self.n_boot)
        if not images.clear_ids:
            none = Score(None, 0, note="no clear images with a lung mask")
            return dict(zip(keys, (self._score(seen, images.ids, opacity), none, none), strict=True))
        clear = 100 * per_image(self._counts(archs, "clear"), iou)
        what = "compared with the true counterparts of the same images" if images.paired else (
            "compared with clear images that are not their counterparts"
        )  # fmt: skip
        mean = mean_interval(clear, images.clear_patients, self.seed, self.n_boot)
        if images.paired:
            gap = mean_interval(opacity - clear, images.patients, self.seed, self.n_boot)
            effect = self._score(gap, images.ids, opacity - clear, what)
        else:
            gap = difference(opacity, images.patients, clear, images.clear_patients, self.seed, self.n_boot)
            effect = Score(gap.value, len(opacity), ci=gap.ci, note=f"{self.note}; {what}")
        found = (self._score(seen, images.ids, opacity, what), self._score(mean, images.clear_ids, clear, what), effect)
        return dict(zip(keys, found, strict=True))

    def _dense(self, archs: Sequence[str]) -> Score:
        """The same question asked of opacity images alone, so that it has an answer where no clear image has a mask."""
        images = self.images
        if not images.opacity or len(images.ids) < LEAST:
            why = f"fewer than {LEAST} images with lung" if images.opacity else "no opacity images in this test set"
            return Score(None, 0, note=why)
        values, order = 100 * per_image(self._counts(archs, "before"), iou), np.argsort(images.density, kind="stable")
        third = len(order) // 3
        thin, dense = order[:third], order[-third:]
        who = [[images.patients[k] for k in some] for some in (dense, thin)]
        gap = difference(values[dense], who[0], values[thin], who[1], self.seed, self.n_boot)
        note = "density is the mean grey level inside the reference lung, which exposure changes, too"
        return Score(gap.value, 2 * third, ci=gap.ci, note=f"{self.note}; {note}")
