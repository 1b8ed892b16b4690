"""Sheets -> markdown, CSV, JSON, LaTeX (`leaderboards.latex`) and the web page; no clock, no disk.

Markdown and LaTeX are for readers and rounded; CSV and JSON are for programs and hold every number in full precision, with its
spread, n, seeds and doubt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

from bench.errors import unknown
from bench.files import digest, finite
from leaderboards.cells import MARKDOWN, MISSING, heading, interval, markdown, number, p_value, shown_std
from leaderboards.sheet import BEST, SECOND, TIE, Entry, Head, Line, Sheet

if TYPE_CHECKING:
    import pandas as pd

#: Marks in markdown.
MARKS = {BEST: "**{}**", SECOND: "<ins>{}</ins>", TIE: "{} ‡"}
#: What a reader must know of a mark -> the word by which a sheet's own notes show that they say it.
LEGEND = (
    (BEST, "**Bold**: the best of a column.", "bold: best"),
    (SECOND, "<ins>Underlined</ins>: the second.", "underlined: second"),
    (TIE, "‡ not shown to differ from the best.", "‡"),
)
#: A table of more columns is one table for each group of them in markdown.
WIDE = 6
DOUBT = ("†, not to be relied upon and not ranked: {}.", "†")


def write(sheets: Sequence[Sheet], form: str) -> str:
    """Sheets as a text that ends with a line break.

    Args:
        sheets: in this order; those behind a sheet follow it.
        form: ``md``, ``csv``, ``json``, ``latex``, or ``html`` for the page without cases and figures.

    Raises:
        UsageError: the format is unknown.
    """
    if form not in _WRITERS:
        raise unknown("format", form, _WRITERS)
    return _WRITERS[form](sheets)


def frame(sheet: Sheet) -> pd.DataFrame:
    """A sheet as a table of numbers: index (group, label) of lines, columns (group, label) of heads.

    Values are in full precision; where a text stands instead of a value there is that text (a column of such is of objects), where
    nothing is known, or a number is not finite, NaN. What `tidy` has besides (spread, n, marks) is not in it.
    """
    import pandas as pd

    rows = [[_plain(entry) for entry in line.entries] for line in sheet.lines]
    index = pd.MultiIndex.from_tuples([(line.group, line.label) for line in sheet.lines], names=["group", sheet.corner])
    columns = pd.MultiIndex.from_tuples([(head.group, head.label) for head in sheet.heads], names=["group", "metric"])
    found = pd.DataFrame(rows, index=index, columns=range(len(sheet.heads))).infer_objects()
    found.columns = columns
    return found


def tidy(sheets: Sequence[Sheet]) -> pd.DataFrame:
    """One row for each (sheet, line, head), sheets behind others included: the value in full precision and all that belongs to it.

    Columns: ``sheet``, ``title``, ``sheet_id``, ``line_group``, ``line``, ``original``, ``method``, ``method_version``,
    ``config_fingerprint`` (empty for lines of no one method), ``head`` (its key, or the label of one without),
    ``group``, ``label``, ``unit``, ``better``, ``value``, ``text``, ``std``, ``std_over``, ``ci_low``, ``ci_high``, ``n`` (several
    numbers joined by ``;``), ``seeds``, ``mark``, ``doubt``, and ``in.NAME`` for each name in the context of any sheet.
    """
    import pandas as pd

    rows = [row for sheet in everything(sheets) for row in _rows(sheet)]
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*_COLUMNS, *(name for row in rows for name in row)])))


def everything(sheets: Sequence[Sheet]) -> Iterator[Sheet]:
    """Every sheet, each followed by those behind it."""
    for sheet in sheets:
        yield sheet
        yield from everything(sheet.behind)


def context(sheet: Sheet) -> str:
    """What all rows share, in one line; empty values are left out."""
    return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in sheet.context.items() if value)


def footnotes(sheet: Sheet) -> tuple[list[str], list[str]]:
    """The labels of the lines with the numbers of their notes, and the notes; lines with the same notes share a number."""
    numbers: dict[tuple[str, ...], int] = {}
    for line in sheet.lines:
        if line.notes:
            numbers.setdefault(line.notes, len(numbers) + 1)
    labels = [f"{line.label} [{numbers[line.notes]}]" if line.notes else line.label for line in sheet.lines]
    whose = {notes: ", ".join(line.label for line in sheet.lines if line.notes == notes) for notes in numbers}
    return labels, [f"[{k}] {whose[notes]}: {'; '.join(notes).rstrip('.')}." for notes, k in numbers.items()]


def below(sheet: Sheet) -> list[str]:
    """All that stands below a table: footnotes, the sheet's own notes, and the marks that those do not explain."""
    told = " ".join([*sheet.above, *sheet.below]).casefold()
    marks = {entry.mark for line in sheet.lines for entry in line.entries}
    legend = [words for mark, words, sign in LEGEND if mark in marks and sign not in told]
    doubts = {" ".join(e.cell.doubt.split()).rstrip(".") for line in sheet.lines for e in line.entries if e.cell and e.cell.doubt}
    if doubts and DOUBT[1] not in told:
        legend.append(DOUBT[0].format("; ".join(sorted(doubts))))
    return [*footnotes(sheet)[1], *sheet.below, *legend]


