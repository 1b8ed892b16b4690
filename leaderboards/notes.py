"""Lines below a table: what its numbers rest on, and what makes them look better than they are; each where its numbers are shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from leaderboards.cells import MARKDOWN, number, span, texts
from leaderboards.subjects import HEADLINE, THROUGHOUT, Layout, Place, labels, subject
from leaderboards.tables import Column, Remark, Row, Table
from leaderboards.values import Cell

#: So many values of one method are told one by one, ...
MANY = 3
#: ... and so many metrics are "the others".
OTHERS = 3
#: The end of the keys of distances between real images.
FLOOR = "_floor"
#: A number that is no part of a name (``mAP50``).
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")


def marks(table: Table) -> list[int]:
    """Footnote number of each row, 0 for none; rows with the same problems have the same."""
    numbers: dict[tuple[str, ...], int] = {(): 0}
    return [numbers.setdefault(row.problems, len(numbers)) for row in table.rows]


def problems(table: Table) -> list[str]:
    """Footnotes of records that failed or were skipped."""
    found: dict[int, list[Row]] = {}
    for row, mark in zip(table.rows, marks(table), strict=True):
        found.setdefault(mark, []).append(row)
    told = [(mark, ", ".join(row.label for row in rows), rows[0].problems) for mark, rows in found.items() if mark]
    return [f"[{mark}] {whose}: {'; '.join(texts).rstrip('.')}." for mark, whose, texts in told]


def below(layout: Layout, where: Place) -> list[str]:
    """All lines about the metrics of a place but `cautions` and `problems`."""
    return [
        *doubts(layout, where), *lacking(layout, where), *real(layout, where), *favours(layout, where),
        *numbers(layout, where), *uneven_seeds(layout, where), *spreads(layout, where), *remarks(layout, where),
    ]  # fmt: skip


def doubts(layout: Layout, where: Place, mark: str = "†") -> list[str]:
    """Why values are marked as doubtful."""
    told = [(remark, layout.spread_out(remark.columns, up=True)) for remark in layout.table.doubts]
    return [
        f"{mark}, not to be relied upon and not ranked: {_about(places[where])}{remark.text.rstrip('.')}{_whom(remark)}."
        for remark, places in told
        if where in places
    ]


def lacking(layout: Layout, where: Place) -> list[str]:
    """One line on metrics that no row has a value of, with the reasons that `remarks` does not give."""
    table, reasons = layout.table, dict[str, list[Column]]()
    missing = [c for c in table.lacking if layout.places[c] == where]
    for column in missing:
        about = [note for note in table.notes if column in note.columns]
        told = [note.text for note in about if not any(table.filled(c) and layout.places[c] == where for c in note.columns)]
        failed = any(row.failed & {column.evaluator, ""} for row in table.rows)
        reasons.setdefault("; ".join(told) or ("" if about else "failed" if failed else "no value"), []).append(column)
    words = [
        (subject(some, layout.at(where)) or "any part" if where.parts else labels(some)) + (f" ({reason})" if reason else "")
        for reason, some in reasons.items()
    ]
    return [f"No row has a value of: {'; '.join(words)}."] if words else []


def real(layout: Layout, where: Place) -> list[str]:
    """Metrics of real images that are no part: the same for every method."""
    table = layout.table
    found = []
    for column in (c for c in layout.at(where) if c.shared and not c.part and c.id in table.real):
        values = []
        for one in table.real[column.id]:
            (words,) = texts([one.cell], column, MARKDOWN)
            unit = f" {column.unit}" if column.unit else ""
            whose = f" ({', '.join(one.methods)})" if one.methods else ""
            values.append(f"{words}{unit}{whose}, n = {span(one.cell.n)}")
        found.append(f"{column.label} {'; '.join(values)}")
    return [f"On real images, whatever the method: {'. '.join(found)}."] if found else []


def favours(layout: Layout, where: Place) -> list[str]:
    """Which metrics favour methods that were trained with the classifier behind them."""
    kinds: dict[tuple[Column, ...], list[str]] = {}
    for method, columns in sorted(layout.table.favoured.items()):
        kinds.setdefault(tuple(c for c in columns if layout.table.filled(c)), []).append(method)
    told = [(layout.spread_out(columns, up=True), methods) for columns, methods in kinds.items()]
    return [
        f"{places[where] or 'All'}: favours {', '.join(methods)}, trained with the classifier that scores here."
        for places, methods in told
        if where in places
    ]


def cautions(table: Table) -> list[str]:
    """What makes any number look better than it is, and warnings of trainings."""
    lines = [f"All methods: {table.trained}. They compare with each other, not with the preset's."] if table.trained else []
    if table.split_by:
        lines.append("Split by image: patients unknown, the same patient may be in training and test.")
    for words, warned in sorted(table.warnings.items()):
        lines.append(f"Training of {', '.join(warned)}: {' '.join(words.split()).rstrip('.')}.")
    return lines


def count(row: Row, columns: Sequence[Column]) -> tuple[int, ...]:
    """Numbers of images behind a row of some columns."""
    return tuple(sorted({n for c in columns if c.id in row.cells for n in row.cells[c.id].n}))


def seeds(row: Row, columns: Sequence[Column]) -> tuple[int, ...]:
    """Numbers of seeds behind a row of some columns."""
    return tuple(sorted({row.cells[c.id].seeds for c in columns if c.id in row.cells}))


def uneven_seeds(layout: Layout, where: Place) -> list[str]:
    """Which metrics rest on how many seeds, for rows where that differs within a table. Tables of parts tell it by part."""
    columns = [] if where.parts else [c for c in layout.shown(where) if not c.shared and layout.table.filled(c)]
    found: dict[str, list[str]] = {}
    for row in layout.table.rows:
        counts = seeds(row, columns)
        if len(counts) > 1:
            mine = {n: [c for c in columns if c.id in row.cells and row.cells[c.id].seeds == n] for n in reversed(counts)}
            found.setdefault("; ".join(f"{n} of {labels(some)}" for n, some in mine.items()), []).append(row.label)
    return [f"Seeds differ between metrics: {words} ({', '.join(rows)})." for words, rows in found.items()]


def numbers(layout: Layout, where: Place) -> list[str]:
    """Which metrics rest on other numbers of images than their row's n, and which on different numbers between rows. Tables
    of parts have an n that is their own."""
    if where.parts:
        return []
    columns = [c for c in layout.shown(where) if not c.shared and layout.table.filled(c)]
    found: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        for key in _counts(layout.table, where, column, columns):
            found.setdefault(key, []).append(column)
    everything = {c for some in found.values() for c in some} == set(columns)
    rest = max((key for key in found if not key[1]), key=lambda key: len(found[key]), default=None)
    rest = rest if rest and everything and len(found) > 1 and len(found[rest]) >= OTHERS else None
    told = [(n, whom, "the others" if (n, whom) == rest else labels(some)) for (n, whom), some in found.items()]
    told.sort(key=lambda one: (one[2] == "the others", one))
    lines = ["; ".join(f"n = {n}: {words}{whom}" for n, whom, words in told) + "."] if told else []
    mine = [c for c in columns if layout.places[c] == where]
    uneven = [c for c in mine if len({row.cells[c.id].n for row in layout.table.rows if c.id in row.cells}) > 1]
    if uneven:
        lines.append(f"n differs between rows: {labels(uneven)}. Distances whose bias depends on n do not compare.")
    return lines


def _counts(table: Table, where: Place, column: Column, columns: Sequence[Column]) -> list[tuple[str, str]]:
    """(n, for which methods) of a metric where n is not the row's; no methods for all that have a value."""
    cells = {row.label: (row, row.cells[column.id]) for row in table.rows if column.id in row.cells}
    odd: dict[str, list[str]] = {}
    for label, (row, cell) in cells.items():
        if cell.n and cell.n != (row.n if where == HEADLINE else count(row, columns)):
            odd.setdefault(span(cell.n), []).append(label)
    if odd and len({cell.n for _, cell in cells.values()}) == 1:
        return [(n, "") for n in odd]
    return [(n, "" if len(methods) == len(cells) else f" ({', '.join(methods)})") for n, methods in odd.items()]


