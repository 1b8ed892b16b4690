"""The published numbers, and measured ones beside them: exact, apart, and no difference between metrics that are not the same."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from conftest import ROOT
from paper_tools import distances, entry, features, lungs, row, value

from bench.errors import PreflightError, UsageError
from leaderboards.paper import sheets
from leaderboards.published import load
from leaderboards.sheet import Sheet

#: Typed a second time: FID, KID, its spread, then mIoU and sensitivity of MIMIC, RSNA, JSRT.
TABLE_1 = {
    "original": "81.8 0.043 0.0104 86.66 91.16 73.19 79.56 91.15 97.55",
    "munit": "109.4 0.073 0.0038 72.07 86.85 62.58 77.03 85.60 95.04",
    "unit": "103.2 0.061 0.0016 74.72 83.88 67.46 75.92 86.60 95.15",
    "cyclegan": "208.3 0.216 0.0068 59.73 66.72 58.84 65.39 80.86 88.42",
    "uvcgan": "210.4 0.225 0.0065 81.52 86.93 66.66 72.97 89.04 95.76",
    "drit": "117.6 0.087 0.0041 75.98 83.52 66.77 75.88 88.65 96.18",
    "ours": "67.18 0.01604 0.0034 86.20 92.68 76.58 85.58 91.08 97.62",
}
COLUMNS = (
    "fid", "kid", "kid_std", "mimic_miou", "mimic_sensitivity", "rsna_miou", "rsna_sensitivity", "jsrt_miou", "jsrt_sensitivity",
)  # fmt: skip
TABLE_3 = {
    "none": "77.058 0.03214", "AASPM": "74.192 0.02471", "FA": "73.946 0.02427", "AASPM + FA": "70.053 0.01891",
    "AASPM + FA + LCA": "68.735 0.01612", "full": "67.177 0.01604",
}  # fmt: skip
IMAGES = {f"{k:02d}": 60.0 + k for k in range(20)}


def test_table_1_as_printed() -> None:
    found = load("1")
    assert {row: " ".join(found.text(row, column) or "" for column in COLUMNS) for row in found.names} == TABLE_1
    assert "Ning et al. 2025" in found.source and "2503.19860" in found.source and "Table 1" in found.source


def test_table_3_as_printed() -> None:
    found = load("3")
    assert {row: " ".join(found.text(row, column) or "" for column in ("fid", "kid")) for row in found.names} == TABLE_3
    assert found.text("full", "kid_std") is None


def test_changes_follow_from_printed_values_exactly() -> None:
    found = load("1")
    assert found.text("ours", "rsna_miou_delta") == "3.39" and found.text("cyclegan", "mimic_miou_delta") == "-26.93"
    assert found.text("jsrt", "rsna_miou_delta") is None
    best = min(TABLE_1, key=lambda name: Decimal(found.text(name, "fid") or "inf"))
    beaten = [name for name in TABLE_1 if name not in ("ours", "original") and Decimal(found.text(name, "fid") or 0) < Decimal("81.8")]
    assert best == "ours" and beaten == []  # doing nothing beats every baseline


def test_what_is_not_transcribed_says_so() -> None:
    for table in ("2", "fig6"):
        with pytest.raises(PreflightError, match="not been transcribed"):
            load(table)
    with pytest.raises(UsageError, match="unknown published table '4'"):
        load("4")


def test_data_files_are_packaged() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"leaderboards.published"' in text and '"leaderboards.published" = ["*.json"]' in text
    files = sorted(Path(ROOT / "leaderboards" / "published").glob("*.json"))
    assert [file.name for file in files] == ["table1.json", "table3.json"]
    for file in files:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        assert all(isinstance(value, str) for row in rows for value in row.values())


def beside(records: list[dict[str, object]], table: str = "1") -> Sheet:
    (found,) = sheets(records, table, "paper")
    return found


ROWS = [
    distances("original", 80.0, 0.05), distances("ours", 70.0, 0.02), distances("cut", 75.0, 0.03), distances("original", 80.0, 0.05),
    lungs("original", IMAGES, IMAGES), lungs("ours", {k: v + 2 for k, v in IMAGES.items()}, IMAGES),
]  # fmt: skip


def test_triples_of_measured_published_and_difference() -> None:
    sheet = beside(ROWS)
    assert [head.label for head in sheet.heads[:3]] == ["measured", "published", "measured - published"]
    assert value(sheet, "ours (Paper's method)", "rsna.fidelity.fid.measured") == 70.0
    assert entry(sheet, "ours (Paper's method)", "rsna.fidelity.fid.published").text == "67.18"
    assert value(sheet, "ours (Paper's method)", "rsna.fidelity.fid.difference") == pytest.approx(2.82)
    printed = entry(sheet, "ours (Paper's method)", "rsna.fidelity.kid.published")
    assert printed.text == "0.01604 (0.0034)" and printed.cell and (printed.cell.value, printed.cell.std) == (0.01604, 0.0034)
    assert value(sheet, "ours (Paper's method)", "rsna.segmentation.miou.difference") == pytest.approx(69.5 + 2 - 76.58)
    assert value(sheet, "ours (Paper's method)", "rsna.segmentation.miou_delta.difference") == pytest.approx(2 - 3.39)


def test_nothing_is_ranked_or_marked() -> None:
    for table, records in (("1", ROWS), ("3", [row("none", 77, 0.03), row("full", 67, 0.01)])):
        sheet = beside(records, table)
        assert all(not head.better for head in sheet.heads) and len({head.key for head in sheet.heads}) == len(sheet.heads)
        assert all(e.mark == "" for one in sheet.lines for e in one.entries)
        assert not any("underlined" in line or line.startswith("Ties") for line in sheet.below)


def test_methods_on_one_side_only_have_their_line() -> None:
    sheet = beside(ROWS)
    assert {one.label for one in sheet.lines} == {
        "original (Original CXRs)", "ours (Paper's method)", "cut", "munit", "unit", "cyclegan", "uvcgan", "drit",
    }  # fmt: skip
    assert entry(sheet, "drit", "rsna.fidelity.fid.published").text == "117.6"
    assert entry(sheet, "drit", "rsna.fidelity.fid.measured").cell is None
    assert entry(sheet, "cut", "rsna.fidelity.fid.published").text == ""
    assert entry(sheet, "drit", "rsna.fidelity.fid.difference").cell is None


def test_another_extractor_has_no_difference_and_says_why() -> None:
    sheet = beside([features("original", 30, 3), features("ours", 20, 2)])
    assert "published FID" in [head.label for head in sheet.heads]
    assert entry(sheet, "ours (Paper's method)", "rsna.fidelity.fd_cxr.published").text == "67.18"
    assert all(entry(sheet, one.label, "rsna.fidelity.fd_cxr.difference").cell is None for one in sheet.lines)
    assert any("FD-cxr, KD-cxr" in line and "no difference is computed" in line for line in sheet.above)


def test_images_that_stand_in_for_the_papers_have_no_difference() -> None:
    """Rendered lungs minus RSNA's printed number is a number of nothing."""
    other = {"dataset": "synthetic", "train_dataset": "synthetic", "dataset_fingerprint": "ffff"}
    sheet = beside([{**r, **other, "train_dataset": "" if r["method"] == "original" else "synthetic"} for r in ROWS])
    for key in ("segmentation.miou", "segmentation.miou_delta", "segmentation.sensitivity", "fidelity.fid", "fidelity.kid"):
        found = entry(sheet, "ours (Paper's method)", f"synthetic.{key}.difference")
        assert found.cell is None and found.text == "not the same data", key
        assert entry(sheet, "ours (Paper's method)", f"synthetic.{key}.published").text
    assert any("stand in for the paper's (synthetic for RSNA): no difference is computed" in line for line in sheet.above)
    assert entry(sheet, "drit", "synthetic.segmentation.miou.difference").text == "", "nothing was measured"


