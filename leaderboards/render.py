"""Tables -> markdown and text for a terminal; no clock, no disk.

A section of the leaderboard has the primary metrics of all evaluators in one table, then each evaluator's own metrics, its
parts, the comparisons between methods and the figures.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from bench.files import canonical_json, digest
from leaderboards import compare, details, notes
from leaderboards.cells import (
    FAILED,
    MARKDOWN,
    NARROW,
    TERMINAL,
    Grid,
    Style,
    aligned,
    count,
    heading,
    markdown,
    span,
    texts,
    title,
)
from leaderboards.groups import TEST_FIELDS, TRAIN_FIELDS, Record, order
from leaderboards.tables import Column, Row, Table, tables

#: Characters in a line of a heading where the terminal is narrow.
NARROW_HEADING = 14

#: What the digest covers: results and what they depend on, not when or where they were computed.
DIGESTED = (
    *TEST_FIELDS, *TRAIN_FIELDS, "method", "method_version", "config_fingerprint", "seed",
    "evaluator", "evaluator_version", "params", "scores", "status",
)  # fmt: skip


def leaderboard(records: Iterable[Record]) -> str:
    """All tables as markdown with everything a reader needs to judge them, the same for any order of the records."""
    records = sorted(records, key=order)
    if not records:
        return "# Leaderboard\n\nNo records yet.\n"
    parts = ["# Leaderboard", *(_section(table) for table in tables(records))]
    results = sorted(([record.get(name) for name in DIGESTED] for record in records), key=canonical_json)
    parts.append(f"{len(records)} records, digest `{digest(results)}`.")
    return "\n\n".join(parts) + "\n"


def short(records: Iterable[Record], width: int = 100) -> str:
    """The primary metrics for a terminal of `width` columns; ``*`` marks the best of a column, ``(...)`` what must not be
    relied upon."""
    parts = []
    for table in tables(records):
        columns = [column for column in table.main if column.primary]
        primary = [column for column in table.columns if column.primary and not column.part and not column.shared]
        below = [*notes.problems(table), *notes.doubts(table, primary, "(...)"), *notes.lacking(table, primary)]
        parts.append("\n".join([textwrap.fill(_title(table), width), "", *_fitted(table, columns, width), *below]))
    return "\n\n".join(parts) + "\n" if parts else "No records yet.\n"


def _fitted(table: Table, columns: Sequence[Column], width: int) -> list[str]:
    """The table for a terminal: as it is; else with headings and spreads on lines of their own; else in several, too."""
    grid = _grid(table, columns, TERMINAL)
    if _width(grid) > width:
        narrow = _grid(table, columns, NARROW)
        grid = [(textwrap.fill(head, NARROW_HEADING, break_long_words=False), column) for head, column in narrow]
    method, *rest = grid
    pieces = [[method]]
    for column in rest:
        if len(pieces[-1]) > 1 and _width([*pieces[-1], column]) > width:
            pieces.append([method])
        pieces[-1].append(column)
    return "\n\n".join(aligned(piece, "simple") for piece in pieces).splitlines()


def _width(grid: Grid) -> int:
    return max(map(len, aligned(grid, "simple").splitlines()))


def _section(table: Table) -> str:
    found = compare.compare(table)
    columns = [column for column in table.main if column.primary] or list(table.main)
    below = [
        *notes.problems(table), *notes.doubts(table, table.columns), *notes.lacking(table, table.columns),
        *(["‡ not distinguishable from the best (Holm p ≥ 0.05, see Comparisons)."] if any(found.near.values()) else []),
        *notes.real(table), *notes.cautions(table), *notes.numbers(table), *notes.spreads(table), *notes.remarks(table),
        *compare.left_out(found, table.columns), *notes.statements(table),
    ]  # fmt: skip
    grid = [*_grid(table, columns, MARKDOWN, found), *_costs(table)]
    parts = [f"## {_title(table)}", markdown(grid), "\n".join(f"- {line}" for line in below)]
    for evaluator in dict.fromkeys(column.evaluator for column in table.columns):
        mine = [column for column in table.main if column.evaluator == evaluator]
        if not set(mine) <= set(columns):
            parts += [f"### {title(evaluator)}", markdown(_grid(table, mine, MARKDOWN, found, own=True))]
        if evaluator in details.evaluators(table):
            parts += [f"### {title(evaluator)} by part", details.detail(table, evaluator)]
    pictures = notes.figures(table)
    parts += [compare.section(found), "### Figures" if pictures else "", "\n".join(f"- {line}" for line in pictures)]
    return "\n\n".join(part for part in parts if part)


def _title(table: Table) -> str:
    c = table.context
    parts = [
        f"{c['dataset']} {c['split']}".strip(),
        f"against {c['reference']} {c['reference_fingerprint'][:8]}".rstrip() if c["reference"] else "",
        f"trained on {c['train_dataset']}" if c["train_dataset"] else "",
        f"preset {c['preset']}" if c["preset"] else "",
        f"{c['image_size']} px" if c["image_size"] else "",
        f"data {c['dataset_fingerprint'][:8]}",
        f"direction {c['direction']}" if c["direction"] not in ("", "a2b") else "",
        *table.variants,
        "leaky split" if table.split_by else "",
    ]
    return " · ".join(part for part in parts if part)


def _grid(
    table: Table, columns: Sequence[Column], style: Style, found: compare.Comparisons | None = None, own: bool = False
) -> list[tuple[str, Sequence[str]]]:
    """The texts of a table: methods, metrics, n (of these metrics alone with `own`), seeds."""
    marks = notes.marks(table)
    n = [sorted({n for c in columns if c.id in row.cells for n in row.cells[c.id].n}) if own else row.n for row in table.rows]
    return [
        ("Method", [f"{row.label} [{mark}]" if mark else row.label for row, mark in zip(table.rows, marks, strict=True)]),
        *((heading(column), _column(table.rows, column, style, found)) for column in columns),
        ("n", [span(some) for some in n]),
        ("Seeds", [str(row.seeds) for row in table.rows]),
    ]


def _costs(table: Table) -> Grid:
    return [
        ("Images seen", [count(row.images_seen) for row in table.rows]),
        ("Parameters", [count(row.parameters) for row in table.rows]),
    ]


def _column(rows: Sequence[Row], column: Column, style: Style, found: compare.Comparisons | None) -> list[str]:
    cells = [row.cells.get(column.id) for row in rows]
    alike = found.near.get(column.id, frozenset()) if found else frozenset()
    words = texts(cells, column, style, [i for i, row in enumerate(rows) if row.label in alike])
    failed = [cell is None and bool(row.failed & {column.evaluator, ""}) for row, cell in zip(rows, cells, strict=True)]
    return [FAILED if lost else word for word, lost in zip(words, failed, strict=True)]
