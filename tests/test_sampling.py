"""Sampling and augmentation: functions of (seed, step) alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.contracts import Draws
from bench.data.imageset import ImageSet, Item
from bench.data.sampling import (
    NO_AUGMENT,
    Augment,
    LabelledSource,
    UnpairedSource,
    draw_order,
    mask_to_model,
    to_model,
)
from bench.errors import DataError, UsageError


def image_set(name: str, n: int, dtype: str = "uint8", side: int = 16, findings: Any = None) -> ImageSet:
    rng = np.random.default_rng(len(name))
    full = np.iinfo(dtype).max
    items = [Item(f"{name}{i}", f"p{i}", "clear", findings=findings(i) if findings else None) for i in range(n)]
    image = rng.integers(0, full, (n, side, side), dtype=dtype, endpoint=True)
    image[:, 0, 0] = np.arange(n)  # tells the images apart
    mask = rng.choice(np.array([0, 1, 255], dtype=dtype), (n, side, side))
    return ImageSet(name, items, {"image": image, "lung_mask": mask}, name)


def seen(batch: dict[str, Any], key: str) -> list[int]:
    return [int(v) for v in batch[key][:, 0, 0, 0].to(torch.int64)]


def test_every_epoch_holds_every_image_once_in_another_order() -> None:
    epochs = [[draw_order(3, "opacity", 37, e * 37 + i) for i in range(37)] for e in range(4)]
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != [draw_order(3, "clear", 37, i) for i in range(37)]
    assert epochs[0] != [draw_order(4, "opacity", 37, i) for i in range(37)]


def test_the_order_is_the_same_for_ever() -> None:
    assert [draw_order(0, "opacity", 10, p) for p in range(12)] == [9, 3, 0, 7, 6, 4, 2, 8, 5, 1, 5, 3]


def test_positions_are_evenly_filled() -> None:
    counts = np.zeros((8, 8))
    for epoch in range(2000):
        for position in range(8):
            counts[position, draw_order(1, "x", 8, epoch * 8 + position)] += 1
    assert abs(counts - 250).max() < 75  # 5 standard deviations


def test_two_processes_halve_the_batch_of_one() -> None:
    a, b = image_set("a", 11), image_set("bb", 7)
    whole = UnpairedSource(a, b, 9, 8, lung_mask=True)
    halves = [UnpairedSource(a, b, 9, 8, rank=rank, world=2, lung_mask=True) for rank in range(2)]
    for step in (0, 1, 5, 1000):
        parts = [half[step] for half in halves]
        for key in ("opacity", "clear", "lung_mask_opacity", "lung_mask_clear"):
            assert torch.equal(whole[step][key], torch.cat([part[key] for part in parts]))
        assert [(p["step"], p["start"], p["count"], p["total"]) for p in parts] == [(step, 0, 4, 8), (step, 4, 4, 8)]
        # ... and so are the augmented images: the random numbers belong to the sample, not to the process
        augment = Augment(0.8, 5, 0.1, 0.1)
        full = to_model(whole[step]["opacity"], 12, Draws(9, step, 0, 8, 8), augment, "cpu", name="opacity")
        split = [to_model(p["opacity"], 12, Draws(9, step, p["start"], 4, 8), augment, "cpu", name="opacity") for p in parts]
        assert torch.equal(full, torch.cat(split))


def test_any_step_can_be_asked_for_first() -> None:
    a, b = image_set("a", 11, "uint16"), image_set("bb", 7)
    straight = UnpairedSource(a, b, 0, 4)
    batches = [straight[step] for step in range(10)]
    resumed = UnpairedSource(a, b, 0, 4)
    for step in (9, 6, 7, 8):
        assert torch.equal(resumed[step]["opacity"], batches[step]["opacity"])
        assert torch.equal(resumed[step]["clear"], batches[step]["clear"])
    assert batches[0]["opacity"].dtype == torch.uint16
    assert batches[0]["clear"].shape == (4, 1, 16, 16)
    assert sorted(v for step in range(11) for v in seen(straight[step], "opacity")) == sorted([*range(11)] * 4)


def test_bad_sources_are_refused() -> None:
    a = image_set("a", 3)
    with pytest.raises(UsageError, match="batch size 3 cannot be divided among 2"):
        UnpairedSource(a, a, 0, 3, world=2)
    with pytest.raises(DataError, match="none holds no images"):
        UnpairedSource(a, a.subset([], "none"), 0, 2)
    with pytest.raises(DataError, match="must be equal"):
        UnpairedSource(a, image_set("b", 3, side=8), 0, 2)
    with pytest.raises(UsageError, match="min_crop"):
        Augment(min_crop=0)


def test_labels_keep_what_is_unknown() -> None:
    a = image_set("a", 4, findings=lambda i: {"Mass": float(i % 2)} if i else None)
    b = image_set("bb", 3, "uint16", findings=lambda i: {"Edema": 1.0, "Hernia": 1.0})
    source = LabelledSource([a, b], ("Mass", "Edema"), 0, 6)
    assert len(source) == 6  # the image without any label is not there
    batch = source[0]
    assert batch["image"].dtype == torch.uint16
    assert batch["labels"].shape == batch["known"].shape == (6, 2)
    assert sorted(map(tuple, batch["known"].tolist())) == [(0, 1)] * 3 + [(1, 0)] * 3
    assert batch["labels"].sum() == 3 + 2
    assert not (batch["labels"] * (1 - batch["known"])).any()
    eight = LabelledSource([a], ("Mass",), 0, 3)[0]["image"]
    rows = torch.cat([source[step]["image"] for step in range(1)]).to(torch.int64)
    assert all((rows == row * 257).flatten(1).all(1).any() for row in eight.to(torch.int64))
    with pytest.raises(DataError, match="no image of a has a label for any of Hernia"):
        LabelledSource([a], ("Hernia",), 0, 2)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_without_augmentation_values_are_only_rescaled(dtype: str) -> None:
    images = image_set("a", 3, dtype)
    stored = torch.from_numpy(images.raw())[:, None]
    out = to_model(stored, 16, Draws(0, 0, 0, 3, 3), NO_AUGMENT, "cpu")
    assert torch.equal(out[:, 0], torch.from_numpy(images.pixels()) * 2 - 1)
    assert out.dtype == torch.float32


def test_a_crop_of_everything_is_the_identity() -> None:
    images = torch.from_numpy(image_set("a", 3).raw())[:, None]
    plain = to_model(images, 16, Draws(0, 0, 0, 3, 3), NO_AUGMENT, "cpu")
    almost = Augment(min_crop=1 - 1e-7)
    assert almost.moves
    assert torch.allclose(to_model(images, 16, Draws(0, 0, 0, 3, 3), almost, "cpu"), plain, atol=1e-4)


def test_a_crop_keeps_the_place_of_things_and_masks_follow() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    ramps = torch.stack([x * 4, y * 4])[:, None].to(torch.uint8).repeat_interleave(3, 0)
    draws, augment = Draws(7, 3, 0, 6, 6), Augment(0.5)
    out = (to_model(ramps, 64, draws, augment, "cpu") + 1) / 2 * 255 / 4
    for i in range(6):  # ramp in, ramp out: slope = side of the crop, and the crop lies inside
        line = out[i, 0, 32] if i < 3 else out[i, 0, :, 32]
        slope = float(line[-2] - line[1]) / 61
        assert 0.5 <= slope <= 1
        assert line.min() >= 0
        assert line.max() <= 63
        expected = line[0] + slope * torch.arange(64)
        assert torch.allclose(line[1:-1], expected[1:-1], atol=0.02)
    masks = (ramps > 128).to(torch.uint8)
    moved = mask_to_model(masks, 64, draws, augment, "cpu")
    assert set(moved.unique().tolist()) <= {0.0, 1.0}
    assert ((moved > 0) == (out > 32.5)).float().mean() > 0.98
    undecided = torch.full_like(masks, 255)
    assert not mask_to_model(undecided, 64, draws, augment, "cpu").any()
    assert torch.equal(mask_to_model(masks, 64, draws, NO_AUGMENT, "cpu"), masks.float())


def test_names_steps_and_samples_are_augmented_differently() -> None:
    image = torch.from_numpy(image_set("a", 1).raw())[:, None].repeat(2, 1, 1, 1)
    one = to_model(image, 16, Draws(0, 0, 0, 2, 2), Augment(0.5), "cpu", name="opacity")
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, to_model(image, 16, Draws(0, 0, 0, 2, 2), Augment(0.5), "cpu", name="clear"))
    assert not torch.equal(one, to_model(image, 16, Draws(0, 1, 0, 2, 2), Augment(0.5), "cpu", name="opacity"))
    assert torch.equal(one, to_model(image, 16, Draws(0, 0, 0, 2, 2), Augment(0.5), "cpu", name="opacity"))


def test_rotation_turns_and_jitter_stays_in_range() -> None:
    bar = torch.zeros(8, 1, 65, 65, dtype=torch.uint8)
    bar[:, :, 31:34] = 255
    out = (to_model(bar, 65, Draws(0, 0, 0, 8, 8), Augment(1.0, rotation=10), "cpu") + 1) / 2
    rows = torch.arange(65.0)[:, None]
    left = (out[:, 0, :, 8:9] * rows).sum((1, 2)) / out[:, 0, :, 8:9].sum((1, 2))
    angles = torch.atan2(32 - left, torch.tensor(24.0)).rad2deg()
    assert angles.abs().max() < 10.5
    assert angles.min() < -1
    assert angles.max() > 1
    jittered = to_model(bar, 65, Draws(0, 0, 0, 8, 8), Augment(1.0, brightness=0.3, contrast=0.3), "cpu")
    assert jittered.min() >= -1
    assert jittered.max() <= 1
    assert jittered[:, 0, 0, 0].unique().numel() > 3


def test_far_reduction_does_not_alias() -> None:
    stripes = torch.zeros(1, 1, 256, 256, dtype=torch.uint8)
    stripes[..., ::2] = 255
    for augment in (NO_AUGMENT, Augment(0.9)):
        out = to_model(stripes, 32, Draws(0, 0, 0, 1, 1), augment, "cpu")
        assert out[..., 4:-4, 4:-4].abs().max() < 0.1
