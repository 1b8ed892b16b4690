"""Methods against each other on the same images: tests by patient, Holm, ranks, marks, and what cannot be compared."""

from __future__ import annotations

import re
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from compare_tools import ERROR, IMAGES, PATIENTS, by_patient, compared, marked, noisy, scored, write_run
from leaderboard_tools import block, fidelity, metric, record, score
from scipy import stats

from bench import records
from bench.records import LOCAL, Local
from evaluators.ranks import Rank
from leaderboards import compare as compare_module
from leaderboards import general
from leaderboards.compare import Family, Pair
from leaderboards.differences import letters
from leaderboards.render import leaderboard, short
from leaderboards.sheet import BEST, TIE
from leaderboards.tables import Column
from leaderboards.values import Cell


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "N_BOOT", 40)


ROWS = [scored("original", noisy(0)), scored("a", noisy(1, -0.5)), scored("b", noisy(2, -0.5)), scored("c", noisy(3, -0.2))]


def test_every_pair_is_tested_over_patients_as_scipy_does() -> None:
    (family,) = compared(ROWS).families
    assert {(pair.first, pair.second) for pair in family.pairs} == {
        ("original", "a"), ("original", "b"), ("original", "c"), ("a", "b"), ("a", "c"), ("b", "c"),
    }  # fmt: skip
    values = {r["method"]: by_patient(r[LOCAL].values["error"]) for r in ROWS}
    for pair in family.pairs:
        step = values[pair.second] - values[pair.first]
        expected = stats.wilcoxon(step, zero_method="pratt", method="approx", correction=False)
        assert pair.p == pytest.approx(expected.pvalue) and pair.paired.n == 20
        sums = [(a + b) / 2 for i, a in enumerate(step) for b in step[i:]]
        assert pair.paired.shift == pytest.approx(float(np.median(sums)), abs=1e-6)


def test_holm_over_the_pairs_of_a_metric() -> None:
    (family,) = compared(ROWS).families
    ordered = sorted(family.pairs, key=lambda pair: pair.p)
    expected, last = [], 0.0
    for k, pair in enumerate(ordered):
        last = max(last, min(1.0, pair.p * (len(ordered) - k)))
        expected.append(last)
    assert [pair.p_holm for pair in ordered] == pytest.approx(expected)
    twice = [{**r, "metrics": [ERROR, {**ERROR, "key": "other", "label": "Other"}]} for r in ROWS]
    for r in twice:
        r["scores"] = {**r["scores"], "other": r["scores"]["error"]}
        r[LOCAL] = Local("", {"error": r[LOCAL].values["error"], "other": r[LOCAL].values["error"]}, PATIENTS)
    families = compared(twice).families
    assert [[p.p_holm for p in f.pairs] for f in families] == [[p.p_holm for p in family.pairs]] * 2, "a family is one metric"


def test_what_cannot_be_told_from_the_best_is_marked() -> None:
    best, second = sorted("ab", key=lambda m: np.mean(list(next(r for r in ROWS if r["method"] == m)[LOCAL].values["error"].values())))
    assert marked(ROWS) == {best: BEST, second: TIE, "c": "", "original": ""}, "a tie is no second"
    text = leaderboard(ROWS)
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if line.startswith("|")}
    assert cells[best].startswith("**") and cells[second].endswith(" ‡")
    assert "‡" not in cells["c"] + cells["original"]
    assert "- Marks, by column: bold: best; ‡: not shown to differ from the best.\n" in text
    assert "- Ties of Error: paired Wilcoxon over patients; Holm over the comparisons with the best, p ≥ 0.05.\n" in text
    clear = [scored("original", noisy(0)), scored("a", noisy(1, -0.5))]
    assert "‡" not in leaderboard(clear)


def test_five_patients_prove_nothing() -> None:
    """The normal approximation gives 0.043 where the exact test cannot go below 0.0625."""
    images = IMAGES[:5]
    whose = {image: image for image in images}
    rows = [scored("original", dict.fromkeys(images, 1.0), whose), scored("a", {i: 0.5 - k / 9 for k, i in enumerate(images)}, whose)]
    (pair,) = compared(rows).families[0].pairs
    assert pair.paired.p < 0.05 and pair.p == 0.0625 and pair.p_holm == 0.0625
    assert marked(rows) == {"original": TIE, "a": BEST}


