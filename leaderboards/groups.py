"""Which records may stand in one table.

Numbers are comparable only where data, preset, training set, evaluator parameters and, for features of the finding
classifier, the classifier are the same. Whatever differs in one of these goes into another table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.files import canonical_json, digest
from bench.records import LOCAL

Record = Mapping[str, Any]
#: Method, its version, hash of its configuration.
Identity = tuple[str, str, str]
#: Evaluator, hash of what its numbers depend on besides the images.
Variant = tuple[str, str]

#: The method that changes nothing: first row of every table, the mark that a translation has to beat.
ORIGINAL = "original"
#: Fields that must agree within a table ...
TEST_FIELDS = ("schema", "dataset", "dataset_fingerprint", "reference", "reference_fingerprint", "split", "direction", "image_size")
#: ... and those that must agree for whatever was trained (``original`` was not, and stands in every table of its test set).
TRAIN_FIELDS = ("train_dataset", "preset")
#: What a digest of records covers: results and what they depend on, not when or where they were computed.
DIGESTED = (
    *TEST_FIELDS, *TRAIN_FIELDS, "method", "method_version", "config_fingerprint", "seed",
    "evaluator", "evaluator_version", "params", "scores", "status",
)  # fmt: skip
#: A configuration is named by so many keys, switches shortened to so many signs, and so many characters at most.
MOST_KEYS, MOST_SWITCHES, LONGEST = 3, 6, 60
#: Of what a training cost: settings that a preset gives a method.
SETTINGS = ("iterations", "batch_size", "accumulate", "precision", "tf32", "ema")
#: Fields that say what a score was to be of.
AIM_FIELDS = ("method", "evaluator", "dataset", "split", "direction", "train_dataset", "preset", "seed")


def order(record: Record) -> str:
    """Sort key of a record: all that it says, and not where it lies."""
    return canonical_json({name: value for name, value in record.items() if name != LOCAL})


def digest_of(records: Iterable[Record]) -> str:
    """A hash of results and what they depend on, the same for any order of the records."""
    return digest(sorted(([record.get(name) for name in DIGESTED] for record in records), key=canonical_json))


def text(value: Any) -> str:
    """A field as text; empty for null."""
    return "" if value is None else value if isinstance(value, str) else canonical_json(value)


def groups(records: Iterable[Record]) -> list[tuple[tuple[str, ...], list[Record]]]:
    """(values of `TEST_FIELDS` and `TRAIN_FIELDS`, records that agree in them), sorted; ``original`` joins every group of its
    test set with the scores lacking there."""
    found: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in sorted(_newest(records), key=order):
        found[tuple(text(record.get(name)) for name in (*TEST_FIELDS, *TRAIN_FIELDS))].append(record)
    tests = len(TEST_FIELDS)
    trained = {key: members for key, members in found.items() if any(r["method"] != ORIGINAL for r in members)}
    alone = {key: m for key, m in found.items() if all(key[:tests] != other[:tests] for other in trained)}
    joined = {}
    for key, members in trained.items():
        lacking = {_variant(r) for r in members} - {_variant(r) for r in members if r["method"] == ORIGINAL}
        others = [r for other in sorted(found) if other != key and other[:tests] == key[:tests] for r in found[other]]
        joined[key] = members + [r for r in others if r["method"] == ORIGINAL and _variant(r) in lacking]
    return sorted({**joined, **alone}.items())


def older(records: Iterable[Record]) -> dict[tuple[str, ...], dict[Identity, int]]:
    """How many records that succeeded do not count because a later one is there of the same score.

    Returns:
        Group (as `groups` gives it) -> whose -> how many; groups and methods without any are left out.
    """
    found: dict[tuple[str, ...], dict[Identity, int]] = {}
    for (group, who, *_), several in _cells(records).items():
        outdone = len({order(r) for r in several if r.get("status") == "ok"} - {order(several[-1])})  # copies say nothing new
        if outdone:
            found.setdefault(group, {}).setdefault(who, 0)
            found[group][who] += outdone
    return found


def undecidable(records: Iterable[Record]) -> list[str]:
    """A line for each score of which two records that differ say the same time, or none: which is newer cannot be told."""
    lines = []
    for (_, who, seed, (evaluator, _)), several in _cells(records).items():
        last = [r for r in several if text(r.get("written")) == text(several[-1].get("written"))]
        if len({digest_of([r]) for r in last}) > 1:
            when = text(last[0].get("written"))
            lines.append(
                f"Undecidable: {len(last)} records of {evaluator} of {who[0]} on {text(last[0].get('dataset'))}, seed {seed}, differ "
                f"and {f'were written at the same time ({when})' if when else 'do not say when they were written'}; which is newer "
                "cannot be told, and one of them is shown. Delete the wrong one."
            )
    return sorted(dict.fromkeys(lines))


def outdone(records: Iterable[Record]) -> str:
    """What `older` finds, in a sentence; empty where it finds nothing."""
    counts: dict[str, int] = defaultdict(int)
    for methods in older(records).values():
        for who, count in methods.items():
            counts[who[0]] += count
    whose = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
    words = "Of several records of one score the last written counts; older ones left out"
    return f"{words}: {sum(counts.values())} ({whose})." if counts else ""


def _cells(records: Iterable[Record]) -> dict[tuple[Any, ...], list[Record]]:
    """Group, identity, seed and variant -> all records of that one score, the last written last."""
    found: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: (text(r.get("written")), order(r))):
        group = tuple(text(record.get(name)) for name in (*TEST_FIELDS, *TRAIN_FIELDS))
        found[group, identity(record), text(record.get("seed")), _variant(record)].append(record)
    return found


def _newest(records: Iterable[Record]) -> list[Record]:
    """Of several records of one score the last written: other evaluator code, for example, leaves the old one lying.

    A failure counts until the same method has that evaluator's score of that test set and seed, in whatever configuration; what one
    command made in several configurations (the rows of a suite) does not stand for each other, though."""
    records = list(records)
    scored: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.get("status") == "ok":
            scored[_aim(record)].append(record)
    return [
        r for r in (several[-1] for several in _cells(records).values())
        if r.get("status") == "ok" or not any(_mends(s, r) for s in scored[_aim(r)])
    ]  # fmt: skip


def _mends(success: Record, failure: Record) -> bool:
    """Whether a failure is no more of interest once there is this score."""
    when = text(failure.get("written"))
    siblings = bool(failure.get("command")) and success.get("command") == failure.get("command")
    return bool(when) and text(success.get("written")) >= when and (not siblings or identity(success) == identity(failure))


def _aim(record: Record) -> tuple[str, ...]:
    """What a score was to be of, whatever the configuration and the content of the data."""
    return tuple(text(record.get(name)) for name in AIM_FIELDS)


def _variant(record: Record) -> Variant:
    parts = [record.get(name) for name in ("params", "evaluator_version", "evaluator_origin", "fit")]  # fit: whom it learnt from
    parts = [parts[0] or {}, prior_id(record), *parts[1:]]
    return text(record.get("evaluator")), digest(parts)


def prior_id(record: Record) -> str:
    """The classifier that the record's numbers rest on; empty where the evaluator did not use it."""
    prior = record.get("prior") or {}
    used = prior.get("scores_with_it", (record.get("params") or {}).get("extractor") == "cxr")
    return text(prior.get("id")) if used else ""


