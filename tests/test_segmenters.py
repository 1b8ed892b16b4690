"""Segmenters: what they are, what they learn from, and whose weights they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from jobs import job, prepare_job
from method_tools import count
from torch import Tensor

from bench.config import load
from bench.data.contract import CLEAR
from bench.data.imageset import ImageSet, Item
from bench.data.load import DataSource, open_datasets
from bench.data.sampling import NO_AUGMENT, Augment
from bench.errors import PreflightError, UsageError
from bench.experiment import Experiment, RunSpec, evaluator_config
from bench.learning import images as learning_images
from evaluators.cenet import CENet, DenseAtrous, MultiPool
from evaluators.padding import unpadded
from evaluators.segmentation import Segmentation
from evaluators.segmentation_config import SegmentationConfig
from evaluators.segmentation_models import SegmenterEnsemble
from evaluators.segmenter_files import load_encoder, load_segmenter
from evaluators.segmenters import ARCHS, Distort, MaskBatch, MaskBatches, Segmenter, SegmenterTraining, segment

CPU = torch.device("cpu")
FOUR = ("cenet", "pspnet", "unet", "vgg")


@pytest.fixture(scope="module")
def segmenters() -> dict[str, Segmenter]:
    """Of every architecture one, untrained."""
    torch.manual_seed(0)
    return {arch: Segmenter(arch) for arch in FOUR}


def picture_set(n: int = 6, size: int = 16, name: str = "toy", depth: Any = np.uint8) -> ImageSet:
    """Bright discs (lung) on noise, each of another patient; the first row of every mask is undecided."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    lung = np.stack([(y - size // 2) ** 2 + (x - size // 2 - k % 3) ** 2 < (size // 4) ** 2 for k in range(n)])
    image = rng.uniform(0, 0.3, (n, size, size)) + 0.6 * lung
    codes = lung.astype(np.uint8)
    codes[:, 0] = 255
    planes = {"image": (image * np.iinfo(depth).max).astype(depth), "lung_mask": codes}
    return ImageSet(name, [Item(f"i{k}", f"p{k}", "opacity") for k in range(n)], planes, name, lung_convention="heart-excluded")


# architectures


def test_cenet_has_the_published_number_of_parameters_part_by_part() -> None:
    net = CENet(in_channels=3)
    assert count(net) == 29_003_093
    assert count(CENet(in_channels=1)) == 29_003_093 - 6_272
    assert count(net.dac) == 7_342_080  # four branches share three 3 x 3 convolutions and one 1 x 1
    assert count(net.rmp) == 513
    assert [count(block) for block in net.decoder] == [250_899, 62_208, 15_744, 4_640]


def test_cenet_blocks_compute_what_their_description_says() -> None:
    torch.manual_seed(0)
    dac, x = DenseAtrous(4), torch.randn(1, 4, 12, 12)
    one = torch.nn.functional.conv2d(x, dac.rate1.weight, dac.rate1.bias, padding=1)
    assert dac.rate3.dilation == (3, 3) and dac.rate5.dilation == (5, 5)
    deep = dac.mix(dac.rate5(dac.rate3(one)))
    expected = x + sum(b.relu() for b in (one, dac.mix(dac.rate3(x)), dac.mix(dac.rate3(one)), deep))
    torch.testing.assert_close(dac(x), expected)
    pool = MultiPool(4)
    pooled = pool(x)
    assert pooled.shape == (1, 8, 12, 12)
    torch.testing.assert_close(pooled[:, 4:], x)
    for channel, k in enumerate((2, 3, 5, 6)):
        small = torch.nn.functional.conv2d(torch.nn.functional.max_pool2d(x, k, stride=k), pool.reduce.weight, pool.reduce.bias)
        scale = torch.nn.functional.interpolate(small, (12, 12), mode="bilinear", align_corners=False)
        torch.testing.assert_close(pooled[:, channel : channel + 1], scale)


@pytest.mark.parametrize(("arch", "millions"), [("unet", 24.43), ("pspnet", 22.07), ("vgg", 23.76), ("cenet", 29.0)])
def test_the_four_have_the_sizes_of_the_protocol(segmenters: dict[str, Segmenter], arch: str, millions: float) -> None:
    assert count(segmenters[arch]) / 1e6 == pytest.approx(millions, abs=0.015)


