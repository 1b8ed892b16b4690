"""Decoding PNG, JPEG, GIF, TIFF and BMP by content (names lie), and doubts about what was decoded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.contract import FloatImage
from bench.data.dicom import LUMINANCE, read_dicom, read_header
from bench.data.tables import one_line
from bench.errors import DataError

# Large radiographs are legal (bombs still raise), and what is wrong with a file is told by its decoding, not by warnings.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\b")
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\b")

FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP")

_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262


def decode(path: Path, depth: int | None = None) -> tuple[FloatImage, int]:
    """Decode an image of any supported kind, DICOM included, whatever its name says.

    Args:
        path: the file.
        depth: bits that hold the full range of files deeper than 8 bits (12 for 12-bit values kept in a 16-bit PNG).

    Returns:
        float32 HxW in [0, 1] and the number of significant bits (8 to 16).

    Raises:
        DataError: not an image, truncated or of a kind that cannot be used; the message names the file.
    """
    return read_dicom(path) if is_dicom(path) else read_image(path, depth)


def is_dicom(path: Path) -> bool:
    """Whether the file carries the DICOM mark, or is named so."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from the header alone.

    Raises:
        DataError: the header cannot be read; the message names the file.
    """
    if is_dicom(path):
        header = read_header(path)
        return header.rows, header.columns
    with _open(path) as image:
        return image.height, image.width


def read_image(path: Path, depth: int | None = None) -> tuple[FloatImage, int]:
    """Decode a picture file; see `decode`. Alpha is dropped, colour reduced to luminance.

    Raises:
        DataError: it cannot be decoded, or its values have no known range.
    """
    with load_picture(path) as image:
        mode = image.mode
        if mode.startswith("I"):
            return _deep(image, path, depth)
        if mode == "F":
            values = np.array(image, dtype=np.float32)
            if not np.isfinite(values).all() or values.min() < 0.0 or values.max() > 1.0:
                raise DataError(f"{path}: floating-point pixels outside [0, 1]. Save it as a 16-bit PNG.")
            return values, 16
        if mode == "1":
            return np.array(image, dtype=np.float32), 8
        if mode == "LA":
            pixels = np.array(image.getchannel(0))
        elif mode in ("L", "RGB"):
            pixels = np.array(image)
        else:
            pixels = np.array(image.convert("RGB"))  # palettes, CMYK, YCbCr; from RGBA it drops alpha without blending
    if pixels.ndim == 2:
        return pixels.astype(np.float32) / np.float32(255.0), 8
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return pixels[..., 0].astype(np.float32) / np.float32(255.0), 8  # grey kept as colour: exact, no rounding by weights
    return np.clip((pixels.astype(np.float32) @ LUMINANCE) / np.float32(255.0), 0.0, 1.0), 8


def _deep(image: Image.Image, path: Path, depth: int | None) -> tuple[FloatImage, int]:
    """Modes I;16 and I. Never through convert(): it clips at 255."""
    values = np.array(image).astype(np.int64)
    tags: Any = getattr(image, "tag_v2", {})
    bits = depth or 16
    if image.format == "TIFF" and depth is None:
        stored = tags.get(_TIFF_BITS, (16,))
        bits = int(stored[0] if isinstance(stored, tuple) else stored)
        bits = bits if 8 < bits <= 16 else 16
    full = 2**bits - 1
    if values.min() < 0 or values.max() > full:
        raise DataError(f"{path}: values {values.min()} to {values.max()} do not fit {bits} bits. Save it as a 16-bit PNG.")
    grey = values.astype(np.float32) / np.float32(full)
    # Pillow inverts 8-bit WhiteIsZero TIFFs by itself but not 16-bit ones.
    return (1.0 - grey if tags.get(_TIFF_PHOTOMETRIC) == 0 else grey), bits


def doubts(image: FloatImage) -> str:
    """Why a decoded image may be wrong (inverted, wrong depth, blank), or an empty string. Nothing is ever changed.

    Polarity: corners and lungs of a chest radiograph hold air and are darker than its central column, the spine. Both must
    say otherwise, because a collimator often leaves white borders.
    """
    low, high = float(image.min()), float(image.max())
    if high - low < 0.02:
        return f"holds almost no contrast (values {low:.3f} to {high:.3f} of 1)"
    if high < 0.1:
        return f"uses only {high:.1%} of its range; its depth may be less than its file says (option depth=12)"
    height, width = image.shape
    if min(height, width) < 16:
        return f"is only {width}x{height} pixels"
    dy, dx = max(1, height // 10), max(1, width // 10)
    corners = np.mean([image[:dy, :dx], image[:dy, -dx:], image[-dy:, :dx], image[-dy:, -dx:]])
    middle = image[height // 10 : height - height // 10, width // 2 - dx // 2 : width // 2 + dx - dx // 2].mean()
    rows = slice(height * 3 // 10, height * 6 // 10)
    side = slice(width * 2 // 10, width * 35 // 100)
    lungs = np.mean([image[rows, side], image[rows, ::-1][:, side]])
    if min(corners, lungs) > middle + 0.1:
        return f"looks inverted: corners {corners:.2f}, lungs {lungs:.2f}, central column {middle:.2f} (air should be dark)"
    return ""


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file does not exist.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: {_what_it_is(path)}") from error
    except Exception as error:  # Pillow's parsers raise many kinds on broken files
        raise DataError(f"{path}: cannot be opened as an image ({one_line(error)}).") from error


def load_picture(path: Path) -> Image.Image:
    """Open and decode a picture file of one frame.

    Raises:
        DataError: missing, not a picture, several frames, cut off or damaged; the message names the file.
    """
    image = _open(path)
    try:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise DataError(f"{path}: holds {frames} frames; save the one radiograph as PNG.")
        image.load()
    except DataError:
        image.close()
        raise
    except Exception as error:  # OSError, SyntaxError, zlib.error, struct.error ...
        image.close()
        raise DataError(f"{path}: the image is cut off or damaged ({one_line(error)}). Download it again.") from error
    return image


def _what_it_is(path: Path) -> str:
    size = path.stat().st_size
    if size == 0:
        return "the file is empty. Download it again."
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image. Run `git lfs pull` where it came from."
    text = head.decode("utf-8", errors="replace")
    if all(c.isprintable() or c.isspace() for c in text) and "\ufffd" not in text:
        return f"text, not an image (begins '{one_line(text, 24)}'). Download it again."
    return f"not an image of a known kind ({size} bytes; {', '.join(FORMATS)} and DICOM are). Download it again."
