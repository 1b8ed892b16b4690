"""Images without the padding that made them square: nothing is measured there."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from bench.data.imageset import ImageSet


def unpadded(images: ImageSet, row: int, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The part of an S x S plane of an image that is image and not padding, as this set knows it."""
    content = images.items[row].content
    if content is None:
        return plane
    top, left, height, width = content
    return plane[top : top + height, left : left + width]
