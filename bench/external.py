"""Images from elsewhere: scoring a folder that another program made, and translating a folder of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import learning, pipeline, records, scores, sources, stages
from bench import plan as planning
from bench.config import BenchConfig, DataConfig, TrainConfig, fill, plain
from bench.contracts import Method
from bench.data.contract import FloatImage
from bench.data.geometry import Frame
from bench.data.pixels import decode, is_dicom
from bench.device import choose
from bench.engine import load_weights, set_precision
from bench.errors import BenchError, DataError, PreflightError, UsageError
from bench.experiment import BASELINE, Experiment, RunSpec, evaluator_config, method_config
from bench.files import check_folder, digest, file_digest, lock, write_json
from bench.prior import AbsentPrior
from bench.progress import Progress, say, warn
from bench.registry import DATASETS, METHODS
from bench.translations import load_set, to_bytes, write_manifest, write_png

#: What a row of images made elsewhere may be called: it is a folder's name, too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: What else lies in a results folder.
_TAKEN = {
    "cache": "the folder of decoded images", "pictures": "the folder of pictures of several methods",
    "sources": "the folder of test images", "leaderboard.md": "the leaderboard", "wandb": "the folder of W&B's files",
}  # fmt: skip
_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff")


def score(spec: RunSpec, images: Path, name: str, on: str) -> int:
    """Score translated images that another program made, next to the untranslated images of the same test set.

    File names (without suffix) are image ids of the test set; each image is brought to the run's size like any other. Missing
    and surplus ids are listed: all test images must be there. That, and whether every file can be decoded, is found out before
    anything is trained or scored.

    Returns:
        How many scores failed; the others' records are written.

    Raises:
        UsageError: `name` cannot be a row's name or is a method's, or `on` is no test set.
        PreflightError: images are missing.
        DataError: an image cannot be decoded.
    """
    _check_name(spec, name)
    if not images.is_dir():
        raise UsageError(f"--images {images}: no such folder.")
    experiment = pipeline.open_run(spec)
    test = on or experiment.test_names()[0]
    if test not in experiment.test_names():
        known = DATASETS.knows(test) and test not in experiment.datasets
        remedy = f" Give its folder: --data {test}=PATH." if known else ""
        raise UsageError(f"--on {test}: not a test set of this run ({', '.join(experiment.test_names())}).{remedy}")
    chosen = _needed(experiment, test)
    pipeline.close_to_others(experiment)
    files = _match(images, _ids(experiment, test, chosen), test)
    content = digest([[i, file_digest(p)] for i, p in sorted(files.items())])
    folder = spec.options.runs / name / experiment.train_name / f"external-{content[:8]}"
    with lock(folder / ".lock", wait=False):
        if experiment.policy() == "credentialed":
            folder.chmod(0o700)
        key = experiment.translate_key(content, test)
        target = stages.translated_folder(folder, test, key)
        _import(files, experiment.data.size, target, key)
        set_precision(spec.config.train)
        failed, lost = _prepare(chosen)
        write_json(folder / "config.json", _describe(experiment, name, images, test, content))
        source = experiment.test_set(test)
        sources.keep_all(experiment, [test])
        translated = load_set(target, source)
        identity = {
            "method": name, "method_version": 0, "paper": "", "trained_by": "external", "config_fingerprint": content,
            "method_config": None, "trained_with_prior": False, "warnings": [], "cost": {},
        }  # fmt: skip
        made = scores.Images(
            test=test, translated=translated, seed=experiment.seed, folder=folder, key=key, identity=identity
        )  # fmt: skip
        for evaluator in experiment.evaluators():
            if evaluator in lost:
                scores.lose_images(experiment, made, evaluator, lost[evaluator])
                failed += 1
                continue
            try:
                _score_one(experiment, made, evaluator)
            except PreflightError:
                raise
            except BenchError as error:
                warn(str(error))
                failed += 1
    return failed


def _check_name(spec: RunSpec, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(f"--as {name}: a name of letters, digits, '.', '_' and '-' that starts with a letter or digit.")
    if name in METHODS.names():
        raise UsageError(f"--as {name}: that is a method of this harness; choose another name.")
    if name.lower() in _TAKEN or (spec.options.runs / name).resolve() == spec.options.cache.resolve():
        what = _TAKEN.get(name.lower(), _TAKEN["cache"])
        raise UsageError(f"--as {name}: that is {what}; choose another name.")


def _needed(experiment: Experiment, test: str) -> list[planning.Stage]:
    """What the scores of a test set rest on, of a run's plan: its images, the classifier, the untranslated row.

    Raises:
        PreflightError: something needed is missing.
    """
    plan = planning.plan(experiment)
    key = experiment.translate_key(experiment.train_key(BASELINE, 0), test)
    wanted = [s for s in plan if s.kind == "prior" or s.key == key or any(a.key == key for a in s.after)]
    for stage in wanted:  # grows while it is walked: what they come after, and so on
        wanted += [a for a in stage.after if all(a is not w for w in wanted)]
    chosen = [s for s in plan if any(s is w for w in wanted)]
    if problems := planning.problems(chosen):
        raise PreflightError("\n".join(problems))
    return chosen


def _ids(experiment: Experiment, test: str, chosen: list[planning.Stage]) -> list[str]:
    """The ids of a test set, out of its tables; of one that leaves corrupt images out decoding tells which, and comes first."""
    dataset = experiment.datasets[test]
    if not experiment.data.skip_corrupt:
        return [record.image_id for record in dataset.records("test")]
    index = dataset.place("test", experiment.data.size).index
    if broken := pipeline.walk([s for s in chosen if s.kind == "data" and s.marker == index]).failed:
        raise BenchError(f"nothing scored: {pipeline.why_lost(broken[0])}")
    return experiment.test_set(test).ids


def _prepare(chosen: list[planning.Stage]) -> tuple[int, dict[str, str]]:
    """Make what `_needed` names.

    Returns:
        How many scores of the untranslated images failed, and why for the evaluators that could not be prepared.

    Raises:
        BenchError: the images or the classifier could not be made.
    """
    failed = pipeline.walk(chosen).failed
    if broken := next((s for s in failed if s.kind not in ("fit", "score")), None):
        raise BenchError(f"nothing scored: {broken.kind} of {broken.title} failed.")
    lost = {s.evaluator: pipeline.why_lost(s) for s in failed if s.kind == "fit"}
    return sum(s.kind == "score" for s in failed), lost


def _describe(experiment: Experiment, name: str, images: Path, test: str, content: str) -> dict[str, Any]:
    """What the result folder of images made elsewhere holds, as written to its ``config.json``."""
    spec = experiment.spec
    return {
        "method": name,
        "origin": "external",
        "images": str(images.resolve()),
        "content": content,
        "test": test,
        "test_fingerprint": experiment.identity(test, "test", experiment.data.size),
        "policy": experiment.datasets[test].policy,
        "preset": spec.preset,
        "config": plain(replace(spec.config, methods={})),
        "train_dataset": experiment.train_name,
        "data": {
            n: {"fingerprint": d.manifest.fingerprint, "policy": d.policy, "leaky": d.manifest.leaky}
            for n, d in experiment.datasets.items()
        },
    }


def _score_one(experiment: Experiment, images: scores.Images, evaluator: str) -> None:
    why = learning.why_left_out(experiment, evaluator, images.test)
    if why:
        say(f"left out  {evaluator}: {why}")
        return
    cls, params = evaluator_config(experiment.spec.config, evaluator)
    if missing := cls.missing_assets(params, experiment.spec.options.assets):
        raise PreflightError("\n".join(missing))
    if scores.is_scored(experiment, images, evaluator):
        say(f"kept      {images.identity['method']}: {evaluator} on {images.test}")
        return
    say(f"score     {images.identity['method']}: {evaluator} on {images.test}")
    scores.score_images(experiment, images, evaluator)


def _match(images: Path, ids: Sequence[str], test: str) -> dict[str, Path]:
    """The file of each id, in the order of ids.

    Raises:
        PreflightError: an id has none, or two.
    """
    if (images / "images").is_dir() and ((images / "masks").is_dir() or (images / "translations.json").is_file()):
        images = images / "images"  # a folder that `bench translate` wrote, or a translated set: masks are no images
    wanted, found = set(ids), dict[str, Path]()
    for path in _inputs(images):
        if path.stem in wanted and found.setdefault(path.stem, path) != path:
            raise PreflightError(f"image '{path.stem}' is there twice: {found[path.stem]} and {path}. Remove one.")
        found.setdefault(path.stem, path)
    missing = [i for i in ids if i not in found]
    surplus = sorted(set(found) - wanted)
    if surplus:
        warn(f"{len(surplus)} images belong to no image of {test}/test and are left out: {', '.join(surplus[:5])}")
    if missing:
        raise PreflightError(
            f"{len(missing)} of {len(ids)} images of {test}/test are missing in {images}: {', '.join(missing[:5])}. "
            "Files are named by image id, for example " + f"{ids[0]}.png."
        )
    return {i: found[i] for i in ids}


def _import(files: dict[str, Path], size: int, target: Path, key: str) -> None:
    """Bring images to 8-bit squares of `size` pixels a side, so that all methods' images went through the same steps."""
    for image_id, path in files.items():
        values, _ = decode(path)
        square = Frame(values.shape[0], values.shape[1], size).image(values)
        write_png(target / "images" / f"{image_id}.png", np.round(square * 255).astype(np.uint8))
    write_manifest(target, files, key, external=True)


