"""Cases: what the methods of some runs made of the same images, opened from what the runs stored.

The images come from the results folders alone (`bench.sources` keeps the inputs there); nothing is computed. Which cases are
shown is decided by a stated rule, the same for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bench.data.contract import POLICIES
from bench.errors import BenchError, DataError, UsageError
from leaderboards import rules, stored
from leaderboards.groups import Record, text
from leaderboards.rules import FIRST, Choice, Score, Shelf
from leaderboards.stored import Lungs
from leaderboards.tables import Column, tables

T = TypeVar("T")
#: Policies of data whose images a page and figures may show. Those of `KEPT` must not be passed on, and the files with them.
SHOWN, KEPT = POLICIES[:3], "no-redistribution"
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
        inside: where the image is and not its padding, in which no mask of lungs is set; None where it has none.
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
    inside: Flags | None = None
    why: str = "first"

    def oddity(self, lungs: Flags) -> str:
        """What an outline of lungs cannot show: that there are none, or nothing else; empty for all others."""
        if not lungs.any():
            return "no lungs found"
        return "whole image" if (lungs if self.inside is None else lungs | ~self.inside).all() else ""


@dataclass(frozen=True)
class CaseSet:
    """Cases of one test set under one training.

    Attributes:
        test: name of the test set.
        title: with training set, preset and size.
        rule: the rule that chose the cases, as a sentence.
        restricted: its images may not leave the machine: nothing that is handed on may hold them. So it is where the test set is
            restricted, or what a method learnt from (or where that is not known).
        methods: row labels in table order, ``original`` left out.
        cases: in the order of the rule.
        seed: the training seed shown.
        context: name -> value of what all have in common, as in `leaderboards.sheet.Sheet`; ``policy`` is the strictest of the data.
        metrics: ``evaluator/metric`` -> what it is.
    """

    test: str
    title: str
    rule: str
    restricted: bool
    methods: tuple[str, ...]
    cases: tuple[Case, ...]
    seed: int = 0
    context: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Column] = field(default_factory=dict)


def case_sets(records: Iterable[Record], rule: str = FIRST, count: int = 6) -> list[CaseSet]:
    """Cases of every table whose inputs and translations are stored, of each method's lowest seed.

    Args:
        records: as `bench.records.load` finds them.
        rule: ``first``: the first opacity images by name (the first images where there are none). ``EVALUATOR/METRIC@METHOD``:
            those that the method was best, middling and worst at, a third each, equal scores by name; without ``@METHOD``
            by ``ours``.
        count: cases of each set, at most.

    Returns:
        A set for each table; `problems` says why one is not here.

    Raises:
        UsageError: nothing has a score or method of that name; the message names the nearest, or which there are.
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


def opened(
    records: Iterable[Record], rule: str = FIRST, count: int = 6, lost: Callable[[str], None] | None = None
) -> tuple[list[CaseSet], list[str]]:
    """`case_sets` and `problems` at once: sorting records into tables takes longer than opening a few images.

    Args:
        records, rule, count: as in `case_sets`.
        lost: told why a case, or all of a set, cannot be opened: it is then left out. None: that is an error.

    Raises:
        UsageError, BenchError: as `case_sets`.
    """
    if count < 1:
        raise UsageError(f"{count} cases: at least 1 is needed.")
    chosen, lines = _chosen_of_all(*_shelves(records), rule, count, lost)
    return [made for shelf, found in chosen if (made := _case_set(shelf, *found, lost)).cases], lines


def _chosen_of_all(
    shelves: Sequence[Shelf], lines: Iterable[str], rule: str, count: int, lost: Callable[[str], None] | None = None
) -> tuple[list[tuple[Shelf, Choice]], list[str]]:
    """What a rule chooses of each shelf; `lines` and where it can choose nothing."""
    asked = Score.parse(rule)
    if asked:
        shelves = [shelf for shelf in shelves if _attempt(lambda s=shelf: rules.read(s), lost)]  # type: ignore[misc]
        asked = rules.settled(asked, shelves) if shelves else asked
    found = [(shelf, rules.choose(shelf, asked, count)) for shelf in shelves]
    told = rule if asked is None else f"{asked.metric}@{asked.method}"
    none = [f"no cases of {shelf.table.context['dataset']} by {told}: no image has a value of it there" for shelf, c in found if not c]
    return [(shelf, choice) for shelf, choice in found if choice], list(dict.fromkeys([*lines, *none]))


