"""What the tests of methods share. Import the fixture, too: it keeps a file to one thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from bench.contracts import Method


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These networks are too small to share, and threads that wait for each other crawl on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Recorder(OptimWrapper):  # type: ignore[misc]
    """Back-propagates and keeps the gradients, but takes no step."""

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()
        self.grads = [p.grad.clone() for p in self.optimizer.param_groups[0]["params"]]
        self.optimizer.zero_grad()


def wrappers(method: Method, kind: type[OptimWrapper] = OptimWrapper) -> dict[str, Any]:
    return {name: kind(optimizer=optimizer) for name, optimizer in method.optimizers().items()}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
