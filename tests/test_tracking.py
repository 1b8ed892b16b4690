"""W&B and TensorBoard: what a run logs is read back from what wandb wrote; what must stay here is looked for in all of it."""

from __future__ import annotations

import csv
import errno
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fixtures_data as make
import pytest
from conftest import TINY, Bench, Forks, folder, forget_imports, records, spawn
from engine_tools import _threads, _toy, losses, same, weights  # noqa: F401  (fixtures)
from tracking_tools import SIGNATURES, _no_account, blobs, logged, pictures  # noqa: F401  (a fixture)

from bench import records as records_
from bench import tracking
from bench.batches import TranslationBatches
from bench.fits import stage_of
from bench.tracking import files
from bench.tracking.values import sha256

KILLER = Path(__file__).with_name("killer.py")

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
    assert rows[7]["pictures/synthetic.sha256"] == sha256(drawn)
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
    # Figure 3 of the open test set
    assert found["leaderboard"].summary["leaderboard/figure3-synthetic._type"] == "image-file"
    # nothing elsewhere, no folder, no account name
    assert not (tmp_path / "wandb").exists() and not [*(tmp_path / "home").rglob("*wandb*")]
    log = files.logs_of(runs / "wandb", train.run_id)[0].read_bytes()
    assert str(tmp_path).encode() not in log and str(Path(sys.prefix)).encode() not in log
    assert not [p for p in blobs(runs / "wandb") if p.name in ("wandb-metadata.json", "output.log", "requirements.txt", "diff.patch")]
    assert not [p for p in blobs(runs / "wandb") if p.suffix == ".py"]
    # the same run without W&B is bit-identical
    plain = list(toy)
    plain[plain.index("--runs") + 1] = str(tmp_path / "plain")
    assert bench("run", *plain).code == 0
    assert not (tmp_path / "plain" / "wandb").exists()
    assert losses(folder(tmp_path / "plain") / "train" / "train") == lines
    stored = [next(folder(place).rglob("weights.pth")) for place in (runs, tmp_path / "plain")]
    assert same(*[weights(path) for path in stored])
    # again: everything is known, nothing is logged twice
    before = files.waiting(runs / "wandb")
    assert bench("run", *toy, "--wandb", "offline", "--image-interval", "2").code == 0
    assert files.waiting(runs / "wandb") == before
    # what is told of it
    told = bench("wandb", "sync", runs).out
    assert all(path.parent.name in told for path in before) and "wandb sync " in told and "6 pictures of open data" in told


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
    first, second = (files.read([path]) for path in files.logs_of(home, run_id))
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


def test_an_earlier_run_of_restricted_data_is_not_told_of_in_words_or_pictures(bench: Bench, tmp_path: Path, mimic: Path) -> None:
    """Tables hold all records of the results folder, also of data that the command does not name."""
    runs = tmp_path / "runs"
    common = [*TINY, "--method", "toy", "--suite", "toy-score", "--runs", str(runs), "--cache", str(tmp_path / "cache")]
    at = common.index("synthetic,images=24")
    assert bench("run", *[*common[:at], f"mimic={mimic}", *common[at + 1 :]]).code == 0
    name = next(csv.DictReader((mimic / "ards_list.csv").open()))["dicom_id"]
    for path in runs.glob("toy/mimic/*/records/*.json"):
        told = json.loads(path.read_text())
        told["scores"]["change"] |= {"note": "an image of Jane is odd", "doubt": f"too few lungs in files/p10/{name}.jpg"}
        records_.write(path, {**told, "warnings": ["Jane was seen"]})
    answer = bench("run", *common, "--wandb", "offline")
    assert answer.code == 0, answer.err
    assert "no figures of mimic" in " ".join(answer.out.split())
    found = logged(runs)["leaderboard"]
    assert found.summary["leaderboard/figure3-synthetic._type"] == "image-file"
    assert not [key for key in found.summary if "figure" in key and "mimic" in key]
    places = blobs(runs / "wandb")
    assert not [p for p, data in places.items() if b"Jane" in data or name.encode() in data]
    tables = [data.decode() for p, data in places.items() if p.name.startswith("numbers-")]
    assert any("mimic" in table and "stays on its machine" in table for table in tables)  # its numbers are told, doubtful as they are


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


def test_steps_that_a_kill_cost_wandb_are_told_by_the_next_run(
    bench: Bench, forks: Forks, toy: tuple[str, ...], tmp_path: Path
) -> None:
    """Killed before step 6, with a checkpoint of step 4 and losses up to 5 of which wandb has written none."""
    runs = tmp_path / "runs"
    answer = forks("run", *toy, "--wandb", "offline", "--import", KILLER, KILL_AT="step 6")
    assert answer.code == -9, answer.err
    forget_imports()
    (runs / "wandb").rename(tmp_path / "lost")  # at once: wandb's own process outlives ours for a while, and writes on
    assert bench("run", *toy, "--wandb", "offline").code == 0
    lines = losses(folder(runs) / "train" / "train")
    rows = [(row["train/step"], row["train/g"]) for row in logged(runs)["toy seed0"].rows if "train/g" in row]
    assert rows == [(line["step"], pytest.approx(line["g"])) for line in lines] and len(rows) == 6


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