def split(records: Sequence[Record]) -> list[tuple[list[str], list[Record]]]:
    """Spread records so that no metric comes from two configurations of its evaluator within one table.

    Configurations of an evaluator whose metrics have different keys (two extractors) share a table: every column is ranked by
    itself.

    Returns:
        For each table what tells it from the others (empty where it is the only one) and its records.
    """
    members: dict[Variant, list[Record]] = defaultdict(list)
    for record in records:
        members[_variant(record)].append(record)
    places: list[tuple[set[tuple[str, str]], list[Variant]]] = []
    for variant in sorted(members):
        keys = {(variant[0], metric["key"]) for record in members[variant] for metric in record.get("metrics") or ()}
        place = next((p for p in places if not p[0] & keys), None)
        if place is None:
            places.append((keys, [variant]))
        else:
            place[0].update(keys)
            place[1].append(variant)
    return [
        (
            [_describe(v, members) for v in chosen if sum(v[0] in {w[0] for w in other} for _, other in places) > 1],
            [record for v in chosen for record in members[v]],
        )
        for _, chosen in places
    ]


def _describe(variant: Variant, members: Mapping[Variant, Sequence[Record]]) -> str:
    """An evaluator's configuration, by what tells it from the evaluator's others: parameters, version, classifier, code."""
    rivals = {other: _facts(some[0]) for other, some in members.items() if other[0] == variant[0]}
    names = sorted({name for facts in rivals.values() for name in facts})
    differing = [n for n in names if len({(n in facts, text(facts.get(n))) for facts in rivals.values()}) > 1]
    mine = rivals[variant]
    told = [f"{name}={_value(mine[name])}" for name in differing if name in mine]
    lacking = [name for name in differing if name not in mine]
    return " ".join([variant[0], *([", ".join(told)] if told else []), *([f"without {', '.join(lacking)}"] if lacking else [])])


