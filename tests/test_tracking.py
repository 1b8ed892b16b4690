"""W&B and TensorBoard: what a run logs is read back from what wandb wrote; what must stay here is looked for in all of it."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import fixtures_data as make
import pytest
from conftest import TINY, Bench, folder, records
from engine_tools import _toy, losses, same, weights  # noqa: F401  (fixtures)
from method_tools import one_thread  # noqa: F401  (a fixture)
from tracking_tools import SIGNATURES, _no_account, blobs, logged, pictures  # noqa: F401  (a fixture)

from bench import records as records_
from bench.batches import TranslationBatches
from bench.tracking import files
from bench.tracking.values import sha256

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
