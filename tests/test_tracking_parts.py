"""The parts of tracking: the gate, the back-ends, pictures of a training, plain values, logs that are read back."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from engine_tools import CPU, SETTINGS, Source, _threads, _toy, build, losses, same, weights  # noqa: F401  (fixtures)
from tracking_tools import _no_account  # noqa: F401  (a fixture)

from bench import engine, tracking
from bench.config import TrainConfig
from bench.contracts import Translation
from bench.progress import Progress
from bench.tracking import backends, files
from bench.tracking.gate import BarredError, Gate, bare
from bench.tracking.images import SampleHook, grid, interval
from bench.tracking.values import flat, score_values

# -- what may leave --------------------------------------------------------------------------------------------------------


def gate(policy: str, ids: tuple[str, ...] = ("00000000-ffff",)) -> Gate:
    items = [SimpleNamespace(image_id=i, patient_id="10000032", study_id="") for i in ids]
    known = {"x": SimpleNamespace(policy=policy, manifest=items), "y": SimpleNamespace(policy="open", manifest=[])}
    return Gate(SimpleNamespace(datasets=known))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "passes"),
    [("open", True), ("attribution", True), ("no-redistribution", False), ("credentialed", False), ("new", False)],
)
def test_only_open_pictures_pass(policy: str, passes: bool) -> None:
    gate(policy).pictures(["y"], "pictures")
    if passes:
        gate(policy).pictures(["y", "x"], "pictures")
    else:
        with pytest.raises(BarredError, match=f"x \\({policy}\\)"):
            gate(policy).pictures(["y", "x"], "pictures")


def test_names_of_restricted_patients_do_not_pass() -> None:
    for value in ("image 00000000-FFFF is bad", {"a": ["p/10000032.png"]}, {"10000032": 1}):
        with pytest.raises(BarredError, match="names an image or a patient"):
            gate("credentialed").words(value, "table")
    gate("credentialed").words({"a": [10000032, "1000003 2"]}, "numbers, other words")
    gate("open").words("image 00000000-ffff", "open data")


def test_paths_lose_their_folders() -> None:
    assert bare("mimic=/data/jane doe/mimic,masks=/m/x") == "mimic=…/mimic,masks=…/x"
    assert bare({"a": ["~/w/unet.pth", 3, "quick"]}) == {"a": ["…/unet.pth", 3, "quick"]}
    assert bare("C:\\Users\\jane\\x.png") == "C:…/x.png" and bare("/") == "…"


# -- back-ends -------------------------------------------------------------------------------------------------------------


class Run:
    """Stands for wandb's run and remembers what it was told."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.config: dict[str, Any] = {}

    def log(self, values: dict[str, Any], step: int) -> None:
        self.rows.append((step, values))

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_code(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("source code")


def backend(run: Run, last: int, **more: Any) -> backends.TrackedWandbVisBackend:
    experiment: Any = SimpleNamespace(spec=SimpleNamespace(options=SimpleNamespace(runs=Path(), wandb="off")), datasets={})
    guarded = tracking.Tracker(experiment).guarded
    return backends.TrackedWandbVisBackend("", lambda: tracking.Open(run, last), guarded, **more)


def test_the_backend_logs_at_the_true_step_and_nothing_twice() -> None:
    run = Run()
    made = backend(run, last=105, stage="late", offset=100)
    for step in (4, 6, 8):
        made.add_scalars({"loss": step / 2}, step=step)
    made.add_scalar("more", 1, step=10)
    assert run.rows == [
        (106, {"late/step": 6, "late/loss": 3.0}), (108, {"late/step": 8, "late/loss": 4.0}),
        (110, {"late/step": 10, "late/more": 1}),
    ]  # fmt: skip


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
    common = {"key": "k", "dataset_fingerprint": "d", "reference_fingerprint": "r", "evaluator_version": 2}
    score = {"value": 1.5, "std": None, "ci": [1.0, 2.0], "n": 9, "doubt": "few", "note": "x"}
    found = score_values({**common, "status": "ok", "scores": {"fd": score}}, "rsna/fidelity")
    assert {k: v for k, v in found.items() if "/fd" in k} == {
        "rsna/fidelity/fd": 1.5, "rsna/fidelity/fd/ci_low": 1.0, "rsna/fidelity/fd/ci_high": 2.0, "rsna/fidelity/fd/n": 9,
        "rsna/fidelity/fd/doubt": "few",
    }  # fmt: skip
    failed = score_values({**common, "status": "failed", "error": "image 'secret' is bad", "scores": {}}, "rsna/fidelity")
    assert failed["rsna/fidelity/status"] == "failed" and "secret" not in str(failed)


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
