"""What UNIT and MUNIT have in common: one generator a domain, which takes images apart into codes and draws images from codes.

A translation draws, with the generator of the other domain, what the generator of the image's own domain found in it. Both
methods learn in both directions at once from images drawn again within their domain (reconstructed), translated, and
translated back; each domain has a multi-scale least-squares discriminator, which judges translations only.

A step updates the discriminators first and then, against the updated ones, the generators. By default one forward makes the
translations for both. Nothing here has batch statistics, so a generator draws all its images in one call.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.contracts import Batch, Draws, Method, OptimWrappers, Translation, frozen
from bench.errors import UsageError
from methods import losses
from methods.networks.patch_disc import MultiScaleDiscriminator, judge

#: The domains, opacity (a) and clear (b), each with the other one.
OTHER = {"a": "b", "b": "a"}

ByDomain = dict[str, Tensor]


@dataclass(frozen=True)
class AutoencodingConfig:
    """Hyper-parameters of both methods; the defaults are those of their published code.

    Attributes:
        adv_w, rec_w, cyc_w: weight of the adversarial terms (of both sides), of images drawn again, of images translated
            there and back (0 leaves the pass out).
        lr, beta1, beta2, weight_decay: Adam, both optimizers; `disc_lr_factor` multiplies the discriminators' rate.
        share_forward: discriminators and generators learn from the same translations. False makes others for the
            discriminators, by a forward with random numbers of its own, as upstream does: the gradients have the same
            expectation, but there is more work to do, and the random stream is another.
        lr_decay, lr_decay_every: factor on the learning rate after every such share of the run. Upstream's 1e5 steps are
            0.1 of its million; 0.4 is the same number of steps in a run of 2.5e5.
        width, n_res, downsamples: generators.
        disc_*: discriminators; take ``disc_init=kaiming`` at small widths.
    """

    adv_w: float = 1.0
    rec_w: float = 10.0
    cyc_w: float = 10.0
    lr: float = 1e-4
    disc_lr_factor: float = 1.0
    beta1: float = 0.5
    beta2: float = 0.999
    weight_decay: float = 1e-4
    share_forward: bool = True
    lr_decay: float = 0.5
    lr_decay_every: float = 0.4
    width: int = 64
    n_res: int = 4
    downsamples: int = 2
    disc_width: int = 64
    disc_layers: int = 4
    disc_scales: int = 3
    disc_init: str = "normal"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, naming the key."""
        self.check_choices(disc_init=("normal", "kaiming"))
        self.check_least(1, "width", "disc_width", "disc_layers", "disc_scales")
        self.check_least(0, "weight_decay", *(f.name for f in fields(self) if f.name.endswith("_w")))
        self.check_most(n_res=64, downsamples=6, beta1=1, beta2=1, lr_decay=1)
        for key in ("lr", "disc_lr_factor", "lr_decay_every"):
            if not getattr(self, key) > 0:
                raise UsageError(f"{key}: {getattr(self, key)} is not above 0.")

    def check_choices(self, **choices: tuple[str, ...]) -> None:
        """Refuse a key whose value is not among those given."""
        for key, known in choices.items():
            if getattr(self, key) not in known:
                raise UsageError(f"{key}: '{getattr(self, key)}' is not one of {', '.join(known)}.")

    def check_least(self, least: float, *keys: str) -> None:
        """Refuse keys whose value is below the limit."""
        for key in keys:
            if not getattr(self, key) >= least:
                raise UsageError(f"{key}: {getattr(self, key)} is less than {least}.")

    def check_most(self, **limits: float) -> None:
        """Refuse a key whose value is below 0 or above the limit given."""
        for key, most in limits.items():
            if not 0 <= getattr(self, key) <= most:
                raise UsageError(f"{key}: {getattr(self, key)} is not between 0 and {most}.")


@dataclass
class Made:
    """What the first forward of the generators made, by domain.

    Attributes:
        fake: images that should look like the domain, translated from the other one, N x C x H x W in [-1, 1].
        rec: the domain's images drawn again; empty where nobody asked.
        content: content codes of the domain's images, N x F x h x w.
        drawn: random style codes that the translations into the domain were drawn with, N x style_dim (MUNIT).
        own: style codes of the domain's images, N x style_dim (MUNIT).
    """

    fake: ByDomain = field(default_factory=dict)
    rec: ByDomain = field(default_factory=dict)
    content: ByDomain = field(default_factory=dict)
    drawn: ByDomain = field(default_factory=dict)
    own: ByDomain = field(default_factory=dict)

    def draw(self, domain: str, decode: Callable[..., Tensor], codes: Sequence[Tensor], own: Sequence[Tensor] = ()) -> None:
        """Draw a domain's translations and, where their codes are given, its own images again, in one call.

        Args:
            domain: the domain.
            decode: its generator's way from codes to images.
            codes: arguments of `decode` for the translations.
            own: arguments for the domain's own images, or nothing.
        """
        sets = [codes, own] if own else [codes]
        self.fake[domain], *again = decode(*(torch.cat(parts) for parts in zip(*sets, strict=True))).chunk(len(sets))
        if again:
            self.rec[domain] = again[0]


