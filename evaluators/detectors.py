"""What a lesion detector is to `evaluators.detection`: something trained once that finds boxes. One file a family of detectors."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bench.data.contract import Box, FloatImage
from bench.data.geometry import clip
from bench.data.imageset import ImageSet
from bench.errors import DataError, UsageError
from bench.files import digest

#: Confidence below which detectors report nothing; thresholds for counting lie above.
LEAST = 0.01
#: The networks' coarsest stride: image sizes are multiples of it.
STRIDE = 32
#: Rows of an image set whose boxes are known; ``()`` is an image without a lesion.
Annotated = tuple[ImageSet, list[int]]
#: Pixels handed to a detector at once: 256 MiB of float32.
_PIXELS = 2**26


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image, most confident first.

    Attributes:
        boxes: (k, 4) float32: x, y, width, height in pixels of the image.
        scores: (k,) float32: confidence in [0, 1].
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


class Detector(Protocol):
    """A trained detector of one class, ``lung opacity``.

    Attributes:
        id: hash of its weights and of everything else that its boxes depend on (size, non-maximum suppression).
        facts: what records say about it: name and version of the library, architecture, ``licence``, numbers of images and boxes
            it learnt from, budget, or the user's file.
    """

    id: str
    facts: dict[str, Any]

    def detect(self, images: FloatImage) -> list[Detections]:
        """Everything found with a confidence of at least `LEAST`, after non-maximum suppression.

        Args:
            images: n x S x S in [0, 1].

        Returns:
            One entry an image, in order; an image without a finding has empty arrays.
        """


def check_sides(config: Any, *keys: str) -> None:
    """Refuse keys whose value is no size of images, or no width, for such networks.

    Raises:
        UsageError: a value is not a multiple of `STRIDE`, or only one stride.
    """
    for key in keys:
        value = getattr(config, key)
        if value < 2 * STRIDE or value % STRIDE:
            raise UsageError(f"{key}: {value} is not a multiple of {STRIDE} from {2 * STRIDE} on.")


def detect_all(detector: Detector, images: npt.NDArray[np.uint8]) -> list[Detections]:
    """Detections of any number of images (n x S x S, 8 bits: real and translated ones come in the same quantisation).

    Raises:
        ValueError: the detector left out images, or made some up.
    """
    at_once = max(1, _PIXELS // max(1, int(np.prod(images.shape[1:]))))
    found: list[Detections] = []
    for start in range(0, len(images), at_once):
        found += detector.detect(images[start : start + at_once].astype(np.float32) / np.float32(255))
    if len(found) != len(images):
        raise ValueError(f"the detector answered for {len(found)} of {len(images)} images")
    return found


def packed(found: Sequence[Detections]) -> dict[str, npt.NDArray[Any]]:
    """Detections of many images as three arrays: ``boxes`` (K, 4), ``scores`` (K,), ``number`` (n,) of detections an image."""
    return {
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(f.boxes.reshape(-1, 4) for f in found)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(f.scores for f in found)]),
        "number": np.array([len(f.scores) for f in found], dtype=np.int64),
    }


def unpacked(arrays: dict[str, npt.NDArray[Any]]) -> list[Detections]:
    """What `packed` was given."""
    ends = arrays["number"].cumsum()
    return [
        Detections(arrays["boxes"][end - n : end], arrays["scores"][end - n : end])
        for end, n in zip(ends, arrays["number"], strict=True)
    ]


def annotated(sets: Sequence[ImageSet]) -> tuple[list[Annotated], str]:
    """Images with known boxes, their boxes cut at the image's border, and a remark on what had to go.

    A box without any area inside its image is left out. An image that loses all of its boxes so is left out, too: it would teach
    that its opacity is background.

    Raises:
        DataError: a box is not made of finite numbers; the message names the image.
    """
    kept: list[Annotated] = []
    lost = cut = gone = 0
    for images in sets:
        items, rows = list(images.items), []
        for row, item in enumerate(items):
            if item.boxes is None:
                continue
            boxes = [_inside(box, images, item.image_id) for box in item.boxes]
            good = tuple(box for box in boxes if box is not None)
            lost += len(boxes) - len(good)
            cut += sum(box is not None and box != given for box, given in zip(boxes, item.boxes, strict=True))
            items[row] = replace(item, boxes=good)
            if good or not boxes:
                rows.append(row)
            else:
                gone += 1
        clean = copy.copy(images)
        clean.items = tuple(items)
        if rows:
            kept.append((clean, rows))
    remarks = [
        f"{lost} boxes without area inside their image left out" if lost else "",
        f"{gone} images that had no other boxes left out" if gone else "",
        f"{cut} boxes cut at the border" if cut else "",
    ]
    return kept, "; ".join(r for r in remarks if r)


def identity(chosen: Sequence[Annotated]) -> list[Any]:
    """What tells chosen images from others, JSON-able: what was learnt from or measured on them is kept by it."""
    return [[images.fingerprint, digest(rows)] for images, rows in chosen]


def _inside(box: Box, images: ImageSet, name: str) -> Box | None:
    """The part of a box inside its image; None where that has no area."""
    if not all(map(math.isfinite, box)):
        raise DataError(
            f"{images.name}: image {name} has the box {tuple(box)}, which is no box: x, y, width and height must be finite "
            "numbers. Correct it in the dataset's annotations."
        )
    found = clip(box, images.size, images.size) if min(box[2:]) > 0 else None
    return found if found is not None and min(found[2:]) > 0 else None
