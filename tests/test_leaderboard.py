"""The leaderboard as text: golden table, order, bold, direction, footnotes, and what may never share a table."""

import random
import re
from typing import Any

import pytest

from leaderboards.render import leaderboard, short
from leaderboards.tables import tables

METRICS = {
    "fidelity": [
        {"key": "kid", "label": "KID", "better": "lower", "unit": "", "digits": 3, "primary": True},
        {"key": "fid", "label": "FID", "better": "lower", "unit": "", "digits": 1, "primary": True},
    ],
    "faithfulness": [{"key": "psnr", "label": "PSNR", "better": "higher", "unit": "dB", "digits": 1, "primary": False}],
    "counts": [{"key": "boxes", "label": "Boxes", "better": "none", "unit": "", "digits": 0, "primary": False}],
}


def score(value: float | None, **rest: Any) -> dict[str, Any]:
    return {"value": value, "std": None, "std_over": "", "ci": None, "n": 50, "note": "", **rest}


def record(method: str, evaluator: str = "fidelity", **changes: Any) -> dict[str, Any]:
    base = {
        "schema": 1, "method": method, "method_version": 1, "config_fingerprint": f"cfg-{method}",
        "train_dataset": "" if method == "original" else "rsna", "dataset": "rsna",
        "dataset_fingerprint": "0123456789abcdef", "reference": "clear",
        "split": "test", "seed": 0, "preset": "paper", "evaluator": evaluator,
        "params": {"extractor": "inception"} if evaluator == "fidelity" else {}, "metrics": METRICS.get(evaluator, []),
        "scores": {}, "n_translated": 50, "n_reference": 60, "status": "ok", "error": None,
        "cost": {"iterations": 10, "images_seen": None, "train_seconds": None, "parameters": None}, "prior": None,
    }  # fmt: skip
    return {**base, **changes}


def fidelity(method: str, kid: float, fid: float, **changes: Any) -> dict[str, Any]:
    note = "subset size 25, half of the smaller set (configured: 1000)"
    scores = {
        "kid": score(kid, std=0.004, std_over="subsets", note=note),
        "fid": score(fid, ci=[fid - 2, fid + 2.04]),
    }
    return record(method, **{"scores": scores, **changes})


TRAINED = {"iterations": 10, "images_seen": 1_200_000, "train_seconds": 9.0, "parameters": 28_286_000}
GOLDEN = [
    fidelity("cyclegan", 0.0301, 60.0, cost=TRAINED),
    fidelity("original", 0.0432, 51.8),
    fidelity("acl-gan", 0.0161, 57.2, cost=TRAINED),
    record("acl-gan", "faithfulness", scores={"psnr": score(31.04)}, cost=TRAINED),
    record("original", "faithfulness", scores={"psnr": score(25.0)}),
    record("cyclegan", "faithfulness", status="failed", error="out of memory\nTraceback"),
]
EXPECTED = """\
# Leaderboard

## rsna test · against clear · trained on rsna · preset paper · data 01234567

| Method       |             KID ↓ |                 FID ↓ |   n |   Seeds |   Images seen |   Parameters |
|:-------------|------------------:|----------------------:|----:|--------:|--------------:|-------------:|
| original     |     0.043 ± 0.004 | **51.8** [49.8, 53.8] |  50 |       1 |             ~ |            ~ |
| acl-gan      | **0.016** ± 0.004 |     57.2 [55.2, 59.2] |  50 |       1 |         1.2 M |       28.3 M |
| cyclegan [1] |     0.030 ± 0.004 |     60.0 [58.0, 62.0] |  50 |       1 |         1.2 M |       28.3 M |

- [1] cyclegan: faithfulness, seed 0 failed: out of memory.
- ± is the standard deviation over subsets: KID.
- [low, high] is the 95 % confidence interval over patients, for a single seed.
- KID: subset size 25, half of the smaller set (configured: 1000).
- Not compared between methods, for lack of values by image: KID, FID.
- FID and KID: Inception-v3 of 2015-12-05 through torch-fidelity, translated against real clear images.
- Data fingerprint `0123456789abcdef`.

### Faithfulness

| Method       |   PSNR (dB) ↑ |   n |   Seeds |
|:-------------|--------------:|----:|--------:|
| original     |          25.0 |  50 |       1 |
| acl-gan      |      **31.0** |  50 |       1 |
| cyclegan [1] |        failed |   ~ |       1 |

6 records, digest `DIGEST`.
""".replace("~", "\u2013")


