"""The decoded cache: every image is decoded once, into one memory-mapped array a split and size.

``<root>/data/<dataset>-<key>/<split>-<size>.npy`` holds N x planes x size x size in uint8, or uint16 where any source image
has more than 8 bits. ``<split>-<size>.json`` beside it is written last: without it the array does not count. The key covers
records, file contents and decoder, not where the files lie. Geometry and resampling: `bench.data.geometry`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.contract import DOMAINS, ImageRecord, Manifest, Reader
from bench.data.decode import PLANES, Layout, NeedsWiderError, Row, Square, Target, decode, decode_rows, write_row
from bench.data.imageset import ImageSet, Item
from bench.data.manifest import Progress, restrict
from bench.errors import BenchError, DataError
from bench.files import digest, lock, read_json, replace_atomically, write_json

#: Bumped when cached pixels or the index change.
CACHE_VERSION = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where the images of one split lie, or will lie, in the cache.

    Attributes:
        folder: the dataset's folder in the cache.
        stem: ``<split>-<size>``.
        key: hash of everything that decides the content.
        records: the images, in order.
    """

    folder: Path
    stem: str
    key: str
    records: tuple[ImageRecord, ...]

    @property
    def array(self) -> Path:
        return self.folder / f"{self.stem}.npy"

    @property
    def index(self) -> Path:
        return self.folder / f"{self.stem}.json"


def place(manifest: Manifest, split: str, size: int, root: Path, domains: Sequence[str] = DOMAINS) -> Place:
    """Where `build` puts the images of `split` (of the given domains); reads nothing."""
    records = tuple(record for record in manifest if record.split == split and record.domain in domains)
    part = replace(restrict(manifest, records), decoder=f"{manifest.decoder}/cache-{CACHE_VERSION}")
    key = part.fingerprint
    return Place(root / "data" / f"{manifest.dataset}-{key}", f"{split}-{size}", key, records)


def left_out(at: Place) -> dict[str, str]:
    """Image id -> why it could not be decoded, for a split built with ``skip_corrupt``."""
    return dict(read_json(at.index)["corrupt"]) if at.index.exists() else {}


def build(
    reader: Reader,
    manifest: Manifest,
    split: str,
    size: int,
    root: Path,
    *,
    workers: int = 2,
    progress: Progress | None = None,
    domains: Sequence[str] = DOMAINS,
    skip_corrupt: bool = False,
) -> ImageSet:
    """Open the images of a split, decoding them first if the cache does not have them.

    Args:
        reader: decodes.
        manifest: with splits assigned (`bench.data.splits`).
        split: ``train``, ``val`` or ``test``.
        size: side of the cached images.
        root: the cache's folder; the array goes below ``data/``.
        workers: decoding processes.
        progress: told how far decoding has come.
        domains: which images; add ``"other"`` for those that no translator learns from.
        skip_corrupt: leave out images that cannot be decoded (see `left_out`) instead of stopping at the first.

    Returns:
        The images, memory-mapped; empty where the split has none.

    Raises:
        DataError: an image cannot be decoded; the message names it.
        BenchError: the disk is full, or a decoding process died.
    """
    at = place(manifest, split, size, root, domains)
    if not at.records:
        nothing = np.zeros((0, size, size), dtype=np.uint8)
        return ImageSet(f"{reader.name}/{split}", [], {"image": nothing}, at.key, reader.policy, reader.lung_convention)
    found = _open(at, reader, split, skip_corrupt)
    if found is None:
        at.folder.mkdir(parents=True, exist_ok=True)
        if reader.policy == "credentialed":
            at.folder.chmod(0o700)
        with lock(at.folder / f".{at.stem}.lock", wait=True, say=logger.warning):
            found = _open(at, reader, split, skip_corrupt)  # somebody may have built it while we waited
            if found is None:
                _Build(at, reader, size, workers, progress, skip_corrupt).run()
                found = _open(at, reader, split, skip_corrupt)
    if found is None:
        raise BenchError(f"{at.array} was removed while it was being opened. Run the same command again.")
    return found


def _open(at: Place, reader: Reader, split: str, skip_corrupt: bool) -> ImageSet | None:
    """The cached set, or None where it is not there, not whole or not of this key."""
    try:
        index = read_json(at.index)
        stored = np.load(at.array, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError, BenchError):
        return None
    if index.get("key") != at.key or list(stored.shape) != index["shape"] or str(stored.dtype) != index["dtype"]:
        return None
    if index["corrupt"] and not skip_corrupt:
        raise DataError(_and_more(next(iter(index["corrupt"].values())), len(index["corrupt"]) - 1))
    return ImageSet(
        f"{reader.name}/{split}",
        [_item(fields) for fields in index["items"]],
        {plane: stored[:, p] for p, plane in enumerate(index["layout"]) if plane in index["planes"]},
        index["fingerprint"],
        reader.policy,
        reader.lung_convention,
        np.asarray(index["rows"], dtype=np.int64),
    )


