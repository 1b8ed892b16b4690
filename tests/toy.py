"""A small method and two evaluators of the tests' own, registered with ``--import tests/toy.py``.

The method draws from every random generator there is and keeps a replay pool, so that a resumed training that forgets any of
them ends elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.contracts import Batch, Evaluator, Method, Metric, OptimWrappers, Score, ScoreJob, Translation, frozen
from bench.registry import register_evaluator, register_method


class Pool(nn.Module):
    """The last image of each step, kept outside parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []

    def get_extra_state(self) -> dict[str, Any]:
        return {"images": self.images}

    def set_extra_state(self, state: Any) -> None:
        self.images = [x.clone() for x in state["images"]]


@register_method("toy")
class Toy(Method):
    """Two convolutions that chase each other."""

    @dataclass(frozen=True)
    class Config:
        """What a test wants to happen.

        Attributes:
            lr: learning rate.
            nan_at: iteration (from 1) whose loss is not a number.
            error_at: iteration that fails.
            own_noise: draw from the global generators and use the pool.
            sloppy: do not freeze the critic while the generator learns.
            generator_first: update the generator before the critic.
        """

        lr: float = 0.01
        nan_at: int = 0
        error_at: int = 0
        own_noise: bool = True
        sloppy: bool = True
        generator_first: bool = False

    paper: ClassVar[str] = "none"
    license: ClassVar[str] = "Apache-2.0"

    def __init__(self, config: Any, channels: int, prior: Any = None) -> None:
        super().__init__(config, channels)
        self.module = nn.Conv2d(channels, channels, 3, padding=1)  # a name that mmengine would strip from the keys
        self.critic = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 1, 3))
        self.unused = nn.Parameter(torch.ones(3))  # never gets a gradient, so no optimizer may move it
        self.pool = Pool()

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "G": torch.optim.AdamW([*self.module.parameters(), self.unused], lr=self.config.lr, weight_decay=0.1),
            "D": torch.optim.Adam(self.critic.parameters(), lr=self.config.lr),
        }

    def inference_modules(self) -> dict[str, nn.Module]:
        return {"module": self.module}

    def noise(self, batch: Batch) -> Tensor:
        """Noise for the images of a batch."""
        if not self.config.own_noise:
            return batch.draws.normal("noise", *batch.opacity.shape[1:])
        return torch.randn_like(batch.opacity) * (random.random() + float(np.random.rand()))

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        if batch.draws.step + 1 == self.config.error_at:
            raise ValueError("the method itself\nis wrong")
        fake = self.module(batch.opacity + 0.1 * self.noise(batch))
        seen = torch.cat([fake.detach(), *self.pool.images]) if self.config.own_noise else fake.detach()
        turns = {"d": lambda: self.learn_critic(seen, batch, optim), "g": lambda: self.learn(fake, batch, optim)}
        log = {name: turns[name]() for name in ("gd" if self.config.generator_first else "dg")}
        self.pool.images = [*self.pool.images[-2:], fake[:1].detach().clone()]
        return log

    def learn_critic(self, seen: Tensor, batch: Batch, optim: OptimWrappers) -> Tensor:
        """Update the critic; its loss."""
        d = (self.critic(seen) + 1).square().mean() + (self.critic(batch.clear) - 1).square().mean()
        optim["D"].update_params(d)
        return d.detach()

    def learn(self, fake: Tensor, batch: Batch, optim: OptimWrappers) -> Tensor:
        """Update the generator; its loss."""
        with nullcontext() if self.config.sloppy else frozen(self.critic):
            g = (self.critic(fake) - 1).square().mean() + (fake - batch.opacity).abs().mean()
            if batch.draws.step + 1 == self.config.nan_at:
                g = g * float("nan")
            optim["G"].update_params(g)
        return g.detach()

    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        image = self.module(images).clamp(-1, 1)
        return Translation(image, (image - images).abs().mean(1, keepdim=True) / 2)


@register_evaluator("toy-score")
class ToyScore(Evaluator):
    """Mean absolute change."""

    @dataclass(frozen=True)
    class Config:
        """`factor` multiplies the score."""

        factor: float = 1.0

    @classmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        return (Metric("change", "Change", "lower", primary=True),)

    def score(self, job: ScoreJob) -> dict[str, Score]:
        change = np.abs(job.translated.pixels() - job.source.pixels()).mean((1, 2)) * job.params.factor
        each = dict(zip(job.source.ids, change.tolist(), strict=True))
        return {"change": Score(float(change.mean()), len(change), std=float(change.std()), std_over="images", per_image=each)}


@register_evaluator("toy-broken")
class ToyBroken(ToyScore):
    """Fails while `broken` is true."""

    @dataclass(frozen=True)
    class Config(ToyScore.Config):
        """`broken`: fail."""

        broken: bool = True

    def score(self, job: ScoreJob) -> dict[str, Score]:
        if job.params.broken:
            raise RuntimeError("cannot score this")
        return super().score(job)
