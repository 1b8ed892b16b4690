"""The engine: resuming is exact; averages, accumulation, schedules and precision do what they say."""

from __future__ import annotations

import errno
import mmap
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_tools import (  # noqa: F401
    CPU,
    SETTINGS,
    InterruptedTrainingError,
    Source,
    _toy,
    build,
    fit,
    interrupt,
    losses,
    same,
    weights,
)
from method_tools import one_thread  # noqa: F401  (a fixture)
from torch import nn

from bench import engine, hooks
from bench.contracts import FrozenHolder, Method
from bench.errors import BenchError, UsageError
from bench.progress import Progress
from bench.registry import METHODS
from bench.runner import ParallelOptimWrapper

# -- resuming --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9},
        {"accumulate": 3},
        {"accumulate": 2, "ema": 0.9, "checkpoint_interval": 3, "precision": "bf16"},
        {"channels_last": True},
    ],
    ids=["plain", "ema", "accumulate", "all", "channels last"],
)
def test_2n_is_n_resume_n_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = replace(SETTINGS, **changes)
    straight, _ = fit(tmp_path / "straight", settings)
    interrupt(tmp_path / "cut", 5, settings)
    torch.manual_seed(99)  # what other work did to the generators must not matter
    np.random.seed(99)
    source = Source()
    resumed, _ = fit(tmp_path / "cut", settings, source)

    start = 3 if settings.checkpoint_interval == 3 else 4
    assert source.asked == list(range(start, 8)), "resuming reads no batch twice and leaves none out"
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight")
    assert len(losses(tmp_path / "cut")) == 8
    assert same(weights(straight.weights), weights(resumed.weights))
    assert straight.weights_id == resumed.weights_id and straight.losses == resumed.losses
    last = [torch.load(tmp_path / d / "iter_8.pth", weights_only=True) for d in ("straight", "cut")]
    for part in ("state_dict", "optimizer", "random_state", "ema", "accumulated"):
        assert same(last[0].get(part), last[1].get(part)), part


def test_resuming_twice_and_at_the_end(tmp_path: Path) -> None:
    straight, _ = fit(tmp_path / "straight")
    interrupt(tmp_path / "cut", 3)
    interrupt(tmp_path / "cut", 7)
    fit(tmp_path / "cut")
    (tmp_path / "cut" / "weights.pth").unlink()  # killed after the last checkpoint, before the weights were written
    resumed, _ = fit(tmp_path / "cut")
    assert resumed.weights_id == straight.weights_id and losses(tmp_path / "cut") == losses(tmp_path / "straight")