def spreads(layout: Layout, where: Place) -> list[str]:
    """What ± means here, metric by metric where that differs; what brackets mean, once in a table."""
    over: dict[str, list[Column]] = {}
    mine: list[str] = []
    for column in layout.shown(where):
        for kind in sorted({cell.std_over or "unstated units" for cell in _cells(layout, column) if cell.std is not None}):
            over.setdefault(kind, []).append(column)
            mine += [kind] if layout.places[column] == where else []
    lines = []
    if mine:
        spread = [c for some in over.values() for c in some]
        kinds = [(kind, [c for c in over[kind] if layout.places[c] == where]) for kind in sorted(set(mine))]
        told = [kind if len(over) == 1 else f"{kind} ({subject(some, spread)})" for kind, some in kinds]
        lines.append(f"± is the standard deviation over {', '.join(told)}.")
    order = [HEADLINE, *layout.places.values()]
    found = {c: [cell for cell in _cells(layout, c) if cell.ci] for c in layout.table.columns}
    brackets = {layout.places[c] for c, cells in found.items() if cells}
    if where == next((place for place in order if place in brackets), None):
        lines.append(brackets_are(any(cell.seeds > 1 for cells in found.values() for cell in cells)))
    return lines


def floor(table: Table) -> str:
    """What distances between sets of real clear images are, where the records have it; empty where they do not."""
    told: dict[str, list[str]] = {}
    frechet = False
    for column in (c for c in table.columns if c.evaluator == "fidelity" and c.key.endswith(FLOOR) and c.shared):
        for one in table.real.get(column.id, ()):
            whose = f" ({', '.join(one.methods)})" if one.methods else ""
            told.setdefault(span(one.cell.n), []).append(f"{column.label} {number(one.cell.value, column.digits)}{whose}")
            frechet |= column.key.startswith("f")
    words = "; ".join(f"{', '.join(values)} at n = {n} a side" for n, values in told.items())
    biased = ". Frechet distances are biased upwards at small n: what compares is their mean at that n (`--full`)"
    return f"Floor: real clear images against others: {words}{biased if frechet else ''}." if told else ""


