"""The leaderboard's parts, shared values, doubts, models and figures; where lines stand, and how short they are."""

import re
from typing import Any

from leaderboard_tools import METRICS, block, metric, record, score

from bench.records import LOCAL, Local
from leaderboards import formats, general, paper
from leaderboards.render import leaderboard, short
from leaderboards.subjects import subject
from leaderboards.tables import Column, tables

SEGMENTATION = [
    metric("miou", "mIoU", primary=True), metric("dice", "Dice"), metric("ring", "Ring"),
    *(metric(f"{key}_{arch.lower()}", label, part=arch) for arch in ("U-Net", "PSPNet") for key, label in
      (("miou", "mIoU"), ("dice", "Dice"), ("ring", "Ring"))),
    metric("clear_unet", "mIoU", "none", part="U-Net, clear images", shared=True),
]  # fmt: skip
DETECTION = [
    metric("count", "Count", "lower", 2, primary=True), metric("map50", "mAP50", shared=True), metric("dice", "Overlap"),
]  # fmt: skip
BLIND = "mAP50 of the detector is 0.02,\nbelow 0.10"


def segmentation(method: str, miou: float, unet: float | None, pspnet: float, **changes: Any) -> dict[str, Any]:
    none = score(None, n=0, note="no ring")
    scores = {
        "miou": score(miou, ci=[miou - 0.1, miou + 0.1]), "dice": score(0.9), "ring": none,
        "miou_u-net": score(unet) if unet is not None else score(None, n=0, note="empty"), "dice_u-net": score(0.5, n=49),
        "miou_pspnet": score(pspnet), "dice_pspnet": score(0.25), "ring_u-net": none, "ring_pspnet": none,
        "clear_unet": score(0.95, ci=[0.9, 0.99]),
    }  # fmt: skip
    return record(method, "segmentation", **{"metrics": SEGMENTATION, "scores": scores, **changes})


def detection(method: str, count: float, doubt: str = "", map50: float = 0.02, **changes: Any) -> dict[str, Any]:
    scores = {"count": score(count, doubt=doubt), "map50": score(map50, n=40), "dice": score(0.5)}
    return record(method, "detection", **{"metrics": DETECTION, "scores": scores, **changes})


PARTS = [
    segmentation("original", 0.6, 0.6, 0.7), segmentation("a", 0.8, 0.7, 0.6), segmentation("b", 0.7, None, 0.65),
]  # fmt: skip


def test_parts_are_rows_of_a_table_of_their_own() -> None:
    text = leaderboard(PARTS)
    assert re.search(r"^\| Method +\| +mIoU ↑ \| +n \|", text, re.MULTILINE), "the main table has no parts, and no dice"
    assert block(text, "Segmentation")[0] == ["Method", "mIoU ↑", "Dice ↑", "n", "Seeds"]
    assert block(text, "Segmentation by part") == [
        ["Part", "Method", "mIoU ↑", "Dice ↑", "n"],
        ["U-Net", "original", "<ins>0.600</ins>", "**0.500**", "49\u201350"],
        ["U-Net", "a", "**0.700**", "**0.500**", "49\u201350"],
        ["U-Net", "b", "\u2013", "**0.500**", "49"],
        ["PSPNet", "original", "**0.700**", "**0.250**", "50"],
        ["PSPNet", "a", "0.600", "**0.250**", "50"],
        ["PSPNet", "b", "<ins>0.650</ins>", "**0.250**", "50"],
        ["U-Net, clear images", "real images", "0.950 [0.900, 0.990]", "\u2013", "50"],
    ]
    assert "- mIoU of U-Net: empty (b)." in text
    own, parts = text.split("### Segmentation by part")
    assert own.count("- No row has a value of: Ring (no ring).") == parts.count("- No row has a value of: Ring (no ring).") == 1
    assert "Ring ↑" not in text


def test_a_part_of_a_failed_method_says_so() -> None:
    rows = [*PARTS, segmentation("c", 0.1, 0.1, 0.1, status="failed", scores={}, error="boom")]
    assert ["PSPNet", "c", "failed", "failed", "\u2013"] in block(leaderboard(rows), "Segmentation by part")
    skipped = [*PARTS, segmentation("c", 0.1, 0.1, 0.1, status="skipped", scores={}, error="no mask")]
    assert all(row[1] != "c" for row in block(leaderboard(skipped), "Segmentation by part"))