def parts(entry: Entry, head: Head) -> tuple[str, str]:
    """The rounded value (or the text in its place, or a dash) and its spread: the standard deviation over seeds, and the interval;
    another standard deviation only where there is no interval, which decides ties then."""
    if entry.text:
        return entry.text, ""
    if entry.cell is None or not math.isfinite(entry.cell.value):
        return MISSING, ""
    ci = entry.cell.ci if entry.cell.ci and all(map(math.isfinite, entry.cell.ci)) else None
    known = replace(entry.cell, std=finite(entry.cell.std), ci=ci)
    std = f"± {number(std, head.digits)}" if (std := shown_std(known)) is not None else ""
    return shown(known.value, head), " ".join(filter(None, [std, interval(ci, head.digits) if ci else ""]))


def shown(value: float, head: Head) -> str:
    """A rounded value below its heading."""
    return p_value(value, head.digits) if head.p else number(value, head.digits)


def _plain(entry: Entry) -> float | str:
    if entry.text:
        return entry.text
    return entry.cell.value if entry.cell and math.isfinite(entry.cell.value) else math.nan


# -- markdown ----------------------------------------------------------------------------------------------------------------


def _md(sheets: Sequence[Sheet]) -> str:
    return "\n\n".join(_md_sheet(sheet) for sheet in sheets) + "\n"


def _md_sheet(sheet: Sheet) -> str:
    return f"## {sheet.title}\n\n{_md_body(sheet)}"


def _md_body(sheet: Sheet) -> str:
    table = _md_table(sheet, range(len(sheet.heads)))
    if len(sheet.heads) > WIDE:
        groups = dict.fromkeys(head.group for head in sheet.heads)
        own = {name: [k for k, head in enumerate(sheet.heads) if head.group == name] for name in groups}
        table = "\n\n".join(
            "\n\n".join([*([f"**{name}**"] if name else []), _md_table(sheet, columns, bare=True)]) for name, columns in own.items()
        )
    folded = [f"<details><summary>{escape(one.title)}</summary>\n\n{_md_body(one)}\n\n</details>" for one in sheet.behind]
    blocks = [context(sheet), _bullets(sheet.above), table, _bullets(below(sheet)), *folded]
    return "\n\n".join(block for block in blocks if block)


def _md_table(sheet: Sheet, columns: Sequence[int], bare: bool = False) -> str:
    """Some columns; `bare` without the names of groups."""
    labels = (sheet.corner, footnotes(sheet)[0])
    grouped = [("", once([line.group for line in sheet.lines]))] if any(line.group for line in sheet.lines) else []
    grid = []
    for k in columns:
        head = sheet.heads[k]
        name = f"{head.group}: {heading(head)}" if head.group and not bare else heading(head)
        grid.append((name, [_md_entry(line.entries[k], head) for line in sheet.lines]))
    return markdown([*grouped, labels, *grid], left=1 + len(grouped))


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def once(groups: Sequence[str]) -> list[str]:
    """The name of a group beside its first line alone."""
    return [group if k == 0 or groups[k - 1] != group else "" for k, group in enumerate(groups)]


