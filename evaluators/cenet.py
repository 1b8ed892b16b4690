"""CE-Net: a U-shaped network with dilated convolutions and multi-kernel pooling at its bottom (Gu et al., IEEE TMI 2019).

Written from the paper's description; the published implementation's parameter count is met to the last weight (29,003,093
with three input channels and one class). Unlike there, the network ends in logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Channels of ResNet-34's last four stages, at 1/4, 1/8, 1/16 and 1/32 of the input.
STAGES = (64, 128, 256, 512)
#: Kernels (and strides) of the residual multi-kernel pooling.
KERNELS = (2, 3, 5, 6)


class DenseAtrous(nn.Module):
    """Dense atrous convolution block: four cascades of dilated convolutions added to their input, receptive fields 3 to 19.

    The cascades share their weights: one 3 x 3 convolution for each of the rates 1, 3 and 5, and one 1 x 1 convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rate1, self.rate3, self.rate5 = (
            nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate) for rate in (1, 3, 5)
        )
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x h x w -> the same shape."""
        first = self.rate1(x)
        third = self.rate3(first)
        branches = (first, self.mix(self.rate3(x)), self.mix(third), self.mix(self.rate5(third)))
        for branch in branches:
            x = x + F.relu(branch)
        return x


class MultiPool(nn.Module):
    """Residual multi-kernel pooling: the map at four scales, each through one shared 1 x 1 convolution to a single channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x h x w -> N x (C + 4) x h x w, h and w at least 6."""
        size = x.shape[-2:]
        scales = [F.interpolate(self.reduce(F.max_pool2d(x, k)), size, mode="bilinear", align_corners=False) for k in KERNELS]
        return torch.cat([*scales, x], dim=1)


def up_block(inputs: int, outputs: int) -> nn.Sequential:
    """Decoder block, twice the side: 1 x 1 to a quarter, 3 x 3 transposed with stride 2, 1 x 1; each with BN and ReLU."""
    inner = inputs // 4
    return nn.Sequential(
        nn.Conv2d(inputs, inner, 1), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
        nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
        nn.Conv2d(inner, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
    )  # fmt: skip


class CENet(nn.Module):
    """CE-Net of one class with a ResNet-34 encoder from scratch.

    Args:
        in_channels: image channels.
    """

    #: Least side of the input: below, the bottom map is smaller than the largest pooling kernel.
    least = 32 * KERNELS[-1]

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        from segmentation_models_pytorch.encoders import get_encoder

        self.encoder = get_encoder("resnet34", in_channels=in_channels, depth=5, weights=None)
        self.dac, self.rmp = DenseAtrous(STAGES[-1]), MultiPool(STAGES[-1])
        widths = (STAGES[-1] + len(KERNELS), *STAGES[2::-1])
        self.decoder = nn.ModuleList(up_block(a, b) for a, b in zip(widths, (*widths[1:], STAGES[0]), strict=True))
        self.head = nn.Sequential(
            nn.ConvTranspose2d(STAGES[0], 32, 4, stride=2, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(32, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """N x in_channels x H x W (multiples of 32, at least 192) -> logits N x 1 x H x W."""
        *_, skip1, skip2, skip3, bottom = self.encoder(images)
        x = self.rmp(self.dac(bottom))
        for block, skip in zip(self.decoder, (skip3, skip2, skip1, None), strict=True):  # the stem has no skip
            x = block(x) if skip is None else block(x) + skip
        logits: Tensor = self.head(x)
        return logits
