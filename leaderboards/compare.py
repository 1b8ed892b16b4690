"""Methods against each other on the same images: paired tests, ranks, and what cannot be told from the best.

The unit is the patient, and a pair is compared on the images for which both have a value. The tests of one metric are one
family. Pure: the values by image come with the records (`bench.records.Local`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

from bench.records import LOCAL, Local
from evaluators.ranks import Rank, rank_intervals
from evaluators.statistics import EXACT, Paired, holm, paired_p, paired_test, patient_means
from leaderboards.tables import Column, Id, Row, Table

#: A difference with a larger corrected p value is no difference.
ALPHA = 0.05
#: Resamples behind the intervals of shifts: they are most of what a leaderboard costs.
N_BOOT = 500
SEED = 0

Values = Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """One test of two methods (row labels); differences are `second` - `first`.

    Attributes:
        p: two-sided Wilcoxon signed-rank; exact where few patients changed (`EXACT`).
        p_holm: corrected for the number of pairs of its family.
        values: by image, of `first` and `second`; whose images these are.
    """

    first: str
    second: str
    p: float
    p_holm: float
    values: tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]] = field(repr=False)

    @property
    def paired(self) -> Paired:
        """Shift with its interval, effect and numbers of patients; computed when asked for, once in a process."""
        return _tested(*self.values, N_BOOT)


@dataclass(frozen=True)
class Family:
    """All comparisons of one metric.

    Attributes:
        column: the metric.
        pairs: every pair of methods, in table order.
        ranks: method -> rank among all of them; empty where the metric is not ranked or no image is common to all.
        pooled: methods whose values are means over several seeds.
    """

    column: Column
    pairs: tuple[Pair, ...]
    ranks: Mapping[str, Rank]
    pooled: tuple[str, ...]

    def pair(self, one: str, other: str) -> Pair | None:
        """The test of two methods, in whatever order; None where they were not compared."""
        return next((pair for pair in self.pairs if {pair.first, pair.second} == {one, other}), None)

    def apart(self, one: str, other: str) -> bool | None:
        """Whether two methods differ; None where they were not compared."""
        found = self.pair(one, other)
        return found.p_holm < ALPHA if found else None


@dataclass(frozen=True)
class Comparisons:
    """What the rows of a table tell of each other.

    Attributes:
        families: by metric.
        blind: metric -> methods that have a value of it but none by image; empty for all of them.
        nameless: methods whose values by image were written without patients.
        near: column id -> labels of the methods that cannot be told from the best one.
        best: column id -> label of the method with the best value in the table; none where the metric is not ranked.
        methods: labels of all rows, in table order.
        original: label of the do-nothing row; empty where there is none.
    """

    families: tuple[Family, ...] = ()
    blind: Mapping[Column, tuple[str, ...]] = field(default_factory=dict)
    nameless: tuple[str, ...] = ()
    near: Mapping[Id, frozenset[str]] = field(default_factory=dict)
    best: Mapping[Id, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    original: str = ""


def compare(table: Table) -> Comparisons:
    """Compare the rows of a table in each of its primary metrics. Doubtful values are left out."""
    families, blind, nameless, near, best = [], {}, dict[str, None](), {}, dict[Id, str]()
    for column in (c for c in table.main if c.primary):
        rows = [row for row in table.rows if column.id in row.cells and not row.cells[column.id].doubt]
        local = {row.label: _by_image(row, column) for row in rows}
        nameless |= {label: None for label, found in local.items() if not all(one.patients for one in found)}
        named = {label: found for label, found in local.items() if found and label not in nameless}
        if len(named) > 1:
            family = _family(column, named)
            families.append(family)
            leader = _best(column, rows)
            near[column.id] = _near(family, rows, leader)
            best |= {column.id: leader} if leader else {}
        without = tuple(label for label, found in local.items() if not found)
        if without and len(rows) > 1:
            blind[column] = without if len(without) < len(rows) else ()
    original = next((row.label for row in table.rows if row.original), "")
    return Comparisons(tuple(families), blind, tuple(nameless), near, best, tuple(row.label for row in table.rows), original)


def _by_image(row: Row, column: Column) -> list[Local]:
    """What lies beside the records of a method, one a seed, where it has values of this metric."""
    return [local for local in _locals(row, column) if local.values.get(column.key)]


def by_image(row: Row, column: Column) -> bool:
    """Whether there are values by image of any metric, primary or not."""
    return any(local.of(column.key) for local in _locals(row, column))


def _locals(row: Row, column: Column) -> list[Local]:
    mine = (record.get(LOCAL) for record in row.records if record.get("evaluator") == column.evaluator)
    return [local for local in mine if isinstance(local, Local)]


def apart(own: Mapping[str, tuple[Row, Column]]) -> Mapping[tuple[str, str], bool]:
    """Which values of a column of a paper table differ, by the test of `compare`; all pairs are one family.

    Args:
        own: name of a line -> the method and the metric that stand there, which for parts may be another in each line.

    Returns:
        (one, other) in either order -> whether they do. Pairs without values by image and patients, or doubtful, are left out.
    """
    values, patients = {}, dict[str, str]()
    for name, (row, column) in own.items():
        found = [local for local in _locals(row, column) if local.of(column.key)]
        cell = row.cells.get(column.id)
        if found and all(one.patients for one in found) and not (cell and cell.doubt):
            values[name] = _over_seeds([one.of(column.key) for one in found])
            patients |= {image: patient for one in found for image, patient in one.patients.items()}
    tested = _tests(values, patients)
    corrected = holm([_p(*pair) for *_, pair in tested])
    found_apart = {(a, b): p < ALPHA for (a, b, _), p in zip(tested, corrected, strict=True)}
    return found_apart | {(b, a): differ for (a, b), differ in found_apart.items()}


def _family(column: Column, local: Mapping[str, Sequence[Local]]) -> Family:
    values = {label: _over_seeds([one.values[column.key] for one in found]) for label, found in local.items()}
    patients = {image: patient for found in local.values() for one in found for image, patient in one.patients.items()}
    tested = _tests(values, patients)
    p = [_p(*own) for *_, own in tested]
    return Family(
        column=column,
        pairs=tuple(Pair(a, b, one, corrected, own) for (a, b, own), one, corrected in zip(tested, p, holm(p), strict=True)),
        ranks=_ranks(column, values, patients),
        pooled=tuple(label for label, found in local.items() if len(found) > 1),
    )


_Test = tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]


def _tests(values: Mapping[str, Values], patients: Mapping[str, str]) -> list[tuple[str, str, _Test]]:
    """What the test of each pair is of; pairs without an image in common are left out."""
    tested = []
    for first, second in combinations(values, 2):
        images = _common([values[first], values[second]], patients)
        if images:
            before, after = (tuple(values[label][image] for image in images) for label in (first, second))
            tested.append((first, second, (before, after, tuple(patients[i] for i in images))))
    return tested


# The paper's tables, the figures and the general leaderboard of one command compare the same values: remembered.


@lru_cache(maxsize=4096)
def _p(before: tuple[float, ...], after: tuple[float, ...], patients: tuple[str, ...]) -> float:
    return paired_p(before, after, patients)


@lru_cache(maxsize=4096)
def _tested(before: tuple[float, ...], after: tuple[float, ...], patients: tuple[str, ...], n_boot: int) -> Paired:
    return paired_test(before, after, patients, SEED, n_boot, n_permutations=2**EXACT)


def _over_seeds(values: Sequence[Values]) -> Values:
    """Mean over seeds of each image's value; images that a seed lacks are left out, so that every image rests on all seeds."""
    return {image: sum(one[image] for one in values) / len(values) for image in values[0] if all(image in v for v in values)}


def _common(values: Sequence[Values], patients: Mapping[str, str]) -> list[str]:
    return sorted(set(patients).intersection(*values))


def _ranks(column: Column, values: Mapping[str, Values], patients: Mapping[str, str]) -> dict[str, Rank]:
    images = _common(list(values.values()), patients)
    if not column.sign or not images:
        return {}
    whose = [patients[image] for image in images]
    ordered = sorted(set(whose))
    means = {
        label: dict(zip(ordered, patient_means([own[image] for image in images], whose).tolist(), strict=True))
        for label, own in values.items()
    }
    return rank_intervals(means, column.better, SEED)


def _best(column: Column, rows: Sequence[Row]) -> str:
    """The method with the best value; empty where the metric is not ranked."""
    return min(rows, key=lambda row: row.cells[column.id].value * column.sign).label if column.sign else ""


def _near(family: Family, rows: Sequence[Row], best: str) -> frozenset[str]:
    """Methods whose difference from the best value in the table is no difference."""
    return frozenset(row.label for row in rows if best and family.apart(best, row.label) is False)
