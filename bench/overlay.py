"""Layers of configuration, plain trees of keys: how they are read and which wins.

A later layer wins over an earlier one. That holds for `train` and ``budgets``, too: a later ``train.K`` is meant for every
method, so it also ends what earlier layers set as a method's own ``budgets.M.K``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.files import disk_full, no_space

#: Sections whose second level names a method, an evaluator or a dataset, and is checked against its own Config.
NAMED = ("budgets", "methods", "evaluators", "datasets")

Tree = dict[str, Any]


def read_layer(path: Path) -> Tree:
    """The keys of a YAML or Python file.

    Raises:
        UsageError: it is missing or unreadable.
        NoSpaceError: the temporary folder is full.
    """
    from mmengine.config import Config

    if not path.is_file():
        raise UsageError(f"--config: {path} does not exist.")
    try:
        return dict(Config.fromfile(str(path), import_custom_modules=False).to_dict())
    except Exception as error:
        if isinstance(error, OSError) and disk_full(error):  # mmengine copies the file to the temporary folder and reads it there
            raise no_space(Path(tempfile.gettempdir()), error) from error
        raise UsageError(
            f"--config: {path} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def command_layer(sets: Iterable[str], flags: Mapping[str, Any]) -> Tree:
    """What the command line sets: ``section.key=value`` assignments, and flags that stand for keys over them.

    Raises:
        UsageError: an assignment without ``=``.
    """
    layer: Tree = {}
    for text in sets:
        path, found, value = text.partition("=")
        if not found:
            raise UsageError(f"--set {text}: expected key=value, for example --set train.iterations=100.")
        _merge(layer, _nest(_keys(path.strip()), value.strip()))
    _merge(layer, flags)
    return layer


def lay_over(tree: Tree, layer: Mapping[str, Any]) -> None:
    """Merge a later layer over `tree`, in place."""
    train, own, earlier = (_section(t, k) for t, k in ((layer, "train"), (layer, "budgets"), (tree, "budgets")))
    kept = {
        name: {key: v for key, v in section.items() if key not in train or key in _section(own, name)}
        if isinstance(section, Mapping)
        else section
        for name, section in earlier.items()
    }
    if kept:
        tree["budgets"] = kept
    _merge(tree, layer)


def _section(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section, empty where it is missing or no section; what is wrong with it is said when the whole is checked."""
    found = tree.get(key)
    return found if isinstance(found, Mapping) else {}


def _keys(path: str) -> list[str]:
    """The keys of a dotted path. The name of one of a family (``methods.mmagic:my/config.py.lr``) may hold dots itself."""
    section, _, rest = path.partition(".")
    return [section, *rest.rsplit(".", 1)] if section in NAMED and ":" in rest else path.split(".")


def _nest(path: list[str], value: Any) -> Tree:
    return {path[0]: value if len(path) == 1 else _nest(path[1:], value)}


def _merge(tree: Tree, update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), Mapping):
            tree[key] = dict(tree[key])
            _merge(tree[key], value)
        else:
            tree[key] = value
