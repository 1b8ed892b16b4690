"""What a record must hold, which versions of that there were, and how a record of an earlier one becomes one of today's.

History:
    1: the first.
    2: ``method_config``, the method's resolved configuration; ``{}`` for methods without any, null for images made elsewhere.
       Newer ones also have ``train_policy``, the strictest data policy of what methods and their classifier may have learnt from;
       where it is missing it is not known. Scores of sets of images have ``draws`` (see `bench.scoring.Score`), the classifier
       (``prior``) the names of what it learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench.data.contract import POLICIES
from bench.files import canonical_json

SCHEMA = 2

Record = dict[str, Any]
#: Gives the content of the run's ``config.json``, or None where there is none that can be read.
Specification = Callable[[], Any]

#: No number of a record is further from zero: sums and squares of floats stay finite, integers can be computed with.
LARGEST_FLOAT, LARGEST_INT = 1e100, 2**63
#: Lists and objects within each other: whoever walks a record by recursion comes to its ground.
DEEPEST = 50


def upgrade(record: Record, specification: Specification) -> Record:
    """A record of an earlier schema as one of today's; what was not known then is null.

    Args:
        record: of a schema up to `SCHEMA`; it is not changed.
        specification: of the run that it belongs to.
    """
    while record["schema"] < SCHEMA:
        record = {**_STEPS[record["schema"]](record, specification), "schema": record["schema"] + 1}
    known = None if "train_policy" in record else _train_policy(record, specification)
    return record if known is None else {**record, "train_policy": known}


def _train_policy(record: Record, specification: Specification) -> str | None:
    """The strictest policy of what was learnt from, out of the run's specification: of all its datasets where a classifier took
    part, which learnt from some of them. None where that does not say."""
    facts = specification()
    data = facts.get("data") if isinstance(facts, dict) else None
    train = record.get("train_dataset")
    if not isinstance(data, dict) or not isinstance(train, str) or facts.get("train_dataset") != train or train not in data:
        return None
    names = data if record.get("trained_with_prior") else [train]
    found = [data[name].get("policy") if isinstance(data[name], dict) else None for name in names]
    return max(found, key=POLICIES.index) if all(policy in POLICIES for policy in found) else None


def _to_2(record: Record, specification: Specification) -> Record:
    """Add the method's configuration, out of the specification of the very run."""
    return {**record, "method_config": _recorded_config(record, specification)}


def _recorded_config(record: Record, specification: Specification) -> Any:
    """The configuration that the run's specification holds: all of it, with the defaults of its time. None where that file is not
    there, damaged, or another run's."""
    if record.get("trained_by") == "external":
        return None
    if record.get("method") == "original":
        return {}
    facts = specification()
    if not isinstance(facts, dict) or facts.get("origin") == "external":
        return None
    same = ("method", "method_version", "seed", "train_dataset")
    sections = facts["config"].get("methods") if isinstance(facts.get("config"), dict) else None
    if any(facts.get(name) != record.get(name) for name in same) or not isinstance(sections, dict):
        return None
    found = sections.get(str(record.get("method")))
    return found if isinstance(found, dict) and _clean(found) else None


_STEPS: Mapping[int, Callable[[Record, Specification], Record]] = {1: _to_2}


def misfit(record: Any) -> str:
    """Why a file is of no schema that can be read, with the remedy; empty where it is of one."""
    schema = record.get("schema") if isinstance(record, dict) else None
    again = "Delete it and score again."
    if not isinstance(schema, int) or isinstance(schema, bool):
        return f"it names no schema, so it is no record that this cxr-bench knows (schemas 1 to {SCHEMA}). {again}"
    if schema < 1:
        return f"it is of schema {brief(schema)}, older than 1, the oldest that this cxr-bench reads. {again}"
    if schema > SCHEMA:
        return f"it is of schema {brief(schema)}, newer than {SCHEMA}, the newest that this cxr-bench reads. Update cxr-bench."
    return ""


def brief(value: int) -> str:
    """An integer of any length in few characters."""
    return str(value) if abs(value) < LARGEST_INT else "?"


# -- fields ----------------------------------------------------------------------------------------------------------------

