"""Images as data URIs that fit into a given size: without loss where that fits, else the least loss that does, always told."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.errors import DataError
from leaderboards.cases import Flags, Grey

#: Pixels of the longer side of an image in the case browser, at most.
SIDE = 256
#: Flags in one image: a bit each.
BITS = 8
#: Tones up to which PNG may be smaller than WebP without loss.
PALETTE = 16


class Step(NamedTuple):
    """One way to store images: pixels of the longer side at most, and quality of WebP; None without loss."""

    side: int
    quality: int | None = None


#: Ways to store the images of cases, the best first. Size goes last: a small image hides more than a compressed one.
STEPS = (Step(SIDE), Step(SIDE, 95), Step(SIDE, 90), Step(SIDE, 80), Step(192, 80), Step(128, 80), Step(96, 75))
#: The same for figures, whose lettering has to stay readable.
FIGURE_STEPS = (Step(2400), Step(2400, 90), Step(1800, 85), Step(1400, 80), Step(1000, 75))


@dataclass
class Store:
    """Images stored in one way, each once.

    Attributes:
        step: the way.
        stride: 1, or how many images stand for one that is encoded, to learn in advance how much all would take.
        uris: data URIs; other data names them by their place.
        deviation: largest mean deviation of any image from what it was made from (at its stored size), grey levels of 255.
        largest: longest side of any image before it was stored, pixels.
    """

    step: Step
    stride: int = 1
    uris: list[str] = field(default_factory=list)
    deviation: float = 0.0
    largest: int = 0
    _known: dict[tuple[tuple[int, ...], bytes], int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all URIs."""
        return self.stride * sum(map(len, self.uris))

    def grey(self, pixels: Grey) -> int:
        """Place of an H x W image, stored once however often it is given."""
        self.largest = max(self.largest, *pixels.shape)
        return self._place(reduced(pixels, self.step.side), self.step.quality)

    def flags(self, masks: Sequence[Flags]) -> list[tuple[int, int]]:
        """(place, bit) of each of some H x W masks, eight of them in one image; never with loss."""
        found = []
        for start in range(0, len(masks), BITS):
            some = [reduced(mask.astype(np.uint8) * np.uint8(255), self.step.side) >= 128 for mask in masks[start : start + BITS]]
            bits = np.zeros_like(some[0], np.uint8)
            for bit, mask in enumerate(some):
                bits |= mask.astype(np.uint8) << bit
            place = self._place(bits, None)
            found += [(place, bit) for bit in range(len(some))]
        return found

    def _place(self, pixels: Grey, quality: int | None) -> int:
        key = (*pixels.shape, quality or 0), pixels.tobytes()
        if key not in self._known:
            place = self._known[key] = len(self._known)
            if place % self.stride == 0:
                data = encoded(pixels, quality)
                self.uris.append(uri(data))
                self.deviation = max(self.deviation, _deviation(pixels, data) if quality else 0.0)
        return self._known[key]


def reduced(pixels: Grey, side: int) -> Grey:
    """An H x W image with its longer side at most `side` pixels, averaged over areas; never enlarged."""
    height, width = pixels.shape
    if max(height, width) <= side:
        return pixels
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), np.uint8)


def encoded(pixels: Grey, quality: int | None) -> bytes:
    """A grey H x W image as WebP of some quality; without loss (None) as PNG or WebP, whichever is smaller."""
    image = Image.fromarray(pixels)
    if quality is not None:
        return _saved(image, "WEBP", quality=quality, method=2)  # as small as with 4, in a third of the time
    attempts = [_saved(image, "WEBP", lossless=True, method=4)]
    if len(np.unique(pixels)) <= PALETTE:  # of more tones WebP is always the smaller one
        attempts.append(_saved(image, "PNG", optimize=True))
    return min(attempts, key=len)


def _deviation(pixels: Grey, data: bytes) -> float:
    with Image.open(io.BytesIO(data)) as image:
        back = np.asarray(image.convert("L"), np.float64)
    return float(np.abs(back - pixels).mean())


def _saved(image: Image.Image, form: str, **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **how)
    return out.getvalue()


def uri(data: bytes) -> str:
    """An encoded PNG or WebP as a data URI."""
    kind = "png" if data.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Figure(NamedTuple):
    """A figure as a data URI, its size in pixels, and whether it is not what was given pixel by pixel."""

    uri: str
    width: int
    height: int
    changed: bool


def figure(name: str, data: bytes, budget: int) -> Figure:
    """A figure in at most `budget` bytes if that is possible at all.

    Args:
        name: for messages.
        data: a PNG, WebP or JPEG file.
        budget: bytes of the data URI.

    Raises:
        DataError: it is no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            plain = _opaque(opened)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"figure '{name}' is no image that a page can hold ({error}); give it as PNG.") from error
    given = uri(data)
    if opened.format in ("PNG", "WEBP") and len(given) <= budget:
        return Figure(given, *plain.size, False)
    for step in FIGURE_STEPS:
        scale = min(1.0, step.side / max(plain.size))
        size = max(1, round(plain.width * scale)), max(1, round(plain.height * scale))
        small = plain if scale == 1 else plain.resize(size, Image.Resampling.LANCZOS)
        lossy = step.quality is not None
        how = {"quality": step.quality} if lossy else {"lossless": True}
        found = uri(_saved(small, "WEBP", method=4, **how))
        if len(found) <= budget:
            break
    return Figure(found, *small.size, lossy or scale < 1)


def _opaque(image: Image.Image) -> Image.Image:
    """Three colours; what is transparent becomes white, the paper of a figure."""
    whole = image.convert("RGBA")
    paper = Image.new("RGBA", whole.size, "white")
    paper.alpha_composite(whole)
    return paper.convert("RGB")