def test_golden_table() -> None:
    assert re.sub(r"digest `\w{16}`", "digest `DIGEST`", leaderboard(GOLDEN)) == EXPECTED


def test_order_of_records_does_not_matter() -> None:
    shuffled = GOLDEN.copy()
    random.Random(0).shuffle(shuffled)
    assert leaderboard(shuffled) == leaderboard(GOLDEN)
    assert short(shuffled) == short(GOLDEN)


def test_digest_follows_results_not_circumstances() -> None:
    last = leaderboard(GOLDEN).splitlines()[-1]
    assert leaderboard([*GOLDEN[:-1], {**GOLDEN[-1], "written": "later", "command": "other"}]).splitlines()[-1] == last
    assert leaderboard([fidelity("cyclegan", 0.0302, 60.0, cost=TRAINED), *GOLDEN[1:]]).splitlines()[-1] != last


def test_original_is_first_even_where_it_is_worst() -> None:
    (table,) = tables([fidelity("a", 0.1, 1), fidelity("z", 0.2, 1), fidelity("original", 9.0, 1)])
    assert [row.label for row in table.rows] == ["original", "a", "z"]


def test_direction_decides_order_and_best() -> None:
    metric = [{**METRICS["faithfulness"][0], "primary": True}]
    rows = [
        record(m, "faithfulness", metrics=metric, scores={"psnr": score(v)}) for m, v in (("a", 10), ("b", 30), ("c", 20))
    ]
    (table,) = tables(rows)
    assert [row.label for row in table.rows] == ["b", "c", "a"]
    assert leaderboard(rows).count("**") == 2
    assert "**30.0**" in leaderboard(rows)


def test_unranked_metrics_have_no_best_and_no_arrow() -> None:
    text = leaderboard([record(m, "counts", scores={"boxes": score(v)}) for m, v in (("a", 1), ("b", 2))])
    assert "**" not in text
    assert "↓" not in text


def test_ties_are_all_bold_and_a_lone_value_is_not() -> None:
    assert leaderboard([fidelity("a", 0.5, 3.0), fidelity("b", 0.5, 4.0)]).count("**0.500**") == 2
    assert "**" not in leaderboard([fidelity("a", 0.5, 3.0)])


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_fingerprint": "ffff"},
        {"preset": "quick"},
        {"dataset": "mimic"},
        {"train_dataset": "mimic"},
        {"image_size": 64},
        {"reference": "clear-pa"},
        {"reference_fingerprint": "aaaa"},
        {"evaluator_version": 2},
        {"params": {"extractor": "inception", "kid_subset_size": 50}},
    ],
)
def test_what_differs_never_shares_a_table(change: dict[str, Any]) -> None:
    found = tables([fidelity("a", 0.1, 1.0), fidelity("b", 0.2, 2.0, **change)])
    assert sorted(row.label for table in found for row in table.rows) == ["a", "b"]
    assert all(len(table.rows) == 1 for table in found)
    titles = re.findall(r"^## .*$", leaderboard([fidelity("a", 0.1, 1.0), fidelity("b", 0.2, 2.0, **change)]), re.MULTILINE)
    assert len(set(titles)) == 2


def cxr(method: str, prior: str) -> dict[str, Any]:
    metric = [{"key": "fd_cxr", "label": "FD-cxr", "better": "lower", "unit": "", "digits": 2, "primary": True}]
    about = {"trained_by": "bench", "findings": ["Edema", "Effusion"], "id": prior}
    return record(method, metrics=metric, scores={"fd_cxr": score(1.0)}, params={"extractor": "cxr"}, prior=about)


def test_features_of_two_classifiers_never_share_a_table() -> None:
    assert [len(table.rows) for table in tables([cxr("a", "p1"), cxr("b", "p1")])] == [2]
    assert [len(table.rows) for table in tables([cxr("a", "p1"), cxr("b", "p2")])] == [1, 1]


def test_two_extractors_are_columns_of_their_own_with_statements() -> None:
    (table,) = tables([cxr("a", "p1"), fidelity("a", 0.1, 1.0)])
    assert [column.label for column in table.columns] == ["FD-cxr", "KID", "FID"]
    text = leaderboard([cxr("a", "p1"), fidelity("a", 0.1, 1.0)])
    assert "not FID or KID" in text
    assert "classifier `p1`" in text
    assert "trained by bench, findings Edema, Effusion" in text


