"""Tables -> text. The only place that rounds; no clock, no disk."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

import pandas as pd

from bench.files import canonical_json, digest
from leaderboards.tables import TEST_FIELDS, TRAIN_FIELDS, Cell, Column, Record, Row, Table, tables

MISSING = "\u2013"
ARROWS = {"lower": " ↓", "higher": " ↑"}
#: Longest confidence interval, in characters, that still goes into a cell.
SHORT_CI = 18
#: Characters in a line of a heading where the terminal is narrow.
NARROW = 14

#: What the digest covers: results and what they depend on, not when or where they were computed.
DIGESTED = (
    *TEST_FIELDS, *TRAIN_FIELDS, "method", "method_version", "config_fingerprint", "seed",
    "evaluator", "evaluator_version", "params", "scores", "status",
)  # fmt: skip

EXTRACTORS = {
    "inception": "FID and KID: Inception-v3 of 2015-12-05 through torch-fidelity, translated against real clear images.",
    "cxr": (
        "FD-cxr and KD-cxr: Frechet and kernel distance of the finding classifier's pooled features (classifier {prior}). "
        "They are not FID or KID, and compare only under the same classifier."
    ),
}


def leaderboard(records: Iterable[Record]) -> str:
    """All tables as markdown with everything a reader needs to judge them, the same for any order of the records."""
    records = sorted(records, key=canonical_json)
    if not records:
        return "# Leaderboard\n\nNo records yet.\n"
    parts = ["# Leaderboard", *(_section(table) for table in tables(records))]
    results = sorted(([record.get(name) for name in DIGESTED] for record in records), key=canonical_json)
    parts.append(f"{len(records)} records, digest `{digest(results)}`.")
    return "\n\n".join(parts) + "\n"


def short(records: Iterable[Record], width: int = 100) -> str:
    """The primary metrics for a terminal of `width` columns; ``*`` marks the best of a column."""
    parts = []
    for table in tables(records):
        columns = [column for column in table.columns if column.primary]
        text = _plain(_frame(table, columns, best="{} *", brief=True))
        if max(map(len, text.splitlines())) > width:  # headings and spreads on lines of their own
            frame = _frame(table, columns, best="{} *", brief=True, between="\n")
            text = _plain(frame.rename(columns=lambda heading: textwrap.fill(heading, NARROW, break_long_words=False)))
        parts.append("\n".join([textwrap.fill(_title(table), width), "", text, *_problems(table)]))
    return "\n\n".join(parts) + "\n" if parts else "No records yet.\n"


def _plain(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, tablefmt="simple", disable_numparse=True, colalign=_align(frame))


def _section(table: Table) -> str:
    frame = _frame(table, table.columns, best="**{}**", costs=True).map(lambda text: text.replace("|", "\\|"))
    text = frame.to_markdown(index=False, disable_numparse=True, colalign=_align(frame))
    below = [
        *_problems(table), *_cautions(table), *_numbers(table), *_spreads(table), *_remarks(table), *_statements(table)
    ]  # fmt: skip
    return "\n\n".join([f"## {_title(table)}", text, "\n".join(f"- {line}" for line in below)])


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


def _frame(
    table: Table, columns: Sequence[Column], best: str, costs: bool = False, brief: bool = False, between: str = " "
) -> pd.DataFrame:
    """The texts of a table; `between` stands between a value and its spread."""
    headings = ["Method", *(_heading(column) for column in columns), "n", "Seeds"]
    texts = [[_name(row, mark) for row, mark in zip(table.rows, _marks(table), strict=True)]]
    texts += [_cells(table.rows, column, best, brief, between) for column in columns]
    texts += [[_range(row.n) for row in table.rows], [str(row.seeds) for row in table.rows]]
    if costs:
        headings += ["Images seen", "Parameters"]
        texts += [[_count(row.images_seen) for row in table.rows], [_count(row.parameters) for row in table.rows]]
    return pd.DataFrame(list(zip(*texts, strict=True)), columns=headings)


def _heading(column: Column) -> str:
    unit = f" ({column.unit})" if column.unit else ""
    return f"{column.label}{unit}{ARROWS.get(column.better, '')}"


def _range(numbers: Sequence[int]) -> str:
    return MISSING.join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1]))) if numbers else MISSING


def _align(frame: pd.DataFrame) -> tuple[str, ...]:
    return ("left", *["right"] * (frame.shape[1] - 1))


def _marks(table: Table) -> list[int]:
    """Footnote number of each row, 0 for none."""
    count = 0
    marks = []
    for row in table.rows:
        count += bool(row.problems)
        marks.append(count if row.problems else 0)
    return marks


def _name(row: Row, mark: int) -> str:
    return f"{row.label} [{mark}]" if mark else row.label


def _cells(rows: Sequence[Row], column: Column, best: str, brief: bool, between: str) -> list[str]:
    """A column's texts; the best value is marked, ``original`` included, where there is anything to compare."""
    values = [row.cells[column.key].value * column.sign for row in rows if column.key in row.cells]
    winner = min(values) if column.sign and len(values) > 1 else None
    texts = []
    for row in rows:
        cell = row.cells.get(column.key)
        if cell is None:
            texts.append("failed" if row.failed & {column.evaluator, ""} else MISSING)
        else:
            value, spread = _number(cell.value, column.digits), _spread(cell, column.digits, brief)
            texts.append(between.join([best.format(value) if cell.value * column.sign == winner else value, *spread]))
    return texts


