"""The adversarial-consistency loop A -> B -> A of ACL-GAN (arXiv 2003.04858) between opacity (A) and clear (B) radiographs.

What ACL-GAN and the paper's method, which builds on it, have in common: two generators with content and style, drawing a mask
or not; discriminators of both domains, and one of pairs that tells (x, x re-drawn within its domain) from (x, x translated
and translated back), so that a translation must keep what it takes to come back; and one step of both sides.

The step is the family's (`methods.munit_family`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.checking import check_at_least, check_choice
from bench.contracts import Draws, Translation
from methods import losses
from methods.munit_family import ByDomain, FamilyConfig, FamilyMethod, Terms
from methods.networks.patch_disc import MultiScaleDiscriminator, judge
from methods.networks.style_content import StyleGenerator
from methods.styles import STYLES, styles_for

#: Weight of a generated image's adversarial term, by role: ``fake`` crossed domains, ``intra`` stayed (x_A1 of ACL-GAN),
#: ``back`` crossed and came back (x_A2); the latter two share one domain's term.
ROLE_WEIGHT = {"fake": 1.0, "intra": 0.5, "back": 0.5}

Generated = dict[str, dict[str, Translation]]  # domain the image should look like -> role (or "rec") -> image
Jobs = dict[str, tuple[Tensor, Tensor, Tensor | None]]  # role -> content code, style code, image to blend with


@dataclass(frozen=True)
class ConsistencyConfig(FamilyConfig):
    """Hyper-parameters of the loop, beside those of `FamilyConfig`; defaults are ACL-GAN's.

    Attributes:
        style: ``fixed`` translates with one style drawn from `style_seed`; ``random`` draws one per image from its seed.
        *_w: loss weights, of the generators; `acl_w` multiplies `adv_w` there (0 leaves the consistency discriminator out), and
            alone weighs that discriminator's own loss against those of the domains, which count as they are.
        g_every: update the generators every so many steps, the discriminators in each.
        style_dim, mlp_dim: length of the style code; hidden width of the network that turns it into norm parameters.
    """

    style: str = "fixed"
    style_seed: int = 0
    adv_w: float = 1.0
    acl_w: float = 0.2
    rec_w: float = 1.0
    g_every: int = 2
    style_dim: int = 8
    mlp_dim: int = 256

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, naming the key."""
        super().__post_init__()
        check_choice(self, STYLES, "style")
        check_at_least(self, 1, "g_every", "style_dim", "mlp_dim")


