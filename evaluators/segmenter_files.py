"""Weight files of lung segmenters: the user's own, whole or encoder only, in every usual key layout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.assets import locate, unreadable
from bench.errors import PreflightError, UsageError, did_you_mean
from evaluators.segmenters import ARCHS, Segmenter

#: How a user names a whole segmenter, and an encoder.
FLAG, ENCODER_FLAG = "--segmenter-weights ", "--set evaluators.segmentation.encoder_weights="


def entries(texts: Sequence[str], known: Sequence[str], option: str) -> dict[str, str]:
    """``NAME=PATH`` texts -> name -> path.

    Raises:
        UsageError: not of that form, an unknown name, or one given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"segmentation: {option} '{text}': expected NAME=PATH, NAME one of {', '.join(known)}.")
        if name not in known:
            near = did_you_mean(name, known)
            raise UsageError(f"segmentation: {option} '{text}': unknown name '{name}'.{near} Available: {', '.join(known)}.")
        if name in found:
            raise UsageError(f"segmentation: {option} names {name} twice.")
        found[name] = path
    return found


def problem(name: str, path: str, full: bool, assets: Sequence[Path]) -> str:
    """What is wrong with a weights file, in one line; empty where nothing is.

    Args:
        name: architecture (`full`) or encoder.
        path: as given.
        full: the file holds a whole segmenter.
        assets: folders searched.
    """
    what = f"{FLAG if full else ENCODER_FLAG}{name}={path}"
    found = locate(path, assets)
    if found is None:
        searched = dict.fromkeys([path, *(str(folder / path) for folder in assets)])
        return f"{what}: there is no such file. Searched: {', '.join(searched)}. Correct the path, or leave it out."
    try:
        _check(found, found.stat().st_mtime_ns, name, full)
    except PreflightError as error:
        return f"{what}: {error}"
    return ""


@lru_cache(maxsize=32)
def _check(path: Path, changed: int, name: str, full: bool) -> None:
    """Load a file into a network without storage; `changed` is there to forget a file that was replaced."""
    arch = name if full else next(arch for arch, kind in ARCHS.items() if kind.encoder == name)
    with torch.device("meta"):
        segmenter = Segmenter(arch)
    (load_segmenter if full else load_encoder)(segmenter, path)


_WRAPPERS = re.compile(r"^(module\.|model\.|segmenter\.|net\.|state_dict\.)+")
#: What classifiers have after their encoder: torchvision's and timm's names.
_HEADS = ("fc.", "classifier.", "head.", "pre_logits.", "last_linear.")


def load_segmenter(segmenter: Segmenter, path: Path) -> None:
    """Load a full state dict of the segmenter's architecture (smp's keys; for CE-Net those of `CENet`).

    A stem of three input channels is summed to one, which is exact for grey images repeated in all of them. Nothing in a file
    tells the range of grey values its weights expect: they are given [-1, 1], black to white. A stem that learnt from
    [0, 1] or from images standardised otherwise has to be rescaled before it is saved.

    Raises:
        PreflightError: the file is unreadable or of another architecture; the message names file, architecture and first key.
    """
    _load(segmenter.net, _read(path), path, f"a {ARCHS[segmenter.arch].title} ('{segmenter.arch}') of one class")


def load_encoder(segmenter: Segmenter, path: Path) -> None:
    """Load an encoder only: torchvision's, timm's or smp's keys; a classifier's head is left out, the stem summed to one channel.

    Raises:
        PreflightError: as `load_segmenter`.
    """
    state = _read(path)
    if any(key.startswith("encoder.") for key in state):
        state = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    state = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    encoder = segmenter.net.encoder
    assert isinstance(encoder, nn.Module)
    _load(encoder, state, path, f"a {ARCHS[segmenter.arch].encoder} encoder")


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, possibly nested under ``state_dict`` or ``model``; no code is unpickled."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise PreflightError(unreadable(path, error)) from error
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    items = content.items() if isinstance(content, Mapping) else ()
    return {_WRAPPERS.sub("", str(key)): value for key, value in items if isinstance(value, Tensor)}


def _load(module: nn.Module, state: dict[str, Tensor], path: Path, what: str) -> None:
    own = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    for key, value in own.items():
        found = given.get(key)
        if found is not None and found.ndim == 4 and found.shape[1] == 3 and value.shape[1] == 1:
            given[key] = found = found.sum(1, keepdim=True)
        if found is None or found.shape != value.shape:
            shape = "is missing" if found is None else f"has shape {tuple(found.shape)} instead of {tuple(value.shape)}"
            raise PreflightError(f"{path} does not hold the weights of {what}: '{key}' {shape}. Name a file of that architecture.")
    surplus = next((key for key in given if key not in own), "")
    if surplus:
        raise PreflightError(
            f"{path} does not hold the weights of {what}: it has '{surplus}', which is none of it. Name a file of that architecture."
        )
    if not any(p.is_meta for p in module.parameters()):  # `_check` only compares
        module.load_state_dict(given, strict=False)
