"""The scoring stages: what evaluators prepare once, and one record for each method, seed, test set and evaluator."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from bench import learning, records, tracking
from bench.config import plain
from bench.contracts import Job, ScoreJob
from bench.data.contract import CLEAR
from bench.data.imageset import ImageSet
from bench.device import world
from bench.errors import BenchError
from bench.experiment import Experiment, evaluator_config, method_config
from bench.files import disk_full, read_json, write_json
from bench.fits import FIT, Fits
from bench.registry import EVALUATORS
from bench.stages import load_prior, prior_folder, prior_identity, shared_backends, translated_folder
from bench.translations import load_set

LEAKY = "image (patients unknown: leaky)"
#: What a record says about the cost of a training.
COST = ("iterations", "images_seen", "parameters", "precision", "seconds", "gpu_seconds", "processes")
#: Settings behind it that a preset gives, beside `COST`'s.
SETTINGS = ("batch_size", "accumulate", "tf32", "ema")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose translation of which test set a score is about, whether its images are there or not.

    Attributes:
        test: name of the test set.
        seed: of the method.
        folder: the run's folder; records and figures go below it.
        key: identity of the translation.
        back_key: identity of that of the clear images; empty where there is none.
        identity: what records say about who made them.
    """

    test: str
    seed: int
    folder: Path
    key: str
    back_key: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Images(Subject):
    """Translated images of a test set, whoever made them.

    Attributes:
        translated: opacity to clear, all images.
        back: clear to opacity, the clear images; None where there are none.
    """

    translated: ImageSet
    back: ImageSet | None = None


def _common(experiment: Experiment, evaluator: str, test: str) -> dict[str, Any]:
    """The part of a job that does not depend on the method."""
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    uses_prior = "prior" in cls.requires(params)
    options = experiment.spec.options
    return {
        "source": experiment.test_set(test),
        "reference": experiment.reference(test),
        "learn": learning.images(experiment, evaluator, test, "train"),
        "check": learning.images(experiment, evaluator, test, "val"),
        "params": params,
        "device": experiment.device,
        "cache": options.cache,
        "fits": Fits(
            options.cache, experiment.device, options.log_interval, world()[0] != 0, learning.owner(experiment, evaluator),
            partial(shared_backends, experiment),
        ),
        "prior": (lambda: load_prior(experiment)) if uses_prior else None,
        "prior_id": prior_identity(experiment) if uses_prior else "",
        "assets": options.assets,
    }


def prepared(experiment: Experiment, evaluator: str, test: str) -> Path:
    """The file that says that an evaluator's models for a test set are there."""
    key = learning.fit_key(experiment, evaluator, test)
    return experiment.spec.options.cache / "fits" / "prepared" / f"{evaluator}-{test}-{key}" / "prepared.json"


def is_prepared(experiment: Experiment, evaluator: str, test: str) -> bool:
    """Whether everything that an evaluator prepared for a test set is there."""
    marker = prepared(experiment, evaluator, test)
    if not marker.is_file():
        return False
    folders = [marker.parent.parent.parent / f"{model['name']}-{model['key']}" for model in read_json(marker)["models"]]
    return all((folder / FIT).is_file() for folder in folders)


def prepare(experiment: Experiment, evaluator: str, test: str) -> None:
    """Train and compute what an evaluator needs for a test set, whatever the method."""
    cls, _ = evaluator_config(experiment.spec.config, evaluator)
    job = Job(seed=experiment.seed, **_common(experiment, evaluator, test))
    cls().prepare(job)
    content = {"key": learning.fit_key(experiment, evaluator, test), "models": _models(job.fits)}
    write_json(prepared(experiment, evaluator, test), content)


def _models(fits: Fits) -> list[dict[str, Any]]:
    return [dict(facts) for _, facts in sorted(fits.used.items())]


def score(experiment: Experiment, name: str, seed: int, test: str, evaluator: str) -> None:
    """Score one translated test set with one evaluator and write its record."""
    score_images(experiment, _images(experiment, name, seed, test, evaluator), evaluator)


def lose(experiment: Experiment, name: str, seed: int, test: str, evaluator: str, why: str) -> None:
    """Write the record of a score that something before it made impossible: tables show that it failed, and why."""
    lose_images(experiment, _subject(experiment, name, seed, test, evaluator), evaluator, why)


