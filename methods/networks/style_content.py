"""Networks of the MUNIT family: content encoder, style encoder, MLP and AdaIN decoder.

A generator splits an image into a content code (a feature map) and a style code (a short vector), and decodes a content code
with any style. Built from the published description: convolutions with bias behind explicit reflection padding, in the order
convolution, norm, activation; kaiming-normal weights (fan in, gain sqrt 2) everywhere, also in front of the tanh; biases 0.

Two rules hold throughout. Norm statistics are taken in float32 whatever the input's type, because a layer norm at full
resolution sums millions of elements. And no norm goes through `F.instance_norm` or the batch-norm trick, which lose
channels-last memory, fail under CPU bf16 autocast and return a view: see `instance_norm`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UsageError

EPS = 1e-5


def wide(x: Tensor) -> Tensor:
    """The tensor in float32 (float64 stays)."""
    return x if x.dtype is torch.float64 else x.float()


def keep_dtype(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function that only moves numbers, without autocast.

    CPU autocast lists reflection padding and upsampling as float32 operations, which doubles the memory traffic of every
    layer for no gain in precision; CUDA autocast leaves them alone.
    """
    if x.dtype is torch.bfloat16 and x.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            return function(x)
    return function(x)


class ReflectionConv(nn.Conv2d):
    """Convolution with bias behind explicit reflection padding (`pad` on each side)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, pad: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        """Convolve N x inputs x H x W."""
        if self.pad:
            x = keep_dtype(lambda t: F.pad(t, (self.pad,) * 4, mode="reflect"), x)
        return super().forward(x)


def instance_norm(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, eps: float = EPS) -> Tensor:
    """Instance norm (biased variance, eps inside the root) followed by an optional scale and shift.

    Eager and in contiguous memory it is a group norm, which on a CPU takes a quarter of the time of separate passes; compiled, or
    in channels-last memory, ``x * factor + offset`` with statistics from `torch.var_mean`, which fuses and keeps the layout.

    Args:
        x: N x F x H x W, any floating type; the result has the same.
        scale: N x F x 1 x 1, or None for 1.
        shift: N x F x 1 x 1, or None for 0.
        eps: added to the variance.
    """
    values = wide(x)
    if values.is_contiguous() and not torch.compiler.is_compiling():
        return _grouped_norm(values, scale, shift, eps).to(x.dtype)
    variance, mean = torch.var_mean(values, dim=(2, 3), correction=0, keepdim=True)
    factor = torch.rsqrt(variance + eps)
    if scale is not None:
        factor = factor * scale.to(values.dtype)
    offset = -mean * factor
    if shift is not None:
        offset = offset + shift.to(values.dtype)
    return torch.addcmul(offset, values, factor).to(x.dtype)


def _grouped_norm(values: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    """Instance norm as a group norm of N x F groups of one channel: one pass forward, one back."""
    n, features = values.shape[:2]
    if scale is None and shift is None:  # no view: an activation may work in place on it
        return F.group_norm(values, features, eps=eps)
    weight, bias = (None if t is None else t.to(values.dtype).expand(n, features, 1, 1).reshape(-1) for t in (scale, shift))
    flat = values.reshape(1, n * features, *values.shape[2:])
    return F.group_norm(flat, n * features, weight, bias, eps).view_as(values)


class LayerNorm(nn.Module):
    """MUNIT's "LN": one mean and one standard deviation a sample over C, H and W, then a scale and shift a channel.

    ``(x - mean) / (std + eps)`` with the unbiased standard deviation and eps outside the root; the scale starts uniform in
    [0, 1). Neither `nn.LayerNorm` nor ``GroupNorm(1, C)`` computes this.
    """

    def __init__(self, channels: int, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.rand(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise N x C x H x W."""
        values = wide(x)
        std, mean = torch.std_mean(values, dim=(1, 2, 3), correction=1, keepdim=True)
        factor = self.scale.view(1, -1, 1, 1) / (std + self.eps)
        return torch.addcmul(self.shift.view(1, -1, 1, 1) - mean * factor, values, factor).to(x.dtype)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with instance norm (AdaIN with parameters given), added to the input; nothing after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ReflectionConv(channels, channels, 3, pad=1)
        self.conv2 = ReflectionConv(channels, channels, 3, pad=1)

    def forward(self, x: Tensor, adain: Tensor | None = None) -> Tensor:
        """Transform N x F x H x W.

        Args:
            x: features.
            adain: N x 4F, or None for plain instance norm: shift and scale of the first norm, then of the second.
        """
        shift1 = scale1 = shift2 = scale2 = None
        if adain is not None:
            shift1, scale1, shift2, scale2 = adain[:, :, None, None].chunk(4, dim=1)
        h = F.relu(instance_norm(self.conv1(x), scale1, shift1))
        return x + instance_norm(self.conv2(h), scale2, shift2)


