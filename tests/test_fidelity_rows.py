"""Fidelity: the rows of one fixed number of images, their floor, views and patients."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from fidelity_tools import RNG, TinyPrior, job, own_features, pictures, seen

from bench.contracts import Score
from bench.data.imageset import ImageSet, Item
from bench.errors import UsageError
from evaluators import features, fidelity
from evaluators.distances import frechet, kernel_distance, standardise
from evaluators.fidelity import DRAWS, FEW, Fidelity, FidelityConfig
from evaluators.subsamples import halves, shuffled, view_quotas

# Rows of one fixed n


def test_whole_sets_score_what_they_did_without_the_rows(tmp_path: Path) -> None:
    setup = job(tmp_path, pictures(40, 0, 20), pictures(34, 5))
    alone = Fidelity().score(replace(setup, params=replace(setup.params, repeats=0)))
    assert set(alone) == {"kd_cxr", "fd_cxr"}
    assert {key: score for key, score in Fidelity().score(setup).items() if key in alone} == alone
    assert set(Fidelity().score(setup)) == {m.key for m in Fidelity.metrics(setup.params)}


def test_average_and_floor_stand_at_one_n_and_match_a_direct_computation(tmp_path: Path) -> None:
    fake, real = pictures(40, 0, 20), pictures(34, 5)
    scores = Fidelity().score(job(tmp_path, fake, real, repeats=4))
    a, b = standardise(own_features(fake), own_features(real))
    average, floor = [], []
    for k in range(4):
        rng = RNG([DRAWS, k])
        rows = shuffled([f"p{i}" for i in range(40)], rng)[:17], shuffled([f"p{i}" for i in range(34)], rng)[:17]
        average.append((kernel_distance(a[rows[0]], b[rows[1]], 1, 17, 0)[0], frechet(a[rows[0]], b[rows[1]])))
        rows = halves([f"p{i}" for i in range(34)], 17, RNG([DRAWS, k]))
        floor.append((kernel_distance(b[rows[0]], b[rows[1]], 1, 17, 0)[0], frechet(b[rows[0]], b[rows[1]])))
    for suffix, expected in (("avg", np.array(average)), ("floor", np.array(floor))):
        for i, key in enumerate(("kd_cxr", "fd_cxr")):
            score = scores[f"{key}_{suffix}"]
            assert score.value == pytest.approx(expected[:, i].mean(), rel=1e-3, abs=1e-4)
            assert score.std == pytest.approx(expected[:, i].std(ddof=1), rel=1e-3, abs=1e-4)
            assert (score.n, score.std_over) == (17, "subsamples")
            assert "4 subsamples of 17 images a side" in score.note
    assert scores["fd_cxr_floor"].value < scores["fd_cxr_avg"].value  # type: ignore[operator]


def test_fixed_n_is_capped_and_the_same_for_every_method(tmp_path: Path) -> None:
    real = pictures(40, 5)
    first, second = (Fidelity().score(job(tmp_path, fake, real, fixed_n=12)) for fake in (pictures(30, 0), pictures(30, 9)))
    for scores in (first, second):
        assert {s.n for key, s in scores.items() if key.endswith(("avg", "floor"))} == {12}
    assert first["kd_cxr_floor"] == second["kd_cxr_floor"]
    few = Fidelity().score(job(tmp_path, pictures(5, 0), real))
    assert few["fd_cxr_avg"].n == few["fd_cxr_floor"].n == 5
    one = Fidelity().score(job(tmp_path, pictures(1, 0), real))
    assert one["fd_cxr_avg"].value is one["fd_cxr_floor"].value is None
    assert "two opacity images" in one["fd_cxr_avg"].note


def test_floor_is_computed_once_and_by_prepare(tmp_path: Path) -> None:
    fake, real = pictures(30, 0), pictures(24, 5)
    setup = job(tmp_path, fake, real)
    evaluator = Fidelity()
    evaluator.prepare(jobs.prepare_job(
        tmp_path, setup.source, setup.params, reference=setup.reference, prior=TinyPrior, prior_id="abc"
    ))  # fmt: skip
    assert evaluator.extracted == {"reference": 24}
    (path,) = (setup.cache / "fits" / "arrays").glob("fidelity-floor-*")
    written = path.stat().st_mtime_ns
    scores = evaluator.score(setup)
    assert evaluator.extracted == {"translated": 30}
    other = evaluator.score(replace(setup, seed=7))
    assert path.stat().st_mtime_ns == written
    assert list(path.parent.iterdir()) == [path]
    for suffix in ("floor", "avg"):
        assert scores[f"fd_cxr_{suffix}"] == other[f"fd_cxr_{suffix}"]  # the seed is the method's; the draws are not


def test_a_perfect_translator_reaches_the_floor(tmp_path: Path) -> None:
    """Other images of the reference's own distribution are as far from it as its halves are from each other."""
    every = pictures(400, 3)
    scores = Fidelity().score(job(tmp_path, every[:200], every[200:], repeats=10))
    average, floor = scores["fd_cxr_avg"], scores["fd_cxr_floor"]
    assert average.value == pytest.approx(floor.value, rel=0.35)
    assert Fidelity().score(job(tmp_path, pictures(200, 3, 60), every[200:]))["fd_cxr_avg"].value > 2 * average.value  # type: ignore[operator]


