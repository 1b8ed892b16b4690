"""Patch discriminator with instance norm, of CycleGAN, CUT and UVCGAN."""

from __future__ import annotations

from torch import Tensor, nn

from bench.errors import UsageError
from methods.networks.conv import BlurDown, NormActivation, init_weights


class PatchGAN(nn.Module):
    """Every value of the output judges one patch, 70 x 70 pixels with 3 layers (Isola et al. 2017, Zhu et al. 2017).

    `layers` x k4s2p1 (channels doubling from `width` to at most eight times that), one k4s1p1 more, each IN LeakyReLU 0.2 but
    the first, which has no norm; k4s1p1 to one map. Zero padding, biases, no sigmoid. There are no batch statistics: image
    sets may share a call.

    Args:
        channels: image channels.
        width: channels of the first layer.
        layers: layers that halve the size.
        blur: CUT's anti-aliased form: those layers are k4s1p1, and a blur halves the size after the activation.
        init: ``normal``, ``xavier`` or ``kaiming``, see `init_weights`; take ``kaiming`` at small widths.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3, blur: bool = False, init: str = "normal") -> None:
        super().__init__()
        self.least = 3 << layers
        stride = 1 if blur else 2
        steps: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            if blur:
                steps.append(BlurDown())
            inputs, outputs = width * min(1 << (i - 1), 8), width * min(1 << i, 8)
            steps += [nn.Conv2d(inputs, outputs, 4, stride if i < layers else 1, 1), NormActivation(0.2)]
        self.body = nn.Sequential(*steps)
        self.head = nn.Conv2d(width * min(1 << layers, 8), 1, 4, 1, 1)
        init_weights(self, init, slope=0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Judge N x channels x H x W.

        Returns:
            N x 1 x (H / 2^layers - 2) x (W / 2^layers - 2), unbounded: 30 x 30 at 256.

        Raises:
            UsageError: not one patch fits.
        """
        if min(x.shape[-2:]) < self.least:
            size = f"{x.shape[-2]} x {x.shape[-1]}"
            raise UsageError(
                f"images of {size} are too small for the discriminator (at least {self.least}): lower 'disc_layers'."
            )
        return self.head(self.body(x))
