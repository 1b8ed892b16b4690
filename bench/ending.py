"""What a run leaves besides its results: pictures of several methods, inputs for figures, what trackers are still to get."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench import sources, stages, tracking
from bench.errors import brief
from bench.experiment import BASELINE, Experiment, method_config
from bench.figures import comparison_grid
from bench.files import digest, read_json
from bench.fits import curves_of
from bench.plan import BLOCKED, CACHED, Stage
from bench.progress import warn
from bench.translations import MANIFEST, load_set


def end(experiment: Experiment, plan: list[Stage]) -> list[Path]:
    """Draw, keep and log all that is to be seen of a run; returns the pictures of several methods side by side."""
    pictures = _compare(experiment, plan)
    sources.keep_all(experiment, _translated(experiment, plan))
    _track(experiment, plan)
    return pictures


def _compare(experiment: Experiment, plan: list[Stage]) -> list[Path]:
    """Draw what several methods of a run made of the same images, a picture a test set; those that failed are left out.

    A picture is drawn once for the same images and replaces the one of other images of the same trainings. Where it cannot be
    drawn, the run's results are as good without it.
    """
    pictures: list[Path] = []
    done = {s.marker for s in plan if s.kind == "translate" and s.status in ("done", CACHED)}
    for test in experiment.test_names():
        found = {}
        for name in (n for n in experiment.spec.methods if n != BASELINE):
            seed = experiment.spec.seeds[0] if method_config(experiment.spec.config, name)[0].stages else 0
            key = experiment.translate_key(experiment.train_key(name, seed), test)
            folder = stages.translated_folder(experiment.folder(name, seed), test, key)
            if folder / MANIFEST in done:
                found[name] = (key, folder)
        if len(found) > 1:
            try:
                pictures.append(_draw(experiment, test, found))
                tracking.of(experiment).log_comparison(test, pictures[-1])
            except Exception as error:
                warn(f"{test}: no picture of the methods side by side: {brief(error)}")
    return pictures


def _draw(experiment: Experiment, test: str, found: Mapping[str, tuple[str, Path]]) -> Path:
    """The picture of methods (name -> key and folder of a translation), by what their images are."""
    place, seed = experiment.spec.options.runs / "pictures", experiment.spec.seeds[0]
    who = f"{test}-{digest([[name, key] for name, (key, _) in found.items()])[:8]}"
    path = place / f"{who}-{digest([read_json(folder / MANIFEST)['content'] for _, folder in found.values()])[:8]}.png"
    if not path.is_file():
        place.mkdir(parents=True, exist_ok=True)
        if experiment.policy() == "credentialed":
            place.chmod(0o700)
        source = experiment.test_set(test)
        translated = {name: load_set(folder, source) for name, (_, folder) in found.items()}
        comparison_grid(source, translated, path, f"{test}: the first cases in order, seed {seed}")
        for stale in place.glob(f"{who}-*.png"):
            if stale != path:
                stale.unlink()
    return path


def _translated(experiment: Experiment, plan: list[Stage]) -> list[str]:
    """Test sets of which there is a translation."""
    spec = experiment.spec
    done = {s.key for s in plan if s.kind == "translate" and s.status in ("done", CACHED)}
    trainings = [experiment.train_key(name, seed) for name in spec.methods for seed in spec.seeds]
    trainings.append(experiment.train_key(BASELINE, 0))
    return [t for t in experiment.test_names() if any(experiment.translate_key(key, t) in done for key in trainings)]


def _track(experiment: Experiment, plan: list[Stage]) -> None:
    """Log the scores that were there already, too, and the pictures; end the W&B runs of the methods."""
    tracker = tracking.of(experiment)
    if not tracker.on:
        return
    for stage in plan:
        if stage.kind == "score" and stage.status == CACHED:
            tracker.log_record(stage.marker)
        elif stage.kind in ("prior", "fit") and stage.marker.is_file():
            for title, log in _fitted(stage):
                tracker.log_fit(title, log)
    for name in (n for n in experiment.spec.methods if method_config(experiment.spec.config, n)[0].stages):
        for seed in experiment.spec.seeds:
            for test in experiment.test_names():
                key = experiment.translate_key(experiment.train_key(name, seed), test)
                tracker.log_picture(name, seed, test, stages.picture(experiment.folder(name, seed), test, key))
    tracker.close({s.method for s in plan if s.status in ("failed", BLOCKED)}, keep="leaderboard")


def _fitted(stage: Stage) -> list[tuple[str, Path]]:
    """Name for trackers, and ``log.jsonl``, of each training of a stage that belongs to all methods."""
    if stage.kind == "prior":
        return [(stages.PRIOR, stage.marker.parent / "train" / "log.jsonl")]
    fits = stage.marker.parents[2]
    folders = [fits / f"{model['name']}-{model['key']}" for model in read_json(stage.marker)["models"]]
    return [curve for folder in folders for curve in curves_of(folder)]
