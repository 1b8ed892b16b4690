"""Images from elsewhere: scoring a folder that another program made, and translating a folder of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench import stages
from bench.config import BenchConfig, fill
from bench.contracts import Method
from bench.data.contract import FloatImage
from bench.data.geometry import Frame
from bench.data.imageset import ImageSet
from bench.data.pixels import decode
from bench.device import choose
from bench.engine import load_weights
from bench.errors import BenchError, DataError, PreflightError, UsageError
from bench.experiment import Experiment, RunSpec, method_config, needs_unmet
from bench.files import digest, file_digest, lock, read_json, replace_atomically, write_json
from bench.plan import BLOCKED, _data_stages, _prior_stage
from bench.prior import AbsentPrior
from bench.progress import Progress, say, warn
from bench.registry import METHODS
from bench.translations import _write_png, load_set, to_bytes, write_manifest

_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff")


def score(spec: RunSpec, images: Path, name: str, on: str) -> int:
    """Score translated images that another program made.

    File names (without suffix) are image ids of the test set; each image is brought to the run's size like any other. Missing
    and surplus ids are listed: all test images must be there.

    Returns:
        How many evaluators failed; the others' records are written.

    Raises:
        UsageError: `name` is a method's, or `on` is no test set.
        PreflightError: images are missing.
    """
    if name in METHODS.names():
        raise UsageError(f"--as {name}: that is a method of this harness; choose another name.")
    if not images.is_dir():
        raise UsageError(f"--images {images}: no such folder.")
    experiment = Experiment(spec, choose(spec.options.device))
    test = on or experiment.test_names()[0]
    if test not in experiment.test_names():
        raise UsageError(f"--on {test}: not a test set of this run ({', '.join(experiment.test_names())}).")
    data = _data_stages(experiment)
    prior = _prior_stage(experiment, data)
    if prior and prior.status == BLOCKED:
        raise PreflightError(prior.reason)
    for stage in [*data.values(), *([prior] if prior else [])]:
        if stage.runs:
            say(f"{stage.kind:<9} {stage.title}")
            stage.work()
    source = experiment.test_set(test)
    files = _match(images, source, test)
    content = digest([[i, file_digest(p)] for i, p in sorted(files.items())])
    folder = spec.options.runs / name / experiment.train_name / f"external-{content[:8]}"
    with lock(folder / ".lock", wait=False):
        target = stages.translated_folder(folder, test, content)
        _import(files, source, target, content)
        translated = load_set(target, source)
        identity = {
            "method": name, "method_version": 0, "paper": "", "trained_by": "external", "config_fingerprint": content,
            "warnings": [], "cost": {},
        }  # fmt: skip
        failed = 0
        for evaluator in experiment.evaluators():
            try:
                _score_one(experiment, translated, source, test, evaluator, identity, folder, content)
            except PreflightError:
                raise
            except BenchError as error:
                warn(str(error))
                failed += 1
    return failed


def _score_one(
    experiment: Experiment,
    translated: ImageSet,
    source: ImageSet,
    test: str,
    evaluator: str,
    identity: dict[str, Any],
    folder: Path,
    key: str,
) -> None:
    from bench.experiment import evaluator_config

    cls, params = evaluator_config(experiment.spec.config, evaluator)
    unmet = needs_unmet(cls.requires(params), experiment.datasets[test])
    if unmet:
        say(f"left out  {evaluator}: {test} has no {', '.join(unmet)}")
        return
    missing = cls.missing_assets(params, experiment.spec.options.assets)
    if missing:
        raise PreflightError("\n".join(missing))
    say(f"score     {identity['method']}: {evaluator} on {test}")
    stages.score_images(experiment, translated, source, test, evaluator, experiment.seed, identity, folder, key)


def _match(images: Path, source: ImageSet, test: str) -> dict[str, Path]:
    found = {p.stem: p for p in sorted(images.rglob("*")) if p.suffix.lower() in _SUFFIXES}
    missing = [i for i in source.ids if i not in found]
    surplus = sorted(set(found) - set(source.ids))
    if surplus:
        warn(f"{len(surplus)} images belong to no image of {test}/test and are left out: {', '.join(surplus[:5])}")
    if missing:
        raise PreflightError(
            f"{len(missing)} of {len(source)} images of {test}/test are missing in {images}: {', '.join(missing[:5])}. "
            "Files are named by image id, for example " + f"{source.ids[0]}.png."
        )
    return {i: found[i] for i in source.ids}


def _import(files: dict[str, Path], source: ImageSet, target: Path, key: str) -> None:
    """Bring images to 8-bit squares of the run's size, so that all methods' images went through the same steps."""
    for image_id, path in files.items():
        values, _ = decode(path)
        square = square_frame(values, source.size).image(values)
        _write_png(target / "images" / f"{image_id}.png", np.round(square * 255).astype(np.uint8))
    write_manifest(target, source.ids, key, external=True)


def square_frame(values: FloatImage, size: int) -> Frame:
    """How an image lies in its padded square of `size` pixels."""
    height, width = values.shape
    return Frame(height, width, size)


# -- translate -------------------------------------------------------------------------------------------------------------


def open_method(run: Path, device: torch.device) -> tuple[Method, dict[str, Any]]:
    """The trained method of a run's folder and the run's resolved specification.

    Raises:
        UsageError: the folder is no finished run.
    """
    if not (run / "config.json").is_file():
        raise UsageError(f"{run} is not a run: it has no config.json. Runs look like runs/ours/rsna/seed0-1a2b3c4d.")
    if not (run / "train.json").is_file():
        raise UsageError(f"{run} has no train.json: its training did not finish. Run the same `bench run` command again.")
    facts = read_json(run / "config.json")
    if facts["method"] not in METHODS.names():
        where = facts["origin"].partition("@")[0]
        raise UsageError(f"{run} was trained with method '{facts['method']}', which is not built in. Name its file: --import {where}.")
    config: BenchConfig = replace(BenchConfig(), methods=facts["config"]["methods"])
    cls, resolved = method_config(config, facts["method"])
    method = cls(resolved, stages.CHANNELS, AbsentPrior() if "prior" in cls.requires(resolved) else None)
    load_weights(method, run / read_json(run / "train.json")["weights"])
    return method.to(device).eval(), facts


def translate(run: Path, source: Path, out: Path, device_name: str) -> int:
    """Translate every DICOM, PNG or JPEG of a folder (or one file) with a trained run.

    Writes ``out/images/<name>.png``, ``out/masks/<name>.png`` (for methods with a mask) and ``out/translations.json`` with the
    geometry of each. Files that cannot be decoded are named and skipped; the exit code is then 1.

    Raises:
        UsageError: no run, or nothing to translate.
    """
    device = choose(device_name)
    method, facts = open_method(run, device)
    size = fill_data_size(facts)
    files = list(_inputs(source))
    if not files:
        raise UsageError(f"{source}: no DICOM, PNG or JPEG file there.")
    names = _names(source, files)
    progress = Progress("translate")
    progress.start(len(files))
    failed, written = 0, {}
    for done, (path, name) in enumerate(zip(files, names, strict=True), 1):
        try:
            values, _ = decode(path)
        except DataError as error:
            warn(f"skipped: {error}")
            failed += 1
            continue
        written[name] = _translate_one(method, values, size, device, out, name)
        progress.advance(done)
    progress.stop()
    write_json(
        out / "translations.json", {"run": facts["train_key"], "method": facts["method"], "size": size, "images": written}
    )
    say(f"{len(written)} images translated to {out / 'images'}" + (f", {failed} skipped" if failed else ""))
    return 1 if failed else 0


def fill_data_size(facts: dict[str, Any]) -> int:
    """The image size a run was trained at."""
    from bench.config import DataConfig

    return fill(DataConfig, facts["config"]["data"], "data").size


def _translate_one(
    method: Method, values: FloatImage, size: int, device: torch.device, out: Path, name: str
) -> dict[str, Any]:
    frame = square_frame(values, size)
    image = torch.from_numpy(frame.image(values))[None, None].to(device) * 2 - 1
    with torch.inference_mode():
        result = method.translate(image, "a2b", [int(digest(name), 16) >> 1])
    if not torch.isfinite(result.image).all():
        raise BenchError(f"translation of '{name}' holds values that are not finite; the run's weights are damaged.")
    top, left, height, width = frame.content
    for kind, made in (("images", result.image), ("masks", None if result.mask is None else result.mask * 2 - 1)):
        if made is not None:
            content = to_bytes(made)[0][top : top + height, left : left + width]
            path = out / kind / f"{name}.png"
            replace_atomically(path, lambda t, c=content: Image.fromarray(c).save(t, format="PNG"))  # type: ignore[misc]
    return {"native": list(values.shape), "written": [height, width], "mask": result.mask is not None}


def _inputs(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    elif not source.is_dir():
        raise UsageError(f"{source} does not exist.")
    else:
        yield from (p for p in sorted(source.rglob("*")) if p.suffix.lower() in _SUFFIXES and p.is_file())


def _names(source: Path, files: list[Path]) -> list[str]:
    """Output names: the stem, or the relative path where stems repeat."""
    stems = [p.stem for p in files]
    if len(set(stems)) == len(stems):
        return stems
    return ["_".join(p.relative_to(source).with_suffix("").parts) for p in files]
