"""Manifests: a reader's records with the hash of every file they name. Hashes are remembered between runs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.data.contract import DOMAINS, OTHER, ImageRecord, Manifest, Problem, Reader
from bench.errors import BenchError, DataError
from bench.files import digest, file_digest, read_json, write_json
from bench.registry import DATASETS

#: ``progress(what, done, total)``.
Progress = Callable[[str, int, int], None]

_SAFE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
#: A file younger than this when hashed may change again without its time stamp moving, so its hash is not remembered.
_SETTLED_NS = 2_000_000_000
_MISSING = "missing"


def read_manifest(reader: Reader, cache_root: Path, progress: Progress | None = None, workers: int = 2) -> Manifest:
    """Read a dataset's tables and hash the files they name.

    Args:
        reader: the opened dataset.
        cache_root: where hashes are remembered (``digests/``).
        progress: told how far hashing has come.
        workers: hashing threads.

    Returns:
        The manifest, sorted by image id; splits are the official ones. Fatal problems are in it: see `usable`.

    Raises:
        DataError: an image id occurs twice.
    """
    records, problems, leaky = reader.records()
    records = sorted(records, key=lambda record: record.image_id)
    for one, two in pairwise(records):
        if one.image_id == two.image_id:
            raise DataError(
                f"{reader.name}: image id '{one.image_id}' occurs twice ({one.path} and {two.path}); remove one."
            )
    problems = list(problems)
    for record in records:
        if not _SAFE_ID.fullmatch(record.image_id):
            problems.append(Problem(record.image_id, "image ids may hold letters, digits and . _ - only"))
        if record.domain not in (*DOMAINS, OTHER):
            problems.append(Problem(record.image_id, f"domain '{record.domain}' is none of {', '.join((*DOMAINS, OTHER))}"))

    relative = sorted({name for record in records for name in _files(record)})
    hashes, found = _hash_files(reader, relative, cache_root, progress, workers)
    told = {problem.where for problem in problems}
    problems += [problem for problem in found if problem.where not in told and str(reader.root / problem.where) not in told]
    return Manifest(
        dataset=reader.name,
        records=tuple(records),
        digests={record.image_id: _record_digest(record, hashes) for record in records},
        decoder=_decoder(reader),
        leaky=leaky,
        problems=tuple(problems),
        namespace=reader.patient_namespace or reader.name,
    )


def _decoder(reader: Reader) -> str:
    """What turns files into pixels: reader, version, the options that matter and, for a plug-in's, the file it is from."""
    options = {name: reader.options[name] for name in reader.decoding if name in reader.options}
    origin = DATASETS.origin(reader.name) if reader.name in DATASETS.names() else ""
    parts = [f"{reader.name}-{reader.version}", *(f"{k}={v}" for k, v in sorted(options.items()))]
    return " ".join([*parts, origin] if "@" in origin else parts)


def usable(manifest: Manifest) -> Manifest:
    """Return the manifest if nothing fatal was found.

    Raises:
        DataError: something was, or there are no images; one line with the first problem.
    """
    fatal = [problem for problem in manifest.problems if problem.fatal]
    if fatal:
        more = f" (and {len(fatal) - 1} more; `bench data check {manifest.dataset} PATH` lists them)" if fatal[1:] else ""
        raise DataError(f"dataset '{manifest.dataset}' cannot be used: {fatal[0]}{more}")
    if not manifest.records:
        raise DataError(f"dataset '{manifest.dataset}' holds no images; `bench list` says what its folder must hold.")
    return manifest


def _files(record: ImageRecord) -> list[str]:
    return [name for name in (record.path, *record.lung_mask, record.counterpart) if name]


def _record_digest(record: ImageRecord, hashes: dict[str, str]) -> str:
    """Hash over the contents of a record's files; of what a renderer is told (`extra`) where there are none."""
    files = _files(record)
    return digest([hashes[name] for name in files] if files else dict(record.extra), 16)


def _hash_files(
    reader: Reader, names: Sequence[str], cache_root: Path, progress: Progress | None, workers: int
) -> tuple[dict[str, str], list[Problem]]:
    if not names:
        return {}, []
    memo_path = cache_root / "digests" / f"{reader.name}-{digest(str(reader.root))}.json"
    memo = _read_memo(memo_path)
    fresh: dict[str, list[Any]] = {}

    def one(name: str) -> tuple[str, str | None, list[Any] | None]:
        try:
            path = reader.inside(name)
            stamp = _stamp(path)
            if memo.get(name, [])[:3] == stamp:
                return name, None, memo[name]
            return name, None, [*stamp, file_digest(path)]
        except FileNotFoundError:
            return name, "the file is missing", None
        except (OSError, DataError) as error:
            return name, str(error), None

    hashes, problems = {}, []
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for done, (name, trouble, entry) in enumerate(pool.map(one, names), 1):
            hashes[name] = entry[3] if entry else _MISSING
            if entry:
                fresh[name] = entry
            if trouble:
                problems.append(Problem(name, trouble))
            if progress and (done % 50 == 0 or done == len(names)):
                progress(f"hashing {reader.name}", done, len(names))
    now = time.time_ns()
    settled = {name: entry for name, entry in fresh.items() if now - max(entry[1], entry[2]) > _SETTLED_NS}
    if settled != memo:
        write_json(memo_path, settled)
    return hashes, problems


def _stamp(path: Path) -> list[int]:
    """Size and times. The change time cannot be set: it tells a file unpacked again with its old size and date."""
    stat = os.stat(path)  # noqa: PTH116 (one system call a file, ten thousand files)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _read_memo(path: Path) -> dict[str, list[Any]]:
    """What was remembered; a damaged memo only costs time, so it is dropped."""
    try:
        memo = read_json(path)
    except (FileNotFoundError, BenchError):
        return {}
    return {k: v for k, v in memo.items() if isinstance(v, list) and len(v) == 4} if isinstance(memo, dict) else {}


def restrict(manifest: Manifest, records: Iterable[ImageRecord]) -> Manifest:
    """The manifest with only the given of its records."""
    kept = tuple(records)
    return replace(manifest, records=kept, digests={record.image_id: manifest.digests[record.image_id] for record in kept})
