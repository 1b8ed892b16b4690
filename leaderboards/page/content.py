"""What the page shows, as plain data: sheets with rounded texts beside full values, cases with places of images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.errors import DataError
from leaderboards import formats
from leaderboards.cases import Case, CaseSet, Flags, Grey, Result
from leaderboards.cells import ARROWS, interval, number, shown_std, span
from leaderboards.figures.cases import segmenter_of
from leaderboards.page.images import Store
from leaderboards.sheet import Entry, Head, Line, Sheet
from leaderboards.tables import Column


def sheet(one: Sheet) -> dict[str, Any]:
    """A sheet and those behind it."""
    labels, _ = formats.footnotes(one)
    return {
        "key": one.key,
        "title": one.title,
        "corner": one.corner,
        "context": [[name, value] for name, value in one.context.items() if value],
        "heads": [_head(head) for head in one.heads],
        "lines": [_line(line, label, one.heads) for line, label in zip(one.lines, labels, strict=True)],
        "above": list(one.above),
        "below": formats.below(one),
        "behind": [sheet(other) for other in one.behind],
    }


def _head(head: Head) -> dict[str, Any]:
    return {
        "label": head.label, "group": head.group, "better": head.better if head.sign else "", "unit": head.unit,
        "arrow": ARROWS.get(head.better, "").strip(), "detail": head.detail,
    }  # fmt: skip


def _line(line: Line, label: str, heads: Sequence[Head]) -> dict[str, Any]:
    return {
        "label": label, "group": line.group, "original": line.original,
        "entries": [_entry(entry, head) for entry, head in zip(line.entries, heads, strict=True)],
    }  # fmt: skip


def _entry(entry: Entry, head: Head) -> dict[str, Any]:
    """Text, full value to sort by, and what belongs to the value; empty for a missing one."""
    cell = entry.cell
    if entry.text or cell is None or not math.isfinite(cell.value):
        return {"text": entry.text, "mark": entry.mark} if entry.text else {}
    std = f"± {number(spread, head.digits)}" if (spread := shown_std(cell)) is not None else ""
    found = {
        "value": cell.value, "text": formats.shown(cell.value, head), "mark": entry.mark, "std": std,
        "over": cell.std_over, "ci": interval(cell.ci, head.digits) if cell.ci else "",
        "n": span(cell.n) if cell.n else "", "seeds": cell.seeds, "doubt": cell.doubt,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value != ""}


def case_set(some: CaseSet, store: Store) -> dict[str, Any]:
    """The cases of an open test set; their images go into the store.

    Raises:
        DataError: a method lacks a result, or images of a case differ in size.
    """
    if some.restricted:
        raise DataError(f"{some.title}: images of a restricted dataset never enter a page.")
    return {
        "test": some.test, "title": some.title, "rule": some.rule, "seed": some.seed, "methods": list(some.methods),
        "context": [[name, value] for name, value in some.context.items() if value], "segmenter": segmenter_of(some),
        "metrics": {name: _metric(column) for name, column in some.metrics.items()},
        "cases": [_case(case, some, store) for case in some.cases],
    }  # fmt: skip


def _metric(column: Column) -> dict[str, Any]:
    return {
        "label": column.label, "unit": column.unit, "digits": column.digits, "better": column.better if column.sign else "",
        "arrow": ARROWS.get(column.better, "").strip(), "evaluator": column.evaluator,
    }  # fmt: skip


def _case(case: Case, some: CaseSet, store: Store) -> dict[str, Any]:
    missing = [method for method in some.methods if method not in case.results]
    if missing:
        raise DataError(f"{some.title}, case {case.image_id}: no result of {', '.join(missing)}.")
    for name, pixels in _parts(case, some.methods):
        if pixels.shape != case.image.shape:
            raise DataError(f"{some.title}, case {case.image_id}: {name} is {_size(pixels)} px, the input {_size(case.image)} px.")
    reference, undecided, *before = _places([case.lungs, case.undecided, *case.lungs_before.values()], store)
    return {
        "id": case.image_id, "why": case.why, "image": store.grey(case.image),
        "opacity": store.grey(case.opacity) if case.opacity is not None else None,
        "counterpart": store.grey(case.counterpart) if case.counterpart is not None else None,
        "reference": reference, "undecided": undecided, "before": dict(zip(case.lungs_before, before, strict=True)),
        "odd": _odd(case, case.lungs_before), "results": [_result(case, case.results[method], store) for method in some.methods],
    }  # fmt: skip


def _odd(case: Case, masks: Mapping[str, Flags]) -> dict[str, str]:
    """Segmenter -> what its outline cannot show."""
    return {name: words for name, mask in masks.items() if (words := case.oddity(mask))}


def _result(case: Case, result: Result, store: Store) -> dict[str, Any]:
    return {
        "image": store.grey(result.image),
        "mask": store.grey(result.mask) if result.mask is not None else None,
        "after": dict(zip(result.lungs, _places(list(result.lungs.values()), store), strict=True)),
        "odd": _odd(case, result.lungs),
        "scores": {name: value if math.isfinite(value) else None for name, value in result.scores.items()},
    }


def _places(masks: Sequence[Flags | None], store: Store) -> list[tuple[int, int] | None]:
    """(place, bit) of each mask; None where there is none."""
    found = iter(store.flags([mask for mask in masks if mask is not None]))
    return [next(found) if mask is not None else None for mask in masks]


def _parts(case: Case, methods: Iterable[str]) -> list[tuple[str, Grey | Flags]]:
    """Everything of a case with pixels, by name, the input first."""
    named: list[tuple[str, Grey | Flags | None]] = [
        ("the input", case.image), ("the opacity", case.opacity), ("the true clear image", case.counterpart),
        ("the reference mask", case.lungs), ("its undecided part", case.undecided), *_lungs("the input", case.lungs_before),
    ]  # fmt: skip
    for method in methods:
        result = case.results[method]
        named += [(f"the translation of {method}", result.image), (f"the activation mask of {method}", result.mask)]
        named += _lungs(method, result.lungs)
    return [(name, pixels) for name, pixels in named if pixels is not None]


def _lungs(whose: str, masks: Mapping[str, Flags]) -> list[tuple[str, Flags]]:
    return [(f"the lungs of {whose} by {segmenter}", mask) for segmenter, mask in masks.items()]


def _size(pixels: Grey | Flags) -> str:
    return " x ".join(map(str, pixels.shape[::-1]))
