"""Table 2: architectures and data types; the confusion matrix behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from classifier_tools import LABELS, NAMES, REAL, ROWS, learnt
from paper_tools import entry, line, value

from bench.records import LOCAL, Local
from leaderboards.paper import sheets
from leaderboards.sheet import BEST, SECOND, TIE


def test_real_images_are_one_line_and_methods_one_each_within_their_architecture() -> None:
    (sheet,) = sheets(ROWS, "2")
    assert [(one.group, one.label) for one in sheet.lines] == [
        ("ResNet50", "Original"), ("ResNet50", "Generated, drit"), ("ResNet50", "Generated, ours"), ("ResNet50", "Mask, ours"),
        ("DenseNet", "Original"), ("DenseNet", "Mask, ours"), ("View, age, sex", "Original"),
    ]  # fmt: skip
    assert [head.label for head in sheet.heads] == ["Accuracy", "Precision", "Recall", "F1", "AUROC"]
    assert line(sheet, "Original", "ResNet50").original


def test_auroc_is_defined_where_it_is_shown() -> None:
    (sheet,) = sheets(ROWS, "2")
    assert sheet.heads[4].detail == "Area under the ROC curve within each fold, averaged over folds by their images."
    assert any("AUROC is the area under the ROC curve within each fold" in line for line in sheet.below)


def test_values_follow_from_the_matrix_behind() -> None:
    (sheet,) = sheets(ROWS, "2")
    (behind,) = sheet.behind
    cells = [e.cell for e in line(behind, "Generated, drit", "ResNet50").entries]
    tp, fp, fn, tn = (cell.value for cell in cells if cell)
    assert (tp, fp, fn, tn) == (24, 10, 16, 50)
    assert value(sheet, "Generated, drit", "rsna.classification.accuracy", "ResNet50") == pytest.approx((tp + tn) / 100)
    assert value(sheet, "Generated, drit", "rsna.classification.f1", "ResNet50") == pytest.approx(2 * tp / (2 * tp + fp + fn))
    auroc = entry(sheet, "Generated, drit", "rsna.classification.auroc", "ResNet50").cell
    assert auroc and auroc.ci == pytest.approx((0.73, 0.77))
    assert all(not head.better for head in behind.heads)


def test_marks_hold_within_an_architecture_and_the_original_takes_part() -> None:
    (sheet,) = sheets(ROWS, "2")
    key = "rsna.classification.accuracy"
    resnet = [e.mark for one in sheet.lines[:4] for e in [one.entries[0]]]
    assert resnet == ["", "", TIE, BEST]  # 0.80 and 0.81 have intervals that overlap
    assert entry(sheet, "Original", key, "DenseNet").mark == BEST and entry(sheet, "Mask, ours", key, "DenseNet").mark == SECOND


def test_parts_that_depend_on_the_method_are_not_joined() -> None:
    other = [ROWS[0], learnt("ours", {**REAL, "densenet_original": (1, 5, 39, 55)})]
    (sheet,) = sheets(other, "2")
    labels = [one.label for one in sheet.lines if one.group == "DenseNet"]
    assert labels == ["Original, original", "Original, ours"]


def test_doubts_of_any_part_are_told_and_not_marked() -> None:
    mine = {**REAL, "resnet50_mask": (31, 10, 9, 50), "resnet50_generated": (24, 10, 16, 50)}
    rows = [learnt("original", REAL), learnt("ours", mine)]
    rows[1]["scores"]["resnet50_mask_accuracy"]["doubt"] = "two patients only"
    (sheet,) = sheets(rows, "2")
    assert entry(sheet, "Mask, ours", "rsna.classification.accuracy", "ResNet50").mark == ""
    assert any("two patients only" in told for told in sheet.below)


def test_test_sets_stand_side_by_side() -> None:
    (sheet,) = sheets([*ROWS, learnt("original", REAL, dataset="mimic"), learnt("ours", REAL, dataset="mimic")], "2")
    assert list(dict.fromkeys(head.group for head in sheet.heads)) == ["Opacity in rsna", "Opacity in mimic"]
    assert entry(sheet, "Mask, ours", "mimic.classification.f1", "ResNet50").cell is None


def by_image(made: dict[str, Any], right: Mapping[str, int]) -> dict[str, Any]:
    """With values by image of accuracy: so many of a hundred images, one a patient, are right."""
    more = {f"{part}_accuracy": {f"{k:03d}": float(k < n) for k in range(100)} for part, n in right.items()}
    return {**made, LOCAL: Local("", {}, {f"{k:03d}": f"p{k}" for k in range(100)}, more=more)}


def test_accuracy_is_compared_by_image_where_there_are_values() -> None:
    real = {"resnet50_original": 70}
    rows = [
        by_image(learnt("original", REAL), real), by_image(ROWS[1], {**real, "resnet50_generated": 80, "resnet50_mask": 81}), ROWS[2],
    ]  # fmt: skip
    (sheet,) = sheets(rows, "2")
    key, accuracy = "rsna.classification.accuracy", {}
    for one in sheet.lines[:4]:
        accuracy[one.label] = entry(sheet, one.label, key, "ResNet50").mark
    assert accuracy == {"Original": "", "Generated, drit": "", "Generated, ours": TIE, "Mask, ours": BEST}
    assert any(told.startswith("Ties of Accuracy: paired Wilcoxon") for told in sheet.below)
    far = [rows[0], by_image(ROWS[1], {**real, "resnet50_generated": 60, "resnet50_mask": 81}), ROWS[2]]
    (other,) = sheets(far, "2")  # intervals overlap as before; the values by image tell them apart
    assert entry(other, "Generated, ours", key, "ResNet50").mark == SECOND


def test_a_part_without_values_says_why_once() -> None:
    rows = [learnt("original", REAL), learnt("ours", REAL), learnt("drit", REAL)]
    for made_ in rows[1:]:
        for label in LABELS:
            for arch in NAMES:
                made_["scores"][f"{arch}_generated_{label.lower()}"]["note"] = "the translator learnt on another dataset"
    (sheet,) = sheets(rows, "2")
    told = [words for words in sheet.below if "learnt on another dataset" in words]
    assert told == ["No value of Generated on rsna: the translator learnt on another dataset."]


def test_against_the_paper_says_that_nothing_is_transcribed() -> None:
    (plain,), (sheet,) = sheets(ROWS, "2"), sheets(ROWS, "2", "paper")
    assert "have not been transcribed" in sheet.above[0]
    assert (sheet.heads, sheet.lines) == (plain.heads, plain.lines)
