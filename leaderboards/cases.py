"""Cases: what the methods of some runs made of the same images, opened from what the runs stored.

The images come from the results folders alone (`bench.sources` keeps the inputs there); nothing is computed. Which cases are
shown is decided by a stated rule, the same for every method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

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
