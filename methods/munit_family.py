"""What MUNIT, UNIT, ACL-GAN and the paper's method have in common: sizes, optimizers, schedule and order of the updates.

By default one forward through the generators serves both sides: discriminators learn from the detached images first, then
generators from the attached ones against the updated discriminators. Nothing here has batch statistics, so image sets share
network calls by stacking.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

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

#: The domains, opacity (a) and clear (b), each with the other one.
OTHER = {"a": "b", "b": "a"}

ByDomain = dict[str, Tensor]
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class FamilyConfig:
    """Hyper-parameters of the family; the defaults are those of the published codes.

    Attributes:
        lr, beta1, beta2, weight_decay: Adam, both optimizers; `disc_lr_factor` multiplies the discriminators' rate.
        share_forward: discriminators and generators learn from the same generated images. False makes others for the
            discriminators, by a forward with random numbers of its own, as upstream does: the gradients have the same
            expectation, but there is more work to do, and the random stream is another.
        lr_decay, lr_decay_every: factor on the learning rate after every such share of the run. Upstream's 1e5 steps are
            0.1 of its million; 0.4 is the same number of steps in a run of 2.5e5.
        width, n_res, downsamples: generators.
        disc_*: discriminators; take ``disc_init=kaiming`` at small widths.
    """

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

    #: Fewest residual blocks: styles enter decoders through these.
    least_blocks: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, naming the key."""
        check_choice(self, ("normal", "kaiming"), "disc_init")
        check_at_least(self, 1, "width", "disc_width", "disc_layers", "disc_scales")
        check_at_least(self, 0, "weight_decay", *weights(self))
        check_above(self, 0, "lr", "disc_lr_factor", "lr_decay", "lr_decay_every")
        check_below_one(self, "beta1", "beta2")
        check_within(self, self.least_blocks, 64, "n_res")
        check_within(self, 0, 6, "downsamples")
        check_within(self, 0, 1, "lr_decay")


class FamilyMethod(Method):
    """Optimizers, schedule and step. Subclasses own the networks, make the images and weigh the terms."""

    license: ClassVar[str] = "Apache-2.0"
    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")

    @abstractmethod
    def generators(self) -> nn.ModuleList:
        """Both generators. Their children are the networks that are called."""

    @abstractmethod
    def discriminators(self) -> nn.ModuleList:
        """The groups of discriminators, each an `nn.ModuleDict`."""

    def updates_generators(self, step: int) -> bool:
        """Whether a step updates the generators; it always updates the discriminators."""
        return True

    def networks(self) -> list[nn.Module]:
        """The parts of the generators, which are called one by one, and the discriminators."""
        return [part for owner in (*self.generators(), *self.discriminators()) for part in owner.children()]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One Adam for both generators, one for all discriminators."""
        c = self.config
        adam = partial(torch.optim.Adam, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay)
        rate = c.lr * c.disc_lr_factor
        return {"G": adam(self.generators().parameters(), lr=c.lr), "D": adam(self.discriminators().parameters(), lr=rate)}

    def lr_factor(self, step: int, total: int) -> float:
        """Step decay: `lr_decay` after every `lr_decay_every` of the run."""
        return float(self.config.lr_decay ** int(step / max(1.0, self.config.lr_decay_every * total)))

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> Terms:
        """One update of the discriminators, then, where it is their turn, one of the generators. Logs terms unweighted."""
        source, log = {"a": batch.opacity, "b": batch.clear}, Terms()
        turn = self.updates_generators(batch.draws.step)
        shared = turn and self.config.share_forward
        made = self.make(source, batch.draws) if shared else self._make_judged(source, batch.draws)
        loss = log["d_total"] = self.discriminator_loss(source, made, log)
        optim["D"].update_params(loss)
        if turn:
            if not shared:
                made = self.make(source, batch.draws)
            # Frozen weights also bypass autocast's cache of cast weights, which would still hold those before the update.
            with frozen(self.discriminators()):
                loss = log["g_total"] = self.generator_loss(source, made, batch.draws, log)
            optim["G"].update_params(loss)
        return {name: value.detach() for name, value in log.items()}

    @torch.no_grad()
    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """Translate N x C x H x W images in [-1, 1]; see `redraw` for what the seeds do."""
        check_direction(direction, self.directions)
        return self.redraw(images, direction[0], seeds)

    @abstractmethod
    def redraw(self, images: Tensor, domain: str, seeds: Sequence[int] | None) -> Translation:
        """Translate images of a domain into the other one."""

    @abstractmethod
    def make(self, source: ByDomain, draws: Draws, judged: bool = False) -> Any:
        """A forward through the generators.

        Args:
            source: images of each domain.
            draws: of this step; random numbers are named ``f"{self.prefix(judged)}..."``.
            judged: make the images that discriminators judge, and no others.
        """

    @abstractmethod
    def discriminator_loss(self, source: ByDomain, made: Any, log: Terms) -> Tensor:
        """The discriminators' loss on what `make` returned, detached; the log gets its terms."""

    @abstractmethod
    def generator_loss(self, source: ByDomain, made: Any, draws: Draws, log: Terms) -> Tensor:
        """The generators' loss, the weighted sum of its terms; the log gets these unweighted."""

    def prefix(self, judged: bool) -> str:
        """Start of the random numbers' names: images for the discriminators alone have other ones where forwards are apart."""
        return "disc_" if judged and not self.config.share_forward else ""

    def _make_judged(self, source: ByDomain, draws: Draws) -> Any:
        # Under no_grad alone, autocast would keep cast weights without a graph and hand them to the generators' forward.
        with torch.no_grad(), frozen(self.generators()):
            return self.make(source, draws, judged=True)
