"""The evaluators as the presets `small` and `paper` configure them: full networks at full size, for one step of training."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import job

from bench import config
from bench.contracts import Score
from bench.data.imageset import ImageSet, Item
from bench.experiment import evaluator_config

pytestmark = pytest.mark.slow

#: One step, the fewest images; everything else is the preset's.
BRIEF = {
    "segmentation": ("iterations=1", "batch_size=2", "n_boot=2", "cases=1"),
    "classification": ("iterations=1", "batch_size=2", "folds=2", "n_boot=2"),
    "detection": ("iterations=1", "epochs=1", "batch_size=2", "n_boot=2", "confidence=0.5"),
}
SIZES = {"small": 256, "paper": 512}


def chests(size: int, n: int, name: str) -> ImageSet:
    """Noise with two bright lungs; every other image is an opacity image with a box."""
    rng = np.random.default_rng(len(name))
    mask = np.zeros((n, size, size), np.uint8)
    for columns in (slice(size // 8, 3 * size // 8), slice(5 * size // 8, 7 * size // 8)):
        mask[:, size // 4 : 3 * size // 4, columns] = 1
    image = (rng.integers(0, 60, mask.shape) + 120 * mask).astype(np.uint8)
    quarter = size / 4
    items = [
        Item(f"i{k}", f"{name}{k}", "opacity" if k % 2 else "clear", boxes=((quarter, quarter, quarter, quarter),) if k % 2 else ())
        for k in range(n)
    ]
    return ImageSet(name, items, {"image": image, "lung_mask": mask}, f"{name}-{size}-{n}", lung_convention="heart-excluded")


def brief(preset: str, evaluator: str, *more: str) -> tuple[Any, Any]:
    """An evaluator's class and its configuration by a preset, with a budget of one step."""
    sets = [f"evaluators.{evaluator}.{text}" for text in (*BRIEF[evaluator], *more)]
    resolved = config.load(preset, None, sets)
    assert resolved.data.size == SIZES[preset]
    return evaluator_config(resolved, evaluator)


def scored(preset: str, evaluator: str, folder: Path, *more: str) -> dict[str, Score]:
    """Everything that an evaluator has to say about images that were not changed."""
    cls, params = brief(preset, evaluator, *more)
    source, learn = (chests(SIZES[preset], 4 if name == "learn" else 8, name) for name in ("test", "learn"))
    mask = np.full(source.bytes().shape, 255, np.uint8)
    translated = ImageSet("translated", source.items, {"image": source.bytes(), "mask": mask}, "translated")
    back = source.where("clear")
    found: dict[str, Score] = cls().score(job(folder, translated, params, source, learn=(learn,), check=(learn,), back=back))
    assert set(found) == {m.key for m in cls.metrics(params)}
    return found


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize("arch", ["unet", "pspnet", "cenet", "vgg"])
def test_segmenters(preset: str, arch: str, tmp_path: Path) -> None:
    found = scored(preset, "segmentation", tmp_path, f"archs={arch}")
    assert found["miou"].value is not None and found["miou"].n == 4
    assert found["miou_delta"].value == 0, "nothing was changed"


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize("arch", ["resnet50", "mobilenet", "efficientnet", "densenet"])
def test_classifiers(preset: str, arch: str, tmp_path: Path) -> None:
    found = scored(preset, "classification", tmp_path, f"architectures={arch}")
    rows = [score for key, score in found.items() if key.startswith("auroc")]
    assert rows and all(score.value is not None for score in rows), [score.note for score in rows]


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize("detector", ["yolo", "fcos", "retinanet", "ssdlite"])
def test_detectors(preset: str, detector: str, tmp_path: Path) -> None:
    if detector == "yolo" and importlib.util.find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed")
    found = scored(preset, "detection", tmp_path, f"detector={detector}")
    assert found["map50"].value is not None and found["count_change"].value == 0, "nothing was changed"
