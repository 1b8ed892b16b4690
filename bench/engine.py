"""The engine: trains any `Trainable` through mmengine's Runner. The only file that imports it.

What is patched, and why:

* checkpoints are loaded with ``weights_only=True``; the few types mmengine puts into them are allow-listed;
* checkpoints are written to a temporary name and renamed, and hold random states (`bench.hooks.RandomStateHook`);
* resuming starts the data at the right step instead of fetching every batch once more (`StepLoop`);
* data-parallel training averages gradients in the optimizer wrapper: methods call networks in any order and any number of
  times per step, which DistributedDataParallel's per-forward bookkeeping does not allow.
"""

from __future__ import annotations

import copy
import errno
import io
import itertools
import os
import pickle
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.dist import all_reduce, all_reduce_params, broadcast, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from bench.config import TrainConfig
from bench.contracts import Method, Trainable
from bench.errors import BenchError, UsageError
from bench.files import file_digest, replace_atomically, write_json
from bench.hooks import AccumulationHook, EmaHook, LossHook, RandomStateHook, ScheduleHook, cost
from bench.progress import Progress

_COUNTER = itertools.count()

#: Everything besides tensors and plain containers that mmengine's checkpoints may hold.
torch.serialization.add_safe_globals(
    [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        np._core.multiarray.scalar,  # type: ignore[attr-defined]
        np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        *{type(np.dtype(t)) for t in (np.float64, np.float32, np.int64, np.int32, np.uint8, np.bool_)},
    ]
)


def _history_state(self: HistoryBuffer) -> dict[str, Any]:
    """State of a HistoryBuffer without its statistics methods, which are the class's own.

    Pickling them takes a reference to ``getattr``, and allow-listing that would let a checkpoint reach any code.
    """
    return {**self.__dict__, "statistics_methods": {}}


HistoryBuffer.__getstate__ = _history_state


class Source(Protocol):
    """Training data as a pure function of the step."""

    batch_size: int

    def __getitem__(self, step: int) -> Any:
        """Raw arrays of this process's share of step `step`."""

    def batch(self, raw: Any, device: torch.device) -> Any:
        """What `Trainable.step` gets, on `device`."""


@dataclass(frozen=True)
class FitResult:
    """Outcome of a training.

    Attributes:
        weights: file with the weights that translation uses (averaged where a moving average is kept).
        weights_id: hash of that file.
        losses: mean losses of the last logging interval.
        warnings: what the loss watch noticed.
        cost: seconds, images per second, peak memory, GPU seconds of this process's part.
    """

    weights: Path
    weights_id: str
    losses: dict[str, float]
    warnings: list[str]
    cost: dict[str, Any]


class _Steps(Dataset):
    def __init__(self, source: Source) -> None:
        self.source = source
        self.metainfo: dict[str, Any] = {}

    def __getitem__(self, step: int) -> Any:
        return self.source[step]


class _StepSampler(Sampler[int]):
    def __init__(self, total: int) -> None:
        self.start, self.total = 0, total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.total))

    def __len__(self) -> int:
        return self.total - self.start


class StepLoop(IterBasedTrainLoop):  # type: ignore[misc]
    """Iteration loop that starts the data at the resumed step and runs each step under the wanted precision."""

    def run(self) -> nn.Module:
        """Train from the current iteration to the last."""
        runner = self.runner
        self.dataloader.sampler.start = self._iter
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        runner.model.train()
        for raw in self.dataloader:
            with torch.autocast(runner.device.type, torch.bfloat16, enabled=runner.settings.precision == "bf16"):
                self.run_iter((runner.source.batch(raw, runner.device), runner.stage))
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model


class ParallelOptimWrapper(OptimWrapper):  # type: ignore[misc]
    """OptimWrapper that back-propagates outside autocast and averages gradients over processes before a step."""

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        with torch.autocast(loss.device.type, enabled=False):
            super().backward(loss, **kwargs)

    def step(self, **kwargs: Any) -> None:
        if get_world_size() > 1:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
            if parameters:
                have = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
                all_reduce(
                    have, op="sum"
                )  # every process must reduce the same list; what has no gradient anywhere keeps none
                parameters = [p for p, n in zip(parameters, have.tolist(), strict=True) if n]
            for p in parameters:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            all_reduce_params([p.grad for p in parameters], coalesce=True, op="mean")
        super().step(**kwargs)


