"""Cases: opened from what runs stored, chosen by a rule that can be worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Bench
from fixtures_data import save_png
from jobs import job
from PIL import Image
from test_leaderboard import metric, record, score
from test_segmentation import LEARN, Tiny, config, lungs

from bench import records as files
from bench.errors import BenchError, UsageError
from bench.files import file_digest, read_json, write_json
from bench.records import Local
from evaluators import segmenters
from evaluators.segmentation import Segmentation
from evaluators.segmentation_figure import keep
from leaderboards import cases, stored

SIZE = 8
#: Image -> domain, of a test set whose order is not that of its names.
IMAGES = {"c1": "clear", "b2": "opacity", "a3": "opacity", "b1": "opacity", "a1": "clear", "d9": "opacity"}
METRICS = [metric("error", "Error", "lower", primary=True), metric("gain", "Gain"), metric("boxes", "Boxes", "none")]
#: Image -> error, gain, boxes, as the method ours has them.
VALUES = {"b2": (0.4, 1.0, 3), "a3": (0.1, 9.0, 3), "b1": (0.4, 5.0, 1), "d9": (0.2, 2.0, 2)}


class Folder:
    """A results folder as runs leave it, for one test set, of grey levels that tell which image is which."""

    def __init__(self, root: Path, images: Mapping[str, str] = IMAGES, planes: Iterable[str] = ("images",)) -> None:
        self.root, self.images = root, images
        self.place = root / "sources" / f"rsna-01234567-{SIZE}"
        for name in planes:
            for image_id in images:
                save_png(self.place / name / f"{image_id}.png", self.grey(image_id, name))
        facts = {
            "dataset": "rsna", "fingerprint": "0123456789abcdef", "identity": "i", "size": SIZE, "policy": "open", "split": "test",
            "ids": list(images), "domains": dict(images), "planes": list(planes), "content": "c",
        }  # fmt: skip
        write_json(self.place / "manifest.json", facts)

    def grey(self, image_id: str, of: str, seed: int = 0) -> Any:
        """The pixels of an image: nothing else looks like it."""
        if of == "lungs":
            return np.full((SIZE, SIZE), 127, np.uint8)
        return np.random.default_rng([*image_id.encode(), *of.encode(), seed]).integers(0, 255, (SIZE, SIZE)).astype(np.uint8)

    def run(self, method: str, seed: int = 0, masks: bool = False) -> Path:
        """The folder of a training, with its translations."""
        run = self.root / method / "rsna" / f"seed{seed}-12345678"
        place = run / "translated" / "rsna-87654321"
        for kind in ("images", "masks")[: 2 if masks else 1]:
            for image_id in self.images:
                save_png(place / kind / f"{image_id}.png", self.grey(image_id, f"{method}/{kind}", seed))
        hashes = {i: file_digest(place / "images" / f"{i}.png") for i in self.images}
        write_json(place / "manifest.json", {"key": "k", "content": f"{method}{seed}", "files": hashes, "masks": masks})
        write_json(run / "translated" / "rsna-b2a-1" / "manifest.json", {"key": "k", "content": "other", "files": {}, "masks": False})
        return run

    def score(self, method: str, evaluator: str = "toy", seed: int = 0, values: Any = None, **changes: Any) -> dict[str, Any]:
        """Write a record and its values by image; returns the record."""
        values = VALUES if values is None else values
        stem = f"rsna--{evaluator}-abcdef01"
        one = record(
            method, evaluator, metrics=METRICS, scores={m["key"]: score(0.3) for m in METRICS}, seed=seed, image_size=SIZE,
            translated_content=f"{method}{seed}", per_image=f"{stem}.csv", policy="open", key="abcdef0123", written="2026-01-01",
        )  # fmt: skip
        place = self.root / method / "rsna" / f"seed{seed}-12345678" / "records"
        files.write(place / f"{stem}.json", {**one, **changes})
        rows = [",".join([i, f"p{i}", *map(str, some)]) for i, some in values.items()]
        (place / f"{stem}.csv").write_text("\n".join(["image_id,patient_id,error,gain,boxes", *rows]) + "\n")
        return one

    def load(self) -> list[dict[str, Any]]:
        """Its records."""
        found, warnings = files.load([self.root])
        assert not warnings
        return found


@pytest.fixture
def two(tmp_path: Path) -> Folder:
    """Two methods, one with masks, and the untranslated images."""
    folder = Folder(tmp_path / "runs")
    for method in ("original", "cyclegan", "ours"):
        folder.run(method, masks=method == "ours")
        folder.score(method)
    return folder


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
    assert " ".join(f"{image}:{why}" for image, why in cases.thirds(values, count).items()) == expected


def test_equal_scores_go_by_name() -> None:
    values = dict.fromkeys("edcba", 1.0)
    assert cases.thirds(values, 3) == {"a": "best", "c": "median", "b": "worst"}
    assert cases.thirds({}, 3) == {}


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


def test_without_ours_the_first_method_decides(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for method, error in (("unit", 0.5), ("cut", 0.2)):
        folder.run(method)
        folder.score(method, scores={"error": score(error), "gain": score(1.0), "boxes": score(1.0)})
    (found,) = cases.case_sets(folder.load(), "toy/error", 1)
    assert found.methods == ("cut", "unit") and found.rule.endswith("of cut")


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
    assert cases.problems(found, "second/error") == ["no cases of rsna by second/error: no image has a value of it there"]


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


# -- damage ----------------------------------------------------------------------------------------------------------------


def other(path: Path) -> None:
    save_png(path, np.zeros((SIZE, SIZE), np.uint8))


def smaller(path: Path) -> None:
    save_png(path, np.zeros((SIZE, SIZE // 2), np.uint8))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def no_image(path: Path) -> None:
    path.write_bytes(b"no image")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (Path.unlink, "is missing."), (cut_off, "cannot be read ("), (no_image, "cannot be read ("), (smaller, "is uint8 (8, 4);"),
        (other, "was changed after it was made."),
    ],
)  # fmt: skip
def test_a_damaged_translation_is_named_with_its_remedy(two: Folder, damage: Callable[[Path], None], why: str) -> None:
    path = two.root / "ours" / "rsna" / "seed0-12345678" / "translated" / "rsna-87654321" / "images" / "a3.png"
    damage(path)
    with pytest.raises(BenchError) as caught:
        cases.case_sets(two.load(), count=1)
    assert str(caught.value).startswith(f"{path} {why}") and str(caught.value).endswith("with --force translate.")


def test_damage_elsewhere_does_not_matter(two: Folder) -> None:
    (two.root / "ours" / "rsna" / "seed0-12345678" / "translated" / "rsna-87654321" / "images" / "d9.png").unlink()
    assert len(cases.case_sets(two.load(), count=3)) == 1


@pytest.mark.parametrize("damage", [Path.unlink, cut_off, no_image, smaller])
def test_a_damaged_input_is_named_with_its_remedy(two: Folder, damage: Callable[[Path], None]) -> None:
    damage(two.place / "images" / "a3.png")
    with pytest.raises(BenchError) as caught:
        cases.case_sets(two.load(), count=1)
    assert str(caught.value).startswith(f"{two.place / 'images' / 'a3.png'} ")
    assert str(caught.value).endswith(f"Delete {two.place} and run the same `bench run` command again.")


def test_damaged_values_are_named_with_their_remedy(two: Folder) -> None:
    found = two.load()
    path = two.root / "ours" / "rsna" / "seed0-12345678" / "records" / "rsna--toy-abcdef01.csv"
    path.write_text("image_id,error\na3,much\n")
    with pytest.raises(BenchError) as caught:
        cases.case_sets(found, "toy/error")
    assert str(caught.value).startswith(f"{path} cannot be read (") and str(caught.value).endswith("with --force score.")


# -- lungs -----------------------------------------------------------------------------------------------------------------


def bits(values: Mapping[str, Any]) -> Any:
    return np.packbits(np.stack(list(values.values())), axis=-1)


@pytest.mark.parametrize("size", [8, 13])
def test_lungs_come_back_as_they_were_kept(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    found = {name: {i: rng.random((size, size)) > 0.5 for i in ("b", "a")} for name in ("U-Net", "VGG")}
    keep({name: bits(some) for name, some in found.items()}, ["b", "a"], size, tmp_path / "lungs.npz")
    read = stored.Lungs(tmp_path / "lungs.npz", "")
    for image_id in ("a", "b"):
        seen = read.of(image_id)
        assert list(seen) == ["U-Net", "VGG"] and all(np.array_equal(seen[n], found[n][image_id]) for n in seen)
    assert read.of("c") == {} and [p.name for p in tmp_path.iterdir()] == ["lungs.npz"]
    assert all(array.dtype != object for array in np.load(tmp_path / "lungs.npz").values())


def lungs_of(folder: Folder, method: str, value: bool, **changes: Any) -> Path:
    folder.score(method, "segmentation", **changes)
    place = folder.root / method / "rsna" / "seed0-12345678" / "scores" / "rsna--segmentation-abcdef01"
    place.mkdir(parents=True)
    some = {i: np.full((SIZE, SIZE), value) for i in ("a3", "b1")}
    keep({"U-Net": bits(some)}, list(some), SIZE, place / "lungs.npz")
    return place / "lungs.npz"


def test_lungs_before_are_those_of_the_untranslated_images(two: Folder) -> None:
    lungs_of(two, "original", False)
    lungs_of(two, "ours", True)
    (found,) = cases.case_sets(two.load(), count=3)
    first, _, last = found.cases
    assert set(first.lungs_before) == {"U-Net"} and not first.lungs_before["U-Net"].any()
    assert set(first.results["ours"].lungs) == {"U-Net"} and first.results["ours"].lungs["U-Net"].all()
    assert not first.results["cyclegan"].lungs, "its score stored none"
    assert last.image_id == "b2" and not last.lungs_before and not last.results["ours"].lungs, "an image that was not segmented"


def test_lungs_of_other_segmenters_are_not_before(two: Folder) -> None:
    lungs_of(two, "original", False, fit="another training")
    lungs_of(two, "ours", True)
    (found,) = cases.case_sets(two.load(), count=1)
    assert found.cases[0].results["ours"].lungs["U-Net"].all() and not found.cases[0].lungs_before


@pytest.mark.parametrize("damage", [cut_off, no_image])
def test_damaged_lungs_are_named_with_their_remedy(two: Folder, damage: Callable[[Path], None]) -> None:
    path = lungs_of(two, "ours", True)
    damage(path)
    with pytest.raises(BenchError) as caught:
        cases.case_sets(two.load(), count=1)
    assert str(caught.value).startswith(f"{path} cannot be read (") and str(caught.value).endswith("with --force score.")


def test_lungs_that_do_not_fit_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "lungs.npz"
    keep({"U-Net": np.zeros((3, SIZE, 1), np.uint8)}, ["a", "b"], SIZE, path)
    with pytest.raises(BenchError, match="do not fit each other"):
        stored.Lungs(path, "").of("a")
    np.savez_compressed(path, ids=np.array(["a", None], dtype=object), size=np.array(8))
    with pytest.raises(BenchError, match="cannot be read"):
        stored.Lungs(path, "").of("a")


def test_the_evaluator_keeps_the_lungs_it_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arch, kind in dict(segmenters.ARCHS).items():
        monkeypatch.setitem(segmenters.ARCHS, arch, segmenters.Arch(kind.title, Tiny, kind.encoder, 1, 1))  # type: ignore[index, arg-type]
    source = lungs(counterpart=True)
    clear = type(source)(source.name, source.items, {"image": source.raw(plane="counterpart")}, "clear")
    seen = {}
    for name, translated in (("before", source), ("after", clear)):
        made = job(tmp_path, translated, config(), source, learn=LEARN, scratch=tmp_path / name)
        scores = Segmentation().score(made)
        seen[name] = stored.Lungs(tmp_path / name / "lungs.npz", "")
        reference = source.raw(plane="lung_mask")
        for row, image_id in enumerate(source.ids):
            for arch, title in (("unet", "U-Net"), ("vgg", "VGG")):
                mask, counted = seen[name].of(image_id)[title], reference[row] != 255
                lung = reference[row] == 1
                overlap = (mask & lung & counted).sum() / ((mask | lung) & counted).sum()
                assert 100 * overlap == pytest.approx((scores[f"miou/{arch}"].per_image or {})[image_id])
    assert any((seen["before"].of(i)["U-Net"] != seen["after"].of(i)["U-Net"]).any() for i in source.ids)


# -- a real run ------------------------------------------------------------------------------------------------------------


def test_cases_of_a_real_run(bench: Bench, toy: tuple[str, ...], tmp_path: Path) -> None:
    assert bench("run", *toy).code == 0
    found, _ = files.load([tmp_path / "runs"])
    (some,) = cases.case_sets(found, "toy-score/change", 3)
    assert some.methods == ("toy",) and some.rule.endswith("of 7 images by toy-score/change (Change; lower is better) of toy")
    values = [case.results["toy"].scores["toy-score/change"] for case in some.cases]
    everything = sorted(next(r for r in found if r["method"] == "toy")["_local"].values["change"].values())
    assert values == [everything[0], everything[3], everything[-1]], "best, median, worst"
    for case, value in zip(some.cases, values, strict=True):
        assert case.results["toy"].mask is not None and case.counterpart is not None and case.lungs is not None
        change = np.abs(case.results["toy"].image.astype(float) - case.image).mean() / 255
        assert change == pytest.approx(value, abs=1e-3)


def test_cases_are_read_without_torch(two: Folder) -> None:
    code = "import sys; from pathlib import Path; from bench import records; from leaderboards import cases\n"
    code += f"found = cases.case_sets(records.load([Path({str(two.root)!r})])[0])\nprint(len(found), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
