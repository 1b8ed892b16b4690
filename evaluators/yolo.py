"""YOLOv5 as ultralytics ships it, for `evaluators.detection`: the anchor-free YOLOv5u, not the network of 2020.

Everything of ultralytics (AGPL-3.0) happens in a process of its own, `evaluators.yolo_process`: this module never imports it, and
neither does anything else here. The process starts from the architecture's yaml without pretrained weights, uses no network,
reads no settings of the user's, and leaves this process's threads and ``torch.save`` alone.

Copies of images that it needs as files lie in a working folder inside the cache, and are gone when it ends, however it ends. An
interrupted training starts anew: ultralytics stores its optimizer rounded and no random state, so what resumed from that would
be another detector than the one an undisturbed training gives.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from bench.checking import check_above, check_at_least, check_below_one, check_choice, check_within
from bench.contracts import Job
from bench.data.contract import FloatImage
from bench.data.imageset import ImageSet, Item
from bench.errors import BenchError, DataError, PreflightError, UsageError
from bench.files import digest, file_digest
from bench.progress import Progress
from evaluators.detectors import LEAST, Annotated, Detections, Detector, check_sides, identity
from evaluators.yolo_child import YoloProcess, serving

MODELS = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")
LICENCE = "AGPL-3.0 (ultralytics)"
#: Bumped whenever the same inputs could give another detector.
VERSION = 1
#: Images brought to 8 bits at a time while they are written.
_CHUNK = 256
#: Images that stand in where none are held out; ultralytics wants some to validate on, and what it then measures is not told.
_STAND_IN = 32


@dataclass(frozen=True)
class YoloSettings:
    """What a YOLOv5u is trained and used with.

    Attributes:
        model: ``yolov5n``, ``s``, ``m``, ``l`` or ``x`` (2.5, 9.1, 25, 53 and 97 million parameters); ultralytics' anchor-free
            versions.
        image_size: side that images are resized to (bilinear) before the network; a multiple of 32 from 64 on. Weights of the
            user's own are used at the size they were trained at.
        epochs, batch_size: budget. Every batch is an update.
        lr: peak learning rate of AdamW, after one epoch of warm-up; then cosine to 1 %.
        weight_decay: of AdamW.
        mosaic: probability of an image pasted together of four, until the last tenth of the epochs; at most 0.5, for an X-ray
            has one chest.
        fliplr: probability of a mirrored image.
        brightness, scale, translate: largest relative change of brightness and of size, and shift in parts of the side.
        seed: of initial weights, order and augmentation.
        workers: processes that load images on a GPU; another number gives other augmentations. Without a GPU always 0.
        nms_iou: of two boxes that overlap more, the less confident one goes.
        max_detections: most boxes an image.
        classes: those that count of the classes that weights of the user's own know; empty where they know one.
    """

    model: str = "yolov5n"
    image_size: int = 512
    epochs: int = 100
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 5e-4
    mosaic: float = 0.5
    fliplr: float = 0.5
    brightness: float = 0.2
    scale: float = 0.3
    translate: float = 0.1
    seed: int = 0
    workers: int = 0
    nms_iou: float = 0.45
    max_detections: int = 50
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self, MODELS, "model")
        check_sides(self, "image_size")
        check_at_least(self, 1, "epochs", "batch_size", "max_detections")
        check_at_least(self, 0, "seed", "workers", "weight_decay")
        check_above(self, 0, "lr")
        check_within(self, 0, 0.5, "mosaic")
        check_within(self, 0, 1, "fliplr", "brightness", "nms_iou")
        check_below_one(self, "scale", "translate")

    def training(self) -> dict[str, Any]:
        """ultralytics' arguments that the weights depend on."""
        return {
            "epochs": self.epochs, "batch": self.batch_size, "nbs": self.batch_size, "imgsz": self.image_size, "seed": self.seed,
            "workers": self.workers, "optimizer": "AdamW", "lr0": self.lr, "lrf": 0.01, "cos_lr": True, "momentum": 0.9,
            "weight_decay": self.weight_decay, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0, "mosaic": self.mosaic,
            "close_mosaic": max(1, self.epochs // 10), "fliplr": self.fliplr, "flipud": 0.0, "hsv_h": 0.0, "hsv_s": 0.0,
            "hsv_v": self.brightness, "scale": self.scale, "translate": self.translate, "mixup": 0.0, "cutmix": 0.0,
            "pretrained": False, "patience": 0, "deterministic": True, "amp": False, "val": False, "cache": False,
        }  # fmt: skip


def missing_yolo() -> str:
    """What to do where ultralytics is not installed, in one line; empty where it is."""
    if find_spec("ultralytics") is not None:
        return ""
    return (
        "evaluators.detection with detector=yolo needs ultralytics, which is not installed. Its licence is AGPL-3.0; if you can "
        'take that: pip install "cxr-bench[yolo]". If not, count with torchvision\'s detector: '
        "--set evaluators.detection.detector=fcos"
    )


def library_version() -> str:
    """Of ultralytics, without importing it: what it trains and finds may differ from version to version."""
    try:
        return version("ultralytics")
    except PackageNotFoundError:
        return "none" if find_spec("ultralytics") is None else "unknown"


def file_problem(path: Path) -> str:
    """Why an existing file cannot be the weights of one of ultralytics' detectors, in one line; empty where it may be.

    Nothing in the file is run and ultralytics is not started: whether it really loads, `load_yolo` finds out.
    """
    if path.suffix != ".pt":
        return f"{path} is no file of ultralytics weights: their names end in .pt."
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            named = any(b"ultralytics" in archive.read(name) for name in pickles)
    except (OSError, zipfile.BadZipFile) as error:
        return f"{path} is no file of ultralytics weights ({error}). Name the .pt file that its training wrote."
    return "" if named else (
        f"{path} holds no model of ultralytics: a plain state dict, or a model of another library. Name the .pt file that "
        "ultralytics' training wrote, or the detector that the file is of (evaluators.detection.detector)."
    )


def train_yolo(job: Job, settings: YoloSettings, learn: Sequence[Annotated], check: Sequence[Annotated]) -> Detector:
    """A YOLOv5u trained on annotated images, or the one that was trained from the same inputs before.

    Args:
        job: where fits are kept, and where to compute.
        settings: architecture and budget.
        learn: what it learns from; some of the images must have boxes.
        check: held-out images: ultralytics measures mAP50 on them once, at the end (``facts["held_out_map50"]``). Nothing is
            chosen by them: the weights are those of the last epoch (their moving average).

    Raises:
        PreflightError: ultralytics is not installed.
        DataError: nothing to learn from, or a box without any area inside its image.
        BenchError: training failed; the message has the reason and names the log.
    """
    _require()
    boxes = sum(len(images.items[row].boxes or ()) for images, rows in learn for row in rows)
    if not boxes:
        names = ", ".join(images.name for images, _ in learn) or "no image set"
        raise DataError(f"no opacity box to learn from in {names}: a detector needs images with boxes.")
    inputs = {
        "version": VERSION, "ultralytics": library_version(), "model": settings.model, "arguments": settings.training(),
        "learn": identity(learn), "check": identity(check),
    }  # fmt: skip

    folder, facts = job.fits.folder(f"{settings.model}u", inputs, partial(_trained, job, settings, learn, check))
    weights = folder.resolve() / "weights.pt"
    if not weights.is_file():
        raise BenchError(f"{weights} is gone. Delete {folder} and run the same command again.")
    return YoloDetector(weights, folder, facts, settings, settings.image_size, (), job.device)


def _trained(
    job: Job, settings: YoloSettings, learn: Sequence[Annotated], check: Sequence[Annotated], folder: Path
) -> Mapping[str, Any]:
    """Train into a folder (``weights.pt``); what records say of it. Arguments and errors as of `train_yolo`."""
    folder = folder.resolve()  # the process has another working directory
    for left in folder.glob("work-*"):  # by an attempt that was killed together with its process
        shutil.rmtree(left, ignore_errors=True)
    threads = torch.get_num_threads()
    with YoloProcess(folder, "train.log", threads) as child:
        data = child.work / "data"
        held_out = check if any(rows for _, rows in check) else _first(learn, _STAND_IN)
        counts = _write(data, "train", learn)
        _write(data, "val", held_out)
        told = child.ask(
            f"training {settings.model}u", Progress(settings.model + "u", job.fits.quiet), task="train",
            architecture=f"{settings.model}.yaml", output=str(folder / "weights.pt"),
            arguments={
                **settings.training(), "data": str(_description(data)), "device": _device(job.device), "project": str(child.work),
                "name": "train", "exist_ok": True, "plots": False, "verbose": False,
            },
        )  # fmt: skip
    if told["images"] != counts["images"]:
        raise BenchError(f"training {settings.model}u: of {counts['images']} images {told['images']} were read. Log: {child.log}")
    if told["batch_size"] != settings.batch_size:  # ultralytics halves it and goes on
        raise BenchError(
            f"training {settings.model}u: out of memory with {settings.batch_size} images of {settings.image_size} pixels a "
            f"batch ({told['batch_size']} would do). Lower batch_size or image_size."
        )
    measured = {"held_out_map50": round(told["map50"], 4)} if held_out is check else {}
    return {
        **_library(told), "pretrained": False, **counts, **measured, "epochs": settings.epochs,
        "batch_size": settings.batch_size, "image_size": settings.image_size, "seed": settings.seed, "threads": threads,
    }  # fmt: skip


def load_yolo(job: Job, path: Path, settings: YoloSettings) -> Detector:
    """A detector from the user's own weights: a ``.pt`` file of ultralytics (any of its detectors), used at its training size.

    The file is read without running code that it may contain.

    Raises:
        PreflightError: ultralytics is not installed, or the file is not there or not one of its detectors.
        UsageError: the file knows several classes and ``settings.classes`` names none, or names one that it does not know.
    """
    _require()
    if path.suffix != ".pt" or not path.is_file():
        raise PreflightError(f"{path}: no such file of ultralytics weights (.pt).")
    full = path.resolve()

    def make(folder: Path) -> Mapping[str, Any]:
        with YoloProcess(folder.resolve(), "load.log", torch.get_num_threads()) as child:
            try:
                told = child.ask(f"loading {path}", task="describe", weights=str(full))
            except BenchError as error:
                raise PreflightError(f"{path} cannot be used as ultralytics weights. {error}") from error
        if told["task"] != "detect":
            raise PreflightError(f"{path} is an ultralytics model for the task '{told['task']}', not a detector.")
        return {**_library(told), "classes": told["classes"], "image_size": told["image_size"]}

    inputs = {"version": VERSION, "ultralytics": library_version(), "file": file_digest(full)}
    folder, facts = job.fits.folder("yolo-weights", inputs, make)
    known = list(facts["classes"])
    for name in settings.classes:
        if name not in known:
            raise UsageError(f"{path} knows no class '{name}'. It knows {len(known)}: {', '.join(known[:20])}.")
    if len(known) > 1 and not settings.classes:
        raise UsageError(f"{path} knows {len(known)} classes ({', '.join(known[:20])}): name those that count as lesions (classes).")
    counted = tuple(known.index(name) for name in settings.classes) if len(known) > 1 else ()
    told = {**facts, "file": path.name, "counted": list(settings.classes or known)}
    return YoloDetector(full, folder, told, settings, int(facts["image_size"]) or settings.image_size, counted, job.device)


class YoloDetector:
    """A trained YOLO; see `Detector`.

    Args:
        weights: ``.pt`` file.
        folder: where its working folder and log are kept.
        facts: with ``weights_id``, the hash of its weights.
        settings: thresholds.
        size: side that images are resized to.
        classes: indices of the classes that count; empty for all.
        device: where it computes.

    Attributes:
        id: hash of the weights and of all that the boxes they give depend on, ultralytics' version among it.
    """

    def __init__(
        self, weights: Path, folder: Path, facts: Mapping[str, Any], settings: YoloSettings, size: int,
        classes: tuple[int, ...], device: torch.device,
    ) -> None:  # fmt: skip
        self.weights, self.folder, self.device, self.batch_size = weights, folder.resolve(), device, settings.batch_size
        self.arguments = {
            "imgsz": size, "conf": LEAST, "iou": settings.nms_iou, "max_det": settings.max_detections,
            "classes": list(classes) or None, "agnostic_nms": False,
        }  # fmt: skip
        self.id = digest([VERSION, library_version(), facts["weights_id"], self.arguments], size=16)
        self.facts = {**facts, "nms_iou": settings.nms_iou, "max_detections": settings.max_detections}

    def detect(self, images: FloatImage) -> list[Detections]:
        """Everything found in n x S x S images in [0, 1] (which become 8 bits, as those it learnt from); see `Detector.detect`.

        Raises:
            BenchError: the process failed; the message has the reason and names the log.
        """
        if images.ndim != 3 or images.shape[1] != images.shape[2]:
            raise ValueError(f"images must be n x S x S, not {' x '.join(map(str, images.shape))}")
        if not len(images):
            return []
        child = serving(self.folder, torch.get_num_threads())
        stored, found = child.work / "images.npy", child.work / "found.npz"
        np.save(stored, np.round(np.clip(images, 0, 1) * 255).astype(np.uint8), allow_pickle=False)
        try:
            child.ask(
                f"detecting with {self.weights.name}", task="detect", weights=str(self.weights), images=str(stored),
                output=str(found), batch_size=self.batch_size,
                arguments={
                    **self.arguments, "device": _device(self.device), "verbose": False, "save": False,
                    "project": str(child.work), "name": "detect", "exist_ok": True,
                },
            )  # fmt: skip
            with np.load(found, allow_pickle=False) as table:
                return _by_image(table["boxes"], table["scores"], table["image"], len(images))
        finally:
            stored.unlink(missing_ok=True)
            found.unlink(missing_ok=True)


def _by_image(
    boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], image: npt.NDArray[np.int64], n: int
) -> list[Detections]:
    order = np.lexsort((-scores, image))
    order = order[(boxes[order, 2:] > 0).all(axis=1)]  # clipping to the image may leave nothing of a box
    starts = np.searchsorted(image[order], np.arange(1, n))
    return [Detections(boxes[r].astype(np.float32), scores[r].astype(np.float32)) for r in np.split(order, starts)]


