"""Features of images: two networks, their weights, and the features of real sets kept on disk.

``inception`` is the network of the published FID and KID through torch-fidelity; ``cxr`` is the run's finding classifier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bench.assets import Asset
from bench.contracts import Job
from bench.data.imageset import ImageSet
from bench.errors import DataError, PreflightError
from bench.files import digest, replace_atomically

if TYPE_CHECKING:
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

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
#: The network, its resizing and the distances are this library's.
LIBRARY = f"torch-fidelity {version('torch-fidelity')}"


class Extractor:
    """Images -> features (n x D), with the reference's kept on disk. The network is built on first use only.

    Args:
        job: the evaluator's job; `params` has ``extractor`` (a key of `PREPROCESSING`) and ``batch_size``.
        count: where images that really went through the network are counted.
    """

    def __init__(self, job: Job, count: Counter[str]) -> None:
        self.job, self.count, self.kind = job, count, str(job.params.extractor)
        if self.kind == "cxr" and (job.prior is None or not job.prior_id):
            raise PreflightError("fidelity with extractor=cxr needs the finding classifier (prior), and this run has none.")
        self._inception = _weights_of(job) if self.kind == "inception" else None

    @cached_property
    def network(self) -> FeatureExtractorBase:
        """The extractor in eval mode on the job's device."""
        if self.job.prior is not None and self._inception is None:
            from evaluators.pooled_prior import PooledPrior

            return PooledPrior(self.job.prior()).to(self.job.device)
        from torch_fidelity.utils import create_feature_extractor

        return create_feature_extractor(
            "inception-v3-compat", ["2048"], cuda=False, verbose=False, feature_extractor_weights_path=str(self._inception)
        ).to(self.job.device)

    def key(self, images: ImageSet) -> str:
        """Hash of all that a set's features depend on: content, extractor, weights, preprocessing and library."""
        weights = self.job.prior_id if self._inception is None else INCEPTION.sha256
        return digest([images.fingerprint, len(images), self.kind, weights, PREPROCESSING[self.kind], LIBRARY], size=16)

    def cached(self, images: ImageSet, name: str) -> Features:
        """Features of a real set: computed once for each `key`. `name` is what they are counted under."""
        path = self.job.cache / f"features-{self.kind}-{self.key(images)}.npy"
        known = _read(path, len(images))
        if known is not None:
            return known
        found = self.features(images, name)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                np.save(stream, found, allow_pickle=False)

        replace_atomically(path, write)
        return found

    def features(self, images: ImageSet, name: str) -> Features:
        """Features of a set, n x D float32, in full single precision (no TF32) on every device."""
        from torch_fidelity.utils import get_featuresdict_from_dataset

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


def missing_weights(assets: Sequence[Path]) -> str:
    """What to do about the Inception weights, or nothing where they are found with the right digest."""
    return INCEPTION.missing(_searched(assets))


def _weights_of(job: Job) -> Path:
    found, _ = INCEPTION.find(_searched(job.assets))
    if found is None:
        raise PreflightError(missing_weights(job.assets))
    return found


def _searched(assets: Sequence[Path]) -> tuple[Path, ...]:
    """The run's asset folders, then torch's own."""
    return (*assets, Path(torch.hub.get_dir()) / "checkpoints")
