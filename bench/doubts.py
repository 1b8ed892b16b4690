"""What is wrong or doubtful in what a run asks for, found before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from bench.config import TrainConfig, train_config
from bench.contracts import Method
from bench.device import require_bf16
from bench.errors import UsageError
from bench.experiment import Experiment, RunSpec, method_config
from bench.plan import Stage
from bench.progress import warn

#: Iterations below which compiling does not pay on a CPU.
SHORT = 300
#: Times as many images in a method's earlier stages as in its last that are hardly meant so; as published it is 8.6 for UVCGAN.
LOPSIDED = 10


#: What always works on several GPUs.
_ONE_EACH = "a method or seed a GPU, each in one process, without torchrun: --device cuda:N"


def check_batch(spec: RunSpec, processes: int) -> None:
    """Refuse a batch that cannot be shared out, or a method that trains in one process alone, before anything is read or joined.

    Raises:
        UsageError: it names a batch that can be, with the iterations that keep the images seen, or how to use one process.
    """
    for name in spec.methods:
        cls, config = method_config(spec.config, name)
        settings = train_config(spec.config, name)
        if processes > 1 and cls.one_process:
            raise UsageError(f"method '{name}' cannot be trained by {processes} processes: {cls.one_process} Run {_ONE_EACH}.")
        for stage, (_, size) in cls.schedule(config, settings.iterations, settings.batch_size).items():
            why = _unshared(cls, config, size, processes)
            if why:
                whose = f"method '{name}'" + (f", stage {stage}" if len(cls.stages) > 1 else "")
                remedy = _other_batch(cls, config, name, settings, stage, processes)
                raise UsageError(
                    f"{whose}: batch size {size} cannot be divided among {processes} processes{why} {remedy}Or run {_ONE_EACH}."
                )


def _unshared(cls: type[Method], config: Any, size: int, processes: int) -> str:
    """Why a batch cannot be shared out, as the end of a sentence; empty where it can."""
    if size % processes:
        return "."
    try:
        cls.check_share(config, size // processes)
    except UsageError as error:
        return f": {error}"
    return ""


def _other_batch(cls: type[Method], config: Any, name: str, settings: TrainConfig, stage: str, processes: int) -> str:
    """What to set for a batch that can be shared out and as many images seen: a sentence, or nothing where it is not known."""
    updates, images = settings.iterations, settings.iterations * settings.batch_size
    sets: list[str] = []

    def fits(batch_size: int) -> bool:
        return not _unshared(cls, config, cls.budget(config, stage, updates, batch_size)[1], processes)

    if size := _first(fits, settings.batch_size, processes):
        sets = [f"budgets.{name}.batch_size={size}", f"budgets.{name}.iterations={max(1, round(images / size))}"]
    elif hasattr(config, key := f"{stage}_batch"):  # a stage's own batch, as `uvcgan` names it
        iterations, old = cls.budget(config, stage, updates, settings.batch_size)
        size = _first(lambda n: not _unshared(cls, config, n, processes), old, processes)
        sets = [f"methods.{name}.{key}={size}"] if size else []
        if sets and cls.budget(replace(config, **{key: size}), stage, updates, settings.batch_size)[0] == iterations:
            sets += [f"methods.{name}.{stage}_iterations={max(1, round(iterations * old / size))}"]
    if not sets:
        return ""
    return (
        f"{' '.join(f'--set {key}' for key in sets)} sees as many images, but a recipe with another batch is no longer the "
        "published one. "
    )


def _first(fits: Callable[[int], bool], least: int, processes: int) -> int:
    """The first multiple of `processes` from `least` on that fits; 0 where none of the first few does."""
    start = -(-least // processes) * processes
    return next((n for n in range(start, start + 8 * processes, processes) if fits(n)), 0)


def check_speed(spec: RunSpec, device: torch.device) -> None:
    """Refuse a precision that a GPU lacks.

    Raises:
        PreflightError: it would be emulated.
    """
    for name in spec.methods:
        if method_config(spec.config, name)[0].stages and train_config(spec.config, name).precision == "bf16":
            section = f"budgets.{name}" if "precision" in spec.config.budgets.get(name, {}) else "train"
            require_bf16(device, f"--set {section}.precision=fp32")


def doubt_compiling(experiment: Experiment, plan: list[Stage]) -> None:
    """Warn where compiling on a CPU takes longer than it can save."""
    for name in dict.fromkeys(s.method for s in plan if s.kind == "train" and s.runs):
        settings = experiment.train_config(name)
        if settings.compile and experiment.device.type == "cpu" and settings.iterations < SHORT:
            warn(
                f"{name}: compiling takes about a minute on a CPU, more than {settings.iterations} iterations win back; leave "
                f"--compile (train.compile=true) out below {SHORT}."
            )


def doubt_lengths(experiment: Experiment, plan: list[Stage]) -> None:
    """Warn where a method's earlier stages see far more images than its last: a published pretraining before a short trial."""
    for name in dict.fromkeys(s.method for s in plan if s.kind == "train" and s.runs):
        cls, config = method_config(experiment.spec.config, name)
        settings = experiment.train_config(name)
        schedule = cls.schedule(config, settings.iterations, settings.batch_size)
        seen = {stage: n * size for stage, (n, size) in schedule.items() if n}
        *earlier, last = seen.values()
        if sum(earlier) > LOPSIDED * last:
            first = next(iter(seen))
            keys = {f"{first}_iterations": "N", first: "false"}  # as `uvcgan` names them
            known = [f"--set methods.{name}.{key}={value}" for key, value in keys.items() if hasattr(config, key)]
            warn(
                f"{name}: stage {first} will see {seen[first]:,} images, the last stage {last:,}. "
                + f"For a short run: {' or '.join(known) or 'see its keys in its Config'}."
            )
