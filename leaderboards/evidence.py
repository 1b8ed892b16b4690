"""Which test there is between two values of a metric, and its p value. Nothing is corrected here: whoever asks knows the family.

Where both have values by image, the paired Wilcoxon test over patients, on the images for which both have a value. Where both have
draws (a squared distance between sets on the same resamples of patients), the difference of the distances over its standard
deviation between draws. Where a side has several seeds, its values are averaged over them, and the p value is the larger of that
and of Student's test over seeds: the first knows no other training, the second no other patients. Pure: the values by image come
with the records.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from bench.records import LOCAL, Local
from evaluators.statistics import paired_p, patient_means
from leaderboards.tables import Column, Id, Row, score_of
from leaderboards.values import Three, Values, mean_by_image

#: A difference with a larger corrected p value is not shown.
ALPHA = 0.05
#: Grounds: values by image, or draws.
PAIRED, DRAWS = "paired", "draws"

#: A method and the metric of it that is meant.
Place = tuple[Row, Column]


@dataclass(frozen=True)
class Verdict:
    """The test of two values.

    Attributes:
        p: two-sided, not corrected.
        ground: `PAIRED` or `DRAWS`.
        seeds: whether Student's test over seeds took part.
    """

    p: float
    ground: str
    seeds: bool = False


@dataclass(frozen=True)
class Sample:
    """The values by image of a method.

    Attributes:
        seeds: one mapping a seed.
        patients: image -> patient.
        fixed: whether no training is behind it (``original``): it has no spread over seeds.
    """

    seeds: tuple[Values, ...]
    patients: Mapping[str, str]
    fixed: bool = False

    @cached_property
    def mean(self) -> Values:
        """Means over seeds; images that a seed lacks are left out, so that every image rests on all seeds."""
        return mean_by_image(self.seeds)

    def by_patient(self, images: Sequence[str]) -> list[float]:
        """One number a seed: the mean over patients of some images."""
        whose = [self.patients[image] for image in images]
        return [float(patient_means([one[image] for image in images], whose).mean()) for one in self.seeds]


@dataclass(frozen=True)
class Drawn:
    """The draws of a method.

    Attributes:
        values: one a seed.
        draws: means over seeds.
        fixed: as `Sample.fixed`.
    """

    values: tuple[float, ...]
    draws: tuple[float, ...]
    fixed: bool = False


class Evidence:
    """The tests between the rows of one table; remembers what it has read of the records."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Id], Sample | Drawn | None] = {}

    def of(self, place: Place) -> Sample | Drawn | None:
        """What a value can be tested by; None for a doubtful value, or one with neither values by image and patients nor draws."""
        row, column = place
        key = row.label, column.id
        if key not in self._known:
            cell = row.cells.get(column.id)
            self._known[key] = None if cell and cell.doubt else sample(row, column) or drawn(row, column)
        return self._known[key]

    def between(self, one: Place, other: Place) -> Verdict | None:
        """The test of two values; None where there is none."""
        first, second = self.of(one), self.of(other)
        if isinstance(first, Sample) and isinstance(second, Sample):
            return paired(first, second)
        if isinstance(first, Drawn) and isinstance(second, Drawn):
            return by_draws(first, second)
        return None


def locals_of(row: Row, column: Column) -> list[Local]:
    """What lies beside the records of a method, one a seed, where it has values by image of this metric."""
    mine = (record.get(LOCAL) for record in row.records if record.get("evaluator") == column.evaluator)
    return [local for local in mine if isinstance(local, Local) and local.of(column.key)]


def sample(row: Row, column: Column) -> Sample | None:
    """The values by image of a method; None where a seed has none, or their patients are unknown.

    A test on the seeds that are left would be of another mean than the one that is shown.
    """
    found = locals_of(row, column)
    if not found or len(found) < len(_scores(row, column)) or not all(one.patients for one in found):
        return None
    patients = {image: patient for one in found for image, patient in one.patients.items()}
    return Sample(tuple(one.of(column.key) for one in found), patients, _fixed(row, column))


def drawn(row: Row, column: Column) -> Drawn | None:
    """The draws of a method; None where a seed has none, or they are not alike in number."""
    scores = _scores(row, column)
    draws = [tuple(float(v) for v in score.get("draws") or ()) for score in scores]
    lengths = {len(some) for some in draws}
    if len(lengths) != 1 or min(lengths) < 2 or not all(math.isfinite(v) for some in draws for v in some):
        return None
    means = tuple(statistics.fmean(some) for some in zip(*draws, strict=True))
    return Drawn(tuple(float(score["value"]) for score in scores), means, _fixed(row, column))


