"""A folder of one's own: one subfolder a domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bench.data.boxes import Drawn, parse_box
from bench.data.contract import DOMAINS, LUNG_OPACITY, OPACITY, POLICIES, SPLITS, FloatImage, ImageRecord, Problem, Reader
from bench.data.masks import WITH_UNDECIDED, lung_codes
from bench.data.pixels import decode, image_size
from bench.data.readers.files import CONVENTIONS, FileReader
from bench.data.tables import (
    IMAGE_SUFFIXES,
    check_splits,
    column,
    note,
    one_line,
    parse_age,
    parse_sex,
    parse_view,
    read_table,
    safe_id,
    walk,
)  # fmt: skip
from bench.errors import DataError
from bench.registry import register_dataset

MASKS, TABLE, BOXES = "lung_masks", "metadata.csv", "boxes.csv"


@register_dataset("folder")
class Folder(FileReader):
    """Images in ``opacity/`` and ``clear/`` at any depth, with optional lung masks, boxes and a table about them.

    The two folders are a label, as RSNA's classes are: the finding classifier learns opacity from them.

    ``lung_masks/<stem>.png`` has its image's size and two values, 0 and another, or 0, 127 (undecided) and 255. ``boxes.csv`` has
    the columns image, x, y, width and height, a row a box, in pixels of the image from its top left corner; a row with the image
    alone says that it was looked at and has none. What is known of an image that it does not list is nothing.
    """

    version = 3
    planes = ("lung_mask", "counterpart")
    help = (
        "opacity/ and clear/ with images; optional lung_masks/<stem>.png, metadata.csv (image_id, patient_id, ...) and boxes.csv "
        "(image, x, y, width, height; an image alone has none)"
    )
    decoding: ClassVar[tuple[str, ...]] = ("depth", "lung_convention")
    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "policy": POLICIES, "lung_convention": CONVENTIONS, "depth": ("10", "12", "14", "16"),
    }  # fmt: skip

    def __init__(self, root: Path | None = None, **options: object) -> None:
        super().__init__(root, **options)
        # A property of a class elsewhere, but of the user's data here; written past the class attribute it replaces.
        self.__dict__["policy"] = self.option("policy", Reader.policy)

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        """See `Reader.records`."""
        found = {domain: list(walk(self.root / domain)) for domain in DOMAINS}
        images = [(d, p) for d, paths in found.items() for p in paths if p.suffix.lower() in (*IMAGE_SUFFIXES, "")]
        if not images:
            raise DataError(f"folder: {self.root} lacks images in opacity/ and clear/. The folder must hold {self.help}.")
        others = [f"{d}/{p}" for d, paths in found.items() for p in paths if (d, p) not in set(images)]
        problems = note("opacity/, clear/", others, "without the suffix of an image, ignored")
        masks = {path.with_suffix("").as_posix(): path for path in walk(self.root / MASKS)}
        stems = Counter(path.stem for _, path in images)
        records: dict[str, ImageRecord] = {}
        for domain, path in images:
            # Stems are ids as long as they are unique; else the place in the folder is part of the id.
            unique = stems[path.stem] == 1
            place = f"{domain}/{path.with_suffix('').as_posix()}"
            image_id = safe_id(path.stem if unique else place.replace("/", "_"))
            if image_id in records:  # one stem, several suffixes
                image_id = safe_id(f"{domain}/{path.as_posix()}".replace("/", "_"))
            mask = masks.get(place) or (masks.get(path.stem) if unique else None)
            if mask is None and not unique and path.stem in masks:
                what = f"belongs to several images named {path.stem}; put it at {MASKS}/{place}.png."
                problems.append(Problem(f"{MASKS}/{masks[path.stem]}", what))
            records[image_id] = ImageRecord(
                image_id=image_id, path=f"{domain}/{path.as_posix()}", domain=domain, patient_id=image_id,
                findings={LUNG_OPACITY: float(domain == OPACITY)}, lung_mask=(f"{MASKS}/{mask.as_posix()}",) if mask else (),
            )  # fmt: skip
        known: set[str] = set()
        if (self.root / TABLE).is_file():
            known, more = self._annotate(records)
            problems += more
        if (self.root / BOXES).is_file():
            problems += self._box(records)
        unknown = [image for image in records if image not in known]
        problems += note(TABLE, unknown, "without a patient id, each counted as a patient of its own (leaky)")
        problems += check_splits(list(records.values()), TABLE)
        if any(r.lung_mask for r in records.values()) and not self.lung_convention:
            what = "option lung_convention=heart-included or heart-excluded is not given; not comparable with others"
            problems.append(Problem(MASKS, what, fatal=False))
        return list(records.values()), problems, bool(unknown)

    def _annotate(self, records: dict[str, ImageRecord]) -> tuple[set[str], list[Problem]]:
        """Write the table's columns into the records; returns the images whose patient it names."""
        table = read_table(self.root / TABLE)
        key = next((name for name in ("image_id", "filename") if name in table.columns), "")
        if not key:
            raise DataError(f"{self.root / TABLE} lacks the column image_id (or filename).")
        names = self._names(records)
        known: set[str] = set()
        seen: dict[str, int] = {}
        problems = []
        keys = (key, "patient_id", "view", "sex", "age", "split", "counterpart")
        for number, cells in enumerate(zip(*(column(table, k) for k in keys), strict=True), start=2):
            name, patient, view, sex, age, split, counterpart = cells
            row = f"{TABLE} row {number}"
            images = names.get(name, [])
            if len(images) != 1:
                problems.append(Problem(row, self._unnamed(name, images)))
                continue
            image = images[0]
            split = {"valid": "val", "validate": "val", "validation": "val"}.get(split, split)
            if image in seen:
                problems.append(Problem(row, f"image {image} is already in row {seen[image]}."))
            elif split not in ("", *SPLITS):
                problems.append(Problem(row, f"split is '{one_line(split, 20)}'; {', '.join(SPLITS)} or nothing is needed."))
            elif counterpart and (wrong := self._no_file(counterpart)):
                problems.append(Problem(row, f"counterpart: {wrong}"))
            else:
                known |= {image} if patient else set()
                records[image] = replace(
                    records[image], patient_id=patient or image, view=parse_view(view), sex=parse_sex(sex),
                    age=parse_age(age), split=split, counterpart=counterpart,
                )  # fmt: skip
            seen.setdefault(image, number)
        return known, problems

    @staticmethod
    def _names(records: Mapping[str, ImageRecord]) -> dict[str, list[str]]:
        """What a row may call an image (id, file name with or without suffix, path) -> images that are called so."""
        names: dict[str, list[str]] = {}
        for image, record in records.items():
            path = Path(record.path)
            for name in {image, path.stem, path.name, record.path}:
                names.setdefault(name, []).append(image)
        return names

    def _box(self, records: dict[str, ImageRecord]) -> list[Problem]:
        """Write the boxes into the records of the images that the table lists."""
        table = read_table(self.root / BOXES, ("image", "x", "y", "width", "height"))
        names = self._names(records)
        drawn: dict[str, list[Drawn]] = {}
        first: dict[str, tuple[bool, str]] = {}
        problems = []
        cells = (column(table, name) for name in ("image", "x", "y", "width", "height"))
        for number, (name, *box) in enumerate(zip(*cells, strict=True), start=2):
            row = f"{BOXES} row {number}"
            images = names.get(name, [])
            if len(images) != 1:
                problems.append(Problem(row, self._unnamed(name, images)))
                continue
            some, before = first.setdefault(images[0], (any(box), row))
            if some != any(box):
                problems.append(Problem(row, f"image {images[0]} has a box in one row and none in another ({before})."))
                continue
            drawn.setdefault(images[0], [])
            try:
                drawn[images[0]] += [Drawn(row, parse_box(box))] if any(box) else []
            except DataError as error:
                problems.append(Problem(row, str(error)))
        frames: dict[str, tuple[int, int]] = {}
        for image, rows in drawn.items():
            try:
                height, width = image_size(self.root / records[image].path) if rows else (1, 1)
            except DataError:
                continue  # decoding will name the file
            frames[image] = (width, height)
        boxes, wrong = self.placed(drawn, frames, BOXES)
        for image, own in boxes.items():
            records[image] = replace(records[image], boxes=own)
        return problems + wrong

    def _unnamed(self, name: str, images: list[str]) -> str:
        if images:
            return f"'{one_line(name, 60)}' names several images; write {' or '.join(images[:2])}."
        return self._no_file(name) or f"names '{one_line(name, 60)}', which is not an image in opacity/ or clear/."

    def _no_file(self, name: str) -> str:
        """Why a file named by the table cannot be used, or an empty string."""
        try:
            return "" if self.inside(name).is_file() else f"names '{one_line(name, 60)}', which does not exist."
        except DataError as error:
            return str(error).removeprefix("folder: ")
        except OSError as error:
            return f"'{one_line(name, 60)}' cannot be opened ({error.strerror})."

    def pixels(self, path: Path) -> tuple[FloatImage, int]:
        """See `FileReader.pixels`; the option ``depth`` says how many bits 16-bit files really use."""
        return decode(path, int(self.option("depth")) if self.option("depth") else None)

    def codes(self, mask: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.uint8]:
        """See `FileReader.codes`; masks of 0, 127 and 255 leave 127 undecided."""
        undecided = 127 in mask and np.isin(mask, WITH_UNDECIDED).all()
        return lung_codes(mask, path, WITH_UNDECIDED if undecided else ())
