"""How well predictions tell two classes apart: the confusion matrix and its figures, AUROC, average precision, calibration.

The predictions are cross-fitted: each image was predicted by a classifier of another fold, which never saw its patient.
Figures at the threshold come out of one matrix pooled over the folds. AUROC and average precision are never pooled: the
classifiers of two folds are not calibrated alike, so that ranking the images of one among those of the other would measure
the offset between them. They are taken within each fold and averaged, weighted by its images.

Intervals resample patients, within strata of fold and class (patients with images of one class, of the other, of both):
every resample has both classes in every fold, and the prevalence is held where it is. A share at 0 or 1 is the same in every
resample; its interval is the exact one of so many patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.data.imageset import Item
from bench.errors import BenchError, DataError
from evaluators.proportions import NO_WIDTH, exact_interval, flat
from evaluators.statistics import MIN_PATIENTS, FloatArray, IntArray, ends, patient_weights

BoolArray = npt.NDArray[np.bool_]
#: Of resampled weights (b x n) gives b values, or b rows of values.
Statistic = Callable[[FloatArray], FloatArray]

#: What is called positive: at least this probability.
THRESHOLD = 0.5
#: Bins of equal mass behind the expected calibration error.
BINS = 15
#: Resamples computed at once; bounds memory to `_CHUNK` x images numbers.
_CHUNK = 200
#: An interval needs at least this share of the resamples to have a value.
_ENOUGH = 0.95


@dataclass(frozen=True)
class Tested:
    """Cross-fitted predictions of n images.

    Attributes:
        probability: of the positive class, (n,) in [0, 1].
        label: True for the positive class (n,).
        fold: which classifier predicted it (n,).
        items: annotations of the images, n of them; those of one patient are in one fold.
    """

    probability: FloatArray
    label: BoolArray
    fold: IntArray
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def called(self) -> BoolArray:
        """What is called positive at the threshold (n,)."""
        return self.probability >= THRESHOLD

    @property
    def correct(self) -> BoolArray:
        """Whether the call is right (n,)."""
        return self.called == self.label

    def only(self, rows: BoolArray) -> Tested:
        """Some of the images."""
        items = tuple(item for item, kept in zip(self.items, rows, strict=True) if kept)
        return Tested(self.probability[rows], self.label[rows], self.fold[rows], items)

    def folds(self) -> list[IntArray]:
        """Rows of each fold that has both classes, in order; ranking is impossible in the others."""
        rows = [np.flatnonzero(self.fold == fold) for fold in np.unique(self.fold)]
        return [r for r in rows if 0 < self.label[r].sum() < len(r)]


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: counts of images."""

    tp: int
    fp: int
    fn: int
    tn: int


def matrix(tested: Tested) -> Matrix:
    """The one confusion matrix of all folds' predictions, at the threshold."""
    from sklearn.metrics import confusion_matrix

    (tn, fp), (fn, tp) = confusion_matrix(tested.label, tested.called, labels=[False, True]).tolist()
    return Matrix(tp, fp, fn, tn)


def threshold_metrics(tested: Tested) -> dict[str, float]:
    """Figures at the threshold, by scikit-learn; positive is the positive class. NaN where nothing was called positive.

    Returns:
        ``accuracy``, ``f1``, ``recall``, ``precision``, ``specificity``, ``balanced`` (accuracy), ``mcc``.
    """
    from sklearn import metrics

    label, called = tested.label, tested.called
    return {
        "accuracy": float(metrics.accuracy_score(label, called)),
        "f1": float(metrics.f1_score(label, called, zero_division=math.nan)),
        "recall": float(metrics.recall_score(label, called, zero_division=math.nan)),
        "precision": float(metrics.precision_score(label, called, zero_division=math.nan)),
        "specificity": float(metrics.recall_score(~label, ~called, zero_division=math.nan)),
        "balanced": float(metrics.balanced_accuracy_score(label, called)),
        "mcc": float(metrics.matthews_corrcoef(label, called)),
    }