class ContentEncoder(nn.Module):
    """k7s1p3 C -> width, then `downsamples` x k4s2p1 (doubling), each IN ReLU; `n_res` residual blocks."""

    def __init__(self, channels: int, width: int = 64, downsamples: int = 2, n_res: int = 4) -> None:
        super().__init__()
        self.down = nn.ModuleList([ReflectionConv(channels, width, 7, pad=3)])
        for i in range(downsamples):
            self.down.append(ReflectionConv(width << i, width << (i + 1), 4, stride=2, pad=1))
        self.blocks = nn.Sequential(*(ResidualBlock(width << downsamples) for _ in range(n_res)))
        self.multiple = 1 << downsamples
        init_kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images N x C x H x W in [-1, 1] -> content codes N x (width * s) x H/s x W/s, s = 2^downsamples."""
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            size = f"{x.shape[-2]} x {x.shape[-1]}"
            raise UsageError(f"image size {size} is not a multiple of {self.multiple}: change the size or 'downsamples'.")
        for conv in self.down:
            x = F.relu(instance_norm(conv(x)))
        return self.blocks(x)


class StyleEncoder(nn.Module):
    """k7s1p3 C -> width, 4 x k4s2p1 (the first `downsamples` double), each ReLU without norm; mean over pixels; 1 x 1."""

    def __init__(self, channels: int, width: int = 64, downsamples: int = 2, style_dim: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = [ReflectionConv(channels, width, 7, pad=3), nn.ReLU(inplace=True)]
        for i in range(4):
            inputs, outputs = width << min(i, downsamples), width << min(i + 1, downsamples)
            layers += [ReflectionConv(inputs, outputs, 4, stride=2, pad=1), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(width << downsamples, style_dim, 1)
        init_kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images N x C x H x W in [-1, 1] -> style codes N x style_dim, unbounded."""
        pooled = wide(self.body(x)).mean(dim=(2, 3), keepdim=True)
        return self.head(pooled).flatten(1)


class Decoder(nn.Module):
    """`n_res` residual blocks (AdaIN, or plain IN), nearest x2 and k5s1p2 LN ReLU per level, k7s1p3, tanh everywhere."""

    def __init__(self, outputs: int, width: int = 64, downsamples: int = 2, n_res: int = 4) -> None:
        super().__init__()
        top = width << downsamples
        self.blocks = nn.ModuleList([ResidualBlock(top) for _ in range(n_res)])
        self.up = nn.ModuleList([ReflectionConv(top >> i, top >> (i + 1), 5, pad=2) for i in range(downsamples)])
        self.norms = nn.ModuleList([LayerNorm(top >> (i + 1)) for i in range(downsamples)])
        self.out = ReflectionConv(width, outputs, 7, pad=3)
        self.adain_size = 4 * top * n_res
        init_kaiming(self)

    def forward(self, content: Tensor, adain: Tensor | None = None) -> Tensor:
        """Decode content codes.

        Args:
            content: N x F x h x w.
            adain: N x `adain_size`, block after block, or None for a decoder without style (UNIT).

        Returns:
            N x outputs x H x W in [-1, 1], float32.
        """
        parts = [None] * len(self.blocks) if adain is None else adain.chunk(max(1, len(self.blocks)), dim=1)
        x = content
        for block, part in zip(self.blocks, parts, strict=True):
            x = block(x, part)
        for conv, norm in zip(self.up, self.norms, strict=True):
            x = keep_dtype(lambda t: F.interpolate(t, scale_factor=2, mode="nearest"), x)
            x = F.relu(norm(conv(x)))
        return torch.tanh(wide(self.out(x)))


class StyleMLP(nn.Sequential):
    """Style code N x style_dim -> AdaIN parameters N x outputs: Linear ReLU Linear ReLU Linear."""

    def __init__(self, style_dim: int, outputs: int, hidden: int = 256) -> None:
        super().__init__(
            nn.Linear(style_dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )
        init_kaiming(self)


class StyleGenerator(nn.Module):
    """Generator of MUNIT, ACL-GAN and the paper: content and style encoder, MLP, AdaIN decoder.

    Args:
        channels: image channels C.
        out_channels: C, or C + 1 with the mask as the last channel.
        width: channels of the first convolution.
        n_res: residual blocks of the content encoder, and of the decoder.
        downsamples: halvings of the content code.
        style_dim: length of the style code.
        mlp_dim: hidden width of the MLP.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        width: int = 64,
        n_res: int = 4,
        downsamples: int = 2,
        style_dim: int = 8,
        mlp_dim: int = 256,
    ) -> None:
        super().__init__()
        self.content = ContentEncoder(channels, width, downsamples, n_res)
        self.style = StyleEncoder(channels, width, downsamples, style_dim)
        self.decoder = Decoder(out_channels, width, downsamples, n_res)
        self.mlp = StyleMLP(style_dim, self.decoder.adain_size, mlp_dim)

    def encode_content(self, images: Tensor) -> Tensor:
        """Images N x C x H x W in [-1, 1] -> content codes N x F x h x w."""
        return self.content(images)

    def encode_style(self, images: Tensor) -> Tensor:
        """Images N x C x H x W in [-1, 1] -> style codes N x style_dim."""
        return self.style(images)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """Content codes and style codes -> N x out_channels x H x W in [-1, 1], float32."""
        return self.decoder(content, self.mlp(style))

    def forward(self, images: Tensor, style: Tensor) -> Tensor:
        """Images N x C x H x W re-drawn in the given styles (N x style_dim): N x out_channels x H x W in [-1, 1]."""
        return self.decode(self.encode_content(images), style)


def init_kaiming(module: nn.Module, slope: float = 0.0) -> None:
    """Kaiming-normal weights (fan in, leaky slope) and zero biases for every convolution and linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=slope)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
