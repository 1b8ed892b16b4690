"""What the classifiers of each data type learn from, and what they are tested on.

Data types (the paper says too little to tell which reading of "Generated" it took):

* ``original``: learns and is tested on real images. Independent of the method, so learnt once for all.
* ``generated``: learns from synthetic images alone (clear images translated to opacity as positives, opacity images
  translated to clear as negatives), is tested on real ones. A method that changes nothing teaches the classes the wrong way
  round and stands below one half.
* ``rvt`` ("real versus translated"): learns to tell real opacity images from their translations; tested on such, and on real
  images of both classes. The former ranks no method: a tint on every translation is told as surely as an opacity that is gone.
* ``mix``: learns from real and synthetic images, is tested on real ones.
* ``mask``: learns and is tested on activation masks, with the class of the image below. The mean of the mask alone is
  reported beside it: a network has to beat one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.assets import locate
from bench.contracts import Job, ScoreJob
from bench.data.contract import CLEAR, OPACITY
from bench.data.imageset import ImageSet
from bench.errors import BenchError
from evaluators.crossfit import Examples, cross_fit, patient_folds
from evaluators.discrimination import Tested
from evaluators.statistics import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

NO_MASK = "no activation mask"
NO_BACK = "the method cannot translate clear to opacity"
NOT_HOME = "the translator learnt on another dataset"


@dataclass(frozen=True)
class Sheet:
    """One test of the classifiers of one data type: a row of the table for each architecture.

    Attributes:
        key: in metric keys.
        label: in tables.
        data: the data type it is learnt from.
        shared: does not depend on the method.
        primary: its mean AUROC belongs to the short leaderboard.
        ranked: whether more is better.
    """

    key: str
    label: str
    data: str
    shared: bool = False
    primary: bool = False
    ranked: bool = True


SHEETS = (
    Sheet("original", "Original", "original", shared=True, ranked=False),
    Sheet("generated", "Generated", "generated", primary=True),
    Sheet("rvt", "Real vs translated", "rvt", ranked=False),
    Sheet("rvt_real", "Real vs translated, on real", "rvt"),
    Sheet("mix", "Original + generated", "mix"),
    Sheet("mask", "Mask", "mask", primary=True),
)
DATA_TYPES = tuple(dict.fromkeys(sheet.data for sheet in SHEETS))
#: Data types that need images translated from clear to opacity.
SYNTHETIC = frozenset({"generated", "mix"})
#: Readings of the paper's "Generated", which it has only where the translator was trained.
AT_HOME = SYNTHETIC | {"rvt"}


class Study:
    """The images of one job as examples for each data type, and the predictions made for them.

    Args:
        job: the evaluator's job; that of `Evaluator.prepare` knows real images only.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        #: Rows of the test set that have one of the two classes, and their class.
        self.rows: IntArray = np.flatnonzero([domain in (OPACITY, CLEAR) for domain in job.source.domains])
        self.label: BoolArray = np.array([job.source.domains[i] == OPACITY for i in self.rows], dtype=bool)
        self.patients = [job.source.patients[i] for i in self.rows]
        self.fold, self.remark = patient_folds(self.label, self.patients, job.params.folds, job.params.model_seed)

    def why_not(self, data: str) -> str:
        """Why nothing can be learnt from a data type; empty where it can."""
        if self.fold is None:
            return self.remark
        if not isinstance(self.job, ScoreJob):
            return "" if data == "original" else "no translated images yet"
        if data == "mask" and "mask" not in self.job.translated.planes:
            return NO_MASK
        if data in AT_HOME and not self.job.home:
            return NOT_HOME
        if data in SYNTHETIC and self.job.back is None:
            return NO_BACK
        return ""

    def examples(self, data: str) -> Examples:
        """The images that classifiers of a data type learn from and are tested on.

        A translated image counts to its patient's fold, as the real one does: a classifier never learns from the translation
        of a patient that it is tested on.

        Raises:
            BenchError: translated images are not those of the test set.
        """
        source = self.job.source
        if data == "original":
            return self._joined((source, "image", self.label >= 0, self.label, True, True))
        assert isinstance(self.job, ScoreJob)
        translated, opacity, everything = self.job.translated, self.label, self.label >= 0
        if translated.ids != source.ids:
            raise BenchError(f"classification: {translated.name} does not hold the images of {source.name} in their order.")
        if data == "mask":
            return self._joined((translated, "mask", everything, self.label, True, True))
        if data == "rvt":
            return self._joined(
                (source, "image", opacity, self.label, True, True),
                (source, "image", ~opacity, self.label, False, True),
                (translated, "image", opacity, ~opacity, True, True),
            )
        return self._joined(
            (source, "image", everything, self.label, data == "mix", True),
            (translated, "image", opacity, ~opacity, True, False),
            (self._back(), "image", ~opacity, ~opacity, True, False),
        )

    def _back(self) -> ImageSet:
        """Clear images translated to opacity, put where their originals stand in the test set."""
        assert isinstance(self.job, ScoreJob) and self.job.back is not None
        back, place = self.job.back, {image_id: i for i, image_id in enumerate(self.job.back.ids)}
        clear = {self.job.source.ids[i] for i in self.rows[~self.label]}
        if set(place) != clear:
            raise BenchError(f"classification: {back.name} does not hold the clear images of {self.job.source.name}.")
        return back

    def _joined(self, *groups: tuple[ImageSet, str, BoolArray, BoolArray, bool, bool]) -> Examples:
        """Examples out of groups: set, plane, which of `rows`, their labels, may be learnt from, are tested on."""
        assert self.fold is not None
        columns: dict[str, list[Any]] = {name: [] for name in ("which", "row", "label", "fold", "learn", "test")}
        for index, (images, _, chosen, label, learn, test) in enumerate(groups):
            place = {image_id: i for i, image_id in enumerate(images.ids)}
            at = np.flatnonzero(chosen)
            columns["which"].append(np.full(len(at), index))
            columns["row"].append(np.array([place[self.job.source.ids[self.rows[i]]] for i in at], dtype=np.int64))
            columns["label"].append(label[at])
            columns["fold"].append(self.fold[at])
            columns["learn"].append(np.full(len(at), learn))
            columns["test"].append(np.full(len(at), test))
        sets = tuple((images, plane) for images, plane, *_ in groups)
        return Examples(sets, **{name: np.concatenate(parts) for name, parts in columns.items()})

    def predictions(self, data: str, arch: str) -> tuple[Examples, FloatArray]:
        """Examples of a data type with the probabilities that an architecture's classifiers give them."""
        named = self.job.params.starts.get(arch)
        weights = locate(named, self.job.assets) if named else None
        examples = self.examples(data)
        return examples, cross_fit(self.job.fits, examples, arch, self.job.params, data, weights)

    def tested(self, sheet: Sheet, arch: str) -> Tested:
        """What an architecture's classifiers say about the images of a test."""
        examples, probability = self.predictions(sheet.data, arch)
        rows = on_sheet(sheet, examples)
        items = examples.items
        return Tested(
            probability[rows], examples.label[rows], examples.fold[rows], tuple(items[i] for i in np.flatnonzero(rows))
        )

    def one_number(self, values: FloatArray) -> Tested:
        """A score of each of the test set's images (of `rows`), as if a classifier had given it."""
        assert self.fold is not None
        return Tested(values, self.label, self.fold, tuple(self.job.source.items[i] for i in self.rows))


def on_sheet(sheet: Sheet, examples: Examples) -> BoolArray:
    """The rows a test looks at: real opacity images and their translations for ``rvt``, else real images or their masks."""
    if sheet.key == "rvt":
        return examples.test & (examples.which != 1)
    return examples.test & (examples.which != 2)
