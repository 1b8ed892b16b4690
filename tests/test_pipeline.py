"""Plans and runs: what is done, what is skipped, what a failure takes with it, what a run leaves behind."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, TOY, Bench, Forks, folder, forget_imports, records, scores

from bench import hooks, stages
from bench import scores as scoring
from bench.errors import BenchError
from bench.files import lock
from bench.records import device_report
from bench.registry import EVALUATORS, SUITES

Toy = tuple[str, ...]
ALL_DONE = {
    "data synthetic/train": "cached", "data synthetic/test": "cached", "translate original": "cached", "score original": "cached",
    "train toy": "cached", "translate toy": "cached", "score toy": "cached",
}  # fmt: skip


def plan(bench: Bench, *words: Any, code: int = 0) -> list[dict[str, str]]:
    answer = bench("run", *words, "--dry-run", "--json")
    assert answer.code == code, answer.err
    return json.loads(answer.out)


def statuses(bench: Bench, *words: Any) -> dict[str, str]:
    rows = plan(bench, *words)
    return {f"{row['stage']} {row['what'].split(' ')[0].rstrip(':')}": row["status"] for row in rows}


@pytest.fixture
def done(bench: Bench, toy: Toy, tmp_path: Path) -> Path:
    """A finished run's results folder."""
    answer = bench("run", *toy)
    assert answer.code == 0, answer.err
    return tmp_path / "runs"


# -- plans -----------------------------------------------------------------------------------------------------------------


def test_plan_of_every_folder_state(bench: Bench, tmp_path: Path) -> None:
    words = ("--method", "toy", "--suite", "toy-score", *TINY, "--runs", str(tmp_path / "runs"))
    assert statuses(bench, *words) == dict.fromkeys(ALL_DONE, "to do")
    assert not (tmp_path / "runs" / "toy").exists(), "a dry run leaves nothing behind"

    broken = bench("run", *words, "--set", "methods.toy.error_at=5")  # another key: another folder, with the same data
    assert broken.code == 1
    cached = {name: "cached" for name in ALL_DONE if "toy" not in name}
    assert statuses(bench, *words) == {**dict.fromkeys(ALL_DONE, "to do"), **cached}
    todo = {"train toy": "resume at step 4", "translate toy": "to do", "score toy": "to do"}
    assert statuses(bench, *words, "--set", "methods.toy.error_at=5") == {**cached, **todo}

    assert bench("run", *words).code == 0
    assert statuses(bench, *words) == ALL_DONE
    run = next(p.parent for p in (tmp_path / "runs" / "toy").rglob("train.json"))
    manifest = next(run.rglob("manifest.json"))
    manifest.unlink()
    assert statuses(bench, *words) == {**ALL_DONE, "translate toy": "to do", "score toy": "to do"}
    answer = bench("run", *words)
    assert answer.code == 0 and "translate toy" in answer.out and "score     toy" not in answer.out, "the images are the same"
    (run / "train.json").write_text("{")
    assert statuses(bench, *words)["train toy"] == "resume at step 6"


def test_lost_weights_are_made_again(bench: Bench, done: Path, toy: Toy) -> None:
    weights = folder(done) / "train" / "train" / "weights.pth"
    content = weights.read_bytes()
    weights.unlink()
    todo = {"train toy": "resume at step 6", "translate toy": "to do", "score toy": "to do"}
    assert statuses(bench, *toy) == {**ALL_DONE, **todo}
    answer = bench("run", *toy)
    assert answer.code == 0 and weights.read_bytes() == content
    assert "train     toy" in answer.out and "translate toy" not in answer.out and "score     toy" not in answer.out
    assert statuses(bench, *toy) == ALL_DONE
    cost = json.loads((folder(done) / "train.json").read_text())["cost"]
    assert 0 < cost["images_per_second"] == pytest.approx(12 / cost["seconds"])


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "half translated"])
def test_no_translation_mixes_two_models(bench: Bench, done: Path, toy: Toy, complete: bool) -> None:
    """Trained again with another outcome (another machine): the images of the weights before are not used."""
    run = folder(done)
    (manifest,) = run.rglob("manifest.json")
    before, old = json.loads(manifest.read_text()), records(done)["toy/synthetic--toy-score"]
    facts = json.loads((run / "train.json").read_text())
    assert before["weights_id"] == facts["weights_id"]
    weights = torch.load(run / facts["weights"], weights_only=True)
    torch.save({**weights, "module.bias": weights["module.bias"] + 0.5}, run / facts["weights"])
    (run / "train.json").write_text(json.dumps({**facts, "weights_id": "other"}))
    if not complete:
        manifest.unlink()
        next((manifest.parent / "images").iterdir()).unlink()
    assert statuses(bench, *toy) == {**ALL_DONE, "translate toy": "to do", "score toy": "to do"}
    assert bench("run", *toy).code == 0
    after = json.loads(manifest.read_text())
    assert after["weights_id"] == "other" and set(after["files"]) == set(before["files"])
    assert all(after["files"][i] != before["files"][i] for i in before["files"])
    new = records(done)["toy/synthetic--toy-score"]
    assert new["key"] == old["key"] and new["translated_content"] == after["content"] != old["translated_content"]
    assert statuses(bench, *toy) == ALL_DONE


