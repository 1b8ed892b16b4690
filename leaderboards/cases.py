"""Cases: what the methods of some runs made of the same images, opened from what the runs stored.

The images come from the results folders alone (`bench.sources` keeps the inputs there); nothing is computed. Which cases are
shown is decided by a stated rule, the same for every method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bench.errors import UsageError, did_you_mean
from leaderboards import stored
from leaderboards.groups import Record, text
from leaderboards.stored import Inputs, Lungs, Translations
from leaderboards.tables import Table, tables

#: H x W, 0 (black) to 255.
Grey = npt.NDArray[np.uint8]
#: H x W.
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Result:
    """What one method made of one image.

    Attributes:
        image: the translation.
        mask: its activation mask, 0 to 255; None where the method has none.
        lungs: segmenter -> the lungs it sees in the translation.
        scores: ``evaluator/metric`` -> this image's value.
    """

    image: Grey
    mask: Grey | None = None
    lungs: Mapping[str, Flags] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One test image.

    Attributes:
        image_id: its name.
        image: the input.
        results: method (row label of the leaderboard) -> what it made of it; one for each method of the set.
        opacity: how much opacity there truly is, 0 to 255; None where unknown.
        counterpart: the true clear image; None where unknown.
        lungs: the reference mask; None where unknown.
        undecided: where that mask does not say; None where it says everywhere.
        lungs_before: segmenter -> the lungs it sees in the input.
        why: what the rule chose it for (``first``, ``best``, ``median``, ``worst``).
    """

    image_id: str
    image: Grey
    results: Mapping[str, Result]
    opacity: Grey | None = None
    counterpart: Grey | None = None
    lungs: Flags | None = None
    undecided: Flags | None = None
    lungs_before: Mapping[str, Flags] = field(default_factory=dict)
    why: str = "first"


@dataclass(frozen=True)
class CaseSet:
    """Cases of one test set under one training.

    Attributes:
        test: name of the test set.
        title: with training set, preset and size.
        rule: the rule that chose the cases, as a sentence.
        restricted: its images may not leave the machine: nothing that is handed on may hold them.
        methods: row labels in table order, ``original`` left out.
        cases: in the order of the rule.
        seed: the training seed shown.
        context: name -> value of what all have in common, as in `leaderboards.sheet.Sheet`.
    """

    test: str
    title: str
    rule: str
    restricted: bool
    methods: tuple[str, ...]
    cases: tuple[Case, ...]
    seed: int = 0
    context: Mapping[str, str] = field(default_factory=dict)


FIRST, BEST, MEDIAN, WORST = "first", "best", "median", "worst"
#: The method whose scores choose where a rule names none.
_OURS = "ours"


@dataclass(frozen=True)
class _Shelf:
    """What is stored of a table: its test set, and what each method made of it."""

    table: Table
    inputs: Inputs
    methods: Mapping[str, Translations]
    before: tuple[Lungs, ...]


@dataclass(frozen=True)
class _Score:
    """A rule that goes by a score.

    Attributes:
        metric: ``evaluator/metric``.
        method: row label; empty where the rule names none.
    """

    metric: str
    method: str

    @classmethod
    def parse(cls, rule: str) -> _Score | None:
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


def case_sets(records: Iterable[Record], rule: str = FIRST, count: int = 6) -> list[CaseSet]:
    """Cases of every table whose inputs and translations are stored, of each method's lowest seed.

    Args:
        records: as `bench.records.load` finds them.
        rule: ``first``: the first opacity images by name (the first images where there are none). ``EVALUATOR/METRIC@METHOD``:
            those that the method was best, middling and worst at, a third each, equal scores by name; without ``@METHOD``
            by ``ours``, or the first method there is.
        count: cases of each set, at most.

    Returns:
        A set for each table; `problems` says why one is not here.

    Raises:
        UsageError: nothing has a score or method of that name; the message names the nearest.
        BenchError: a stored file is damaged; the message names it and the remedy.
    """
    return opened(records, rule, count)[0]


def problems(records: Iterable[Record], rule: str = FIRST) -> list[str]:
    """Why cases of some tables or methods cannot be shown, a line each; opens no image.

    Raises:
        UsageError: as `case_sets`.
    """
    shelves, lines = _shelves(records)
    return _chosen_of_all(shelves, lines, rule, 1)[1]


def opened(records: Iterable[Record], rule: str = FIRST, count: int = 6) -> tuple[list[CaseSet], list[str]]:
    """`case_sets` and `problems` at once: sorting records into tables takes longer than opening a few images.

    Raises:
        UsageError, BenchError: as `case_sets`.
    """
    if count < 1:
        raise UsageError(f"{count} cases: at least 1 is needed.")
    chosen, lines = _chosen_of_all(*_shelves(records), rule, count)
    return [_case_set(shelf, *found) for shelf, found in chosen], lines


#: The rule as a sentence, and image -> why it was chosen.
_Choice = tuple[str, dict[str, str]]


def _chosen_of_all(
    shelves: Sequence[_Shelf], lines: Iterable[str], rule: str, count: int
) -> tuple[list[tuple[_Shelf, _Choice]], list[str]]:
    """What a rule chooses of each shelf; `lines` and where it can choose nothing."""
    asked = _Score.parse(rule)
    if asked and shelves:
        _check(asked, shelves)
    found = [(shelf, _chosen(shelf, asked, count)) for shelf in shelves]
    none = [f"no cases of {shelf.table.context['dataset']} by {rule}: no image has a value of it there" for shelf, c in found if not c]
    return [(shelf, choice) for shelf, choice in found if choice], list(dict.fromkeys([*lines, *none]))


