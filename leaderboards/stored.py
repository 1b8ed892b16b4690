"""What runs stored beside their records: inputs, translations, activation masks, the lungs that segmenters saw.

Found by what the records say of them and opened one image at a time.
"""

from __future__ import annotations

import csv
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench import sources
from bench.data.contract import OPACITY
from bench.errors import BenchError
from bench.files import file_digest, read_json
from bench.records import LOCAL, Local, read_per_image
from leaderboards.groups import Record, order, text

AGAIN = "run the same `bench run` command again"
_TRANSLATE = f"To make it anew, {AGAIN}, with --force translate."
_SCORE = f"To make it anew, {AGAIN}, with --force score."
#: What a damaged file makes PIL or zipfile raise.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, KeyError, struct.error, zipfile.BadZipFile, Image.DecompressionBombError)
Grey = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Inputs:
    """A test set as methods saw it.

    Attributes:
        folder: where `bench.sources` keeps it.
        facts: its manifest.
    """

    folder: Path
    facts: Mapping[str, Any]

    @property
    def candidates(self) -> list[str]:
        """Sorted ids of the opacity images, of all images where there are none."""
        return sorted(i for i in self.facts["ids"] if self.facts["domains"][i] == OPACITY) or sorted(self.facts["ids"])

    @property
    def has_opacity(self) -> bool:
        """Whether there are opacity images."""
        return OPACITY in self.facts["domains"].values()

    def image(self, image_id: str, kind: str = "images") -> Grey | None:
        """An image, or what is known of it (``opacity``, ``counterpart``); None where the set has none.

        Raises:
            BenchError: the file is missing or damaged.
        """
        if kind not in self.facts["planes"]:
            return None
        remedy = f"Delete {self.folder} and {AGAIN}."
        return _grey(self.folder / kind / f"{image_id}.png", self.facts["size"], remedy)

    def lungs(self, image_id: str) -> tuple[Flags | None, Flags | None]:
        """The reference's lungs in the image, and where it is undecided; None where it says nothing, or decides everything.
        Padding is neither."""
        grey, inside = self.image(image_id, "lungs"), self.inside(image_id)
        if grey is None:
            return None, None
        counted = np.ones(grey.shape, np.bool_) if inside is None else inside
        undecided = (grey == sources.UNDECIDED) & counted
        if (undecided == counted).all():
            return None, None
        return (grey == sources.LUNG) & counted, undecided if undecided.any() else None

    def inside(self, image_id: str) -> Flags | None:
        """Where the image is and not its padding; None where it has none."""
        if image_id not in self.facts["contents"]:
            return None
        top, left, height, width = self.facts["contents"][image_id]
        found = np.zeros((self.facts["size"], self.facts["size"]), dtype=np.bool_)
        found[top : top + height, left : left + width] = True
        return None if found.all() else found


def inputs(records: Iterable[Record], roots: Iterable[Path]) -> Inputs | None:
    """The stored inputs of records of one test set; None where no results folder has them.

    Args:
        records: their fingerprint and size say which images.
        roots: the results folders to look in; whose the images are is of no matter.
    """
    wanted = {(text(r.get("dataset")), text(r.get("dataset_fingerprint")), r["image_size"]) for r in records if r.get("image_size")}
    for root in roots:
        for test, fingerprint, size in sorted(wanted):
            folder = sources.location(root, test, fingerprint, size)
            facts = sources.manifest(folder)
            if facts and facts["fingerprint"] == fingerprint and facts["size"] == size:
                return Inputs(folder, facts)
    return None


def unscored(root: Path) -> list[str]:
    """Test sets whose inputs a results folder has, but no score of any run."""
    found = sorted((root / sources.FOLDER).glob(f"*/{sources.MANIFEST}"))
    names = {text(facts.get("dataset")) for path in found if (facts := sources.manifest(path.parent))}
    return [name for name in sorted(names) if name and next(root.glob(f"*/*/*/records/{name}--*.json"), None) is None]


def run_folder(record: Record) -> Path | None:
    """The folder of the run that a record was found in; None for a record that was not loaded from one."""
    local = record.get(LOCAL)
    return Path(local.root) / local.folder if isinstance(local, Local) and local.root else None


def results_folder(record: Record) -> Path | None:
    """The whole results folder that a record's run is in, even where it was found through a part of it."""
    run = run_folder(record)
    return run.parents[2] if run and len(run.parents) > 2 else None


