"""What the tests of UVCGAN share: tiny sizes, and transformers that count from the start."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.contracts import Batch, Draws
from methods.uvcgan import UVCGAN, UVCGANConfig

SMALL: dict[str, Any] = {
    **{"width": 8, "levels": 2, "n_blocks": 2, "vit_dim": 16, "vit_heads": 2, "disc_width": 8, "disc_layers": 2},
    **{"init": "kaiming", "disc_init": "kaiming", "pool_size": 4, "mask_patch": 8, "pretrain_batch": 2, "pretrain_cycles": 1},
}


def build(channels: int = 1, double: bool = False, **changes: Any) -> UVCGAN:
    torch.manual_seed(0)
    method = UVCGAN(UVCGANConfig(**{**SMALL, **changes}), channels)
    return method.double() if double else method


def wake(net: nn.Module, weight: float = 0.5) -> None:
    """Let the transformer's blocks count."""
    for name, parameter in net.named_parameters():
        if name.endswith("weight") and parameter.shape == (1,):
            nn.init.constant_(parameter, weight)


def make_batch(step: int = 0, channels: int = 1, double: bool = False, images: int = 2) -> Batch:
    x = torch.rand(2, images, channels, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 - 1
    return Batch(*(x.double() if double else x), Draws(5, step, 0, images, images))
