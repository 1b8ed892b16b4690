"""What a dataset is: records, manifests, readers and the studies that come out.

A `Reader` turns a folder in its published layout into a `Manifest` (one `ImageRecord` an image) and decodes single images.
Decoding happens once, into the cache (`bench.data.cache`); everything after it reads `ImageSet`s (`bench.data.imageset`).
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bench.errors import DataError

#: Domains a translator learns from. Images of any other class carry ``"other"`` and are never merged silently.
OPACITY, CLEAR, OTHER = "opacity", "clear", "other"
DOMAINS = (OPACITY, CLEAR)
SPLITS = ("train", "val", "test")
#: What may be done with images, the strictest last.
POLICIES = ("open", "attribution", "no-redistribution", "credentialed")

#: The 14 findings of ChestX-ray14, in the order of its paper; every reader maps its labels onto these names.
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
#: RSNA alone knows one finding.
LUNG_OPACITY = "Lung_Opacity"
#: The parenchymal and pleural opacities among them.
OPACITY_FINDINGS = frozenset({"Atelectasis", "Effusion", "Infiltration", "Pneumonia", "Consolidation", "Edema", LUNG_OPACITY})

#: Lung mask values: 255 marks pixels the annotator left undecided; they count nowhere.
MASK_BACKGROUND, MASK_LUNG, MASK_IGNORE = 0, 1, 255

FloatImage = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageRecord:
    """One image of a dataset: a row of the manifest.

    Attributes:
        image_id: unique in the dataset and safe as a file name (letters, digits, ``. _ -``).
        path: file, relative to the dataset's root; empty for generated images.
        domain: ``"opacity"``, ``"clear"`` or ``"other"``.
        patient_id: key that splits group by.
        study_id: several images of one examination share it; may be empty.
        view: ``"AP"``, ``"PA"`` or empty when unknown.
        sex: ``"M"``, ``"F"`` or empty.
        age: years, or None.
        split: official split (``train``, ``val``, ``test``) or empty.
        findings: finding name -> 1.0 present or 0.0 absent; a name that is missing is unknown. None when unlabelled.
        boxes: opacity boxes (x, y, width, height) in native pixels; ``()`` means "looked, none"; None means unknown.
        lung_mask: mask files as `Reader.inside` resolves them, so relative to the root unless the reader takes masks from
            elsewhere; several are combined by OR (left and right lung).
        counterpart: file with the true clear image of the same anatomy, relative to the root; empty when there is none.
        extra: whatever else the reader wants to keep (strings).
    """

    image_id: str
    path: str
    domain: str
    patient_id: str
    study_id: str = ""
    view: str = ""
    sex: str = ""
    age: float | None = None
    split: str = ""
    findings: Mapping[str, float] | None = None
    boxes: tuple[Box, ...] | None = None
    lung_mask: tuple[str, ...] = ()
    counterpart: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file or row of a dataset. Fatal problems make the dataset unusable."""

    where: str
    what: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Manifest:
    """All images of a dataset, in a stable order (sorted by image id).

    Attributes:
        dataset: registered name of the reader.
        records: one an image.
        digests: image id -> hash over the contents of the image's files (pixels and masks).
        decoder: name and version of the decoding code; part of the fingerprint.
        leaky: True when patients are unknown, so that a split by "patient" may leak (the reason is a problem, not fatal).
        problems: what the reader found; any fatal one means the dataset cannot be used as it is.
        namespace: what its patient ids are unique in (`Reader.patient_namespace`); empty means the dataset itself.
    """

    dataset: str
    records: tuple[ImageRecord, ...]
    digests: Mapping[str, str]
    decoder: str
    leaky: bool = False
    problems: tuple[Problem, ...] = ()
    namespace: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """Hash (16 hex digits) over every record, every file's content and the decoder's version."""
        text = json.dumps(
            [self.dataset, self.decoder, [asdict(r) for r in self.records], sorted(self.digests.items())],
            sort_keys=True,
        )
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def with_splits(self, splits: Mapping[str, str]) -> Manifest:
        """Return the manifest with `splits` (image id -> split) written into its records."""
        return replace(self, records=tuple(replace(r, split=splits[r.image_id]) for r in self.records))

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class Decoded:
    """One decoded image in its native geometry; every plane has the image's height and width.

    Attributes:
        image: float32 HxW in [0, 1], lungs dark, bone bright.
        bits: significant bits per pixel of the source (8 to 16); decides the depth of the cache.
        lung_mask: uint8 HxW, 0 background, 1 lung, 255 undecided.
        opacity: float32 HxW in [0, 1], strength of the true opacity (rendered data only).
        counterpart: float32 HxW in [0, 1], the true clear image of the same anatomy.
        boxes: opacity boxes (x, y, width, height) in pixels of `image`, where only rendering can tell them; else None and
            the record's boxes hold.
    """

    image: FloatImage
    bits: int = 8
    lung_mask: npt.NDArray[np.uint8] | None = None
    opacity: FloatImage | None = None
    counterpart: FloatImage | None = None
    boxes: tuple[Box, ...] | None = None


