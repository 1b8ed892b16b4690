"""Precision and compilation: chosen by flags, told, recorded, and never by themselves in `paper`."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Bench
from engine_tools import (  # noqa: F401
    CPU,
    SETTINGS,
    _toy,
    build,
    fit,
    losses,
)
from method_tools import one_thread  # noqa: F401  (a fixture)

from bench import device, doubts, engine, watch
from bench.config import RunOptions, load, train_config
from bench.device import require_bf16, resolve_precision
from bench.errors import PreflightError
from bench.experiment import RunSpec
from bench.registry import METHODS

GPU = torch.device("cuda", 0)


@pytest.fixture
def ratio(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what the probe measures; ``ratio.asked`` counts its measurements."""

    class Ratio:
        asked = 0

        def __call__(self, value: float) -> None:
            def measure(limit: float) -> float:
                self.asked += 1
                return value

            monkeypatch.setattr(device, "_measure", measure)

    return Ratio()


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda place: place.type != "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Old GPU")


# -- what is chosen --------------------------------------------------------------------------------------------------------


def test_paper_changes_no_number_by_itself() -> None:
    config = load("paper")
    for settings in (config.train, *[train_config(config, name) for name in METHODS.names()]):
        assert (settings.precision, settings.compile, settings.tf32, settings.channels_last) == ("fp32", False, False, False)


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_presets_for_a_gpu_change_the_memory_layout_only_where_they_compile(preset: str) -> None:
    """By itself the layout gains nothing there: norms and reflection pads drop it."""
    config = load(preset)
    for settings in (config.train, *[train_config(config, name) for name in METHODS.names()]):
        assert settings.compile or not settings.channels_last


@pytest.mark.parametrize(
    ("wanted", "speedup", "found", "out", "err"),
    [
        ("auto", 2.0, "bf16", "precision bf16: bf16 trains convolutions 2.00 times as fast as fp32 on this CPU", ""),
        ("auto", 1.3, "bf16", "precision bf16: ", ""),
        ("auto", 1.2, "fp32", "precision fp32: bf16 trains convolutions 1.20 times as fast as fp32 on this CPU", ""),
        ("bf16", 2.0, "bf16", "", ""),
        ("bf16", 0.4, "bf16", "", "warning: --precision bf16: bf16 trains convolutions 0.40 times as fast as fp32"),
        ("fp32", 9.0, "fp32", "", ""),
    ],
)
def test_on_a_cpu(
    ratio: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], wanted: str, speedup: float, found: str, out: str, err: str
) -> None:
    ratio(speedup)
    assert resolve_precision(wanted, CPU, tmp_path / "bf16.json") == found
    said = capfd.readouterr()
    for text, start in zip(said, (out, err), strict=True):
        assert text.startswith(start) if start else not text
        assert len(text.splitlines()) == bool(start)
    assert ratio.asked == (wanted != "fp32")


def test_what_was_measured_is_remembered(ratio: Any, tmp_path: Path) -> None:
    """A run that is carried on must choose as it did before, whatever the neighbours do."""
    ratio(2.0)
    path = tmp_path / "cache" / "bf16.json"
    assert resolve_precision("auto", CPU, path) == "bf16"
    ratio(1.0)
    assert resolve_precision("auto", CPU, path) == "bf16" and ratio.asked == 1
    torch.set_num_threads(2)
    assert resolve_precision("auto", CPU, path) == "fp32" and ratio.asked == 2, "other threads, another machine"
    torch.set_num_threads(1)
    assert resolve_precision("auto", CPU, path) == "bf16" and ratio.asked == 2


def test_on_a_gpu_without_bf16(old_gpu: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PreflightError, match=r"precision=bf16: Old GPU does not compute in bf16\. Use --precision fp32"):
        resolve_precision("bf16", GPU, tmp_path / "x.json")
    assert resolve_precision("auto", GPU, tmp_path / "x.json") == "fp32"
    assert capfd.readouterr().out == "precision fp32: Old GPU does not compute in bf16\n"
    assert not (tmp_path / "x.json").exists(), "nothing is measured"


def test_on_a_gpu_with_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda place: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "New GPU")
    assert resolve_precision("auto", GPU, tmp_path / "x.json") == resolve_precision("bf16", GPU, tmp_path / "x.json") == "bf16"
    assert capfd.readouterr().out == "precision bf16: New GPU computes in bf16\n"


