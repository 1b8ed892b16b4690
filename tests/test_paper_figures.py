"""The paper's Figures 3 to 6: what stands in which panel, how it reads on paper, what is never drawn, and equal bytes."""

import csv
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from conftest import ROOT
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_leaderboard import metric, record, score

from bench.errors import DataError, UsageError
from bench.records import LOCAL, Local
from evaluators.statistics import paired_test
from leaderboards import figure_cases, figure_counts, figure_page, figures
from leaderboards.cases import Case, CaseSet, Grey, Result
from leaderboards.tables import tables

NAMES = ("ours", "cyclegan", "unit", "munit", "drit", "uvcgan", "cut", "acl_gan")
LONG = (*NAMES, "ours (lca=false, ema=0.999)", "mmagic:configs/cyclegan_resnet.py", "autoencoding_of_images", "drit v2")
CONTEXT = {
    "dataset": "rsna", "dataset_fingerprint": "0123456789abcdef", "train_dataset": "rsna", "preset": "quick", "image_size": "32",
}  # fmt: skip


def picture(number: int, side: int = 32) -> Grey:
    """A gradient that no other number has."""
    rows, columns = np.mgrid[:side, :side]
    found: Grey = ((rows * (number % 5 + 1) + columns * (number % 7 + 1) + 11 * number) % 256).astype(np.uint8)
    return found


def box(left: int, right: int, side: int = 32) -> Any:
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[side // 4 : side // 2, left:right] = True
    return mask


def case(number: int, methods: Sequence[str] = NAMES, side: int = 32, **changes: Any) -> Case:
    masks = {name: picture(k + number, side) for k, name in enumerate(methods) if name.startswith("ours")}
    results = {
        name: Result(picture(100 * number + k + 1, side), masks.get(name), {"unet": box(4, 12, side)})
        for k, name in enumerate(methods)
    }
    known = {"opacity": picture(3, side), "counterpart": picture(100 * number + 90, side), "lungs": box(4, 16, side)}
    fields = {**known, "lungs_before": {"unet": box(8, 20, side)}, **changes}
    return Case(f"image-{number}", picture(100 * number, side), results, **fields)


def case_set(methods: Sequence[str] = NAMES, cases: int = 3, side: int = 32, **changes: Any) -> CaseSet:
    some = tuple(case(k, methods, side) for k in range(cases))
    title, rule = "rsna, trained on rsna, quick preset, 32 px", "The first 3 opacity images"
    return replace(CaseSet("rsna", title, rule, False, tuple(methods), some, 7, CONTEXT), **changes)


# -- lesion counts -----------------------------------------------------------------------------------------------------------

#: Image -> patient, before, after. By patient 3 1 2 0 before and 1 1 0 1 after.
IMAGES = {"a1": ("a", 2, 0), "a2": ("a", 4, 2), "b": ("b", 1, 1), "c": ("c", 2, 0), "d": ("d", 0, 1)}
#: Ranks of the changes -2 0 -2 1 with the zero's: 3.5, 1, 3.5, 2. Of the 8 signs 4 give a sum of at least 5.
EFFECT, P = -5 / 9, 4 / 8
METRICS = [metric("count_change", "Change", "lower", 2, primary=True), metric("count_after", "After", "lower", 2)]
Change = dict[str, Any]


def detection(root: Path, method: str, doubt: str = "", p: float = P, rows: Any = None, **changes: Any) -> dict[str, Any]:
    """A record with the file of its values by image."""
    folder = f"{method}/rsna/seed{changes.get('seed', 0)}-1a2b3c4d"
    path = root / folder / "records" / "rsna--detection-1.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(["image_id", "patient_id", "count_before", "count_after"])
        lines.writerow(["clear", "e", "", ""])  # a clear image has no counts of opacity images
        lines.writerows([image, *values] for image, values in (rows or IMAGES).items())
    scores = {
        "count_change": score(-0.75, n=5, doubt=doubt), "count_before": score(1.5, n=5), "count_p": score(p, n=4, doubt=doubt),
        "count_after": score(0.75, n=5, doubt=doubt, note="YOLOv5u trained on 286 images"), "opacity_zeros": score(1.0, n=4),
        "opacity_effect": score(EFFECT, n=4, ci=[-1.0, 0.5]), "map50": score(0.61, n=9), "psnr_blur_after": score(1.25, n=5),
    }  # fmt: skip
    made = record(method, "detection", metrics=METRICS, scores=scores, per_image=path.name, image_size=32, direction="a2b")
    return {**made, LOCAL: Local(folder, {}, {}, str(root)), **changes}


def drawn(records: Sequence[dict[str, Any]]) -> Figure:
    (table,) = tables(records)
    return figure_counts.counts(table)


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in visible(figure)]


