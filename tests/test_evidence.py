"""Which test there is between two values: over patients, over seeds, by draws; the family of marks; the same marks everywhere."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from compare_tools import IMAGES, PATIENTS, by_patient, compared, marked, noisy, scored
from leaderboard_tools import block, metric, record, score
from paper_tools import CXR, made
from scipy import stats

from bench.records import LOCAL, Local
from evaluators.statistics import holm, paired_p
from leaderboards import formats, general, paper
from leaderboards.evidence import DRAWS, PAIRED, Evidence, Verdict, over_seeds
from leaderboards.marks import OVERLAP, Ranking
from leaderboards.render import leaderboard, short
from leaderboards.sheet import BEST, SECOND, TIE
from leaderboards.tables import Table, tables


def between(table: Table, key: str, one: str, other: str) -> Verdict | None:
    rows = {row.label: row for row in table.rows}
    column = next(c for c in table.columns if c.key == key)
    return Evidence().between((rows[one], column), (rows[other], column))


# -- seeds -------------------------------------------------------------------------------------------------------------------

#: Patients agree that `a` is better in the mean, by one seed of three alone.
LUCKY = [scored("a", noisy(1, shift, 0.01), seed=s) for s, shift in enumerate((-0.9, 0.05, 0.05))]
STEADY = [scored("a", noisy(1, shift, 0.01), seed=s) for s, shift in enumerate((-0.31, -0.30, -0.29))]
BASE = [scored("b", noisy(2, shift, 0.01), seed=s) for s, shift in enumerate((0.0, 0.01, -0.01))]


def test_a_lucky_seed_is_no_significant_win() -> None:
    (pair,) = compared([*LUCKY, *BASE]).families[0].pairs
    seeds = [[float(by_patient(r[LOCAL].values["error"]).mean()) for r in rows] for rows in (LUCKY, BASE)]
    assert pair.p == pytest.approx(stats.ttest_ind(*seeds).pvalue) and pair.p > 0.3 and pair.seeds
    assert paired_p(*pair.values) < 1e-3, "over patients alone it would be certain"
    assert marked([*LUCKY, *BASE]) == {"a": BEST, "b": TIE}
    (pair,) = compared([*STEADY, *BASE]).families[0].pairs
    assert pair.p < 1e-3 and marked([*STEADY, *BASE]) == {"a": BEST, "b": SECOND}
    assert "the larger p of that and of Student's t over seeds" in leaderboard([*LUCKY, *BASE])
    assert not compared([LUCKY[0], BASE[0]]).families[0].pairs[0].seeds, "with one seed each there is nothing to test"


def test_against_the_untranslated_images_seeds_are_one_sample() -> None:
    original = scored("original", noisy(2, 0.0, 0.0))
    (pair,) = compared([original, *LUCKY]).families[0].pairs
    seeds = [float(by_patient(r[LOCAL].values["error"]).mean()) for r in LUCKY]
    fixed = float(by_patient(original[LOCAL].values["error"]).mean())
    assert pair.p == pytest.approx(stats.ttest_1samp(seeds, fixed).pvalue)


def test_a_lone_seed_takes_the_spread_of_the_other_side() -> None:
    first = [1.0, 1.2, 1.4]
    expected = stats.ttest_ind([1.0, 1.2, 1.4], [2.0, 2.0, 2.0]).pvalue
    assert over_seeds([1.0], [2.0]) is None and over_seeds([1.0], [2.0], fixed=True) is None
    gap, error = 0.8, 0.2 * (1 / 3 + 1) ** 0.5
    assert over_seeds(first, [2.0]) == pytest.approx(2 * stats.t.sf(gap / error, 2))
    assert over_seeds(first, [2.0, 2.0, 2.0]) == pytest.approx(expected)
    assert over_seeds([1.0, 1.0], [2.0, 2.0]) == 0.0 and over_seeds([1.0, 1.0], [1.0, 1.0]) == 1.0


# -- draws -------------------------------------------------------------------------------------------------------------------


def distance(method: str, fd: float, draws: Sequence[float] | None, **changes: Any) -> dict[str, Any]:
    """FD-cxr with an interval of 5 to each side, wide as for few patients."""
    more = {} if draws is None else {"draws": list(draws)}
    scores = {"fd_cxr": score(fd, ci=[fd - 5, fd + 5], **more)}
    about = {"id": "p1", "trained_by": "harness", "findings": ["Edema"]}
    return made(method, "fidelity", scores, metrics=CXR, params={"extractor": "cxr"}, prior=about, **changes)


def draws(fd: float, seed: int, own: float = 0.1) -> list[float]:
    """Most of the spread is that of the patients, which all methods share."""
    common = np.random.default_rng(0).normal(0, 2.5, 20)
    return [float(v) for v in fd + common + np.random.default_rng(seed).normal(0, own, 20)]


def test_distances_are_told_apart_by_their_draws() -> None:
    rows = [distance("original", 30.0, draws(30, 1)), distance("a", 20.0, draws(20, 2)), distance("b", 21.0, draws(21, 3)),
            distance("c", 20.02, draws(20.02, 4))]  # fmt: skip
    (table,) = tables(rows)
    found = between(table, "fd_cxr", "a", "b")
    spread = np.std(np.sqrt(draws(20, 2)) - np.sqrt(draws(21, 3)), ddof=1)
    expected = 2 * stats.t.sf((21**0.5 - 20**0.5) / spread, 19)
    assert found and found.ground == DRAWS and found.p == pytest.approx(expected) and found.p < 1e-4
    column = next(c for c in table.columns if c.key == "fd_cxr")
    marks = dict(zip((r.label for r in table.rows), Ranking(table.rows).of(column).marks, strict=True))
    assert marks == {"original": "", "a": BEST, "b": "", "c": TIE}, "intervals of a and b overlap, and their draws do not"
    (sheet,) = paper.sheets(rows, "1")
    told = "\n".join(sheet.below)
    ground = "difference of the distances (roots of what is shown) over its spread on the same resamples of patients, Student's t"
    assert f"Ties of FD-cxr: {ground}; Holm" in told
    assert "overlap" not in told and "by the same resamples of patients: FD-cxr" in leaderboard(rows)


def test_records_without_draws_keep_overlapping_intervals_and_claim_no_test() -> None:
    rows = [distance("original", 30.0, draws(30, 1)), distance("a", 20.0, draws(20, 2)), distance("b", 21.0, None)]
    (table,) = tables(rows)
    assert between(table, "fd_cxr", "a", "b") is None
    found = Ranking(table.rows).of(next(c for c in table.columns if c.key == "fd_cxr"))
    assert found.grounds == {DRAWS, OVERLAP} and found.marks[[r.label for r in table.rows].index("b")] == TIE
    text = leaderboard([distance("a", 20.0, None), distance("b", 21.0, None)])
    (line,) = [one for one in text.splitlines() if one.startswith("- Ties of FD-cxr")]
    assert "overlap" in line and "this is no test" in line and "Holm" not in line
    short_of = [distance("a", 20.0, draws(20, 1)[:5]), distance("b", 21.0, draws(21, 2))]
    assert between(tables(short_of)[0], "fd_cxr", "a", "b") is None, "draws of another length are of other patients"


def test_draws_of_several_seeds_are_averaged_and_seeds_tested_too() -> None:
    seeds = [(15.0, 1), (22.0, 2), (22.0, 3)]
    rows = [distance("a", v, draws(v, s), seed=s) for v, s in seeds]
    rows += [distance("b", v, draws(v, s + 9), seed=s) for v, s in ((20.1, 1), (20.2, 2), (20.3, 3))]
    (table,) = tables(rows)
    found = between(table, "fd_cxr", "a", "b")
    assert found and found.seeds
    assert found.p == pytest.approx(stats.ttest_ind(*np.sqrt([[15.0, 22.0, 22.0], [20.1, 20.2, 20.3]])).pvalue) and found.p > 0.5


def test_a_square_whose_spread_grows_with_it_is_compared_by_its_root() -> None:
    """A kernel distance near 0, which may be below it, against one forty times as large and as uncertain."""
    rng = np.random.default_rng(3)
    near, far = rng.normal(0.2, 0.3, 20), (6 + rng.normal(0, 1.2, 20)) ** 2
    assert near.min() < 0
    (table,) = tables([distance("a", 0.2, near.tolist()), distance("b", 36.0, far.tolist())])
    found = between(table, "fd_cxr", "a", "b")
    assert found and found.p < 0.01 < 2 * stats.t.sf(35.8 / np.std(far - near, ddof=1), 19)


def test_a_seed_without_values_by_image_leaves_no_test_on_the_others() -> None:
    """The mean that is shown is over all seeds."""
    whole = [scored("a", noisy(1, shift, 0.01), seed=s) for s, shift in enumerate((-0.5, 0.4))]
    lost = [whole[0], {k: v for k, v in whole[1].items() if k != LOCAL}]
    base = scored("b", noisy(2, 0.0, 0.01))
    assert len(compared([*whole, base]).families[0].pairs) == 1 and not compared([*lost, base]).families
    assert "Not compared: a. Not every seed has values by image" in leaderboard([*lost, base, scored("c", noisy(3))])


def test_what_is_measured_on_real_images_has_no_spread_over_seeds() -> None:
    shared = metric("error", "Error", "lower", primary=True) | {"shared": True}
    real = [scored("a", noisy(1, 0.0, 0.0), seed=s, metrics=(shared,)) for s in range(3)]
    row, column = (table := tables(real)[0]).rows[0], next(c for c in table.columns if c.key == "error")
    found = Evidence().of((row, column))
    assert found and found.fixed and len(found.seeds) == 3


# -- the family of marks -------------------------------------------------------------------------------------------------------


def crowd() -> list[dict[str, Any]]:
    """The best, one almost as good, and seven that lie apart from both."""
    near = {image: value + 0.004 * (1 if k % 5 else -1.6) for k, (image, value) in enumerate(noisy(1, -2.0, 0.0).items())}
    others = [scored(f"m{k}", noisy(k, -0.1)) for k in range(3, 9)]
    return [scored("original", noisy(0)), scored("best", noisy(1, -2.0, 0.0)), scored("near", near), *others]


def test_ties_with_the_best_are_a_family_of_their_own() -> None:
    rows = crowd()
    (family,) = compared(rows).families
    p = {pair.second if pair.first == "best" else pair.first: pair.p for pair in family.pairs if "best" in (pair.first, pair.second)}
    assert len(p) == 8 and family.against("best") == pytest.approx(dict(zip(p, holm(list(p.values())), strict=True)))
    (pair,) = [one for one in family.pairs if {one.first, one.second} == {"best", "near"}]
    assert pair.p_holm >= 0.05 > family.against("best")["near"], "Holm over all 36 pairs would make it a tie"
    assert marked(rows) == {**dict.fromkeys((r["method"] for r in rows), ""), "best": BEST, "near": SECOND}


def test_methods_that_leave_change_no_mark_of_the_others() -> None:
    """Nine methods against six of them: marks are those of comparisons with the best, and others' differences are no part."""
    rows = crowd()
    whole = marked(rows)
    for gone in (("m3", "m4", "m5"), ("m6", "m7", "m8"), ("original", "m3", "m8")):
        part = marked([r for r in rows if r["method"] not in gone])
        assert part == {name: mark for name, mark in whole.items() if name not in gone}
    assert marked([r for r in rows if r["method"] != "best"])["near"] == BEST, "only where the best itself left"


