"""Fidelity: does the set of translated images look like real clear images? Frechet and kernel distance of features.

Two extractors, never mixed in one column. ``inception`` is the published FID/KID through torch-fidelity (its network,
its weights by hash, its formulas). ``cxr`` takes the finding classifier's features; the same formulas on other features
are another metric, so they are called FD-cxr and KD-cxr, never FID. Both need no counterpart and cannot tell whether the
right thing was removed; `faithfulness` can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

from bench.assets import Asset
from bench.contracts import Evaluator, Metric, Prior, Score, ScoreJob
from bench.data.contract import OPACITY
from bench.data.imageset import ImageSet
from bench.errors import DataError, PreflightError, UsageError
from bench.files import digest, replace_atomically
from bench.registry import register_evaluator
from evaluators.statistics import IntArray, half_sample_interval

Features = npt.NDArray[np.float32]

#: The network of the published FID; the second name is pytorch-fid's for the same file.
INCEPTION = Asset(
    names=("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    size=95_628_359,
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    purpose="fidelity with extractor=inception (FID, KID)",
    source="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    instead="use extractor=cxr, which needs no download",
)

#: What happens to pixels before the extractor; part of the cache key, to be renamed with every change.
PREPROCESSING = {"inception": "uint8-grey-to-rgb/1", "cxr": "uint8-grey-to-unit-range/1"}
#: Below this many images FID's bias is of the order of the value itself (the Inception features have 2048 dimensions).
FEW = 2048


@dataclass(frozen=True)
class FidelityConfig:
    """Parameters of `Fidelity`.

    Attributes:
        extractor: ``inception`` (FID, KID) or ``cxr`` (FD-cxr, KD-cxr on the finding classifier's features).
        kid_subsets: subsets that the kernel distance is averaged over.
        kid_subset_size: images in each; at most half of the smaller set, or the spread over subsets would mean nothing.
        batch_size: images through the extractor at once; changes no number.
        subsamples: half-samples by patient behind each interval; 0 for none.
    """

    extractor: str = "inception"
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    batch_size: int = 32
    subsamples: int = 20

    def __post_init__(self) -> None:
        if self.extractor not in PREPROCESSING:
            raise UsageError(f"fidelity: extractor '{self.extractor}' is neither 'inception' nor 'cxr'.")
        if min(self.kid_subsets, self.batch_size) < 1 or self.kid_subset_size < 2 or self.subsamples < 0:
            raise UsageError("fidelity: kid_subsets and batch_size must be >= 1, kid_subset_size >= 2, subsamples >= 0.")


@register_evaluator("fidelity")
class Fidelity(Evaluator):
    """Distance of the translated opacity images to the real clear images, in feature space.

    Attributes:
        extracted: images that went through the extractor in the last `score`, under ``translated`` and ``reference``.
    """

    Config: ClassVar[type] = FidelityConfig
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"prior"})
    min_images: ClassVar[int] = 2
    assets: ClassVar[tuple[Asset, ...]] = (INCEPTION,)

    def __init__(self) -> None:
        self.extracted: Counter[str] = Counter()

    @classmethod
    def requires(cls, params: Any) -> frozenset[str]:
        """Only the ``cxr`` extractor needs the prior."""
        return cls.needs if params.extractor == "cxr" else frozenset()

    @classmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        """Kernel distance first: it is unbiased at any n, so tables rank by it."""
        if params.extractor == "cxr":
            return (
                Metric("kd_cxr", "KD-cxr", "lower", digits=2, primary=True),
                Metric("fd_cxr", "FD-cxr", "lower", digits=2, primary=True),
            )
        return (
            Metric("kid", "KID", "lower", digits=4, primary=True),
            Metric("fid", "FID", "lower", digits=2, primary=True),
        )

    @classmethod
    def missing_assets(cls, params: Any, assets: tuple[Path, ...]) -> list[str]:
        """The Inception weights, unless they are found with the right digest."""
        if params.extractor == "cxr":
            return []
        problem = INCEPTION.missing(_searched(assets))
        return [problem] if problem else []

    def score(self, job: ScoreJob) -> dict[str, Score]:
        """Features of both sets, then both distances (generated first)."""
        self.extracted = Counter()
        translated, notes = _to_compare(job)
        extractor = _Extractor(job, self.extracted)
        real = extractor.cached(job.reference)
        generated = extractor.features(translated, "translated")
        if job.params.extractor == "cxr":
            generated, real = standardise(generated, real)
            notes = (*notes, "features standardised with the reference set's mean and deviation")
        patients = (translated.patients, job.reference.patients)
        both = _Comparison(generated, real, patients, job.params, job.seed, notes)
        kd, fd = (metric.key for metric in self.metrics(job.params))
        return {kd: both.kernel(), fd: both.frechet()}


def _to_compare(job: ScoreJob) -> tuple[ImageSet, tuple[str, ...]]:
    """The translated opacity images; all translated images (and a note) where the set has no opacity image."""
    rows = [i for i, domain in enumerate(job.source.domains) if domain == OPACITY]
    if rows:
        return job.translated.subset(rows, OPACITY), ()
    return job.translated, ("no opacity images in this test set: all translated images are compared",)


@dataclass(frozen=True)
class _Comparison:
    """Features of both sets (n x D, m x D) with their patients: what both scores are computed from."""

    generated: Features
    real: Features
    patients: tuple[list[str], list[str]]
    params: FidelityConfig
    seed: int
    notes: tuple[str, ...]

    def frechet(self) -> Score:
        """FD with its interval over half-samples."""
        n, m = len(self.generated), len(self.real)
        if min(n, m) < 2:
            return Score(None, n, note=_join(*self.notes, "a covariance needs two images in each set"))
        value = frechet(self.generated, self.real)
        ci = self._interval(value, frechet_quick)
        few = f"biased upwards at n = {n} against {m} (fewer than {FEW}): compare only at equal n" if min(n, m) < FEW else ""
        return Score(value, n, ci=(max(0.0, ci[0]), ci[1]) if ci else None, note=_join(*self.notes, few))

    def kernel(self) -> Score:
        """KD over subsets with its interval over half-samples, each one taken as a single subset."""
        n, smaller = len(self.generated), min(len(self.generated), len(self.real))
        asked, size = self.params.kid_subset_size, min(self.params.kid_subset_size, smaller // 2)
        if size < 2:
            return Score(None, n, note=_join(*self.notes, "subsets of half the images need four images in each set"))
        value, std = kernel_distance(self.generated, self.real, self.params.kid_subsets, size, self.seed)
        ci = self._interval(value, lambda a, b: kernel_distance(a, b, 1, min(len(a), len(b)), self.seed)[0])
        adapted = f"subset size {size}, half of the smaller set (configured: {asked})" if size < asked else ""
        return Score(value, n, std, "subsets", ci, _join(*self.notes, adapted))

    def _interval(self, value: float, distance: Callable[[Features, Features], float]) -> tuple[float, float] | None:
        def on(a: IntArray, b: IntArray) -> float:
            return distance(self.generated[a], self.real[b])

        return half_sample_interval(value, on, self.patients, self.params.subsamples, self.seed)


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def frechet(generated: Features, real: Features) -> float:
    """Frechet distance of Gaussians fitted to two feature sets (n x D, m x D), by torch-fidelity's formula."""
    a, b = (fid_features_to_statistics(torch.from_numpy(f)) for f in (generated, real))
    return float(fid_statistics_to_metric(a, b, verbose=False)[KEY_METRIC_FID])


def frechet_quick(generated: Features, real: Features) -> float:
    """The same number as `frechet`, cheaper when a set has far fewer images than features have dimensions.

    With centred features X and Y, the trace of (Sx Sy)^1/2 is the sum of singular values of X Y' (over the root of both
    degrees of freedom): an n x m problem instead of D x D, which half-samples would solve twenty times over.
    """
    if min(len(generated), len(real)) > generated.shape[1] // 2:
        return frechet(generated, real)
    x, y = generated.astype(np.float64), real.astype(np.float64)
    shift = x.mean(axis=0) - y.mean(axis=0)
    x = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    y = (y - y.mean(axis=0)) / np.sqrt(len(y) - 1)
    return float(shift @ shift + (x**2).sum() + (y**2).sum() - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum())


def kernel_distance(generated: Features, real: Features, subsets: int, size: int, seed: int) -> tuple[float, float]:
    """Unbiased squared MMD with the cubic kernel (Binkowski et al. 2018), by torch-fidelity: mean and std over subsets."""
    out = kid_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(real),
        kid_subsets=subsets, kid_subset_size=size, rng_seed=seed, verbose=False,
    )  # fmt: skip
    return float(out[KEY_METRIC_KID_MEAN]), float(out[KEY_METRIC_KID_STD])


