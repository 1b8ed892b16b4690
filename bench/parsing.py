"""Values of configuration keys: what files and command lines hold, as the types of the keys want it."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from bench.errors import UsageError

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse(value: Any, hint: Any, where: str) -> Any:
    """A value as its type hint wants it; as it is where the hint is none of those known.

    Args:
        value: a plain value, or a text that stands for one ("0.5", "true", "0.5,0.9").
        hint: bool, int, float, str, a tuple or Literal of such, or one of them or None.
        where: the key, for messages.

    Raises:
        UsageError: it cannot be used; the message names the key.
    """
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return parse(value, options[0], where)
    try:
        if origin is tuple:
            inner = typing.get_args(hint)
            parts = _parts(value) if isinstance(value, str) else list(value)
            kinds = [inner[0]] * len(parts) if inner[-1] is Ellipsis else list(inner)
            if len(kinds) != len(parts):
                raise ValueError(f"{len(kinds)} values expected")
            return tuple(parse(p, k, where) for p, k in zip(parts, kinds, strict=True))
        if origin is typing.Literal:
            choices = typing.get_args(hint)
            if value not in choices:
                raise ValueError(f"one of {', '.join(map(str, choices))} expected")
            return value
        return _PLAIN[hint](value) if hint in _PLAIN else value
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"config key '{where}': cannot use {value!r} ({error}).") from None


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if (word := str(value).lower()) not in _BOOLEANS:
        raise ValueError("true or false expected")
    return _BOOLEANS[word]


def _int(value: Any) -> int:
    number = float(value)
    if isinstance(value, bool) or not number.is_integer():
        raise ValueError("a whole number expected")
    return int(number)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError("a finite number expected")
    return number


def _str(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        raise ValueError("a text expected")
    return str(value)


_PLAIN: dict[Any, Any] = {bool: _bool, int: _int, float: _float, str: _str}


def _parts(words: str) -> list[Any]:
    """The values in a text: a list as in YAML (``[a, b]``), or values between commas (``a,b``).

    Raises:
        ValueError: brackets around what is no list.
    """
    if not words.startswith("["):
        return [part for part in words.split(",") if part]
    import yaml

    try:
        found = yaml.safe_load(words)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, list):
        raise ValueError("a list expected: [a, b] or a,b")
    return found
