"""Suites: which evaluators a run is scored with, as plain data. Test sets come from the run's ``--data``."""

from __future__ import annotations

from bench.errors import unknown
from bench.registry import EVALUATORS

#: Name -> evaluators. ``all`` is computed: whatever is registered, built in or imported.
SUITES: dict[str, tuple[str, ...]] = {
    "fidelity": ("fidelity",),
    "faithfulness": ("faithfulness",),
}


def names() -> list[str]:
    """Every suite: the ones above, one for each single evaluator, and ``all``."""
    return sorted({*SUITES, *EVALUATORS.names(), "all"})


def evaluators(suite: str) -> tuple[str, ...]:
    """The evaluators of a suite, in table order.

    Raises:
        UsageError: no such suite; the message names the nearest.
    """
    if suite == "all":
        builtin = list(EVALUATORS.builtin)
        return (*builtin, *[n for n in EVALUATORS.names() if n not in builtin])
    if suite in SUITES:
        return SUITES[suite]
    if suite in EVALUATORS.names():
        return (suite,)
    raise unknown("suite", suite, names())
