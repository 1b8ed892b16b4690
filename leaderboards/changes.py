"""What a test that an evaluator made itself found, before against after, where a method has several seeds.

The mean of p values is no p value, and neither is that of medians, shifts and rank correlations the one of anything. So of several
seeds these numbers are made anew, from the values by image averaged over the seeds (as `leaderboards.evidence` averages them), and
where there are no such values there is none. Tables and Figure 6 take them from here. Shares of patients and means are no results of
a test: their mean over seeds is what a training reaches on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from bench.records import LOCAL, Local
from evaluators.statistics import change_intervals, paired_test, patient_means
from leaderboards.values import Cell, Three, mean_by_image

if TYPE_CHECKING:
    from leaderboards.groups import Record

#: The evaluator whose scores hold results of tests, known by the ends of their keys (``opacity_p``): records of any age have these.
EVALUATOR = "detection"
P = ("p", "p_permutation")
RESULTS = (*P, "shift", "median", "effect", "zeros")
#: Of several seeds without values by image.
WHY = "several seeds and no values by image to test again: a test's result is no mean over seeds"
#: Resamples behind the intervals.
N_BOOT, SEED = 1000, 0


class Metric(Protocol):
    """Of a column, what tells results of tests."""

    @property
    def evaluator(self) -> str:
        """Whose metric it is."""

    @property
    def key(self) -> str:
        """Its key."""


C = TypeVar("C", bound=Metric)


def result(column: Metric) -> str:
    """Which result of a test a metric is, out of `RESULTS`; empty for another metric."""
    ends = (name for name in RESULTS if column.evaluator == EVALUATOR and column.key.endswith(f"_{name}"))
    return max(ends, key=len, default="")


def is_p(column: Metric) -> bool:
    """Whether a metric is a p value."""
    return result(column) in P


def made_anew(own: Mapping[C, Sequence[Mapping[str, Any]]], records: Sequence[Record]) -> dict[C, Cell | None]:
    """Results of tests of several seeds.

    Args:
        own: metrics that are a `result` -> scores of one method, one a seed.
        records: theirs.

    Returns:
        The results on values by image averaged over seeds, `n` patients; None where a seed has no such values.
    """
    beside = [local for record in records if isinstance(local := record.get(LOCAL), Local)]
    found: dict[C, Cell | None] = {}
    for column, scores in own.items():
        doubt = "; ".join(sorted({score["doubt"] for score in scores if score.get("doubt")}))
        name = result(column)
        three = counts(beside, column.key.removesuffix(f"_{name}"), len(scores))
        found[column] = None
        if three:
            results = _results(*three)
            value, ci = results[name]
            found[column] = Cell(value, ci=ci, n=(int(results["n"][0]),), doubt=doubt, seeds=len(scores))
    return found


def counts(beside: Sequence[Local], part: str, seeds: int) -> Three | None:
    """Values before and after by image, averaged over seeds, and whose images these are; None where a seed has none.

    Args:
        beside: what lies beside the records of a method.
        part: ``opacity``, ``clear``, or ``count`` for the former, as the headline calls it.
        seeds: how many there have to be.
    """
    own = [local for local in beside if local.patients and all(local.of(f"{part}_{side}") for side in ("before", "after"))]
    if len(own) < seeds:
        return None
    before, after = (mean_by_image([local.of(f"{part}_{side}") for local in own]) for side in ("before", "after"))
    patients = {image: patient for local in own for image, patient in local.patients.items()}
    images = sorted(before.keys() & after.keys() & patients.keys())
    first, second = (tuple(some[image] for image in images) for some in (before, after))
    return (first, second, tuple(patients[image] for image in images)) if images else None


@lru_cache(maxsize=256)
def _results(
    before: tuple[float, ...], after: tuple[float, ...], patients: tuple[str, ...]
) -> Mapping[str, tuple[float, tuple[float, float] | None]]:
    """`RESULTS` and ``n`` -> value and interval. Remembered: several tables of one command hold the same row."""
    test = paired_test(before, after, patients, SEED, N_BOOT)
    change = patient_means(np.subtract(after, before), patients)
    ends = {**change_intervals(change, SEED, N_BOOT), "shift": test.shift_ci}
    if (effect := ends.get("effect")) and effect[0] == effect[1]:
        del ends["effect"]  # all resamples are alike: no interval, rather than one of no width
    values = {
        "p": test.best_p, "p_permutation": test.p_permutation, "shift": test.shift, "effect": test.effect,
        "median": float(np.median(change)), "zeros": float(test.zeros), "n": float(test.n),
    }  # fmt: skip
    return {name: (value, ends.get(name)) for name, value in values.items()}