class AutoencodingMethod(Method):
    """Optimizers, schedule, step and the terms that both methods have. Subclasses make the images and add their terms.

    Attributes:
        gen: generator of each domain. Its children are the networks that are called.
        disc: discriminator of each domain.
        weights: weight of every generator term, named without its domain.
    """

    license: ClassVar[str] = "Apache-2.0"
    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")

    def __init__(self, config: Any, channels: int, gen: nn.ModuleDict, weights: dict[str, float]) -> None:
        """Take the generators and the weights of the subclass's own terms; build the discriminators."""
        super().__init__(config, channels)
        c = config
        self.gen: Any = gen  # what it holds, subclasses know
        sizes = (c.disc_width, c.disc_layers, c.disc_scales, c.disc_init)
        self.disc = nn.ModuleDict({d: MultiScaleDiscriminator(channels, *sizes) for d in OTHER})
        self.weights = {"g_adv": c.adv_w, "rec": c.rec_w, "cyc": c.cyc_w, **weights}

    def inference_modules(self) -> dict[str, nn.Module]:
        """Both generators: a translation takes a part of each."""
        return {f"gen_{d}": self.gen[d] for d in OTHER}

    def networks(self) -> list[nn.Module]:
        """The parts of the generators, which are called one by one, and the discriminators."""
        return [*(part for generator in self.gen.values() for part in generator.children()), *self.disc.values()]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One Adam for both generators, one for both discriminators."""
        c = self.config
        adam = partial(torch.optim.Adam, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay)
        return {"G": adam(self.gen.parameters(), lr=c.lr), "D": adam(self.disc.parameters(), lr=c.lr * c.disc_lr_factor)}

    def lr_factor(self, step: int, total: int) -> float:
        """Step decay: `lr_decay` after every `lr_decay_every` of the run."""
        return float(self.config.lr_decay ** int(step / max(1.0, self.config.lr_decay_every * total)))

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        """One update of the discriminators, then one of the generators. The log holds the terms unweighted, by domain."""
        source, log = {"a": batch.opacity, "b": batch.clear}, dict[str, Tensor]()
        shared = self.config.share_forward
        made = self.make(source, batch.draws) if shared else self._make_judged(source, batch.draws)
        loss = log["d_total"] = self._discriminator_loss(source, made, log)
        optim["D"].update_params(loss)
        if not shared:
            made = self.make(source, batch.draws)
        # Frozen weights also bypass autocast's cache of cast weights, which would still hold those before the update.
        with frozen(self.disc):
            loss = log["g_total"] = self._generator_loss(source, made, batch.draws, log)
        optim["G"].update_params(loss)
        return {name: value.detach() for name, value in log.items()}

    @torch.no_grad()
    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """Translate N x C x H x W images in [-1, 1]; see `redraw` for what the seeds do."""
        if direction not in self.directions:
            raise UsageError(f"direction: '{direction}' is not one of {', '.join(self.directions)}.")
        return Translation(self.redraw(images, direction[0], seeds))

    @abstractmethod
    def redraw(self, images: Tensor, domain: str, seeds: Sequence[int] | None) -> Tensor:
        """Images of a domain, drawn by the other domain's generator."""

    @abstractmethod
    def make(self, source: ByDomain, draws: Draws, judged: bool = False) -> Made:
        """Translate both domains' images and draw them again within their domain.

        Args:
            source: images of each domain.
            draws: of this step; random numbers are named ``f"{self.prefix(judged)}..."``.
            judged: make the translations only.
        """

    @abstractmethod
    def other_terms(self, source: ByDomain, made: Made, draws: Draws, log: dict[str, Tensor]) -> None:
        """Look at the translations again and log what else generators learn from, each name ending in ``_a`` or ``_b``."""

    def prefix(self, judged: bool) -> str:
        """Start of the random numbers' names: images for the discriminators alone have other ones."""
        return "disc_" if judged else ""

    def _make_judged(self, source: ByDomain, draws: Draws) -> Made:
        # Under no_grad alone, autocast would keep cast weights without a graph and hand them to the generators' forward.
        with torch.no_grad(), frozen(self.gen):
            return self.make(source, draws, judged=True)

    def _discriminator_loss(self, source: ByDomain, made: Made, log: dict[str, Tensor]) -> Tensor:
        for d in OTHER:
            real, fake = judge(self.disc[d], [source[d], made.fake[d].detach()])
            log[f"d_{d}"] = losses.lsgan(real, 1) + losses.lsgan(fake, 0)
        weighted: Tensor = self.config.adv_w * (log["d_a"] + log["d_b"])
        return weighted

    def _generator_loss(self, source: ByDomain, made: Made, draws: Draws, log: dict[str, Tensor]) -> Tensor:
        """The weighted sum of all terms."""
        for d in OTHER:
            log[f"g_adv_{d}"] = losses.lsgan(self.disc[d](made.fake[d]), 1)
        for d, image in made.rec.items():
            log[f"rec_{d}"] = losses.l1(image, source[d])
        self.other_terms(source, made, draws, log)
        terms = [w * log[f"{name}_{d}"] for name, w in self.weights.items() for d in OTHER if f"{name}_{d}" in log]
        return torch.stack(terms).sum()
