"""Who learns from what, and what enters a key."""

from __future__ import annotations

from pathlib import Path

import fixtures_data as make
import pytest
import torch

from bench.config import RunOptions, load
from bench.data.contract import DOMAINS
from bench.errors import BenchError
from bench.experiment import Experiment, RunSpec
from bench.files import lock


def experiment(tmp_path: Path, *data: str, suite: str = "all", sets: tuple[str, ...] = (), cache: str = "cache") -> Experiment:
    config = load("quick", None, ["data.size=32", *sets])
    options = RunOptions(runs=tmp_path / "runs", cache=tmp_path / cache)
    return Experiment(RunSpec(("ours",), suite, "quick", config, data, (0,), options), torch.device("cpu"))


@pytest.fixture
def sisters(tmp_path: Path) -> tuple[str, str]:
    """RSNA and ChestX-ray14 of the same people."""
    rsna = make.make_rsna(tmp_path / "rsna", images=24, patients=12)
    nih = make.make_nih14(tmp_path / "nih", images=24, patients=12)
    return f"rsna={rsna}", f"nih14={nih}"


def test_nobody_is_on_two_sides_in_sister_datasets(tmp_path: Path, sisters: tuple[str, str]) -> None:
    found = experiment(tmp_path, *sisters)
    sides: dict[str, set[str]] = {}
    for dataset in found.datasets.values():
        for record in dataset.manifest:
            sides.setdefault(record.patient_id, set()).add(record.split)
    shared = {r.patient_id for r in found.datasets["rsna"].manifest} & {r.patient_id for r in found.datasets["nih14"].manifest}
    assert shared and all(len(split) == 1 for split in sides.values())
    learnt = {r.patient_id for key in found.prior_images() for r in found.datasets[key[0]].records(key[1], key[3])}
    tested = {r.patient_id for name in found.test_names() for r in found.datasets[name].records("test")}
    assert learnt and tested and not learnt & tested


def test_unknown_patients_taint_the_sister_dataset(tmp_path: Path, sisters: tuple[str, str]) -> None:
    known = experiment(tmp_path, *sisters)
    assert not known.leaky("rsna") and not known.leaky("nih14")
    (tmp_path / "rsna" / "pneumonia-challenge-dataset-mappings_2018.json").unlink()
    unknown = experiment(tmp_path, *sisters, sets=("data.split_seed=1",))
    assert unknown.leaky("rsna") and unknown.leaky("nih14")
    assert any("patient" in note for note in unknown.notes())


def test_a_dataset_nobody_learns_from_is_all_tested_on(tmp_path: Path) -> None:
    covid = make.make_covid(tmp_path / "covid")
    found = experiment(tmp_path, "synthetic,images=24", f"covid={covid}")
    assert {r.split for r in found.datasets["covid"].manifest} == {"test"}
    assert found.reference_name("covid") == "synthetic"
    assert not found.leaky("covid")


def test_training_does_not_depend_on_who_scores_it(tmp_path: Path, sisters: tuple[str, str]) -> None:
    plain = ("methods.ours.fa=false", "methods.ours.lca=false")
    alone = experiment(tmp_path, *sisters, suite="faithfulness", sets=plain)
    scored = experiment(tmp_path, *sisters, suite="all", sets=plain)
    assert not alone.needs_prior() and scored.needs_prior()
    assert alone.train_key("ours", 0) == scored.train_key("ours", 0)
    assert all(key[3] == DOMAINS for key in alone.image_stages())


@pytest.mark.parametrize(
    ("key", "changes_prior"),
    [
        ("train.iterations=7", False), ("train.tf32=true", True), ("data.split_seed=5", True), ("data.min_crop=0.8", True),
        ("prior.iterations=9", True), ("methods.ours.bam_w=0.3", False), ("train.precision=bf16", False),
    ],
)  # fmt: skip
def test_what_changes_a_number_changes_its_key(tmp_path: Path, key: str, changes_prior: bool) -> None:
    one, two = (experiment(tmp_path, "synthetic,images=24", sets=s) for s in ((), (key,)))
    assert one.train_key("ours", 0) != two.train_key("ours", 0)
    assert (one.prior_key() != two.prior_key()) == changes_prior
    assert one.train_key("ours", 0) != one.train_key("ours", 1)
    assert one.recipe_key("ours") != two.recipe_key("ours")


def test_checkpoint_interval_and_place_change_no_key(tmp_path: Path) -> None:
    one = experiment(tmp_path, "synthetic,images=24")
    two = experiment(tmp_path / "elsewhere", "synthetic,images=24", sets=("train.checkpoint_interval=7",), cache="other")
    assert one.train_key("ours", 0) == two.train_key("ours", 0) and one.prior_key() == two.prior_key()


def test_an_option_that_changes_pixels_changes_the_images_key(tmp_path: Path) -> None:
    root = make.make_folder(tmp_path / "folder")
    one, two = (experiment(tmp_path, f"folder={root}{extra}", suite="faithfulness") for extra in ("", ",depth=12"))
    assert one.identity("folder", "train", 32) != two.identity("folder", "train", 32)


@pytest.mark.parametrize("program", ["/opt/some/where/.venv/bin/bench", "/opt/some/where/bench/__main__.py"])
def test_the_holder_of_a_lock_is_told_in_a_few_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    words = ["run", "--method", "ours", *(word for k in range(40) for word in ("--set", f"methods.ours.key{k}={k}"))]
    monkeypatch.setattr("sys.argv", [program, *words])
    with lock(tmp_path / ".lock", wait=False), pytest.raises(BenchError) as caught, lock(tmp_path / ".lock", wait=False):
        pass
    text = str(caught.value)
    assert "(bench run --method ours --set" in text and " ...)" in text and "/opt" not in text and len(text) < 250 + len(str(tmp_path))
