"""Which segmenter may look at which test image: trained on training images, cross-fitted, or the user's own.

No image is ever segmented by a model that learnt from its patient, and no model learns from a translated image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from torch import nn

from bench.assets import locate
from bench.config import TrainConfig, plain
from bench.contracts import Job
from bench.data.contract import MASK_IGNORE, MASK_LUNG
from bench.data.imageset import ImageSet
from bench.errors import DataError, PreflightError
from bench.files import file_digest
from bench.runner import Source
from evaluators.padding import unpadded
from evaluators.segmenter_files import load_encoder, load_segmenter
from evaluators.segmenters import ARCHS, MaskBatches, Segmenter, SegmenterTraining
from evaluators.statistics import IntArray

#: Bumped whenever trained weights could change.
RECIPE = 1
#: Masks read at once.
_CHUNK = 256
#: What is known of an image's mask, see `masked`.
UNMASKED, NO_LUNG, LUNG = range(3)


def versions(trained: bool) -> tuple[str, ...]:
    """What segmenters depend on besides their parameters: the library they are built with and, if any is trained, how."""
    library = "segmentation-models-pytorch"
    return (f"{library} {version(library)}", *((f"segmenter recipe {RECIPE}",) if trained else ()))


@dataclass(frozen=True)
class Learning:
    """One training: what it learns from, and what its model may segment.

    Attributes:
        name: empty, or which fold it is.
        learn: sets and the images of each to learn from.
        rows: images of the test set (with lung) that the model may segment.
    """

    name: str
    learn: tuple[tuple[ImageSet, list[int]], ...]
    rows: IntArray

    @property
    def n(self) -> int:
        """Images learnt from."""
        return sum(len(rows) for _, rows in self.learn)

    @property
    def where(self) -> str:
        """Names of their sets: ``synthetic/train``."""
        return ", ".join(dict.fromkeys(images.name for images, _ in self.learn))


@dataclass(frozen=True)
class Ready:
    """A segmenter that is ready to be used.

    Attributes:
        segmenter: in eval mode, on the job's device.
        id: hash of its weights.
        rows: test images it may segment.
    """

    segmenter: nn.Module
    id: str
    rows: IntArray


def masked(images: ImageSet) -> IntArray:
    """What each image's mask (n,) says inside its padding: `UNMASKED` (nothing is decided), `NO_LUNG`, or `LUNG`."""
    found = np.full(len(images), UNMASKED, dtype=np.int64)
    if "lung_mask" not in images.planes:
        return found
    for start in range(0, len(images), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(images)))
        for row, mask in zip(rows, images.raw(rows, "lung_mask"), strict=True):
            codes = unpadded(images, row, mask)
            found[row] = LUNG if (codes == MASK_LUNG).any() else NO_LUNG if (codes != MASK_IGNORE).any() else UNMASKED
    return found


def with_lung(images: ImageSet) -> list[int]:
    """Images of a set with at least one lung pixel inside their padding."""
    rows: list[int] = np.flatnonzero(masked(images) == LUNG).tolist()
    return rows


