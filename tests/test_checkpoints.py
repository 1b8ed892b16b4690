"""Checkpoints are safe; bad numbers and full disks stop a training with what was good kept."""

from __future__ import annotations

import errno
import json
import os
import pickle
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
from mmengine.logging import HistoryBuffer, MessageHub
from torch import nn

from bench import engine, hooks, progress
from bench.contracts import Batch
from bench.errors import BenchError, TrainingError
from bench.files import replace_atomically
from bench.progress import Progress
from bench.registry import METHODS

# -- checkpoints -----------------------------------------------------------------------------------------------------------


def test_checkpoint_with_history_buffers_resumes_under_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, step = build(), METHODS.get("toy").step

    def logged(self: Any, batch: Batch, *args: Any) -> Any:
        hub = MessageHub.get_current_instance()
        hub.update_scalar("train/own", np.float64(batch.draws.step))
        hub.update_info("note", np.float32(0.5))
        return step(self, batch, *args)

    monkeypatch.setattr(METHODS.get("toy"), "step", logged)
    with pytest.raises(InterruptedTrainingError):
        fit(tmp_path, source=Source(stop=5), model=model)
    checkpoint = torch.load(tmp_path / "iter_4.pth", weights_only=True)
    buffer = checkpoint["message_hub"]["log_scalars"]["train/own"]
    assert isinstance(buffer, HistoryBuffer) and buffer.mean() == pytest.approx(1.5) and buffer.current() == 3
    assert buffer.statistics("mean") == pytest.approx(1.5)
    fit(tmp_path)
    assert len(losses(tmp_path)) == 8


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(Path(os.environ["EVIL_TARGET"])),)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL_TARGET", str(tmp_path / "pwned"))
    interrupt(tmp_path, 5)
    content = torch.load(tmp_path / "iter_4.pth", weights_only=True)
    torch.save({**content, "evil": Evil()}, tmp_path / "iter_4.pth")
    with pytest.raises(BenchError, match=r"iter_4.pth cannot be loaded .*Remove it and run the same command again"):
        fit(tmp_path)
    assert not (tmp_path / "pwned").exists()
    pickle.loads(pickle.dumps(Evil()))  # the same bytes do run code where pickle is allowed to
    assert (tmp_path / "pwned").exists()


def test_a_damaged_checkpoint_is_named_and_the_one_before_carries_on(tmp_path: Path) -> None:
    straight, _ = fit(tmp_path / "straight")
    interrupt(tmp_path / "cut", 7)
    last = tmp_path / "cut" / "iter_6.pth"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(BenchError, match=r"iter_6.pth cannot be loaded"):
        fit(tmp_path / "cut")
    last.unlink()
    resumed, _ = fit(tmp_path / "cut")
    assert resumed.weights_id == straight.weights_id


def test_a_checkpoint_of_other_networks_is_an_error_not_a_warning(tmp_path: Path) -> None:
    interrupt(tmp_path, 5)
    content = torch.load(tmp_path / "iter_4.pth", weights_only=True)
    del content["state_dict"]["module.weight"]
    torch.save(content, tmp_path / "iter_4.pth")
    with pytest.raises(BenchError, match=r"iter_4.pth cannot be loaded"):
        fit(tmp_path)


def test_checkpoints_appear_whole_and_only_two_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = []
    rename = os.replace

    def watched(source: Any, target: Any) -> None:
        if str(target).endswith(".pth") and "iter_" in str(target):
            whole.append(torch.load(source, weights_only=True)["meta"]["iter"])
        rename(source, target)

    monkeypatch.setattr(os, "replace", watched)
    fit(tmp_path)
    assert whole == [2, 4, 6, 8]
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["iter_6.pth", "iter_8.pth", "weights.pth"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_latest_checkpoint_goes_by_number_and_ignores_unfinished_ones(tmp_path: Path) -> None:
    assert engine.latest_checkpoint(tmp_path) is None
    for name in ("iter_9.pth", "iter_10.pth", ".iter_11.pth.tmp", "iter_x.pth"):
        (tmp_path / name).touch()
    assert engine.latest_checkpoint(tmp_path) == (tmp_path / "iter_10.pth", 10)


def test_weights_of_other_networks_name_the_file(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(BenchError, match=r"weights.pth does not fit Linear: "):
        engine.load_weights(nn.Linear(2, 2), tmp_path / "weights.pth")


# -- bad numbers, full disks -----------------------------------------------------------------------------------------------


def test_nan_names_iteration_and_term_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"loss 'g' is nan at iteration 6\. Last good checkpoint kept: .*iter_4.pth\. Lower"
    ):
        fit(tmp_path, model=build(nan_at=6))
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["iter_2.pth", "iter_4.pth"]
    assert all(np.isfinite(v) for line in losses(tmp_path) for v in line.values())


def test_nan_between_two_looks_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"'g' is nan at iteration 4\. .*iter_2.pth"):
        engine.fit(build(nan_at=4), Source(), SETTINGS, tmp_path, "train", 0, "toy", CPU, Progress("", quiet=True), 100)
    assert not (tmp_path / "iter_4.pth").exists()