@pytest.mark.parametrize("arch", FOUR)
def test_all_parameters_learn_and_logits_have_the_input_s_side(segmenters: dict[str, Segmenter], arch: str) -> None:
    """PSPNet at its default depth would train 1.5 of its 21 million parameters."""
    model = SegmenterTraining(segmenters[arch], 1e-3, 0.0, 0.1).train()
    image = torch.rand(2, 1, 40, 40) * 2 - 1
    logits = model.segmenter(image)
    assert logits.shape == image.shape and logits.dtype == torch.float32
    model.loss(logits, MaskBatch(image, (image > 0).float(), torch.ones_like(image)))["loss"].backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    model.zero_grad(set_to_none=True)
    assert not idle


@pytest.mark.parametrize(("arch", "side", "inner"), [("cenet", 64, 192), ("unet", 70, 96), ("pspnet", 64, 128), ("vgg", 64, 64)])
def test_inputs_are_brought_to_the_side_an_architecture_needs(
    segmenters: dict[str, Segmenter], arch: str, side: int, inner: int
) -> None:
    seen: list[torch.Size] = []
    hook = segmenters[arch].net.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with torch.inference_mode():
        out = segmenters[arch].eval()(torch.zeros(1, 1, side, side))
    hook.remove()
    assert seen == [torch.Size((1, 1, inner, inner))] and out.shape == (1, 1, side, side)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for arch in FOUR:
        Segmenter(arch)


def test_segment_does_not_depend_on_the_batch(segmenters: dict[str, Segmenter]) -> None:
    pixels = picture_set(5, 32).bytes()
    net = segmenters["unet"].eval()
    whole, single = (segment(net, pixels, CPU, batch_size) for batch_size in (5, 1))
    assert whole.shape == pixels.shape and (whole != single).mean() < 1e-3


# learning


def batches(images: ImageSet, **more: Any) -> MaskBatches:
    arguments = {"seed": 3, "batch_size": 4, "size": 16, "augment": Augment(0.7, 20.0, 0.1, 0.1), **more}
    return MaskBatches([(images, range(len(images)))], **arguments)


def test_batches_are_a_function_of_the_step_and_move_masks_with_images() -> None:
    first, again = (batches(picture_set()) for _ in range(2))
    again[7]  # the order of asking does not matter
    a, b = first.batch(first[2], CPU), again.batch(again[2], CPU)
    assert torch.equal(a.image, b.image) and torch.equal(a.lung, b.lung) and torch.equal(a.decided, b.decided)
    assert a.image.shape == a.lung.shape == a.decided.shape == (4, 1, 16, 16)
    assert not torch.equal(a.image, first.batch(first[3], CPU).image)
    bright = a.image > 0
    assert ((bright == (a.lung > 0)) | (a.decided == 0)).float().mean() > 0.9  # the disc is where its mask is


def test_undecided_pixels_stay_undecided_and_are_no_lung() -> None:
    plain = batches(picture_set(), augment=NO_AUGMENT)
    batch = plain.batch(plain[0], CPU)
    assert (batch.decided[:, :, 0] == 0).all() and (batch.decided[:, :, 1:] == 1).all()
    assert not (batch.lung * (1 - batch.decided)).any()


def test_flips_mirror_image_and_mask_together_and_are_off_by_default() -> None:
    assert not SegmentationConfig().flip
    still, flipped = (batches(picture_set(), augment=NO_AUGMENT, more=Distort(flip=flip), batch_size=32) for flip in (False, True))
    a, b = (source.batch(source[0], CPU) for source in (still, flipped))
    mirrored = [not torch.equal(x, y) for x, y in zip(a.image, b.image, strict=True)]
    assert 5 < sum(mirrored) < 27
    for k, turned in enumerate(mirrored):
        for x, y in ((a.image, b.image), (a.lung, b.lung)):
            assert torch.equal(y[k], x[k].flip(-1) if turned else x[k])


def test_margins_are_black_decided_and_no_lung() -> None:
    plain, wide = (batches(picture_set(), augment=NO_AUGMENT, more=m, batch_size=8) for m in (Distort(), Distort(expand=0.5)))
    a, b = plain.batch(plain[0], CPU), wide.batch(wide[0], CPU)
    assert 0.3 < (b.lung.sum() / a.lung.sum()) < 0.9
    assert (b.decided[:, :, 0] == 1).float().mean() > 0.5  # the undecided first row is inside now
    assert not (b.lung * (1 - b.decided)).any()
    corner = b.image[:, 0, -1, -1]
    assert (corner == -1).float().mean() > 0.5


