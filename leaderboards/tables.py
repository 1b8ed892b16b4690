"""Records -> tables: what may stand side by side, in which order, with which spread. Nothing is rounded here.

Numbers are comparable only where data, preset, training set, evaluator parameters and, for features of the finding
classifier, the classifier are the same. Whatever differs in one of these goes into another table.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.files import canonical_json, digest

Record = Mapping[str, Any]

#: The method that changes nothing: first row of every table, the mark that a translation has to beat.
ORIGINAL = "original"
#: Fields that must agree within a table ...
TEST_FIELDS = ("schema", "dataset", "dataset_fingerprint", "reference", "reference_fingerprint", "split", "direction", "image_size")
#: ... and those that must agree for whatever was trained (``original`` was not, and stands in every table of its test set).
TRAIN_FIELDS = ("train_dataset", "preset")


@dataclass(frozen=True)
class Column:
    """One metric of one evaluator; fields as in `bench.contracts.Metric`."""

    evaluator: str
    key: str
    label: str
    better: str
    unit: str
    digits: int
    primary: bool

    @property
    def sign(self) -> int:
        """Factor that makes smaller better: 1, -1, or 0 where the metric is not ranked."""
        return {"lower": 1, "higher": -1}.get(self.better, 0)


@dataclass(frozen=True)
class Cell:
    """One value. `std_over` says what `std` is over, seeds as soon as any method of the column has several; `n` are images."""

    value: float
    std: float | None = None
    std_over: str = ""
    ci: tuple[float, float] | None = None
    n: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        label: method, with version or configuration where the name alone is ambiguous.
        original: whether this is the do-nothing row.
        cells: metric key -> value; a metric without one is missing.
        failed: evaluators whose every record failed; ``""`` when the method failed before it was scored.
        problems: one line for each record that failed or was skipped.
        n: images behind its scores where they agree, else behind its primary ones; one entry for each number that occurs.
        seeds: number of seeds with at least one score.
        images_seen, parameters: cost of training, None where unknown.
    """

    label: str
    original: bool
    cells: Mapping[str, Cell]
    failed: frozenset[str]
    problems: tuple[str, ...]
    n: tuple[int, ...]
    seeds: int
    images_seen: int | None
    parameters: int | None


@dataclass(frozen=True)
class Table:
    """Rows that may be compared.

    Attributes:
        context: name -> value of what all rows share (test set, split, reference, training set, preset, fingerprint).
        variants: evaluator parameters, only where another table differs in nothing else.
        columns: in table order.
        rows: ``original`` first, the others by the first primary metric.
        notes: remark -> labels of the metrics it belongs to and the methods, empty where it is all of them.
        extractors: (extractor, prior id) of the feature distances shown.
        priors: finding classifiers behind the rows, by id.
        split_by: what was kept apart by the split where it was not patients, else empty.
        warnings: what trainings warned about -> methods.
        favoured: methods trained with the classifier that scores them -> labels of those metrics.
    """

    context: Mapping[str, str]
    variants: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    extractors: tuple[tuple[str, str], ...]
    priors: tuple[Mapping[str, Any], ...]
    split_by: str
    warnings: Mapping[str, tuple[str, ...]]
    favoured: Mapping[str, tuple[str, ...]]


def tables(records: Iterable[Record]) -> list[Table]:
    """Sort records into tables; the order of the records does not matter."""
    ordered = sorted(_newest(records), key=canonical_json)
    return [
        _table(group, variants if len(split) > 1 else [], members)
        for group, members in sorted(_groups(ordered).items())
        for split in [_split(members)]
        for variants, members in split
    ]


def _newest(records: Iterable[Record]) -> list[Record]:
    """Of several records of one score the last written: other evaluator code, for example, leaves the old one lying."""
    found: dict[tuple[Any, ...], Record] = {}
    for record in sorted(records, key=lambda r: (_text(r.get("written")), canonical_json(r))):
        group = tuple(_text(record.get(name)) for name in (*TEST_FIELDS, *TRAIN_FIELDS))
        found[group, _identity(record), _text(record.get("seed")), _variant(record)] = record
    return list(found.values())


def _groups(records: Sequence[Record]) -> dict[tuple[str, ...], list[Record]]:
    """Comparable records by their shared fields; ``original`` joins every group of its test set, with the scores lacking there."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        groups[tuple(_text(record.get(name)) for name in (*TEST_FIELDS, *TRAIN_FIELDS))].append(record)
    tests = len(TEST_FIELDS)
    trained = {key: members for key, members in groups.items() if any(r["method"] != ORIGINAL for r in members)}
    alone = {key: m for key, m in groups.items() if all(key[:tests] != other[:tests] for other in trained)}
    joined = {}
    for key, members in trained.items():
        lacking = {_variant(r) for r in members} - {_variant(r) for r in members if r["method"] == ORIGINAL}
        others = [r for other in sorted(groups) if other != key and other[:tests] == key[:tests] for r in groups[other]]
        joined[key] = members + [r for r in others if r["method"] == ORIGINAL and _variant(r) in lacking]
    return {**joined, **alone}


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else canonical_json(value)


Variant = tuple[str, str]


def _variant(record: Record) -> Variant:
    """(evaluator, hash of what its numbers depend on besides the images)."""
    parts = [record.get("params") or {}, _prior_id(record), record.get("evaluator_version"), record.get("evaluator_origin")]
    return _text(record.get("evaluator")), digest(parts)


def _prior_id(record: Record) -> str:
    """The classifier that the record's numbers rest on; empty where the evaluator did not use it."""
    prior = record.get("prior") or {}
    used = prior.get("scores_with_it", (record.get("params") or {}).get("extractor") == "cxr")
    return _text(prior.get("id")) if used else ""


