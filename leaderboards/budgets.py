"""Trainings that are not their preset's: with another budget or precision than the preset gives the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from bench.config import TrainConfig, load, preset_names, train_config
from leaderboards.groups import ORIGINAL, SETTINGS, Identity, Record, text


@cache
def _preset(preset: str, method: str) -> TrainConfig | None:
    """How a shipped preset trains a method; None where no such preset ships."""
    return train_config(load(preset), method) if preset in preset_names() else None


def strange(record: Record) -> dict[str, tuple[Any, Any]]:
    """Settings of a training that are not its preset's: name -> (the training's, the preset's). Empty where the record does not say,
    nothing was trained, or its preset does not ship."""
    cost: Mapping[str, Any] = record.get("cost") or {}
    known = [name for name in SETTINGS if isinstance(cost.get(name), (int, float, str))]
    expected = _preset(text(record.get("preset")), record["method"]) if known and record["method"] != ORIGINAL else None
    found = {name: (cost[name], getattr(expected, name)) for name in known} if expected else {}
    return {name: (mine, own) for name, (mine, own) in found.items() if mine != own}


def _words(preset: str, found: Mapping[str, tuple[Any, Any]]) -> str:
    told = [f"{name} {text(mine)} instead of {text(own)}" for name, (mine, own) in found.items()]
    return f"trained differently from preset {preset}: {', '.join(told)}"


def odd(members: Mapping[Identity, Sequence[Record]]) -> tuple[dict[Identity, str], str]:
    """Which methods of a table were trained in another way than the others.

    Methods may differ in what their preset gives them; what counts is a departure from it. Where all trained methods depart in the
    same way, they compare with each other.

    Args:
        members: method -> its records.

    Returns:
        Who departs -> how; and how all of them do, empty where they do not.
    """
    found: dict[Identity, dict[str, tuple[Any, Any]]] = {}
    presets: dict[Identity, str] = {}
    for who, records in members.items():
        said = [r for r in records if r["method"] != ORIGINAL and (r.get("cost") or {}).get("iterations") is not None]
        if said:
            found[who], presets[who] = strange(said[0]), text(said[0].get("preset"))
    kinds = {tuple((name, mine) for name, (mine, _) in own.items()) for own in found.values()}
    told = {who: _words(presets[who], own) for who, own in found.items() if own}
    if len(kinds) > 1:
        return told, ""
    return {}, "; ".join(dict.fromkeys(told[who] for who in sorted(told)))