def test_a_record_of_other_images_is_made_again(bench: Bench, done: Path, toy: Toy) -> None:
    (path,) = folder(done).glob("records/*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "translated_content": "other"}))
    assert statuses(bench, *toy) == {**ALL_DONE, "score toy": "to do"}


def test_precision_does_not_depend_on_what_ran_before(
    bench: Bench, done: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    for wanted in (True, False):  # nothing is to be trained: the run itself sets the flags; False, the default, comes last
        for flag in flags:
            flag.allow_tf32 = not wanted
        assert bench("run", *toy, "--set", f"train.tf32={wanted}", "--method", "original").code == 0
        assert [flag.allow_tf32 for flag in flags] == [wanted] * 2
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
        report = device_report(torch.device("cuda", 0))
        assert report["tf32"] == {"matmul": wanted, "cudnn": wanted} and "driver" in report


def test_second_run_does_nothing(bench: Bench, done: Path, toy: Toy) -> None:
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file() and p.suffix in (".pth", ".png", ".json", ".npy")}
    answer = bench("run", *toy)
    assert answer.code == 0 and "plan      7 stages cached" in answer.out
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "Change" in answer.out and "toy" in answer.out, "the leaderboard is printed all the same"


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (("--set", "evaluators.toy-score.factor=2"), {"score toy", "score original"}),
        (("--set", "methods.toy.lr=0.02"), {"train toy", "translate toy", "score toy"}),
        (("--set", "train.iterations=7"), {"train toy", "translate toy", "score toy"}),
        (("--seeds", "1"), {"train toy", "translate toy", "score toy"}),
        (("--set", "train.checkpoint_interval=5"), set()),
        (("--log-interval", "3"), set()),
        (("--workers", "2"), set()),
        (("--data", "synthetic-icu,images=8"), {"data synthetic-icu/test"}),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_change_redoes_only_what_depends_on_it(bench: Bench, done: Path, toy: Toy, change: Toy, again: set[str]) -> None:
    rows = plan(bench, *toy, *change)
    left = {f"{r['stage']} {r['what'].split(' ')[0].rstrip(':')}" for r in rows if r["status"] != "cached"}
    if "synthetic-icu,images=8" in change:  # a further test set: translations and scores of it, no training
        assert {r["what"] for r in rows if r["status"] == "cached"} >= {"toy: synthetic", "toy: toy-score on synthetic"}
        assert left >= again and "train toy" not in left
    else:
        assert left == again


@pytest.mark.parametrize(
    ("stage", "again"),
    [
        ("train", {"train toy", "translate toy", "score toy"}),
        ("translate", {"translate toy", "score toy"}),
        ("score", {"score toy"}),
    ],
)
def test_force(bench: Bench, done: Path, toy: Toy, stage: str, again: set[str]) -> None:
    before, log = scores(done), next(done.rglob("log.jsonl")).stat().st_ino
    assert {n for n, s in statuses(bench, *toy, "--force", stage).items() if s != "cached"} == again
    assert statuses(bench, *toy) == ALL_DONE, "a dry run removes nothing"
    answer = bench("run", *toy, "--force", stage)
    assert answer.code == 0
    for name in ("train", "translate", "score"):
        assert (f"{name:<9} toy" in answer.out) == (f"{name} toy" in again)
        assert f"{name:<9} original" not in answer.out, "the shared baseline was not asked for"
    assert scores(done) == before
    assert (next(done.rglob("log.jsonl")).stat().st_ino != log) == (stage == "train")


def test_blocked_stages_say_why_and_exit_3(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    words = (*toy, "--suite", "all", "--set", "prior.weights=nowhere.pth")
    rows = plan(bench, *words, code=3)
    blocked = {row["what"]: row["why"] for row in rows if row["status"] == "blocked"}
    assert "prior.weights=nowhere.pth not found. Searched: " in blocked["the finding classifier"]
    assert any(row["what"].startswith("toy on") and row["status"] == "to do" for row in rows), "the rest is shown as it stands"
    dry = bench("run", *words, "--dry-run")
    assert "blocked" in dry.out and dry.err.startswith("error: prior.weights=nowhere.pth")
    real = bench("run", *words)
    assert real.code == 3 and real.err.count("nowhere.pth not found") == 1
    assert not (tmp_path / "runs" / "toy").exists(), "nothing is started that cannot be finished"


def test_left_out_is_told_with_its_reason(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "picky.py"
    plugin.write_text(
        "import sys\nfrom bench.registry import EVALUATORS, import_file, register_evaluator\n"
        f"import_file({str(TOY)!r})\nBase = EVALUATORS.get('toy-score')\n"
        "@register_evaluator('needs-boxes')\nclass A(Base):\n    needs = frozenset({'nothing-has-this'})\n"
        "@register_evaluator('needs-many')\nclass B(Base):\n    min_images = 500\n"
    )
    for name, reason in (("needs-boxes", "synthetic has no nothing-has-this"), ("needs-many", "at least 500 needed")):
        rows = plan(bench, *toy, "--import", plugin, "--suite", name)
        assert not [row for row in rows if row["stage"] == "score"], "told once, not for every method"
        (fit,) = [row for row in rows if row["stage"] == "fit"]
        assert fit["status"] == "left out" and reason in fit["why"]
        forget_imports()
    answer = bench("run", *toy, "--import", plugin, "--suite", "needs-many")
    assert answer.code == 0 and "left out: needs-many for synthetic: synthetic has" in answer.out


# -- failures --------------------------------------------------------------------------------------------------------------


def test_a_failing_evaluator_fails_alone(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUITES.module_dict, "both", lambda: ("toy-broken", "toy-score"))
    answer = bench("run", *toy, "--suite", "both")
    assert answer.code == 1
    found = records(tmp_path / "runs")
    assert len(found) == 4
    for name, record in found.items():
        broken = name.endswith("toy-broken")
        assert record["status"] == ("failed" if broken else "ok")
        assert (record.get("error") == "RuntimeError: cannot score this") == broken
        assert bool(record["scores"]) != broken
    assert "error: score toy: toy-broken on synthetic: evaluator 'toy-broken' failed on synthetic for 'toy'" in answer.err
    assert "2 stages not done: score original: toy-broken on synthetic; score toy: toy-broken" in answer.last
    assert "failed" in answer.out, "the table shows it"

    mended = bench("run", *toy, "--suite", "both", "--set", "evaluators.toy-broken.broken=false")
    assert mended.code == 0 and "train     toy" not in mended.out
    found_all = [json.loads(p.read_text()) for p in (tmp_path / "runs").rglob("records/*.json")]
    assert {r["status"] for r in found_all if not r["params"].get("broken")} == {"ok"}


def test_a_failed_record_is_tried_again(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    assert bench("run", *toy, "--suite", "toy-broken").code == 1
    assert statuses(bench, *toy, "--suite", "toy-broken")["score toy"] == "to do"


def test_a_failing_method_stops_only_itself(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    plugin = tmp_path / "second.py"
    plugin.write_text(
        "from bench.registry import METHODS, register_method\n"
        "@register_method('toy-too')\nclass Second(METHODS.get('toy')):\n    pass\n"
    )
    words = [*toy, "--import", plugin, "--method", "toy,toy-too", "--set", "methods.toy.error_at=3"]
    answer = bench("run", *words)
    assert answer.code == 1
    found = records(tmp_path / "runs")
    assert {name: r["status"] for name, r in found.items()} == {
        "toy/synthetic--toy-score": "failed", "toy-too/synthetic--toy-score": "ok", "original/synthetic--toy-score": "ok",
    }  # fmt: skip
    line = "error: train toy on synthetic, 6 iterations: iteration 3 of stage 'train': ValueError: the method itself is wrong (see "
    assert line in answer.err
    told = Path(answer.err.split("(see ")[1].split(")")[0])
    assert "toy.py" in told.read_text() and "raise ValueError" in told.read_text()
    assert "3 stages not done: train toy on synthetic, 6 iterations; translate toy: synthetic; score toy" in answer.last


def test_nan_loss_is_one_line_with_the_checkpoint_kept(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    answer = bench("run", *toy, "--set", "methods.toy.nan_at=5")
    assert answer.code == 1
    line = next(text for text in answer.err.splitlines() if "training stopped" in text)
    assert "loss 'g' is nan at iteration 5. Last good checkpoint kept: " in line and "iter_4.pth" in line
    assert next((tmp_path / "runs" / "toy").rglob("iter_4.pth")).is_file()
    assert {name.split("/")[0]: r["status"] for name, r in records(tmp_path / "runs").items()} == {"original": "ok", "toy": "failed"}


def test_a_method_whose_training_fails_stands_in_the_tables(
    bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SUITES.module_dict, "both", lambda: ("toy-broken", "toy-score"))
    words = [*toy, "--suite", "both", "--set", "evaluators.toy-broken.broken=false"]

    def broken(*_: Any, **__: Any) -> None:
        raise BenchError("no training today")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "fit", broken)
        answer = bench("run", *words)
    assert answer.code == 1
    lost = [r for name, r in records(tmp_path / "runs").items() if name.startswith("toy/")]
    assert [(r["status"], r["translated_content"], r["n_translated"], r["scores"]) for r in lost] == [("failed", None, None, {})] * 2
    board = (tmp_path / "runs" / "leaderboard.md").read_text()
    assert re.search(r"\| toy \[1\] +\| +failed \| +failed \|", board)
    assert "[1] toy: toy-broken, toy-score, seed 0 failed: train of toy on synthetic, 6 iterations: no training today." in board

    mended = bench("run", *words)
    assert mended.code == 0, mended.err
    found = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("records/*.json")]
    assert len(found) == 4 and {r["status"] for r in found} == {"ok"}, "replaced, not added"
    assert "failed" not in (tmp_path / "runs" / "leaderboard.md").read_text()


@pytest.mark.parametrize("error", [ValueError("odd"), PermissionError(errno.EACCES, "no entry")], ids=["odd", "refused"])
def test_a_failure_that_cannot_be_recorded_is_a_warning(
    bench: Bench, toy: Toy, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(scoring, "lose", broken)
    answer = bench("run", *toy, "--set", "methods.toy.error_at=3")
    assert answer.code == 1 and "leaderboard  " in answer.out
    assert "warning: score toy: toy-score on synthetic: the tables will not tell of its failure: " in answer.err


def test_a_full_disk_while_a_failure_is_recorded_ends_the_run(bench: Bench, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "record.json")

    monkeypatch.setattr(scoring, "lose", full)
    answer = bench("run", *toy, "--set", "methods.toy.error_at=3")
    assert answer.code == 1 and "leaderboard  " not in answer.out
    assert answer.last.startswith("error: record.json: No space left on device. Free some space")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_inside_an_evaluator_is_not_its_failure(
    bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, wrapped: bool
) -> None:
    def full(*_: Any) -> None:
        error = OSError(code, "no room", "scratch.npy")
        if wrapped:
            raise BenchError("no space left on device while writing scratch.npy.") from error
        raise error

    assert bench("list", "evaluators", "--import", TOY).code == 0
    monkeypatch.setattr(EVALUATORS.get("toy-score"), "score", full)
    answer = bench("run", *toy)
    assert answer.code == 1 and "scratch.npy" in answer.last and "leaderboard  " not in answer.out
    assert not records(tmp_path / "runs"), "no record says that the evaluator failed"


def test_full_disk_while_a_record_is_written(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace

    def full(source: Any, target: Any) -> None:
        if "/toy/" in str(target) and "records" in str(target) and str(target).endswith(".json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    answer = bench("run", *toy)
    assert answer.code == 1 and "no space left on device while writing " in answer.err and "/synthetic--toy-score-" in answer.err
    monkeypatch.setattr(os, "replace", rename)
    again = bench("run", *toy)
    assert again.code == 0 and "train     toy" not in again.out and len(records(tmp_path / "runs")) == 2


def test_full_disk_for_the_log(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self.log))

    monkeypatch.setattr(hooks.LossHook, "_look", full)
    answer = bench("run", *toy)
    assert answer.code == 1 and len(answer.err.splitlines()) == 1
    assert "No space left on device" in answer.last and "log.jsonl" in answer.last and "inished work is kept" in answer.last


# -- what a run leaves -----------------------------------------------------------------------------------------------------


def test_run_folder(done: Path) -> None:
    run = folder(done)
    assert run.parent.name == "synthetic" and run.name.startswith("seed0-")
    files = {re.sub(r"-[0-9a-f]{8}(?=\.)", "", str(p.relative_to(run))) for p in run.rglob("*") if p.is_file()}
    for name in (
        "config.json", "split.json", "train.json", "train/train/log.jsonl", "train/train/weights.pth", "train/train/iter_6.pth",
        "records/synthetic--toy-score.json", "records/synthetic--toy-score.csv", "pictures/synthetic.png",
    ):  # fmt: skip
        assert name in files, name
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["methods"] == {
        "toy": {"lr": 0.01, "nan_at": 0, "error_at": 0, "own_noise": True, "sloppy": True, "generator_first": False}
    }, "every default is written out"
    assert config["config"]["train"]["iterations"] == 6 and config["origin"].startswith("toy.py@")
    split = json.loads((run / "split.json").read_text())["synthetic"]
    sides: dict[str, set[str]] = {}
    for row in split.values():
        sides.setdefault(row["patient"], set()).add(row["split"])
    assert len(split) == 24 and all(len(found) == 1 for found in sides.values())
    (manifest,) = run.rglob("manifest.json")
    tested = {i for i, row in split.items() if row["split"] == "test"}
    assert set(json.loads(manifest.read_text())["files"]) == tested == {p.stem for p in (manifest.parent / "images").iterdir()}
    assert {p.stem for p in (manifest.parent / "masks").iterdir()} == tested
    assert not list(run.rglob(".*.tmp"))


def test_record_is_complete(done: Path) -> None:
    record = records(done)["toy/synthetic--toy-score"]
    assert record["status"] == "ok" and record["schema"] >= 1
    score = record["scores"]["change"]
    assert score["n"] == record["n_translated"] == 7 and 0 < score["value"] < 1 and score["std_over"] == "images"
    assert record["seed"] == 0 and record["evaluator_version"] == 1 and record["params"] == {"factor": 1.0}
    for name in ("dataset_fingerprint", "reference_fingerprint", "config_fingerprint", "translated_content", "key", "written"):
        assert isinstance(record[name], str) and len(record[name]) >= 8, name
    assert {"torch", "mmengine", "numpy", "python"} <= set(record["versions"])
    assert record["device"]["type"] == "cpu" and record["device"]["threads"] == 1
    assert record["command"].startswith("bench run --method toy")
    assert set(record["code"]) == {"revision", "dirty", "sources"} and record["split_by"] == "patient"
    assert record["cost"]["iterations"] == 6 and record["cost"]["images_seen"] == 12 and record["cost"]["parameters"] > 0
    assert record["metrics"] == [
        {"key": "change", "label": "Change", "better": "lower", "unit": "", "digits": 3, "primary": True, "part": "", "shared": False}
    ]
    rows = (folder(done) / "records" / record["per_image"]).read_text().splitlines()
    assert rows[0] == "image_id,patient_id,change" and len(rows) == 8
    values = [float(row.split(",")[2]) for row in rows[1:]]
    assert sum(values) / 7 == pytest.approx(score["value"])


def test_several_seeds_and_methods_share_what_they_can(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    rows = plan(bench, *toy, "--seeds", "0,1")
    assert [r["what"] for r in rows if r["stage"] == "train"] == [f"toy seed {s} on synthetic, 6 iterations" for s in (0, 1)]
    assert len([r for r in rows if r["stage"] == "data"]) == 2
    assert len([r for r in rows if r["stage"] == "translate" and r["what"].startswith("original")]) == 1


def test_changed_translation_is_noticed(bench: Bench, done: Path, toy: Toy) -> None:
    image = next(folder(done).rglob("images/*.png"))
    image.write_bytes(next(p for p in image.parent.iterdir() if p != image).read_bytes())
    for packed in folder(done).rglob("packed-*.npy"):
        packed.unlink()
    answer = bench("run", *toy, "--force", "score")
    assert answer.code == 1 and f"{image.name} was changed after it was made. Translate again: --force translate." in answer.err
    assert bench("run", *toy, "--force", "translate").code == 0


# -- two at once -----------------------------------------------------------------------------------------------------------


def test_second_run_on_the_same_folder_says_who_holds_it(bench: Bench, forks: Forks, toy: Toy, tmp_path: Path) -> None:
    plugin = tmp_path / "wait.py"
    plugin.write_text(
        "import time, pathlib\nfrom bench.contracts import Trainable\nold = Trainable.train_step\n"
        "def step(self, *args, **kwargs):\n    pathlib.Path(__file__).with_name('training').touch()\n"
        "    while not pathlib.Path(__file__).with_name('go').exists():\n        time.sleep(0.02)\n"
        "    return old(self, *args, **kwargs)\nTrainable.train_step = step\n"
    )
    process = forks.start("run", *toy, "--import", plugin)
    deadline = time.monotonic() + 60
    while not (tmp_path / "training").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "training").exists(), "the first run did not begin to train in time"
    second = bench("run", *toy)
    other = bench("run", *toy, "--method", "original")  # shares data and baseline with it, and need not wait for its training
    (tmp_path / "go").touch()
    first = forks.finish()
    assert second.code == 1
    assert f"is in use by process {process} on " in second.last and "bench run --method toy" in second.last
    assert "choose another --runs DIR" in second.last
    assert other.code == 0
    assert first.code == 0, first.err
    assert bench("run", *toy).code == 0


def test_lock_is_gone_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with lock(path, wait=False):
        pass
    path.write_text('{"pid": 1, "host": "elsewhere", "command": "bench run"}')  # what a killed process leaves
    with lock(path, wait=False):
        pass


# -- the real thing --------------------------------------------------------------------------------------------------------


def test_ours_with_every_evaluator(bench: Bench, tmp_path: Path, cache: Path) -> None:
    words = [w for w in TINY if w not in ("--import", str(TOY))]
    small = ["prior.iterations=3", "prior.batch_size=4", "methods.ours.width=4", "methods.ours.disc_width=4", "methods.ours.n_res=1"]
    small += [f"evaluators.segmentation.{s}" for s in ("archs=unet", "iterations=1", "batch_size=2", "recipes=")]
    small += [f"evaluators.classification.{s}" for s in ("architectures=mobilenet", "iterations=1", "batch_size=2")]
    small += [f"evaluators.detection.{s}" for s in ("detector=ssdlite", "iterations=1", "batch_size=2", "image_size=64")]
    words += [w for s in ("data.size=64", "train.iterations=2", *small) for w in ("--set", s)]
    words += ["--data", "synthetic-icu,images=8", "--runs", str(tmp_path / "runs"), "--cache", str(cache)]
    answer = bench("run", "--method", "ours", "--suite", "all", *words)
    assert answer.code == 0, answer.err
    found = records(tmp_path / "runs")
    assert {name.split("/")[0] for name in found} == {"ours", "original"}
    assert {r["dataset"] for r in found.values()} == {"synthetic", "synthetic-icu"}
    assert {r["status"] for r in found.values()} == {"ok"}
    assert all(r["prior"]["trained_by"] == "harness" for r in found.values())
    assert "FD-cxr" in answer.out and "ours" in answer.out
    assert list((folder(tmp_path / "runs", "ours") / "pictures").glob("synthetic-????????.png"))
    again = bench("run", "--method", "ours", "--suite", "all", *words)
    assert again.code == 0 and "to do" not in again.out
    prior = next(Path(r["result"]) for r in plan(bench, "--method", "ours", "--suite", "all", *words) if r["stage"] == "prior")
    content = (prior.parent / "weights.pth").read_bytes()
    (prior.parent / "weights.pth").unlink()
    mended = bench("run", "--method", "ours", "--suite", "all", *words)
    assert mended.code == 0 and "prior     " in mended.out and "train     " not in mended.out
    assert (prior.parent / "weights.pth").read_bytes() == content
    rows = plan(bench, "--method", "ours", "--suite", "all", *words, "--set", "prior.iterations=4")
    assert {r["stage"] for r in rows if r["status"] == "to do"} == {"prior", "fit", "train", "translate", "score"}
    assert {r["status"] for r in rows if r["stage"] == "data"} == {"cached"}
