"""Damaged files of a run: told as such, made again by the same command, and never the end of scores that are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TOY, Bench, folder, records, scores
from fixtures_data import chest, save_png
from torch import nn

from bench import pipeline
from bench.engine import load_weights, save_tensors
from bench.errors import BenchError
from bench.plan import Stage
from bench.translations import translate_set

Toy = tuple[str, ...]


@pytest.fixture
def run(bench: Bench, toy: Toy, tmp_path: Path) -> Path:
    """A finished run of the toy."""
    assert bench("run", *toy).code == 0
    return folder(tmp_path / "runs")


def weights(run: Path) -> Path:
    """The weights file of a run."""
    path: Path = run / json.loads((run / "train.json").read_text())["weights"]
    return path


def cut(path: Path) -> bytes:
    """Leave the first hundred bytes of a file; returns what it held."""
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    return whole


def spoil(path: Path) -> bytes:
    """Damage the middle of a file whose end stays: its zip directory can be read, its tensors' names cannot."""
    whole = path.read_bytes()
    at = whole.index(b"data.pkl") + 60
    path.write_bytes(whole[:at] + b"\xff" * 200 + whole[at + 200 :])
    return whole


def files(run: Path, pattern: str) -> dict[str, bytes]:
    """Content of the files of a run."""
    return {str(p.relative_to(run)): p.read_bytes() for p in run.glob(pattern)}


def plan(bench: Bench, toy: Toy) -> dict[str, dict[str, Any]]:
    """The toy's stages in the plan."""
    rows = json.loads(bench("run", *toy, "--dry-run", "--json").out)
    return {row["stage"]: row for row in rows if row["what"].startswith("toy")}


# -- the loader ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04" + b"\0" * 96, b"\x80\x02}q\0", bytes(range(256))])
def test_an_unreadable_file_is_not_called_another_architecture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(BenchError) as caught:
        load_weights(nn.Linear(2, 2), path)
    assert str(caught.value).startswith(f"{path} cannot be read (it is damaged") and len(str(caught.value).splitlines()) == 1
    assert str(caught.value).endswith("Delete it and give the command that made it once more.")


@pytest.mark.parametrize("damage", [cut, spoil])
def test_weights_that_were_whole_once(tmp_path: Path, damage: Callable[[Path], bytes]) -> None:
    save_tensors(tmp_path / "weights.pth", nn.Linear(20, 20).state_dict())
    damage(tmp_path / "weights.pth")
    with pytest.raises(BenchError, match=r"cannot be read \(it is damaged") as caught:
        load_weights(nn.Linear(20, 20), tmp_path / "weights.pth")
    assert "PytorchStreamReader" not in str(caught.value) and "miniz" not in str(caught.value)