def test_nan_before_the_first_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"at iteration 1\. Last good checkpoint kept: none yet"):
        fit(tmp_path, model=build(nan_at=1))


def test_a_weight_that_is_not_finite_never_reaches_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = METHODS.get("toy").step

    def broken(self: Any, batch: Batch, *args: Any) -> Any:
        if batch.draws.step == 2:
            self.unused.data[1] = float("nan")  # no loss shows it
        return step(self, batch, *args)

    monkeypatch.setattr(METHODS.get("toy"), "step", broken)
    expected = (
        r"weight 'unused' holds values that are not finite after iteration 4\. Last good checkpoint kept: .*iter_2.pth"
    )
    with pytest.raises(TrainingError, match=expected):
        fit(tmp_path)
    assert [p.name for p in tmp_path.glob("*.pth")] == ["iter_2.pth"]


def test_not_finite_looks_at_every_tensor() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm2d(2))
    model.register_parameter("empty", nn.Parameter(torch.zeros(0)))
    model[0].weight.data.fill_(3e38)  # large, but a number
    assert hooks.not_finite(model) == "" and hooks.not_finite(nn.ReLU()) == ""
    model[1].running_var[0] = float("-inf")
    assert hooks.not_finite(model) == "1.running_var"


def test_an_error_in_a_step_tells_where(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the method itself") as caught:
        fit(tmp_path, model=build(error_at=3))
    assert caught.value.__notes__ == ["iteration 3 of stage 'train'"]


def test_full_disk_keeps_the_last_checkpoint_and_carries_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, _ = fit(tmp_path / "straight")
    rename = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("iter_6.pth"):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BenchError, match=r"no space left on device .*iter_6.pth\. Last good checkpoint kept: .*iter_4.pth"):
        fit(tmp_path / "full")
    assert not list((tmp_path / "full").glob(".*.tmp")), "half a checkpoint would fill the disk for good"
    monkeypatch.setattr(os, "replace", rename)
    resumed, _ = fit(tmp_path / "full")
    assert resumed.weights_id == straight.weights_id


def test_full_disk_is_told_for_weights_and_any_other_file(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    target = tmp_path / "weights.pth"
    target.write_text("old")
    (tmp_path / f".weights.pth.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(BenchError, match=r"no space left on device while writing .*weights.pth"):
        engine.save_tensors(target, {"a": torch.zeros(1000)})
    assert target.read_text() == "old"

    def fill(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.EDQUOT, "quota")

    with pytest.raises(BenchError, match="no space left"):
        replace_atomically(target, fill)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pth"]


def test_the_line_of_progress_shows_the_totals() -> None:
    log = {"bam": 1.0, "d_a": 1.0, "d_total": 3.0, "g_total": 2.0, "mask_a": 0.1}
    assert list(progress._headline(log).items()) == [("g_total", 2.0), ("d_total", 3.0), ("mask_a", 0.1)]
    assert progress._headline({"loss": 1.0}) == {"loss": 1.0}
    assert list(progress._headline({"x": 1.0, "y": 2.0, "z": 3.0, "w": 4.0})) == ["x", "y", "z"]


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_terms_may_differ_from_step_to_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    model = build()
    plain = type(model).step

    def step(self: object, batch: Batch, optim: object, stage: str) -> dict[str, torch.Tensor]:
        losses = plain(self, batch, optim, stage)
        return losses if batch.draws.step % 2 else {**losses, "rare": torch.tensor(value if batch.draws.step == 4 else 1.5)}

    monkeypatch.setattr(type(model), "step", step)
    if value != value:  # noqa: PLR0124
        with pytest.raises(TrainingError, match="loss 'rare' is nan at iteration 5"):
            fit(tmp_path, model=model)
    else:
        fit(tmp_path, model=model)
        logged = [json.loads(line).get("rare") for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert logged == [1.5, None, 1.5, None, 0.5, None, 1.5, None]
