"""What the tests of the paper's method share: a tiny one with a prior of random weights, and its batches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from method_tools import DoubleDraws
from torch import Tensor, nn

from bench.contracts import Batch, Draws, Prior
from methods.ours import Ours, OursConfig

SMALL: dict[str, Any] = {
    **{"width": 8, "n_res": 1, "mlp_dim": 16, "disc_width": 8, "disc_layers": 3, "disc_scales": 2, "disc_init": "kaiming"},
    "lr": 1e-3,
}


class TinyPrior(Prior):
    """Random weights with batch norm; the first finding is always present in images and the third never."""

    findings = ("there", "other", "absent")
    opacity_indices = (0, 2)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 5, stride=4, padding=2)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor([4.0, 0.0, -4.0]))

    def features(self, images: Tensor, relu: bool = True) -> Tensor:
        maps: Tensor = self.norm(self.conv(images))
        return F.relu(maps) if relu else maps

    def classify(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.head(features.mean(dim=(2, 3))))


def build(channels: int = 1, seed: int = 0, **changes: Any) -> Ours:
    torch.manual_seed(seed)
    prior = TinyPrior(channels)
    return Ours(OursConfig(**{**SMALL, **changes}), channels, prior)


def make_batch(
    channels: int = 1, step: int = 0, *, start: int = 0, count: int = 2, total: int = 2, double: bool = False
) -> Batch:
    images = torch.rand(2, total, channels, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 - 1
    if double:
        images = images.double()
    mine = slice(start, start + count)
    draws = (DoubleDraws if double else Draws)(5, step, start, count, total)
    return Batch(images[0, mine], images[1, mine], draws)