def test_parts_are_averaged_over_seeds_like_the_main_table() -> None:
    rows = [PARTS[0], *(segmentation("a", 0.8, v, 0.6, seed=s) for s, v in enumerate((0.1, 0.2, 0.3)))]
    text = leaderboard(rows)
    value = "<ins>0.200</ins> ± 0.100 [-0.048, 0.448]"  # Student's over seeds, for there is none over patients
    assert ["U-Net", "a", value, "**0.500** ± 0.000", "49\u201350", "3"] in block(text, "Segmentation by part")
    assert text.count("- ± is the standard deviation over seeds.") == 3, "once below each table"


def test_shared_values_stand_once_and_disagreement_is_named() -> None:
    same = leaderboard([detection("original", 2.0), detection("a", 1.0), detection("a", 1.0, seed=1)])
    assert same.count("mAP50") == 1 and "- On real images, whatever the method: mAP50 0.020, n = 40." in same
    by_seed = leaderboard([detection("original", 2.0), detection("a", 1.0), detection("a", 1.0, seed=1, map50=0.04)])
    assert "mAP50 0.030 ± 0.014 [-0.097, 0.157], n = 40." in by_seed
    other = leaderboard([detection("original", 2.0), detection("a", 1.0, map50=0.5), detection("b", 1.0)])
    assert "mAP50 0.020 (original, b), n = 40; 0.500 (a), n = 40." in other
    parts = [PARTS[0], {**PARTS[1], "scores": {**PARTS[1]["scores"], "clear_unet": score(0.5)}}]
    rows = [row[1:3] for row in block(leaderboard(parts), "Segmentation by part") if row[0].endswith("clear images")]
    assert rows == [["real images (original)", "0.950 [0.900, 0.990]"], ["real images (a)", "0.500"]]


def test_doubtful_values_are_marked_never_best_and_never_ranked() -> None:
    rows = [detection("original", 3.0), detection("a", 2.0), detection("b", 0.0, doubt=BLIND), detection("c", 2.5)]
    text = leaderboard(rows)
    assert "0.00 † |" in text and "**2.00** |" in text
    assert "- †, not to be relied upon and not ranked: Count: mAP50 of the detector is 0.02, below 0.10 (b)." in text
    assert [row.label for row in tables(rows)[0].rows] == ["original", "a", "c", "b"]
    brief = short(rows)
    assert "(0.00)" in brief and "2.00 *" in brief and "span" not in brief and "below 0.10 (b)." in brief
    every = leaderboard([detection(m, v, doubt=BLIND) for m, v in (("original", 3.0), ("a", 1.0))])
    assert "**1.00" not in every and every.count("0 † |") == 4 and "below 0.10." in every  # in both tables
    seeds = leaderboard([detection("original", 3.0), detection("a", 1.0), detection("a", 2.0, doubt="blind", seed=1)])
    assert "1.50 ± 0.71 [-4.85, 7.85] †" in seeds, "one doubtful seed makes the mean doubtful"


def test_doubt_in_a_part() -> None:
    grey = {**PARTS[1], "scores": {**PARTS[1]["scores"], "miou_u-net": score(0.7, doubt="few")}}
    rows = block(leaderboard([PARTS[0], grey, segmentation("b", 0.7, 0.5, 0.1)]), "Segmentation by part")
    assert [row[2] for row in rows if row[0] == "U-Net"] == ["**0.600**", '0.700 †', "<ins>0.500</ins>"]


def test_metrics_of_two_evaluators_may_have_the_same_key() -> None:
    """Keys are unique within an evaluator only."""
    (table,) = tables([segmentation("a", 0.8, 0.7, 0.6), detection("a", 1.0)])
    assert table.rows[0].cells["segmentation", "dice"].value == 0.9 and table.rows[0].cells["detection", "dice"].value == 0.5


def test_digits_that_a_record_leaves_open() -> None:
    open_ended = [{**METRICS["faithfulness"][0], "digits": None, "unit": None, "part": None}]
    assert "| 20.000 |" in leaderboard([record("a", "faithfulness", metrics=open_ended, scores={"psnr": score(20.0)})]).replace(
        "  ", ""
    )


