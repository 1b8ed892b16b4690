"""What the tests of DRIT++ share: a tiny one, its batches, and an optimizer that only looks."""

from __future__ import annotations

from typing import Any

import torch
from method_tools import DoubleDraws
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from bench.contracts import Batch, Draws
from methods.drit import Drit, DritConfig

SMALL: dict[str, Any] = {
    **{"width": 4, "n_res": 1, "mlp_dim": 16, "style_dim": 4, "disc_width": 4, "disc_layers": 2, "disc_scales": 2},
    **{"content_disc_layers": 0, "init": "kaiming", "lr": 1e-3},
}
FULL = 2  # the first step that updates everything


class Recorder(OptimWrapper):  # type: ignore[misc]
    """Back-propagates and keeps loss and gradients, but takes no step."""

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()
        self.loss = loss.detach()
        groups = [group["params"] for group in self.optimizer.param_groups]
        self.grads = [[None if p.grad is None else p.grad.clone() for p in group] for group in groups]
        self.optimizer.zero_grad()


def build(channels: int = 1, seed: int = 0, **changes: Any) -> Drit:
    torch.manual_seed(seed)
    return Drit(DritConfig(**{**SMALL, **changes}), channels)


def make_batch(
    channels: int = 1, step: int = FULL, *, start: int = 0, count: int = 2, total: int = 2, double: bool = False
) -> Batch:
    images = torch.rand(2, total, channels, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 - 1
    if double:
        images = images.double()
    mine = slice(start, start + count)
    return Batch(images[0, mine], images[1, mine], (DoubleDraws if double else Draws)(5, step, start, count, total))


def trained_by(method: Drit, name: str) -> list[nn.Parameter]:
    return list(method.optimizers()[name].param_groups[0]["params"])
