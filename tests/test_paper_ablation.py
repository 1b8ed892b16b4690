"""Table 3: rows are told by the switches of the method's configuration, everything else equal."""

from __future__ import annotations

import pytest
from paper_tools import SWITCHES, distances, entry, marks, row, value

from leaderboards.paper import missing, sheets
from leaderboards.sheet import BEST, SECOND, TIE

FIDS = dict(zip(SWITCHES, (77.0, 74.2, 73.9, 70.1, 68.7, 67.2), strict=True))
ROWS = [row(name, fid, fid / 1000) for name, fid in FIDS.items()]


def test_six_rows_in_the_order_of_the_paper_below_original() -> None:
    (sheet,) = sheets([*reversed(ROWS), distances("original", 80, 0.08)], "3")
    assert [line.label for line in sheet.lines] == ["original", *SWITCHES] and sheet.corner == "Modules"
    assert {name: value(sheet, name, "rsna.fidelity.fid") for name in SWITCHES} == FIDS
    found = marks(sheet, "rsna.fidelity.fid")
    assert found["full"] == BEST and found["AASPM + FA + LCA"] == SECOND and set(found.values()) == {BEST, SECOND, ""}
    assert any("`original` is a line for reference" in told for told in sheet.below)
    assert not any("without scores" in line for line in sheet.above)


def test_original_is_never_best_second_or_a_tie() -> None:
    best = distances("original", 67.25, 0.067)
    (sheet,) = sheets([*ROWS, best], "3")
    found = marks(sheet, "rsna.fidelity.fid")
    assert found["original"] == "" and found["full"] == BEST and found["AASPM + FA + LCA"] == SECOND


def test_notes_call_rows_as_the_table_does() -> None:
    rows = [{**r, "warnings": ["discriminator at chance"]} for r in ROWS[:2]]
    (sheet,) = sheets([*rows, ROWS[5]], "3")
    told = "\n".join(sheet.below)
    assert "Training of AASPM, none: discriminator at chance." in told and "none: ours v1 `" in told
    assert "ours (" not in told


def test_rows_that_are_not_there_are_named_with_the_command() -> None:
    (sheet,) = sheets(ROWS[:2], "3")
    (told,) = [line for line in sheet.above if "without scores" in line]
    assert "FA, AASPM + FA, AASPM + FA + LCA, full" in told and "--suite ablation" in told


def test_overlapping_rows_are_ties() -> None:
    (sheet,) = sheets([row("none", 77, 0.03, 0.5), row("FA", 70.2, 0.02, 0.5), row("full", 70.0, 0.02, 0.5)], "3")
    assert marks(sheet, "rsna.fidelity.fid") == {"none": "", "FA": TIE, "full": BEST}


@pytest.mark.parametrize(("change", "why"), [({"config": {"width": 64}}, "width 64"), ({"cost": {"iterations": 99}}, "iterations 99")])
def test_other_differences_make_another_sheet_that_says_why(change: dict[str, dict[str, int]], why: str) -> None:
    odd = row("FA", 1.0, 0.001, **{name: dict(value) for name, value in change.items()})
    found = sheets([*ROWS, odd], "3")
    assert [len(sheet.lines) for sheet in found] == [6, 1]
    assert value(found[0], "FA", "rsna.fidelity.fid") == 73.9
    assert any(why in line and "more than the four switches" in line for line in found[1].above)
    assert why in found[1].title and found[0].title != found[1].title


def test_a_preset_of_its_own_is_another_sheet() -> None:
    found = sheets([*ROWS, *(row(name, 1.0, 0.1, preset="quick") for name in ("none", "full"))], "3")
    assert sorted(len(sheet.lines) for sheet in found) == [2, 6]
    assert all("must not be ranked together" in sheet.above[0] for sheet in found)


def test_a_lone_run_is_no_ablation() -> None:
    assert sheets([row("full", 67, 0.01), distances("original", 80, 0.04), distances("cyclegan", 90, 0.05)], "3") == []
    assert "bench run --method ours --suite ablation" in missing([row("full", 67, 0.01)], "3")[0]


def test_records_that_do_not_say_their_configuration_are_told() -> None:
    old = distances("ours", 60, 0.01, method_config=None)
    assert "1 records of ours do not say" in missing([old], "3")[0]
    (sheet,) = sheets([*ROWS, old], "3")
    assert len(sheet.lines) == 6 and any("1 records of ours do not say" in line for line in sheet.above)


def test_switches_that_the_paper_has_no_row_for_are_named() -> None:
    odd = row("FA", 72.0, 0.02, config={"fa": False, "lca": True})
    (sheet,) = sheets([*ROWS, odd], "3")
    assert sheet.lines[-1].label == "LCA (no row of the paper)"


def test_a_row_that_failed_stands_where_it_belongs() -> None:
    lost = row("FA", 1.0, 1.0, status="failed", error="no memory", scores={}, cost={"iterations": None, "images_seen": None},
               written="2026-03-01T00:00:00")  # fmt: skip
    (sheet,) = sheets([ROWS[0], lost, ROWS[5]], "3")
    assert [line.label for line in sheet.lines] == ["none", "FA", "full"]
    assert entry(sheet, "FA", "rsna.fidelity.fid").text == "failed"
