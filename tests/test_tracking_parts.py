"""The parts of tracking: the gate, the back-ends, pictures of a training, plain values, logs that are read back."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from engine_tools import CPU, SETTINGS, Source, _toy, build, losses, same, weights  # noqa: F401  (fixtures)
from method_tools import one_thread  # noqa: F401  (a fixture)
from tracking_tools import _no_account  # noqa: F401  (a fixture)

from bench import engine, tracking
from bench.config import TrainConfig
from bench.contracts import Translation
from bench.progress import Progress
from bench.tracking import backends, files
from bench.tracking.curves import Curve, Open
from bench.tracking.images import SampleHook, grid, interval
from bench.tracking.values import flat, score_values, wordless

# -- back-ends -------------------------------------------------------------------------------------------------------------


class Run:
    """Stands for wandb's run and remembers what it was told."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.config: dict[str, Any] = {}

    @property
    def step(self) -> int:
        return max((step for step, _ in self.rows), default=0)

    def log(self, values: dict[str, Any], step: int) -> None:
        self.rows.append((step, values))

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_code(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("source code")


TRAIN = Curve("train", 0)


def backend(run: Run, last: int, curve: Curve = TRAIN, **more: Any) -> backends.TrackedWandbVisBackend:
    experiment: Any = SimpleNamespace(spec=SimpleNamespace(options=SimpleNamespace(runs=Path(), wandb="off")), datasets={})
    guarded = tracking.Tracker(experiment).guarded
    return backends.TrackedWandbVisBackend("", lambda: Open(run, last), guarded, curve, **more)


def test_the_backend_logs_at_the_true_step_and_nothing_twice() -> None:
    run = Run()
    made = backend(run, last=105, curve=Curve("late", 100))
    for step in (4, 6, 8):
        made.add_scalars({"loss": step / 2}, step=step)
    made.add_scalar("more", 1, step=10)
    assert run.rows == [
        (106, {"late/step": 6, "late/loss": 3.0}), (108, {"late/step": 8, "late/loss": 4.0}),
        (110, {"late/step": 10, "late/more": 1}),
    ]  # fmt: skip


def lines(path: Path, steps: Iterable[int]) -> Path:
    path.write_text("".join(json.dumps({"step": step, "loss": step / 2}) + "\n" for step in steps))
    return path


def test_what_a_kill_has_cost_comes_from_the_trainings_own_log(tmp_path: Path) -> None:
    """wandb has written up to step 103 (3 of this stage), the checkpoint is of step 6: 4 to 6 are told once, then what follows."""
    run, log = Run(), lines(tmp_path / "log.jsonl", range(1, 7))
    made = backend(run, last=103, curve=Curve("late", 100, log), pictures=True)
    with log.open("a") as stream:
        stream.write('{"step": 7, "loss": 3.5}\n')  # written before trackers are told
    made.add_scalars({"loss": 3.5}, step=7)
    made.add_image("samples", np.zeros((4, 4, 3), np.uint8), step=7)
    made.add_scalars({"loss": 4.0}, step=8)
    told = [(step, row["late/step"], row["late/loss"]) for step, row in run.rows if "late/loss" in row]
    assert told == [(100 + n, n, n / 2) for n in range(4, 9)]
    assert [step for step, row in run.rows if "late/samples" in row] == [107]


def test_a_line_that_was_cut_short_ends_a_log(tmp_path: Path) -> None:
    log = lines(tmp_path / "log.jsonl", [1, 2])
    log.write_text(log.read_text() + '{"step": 3, "lo')
    run = Run()
    Open(run, -1).catch_up(Curve("train", 0, log))
    assert [row["train/step"] for _, row in run.rows] == [1, 2]


def test_stages_without_an_order_follow_each_other_in_one_run(tmp_path: Path) -> None:
    """Earlier parts of the run hold wandb's steps up to 9, and of `prior` those up to 2."""
    run = Run()
    opened = Open(run, 9, {"prior": 2})
    opened.catch_up(Curve("prior", None, lines(tmp_path / "a.jsonl", [1, 2, 3, 4])))
    opened.catch_up(Curve("unet", None, lines(tmp_path / "b.jsonl", [1, 2])))
    opened.catch_up(Curve("unet", None, tmp_path / "b.jsonl"))
    assert [(step, *sorted(row)) for step, row in run.rows] == [
        *((step, "prior/loss", "prior/step") for step in (10, 11)), *((step, "unet/loss", "unet/step") for step in (12, 13)),
    ]  # fmt: skip
    assert [row.get("prior/step", row.get("unet/step")) for _, row in run.rows] == [3, 4, 1, 2]


def test_a_resumed_tensorboard_curve_runs_once_over_each_step(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for resumed, values in ((None, {2: 1.0, 4: 2.0, 6: 3.0}), (4, {6: 30.0, 8: 40.0})):
        made = backends.TrackedTensorboardVisBackend(str(tmp_path), contextlib.nullcontext, resumed)
        for step, value in values.items():
            made.add_scalars({"loss": value}, step=step)
        made.close()
    found = accumulator.EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in found] == [(2, 1.0), (4, 2.0), (6, 30.0), (8, 40.0)]


def test_the_backend_sends_neither_code_nor_pictures_that_are_not_let_pass() -> None:
    class Config(dict):
        config = property(lambda self: self)

    run = Run()
    run.config = SimpleNamespace(update=lambda values, **_: run.rows.append((0, values)))  # type: ignore[assignment]
    made = backend(run, last=-1)
    made.add_config(SimpleNamespace(to_dict=lambda: {"weights": "/home/x/w.pth"}))
    made.add_graph(None, None)
    made.add_image("samples", np.zeros((4, 4, 3), np.uint8), step=3)
    made.close()
    assert run.rows == [(0, {"weights": "…/w.pth"})]


# -- pictures of a training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, TrainConfig(iterations=8, batch_size=2, precision="bf16", ema=0.5, channels_last=True)],
    ids=["fp32", "bf16"],
)
def test_a_training_with_pictures_is_bit_identical(tmp_path: Path, settings: TrainConfig) -> None:
    shown: list[Any] = []

    class Show(SampleHook):
        def _show(self, runner: Any, done: int) -> None:
            runner.visualizer.add_image = lambda name, image, step: shown.append((name, image, step))
            super()._show(runner, done)

    def images() -> torch.Tensor:
        return torch.rand(2, 1, 16, 16)  # draws from the global generator, which the training must not notice

    for name, hooks in (("without", []), ("with", [Show(images, 3)])):
        engine.fit(
            build(), Source(), settings, tmp_path / name, "train", 0, "toy", CPU, Progress("toy", quiet=True), 1, hooks=hooks
        )  # fmt: skip
    assert [(name, step) for name, _, step in shown] == [("samples", 3), ("samples", 6), ("samples", 8)]
    assert same(weights(tmp_path / "with/weights.pth"), weights(tmp_path / "without/weights.pth"))
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


