"""UVCGAN (Torbunov et al., WACV 2023): CycleGAN with transformer generators that learnt to fill in masked images first.

Losses, pool and order of the updates are CycleGAN's (`methods.cyclegan`), with a gradient penalty for the discriminators. Inside,
images are in [0, 1] and generators end in a sigmoid. This is the first version of the method.

Training has two stages. In ``pretrain`` one generator learns, on both domains, to restore images of which patches were blacked
out; in ``train`` both generators start from what it learnt, against discriminators that are new. Where no flip and no change of
colour means anything, as in radiographs, the published augmentation of the first stage comes down to rotation, brightness and
contrast; the preset's own augmentation is done before, in both stages. What turns into view from outside repeats the border.
Both stages count their steps from 0, so the second begins the stream of images and crops anew; what else a step draws bears names
that the other stage has not.

Published length: 2499 epochs of pretraining (about 54 iterations each, batch 64), then 500 x 2000 iterations at batch 1 of images
resized to 286 and cropped to 256; sizes and crops are the preset's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.checking import check_above, check_at_least, check_below_one
from bench.contracts import Batch, Draws, OptimWrappers, Prior, Translation
from bench.errors import UsageError
from bench.registry import register_method
from methods import losses
from methods.cyclegan import CycleGAN, CycleGANConfig, Images
from methods.networks.style_content import wide
from methods.networks.uvcgan import ViTUNet


@dataclass(frozen=True)
class UVCGANConfig(CycleGANConfig):
    """Hyper-parameters; the defaults are the published recipe (selfie to anime). Others: see `CycleGANConfig`.

    Attributes:
        gp_w, gp_centre: the gradient penalty in the discriminators' loss, see `gradient_penalty`; 0 spares it.
        width, levels: the generators' U-Net: features of the first level, and halvings.
        n_blocks, vit_heads, vit_dim: the generators' transformer: blocks, attention heads, length of a token.
        pretrain: False leaves the first stage out.
        pretrain_share: images of the first stage as a share of the run's budget; the second stage gets the others. 0: the first
            stage takes `pretrain_iterations` and the whole budget is left to the second, as published.
        pretrain_iterations: length of the first stage where `pretrain_share` is 0.
        pretrain_batch: images a domain and iteration in the first stage.
        pretrain_chunk: of these, how many a process takes through the generator at once; more need more memory, and change
            rounding alone. 8 of 512 x 512 pixels keep 15 GB of activations in fp32.
        pretrain_lr: learning rate of the first stage; None: the published 5e-3 x `pretrain_batch` / 512.
        pretrain_beta1, pretrain_beta2, pretrain_decay: AdamW of the first stage.
        pretrain_cycles: times that its rate falls along a cosine, from the learning rate to 1e-5 of that.
        mask_patch, mask_share: side of a patch in pixels (made for images of 256), and the probability that it is blacked out.
        rotate, jitter: augmentation of the first stage: degrees, and relative change of brightness and of contrast, each way.
    """

    lr: float = 1e-4
    beta2: float = 0.99
    width: int = 48
    levels: int = 4
    n_blocks: int = 12
    vit_heads: int = 6
    vit_dim: int = 384
    gp_w: float = 1e-5
    gp_centre: float = 100.0
    pretrain: bool = True
    pretrain_share: float = 0.0
    pretrain_iterations: int = 134_946
    pretrain_batch: int = 64
    pretrain_chunk: int = 8
    pretrain_lr: float | None = None
    pretrain_beta1: float = 0.9
    pretrain_beta2: float = 0.99
    pretrain_decay: float = 0.05
    pretrain_cycles: int = 5
    mask_patch: int = 32
    mask_share: float = 0.4
    rotate: float = 10.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, naming the key."""
        super().__post_init__()
        check_at_least(self, 1, "levels", "vit_heads", "vit_dim", "mask_patch")
        check_at_least(self, 1, "pretrain_iterations", "pretrain_batch", "pretrain_chunk", "pretrain_cycles")
        check_at_least(self, 0, "gp_centre", "pretrain_decay", "rotate")
        if self.pretrain_lr is not None:
            check_above(self, 0, "pretrain_lr")
        check_below_one(self, "pretrain_share", "pretrain_beta1", "pretrain_beta2", "mask_share", "jitter")
        if self.vit_dim % self.vit_heads:
            raise UsageError(f"vit_heads: {self.vit_heads} heads do not divide a token of length {self.vit_dim} (vit_dim).")


