"""Checks of what users set: each refuses a value that means nothing, naming the key. NaN and infinity pass none of them."""

from __future__ import annotations

from dataclasses import fields
from math import isfinite
from typing import Any

from bench.errors import UsageError


def weights(config: Any) -> list[str]:
    """The keys of a config that are loss weights: those that end in ``_w``."""
    return [f.name for f in fields(config) if f.name.endswith("_w")]


def check_choice(config: Any, known: tuple[str, ...], *keys: str) -> None:
    """Refuse keys whose value is not among those known.

    Raises:
        UsageError: a value is none of them.
    """
    for key in keys:
        if getattr(config, key) not in known:
            raise UsageError(f"{key}: '{getattr(config, key)}' is not one of {', '.join(known)}.")


def check_at_least(config: Any, least: float, *keys: str) -> None:
    """Refuse keys whose value is below `least`.

    Raises:
        UsageError: a value is below it, or no finite number.
    """
    for key in keys:
        value = getattr(config, key)
        if not (isfinite(value) and value >= least):
            raise UsageError(f"{key}: {value} is not a number of at least {least}.")


def check_above(config: Any, limit: float, *keys: str) -> None:
    """Refuse keys whose value is not above `limit`.

    Raises:
        UsageError: a value is not above it, or no finite number.
    """
    for key in keys:
        value = getattr(config, key)
        if not (isfinite(value) and value > limit):
            raise UsageError(f"{key}: {value} is not a number above {limit}.")


def check_within(config: Any, least: float, most: float, *keys: str) -> None:
    """Refuse keys whose value is not between `least` and `most`, both included.

    Raises:
        UsageError: a value is outside.
    """
    for key in keys:
        if not least <= getattr(config, key) <= most:
            raise UsageError(f"{key}: {getattr(config, key)} is not between {least} and {most}.")


def check_below_one(config: Any, *keys: str) -> None:
    """Refuse keys whose value is not at least 0 and below 1 (Adam's betas, shares that leave something over).

    Raises:
        UsageError: a value is outside.
    """
    for key in keys:
        if not 0 <= getattr(config, key) < 1:
            raise UsageError(f"{key}: {getattr(config, key)} is not at least 0 and below 1.")


def check_direction(direction: str, known: tuple[str, ...]) -> None:
    """Refuse a direction that a method does not know.

    Raises:
        UsageError: it is none of those known.
    """
    if direction not in known:
        raise UsageError(f"direction: '{direction}' is not one of {', '.join(known)}.")