def _shelves(records: Iterable[Record]) -> tuple[list[Shelf], list[str]]:
    """What is stored of each table, and what is not."""
    shelves, lines, records = [], [], list(records)
    places = sorted({root for record in records if (root := stored.results_folder(record))})
    known = {text(record.get("dataset")) for record in records}
    for table in tables(records):
        test = table.context["dataset"]
        mine = [record for row in table.rows for record in row.records]
        rows = [row for row in table.rows if not row.original and row.records]
        roots = sorted({str(stored.results_folder(r)) for r in mine if stored.results_folder(r)})
        inputs = stored.inputs(mine, places)
        if inputs is None:
            where = ", ".join(map(str, places)) or "any folder"
            lines += [f"no stored inputs of {test} below {where}: {stored.AGAIN}"] if rows else []
            continue
        found = {row.label: stored.translations(row.records) for row in rows}
        there = {label: made for label, made in found.items() if made}
        lines += [f"no stored translations of {test} by {n} below {', '.join(roots)}: {stored.AGAIN}" for n in found if n not in there]
        if there:
            real = next((made for row in table.rows if row.original and (made := stored.translations(row.records))), None)
            shelves.append(Shelf(table, inputs, there, real.lungs if real else ()))
    lacking = dict.fromkeys(name for place in places for name in stored.unscored(place) if name not in known)
    return shelves, [*lines, *(f"{name}: translated, not scored by anything, so no cases" for name in lacking)]


def _attempt(work: Callable[[], T], lost: Callable[[str], None] | None) -> T | None:
    """What `work` returns; None where a stored file is damaged and `lost` takes the reason."""
    try:
        return work()
    except BenchError as error:
        if lost is None or isinstance(error, UsageError):
            raise
        lost(str(error))
        return None


def _case_set(shelf: Shelf, rule: str, chosen: Mapping[str, str], lost: Callable[[str], None] | None) -> CaseSet:
    context, facts = shelf.table.context, shelf.inputs.facts
    seeds = {label: made.seed for label, made in shelf.methods.items()}
    policies = {facts["policy"], *(p for made in shelf.methods.values() for r in made.records for p in _policies(r))}
    policy = max(filter(None, policies), key=lambda name: POLICIES.index(name) if name in POLICIES else len(POLICIES))
    parts = [f"trained on {context['train_dataset']}", f"{context['preset']} preset", f"{facts['size']} px"]
    various = {"seeds": ", ".join(f"{label} {seed}" for label, seed in seeds.items())} if len(set(seeds.values())) > 1 else {}
    attempts = [_attempt(lambda i=image, w=why: _case(shelf, i, w), lost) for image, why in chosen.items()]  # type: ignore[misc]
    cases = tuple(case for case in attempts if case)
    gone = f"; {len(attempts) - len(cases)} of them cannot be opened" if len(cases) < len(attempts) else ""
    scored = {name for case in cases for result in case.results.values() for name in result.scores}
    return CaseSet(
        test=context["dataset"],
        title=", ".join([context["dataset"], *parts, *shelf.table.variants]),
        rule=rule + gone,
        restricted=policy not in SHOWN,
        methods=tuple(shelf.methods),
        cases=cases,
        seed=min(seeds.values()),
        context={**context, **various, "policy": policy},
        metrics={name: c for c in shelf.table.columns if (name := f"{c.evaluator}/{c.key}") in scored},
    )


def _policies(record: Record) -> tuple[str, str]:
    """Of the test set, and the strictest of what was learnt from. Where that is not known, only who learnt from the test set's own
    dataset is taken for as free as that."""
    test, train = text(record.get("policy")), text(record.get("train_policy"))
    own = record.get("train_dataset") == record.get("dataset")
    return test, train or (test if own else "credentialed")


def _case(shelf: Shelf, image_id: str, why: str) -> Case:
    """One case; opens its files and no others."""
    image = shelf.inputs.image(image_id)
    if image is None:
        raise BenchError(f"{shelf.inputs.folder} does not say that it has images. Delete it and {stored.AGAIN}.")
    lungs, undecided = shelf.inputs.lungs(image_id)
    made_by, inside = _segmenters(shelf), shelf.inputs.inside(image_id)
    return Case(
        image_id=image_id,
        image=image,
        results={
            label: Result(
                made.image(image_id), made.mask(image_id), _seen(made.lungs, made_by, image_id, inside), made.scores(image_id)
            )
            for label, made in shelf.methods.items()
        },
        opacity=shelf.inputs.image(image_id, "opacity"),
        counterpart=shelf.inputs.image(image_id, "counterpart"),
        lungs=lungs,
        undecided=undecided,
        lungs_before=_seen(shelf.before, made_by, image_id, inside),
        inside=inside,
        why=why,
    )


def _segmenters(shelf: Shelf) -> str:
    """Whose lungs are shown: one scoring for all methods, the one that most of them have."""
    setups = [found.setup for made in shelf.methods.values() for found in made.lungs]
    return max(sorted(setups), key=setups.count, default="")


def _seen(found: Sequence[Lungs], made_by: str, image_id: str, inside: Flags | None) -> dict[str, Flags]:
    """Segmenter -> lungs in the image; what it sees in the padding around it is no evaluator's concern."""
    masks = next((one.of(image_id) for one in found if one.setup == made_by), {})
    if any(inside is not None and mask.shape != inside.shape for mask in masks.values()):
        raise DataError(f"the lungs stored of {image_id} are not of its size: score the segmentation again.")
    return {name: mask if inside is None else mask & inside for name, mask in masks.items()}