def test_nothing_changed() -> None:
    rows = [scored("original", noisy(0)), scored("a", noisy(0))]
    (pair,) = compared(rows).families[0].pairs
    assert (pair.p, pair.p_holm, pair.paired.shift, pair.paired.effect) == (1.0, 1.0, 0.0, 0.0)
    table = leaderboard(rows).split("\n\n")[2]
    assert table.count("**") == 4 and "‡" not in table, "both are best, and neither is near it"


def test_seeds_are_averaged_before_the_test() -> None:
    """Two noisy seeds that average to an exact shift: tested on the mean, the shift is exact."""
    low, high = noisy(1, -0.5, 0.0), noisy(1, -0.5, 0.0)
    for k, image in enumerate(IMAGES):
        low[image], high[image] = low[image] - k, high[image] + k
    rows = [scored("original", noisy(0, 0.0, 0.0)), scored("a", low, seed=0), scored("a", high, seed=1)]
    (family,) = compared(rows).families
    (pair,) = family.pairs
    assert pair.paired.shift == pytest.approx(-0.5) and pair.paired.n == 20 and family.pooled == ("a",)
    told = (
        "Several seeds are averaged image by image first (a), and p is the larger of the paired test's and of Student's t over seeds."
    )
    assert f"- {told}" in leaderboard(rows)
    low.pop(IMAGES[0])  # one of two images of a patient, of one seed
    low.pop(IMAGES[38])  # the only image of a patient
    (pair,) = compared([rows[0], scored("a", low, seed=0), rows[2]]).families[0].pairs
    assert pair.paired.n == 19 and pair.paired.shift == pytest.approx(-0.5)


def test_pairs_are_compared_on_the_images_both_have() -> None:
    """An image that only one method has does not enter, however extreme."""
    more = {**noisy(1, 0.5, 0.0), "only-here": -1000.0}
    rows = [scored("original", noisy(0, 0.0, 0.0)), scored("a", more, {**PATIENTS, "only-here": "p00"})]
    (pair,) = compared(rows).families[0].pairs
    assert pair.paired.increased == 1.0 and pair.paired.shift == pytest.approx(0.5)


def test_ranks() -> None:
    (family,) = compared([*ROWS, scored("d", noisy(4, -3.0))]).families
    ranks = family.ranks
    assert [sorted(ranks, key=lambda m: ranks[m].rank)[k] for k in (0, 3, 4)] == ["d", "c", "original"]
    assert (ranks["d"].low, ranks["d"].high, ranks["d"].first) == (1.0, 1.0, 1.0)
    assert {ranks["a"].rank, ranks["b"].rank} == {2.0, 3.0} and (ranks["a"].low, ranks["a"].high) == (2.0, 3.0)
    up = {**ERROR, "better": "higher"}
    upwards = compared([{**r, "metrics": [up]} for r in [*ROWS, scored("d", noisy(4, -3.0))]]).families[0].ranks
    assert upwards["original"].rank == 1.0 and upwards["d"].rank == 5.0
    unranked = compared([{**r, "metrics": [{**ERROR, "better": "none"}]} for r in ROWS])
    assert not unranked.families[0].ranks and len(unranked.families[0].pairs) == 6


def test_the_section() -> None:
    text = leaderboard(ROWS[:2])
    rows = block(text, "Comparisons")
    assert rows[0] == ["Metric", "A", "B", "Shift B - A [95 % CI]", "Effect", "Patients", "p", "p (Holm)"]
    assert rows[1][:3] == ["Error ↓", "original", "a"] and rows[1][4:] == ["-1.00", "20", "<0.001", "<0.001"]
    assert re.fullmatch(r"-0\.\d\d \[-0\.\d\d, -0\.\d\d\]", rows[1][3])
    assert rows[2] == ["Metric", "Method", "Rank [95 % CI]", "P(first)", "Patients"]
    assert rows[3] == ["Error ↓", "a", "1 [1, 1]", "1.00", "20"]
    assert "- Paired Wilcoxon over 20 patients, Holm over 1 pair.\n" in text
    assert "Holm over 6 pairs.\n" in leaderboard(ROWS)
    assert "<details>" not in text


