"""What the engine's tests share: a source of batches that can be interrupted, and the toy method trained through it.

Import the fixtures, too: they register the toy and keep to one thread.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TOY

from bench import engine
from bench.config import TrainConfig
from bench.contracts import Batch, Draws, Method
from bench.progress import Progress
from bench.registry import METHODS, import_file

CPU = torch.device("cpu")
SETTINGS = TrainConfig(iterations=8, batch_size=2, checkpoint_interval=2)


class InterruptedTrainingError(Exception):
    """Stands for a kill."""


class Source:
    """Batches as a function of the step; `stop` interrupts the training when that step's batch is asked for."""

    batch_size = 2

    def __init__(self, stop: int | None = None, size: int = 16) -> None:
        self.stop, self.size = stop, size
        self.asked: list[int] = []

    def __getitem__(self, step: int) -> int:
        if step == self.stop:
            raise InterruptedTrainingError
        self.asked.append(step)
        return step

    def batch(self, step: int, device: torch.device) -> Batch:
        draws = Draws(0, step, 0, 2, 2, device)
        shape = (1, self.size, self.size)
        return Batch(draws.uniform("a", *shape) * 2 - 1, draws.uniform("b", *shape) * 2 - 1, draws)


@pytest.fixture(autouse=True)
def _toy() -> None:
    import_file(TOY)


def build(**config: Any) -> Method:
    torch.manual_seed(3)
    cls = METHODS.get("toy")
    return cls(cls.Config(**config), 1)


def fit(folder: Path, settings: TrainConfig = SETTINGS, source: Source | None = None, model: Method | None = None) -> Any:
    model = model or build()
    return engine.fit(
        model, source or Source(), settings, folder, "train", 0, "toy", CPU, Progress("toy", quiet=True), 1
    ), model


def interrupt(folder: Path, step: int, settings: TrainConfig = SETTINGS) -> None:
    with pytest.raises(InterruptedTrainingError):
        fit(folder, settings, Source(stop=step))


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def same(a: Any, b: Any) -> bool:
    """Bit-for-bit equality of trees of tensors."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
