"""Lung masks from files to codes (0 background, 1 lung, 255 undecided): the one place that says which are refused.

A mask holds 0 and one other value, or exactly the values its layout names. Greys are refused rather than thresholded: they come
from JPEG, smoothing or interpolation, and then nobody knows where the lung's border was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data.contract import MASK_BACKGROUND, MASK_IGNORE, MASK_LUNG
from bench.data.pixels import load_picture
from bench.errors import DataError

Codes = npt.NDArray[np.uint8]

ONE_VALUE = "a mask holds 0 and one value for lung"
#: Values of masks that leave pixels undecided: background, undecided, lung.
WITH_UNDECIDED = (0, 127, 255)


def read_mask(path: Path) -> Codes:
    """Decode a mask to its values as stored, HxW: no interpolation, no threshold, 1-bit masks as 0 and 255.

    Raises:
        DataError: not an image, truncated, JPEG (which blurs values), several colours, or 16-bit greys; the message names the
            file.
    """
    with load_picture(path) as image:
        if image.format == "JPEG":
            raise DataError(f"{path}: the mask is JPEG, which blurs its values. Save it as PNG.")
        if image.mode.startswith("I") or image.mode == "F":
            return _deep(np.array(image), path)
        if image.mode == "1":
            return np.array(image).astype(np.uint8) * np.uint8(255)
        if image.mode == "L":
            return np.array(image)
        if image.mode == "LA":
            return np.array(image.getchannel(0))
        return _colour(np.array(image.convert("RGB")), path)


def _deep(values: npt.NDArray[Any], path: Path) -> Codes:
    """A mask of more than 8 bits: black and white as 0 and 255 (or 1), 8-bit values kept as they are or stretched to 16 bits."""
    found = np.unique(values)
    if np.isfinite(found).all():
        if found.size == 2 and found[0] == 0 and found[1] > 0:
            return np.where(values > 0, min(math.ceil(found[1]), 255), 0).astype(np.uint8)
        for unit in (1, 257):
            if found[0] >= 0 and found[-1] <= 255 * unit and not (found % unit).any():
                return (values // unit).astype(np.uint8)
    raise DataError(f"{path}: {_greys(found[found != 0].tolist(), ONE_VALUE)}")


def _colour(values: npt.NDArray[np.uint8], path: Path) -> Codes:
    """One colour on black is a mask; several are several structures, and nobody says which of them is lung."""
    # The brightest channel, not luminance: that rounds a dark blue label to 0.
    brightest: Codes = values.max(axis=-1)
    if not (values == brightest[..., None]).all():
        colours = np.unique(values[brightest > 0].reshape(-1, 3), axis=0)
        if len(colours) > 1:
            shown = ", ".join(str(tuple(int(v) for v in colour)) for colour in colours[:3])
            raise DataError(
                f"{path}: the mask holds {len(colours)} colours besides black ({shown}{', ...' * (len(colours) > 3)}). Save the "
                "lungs alone, as one value on 0."
            )
    return brightest


def lung_codes(mask: Codes, path: Path, known: Sequence[int] = ()) -> Codes:
    """Stored values -> codes 0, 1 and 255.

    Args:
        mask: as `read_mask` returns it.
        path: its file, for messages.
        known: the values that the layout's masks hold, `WITH_UNDECIDED`; empty where any one value beside 0 is lung.

    Raises:
        DataError: other values occur; the message names the file and the values.
    """
    found = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    if known:
        if other := [value for value in found if value not in known]:
            raise DataError(f"{path}: {_greys(other, 'only 0, 127 (undecided) and 255 (lung) are known')}")
        table = np.full(256, MASK_BACKGROUND, dtype=np.uint8)
        table[127], table[255] = MASK_IGNORE, MASK_LUNG
        return table[mask]
    lung = [value for value in found if value]
    if len(lung) > 1:
        raise DataError(f"{path}: {_greys(lung, ONE_VALUE)}")
    return np.where(mask > 0, MASK_LUNG, MASK_BACKGROUND).astype(np.uint8)


def _greys(values: Sequence[float], expected: str) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:4]) + ", ..." * (len(values) > 4)
    what = f"the values {shown}" if len(values) > 1 else f"the value {shown}"
    return f"the mask holds {what}; {expected}. Resize by nearest neighbour, without smoothing, and save it as PNG."


def fit_mask(mask: Codes, shape: tuple[int, int], path: Path, scaled: bool = True) -> Codes:
    """Bring a mask to the image's size.

    Args:
        mask: values or codes.
        shape: height and width of the image.
        path: the mask's file, for messages.
        scaled: the layout allows masks that are an integer multiple or fraction of the image's size; nearest neighbour.

    Raises:
        DataError: the sizes do not fit; the message names the mask and both sizes.
    """
    (h, w), (height, width) = mask.shape, shape
    if (h, w) == (height, width):
        return mask
    if scaled and height % h == 0 and width % w == 0 and height // h == width // w:
        return mask.repeat(height // h, axis=0).repeat(width // w, axis=1)
    if scaled and h % height == 0 and w % width == 0 and h // height == w // width:
        step = h // height
        return np.ascontiguousarray(mask[step // 2 :: step, step // 2 :: step])
    needed = "the image's size or an integer multiple" if scaled else "exactly the image's size"
    raise DataError(f"{path}: the mask is {w}x{h} but its image is {width}x{height}. Masks need {needed}.")


def combine(parts: Sequence[Codes]) -> Codes:
    """Codes of one image's masks (left and right lung) as one: lung wins, then undecided. Logical, because 255 + 255 wraps."""
    lung = np.logical_or.reduce([part == MASK_LUNG for part in parts])
    undecided = np.logical_or.reduce([part == MASK_IGNORE for part in parts])
    return np.where(lung, MASK_LUNG, np.where(undecided, MASK_IGNORE, MASK_BACKGROUND)).astype(np.uint8)
