"""Segmentation: who learns from whom, what is compared, and what happens without lungs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import job, prepare_job
from segmentation_tools import LEARN, SIZE, Tiny, X, config, lungs, with_planes
from torch import nn

import bench.fits
from bench.config import fill
from bench.contracts import Score
from bench.data.imageset import ImageSet, Item
from bench.errors import DataError
from evaluators import segmentation, segmentation_models, segmenters
from evaluators.segmentation import Segmentation
from evaluators.segmentation_config import SegmentationConfig
from evaluators.segmentation_models import SegmenterEnsemble


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


def test_identity_changes_nothing_and_every_metric_has_a_value(tmp_path: Path) -> None:
    source = lungs(counterpart=True)
    scores = Segmentation().score(job(tmp_path, source, config(), learn=LEARN))
    metrics = Segmentation.metrics(config())
    assert set(scores) == {metric.key for metric in metrics}
    for key in ("miou_delta", "miou_delta/unet", "miou_delta/vgg"):
        assert scores[key].value == 0 and scores[key].ci == (0, 0)
    for key, score in scores.items():
        assert score.value is not None and score.doubt == "", key
        assert "encoders from scratch" in score.note and "trained on 16 images of toy/train" in score.note
        assert "masks compared at 16 px, padding left out" in score.note
        assert score.n == (8 if key.startswith("density") else 12)  # two thirds of them
        assert key.startswith("density") or (score.per_image is not None and len(score.per_image) == 12), key
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
    assert good["opacity_effect"].note.endswith("; compared with the true counterparts of the same images")
    for key in ("opacity_real", "clear_real", "opacity_effect", "density_effect"):  # shared: of real images only
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
        translated = with_planes(source, f"m{k}", image=np.roll(source.raw(), k + 1, 2))
        Segmentation().score(job(tmp_path, translated, config(), source, learn=LEARN))
    assert len(trained) == 2
    assert sum(looked) == 2 * 24 + 3 * 2 * 12  # only what is new is segmented
    Segmentation().score(job(tmp_path, source, config(model_seed=1), learn=LEARN))
    assert len(trained) == 4


@pytest.mark.parametrize("folds", [0, 3])
def test_an_image_that_was_not_translated_keeps_its_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int
) -> None:
    """Two passes over the same image can differ on another device, and in the last bit on the same one."""
    source, learn = lungs(), () if folds else LEARN
    params = config(archs=("unet",), folds=folds or 2)
    Segmentation().prepare(prepare_job(tmp_path, source, params, learn=learn))
    looked: list[int] = []

    def nothing(_: nn.Module, pixels: Any, device: torch.device) -> Any:
        looked.append(len(pixels))
        return np.zeros(pixels.shape, np.bool_)

    monkeypatch.setattr(segmentation, "segment", nothing)
    same = Segmentation().score(job(tmp_path, with_planes(source, "copy"), params, source, learn=learn))
    assert not any(looked) and same["miou_delta"].value == 0 and set((same["miou_delta"].per_image or {}).values()) == {0}
    image = source.raw().copy()
    image[[2, 7], 8, 8] ^= 1
    some = Segmentation().score(job(tmp_path, with_planes(source, "two changed", image=image), params, source, learn=learn))
    assert sum(looked) == 2
    changed = [name for name, value in (some["miou"].per_image or {}).items() if value == 0]  # nothing is found in these
    assert changed == [source.ids[2], source.ids[7]]
    assert [name for name, value in (some["miou_delta"].per_image or {}).items() if value] == changed


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
    found = SegmenterEnsemble(prepare_job(tmp_path, source, config(folds=folds)), 1)
    assert len(found.trainings) == folds
    for training in found.trainings:
        ((images, rows),) = training.learn
        assert images is source
        assert not {source.patients[r] for r in rows} & {source.patients[r] for r in training.rows}
    assert sorted(np.concatenate([t.rows for t in found.trainings]).tolist()) == list(range(20))
    again = SegmenterEnsemble(prepare_job(tmp_path, source, config(folds=folds)), 1)
    assert [t.rows.tolist() for t in again.trainings] == [t.rows.tolist() for t in found.trainings]


def test_cross_fitting_segments_every_image_with_the_right_model(tmp_path: Path, trained: list[Any]) -> None:
    source = lungs(counterpart=True)
    scores = Segmentation().score(job(tmp_path, source, config(archs=("unet",), folds=3)))
    assert len(trained) == 3
    assert "cross-fitted by patient in 3 folds of 12 images of toy/test" in scores["miou"].note
    assert list(scores["miou"].per_image or ()) == source.ids
    assert value_of(scores["clear_real"]) > 60 and value_of(scores["miou_delta"]) == 0


def test_fewer_patients_than_folds_and_a_single_one(tmp_path: Path) -> None:
    assert len(SegmenterEnsemble(prepare_job(tmp_path, lungs(4), config(folds=5)), 1).trainings) == 2
    scores = Segmentation().score(job(tmp_path, lungs(2), config()))
    assert all(score.value is None and "two patients" in score.note for score in scores.values())


def test_lung_conventions_are_never_mixed(tmp_path: Path) -> None:
    other = lungs(6, "another/train", "clear", "heart-included")
    with pytest.raises(DataError, match=r"another/train.* heart-included.*heart-excluded; they cannot be mixed"):
        Segmentation().prepare(prepare_job(tmp_path, lungs(), config(), learn=(*LEARN, other)))
    unmasked = with_planes(other, "unmasked", lung_mask=np.full((6, SIZE, SIZE), X, np.uint8))
    assert SegmenterEnsemble(prepare_job(tmp_path, lungs(), config(), learn=(*LEARN, unmasked)), 1).trainings[0].n == 16


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
    assert score.n == 10 and list(score.per_image or ()) == source.ids[2:]
    assert "1 of 12 images left out: no lung mask;" in score.note + ";"  # all of it undecided: there is none
    assert "1 of 12 images left out: no lung in their mask" in score.note
    bare = ImageSet("toy/test", source.items, {"image": source.raw()}, "bare", "open", "heart-excluded")
    assert not segmentation_models.masked(bare).any() and segmentation_models.with_lung(bare) == []
    assert segmentation_models.masked(source).tolist() == [0, 1] + [2] * 10


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
    assert scores["clear_real"].note.endswith("; compared with clear images that are not their counterparts")
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
    assert len(trained) == 1 and "trained on 16 images of toy/train" in scores["miou"].note


def test_without_clear_images_dense_lungs_are_compared_with_clear_ones(tmp_path: Path) -> None:
    """Lungs of many grey levels, the darkest of which are lost in what is around them."""
    n = 18
    source = lungs(n)
    image, lung = np.full((n, SIZE, SIZE), 40, np.uint8), source.raw(plane="lung_mask") == 1
    order = np.random.default_rng(2).permutation(n)
    for k in range(n):
        image[k][lung[k]] = 100 + 5 * order[k]
    image[order < 6] = 40
    params = config(archs=("unet",))
    source = with_planes(source, "dense", image=image)
    scores = Segmentation().score(job(tmp_path, source, params, learn=LEARN))
    for key in ("clear_real", "opacity_effect"):
        assert scores[key].value is None and "no clear images with a lung mask" in scores[key].note
    score, each = scores["density_effect"], scores["opacity_real"].per_image or {}
    dense, thin = (
        np.mean([np.mean(v) for v in grouped(source, each, np.flatnonzero(third))]) for third in (order >= 12, order < 6)
    )
    assert dense > 50 > thin
    assert score.n == 12 and score.value == pytest.approx(dense - thin)
    assert score.ci is not None and score.ci[0] < value_of(score) <= score.ci[1] and "mean grey level" in score.note
    few = Segmentation().score(job(tmp_path, lungs(5), params, learn=LEARN))["density_effect"]
    assert few.value is None and "fewer than 6 images" in few.note
    metric = next(m for m in Segmentation.metrics(params) if m.key == "density_effect")
    assert metric.shared and metric.part == "Average" and metric.label == "IoU, densest third of lungs minus clearest third"


def grouped(images: ImageSet, each: Any, rows: Any) -> list[list[float]]:
    """Values of some images, patient by patient."""
    patients = sorted({images.patients[k] for k in rows})
    return [[each[images.ids[k]] for k in rows if images.patients[k] == patient] for patient in patients]


def test_blind_segmenters_put_everything_in_doubt(tmp_path: Path) -> None:
    """A file whose weights expect another range of grey values loads without complaint and finds nothing."""
    segmenter = segmenters.Segmenter("unet")
    with torch.no_grad():
        for p in segmenter.parameters():
            p.zero_()
        segmenter.net.rest[1].bias.fill_(-1.0)  # type: ignore[index, union-attr]
    torch.save(segmenter.net.state_dict(), tmp_path / "blind.pth")
    params = config(weights=("unet=blind.pth",))
    for counterpart, where in ((True, "untranslated clear images"), (False, "untranslated images")):
        source = lungs(counterpart=counterpart)
        scores = Segmentation().score(job(tmp_path, source, params, assets=(tmp_path,), learn=LEARN))
        told = f"the segmenters hardly find lungs here: mean IoU 0 % (U-Net) in {where}, floor 50 %"
        assert {s.doubt for key, s in scores.items() if key.endswith("/unet")} == {told}
        assert {s.doubt for key, s in scores.items() if key.endswith("/vgg")} == {""}
        assert scores["miou"].doubt == told  # an average with one that is blind is half a number


def test_parts_tell_the_recipe_and_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: list[Any]) -> None:
    mine = config(archs=("unet",), weights=("unet=a.pth",))
    before, own = Segmentation.parts(config()), Segmentation.parts(mine)
    Segmentation().prepare(prepare_job(tmp_path, lungs(), config(), learn=LEARN))
    monkeypatch.setattr(segmentation_models, "RECIPE", 1000)
    assert Segmentation.parts(config(definition="pooled")) != before, "values by image are others"
    assert Segmentation.parts(config()) != before and Segmentation.parts(mine) == own  # nothing of theirs was trained
    Segmentation().prepare(prepare_job(tmp_path, lungs(), config(), learn=LEARN))
    assert len(trained) == 4
    monkeypatch.setattr(segmentation_models, "version", lambda name: "99.0")
    assert Segmentation.parts(mine) != own and "segmentation-models-pytorch 99.0" in Segmentation.parts(config())
    Segmentation().prepare(prepare_job(tmp_path, lungs(), config(), learn=LEARN))
    assert len(trained) == 6


def test_what_taught_them_is_among_the_facts(tmp_path: Path) -> None:
    asked = prepare_job(tmp_path, lungs(), config(), learn=LEARN)
    Segmentation().prepare(asked)
    assert {str(facts["trained_on"]) for facts in asked.fits.used.values()} == {"toy/train"}
    two = (*LEARN, lungs(4, "more/train", "clear", seed=9, prefix="m"))
    note = Segmentation().score(job(tmp_path, lungs(), config(), learn=two))["miou"].note
    assert "trained on 20 images of toy/train, more/train" in note


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
    assert len({metric.key for metric in metrics}) == len(metrics) == 25 + 20
    assert {metric.label for metric in metrics if metric.key.startswith("clear_real")} == {"IoU, clear images"}
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
