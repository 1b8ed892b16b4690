"""Layers of the CycleGAN family: padding, norm with activation, anti-aliased resampling, weight initialisation.

Convolutions keep their bias also in front of an instance norm, which takes it away again: parameter counts are those of the
publications. Norms follow the rules of `methods.networks.style_content`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UsageError
from methods.networks.style_content import instance_norm, keep_dtype

INITS = ("normal", "xavier", "kaiming")


class Reflect(nn.Module):
    """`pad` reflected pixels on each side."""

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        """N x F x H x W -> N x F x (H + 2 pad) x (W + 2 pad)."""
        return keep_dtype(lambda t: F.pad(t, (self.pad,) * 4, mode="reflect"), x)


class NormActivation(nn.Module):
    """Instance norm, then leaky ReLU (slope 0: ReLU).

    Both keep their output for the backward pass, which is what the next layer keeps anyway; leaky ReLU out of place would keep
    its input, one more tensor for each norm. In place it is safe here: nothing else holds the norm's result, and the norm's own
    backward pass does not need it.
    """

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """N x F x H x W, of any floating type; the result has the same."""
        return F.leaky_relu(instance_norm(x), self.slope, inplace=True) if self.slope else F.relu(instance_norm(x))


class BlurDown(nn.Module):
    """Half the size without aliasing: binomial blur [1, 2, 1] in both directions at every second pixel, reflected edges."""

    def forward(self, x: Tensor) -> Tensor:
        """N x F x H x W -> N x F x ceil(H / 2) x ceil(W / 2)."""
        # Two box filters of side 2 in a row are the binomial.
        return keep_dtype(
            lambda t: F.avg_pool2d(F.avg_pool2d(F.pad(t, (1,) * 4, mode="reflect"), 2, stride=1), 2, stride=2), x
        )


class BlurUp(nn.Module):
    """Twice the size: zeros in between, then blur [1, 3, 3, 1] with replicated edges, which is bilinear interpolation."""

    def forward(self, x: Tensor) -> Tensor:
        """N x F x H x W -> N x F x 2H x 2W."""
        return keep_dtype(lambda t: F.interpolate(t, scale_factor=2, mode="bilinear", align_corners=False), x)


def init_weights(module: nn.Module, init: str, slope: float = 0.0) -> None:
    """Draw the weights of every convolution and linear layer; biases 0.

    Args:
        module: what to initialise.
        init: ``normal`` is N(0, 0.02), made for width 64; ``xavier`` has gain 0.02 (CUT's); ``kaiming`` (inputs of an output)
            keeps the signal's size at any width.
        slope: of the activations, for ``kaiming``.

    Raises:
        UsageError: `init` is none of these.
    """
    if init not in INITS:
        raise UsageError(f"init: '{init}' is not one of {', '.join(INITS)}.")
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        if init == "normal":
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif init == "xavier":
            nn.init.xavier_normal_(layer.weight, gain=0.02)
        else:
            turned = isinstance(layer, nn.ConvTranspose2d)  # such a kernel has its inputs first
            nn.init.kaiming_normal_(layer.weight, a=slope, mode="fan_out" if turned else "fan_in")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
