"""Overlap of masks and distances of their boundaries: by hand and by other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from segmentation_tools import X
from sklearn.metrics import jaccard_score, recall_score
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index, binary_recall

from evaluators.overlap import (
    confusion,
    dice,
    difference,
    estimate,
    hd95,
    iou,
    iou_two_classes,
    per_image,
    sensitivity,
    shares_of_pooled,
    two_lungs,
)  # fmt: skip
from evaluators.statistics import patient_means

# overlap by hand: 3 x 3 pixels, the centre is undecided


LUNG = np.array([[1, 1, 0], [1, X, 0], [0, 0, 0]], np.uint8)
FOUND = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0]], np.bool_)


def counts_of(found: Any, codes: Any) -> Any:
    return confusion(np.asarray(found, np.bool_), np.asarray(codes) == 1, np.asarray(codes) != X)


def test_overlap_by_hand() -> None:
    counts = counts_of(FOUND, LUNG)
    assert counts.tolist() == [2, 1, 1, 4]  # the centre is found, and does not count
    assert iou(counts) == pytest.approx(2 / 4)
    assert sensitivity(counts) == pytest.approx(2 / 3)
    assert dice(counts) == pytest.approx(4 / 6)
    assert iou_two_classes(counts) == pytest.approx((2 / 4 + 4 / 6) / 2)
    changed = FOUND.copy()
    changed[1, 1] = False
    assert counts_of(changed, LUNG).tolist() == counts.tolist()


def test_no_background_leaves_the_lung_alone() -> None:
    everything = np.ones((3, 3), np.uint8)
    assert iou_two_classes(counts_of(everything, everything)) == 1


def test_pooled_is_not_the_mean_of_images() -> None:
    small, large = np.array([1, 1, 0, 7]), np.array([6, 0, 2, 1])
    counts = np.stack([small, large])[:, None]
    patients = ["a", "b"]
    assert estimate(counts, iou, patients, 0, 10).value == pytest.approx((1 / 2 + 6 / 8) / 2)
    assert estimate(counts, iou, patients, 0, 10, pooled=True).value == pytest.approx(7 / 10)
    both = estimate(counts, iou_two_classes, patients, 0, 10, pooled=True)
    assert both.value == pytest.approx((7 / 10 + 8 / 11) / 2)
    assert estimate(counts, sensitivity, patients, 0, 10, pooled=True).value == pytest.approx(7 / 9)
    gain = estimate(counts, iou, patients, 0, 10, pooled=True, before=counts[::-1] * 0 + np.array([1, 0, 1, 1]))
    assert gain.value == pytest.approx(7 / 10 - 1 / 2)


def test_the_average_is_over_segmenters_after_their_own_value() -> None:
    counts = np.array([[[1, 1, 0, 0], [3, 1, 0, 0]]])
    assert per_image(counts, iou) == pytest.approx([(1 / 2 + 3 / 4) / 2])
    assert estimate(counts, iou, ["a"], 0, 10, pooled=True).value == pytest.approx((1 / 2 + 3 / 4) / 2)


@pytest.mark.parametrize("of", [iou, iou_two_classes, sensitivity, dice])
def test_values_by_image_of_a_pooled_overlap_have_it_as_their_mean(of: Any) -> None:
    """Over patients, of whom some have more images, as whoever compares methods takes it."""
    rng = np.random.default_rng(0)
    counts, before = rng.integers(1, 500, (2, 40, 2, 4))
    patients = [f"p{k}" for k in rng.integers(0, 15, 40)]
    for minus in (None, before):
        values = shares_of_pooled(counts, of, patients, minus)
        pooled = estimate(counts, of, patients, seed=0, n_boot=10, pooled=True, before=minus).value
        assert patient_means(values, patients).mean() == pytest.approx(pooled, abs=1e-12)
    alone, whose = counts[:, :1], [str(k) for k in range(40)]
    (a, b), total = (alone[:, 0, 0], alone[:, 0, :3].sum(axis=1)), alone.sum(axis=0)
    ratio = float(iou(total)[0])
    assert shares_of_pooled(alone, iou, whose) == pytest.approx(ratio + (a - ratio * b) / b.mean())


def test_pooled_interval_covers_and_repeats() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 50, (40, 2, 4))
    patients = [f"p{k % 20}" for k in range(40)]
    first, again = (estimate(counts, iou, patients, 3, 500, pooled=True) for _ in range(2))
    assert first == again and first.ci is not None and first.patients == 20
    assert first.ci[0] < first.value < first.ci[1]


def random_masks(seed: int, size: int = 24) -> tuple[Any, Any, Any]:
    """Found, lung, counted: blobs that overlap in part."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    base = ndimage.gaussian_filter(rng.normal(size=(size, size)), 3)
    found, lung = base > 0, base + 0.3 * ndimage.gaussian_filter(rng.normal(size=(size, size)), 2) > 0
    return found, lung, rng.uniform(size=(size, size)) > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_overlap_agrees_with_torchmetrics_and_sklearn(seed: int) -> None:
    found, lung, counted = random_masks(seed)
    counts = confusion(found, lung, counted)
    a = torch.from_numpy(found.astype(int))
    b = torch.from_numpy(np.where(counted, lung, -1).astype(int))
    for of, library in ((iou, binary_jaccard_index), (sensitivity, binary_recall), (dice, binary_f1_score)):
        assert float(of(counts)) == pytest.approx(float(library(a, b, ignore_index=-1)), abs=1e-6)
    truth, predicted = lung[counted], found[counted]
    assert iou_two_classes(counts) == pytest.approx(jaccard_score(truth, predicted, average="macro"))
    assert sensitivity(counts) == pytest.approx(recall_score(truth, predicted))


