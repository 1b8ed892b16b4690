"""Statistics all evaluators share: the unit is the patient, never the image.

Images of one patient are alike, so an interval over images is too narrow. Means are taken image -> patient -> all, and
patients are what is resampled. Distances between distributions (FID, KID and their kin) are never resampled with
replacement: duplicates shrink the covariance and push the distance up, until the interval misses its own estimate. They
get half-samples drawn without replacement. Two sets of numbers on the same images are compared patient by patient.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEVEL = 0.95
N_BOOT = 2000
#: With up to so many changed patients all flips of their signs are tried, and a p value is exact: the normal approximation calls
#: five changes in one direction significant, which the exact test cannot.
EXACT = 13
#: Fewer patients than this give no interval: a percentile of so few distinct resamples means nothing.
MIN_PATIENTS = 4
#: Resamples computed at once; bounds memory to `BATCH` x patients numbers.
BATCH = 256
#: Patient-level differences are compared on a lattice of this fraction of the largest value: what differs by rounding alone
#: is a tie, or a zero.
_LATTICE = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over patients.

    Attributes:
        value: in the unit of the input.
        ci: lower and upper end, or None with fewer than `MIN_PATIENTS` patients.
        patients: number of patients it rests on.
    """

    value: float
    ci: tuple[float, float] | None
    patients: int


