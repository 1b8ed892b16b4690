"""From what a user types (``rsna=/data/rsna``) to image sets."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.data import cache, splits
from bench.data.contract import DOMAINS, SPLITS, ImageRecord, Manifest, Reader
from bench.data.imageset import ImageSet
from bench.data.manifest import Progress, read_manifest, usable
from bench.errors import UsageError
from bench.files import digest
from bench.registry import DATASETS

#: What `Dataset.annotated` can be asked for.
ANNOTATIONS = ("lung_mask", "boxes")

_OPTION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?[0-9]+\.[0-9]*(e-?[0-9]+)?", re.IGNORECASE)


@dataclass(frozen=True)
class DataSource:
    """A dataset as named on the command line: ``NAME``, ``NAME=PATH`` or ``NAME=PATH,key=value`` (``NAME,key=value``).

    Attributes:
        name: registered dataset.
        path: its folder; None where none was given.
        options: passed to the reader; numbers, ``true`` and ``false`` are converted.

    Example:
        >>> DataSource.parse("synthetic,images=200").options
        {'images': 200}
    """

    name: str
    path: Path | None = None
    options: dict[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> DataSource:
        """Parse what the user typed. A comma belongs to the path unless ``key=`` follows it.

        Raises:
            UsageError: it cannot be read, or an option is given twice.
        """
        match = re.fullmatch(r"([^=,]+)(=[^,].*|,.+)?", text.strip(), re.DOTALL)
        if match is None:
            raise UsageError(f"--data '{text}': expected NAME, NAME=PATH or NAME=PATH,key=value.")
        name, rest = match.group(1), match.group(2) or ""
        parts = rest[1:].split(",") if rest else []
        options: dict[str, object] = {}
        first = 1 if rest.startswith("=") else 0  # what follows NAME= is a path even if it reads like an option
        while len(parts) > first and (option := _OPTION.fullmatch(parts[-1])):
            if option.group(1) in options:
                raise UsageError(f"--data '{text}': option '{option.group(1)}' is given twice.")
            options[option.group(1)] = _value(option.group(2))
            parts.pop()
        if parts and not first:
            raise UsageError(f"--data '{text}': '{parts[-1]}' is not key=value. A folder is given as {name}=PATH.")
        ordered = dict(reversed(options.items()))
        return cls(name.strip(), Path(",".join(parts)).expanduser() if parts else None, ordered)

    def reader(self) -> Reader:
        """Open the dataset's reader.

        Raises:
            UsageError: unknown dataset or option.
            DataError: the folder is missing.
        """
        kind = DATASETS.get(self.name)
        try:
            inspect.signature(kind).bind(self.path, **self.options)
        except TypeError as error:
            raise UsageError(f"dataset '{self.name}': {error}.") from error
        reader: Reader = kind(self.path, **self.options)
        return reader


def _value(text: str) -> object:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return {"true": True, "false": False}.get(text.lower(), text)


class Dataset:
    """An opened dataset: manifest with splits now, images when they are asked for.

    Args:
        reader: the reader.
        manifest: with splits assigned.
        cache_root: where decoded images are kept.
        workers: decoding processes.
        progress: told how far decoding has come.
        skip_corrupt: leave out images that cannot be decoded.
    """

    def __init__(
        self,
        reader: Reader,
        manifest: Manifest,
        cache_root: Path,
        *,
        workers: int = 2,
        progress: Progress | None = None,
        skip_corrupt: bool = False,
    ) -> None:
        self.reader, self.manifest, self.cache_root = reader, manifest, cache_root
        self.workers, self.progress, self.skip_corrupt = workers, progress, skip_corrupt
        self._sets: dict[tuple[str, int, tuple[str, ...]], ImageSet] = {}
        self._places: dict[tuple[str, int, tuple[str, ...]], cache.Place] = {}

    @property
    def name(self) -> str:
        return self.reader.name

    @property
    def policy(self) -> str:
        return self.reader.policy

    def keep_for_testing(self) -> None:
        """Put every image into the test split: for datasets that nothing in a run learns from."""
        self.manifest = self.manifest.with_splits({record.image_id: "test" for record in self.manifest})
        self._sets.clear()
        self._places.clear()

    def records(self, split: str = "", domains: Sequence[str] = DOMAINS) -> list[ImageRecord]:
        """Records of a split (every one where none is named) and of some domains."""
        return [r for r in self.manifest if r.domain in domains and split in ("", r.split)]

    def count(self, split: str, domain: str) -> int:
        """Images of a split (any where it is empty) and domain according to the manifest; decodes nothing."""
        return sum(record.domain == domain for record in self.records(split))

    def annotated(self, split: str, annotation: str, domains: Sequence[str] = DOMAINS) -> list[ImageRecord]:
        """Records of a split that models can learn `annotation` from, according to the tables; decodes nothing.

        Args:
            split: ``train``, ``val`` or ``test``; empty for every one.
            annotation: ``lung_mask``; or ``boxes``, which an image without opacities has too (``()``: looked, none). Rendered
                images have whatever their dataset renders.
            domains: which images; add ``"other"`` for those that no translator learns from.

        Raises:
            ValueError: another annotation.
        """
        if annotation not in ANNOTATIONS:
            raise ValueError(f"annotation '{annotation}' is none of {', '.join(ANNOTATIONS)}")
        records = self.records(split, domains)
        if self.reader.generated:
            return records if annotation == "boxes" or annotation in self.reader.planes else []
        if annotation == "boxes":
            return [record for record in records if record.boxes is not None]
        return [record for record in records if record.lung_mask]

    def planes(self, split: str) -> frozenset[str]:
        """Optional planes that images of a split have, according to the tables; decodes nothing.

        One image that has it is enough. Of the others a lung mask is undecided everywhere, so that `annotated` is what to learn
        from; a counterpart that an opacity image lacks withdraws the plane when the images are decoded.
        """
        records = self.records(split)
        have = {"lung_mask": bool(self.annotated(split, "lung_mask")), "counterpart": any(r.counterpart for r in records)}
        return frozenset(p for p in self.reader.planes if self.reader.generated or have.get(p, False))

    def has_boxes(self, split: str) -> bool:
        """Whether opacity boxes are known for images of a split."""
        return self.reader.generated or bool(self.annotated(split, "boxes"))

    def place(self, split: str, size: int, domains: Sequence[str] = DOMAINS) -> cache.Place:
        """Where the images of a split lie, or will lie, in the cache."""
        key = (split, size, tuple(domains))
        if key not in self._places:  # the key hashes every record: seconds for a hundred thousand
            self._places[key] = cache.place(self.manifest, split, size, self.cache_root, domains)
        return self._places[key]

    def fingerprint(self, split: str, size: int, domains: Sequence[str] = DOMAINS) -> str:
        """Hash of everything that decides what `split` returns; known without decoding."""
        return digest([self.place(split, size, domains).key, size, self.skip_corrupt])

    def split(self, split: str, size: int, domains: Sequence[str] = DOMAINS) -> ImageSet:
        """Images of ``train``, ``val`` or ``test``, decoded on first use; empty where there are none.

        Args:
            split: which side.
            size: side of the images, pixels.
            domains: pass ``("opacity", "clear", "other")`` to have the images of no domain, too.
        """
        if split not in SPLITS:
            raise UsageError(f"split '{split}' is none of {', '.join(SPLITS)}.")
        key = (split, size, tuple(domains))
        if key not in self._sets:
            self._sets[key] = cache.build(
                self.reader, self.manifest, split, size, self.cache_root, workers=self.workers,
                progress=self.progress, domains=domains, skip_corrupt=self.skip_corrupt,
            )  # fmt: skip
        return self._sets[key]

    def left_out(self, split: str, size: int, domains: Sequence[str] = DOMAINS) -> dict[str, str]:
        """Image id -> why it could not be decoded, of a split that has been built."""
        return cache.left_out(self.place(split, size, domains))


def open_datasets(
    specs: Sequence[str | DataSource],
    seed: int,
    fractions: splits.Fractions = splits.DEFAULT_FRACTIONS,
    cache_root: Path = Path("cache"),
    *,
    workers: int = 2,
    progress: Progress | None = None,
    skip_corrupt: bool = False,
) -> list[Dataset]:
    """Open datasets that are used together: official splits of one hold for the same patients in the others.

    Args:
        specs: as typed by the user, or parsed.
        seed: seed of the split.
        fractions: shares of train, val and test where there is no official split.
        cache_root: where hashes and decoded images are kept.
        workers: threads and processes.
        progress: told how far hashing and decoding have come.
        skip_corrupt: leave out images that cannot be decoded.

    Raises:
        UsageError: unknown dataset or option.
        DataError: a folder is missing, a dataset has fatal problems, or a patient is on two sides.
    """
    readers = [(spec if isinstance(spec, DataSource) else DataSource.parse(spec)).reader() for spec in specs]
    manifests = [usable(read_manifest(reader, cache_root, progress, workers)) for reader in readers]
    by_namespace: dict[str, list[ImageRecord]] = {}
    for manifest in manifests:
        by_namespace.setdefault(manifest.namespace, []).extend(manifest)
    known = {namespace: splits.official(records) for namespace, records in by_namespace.items()}
    manifests = [m.with_splits(splits.assign(m, seed, fractions, known[m.namespace])) for m in manifests]
    splits.verify(manifests)
    return [
        Dataset(reader, manifest, cache_root, workers=workers, progress=progress, skip_corrupt=skip_corrupt)
        for reader, manifest in zip(readers, manifests, strict=True)
    ]
