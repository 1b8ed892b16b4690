"""Test images as the methods saw them, kept beside the results.

Figures and the case browser are drawn from a results folder alone, wherever it was copied to: the cache of decoded images and
the datasets need not be there any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.data.contract import MASK_BACKGROUND, MASK_LUNG
from bench.errors import BenchError
from bench.files import digest, disk_full, file_digest, read_json, write_json
from bench.progress import Progress, warn

if TYPE_CHECKING:
    from bench.data.imageset import ImageSet
    from bench.experiment import Experiment

FOLDER, MANIFEST = "sources", "manifest.json"
#: Grey levels of reference lung masks: no lung, undecided, lung.
NO_LUNG, UNDECIDED, LUNG = 0, 127, 255
#: Folder -> plane of the image set it is written from.
PLANES = {"images": "image", "opacity": "opacity", "counterpart": "counterpart", "lungs": "lung_mask"}
#: Warnings of this process: each translation of a test set tries to keep it.
_said = set[str]()
#: Images in memory at once.
_CHUNK = 64
Bytes = npt.NDArray[np.uint8]


def location(runs: Path, test: str, fingerprint: str, size: int) -> Path:
    """Where the images of a test set with this fingerprint lie at this size (pixels a side)."""
    return runs / FOLDER / f"{test}-{fingerprint[:8]}-{size}"


def keep(experiment: Experiment, test: str) -> Path:
    """Write a test set into the results folder: ``images/<id>.png``, 8-bit grey, exactly what methods translate.

    Beside it, where the set has them: ``opacity`` (0 none to 255 all), ``counterpart`` (the true clear image) and ``lungs`` (the
    reference: `NO_LUNG`, `UNDECIDED`, `LUNG`). ``manifest.json`` comes last and means that all is there; then nothing is done
    and nothing decoded. Its ``contents`` say where the images with padding lie inside it (top, left, height, width in pixels):
    evaluators leave padding out. What a kill has left is taken up.

    Args:
        experiment: whose results folder it is.
        test: name of one of its test sets.

    Returns:
        The folder; its owner's only where the data policy is ``credentialed``.

    Raises:
        BenchError: no space is left, or the images cannot be decoded.
        OSError: the folder cannot be written to.
    """
    size, runs = experiment.data.size, experiment.spec.options.runs
    identity = experiment.identity(test, "test", size)
    if there := _known(runs, test, identity):
        return there
    images = experiment.test_set(test)
    folder = location(runs, test, images.fingerprint, size)
    if (facts := manifest(folder)) and facts["fingerprint"] == images.fingerprint:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    if images.policy == "credentialed":
        folder.chmod(0o700)
    planes = [name for name, plane in PLANES.items() if plane in images.planes]
    _write(folder, images, planes, Progress(f"keep the images of {test}"))
    hashes = {name: {i: file_digest(folder / name / f"{i}.png") for i in images.ids} for name in planes}
    write_json(
        folder / MANIFEST,
        {
            "dataset": test, "fingerprint": images.fingerprint, "identity": identity, "size": size, "policy": images.policy,
            "contents": {i.image_id: list(i.content) for i in images.items if i.content and i.content[2:] != (size, size)},
            "split": "test", "ids": images.ids, "domains": dict(zip(images.ids, images.domains, strict=True)), "planes": planes,
            "content": digest(hashes),
        },
    )  # fmt: skip
    return folder


def keep_all(experiment: Experiment, tests: Iterable[str]) -> None:
    """`keep` test sets. Where one cannot be kept there is a warning: the numbers of a run are as good without.

    Raises:
        BenchError, OSError: no space is left.
    """
    for test in tests:
        try:
            keep(experiment, test)
        except Exception as error:
            if disk_full(error):
                raise
            place, why = experiment.spec.options.runs / FOLDER, " ".join(str(error).split())[:300]
            told = why if isinstance(error, BenchError) else f"{type(error).__name__}: {why}"
            words = f"{test}: its images are not kept in {place}, so figures will lack them: {told}"
            if words not in _said:
                _said.add(words)
                warn(words)


def _known(runs: Path, test: str, identity: str) -> Path | None:
    """The folder of images that can be told without decoding them to be the ones asked for."""
    for path in sorted((runs / FOLDER).glob(f"*/{MANIFEST}")):
        facts = manifest(path.parent) if path.parent.name.startswith(f"{test}-") else None
        if facts and facts.get("identity") == identity and facts.get("dataset") == test:
            return path.parent
    return None


def manifest(folder: Path) -> dict[str, Any] | None:
    """What `keep` wrote last, or None where it has not finished, or the file is damaged: `keep` then writes it again."""
    try:
        facts = read_json(folder / MANIFEST)
    except (OSError, BenchError):
        return None
    return facts if _sound(facts) else None


def _sound(facts: Any) -> bool:
    """Whether the fields that readers use are there."""
    kinds = {"fingerprint": str, "size": int, "policy": str, "ids": list, "domains": dict, "planes": list, "contents": dict}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), kind) for name, kind in kinds.items()):
        return False
    places = all(isinstance(c, list) and len(c) == 4 and all(type(n) is int for n in c) for c in facts["contents"].values())
    return places and all(isinstance(i, str) and i in facts["domains"] for i in facts["ids"])


def _write(folder: Path, images: ImageSet, planes: Sequence[str], progress: Progress) -> None:
    """Write what is not there yet."""
    from bench.translations import write_png  # loads torch, which readers of a kept set do without

    paths = [[folder / name / f"{image_id}.png" for name in planes] for image_id in images.ids]
    todo = [row for row, files in enumerate(paths) if not all(path.is_file() for path in files)]
    progress.start(len(images), len(images) - len(todo))
    with ThreadPoolExecutor(4) as writers:
        for start in range(0, len(todo), _CHUNK):
            rows = todo[start : start + _CHUNK]
            for name, values in _values(images, rows, planes):
                list(writers.map(write_png, [folder / name / f"{images.ids[row]}.png" for row in rows], values))
            progress.advance(len(images) - len(todo) + start + len(rows))
    progress.stop()


def _values(images: ImageSet, rows: Sequence[int], planes: Sequence[str]) -> Iterator[tuple[str, Bytes]]:
    """Folder and grey levels n x S x S of some images."""
    for name in planes:
        if name == "lungs":
            codes = images.raw(rows, PLANES[name])
            yield name, np.select([codes == MASK_LUNG, codes == MASK_BACKGROUND], [LUNG, NO_LUNG], UNDECIDED).astype(np.uint8)
        else:
            yield name, images.bytes(rows, PLANES[name])