def _md_entry(entry: Entry, head: Head) -> str:
    value, rest = parts(entry, head)
    if entry.cell and entry.cell.doubt:
        return MARKDOWN.doubt.format(f"{value} {rest}".strip())
    return f"{MARKS.get(entry.mark, '{}').format(value)} {rest}".strip()


# -- for programs ------------------------------------------------------------------------------------------------------------

_COLUMNS = (
    "sheet", "title", "sheet_id", "line_group", "line", "original", "method", "method_version", "config_fingerprint", "head", "group",
    "label", "unit", "better", "value", "text", "std", "std_over", "ci_low", "ci_high", "n", "seeds", "mark", "doubt",
)  # fmt: skip


def _rows(sheet: Sheet) -> Iterator[dict[str, Any]]:
    shared = {f"in.{name}": value for name, value in sheet.context.items()}
    name = sheet_id(sheet)
    for line in sheet.lines:
        whose = {"line_group": line.group, "line": line.label, "original": line.original, **_who(line)}
        for head, entry in zip(sheet.heads, line.entries, strict=True):
            what = {"head": head.key or head.label, **{name: getattr(head, name) for name in ("group", "label", "unit", "better")}}
            found = _values(entry)
            low, high = found.pop("ci") or (None, None)
            found |= {"ci_low": low, "ci_high": high, "n": ";".join(map(str, found["n"]))}
            yield {"sheet": sheet.key, "title": sheet.title, "sheet_id": name, **whose, **what, **found, **shared}


def sheet_id(sheet: Sheet) -> str:
    """A name of a sheet that stays while what it shows is comparable: its key and a hash of its title and context."""
    return f"{sheet.key}-{digest([sheet.key, sheet.title, dict(sheet.context)])[:8]}"


def _who(line: Line) -> dict[str, str]:
    return dict(zip(("method", "method_version", "config_fingerprint"), line.who, strict=True))


def _values(entry: Entry) -> dict[str, Any]:
    """An entry in full precision; what is not finite is null."""
    cell = entry.cell
    return {
        "value": finite(cell.value) if cell else None,
        "text": entry.text,
        "std": finite(cell.std) if cell else None,
        "std_over": cell.std_over if cell else "",
        "ci": [finite(cell.ci[0]), finite(cell.ci[1])] if cell and cell.ci else None,
        "n": list(cell.n) if cell else [],
        "seeds": cell.seeds if cell else None,
        "mark": entry.mark,
        "doubt": cell.doubt if cell else "",
    }


def _csv(sheets: Sequence[Sheet]) -> str:
    return str(tidy(sheets).astype({"seeds": "Int64"}).to_csv(index=False, lineterminator="\n"))


def _json(sheets: Sequence[Sheet]) -> str:
    return json.dumps({"sheets": [_object(sheet) for sheet in sheets]}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _object(sheet: Sheet) -> dict[str, Any]:
    return {
        "key": sheet.key, "id": sheet_id(sheet), "title": sheet.title, "context": dict(sheet.context), "above": list(sheet.above),
        "below": list(sheet.below), "corner": sheet.corner,
        "heads": [vars(head) for head in sheet.heads],
        "lines": [_line(line) for line in sheet.lines],
        "behind": [_object(one) for one in sheet.behind],
    }  # fmt: skip


def _line(line: Line) -> dict[str, Any]:
    entries = [_values(entry) for entry in line.entries]
    whose = {"label": line.label, "group": line.group, "original": line.original, **_who(line)}
    return {**whose, "notes": list(line.notes), "entries": entries}


def _latex(sheets: Sequence[Sheet]) -> str:
    from leaderboards import latex

    return latex.document(list(everything(sheets)))


def _html(sheets: Sequence[Sheet]) -> str:
    from leaderboards.page import page

    return page(sheets, (), {}, "", "")


_WRITERS: Mapping[str, Callable[[Sequence[Sheet]], str]] = {
    "md": _md, "html": _html, "csv": _csv, "latex": _latex, "json": _json,
}  # fmt: skip