MANY = [scored("original", noisy(0)), *(scored(f"m{k}", noisy(k, -0.1 * k)) for k in range(1, 7))]


def test_many_pairs_are_told_by_letters_and_differences() -> None:
    text = leaderboard(MANY)
    rows = block(text, "Comparisons")
    ranks, steps = rows[:8], rows[8:]
    assert ranks[0] == ["Rank [95 % CI], letters", "Error ↓"]
    assert steps[0] == ["Difference [95 % CI], p (Holm)", "Error ↓: from original", "from m6"]
    assert [row[0] for row in ranks[1:]] == [row[0] for row in steps[1:]] == ["original", "m6", "m5", "m4", "m3", "m2", "m1"]
    (family,) = compared(MANY).families
    given = {row[0]: row[1].rpartition(" ")[2] for row in ranks[1:]}
    assert given["m6"].startswith("a"), "letters go by rank"
    alike = 0
    for pair in family.pairs:
        shared = set(given[pair.first]) & set(given[pair.second])
        assert bool(shared) == (pair.p_holm >= 0.05), "two methods share a letter exactly where they do not differ"
        alike += bool(shared)
    assert 0 < alike < len(family.pairs), "the example has both"
    for label, *cells in steps[1:]:
        for base, cell in zip(("original", "m6"), cells, strict=True):
            own = [pair for pair in family.pairs if base in (pair.first, pair.second)]
            ordered = sorted(own, key=lambda pair: pair.p)
            stepped = [min(1.0, (len(own) - k) * pair.p) for k, pair in enumerate(ordered)]
            corrected = {id(pair): max(stepped[: k + 1]) for k, pair in enumerate(ordered)}
            found = family.pair(base, label) if base != label else None
            if found is None:
                assert cell == "\u2013"
                continue
            sign = 1 if found.first == base else -1
            shown = re.fullmatch(r"(≈ )?(-?\d\.\d\d) \[(-?\d\.\d\d), (-?\d\.\d\d)\] p([=<])(\d\.\d{3})", cell)
            assert shown and float(shown[2]) == pytest.approx(sign * found.paired.shift, abs=0.005)
            assert float(shown[3]) <= float(shown[2]) <= float(shown[4]), "the interval is turned with the sign"
            p = corrected[id(found)]
            assert bool(shown[1]) == (p >= 0.05), "Holm over the six comparisons with this base, not over all pairs"
            assert float(shown[6]) == (0.001 if shown[5] == "<" else pytest.approx(p, abs=0.0005))
    assert "Effect" not in text and "Every pair with its effect: `--full`" in text


def test_all_pairs_where_they_are_asked_for() -> None:
    text = leaderboard(MANY, full=True)
    assert text.count("<details><summary>All pairs and ranks</summary>\n\n| Metric ") == 1
    pairs = [row for row in block(text, "Comparisons") if len(row) == 8]
    assert len(pairs) == 1 + 21 and "Effect: rank-biserial" in text and "`--full`" not in text
    assert leaderboard(ROWS, full=True) == leaderboard(ROWS), "few pairs are all there anyway"


def test_letters() -> None:
    """A chain: neighbours are alike, the ends are not; and one that was never compared with one of them."""

    def family(labels: str, apart: str, untested: str = "") -> Family:
        both = list(combinations(labels, 2))
        values = ((0.0, 1.0), (1.0, 3.0), ("p", "q"))
        tests = [Pair(a, b, 0.01, 0.01 if a + b in apart.split() else 0.9, values) for a, b in both if a + b not in untested.split()]
        ranks = {label: Rank(float(k + 1), 1.0, 4.0, 0.5, 2) for k, label in enumerate(labels)}
        return Family(Column("quality", "error", "Error", "lower", "", 2, True), tuple(tests), ranks, ())

    assert letters(family("wxyz", "")) == dict.fromkeys("wxyz", "a")
    assert letters(family("wxyz", "wx wy wz xy xz yz")) == {"w": "a", "x": "b", "y": "c", "z": "d"}
    assert letters(family("wxyz", "wy wz xz")) == {"w": "a", "x": "ab", "y": "bc", "z": "c"}
    assert letters(family("wxyz", "wz xy")) == {"w": "ab", "x": "ac", "y": "bd", "z": "cd"}, "alike in a ring: four pairs"
    assert letters(family("wxy", "wx", "wy")) == {"w": "a", "x": "b", "y": "ab"}, "what was not compared is not apart"


