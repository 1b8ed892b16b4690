"""Generator of UVCGAN: a U-Net whose lowest level passes through a vision transformer, pixel by pixel.

Convolutions have a bias and pad zeros; a norm stands in front of its convolution and a leaky ReLU behind. Norms follow the rules
of `methods.networks.style_content`. Attention works on tokens of any number: their positions are computed from the size of the
feature map, so weights fit every image size (the published code stores the positions and thereby fixes the size).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UsageError
from methods.networks.conv import init_weights
from methods.networks.style_content import instance_norm, keep_dtype, wide

SLOPE = 0.01


class ConvPair(nn.Module):
    """Twice: instance norm, k3, leaky ReLU."""

    def __init__(self, inputs: int, between: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, between, 3, padding=1)
        self.conv2 = nn.Conv2d(between, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """N x inputs x H x W -> N x outputs x H x W."""
        x = F.leaky_relu(self.conv1(instance_norm(x)), SLOPE)
        return F.leaky_relu(self.conv2(instance_norm(x)), SLOPE)


class Attention(nn.Module):
    """Multi-head self-attention: one projection to queries, keys and values, and one of the result."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """N x L x dim -> N x L x dim."""
        # N x L x 3 dim -> 3 x N x heads x L x dim / heads
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention, then a two-layer perceptron, each behind a layer norm and added to the tokens with the same weight.

    That weight is learnt and starts at 0 (ReZero, Bachlechner et al. 2021): at first a block hands its tokens on.
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor) -> Tensor:
        """N x L x dim, float32, also under autocast: the sum of all blocks is kept wide."""
        tokens = tokens + self.weight * wide(self.attention(self.norm1(tokens)))
        return tokens + self.weight * wide(self.mlp(self.norm2(tokens)))


class PixelViT(nn.Module):
    """Transformer over the pixels of a feature map, which learn from each other wherever they lie.

    A token is a pixel's features joined with ``sin(W (x, y) + b)`` of its coordinates in [-1, 1], projected to `dim`.

    Args:
        features: of the map.
        dim: length of a token, and of its position's code.
        heads: attention heads; they divide `dim`.
        blocks: transformer blocks.
    """

    def __init__(self, features: int, dim: int = 384, heads: int = 6, blocks: int = 12) -> None:
        super().__init__()
        if dim % heads:
            raise UsageError(f"vit_heads: {heads} heads do not divide a token of length {dim} (vit_dim).")
        self.position = nn.Linear(2, dim)
        self.enter = nn.Linear(dim + features, dim)
        self.blocks = nn.Sequential(*(TransformerBlock(dim, heads, 4 * dim) for _ in range(blocks)))
        self.leave = nn.Linear(dim, features)

    def positions(self, height: int, width: int) -> Tensor:
        """Codes of all pixels, row by row: 1 x height * width x dim, float32 (bf16 would merge neighbours)."""
        weight = self.position.weight
        y, x = (torch.linspace(-1, 1, side, device=weight.device, dtype=weight.dtype) for side in (height, width))
        at = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
        with torch.autocast(weight.device.type, enabled=False):
            return torch.sin(self.position(at))[None]

    def forward(self, x: Tensor) -> Tensor:
        """N x features x h x w -> the same."""
        n, _, height, width = x.shape
        codes = self.positions(height, width).expand(n, -1, -1)
        tokens = self.enter(torch.cat([codes, x.flatten(2).transpose(1, 2).to(codes.dtype)], dim=2))
        tokens = self.leave(self.blocks(wide(tokens)))
        return tokens.transpose(1, 2).unflatten(2, (height, width))


class ViTUNet(nn.Module):
    """UVCGAN's generator (Torbunov et al. 2023).

    k3 C -> width, leaky ReLU. `levels` times down: `ConvPair` (its output is the skip), k2s2; features double from level to
    level. The transformer. `levels` times up: nearest x2 and k3, joined with the skip, `ConvPair`. 1 x 1 to C, sigmoid.

    Args:
        channels: image channels C.
        width: features of the first level.
        levels: halvings.
        vit_dim, vit_heads, vit_blocks: see `PixelViT`.
        init: of convolutions and linear layers, see `init_weights`; projections to queries, keys and values are xavier uniform.
    """

    def __init__(
        self,
        channels: int,
        width: int = 48,
        levels: int = 4,
        *,
        vit_dim: int = 384,
        vit_heads: int = 6,
        vit_blocks: int = 12,
        init: str = "normal",
    ) -> None:
        super().__init__()
        features = [width << i for i in range(levels)]
        above = [width, *features[:-1]]  # features that a level gets, and hands back
        self.multiple = 1 << levels
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.encode = nn.ModuleList([ConvPair(a, f, f) for a, f in zip(above, features, strict=True)])
        self.shrink = nn.ModuleList([nn.Conv2d(f, f, 2, stride=2) for f in features])
        self.vit = PixelViT(features[-1], vit_dim, vit_heads, vit_blocks)
        self.grow = nn.ModuleList([nn.Conv2d(f, f, 3, padding=1) for f in features])
        self.decode = nn.ModuleList([ConvPair(2 * f, f, a) for a, f in zip(above, features, strict=True)])
        self.leave = nn.Conv2d(width, channels, 1)
        init_weights(self, init, SLOPE)
        for module in self.vit.modules():
            if isinstance(module, Attention):
                nn.init.xavier_uniform_(module.qkv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Translate N x C x H x W in [0, 1]; the result, float32, is in [0, 1], too.

        Raises:
            UsageError: the image cannot be halved so often.
        """
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            size = f"{x.shape[-2]} x {x.shape[-1]}"
            raise UsageError(f"image size {size} is not a multiple of {self.multiple}: change the size or 'levels'.")
        x = F.leaky_relu(self.enter(x), SLOPE)
        skips: list[Tensor] = []
        for encode, shrink in zip(self.encode, self.shrink, strict=True):
            skips.append(encode(x))
            x = shrink(skips[-1])
        x = self.vit(x)
        for skip, grow, decode in reversed(list(zip(skips, self.grow, self.decode, strict=True))):
            x = grow(keep_dtype(lambda t: F.interpolate(t, scale_factor=2, mode="nearest"), x))
            x = decode(torch.cat([x, skip], dim=1))
        return torch.sigmoid(wide(self.leave(x)))
