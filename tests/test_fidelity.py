"""Fidelity: known distances, protocol (order, subsets, batches), caching and weights."""

import hashlib
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
import torch_fidelity
from scipy import stats
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from bench import records
from bench.contracts import Prior, Score, ScoreJob
from bench.data.imageset import ImageSet, Item
from bench.errors import DataError, PreflightError, UsageError
from evaluators import features, fidelity
from evaluators.distances import frechet, frechet_quick, kernel_distance, standardise
from evaluators.features import INCEPTION
from evaluators.fidelity import DRAWS, FEW, LEAST, PARTS, Fidelity, FidelityConfig
from evaluators.statistics import half_samples
from evaluators.subsamples import halves, shuffled, view_quotas

RNG = np.random.default_rng
WEIGHTS, OTHER_NAME = INCEPTION.names


class TinyPrior(Prior):
    """Random 8-feature network that downsamples by 4."""

    findings, opacity_indices = ("Lung_Opacity",), (0,)

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 8, 4, stride=4)

    def features(self, images: Tensor, relu: bool = True) -> Tensor:
        assert images.dtype == torch.float32
        assert images.abs().max() <= 1
        maps = self.conv(images)
        return maps.relu() if relu else maps

    def classify(self, features: Tensor) -> Tensor:
        return features.mean((1, 2, 3)).sigmoid()[:, None]


