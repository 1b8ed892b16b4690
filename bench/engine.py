"""The engine: trains any `Trainable` through mmengine's Runner (`bench.runner`)."""

from __future__ import annotations

import copy
import io
import itertools
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from bench.config import TrainConfig
from bench.contracts import Method, Trainable
from bench.errors import BenchError, UsageError
from bench.files import file_digest, replace_atomically, write_json
from bench.hooks import AccumulationHook, CostHook, EmaHook, LossHook, RandomStateHook, ScheduleHook, seed_libraries
from bench.progress import Progress
from bench.runner import BenchRunner, ParallelOptimWrapper, Source, StepLoop, Steps, StepSampler
from bench.watch import CollapseWatch, OutputHook

_COUNTER = itertools.count()


@dataclass(frozen=True)
class FitResult:
    """Outcome of a training.

    Attributes:
        weights: file with the weights that translation uses (averaged where a moving average is kept).
        weights_id: hash of that file.
        losses: mean losses of the last logging interval.
        warnings: what the watch noticed and has not passed.
        cost: seconds, images per second, peak memory and GPU seconds, over all parts of an interrupted training.
    """

    weights: Path
    weights_id: str
    losses: dict[str, float]
    warnings: list[str]
    cost: dict[str, Any]


def set_precision(settings: TrainConfig) -> None:
    """Set TF32 explicitly on both kinds of CUDA arithmetic, so that records can state it."""
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    torch.backends.cudnn.allow_tf32 = settings.tf32


@contextmanager
def precision_of(settings: TrainConfig) -> Iterator[None]:
    """Within the block `set_precision` holds; after it what held before: one method's choice is no other stage's."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_precision(settings)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _begin(model: Trainable, stage: str, seed: int) -> None:
    """`Trainable.begin` with random states that follow from the seed, however the process came to this stage.

    They are the same in every process: all must begin alike. The Runner gives each its own afterwards.
    """
    seed_libraries(f"{seed}/begin/{stage}")
    model.begin(stage)


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
    distributed: bool = True,
    last: bool = True,
    hooks: Sequence[Hook] = (),
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
        distributed: all processes of the group train together. False: this one, the first, trains by itself while the
            others wait elsewhere; nothing collective is called.
        last: no other stage of the method follows: what `Method.translate` makes is looked at.
        hooks: further mmengine hooks, which must leave the training as it is.

    Raises:
        TrainingError: a loss or a weight is not finite.
        UsageError: the newest checkpoint is beyond the budget.
        BenchError: no space is left for a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*.tmp"):
        stale.unlink(missing_ok=True)
    with precision_of(settings):
        _begin(model, stage, seed)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    if settings.compile:
        compile_networks(model)
    model.to(device)
    processes = get_world_size() if distributed else 1
    cost = CostHook(device, processes)
    watch = CollapseWatch(settings.iterations)
    losses = LossHook(folder / "log.jsonl", log_interval, progress, watch)
    ema = EmaHook(settings.ema)
    every = _hooks(settings, losses, OutputHook(watch, last), hooks, ema, cost)
    runner = _runner(model, source, settings, folder, stage, seed, name, device, processes, every, backends)
    try:
        with precision_of(settings):
            runner.train()
    finally:
        progress.stop()
    weights = folder / "weights.pth"
    if is_main_process():
        _save_weights(model, ema, weights)
    return FitResult(
        weights,
        file_digest(weights) if is_main_process() else "",
        losses.recent,
        list(watch.warnings.values()),
        cost.total(settings.iterations * source.batch_size),
    )


def _optimizers(model: Trainable, settings: TrainConfig, processes: int) -> OptimWrapperDict:
    """The model's optimizers, each in a wrapper that accumulates and averages gradients."""
    return OptimWrapperDict(
        **{
            name: ParallelOptimWrapper(processes, optimizer=optimizer, accumulative_counts=settings.accumulate)
            for name, optimizer in model.optimizers().items()
        }
    )


def _hooks(
    settings: TrainConfig, losses: LossHook, output: OutputHook, further: Sequence[Hook], ema: EmaHook, cost: CostHook
) -> list[Hook]:
    """All hooks of a training, in the order in which those of one priority run."""
    return [
        ScheduleHook(), losses, output, *further, *([ema] if settings.ema else []),
        *([AccumulationHook()] if settings.accumulate > 1 else []), RandomStateHook(), cost,
    ]  # fmt: skip


