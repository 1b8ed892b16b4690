"""Models that evaluators have trained, and arrays they have computed, once: whatever the number of methods scored with them.

Each result lies in a folder of the cache named by the hash of its inputs. A result that is there is not made again; an
interrupted training resumes; two runs that want the same model wait for each other.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from bench.config import TrainConfig, plain
from bench.contracts import Trainable
from bench.engine import fit, load_weights
from bench.errors import BenchError
from bench.files import digest, lock, read_json, replace_atomically, write_json
from bench.progress import Progress, say
from bench.runner import Source

M = TypeVar("M", bound=Trainable)
Arrays = dict[str, npt.NDArray[Any]]

#: The file whose presence means that a folder is complete.
FIT = "fit.json"


@dataclass(frozen=True)
class Fitted(Generic[M]):
    """A trained model.

    Attributes:
        model: on the run's device, in eval mode, without gradients.
        id: hash of its weights: what is computed with it is keyed by this.
        facts: what the record of a score says about it.
    """

    model: M
    id: str
    facts: Mapping[str, Any]


class Fits:
    """Trains models once and remembers arrays.

    Args:
        cache: the run's cache folder.
        device: where models are trained and handed out.
        log_interval: steps between log lines.
        quiet: show no progress.
        owner: JSON-able; whose they are (an evaluator's name, the hash of its file, its versions): part of every key.
        backends: makes further mmengine visualizer back-ends for a training, given `stage_of` it and its folder.
    """

    def __init__(
        self, cache: Path, device: torch.device, log_interval: int = 10, quiet: bool = False, owner: Sequence[Any] = (),
        backends: Callable[[str, Path], list[dict[str, Any]]] = lambda stage, folder: [],
    ) -> None:  # fmt: skip
        self.backends = backends
        self.root, self.device, self.log_interval, self.quiet = cache / "fits", device, log_interval, quiet
        self.owner = list(owner)
        #: Name -> facts of every model handed out, for records.
        self.used: dict[str, Mapping[str, Any]] = {}

    def model(
        self,
        name: str,
        inputs: Mapping[str, Any],
        build: Callable[[], tuple[M, Source]],
        settings: TrainConfig,
        seed: int,
        facts: Mapping[str, Any] | None = None,
    ) -> Fitted[M]:
        """A model trained by the engine, or the one that was trained from the same inputs before.

        Args:
            name: what it is, for people and folders: letters, digits, ``-``. Unique among an evaluator's models for one job.
            inputs: JSON-able; everything its weights depend on besides `settings` and `seed`: the evaluator's name and version,
                architecture, fingerprints of the images and of files it starts from, which of them it learns from.
            build: makes the untrained model and its training data. Called with torch seeded by `seed`; also called when the
                model is only loaded, but then its data is never read.
            settings: budget and precision.
            seed: of initial weights, and of library random states while training.
            facts: JSON-able remarks for the record (``{"encoder": "from scratch", "n": 280}``).

        Raises:
            TrainingError: a loss is not finite.
            BenchError: no space left, or the stored weights are damaged.
        """
        relevant = {k: v for k, v in plain(settings).items() if k != "checkpoint_interval"}
        full = {"model": name, **inputs, "settings": relevant, "seed": seed}
        made: list[M] = []

        def untrained() -> tuple[M, Source]:
            torch.manual_seed(seed)
            return build()

        def make(folder: Path) -> dict[str, Any]:
            model, source = untrained()
            often = replace(settings, checkpoint_interval=min(settings.checkpoint_interval, max(20, settings.iterations // 10)))
            result = fit(
                model, source, often, folder / "train", "train", seed, f"{name}-{folder.name}", self.device,
                Progress(name, self.quiet), self.log_interval, self.backends(stage_of(folder), folder / "train"),
                distributed=False,
            )  # fmt: skip
            made.append(model)
            for checkpoint in (folder / "train").glob("iter_*.pth"):  # three times the weights' size, and never read again
                checkpoint.unlink()
            return {
                "weights_id": result.weights_id, "losses": result.losses, "warnings": result.warnings, "cost": result.cost,
                "iterations": settings.iterations, "batch_size": settings.batch_size, "seed": seed, **(facts or {}),
            }  # fmt: skip

        folder, told = self.folder(name, full, make)
        model = made[0] if made else untrained()[0]
        weights = folder / "train" / "weights.pth"
        if not made:
            try:
                load_weights(model, weights)
            except BenchError as error:
                why = f"cannot be used: {error}" if weights.is_file() else "is gone."
                raise BenchError(f"{weights} {why} To have it made again, delete {folder} and run the same command.") from error
        model.to(self.device).eval().requires_grad_(False)
        return Fitted(model, str(told["weights_id"]), told)

    def folder(
        self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> tuple[Path, dict[str, Any]]:
        """A folder that `make` fills once for its inputs; the way for what the engine does not train.

        Args:
            name: as in `model`.
            inputs: JSON-able; everything the result depends on.
            make: fills the folder it is given (which may hold what an interrupted attempt left) and returns JSON-able facts.

        Returns:
            The folder, and the facts with ``key`` and ``name``.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name):
            raise BenchError(f"fits: '{name}' is no name of letters, digits and '-'.")
        key = digest([name, plain(inputs), self.owner])
        folder = self.root / f"{name}-{key}"
        marker = folder / FIT
        if not marker.is_file():
            with lock(folder / ".lock", wait=True, say=say):
                if not marker.is_file():
                    write_json(marker, {**make(folder), "key": key, "name": name, "inputs": plain(inputs)})
        facts = {k: v for k, v in read_json(marker).items() if k != "inputs"}
        self.used[name] = facts
        return folder, facts

    def arrays(self, name: str, inputs: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """Arrays computed once for their inputs: predictions on real images, for example.

        Args:
            name: what they are, for folders.
            inputs: JSON-able; everything they depend on (`Fitted.id`, fingerprints of images).
            compute: makes them; names must be identifiers, dtypes numeric.
        """
        path = self.root / "arrays" / f"{name}-{digest([name, plain(inputs), self.owner], size=12)}.npz"
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as stored:
                    return {key: stored[key] for key in stored.files}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise BenchError(f"{path} is damaged ({error}). Delete it and run the same command again.") from error
        found = compute()

        def write(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                np.savez(stream, **found)  # type: ignore[arg-type]

        replace_atomically(path, write)
        return found


def stage_of(folder: Path) -> str:
    """What a tracker calls the training of a model: its name and the beginning of its key, as of one name there may be several."""
    name, _, key = folder.name.rpartition("-")
    return f"{name}-{key[:8]}"


def curves_of(folder: Path) -> list[tuple[str, Path]]:
    """`stage_of` and ``log.jsonl`` of each training whose losses a model's folder holds, one or, of a cross-fit, one a fold."""
    own = [(stage_of(folder), folder / "train" / "log.jsonl")]
    return [*own, *((f"{stage_of(folder)}-{path.stem}", path) for path in sorted(folder.glob("fold-*.jsonl")))]
