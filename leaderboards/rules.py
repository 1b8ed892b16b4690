"""Rules that choose cases: the first ones, or the best, middling and worst by a score of one method, the same for all tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.errors import UsageError
from leaderboards import stored
from leaderboards.groups import Record
from leaderboards.stored import Inputs, Lungs, Translations
from leaderboards.tables import Table
from leaderboards.values import sign_of

FIRST, BEST, MEDIAN, WORST = "first", "best", "median", "worst"
#: The method whose scores choose where a rule names none.
_OURS = "ours"


@dataclass(frozen=True)
class Shelf:
    """What is stored of a table: its test set, and what each method made of it."""

    table: Table
    inputs: Inputs
    methods: Mapping[str, Translations]
    before: tuple[Lungs, ...]


@dataclass(frozen=True)
class Score:
    """A rule that goes by a score.

    Attributes:
        metric: ``evaluator/metric``.
        method: row label; empty where the rule names none.
    """

    metric: str
    method: str

    @classmethod
    def parse(cls, rule: str) -> Score | None:
        """None for `FIRST`.

        Raises:
            UsageError: it is neither ``first`` nor ``EVALUATOR/METRIC`` or ``EVALUATOR/METRIC@METHOD``.
        """
        metric, at, method = rule.partition("@")
        evaluator, slash, key = metric.partition("/")
        if rule == FIRST:
            return None
        if not (evaluator and slash and key) or (at and not method):
            raise UsageError(f"cases by '{rule}': neither '{FIRST}' nor EVALUATOR/METRIC or EVALUATOR/METRIC@METHOD.")
        return cls(metric, method)


#: The rule as a sentence, and image -> why it was chosen.
Choice = tuple[str, dict[str, str]]


def read(shelf: Shelf) -> bool:
    """True, after reading all values by image that a rule may need.

    Raises:
        BenchError: the file is damaged.
    """
    for made in shelf.methods.values():
        for record in made.records:
            stored.per_image(record)
    return True


def settled(asked: Score, shelves: Sequence[Shelf]) -> Score:
    """The rule with a method, the same for all tables.

    Raises:
        UsageError: no table has what it asks for, or it names no method and there are several but not `_OURS`.
    """
    labels = list(dict.fromkeys(label for shelf in shelves for label in shelf.methods))
    if asked.method and asked.method not in labels:
        raise UsageError(f"no stored translations of a method '{asked.method}'.{_alike(asked.method, labels)}")
    ranked, unranked = dict[str, None](), dict[str, None]()
    for record in (r for shelf in shelves for made in shelf.methods.values() for r in made.records):
        for key in stored.per_image(record):
            (ranked if _sign(record, key) else unranked)[f"{record['evaluator']}/{key}"] = None
    if asked.metric not in ranked:
        why = "is neither better high nor low" if asked.metric in unranked else "has no values by image"
        near = [name for name in ranked if name.partition("/")[0].lower() == asked.metric.partition("/")[0].lower()]
        others = f" Scores with values by image: {', '.join(sorted(ranked)) or 'none'}."
        raise UsageError(f"cases by {asked.metric}: it {why}.{_alike(asked.metric, near) or others}")
    if asked.method:
        return asked
    scored = [label for label in labels if any(_values(s.methods[label], asked.metric) for s in shelves if label in s.methods)]
    if _OURS in scored or len(scored) == 1:
        return replace(asked, method=_OURS if _OURS in scored else scored[0])
    choices = ", ".join(f"{asked.metric}@{label}" for label in scored)
    raise UsageError(f"cases by {asked.metric}: by which method? '{_OURS}' has no values of it. Choose one: {choices}.")


def _alike(name: str, known: Iterable[str]) -> str:
    """Like `did_you_mean`, without regard to case."""
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.0)
    return f" Did you mean '{lower[near[0]]}'?" if near else ""


def _sign(record: Record, key: str) -> int:
    return sign_of(next((m["better"] for m in record["metrics"] if m["key"] == key), ""))


def choose(shelf: Shelf, asked: Score | None, count: int) -> Choice | None:
    """What a rule chooses of one shelf; None where no image has a value."""
    if asked is None:
        ids = shelf.inputs.candidates[:count]
        kind = " opacity" if shelf.inputs.has_opacity else ""
        many = f"The first {len(ids)}{kind} images" if len(ids) > 1 else f"The first{kind} image"
        return f"{many} of the sorted test set", dict.fromkeys(ids, FIRST)
    made = shelf.methods.get(asked.method)
    found = _values(made, asked.metric) if made else None
    if not found:
        return None
    values, sign, name = found
    told = f"{asked.metric} ({name}; {'lower' if sign > 0 else 'higher'} is better) of {asked.method}"
    picked = thirds({image: sign * value for image, value in values.items()}, count)
    kinds = [list(picked.values()).count(why) for why in (BEST, MEDIAN, WORST)]
    split = ", ".join(f"{n} {why}" for n, why in zip(kinds, (BEST, MEDIAN, WORST), strict=True) if n)
    return f"The {split} of {len(values)} images by {told}", picked


def _values(made: Translations, metric: str) -> tuple[dict[str, float], int, str] | None:
    """Image -> value, the metric's sign and its label."""
    evaluator, _, key = metric.partition("/")
    for record in (r for r in made.records if r["evaluator"] == evaluator):
        if (sign := _sign(record, key)) and (values := stored.per_image(record).get(key)):
            return values, sign, next(m["label"] for m in record["metrics"] if m["key"] == key)
    return None


def thirds(values: Mapping[str, float], count: int) -> dict[str, str]:
    """The best, the middling and the worst of some images, in this order, the worst first among the worst.

    Args:
        values: image -> value, smaller is better; equal ones go by name.
        count: how many; what is left over by three goes to the best, then to the worst.

    Returns:
        Image -> `BEST`, `MEDIAN` or `WORST`; each image once.
    """
    ranking = sorted(values, key=lambda image: (values[image], image))
    count = min(count, len(ranking))
    best, worst = (count + 2) // 3, (count + 1) // 3
    last = sorted(ranking[best:], key=lambda image: (-values[image], image))[:worst]
    between = [image for image in ranking[best:] if image not in last]
    middle = (len(ranking) - 1) / 2
    near = sorted(between, key=lambda image: (abs(ranking.index(image) - middle), ranking.index(image)))[: count - best - worst]
    return {
        **dict.fromkeys(ranking[:best], BEST),
        **dict.fromkeys((image for image in between if image in near), MEDIAN),
        **dict.fromkeys(last, WORST),
    }
