"""Places of methods among others that were scored on the same patients, and how much of a ranking is luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.statistics import BATCH, LEVEL, MIN_PATIENTS, N_BOOT, FloatArray


@dataclass(frozen=True)
class Rank:
    """A method's place among others scored on the same patients; 1 is best, methods that tie share their mean rank.

    Attributes:
        rank: by the mean over all patients.
        low, high: ends of its 95 % bootstrap interval; None with fewer than `MIN_PATIENTS` patients.
        first: share of resamples in which it is best (methods that tie for it share it); None likewise.
        patients: patients every method has a value for.
    """

    rank: float
    low: float | None
    high: float | None
    first: float | None
    patients: int


def rank_intervals(
    values: Mapping[str, Mapping[str, float]], better: str, seed: int, n_boot: int = N_BOOT
) -> dict[str, Rank]:
    """Rank of every method with its interval, resampling the patients that all methods have.

    Args:
        values: method -> patient -> value. Values that are not finite count as absent.
        better: ``lower`` or ``higher``.
        seed: of the resampling; the order of methods and patients does not matter.
        n_boot: resamples.

    Raises:
        ValueError: `better` is something else, or no patient is common to all methods.
    """
    full, drawn, patients = _ranks(values, better, seed, n_boot)
    if drawn is None:
        return {name: Rank(float(rank), None, None, None, patients) for name, rank in zip(values, full, strict=True)}
    # The least of inverted quantiles, so that an end is a rank that occurred and not one between two.
    ends = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="inverted_cdf")
    best = drawn == drawn.min(axis=1, keepdims=True)
    first = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    rows = zip(values, full, ends[0], ends[1], first, strict=True)
    return {name: Rank(float(r), float(low), float(high), float(one), patients) for name, r, low, high, one in rows}


def rank_stability(
    values: Mapping[str, Mapping[str, float]], better: str, seed: int, n_boot: int = N_BOOT
) -> float | None:
    """Mean Kendall tau-b between the ranking on resampled patients and the ranking on all of them: 1 never changes, 0 is chance.

    A resample in which all methods tie counts as 0. None with fewer than two methods or `MIN_PATIENTS` patients, or where all
    methods tie. Arguments and errors as in `rank_intervals`.
    """
    full, drawn, _ = _ranks(values, better, seed, n_boot)
    if drawn is None or len(np.unique(full)) < 2:
        return None
    orders, times = np.unique(drawn, axis=0, return_counts=True)
    from scipy import stats
    tau = [float(stats.kendalltau(full, o).statistic) if len(np.unique(o)) > 1 else 0.0 for o in orders]
    return float(np.average(tau, weights=times))


def _ranks(
    values: Mapping[str, Mapping[str, float]], better: str, seed: int, n_boot: int
) -> tuple[FloatArray, FloatArray | None, int]:
    """Ranks of the methods on all common patients (M,), on resamples of them (B x M; None with too few), their number."""
    if better not in ("lower", "higher"):
        raise ValueError(f"better is '{better}', neither 'lower' nor 'higher': such a number has no rank")
    finite = [{k for k, v in own.items() if np.isfinite(v)} for own in values.values()]
    common = sorted(set.intersection(*finite)) if finite else []
    if not common:
        raise ValueError(f"no patient has a value of every one of {', '.join(values) or 'no methods'}")
    table = np.array([[own[k] for k in common] for own in values.values()], dtype=np.float64)
    from scipy import stats

    table = table / (np.abs(table).max() or 1.0) * (1.0 if better == "lower" else -1.0)

    def ranked(weights: npt.NDArray[Any]) -> FloatArray:
        # Rounded, so that equal methods tie whatever the order of summation.
        means = np.round(weights @ table.T / len(common), 12)
        return np.asarray(stats.rankdata(means, axis=1), dtype=np.float64)

    full = ranked(np.ones((1, len(common))))[0]
    if len(common) < MIN_PATIENTS:
        return full, None, len(common)
    rng = np.random.default_rng(seed)
    even = np.full(len(common), 1 / len(common))
    batches = [min(BATCH, n_boot - start) for start in range(0, n_boot, BATCH)]
    return full, np.concatenate([ranked(rng.multinomial(len(common), even, size=b)) for b in batches]), len(common)
