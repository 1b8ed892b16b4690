"""Cases: which method a score's rule goes by, other results folders, licences of what was learnt from, damage, padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from case_tools import SIZE, Folder, bits, two_methods
from conftest import TINY, Bench
from fixtures_data import make_folder, save_png
from PIL import Image
from torch import nn

from bench import records as files
from bench.errors import UsageError
from bench.files import read_json, write_json
from evaluators import segmenters
from evaluators.segmentation_figure import keep
from leaderboards import cases, stored
from leaderboards.cases import Case
from leaderboards.figures.cases import iou


@pytest.fixture
def two(tmp_path: Path) -> Folder:
    return two_methods(tmp_path / "runs")


def load(*roots: Path) -> list[dict[str, Any]]:
    return files.load(roots)[0]


# -- rules -----------------------------------------------------------------------------------------------------------------


def second_set(root: Path, *methods: str) -> Folder:
    """Another test set, under another preset."""
    folder = Folder(root)
    for method in methods:
        folder.run(method)
        folder.score(method, preset="quick")
    return folder


def test_one_method_chooses_in_all_test_sets(two: Folder, tmp_path: Path) -> None:
    other = second_set(tmp_path / "other", "cut")
    found = load(two.root, other.root)
    assert [s.rule.rpartition(" ")[2] for s in cases.case_sets(found, "toy/error", 2)] == ["ours"], "and not cut in the other set"
    assert cases.problems(found, "toy/error") == ["no cases of rsna by toy/error@ours: no image has a value of it there"]
    assert [s.context["preset"] for s in cases.case_sets(found, "toy/error@cut", 2)] == ["quick"]


def test_without_ours_a_method_is_to_be_named(tmp_path: Path) -> None:
    folder = second_set(tmp_path, "unit", "cut")
    with pytest.raises(UsageError) as caught:
        cases.case_sets(folder.load(), "toy/error")
    told = "cases by toy/error: by which method? 'ours' has no values of it. Choose one: toy/error@cut, toy/error@unit."
    assert str(caught.value) == told
    (found,) = cases.case_sets(folder.load(), "toy/error@unit", 1)
    assert found.rule.endswith("of unit")
    (alone,) = cases.case_sets(second_set(tmp_path / "alone", "cut").load(), "toy/error", 1)
    assert alone.rule.endswith("of cut"), "there is no other"


@pytest.mark.parametrize(
    ("rule", "end"),
    [
        ("toy/ERROR", "Did you mean 'toy/error'?"), ("Toy/Error", "Did you mean 'toy/error'?"),
        ("fidelity/error", "Scores with values by image: toy/error, toy/gain."),
        ("toy/error@Ours", "Did you mean 'ours'?"), ("toy/error@CYCLEGAN", "Did you mean 'cyclegan'?"),
    ],
)  # fmt: skip
def test_suggestions_stay_within_the_evaluator_and_know_no_case(two: Folder, rule: str, end: str) -> None:
    with pytest.raises(UsageError) as caught:
        cases.case_sets(two.load(), rule)
    assert str(caught.value).endswith(end)


# -- where things are looked for ---------------------------------------------------------------------------------------------


def test_inputs_are_found_in_any_of_the_results_folders(two: Folder, tmp_path: Path) -> None:
    bare = second_set(tmp_path / "bare", "cut")
    (bare.place / "manifest.json").unlink()
    assert cases.case_sets(bare.load()) == []
    found, told = cases.opened(load(two.root, bare.root))
    assert told == [] and sorted(m for s in found for m in s.methods) == ["cut", "cyclegan", "ours"]
    facts = read_json(two.place / "manifest.json")
    write_json(two.place / "manifest.json", {**facts, "size": 2 * SIZE})
    assert cases.case_sets(load(two.root, bare.root)) == [], "of another size"


def test_a_test_set_that_nothing_scored_is_named_once(two: Folder) -> None:
    facts = read_json(two.place / "manifest.json")
    for name in ("covid-1-8", "covid-2-8"):
        write_json(two.root / "sources" / name / "manifest.json", {**facts, "dataset": "covid"})
    line = "covid: translated, not scored by anything, so no cases"
    assert cases.problems(two.load()) == [line] and cases.opened(two.load())[1] == [line]
    records = two.root / "cut" / "rsna" / "seed0-1" / "records"
    records.mkdir(parents=True)
    (records / "covid--toy-1.json").write_text("{}")
    assert cases.problems(load(two.root)) == [], "scored, though these records were not asked for"


# -- what was learnt from ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "policy", "restricted"),
    [
        ("mimic", "credentialed", True), ("mimic", None, True), ("rsna", None, False), ("nih14", "open", False),
        ("nih14", "no-redistribution", False), ("rsna", "credentialed", True),
    ],
)
def test_images_of_methods_that_learnt_from_restricted_data_are_restricted(
    tmp_path: Path, train: str, policy: str | None, restricted: bool
) -> None:
    folder = Folder(tmp_path)
    folder.run("ours")
    folder.score("ours", train_dataset=train, train_policy=policy)
    (found,) = cases.case_sets(folder.load())
    assert found.restricted == restricted


@pytest.mark.parametrize(
    ("data", "prior", "expected"),
    [
        ({"mimic": "credentialed", "rsna": "open"}, False, "credentialed"), ({"mimic": "open", "rsna": "credentialed"}, False, "open"),
        ({"mimic": "open", "rsna": "credentialed"}, True, "credentialed"), ({"rsna": "open"}, False, None),
        ({"mimic": "odd"}, False, None),
    ],
)  # fmt: skip
def test_an_older_record_learns_it_from_its_run(tmp_path: Path, data: dict[str, str], prior: bool, expected: str | None) -> None:
    folder = Folder(tmp_path)
    run = folder.run("ours")
    folder.score("ours", train_dataset="mimic", trained_with_prior=prior)
    facts = {"train_dataset": "mimic", "data": {name: {"policy": policy} for name, policy in data.items()}}
    write_json(run / "config.json", facts)
    (record,) = folder.load()
    assert record.get("train_policy") == expected
    write_json(run / "config.json", {**facts, "train_dataset": "rsna"})
    assert "train_policy" not in folder.load()[0], "of another run"


def test_a_run_writes_what_it_learnt_from(bench: Bench, toy: tuple[str, ...], tmp_path: Path) -> None:
    assert bench("run", *toy).code == 0
    assert {record["train_policy"] for record in load(tmp_path / "runs")} == {"open"}


# -- damage ----------------------------------------------------------------------------------------------------------------


def test_a_damaged_image_costs_its_case_alone(two: Folder) -> None:
    path = two.root / "ours" / "rsna" / "seed0-12345678" / "translated" / "rsna-87654321" / "images" / "a3.png"
    path.write_bytes(b"no image")
    lost: list[str] = []
    (found,), told = cases.opened(two.load(), count=3, lost=lost.append)
    assert [case.image_id for case in found.cases] == ["b1", "b2"] and told == []
    assert found.rule == "The first 3 opacity images of the sorted test set; 1 of them cannot be opened"
    (line,) = lost
    assert line.startswith(f"{path} cannot be read (")


def test_damaged_values_cost_their_set_alone(two: Folder, tmp_path: Path) -> None:
    other = second_set(tmp_path / "other", "ours")
    found = load(two.root, other.root)
    (other.root / "ours" / "rsna" / "seed0-12345678" / "records" / "rsna--toy-abcdef01.csv").write_text("image_id,error\na3,much\n")
    lost: list[str] = []
    sets, _ = cases.opened(found, "toy/error", 2, lost.append)
    assert [some.context["preset"] for some in sets] == ["paper"] and len(lost) == 1


# -- padding ---------------------------------------------------------------------------------------------------------------


def test_padding_is_neither_lung_nor_decided(tmp_path: Path) -> None:
    """An image of 8 x 4 in 8 x 8: two columns of padding on each side; by hand."""
    folder = Folder(tmp_path, planes=("images", "lungs"))
    facts = read_json(folder.place / "manifest.json")
    write_json(folder.place / "manifest.json", {**facts, "contents": {"a3": [0, 2, 8, 4]}})
    reference = np.zeros((SIZE, SIZE), np.uint8)
    reference[:4, 2:6], reference[6:] = 255, 127
    save_png(folder.place / "lungs" / "a3.png", reference)
    folder.run("ours")
    folder.score("ours", "segmentation")
    seen = np.zeros((SIZE, SIZE), np.bool_)
    seen[:4, :4] = True  # half of it in the padding
    place = folder.root / "ours" / "rsna" / "seed0-12345678" / "scores" / "rsna--segmentation-abcdef01"
    place.mkdir(parents=True)
    masks = {"U-Net": seen, "VGG": seen | True, "CE-Net": seen & False}
    keep({name: bits({"a3": mask}) for name, mask in masks.items()}, ["a3"], SIZE, place / "lungs.npz")
    (found,) = cases.case_sets(folder.load(), count=1)
    (case,) = found.cases
    lungs = case.results["ours"].lungs
    assert case.inside is not None and case.inside.sum() == 32 and case.lungs is not None and case.undecided is not None
    assert case.undecided.sum() == 8 and not (case.undecided & ~case.inside).any()
    assert lungs["U-Net"].sum() == 8 and iou(lungs["U-Net"], case.lungs, case.undecided) == 0.5, "8 of 16; with padding 8 of 24"
    assert [case.oddity(lungs[name]) for name in ("U-Net", "VGG", "CE-Net")] == ["", "whole image", "no lungs found"]


def test_an_image_that_is_undecided_all_over_has_no_reference(tmp_path: Path) -> None:
    folder = Folder(tmp_path, planes=("images", "lungs"))
    facts = read_json(folder.place / "manifest.json")
    write_json(folder.place / "manifest.json", {**facts, "contents": {"a3": [2, 0, 4, 8]}})
    reference = np.zeros((SIZE, SIZE), np.uint8)
    reference[2:6] = 127
    save_png(folder.place / "lungs" / "a3.png", reference)
    found = stored.Inputs(folder.place, read_json(folder.place / "manifest.json"))
    assert found.lungs("a3") == (None, None), "what is decided is padding"


def test_the_oddity_of_an_image_without_padding() -> None:
    case = Case("x", np.zeros((4, 4), np.uint8), {})
    assert case.oddity(np.ones((4, 4), np.bool_)) == "whole image" and case.oddity(np.eye(4, dtype=np.bool_)) == ""


class LeftHalf(nn.Module):
    """Sees lungs in the left half of everything."""

    def __init__(self, *_: Any) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        left = torch.arange(images.shape[-1]) < images.shape[-1] // 2
        return (left * 20.0 - 10.0).expand(len(images), 1, *images.shape[-2:]) + self.bias


def test_ious_are_those_of_the_record(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real run of the segmentation evaluator on images that are not square: what is drawn is what was recorded."""
    for arch, kind in dict(segmenters.ARCHS).items():
        monkeypatch.setitem(segmenters.ARCHS, arch, segmenters.Arch(kind.title, LeftHalf, kind.encoder, 1, 1))  # type: ignore[index, arg-type]
    root = make_folder(tmp_path / "folder", images=24, patients=24)
    for scan in root.rglob("scan*.png"):
        with Image.open(scan) as image:
            values = np.asarray(image)
        save_png(scan, values[:, 12:48])
    words = [word for word in TINY if word not in ("--data", "synthetic,images=24")]
    few = ["--set", "evaluators.segmentation.iterations=1", "--set", "evaluators.segmentation.archs=[unet]"]
    places = ["--data", f"folder={root},policy=open", "--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    answer = bench("run", "--method", "original", "--suite", "segmentation", *words, *places, *few)
    assert answer.code == 0, answer.err
    (record,) = load(tmp_path / "runs")
    run, path, inputs = stored.run_folder(record), stored.lungs_file(record), stored.inputs([record], [tmp_path / "runs"])
    assert run is not None and path is not None and inputs is not None
    told, seen, differ = stored.per_image(record)["miou/unet"], stored.Lungs(path, ""), 0
    for image_id, value in told.items():
        inside, (reference, undecided), (mask,) = inputs.inside(image_id), inputs.lungs(image_id), seen.of(image_id).values()
        assert inside is not None and inside.sum() == 32 * 18 and reference is not None
        assert 100 * (iou(mask & inside, reference, undecided) or 0) == pytest.approx(value)
        differ += iou(mask, reference, undecided) != iou(mask & inside, reference, undecided)
    assert len(told) >= 3 and differ, "padding would have counted"
