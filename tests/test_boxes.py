"""Opacity boxes: what is read, what is cut, and what is refused with the row named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fixtures_data as make
import numpy as np
import pytest
from annotation_tools import LABELS, opened
from fixtures_data import fatal, notes, reader, records, report

from bench.data.boxes import Drawn, parse_box, place
from bench.data.check import inspect
from bench.data.contract import Decoded, ImageRecord, Problem, Reader
from bench.data.decode import decode
from bench.data.geometry import Frame, clip
from bench.errors import DataError

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