def _split(records: Sequence[Record]) -> list[tuple[list[str], list[Record]]]:
    """Spread records so that no metric comes from two configurations of its evaluator within one table.

    Evaluators whose metrics have different keys (two extractors) share a table: every column is ranked by itself.
    """
    members: dict[Variant, list[Record]] = defaultdict(list)
    for record in records:
        members[_variant(record)].append(record)
    places: list[tuple[set[str], list[Variant]]] = []
    for variant in sorted(members):
        keys = {metric["key"] for record in members[variant] for metric in record.get("metrics") or ()}
        place = next((p for p in places if not p[0] & keys), None)
        if place is None:
            places.append((keys, [variant]))
        else:
            place[0].update(keys)
            place[1].append(variant)
    configurations = Counter(evaluator for evaluator, _ in members)
    return [
        (
            [_describe(members[v][0]) for v in chosen if configurations[v[0]] > 1],
            [record for v in chosen for record in members[v]],
        )
        for _, chosen in places
    ]


def _describe(record: Record) -> str:
    params = ", ".join(f"{name}={value}" for name, value in sorted((record.get("params") or {}).items()))
    version = f"version={record['evaluator_version']}" if record.get("evaluator_version") is not None else ""
    prior = f"prior={_prior_id(record)}" if _prior_id(record) else ""
    return f"{record.get('evaluator')} ({', '.join(part for part in (version, params, prior) if part)})"


def _table(group: tuple[str, ...], variants: list[str], records: Sequence[Record]) -> Table:
    columns = _columns(records)
    by_method: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        by_method[_identity(record)].append(record)
    over_seeds = {column.key for column in columns for members in by_method.values() if len(_scores(members, column)) > 1}
    rows = [_row(_label(who, list(by_method)), members, columns, over_seeds) for who, members in by_method.items()]
    lead = next((c for c in columns if c.primary and c.sign and any(c.key in row.cells for row in rows)), None)
    scored = [r for r in records if r.get("status") == "ok"]
    extractors = {((r.get("params") or {}).get("extractor"), _prior_id(r)) for r in scored}
    priors = {_text(r["prior"].get("id")): r["prior"] for r in records if r.get("prior")}
    return Table(
        context=dict(zip((*TEST_FIELDS, *TRAIN_FIELDS), group, strict=True)),
        variants=tuple(variants),
        columns=columns,
        rows=tuple(sorted(rows, key=lambda row: _rank(row, lead))),
        notes=_notes(columns, by_method),
        extractors=tuple(sorted((kind, prior) for kind, prior in extractors if kind)),
        priors=tuple(priors[key] for key in sorted(priors)),
        split_by=next((by for r in records if (by := _text(r.get("split_by"))) not in ("", "patient")), ""),
        warnings=_warnings(by_method),
        favoured=_favoured(columns, by_method),
    )


