"""One experiment: the datasets of a run, who trains on what, what is scored, and the keys that identify each result.

Keys are hashes of everything that can change a stage's result. They chain: a translation's key holds its training's key, a
score's key its translation's. A stage whose result carries the wanted key is done; nothing else decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bench.assets import locate
from bench.config import BenchConfig, RunOptions, TrainConfig, plain, section_config, train_config, with_load_size
from bench.contracts import Evaluator, Method
from bench.data.contract import CLEAR, DOMAINS, FINDINGS, LUNG_OPACITY, OPACITY, OPACITY_FINDINGS, OTHER, POLICIES
from bench.data.imageset import ImageSet
from bench.data.load import Dataset, DataSource, open_datasets
from bench.data.splits import verify
from bench.errors import PreflightError, UsageError
from bench.files import digest, file_digest
from bench.registry import EVALUATORS, METHODS

#: What a run uses when no data is named: the embedded data in the roles of the paper's three test sets.
EMBEDDED = ("synthetic", "synthetic-icu", "synthetic-clear")
#: One set of images: dataset, split, side in pixels, domains.
ImageKey = tuple[str, str, int, tuple[str, ...]]

#: The untranslated images: a row of every leaderboard.
BASELINE = "original"


@dataclass(frozen=True)
class RunSpec:
    """What a user asked for.

    Attributes:
        methods: names, without the baseline.
        suite: name of a suite.
        preset: name of the preset the configuration came from.
        config: the resolved configuration.
        data: dataset specs (``name`` or ``name=path``); the first with both domains is trained on unless `train_on` says.
        seeds: one training each (the patient split has its own seed, ``data.split_seed``).
        options: what changes no result.
        train_on: dataset to train on.
        force: stage to do again, with all after it.
    """

    methods: tuple[str, ...]
    suite: str
    preset: str
    config: BenchConfig
    data: tuple[str, ...] = EMBEDDED
    seeds: tuple[int, ...] = (0,)
    options: RunOptions = field(default_factory=RunOptions)
    train_on: str = ""
    force: str = ""


def method_config(config: BenchConfig, name: str) -> tuple[type[Method], Any]:
    """A method's class and its resolved Config."""
    cls: type[Method] = METHODS.get(name)
    return cls, section_config(cls.Config, config.methods, "methods", name)


def evaluator_config(config: BenchConfig, name: str) -> tuple[type[Evaluator], Any]:
    """An evaluator's class and its resolved Config."""
    cls: type[Evaluator] = EVALUATORS.get(name)
    return cls, section_config(cls.Config, config.evaluators, "evaluators", name)


def folder_name(method: str) -> str:
    """A method's name as one folder's: ``mmagic:my/config.py`` becomes ``mmagic-my-config.py``. Keys tell apart what is alike."""
    return re.sub(r"[^\w.-]", "-", method)


