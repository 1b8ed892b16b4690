"""Suites: which evaluators a run is scored with. Test sets come from the run's ``--data``.

A suite is a function that names evaluators, registered like everything else:

    @register_suite("realism")
    def realism() -> tuple[str, ...]:
        return ("fidelity",)
"""

from __future__ import annotations

from bench.errors import unknown
from bench.registry import EVALUATORS, SUITES, register_suite

BUILTIN = {"all": "bench.suites:everything"}


@register_suite("all")
def everything() -> tuple[str, ...]:
    """Whatever is registered: built-ins in their order, then what was imported."""
    builtin = list(EVALUATORS.builtin)
    return (*builtin, *[n for n in EVALUATORS.names() if n not in builtin])


def names() -> list[str]:
    """Every suite: the registered ones, and one for each single evaluator."""
    return sorted({*SUITES.names(), *EVALUATORS.names()})


def evaluators(suite: str) -> tuple[str, ...]:
    """The evaluators of a suite, in table order.

    Raises:
        UsageError: no such suite; the message names the nearest.
    """
    if suite in SUITES.names():
        found: tuple[str, ...] = tuple(SUITES.get(suite)())
        return tuple(EVALUATORS.check(name) for name in found)
    if suite in EVALUATORS.names():
        return (suite,)
    raise unknown("suite", suite, names())
