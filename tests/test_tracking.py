"""W&B and TensorBoard: what is logged is read back from what wandb wrote; what must stay here is looked for in all of it."""

from __future__ import annotations

import csv
import errno
import json
import re
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fixtures_data as make
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, Bench, folder, records, spawn
from engine_tools import CPU, SETTINGS, Source, _threads, _toy, build, losses, same, weights  # noqa: F401  (fixtures)

from bench import engine, tracking, tracking_backends, tracking_files, tracking_images
from bench.batches import TranslationBatches
from bench.config import TrainConfig
from bench.contracts import Translation
from bench.progress import Progress
from bench.tracking_gate import BarredError, Gate, bare
from bench.tracking_values import flat, score_values

#: How picture files begin.
SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff\xe0", b"GIF89a")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test knows an account, or can reach a server."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def logged(runs: Path) -> dict[str, tracking_files.Logged]:
    """Name -> what all logs of the W&B run hold."""
    found = [tracking_files.read([path]) for path in tracking_files.waiting(runs / "wandb")]
    return {one.name: tracking_files.read(tracking_files.logs_of(runs / "wandb", one.run_id)) for one in found}


def blobs(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def pictures(place: Path) -> list[Path]:
    """Files that are pictures, or hold one."""
    return [p for p, data in blobs(place).items() if any(s in data for s in SIGNATURES) or p.suffix in (".png", ".jpg")]


# -- a run, read back ------------------------------------------------------------------------------------------------------


def test_an_offline_run_holds_losses_scores_tables_and_pictures_and_changes_nothing(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    answer = bench("run", *toy, "--wandb", "offline", "--image-interval", "2")
    assert answer.code == 0, answer.err
    found = logged(runs)
    assert set(found) == {"toy seed0", "original", "leaderboard"}
    assert len({one.group for one in found.values()}) == 1
    assert (found["toy seed0"].job, found["leaderboard"].job) == ("train", "leaderboard")
    train, own = found["toy seed0"], folder(runs)
    # the losses and learning rates, at their steps
    lines = losses(own / "train" / "train")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    rows = {row["_step"]: row for row in train.rows}
    for line in lines:
        for name, value in line.items():
            assert rows[line["step"]][f"train/{name}"] == pytest.approx(value, rel=1e-12)
    # a picture at every second step, the picture of the translations after them
    assert [s for s, row in rows.items() if "train/samples._type" in row] == [2, 4, 6]
    drawn = next((own / "pictures").glob("*.png"))
    assert rows[7]["pictures/synthetic.sha256"] == tracking.sha256(drawn)
    # every score as its record has it
    score = records(runs)["toy/synthetic--toy-score"]["scores"]["change"]
    assert train.summary["synthetic/toy-score/change"] == score["value"]
    assert train.summary["synthetic/toy-score/change/std"] == score["std"]
    assert train.summary["synthetic/toy-score/change/n"] == score["n"] == 7
    # where it came from
    description = json.loads((own / "config.json").read_text())
    assert train.config["data"]["synthetic"]["fingerprint"] == description["data"]["synthetic"]["fingerprint"]
    assert train.config["config"]["train"]["iterations"] == 6 and "revision" in train.config["code"]
    assert train.run_id == description["train_key"]
    # tables
    assert "leaderboard/sheets._type" in found["leaderboard"].summary
    tables = [json.loads(p.read_text()) for p in (runs / "wandb").rglob("media/table/leaderboard/numbers-*.json")]
    numbers = [row[table["columns"].index("value")] for table in tables for row in table["data"]]
    assert score["value"] in numbers
    assert pictures(runs / "wandb")
    # nothing elsewhere, no folder, no account name
    assert not (tmp_path / "wandb").exists() and not [*(tmp_path / "home").rglob("*wandb*")]
    log = tracking_files.logs_of(runs / "wandb", train.run_id)[0].read_bytes()
    assert str(tmp_path).encode() not in log and str(Path(sys.prefix)).encode() not in log
    assert not [p for p in blobs(runs / "wandb") if p.name in ("wandb-metadata.json", "output.log", "requirements.txt", "diff.patch")]
    assert not [p for p in blobs(runs / "wandb") if p.suffix == ".py"]
    # the same run without W&B is bit-identical
    plain = list(toy)
    plain[plain.index("--runs") + 1] = str(tmp_path / "plain")
    assert bench("run", *plain).code == 0
    assert not (tmp_path / "plain" / "wandb").exists()
    assert losses(folder(tmp_path / "plain") / "train" / "train") == lines
    files = [next(folder(place).rglob("weights.pth")) for place in (runs, tmp_path / "plain")]
    assert same(*[weights(path) for path in files])
    # again: everything is known, nothing is logged twice
    before = tracking_files.waiting(runs / "wandb")
    assert bench("run", *toy, "--wandb", "offline", "--image-interval", "2").code == 0
    assert tracking_files.waiting(runs / "wandb") == before
    # what is told of it
    told = bench("wandb", "sync", runs).out
    assert all(path.parent.name in told for path in before) and "wandb sync " in told and "4 pictures of open data" in told


def test_a_resumed_training_goes_on_in_the_same_run(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TranslationBatches.__getitem__

    def stop(self: TranslationBatches, step: int) -> Any:
        if step == 5:
            raise RuntimeError("stopped")
        return real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TranslationBatches, "__getitem__", stop)
        assert bench("run", *toy, "--wandb", "offline").code == 1
    assert bench("run", *toy, "--wandb", "offline").code == 0
    home = tmp_path / "runs" / "wandb"
    run_id = logged(tmp_path / "runs")["toy seed0"].run_id
    first, second = (tracking_files.read([path]) for path in tracking_files.logs_of(home, run_id))
    assert [row["train/step"] for row in first.rows] == [1, 2, 3, 4, 5]
    # it went on at step 4, and step 5 was there
    assert [row["train/step"] for row in second.rows if "train/step" in row] == [6]
    lines = losses(folder(tmp_path / "runs") / "train" / "train")
    assert [row["train/g"] for row in [*first.rows, *second.rows] if "train/g" in row] == pytest.approx([x["g"] for x in lines])
    assert "synthetic/toy-score/change" in second.summary


# -- restricted images -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    root = make.make_mimic(tmp_path / "mimic", images=40)
    rows = list(csv.reader((root / "ards_list.csv").open()))
    for i, row in enumerate(rows[1:]):
        row[rows[0].index("split")] = "test" if i >= 24 else "train"
    make.write_csv(root / "ards_list.csv", tuple(rows[0]), rows[1:])
    return root


@pytest.mark.parametrize("trains", [True, False], ids=["trained on", "tested on"])
def test_restricted_images_and_their_names_are_nowhere(
    bench: Bench, tmp_path: Path, mimic: Path, monkeypatch: pytest.MonkeyPatch, trains: bool
) -> None:
    runs = tmp_path / "runs"
    words = list(TINY)
    at = words.index("synthetic,images=24")
    data = [f"mimic={mimic}"] if trains else ["synthetic,images=24", "--data", f"mimic={mimic}"]
    words[at : at + 1] = data
    words += ["--method", "toy", "--suite", "toy-score", "--runs", str(runs), "--cache", str(tmp_path / "cache")]
    answer = bench("run", *words, "--wandb", "offline", "--image-interval", "1", "--tracker", "tensorboard")
    assert answer.code == 0, answer.err
    assert "mimic (credentialed)" in " ".join(answer.out.split())
    found = logged(runs)["toy seed0"]
    assert "mimic/toy-score/change" in found.summary  # numbers are told
    shown = pictures(runs / "wandb")
    if trains:
        assert not shown
    else:  # pictures of the open data may be shown, and are: the search finds what there is
        assert shown and not [p for p in shown if "mimic" in str(p)]
    table = list(csv.DictReader((mimic / "ards_list.csv").open()))
    names = re.compile("|".join(row[k] for row in table for k in ("dicom_id", "subject_id", "study_id")).encode())
    places = {**blobs(runs / "wandb"), **{p: b for p, b in blobs(runs).items() if "tfevents" in p.name}}
    assert not [p for p, data in places.items() if names.search(data)]
    assert names.search((runs / folder(runs) / "split.json").read_bytes())  # they are in the results, which stay here
    if trains:
        assert not [p for p, data in places.items() if "tfevents" in p.name and any(s in data for s in SIGNATURES)]


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


# -- failures --------------------------------------------------------------------------------------------------------------


def test_online_without_an_account_is_off_and_says_so_once(bench: Bench, toy: tuple[str, ...], tmp_path: Path) -> None:
    answer = bench("run", *toy, "--wandb", "online")
    assert answer.code == 0
    (line,) = [line for line in answer.err.splitlines() if "wandb" in line.lower()]
    assert "WANDB_API_KEY" in line and "--wandb offline" in line
    assert not (tmp_path / "runs" / "wandb").exists()


def test_what_goes_wrong_in_wandb_stops_no_run(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(tracking.Tracker, "_init", broken)
    answer = bench("run", *toy, "--wandb", "offline")
    assert answer.code == 0 and answer.err.count("no such thing") == 1
    assert records(tmp_path / "runs")["toy/synthetic--toy-score"]["status"] == "ok"


def test_a_full_disk_is_an_error(bench: Bench, toy: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/wandb/x")

    monkeypatch.setattr(tracking.Tracker, "_init", full)
    answer = bench("run", *toy, "--wandb", "offline")
    assert answer.code == 1 and "No space left" in answer.last


def test_a_server_that_cannot_be_reached_leaves_an_offline_record(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setitem(tracking.PRIVATE, "init_timeout", 2)
    answer = bench("run", *toy, "--wandb", "online")
    assert answer.code == 0 and answer.err.count("cannot be reached") == 1
    assert {"toy seed0", "original", "leaderboard"} == set(logged(tmp_path / "runs"))


def test_only_the_first_process_logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = SimpleNamespace(runs=tmp_path, wandb="offline")
    experiment: Any = SimpleNamespace(spec=SimpleNamespace(options=options), datasets={})
    assert tracking.Tracker(experiment).mode == "offline"
    monkeypatch.setenv("RANK", "1")
    assert tracking.Tracker(experiment).mode == "off"


def test_wandb_is_loaded_by_those_who_use_it(toy: tuple[str, ...], tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys\nfrom bench import cli\ncode = cli._main(sys.argv[1:])\n"
        "print('loaded', 'wandb' in sys.modules)\nraise SystemExit(code)\n"
    )
    answer = spawn("run", *toy, module="probe", PYTHONPATH=str(tmp_path))
    assert answer.code == 0, answer.err
    assert "loaded False" in answer.out


def test_pictures_for_nobody_are_refused(bench: Bench, toy: tuple[str, ...]) -> None:
    answer = bench("run", *toy, "--image-interval", "2")
    assert answer.code == 2 and "--wandb offline or --tracker tensorboard" in answer.last


# -- parts -----------------------------------------------------------------------------------------------------------------


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


def backend(run: Run, last: int, **more: Any) -> tracking_backends.TrackedWandbVisBackend:
    experiment: Any = SimpleNamespace(spec=SimpleNamespace(options=SimpleNamespace(runs=Path(), wandb="off")), datasets={})
    guarded = tracking.Tracker(experiment).guarded
    return tracking_backends.TrackedWandbVisBackend("", lambda: tracking.Open(run, last), guarded, **more)


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


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, TrainConfig(iterations=8, batch_size=2, precision="bf16", ema=0.5, channels_last=True)],
    ids=["fp32", "bf16"],
)
def test_a_training_with_pictures_is_bit_identical(tmp_path: Path, settings: TrainConfig) -> None:
    shown: list[Any] = []

    class Show(tracking_images.SampleHook):
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
        hooks=[tracking_images.SampleHook(images, 1)],
    )  # fmt: skip
    assert capsys.readouterr().err.count("no image there") == 1 and (tmp_path / "weights.pth").is_file()


def test_the_picture_is_made_of_input_output_and_mask() -> None:
    source = torch.stack([torch.full((1, 4, 4), v) for v in (-1.0, 1.0)])
    made = [Translation(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), m)) for m in (0.0, 1.0)]
    picture = tracking_images.grid(source, made)
    assert picture.shape == (4 + 2 + 4, 4 + 2 + 4 + 2 + 4, 3) and picture.dtype == np.uint8
    assert picture[0, [0, 6, 12], 0].tolist() == [0, 128, 0] and picture[6, [0, 6, 12], 2].tolist() == [255, 128, 255]
    assert tracking_images.grid(source, [Translation(t.image) for t in made]).shape == (10, 10, 3)