def test_floor_keeps_patients_apart() -> None:
    patients = [f"p{i // 3}" for i in range(20)] + ["many"] * 9
    for k in range(20):
        a, b = halves(patients, 10, RNG(k))
        assert not {patients[i] for i in a} & {patients[i] for i in b}
        assert len(a) == len(b) == 10
        assert len(set(a.tolist()) | set(b.tolist())) == 20


def test_patient_with_many_images_lowers_n_so_that_both_halves_have_it(tmp_path: Path) -> None:
    array = pictures(29, 5)
    reference = seen(array, "clear", [""] * 29, [f"p{i // 3}" for i in range(20)] + ["many"] * 9)
    scores = Fidelity().score(replace(job(tmp_path, pictures(40, 0), array), reference=reference))
    assert scores["fd_cxr_floor"].n == scores["fd_cxr_avg"].n == (29 + 1 - 9) // 2
    alone = seen(array, "clear", [""] * 29, ["one"] * 29)
    none = Fidelity().score(replace(job(tmp_path, pictures(40, 0), array), reference=alone))
    assert none["fd_cxr_floor"].value is None
    assert "patients" in none["kd_cxr_floor"].note


def test_subsamples_take_whole_patients_in_turn() -> None:
    patients = list("aabbbcddeeff")
    order = [patients[i] for i in shuffled(patients, RNG(0))]
    assert sorted(order) == sorted(patients)
    assert len(list(itertools.groupby(order))) == 6


def test_view_quotas_by_hand() -> None:
    opacity = Counter(AP=78, PA=22)
    assert view_quotas(opacity, Counter(AP=1637, PA=7214), 1000) == {"AP": 780, "PA": 220}
    assert view_quotas(opacity, Counter(AP=39, PA=7214), 1000) == {"AP": 39, "PA": 11}
    assert view_quotas(opacity, Counter(AP=39, PA=7214), 10) == {"AP": 8, "PA": 2}
    assert view_quotas(opacity, Counter(PA=500), 100) == {}
    assert view_quotas(Counter(AP=1, PA=1, LAT=1), Counter(AP=5, PA=5, LAT=5), 10) == {"AP": 4, "LAT": 3, "PA": 3}


def test_reference_with_the_views_of_the_opacity_images(tmp_path: Path) -> None:
    """Clear images are bright where PA; opacity images are AP only, as the reference's AP half: matched, nothing is left."""
    dark, bright = pictures(80, 0), pictures(40, 3) // 2 + 120
    reference = seen(np.concatenate([dark[40:], bright]), "clear", ["AP"] * 40 + ["PA"] * 40)
    opacity = seen(dark[:40], "opacity", ["AP"] * 40)
    setup = replace(job(tmp_path, dark[:40], dark), source=opacity, translated=opacity, reference=reference)
    scores = Fidelity().score(setup)
    assert scores["kd_cxr_views"].value < 0.1 * scores["kd_cxr_avg"].value  # type: ignore[operator]
    assert "reference of 40 AP" in scores["kd_cxr_views"].note
    assert scores["kd_cxr_views"].n == scores["kd_cxr_avg"].n == 40


