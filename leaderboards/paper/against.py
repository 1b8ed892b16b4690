"""Measured values beside published ones. Nothing is ranked here: the protocols differ, and how is said above the numbers.

A difference is only computed where both are the same metric of the same data: FD-cxr and KD-cxr are not FID and KID, and where
other images stand in for the paper's nothing follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from leaderboards.cells import count
from leaderboards.groups import Record, text
from leaderboards.published import NOT_TRANSCRIBED, Published, load
from leaderboards.sheet import Entry, Head, Line, Sheet
from leaderboards.values import Cell

#: Test sets and what the paper has in their place.
SETS = {
    "rsna": "rsna", "mimic": "mimic", "jsrt": "jsrt", "synthetic": "rsna", "synthetic-icu": "mimic", "synthetic-clear": "jsrt",
}  # fmt: skip
PRINTED = {"rsna": "RSNA", "mimic": "MIMIC", "jsrt": "JSRT"}
#: What the paper trained with.
SIZE, BUDGET = "512", 500_000
PROTOCOL = "2.5e5 iterations of 2 images a domain"
#: Metrics of ours -> column of Table 1's sets; other definitions of the overlap are other metrics.
LUNGS = {"miou_delta": "miou_delta", "miou": "miou", "sensitivity": "sensitivity"}
#: Another extractor's distances: which printed one stands beside, without a difference.
KIN = {"fd_cxr": "fid", "kd_cxr": "kid", "fid": "fid", "kid": "kid"}
#: In the place of a difference.
NOT_ALIKE = "not the same data"
TOLD = ("measured", "published", "measured - published")


@dataclass(frozen=True)
class _Pair:
    """A measured column and the published one beside it.

    Attributes:
        index: the measured column's place.
        column: the published column; empty for none.
        same: whether both are the same metric.
        stand_in: whether other images stand in for the published ones.
    """

    index: int
    column: str
    same: bool
    stand_in: bool = False


def beside(table: str, sheet: Sheet, records: Sequence[Record]) -> Sheet:
    """A sheet with the published values of the paper.

    Args:
        table: ``1``, ``2``, ``3`` or ``fig6``.
        sheet: what was measured.
        records: all records, for what trainings cost.

    Returns:
        For tables that are transcribed, columns in triples: measured, published, difference; no column is ranked. For others the
        sheet as it is, with a line above that says so.
    """
    if table in NOT_TRANSCRIBED:
        return replace(sheet, above=(NOT_TRANSCRIBED[table], *sheet.above))
    printed = load(table)
    pairs = [_pair(table, head, k) for k, head in enumerate(sheet.heads)]
    mine = [(_row(line), line) for line in sheet.lines]
    rest = [(row, None) for row in printed.names if row not in {row for row, _ in mine}]
    lines = tuple(_line(row, line, pairs, printed) for row, line in [*mine, *rest])
    return replace(
        sheet, key=f"{sheet.key}-against", title=f"{sheet.title} · measured and published",
        heads=tuple(head for pair in pairs for head in _heads(sheet.heads[pair.index], pair)), lines=lines,
        above=(*_above(printed, sheet, pairs, records), *sheet.above),
        below=(*_printed_oddly(printed), *_unmarked(sheet.below)), behind=(),
    )  # fmt: skip


def _row(line: Line) -> str:
    """The published row of a line: the method's name or the modules that are on, without version and configuration."""
    return re.sub(r" v\d+$", "", line.label.split(" (", maxsplit=1)[0])


def _pair(table: str, head: Head, index: int) -> _Pair:
    dataset, evaluator, key = head.key.split(".", 2)
    stand_in = dataset not in PRINTED
    if evaluator == "fidelity":
        return _Pair(index, KIN.get(key, ""), key in ("fid", "kid"), stand_in)
    column = f"{SETS[dataset]}_{LUNGS[key]}" if table == "1" and dataset in SETS and key in LUNGS else ""
    return _Pair(index, column, bool(column), stand_in)


def _heads(head: Head, pair: _Pair) -> Iterator[Head]:
    """Three headings without a direction: nothing here is ranked."""
    group = f"{head.group} · {head.label}" if head.group else head.label
    printed = f"{PRINTED[pair.column.split('_')[0]]} " if "_" in pair.column else ""
    names = {"fid": "FID", "kid": "KID"}
    what = names.get(pair.column, pair.column and f"{printed}{head.label}")
    gap = "Not the same metric: no difference." if not pair.same else "Not the same data: no difference." if pair.stand_in else ""
    details = (head.detail, f"As printed: {what}." if what else "Nothing printed.", gap)
    for label, detail, end in zip(TOLD, details, ("measured", "published", "difference"), strict=True):
        own = f"published {what}" if label == "published" and not pair.same and what else label
        yield replace(head, label=own, group=group, better="", key=f"{head.key}.{end}", detail=detail)


