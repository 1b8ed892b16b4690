"""Cases: opened from what runs stored, chosen by a rule that can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from case_tools import SIZE, Folder, two_methods
from fixtures_data import save_png
from PIL import Image

from bench import records as files
from bench.errors import UsageError
from bench.files import read_json, write_json
from bench.records import Local
from leaderboards import cases
from leaderboards.rules import thirds


@pytest.fixture
def two(tmp_path: Path) -> Folder:
    return two_methods(tmp_path / "runs")


def chosen(found: cases.CaseSet) -> dict[str, str]:
    return {case.image_id: case.why for case in found.cases}


def test_first_cases_hold_what_was_stored(two: Folder) -> None:
    (found,), told = cases.opened(two.load(), count=3)
    assert told == cases.problems(two.load()) == []
    assert (found.test, found.seed, found.restricted) == ("rsna", 0, False)
    assert found.title == f"rsna, trained on rsna, paper preset, {SIZE} px"
    assert found.rule == "The first 3 opacity images of the sorted test set"
    assert chosen(found) == {"a3": "first", "b1": "first", "b2": "first"} and list(chosen(found)) == ["a3", "b1", "b2"]
    assert set(found.methods) == {"cyclegan", "ours"} and found.context["dataset_fingerprint"] == "0123456789abcdef"
    case = found.cases[1]
    assert np.array_equal(case.image, two.grey("b1", "images")) and case.image.dtype == np.uint8
    assert np.array_equal(case.results["ours"].image, two.grey("b1", "ours/images"))
    assert np.array_equal(case.results["cyclegan"].image, two.grey("b1", "cyclegan/images"))
    assert case.results["cyclegan"].mask is None
    mask = case.results["ours"].mask
    assert mask is not None and np.array_equal(mask, two.grey("b1", "ours/masks"))
    assert case.results["ours"].scores == {"toy/error": 0.4}, "primary metrics alone"
    assert [case.opacity, case.counterpart, case.lungs, case.undecided] == [None] * 4
    assert not case.lungs_before and not case.results["ours"].lungs


def test_only_chosen_cases_are_opened(two: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    open_image = Image.open

    def noted(path: Path) -> Image.Image:
        seen.append(path)
        return open_image(path)

    monkeypatch.setattr(Image, "open", noted)
    cases.case_sets(two.load(), count=1)
    assert {path.stem for path in seen} == {"a3"} and len(seen) == 4


def test_all_images_count_where_none_has_an_opacity(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"b": "clear", "a": "clear", "c": "clear"})
    folder.run("ours")
    folder.score("ours", values={"a": (1, 1, 1)})
    (found,) = cases.case_sets(folder.load(), count=2)
    assert list(chosen(found)) == ["a", "b"] and found.rule == "The first 2 images of the sorted test set"
    assert not found.cases[1].results["ours"].scores, "an image without a value"
    (one,) = cases.case_sets(folder.load(), count=1)
    assert one.rule == "The first image of the sorted test set"


def test_what_is_known_of_an_image(tmp_path: Path) -> None:
    folder = Folder(tmp_path, planes=("images", "opacity", "counterpart", "lungs"))
    reference = np.full((SIZE, SIZE), 127, np.uint8)
    reference[0, 0], reference[1:] = 255, 0
    save_png(folder.place / "lungs" / "a3.png", reference)
    save_png(folder.place / "lungs" / "b2.png", np.where(reference == 127, 0, reference).astype(np.uint8))
    folder.run("ours")
    folder.score("ours")
    (found,) = cases.case_sets(folder.load())
    case = {case.image_id: case for case in found.cases}
    assert np.array_equal(case["a3"].opacity, folder.grey("a3", "opacity"))  # type: ignore[arg-type]
    assert np.array_equal(case["a3"].counterpart, folder.grey("a3", "counterpart"))  # type: ignore[arg-type]
    seen, unsure = case["a3"].lungs, case["a3"].undecided
    assert seen is not None and seen.dtype == np.bool_ and seen.sum() == 1 and seen[0, 0]
    assert unsure is not None and unsure.sum() == SIZE - 1 and not unsure[0, 0]
    assert case["b2"].lungs is not None and case["b2"].undecided is None, "decided everywhere"
    assert case["b1"].lungs is None and case["b1"].undecided is None, "a reference that says nothing"


# -- rules -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "b:best"), (2, "b:best f:worst"), (3, "b:best e:median f:worst"), (4, "b:best d:best e:median f:worst"),
        (5, "b:best d:best e:median f:worst a:worst"), (6, "b:best d:best g:median e:median f:worst a:worst"),
        (7, "b:best d:best g:best e:median c:median f:worst a:worst"), (99, "b:best d:best g:best e:median c:median f:worst a:worst"),
    ],
)  # fmt: skip
def test_thirds_by_hand(count: int, expected: str) -> None:
    """In order: b 1, d 2, g 2.5, e 3, c 4, a 5, f 9."""
    values = {"a": 5.0, "b": 1.0, "c": 4.0, "d": 2.0, "e": 3.0, "f": 9.0, "g": 2.5}
    assert " ".join(f"{image}:{why}" for image, why in thirds(values, count).items()) == expected


def test_equal_scores_go_by_name() -> None:
    values = dict.fromkeys("edcba", 1.0)
    assert thirds(values, 3) == {"a": "best", "c": "median", "b": "worst"}
    assert thirds({}, 3) == {}


def test_a_rule_by_a_score(two: Folder) -> None:
    two.score("cyclegan", values={"b2": (0.9, 1.0, 3), "a3": (0.8, 9.0, 3), "b1": (0.1, 5.0, 1), "d9": (0.2, 2.0, 2)})
    (found,) = cases.case_sets(two.load(), "toy/error", 3)
    assert chosen(found) == {"a3": "best", "d9": "median", "b1": "worst"}, "equal errors: by name"
    assert found.rule == "The 1 best, 1 median, 1 worst of 4 images by toy/error (Error; lower is better) of ours"
    (other,) = cases.case_sets(two.load(), "toy/error@cyclegan", 2)
    assert chosen(other) == {"b1": "best", "b2": "worst"}
    (gain,) = cases.case_sets(two.load(), "toy/gain@ours", 2)
    assert chosen(gain) == {"a3": "best", "b2": "worst"}, "higher is better; not a primary metric"
    assert "(Gain; higher is better) of ours" in gain.rule


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("last", "cases by 'last': neither 'first' nor EVALUATOR/METRIC or EVALUATOR/METRIC@METHOD."),
        ("toy/", "cases by 'toy/': neither"),
        ("toy/error@", "cases by 'toy/error@': neither"),
        ("toy/eror", "cases by toy/eror: it has no values by image. Did you mean 'toy/error'?"),
        ("toy/boxes", "cases by toy/boxes: it is neither better high nor low. Did you mean 'toy/"),
        ("toy/error@our", "no stored translations of a method 'our'. Did you mean 'ours'?"),
    ],
)
@pytest.mark.parametrize("call", [cases.case_sets, cases.problems])
def test_a_rule_that_nothing_fits(two: Folder, call: Callable[..., Any], rule: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(two.load(), rule)
    assert str(caught.value).startswith(message)


def test_no_cases_are_asked_for(two: Folder) -> None:
    with pytest.raises(UsageError, match="0 cases: at least 1"):
        cases.case_sets(two.load(), count=0)


# -- what is missing, and where it is looked for ---------------------------------------------------------------------------


def test_a_folder_without_inputs_is_one_line(two: Folder) -> None:
    (two.place / "manifest.json").unlink()
    assert cases.case_sets(two.load()) == []
    again = "run the same `bench run` command again"
    assert cases.problems(two.load()) == [f"no stored inputs of rsna below {two.root}: {again}"]


def test_inputs_of_other_images_are_not_taken(two: Folder) -> None:
    facts = read_json(two.place / "manifest.json")
    write_json(two.place / "manifest.json", {**facts, "fingerprint": "0123456700000000"})
    assert cases.case_sets(two.load()) == [] and len(cases.problems(two.load())) == 1


def test_a_method_without_images_is_left_out_and_named(two: Folder) -> None:
    manifest = two.root / "cyclegan" / "rsna" / "seed0-12345678" / "translated" / "rsna-87654321" / "manifest.json"
    for damage in ("{", json.dumps({**read_json(manifest), "content": "of other images"}), None):
        manifest.write_text(damage) if damage else manifest.unlink()
        (found,) = cases.case_sets(two.load())
        assert found.methods == ("ours",) and set(found.cases[0].results) == {"ours"}
        line = f"no stored translations of rsna by cyclegan below {two.root}: run the same `bench run` command again"
        assert cases.problems(two.load()) == [line]


def test_a_set_without_a_value_is_named(two: Folder) -> None:
    other = Folder(two.root.parent / "other")
    other.run("ours")
    other.score("ours", "second", dataset_fingerprint="0123456789abcdef", preset="quick")
    found, _ = files.load([two.root, other.root])
    assert [some.context["preset"] for some in cases.case_sets(found)] == ["paper", "quick"]
    assert [some.context["preset"] for some in cases.case_sets(found, "second/error")] == ["quick"]
    assert cases.problems(found, "second/error") == ["no cases of rsna by second/error@ours: no image has a value of it there"]


def test_a_part_of_a_results_folder_knows_the_whole(two: Folder) -> None:
    for part in (two.root / "ours", two.root / "ours" / "rsna", two.root / "ours" / "rsna" / "seed0-12345678"):
        found, _ = files.load([part])
        (one,) = cases.case_sets(found)
        assert one.methods == ("ours",) and np.array_equal(one.cases[0].image, two.grey("a3", "images"))


def test_a_folder_is_found_from_elsewhere(two: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two.root)
    found, _ = files.load([Path()])
    monkeypatch.chdir(two.root.parent)
    assert len(cases.case_sets(found)) == 1
    assert Path(found[0]["_local"].root) == two.root


def test_records_that_were_not_loaded_have_no_images(two: Folder) -> None:
    bare = [{name: value for name, value in one.items() if name != files.LOCAL} for one in two.load()]
    assert cases.case_sets(bare) == []
    assert cases.problems(bare) == ["no stored inputs of rsna below any folder: run the same `bench run` command again"]
    assert Local("a", {}, {}, "x") == Local("a", {}, {}, "y"), "where a folder lies is no difference"


def test_the_lowest_seed_is_shown(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for method, seeds in (("ours", (2, 1)), ("cut", (1, 3)), ("unit", (5,))):
        for seed in seeds:
            folder.run(method, seed)
            folder.score(method, seed=seed, values={"a3": (seed, seed, seed)})
    (found,) = cases.case_sets(folder.load(), count=1)
    (case,) = found.cases
    assert found.seed == 1 and case.results["ours"].scores == {"toy/error": 1.0}
    assert np.array_equal(case.results["cut"].image, folder.grey("a3", "cut/images", 1))
    assert sorted(found.context["seeds"].split(", ")) == ["cut 1", "ours 1", "unit 5"]


def test_only_the_untranslated_images_make_no_set(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.run("original")
    folder.score("original")
    assert cases.case_sets(folder.load()) == [] and cases.problems(folder.load()) == []


@pytest.mark.parametrize("where", ["record", "manifest"])
def test_restricted_images_are_said_to_be(two: Folder, where: str) -> None:
    if where == "record":
        two.score("ours", policy="credentialed")
    else:
        write_json(two.place / "manifest.json", {**read_json(two.place / "manifest.json"), "policy": "credentialed"})
    (found,) = cases.case_sets(two.load())
    assert found.restricted