def _warnings(by_method: Mapping[tuple[str, str, str], Sequence[Record]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = defaultdict(set)
    for who, records in by_method.items():
        for text in (text for record in records for text in record.get("warnings") or ()):
            found[_text(text)].add(_label(who, list(by_method)))
    return {text: tuple(sorted(methods)) for text, methods in found.items()}


def _favoured(
    columns: Sequence[Column], by_method: Mapping[tuple[str, str, str], Sequence[Record]]
) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for who, records in by_method.items():
        own = [r for r in records if r.get("trained_with_prior") and _prior_id(r)]
        keys = {metric["key"] for record in own for metric in record.get("metrics") or ()}
        if keys:
            found[_label(who, list(by_method))] = tuple(c.label for c in columns if c.key in keys)
    return found


def _columns(records: Sequence[Record]) -> tuple[Column, ...]:
    """Metrics of all evaluators: evaluators by name, metrics in their evaluator's order, each once."""
    found: dict[str, Column] = {}
    for record in sorted(records, key=lambda r: (_text(r.get("evaluator")), canonical_json(r.get("params")))):
        for m in record.get("metrics") or ():
            column = Column(
                record["evaluator"], m["key"], m["label"], m["better"],
                m.get("unit", ""), m.get("digits", 3), bool(m.get("primary")),
            )  # fmt: skip
            found.setdefault(column.key, column)
    return tuple(found.values())


def _identity(record: Record) -> tuple[str, str, str]:
    config = "" if record["method"] == ORIGINAL else _text(record.get("config_fingerprint"))
    return _text(record["method"]), _text(record.get("method_version")), config


def _label(who: tuple[str, str, str], everybody: Sequence[tuple[str, str, str]]) -> str:
    """The method's name, with version and configuration hash where others of that name differ in them."""
    name, version, config = who
    namesakes = [other for other in everybody if other[0] == name]
    label = f"{name} v{version}" if len({other[1] for other in namesakes}) > 1 else name
    return f"{label} ({config[:8]})" if len({other[2] for other in namesakes}) > 1 else label


def _scores(records: Sequence[Record], column: Column) -> dict[str, Mapping[str, Any]]:
    """Seed -> score of a column, of records that succeeded and have a value."""
    return {
        _text(r.get("seed")): r["scores"][column.key]
        for r in records
        if r.get("status") == "ok" and (r.get("scores") or {}).get(column.key, {}).get("value") is not None
    }


def _row(label: str, records: Sequence[Record], columns: Sequence[Column], over_seeds: set[str]) -> Row:
    cells = {}
    for column in columns:
        scores = _scores(records, column)
        if scores:
            cells[column.key] = _cell(list(scores.values()), column.key in over_seeds)
    ok = {_text(r.get("evaluator")) for r in records if r.get("status") == "ok"}
    failed = {_text(r.get("evaluator")) for r in records if r.get("status") == "failed"}
    scored = [r for r in records if r.get("status") == "ok"]
    everything, headline = (
        _distinct(cells[c.key].n for c in some if c.key in cells) for some in (columns, [c for c in columns if c.primary])
    )
    return Row(
        label=label,
        original=records[0]["method"] == ORIGINAL,
        cells=cells,
        failed=frozenset(failed - ok),
        problems=tuple(dict.fromkeys(_problem(r) for r in records if r.get("status") != "ok")),
        n=everything if len(everything) < 2 else headline or everything,
        seeds=len({_text(r.get("seed")) for r in scored}),
        images_seen=_cost(records, "images_seen"),
        parameters=_cost(records, "parameters"),
    )


def _distinct(numbers: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted({n for some in numbers for n in some}))


def _cell(scores: Sequence[Mapping[str, Any]], over_seeds: bool) -> Cell:
    """One score as it is, or the mean of several seeds; a column with seeds shows no other spread."""
    n = _distinct((score["n"],) for score in scores if score.get("n") is not None)
    if len(scores) > 1:
        values = [float(score["value"]) for score in scores]
        return Cell(statistics.fmean(values), statistics.stdev(values), "seeds", n=n)
    score = scores[0]
    ci = (float(score["ci"][0]), float(score["ci"][1])) if score.get("ci") else None
    if over_seeds or score.get("std") is None:
        return Cell(float(score["value"]), ci=ci, n=n)
    return Cell(float(score["value"]), float(score["std"]), score.get("std_over", ""), ci, n)


def _problem(record: Record) -> str:
    where = [_text(record.get("evaluator")), f"seed {_text(record.get('seed'))}" if record.get("seed") is not None else ""]
    first_line = (_text(record.get("error")).strip().splitlines() or ["no reason recorded"])[0]
    return f"{', '.join(part for part in where if part)} {record.get('status')}: {first_line}".strip()


def _cost(records: Sequence[Record], name: str) -> int | None:
    known = [cost[name] for r in records if (cost := r.get("cost") or {}).get(name) is not None]
    return max(known) if known else None


def _rank(row: Row, lead: Column | None) -> tuple[bool, bool, float, str]:
    cell = row.cells.get(lead.key) if lead else None
    return not row.original, cell is None, cell.value * lead.sign if cell and lead else 0.0, row.label


def _notes(
    columns: Sequence[Column], by_method: Mapping[tuple[str, str, str], Sequence[Record]]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Remark -> (metric labels, methods); methods are left empty where the remark holds for every one with that metric."""
    metrics: dict[str, dict[str, None]] = defaultdict(dict)
    methods: dict[str, set[str]] = defaultdict(set)
    scored: dict[str, set[str]] = defaultdict(set)
    for column in columns:
        for who, records in by_method.items():
            label = _label(who, list(by_method))
            for score in [(r.get("scores") or {}).get(column.key) for r in records if r.get("status") == "ok"]:
                scored[column.label].update([label] if score else [])
                for note in filter(None, ((score or {}).get("note") or "").split("; ")):
                    metrics[note][column.label] = None
                    methods[note].add(label)
    everyone = {note: set().union(*(scored[label] for label in labels)) for note, labels in metrics.items()}
    return {
        note: (tuple(labels), () if methods[note] == everyone[note] else tuple(sorted(methods[note])))
        for note, labels in metrics.items()
    }