class ConsistencyMethod(FamilyMethod):
    """Networks, losses and step of the loop. Subclasses add terms of the generators and weigh them.

    Attributes:
        weights: weight of every generator term that counts; what else is logged is only watched.
        roles: generated images that each domain's discriminator judges.
    """

    def __init__(
        self, config: Any, channels: int, *, masked: bool, symmetric: bool = False, stay_clear: bool = False
    ) -> None:
        """Build two generators (G_A = `gen_ab`, G_B = `gen_ba`) and the discriminators of domains and of pairs.

        Args:
            config: a `ConsistencyConfig`.
            channels: of the images.
            masked: generators also draw a mask and blend with their input.
            symmetric: also run the mirrored loop B -> A -> B.
            stay_clear: the subclass also wants clear images re-drawn by G_A (role ``intra`` of domain b).
        """
        super().__init__(config, channels)
        c, shape = config, (config.disc_width, config.disc_layers, config.disc_scales, config.disc_init)
        sizes = {"width": c.width, "n_res": c.n_res, "downsamples": c.downsamples}
        generator = partial(StyleGenerator, channels, channels + masked, style_dim=c.style_dim, mlp_dim=c.mlp_dim, **sizes)
        self.gen_ab, self.gen_ba = generator(), generator()
        self.disc = nn.ModuleDict({d: MultiScaleDiscriminator(channels, *shape) for d in "ab"})
        loops = "" if c.acl_w == 0 else "ab" if symmetric else "a"
        self.disc_pair = nn.ModuleDict({d: MultiScaleDiscriminator(2 * channels, *shape) for d in loops})
        self.masked, self.symmetric, self.stay_clear = masked, symmetric, stay_clear
        one_loop: dict[str, tuple[str, ...]] = {"a": ("intra", "back"), "b": ("fake",)}
        self.roles = dict.fromkeys("ab", ("fake", "intra", "back")) if symmetric else one_loop
        self.weights = {"g_adv_a": c.adv_w, "g_adv_b": c.adv_w, "g_pair": c.adv_w * c.acl_w, "rec": c.rec_w}

    @classmethod
    def budget(cls, config: Any, stage: str, updates: int, batch_size: int) -> tuple[int, int]:
        """The generators take their turn every `g_every` iterations, from the first on."""
        return config.g_every * updates, batch_size

    @classmethod
    def images_seen(cls, config: Any, stage: str, iterations: int, batch_size: int) -> int:
        """Only iterations with a turn of the generators count."""
        return -(-iterations // config.g_every) * batch_size

    def inference_modules(self) -> dict[str, nn.Module]:
        """The two generators."""
        return {"gen_ab": self.gen_ab, "gen_ba": self.gen_ba}

    def generators(self) -> nn.ModuleList:
        """G_A and G_B."""
        return nn.ModuleList([self.gen_ab, self.gen_ba])

    def discriminators(self) -> nn.ModuleList:
        """Those of domains, and of pairs."""
        return nn.ModuleList([self.disc, self.disc_pair])

    def updates_generators(self, step: int) -> bool:
        """Every `g_every`-th step, from the first on."""
        return bool(step % self.config.g_every == 0)

    def redraw(self, images: Tensor, domain: str, seeds: Sequence[int] | None) -> Translation:
        """Translate with the fixed style, or with one per seed if `style` is random."""
        generator = self.gen_ab if domain == "a" else self.gen_ba
        return self._blend(generator(images, styles_for(images, self.config, seeds)), images)

    def make(self, source: ByDomain, draws: Draws, judged: bool = False) -> Generated:
        """The loop, and what stays in its domain; images that are only judged are all that `roles` names."""
        a, b, c = source["a"], source["b"], self.config
        rec, prefix = c.rec_w and not judged, self.prefix(judged)
        stay_b = self.symmetric or (self.stay_clear and not judged)

        def z(name: str) -> Tensor:
            return draws.normal(f"{prefix}style_{name}", c.style_dim)

        # G_A: x_A to B; x_B in its own style, to be reproduced; x_B in a random one.
        code_a, *code_b = self.gen_ab.encode_content(torch.cat([a, b]) if rec or stay_b else a).split(len(a))
        jobs: Jobs = {"fake": (code_a, z("fake_b"), a)}
        if stay_b:
            jobs["intra"] = (code_b[0], z("intra_b"), b)
        if rec:
            jobs["rec"] = (code_b[0], self.gen_ab.encode_style(b), None)
        made_b = self._decode(self.gen_ab, jobs)

        # G_B: x_A likewise; and a second image, the translation on its way back or, with two loops, x_B.
        role, second = ("fake", b) if self.symmetric else ("back", made_b["fake"].image)
        code_a, code_second = self.gen_ba.encode_content(torch.cat([a, second])).chunk(2)
        jobs = {"intra": (code_a, z("intra_a"), a), role: (code_second, z(f"{role}_a"), second)}
        if rec:
            jobs["rec"] = (code_a, self.gen_ba.encode_style(a), None)
        made_a = self._decode(self.gen_ba, jobs)

        if self.symmetric:
            fake_a, fake_b = made_a["fake"].image, made_b["fake"].image
            made_a |= self._decode(self.gen_ba, {"back": (self.gen_ba.encode_content(fake_b), z("back_a"), fake_b)})
            made_b |= self._decode(self.gen_ab, {"back": (self.gen_ab.encode_content(fake_a), z("back_b"), fake_a)})
        return {"a": made_a, "b": made_b}

    def _decode(self, generator: StyleGenerator, jobs: Jobs) -> dict[str, Translation]:
        """Decode all jobs in one call; without an image to blend with, the raw output is wanted."""
        contents, styles, backgrounds = zip(*jobs.values(), strict=True)
        outputs = generator.decode(torch.cat(contents), torch.cat(styles)).chunk(len(jobs))
        return {name: self._blend(raw, x) for name, raw, x in zip(jobs, outputs, backgrounds, strict=True)}

    def _blend(self, raw: Tensor, background: Tensor | None) -> Translation:
        """``m * out + (1 - m) * x``; [-1, 1] to [0, 1] is a fixed map, as stretching each mask would deny empty ones."""
        image = raw[:, : self.channels]
        if background is None or not self.masked:
            return Translation(image)
        mask = (raw[:, self.channels :] + 1) / 2
        return Translation(mask * image + (1 - mask) * background, mask)

    def discriminator_loss(self, source: ByDomain, made: Generated, log: Terms) -> Tensor:
        """Real against 1, generated against 0, of each domain; pairs that stayed against 0, that came back against 1."""
        for domain, roles in self.roles.items():
            real, *fakes = judge(self.disc[domain], [source[domain], *(made[domain][r].image.detach() for r in roles)])
            terms = [losses.lsgan(real, 1) + losses.lsgan(fake, 0) for fake in fakes]
            log[f"d_{domain}"] = torch.stack([ROLE_WEIGHT[r] * t for r, t in zip(roles, terms, strict=True)]).sum()
        loss = log["d_a"] + log["d_b"]
        if self.disc_pair:
            stayed, returned = self._judge_pairs(source, made, detach=True)
            log["d_pair"] = losses.lsgan(stayed, 0) + losses.lsgan(returned, 1)
            log["pair_accuracy"] = (losses.lsgan_accuracy(stayed, 0) + losses.lsgan_accuracy(returned, 1)) / 2
            loss = loss + self.config.acl_w * log["d_pair"]
        return loss

    def _judge_pairs(self, source: Mapping[str, Tensor], made: Generated, detach: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of the consistency discriminators (of all loops) on (x, stayed) and on (x, went and came back)."""
        stayed, returned = list[Tensor](), list[Tensor]()
        for domain, disc in self.disc_pair.items():
            images = [made[domain][role].image for role in ("intra", "back")]
            maps = judge(disc, [torch.cat([source[domain], i.detach() if detach else i], dim=1) for i in images])
            stayed, returned = stayed + maps[0], returned + maps[1]
        return stayed, returned

    def generator_loss(self, source: ByDomain, made: Generated, draws: Draws, log: Terms) -> Tensor:
        """The weighted sum of all terms; the log gets them unweighted."""
        for domain, roles in self.roles.items():
            terms = [losses.lsgan(maps, 1) for maps in judge(self.disc[domain], [made[domain][r].image for r in roles])]
            log[f"g_adv_{domain}"] = torch.stack([ROLE_WEIGHT[r] * t for r, t in zip(roles, terms, strict=True)]).sum()
        if self.disc_pair:
            stayed, returned = self._judge_pairs(source, made, detach=False)
            log["g_pair"] = losses.lsgan(stayed, 1) + losses.lsgan(returned, 0)
        if self.config.rec_w:
            log["rec"] = torch.stack([losses.l1(made[d]["rec"].image, source[d]) for d in "ab"]).sum()
        if self.masked:
            masks = {(d, r): cast(Tensor, made[d][r].mask) for d in made for r in made[d] if made[d][r].mask is not None}
            self.mask_terms(masks, log)
            # of G_A on x_A, then of G_B: a mask that collapsed shows here first
            log["mask_a"] = masks["b", "fake"].mean()
            log["mask_b"] = masks["a", "fake" if self.symmetric else "back"].mean()
        self.other_terms(source, made, log)
        return torch.stack([self.weights[name] * term for name, term in log.items() if name in self.weights]).sum()

    def mask_terms(self, masks: Mapping[tuple[str, str], Tensor], log: Terms) -> None:
        """Add terms of the masks N x 1 x H x W in [0, 1], by (domain, role), to the log. Default: none."""

    def other_terms(self, source: Mapping[str, Tensor], made: Generated, log: Terms) -> None:
        """Add whatever else generators learn from to the log. Default: nothing."""
