"""The paper's Figures 3 to 6: what stands in which panel, and what is said where something is missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from figure_tools import CONTEXT, EFFECT, IMAGES, P, box, case, case_set, detection, drawn, panels, picture, texts, visible
from leaderboard_tools import score
from matplotlib.colors import to_hex

from bench.errors import DataError, UsageError
from bench.records import LOCAL
from evaluators.statistics import paired_test
from leaderboards import figures, paper
from leaderboards.cases import Case, Result
from leaderboards.figures import cases, counts
from leaderboards.render import leaderboard
from leaderboards.tables import tables

# -- lesion counts -----------------------------------------------------------------------------------------------------------


def test_detections_are_shown_patient_by_patient(tmp_path: Path) -> None:
    found = counts.counted(tables([detection(tmp_path, "ours"), detection(tmp_path, "original")])[0])
    assert [one.label for one in found] == ["ours"], "doing nothing needs no box"
    assert found[0].before.tolist() == [3, 1, 2, 0] and found[0].after.tolist() == [1, 1, 0, 1]
    test = paired_test(found[0].before, found[0].after, list("abcd"), seed=0, n_boot=1)
    assert test.best_p == P and test.effect == pytest.approx(EFFECT)
    figure = drawn([detection(tmp_path, "ours")])
    assert {"4\n3 changed", "1.50 → 0.75", "\u22120.56\n[\u22121.00, 0.50]", "0.5000\nexact", "0.5000"} <= set(texts(figure))
    said = " ".join(texts(figure)).replace("\n", " ")
    facts = ["n = 4 patients", "data 01234567", "Wilcoxon", "seed 0", "preset paper", "size 32 px", "trained on rsna", "mAP50 0.61"]
    assert [words for words in facts if words not in said] == []
    (axis,) = figure.axes
    before, after = axis.collections
    assert before.get_offsets()[:, 0].tolist() == [3, 1, 2, 0] and after.get_offsets()[:, 0].tolist() == [1, 1, 0, 1]
    assert np.abs(before.get_offsets()[:, 1] + 0.22).max() <= counts.JITTER, "points are moved up and down, not sideways"
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "D"]
    assert means == [1.5, 0.75]
    assert [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "v"] == [1.25], "the control's mean"
    boxes = [(p.get_x(), p.get_x() + p.get_width()) for p in axis.patches]
    assert boxes == [(0.75, 2.25), (0.75, 1.0)], "quartiles of 0 1 2 3 and of 0 1 1 1"


def test_doubtful_counts_are_grey_with_the_reason_and_no_part_of_the_family(tmp_path: Path) -> None:
    sure = [detection(tmp_path, name, p=p) for name, p in (("ours", 0.01), ("cut", 0.02))]
    records = [*sure, detection(tmp_path, "unit", "it is blind", p=0.03)]
    found = counts.counted(tables(records)[0])
    assert counts.adjusted(found) == {"ours": 0.02, "cut": 0.02}, "two tests, not three"
    figure = drawn(records)
    colours = {t.get_text(): to_hex(t.get_color()) for t in visible(figure)}
    grey = to_hex(counts.DOUBTFUL)
    assert colours["unit †"] == grey and colours["0.0300\nexact"] == grey and colours["0.0100\nexact"] == to_hex("black")
    assert any(t == "† not to be relied upon (unit): it is blind." for t in texts(figure))
    row = [one.label for one in found].index("unit")
    for points in figure.axes[0].collections[2 * row : 2 * row + 2]:
        assert to_hex(points.get_facecolor()[0]) == grey


def test_values_of_another_record_are_not_drawn(tmp_path: Path) -> None:
    other = {**IMAGES, "d": ("d", 0, 3)}
    split = {**IMAGES, "a2": ("z", 4, 2)}
    damaged = detection(tmp_path, "unit", per_image="damaged.csv")  # of which nothing was read, see `bench.records.load`
    damaged[LOCAL] = replace(damaged[LOCAL], more={}, patients={})
    records = [
        detection(tmp_path, "ours"), detection(tmp_path, "cut", rows=other), damaged,
        detection(tmp_path, "drit", status="failed", error="out of memory", scores={}), detection(tmp_path, "munit", rows=split),
    ]  # fmt: skip
    found = {one.label: one.why for one in counts.counted(tables(records)[0])}
    assert found["ours"] == "" and "not those of the record" in found["cut"] and "not those of the record" in found["munit"]
    assert "damaged.csv" in found["unit"] and "out of memory" in found["drit"]
    said = " ".join(texts(drawn(records))).replace("\n", " ")
    assert "no counts (drit)" in said and "damaged.csv" in said and "--force score" in said
    lines = figures.lacking([], records)
    assert len(lines) == 3 and all(line.startswith("figure 6 of rsna: no counts") for line in lines)


def test_a_test_set_without_counts_has_no_figure_but_a_reason(tmp_path: Path) -> None:
    none = {"count_after": score(None, n=0, note="no opacity images in this test set")}
    records = [detection(tmp_path, "ours", scores=none)]
    assert figures.write(records, [], tmp_path / "out") == []
    assert figures.lacking([], records) == [
        "figure 6 of rsna: not drawn, no counts (ours): no opacity images in this test set."
    ]


def test_several_seeds_are_averaged_by_image_and_tested_once(tmp_path: Path) -> None:
    """Table and figure show the p value of the averages, and never the mean of p values."""
    later = {**IMAGES, "c": ("c", 2, 1), "d": ("d", 0, 0)}
    records = [detection(tmp_path, "ours", seed=10, rows=later, p=0.001), detection(tmp_path, "ours", seed=9, p=0.003)]
    figure = drawn(records)
    assert "seed 9, 10 (several of a method averaged image by image, then tested)" in " ".join(texts(figure)).replace("\n", " ")
    assert figure.axes[0].collections[1].get_offsets()[:, 0].tolist() == [1, 1, 0.5, 0.5], "after, of patients"
    test = paired_test([3, 1, 2, 0], [1, 1, 0.5, 0.5], list("abcd"), seed=0)
    (table,) = tables(records)
    cells = {key: cell for (_, key), cell in table.rows[0].cells.items()}
    p, effect, zeros = cells["count_p"], cells["opacity_effect"], cells["opacity_zeros"]
    assert (p.value, p.std, p.n, p.seeds) == (test.best_p, None, (4,), 2) and p.value == 0.5
    assert effect.value == pytest.approx(test.effect) and effect.ci and effect.std is None and zeros.value == 1
    assert {"0.5000\nexact", "4\n1 changed"} & set(texts(figure)) == {"0.5000\nexact"} and "4\n3 changed" in texts(figure)
    assert "0.0020" not in leaderboard(records) and "0.5000 |" in leaderboard(records)
    assert cells["psnr_blur_after"].std == 0.0, "means are averaged as ever"


def test_a_test_of_several_seeds_without_values_by_image_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    records = [detection(tmp_path, "ours", seed=seed, p=0.01) for seed in (0, 1)]
    records[1][LOCAL] = replace(records[1][LOCAL], more={})
    (table,) = tables([*records, detection(tmp_path, "cut", p=0.02)])
    rows = {row.label: row for row in table.rows}
    assert ("detection", "count_p") not in rows["ours"].cells and rows["cut"].cells["detection", "count_p"].value == 0.02
    text = leaderboard([*records, detection(tmp_path, "cut", p=0.02)])
    assert "several seeds and no values by image to test again: a test's result is no mean over seeds (ours)." in text
    (sheet,) = paper.sheets([*records, detection(tmp_path, "cut", p=0.02)], "fig6")
    assert any(line.startswith("No p (Wilcoxon), Effect of ours (rsna): several seeds and no values") for line in sheet.below)


# -- figures of cases --------------------------------------------------------------------------------------------------------


def test_figure_3_shows_the_same_cases_of_every_method_in_table_order() -> None:
    found = case_set(("cut", "ours"), 2)
    shown = panels(cases.translations(found))
    expected = [image for c in found.cases for image in (c.image, c.results["cut"].image, c.results["ours"].image, c.counterpart)]
    assert len(shown) == 8
    for axis, image in zip(shown, expected, strict=True):
        assert np.array_equal(axis.images[0].get_array(), image) and axis.images[0].get_clim() == (0, 255)
    heads = sorted((t.get_position()[0], t.get_text()) for t in visible(cases.translations(found)) if t.get_ha() == "center")
    assert [head for _, head in heads] == ["input", "cut", "ours", "true clear\nimage"]


def test_a_true_image_that_is_unknown_is_not_invented() -> None:
    mixed = case_set(("ours",), cases=0, title="t")
    mixed = replace(mixed, cases=(case(0, ("ours",)), case(1, ("ours",), counterpart=None)))
    assert texts(cases.translations(mixed)).count("unknown") == 1
    none = replace(mixed, cases=(case(1, ("ours",), counterpart=None),))
    assert "true clear image" not in texts(cases.translations(none)) and len(panels(cases.translations(none))) == 2


def test_iou_counts_decided_pixels_only() -> None:
    reference, predicted = box(4, 16), box(8, 20)
    assert cases.iou(predicted, reference, None) == 0.5, "8 columns of 16"
    undecided = np.zeros_like(reference)
    undecided[:, 16:] = True
    assert cases.iou(predicted, reference, undecided) == pytest.approx(8 / 12)
    undecided[:, 14:] = True
    assert cases.iou(predicted, reference, undecided) == pytest.approx(6 / 10), "what both say of it does not count either"
    assert cases.iou(box(0, 0), box(0, 0), None) is None
    with pytest.raises(DataError, match="score the segmentation again"):
        cases.iou(box(0, 4, 16), reference, None)


def test_figure_4_says_what_outlines_cannot_show_and_draws_them_at_borders() -> None:
    nothing, half = np.zeros((32, 32), np.bool_), np.zeros((32, 32), np.bool_)
    half[:, :16] = True
    inside = np.zeros((32, 32), np.bool_)
    inside[8:24] = True
    one = case(0, ("a", "b", "c"), lungs=half & inside, lungs_before={"unet": nothing}, inside=inside)
    seen = {"a": half & inside, "b": inside, "c": nothing}
    one = replace(one, results={name: replace(one.results[name], lungs={"unet": mask}) for name, mask in seen.items()})
    figure = cases.segmentation(replace(case_set(("a", "b", "c"), 1), cases=(one,)))
    said = [axis.texts[0].get_text() for axis in panels(figure)]
    assert said == ["no lungs found\nIoU 0.0 %", "IoU 100.0 %", "whole image\nIoU 50.0 %", "no lungs found\nIoU 0.0 %"]
    drawn = [[path for line in axis.collections for path in line.get_paths()] for axis in panels(figure)]
    assert [len(paths) for paths in drawn] == [1, 2, 2, 1], "the reference, and lungs where there are any"
    corners = drawn[2][0].vertices
    assert np.allclose([corners.min(0), corners.max(0)], [[-0.5, 7.5], [31.5, 23.5]], atol=0.01), "pixel edges, the border's too"
    assert panels(figure)[2].get_xlim() == (-0.5, 31.5) and panels(figure)[2].get_ylim() == (31.5, -0.5)


def test_figure_4_writes_the_iou_of_what_it_shows_into_each_panel() -> None:
    figure = cases.segmentation(case_set(("ours",), 1), "unet")
    assert [axis.texts[0].get_text() for axis in panels(figure)] == ["IoU 50.0 %", "IoU 66.7 %"]
    assert any(t.startswith("Lungs segmented by U-Net") for t in texts(figure))
    assert not any("decided" in t for t in texts(figure))
    undecided = box(16, 32)
    undecided[:, 16:] = True
    unsure = replace(case_set(("ours",)), cases=(case(0, ("ours",), undecided=undecided),))
    figure = cases.segmentation(unsure, "unet")
    assert [axis.texts[0].get_text() for axis in panels(figure)] == ["IoU 66.7 %", "IoU 66.7 %"]
    assert any("decided" in t.replace("\n", " ") for t in texts(figure)), "the title says what was left out"


def test_figure_4_says_what_is_not_stored() -> None:
    blind = case(0, ("ours", "cut"))
    results = {**blind.results, "cut": replace(blind.results["cut"], lungs={})}
    found = replace(case_set(("ours", "cut"), 1), cases=(replace(blind, results=results), case(1, ("ours", "cut"), lungs=None)))
    said = [axis.texts[0].get_text() for axis in panels(cases.segmentation(found))]
    assert said == ["IoU 50.0 %", "IoU 66.7 %", "not stored", "no reference", "no reference", "no reference"]
    assert figures.lacking([replace(found, cases=found.cases[:1])]) == ["figure 4 of rsna: no lungs by U-Net are stored of cut."]


def test_the_segmenter_is_chosen_by_a_rule() -> None:
    lungs = {"vgg": box(0, 4), "PSPNet": box(0, 4), "unet": box(0, 4)}
    found = replace(case_set(("ours",), 1), cases=(case(0, ("ours",), lungs_before=lungs),))
    assert cases.segmenter_of(found) == "unet"
    assert cases.segmenter_of(found, "pspnet") == "PSPNet" and cases.segmenter_of(found, "cenet") == ""
    bare = case(0, ("ours",), lungs_before={"vgg": box(0, 4), "cenet": box(0, 4)})
    bare = replace(bare, results={"ours": replace(bare.results["ours"], lungs={})})
    assert cases.segmenter_of(replace(found, cases=(bare,))) == "cenet", "the first by name"


def test_figure_5_shows_mask_and_difference_on_fixed_scales() -> None:
    dark, bright = np.full((32, 32), 100, np.uint8), np.full((32, 32), 151, np.uint8)
    bright[16:] = 49
    one = Case("x", dark, {"ours": Result(bright, picture(1))}, opacity=picture(2))
    figure = cases.removal(replace(case_set(("ours",), 1), cases=(one,)), "ours")
    first, mask, output, change, opacity = (axis.images[0] for axis in panels(figure)[:5])
    assert np.array_equal(first.get_array(), dark) and np.array_equal(output.get_array(), bright)
    assert np.array_equal(mask.get_array(), picture(1)) and mask.get_clim() == (0, 255)
    assert np.array_equal(opacity.get_array(), picture(2)) and opacity.get_cmap().name == mask.get_cmap().name == "magma"
    expected = np.where(np.arange(32)[:, None] < 16, 51 / 255, -51 / 255) * np.ones(32)
    assert np.allclose(change.get_array(), expected), "brighter is positive, and bytes do not wrap around"
    assert change.get_clim() == (-0.3, 0.3) and change.get_cmap().name == "RdBu_r"
    figure.canvas.draw()
    assert {"\u22120.3", "+0.3", "0.5", "1", "share of the grey range"} <= set(texts(figure))


def test_the_method_of_figure_5(tmp_path: Path) -> None:
    found = case_set(("cut", "ours (a)", "ours (b)"), 1)
    stems = {p.stem for p in figures.write([], [found], tmp_path, pdf=False)}
    assert stems == {"figure3-rsna", "figure4-rsna", "figure5-rsna"}
    every = {p.stem for p in figures.write([], [found], tmp_path, pdf=False, method=figures.EVERY)}
    assert every - stems == {"figure5-rsna-ours-a", "figure5-rsna-ours-b"}
    with pytest.raises(UsageError, match=r"'cut'.*there are: ours \(a\), ours \(b\)"):
        figures.write([], [found], tmp_path, method="cut")
    with pytest.raises(UsageError, match=r"'pspnet'.*there are: unet"):
        figures.pngs([], [found], segmenter="pspnet")
    without = case_set(("cut",), 1)
    assert figures.lacking([without]) == ["figure 5 of rsna: not drawn, no method has activation masks."]


def test_no_lungs_no_figure_4_but_a_reason(tmp_path: Path) -> None:
    bare = case(0, ("ours",), lungs_before={})
    bare = replace(bare, results={"ours": replace(bare.results["ours"], lungs={})})
    found = replace(case_set(("ours",), 1), cases=(bare,))
    assert {p.name for p in figures.write([], [found], tmp_path)} == {f"figure{k}-rsna.{e}" for k in (3, 5) for e in ("png", "pdf")}
    (line,) = figures.lacking([found])
    assert line.startswith("figure 4 of rsna: not drawn, no lungs are stored") and "--force score" in line
    assert figures.lacking([replace(found, cases=())]) == ["figures 3 to 5 of rsna: not drawn, there are no cases."]
    assert figures.lacking([case_set()]) == []


def test_more_cases_than_a_page_holds_are_left_out_evenly() -> None:
    kinds = ["best"] * 5 + ["median"] * 2 + ["worst"] * 5
    some = [case(k, ("ours",), why=why) for k, why in enumerate(kinds)]
    assert [c.image_id for c in cases.shown(some, 6)] == [f"image-{k}" for k in (0, 1, 5, 6, 7, 8)]
    assert [c.image_id for c in cases.shown(some, 4)] == [f"image-{k}" for k in (0, 1, 5, 7)]
    assert cases.shown(some, 12) == some
    figure = cases.translations(replace(case_set(("ours",)), cases=tuple(some)))
    rows = len(panels(figure)) // 3
    assert rows < 12 and f"{rows} cases of 12" in " ".join(texts(figure)).replace("\n", " ")
    assert figure.get_size_inches()[1] <= 9


def test_captions_say_what_a_figure_rests_on() -> None:
    assert cases.caption(case_set(), 3) == (
        "rsna, trained on rsna, quick preset, 32 px; seed 7; 3 cases: the first 3 opacity images; data 01234567."
    )
    bare = cases.caption(case_set(title="RSNA", context={**CONTEXT, "seeds": "ours 0, cut 1"}), 2)
    assert bare == (
        "RSNA; trained on rsna; preset quick; size 32; seeds: ours 0, cut 1; 2 cases of 3: the first 3 opacity images; data 01234567."
    )