def _shelves(records: Iterable[Record]) -> tuple[list[_Shelf], list[str]]:
    """What is stored of each table, and what is not."""
    shelves, lines = [], []
    for table in tables(records):
        test = table.context["dataset"]
        mine = [record for row in table.rows for record in row.records]
        rows = [row for row in table.rows if not row.original and row.records]
        roots = sorted({str(stored.results_folder(r)) for r in mine if stored.results_folder(r)})
        inputs = stored.inputs(mine)
        if inputs is None:
            lines += [f"no stored inputs of {test} below {', '.join(roots) or 'any folder'}: {stored.AGAIN}"] if rows else []
            continue
        found = {row.label: stored.translations(row.records) for row in rows}
        there = {label: made for label, made in found.items() if made}
        lines += [f"no stored translations of {test} by {n} below {', '.join(roots)}: {stored.AGAIN}" for n in found if n not in there]
        if there:
            real = next((made for row in table.rows if row.original and (made := stored.translations(row.records))), None)
            shelves.append(_Shelf(table, inputs, there, real.lungs if real else ()))
    return shelves, lines


def _check(asked: _Score, shelves: Sequence[_Shelf]) -> None:
    """Raise `UsageError` where no table has what a rule asks for."""
    labels = list(dict.fromkeys(label for shelf in shelves for label in shelf.methods))
    if asked.method and asked.method not in labels:
        raise UsageError(f"no stored translations of a method '{asked.method}'.{did_you_mean(asked.method, labels)}")
    ranked, unranked = dict[str, None](), dict[str, None]()
    for record in (r for shelf in shelves for made in shelf.methods.values() for r in made.records):
        for key in stored.per_image(record):
            (ranked if _sign(record, key) else unranked)[f"{record['evaluator']}/{key}"] = None
    if asked.metric in ranked:
        return
    why = "is neither better high nor low" if asked.metric in unranked else "has no values by image"
    raise UsageError(f"cases by {asked.metric}: it {why}.{did_you_mean(asked.metric, ranked)}")


def _sign(record: Record, key: str) -> int:
    """Factor that makes smaller better: 1, -1, or 0 where the metric is not ranked."""
    better = next((m["better"] for m in record["metrics"] if m["key"] == key), "")
    return {"lower": 1, "higher": -1}.get(better, 0)


def _chosen(shelf: _Shelf, asked: _Score | None, count: int) -> _Choice | None:
    """What a rule chooses of one shelf; None where no image has a value."""
    if asked is None:
        ids = shelf.inputs.candidates[:count]
        kind = " opacity" if shelf.inputs.has_opacity else ""
        many = f"The first {len(ids)}{kind} images" if len(ids) > 1 else f"The first{kind} image"
        return f"{many} of the sorted test set", dict.fromkeys(ids, FIRST)
    for label in [asked.method] if asked.method else sorted(shelf.methods, key=lambda name: name != _OURS):
        if label in shelf.methods and (found := _values(shelf.methods[label], asked.metric)):
            values, sign, name = found
            told = f"{asked.metric} ({name}; {'lower' if sign > 0 else 'higher'} is better) of {label}"
            picked = thirds({image: sign * value for image, value in values.items()}, count)
            kinds = [list(picked.values()).count(why) for why in (BEST, MEDIAN, WORST)]
            split = ", ".join(f"{n} {why}" for n, why in zip(kinds, (BEST, MEDIAN, WORST), strict=True) if n)
            return f"The {split} of {len(values)} images by {told}", picked
    return None


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


def _case_set(shelf: _Shelf, rule: str, chosen: Mapping[str, str]) -> CaseSet:
    context, facts = shelf.table.context, shelf.inputs.facts
    seeds = {label: made.seed for label, made in shelf.methods.items()}
    policies = {facts["policy"], *(text(r.get("policy")) for made in shelf.methods.values() for r in made.records)}
    parts = [f"trained on {context['train_dataset']}", f"{context['preset']} preset", f"{facts['size']} px"]
    various = {"seeds": ", ".join(f"{label} {seed}" for label, seed in seeds.items())} if len(set(seeds.values())) > 1 else {}
    return CaseSet(
        test=context["dataset"],
        title=", ".join([context["dataset"], *parts, *shelf.table.variants]),
        rule=rule,
        restricted="credentialed" in policies,
        methods=tuple(shelf.methods),
        cases=tuple(_case(shelf, image_id, why) for image_id, why in chosen.items()),
        seed=min(seeds.values()),
        context={**context, **various},
    )


def _case(shelf: _Shelf, image_id: str, why: str) -> Case:
    """One case; opens its files and no others."""
    image = shelf.inputs.image(image_id)
    assert image is not None  # every stored set has inputs
    lungs, undecided = shelf.inputs.lungs(image_id)
    made_by = _segmenters(shelf)
    return Case(
        image_id=image_id,
        image=image,
        results={
            label: Result(made.image(image_id), made.mask(image_id), _seen(made.lungs, made_by, image_id), made.scores(image_id))
            for label, made in shelf.methods.items()
        },
        opacity=shelf.inputs.image(image_id, "opacity"),
        counterpart=shelf.inputs.image(image_id, "counterpart"),
        lungs=lungs,
        undecided=undecided,
        lungs_before=_seen(shelf.before, made_by, image_id),
        why=why,
    )


def _segmenters(shelf: _Shelf) -> str:
    """Whose lungs are shown: one scoring for all methods, the one that most of them have."""
    setups = [found.setup for made in shelf.methods.values() for found in made.lungs]
    return max(sorted(setups), key=setups.count, default="")


def _seen(found: Sequence[Lungs], made_by: str, image_id: str) -> dict[str, Flags]:
    return next((one.of(image_id) for one in found if one.setup == made_by), {})