def _device(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else str(device.index or 0)


def _require() -> None:
    problem = missing_yolo()
    if problem:
        raise PreflightError(problem)


def _library(told: Mapping[str, Any]) -> dict[str, Any]:
    name = str(told["architecture"])
    named = f"{name}u (anchor-free)" if name.startswith("yolov5") else name
    return {
        "library": f"ultralytics {told['version']}", "licence": LICENCE, "architecture": named or "not named in the file",
        "parameters": told["parameters"], "weights_id": told["weights_id"],
    }  # fmt: skip


def _first(chosen: Sequence[Annotated], n: int) -> list[Annotated]:
    """The first `n` images."""
    found: list[Annotated] = []
    for images, rows in chosen:
        found.append((images, rows[: n - sum(len(r) for _, r in found)]))
    return found


def _write(data: Path, split: str, chosen: Sequence[Annotated]) -> dict[str, int]:
    """One PNG (8 bits, grey) and one label file an image, in ultralytics' layout; returns numbers of images and boxes."""
    pictures, labels = data / "images" / split, data / "labels" / split
    for folder in (pictures, labels):
        folder.mkdir(parents=True)
    n = boxes = empty = 0
    for images, rows in chosen:
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            for row, pixels in zip(some, images.bytes(some), strict=True):
                lines = _labels(images.items[row], images)
                Image.fromarray(pixels).save(pictures / f"{n:06d}.png", compress_level=1)
                (labels / f"{n:06d}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
                n, boxes, empty = n + 1, boxes + len(lines), empty + (not lines)
    return {"images": n, "boxes": boxes, "images_without_boxes": empty}


def _labels(item: Item, images: ImageSet) -> list[str]:
    """``class x-centre y-centre width height`` in parts of the side, clipped to the image, one line a box."""
    if item.boxes is None:
        raise ValueError(f"{images.name}: {item.image_id} has no known boxes")
    size, lines = images.size, []
    for box in item.boxes:
        x, y, width, height = box
        left, top, right, bottom = max(0.0, x), max(0.0, y), min(float(size), x + width), min(float(size), y + height)
        if not (all(map(math.isfinite, box)) and left < right and top < bottom):
            raise DataError(
                f"{images.name}: image {item.image_id} has a box {tuple(round(v, 2) for v in box)} (x, y, width, height) with no "
                f"area inside its {size} x {size} pixels. Correct it in the dataset's annotations, or leave the image out."
            )
        numbers = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        lines.append(" ".join(["0", *(f"{v / size:.6f}" for v in numbers)]))
    return lines


def _description(data: Path) -> Path:
    """The file that tells ultralytics where everything is. JSON is YAML, too."""
    path = data / "data.yaml"
    path.write_text(
        json.dumps({"path": str(data), "train": "images/train", "val": "images/val", "names": ["opacity"]}), encoding="utf-8"
    )
    return path