def test_metrics_with_the_same_comparisons_share_their_columns() -> None:
    """A metric and its change from the input differ in each image by what is the same for all methods."""
    other = {**ERROR, "key": "delta", "label": "Delta"}
    rows = []
    for made in MANY:
        local = made[LOCAL].values["error"]
        shifted = {image: value - MANY[0][LOCAL].values["error"][image] for image, value in local.items()}
        scores = {**made["scores"], "delta": score(float(np.mean(list(shifted.values()))), n=len(shifted))}
        beside = Local("", {"error": local, "delta": shifted}, PATIENTS)
        rows.append({**made, "metrics": [ERROR, other], "scores": scores, LOCAL: beside})
    found = block(leaderboard(rows), "Comparisons")
    assert found[0] == ["Rank [95 % CI], letters", "Error ↓ / Delta ↓"]
    assert found[8] == ["Difference [95 % CI], p (Holm)", "Error ↓ / Delta ↓: from original", "from m6"]


def test_pairs_and_ranks_for_programs() -> None:
    (sheet,) = general.sheets(MANY)
    pairs, ranks = sheet.behind
    (family,) = compared(MANY).families
    assert [head.key for head in pairs.heads] == [f"quality/error.{name}" for name in ("shift", "effect", "p", "p_holm")]
    assert [line.label for line in pairs.lines] == [f"{pair.second} - {pair.first}" for pair in family.pairs]
    for line, pair in zip(pairs.lines, family.pairs, strict=True):
        shift, *others = (entry.cell for entry in line.entries)
        assert shift == Cell(pair.paired.shift, ci=pair.paired.shift_ci, n=(20,))
        assert [cell.value for cell in others if cell] == [pair.paired.effect, pair.p, pair.p_holm]
    shown = {line.label: line.entries for line in ranks.lines}
    assert all(cell and cell.value == family.ranks[label].rank for label, (entry, _) in shown.items() for cell in [entry.cell])
    marks = {line.label: line.entries[0].mark for line in sheet.lines}
    assert marks["m6"] == "best" and marks["original"] == ""
    assert marks == marked(MANY) and TIE in marks.values()


def test_general_sheets_hold_every_metric_part_and_failure() -> None:
    part = metric("error/a", "Error", "lower", 2, part="Part A")
    real = metric("floor", "Floor", "lower", 2, shared=True)
    rows = []
    for method, error in (("original", 2.0), ("a", 1 / 3)):
        scores = {"error": score(error), "error/a": score(error + 1), "floor": score(0.5)}
        rows.append(record(method, "quality", metrics=[ERROR, part, real], scores=scores))
    failed = record("b", "quality", metrics=[ERROR], status="failed", error="out of memory")
    (sheet,) = general.sheets([*rows, failed])
    assert [(head.group, head.label, head.key) for head in sheet.heads] == [
        ("Quality", "Error", "quality/error"), ("Quality · Part A", "Error", "quality/error/a"), ("Quality", "Floor", "quality/floor"),
    ]  # fmt: skip
    lines = {line.label: line for line in sheet.lines}
    assert [entry.cell and entry.cell.value for entry in lines["a"].entries] == [1 / 3, 4 / 3, None]
    assert [entry.cell and entry.cell.value for entry in lines["real images"].entries] == [None, None, 0.5]
    assert [entry.text for entry in lines["b"].entries] == ["failed", "failed", ""] and lines["b"].notes
    assert lines["original"].original and sheet.context["dataset_fingerprint"] == "0123456789abcdef" and not sheet.behind


def test_the_order_of_records_does_not_matter() -> None:
    assert leaderboard(ROWS[::-1]) == leaderboard(ROWS)