def test_a_picture_that_fails_stops_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def images() -> torch.Tensor:
        raise ValueError("no image there")

    engine.fit(
        build(), Source(), SETTINGS, tmp_path, "train", 0, "toy", CPU, Progress("toy", quiet=True), 1,
        hooks=[SampleHook(images, 1)],
    )  # fmt: skip
    assert capsys.readouterr().err.count("no image there") == 1 and (tmp_path / "weights.pth").is_file()


def test_the_picture_is_made_of_input_output_and_mask() -> None:
    source = torch.stack([torch.full((1, 4, 4), v) for v in (-1.0, 1.0)])
    made = [Translation(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), m)) for m in (0.0, 1.0)]
    picture = grid(source, made)
    assert picture.shape == (4 + 2 + 4, 4 + 2 + 4 + 2 + 4, 3) and picture.dtype == np.uint8
    assert picture[0, [0, 6, 12], 0].tolist() == [0, 128, 0] and picture[6, [0, 6, 12], 2].tolist() == [255, 128, 255]
    assert grid(source, [Translation(t.image) for t in made]).shape == (10, 10, 3)


def test_how_many_pictures() -> None:
    assert [interval(None, n) for n in (250_000, 6, 25)] == [25_000, 1, 2]
    assert (interval(0, 100), interval(7, 100)) == (0, 7)


# -- values ----------------------------------------------------------------------------------------------------------------


