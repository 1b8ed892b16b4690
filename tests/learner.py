"""An evaluator of the tests' own that learns, and a method that translates both ways; registered with ``--import``.

The evaluator fits the mean lung brightness of its training images with one parameter. Every training, preparation and score
appends a line to ``$LEARNER_LOG``, so that tests can count them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.config import TrainConfig
from bench.contracts import Evaluator, Job, Metric, OptimWrappers, Score, ScoreJob, Trainable
from bench.data.imageset import ImageSet
from bench.fits import Fitted
from bench.registry import METHODS, import_file, register_evaluator, register_method

import_file(Path(__file__).with_name("toy.py"))


def log(what: str) -> None:
    with Path(os.environ["LEARNER_LOG"]).open("a") as stream:
        stream.write(what + "\n")


@register_method("both-ways")
class BothWays(METHODS.get("toy")):  # type: ignore[misc]
    """The toy, declared to go both ways."""

    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")


class Mean(Trainable):
    """One number."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"M": torch.optim.SGD([self.level], lr=0.2)}

    def step(self, batch: Tensor, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        if os.environ.get("LEARNER_FAILS"):
            raise ValueError("the training is broken")
        loss = (batch.mean() - self.level).square()
        optim["M"].update_params(loss)
        return {"loss": loss.detach()}


class Images:
    """Every step the same image of the training set, so that a step is a pure function."""

    batch_size = 1

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, step: int) -> Any:
        return self.images.pixels([step % len(self.images)])

    def batch(self, raw: Any, device: torch.device) -> Tensor:
        return torch.from_numpy(np.asarray(raw)).to(device)


@register_evaluator("learner")
class Learner(Evaluator):
    """Difference of the translated images' brightness to the level learnt."""

    @dataclass(frozen=True)
    class Config:
        """`steps` of training."""

        steps: int = 4

    needs: ClassVar[frozenset[str]] = frozenset({"images to learn from", "both domains"})

    @classmethod
    def learns(cls, params: Any) -> str:
        return "lung_mask"

    @classmethod
    def directions(cls, params: Any) -> tuple[str, ...]:
        return ("a2b", "b2a")

    @classmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        return (Metric("gap", "Gap", "lower", primary=True), Metric("level", "Level", "none", part="model", shared=True))

    def prepare(self, job: Job) -> None:
        log("prepare")
        self._model(job)

    def _model(self, job: Job) -> Fitted[Mean]:
        (images,) = job.learn
        settings = TrainConfig(iterations=job.params.steps, batch_size=1, checkpoint_interval=2)

        def build() -> tuple[Mean, Images]:
            log("build")
            return Mean(), Images(images)

        return job.fits.model("mean", {"images": images.fingerprint}, build, settings, 0, {"n": len(images)})

    def score(self, job: ScoreJob) -> dict[str, Score]:
        log(f"score {job.home} {'both' if job.back else 'one'}")
        fitted = self._model(job)
        real = job.fits.arrays("brightness", {"model": fitted.id, "images": job.source.fingerprint}, lambda: self._real(job))
        level = float(fitted.model.level)
        gap = abs(float(job.translated.pixels().mean()) - level) + float(real["mean"].mean())
        return {"gap": Score(gap, len(job.translated)), "level": Score(level, len(job.learn[0]))}

    @staticmethod
    def _real(job: ScoreJob) -> dict[str, Any]:
        log("arrays")
        return {"mean": job.source.pixels().mean((1, 2))}
