"""What is wrong or doubtful in what a run asks for, found before any work."""

from __future__ import annotations

import torch

from bench.config import train_config
from bench.device import require_bf16
from bench.errors import UsageError
from bench.experiment import Experiment, RunSpec, method_config
from bench.plan import Stage
from bench.progress import warn

#: Iterations below which compiling does not pay on a CPU.
SHORT = 300
#: Times as many images in a method's earlier stages as in its last that are hardly meant so; as published it is 8.6 for UVCGAN.
LOPSIDED = 10


def check_batch(spec: RunSpec, processes: int) -> None:
    """Refuse a batch that cannot be shared out, before anything is read or joined."""
    for name in spec.methods:
        cls, config = method_config(spec.config, name)
        settings = train_config(spec.config, name)
        section = f"budgets.{name}" if "batch_size" in spec.config.budgets.get(name, {}) else "train"
        for stage, (_, size) in cls.schedule(config, settings.iterations, settings.batch_size).items():
            whose = f"method '{name}'" + (f", stage {stage}" if len(cls.stages) > 1 else "")
            if size % processes:
                raise UsageError(
                    f"{whose}: batch size {size} cannot be divided among {processes} processes; use a multiple: "
                    f"--set {section}.batch_size=N."
                )
            try:
                cls.check_share(config, size // processes)
            except UsageError as error:
                raise UsageError(
                    f"{whose}, batch size {size}, {processes} processes: {error} --set {section}.batch_size=N."
                ) from error


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
