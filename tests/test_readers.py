"""Readers on tiny datasets in the published layouts, whole and broken in every way; and on real data where it is at hand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixtures_data as make
import numpy as np
import pytest
from PIL import Image

from bench.data.check import Report, inspect, render
from bench.data.contract import CLEAR, FINDINGS, OPACITY, OTHER, ImageRecord, Reader
from bench.errors import DataError, UsageError
from bench.registry import DATASETS

CLASSES = "stage_2_detailed_class_info.csv"
LABELS = "stage_2_train_labels.csv"


def reader(name: str, root: Path, **options: object) -> Reader:
    found: Reader = DATASETS.get(name)(root, **options)
    return found


def records(name: str, root: Path, **options: object) -> dict[str, ImageRecord]:
    return {record.image_id: record for record in reader(name, root, **options).records()[0]}


def report(name: str, root: Path, **options: object) -> Report:
    return inspect(reader(name, root, **options))


def fatal(found: Report) -> list[str]:
    return [str(problem) for problem in found.problems if problem.fatal]


def notes(found: Report) -> str:
    return "\n".join(str(problem) for problem in found.problems if not problem.fatal)


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
    assert reader("folder", tmp_path).policy == "open"


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


# nih14


def test_nih14_labels_and_shared_patient_key(tmp_path: Path) -> None:
    found = records("nih14", make.make_nih14(tmp_path / "nih"))
    assert Counter(r.domain for r in found.values()) == {OPACITY: 6, CLEAR: 6, OTHER: 6}
    first = found["00000001_000"]
    assert first.findings is not None
    assert set(first.findings) == set(FINDINGS)
    assert first.findings["Effusion"] == 1.0
    assert first.findings["Edema"] == 0.0
    assert {r.patient_id for r in found.values()} == {
        r.patient_id for r in records("rsna", make.make_rsna(tmp_path / "rsna")).values()
    }
    assert reader("nih14", tmp_path / "nih").trains_prior


def test_nih14_old_table_mirror_lists_and_boxes(tmp_path: Path) -> None:
    make.make_nih14(tmp_path, old=True, lists=True, boxes=True)
    found = records("nih14", tmp_path)
    assert len(found) == 18
    assert Counter(r.split for r in found.values()) == {"train": 14, "test": 4}
    assert found["00000001_000"].age == 20.0
    assert found["00000001_000"].sex == "F"
    # the frame of 1024 scaled to the file's 64 pixels; the nodule is no opacity, and other images were not looked at
    assert found["00000001_000"].boxes == ((32.0, 16.0, 8.0, 16.0),)
    assert found["00000002_001"].boxes is None


def test_nih14_bad_rows(tmp_path: Path) -> None:
    make.make_nih14(tmp_path, lists=True)
    table = tmp_path / "Data_Entry_2017_v2020.csv"
    rows = ["x_000.png,No Finding,0,x,50,M,PA", "../../secret.png,No Finding,0,5,50,M,PA", "00000009_999.png,Flu,0,9,5,M,AP"]
    table.write_text(table.read_text() + "".join(f"{row},1,1,1,1\n" for row in rows))
    with (tmp_path / "test_list.txt").open("a") as stream:
        stream.write("00000003_002.png\n")
    text = "\n".join(fatal(report("nih14", tmp_path)))
    for what in (
        "has the patient 'x'",
        "leads out of",
        "unknown finding 'Flu'",
        "also in the other list",
        "patient 00000003 is in",
    ):
        assert what in text


# mimic


def test_mimic_list_labels_and_laterals(tmp_path: Path) -> None:
    found = records("mimic", make.make_mimic(tmp_path, masks=True))
    assert Counter(r.domain for r in found.values()) == {OPACITY: 6, CLEAR: 6}
    first = found["00000000-ffff"]
    assert first.findings == {"Edema": 1.0, "Pneumothorax": 0.0}
    assert (first.view, first.patient_id, first.study_id) == ("AP", "10000032", "50414267")
    assert first.extra["severity"] == "severe"
    assert first.lung_mask == ("masks/00000000-ffff.png",)
    assert reader("mimic", tmp_path).policy == "credentialed"
    certain = records("mimic", tmp_path, uncertain="u-ones")["00000000-ffff"].findings
    assert certain == {"Edema": 1.0, "Pneumothorax": 0.0, "Pneumonia": 1.0}
    negative = records("mimic", tmp_path, uncertain="blank-as-negative-if-no-finding")["00000001-ffff"].findings
    assert negative is not None
    assert set(negative.values()) == {0.0}


def test_mimic_studies_unpacked_tables_and_list_elsewhere(tmp_path: Path) -> None:
    root = make.make_mimic(tmp_path / "m", packed=False)
    rows = [["", 50414267 + i, i % 2] for i in range(6)]
    make.write_csv(tmp_path / "mine.csv", ("dicom_id", "study_id", "ards"), rows)
    found = records("mimic", root, ards=str(tmp_path / "mine.csv"))
    assert len(found) == 6
    assert all(r.view for r in found.values())


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        (["nobody", "", "", "1"], "dicom_id nobody is not in the metadata"),
        (["00000001-ffff", "999", "", "1"], "subject_id 999 is 10000033"),
        (["00000001-ffff", "", "", "maybe"], "ards is 'maybe'"),
        (["00000000-ffff", "", "", "1"], "listed twice"),
        (["", "", "", "1"], "neither dicom_id nor study_id"),
        (["00000001-aaaa", "", "", "1", "dev"], "split is 'dev'"),
    ],
)
def test_mimic_bad_rows(tmp_path: Path, cells: list[str], what: str) -> None:
    make.make_mimic(tmp_path, images=4)
    make.edit_csv(tmp_path / "ards_list.csv", lambda rows: [*rows, cells + [""] * (8 - len(cells))])
    assert [text for text in fatal(report("mimic", tmp_path)) if what in text and "ards_list.csv row 6" in text]


def test_mimic_cohort_checks(tmp_path: Path) -> None:
    make.make_mimic(tmp_path, images=4)
    lateral = ["00000001-aaaa", "", "", "0", "", "", "", "icd-proxy"]
    make.edit_csv(tmp_path / "ards_list.csv", lambda rows: [*rows, lateral])
    found = report("mimic", tmp_path)
    assert found.usable
    assert "neither AP nor PA" in notes(found)
    make.edit_csv(tmp_path / "ards_list.csv", lambda rows: [r for r in rows if r[3] != "1"])
    assert "holds no usable ARDS image" in "".join(fatal(report("mimic", tmp_path)))
    make.edit_csv(
        tmp_path / "ards_list.csv", lambda rows: [[*r[:6], "../../x.png", r[7]] if r[3] == "0" else r for r in rows]
    )
    assert "leads out of" in "".join(fatal(report("mimic", tmp_path)))


def test_mimic_without_its_tables(tmp_path: Path) -> None:
    make.make_mimic(tmp_path)
    (tmp_path / "ards_list.csv").unlink()
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    with pytest.raises(DataError, match=r"metadata.*ards_list\.csv"):
        reader("mimic", tmp_path).records()


# jsrt


@pytest.mark.parametrize("spaces", [True, False])
def test_jsrt_film_masks_and_clinical_text(tmp_path: Path, spaces: bool) -> None:
    make.make_jsrt(tmp_path, spaces=spaces)
    found = records("jsrt", tmp_path)
    film = reader("jsrt", tmp_path).load(found["JPCNN001"])
    assert film.bits == 12
    assert film.image.shape == (2048, 2048)
    np.testing.assert_allclose(film.image[::16, ::16], make.chest(0, 128, top=4095) / 4095, atol=1e-6)
    assert film.lung_mask is not None
    assert (film.lung_mask[::16, ::16] == make.lungs(128)).all()  # left OR right, 128 pixels onto 2048
    assert found["JPCNN001"].domain == CLEAR
    assert found["JPCLN001"].domain == OTHER
    assert found["JPCLN001"].extra["fold"] == "2"
    assert (found["JPCLN001"].sex, found["JPCLN001"].age, found["JPCLN001"].extra["malignancy"]) == ("F", 53.0, "malignant")
    assert (found["JPCNN002"].sex, found["JPCNN002"].age) == ("M", 42.0)
    assert {r.domain for r in records("jsrt", tmp_path, nodules="clear").values()} == {CLEAR}
    assert reader("jsrt", tmp_path).lung_convention == "heart-excluded"


def test_jsrt_wrong_size_depth_and_half_a_mask(tmp_path: Path) -> None:
    make.make_jsrt(tmp_path, raw=2)
    (tmp_path / "images" / "JPCNN001.IMG").write_bytes(bytes(1024))
    little = np.full(2048 * 2048, 1000, "<u2")
    (tmp_path / "images" / "JPCLN001.IMG").write_bytes(little.tobytes())
    (tmp_path / "scratch" / "fold1" / "masks" / "left lung" / "JPCNN003.gif").unlink()
    text = "\n".join(fatal(report("jsrt", tmp_path)))
    assert "JPCNN001.IMG: 1024 bytes" in text
    assert "JPCLN001.IMG: holds 59395" in text
    assert "right lung/JPCNN003.gif: has no mask of the other lung" in text


def test_jsrt_16_bit_conversions_stretched_or_not(tmp_path: Path) -> None:
    make.make_jsrt(tmp_path, raw=0)
    small = make.chest(0, 128, top=4095)
    for stem, factor in (("JPCNN001", 1), ("JPCNN002", 16)):
        make.save_png(tmp_path / "images" / f"{stem}.png", (small * factor).astype(np.uint16))
        decoded = reader("jsrt", tmp_path).load(records("jsrt", tmp_path)[stem])
        np.testing.assert_allclose(decoded.image, small / 4095, atol=1e-3)
        assert decoded.bits == 12


# covid


def test_covid_codes_and_original_layout(tmp_path: Path) -> None:
    make.make_covid(tmp_path, original=True)  # images and masks are PNG data under .jpg names
    found = records("covid", tmp_path)
    assert len(found) == 12
    assert Counter(r.domain for r in found.values()) == {OPACITY: 11, CLEAR: 1}
    assert {r.view for r in found.values()} == {"AP", "PA"}
    decoded = reader("covid", tmp_path).load(found["case-01"])
    assert decoded.lung_mask is not None
    assert (decoded.lung_mask[:, 0] == 255).all()
    assert ((decoded.lung_mask == 1)[:, 1:] == make.lungs()[:, 1:60]).all()


def test_covid_empty_masks_missing_files_and_traversal(tmp_path: Path) -> None:
    make.make_covid(tmp_path)
    make.save_png(tmp_path / "lung_masks" / "case-00.png", np.zeros((64, 60), np.uint8))
    (tmp_path / "images" / "case-01.png").unlink()
    make.edit_csv(tmp_path / "metadata.csv", lambda rows: [*rows, ["9", "/etc/passwd", "COVID-19"]])
    found = report("covid", tmp_path)
    assert "empty lung mask (not frontal), left out: 1 image (first: case-00)" in notes(found)
    text = "\n".join(fatal(found))
    assert "metadata.csv row 3: names images/case-01.png, which does not exist" in text
    assert "row 14" in text


# folder


def test_folder_masks_table_and_nesting(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    make.save_png(tmp_path / "opacity" / "b" / "same.png", make.chest(50))
    make.save_png(tmp_path / "clear" / "b" / "same.png", make.chest(51))
    found = records("folder", tmp_path)
    assert {"opacity_b_same", "clear_b_same", "scan00"} <= set(found)
    assert (found["scan03"].patient_id, found["scan03"].age, found["scan03"].view) == ("p3", 43.0, "AP")
    assert reader("folder", tmp_path).records()[2]  # the two new ones have no patient
    decoded = reader("folder", tmp_path).load(found["scan00"])
    assert decoded.lung_mask is not None
    assert ((decoded.lung_mask == 1) == make.lungs()).all()


def test_folder_without_patients_is_leaky(tmp_path: Path) -> None:
    found = report("folder", make.make_folder(tmp_path, table=False, masks=False))
    assert found.usable
    assert found.leaky
    assert "leaky" in notes(found)


def test_folder_broken_in_many_ways_names_each(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    make.save_png(tmp_path / "lung_masks" / "scan01.png", np.ones((50, 50), np.uint8))
    (tmp_path / "clear" / "text.png").write_text("this is no image")
    (tmp_path / "clear" / "notes.txt").write_text("ignored")
    extra = [
        ["ghost.png"],
        ["../../etc/passwd"],
        ["scan02", "p2", "", "", "", "testing"],
        ["text", "p9", "", "", "", "", "gone.png"],
    ]
    make.edit_csv(tmp_path / "metadata.csv", lambda rows: [*rows, *([*r, *[""] * (7 - len(r))] for r in extra)])
    found = report("folder", tmp_path)
    text = "\n".join(fatal(found))
    for what in (
        "lung_masks/scan01.png: the mask is 50x50 but its image is 64x64",
        "clear/text.png: text, not an image",
        "row 14: names 'ghost.png', which does not exist",
        "row 15: '../../etc/passwd' leads out of",
        "row 16: image scan02 is already in row 4",
        "row 17: counterpart: names 'gone.png'",
    ):
        assert what in text
    assert "without the suffix of an image, ignored: 1 image (first: clear/notes.txt)" in notes(found)


def test_folder_split_of_a_patient_on_two_sides(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    make.edit_csv(
        tmp_path / "metadata.csv",
        lambda rows: [rows[0], *([*r[:5], "test" if i == 0 else "train", r[6]] for i, r in enumerate(rows[1:]))],
    )
    assert "patient p0 is in the splits test and train" in "".join(fatal(report("folder", tmp_path)))


def test_folder_counterparts_and_depth(tmp_path: Path) -> None:
    make.make_folder(tmp_path, masks=False)
    deep = make.chest(0, top=4095)
    make.save_png(tmp_path / "opacity" / "site" / "scan00.png", deep)
    make.save_png(tmp_path / "truth" / "scan00.png", deep)
    make.edit_csv(tmp_path / "metadata.csv", lambda rows: [rows[0], [*rows[1][:6], "truth/scan00.png"], *rows[2:]])
    source = reader("folder", tmp_path, depth=12)
    decoded = source.load(records("folder", tmp_path)["scan00"])
    assert decoded.counterpart is not None
    np.testing.assert_allclose(decoded.counterpart, deep / 4095, atol=1e-6)
    assert decoded.bits == 12
    make.save_png(tmp_path / "truth" / "scan00.png", deep[:32])
    with pytest.raises(DataError, match=r"truth/scan00\.png: is 64x32, but its image is 64x64"):
        source.load(records("folder", tmp_path)["scan00"])


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

REAL = Path(os.environ.get("CXR_BENCH_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


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


def test_jpeg_of_a_palette_mask_is_refused(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    Image.fromarray((make.lungs() * 255).astype(np.uint8)).save(tmp_path / "lung_masks" / "scan00.png", format="JPEG")
    assert "the mask is JPEG" in "".join(fatal(report("folder", tmp_path)))