def lose_images(experiment: Experiment, subject: Subject, evaluator: str, why: str) -> None:
    """`lose` for whoever made the images, or would have made them."""
    target = subject.folder / "records" / f"{_stem(experiment, subject, evaluator)}.json"
    records.write(target, {**_record(experiment, subject, evaluator), "status": "failed", "error": why, "scores": {}})
    tracking.of(experiment).log_record(target)


def _subject(experiment: Experiment, name: str, seed: int, test: str, evaluator: str) -> Subject:
    """A method's translation of a test set, that of the clear images with it where the evaluator looks at them."""
    folder = experiment.folder(name, seed)
    train_key = experiment.train_key(name, seed)
    key, back_key = (experiment.translate_key(train_key, test, direction) for direction in ("a2b", "b2a"))
    cls, config = method_config(experiment.spec.config, name)
    trained = read_json(folder / "train.json") if (folder / "train.json").is_file() else {}
    identity = {
        "method": name, "method_version": cls.version, "paper": cls.paper, "trained_by": "harness" if cls.stages else "none",
        "config_fingerprint": experiment.recipe_key(name), "method_config": plain(config),
        "trained_with_prior": "prior" in cls.requires(config),
        "warnings": trained.get("warnings", []),
        "cost": {k: trained.get(k) for k in COST}
        | ({setting: getattr(experiment.train_config(name), setting) for setting in SETTINGS} if cls.stages else {})
        | {"train": trained.get("cost")},
    }  # fmt: skip
    back = "b2a" in cls.directions and learning.looks_back(experiment, evaluator, test)
    return Subject(test=test, seed=seed, folder=folder, key=key, back_key=back_key if back else "", identity=identity)


def _images(experiment: Experiment, name: str, seed: int, test: str, evaluator: str) -> Images:
    """The images of `_subject`."""
    about, source = _subject(experiment, name, seed, test, evaluator), experiment.test_set(test)
    back = None
    if about.back_key:
        back = load_set(translated_folder(about.folder, test, about.back_key, "b2a"), source.where(CLEAR))
    translated = load_set(translated_folder(about.folder, test, about.key), source)
    return Images(**{f.name: getattr(about, f.name) for f in fields(Subject)}, translated=translated, back=back)


def score_name(test: str, evaluator: str, key: str) -> str:
    """File name (without suffix) of a score: configurations stand beside each other, none replaces another."""
    return f"{test}--{evaluator}-{key[:8]}"


def _stem(experiment: Experiment, about: Subject, evaluator: str) -> str:
    key = learning.score_key(experiment, about.key, about.back_key, about.test, evaluator, about.seed)
    return score_name(about.test, evaluator, key)


def is_scored(experiment: Experiment, images: Images, evaluator: str) -> bool:
    """Whether the record of these very images is there."""
    key = learning.score_key(experiment, images.key, images.back_key, images.test, evaluator, images.seed)
    path = images.folder / "records" / f"{score_name(images.test, evaluator, key)}.json"
    record = records.parse(path)  # None where it is not there, or cut short: then it is written anew
    facts = record if isinstance(record, dict) else {}
    return facts.get("status") == "ok" and facts.get("translated_content") == images.translated.fingerprint


