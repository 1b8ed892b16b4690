"""Methods against each other on the same images: tests by patient, Holm, ranks, marks, and what cannot be compared."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_leaderboard import block, fidelity, metric, record, score

from bench import records
from bench.contracts import Score
from bench.records import LOCAL, Local
from leaderboards import compare as compare_module
from leaderboards.compare import Comparisons, compare
from leaderboards.render import leaderboard, short
from leaderboards.tables import tables

ERROR = metric("error", "Error", "lower", 2, primary=True)
#: Two images a patient, and a patient with one.
IMAGES = [f"i{k:02d}" for k in range(39)]
PATIENTS = {image: f"p{k // 2:02d}" for k, image in enumerate(IMAGES)}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "N_BOOT", 40)


def scored(
    method: str, values: Mapping[str, float], patients: Mapping[str, str] = PATIENTS, metrics: Any = (ERROR,), **changes: Any
) -> dict[str, Any]:
    """A record of `values` by image, whose score is their mean."""
    mean = float(np.mean(list(values.values())))
    key = metrics[0]["key"]
    made = record(method, "quality", metrics=list(metrics), scores={key: score(mean, n=len(values))})
    return {**made, LOCAL: Local("", {key: dict(values)}, dict(patients)), **changes}


def noisy(seed: int, shift: float = 0.0, spread: float = 0.1) -> dict[str, float]:
    """Values that are alike for all seeds but for `spread`, moved by `shift`."""
    base, own = np.random.default_rng(99).normal(1, 1, len(IMAGES)), np.random.default_rng(seed).normal(0, spread, len(IMAGES))
    return dict(zip(IMAGES, (base + own + shift).tolist(), strict=True))


def compared(rows: list[dict[str, Any]]) -> Comparisons:
    (table,) = tables(rows)
    return compare(table)


def by_patient(values: Mapping[str, float]) -> np.ndarray:
    """Means by patient, computed here."""
    return np.array([np.mean([v for i, v in values.items() if PATIENTS[i] == p]) for p in sorted(set(PATIENTS.values()))])


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
    found = compared(ROWS)
    best, second = sorted("ab", key=lambda m: np.mean(list(next(r for r in ROWS if r["method"] == m)[LOCAL].values["error"].values())))
    assert found.near == {("quality", "error"): frozenset(second)}
    text = leaderboard(ROWS)
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if line.startswith("|")}
    assert cells[best].startswith("**") and cells[second].endswith(" ‡")
    assert "‡" not in cells["c"] + cells["original"]
    assert "- ‡ not distinguishable from the best (Holm p ≥ 0.05, see Comparisons)." in text
    clear = [scored("original", noisy(0)), scored("a", noisy(1, -0.5))]
    assert "‡" not in leaderboard(clear)


def test_five_patients_prove_nothing() -> None:
    """The normal approximation gives 0.043 where the exact test cannot go below 0.0625."""
    images = IMAGES[:5]
    whose = {image: image for image in images}
    rows = [scored("original", dict.fromkeys(images, 1.0), whose), scored("a", {i: 0.5 - k / 9 for k, i in enumerate(images)}, whose)]
    (pair,) = compared(rows).families[0].pairs
    assert pair.paired.p < 0.05 and pair.p == 0.0625 and pair.p_holm == 0.0625
    assert compared(rows).near[("quality", "error")] == {"original"}


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
    assert "- Several seeds are averaged image by image first: a." in leaderboard(rows)
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
    assert not unranked.families[0].ranks and len(unranked.families[0].pairs) == 6 and not unranked.near[("quality", "error")]


def test_the_section() -> None:
    text = leaderboard(ROWS[:2])
    rows = block(text, "Comparisons")
    assert rows[0] == ["Metric", "A", "B", "Shift B - A [95 % CI]", "Effect", "Patients", "p", "p (Holm)"]
    assert rows[1][:3] == ["Error ↓", "original", "a"] and rows[1][4:] == ["-1.00", "20", "<0.001", "<0.001"]
    assert re.fullmatch(r"-0\.\d\d \[-0\.\d\d, -0\.\d\d\]", rows[1][3])
    assert rows[2] == ["Metric", "Method", "Rank [95 % CI]", "P(first)", "Patients"]
    assert rows[3] == ["Error ↓", "a", "1 [1, 1]", "1.00", "20"]
    assert "- Paired Wilcoxon over 20 patients, Holm over 1 comparison.\n" in text
    assert "Holm over 6 comparisons.\n" in leaderboard(ROWS)
    assert "<details>" not in text
    many = [scored(f"m{k}", noisy(k)) for k in range(9)]
    assert leaderboard(many).count("<details><summary>All pairs</summary>\n\n|") == 1, "36 pairs are folded"


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
    assert "- Not compared: b. The values by image do not name their patients: score again with --force score." in text
    assert all("b" not in row[1:3] for row in block(text, "Comparisons"))
    assert "### Comparisons" not in leaderboard([ROWS[0], old])


def test_short_compares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "compare", lambda table: pytest.fail("slow"))
    assert "Error" in short(ROWS)


# -- from files -------------------------------------------------------------------------------------------------------------


def write_run(root: Path, method: str, values: Mapping[str, float], patients: Mapping[str, str] | None = PATIENTS) -> Path:
    """A run's record and its values by image, written as a run writes them."""
    path = root / method / "rsna" / "seed0-1a2b3c4d" / "records" / "rsna--quality-12345678.json"
    scores = {"error": Score(float(np.mean(list(values.values()))), len(values), per_image=values)}
    name = records.write_per_image(path.with_suffix(".csv"), scores, patients)
    made = record(method, "quality", metrics=[ERROR], scores=records.score_fields(scores))
    records.write(path, {**made, "per_image": name, "figures": ["scores/x/box.png"]})
    return path


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
    assert "- Not compared: a. The values by image do not name their patients" in leaderboard(found)


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
