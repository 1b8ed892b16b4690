"""The classification evaluator: figures against scikit-learn, protocols by their rows, and what it does without its inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jobs import job, prepare_job
from PIL import Image

from bench.contracts import Score, ScoreJob
from bench.data.imageset import ImageSet, Item
from bench.errors import BenchError, UsageError
from evaluators import crossfit
from evaluators.classification import COLUMNS, Classification, ClassificationConfig, _by_chance
from evaluators.classification_protocol import Study
from evaluators.classifiers import ARCHITECTURES, Architecture
from evaluators.proportions import NO_WIDTH

TINY: dict[str, Any] = {
    "architectures": ("resnet50",), "folds": 2, "iterations": 2, "batch_size": 4, "lr": 1e-3, "n_boot": 50,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for arch in ARCHITECTURES:
        monkeypatch.setitem(ARCHITECTURES, arch, Architecture(ARCHITECTURES[arch].label, "test_resnet"))
    monkeypatch.setattr(crossfit, "SETTLING", 2)


# Protocols


def study_set(n: int = 24, side: int = 32, known: bool = True, **planes: Any) -> ImageSet:
    """Two images a patient; opacity images have a bright square."""
    pixels = np.random.default_rng(0).integers(0, 90, (n, side, side)).astype(np.uint8)
    pixels[::2, 8:20, 8:20] += 120
    about = {"view": "AP", "sex": "F"} if known else {}
    items = [
        Item(f"i{k:02}", f"p{k // 2 if k < n // 2 else k}", ("opacity", "clear")[k % 2], age=float(30 + k) if known else None, **about)
        for k in range(n)
    ]
    return ImageSet("toy/test", items, {"image": pixels, **planes}, f"real-{n}-{known}")


def made_from(source: ImageSet, name: str, image: Any = None, mask: Any = None) -> ImageSet:
    planes = {"image": source.raw() if image is None else image}
    if mask is not None:
        planes["mask"] = mask
    return ImageSet(f"{source.name}/{name}", source.items, planes, f"{name}-content")


def scored(tmp_path: Path, source: ImageSet, *types: str, **more: Any) -> tuple[dict[str, Any], ScoreJob]:
    options = {**TINY, **more.pop("params", {})}
    params = ClassificationConfig(**options, data_types=types)
    mine = job(tmp_path, more.pop("translated", made_from(source, "translated")), params, source, **more)
    scores = Classification().score(mine)
    assert set(scores) == {metric.key for metric in Classification.metrics(params)}
    return scores, mine


def test_original_reports_every_figure(tmp_path: Path) -> None:
    source = study_set()
    scores, mine = scored(tmp_path, source, "original", params={"iterations": 12, "batch_size": 8})
    get = {c.key: scores[f"resnet50_original_{c.key}"] for c in COLUMNS}
    assert sum(get[cell].value for cell in ("tp", "fp", "fn", "tn")) == 24
    assert get["accuracy"].value == (get["tp"].value + get["tn"].value) / 24
    assert get["f1"].value == pytest.approx(
        2 * get["precision"].value * get["recall"].value / (get["precision"].value + get["recall"].value)
    )
    assert get["auroc"].value > 0.9
    assert scores["auroc_original"].value == get["auroc"].value
    assert get["auroc"].value == 1 and get["auroc"].note == NO_WIDTH and get["accuracy"].ci[1] - get["accuracy"].ci[0] > 0.05
    assert get["auroc"].std_over == "folds"
    assert sorted(get["accuracy"].per_image) == source.ids
    assert np.mean(list(get["accuracy"].per_image.values())) == get["accuracy"].value
    assert scores["floor_auroc"].n == 24
    assert scores["resnet50_original_auroc_view_ap"].value == pytest.approx(get["auroc"].value)  # all are AP
    assert scores["resnet50_original_auroc_view_pa"].note == "no fold has PA views of both classes"
    with Image.open(mine.scratch / "classification.png") as figure:
        assert figure.size[0] > 300


def test_a_figure_that_disagrees_with_the_matrix_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sklearn.metrics.f1_score", lambda *_, **__: 0.123)
    with pytest.raises(BenchError, match=r"f1 = 0\.123000 does not follow from the confusion matrix"):
        scored(tmp_path, study_set(), "original")


def test_the_floor_without_anything_known(tmp_path: Path) -> None:
    scores, _ = scored(tmp_path, study_set(known=False), "original")
    assert scores["floor_auroc"].value is None
    assert scores["floor_auroc"].note == "view, age and sex are unknown"


def test_the_floor_learns_from_the_view(tmp_path: Path) -> None:
    plain = study_set(known=False)
    items = [replace(item, view="AP" if item.domain == "opacity" else "PA") for item in plain.items]
    scores, _ = scored(tmp_path, ImageSet("toy", items, {"image": plain.raw()}, "views"), "original")
    assert scores["floor_auroc"].value == 1.0
    assert scores["floor_auroc"].note == f"unknown: sex, age; {NO_WIDTH}"


@pytest.mark.parametrize("domain", ["opacity", "clear"])
def test_one_class_only(tmp_path: Path, domain: str) -> None:
    one = study_set().where(domain)
    scores, mine = scored(tmp_path, one, "original", "generated", "mask")
    assert {score.value for score in scores.values()} == {None}
    assert {score.note for score in scores.values()} == {f"all test images are {domain}: one class cannot be learnt or told apart"}
    Classification().prepare(mine)
    assert Classification.needs == {"both domains"}


def test_images_of_no_domain_are_left_out(tmp_path: Path) -> None:
    plain = study_set()
    items = [replace(item, domain="other") if k in (0, 5) else item for k, item in enumerate(plain.items)]
    scores, _ = scored(tmp_path, ImageSet("toy", items, {"image": plain.raw()}, "others"), "original")
    assert scores["resnet50_original_accuracy"].n == 22


def test_masks_are_learnt_and_their_mean_stands_beside(tmp_path: Path) -> None:
    source = study_set()
    mask = np.zeros((24, 32, 32), np.uint8)
    mask[::2, :16] = 200
    scores, _ = scored(
        tmp_path, source, "mask", translated=made_from(source, "m", mask=mask), params={"iterations": 10, "batch_size": 8}
    )
    assert scores["mask_mean_auroc"].value == scores["mask_mean_ap"].value == 1.0
    assert scores["resnet50_mask_auroc"].value == 1.0
    assert scores["auroc_mask"].n == 24


def test_masks_that_are_all_empty(tmp_path: Path) -> None:
    source = study_set()
    empty = made_from(source, "m", mask=np.zeros((24, 32, 32), np.uint8))
    scores, _ = scored(tmp_path, source, "mask", translated=empty)
    assert scores["mask_mean_auroc"].value == 0.5
    assert scores["resnet50_mask_auroc"].value == 0.5


def test_architectures_that_learn_nothing_from_real_images_are_named() -> None:
    """No mark: what a classifier learns from masks does not depend on what it learnt from real images."""
    params = ClassificationConfig(architectures=("resnet50", "densenet"), data_types=("original", "generated", "mask"))
    work: Any = SimpleNamespace(params=params)
    scores = {
        "resnet50_original_auroc": Score(0.55, 20, ci=(0.41, 0.69)), "densenet_original_auroc": Score(0.8, 20, ci=(0.6, 0.9)),
        "auroc_original": Score(0.52, 20, ci=(0.45, 0.6)),
        **{f"{name}_{of}_auroc": Score(0.7, 20, note="few") for name in params.architectures for of in ("generated", "mask")},
        "auroc_mask": Score(0.7, 20), "auroc_generated": Score(None, 0, note="no way back"),
    }  # fmt: skip
    found = _by_chance(work, scores)
    assert set(found) == {"resnet50_generated_auroc", "resnet50_mask_auroc", "auroc_mask"}
    told = "on untranslated images this architecture is not above chance here: AUROC 0.55 [0.41, 0.69]"
    assert found["resnet50_mask_auroc"] == replace(scores["resnet50_mask_auroc"], note=f"few; {told}")
    assert "the architectures' mean is not above chance here: AUROC 0.52 [0.45, 0.60]" in found["auroc_mask"].note
    assert not _by_chance(work, {key: score for key, score in scores.items() if "original" not in key})


def test_an_undecided_architecture_is_named_in_the_scores(tmp_path: Path) -> None:
    """Real images of nothing but noise, masks that tell all."""
    source = study_set()
    noise = np.random.default_rng(1).integers(0, 255, (24, 32, 32)).astype(np.uint8)
    source = ImageSet("toy/test", source.items, {"image": noise}, "noise")
    mask = np.zeros((24, 32, 32), np.uint8)
    mask[::2, :16] = 200
    scores, _ = scored(tmp_path, source, "original", "mask", translated=made_from(source, "m", mask=mask))
    assert scores["resnet50_original_auroc"].ci[0] <= 0.5
    assert "on untranslated images this architecture is not above chance here: AUROC" in scores["resnet50_mask_auroc"].note
    assert "not above chance" not in scores["resnet50_original_auroc"].note and not scores["resnet50_mask_auroc"].doubt


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    source = study_set()
    scores, _ = scored(tmp_path, source, "generated", "mask")
    assert scores["auroc_mask"].note == "no activation mask"
    assert scores["auroc_generated"].note == "the method cannot translate clear to opacity"
    assert {score.value for score in scores.values()} == {None}
    back = made_from(source.where("clear"), "back")
    scores, _ = scored(tmp_path, source, "generated", back=back, home=False)
    assert scores["resnet50_generated_f1"].note == "the translator learnt on another dataset"


def _study(tmp_path: Path, *types: str) -> tuple[Study, ImageSet, ImageSet, ImageSet]:
    source = study_set()
    translated = made_from(source, "translated", source.raw() // 2)
    back = made_from(source.where("clear"), "back", 255 - source.where("clear").raw())
    params = ClassificationConfig(**TINY, data_types=types)
    return Study(job(tmp_path, translated, params, source, back=back)), source, translated, back


def test_generated_learns_from_translations_of_training_folds_alone(tmp_path: Path) -> None:
    study, source, translated, back = _study(tmp_path, "generated")
    examples = study.examples("generated")
    names = [images.name for images, _ in examples.sets]
    assert names == [source.name, translated.name, back.name]
    for fold in (0, 1):
        learnt, held_out = examples.learnt(fold), examples.tested(fold)
        assert set(examples.which[learnt]) == {1, 2}  # synthetic images alone
        assert set(examples.which[held_out]) == {0}  # real images alone
        patients = {examples.patients[i] for i in held_out}
        assert not patients & {examples.patients[i] for i in learnt}
        for i in learnt:
            item = examples.items[i]
            # positives are clear images made opaque, negatives are opacity images made clear
            assert examples.label[i] == (item.domain == "clear") == (examples.which[i] == 2)
            made = back if examples.which[i] == 2 else translated
            assert np.array_equal(examples.bytes([i])[0], made.bytes([made.ids.index(item.image_id)])[0])
    assert sorted(examples.row[np.concatenate([examples.tested(f) for f in (0, 1)])]) == list(range(24))


def test_real_against_translated(tmp_path: Path) -> None:
    study, source, _, _ = _study(tmp_path, "rvt")
    examples = study.examples("rvt")
    for fold in (0, 1):
        learnt = examples.learnt(fold)
        assert {examples.items[i].domain for i in learnt} == {"opacity"}
        assert set(zip(examples.which[learnt].tolist(), examples.label[learnt].tolist(), strict=True)) == {(0, True), (2, False)}
    scores = Classification().score(study.job)  # type: ignore[arg-type]
    opacity = source.domains.count("opacity")
    assert scores["resnet50_rvt_tp"].value + scores["resnet50_rvt_fn"].value == opacity
    assert scores["resnet50_rvt_tn"].value + scores["resnet50_rvt_fp"].value == opacity  # their translations
    assert scores["resnet50_rvt_real_accuracy"].n == 24
    assert scores["resnet50_rvt_accuracy"].per_image is None
    assert scores["resnet50_rvt_real_accuracy"].per_image is not None


def test_the_pipeline_itself_cannot_be_told(tmp_path: Path) -> None:
    """Real images of 16 bits against themselves, translated by nobody and stored in 8: no classifier may see a difference."""
    plain = study_set()
    deep = ImageSet("deep", plain.items, {"image": plain.raw().astype(np.uint16) * 257 + 100}, "deep")
    stored = made_from(deep, "same", deep.bytes())
    scores, _ = scored(tmp_path, deep, "rvt", translated=stored, params={"iterations": 8})
    assert scores["resnet50_rvt_auroc"].value == pytest.approx(0.5)
    assert scores["resnet50_rvt_accuracy"].value == 0.5


def test_mixed_learns_from_real_and_synthetic(tmp_path: Path) -> None:
    study, *_ = _study(tmp_path, "mix")
    examples = study.examples("mix")
    assert set(examples.which[examples.learnt(0)]) == {0, 1, 2}
    assert set(examples.which[examples.tested(0)]) == {0}


def test_a_method_that_changes_nothing_teaches_the_classes_the_wrong_way_round(tmp_path: Path) -> None:
    source = study_set()
    same = {"translated": made_from(source, "same"), "back": made_from(source.where("clear"), "same-back")}
    scores, _ = scored(tmp_path, source, "original", "generated", **same, params={"iterations": 12, "batch_size": 8})
    assert scores["auroc_original"].value > 0.9
    assert scores["auroc_generated"].value < 0.1


def test_images_that_belong_to_another_set(tmp_path: Path) -> None:
    source = study_set()
    with pytest.raises(BenchError, match="does not hold the clear images"):
        scored(tmp_path, source, "generated", back=made_from(source.where("opacity"), "back"))
    wrong = made_from(source, "x").subset(list(range(23, -1, -1)), "turned")
    with pytest.raises(BenchError, match="in their order"):
        scored(tmp_path, source, "mask", translated=made_from(wrong, "m", mask=source.raw()))


def test_real_images_are_learnt_from_once_whatever_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, trained, real = study_set(), [], crossfit.fit

    def fit(*given: Any, **more: Any) -> Any:
        trained.append(given[6])
        return real(*given, **more)

    monkeypatch.setattr(crossfit, "fit", fit)
    params = ClassificationConfig(**TINY, data_types=("original", "mask"))
    Classification().prepare(prepare_job(tmp_path, source, params))
    assert len(trained) == 2
    rng, found = np.random.default_rng(0), []
    for name in ("one", "two", "one"):
        mask = rng.integers(0, 255, (24, 32, 32)).astype(np.uint8)
        mine = job(tmp_path, made_from(source, name, mask=mask), params, source)
        found.append(Classification().score(mine))
        assert sorted(mine.fits.used) == ["resnet50-mask", "resnet50-original"]
    assert len([name for name in trained if "original" in name]) == 2
    assert len([name for name in trained if "mask" in name]) == 4  # two methods, two folds; the third is the first again
    assert found[0]["auroc_original"] == found[1]["auroc_original"]
    assert found[0]["resnet50_mask_auroc"] == found[2]["resnet50_mask_auroc"]


# Configuration


def test_metrics_are_sorted_and_shared() -> None:
    params = ClassificationConfig(data_types=("original", "generated", "rvt", "mix", "mask"))
    found = Classification.metrics(params)
    assert len({metric.key for metric in found}) == len(found)
    main = [metric for metric in found if not metric.part]
    assert [metric.key for metric in main if metric.primary] == ["auroc_generated", "auroc_mask"]
    assert len(main) == 6
    for metric in found:
        original = metric.part.endswith("· Original") or metric.key == "auroc_original"
        told_apart = metric.part.endswith("· Real vs translated") or metric.key == "auroc_rvt"
        assert metric.shared == original
        if original or told_apart:
            assert metric.better == "none"
    ranked = {metric.key: metric.better for metric in found if metric.better != "none"}
    assert ranked["auroc_rvt_real"] == ranked["resnet50_rvt_real_auroc"] == ranked["auroc_mask"] == "higher"
    assert ranked["resnet50_rvt_real_brier"] == "lower"
    parts = list(dict.fromkeys(metric.part for metric in found if metric.part))
    assert parts[:5] == ["ResNet50 · Original", "MobileNet · Original", "EfficientNet · Original", "DenseNet · Original",
                         "View, age, sex · Original"]  # fmt: skip
    assert parts[-1] == "Mean of the mask · Mask"


def test_synthetic_images_are_asked_for_only_where_they_are_learnt_from() -> None:
    assert Classification.directions(ClassificationConfig()) == ("a2b", "b2a")
    assert Classification.directions(ClassificationConfig(data_types=("mix",))) == ("a2b", "b2a")
    assert Classification.directions(ClassificationConfig(data_types=("original", "rvt", "mask"))) == ("a2b",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"architectures": ("vgg",)}, {"architectures": ()}, {"data_types": ("originals",)}, {"data_types": ("mask", "mask")},
        {"weights": ("resnet50",)}, {"weights": ("vgg=x",)}, {"weights": ("resnet50=a", "resnet50=b")}, {"n_boot": -1},
        {"batch_size": 7},
    ],
)  # fmt: skip
def test_impossible_configurations(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ClassificationConfig(**wrong)


def test_start_weights_are_checked_before_any_work(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "other.pth")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "right.pth")
    params = ClassificationConfig(weights=("resnet50=right.pth", "densenet=other.pth", "mobilenet=gone.pth"))
    gone, other = sorted(Classification.missing_assets(params, (tmp_path,)), key=lambda line: "other.pth" in line)
    assert "weights mobilenet=gone.pth: no such file" in gone
    assert str(tmp_path) in gone
    assert "does not hold a test_resnet" in other or "does not hold a" in other
    assert Classification.files(params, (tmp_path,)) == (tmp_path / "right.pth", tmp_path / "other.pth")
    assert Classification.missing_assets(ClassificationConfig(), ()) == []


def test_start_weights_are_used(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "start.pth")
    source = study_set()
    scores, mine = scored(
        tmp_path, source, "original", params={"weights": ("resnet50=start.pth",)}, assets=(tmp_path,)
    )
    assert mine.fits.used["resnet50-original"]["start"] == "start.pth"
    scratch, _ = scored(tmp_path, source, "original")
    assert scratch["auroc_original"].value is not None
    assert scores["resnet50_original_brier"].value != scratch["resnet50_original_brier"].value