@pytest.mark.parametrize(
    ("sets", "remedy"),
    [
        (["train.precision=bf16"], "--set train.precision=fp32"),
        (["budgets.toy.precision=bf16"], "--set budgets.toy.precision=fp32"),
        (["train.precision=bf16", "budgets.toy.precision=fp32"], ""),
    ],
)
def test_a_configuration_that_asks_an_old_gpu_for_bf16_is_refused(
    old_gpu: None, monkeypatch: pytest.MonkeyPatch, sets: list[str], remedy: str
) -> None:
    monkeypatch.setattr(device, "require_bf16", require_bf16)
    spec = RunSpec(("original", "toy"), "all", "quick", load("quick", None, sets), ("synthetic",), (0,), RunOptions())
    if remedy:
        with pytest.raises(PreflightError, match=f"Use {remedy}"):
            doubts.check_speed(spec, GPU)
    else:
        doubts.check_speed(spec, GPU)
    doubts.check_speed(spec, CPU)


def test_the_probe_itself() -> None:
    state, started = torch.get_rng_state(), time.monotonic()
    with torch.no_grad():
        found = device._measure(0.1)
    assert 0.01 < found < 100 and time.monotonic() - started < 30
    assert torch.equal(torch.get_rng_state(), state)


# -- flags -----------------------------------------------------------------------------------------------------------------


def test_flags_set_the_keys_and_the_record_tells(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, ratio: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratio(3.0)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    plain = bench("run", *toy)
    auto = bench("run", *toy, "--precision", "auto")
    assert plain.code == auto.code == 0, auto.err
    assert auto.out.startswith("precision bf16: bf16 trains convolutions 3.00 times") and "precision " not in plain.out
    found = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "toy").rglob("records/*.json")]
    assert sorted(record["cost"]["precision"] for record in found) == ["bf16", "fp32"]
    named = bench("run", *toy, "--precision", "bf16")
    assert "plan      7 stages cached\n" in named.out, "the same key, however it was chosen"
    again = bench("run", *toy, "--set", "train.precision=bf16", "--precision", "fp32")
    assert "plan      7 stages cached\n" in again.out
    listed = bench("run", *toy, "--precision", "auto", "--dry-run", "--json")
    assert listed.out.startswith("[") and "precision bf16" in listed.err


def test_a_wrong_word_measures_nothing(bench: Bench, toy: tuple[str, ...], ratio: Any) -> None:
    ratio(3.0)
    answer = bench("run", *toy, "--precision", "fp16")
    assert answer.code == 2 and "unknown word 'fp16'" in answer.last
    answer = bench("run", *toy, "--precision", "auto", "--set", "train.iteration=5")
    assert answer.code == 2 and ratio.asked == 0


def test_compiling_for_a_short_run_is_doubted(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(engine, "compile_networks", compiled.append)
    words = "warning: toy: compiling takes about a minute on a CPU, more than 6 iterations win back"
    answer = bench("run", *toy, "--compile")
    assert answer.code == 0 and words in answer.err and len(compiled) == 1
    again = bench("run", *toy, "--compile")
    assert again.code == 0 and words not in again.err, "nothing is left to train"
    other = bench("run", *toy)
    assert other.code == 0 and words not in other.err and len(compiled) == 1
    monkeypatch.setattr(doubts, "SHORT", 6)
    long = bench("run", *toy, "--compile", "--seeds", "1")
    assert long.code == 0 and words not in long.err and len(compiled) == 2


# -- training --------------------------------------------------------------------------------------------------------------


def test_bf16_trains_as_fp32_does(tmp_path: Path) -> None:
    settings = replace(SETTINGS, iterations=40, checkpoint_interval=40)
    for precision in ("fp32", "bf16"):
        fit(tmp_path / precision, replace(settings, precision=precision), model=build(own_noise=False))
    plain, fast = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    for name in ("g", "d"):
        a, b = ([line[name] for line in log] for log in (plain, fast))
        assert b[:5] == pytest.approx(a[:5], rel=0.05), name
        assert sum(b) == pytest.approx(sum(a), rel=0.1), "then two networks that learn from each other drift apart"
        assert a != b, "it was on"


@pytest.mark.slow
def test_looks_at_outputs_compile_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch translates in another mode and at another batch size: compiled anew it would cost minutes."""
    monkeypatch.setattr(watch, "FIRST", 1)
    graphs: list[int] = []
    for every in (2, 100):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        settings = replace(SETTINGS, iterations=6, compile=True, checkpoint_interval=every)
        fit(tmp_path / str(every), settings, model=build(own_noise=False))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0
    two, one = (weights["g"] for weights in (losses(tmp_path / "2")[-1], losses(tmp_path / "100")[-1]))
    assert two == one