def _scores(row: Row, column: Column) -> list[Mapping[str, Any]]:
    return [score for record in row.records if (score := score_of(record, column)).get("value") is not None]


def _fixed(row: Row, column: Column) -> bool:
    """Whether no translator is behind a value: that of ``original``, and what is measured on real images whoever's record has it."""
    return row.original or column.shared


def common(some: Sequence[Sample]) -> list[str]:
    """Images for which all have a value and a patient, sorted."""
    return sorted(set.intersection(*(set(one.mean) & set(one.patients) for one in some)))


def matched(one: Sample, other: Sample) -> Three:
    """What the paired test of two methods is of: their means over seeds, of the images in common."""
    images = common([one, other])
    first, second = (tuple(some.mean[image] for image in images) for some in (one, other))
    return first, second, tuple(one.patients[image] for image in images)


def paired(one: Sample, other: Sample) -> Verdict | None:
    """The paired test over patients, and that over seeds where there are several; None without an image in common."""
    images = common([one, other])
    if not images:
        return None
    several = max(len(one.seeds), len(other.seeds)) > 1
    seeds = over_seeds(one.by_patient(images), other.by_patient(images), one.fixed, other.fixed) if several else None
    return _larger(_p(*matched(one, other)), seeds, PAIRED)


def by_draws(one: Drawn, other: Drawn) -> Verdict | None:
    """Student's test of the difference of two distances by the spread of its draws, and that over seeds; None where the numbers of
    draws differ.

    What is reported is a distance's square, whose spread grows with it; the test is of the distances (`_root`), whose spread does not.
    """
    if len(one.draws) != len(other.draws):
        return None
    gap = _root(statistics.fmean(one.values)) - _root(statistics.fmean(other.values))
    spread = statistics.stdev([_root(a) - _root(b) for a, b in zip(one.draws, other.draws, strict=True)])
    seeds = over_seeds([_root(v) for v in one.values], [_root(v) for v in other.values], one.fixed, other.fixed)
    return _larger(_student(gap, spread, len(one.draws) - 1), seeds, DRAWS)


def _root(square: float) -> float:
    """The distance; an unbiased estimate of a square (KID) may be negative, and keeps its sign."""
    return math.copysign(math.sqrt(abs(square)), square)


def _larger(p: float, seeds: float | None, ground: str) -> Verdict:
    return Verdict(p if seeds is None else max(p, seeds), ground, seeds is not None)


def over_seeds(first: Sequence[float], second: Sequence[float], fixed: bool = False, other_fixed: bool = False) -> float | None:
    """Student's two-sided test of two methods by their values of each seed.

    Pooled variance, which a lone seed takes from the other side; against what no training is behind (`fixed`), the test of one
    sample against a number. Seeds without any spread are certain of what differs at all.

    Returns:
        p; None where no side has two seeds.
    """
    sides = [some for some, still in ((first, fixed), (second, other_fixed)) if not still]
    if max(map(len, sides), default=0) < 2:
        return None
    from scipy import stats

    means = statistics.fmean(first), statistics.fmean(second)
    if all(len(set(some)) == 1 for some in sides):
        return float(math.isclose(*means, abs_tol=1e-12))
    if len(sides) == 1:
        return float(stats.ttest_1samp(sides[0], means[0] if fixed else means[1]).pvalue)
    spread = [statistics.stdev(some) if len(some) > 1 else 0.0 for some in sides]
    return float(stats.ttest_ind_from_stats(means[0], spread[0], len(first), means[1], spread[1], len(second)).pvalue)


def _student(gap: float, error: float, freedom: int) -> float:
    """Two-sided p of a difference with its standard error. Without any error, what differs at all is certain."""
    from scipy import stats

    if error == 0:
        return float(math.isclose(gap, 0, abs_tol=1e-12))
    return float(2 * stats.t.sf(abs(gap) / error, freedom))


@lru_cache(maxsize=4096)
def _p(before: tuple[float, ...], after: tuple[float, ...], patients: tuple[str, ...]) -> float:
    """The paired test's p value. Remembered: tables, figures and the general leaderboard of one command compare the same values."""
    return paired_p(before, after, patients)
