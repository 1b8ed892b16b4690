"""The plan of a run: stages, each cached, resumable, to do or blocked. ``--dry-run`` prints it, `bench.pipeline` walks it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import learning, scores, stages
from bench.contracts import Evaluator
from bench.data.contract import DOMAINS, OTHER
from bench.engine import latest_checkpoint
from bench.errors import BenchError, PreflightError
from bench.experiment import BASELINE, Experiment, ImageKey, evaluator_config, method_config
from bench.prior import from_file as load_prior_file

CACHED, TODO, BLOCKED, LEFT_OUT = "cached", "to do", "blocked", "left out"


@dataclass
class Stage:
    """One step of a run.

    Attributes:
        kind: ``data``, ``prior``, ``fit`` (models of evaluators), ``train``, ``translate`` or ``score``.
        title: what it is about.
        key: identity of its result.
        marker: the file whose presence, with this key in it, means that the stage is done.
        work: does it.
        after: stages whose failure makes this one impossible.
        status: ``cached``, ``resume at step N`` (``of STAGE`` where there are several), ``to do``, ``blocked`` or ``left out``.
        reason: why it is blocked or left out, or why it is done again although it was done.
        collective: every process of a distributed run takes part.
        method: the method it belongs to; empty for data and prior.
        shared: lock file of a result that other runs use too; held while the stage works.
        forced: done again although its result is there.
        done: whether its result is there and fits what it was made from; None: when the marker carries the key.
        lose: writes down why its result cannot be had; None where nothing needs to know.
        evaluator: the evaluator that it prepares or scores with; empty for all else.
    """

    kind: str
    title: str
    key: str
    marker: Path
    work: Callable[[], None]
    after: list[Stage] = field(default_factory=list)
    status: str = TODO
    reason: str = ""
    collective: bool = False
    method: str = ""
    shared: Path | None = None
    forced: bool = False
    done: Callable[[], bool] | None = None
    lose: Callable[[str], None] | None = None
    evaluator: str = ""

    def is_done(self) -> bool:
        """Look whether its result is there now."""
        return self.done() if self.done else marked(self.marker, self.key)

    @property
    def runs(self) -> bool:
        """True when there is something to do."""
        return self.status not in (CACHED, BLOCKED, LEFT_OUT)


def marked(marker: Path, key: str) -> bool:
    """True when `marker` is a complete JSON file that carries `key` and no failure."""
    return _facts(marker, key) is not None


def _facts(marker: Path, key: str) -> dict[str, Any] | None:
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("key") != key or content.get("status", "ok") != "ok":
        return None
    return content


def _trained(marker: Path, key: str) -> bool:
    """A training is done when it says so and its weights are there and whole."""
    facts = _facts(marker, key)
    return facts is not None and _whole(_weights(marker, facts))


def _weights(marker: Path, facts: dict[str, Any]) -> Path:
    return marker.parent / str(facts.get("weights", "weights.pth"))


def _whole(weights: Path) -> bool:
    """Whether a file of weights ends as written: a zip archive's directory stands last. Its tensors are checked when loaded."""
    try:
        with zipfile.ZipFile(weights):
            return True
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _translated(manifest: Path, key: str, train: Stage | None) -> bool:
    """A translation is done when it is complete and was made with the weights that are there now."""
    facts = _facts(manifest, key)
    trained = _facts(train.marker, train.key) if train else {}
    return facts is not None and trained is not None and facts.get("weights_id", "") == trained.get("weights_id", "")


def _scored(record: Path, key: str, translate: Stage, back: Stage | None) -> bool:
    """A score is done when its record is there and is about the images that are there now."""
    facts, images = _facts(record, key), _facts(translate.marker, translate.key)
    if facts is None or images is None or facts.get("translated_content") != images.get("content"):
        return False
    reverse = _facts(back.marker, back.key) if back else {"content": None}
    return reverse is not None and facts.get("back_content") == reverse.get("content")


