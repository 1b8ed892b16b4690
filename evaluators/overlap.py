"""How well a mask agrees with a reference: overlap and boundary of one image, and what they come to over patients.

Everything counts only where the reference is decided. Overlap is computed from the four counts of a confusion matrix, so that
the same functions serve single images (default) and pooled data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.statistics import (
    MIN_PATIENTS,
    Estimate,
    FloatArray,
    IntArray,
    ends,
    mean_interval,
    patient_means,
    patient_weights,
)

BoolImage = npt.NDArray[np.bool_]
#: Counts (..., 4) -> values (...).
Overlap = Callable[[npt.NDArray[Any]], FloatArray]

#: Of derivatives along the imaginary axis, which nothing is subtracted in: no step is too small.
_STEP = 1e-20
#: A component smaller than this share of the image is no lung (`two_lungs`).
SMALLEST = 0.01


def confusion(found: BoolImage, lung: BoolImage, counted: BoolImage) -> IntArray:
    """True positives, false positives, false negatives and true negatives (4,) among the counted pixels of one image."""
    code = 2 * lung[counted].astype(np.int64) + found[counted]
    tn, fp, fn, tp = np.bincount(code, minlength=4)
    return np.array([tp, fp, fn, tn], dtype=np.int64)


def iou(counts: npt.NDArray[Any]) -> FloatArray:
    """Intersection over union of the lung; the reference must hold lung."""
    tp, fp, fn, _ = _parts(counts)
    return tp / (tp + fp + fn)


def iou_two_classes(counts: npt.NDArray[Any]) -> FloatArray:
    """Mean of the lung's and the background's intersection over union; the lung's alone where there is no background at all."""
    _, fp, fn, tn = _parts(counts)
    union = tn + fp + fn
    lung = iou(counts)
    return np.where(union > 0, (lung + tn / np.where(union > 0, union, 1)) / 2, lung)


def sensitivity(counts: npt.NDArray[Any]) -> FloatArray:
    """Share of the reference's lung that was found."""
    tp, _, fn, _ = _parts(counts)
    return tp / (tp + fn)


def dice(counts: npt.NDArray[Any]) -> FloatArray:
    """Dice coefficient of the lung."""
    tp, fp, fn, _ = _parts(counts)
    return 2 * tp / (2 * tp + fp + fn)


def _parts(counts: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    tp, fp, fn, tn = np.moveaxis(counts / 1, -1, 0)  # floats, or the complex numbers of `shares_of_pooled`
    return tp, fp, fn, tn


def hd95(found: BoolImage, lung: BoolImage, counted: BoolImage) -> float:
    """95 % Hausdorff distance in percent of the image's diagonal (pixel spacing is unknown, or was lost in resizing).

    The larger of both directions' 95th percentiles of the distance from boundary pixels to the other boundary, as MONAI has it;
    with a search tree of boundary pixels, which takes a fiftieth of the time of distance maps at 512 pixels. An edge against
    pixels that do not count is no boundary: both masks would share it, and its zeros would push the percentile down.

    Args:
        found: H x W.
        lung: the reference, not empty among the counted pixels.
        counted: pixels that count.

    Returns:
        0 to 100; 100, the worst there can be, for an empty mask. Where all of a mask's edge is undecided, edges against
        undecided pixels count in both masks, as there is nothing else to measure to.
    """
    if not (found & counted).any():
        return 100.0
    a, b = (np.argwhere(_boundary(mask, counted)) for mask in (found, lung))
    if not len(a) or not len(b):
        a, b = (np.argwhere(_boundary(mask & counted, np.ones_like(counted))) for mask in (found, lung))
    from scipy.spatial import KDTree

    distances = (KDTree(a).query(b)[0], KDTree(b).query(a)[0])
    return 100 * max(float(np.percentile(d, 95)) for d in distances) / float(np.hypot(*found.shape))


def _boundary(mask: BoolImage, counted: BoolImage) -> BoolImage:
    """Counted pixels of a mask beside a counted pixel that is none of it, or at the edge of the image."""
    from scipy import ndimage

    edge: BoolImage = mask & counted & ~ndimage.binary_erosion(mask | ~counted)
    return edge


def two_lungs(found: BoolImage) -> BoolImage:
    """The two largest connected components of at least 1 % of the image, without holes."""
    from scipy import ndimage

    labels, n = ndimage.label(found)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    kept = [k + 1 for k in np.argsort(-sizes, kind="stable")[:2] if sizes[k] >= SMALLEST * found.size]
    filled: BoolImage = ndimage.binary_fill_holes(np.isin(labels, kept))
    return filled


def estimate(
    counts: IntArray, of: Overlap, patients: Sequence[str], seed: int, n_boot: int, pooled: bool = False,
    before: IntArray | None = None,
) -> Estimate:  # fmt: skip
    """Mean over segmenters of an overlap, or of its change, with its interval over patients.

    Args:
        counts: n x segmenters x 4.
        of: which overlap.
        patients: patient of each image.
        seed: of the bootstrap.
        n_boot: resamples.
        pooled: add up the counts of all images first; else take the mean over patients of their images' means.
        before: counts of the same images that are subtracted (after `of`).
    """
    if not pooled:
        return mean_interval(per_image(counts, of, before), patients, seed, n_boot)
    both = counts[:, None] if before is None else np.stack([counts, before], axis=1)
    names, group = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), *both.shape[1:]), dtype=np.int64)
    np.add.at(sums, group, both)

    def value(total: npt.NDArray[Any]) -> FloatArray:
        each = of(total).mean(axis=-1)
        return np.asarray(each[..., 0] if before is None else each[..., 0] - each[..., 1])

    drawn = _weights(len(names), seed, n_boot)
    ci = None if drawn is None else ends(value(np.tensordot(drawn, sums, axes=1)))
    return Estimate(float(value(sums.sum(axis=0))), ci, len(names))


