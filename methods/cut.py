"""CUT and FastCUT (Park et al., ECCV 2020): one generator, and patches that should keep what they show.

An adversarial term makes translations look clear; a contrastive one (PatchNCE) asks of every patch of the translation that it
resembles the patch of the source at its place more than other patches of that source, as the generator's first half and small
MLPs see them. CUT asks the same of images that are clear already. FastCUT leaves that out, weights the contrastive term ten
times more, and mirrors its input in every second step on average.

The generator sees the sources once: the features of that pass are the keys (upstream encodes the sources again, with the same
result), but for mirrored steps, whose keys come from the unmirrored sources. The discriminator learns first, from the detached
images, then generator and MLPs. Nothing here has batch statistics, so image sets share network calls by stacking.

Published length: 400 epochs (FastCUT 200) at batch 1 of images resized to 286 and cropped to 256; while the learning rate
decays, images are resized to 256 and not cropped. Sizes and crops are the preset's and the same for all methods, so this
method gets the preset's crops to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.checking import check_above, check_at_least, check_below_one, check_choice, check_direction, weights
from bench.contracts import Batch, Draws, Method, OptimWrappers, Prior, Translation, frozen
from bench.errors import UsageError
from bench.registry import register_method
from methods import losses
from methods.networks.conv import INITS
from methods.networks.patch_mlp import PatchEmbedding, pick
from methods.networks.patchgan import PatchGAN
from methods.networks.resnet import ResnetGenerator
from methods.networks.style_content import wide

#: What distinguishes FastCUT: key -> CUT's value, FastCUT's.
FAST: dict[str, tuple[Any, Any]] = {
    "nce_w": (1.0, 10.0),
    "identity": (True, False),
    "flip": (False, True),
    "decay_start": (0.5, 0.75),
}  # fmt: skip


@dataclass(frozen=True)
class CUTConfig:
    """Hyper-parameters; the defaults are CUT's published recipe.

    Attributes:
        fast: FastCUT; sets `nce_w`, `identity`, `flip` and `decay_start`.
        adv_w, nce_w: loss weights, of generator and MLPs; the discriminator's loss has none.
        identity: the contrastive term also on clear images; it is then the mean of both.
        flip: mirror the generator's input with probability 0.5 (one draw a step).
        patches, temperature: of the contrastive term: places a feature map, and what similarities are divided by.
        nce_blocks: residual blocks whose outputs are compared, besides the image and both downsampling layers.
        embedding: length of a patch's embedding.
        decay_start: share of the run after which the learning rate falls to 0 linearly.
        lr, beta1, beta2: Adam, all optimizers.
        disc_lr_factor: of the discriminator's learning rate.
        width, n_blocks, init: generator and MLPs.
        disc_width, disc_layers, disc_init: discriminator; take ``kaiming`` for both at small widths.
    """

    fast: bool = False
    adv_w: float = 1.0
    nce_w: float = 1.0
    identity: bool = True
    flip: bool = False
    patches: int = 256
    temperature: float = 0.07
    nce_blocks: tuple[int, ...] = (1, 5)
    embedding: int = 256
    decay_start: float = 0.5
    lr: float = 2e-4
    disc_lr_factor: float = 1.0
    beta1: float = 0.5
    beta2: float = 0.999
    width: int = 64
    n_blocks: int = 9
    init: str = "xavier"
    disc_width: int = 64
    disc_layers: int = 3
    disc_init: str = "xavier"

    def __post_init__(self) -> None:
        """Resolve `fast`; refuse values that mean nothing, naming the key."""
        if self.fast:
            for key, (slow, fast) in FAST.items():
                if getattr(self, key) not in (slow, fast):
                    raise UsageError(f"{key}: fast=true sets this to {fast}; leave it out, or set fast=false and all four.")
                object.__setattr__(self, key, fast)
        check_choice(self, INITS, "init", "disc_init")
        check_at_least(self, 1, "width", "n_blocks", "disc_width", "disc_layers", "embedding")
        if self.patches < 2:
            raise UsageError(f"patches: {self.patches} is less than 2; a patch needs others to differ from.")
        blocks = list(self.nce_blocks)
        if sorted(set(blocks)) != blocks or any(not 1 <= k <= self.n_blocks for k in blocks):
            raise UsageError(
                f"nce_blocks: {blocks} must be ascending numbers of blocks between 1 and n_blocks={self.n_blocks}."
            )
        check_at_least(self, 0, *weights(self))
        check_above(self, 0, "lr", "disc_lr_factor", "temperature")
        check_below_one(self, "beta1", "beta2", "decay_start")


@register_method("cut")
class CUT(Method):
    """Contrastive translation, opacity to clear only."""

    Config: ClassVar[type] = CUTConfig
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Contrastive Learning for Unpaired Image-to-Image Translation (ECCV 2020)"
    license: ClassVar[str] = "Apache-2.0"
    directions: ClassVar[tuple[str, ...]] = ("a2b",)

    def __init__(self, config: CUTConfig, channels: int, prior: Prior | None = None) -> None:
        """Build generator (anti-aliased), MLPs and the discriminator of clear images (anti-aliased)."""
        super().__init__(config, channels)
        c = config
        self.gen = ResnetGenerator(channels, c.width, c.n_blocks, blur=True, init=c.init)
        self.taps = (0, 1, 2, *(2 + k for k in c.nce_blocks))
        self.embed = PatchEmbedding([self.gen.tap_channels[t] for t in self.taps], c.embedding, c.init)
        self.disc = PatchGAN(channels, c.disc_width, c.disc_layers, blur=True, init=c.disc_init)

    def inference_modules(self) -> dict[str, nn.Module]:
        """The generator."""
        return {"gen": self.gen}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One Adam for generator and MLPs (the same as one each), one for the discriminator."""
        c = self.config
        adam = partial(torch.optim.Adam, betas=(c.beta1, c.beta2))
        learners = nn.ModuleList([self.gen, self.embed])
        return {"G": adam(learners.parameters(), lr=c.lr), "D": adam(self.disc.parameters(), lr=c.lr * c.disc_lr_factor)}

    def lr_factor(self, step: int, total: int) -> float:
        """Constant up to `decay_start` of the run, then linear to 0."""
        start = self.config.decay_start * total
        return 1.0 if step < start else max(0.0, 1.0 - (step - start) / max(1.0, total - start))

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        """One update of the discriminator, then one of generator and MLPs, from one pass of the sources."""
        c, log = self.config, dict[str, Tensor]()
        mirrored = c.flip and torch.rand((), generator=batch.draws.generator("flip")).item() < 0.5
        source = torch.cat([batch.opacity, batch.clear]) if c.identity and c.nce_w else batch.opacity
        made, seen = self.gen(source.flip(3) if mirrored else source, self.taps)
        fake = made[: len(batch.opacity)]

        real_map, fake_map = self.disc(torch.cat([batch.clear, fake.detach()])).chunk(2)
        log["d_b"] = (losses.lsgan([real_map], 1) + losses.lsgan([fake_map], 0)) / 2
        optim["D"].update_params(log["d_b"])
        # Frozen weights also bypass autocast's cache of cast weights, which would still hold those before the update.
        with frozen(self.disc):
            log["g_adv_b"] = losses.lsgan([self.disc(fake)], 1)
        loss = c.adv_w * log["g_adv_b"]
        if c.nce_w:
            terms = self._contrast(source, made, seen, mirrored, batch.draws).chunk(len(source) // len(fake))
            for name, term in zip(("nce", "nce_identity"), terms, strict=False):
                log[name] = term.mean()
            loss = loss + c.nce_w * torch.stack([t.mean() for t in terms]).mean()
        log["g_total"] = loss
        optim["G"].update_params(loss)
        return {name: value.detach() for name, value in log.items()}

    @torch.no_grad()
    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """Translate N x C x H x W images in [-1, 1]; deterministic, `seeds` change nothing."""
        check_direction(direction, self.directions)
        return Translation(self.gen(images))

    def _contrast(self, source: Tensor, made: Tensor, seen: list[Tensor], mirrored: bool, draws: Draws) -> Tensor:
        """PatchNCE of each image with its source, averaged over feature maps: one value an image.

        Args:
            source: opacity images, then clear ones with `identity`.
            made: what the generator made of them, or of their mirror images.
            seen: the features of that pass.
            mirrored: which of both.
            draws: the step's random numbers.
        """
        if mirrored:
            with torch.no_grad():
                seen = self.gen(source, self.taps, False)
        shapes = [(f.shape[2], f.shape[3]) for f in seen]
        places = self._places(shapes, len(source) // draws.count, draws, source.device)
        # Keys take no gradient; MLPs frozen, so that autocast does not keep their cast weights without one.
        with torch.no_grad(), frozen(self.embed):
            keys = self.embed([pick(f, p) for f, p in zip(seen, places, strict=True)])
        if mirrored:  # queries at the mirrored places, which is mirroring the features back
            places = [p + (w - 1) - 2 * (p % w) for p, (_, w) in zip(places, shapes, strict=True)]
        features = self.gen(made, self.taps, False)
        queries = self.embed([pick(f, p) for f, p in zip(features, places, strict=True)])
        terms = [patch_nce(q, k, self.config.temperature) for q, k in zip(queries, keys, strict=True)]
        return torch.stack(terms).mean(dim=0)

    def _places(self, shapes: Sequence[tuple[int, int]], sets: int, draws: Draws, device: torch.device) -> list[Tensor]:
        """Random pixels of each feature map, none twice, one row for each image set: the same for all images of the batch."""

        def row(pixels: int, name: str) -> Tensor:
            return distinct(pixels, self.config.patches, draws.generator(name))

        rows = [[row(h * w, f"patches_{i}_{s}") for s in range(sets)] for i, (h, w) in enumerate(shapes)]
        return [torch.stack(r).to(device, non_blocking=True) for r in rows]


def distinct(total: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` different whole numbers below `total` in random order, or all of them where there are no more."""
    if total < 8 * count:
        return torch.randperm(total, generator=generator)[:count]
    drawn = dict[int, None]()  # shuffling all pixels of a large map for a few of them would take milliseconds
    while len(drawn) < count:
        drawn |= dict.fromkeys(torch.randint(total, (count,), generator=generator).tolist())
    return torch.tensor(list(drawn)[:count])


def patch_nce(queries: Tensor, keys: Tensor, temperature: float = 0.07) -> Tensor:
    """Contrastive loss of patches: cross entropy of finding the key of the same place among all keys of the image.

    Args:
        queries: N x P x dim, of length 1.
        keys: of the same shape, without gradient.
        temperature: what the similarities are divided by.

    Returns:
        One value >= 0 an image, log P at chance: N.
    """
    queries, keys = wide(queries), wide(keys.detach())
    with torch.autocast(queries.device.type, enabled=False):
        logits = queries @ keys.transpose(1, 2) / temperature
    own = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return F.cross_entropy(logits.transpose(1, 2), own, reduction="none").mean(dim=1)
