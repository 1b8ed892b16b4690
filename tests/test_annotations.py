"""Lung masks: what is read, what is refused with the file named; and who has masks or boxes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixtures_data as make
import numpy as np
import pytest
from annotation_tools import opened
from fixtures_data import fatal, notes, reader, records, report
from PIL import Image

from bench.data.contract import DOMAINS, MASK_IGNORE, OTHER
from bench.data.masks import WITH_UNDECIDED, lung_codes, read_mask
from bench.errors import DataError, UsageError

EVERYTHING = (*DOMAINS, OTHER)


# masks, one file


@pytest.mark.parametrize("lung", [1, 255, 3])
def test_two_values_are_a_mask_whatever_the_second_is(tmp_path: Path, lung: int) -> None:
    truth = make.lungs(32)
    make.save_png(tmp_path / "m.png", (truth * lung).astype(np.uint8))
    assert np.array_equal(lung_codes(read_mask(tmp_path / "m.png"), tmp_path), truth)


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 65535), (0, 300), (0, 1, 255), (0, 127 * 257, 65535)])
def test_16_bit_masks_keep_their_values(tmp_path: Path, values: tuple[int, ...]) -> None:
    stored = np.zeros((8, 8), np.uint16)
    stored[2:5, 2:5], stored[0, 0] = values[-1], values[1]
    make.save_png(tmp_path / "m.png", stored)
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == np.uint8 and len(np.unique(mask)) == len(values)
    if len(values) == 2:
        assert np.array_equal(lung_codes(mask, tmp_path) == 1, stored > 0)
    elif values[1] == 127 * 257:
        assert set(np.unique(lung_codes(mask, tmp_path, WITH_UNDECIDED))) == {0, 1, 255}


def test_16_bit_greys_are_refused_and_not_folded_into_8_bits(tmp_path: Path) -> None:
    make.save_png(tmp_path / "m.png", np.array([[0, 300, 400], [0, 0, 65535]], np.uint16))
    with pytest.raises(DataError, match=r"m\.png: the mask holds the values 300, 400, 65535; a mask holds 0 and one value"):
        read_mask(tmp_path / "m.png")


def test_one_colour_is_a_mask_and_two_are_not(tmp_path: Path) -> None:
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[1:4] = (0, 0, 90)  # luminance would round this to 10
    make.save_png(tmp_path / "blue.png", colour)
    assert (lung_codes(read_mask(tmp_path / "blue.png"), tmp_path) == (colour.max(-1) > 0)).all()
    colour[5:] = (128, 0, 0)
    make.save_png(tmp_path / "two.png", colour)
    with pytest.raises(DataError, match=r"two\.png: the mask holds 2 colours besides black \(\(0, 0, 90\), \(128, 0, 0\)\)"):
        read_mask(tmp_path / "two.png")


def test_smoothed_masks_are_refused_naming_values_and_file(tmp_path: Path) -> None:
    truth = Image.fromarray((make.lungs(64) * 255).astype(np.uint8))
    truth.resize((40, 40), Image.Resampling.BILINEAR).save(tmp_path / "smooth.png")
    with pytest.raises(DataError, match=r"smooth\.png: the mask holds the values \d+, .*, \.\.\.; .* nearest neighbour"):
        lung_codes(read_mask(tmp_path / "smooth.png"), tmp_path / "smooth.png")
    truth.save(tmp_path / "jpeg.png", format="JPEG")
    back = Image.open(tmp_path / "jpeg.png")
    back.save(tmp_path / "was_jpeg.png")  # PNG again, but the harm is done
    with pytest.raises(DataError, match=r"was_jpeg\.png: the mask holds the values"):
        lung_codes(read_mask(tmp_path / "was_jpeg.png"), tmp_path / "was_jpeg.png", WITH_UNDECIDED)


# masks, every layout


def covid_mask(root: Path) -> Path:
    return root / "lung_masks" / "case-03.png"


def mimic_mask(root: Path) -> Path:
    return root / "masks" / "00000003-ffff.png"


def folder_mask(root: Path) -> Path:
    return root / "lung_masks" / "scan03.png"


def jsrt_mask(root: Path) -> Path:
    return root / "scratch" / "fold1" / "masks" / "left lung" / "JPCNN003.gif"


def rsna_mask(root: Path) -> Path:
    return root / "lung_masks" / f"{make.rsna_id(3)}.png"


def nih_mask(root: Path) -> Path:
    return root / "lung_masks" / "00000004_003.png"


def make_rsna(root: Path) -> Path:
    return make.make_masks(make.make_rsna(root), [make.rsna_id(i) for i in range(18)])


def make_nih14(root: Path) -> Path:
    make.make_nih14(root)
    return make.make_masks(root, sorted(path.stem for path in (root / "images").iterdir()))


#: name -> maker, one of its masks, options, whether masks of a multiple of the image's size are allowed
LAYOUTS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Path], dict[str, object], bool]] = {
    "covid": (make.make_covid, covid_mask, {}, False),
    "folder": (make.make_folder, folder_mask, {"lung_convention": "heart-excluded"}, False),
    "mimic": (lambda p: make.make_mimic(p, masks=True), mimic_mask, {"lung_convention": "heart-included"}, True),
    "jsrt": (lambda p: make.make_jsrt(p, raw=0), jsrt_mask, {}, True),
    "rsna": (make_rsna, rsna_mask, {"lung_masks": "lung_masks", "lung_convention": "heart-excluded"}, True),
    "nih14": (make_nih14, nih_mask, {"lung_masks": "lung_masks", "lung_convention": "heart-excluded"}, True),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_grey_and_misfitting_masks_are_refused_in_every_layout(tmp_path: Path, name: str) -> None:
    build, where, options, scaled = LAYOUTS[name]
    build(tmp_path)
    victim = where(tmp_path)
    assert report(name, tmp_path, **options).usable
    with Image.open(victim) as image:
        whole = np.array(image.convert("L"))
    height, width = whole.shape

    def told(mask: np.ndarray[Any, Any]) -> list[str]:
        Image.fromarray(mask).save(victim)
        found = report(name, tmp_path, **options)
        assert found.usable == (not fatal(found))
        return [text for text in fatal(found) if victim.name in text]

    grey = whole.copy()
    grey[5, 5:8] = (200, 180, 90)
    assert "the mask holds the values" in told(grey)[0]
    assert f"the mask is {width}x{height - 3} but its image is {width}x{height}" in told(whole[3:])[0]
    assert bool(told(whole.repeat(2, 0).repeat(2, 1))) is not scaled
    assert bool(told(whole[::2, ::2][: height // 2, : width // 2])) is not scaled
    # stretched in one direction: no multiple of anything
    assert f"the mask is {2 * width}x{height} but" in told(whole.repeat(2, 1))[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_masks_that_are_all_empty_are_one_note_and_single_ones_are_counted(tmp_path: Path, name: str) -> None:
    build, where, options, _ = LAYOUTS[name]
    build(tmp_path)
    folders = [where(tmp_path).parent] if name != "jsrt" else list((tmp_path / "scratch").glob("*/masks/*lung"))
    masks = [path for folder in folders for path in folder.iterdir()]
    stems = sorted({path.stem for path in masks})

    def clear(stems: list[str]) -> None:
        for path in masks:
            if path.stem in stems:
                with Image.open(path) as image:
                    size = image.size
                Image.new("L", size).save(path)

    clear(stems[2:5])
    found = report(name, tmp_path, **options)
    assert found.usable, found.problems
    assert f"empty lung mask{' (not frontal), left out' * (name == 'covid')}: 3 images (first: " in notes(found)
    clear(stems)
    found = report(name, tmp_path, **options)
    assert found.usable, found.problems
    n = len(stems)
    assert f"{name}: every lung mask is empty ({n} of {n})" in notes(found)
    assert notes(found).count("empty") == 1


def test_folder_masks_may_leave_pixels_undecided(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    coded = (make.lungs() * 255).astype(np.uint8)
    coded[0] = 127
    make.save_png(folder_mask(tmp_path), coded)
    source = reader("folder", tmp_path)
    mask = source.load(records("folder", tmp_path)["scan03"]).lung_mask
    assert mask is not None and (mask[0] == MASK_IGNORE).all() and ((mask[1:] == 1) == make.lungs()[1:]).all()
    make.save_png(folder_mask(tmp_path), np.where(coded == 255, 0, coded).astype(np.uint8))  # undecided, and no lung
    assert "empty lung mask: 1 image (first: scan03)" in notes(report("folder", tmp_path))


# masks of the user's own


@pytest.mark.parametrize("name", ["rsna", "nih14"])
def test_user_masks_from_a_folder_elsewhere(tmp_path: Path, name: str) -> None:
    build, where, _, _ = LAYOUTS[name]
    root = build(tmp_path / "data")
    shutil.move(root / "lung_masks", tmp_path / "mine")
    named = where(tmp_path / "x").name
    for path in list((tmp_path / "mine").iterdir())[:4]:
        if path.name != named:
            path.unlink()
    make.save_png(tmp_path / "mine" / "stranger.png", np.zeros((4, 4), np.uint8))
    options = {"lung_masks": str(tmp_path / "mine"), "lung_convention": "heart-excluded"}
    found = report(name, root, **options)
    assert found.usable, found.problems
    kept = sum(path.stem != "stranger" for path in (tmp_path / "mine").iterdir())
    assert (found.lung_convention, found.planes["lung_mask"]) == ("heart-excluded", kept) and 14 <= kept < 18
    assert "lung masks without their image, ignored: 1 image (first: stranger.png)" in notes(found)
    assert "without a lung mask" in notes(found)
    data = opened(tmp_path, name, root, **options)
    images = data.split("test", 32, EVERYTHING)
    assert images.lung_convention == "heart-excluded" and "lung_mask" in images.planes
    masked = {r.image_id for r in data.annotated("test", "lung_mask", EVERYTHING)}
    for i, image in enumerate(images.ids):
        values = set(np.unique(images.raw([i], "lung_mask")))
        assert values == ({0, 1} if image in masked else {MASK_IGNORE})
    # the place of the folder is nobody's business, its pixels are
    shutil.copytree(tmp_path / "mine", tmp_path / "moved")
    there = opened(tmp_path, name, root, **{**options, "lung_masks": str(tmp_path / "moved")})
    assert there.fingerprint("test", 32) == data.fingerprint("test", 32)
    make.save_png(tmp_path / "moved" / named, make.lungs(64, "left").astype(np.uint8))
    changed = opened(tmp_path, name, root, **{**options, "lung_masks": str(tmp_path / "moved")})
    assert changed.fingerprint("test", 32, EVERYTHING) != data.fingerprint("test", 32, EVERYTHING)
    included = opened(tmp_path, name, root, **{**options, "lung_convention": "heart-included"})
    assert included.fingerprint("test", 32) != data.fingerprint("test", 32)
    assert reader(name, root).lung_convention == "" and not opened(tmp_path, name, root).planes("test")


@pytest.mark.parametrize("name", ["rsna", "nih14"])
def test_user_masks_must_declare_their_convention_and_exist(tmp_path: Path, name: str) -> None:
    root = LAYOUTS[name][0](tmp_path / "data")
    with pytest.raises(UsageError, match=r"lung_masks needs lung_convention=heart-included or heart-excluded"):
        reader(name, root, lung_masks="lung_masks")
    with pytest.raises(UsageError, match="is not one of heart-included, heart-excluded"):
        reader(name, root, lung_masks="lung_masks", lung_convention="yes")
    with pytest.raises(DataError, match=r"lung_masks=nowhere: the folder does not exist"):
        reader(name, root, lung_masks="nowhere", lung_convention="heart-excluded")
    with pytest.raises(UsageError, match="lung_convention without lung_masks=FOLDER"):
        reader(name, root, lung_convention="heart-excluded").records()
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none holds no mask of any image; they are named like .*\.png"):
        reader(name, root, lung_masks=str(tmp_path / "none"), lung_convention="heart-excluded").records()


def test_mimic_masks_must_declare_their_convention(tmp_path: Path) -> None:
    root = make.make_mimic(tmp_path / "mimic", masks=True)
    (told,) = fatal(report("mimic", root))
    assert told.startswith("ards_list.csv: names lung masks, which need the option lung_convention=heart-included or")
    with pytest.raises(DataError, match="lung_convention"):
        opened(tmp_path, "mimic", root)
    shutil.move(root / "masks", tmp_path / "drawn")  # another disk: the list's paths are relative to the mask root
    make.edit_csv(root / "ards_list.csv", lambda rows: [[cell.removeprefix("masks/") for cell in row] for row in rows])
    options = {"masks": str(tmp_path / "drawn"), "lung_convention": "heart-included"}
    data = opened(tmp_path, "mimic", root, **options)
    images = data.split("train", 32)  # the official split
    assert images.lung_convention == "heart-included" and len(data.annotated("train", "lung_mask")) == 12
    assert (images.raw(plane="lung_mask") == 1).any(axis=(1, 2)).all()
    with pytest.raises(UsageError, match="masks needs lung_convention"):
        reader("mimic", root, masks=str(tmp_path / "drawn"))
    make.edit_csv(root / "ards_list.csv", lambda rows: [rows[0], [*rows[1][:6], "../secret.png", rows[1][7]], *rows[2:]])
    assert "row 2: '../secret.png' leads out of" in "".join(fatal(report("mimic", root, **options)))
    make.edit_csv(root / "ards_list.csv", lambda rows: [rows[0], [*rows[1][:6], "gone.png", rows[1][7]], *rows[2:]])
    assert "row 2: names the mask gone.png, which does not exist in" in "".join(fatal(report("mimic", root, **options)))


# who has what


def test_annotated_of_files_is_what_the_tables_say(tmp_path: Path) -> None:
    data = opened(tmp_path, "rsna", make.make_rsna(tmp_path / "rsna"))
    assert Counter(r.domain for r in data.annotated("test", "boxes", EVERYTHING)) == {"opacity": 6, "clear": 6, "other": 6}
    assert {r.domain for r in data.annotated("test", "boxes")} == set(DOMAINS)
    assert data.annotated("train", "boxes") == [] == data.annotated("test", "lung_mask") and not data.planes("test")
    for item in data.split("test", 32, EVERYTHING).items:  # Normal and Not Normal were looked at: none, not unknown
        assert item.boxes is not None and bool(item.boxes) == (item.domain == "opacity")
    with pytest.raises(ValueError, match="annotation 'opacity' is none of lung_mask, boxes"):
        data.annotated("test", "opacity")
    nih = opened(tmp_path, "nih14", make.make_nih14(tmp_path / "nih", boxes=True))
    assert [r.image_id for r in nih.annotated("test", "boxes")] == ["00000001_000"]
    assert nih.has_boxes("test") and not nih.has_boxes("train")
    assert [item.boxes is None for item in nih.split("test", 32).items].count(False) == 1
    covid = opened(tmp_path, "covid", make.make_covid(tmp_path / "covid"))
    (tmp_path / "covid" / "lung_masks" / "case-05.png").unlink()
    partly = opened(tmp_path, "covid", tmp_path / "covid")
    assert (len(covid.annotated("test", "lung_mask")), len(partly.annotated("test", "lung_mask"))) == (12, 11)
    assert partly.planes("test") == {"lung_mask"} and not partly.has_boxes("test")


def test_annotated_of_rendered_data_is_everything(tmp_path: Path) -> None:
    data = opened(tmp_path, "synthetic-icu", None, images=10)
    assert data.annotated("test", "lung_mask") == data.annotated("test", "boxes") == data.records("test")
    assert {r.domain for r in data.annotated("test", "boxes", ("clear",))} == {"clear"}
    items = data.split("test", 32).items
    assert all((item.boxes == ()) == (item.domain == "clear") for item in items)
    assert all(x >= 0 and y >= 0 and x + w <= 32 and y + h <= 32 for item in items for x, y, w, h in item.boxes or ())


def test_a_set_of_one_class_opens_for_testing(tmp_path: Path) -> None:
    data = opened(tmp_path, "covid", make.make_covid(tmp_path / "covid"))
    assert set(data.split("test", 32).domains) == {"opacity"} and data.count("test", "clear") == 0
    found = report("covid", tmp_path / "covid")
    assert found.usable and "holds no clear image; it can be tested on, not trained on alone" in notes(found)


# real data, where it is at hand

REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.skipif(not (REAL / "rsna").is_dir(), reason=f"no real data at {REAL / 'rsna'}")
def test_real_rsna_boxes_are_known_for_every_image(tmp_path: Path) -> None:
    data = opened(tmp_path, "rsna", REAL / "rsna")
    assert len(data.annotated("test", "boxes", EVERYTHING)) == 184
    items = data.split("test", 64, EVERYTHING).items
    assert {(item.domain, bool(item.boxes)) for item in items} == {("opacity", True), ("clear", False), ("other", False)}
    assert sum(len(item.boxes or ()) for item in items) == 111


@pytest.mark.skipif(not (REAL / "covid").is_dir(), reason=f"no real data at {REAL / 'covid'}")
def test_real_covid_masks_pass(tmp_path: Path) -> None:
    found = report("covid", REAL / "covid")
    assert found.usable and found.planes["lung_mask"] == 68 and "empty" not in notes(found)