def test_how_many_pictures() -> None:
    assert [tracking_images.interval(None, n) for n in (250_000, 6, 25)] == [25_000, 1, 2]
    assert (tracking_images.interval(0, 100), tracking_images.interval(7, 100)) == (0, 7)


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
    assert list(tracking_files.pieces(path)) == wanted
    path.write_bytes(_block_log(wanted)[:-1])  # cut short by a kill
    assert list(tracking_files.pieces(path)) == wanted[:-1]
    path.write_bytes(b"something else")
    assert list(tracking_files.pieces(path)) == []


def test_sync_says_when_there_is_nothing(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    answer = bench("wandb", "sync", tmp_path / "runs")
    assert answer.code == 0 and "no offline runs" in answer.out
    answer = bench("wandb", "sync", tmp_path / "gone")
    assert answer.code == 2 and "is no folder" in answer.last


def test_tensorboard_gets_losses_and_pictures(bench: Bench, toy: tuple[str, ...], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert bench("run", *toy, "--tracker", "tensorboard", "--image-interval", "3").code == 0
    (events,) = (tmp_path / "runs").rglob("*tfevents*")
    found = accumulator.EventAccumulator(str(events), size_guidance={"scalars": 0, "images": 0}).Reload()
    lines = losses(folder(tmp_path / "runs") / "train" / "train")
    assert [(e.step, e.value) for e in found.Scalars("g")] == [(x["step"], pytest.approx(x["g"])) for x in lines]
    assert [e.step for e in found.Images("samples")] == [3, 6]