def plan(experiment: Experiment) -> list[Stage]:
    """The stages of an experiment in the order they run. Decodes, computes and changes nothing; see `problems`."""
    result: list[Stage] = []
    data = _data_stages(experiment)
    result += data.values()
    prior = _prior_stage(experiment, data)
    if prior:
        result.append(prior)
    assets = _missing_assets(experiment)
    fits = _fit_stages(experiment, data, prior, assets)
    result += fits.values()
    for name in dict.fromkeys([BASELINE, *experiment.spec.methods]):
        cls, _ = method_config(experiment.spec.config, name)
        for seed in experiment.spec.seeds if cls.stages else (0,):
            result += _method_stages(experiment, name, seed, data, prior, fits)
    _force(experiment, result)
    for fit in fits.values():
        if fit.status in (TODO, BLOCKED) and all(s.status == CACHED for s in result if any(a is fit for a in s.after)):
            fit.status, fit.reason = CACHED, ""  # every score that needs it is there
    for stage in result:
        blocker = next((s for s in stage.after if s.status == BLOCKED), None)
        if blocker and stage.runs:
            stage.status, stage.reason = BLOCKED, f"{blocker.kind} {blocker.title} is blocked"
    return result


def problems(plan: list[Stage]) -> list[str]:
    """Why stages are blocked, each reason once; not those that only wait for another blocked stage."""
    own = [s for s in plan if s.status == BLOCKED and not any(a.status == BLOCKED for a in s.after)]
    return list(dict.fromkeys(s.reason for s in own))


def _blocked(kind: str, title: str, reason: str, method: str = "") -> Stage:
    return Stage(kind, title, "", Path(), lambda: None, status=BLOCKED, reason=reason, method=method)


def _data_stages(experiment: Experiment) -> dict[ImageKey, Stage]:
    found = {}
    for name, split, size, domains in dict.fromkeys([*experiment.image_stages(), *learning.image_stages(experiment)]):
        dataset = experiment.datasets[name]
        place = dataset.place(split, size, domains)
        kind = " of no domain" if domains == (OTHER,) else ""
        stage = Stage(
            "data", f"{name}/{split} at {size} px, {len(place.records)} images{kind}", place.key, place.index,
            lambda d=dataset, s=split, n=size, o=domains: stages.build_data(d, s, n, o),  # type: ignore[misc]
        )  # fmt: skip
        stage.status = CACHED if marked(place.index, place.key) else TODO
        found[name, split, size, domains] = stage
    return found


def _prior_stage(experiment: Experiment, data: dict[ImageKey, Stage]) -> Stage | None:
    if not experiment.needs_prior():
        return None
    try:
        key = experiment.prior_key()
        from_file = bool(experiment.spec.config.prior.weights)
        findings = () if from_file else experiment.prior_findings()
    except BenchError as error:
        return _blocked("prior", "the finding classifier", str(error))
    folder = stages.prior_folder(experiment, key)
    if from_file:
        title = f"file {Path(experiment.spec.config.prior.weights).name}"
    else:
        title = f"{len(findings)} finding{'s' * (len(findings) != 1)}, trained here"
    stage = Stage("prior", title, key, folder / "prior.json", lambda: stages.make_prior(experiment, key))
    stage.shared = folder / ".lock"
    if not from_file:
        stage.after = [data[key] for key in experiment.prior_images()]
    stage.done = lambda: _trained(stage.marker, key)
    stage.status = _training_status(stage, [folder / "train"])
    if from_file and stage.runs:
        try:
            load_prior_file(experiment.spec.config.prior, experiment.prior_file(), key)
        except PreflightError as error:
            return _blocked("prior", title, str(error))
    return stage


def _missing_assets(experiment: Experiment) -> dict[str, list[str]]:
    missing = {}
    for name in experiment.evaluators():
        cls, params = evaluator_config(experiment.spec.config, name)
        missing[name] = cls.missing_assets(params, experiment.spec.options.assets)
    return missing