def test_original_joins_every_training_set_and_preset() -> None:
    rows = [fidelity("original", 0.3, 3.0), fidelity("a", 0.1, 1.0), fidelity("a", 0.2, 2.0, preset="quick")]
    assert [[row.label for row in table.rows] for table in tables(rows)] == [["original", "a"]] * 2
    (alone,) = tables([fidelity("original", 0.3, 3.0)])
    assert alone.rows[0].original


def test_seeds_are_averaged_and_spreads_are_not_mixed() -> None:
    rows = [fidelity("original", 0.5, 5.0), *(fidelity("a", v, 1.0, seed=s) for s, v in enumerate((0.1, 0.2, 0.3)))]
    text = leaderboard(rows)
    assert "**0.200** ± 0.100 |" in text
    assert "0.004" not in text  # the spread over subsets of the single-seed row gives way
    assert "± is the standard deviation over seeds: KID, FID." in text
    assert "over subsets" not in text
    (table,) = tables(rows)
    assert [row.seeds for row in table.rows] == [1, 3]


def test_a_failed_seed_is_footnoted_and_the_others_count() -> None:
    rows = [
        fidelity("a", 0.1, 1.0),
        fidelity("a", 0.3, 1.0, seed=1),
        record("a", seed=2, status="failed", error="not finite"),
    ]
    text = leaderboard(rows)
    assert "0.200 ± 0.141" in text
    assert "a [1]" in text
    assert "fidelity, seed 2 failed: not finite" in text


def test_a_method_that_failed_before_scoring_is_in_the_table() -> None:
    text = leaderboard(
        [fidelity("a", 0.1, 1.0), record("b", evaluator="fidelity", metrics=[], status="failed", error="boom")]
    )
    assert re.search(r"\| b \[1\] +\| +failed \| +failed \|", text)
    lost = {**record("b"), "evaluator": None, "metrics": [], "params": None, "status": "failed", "error": "diverged"}
    text = leaderboard([fidelity("a", 0.1, 1.0), lost])
    assert re.search(r"\| b \[1\] +\| +failed \| +failed \|", text)
    assert "seed 0 failed: diverged" in text


def test_missing_and_skipped_are_dashes() -> None:
    skipped = record("a", "faithfulness", status="skipped", error="no counterpart")
    (line,) = re.findall(r"^\| a .*$", leaderboard([fidelity("a", 0.1, 1.0), skipped]), re.MULTILINE)
    assert line.count("\u2013") == 2, "the costs alone"
    text = leaderboard([fidelity("a", 0.1, 1.0), skipped])
    assert "skipped: no counterpart" in text and "- No row has a value of: PSNR (no value)." in text
    with_psnr = [fidelity("b", 0.1, 1.0), record("b", "faithfulness", scores={"psnr": score(20.0)})]
    assert re.search(r"^\| a \[1\] +\| +\u2013 \|", leaderboard([fidelity("a", 0.1, 1.0), skipped, *with_psnr]), re.MULTILINE)


def test_a_value_of_none_is_missing_with_its_note() -> None:
    rows = [record("a", scores={"kid": score(None, note="too few"), "fid": score(2.0)}), fidelity("b", 0.1, 1.0)]
    text = leaderboard(rows)
    assert re.search(r"\| a +\| +\u2013 \|", text)
    assert "KID: too few (a)." in text


def test_configurations_of_one_method_are_told_apart() -> None:
    rows = [
        fidelity("a", 0.1, 1.0, config_fingerprint="11111111xx"),
        fidelity("a", 0.2, 1.0, config_fingerprint="22222222xx"),
    ]
    assert [row.label for row in tables(rows)[0].rows] == ["a (11111111)", "a (22222222)"]
    rows = [fidelity("a", 0.1, 1.0), fidelity("a", 0.2, 1.0, method_version=2)]
    assert [row.label for row in tables(rows)[0].rows] == ["a v1", "a v2"]


def test_rounding_happens_in_text_only() -> None:
    rows = [fidelity("a", 0.12344, 1.0), fidelity("b", -0.00001, 1.0)]
    assert tables(rows)[0].rows[0].cells["fidelity", "kid"].value == -0.00001
    assert "**0.000**" in leaderboard(rows)
    assert "-0.000" not in leaderboard(rows)


