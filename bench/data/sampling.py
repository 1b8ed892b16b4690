"""What training sees at a step: a pure function of (seed, step), however many processes share it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.contract import MASK_LUNG
from bench.data.imageset import ImageSet
from bench.draws import Draws
from bench.errors import DataError, UsageError


@lru_cache(maxsize=16)
def _permutation(seed: int, domain: str, n: int, epoch: int) -> npt.NDArray[np.int64]:
    """Order of one epoch: sort by a hash of (seed, domain, epoch, index). No generator, so no library version changes it."""
    key = hashlib.blake2b(f"{seed}/{domain}/{epoch}".encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        z = np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.frombuffer(key, dtype="<u8")[0]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # finaliser of splitmix64
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    order = np.argsort(z, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def draw_order(seed: int, domain: str, n: int, position: int) -> int:
    """Index of the image at a position of the endless sequence: every epoch of n positions holds each image once.

    Args:
        seed: the run's seed.
        domain: name of the sequence; domains are shuffled independently.
        n: number of images.
        position: from 0.
    """
    return int(_permutation(seed, domain, n, position // n)[position % n])


@dataclass(frozen=True)
class _Share:
    """The part of every global batch that one process works on."""

    batch_size: int
    rank: int
    world: int

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.world:
            raise UsageError(f"batch size {self.batch_size} cannot be divided among {self.world} processes; use a multiple.")

    @property
    def count(self) -> int:
        return self.batch_size // self.world

    @property
    def start(self) -> int:
        return self.rank * self.count

    def meta(self, step: int) -> dict[str, int]:
        """What `Draws` needs."""
        return {"step": step, "start": self.start, "count": self.count, "total": self.batch_size}

    def indices(self, seed: int, domain: str, n: int, step: int) -> list[int]:
        first = step * self.batch_size + self.start
        return [draw_order(seed, domain, n, position) for position in range(first, first + self.count)]


class UnpairedSource:
    """Batches of the two domains, drawn independently; ``source[step]`` works for any step, in any order.

    Args:
        opacity: images with opacities.
        clear: images without.
        seed: the run's seed.
        batch_size: images of each domain in a step, over all processes.
        rank: this process.
        world: number of processes.
        lung_mask: hand over lung masks, too.
    """

    def __init__(
        self,
        opacity: ImageSet,
        clear: ImageSet,
        seed: int,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        lung_mask: bool = False,
    ) -> None:
        self.sets = {"opacity": opacity, "clear": clear}
        self.seed, self.share, self.lung_mask = seed, _Share(batch_size, rank, world), lung_mask
        for images in self.sets.values():
            if not len(images):
                raise DataError(f"{images.name} holds no images to train on.")
            if lung_mask and "lung_mask" not in images.planes:
                raise DataError(f"{images.name} has no lung masks.")
        if opacity.size != clear.size:
            raise DataError(f"{opacity.name} is {opacity.size} pixels wide, {clear.name} {clear.size}; they must be equal.")

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Stored values of this process's share: ``opacity`` and ``clear`` (n x 1 x S x S, uint8 or uint16), with
        ``lung_mask_opacity`` and ``lung_mask_clear`` (codes) where asked for, and ``step, start, count, total`` for `Draws`.
        """
        batch: dict[str, Any] = self.share.meta(step)
        for domain, images in self.sets.items():
            indices = self.share.indices(self.seed, domain, len(images), step)
            batch[domain] = _tensor(images.raw(indices))
            if self.lung_mask:
                batch[f"lung_mask_{domain}"] = _tensor(images.raw(indices, "lung_mask"))
        return batch


class LabelledSource:
    """Labelled batches for the finding classifier, from one or several datasets; one process trains it.

    Images without a known label among `findings` are left out.

    Args:
        sets: image sets of one size.
        findings: names of the labels, in order.
        seed: the run's seed.
        batch_size: images in a step.
    """

    def __init__(self, sets: Sequence[ImageSet], findings: tuple[str, ...], seed: int, batch_size: int) -> None:
        self.sets, self.findings, self.seed = list(sets), findings, seed
        self.share = _Share(batch_size, rank=0, world=1)
        if len({images.size for images in self.sets if len(images)}) > 1:
            raise DataError(f"{', '.join(images.name for images in self.sets)} differ in size; they must be equal.")
        rows = [
            (s, i, [(item.findings or {}).get(name, math.nan) for name in findings])
            for s, images in enumerate(self.sets)
            for i, item in enumerate(images.items)
        ]
        rows = [row for row in rows if not all(map(math.isnan, row[2]))]
        if not rows:
            names = ", ".join(images.name for images in self.sets)
            raise DataError(f"no image of {names} has a label for any of {', '.join(findings)}.")
        self._where = [(s, i) for s, i, _ in rows]
        values = torch.tensor([row[2] for row in rows], dtype=torch.float32)
        self.known = (~values.isnan()).float()
        self.labels = values.nan_to_num()

    def __len__(self) -> int:
        """Number of images with labels (not of steps: those are endless)."""
        return len(self._where)

    def __getitem__(self, step: int) -> dict[str, Any]:
        """``image`` (n x 1 x S x S stored values), ``labels`` and ``known`` (n x K) and ``step, start, count, total``."""
        indices = self.share.indices(self.seed, "labelled", len(self), step)
        rows = [self.sets[s].raw([i]) for s, i in (self._where[index] for index in indices)]
        if any(row.dtype == np.uint16 for row in rows):
            # 8-bit rows of a mixed batch: times 257 is exact, 255 becomes 65535.
            rows = [row if row.dtype == np.uint16 else row.astype(np.uint16) * np.uint16(257) for row in rows]
        return {
            **self.share.meta(step),
            "image": _tensor(np.concatenate(rows)),
            "labels": self.labels[indices],
            "known": self.known[indices],
        }


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))[:, None]


