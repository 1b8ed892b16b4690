"""What each stage of a run does. Every stage ends by writing the file that marks it done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bench import records, sources, tracking
from bench.batches import LabelledBatches, TranslationBatches
from bench.contracts import Method
from bench.data.contract import CLEAR, OPACITY
from bench.data.imageset import ImageSet
from bench.data.load import Dataset
from bench.data.sampling import Augment
from bench.device import world
from bench.engine import (
    FitResult,
    fit,
    latest_checkpoint,
    load_weights,
    parameter_count,
    precision_of,
    save_tensors,
    write_result,
)  # fmt: skip
from bench.errors import BenchError
from bench.experiment import Experiment, method_config
from bench.figures import translation_grid
from bench.files import file_digest, read_json, write_json
from bench.prior import AbsentPrior, DensePrior, PriorTraining, build, from_file
from bench.progress import Progress, warn
from bench.tracking import backends
from bench.tracking.images import IMAGES, SampleHook, interval
from bench.translations import load_set, translate_set

CHANNELS = 1
#: The finding classifier among what is trained once for all methods.
PRIOR = "prior"


def build_data(dataset: Dataset, split: str, size: int, domains: tuple[str, ...]) -> None:
    """Decode a split into the cache."""
    dataset.split(split, size, domains)
    for image_id, why in dataset.left_out(split, size, domains).items():
        warn(f"{dataset.name}: {image_id} is left out: {why}")


def _augment(experiment: Experiment) -> Augment:
    return Augment(min_crop=experiment.data.min_crop, rotation=experiment.data.rotate)


def _backends(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """The visualizer back-ends of the run for a training in a folder, of the first process only."""
    if "tensorboard" not in experiment.spec.options.trackers:
        return []
    if find_spec("tensorboard") is None:
        raise BenchError("--tracker tensorboard: the package is not installed. pip install tensorboard, or leave the flag out.")
    if _quiet():
        return []
    guarded, resumed = partial(tracking.of(experiment).guarded, strict=True), latest_checkpoint(folder)
    return [{"type": backends.TrackedTensorboardVisBackend, "guarded": guarded, "resumed": resumed[1] if resumed else None}]


def _run_backends(experiment: Experiment, name: str, seed: int, stage: str, offset: int, folder: Path) -> list[dict[str, Any]]:
    """`_backends` of a method's stage that begins after `offset` iterations, with that of its W&B run."""
    tracker = tracking.of(experiment)
    own = {
        "type": backends.NAME, "start": lambda: tracker.open(tracker.method(name, seed)), "guarded": tracker.guarded,
        "curve": tracking.Curve(stage, offset, folder / "log.jsonl"), "pictures": not tracker.gate.closed(tracker.gate.learnt()),
    }  # fmt: skip
    return [*_backends(experiment, folder), *([own] if tracker.on else [])]


def shared_backends(experiment: Experiment, stage: str, folder: Path) -> list[dict[str, Any]]:
    """`_backends` of something that is trained once for all methods, with that of their shared W&B run."""
    tracker = tracking.of(experiment)
    own = {
        "type": backends.NAME, "start": lambda: tracker.open(tracker.shared()), "guarded": tracker.guarded,
        "curve": tracking.Curve(stage, None, folder / "log.jsonl"),
    }  # fmt: skip
    return [*_backends(experiment, folder), *([own] if tracker.on else [])]


def _samples(experiment: Experiment, iterations: int) -> list[SampleHook]:
    """The hook that makes pictures of a training; none where nobody looks at them, or where its images stay here."""
    options, tracker = experiment.spec.options, tracking.of(experiment)
    every = interval(options.image_interval, iterations)
    if _quiet() or not every or not (tracker.on or options.trackers):
        return []
    if closed := tracker.gate.closed(tracker.gate.learnt()):
        tracker.tell(f"no pictures of trainings: images of {', '.join(closed)} stay out of trackers")
        return []
    images, size = experiment.train_set(OPACITY), experiment.data.size

    def first() -> torch.Tensor:
        rows = list(range(min(IMAGES, len(images))))
        pixels = torch.from_numpy(images.pixels(rows)[:, None]) * 2 - 1
        return pixels if images.size == size else torch.nn.functional.interpolate(pixels, size, mode="area")

    return [SampleHook(first, every)]


