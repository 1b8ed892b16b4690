"""Best, second and ties of a column of a paper table.

A tie is a value that cannot be told from the best one. Where both have values by image, a paired test over patients decides
(`leaderboards.compare`, corrected by Holm). Where there are none (distances of whole sets, AUROC) 95 % intervals decide: those that
overlap are a tie. That is no test, and it is stated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from leaderboards.sheet import BEST, SECOND, TIE
from leaderboards.tables import Cell

#: Grounds of a decision: paired test, overlap of spreads, or the value alone, for want of any spread.
PAIRED, OVERLAP, VALUE = "paired", "overlap", "value"

#: 97.5 % of the normal distribution.
NORMAL = 1.96

#: Whether a paired test tells two rows (indices) apart; None where there is none.
Apart = Callable[[int, int], bool | None]


@dataclass(frozen=True)
class Marks:
    """The marks of one column.

    Attributes:
        marks: one for each cell; empty for none.
        grounds: what they rest on.
        undecided: whether nothing can be told from the best.
    """

    marks: tuple[str, ...]
    grounds: frozenset[str] = frozenset()
    undecided: bool = False


def reach(cell: Cell) -> tuple[float, float] | None:
    """A 95 % interval of a value; None where nothing is known of its spread.

    Over patients where that is known. Of several seeds, that or Student's over seeds, whichever is wider: seeds say nothing of other
    patients, nor patients of other seeds. Without either, 1.96 standard deviations to each side.
    """
    found = [cell.ci] if cell.ci else []
    if cell.std is not None and cell.seeds > 1:
        half = _quantile(cell.seeds - 1) * cell.std / math.sqrt(cell.seeds)
        found.append((cell.value - half, cell.value + half))
    elif cell.std is not None and not found:
        found.append((cell.value - NORMAL * cell.std, cell.value + NORMAL * cell.std))
    return max(found, key=lambda ends: ends[1] - ends[0]) if found else None


@cache
def _quantile(freedom: int) -> float:
    """97.5 % of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def overlap(one: Cell, other: Cell) -> bool | None:
    """Whether the reaches of two values touch; None where one is unknown."""
    first, second = reach(one), reach(other)
    return first[0] <= second[1] and second[0] <= first[1] if first and second else None


def marks(cells: Sequence[Cell | None], sign: int, apart: Apart) -> Marks:
    """Mark a column. Doubtful and missing values, and those of columns that are not ranked, have no mark; a lone value neither.

    Args:
        cells: the column.
        sign: 1 where lower is better, -1 where higher is, 0 where it is not ranked.
        apart: the paired test.

    Returns:
        `BEST` for the best value and whatever equals it, `TIE` for values that cannot be told from it, `SECOND` for the second best
        number where it is no tie.
    """
    values = {i: cell.value * sign for i, cell in enumerate(cells) if cell and not cell.doubt}
    if not sign or len(values) < 2:
        return Marks(("",) * len(cells))
    best = min(values, key=lambda i: (values[i], i))
    found = dict.fromkeys(range(len(cells)), "")
    grounds = set[str]()
    for i, value in values.items():
        if value == values[best]:
            found[i] = BEST
            continue
        tied, ground = _tied(cells, best, i, apart)
        grounds.add(ground)
        found[i] = TIE if tied else ""
    worse = [value for i, value in values.items() if found[i] != BEST]
    for i, value in values.items():
        if worse and value == min(worse) and not found[i]:
            found[i] = SECOND
    return Marks(tuple(found.values()), frozenset(grounds), all(found[i] in (BEST, TIE) for i in values))


def _tied(cells: Sequence[Cell | None], best: int, i: int, apart: Apart) -> tuple[bool, str]:
    tested = apart(best, i)
    if tested is not None:
        return not tested, PAIRED
    one, other = cells[best], cells[i]
    touching = overlap(one, other) if one and other else None
    return bool(touching), VALUE if touching is None else OVERLAP