@dataclass(frozen=True)
class Augment:
    """Augmentation of training images; the same for every method. Radiographs are not flipped: the heart has its side.

    Attributes:
        min_crop: a square of side uniform in [min_crop, 1] of the image is cut out at a random place; 1 is off.
        rotation: greatest rotation in degrees.
        brightness: greatest shift, as a share of the full range.
        contrast: greatest relative change about mid-grey.
    """

    min_crop: float = 0.9
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.min_crop <= 1 or min(self.rotation, self.brightness, self.contrast) < 0 or self.contrast >= 1:
            raise UsageError(f"{self}: min_crop is in (0, 1], rotation brightness >= 0, contrast in [0, 1).")

    @property
    def moves(self) -> bool:
        """Whether geometry changes."""
        return self.min_crop < 1 or self.rotation > 0


NO_AUGMENT = Augment(min_crop=1.0)


def to_model(
    images: Tensor, size: int, draws: Draws, augment: Augment, device: torch.device | str, *, name: str = "image"
) -> Tensor:
    """Stored values -> what networks see, on the device.

    Args:
        images: n x 1 x S x S, uint8 or uint16.
        size: side wanted.
        draws: the step's random numbers; n is its `count`.
        augment: what to do; without augmentation and at the stored size, values are only rescaled.
        device: where to.
        name: tells several image tensors of one step apart (``"opacity"``, ``"clear"``).

    Returns:
        n x 1 x size x size float32 in [-1, 1].
    """
    values = images.to(device, non_blocking=True).to(torch.float32) / float(torch.iinfo(images.dtype).max)
    if augment.moves:
        if values.shape[-1] > 1.5 * size:  # sampling points alone would alias
            between = math.ceil(size / augment.min_crop)
            values = F.interpolate(values, (between, between), mode="bilinear", antialias=True, align_corners=False)
        grid = _grid(size, draws, augment, name, values.device)
        values = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    elif values.shape[-1] != size:
        values = F.interpolate(values, (size, size), mode="bilinear", antialias=True, align_corners=False)
    if augment.brightness or augment.contrast:
        jitter = (2 * _on_cpu(draws).uniform(f"augment/{name}/jitter", 2, 1, 1, 1) - 1).to(values.device, non_blocking=True)
        values = (values - 0.5) * (1 + augment.contrast * jitter[:, 0]) + 0.5 + augment.brightness * jitter[:, 1]
    return values.clamp(0, 1) * 2 - 1


def mask_to_model(
    masks: Tensor, size: int, draws: Draws, augment: Augment, device: torch.device | str, *, name: str = "image"
) -> Tensor:
    """Lung mask codes -> {0, 1} (n x 1 x size x size), moved like the images of the same `name`; undecided pixels are 0."""
    lung = (masks.to(device, non_blocking=True).to(torch.int32) == MASK_LUNG).to(torch.float32)
    if augment.moves:
        grid = _grid(size, draws, augment, name, lung.device)
        return F.grid_sample(lung, grid, mode="nearest", padding_mode="border", align_corners=False)
    return lung if lung.shape[-1] == size else F.interpolate(lung, (size, size), mode="nearest-exact")


def _on_cpu(draws: Draws) -> Draws:
    """The same numbers on the CPU, where parameters are computed: then they are the same for every device."""
    return Draws(draws.seed, draws.step, draws.start, draws.count, draws.total)


def _grid(size: int, draws: Draws, augment: Augment, name: str, device: torch.device) -> Tensor:
    """Sampling grid n x size x size x 2 of a crop and rotation.

    Written out instead of `affine_grid`, which multiplies matrices: under TF32 it would misplace pixels by half a pixel.
    """
    u = _on_cpu(draws).uniform(f"augment/{name}/geometry", 4)
    side = augment.min_crop + (1 - augment.min_crop) * u[:, 0]
    centre_x, centre_y = (1 - side) * (2 * u[:, 1] - 1), (1 - side) * (2 * u[:, 2] - 1)
    angle = math.radians(augment.rotation) * (2 * u[:, 3] - 1)
    parameters = torch.stack([side * angle.cos(), side * angle.sin(), centre_x, centre_y])
    a, b, x0, y0 = parameters.to(device, non_blocking=True)[:, :, None, None]
    at = (2 * torch.arange(size, device=device, dtype=torch.float32) + 1) / size - 1
    x, y = at[None, None, :], at[None, :, None]
    return torch.stack([a * x - b * y + x0, b * x + a * y + y0], dim=-1)
