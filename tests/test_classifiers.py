"""Architectures, start weights, folds and cross-fitting, with a small network in the place of the four."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from bench.assets import locate
from bench.config import TrainConfig
from bench.contracts import LabelledBatch
from bench.data.imageset import ImageSet, Item
from bench.errors import BenchError, PreflightError, UsageError
from bench.fits import Fits, curves_of, stage_of
from bench.tracking.curves import rows_of
from evaluators import classifiers, crossfit
from evaluators.classifiers import ARCHITECTURES, Architecture, Recipe, misfit, network, settle
from evaluators.crossfit import BalancedBatches, Examples, cross_fit, patient_folds

TINY = Recipe(folds=2, iterations=3, batch_size=4, lr=1e-3)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "resnet50", Architecture("ResNet50", "test_resnet"))
    monkeypatch.setattr(crossfit, "SETTLING", 2)


def pictures(n: int = 12, side: int = 32, bits: int = 8, seed: int = 0) -> ImageSet:
    """Noise; every other image has a bright square. Two images a patient."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (n, side, side))
    pixels[::2, 8:20, 8:20] += 120
    planes = {"image": pixels.astype(np.uint8) if bits == 8 else (pixels * 257).astype(np.uint16)}
    items = [Item(f"i{k}", f"p{k // 2 % (n // 2)}", ("opacity", "clear")[k % 2]) for k in range(n)]
    return ImageSet("toy", items, planes, f"f{n}-{bits}-{seed}")


def examples(images: ImageSet, folds: int = 2) -> Examples:
    label = np.array([domain == "opacity" for domain in images.domains])
    fold, _ = patient_folds(label, images.patients, folds, 0)
    assert fold is not None
    n, yes = len(images), np.ones(len(images), bool)
    return Examples(((images, "image"),), np.zeros(n, np.int64), np.arange(n), label, fold, yes, yes)


# Facts of the networks


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet50", 23.50), ("mobilenetv1_100", 3.21), ("efficientnet_b0", 4.01), ("densenet121", 6.95)]
)
def test_parameters_of_the_four(name: str, millions: float) -> None:
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=1, in_chans=1)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_the_four_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    names = {key: value.timm for key, value in ARCHITECTURES.items()}
    assert names == {
        "resnet50": "resnet50", "mobilenet": "mobilenetv1_100", "efficientnet": "efficientnet_b0", "densenet": "densenet121",
    }  # fmt: skip


def test_an_untrained_network_is_undecided() -> None:
    net = network("resnet50").eval()
    assert net(torch.randn(3, 1, 32, 32)).shape == (3, 1)
    assert net(torch.randn(3, 1, 32, 32)).abs().max() == 0


# Start weights


def saved(path: Path, name: str, **options: int) -> Path:
    torch.manual_seed(1)
    torch.save(timm.create_model(name, **options).state_dict(), path)
    return path


def test_rgb_weights_are_summed_to_one_channel(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", "test_resnet", num_classes=7)
    state, net = torch.load(path, weights_only=True), network("resnet50", path).state_dict()
    stem = "conv1.0.weight" if "conv1.0.weight" in state else "conv1.weight"
    torch.testing.assert_close(net[stem], state[stem].sum(1, keepdim=True))
    deep = next(key for key in state if key.startswith("layer3") and key.endswith("weight"))
    assert torch.equal(net[deep], state[deep])
    assert net["fc.weight"].shape[0] == 1


def test_one_channel_weights_are_taken_as_they_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", "test_resnet", in_chans=1, num_classes=1)
    state, net = torch.load(path, weights_only=True), network("resnet50", path).state_dict()
    stem = next(key for key in state if state[key].dim() == 4)
    assert torch.equal(net[stem], state[stem])


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.pth", "test_efficientnet")
    with pytest.raises(PreflightError, match=r"vit\.pth does not hold a test_resnet: .* tensors .*leave resnet50 out"):
        network("resnet50", path)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", "test_resnet")
    state = torch.load(path, weights_only=True)
    key = next(k for k in state if k.startswith("layer2") and state[k].dim() == 4)
    torch.save({**state, key: state[key][:1]}, path)
    assert key in misfit("resnet50", path)


def test_weights_that_would_run_code(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "whole.pth")
    assert "cannot be loaded safely" in misfit("resnet50", tmp_path / "whole.pth")
    (tmp_path / "text.pth").write_text("no")
    assert "cannot be loaded safely" in misfit("resnet50", tmp_path / "text.pth")


def test_files_are_looked_for_below_the_asset_folders(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"")
    assert locate(Path("w.pth"), (tmp_path / "none", tmp_path)) == tmp_path / "w.pth"
    assert locate(tmp_path / "w.pth", ()) == tmp_path / "w.pth"
    assert locate(Path("v.pth"), (tmp_path,)) is None


# Recipe


@pytest.mark.parametrize(
    "wrong", [{"folds": 1}, {"batch_size": 3}, {"iterations": 0}, {"lr": 0.0}, {"label_smoothing": 1.0}, {"precision": "fp16"}]
)
def test_impossible_recipes(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(wrong))}: "):
        replace(TINY, **wrong)  # type: ignore[arg-type]