def _fit_stages(
    experiment: Experiment, data: dict[ImageKey, Stage], prior: Stage | None, assets: dict[str, list[str]]
) -> dict[tuple[str, str], Stage]:
    """What evaluators prepare, by evaluator and test set; of those that prepare nothing only what keeps them from scoring."""
    found = {}
    for evaluator in experiment.evaluators():
        cls, params = evaluator_config(experiment.spec.config, evaluator)
        for test in experiment.test_names():
            title = f"{evaluator} for {test}"
            why = learning.why_left_out(experiment, evaluator, test)
            if why:
                stage = Stage("fit", title, "", Path(), lambda: None, status=LEFT_OUT, reason=why)
            elif assets[evaluator]:
                stage = _blocked("fit", title, "\n".join(assets[evaluator]))
            elif cls.prepare is Evaluator.prepare:
                continue
            else:
                stage = _fit_stage(experiment, evaluator, test, title, data)
                stage.after += [prior] if prior and "prior" in cls.requires(params) else []
            stage.evaluator = evaluator
            found[evaluator, test] = stage
    return found


def _fit_stage(experiment: Experiment, evaluator: str, test: str, title: str, data: dict[ImageKey, Stage]) -> Stage:
    try:
        key, marker = learning.fit_key(experiment, evaluator, test), scores.prepared(experiment, evaluator, test)
    except BenchError as error:
        return _blocked("fit", title, str(error))
    stage = Stage("fit", title, key, marker, lambda: scores.prepare(experiment, evaluator, test))
    stage.shared = marker.parent / ".lock"
    images = [k for split in ("train", "val") for k in learning.image_keys(experiment, evaluator, test, split)]
    stage.after = [data[k] for k in (*images, (test, "test", experiment.data.size, DOMAINS))]
    stage.done = lambda: scores.is_prepared(experiment, evaluator, test)
    stage.status = CACHED if stage.is_done() else TODO
    return stage


def _training_status(stage: Stage, folders: list[Path]) -> str:
    if stage.is_done():
        return CACHED
    if facts := _facts(stage.marker, stage.key):
        stage.reason = f"{_weights(stage.marker, facts)} is damaged or gone"
    for folder in folders:
        found = latest_checkpoint(folder)
        if found:
            stage.reason += " and is written again from the last checkpoint" * bool(stage.reason)
            return f"resume at step {found[1]}" + (f" of {folder.name}" if len(folders) > 1 else "")
    stage.reason += " and is made anew" * bool(stage.reason)
    return TODO


def _method_stages(
    experiment: Experiment,
    name: str,
    seed: int,
    data: dict[ImageKey, Stage],
    prior: Stage | None,
    fits: dict[tuple[str, str], Stage],
) -> list[Stage]:
    cls, config = method_config(experiment.spec.config, name)
    label = name if len(experiment.spec.seeds) == 1 or not cls.stages else f"{name} seed {seed}"
    first = "train" if cls.stages else "translate"
    if "a2b" not in cls.directions:
        why = f"method '{name}' cannot translate opacity to clear (directions: {', '.join(cls.directions)})."
        return [_blocked(first, label, why, name)]
    if "lung_mask" in cls.requires(config) and "lung_mask" not in experiment.datasets[experiment.train_name].planes("train"):
        why = f"method '{name}' needs lung masks; dataset '{experiment.train_name}' has none."
        return [_blocked(first, label, why, name)]
    try:
        train_key = experiment.train_key(name, seed)
        folder = experiment.folder(name, seed)
    except BenchError as error:
        return [_blocked(first, label, str(error), name)]
    found: list[Stage] = []
    train: Stage | None = None
    if cls.stages:
        train = Stage(
            "train", f"{label} on {experiment.train_name}, {experiment.train_config(name).iterations} iterations", train_key,
            folder / "train.json", lambda: stages.train(experiment, name, seed), collective=True,
        )  # fmt: skip
        train.after = [data[experiment.train_name, "train", experiment.data.load_size, DOMAINS]]
        if prior and "prior" in cls.requires(config):
            train.after.append(prior)
        train.done = lambda: _trained(folder / "train.json", train_key)
        train.status = _training_status(train, [folder / "train" / s for s in reversed(cls.stages)])
        found.append(train)
    for test in experiment.test_names():
        forward = _translate_stage(experiment, name, seed, test, "a2b", label, data, train)
        found.append(forward)
        back = None
        if "b2a" in cls.directions and learning.wants_back(experiment, test):
            back = _translate_stage(experiment, name, seed, test, "b2a", label, data, train)
            found.append(back)
        found += _score_stages(experiment, name, seed, test, forward, back, prior, fits, label)
    for stage in found:
        stage.method, stage.shared = name, folder / ".lock" if name == BASELINE else None
    return found


