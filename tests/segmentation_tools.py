"""What the tests of segmentation share: a tiny segmenter, and sets of images with lungs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from bench.data.imageset import ImageSet, Item
from evaluators.segmentation_config import SegmentationConfig

SIZE = 16
X = 255


class Tiny(nn.Module):
    """Three convolutions: enough to find what is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, 4, 3, padding=1)
        self.rest = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.rest(self.encoder(images))
        return found


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