def _runner(
    model: Trainable, source: Source, settings: TrainConfig, folder: Path, stage: str, seed: int, name: str,
    device: torch.device, processes: int, hooks: list[Hook], backends: list[dict[str, Any]] | None,
) -> BenchRunner:  # fmt: skip
    """The Runner of a training, at its newest checkpoint if there is one."""
    resumed = latest_checkpoint(folder)
    if resumed and resumed[1] > settings.iterations:
        raise UsageError(f"{resumed[0]} is beyond train.iterations={settings.iterations}; remove {folder} to train anew.")
    unique = f"{name}-{os.getpid()}-{next(_COUNTER)}"  # mmengine keeps what has a name for the life of the process
    kept = CheckpointHook(interval=settings.checkpoint_interval, by_epoch=False, max_keep_ckpts=2, save_last=True)
    runner = BenchRunner(
        source,
        settings,
        device,
        stage,
        processes,
        model=model,
        work_dir=str(folder),
        train_dataloader=DataLoader(Steps(source), batch_size=None, sampler=StepSampler(settings.iterations)),
        train_cfg={"type": StepLoop, "max_iters": settings.iterations},
        optim_wrapper=_optimizers(model, settings, processes),
        default_hooks={
            **dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler")),
            "checkpoint": kept,
        },
        custom_hooks=hooks,
        resume=resumed is not None,
        load_from=str(resumed[0]) if resumed else None,
        env_cfg={"cudnn_benchmark": False},
        log_level="ERROR",
        visualizer=Visualizer.get_instance(unique, vis_backends=backends or None, save_dir=str(folder)),
        randomness={"seed": seed},
        experiment_name=unique,
        default_scope=None,
    )
    if resumed:
        runner.last_saved = str(resumed[0])
    return runner


def _save_weights(model: Trainable, ema: EmaHook, path: Path) -> None:
    """Write the weights that translation uses: the model's, with averaged modules in place of the raw ones, and without the
    images that replay pools hold: this is the file that people hand on."""
    modules = model.inference_modules() if isinstance(model, Method) else {}
    raw = {name: copy.deepcopy(modules[name].state_dict()) for name in ema.averages}
    for name, average in ema.averages.items():
        modules[name].load_state_dict(average.module.state_dict())
    state = {k: v.detach().cpu() if isinstance(v, torch.Tensor) else v for k, v in model.state_dict().items()}
    save_tensors(path, state | _without_images(model))
    for name, values in raw.items():
        modules[name].load_state_dict(values)


def _without_images(model: nn.Module) -> dict[str, Any]:
    """Extra states, by key, that hold images of training patients, as they are without them (see `Trainable`)."""
    pools = [(name, module) for name, module in model.named_modules() if hasattr(module, "empty_extra_state")]
    return {".".join([*filter(None, [name]), "_extra_state"]): pool.empty_extra_state() for name, pool in pools}  # type: ignore[operator]


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
        BenchError: the file cannot be read, or it belongs to another architecture; the message says which.
    """
    state = _read_tensors(path)
    try:
        model.load_state_dict(state)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:  # the last three: a module's extra state
        raise BenchError(
            f"{path} does not fit {type(model).__name__}: {_misfit(model.state_dict(), state)}. "
            "Train again (--force train), or name the right file."
        ) from error


def _read_tensors(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        # torch's readers raise all of these on damaged files, with words that help nobody
        how = error.strerror if isinstance(error, OSError) else "it is damaged or cut short, or holds more than tensors"
        raise BenchError(f"{path} cannot be read ({how}). Delete it and give the command that made it once more.") from error
    if not isinstance(state, dict):
        raise BenchError(f"{path} holds no weights. Delete it and give the command that made it once more.")
    return state


def _misfit(own: dict[str, Any], state: dict[str, Any]) -> str:
    """How the tensors of a file differ from a model's, in one line."""
    shapes, found = ({k: getattr(v, "shape", None) for k, v in each.items()} for each in (own, state))
    kinds = {
        "missing": sorted(shapes.keys() - found.keys()),
        "unknown": sorted(found.keys() - shapes.keys()),
        "of another shape": sorted(k for k in shapes.keys() & found.keys() if shapes[k] != found[k]),
    }
    odd = [f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds.items() if names]
    return "of its tensors " + ", ".join(odd) if odd else "it holds other states"


def compile_networks(model: Trainable) -> None:
    """Compile a model's networks in place (not the step: one compiled function with two backwards fails).

    Every batch size gets code of its own: stacked image sets have a few, and symbolic sizes would switch off the choice of
    memory layouts. Buffers are not donated to the backward pass, as a step may run it twice over one graph.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # type: ignore[attr-defined]
    torch._functorch.config.donated_buffer = False  # type: ignore[attr-defined]
    for network in model.networks():
        network.compile(dynamic=False)


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