def _line(row: str, line: Line | None, pairs: Iterable[_Pair], printed: Published) -> Line:
    entries: list[Entry] = []
    for pair in pairs:
        words = printed.text(row, pair.column) if pair.column else None
        mine = replace(line.entries[pair.index], mark="") if line else Entry()
        std = printed.text(row, f"{pair.column}_std")
        cell = Cell(float(words), float(std) if std else None) if words is not None else None
        told = Entry(cell, f"{words} ({std})" if std else words) if words is not None else Entry()
        entries += [mine, told, _gap(mine.cell, words, pair)]
    label = line.label if line else row
    name = printed.names.get(row)
    shown = f"{label} ({name})" if name and name.lower() != row.lower() else label
    base = line or Line(shown, (), original=row == "original")
    return replace(base, label=shown, entries=tuple(entries))


def _gap(mine: Cell | None, words: str | None, pair: _Pair) -> Entry:
    """The difference of a measured value from a printed one, or why there is none."""
    if mine is None or words is None or not pair.same:
        return Entry()
    return Entry(text=NOT_ALIKE) if pair.stand_in else Entry(Cell(mine.value - float(words), doubt=mine.doubt))


def _above(printed: Published, sheet: Sheet, pairs: Sequence[_Pair], records: Sequence[Record]) -> list[str]:
    """What differs in the protocol."""
    context = sheet.context
    size = context.get("image size", "")
    lines = [
        f"Published: {printed.source}. These values stand in no ranking with the measured ones; the protocols differ:",
        f"Resolution: {size or 'unknown'} pixels here, {SIZE} in the paper{' (the same)' if size == SIZE else ''}.",
        f"Budget: images seen in training {_seen(sheet, records)} here; {count(BUDGET)} by the paper's own method ({PROTOCOL}).",
    ]
    lines += _extractors(sheet, pairs)
    lines += _data(sheet, pairs)
    alone = [f"{head.group} {head.label}" for pair in pairs if not pair.column for head in [sheet.heads[pair.index]]]
    if alone:
        lines.append(f"Without a published counterpart: {', '.join(alone)}.")
    return lines


def _seen(sheet: Sheet, records: Sequence[Record]) -> str:
    fits = [r for r in records if _of(sheet, r)]
    seen = sorted({n for r in fits if (n := (r.get("cost") or {}).get("images_seen"))})
    return " to ".join(dict.fromkeys(count(n) for n in (seen[0], seen[-1]))) if seen else "unknown"


def _of(sheet: Sheet, record: Record) -> bool:
    context = sheet.context
    names = {"training set": "train_dataset", "preset": "preset", "image size": "image_size"}
    alike = all(text(record.get(field)) == context.get(name, "") for name, field in names.items())
    return alike and context.get(f"data of {text(record.get('dataset'))}") == text(record.get("dataset_fingerprint"))


def _extractors(sheet: Sheet, pairs: Sequence[_Pair]) -> list[str]:
    own = [sheet.heads[pair.index].label for pair in pairs if pair.column in ("fid", "kid")]
    other = [sheet.heads[pair.index].label for pair in pairs if pair.column in ("fid", "kid") and not pair.same]
    if other:
        return [
            f"Extractor: {', '.join(other)} rest on the finding classifier's features and are not FID and KID: the published values "
            "stand beside them, and no difference is computed. --set evaluators.fidelity.extractor=inception measures FID and KID."
        ]
    by = "by Inception-v3 through torch-fidelity here; other implementations and ways to resize move them"
    return [f"Extractor: {', '.join(own)} {by}."] if own else []


def _data(sheet: Sheet, pairs: Sequence[_Pair]) -> list[str]:
    """Which images stand in for which; the same name does not mean the same split."""
    here = dict.fromkeys(sheet.heads[pair.index].key.split(".")[0] for pair in pairs)
    known = [(name, SETS[name]) for name in here if name in SETS]
    lines = []
    other = [f"{name} for {PRINTED[of]}" for name, of in known if name != of]
    if other:
        lines.append(f"Data: other images stand in for the paper's ({', '.join(other)}): no difference is computed.")
    same = [PRINTED[of] for name, of in known if name == of]
    if same:
        lines.append(f"Data: {', '.join(same)} by name; the paper does not state its split, nor hand on its lung masks of RSNA.")
    strange = [name for name in here if name not in SETS]
    return [*lines, f"Data: {', '.join(strange)} is no set of the paper."] if strange else lines


def _printed_oddly(printed: Published) -> tuple[str, ...]:
    return (f"Known to be odd in the published values: {' '.join(printed.oddities)}",)


def _unmarked(below: Iterable[str]) -> tuple[str, ...]:
    return tuple(line for line in below if not line.startswith(("Marks, by column", "Ties of ", "Marked by", "No method is shown")))