def test_views_that_are_unknown_or_lacking_give_a_reason(tmp_path: Path) -> None:
    def score(opacity: list[str], clear: list[str]) -> Score:
        fake, real = seen(pictures(12, 0), "opacity", opacity), seen(pictures(16, 5), "clear", clear)
        base = job(tmp_path, pictures(12, 0), pictures(16, 5))
        return Fidelity().score(replace(base, source=fake, translated=fake, reference=real))["fd_cxr_views"]

    assert score([""] * 12, ["AP"] * 16).value is None
    assert "not known" in score([""] * 12, ["AP"] * 16).note
    assert score(["AP"] * 12, ["PA"] * 16).value is None
    assert "too few images of the opacity images' views (AP)" in score(["AP"] * 12, ["PA"] * 16).note
    partly = score(["AP"] * 6 + ["PA"] * 3 + [""] * 3, ["AP"] * 4 + ["PA"] * 12)
    assert partly.n == 6
    assert "reference of 4 AP, 2 PA; no more than 6" in partly.note
    assert "3 of 12 opacity images have no view" in partly.note


def test_reverse_direction_is_scored_where_there_is_one(tmp_path: Path) -> None:
    assert Fidelity.directions(FidelityConfig("cxr")) == ("a2b", "b2a")
    assert Fidelity.directions(FidelityConfig("cxr", repeats=0)) == ("a2b",)  # no row needs them
    array = pictures(60, 0, 30)
    items = [Item(f"i{k}", f"p{k}", "opacity" if k < 30 else "clear") for k in range(60)]
    source = ImageSet("both", items, {"image": array}, "both")
    perfect = seen(array[:30], "clear", [""] * 30)
    setup = jobs.job(
        tmp_path, source, FidelityConfig("cxr", subsamples=0), back=perfect, prior=TinyPrior, prior_id="abc"
    )  # fmt: skip
    evaluator = Fidelity()
    scores = evaluator.score(setup)
    assert evaluator.extracted == {"translated": 30, "reference": 30, "back": 30, "source": 30}
    assert scores["kd_cxr_back"].n == 15
    worse = ImageSet("back", perfect.items, {"image": array[:30] // 2}, "worse")
    other = evaluator.score(replace(setup, back=worse))
    assert evaluator.extracted == {"translated": 30, "back": 30}  # the real opacity images' features are kept
    assert other["kd_cxr_back"].value > scores["kd_cxr_back"].value + 1  # type: ignore[operator]
    assert {k: v for k, v in other.items() if "back" not in k} == {k: v for k, v in scores.items() if "back" not in k}
    none = Fidelity().score(replace(setup, back=None))["fd_cxr_back"]
    assert none.value is None
    assert "no images from clear to opacity" in none.note


def test_one_repeat_has_no_spread_and_parameters_are_checked(tmp_path: Path) -> None:
    score = Fidelity().score(job(tmp_path, pictures(10, 0), pictures(10, 5), repeats=1))["fd_cxr_avg"]
    assert score.value is not None
    assert (score.std, score.std_over) == (None, "")
    with pytest.raises(UsageError, match="repeats"):
        FidelityConfig(repeats=-1)
    with pytest.raises(UsageError, match="fixed_n"):
        FidelityConfig(fixed_n=1)


# Sizes of the published protocol


def test_a_hundred_subsets_of_a_thousand_where_there_are_enough_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random features in place of a network's. The caveat on few images goes with them."""
    calls: list[tuple[int, int]] = []
    table = {2100: RNG(0).normal(size=(2100, 16)).astype(np.float32), 2048: RNG(1).normal(size=(2048, 16)).astype(np.float32)}
    monkeypatch.setattr(features.Extractor, "features", lambda self, images, name: table[len(images)])

    def counted(a: np.ndarray, b: np.ndarray, subsets: int, size: int, seed: int) -> tuple[float, float]:
        calls.append((subsets, size))
        return kernel_distance(a, b, subsets, size, seed)

    monkeypatch.setattr(fidelity, "kernel_distance", counted)
    blank = np.zeros((2100, 4, 4), np.uint8)
    default: dict[str, Any] = {"kid_subsets": FidelityConfig().kid_subsets, "subsamples": 0, "repeats": 1}
    enough = Fidelity().score(job(tmp_path, blank, blank[:FEW], **default))
    assert calls == [(100, 1000), (1, 1000), (1, 1000)]  # the whole sets; average and floor at n = 1000
    assert "subset size" not in enough["kd_cxr"].note
    assert "biased" not in enough["fd_cxr"].note
    assert "biased upwards at n = 1000 against 1000 (fewer than 2048)" in enough["fd_cxr_avg"].note
    table[2047] = table[2048][1:]
    assert "biased upwards at n = 2100 against 2047" in Fidelity().score(
        job(tmp_path, blank, blank[:2047], **default)
    )["fd_cxr"].note  # fmt: skip
