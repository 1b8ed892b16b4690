"""What UNIT and MUNIT have in common: one generator a domain, which takes images apart into codes and draws images from codes.

A translation draws, with the generator of the other domain, what the generator of the image's own domain found in it. Both
methods learn in both directions at once from images drawn again within their domain (reconstructed), translated, and
translated back; each domain has a multi-scale least-squares discriminator, which judges translations only. The step is the
family's (`methods.munit_family`); a generator draws all its images in one call.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.contracts import Draws
from methods import losses
from methods.munit_family import OTHER, ByDomain, FamilyConfig, FamilyMethod, Terms
from methods.networks.patch_disc import MultiScaleDiscriminator, judge


@dataclass(frozen=True)
class AutoencodingConfig(FamilyConfig):
    """Hyper-parameters of both methods; see `FamilyConfig`.

    Attributes:
        adv_w, rec_w, cyc_w: weight of the adversarial terms (of both sides: the discriminators' loss has it, too), of images
            drawn again, of images translated there and back (0 leaves the pass out).
    """

    adv_w: float = 1.0
    rec_w: float = 10.0
    cyc_w: float = 10.0


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


class AutoencodingMethod(FamilyMethod):
    """Networks and the terms that both methods have. Subclasses make the images and add their terms.

    Attributes:
        gen: generator of each domain. Its children are the networks that are called.
        disc: discriminator of each domain.
        weights: weight of every generator term, named without its domain.
    """

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

    def generators(self) -> nn.ModuleList:
        """One a domain."""
        return nn.ModuleList(self.gen.values())

    def discriminators(self) -> nn.ModuleList:
        """One a domain."""
        return nn.ModuleList([self.disc])

    @abstractmethod
    def make(self, source: ByDomain, draws: Draws, judged: bool = False) -> Made:
        """Translate both domains' images and, unless they are only judged, draw them again within their domain."""

    @abstractmethod
    def other_terms(self, source: ByDomain, made: Made, draws: Draws, log: Terms) -> None:
        """Look at the translations again and log what else generators learn from, each name ending in ``_a`` or ``_b``."""

    def discriminator_loss(self, source: ByDomain, made: Made, log: Terms) -> Tensor:
        """Real against 1, translations against 0, times `adv_w`."""
        for d in OTHER:
            real, fake = judge(self.disc[d], [source[d], made.fake[d].detach()])
            log[f"d_{d}"] = losses.lsgan(real, 1) + losses.lsgan(fake, 0)
        weighted: Tensor = self.config.adv_w * (log["d_a"] + log["d_b"])
        return weighted

    def generator_loss(self, source: ByDomain, made: Made, draws: Draws, log: Terms) -> Tensor:
        """The weighted sum of all terms; the log gets them by domain."""
        for d in OTHER:
            log[f"g_adv_{d}"] = losses.lsgan(self.disc[d](made.fake[d]), 1)
        for d, image in made.rec.items():
            log[f"rec_{d}"] = losses.l1(image, source[d])
        self.other_terms(source, made, draws, log)
        terms = [w * log[f"{name}_{d}"] for name, w in self.weights.items() for d in OTHER if f"{name}_{d}" in log]
        return torch.stack(terms).sum()
