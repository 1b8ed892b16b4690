"""Values -> text: the only place that rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from leaderboards.changes import is_p
from leaderboards.sheet import BEST, SECOND, TIE, Head
from leaderboards.tables import Column
from leaderboards.values import Cell

MISSING = "\u2013"
FAILED = "failed"
ARROWS = {"lower": " ↓", "higher": " ↑"}
#: Longest confidence interval, in characters, that still goes into a cell.
SHORT_CI = 18


@dataclass(frozen=True)
class Style:
    """How values are marked.

    Attributes:
        best: format of the best value of a column.
        second: format of the second best.
        near: format of values not shown to differ from the best.
        doubt: format of values that must not be relied upon.
        brief: intervals get two digits of their half-width, empty ones are left out, and so is a standard deviation beside one.
        spread: whether there are intervals and standard deviations.
    """

    best: str = "**{}**"
    second: str = "<ins>{}</ins>"
    near: str = "{} ‡"
    doubt: str = "{} †"
    brief: bool = False
    spread: bool = True


MARKDOWN = Style()
TERMINAL = Style("{} *", "{}", "{} ~", "({})", brief=True)
BARE = Style("{} *", "{}", "{} ~", "({})", spread=False)


def texts(cells: Sequence[Cell | None], column: Column, style: Style, marks: Sequence[str] = ()) -> list[str]:
    """A column's texts, missing values as dashes, doubtful ones as such.

    Args:
        cells: of one column.
        column: the metric.
        style: how to mark.
        marks: of each cell (`leaderboards.marks`); none for none at all.
    """
    forms = {BEST: style.best, SECOND: style.second, TIE: style.near}
    found = []
    for cell, mark in zip(cells, marks or [""] * len(cells), strict=True):
        if cell is None:
            found.append(MISSING)
            continue
        value = p_value(cell.value, column.digits) if is_p(column) else number(cell.value, column.digits)
        rest = spread(cell, column.digits, style.brief) if style.spread else []
        if cell.doubt:
            found.append(style.doubt.format(" ".join([value, *rest])))
        else:
            found.append(" ".join([forms.get(mark, "{}").format(value), *rest]))
    return found


def p_value(value: float, digits: int = 4) -> str:
    """A p value; what would be rounded to zero is "less than" the last digit."""
    return f"<{10**-digits:.{digits}f}" if 0 <= value < 10**-digits else number(value, digits)


def number(value: float, digits: int) -> str:
    """Rounded; a zero has no sign."""
    found = f"{value:.{digits}f}"
    return found.removeprefix("-") if float(found) == 0 else found


def interval(ci: tuple[float, float] | None, digits: int) -> str:
    """``[low, high]``; a dash for none."""
    return f"[{number(ci[0], digits)}, {number(ci[1], digits)}]" if ci else MISSING


def shown_std(cell: Cell) -> float | None:
    """The standard deviation that a paper table shows: over seeds, or of what has no interval. What decides ties is shown, and a
    spread over subsets or folds does not where there is an interval."""
    return cell.std if cell.seeds > 1 or not cell.ci else None


def spread(cell: Cell, digits: int, brief: bool = False) -> list[str]:
    """Standard deviation and interval, as far as there are any and as far as there is room; see `Style.brief`."""
    std = [f"± {number(cell.std, digits)}"] if cell.std is not None else []
    if not cell.ci:
        return std
    half = (cell.ci[1] - cell.ci[0]) / 2
    if brief and half <= 0:
        return std
    digits = min(digits, max(0, 1 - math.floor(math.log10(half)))) if brief else digits
    ci = interval(cell.ci, digits)
    if len(ci) > SHORT_CI:
        return std
    return [ci] if brief else [*std, ci]


def hours(seconds: float | None, gpu_seconds: float | None) -> str:
    """Cost of a training: hours of GPUs, all of them added up, or of a machine without one."""
    if seconds is None:
        return MISSING
    time, unit = (gpu_seconds, "GPU h") if gpu_seconds else (seconds, "CPU h")
    value = time / 3600
    if round(value, 1) >= 10:
        return f"{value:,.0f} {unit}"
    return f"{value:.2g} {unit}" if value >= 0.01 else f"<0.01 {unit}"


def count(value: int | None) -> str:
    """1234567 -> ``1.23 M``."""
    if value is None:
        return MISSING
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def span(numbers: Sequence[int]) -> str:
    """First and last of some sorted numbers; a dash for none."""
    return MISSING.join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1]))) if numbers else MISSING


def heading(column: Column | Head) -> str:
    """Label, unit and direction."""
    unit = f" ({column.unit})" if column.unit else ""
    return f"{column.label}{unit}{ARROWS.get(column.better, '')}"


#: A heading and the texts below it, for each column.
Grid = Sequence[tuple[str, Sequence[str]]]


def markdown(grid: Grid, left: int = 1) -> str:
    """A markdown table; the first `left` columns are aligned to the left, the others to the right."""
    return aligned([(_safe(head), [_safe(words) for words in column]) for head, column in grid], "pipe", left)


def _safe(words: str) -> str:
    return words.replace("|", "\\|")


def aligned(grid: Grid, form: str, left: int = 1) -> str:
    """A table of texts in one of tabulate's formats."""
    rows = zip(*(column for _, column in grid), strict=True)
    sides = ["left"] * left + ["right"] * (len(grid) - left)
    return tabulate(list(rows), [head for head, _ in grid], form, disable_numparse=True, colalign=sides)
