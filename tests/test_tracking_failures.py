"""W&B and TensorBoard: losses of what methods share, and what goes wrong around a run."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TINY, Bench, folder, forget_imports, records, spawn
from engine_tools import _toy, losses  # noqa: F401  (a fixture)
from method_tools import one_thread  # noqa: F401  (a fixture)
from tracking_tools import _no_account, logged  # noqa: F401  (a fixture)

from bench import tracking
from bench.fits import stage_of
from bench.tracking import files

# -- what all methods share ------------------------------------------------------------------------------------------------


def test_losses_of_what_methods_share_are_in_a_run_of_their_own(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier that `ours` needs and an evaluator's model; another results folder finds both trained, and tells of them, too."""
    monkeypatch.setenv("LEARNER_LOG", str(tmp_path / "learner.log"))
    words = [*TINY, "--import", str(Path(__file__).with_name("learner.py")), "--method", "ours", "--suite", "learner"]
    keys = ("prior.iterations=2", "prior.batch_size=4", "prior.size=32", "train.iterations=2")
    for key in (*keys, "methods.ours.width=4", "methods.ours.n_res=1", "methods.ours.disc_width=4"):
        words += ["--set", key]
    words += ["--cache", str(tmp_path / "cache"), "--wandb", "offline"]
    for runs in (tmp_path / "one", tmp_path / "two"):
        answer = bench("run", *words, "--runs", str(runs))
        assert answer.code == 0, answer.err
        forget_imports()
        shared = logged(runs)["shared"]
        assert shared.job == "fit" and shared.group == logged(runs)["ours seed0"].group
        (fit,) = (path for path in (tmp_path / "cache" / "fits").iterdir() if (path / "train" / "log.jsonl").is_file())
        (prior,) = (tmp_path / "cache" / "prior").iterdir()
        for stage, place in (("prior", prior), (stage_of(fit), fit)):
            lines = losses(place / "train")
            told = [(row[f"{stage}/step"], row[f"{stage}/loss"]) for row in shared.rows if f"{stage}/step" in row]
            assert lines and told == [(line["step"], pytest.approx(line["loss"])) for line in lines]
        steps = [row["_step"] for row in shared.rows]
        assert steps == sorted(set(steps))
        before = files.waiting(runs / "wandb")
        assert bench("run", *words, "--runs", str(runs)).code == 0
        forget_imports()
        assert files.waiting(runs / "wandb") == before  # nothing is told twice


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


def test_a_full_disk_of_wandb_costs_no_result(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/wandb/x")

    with monkeypatch.context() as patch:
        patch.setattr(tracking.Tracker, "_init", full)
        answer = bench("run", *toy, "--wandb", "offline")
    assert answer.code == 1
    assert "No space left" in answer.last and str(tmp_path / "runs" / "wandb") in answer.last and "W&B" in answer.last
    assert "Change" in answer.out and "leaderboard  " in answer.out  # the table is printed
    assert records(tmp_path / "runs")["toy/synthetic--toy-score"]["status"] == "ok"
    # with space, the same command logs what is missing: all of it
    assert bench("run", *toy, "--wandb", "offline").code == 0
    train = logged(tmp_path / "runs")["toy seed0"]
    assert [row["train/step"] for row in train.rows if "train/step" in row] == [1, 2, 3, 4, 5, 6]
    assert "synthetic/toy-score/change" in train.summary


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