def _facts(record: Record) -> dict[str, Any]:
    about = {
        "version": record.get("evaluator_version"), "prior": prior_id(record), "code": record.get("evaluator_origin"),
        "models": record.get("fit"),
    }  # fmt: skip
    return {**(record.get("params") or {}), **{name: value for name, value in about.items() if value not in (None, "")}}


def _value(value: Any) -> str:
    return "none" if value in ([], None) else "+".join(map(text, value)) if isinstance(value, list) else text(value)


def identity(record: Record) -> Identity:
    """Which row of a table a record belongs to."""
    config = "" if record["method"] == ORIGINAL else text(record.get("config_fingerprint"))
    return text(record["method"]), text(record.get("method_version")), config


def label(who: Identity, everybody: Mapping[Identity, Sequence[Record]] | Iterable[Identity]) -> str:
    """The method's name, with what tells it from others of that name: version, and configuration.

    A configuration is named by the keys in which those of the same version differ, where their records hold them and these are few;
    else by its hash.

    Args:
        who: whom to name.
        everybody: all rows of a table, with their records where configurations are to be named by keys.
    """
    name, version, config = who
    namesakes = [other for other in everybody if other[0] == name]
    rivals = [other for other in namesakes if other[1] == version]
    named = f"{name} v{version}" if len({other[1] for other in namesakes}) > 1 else name
    if len({other[2] for other in rivals}) < 2:
        return named
    configs = {other: _method_config(everybody[other]) for other in rivals} if isinstance(everybody, Mapping) else {}
    trained = {other: _training(everybody[other]) for other in configs} if isinstance(everybody, Mapping) else {}
    shared = [name for name in SETTINGS if all(name in facts for facts in trained.values())]
    known = {
        other: {**{name: trained[other][name] for name in shared}, **found} for other, found in configs.items() if found is not None
    }
    words = _differences(known)
    mine = words.get(who, "")
    alone = sum(found == mine for found in words.values()) < 2
    return f"{named} ({', '.join(filter(None, [mine, '' if mine and alone else config[:8]]))})"


def _method_config(records: Sequence[Record]) -> Mapping[str, Any] | None:
    """The method's configuration, which all records of one row share; None where none of them holds it."""
    return next((found for r in records if (found := r.get("method_config")) is not None), None)


def _training(records: Sequence[Record]) -> Mapping[str, Any]:
    """Settings of the training of one row, as far as its records say them."""
    costs = [r.get("cost") or {} for r in records]
    return {name: next(c[name] for c in costs if c.get(name) is not None) for name in SETTINGS
            if any(c.get(name) is not None for c in costs)}  # fmt: skip


def _differences(configs: Mapping[Identity, Mapping[str, Any]]) -> dict[Identity, str]:
    """The keys of each configuration in which any differ: ``lca=false``; many switches as ``+fa -lca``. Empty where that would take
    too many words."""
    every = list(configs.values())
    names = sorted({name for config in every for name in config})
    differing = [n for n in names if any((n in c, c.get(n)) != (n in every[0], every[0].get(n)) for c in every)]
    switches: list[str] = []
    if len(differing) > MOST_KEYS:
        switches = [name for name in differing if all(isinstance(config.get(name), bool) for config in every)]
    rest = [name for name in differing if name not in switches]
    if len(rest) > MOST_KEYS or len(switches) > MOST_SWITCHES:
        return {}
    found = {}
    for who, config in configs.items():
        signs = " ".join(f"{'+' if config[name] else '-'}{name}" for name in switches)
        pairs = [f"{name}={_value(config[name])}" if name in config else f"without {name}" for name in rest]
        words = ", ".join(filter(None, [signs, *pairs]))
        found[who] = words if len(words) <= LONGEST else ""
    return found
