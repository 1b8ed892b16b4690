"""What the pages tell a reader to do with data of their own works: the example reader, a folder of images, masks of CheXmask."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import ROOT, TINY, Bench, forget_imports, records
from fixtures_data import chest, lungs, make_folder, make_rsna, save_png, write_csv
from PIL import Image

from bench.data.readers.rsna import MAPPING as RSNA_MAPPING

DOCS = ROOT / "docs"
FILMS = DOCS / "plugins" / "films.py"


@pytest.fixture
def films(tmp_path: Path) -> Iterator[Path]:
    """A folder as the example reads it: 24 films of twelve patients."""
    root = tmp_path / "films"
    rows: list[list[Any]] = []
    for i in range(24):
        save_png(root / "a" / f"{i:04d}.png", chest(i, 64, opaque=i % 2 == 0))
        rows.append([f"a/{i:04d}.png", f"p{i // 2}", "PA", int(i % 2 == 0)])
    write_csv(root / "films.csv", ("file", "patient", "view", "opaque"), rows)
    yield root
    forget_imports()


def test_the_dataset_of_the_page_is_read(bench: Bench, films: Path, tmp_path: Path) -> None:
    done = bench("data", "check", "films", films, "--import", FILMS)
    assert done.code == 0, done.err
    assert "24: opacity 12 (50%), clear 12 (50%)" in done.out and "patients  12, 12 of them in both domains" in done.out
    assert bench("data", "show", "films", films, "--import", FILMS, "--out", tmp_path / "films.png").code == 0


def test_the_dataset_of_the_page_names_what_is_wrong(bench: Bench, films: Path) -> None:
    with (films / "films.csv").open("a") as stream:
        stream.write("a/0000.png,p0,PA,maybe\na/none.png,p1,PA,1\n../../etc/passwd,p1,PA,1\n")
    done = bench("data", "check", "films", films, "--import", FILMS)
    assert done.code == 3
    for told in ("row 26: opaque is 'maybe'", "row 27: names a/none.png", "row 28: films: '../../etc/passwd' leads out"):
        assert f"error     films.csv {told}" in done.out


def test_the_dataset_and_suite_of_the_page_run(bench: Bench, films: Path, tmp_path: Path) -> None:
    words = [f"films={films}" if word == "synthetic,images=24" else word for word in TINY]
    for key in ("prior.iterations=2", "prior.batch_size=4", "prior.size=32", "evaluators.classification.iterations=2"):
        words += ["--set", key]
    words += ["--set", "evaluators.classification.architectures=mobilenet", "--set", "data.fractions=0.5,0.1,0.4"]
    done = bench("run", "--method", "toy", *words, "--import", FILMS, "--suite", "looks", "--runs", tmp_path / "runs")
    assert done.code == 0, done.err
    found = records(tmp_path / "runs")
    assert {"toy/films--fidelity", "toy/films--classification"} <= set(found)
    record = found["toy/films--fidelity"]
    assert record["status"] == "ok" and record["policy"] == "no-redistribution" and record["split_by"] == "patient"
    assert record["scores"]["fd_cxr"]["value"] > 0


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Images of one's own as the page's section `folder` has them: 24 of twelve patients."""
    return make_folder(tmp_path / "mine", images=24, patients=12)


def test_ours_learns_from_images_of_ones_own(bench: Bench, mine: Path, tmp_path: Path) -> None:
    """Two folders are all the labels that the finding classifier behind `ours` needs; nothing else is added."""
    words = [f"folder={mine},lung_convention=heart-excluded" if word == "synthetic,images=24" else word for word in TINY]
    for key in ("prior.iterations=2", "prior.batch_size=4", "prior.size=32", "data.fractions=0.5,0.1,0.4", "train.iterations=2"):
        words += ["--set", key]
    for key in ("width=4", "n_res=1", "disc_width=4"):
        words += ["--set", f"methods.ours.{key}"]
    done = bench("run", "--method", "ours", *words, "--suite", "fidelity", "--runs", tmp_path / "runs")
    assert done.code == 0, done.err
    record = records(tmp_path / "runs")["ours/folder--fidelity"]
    assert record["status"] == "ok" and record["scores"]["fd_cxr"]["value"] > 0
    assert record["prior"]["findings"] == ["Lung_Opacity"] and record["prior"]["trained_by"] == "harness"