@pytest.mark.parametrize("seed", range(4))
def test_overlap_and_boundary_agree_with_monai(seed: int) -> None:
    metrics = pytest.importorskip("monai.metrics")
    found, lung, _ = random_masks(seed)
    counted = np.ones_like(lung)
    counts = confusion(found, lung, counted)
    a, b = (torch.from_numpy(m.astype(np.float32))[None, None] for m in (found, lung))
    assert iou(counts) == pytest.approx(float(metrics.compute_iou(a, b)), abs=1e-6)
    assert dice(counts) == pytest.approx(float(metrics.DiceMetric()(a, b)), abs=1e-6)
    distance = float(metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95))
    assert hd95(found, lung, counted) == pytest.approx(100 * distance / np.hypot(24, 24), rel=1e-5)


def test_hd95_of_a_shift_is_the_shift_and_of_nothing_the_diagonal() -> None:
    lung = np.zeros((30, 40), np.bool_)
    lung[8:20, 10:25] = True
    everywhere = np.ones_like(lung)
    assert hd95(lung, lung, everywhere) == 0
    assert hd95(np.roll(lung, 2, 1), lung, everywhere) == pytest.approx(100 * 2 / 50)
    assert hd95(np.zeros_like(lung), lung, everywhere) == 100
    assert hd95(~everywhere | (lung & (np.arange(40) < 10)), lung, everywhere) == 100


def test_hd95_sees_no_boundary_at_undecided_pixels() -> None:
    """A hole or stripe that both masks share would add distances of 0, and the percentile would fall with its size."""
    lung = np.zeros((40, 60), np.bool_)
    lung[8:32, 10:40] = True
    found, everywhere = lung.copy(), np.ones_like(lung)
    found[20:32, 37:44] = True  # an excess on one side that is about a tenth of the boundary
    plain = hd95(found, lung, everywhere)
    assert plain > 0
    hole, holes = everywhere.copy(), everywhere.copy()
    hole[12:18, 15:30] = False
    holes[10:30:2, 12:36:2] = False
    assert hd95(found, lung, hole) == hd95(found, lung, holes) == plain
    shifted, stripe = np.roll(lung, 2, 1), everywhere.copy()
    stripe[18:22] = False
    assert hd95(shifted, lung, stripe) == hd95(shifted, lung, everywhere)
    changed = found.copy()
    changed[~hole] = False  # whatever was found where nothing is decided
    assert hd95(changed, lung, hole) == plain


def test_hd95_of_an_edge_that_is_undecided_all_around() -> None:
    lung = np.zeros((30, 40), np.bool_)
    lung[10:20, 10:20] = True
    counted = np.ones_like(lung)
    counted[8:22, 8:22] = False
    counted[11:19, 11:19] = True
    assert hd95(lung, lung, counted) == 0
    assert hd95(lung & (np.arange(40) < 15), lung, counted) == pytest.approx(100 * 4 / 50, rel=0.3)
    assert hd95(np.zeros_like(lung), lung, counted) == 100


def test_two_lungs_keeps_the_two_largest_and_fills_holes() -> None:
    found = np.zeros((20, 20), np.bool_)
    found[1:7, 1:7] = found[10:19, 10:19] = found[1:4, 12:15] = True
    found[14, 14] = False
    clean = two_lungs(found)
    assert clean[14, 14] and clean[3, 3] and not clean[2, 13]
    assert not two_lungs(np.zeros((20, 20), np.bool_)).any()
    speck = np.zeros((20, 20), np.bool_)
    speck[0, 0] = True
    assert not two_lungs(speck).any()


def test_difference_of_unpaired_means() -> None:
    found = difference([1, 3, 10], ["a", "a", "b"], [1, 1], ["b", "c"], 0, 50)
    assert found.value == pytest.approx((2 + 10) / 2 - 1) and found.ci is None
    many = [f"p{k}" for k in range(30)]
    rng = np.random.default_rng(0)
    first, second = rng.normal(5, 1, 30), rng.normal(2, 1, 30)
    apart = difference(first, many, second, [f"q{k}" for k in range(30)], 0, 500)
    assert apart.ci is not None and apart.ci[0] < apart.value < apart.ci[1] and apart.ci[0] > 2
    alike = difference(first, many, first, many, 0, 500)  # the same patients on both sides move together
    assert alike.ci == (0, 0)


# the evaluator, with segmenters that are small enough to be trained here