def test_the_toy_would_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the random states the resumed training ends elsewhere: the tests above can fail."""
    straight, _ = fit(tmp_path / "straight")
    interrupt(tmp_path / "cut", 5)
    monkeypatch.setattr(hooks.RandomStateHook, "after_load_checkpoint", lambda *_, **__: None)
    torch.manual_seed(99)
    resumed, _ = fit(tmp_path / "cut")
    assert resumed.weights_id != straight.weights_id


def test_gradients_left_in_another_network_do_not_reach_its_next_update(tmp_path: Path) -> None:
    for sloppy in (True, False):
        fit(tmp_path / str(sloppy), model=build(own_noise=False, sloppy=sloppy))
    assert losses(tmp_path / "True") == losses(tmp_path / "False")


def test_seed_decides(tmp_path: Path) -> None:
    one, _ = fit(tmp_path / "a")
    two, _ = fit(tmp_path / "b")
    other = engine.fit(build(), Source(), SETTINGS, tmp_path / "c", "train", 1, "toy", CPU, Progress("", quiet=True), 1)
    assert one.weights_id == two.weights_id != other.weights_id


def test_a_log_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    interrupt(tmp_path, 5)
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 5, "g": 0.')
    fit(tmp_path)
    assert [line["step"] for line in losses(tmp_path)] == list(range(1, 9))


def test_shorter_budget_than_the_checkpoint_is_refused(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(UsageError, match=r"iter_8.pth is beyond train.iterations=4; remove"):
        fit(tmp_path, replace(SETTINGS, iterations=4))


def test_cost_losses_and_warnings_cover_all_parts(tmp_path: Path) -> None:
    """Killed and carried on, also after the last checkpoint: train.json tells of the whole training."""
    interrupt(tmp_path, 5)
    path = tmp_path / "iter_4.pth"
    content = torch.load(path, weights_only=True)
    assert 0 < content["cost"]["seconds"] < 60 and content["cost"]["peak_memory_bytes"] != 0
    content["cost"]["seconds"] += 1000
    content["watched"]["warnings"]["mask_a"] = "mask_a: empty"
    torch.save(content, path)
    result, _ = fit(tmp_path)
    (tmp_path / "weights.pth").unlink()
    again, _ = fit(tmp_path)  # nothing is left to do but to write the weights
    for found in (result, again):
        assert 1000 < found.cost["seconds"] < 1060
        assert found.cost["images_per_second"] == pytest.approx(16 / found.cost["seconds"])
        assert found.warnings == ["mask_a: empty"]
        assert found.losses == {k: losses(tmp_path)[-1][k] for k in ("g", "d")}
    assert again.weights_id == result.weights_id


def test_the_log_is_cut_back_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path, 5)
    before, rename = losses(tmp_path), os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("log.jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BenchError, match="no space left"):
        fit(tmp_path)
    assert losses(tmp_path) == before and len(before) == 5


def test_resuming_says_nothing_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    interrupt(tmp_path, 5)
    fit(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_stage_begins_with_the_same_numbers_however_it_is_come_to(tmp_path: Path) -> None:
    """`begin` may draw: the second of two stages starts alike whether the process trained the first or found it trained."""

    def train(folder: Path, stages: tuple[str, ...], model: Method, seed: int = 0) -> list[float]:
        drawn: list[float] = []
        model.begin = lambda stage: drawn.append(  # type: ignore[method-assign]
            float(torch.rand(1)) + float(np.random.rand()) + random.random()
        )
        for stage in stages:
            engine.fit(model, Source(), SETTINGS, folder / stage, stage, seed, "toy", CPU, Progress("", quiet=True), 1)
        return drawn

    straight = train(tmp_path / "a", ("first", "second"), build())
    train(tmp_path / "b", ("first",), build())
    torch.rand(5)
    assert train(tmp_path / "b", ("first", "second"), build()) == straight and straight[0] != straight[1]
    assert train(tmp_path / "c", ("first",), build(), seed=1) != straight[:1]
    assert (tmp_path / "a" / "second" / "weights.pth").read_bytes() == (tmp_path / "b" / "second" / "weights.pth").read_bytes()


def test_tf32_of_a_training_ends_with_it(tmp_path: Path) -> None:
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    for wanted in (True, False):
        engine.set_precision(replace(SETTINGS, tf32=not wanted))
        model, seen = build(), []
        model.begin = lambda stage, seen=seen: seen.append([f.allow_tf32 for f in flags])  # type: ignore[method-assign]
        step = model.step
        model.step = lambda *a, seen=seen, step=step: (seen.append([f.allow_tf32 for f in flags]), step(*a))[1]  # type: ignore
        fit(tmp_path / str(wanted), replace(SETTINGS, tf32=wanted, iterations=2), model=model)
        assert seen == [[wanted] * 2] * 3
        assert [f.allow_tf32 for f in flags] == [not wanted] * 2
        with pytest.raises(InterruptedTrainingError):
            fit(tmp_path / f"cut-{wanted}", replace(SETTINGS, tf32=wanted), Source(stop=1))
        assert [f.allow_tf32 for f in flags] == [not wanted] * 2


def test_peak_memory_on_a_cpu_is_that_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mmap.mmap(-1, 300_000_000) as held:  # given back before the training; what is freed on a heap may be kept
        held.write(b"1" * len(held))
        earlier = hooks.peak_memory()
    result, _ = fit(tmp_path / "a")
    if not hooks.reset_peak_memory():
        assert result.cost["peak_memory_bytes"] is None
        return
    assert earlier is not None and 0 < result.cost["peak_memory_bytes"] < earlier - 200_000_000
    monkeypatch.setattr(hooks, "reset_peak_memory", lambda: False)
    result, _ = fit(tmp_path / "b")
    assert result.cost["peak_memory_bytes"] is None
    interrupt(tmp_path / "c", 5)
    monkeypatch.undo()
    result, _ = fit(tmp_path / "c")
    assert result.cost["peak_memory_bytes"] is None, "a part of the training is not known"


# -- averages, accumulation, schedule, precision ---------------------------------------------------------------------------


def test_ema_is_what_translation_uses_and_training_does_not(tmp_path: Path) -> None:
    plain, raw = fit(tmp_path / "raw", replace(SETTINGS, iterations=3))
    averaged, model = fit(tmp_path / "ema", replace(SETTINGS, iterations=3, ema=0.5))
    assert same(raw.state_dict(), model.state_dict()), "the average changes no training step, and leaves the model as it was"
    expected = None
    for done in (1, 2, 3):
        _, after = fit(tmp_path / f"after{done}", replace(SETTINGS, iterations=done), model=_constant_rate())
        now = after.module.weight.detach()
        decay = min(0.5, (1 + done) / (10 + done))
        expected = now if expected is None else decay * expected + (1 - decay) * now
    _, model = fit(tmp_path / "again", replace(SETTINGS, iterations=3, ema=0.5), model=_constant_rate())
    assert torch.allclose(weights(tmp_path / "again" / "weights.pth")["module.weight"], expected, atol=1e-7)
    assert not torch.equal(weights(averaged.weights)["module.weight"], weights(plain.weights)["module.weight"])
    assert torch.equal(weights(averaged.weights)["critic.0.weight"], weights(plain.weights)["critic.0.weight"])


def test_modules_without_weights_are_not_averaged(tmp_path: Path) -> None:
    model = build()
    modules = {"module": model.module, "empty": nn.Identity(), "smooth": nn.AvgPool2d(2)}
    model.inference_modules = lambda: modules  # type: ignore[method-assign]
    fit(tmp_path, replace(SETTINGS, iterations=3, ema=0.9), model=model)
    assert set(torch.load(tmp_path / "iter_3.pth", weights_only=True)["ema"]) == {"module"}


@pytest.mark.parametrize("cut", [None, 5])
def test_averages_move_with_the_updates_of_the_generators(tmp_path: Path, cut: int | None) -> None:
    """A method that trains its generators in every third step averages as over these steps alone, resumed or not."""
    settings = replace(SETTINGS, iterations=8, ema=0.5, checkpoint_interval=1)

    def model() -> Method:
        made = _constant_rate()
        learn = made.learn
        made.learn = lambda fake, batch, optim: (  # type: ignore[method-assign]
            learn(fake, batch, optim) if (batch.draws.step + 1) % 3 == 0 else fake.detach().mean()
        )
        return made

    if cut:
        with pytest.raises(InterruptedTrainingError):
            fit(tmp_path / "run", settings, Source(stop=cut), model())
    fit(tmp_path / "run", settings, model=model())
    expected = None
    for update, done in enumerate((3, 6), 1):
        _, after = fit(tmp_path / f"after{done}", replace(SETTINGS, iterations=done), model=model())
        decay, now = min(0.5, (1 + update) / (10 + update)), after.module.weight.detach()
        expected = now if expected is None else decay * expected + (1 - decay) * now
    average = torch.load(tmp_path / "run" / "iter_8.pth", weights_only=True)["ema"]["module"]
    assert int(average["n_averaged"]) == 2
    torch.testing.assert_close(average["module.weight"], expected, rtol=0, atol=1e-7)


def _constant_rate() -> Method:
    model = build()
    model.lr_factor = lambda step, total: 1.0  # type: ignore[method-assign]
    return model


def test_accumulation_updates_every_nth_step_with_the_mean_gradient(tmp_path: Path) -> None:
    model = build(own_noise=False)
    before = model.module.weight.detach().clone()
    fit(tmp_path / "one", replace(SETTINGS, iterations=1, accumulate=2), model=model)
    assert torch.equal(model.module.weight, before), "one of two steps: no update yet"

    calm = {"own_noise": False, "sloppy": False}
    accumulated = _sgd(build(**calm))
    fit(tmp_path / "two", replace(SETTINGS, iterations=2, accumulate=2), model=accumulated)
    expected = _sgd(build(**calm))
    gradients = torch.zeros_like(expected.critic[0].weight)
    for step in range(2):  # the critic's loss does not depend on the generator's update, as there is none
        batch = Source().batch(step, CPU)
        fake = expected.module(batch.opacity + 0.1 * expected.noise(batch)).detach()
        loss = (expected.critic(fake) + 1).square().mean() + (expected.critic(batch.clear) - 1).square().mean()
        gradients += torch.autograd.grad(loss, expected.critic[0].weight)[0] / 2
    moved = accumulated.critic[0].weight.detach() - expected.critic[0].weight.detach()
    assert torch.allclose(moved, -0.1 * gradients, atol=1e-6) and gradients.abs().max() > 1e-4


def _sgd(model: Method) -> Method:
    model.optimizers = lambda: {  # type: ignore[method-assign]
        "G": torch.optim.SGD(model.module.parameters(), lr=0.0),
        "D": torch.optim.SGD(model.critic.parameters(), lr=0.1),
    }
    model.lr_factor = lambda step, total: 1.0  # type: ignore[method-assign]
    return model


def test_learning_rate_follows_the_method(tmp_path: Path) -> None:
    _, model = fit(tmp_path)
    rates = [line["lr_G"] for line in losses(tmp_path)]
    assert rates == pytest.approx([0.01 * model.lr_factor(step, 8) for step in range(8)])
    assert rates[0] == rates[3] == pytest.approx(0.01) and rates[7] == pytest.approx(0.0025)
    interrupt(tmp_path / "cut", 7)
    fit(tmp_path / "cut")
    assert [line["lr_G"] for line in losses(tmp_path / "cut")] == rates


def test_default_schedule_is_constant_then_linear_to_zero() -> None:
    factors = [build().lr_factor(step, 100) for step in range(101)]
    assert factors[:50] == [1.0] * 50 and factors[75] == pytest.approx(0.5) and factors[100] == 0.0


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"channels_last": True}, {"precision": "bf16", "channels_last": True}]
)
def test_fast_paths_stay_near_the_plain_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    fit(tmp_path / "plain", model=build(own_noise=False))
    fit(tmp_path / "fast", replace(SETTINGS, **changes), model=build(own_noise=False))
    plain, fast = losses(tmp_path / "plain"), losses(tmp_path / "fast")
    assert [x["g"] for x in fast] == pytest.approx([x["g"] for x in plain], rel=0.05)
    if "precision" in changes:
        assert [x["g"] for x in fast] != [x["g"] for x in plain], "autocast was on"
    assert all(v.dtype == torch.float32 for k, v in weights(tmp_path / "fast" / "weights.pth").items() if "weight" in k)


def _ours() -> Method:
    from bench.data.contract import FINDINGS
    from bench.prior import DensePrior

    torch.manual_seed(3)
    cls = METHODS.get("ours")
    config = cls.Config(width=4, n_res=1, disc_width=4, disc_init="kaiming", beta2=0.999)
    return cls(config, 1, DensePrior("densenet_small", FINDINGS, 64))


def _compiled(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if module._compiled_call_impl is not None}


def test_what_a_step_really_calls_is_compiled() -> None:
    """Not modules that are only used through other methods: compiling those would compile nothing."""
    ours = _ours()
    names = set(ours.state_dict())
    engine.compile_networks(ours)
    parts = {f"gen_{d}.{part}" for d in ("ab", "ba") for part in ("content", "style", "mlp", "decoder")}
    assert _compiled(ours) == {*parts, "disc.a", "disc.b", "disc_pair.a"}
    assert set(ours.state_dict()) == names, "weights keep their names"
    called: set[str] = set()
    for name, module in ours.named_modules():
        module.register_forward_pre_hook(lambda *_, n=name: called.add(n))
    ours.train()
    for name in _compiled(ours):
        ours.get_submodule(name)._compiled_call_impl = None
    source = Source(size=64)
    optim = {n: ParallelOptimWrapper(1, optimizer=o) for n, o in ours.optimizers().items()}
    ours.step(source.batch(0, CPU), optim, "train")
    assert {*parts, "disc.a", "disc.b", "disc_pair.a"} <= called and not {"gen_ab", "gen_ba"} & called


def test_by_default_the_children_are_compiled_but_frozen_ones() -> None:
    model = build()
    model.bank = nn.ModuleDict({"one": nn.Linear(2, 2)})  # cannot be called itself
    model.holder = FrozenHolder(nn.Linear(2, 2))
    engine.compile_networks(model)
    assert _compiled(model) == {"module", "critic", "bank.one"}


@pytest.mark.slow
def test_ours_trains_compiled_in_bf16(tmp_path: Path) -> None:
    settings = replace(SETTINGS, iterations=3, precision="bf16")
    for name, on in (("plain", False), ("compiled", True)):
        fit(tmp_path / name, replace(settings, compile=on), Source(size=64), _ours())
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    for name in ("g_total", "d_total", "rec"):
        assert [x[name] for x in compiled] == pytest.approx([x[name] for x in plain], rel=0.05), name


@pytest.mark.slow
def test_compiled_training_is_finite_and_near_the_plain_one(tmp_path: Path) -> None:
    fit(tmp_path / "plain", model=build(own_noise=False))
    fit(tmp_path / "compiled", replace(SETTINGS, compile=True), model=build(own_noise=False))
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert [x["g"] for x in compiled] == pytest.approx([x["g"] for x in plain], rel=1e-3)
