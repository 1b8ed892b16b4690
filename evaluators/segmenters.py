"""Lung segmenters: architectures, their training, and applying them. Nothing here scores anything.

Every segmenter takes N x 1 x S x S images in [-1, 1] of any side and gives logits of the same side. Inside, images are
brought up (bilinear) to a multiple of 32, at least 192 for CE-Net, whose bottom map would else be smaller than its largest
pooling kernel, and 128 for PSPNet, whose map is an eighth of its input: with 8 x 8 no lung can be outlined. Logits are brought
back to the side of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.checking import check_at_least
from bench.contracts import Draws, OptimWrappers, Trainable
from bench.data.contract import MASK_IGNORE, MASK_LUNG
from bench.data.imageset import ImageSet
from bench.data.sampling import Augment, draw_order, mask_to_model, to_model
from evaluators.cenet import CENet

BoolImages = npt.NDArray[np.bool_]


def _unet() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet34", encoder_weights=None, in_channels=1, classes=1)


def _pspnet() -> nn.Module:
    """At its default depth smp would build stages that nothing uses, and train 1.5 of 21 million parameters."""
    import segmentation_models_pytorch as smp

    net = smp.PSPNet("resnet34", encoder_weights=None, encoder_depth=5, upsampling=8, in_channels=1, classes=1)
    net.encoder.make_dilated(output_stride=8)
    return net


def _vgg() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Unet("vgg16_bn", encoder_weights=None, in_channels=1, classes=1)


@dataclass(frozen=True)
class Arch:
    """An architecture.

    Attributes:
        title: as in tables.
        build: makes it, untrained, with one input channel and one class; it has a child ``encoder``.
        encoder: name of its encoder, as in ``encoder_weights``.
        least: least side of its input, pixels.
        multiple: what its input's side must be a multiple of.
    """

    title: str
    build: Callable[[], nn.Module]
    encoder: str
    least: int = 32
    multiple: int = 32


#: The four of the paper, in its order of mention; ``vgg`` is a U-Net with that encoder, as the paper cites a classifier.
ARCHS: Mapping[str, Arch] = {
    "pspnet": Arch("PSPNet", _pspnet, "resnet34", least=128),
    "unet": Arch("U-Net", _unet, "resnet34"),
    "cenet": Arch("CE-Net", CENet, "resnet34", least=CENet.least),
    "vgg": Arch("VGG", _vgg, "vgg16_bn"),
}
ENCODERS = tuple(sorted({arch.encoder for arch in ARCHS.values()}))


class Segmenter(nn.Module):
    """One of `ARCHS` that takes images of any side."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.arch, self.net = arch, ARCHS[arch].build()

    def forward(self, images: Tensor) -> Tensor:
        """N x 1 x S x S in [-1, 1] -> float32 logits N x 1 x S x S."""
        kind, side = ARCHS[self.arch], images.shape[-1]
        inner = max(kind.least, -(-side // kind.multiple) * kind.multiple)
        if inner == side:
            return self.net(images).float()
        logits = self.net(F.interpolate(images, (inner, inner), mode="bilinear", align_corners=False))
        return F.interpolate(logits.float(), (side, side), mode="bilinear", align_corners=False, antialias=True)


@dataclass
class MaskBatch:
    """What a segmenter learns from in one step.

    Attributes:
        image: N x 1 x S x S in [-1, 1].
        lung: the same shape in {0, 1}.
        decided: the same shape in {0, 1}; 0 where the annotator left it open and nothing may count.
    """

    image: Tensor
    lung: Tensor
    decided: Tensor


@dataclass(frozen=True)
class Distort:
    """Augmentation beyond `Augment`, which all methods share: a segmenter must find lungs of any size in films of any exposure.

    Attributes:
        expand: greatest width of the black margin put around an image before it is cropped, as a share of its side.
        gamma: greatest exponent (and its inverse the least) that grey values are raised to; 1 is off.
        flip: mirror every second image.
    """

    expand: float = 0.0
    gamma: float = 1.0
    flip: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, 0, "expand")
        check_at_least(self, 1, "gamma")

    def pad(self, planes: Sequence[Tensor], draws: Draws, value: int = 0) -> list[Tensor]:
        """Planes 1 x 1 x S x S with a margin of one value, all of the same width."""
        width = round(self.expand * float(draws.uniform("segmentation/expand")) * planes[0].shape[-1])
        return [F.pad(plane, (width,) * 4, value=value) for plane in planes] if width else list(planes)

    def bend(self, image: Tensor, draws: Draws) -> Tensor:
        """Grey values in [-1, 1] through a gamma curve."""
        if self.gamma == 1:
            return image
        exponent = self.gamma ** (2 * float(draws.uniform("segmentation/gamma")) - 1)
        return ((image + 1) / 2).clamp(min=0) ** exponent * 2 - 1

    def mirror(self, planes: Sequence[Tensor], draws: Draws) -> list[Tensor]:
        """All planes, or none."""
        if self.flip and float(draws.uniform("segmentation/flip")) < 0.5:
            return [plane.flip(-1) for plane in planes]
        return list(planes)


NO_DISTORT = Distort()


class MaskBatches:
    """Training data by step: a pure function of (seed, step).

    Args:
        learn: sets with the plane ``lung_mask``, and which of their images to learn from.
        seed: of order and augmentation.
        batch_size: images a step.
        size: side handed to the segmenter.
        augment: geometry and grey values; what turns in from outside the image is its border, in the mask as in the image.
        more: what only segmenters do to their images.
    """

    def __init__(
        self,
        learn: Sequence[tuple[ImageSet, Sequence[int]]],
        seed: int,
        batch_size: int,
        size: int,
        augment: Augment,
        more: Distort = NO_DISTORT,
    ) -> None:
        self.where = [(images, row) for images, rows in learn for row in rows]
        self.seed, self.batch_size, self.size, self.augment, self.more = seed, batch_size, size, augment, more

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Stored values of a step: ``image`` and ``mask`` (lists of S x S arrays; sets may differ in side and depth)."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        chosen = [self.where[draw_order(self.seed, "segmentation", len(self.where), p)] for p in positions]
        return {
            "step": step,
            "image": [_tensor(images.raw([row])) for images, row in chosen],
            "mask": [_tensor(images.raw([row], "lung_mask")) for images, row in chosen],
        }

    def batch(self, raw: dict[str, Any], device: torch.device) -> MaskBatch:
        """What `SegmenterTraining.step` gets. Images go one by one: each has its own place among the step's random numbers."""
        parts = []
        for k, (image, mask) in enumerate(zip(raw["image"], raw["mask"], strict=True)):
            draws = Draws(self.seed, raw["step"], k, 1, self.batch_size)
            known = (mask != MASK_IGNORE).to(torch.uint8) * MASK_LUNG
            # Undecided margins do not exist: what is padded is decided to be no lung, hence the pad of 1 in `known`.
            wide, codes = self.more.pad((image, mask), draws)
            (sure,) = self.more.pad((known,), draws, MASK_LUNG)
            planes = [
                self.more.bend(to_model(wide, self.size, draws, self.augment, device), draws),
                *(mask_to_model(plane, self.size, draws, self.augment, device) for plane in (codes, sure)),
            ]
            parts.append(self.more.mirror(planes, draws))
        return MaskBatch(*(torch.cat(planes) for planes in zip(*parts, strict=True)))


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))[:, None]


