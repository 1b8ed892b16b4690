"""What the tests of UNIT and MUNIT share: tiny ones, and batches with known draws."""

from __future__ import annotations

from typing import Any

import torch
from method_tools import DoubleDraws
from torch import Tensor, nn

from bench.contracts import Batch, Draws
from methods.munit import Munit, MunitConfig
from methods.unit import Unit, UnitConfig

SMALL: dict[str, Any] = {
    **{"width": 8, "n_res": 1, "disc_width": 8, "disc_layers": 3, "disc_scales": 2, "disc_init": "kaiming", "lr": 1e-3},
}


def munit(channels: int = 1, **changes: Any) -> Munit:
    torch.manual_seed(0)
    return Munit(MunitConfig(**{**SMALL, "mlp_dim": 16, **changes}), channels)


def unit(channels: int = 1, **changes: Any) -> Unit:
    torch.manual_seed(0)
    return Unit(UnitConfig(**{**SMALL, **changes}), channels)


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


def lsgan(disc: nn.Module, x: Tensor, target: float) -> Tensor:
    return torch.stack([((m - target) ** 2).mean() for m in disc(x)]).sum()