def from_counts(tp: FloatArray, fp: FloatArray, fn: FloatArray, tn: FloatArray) -> dict[str, FloatArray]:
    """The figures of `threshold_metrics` out of matrices (arrays of counts), by their definitions; NaN where a denominator is 0.

    Only Matthews' coefficient is 0 there, as its limit is when everything is called alike.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, specificity, precision = tp / (tp + fn), tn / (tn + fp), tp / (tp + fp)
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        mcc = np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(np.maximum(product, 1)), 0.0)
        return {
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "recall": recall,
            "precision": precision,
            "specificity": specificity,
            "balanced": (recall + specificity) / 2,
            "mcc": mcc,
        }


def verify(found: Mapping[str, float], counts: Matrix, n: int) -> None:
    """The self-check: every figure must follow from the stored matrix, and the matrix must hold every image once.

    Raises:
        BenchError: one does not; nothing must be reported then.
    """
    total = counts.tp + counts.fp + counts.fn + counts.tn
    if total != n:
        raise BenchError(f"classification: the confusion matrix holds {total} images, {n} were tested. Nothing is reported.")
    cells = (np.float64(c) for c in (counts.tp, counts.fp, counts.fn, counts.tn))
    for name, expected in from_counts(*(np.asarray(c) for c in cells)).items():
        if not np.isclose(found[name], float(expected), rtol=0, atol=1e-9, equal_nan=True):
            raise BenchError(
                f"classification: {name} = {found[name]:.6f} does not follow from the confusion matrix {counts} "
                f"({float(expected):.6f}). Nothing is reported."
            )


class Resamples:
    """Bootstrap resamples of patients, within strata of fold and class; the same ones for every statistic.

    Args:
        tested: the images; probabilities do not matter, so one object serves every classifier tested on them.
        n_boot: resamples.
        seed: of the draws.
    """

    def __init__(self, tested: Tested, n_boot: int, seed: int) -> None:
        names, self.index = np.unique([item.patient_id for item in tested.items], return_inverse=True)
        fold = np.zeros(len(names), dtype=np.int64)
        fold[self.index] = tested.fold
        positive = np.bincount(self.index, tested.label) > 0
        negative = np.bincount(self.index, ~tested.label) > 0
        #: Whether both classes have patients enough for an interval to mean anything.
        self.enough = n_boot > 0 and int(min(positive.sum(), negative.sum())) >= MIN_PATIENTS
        rng = np.random.default_rng(seed)
        self.counts = np.zeros((n_boot if self.enough else 0, len(names)), dtype=np.uint16)
        stratum = 4 * fold + 2 * positive + negative
        for value in np.unique(stratum):
            members = np.flatnonzero(stratum == value)
            self.counts[:, members] = patient_weights(rng, len(members), len(self.counts))

    def values(self, statistic: Statistic) -> FloatArray:
        """A statistic of the weights (b x n) on every resample; empty without `enough`."""
        starts = range(0, len(self.counts), _CHUNK)
        parts = [statistic(self.counts[s : s + _CHUNK, self.index].astype(np.float64)) for s in starts]
        return np.concatenate(parts) if parts else np.empty(0)


def interval(values: FloatArray) -> tuple[float, float] | None:
    """95 % percentile interval of resampled values; None where too few resamples have one, or all have the same (`lacking`)."""
    found = _percentiles(values)
    return None if flat(found) else found


def lacking(values: FloatArray) -> str:
    """Why resampled values have no `interval`; empty where they have one, and where nothing was resampled."""
    return NO_WIDTH if flat(_percentiles(values)) else ""


def _percentiles(values: FloatArray) -> tuple[float, float] | None:
    known = values[np.isfinite(values)]
    return ends(known) if len(values) and len(known) >= _ENOUGH * len(values) else None


def metric_intervals(tested: Tested, resamples: Resamples) -> dict[str, tuple[tuple[float, float] | None, str]]:
    """Intervals of `threshold_metrics`, each resample with a pooled matrix of its own, and why there is none (`lacking`).

    A share of images at 0 or 1, or whose resamples are all alike, has the exact interval instead.
    """
    label, called = tested.label, tested.called
    cells = np.stack([label & called, ~label & called, label & ~called, ~label & ~called], axis=1).astype(np.float64)
    counts = resamples.values(lambda weights: weights @ cells)
    if not len(counts):
        return dict.fromkeys(threshold_metrics(tested), (None, ""))
    found = {name: (interval(values), lacking(values)) for name, values in from_counts(*counts.T).items()}
    return found | {name: (ci, "") for name, ci in _exact(tested, {name for name, (_, why) in found.items() if why}).items()}


def _exact(tested: Tested, alike: set[str]) -> dict[str, tuple[float, float]]:
    """Exact intervals of those `threshold_metrics` that are shares of images and are at 0 or 1, or whose resamples are `alike`.

    The number behind one is that of patients: images of one patient are right, or wrong, together. F1 is no share, but
    2 J / (1 + J) of one: that of TP among TP, FP and FN.
    """
    label, called, every = tested.label, tested.called, np.ones(len(tested), dtype=bool)
    names = np.array([item.patient_id for item in tested.items])
    shares = {
        "accuracy": (tested.correct, every), "recall": (called, label), "precision": (label, called),
        "specificity": (~called, ~label), "f1": (label & called, label | called),
    }  # fmt: skip
    found = {}
    for name, (right, of) in shares.items():
        if not of.any() or (name not in alike and 0 < right[of].mean() < 1):
            continue
        low, high = exact_interval(float(right[of].mean()), len(np.unique(names[of])))
        found[name] = (2 * low / (1 + low), 2 * high / (1 + high)) if name == "f1" else (low, high)
    return found


def auroc(tested: Tested) -> float:
    """Area under the ROC curve within folds, averaged by their images; folds with one class are left out.

    Raises:
        DataError: no fold has both classes (scikit-learn would answer NaN).
    """
    from sklearn.metrics import roc_auc_score

    return _within_folds(tested, lambda label, p: float(roc_auc_score(label, p)))


def average_precision(tested: Tested) -> float:
    """Average precision within folds, averaged by their images. Chance level is the prevalence.

    Raises:
        DataError: no fold has both classes.
    """
    from sklearn.metrics import average_precision_score

    return _within_folds(tested, lambda label, p: float(average_precision_score(label, p)))


def _within_folds(tested: Tested, measure: Callable[[BoolArray, FloatArray], float]) -> float:
    folds = tested.folds()
    if not folds:
        raise DataError("no fold has images of both classes: nothing can be ranked.")
    values = [measure(tested.label[rows], tested.probability[rows]) for rows in folds]
    return float(np.average(values, weights=[len(rows) for rows in folds]))


def fold_spread(tested: Tested) -> float | None:
    """Standard deviation of AUROC over folds, or None with fewer than two."""
    from sklearn.metrics import roc_auc_score

    values = [float(roc_auc_score(tested.label[rows], tested.probability[rows])) for rows in tested.folds()]
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def resampled_auroc(tested: Tested, resamples: Resamples) -> FloatArray:
    """`auroc` of every resample (B,)."""
    return _resampled(tested, resamples, weighted_auroc)


def resampled_precision(tested: Tested, resamples: Resamples) -> FloatArray:
    """`average_precision` of every resample (B,)."""
    return _resampled(tested, resamples, weighted_precision)


def _resampled(
    tested: Tested, resamples: Resamples, measure: Callable[[FloatArray, BoolArray, FloatArray], FloatArray]
) -> FloatArray:
    folds = tested.folds()
    share = np.array([len(rows) for rows in folds]) / sum(len(rows) for rows in folds)

    def statistic(weights: FloatArray) -> FloatArray:
        each = [measure(tested.probability[rows], tested.label[rows], weights[:, rows]) for rows in folds]
        mean: FloatArray = share @ np.stack(each)
        return mean

    return resamples.values(statistic)


def weighted_auroc(scores: FloatArray, label: BoolArray, weights: FloatArray) -> FloatArray:
    """AUROC of scores (n,) under each row of weights (b x n): the weighted share of pairs in order, ties counting half.

    Returns:
        (b,); NaN where the weights leave one class only.
    """
    positive, negative = _by_score(scores, label, weights)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        out: FloatArray = (positive * (below + negative / 2)).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)
    return out


def weighted_precision(scores: FloatArray, label: BoolArray, weights: FloatArray) -> FloatArray:
    """Average precision of scores (n,) under each row of weights (b x n): precision at each distinct score, weighted by the
    recall gained there. Returns (b,); NaN without positives."""
    positive, negative = (values[:, ::-1] for values in _by_score(scores, label, weights))
    found, called = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
    total = found[:, -1]
    gained = (positive * found / np.where(called > 0, called, 1)).sum(axis=1)
    out: FloatArray = gained / np.where(total > 0, total, np.nan)
    return out


def _by_score(scores: FloatArray, label: BoolArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weight of positives and negatives at each distinct score, ascending: two of b x k."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    sums = [np.add.reduceat((weights * of)[:, order], starts, axis=1) for of in (label, ~label)]
    return sums[0], sums[1]


def brier(tested: Tested) -> FloatArray:
    """Squared error of each probability (n,); their mean is the Brier score, 0.25 for "always one half"."""
    out: FloatArray = (tested.probability - tested.label) ** 2
    return out


def calibration_error(tested: Tested) -> float:
    """Expected calibration error: gap between mean probability and prevalence in (at most) 15 bins of equal mass.

    It is biased upwards for few images, and more so on resamples: it has no interval.
    """
    order = np.argsort(tested.probability, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    gaps = [len(b) * abs(tested.probability[b].mean() - tested.label[b].mean()) for b in bins]
    return float(sum(gaps) / len(order))


def mean_roc(tested: Tested, grid: FloatArray) -> FloatArray:
    """Sensitivity at each false-positive rate of `grid` (in [0, 1], ascending): ROC curves of folds, averaged as `auroc` is."""
    from sklearn.metrics import roc_curve

    curves, shares = [], []
    for rows in tested.folds():
        fpr, tpr, _ = roc_curve(tested.label[rows], tested.probability[rows])
        curves.append(np.interp(grid, fpr, tpr))
        shares.append(len(rows))
    out: FloatArray = np.average(curves, axis=0, weights=shares)
    return out

