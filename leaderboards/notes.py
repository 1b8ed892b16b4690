"""Lines under a table: what its numbers rest on, and what makes them look better than they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from bench.files import digest
from bench.records import LOCAL, Local
from leaderboards.cells import MARKDOWN, names, span, texts, title
from leaderboards.groups import Record
from leaderboards.tables import Cell, Column, Remark, Table

EXTRACTORS = {
    "inception": "FID and KID: Inception-v3 of 2015-12-05 through torch-fidelity, translated against real clear images.",
    "cxr": (
        "FD-cxr and KD-cxr: Frechet and kernel distance of the finding classifier's pooled features (classifier {prior}). "
        "They are not FID or KID, and compare only under the same classifier."
    ),
}
#: Weight hashes of one model that a line has room for ...
MANY = 3
#: ... and metrics.
LONG = 6
#: Facts of a model that are told, where they are texts.
TOLD = ("encoder", "start", "trained_on", "trained_by", "file", "library", "licence")


def marks(table: Table) -> list[int]:
    """Footnote number of each row, 0 for none."""
    count = 0
    found = []
    for row in table.rows:
        count += bool(row.problems)
        found.append(count if row.problems else 0)
    return found


def problems(table: Table) -> list[str]:
    """Footnotes of records that failed or were skipped."""
    marked = zip(table.rows, marks(table), strict=True)
    return [f"[{mark}] {row.label}: {'; '.join(row.problems)}." for row, mark in marked if mark]


def doubts(table: Table, columns: Sequence[Column], mark: str = "† in grey") -> list[str]:
    """Why values are marked as doubtful."""
    return [
        f"{mark}, not to be relied upon and not ranked: {names(shown, table.columns)}: {remark.text.rstrip('.')}{_whom(remark)}."
        for remark in table.doubts
        if (shown := [c for c in remark.columns if c in columns])
    ]


def lacking(table: Table, columns: Sequence[Column]) -> list[str]:
    """One line on metrics that no row has a value of, with the reasons."""
    reasons: dict[str, list[Column]] = {}
    for column in (c for c in table.lacking if c in columns):
        told = [note.text for note in table.notes if column in note.columns]
        failed = [row for row in table.rows if row.failed & {column.evaluator, ""}]
        reasons.setdefault("; ".join(told) or ("failed" if failed else "no value"), []).append(column)
    parts = [f"{names(some, table.columns)} ({reason})" for reason, some in reasons.items()]
    return [f"No row has a value of: {'; '.join(parts)}."] if parts else []


def real(table: Table) -> list[str]:
    """Shared metrics of the main table: the same for every method."""
    shared = [c for c in table.columns if c.shared and not c.part and c.id in table.real]
    found = []
    for column in shared:
        values = []
        for one in table.real[column.id]:
            (words,) = texts([one.cell], column, MARKDOWN)
            unit = f" {column.unit}" if column.unit else ""
            whose = f" ({', '.join(one.methods)})" if one.methods else ""
            values.append(f"{words}{unit}{whose}, n = {span(one.cell.n)}")
        found.append(f"{column.label} {'; '.join(values)}")
    return [f"On real images, whatever the method: {'. '.join(found)}."] if found else []


def spreads(table: Table) -> list[str]:
    """What ± and brackets mean, metric by metric: spreads over different things are never one column."""
    kinds = {c: sorted({cell.std_over for cell in _cells(table, c) if cell.std is not None}) for c in table.columns}
    spread = [column for column, some in kinds.items() if some]
    over: dict[str, list[Column]] = {}
    for column in spread:
        for kind in kinds[column]:
            over.setdefault(kind or "unstated units", []).append(column)
    lines = [f"± is the standard deviation over {kind}: {names(some, spread)}." for kind, some in sorted(over.items())]
    if len(over) == 1 and len(spread) > LONG:
        lines = [f"± is the standard deviation over {next(iter(over))}, whatever the metric."]
    if any(cell.ci for column in table.columns for cell in _cells(table, column)):
        lines.append("[low, high] is the 95 % confidence interval over patients, for a single seed.")
    return lines


def _cells(table: Table, column: Column) -> list[Cell]:
    if column.shared:
        return [one.cell for one in table.real.get(column.id, ())]
    return [row.cells[column.id] for row in table.rows if column.id in row.cells]


def cautions(table: Table) -> list[str]:
    """What makes numbers look better than they are."""
    lines = []
    if table.split_by:
        lines.append("Split by image: patients unknown, the same patient may be in training and test.")
    kinds: dict[str, list[str]] = {}
    for method, columns in sorted(table.favoured.items()):
        kinds.setdefault(names(columns, table.columns), []).append(method)
    for labels, methods in kinds.items():
        lines.append(f"{labels} favour {', '.join(methods)}: trained with the classifier that scores here.")
    for words, warned in sorted(table.warnings.items()):
        lines.append(f"Training of {', '.join(warned)}: {' '.join(words.split()).rstrip('.')}.")
    return lines


def numbers(table: Table) -> list[str]:
    """Which metrics rest on other numbers of images than their row's n, and which on different numbers between rows. Tables
    of parts have a column for it."""
    labels: dict[tuple[str, str], list[str]] = {}
    uneven = []
    for column in table.main:
        cells = {row.label: (row, row.cells[column.id]) for row in table.rows if column.id in row.cells}
        odd: dict[str, list[str]] = {}
        for label, (row, cell) in cells.items():
            if cell.n and cell.n != row.n:
                odd.setdefault(span(cell.n), []).append(label)
        for n, methods in odd.items():
            labels.setdefault((n, "" if len(methods) == len(cells) else f" ({', '.join(methods)})"), []).append(column.label)
        if len({cell.n for _, cell in cells.values()}) > 1:
            uneven.append(column.label)
    rest = max((key for key in labels if not key[1]), key=lambda key: len(labels[key]), default=None)
    if rest and len(labels) > 1 and len(labels[rest]) > LONG:
        labels = {**{key: some for key, some in labels.items() if key != rest}, rest: ["the other metrics"]}
    lines = [f"n = {n}: {', '.join(some)}{whom}." for (n, whom), some in sorted(labels.items())]
    if uneven:
        lines.append(f"n differs between rows: {', '.join(uneven)}. Distances whose bias depends on n do not compare.")
    return lines


def remarks(table: Table) -> list[str]:
    """What scores say in words, of metrics that have a value (see `lacking`)."""
    return [
        f"{names(shown, table.columns)}: {note.text}{_whom(note)}."
        for note in table.notes
        if (shown := [c for c in note.columns if table.filled(c)])
    ]


def _whom(remark: Remark) -> str:
    return f" ({', '.join(remark.methods)})" if remark.methods else ""


def statements(table: Table) -> list[str]:
    """Extractors, classifiers, models and data."""
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
    lines += models(table)
    if not any(row.original for row in table.rows):
        lines.append("`original`, the untranslated images, is missing here: give the whole results folder, not a part of it.")
    return [*lines, f"Data fingerprint `{table.context['dataset_fingerprint']}`."]


#: Row label, seed, and what the record says about the model.
Use = tuple[str, str, Mapping[str, Any]]


def models(table: Table) -> list[str]:
    """One line for each evaluator with models of its own: names, numbers of training images, weights. What is the same for all
    is said once."""
    found: dict[str, dict[str, list[Use]]] = {}
    for row in table.rows:
        for record in row.records:
            for model in record.get("models") or ():
                uses = found.setdefault(record["evaluator"], {}).setdefault(model["name"], [])
                uses.append((row.label, str(record.get("seed")), model))
    lines = []
    for evaluator in sorted(found, key=[*dict.fromkeys(c.evaluator for c in table.columns), *sorted(found)].index):
        facts = [_facts(uses[0][2]) for uses in found[evaluator].values()]
        common = [fact for fact in facts[0] if all(fact in other for other in facts)]
        told = [_model(name, uses, common) for name, uses in sorted(found[evaluator].items())]
        for_all = f" ({', '.join(common)})" if common else ""
        lines.append(f"Models of {evaluator}{for_all}: {', '.join(told)}.")
    return lines


def _facts(model: Mapping[str, Any]) -> list[str]:
    """How many images it learnt from, and its facts that are texts."""
    n = next((model[key] for key in ("n", "images") if isinstance(model.get(key), int)), None)
    learnt = model.get("learnt_from")
    folds = [fold.values() for fold in (learnt if isinstance(learnt, list) else [learnt]) if isinstance(fold, dict)]
    sums = [sum(numbers) for numbers in folds if all(isinstance(number, int) for number in numbers)]
    told = [f"n = {span(sorted(sums)) if n is None else n}"] if sums or n is not None else []
    return told + [f"{key.replace('_', ' ')} {' '.join(v.split())}" for key in TOLD if isinstance(v := model.get(key), str) and v]


def _model(name: str, uses: Sequence[Use], common: Sequence[str]) -> str:
    """Name, facts that are not common to all, weights; says where methods were scored with different ones."""
    told = [fact for fact in _facts(uses[0][2]) if fact not in common]
    by_seed: dict[str, set[str]] = {}
    holders: dict[str, dict[str, None]] = {}
    for method, seed, model in uses:
        weights = _short(model)
        by_seed.setdefault(seed, set()).add(weights)
        holders.setdefault(weights, {})[method] = None
    if all(len(some) == 1 for some in by_seed.values()):
        told.append(" ".join(holders) if len(holders) <= MANY else f"{len(holders)} sets of weights, by seed")
    elif len(holders) <= MANY:
        told.append("not the same for all rows: " + ", ".join(f"{w} for {', '.join(who)}" for w, who in holders.items()))
    else:
        told.append(f"not the same for all rows: {len(holders)} sets of weights")
    return f"{name} ({', '.join(told)})"


def _short(model: Mapping[str, Any]) -> str:
    """The hash of its weights (of all folds), or what else identifies it."""
    weights = model.get("weights_id") or model.get("key")
    if not weights:
        return "weights without a hash"
    return f"`{(weights if isinstance(weights, str) else digest(weights))[:8]}`"


def figures(table: Table) -> list[str]:
    """Pictures that evaluators drew, method by method, of the first seed; paths are relative to the results folder."""
    lines = []
    for row in table.rows:
        first: dict[str, Record] = {}
        for record in sorted(row.records, key=lambda r: str(r.get("seed"))):
            if record.get("figures"):
                first.setdefault(record["evaluator"], record)
        links = [link for record in first.values() for link in _links(record)]
        if links:
            lines.append(f"{row.label}: {' '.join(links)}")
    return lines


def _links(record: Record) -> Iterable[str]:
    local = record.get(LOCAL)
    folder = f"{local.folder}/" if isinstance(local, Local) and local.folder not in ("", ".") else ""
    for path in record["figures"]:
        name = title(record["evaluator"]) + ", " + path.rsplit("/", 1)[-1].rsplit(".", 1)[0].replace("_", " ")
        yield f"![{name.replace('[', '(').replace(']', ')')}]({quote(folder + path)})"
