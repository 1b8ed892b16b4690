"""CycleGAN (Zhu et al., ICCV 2017): two generators that undo each other, one discriminator a domain.

Least-squares adversarial terms, L1 cycle consistency, and an L1 identity term on images that are in the target domain already.
The generators learn first, from their own forward against frozen discriminators; then the discriminators, from the same images
detached and exchanged with a pool of earlier ones. Nothing here has batch statistics, so image sets share network calls by
stacking: a generator's translation and identity images, a discriminator's real and generated ones.

Published length: 200 epochs at batch 1 of images resized to 286 and cropped to 256; sizes and crops are the preset's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.checking import check_above, check_at_least, check_below_one, check_choice, check_direction, weights
from bench.contracts import Batch, Draws, Method, OptimWrappers, Prior, Translation, frozen
from bench.registry import register_method
from methods import losses
from methods.networks.conv import INITS
from methods.networks.patchgan import PatchGAN
from methods.networks.resnet import ResnetGenerator
from methods.pool import ImagePool

Images = dict[str, Tensor]  # domain the image should look like -> N x C x H x W


@dataclass(frozen=True)
class CycleGANConfig:
    """Hyper-parameters; the defaults are the published recipe.

    Attributes:
        adv_w, cycle_w: loss weights, of the generators; the discriminators' loss has none.
        identity_w: weight of the identity term as a share of `cycle_w`; 0 spares its forward.
        pool_size: earlier images kept a domain for the discriminators.
        lr, beta1, beta2: Adam, both optimizers.
        disc_lr_factor: of the discriminators' learning rate.
        width, n_blocks, init: generators (9 blocks from 256 pixels on, 6 for 128).
        disc_width, disc_layers, disc_init: discriminators. N(0, 0.02) is made for width 64: take ``kaiming`` at small widths.
    """

    adv_w: float = 1.0
    cycle_w: float = 10.0
    identity_w: float = 0.5
    pool_size: int = 50
    lr: float = 2e-4
    disc_lr_factor: float = 1.0
    beta1: float = 0.5
    beta2: float = 0.999
    width: int = 64
    n_blocks: int = 9
    init: str = "normal"
    disc_width: int = 64
    disc_layers: int = 3
    disc_init: str = "normal"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, naming the key."""
        check_choice(self, INITS, "init", "disc_init")
        check_at_least(self, 1, "width", "n_blocks", "disc_width", "disc_layers")
        check_at_least(self, 0, "pool_size", *weights(self))
        check_above(self, 0, "lr", "disc_lr_factor")
        check_below_one(self, "beta1", "beta2")


@register_method("cyclegan")
class CycleGAN(Method):
    """Cycle-consistent translation in both directions."""

    Config: ClassVar[type] = CycleGANConfig
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (ICCV 2017)"
    license: ClassVar[str] = "Apache-2.0"
    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")

    def __init__(self, config: CycleGANConfig, channels: int, prior: Prior | None = None) -> None:
        """Build a generator a direction, a discriminator and a pool a domain."""
        super().__init__(config, channels)
        c = config
        self.gen_ab, self.gen_ba = (self.make_generator() for _ in "ab")
        self.disc = nn.ModuleDict({d: PatchGAN(channels, c.disc_width, c.disc_layers, init=c.disc_init) for d in "ab"})
        self.pool = nn.ModuleDict({d: ImagePool(c.pool_size) for d in "ab"})

    def make_generator(self) -> nn.Module:
        """A generator, called with images N x C x H x W in the range that the method trains in."""
        return ResnetGenerator(self.channels, self.config.width, self.config.n_blocks, init=self.config.init)

    def inference_modules(self) -> dict[str, nn.Module]:
        """The two generators."""
        return {"gen_ab": self.gen_ab, "gen_ba": self.gen_ba}

    def networks(self) -> list[nn.Module]:
        """Generators and discriminators; the pools are no networks."""
        return [self.gen_ab, self.gen_ba, *self.disc.values()]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One Adam for both generators, one for both discriminators."""
        c = self.config
        adam = partial(torch.optim.Adam, betas=(c.beta1, c.beta2))
        generators = nn.ModuleList([self.gen_ab, self.gen_ba])
        return {"G": adam(generators.parameters(), lr=c.lr), "D": adam(self.disc.parameters(), lr=c.lr * c.disc_lr_factor)}

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        """One update of the generators, then one of the discriminators on the images made for it."""
        log = self.update({"a": batch.opacity, "b": batch.clear}, batch.draws, optim)
        return {name: value.detach() for name, value in log.items()}

    def update(self, source: Images, draws: Draws, optim: OptimWrappers) -> dict[str, Tensor]:
        """Both updates on images of each domain; returns the unweighted terms."""
        log = dict[str, Tensor]()
        with frozen(self.disc):
            fake, loss = self._generator_loss(source, log)
        optim["G"].update_params(loss)
        shown = {d: self.pool[d](fake[d].detach(), draws, f"pool_{d}") for d in "ab"}
        loss = log["d_total"] = self.discriminator_loss(source, shown, draws, log)
        optim["D"].update_params(loss)
        return log

    @torch.no_grad()
    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """Translate N x C x H x W images in [-1, 1]; deterministic, `seeds` change nothing."""
        check_direction(direction, self.directions)
        return Translation((self.gen_ab if direction == "a2b" else self.gen_ba)(images))

    def _generator_loss(self, source: Images, log: dict[str, Tensor]) -> tuple[Images, Tensor]:
        """The translations and the generators' loss; the log gets the unweighted terms."""
        c = self.config
        fake, same = Images(), Images()
        for target, origin, generator in (("b", "a", self.gen_ab), ("a", "b", self.gen_ba)):
            if c.identity_w and c.cycle_w:
                fake[target], same[target] = generator(torch.cat([source[origin], source[target]])).chunk(2)
            else:
                fake[target] = generator(source[origin])
        back = {"a": self.gen_ba(fake["b"]), "b": self.gen_ab(fake["a"])}
        loss = torch.zeros((), device=source["a"].device)
        for d in "ab":
            log[f"g_adv_{d}"] = losses.lsgan([self.disc[d](fake[d])], 1)
            log[f"cycle_{d}"] = losses.l1(back[d], source[d])
            loss = loss + c.adv_w * log[f"g_adv_{d}"] + c.cycle_w * log[f"cycle_{d}"]
            if d in same:
                log[f"identity_{d}"] = losses.l1(same[d], source[d])
                loss = loss + c.cycle_w * c.identity_w * log[f"identity_{d}"]
        log["g_total"] = loss
        return fake, loss

    def discriminator_loss(self, source: Images, shown: Images, draws: Draws, log: dict[str, Tensor]) -> Tensor:
        """Half of real against 1 plus generated against 0, summed over domains."""
        for d in "ab":
            real, fake = self.disc[d](torch.cat([source[d], shown[d]])).chunk(2)
            log[f"d_{d}"] = (losses.lsgan([real], 1) + losses.lsgan([fake], 0)) / 2
        return log["d_a"] + log["d_b"]
