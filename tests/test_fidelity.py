"""Fidelity: known distances, protocol (order, subsets, batches), caching and weights."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from fidelity_tools import RNG, TinyPrior, job, own_features, pictures, seen
from scipy import stats
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from bench import records
from bench.data.imageset import ImageSet
from bench.errors import DataError, PreflightError, UsageError
from evaluators import features, fidelity
from evaluators.distances import frechet, frechet_quick, kernel_distance, standardise
from evaluators.features import INCEPTION
from evaluators.fidelity import DRAWS, LEAST, PARTS, Fidelity, FidelityConfig
from evaluators.statistics import half_samples

WEIGHTS, OTHER_NAME = INCEPTION.names


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