def brackets_are(seeds: bool) -> str:
    """What an interval is; `seeds`: whether any value rests on several."""
    more = "; of several seeds the wider of the mean of theirs and of Student's over seeds" if seeds else ""
    return f"[low, high] is the 95 % confidence interval over patients, for a single seed{more}."


def _cells(layout: Layout, column: Column) -> list[Cell]:
    if column.shared:
        return [one.cell for one in layout.table.real.get(column.id, ())]
    return [row.cells[column.id] for row in layout.table.rows if column.id in row.cells]


def remarks(layout: Layout, where: Place) -> list[str]:
    """What scores say in words; one line for each subject. Of metrics without any value, see `lacking`."""
    lines: dict[tuple[str, str], list[str]] = {}
    for note in _merged(layout.table.notes):
        filled = [c for c in note.columns if layout.table.filled(c)]
        places = layout.spread_out(note.columns) if filled else {}
        if places.get(where) == THROUGHOUT or (where in places and any(layout.places[c] == where for c in filled)):
            lines.setdefault((places[where] or "All", _whom(note)), []).append(note.text)
    return [f"{about}: {'; '.join(told)}{whom}." for (about, whom), told in lines.items()]


def _merged(notes: Sequence[Remark]) -> list[Remark]:
    """Remarks on the same metrics that differ by method and in numbers alone are one: "sigma 0 (original), 1.39 (ours) pixels"."""
    alike: dict[tuple[tuple[Column, ...], tuple[str, ...], bool], list[Remark]] = {}
    for note in notes:
        alike.setdefault((note.columns, tuple(NUMBER.split(note.text)), bool(note.methods)), []).append(note)
    return [some[0] if len(some) == 1 else _merge(some) for some in alike.values()]


def _merge(notes: Sequence[Remark]) -> Remark:
    found = [list(NUMBER.finditer(note.text)) for note in notes]
    differ = [i for i, same in enumerate(zip(*found, strict=True)) if len({number.group() for number in same}) > 1]
    values: dict[str, dict[str, list[float]]] = {}
    for note, some in zip(notes, found, strict=True):
        middle = note.text[some[differ[0]].start() : some[differ[-1]].end()]
        for method in note.methods or ("",):
            values.setdefault(method, {})[middle] = [float(number.group()) for number in some]
    methods: dict[str, list[str]] = {}
    for method, own in values.items():
        ordered = sorted(own, key=own.__getitem__)
        words = " / ".join(ordered) if len(ordered) <= MANY else f"{ordered[0]} to {ordered[-1]}"
        methods.setdefault(words, []).append(method)
    told = ", ".join(f"{words} ({', '.join(whose)})" if whose != [""] else words for words, whose in methods.items())
    text, some = notes[0].text, found[0]
    return Remark(text[: some[differ[0]].start()] + told + text[some[differ[-1]].end() :], notes[0].columns, ())


def _about(words: str) -> str:
    return f"{words}: " if words else ""


def _whom(remark: Remark) -> str:
    return f" ({', '.join(remark.methods)})" if remark.methods else ""
