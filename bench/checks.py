"""The contract checks behind ``bench check`` and the test-suite: a few steps and translations on rendered images, in seconds."""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.config import load, section_config
from bench.contracts import Batch, Draws, Method, Trainable, Translation
from bench.data.contract import FINDINGS
from bench.data.synthetic.render import render
from bench.data.synthetic.spec import case
from bench.errors import BenchError
from bench.hooks import wrong_losses
from bench.prior import DensePrior
from bench.registry import METHODS
from bench.runner import ParallelOptimWrapper

SIZE = 64
_BATCH = 2
#: Steps of a stage at most, however long it is by itself; a budget long enough to give every stage something.
MOST, LONG = 16, 1000


class ContractError(BenchError):
    """A method breaks the contract; the message names the part."""


def check_method(name: str) -> Iterator[str]:
    """Check a method, yielding a line for each part that holds.

    Raises:
        ContractError: the first part that does not.
    """
    cls = METHODS.get(name)
    _check_class(name, cls)
    yield f"{name}: declares Config, version {cls.version}, licence, paper, directions {', '.join(cls.directions)}"
    config = section_config(cls.Config, load("quick").methods, "methods", name)
    for channels in (1, 3):
        try:
            method = _build(cls, config, channels)
            notes = _check_training(name, method, channels) if cls.stages else []
            _check_translation(name, method, channels)
        except BenchError:
            raise
        except Exception as error:
            raise ContractError(f"method '{name}': {_told(error)} (with {channels} channels)") from error
        yield f"{name}: works with {channels} channel{'s' if channels > 1 else ''}: trains, translates, saves and loads"
        yield from (f"{name}: {note}" for note in notes)
    yield f"{name}: holds the contract"