# -- the same marks everywhere ---------------------------------------------------------------------------------------------------

ERROR = metric("error", "Error", "lower", 2, primary=True)
PLAIN = metric("plain", "Plain", "lower", 2, primary=True)
PART = metric("error/net", "Error", "lower", 2, part="Net")


def several() -> list[dict[str, Any]]:
    """A metric with values by image, one without, and a part with."""
    rows = []
    for k, (method, shift, plain) in enumerate((("original", 0.0, 9.0), ("a", -0.5, 5.0), ("b", -0.5, 5.4), ("c", -0.2, 7.0))):
        values = noisy(k, shift)
        mean = float(np.mean(list(values.values())))
        scores = {"error": score(mean), "plain": score(plain, ci=[plain - 0.5, plain + 0.5]), "error/net": score(mean)}
        made_ = record(method, "quality", metrics=[ERROR, PLAIN, PART], scores=scores)
        rows.append({**made_, LOCAL: Local("", {"error": values}, PATIENTS, more={"error/net": values})})
    return rows


def test_ties_are_marked_in_every_column_of_every_output() -> None:
    rows = several()
    best, tie = sorted("ab", key=lambda m: next(r["scores"]["error"]["value"] for r in rows if r["method"] == m))
    expected = {
        "quality/error": {best: BEST, tie: TIE, "c": "", "original": ""},
        "quality/plain": {"a": BEST, "b": TIE, "c": "", "original": ""},
        "quality/error/net": {best: BEST, tie: TIE, "c": "", "original": ""},
    }
    sheets = general.sheets(rows)
    for key, marks in expected.items():
        index = [head.key for head in sheets[0].heads].index(key)
        assert {line.label: line.entries[index].mark for line in sheets[0].lines} == marks, key
    found = [r for r in csv.DictReader(io.StringIO(formats.write(sheets, "csv"))) if r["sheet"] == "general"]
    for key, marks in expected.items():
        assert {r["line"]: r["mark"] for r in found if r["head"] == key} == marks
    (whole,) = json.loads(formats.write(sheets, "json"))["sheets"]
    assert {e["mark"] for line in whole["lines"] for e in line["entries"]} == {BEST, TIE, ""}
    text = leaderboard(rows)
    assert text.count(" ‡") >= 4 and "5.40 ‡ [4.90, 5.90]" in text, "headline, and the table of parts"
    assert [row[1] for row in block(text, "Quality by part") if "‡" in row[2]] == [tie]
    brief = short(rows)
    assert "5.00 *" in brief and "5.40 ~" in brief and "Marks, by column: *: best; ~: not shown to differ from the best." in brief


def test_marks_of_a_metric_by_image_rest_on_the_paired_test() -> None:
    (table,) = tables(several())
    columns = {c.key: c for c in table.columns}
    ranking = Ranking(table.rows)
    assert ranking.of(columns["error"]).grounds == ranking.of(columns["error/net"]).grounds == {PAIRED}
    assert ranking.of(columns["plain"]).grounds == {OVERLAP}
    assert len(IMAGES) == 39 and len(set(PATIENTS.values())) == 20
