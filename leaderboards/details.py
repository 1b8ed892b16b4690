"""Tables of one evaluator's parts: a segmenter, a classifier on one kind of training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboards.cells import FAILED, MARKDOWN, MISSING, heading, markdown, span, texts
from leaderboards.marks import Ranking
from leaderboards.tables import Column, Table
from leaderboards.values import Cell

REAL = "real images"


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        part: what it is about.
        method: label of the method, or that the values are of real images alone.
        cells: heading -> metric and value; None where the value is missing.
        failed: whether the evaluator failed for this method.
    """

    part: str
    method: str
    cells: dict[str, tuple[Column, Cell | None]]
    failed: bool = False


def evaluators(table: Table) -> list[str]:
    """Those that have parts with values, in table order."""
    return list(dict.fromkeys(c.evaluator for c in table.columns if c.part and table.filled(c)))


def lines(table: Table, evaluator: str) -> list[Line]:
    """Rows of an evaluator's table: part by part, what depends on real images alone first and once, then the methods."""
    found = []
    headings = _headings(table, evaluator)
    for part in dict.fromkeys(column.part for column in headings):
        mine = {column: name for column, name in headings.items() if column.part == part}
        shared = [column for column in mine if column.shared]
        for methods in dict.fromkeys(real.methods for column in shared for real in table.real.get(column.id, ())):
            whose = f"{REAL} ({', '.join(methods)})" if methods else REAL
            cells = {
                mine[c]: (c, next((r.cell for r in table.real.get(c.id, ()) if r.methods == methods), None)) for c in shared
            }
            found.append(Line(part, whose, cells))
        own = [column for column in mine if not column.shared]
        for row in table.rows if own else ():
            cells = {mine[column]: (column, row.cells.get(column.id)) for column in own}
            failed = bool(row.failed & {evaluator, ""})
            if failed or any(cell for _, cell in cells.values()):
                found.append(Line(part, row.label, cells, failed))
    return found


def _headings(table: Table, evaluator: str) -> dict[Column, str]:
    """Filled columns of parts -> heading. Parts share a heading where label, unit and direction agree (what is not ranked goes
    with what is); two metrics of one part never do."""
    found: dict[Column, str] = {}
    taken: set[tuple[str, str]] = set()
    filled = [c for c in table.columns if c.part and c.evaluator == evaluator and table.filled(c)]
    for column in filled:
        alike = [c for c in filled if (c.label, c.unit) == (column.label, column.unit)]
        name = heading(column if column.sign else next((c for c in alike if c.sign), column))
        if (column.part, name) in taken:
            name = f"{name} ({column.key})"
        taken.add((column.part, name))
        found[column] = name
    return found


def doubted(table: Table, evaluator: str) -> tuple[str, ...]:
    """Why no value of an evaluator's table may be relied upon; empty where any may."""
    cells = [cell for row in lines(table, evaluator) for _, cell in row.cells.values() if cell]
    reasons = {" ".join(cell.doubt.split()).rstrip(".") for cell in cells}
    return () if "" in reasons else tuple(sorted(reasons))


def detail(table: Table, evaluator: str, ranking: Ranking) -> str:
    """The markdown table; marks hold within each part."""
    rows = lines(table, evaluator)
    order = list(dict.fromkeys(_headings(table, evaluator).values()))
    n = [span(sorted({n for _, cell in row.cells.values() if cell for n in cell.n})) for row in rows]
    values = [(name, _column(rows, name, ranking)) for name in order]
    grid = [("Part", [r.part for r in rows]), ("Method", [r.method for r in rows]), *values, ("n", n)]
    seeds = [sorted({cell.seeds for _, cell in row.cells.values() if cell}) for row in rows]
    if any(max(some, default=1) > 1 for some in seeds):
        grid.append(("Seeds", [span(some) for some in seeds]))
    return markdown(grid, left=2)


def _column(rows: Sequence[Line], name: str, ranking: Ranking) -> list[str]:
    found = [FAILED if row.failed else MISSING for row in rows]
    for part in dict.fromkeys(row.part for row in rows):
        here = [(i, *row.cells[name]) for i, row in enumerate(rows) if row.part == part and name in row.cells]
        for column in dict.fromkeys(column for _, column, _ in here):
            mine = [(i, cell) for i, other, cell in here if other == column]
            given = {} if column.shared else dict(zip((r.label for r in ranking.rows), ranking.of(column).marks, strict=True))
            marked = [given.get(rows[i].method, "") for i, _ in mine]
            for (i, cell), words in zip(mine, texts([cell for _, cell in mine], column, MARKDOWN, marked), strict=True):
                found[i] = words if cell else found[i]
    return found
