"""Style codes of translations: one for all images, or one for each seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Values of the key ``style``.
STYLES = ("fixed", "random")


def style_codes(seeds: Sequence[int], style_dim: int) -> Tensor:
    """Standard normal style codes, len(seeds) x style_dim, each a function of its seed alone."""
    drawn = {s: torch.randn(style_dim, generator=torch.Generator().manual_seed(s)) for s in set(seeds)}
    return torch.stack([drawn[s] for s in seeds])


def styles_for(images: Tensor, config: Any, seeds: Sequence[int] | None) -> Tensor:
    """The codes to translate N images with, N x style_dim, on their device.

    Args:
        images: the images.
        config: has `style` (``fixed`` or ``random``), `style_seed` and `style_dim`.
        seeds: one an image; without effect where the style is fixed. None means the fixed style.
    """
    if config.style == "fixed" or seeds is None:
        seeds = [config.style_seed] * len(images)
    return style_codes(seeds, config.style_dim).to(images.device)