def per_image(counts: IntArray, of: Overlap, before: IntArray | None = None) -> FloatArray:
    """An overlap, or its change, of each image (n,), averaged over segmenters; arguments as in `estimate`."""
    values = of(counts).mean(axis=1)
    return np.asarray(values if before is None else values - of(before).mean(axis=1))


def shares_of_pooled(counts: IntArray, of: Overlap, patients: Sequence[str], before: IntArray | None = None) -> FloatArray:
    """A pooled overlap, or its change, as one number an image (n,): their mean over patients of their images' means is the pooled one.

    Of a ratio R of sums of a and b that is R + (a_i - R b_i) / mean of b, here with the mean over patients and times the images of
    the patient: what R becomes, to first order, if there were more such patients. Arguments as in `estimate`.
    """
    if before is not None:
        return shares_of_pooled(counts, of, patients) - shares_of_pooled(before, of, patients)
    names, group, number = np.unique(np.asarray(patients, dtype=str), return_inverse=True, return_counts=True)
    total = counts.sum(axis=0)
    slope = of(total + _STEP * 1j * counts).imag / _STEP
    return np.asarray((of(total) + (len(names) * number[group])[:, None] * slope).mean(axis=1))


def difference(
    first: npt.ArrayLike, patients: Sequence[str], second: npt.ArrayLike, others: Sequence[str], seed: int, n_boot: int
) -> Estimate:
    """Difference of two patient-level means on different images, with its interval over patients, who may be in both.

    Args:
        first: one number an image.
        patients: patient of each of them.
        second: what is subtracted.
        others: patient of each of those.
        seed: of the bootstrap.
        n_boot: resamples.
    """
    names = sorted({*patients, *others})
    means, present = np.zeros((2, len(names))), np.zeros((2, len(names)))
    for side, (values, who) in enumerate(((first, patients), (second, others))):
        at = np.searchsorted(names, np.unique(np.asarray(who, dtype=str)))
        means[side, at], present[side, at] = patient_means(values, who), 1

    def value(weights: npt.NDArray[Any]) -> FloatArray:
        a, b = ((weights * m * p).sum(-1) / (weights * p).sum(-1) for m, p in zip(means, present, strict=True))
        return np.asarray(a - b)

    drawn = _weights(len(names), seed, n_boot) if present.sum(axis=1).min() >= MIN_PATIENTS else None
    if drawn is not None:  # a resample without any patient of one side says nothing
        drawn = drawn[((drawn[:, None] * present).sum(-1) > 0).all(axis=1)]
    return Estimate(float(value(np.ones(len(names)))), None if drawn is None else ends(value(drawn)), len(names))


def _weights(patients: int, seed: int, n_boot: int) -> IntArray | None:
    """How often each patient is drawn in each resample (n_boot x patients), or None with too few patients."""
    if patients < MIN_PATIENTS:
        return None
    return patient_weights(np.random.default_rng(seed), patients, n_boot)
