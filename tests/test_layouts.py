"""Readers of single layouts: labels, patients, masks, and every way their tables and files can be wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import fixtures_data as make
import numpy as np
import pytest
from fixtures_data import fatal, notes, reader, records, report
from PIL import Image

from bench.data.contract import CLEAR, FINDINGS, OPACITY, OTHER
from bench.errors import DataError

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


def test_folder_mask_as_jpeg_is_refused(tmp_path: Path) -> None:
    make.make_folder(tmp_path)
    Image.fromarray((make.lungs() * 255).astype(np.uint8)).save(tmp_path / "lung_masks" / "scan00.png", format="JPEG")
    assert "the mask is JPEG" in "".join(fatal(report("folder", tmp_path)))
