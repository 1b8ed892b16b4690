"""MUNIT (Huang et al. 2018, arXiv 1804.04732): content that domains share, and a style that each has of its own.

A translation keeps the content code of an image and takes a random style of the other domain; encoding it again should give
back both. The term of images translated there and back (`cyc_w`), optional in the paper and 0 or 10 in the published recipes,
is on: 10 is the recipe for domains of the same structure (summer and winter landscapes), and radiographs are such. The
perceptual (VGG) term, off in these recipes, is left out: it needs a network learnt on photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bench.checking import check_at_least, check_choice
from bench.contracts import Draws, Prior, Translation
from bench.registry import register_method
from methods import losses
from methods.autoencoding import AutoencodingConfig, AutoencodingMethod, Made
from methods.munit_family import OTHER, ByDomain, Terms
from methods.networks.style_content import StyleGenerator
from methods.styles import STYLES, styles_for


@dataclass(frozen=True)
class MunitConfig(AutoencodingConfig):
    """Hyper-parameters; see `AutoencodingConfig`.

    Attributes:
        style: ``fixed`` translates with one style drawn from `style_seed`; ``random``, upstream's default, draws one per
            image from its seed.
        style_rec_w, content_rec_w: weight of the style codes, and of the content codes, that translations give back.
        style_dim, mlp_dim: length of the style code; hidden width of the network that turns it into norm parameters.
    """

    style: str = "fixed"
    style_seed: int = 0
    style_rec_w: float = 1.0
    content_rec_w: float = 1.0
    style_dim: int = 8
    mlp_dim: int = 256

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, naming the key."""
        super().__post_init__()
        check_choice(self, STYLES, "style")
        check_at_least(self, 1, "style_dim", "mlp_dim")


@register_method("munit")
class Munit(AutoencodingMethod):
    """Multimodal unsupervised image-to-image translation."""

    Config: ClassVar[type] = MunitConfig
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Multimodal Unsupervised Image-to-Image Translation (arXiv 1804.04732)"

    def __init__(self, config: MunitConfig, channels: int, prior: Prior | None = None) -> None:
        """Build two generators with style and two discriminators; without a use for a prior."""
        c = config
        sizes = {"width": c.width, "n_res": c.n_res, "downsamples": c.downsamples}
        codes = {"style_dim": c.style_dim, "mlp_dim": c.mlp_dim}
        generators = nn.ModuleDict({d: StyleGenerator(channels, channels, **sizes, **codes) for d in OTHER})
        super().__init__(c, channels, generators, {"style": c.style_rec_w, "content": c.content_rec_w})

    def redraw(self, images: Tensor, domain: str, seeds: Sequence[int] | None) -> Translation:
        """Decode the content codes with the fixed style, or with one per seed if `style` is random."""
        styles = styles_for(images, self.config, seeds)
        return Translation(self.gen[OTHER[domain]].decode(self.gen[domain].encode_content(images), styles))

    def make(self, source: ByDomain, draws: Draws, judged: bool = False) -> Made:
        """Translate with random styles, and draw images again with their own."""
        c = self.config
        made = Made(content={d: self.gen[d].encode_content(source[d]) for d in OTHER})
        made.drawn = {d: draws.normal(f"{self.prefix(judged)}style_{d}", c.style_dim) for d in OTHER}
        if not judged and (c.rec_w or c.cyc_w):
            made.own = {d: self.gen[d].encode_style(source[d]) for d in OTHER}
        again = c.rec_w and not judged
        for d, o in OTHER.items():
            own = [made.content[d], made.own[d]] if again else []
            made.draw(d, self.gen[d].decode, [made.content[o], made.drawn[d]], own)
        return made

    def other_terms(self, source: ByDomain, made: Made, draws: Draws, log: Terms) -> None:
        """Translations should give back their style and content, and with the image's own style the image.

        The content codes to be given back are not detached: encoders may also make them easier to give back.
        """
        c = self.config
        for d, o in OTHER.items():
            if c.style_rec_w:
                log[f"style_{d}"] = losses.l1(self.gen[d].encode_style(made.fake[d]), made.drawn[d])
            if c.content_rec_w or c.cyc_w:
                content = self.gen[o].encode_content(made.fake[o])
                log[f"content_{d}"] = losses.l1(content, made.content[d])
            if c.cyc_w:
                log[f"cyc_{d}"] = losses.l1(self.gen[d].decode(content, made.own[d]), source[d])