#: What leaderboards read from a record: name -> types; None where it may be missing or null.
_FIELDS: dict[str, tuple[type | None, ...]] = {
    "method": (str,), "evaluator": (str,), "dataset": (str,), "dataset_fingerprint": (str,), "status": (str,),
    "metrics": (list,), "scores": (dict,), "params": (dict,), "method_version": (int, str, None), "seed": (int, None),
    "evaluator_version": (int, str, None), "n_translated": (int, None), "image_size": (int, None), "key": (str, None),
    "cost": (dict, None), "prior": (dict, None), "warnings": (list, None), "trained_with_prior": (bool, None),
    "models": (list, None), "figures": (list, None), "per_image": (str, None), "method_config": (dict, None),
    **dict.fromkeys(
        ("config_fingerprint", "train_dataset", "reference", "reference_fingerprint", "split", "split_by", "direction",
         "preset", "error", "written", "policy", "train_policy", "trained_by"), (str, None),
    ),
}  # fmt: skip
_METRIC: dict[str, tuple[type | None, ...]] = {
    "key": (str,), "label": (str,), "better": (str,), "unit": (str, None), "digits": (int, None), "primary": (bool, None),
    "part": (str, None), "shared": (bool, None),
}  # fmt: skip
_SCORE: dict[str, tuple[type | None, ...]] = {
    "value": (float, int, None), "n": (int,), "std": (float, int, None), "std_over": (str, None), "note": (str, None),
    "ci": (list, None), "doubt": (str, None), "draws": (list, None),
}  # fmt: skip
_PRIOR: dict[str, tuple[type | None, ...]] = {
    "id": (str, None), "trained_by": (str, None), "findings": (list, None), "datasets": (list, None), "n_train": (int, None),
    "findings_scored": (int, None),
}  # fmt: skip
_MODEL: dict[str, tuple[type | None, ...]] = {"name": (str,), "key": (str, None), "weights_id": (str, list, None)}


def problem(record: Record) -> str:
    """What makes a record of today's schema unfit for the leaderboard; empty for a good one."""
    cost, prior = record.get("cost") or {}, record.get("prior") or {}
    problems = [_unfit(record, _FIELDS, "")]
    if not problems[0]:
        problems += [_unfit(metric, _METRIC, f"metrics[{i}].") for i, metric in enumerate(record["metrics"])]
        problems += [_unfit(score, _SCORE, f"scores.{key}.") for key, score in record["scores"].items()]
        problems += [_unfit(cost, dict.fromkeys(("images_seen", "parameters"), (int, None)), "cost.")]
        problems += [_unfit(cost, dict.fromkeys(("seconds", "gpu_seconds"), (int, float, None)), "cost.")]
        problems += [_unfit(prior, _PRIOR, "prior.")]
        problems += [_unfit(model, _MODEL, f"models[{i}].") for i, model in enumerate(record.get("models") or ())]
        lists = {name: record.get(name) or [] for name in ("warnings", "figures")}
        lists |= {f"prior.{name}": prior.get(name) or [] for name in ("findings", "datasets")}
        problems += [f"'{name}' holds more than texts" for name, values in lists.items() if not all(map(_text, values))]
    if not any(problems):
        problems.append(_odd_values(record))
    return next(filter(None, problems), "")


def _odd_values(record: Record) -> str:
    """What is wrong with the values of fields that are of the right types."""
    intervals = [s["ci"] for s in record["scores"].values() if s.get("ci")]
    digits = [m.get("digits") for m in record["metrics"]]
    if any(len(ci) != 2 or not all(map(_number, ci)) for ci in intervals):
        return "a 'ci' is no pair of numbers"
    if any(not all(map(_number, s.get("draws") or ())) for s in record["scores"].values()):
        return "'draws' holds more than numbers"
    if any(d is not None and not 0 <= d <= 12 for d in digits):
        return "'digits' is out of range"
    if record["status"] not in ("ok", "failed", "skipped"):
        return f"status '{record['status']}' is not known"
    if not _clean(record.get("method_config") or {}):
        return "'method_config' holds line breaks or control characters"
    return "" if _encodes(record) else "it holds texts or numbers that cannot be written"


def _unfit(value: Any, fields: Mapping[str, tuple[type | None, ...]], where: str) -> str:
    if not isinstance(value, dict):
        return f"'{where.rstrip('.')}' is no object"
    for name, kinds in fields.items():
        if name not in value and None not in kinds:
            return f"it has no '{where}{name}'"
        found = value.get(name)
        allowed = tuple(type(None) if kind is None else kind for kind in kinds)
        if not isinstance(found, allowed) or (isinstance(found, bool) and bool not in kinds):
            return f"'{where}{name}' is {type(found).__name__}"
        if name not in ("error", "note", "doubt") and isinstance(found, str) and not found.isprintable():
            return f"'{where}{name}' holds line breaks or control characters"
    return ""


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _leaves(value: Any) -> Iterator[tuple[Any, int]]:
    """All keys and plain values of a tree, however deep it is, each with its depth."""
    rest = [(value, 0)]
    while rest:
        found, depth = rest.pop()
        if isinstance(found, (dict, list)):
            inner = [*found.keys(), *found.values()] if isinstance(found, dict) else found
            rest += [(part, depth + 1) for part in inner or [None]]
        else:
            yield found, depth


def _clean(tree: Any) -> bool:
    return all(leaf.isprintable() for leaf, _ in _leaves(tree) if isinstance(leaf, str))


def _encodes(record: Record) -> bool:
    """Whether its text can be written and its numbers computed with (JSON knows integers of any length)."""
    for leaf, depth in _leaves(record):
        if depth > DEEPEST or (_number(leaf) and abs(leaf) >= (LARGEST_INT if isinstance(leaf, int) else LARGEST_FLOAT)):
            return False
    try:
        canonical_json(record).encode()
    except ValueError:
        return False
    return True
