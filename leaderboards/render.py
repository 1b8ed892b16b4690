"""Tables -> markdown and text for a terminal; no clock, no disk.

A section of the leaderboard has the primary metrics of all evaluators in one table, then the comparisons between methods, then
for each evaluator its own metrics and its parts, and the figures; below each table stands what concerns its numbers. The figures
themselves stand at the end.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from leaderboards import about, compare, details, differences, notes
from leaderboards.cells import (
    ARROWS,
    BARE,
    FAILED,
    MARKDOWN,
    TERMINAL,
    Grid,
    Style,
    aligned,
    count,
    heading,
    hours,
    markdown,
    span,
    texts,
)
from leaderboards.groups import Record, digest_of, order, outdone, undecidable
from leaderboards.marks import Ranking, meaning
from leaderboards.sheet import BEST, TIE
from leaderboards.subjects import HEADLINE, Layout, Place, title
from leaderboards.tables import Column, Table, tables

#: Characters in a line of a heading where the terminal is narrow: the first of these that gives the fewest tables.
NARROW_HEADINGS = (14, 12, 10, 8)

#: What marks in a terminal mean.
PLAIN = ((BEST, "*: best"), (TIE, "~: not shown to differ from the best"))

#: Of more methods than this, original included, tables of parts are left out, ...
FEW = 4
#: ... and longer ones are folded where they are asked for.
LONG = 20


def leaderboard(records: Iterable[Record], full: bool = False, pictures: bool = True) -> str:
    """All tables as markdown with everything a reader needs to judge them, the same for any order of the records.

    Args:
        records: any.
        full: every pair of methods and every part, too, however many there are.
        pictures: with the pictures that evaluators drew.
    """
    records = sorted(records, key=order)
    if not records:
        return "# Leaderboard\n\nNo records yet.\n"
    found = tables(records)
    last = f"{len(records)} records, digest `{digest_of(records)}`. {outdone(records)}".rstrip()
    last = "\n\n".join([*undecidable(records), last])
    sections = [_section(table, full) for table in found]
    return "\n\n".join(["# Leaderboard", *sections, *(_gallery(found) if pictures else []), last]) + "\n"


def _gallery(found: Sequence[Table]) -> list[str]:
    """The pictures themselves, each once: ``original`` may stand in several tables."""
    parts: list[str] = []
    seen: set[str] = set()
    for table in found:
        lines = []
        for row, some in about.pictures(table).items():
            fresh = [f"![{row}: {name}]({path})" for name, path in some if path not in seen]
            seen |= {path for _, path in some}
            lines += [f"{row} {' '.join(fresh)}"] if fresh else []
        parts += ["<br>".join([f"**{title_of(table)}**", *lines])] if lines else []
    number = f"{len(seen)} picture{'s' if len(seen) > 1 else ''}"
    return ["## Figures", differences.folded(number, "\n\n".join(parts))] if parts else []


def short(records: Iterable[Record], width: int = 100) -> str:
    """The primary metrics for a terminal of `width` columns; ``*`` marks the best of a column, ``~`` what is not shown to differ from
    it, ``(...)`` what must not be relied upon."""
    parts = []
    for table in tables(records):
        layout = Layout(table)
        columns = [column for column in table.main if column.primary]
        ranking = Ranking(table.rows)
        below = [*notes.problems(table), *meaning((ranking.of(c) for c in columns), PLAIN), *notes.doubts(layout, HEADLINE, "(...)")]
        below += notes.lacking(layout, HEADLINE) if any(c.primary for c in layout.headline) else []
        wrapped = [textwrap.fill(line, width, subsequent_indent="  ") for line in below]
        parts.append("\n".join([textwrap.fill(title_of(table), width), "", *_fitted(table, columns, width, ranking), *wrapped]))
    return "\n\n".join(parts) + "\n" if parts else "No records yet.\n"


def _fitted(table: Table, columns: Sequence[Column], width: int, ranking: Ranking) -> list[str]:
    """The table for a terminal: with intervals if they fit; else values alone, with headings on several lines; else in several
    tables, too."""
    grid = _grid(table, columns, TERMINAL, ranking)
    pieces: list[Grid] = [grid]
    if _width(grid) > width:
        bare = _grid(table, columns, BARE, ranking)
        attempts = ([(_lines(head, size), column) for head, column in bare] for size in NARROW_HEADINGS)
        pieces = min((_pieces(grid, width) for grid in attempts), key=len)
    return "\n\n".join(aligned(piece, "simple") for piece in pieces).splitlines()


def _lines(head: str, size: int) -> str:
    """A heading on several lines, its arrow never alone."""
    label, arrow = (head[:-2], head[-2:].replace(" ", "\N{NO-BREAK SPACE}")) if head.endswith(tuple(ARROWS.values())) else (head, "")
    return textwrap.fill(label + arrow, size, break_long_words=False).replace("\N{NO-BREAK SPACE}", " ")


def _pieces(grid: Grid, width: int) -> list[Grid]:
    """The columns of a table in several, each with the first column."""
    method, *rest = grid
    pieces = [[method]]
    for column in rest:
        if len(pieces[-1]) > 1 and _width([*pieces[-1], column]) > width:
            pieces.append([method])
        pieces[-1].append(column)
    return list[Grid](pieces)


def _width(grid: Grid) -> int:
    return max(map(len, aligned(grid, "simple").splitlines()))


def _section(table: Table, full: bool) -> str:
    layout = Layout(table)
    found, ranking = compare.compare(table), Ranking(table.rows)
    columns = [column for column in layout.headline if table.filled(column)]
    shown = [column for column in table.columns if not column.part or full or len(table.rows) <= FEW]
    below = [
        *notes.problems(table), *notes.cautions(table),
        *ranking.meanings(shown), *ranking.grounds(columns), *([floor] if (floor := notes.floor(table)) else []),
        *notes.below(layout, HEADLINE), *([] if found.families else differences.left_out(found)), *about.table_lines(table),
    ]  # fmt: skip
    parts = [f"## {title_of(table)}", markdown([*_grid(table, columns, MARKDOWN, ranking), *_costs(table)]), _bullets(below)]
    parts.append(differences.section(found, full))
    for evaluator in dict.fromkeys(column.evaluator for column in table.columns):
        parts += _evaluator(layout, evaluator, ranking, full)
    return "\n\n".join(part for part in parts if part)


def _evaluator(layout: Layout, evaluator: str, ranking: Ranking, full: bool) -> list[str]:
    """What it is, its own table, its parts; its own table is left out where the headline shows it all."""
    table = layout.table
    mine = [column for column in table.main if column.evaluator == evaluator]
    own = "" if set(mine) <= set(layout.headline) else markdown(_grid(table, mine, MARKDOWN, ranking, own=True))
    below = [*(ranking.grounds(c for c in mine if c not in layout.headline) if own else []), *notes.below(layout, Place(evaluator))]
    by_part = ""
    if evaluator not in details.evaluators(table):
        below += notes.below(layout, Place(evaluator, parts=True))
    elif full or len(table.rows) <= FEW or details.doubted(table, evaluator):
        by_part = _parts(layout, evaluator, ranking)
    else:
        named = list(dict.fromkeys(line.part for line in details.lines(table, evaluator)))
        below.append(f"By part, with `--full`: {'; '.join(named)}.")
    parts = [part for part in (about.evaluator(table, evaluator), own, _bullets(below)) if part]
    return [*([f"### {title(evaluator)}", *parts] if parts else []), by_part]


def _parts(layout: Layout, evaluator: str, ranking: Ranking) -> str:
    """The table of an evaluator's parts, long ones folded; why there is none where no value may be relied upon."""
    table = layout.table
    heading = f"### {title(evaluator)} by part"
    if reasons := details.doubted(table, evaluator):
        return f"{heading}\n\nEvery value is in doubt, so none is shown (the records have them): {'; '.join(reasons)}."
    mine = [c for c in table.columns if c.part and c.evaluator == evaluator]
    below = _bullets([*ranking.grounds(mine), *notes.below(layout, Place(evaluator, parts=True))])
    text = "\n\n".join(filter(None, [details.detail(table, evaluator, ranking), below]))
    rows = len(details.lines(table, evaluator))
    return f"{heading}\n\n{text if rows <= LONG else differences.folded(f'{rows} rows', text)}"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def title_of(table: Table) -> str:
    """What tells a table from the others."""
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
    table: Table, columns: Sequence[Column], style: Style, ranking: Ranking, own: bool = False
) -> list[tuple[str, Sequence[str]]]:
    """The texts of a table: methods, metrics, n (of these metrics alone with `own`), seeds."""
    marks = notes.marks(table)
    n = [notes.count(row, columns) if own else row.n for row in table.rows]
    return [
        ("Method", [f"{row.label} [{mark}]" if mark else row.label for row, mark in zip(table.rows, marks, strict=True)]),
        *((heading(column), _column(ranking, column, style)) for column in columns),
        ("n", [span(some) for some in n]),
        ("Seeds", [span(notes.seeds(row, columns)) for row in table.rows]),
    ]


def _costs(table: Table) -> Grid:
    return [
        ("Images seen", [count(row.images_seen) for row in table.rows]),
        ("Parameters", [count(row.parameters) for row in table.rows]),
        ("Training", [hours(row.seconds, row.gpu_seconds) for row in table.rows]),
    ]


def _column(ranking: Ranking, column: Column, style: Style) -> list[str]:
    rows = ranking.rows
    cells = [row.cells.get(column.id) for row in rows]
    words = texts(cells, column, style, ranking.of(column).marks)
    failed = [cell is None and bool(row.failed & {column.evaluator, ""}) for row, cell in zip(rows, cells, strict=True)]
    return [FAILED if lost else word for word, lost in zip(words, failed, strict=True)]
