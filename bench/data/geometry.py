"""From native to square: pad with zeros around the centre, then resize.

Images are resized with Pillow's bilinear filter in float (a triangle as wide as the reduction, so without aliasing and
without overshoot); masks by nearest neighbour, so that codes stay codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.data.contract import Box, FloatImage

T = TypeVar("T", bound=np.generic)


def clip(box: Box, width: float, height: float) -> Box | None:
    """The part of a box inside an image of some size, or None where there is none. Boxes inside come back unchanged."""
    x, y, w, h = box
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return box
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, width), min(y + h, height)
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


@dataclass(frozen=True)
class Frame:
    """How an image of some native size lies in its square cached image.

    Args:
        height: native height.
        width: native width.
        size: side of the cached image.
    """

    height: int
    width: int
    size: int

    @property
    def side(self) -> int:
        """Side of the padded native square."""
        return max(self.height, self.width)

    @property
    def offset(self) -> tuple[int, int]:
        """(top, left) of the image inside the padded native square."""
        return (self.side - self.height) // 2, (self.side - self.width) // 2

    @property
    def content(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the image inside its padding, in cached pixels (rounded, at least one pixel)."""
        scale, (top, left) = self.size / self.side, self.offset
        y0, x0 = int(top * scale + 0.5), int(left * scale + 0.5)
        y1, x1 = int((top + self.height) * scale + 0.5), int((left + self.width) * scale + 0.5)
        return y0, x0, max(1, y1 - y0), max(1, x1 - x0)

    def boxes(self, boxes: Iterable[Box]) -> tuple[Box, ...]:
        """Boxes in native pixels -> boxes in cached pixels, cut at the image's border: they lie inside the cached image.

        Raises:
            ValueError: a box is not finite, has no area, or lies wholly outside the image.
        """
        scale, (top, left) = self.size / self.side, self.offset
        found = []
        for box in boxes:
            shown = f"the box ({', '.join(f'{value:g}' for value in box)})"
            if not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
                raise ValueError(f"{shown} is not a box: four numbers are needed, width and height above 0")
            inside = clip(box, self.width, self.height)
            if inside is None:
                raise ValueError(f"{shown} lies outside its image, which is {self.width}x{self.height}")
            x, y, w, h = inside
            # the second cut takes off what rounding adds
            placed = clip(((x + left) * scale, (y + top) * scale, w * scale, h * scale), self.size, self.size)
            if placed is None:
                raise ValueError(f"{shown} has no area inside its image, which is {self.width}x{self.height}")
            found.append(placed)
        return tuple(found)

    def image(self, plane: FloatImage) -> FloatImage:
        """Pad and resize values, clipped to [0, 1]."""
        square = self._pad(np.asarray(plane, dtype=np.float32))
        if self.side != self.size:
            square = np.asarray(Image.fromarray(square).resize((self.size, self.size), Image.Resampling.BILINEAR))
        return np.clip(square, 0.0, 1.0)

    def codes(self, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Pad (as background) and resize codes."""
        square = self._pad(np.asarray(mask, dtype=np.uint8))
        if self.side != self.size:
            square = np.asarray(Image.fromarray(square).resize((self.size, self.size), Image.Resampling.NEAREST))
        return square

    def _pad(self, plane: npt.NDArray[T]) -> npt.NDArray[T]:
        if self.height == self.width:
            return plane
        square = np.zeros((self.side, self.side), dtype=plane.dtype)
        top, left = self.offset
        square[top : top + self.height, left : left + self.width] = plane
        return square
