"""Suites: which evaluators a run is scored with. Test sets come from the run's ``--data``.

A suite is a function that names evaluators, registered like everything else:

    @register_suite("realism")
    def realism() -> tuple[str, ...]:
        return ("fidelity",)

It may also name variants of a method: configuration files (or names of shipped ones), each laid over the run's preset and
``--config`` and below its ``--set``. A run of such a suite trains and scores the method once for each:

    @register_suite("widths", method="ours", variants=("narrow.yaml", "wide.yaml"))
    def widths() -> tuple[str, ...]:
        return ("fidelity",)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import UsageError, unknown
from bench.registry import EVALUATORS, SUITES, register_suite

BUILTIN = {"all": "bench.suites:everything", "ablation": "bench.suites:ablation"}


@register_suite("all")
def everything() -> tuple[str, ...]:
    """Whatever is registered: built-ins in their order, then what was imported."""
    builtin = list(EVALUATORS.builtin)
    return (*builtin, *[n for n in EVALUATORS.names() if n not in builtin])


@register_suite(
    "ablation", method="ours", variants=tuple(f"ablation/{row}" for row in ("none", "aaspm", "fa", "aaspm-fa", "aaspm-fa-lca", "full"))
)
def ablation() -> tuple[str, ...]:
    """What the rows of Table 3 are compared by, and what opacities really did where that is known; the last row is the method as
    it is."""
    return ("faithfulness", "fidelity")


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


def method(suite: str) -> str:
    """The only method that a suite is meant for; empty where it is for any."""
    return str(getattr(SUITES.get(suite), "method", "")) if suite in SUITES.names() else ""


def variants(suite: str) -> tuple[str, ...]:
    """The configuration files whose rows a suite makes, in order; empty where it scores a run as it is."""
    return tuple(getattr(SUITES.get(suite), "variants", ())) if suite in SUITES.names() else ()


def row(variant: str) -> str:
    """What a variant is called: its file's name."""
    return Path(variant).stem


def purpose(suite: str) -> str:
    """In a few words what a suite is for besides scoring; empty where it does nothing else."""
    rows = ", ".join(map(row, variants(suite)))
    made = f"rows {rows} of " if rows else "scores of " if method(suite) else ""
    return f"{made}method {method(suite)}" if method(suite) else f"rows {rows} of each method" if rows else ""


def check(suite: str, methods: Sequence[str] | None) -> None:
    """Whether a suite can be run with some methods, or (None) score images made elsewhere.

    Raises:
        UsageError: it is meant for another method, or for trainings of its own.
    """
    only = method(suite)
    example = f"bench run --method {only or 'NAME'} --suite {suite}"
    if methods is None and variants(suite):
        raise UsageError(f"--suite {suite}: it trains {purpose(suite)}: {example}. Images made elsewhere have no such rows.")
    if methods is not None and only and tuple(methods) != (only,):
        raise UsageError(f"--suite {suite}: it makes {purpose(suite)} (given: {', '.join(methods)}): {example}.")


def check_rows(suite: str, configs: Mapping[str, object]) -> None:
    """Whether the variants of a suite are different trainings.

    Args:
        suite: its name.
        configs: variant -> its resolved configuration.

    Raises:
        UsageError: two are the same; an assignment took away what tells them apart.
    """
    first: dict[str, str] = {}
    for variant, config in configs.items():
        other = first.setdefault(repr(config), variant)
        if other != variant:
            raise UsageError(
                f"--suite {suite}: {row(other)} and {row(variant)} would be the same training: --set wins over what tells them apart. "
                "Leave that key to the suite."
            )