@dataclass(frozen=True)
class Translations:
    """What one training of a method made of a test set.

    Attributes:
        folder: where the images lie.
        facts: its manifest.
        seed: of the training.
        size: pixels a side.
        records: the scores of these very images.
    """

    folder: Path
    facts: Mapping[str, Any]
    seed: int
    size: int
    records: tuple[Record, ...]

    def image(self, image_id: str) -> Grey:
        """A translation.

        Raises:
            BenchError: the file is missing, damaged or changed.
        """
        path = self.folder / "images" / f"{image_id}.png"
        values = _grey(path, self.size, _TRANSLATE)
        if file_digest(path) != self.facts["files"].get(image_id):
            raise BenchError(f"{path} was changed after it was made. {_TRANSLATE}")
        return values

    def mask(self, image_id: str) -> Grey | None:
        """Its activation mask, None where the method has none.

        Raises:
            BenchError: the file is missing or damaged.
        """
        return _grey(self.folder / "masks" / f"{image_id}.png", self.size, _TRANSLATE) if self.facts.get("masks") else None

    def scores(self, image_id: str) -> dict[str, float]:
        """``evaluator/metric`` -> the image's value, of primary metrics."""
        return {
            f"{record['evaluator']}/{key}": values[image_id]
            for record in self.records
            for key, values in record[LOCAL].values.items()
            if image_id in values
        }

    @cached_property
    def lungs(self) -> tuple[Lungs, ...]:
        """What segmenters saw in these images, one for each score that stored it."""
        found = ((record, lungs_file(record)) for record in self.records)
        return tuple(Lungs(path, setup(record)) for record, path in found if path)


def translations(records: Sequence[Record]) -> Translations | None:
    """The stored images of one method's lowest seed that has some, of those that were scored last; None where there are none."""
    newest = sorted(records, key=lambda r: (text(r.get("written")), order(r)), reverse=True)
    for record in sorted(newest, key=lambda r: r.get("seed") or 0):
        for folder, facts in _translated(record):
            mine = [r for r in records if r.get("seed") == record.get("seed") and _content(r) == _content(record)]
            return Translations(folder, facts, record.get("seed") or 0, record.get("image_size") or 0, tuple(sorted(mine, key=order)))
    return None


def _content(record: Record) -> tuple[str, Path | None]:
    return text(record.get("translated_content")), run_folder(record)


def _translated(record: Record) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Folders of images with the content that a record was made of."""
    run, content = run_folder(record), record.get("translated_content")
    for path in sorted((run / "translated").glob("*/manifest.json")) if run and content else ():
        if path.parent.name.startswith(f"{record['dataset']}-"):
            try:
                facts = read_json(path)
            except (OSError, BenchError):
                continue
            if isinstance(facts, dict) and facts.get("content") == content and isinstance(facts.get("files"), dict):
                yield path.parent, facts


def setup(record: Record) -> str:
    """What must agree in two scores for their segmenters to be the same."""
    return "\n".join(text(record.get(name)) for name in ("evaluator", "evaluator_version", "params", "fit"))


def lungs_file(record: Record) -> Path | None:
    """Where a score stored what its segmenters saw; None where it did not."""
    run, beside = run_folder(record), record.get("per_image")
    path = run / "scores" / Path(beside).stem / "lungs.npz" if run and beside else None
    return path if path and path.is_file() else None


class Lungs:
    """Predictions of segmenters (see `evaluators.segmentation_figure.keep`).

    Args:
        path: the file.
        made_by: `setup` of the score that stored it.
    """

    def __init__(self, path: Path, made_by: str) -> None:
        self.path, self.setup = path, made_by

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            size, n = int(found.pop("size")), len(found["ids"])
            rows = {str(image_id): row for row, image_id in enumerate(found.pop("ids"))}
            if any(bits.shape != (n, size, -(-size // 8)) or bits.dtype != np.uint8 for bits in found.values()):
                raise ValueError("its arrays do not fit each other")
        except _DAMAGE as error:
            raise BenchError(f"{self.path} cannot be read ({error}). {_SCORE}") from error
        return {"size": size, "rows": rows, "bits": found}

    def of(self, image_id: str) -> dict[str, Flags]:
        """Segmenter -> the lungs it sees in an image; empty for an image that was not segmented.

        Raises:
            BenchError: the file is damaged.
        """
        row, size = self._arrays["rows"].get(image_id), self._arrays["size"]
        if row is None:
            return {}
        bits: dict[str, Grey] = self._arrays["bits"]
        return {name: np.unpackbits(some[row], axis=-1, count=size).astype(np.bool_) for name, some in bits.items()}


def per_image(record: Record) -> dict[str, dict[str, float]]:
    """Metric -> image -> finite value, of all metrics of a record that have values by image.

    Raises:
        BenchError: the file beside the record is missing or damaged.
    """
    run = run_folder(record)
    if run is None:
        return {}
    try:
        primary, more, _ = read_per_image(run / "records", record)
    except (OSError, ValueError, csv.Error) as error:
        raise BenchError(f"{run / 'records' / Path(record['per_image']).name} cannot be read ({error}). {_SCORE}") from error
    return {key: values for key, values in (primary | more).items() if values}


def _grey(path: Path, size: int, remedy: str) -> Grey:
    """An 8-bit grey image, size x size.

    Raises:
        BenchError: it is missing, damaged, or something else; the message names it and `remedy`.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except FileNotFoundError as error:
        raise BenchError(f"{path} is missing. {remedy}") from error
    except _DAMAGE as error:
        raise BenchError(f"{path} cannot be read ({error}). {remedy}") from error
    if values.shape != (size, size) or values.dtype != np.uint8:
        raise BenchError(f"{path} is {values.dtype} {values.shape}; 8-bit grey {size} x {size} expected. {remedy}")
    return values