# -- translate -------------------------------------------------------------------------------------------------------------


def open_method(run: Path, device: torch.device) -> tuple[Method, dict[str, Any]]:
    """The trained method of a run's folder and the run's resolved specification.

    Raises:
        UsageError: the folder is no finished run.
        BenchError: its files are damaged.
    """
    facts = records.run_facts(run)
    if facts["origin"] == "external":
        raise UsageError(f"{run} holds scores of images made elsewhere; there is nothing to translate with.")
    _check_origin(run, facts["method"], facts["origin"])
    config: BenchConfig = replace(BenchConfig(), methods=facts["config"]["methods"])
    cls, resolved = method_config(config, facts["method"])
    method = cls(resolved, stages.CHANNELS, AbsentPrior() if "prior" in cls.requires(resolved) else None)
    if cls.stages:
        load_weights(method, records.run_weights(run))
    return method.to(device).eval(), facts


def _check_origin(run: Path, name: str, origin: str) -> None:
    """Whether the code or the file that a run was trained with is here, as it was then.

    Raises:
        UsageError: it is not here, or a method that is all its file says was trained with another file.
    """
    family, colon, file = name.partition(":")
    of_file = bool(colon) and family in METHODS.families
    if not METHODS.knows(name):
        where = origin.partition("@")[0]
        raise UsageError(
            f"{family} config {file} is not here; run from the folder it was trained in."
            if of_file
            else f"{run} was trained with method '{name}', which is not built in. Name its file: --import {where}."
        )
    if METHODS.origin(name) != origin:
        if of_file:
            raise UsageError(
                f"{file} is not what {run} was trained with ({origin}; now {METHODS.origin(name)}): put the {family} config of that "
                "time back, or train again."
            )
        warn(f"method '{name}' has changed since {run} was trained ({origin}; now {METHODS.origin(name)}).")


