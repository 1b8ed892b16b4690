"""What the tests of fidelity share: pictures, jobs and a tiny network of features."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import torch
from torch import Tensor, nn

from bench.contracts import Prior, ScoreJob
from bench.data.imageset import ImageSet, Item
from evaluators.fidelity import FidelityConfig

RNG = np.random.default_rng


class TinyPrior(Prior):
    """Random 8-feature network that downsamples by 4."""

    findings, opacity_indices = ("Lung_Opacity",), (0,)

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 8, 4, stride=4)

    def features(self, images: Tensor, relu: bool = True) -> Tensor:
        assert images.dtype == torch.float32
        assert images.abs().max() <= 1
        maps = self.conv(images)
        return maps.relu() if relu else maps

    def classify(self, features: Tensor) -> Tensor:
        return features.mean((1, 2, 3)).sigmoid()[:, None]


def pictures(n: int, seed: int, noise: float = 0.0, size: int = 16) -> np.ndarray:
    """Smooth random pictures with optional pixel noise, n x S x S uint8."""
    rng = RNG(seed)
    base = np.kron(rng.uniform(60, 190, (n, size // 4, size // 4)), np.ones((4, 4)))
    return np.clip(base + noise * RNG(seed + 1).normal(size=base.shape), 0, 255).astype(np.uint8)


def images(array: np.ndarray, domain: str = "opacity", name: str = "toy") -> ImageSet:
    items = [Item(f"i{k}", f"p{k}", domain) for k in range(len(array))]
    return ImageSet(name, items, {"image": array}, hashlib.sha1(array.tobytes()).hexdigest()[:16])


def job(tmp_path: Path, translated: np.ndarray, reference: np.ndarray, domain: str = "opacity", **params: Any) -> ScoreJob:
    config = FidelityConfig(**{"extractor": "cxr", "kid_subsets": 20, "subsamples": 5, **params})
    out, real = images(translated, domain), images(reference, "clear", "reference")
    prior: dict[str, Any] = {"prior": TinyPrior, "prior_id": "abc"} if config.extractor == "cxr" else {}
    return jobs.job(tmp_path, out, config, reference=real, assets=(tmp_path,), **prior)


def seen(array: np.ndarray, domain: str, views: list[str], patients: list[str] | None = None) -> ImageSet:
    plain = images(array, domain)
    names = patients or plain.patients
    items = [replace(item, view=view, patient_id=p) for item, view, p in zip(plain.items, views, names, strict=True)]
    return ImageSet(domain, items, {"image": array}, plain.fingerprint + domain + "".join(views))


def own_features(array: np.ndarray) -> np.ndarray:
    maps = TinyPrior().features(torch.from_numpy(array)[:, None].float() / 127.5 - 1)
    found: np.ndarray = maps.mean((2, 3)).detach().numpy()
    return found