def _quiet() -> bool:
    return world()[0] != 0


# -- prior -----------------------------------------------------------------------------------------------------------------


def prior_folder(experiment: Experiment, key: str) -> Path:
    """Where a prior lies: shared by all methods and runs with the same data."""
    return experiment.spec.options.cache / "prior" / key


def make_prior(experiment: Experiment, key: str) -> None:
    """Load the prior from its file, or train it on the labels at hand, and keep it in the cache.

    One process does it alone: the classifier's batch statistics are those of the whole batch however many processes wait.
    """
    folder, config = prior_folder(experiment, key), experiment.spec.config.prior
    folder.mkdir(parents=True, exist_ok=True)
    if config.weights:
        path = experiment.prior_file()
        prior = from_file(config, path, key)
        save_tensors(folder / "weights.pth", prior.net.state_dict())
        facts: dict[str, Any] = {"trained_by": f"file {path.name}"}
    else:
        prior, facts = _train_prior(experiment, folder, key)
    write_json(
        folder / "prior.json",
        {
            "key": key, "weights_id": file_digest(folder / "weights.pth"), "arch": prior.arch, "size": prior.size,
            "findings": list(prior.findings), "scaling": prior.scaling,
            "parameters": sum(p.numel() for p in prior.parameters()), **facts,
        },
    )  # fmt: skip


def _train_prior(experiment: Experiment, folder: Path, key: str) -> tuple[DensePrior, dict[str, Any]]:
    config, findings = experiment.spec.config.prior, experiment.prior_findings()
    sets = [experiment.images(*key) for key in experiment.prior_images() if key[1] == "train"]
    torch.manual_seed(experiment.seed)
    prior = build(config, findings)
    settings = experiment.prior_settings()
    batches = LabelledBatches(sets, findings, experiment.seed, config.batch_size, config.size, _augment(experiment))
    result = fit(
        PriorTraining(prior, config.lr), batches, settings, folder / "train", "train", experiment.seed, f"prior-{key}",
        experiment.device, Progress("prior", _quiet()), experiment.spec.options.log_interval,
        shared_backends(experiment, PRIOR, folder / "train"), distributed=False,
    )  # fmt: skip
    save_tensors(folder / "weights.pth", prior.net.state_dict())
    held_out = [experiment.images(*key) for key in experiment.prior_images() if key[1] == "val"]
    auroc = prior_auroc(prior.to(experiment.device).eval(), held_out, experiment.device)
    facts = {
        "trained_by": "harness",
        "datasets": experiment.prior_names,
        "n_train": len(batches.source),
        "n_val": sum(len(s) for s in held_out),
        "val_auroc": auroc,
        "train_loss": result.losses,
        "warnings": result.warnings,
        "cost": result.cost,
    }
    for text in result.warnings:
        warn(f"prior: {text}")
    return prior, facts


def prior_auroc(prior: DensePrior, sets: list[ImageSet], device: torch.device) -> dict[str, float | None]:
    """AUROC of every finding on labelled images; None where one of the classes is missing."""
    from sklearn.metrics import roc_auc_score

    labels = [item.findings or {} for images in sets for item in images.items]
    output = [values for images in sets for values in _classified(prior, images, device)]
    found: dict[str, float | None] = {}
    for column, finding in enumerate(prior.findings):
        known = [i for i, each in enumerate(labels) if each.get(finding) is not None]
        truth, score = [labels[i][finding] for i in known], [output[i][column] for i in known]
        found[finding] = float(roc_auc_score(truth, score)) if len(set(truth)) == 2 else None
    return found


def _classified(prior: DensePrior, images: ImageSet, device: torch.device) -> Iterator[list[float]]:
    """The probabilities of the prior's findings in each image of a set."""
    for start in range(0, len(images), 64):
        rows = list(range(start, min(start + 64, len(images))))
        with torch.inference_mode():
            pixels = torch.from_numpy(images.pixels(rows)[:, None]).to(device) * 2 - 1
            output = prior.classify(prior.features(pixels)).cpu().tolist()
        yield from output


