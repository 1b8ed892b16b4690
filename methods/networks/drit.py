"""Networks of DRIT and DRIT++: content bodies, attribute encoder, two kinds of decoder, content discriminator.

Both domains share the last block of the content encoder and, in the concatenating variant, the first block of the generator;
the method owns those blocks (`methods.networks.style_content.ResidualBlock`) and calls them between the parts made here.
Norms follow the rules of `methods.networks.style_content`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UsageError
from methods.networks.style_content import EPS, ReflectionConv, ResidualBlock, StyleMLP, instance_norm, wide

#: Slope of every leaky ReLU but the attribute encoder's.
SLOPE = 0.01


class LayerNorm(nn.Module):
    """Standard layer norm over C, H and W (biased variance, eps inside the root), then a scale and shift a channel.

    Not the one of MUNIT, which takes the unbiased deviation and draws its scale.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise N x C x H x W."""
        values = wide(x)
        variance, mean = torch.var_mean(values, dim=(1, 2, 3), correction=0, keepdim=True)
        factor = self.scale.view(1, -1, 1, 1) * torch.rsqrt(variance + EPS)
        return torch.addcmul(self.shift.view(1, -1, 1, 1) - mean * factor, values, factor).to(x.dtype)


class ContentBody(nn.Module):
    """A domain's part of the content encoder: k7s1p3 C -> width LReLU, `downsamples` x k3s2p1 (doubling) IN ReLU, blocks."""

    def __init__(self, channels: int, width: int = 64, downsamples: int = 2, n_res: int = 3) -> None:
        super().__init__()
        self.first = ReflectionConv(channels, width, 7, pad=3)
        self.down = nn.ModuleList(
            [ReflectionConv(width << i, width << (i + 1), 3, stride=2, pad=1) for i in range(downsamples)]
        )
        self.blocks = nn.Sequential(*(ResidualBlock(width << downsamples) for _ in range(n_res)))
        self.multiple = 1 << downsamples

    def forward(self, x: Tensor) -> Tensor:
        """Images N x C x H x W in [-1, 1] -> N x (width * s) x H/s x W/s, s = 2^downsamples."""
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            size = f"{x.shape[-2]} x {x.shape[-1]}"
            raise UsageError(f"image size {size} is not a multiple of {self.multiple}: change the size or 'downsamples'.")
        x = F.leaky_relu(self.first(x), SLOPE)
        for conv in self.down:
            x = F.relu(instance_norm(conv(x)))
        out: Tensor = self.blocks(x)
        return out


class PooledBlock(nn.Module):
    """Residual block that halves the size: LReLU 0.2, k3, LReLU 0.2, k3, mean of 2 x 2; beside it mean of 2 x 2, 1 x 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = ReflectionConv(inputs, inputs, 3, pad=1)
        self.conv2 = ReflectionConv(inputs, outputs, 3, pad=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x inputs x H x W -> N x outputs x H/2 x W/2."""
        h = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))


