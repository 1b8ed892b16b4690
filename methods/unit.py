"""UNIT (Liu et al. 2017, arXiv 1703.00848): two variational autoencoders that meet in one space of codes.

As in the authors' later code, which has no layers in common to both domains: an encoder's code is the mean of a Gaussian of
unit variance, of which decoders see a sample, and its KL divergence from N(0, I) together with the cycle is what makes the
domains share their codes. The perceptual (VGG) term, off in the published recipe, is left out: it needs a network learnt on
photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bench.contracts import Draws, Prior, Translation
from bench.registry import register_method
from methods import losses
from methods.autoencoding import AutoencodingConfig, AutoencodingMethod, Made
from methods.munit_family import OTHER, ByDomain, Terms
from methods.networks.style_content import ContentEncoder, Decoder, wide


@dataclass(frozen=True)
class UnitConfig(AutoencodingConfig):
    """Hyper-parameters; see `AutoencodingConfig`. Without a style, decoders need no residual block.

    Attributes:
        kl_w, kl_cyc_w: weight of the divergence of the codes of images, and of translations.
    """

    kl_w: float = 0.01
    kl_cyc_w: float = 0.01

    least_blocks: ClassVar[int] = 0


class Autoencoder(nn.Module):
    """Content encoder, and a decoder without style.

    Args:
        channels: image channels C.
        width: channels of the first convolution.
        downsamples: halvings of the code.
        n_res: residual blocks of the encoder, and of the decoder.
    """

    def __init__(self, channels: int, width: int = 64, downsamples: int = 2, n_res: int = 4) -> None:
        super().__init__()
        self.encoder = ContentEncoder(channels, width, downsamples, n_res)
        self.decoder = Decoder(channels, width, downsamples, n_res)


def kl(code: Tensor) -> Tensor:
    """Divergence of N(code, I) from N(0, I), times two and a mean over elements: the mean square."""
    return wide(code).square().mean()


@register_method("unit")
class Unit(AutoencodingMethod):
    """Unsupervised image-to-image translation networks."""

    Config: ClassVar[type] = UnitConfig
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Unsupervised Image-to-Image Translation Networks (arXiv 1703.00848)"

    def __init__(self, config: UnitConfig, channels: int, prior: Prior | None = None) -> None:
        """Build two autoencoders and two discriminators; without a use for a prior."""
        c = config
        generators = nn.ModuleDict({d: Autoencoder(channels, c.width, c.downsamples, c.n_res) for d in OTHER})
        super().__init__(c, channels, generators, {"kl": c.kl_w, "kl_cyc": c.kl_cyc_w})

    def redraw(self, images: Tensor, domain: str, seeds: Sequence[int] | None) -> Translation:
        """Decode the mean codes, without noise: nothing is random, and seeds change nothing."""
        return Translation(self.gen[OTHER[domain]].decoder(self.gen[domain].encoder(images)))

    def make(self, source: ByDomain, draws: Draws, judged: bool = False) -> Made:
        """Translate and draw again from the same samples of the codes."""
        made = Made(content={d: self.gen[d].encoder(source[d]) for d in OTHER})
        sampled = {d: sample(code, draws, f"{self.prefix(judged)}code_{d}") for d, code in made.content.items()}
        again = self.config.rec_w and not judged
        for d, o in OTHER.items():
            made.draw(d, self.gen[d].decoder, [sampled[o]], [sampled[d]] if again else [])
        return made

    def other_terms(self, source: ByDomain, made: Made, draws: Draws, log: Terms) -> None:
        """Codes of images and of translations should be near N(0, I); the latter should decode to the image."""
        c = self.config
        for d, o in OTHER.items():
            log[f"kl_{d}"] = kl(made.content[d])
            if c.cyc_w or c.kl_cyc_w:
                code = self.gen[o].encoder(made.fake[o])
                log[f"kl_cyc_{d}"] = kl(code)
            if c.cyc_w:
                log[f"cyc_{d}"] = losses.l1(self.gen[d].decoder(sample(code, draws, f"cycle_{d}")), source[d])


def sample(code: Tensor, draws: Draws, name: str) -> Tensor:
    """Codes N x F x h x w with standard normal noise of their own type."""
    return code + draws.normal_map(name, *code.shape[1:]).to(code)