def visible(figure: Figure) -> list[Text]:
    return [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text().strip()]


def panels(figure: Figure) -> list[Any]:
    """Axes with an image, row by row."""
    return [axis for axis in figure.axes if axis.images]


def test_detections_are_shown_patient_by_patient(tmp_path: Path) -> None:
    found = figure_counts.counted(tables([detection(tmp_path, "ours"), detection(tmp_path, "original")])[0])
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
    assert np.abs(before.get_offsets()[:, 1] + 0.22).max() <= figure_counts.JITTER, "points are moved up and down, not sideways"
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "D"]
    assert means == [1.5, 0.75]
    assert [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "v"] == [1.25], "the control's mean"
    boxes = [(p.get_x(), p.get_x() + p.get_width()) for p in axis.patches]
    assert boxes == [(0.75, 2.25), (0.75, 1.0)], "quartiles of 0 1 2 3 and of 0 1 1 1"


def test_doubtful_counts_are_grey_with_the_reason_and_no_part_of_the_family(tmp_path: Path) -> None:
    sure = [detection(tmp_path, name, p=p) for name, p in (("ours", 0.01), ("cut", 0.02))]
    records = [*sure, detection(tmp_path, "unit", "it is blind", p=0.03)]
    found = figure_counts.counted(tables(records)[0])
    assert figure_counts.adjusted(found) == {"ours": 0.02, "cut": 0.02}, "two tests, not three"
    figure = drawn(records)
    colours = {t.get_text(): to_hex(t.get_color()) for t in visible(figure)}
    grey = to_hex(figure_counts.DOUBTFUL)
    assert colours["unit †"] == grey and colours["0.0300\nexact"] == grey and colours["0.0100\nexact"] == to_hex("black")
    assert any(t == "† not to be relied upon (unit): it is blind." for t in texts(figure))
    row = [one.label for one in found].index("unit")
    for points in figure.axes[0].collections[2 * row : 2 * row + 2]:
        assert to_hex(points.get_facecolor()[0]) == grey


def test_values_of_another_record_are_not_drawn(tmp_path: Path) -> None:
    other = {**IMAGES, "d": ("d", 0, 3)}
    split = {**IMAGES, "a2": ("z", 4, 2)}
    records = [
        detection(tmp_path, "ours"), detection(tmp_path, "cut", rows=other), detection(tmp_path, "unit", per_image="gone.csv"),
        detection(tmp_path, "drit", status="failed", error="out of memory", scores={}), detection(tmp_path, "munit", rows=split),
    ]  # fmt: skip
    found = {one.label: one.why for one in figure_counts.counted(tables(records)[0])}
    assert found["ours"] == "" and "not those of the record" in found["cut"] and "not those of the record" in found["munit"]
    assert "gone.csv" in found["unit"] and "out of memory" in found["drit"]
    said = " ".join(texts(drawn(records))).replace("\n", " ")
    assert "no counts (drit)" in said and "gone.csv" in said and "--force score" in said
    lines = figures.lacking([], records)
    assert len(lines) == 3 and all(line.startswith("figure 6 of rsna: no counts") for line in lines)


def test_a_test_set_without_counts_has_no_figure_but_a_reason(tmp_path: Path) -> None:
    none = {"count_after": score(None, n=0, note="no opacity images in this test set")}
    records = [detection(tmp_path, "ours", scores=none)]
    assert figures.write(records, [], tmp_path / "out") == []
    assert figures.lacking([], records) == [
        "figure 6 of rsna: not drawn, no counts (ours): no opacity images in this test set."
    ]


def test_of_several_seeds_the_lowest_is_shown_and_said(tmp_path: Path) -> None:
    later = {**IMAGES, "d": ("d", 0, 3)}
    figure = drawn([detection(tmp_path, "ours", seed=10, rows=later), detection(tmp_path, "ours", seed=9)])
    assert "seed 9 (the lowest of several)" in " ".join(texts(figure)).replace("\n", " ")
    assert figure.axes[0].collections[1].get_offsets()[:, 0].tolist() == [1, 1, 0, 1]


# -- figures of cases --------------------------------------------------------------------------------------------------------


