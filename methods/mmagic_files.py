"""Config files of mmagic: what is used of one, checked as far as that goes without mmagic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UsageError

#: mmagic's optimizers for all of its translation models.
ADAM = {"type": "Adam", "lr": 2e-4, "betas": (0.5, 0.999)}
_GROUPS = ("generators", "discriminators")


def told(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def domains(description: Mapping[str, Any]) -> tuple[str, str]:
    """The model's names of clear (its default domain) and opacity (the other one)."""
    clear = description["default_domain"]
    return clear, next(domain for domain in description["related_domains"] if domain != clear)


def read(path: Path) -> dict[str, Any]:
    """Model and optimizers of a mmagic config file, checked as far as that goes without mmagic."""
    from mmengine.config import Config

    where = f"method 'mmagic:{path}'"
    try:
        found = Config.fromfile(str(path), import_custom_modules=False).to_dict()
    except Exception as error:  # the file is code
        raise UsageError(f"{where}: cannot be read: {told(error)}") from error
    model = found.get("model")
    if not isinstance(model, Mapping):
        raise UsageError(f"{where}: has no `model`; give a mmagic config of a translation model.")
    kinds = {"type": str, "generator": dict, "discriminator": dict, "default_domain": str}
    for key in (*kinds, "reachable_domains", "related_domains"):
        if not isinstance(model.get(key), kinds.get(key, (list, tuple))):
            raise UsageError(f"{where}: `model` has no usable `{key}`; is it a translation model?")
    if len(set(model["related_domains"])) != 2 or model["default_domain"] not in model["related_domains"]:
        raise UsageError(f"{where}: `related_domains` must be two: the default domain (clear) and the other one (opacity).")
    return {"model": dict(model), "optimizers": _optimizers(found.get("optim_wrapper") or {}, where)}


def _optimizers(wrappers: Any, where: str) -> dict[str, dict[str, Any]]:
    """Optimizers of both groups out of mmagic's ``optim_wrapper``; what the harness would not follow is refused."""
    if not isinstance(wrappers, Mapping):
        raise UsageError(f"{where}: `optim_wrapper` is no dict of {' and '.join(_GROUPS)}.")
    if surplus := sorted(set(wrappers) - {*_GROUPS, "constructor"}):
        raise UsageError(
            f"{where}: optim_wrapper: {', '.join(surplus)} stands for neither group. Translation models have two optimizers: "
            "optim_wrapper = dict(generators=dict(optimizer=...), discriminators=dict(optimizer=...))."
        )
    return {name: _optimizer(wrappers.get(name) or {"optimizer": ADAM}, f"{where}: optim_wrapper.{name}") for name in _GROUPS}


def _optimizer(group: Any, where: str) -> dict[str, Any]:
    if not isinstance(group, Mapping):
        raise UsageError(f"{where}: is no dict with an `optimizer`.")
    surplus = sorted(set(group) - {"optimizer", "type"}) or [group.get("type", "OptimWrapper")]
    if surplus != ["OptimWrapper"]:
        raise UsageError(f"{where}: only `optimizer` is followed; leave out {', '.join(map(str, surplus))}.")
    optimizer = group.get("optimizer")
    if not isinstance(optimizer, Mapping) or not isinstance(optimizer.get("type"), str):
        raise UsageError(f"{where}.optimizer: is no optimizer; for example dict(type='Adam', lr=2e-4).")
    return dict(optimizer)
