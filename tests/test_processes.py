"""Processes that train together: their own library random numbers, common waiting gradients, and exact resuming of both."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOY
from engine_tools import CPU, SETTINGS, InterruptedTrainingError, Source, _toy, build, fit, same  # noqa: F401
from method_tools import one_thread  # noqa: F401  (a fixture)
from several import together
from torch import Tensor

from bench.config import TrainConfig
from bench.contracts import Batch, Draws
from bench.registry import import_file


class Share(Source):
    """A process's share of the batches of `Source`."""

    def __init__(self, rank: int, count: int, stop: int | None) -> None:
        super().__init__(stop)
        self.rank, self.count = rank, count

    def batch(self, step: int, device: torch.device) -> Batch:
        draws = Draws(0, step, self.rank * 2 // self.count, 2 // self.count, 2, device)
        return Batch(draws.uniform("a", 1, 16, 16) * 2 - 1, draws.uniform("b", 1, 16, 16) * 2 - 1, draws)


ACCUMULATED = replace(SETTINGS, accumulate=3)
#: What the two processes train, one after the other: folder, settings, where it is cut short, library numbers.
PLAN = [
    ("straight", SETTINGS, None, True),
    ("cut", SETTINGS, 5, True),
    ("cut", SETTINGS, None, True),
    ("waits", ACCUMULATED, None, False),
    ("waits-cut", ACCUMULATED, 5, False),
    ("waits-cut", ACCUMULATED, None, False),
]


def train(rank: int, count: int, folder: Path, settings: TrainConfig, stop: int | None, drawn: bool) -> list[float]:
    """Train the toy; returns the library numbers of its steps. The pool is off: it is not the same in every process."""
    import_file(TOY)
    model, numbers = build(own_noise=False), list[float]()

    def noise(batch: Batch) -> Tensor:
        numbers.append(float(torch.rand(())) + float(np.random.rand()) + random.random())
        return torch.randn_like(batch.opacity)

    if drawn:
        model.noise = noise  # type: ignore[method-assign]
    try:
        fit(folder, settings, Share(rank, count, stop), model)
    except InterruptedTrainingError:
        assert stop is not None
    return numbers


def both(rank: int, root: Path) -> list[list[float]]:
    """What a process does of `PLAN`. What was cut short is kept for another number of processes."""
    numbers = []
    for name, settings, stop, drawn in PLAN:
        torch.manual_seed(99)
        numbers.append(train(rank, 2, root / name, settings, stop, drawn))
        if stop and rank == 0:
            shutil.copytree(root / name, root / f"{name}-kept")
    return numbers


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[list[float]]]]:
    """The folder of `PLAN`, and the library numbers by process and training."""
    root = tmp_path_factory.mktemp("both")
    return root, together(root / "group", 2, both, root)


def last(folder: Path) -> Any:
    return torch.load(folder / "iter_8.pth", weights_only=True)


def test_library_numbers_differ_between_processes_and_are_resumed(trained: Any, tmp_path: Path) -> None:
    root, ((first, *first_parts, _, _, _), (second, *second_parts, _, _, _)) = trained
    assert len(first) == 8 and not set(first) & set(second)
    assert first_parts == [first[:5], first[4:]] and second_parts == [second[:5], second[4:]]
    for part in ("state_dict", "optimizer", "random_state"):
        assert same(last(root / "cut")[part], last(root / "straight")[part]), part
    assert train(0, 1, tmp_path, replace(SETTINGS, iterations=1), None, True) == first[:1], "alone: as the first"


def test_another_number_of_processes_begins_with_new_numbers_and_says_so(
    trained: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, numbers = trained
    found = []
    for name in ("a", "b"):
        shutil.copytree(root / "cut-kept", tmp_path / name)
        found.append(train(0, 1, tmp_path / name, SETTINGS, None, True))
        text = " ".join(capfd.readouterr().err.split())
        assert "warning: processes so far: 2, now: 1. What a method draws from torch, numpy or random itself begins" in text
    assert found[0] == found[1] and len(found[0]) == 4 and not set(found[0]) & {n for one in numbers for n in one[0]}
    assert same(last(tmp_path / "a")["state_dict"], last(tmp_path / "b")["state_dict"])


def test_a_checkpoint_with_the_state_of_one_process_only_still_resumes(tmp_path: Path) -> None:
    straight = train(0, 1, tmp_path / "straight", SETTINGS, None, True)
    train(0, 1, tmp_path / "cut", SETTINGS, 5, True)
    path = tmp_path / "cut" / "iter_4.pth"
    content = torch.load(path, weights_only=True)
    content["random_state"] = content["random_state"][0]
    torch.save(content, path)
    assert train(0, 1, tmp_path / "cut", SETTINGS, None, True) == straight[4:]


def test_gradients_that_wait_are_those_of_all_processes(trained: Any, tmp_path: Path) -> None:
    root, _ = trained
    waiting = torch.load(root / "waits-cut-kept" / "iter_4.pth", weights_only=True)["accumulated"]
    assert waiting["D"]["count"] == 4 and waiting["D"]["gradients"][0].abs().max() > 0
    for part in ("state_dict", "optimizer", "accumulated"):
        assert same(last(root / "waits-cut")[part], last(root / "waits")[part]), part

    train(0, 1, tmp_path / "one", ACCUMULATED, None, False)
    train(0, 1, root / "waits-cut-kept", ACCUMULATED, None, False)
    one = last(tmp_path / "one")["state_dict"]
    for folder in ("waits", "waits-cut-kept"):
        for key in ("module.weight", "critic.0.weight"):
            torch.testing.assert_close(last(root / folder)["state_dict"][key], one[key], rtol=1e-4, atol=1e-5)
    assert not torch.equal(one["critic.0.weight"], build().critic[0].weight.detach())
