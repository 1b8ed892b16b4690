"""Figures of a classifier: by hand, by scikit-learn, and the intervals around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from bench.data.imageset import Item
from bench.errors import BenchError, DataError
from evaluators import discrimination as d
from evaluators.proportions import NO_WIDTH, exact_interval


def predicted(probability: Any, label: Any, patients: list[str] | None = None, fold: Any = None) -> d.Tested:
    names = patients or [f"p{k}" for k in range(len(label))]
    items = tuple(Item(f"i{k}", name, "opacity" if of else "clear") for k, (name, of) in enumerate(zip(names, label, strict=True)))
    folds = np.zeros(len(label), np.int64) if fold is None else np.asarray(fold)
    return d.Tested(np.asarray(probability, float), np.asarray(label, bool), folds, items)


# Figures


def test_figures_of_a_matrix_written_by_hand() -> None:
    # 3 of 4 opacity images found; 2 of 6 clear ones called opacity
    mine = predicted([0.9, 0.8, 0.5, 0.1, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    assert d.matrix(mine) == d.Matrix(tp=3, fp=2, fn=1, tn=4)
    found = d.threshold_metrics(mine)
    assert found == pytest.approx({
        "accuracy": 0.7, "f1": 2 / 3, "recall": 0.75, "precision": 0.6, "specificity": 4 / 6, "balanced": (0.75 + 4 / 6) / 2,
        "mcc": (3 * 4 - 2 * 1) / np.sqrt(5 * 4 * 6 * 5),
    })  # fmt: skip
    d.verify(found, d.matrix(mine), 10)


def test_figures_follow_from_random_matrices() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mine = predicted(rng.random(12), rng.random(12) < 0.4)
        if 0 < mine.label.sum() < 12:
            d.verify(d.threshold_metrics(mine), d.matrix(mine), 12)


def test_nothing_called_opacity() -> None:
    mine = predicted([0.1] * 5, [1, 1, 0, 0, 0])
    found = d.threshold_metrics(mine)
    assert np.isnan(found["precision"])
    assert found["f1"] == found["recall"] == found["mcc"] == 0
    d.verify(found, d.matrix(mine), 5)


@pytest.mark.parametrize("name", ["accuracy", "f1", "recall", "precision", "specificity", "balanced", "mcc"])
def test_the_self_check_sees_every_figure(name: str) -> None:
    mine = predicted([0.9, 0.2, 0.6, 0.1], [1, 1, 0, 0])
    found = d.threshold_metrics(mine)
    with pytest.raises(BenchError, match=rf"{name} = .* does not follow from the confusion matrix Matrix\(tp=1, fp=1"):
        d.verify({**found, name: found[name] + 1e-3}, d.matrix(mine), 4)


def test_the_self_check_counts_images() -> None:
    mine = predicted([0.9, 0.2], [1, 0])
    with pytest.raises(BenchError, match="holds 2 images, 3 were tested"):
        d.verify(d.threshold_metrics(mine), d.matrix(mine), 3)


def test_weighted_ranking_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    scores, label = rng.integers(0, 9, 60) / 8, rng.random(60) < 0.4  # many ties
    weights = rng.integers(0, 4, (20, 60)).astype(float)
    areas, precisions = d.weighted_auroc(scores, label, weights), d.weighted_precision(scores, label, weights)
    for row, area, precision in zip(weights, areas, precisions, strict=True):
        assert area == pytest.approx(metrics.roc_auc_score(label, scores, sample_weight=row))
        assert precision == pytest.approx(metrics.average_precision_score(label, scores, sample_weight=row))


def test_ranking_is_never_pooled_over_folds() -> None:
    # each fold ranks perfectly, but the second is offset: pooled, AUROC would be 0.75
    mine = predicted([0.2, 0.1, 0.9, 0.8], [1, 0, 1, 0], fold=[0, 0, 1, 1])
    assert metrics.roc_auc_score(mine.label, mine.probability) == 0.75
    assert d.auroc(mine) == d.average_precision(mine) == 1.0


def test_folds_weigh_by_their_images() -> None:
    mine = predicted([0.2, 0.1, 0.1, 0.9, 0.8, 0.7], [1, 0, 0, 1, 0, 1], fold=[0, 0, 0, 1, 1, 1])
    assert d.auroc(mine) == pytest.approx((1.0 + 0.5) / 2)
    assert d.fold_spread(mine) == pytest.approx(np.std([1.0, 0.5], ddof=1))
    wider = predicted([0.2, 0.1, 0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0, 1, 0], fold=[0, 0, 1, 1, 1, 1])
    assert d.auroc(wider) == pytest.approx((2 * 1.0 + 4 * 0.75) / 6)


def test_one_class_cannot_be_ranked() -> None:
    with pytest.raises(DataError, match="no fold has images of both classes"):
        d.auroc(predicted([0.1, 0.2], [1, 1]))


def test_intervals_hold_the_truth() -> None:
    """95 % intervals over simulated studies whose true AUROC is known: two folds, two images a patient."""
    rng, truth, inside, studies = np.random.default_rng(2), 0.760, 0, 120  # Phi(1 / sqrt 2)
    for study in range(studies):
        label = np.repeat(rng.random(60) < 0.5, 2)
        scores = label + rng.standard_normal(120)
        names = [f"p{k // 2}" for k in range(120)]
        mine = predicted(scores, label, names, np.arange(120) // 60)
        ci = d.interval(d.resampled_auroc(mine, d.Resamples(mine, 200, study)))
        assert ci is not None
        inside += ci[0] <= truth <= ci[1]
    assert 0.88 <= inside / studies <= 0.99


def test_images_of_one_patient_do_not_narrow_an_interval() -> None:
    rng = np.random.default_rng(3)
    label, noise = np.arange(40) % 2 == 0, rng.standard_normal(40)

    def width(copies: int) -> float:
        mine = predicted(
            np.repeat(label + noise, copies), np.repeat(label, copies), [f"p{k // copies}" for k in range(40 * copies)]
        )
        ci = d.interval(d.resampled_auroc(mine, d.Resamples(mine, 400, 0)))
        assert ci is not None
        return ci[1] - ci[0]

    assert width(5) == pytest.approx(width(1), abs=1e-9)


def test_every_resample_has_both_classes_in_every_fold() -> None:
    mine = predicted(np.linspace(0, 1, 12), [1, 0, 0, 0, 0, 1] * 2, [f"p{k // 2}" for k in range(12)], np.arange(12) // 6)
    resamples = d.Resamples(mine, 300, 0)
    assert resamples.enough
    assert np.isfinite(d.resampled_auroc(mine, resamples)).all()
    assert resamples.counts.sum(axis=1).tolist() == [6] * 300


def test_three_patients_of_a_class_give_no_interval() -> None:
    mine = predicted(np.linspace(0, 1, 10), [1, 1, 1] + [0] * 7)
    resamples = d.Resamples(mine, 100, 0)
    assert not resamples.enough
    assert d.interval(d.resampled_auroc(mine, resamples)) is None
    assert set(d.metric_intervals(mine, resamples).values()) == {(None, "")}


def test_three_right_predictions_are_not_certain() -> None:
    """Three called positive, all rightly: the bootstrap says [1, 1], Clopper and Pearson what three patients can say."""
    mine = predicted([0.9] * 3 + [0.1] * 17, [1] * 10 + [0] * 10)
    found = d.metric_intervals(mine, d.Resamples(mine, 500, 0))
    assert found["precision"] == (pytest.approx((0.025 ** (1 / 3), 1.0)), "")
    assert found["specificity"] == (pytest.approx((0.025 ** (1 / 10), 1.0)), "")
    recall, why = found["recall"]  # 3 of 10: within (0, 1), as ever
    assert recall is not None and not why and 0 <= recall[0] < 0.3 < recall[1] < 1
    perfect = predicted([0.9] * 10 + [0.1] * 10, [1] * 10 + [0] * 10)
    found = d.metric_intervals(perfect, d.Resamples(perfect, 500, 0))
    low = 0.025 ** (1 / 10)
    assert found["recall"][0] == pytest.approx((low, 1.0)) and found["accuracy"][0] == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert found["f1"][0] == pytest.approx((2 * low / (1 + low), 1.0))
    assert found["mcc"] == found["balanced"] == (None, NO_WIDTH)  # no shares


def test_exact_intervals_count_patients() -> None:
    """Ten images of each of six patients say no more than one of each."""
    once = predicted([0.9] * 6 + [0.1] * 6, [1] * 6 + [0] * 6)
    often = predicted(np.repeat(once.probability, 10), np.repeat(once.label, 10), [f"p{k // 10}" for k in range(120)])
    one, many = (d.metric_intervals(mine, d.Resamples(mine, 200, 0)) for mine in (once, often))
    assert one == many and one["recall"][0] == pytest.approx(exact_interval(1.0, 6))
    wrong = predicted([0.1] * 6 + [0.9] * 6, [1] * 6 + [0] * 6)
    found = d.metric_intervals(wrong, d.Resamples(wrong, 200, 0))
    assert found["f1"][0] is not None and found["f1"][0][0] == 0 < found["f1"][0][1] < 1


def test_a_perfect_ranking_has_no_interval_of_no_width() -> None:
    mine = predicted(np.linspace(0, 1, 20), [0] * 10 + [1] * 10)
    values = d.resampled_auroc(mine, d.Resamples(mine, 200, 0))
    assert d.interval(values) is None and d.lacking(values) == NO_WIDTH
    assert d.lacking(np.empty(0)) == d.lacking(np.linspace(0, 1, 50)) == ""


def test_calibration() -> None:
    sure = predicted([1.0] * 10 + [0.0] * 10, [1] * 10 + [0] * 10)
    assert d.brier(sure).mean() == d.calibration_error(sure) == 0
    off = predicted(np.full(30, 0.75), [1, 0] * 15)
    assert d.brier(off).mean() == pytest.approx(0.3125)
    assert d.calibration_error(off) == pytest.approx(np.mean([0.25] * 15))