def translate(run: Path, source: Path, out: Path, device_name: str) -> int:
    """Translate every DICOM, PNG or JPEG of a folder (or one file) with a trained run.

    Writes ``out/images/<name>.png``, ``out/masks/<name>.png`` (for methods with a mask) and ``out/translations.json`` with the
    geometry of each. Files that cannot be decoded are named and skipped; the exit code is then 1.

    Raises:
        UsageError: no run, nothing to translate, or `out` and `source` lie in each other's way.
    """
    _check_apart(source, out)
    device = choose(device_name)
    method, facts = open_method(run, device)
    size = fill(DataConfig, facts["config"]["data"], "data").size
    set_precision(fill(TrainConfig, facts["config"]["train"], "train"))
    files = list(_inputs(source))
    if not files:
        raise UsageError(f"{source}: no DICOM, PNG or JPEG file there.")
    names = _names(source, files)
    check_folder(out, "--out")
    progress = Progress("translate")
    progress.start(len(files))
    failed, written = 0, {}
    for done, (path, name) in enumerate(zip(files, names, strict=True), 1):
        try:
            values, _ = decode(path)
        except DataError as error:
            warn(f"skipped: {error}")
            failed += 1
        else:
            written[name] = _translate_one(method, values, size, device, out, name)
        progress.advance(done)
    progress.stop()
    write_json(
        out / "translations.json", {"run": facts["train_key"], "method": facts["method"], "size": size, "images": written}
    )
    say(f"{len(written)} images translated to {out / 'images'}" + (f", {failed} skipped" if failed else ""))
    return 1 if failed else 0


