"""Evaluators that learn: from whom, once for all methods, as a stage of the plan."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import fixtures_data as make
import numpy as np
import pytest
import torch
from conftest import TINY, Bench, folder, forget_imports, records

from bench import learning, plan
from bench.config import RunOptions, TrainConfig, load
from bench.data.contract import DOMAINS, OTHER
from bench.errors import BenchError
from bench.experiment import Experiment, RunSpec
from bench.fits import Fits
from bench.registry import import_file

LEARNER = Path(__file__).with_name("learner.py")
Words = tuple[str, ...]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the evaluator of `learner.py` says what it does."""
    path = tmp_path / "log.txt"
    path.touch()
    monkeypatch.setenv("LEARNER_LOG", str(path))
    return path


@pytest.fixture
def words(told: Path, tmp_path: Path) -> Words:
    """A tiny run of two methods with an evaluator that learns, with a cache of its own."""
    return (
        "--method", "toy,both-ways", "--suite", "learner", *TINY, "--import", str(LEARNER), "--data", "synthetic-icu,images=10",
        "--runs", str(tmp_path / "runs"),
    )  # fmt: skip


def said(told: Path) -> Counter[str]:
    counted = Counter(told.read_text().split("\n")[:-1])
    told.write_text("")
    return counted


def stages(bench: Bench, *words: str) -> dict[str, str]:
    answer = bench("run", *words, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    return {f"{row['stage']} {row['what']}": row["status"] for row in json.loads(answer.out)}


def test_a_model_is_trained_once_for_all_methods_and_test_sets(bench: Bench, words: Words, told: Path, tmp_path: Path) -> None:
    answer = bench("run", *words)
    assert answer.code == 0, answer.err
    assert "fit       learner for synthetic" in answer.out
    counted = said(told)
    assert counted["prepare"] == 2, "once a test set"
    assert counted["arrays"] == 2, "real images once a test set, three methods"
    assert counted["score True both"] == 1 and counted["score False both"] == 1, "the method that goes both ways"
    assert counted["score True one"] == 2 and counted["score False one"] == 2
    trained = list((tmp_path / "runs" / "cache" / "fits").glob("mean-*"))
    assert len(trained) == 1, "both test sets are judged by one model"
    assert not list(trained[0].rglob("iter_*.pth")), "checkpoints of a finished training only fill the disk"
    found = records(tmp_path / "runs")
    assert len(found) == 6
    models = {json.dumps(r["models"], sort_keys=True) for r in found.values()}
    (model,) = json.loads(models.pop())
    assert not models and model["name"] == "mean" and model["n"] > 0 and len(model["weights_id"]) >= 16
    back = [r["back_content"] for name, r in found.items() if name.startswith("both-ways/")]
    assert all(back) and not any(r["back_content"] for name, r in found.items() if not name.startswith("both-ways/"))


def test_the_clear_images_are_translated_back(bench: Bench, words: Words, tmp_path: Path) -> None:
    assert bench("run", *words).code == 0
    run = folder(tmp_path / "runs", "both-ways")
    forth, back = (
        {p.stem for p in next((run / "translated").glob(f"synthetic-{k}")).rglob("images/*.png")} for k in ("????????", "b2a-*")
    )
    split = json.loads((run / "split.json").read_text())["synthetic"]
    assert back == {i for i in forth if split[i]["domain"] == "clear"} and back < forth
    assert not list((folder(tmp_path / "runs", "toy") / "translated").glob("*-b2a-*")), "it does not say that it can"


def test_a_second_run_does_nothing_even_without_the_models(bench: Bench, words: Words, told: Path, tmp_path: Path) -> None:
    assert bench("run", *words).code == 0
    said(told)
    assert set(stages(bench, *words).values()) == {"cached"}
    for path in (tmp_path / "runs" / "cache" / "fits" / "prepared").rglob("prepared.json"):
        path.unlink()
    assert set(stages(bench, *words).values()) == {"cached"}, "every score that needs them is there"
    assert bench("run", *words).code == 0 and not said(told)


def test_a_changed_parameter_trains_anew(bench: Bench, words: Words, tmp_path: Path) -> None:
    assert bench("run", *words).code == 0
    changed = stages(bench, *words, "--set", "evaluators.learner.steps=5")
    assert {s.split(" ")[0] for s, status in changed.items() if status == "to do"} == {"fit", "score"}


def test_a_lost_model_is_to_do_again_once_a_score_needs_it(bench: Bench, words: Words, told: Path, tmp_path: Path) -> None:
    assert bench("run", *words).code == 0
    (model,) = (tmp_path / "runs" / "cache" / "fits").glob("mean-*/fit.json")
    model.unlink()
    for record in (tmp_path / "runs" / "toy").rglob("records/*.json"):
        record.unlink()
    found = stages(bench, *words)
    assert found["fit learner for synthetic"] == "to do", "the plan does not call cached what it would train"


def test_a_plugin_that_changed_learns_anew(bench: Bench, words: Words, told: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "learner.py"
    text = LEARNER.read_text().replace('Path(__file__).with_name("toy.py")', f"Path({str(LEARNER.with_name('toy.py'))!r})")
    plugin.write_text(text)
    own = tuple(str(plugin) if word == str(LEARNER) else word for word in words)
    assert bench("run", *own).code == 0
    forget_imports()
    plugin.write_text(text.replace("lr=0.2", "lr=0.1"))
    assert bench("run", *own).code == 0
    assert len(list((tmp_path / "runs" / "cache" / "fits").glob("mean-*/fit.json"))) == 2


def test_the_way_back_enters_only_the_keys_of_who_looks_at_it(bench: Bench, words: Words, told: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "pair.py"
    plugin.write_text("from bench import register_suite\n@register_suite('pair')\ndef pair():\n    return ('learner', 'toy-score')\n")
    both = tuple("pair" if word == "learner" else word for word in (*words, "--import", str(plugin)))
    assert bench("run", *both).code == 0
    alone = tuple("toy-score" if word == "learner" else word for word in words)
    assert set(stages(bench, *alone).values()) == {"cached"}, "another suite asks for the same score"


def test_a_failed_training_takes_its_scores_with_it_and_no_others(
    bench: Bench, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "two.py"
    plugin.write_text("from bench import register_suite\n@register_suite('two')\ndef two():\n    return ('learner', 'toy-score')\n")
    both = tuple("two" if word == "learner" else word for word in (*words, "--import", str(plugin)))
    monkeypatch.setenv("LEARNER_FAILS", "1")
    broken = bench("run", *both)
    assert broken.code == 1 and "fit learner for synthetic" in broken.err and "the training is broken" in broken.err
    found = records(tmp_path / "runs")
    assert {name: r["status"] for name, r in found.items()} == {
        name: "failed" if name.endswith("--learner") else "ok" for name in found
    }  # fmt: skip
    assert len(found) == 12, "a score that could not be had leaves a record, too"
    lost = [r for r in found.values() if r["status"] == "failed"]
    assert all("fit of learner for synthetic" in r["error"] and "the training is broken" in r["error"] for r in lost)
    board = (tmp_path / "runs" / "leaderboard.md").read_text()
    assert "learner, seed 0 failed: fit of learner for synthetic" in board
    assert "[1] original, both-ways, toy: learner" in board and "| original [1]" in board and "Gap (failed)" in board
    monkeypatch.delenv("LEARNER_FAILS")
    assert bench("run", *both).code == 0
    assert {r["status"] for r in records(tmp_path / "runs").values()} == {"ok"} and len(records(tmp_path / "runs")) == 12


def test_an_interrupted_fit_carries_on(tmp_path: Path, told: Path) -> None:
    from learner import Images, Mean  # type: ignore[import-not-found]

    class Pixels:
        fingerprint = "x"

        def __len__(self) -> int:
            return 3

        def pixels(self, rows: list[int]) -> np.ndarray:
            return np.full((1, 4, 4), 0.25 * (1 + rows[0]), np.float32)

    settings = TrainConfig(iterations=6, batch_size=1, checkpoint_interval=2)

    def build(stop: int = 0):  # type: ignore[no-untyped-def]
        class Stopping(Images):
            def batch(self, raw, device):  # type: ignore[no-untyped-def]
                self.seen = getattr(self, "seen", 0) + 1
                if stop and self.seen > stop:
                    raise KeyboardInterrupt
                return super().batch(raw, device)

        return Mean(), Stopping(Pixels())

    whole = Fits(tmp_path / "a", torch.device("cpu"), quiet=True).model("mean", {}, build, settings, 0)
    fits = Fits(tmp_path / "b", torch.device("cpu"), quiet=True)
    with pytest.raises(KeyboardInterrupt):
        fits.model("mean", {}, lambda: build(3), settings, 0)
    assert list((tmp_path / "b").rglob("iter_2.pth")) and not fits.used
    assert fits.model("mean", {}, build, settings, 0).id == whole.id
    again = fits.model("mean", {}, lambda: build(1), settings, 0)
    assert again.id == whole.id and torch.equal(again.model.level, whole.model.level), "loaded, not trained"
    assert fits.model("mean", {"other": 1}, build, settings, 0).facts["key"] != whole.facts["key"]
    weights = next((tmp_path / "b").rglob("weights.pth"))
    other = Fits(tmp_path / "b", torch.device("cpu"), quiet=True)
    for state, harm in (("cannot be used: .*", lambda: weights.write_bytes(weights.read_bytes()[:100])), ("is gone", weights.unlink)):
        harm()
        with pytest.raises(BenchError, match=rf"{weights} {state}.* delete {weights.parent.parent} and run"):
            [other.model("mean", inputs, build, settings, 0) for inputs in ({}, {"other": 1})]


def test_remembered_arrays(tmp_path: Path) -> None:
    fits = Fits(tmp_path, torch.device("cpu"))
    first = fits.arrays("a", {"of": 1}, lambda: {"x": np.arange(3.0), "y": np.array(2)})
    again = fits.arrays("a", {"of": 1}, lambda: pytest.fail("computed twice"))
    assert np.array_equal(first["x"], again["x"]) and int(again["y"]) == 2
    assert fits.arrays("a", {"of": 2}, lambda: {"x": np.zeros(1)})["x"].shape == (1,)
    for content in (b"PK half", b"PK\x03\x04" + bytes(40), b""):
        for path in (tmp_path / "fits" / "arrays").glob("*.npz"):
            path.write_bytes(content)
        with pytest.raises(BenchError, match=r"is damaged .* Delete it"):
            fits.arrays("a", {"of": 1}, dict)
    with pytest.raises(BenchError, match="no name of letters"):
        fits.folder("my net", {}, lambda folder: {})


def test_folds_of_unknown_patients_are_no_split_by_patient(bench: Bench, told: Path, tmp_path: Path) -> None:
    root = make.make_rsna(tmp_path / "rsna", images=24, patients=12)
    next(root.glob("pneumonia-challenge-dataset-mappings*")).unlink()
    masks = make.make_masks(tmp_path, [path.stem for path in root.glob("stage_2_train_images/*")])
    rsna = f"rsna={root},lung_masks={masks}/lung_masks,lung_convention=heart-excluded"
    words = ("--method", "toy", *TINY, "--import", str(LEARNER), "--data", rsna, "--runs", str(tmp_path / "runs"))
    for suite in ("learner", "toy-score"):
        answer = bench("run", "--suite", suite, *words)
        assert answer.code == 0, answer.err
    split_by = {name.partition("/")[2]: record["split_by"] for name, record in records(tmp_path / "runs").items()}
    assert "leaky" in split_by["rsna--learner"] and split_by["rsna--toy-score"] == "patient", "nothing was learnt from rsna"
    assert split_by["synthetic--learner"] == "patient"


# -- who teaches -----------------------------------------------------------------------------------------------------------


def experiment(tmp_path: Path, *data: str) -> Experiment:
    import_file(LEARNER)
    options = RunOptions(runs=tmp_path / "runs", cache=tmp_path / "cache")
    spec = RunSpec(("toy",), "learner", "quick", load("quick", None, ["data.size=32"]), data, (0,), options)
    return Experiment(spec, torch.device("cpu"))


def test_the_teacher_is_the_set_itself_then_the_training_set(tmp_path: Path, told: Path) -> None:
    found = experiment(tmp_path, "synthetic,images=24", "synthetic-icu,images=8")
    assert learning.teacher(found, "lung_mask", "synthetic") == "synthetic"
    assert learning.teacher(found, "lung_mask", "synthetic-icu") == "synthetic", "nothing learns from it: it is all test"
    keys = learning.image_keys(found, "learner", "synthetic-icu", "train")
    assert keys == [("synthetic", "train", 32, DOMAINS)]
    tested = {r.patient_id for name in found.test_names() for r in found.datasets[name].records("test")}
    taught = {r.patient_id for key in keys for r in found.datasets[key[0]].records(key[1], key[3])}
    assert taught and not taught & tested


def test_lung_masks_of_another_convention_do_not_teach(tmp_path: Path, told: Path) -> None:
    covid = make.make_covid(tmp_path / "covid")
    found = experiment(tmp_path, "synthetic,images=24", f"covid={covid}")
    assert found.datasets["covid"].reader.lung_convention == "heart-included"
    assert learning.teacher(found, "lung_mask", "covid") == ""
    why = learning.why_left_out(found, "learner", "covid")
    assert why == "no dataset of this run has training images with lung mask to learn from"
    rows = {s.title: s for s in plan.plan(found) if s.kind == "fit"}
    assert rows["learner for covid"].status == "left out" and rows["learner for covid"].reason == why
    assert rows["learner for synthetic"].status == "to do"


def test_one_class_is_told(tmp_path: Path, told: Path) -> None:
    found = experiment(tmp_path, "synthetic,images=24", "synthetic-clear,images=8")
    assert learning.why_left_out(found, "learner", "synthetic-clear") == (
        "synthetic-clear has clear images only: one class cannot be learnt or told apart"
    )
    assert not learning.wants_back(found, "synthetic-clear") and learning.wants_back(found, "synthetic")


def test_images_of_no_domain_teach_what_is_no_opacity(tmp_path: Path, told: Path) -> None:
    rsna = make.make_rsna(tmp_path / "rsna", images=24, patients=12)
    found = experiment(tmp_path, f"rsna={rsna}")
    third = found.datasets["rsna"].annotated("train", "boxes", (OTHER,))
    assert third and all(r.boxes == () for r in third)
    assert learning.teacher(found, "boxes", "rsna") == "rsna" and learning.teacher(found, "lung_mask", "rsna") == ""
