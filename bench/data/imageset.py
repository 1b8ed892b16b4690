"""Image sets: what training, translation and evaluators read. Nothing here decodes source files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.data.contract import Box, FloatImage

Array = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Item:
    """Annotations of one cached image; geometry is that of the square cached image.

    Attributes:
        image_id, patient_id, domain, view, sex, age, findings: as in `ImageRecord`.
        boxes: (x, y, width, height) in pixels of the cached image, or None when unknown.
        content: (top, left, height, width) of the image inside its padding, in cached pixels.
        native: (height, width) before resizing.
    """

    image_id: str
    patient_id: str
    domain: str
    view: str = ""
    sex: str = ""
    age: float | None = None
    findings: Mapping[str, float] | None = None
    boxes: tuple[Box, ...] | None = None
    content: tuple[int, int, int, int] | None = None
    native: tuple[int, int] | None = None


class ImageSet:
    """An ordered set of square grey images of one size with their annotations.

    Args:
        name: for messages and records, for example ``rsna/test``.
        items: one an image.
        planes: name -> array N x S x S, uint8 or uint16 (may be memory-mapped). ``image`` is always there; ``lung_mask``
            (0, 1, 255), ``opacity`` (strength, full range = 1), ``counterpart`` and ``mask`` (activation mask) where they exist.
        fingerprint: hash over pixels and annotations.
        policy: the dataset's data policy.
        lung_convention: ``heart-included``, ``heart-excluded`` or empty.
        order: row of the planes that each item has; None where they are in the order of the items.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Item],
        planes: Mapping[str, Array],
        fingerprint: str,
        policy: str = "no-redistribution",
        lung_convention: str = "",
        order: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.name, self.items, self.fingerprint = name, tuple(items), fingerprint
        self.policy, self.lung_convention = policy, lung_convention
        self._planes = dict(planes)
        self._order = np.arange(len(self.items)) if order is None else order
        if len(self._order) != len(self.items):
            raise ValueError(f"{name}: {len(self._order)} images but {len(self.items)} items")

    def __len__(self) -> int:
        return len(self.items)

    @property
    def size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self._planes["image"].shape[-1])

    @property
    def planes(self) -> frozenset[str]:
        """Names of the planes that exist."""
        return frozenset(self._planes)

    @property
    def ids(self) -> list[str]:
        return [item.image_id for item in self.items]

    @property
    def patients(self) -> list[str]:
        return [item.patient_id for item in self.items]

    @property
    def domains(self) -> list[str]:
        return [item.domain for item in self.items]

    def raw(self, indices: Sequence[int] | npt.NDArray[np.int64] | None = None, plane: str = "image") -> Array:
        """Stored values n x S x S of some images (all of them by default), in their stored depth.

        Raises:
            KeyError: the set has no such plane.
        """
        rows = self._order if indices is None else self._order[np.asarray(indices, dtype=np.int64)]
        return self._planes[plane][rows]

    def pixels(self, indices: Sequence[int] | npt.NDArray[np.int64] | None = None, plane: str = "image") -> FloatImage:
        """Values n x S x S as float32 in [0, 1]. Not for ``lung_mask``, whose values are codes: use `raw`."""
        values = self.raw(indices, plane)
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)

    def bytes(self, indices: Sequence[int] | npt.NDArray[np.int64] | None = None, plane: str = "image") -> npt.NDArray[np.uint8]:
        """Values n x S x S as uint8: the one place where deeper images are brought down to 8 bits (linear, rounded)."""
        values = self.raw(indices, plane)
        if values.dtype == np.uint8:
            return np.asarray(values, dtype=np.uint8)
        return np.round(values.astype(np.float32) * (255.0 / 65535.0)).astype(np.uint8)

    def where(self, domain: str) -> ImageSet:
        """The subset of one domain, in the same order."""
        return self.subset([i for i, item in enumerate(self.items) if item.domain == domain], domain)

    def subset(self, indices: Sequence[int], label: str) -> ImageSet:
        """Some of the images, in the given order; `label` is appended to the name."""
        chosen = np.asarray(list(indices), dtype=np.int64)
        digest = hashlib.blake2b(f"{self.fingerprint}/{chosen.tolist()}".encode(), digest_size=8).hexdigest()
        return ImageSet(
            f"{self.name}/{label}", [self.items[i] for i in chosen], self._planes, digest, self.policy,
            self.lung_convention, self._order[chosen],
        )  # fmt: skip