def _number(value: float, digits: int) -> str:
    """Rounded; a zero has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _spread(cell: Cell, digits: int, brief: bool) -> list[str]:
    """Standard deviation and interval; `brief` gives the interval two digits of its half-width and leaves out an empty one."""
    std = [f"± {_number(cell.std, digits)}"] if cell.std is not None else []
    if not cell.ci:
        return std
    half = (cell.ci[1] - cell.ci[0]) / 2
    if brief and half <= 0:
        return std
    digits = min(digits, max(0, 1 - math.floor(math.log10(half)))) if brief else digits
    ci = f"[{_number(cell.ci[0], digits)}, {_number(cell.ci[1], digits)}]"
    return [*std, ci] if len(ci) <= SHORT_CI else std


def _count(number: int | None) -> str:
    """1234567 -> ``1.23 M``."""
    if number is None:
        return MISSING
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _problems(table: Table) -> list[str]:
    marked = zip(table.rows, _marks(table), strict=True)
    return [f"[{mark}] {row.label}: {'; '.join(row.problems)}." for row, mark in marked if mark]


def _spreads(table: Table) -> list[str]:
    """What ± and brackets mean, metric by metric: spreads over different things are never one column."""
    over: dict[str, list[str]] = {}
    for column in table.columns:
        for kind in sorted({c.std_over for row in table.rows if (c := row.cells.get(column.key)) and c.std is not None}):
            over.setdefault(kind or "unstated units", []).append(column.label)
    lines = [f"± is the standard deviation over {kind}: {', '.join(labels)}." for kind, labels in sorted(over.items())]
    if any(cell.ci for row in table.rows for cell in row.cells.values()):
        lines.append("[low, high] is the 95 % confidence interval over patients, for a single seed.")
    return lines


def _cautions(table: Table) -> list[str]:
    """What makes numbers look better than they are."""
    lines = []
    if table.split_by:
        lines.append("Split by image: patients unknown, the same patient may be in training and test.")
    kinds: dict[tuple[str, ...], list[str]] = {}
    for method, labels in sorted(table.favoured.items()):
        kinds.setdefault(labels, []).append(method)
    for labels, methods in kinds.items():
        lines.append(f"{', '.join(labels)} favour {', '.join(methods)}: trained with the classifier that scores here.")
    for text, warned in sorted(table.warnings.items()):
        lines.append(f"Training of {', '.join(warned)}: {' '.join(text.split()).rstrip('.')}.")
    return lines


def _numbers(table: Table) -> list[str]:
    """Which metrics rest on other numbers of images than their row's n, and which on different numbers between rows."""
    labels: dict[tuple[str, str], list[str]] = {}
    uneven = []
    for column in table.columns:
        cells = {row.label: (row, row.cells[column.key]) for row in table.rows if column.key in row.cells}
        odd: dict[str, list[str]] = {}
        for label, (row, cell) in cells.items():
            if cell.n and cell.n != row.n:
                odd.setdefault(_range(cell.n), []).append(label)
        for n, methods in odd.items():
            labels.setdefault((n, "" if len(methods) == len(cells) else f" ({', '.join(methods)})"), []).append(column.label)
        if len({cell.n for _, cell in cells.values()}) > 1:
            uneven.append(column.label)
    lines = [f"n = {n}: {', '.join(names)}{whom}." for (n, whom), names in sorted(labels.items())]
    if uneven:
        lines.append(f"n differs between rows: {', '.join(uneven)}. Distances whose bias depends on n do not compare.")
    return lines


def _remarks(table: Table) -> list[str]:
    lines = []
    for note, (labels, methods) in sorted(table.notes.items(), key=lambda item: (item[1], item[0])):
        whom = f" ({', '.join(methods)})" if methods else ""
        lines.append(f"{', '.join(labels)}: {note}{whom}.")
    return lines


def _statements(table: Table) -> list[str]:
    lines = [
        EXTRACTORS.get(kind, f"Feature extractor: {kind}.").format(prior=f"`{prior}`" if prior else "without an id")
        for kind, prior in table.extractors
    ]
    for prior in table.priors:
        findings = ", ".join(prior.get("findings") or ()) or "none"
        by = prior.get("trained_by") or "unknown"
        line = f"Finding classifier `{prior.get('id')}`: trained by {by}, findings {findings}"
        if prior.get("val_auroc") is not None:
            line += f"; mean AUROC {prior['val_auroc']:.2f} on {prior.get('n_val')} held-out images"
        elif by != "harness":
            line += "; whom it has seen is unknown, test patients may be among them"
        lines.append(line + ".")
    if not any(row.original for row in table.rows):
        lines.append("`original`, the untranslated images, is missing here: give the whole results folder, not a part of it.")
    return [*lines, f"Data fingerprint `{table.context['dataset_fingerprint']}`."]