def patient_means(values: npt.ArrayLike, patients: Sequence[str]) -> FloatArray:
    """Mean of each patient's values (N,), one a patient (P,), ordered by patient id.

    Raises:
        ValueError: there are not as many values as patient ids.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (len(patients),):
        raise ValueError(f"{numbers.shape} values for {len(patients)} patient ids")
    _, group = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    means: FloatArray = np.bincount(group, weights=numbers) / np.bincount(group)
    return means


def mean_interval(values: npt.ArrayLike, patients: Sequence[str], seed: int, n_boot: int = N_BOOT) -> Estimate:
    """Mean over patients of per-patient means, with its cluster bootstrap interval.

    Args:
        values: one finite number an image (N,), N >= 1.
        patients: patient id of each image.
        seed: of the resampling; same seed, same interval.
        n_boot: resamples.
    """
    means = patient_means(values, patients)
    return Estimate(float(means.mean()), _bootstrap((means,), np.mean, seed, n_boot), len(means))


def ratio_interval(
    numerator: npt.ArrayLike, denominator: npt.ArrayLike, patients: Sequence[str], seed: int, n_boot: int = N_BOOT
) -> Estimate:
    """Ratio of two patient-level means, both resampled with the same patients.

    The ratio of means, not the mean of ratios: an image whose denominator is nearly nothing cannot dominate it.

    Args:
        numerator: one number an image (N,).
        denominator: one number an image (N,), non-negative, not all 0.
        patients: patient id of each image.
        seed: of the resampling.
        n_boot: resamples.

    Raises:
        ZeroDivisionError: the denominator's mean is 0.
    """
    top, bottom = patient_means(numerator, patients), patient_means(denominator, patients)
    if bottom.mean() == 0:
        raise ZeroDivisionError("the mean of the denominator is 0")

    def ratio(a: FloatArray, b: FloatArray, axis: int = -1) -> FloatArray:
        return np.asarray(a.mean(axis=axis) / b.mean(axis=axis))

    # Where all but a few denominators are 0, a resample can miss them all and its ratio is not a number.
    enough = int((bottom > 0).sum()) >= MIN_PATIENTS
    ci = _bootstrap((top, bottom), ratio, seed, n_boot) if enough else None
    return Estimate(float(top.mean() / bottom.mean()), ci, len(bottom))


def _bootstrap(
    samples: tuple[FloatArray, ...], statistic: Callable[..., Any], seed: int, n_boot: int
) -> tuple[float, float] | None:
    if len(samples[0]) < MIN_PATIENTS:
        return None
    from scipy import stats

    interval = stats.bootstrap(
        samples, statistic, paired=True, vectorized=True, n_resamples=n_boot, batch=BATCH,
        confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)


def patient_weights(rng: np.random.Generator, n: int, size: int) -> IntArray:
    """How often each of n patients is drawn in each resample of n (size x n)."""
    return rng.multinomial(n, np.full(n, 1 / n), size=size)


def ends(values: npt.NDArray[Any]) -> tuple[float, float]:
    """95 % percentile interval of resampled values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def half_samples(patients: Sequence[str], rounds: int, seed: int) -> list[IntArray]:
    """Image indices of `rounds` random halves of the patients, without replacement: all of a patient's images or none."""
    names, group = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    halves = (rng.permutation(len(names))[: len(names) // 2] for _ in range(rounds))
    return [np.flatnonzero(np.isin(group, half)) for half in halves]


def half_sample_interval(
    value: float,
    statistic: Callable[[IntArray, IntArray], float],
    patients: tuple[Sequence[str], Sequence[str]],
    rounds: int,
    seed: int,
) -> tuple[float, float] | None:
    """95 % interval of a two-sample statistic that must not see duplicates: the delete-half jackknife.

    The standard deviation between half-samples estimates the standard error of the full-sample value (Shao and Wu 1989,
    delete-d jackknife with d = n/2, whose factor is 1; a little wide for few patients in odd number). A bias that depends
    on the sample size alone, as FID has, is the same in every half and does not enter. Both samples are halved.

    Args:
        value: the statistic on all images; the interval's centre.
        statistic: of the indices into the first and the second sample.
        patients: patient ids of both samples.
        rounds: half-samples, at least 2.
        seed: of the draws.

    Returns:
        Lower and upper end, or None with fewer than `MIN_PATIENTS` patients on either side or fewer than two rounds.
    """
    if rounds < 2 or any(len(set(p)) < MIN_PATIENTS for p in patients):
        return None
    first, second = (half_samples(p, rounds, seed + k) for k, p in enumerate(patients))
    spread = float(np.std([statistic(a, b) for a, b in zip(first, second, strict=True)], ddof=1))
    from scipy import stats
    reach = float(stats.t.ppf((1 + LEVEL) / 2, rounds - 1)) * spread
    return value - reach, value + reach


@dataclass(frozen=True)
class Paired:
    """Two values on the same patients, before and after; differences are after - before.

    Attributes:
        n: patients.
        zeros: those among them whose difference is zero.
        shift: Hodges-Lehmann pseudo-median of the differences, in the unit of the input (zeros included). Of counts, most of
            which do not change, it can be 0 while `p` is small: the fractions then tell more.
        shift_ci: its 95 % percentile bootstrap interval over patients, or None with fewer than `MIN_PATIENTS`.
        p: two-sided Wilcoxon signed-rank test with Pratt's zeros (ranked, then left out) and a tie-corrected normal
            approximation without continuity correction; 1 when every difference is zero.
        p_permutation: the same statistic under flipped signs: all of them where they are no more than the permutations asked
            for, else (b + 1) / (m + 1) of m random ones.
        effect: matched-pairs rank-biserial correlation (Kerby 2014) in [-1, 1], from the Pratt ranks of the differences that
            are not zero: 1 when all of those are increases, -1 when all are decreases, 0 when there are none.
        reduced, unchanged, increased: fractions of patients; they add up to 1.
    """

    n: int
    zeros: int
    shift: float
    shift_ci: tuple[float, float] | None
    p: float
    p_permutation: float
    effect: float
    reduced: float
    unchanged: float
    increased: float

    @property
    def best_p(self) -> float:
        """The p value to report: `p_permutation` where at most `EXACT` patients changed (it is exact there), else `p`."""
        return self.p_permutation if self.n - self.zeros <= EXACT else self.p


def paired_test(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    patients: Sequence[str],
    seed: int,
    n_boot: int = N_BOOT,
    n_permutations: int = 10_000,
) -> Paired:
    """Did values on the same images change? The unit is the patient: the means of their images.

    Differences below 1e-9 of the largest value are rounding, and count as zero.

    Args:
        before: one finite number an image (N,), N >= 1.
        after: likewise, of the same images in the same order.
        patients: patient id of each image.
        seed: of the bootstrap and of random sign flips.
        n_boot: resamples behind `Paired.shift_ci`.
        n_permutations: random sign flips at most; 2 ** `EXACT` or more, or `Paired.best_p` is not exact.

    Raises:
        ValueError: lengths differ, there are no values, or a value is not finite.
    """
    steps, unit = _steps(before, after, patients)
    signed = _signed_ranks(steps)
    n, zeros = len(steps), int((steps == 0).sum())
    low, high = (_walsh(steps, k, unit) for k in ((n * (n + 1) // 2 + 1) // 2, n * (n + 1) // 4 + 1))
    return Paired(
        n=n, zeros=zeros, shift=(low + high) / 2, shift_ci=_shift_interval(steps, unit, seed, n_boot),
        p=_wilcoxon(steps), p_permutation=_flip_signs(signed, seed, n_permutations),
        effect=float(signed.sum() / np.abs(signed).sum()) if zeros < n else 0.0,
        reduced=float((steps < 0).mean()), unchanged=zeros / n, increased=float((steps > 0).mean()),
    )  # fmt: skip


def paired_p(before: npt.ArrayLike, after: npt.ArrayLike, patients: Sequence[str]) -> float:
    """`Paired.best_p` of `paired_test`, at a small part of its cost. Arguments and errors as there."""
    steps, _ = _steps(before, after, patients)
    exact = np.count_nonzero(steps) <= EXACT
    return _flip_signs(_signed_ranks(steps), 0, 2**EXACT) if exact else _wilcoxon(steps)


def change_intervals(change: FloatArray, seed: int, n_boot: int) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals over patients of what `Paired` tells without one.

    Where all patients agree, all resamples do: such an interval has no width, which does not make it certain.

    Args:
        change: one difference a patient (P,), P >= 1; differences below 1e-9 are rounding.
        seed: of the resampling.
        n_boot: resamples.

    Returns:
        ``median``; ``reduced``, ``unchanged``, ``increased`` as fractions; ``effect`` (rank-biserial, Pratt's ranks taken anew in
        every resample). Empty with fewer than `MIN_PATIENTS`.
    """
    n = len(change)
    if n < MIN_PATIENTS:
        return {}
    levels, number = np.unique(np.round(change, 9), return_counts=True)
    weights = np.random.default_rng(seed).multinomial(n, number / n, size=n_boot)  # n_boot x levels
    up_to = weights.cumsum(axis=1)
    middle = [levels[(up_to > k).argmax(axis=1)] for k in ((n - 1) // 2, n // 2)]
    by_size = np.argsort(np.abs(levels), kind="stable")
    _, first, size = np.unique(np.abs(levels[by_size]), return_index=True, return_inverse=True)
    size = size[np.argsort(by_size)]
    tied = np.add.reduceat(weights[:, by_size], first, axis=1)  # patients a resample has of each size of change
    ranked = weights * (tied.cumsum(axis=1) - (tied - 1) / 2)[:, size] * (levels != 0)
    found = {
        "median": (middle[0] + middle[1]) / 2, "reduced": weights[:, levels < 0].sum(axis=1) / n,
        "unchanged": weights[:, levels == 0].sum(axis=1) / n, "increased": weights[:, levels > 0].sum(axis=1) / n,
        "effect": (ranked * np.sign(levels)).sum(axis=1) / np.maximum(ranked.sum(axis=1), 1.0),
    }  # fmt: skip
    return {name: ends(values) for name, values in found.items()}


def _steps(before: npt.ArrayLike, after: npt.ArrayLike, patients: Sequence[str]) -> tuple[IntArray, float]:
    """Differences of patients (P,) in steps of the lattice, and its unit."""
    first, second = patient_means(before, patients), patient_means(after, patients)
    if not len(first) or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a paired test needs finite values, at least one")
    unit = _LATTICE * (float(np.abs(np.concatenate([first, second])).max()) or 1.0)
    return np.rint((second - first) / unit).astype(np.int64), unit


def _signed_ranks(steps: IntArray) -> FloatArray:
    from scipy import stats

    return np.where(steps == 0, 0.0, np.sign(steps) * stats.rankdata(np.abs(steps)))


def _wilcoxon(steps: IntArray) -> float:
    from scipy import stats

    if not steps.any():  # scipy gives NaN
        return 1.0
    p = float(stats.wilcoxon(steps, zero_method="pratt", method="approx", correction=False).pvalue)
    return max(p, sys.float_info.min)  # of thousands of patients it can be too small for a number, but no p value is 0


def _flip_signs(signed: FloatArray, seed: int, n_permutations: int) -> float:
    """Two-sided p of the sum of signed ranks (n,) when each sign is as likely as its opposite. Half ranks add up exactly."""
    ranks = np.abs(signed[signed != 0])
    observed, n = abs(signed.sum()), len(ranks)
    if 2**n <= n_permutations:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ ranks) >= observed).mean())
    rng, extreme = np.random.default_rng(seed), 0
    for start in range(0, n_permutations, BATCH):
        flips = rng.integers(0, 2, (min(BATCH, n_permutations - start), n))
        extreme += int((np.abs((1.0 - 2.0 * flips) @ ranks) >= observed).sum())
    return (extreme + 1) / (n_permutations + 1)


def _walsh(steps: IntArray, k: int, unit: float) -> float:
    """The k-th smallest (from 1) of the n (n + 1) / 2 means of two of the differences, each with itself included."""
    levels, weights = np.unique(steps, return_counts=True)
    return _bisect(levels, lambda twice: _pairs_up_to(levels, weights[None], twice)[0] >= k) * unit / 2


def _shift_interval(steps: IntArray, unit: float, seed: int, n_boot: int) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the pseudo-median, found by bisection without a single list of all pairs.

    A resample's (lower) pseudo-median is at most t if and only if at least half of its pairs have a mean of at most t. That
    can be counted for all resamples at once, and so can the share of resamples of which it is true. A resample is counted only until
    the bisection has left its pseudo-median behind: one that reached half at some t does so at every larger one.
    """
    n = len(steps)
    if n < MIN_PATIENTS:
        return None
    levels, counts = np.unique(steps, return_counts=True)
    weights = np.random.default_rng(seed).multinomial(n, counts / n, size=n_boot)
    half = (n * (n + 1) // 2 + 1) // 2

    def quantile(share: float) -> float:
        need, unsettled = max(1, round(share * n_boot)), weights

        def enough(t: int) -> bool:
            nonlocal need, unsettled
            reached = _pairs_up_to(levels, unsettled, t) >= half
            if (found := int(reached.sum())) >= need:
                unsettled = unsettled[reached]
                return True
            need, unsettled = need - found, unsettled[~reached]
            return False

        return _bisect(levels, enough) * unit / 2

    return quantile((1 - LEVEL) / 2), quantile((1 + LEVEL) / 2)


def _pairs_up_to(levels: IntArray, weights: IntArray, twice: int) -> IntArray:
    """For each row of weights (B x L) of sorted levels (L,): how many pairs i <= j have a sum of at most `twice`."""
    partners = np.searchsorted(levels, twice - levels, side="right")
    alone = int(np.searchsorted(2 * levels, twice, side="right"))
    out = np.empty(len(weights), dtype=np.int64)
    for start in range(0, len(weights), BATCH):
        rows = weights[start : start + BATCH]
        below = np.concatenate([np.zeros((len(rows), 1), np.int64), rows.cumsum(axis=1)], axis=1)
        out[start : start + BATCH] = ((rows * below[:, partners]).sum(axis=1) + below[:, alone]) // 2
    return out


def _bisect(levels: IntArray, enough: Callable[[int], bool]) -> int:
    """The smallest sum of two levels' range for which `enough`, true of the largest, is true."""
    low, high = 2 * int(levels[0]), 2 * int(levels[-1])
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number by Holm's step-down method (1979), in input order; at most 1.

    Raises:
        ValueError: one is not in [0, 1].
    """
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"not all of {list(p)} are p values")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(v) for v in adjusted]
