"""What may leave this machine: the one gate for everything that holds pixels, and words without folders and patients."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.files import read_json

if TYPE_CHECKING:
    from bench.experiment import Experiment

#: Data policies that let images be shown elsewhere. All others, also ones that nobody knows yet, do not.
OPEN = frozenset({"open", "attribution"})
#: Policies of data whose images and patients may be named. Of all others nothing is told but numbers.
TOLD = OPEN | {"no-redistribution"}
#: Names of fewer characters are words of their own or nothing.
SHORT = 5


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
        return self.experiment.learnt_from()

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
    def names(self) -> Names:
        """Names of images, patients and examinations that are told to nobody: of this run's datasets and of earlier runs'."""
        now = (
            name
            for dataset in self.experiment.datasets.values()
            if dataset.policy not in TOLD
            for record in dataset.manifest
            for name in (record.image_id, record.patient_id, record.study_id)
        )
        return Names([*now, *stored_names(self.experiment.spec.options.runs)])

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
        elif isinstance(value, str) and self.names.within(value):
            raise BarredError(f"{what}: it names an image or a patient of a restricted dataset")


def stored_names(runs: Path) -> set[str]:
    """Names of images and patients of restricted datasets in the ``split.json`` of all trainings of a results folder.

    A dataset whose policy the run's ``config.json`` does not say counts as restricted. Each version of a dataset is read once.
    """
    found, seen = set[str](), set[tuple[str, str]]()
    for path in sorted(runs.glob("*/*/*/split.json")):
        data = _object(path.with_name("config.json")).get("data")
        facts = {name: about for name, about in data.items() if isinstance(about, dict)} if isinstance(data, dict) else {}
        versions = {name: (name, str(about.get("fingerprint"))) for name, about in facts.items() if about.get("fingerprint")}
        if versions and all(facts[name].get("policy") in TOLD or version in seen for name, version in versions.items()):
            continue
        for name, images in _object(path).items():
            if facts.get(name, {}).get("policy") not in TOLD and isinstance(images, dict):
                found.update(images)
                found.update(str(about.get("patient") or "") for about in images.values() if isinstance(about, dict))
        seen.update(versions.values())
    return found


def _object(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none that can be read."""
    try:
        found = read_json(path)
    except (OSError, BenchError):
        return {}
    return found if isinstance(found, dict) else {}


class Names:
    """Names that are looked for in texts.

    A name is found in whatever it is a part of (``p10000032``, ``files/p10/…``, ``ID_mask.png``), and whichever signs separate its
    parts. Digits alone are not found in longer numbers, and short names or words without digits only as words of their own:
    everything would hold them. A text takes time in proportion to its length, however many names there are of one length.

    Args:
        names: any; empty ones are left out.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.whole = set[str]()
        self.parts: dict[int, set[str]] = {}
        for name in {_plain(name) for name in names}:
            if len(name) < SHORT or not re.search(r"\d", name):
                self.whole.add(name.strip("-"))
            else:
                self.parts.setdefault(len(name), set()).add(name)
        self.whole.discard("")

    def within(self, text: str) -> bool:
        """Whether a text holds a name."""
        plain = _plain(text)
        return self._word(text) or any(
            plain[at : at + length] in names and not self._longer(plain, at, at + length)
            for length, names in self.parts.items()
            for at in range(len(plain) - length + 1)
        )

    def _word(self, text: str) -> bool:
        """Whether a word of a text, or all of it, is a name."""
        words = (text, *re.split(r"[^\w.-]+", text), *re.split(r"[\W_]+", text))
        return bool(self.whole) and any(_plain(word).strip("-") in self.whole for word in words)

    @staticmethod
    def _longer(text: str, start: int, end: int) -> bool:
        """Whether digits are a part of a longer number."""
        return text[start:end].isdigit() and (text[start - 1 : start].isdigit() or text[end : end + 1].isdigit())


def _plain(text: str) -> str:
    """A text of the same length in small letters, with one sign for all that are no letter or digit."""
    return re.sub(r"[\W_]", "-", "".join(c.lower() if len(c.lower()) == 1 else c for c in text))


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
    """The last piece of a path, without a home folder's name: what is directly below /home or /Users, or the user's own."""
    pieces = [piece for piece in re.split(r"[/\\]", part) if piece]
    if not re.search(r"[/\\]", part):
        return "~" if re.fullmatch(r"~[\w.-]+", part) else part
    last = pieces[-1] if pieces else ""
    if (len(pieces) > 1 and pieces[-2].lower() in _HOMES) or last.startswith("~"):
        last = "" if re.match(r"[/\\~]", part) else re.sub(r"^\S+", "", last)  # within a sentence, the words after it are kept
    if last.strip("'\"()[] ").lower() in _users():
        last = ""
    return "…" if not last else f"…{last}" if last[0].isspace() else f"…/{last}"


#: Folders that hold those of users.
_HOMES = frozenset({"home", "users"})


def _users() -> set[str]:
    """What the user is called on this machine."""
    found = set[str]()
    for ask in (lambda: Path.home().name, getpass.getuser):
        with suppress(OSError, KeyError, RuntimeError):  # a number without a name
            found.add(ask().lower())
    return found - {""}
