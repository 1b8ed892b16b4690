"""Methods against each other on the same images: paired tests, ranks, and differences from one of them.

The unit is the patient, and a pair is compared on the images for which both have a value (`leaderboards.evidence`). Two families are
planned for each metric: all pairs, and the comparisons with one method (the best, ``original``), which other methods' differences
among each other do not enter. Pure: the values by image come with the records (`bench.records.Local`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

from evaluators.ranks import Rank, rank_intervals
from evaluators.statistics import EXACT, Paired, holm, paired_test, patient_means
from leaderboards.evidence import Drawn, Evidence, Sample, common, locals_of, matched, paired
from leaderboards.tables import Column, Id, Table
from leaderboards.values import Three

#: Resamples behind the intervals of shifts: they are most of what a leaderboard costs.
N_BOOT = 500
SEED = 0


@dataclass(frozen=True)
class Pair:
    """One test of two methods (row labels); differences are `second` - `first`.

    Attributes:
        p: two-sided Wilcoxon signed-rank; exact where few patients changed (`EXACT`). Where there are several seeds, Student's test
            over seeds if that is larger.
        p_holm: corrected for the number of pairs of its family.
        values: by image, of `first` and `second`; whose images these are.
        seeds: whether seeds were tested, too.
    """

    first: str
    second: str
    p: float
    p_holm: float
    values: Three = field(repr=False)
    seeds: bool = False

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

    def against(self, base: str) -> dict[str, float]:
        """p values of the comparisons with one method, corrected for the number of these alone: other method -> p."""
        own = [pair for pair in self.pairs if base in (pair.first, pair.second)]
        others = [pair.second if pair.first == base else pair.first for pair in own]
        return dict(zip(others, holm([pair.p for pair in own]), strict=True))


@dataclass(frozen=True)
class Comparisons:
    """What the rows of a table tell of each other.

    Attributes:
        families: by metric.
        blind: metric -> methods that have a value of it but none by image; empty for all of them.
        nameless: methods whose values by image some seed lacks, or were written without patients.
        drawn: metrics without values by image of which methods have draws: marks rest on those.
        best: column id -> label of the method with the best value in the table; none where the metric is not ranked.
        methods: labels of all rows, in table order.
        original: label of the do-nothing row; empty where there is none.
    """

    families: tuple[Family, ...] = ()
    blind: Mapping[Column, tuple[str, ...]] = field(default_factory=dict)
    nameless: tuple[str, ...] = ()
    drawn: tuple[Column, ...] = ()
    best: Mapping[Id, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    original: str = ""


def compare(table: Table) -> Comparisons:
    """Compare the rows of a table in each of its primary metrics. Doubtful values are left out."""
    families, blind, nameless, best, by_draws = [], {}, dict[str, None](), dict[Id, str](), list[Column]()
    evidence = Evidence()
    for column in (c for c in table.main if c.primary):
        rows = [row for row in table.rows if column.id in row.cells and not row.cells[column.id].doubt]
        found = {row.label: evidence.of((row, column)) for row in rows}
        known = {label: one for label, one in found.items() if isinstance(one, Sample)}
        have = {row.label for row in rows if locals_of(row, column)}
        nameless |= dict.fromkeys(row.label for row in rows if row.label in have and row.label not in known)
        if len(known) > 1:
            families.append(_family(column, known))
            if column.sign:
                best[column.id] = min(rows, key=lambda row: row.cells[column.id].value * column.sign).label
        without = tuple(row.label for row in rows if row.label not in have)
        if without and len(rows) > 1:
            blind[column] = without if len(without) < len(rows) else ()
        if sum(isinstance(found[label], Drawn) for label in without) > 1:
            by_draws.append(column)
    original = next((row.label for row in table.rows if row.original), "")
    labels = tuple(row.label for row in table.rows)
    return Comparisons(tuple(families), blind, tuple(nameless), tuple(by_draws), best, labels, original)


def _family(column: Column, known: Mapping[str, Sample]) -> Family:
    tested = [(one, other, test) for one, other in combinations(known, 2) if (test := paired(known[one], known[other]))]
    corrected = holm([test.p for *_, test in tested])
    return Family(
        column=column,
        pairs=tuple(
            Pair(one, other, test.p, p, matched(known[one], known[other]), test.seeds)
            for (one, other, test), p in zip(tested, corrected, strict=True)
        ),
        ranks=_ranks(column, known),
        pooled=tuple(label for label, one in known.items() if len(one.seeds) > 1),
    )


@lru_cache(maxsize=4096)
def _tested(before: tuple[float, ...], after: tuple[float, ...], patients: tuple[str, ...], n_boot: int) -> Paired:
    """All that a test tells. Remembered: tables, figures and the general leaderboard of one command compare the same values."""
    return paired_test(before, after, patients, SEED, n_boot, n_permutations=2**EXACT)


def _ranks(column: Column, known: Mapping[str, Sample]) -> dict[str, Rank]:
    images = common(list(known.values()))
    if not column.sign or not images:
        return {}
    patients = {image: patient for one in known.values() for image, patient in one.patients.items()}
    whose = [patients[image] for image in images]
    ordered = sorted(set(whose))
    means = {
        label: [dict(zip(ordered, patient_means([own[image] for image in images], whose).tolist(), strict=True)) for own in one.seeds]
        for label, one in known.items()
    }
    return rank_intervals(means, column.better, SEED)