def _told(error: Exception) -> str:
    """An error of the method's own in one line, with the place it comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _check_class(name: str, cls: type) -> None:
    if not issubclass(cls, Method):
        raise ContractError(f"method '{name}': {cls.__name__} must derive from bench.contracts.Method.")
    if not dataclasses.is_dataclass(getattr(cls, "Config", None)):
        raise ContractError(f"method '{name}': Config is missing; define a frozen dataclass with every hyper-parameter.")
    for part in ("paper", "license"):
        if not getattr(cls, part):
            raise ContractError(f"method '{name}': {part} is empty; leaderboards show it.")
    if not cls.directions or set(cls.directions) - {"a2b", "b2a"}:
        raise ContractError(f"method '{name}': directions must be among 'a2b' and 'b2a', not {cls.directions}.")
    missing = sorted(cls.__abstractmethods__) if hasattr(cls, "__abstractmethods__") else []
    parts = ("translate",) if not cls.stages else ("optimizers", "step", "translate")
    missing += [
        p for p in parts if getattr(cls, p) is getattr(Method, p, None) or getattr(cls, p) is getattr(Trainable, p, None)
    ]
    if missing:
        raise ContractError(f"method '{name}': {', '.join(dict.fromkeys(missing))} must be defined.")


def _build(cls: type[Method], config: Any, channels: int) -> Method:
    torch.manual_seed(0)
    prior = DensePrior("densenet_small", FINDINGS, SIZE).eval() if "prior" in cls.requires(config) else None
    return cls(config, channels, prior)


def _images(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    ill = [drawn for i in range(5 * _BATCH) if (drawn := case(0, "synthetic-icu", i)).lesions][:_BATCH]
    opacity = torch.stack([torch.from_numpy(render(drawn, SIZE).image) for drawn in ill])
    clear = torch.stack([torch.from_numpy(render(case(0, "synthetic-clear", i), SIZE).image) for i in range(_BATCH)])
    return tuple((x[:, None] * 2 - 1).expand(-1, channels, -1, -1).contiguous() for x in (opacity, clear))  # type: ignore[return-value]


def _steps(method: Method, stage: str) -> tuple[int, int]:
    """Steps that a stage is checked for, and how many two updates of the generators take; none where it is left out."""
    if not method.budget(method.config, stage, LONG, _BATCH)[0]:
        return 0, 0
    wanted = max(2, method.budget(method.config, stage, 2, _BATCH)[0])
    return min(wanted, MOST), wanted


def _check_training(name: str, method: Method, channels: int) -> list[str]:
    """Train a few steps of each stage; returns what could not be seen in so few."""
    opacity, clear = _images(channels)
    extra = (
        {f"lung_mask_{d}": torch.ones(_BATCH, 1, SIZE, SIZE) for d in ("opacity", "clear")}
        if "lung_mask" in method.needs
        else {}
    )
    notes: list[str] = []
    method.train()
    for stage in method.stages:
        steps, wanted = _steps(method, stage)
        if not steps:
            continue
        method.begin(stage)
        optimizers = method.optimizers()
        if not optimizers:
            raise ContractError(f"method '{name}': optimizers() returned none for stage '{stage}'.")
        optim = {key: ParallelOptimWrapper(1, optimizer=value) for key, value in optimizers.items()}
        before = {k: [p.detach().clone() for g in o.param_groups for p in g["params"]] for k, o in optimizers.items()}
        factors = [method.lr_factor(step, 10) for step in range(10)]
        if not all(math.isfinite(f) and f >= 0 for f in factors):
            raise ContractError(f"method '{name}': lr_factor must be finite and not negative.")
        for step in range(steps):
            losses = method.step(Batch(opacity, clear, Draws(0, step, 0, _BATCH, _BATCH), dict(extra)), optim, stage)
            if wrong := wrong_losses(losses):
                raise ContractError(f"method '{name}': {wrong}")
            for key, value in losses.items():
                if value.requires_grad:
                    raise ContractError(f"method '{name}': step's '{key}' must be a detached scalar tensor.")
                if not torch.isfinite(value):
                    raise ContractError(f"method '{name}': step's '{key}' is {value.item()} after {step + 1} steps.")
        for key, optimizer in optimizers.items():
            now = [p for g in optimizer.param_groups for p in g["params"]]
            if not all(torch.equal(a, b) for a, b in zip(before[key], now, strict=True)):
                continue
            if steps < wanted:
                notes.append(f"stage '{stage}': optimizer '{key}' does not step within {steps} of {wanted} steps; unchecked")
            else:
                raise ContractError(
                    f"method '{name}': {steps} steps changed nothing under optimizer '{key}'; step must call update_params."
                )
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in method.state_dict().items()}
    method.load_state_dict(state)
    return notes


def _check_translation(name: str, method: Method, channels: int) -> None:
    method.eval()
    images, _ = _images(channels)
    seeds = list(range(_BATCH))
    for direction in method.directions:
        with torch.inference_mode():
            out = method.translate(images, direction, seeds)
            single = method.translate(images[1:], direction, seeds[1:])
            again = method.translate(images, direction, seeds)
        if not isinstance(out, Translation):
            raise ContractError(f"method '{name}': translate must return a Translation, not {type(out).__name__}.")
        if out.image.shape != images.shape:
            raise ContractError(f"method '{name}': translate returned {tuple(out.image.shape)} for {tuple(images.shape)}.")
        if not torch.isfinite(out.image).all() or out.image.abs().max() > 1 + 1e-4:
            raise ContractError(f"method '{name}': translated values must be finite and in [-1, 1].")
        if not torch.equal(out.image, again.image):
            raise ContractError(f"method '{name}': translate gives other values for the same images and seeds.")
        if not torch.allclose(out.image[1:], single.image, atol=1e-4):
            raise ContractError(f"method '{name}': translate depends on the other images of the batch.")
        if out.mask is not None:
            expected = (len(images), 1, *images.shape[2:])
            if out.mask.shape != expected or out.mask.min() < -1e-4 or out.mask.max() > 1 + 1e-4:
                raise ContractError(f"method '{name}': mask must be {expected} with values in [0, 1].")
