"""Cross-fitting: every image of a test set is predicted once, by a classifier that learnt from other patients' images.

Folds go by patient id, and can keep apart only what the test set calls by one.

Every image goes through 8 bits (`ImageSet.bytes`) on its way in: translations are stored so, and a classifier that met real
images in 16 bits and translated ones in 8 could learn the file format.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bench.contracts import Draws, LabelledBatch
from bench.data.imageset import ImageSet, Item
from bench.data.sampling import NO_AUGMENT, draw_order, to_model
from bench.engine import fit
from bench.errors import BenchError
from bench.files import digest, file_digest, read_json, write_json
from bench.fits import Fits, stage_of
from bench.progress import Progress
from evaluators.classifiers import ARCHITECTURES, LIBRARY, VERSION, Classifier, Recipe, network, settle
from evaluators.statistics import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

#: Training batches (not used before) that batch statistics are estimated from once training has ended.
SETTLING = 16
#: Images through a network at once when predicting; changes nothing.
_PREDICTED = 64
#: Attempts at folds that all hold both classes, before their number is reduced.
_SHUFFLES = 10


@dataclass(frozen=True)
class Examples:
    """Images to learn from and to be tested on: n rows, each one plane of one image of one of several sets.

    Attributes:
        sets: where the rows come from: (images, plane).
        which: index into `sets` (n,).
        row: image in that set (n,).
        label: True for opacity (n,).
        fold: of the image's patient (n,).
        learn: may be learnt from, by the classifiers of all other folds (n,).
        test: is predicted, by the classifier of its own fold (n,).
    """

    sets: tuple[tuple[ImageSet, str], ...]
    which: IntArray
    row: IntArray
    label: BoolArray
    fold: IntArray
    learn: BoolArray
    test: BoolArray

    @property
    def items(self) -> list[Item]:
        """Annotations, one a row."""
        return [self.sets[w][0].items[r] for w, r in zip(self.which, self.row, strict=True)]

    @property
    def patients(self) -> tuple[str, ...]:
        """Patient ids, one a row."""
        return tuple(item.patient_id for item in self.items)

    def learnt(self, fold: int) -> IntArray:
        """Rows that the classifier of a fold learns from."""
        return np.flatnonzero(self.learn & (self.fold != fold))

    def tested(self, fold: int) -> IntArray:
        """Rows that the classifier of a fold predicts."""
        return np.flatnonzero(self.test & (self.fold == fold))

    def disjoint(self, fold: int) -> None:
        """Prove that no patient is on both sides of a fold.

        Raises:
            BenchError: one is.
        """
        patients = self.patients
        both = {patients[i] for i in self.learnt(fold)} & {patients[i] for i in self.tested(fold)}
        if both:
            raise BenchError(f"classification: patient {min(both)} is learnt from and tested on in fold {fold}.")

    def bytes(self, rows: Sequence[int]) -> npt.NDArray[np.uint8]:
        """8-bit values of some rows, n x S x S."""
        parts = []
        for i in rows:
            images, plane = self.sets[self.which[i]]
            parts.append(images.bytes([int(self.row[i])], plane))
        return np.concatenate(parts)

    def key(self) -> list[Any]:
        """Everything that decides what is learnt and predicted, JSON-able: contents, rows, labels, folds, roles."""
        columns = [c.astype(int).tolist() for c in (self.which, self.row, self.label, self.fold, self.learn, self.test)]
        return [[[images.fingerprint, images.size, plane] for images, plane in self.sets], digest(columns)]


def patient_folds(label: BoolArray, patients: Sequence[str], wanted: int, seed: int) -> tuple[IntArray | None, str]:
    """Divide patients into folds that all hold both classes, in like shares.

    Args:
        label: of each image (n,).
        patients: patient of each image.
        wanted: number of folds; reduced to the number of patients of the rarer class.
        seed: of the shuffle.

    Returns:
        The fold of each image (None where not even two folds are possible), and a remark: empty, why there are fewer folds,
        or why there are none.
    """
    names = ("opacity", "clear")
    have = [len({p for p, of in zip(patients, label, strict=True) if of == positive}) for positive in (True, False)]
    for name, count in zip(names, have, strict=True):
        if count == 0:
            other = names[1 - names.index(name)]
            return None, f"all test images are {other}: one class cannot be learnt or told apart"
    fewest, rarer = min(zip(have, names, strict=True))
    for folds in range(min(wanted, fewest), 1, -1):
        for attempt in range(_SHUFFLES):
            found = _folds(label, patients, folds, seed + attempt)
            if found is not None:
                few = f"{folds} folds instead of {wanted}: there are {fewest} {rarer} patients"
                return found, few if folds < wanted else ""
    return None, f"{fewest} patients with {rarer} images: no two folds with both classes"


def _folds(label: BoolArray, patients: Sequence[str], folds: int, seed: int) -> IntArray | None:
    from sklearn.model_selection import StratifiedGroupKFold

    out = np.full(len(label), -1, dtype=np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, tested) in enumerate(splitter.split(np.zeros(len(label)), label, np.asarray(patients))):
        out[tested] = fold
    complete = all(0 < label[out == fold].sum() < (out == fold).sum() for fold in range(folds))
    return out if complete else None


class BalancedBatches:
    """Training data as a pure function of the step: half of every batch is opacity, half clear, each class shuffled by epochs.

    Args:
        examples: where images come from.
        rows: those to learn from; both classes.
        recipe: batch size, size, augmentation and seed.
    """

    def __init__(self, examples: Examples, rows: IntArray, recipe: Recipe) -> None:
        self.examples, self.recipe, self.batch_size = examples, recipe, recipe.batch_size
        self.rows = {"opacity": rows[examples.label[rows]], "clear": rows[~examples.label[rows]]}
        self.size = recipe.size or examples.sets[0][0].size
        for name, of in self.rows.items():
            if not len(of):
                raise BenchError(f"classification: no {name} image to learn from.")

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Stored values of a step: ``image`` (n x 1 x S x S, uint8), ``labels`` (n x 1), ``step``."""
        half, seed = self.batch_size // 2, self.recipe.model_seed
        rows = [
            int(of[draw_order(seed, name, len(of), position)])
            for name, of in self.rows.items()
            for position in range(step * half, (step + 1) * half)
        ]
        labels = torch.from_numpy(self.examples.label[rows].astype(np.float32))[:, None]
        return {"step": step, "image": torch.from_numpy(self.examples.bytes(rows))[:, None], "labels": labels}

    def batch(self, raw: dict[str, Any], device: torch.device) -> LabelledBatch:
        """What `Classifier.step` gets."""
        draws = Draws(self.recipe.model_seed, raw["step"], 0, self.batch_size, self.batch_size, device)
        image = to_model(raw["image"], self.size, draws, self.recipe.augment, device)
        labels = raw["labels"].to(device)
        return LabelledBatch(image, labels, torch.ones_like(labels), draws)

    def after(self, step: int, device: torch.device) -> Iterator[Tensor]:
        """Images of the `SETTLING` batches from a step on."""
        return (self.batch(self[s], device).image for s in range(step, step + SETTLING))