def _check_apart(source: Path, out: Path) -> None:
    """Whether what is written stays out of what is read: else the next call would translate translations, or masks.

    Raises:
        UsageError: `out` is the folder of the input or lies in it, or the input lies where images or masks are written.
    """
    read, written = source.resolve(), out.resolve()
    inside = read.is_dir() and written.is_relative_to(read)
    if inside or any(read.is_relative_to(written / kind) for kind in ("images", "masks")):
        where = "lies in the folder that is read" if inside else "would write over the input"
        raise UsageError(f"--out {out}: {where} ({source}). Choose another --out DIR, beside it.")


def _translate_one(
    method: Method, values: FloatImage, size: int, device: torch.device, out: Path, name: str
) -> dict[str, Any]:
    frame = Frame(values.shape[0], values.shape[1], size)
    image = torch.from_numpy(frame.image(values))[None, None].to(device) * 2 - 1
    with torch.inference_mode():
        result = method.translate(image, "a2b", [int(digest(name), 16) >> 1])
    if not torch.isfinite(result.image).all():
        raise BenchError(f"translation of '{name}' holds values that are not finite; the run's weights are damaged.")
    top, left, height, width = frame.content
    for kind, made in (("images", result.image), ("masks", None if result.mask is None else result.mask * 2 - 1)):
        if made is not None:
            write_png(out / kind / f"{name}.png", to_bytes(made)[0][top : top + height, left : left + width])
    return {"native": list(values.shape), "written": [height, width], "mask": result.mask is not None}


def _inputs(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    elif not source.is_dir():
        raise UsageError(f"{source} does not exist.")
    else:
        yield from (p for p in sorted(source.rglob("*")) if p.is_file() and (p.suffix.lower() in _SUFFIXES or is_dicom(p)))


def _names(source: Path, files: list[Path]) -> list[str]:
    """Output names, all different: stems; where stems repeat, relative paths; where these repeat, too, with their suffix.

    Raises:
        UsageError: two files would still get one name.
    """
    if len(files) == 1:
        return [files[0].stem]
    inside = [p.relative_to(source) for p in files]
    paths = ["_".join(p.with_suffix("").parts) for p in inside]
    names = ["_".join([path, p.suffix[1:].lower()]) for path, p in zip(paths, inside, strict=True)]
    for choice in ([p.stem for p in files], paths, names):
        if len(set(choice)) == len(choice):
            return choice
    first: dict[str, Path] = {}
    for name, path in zip(names, files, strict=True):
        if first.setdefault(name, path) != path:
            raise UsageError(
                f"{first[name]} and {path} would both be written to {name}.png. Rename one, or translate them apart."
            )
    return names