def test_figure_3_shows_the_same_cases_of_every_method_in_table_order() -> None:
    found = case_set(("cut", "ours"), 2)
    shown = panels(figure_cases.translations(found))
    expected = [image for c in found.cases for image in (c.image, c.results["cut"].image, c.results["ours"].image, c.counterpart)]
    assert len(shown) == 8
    for axis, image in zip(shown, expected, strict=True):
        assert np.array_equal(axis.images[0].get_array(), image) and axis.images[0].get_clim() == (0, 255)
    heads = sorted((t.get_position()[0], t.get_text()) for t in visible(figure_cases.translations(found)) if t.get_ha() == "center")
    assert [head for _, head in heads] == ["input", "cut", "ours", "true clear\nimage"]


def test_a_true_image_that_is_unknown_is_not_invented() -> None:
    mixed = case_set(("ours",), cases=0, title="t")
    mixed = replace(mixed, cases=(case(0, ("ours",)), case(1, ("ours",), counterpart=None)))
    assert texts(figure_cases.translations(mixed)).count("unknown") == 1
    none = replace(mixed, cases=(case(1, ("ours",), counterpart=None),))
    assert "true clear image" not in texts(figure_cases.translations(none)) and len(panels(figure_cases.translations(none))) == 2


def test_iou_counts_decided_pixels_only() -> None:
    reference, predicted = box(4, 16), box(8, 20)
    assert figure_cases.iou(predicted, reference, None) == 0.5, "8 columns of 16"
    undecided = np.zeros_like(reference)
    undecided[:, 16:] = True
    assert figure_cases.iou(predicted, reference, undecided) == pytest.approx(8 / 12)
    undecided[:, 14:] = True
    assert figure_cases.iou(predicted, reference, undecided) == pytest.approx(6 / 10), "what both say of it does not count either"
    assert figure_cases.iou(box(0, 0), box(0, 0), None) is None
    with pytest.raises(DataError, match="score the segmentation again"):
        figure_cases.iou(box(0, 4, 16), reference, None)


def test_figure_4_writes_the_iou_of_what_it_shows_into_each_panel() -> None:
    figure = figure_cases.segmentation(case_set(("ours",), 1), "unet")
    assert [axis.texts[0].get_text() for axis in panels(figure)] == ["IoU 50.0 %", "IoU 66.7 %"]
    assert any(t.startswith("Lungs segmented by U-Net") for t in texts(figure))
    assert not any("decided" in t for t in texts(figure))
    undecided = box(16, 32)
    undecided[:, 16:] = True
    unsure = replace(case_set(("ours",)), cases=(case(0, ("ours",), undecided=undecided),))
    figure = figure_cases.segmentation(unsure, "unet")
    assert [axis.texts[0].get_text() for axis in panels(figure)] == ["IoU 66.7 %", "IoU 66.7 %"]
    assert any("decided" in t.replace("\n", " ") for t in texts(figure)), "the title says what was left out"


def test_figure_4_says_what_is_not_stored() -> None:
    blind = case(0, ("ours", "cut"))
    results = {**blind.results, "cut": replace(blind.results["cut"], lungs={})}
    found = replace(case_set(("ours", "cut"), 1), cases=(replace(blind, results=results), case(1, ("ours", "cut"), lungs=None)))
    said = [axis.texts[0].get_text() for axis in panels(figure_cases.segmentation(found))]
    assert said == ["IoU 50.0 %", "IoU 66.7 %", "not stored", "no reference", "no reference", "no reference"]
    assert figures.lacking([replace(found, cases=found.cases[:1])]) == ["figure 4 of rsna: no lungs by U-Net are stored of cut."]


def test_the_segmenter_is_chosen_by_a_rule() -> None:
    lungs = {"vgg": box(0, 4), "PSPNet": box(0, 4), "unet": box(0, 4)}
    found = replace(case_set(("ours",), 1), cases=(case(0, ("ours",), lungs_before=lungs),))
    assert figure_cases.segmenter_of(found) == "unet"
    assert figure_cases.segmenter_of(found, "pspnet") == "PSPNet" and figure_cases.segmenter_of(found, "cenet") == ""
    bare = case(0, ("ours",), lungs_before={"vgg": box(0, 4), "cenet": box(0, 4)})
    bare = replace(bare, results={"ours": replace(bare.results["ours"], lungs={})})
    assert figure_cases.segmenter_of(replace(found, cases=(bare,))) == "cenet", "the first by name"