# -- lung masks of CheXmask --------------------------------------------------------------------------------------------------


CHEXMASK = DOCS / "tools" / "chexmask.py"
CHEXMASK_HEADER = (
    "Image Index", "Dice RCA (Mean)", "Dice RCA (Max)", "Landmarks", "Left Lung", "Right Lung", "Heart", "Height", "Width"
)  # fmt: skip


def converted(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHEXMASK, *map(str, words)], capture_output=True, text=True, check=False)


def pairs(mask: npt.NDArray[np.bool_]) -> str:
    """A mask as CheXmask writes it: a pair (start, length) for each run in a row, counted from 1."""
    width, found = mask.shape[1], []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        found += [f"{y * width + start + 1} {end - start}" for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return " ".join(found)


def test_pairs_of_chexmask_are_rows_counted_from_one(tmp_path: Path) -> None:
    """By hand, in 2 x 3 pixels: the second and third of the first row are left lung, the first of the second row right lung."""
    table = tmp_path / "ChestX-Ray8.csv"
    write_csv(table, CHEXMASK_HEADER, [["00000001_000.png", 0.9, 0.9, "", "2 2", "4 1", "6 1", 2, 3]])
    done = converted(table, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out" / "00000001_000.png") as mask:
        assert np.asarray(mask).tolist() == [[0, 255, 255], [255, 0, 0]]


def test_masks_of_chexmask_go_with_rsna(bench: Bench, tmp_path: Path) -> None:
    root = make_rsna(tmp_path / "rsna", images=6, patients=6)
    names = {one["img_id"]: one["subset_img_id"] for one in json.loads((root / RSNA_MAPPING).read_text())}
    first, second = list(names)[:2]
    sides = [pairs(lungs(64, "left")), pairs(lungs(64, "right"))]
    rows = [[first, 0.9, 0.95, "", *sides, "1 1", 64, 64], [second, 0.5, 0.6, "", *sides, "1 1", 64, 64]]
    write_csv(tmp_path / "ChestX-Ray8.csv", CHEXMASK_HEADER, rows)
    done = converted(tmp_path / "ChestX-Ray8.csv", tmp_path / "lungs", root / RSNA_MAPPING)
    assert done.returncode == 0 and "1 masks in" in done.stdout and "1 below a quality of 0.7" in done.stdout, done.stderr
    assert [path.name for path in (tmp_path / "lungs").iterdir()] == [f"{names[first]}.png"]
    with Image.open(tmp_path / "lungs" / f"{names[first]}.png") as mask:
        assert np.array_equal(np.asarray(mask) == 255, lungs(64))
    options = f",lung_masks={tmp_path / 'lungs'},lung_convention=heart-excluded"
    checked = bench("data", "check", "rsna", f"{root}{options}")
    assert checked.code == 0 and "planes    lung_mask 1, boxes 3 on 2 images, heart-excluded" in checked.out, checked.out + checked.err


@pytest.mark.parametrize("wrong", ["0 3", "5 3", "2", "2 0"])
def test_pairs_that_do_not_fit_are_named(tmp_path: Path, wrong: str) -> None:
    table = tmp_path / "ChestX-Ray8.csv"
    write_csv(table, CHEXMASK_HEADER, [["00000001_000.png", 0.9, 0.9, "", wrong, "4 1", "", 2, 3]])
    done = converted(table, tmp_path / "out")
    assert done.returncode == 1 and "00000001_000.png: pairs (start, length) that do not fit 2 x 3" in done.stderr


def test_another_table_is_one_line(tmp_path: Path) -> None:
    write_csv(tmp_path / "other.csv", ("dicom_id", "Left Lung"), [["x", "1 1"]])
    done = converted(tmp_path / "other.csv", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Image Index" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_image_of_the_mapping_is_an_error(tmp_path: Path) -> None:
    write_csv(tmp_path / "ChestX-Ray8.csv", CHEXMASK_HEADER, [["00000001_000.png", 0.9, 0.9, "", "2 2", "4 1", "", 2, 3]])
    (tmp_path / "mapping.json").write_text('[{"img_id": "00000002_000.png", "subset_img_id": "a"}]')
    done = converted(tmp_path / "ChestX-Ray8.csv", tmp_path / "out", tmp_path / "mapping.json")
    assert done.returncode == 1 and "none of its images is wanted" in done.stderr
