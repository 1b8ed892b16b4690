"""Records -> tables: in which order, with which spread, resting on what. Nothing is rounded here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leaderboards import budgets, changes
from leaderboards.groups import (
    ORIGINAL,
    TEST_FIELDS,
    TRAIN_FIELDS,
    Identity,
    Record,
    groups,
    identity,
    label,
    order,
    prior_id,
    split,
    text,
)
from leaderboards.values import Cell, cell, distinct, sign_of

#: Order of evaluators; others follow by name.
EVALUATORS = ("faithfulness", "fidelity", "segmentation", "classification", "detection")

#: Evaluator and metric key.
Id = tuple[str, str]


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
    part: str = ""
    shared: bool = False

    @property
    def id(self) -> Id:
        """What identifies it in a table: keys are unique within an evaluator only."""
        return self.evaluator, self.key

    @property
    def sign(self) -> int:
        """See `sign_of`."""
        return sign_of(self.better)


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        label: method, with version or configuration where the name alone is ambiguous.
        original: whether this is the do-nothing row.
        cells: column id -> value; a metric without one is missing. Shared metrics are in `Table.real`.
        failed: evaluators whose every record failed; ``""`` when the method failed before it was scored.
        problems: what failed or was skipped, a line for each seed and reason.
        n: images behind its scores where they agree, else behind its primary ones; one entry for each number that occurs.
        seeds: number of seeds with at least one score; `Cell.seeds` has that of each value.
        images_seen, parameters, seconds, gpu_seconds: cost of training, None where unknown; of several seeds the largest.
        records: the records behind it that succeeded.
        who: method, version, configuration.
    """

    label: str
    original: bool
    cells: Mapping[Id, Cell]
    failed: frozenset[str]
    problems: tuple[str, ...]
    n: tuple[int, ...]
    seeds: int
    images_seen: int | None
    parameters: int | None
    seconds: float | None
    gpu_seconds: float | None
    records: tuple[Record, ...] = ()
    who: Identity = ("", "", "")