def test_doubtful_values_are_not_compared() -> None:
    blind = scored("b", noisy(2, -5.0))
    blind["scores"] = {"error": score(-4.0, doubt="blind")}
    (family,) = compared([*ROWS[:2], blind]).families
    assert [(p.first, p.second) for p in family.pairs] == [("original", "a")] and set(family.ranks) == {"original", "a"}
    assert not compared([ROWS[0], blind]).families


def test_parts_shared_and_secondary_metrics_are_not_compared() -> None:
    for change in ({"part": "U-Net"}, {"shared": True}, {"primary": False}):
        assert not compared([{**r, "metrics": [{**ERROR, **change}]} for r in ROWS]).families


def test_what_has_no_values_by_image_is_named() -> None:
    rows = [fidelity("original", 0.2, 2.0), fidelity("a", 0.1, 1.0)]
    assert "- Not compared between methods, for lack of values by image: KID, FID." in leaderboard(rows)
    assert "### Comparisons" not in leaderboard(rows)
    lost = [*ROWS[:2], {k: v for k, v in ROWS[2].items() if k != LOCAL}]
    text = leaderboard(lost)
    assert "- Not compared between methods, for lack of values by image: Error of b." in text
    assert "### Comparisons" in text and "lack of values" not in leaderboard(ROWS[:1])


def test_values_without_patients_are_not_compared() -> None:
    """Records of older versions."""
    old = scored("b", noisy(2), patients={})
    text = leaderboard([*ROWS[:2], old])
    assert "- Not compared: b. Not every seed has values by image that name their patients: score again with --force score." in text
    assert all("b" not in row[1:3] for row in block(text, "Comparisons"))
    assert "### Comparisons" not in leaderboard([ROWS[0], old])


def test_short_compares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "compare", lambda table: pytest.fail("slow"))
    assert "Error" in short(ROWS)


# -- from files -------------------------------------------------------------------------------------------------------------


def test_comparisons_from_files_wherever_they_lie(tmp_path: Path) -> None:
    for r in ROWS:
        write_run(tmp_path / "runs", r["method"], r[LOCAL].values["error"])
    found, warnings = records.load([tmp_path / "runs"])
    assert not warnings and len(found) == 4
    text = leaderboard(found)
    assert block(text, "Comparisons") == block(leaderboard(ROWS), "Comparisons")
    assert "![a: Quality, box](a/rsna/seed0-1a2b3c4d/scores/x/box.png)" in text, "relative to the results folder"
    shutil.copytree(tmp_path / "runs", tmp_path / "elsewhere" / "results")
    assert leaderboard(records.load([tmp_path / "elsewhere" / "results"])[0]) == text
    digest = text.splitlines()[-1]
    bare = [{k: v for k, v in r.items() if k != LOCAL} for r in found]
    assert leaderboard(bare).splitlines()[-1] == digest, "where files lie does not reach the digest"
    part = leaderboard(records.load([tmp_path / "runs" / "a" / "rsna" / "seed0-1a2b3c4d"])[0])
    assert "![a: Quality, box](scores/x/box.png)" in part


def test_files_of_older_versions(tmp_path: Path) -> None:
    write_run(tmp_path, "original", noisy(0))
    write_run(tmp_path, "a", noisy(1), patients=None)
    found, warnings = records.load([tmp_path])
    assert not warnings
    assert "- Not compared: a. Not every seed has values by image that name their patients" in leaderboard(found)


def test_a_damaged_file_of_values_costs_the_comparison_alone(tmp_path: Path) -> None:
    paths = [write_run(tmp_path, r["method"], r[LOCAL].values["error"]) for r in ROWS[:3]]
    csv = paths[1].with_suffix(".csv")
    whole = csv.read_text()
    for damage in ("", "image_id,patient_id,error\ni00,p00,much\n", "a,b\n1,2\n", whole + whole.splitlines()[1] + "\n", "\x00"):
        csv.write_text(damage)
        found, warnings = records.load([tmp_path])
        assert len(found) == 3 and len(warnings) == 1, damage
        assert warnings[0].startswith(f"{csv} is left out of comparisons: ") and warnings[0].endswith("--force score.")
        assert "lack of values by image: Error of a." in leaderboard(found)
    csv.unlink()
    assert "No such file" in records.load([tmp_path])[1][0]