def test_another_definition_of_the_overlap_has_no_published_counterpart() -> None:
    made = lungs("ours", IMAGES, IMAGES)
    rename = {"miou": "miou_pooled", "miou_delta": "miou_delta_pooled"}
    made["metrics"] = [{**m, "key": rename.get(m["key"], m["key"])} for m in made["metrics"]]
    made["scores"] = {rename.get(key, key): value for key, value in made["scores"].items()}
    sheet = beside([made])
    assert entry(sheet, "ours (Paper's method)", "rsna.segmentation.miou_pooled.published").text == ""
    assert any(line.startswith("Without a published counterpart") for line in sheet.above)


def test_what_differs_in_the_protocol_stands_above() -> None:
    cost = {"images_seen": 1600}
    rows = [{**r, "cost": cost, "dataset": "synthetic", "train_dataset": "synthetic"} for r in ROWS]
    told = "\n".join(beside(rows).above)
    for words in ("64 pixels here, 512 in the paper", "1.6 k here; 500 k by the paper's", "synthetic for RSNA", "arXiv 2503.19860"):
        assert words in told, words
    same = "\n".join(beside([{**r, "image_size": 512} for r in ROWS]).above)
    assert "512 pixels here, 512 in the paper (the same)" in same and "RSNA by name" in same
    assert "odd in the published values" in "\n".join(beside(ROWS).below)


def test_table_3_beside_the_paper() -> None:
    sheet = beside([row("none", 80.0, 0.04), row("full", 70.0, 0.02), distances("original", 85, 0.05)], "3")
    assert [one.label for one in sheet.lines] == ["original", "none", "full", "AASPM", "FA", "AASPM + FA", "AASPM + FA + LCA"]
    assert value(sheet, "full", "rsna.fidelity.fid.difference") == pytest.approx(70 - 67.177)
    assert entry(sheet, "FA", "rsna.fidelity.kid.published").text == "0.02427"
    assert entry(sheet, "original", "rsna.fidelity.fid.published").text == ""


def test_two_configurations_of_a_method_keep_their_lines() -> None:
    sheet = beside([distances("unit", 90, 0.1), distances("unit", 95, 0.1, config_fingerprint="fedcba9876543210")])
    mine = [one for one in sheet.lines if one.label.startswith("unit")]
    assert len(mine) == 2 and {one.entries[1].text for one in mine} == {"103.2"}