def test_gamma_bends_grey_values_and_keeps_their_order() -> None:
    plain, bent = (batches(picture_set(), augment=NO_AUGMENT, more=m) for m in (Distort(), Distort(gamma=2.0)))
    a, b = plain.batch(plain[0], CPU), bent.batch(bent[0], CPU)
    assert not torch.allclose(a.image, b.image) and b.image.min() >= -1 and b.image.max() <= 1
    for x, y in zip(a.image.flatten(1), b.image.flatten(1), strict=True):
        assert (y[x.argsort()].diff() >= 0).all()


def test_sets_of_another_depth_and_side_learn_together() -> None:
    sets = [(picture_set(3, 16), [0, 2]), (picture_set(3, 24, "deep", np.uint16), [1])]
    source = MaskBatches(sets, 0, 3, 16, NO_AUGMENT, Distort(expand=0.1))
    batch = source.batch(source[0], CPU)
    assert batch.image.shape == (3, 1, 16, 16) and batch.image.min() >= -1 and batch.image.max() <= 1
    assert (batch.lung.sum((1, 2, 3)) > 15).all()


def test_undecided_pixels_do_not_change_the_loss_or_its_gradient() -> None:
    model = SegmenterTraining(Segmenter("unet"), 1e-3, 0.0, 0.1)
    torch.manual_seed(1)
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    lung, decided = (torch.rand(2, 1, 8, 8) > 0.5).float(), (torch.rand(2, 1, 8, 8) > 0.3).float()
    terms = model.loss(logits, MaskBatch(logits, lung, decided))
    terms["loss"].backward()
    assert logits.grad is not None and not (logits.grad * (1 - decided)).any() and (logits.grad * decided).any()
    wild = torch.where(decided > 0, logits.detach(), torch.full_like(logits, 30.0))
    swapped = torch.where(decided > 0, lung, 1 - lung)
    other = model.loss(wild, MaskBatch(wild, swapped, decided))
    for name, value in terms.items():
        assert float(other[name]) == pytest.approx(float(value.detach()), abs=1e-6), name


