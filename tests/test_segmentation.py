"""Segmentation: values by hand and by other libraries, who learns from whom, and what happens without lungs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import job, prepare_job
from sklearn.metrics import jaccard_score, recall_score
from torch import nn
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index, binary_recall

import bench.fits
from bench.config import fill
from bench.contracts import Score
from bench.data.imageset import ImageSet, Item
from bench.errors import DataError
from evaluators import segmentation, segmenters
from evaluators.overlap import (
    confusion,
    dice,
    difference,
    estimate,
    hd95,
    iou,
    iou_two_classes,
    per_image,
    sensitivity,
    two_lungs,
)  # fmt: skip
from evaluators.segmentation import Segmentation, SegmentationConfig
from evaluators.segmentation_models import Laboratory

SIZE = 16
X = 255

# overlap by hand: 3 x 3 pixels, the centre is undecided


LUNG = np.array([[1, 1, 0], [1, X, 0], [0, 0, 0]], np.uint8)
FOUND = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0]], np.bool_)


def counts_of(found: Any, codes: Any) -> Any:
    return confusion(np.asarray(found, np.bool_), np.asarray(codes) == 1, np.asarray(codes) != X)


def test_overlap_by_hand() -> None:
    counts = counts_of(FOUND, LUNG)
    assert counts.tolist() == [2, 1, 1, 4]  # the centre is found, and does not count
    assert iou(counts) == pytest.approx(2 / 4)
    assert sensitivity(counts) == pytest.approx(2 / 3)
    assert dice(counts) == pytest.approx(4 / 6)
    assert iou_two_classes(counts) == pytest.approx((2 / 4 + 4 / 6) / 2)
    changed = FOUND.copy()
    changed[1, 1] = False
    assert counts_of(changed, LUNG).tolist() == counts.tolist()


def test_no_background_leaves_the_lung_alone() -> None:
    everything = np.ones((3, 3), np.uint8)
    assert iou_two_classes(counts_of(everything, everything)) == 1


def test_pooled_is_not_the_mean_of_images() -> None:
    small, large = np.array([1, 1, 0, 7]), np.array([6, 0, 2, 1])
    counts = np.stack([small, large])[:, None]
    patients = ["a", "b"]
    assert estimate(counts, iou, patients, 0, 10).value == pytest.approx((1 / 2 + 6 / 8) / 2)
    assert estimate(counts, iou, patients, 0, 10, pooled=True).value == pytest.approx(7 / 10)
    both = estimate(counts, iou_two_classes, patients, 0, 10, pooled=True)
    assert both.value == pytest.approx((7 / 10 + 8 / 11) / 2)
    assert estimate(counts, sensitivity, patients, 0, 10, pooled=True).value == pytest.approx(7 / 9)
    gain = estimate(counts, iou, patients, 0, 10, pooled=True, before=counts[::-1] * 0 + np.array([1, 0, 1, 1]))
    assert gain.value == pytest.approx(7 / 10 - 1 / 2)


def test_the_average_is_over_segmenters_after_their_own_value() -> None:
    counts = np.array([[[1, 1, 0, 0], [3, 1, 0, 0]]])
    assert per_image(counts, iou) == pytest.approx([(1 / 2 + 3 / 4) / 2])
    assert estimate(counts, iou, ["a"], 0, 10, pooled=True).value == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_pooled_interval_covers_and_repeats() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 50, (40, 2, 4))
    patients = [f"p{k % 20}" for k in range(40)]
    first, again = (estimate(counts, iou, patients, 3, 500, pooled=True) for _ in range(2))
    assert first == again and first.ci is not None and first.patients == 20
    assert first.ci[0] < first.value < first.ci[1]


def random_masks(seed: int, size: int = 24) -> tuple[Any, Any, Any]:
    """Found, lung, counted: blobs that overlap in part."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    base = ndimage.gaussian_filter(rng.normal(size=(size, size)), 3)
    found, lung = base > 0, base + 0.3 * ndimage.gaussian_filter(rng.normal(size=(size, size)), 2) > 0
    return found, lung, rng.uniform(size=(size, size)) > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_overlap_agrees_with_torchmetrics_and_sklearn(seed: int) -> None:
    found, lung, counted = random_masks(seed)
    counts = confusion(found, lung, counted)
    a = torch.from_numpy(found.astype(int))
    b = torch.from_numpy(np.where(counted, lung, -1).astype(int))
    for of, library in ((iou, binary_jaccard_index), (sensitivity, binary_recall), (dice, binary_f1_score)):
        assert float(of(counts)) == pytest.approx(float(library(a, b, ignore_index=-1)), abs=1e-6)
    truth, predicted = lung[counted], found[counted]
    assert iou_two_classes(counts) == pytest.approx(jaccard_score(truth, predicted, average="macro"))
    assert sensitivity(counts) == pytest.approx(recall_score(truth, predicted))