class SegmenterTraining(Trainable):
    """Trains a segmenter: Dice and binary cross-entropy, 1:1; AdamW; warm-up, then cosine to 0.

    Args:
        segmenter: what to train.
        lr: greatest learning rate.
        weight_decay: of AdamW.
        warmup: share of the iterations in which the rate rises.
        beta2: decay of AdamW's mean of squared gradients.
    """

    def __init__(self, segmenter: Segmenter, lr: float, weight_decay: float, warmup: float, beta2: float = 0.999) -> None:
        super().__init__()
        self.segmenter, self.lr, self.weight_decay, self.warmup, self.beta2 = segmenter, lr, weight_decay, warmup, beta2
        from segmentation_models_pytorch.losses import DiceLoss

        self.dice = DiceLoss("binary", from_logits=True, smooth=1.0, ignore_index=MASK_IGNORE)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "S": torch.optim.AdamW(
                self.segmenter.parameters(), lr=self.lr, betas=(0.9, self.beta2), weight_decay=self.weight_decay, fused=True
            )
        }  # fmt: skip

    def lr_factor(self, step: int, total: int) -> float:
        """Linear warm-up over the first share, then cosine to 0."""
        warm = max(1, round(total * self.warmup))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, total - warm))))

    def networks(self) -> list[nn.Module]:
        return [self.segmenter]

    def loss(self, logits: Tensor, batch: MaskBatch) -> dict[str, Tensor]:
        """Both terms over decided pixels, and ``loss``, their sum."""
        each = F.binary_cross_entropy_with_logits(logits, batch.lung, reduction="none")
        bce = (each * batch.decided).sum() / batch.decided.sum().clamp(min=1)
        dice = self.dice(logits, torch.where(batch.decided > 0, batch.lung, float(MASK_IGNORE)))
        return {"loss": bce + dice, "bce": bce, "dice": dice}

    def step(self, batch: MaskBatch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        terms = self.loss(self.segmenter(batch.image), batch)
        optim["S"].update_params(terms["loss"])
        return {name: value.detach() for name, value in terms.items()}


@torch.inference_mode()
def segment(
    segmenter: nn.Module, pixels: npt.NDArray[np.uint8], device: torch.device, batch_size: int = 16
) -> BoolImages:
    """Where a segmenter sees lung: probability above one half.

    Args:
        segmenter: in eval mode, on `device`.
        pixels: n x S x S, 8 bits: every image, translated or not, comes in the same quantisation.
        device: where to compute, in full single precision.
        batch_size: images at once.

    Returns:
        n x S x S.
    """
    found = np.zeros(pixels.shape, dtype=np.bool_)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for start in range(0, len(pixels), batch_size):
            chunk = torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch_size])).to(device)
            found[start : start + len(chunk)] = (segmenter(chunk[:, None].float() / 127.5 - 1) > 0)[:, 0].cpu().numpy()
    return found
