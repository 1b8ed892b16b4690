"""Tables -> text. The only place that rounds; no clock, no disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from bench.files import canonical_json, digest
from leaderboards.tables import TEST_FIELDS, TRAIN_FIELDS, Cell, Column, Record, Row, Table, tables

MISSING = "\u2013"
ARROWS = {"lower": " ↓", "higher": " ↑"}
#: Longest confidence interval, in characters, that still goes into a cell.
SHORT_CI = 18

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


def short(records: Iterable[Record]) -> str:
    """The primary metrics for the terminal; ``*`` marks the best of a column."""
    parts = []
    for table in tables(records):
        columns = [column for column in table.columns if column.primary]
        frame = _frame(table, columns, best="{} *")
        text = frame.to_markdown(index=False, tablefmt="simple", disable_numparse=True, colalign=_align(frame))
        parts.append("\n".join([_title(table), "", text, *_problems(table)]))
    return "\n\n".join(parts) + "\n" if parts else "No records yet.\n"


def _section(table: Table) -> str:
    frame = _frame(table, table.columns, best="**{}**", costs=True).map(lambda text: text.replace("|", "\\|"))
    text = frame.to_markdown(index=False, disable_numparse=True, colalign=_align(frame))
    below = [*_problems(table), *_spreads(table), *_remarks(table), *_statements(table)]
    return "\n\n".join([f"## {_title(table)}", text, "\n".join(f"- {line}" for line in below)])


def _title(table: Table) -> str:
    c = table.context
    parts = [
        f"{c['dataset']} {c['split']}".strip(),
        f"against {c['reference']} {c['reference_fingerprint'][:8]}".rstrip() if c["reference"] else "",
        f"trained on {c['train_dataset']}" if c["train_dataset"] else "",
        f"preset {c['preset']}" if c["preset"] else "",
        f"data {c['dataset_fingerprint'][:8]}",
        f"direction {c['direction']}" if c["direction"] not in ("", "a2b") else "",
        *table.variants,
    ]
    return " · ".join(part for part in parts if part)


def _frame(table: Table, columns: Sequence[Column], best: str, costs: bool = False) -> pd.DataFrame:
    headings = ["Method", *(_heading(column) for column in columns), "n", "Seeds"]
    texts = [[_name(row, mark) for row, mark in zip(table.rows, _marks(table), strict=True)]]
    texts += [_cells(table.rows, column, best) for column in columns]
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


def _cells(rows: Sequence[Row], column: Column, best: str) -> list[str]:
    """A column's texts; the best value is marked, ``original`` included, where there is anything to compare."""
    values = [row.cells[column.key].value * column.sign for row in rows if column.key in row.cells]
    winner = min(values) if column.sign and len(values) > 1 else None
    texts = []
    for row in rows:
        cell = row.cells.get(column.key)
        if cell is None:
            texts.append("failed" if row.failed & {column.evaluator, ""} else MISSING)
        else:
            value, spread = _number(cell.value, column.digits), _spread(cell, column.digits)
            texts.append((best.format(value) if cell.value * column.sign == winner else value) + spread)
    return texts


def _number(value: float, digits: int) -> str:
    """Rounded; a zero has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _spread(cell: Cell, digits: int) -> str:
    std = f" ± {_number(cell.std, digits)}" if cell.std is not None else ""
    ci = f"[{_number(cell.ci[0], digits)}, {_number(cell.ci[1], digits)}]" if cell.ci else ""
    return f"{std} {ci}" if 0 < len(ci) <= SHORT_CI else std


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
    if len({n for row in table.rows for n in row.n}) > 1:
        lines.append("n differs between rows: distances whose bias depends on n do not compare.")
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
        lines.append(f"Finding classifier `{prior.get('id')}`: trained by {by}, findings {findings}.")
    return [*lines, f"Data fingerprint `{table.context['dataset_fingerprint']}`."]
