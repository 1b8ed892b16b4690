"""Calibration rows: what a benchmark says about doing nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.contracts import Method, OptimWrappers, Translation
from bench.errors import UsageError
from bench.registry import register_method


@register_method("original")
class Original(Method):
    """The identity: images come back unchanged. Learns nothing, so it has no stage of training."""

    @dataclass(frozen=True)
    class Config:
        """No parameters."""

    stages: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = "untranslated images"
    license: ClassVar[str] = "Apache-2.0"

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """None."""
        return {}

    def step(self, batch: Any, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        """Refused: there is nothing to train."""
        raise UsageError("method 'original' has nothing to train.")

    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """The images themselves, N x C x H x W; no mask."""
        return Translation(images)