def test_weights_that_are_not_there_or_no_weights(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot be read \(No such file or directory\)"):
        load_weights(nn.Linear(2, 2), tmp_path / "weights.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BenchError, match=r"list.pth holds no weights"):
        load_weights(nn.Linear(2, 2), tmp_path / "list.pth")


def test_weights_of_another_architecture_say_how_they_differ(tmp_path: Path) -> None:
    save_tensors(tmp_path / "weights.pth", {"weight": torch.zeros(3, 2), "scale": torch.zeros(1)})
    with pytest.raises(BenchError) as caught:
        load_weights(nn.Linear(2, 2), tmp_path / "weights.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'weights.pth'} does not fit Linear: of its tensors 1 missing (first: bias), 1 unknown (first: scale), "
        "1 of another shape (first: weight). Train again (--force train), or name the right file."
    )


# -- a run -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [(), ("--force", "translate")])
def test_damaged_weights_are_written_again_from_the_last_checkpoint(
    bench: Bench, toy: Toy, run: Path, tmp_path: Path, force: tuple[str, ...]
) -> None:
    before, log = scores(tmp_path / "runs"), (weights(run).with_name("log.jsonl")).read_text()
    whole = cut(weights(run))
    (run / "config.json").write_text("{")
    told = bench("translate", run, tmp_path, "--out", tmp_path.parent / "out", "--import", TOY)
    assert told.code == 1 and len(told.err.splitlines()) == 1 and "--force translate" in told.err
    row = plan(bench, toy)["train"]
    assert row["status"] == "resume at step 6" and f"{weights(run)} is damaged or gone" in row["why"]
    answer = bench("run", *toy, *force)
    assert answer.code == 0, answer.err
    (line,) = answer.err.splitlines()
    assert line.startswith("warning: train toy") and "is written again from the last checkpoint" in line
    assert weights(run).read_bytes() == whole and weights(run).with_name("log.jsonl").read_text() == log
    assert scores(tmp_path / "runs") == before and {r["status"] for r in plan(bench, toy).values()} == {"cached"}
    save_png(tmp_path / "films" / "a.png", chest(1, 32))
    words = ["translate", run, tmp_path / "films", "--out", tmp_path / "out", "--import", TOY]
    assert bench(*words).code == 0


def test_without_a_checkpoint_the_training_starts_anew(bench: Bench, toy: Toy, run: Path, tmp_path: Path) -> None:
    before, whole = scores(tmp_path / "runs"), cut(weights(run))
    for checkpoint in weights(run).parent.glob("iter_*.pth"):
        checkpoint.unlink()
    assert plan(bench, toy)["train"]["status"] == "to do"
    answer = bench("run", *toy)
    assert answer.code == 0 and "is damaged or gone and is made anew" in answer.err
    assert weights(run).read_bytes() == whole and scores(tmp_path / "runs") == before


def test_a_forced_training_is_not_said_to_be_mended(bench: Bench, toy: Toy, run: Path) -> None:
    cut(weights(run))
    answer = bench("run", *toy, "--force", "train")
    assert answer.code == 0 and "damaged" not in answer.err, "its checkpoints are dropped with it"


@pytest.mark.parametrize("how", ["weights", "checkpoint too"])
def test_scores_stay_where_nothing_new_can_be_made(bench: Bench, toy: Toy, run: Path, tmp_path: Path, how: str) -> None:
    """What only loading shows, and a checkpoint that is damaged as well: the command fails, and nothing is lost."""
    before, images = scores(tmp_path / "runs"), files(run, "translated/*/images/*.png")
    if how == "weights":
        spoil(weights(run))
    else:
        cut(weights(run))
        for checkpoint in weights(run).parent.glob("iter_*.pth"):
            cut(checkpoint)
    answer = bench("run", *toy, "--force", "translate")
    remedy = "Delete it and give the command" if how == "weights" else "Remove it and run the same command"
    assert answer.code == 1 and remedy in answer.err
    assert scores(tmp_path / "runs") == before and images and files(run, "translated/*/images/*.png") == images
    assert {r["status"] for r in records(tmp_path / "runs").values()} == {"ok"}
    weights(run).unlink()  # the remedies
    for checkpoint in weights(run).parent.glob("iter_*.pth") if how != "weights" else ():
        checkpoint.unlink()
    again = bench("run", *toy, "--force", "translate")
    assert again.code == 0, again.err
    assert scores(tmp_path / "runs") == before and files(run, "translated/*/images/*.png") == images


def test_forced_translation_that_fails_half_way_leaves_the_old_one(
    bench: Bench, toy: Toy, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, images = scores(tmp_path / "runs"), files(run, "translated/*/*/*.png")

    def fail(*args: Any, **more: Any) -> None:
        translate_set(*args, **more)
        raise BenchError("out of luck")

    monkeypatch.setattr("bench.stages.translate_set", fail)
    assert bench("run", *toy, "--force", "translate").code == 1
    assert files(run, "translated/*/*/*.png") == images and scores(tmp_path / "runs") == before
    monkeypatch.setattr("bench.stages.translate_set", translate_set)
    save_png(run / ".translating" / "other" / "images" / "a.png", chest(1, 32))  # what a kill left of another set
    assert bench("run", *toy, "--force", "translate").code == 0
    assert files(run, "translated/*/*/*.png") == images and not (run / ".translating").exists()


def test_a_forced_training_that_fails_leaves_no_score_of_the_old_one(
    bench: Bench, toy: Toy, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are gone: the tables say that the method failed, as they would had it never worked."""

    def fail(*_: Any, **__: Any) -> None:
        raise BenchError("out of luck")

    monkeypatch.setattr("bench.stages.fit", fail)
    assert bench("run", *toy, "--force", "train").code == 1
    assert records(tmp_path / "runs")["toy/synthetic--toy-score"]["status"] == "failed"


def test_what_comes_before_a_forced_training_fails_first(tmp_path: Path) -> None:
    """The old training is dropped when the new one begins, not before."""
    (tmp_path / "train.json").write_text("{}")
    data = Stage("data", "d", "", tmp_path / "d", lambda: None, status="failed")
    train = Stage("train", "t", "", tmp_path / "train.json", lambda: None, after=[data], forced=True)
    pipeline.walk([train])
    assert train.status == "blocked" and (tmp_path / "train.json").is_file()


# -- a run's other files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"method": 3, "config": {}}', "\ud800"])
def test_damaged_run_files(bench: Bench, run: Path, tmp_path: Path, text: str) -> None:
    save_png(tmp_path / "films" / "a.png", chest(1, 32))
    words = ["translate", run, tmp_path / "films", "--out", tmp_path / "out", "--import", TOY]
    for name, remedy in (("train.json", "Delete it and run the same `bench run` command"), ("config.json", "--force translate")):
        (run / name).write_bytes(text.encode(errors="surrogatepass"))
        answer = bench(*words)
        assert answer.code == 1 and len(answer.err.splitlines()) == 1 and f"{run / name} is damaged. " in answer.err
        assert remedy in answer.err
        listed = bench("list", "runs", "--runs", tmp_path / "runs")
        assert listed.code == 0 and f"{run / name} is damaged" in listed.err and "original" in listed.out


def test_weights_that_are_not_there_or_elsewhere(bench: Bench, run: Path, tmp_path: Path) -> None:
    save_png(tmp_path / "films" / "a.png", chest(1, 32))
    facts = json.loads((run / "train.json").read_text())
    (tmp_path / "outside.pth").touch()
    for name in ("nowhere.pth", "../../../../outside.pth"):
        (run / "train.json").write_text(json.dumps({**facts, "weights": name}))
        answer = bench("translate", run, tmp_path / "films", "--out", tmp_path / "out", "--import", TOY)
        assert answer.code == 1 and f"train.json names {name}, which is not there. Delete it and run" in answer.err


def test_the_remedies_work(bench: Bench, toy: Toy, run: Path, tmp_path: Path) -> None:
    save_png(tmp_path / "films" / "a.png", chest(1, 32))
    words = ["translate", run, tmp_path / "films", "--out", tmp_path / "out", "--import", TOY]
    (run / "config.json").write_text("{}")
    (run / "train.json").unlink()
    again = bench("run", *toy)
    assert again.code == 0 and "resume" in again.out
    (run / "config.json").write_text("{}")
    assert bench("run", *toy, "--force", "translate").code == 0
    assert bench(*words).code == 0
