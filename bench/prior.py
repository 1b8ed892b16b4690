"""The prior: the frozen finding classifier C = psi o phi (the paper's CheXNet), trained here or loaded from a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.assets import unreadable
from bench.config import PriorConfig
from bench.contracts import LabelledBatch, OptimWrappers, Prior, Trainable
from bench.data.contract import FINDINGS, LUNG_OPACITY, OPACITY_FINDINGS
from bench.errors import BenchError, PreflightError

#: Outputs of torchxrayvision's 18-output classifiers, in their order.
XRV_FINDINGS = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis", "Effusion",
    "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung Lesion", "Fracture",
    "Lung_Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DensePrior(Prior):
    """A DenseNet finding classifier.

    Args:
        arch: ``densenet121`` (phi is 1024 x 8 x 8 at 256 pixels) or ``densenet_small`` (a stem of one stride-2
            convolution and three blocks: phi is F x 8 x 8 at 64 pixels).
        findings: names of the outputs.
        size: side inputs are resized to (bilinear, antialiased).
        scaling: ``imagenet`` (3 channels, mean and std) or ``xrv`` (1 channel, [-1024, 1024]).
        digest: identity of its weights, for records and cache keys.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, arch: str, findings: tuple[str, ...], size: int, scaling: str = "imagenet", digest: str = "") -> None:
        super().__init__()
        from torchvision.models import DenseNet

        if arch == "densenet121":
            self.net = DenseNet(32, (6, 12, 24, 16), 64, num_classes=len(findings))
        else:
            self.net = DenseNet(12, (3, 4, 4), 24, num_classes=len(findings))
            self.net.features.conv0 = nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False)
            self.net.features.pool0 = nn.Identity()
        if scaling == "xrv":
            self.net.features.conv0 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.arch, self.findings, self.size, self.scaling = arch, findings, size, scaling
        self.digest = digest
        self.opacity_indices = tuple(i for i, name in enumerate(findings) if name in OPACITY_FINDINGS)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def _prepare(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.size or images.shape[-2] != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        if self.scaling == "xrv":
            return images.mean(1, keepdim=True) * 1024.0
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return ((images + 1) / 2 - self.mean) / self.std

    def features(self, images: Tensor, relu: bool = True) -> Tensor:
        """phi of N x C x H x W images in [-1, 1]: N x F x h x w; see `Prior.features`."""
        maps = self.net.features(self._prepare(images))
        return F.relu(maps) if relu else maps

    def logits(self, features: Tensor) -> Tensor:
        """psi before the sigmoid: N x K."""
        return self.net.classifier(features.mean((2, 3)))

    def classify(self, features: Tensor) -> Tensor:
        """psi: finding probabilities N x K of post-ReLU feature maps."""
        return torch.sigmoid(self.logits(features).float())


class AbsentPrior(Prior):
    """Stands where a method expects the prior that only its training uses; any call is an error."""

    findings = (LUNG_OPACITY,)
    opacity_indices = (0,)

    def features(self, images: Tensor, relu: bool = True) -> Tensor:
        raise BenchError("the prior is not loaded here: translation must not use it.")

    def classify(self, features: Tensor) -> Tensor:
        raise BenchError("the prior is not loaded here: translation must not use it.")


class PriorTraining(Trainable):
    """Trains a `DensePrior` on known labels with binary cross-entropy (AdamW, cosine)."""

    def __init__(self, prior: DensePrior, lr: float) -> None:
        super().__init__()
        self.prior, self.lr = prior, lr

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"C": torch.optim.AdamW(self.prior.parameters(), lr=self.lr, weight_decay=1e-4)}

    def lr_factor(self, step: int, total: int) -> float:
        """One cycle: linear warm-up over the first tenth, then cosine to 0."""
        warm = max(1, total // 10)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - warm) / max(1, total - warm)))))

    def step(self, batch: LabelledBatch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        logits = self.prior.logits(self.prior.features(batch.image)).float()
        each = F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")
        loss = (each * batch.known).sum() / batch.known.sum().clamp(min=1)
        optim["C"].update_params(loss)
        return {"loss": loss.detach()}


def build(config: PriorConfig, findings: tuple[str, ...]) -> DensePrior:
    """An untrained prior of the configured architecture."""
    return DensePrior(config.arch, findings, config.size)


def from_file(config: PriorConfig, path: Path, digest: str) -> DensePrior:
    """Load a weights file in torchvision's, CheXNet's or torchxrayvision's key layout.

    Args:
        config: names architecture, layout and (where the number of outputs does not tell) the findings.
        path: a state dict, possibly nested under ``state_dict`` or ``model``; loaded without unpickling code.
        digest: hash of the file.

    Raises:
        PreflightError: the file is unreadable, holds a whole pickled model, or fits no known layout.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise PreflightError(f"prior.weights: {unreadable(path, error)}") from error
    state = _normalise_keys(content)
    head, stem = state.get("classifier.weight"), state.get("features.conv0.weight")
    if head is None or stem is None:
        raise PreflightError(f"prior.weights={path}: no DenseNet-121 keys found (features.conv0.weight, classifier.weight).")
    layout = config.layout if config.layout != "auto" else ("torchxrayvision" if stem.shape[1] == 1 else "torchvision")
    findings = config.findings or _findings_for(int(head.shape[0]), layout, path)
    if len(findings) != head.shape[0]:
        raise PreflightError(f"prior.weights={path} has {head.shape[0]} outputs, prior.findings names {len(findings)}.")
    prior = DensePrior(
        "densenet121", tuple(findings), config.size, "xrv" if layout == "torchxrayvision" else "imagenet", digest
    )
    try:
        prior.net.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[1].strip()[:200]
        raise PreflightError(f"prior.weights={path} is not a DenseNet-121: {why}") from error
    return prior


def _findings_for(outputs: int, layout: str, path: Path) -> tuple[str, ...]:
    if outputs == len(FINDINGS):
        return FINDINGS
    if outputs == len(XRV_FINDINGS) and layout == "torchxrayvision":
        return XRV_FINDINGS
    raise PreflightError(f"prior.weights={path} has {outputs} outputs; name them: --set prior.findings=A,B,...")


def _normalise_keys(content: Any) -> dict[str, Tensor]:
    """Bring the key spellings of the known layouts down to torchvision's present one."""
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    state = {}
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if not isinstance(value, Tensor):
            continue
        plain = re.sub(r"^(module\.|model\.|densenet121\.)+", "", key)
        plain = re.sub(r"(norm|relu|conv)\.(\d)", r"\1\2", plain)  # torchvision before 0.3: "norm.1" for "norm1"
        plain = plain.replace("classifier.0.", "classifier.")
        if plain.startswith(("features.", "classifier.")):
            state[plain] = value
    return state
