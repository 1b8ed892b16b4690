"""Multi-scale patch discriminator of the MUNIT family."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UsageError
from methods.networks.style_content import ReflectionConv, init_kaiming


class MultiScaleDiscriminator(nn.Module):
    """One independent patch discriminator per scale; each next scale sees the input at half the size.

    Every one: `layers` x (k4s2p1 with reflection padding, LeakyReLU), channels doubling from `width`, no norm, then a
    1 x 1 convolution to one map. No sigmoid (least-squares losses).

    Args:
        channels: input channels (twice the image's for a discriminator of pairs).
        width: channels of the first layer.
        layers: strided layers.
        scales: number of discriminators.
        init: ``normal`` is upstream's N(0, 0.02), right for width 64; at small widths it shrinks the signal several-fold a
            layer and the discriminator stays at chance, so take ``kaiming`` (fan in, slope 0.2) there.
        slope: of the activations below 0 (DRIT: 0.01).
    """

    def __init__(
        self, channels: int, width: int = 64, layers: int = 4, scales: int = 3, init: str = "normal", slope: float = 0.2
    ) -> None:
        super().__init__()
        self.halvings = layers + scales - 1
        self.scales = nn.ModuleList([self._patch(channels, width, layers, slope) for _ in range(scales)])
        init_kaiming(self, slope=0.2)
        if init == "normal":
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, 0.0, 0.02)
        elif init != "kaiming":
            raise UsageError(f"disc_init: '{init}' is not one of normal, kaiming.")

    @staticmethod
    def _patch(channels: int, width: int, layers: int, slope: float) -> nn.Sequential:
        steps: list[nn.Module] = []
        for i in range(layers):
            outputs = width << i
            steps += [ReflectionConv(channels, outputs, 4, stride=2, pad=1), nn.LeakyReLU(slope, inplace=True)]
            channels = outputs
        return nn.Sequential(*steps, nn.Conv2d(channels, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Judge N x channels x H x W.

        Returns:
            One map a scale, N x 1 x h x w: 16, 8 and 4 pixels square at 256 with the default sizes.
        """
        if min(x.shape[-2:]) >> self.halvings < 1:
            least = 1 << self.halvings
            raise UsageError(
                f"images of {x.shape[-2]} x {x.shape[-1]} are too small for the discriminator (at least {least}): "
                "lower 'disc_scales' or 'disc_layers'."
            )
        maps = []
        for i, scale in enumerate(self.scales):
            if i:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            maps.append(scale(x))
        return maps


def judge(disc: nn.Module, image_sets: Sequence[Tensor]) -> list[list[Tensor]]:
    """Maps of several image sets of one size in one call (exact: the discriminator has no batch statistics).

    Returns:
        For each image set its maps, one a scale.
    """
    maps: list[Tensor] = disc(torch.cat(list(image_sets)))
    return [list(group) for group in zip(*(m.chunk(len(image_sets)) for m in maps), strict=True)]