def _item(fields: Mapping[str, Any]) -> Item:
    boxes = fields["boxes"]
    return Item(**{
        **fields,
        "boxes": None if boxes is None else tuple((x, y, w, h) for x, y, w, h in boxes),
        "content": tuple(fields["content"]),
        "native": tuple(fields["native"]),
    })  # fmt: skip


@dataclass(frozen=True)
class _Build:
    """One run of the decoder over the images of a place. Used with the place's lock held."""

    at: Place
    reader: Reader
    size: int
    workers: int
    progress: Progress | None
    skip: bool

    def run(self) -> None:
        """Decode everything, rename the array into place, then write the index."""
        at, outcome = self.at, list[tuple[Layout, list[Row]]]()
        at.index.unlink(missing_ok=True)
        for stale in at.folder.glob(f".{at.stem}.*.tmp"):  # of builds that were killed: we hold the lock, nobody writes them
            stale.unlink(missing_ok=True)

        def fill(temporary: Path) -> None:
            layout, first = self._probe()
            while True:
                try:
                    outcome.append((layout, self._fill(temporary, layout, first)))
                    return
                except NeedsWiderError as wider:
                    # Rare: depth or planes differ within the dataset. Rows already written were rounded to fewer bits.
                    layout = wider.layout

        replace_atomically(at.array, fill)
        write_json(at.index, _index(at, self.size, *outcome[0]))

    def _probe(self) -> tuple[Layout, Square | None]:
        """Decode the first image to learn depth and planes; the tables tell of planes that it happens to lack."""
        records = self.at.records
        named = {"lung_mask": any(r.lung_mask for r in records), "counterpart": any(r.counterpart for r in records)}
        told = Layout(tuple(p for p in PLANES if p == "image" or (p in self.reader.planes and named.get(p))), "uint8")
        try:
            first = decode(self.reader, records[0], self.size)
        except DataError:
            if not self.skip:
                raise
            return told, None
        return told.widened(first.layout), first

    def _fill(self, temporary: Path, layout: Layout, first: Square | None) -> list[Row]:
        at, total = self.at, len(self.at.records)
        array = _allocate(temporary, (total, len(layout.planes), self.size, self.size), layout.dtype)
        rows = [] if first is None else [write_row(array, 0, first, layout)]
        jobs = list(enumerate(at.records))[len(rows) :]
        target = Target(self.reader, temporary, layout, self.size, self.skip)
        for part in decode_rows(target, jobs, self.workers):
            rows += part
            if self.progress:
                self.progress(f"decoding {at.folder.name.rpartition('-')[0]}/{at.stem}", len(rows), total)
        array.flush()
        rows.sort(key=lambda row: row.row)
        if all(row.error for row in rows):
            raise DataError(_and_more(rows[0].error, total - 1))
        return rows


def _allocate(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap[Any, np.dtype[Any]]:
    """Create the array's file and claim its space: a full disk is an error now, not a bus error in the middle."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def _index(at: Place, size: int, layout: Layout, rows: Sequence[Row]) -> dict[str, Any]:
    good = [row for row in rows if not row.error]
    lacking = {plane: [row.item["image_id"] for row in good if plane in row.missing] for plane in layout.planes}
    planes = [plane for plane in layout.planes if plane == "lung_mask" or not lacking[plane]]
    corrupt = {row.item["image_id"]: row.error for row in rows if row.error}
    for plane, ids in lacking.items():
        if ids:
            what = "is undecided there" if plane in planes else "is not used"
            logger.warning("%s: %d of %d images have no %s, which %s", at.folder.name, len(ids), len(good), plane, what)
    if corrupt:
        logger.warning("%s: %d images could not be decoded and are left out (%s)", at.folder.name, len(corrupt), at.index)
    items = [row.item for row in good]
    return {
        "version": CACHE_VERSION, "key": at.key, "size": size, "dtype": layout.dtype, "layout": list(layout.planes),
        "planes": planes, "shape": [len(rows), len(layout.planes), size, size], "rows": [row.row for row in good],
        "items": items, "corrupt": corrupt, "incomplete": {plane: ids for plane, ids in lacking.items() if ids},
        "fingerprint": digest([at.key, size, planes, layout.dtype, items, sorted(corrupt)]),
    }  # fmt: skip


def _and_more(why: str, more: int = 0) -> str:
    return why + (f" ({more} more cannot be decoded either)" if more else "")