class Experiment:
    """The datasets of a run and the keys of its results. Opening it reads tables and hashes files, and decodes nothing.

    Args:
        spec: what to do.
        device: where.
        progress: told how far reading has come: ``progress(what, done, total)``.

    Raises:
        PreflightError: no dataset has both domains, or the named one has not.
        DataError: a dataset cannot be used.
        UsageError: unknown names.
    """

    def __init__(self, spec: RunSpec, device: torch.device, progress: Callable[[str, int, int], None] | None = None) -> None:
        self.spec, self.device = spec, device
        self.data = with_load_size(spec.config.data)
        self.seed = self.data.split_seed
        self.datasets = self._open(progress)
        self.train_name = self._choose()
        self.prior_names = [n for n, d in self.datasets.items() if n == self.train_name or d.reader.trains_prior]
        learning = {self.datasets[name].manifest.namespace for name in (self.train_name, *self.prior_names)}
        for dataset in self.datasets.values():
            if dataset.manifest.namespace not in learning:  # nothing learns from it: all of it can be tested on
                dataset.keep_for_testing()
        verify([d.manifest for d in self.datasets.values()])
        self._check_splits()

    def _open(self, progress: Callable[[str, int, int], None] | None) -> dict[str, Dataset]:
        sources = [DataSource.parse(text) for text in self.spec.data]
        named = [source.name for source in sources]
        for name in named:
            if named.count(name) > 1:
                raise UsageError(f"--data: dataset '{name}' is named twice.")
        sources = [replace(s, options={**self.spec.config.datasets.get(s.name, {}), **s.options}) for s in sources]
        opened = open_datasets(
            sources, self.seed, self.data.fractions, self.spec.options.cache, workers=self.spec.options.workers,
            progress=progress, skip_corrupt=self.data.skip_corrupt,
        )  # fmt: skip
        return {dataset.name: dataset for dataset in opened}

    def _choose(self) -> str:
        both = [n for n, d in self.datasets.items() if all(d.count("", domain) for domain in DOMAINS)]
        wanted = self.spec.train_on
        if wanted and wanted not in self.datasets:
            raise UsageError(f"--train-on {wanted}: not among --data ({', '.join(self.datasets)}).")
        if wanted and wanted not in both:
            missing = [d for d in DOMAINS if not self.datasets[wanted].count("", d)]
            raise PreflightError(f"dataset '{wanted}' has no images of domain '{missing[0]}'; training needs both domains.")
        if not both:
            counts = ", ".join(
                f"{n}: {d.count('', OPACITY)} opacity, {d.count('', CLEAR)} clear" for n, d in self.datasets.items()
            )
            raise PreflightError(
                f"training needs a dataset with both domains, opacity and clear ({counts}). Add one with --data."
            )
        return wanted or both[0]

    def _check_splits(self) -> None:
        training = self.datasets[self.train_name]
        for domain in DOMAINS:
            everywhere = training.count("", domain)
            if not training.count("train", domain):
                raise PreflightError(
                    f"dataset '{self.train_name}': no {domain} image in the train split ({everywhere} in all; patients "
                    "are split whole). Add images, or --set data.split_seed=1 or data.fractions=..."
                )
        if not training.count("test", CLEAR):
            raise PreflightError(
                f"dataset '{self.train_name}': no clear image in the test split ({training.count('', CLEAR)} in all), so there is no "
                "reference to score against. Add images, or --set data.split_seed=1 or data.fractions=..."
            )

    # -- image sets ------------------------------------------------------------------------------------------------------

    def test_names(self) -> list[str]:
        """Datasets with test images."""
        return [n for n, d in self.datasets.items() if any(d.count("test", domain) for domain in DOMAINS)]

    def images(self, name: str, split: str, size: int, domains: tuple[str, ...] = DOMAINS) -> ImageSet:
        """A split of a dataset, decoded on first use."""
        return self.datasets[name].split(split, size, domains)

    def identity(self, name: str, split: str, size: int, domains: tuple[str, ...] = DOMAINS) -> str:
        """Fingerprint of what `images` returns, known without decoding."""
        return self.datasets[name].fingerprint(split, size, domains)

    def test_set(self, name: str) -> ImageSet:
        """All test images of a dataset, both domains."""
        return self.images(name, "test", self.data.size)

    def reference_name(self, name: str) -> str:
        """Whose clear test images a test set is compared with: its own where it has both domains, else the training set's."""
        dataset = self.datasets[name]
        own = all(dataset.count("test", domain) for domain in DOMAINS)
        return name if own else self.train_name

    def reference(self, name: str) -> ImageSet:
        """Real clear test images for a test set."""
        return self.test_set(self.reference_name(name)).where(CLEAR)

    def train_set(self, domain: str) -> ImageSet:
        """Training images of one domain at load size."""
        return self.images(self.train_name, "train", self.data.load_size).where(domain)

    def image_stages(self) -> list[ImageKey]:
        """Every set of images the run reads, in order. The prior also learns from labelled images of no domain."""
        size, train = self.data.load_size, self.train_name
        wanted: list[ImageKey] = [(train, "train", size, DOMAINS)]
        if self.prior_trained():
            wanted += self.prior_images()
        wanted += [(name, "test", self.data.size, DOMAINS) for name in self.test_names()]
        return list(dict.fromkeys(wanted))

    def prior_images(self) -> list[ImageKey]:
        """The sets that the prior is trained (``train``) and checked (``val``) on."""
        keys: list[ImageKey] = [
            (name, split, self.data.load_size, domains)
            for name in self.prior_names
            for split in ("train", "val")
            for domains in (DOMAINS, (OTHER,))
        ]
        return [key for key in keys if self.datasets[key[0]].records(key[1], key[3])]

    def leaky(self, name: str) -> bool:
        """Whether patients of a test set may be among those learnt from: patients are unknown there or in a sister dataset."""
        learnt = {self.train_name, *(self.prior_names if self.prior_trained() else ())}
        space = self.datasets[name].manifest.namespace
        sisters = [self.datasets[n].manifest for n in learnt if self.datasets[n].manifest.namespace == space]
        return bool(sisters) and any(m.leaky for m in [*sisters, self.datasets[name].manifest])

    def notes(self) -> list[str]:
        """What readers found that does not stop a run but that a user should know."""
        return [f"{name}: {p}" for name, d in self.datasets.items() for p in d.manifest.problems if not p.fatal]

    def policy(self, names: Iterable[str] = ()) -> str:
        """The strictest data policy among some of the run's datasets; among all where none is named."""
        return max((self.datasets[name].policy for name in tuple(names) or self.datasets), key=POLICIES.index)

    def learnt_from(self) -> list[str]:
        """The datasets whose images methods and their prior learn from: what they make may resemble these images."""
        return list(dict.fromkeys([self.train_name, *self.prior_names]))

    # -- prior -----------------------------------------------------------------------------------------------------------

    def needs_prior(self) -> bool:
        """True when a method or an evaluator of the run asks for the finding classifier."""
        for name in self.spec.methods:
            cls, config = method_config(self.spec.config, name)
            if "prior" in cls.requires(config):
                return True
        for name in self.evaluators():
            evaluator, params = evaluator_config(self.spec.config, name)
            if "prior" in evaluator.requires(params):
                return True
        return False

    def prior_trained(self) -> bool:
        """True when the prior is trained here and not loaded from a file."""
        return self.needs_prior() and not self.spec.config.prior.weights

    def prior_findings(self) -> tuple[str, ...]:
        """The findings the labels at hand can train: both present and absent among known training labels.

        Up to fourteen of ChestX-ray14 where a dataset knows them, else RSNA's one.

        Raises:
            PreflightError: no dataset has usable labels.
        """
        positive: set[str] = set()
        negative: set[str] = set()
        for name in self.prior_names:
            for record in self.datasets[name].records("train", (*DOMAINS, OTHER)):
                for finding, value in (record.findings or {}).items():
                    (positive if value else negative).add(finding)
        usable = positive & negative
        fourteen = tuple(f for f in FINDINGS if f in usable)
        if fourteen and (LUNG_OPACITY not in usable or OPACITY_FINDINGS & set(fourteen)):
            return fourteen
        if LUNG_OPACITY in usable:  # also where the labels of the fourteen know no opacity
            return (LUNG_OPACITY,)
        raise PreflightError(
            f"the prior classifier has no labels to learn from in {', '.join(self.prior_names)}. Add nih14, or give a weights "
            "file: --set prior.weights=PATH."
        )

    def prior_key(self) -> str:
        """Identity of the prior: its weights file's hash, or that of everything its training depends on."""
        return self._prior_key

    @cached_property
    def _prior_key(self) -> str:
        """Computed once: every score's key asks for it, and it reads a whole file or all labels."""
        config = self.spec.config.prior
        if config.weights:
            path = self.prior_file()
            return digest(["file", file_digest(path), plain(config) | {"weights": path.name}])
        sets = [self.identity(*key) for key in self.prior_images()]
        crop = [self.data.load_size, self.data.min_crop, self.data.rotate]
        settings = {k: v for k, v in plain(self.prior_settings()).items() if k != "checkpoint_interval"}
        return digest(["trained", 1, plain(config), settings, sets, crop, self.prior_findings(), self.seed])

    def prior_settings(self) -> TrainConfig:
        """How the engine trains the prior: plain fp32, with the checkpoint interval of the run."""
        config = self.spec.config
        return TrainConfig(
            iterations=config.prior.iterations, batch_size=config.prior.batch_size,
            checkpoint_interval=config.train.checkpoint_interval, tf32=config.train.tf32,
        )  # fmt: skip

    def prior_file(self) -> Path:
        """The weights file of the prior.

        Raises:
            PreflightError: it is nowhere; the message lists the folders searched.
        """
        name, folders = self.spec.config.prior.weights, self.spec.options.assets
        if path := locate(name, folders):
            return path
        given = Path(name).expanduser()
        searched = dict.fromkeys(str(path) for path in (given, *(folder / given for folder in folders)))
        raise PreflightError(f"prior.weights={name} not found. Searched: {', '.join(searched)}.")

    # -- keys ------------------------------------------------------------------------------------------------------------

    def evaluators(self) -> tuple[str, ...]:
        """The evaluators of the suite."""
        from bench import suites

        return suites.evaluators(self.spec.suite)

    def train_config(self, name: str) -> TrainConfig:
        """How the engine trains a method."""
        return train_config(self.spec.config, name)

    def recipe(self, name: str) -> dict[str, Any]:
        """Everything but the seed that a training depends on."""
        cls, config = method_config(self.spec.config, name)
        parts: dict[str, Any] = {
            "method": name,
            "version": cls.version,
            "origin": METHODS.origin(name),
            "config": plain(config),
        }
        if cls.stages:
            parts |= {
                "train": {k: v for k, v in plain(self.train_config(name)).items() if k != "checkpoint_interval"},
                "data": plain(self.data),
                "images": self.identity(self.train_name, "train", self.data.load_size),
                "prior": self.prior_key() if "prior" in cls.requires(config) else "",
            }
        return parts

    def recipe_key(self, name: str) -> str:
        """Hash of `recipe`: the same for all seeds of one configuration."""
        return digest(self.recipe(name))

    def train_key(self, name: str, seed: int) -> str:
        """Identity of a training."""
        cls, _ = method_config(self.spec.config, name)
        return digest(self.recipe(name) | ({"seed": seed} if cls.stages else {}))

    def translate_key(self, train_key: str, test: str, direction: str = "a2b") -> str:
        """Identity of a translated test set; ``b2a`` is that of its clear images, translated to opacity."""
        parts = [train_key, self.identity(test, "test", self.data.size)]
        return digest(parts if direction == "a2b" else [*parts, direction])

    def folder(self, name: str, seed: int) -> Path:
        """Where a method's results on the training dataset go."""
        return self.spec.options.runs / folder_name(name) / self.train_name / f"seed{seed}-{self.train_key(name, seed)[:8]}"

    def describe(self, name: str, seed: int) -> dict[str, Any]:
        """The resolved specification of one method's run, as written to its ``config.json``."""
        cls, config = method_config(self.spec.config, name)
        own = replace(self.spec.config, train=self.train_config(name), budgets={}, methods={name: plain(config)})
        return {
            "method": name,
            "method_version": cls.version,
            "origin": METHODS.origin(name),
            "preset": self.spec.preset,
            "config": plain(own),
            "train_dataset": self.train_name,
            "data": {
                n: {"fingerprint": d.manifest.fingerprint, "policy": d.policy, "leaky": d.manifest.leaky}
                for n, d in self.datasets.items()
            },
            "seed": seed,
            "train_key": self.train_key(name, seed),
        }

    def splits(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Dataset -> image id -> patient, domain and split, as written to a run's ``split.json``."""
        return {
            name: {r.image_id: {"patient": r.patient_id, "domain": r.domain, "split": r.split} for r in d.manifest}
            for name, d in self.datasets.items()
        }
