"""Registries: name -> class, filled lazily, with helpful answers to unknown names.

Built-ins stand in one table per package (``methods/__init__.py``, ``evaluators/__init__.py``, ``bench/data/readers/__init__.py``)
as ``name -> "module:Class"`` and are imported on first use, so that listing names costs no import. Code of one's own
registers through the same decorators: from a file (``--import my_method.py``) or an installed package's entry point in the
group ``bench.plugins``.

Names may also come in families, ``prefix:rest``, whose classes a function makes: ``FAMILIES`` in the same table says
``prefix -> ("module:function", known rests)``. A rest that is not known must be a file: ``mmagic:cyclegan``,
``mmagic:my/config.py``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from mmengine.registry import Registry

from bench.errors import UsageError, unknown

T = TypeVar("T", bound=Callable[..., Any])


class LazyRegistry(Registry):  # type: ignore[misc]
    """mmengine's Registry that knows its built-ins by name before importing them, and never answers None.

    Args:
        kind: what it holds, for messages ("method").
        table: module whose ``BUILTIN`` maps names to ``"module:Class"``.
    """

    def __init__(self, kind: str, table: str) -> None:
        super().__init__(kind)
        self.kind, self.table = kind, table

    @property
    def builtin(self) -> Mapping[str, str]:
        """Name -> ``"module:Class"`` of what ships with the project."""
        table: Mapping[str, str] = importlib.import_module(self.table).BUILTIN
        return table

    @property
    def families(self) -> Mapping[str, tuple[str, tuple[str, ...]]]:
        """Prefix -> (``"module:function"`` that makes a class of a rest, the rests that need no file)."""
        table: Mapping[str, tuple[str, tuple[str, ...]]] = getattr(importlib.import_module(self.table), "FAMILIES", {})
        return table

    def names(self) -> list[str]:
        """Every name that stands for itself, sorted; imports no built-in."""
        return sorted(n for n in {*self.builtin, *self.module_dict} if not self._family(n))

    def members(self) -> list[str]:
        """Every name of a family that needs no file, sorted; imports nothing."""
        return sorted(f"{prefix}:{rest}" for prefix, (_, rests) in self.families.items() for rest in rests)

    def knows(self, name: str) -> bool:
        """Whether a name stands for itself or is one of a family."""
        if name in self.builtin or name in self.module_dict or name in self.members():
            return True
        return bool(self._family(name)) and Path(name.partition(":")[2]).is_file()

    def _family(self, name: str) -> str:
        """The prefix of a name that is one of a family; empty for others."""
        prefix, colon, _ = name.partition(":")
        return prefix if colon and prefix in self.families else ""

    def check(self, name: str) -> str:
        """Return `name` if it is known.

        Raises:
            UsageError: it is not; the message suggests the nearest.
        """
        if self.knows(name):
            return name
        rest = name.partition(":")[2]
        if self._family(name) and ("/" in rest or "." in rest):
            raise UsageError(f"{self.kind} '{name}': file {rest} does not exist.")
        raise unknown(self.kind, name, [*self.names(), *self.members()])

    def get(self, key: str) -> Any:
        """The class of a name, imported if need be. Raises UsageError for unknown names."""
        self.check(key)
        family = self._family(key)
        if family and key not in self.module_dict:
            module, _, function = self.families[family][0].partition(":")
            made = getattr(importlib.import_module(module), function)(key.partition(":")[2])
            made.name = key
            self._register_module(module=made, module_name=key)
        elif key not in self.module_dict:
            module, _, attribute = self.builtin[key].partition(":")
            found = getattr(importlib.import_module(module), attribute)
            if self.module_dict.get(key) is not found:
                raise UsageError(f"{self.builtin[key]} does not register itself as {self.kind} '{key}'.")
        return self.module_dict[key]

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator; a name that is taken is refused."""

        def decorate(cls: T) -> T:
            target = f"{cls.__module__}:{cls.__qualname__}"
            if self.builtin.get(name, target) != target:
                raise UsageError(f"{self.kind} '{name}' is built in; {target} must take another name.")
            cls.name = name  # type: ignore[attr-defined]
            self._register_module(module=cls, module_name=name, force=target == self._target(name))
            return cls

        return decorate

    def _target(self, name: str) -> str:
        cls = self.module_dict.get(name)
        return f"{cls.__module__}:{cls.__qualname__}" if cls else ""

    def origin(self, name: str) -> str:
        """Where a class comes from: ``module`` for built-ins and packages, ``file.py@hash`` for imported files and for
        classes of families that were made from a file (their `origin`)."""
        cls = self.get(name)
        if own := getattr(cls, "origin", ""):
            return str(own)
        module = sys.modules[cls.__module__]
        if not module.__name__.startswith("bench_import_"):
            return module.__name__
        path = Path(module.__file__ or "")
        return f"{path.name}@{hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()}"


METHODS = LazyRegistry("method", "methods")
EVALUATORS = LazyRegistry("evaluator", "evaluators")
DATASETS = LazyRegistry("dataset", "bench.data.readers")
SUITES = LazyRegistry("suite", "bench.suites")

register_method = METHODS.register
register_evaluator = EVALUATORS.register
register_dataset = DATASETS.register


def register_suite(name: str, *, method: str = "", variants: Sequence[str] = ()) -> Callable[[T], T]:
    """Decorator of a function that names evaluators (see `bench.suites`); a name that is taken is refused.

    Args:
        name: of the suite.
        method: the only one that it is meant for; empty where it is for any.
        variants: configuration files, each a training of its own.
    """

    def decorate(function: T) -> T:
        function.method, function.variants = method, tuple(variants)  # type: ignore[attr-defined]
        return SUITES.register(name)(function)

    return decorate


def import_file(path: str | Path) -> None:
    """Import a file of the user's own so that its decorators run.

    Raises:
        UsageError: the file is not there, or fails while it is imported (the message names the line).
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise UsageError(f"--import: {path} does not exist.")
    name = f"bench_import_{file.stem}_{hashlib.blake2b(str(file).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"--import: {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        if isinstance(error, UsageError):
            raise
        line = _line_in(error, file)
        raise UsageError(f"--import: {path}{line}: {type(error).__name__}: {error}") from error


def _line_in(error: BaseException, file: Path) -> str:
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return line


def load_plugins(files: list[str]) -> list[str]:
    """Import entry points of the group ``bench.plugins`` and the given files.

    Returns:
        One warning for each installed plug-in that could not be imported; the others still work.
    """
    warnings = []
    for point in entry_points(group="bench.plugins"):
        try:
            point.load()
        except Exception as error:  # a broken plug-in must not hide the others; it is reported, not dropped
            warnings.append(f"plug-in '{point.name}' could not be imported: {type(error).__name__}: {error}")
    for file in files:
        import_file(file)
    return warnings
