"""Killed with signal 9 at any point, the same command carries on and ends with the records of an undisturbed run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY, Bench, Forks, folder, forget_imports, records, scores
from engine_tools import losses
from tracking_tools import _no_account, logged  # noqa: F401  (a fixture)

KILLER = Path(__file__).with_name("killer.py")
#: Where to kill, and the status of the stages of toy (train, translate, score) that the next plan shows.
KILLS = [
    ("replace *train-32.npy 1", ("to do", "to do", "to do")),  # while the first split is decoded
    ("step 4", ("resume at step 2", "to do", "to do")),  # between two checkpoints
    ("replace *iter_6.pth 1", ("resume at step 4", "to do", "to do")),  # while a checkpoint is written
    ("replace *train.json 1", ("resume at step 6", "to do", "to do")),  # trained, but not marked so
    ("replace */toy/*images/*.png 5", ("cached", "to do", "to do")),  # in the middle of a translation, which four threads write
    ("replace */toy/*records/*.json 1", ("cached", "cached", "to do")),  # while a record is written
]


def test_killed_everywhere_ends_with_the_same_records(bench: Bench, forks: Forks, tmp_path: Path) -> None:
    def flags(runs: str) -> list[str]:
        return ["--method", "toy", "--suite", "toy-score", *TINY, "--runs", str(tmp_path / runs)]

    assert bench("run", *flags("whole")).code == 0
    for at, expected in KILLS:
        answer = forks("run", *flags("cut"), "--import", KILLER, KILL_AT=at)
        assert answer.code == -9, (at, answer.err)
        plan = json.loads(bench("run", *flags("cut"), "--dry-run", "--json").out)
        assert tuple(row["status"] for row in plan if row["what"].startswith("toy")) == expected, at
        if "images" in at:
            assert 1 <= len(list((tmp_path / "cut").glob("toy/*/*/translated/*/images/[!.]*.png"))) < 7

    forget_imports()
    assert bench("run", *flags("cut")).code == 0
    assert scores(tmp_path / "cut") == scores(tmp_path / "whole")
    assert set(scores(tmp_path / "cut")) == {"toy/synthetic--toy-score", "original/synthetic--toy-score"}
    whole, cut = records(tmp_path / "whole"), records(tmp_path / "cut")
    for name in whole:
        assert whole[name]["translated_content"] == cut[name]["translated_content"]
        assert whole[name]["key"] == cut[name]["key"]
    logs = [(next((tmp_path / r / "toy").rglob("log.jsonl"))).read_text() for r in ("whole", "cut")]
    assert logs[0] == logs[1]
    plan = json.loads(bench("run", *flags("cut"), "--dry-run", "--json").out)
    assert {row["status"] for row in plan} == {"cached"}


@pytest.mark.parametrize("text", ["", "{", '{"key": "', "[]", '{"key": "other", "status": "ok"}'])
def test_half_a_record_does_not_count(bench: Bench, toy: tuple[str, ...], tmp_path: Path, text: str) -> None:
    """Records appear whole; should a file system cut one short all the same, it is made again."""
    assert bench("run", *toy).code == 0
    before = scores(tmp_path / "runs")
    (path,) = (tmp_path / "runs" / "toy").rglob("records/*.json")
    path.write_text(text)
    plan = json.loads(bench("run", *toy, "--dry-run", "--json").out)
    assert [row["stage"] for row in plan if row["status"] != "cached"] == ["score"]
    assert bench("run", *toy).code == 0
    assert scores(tmp_path / "runs") == before


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
