"""Training hooks: learning rate, loss watch and log, random state, moving average."""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, is_main_process
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.contracts import Method, Trainable
from bench.errors import TrainingError
from bench.files import naming, write_text
from bench.progress import Progress, warn
from bench.watch import CollapseWatch


class ScheduleHook(Hook):  # type: ignore[misc]
    """Sets every learning rate to base rate x ``lr_factor(step, total)``: a pure function, so nothing to resume.

    Gradients that no update is waiting for are dropped first: what a method's own ``backward`` left in a network belongs to no
    later step, and no checkpoint holds it.
    """

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        model: Trainable = runner.model
        factor = model.lr_factor(runner.iter, runner.max_iters)
        for wrapper in runner.optim_wrapper.values():
            if not wrapper.waiting:
                wrapper.zero_grad()
            for group in wrapper.optimizer.param_groups:
                group["lr"] = group.setdefault("base_lr", group["lr"]) * factor


class LossHook(Hook):  # type: ignore[misc]
    """Watches, logs and shows losses without a device synchronisation in every step.

    Losses of the steps since the last look are kept on the device; every `interval` steps (and before a checkpoint is
    written) they are read at once. A value that is not finite stops the training and names its iteration and term; so does
    a weight that is not finite when a checkpoint is due, so every checkpoint was written while all were finite. The latest
    losses and the warnings are saved with it.

    Args:
        log: file that gets one JSON line each `interval` steps; the source of the curves.
        interval: steps between two looks.
        progress: where to show it.
        watch: judges the losses.
    """

    priority = "VERY_HIGH"  # before CheckpointHook, so that a checkpoint is never written after a bad step

    def __init__(self, log: Path, interval: int, progress: Progress, watch: CollapseWatch) -> None:
        self.log, self.interval, self.progress, self.watch = log, interval, progress, watch
        self.pending: list[tuple[list[str], Tensor]] = []  # of each step: its terms (they may differ) and their values
        self.first = 0
        self.recent: dict[str, float] = {}

    def before_train(self, runner: Any) -> None:
        self.first = runner.iter
        self.progress.start(runner.max_iters, runner.iter)
        if is_main_process() and self.log.exists():
            kept = [line for line in self.log.read_text().splitlines() if _step_of(line) <= runner.iter]
            write_text(self.log, "".join(f"{line}\n" for line in kept))

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if wrong := wrong_losses(outputs):
            raise TrainingError(f"training stopped: {wrong} `bench check` checks a method in seconds.")
        names = sorted(outputs)
        self.pending.append((names, torch.stack([outputs[name].detach().float().reshape(()) for name in names])))
        done = runner.iter + 1
        if done % self.interval == 0 or done == runner.max_iters or runner.checkpoint_due(done):
            self._look(runner, done)
        if runner.checkpoint_due(done):
            bad = not_finite(runner.model)
            if bad:
                raise TrainingError(
                    f"training stopped: weight '{bad}' holds values that are not finite after iteration {done}. {_advice(runner)}"
                )

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["watched"] = {"recent": self.recent, **self.watch.state()}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        watched = checkpoint.get("watched", {})
        self.recent = watched.get("recent", {})
        self.watch.restore(watched)

    def _look(self, runner: Any, done: int) -> None:
        values = torch.cat([v for _, v in self.pending])
        if runner.processes > 1:  # the loss of the whole batch; a bad value in any process stops them all
            all_reduce(values, op="mean")
        terms = [(self.first + row + 1, name) for row, (names, _) in enumerate(self.pending) for name in names]
        seen: dict[str, list[float]] = {}
        for (iteration, name), value in zip(terms, values.tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"training stopped: loss '{name}' is {value} at iteration {iteration}. {_advice(runner)}"
                )
            seen.setdefault(name, []).append(value)
        self.recent = {name: math.fsum(v) / len(v) for name, v in sorted(seen.items())}
        self.watch.see(done, self.recent)
        self.pending, self.first = [], done
        if not is_main_process():
            return
        rates = {f"lr_{n}": w.optimizer.param_groups[0]["lr"] for n, w in runner.optim_wrapper.items()}
        with naming(self.log), self.log.open("a") as stream:
            stream.write(json.dumps({"step": done, **self.recent, **rates}) + "\n")
        runner.visualizer.add_scalars({**self.recent, **rates}, step=done)
        self.progress.advance(done, self.recent)


