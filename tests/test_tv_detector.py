"""Torchvision's detectors: data that moves with its boxes, losses that reach every weight, files, and no download."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import prepare_job
from torch import Tensor

from bench.contracts import Job
from bench.data.contract import Box
from bench.data.imageset import ImageSet, Item
from bench.errors import DataError, PreflightError, UsageError
from evaluators.counting import average_precision, pool_detections
from evaluators.detectors import LEAST, Annotated
from evaluators.tv_detector import (
    LABEL,
    TITLES,
    BoxBatch,
    BoxBatches,
    DetectorTraining,
    TorchvisionDetector,
    TorchvisionSettings,
    build_network,
    load_torchvision,
    train_torchvision,
)

TINY = TorchvisionSettings(backbone="resnet18", width=64, image_size=64, iterations=2, batch_size=2)
CPU = torch.device("cpu")


def squares(boxes: list[tuple[Box, ...]], side: int = 64, dtype: Any = np.uint8) -> ImageSet:
    """Dark images with bright boxes."""
    full = np.iinfo(dtype).max
    images = np.full((len(boxes), side, side), full // 5, dtype)
    for image, some in zip(images, boxes, strict=True):
        for x, y, w, h in some:
            image[round(y) : round(y + h), round(x) : round(x + w)] = full
    items = [Item(f"i{k}", f"p{k}", "opacity" if b else "clear", boxes=b) for k, b in enumerate(boxes)]
    return ImageSet("squares", items, {"image": images}, f"squares-{side}-{len(boxes)}")


FOUR: list[tuple[Box, ...]] = [
    ((6, 20, 18, 24),), ((38, 8, 16, 20), (8, 30, 20, 22)), ((30, 24, 24, 30),), ((10, 10, 20, 16), (36, 36, 18, 20)),
]  # fmt: skip


@pytest.fixture
def learn() -> list[Annotated]:
    return [(squares([*FOUR, ()]), [0, 1, 2, 3, 4])]


@pytest.fixture
def work(tmp_path: Path) -> Job:
    return prepare_job(tmp_path, squares(FOUR), None)


def training(settings: TorchvisionSettings) -> DetectorTraining:
    torch.manual_seed(0)
    return DetectorTraining(build_network(settings), LABEL[settings.architecture], 1e-3, 0.0)


class Gradients:
    """An optimizer wrapper that only back-propagates."""

    def update_params(self, loss: Tensor) -> None:
        loss.backward()


@pytest.mark.parametrize("architecture", TITLES)
def test_losses_are_finite_and_reach_every_weight(architecture: str, learn: list[Annotated]) -> None:
    settings = replace(TINY, architecture=architecture, batch_size=4)
    model = training(settings).train()
    batches = BoxBatches(learn, settings)
    terms = model.step(batches.batch(batches[0], CPU), {"D": Gradients()}, "train")  # type: ignore[dict-item]
    assert all(torch.isfinite(value) and not value.requires_grad for value in terms.values())
    assert float(terms["loss"]) == pytest.approx(sum(float(v) for k, v in terms.items() if k != "loss"), rel=1e-5)
    frozen = [name for name, p in model.net.named_parameters() if not p.requires_grad]
    assert not frozen  # torchvision's own default for detectors freezes layers and batch statistics
    silent = {name for name, p in model.net.named_parameters() if p.grad is None}
    assert not silent
    empty = BoxBatch(torch.rand(2, 1, 64, 64), [torch.zeros(0, 4)] * 2)
    alone = model.step(empty, {"D": Gradients()}, "train")  # type: ignore[dict-item]
    assert all(torch.isfinite(value) for value in alone.values())  # images without any lesion


def test_boxes_move_with_the_image() -> None:
    settings = replace(TINY, batch_size=6, scale=0.3, translate=0.15, brightness=0.0, image_size=128)
    batches = BoxBatches([(squares([((20, 26, 16, 20),)] * 3), [0, 1, 2])], settings)
    seen = []
    for step in range(6):
        batch = batches.batch(batches[step], CPU)
        for image, boxes in zip(batch.image, batch.boxes, strict=True):
            bright = torch.nonzero(image[0] > 0.6)
            (top, left), (bottom, right) = bright.min(0).values.tolist(), (bright.max(0).values + 1).tolist()
            assert boxes[0].tolist() == pytest.approx([left, top, right, bottom], abs=1.6)
            seen.append(boxes[0])
    spread = torch.stack(seen).std(0)
    assert (spread > 3).all()  # and it does move


def test_boxes_that_leave_the_image_are_dropped() -> None:
    settings = replace(TINY, batch_size=8, scale=0.0, translate=0.9, fliplr=0.0)
    batches = BoxBatches([(squares([((2, 26, 10, 10),)]), [0])], settings)
    batch = batches.batch(batches[0], CPU)
    assert {len(boxes) for boxes in batch.boxes} == {0, 1}
    assert all(((boxes >= 0) & (boxes <= 64)).all() for boxes in batch.boxes)


def test_batches_are_a_function_of_the_step(learn: list[Annotated]) -> None:
    one, other = (BoxBatches(learn, TINY) for _ in range(2))
    first = one.batch(one[3], CPU)
    other.batch(other[0], CPU)
    again = other.batch(other[3], CPU)
    assert torch.equal(first.image, again.image)
    assert all(torch.equal(a, b) for a, b in zip(first.boxes, again.boxes, strict=True))
    assert float(first.image.min()) >= 0 and float(first.image.max()) <= 1


def test_sets_of_several_sizes_and_depths_can_be_mixed() -> None:
    plain = replace(TINY, batch_size=2, fliplr=0.0, scale=0.0, translate=0.0, brightness=0.0)
    small, large = squares([((8, 8, 8, 8),)], 32), squares([((32, 32, 32, 32),)], 128, np.uint16)
    batches = BoxBatches([(small, [0]), (large, [0])], plain)
    batch = batches.batch(batches[0], CPU)
    assert sorted(boxes[0].tolist() for boxes in batch.boxes) == [[16.0, 16.0, 32.0, 32.0]] * 2  # the same place in both
    assert torch.allclose(batch.image[0].mean(), batch.image[1].mean(), atol=0.02)


def detector(settings: TorchvisionSettings) -> TorchvisionDetector:
    torch.manual_seed(0)
    return TorchvisionDetector(build_network(settings).eval(), "w", settings, {}, CPU)


@pytest.mark.parametrize("architecture", TITLES)
def test_what_is_detected(architecture: str) -> None:
    images = squares(FOUR, 64).pixels()[:, ::2, ::2]  # 32 pixels, half of what the network sees
    many = detector(replace(TINY, architecture=architecture, nms_iou=0.9)).detect(images)
    assert len(many) == 4 and max(len(f.scores) for f in many) > 3
    for found in many:
        assert found.boxes.shape == (len(found.scores), 4) and found.boxes.dtype == found.scores.dtype == np.float32
        assert (np.diff(found.scores) <= 0).all() and (found.scores >= LEAST).all() and (found.scores <= 1).all()
        assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, :2] + found.boxes[:, 2:] <= 32 + 1e-4).all()
        assert (found.boxes[:, 2:] > 0).all()
    few = detector(replace(TINY, architecture=architecture, nms_iou=0.9, max_detections=3)).detect(images)
    assert 0 < max(len(f.scores) for f in few) <= 3
    apart = detector(replace(TINY, architecture=architecture, nms_iou=0.1)).detect(images)
    assert sum(len(f.scores) for f in apart) < sum(len(f.scores) for f in many)


def test_detections_do_not_depend_on_the_batch() -> None:
    images = squares(FOUR).pixels()
    one, three = detector(replace(TINY, batch_size=3)), detector(replace(TINY, batch_size=3))
    together, alone = three.detect(images), [one.detect(images[i : i + 1])[0] for i in range(4)]
    for a, b in zip(together, alone, strict=True):
        assert np.allclose(a.scores, b.scores, atol=1e-5) and np.allclose(a.boxes, b.boxes, atol=1e-3)


def test_a_detector_is_trained_once(work: Job, learn: list[Annotated], monkeypatch: pytest.MonkeyPatch) -> None:
    first = train_torchvision(work, TINY, learn)
    assert first.facts["images"] == 5 and first.facts["boxes"] == 6 and first.facts["images_without_boxes"] == 1
    assert first.facts["licence"].startswith("BSD-3") and first.facts["pretrained"] is False
    assert work.fits.used["detector-fcos"]["iterations"] == 2

    def refuse(*args: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(DetectorTraining, "step", refuse)
    again = train_torchvision(work, TINY, learn)
    images = squares(FOUR).pixels()
    assert again.id == first.id
    assert [f.scores.tolist() for f in again.detect(images)] == [f.scores.tolist() for f in first.detect(images)]
    other = train_torchvision(work, replace(TINY, nms_iou=0.2), learn)  # decides what is found, not what is learnt
    assert other.id != first.id
    for change in ({"seed": 1}, {"width": 96}, {"fliplr": 0.0}):
        with pytest.raises(AssertionError, match="trained again"):
            train_torchvision(work, replace(TINY, **change), learn)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="trained again"):
        train_torchvision(work, TINY, [(learn[0][0], [0, 1])])


def test_nothing_to_learn_from(work: Job) -> None:
    with pytest.raises(DataError, match="no opacity box to learn from in squares"):
        train_torchvision(work, TINY, [(squares([(), ()]), [0, 1])])
    with pytest.raises(DataError, match="no image set"):
        train_torchvision(work, TINY, [])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {f"net.{k}": v for k, v in s.items()}])
def test_weights_of_the_users_own(work: Job, tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    torch.manual_seed(3)
    net = build_network(TINY)
    path = tmp_path / "mine.pth"
    torch.save(wrap(net.state_dict()), path)
    loaded = load_torchvision(work, path, TINY)
    direct = TorchvisionDetector(net.eval(), "x", TINY, {}, CPU)
    images = squares(FOUR).pixels()
    assert [f.boxes.tolist() for f in loaded.detect(images)] == [f.boxes.tolist() for f in direct.detect(images)]
    assert loaded.facts["file"] == "mine.pth" and "iterations" not in loaded.facts
    assert loaded.id == load_torchvision(work, path, TINY).id


def test_weights_that_cannot_be_used(work: Job, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    with pytest.raises(PreflightError, match=r"mine\.pth: no such"):
        load_torchvision(work, path, TINY)
    path.write_bytes(b"no weights")
    with pytest.raises(PreflightError, match=r"mine\.pth cannot be loaded safely"):
        load_torchvision(work, path, TINY)
    torch.save(build_network(TINY), path)  # a whole pickled model could run code
    with pytest.raises(PreflightError, match="cannot be loaded safely"):
        load_torchvision(work, path, TINY)
    torch.save(build_network(replace(TINY, architecture="retinanet")).state_dict(), path)
    with pytest.raises(PreflightError, match=r"mine\.pth does not hold the weights of torchvision's FCOS on resnet18 .*width 64"):
        load_torchvision(work, path, TINY)
    torch.save({}, path)
    with pytest.raises(PreflightError, match="does not hold the weights"):
        load_torchvision(work, path, TINY)


@pytest.mark.parametrize("architecture", TITLES)
def test_nothing_is_downloaded(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    build_network(replace(TINY, architecture=architecture, backbone="resnet34"))


def test_settings_are_checked() -> None:
    sizes = {"image_size": 32}, {"image_size": 100}, {"width": 32}, {"scale": 1.0}
    for wrong in ({"architecture": "yolo"}, {"iterations": 0}, {"batch_size": 1}, {"nms_iou": 1.5}, {"lr": 0.0}, *sizes):
        with pytest.raises(UsageError, match=f"^{next(iter(wrong))}: "):
            replace(TINY, **wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "lr", "iterations"), [("fcos", 1e-3, 80), ("retinanet", 5e-4, 120), ("ssdlite", 1e-3, 200)])
def test_four_images_can_be_learnt_by_heart(work: Job, architecture: str, lr: float, iterations: int) -> None:
    settings = TorchvisionSettings(
        architecture=architecture, backbone="resnet18", width=64, image_size=128, iterations=iterations, batch_size=4, lr=lr,
        fliplr=0.0, brightness=0.0, scale=0.0, translate=0.0,
    )  # fmt: skip
    images = squares(FOUR)
    trained = train_torchvision(work, settings, [(images, [0, 1, 2, 3])])
    found = trained.detect(images.pixels())
    assert average_precision(pool_detections(found, [item.boxes or () for item in images.items])) > 0.9
    best = [f.boxes[0] for f in found]
    for box, truth in zip(best, FOUR, strict=True):
        assert min(np.abs(box - np.array(t)).max() for t in truth) < 6  # in pixels of the 64-pixel image
