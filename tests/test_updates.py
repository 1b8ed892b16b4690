"""One update: it reaches its own optimizer's parameters alone, and what follows sees the weights that it left."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_tools import CPU, SETTINGS, Source, _toy, build, fit, losses  # noqa: F401
from method_tools import one_thread  # noqa: F401  (a fixture)
from torch import nn

from bench import device
from bench.errors import BenchError, PreflightError
from bench.hooks import RandomStateHook
from bench.runner import ParallelOptimWrapper

# -- whose gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("generator_first", "accumulate"), itertools.product((False, True), (1, 3)))
def test_no_network_learns_from_anothers_loss(tmp_path: Path, generator_first: bool, accumulate: int) -> None:
    settings = replace(SETTINGS, accumulate=accumulate)
    found = []
    for sloppy in (True, False):
        model = build(own_noise=False, sloppy=sloppy, generator_first=generator_first)
        fit(tmp_path / str(sloppy), settings, model=model)
        found.append([p.detach() for p in model.parameters()])
    assert losses(tmp_path / "True") == losses(tmp_path / "False")
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_another_loss_left_is_not_even_computed() -> None:
    model = build(own_noise=False, generator_first=True)
    optim = {n: ParallelOptimWrapper(1, optimizer=o) for n, o in model.optimizers().items()}
    model.learn(model.module(Source().batch(0, CPU).opacity), Source().batch(0, CPU), optim)
    assert all(p.grad is None for p in model.critic.parameters())
    assert (optim["G"].steps, optim["D"].steps) == (1, 0)


def test_an_update_of_nothing_is_refused() -> None:
    net = nn.Linear(2, 1)
    wrapper = ParallelOptimWrapper(1, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    net.requires_grad_(False)
    with pytest.raises(BenchError, match="no parameter of this optimizer takes a gradient"):
        wrapper.update_params(torch.ones(1, requires_grad=True).sum())


def test_a_parameter_that_the_loss_does_not_reach_is_left_alone() -> None:
    net, idle = nn.Linear(2, 1), nn.Parameter(torch.ones(3))
    wrapper = ParallelOptimWrapper(1, optimizer=torch.optim.AdamW([*net.parameters(), idle], lr=0.1, weight_decay=0.5))
    wrapper.update_params(net(torch.ones(1, 2)).sum())
    assert torch.equal(idle, torch.ones(3)) and not torch.equal(net.bias, idle[:1])


# -- which weights ---------------------------------------------------------------------------------------------------------


def test_after_a_step_a_forward_under_autocast_uses_the_new_weights() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(8, 8), torch.randn(4, 8)
    wrapper = ParallelOptimWrapper(1, optimizer=torch.optim.SGD(net.parameters(), lr=1.0))
    with torch.autocast("cpu", torch.bfloat16):
        before = net(x)
        wrapper.update_params(before.float().square().mean())
        after = net(x)
        with torch.no_grad():
            fresh = nn.functional.linear(x.bfloat16(), net.weight.bfloat16(), net.bias.bfloat16())
    assert torch.equal(after, fresh) and not torch.equal(after, before)


# -- the moving average ----------------------------------------------------------------------------------------------------


def average(folder: Path, iterations: int = 8) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"iter_{iterations}.pth", weights_only=True)["ema"]["module"]
    return found


def test_averages_move_when_weights_do(tmp_path: Path) -> None:
    """With accumulated gradients they average over updates, not over iterations."""
    fit(tmp_path / "run", replace(SETTINGS, accumulate=4, ema=0.5), model=build(own_noise=False))
    assert int(average(tmp_path / "run")["n_averaged"]) == 2
    _, half = fit(tmp_path / "half", replace(SETTINGS, iterations=4, accumulate=4), model=_steady(build(own_noise=False)))
    _, whole = fit(tmp_path / "whole", replace(SETTINGS, accumulate=4, ema=0.5), model=_steady(build(own_noise=False)))
    decay = min(0.5, 3 / 12)
    expected = decay * half.module.weight + (1 - decay) * whole.module.weight
    torch.testing.assert_close(average(tmp_path / "whole")["module.weight"], expected.detach(), rtol=0, atol=1e-7)


def _steady(model: Any) -> Any:
    model.lr_factor = lambda step, total: 1.0
    return model


def test_modules_that_no_optimizer_has_are_averaged_all_the_same(tmp_path: Path) -> None:
    model = build(own_noise=False)
    model.copy = nn.Conv2d(1, 1, 3).requires_grad_(False)
    model.inference_modules = lambda: {"module": model.copy}  # type: ignore[method-assign]
    fit(tmp_path, replace(SETTINGS, ema=0.5), model=model)
    assert int(average(tmp_path)["n_averaged"]) == 8


# -- the device ------------------------------------------------------------------------------------------------------------


class Gpus:
    """Two of them, which only note what they are asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.states = 0, {0: 10, 1: 11}
        for name in ("is_available", "device_count", "set_device", "get_rng_state", "set_rng_state"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def set_device(self, place: torch.device) -> None:
        self.current = place.index

    def get_rng_state(self, place: torch.device) -> torch.Tensor:
        return torch.tensor([self.states[place.index]])

    def set_rng_state(self, state: torch.Tensor, place: torch.device) -> None:
        self.states[place.index] = int(state)


def test_the_gpu_asked_for_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for wanted, index in (("cuda:1", 1), ("cuda", 0), ("auto", 0)):
        assert device.choose(wanted) == torch.device("cuda", index) and gpus.current == index
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.choose("auto").index == gpus.current == 1
    with pytest.raises(PreflightError, match=r"--device cuda:2: cuda:2 is not one of the 2 GPUs here"):
        device.choose("cuda:2")
    device.choose("cpu")
    assert gpus.current == 1


def test_the_random_state_of_the_gpu_in_use_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch)

    class Runner:
        device, processes, rank = torch.device("cuda", 1), 1, 0

    hook, checkpoint = RandomStateHook(), dict[str, Any]()
    hook.gather_checkpoint(Runner)
    hook.before_save_checkpoint(Runner, checkpoint)
    gpus.states = {0: 20, 1: 21}
    hook.after_load_checkpoint(Runner, checkpoint)
    hook.before_train_iter(Runner, 0)
    assert gpus.states == {0: 20, 1: 11}
    Runner.device = CPU
    hook.gather_checkpoint(Runner)
    assert "cuda" not in hook.gathered[0], "a training on the CPU asks no GPU"
    hook.after_load_checkpoint(Runner, checkpoint)
    hook.before_train_iter(Runner, 0)
    assert gpus.states == {0: 20, 1: 11}
