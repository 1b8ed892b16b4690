"""DRIT++: disentangled representations with a content discriminator and mode seeking (Lee et al., IJCV 2020); DRIT without.

An image is split into a content code, which a discriminator keeps from telling its domain, and an attribute code, which is
pulled towards N(0, I). Half of each batch is encoded, exchanged between the domains, and exchanged back (cross-cycle); the
other half is what translations with random attributes are compared with. A budget counts encoded images, so batches hold twice
the preset's. Two of three iterations train the content discriminator alone. A: opacity, B: clear.

The step is the released code's with one forward for all updates, as there. Every norm is per sample, so image sets share
network calls by stacking, and generator calls of the two generator losses are kept apart: neither backward passes through
the other's images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from bench.checking import (
    check_above,
    check_at_least,
    check_below_one,
    check_choice,
    check_direction,
    check_within,
    weights,
)
from bench.contracts import Batch, Draws, Method, OptimWrappers, Translation, frozen
from bench.errors import UsageError
from bench.registry import register_method
from methods import losses
from methods.munit_family import OTHER, ByDomain, Terms
from methods.networks.drit import (
    SLOPE,
    AttributeEncoder,
    ConcatDecoder,
    ContentBody,
    ContentDiscriminator,
    FeatureDecoder,
    initialise,
)
from methods.networks.patch_disc import MultiScaleDiscriminator, judge
from methods.networks.style_content import ResidualBlock, StyleEncoder
from methods.styles import STYLES, styles_for


@dataclass(frozen=True)
class DritConfig:
    """Hyper-parameters of the released DRIT++.

    Attributes:
        mode_seeking: push translations with different attributes apart; off is DRIT.
        concat: attribute codes are Gaussian and enter the generator as constant maps; off is the feature-wise variant
            (deterministic attribute encoder, code mixed into every block).
        d_iter: iterations for one full update; the others train the content discriminator alone.
        style: ``fixed`` translates with one attribute code drawn from `style_seed`; ``random`` draws one per image from its
            seed.
        *_w: weights in the generators' losses (those of the discriminators have none): of adversarial terms (`adv_w`),
            content-adversarial ones, cross-cycle, self-reconstruction, the pull of attribute codes (`kl_w`) and content codes
            (`code_w`), regression of random attributes, mode seeking.
        lr, beta1, beta2, weight_decay: Adam; `disc_lr_factor` and `content_disc_lr_factor` are of `lr`.
        content_clip: largest gradient norm of the content discriminator.
        n_res: residual blocks of a domain's content encoder; one more is shared.
        content_disc_layers: strided layers of the content discriminator; 3 need images of 212 pixels (at `downsamples` 2),
            1 works from 44.
        init: ``normal``, or ``kaiming`` for small widths.
    """

    mode_seeking: bool = True
    concat: bool = True
    d_iter: int = 3
    style: str = "fixed"
    style_seed: int = 0
    adv_w: float = 1.0
    content_adv_w: float = 1.0
    cycle_w: float = 10.0
    self_w: float = 10.0
    kl_w: float = 0.01
    code_w: float = 0.01
    latent_w: float = 10.0
    mode_w: float = 1.0
    lr: float = 1e-4
    disc_lr_factor: float = 1.0
    content_disc_lr_factor: float = 0.4
    content_clip: float = 5.0
    beta1: float = 0.5
    beta2: float = 0.999
    weight_decay: float = 1e-4
    width: int = 64
    n_res: int = 3
    downsamples: int = 2
    style_dim: int = 8
    mlp_dim: int = 256
    disc_width: int = 64
    disc_layers: int = 4
    disc_scales: int = 3
    content_disc_layers: int = 3
    init: str = "normal"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, naming the key."""
        check_choice(self, STYLES, "style")
        check_choice(self, ("normal", "kaiming"), "init")
        sizes = ("width", "style_dim", "mlp_dim", "disc_width", "disc_layers", "disc_scales")
        check_at_least(self, 1, "d_iter", *sizes)
        check_at_least(self, 0, "weight_decay", *weights(self))
        check_above(self, 0, "lr", "disc_lr_factor", "content_disc_lr_factor", "content_clip")
        check_below_one(self, "beta1", "beta2")
        check_within(self, 0, 64, "n_res")
        check_within(self, 0, 6, "downsamples")
        check_within(self, 0, 8, "content_disc_layers")


