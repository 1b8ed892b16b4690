"""What the watch warns of: real trainings that collapse, each in its own way, and the rules by themselves."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import Bench, records
from engine_tools import (  # noqa: F401
    CPU,
    SETTINGS,
    InterruptedTrainingError,
    Source,
    _toy,
    build,
    fit,
    same,
    weights,
)
from method_tools import one_thread  # noqa: F401  (a fixture)
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from bench import checks, cli, engine, watch
from bench.config import load, section_config
from bench.contracts import Batch, Draws, Method, OptimWrappers, Translation, frozen
from bench.progress import Progress
from bench.registry import METHODS
from bench.watch import CollapseWatch, OutputHook, opponents, output_statistics, undisturbed
from methods import BUILTIN

LONG = replace(SETTINGS, iterations=320, checkpoint_interval=160)


class Tiny(Method):
    """An LSGAN of a few weights that learns, or fails in the way it is told to."""

    @dataclass(frozen=True)
    class Config:
        """`way`: how it fails; `heals_at`: the step from which it does no more."""

        way: str = ""
        heals_at: int = 10**9

    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")

    def __init__(self, config: Any, channels: int, prior: Any = None) -> None:
        super().__init__(config, channels)
        self.net = nn.Conv2d(channels, channels, 3, padding=1)
        self.template = nn.Parameter(torch.linspace(-1, 1, 256).view(1, 1, 16, 16).repeat(1, channels, 1, 1))
        self.gate = nn.Parameter(torch.zeros(()))
        self.critic = nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3))
        if config.way == "pinned":  # as after bad weights: it outputs nothing, whatever it sees
            nn.init.zeros_(self.critic[2].weight)
            nn.init.zeros_(self.critic[2].bias)
        self.way = config.way
        self.looked: list[tuple[str, Tensor]] = []

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        still = self.way in ("won", "pinned")
        return {
            "G": torch.optim.Adam([*self.net.parameters(), self.template, self.gate], lr=0.0 if still else 5e-3),
            "D": torch.optim.Adam(self.critic.parameters(), lr=0.0 if self.way == "pinned" else 5e-3),
        }

    def lr_factor(self, step: int, total: int) -> float:
        return 1.0

    def _mask(self) -> Tensor:
        return torch.sigmoid(self.gate)

    def generate(self, x: Tensor) -> Tensor:
        """What this way of failing makes of images."""
        if self.way == "constant":
            return torch.tanh(self.net(x) * 0 + self.net.bias[:, None, None])
        if self.way == "alike":
            return torch.tanh(self.template + 0.01 * self.net(x))
        if self.way == "copies":
            return x + 1e-3 * torch.tanh(self.net(x))
        if self.way == "saturated":
            return torch.tanh(1e3 * x + self.net(x))
        if self.way == "mask":
            return self._mask() * torch.tanh(self.net(x)) + (1 - self._mask()) * x
        return torch.tanh(0.3 * x + 0 * self.net(x) if self.way == "won" else x + self.net(x))

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        if batch.draws.step == self.config.heals_at:
            self.way = ""
            with torch.no_grad():
                for weight in (self.gate, *self.net.parameters()):
                    weight.zero_()
        a, b = batch.opacity, batch.clear.abs() ** 0.25
        fake = self.generate(a)
        d = (self.critic(fake.detach()).square() + (self.critic(b) - 1).square()).mean()
        optim["D"].update_params(d)
        with frozen(self.critic):
            adversarial = (self.critic(fake) - 1).square().mean()
            loss = adversarial + (fake - a).abs().mean()
            if self.way == "mask":
                loss = loss + 50 * self._mask()
                self.gate.data -= 0.1
            optim["G"].update_params(loss)
        log = {"d_b": d, "d_total": d, "g_adv_b": adversarial, "g_total": loss, "off": 0 * loss, "mask_a": self._mask()}
        return {name: value.detach().clone() for name, value in log.items()}

    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        assert not self.training and not torch.is_grad_enabled() and len(images) <= 4 and seeds == [0] * len(images)
        torch.randn(3)
        np.random.rand()
        random.random()
        self.looked.append((direction, images))
        return Translation(self.generate(images).clamp(-1, 1))


def tiny(way: str = "", **config: Any) -> Tiny:
    torch.manual_seed(1)
    return Tiny(Tiny.Config(way, **config), 1)


def test_a_healthy_training_has_no_warnings(tmp_path: Path) -> None:
    result, _ = fit(tmp_path, LONG, model=tiny())
    assert result.warnings == []


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("constant", ["a2b: outputs are flat (mean standard deviation 0.0e+00", "b2a: outputs are flat"]),
        (
            "alike",
            ["a2b: outputs of different images are nearly the same (mode collapse: they differ by", "b2a: outputs of"],
        ),
        ("copies", ["a2b: outputs are copies of their inputs (0.00% of the pixels changed), step 320, 4 training", "b2a: "]),
        ("saturated", ["a2b: outputs are saturated (", "b2a: outputs are saturated ("]),
        ("mask", ["mask_a: the activation mask is empty (mean ", "a2b: outputs are copies", "b2a: outputs are copies"]),
        ("won", ["d_b: the discriminator has won and teaches the generators nothing (loss "]),
        ("pinned", ["d_b: the loss stands still (1 to 1, steps 1 to 320)", "g_adv_b: the loss stands still (1 to 1, "]),
    ],
)
def test_a_training_that_collapses_is_told_of(tmp_path: Path, way: str, words: list[str]) -> None:
    result, _ = fit(tmp_path, LONG, model=tiny(way))
    assert len(result.warnings) == len(words), result.warnings
    for text in words:
        assert any(warning.startswith(text) for warning in result.warnings), result.warnings


@pytest.mark.parametrize("way", ["constant", "mask", "won"])
def test_a_warning_goes_when_it_has_passed(tmp_path: Path, way: str) -> None:
    early, _ = fit(tmp_path, replace(LONG, iterations=300, checkpoint_interval=300), model=tiny(way))
    assert early.warnings
    late, _ = fit(tmp_path, replace(LONG, iterations=400, checkpoint_interval=100), model=tiny(way, heals_at=310))
    assert not {text.split(" (")[0] for text in early.warnings} & {text.split(" (")[0] for text in late.warnings}


def test_resuming_keeps_warnings_streaks_and_images(tmp_path: Path) -> None:
    settings = replace(LONG, iterations=240, checkpoint_interval=60)
    straight, model = fit(tmp_path / "straight", settings, model=tiny("pinned"))
    with pytest.raises(InterruptedTrainingError):
        fit(tmp_path / "cut", settings, Source(stop=190), tiny("pinned"))
    resumed, again = fit(tmp_path / "cut", settings, model=tiny("pinned"))
    assert resumed.warnings == straight.warnings != [] and resumed.warnings[0].endswith("steps 1 to 240)")
    assert [d for d, _ in again.looked] == ["a2b", "b2a"], "one look is left after step 180"
    assert all(torch.equal(x, y) for (_, x), (_, y) in zip(model.looked[-2:], again.looked, strict=True))
    last = [torch.load(tmp_path / d / "iter_240.pth", weights_only=True) for d in ("straight", "cut")]
    assert last[0]["watched"] == last[1]["watched"] and last[0]["watched"]["streaks"]
    (tmp_path / "cut" / "weights.pth").unlink()
    ended, _ = fit(tmp_path / "cut", settings, model=tiny("pinned"))
    assert ended.warnings == straight.warnings, "nothing is left to train, and the warnings stay"


def test_looks_are_at_the_first_images_of_the_training(tmp_path: Path) -> None:
    _, model = fit(tmp_path, replace(LONG, iterations=240, checkpoint_interval=80), model=tiny())
    assert [d for d, _ in model.looked] == ["a2b", "b2a"] * 2, "checkpoints at 160 and 240; the one at 80 is too early"
    first = [Source().batch(step, CPU) for step in range(2)]
    for direction, images in model.looked:
        wanted = torch.cat([b.opacity if direction == "a2b" else b.clear for b in first])
        assert torch.equal(images, wanted)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"ema": 0.9, "accumulate": 2}])
def test_training_does_not_notice_the_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Bit for bit, though `translate` draws from every generator and the toy's training depends on all of them."""
    settings = replace(SETTINGS, checkpoint_interval=1, **changes)
    monkeypatch.setattr(watch, "FIRST", 0)
    looks: list[int] = []

    def greedy(self: Any, images: Tensor, *_: Any) -> Translation:
        looks.append(len(images))
        assert not self.training
        return Translation(self.module(images + torch.randn_like(images) * np.random.rand() * random.random()).clamp(-1, 1))

    with monkeypatch.context() as patch:
        patch.setattr(type(build()), "translate", greedy)
        seen, model = fit(tmp_path / "seen", settings)
    assert looks == [2, *[4] * 7] and model.training
    with monkeypatch.context() as patch:
        patch.setattr(OutputHook, "_look", lambda *_: None)
        unseen, _ = fit(tmp_path / "unseen", settings)
    assert seen.weights_id == unseen.weights_id and same(weights(seen.weights), weights(unseen.weights))
    last = [torch.load(tmp_path / d / "iter_8.pth", weights_only=True) for d in ("seen", "unseen")]
    for part in ("state_dict", "optimizer", "random_state", "ema", "accumulated"):
        assert same(last[0].get(part), last[1].get(part)), part
    assert (tmp_path / "seen" / "log.jsonl").read_text() == (tmp_path / "unseen" / "log.jsonl").read_text()