class BenchRunner(Runner):  # type: ignore[misc]
    """mmengine's Runner without what this project does itself (environment report, config dump, model wrapping)."""

    def __init__(self, source: Source, settings: TrainConfig, device: torch.device, stage: str, **kwargs: Any) -> None:
        self.source, self.settings, self.device, self.stage = source, settings, device, stage
        self.last_saved = ""
        super().__init__(**kwargs)

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """Move the model to its device; gradients are averaged by `ParallelOptimWrapper`."""
        return model.to(self.device)

    def _init_model_weights(self) -> None:
        """Every process starts from the first one's weights. (mmengine's own fails on a module's extra state.)"""
        if get_world_size() > 1:
            for tensor in itertools.chain(self.model.parameters(), self.model.buffers()):
                broadcast(tensor.data)

    def checkpoint_due(self, done: int) -> bool:
        """True when a checkpoint is written after `done` steps."""
        return done % self.settings.checkpoint_interval == 0 or done == self.max_iters

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint under a temporary name and rename it: a kill leaves the old one whole."""
        if not is_main_process():
            return
        temporary, final = Path(out_dir) / f".{filename}.tmp", Path(out_dir) / filename
        try:
            super().save_checkpoint(out_dir, temporary.name, *args, **kwargs)
            os.replace(temporary, final)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
                kept = self.last_saved or "none"
                raise BenchError(
                    f"no space left on device while writing checkpoint {final}. Last good checkpoint kept: {kept}. "
                    "Free some space and run the same command again."
                ) from error
            raise
        self.last_saved = str(final)

    def load_checkpoint(self, filename: str, map_location: Any = "cpu", **_: Any) -> Any:
        """Load a checkpoint, all of it: mmengine's default keeps silent about weights that do not fit.

        Raises:
            BenchError: it is damaged, or holds what only running code could load.
        """
        try:
            return super().load_checkpoint(filename, map_location, strict=True, revise_keys=[])
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise BenchError(
                f"checkpoint {filename} cannot be loaded ({_why(error)}). Remove it and run the same command again: training carries "
                "on from the checkpoint before, or starts anew."
            ) from error

    def _log_env(self, env_cfg: Any) -> None:
        """Records carry the environment; mmengine's report costs seconds."""

    def dump_config(self) -> None:
        """The run's own config.json is the one."""


def set_precision(settings: TrainConfig) -> None:
    """Set TF32 explicitly on both kinds of CUDA arithmetic, so that records can state it."""
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    torch.backends.cudnn.allow_tf32 = settings.tf32