class SegmenterEnsemble:
    """Trains, or loads, the segmenters of one job.

    Args:
        job: the evaluator's job; `job.params` is a `SegmentationConfig`.
        version: of the evaluator.

    Attributes:
        masked: of each test image, see `masked`.
        rows: test images with lung.
        trained: architectures that are not the user's own.

    Raises:
        DataError: masks to learn from follow another convention than those to score against.
    """

    def __init__(self, job: Job, version: int) -> None:
        self.job, self.version, self.params = job, version, job.params
        self.masked = masked(job.source)
        self.rows: IntArray = np.flatnonzero(self.masked == LUNG)
        self.trained = [arch for arch in job.params.archs if arch not in job.params.own]

    @cached_property
    def trainings(self) -> tuple[Learning, ...]:
        """How the segmenters are trained; empty where fewer than two patients leave nothing to learn from."""
        source = self.job.source
        learn = tuple((images, rows) for images in self.job.learn if (rows := with_lung(images)))
        for images, _ in learn:
            if images.lung_convention != source.lung_convention:
                raise DataError(
                    f"segmentation: lung masks of {images.name} are {images.lung_convention or 'of no declared convention'}, those "
                    f"of {source.name} {source.lung_convention or 'of no declared convention'}; they cannot be mixed. Run these "
                    "datasets apart, or give segmenters of your own (segmentation.weights)."
                )
        if learn:
            return (Learning("", learn, self.rows),)
        patients = [source.patients[row] for row in self.rows]
        folds = min(self.params.folds, len(set(patients)))
        if folds < 2:
            return ()
        from sklearn.model_selection import GroupKFold

        parts = GroupKFold(folds, shuffle=True, random_state=self.params.model_seed).split(self.rows, groups=patients)
        return tuple(
            Learning(f"-fold{k + 1}of{folds}", ((source, self.rows[learnt].tolist()),), self.rows[tested])
            for k, (learnt, tested) in enumerate(parts)
        )

    def ready(self, arch: str) -> Iterator[Ready]:
        """The segmenters of an architecture, one at a time; together they may segment every test image with lung, once each."""
        if arch in self.params.own:
            yield self._own(arch)
            return
        for training in self.trainings:
            yield self._train(arch, training)

    def _own(self, arch: str) -> Ready:
        path = locate(self.params.own[arch], self.job.assets)
        if path is None:
            raise PreflightError(f"segmentation: weights {arch}={self.params.own[arch]}: there is no such file.")
        segmenter = Segmenter(arch)
        load_segmenter(segmenter, path)
        return Ready(segmenter.to(self.job.device).eval().requires_grad_(False), file_digest(path), self.rows)

    def _train(self, arch: str, training: Learning) -> Ready:
        params, size = self.params, self.job.source.size
        encoder = self._encoder(arch)
        recipe = params.recipe(arch)
        lr = recipe["lr"] or (params.lr_pretrained if encoder else params.lr)

        def build() -> tuple[SegmenterTraining, Source]:
            segmenter = Segmenter(arch)
            if encoder:
                load_encoder(segmenter, encoder)
            model = SegmenterTraining(segmenter, lr, params.weight_decay, params.warmup, params.beta2)
            return model, MaskBatches(training.learn, params.model_seed, recipe["batch_size"], size, params.augment, params.distort)

        settings = TrainConfig(
            iterations=recipe["iterations"], batch_size=recipe["batch_size"], precision=params.precision,
            channels_last=params.channels_last, checkpoint_interval=max(500, recipe["iterations"] // 10),
        )  # fmt: skip
        inputs = {
            "evaluator": "segmentation", "version": self.version, "made_of": versions(True), "arch": arch, "size": size,
            "learn": [[images.fingerprint, rows] for images, rows in training.learn],
            "encoder": file_digest(encoder) if encoder else "", "lr": lr, "weight_decay": params.weight_decay,
            "warmup": params.warmup, "beta2": params.beta2, "augment": plain(params.augment), "distort": plain(params.distort),
        }  # fmt: skip
        facts = {
            "encoder": encoder.name if encoder else "from scratch", "trained_on": training.where, "n": training.n, "size": size,
        }  # fmt: skip
        fitted = self.job.fits.model(f"segmenter-{arch}{training.name}", inputs, build, settings, params.model_seed, facts)
        return Ready(fitted.model.segmenter, fitted.id, training.rows)

    def _encoder(self, arch: str) -> Any:
        given = self.params.encoders.get(ARCHS[arch].encoder)
        if given is None:
            return None
        path = locate(given, self.job.assets)
        if path is None:
            raise PreflightError(f"segmentation: encoder_weights {ARCHS[arch].encoder}={given}: there is no such file.")
        return path

    def story(self) -> str:
        """Where the segmenters come from, for the notes of scores."""
        parts = [f"{ARCHS[arch].title} with weights of the user's own ({path})" for arch, path in self.params.own.items()]
        if self.trained and self.trainings:
            starts = {kind: self.params.encoders.get(kind) for kind in (ARCHS[arch].encoder for arch in self.trained)}
            parts += [f"{kind} encoder from {path}" for kind, path in starts.items() if path]
            if not all(starts.values()):
                parts.append("encoders from scratch" if not any(starts.values()) else "other encoders from scratch")
            first = self.trainings[0]
            parts.append(
                f"trained on {first.n} images of {first.where}" if not first.name
                else f"cross-fitted by patient in {len(self.trainings)} folds of {len(self.rows)} images of {first.where}"
            )  # fmt: skip
        return ", ".join(parts)
