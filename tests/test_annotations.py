"""Lung masks and opacity boxes: what is read, what is cut, what is refused with the file or row named, and who has them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixtures_data as make
import numpy as np
import pytest
from fixtures_data import fatal, notes, reader, records, report
from PIL import Image

from bench.data.boxes import Drawn, parse_box, place
from bench.data.check import inspect
from bench.data.contract import DOMAINS, MASK_IGNORE, OTHER, Decoded, ImageRecord, Problem, Reader
from bench.data.decode import decode
from bench.data.geometry import Frame, clip
from bench.data.load import Dataset, DataSource, open_datasets
from bench.data.masks import WITH_UNDECIDED, lung_codes, read_mask
from bench.errors import DataError, UsageError

LABELS = "stage_2_train_labels.csv"
EVERYTHING = (*DOMAINS, OTHER)


def opened(tmp_path: Path, name: str, root: Path | None, **options: object) -> Dataset:
    """A dataset whose every image is a test image."""
    return open_datasets([DataSource(name, root, dict(options))], 0, (0, 0, 1), tmp_path / "cache")[0]


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


# boxes


def test_clip_by_hand() -> None:
    assert clip((2, 3, 4, 5), 10, 10) == (2, 3, 4, 5)
    assert clip((-2, 3, 4, 5), 10, 10) == (0, 3, 2, 5)
    assert clip((8, 7, 4, 5), 10, 10) == (8, 7, 2, 3)
    assert clip((-1, -1, 12, 12), 10, 10) == (0, 0, 10, 10)
    for outside in ((10, 0, 3, 3), (0, -3, 3, 3), (-4, 2, 3, 3), (0, 10, 5, 5)):
        assert clip(outside, 10, 10) is None


def test_boxes_of_a_table_are_placed_cut_or_refused() -> None:
    drawn = [Drawn(f"t row {i}", b) for i, b in enumerate([(1, 1, 2, 2), (1, 1, 2, 2), (8, 8, 4, 4), (20, 1, 2, 2)], start=2)]
    boxes, problems, cut = place(drawn, 10, 10)
    assert boxes == ((1, 1, 2, 2), (8, 8, 2, 2))
    assert [str(p) for p in problems] == ["t row 5: the box (20, 1, 2, 2) lies outside its image, which is 10x10."]
    assert cut == 1
    for cells, what in (
        (("1", "2", "x", "4"), "width is 'x'"),
        (("1", "nan", "3", "4"), "y is 'nan'"),
        (("1", "2", "3", ""), "height is blank"),
        (("1", "2", "0", "4"), "above 0"),
        (("1", "2", "3", "-4"), "above 0"),
        (("inf", "2", "3", "4"), "x is 'inf'"),
    ):
        with pytest.raises(DataError, match=rf"is not a box: .*{what}"):
            parse_box(cells)


@pytest.mark.parametrize("shape", [(1024, 1024), (847, 1024), (2500, 2048), (64, 60)])
@pytest.mark.parametrize("size", [37, 64, 224])
def test_boxes_stay_inside_the_cached_image(shape: tuple[int, int], size: int) -> None:
    height, width = shape
    rng = np.random.default_rng(0)
    corners = rng.uniform(-0.3, 1.0, (300, 2)) * (width, height)
    boxes = [(x, y, float(w), float(h)) for (x, y), w, h in zip(corners, *rng.uniform(5, 900, (2, 300)), strict=True)]
    boxes = [b for b in boxes if clip(b, width, height)] + [(0.0, 0.0, float(width), float(height))]
    top, left, inner_height, inner_width = Frame(height, width, size).content
    for x, y, w, h in Frame(height, width, size).boxes(boxes):
        assert w > 0 and h > 0
        assert x >= 0 and y >= 0 and x + w <= size and y + h <= size
        assert x >= left - 0.6 and y >= top - 0.6  # not in the padding (its border is rounded)
        assert x + w <= left + inner_width + 0.6 and y + h <= top + inner_height + 0.6


class Boxed(Reader):
    """Any boxes, on one image of 20 x 10."""

    name = "boxed"
    generated = True

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        return [ImageRecord("a", "", "opacity", "p", boxes=self.options["boxes"])], [], False  # type: ignore[arg-type]

    def load(self, record: ImageRecord, size: int | None = None) -> Decoded:
        return Decoded(np.full((10, 20), 0.5, np.float32))


def test_any_readers_boxes_are_held_to_the_same() -> None:
    def placed(*boxes: tuple[float, ...]) -> Any:
        source = Boxed(boxes=boxes)
        return decode(source, source.records()[0][0], 40).item["boxes"]

    assert placed((2, 1, 4, 3), (18, 8, 10, 10)) == ((4, 12, 8, 6), (36, 26, 4, 4))
    assert placed() == ()
    for bad in ((25, 1, 2, 2), (1, 1, 0, 2), (1, 1, 2, -2), (float("nan"), 1, 2, 2)):
        with pytest.raises(DataError, match=r"boxed: a: the box \("):
            placed(bad)
    assert "1 of its boxes leave the image (20x10)" in notes(inspect(Boxed(boxes=((18, 8, 10, 10),))))
    assert "a: the box (25, 1, 2, 2) lies outside its image, which is 20x10." in fatal(inspect(Boxed(boxes=((25, 1, 2, 2),))))


@pytest.mark.parametrize("suffix", [".dcm", ".png"])
def test_rsna_boxes_at_and_beyond_the_border(tmp_path: Path, suffix: str) -> None:
    make.make_rsna(tmp_path, suffix=suffix)
    frame = 64 if suffix == ".dcm" else 1024
    one = frame / 64

    def change(rows: list[list[str]]) -> list[list[str]]:
        rows[1][1:5] = [str(v * one) for v in (-4, 50, 20, 20)]  # out on the left and below
        return rows

    make.edit_csv(tmp_path / LABELS, change)
    found = report("rsna", tmp_path)
    assert found.usable
    assert f"{LABELS}: boxes that leave the image are cut at its border: 1 image (first: {make.rsna_id(0)})" in notes(found)
    assert "its boxes leave" not in notes(found)
    assert records("rsna", tmp_path)[make.rsna_id(0)].boxes == ((0.0, 50.0, 16.0, 14.0),)
    row = [make.rsna_id(0), str(frame), "0", str(5 * one), str(5 * one), "1"]
    make.edit_csv(tmp_path / LABELS, lambda rows: [*rows, row])
    (told,) = fatal(report("rsna", tmp_path))
    assert told.startswith(f"{LABELS} row ") and f"lies outside its image, which is {frame}x{frame}" in told


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ((0, "1", "1", "0", "5", "1"), "Target '1' with box (1, 1, 0, 5) is not a box: its width and height must be above 0"),
        ((0, "1", "1", "-4", "5", "1"), "must be above 0"),
        ((0, "a", "1", "4", "5", "1"), "x is 'a', a number is needed"),
        ((0, "nan", "1", "4", "5", "1"), "x is 'nan', a number is needed"),
        ((0, "", "", "", "", "1"), "Target 1 (opacity) without a box"),
        ((1, "1", "1", "4", "5", "0"), "Target 0 (no opacity) with the box (1, 1, 4, 5)"),
        ((0, "", "", "", "", "0"), f"Target is 0 here but 1 in {LABELS} row 2"),
        ((1, "", "", "", "", "2"), "Target is '2'"),
        ((0, "-30", "1", "20", "5", "1"), "the box (-30, 1, 20, 5) lies outside its image, which is 64x64"),
    ],
)
def test_rsna_rows_that_contradict_themselves(tmp_path: Path, row: tuple[Any, ...], what: str) -> None:
    make.make_rsna(tmp_path)
    number = len((tmp_path / LABELS).read_text().splitlines()) + 1
    make.edit_csv(tmp_path / LABELS, lambda rows: [*rows, [make.rsna_id(row[0]), *row[1:]]])
    (told,) = fatal(report("rsna", tmp_path))
    assert told.startswith(f"{LABELS} row {number}: ") and what in told


def test_nih14_boxes_are_held_to_the_same(tmp_path: Path) -> None:
    make.make_nih14(tmp_path, boxes=True)
    table = tmp_path / "BBox_List_2017.csv"
    whole = table.read_text()
    table.write_text(whole + "00000001_000.png,Effusion,1000.0,1000.0,100.0,100.0,,,\n")
    assert records("nih14", tmp_path)["00000001_000"].boxes == ((32.0, 16.0, 8.0, 16.0), (62.5, 62.5, 1.5, 1.5))
    assert "are cut at its border: 1 image (first: 00000001_000.png)" in notes(report("nih14", tmp_path))
    table.write_text(whole + "00000001_000.png,Effusion,1030,0,9,9,,,\n00000001_000.png,Mass,1,1,x,2,,,\n")
    told = fatal(report("nih14", tmp_path))
    assert any("row 4: the box (1030, 0, 9, 9) lies outside its image, which is 1024x1024" in text for text in told)
    assert any("row 5: (1, 1, x, 2) is not a box: width is 'x'" in text for text in told)


def box_table(root: Path, *rows: tuple[object, ...]) -> None:
    make.write_csv(root / "boxes.csv", ("image", "x", "y", "width", "height"), rows)


def test_folder_boxes_are_known_for_listed_images_only(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    box_table(
        tmp_path, ("scan00", 10, 20, 16, 8), ("scan00", 30, 20, 10, 10), ("scan01.png", "", "", "", ""),
        ("opacity/site/scan02.png", 60, 60, 10, 10), ("scan00", 10, 20, 16, 8),
    )  # fmt: skip
    found = records("folder", tmp_path)
    assert found["scan00"].boxes == ((10, 20, 16, 8), (30, 20, 10, 10))  # the repeated row counts once
    assert found["scan01"].boxes == () and found["scan02"].boxes == ((60, 60, 4, 4),) and found["scan04"].boxes is None
    seen = report("folder", tmp_path)
    assert seen.usable and seen.boxes == 3 and seen.boxed == 2
    assert "boxes.csv: boxes that leave the image are cut at its border: 1 image (first: scan02)" in notes(seen)
    data = opened(tmp_path, "folder", tmp_path)
    assert data.has_boxes("test") and not data.has_boxes("train")
    assert [r.image_id for r in data.annotated("test", "boxes")] == ["scan00", "scan01", "scan02"]
    assert [r.image_id for r in data.annotated("test", "boxes", ("clear",))] == ["scan01"]
    boxes = {item.image_id: item.boxes for item in data.split("test", 32).items}
    assert boxes["scan00"] == ((5, 10, 8, 4), (15, 10, 5, 5)) and boxes["scan01"] == () and boxes["scan04"] is None
    assert "boxes.csv" in reader("folder", tmp_path).help


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (("scan99", 1, 1, 2, 2), "row 3: names 'scan99', which does not exist"),
        (("../../etc/passwd", 1, 1, 2, 2), "leads out of"),
        (("scan00", "", "", "", ""), "row 3: image scan00 has a box in one row and none in another (boxes.csv row 2)"),
        (("scan02", 1, 1, 0, 2), "row 3: (1, 1, 0, 2) is not a box"),
        (("scan02", 1, 1, "", 2), "row 3: (1, 1, , 2) is not a box: width is blank"),
        (("scan02", 64, 1, 2, 2), "row 3: the box (64, 1, 2, 2) lies outside its image, which is 64x64"),
    ],
)
def test_folder_boxes_that_are_none(tmp_path: Path, row: tuple[object, ...], what: str) -> None:
    make.make_folder(tmp_path)
    box_table(tmp_path, ("scan00", 1, 1, 2, 2), row)
    told = fatal(report("folder", tmp_path))
    assert len(told) == 1 and told[0].startswith("boxes.csv ") and what in told[0]


def test_folder_box_table_without_a_column(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    make.write_csv(tmp_path / "boxes.csv", ("image", "x", "y", "w"), [])
    with pytest.raises(DataError, match=r"boxes\.csv lacks the columns width, height"):
        reader("folder", tmp_path).records()


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