def test_figure_5_shows_mask_and_difference_on_fixed_scales() -> None:
    dark, bright = np.full((32, 32), 100, np.uint8), np.full((32, 32), 151, np.uint8)
    bright[16:] = 49
    one = Case("x", dark, {"ours": Result(bright, picture(1))}, opacity=picture(2))
    figure = figure_cases.removal(replace(case_set(("ours",), 1), cases=(one,)), "ours")
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
    cases = [case(k, ("ours",), why=why) for k, why in enumerate(kinds)]
    assert [c.image_id for c in figure_cases.shown(cases, 6)] == [f"image-{k}" for k in (0, 1, 5, 6, 7, 8)]
    assert [c.image_id for c in figure_cases.shown(cases, 4)] == [f"image-{k}" for k in (0, 1, 5, 7)]
    assert figure_cases.shown(cases, 12) == cases
    figure = figure_cases.translations(replace(case_set(("ours",)), cases=tuple(cases)))
    rows = len(panels(figure)) // 3
    assert rows < 12 and f"{rows} cases of 12" in " ".join(texts(figure)).replace("\n", " ")
    assert figure.get_size_inches()[1] <= 9


def test_captions_say_what_a_figure_rests_on() -> None:
    assert figure_cases.caption(case_set(), 3) == (
        "rsna, trained on rsna, quick preset, 32 px; seed 7; 3 cases: the first 3 opacity images; data 01234567."
    )
    bare = figure_cases.caption(case_set(title="RSNA", context={**CONTEXT, "seeds": "ours 0, cut 1"}), 2)
    assert bare == (
        "RSNA; trained on rsna; preset quick; size 32; seeds: ours 0, cut 1; 2 cases of 3: the first 3 opacity images; data 01234567."
    )


# -- restricted datasets -----------------------------------------------------------------------------------------------------


def test_images_of_restricted_datasets_stay(tmp_path: Path) -> None:
    secret, records = case_set(("ours",), 1, restricted=True), [detection(tmp_path / "runs", "ours")]
    written = figures.write(records, [secret], tmp_path / "out")
    assert [p.name for p in written] == ["figure6-rsna.png", "figure6-rsna.pdf"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)
    assert [name.split(".")[0] for name in figures.pngs(records, [secret])] == ["Figure 6"]
    (line,) = figures.lacking([secret])
    assert line.startswith("figures 3 to 5 of rsna: not drawn, images of a restricted dataset")
    asked = figures.write(records, [secret], tmp_path / "out", pdf=False, restricted=True)
    assert [p.name for p in asked] == [f"figure{k}-rsna.png" for k in (3, 4, 5, 6)]
    assert figures.lacking([secret], restricted=True) == []
    for figure in (figure_cases.translations(secret), figure_cases.segmentation(secret), figure_cases.removal(secret, "ours")):
        assert "must not be passed on" in " ".join(texts(figure)).replace("\n", " ")
    assert "passed on" not in figure_cases.caption(case_set(), 3)


# -- on paper ----------------------------------------------------------------------------------------------------------------


def many(tmp_path: Path, methods: Sequence[str]) -> Figure:
    return drawn([detection(tmp_path, name.replace("/", ":"), "blind" if name == "unit" else "") for name in methods])


FIGURES: dict[str, Callable[[Path, Sequence[str], int], Figure]] = {
    "3": lambda _, methods, side: figure_cases.translations(case_set(methods, 2, side)),
    "4": lambda _, methods, side: figure_cases.segmentation(case_set(methods, 2, side)),
    "5": lambda _, methods, side: figure_cases.removal(case_set(methods, 2, side), "ours"),
    "6": lambda tmp_path, methods, side: many(tmp_path, methods),
}


@pytest.mark.parametrize("methods", [("ours",), NAMES, LONG], ids=["one", "eight", "twelve with long names"])
@pytest.mark.parametrize("kind", FIGURES)
def test_lettering_is_readable_in_print_and_nothing_overlaps(kind: str, methods: Sequence[str], tmp_path: Path) -> None:
    figure = FIGURES[kind](tmp_path, methods, 32)
    width, tall = figure.get_size_inches()
    assert width <= 7.2 and tall <= 9.5
    figure.canvas.draw()
    shown = visible(figure)
    assert shown and min(t.get_fontsize() for t in shown) >= 6
    extents = [(t.get_text(), t.get_window_extent()) for t in shown]
    for words, area in extents:
        inside = min(area.x0, area.y0) >= -0.5 and area.x1 <= 100 * width + 0.5 and area.y1 <= 100 * tall + 0.5
        assert inside, f"'{words}' is cut off"
    for (one, here), (other, there) in combinations(extents, 2):
        across = min(here.x1, there.x1) - max(here.x0, there.x0)
        down = min(here.y1, there.y1) - max(here.y0, there.y0)
        assert across <= 1 or down <= 1, f"'{one}' lies on '{other}'"