@pytest.mark.parametrize("seed", range(4))
def test_overlap_and_boundary_agree_with_monai(seed: int) -> None:
    metrics = pytest.importorskip("monai.metrics")
    found, lung, _ = random_masks(seed)
    counted = np.ones_like(lung)
    counts = confusion(found, lung, counted)
    a, b = (torch.from_numpy(m.astype(np.float32))[None, None] for m in (found, lung))
    assert iou(counts) == pytest.approx(float(metrics.compute_iou(a, b)), abs=1e-6)
    assert dice(counts) == pytest.approx(float(metrics.DiceMetric()(a, b)), abs=1e-6)
    distance = float(metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95))
    assert hd95(found, lung, counted) == pytest.approx(100 * distance / np.hypot(24, 24), rel=1e-5)


def test_hd95_of_a_shift_is_the_shift_and_of_nothing_the_diagonal() -> None:
    lung = np.zeros((30, 40), np.bool_)
    lung[8:20, 10:25] = True
    everywhere = np.ones_like(lung)
    assert hd95(lung, lung, everywhere) == 0
    assert hd95(np.roll(lung, 2, 1), lung, everywhere) == pytest.approx(100 * 2 / 50)
    assert hd95(np.zeros_like(lung), lung, everywhere) == 100
    assert hd95(~everywhere | (lung & (np.arange(40) < 10)), lung, everywhere) == 100


def test_two_lungs_keeps_the_two_largest_and_fills_holes() -> None:
    found = np.zeros((20, 20), np.bool_)
    found[1:7, 1:7] = found[10:19, 10:19] = found[1:4, 12:15] = True
    found[14, 14] = False
    clean = two_lungs(found)
    assert clean[14, 14] and clean[3, 3] and not clean[2, 13]
    assert not two_lungs(np.zeros((20, 20), np.bool_)).any()
    speck = np.zeros((20, 20), np.bool_)
    speck[0, 0] = True
    assert not two_lungs(speck).any()


def test_difference_of_unpaired_means() -> None:
    found = difference([1, 3, 10], ["a", "a", "b"], [1, 1], ["b", "c"], 0, 50)
    assert found.value == pytest.approx((2 + 10) / 2 - 1) and found.ci is None
    many = [f"p{k}" for k in range(30)]
    rng = np.random.default_rng(0)
    first, second = rng.normal(5, 1, 30), rng.normal(2, 1, 30)
    apart = difference(first, many, second, [f"q{k}" for k in range(30)], 0, 500)
    assert apart.ci is not None and apart.ci[0] < apart.value < apart.ci[1] and apart.ci[0] > 2
    alike = difference(first, many, first, many, 0, 500)  # the same patients on both sides move together
    assert alike.ci == (0, 0)


# the evaluator, with segmenters that are small enough to be trained here


class Tiny(nn.Module):
    """Three convolutions: enough to find what is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, 4, 3, padding=1)
        self.rest = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.rest(self.encoder(images))
        return found


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {arch: segmenters.Arch(kind.title, Tiny, kind.encoder, 1, 1) for arch, kind in segmenters.ARCHS.items()}
    for arch, kind in kinds.items():
        monkeypatch.setitem(segmenters.ARCHS, arch, kind)  # type: ignore[arg-type]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The training data of every training that really happens."""
    seen: list[Any] = []
    fit = bench.fits.fit

    def counted(model: Any, source: Any, *rest: Any, **more: Any) -> Any:
        seen.append(source)
        return fit(model, source, *rest, **more)

    monkeypatch.setattr(bench.fits, "fit", counted)
    yield seen


