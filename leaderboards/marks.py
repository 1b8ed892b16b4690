"""Best, second and ties of a column, the same for every table and format.

A tie is a value that is not shown to differ from the best one. Where there is a test of the two (`leaderboards.evidence`), it
decides, corrected by Holm over the comparisons with the best: other methods' differences among each other are no part of the family.
Where there is none (AUROC; distances in older records), 95 % intervals decide: those that overlap are a tie. That is no test, and it
is stated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evaluators.statistics import holm
from leaderboards.evidence import ALPHA, DRAWS, PAIRED, Evidence, Verdict
from leaderboards.sheet import BEST, SECOND, TIE
from leaderboards.tables import Column, Id, Row
from leaderboards.values import Cell, reach

#: Grounds of a decision besides the tests `PAIRED` and `DRAWS`: overlap of intervals, or the value alone, for want of any spread.
OVERLAP, VALUE = "overlap", "value"

#: The test of two rows (indices); None where there is none.
Test = Callable[[int, int], Verdict | None]

#: What a mark means.
MEANINGS = ((BEST, "bold: best"), (SECOND, "underlined: second"), (TIE, "‡: not shown to differ from the best"))
TESTS = {
    PAIRED: "paired Wilcoxon over patients",
    DRAWS: "difference of the distances (roots of what is shown) over its spread on the same resamples of patients, Student's t",
}
HOLM = f"Holm over the comparisons with the best, p ≥ {ALPHA:g}"
SEEDS = "; of several seeds the larger p of that and of Student's t over seeds"
LENIENT = (
    "95 % intervals that overlap count as a tie (else ± 1.96 standard deviations): there is nothing to test by, and this is no test"
)


@dataclass(frozen=True)
class Marks:
    """The marks of one column.

    Attributes:
        marks: one for each cell; empty for none.
        grounds: what they rest on.
        undecided: whether nothing is shown to differ from the best.
        seeds: whether any test was also made over seeds.
    """

    marks: tuple[str, ...]
    grounds: frozenset[str] = frozenset()
    undecided: bool = False
    seeds: bool = False


def overlap(one: Cell, other: Cell) -> bool | None:
    """Whether the reaches of two values touch; None where one is unknown."""
    first, second = reach(one), reach(other)
    return first[0] <= second[1] and second[0] <= first[1] if first and second else None


def marks(cells: Sequence[Cell | None], sign: int, test: Test) -> Marks:
    """Mark a column. Doubtful and missing values, and those of columns that are not ranked, have no mark; a lone value neither.

    Args:
        cells: the column.
        sign: 1 where lower is better, -1 where higher is, 0 where it is not ranked.
        test: of two of them, not corrected.

    Returns:
        `BEST` for the best value and whatever equals it, `TIE` for values not shown to differ from it, `SECOND` for the second best
        number where it is no tie.
    """
    known = {i: cell for i, cell in enumerate(cells) if cell and not cell.doubt}
    if not sign or len(known) < 2:
        return Marks(("",) * len(cells))
    values = {i: cell.value * sign for i, cell in known.items()}
    best = min(values, key=lambda i: (values[i], i))
    tested = {i: one for i in values if i != best and (one := test(best, i))}
    corrected = dict(zip(tested, holm([one.p for one in tested.values()]), strict=True))
    found = dict.fromkeys(range(len(cells)), "")
    grounds = set[str]()
    for i, value in values.items():
        if value == values[best]:
            found[i] = BEST
            continue
        tied, ground = (corrected[i] >= ALPHA, tested[i].ground) if i in tested else _touching(known[best], known[i])
        grounds.add(ground)
        found[i] = TIE if tied else ""
    second = min((value for i, value in values.items() if found[i] != BEST), default=None)
    for i, value in values.items():
        if value == second and not found[i]:
            found[i] = SECOND
    undecided = all(found[i] in (BEST, TIE) for i in values)
    return Marks(tuple(found.values()), frozenset(grounds), undecided, any(one.seeds for one in tested.values()))


def _touching(one: Cell, other: Cell) -> tuple[bool, str]:
    """Whether two values tie for want of a test, and the ground of that."""
    found = overlap(one, other)
    return bool(found), VALUE if found is None else OVERLAP


class Ranking:
    """The marks of a table's columns, each made when first asked for."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self._evidence = Evidence()
        self._known: dict[Id, Marks] = {}

    def of(self, column: Column) -> Marks:
        """The marks of a column, one for each row."""
        if column.id not in self._known:
            cells = [row.cells.get(column.id) for row in self.rows]
            self._known[column.id] = marks(cells, column.sign, lambda i, j: self._test(column, i, j))
        return self._known[column.id]

    def _test(self, column: Column, i: int, j: int) -> Verdict | None:
        return self._evidence.between((self.rows[i], column), (self.rows[j], column))

    def meanings(self, columns: Iterable[Column]) -> list[str]:
        """What the marks of some columns mean, in one line."""
        return meaning(self.of(column) for column in columns if not column.shared)

    def grounds(self, columns: Iterable[Column]) -> list[str]:
        """What the marks of some columns rest on."""
        return grounds((column.label, self.of(column)) for column in columns if not column.shared)


def meaning(ranked: Iterable[Marks], words: Sequence[tuple[str, str]] = MEANINGS) -> list[str]:
    """What the marks in use mean, in one line; nothing where there is none. `words`: of marks, as they look."""
    shown = {mark for one in ranked for mark in one.marks}
    told = [text for mark, text in words if mark in shown]
    return [f"Marks, by column: {'; '.join(told)}."] if told else []


def grounds(ranked: Iterable[tuple[str, Marks]]) -> list[str]:
    """What marks rest on, of columns by name."""
    found = list(ranked)
    lines = []
    for ground, test in TESTS.items():
        if names := _named(found, ground):
            several = SEEDS if any(one.seeds for _, one in found if ground in one.grounds) else ""
            lines.append(f"Ties of {names}: {test}{several}; {HOLM}.")
    if names := _named(found, OVERLAP):
        lines.append(f"Ties of {names}: {LENIENT}.")
    if names := _named(found, VALUE):
        lines.append(f"Marked by the value alone, as no spread is known: some of {names}.")
    return lines


def _named(ranked: Sequence[tuple[str, Marks]], ground: str) -> str:
    return ", ".join(dict.fromkeys(name for name, one in ranked if ground in one.grounds))
