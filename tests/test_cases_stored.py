"""Cases: damaged files, lungs as segmenters saw them, and a real run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from case_tools import SIZE, Folder, bits, two_methods
from conftest import ROOT, Bench
from fixtures_data import save_png
from jobs import job
from segmentation_tools import LEARN, Tiny, config, lungs

from bench import records as files
from bench.errors import BenchError
from evaluators import segmenters
from evaluators.segmentation import Segmentation
from evaluators.segmentation_figure import keep
from leaderboards import cases, stored


@pytest.fixture
def two(tmp_path: Path) -> Folder:
    return two_methods(tmp_path / "runs")


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


@pytest.mark.parametrize("cut_short", [False, True])
def test_damaged_values_are_named_with_their_remedy(two: Folder, cut_short: bool) -> None:
    """Cut short after a whole line, too: the images that are left would be chosen from as if they were all."""
    found = two.load()
    path = two.root / "ours" / "rsna" / "seed0-12345678" / "records" / "rsna--toy-abcdef01.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) if cut_short else "image_id,error\na3,much\n")
    with pytest.raises(BenchError) as caught:
        cases.case_sets(found, "toy/error")
    assert str(caught.value).startswith(f"{path} cannot be read (") and str(caught.value).endswith("with --force score.")


# -- lungs -----------------------------------------------------------------------------------------------------------------


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