def test_a_remark_names_the_methods_metric_by_metric() -> None:
    """The same words about one method here and about all of them there."""
    both = [{**METRICS["counts"][0], "key": key, "label": key} for key in ("x", "y")]
    rows = [
        record(m, "counts", metrics=both, scores={"x": score(1.0, note="odd"), "y": score(1.0, note="odd" if m == "a" else "")})
        for m in ("a", "b")
    ]
    assert "- x: odd.\n- y: odd (a)." in leaderboard(rows)


def test_models_are_listed_by_evaluator() -> None:
    def model(name: str, weights: Any, **facts: Any) -> dict[str, Any]:
        return {"name": name, "key": "0" * 16, "weights_id": weights, "encoder": "from scratch", "cost": {"seconds": 1}, **facts}

    def with_models(method: str, *models: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return {**segmentation(method, 0.8, 0.7, 0.6, **changes), "models": list(models)}

    unet, pspnet = model("unet", "a" * 16, n=280), model("pspnet", "b" * 16, n=270)
    text = leaderboard([with_models("original", unet, pspnet), with_models("a", unet, pspnet)])
    assert "Models (encoder from scratch): pspnet (n = 270, `bbbbbbbb`), unet (n = 280, `aaaaaaaa`)." in text
    folds = model("unet", ["a" * 16, "c" * 16], learnt_from=[{"x": 3, "y": 4}, {"x": 3, "y": 5}])
    text = leaderboard([with_models("a", folds), with_models("b", {**folds, "weights_id": ["a" * 16, "d" * 16]})])
    hashes = re.findall(r"`(\w{8})` for (\w)", text)
    assert [who for _, who in hashes] == ["a", "b"] and len({h for h, _ in hashes}) == 2
    assert "Model: unet (n = 7\u20138, encoder from scratch, not the same for all rows: " in text
    seeds = [with_models(m, model("unet", "ab"[s] * 16), seed=s) for m in ("a", "b") for s in (0, 1)]
    told = "unet (encoder from scratch, `aaaaaaaa` `bbbbbbbb`)."
    assert told in leaderboard(seeds), "other weights for other seeds are no difference of methods"
    remembered = {"name": "quality", "key": "1" * 16, "images": 14}
    text = leaderboard([with_models("a", unet, remembered), with_models("b", unet, remembered)])
    assert "Model: unet (n = 280, encoder from scratch, `aaaaaaaa`)." in text, "what has no weights is no model"
    grid = [model(f"{arch}-{kind}", "a" * 16) for arch in ("vgg", "resnet") for kind in ("x", "y", "z", "mask")]
    own = [{**m, "weights_id": "b" * 16} if m["name"].endswith("-mask") else m for m in grid]
    text = leaderboard([with_models("a", *grid), with_models("b", *own)])
    assert (
        "8 models (resnet, vgg x mask, x, y, z; encoder from scratch), weights ids in the records; "
        "not the same for all rows: resnet, vgg x mask."
    ) in text


def test_the_floor_of_distances_stands_below_the_headline() -> None:
    """Of the rows of fixed n, which other tables leave out."""
    own = [metric("fd_cxr", "FD-cxr", "lower", 1, primary=True), metric("kd_cxr", "KD-cxr", "lower", 1, primary=True)]
    floors = [metric(f"{m['key']}_floor", m["label"], "lower", 1, part="floor", shared=True) for m in own]
    values = {"fd_cxr": score(40.0), "kd_cxr": score(2.0), "fd_cxr_floor": score(30.2, n=20), "kd_cxr_floor": score(1.1, n=20)}
    rows = [record(m, metrics=[*own, *floors], scores=values, params={"extractor": "cxr"}) for m in ("original", "a")]
    line = "Floor: real clear images against others: FD-cxr 30.2, KD-cxr 1.1 at n = 20 a side. Frechet distances are biased upwards"
    assert line in leaderboard(rows).split("###")[0]
    (sheet,) = paper.sheets([{**r, "train_dataset": "rsna" if r["method"] == "a" else ""} for r in rows], "1")
    assert any(told.startswith(line) for told in sheet.below)
    assert "Floor" not in leaderboard([record("a", metrics=own, scores=values)])


def test_the_classifier_says_what_it_learnt_from_and_of_how_many_findings_its_auroc_is() -> None:
    about = {"id": "p1", "trained_by": "harness", "findings": ["Edema", "Mass", "Nodule"], "val_auroc": 0.87, "n_val": 74}
    more = {"datasets": ["rsna", "nih14"], "n_train": 512, "findings_scored": 2}
    rows = [record(m, scores={"kid": score(0.1)}, params={"extractor": "cxr"}, prior={**about, **more}) for m in ("original", "a")]
    told = "Finding classifier `p1`: trained by harness on 512 images of rsna, nih14, findings Edema, Mass, Nodule; mean AUROC 0.87"
    assert f"{told} of 2 of 3 findings on 74 held-out images." in leaderboard(rows)
    older = [{**r, "prior": about} for r in rows]
    assert "trained by harness, findings Edema, Mass, Nodule; mean AUROC 0.87 on 74 held-out images." in leaderboard(older)


def test_small_p_values_are_no_zeros() -> None:
    own = [metric("count_p", "p (Wilcoxon)", "none", 4), metric("opacity_p_permutation", "p (permutation)", "none", 4, part="YOLO")]
    rows = [record(m, "detection", metrics=own, scores={"count_p": score(p), "opacity_p_permutation": score(p)})
            for m, p in (("original", 1.0), ("a", 3e-7))]  # fmt: skip
    text = leaderboard(rows, full=True)
    assert "0.0000" not in text and text.count("<0.0001") == 2 + ("count_p" in text)
    sheets = general.sheets(rows)
    assert "<0.0001" in formats.write(sheets, "md") and "0.0000" not in formats.write(sheets, "latex")
    assert [line.entries[0].cell.value for line in sheets[0].lines if line.label == "a" and line.entries[0].cell] == [3e-7]


def test_parts_of_many_methods_are_left_out_unless_asked_for() -> None:
    few = [segmentation(m, v, v, v) for m, v in (("original", 0.6), ("a", 0.7), ("b", 0.65), ("c", 0.5))]
    many = [*few, segmentation("d", 0.4, 0.4, 0.4)]
    assert "### Segmentation by part" in leaderboard(few) and leaderboard(few, full=True) == leaderboard(few)
    text, whole = leaderboard(many), leaderboard(many, full=True)
    assert "by part\n" not in text and "- By part, with `--full`: " in text
    names = text.split("By part, with `--full`: ")[1].split(".\n")[0].split("; ")
    assert names == list(dict.fromkeys(row[0] for row in block(whole, "Segmentation by part")[1:])) and len(names) > 1
    assert "`--full`" not in whole and whole.splitlines()[-1] == text.splitlines()[-1], "the same records"


def test_figures_are_shown_by_method_for_one_seed() -> None:
    rows = [
        {**segmentation("a", 0.8, 0.7, 0.6, seed=s), "figures": [f"scores/x{s}/box plot.png"]} for s in (0, 1)
    ]  # fmt: skip
    text = leaderboard([*rows, PARTS[0]])
    assert text.count("](scores/x") == 1, "of one seed, once"
    gallery = text.split("\n## Figures\n")[1]
    assert "<details><summary>1 picture</summary>\n\n**rsna test" in gallery
    assert "**<br>a ![a: Segmentation, box plot](scores/x0/box%20plot.png)\n\n</details>" in gallery, "the picture at the end"
    assert "Figures" not in leaderboard(PARTS) and "Figures" not in leaderboard(rows, pictures=False)


def test_short_breaks_a_wide_table_into_several() -> None:
    many = [metric(f"m{i}", f"Measure number {i}", primary=True) for i in range(9)]
    scores = {m["key"]: score(123.456, ci=[100.123, 150.123]) for m in many}
    rows = [record(m, "counts", metrics=many, scores=scores) for m in ("some-method", "original")]
    for width in (80, 100):
        lines = short(rows, width).splitlines()
        assert max(map(len, lines)) <= width
        assert sum(line.startswith("some-method") for line in lines) > 1
        assert all(sum(f" {i} ↑" in line for line in lines) == 1 for i in range(9)), "each metric once"


# -- where lines stand, and how short they are ------------------------------------------------------------------------------

NOTED = [
    metric("count", "Count", "lower", 2, primary=True), metric("after", "After"), metric("rate", "Rate"),
    *(metric(f"{key}/{part}", key, part=f"YOLO \u00b7 {part}")
      for part in ("opacity", "clear", "blur") for key in ("Before", "Change")),
]  # fmt: skip


def noted(method: str, **notes: str) -> dict[str, Any]:
    """A record with a value of every metric, and notes by key (``_`` for ``/``)."""
    scores = {m["key"]: score(1.0, note=notes.get(m["key"].replace("/", "_"), "")) for m in NOTED}
    return record(method, "detection", metrics=NOTED, scores=scores)


def bullets(text: str) -> dict[str, list[str]]:
    """The lines below each heading, the headline's under an empty one."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        lines = [line.removeprefix("- ") for line in rest.splitlines() if line.startswith("- ")]
        usual = ("Data fingerprint", "`original`, ", "Not compared", "Marks, by column", "Marked by", "Ties of ")
        found["" if name.startswith("rsna") else name] = [line for line in lines if not line.startswith(usual)]
    return found


def test_a_remark_stands_where_its_numbers_are_shown() -> None:
    about = {"count": "odd", "after": "odd", "Before_clear": "odd", "Change_clear": "odd"}
    found = bullets(leaderboard([noted("a", **about), noted("b", **about)]))
    assert found == {
        "Leaderboard": [], "": ["Count: odd."], "Detection": ["After: odd."], "Detection by part": ["clear: odd."],
    }  # fmt: skip


def test_what_holds_for_all_of_an_evaluator_is_said_once() -> None:
    about = {m["key"].replace("/", "_"): "NMS 0.45; 36 images" for m in NOTED}
    found = bullets(leaderboard([noted("a", **about), noted("b", **about)]))
    assert found[""] == found["Detection by part"] == [] and found["Detection"] == ["Throughout: 36 images; NMS 0.45."]
    doubtful = [noted("a"), noted("b")]
    for one in doubtful:
        one["scores"] = {key: {**old, "doubt": "blind"} for key, old in one["scores"].items()}
    found = bullets(leaderboard(doubtful))
    told = "\u2020, not to be relied upon and not ranked: Detection: blind."
    assert found[""] == [told] and found["Detection"] == found["Detection by part"] == []


def test_subjects_are_short() -> None:
    def parts(*keys: str) -> list[str]:
        about = dict.fromkeys(keys, "odd")
        return bullets(leaderboard([noted("a", **about), noted("b", **about)]))["Detection by part"]

    assert parts("Change_opacity", "Change_clear", "Change_blur") == ["Change: odd."]
    assert parts("Before_blur", "Change_blur") == ["blur: odd."], "without the word that all parts have"
    assert parts("Before_blur", "Change_blur", "Change_clear") == ["blur, Change of clear: odd."]
    assert parts(*(f"{k}_{p}" for k in ("Before", "Change") for p in ("opacity", "clear", "blur"))) == ["All: odd."]


def test_a_word_stands_for_all_parts_that_have_it() -> None:
    every = [Column("x", f"{a}{d}{k}", k, "higher", "", 2, False, f"{a} \u00b7 {d}")
             for a in ("VGG", "ResNet") for d in ("Mask", "Real") for k in ("AP", "F1")]  # fmt: skip
    every.append(Column("x", "mean", "AP", "higher", "", 2, False, "Mean \u00b7 Mask"))
    mask = [c for c in every if "Mask" in c.part]
    assert subject(mask, every) == "Mask"
    assert subject([c for c in mask if c.label == "AP"], every) == "AP of Mask"
    assert subject([c for c in mask if c.key.startswith("VGG")], every) == "VGG \u00b7 Mask"
    assert subject([c for c in every if "VGG" in c.part], every) == "VGG"
    assert subject(every, every) == ""


def test_remarks_that_differ_in_numbers_are_one_line() -> None:
    rows = [noted(m, count=f"sigma {v} pixels of mAP50") for m, v in (("a", 0), ("b", 1.39), ("c", 0))]
    assert bullets(leaderboard(rows))[""] == ["Count: sigma 0 (a, c), 1.39 (b) pixels of mAP50."]
    seeds = [{**noted("a", count=f"sigma {v} pixels"), "seed": v} for v in (1, 2)]
    assert "Count: sigma 1 / 2 pixels." in bullets(leaderboard(seeds))[""]
    apart = [noted("a", count="2 pixels"), noted("b", count="2 mm")]
    assert bullets(leaderboard(apart))[""] == ["Count: 2 pixels (a).", "Count: 2 mm (b)."]


def test_a_remark_on_what_a_method_alone_can_names_it_not() -> None:
    """It has the only value; of the others it is said that they have none."""
    other = noted("b")
    other["scores"]["after"] = score(None, n=0, note="cannot")
    lines = bullets(leaderboard([noted("a", after="10 subsamples"), other]))["Detection"]
    assert lines == ["After: 10 subsamples.", "After: cannot (b)."]


def test_titles_name_what_tells_configurations_apart() -> None:
    def title(**params: Any) -> str:
        rows = [record("a", "counts", params={"n": 5, "archs": ["u"]}, scores={"boxes": score(1.0)}),
                record("a", "counts", params={"n": 5, "archs": ["u"], **params}, scores={"boxes": score(1.0)})]  # fmt: skip
        return "".join(re.findall(r"^## .*$", leaderboard(rows), re.MULTILINE))

    assert "\u00b7 counts expand=0.1" in title(expand=0.1) and "\u00b7 counts without expand" in title(expand=0.1)
    assert "n=" not in title(expand=0.1) and "archs=u+v" in title(archs=["u", "v"])
    assert "counts" not in "".join(re.findall(r"^## .*$", leaderboard([noted("a")]), re.MULTILINE))


def test_order_of_a_section() -> None:
    rows = [{**segmentation(m, v, v, v), "figures": ["scores/x/box.png"]} for m, v in (("original", 0.6), ("a", 0.7))]
    for one, shift in zip(rows, (0.0, 0.5), strict=True):
        values = {f"i{k}": k + shift for k in range(8)}
        one[LOCAL] = Local("", {"miou": values}, {image: image for image in values})
    headings = re.findall(r"^##+ (?:rsna)?(.*)$", leaderboard(rows), re.MULTILINE)
    assert [h.split(" test")[0] for h in headings] == [
        "", "Comparisons", "Segmentation", "Segmentation by part", "Figures",
    ]  # fmt: skip


def test_seeds_are_told_for_the_metrics_shown() -> None:
    few = [segmentation("original", 0.6, 0.6, 0.7), segmentation("a", 0.8, 0.7, 0.6)]
    kid = [{**metric("kid", "KID", "lower"), "primary": True}]
    more = [record("a", metrics=kid, scores={"kid": score(v)}, seed=seed) for seed, v in enumerate((0.1, 0.2, 0.3))]
    text = leaderboard([*few, *more, record("original", metrics=kid, scores={"kid": score(0.4)})])
    head, original, a = table_rows(text.split("###")[0])
    assert head[-4] == "Seeds" and original[-4] == "1" and a[-4] == "1\u20133"
    assert "- Seeds differ between metrics: 3 of KID; 1 of mIoU (a)." in text
    assert [row[-1] for row in block(text, "Segmentation")] == ["Seeds", "1", "1"], "its own seeds, not those of KID"
    assert "Seeds" not in block(text, "Segmentation by part")[0]
    again = leaderboard([*few, segmentation("a", 0.7, 0.6, 0.5, seed=1)])
    assert [row[-1] for row in block(again, "Segmentation by part")[:3]] == ["Seeds", "1", "2"]


def test_a_table_of_parts_in_doubt_throughout_is_one_line() -> None:
    grey = [
        {**one, "scores": {key: {**old, "doubt": "it saw\n4 images."} for key, old in one["scores"].items()}} for one in PARTS
    ]
    text = leaderboard(grey)
    part = text.split("### Segmentation by part\n\n")[1].split("\n\n")[0]
    assert part == "Every value is in doubt, so none is shown (the records have them): it saw 4 images."
    assert "| PSPNet" not in text
    one = {**grey[0], "scores": {**grey[0]["scores"], "miou_pspnet": score(0.7)}}
    assert "| PSPNet" in leaderboard([one, *grey[1:]]), "as soon as one value counts, all are shown"


def table_rows(text: str) -> list[list[str]]:
    found = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|:")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]
