"""Statistics all evaluators share: the unit is the patient, never the image.

Images of one patient are alike, so an interval over images is too narrow. Means are taken image -> patient -> all, and
patients are what is resampled. Distances between distributions (FID, KID and their kin) are never resampled with
replacement: duplicates shrink the covariance and push the distance up, until the interval misses its own estimate. They
get half-samples drawn without replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEVEL = 0.95
N_BOOT = 2000
#: Fewer patients than this give no interval: a percentile of so few distinct resamples means nothing.
MIN_PATIENTS = 4
#: Resamples computed at once; bounds memory to `_BATCH` x patients numbers.
_BATCH = 256


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
    """Mean of each patient's values (N,), one a patient (P,), ordered by patient id."""
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
    interval = stats.bootstrap(
        samples, statistic, paired=True, vectorized=True, n_resamples=n_boot, batch=_BATCH,
        confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)


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
    reach = float(stats.t.ppf((1 + LEVEL) / 2, rounds - 1)) * spread
    return value - reach, value + reach
