"""Decoding into rows of the cache's array, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data.contract import CLEAR, MASK_IGNORE, ImageRecord, Reader
from bench.data.geometry import Frame
from bench.errors import BenchError, DataError
from bench.files import finite

#: Order of the planes in the array.
PLANES = ("image", "lung_mask", "opacity", "counterpart")
_CHUNK = 8
#: Below this many images processes cost more than they bring.
_FEW = 16


@dataclass(frozen=True)
class Layout:
    """What the cache's array looks like, as far as is known before everything is decoded."""

    planes: tuple[str, ...]
    dtype: str

    def covers(self, other: Layout) -> bool:
        """Whether rows of the other layout fit into this one."""
        return set(self.planes) >= set(other.planes) and (self.dtype == "uint16" or other.dtype == "uint8")

    def widened(self, other: Layout) -> Layout:
        """The least layout that covers both."""
        planes = tuple(plane for plane in PLANES if plane in (*self.planes, *other.planes))
        return Layout(planes, "uint16" if "uint16" in (self.dtype, other.dtype) else "uint8")


@dataclass(frozen=True)
class Row:
    """Outcome of one image: its annotations, or why there are none.

    Attributes:
        row: index into the array.
        layout: what the image needs.
        item: fields of `bench.data.imageset.Item`.
        missing: planes of the array that the image does not have and that had to be filled.
        error: why it could not be decoded; empty when it could.
    """

    row: int
    layout: Layout
    item: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Square:
    """A decoded image in cached geometry: values in [0, 1] and codes, not yet in the array's depth."""

    values: dict[str, npt.NDArray[Any]]
    item: dict[str, Any]
    layout: Layout


class NeedsWiderError(Exception):
    """A row does not fit the array: it is deeper, or has a plane the first images did not have."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout


def decode(reader: Reader, record: ImageRecord, size: int) -> Square:
    """Decode one image and bring it into cached geometry.

    Raises:
        DataError: it cannot be decoded, whatever the reader raised; one line that names the file.
    """
    where = f"{reader.name}: {record.path or record.image_id}"
    try:
        decoded = reader.load(record, size)
    except (BenchError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{where} cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())})") from error
    image = decoded.image
    if image.ndim != 2 or not image.size:
        raise DataError(f"{where}: decoded to shape {image.shape}, expected height x width.")
    given = {plane: getattr(decoded, plane) for plane in PLANES if getattr(decoded, plane) is not None}
    for plane, values in given.items():
        if values.shape != image.shape:
            raise DataError(f"{where}: {plane} is {values.shape}, the image {image.shape}; they must have the same size.")
        if not np.isfinite(values).all():
            raise DataError(f"{where}: {plane} holds values that are not finite.")
    frame = Frame(image.shape[0], image.shape[1], size)
    boxes = decoded.boxes if decoded.boxes is not None else record.boxes
    try:
        placed = None if boxes is None else frame.boxes(boxes)
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from None
    findings = (
        None if record.findings is None else {k: finite(v) for k, v in record.findings.items() if finite(v) is not None}
    )
    item = {
        "image_id": record.image_id, "patient_id": record.patient_id, "domain": record.domain, "view": record.view,
        "sex": record.sex, "age": finite(record.age), "findings": findings,
        "boxes": placed, "content": frame.content,
        "native": (frame.height, frame.width),
    }  # fmt: skip
    values = {plane: frame.codes(v) if plane == "lung_mask" else frame.image(v) for plane, v in given.items()}
    return Square(values, item, Layout(tuple(values), "uint16" if decoded.bits > 8 else "uint8"))


def write_row(array: npt.NDArray[Any], row: int, square: Square, layout: Layout) -> Row:
    """Store one image; planes it lacks are filled with what cannot mislead.

    An unknown lung is undecided everywhere. A clear image has no opacity and is its own counterpart. What an opacity image
    lacks stays zero and is reported as missing, so that the plane is not offered.

    Raises:
        NeedsWiderError: the image does not fit the layout.
    """
    if not layout.covers(square.layout):
        raise NeedsWiderError(layout.widened(square.layout))
    full = np.iinfo(array.dtype).max
    missing = []
    for p, plane in enumerate(layout.planes):
        values = square.values.get(plane)
        if values is None:
            if plane == "lung_mask":
                array[row, p] = MASK_IGNORE
            elif plane == "counterpart" and square.item["domain"] == CLEAR:
                array[row, p] = array[row, 0]
                continue
            elif plane == "opacity" and square.item["domain"] == CLEAR:
                array[row, p] = 0
                continue
            missing.append(plane)
        else:
            array[row, p] = values if plane == "lung_mask" else np.round(values * np.float32(full))
    return Row(row, square.layout, square.item, tuple(missing))


class Target:
    """The array that rows go into, and what is needed to make them; opened on first use, in each process.

    Args:
        reader: decodes.
        path: the array file.
        layout: of the array.
        size: side of the images.
        skip: report images that cannot be decoded instead of raising.
    """

    def __init__(self, reader: Reader, path: Path, layout: Layout, size: int, skip: bool) -> None:
        self.reader, self.path, self.layout, self.size, self.skip = reader, path, layout, size, skip
        self._array: npt.NDArray[Any] | None = None

    def rows(self, jobs: Sequence[tuple[int, ImageRecord]]) -> list[Row]:
        """Decode some images into their rows."""
        if self._array is None:
            self._array = np.load(self.path, mmap_mode="r+")
        rows = []
        for row, record in jobs:
            try:
                rows.append(write_row(self._array, row, decode(self.reader, record, self.size), self.layout))
            except DataError as error:
                if not self.skip:
                    raise
                rows.append(Row(row, Layout((), "uint8"), {"image_id": record.image_id}, error=str(error)))
        return rows


def decode_rows(target: Target, jobs: Sequence[tuple[int, ImageRecord]], workers: int) -> Iterator[list[Row]]:
    """Decode images into their rows of the target, yielding outcomes as they come, in any order.

    Raises:
        DataError: an image cannot be decoded and the target does not skip.
        NeedsWiderError: an image does not fit the layout; nothing of the array counts.
        BenchError: a decoding process died.
    """
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    if len(jobs) < _FEW or workers <= 1:
        yield from (target.rows(chunk) for chunk in chunks)
        return
    # fork: user-made readers (--import) exist in this process only, and starting is free. Workers touch neither CUDA nor
    # this process's threads. Elsewhere fork is missing or unsafe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(min(workers, len(chunks)), context, _start_worker, (target, os.getpid()))
    try:
        pending = {pool.submit(_work, chunk) for chunk in chunks}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                if isinstance(outcome, NeedsWiderError):
                    raise outcome
                yield outcome
    except BrokenProcessPool as error:
        raise BenchError(
            f"a process decoding {target.reader.name} was killed, most likely for lack of memory. Run the command again "
            f"with fewer workers (now {workers})."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_target: Target | None = None


def _start_worker(target: Target, parent: int) -> None:
    global _target  # noqa: PLW0603 (how a process pool keeps per-process state)
    _target = target
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it stops the pool
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = "1"
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    """End with the parent: pool workers of a killed parent wait for ever, and would keep its lock."""
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


def _work(jobs: Sequence[tuple[int, ImageRecord]]) -> list[Row] | NeedsWiderError:
    assert _target is not None
    try:
        return _target.rows(jobs)
    except NeedsWiderError as wider:  # returned, not raised: a pickled exception would come back with a remote traceback
        return wider
    except BenchError as error:
        raise type(error)(str(error)) from None