def predict(net: nn.Module, examples: Examples, rows: IntArray, size: int, device: torch.device) -> list[float]:
    """Probability of opacity of some rows, in full precision.

    Logits are rounded to 1e-4: the same image gives answers that differ in the last bits by its place in a batch, and ranking
    would take them for an order.
    """
    found: list[float] = []
    with torch.no_grad():
        for start in range(0, len(rows), _PREDICTED):
            raw = torch.from_numpy(examples.bytes(rows[start : start + _PREDICTED].tolist()))[:, None]
            draws = Draws(0, 0, 0, len(raw), len(raw), device)
            logits = net(to_model(raw, size, draws, NO_AUGMENT, device))[:, 0]
            found += torch.sigmoid(logits.double().round(decimals=4)).cpu().tolist()
    return found


def cross_fit(
    fits: Fits, examples: Examples, arch: str, recipe: Recipe, name: str, weights: Path | None = None
) -> FloatArray:
    """Probabilities of all test rows, each from a classifier that never saw its patient. Done once for its inputs.

    The result is kept by the hash of what goes in; the weights are not, once their predictions are there. What was
    interrupted goes on with the fold, and the step, it had come to.

    Args:
        fits: remembers the result.
        examples: what to learn from and what to predict.
        arch: key of `ARCHITECTURES`.
        recipe: training.
        name: of the data, for people and folders: letters, digits, ``-``.
        weights: file to start from.

    Returns:
        (n,) in [0, 1]; NaN for rows that are not tested.

    Raises:
        PreflightError: `weights` does not fit.
        TrainingError: a loss is not finite.
        BenchError: a patient is on both sides of a fold.
    """
    title = f"{arch}-{name}"
    inputs = {
        "evaluator": "classification", "version": VERSION, "library": LIBRARY, "arch": ARCHITECTURES[arch].timm,
        "recipe": recipe.plain(),
        "examples": examples.key(), "weights": file_digest(weights) if weights else "",
    }  # fmt: skip
    folds = np.unique(examples.fold[examples.test]).tolist()

    def make(folder: Path) -> Mapping[str, Any]:
        told = [_fold(fits, examples, fold, arch, recipe, folder, f"{title}-{fold}", weights) for fold in folds]
        return {
            "arch": ARCHITECTURES[arch].timm, "data": name, "folds": len(folds), "library": LIBRARY,
            "n": round(sum(sum(facts["learnt_from"].values()) for facts in told) / len(told)),
            "start": weights.name if weights else "from scratch", **recipe.plain(),
            "learnt_from": [facts["learnt_from"] for facts in told], "weights_id": [facts["weights_id"] for facts in told],
            "losses": [facts["losses"] for facts in told], "warnings": [w for facts in told for w in facts["warnings"]],
            "cost": {"seconds": sum(facts["cost"].get("seconds", 0.0) for facts in told)},
        }  # fmt: skip

    folder, _ = fits.folder(title, inputs, make)
    out = np.full(len(examples.label), np.nan)
    for fold in folds:
        out[examples.tested(fold)] = read_json(folder / f"fold-{fold}.json")["probability"]
    return out