def wrong_losses(losses: object) -> str:
    """Why what a step returned are no losses, in one sentence; empty where they are."""
    if not isinstance(losses, dict) or not losses:
        return f"step must return a dict of scalar losses, not {'an empty one' if losses == {} else type(losses).__name__}."
    bad = next((name for name, value in losses.items() if not isinstance(value, Tensor) or value.numel() != 1), None)
    return "" if bad is None else f"step's '{bad}' must be a detached scalar tensor."


def _advice(runner: Any) -> str:
    kept = runner.last_saved or "none yet: it came before the first one"
    return (
        f"Last good checkpoint kept: {kept}. Lower the learning rate (--set methods.NAME.lr=...) or check the input images, then "
        "run the same command again."
    )


def not_finite(model: nn.Module) -> str:
    """The first parameter or buffer that holds a NaN or an infinity; empty where none does. One device synchronisation."""
    named = [(n, t) for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point() and t.numel()]
    if not named:
        return ""
    largest = torch._foreach_norm([t.detach() for _, t in named], float("inf"))
    fine = torch.isfinite(torch.stack([v.float() for v in largest])).tolist()
    return next((name for (name, _), good in zip(named, fine, strict=True) if not good), "")


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):  # a line cut short by a kill
        return 1 << 62


def seed_libraries(words: str) -> None:
    """Seed torch (every device), numpy and random with a hash of `words`."""
    seed = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=4).digest(), "little")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class RandomStateHook(Hook):  # type: ignore[misc]
    """Saves every process's random states with a checkpoint and restores them just before the first new step.

    The harness itself draws from counters (`bench.contracts.Draws`); this is for methods that call torch.randn. Another number
    of processes has no states to carry on with: it begins with new ones, a function of seed, step, rank and number, and says so.
    """

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.gathered: list[dict[str, Any]] = []
        self.restored: list[dict[str, Any]] | None = None

    def gather_checkpoint(self, runner: Any) -> None:
        kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
        state: dict[str, Any] = {
            "torch": torch.get_rng_state(),
            "numpy": [str(kind), [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
            "python": random.getstate(),
        }
        if runner.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(runner.device)
        self.gathered = all_gather_object(state) if runner.processes > 1 else [state]

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = self.gathered

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("random_state")
        self.restored = [saved] if isinstance(saved, dict) else saved  # checkpoints once held the first process's alone

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.restored is None:
            return
        states, self.restored = self.restored, None
        if len(states) == runner.processes:
            _restore(states[runner.rank], runner.device)
            return
        if is_main_process():
            warn(
                f"processes so far: {len(states)}, now: {runner.processes}. What a method draws from torch, numpy or random itself "
                "begins anew; batches and batch.draws go on as they were."
            )
        seed_libraries(f"{runner.seed}/step/{runner.iter}/rank/{runner.rank}/{runner.processes}")


def _restore(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


class AccumulationHook(Hook):  # type: ignore[misc]
    """Saves gradients that wait for their update, and how many wait, with a checkpoint; restores both on resume.

    Several processes take the mean of theirs before: one list then stands for all, the mean that the update takes is the same,
    and any number of processes may carry on.
    """

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def gather_checkpoint(self, runner: Any) -> None:
        for wrapper in runner.optim_wrapper.values():
            if wrapper.waiting:
                wrapper.average()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["accumulated"] = {
            name: {"count": wrapper.inner_count, "gradients": [_waiting(wrapper, p) for p in _parameters(wrapper)]}
            for name, wrapper in runner.optim_wrapper.items()
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint.get("accumulated", {})

    def before_train(self, runner: Any) -> None:
        for name, state in self.loaded.items():
            wrapper = runner.optim_wrapper[name]
            wrapper._inner_count = state["count"]
            for p, gradient in zip(_parameters(wrapper), state["gradients"], strict=True):
                p.grad = None if gradient is None else gradient.to(p)
        self.loaded = {}


def _waiting(wrapper: Any, parameter: Tensor) -> Tensor | None:
    return parameter.grad.detach().cpu() if wrapper.waiting and parameter.grad is not None else None


def _parameters(wrapper: Any) -> list[Tensor]:
    return [p for group in wrapper.optimizer.param_groups for p in group["params"]]


class EmaHook(Hook):  # type: ignore[misc]
    """Keeps a moving average of the modules that translation uses; saved and resumed with the checkpoint.

    It moves in the iterations that step an optimizer of these modules, so that methods that update them rarely, and gradients
    that accumulate, average over as many updates as all. Modules without weights have nothing to average.

    Args:
        decay: share of the old average kept in each update. The first updates use a smaller one, (1 + n) / (10 + n), so that
            the random start is forgotten.
    """

    priority = "NORMAL"

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.averages: dict[str, AveragedModel] = {}
        self.wrappers: list[Any] = []
        self.updates = self.steps = 0
        self.loaded: dict[str, Any] = {}

    def before_train(self, runner: Any) -> None:
        model = runner.model
        modules = model.inference_modules() if isinstance(model, Method) else {}
        for name, module in modules.items():
            if not any(p.is_floating_point() for p in module.parameters()):  # an nn.Identity: torch fails on an empty list
                continue
            average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(self.decay), use_buffers=False)
            average.requires_grad_(False)
            if name in self.loaded:
                average.load_state_dict(self.loaded[name])
                self.updates = int(self.loaded[name]["n_averaged"])
            self.averages[name] = average
        self.loaded = {}
        weights = {id(p) for name in self.averages for p in modules[name].parameters()}
        wrappers = list(runner.optim_wrapper.values())
        owners = [w for w in wrappers if any(id(p) in weights for p in _parameters(w))]
        self.wrappers = owners or wrappers  # what no optimizer has, the method itself moves after some step
        self.steps = self._taken()

    def _taken(self) -> int:
        return sum(wrapper.steps for wrapper in self.wrappers)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        before, self.steps = self.steps, self._taken()
        if not self.averages or self.steps == before:
            return
        modules = runner.model.inference_modules()
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, average in self.averages.items():
            average.multi_avg_fn = get_ema_multi_avg_fn(decay)
            average.update_parameters(modules[name])

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = {
            name: {k: v.detach().cpu() for k, v in average.state_dict().items()} for name, average in self.averages.items()
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint.get("ema", {})


class CostHook(Hook):  # type: ignore[misc]
    """Adds up what a training costs over all its parts. What a kill undid counts for nothing.

    Peak memory is of this training alone: what torch allocated on a GPU; on a CPU what the process held (Linux; None where
    the system does not let its counter be set back, as it then tells of everything before, too).

    Args:
        device: where this process trains.
        processes: how many train together.
    """

    priority = "VERY_LOW"

    def __init__(self, device: torch.device, processes: int) -> None:
        self.device, self.processes = device, processes
        self.started = time.monotonic()
        self.before: dict[str, Any] = {"seconds": 0.0, "gpu_seconds": 0.0, "peak_memory_bytes": 0}
        self.counts = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self.counts = reset_peak_memory()

    def _spent(self) -> dict[str, Any]:
        seconds, gpu = time.monotonic() - self.started, self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if gpu else peak_memory() if self.counts else None
        earlier = self.before["peak_memory_bytes"]
        return {
            "seconds": self.before["seconds"] + seconds,
            "gpu_seconds": self.before["gpu_seconds"] + (seconds * self.processes if gpu else 0.0),
            "peak_memory_bytes": None if peak is None or earlier is None else max(earlier, peak),
        }

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["cost"] = self._spent()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self.before = checkpoint.get("cost", self.before)

    def total(self, images: int) -> dict[str, float | int | None]:
        """Seconds, images per second, peak memory and GPU seconds of a training over `images` images."""
        spent = self._spent()
        return {**spent, "images_per_second": images / spent["seconds"] if spent["seconds"] > 0 else None}


def reset_peak_memory() -> bool:
    """Set the process's peak memory back to what it holds now; False where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return peak_memory() is not None


def peak_memory() -> int | None:
    """The most memory the process has held since `reset_peak_memory`, bytes; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