def test_scores_become_values_without_messages() -> None:
    common = {
        "key": "k", "dataset_fingerprint": "d", "reference_fingerprint": "r", "evaluator_version": 2, "policy": "open",
        "train_policy": "attribution",
    }  # fmt: skip
    score = {"value": 1.5, "std": None, "ci": [1.0, 2.0], "n": 9, "doubt": "few", "note": "x"}
    found = score_values({**common, "status": "ok", "scores": {"fd": score}}, "rsna/fidelity")
    assert {k: v for k, v in found.items() if "/fd" in k} == {
        "rsna/fidelity/fd": 1.5, "rsna/fidelity/fd/ci_low": 1.0, "rsna/fidelity/fd/ci_high": 2.0, "rsna/fidelity/fd/n": 9,
        "rsna/fidelity/fd/doubt": "few",
    }  # fmt: skip
    failed = score_values({**common, "status": "failed", "error": "image 'secret' is bad", "scores": {}}, "rsna/fidelity")
    assert failed["rsna/fidelity/status"] == "failed" and "secret" not in str(failed)


@pytest.mark.parametrize("closed", [{"policy": "credentialed"}, {"train_policy": "no-redistribution"}, {"train_policy": None}])
def test_words_of_records_that_are_not_open_stay_here(closed: dict[str, Any]) -> None:
    score = {"value": 1.5, "n": 9, "doubt": "p7 is odd", "note": "p7 is left out"}
    scores = {"fd": score, "is": {**score, "doubt": None}}
    record = {
        "error": "p7 is bad", "warnings": ["p7"], "status": "ok", "key": "k", "evaluator_version": 1, "policy": "open",
        "train_policy": "open", "scores": scores, "dataset_fingerprint": "d", "reference_fingerprint": "r",
    }  # fmt: skip
    assert wordless(record) == record
    bare = wordless({**record, **closed})
    assert "p7" not in json.dumps(bare) and "p7" in json.dumps(record)
    assert bare["scores"]["fd"]["value"] == 1.5 and bare["error"]
    assert bare["scores"]["fd"]["doubt"] and not bare["scores"]["is"]["doubt"]
    assert "p7" not in json.dumps(score_values({**record, **closed}, "x"))


def test_tables_become_plain_columns_and_rows() -> None:
    index = pd.MultiIndex.from_tuples([("", "ours"), ("", "cut")], names=["group", "Method"])
    frame = pd.DataFrame([[1.5, float("nan")], ["failed", np.int64(3)]], index=index)
    frame.columns = pd.MultiIndex.from_tuples([("RSNA", "FD"), ("RSNA", "FD")], names=["group", "metric"])
    columns, rows = flat(frame)
    assert columns == ["group", "Method", "RSNA / FD", "RSNA / FD (2)"]
    assert rows == [["", "ours", 1.5, None], ["", "cut", "failed", 3]]


# -- logs ------------------------------------------------------------------------------------------------------------------


def _block_log(records_: list[bytes]) -> bytes:
    """A log file, written by the rules of LevelDB's format."""
    data = bytearray(b":W&B\xe1\xbe\x00")
    for record in records_:
        begun, left = False, record
        while not begun or left:
            room = 32768 - len(data) % 32768
            if room < 7:
                data += bytes(room)
                continue
            piece, left = left[: room - 7], left[room - 7 :]
            kind = {(False, True): 1, (False, False): 2, (True, False): 3, (True, True): 4}[begun, not left]
            data += struct.pack("<IHB", 0, len(piece), kind) + piece
            begun = True
    return bytes(data)


def test_logs_are_read_over_the_borders_of_blocks(tmp_path: Path) -> None:
    wanted = [b"a" * 5, b"b" * 100_000, b"c" * (32768 - 15), b"", b"d" * 32751, b"e"]
    path = tmp_path / "run-x.wandb"
    path.write_bytes(_block_log(wanted))
    assert list(files.pieces(path)) == wanted
    path.write_bytes(_block_log(wanted)[:-1])  # cut short by a kill
    assert list(files.pieces(path)) == wanted[:-1]
    path.write_bytes(b"something else")
    assert list(files.pieces(path)) == []


def test_parts_of_a_run_never_begin_in_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B would write the second part over the first."""
    slept: list[float] = []
    clock = SimpleNamespace(strftime=lambda form: time.strftime(form, time.gmtime(100 + sum(slept))), sleep=slept.append)
    monkeypatch.setattr(files, "time", clock)
    (tmp_path / "offline-run-19700101_000140-abc").mkdir()
    files.wait_for_a_second_of_its_own(tmp_path, "other")
    assert not slept, "another run may begin at once"
    files.wait_for_a_second_of_its_own(tmp_path, "abc")
    assert 1.0 <= sum(slept) < 1.2
