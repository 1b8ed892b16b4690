"""What each stage of a run does. Every stage ends by writing the file that marks it done."""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score

from bench import records
from bench.batches import LabelledBatches, TranslationBatches
from bench.config import plain
from bench.contracts import Method, ScoreJob
from bench.data.contract import CLEAR, OPACITY
from bench.data.imageset import ImageSet
from bench.data.load import Dataset
from bench.data.sampling import Augment
from bench.device import world
from bench.engine import FitResult, fit, load_weights, parameter_count, save_tensors, write_result
from bench.errors import BenchError
from bench.experiment import Experiment, evaluator_config, method_config
from bench.figures import translation_grid
from bench.files import file_digest, read_json, write_json
from bench.prior import AbsentPrior, DensePrior, PriorTraining, build, from_file
from bench.progress import Progress, warn
from bench.registry import EVALUATORS
from bench.translations import load_set, translate_set

CHANNELS = 1


def build_data(dataset: Dataset, split: str, size: int, domains: tuple[str, ...]) -> None:
    """Decode a split into the cache."""
    dataset.split(split, size, domains)
    for image_id, why in dataset.left_out(split, size, domains).items():
        warn(f"{dataset.name}: {image_id} is left out: {why}")


def _augment(experiment: Experiment) -> Augment:
    return Augment(min_crop=experiment.data.min_crop, rotation=experiment.data.rotate)


def _backends(experiment: Experiment) -> list[dict[str, Any]]:
    """The visualizer back-ends of the run, of the first process only."""
    if "tensorboard" in experiment.spec.options.trackers and find_spec("tensorboard") is None:
        raise BenchError("--tracker tensorboard: the package is not installed. pip install tensorboard, or leave the flag out.")
    return [] if _quiet() else [{"type": f"{name.capitalize()}VisBackend"} for name in experiment.spec.options.trackers]


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
        experiment.device, Progress("prior", _quiet()), experiment.spec.options.log_interval, _backends(experiment),
        distributed=False,
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
        "cost": result.cost,
    }
    return prior, facts


def prior_auroc(prior: DensePrior, sets: list[ImageSet], device: torch.device) -> dict[str, float | None]:
    """AUROC of every finding on labelled images; None where one of the classes is missing."""
    truth: dict[str, list[float]] = {f: [] for f in prior.findings}
    score: dict[str, list[float]] = {f: [] for f in prior.findings}
    for images in sets:
        for start in range(0, len(images), 64):
            rows = list(range(start, min(start + 64, len(images))))
            with torch.inference_mode():
                pixels = torch.from_numpy(images.pixels(rows)[:, None]).to(device) * 2 - 1
                output = prior.classify(prior.features(pixels)).cpu().tolist()
            for i, values in zip(rows, output, strict=True):
                for finding, value in zip(prior.findings, values, strict=True):
                    label = (images.items[i].findings or {}).get(finding)
                    if label is not None:
                        truth[finding].append(label)
                        score[finding].append(value)
    return {f: float(roc_auc_score(truth[f], score[f])) if len(set(truth[f])) == 2 else None for f in prior.findings}


def prior_identity(experiment: Experiment) -> str:
    """Recipe and weights of the run's prior: what is computed with it must not outlive either."""
    facts = read_json(prior_folder(experiment, experiment.prior_key()) / "prior.json")
    return f"{facts['key']}-{facts['weights_id'][:8]}"


