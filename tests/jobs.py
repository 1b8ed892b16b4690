"""Jobs for tests of evaluators: what a test does not name has a harmless default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.contracts import Job, ScoreJob
from bench.data.imageset import ImageSet
from bench.fits import Fits

CPU = torch.device("cpu")


def _common(folder: Path, source: ImageSet, params: Any, reference: ImageSet | None, more: dict[str, Any]) -> dict[str, Any]:
    cache = Path(more.pop("cache", folder / "cache"))
    device = more.pop("device", CPU)
    defaults = {
        "source": source, "reference": source.where("clear") if reference is None else reference, "params": params,
        "seed": 0, "device": device, "cache": cache, "fits": Fits(cache, device, quiet=True), "prior": None, "prior_id": "",
        "assets": (),
    }  # fmt: skip
    return {**defaults, **more}


def prepare_job(folder: Path, source: ImageSet, params: Any, *, reference: ImageSet | None = None, **more: Any) -> Job:
    """What `Evaluator.prepare` gets.

    Args:
        folder: of the test (``tmp_path``); the cache is ``folder/cache``.
        source: untranslated test images.
        params: the evaluator's configuration.
        reference: real clear images; by default those of `source`.
        more: any other field of `Job` (``learn``, ``check``, ``seed``, ``cache``, ``prior`` ...).
    """
    return Job(**_common(folder, source, params, reference, more))


def job(
    folder: Path, translated: ImageSet, params: Any, source: ImageSet | None = None, *, reference: ImageSet | None = None,
    **more: Any,
) -> ScoreJob:  # fmt: skip
    """What `Evaluator.score` gets.

    Args:
        folder: as in `prepare_job`; the scratch folder is ``folder/scratch``.
        translated: images to score.
        params: the evaluator's configuration.
        source: untranslated images of the same ids; by default `translated`, as if nothing had been done.
        reference: as in `prepare_job`.
        more: any other field of `ScoreJob` (``back``, ``home``, ``learn`` ...).
    """
    scratch = Path(more.pop("scratch", folder / "scratch"))
    scratch.mkdir(parents=True, exist_ok=True)
    common = _common(folder, translated if source is None else source, params, reference, more)
    return ScoreJob(translated=translated, scratch=scratch, **common)