def standardise(generated: Features, real: Features) -> tuple[Features, Features]:
    """Both sets in units of the reference's mean and deviation, a feature at a time.

    The cubic kernel is not scale-free, and features of another network come in any scale. Deviations are floored at 1 % of
    their root mean square, so that a feature nearly dead on the reference cannot rule the distance.
    """
    mean, std = real.mean(axis=0, dtype=np.float64), real.std(axis=0, dtype=np.float64)
    floor = 0.01 * float(np.sqrt((std**2).mean()))
    std = np.maximum(std, floor) if floor > 0 else np.ones_like(std)
    scaled = [((f - mean) / std).astype(np.float32) for f in (generated, real)]
    return scaled[0], scaled[1]


class _Extractor:
    """Images -> features (n x D), with the reference's kept on disk. The network is built on first use only.

    Args:
        job: the evaluator's job.
        count: where images that really went through the network are counted.
    """

    def __init__(self, job: ScoreJob, count: Counter[str]) -> None:
        self.job, self.count, self.kind = job, count, str(job.params.extractor)
        if self.kind == "cxr" and (job.prior is None or not job.prior_id):
            raise PreflightError("fidelity with extractor=cxr needs the finding classifier (prior), and this run has none.")
        self._inception = _weights_of(job) if self.kind == "inception" else None

    @cached_property
    def network(self) -> FeatureExtractorBase:
        """The extractor in eval mode on the job's device."""
        if self.job.prior is not None and self._inception is None:
            return _PooledPrior(self.job.prior()).to(self.job.device)
        return create_feature_extractor(
            "inception-v3-compat", ["2048"], cuda=False, verbose=False, feature_extractor_weights_path=str(self._inception)
        ).to(self.job.device)

    def cached(self, images: ImageSet) -> Features:
        """Features of a real set: computed once for each content, extractor, weights and preprocessing."""
        weights = self.job.prior_id if self._inception is None else INCEPTION.sha256
        key = digest([images.fingerprint, len(images), self.kind, weights, PREPROCESSING[self.kind]], size=16)
        path = self.job.cache / f"features-{self.kind}-{key}.npy"
        known = _read(path, len(images))
        if known is not None:
            return known
        found = self.features(images, "reference")

        def write(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                np.save(stream, found, allow_pickle=False)

        replace_atomically(path, write)
        return found

    def features(self, images: ImageSet, name: str) -> Features:
        """Features of a set, n x D float32, in full single precision (no TF32) on every device."""
        cuda, batch_size = self.job.device.type == "cuda", self.job.params.batch_size
        seen = self.network.register_forward_pre_hook(lambda _, args: self.count.update({name: len(args[0])}))
        where: AbstractContextManager[Any] = torch.cuda.device(self.job.device) if cuda else nullcontext()
        try:
            with where, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                out = get_featuresdict_from_dataset(
                    _Tensors(images, self.kind), self.network, batch_size, cuda, save_cpu_ram=True, verbose=False
                )
        finally:
            seen.remove()
        found: Features = next(iter(out.values())).float().numpy()
        if not np.isfinite(found).all():
            raise DataError(f"{images.name}: the {self.kind} features are not finite; look at these images' pixels.")
        return found


class _PooledPrior(FeatureExtractorBase):  # type: ignore[misc]
    """The prior's post-ReLU feature maps, averaged over the image: N x C x H x W in [-1, 1] -> N x F."""

    def __init__(self, prior: Prior) -> None:
        super().__init__("cxr", ["pooled"])
        self.prior = prior.eval()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("pooled",)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.prior.features(images, relu=True).mean(dim=(2, 3)),)


class _Tensors(Dataset[Tensor]):
    """An image set as torch-fidelity wants it, always through 8 bits so that both sides have the same quantisation."""

    def __init__(self, images: ImageSet, kind: str) -> None:
        self.images, self.kind = images, kind

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """uint8 3 x S x S for ``inception`` (it resizes to 299 itself), float 1 x S x S in [-1, 1] for ``cxr``."""
        pixels = torch.from_numpy(self.images.bytes([index]))
        return pixels.expand(3, -1, -1) if self.kind == "inception" else pixels.float() / 127.5 - 1.0


def _read(path: Path, rows: int) -> Features | None:
    """Cached features, or None where there are none; a damaged file counts as none and is written anew."""
    try:
        with path.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == rows and found.dtype == np.float32 else None


def _weights_of(job: ScoreJob) -> Path:
    found, _ = INCEPTION.find(_searched(job.assets))
    if found is None:
        raise PreflightError(INCEPTION.missing(_searched(job.assets)))
    return found


def _searched(assets: Sequence[Path]) -> tuple[Path, ...]:
    """The run's asset folders, then torch's own."""
    return (*assets, Path(torch.hub.get_dir()) / "checkpoints")
