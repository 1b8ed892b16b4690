"""What the readers of published layouts share: options, required files, decoding of images and masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bench.data.contract import MASK_BACKGROUND, MASK_IGNORE, MASK_LUNG, Decoded, FloatImage, ImageRecord, Problem, Reader
from bench.data.pixels import decode, fit_mask, read_mask
from bench.data.tables import note
from bench.errors import DataError, UsageError, did_you_mean

POLICIES = ("open", "attribution", "no-redistribution", "credentialed")
CONVENTIONS = ("heart-included", "heart-excluded")


class FileReader(Reader):
    """A reader of image files.

    Attributes:
        OPTIONS: option name -> values it may take; an empty tuple allows any text.
    """

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, root: Path | None = None, **options: object) -> None:
        super().__init__(root, **options)
        for key, value in options.items():
            if key not in self.OPTIONS:
                known = f" It has: {', '.join(self.OPTIONS)}." if self.OPTIONS else " It has none."
                raise UsageError(f"dataset '{self.name}' has no option '{key}'.{did_you_mean(key, self.OPTIONS)}{known}")
            allowed = self.OPTIONS[key]
            if allowed and str(value) not in allowed:
                raise UsageError(f"dataset '{self.name}': {key}={value} is not one of {', '.join(allowed)}.")

    def option(self, key: str, default: str = "") -> str:
        """An option as text."""
        return str(self.options.get(key, default))

    def require(self, *names: str) -> None:
        """Check that files and folders (names ending in ``/``) are there.

        Raises:
            DataError: some are not; the message lists all of them.
        """
        missing = [n for n in names if not (self.root / n).exists()]
        if missing:
            raise DataError(f"{self.name}: {self.root} lacks {', '.join(missing)}. The folder must hold {self.help}.")

    def absent(self, rows: list[tuple[str, str]], file: str) -> list[Problem]:
        """Problems for table rows (``(table row, image file)``) whose image is not there.

        With the option ``missing=skip`` (a partial download) they become one note.
        """
        if self.option("missing") == "skip":
            return note(file, [name for _, name in rows], "rows whose image does not exist are left out")
        return [Problem(row, f"names {name}, which does not exist.") for row, name in rows]

    def load(self, record: ImageRecord, size: int | None = None) -> Decoded:
        """Decode one image with its masks and counterpart at native size; see `Reader.load`."""
        image, bits = self.pixels(self.root / record.path)
        shape = (image.shape[0], image.shape[1])
        counterpart = None
        if record.counterpart:
            counterpart, _ = self.pixels(self.root / record.counterpart)
            if counterpart.shape != shape:
                (h, w), (height, width) = counterpart.shape, shape
                raise DataError(f"{self.root / record.counterpart}: is {w}x{h}, but its image is {width}x{height}.")
        return Decoded(image=image, bits=bits, lung_mask=self._mask(record, shape), counterpart=counterpart)

    def pixels(self, path: Path) -> tuple[FloatImage, int]:
        """Decode one image file; readers of odd formats override it."""
        return decode(path)

    def codes(self, mask: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.uint8]:
        """Turn stored mask values into 0, 1 and 255 (undecided)."""
        return np.where(mask > 0, MASK_LUNG, MASK_BACKGROUND).astype(np.uint8)

    def _mask(self, record: ImageRecord, shape: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
        if not record.lung_mask:
            return None
        paths = [self.root / name for name in record.lung_mask]
        parts = [fit_mask(self.codes(read_mask(path), path), shape, path) for path in paths]
        lung = np.logical_or.reduce([part == MASK_LUNG for part in parts])
        undecided = np.logical_or.reduce([part == MASK_IGNORE for part in parts])
        return np.where(lung, MASK_LUNG, np.where(undecided, MASK_IGNORE, MASK_BACKGROUND)).astype(np.uint8)


def undecided_codes(mask: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.uint8]:
    """Masks drawn with 0 background, 127 undecided, 255 lung.

    Raises:
        DataError: another value occurs.
    """
    other = np.setdiff1d(mask, np.array([0, 127, 255], dtype=np.uint8))
    if other.size:
        raise DataError(f"{path}: the mask holds the value {other[0]}; only 0, 127 (undecided) and 255 (lung) are known.")
    table = np.zeros(256, dtype=np.uint8)
    table[127], table[255] = MASK_IGNORE, MASK_LUNG
    return table[mask]
