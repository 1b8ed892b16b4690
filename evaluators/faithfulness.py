"""Faithfulness: was the opacity removed, and nothing else? Needs images whose clear counterpart is known.

Distribution metrics cannot see whether the anatomy under an opacity was restored or invented. Here each translated image
is compared with the truth, inside the opacity and away from it, and with the untranslated input. "Do nothing" stands at 0
in both headline numbers, so a method has to move `mae_in_change` below 0 without moving `change_out` up.

All images are brought to 8 bits first: translations are stored so, and a deeper truth would cost every method a quarter of
a grey level that it cannot help. Only the image inside its padding counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from bench.contracts import Evaluator, Metric, Score, ScoreJob
from bench.data.contract import CLEAR, OPACITY
from bench.registry import register_evaluator
from evaluators.padding import unpadded
from evaluators.statistics import N_BOOT, mean_interval, patient_means, ratio_interval

FloatImage = npt.NDArray[np.float32]
BoolImage = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

#: Opacity strength above which a pixel is inside: fainter rims are hardly visible and would dilute the error.
INSIDE = 0.1
#: Opacity strength above which a pixel is touched at all: what lies beyond may not change, so the rim must not be there.
TOUCHED = 0.02
#: The touched region is dilated by this share of the image's side (8 pixels at 512) before the rest counts as outside.
MARGIN = 1 / 64
#: Variance of rounding to 8 bits. A smaller mean squared error cannot be told from rounding: PSNR ends at 58.9 dB.
ROUNDING = (1 / 255) ** 2 / 12
#: The published SSIM window (Wang et al. 2004).
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5

NO_OPACITY = "no opacity images in this test set"
NO_CLEAR = "no clear images in this test set"
NO_MASK = "no activation mask"


@dataclass(frozen=True)
class FaithfulnessConfig:
    """Parameters of `Faithfulness`.

    Attributes:
        n_boot: bootstrap resamples over patients behind each interval.
    """

    n_boot: int = N_BOOT


@register_evaluator("faithfulness")
class Faithfulness(Evaluator):
    """Error against the true counterpart inside and outside the opacity, and change where none is due."""

    Config: ClassVar[type] = FaithfulnessConfig
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"counterpart", "opacity"})
    min_images: ClassVar[int] = 1

    @classmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        """Headline first; errors and changes are fractions of the grey range unless a unit is given."""
        return (
            Metric("mae_in_change", "Error in opacity vs input", "lower", "%", 1, primary=True),
            Metric("change_out", "Change outside opacity", "lower", digits=4, primary=True),
            Metric("change_clear", "Change of clear images", "lower", digits=4),
            Metric("psnr", "PSNR", "higher", "dB", 2),
            Metric("ssim", "SSIM", "higher", digits=4),
            Metric("mae", "MAE", "lower", digits=4),
            Metric("mae_in", "MAE in opacity", "lower", digits=4),
            Metric("mae_out", "MAE outside", "lower", digits=4),
            Metric("mask_iou", "Mask IoU", "higher", digits=3),
            Metric("mask_auprc", "Mask AUPRC", "higher", digits=3),
        )

    def score(self, job: ScoreJob) -> dict[str, Score]:
        """Measure every image, then average over patients."""
        domains = job.source.domains
        opacity = _measure_opacity(job, [i for i, d in enumerate(domains) if d == OPACITY])
        clear = _measure_clear(job, [i for i, d in enumerate(domains) if d == CLEAR])
        keys = [metric.key for metric in self.metrics(job.params) if metric.key not in ("mae_in_change", "change_clear")]
        scores = {key: _score(job, opacity.get(key, {}), self._why_none(job, key, opacity)) for key in keys}
        scores["mae_in_change"] = _relative_change(job, opacity)
        scores["change_clear"] = _score(job, clear["change_clear"], NO_CLEAR)
        if not opacity:
            scores["psnr"] = _score(job, clear["psnr"], NO_CLEAR, "clear images against themselves: should be unchanged")
        return scores

    @staticmethod
    def _why_none(job: ScoreJob, key: str, opacity: Mapping[str, Any]) -> str:
        """Reason for a metric that no image has a value of."""
        if not opacity:
            return NO_OPACITY
        if key.startswith("mask_") and "mask" not in job.translated.planes:
            return NO_MASK
        if key == "ssim":
            return f"images smaller than the {SSIM_WINDOW} x {SSIM_WINDOW} window"
        return "no pixel in this region of any image"


Values = dict[str, dict[int, float]]


def _measure_opacity(job: ScoreJob, rows: Sequence[int]) -> Values:
    """Metric -> row -> value over opacity images; a value that does not exist for an image is left out."""
    values: Values = {}
    for row in rows:
        output, before, truth = (
            unpadded(job.source, row, images.bytes([row], plane)[0])
            for images, plane in ((job.translated, "image"), (job.source, "image"), (job.source, "counterpart"))
        )
        strength = unpadded(job.source, row, job.source.pixels([row], "opacity")[0])
        inside, outside = strength > INSIDE, outside_of(strength, job.source.size)
        found = {
            "psnr": psnr(output, truth),
            "ssim": ssim(output, truth, job.device),
            "mae": difference(output, truth),
            "mae_in": difference(output, truth, inside),
            "mae_in_before": difference(before, truth, inside),
            "mae_out": difference(output, truth, outside),
            "change_out": difference(output, before, outside),
        }
        if "mask" in job.translated.planes:
            from sklearn.metrics import average_precision_score

            mask = unpadded(job.source, row, job.translated.raw([row], "mask")[0])
            found["mask_iou"] = iou(mask > np.iinfo(mask.dtype).max // 2, inside)
            found["mask_auprc"] = float(average_precision_score(inside.ravel(), mask.ravel())) if inside.any() else math.nan
        for key, value in found.items():
            if math.isfinite(value):
                values.setdefault(key, {})[row] = value
    return values


def _measure_clear(job: ScoreJob, rows: Sequence[int]) -> Values:
    """As `_measure_opacity` for clear images, which are to stay as they are: truth and input are the same."""
    values: Values = {"change_clear": {}, "psnr": {}}
    for row in rows:
        output, before = (unpadded(job.source, row, images.bytes([row])[0]) for images in (job.translated, job.source))
        values["change_clear"][row] = difference(output, before)
        values["psnr"][row] = psnr(output, before)
    return values


def _score(job: ScoreJob, values: Mapping[int, float], why_none: str, note: str = "") -> Score:
    """Mean over patients with its interval; `n` counts images."""
    if not values:
        return Score(None, 0, note=why_none)
    ids, patients = job.source.ids, job.source.patients
    estimate = mean_interval(list(values.values()), [patients[i] for i in values], job.seed, job.params.n_boot)
    per_image = {ids[i]: value for i, value in values.items()}
    return Score(estimate.value, len(values), ci=estimate.ci, note=note, per_image=per_image)


def _relative_change(job: ScoreJob, opacity: Values) -> Score:
    """Change of the error inside the opacity, in percent of the untranslated input's: -100 is perfect, 0 did nothing.

    Values by image are changes in percent of the input's mean error, the denominator of the headline, and not of the image's own:
    their mean over patients is the headline, so that tests and ranks order methods as it does.
    """
    after, before = opacity.get("mae_in", {}), opacity.get("mae_in_before", {})
    if not any(before.values()):
        return Score(None, 0, note="the input equals its counterpart inside the opacity" if before else NO_OPACITY)
    ids, patients = job.source.ids, [job.source.patients[i] for i in before]
    ratio = ratio_interval(list(after.values()), list(before.values()), patients, job.seed, job.params.n_boot)
    whole = float(patient_means(list(before.values()), patients).mean())
    return Score(
        100 * (ratio.value - 1),
        len(before),
        ci=(100 * (ratio.ci[0] - 1), 100 * (ratio.ci[1] - 1)) if ratio.ci else None,
        per_image={ids[i]: 100 * (after[i] - before[i]) / whole for i in before},
    )


def outside_of(strength: FloatImage, side: int) -> BoolImage:
    """Pixels further than the margin from anything the opacity touched.

    Args:
        strength: opacity map H x W in [0, 1].
        side: side of the square image in pixels, which the margin is a share of.
    """
    radius = max(1, round(side * MARGIN))
    from scipy import ndimage

    beyond: BoolImage = ndimage.maximum_filter(strength, size=2 * radius + 1, mode="nearest") <= TOUCHED
    return beyond


def difference(a: Bytes, b: Bytes, where: BoolImage | None = None) -> float:
    """Mean absolute difference of two 8-bit images as a fraction of the range; NaN where the region has no pixel."""
    gap = np.abs(a.astype(np.int16) - b.astype(np.int16))
    chosen = gap if where is None else gap[where]
    return float(chosen.mean()) / 255 if chosen.size else math.nan


def psnr(a: Bytes, b: Bytes) -> float:
    """Peak signal-to-noise ratio in dB, range 1, at most 58.9 (see `ROUNDING`)."""
    error = float(((a.astype(np.float64) - b) ** 2).mean()) / 255**2
    return 10 * math.log10(1 / max(error, ROUNDING))


def ssim(a: Bytes, b: Bytes, device: torch.device) -> float:
    """Structural similarity by torchmetrics: 11 x 11 Gaussian, sigma 1.5, range 1, mirrored borders.

    NaN for images smaller than the window.
    """
    if min(a.shape) < SSIM_WINDOW:
        return math.nan
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = (torch.from_numpy(np.ascontiguousarray(i)).to(device).float()[None, None] / 255 for i in (a, b))
    value = structural_similarity_index_measure(x, y, True, SSIM_SIGMA, SSIM_WINDOW, data_range=1.0)
    assert isinstance(value, torch.Tensor)  # a tuple only where the full map is asked for
    return value.item()


def iou(a: BoolImage, b: BoolImage) -> float:
    """Intersection over union; NaN where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else math.nan