def test_many_methods_go_into_bands_with_the_input_in_each() -> None:
    found = case_set(LONG, 2)
    figure = figure_cases.translations(found)
    assert texts(figure).count("input") == texts(figure).count("true clear image") == 2
    assert len(panels(figure)) == 2 * (len(LONG) + 4), "every method once a case, input and truth in both bands"
    assert min(axis.get_position().width for axis in panels(figure)) * figure.get_size_inches()[0] >= 0.6


def test_names_that_are_too_long_keep_their_ends() -> None:
    with figure_page.style():
        assert figure_page.shortened("short", 1.0, 6) == "short"
        brief = figure_page.shortened("0004cfab-14fd-4e49-80ba-63a80b6bddd6", 0.6, 6)
        assert brief.startswith("…") and brief.endswith("bddd6") and figure_page.breadth(brief, 6) <= 0.6
        lines = figure_page.wrapped("mmagic:configs/cyclegan_resnet.py of something", 0.8, 6.5)
        assert "".join(lines).replace(" ", "") == "mmagic:configs/cyclegan_resnet.pyofsomething" and lines[0].endswith("/")
        assert all(figure_page.breadth(line, 6.5) <= 0.8 for line in lines)


def test_every_set_has_a_file_of_its_own() -> None:
    paper, other = {**CONTEXT, "preset": "paper"}, {**CONTEXT, "reference": "r"}
    found = figure_page.slugs([("rsna", CONTEXT), ("jsrt", CONTEXT), ("rsna", paper), ("../x y", {}), ("rsna", other)])
    assert found[1] == "jsrt" and found[2] == "rsna-rsna-paper-32" and found[3] == "x-y"
    assert len(set(found)) == 5 and found[0].startswith("rsna-rsna-quick-32-") and found[4].startswith("rsna-rsna-quick-32-")
    assert len(set(figure_page.slugs([("a", {})] * 3))) == 3


# -- files -------------------------------------------------------------------------------------------------------------------

_SETTINGS = "{'font.size': 19, 'pdf.fonttype': 3, 'axes.facecolor': 'red', 'savefig.bbox': 'tight'}"
_ELSEWHERE = f"import matplotlib, sys; matplotlib.rcParams.update({_SETTINGS}); sys.path.insert(0, sys.argv[1]); "
_ELSEWHERE += "import test_paper_figures; from pathlib import Path; test_paper_figures.make(Path(sys.argv[2]))"


def make(out: Path) -> dict[str, str]:
    """All figures of one method, and a hash of each."""
    written = figures.write([detection(out / "runs", "ours")], [case_set(("ours",), 1)], out / "figures")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in written}


def test_the_same_input_gives_the_same_bytes_whatever_the_process_and_its_settings(tmp_path: Path) -> None:
    first, other = make(tmp_path / "one"), tmp_path / "elsewhere"
    command = [sys.executable, "-c", _ELSEWHERE, str(ROOT / "tests"), str(other)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    second = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (other / "figures").iterdir()}
    assert first == second and set(first) == {f"figure{k}-rsna.{form}" for k in (3, 4, 5, 6) for form in ("png", "pdf")}
    for path in (tmp_path / "one" / "figures").iterdir():
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content and b"CreationDate" not in content and b"atplotlib" not in content
        if path.suffix == ".pdf":
            kinds = set(re.findall(rb"/Subtype /(Type3|TrueType|CIDFontType2|Type1)\b", content))
            assert b"/FontFile2" in content and kinds <= {b"TrueType", b"CIDFontType2"} and kinds


def test_a_pdf_keeps_every_pixel_of_its_images(tmp_path: Path) -> None:
    content = figure_page.pdf(figure_cases.translations(case_set(("ours",), 2, side=256)))
    sizes = re.findall(rb"/Height (\d+).{0,80}?/Width (\d+)|/Width (\d+).{0,80}?/Height (\d+)", content, re.DOTALL)
    assert sum({int(n) for n in found if n} == {256} for found in sizes) >= 6


def test_pictures_for_a_screen(tmp_path: Path) -> None:
    found = figures.pngs([detection(tmp_path, "ours")], [case_set(cases=1), case_set(("ours",), 1, title="rsna, trained on jsrt")])
    assert [re.match(r"Figure \d", name)[0] for name in found] == [f"Figure {k}" for k in (3, 4, 5, 3, 4, 5, 6)]  # type: ignore[index]
    assert all(content.startswith(b"\x89PNG") and len(content) < 400_000 for content in found.values())


def test_matplotlibs_settings_are_left_as_they_were(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    figures.write([], [case_set(("ours",), 1)], tmp_path)
    assert dict(mpl.rcParams) == before and not list(tmp_path.glob(".*"))


def test_figures_load_without_torch_or_matplotlib() -> None:
    code = "import sys, leaderboards.figures\nprint([m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
