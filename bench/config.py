"""Configuration: dataclass defaults <- preset file <- ``--config`` file <- ``--set key=value``.

There is one source of defaults, the dataclasses here and each method's and evaluator's own ``Config``. Files are read by
mmengine's Config; every key is checked before anything is merged, because mmengine would create misspelt keys. What cannot
change a result (device, workers, log interval) is a `RunOptions` and enters no fingerprint.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import UsageError, did_you_mean
from bench.files import digest
from bench.overlay import NAMED, command_layer, lay_over, read_layer
from bench.parsing import parse

PRESETS = Path(__file__).parent / "presets"
T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """Pixels and splits.

    Attributes:
        size: side of the images that networks see and evaluators score, pixels.
        load_size: side that training images are cached at; crops are cut from it (0: same as `size`).
        split_seed: seed of the patient split and of the prior; runs that are compared share it.
        fractions: share of patients in train, val and test where a dataset has no official split.
        skip_corrupt: leave images out that cannot be decoded (they are listed in the run) instead of stopping.
        min_crop: least side of the random square crop, as a share of the image; 1 switches cropping off.
        rotate: random rotation up to this many degrees.
    """

    size: int = 512
    load_size: int = 0
    split_seed: int = 0
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    skip_corrupt: bool = False
    min_crop: float = 0.9
    rotate: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """One training, whatever the method.

    Attributes:
        iterations: training steps; for a method, those that train its generators (it may need more steps for them, see
            `Method.budget`). Weights are updated ``iterations / accumulate`` times.
        batch_size: images a domain and step, over all processes together.
        accumulate: steps whose gradients are added before an update.
        precision: ``fp32`` or ``bf16`` (autocast; losses and norms stay fp32).
        compile: compile the networks with torch.compile.
        channels_last: keep activations in NHWC order; on a GPU it pays only with `compile`.
        ema: decay of the moving average of the generators that translation uses; 0 switches it off.
        checkpoint_interval: steps between checkpoints.
        tf32: allow TF32 in CUDA matrix products and convolutions.
    """

    iterations: int = 250_000
    batch_size: int = 2
    accumulate: int = 1
    precision: str = "fp32"
    compile: bool = False
    channels_last: bool = False
    ema: float = 0.0
    checkpoint_interval: int = 5000
    tf32: bool = False


@dataclass(frozen=True)
class PriorConfig:
    """The finding classifier (the paper's CheXNet).

    Attributes:
        arch: ``densenet121``, or ``densenet_small`` for small images.
        size: side its input is resized to.
        weights: a weights file; empty trains on the labels at hand.
        layout: key layout of the file: ``auto``, ``torchvision`` or ``torchxrayvision``.
        findings: names of the file's outputs, where their number does not tell.
        iterations, batch_size, lr: its training.
    """

    arch: str = "densenet121"
    size: int = 256
    weights: str = ""
    layout: str = "auto"
    findings: tuple[str, ...] = ()
    iterations: int = 20_000
    batch_size: int = 32
    lr: float = 3e-4


@dataclass(frozen=True)
class BenchConfig:
    """Everything that can change a result.

    Attributes:
        data, train, prior: of all methods.
        budgets: method -> keys of `train` that are its own (``budgets.munit.batch_size``); a `train` key set later ends them.
        datasets, methods, evaluators: name -> keys of its own.
    """

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunOptions:
    """What cannot change a result.

    Attributes:
        runs: results folder.
        cache: folder for decoded images and features.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        workers: processes that decode images.
        log_interval: steps between log lines.
        assets: folders searched for weight files, first match wins.
        trackers: mmengine visualizer back-ends that get the losses besides ``log.jsonl`` (``tensorboard``).
        wandb: ``online``, ``offline`` or ``off`` (`bench.tracking`).
        image_interval: training steps between the pictures that trackers get; None: about ten a training; 0: no pictures.
        label: what trackers call a run that is one of several (a row of a suite).
    """

    runs: Path = Path("runs")
    cache: Path = Path("runs/cache")
    device: str = "auto"
    workers: int = 2
    log_interval: int = 10
    assets: tuple[Path, ...] = ()
    trackers: tuple[str, ...] = ()
    wandb: str = "off"
    image_interval: int | None = None
    label: str = ""


#: Architectures of the finding classifier.
PRIOR_ARCHS = ("densenet121", "densenet_small")


def preset_names() -> list[str]:
    """Names of the presets that ship with the project."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load(
    preset: str,
    file: str | None = None,
    sets: list[str] | None = None,
    flags: Mapping[str, Any] | None = None,
    variant: str = "",
) -> BenchConfig:
    """Resolve a configuration.

    Args:
        preset: name of a preset.
        file: YAML or Python file of the user's own, or the name of a shipped one (``ablation/fa``), merged over the preset.
        sets: ``section.key=value`` assignments, merged over the files.
        flags: a tree of keys that flags of their own stand for, merged last.
        variant: as `file`, a variant of a suite's: merged over `file`.

    A ``train.K`` of a file, or of assignments and flags, is for every method: of ``budgets.M.K`` only those hold that are set
    there as well, or later.

    Raises:
        UsageError: unknown preset, unreadable file, unknown key (naming the nearest) or a value of the wrong type.
    """
    if preset not in preset_names():
        raise UsageError(
            f"unknown preset '{preset}'.{did_you_mean(preset, preset_names())} Available: {', '.join(preset_names())}."
        )
    tree = read_layer(PRESETS / f"{preset}.yaml")
    for layer in filter(None, (file, variant)):
        shipped = PRESETS / f"{layer}.yaml"
        lay_over(tree, read_layer(shipped if shipped.is_file() and not Path(layer).is_file() else Path(layer)))
    lay_over(tree, command_layer(sets or [], flags or {}))
    return _build(tree)