@dataclass(frozen=True)
class Remark:
    """A text about some metrics; `methods` is empty where it holds for every one that has a score of those metrics, or a value."""

    text: str
    columns: tuple[Column, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Real:
    """A value that depends on no translated image; `methods` is empty where all records agree on it."""

    cell: Cell
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows that may be compared.

    Attributes:
        context: name -> value of what all rows share (test set, split, reference, training set, preset, fingerprint).
        variants: evaluator parameters, only where another table differs in nothing else.
        columns: in table order, those of parts and the shared ones included.
        rows: ``original`` first, the others by the first primary metric; doubtful values are no rank.
        real: column id -> values of the shared metrics.
        notes: remarks of scores.
        doubts: reasons not to rely upon scores.
        priors: finding classifiers of its records.
        split_by: empty for a split by patient.
        warnings: what trainings warned about -> methods.
        favoured: methods trained with the classifier that scores them -> those metrics.
        trained: in what all trainings depart from the preset; empty where they do not. Rows that alone do are in doubt.
    """

    context: Mapping[str, str]
    variants: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    real: Mapping[Id, tuple[Real, ...]]
    notes: tuple[Remark, ...]
    doubts: tuple[Remark, ...]
    priors: tuple[Mapping[str, Any], ...]
    split_by: str
    warnings: Mapping[str, tuple[str, ...]]
    favoured: Mapping[str, tuple[Column, ...]]
    trained: str = ""

    @property
    def main(self) -> tuple[Column, ...]:
        """Columns with a value for each method and no part, as far as any row has one."""
        return tuple(c for c in self.columns if not c.part and not c.shared and self.filled(c))

    @property
    def lacking(self) -> tuple[Column, ...]:
        """Columns without any value."""
        return tuple(c for c in self.columns if not self.filled(c))

    def filled(self, column: Column) -> bool:
        """Whether there is any value of it."""
        return column.id in self.real if column.shared else any(column.id in row.cells for row in self.rows)


Members = Mapping[Identity, Sequence[Record]]


def tables(records: Iterable[Record]) -> list[Table]:
    """Sort records into tables; the order of the records does not matter."""
    return [_table(group, variants, some) for group, members in groups(records) for variants, some in split(members)]


def _table(group: tuple[str, ...], variants: list[str], records: Sequence[Record]) -> Table:
    columns = _columns(records)
    members: dict[Identity, list[Record]] = defaultdict(list)
    for record in records:
        members[identity(record)].append(record)
    own = [column for column in columns if not column.shared]
    over_seeds = {column.id for column in own for some in members.values() if len(_scores(some, column)) > 1}
    odd, trained = budgets.odd(members)
    rows = [_row(label(who, members), some, own, over_seeds, odd.get(who, "")) for who, some in members.items()]
    lead = next((c for c in own if c.primary and c.sign and not c.part and any(_sure(row, c) for row in rows)), None)
    priors = {text(r["prior"].get("id")): r["prior"] for r in records if r.get("prior")}
    return Table(
        context=dict(zip((*TEST_FIELDS, *TRAIN_FIELDS), group, strict=True)),
        variants=tuple(variants),
        columns=columns,
        rows=tuple(sorted(rows, key=lambda row: _rank(row, lead))),
        real={column.id: found for column in columns if column.shared and (found := _real(members, column))},
        notes=(*_remarks(columns, members, lambda score: (score.get("note") or "").split("; ")), *_untested(rows, members, own)),
        doubts=(*_odd(rows, own, odd), *_remarks(columns, members, lambda score: [" ".join((score.get("doubt") or "").split())])),
        priors=tuple(priors[key] for key in sorted(priors)),
        split_by=next((by for r in records if (by := text(r.get("split_by"))) not in ("", "patient")), ""),
        warnings=_warnings(members),
        favoured=_favoured(columns, members),
        trained=trained,
    )


def _odd(rows: Sequence[Row], own: Sequence[Column], odd: Mapping[Identity, str]) -> tuple[Remark, ...]:
    """Rows that were trained in another way than the others."""
    mine = sorted((row.label, odd[row.who], tuple(c for c in own if c.id in row.cells)) for row in rows if row.who in odd)
    return tuple(Remark(words, columns, (name,)) for name, words, columns in mine if columns)


def _untested(rows: Sequence[Row], members: Members, own: Sequence[Column]) -> list[Remark]:
    """Results of tests that several seeds have, and their mean cannot be: see `leaderboards.changes`."""
    found: dict[tuple[Column, ...], list[str]] = defaultdict(list)
    for row in rows:
        lost = tuple(c for c in own if changes.result(c) and c.id not in row.cells and _scores(members[row.who], c))
        if lost:
            found[lost].append(row.label)
    return [Remark(changes.WHY, columns, tuple(sorted(names))) for columns, names in found.items()]


def _columns(records: Sequence[Record]) -> tuple[Column, ...]:
    """Metrics of all evaluators, in the order of evaluators, metrics in their evaluator's own, each once."""
    found: dict[Id, Column] = {}
    for record in sorted(records, key=lambda r: (_place(text(r.get("evaluator"))), text(r.get("params")), order(r))):
        for m in record.get("metrics") or ():
            digits = 3 if m.get("digits") is None else m["digits"]
            column = Column(
                text(record.get("evaluator")), m["key"], m["label"], m["better"], m.get("unit") or "", digits,
                bool(m.get("primary")), m.get("part") or "", bool(m.get("shared")),
            )  # fmt: skip
            found.setdefault(column.id, column)
    return tuple(found.values())


def _place(evaluator: str) -> tuple[int, str]:
    return (EVALUATORS.index(evaluator) if evaluator in EVALUATORS else len(EVALUATORS)), evaluator


def _scores(records: Sequence[Record], column: Column) -> dict[str, Mapping[str, Any]]:
    """Seed -> score of a column, of records that succeeded and have a value."""
    return {text(r.get("seed")): score for r in records if (score := score_of(r, column)).get("value") is not None}


def score_of(record: Record, column: Column) -> Mapping[str, Any]:
    """The score of a metric in a record that succeeded; empty where it has none."""
    mine = record.get("status") == "ok" and record.get("evaluator") == column.evaluator
    return ((record.get("scores") or {}).get(column.key) or {}) if mine else {}


def _row(name: str, records: Sequence[Record], columns: Sequence[Column], over_seeds: set[Id], odd: str) -> Row:
    scores = {column: list(some.values()) for column in columns if (some := _scores(records, column))}
    anew = changes.made_anew({c: some for c, some in scores.items() if len(some) > 1 and changes.result(c)}, records)
    cells = {c.id: cell(some, c.id in over_seeds, odd) for c, some in scores.items() if c not in anew}
    cells |= {c.id: replace(found, doubt="; ".join(filter(None, [odd, found.doubt]))) for c, found in anew.items() if found}
    scored = tuple(r for r in records if r.get("status") == "ok")
    ok = {text(r.get("evaluator")) for r in scored}
    failed = {text(r.get("evaluator")) for r in records if r.get("status") == "failed"}
    main = [c for c in columns if not c.part]
    everything, headline = (
        distinct(cells[c.id].n for c in some if c.id in cells) for some in (main, [c for c in main if c.primary])
    )
    return Row(
        label=name,
        original=records[0]["method"] == ORIGINAL,
        cells=cells,
        failed=frozenset(failed - ok),
        problems=_problems([r for r in records if r.get("status") != "ok"]),
        n=everything if len(everything) < 2 else headline or everything,
        seeds=len({text(r.get("seed")) for r in scored}),
        images_seen=_cost(records, "images_seen"),
        parameters=_cost(records, "parameters"),
        seconds=_cost(records, "seconds"),
        gpu_seconds=_cost(records, "gpu_seconds"),
        records=scored,
        who=identity(records[0]),
    )


def _real(members: Members, column: Column) -> tuple[Real, ...]:
    """The values of a shared metric: one, a mean over seeds where it follows the seed, or one for each group of methods.

    Values count as the same when they agree to a thousandth of the last digit shown."""
    by_method: dict[str, dict[str, tuple[float, Mapping[str, Any]]]] = {}
    for who, records in sorted(members.items(), key=lambda item: (item[0][0] != ORIGINAL, item[0])):
        scores = {seed: (round(s["value"], column.digits + 3), s) for seed, s in _scores(records, column).items()}
        if scores:
            by_method[label(who, members)] = scores
    seeds = sorted({seed for scores in by_method.values() for seed in scores})
    each = {seed: {value: score for scores in by_method.values() for value, score in [scores.get(seed, (None, {}))] if score}
            for seed in seeds}  # fmt: skip
    if all(len(found) == 1 for found in each.values()):
        once = {value: score for found in reversed(each.values()) for value, score in found.items()}
        found = list(once.values()) if len(once) == 1 else [score for seed in each.values() for score in seed.values()]
        # Of real images a test is the same for all seeds, but for the signs it flips at random.
        return (Real(cell(found[:1] if changes.result(column) else found, over_seeds=False)),) if found else ()
    alike: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for method, scores in by_method.items():
        alike[tuple(sorted({value for value, _ in scores.values()}))].append(method)
    return tuple(
        Real(cell([score for _, score in by_method[some[0]].values()][: 1 if changes.result(column) else None], False), tuple(some))
        for some in alike.values()
    )


def _problems(records: Sequence[Record]) -> tuple[str, ...]:
    """What failed or was skipped, a line for all evaluators with the same seed and reason."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        first_line = (text(record.get("error")).strip().splitlines() or ["no reason recorded"])[0]
        seed = f"seed {text(record.get('seed'))}" if record.get("seed") is not None else ""
        found[seed, f"{record.get('status')}: {first_line}"].append(text(record.get("evaluator")))
    whose = {key: [*dict.fromkeys(names), key[0]] for key, names in found.items()}
    return tuple(f"{', '.join(filter(None, parts))} {reason}".strip() for (_, reason), parts in whose.items())


def _cost(records: Sequence[Record], name: str) -> Any:
    known = [cost[name] for r in records if (cost := r.get("cost") or {}).get(name) is not None]
    return max(known) if known else None


def _sure(row: Row, column: Column | None) -> Cell | None:
    found = row.cells.get(column.id) if column else None
    return found if found and not found.doubt else None


def _rank(row: Row, lead: Column | None) -> tuple[bool, bool, float, str]:
    sure = _sure(row, lead)
    return not row.original, sure is None, sure.value * lead.sign if sure and lead else 0.0, row.label


def _remarks(
    columns: Sequence[Column], members: Members, told: Callable[[Mapping[str, Any]], Sequence[str]]
) -> tuple[Remark, ...]:
    """What scores say in words (`told` of a score: its texts), metrics and methods of which the same is said in one; sorted."""
    about: dict[tuple[str, tuple[str, ...]], list[Column]] = defaultdict(list)
    for column in columns:
        scored, valued, methods = set[str](), set[str](), dict[str, set[str]]()
        for who, records in members.items():
            name = label(who, members)
            for score in filter(None, (score_of(record, column) for record in records)):
                scored.add(name)
                valued |= {name} if score.get("value") is not None else set()
                for words in filter(None, told(score)):
                    methods.setdefault(words, set()).add(name)
        for words, whose in methods.items():
            everyone = column.shared or whose in (scored, valued)
            about[words, () if everyone else tuple(sorted(whose))].append(column)
    remarks = [Remark(words, tuple(found), whom) for (words, whom), found in about.items()]
    return tuple(sorted(remarks, key=lambda r: ([columns.index(c) for c in r.columns], r.methods, r.text)))


def _warnings(members: Members) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = defaultdict(set)
    for who, records in members.items():
        for words in (words for record in records for words in record.get("warnings") or ()):
            found[text(words)].add(label(who, members))
    return {words: tuple(sorted(methods)) for words, methods in found.items()}


def _favoured(columns: Sequence[Column], members: Members) -> dict[str, tuple[Column, ...]]:
    found: dict[str, tuple[Column, ...]] = {}
    for who, records in members.items():
        own = [r for r in records if r.get("trained_with_prior") and prior_id(r)]
        keys = {(r["evaluator"], metric["key"]) for r in own for metric in r.get("metrics") or ()}
        if keys:
            found[label(who, members)] = tuple(c for c in columns if c.id in keys)
    return found
