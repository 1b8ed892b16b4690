"""From boxes to numbers: counts and areas, how good a detector is, at which confidence to count, blind controls, intervals.

A detection is a hit if it overlaps an opacity box by an IoU of at least one half. Detections are matched most confident first,
each with the box it overlaps most among those still free (as COCO does).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bench.data.contract import MASK_LUNG, Box
from evaluators.detectors import Detections
from evaluators.statistics import MIN_PATIENTS, FloatArray, IntArray, ends, patient_weights

Bytes = npt.NDArray[np.uint8]

#: Overlap from which a detection is a hit: the mAP50's, and the middle of the RSNA challenge's own (0.4 to 0.75).
IOU = 0.5
#: Confidences among which the one to count at is chosen.
CHOICES: FloatArray = np.arange(2, 96) / 100
#: Confidences of the count curve.
CURVE = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Images compared at once, and how exactly a control's strength is found (its logarithm: to a fifth of a percent).
_CHUNK, _EXACTNESS = 64, 2e-3


# -- counts and areas ------------------------------------------------------------------------------------------------------


def counts(found: Sequence[Detections], confidence: float) -> FloatArray:
    """Detections an image with at least this confidence, (n,)."""
    return np.array([(f.scores >= confidence).sum() for f in found], dtype=np.float64)


def box_area(found: Sequence[Detections], confidence: float, side: int) -> FloatArray:
    """Summed area of an image's detections in percent of the image, (n,). What two boxes share counts twice."""
    chosen = [f.boxes[f.scores >= confidence] for f in found]
    return np.array([100.0 * (b[:, 2] * b[:, 3]).sum(dtype=np.float64) / side**2 for b in chosen])


def lung_cover(found: Sequence[Detections], confidence: float, lungs: Bytes) -> FloatArray:
    """Percent of an image's lung that lies in any of its detections, (n,); NaN for images without a lung pixel.

    Args:
        found: of n images.
        confidence: least that counts.
        lungs: codes n x S x S; undecided pixels count neither way.
    """
    covered = []
    for one, codes in zip(found, lungs, strict=True):
        lung = codes == MASK_LUNG
        inside = np.zeros_like(lung)
        for x, y, width, height in one.boxes[one.scores >= confidence]:
            # A pixel is inside when its centre is.
            rows, columns = (slice(max(0, round(float(a))), max(0, round(float(a + b)))) for a, b in ((y, height), (x, width)))
            inside[rows, columns] = True
        covered.append(100.0 * (inside & lung).sum() / lung.sum() if lung.any() else np.nan)
    return np.array(covered, dtype=np.float64)