def _fold(
    fits: Fits, examples: Examples, fold: int, arch: str, recipe: Recipe, folder: Path, title: str, weights: Path | None
) -> dict[str, Any]:
    """Train and predict one fold; its facts."""
    done = folder / f"fold-{fold}.json"
    if done.is_file():
        return read_json(done)
    examples.disjoint(fold)
    torch.manual_seed(recipe.model_seed)
    model = Classifier(network(arch, weights), recipe.lr, recipe.label_smoothing)
    source = BalancedBatches(examples, examples.learnt(fold), recipe)
    work = folder / f"fold-{fold}"
    result = fit(
        model, source, recipe.train, work, "train", recipe.model_seed, f"{title}-{folder.name}", fits.device,
        Progress(title, fits.quiet), fits.log_interval, fits.backends(f"{stage_of(folder)}-fold-{fold}", work), distributed=False,
    )  # fmt: skip
    settle(model.net, source.after(recipe.iterations, fits.device))
    probability = predict(model.net, examples, examples.tested(fold), source.size, fits.device)
    if not np.isfinite(probability).all():
        raise BenchError(f"classification: {title} predicts values that are not finite; lower evaluators.classification.lr.")
    write_json(
        done,
        {
            "probability": probability, "weights_id": result.weights_id, "losses": result.losses, "warnings": result.warnings,
            "cost": result.cost, "learnt_from": {name: len(rows) for name, rows in source.rows.items()},
        },
    )  # fmt: skip
    shutil.copyfile(work / "log.jsonl", done.with_suffix(".jsonl"))
    shutil.rmtree(work)  # hundreds of megabytes, and the predictions are all that is asked for
    return read_json(done)