def test_different_n_is_said() -> None:
    fewer = {"kid": score(0.2, n=40), "fid": score(1.0)}
    text = leaderboard([fidelity("a", 0.1, 1.0), fidelity("b", 0.2, 1.0, scores=fewer)])
    assert "- n differs between rows: KID. Distances" in text and "- n = 40: KID (b)." in text
    assert "n differs" not in leaderboard([fidelity("a", 0.1, 1.0), fidelity("b", 0.2, 1.0)])


def test_n_is_the_scores_own_not_that_of_the_translated_images() -> None:
    half = {"kid": score(0.1, n=25), "fid": score(1.0, n=25)}
    both = [fidelity("a", 0.1, 1.0, scores=half), record("a", "faithfulness", scores={"psnr": score(20.0, n=50)})]
    assert tables(both[:1])[0].rows[0].n == (25,)
    (table,) = tables(both)
    assert table.rows[0].n == (25,), "the primary metrics' where they differ"
    assert "- n = 50: PSNR." in leaderboard(both)
    nothing = record("a", "faithfulness", scores={"psnr": score(None, n=0)})
    assert tables([both[0], nothing])[0].rows[0].n == (25,)


def test_a_leaky_split_is_said_in_title_and_notes() -> None:
    leaky = [fidelity(m, v, 1.0, split_by="image (patients unknown: leaky)") for m, v in (("a", 0.1), ("b", 0.2))]
    note = "- Split by image: patients unknown, the same patient may be in training and test."
    assert note in leaderboard(leaky) and leaderboard(leaky).splitlines()[2].endswith("· leaky split")
    assert "leaky split" in short(leaky)
    assert "leaky" not in leaderboard([{**r, "split_by": "patient"} for r in leaky])


def test_warnings_of_trainings_are_notes() -> None:
    text = leaderboard([fidelity("a", 0.1, 1.0, warnings=["loss 'g' grew tenfold\nsince step 5."]), fidelity("b", 0.2, 1.0)])
    assert "- Training of a: loss 'g' grew tenfold since step 5." in text


def test_methods_trained_with_the_classifier_that_scores_them_are_named() -> None:
    rows = [{**cxr("a", "p1"), "trained_with_prior": True}, cxr("b", "p1"), fidelity("a", 0.1, 1.0, trained_with_prior=True)]
    assert "- FD-cxr favour a: trained with the classifier that scores here." in leaderboard(rows)
    assert "favour" not in leaderboard(rows[1:])


def test_original_brings_the_scores_that_a_table_lacks() -> None:
    """Its record of the first preset does not keep out the one of another evaluator that only the second preset has."""
    rows = [
        fidelity("a", 0.1, 1.0), record("a", "faithfulness", scores={"psnr": score(20.0)}),
        fidelity("original", 0.3, 3.0, train_dataset="rsna"),
        record("original", "faithfulness", scores={"psnr": score(19.0)}, train_dataset="rsna", preset="small"),
    ]  # fmt: skip
    (table,) = [t for t in tables(rows) if t.context["preset"] == "paper"]
    found = {row.label: sorted(key for _, key in row.cells) for row in table.rows}
    assert found == {m: ["fid", "kid", "psnr"] for m in ("original", "a")}


def test_of_two_records_of_one_score_the_last_written_counts() -> None:
    old = fidelity("a", 0.1, 1.0, written="2026-01-01T00:00:00+00:00", status="failed", scores={}, error="boom")
    new = fidelity("a", 0.2, 2.0, written="2026-01-02T00:00:00+00:00")
    for rows in ([old, new], [new, old]):
        (table,) = tables(rows)
        assert table.rows[0].cells["fidelity", "kid"].value == 0.2 and not table.rows[0].problems


def test_short_fits_a_terminal() -> None:
    wide = [{**METRICS["fidelity"][0], "label": "Error inside of the opacity against the input"}, METRICS["fidelity"][1]]
    many = [{**m, "key": f"{m['key']}{i}"} for i in range(2) for m in wide]
    scores = {m["key"]: score(123.456, std=20.0, std_over="subsets", ci=[100.123, 150.123]) for m in many}
    rows = [record(m, metrics=many, scores=scores) for m in ("a-method-of-some-name", "original")]
    for width in (100, 120):
        assert max(map(len, short(rows, width).splitlines())) <= width
    assert "[100, 150]" in short(rows) and "± 20.000" in short(rows)
    assert "[0" not in short([record("a", metrics=many, scores={many[0]["key"]: score(0.0, ci=[0.0, 0.0])})])


