"""Table 1 and Figure 6 from records: which columns, which ranking, what is never mixed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from leaderboard_tools import metric, score
from paper_tools import distances, entry, features, lungs, made, marks, row, value

from bench.errors import UsageError
from bench.records import LOCAL, Local
from leaderboards import formats
from leaderboards.paper import TABLES, missing, sheets
from leaderboards.render import leaderboard
from leaderboards.sheet import BEST, SECOND, TIE, Sheet

IMAGES = [f"{k:02d}" for k in range(24)]
BASE = {image: 70.0 + k / 10 for k, image in enumerate(IMAGES)}


def moved(by: float, jitter: int = 0) -> dict[str, float]:
    """Values of all images, moved by the same, or to and fro by more than that."""
    return {image: value + by + jitter * (-1) ** k * (1 + k / 10) for k, (image, value) in enumerate(BASE.items())}


#: Three methods; `b` moves lungs as much as `a` but not for every patient.
LUNGS = [
    lungs("original", BASE, BASE), lungs("a", moved(2.0), BASE), lungs("b", moved(1.9, 4), BASE), lungs("c", moved(1.0), BASE),
]  # fmt: skip
FULL = [
    distances("original", 81.8, 0.043), distances("a", 67.0, 0.016), distances("b", 67.4, 0.030), distances("c", 90.0, 0.06), *LUNGS,
]  # fmt: skip


def only(records: list[dict[str, Any]], table: str = "1") -> Sheet:
    (found,) = sheets(records, table)
    return found


def test_columns_and_values_of_table_1() -> None:
    sheet = only(FULL)
    assert [head.key for head in sheet.heads] == [
        "rsna.fidelity.fid", "rsna.fidelity.kid", "rsna.segmentation.miou_delta", "rsna.segmentation.miou",
        "rsna.segmentation.sensitivity",
    ]  # fmt: skip
    assert [head.label for head in sheet.heads] == ["FID", "KID", "mIoU delta", "mIoU", "Sensitivity"]
    assert [head.better for head in sheet.heads] == ["lower", "lower", "higher", "higher", "higher"]
    assert [line.label for line in sheet.lines] == ["original", "a", "b", "c"] and sheet.lines[0].original
    assert value(sheet, "a", "rsna.segmentation.miou_delta") == pytest.approx(2.0)
    assert value(sheet, "original", "rsna.segmentation.miou_delta") == 0
    assert value(sheet, "a", "rsna.segmentation.miou") == pytest.approx(sum(BASE.values()) / 24 + 2)
    kid = entry(sheet, "a", "rsna.fidelity.kid").cell
    assert kid and kid.std == 0.005 and kid.std_over == "subsets"


def test_a_paired_test_decides_ties_where_there_are_values_by_image() -> None:
    sheet = only(FULL)
    assert marks(sheet, "rsna.segmentation.miou") == {"original": "", "a": BEST, "b": TIE, "c": ""}
    # Here sensitivity has no values by image: intervals of +-1 that overlap are a tie, even where the paired test tells mIoU apart.
    assert marks(sheet, "rsna.segmentation.sensitivity") == {"original": TIE, "a": BEST, "b": TIE, "c": TIE}
    assert marks(sheet, "rsna.fidelity.fid") == {"original": "", "a": BEST, "b": TIE, "c": ""}
    told = " ".join(sheet.below)
    assert "paired Wilcoxon over patients" in told and "overlap count as a tie" in told
    assert "No method is shown to be better than the others" in told and "Sensitivity (Lungs of rsna)" in told


def test_secondary_metrics_and_segmenters_are_tested_where_they_have_values_by_image() -> None:
    rows = []
    for made_ in LUNGS:
        local = made_[LOCAL]
        more = {"sensitivity": local.values["miou"], "miou/unet": local.values["miou"]}
        rows.append({**made_, LOCAL: Local("", local.values, local.patients, more=more)})
    sheet = only(rows)
    assert marks(sheet, "rsna.segmentation.sensitivity") == {"original": "", "a": BEST, "b": TIE, "c": ""}
    (behind,) = sheet.behind
    found = {(one.group, one.label): one.entries[1].mark for one in behind.lines}
    assert [found["U-Net", name] for name in "abc"] == [BEST, TIE, ""], "by image"
    assert [found["PSPNet", name] for name in "abc"] == [BEST, TIE, TIE], "by interval, for want of values by image"
    told = " ".join(sheet.below)
    assert "overlap count as a tie" not in told and "Ties of mIoU delta, mIoU, Sensitivity: paired Wilcoxon" in told
    assert sheets(list(reversed(rows)), "1") == [sheet]


def test_settings_of_an_evaluator_are_in_title_and_context_in_full() -> None:
    params = [{"extractor": "inception", "models": f"{'x' * 40}{k}"} for k in range(2)]
    rows = [{**distances(m, fid, 0.1), "params": p} for p in params for m, fid in (("original", 80.0), ("a", 70.0))]
    found = sheets(rows, "1")
    assert len(found) == 2 and len({sheet.title for sheet in found}) == 2
    for sheet, p in zip(found, params, strict=True):
        assert sheet.title.endswith(f"fidelity on rsna models={p['models']}")
        assert sheet.context["fidelity of rsna"] == f"models={p['models']}"
        assert "fidelity on rsna fidelity" not in sheet.title


def test_two_records_of_the_same_time_are_undecidable_and_said_so() -> None:
    rows = [distances("original", 80, 0.04), distances("a", 70, 0.02), distances("a", 71, 0.03)]
    words = "Undecidable: 2 records of fidelity of a on rsna, seed 0, differ and were written at the same time (2026-01-01T00:00:00)"
    assert any(told.startswith(words) for told in only(rows).below) and words in leaderboard(rows)
    newer = [*rows[:2], {**rows[2], "written": "2026-01-02T00:00:00"}]
    copies = [*rows[:2], rows[1]]
    assert not any("Undecidable" in told for some in (newer, copies) for told in only(some).below)


def test_original_can_be_best_and_second() -> None:
    rows = [distances("original", 60.0, 0.01), distances("a", 70.0, 0.03), distances("b", 80.0, 0.05)]
    assert marks(only(rows), "rsna.fidelity.fid") == {"original": BEST, "a": SECOND, "b": ""}


def test_segmenters_stand_behind_and_are_ranked_each_for_itself() -> None:
    (behind,) = only(FULL).behind
    assert behind.key == "table1-segmenters" and [line.group for line in behind.lines] == ["U-Net"] * 4 + ["PSPNet"] * 4
    whole = value(only(FULL), "a", "rsna.segmentation.miou")
    assert value(behind, "a", "rsna.segmentation.miou", "U-Net") == pytest.approx(whole + 1)
    assert value(behind, "a", "rsna.segmentation.miou", "PSPNet") == pytest.approx(whole - 1)
    best = {line.group for line in behind.lines if line.entries[1].mark == BEST}
    assert best == {"U-Net", "PSPNet"}


def test_several_test_sets_are_groups_of_columns_with_their_own_paired_tests() -> None:
    other = {"dataset": "mimic", "dataset_fingerprint": "ffff", "reference_fingerprint": "rrrr"}
    sheet = only([*FULL, *(lungs(m, moved(v), BASE, **other) for m, v in (("original", 0), ("a", -3), ("c", 2)))])
    assert list(dict.fromkeys(head.group for head in sheet.heads)) == ["Images of rsna", "Lungs of rsna", "Lungs of mimic"]
    assert marks(sheet, "mimic.segmentation.miou") == {"original": SECOND, "a": "", "b": "", "c": BEST}
    assert entry(sheet, "b", "mimic.segmentation.miou").cell is None
    assert sheet.context["data of mimic"] == "ffff"


def test_distances_of_other_test_sets_are_no_column_of_table_1() -> None:
    sheet = only([*FULL, distances("a", 1.0, 0.1, dataset="mimic")])
    assert {head.key.split(".")[0] for head in sheet.heads} == {"rsna"}
    lone = only(LUNGS)
    assert any("No record has a distance of images of rsna" in line for line in lone.above)


def test_an_extractor_keeps_its_names() -> None:
    sheet = only([features("original", 30, 3), features("a", 20, 2), distances("a", 60, 0.1), distances("original", 70, 0.1)])
    assert [head.label for head in sheet.heads] == ["FD-cxr", "FID", "KD-cxr", "KID"]
    assert any("not FID or KID" in line for line in sheet.below)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dataset_fingerprint": "ffff"}, "data of rsna"),
        ({"reference_fingerprint": "aaaa"}, "reference of rsna"),
        ({"preset": "quick"}, "preset quick"),
        ({"image_size": 128}, "image size 128"),
        ({"params": {"extractor": "inception", "kid_subset_size": 50}}, "kid_subset_size"),
        ({"evaluator_version": 2}, "version=2"),
    ],
)
def test_what_does_not_compare_stands_in_another_sheet_that_says_why(change: dict[str, Any], why: str) -> None:
    found = sheets([distances("original", 80, 0.04), distances("a", 60, 0.01), distances("b", 50, 0.01, **change)], "1")
    assert len(found) == 2 and all(not {"a", "b"} <= {line.label for line in sheet.lines} for sheet in found)
    assert all("must not be ranked together" in sheet.above[0] for sheet in found)
    (mine,) = [sheet for sheet in found if "b" in {line.label for line in sheet.lines}]
    assert why in mine.above[0]
    assert len({sheet.title for sheet in found}) == 2


def test_features_of_two_classifiers_and_two_training_sets_never_share_a_sheet() -> None:
    assert len(sheets([features("a", 1, 1), features("b", 2, 2, prior="p2")], "1")) == 2
    other = {"train_dataset": "mimic", "dataset": "mimic"}
    assert len(sheets([distances("a", 1, 1), distances("a", 2, 2, **other)], "1")) == 2


def test_a_test_set_joins_only_methods_that_are_there() -> None:
    """Lungs of another configuration stand beside no distance of this one."""
    other = lungs("a", moved(1), BASE, dataset="mimic", config_fingerprint="other")
    assert len(sheets([distances("a", 60, 0.1), other], "1")) == 2


def test_doubtful_values_are_neither_best_nor_second_and_the_reason_is_told() -> None:
    rows = [distances("original", 80, 0.04), distances("a", 60, 0.02), distances("b", 50, 0.01), distances("c", 90, 0.05)]
    rows[2]["scores"]["fid"]["doubt"] = "only two images"
    sheet = only(rows)
    assert marks(sheet, "rsna.fidelity.fid") == {"original": SECOND, "a": BEST, "b": "", "c": ""}
    assert any(line.startswith("†") and "only two images" in line and "(b)" in line for line in sheet.below)


def test_the_newest_record_of_a_cell_counts_and_the_older_are_told() -> None:
    rows = [distances("original", 80, 0.04), distances("a", 60, 0.02), distances("a", 55, 0.02, written="2026-02-01T00:00:00")]
    sheet = only(rows)
    assert value(sheet, "a", "rsna.fidelity.fid") == 55
    assert sheet.below[-1].endswith("1 older records of the same scores do not count: the newest does.")
    assert "older" not in only([rows[0], rows[2]]).below[-1]


def test_failures_have_a_line_and_a_reason() -> None:
    lost = distances("b", 1, 1, status="failed", error="out of memory\nTraceback", scores={})
    sheet = only([*FULL[:2], lost])
    assert entry(sheet, "b", "rsna.fidelity.fid").text == "failed"
    assert sheet.lines[-1].notes == ("rsna: fidelity, seed 0 failed: out of memory",)


def test_seeds_are_averaged_and_their_spread_decides() -> None:
    rows = [distances("original", 80, 0.04), *(distances("a", v, 0.02, seed=s) for s, v in enumerate((60.0, 62.0, 64.0)))]
    sheet = only([*rows, distances("b", 63.5, 0.02), distances("c", 70.0, 0.02)])
    cell = entry(sheet, "a", "rsna.fidelity.fid").cell
    assert cell and (cell.value, cell.std, cell.std_over, cell.seeds) == (62.0, 2.0, "seeds", 3)
    reach = 4.303 * 2.0 / 3**0.5
    assert cell.ci == pytest.approx((62 - reach, 62 + reach), abs=1e-2), "Student's over seeds, wider than 61.5 to 62.5"
    assert any("of several seeds the wider of the mean of theirs and of Student's over seeds" in line for line in sheet.below)
    alike = only([rows[0], *(distances("a", v, 0.02, seed=s) for s, v in enumerate((61.99, 62.0, 62.01)))])
    cell = entry(alike, "a", "rsna.fidelity.fid").cell
    assert cell and cell.ci == pytest.approx((61.5, 62.5)), "the mean of the patients', where seeds agree better"
    assert marks(sheet, "rsna.fidelity.fid") == {"original": "", "a": BEST, "b": TIE, "c": ""}
    assert any("3 (a)" in line for line in sheet.below)


def test_notes_hold_what_numbers_rest_on() -> None:
    rows = [{**r, "command": "bench run --method all --runs /home/jane/some", "versions": {"torch": "2.15.0"}} for r in FULL]
    told = "\n".join(only(rows).below)
    for words in ("0123456789abcdef", "fidelity v1, segmentation v1", "torch 2.15.0",
                  "`bench run --method all --runs some`", "8 records, digest",
                  "a v1 `cfg-a`", "Seeds: 1", "Images of rsna 50; Lungs of rsna 24", "± is the standard deviation over subsets"):
        assert words in told, words


def test_order_of_records_does_not_matter_and_results_move_the_digest() -> None:
    shuffled = FULL.copy()
    random.Random(1).shuffle(shuffled)
    assert sheets(shuffled) == sheets(FULL)
    other = [distances("original", 81.9, 0.043), *FULL[1:]]
    assert only(other).below[-1] != only(FULL).below[-1]


def test_rows_of_the_ablation_are_no_methods_of_table_1() -> None:
    rows = [distances("original", 80, 0.04), row("full", 60, 0.01), row("none", 75, 0.03), row("FA", 70, 0.02)]
    sheet = only(rows)
    assert [line.label for line in sheet.lines] == ["original", "ours"]
    assert value(sheet, "ours", "rsna.fidelity.fid") == 60
    assert "modules off, equal otherwise: 2" in sheet.below[-1]
    (alone,) = [line.label for line in only([rows[0], rows[2]]).lines if line.label != "original"]
    assert alone == "ours"  # without its full twin a configuration is a method like others


def test_nothing_is_made_of_nothing_and_the_remedy_is_told() -> None:
    assert sheets([]) == [] and len(missing([])) == len(TABLES) - 1
    assert all("bench run" in line for line in missing([]))
    assert [line.split()[1] for line in missing(FULL)] == ["2", "3", "6"]
    assert missing(FULL, "1") == [] and sheets(FULL, "fig6") == []


def test_unknown_names_are_errors_that_name_the_known() -> None:
    for asked in (lambda: sheets([], "4"), lambda: missing([], "4")):
        with pytest.raises(UsageError, match=r"unknown table '4'.*1, 2, 3, all, fig6"):
            asked()
    with pytest.raises(UsageError, match=r"--against other.*Available: paper"):
        sheets([], "1", "other")


# -- Figure 6 ----------------------------------------------------------------------------------------------------------------

COUNTS = [
    metric("count_change", "Change in lesions", "lower", 2, primary=True),
    metric("count_before", "Lesions before", "none", 2, shared=True),
    metric("count_after", "Lesions after", "lower", 2),
    metric("count_p", "p (Wilcoxon)", "none", 4),
    metric("opacity_effect", "Effect (rank-biserial)", "none", 3, part="YOLO · opacity images"),
]  # fmt: skip


def counted(method: str, change: dict[str, float], p: float) -> dict[str, Any]:
    mean = sum(change.values()) / len(change)
    scores = {
        "count_change": score(mean, n=30, ci=[mean - 0.1, mean + 0.1]), "count_before": score(2.0, n=30),
        "count_after": score(2.0 + mean, n=30, ci=[1.9 + mean, 2.1 + mean]), "count_p": score(p, n=24),
        "opacity_effect": score(-0.5, n=24),
    }  # fmt: skip
    local = Local("", {"count_change": change}, {image: f"p{image}" for image in change})
    return {**made(method, "detection", scores, metrics=COUNTS), LOCAL: local}


def test_figure_6() -> None:
    none = dict.fromkeys(IMAGES, 0.0)
    many = {image: -1.0 - k / 100 for k, image in enumerate(IMAGES)}
    some = {image: -0.5 if k % 2 else 0.0 for k, image in enumerate(IMAGES)}
    sheet = only([counted("original", none, 1.0), counted("a", many, 3e-6), counted("b", some, 0.01)], "fig6")
    assert [head.label for head in sheet.heads] == ["Before", "After", "Change", "p", "Effect", "Patients"]
    assert marks(sheet, "rsna.detection.count_change") == {"original": "", "a": BEST, "b": SECOND}
    assert value(sheet, "b", "rsna.detection.count_before") == 2.0 and value(sheet, "b", "rsna.detection.patients") == 24
    assert value(sheet, "a", "rsna.detection.count_p") == 3e-6 and entry(sheet, "a", "rsna.detection.count_p").text == ""
    text = formats.write([sheet], "md")
    assert "<0.0001" in text and "0.0100" in text and "0.0000" not in text
    assert set(marks(sheet, "rsna.detection.count_p").values()) == {""}
