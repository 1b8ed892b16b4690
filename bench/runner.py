"""mmengine's Runner, loop and optimizer wrapper as this project uses them. The only file that imports the Runner.

What is patched, and why:

* checkpoints are loaded with ``weights_only=True``; the few types mmengine puts into them are allow-listed;
* checkpoints are written to a temporary name and renamed, and hold random states (`bench.hooks.RandomStateHook`);
* resuming starts the data at the right step instead of fetching every batch once more (`StepLoop`);
* data-parallel training averages gradients in the optimizer wrapper: methods call networks in any order and any number of
  times per step, which DistributedDataParallel's per-forward bookkeeping does not allow;
* an update back-propagates into its own optimizer's parameters alone, so that methods may update in any order;
* each process has library random states of its own.
"""

from __future__ import annotations

import itertools
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.dist import all_reduce, all_reduce_params, broadcast, get_world_size, is_main_process
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import Dataset, Sampler

from bench.config import TrainConfig
from bench.errors import BenchError
from bench.files import disk_full
from bench.hooks import seed_libraries

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


class Steps(Dataset):
    def __init__(self, source: Source) -> None:
        self.source = source
        self.metainfo: dict[str, Any] = {}

    def __getitem__(self, step: int) -> Any:
        return self.source[step]


class StepSampler(Sampler[int]):
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
            try:
                with torch.autocast(runner.device.type, torch.bfloat16, enabled=runner.settings.precision == "bf16"):
                    self.run_iter((runner.source.batch(raw, runner.device), runner.stage))
            except BenchError:
                raise
            except Exception as error:
                error.add_note(f"iteration {self._iter + 1} of stage '{runner.stage}'")
                raise
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model


class ParallelOptimWrapper(OptimWrapper):  # type: ignore[misc]
    """OptimWrapper that updates its own parameters and no others, back-propagates outside autocast, and averages gradients
    over processes before a step.

    Args:
        processes: how many train together; 1 averages nothing.
        **kwargs: mmengine's.

    Attributes:
        steps: how many the optimizer has taken since this was made.
    """

    def __init__(self, processes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.processes, self.steps = processes, 0

    @property
    def waiting(self) -> bool:
        """Whether gradients wait for their update."""
        return bool(self._inner_count % self._accumulative_counts)

    def update_params(
        self, loss: torch.Tensor, step_kwargs: dict[str, Any] | None = None, zero_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Back-propagate into this optimizer's parameters alone; step where it is time to.

        What a loss would leave in other networks never gets there, so none of them learns from it, in whatever order they
        are updated and while their own gradients wait.

        Raises:
            BenchError: none of the parameters takes a gradient.
        """
        own = self._learning()
        if not own:
            raise BenchError("update_params: no parameter of this optimizer takes a gradient. Are they frozen?")
        self.backward(self.scale_loss(loss), inputs=own)
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        with torch.autocast(loss.device.type, enabled=False):
            super().backward(loss, **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Average over processes and step."""
        self.average()
        super().step(**kwargs)
        self.steps += 1
        torch.clear_autocast_cache()  # or a later forward of the iteration takes the cast weights from before this step

    def average(self) -> None:
        """Give every process the mean gradients of all. All of them must call it; one alone has nothing to do.

        They first agree on the parameters that have a gradient anywhere: every process must reduce the same list, and what has
        none stays untouched by the step. That waits for the device. It cannot be left out where a process sees nothing new,
        as another one may, and whether to step a parameter must be known before the step.
        """
        parameters = self._learning() if self.processes > 1 else []
        if not parameters:
            return
        have = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        all_reduce(have, op="sum")
        parameters = [p for p, n in zip(parameters, have.tolist(), strict=True) if n]
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        all_reduce_params([p.grad for p in parameters], coalesce=True, op="mean")

    def _learning(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]


class BenchRunner(Runner):  # type: ignore[misc]
    """mmengine's Runner without what this project does itself (environment report, config dump, model wrapping).

    Args:
        source: training data by step.
        settings: budget and precision.
        device: where to train.
        stage: the training stage.
        processes: how many train together; 1 inside a larger group calls nothing collective.
        **kwargs: mmengine's.
    """

    def __init__(
        self, source: Source, settings: TrainConfig, device: torch.device, stage: str, processes: int, **kwargs: Any
    ) -> None:
        self.source, self.settings, self.device, self.stage, self.processes = source, settings, device, stage, processes
        self.last_saved = ""
        super().__init__(launcher="pytorch" if processes > 1 else "none", **kwargs)

    def setup_env(self, env_cfg: Any) -> None:
        """mmengine's asks all processes for the time, also when this one trains alone."""
        if self.processes == get_world_size():
            super().setup_env(env_cfg)
        else:
            self._rank, self._world_size = 0, 1
            self._timestamp = time.strftime("%Y%m%d_%H%M%S")

    def set_randomness(self, seed: int, *args: Any, **kwargs: Any) -> None:
        """Library random states: the first process's follow from the seed alone, another's from seed and rank."""
        super().set_randomness(seed, *args, **kwargs)
        if self.processes > 1 and self.rank:
            seed_libraries(f"{seed}/rank/{self.rank}")

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """Move the model to its device; gradients are averaged by `ParallelOptimWrapper`."""
        return model.to(self.device)

    def _init_model_weights(self) -> None:
        """Every process starts from the first one's weights. (mmengine's own fails on a module's extra state.)"""
        if self.processes > 1:
            for tensor in itertools.chain(self.model.parameters(), self.model.buffers()):
                broadcast(tensor.data)

    def checkpoint_due(self, done: int) -> bool:
        """True when a checkpoint is written after `done` steps."""
        return done % self.settings.checkpoint_interval == 0 or done == self.max_iters

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint under a temporary name and rename it: a kill leaves the old one whole.

        The first process writes what all have: hooks collect it in ``gather_checkpoint``, which every process calls.
        """
        self.call_hook("gather_checkpoint")
        if not is_main_process():
            return
        temporary, final = Path(out_dir) / f".{filename}.tmp", Path(out_dir) / filename
        try:
            super().save_checkpoint(out_dir, temporary.name, *args, **kwargs)
            os.replace(temporary, final)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            if disk_full(error) or "No space left" in str(error):
                kept = self.last_saved or "none"
                raise BenchError(
                    f"no space left on device while writing checkpoint {final}. Last good checkpoint kept: {kept}. "
                    "Free some space and run the same command again."
                ) from error
            raise
        self.last_saved = str(final)

    def load_checkpoint(self, filename: str, map_location: Any = "cpu", **_: Any) -> Any:
        """Load a checkpoint, all of it: mmengine's own keeps silent about weights that do not fit, and prints the name.

        Everything is read to the CPU and goes where it belongs from there: no second copy on the device.

        Raises:
            BenchError: it is damaged, or holds what only running code could load.
        """
        try:
            checkpoint = torch.load(filename, map_location="cpu", weights_only=True)
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
            self.model.load_state_dict(checkpoint["state_dict"], strict=True)
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise BenchError(
                f"checkpoint {filename} cannot be loaded ({why(error)}). Remove it and run the same command again: training carries "
                "on from the checkpoint before, or starts anew."
            ) from error
        self._has_loaded = True
        return checkpoint

    def _log_env(self, env_cfg: Any) -> None:
        """Records carry the environment; mmengine's report costs seconds."""

    def dump_config(self) -> None:
        """The run's own config.json is the one."""


def why(error: Exception) -> str:
    """What is wrong with a file of tensors, in one line."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or holds more than tensors and plain values"
    return " ".join(str(error).split())[:200] or type(error).__name__
