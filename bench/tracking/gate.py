"""What may leave this machine: the one gate for everything that holds pixels, and words without folders and patients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.experiment import Experiment

#: Data policies that let images be shown elsewhere. All others, also ones that nobody knows yet, do not.
OPEN = frozenset({"open", "attribution"})
#: The policy of data that nothing may be told of but numbers.
RESTRICTED = "credentialed"


class Gate:
    """Which images, names and words of an experiment may be handed to a tracker.

    Args:
        experiment: whose datasets are judged.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def closed(self, names: Iterable[str]) -> list[str]:
        """Those of these datasets whose images stay here, each with its policy."""
        policies = {name: self.experiment.datasets[name].policy for name in dict.fromkeys(names)}
        return [f"{name} ({policy})" for name, policy in policies.items() if policy not in OPEN]

    def learnt(self) -> list[str]:
        """The datasets whose images methods and their prior learn from: what they make may resemble these images."""
        return [self.experiment.train_name, *self.experiment.prior_names]

    def around(self, test: str, evaluator: str = "") -> list[str]:
        """The datasets that a picture about a test set may show: it, its reference, what was learnt from.

        Args:
            test: name of the test set.
            evaluator: whose figure it is: it may show what the evaluator's models learnt from.
        """
        from bench import learning  # brings torch

        keys = [
            key
            for split in ("train", "val")
            for key in (learning.image_keys(self.experiment, evaluator, test, split) if evaluator else ())
        ]
        return [test, self.experiment.reference_name(test), *self.learnt(), *(key[0] for key in keys)]

    def pictures(self, names: Iterable[str], what: str) -> None:
        """Let pictures that may show images of these datasets pass.

        Raises:
            BarredError: some of them stay here.
        """
        if closed := self.closed(names):
            raise BarredError(f"{what}: no pictures, images of {', '.join(closed)} stay on this machine")

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of images, patients and examinations that are told to nobody."""
        return frozenset(
            name.lower()
            for dataset in self.experiment.datasets.values()
            if dataset.policy == RESTRICTED
            for record in dataset.manifest
            for name in (record.image_id, record.patient_id, record.study_id)
            if name
        )

    def words(self, value: Any, what: str) -> None:
        """Let texts in a tree of values pass.

        Raises:
            BarredError: one of them names an image or a patient of a restricted dataset.
        """
        if isinstance(value, Mapping):
            self.words([*value.keys(), *value.values()], what)
        elif isinstance(value, (list, tuple)):
            for each in value:
                self.words(each, what)
        elif isinstance(value, str) and self.names:
            words = {word.strip("._-").lower() for word in (*re.split(r"[^\w.-]+", value), *re.split(r"[\W_]+", value))}
            if words & self.names or value.lower() in self.names:
                raise BarredError(f"{what}: it names an image or a patient of a restricted dataset")


class BarredError(BenchError):
    """Something was to be logged that must stay on this machine."""


def bare(value: Any) -> Any:
    """A tree of values in which paths have lost their folders: ``mimic=/data/x/mimic`` becomes ``mimic=…/mimic``."""
    if isinstance(value, Mapping):
        return {str(key): bare(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [bare(each) for each in value]
    if not isinstance(value, str):
        return value
    return "".join(_last(part) for part in re.split(r"([=,:])", value))


def _last(part: str) -> str:
    """The last piece of a path."""
    pieces = [piece for piece in re.split(r"[/\\]", part) if piece]
    return part if not re.search(r"[/\\]", part) else f"…/{pieces[-1]}" if pieces else "…"