def prior_identity(experiment: Experiment) -> str:
    """Recipe and weights of the run's prior: what is computed with it must not outlive either."""
    facts = read_json(prior_folder(experiment, experiment.prior_key()) / "prior.json")
    return f"{facts['key']}-{facts['weights_id'][:8]}"


def load_prior(experiment: Experiment) -> DensePrior:
    """The run's prior, on its device, frozen."""
    key = experiment.prior_key()
    folder = prior_folder(experiment, key)
    facts = read_json(folder / "prior.json")
    prior = DensePrior(facts["arch"], tuple(facts["findings"]), facts["size"], facts["scaling"], key)
    load_weights(prior.net, folder / "weights.pth")
    return prior.to(experiment.device).eval().requires_grad_(False)


# -- train -----------------------------------------------------------------------------------------------------------------


def build_method(experiment: Experiment, name: str, seed: int) -> Method:
    """A method with its initial weights, a function of the seed."""
    cls, config = method_config(experiment.spec.config, name)
    prior = load_prior(experiment) if "prior" in cls.requires(config) else None
    torch.manual_seed(seed)
    return cls(config, CHANNELS, prior)


def rehearse(experiment: Experiment, name: str) -> None:
    """Build a method at the run's size, begin its stages and translate two blank images each way, all on the CPU.

    Raises:
        BenchError: the configuration and the image size do not go together; the message says what failed.
    """
    cls, config = method_config(experiment.spec.config, name)
    size, settings = experiment.data.size, experiment.train_config(name)
    try:
        method = cls(config, CHANNELS, AbsentPrior() if "prior" in cls.requires(config) else None)
        for stage in cls.schedule(config, settings.iterations, settings.batch_size):
            method.begin(stage)
            method.optimizers()
        with torch.inference_mode():
            for direction in cls.directions:
                method.eval().translate(torch.zeros(2, CHANNELS, size, size), direction, [0, 1])
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise BenchError(f"method '{name}' does not work at data.size={size} with its configuration: {first}") from error


def _describe(experiment: Experiment, name: str, seed: int) -> None:
    """Write what a result folder holds, and close the folder to others where its images may not leave their owner."""
    folder = experiment.folder(name, seed)
    write_json(folder / "config.json", experiment.describe(name, seed))
    write_json(folder / "split.json", experiment.splits())
    if experiment.policy() == "credentialed":
        folder.chmod(0o700)
        experiment.spec.options.cache.chmod(0o700)


def train(experiment: Experiment, name: str, seed: int) -> None:
    """Train a method, stage by stage, resuming where an earlier attempt stopped."""
    folder, settings = experiment.folder(name, seed), experiment.train_config(name)
    cls, config = method_config(experiment.spec.config, name)
    rank, processes = world()
    if rank == 0:
        _describe(experiment, name, seed)
    method = build_method(experiment, name, seed)
    key = experiment.train_key(name, seed)
    results: dict[str, FitResult] = {}
    budgets: dict[str, dict[str, Any]] = {}
    schedule = cls.schedule(config, settings.iterations, settings.batch_size)
    passed = 0
    for stage, (iterations, size) in schedule.items():
        batches = TranslationBatches(
            experiment.train_set(OPACITY), experiment.train_set(CLEAR), seed, size, experiment.data.size,
            _augment(experiment), CHANNELS, rank, processes, "lung_mask" in cls.requires(config),
        )  # fmt: skip
        results[stage] = fit(
            method, batches, replace(settings, iterations=iterations, batch_size=size), folder / "train" / stage, stage, seed,
            f"{name}-{key}-{stage}", experiment.device,
            Progress(f"train {name}" + (f" ({stage})" if len(cls.stages) > 1 else ""), _quiet()),
            experiment.spec.options.log_interval,
            _run_backends(experiment, name, seed, stage, passed, folder / "train" / stage),
            last=stage == [*schedule][-1], hooks=_samples(experiment, iterations) if stage == [*schedule][-1] else (),
        )  # fmt: skip
        passed += iterations
        budgets[stage] = {"iterations": iterations, "batch_size": size, "seconds": results[stage].cost["seconds"]}
    if rank:
        return
    last = results[[*schedule][-1]]
    warnings = [f"{s}: {text}" if len(results) > 1 else text for s, result in results.items() for text in result.warnings]
    for text in warnings:
        warn(f"{name}: {text}")
    extra = {
        "warnings": warnings,
        "weights": str(last.weights.relative_to(folder)),
        "iterations": settings.iterations,
        "stages": budgets,
        "images_seen": sum(cls.images_seen(config, s, b["iterations"], b["batch_size"]) for s, b in budgets.items()),
        "parameters": parameter_count(method),
        "precision": settings.precision,
        "processes": processes,
        "device": records.device_report(experiment.device),
        "seconds": sum(r.cost["seconds"] for r in results.values()),
        "gpu_seconds": sum(r.cost["gpu_seconds"] for r in results.values()),
        "finished": records.now(),
    }
    write_result(folder / "train.json", key, last, extra)


