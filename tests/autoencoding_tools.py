"""What the tests of UNIT and MUNIT share: tiny sizes, batches with known draws, and optimizers that only look."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from bench.contracts import Batch, Draws, Method

SMALL: dict[str, Any] = {
    **{"width": 8, "n_res": 1, "disc_width": 8, "disc_layers": 3, "disc_scales": 2, "disc_init": "kaiming", "lr": 1e-3},
}


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


class SameDraws(DoubleDraws):
    """Gives images for the discriminators alone the noise of the others."""

    def normal(self, name: str, *shape: int) -> Tensor:
        return super().normal(name.removeprefix("disc_"), *shape)

    def normal_map(self, name: str, *shape: int) -> Tensor:
        return super().normal_map(name.removeprefix("disc_"), *shape)


def make_batch(channels: int = 1, step: int = 0, draws: type[Draws] = Draws, start: int = 0, count: int = 2) -> Batch:
    images = torch.rand(2, 2, channels, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 - 1
    if draws is not Draws:
        images = images.double()
    mine = slice(start, start + count)
    return Batch(images[0, mine], images[1, mine], draws(5, step, start, count, 2))


def wrappers(method: Method, kind: type[OptimWrapper] = OptimWrapper) -> dict[str, Any]:
    return {name: kind(optimizer=optimizer) for name, optimizer in method.optimizers().items()}


def lsgan(disc: nn.Module, x: Tensor, target: float) -> Tensor:
    return torch.stack([((m - target) ** 2).mean() for m in disc(x)]).sum()


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())
