"""What the readers of published layouts share: options, required files, decoding of images and masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bench.data.boxes import Drawn, place
from bench.data.contract import Box, Decoded, FloatImage, ImageRecord, Problem, Reader, contained
from bench.data.masks import combine, fit_mask, lung_codes, read_mask
from bench.data.pixels import decode
from bench.data.tables import by_stem, listing, note
from bench.errors import DataError, UsageError, did_you_mean

CONVENTIONS = ("heart-included", "heart-excluded")
#: How records name files of a mask folder that the user keeps elsewhere.
ELSEWHERE = "lung_masks:"
#: Suffixes of user masks; what a file really is, its content says.
MASK_SUFFIXES = (".png", ".gif", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")


class FileReader(Reader):
    """A reader of image files.

    Attributes:
        OPTIONS: option name -> values it may take; an empty tuple allows any text. ``lung_convention`` among them makes that
            attribute the user's to declare.
        MASK_OPTION: the option that names a folder of the user's own with lung masks; empty where there is none.
        mask_values: values that the layout's masks hold; empty: 0 and any one other value.
        mask_scaled: the layout allows masks of an integer multiple or fraction of the image's size.
    """

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    MASK_OPTION: ClassVar[str] = ""
    mask_values: ClassVar[tuple[int, ...]] = ()
    mask_scaled: ClassVar[bool] = False

    def __init__(self, root: Path | None = None, **options: object) -> None:
        super().__init__(root, **options)
        for key, value in options.items():
            if key not in self.OPTIONS:
                known = f" It has: {', '.join(self.OPTIONS)}." if self.OPTIONS else " It has none."
                raise UsageError(f"dataset '{self.name}' has no option '{key}'.{did_you_mean(key, self.OPTIONS)}{known}")
            allowed = self.OPTIONS[key]
            if allowed and str(value) not in allowed:
                raise UsageError(f"dataset '{self.name}': {key}={value} is not one of {', '.join(allowed)}.")
        if "lung_convention" in self.OPTIONS:
            # A property of the class elsewhere, but of the user's masks here; written past the class attribute it replaces.
            self.__dict__["lung_convention"] = self.option("lung_convention", type(self).lung_convention)
        self.mask_root = self._mask_root()
        if self.mask_root is not None and not self.lung_convention:
            raise UsageError(
                f"dataset '{self.name}': {self.MASK_OPTION} needs lung_convention={' or '.join(CONVENTIONS)}, which says whether "
                "these masks count the lung behind the heart."
            )

    def _mask_root(self) -> Path | None:
        """The user's own mask folder: below the dataset's, or anywhere."""
        named = self.option(self.MASK_OPTION) if self.MASK_OPTION else ""
        if not named:
            return None
        given = Path(named).expanduser()
        found = next((path for path in (self.root / given, given) if path.is_dir()), None)
        if found is None:
            raise DataError(f"dataset '{self.name}': {self.MASK_OPTION}={named}: the folder does not exist.")
        return found.resolve()

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

    def inside(self, relative: str) -> Path:
        """See `Reader.inside`; what begins with ``lung_masks:`` lies in the user's own mask folder, if there is one."""
        if self.mask_root is not None and relative.startswith(ELSEWHERE):
            return contained(self.mask_root, relative.removeprefix(ELSEWHERE), self.name)
        return super().inside(relative)

    def user_masks(self, images: Mapping[str, str]) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
        """Lung masks of a folder of the user's own, named after the images.

        Args:
            images: image -> stem of its mask's file.

        Returns:
            Image -> mask, for those that have one, and notes on the others.

        Raises:
            UsageError: a lung convention is declared without masks.
            DataError: no mask belongs to any image.
        """
        if self.mask_root is None:
            if self.lung_convention:
                raise UsageError(f"dataset '{self.name}': lung_convention without {self.MASK_OPTION}=FOLDER, the masks it is of.")
            return {}, []
        files = by_stem(listing(self.mask_root), MASK_SUFFIXES)
        found: dict[str, tuple[str, ...]] = {
            image: (ELSEWHERE + files[stem],) for image, stem in images.items() if stem in files
        }
        if images and not found:
            example = next(iter(images.values()))
            raise DataError(f"dataset '{self.name}': {self.mask_root} holds no mask of any image; they are named like {example}.png.")
        problems = note(self.MASK_OPTION, [image for image in images if image not in found], "without a lung mask")
        strange = sorted(files[stem] for stem in files.keys() - set(images.values()))
        return found, problems + note(self.MASK_OPTION, strange, "lung masks without their image, ignored")

    def placed(
        self, drawn: Mapping[str, list[Drawn]], frames: Mapping[str, tuple[int, int]], file: str
    ) -> tuple[dict[str, tuple[Box, ...]], list[Problem]]:
        """Boxes inside their frames, with what is wrong about the others.

        Args:
            drawn: image -> its boxes.
            frames: image -> (width, height) of the pixels that its boxes count; images without one are left out.
            file: the table, for messages.
        """
        found, problems, cut = dict[str, tuple[Box, ...]](), list[Problem](), list[str]()
        for image, rows in drawn.items():
            if image in frames:
                found[image], wrong, clipped = place(rows, *frames[image])
                problems += wrong
                cut += [image] if clipped else []
        return found, problems + note(file, cut, "boxes that leave the image are cut at its border")

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
        """Turn stored mask values into 0, 1 and 255 (undecided).

        Raises:
            DataError: greys, or values that the layout does not know; the message names the file and the values.
        """
        return lung_codes(mask, path, self.mask_values)

    def _mask(self, record: ImageRecord, shape: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
        if not record.lung_mask:
            return None
        paths = [self.inside(name) for name in record.lung_mask]
        return combine([fit_mask(self.codes(read_mask(path), path), shape, path, self.mask_scaled) for path in paths])