def test_the_looks_of_the_test_above_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard the same looks change the weights."""
    monkeypatch.setattr(watch, "FIRST", 0)
    settings = replace(SETTINGS, checkpoint_interval=1)
    plain, _ = fit(tmp_path / "plain", settings)
    monkeypatch.setattr(type(build()), "translate", lambda self, x, *_: Translation(x + 0 * torch.randn(1)))
    monkeypatch.setattr(torch.random, "fork_rng", lambda *_: torch.no_grad())
    other, _ = fit(tmp_path / "other", settings)
    assert plain.weights_id != other.weights_id


def test_modes_are_put_back_one_by_one() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.Dropout(0.5))).train()
    model[0].eval()
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), undisturbed(model, CPU):
        assert not any(m.training for m in model.modules())
        torch.rand(1), np.random.rand(), random.random()
        raise ZeroDivisionError
    assert [m.training for m in model.modules()] == [True, False, True, True]
    assert random.getstate() == state[0] and np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("sizes\ndo not match"), "sizes do not match"),
        (KeyError("a2b"), "'a2b'"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_look_that_fails_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def broken(*_: Any) -> Translation:
        raise error

    monkeypatch.setattr(Tiny, "translate", broken)
    result, model = fit(tmp_path, replace(LONG, iterations=120), model=tiny())
    assert result.warnings == [f"{d}: translate failed at step 120: {words}" for d in ("a2b", "b2a")]
    assert model.training


def test_a_user_may_end_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any) -> Translation:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tiny, "translate", slow)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, replace(LONG, iterations=120), model=tiny())


def test_only_the_last_stage_is_looked_at(tmp_path: Path) -> None:
    model, settings = tiny("constant"), replace(LONG, iterations=120)
    result = engine.fit(model, Source(), settings, tmp_path, "train", 0, "tiny", CPU, Progress("", quiet=True), last=False)
    assert model.looked == [] and result.warnings == []


def test_warnings_reach_the_record_and_the_leaderboard(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "FIRST", 1)
    monkeypatch.setattr(METHODS.get("toy"), "translate", lambda self, x, *_: Translation(0 * x + 0.5))
    monkeypatch.setattr("bench.cli._spec", _without_imports(cli._spec))
    answer = bench("run", *toy)
    assert answer.code == 0, answer.err
    text = "a2b: outputs are flat (mean standard deviation 0.0e+00 within an image), step 6, 4 training images"
    assert f"warning: toy: {text}" in answer.err
    found = {name.partition("/")[0]: record["warnings"] for name, record in records(tmp_path / "runs").items()}
    assert found == {"original": [], "toy": [text]}
    assert f"Training of toy: {text}." in " ".join((tmp_path / "runs" / "leaderboard.md").read_text().split())


def _without_imports(plain: Any) -> Any:
    """The toy is registered already, and is not to be imported anew."""

    def spec(options: Any, method: str | None = None) -> Any:
        options.imports = []
        return plain(options, method)

    return spec


def test_looks_cost_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = [0.0]
    look = OutputHook._look

    def timed(*args: Any) -> None:
        started = time.perf_counter()
        look(*args)
        spent[0] += time.perf_counter() - started

    monkeypatch.setattr(OutputHook, "_look", timed)
    result, _ = fit(tmp_path, replace(LONG, iterations=400, checkpoint_interval=400), model=tiny())
    assert 0 < spent[0] < 0.02 * result.cost["seconds"], "a look in 400 steps of the smallest method there is"


# -- the rules -------------------------------------------------------------------------------------------------------------


def test_masks() -> None:
    seen = CollapseWatch()
    seen.see(50, {"mask_a": 0.0})
    assert not seen.warnings, "the first steps do not count"
    seen.see(200, {"mask_a": 0.0, "mask_b": 0.999, "g": 0.0})
    assert "empty" in seen.warnings["mask_a"] and "covers" in seen.warnings["mask_b"] and len(seen.warnings) == 2
    seen.see(300, {"mask_a": 0.2, "mask_b": 0.999})
    assert set(seen.warnings) == {"mask_b"}


def looked(losses: Any, steps: int = 300, total: int = 0, every: int = 10) -> dict[str, str]:
    """Warnings after a run whose losses are functions of the step."""
    seen = CollapseWatch(total)
    for step in range(every, steps + 1, every):
        seen.see(step, {name: value(step) if callable(value) else value for name, value in losses.items()})
        seen.restore(json.loads(json.dumps(seen.state())))
    return seen.warnings


def wave(mean: float, share: float) -> Any:
    return lambda step: mean * (1 + share * (-1) ** (step // 10))


@pytest.mark.parametrize(
    ("losses", "warned"),
    [
        ({"rec": 0.7}, {"rec"}),
        ({"rec": 0.7, "g_total": 0.7}, {"rec", "g_total"}),  # the sum of something else
        ({"d_a": wave(0.5, 0.1), "g_total": 0.7}, {"g_total"}),  # no part of it is known
        ({"g_adv_a": wave(0.5, 0.1), "g_total": 0.7}, set()),  # judged by its part
        ({"g_total": 0.7}, {"g_total"}),
        ({"loss": wave(0.7, 1e-5)}, {"loss"}),
        ({"loss": wave(0.7, 1e-3)}, set()),
        ({"upper": 0.0, "lca_share": 1.0, "pair_accuracy": 1.0}, set()),
        ({"d_hinge": 0.0}, {"d_hinge won"}),
        ({"d_a": wave(0.5, 2e-3)}, {"d_a"}),  # LSGAN at chance
        ({"d_a": wave(0.5, 2e-2)}, set()),
        ({"d_a": wave(-40.0, 0.2), "g_adv_a": wave(12.0, 0.3)}, set()),  # a critic whose loss has no bounds
        ({"d_a": wave(1e-3, 0.9), "g_adv_a": wave(0.98, 0.01)}, {"d_a won"}),
        ({"d_a": wave(1e-3, 0.9), "g_adv_a": lambda step: 5 + step / 100}, {"d_a won"}),  # cross-entropy: it goes on rising
        ({"d_a": wave(1e-3, 0.9), "g_adv_a": wave(0.8, 0.2)}, set()),  # the generators get somewhere
        ({"d_a": wave(0.05, 0.9), "g_adv_a": 0.9}, {"g_adv_a"}),
        ({"d_a": wave(1e-3, 0.9), "g_adv_a": wave(0.8, 0.2), "g_adv_b": wave(0.98, 0.01)}, set()),  # its own is a
        ({"d_style": wave(1e-3, 0.9), "g_adv_a": wave(0.9, 0.01), "g_adv_b": wave(0.9, 0.2)}, set()),  # has none: all
        ({"d_style": wave(1e-3, 0.9), "g_adv_a": wave(0.9, 0.01), "g_adv_b": wave(0.9, 0.02)}, {"d_style won"}),
        ({"d_a": wave(1e-3, 0.9), "d_total": wave(1e-3, 0.9)}, {"d_a won"}),
        ({"d_a": wave(1e-3, 2.0)}, set()),  # a critic's, about 0
        ({"d_a": -1e-3}, {"d_a"}),
        ({"d_pair": wave(1e-3, 0.9), "g_pair": wave(0.9, 0.2), "g_adv_a": wave(0.9, 0.01)}, set()),  # its own falls
        ({"d_pair": wave(1e-3, 0.9), "g_pair": wave(0.9, 0.01), "g_adv_a": wave(0.9, 0.2)}, {"d_pair won"}),
        ({"d_code": 2 * math.log(2), "g_code_a": math.log(2), "g_code_b": math.log(2)}, {"d_code", "g_code_a", "g_code_b"}),
        ({"d_code_chance": 2 * math.log(2), "g_code_a": math.log(2), "g_code_b": math.log(2)}, set()),
        ({"d_code_chance": wave(1e-3, 0.9), "g_code_a": wave(0.9, 0.01)}, {"d_code_chance won"}),
    ],
)
def test_losses(losses: Any, warned: set[str]) -> None:
    assert set(looked(losses)) == warned


def test_opponents() -> None:
    names = ["g_adv_a", "g_adv_a2", "g_adv_b_coarse", "g_adv_b_fine", "g_pair", "g_code_a", "g_code_b", "g_total", "rec_a"]
    found = {d: opponents(d, names) for d in ("d_a", "d_a2", "d_b", "d_pair", "d_code_chance", "d_style")}
    assert found == {
        "d_a": ["g_adv_a"], "d_a2": ["g_adv_a2"], "d_b": ["g_adv_b_coarse", "g_adv_b_fine"], "d_pair": ["g_pair"],
        "d_code_chance": ["g_code_a", "g_code_b"], "d_style": [],
    }  # fmt: skip


@pytest.mark.parametrize("name", [*(n for n in BUILTIN if n != "original"), "mmagic:cyclegan"])
def test_what_every_method_logs_is_understood(name: str) -> None:
    """Each discriminator has its opponents among what is really logged, each opponent is one, and sums are known as such."""
    if name.startswith("mmagic:") and find_spec("mmagic") is None:
        pytest.skip("mmagic is not installed: pip install cxr-bench[mmagic]")
    cls = METHODS.get(name)
    method = checks._build(cls, section_config(cls.Config, load("quick").methods, "methods", name), 1)
    logged: set[str] = set()
    images = checks._images(1)
    for stage, (steps, _) in cls.schedule(method.config, 1, 2).items():
        method.begin(stage)
        optim = {key: OptimWrapper(optimizer=o) for key, o in method.optimizers().items()}
        for step in range(min(steps, 4)):
            logged |= set(method.step(Batch(*images, Draws(0, step, 0, 2, 2)), optim, stage))
    told = {d: opponents(d, logged) for d in logged if d.startswith("d_") and d != "d_total"}
    assert told and all(told.values()), told
    assert {n for n in logged if n.startswith("g_adv")} <= {g for found in told.values() for g in found}
    assert {n for n in logged if n.startswith("d_")} - {"d_total"} <= {n for n in logged if not watch._is_sum(n, logged)}
    assert {d for d in told if d.endswith(watch.CHANCE)} == ({"d_content_chance"} if name == "drit" else set())


def test_long_is_long() -> None:
    assert not looked({"rec": 0.7}, steps=200) and looked({"rec": 0.7}, steps=210)
    assert not looked({"rec": 0.7}, steps=5000, total=100_000) and looked({"rec": 0.7}, steps=5010, total=100_000)
    assert not looked({"rec": 0.7}, steps=900, every=100) and looked({"rec": 0.7}, steps=1000, every=100)


def test_terms_that_come_and_go() -> None:
    seen = CollapseWatch()
    for step in range(10, 310, 10):
        seen.see(
            step, {"d_a": 1e-3 * (1 + step % 3)} | ({"g_adv_a": 0.97 + 0.01 * (step % 40 == 0)} if step % 20 == 0 else {})
        )
    assert seen.warnings["d_a won"] == (
        "d_a: the discriminator has won and teaches the generators nothing (loss 1.0e-03, g_adv_a 0.97 does not fall, "
        "steps 20 to 300)"
    )


def images(n: int = 4, size: int = 32) -> Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda x: -x, ""),
        (lambda x: x * 0.5, ""),
        (lambda x: x.mean() + 0.3 * x, ""),
        (lambda x: x.index_put((torch.tensor(0), torch.tensor(0), torch.arange(8)), torch.tensor(1.0)), ""),  # one region
        (lambda x: x + 0.03, "copies"),
        (lambda x: 0 * x + 0.4, "flat"),
        (lambda x: 0 * x - 1, "flat"),
        (lambda x: x[:1].expand_as(x) + 0.05 * x, "nearly the same"),
        (lambda x: x.sign() * 0.999, "saturated"),
        (lambda x: x / 0, "not finite"),
    ],
)
def test_outputs(made: Any, words: str) -> None:
    seen = CollapseWatch()
    x = images()
    seen.see_outputs(99, "a2b", x, made(x))
    assert not seen.warnings, "too early"
    seen.see_outputs(100, "a2b", x, made(x))
    assert (words in seen.warnings["outputs a2b"]) if words else not seen.warnings, seen.warnings
    seen.see_outputs(200, "a2b", x, -x)
    assert not seen.warnings


def test_what_came_in_is_not_held_against_the_output() -> None:
    seen = CollapseWatch()
    dark = images().where(images() > 0.6, torch.tensor(-1.0))  # films with wide black borders
    seen.see_outputs(100, "a", dark, torch.where(dark > 0, 0.5, dark))
    flat = torch.zeros(4, 1, 8, 8)
    seen.see_outputs(100, "b", flat, flat + 0.5)
    equal = images(1).expand(4, -1, -1, -1)
    seen.see_outputs(100, "c", equal, -equal)
    seen.see_outputs(100, "d", images(1), -images(1))
    assert not seen.warnings


def test_statistics() -> None:
    x = torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    y = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]]).view(2, 1, 2, 2)
    assert output_statistics(x, y) == pytest.approx({
        "finite": 1.0, "flat_share": 0.0, "detail": (1 / 3) ** 0.5 / 2, "spread": (0.125**0.5 + 0.125**0.5) / 2,
        "spread_in": 0.5**0.5, "changed": 0.5, "edges": 0.25, "edges_in": 0.0,
    })  # fmt: skip