def score_images(experiment: Experiment, images: Images, evaluator: str) -> None:
    """Score images, whoever made them. A failing evaluator leaves a record that says so, and raises.

    Raises:
        BenchError: the evaluator failed; the others can go on.
        OSError: no space is left, which is not the evaluator's failure: no record says so.
    """
    test, folder = images.test, images.folder
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    stem = _stem(experiment, images, evaluator)
    scratch = folder / "scores" / stem
    scratch.mkdir(parents=True, exist_ok=True)
    job = ScoreJob(
        translated=images.translated, back=images.back, home=test == experiment.train_name, scratch=scratch, seed=images.seed,
        **_common(experiment, evaluator, test),
    )  # fmt: skip
    metrics = cls.metrics(params)
    record = _record(experiment, images, evaluator)
    target = folder / "records" / f"{stem}.json"
    started = time.monotonic()
    try:
        scores = cls().score(job)
        missing = [m.key for m in metrics if m.key not in scores]
        if missing:
            raise BenchError(f"it returned no score for {', '.join(missing)}; every metric of metrics() needs one.")
    except Exception as error:
        if disk_full(error):
            raise
        detail = f"{type(error).__name__}: {error}" if not isinstance(error, BenchError) else str(error)
        records.write(target, {**record, "status": "failed", "error": detail, "scores": {}})
        tracking.of(experiment).log_record(target)
        raise BenchError(f"evaluator '{evaluator}' failed on {test} for '{images.identity['method']}': {detail}") from error
    if job.fits.used and experiment.datasets[test].manifest.leaky:  # folds of these very images may divide a patient
        record["split_by"] = LEAKY
    patients = dict(zip(job.source.ids, job.source.patients, strict=True))
    per_image = records.write_per_image(target.with_suffix(".csv"), scores, patients)
    records.write(
        target,
        {
            **record, "status": "ok", "scores": records.score_fields(scores), "per_image": per_image,
            "models": _models(job.fits), "figures": [str(p.relative_to(folder)) for p in figures(scratch)],
            "score_seconds": time.monotonic() - started,
        },
    )  # fmt: skip
    tracking.of(experiment).log_record(target)


def figures(scratch: Path) -> list[Path]:
    """The figures that an evaluator drew."""
    return sorted(scratch.glob("*.png"))


def _record(experiment: Experiment, about: Subject, evaluator: str) -> dict[str, Any]:
    """All that a record holds whatever comes out; null where there are no images."""
    test, images = about.test, about if isinstance(about, Images) else None
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    source, reference = experiment.test_set(test), experiment.reference(test)
    return {
        "key": learning.score_key(experiment, about.key, about.back_key, test, evaluator, about.seed),
        "evaluator_version": cls.version,
        "params": plain(params),
        "metrics": records.metric_fields(cls.metrics(params)),
        **about.identity,
        "train_dataset": experiment.train_name,
        "dataset": test,
        "dataset_fingerprint": source.fingerprint,
        "reference": f"{experiment.reference_name(test)}/test/clear",
        "reference_fingerprint": reference.fingerprint,
        "translated_content": images.translated.fingerprint if images else None,
        "back_content": images.back.fingerprint if images and images.back else None,
        "direction": "a2b",
        "split": "test",
        "split_by": LEAKY if experiment.leaky(test) else "patient",
        "policy": experiment.datasets[test].policy,
        "train_policy": experiment.policy(experiment.learnt_from()),
        "image_size": source.size,
        "n_translated": len(images.translated) if images else None,
        "n_reference": len(reference),
        "seed": about.seed,
        "split_seed": experiment.seed,
        "preset": experiment.spec.preset,
        "evaluator": evaluator,
        "evaluator_origin": EVALUATORS.origin(evaluator),
        "fit": learning.fit_key(experiment, evaluator, test),
        "prior": _prior(experiment, "prior" in cls.requires(params)),
        "versions": records.versions(),
        "code": records.code_revision(),
        "device": records.device_report(experiment.device),
        "command": records.command_line(),
        "written": records.now(),
    }


def _prior(experiment: Experiment, used: bool) -> dict[str, Any] | None:
    """What a record says about the run's finding classifier; None where it has none (yet). ``val_auroc`` is the mean over those
    findings of which the validation images have both classes, ``findings_scored`` of ``findings``."""
    made = prior_folder(experiment, experiment.prior_key()) / "prior.json" if experiment.needs_prior() else None
    if not made or not made.is_file():
        return None
    facts = read_json(made)
    prior = {"id": facts["key"], **{k: facts[k] for k in ("weights_id", "trained_by", "arch", "findings")}}
    each = facts.get("val_auroc")  # a file of the user's own comes without these, and without what it learnt from
    known = [v for v in (each or {}).values() if v is not None]
    return prior | {
        "datasets": facts.get("datasets"), "n_train": facts.get("n_train"), "n_val": facts.get("n_val"), "scores_with_it": used,
        "val_auroc": sum(known) / len(known) if known else None, "findings_scored": None if each is None else len(known),
    }  # fmt: skip