def _translate_stage(
    experiment: Experiment,
    name: str,
    seed: int,
    test: str,
    direction: str,
    label: str,
    data: dict[ImageKey, Stage],
    train: Stage | None,
) -> Stage:
    key = experiment.translate_key(experiment.train_key(name, seed), test, direction)
    marker = stages.translated_folder(experiment.folder(name, seed), test, key, direction) / "manifest.json"
    title = f"{label}: {test}" + ("" if direction == "a2b" else ", clear to opacity")
    stage = Stage("translate", title, key, marker, lambda: stages.translate(experiment, name, seed, test, direction, stage.forced))
    stage.after = [data[test, "test", experiment.data.size, DOMAINS], *([train] if train else [])]
    stage.done = lambda: _translated(marker, key, train)
    stage.status = CACHED if (not train or train.status == CACHED) and stage.is_done() else TODO
    return stage


def _score_stages(
    experiment: Experiment,
    name: str,
    seed: int,
    test: str,
    translate: Stage,
    back: Stage | None,
    prior: Stage | None,
    fits: dict[tuple[str, str], Stage],
    label: str,
) -> list[Stage]:
    found = []
    for evaluator in experiment.evaluators():
        cls, params = evaluator_config(experiment.spec.config, evaluator)
        title, fit = f"{label}: {evaluator} on {test}", fits.get((evaluator, test))
        if fit and fit.status == LEFT_OUT:  # its own line in the plan says so, once for all methods
            continue
        reverse = back if back and learning.looks_back(experiment, evaluator, test) else None
        try:
            key = learning.score_key(experiment, translate.key, reverse.key if reverse else "", test, evaluator, seed)
        except BenchError as error:
            found.append(_blocked("score", title, str(error), name))
            continue
        marker = experiment.folder(name, seed) / "records" / f"{scores.score_name(test, evaluator, key)}.json"
        stage = Stage(
            "score", title, key, marker,
            lambda e=evaluator: scores.score(experiment, name, seed, test, e),  # type: ignore[misc]
        )  # fmt: skip
        stage.evaluator = evaluator
        stage.done = lambda m=marker, k=key, b=reverse: _scored(m, k, translate, b)  # type: ignore[misc]
        stage.lose = lambda why, e=evaluator: scores.lose(experiment, name, seed, test, e, why)  # type: ignore[misc]
        stage.after = [s for s in (translate, reverse, fit) if s]
        stage.after += [prior] if prior and "prior" in cls.requires(params) else []
        if all(s.status == CACHED for s in (translate, reverse) if s) and stage.is_done():
            stage.status = CACHED
        found.append(stage)
    return found


def _force(experiment: Experiment, result: list[Stage]) -> None:
    """Mark the forced stage of the requested methods, and all that follows from it, as to do."""
    order = ["train", "translate", "score"]
    if not experiment.spec.force:
        return
    kinds = order[order.index(experiment.spec.force) :]
    for stage in result:
        if stage.method in experiment.spec.methods and stage.kind in kinds and (stage.runs or stage.status == CACHED):
            stage.status, stage.reason, stage.forced = TODO, "", True