def test_the_loss_is_dice_plus_cross_entropy_by_hand() -> None:
    model = SegmenterTraining(Segmenter("unet"), 1e-3, 0.0, 0.1)
    logits = torch.zeros(1, 1, 1, 4)  # probability one half everywhere; the last pixel is undecided
    batch = MaskBatch(logits, torch.tensor([[[[1.0, 0, 0, 1]]]]), torch.tensor([[[[1.0, 1, 1, 0]]]]))
    terms = model.loss(logits, batch)
    assert float(terms["bce"]) == pytest.approx(np.log(2))
    assert float(terms["dice"]) == pytest.approx(1 - 2 * (0.5 + 1) / (1.5 + 1 + 2))  # smoothed by one pixel in both
    assert float(terms["loss"]) == pytest.approx(float(terms["bce"] + terms["dice"]))


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    model = SegmenterTraining(Segmenter("unet"), 1e-3, 0.0, 0.1)
    factors = [model.lr_factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == 1 and sorted(factors[10:], reverse=True) == factors[10:] and factors[-1] < 1e-3


# weight files


def saved(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


LAYOUTS = {
    "smp": lambda state: state,
    "data parallel, nested": lambda state: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
    "trained here": lambda state: {f"segmenter.net.{k}": v for k, v in state.items()},
    "RGB stem": lambda state: {k: v.repeat(1, 3, 1, 1) / 3 if v.ndim == 4 and v.shape[1] == 1 else v for k, v in state.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_segmenters_load_in_every_layout(segmenters: dict[str, Segmenter], tmp_path: Path, layout: str) -> None:
    path = saved(tmp_path / "own.pth", LAYOUTS[layout](segmenters["unet"].net.state_dict()))
    torch.manual_seed(9)
    fresh, images = Segmenter("unet").eval(), torch.rand(1, 1, 32, 32) * 2 - 1
    load_segmenter(fresh, path)
    with torch.inference_mode():
        torch.testing.assert_close(fresh(images), segmenters["unet"].eval()(images))
    config = SegmentationConfig(weights=(f"unet={path}",))
    assert Segmentation.missing_assets(config, ()) == []
    assert Segmentation.files(config, ()) == (path,)


def encoder_files() -> dict[str, tuple[str, dict[str, Tensor]]]:
    torch.manual_seed(5)
    return {
        "torchvision resnet34": ("unet", torchvision.models.resnet34(weights=None).state_dict()),
        "timm resnet34": ("cenet", timm.create_model("resnet34", pretrained=False).state_dict()),
        "smp resnet34": ("pspnet", Segmenter("unet").net.state_dict()),
        "torchvision vgg16_bn": ("vgg", torchvision.models.vgg16_bn(weights=None).features.state_dict(prefix="features.")),
    }


def test_encoders_start_from_torchvision_timm_and_smp_files(tmp_path: Path) -> None:
    for name, (arch, state) in encoder_files().items():
        segmenter, path = Segmenter(arch), saved(tmp_path / "encoder.pth", state)
        load_encoder(segmenter, path)
        encoder = segmenter.net.encoder
        assert isinstance(encoder, torch.nn.Module)
        stem = next(p for p in encoder.parameters() if p.ndim == 4)
        given = next(v for v in state.values() if v.ndim == 4)
        torch.testing.assert_close(stem.detach(), given.sum(1, keepdim=True), msg=name)


def test_a_file_of_another_architecture_is_one_clear_message(segmenters: dict[str, Segmenter], tmp_path: Path) -> None:
    path = saved(tmp_path / "psp.pth", segmenters["pspnet"].net.state_dict())
    (line,) = Segmentation.missing_assets(SegmentationConfig(weights=(f"unet={path}",)), ())
    assert "\n" not in line
    for words in (f"weights unet={path}", "U-Net ('unet')", "'decoder.blocks.0", "is missing"):
        assert words in line
    with pytest.raises(PreflightError, match="does not hold the weights of a CE-Net"):
        load_segmenter(Segmenter("cenet"), path)
    vgg = saved(tmp_path / "vgg.pth", {"features.0.weight": torch.zeros(64, 3, 3, 3)})
    (line,) = Segmentation.missing_assets(SegmentationConfig(encoder_weights=(f"resnet34={vgg}",)), ())
    assert "a resnet34 encoder" in line and "'conv1.weight' is missing" in line
    resnet50 = saved(tmp_path / "r50.pth", torchvision.models.resnet50(weights=None).state_dict())
    (line,) = Segmentation.missing_assets(SegmentationConfig(encoder_weights=(f"resnet34={resnet50}",)), ())
    assert "has shape (64, 64, 1, 1) instead of (64, 64, 3, 3)" in line


def test_files_that_are_missing_or_unreadable_are_named_before_any_work(tmp_path: Path) -> None:
    (line,) = Segmentation.missing_assets(SegmentationConfig(weights=("unet=none.pth",)), (tmp_path,))
    assert "weights unet=none.pth: there is no such file" in line and str(tmp_path / "none.pth") in line
    (tmp_path / "there.pth").write_bytes(b"nonsense")
    config = SegmentationConfig(weights=("unet=there.pth",))
    (line,) = Segmentation.missing_assets(config, (tmp_path,))
    assert "cannot be loaded safely" in line and "torch.save(model.state_dict(), file)" in line
    torch.save(torch.nn.Linear(2, 2), tmp_path / "there.pth")
    for cut in (None, 300):  # a whole model, and half of one: nothing may advise to run what is in it
        (tmp_path / "there.pth").write_bytes((tmp_path / "there.pth").read_bytes()[:cut])
        (line,) = Segmentation.missing_assets(config, (tmp_path,))
        assert line.startswith("--segmenter-weights unet=there.pth: ") and "torch.save(model.state_dict(), file)" in line
        assert "weights_only" not in line and "trusted" not in line and "\n" not in line and len(line) < 350
        assert cut or "torch.nn.modules.linear.Linear" in line
    encoder = SegmentationConfig(encoder_weights=("resnet34=there.pth",))
    (line,) = Segmentation.missing_assets(encoder, (tmp_path,))
    assert line.startswith("--set evaluators.segmentation.encoder_weights=resnet34=there.pth: ") and "weights_only" not in line
    assert Segmentation.files(config, (tmp_path,)) == (tmp_path / "there.pth",)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"weights": ("unett=x.pth",)}, "Did you mean 'unet'"),
        ({"weights": ("unet",)}, "expected NAME=PATH"),
        ({"weights": ("unet=a", "unet=b")}, "names unet twice"),
        ({"encoder_weights": ("resnet50=x.pth",)}, "unknown name 'resnet50'"),
        ({"archs": ("unet", "segnet")}, "unknown segmenter 'segnet'"),
        ({"archs": ()}, "at least one"),
        ({"definition": "mean"}, "not one of image, pooled"),
        ({"classes": "all"}, "not one of lung, both"),
        ({"folds": 1}, "folds: 1 is not a number of at least 2"),
        ({"recipes": ("unet.epochs=3",)}, "expected ARCH.KEY=VALUE"),
        ({"recipes": ("unet.iterations=many",)}, "is not a number"),
        ({"iterations": 0}, "iterations: 0 is not"),
        ({"recipes": ("unet.batch_size=0",)}, "recipes: batch_size of unet: 0 is not"),
        ({"min_crop": 0.0}, "min_crop"),
    ],
)
def test_bad_configurations_are_usage_errors(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SegmentationConfig(**bad)


def test_recipes_of_single_architectures() -> None:
    config = SegmentationConfig(iterations=100, recipes=("cenet.iterations=40", "cenet.lr=2e-3"))
    assert config.recipe("cenet") == {"iterations": 40, "batch_size": 8, "lr": 2e-3}
    assert config.recipe("unet") == {"iterations": 100, "batch_size": 8, "lr": 0.0}


def test_every_architecture_is_offered() -> None:
    assert set(ARCHS) == set(FOUR) == set(SegmentationConfig().archs)


# how well they do

REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.slow
def test_quick_segmenters_find_the_lungs_of_clear_embedded_images(tmp_path: Path) -> None:
    """With the shipped preset, none of it set here. What each training took is printed (``-s``)."""
    spec = RunSpec((), "segmentation", "quick", load("quick"), data=("synthetic",))
    run = Experiment(spec, CPU)
    params = evaluator_config(spec.config, "segmentation")[1]
    asked = job(
        tmp_path, run.test_set("synthetic").where(CLEAR), params, learn=learning_images(run, "segmentation", "synthetic", "train")
    )
    scores = Segmentation().score(asked)
    for name, facts in asked.fits.used.items():
        print(name, facts["n"], facts["cost"])
    found = {arch: scores[f"miou/{arch}"].value for arch in FOUR}
    print(asked.source.size, found)
    assert asked.source.size == 64 and {facts["trained_on"] for facts in asked.fits.used.values()} == {"synthetic/train"}
    assert all(value is not None and value >= 90 for value in found.values()), found
    assert not any(score.doubt for score in scores.values())


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "covid").is_dir(), reason=f"no real data at {REAL / 'covid'}")
def test_segmenters_of_real_films_agree_with_each_other_better_than_with_the_annotation(tmp_path: Path) -> None:
    """Different encoders outline the same lungs, so chance in training is not what keeps them from the annotation: it is loose
    on many films, or both leave out the same dense lung."""
    source = open_datasets([DataSource("covid", REAL / "covid", {})], 0, (0, 0, 1), tmp_path / "cache")[0].split("test", 64)
    params = SegmentationConfig(
        archs=("unet", "vgg"), folds=2, iterations=250, brightness=0.15, contrast=0.4, expand=0.2, rotation=10, channels_last=True
    )
    ensemble = SegmenterEnsemble(prepare_job(tmp_path, source, params), 1)
    masks = {arch: np.zeros((len(source), 64, 64), np.bool_) for arch in params.archs}
    for arch, found in masks.items():
        for ready in ensemble.ready(arch):
            found[ready.rows] = segment(ready.segmenter, source.bytes(ready.rows), CPU)
    codes = source.raw(plane="lung_mask")
    agreed = {name: [] for name in ("unet", "vgg", "each other")}  # type: dict[str, list[float]]
    for row in ensemble.rows:
        counted = unpadded(source, row, codes[row]) != 255
        lung, a, b = (unpadded(source, row, m[row])[counted] for m in (codes == 1, *masks.values()))
        for name, (x, y) in zip(agreed, ((a, lung), (b, lung), (a, b)), strict=True):
            agreed[name].append((x & y).sum() / max(1, (x | y).sum()))
    means = {name: float(np.mean(values)) for name, values in agreed.items()}
    print(means)
    assert len(ensemble.rows) == 68 and means["each other"] >= 0.85
    assert means["each other"] - max(means["unet"], means["vgg"]) >= 0.1