def _build(tree: Mapping[str, Any]) -> BenchConfig:
    parts: dict[str, Any] = {}
    known = [f.name for f in fields(BenchConfig)]
    for key, value in tree.items():
        if key not in known:
            raise _unknown_key(str(key), _all_keys())
        if key in NAMED:
            if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
                raise UsageError(f"config key '{key}' needs a name and a key below it, for example {key}.NAME.KEY=VALUE.")
            parts[key] = {str(name): dict(section) for name, section in value.items()}
            _check_names(key, parts[key])
        else:
            section: type[Any] = {"data": DataConfig, "train": TrainConfig, "prior": PriorConfig}[key]
            parts[key] = fill(section, value, key)
    config = BenchConfig(**parts)
    _validate(config)
    return config


def _check_names(key: str, sections: Mapping[str, Any]) -> None:
    from bench import registry

    registered = {"evaluators": registry.EVALUATORS, "datasets": registry.DATASETS}.get(key, registry.METHODS)
    for name, section in sections.items():
        registered.check(name)
        if key == "budgets":
            fill(TrainConfig, section, f"budgets.{name}")
        options: Mapping[str, Any] | None = registered.get(name).OPTIONS if key == "datasets" else None
        if options is not None:  # methods and evaluators are checked against their Config
            _check_options(name, section, options)


