"""What the tests of methods share. Import the fixture, too: it keeps a file to one thread."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from bench.contracts import Batch, Draws, Method


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These networks are too small to share, and threads that wait for each other crawl on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Recorder(OptimWrapper):  # type: ignore[misc]
    """Back-propagates and keeps loss and gradients, but takes no step."""

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()
        self.loss = loss.detach()
        self.grads = [None if p.grad is None else p.grad.clone() for p in self.optimizer.param_groups[0]["params"]]
        self.optimizer.zero_grad()


class DoubleDraws(Draws):
    """The same numbers in float64; remembers their names."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: list[str] = []

    def normal(self, name: str, *shape: int) -> Tensor:
        self.asked.append(name)
        return super().normal(name, *shape).double()

    def normal_map(self, name: str, *shape: int) -> Tensor:
        self.asked.append(name)
        return super().normal_map(name, *shape).double()


def check_two_runs_of_two_steps(build: Callable[[], Method], batch: Callable[[int], Batch]) -> None:
    """Losses are finite scalars, every network's weights change, and a second run from the start ends with the same.

    Args:
        build: makes the method anew, always alike.
        batch: of a step.
    """
    runs = []
    for _ in range(2):
        method = build()
        start = copy.deepcopy(method.state_dict())
        optim = wrappers(method)
        for step in range(2):
            log = method.step(batch(step), optim, "train")
        assert all(v.ndim == 0 and v.isfinite() and not v.requires_grad for v in log.values())
        runs.append(method.state_dict())
        assert not [name for name, v in runs[-1].items() if name.endswith("weight") and torch.equal(v, start[name])]
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def wrappers(method: Method, kind: type[OptimWrapper] = OptimWrapper, **kwargs: Any) -> dict[str, Any]:
    return {name: kind(optimizer=optimizer, **kwargs) for name, optimizer in method.optimizers().items()}


def count(*modules: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for module in modules for p in module.parameters())