class Reader(ABC):
    """Reads one published layout. Subclasses are registered with ``register_dataset(name)``.

    Attributes:
        name: registered name.
        version: bumped by the author whenever decoded pixels or labels could change; part of every fingerprint.
        policy: ``open``, ``attribution``, ``no-redistribution`` (also where nobody says) or ``credentialed`` (images never leave
            the machine).
        lung_convention: ``heart-included`` or ``heart-excluded`` where lung masks exist, else empty; never mixed. Where the
            user brings the masks, the user declares it (option ``lung_convention``), and it is the instance's.
        generated: True for datasets that are rendered and need no folder.
        trains_prior: True when its labels are meant for training the finding classifier.
        decoding: names of options that change what `load` returns; part of every fingerprint.
        OPTIONS: option name -> values it may take (an empty tuple allows any); None: only the constructor knows its options.
        planes: which optional planes `load` can return (subset of ``lung_mask``, ``opacity``, ``counterpart``).
        help: one line for ``bench list``: what the folder must hold.
        patient_namespace: datasets of one namespace name the same person alike, so that a patient must fall on the same
            side of the split in all of them; empty means the dataset's own name.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    policy: ClassVar[str] = "no-redistribution"
    lung_convention: ClassVar[str] = ""
    generated: ClassVar[bool] = False
    trains_prior: ClassVar[bool] = False
    decoding: ClassVar[tuple[str, ...]] = ()
    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]] | None] = None
    planes: ClassVar[tuple[str, ...]] = ()
    help: ClassVar[str] = ""
    patient_namespace: ClassVar[str] = ""

    def __init__(self, root: Path | None = None, **options: object) -> None:
        if root is None and not self.generated:
            raise DataError(f"dataset '{self.name}' needs a folder: --data {self.name}=PATH.")
        if root is not None and root.exists() and not root.is_dir():
            raise DataError(f"dataset '{self.name}': {root} is a file; name the folder that holds it, unpacked if it is an archive.")
        if root is not None and not root.is_dir():
            raise DataError(f"dataset '{self.name}': folder {root} does not exist.")
        self.root = root.resolve() if root is not None else Path()
        self.options = dict(options)

    @abstractmethod
    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        """Read the layout's tables: records (unsorted), problems found, and whether patients are unknown (leaky)."""

    @abstractmethod
    def load(self, record: ImageRecord, size: int | None = None) -> Decoded:
        """Decode one image with its planes.

        Args:
            record: a record of this reader's manifest.
            size: the side the cache will resize to. Only renderers use it; files are decoded at native size.

        Raises:
            DataError: the file cannot be decoded; the message names it.
        """

    def inside(self, relative: str) -> Path:
        """Resolve a path named by a table, refusing one that leaves the root.

        Raises:
            DataError: `relative` is absolute or climbs out of the root.
        """
        return contained(self.root, relative, self.name)


def contained(root: Path, relative: str, name: str) -> Path:
    """A path below `root`, as named by a table of dataset `name`.

    Raises:
        DataError: `relative` is absolute or climbs out.
    """
    path = Path(os.path.normpath(root / relative))  # not resolve(): folders that are links are the user's own choice
    if not path.is_relative_to(root):
        raise DataError(f"{name}: '{relative}' leads out of {root}; paths in tables must stay inside it.")
    return path
