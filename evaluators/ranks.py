"""Places of methods among others that were scored on the same patients."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.statistics import BATCH, LEVEL, MIN_PATIENTS, N_BOOT, FloatArray

#: Method -> patient -> value, one mapping a seed.
BySeed = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Rank:
    """A method's place among others scored on the same patients; 1 is best, methods that tie share their mean rank.

    Attributes:
        rank: by the mean over all patients, and over seeds where there are several.
        low, high: ends of its 95 % bootstrap interval; None with fewer than `MIN_PATIENTS` patients.
        first: share of resamples in which it is best (methods that tie for it share it); None likewise.
        patients: patients every method has a value for.
    """

    rank: float
    low: float | None
    high: float | None
    first: float | None
    patients: int


def rank_intervals(values: BySeed, better: str, seed: int, n_boot: int = N_BOOT) -> dict[str, Rank]:
    """Rank of every method with its interval, resampling the patients that all methods have, and each method's seeds.

    Of S > 1 seeds, S - 1 are drawn with replacement: the mean of so many varies by what the mean of all S does (the bootstrap of Rao
    and Wu, J. Am. Stat. Assoc. 83, 1988, 231), where S of S would vary less. A method with one seed has no spread over seeds.

    Args:
        values: method -> one mapping a seed, of patient -> value. Values that are not finite count as absent.
        better: ``lower`` or ``higher``.
        seed: of the resampling; the order of methods and patients does not matter.
        n_boot: resamples.

    Raises:
        ValueError: `better` is something else, or no patient is common to all methods and seeds.
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


def _ranks(values: BySeed, better: str, seed: int, n_boot: int) -> tuple[FloatArray, FloatArray | None, int]:
    """Ranks of the methods on all common patients (M,), on resamples of them (B x M; None with too few), their number."""
    if better not in ("lower", "higher"):
        raise ValueError(f"better is '{better}', neither 'lower' nor 'higher': such a number has no rank")
    finite = [{k for k, v in one.items() if np.isfinite(v)} for own in values.values() for one in own]
    common = sorted(set.intersection(*finite)) if finite else []
    if not common:
        raise ValueError(f"no patient has a value of every one of {', '.join(values) or 'no methods'}")
    tables = [np.array([[one[k] for k in common] for one in own], dtype=np.float64) for own in values.values()]
    scale = max(float(np.abs(table).max()) for table in tables) or 1.0
    tables = [table / scale * (1.0 if better == "lower" else -1.0) for table in tables]
    n = len(common)

    def ranked(patients: npt.NDArray[Any], seeds: Sequence[npt.NDArray[Any]]) -> FloatArray:
        """Weights of patients (B x P), and for each method of its seeds (B x S) -> ranks (B x M)."""
        means = [(patients @ t.T / n * w).sum(axis=1) / w.sum(axis=1) for t, w in zip(tables, seeds, strict=True)]
        # Rounded, so that equal methods tie whatever the order of summation.
        return np.asarray(stats.rankdata(np.round(np.stack(means, axis=1), 12), axis=1), dtype=np.float64)

    from scipy import stats

    full = ranked(np.ones((1, n)), [np.ones((1, len(table))) for table in tables])[0]
    if n < MIN_PATIENTS:
        return full, None, n
    rng = np.random.default_rng(seed)
    # A stream of its own for each method: another method changes nobody's draws.
    own = [np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in values]
    drawn = []
    for start in range(0, n_boot, BATCH):
        b = min(BATCH, n_boot - start)
        seeds = [_even(of, max(1, len(table) - 1), len(table), b) for of, table in zip(own, tables, strict=True)]
        drawn.append(ranked(_even(rng, n, n, b), seeds))
    return full, np.concatenate(drawn), n


def _even(rng: np.random.Generator, times: int, among: int, size: int) -> npt.NDArray[Any]:
    """How often each of some is drawn, all alike likely (size x among)."""
    return rng.multinomial(times, np.full(among, 1 / among), size=size)
