"""Methods against each other on the same images: paired tests, ranks, and what cannot be told from the best.

The unit is the patient, and a pair is compared on the images for which both have a value. The tests of one metric are one
family. Pure: the values by image come with the records (`bench.records.Local`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from bench.records import LOCAL, Local
from evaluators.statistics import EXACT, Paired, Rank, holm, paired_test, patient_means, rank_intervals
from leaderboards.cells import MISSING, heading, interval, markdown, number
from leaderboards.subjects import labels
from leaderboards.tables import Column, Id, Row, Table

#: A difference with a larger corrected p value is no difference.
ALPHA = 0.05
#: Resamples behind the intervals of shifts: they are most of what a leaderboard costs.
N_BOOT = 500
SEED = 0
#: A table of more pairs than this is folded.
LONG = 30

Values = Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """One test of two methods (row labels); differences are `second` - `first`.

    Attributes:
        p: two-sided Wilcoxon signed-rank; exact where few patients changed (`EXACT`).
        p_holm: corrected for the number of pairs of its family.
    """

    first: str
    second: str
    paired: Paired
    p: float
    p_holm: float


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

    def apart(self, one: str, other: str) -> bool | None:
        """Whether two methods differ; None where they were not compared."""
        found = next((pair for pair in self.pairs if {pair.first, pair.second} == {one, other}), None)
        return found.p_holm < ALPHA if found else None


@dataclass(frozen=True)
class Comparisons:
    """What the rows of a table tell of each other.

    Attributes:
        families: by metric.
        blind: metric -> methods that have a value of it but none by image; empty for all of them.
        nameless: methods whose values by image were written without patients.
        near: column id -> labels of the methods that cannot be told from the best one.
    """

    families: tuple[Family, ...] = ()
    blind: Mapping[Column, tuple[str, ...]] = field(default_factory=dict)
    nameless: tuple[str, ...] = ()
    near: Mapping[Id, frozenset[str]] = field(default_factory=dict)


def compare(table: Table) -> Comparisons:
    """Compare the rows of a table in each of its primary metrics. Doubtful values are left out."""
    families, blind, nameless, near = [], {}, dict[str, None](), {}
    for column in (c for c in table.main if c.primary):
        rows = [row for row in table.rows if column.id in row.cells and not row.cells[column.id].doubt]
        local = {row.label: _by_image(row, column) for row in rows}
        nameless |= {label: None for label, found in local.items() if not all(one.patients for one in found)}
        named = {label: found for label, found in local.items() if found and label not in nameless}
        if len(named) > 1:
            family = _family(column, named)
            families.append(family)
            near[column.id] = _near(family, rows)
        without = tuple(label for label, found in local.items() if not found)
        if without and len(rows) > 1:
            blind[column] = without if len(without) < len(rows) else ()
    return Comparisons(tuple(families), blind, tuple(nameless), near)


def _by_image(row: Row, column: Column) -> list[Local]:
    """What lies beside the records of a method, one a seed, where it has values of this metric."""
    mine = (record.get(LOCAL) for record in row.records if record.get("evaluator") == column.evaluator)
    return [local for local in mine if isinstance(local, Local) and local.values.get(column.key)]


def _family(column: Column, local: Mapping[str, Sequence[Local]]) -> Family:
    values = {label: _over_seeds([one.values[column.key] for one in found]) for label, found in local.items()}
    patients = {image: patient for found in local.values() for one in found for image, patient in one.patients.items()}
    tested = []
    for first, second in combinations(values, 2):
        images = _common([values[first], values[second]], patients)
        if images:
            before, after = ([values[label][image] for image in images] for label in (first, second))
            paired = paired_test(before, after, [patients[i] for i in images], SEED, N_BOOT, n_permutations=2**EXACT)
            tested.append((first, second, paired, paired.best_p))
    adjusted = holm([p for *_, p in tested])
    return Family(
        column=column,
        pairs=tuple(Pair(*test, p_holm) for test, p_holm in zip(tested, adjusted, strict=True)),
        ranks=_ranks(column, values, patients),
        pooled=tuple(label for label, found in local.items() if len(found) > 1),
    )


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


def _near(family: Family, rows: Sequence[Row]) -> frozenset[str]:
    """Methods whose difference from the best value in the table is no difference."""
    if not family.column.sign:
        return frozenset()
    best = min(rows, key=lambda row: row.cells[family.column.id].value * family.column.sign).label
    return frozenset(row.label for row in rows if family.apart(best, row.label) is False)


# -- text --------------------------------------------------------------------------------------------------------------------


def section(found: Comparisons) -> str:
    """The comparisons as markdown; empty where there are none."""
    if not found.families:
        return ""
    pairs = _pair_table(found.families)
    if sum(len(family.pairs) for family in found.families) > LONG:
        pairs = f"<details><summary>All pairs</summary>\n\n{pairs}\n\n</details>"
    ranked = [family for family in found.families if family.ranks]
    return "\n\n".join(["### Comparisons", pairs, *([_rank_table(ranked)] if ranked else []), "\n".join(_about(found))])


def _pair_table(families: Sequence[Family]) -> str:
    rows = [(family.column, pair) for family in families for pair in family.pairs]
    shifts = [f"{number(pair.paired.shift, c.digits)} {interval(pair.paired.shift_ci, c.digits)}" for c, pair in rows]
    grid = [
        ("Metric", [heading(column) for column, _ in rows]),
        ("A", [pair.first for _, pair in rows]),
        ("B", [pair.second for _, pair in rows]),
        ("Shift B - A [95 % CI]", shifts),
        ("Effect", [number(pair.paired.effect, 2) for _, pair in rows]),
        ("Patients", [str(pair.paired.n) for _, pair in rows]),
        ("p", [_p(pair.p) for _, pair in rows]),
        ("p (Holm)", [_p(pair.p_holm) for _, pair in rows]),
    ]
    return markdown(grid, left=3)


def _rank_table(families: Sequence[Family]) -> str:
    rows = [
        (family.column, label, rank)
        for family in families
        for label, rank in sorted(family.ranks.items(), key=lambda item: item[1].rank)
    ]
    grid = [
        ("Metric", [heading(column) for column, *_ in rows]),
        ("Method", [label for _, label, _ in rows]),
        ("Rank [95 % CI]", [f"{rank.rank:g} {_ends(rank)}" for *_, rank in rows]),
        ("P(first)", [MISSING if rank.first is None else number(rank.first, 2) for *_, rank in rows]),
        ("Patients", [str(rank.patients) for *_, rank in rows]),
    ]
    return markdown(grid, left=2)


def _ends(rank: Rank) -> str:
    return MISSING if rank.low is None or rank.high is None else f"[{rank.low:g}, {rank.high:g}]"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else number(value, 3)


def _about(found: Comparisons) -> list[str]:
    sizes: dict[tuple[str, str], list[Column]] = {}
    for family in found.families:
        some = sorted({pair.paired.n for pair in family.pairs})
        patients = f"{some[0]} to {some[-1]}" if len(some) > 1 else str(some[0]) if some else "0"
        sizes.setdefault((patients, str(len(family.pairs))), []).append(family.column)
    pooled: dict[str, None] = dict.fromkeys(label for family in found.families for label in family.pooled)
    lines = []
    for (n, k), columns in sizes.items():
        which = f": {labels(columns)}" if len(sizes) > 1 else " of each metric" if len(columns) > 1 else ""
        lines.append(f"- Paired Wilcoxon over {n} patients, Holm over {k} comparison{'s' if k != '1' else ''}{which}.")
    lines.append(
        f"- Two-sided, Pratt's zeros; exact where at most {EXACT} patients changed. Shift: Hodges-Lehmann pseudo-median of the "
        "patients' differences. Effect: rank-biserial, from -1 (B lower in every patient that changed) to 1. Ranks are by the "
        "mean over patients of the values by image."
    )
    if pooled:
        lines.append(f"- Several seeds are averaged image by image first: {', '.join(pooled)}.")
    return [*lines, *(f"- {line}" for line in left_out(found))]


def left_out(found: Comparisons) -> list[str]:
    """What was not compared, and why."""
    lines = []
    if found.blind:
        whom = dict.fromkeys(found.blind.values())
        metrics = [(labels(c for c, some in found.blind.items() if some == who), who) for who in whom]
        told = "; ".join(f"{words} of {', '.join(who)}" if who else words for words, who in metrics)
        lines.append(f"Not compared between methods, for lack of values by image: {told}.")
    if found.nameless:
        lines.append(
            f"Not compared: {', '.join(found.nameless)}. The values by image do not name their patients: "
            "score again with --force score."
        )
    return lines
