"""The paper's method: lung-opacity removal with adaptive activation masks and cross-domain alignment (arXiv 2503.19860).

ACL-GAN's adversarial-consistency loop A -> B -> A between opacity (A) and clear (B) radiographs, plus

* AASPM: generators also draw a mask m; a translation is ``m * out + (1 - m) * x`` (equation 1), and penalties shape m;
* BAML: masks of images that need no translation should be empty;
* FA and LCA: a frozen finding classifier psi(phi(x)) keeps features alike and takes the opacity findings away.

The paper published no code and leaves details open; `methods.losses` says how each is read. One forward through the
generators serves both steps: discriminators learn from the detached images first, then generators from the attached ones
against the updated discriminators. Nothing here has batch statistics, so image sets share network calls by stacking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from bench.contracts import Batch, FrozenHolder, Method, OptimWrappers, Prior, Translation, frozen
from bench.errors import UsageError
from bench.registry import register_method
from methods import losses
from methods.networks.patch_disc import MultiScaleDiscriminator, judge
from methods.networks.style_content import StyleGenerator

#: Weight of a generated image's adversarial term, by role: ``fake`` crossed domains, ``intra`` stayed (x_A1 of ACL-GAN),
#: ``back`` crossed and came back (x_A2); the latter two share one domain's term.
ROLE_WEIGHT = {"fake": 1.0, "intra": 0.5, "back": 0.5}

Generated = dict[str, dict[str, Translation]]  # domain the image should look like -> role (or "rec") -> image
Jobs = dict[str, tuple[Tensor, Tensor, Tensor | None]]  # role -> content code, style code, image to blend with
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class OursConfig:
    """Hyper-parameters; the paper's where it states them, ACL-GAN's otherwise.

    Attributes:
        aaspm, baml, fa, lca: the paper's modules; `aaspm` off means generators without a mask.
        symmetric, mask_penalty: also run the mirrored loop B -> A -> B; ``acl_gan`` takes that method's own mask penalties.
        style: ``fixed`` translates with one style drawn from `style_seed`; ``random`` draws one per image from its seed.
        *_w: loss weights; `acl_w` multiplies `adv_w` (0 leaves the consistency discriminator out), `style_w` `feature_w`.
        upper, kappa, repulsion_*: equations 2 and 3; `repulsion_tanh` reads the centre in [-1, 1] instead of [0, 1].
        phi_size, phi_relu: side of the classifier's input; align features after its last ReLU (which it pools) or before.
        lca_threshold: source probability of a present finding.
        lr, beta1, beta2, weight_decay: Adam, both optimizers. For short runs (below 5e4 iterations) take betas 0.5, 0.999
            and `disc_lr_factor` (of the discriminators' learning rate) 2.5, so that they are of use sooner.
        g_every: update the generators every so many steps, the discriminators in each (ACL-GAN's own schedule is 2).
        lr_decay, lr_decay_every: factor on the learning rate after every such share of the run (1e5 of 2.5e5 iterations).
        disc_*: discriminators; take ``disc_init=kaiming`` at small widths.
    """

    aaspm: bool = True
    baml: bool = True
    fa: bool = True
    lca: bool = True
    symmetric: bool = False
    mask_penalty: str = "paper"
    style: str = "fixed"
    style_seed: int = 0
    adv_w: float = 2.0
    acl_w: float = 0.2
    rec_w: float = 1.0
    aaspm_w: float = 0.01
    acl_mask_w: float = 0.025
    bam_w: float = 0.1
    feature_w: float = 0.5
    style_w: float = 0.5
    classifier_w: float = 0.5
    upper: float = 0.75
    kappa: float = 175.0
    repulsion_centre: float = 0.1
    repulsion_height: float = 0.2
    repulsion_eps: float = 0.01
    repulsion_tanh: bool = False
    phi_size: int = 256
    phi_relu: bool = True
    lca_threshold: float = 0.5
    lr: float = 1e-4
    disc_lr_factor: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.9999
    weight_decay: float = 1e-4
    g_every: int = 1
    lr_decay: float = 0.5
    lr_decay_every: float = 0.4
    width: int = 64
    n_res: int = 4
    downsamples: int = 2
    style_dim: int = 8
    mlp_dim: int = 256
    disc_width: int = 64
    disc_layers: int = 4
    disc_scales: int = 3
    disc_init: str = "normal"

    def __post_init__(self) -> None:
        """Refuse values and combinations that mean nothing, naming the key."""
        choices = {"mask_penalty": ("paper", "acl_gan"), "style": ("fixed", "random"), "disc_init": ("normal", "kaiming")}
        for key, known in choices.items():
            if getattr(self, key) not in known:
                raise UsageError(f"{key}: '{getattr(self, key)}' is not one of {', '.join(known)}.")
        if not self.aaspm and (self.baml or self.mask_penalty == "acl_gan"):
            raise UsageError(f"{'baml=true' if self.baml else 'mask_penalty=acl_gan'} needs a mask (aaspm=true).")
        for key in ("g_every", "phi_size", "width", "style_dim", "mlp_dim", "disc_width", "disc_layers", "disc_scales"):
            if getattr(self, key) < 1:
                raise UsageError(f"{key}: {getattr(self, key)} is less than 1.")
        for key, most in {"n_res": 64, "downsamples": 6, "beta1": 1, "beta2": 1, "lca_threshold": 1, "lr_decay": 1}.items():
            if not 0 <= getattr(self, key) <= most:
                raise UsageError(f"{key}: {getattr(self, key)} is not between 0 and {most}.")
        for key in ("lr", "disc_lr_factor", "lr_decay_every"):
            if not getattr(self, key) > 0:
                raise UsageError(f"{key}: {getattr(self, key)} is not above 0.")


@register_method("ours")
class Ours(Method):
    """Adaptive activation masks and cross-domain alignment on top of ACL-GAN."""

    Config: ClassVar[type] = OursConfig
    paper: ClassVar[str] = "Unpaired Translation of Chest X-ray Images for Lung Opacity Diagnosis (arXiv 2503.19860)"
    license: ClassVar[str] = "Apache-2.0"
    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")
    needs: ClassVar[frozenset[str]] = frozenset({"prior"})

    def __init__(self, config: OursConfig, channels: int, prior: Prior | None = None) -> None:
        """Build two generators (G_A = `gen_ab`, G_B = `gen_ba`) and the discriminators of domains and of pairs."""
        super().__init__(config, channels)
        c, shape = config, (config.disc_width, config.disc_layers, config.disc_scales, config.disc_init)
        sizes = {"width": c.width, "n_res": c.n_res, "downsamples": c.downsamples}
        generator = partial(StyleGenerator, channels, channels + c.aaspm, style_dim=c.style_dim, mlp_dim=c.mlp_dim, **sizes)
        self.gen_ab, self.gen_ba = generator(), generator()
        self.disc = nn.ModuleDict({d: MultiScaleDiscriminator(channels, *shape) for d in "ab"})
        loops = "" if c.acl_w == 0 else "ab" if c.symmetric else "a"
        self.disc_pair = nn.ModuleDict({d: MultiScaleDiscriminator(2 * channels, *shape) for d in loops})
        #: Which generated images each domain's discriminator judges.
        one_loop: dict[str, tuple[str, ...]] = {"a": ("intra", "back"), "b": ("fake",)}
        self.roles = dict.fromkeys("ab", ("fake", "intra", "back")) if c.symmetric else one_loop
        #: Weight of every generator term in equation 8; what else is logged is only watched.
        self.weights = {
            **{"g_adv_a": c.adv_w, "g_adv_b": c.adv_w, "g_pair": c.adv_w * c.acl_w, "rec": c.rec_w},
            **{"upper": c.aaspm_w, "repulsion": c.aaspm_w, "acl_mask": c.acl_mask_w, "bam": c.bam_w},
            **{"fa_struct": c.feature_w, "fa_style": c.feature_w * c.style_w, "lca": c.classifier_w},
        }
        self.holder: FrozenHolder | None = None
        if self.requires(c):
            if prior is None or (c.lca and not prior.opacity_indices):
                raise UsageError("'ours' needs a prior (lca=true: one with opacity findings), or fa=false and lca=false.")
            self.holder = FrozenHolder(prior)

    @classmethod
    def requires(cls, config: OursConfig) -> frozenset[str]:
        """The prior, unless both alignment terms are off."""
        return cls.needs if config.fa or config.lca else frozenset()

    def inference_modules(self) -> dict[str, nn.Module]:
        """The two generators."""
        return {"gen_ab": self.gen_ab, "gen_ba": self.gen_ba}

    def networks(self) -> list[nn.Module]:
        """The parts of the generators, which are called one by one, and the discriminators."""
        parts = [p for g in (self.gen_ab, self.gen_ba) for p in (g.content, g.style, g.mlp, g.decoder)]
        return [*parts, *self.disc.values(), *self.disc_pair.values()]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One Adam for both generators, one for all discriminators."""
        c = self.config
        adam = partial(torch.optim.Adam, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay)
        generators, discs = nn.ModuleList([self.gen_ab, self.gen_ba]), nn.ModuleList([self.disc, self.disc_pair])
        return {"G": adam(generators.parameters(), lr=c.lr), "D": adam(discs.parameters(), lr=c.lr * c.disc_lr_factor)}

    def lr_factor(self, step: int, total: int) -> float:
        """Step decay: `lr_decay` after every `lr_decay_every` of the run."""
        return float(self.config.lr_decay ** int(step / max(1.0, self.config.lr_decay_every * total)))

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> Terms:
        """One update of the discriminators, then one of the generators, from one forward through the generators."""
        turn = batch.draws.step % self.config.g_every == 0  # of the generators
        with torch.set_grad_enabled(turn):
            source, made, log = {"a": batch.opacity, "b": batch.clear}, self._generate(batch), Terms()
        loss = log["d_total"] = self._discriminator_loss(source, made, log)
        optim["D"].update_params(loss)
        # Frozen weights also bypass autocast's cache of cast weights, which would still hold those before the update.
        if turn:
            with frozen(self.disc, self.disc_pair):
                loss = log["g_total"] = self._generator_loss(source, made, log)
            optim["G"].update_params(loss)
        return {name: value.detach() for name, value in log.items()}

    @torch.no_grad()
    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """Translate N x C x H x W images in [-1, 1] with the fixed style, or with one per seed if `style` is random."""
        if direction not in self.directions:
            raise UsageError(f"direction: '{direction}' is not one of {', '.join(self.directions)}.")
        generator = self.gen_ab if direction == "a2b" else self.gen_ba
        if self.config.style == "fixed" or seeds is None:
            seeds = [self.config.style_seed] * len(images)
        draws = {s: torch.randn(self.config.style_dim, generator=torch.Generator().manual_seed(s)) for s in set(seeds)}
        return self._blend(generator(images, torch.stack([draws[s] for s in seeds]).to(images.device)), images)

    def _generate(self, batch: Batch) -> Generated:
        """The one forward through the generators."""
        a, b, c = batch.opacity, batch.clear, self.config

        def z(name: str) -> Tensor:
            return batch.draws.normal(f"style_{name}", c.style_dim)

        # G_A: x_A to B; x_B in its own style, to be reproduced; x_B in a random one, where the mask should be empty.
        code_a, code_b = self.gen_ab.encode_content(torch.cat([a, b])).chunk(2)
        jobs: Jobs = {"fake": (code_a, z("fake_b"), a)}
        if c.baml or c.symmetric:
            jobs["intra"] = (code_b, z("intra_b"), b)
        if c.rec_w:
            jobs["rec"] = (code_b, self.gen_ab.encode_style(b), None)
        made_b = self._decode(self.gen_ab, jobs)

        # G_B: x_A likewise; and a second image, the translation on its way back or, with two loops, x_B.
        role, second = ("fake", b) if c.symmetric else ("back", made_b["fake"].image)
        code_a, code_second = self.gen_ba.encode_content(torch.cat([a, second])).chunk(2)
        jobs = {"intra": (code_a, z("intra_a"), a), role: (code_second, z(f"{role}_a"), second)}
        if c.rec_w:
            jobs["rec"] = (code_a, self.gen_ba.encode_style(a), None)
        made_a = self._decode(self.gen_ba, jobs)

        if c.symmetric:
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
        """Equation 1; [-1, 1] to [0, 1] is a fixed map, as stretching each mask to its own range would deny empty ones."""
        image = raw[:, : self.channels]
        if background is None or not self.config.aaspm:
            return Translation(image)
        mask = (raw[:, self.channels :] + 1) / 2
        return Translation(mask * image + (1 - mask) * background, mask)

    def _discriminator_loss(self, source: Mapping[str, Tensor], made: Generated, log: Terms) -> Tensor:
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

    def _generator_loss(self, source: Mapping[str, Tensor], made: Generated, log: Terms) -> Tensor:
        """Equation 8; the log gets the unweighted terms."""
        for domain, roles in self.roles.items():
            terms = [losses.lsgan(maps, 1) for maps in judge(self.disc[domain], [made[domain][r].image for r in roles])]
            log[f"g_adv_{domain}"] = torch.stack([ROLE_WEIGHT[r] * t for r, t in zip(roles, terms, strict=True)]).sum()
        if self.disc_pair:
            stayed, returned = self._judge_pairs(source, made, detach=False)
            log["g_pair"] = losses.lsgan(stayed, 1) + losses.lsgan(returned, 0)
        if self.config.rec_w:
            log["rec"] = torch.stack([losses.l1(made[d]["rec"].image, source[d]) for d in "ab"]).sum()
        if self.config.aaspm:
            self._mask_terms(made, log)
        if self.holder is not None:
            self._alignment_terms(source, made, log, cast(Prior, self.holder.module))
        return torch.stack([self.weights[name] * term for name, term in log.items() if name in self.weights]).sum()

    def _mask_terms(self, made: Generated, log: Terms) -> None:
        """Equations 2 to 4. BAML owns the masks of images that stay; without it they are penalised like the others."""
        c = self.config
        masks = {(d, r): cast(Tensor, made[d][r].mask) for d in made for r in made[d] if made[d][r].mask is not None}
        if c.baml:
            log["bam"] = losses.baml(masks["a", "intra"]) + losses.baml(masks["b", "intra"])
        punished = [mask for (_, role), mask in masks.items() if not (c.baml and role == "intra")]
        if c.mask_penalty == "acl_gan":
            log["acl_mask"] = torch.stack([losses.acl_mask(mask) for mask in punished]).sum()
        else:
            shape = (c.repulsion_centre, c.repulsion_height, c.repulsion_eps, c.repulsion_tanh)
            log["upper"] = torch.stack([losses.mask_upper(mask, c.upper, c.kappa) for mask in punished]).mean()
            log["repulsion"] = torch.stack([losses.mask_repulsion(mask, *shape) for mask in punished]).mean()
        log["mask_a"] = masks["b", "fake"].mean()  # of G_A on x_A, then of G_B: a mask that collapsed shows here first
        log["mask_b"] = masks["a", "fake" if c.symmetric else "back"].mean()

    def _alignment_terms(self, source: Mapping[str, Tensor], made: Generated, log: Terms, prior: Prior) -> None:
        """Equations 5 to 7 on (x_A, its translation), from one classifier forward; FA on both loops, LCA on removal only."""
        c, n = self.config, len(source["a"])
        loops = [("a", "b"), ("b", "a")] if c.symmetric and c.fa else [("a", "b")]
        with torch.no_grad():
            before = losses.phi(prior, torch.cat([source[origin] for origin, _ in loops]), c.phi_size, c.phi_relu)
        after = losses.phi(prior, torch.cat([made[target]["fake"].image for _, target in loops]), c.phi_size, c.phi_relu)
        if c.fa:
            log["fa_struct"] = len(loops) * losses.fa_structural(after, before)
            log["fa_style"] = len(loops) * losses.fa_style(after, before)
        if c.lca:
            kept, shown = (losses.psi(prior, features[:n], c.phi_relu) for features in (after, before))
            log["lca"], log["lca_share"] = losses.lca(kept, shown, prior.opacity_indices, c.lca_threshold)