def config(**more: Any) -> SegmentationConfig:
    defaults: dict[str, Any] = {
        "archs": ("unet", "vgg"), "iterations": 60, "batch_size": 4, "lr": 0.1, "min_crop": 1.0, "rotation": 0.0,
        "brightness": 0.0, "contrast": 0.0, "gamma": 1.0, "expand": 0.0, "n_boot": 200, "cases": 2,
    }  # fmt: skip
    return SegmentationConfig(**{**defaults, **more})


def lungs(
    n: int = 12, name: str = "toy/test", domain: str = "opacity", convention: str = "heart-excluded", seed: int = 0,
    counterpart: bool = False, prefix: str = "",
) -> ImageSet:  # fmt: skip
    """Two images a patient: a bright lung, of which an opacity hides a part."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((n, SIZE, SIZE), np.uint8)
    for k in range(n):
        top, left = rng.integers(1, 5, 2)
        codes[k, top : top + 8, left : left + 9] = 1
    clear = (40 + 160 * (codes == 1) + rng.integers(0, 20, codes.shape)).astype(np.uint8)
    image = clear.copy()
    if domain == "opacity":
        for k in range(n):
            rows = np.flatnonzero(codes[k].any(axis=1))
            image[k, rows[-3:]] = 45
    codes[:, SIZE - 1] = X
    planes = {"image": image, "lung_mask": codes, **({"counterpart": clear} if counterpart else {})}
    items = [Item(f"{prefix}{domain}{k}", f"{prefix}p{k // 2}", domain) for k in range(n)]
    return ImageSet(name, items, planes, f"{name}-{domain}-{seed}-{n}-{counterpart}", "open", convention)


def with_planes(images: ImageSet, fingerprint: str, **planes: Any) -> ImageSet:
    """The same items with some planes replaced."""
    kept = {name: images.raw(plane=name) for name in images.planes}
    return ImageSet(images.name, images.items, {**kept, **planes}, fingerprint, images.policy, images.lung_convention)


LEARN = (lungs(10, "toy/train", "clear", seed=7, prefix="t"), lungs(6, "toy/train", "opacity", seed=8, prefix="u"))


def test_identity_changes_nothing_and_every_metric_has_a_value(tmp_path: Path) -> None:
    source = lungs(counterpart=True)
    scores = Segmentation().score(job(tmp_path, source, config(), learn=LEARN))
    metrics = Segmentation.metrics(config())
    assert set(scores) == {metric.key for metric in metrics}
    for key in ("miou_delta", "miou_delta/unet", "miou_delta/vgg"):
        assert scores[key].value == 0 and scores[key].ci == (0, 0)
    for key, score in scores.items():
        assert score.value is not None and score.per_image is not None and len(score.per_image) == 12, key
        assert score.n == 12 and "encoders from scratch" in score.note and "trained on 16 other images" in score.note
    values = {key: value_of(score) for key, score in scores.items()}
    assert values["miou"] == pytest.approx((values["miou/unet"] + values["miou/vgg"]) / 2)
    assert values["miou"] <= values["sensitivity"]  # intersection over union never exceeds it
    assert (tmp_path / "scratch" / "segmentation.png").stat().st_size > 10_000


def value_of(score: Score) -> float:
    assert score.value is not None
    return score.value


def test_opacities_hide_lung_and_a_perfect_translation_brings_it_back(tmp_path: Path) -> None:
    source = lungs(counterpart=True)
    perfect = with_planes(source, "perfect", image=source.raw(plane="counterpart"))
    black = with_planes(source, "black", image=np.zeros_like(source.raw()))
    params = config(archs=("unet",))
    good, bad = (Segmentation().score(job(tmp_path, images, params, source, learn=LEARN)) for images in (perfect, black))
    assert value_of(good["clear_real"]) > 90 and value_of(good["opacity_effect"]) < -10
    assert value_of(good["miou"]) == pytest.approx(value_of(good["clear_real"]))
    assert value_of(good["miou_delta"]) == pytest.approx(-value_of(good["opacity_effect"]))
    assert good["miou_delta"].ci is not None and good["miou_delta"].ci[0] > 0
    assert value_of(bad["miou"]) == 0 and value_of(bad["hd95"]) == 100
    assert "12 empty predictions count as 100 %" in bad["hd95"].note
    for key in ("opacity_real", "clear_real", "opacity_effect"):  # shared: of real images only
        assert good[key] == bad[key]


def test_trained_once_and_real_images_looked_at_once(
    tmp_path: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lungs(counterpart=True)
    looked: list[int] = []
    segment = segmentation.segment
    monkeypatch.setattr(segmentation, "segment", lambda *a: looked.append(len(a[1])) or segment(*a))
    Segmentation().prepare(prepare_job(tmp_path, source, config(), learn=LEARN))
    assert len(trained) == 2 and sum(looked) == 2 * 24
    for k in range(3):
        translated = with_planes(source, f"m{k}", image=np.roll(source.raw(), k, 2))
        Segmentation().score(job(tmp_path, translated, config(), source, learn=LEARN))
    assert len(trained) == 2
    assert sum(looked) == 2 * 24 + 3 * 2 * 12  # only what is new is segmented
    Segmentation().score(job(tmp_path, source, config(model_seed=1), learn=LEARN))
    assert len(trained) == 4


def test_translated_images_are_never_learnt_from(tmp_path: Path, trained: list[Any]) -> None:
    source = lungs()
    translated = with_planes(source, "other", image=255 - source.raw())
    Segmentation().score(job(tmp_path, translated, config(), source, learn=LEARN))
    Segmentation().score(job(tmp_path / "cross", translated, config(folds=2), source))
    assert len(trained) == 2 + 4
    for data in trained:
        assert all(images is not translated for images, _ in data.where)
    assert {id(images) for data in trained[:2] for images, _ in data.where} == {id(images) for images in LEARN}
    assert {id(images) for data in trained[2:] for images, _ in data.where} == {id(source)}


@pytest.mark.parametrize("folds", [2, 5])
def test_no_patient_is_on_both_sides_of_a_cross_fit(tmp_path: Path, folds: int) -> None:
    source = lungs(20)
    found = Laboratory(prepare_job(tmp_path, source, config(folds=folds)), 1)
    assert len(found.trainings) == folds
    for training in found.trainings:
        ((images, rows),) = training.learn
        assert images is source
        assert not {source.patients[r] for r in rows} & {source.patients[r] for r in training.rows}
    assert sorted(np.concatenate([t.rows for t in found.trainings]).tolist()) == list(range(20))
    again = Laboratory(prepare_job(tmp_path, source, config(folds=folds)), 1)
    assert [t.rows.tolist() for t in again.trainings] == [t.rows.tolist() for t in found.trainings]


def test_cross_fitting_segments_every_image_with_the_right_model(tmp_path: Path, trained: list[Any]) -> None:
    source = lungs(counterpart=True)
    scores = Segmentation().score(job(tmp_path, source, config(archs=("unet",), folds=3)))
    assert len(trained) == 3
    assert "cross-fitted by patient in 3 folds of 12 images" in scores["miou"].note
    assert list(scores["miou"].per_image or ()) == source.ids
    assert value_of(scores["clear_real"]) > 60 and value_of(scores["miou_delta"]) == 0


def test_fewer_patients_than_folds_and_a_single_one(tmp_path: Path) -> None:
    assert len(Laboratory(prepare_job(tmp_path, lungs(4), config(folds=5)), 1).trainings) == 2
    scores = Segmentation().score(job(tmp_path, lungs(2), config()))
    assert all(score.value is None and "two patients" in score.note for score in scores.values())


def test_lung_conventions_are_never_mixed(tmp_path: Path) -> None:
    other = lungs(6, "another/train", "clear", "heart-included")
    with pytest.raises(DataError, match=r"another/train.* heart-included.*heart-excluded; they cannot be mixed"):
        Segmentation().prepare(prepare_job(tmp_path, lungs(), config(), learn=(*LEARN, other)))
    unmasked = with_planes(other, "unmasked", lung_mask=np.full((6, SIZE, SIZE), X, np.uint8))
    assert Laboratory(prepare_job(tmp_path, lungs(), config(), learn=(*LEARN, unmasked)), 1).trainings[0].n == 16


def test_masks_that_are_all_empty_or_undecided_give_no_value_and_say_why(tmp_path: Path, trained: list[Any]) -> None:
    for value in (0, X):
        source = with_planes(lungs(), f"blank{value}", lung_mask=np.full((12, SIZE, SIZE), value, np.uint8))
        Segmentation().prepare(prepare_job(tmp_path, source, config()))
        scores = Segmentation().score(job(tmp_path, source, config()))
        assert set(scores) == {metric.key for metric in Segmentation.metrics(config())}
        assert all(score.value is None and "no image of this test set has a lung mask" in score.note for score in scores.values())
    assert not trained


def test_images_without_lung_are_left_out_and_counted(tmp_path: Path) -> None:
    source = lungs()
    masks = source.raw(plane="lung_mask").copy()
    masks[0], masks[1, :-1] = X, 0
    source = with_planes(source, "some", lung_mask=masks)
    score = Segmentation().score(job(tmp_path, source, config(), learn=LEARN))["miou"]
    assert score.n == 10 and "2 of 12 images left out: no lung in their mask" in score.note
    assert list(score.per_image or ()) == source.ids[2:]


def test_undecided_pixels_and_padding_count_nowhere(tmp_path: Path) -> None:
    source = lungs()
    content = (0, 0, SIZE - 2, SIZE)
    items = [Item(i.image_id, i.patient_id, i.domain, content=content) for i in source.items]
    masks, image = source.raw(plane="lung_mask").copy(), source.raw().copy()
    padded = [
        ImageSet("toy/test", items, {"image": image, "lung_mask": m}, f"pad{k}", "open", "heart-excluded")
        for k, m in enumerate((masks, np.concatenate([masks[:, :-2], np.ones_like(masks[:, -2:])], 1)))
    ]
    first, second = (Segmentation().score(job(tmp_path, s, config(archs=("unet",)), learn=LEARN))["miou"] for s in padded)
    assert first == second


def test_only_opacity_images_are_scored_and_clear_ones_compared_with(tmp_path: Path) -> None:
    opacity, clear = lungs(8), lungs(8, domain="clear", seed=3, prefix="c")
    planes = {name: np.concatenate([s.raw(plane=name) for s in (opacity, clear)]) for name in ("image", "lung_mask")}
    both = ImageSet("toy/test", [*opacity.items, *clear.items], planes, "both", "open", "heart-excluded")
    scores = Segmentation().score(job(tmp_path, both, config(), learn=LEARN))
    assert list(scores["miou"].per_image or ()) == opacity.ids
    assert list(scores["clear_real"].per_image or ()) == clear.ids
    assert "other images, not counterparts" in scores["clear_real"].note
    assert value_of(scores["opacity_effect"]) == pytest.approx(
        value_of(scores["opacity_real"]) - value_of(scores["clear_real"])
    )
    assert value_of(scores["opacity_effect"]) < -10 and scores["opacity_effect"].per_image is None
    alone = Segmentation().score(job(tmp_path, clear, config(), learn=LEARN))
    assert "no opacity images in this test set: all images are scored" in alone["miou"].note
    assert alone["miou"].n == 8 and alone["opacity_effect"].value is None


def test_own_segmenters_are_used_as_they_are(tmp_path: Path, trained: list[Any]) -> None:
    segmenter = segmenters.Segmenter("unet")
    with torch.no_grad():
        for p in segmenter.parameters():
            p.zero_()
        segmenter.net.rest[1].bias.fill_(1.0)  # type: ignore[index, union-attr]
    torch.save(segmenter.net.state_dict(), tmp_path / "mine.pth")
    params = config(archs=("unet",), weights=("unet=mine.pth",))
    assert Segmentation.learns(params) == "" and Segmentation.learns(config()) == "lung_mask"
    scores = Segmentation().score(job(tmp_path, lungs(), params, assets=(tmp_path,)))
    assert not trained and value_of(scores["sensitivity"]) == 100 and "of the user's own (mine.pth)" in scores["miou"].note
    assert value_of(scores["miou"]) == pytest.approx(100 * 72 / (SIZE * (SIZE - 1)))
    mixed = config(archs=("unet", "vgg"), weights=("unet=mine.pth",))
    assert Segmentation.learns(mixed) == "lung_mask"
    scores = Segmentation().score(job(tmp_path, lungs(), mixed, assets=(tmp_path,), learn=LEARN))
    assert len(trained) == 1 and "trained on 16 other images" in scores["miou"].note


def test_encoder_files_are_part_of_the_key_and_of_the_note(tmp_path: Path, trained: list[Any]) -> None:
    for k in range(2):
        torch.save({"weight": torch.full((4, 1, 3, 3), 0.1 + k), "bias": torch.zeros(4)}, tmp_path / "encoder.pth")
        params = config(archs=("unet",), encoder_weights=("resnet34=encoder.pth",))
        scores = Segmentation().score(job(tmp_path, lungs(), params, learn=LEARN, assets=(tmp_path,)))
        assert len(trained) == k + 1
        assert "resnet34 encoder from encoder.pth" in scores["miou"].note


def test_other_definitions_have_keys_of_their_own(tmp_path: Path) -> None:
    keys = {}
    for definition in ("image", "pooled"):
        for classes in ("lung", "both"):
            params = config(archs=("unet",), definition=definition, classes=classes)
            scores = Segmentation().score(job(tmp_path, lungs(), params, learn=LEARN))
            assert set(scores) == {metric.key for metric in Segmentation.metrics(params)}
            primary = [metric.key for metric in Segmentation.metrics(params) if metric.primary]
            keys[definition, classes] = (primary[0], value_of(scores[primary[0]]))
            assert scores[primary[1]].value == 0
    assert len(set(keys.values())) == 4 and {k for k, _ in keys.values()} == {"miou", "miou_both", "miou_pooled", "miou_both_pooled"}
    assert keys["image", "both"][1] > keys["image", "lung"][1]


def test_postprocessing_is_off_by_default_and_part_of_what_is_remembered(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = lungs()
    dotted = source.raw().copy()
    dotted[:, 14, rng.integers(0, SIZE, 3)] = 255  # specks outside the lungs
    translated = with_planes(source, "dotted", image=dotted)
    plain, clean = (
        Segmentation().score(job(tmp_path, translated, config(archs=("unet",), postprocess=on), source, learn=LEARN))
        for on in (False, True)
    )
    assert not SegmentationConfig().postprocess
    assert value_of(clean["miou"]) > value_of(plain["miou"])


def test_metrics_have_parts_and_two_of_them_lead() -> None:
    metrics = Segmentation.metrics(SegmentationConfig())
    assert len({metric.key for metric in metrics}) == len(metrics) == 25 + 15
    assert [metric.key for metric in metrics if metric.primary] == ["miou", "miou_delta"]
    assert {metric.part for metric in metrics} == {"", "Average", "U-Net", "PSPNet", "CE-Net", "VGG"}
    assert all(metric.better == "none" for metric in metrics if metric.shared)


def test_lists_of_a_configuration_can_be_typed() -> None:
    values = {"weights": "unet=a.pth,vgg=b.pth", "recipes": "cenet.iterations=3,cenet.lr=2e-3", "archs": "unet,vgg"}
    filled = fill(SegmentationConfig, values, "evaluators.segmentation")
    assert filled.own == {"unet": "a.pth", "vgg": "b.pth"} and filled.recipe("cenet")["lr"] == 2e-3


def test_scores_repeat_exactly(tmp_path: Path) -> None:
    source = lungs(counterpart=True)
    translated = with_planes(source, "rolled", image=np.roll(source.raw(), 1, 2))
    first, again = (
        Segmentation().score(job(tmp_path / str(k), translated, config(), source, learn=LEARN)) for k in range(2)
    )
    assert first == again