# -- how good a detector is ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """Detections of a set of images, most confident first, against the truth.

    Attributes:
        scores: (K,) confidence.
        hits: (K,) whether it hit a box.
        image: (K,) index of its image.
        boxes: (n,) true boxes of each image.
    """

    scores: FloatArray
    hits: npt.NDArray[np.bool_]
    image: IntArray
    boxes: IntArray


def hits(found: Detections, truth: Sequence[Box]) -> npt.NDArray[np.bool_]:
    """Which detections (k,) of an image hit one of its boxes (x, y, width, height); each box is hit once."""
    hit = np.zeros(len(found.scores), dtype=np.bool_)
    if not truth or not len(hit):
        return hit
    from torchvision.ops import box_iou

    overlap = box_iou(_corners(found.boxes), _corners(truth)).numpy()
    free = np.ones(len(truth), dtype=np.bool_)
    for k in np.argsort(-found.scores, kind="stable"):
        best = int(np.where(free, overlap[k], -1.0).argmax())
        if free[best] and overlap[k, best] >= IOU:
            hit[k], free[best] = True, False
    return hit


def _corners(boxes: npt.ArrayLike) -> torch.Tensor:
    found = torch.as_tensor(np.asarray(boxes, dtype=np.float64).reshape(-1, 4))
    return torch.cat([found[:, :2], found[:, :2] + found[:, 2:]], dim=1)


def pool_detections(found: Sequence[Detections], truths: Sequence[Sequence[Box]]) -> Ranked:
    """Match the detections of n images with their true boxes, and put them in one order."""
    scores = np.concatenate([np.zeros(0), *(f.scores for f in found)]).astype(np.float64)
    hit = np.concatenate([np.zeros(0, np.bool_), *(hits(f, t) for f, t in zip(found, truths, strict=True))])
    image = np.repeat(np.arange(len(found)), [len(f.scores) for f in found]).astype(np.int64)
    order = np.argsort(-scores, kind="stable")
    return Ranked(scores[order], hit[order], image[order], np.array([len(t) for t in truths], dtype=np.int64))


def average_precision(ranked: Ranked, weights: FloatArray | None = None) -> float:
    """Area under the interpolated precision-recall curve, over all its points (Everingham et al. 2010); NaN without true boxes.

    Detections of equal confidence enter together, so that no order among them matters.

    Args:
        ranked: of n images.
        weights: (n,) how often each image counts; once by default.
    """
    each = np.ones(len(ranked.boxes)) if weights is None else weights
    total = float(each @ ranked.boxes)
    if not total:
        return float("nan")
    if not len(ranked.scores):
        return 0.0
    weight = each[ranked.image]
    last = np.append(ranked.scores[1:] != ranked.scores[:-1], True)
    true, every = (weight * ranked.hits).cumsum()[last], weight.cumsum()[last]
    precision = np.divide(true, every, out=np.zeros_like(true), where=every > 0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(true / total, prepend=0.0) * envelope).sum())


def average_precision_interval(
    ranked: Ranked, patients: Sequence[str], seed: int, n_boot: int
) -> tuple[float, float] | None:
    """95 % percentile interval of `average_precision` over patients; None with fewer than `MIN_PATIENTS`."""
    names, group = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(names) < MIN_PATIENTS or n_boot < 1:
        return None
    rng = np.random.default_rng(seed)
    drawn = (patient_weights(rng, len(names), 1)[0, group].astype(np.float64) for _ in range(n_boot))
    values = np.array([average_precision(ranked, weights) for weights in drawn])
    values = values[np.isfinite(values)]  # a resample may hold no box
    return ends(values) if len(values) else None


def best_confidence(ranked: Ranked) -> tuple[float, float]:
    """The confidence of `CHOICES` with the highest F1 (the highest of those where several tie), and that F1; 0 where none hits."""
    every = np.searchsorted(-ranked.scores, -CHOICES, side="right")
    true = np.append(0, ranked.hits.cumsum())[every]
    f1 = 2 * true / np.maximum(every + ranked.boxes.sum(), 1)
    best = int(np.flatnonzero(f1 == f1.max())[-1])
    return float(CHOICES[best]), float(f1[best])


# -- controls: images that are worse without being clearer --------------------------------------------------------------------


def blurred(images: Bytes, sigma: float) -> Bytes:
    """Gaussian blur (sigma in pixels) of n x S x S images, 8 bits."""
    if sigma <= 0:
        return images.copy()
    from scipy import ndimage

    smooth = (ndimage.gaussian_filter(image.astype(np.float32), sigma, mode="nearest") for image in images)
    return _stack([np.clip(np.round(image), 0, 255).astype(np.uint8) for image in smooth], images)


def noised(images: Bytes, sigma: float, ids: Sequence[str], seed: int) -> Bytes:
    """Gaussian noise (sigma in shares of the range) on n x S x S images; what an image gets is a function of seed and its id."""
    if sigma <= 0:
        return images.copy()
    noisy = []
    for image, name in zip(images, ids, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = image + 255 * np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
        noisy.append(np.clip(np.round(values), 0, 255).astype(np.uint8))
    return _stack(noisy, images)


def _stack(images: list[Bytes], like: Bytes) -> Bytes:
    return np.stack(images) if images else like.copy()


def pooled_error(make: Callable[[IntArray], Bytes], images: Bytes) -> float:
    """Mean squared error over all pixels of n x S x S images, in shares of the range squared.

    Args:
        make: rows -> what those images are compared with; called with a few at a time.
        images: n x S x S, n >= 1.
    """
    total = 0
    for start in range(0, len(images), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(images)), dtype=np.int64)
        total += int((np.subtract(make(rows), images[rows], dtype=np.int32) ** 2).sum(dtype=np.int64))
    return total / images.size / 255**2


def decibel(error: float) -> float:
    """PSNR in dB of a mean squared error, range 1; infinite where there is none."""
    return -10 * math.log10(error) if error else math.inf


def matched_strength(
    make: Callable[[IntArray, float], Bytes], images: Bytes, target: float, most: float
) -> tuple[float, float]:
    """How strong a control must be to get as far from its input as a translation did, measured on the images it is made of.

    Errors are pooled before they become a PSNR. A mean of PSNRs would be that of the images the translation hardly changed, and
    the control would be too weak.

    Args:
        make: rows and strength -> the control of those images.
        images: those that the translation changed, n x S x S, n >= 1.
        target: `pooled_error` of the translation, above 0.
        most: strongest tried.

    Returns:
        The strength, and the control's own `pooled_error`: less than `target` where even `most` does not reach that.
    """

    def error(strength: float) -> float:
        return pooled_error(lambda rows: make(rows, strength), images)

    def excess(log_strength: float) -> float:
        return float(np.log(max(error(float(np.exp(log_strength))) / target, 1e-3)))  # 0 where rounding undoes a weak control

    farthest = error(most)
    if farthest <= target:
        return most, farthest
    from scipy import optimize

    strength = float(np.exp(optimize.brentq(excess, np.log(most * 1e-4), np.log(most), xtol=_EXACTNESS)))
    return strength, error(strength)
