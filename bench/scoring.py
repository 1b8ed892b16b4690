"""The contract of evaluators: metrics, scores, what they get to see, and the models they have trained once.

An evaluator sees image sets and annotations, never a method. What it learns (a segmenter, a classifier, a detector) it learns
through `Job.fits`, which trains each model once for its inputs and hands it out again ever after.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from bench.assets import Asset, Slot

if TYPE_CHECKING:
    from bench.contracts import Prior
    from bench.data.imageset import ImageSet
    from bench.fits import Fits


@dataclass(frozen=True)
class Metric:
    """A number an evaluator reports. Direction lives here and nowhere else.

    Attributes:
        key: name in records, for example ``fd_cxr``; unique in the evaluator.
        label: heading in tables.
        better: ``lower``, ``higher`` or ``none`` (shown, not ranked).
        unit: ``""``, ``"dB"``, ``"%"``.
        digits: decimals in tables.
        primary: shown in the short leaderboard.
        part: what the number is about where the evaluator has several of a kind (``U-Net``, ``ResNet50 · Mask``); parts are
            the rows of a table of the evaluator's own, with `label` as the column. Empty: a column of the main table.
        shared: the number does not depend on the translated images (a classifier on real images); shown once, not by method.
    """

    key: str
    label: str
    better: str
    unit: str = ""
    digits: int = 3
    primary: bool = False
    part: str = ""
    shared: bool = False


@dataclass(frozen=True)
class Score:
    """One value with its spread.

    Attributes:
        value: None when it could not be computed; `note` then says why.
        n: images (or patients) it rests on.
        std: spread, and `std_over` what it is over (``subsets``, ``images``, ``folds``, ``seeds``).
        ci: 95 % confidence interval.
        note: remark shown with the value.
        per_image: image id -> value, kept beside the record.
        doubt: why the number must not be relied upon (a count from a blind detector); it is shown in grey and never ranked.
        draws: of a squared distance between sets, which has no values by image, the value on each of a fixed series of resamples,
            the same patients for every method; delete-half, so that the standard deviation over draws is that of the value. Two
            methods are compared by the differences of the draws' roots, the distances.
    """

    value: float | None
    n: int
    std: float | None = None
    std_over: str = ""
    ci: tuple[float, float] | None = None
    note: str = ""
    per_image: Mapping[str, float] | None = None
    doubt: str = ""
    draws: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an evaluator gets before any translated image is scored. All of it is real.

    Attributes:
        source: the untranslated test images with their annotations, opacity and clear ones alike (`ImageSet.domains`).
        reference: real clear test images, the target distribution.
        learn: training images that have what the evaluator's models learn from (`Evaluator.learns`), one set a dataset and
            domain; no test patient is among them. Empty where no dataset of the run has any: then models can only be
            cross-fitted on `source`. Their size may differ from that of `source`.
        check: likewise for choosing thresholds: validation images.
        params: the evaluator's configuration (its `Config` dataclass).
        seed: for resampling.
        device: where to compute.
        cache: folder for results that do not depend on the method (real-set features).
        fits: trains models once, and remembers arrays.
        prior: loads the finding classifier, or None where the run has none.
        prior_id: hash of its weights, for cache keys; empty without one.
        assets: folders searched for weight files, in order.
    """

    source: ImageSet
    reference: ImageSet
    learn: tuple[ImageSet, ...] = ()
    check: tuple[ImageSet, ...] = ()
    params: Any
    seed: int
    device: torch.device
    cache: Path
    fits: Fits
    prior: Callable[[], Prior] | None
    prior_id: str
    assets: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreJob(Job):
    """What an evaluator scores. `translated` and `source` have the same ids in the same order, and the same size.

    Attributes:
        translated: images made from `source`, direction opacity to clear; plane ``mask`` where the method has one.
        back: images made from the clear images of `source` (same ids and order as ``source.where("clear")``), direction
            clear to opacity; None where the method cannot, or no evaluator asked for it (`Evaluator.directions`).
        home: whether the translator learnt from (other patients of) this very dataset.
        scratch: folder for this job's own artefacts; PNG files in it are figures and are listed in the record.
    """

    translated: ImageSet
    back: ImageSet | None = None
    home: bool = True
    scratch: Path


class Evaluator:
    """Scores translated images. Decorate subclasses with ``@register_evaluator("name")``.

    Attributes:
        Config: frozen dataclass with its parameters.
        version: bumped whenever numbers could change; part of every key.
        needs: what it cannot do without: ``prior``, planes of the source set (``counterpart``, ``lung_mask``, ``opacity``),
            ``boxes``, ``both domains``, ``images to learn from`` (see `learns`). A test set without them is left out, and the
            plan says so.
        min_images: least number of translated images.
        assets: weight files that some of its configurations need; ``bench assets`` lists them.
    """

    Config: ClassVar[type]
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    min_images: ClassVar[int] = 2
    assets: ClassVar[tuple[Asset, ...]] = ()

    @classmethod
    def requires(cls, params: Any) -> frozenset[str]:
        """What these parameters need out of `needs`."""
        return cls.needs

    @classmethod
    def learns(cls, params: Any) -> str:
        """The annotation that training images need for this evaluator's models: ``lung_mask``, ``boxes``, or empty for none."""
        return ""

    @classmethod
    def directions(cls, params: Any) -> tuple[str, ...]:
        """Translations it looks at: ``a2b``, and ``b2a`` of the clear images where it wants `ScoreJob.back`."""
        return ("a2b",)

    @classmethod
    @abstractmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        """The metrics these parameters report, in table order."""

    @classmethod
    def missing_assets(cls, params: Any, assets: tuple[Path, ...]) -> list[str]:
        """What is not there that these parameters need: weight files and packages, one line each.

        A line says what, where it was searched and how to get it. Whatever is listed blocks the run before any work is done.
        """
        return []

    @classmethod
    def files(cls, params: Any, assets: tuple[Path, ...]) -> tuple[Path, ...]:
        """Files of the user's own that these parameters read (weights); their hashes become part of every key."""
        return ()

    @classmethod
    def slots(cls, params: Any, assets: tuple[Path, ...]) -> tuple[Slot, ...]:
        """Files of the user's own that it can use, given or not; ``bench assets`` lists them."""
        return ()

    @classmethod
    def parts(cls, params: Any) -> tuple[str, ...]:
        """Versions of what it is made of (``("recipe 2", "ultralytics 8.4.190")``) beyond `version`; part of every key."""
        return ()

    def prepare(self, job: Job) -> None:
        """Train and compute what does not depend on any method (through ``job.fits``). Called once a test set, before `score`,
        which finds it done. Evaluators that learn nothing leave it out."""

    @abstractmethod
    def score(self, job: ScoreJob) -> dict[str, Score]:
        """Compute every metric of `metrics`; keys are `Metric.key`."""