def latest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest complete checkpoint of a training folder and its iteration."""
    found = [(int(m[1]), p) for p in folder.glob("iter_*.pth") if (m := re.fullmatch(r"iter_(\d+)\.pth", p.name))]
    return (max(found)[1], max(found)[0]) if found else None


def fit(
    model: Trainable,
    source: Source,
    settings: TrainConfig,
    folder: Path,
    stage: str,
    seed: int,
    name: str,
    device: torch.device,
    progress: Progress,
    log_interval: int = 10,
    backends: list[dict[str, Any]] | None = None,
) -> FitResult:
    """Train a model, resuming from its newest checkpoint if there is one.

    Args:
        model: what to train; modified in place.
        source: training data by step.
        settings: budget and precision.
        folder: where checkpoints, ``log.jsonl`` and ``weights.pth`` go.
        stage: the training stage, handed to `Trainable.step`.
        seed: for library random states (the harness's own draws come with the batches).
        name: experiment name, unique to the training.
        device: where to train.
        progress: display.
        log_interval: steps between two log lines.
        backends: further mmengine visualizer back-ends.

    Raises:
        TrainingError: a loss is not finite.
        BenchError: no space is left for a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*.tmp"):
        stale.unlink(missing_ok=True)
    set_precision(settings)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    if settings.compile:
        compile_networks(model)
    model.to(device)
    started = time.monotonic()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    optimizers = model.optimizers()
    wrappers = OptimWrapperDict(
        **{n: ParallelOptimWrapper(optimizer=o, accumulative_counts=settings.accumulate) for n, o in optimizers.items()}
    )
    losses = LossHook(folder / "log.jsonl", log_interval, progress)
    ema = EmaHook(settings.ema)
    resumed = latest_checkpoint(folder)
    if resumed and resumed[1] > settings.iterations:
        raise UsageError(f"{resumed[0]} is beyond train.iterations={settings.iterations}; remove {folder} to train anew.")
    runner = BenchRunner(
        source,
        settings,
        device,
        stage,
        model=model,
        work_dir=str(folder),
        train_dataloader=DataLoader(_Steps(source), batch_size=None, sampler=_StepSampler(settings.iterations)),
        train_cfg={"type": StepLoop, "max_iters": settings.iterations},
        optim_wrapper=wrappers,
        default_hooks={
            "runtime_info": None,
            "timer": None,
            "sampler_seed": None,
            "logger": None,
            "param_scheduler": None,
            "checkpoint": CheckpointHook(
                interval=settings.checkpoint_interval, by_epoch=False, max_keep_ckpts=2, save_last=True
            ),
        },
        custom_hooks=[
            ScheduleHook(),
            losses,
            *([ema] if settings.ema else []),
            *([AccumulationHook()] if settings.accumulate > 1 else []),
            RandomStateHook(),
        ],
        resume=resumed is not None,
        load_from=str(resumed[0]) if resumed else None,
        launcher="pytorch" if get_world_size() > 1 else "none",
        env_cfg={"cudnn_benchmark": False},
        log_level="ERROR",
        visualizer=Visualizer.get_instance(
            f"{name}-{os.getpid()}-{next(_COUNTER)}", vis_backends=backends or None, save_dir=str(folder)
        ),
        randomness={"seed": seed},
        experiment_name=f"{name}-{os.getpid()}-{next(_COUNTER)}",
        default_scope=None,
    )
    if resumed:
        runner.last_saved = str(resumed[0])
    try:
        runner.train()
    finally:
        progress.stop()
    weights = folder / "weights.pth"
    if is_main_process():
        _save_weights(model, ema, weights)
    done = settings.iterations - (resumed[1] if resumed else 0)
    return FitResult(
        weights,
        file_digest(weights) if is_main_process() else "",
        losses.recent,
        list(losses.watch.warnings.values()),
        cost(started, done * source.batch_size, device),
    )


def _save_weights(model: Trainable, ema: EmaHook, path: Path) -> None:
    """Write the weights that translation uses: the model's, with averaged modules in place of the raw ones."""
    modules = model.inference_modules() if isinstance(model, Method) else {}
    raw = {name: copy.deepcopy(modules[name].state_dict()) for name in ema.averages}
    for name, average in ema.averages.items():
        modules[name].load_state_dict(average.module.state_dict())
    state = {k: v.detach().cpu() if isinstance(v, torch.Tensor) else v for k, v in model.state_dict().items()}
    save_tensors(path, state)
    for name, values in raw.items():
        modules[name].load_state_dict(values)


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write a state dict atomically. Through memory: torch's own file writer hides that the disk is full."""
    buffer = io.BytesIO()
    torch.save(state, buffer)

    def fill(temporary: Path) -> None:
        temporary.write_bytes(buffer.getbuffer())

    replace_atomically(path, fill)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weights file written by `fit`.

    Raises:
        BenchError: the file is unreadable or belongs to another architecture.
    """
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BenchError(
            f"{path} does not fit {type(model).__name__}: {_why(error)}. Train again, or name the right file."
        ) from error


def _why(error: Exception) -> str:
    """What is wrong with a file of tensors, in one line."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or holds more than tensors and plain values"
    return " ".join(str(error).split())[:200] or type(error).__name__


def compile_networks(model: nn.Module) -> None:
    """Compile the networks (not the step: one compiled function with two backwards fails).

    Modules that are never called themselves, only through methods such as ``encode``, have their children compiled.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # type: ignore[attr-defined]
    for child in model.children():
        if type(child).forward is getattr(nn.Module, "forward", None):
            compile_networks(child)
        else:
            child.compile()


def parameter_count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def write_result(path: Path, key: str, result: FitResult, extra: dict[str, Any]) -> None:
    """Write the file whose presence means that a training is done."""
    write_json(
        path,
        {
            "key": key,
            "weights_id": result.weights_id,
            "losses": result.losses,
            "warnings": result.warnings,
            "cost": result.cost,
            **extra,
        },
    )