class TwoStepAdam(torch.optim.Adam):
    """Adam that takes two steps an update, the second with gradients of their own for some of the parameters.

    DRIT steps its content encoder and generator twice with one Adam state: with the gradient of the reconstruction losses,
    then with that of the losses on random attributes, both at the weights before the first step. (The released code runs the
    second backward after the first step, through weights that no longer are what the graph saved; PyTorch refuses that
    since 1.5.) Adding the losses up would be another method: one update of the moments, and the attribute encoder would
    learn from the second loss.

    The second gradients travel as gradients of stand-ins: zero tensors, one for each parameter that steps twice, in a
    parameter group of their own. So one ``update_params(first_loss + optimizer.second(gradients))`` does everything, and
    whatever is done to gradients in between (accumulation over steps, averaging over processes, saving) is done to both
    sets alike.

    Args:
        twice: parameters that take both steps.
        once: parameters that take the first only.
        options: Adam's.
    """

    def __init__(self, twice: Iterable[nn.Parameter], once: Iterable[nn.Parameter], **options: Any) -> None:
        self.twice = list(twice)
        self.stand_ins = [torch.zeros_like(p, requires_grad=True) for p in self.twice]
        groups: list[dict[str, Any]] = [{"params": [*self.twice, *once]}, {"params": self.stand_ins}]
        super().__init__(groups, **options)

    def second(self, gradients: Sequence[Tensor]) -> Tensor:
        """A loss of value 0 that hands the second step its gradients, one for each parameter of `twice`."""
        parts = [(stand_in * g.detach()).sum() for stand_in, g in zip(self.stand_ins, gradients, strict=True)]
        return torch.stack(parts).sum()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Both steps; the second is left out where it was given no gradients."""
        gradients = [stand_in.grad for stand_in in self.stand_ins]
        for stand_in in self.stand_ins:
            stand_in.grad = None  # they stay zero
        super().step()
        if all(g is None for g in gradients):
            return
        for p in self.param_groups[0]["params"]:
            p.grad = None
        for p, g in zip(self.twice, gradients, strict=True):
            p.grad = g
        super().step()


@register_method("drit")
class Drit(Method):
    """Content and attribute codes, content discriminator, cross-cycle, mode seeking."""

    Config: ClassVar[type] = DritConfig
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "DRIT++: Diverse Image-to-Image Translation via Disentangled Representations (arXiv 1905.01270)"
    license: ClassVar[str] = "Apache-2.0"
    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")

    def __init__(self, config: DritConfig, channels: int, prior: Any = None) -> None:
        """Build encoders, decoders, and discriminators: two a domain (of encoded and of random attributes), one of codes."""
        super().__init__(config, channels)
        c, top = config, config.width << config.downsamples
        size = {"width": c.width, "downsamples": c.downsamples, "style_dim": c.style_dim}
        self.content = nn.ModuleDict({d: ContentBody(channels, c.width, c.downsamples, c.n_res) for d in "ab"})
        self.content_shared = ResidualBlock(top)
        self.attribute, self.decoder = nn.ModuleDict(), nn.ModuleDict()
        for d in "ab":
            if c.concat:
                self.attribute[d] = AttributeEncoder(channels, c.width, c.style_dim)
                self.decoder[d] = ConcatDecoder(channels, **size)
            else:
                self.attribute[d] = StyleEncoder(channels, **size)
                self.decoder[d] = FeatureDecoder(channels, **size, mlp_dim=c.mlp_dim)
        self.decoder_shared = ResidualBlock(top) if c.concat else nn.Identity()
        disc = partial(MultiScaleDiscriminator, channels, c.disc_width, c.disc_layers, c.disc_scales, slope=SLOPE)
        self.disc = nn.ModuleDict({name: disc() for name in ("a", "b", "a2", "b2")})
        self.disc_content = ContentDiscriminator(top, c.content_disc_layers, 1 << c.downsamples)
        initialise(self, c.init)
        #: Weights of the generators' terms by their name, ``*`` for the domain: those of the first step, of the second.
        self.first = {"g_adv_*": c.adv_w, "g_content_*": c.content_adv_w, "cycle_*": c.cycle_w, "self_*": c.self_w}
        self.first |= {"kl_*": c.kl_w, "code_*": c.code_w}
        self.then = {"g_adv_*2": c.adv_w, "latent_*": c.latent_w, "mode_*": c.mode_w}

    @classmethod
    def budget(cls, config: DritConfig, stage: str, updates: int, batch_size: int) -> tuple[int, int]:
        """`d_iter` iterations for one update of the generators, each of twice the images: half of a batch is encoded."""
        return updates * config.d_iter, 2 * batch_size

    @classmethod
    def images_seen(cls, config: DritConfig, stage: str, iterations: int, batch_size: int) -> int:
        """Encoded images of the full updates; what only discriminators saw does not count."""
        return iterations // config.d_iter * (batch_size // 2)

    @classmethod
    def check_share(cls, config: DritConfig, images: int) -> None:
        """A process halves its share: an even number of images."""
        _check_even(images)

    def inference_modules(self) -> dict[str, nn.Module]:
        """Content encoder and generator."""
        return {name: getattr(self, name) for name in ("content", "content_shared", "decoder", "decoder_shared")}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam for the generators, for the image discriminators, and for the content discriminator (its gradient clipped).

        Upstream has one Adam a network; Adam works value by value, so those with equal settings may share one.
        """
        c = self.config
        options = {"betas": (c.beta1, c.beta2), "weight_decay": c.weight_decay}
        twice = [p for module in self.inference_modules().values() for p in module.parameters()]
        content = torch.optim.Adam(self.disc_content.parameters(), lr=c.lr * c.content_disc_lr_factor, **options)
        content.register_step_pre_hook(self._clip)
        return {
            "G": TwoStepAdam(twice, self.attribute.parameters(), lr=c.lr, **options),
            "D": torch.optim.Adam(self.disc.parameters(), lr=c.lr * c.disc_lr_factor, **options),
            "D_content": content,
        }

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> Terms:
        """Train the content discriminator; every `d_iter`-th time all discriminators, then encoders and generators.

        Even samples of the batch are the encoded ones and odd ones the random, which keeps the halves the same however many
        processes share the batch.
        """
        _check_even(len(batch.opacity))
        full = (batch.draws.step + 1) % self.config.d_iter == 0
        images, log = {"a": batch.opacity, "b": batch.clear}, Terms()
        encoded, random = ({d: x[start::2] for d, x in images.items()} for start in (0, 1))
        with torch.set_grad_enabled(full):
            codes = self._encode(encoded, batch.draws, "noise")
        if full:
            made = self._generate(encoded, codes, batch.draws)
            log["d_total"] = self._discriminator_loss(encoded, random, made, log)
            optim["D"].update_params(log["d_total"])
        optim["D_content"].update_params(self._content_loss(codes, log))
        if full:
            # Frozen weights also bypass autocast's cache of cast weights, which would still hold those before the update.
            with frozen(self.disc, self.disc_content):
                first = log["g_total"] = self._first_loss(encoded, codes, made, batch.draws, log)
                then = log["g_random_total"] = self._second_loss(made, log)
            optimizer = cast(TwoStepAdam, optim["G"].optimizer)
            # The second gradients first, while the graph is whole and the weights are those that it saved.
            with torch.autocast(then.device.type, enabled=False):
                gradients = torch.autograd.grad(then, optimizer.twice, retain_graph=True)
            optim["G"].update_params(first + optimizer.second(gradients))
        return {name: value.detach() for name, value in log.items()}

    @torch.no_grad()
    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """Translate N x C x H x W images in [-1, 1] with the fixed attributes, or one draw per seed if `style` is random."""
        check_direction(direction, self.directions)
        source, target = ("a", "b") if direction == "a2b" else ("b", "a")
        features = self.decoder_shared(self.content_shared(self.content[source](images)))
        return Translation(self.decoder[target](features, styles_for(images, self.config, seeds)))

    def _clip(self, *_: Any) -> None:
        """Run by the optimizer: what is clipped is the gradient of the whole batch, accumulated and averaged over processes."""
        nn.utils.clip_grad_norm_(self.disc_content.parameters(), self.config.content_clip)

    def _encode(self, images: ByDomain, draws: Draws, name: str) -> ByDomain:
        """Content codes of both domains' images with training noise, each n x F x h x w."""
        codes = self.content_shared(torch.cat([self.content[d](images[d]) for d in "ab"]))
        noise = draws.normal_map(name, *codes.shape[1:])
        return _split(codes + torch.cat([noise[0::2], noise[1::2]]).to(codes.dtype))

    def _describe(self, images: ByDomain, draws: Draws, name: str) -> tuple[ByDomain, Terms]:
        """Attribute codes of both domains' images, n x style_dim, and what pulls each to N(0, I)."""
        codes, pulls = ByDomain(), Terms()
        noise = _halves(draws, name, self.config.style_dim) if self.config.concat else {}
        for d in "ab":
            out = self.attribute[d](images[d])
            if self.config.concat:
                mean, log_variance = out.chunk(2, dim=1)
                codes[d] = mean + noise[d] * (0.5 * log_variance).exp()
                pulls[d] = losses.kl_normal(mean, log_variance)
            else:
                codes[d], pulls[d] = out, losses.mean_square(out)
        return codes, pulls

    def _generate(self, encoded: ByDomain, codes: ByDomain, draws: Draws) -> dict[str, Any]:
        """Translations and reconstructions of the encoded images, and translations with random attributes."""
        features = _split(self.decoder_shared(torch.cat(list(codes.values()))))  # the shared block, once for all uses
        style, pull = self._describe(encoded, draws, "attribute")
        random = list(_halves(draws, "style", self.config.style_dim).values())[: 2 if self.config.mode_seeking else 1]
        made: dict[str, Any] = {"pull": pull, "style": random, "fake": {}, "self": {}, "random": {}}
        for d, o in OTHER.items():
            decoder = self.decoder[d]
            pair = decoder(torch.cat([features[o], features[d]]), torch.cat([style[d], style[d]]))
            made["fake"][d], made["self"][d] = pair.chunk(2)
            made["random"][d] = list(decoder(torch.cat([features[o]] * len(random)), torch.cat(random)).chunk(len(random)))
        return made

    def _discriminator_loss(self, encoded: ByDomain, random: ByDomain, made: Mapping[str, Any], log: Terms) -> Tensor:
        """A sum of losses of separate networks: the gradient of each is that of its own."""
        for d in "ab":
            jobs = {d: (encoded[d], [made["fake"][d]]), f"{d}2": (random[d], made["random"][d])}
            for name, (truth, fakes) in jobs.items():
                real, *maps = judge(self.disc[name], [truth, *(fake.detach() for fake in fakes)])
                log[f"d_{name}"] = torch.stack([losses.bce_gan(real, 1) + losses.bce_gan(m, 0) for m in maps]).sum()
        return torch.stack([log[f"d_{name}"] for name in self.disc]).sum()

    def _content_loss(self, codes: ByDomain, log: Terms) -> Tensor:
        of_a, of_b = judge(self.disc_content, [codes[d].detach() for d in "ab"])
        log["d_content_chance"] = losses.bce_gan(of_a, 0) + losses.bce_gan(of_b, 1)
        return log["d_content_chance"]

    def _first_loss(self, encoded: ByDomain, codes: ByDomain, made: Mapping[str, Any], draws: Draws, log: Terms) -> Tensor:
        """For content encoder, attribute encoder and generator: translations of the encoded images, and the way back."""
        back_codes = self._encode(made["fake"], draws, "noise_back")
        features = _split(self.decoder_shared(torch.cat(list(back_codes.values()))))
        style, _ = self._describe(made["fake"], draws, "attribute_back")
        told = judge(self.disc_content, [codes[d] for d in "ab"])
        for (d, o), maps in zip(OTHER.items(), told, strict=True):
            back = self.decoder[d](features[o], style[d])  # the content of A is in the image of B
            log[f"g_adv_{d}"] = losses.bce_gan(self.disc[d](made["fake"][d]), 1)
            log[f"g_content_{d}"] = losses.bce_gan(maps, 0.5)
            log[f"cycle_{d}"] = losses.l1(back, encoded[d])
            log[f"self_{d}"] = losses.l1(made["self"][d], encoded[d])
            log[f"kl_{d}"] = made["pull"][d]
            log[f"code_{d}"] = losses.mean_square(codes[d])
        return _weighted(self.first, log)

    def _second_loss(self, made: Mapping[str, Any], log: Terms) -> Tensor:
        """For content encoder and generator only: translations with random attributes."""
        with frozen(self.attribute):
            for d in "ab":
                fakes, style = made["random"][d], made["style"]
                maps = judge(self.disc[f"{d}2"], fakes)
                log[f"g_adv_{d}2"] = torch.stack([losses.bce_gan(m, 1) for m in maps]).sum()
                told = self.attribute[d](fakes[0])[:, : self.config.style_dim]
                log[f"latent_{d}"] = losses.l1(told, style[0])
                if self.config.mode_seeking:
                    log[f"mode_{d}"] = losses.mode_seeking(*fakes, *style)
        return _weighted(self.then, log)


def _check_even(images: int) -> None:
    if images % 2 or images < 2:
        raise UsageError(
            f"batch_size: 'drit' encodes one half of each batch and compares with the other; {images} images a process "
            "cannot be halved. Let every process have at least one of the preset's batch."
        )


def _halves(draws: Draws, name: str, *shape: int) -> ByDomain:
    """Normal numbers for the encoded half of both domains; even rows for A, odd for B (or two draws for one thing)."""
    values = draws.normal(name, *shape)
    return {"a": values[0::2], "b": values[1::2]}


def _split(stacked: Tensor) -> ByDomain:
    """Domains that were stacked."""
    return dict(zip("ab", stacked.chunk(2), strict=True))


def _weighted(weights: Mapping[str, float], log: Terms) -> Tensor:
    """The weighted sum over both domains of the terms that are there."""
    names = [(w, name.replace("*", d)) for name, w in weights.items() for d in "ab"]
    return torch.stack([w * log[name] for w, name in names if name in log]).sum()
