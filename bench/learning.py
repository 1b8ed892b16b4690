"""What evaluators learn from, what they cannot do without, and the keys of what they make.

An evaluator's models learn from real, annotated training images of the run: those of the test set's own dataset where it has
any, else of the dataset that methods train on, else of another one. No test patient is among them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.config import plain
from bench.data.contract import CLEAR, DOMAINS, OTHER
from bench.data.imageset import ImageSet
from bench.experiment import Experiment, ImageKey, evaluator_config
from bench.files import digest, file_digest
from bench.registry import EVALUATORS


@lru_cache(maxsize=256)  # it walks the tables, and every score's key asks
def teacher(experiment: Experiment, annotation: str, test: str) -> str:
    """The dataset whose training images have an annotation for the models that judge `test`; empty where there is none.

    Lung masks of another convention (heart included or excluded) do not count.
    """
    convention = experiment.datasets[test].reader.lung_convention
    for name in dict.fromkeys([test, experiment.train_name, *experiment.datasets]):
        dataset = experiment.datasets[name]
        if annotation == "lung_mask" and dataset.reader.lung_convention != convention:
            continue
        if dataset.annotated("train", annotation, _domains(annotation)):
            return name
    return ""


def _domains(annotation: str) -> tuple[str, ...]:
    """Images of no domain (RSNA's third class) teach a detector what is no opacity."""
    return (*DOMAINS, OTHER) if annotation == "boxes" else DOMAINS


def image_keys(experiment: Experiment, evaluator: str, test: str, split: str) -> list[ImageKey]:
    """The sets of images that an evaluator's models for a test set learn from (``train``) or are tuned on (``val``)."""
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    annotation = cls.learns(params)
    name = teacher(experiment, annotation, test) if annotation else ""
    if not name:
        return []
    dataset, size = experiment.datasets[name], experiment.data.load_size
    parts = [DOMAINS, (OTHER,)] if OTHER in _domains(annotation) else [DOMAINS]
    return [(name, split, size, part) for part in parts if dataset.annotated(split, annotation, part)]


def image_stages(experiment: Experiment) -> list[ImageKey]:
    """Every set of images that some evaluator's models learn from or are tuned on."""
    return [
        key
        for test in experiment.test_names()
        for evaluator in experiment.evaluators()
        if not unmet(experiment, evaluator, test)
        for split in ("train", "val")
        for key in image_keys(experiment, evaluator, test, split)
    ]


def images(experiment: Experiment, evaluator: str, test: str, split: str) -> tuple[ImageSet, ...]:
    """The image sets of `image_keys`."""
    return tuple(experiment.images(*key) for key in image_keys(experiment, evaluator, test, split))


def unmet(experiment: Experiment, evaluator: str, test: str) -> list[str]:
    """Which of an evaluator's needs a test set cannot meet."""
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    dataset = experiment.datasets[test]
    have = set(dataset.planes("test")) | {"prior"}
    if dataset.has_boxes("test"):
        have.add("boxes")
    if all(dataset.count("test", domain) for domain in DOMAINS):
        have.add("both domains")
    annotation = cls.learns(params)
    if annotation and teacher(experiment, annotation, test):
        have.add("images to learn from")
    return sorted(set(cls.requires(params)) - have)


def why_left_out(experiment: Experiment, evaluator: str, test: str) -> str:
    """One line on why an evaluator leaves a test set out; empty where it does not."""
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    lacking = unmet(experiment, evaluator, test)
    if "images to learn from" in lacking:
        return f"no dataset of this run has training images with {cls.learns(params).replace('_', ' ')} to learn from"
    if "both domains" in lacking:
        only = next((d for d in DOMAINS if experiment.datasets[test].count("test", d)), "no")
        return f"{test} has {only} images only: one class cannot be learnt or told apart"
    if lacking:
        return f"{test} has no {', '.join(lacking)}"
    count = len(experiment.datasets[test].records("test"))
    return f"{test} has {count} test images; at least {cls.min_images} needed" if count < cls.min_images else ""


def looks_back(experiment: Experiment, evaluator: str, test: str) -> bool:
    """Whether an evaluator looks at clear images of a test set translated to opacity."""
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    wanted = "b2a" in cls.directions(params) and not why_left_out(experiment, evaluator, test)
    return wanted and experiment.datasets[test].count("test", CLEAR) > 0


def wants_back(experiment: Experiment, test: str) -> bool:
    """Whether some evaluator of the suite does."""
    return any(looks_back(experiment, evaluator, test) for evaluator in experiment.evaluators())


def _content(path: Path) -> str:
    """Hash of a file; its name where it is not there, which `Evaluator.missing_assets` tells of."""
    return file_digest(path) if path.is_file() else str(path)


def owner(experiment: Experiment, evaluator: str) -> list[Any]:
    """Whose models and arrays they are; part of their keys."""
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    return [evaluator, EVALUATORS.origin(evaluator), cls.version, list(cls.parts(params))]


@lru_cache(maxsize=256)
def fit_key(experiment: Experiment, evaluator: str, test: str) -> str:
    """Identity of what an evaluator prepares for a test set, whatever the method."""
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    taught = [experiment.identity(*k) for split in ("train", "val") for k in image_keys(experiment, evaluator, test, split)]
    return digest(
        {
            "evaluator": owner(experiment, evaluator),
            "params": plain(params),
            "files": [_content(path) for path in cls.files(params, experiment.spec.options.assets)],
            "learn": taught,
            "augment": [experiment.data.min_crop, experiment.data.size],
            "source": experiment.identity(test, "test", experiment.data.size),
            "reference": experiment.identity(experiment.reference_name(test), "test", experiment.data.size),
            "prior": experiment.prior_key() if "prior" in cls.requires(params) else "",
        }
    )


def score_key(experiment: Experiment, translate_key: str, back_key: str, test: str, evaluator: str, seed: int) -> str:
    """Identity of a score; `back_key` is that of the clear images' translation, empty where the evaluator does not get it."""
    translated: dict[str, Any] = {"translated": translate_key, "back": back_key, "home": test == experiment.train_name}
    return digest({**translated, "fit": fit_key(experiment, evaluator, test), "seed": seed})