# Folds


def test_folds_keep_patients_together_and_hold_both_classes() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{k}" for k in rng.integers(0, 40, 120)]
    label = rng.random(120) < 0.3
    fold, remark = patient_folds(label, patients, 5, 0)
    assert fold is not None
    assert remark == ""
    assert set(fold) == set(range(5))
    for k in range(5):
        assert not {p for p, f in zip(patients, fold, strict=True) if f == k} & {
            p for p, f in zip(patients, fold, strict=True) if f != k
        }
        assert set(label[fold == k]) == {True, False}
    again, _ = patient_folds(label, patients, 5, 0)
    assert np.array_equal(fold, again)


def test_few_patients_give_fewer_folds() -> None:
    label = np.array([True] * 6 + [False] * 10)
    patients = [f"a{k // 2}" for k in range(6)] + [f"b{k}" for k in range(10)]
    fold, remark = patient_folds(label, patients, 5, 0)
    assert fold is not None
    assert fold.max() == 2
    assert remark == "3 folds instead of 5: there are 3 opacity patients"


def test_one_patient_of_a_class() -> None:
    label = np.array([True] * 6 + [False] * 10)
    fold, remark = patient_folds(label, ["a"] * 6 + [f"b{k}" for k in range(10)], 5, 0)
    assert fold is None
    assert "1 patients with opacity images" in remark


@pytest.mark.parametrize(("value", "name"), [(True, "opacity"), (False, "clear")])
def test_one_class(value: bool, name: str) -> None:
    fold, remark = patient_folds(np.full(6, value), list("abcdef"), 2, 0)
    assert fold is None
    assert remark == f"all test images are {name}: one class cannot be learnt or told apart"


# Training data


def test_batches_are_half_of_each_class_and_see_every_image() -> None:
    some = examples(pictures(20))
    source = BalancedBatches(some, some.learnt(0), TINY)
    batch = source.batch(source[5], CPU)
    assert batch.image.shape == (4, 1, 32, 32)
    assert batch.labels[:, 0].tolist() == [1, 1, 0, 0]
    seen = [tuple(image.ravel()[:8].tolist()) for step in range(20) for image in source[step]["image"]]
    assert len(set(seen)) == len(some.learnt(0))
    assert torch.equal(source[3]["image"], BalancedBatches(some, some.learnt(0), TINY)[3]["image"])


def test_deep_images_are_seen_in_eight_bits() -> None:
    shallow, deep = examples(pictures()), examples(pictures(bits=16))
    assert deep.bytes([0, 3]).dtype == np.uint8
    assert np.array_equal(shallow.bytes([0, 3]), deep.bytes([0, 3]))


def test_a_patient_on_both_sides_is_refused() -> None:
    some = examples(pictures())
    for fold in (0, 1):
        some.disjoint(fold)
    torn = some.fold.copy()
    torn[0] = 1 - torn[0]
    with pytest.raises(BenchError, match="patient p0 is learnt from and tested on"):
        replace(some, fold=torn).disjoint(0)


# Cross-fitting