@register_method("uvcgan")
class UVCGAN(CycleGAN):
    """Cycle-consistent translation in both directions by pretrained transformer U-Nets."""

    Config: ClassVar[type] = UVCGANConfig
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "UVCGAN: UNet Vision Transformer cycle-consistent GAN for unpaired image-to-image translation (WACV 2023)"
    stages: ClassVar[tuple[str, ...]] = ("pretrain", "train")

    def __init__(self, config: UVCGANConfig, channels: int, prior: Prior | None = None) -> None:
        """Build a generator a direction, a discriminator and a pool a domain."""
        super().__init__(config, channels, prior)
        self.stage = self.stages[-1]

    def make_generator(self) -> nn.Module:
        """A generator, called with images N x C x H x W in [0, 1]."""
        c = self.config
        vit = {"vit_dim": c.vit_dim, "vit_heads": c.vit_heads, "vit_blocks": c.n_blocks}
        return ViTUNet(self.channels, c.width, c.levels, **vit, init=c.init)

    @classmethod
    def budget(cls, config: UVCGANConfig, stage: str, updates: int, batch_size: int) -> tuple[int, int]:
        """Split the budget's images ``updates * batch_size`` between the stages.

        `pretrain_share` of them goes into whole batches of pretraining, all others into whole batches of training, at least one
        of each: together the images of every other method, to less than a batch. A stage that is left out has 0 iterations.
        """
        c, images = config, updates * batch_size
        if not c.pretrain:
            return (0, batch_size) if stage == "pretrain" else (updates, batch_size)
        first, spent = c.pretrain_iterations, 0
        if c.pretrain_share:
            first = max(1, int(c.pretrain_share * images / c.pretrain_batch))
            spent = first * c.pretrain_batch
        return (first, c.pretrain_batch) if stage == "pretrain" else (max(1, (images - spent) // batch_size), batch_size)

    def begin(self, stage: str) -> None:
        """Both generators start the second stage from what one learnt in the first."""
        self.stage = stage
        if stage == "train" and self.config.pretrain:
            self.gen_ba.load_state_dict(self.gen_ab.state_dict())

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """AdamW for one generator; after that one Adam for both, and one for both discriminators."""
        c = self.config
        if self.stage != "pretrain":
            return super().optimizers()
        rate = 5e-3 * c.pretrain_batch / 512 if c.pretrain_lr is None else c.pretrain_lr
        betas = (c.pretrain_beta1, c.pretrain_beta2)
        return {"G": torch.optim.AdamW(self.gen_ab.parameters(), rate, betas, weight_decay=c.pretrain_decay)}

    def lr_factor(self, step: int, total: int) -> float:
        """Pretraining: a cosine from 1 to 1e-5, `pretrain_cycles` times. Training: constant, then linear to 0."""
        if self.stage != "pretrain":
            return super().lr_factor(step, total)
        passed = step * self.config.pretrain_cycles / total % 1
        return 1e-5 + (1 - 1e-5) * (1 + math.cos(math.pi * passed)) / 2

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        """Pretraining: one update of one generator. Training: one of both, then one of the discriminators."""
        source = {"a": (batch.opacity + 1) / 2, "b": (batch.clear + 1) / 2}
        if stage == "pretrain":
            log = dict[str, Tensor]()
            optim["G"].update_params(self._restoration_loss(source, batch.draws, log))
        else:
            log = self.update(source, batch.draws, optim)
        return {name: value.detach() for name, value in log.items()}

    def discriminator_loss(self, source: Images, shown: Images, draws: Draws, log: dict[str, Tensor]) -> Tensor:
        """CycleGAN's, and the gradient penalty."""
        return super().discriminator_loss(source, shown, draws, log) + self._penalty(source, shown, draws, log)

    @torch.no_grad()
    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """Translate N x C x H x W images in [-1, 1]; deterministic, `seeds` change nothing."""
        return Translation(2 * super().translate((images + 1) / 2, direction, seeds).image - 1)

    def _restoration_loss(self, source: Images, draws: Draws, log: dict[str, Tensor]) -> Tensor:
        """Mean absolute error over all pixels, masked and visible, summed over domains.

        The gradient is taken chunk by chunk, so that the activations of one chunk alone are kept: the networks have no batch
        statistics, so the sum is that of the whole batch.
        """
        c, parameters = self.config, list(self.gen_ab.parameters())
        slopes = [torch.zeros_like(p) for p in parameters]
        for d, image in source.items():
            whole = turned(image, draws.uniform(f"rotate_{d}", 1), c.rotate)
            whole = jittered(whole, draws.uniform(f"jitter_{d}", 2), c.jitter)
            seen = whole * visible(whole, draws, f"mask_{d}", c.mask_patch, c.mask_share)
            log[f"restore_{d}"] = whole.new_zeros(())
            for x, y in zip(seen.split(c.pretrain_chunk), whole.split(c.pretrain_chunk), strict=True):
                error = losses.l1(self.gen_ab(x), y) * (len(x) / len(whole))
                log[f"restore_{d}"] += error.detach()
                with torch.autocast(error.device.type, enabled=False):
                    steps = torch.autograd.grad(error, parameters)
                for slope, step in zip(slopes, steps, strict=True):
                    slope.add_(step)
        log["g_total"] = log["restore_a"] + log["restore_b"]
        return with_gradient(log["g_total"], parameters, slopes)

    def _penalty(self, source: Images, shown: Images, draws: Draws, log: dict[str, Tensor]) -> Tensor:
        """The weighted gradient penalty of both discriminators."""
        c, total = self.config, torch.zeros((), device=draws.device)
        for d in "ab" if c.gp_w else "":
            share = draws.uniform(f"penalty_{d}", 1, 1, 1)
            log[f"penalty_{d}"] = gradient_penalty(self.disc[d], source[d], shown[d], share, c.gp_centre)
            total = total + c.gp_w * log[f"penalty_{d}"]
        return total


def with_gradient(value: Tensor, parameters: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """A loss of a known value, scalar, whose gradient is known, too: `slopes`, one of each parameter's shape.

    It goes wherever a loss goes, to be scaled and differentiated there once.
    """
    linear = torch.stack([(p * slope).sum() for p, slope in zip(parameters, slopes, strict=True)]).sum()
    return value + (linear - linear.detach())


def gradient_penalty(disc: nn.Module, real: Tensor, fake: Tensor, share: Tensor, centre: float) -> Tensor:
    """Squared distance of the input gradient's length from `centre`, at random mixtures of real and generated images.

    The gradient is that of the sum of all outputs of an image; its length is the 2-norm over the image. In float32, and past
    torch.compile, whose networks cannot be differentiated twice.

    Args:
        disc: maps images to N x 1 x h x w.
        real, fake: N x C x H x W.
        share: N x 1 x 1 x 1 in [0, 1], of the real image in the mixture.
        centre: the length wanted.

    Returns:
        Scalar >= 0: the mean over images.
    """
    with torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        mixed = torch.lerp(wide(fake.detach()), wide(real.detach()), share.to(wide(real).dtype)).requires_grad_()
        (slope,) = torch.autograd.grad(disc.forward(mixed).sum(), mixed, create_graph=True)
        return (torch.linalg.vector_norm(slope.flatten(1), dim=1) - centre).square().mean()


def visible(images: Tensor, draws: Draws, name: str, patch: int, share: float) -> Tensor:
    """Random masks N x 1 x H x W: 0 in squares of `patch` pixels with probability `share`, else 1.

    Where `patch` does not divide the image, the last row and column of squares are cut off.
    """
    height, width = images.shape[-2:]
    rows, columns = -(-height // patch), -(-width // patch)
    kept = (draws.uniform(name, 1, rows, columns) >= share).to(images.dtype)
    return kept.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[:, :, :height, :width]


def turned(images: Tensor, luck: Tensor, degrees: float) -> Tensor:
    """Images rotated about their centre by up to `degrees` each way; what comes from outside repeats the border.

    Args:
        images: N x C x H x W.
        luck: N x 1 in [0, 1), from one extreme to the other.
        degrees: largest angle.
    """
    if not degrees:
        return images
    height, width = images.shape[-2:]
    # Centres of pixels, in pixels from the middle of the image. Written out: affine_grid multiplies matrices, in bf16 or TF32.
    y = (torch.arange(height, device=images.device, dtype=torch.float32) - (height - 1) / 2)[None, :, None]
    x = (torch.arange(width, device=images.device, dtype=torch.float32) - (width - 1) / 2)[None, None, :]
    angle = (math.radians(degrees) * (2 * luck - 1))[:, :, None]
    cos, sin = angle.cos(), angle.sin()
    grid = torch.stack([(cos * x - sin * y) * (2 / width), (sin * x + cos * y) * (2 / height)], dim=-1)
    with torch.autocast(images.device.type, enabled=False):
        return F.grid_sample(wide(images), grid.to(wide(images).dtype), padding_mode="border", align_corners=False)


def jittered(images: Tensor, luck: Tensor, most: float) -> Tensor:
    """Images of another brightness (times a factor), then contrast (times another, about each image's mean), in [0, 1].

    Args:
        images: N x C x H x W in [0, 1].
        luck: N x 2 in [0, 1): factors from ``1 - most`` to ``1 + most``.
        most: largest relative change.
    """
    bright, steep = (1 + most * (2 * luck - 1))[:, :, None, None, None].unbind(1)
    images = (images * bright).clamp(0, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + steep * (images - mean)).clamp(0, 1)
