"""Faithfulness against hand values on tiny images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from jobs import CPU
from sklearn.metrics import average_precision_score
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from bench.contracts import ScoreJob
from bench.data.imageset import ImageSet, Item
from evaluators.faithfulness import Faithfulness, FaithfulnessConfig, iou, outside_of, psnr, ssim
from evaluators.statistics import patient_means


def images(domains: list[str], content: tuple[int, int, int, int] | None = None, **planes: np.ndarray) -> ImageSet:
    items = [Item(f"i{k}", f"p{k}", domain, content=content) for k, domain in enumerate(domains)]
    return ImageSet("toy", items, planes, "0123")


def job(translated: ImageSet, source: ImageSet, tmp_path: Path, **params: Any) -> ScoreJob:
    config = FaithfulnessConfig(**params)
    return jobs.job(tmp_path, translated, config, source, reference=source)


def toy(n: int = 6, side: int = 16) -> tuple[ImageSet, np.ndarray]:
    """Source whose opacity (top left quarter) adds 40 grey levels to its counterpart; and that counterpart."""
    truth = np.random.default_rng(0).integers(20, 180, (n, side, side)).astype(np.uint8)
    opacity = np.zeros((n, side, side), np.uint8)
    opacity[:, : side // 2, : side // 2] = 255
    source = truth + (opacity > 0) * np.uint8(40)
    return images(["opacity"] * n, image=source, counterpart=truth, opacity=opacity), truth


def test_original_stands_at_exactly_zero(tmp_path: Path) -> None:
    source, _ = toy()
    scores = Faithfulness().score(job(images(source.domains, image=source.bytes()), source, tmp_path))
    assert scores["mae_in_change"].value == 0.0
    assert scores["mae_in_change"].ci == (0.0, 0.0)
    assert scores["change_out"].value == 0.0
    assert scores["mae_in"].value == pytest.approx(40 / 255)
    assert scores["mae"].value == pytest.approx(10 / 255)
    assert scores["mae_out"].value == 0.0
    assert scores["psnr"].value == pytest.approx(10 * np.log10(255**2 / (1600 / 4)))
    assert set(scores) == {m.key for m in Faithfulness.metrics(FaithfulnessConfig())}


def test_perfect_translation(tmp_path: Path) -> None:
    source, truth = toy()
    scores = Faithfulness().score(job(images(source.domains, image=truth), source, tmp_path))
    assert scores["mae_in_change"].value == -100.0
    assert scores["ssim"].value == pytest.approx(1.0)
    assert scores["psnr"].value == pytest.approx(58.92, abs=0.01)  # not infinite: rounding sets the limit
    assert scores["change_out"].value == 0.0
    assert scores["change_clear"].value is None
    assert "no clear images" in scores["change_clear"].note


def test_half_removed_and_changed_outside(tmp_path: Path) -> None:
    source, truth = toy()
    output = truth.copy()
    output[:, :8, :8] += 10  # 40 of error left at 10
    output[:, -1, :] += 51  # one row of 16 far outside
    scores = Faithfulness().score(job(images(source.domains, image=output), source, tmp_path))
    assert scores["mae_in_change"].value == pytest.approx(-75.0)
    outside = outside_of(source.pixels([0], "opacity")[0], 16)
    assert scores["change_out"].value == pytest.approx(16 * 0.2 / outside.sum())
    assert scores["change_out"].n == 6
    assert scores["mae_in"].per_image == pytest.approx({f"i{k}": 10 / 255 for k in range(6)})


def test_relative_change_is_a_ratio_of_patient_means(tmp_path: Path) -> None:
    truth = np.zeros((2, 4, 4), np.uint8)
    before, after = truth.copy(), truth.copy()
    before[0], before[1], after[0], after[1] = 100, 10, 50, 20
    source = images(["opacity"] * 2, image=before, counterpart=truth, opacity=np.full_like(truth, 255))
    score = Faithfulness().score(job(images(source.domains, image=after), source, tmp_path))["mae_in_change"]
    assert score.value == pytest.approx(100 * (70 / 110 - 1))
    assert score.per_image == pytest.approx({"i0": 100 * -50 / 55, "i1": 100 * 10 / 55})
    assert score.ci is None


def test_values_by_image_of_the_relative_change_average_to_the_headline(tmp_path: Path) -> None:
    """Weighted as the headline is: images within patients, patients alike. The second method is best by the mean of ratios alone:
    it removes faint opacities and leaves the dense one."""
    truth = np.zeros((5, 4, 4), np.uint8)
    strength = np.array([200, 20, 10, 30, 0], np.uint8)
    source = images(["opacity"] * 5, image=truth + strength[:, None, None], counterpart=truth, opacity=np.full_like(truth, 255))
    items = [replace(item, patient_id=p) for item, p in zip(source.items, "aabcd", strict=True)]
    source = ImageSet("toy", items, {name: source.raw(plane=name) for name in ("image", "counterpart", "opacity")}, "0124")
    values, shares = [], []
    for left in ([100, 20, 10, 30, 4], [190, 4, 2, 6, 0]):
        after = truth + np.array(left, np.uint8)[:, None, None]
        score = Faithfulness().score(job(ImageSet("out", items, {"image": after}, "1"), source, tmp_path))["mae_in_change"]
        assert score.value is not None and score.per_image is not None and len(score.per_image) == score.n == 5
        each = [score.per_image[i] for i in source.ids]
        assert patient_means(each, source.patients).mean() == pytest.approx(score.value, abs=1e-9)
        values.append(score.value)
        shares.append(np.mean([a / b - 1 for a, b in zip(left, strength.tolist(), strict=True) if b]))
    assert values[0] < values[1] and shares[0] > shares[1]


def test_change_is_against_the_input_and_error_against_the_truth(tmp_path: Path) -> None:
    source, truth = toy()
    grainy = images(
        source.domains, image=source.bytes() + np.uint8(5), counterpart=truth, opacity=source.raw(plane="opacity")
    )
    scores = Faithfulness().score(job(images(source.domains, image=grainy.bytes()), grainy, tmp_path))
    assert scores["change_out"].value == 0.0
    assert scores["mae_out"].value == pytest.approx(5 / 255)


def test_faint_rims_are_not_inside(tmp_path: Path) -> None:
    truth = np.zeros((1, 4, 4), np.uint8)
    opacity, output = truth.copy(), truth.copy()
    opacity[0, 0, :2] = 255, 25  # 1.0 and 0.098
    output[0, 0, :2] = 51, 102
    source = images(["opacity"], image=truth, counterpart=truth, opacity=opacity)
    scores = Faithfulness().score(job(images(["opacity"], image=output), source, tmp_path))
    assert scores["mae_in"].value == pytest.approx(0.2)


def test_outside_keeps_its_distance_from_faint_rims() -> None:
    strength = np.zeros((8, 8), np.float32)
    strength[2, 2], strength[2, 3] = 0.5, 0.05  # the rim is below the inside threshold but touched
    expected = np.ones((8, 8), bool)
    expected[1:4, 1:5] = False
    np.testing.assert_array_equal(outside_of(strength, 8), expected)
    wide = outside_of(np.pad(strength, 252), 512)  # 8 pixels at 512
    assert (~wide).sum() == 17 * 18


def test_padding_does_not_count(tmp_path: Path) -> None:
    truth = np.zeros((1, 4, 4), np.uint8)
    output = truth.copy()
    output[0, 0], output[0, 1:3] = 255, 51
    source = images(["opacity"], (1, 0, 2, 4), image=truth, counterpart=truth, opacity=truth)
    scores = Faithfulness().score(job(images(["opacity"], image=output), source, tmp_path))
    assert scores["mae"].value == pytest.approx(0.2)
    assert scores["psnr"].value == pytest.approx(10 * np.log10(25))
    assert scores["change_out"].value == pytest.approx(0.2)
    assert scores["mae_in"].value is None
    assert scores["mae_in_change"].value is None
    assert "window" in scores["ssim"].note


def test_sixteen_bit_images_are_compared_as_eight_bit_ones(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).integers(0, 65536, (5, 16, 16)).astype(np.uint16)
    source = images(["opacity"] * 5, image=truth, counterpart=truth, opacity=np.full((5, 16, 16), 65535, np.uint16))
    scores = Faithfulness().score(job(images(source.domains, image=source.bytes()), source, tmp_path))
    assert scores["mae"].value == 0.0
    assert scores["mae_in_change"].value is None
    assert "equals its counterpart" in scores["mae_in_change"].note
    assert scores["mae_out"].value is None  # the opacity fills the image


def test_mask_iou_by_hand_and_auprc_against_sklearn(tmp_path: Path) -> None:
    source, truth = toy(n=1)
    mask = np.zeros((1, 16, 16), np.uint8)
    mask[0, :8, :4], mask[0, 8:, 8:12] = 200, 128
    scores = Faithfulness().score(job(images(["opacity"], image=truth, mask=mask), source, tmp_path))
    assert scores["mask_iou"].value == pytest.approx(32 / (64 + 32))
    inside = source.raw(plane="opacity") > 0
    assert scores["mask_auprc"].value == pytest.approx(average_precision_score(inside.ravel(), mask.ravel() / 255))


def test_iou_of_two_empty_masks_does_not_exist() -> None:
    empty, one = np.zeros((2, 2), bool), np.eye(2, dtype=bool)
    assert np.isnan(iou(empty, empty))
    assert iou(one, empty) == 0.0
    assert iou(one, one) == 1.0
    assert iou(one, np.array([[True, True], [False, False]])) == pytest.approx(1 / 3)


def test_no_mask_is_said(tmp_path: Path) -> None:
    source, truth = toy()
    scores = Faithfulness().score(job(images(source.domains, image=truth), source, tmp_path))
    for key in ("mask_iou", "mask_auprc"):
        assert scores[key].value is None
        assert scores[key].note == "no activation mask"


def test_clear_images_are_measured_apart(tmp_path: Path) -> None:
    source, truth = toy(n=4)
    domains = ["opacity", "clear", "opacity", "clear"]
    mixed = images(domains, image=source.bytes(), counterpart=truth, opacity=source.raw(plane="opacity"))
    output = source.bytes().copy()
    output[1] += 3
    scores = Faithfulness().score(job(images(domains, image=output), mixed, tmp_path))
    assert scores["change_clear"].value == pytest.approx(1.5 / 255)
    assert scores["change_clear"].per_image == pytest.approx({"i1": 3 / 255, "i3": 0.0})
    assert scores["psnr"].n == 2


def test_only_clear_images(tmp_path: Path) -> None:
    clear = np.full((5, 16, 16), 100, np.uint8)
    source = images(["clear"] * 5, image=clear, counterpart=clear, opacity=np.zeros_like(clear))
    scores = Faithfulness().score(job(images(source.domains, image=clear + np.uint8(2)), source, tmp_path))
    assert scores["change_clear"].value == pytest.approx(2 / 255)
    assert scores["psnr"].value == pytest.approx(20 * np.log10(255 / 2))
    assert "clear images" in scores["psnr"].note
    rest = set(scores) - {"change_clear", "psnr"}
    assert all(scores[key].value is None and scores[key].note == "no opacity images in this test set" for key in rest)


def test_image_metrics_agree_with_torchmetrics() -> None:
    a, b = np.random.default_rng(0).integers(0, 256, (2, 32, 24)).astype(np.uint8)
    x, y = (torch.from_numpy(i).float()[None, None] / 255 for i in (a, b))
    assert psnr(a, b) == pytest.approx(float(peak_signal_noise_ratio(x, y, data_range=1.0)), abs=1e-4)
    assert ssim(a, b, CPU) == pytest.approx(float(structural_similarity_index_measure(x, y, data_range=1.0)), abs=1e-6)


def test_ssim_against_the_published_formula() -> None:
    """Gaussian windows over the image with mirrored borders, in float64."""
    a, b = np.random.default_rng(1).integers(0, 256, (2, 12, 15)).astype(np.uint8)
    weight = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w = np.outer(weight, weight) / weight.sum() ** 2
    x, y = (np.lib.stride_tricks.sliding_window_view(np.pad(i / 255, 5, mode="reflect"), (11, 11)) for i in (a, b))

    def mean(values: np.ndarray) -> np.ndarray:
        return (w * values).sum(axis=(-2, -1))

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert ssim(a, b, CPU) == pytest.approx(expected.mean(), abs=1e-5)


def test_needs_what_it_uses() -> None:
    assert Faithfulness.requires(FaithfulnessConfig()) == {"counterpart", "opacity"}
