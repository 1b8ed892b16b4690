"""Translated test sets on disk: PNG files for people and other programs, one packed array for evaluators."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from bench.contracts import Method
from bench.data.imageset import ImageSet
from bench.errors import BenchError
from bench.files import digest, file_digest, read_json, replace_atomically, write_json
from bench.progress import Progress

MANIFEST = "manifest.json"
_WEIGHTS = "weights.json"
_PACKED = "packed"
#: Images per forward pass; does not change the result.
_AT_ONCE = 16
Bytes = npt.NDArray[np.uint8]


def to_bytes(values: torch.Tensor) -> Bytes:
    """Images N x C x H x W in [-1, 1] as uint8 N x H x W: linear, rounded, clipped; channels averaged. Never stretched."""
    grey = values.detach().float().mean(1).clamp(-1, 1)
    return ((grey + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def translate_set(
    method: Method,
    images: ImageSet,
    folder: Path,
    key: str,
    seed: int,
    device: torch.device,
    progress: Progress,
    weights_id: str = "",
    direction: str = "a2b",
) -> None:
    """Translate a set into ``<folder>/images/<id>.png`` (and ``masks/<id>.png``), skipping images that are already there.

    Images that other weights made are removed first: no set mixes two models.

    Args:
        method: trained; put into eval mode here.
        images: the source set, all domains.
        folder: result folder; belongs to one key.
        key: written into the manifest, which is written last.
        seed: for methods with random style.
        device: where to run.
        progress: display.
        weights_id: hash of the method's weights; written beside the images before the first, and into the manifest.
        direction: ``a2b``, opacity to clear, or ``b2a``.

    Raises:
        BenchError: the method returned a wrong shape or a value that is not finite.
    """
    method.to(device).eval()
    if (folder / "images").is_dir() and _weights_of(folder) != weights_id:
        shutil.rmtree(folder)
    write_json(folder / _WEIGHTS, {"weights_id": weights_id})
    done = [i for i, image_id in enumerate(images.ids) if (folder / "images" / f"{image_id}.png").is_file()]
    masks_there = (folder / "masks").is_dir()
    if masks_there:
        done = [i for i in done if (folder / "masks" / f"{images.ids[i]}.png").is_file()]
    todo = sorted(set(range(len(images))) - set(done))
    progress.start(len(images), len(done))
    with ThreadPoolExecutor(4) as writers:
        for start in range(0, len(todo), _AT_ONCE):
            rows = todo[start : start + _AT_ONCE]
            source = torch.from_numpy(images.pixels(rows)[:, None]).to(device) * 2 - 1
            with torch.inference_mode():
                out = method.translate(source, direction, [_image_seed(seed, images.ids[i]) for i in rows])
            _check(out.image, source, [images.ids[i] for i in rows])
            names = [f"{images.ids[i]}.png" for i in rows]
            if out.mask is not None:
                list(writers.map(write_png, [folder / "masks" / n for n in names], to_bytes(out.mask * 2 - 1)))
            list(writers.map(write_png, [folder / "images" / n for n in names], to_bytes(out.image)))
            progress.advance(len(done) + start + len(rows))
    progress.stop()
    write_manifest(folder, images.ids, key, weights_id=weights_id)


def _weights_of(folder: Path) -> str | None:
    """Hash of the weights that the images of a folder, complete or not, were made with; None where nothing tells."""
    try:
        return str(json.loads((folder / _WEIGHTS).read_text(encoding="utf-8"))["weights_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _image_seed(seed: int, image_id: str) -> int:
    return int(digest([seed, image_id]), 16) >> 1


def _check(out: torch.Tensor, source: torch.Tensor, ids: list[str]) -> None:
    if out.shape != source.shape:
        raise BenchError(f"translate returned shape {tuple(out.shape)} for input {tuple(source.shape)}.")
    bad = (~torch.isfinite(out)).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise BenchError(
            f"translation of image '{ids[bad[0]]}' holds values that are not finite; train again with a lower rate."
        )


def write_png(path: Path, values: Bytes) -> None:
    """Write an 8-bit grey image atomically."""
    replace_atomically(path, lambda temporary: Image.fromarray(values).save(temporary, format="PNG", compress_level=3))


def write_manifest(folder: Path, ids: Iterable[str], key: str, **extra: Any) -> None:
    """Write the list of a folder's translated images with a hash each; its presence means that the set is complete."""
    ids = list(ids)
    masks = (folder / "masks").is_dir()
    files = {image_id: file_digest(folder / "images" / f"{image_id}.png") for image_id in ids}
    content = digest([files, {i: file_digest(folder / "masks" / f"{i}.png") for i in ids} if masks else {}])
    write_json(folder / MANIFEST, {"key": key, "content": content, "files": files, "masks": masks, **extra})


def load_set(folder: Path, source: ImageSet) -> ImageSet:
    """Open a translated set as an `ImageSet` in the order of its source, planes ``image`` and ``mask``.

    The PNG files are packed once into a memory-mapped array, so that several evaluators decode nothing.

    Raises:
        BenchError: a file is missing, changed or of another size; the message names it.
    """
    manifest = read_json(folder / MANIFEST)
    names = ["image", "mask"] if manifest["masks"] else ["image"]
    packed = folder / f"{_PACKED}-{manifest['content']}-{source.size}.npy"
    if not packed.is_file():
        _pack(folder, manifest, source, names, packed)
    array = np.load(packed, mmap_mode="r")
    planes = {name: array[:, i] for i, name in enumerate(names)}
    return ImageSet(
        f"{source.name}/translated", source.items, planes, manifest["content"], source.policy, source.lung_convention
    )


def _pack(folder: Path, manifest: dict[str, Any], source: ImageSet, names: list[str], packed: Path) -> None:
    shape = (len(source), len(names), source.size, source.size)

    def fill(temporary: Path) -> None:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for row, image_id in enumerate(source.ids):
            if image_id not in manifest["files"]:
                raise BenchError(f"{folder}: no translated image '{image_id}'. Translate again: --force translate.")
            for column, name in enumerate(names):
                path = folder / f"{name}s" / f"{image_id}.png"
                array[row, column] = _read_png(path, source.size)
                if name == "image" and file_digest(path) != manifest["files"][image_id]:
                    raise BenchError(f"{path} was changed after it was made. Translate again: --force translate.")
        array.flush()

    replace_atomically(packed, fill)


def _read_png(path: Path, size: int) -> Bytes:
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error}). Translate again: --force translate.") from error
    if values.shape != (size, size) or values.dtype != np.uint8:
        raise BenchError(f"{path} is {values.dtype} {values.shape}; 8-bit grey {size} x {size} expected.")
    return values