def pictures(n: int, seed: int, noise: float = 0.0, size: int = 16) -> np.ndarray:
    """Smooth random pictures with optional pixel noise, n x S x S uint8."""
    rng = RNG(seed)
    base = np.kron(rng.uniform(60, 190, (n, size // 4, size // 4)), np.ones((4, 4)))
    return np.clip(base + noise * RNG(seed + 1).normal(size=base.shape), 0, 255).astype(np.uint8)


def images(array: np.ndarray, domain: str = "opacity", name: str = "toy") -> ImageSet:
    items = [Item(f"i{k}", f"p{k}", domain) for k in range(len(array))]
    return ImageSet(name, items, {"image": array}, hashlib.sha1(array.tobytes()).hexdigest()[:16])


def job(tmp_path: Path, translated: np.ndarray, reference: np.ndarray, domain: str = "opacity", **params: Any) -> ScoreJob:
    config = FidelityConfig(**{"extractor": "cxr", "kid_subsets": 20, "subsamples": 5, **params})
    out, real = images(translated, domain), images(reference, "clear", "reference")
    prior: dict[str, Any] = {"prior": TinyPrior, "prior_id": "abc"} if config.extractor == "cxr" else {}
    return jobs.job(tmp_path, out, config, reference=real, assets=(tmp_path,), **prior)


# Distances


def test_identical_features_have_no_frechet_distance() -> None:
    x = RNG(0).normal(size=(500, 16)).astype(np.float32)
    assert frechet(x, x) == pytest.approx(0, abs=1e-5)


def test_frechet_of_shifted_and_scaled_gaussians_is_analytic() -> None:
    x = RNG(0).normal(size=(4000, 4))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T  # exactly white
    shift, scale = np.array([3.0, 0, -4, 0]), np.array([1.0, 2, 1, 3])
    expected = 25 + ((scale - 1) ** 2).sum()
    assert frechet((x * scale + shift).astype(np.float32), x.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (30, 20), (200, 300)])
def test_quick_frechet_is_the_same_number(n: int, m: int) -> None:
    x, y = RNG(0).normal(size=(n, 64)).astype(np.float32), 1.5 * RNG(1).normal(size=(m, 64)).astype(np.float32)
    assert frechet_quick(x, y) == pytest.approx(frechet(x, y), rel=1e-4)


def test_kernel_distance_of_one_distribution_is_near_nothing() -> None:
    x, y = RNG(0).normal(size=(2, 300, 16)).astype(np.float32)
    mean, std = kernel_distance(x, y, subsets=50, size=100, seed=0)
    assert abs(mean) < 0.1
    assert std > 0
    assert kernel_distance(x + 1, y, 50, 100, 0)[0] > 0.5


def test_kernel_distance_equals_a_float64_computation() -> None:
    x, y = RNG(0).normal(size=(12, 8)), 0.3 + RNG(1).normal(size=(12, 8))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 8 + 1) ** 3

    off = ~np.eye(12, dtype=bool)
    expected = kernel(x, x)[off].mean() + kernel(y, y)[off].mean() - 2 * kernel(x, y).mean()
    mean, std = kernel_distance(x.astype(np.float32), y.astype(np.float32), subsets=1, size=12, seed=0)
    assert mean == pytest.approx(expected, abs=1e-5)
    assert std == 0


def test_standardise_uses_the_reference_and_tames_dead_features() -> None:
    real = RNG(0).normal(5, 3, (400, 3)).astype(np.float32)
    real[:, 2] = 7
    generated, scaled = standardise(real + np.array([3, 0, 1], np.float32), real)
    np.testing.assert_allclose(scaled[:, :2].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled[:, :2].std(0), 1, atol=1e-5)
    assert generated[:, 0].mean() == pytest.approx(1, abs=0.1)
    assert np.isfinite(generated).all()
    assert generated[:, 2].max() < 100


# The evaluator


def test_same_images_score_nothing_and_noise_scores_more_and_more(tmp_path: Path) -> None:
    real = pictures(80, seed=0)
    scores = [Fidelity().score(job(tmp_path, pictures(80, 0, noise), real)) for noise in (0, 15, 40, 90)]
    assert scores[0]["fd_cxr"].value == pytest.approx(0, abs=1e-4)
    for key in ("fd_cxr", "kd_cxr"):
        values = [score[key].value or 0.0 for score in scores]
        assert values == sorted(values)
        assert values[-1] > values[0] + 0.01


def test_keys_and_labels_never_say_fid_for_other_features() -> None:
    assert [(m.key, m.label) for m in Fidelity.metrics(FidelityConfig("cxr"))][:2] == [
        ("kd_cxr", "KD-cxr"),
        ("fd_cxr", "FD-cxr"),
    ]
    assert [m.key for m in Fidelity.metrics(FidelityConfig(repeats=0))] == ["kid", "fid"]
    for extractor, labels in (("cxr", ("KD-cxr", "FD-cxr")), ("inception", ("KID", "FID"))):
        metrics = Fidelity.metrics(FidelityConfig(extractor))
        assert tuple(m.label for m in metrics) == labels * (1 + len(PARTS))
        assert all(m.better == "lower" and m.primary == (not m.part) for m in metrics)
        assert {m.part for m in metrics if m.shared} == {PARTS["floor"]}
        assert len({m.key for m in metrics}) == len(metrics)


def test_only_the_cxr_extractor_needs_the_prior() -> None:
    assert Fidelity.requires(FidelityConfig("cxr")) == {"prior"}
    assert Fidelity.requires(FidelityConfig("inception")) == frozenset()


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(UsageError, match="vgg"):
        FidelityConfig("vgg")
    with pytest.raises(UsageError):
        FidelityConfig(kid_subset_size=1)


def test_equals_torch_fidelity_end_to_end_generated_first(tmp_path: Path) -> None:
    """The whole chain against `calculate_metrics` with the same extractor; swapped, its subsets and so its KID differ."""
    fake, real = pictures(60, 0, noise=20), pictures(90, 5)
    setup = replace(job(tmp_path, fake, real), seed=7)
    found = Fidelity().score(setup)
    a, b = (
        TinyPrior().features(torch.from_numpy(x)[:, None] / 127.5 - 1).mean((2, 3)).detach().numpy() for x in (fake, real)
    )
    table = dict(enumerate(torch.from_numpy(f) for f in standardise(a, b)))

    class Lookup(torch_fidelity.FeatureExtractorBase):  # type: ignore[misc]
        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("x",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "x"

        def forward(self, rows: Tensor) -> tuple[Tensor]:
            return (rows,)

    torch_fidelity.register_feature_extractor("lookup-for-test", Lookup)
    options = {
        "feature_extractor": "lookup-for-test",
        "cuda": False,
        "fid": True,
        "kid": True,
        "verbose": False,
        "cache": False,
    }
    options |= {"kid_subsets": 20, "kid_subset_size": 30, "rng_seed": 7, "save_cpu_ram": True}

    class Rows(torch.utils.data.Dataset[Tensor]):
        def __init__(self, features: Tensor) -> None:
            self.features = features

        def __len__(self) -> int:
            return len(self.features)

        def __getitem__(self, i: int) -> Tensor:
            return self.features[i]

    expected = torch_fidelity.calculate_metrics(input1=Rows(table[0]), input2=Rows(table[1]), **options)
    swapped = torch_fidelity.calculate_metrics(input1=Rows(table[1]), input2=Rows(table[0]), **options)
    assert found["fd_cxr"].value == pytest.approx(expected["frechet_inception_distance"], rel=1e-3, abs=1e-4)
    assert found["kd_cxr"].value == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    assert found["kd_cxr"].std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-3)
    assert found["kd_cxr"].value != pytest.approx(swapped["kernel_inception_distance_mean"], rel=1e-3)
    assert found["kd_cxr"].std_over == "subsets"


def test_batch_size_changes_nothing(tmp_path: Path) -> None:
    fake, real = pictures(30, 0, noise=20), pictures(31, 5)
    one, many = (Fidelity().score(job(tmp_path / str(b), fake, real, batch_size=b)) for b in (1, 64))
    assert [key for key, score in one.items() if score.value is None] == [
        "kd_cxr_views", "fd_cxr_views", "kd_cxr_back", "fd_cxr_back",
    ]  # fmt: skip
    for key in (key for key, score in one.items() if score.value is not None):
        assert one[key].value == pytest.approx(many[key].value, rel=1e-4, abs=1e-6)


def test_subset_size_adapts_and_says_so(tmp_path: Path) -> None:
    scores = Fidelity().score(job(tmp_path, pictures(50, 0), pictures(40, 5)))
    assert "subset size 20" in scores["kd_cxr"].note
    assert "configured: 1000" in scores["kd_cxr"].note
    assert "standardised" in scores["kd_cxr"].note
    assert "n = 50 against 40" in scores["fd_cxr"].note
    assert (
        "subset" not in Fidelity().score(job(tmp_path, pictures(50, 0), pictures(40, 5), kid_subset_size=20))["kd_cxr"].note
    )


def test_too_few_images_give_no_value_but_a_reason(tmp_path: Path) -> None:
    one = Fidelity().score(job(tmp_path, pictures(1, 0), pictures(40, 5)))
    assert one["fd_cxr"].value is None
    assert "two images" in one["fd_cxr"].note
    assert one["kd_cxr"].value is None
    three = Fidelity().score(job(tmp_path, pictures(3, 0), pictures(40, 5)))
    assert three["fd_cxr"].value is not None
    assert three["fd_cxr"].ci is None
    assert three["kd_cxr"].value is None


def test_intervals_contain_the_value_and_can_be_switched_off(tmp_path: Path) -> None:
    scores = Fidelity().score(job(tmp_path, pictures(60, 0, 40), pictures(60, 5)))
    for score in (scores["kd_cxr"], scores["fd_cxr"]):
        assert score.ci is not None
        assert score.value is not None
        assert score.ci[0] < score.value < score.ci[1]
    assert Fidelity().score(job(tmp_path, pictures(60, 0), pictures(60, 5), subsamples=0))["fd_cxr"].ci is None


def test_draws_are_of_the_same_patients_for_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods with other images, names and seeds, in which two images are of one patient."""
    drawn: list[list[tuple[list[int], list[int]]]] = []
    plain = fidelity.half_sample_interval

    def spied(value: float, statistic: Any, *rest: Any) -> Any:
        drawn.append([])

        def seen(a: Any, b: Any) -> float:
            drawn[-1].append((a.tolist(), b.tolist()))
            return float(statistic(a, b))

        return plain(value, seen, *rest)

    monkeypatch.setattr(fidelity, "half_sample_interval", spied)
    names = [f"p{max(k, 1)}" for k in range(40)]
    source = seen(pictures(40, 0), "opacity", ["AP"] * 40, names)
    found = []
    for k, noise in enumerate((10, 60)):
        setup = job(tmp_path, pictures(40, 20 + k, noise), pictures(30, 5), repeats=0)
        out = ImageSet(f"method{k}", source.items, {"image": setup.translated.raw()}, f"out{k}")
        found.append(Fidelity().score(replace(setup, source=source, translated=out, seed=k)))
    assert len(drawn) == 4 and drawn[0] == drawn[2] and drawn[1] == drawn[3] and len(drawn[0]) == 5
    assert len({tuple(a) for a, _ in drawn[0]}) == 5 and all((0 in a) == (1 in a) for a, _ in drawn[0])
    for key in ("kd_cxr", "fd_cxr"):
        one, two = (scores[key] for scores in found)
        assert one.draws is not None and two.draws is not None and len(one.draws) == len(two.draws) == 5
        assert all(a != b for a, b in zip(one.draws, two.draws, strict=True))


def test_draws_are_those_behind_the_interval_and_reach_the_record(tmp_path: Path) -> None:
    setup = job(tmp_path, pictures(40, 0, 40), pictures(40, 5))
    scores = Fidelity().score(setup)
    assert {key for key, score in scores.items() if score.draws} == {"kd_cxr", "fd_cxr"}
    fields = records.score_fields(scores)
    for key in ("kd_cxr", "fd_cxr"):
        score = scores[key]
        assert score.value is not None and score.ci is not None and score.draws is not None
        half = stats.t.ppf(0.975, 4) * np.std(score.draws, ddof=1)
        assert score.ci[1] - score.value == pytest.approx(half)
        assert fields[key]["draws"] == pytest.approx(list(score.draws), rel=1e-7)
    assert "draws" not in fields["kd_cxr_avg"]
    a, b = standardise(own_features(pictures(40, 0, 40)), own_features(pictures(40, 5)))
    names = [f"p{k}" for k in range(40)]
    rows = zip(half_samples(names, 5, DRAWS), half_samples(names, 5, DRAWS + 1), strict=True)
    assert scores["fd_cxr"].draws == pytest.approx([frechet_quick(a[i], b[j]) for i, j in rows], rel=1e-4)
    none = Fidelity().score(replace(setup, params=replace(setup.params, subsamples=0)))
    assert none["fd_cxr"].draws is None and none["fd_cxr"].value == scores["fd_cxr"].value


def test_few_images_on_a_side_are_doubted(tmp_path: Path) -> None:
    enough = Fidelity().score(job(tmp_path, pictures(LEAST, 0), pictures(LEAST, 5)))
    assert {score.doubt for score in enough.values()} == {""}
    few = Fidelity().score(job(tmp_path, pictures(15, 0), pictures(8, 5)))
    for key, score in few.items():
        told = "only 8 reference images: " if key.endswith("floor") else "only 15 translated images and 8 reference images: "
        assert score.doubt.startswith(told) or score.value is None
    assert few["fd_cxr"].value is not None and few["fd_cxr_floor"].value is not None
    one = Fidelity().score(job(tmp_path, pictures(40, 0), pictures(8, 5)))
    assert one["kd_cxr"].doubt.startswith("only 8 reference images: ")


def test_reference_features_are_computed_once(tmp_path: Path) -> None:
    fake, real = pictures(10, 0), pictures(12, 5)
    first, second = Fidelity(), Fidelity()
    a, b = first.score(job(tmp_path, fake, real)), second.score(job(tmp_path, fake, real))
    assert first.extracted == {"translated": 10, "reference": 12}
    assert second.extracted == {"translated": 10}
    assert a == b
    for other in (replace(job(tmp_path, fake, real), prior_id="other"), job(tmp_path, fake, pictures(12, 6))):
        evaluator = Fidelity()
        evaluator.score(other)
        assert evaluator.extracted["reference"] == 12


def test_damaged_cache_is_made_again(tmp_path: Path) -> None:
    setup = job(tmp_path, pictures(10, 0), pictures(12, 5))
    Fidelity().score(setup)
    (path,) = setup.cache.glob("features-*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    evaluator = Fidelity()
    evaluator.score(setup)
    assert evaluator.extracted["reference"] == 12
    assert path.read_bytes() == whole


def test_only_opacity_images_are_compared(tmp_path: Path) -> None:
    fake = pictures(40, 0, 30)
    setup = job(tmp_path, fake, pictures(40, 5))
    items = [replace(item, domain="opacity" if i < 25 else "clear") for i, item in enumerate(setup.source.items)]
    mixed = replace(setup, source=ImageSet("mixed", items, {"image": fake}, "f"))
    scores = Fidelity().score(mixed)
    assert scores["fd_cxr"].n == 25
    assert scores["fd_cxr"].value == Fidelity().score(job(tmp_path, fake[:25], pictures(40, 5)))["fd_cxr"].value
    healthy = Fidelity().score(job(tmp_path, fake, pictures(40, 5), domain="clear"))
    assert healthy["fd_cxr"].n == 40
    assert "no opacity images" in healthy["fd_cxr"].note


def test_a_run_without_prior_is_told(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="prior"):
        Fidelity().score(replace(job(tmp_path, pictures(4, 0), pictures(4, 5)), prior=None, prior_id=""))


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    class Broken(TinyPrior):
        def features(self, images: Tensor, relu: bool = True) -> Tensor:
            return super().features(images, relu) / 0

    with pytest.raises(DataError, match="finite"):
        Fidelity().score(replace(job(tmp_path, pictures(4, 0), pictures(4, 5)), prior=Broken))


# Rows of one fixed n


def seen(array: np.ndarray, domain: str, views: list[str], patients: list[str] | None = None) -> ImageSet:
    plain = images(array, domain)
    names = patients or plain.patients
    items = [replace(item, view=view, patient_id=p) for item, view, p in zip(plain.items, views, names, strict=True)]
    return ImageSet(domain, items, {"image": array}, plain.fingerprint + domain + "".join(views))


def own_features(array: np.ndarray) -> np.ndarray:
    maps = TinyPrior().features(torch.from_numpy(array)[:, None].float() / 127.5 - 1)
    found: np.ndarray = maps.mean((2, 3)).detach().numpy()
    return found


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


# Inception weights


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_missing_weights_say_what_where_and_how(no_home: Path) -> None:
    (line,) = Fidelity.missing_assets(FidelityConfig(), (no_home / "assets",))
    for part in (WEIGHTS, "95,628,359 bytes", INCEPTION.sha256, str(no_home / "assets"), "checkpoints", "https://"):
        assert part in line
    assert "\n" not in line
    assert Fidelity.missing_assets(FidelityConfig("cxr"), ()) == []
    setup = replace(job(no_home, pictures(4, 0), pictures(4, 5), extractor="inception"), assets=(no_home / "assets",))
    with pytest.raises(PreflightError, match=WEIGHTS):
        Fidelity().score(setup)


def test_weights_with_another_digest_are_refused(no_home: Path) -> None:
    (no_home / WEIGHTS).write_bytes(b"something else")
    (problem,) = Fidelity.missing_assets(FidelityConfig(), (no_home,))
    assert f"{no_home / WEIGHTS} has another SHA-256" in problem


def test_weights_are_found_in_order_and_under_either_name(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = replace(INCEPTION, sha256=hashlib.sha256(b"right").hexdigest())
    monkeypatch.setattr(features, "INCEPTION", weights)
    home = no_home / "torch" / "hub" / "checkpoints" / OTHER_NAME
    asset = no_home / "assets" / WEIGHTS
    for path, content in ((home, b"right"), (asset, b"wrong")):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    folders = (asset.parent, home.parent)
    assert Fidelity.missing_assets(FidelityConfig(), folders[:1]) == []
    assert weights.find(folders) == (home, [asset])
    asset.write_bytes(b"right, now")
    assert weights.find(folders) == (home, [asset])
    asset.write_bytes(b"right")
    assert weights.find(folders) == (asset, [])


def test_inception_runs_through_torch_fidelity(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-in weights: only plumbing is tested (channels, depth, keys, counting), not the value."""
    with monkeypatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *a, **k: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
    torch.save(network.state_dict(), no_home / WEIGHTS)
    weights = replace(INCEPTION, sha256=hashlib.sha256((no_home / WEIGHTS).read_bytes()).hexdigest())
    monkeypatch.setattr(features, "INCEPTION", weights)
    monkeypatch.setattr(fidelity, "frechet", frechet_quick)  # 2048 dimensions: the full formula takes seconds
    evaluator = Fidelity()
    setup = job(no_home, pictures(4, 0), pictures(5, 3), extractor="inception", subsamples=0, repeats=0)
    scores = evaluator.score(setup)
    assert evaluator.extracted == {"translated": 4, "reference": 5}
    assert set(scores) == {"fid", "kid"}
    assert scores["kid"].value is not None
    (path,) = setup.cache.glob("features-*.npy")
    assert np.load(path).shape == (5, 2048)
    grey = torch.from_numpy(setup.reference.bytes([0]))[None].expand(1, 3, -1, -1)
    np.testing.assert_allclose(np.load(path)[:1], network(grey)[0].numpy(), rtol=1e-3, atol=1e-5)
