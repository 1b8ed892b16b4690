"""The leaderboard as text: golden table, order, bold, direction, footnotes, and what may never share a table."""

import random
import re
from typing import Any

import pytest
from leaderboard_tools import METRICS, block, fidelity, record, score

from leaderboards.cells import hours
from leaderboards.render import leaderboard, short
from leaderboards.tables import tables

TRAINED = {"iterations": None, "images_seen": 1_200_000, "seconds": 7200.0, "gpu_seconds": 5400.0, "parameters": 28_286_000}
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

| Method       |             KID ↓ |                        FID ↓ |   n |   Seeds |   Images seen |   Parameters |   Training |
|:-------------|------------------:|-----------------------------:|----:|--------:|--------------:|-------------:|-----------:|
| original     |     0.043 ± 0.004 |        **51.8** [49.8, 53.8] |  50 |       1 |             ~ |            ~ |          ~ |
| acl-gan      | **0.016** ± 0.004 | <ins>57.2</ins> [55.2, 59.2] |  50 |       1 |         1.2 M |       28.3 M |  1.5 GPU h |
| cyclegan [1] |   0.030 ‡ ± 0.004 |            60.0 [58.0, 62.0] |  50 |       1 |         1.2 M |       28.3 M |  1.5 GPU h |

- [1] cyclegan: faithfulness, seed 0 failed: out of memory.
- Marks, by column: bold: best; underlined: second; ‡: not shown to differ from the best.
- Ties of KID, FID: 95 % intervals that overlap count as a tie (else ± 1.96 standard deviations): there is nothing to test by, %
and this is no test.
- ± is the standard deviation over subsets.
- [low, high] is the 95 % confidence interval over patients, for a single seed.
- KID: subset size 25, half of the smaller set (configured: 1000).
- Not compared between methods, for lack of values by image: KID, FID.
- Data fingerprint `0123456789abcdef`.

### Faithfulness

Translated images against the true clear counterpart, inside the opacity and away from it.

| Method       |     PSNR (dB) ↑ |   n |   Seeds |
|:-------------|----------------:|----:|--------:|
| original     | <ins>25.0</ins> |  50 |       1 |
| acl-gan      |        **31.0** |  50 |       1 |
| cyclegan [1] |          failed |   ~ |       ~ |

- Marked by the value alone, as no spread is known: some of PSNR.

### Fidelity

Distance of the translated images, as a set, from real clear images. FID and KID: Inception-v3 of 2015-12-05 through %
torch-fidelity, translated against real clear images.

6 records, digest `DIGEST`.
""".replace("~", "\u2013").replace("%\n", "")


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
    assert "**0.200** ± 0.100 [-0.048, 0.448] |" in text
    assert "0.004" not in text  # the spread over subsets of the single-seed row gives way
    assert "- ± is the standard deviation over seeds.\n" in text
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
    assert line.count("\u2013") == 3, "the costs alone"
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
    assert "- n differs between rows: KID. Distances" in text and "- n = 40: KID (b); n = 50: FID." in text
    assert "n differs" not in leaderboard([fidelity("a", 0.1, 1.0), fidelity("b", 0.2, 1.0)])


def test_n_is_the_scores_own_not_that_of_the_translated_images() -> None:
    half = {"kid": score(0.1, n=25), "fid": score(1.0, n=25)}
    both = [fidelity("a", 0.1, 1.0, scores=half), record("a", "faithfulness", scores={"psnr": score(20.0, n=50)})]
    assert tables(both[:1])[0].rows[0].n == (25,)
    (table,) = tables(both)
    assert table.rows[0].n == (25,), "the primary metrics' where they differ"
    assert block(leaderboard(both), "Faithfulness")[1] == ["a", "20.0", "50", "1"] and "n = " not in leaderboard(both)
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
    assert "- FD-cxr: favours a, trained with the classifier that scores here." in leaderboard(rows)
    assert "favours" not in leaderboard(rows[1:])


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


@pytest.mark.parametrize(
    "other",
    [{}, {"config_fingerprint": "old"}, {"dataset_fingerprint": "fewer", "image_size": 48}, {"params": {"extractor": "old"}}],
    ids=["same", "configuration", "data", "evaluator"],
)
def test_failures_of_an_abandoned_configuration_go_with_the_next_success(other: dict[str, Any]) -> None:
    old = fidelity("a", 0.1, 1.0, written="2026-01-02T00:00:00+00:00", status="failed", scores={}, error="boom", **other)
    best = fidelity("original", 0.3, 3.0, written="2026-01-01T00:00:00+00:00")
    new = fidelity("a", 0.2, 2.0, written="2026-01-03T00:00:00+00:00")
    (table,) = tables([new, best, old])
    assert [row.label for row in table.rows] == ["original", "a"] and not any(row.problems for row in table.rows)
    for else_ in ({"seed": 1}, {"method": "b"}, {"dataset": "nih14"}, {"preset": "small"}, {"evaluator": "detection"}):
        assert "boom" in leaderboard([{**old, **else_}, best, new]), else_
    assert "boom" in leaderboard([{**old, "written": "2026-01-04T00:00:00+00:00", "method_version": 2}, best, new]), "newer"


def test_one_reason_for_several_evaluators_is_told_once() -> None:
    lost = [record("a", name, status="failed", error="train of a: nan") for name in ("fidelity", "faithfulness")]
    text = leaderboard([*lost, fidelity("original", 0.1, 1.0)])
    assert "[1] a: faithfulness, fidelity, seed 0 failed: train of a: nan." in text


@pytest.mark.parametrize(
    ("time", "expected"),
    [(0.00001, "<0.01"), (0.0099, "<0.01"), (0.01, "0.01"), (0.5, "0.5"), (1.25, "1.2"), (9.94, "9.9"), (9.96, "10"), (10.4, "10"),
     (99.6, "100"), (123, "123"), (1500, "1,500")],
)  # fmt: skip
def test_hours_are_plain_numbers(time: float, expected: str) -> None:
    assert hours(time * 3600, None) == f"{expected} CPU h"
    assert hours(1.0, time * 3600) == f"{expected} GPU h"


def test_short_fits_a_terminal() -> None:
    wide = [{**METRICS["fidelity"][0], "label": "Error inside of the opacity against the input"}, METRICS["fidelity"][1]]
    many = [{**m, "key": f"{m['key']}{i}"} for i in range(2) for m in wide]
    scores = {m["key"]: score(123.456, std=20.0, std_over="subsets", ci=[100.123, 150.123]) for m in many}
    rows = [record(m, metrics=many, scores=scores) for m in ("a-method-of-some-name", "original")]
    for width in (100, 120):
        assert max(map(len, short(rows, width).splitlines())) <= width
    assert "[100" not in short(rows) and "±" not in short(rows), "values alone, one line a method"
    assert sum(line.startswith("original") for line in short(rows).splitlines()) == 1
    assert "123.456 * [100, 150]" in short(rows, 250) and "±" not in short(rows, 250), "an interval says it all"
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