def test_pipes_in_names_do_not_break_the_table() -> None:
    assert "a\\|b" in leaderboard([fidelity("a|b", 0.1, 1.0)])


def test_short_has_primary_metrics_only() -> None:
    text = short(GOLDEN)
    assert "PSNR" not in text
    assert "KID" in text
    assert "0.016 *" in text
    assert text.index("original") < text.index("acl-gan") < text.index("cyclegan")
    assert "out of memory" in text


def test_no_records() -> None:
    assert "No records yet." in leaderboard([])
    assert short([]) == "No records yet.\n"


# -- parts, shared values, doubts, models, figures --------------------------------------------------------------------------


def metric(key: str, label: str, better: str = "higher", digits: int = 3, **rest: Any) -> dict[str, Any]:
    return {"key": key, "label": label, "better": better, "unit": "", "digits": digits, "primary": False, **rest}


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


def block(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without the heading's own line of dashes."""
    (found,) = [part for part in text.split("\n### ")[1:] if part.startswith(f"{heading}\n")]
    lines = [line for line in found.splitlines() if line.startswith("|") and not line.startswith("|:")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


PARTS = [
    segmentation("original", 0.6, 0.6, 0.7), segmentation("a", 0.8, 0.7, 0.6), segmentation("b", 0.7, None, 0.65),
]  # fmt: skip


def test_parts_are_rows_of_a_table_of_their_own() -> None:
    text = leaderboard(PARTS)
    assert re.search(r"^\| Method +\| +mIoU ↑ \| +n \|", text, re.MULTILINE), "the main table has no parts, and no dice"
    assert block(text, "Segmentation")[0] == ["Method", "mIoU ↑", "Dice ↑", "n", "Seeds"]
    assert block(text, "Segmentation by part") == [
        ["Part", "Method", "mIoU ↑", "Dice ↑", "n"],
        ["U-Net", "original", "0.600", "**0.500**", "49\u201350"],
        ["U-Net", "a", "**0.700**", "**0.500**", "49\u201350"],
        ["U-Net", "b", "\u2013", "**0.500**", "49"],
        ["PSPNet", "original", "**0.700**", "**0.250**", "50"],
        ["PSPNet", "a", "0.600", "**0.250**", "50"],
        ["PSPNet", "b", "0.650", "**0.250**", "50"],
        ["U-Net, clear images", "real images", "0.950 [0.900, 0.990]", "\u2013", "50"],
    ]
    assert "- mIoU of U-Net: empty (b)." in text
    assert "- No row has a value of: Ring, Ring of U-Net, PSPNet (no ring)." in text
    assert "Ring ↑" not in text


def test_a_part_of_a_failed_method_says_so() -> None:
    rows = [*PARTS, segmentation("c", 0.1, 0.1, 0.1, status="failed", scores={}, error="boom")]
    assert ["PSPNet", "c", "failed", "failed", "\u2013"] in block(leaderboard(rows), "Segmentation by part")
    skipped = [*PARTS, segmentation("c", 0.1, 0.1, 0.1, status="skipped", scores={}, error="no mask")]
    assert all(row[1] != "c" for row in block(leaderboard(skipped), "Segmentation by part"))


def test_parts_are_averaged_over_seeds_like_the_main_table() -> None:
    rows = [PARTS[0], *(segmentation("a", 0.8, v, 0.6, seed=s) for s, v in enumerate((0.1, 0.2, 0.3)))]
    text = leaderboard(rows)
    assert ["U-Net", "a", "0.200 ± 0.100", "**0.500** ± 0.000", "49\u201350"] in block(text, "Segmentation by part")
    assert "- ± is the standard deviation over seeds: mIoU, Dice, Segmentation by part." in text


def test_shared_values_stand_once_and_disagreement_is_named() -> None:
    same = leaderboard([detection("original", 2.0), detection("a", 1.0), detection("a", 1.0, seed=1)])
    assert same.count("mAP50") == 1 and "- On real images, whatever the method: mAP50 0.020, n = 40." in same
    by_seed = leaderboard([detection("original", 2.0), detection("a", 1.0), detection("a", 1.0, seed=1, map50=0.04)])
    assert "mAP50 0.030 ± 0.014, n = 40." in by_seed
    other = leaderboard([detection("original", 2.0), detection("a", 1.0, map50=0.5), detection("b", 1.0)])
    assert "mAP50 0.020 (original, b), n = 40; 0.500 (a), n = 40." in other
    parts = [PARTS[0], {**PARTS[1], "scores": {**PARTS[1]["scores"], "clear_unet": score(0.5)}}]
    rows = [row[1:3] for row in block(leaderboard(parts), "Segmentation by part") if row[0].endswith("clear images")]
    assert rows == [["real images (original)", "0.950 [0.900, 0.990]"], ["real images (a)", "0.500"]]


def test_doubtful_values_are_grey_never_best_and_never_ranked() -> None:
    rows = [detection("original", 3.0), detection("a", 2.0), detection("b", 0.0, doubt=BLIND), detection("c", 2.5)]
    text = leaderboard(rows)
    assert '| <span style="color:gray">0.00</span> † |' in text and "| **2.00** |" in text.replace("  ", "")
    assert "- † in grey, not to be relied upon and not ranked: Count: mAP50 of the detector is 0.02, below 0.10 (b)." in text
    assert [row.label for row in tables(rows)[0].rows] == ["original", "a", "c", "b"]
    brief = short(rows)
    assert "(0.00)" in brief and "2.00 *" in brief and "span" not in brief and "below 0.10 (b)." in brief
    every = leaderboard([detection(m, v, doubt=BLIND) for m, v in (("original", 3.0), ("a", 1.0))])
    assert "**1.00" not in every and every.count("color:gray") == 4 and "below 0.10." in every  # in both tables
    seeds = leaderboard([detection("original", 3.0), detection("a", 1.0), detection("a", 2.0, doubt="blind", seed=1)])
    assert '<span style="color:gray">1.50 ± 0.71</span> †' in seeds, "one doubtful seed makes the mean doubtful"


def test_doubt_in_a_part() -> None:
    grey = {**PARTS[1], "scores": {**PARTS[1]["scores"], "miou_u-net": score(0.7, doubt="few")}}
    rows = block(leaderboard([PARTS[0], grey, segmentation("b", 0.7, 0.5, 0.1)]), "Segmentation by part")
    assert [row[2] for row in rows if row[0] == "U-Net"] == ["**0.600**", '<span style="color:gray">0.700</span> †', "0.500"]


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
    assert "- Models of segmentation (encoder from scratch): pspnet (n = 270, `bbbbbbbb`), unet (n = 280, `aaaaaaaa`)." in text
    folds = model("unet", ["a" * 16, "c" * 16], learnt_from=[{"x": 3, "y": 4}, {"x": 3, "y": 5}])
    text = leaderboard([with_models("a", folds), with_models("b", {**folds, "weights_id": ["a" * 16, "d" * 16]})])
    hashes = re.findall(r"`(\w{8})` for (\w)", text)
    assert [who for _, who in hashes] == ["a", "b"] and len({h for h, _ in hashes}) == 2
    assert "Models of segmentation (n = 7\u20138, encoder from scratch): unet (not the same for all rows: " in text
    seeds = [with_models(m, model("unet", "ab"[s] * 16), seed=s) for m in ("a", "b") for s in (0, 1)]
    assert "unet (`aaaaaaaa` `bbbbbbbb`)." in leaderboard(seeds), "other weights for other seeds are no difference of methods"


def test_figures_are_links_by_method_for_one_seed() -> None:
    rows = [
        {**segmentation("a", 0.8, 0.7, 0.6, seed=s), "figures": [f"scores/x{s}/box plot.png"]} for s in (0, 1)
    ]  # fmt: skip
    text = leaderboard([*rows, PARTS[0]])
    assert text.count("](scores/x") == 1 and "- a: ![Segmentation, box plot](scores/x0/box%20plot.png)" in text
    assert "Figures" not in leaderboard(PARTS)


def test_short_breaks_a_wide_table_into_several() -> None:
    many = [metric(f"m{i}", f"Measure number {i}", primary=True) for i in range(9)]
    scores = {m["key"]: score(123.456, ci=[100.123, 150.123]) for m in many}
    rows = [record(m, "counts", metrics=many, scores=scores) for m in ("some-method", "original")]
    for width in (80, 100):
        lines = short(rows, width).splitlines()
        assert max(map(len, lines)) <= width
        assert sum(line.startswith("some-method") for line in lines) > 1
        assert all(sum(f" {i} ↑" in line for line in lines) == 1 for i in range(9)), "each metric once"
