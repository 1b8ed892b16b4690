"""Bad input through the command line: one clear line, the right exit code, finished work kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Bench, folder, records
from fixtures_data import chest, edit_csv, make_folder, make_nih14, make_rsna, rsna_id, save_png, write_dicom

WORDS = [w for i, w in enumerate(TINY) if w not in ("--data", "synthetic,images=24")]
Break = Callable[[Path], None]


def run_words(root: Path, name: str = "folder") -> list[str]:
    data = ["--data", f"{name}={root}"]
    return ["run", "--method", "toy", "--suite", "toy-score", *WORDS, *data, "--runs", str(root.parent / "runs")]


def rsna_dicom(root: Path, number: int = 4) -> Path:
    return root / "stage_2_train_images" / f"{rsna_id(number)}.dcm"


# -- rsna: DICOM and tables ------------------------------------------------------------------------------------------------


def truncated(root: Path) -> None:
    path = rsna_dicom(root)
    path.write_bytes(path.read_bytes()[:-600])


def no_pixels(root: Path) -> None:
    write_dicom(rsna_dicom(root), None)


def not_dicom(root: Path) -> None:
    rsna_dicom(root).write_text("this is no DICOM")


def empty_file(root: Path) -> None:
    rsna_dicom(root).write_bytes(b"")


def missing_file(root: Path) -> None:
    rsna_dicom(root).unlink()


def without_column(root: Path) -> None:
    edit_csv(root / "stage_2_detailed_class_info.csv", lambda rows: [row[:1] for row in rows])


def climbing_out(root: Path) -> None:
    for name in ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"):
        edit_csv(root / name, lambda rows: [*rows, ["../../etc/passwd", *rows[-1][1:]]])


def empty_table(root: Path) -> None:
    (root / "stage_2_train_labels.csv").write_text("")


def binary_table(root: Path) -> None:
    (root / "stage_2_train_labels.csv").write_bytes(bytes(range(256)) * 4)


RSNA: dict[str, tuple[Break, str, bool]] = {  # what is done, what the answer names, found while decoding
    "truncated": (truncated, rsna_id(4), True),
    "no pixels": (no_pixels, rsna_id(4), True),
    "no DICOM": (not_dicom, rsna_id(4), True),
    "empty file": (empty_file, rsna_id(4), True),
    "missing file": (missing_file, rsna_id(4), False),
    "csv without a column": (without_column, "class", False),
    "path that climbs out": (climbing_out, "../../etc/passwd", False),
    "empty csv": (empty_table, "stage_2_train_labels.csv", False),
    "binary csv": (binary_table, "stage_2_train_labels.csv", False),
}


@pytest.mark.parametrize("case", RSNA)
def test_rsna(bench: Bench, tmp_path: Path, case: str) -> None:
    damage, named, decoding = RSNA[case]
    root = make_rsna(tmp_path / "rsna")
    damage(root)
    check = bench("data", "check", "rsna", root)
    assert check.code == 3
    text = check.out + check.err
    assert named in text and len(text.splitlines()) <= 15

    answer = bench(*run_words(root, "rsna"))
    assert answer.code == (1 if decoding else 3)
    told = [line for line in answer.err.splitlines() if named in line]
    assert len(told) == 1 and told[0].startswith("error: ") and len(answer.err.splitlines()) <= 2
    if decoding:  # told which stage, and what waits for it
        assert "error: data rsna/" in told[0] and "stages not done" in answer.last


def test_good_rsna_is_good(bench: Bench, tmp_path: Path) -> None:
    """The cases above fail for the damage done and nothing else."""
    root = make_rsna(tmp_path / "rsna")
    assert bench("data", "check", "rsna", root).code == 0
    answer = bench(*run_words(root, "rsna"), "--dry-run")
    assert answer.code == 0, answer.err


def test_skip_corrupt_leaves_out_and_says_so(bench: Bench, tmp_path: Path) -> None:
    root = make_rsna(tmp_path / "rsna", images=30, patients=30)
    truncated(root)
    assert bench(*run_words(root, "rsna")).code == 1
    answer = bench(*run_words(root, "rsna"), "--set", "data.skip_corrupt=true")
    assert answer.code == 0 and rsna_id(4) in answer.err and "left out" in answer.err


def test_mended_input_carries_on(bench: Bench, tmp_path: Path) -> None:
    root = make_rsna(tmp_path / "rsna", images=30, patients=30)
    good = rsna_dicom(root).read_bytes()
    truncated(root)
    assert bench(*run_words(root, "rsna")).code == 1
    rsna_dicom(root).write_bytes(good)
    answer = bench(*run_words(root, "rsna"))
    assert answer.code == 0, answer.err


# -- pictures, masks, tables of a folder -----------------------------------------------------------------------------------


def text_as_png(root: Path) -> None:
    (root / "opacity" / "site" / "scan02.png").write_text("just text")


def half_a_png(root: Path) -> None:
    path = root / "opacity" / "site" / "scan02.png"
    path.write_bytes(path.read_bytes()[:300])


def mask_of_another_size(root: Path) -> None:
    save_png(root / "lung_masks" / "scan02.png", np.ones((20, 30), np.uint8))


def table_names_a_missing_file(root: Path) -> None:
    edit_csv(root / "metadata.csv", lambda rows: [*rows, ["scan99", "p1", "AP", "F", "40", "", ""]])


def counterpart_climbs_out(root: Path) -> None:
    edit_csv(root / "metadata.csv", lambda rows: [*rows[:-1], [*rows[-1][:-1], "../../../etc/passwd"]])


def no_image_column(root: Path) -> None:
    edit_csv(root / "metadata.csv", lambda rows: [row[1:] for row in rows])


def two_splits_for_a_patient(root: Path) -> None:
    def split(rows: list[list[str]]) -> list[list[str]]:
        return [rows[0], *[[*row[:5], "train" if i % 4 < 2 else "test", ""] for i, row in enumerate(rows[1:])]]

    edit_csv(root / "metadata.csv", split)


FOLDER: dict[str, tuple[Break, str]] = {
    "text named png": (text_as_png, "scan02"),
    "half a png": (half_a_png, "scan02"),
    "mask of another size": (mask_of_another_size, "scan02"),
    "csv names a missing file": (table_names_a_missing_file, "scan99"),
    "counterpart climbs out": (counterpart_climbs_out, "etc/passwd"),
    "csv without a column": (no_image_column, "image_id"),
    "patient in two splits": (two_splits_for_a_patient, "p0"),
}


@pytest.mark.parametrize("case", FOLDER)
def test_folder(bench: Bench, tmp_path: Path, case: str) -> None:
    damage, named = FOLDER[case]
    root = make_folder(tmp_path / "folder")
    assert bench("data", "check", "folder", root).code == 0
    damage(root)
    check = bench("data", "check", "folder", root)
    assert check.code == 3 and named in check.out + check.err and len((check.out + check.err).splitlines()) <= 15
    answer = bench(*run_words(root), "--set", "data.fractions=0.5,0,0.5")
    assert answer.code in (1, 3)
    assert sum(named in line for line in answer.err.splitlines()) == 1
    assert not records(tmp_path / "runs") or answer.code == 1


def grey_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels, pixels, pixels, np.full_like(pixels, 255)], axis=2)


def test_colour_alpha_and_16_bit_pictures_are_fine(bench: Bench, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "folder", images=24, patients=24, masks=False, table=False)
    for i, make in enumerate((lambda p: np.repeat(p[..., None], 3, axis=2), grey_alpha, lambda p: p.astype(np.uint16) * 257)):
        for domain, number in (("opacity", 2 * i), ("clear", 2 * i + 1)):
            save_png(root / domain / "site" / f"scan{number:02d}.png", make(chest(number, 64, opaque=domain == "opacity")))
    check = bench("data", "check", "folder", root)
    assert check.code == 0 and "16 (2)" in check.out
    answer = bench(*run_words(root))
    assert answer.code == 0, answer.err
    assert records(tmp_path / "runs")["toy/folder--toy-score"]["split_by"].startswith("image (patients unknown")


# -- too little ------------------------------------------------------------------------------------------------------------


def test_empty_folder(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for words in (["data", "check", "folder", tmp_path / "folder"], run_words(tmp_path / "folder")):
        answer = bench(*words)
        assert answer.code == 3 and "lacks images in opacity/ and clear/" in answer.out + answer.err


def test_no_such_folder(bench: Bench, tmp_path: Path) -> None:
    for words in (["data", "check", "rsna", tmp_path / "nowhere"], run_words(tmp_path / "nowhere", "rsna")):
        answer = bench(*words)
        assert answer.code == 3 and "nowhere" in answer.err and len(answer.err.splitlines()) == 1


def test_a_file_instead_of_a_folder(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "rsna.zip").write_bytes(b"PK")
    for words in (["data", "check", "rsna", tmp_path / "rsna.zip"], run_words(tmp_path / "rsna.zip", "rsna")):
        answer = bench(*words)
        assert answer.code == 3 and len(answer.err.splitlines()) == 1 and "does not exist" not in answer.err
        assert f"{tmp_path / 'rsna.zip'} is a file; name the folder that holds it" in answer.err


def test_one_image_in_both_domains(bench: Bench, tmp_path: Path) -> None:
    """Also where it was saved anew: pixels count, not bytes."""
    root = make_folder(tmp_path / "folder", masks=False, table=False)
    good = root / "opacity" / "site" / "scan02.png"
    (root / "clear" / "site" / "other.png").write_bytes(good.read_bytes() + b"trailing")
    check = bench("data", "check", "folder", root)
    assert check.code == 3 and "cannot be used (1 error)" in check.out
    assert "clear/site/other.png: clear, has the pixels of opacity/site/scan02.png, opacity; an image has one domain" in check.out
    assert bench("data", "check", "folder", root, "--no-decode").code == 0, "tables do not tell"


def test_one_image_in_two_splits(bench: Bench, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "folder", masks=False)

    def split(rows: list[list[str]]) -> list[list[str]]:
        return [rows[0], *[[row[0], f"q{i}", *row[2:5], "train" if i % 4 < 2 else "test", ""] for i, row in enumerate(rows[1:])]]

    edit_csv(root / "metadata.csv", split)
    assert bench("data", "check", "folder", root).code == 0
    images = sorted((root / "opacity" / "site").iterdir())
    splits = {row.split(",")[0]: row.split(",")[5] for row in (root / "metadata.csv").read_text().splitlines()[1:]}
    other = next(path for path in images if splits[path.stem] != splits[images[0].stem])
    other.write_bytes(images[0].read_bytes())
    check = bench("data", "check", "folder", root)
    assert check.code == 3 and f"has the pixels of opacity/site/{other.name} in '{splits[other.stem]}'" in check.out


def test_one_image_twice_in_a_domain_is_a_note(bench: Bench, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "folder", masks=False, table=False)
    shutil.copy(root / "opacity" / "site" / "scan02.png", root / "opacity" / "site" / "scan02b.png")
    check = bench("data", "check", "folder", root)
    assert check.code == 0 and "note      folder: same pixels as another image: 1 image (first: " in check.out


@pytest.mark.parametrize("domain", ["opacity", "clear"])
def test_empty_domain(bench: Bench, tmp_path: Path, domain: str) -> None:
    root = make_folder(tmp_path / "folder", masks=False, table=False)
    shutil.rmtree(root / domain)
    check = bench("data", "check", "folder", root)
    assert check.code == 0 and f"holds no {domain} image; it can be tested on, not trained on alone" in check.out
    answer = bench(*run_words(root))
    assert answer.code == 3 and "training needs a dataset with both domains, opacity and clear" in answer.err
    named = bench(*run_words(root), "--train-on", "folder")
    assert named.code == 3 and f"dataset 'folder' has no images of domain '{domain}'" in named.err
    assert not (tmp_path / "runs" / "toy").exists()


def test_one_image(bench: Bench, tmp_path: Path) -> None:
    save_png(tmp_path / "folder" / "opacity" / "a.png", chest(0, 64))
    answer = bench(*run_words(tmp_path / "folder"))
    assert answer.code == 3 and "folder: 1 opacity, 0 clear" in answer.err
    save_png(tmp_path / "folder" / "clear" / "b.png", chest(1, 64))
    answer = bench(*run_words(tmp_path / "folder"))
    assert answer.code == 3 and "split (1 in all" in answer.err and "data.fractions=" in answer.err


def test_one_image_to_test_on(bench: Bench, tmp_path: Path, cache: Path) -> None:
    """A further test set of one image is translated, and left out of the scores that need more."""
    save_png(tmp_path / "folder" / "opacity" / "a.png", chest(0, 64))
    words = [*run_words(tmp_path / "folder"), "--data", "synthetic,images=24", "--cache", cache]
    answer = bench(*words)
    assert answer.code == 0 and "folder has 1 test images; at least 2 needed" in answer.out
    assert [p.name for p in folder(tmp_path / "runs").glob("translated/folder-*/images/*")] == ["a.png"]
    assert set(records(tmp_path / "runs")) == {"toy/synthetic--toy-score", "original/synthetic--toy-score"}


def test_one_patient_in_both_classes_stays_on_one_side(bench: Bench, tmp_path: Path) -> None:
    root = make_nih14(tmp_path / "nih14", images=36, patients=8)
    check = bench("data", "check", "nih14", root)
    assert check.code == 0 and "8, 8 of them in both domains" in check.out
    answer = bench(*run_words(root, "nih14"), "--set", "data.fractions=0.5,0,0.5")
    assert answer.code == 0, answer.err
    split = json.loads((folder(tmp_path / "runs") / "split.json").read_text())["nih14"]
    sides: dict[str, set[str]] = {}
    for row in split.values():
        sides.setdefault(row["patient"], set()).add(row["split"])
    assert len(sides) == 8 and all(len(found) == 1 for found in sides.values())


# -- one bad, the others good ----------------------------------------------------------------------------------------------


def test_a_broken_test_set_leaves_the_other_scores(bench: Bench, tmp_path: Path, cache: Path) -> None:
    root = make_folder(tmp_path / "folder", masks=False, table=False)
    text_as_png(root)
    answer = bench(*run_words(root), "--data", "synthetic,images=24", "--train-on", "synthetic", "--cache", cache)
    assert answer.code == 1
    assert set(records(tmp_path / "runs")) == {"toy/synthetic--toy-score", "original/synthetic--toy-score"}
    assert sum("scan02" in line for line in answer.err.splitlines()) == 1