def test_every_image_is_tested_once_by_a_classifier_of_other_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(16)
    some, learnt, tested = examples(images), [], []
    real_fit, real_predict = crossfit.fit, crossfit.predict

    def fit(model: nn.Module, source: BalancedBatches, *rest: object, **more: object) -> object:
        learnt.append({images.patients[i] for rows in source.rows.values() for i in rows})
        return real_fit(model, source, *rest, **more)  # type: ignore[arg-type]

    def predict(net: nn.Module, given: Examples, rows: np.ndarray, *rest: object) -> list[float]:
        tested.append(rows.tolist())
        return real_predict(net, given, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(crossfit, "fit", fit)
    monkeypatch.setattr(crossfit, "predict", predict)
    found = cross_fit(Fits(tmp_path, CPU, quiet=True), some, "resnet50", TINY, "original")
    assert sorted(i for rows in tested for i in rows) == list(range(16))
    for patients, rows in zip(learnt, tested, strict=True):
        assert not patients & {images.patients[i] for i in rows}
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_it_learns_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, recipe, fits = examples(pictures(24)), replace(TINY, iterations=15, batch_size=8), Fits(tmp_path, CPU, quiet=True)
    first = cross_fit(fits, some, "resnet50", recipe, "original")
    assert first[some.label].min() > first[~some.label].max()
    facts = fits.used["resnet50-original"]
    assert facts["start"] == "from scratch"
    assert facts["learnt_from"][0] == {"opacity": 6, "clear": 6}
    assert not list(tmp_path.rglob("*.pth"))  # weights of hundreds of classifiers are not kept
    (place,) = (tmp_path / "fits").glob("resnet50-original-*")
    curves = dict(curves_of(place)[1:])  # their losses are, for trackers
    assert len(curves) == facts["folds"] and all(stage.startswith(f"{stage_of(place)}-fold-") for stage in curves)
    assert all([step for step, _ in rows_of(log)][-1] == 15 for log in curves.values())

    def untrained(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(crossfit, "fit", untrained)
    assert np.array_equal(cross_fit(Fits(tmp_path, CPU, quiet=True), some, "resnet50", recipe, "original"), first)
    with pytest.raises(AssertionError, match="trained again"):
        cross_fit(fits, examples(pictures(24, seed=1)), "resnet50", recipe, "original")
    with pytest.raises(AssertionError, match="trained again"):
        cross_fit(fits, replace(some, label=~some.label), "resnet50", recipe, "original")
    with pytest.raises(AssertionError, match="trained again"):
        cross_fit(fits, some, "resnet50", replace(recipe, lr=2e-3), "original")


def test_an_interrupted_cross_fit_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, trained = examples(pictures()), []
    whole = cross_fit(Fits(tmp_path / "whole", CPU, quiet=True), some, "resnet50", TINY, "original")
    real = crossfit.fit

    def stops(model: nn.Module, *rest: object, **more: object) -> object:
        trained.append(rest[2])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(model, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(crossfit, "fit", stops)
    with pytest.raises(KeyboardInterrupt):
        cross_fit(Fits(tmp_path, CPU, quiet=True), some, "resnet50", TINY, "original")
    again = cross_fit(Fits(tmp_path, CPU, quiet=True), some, "resnet50", TINY, "original")
    assert len(trained) == 3  # the first fold was not trained again
    assert np.array_equal(again, whole)


def test_an_interrupted_fold_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Recipe, "train", property(lambda self: TrainConfig(iterations=4, batch_size=4, channels_last=True, checkpoint_interval=2))
    )
    some, recipe, steps, real = examples(pictures()), replace(TINY, iterations=4), [], classifiers.Classifier.step
    whole = cross_fit(Fits(tmp_path / "whole", CPU, quiet=True), some, "resnet50", recipe, "original")

    def stops(self: classifiers.Classifier, batch: LabelledBatch, *rest: object) -> dict[str, torch.Tensor]:
        steps.append(batch.draws.step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(self, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(classifiers.Classifier, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        cross_fit(Fits(tmp_path, CPU, quiet=True), some, "resnet50", recipe, "original")
    again = cross_fit(Fits(tmp_path, CPU, quiet=True), some, "resnet50", recipe, "original")
    assert steps == [0, 1, 2, 3, 2, 3, 0, 1, 2, 3]
    assert np.array_equal(again, whole)


def test_values_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossfit, "predict", lambda *_: [float("nan")] * 6)
    with pytest.raises(BenchError, match="not finite"):
        cross_fit(Fits(tmp_path, CPU, quiet=True), examples(pictures()), "resnet50", TINY, "original")


def test_settling_takes_the_statistics_of_what_is_shown() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 1))
    batches = [torch.randn(8, 1, 4, 4) * 3 + 5 for _ in range(4)]
    settle(net, iter(batches))
    norm = net[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean() for b in batches]).mean()[None])
    torch.testing.assert_close(norm.running_var, torch.stack([b.var() for b in batches]).mean()[None], rtol=1e-4, atol=1e-4)
    assert norm.momentum == 0.1
    assert not net.training


def test_version_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert classifiers.VERSION == crossfit.VERSION
    fits, some = Fits(tmp_path, CPU, quiet=True), examples(pictures())
    cross_fit(fits, some, "resnet50", TINY, "original")
    monkeypatch.setattr(crossfit, "VERSION", 99)
    monkeypatch.setattr(crossfit, "fit", lambda *_, **__: pytest.fail("trained again"))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        cross_fit(fits, some, "resnet50", TINY, "original")