class AttributeEncoder(nn.Module):
    """A domain's attribute encoder: k4s2p1 C -> width, three blocks to twice, three and four times that; pooled; linear."""

    def __init__(self, channels: int, width: int = 64, style_dim: int = 8) -> None:
        super().__init__()
        self.first = ReflectionConv(channels, width, 4, stride=2, pad=1)
        self.blocks = nn.Sequential(*(PooledBlock(width * i, width * (i + 1)) for i in (1, 2, 3)))
        self.head = nn.Linear(4 * width, 2 * style_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Images N x C x H x W in [-1, 1] -> N x 2 style_dim: means, then logarithms of variances; float32, unbounded."""
        pooled = wide(F.leaky_relu(self.blocks(self.first(x)), 0.2)).mean(dim=(2, 3))
        return wide(self.head(pooled))


class UpConv(nn.Module):
    """Transposed k3s2p1 (twice the size exactly), LN, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        self.norm = LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """N x inputs x H x W -> N x outputs x 2H x 2W."""
        return F.relu(self.norm(self.conv(x)))


class ConcatDecoder(nn.Module):
    """A domain's decoder that is given the attribute code as constant maps in front of every stage.

    Three residual blocks, `downsamples` x `UpConv` (halving the channels), 1 x 1, tanh.
    """

    def __init__(self, channels: int, width: int = 64, downsamples: int = 2, style_dim: int = 8, n_res: int = 3) -> None:
        super().__init__()
        size = (width << downsamples) + style_dim
        self.blocks = nn.Sequential(*(ResidualBlock(size) for _ in range(n_res)))
        self.up = nn.ModuleList()
        for _ in range(downsamples):
            outputs = (size + style_dim) // 2
            self.up.append(UpConv(size + style_dim, outputs))
            size = outputs
        self.out = nn.ConvTranspose2d(size + style_dim, channels, 1)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """N x F x h x w (after the shared block) and N x style_dim -> images N x C x H x W in [-1, 1], float32."""
        x = self.blocks(_beside(content, style))
        for layer in self.up:
            x = layer(_beside(x, style))
        return torch.tanh(wide(self.out(_beside(x, style))))


class FeatureBlock(nn.Module):
    """Residual block of the feature-wise variant: twice k3 IN, then two 1 x 1 with ReLU on (features, code); x is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        both = 2 * channels
        self.convs = nn.ModuleList([ReflectionConv(channels, channels, 3, pad=1) for _ in range(2)])
        self.mixes = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(both, both, 1), nn.ReLU(), nn.Conv2d(both, channels, 1), nn.ReLU()) for _ in range(2)]
        )

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """N x F x h x w with code N x F -> the same shape."""
        h = x
        for conv, mix in zip(self.convs, self.mixes, strict=True):
            h = mix(_beside(instance_norm(conv(h)), code))
        return x + h


class FeatureDecoder(nn.Module):
    """A domain's decoder of the feature-wise variant: an MLP turns the attribute code into one code a block.

    Four `FeatureBlock`, `downsamples` x `UpConv` (halving the channels), 1 x 1, tanh.
    """

    def __init__(
        self, channels: int, width: int = 64, downsamples: int = 2, style_dim: int = 8, n_res: int = 4, mlp_dim: int = 256
    ) -> None:
        super().__init__()
        top = width << downsamples
        self.mlp = StyleMLP(style_dim, top * n_res, mlp_dim)
        self.blocks = nn.ModuleList([FeatureBlock(top) for _ in range(n_res)])
        self.up = nn.Sequential(*(UpConv(top >> i, top >> (i + 1)) for i in range(downsamples)))
        self.out = nn.ConvTranspose2d(width, channels, 1)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Content codes N x F x h x w and N x style_dim -> images N x C x H x W in [-1, 1], float32."""
        x = content
        for block, code in zip(self.blocks, self.mlp(style).chunk(len(self.blocks), dim=1), strict=True):
            x = block(x, code)
        return torch.tanh(wide(self.out(self.up(x))))


class ContentDiscriminator(nn.Module):
    """Tells which domain a content code comes from: `layers` x k7s2p1, k4s1p0, each LReLU, then 1 x 1; no norm, no sigmoid.

    The published text asks for instance norm; the released code never adds it, and its numbers are without.

    Args:
        channels: of the content code, and of every layer.
        layers: strided layers; 3 need codes of at least 53 x 53, 2 of 25, 1 of 11, none of 4.
        shrink: image side over code side, for the message.
    """

    def __init__(self, channels: int, layers: int = 3, shrink: int = 4) -> None:
        super().__init__()
        strided = [ReflectionConv(channels, channels, 7, stride=2, pad=1) for _ in range(layers)]
        steps = [m for conv in (*strided, nn.Conv2d(channels, channels, 4)) for m in (conv, nn.LeakyReLU(SLOPE))]
        self.body = nn.Sequential(*steps, nn.Conv2d(channels, 1, 1))
        self.least, self.shrink = 4, shrink
        for _ in range(layers):
            self.least = 2 * self.least + 3

    def forward(self, codes: Tensor) -> list[Tensor]:
        """Codes N x F x h x w -> one map N x 1 x h' x w' (a single value at 53 to 60), in a list as of one scale."""
        height, width = codes.shape[-2:]
        if min(height, width) < self.least:
            raise UsageError(
                f"images of {height * self.shrink} x {width * self.shrink} are too small for the content discriminator (at "
                f"least {self.least * self.shrink}): lower 'content_disc_layers'."
            )
        return [self.body(codes)]


def initialise(module: nn.Module, init: str) -> None:
    """Draw the weights of every convolution anew; its biases, and linear layers, get PyTorch's own distribution.

    Args:
        module: what to initialise.
        init: ``normal`` is upstream's N(0, 0.02), right for width 64; ``kaiming`` (fan in, gain sqrt 2) keeps the signal of
            the layers without norm (attribute encoder, discriminators) at any width.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.reset_parameters()
            if init == "normal":
                nn.init.normal_(layer.weight, 0.0, 0.02)
            else:  # a transposed kernel has its inputs first
                nn.init.kaiming_normal_(layer.weight, mode="fan_out" if isinstance(layer, nn.ConvTranspose2d) else "fan_in")


def _beside(x: Tensor, code: Tensor) -> Tensor:
    """Features N x F x h x w with a code N x D as D constant maps behind them."""
    maps = code.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, maps], dim=1)
