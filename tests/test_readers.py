"""Readers on tiny datasets in the published layouts, whole and broken in every way; and on real data where it is at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixtures_data as make
import numpy as np
import pytest
from fixtures_data import fatal, notes, reader, records, report

from bench.data.check import Report, inspect, render
from bench.data.contract import CLEAR, OPACITY, OTHER
from bench.errors import DataError, UsageError

CLASSES = "stage_2_detailed_class_info.csv"
LABELS = "stage_2_train_labels.csv"


MAKERS: dict[str, Callable[..., Path]] = {
    "rsna": make.make_rsna, "nih14": make.make_nih14, "mimic": make.make_mimic, "jsrt": make.make_jsrt,
    "covid": make.make_covid, "folder": make.make_folder,
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_every_layout_is_usable_and_consistent(tmp_path: Path, name: str) -> None:
    found = report(name, MAKERS[name](tmp_path))
    assert found.usable, found.problems
    assert found.images >= 12
    assert found.patients >= 6
    source = reader(name, tmp_path)
    rows, _, leaky = source.records()
    assert not leaky
    assert len({row.image_id for row in rows}) == len(rows)
    for row in rows:
        assert (tmp_path / row.path).is_file()
        decoded = source.load(row)
        assert decoded.image.dtype == np.float32
        assert 0.0 <= decoded.image.min() < decoded.image.max() <= 1.0
        if decoded.lung_mask is not None:
            assert decoded.lung_mask.shape == decoded.image.shape
            assert set(np.unique(decoded.lung_mask)) <= {0, 1, 255}
            # polarity and alignment: lungs are darker than the rest of the chest, on every route
            assert decoded.image[decoded.lung_mask == 1].mean() < decoded.image[:, decoded.image.shape[1] // 2].mean()
    text = render(found)
    assert "can be used" in text
    assert len(text.splitlines()) <= 22
    assert source.policy in text


@pytest.mark.parametrize("name", MAKERS)
def test_an_empty_folder_lists_everything_it_lacks(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"lacks .* must hold") as caught:
        reader(name, tmp_path).records()
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("name", MAKERS)
def test_a_truncated_image_is_named(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path)
    victim = tmp_path / next(iter(records(name, tmp_path).values())).path
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    found = report(name, tmp_path)
    assert not found.usable
    assert [text for text in fatal(found) if victim.name in text]
    assert "Traceback" not in render(found)
    assert str(tmp_path) not in "".join(fatal(found))


def test_options_are_checked(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    with pytest.raises(UsageError, match="Did you mean 'policy'"):
        reader("folder", tmp_path, polcy="open")
    with pytest.raises(UsageError, match="policy=secret is not one of open"):
        reader("folder", tmp_path, policy="secret")
    assert reader("folder", tmp_path, policy="credentialed").policy == "credentialed"
    assert reader("folder", tmp_path).policy == "no-redistribution"


# rsna


def test_rsna_patients_boxes_and_header(tmp_path: Path) -> None:
    found = records("rsna", make.make_rsna(tmp_path))
    assert Counter(r.domain for r in found.values()) == {OPACITY: 6, CLEAR: 6, OTHER: 6}
    first, double, clear = (found[make.rsna_id(i)] for i in (0, 3, 1))
    assert first.boxes == ((8.0, 20.0, 16.0, 20.0),)
    assert double.boxes is not None
    assert len(double.boxes) == 2
    assert clear.boxes == ()
    assert (clear.findings, first.findings) == ({"Lung_Opacity": 0.0}, {"Lung_Opacity": 1.0})
    assert first.patient_id == found[make.rsna_id(9)].patient_id == "00000001"
    assert (first.view, first.sex, first.age) == ("PA", "F", 30.0)
    assert first.extra["orig_labels"] == "Infiltration"
    assert found[make.rsna_id(2)].extra["class"] == "No Lung Opacity / Not Normal"


def test_rsna_without_the_mapping_is_leaky_but_usable(tmp_path: Path) -> None:
    found = report("rsna", make.make_rsna(tmp_path, mapping=False))
    assert found.usable
    assert found.leaky
    assert "leak" in notes(found)
    assert found.patients == 18


def test_rsna_pictures_have_boxes_in_their_own_pixels(tmp_path: Path) -> None:
    found = records("rsna", make.make_rsna(tmp_path, suffix=".png"))
    assert found[make.rsna_id(0)].boxes == ((8.0, 20.0, 16.0, 20.0),)


def test_rsna_folder_of_the_acceptance_check(tmp_path: Path) -> None:
    make.make_rsna(tmp_path, mapping=False)
    (tmp_path / "stage_2_train_images" / "a.dcm").write_bytes(b"ab")
    make.edit_csv(tmp_path / CLASSES, lambda rows: [*rows, ["a", "Normal"], ["../../etc/passwd", "Normal"]])
    make.edit_csv(
        tmp_path / LABELS, lambda rows: [*rows, ["a", "", "", "", "", "0"], ["../../etc/passwd", "", "", "", "", "0"]]
    )
    found = report("rsna", tmp_path)
    text = render(found)
    assert not found.usable
    assert "a.dcm: not a DICOM file, or cut off (2 bytes)" in text
    assert "leads out of" in text
    assert len(text.splitlines()) <= 15


def test_rsna_names_every_missing_file_but_lists_ten(tmp_path: Path) -> None:
    make.make_rsna(tmp_path, images=30, patients=10)
    for i in range(20):
        (tmp_path / "stage_2_train_images" / f"{make.rsna_id(i)}.dcm").unlink()
    found = report("rsna", tmp_path)
    assert len(fatal(found)) == 20
    assert f"row 2: names stage_2_train_images/{make.rsna_id(0)}.dcm, which does not exist" in fatal(found)[0]
    text = render(found)
    assert "and 10 more (10 errors)" in text
    assert len(text.splitlines()) <= 13
    partial = report("rsna", tmp_path, missing="skip")
    assert partial.usable
    assert partial.images == 10
    assert "does not exist are left out: 20 images" in notes(partial)


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        (CLASSES, lambda rows: [*rows, [make.rsna_id(1), "Lung Opacity"]], "is 'Lung Opacity' here but 'Normal'"),
        (CLASSES, lambda rows: [*rows, ["x", "Abnormal"]], "unknown class 'Abnormal'"),
        (LABELS, lambda rows: [*rows, ["ghost", "", "", "", "", "0"]], f"image ghost has no row in {CLASSES}"),
        (LABELS, lambda rows: [*rows, [make.rsna_id(0), "1", "1", "", "5", "1"]], "is not a box"),
        (LABELS, lambda rows: [*rows, [make.rsna_id(0), "1", "1", "-4", "5", "1"]], "is not a box"),
    ],
)
def test_rsna_bad_rows(tmp_path: Path, file: str, change: Any, what: str) -> None:
    make.edit_csv(make.make_rsna(tmp_path) / file, change)
    assert [text for text in fatal(report("rsna", tmp_path)) if what in text and f"{file} row" in text]


@pytest.mark.parametrize("column", range(6))
def test_rsna_table_without_a_column(tmp_path: Path, column: int) -> None:
    make.edit_csv(make.make_rsna(tmp_path) / LABELS, lambda rows: [r[:column] + r[column + 1 :] for r in rows])
    with pytest.raises(DataError, match=rf"{LABELS} lacks the column "):
        reader("rsna", tmp_path).records()


def test_rsna_table_that_is_no_table(tmp_path: Path) -> None:
    make.make_rsna(tmp_path)
    (tmp_path / CLASSES).write_bytes(b"\xff\xfe\x00\x80garbage")
    with pytest.raises(DataError, match=CLASSES):
        reader("rsna", tmp_path).records()
    (tmp_path / CLASSES).write_bytes(b"")
    with pytest.raises(DataError, match=CLASSES):
        reader("rsna", tmp_path).records()


def test_rsna_images_without_rows_are_noted(tmp_path: Path) -> None:
    make.make_rsna(tmp_path)
    (tmp_path / "stage_2_train_images" / "zzz.dcm").write_bytes(b"ab")
    found = report("rsna", tmp_path)
    assert found.usable
    assert "without a row in the tables, ignored: 1 image (first: zzz.dcm)" in notes(found)


def test_rsna_with_linked_image_folder(tmp_path: Path) -> None:
    make.make_rsna(tmp_path / "disk")
    (tmp_path / "rsna").mkdir()
    for path in (tmp_path / "disk").iterdir():
        (tmp_path / "rsna" / path.name).symlink_to(path)
    assert report("rsna", tmp_path / "rsna").usable


def test_one_image_and_empty_domain(tmp_path: Path) -> None:
    found = report("rsna", make.make_rsna(tmp_path, images=1))
    assert found.usable
    assert found.images == 1
    assert "holds no clear image" in notes(found)


def test_patient_in_both_domains_is_legal(tmp_path: Path) -> None:
    found = report("rsna", make.make_rsna(tmp_path, images=18, patients=7))
    assert found.usable
    assert found.shared > 0
    assert f"{found.shared} of them in both domains" in render(found)


# inspection


def test_inverted_image_is_only_noted(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    make.save_png(tmp_path / "clear" / "site" / "scan01.png", 255 - make.chest(1))
    found = report("folder", tmp_path)
    assert found.usable
    assert "clear/site/scan01.png: looks inverted" in notes(found)


def test_progress_and_inspection_without_pixels(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    seen: list[tuple[int, int]] = []
    inspect(reader("folder", tmp_path), workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 12) for i in range(1, 13)]
    (tmp_path / "clear" / "site" / "scan01.png").write_bytes(b"")
    quick = inspect(reader("folder", tmp_path), decode=False)
    assert quick.usable
    assert "not decoded" in render(quick)


def test_ids_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    make.make_folder(tmp_path, table=False)
    make.save_png(tmp_path / "clear" / "SCAN00.png", make.chest(0))
    assert "shares its id" in "".join(fatal(report("folder", tmp_path)))


# real data, where it is at hand

REAL = Path(__file__).parents[2] / "shared" / "data"


def real(name: str) -> Report:
    if not (REAL / name).is_dir():
        pytest.skip(f"no real data at {REAL / name}")
    return report(name, REAL / name)


def test_real_rsna() -> None:
    found = real("rsna")
    assert found.usable, found.problems
    assert found.domains == {OPACITY: 67, CLEAR: 47, OTHER: 70}
    assert found.boxes == 111
    assert not found.leaky
    assert found.patients == 152
    assert found.views == {"AP": 100, "PA": 84}
    assert found.sizes == {(1024, 1024): 184}


def test_real_nih14() -> None:
    found = real("nih14")
    assert found.usable, found.problems
    assert found.domains == {OPACITY: 129, CLEAR: 258}
    assert found.patients == 282
    assert not notes(found)


def test_real_covid() -> None:
    found = real("covid")
    assert found.usable, found.problems
    assert found.images == found.planes["lung_mask"] == 68
    assert found.domains == {OPACITY: 68}
    assert found.patients == 49


def test_rsna_not_normal_may_count_as_clear(tmp_path: Path) -> None:
    root = make.make_rsna(tmp_path / "rsna")
    kept, merged = make.records("rsna", root), make.records("rsna", root, not_normal="clear")
    others = {i for i, r in kept.items() if r.domain == "other"}
    assert others and {merged[i].domain for i in others} == {"clear"}
    assert all(merged[i].domain == r.domain for i, r in kept.items() if i not in others)
    assert all(merged[i].findings == r.findings for i, r in kept.items())