def _check_options(name: str, section: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    for option in section:
        if not options:
            raise UsageError(f"config key 'datasets.{name}.{option}': dataset '{name}' has no options.")
        if option not in options:
            raise _unknown_key(f"datasets.{name}.{option}", [f"datasets.{name}.{known}" for known in options])


def _all_keys() -> list[str]:
    sections = {"data": DataConfig, "train": TrainConfig, "prior": PriorConfig}
    keys = [f"{s}.{f.name}" for s, c in sections.items() for f in fields(c)]  # type: ignore[arg-type]
    return [*keys, *[f"{name}.NAME.KEY" for name in NAMED]]


def _unknown_key(key: str, known: list[str]) -> UsageError:
    return UsageError(f"unknown config key '{key}'.{did_you_mean(key, known)} Known keys: {', '.join(known)}.")


def fill(cls: type[T], values: Any, where: str) -> T:
    """Make a Config dataclass from plain values, parsed by the fields' types.

    Args:
        cls: a dataclass.
        values: mapping from field names to values; strings are parsed ("0.5", "true", "0.5,0.9").
        where: key prefix for messages.

    Raises:
        UsageError: unknown key, or a value that cannot be parsed or that the dataclass refuses; the message names the whole key, or
            the nearest known one.
    """
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise UsageError(f"config key '{where}' holds several keys ({', '.join(names)}); set one of them.")
    hints = typing.get_type_hints(cls)
    parsed = {}
    for key, value in values.items():
        if key not in names:
            raise _unknown_key(f"{where}.{key}", [f"{where}.{n}" for n in names])
        parsed[key] = parse(value, hints[key], f"{where}.{key}")
    try:
        return cls(**parsed)
    except UsageError as error:  # "folds: 1 is not ..." names the field
        raise UsageError(f"{where}.{error}" if str(error).partition(":")[0] in names else str(error)) from None


def train_config(config: BenchConfig, method: str) -> TrainConfig:
    """The training settings of a method: `train` with the method's own ``budgets`` over them."""
    own = fill(TrainConfig, config.budgets.get(method, {}), f"budgets.{method}")
    return replace(config.train, **{key: getattr(own, key) for key in config.budgets.get(method, {})})


def _validate_train(train: TrainConfig, where: str) -> None:
    checks = [
        (train.iterations > 0, f"iterations={train.iterations}: at least 1."),
        (train.batch_size > 0, f"batch_size={train.batch_size}: at least 1."),
        (train.accumulate > 0, f"accumulate={train.accumulate}: at least 1."),
        (train.precision in ("fp32", "bf16"), f"precision={train.precision}: fp32 or bf16."),
        (0 <= train.ema < 1, f"ema={train.ema}: at least 0, below 1."),
        (train.checkpoint_interval > 0, f"checkpoint_interval={train.checkpoint_interval}: at least 1."),
    ]
    for good, message in checks:
        if not good:
            raise UsageError(f"{where}.{message}")


def _validate(config: BenchConfig) -> None:
    data, prior = config.data, config.prior
    _validate_train(config.train, "train")
    for method in config.budgets:
        _validate_train(train_config(config, method), f"budgets.{method}")
    checks = [
        (prior.arch in PRIOR_ARCHS, f"prior.arch={prior.arch}: {' or '.join(PRIOR_ARCHS)}."),
        (prior.size >= 32, f"prior.size={prior.size}: at least 32."),
        (prior.iterations > 0, f"prior.iterations={prior.iterations}: at least 1."),
        (prior.batch_size > 1, f"prior.batch_size={prior.batch_size}: at least 2."),
        (prior.lr > 0, f"prior.lr={prior.lr}: above 0."),
        (data.size >= 16, f"data.size={data.size}: at least 16."),
        (
            data.load_size == 0 or data.load_size >= data.size,
            f"data.load_size={data.load_size} is below data.size={data.size}.",
        ),
        (
            abs(sum(data.fractions) - 1) < 1e-6 and min(data.fractions) >= 0,
            f"data.fractions={data.fractions} do not add up to 1.",
        ),
        (data.rotate >= 0, f"data.rotate={data.rotate}: at least 0 degrees."),
        (0 < data.min_crop <= 1, f"data.min_crop={data.min_crop}: above 0, at most 1."),
    ]
    for good, message in checks:
        if not good:
            raise UsageError(message)


def section_config(cls: type[T], sections: Mapping[str, Mapping[str, Any]], kind: str, name: str) -> T:
    """The Config of one method or evaluator: its defaults with the preset's section over them."""
    return fill(cls, sections.get(name, {}), f"{kind}.{name}")


def plain(value: Any) -> Any:
    """A dataclass (or a tree of them) as plain JSON-able values."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value


def fingerprint(value: Any) -> str:
    """Hash of a configuration's canonical JSON."""
    return digest(plain(value))


def with_load_size(data: DataConfig) -> DataConfig:
    """Fill in the default of `load_size`."""
    return replace(data, load_size=data.load_size or data.size)