def load_prior(experiment: Experiment) -> DensePrior:
    """The run's prior, on its device, frozen."""
    key = experiment.prior_key()
    folder = prior_folder(experiment, key)
    facts = read_json(folder / "prior.json")
    prior = DensePrior(facts["arch"], tuple(facts["findings"]), facts["size"], facts["scaling"], key, facts["trained_by"])
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
    """Build a method at the run's size with its optimizers and translate a blank image, all on the CPU.

    Raises:
        BenchError: the configuration and the image size do not go together; the message says what failed.
    """
    cls, config = method_config(experiment.spec.config, name)
    size = experiment.data.size
    try:
        method = cls(config, CHANNELS, AbsentPrior() if "prior" in cls.requires(config) else None)
        method.optimizers()
        with torch.inference_mode():
            method.eval().translate(torch.zeros(1, CHANNELS, size, size), "a2b", [0])
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
    folder, settings = experiment.folder(name, seed), experiment.spec.config.train
    cls, config = method_config(experiment.spec.config, name)
    rank, processes = world()
    if rank == 0:
        _describe(experiment, name, seed)
    method = build_method(experiment, name, seed)
    batches = TranslationBatches(
        experiment.train_set(OPACITY), experiment.train_set(CLEAR), seed, settings.batch_size, experiment.data.size,
        _augment(experiment), CHANNELS, rank, processes, "lung_mask" in cls.requires(config),
    )  # fmt: skip
    key = experiment.train_key(name, seed)
    results: dict[str, FitResult] = {}
    for stage in cls.stages:
        results[stage] = fit(
            method, batches, settings, folder / "train" / stage, stage, seed, f"{name}-{key}-{stage}", experiment.device,
            Progress(f"train {name}" + (f" ({stage})" if len(cls.stages) > 1 else ""), _quiet()),
            experiment.spec.options.log_interval, _backends(experiment),
        )  # fmt: skip
    if rank:
        return
    last = results[cls.stages[-1]]
    for text in last.warnings:
        warn(f"{name}: {text}")
    extra = {
        "weights": str(last.weights.relative_to(folder)),
        "iterations": settings.iterations,
        "images_seen": settings.iterations * settings.batch_size * len(cls.stages),
        "parameters": parameter_count(method),
        "precision": settings.precision,
        "processes": processes,
        "device": records.device_report(experiment.device),
        "seconds": sum(r.cost["seconds"] for r in results.values()),
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


# -- translate and score ---------------------------------------------------------------------------------------------------


def translated_folder(folder: Path, test: str, key: str) -> Path:
    """Where a method's translation of a test set lies."""
    return folder / "translated" / f"{test}-{key[:8]}"


def translate(experiment: Experiment, name: str, seed: int, test: str) -> None:
    """Translate a test set and draw the picture of its first cases."""
    cls, _ = method_config(experiment.spec.config, name)
    folder = experiment.folder(name, seed)
    _describe(experiment, name, seed)
    key = experiment.translate_key(experiment.train_key(name, seed), test)
    target, source = translated_folder(folder, test, key), experiment.test_set(test)
    method = trained_method(experiment, name, seed)
    weights_id = read_json(folder / "train.json")["weights_id"] if cls.stages else ""
    translate_set(
        method, source, target, key, seed, experiment.device, Progress(f"translate {test} with {name}", _quiet()),
        weights_id=weights_id,
    )  # fmt: skip
    if cls.stages:
        translation_grid(source, load_set(target, source), picture(folder, test, key), f"{name} on {test} (first cases in order)")


def picture(folder: Path, test: str, key: str) -> Path:
    """Where the picture of a translated test set's first cases lies."""
    return folder / "pictures" / f"{test}-{key[:8]}.png"


def score(experiment: Experiment, name: str, seed: int, test: str, evaluator: str) -> None:
    """Score one translated test set with one evaluator and write its record."""
    folder = experiment.folder(name, seed)
    translate_key = experiment.translate_key(experiment.train_key(name, seed), test)
    source = experiment.test_set(test)
    translated = load_set(translated_folder(folder, test, translate_key), source)
    trained = read_json(folder / "train.json") if (folder / "train.json").is_file() else {}
    cls, config = method_config(experiment.spec.config, name)
    identity = {
        "method": name, "method_version": cls.version, "paper": cls.paper, "trained_by": "harness" if cls.stages else "none",
        "config_fingerprint": experiment.recipe_key(name), "trained_with_prior": "prior" in cls.requires(config),
        "warnings": trained.get("warnings", []),
        "cost": {k: trained.get(k) for k in ("iterations", "images_seen", "parameters", "precision", "seconds", "processes")}
        | {"train": trained.get("cost")},
    }  # fmt: skip
    score_images(experiment, translated, source, test, evaluator, seed, identity, folder, translate_key)


def score_name(test: str, evaluator: str, key: str) -> str:
    """File name (without suffix) of a score: configurations stand beside each other, none replaces another."""
    return f"{test}--{evaluator}-{key[:8]}"


def score_images(
    experiment: Experiment,
    translated: ImageSet,
    source: ImageSet,
    test: str,
    evaluator: str,
    seed: int,
    identity: dict[str, Any],
    folder: Path,
    translate_key: str,
) -> None:
    """Score images, whoever made them. A failing evaluator leaves a record that says so, and raises.

    Raises:
        BenchError: the evaluator failed; the others can go on.
    """
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    uses_prior = "prior" in cls.requires(params)
    reference = experiment.reference(test)
    key = experiment.score_key(translate_key, test, evaluator, seed)
    stem = score_name(test, evaluator, key)
    scratch = folder / "scores" / stem
    scratch.mkdir(parents=True, exist_ok=True)
    job = ScoreJob(
        translated=translated, source=source, reference=reference, params=params, seed=seed, device=experiment.device,
        cache=experiment.spec.options.cache, prior=(lambda: load_prior(experiment)) if uses_prior else None,
        prior_id=prior_identity(experiment) if uses_prior else "", assets=experiment.spec.options.assets, scratch=scratch,
    )  # fmt: skip
    metrics = cls.metrics(params)
    record = _record(experiment, source, translated, reference, test, evaluator, seed, identity, uses_prior)
    record |= {
        "key": key,
        "evaluator_version": cls.version, "params": plain(params), "metrics": records.metric_fields(metrics),
    }  # fmt: skip
    target = folder / "records" / f"{stem}.json"
    started = time.monotonic()
    try:
        scores = cls().score(job)
        missing = [m.key for m in metrics if m.key not in scores]
        if missing:
            raise BenchError(f"it returned no score for {', '.join(missing)}; every metric of metrics() needs one.")
    except Exception as error:
        detail = f"{type(error).__name__}: {error}" if not isinstance(error, BenchError) else str(error)
        records.write(target, {**record, "status": "failed", "error": detail, "scores": {}})
        raise BenchError(f"evaluator '{evaluator}' failed on {test} for '{identity['method']}': {detail}") from error
    per_image = records.write_per_image(target.with_suffix(".csv"), scores)
    records.write(
        target,
        {
            **record, "status": "ok", "scores": records.score_fields(scores), "per_image": per_image,
            "score_seconds": time.monotonic() - started,
        },
    )  # fmt: skip


def _record(
    experiment: Experiment,
    source: ImageSet,
    translated: ImageSet,
    reference: ImageSet,
    test: str,
    evaluator: str,
    seed: int,
    identity: dict[str, Any],
    uses_prior: bool,
) -> dict[str, Any]:
    dataset = experiment.datasets[test]
    prior = None
    made = prior_folder(experiment, experiment.prior_key()) / "prior.json" if experiment.needs_prior() else None
    if made and made.is_file():
        facts = read_json(made)
        prior = {"id": facts["key"], **{k: facts[k] for k in ("weights_id", "trained_by", "arch", "findings")}}
        prior["scores_with_it"] = uses_prior
        known = [v for v in facts.get("val_auroc", {}).values() if v is not None]
        prior |= {"val_auroc": sum(known) / len(known) if known else None, "n_val": facts.get("n_val")}
    return {
        **identity,
        "train_dataset": experiment.train_name,
        "dataset": test,
        "dataset_fingerprint": source.fingerprint,
        "reference": f"{experiment.reference_name(test)}/test/clear",
        "reference_fingerprint": reference.fingerprint,
        "translated_content": translated.fingerprint,
        "direction": "a2b",
        "split": "test",
        "split_by": "image (patients unknown: leaky)" if experiment.leaky(test) else "patient",
        "policy": dataset.policy,
        "image_size": source.size,
        "n_translated": len(translated),
        "n_reference": len(reference),
        "seed": seed,
        "split_seed": experiment.seed,
        "preset": experiment.spec.preset,
        "evaluator": evaluator,
        "evaluator_origin": EVALUATORS.origin(evaluator),
        "prior": prior,
        "versions": records.versions(),
        "code": records.code_revision(),
        "device": records.device_report(experiment.device),
        "command": records.command_line(),
        "written": records.now(),
    }


def forget(kind: str, marker: Path) -> None:
    """Remove a stage's result, so that it is made again."""
    marker.unlink(missing_ok=True)
    if kind == "train":
        shutil.rmtree(marker.parent / "train", ignore_errors=True)
    elif kind == "translate":
        shutil.rmtree(marker.parent, ignore_errors=True)
