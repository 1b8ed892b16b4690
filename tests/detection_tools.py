"""What the tests of detection share: detectors that find bright squares, or nothing, and images of such squares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jobs import job
from scipy import ndimage

from bench.contracts import Score
from bench.data.contract import Box, FloatImage
from bench.data.imageset import ImageSet, Item
from evaluators.detection import Detection
from evaluators.detection_real import DetectionConfig
from evaluators.detectors import Detections

SIDE = 32
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def found(*boxes: tuple[float, Box]) -> Detections:
    """Detections from (score, box)."""
    ordered = sorted(boxes, key=lambda b: -b[0])
    return Detections(
        np.array([b for _, b in ordered], np.float32).reshape(-1, 4), np.array([s for s, _ in ordered], np.float32)
    )


NOTHING = found()


def _set(boxes: Sequence[tuple[Box, ...] | None], images: Bytes | None = None, name: str = "toy") -> ImageSet:
    items = [Item(f"i{k}", f"p{k}", "opacity" if b else "clear", boxes=b) for k, b in enumerate(boxes)]
    return ImageSet(name, items, {"image": np.zeros((len(items), SIDE, SIDE), np.uint8) if images is None else images}, name)


class Bright:
    """Finds connected pixels above 0.75; its confidence is their greatest value less a half, times two."""

    def __init__(self, name: str = "bright") -> None:
        self.id, self.facts, self.seen = name, {"library": "none", "images": 3}, 0

    def detect(self, images: FloatImage) -> list[Detections]:
        self.seen += len(images)
        return [self.one(image) for image in images]

    def one(self, image: FloatImage) -> Detections:
        labels, _ = ndimage.label(image > 0.75)
        boxes = []
        for part in ndimage.find_objects(labels):
            y, x = part
            boxes.append((2 * float(image[part].max()) - 1, (x.start, y.start, x.stop - x.start, y.stop - y.start)))
        return found(*boxes)


class Blind(Bright):
    """Finds nothing."""

    def one(self, image: FloatImage) -> Detections:
        return NOTHING


class Everywhere(Bright):
    """The same wrong box in every image."""

    def one(self, image: FloatImage) -> Detections:
        return found((0.9, (0, 0, SIDE, 2)))


PLACES: list[Box] = [(2, 2, 6, 6), (20, 2, 6, 6), (2, 20, 6, 6), (20, 20, 6, 6)]
#: Squares in each opacity image; images 0 and 1 are of one patient.
SQUARES = (1, 3, 2, 2, 1, 4)
PARAMS = DetectionConfig(detector="fcos", n_boot=100)


def _draw(squares: Sequence[int]) -> Bytes:
    images = np.full((len(squares), SIDE, SIDE), 60, np.uint8)
    for image, number in zip(images, squares, strict=True):
        for x, y, w, h in PLACES[:number]:
            image[int(y) : int(y + h), int(x) : int(x + w)] = 255
    return images


def _items(squares: Sequence[int], boxes: bool = True) -> list[Item]:
    return [
        Item(f"i{k}", f"p{max(k, 1)}", "opacity" if n else "clear", boxes=tuple(PLACES[:n]) if boxes else None)
        for k, n in enumerate(squares)
    ]


def _source(squares: Sequence[int] = (*SQUARES, 0, 0, 0), boxes: bool = True, name: str = "squares") -> ImageSet:
    lungs = np.zeros((len(squares), SIDE, SIDE), np.uint8)
    lungs[:, :, :16] = 1
    return ImageSet(name, _items(squares, boxes), {"image": _draw(squares), "lung_mask": lungs}, f"{name}{boxes}")


def _translated(squares: Sequence[int]) -> ImageSet:
    return ImageSet("out", _items((*SQUARES, 0, 0, 0)), {"image": _draw(squares)}, f"out{squares}")


def _score(tmp_path: Path, squares: Sequence[int], params: Any = PARAMS, **more: Any) -> dict[str, Score]:
    source = more.pop("source", None) or _source()
    images = _source(name="train")
    more = {"learn": (images,), "check": (images,), **more}
    return Detection().score(job(tmp_path, _translated(squares), params, source, **more))