def trained_method(experiment: Experiment, name: str, seed: int) -> Method:
    """A method with the weights that translation uses."""
    cls, _ = method_config(experiment.spec.config, name)
    method = build_method(experiment, name, seed)
    if cls.stages:
        folder = experiment.folder(name, seed)
        load_weights(method, folder / read_json(folder / "train.json")["weights"])
    return method


# -- translate -------------------------------------------------------------------------------------------------------------


def translated_folder(folder: Path, test: str, key: str, direction: str = "a2b") -> Path:
    """Where a method's translation of a test set lies."""
    return folder / "translated" / (f"{test}-{key[:8]}" if direction == "a2b" else f"{test}-{direction}-{key[:8]}")


def translate(experiment: Experiment, name: str, seed: int, test: str, direction: str = "a2b", anew: bool = False) -> None:
    """Translate a test set (``b2a``: its clear images, to opacity) and draw the picture of its first cases.

    Args:
        experiment, name, seed, test, direction: what to translate with what.
        anew: the images are there and made again; the old ones stay until all new ones are there.
    """
    cls, _ = method_config(experiment.spec.config, name)
    folder = experiment.folder(name, seed)
    _describe(experiment, name, seed)
    key = experiment.translate_key(experiment.train_key(name, seed), test, direction)
    source = experiment.test_set(test) if direction == "a2b" else experiment.test_set(test).where(CLEAR)
    target = translated_folder(folder, test, key, direction)
    method = trained_method(experiment, name, seed)
    weights_id = read_json(folder / "train.json")["weights_id"] if cls.stages else ""
    backwards = "" if direction == "a2b" else " (clear to opacity)"
    made = folder / ".translating" / target.name if anew else target
    if anew:
        shutil.rmtree(made.parent, ignore_errors=True)  # what a killed attempt left
    with precision_of(experiment.train_config(name)):
        translate_set(
            method, source, made, key, seed, experiment.device, Progress(f"translate {test} with {name}{backwards}", _quiet()),
            weights_id=weights_id, direction=direction,
        )  # fmt: skip
    if anew:
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        made.replace(target)
        shutil.rmtree(made.parent, ignore_errors=True)
    if cls.stages:
        title = f"{name} on {test}{backwards} (first cases in order)"
        translation_grid(source, load_set(target, source), picture(folder, test, key, direction), title)
    if direction == "a2b":  # now, so that a run that is killed later leaves what figures need of what it finished
        sources.keep_all(experiment, [test])


def picture(folder: Path, test: str, key: str, direction: str = "a2b") -> Path:
    """Where the picture of a translated test set's first cases lies."""
    return folder / "pictures" / (f"{test}-{key[:8]}.png" if direction == "a2b" else f"{test}-{direction}-{key[:8]}.png")


def forget_training(marker: Path) -> None:
    """Remove a training with its checkpoints, from which it would otherwise be resumed."""
    marker.unlink(missing_ok=True)
    shutil.rmtree(marker.parent / "train", ignore_errors=True)
