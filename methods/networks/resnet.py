"""Residual generator of CycleGAN and CUT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.errors import UsageError
from methods.networks.conv import BlurDown, BlurUp, NormActivation, Reflect, init_weights
from methods.networks.style_content import ResidualBlock, wide


class ResnetGenerator(nn.Module):
    """k7s1 C -> width, 2 x k3s2 (doubling), `n_blocks` residual blocks, 2 x transposed k3s2, k7s1, tanh (Zhu et al. 2017).

    IN ReLU after every convolution outside the blocks but the last; reflection padding in front of the k7 and within the
    blocks, zeros elsewhere; no dropout. There are no batch statistics: image sets may share a call.

    The way to the last block is cut into stages whose outputs may be tapped. 0: the image with its 3 pixels of padding; 1 and
    2: the convolutions of the downsampling layers, before their norm; 2 + k: residual block k. At 256, full width and with
    `blur` these are C x 262 x 262, 128 x 256 x 256, 256 x 128 x 128, then 256 x 64 x 64 each. `tap_channels` has their channels.

    Args:
        channels: image channels C, in and out.
        width: channels of the first convolution.
        n_blocks: residual blocks; 9, or 6 for images of 128.
        blur: CUT's anti-aliased form: k3s1 and a blur at every second pixel for k3s2, blurred upsampling and k3s1 for the
            transposed one.
        init: ``normal``, ``xavier`` or ``kaiming``, see `init_weights`.
    """

    def __init__(self, channels: int, width: int = 64, n_blocks: int = 9, blur: bool = False, init: str = "normal") -> None:
        super().__init__()
        two, four, shrink = width << 1, width << 2, [BlurDown()] if blur else []
        down = [nn.Conv2d(inputs, inputs << 1, 3, 1 if blur else 2, 1) for inputs in (width, two)]
        stem = nn.Sequential(nn.Conv2d(channels, width, 7), NormActivation(), down[0])
        middle = nn.Sequential(NormActivation(), *shrink, down[1])
        first = nn.Sequential(NormActivation(), *shrink, *(ResidualBlock(four) for _ in range(min(1, n_blocks))))
        self.stages = nn.ModuleList([Reflect(3), stem, middle, first, *(ResidualBlock(four) for _ in range(1, n_blocks))])
        self.tail = nn.Sequential(
            *self._up(four, blur), *self._up(two, blur), Reflect(3), nn.Conv2d(width, channels, 7)
        )  # fmt: skip
        self.tap_channels = (channels, two, *[four] * (len(self.stages) - 2))
        init_weights(self, init)

    @staticmethod
    def _up(inputs: int, blur: bool) -> list[nn.Module]:
        outputs = inputs >> 1
        transposed = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        layers = [BlurUp(), nn.Conv2d(inputs, outputs, 3, padding=1)] if blur else [transposed]
        return [*layers, NormActivation()]

    def forward(
        self, x: Tensor, taps: Sequence[int] = (), image: bool = True
    ) -> Tensor | list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Redraw images N x C x H x W in [-1, 1], or say what the network sees in them.

        Args:
            x: the images; H and W multiples of 4, at least 8.
            taps: stages whose features are wanted, ascending.
            image: False stops at the last tap.

        Returns:
            Images N x C x H x W in [-1, 1], float32; with taps these and the features, each N x F x h x w; or only the
            features.

        Raises:
            UsageError: the size does not fit.
        """
        if x.shape[-1] % 4 or x.shape[-2] % 4 or min(x.shape[-2:]) < 8:
            raise UsageError(f"image size {x.shape[-2]} x {x.shape[-1]} is not a multiple of 4 from 8 on: change 'size'.")
        seen: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in taps:
                seen.append(x)
                if i == taps[-1] and not image:
                    return seen
        x = torch.tanh(wide(self.tail(x)))
        return (x, seen) if taps else x
