"""Classifiers that answer "opacity or clear?": architectures, start weights, and how they are trained.

The networks are timm's, with one input channel and one output. They start from scratch, or from a weights file of the
user's own; nothing is ever downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.assets import unreadable
from bench.checking import check_above, check_at_least, check_below_one, check_choice
from bench.config import TrainConfig
from bench.contracts import LabelledBatch, OptimWrappers, Trainable
from bench.data.sampling import Augment
from bench.errors import PreflightError, UsageError


@dataclass(frozen=True)
class Architecture:
    """A network to classify with.

    Attributes:
        label: in tables.
        timm: name in timm.
    """

    label: str
    timm: str


#: The four of the paper (Table 2); it cites the first MobileNet.
ARCHITECTURES: dict[str, Architecture] = {
    "resnet50": Architecture("ResNet50", "resnet50"),
    "mobilenet": Architecture("MobileNet", "mobilenetv1_100"),
    "efficientnet": Architecture("EfficientNet", "efficientnet_b0"),
    "densenet": Architecture("DenseNet", "densenet121"),
}

#: Bumped whenever a trained classifier could differ.
VERSION = 1
#: The networks are this library's.
LIBRARY = f"timm {version('timm')}"


@dataclass(frozen=True)
class Recipe:
    """How every classifier is trained, whatever the data.

    Attributes:
        folds: parts the patients are divided into; each is predicted by a classifier that learnt from the others.
        size: side of the images that classifiers see, pixels; 0 takes the run's.
        iterations: training steps; there is no early stopping, every classifier takes all of them.
        batch_size: images in a step, half of each class; even.
        lr: peak learning rate (AdamW; linear warm-up over a tenth of the steps, then cosine to 0).
        label_smoothing: a label is this / 2 away from 0 or 1.
        min_crop, brightness: augmentation, as in `Augment`. Nothing is flipped: the heart has its side.
        precision: ``fp32`` or ``bf16`` (autocast).
        model_seed: of folds, first weights and batches; not the run's seed, so that what was learnt from real images is
            learnt once for all runs.
    """

    folds: int = 5
    size: int = 0
    iterations: int = 3000
    batch_size: int = 32
    lr: float = 3e-4
    label_smoothing: float = 0.05
    min_crop: float = 0.9
    brightness: float = 0.1
    precision: str = "fp32"
    model_seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 2, "folds", "batch_size")
        check_at_least(self, 1, "iterations")
        check_at_least(self, 0, "size")
        check_above(self, 0, "lr")
        check_below_one(self, "label_smoothing")
        check_choice(self, ("fp32", "bf16"), "precision")
        if self.batch_size % 2:
            raise UsageError(f"batch_size: {self.batch_size} is odd, and half of a batch is of each class.")
        _ = self.augment

    @property
    def augment(self) -> Augment:
        """The augmentation of training images."""
        return Augment(min_crop=self.min_crop, brightness=self.brightness)

    @property
    def train(self) -> TrainConfig:
        """Budget and precision, for the engine."""
        return TrainConfig(
            iterations=self.iterations, batch_size=self.batch_size, precision=self.precision, channels_last=True,
            checkpoint_interval=max(20, self.iterations // 10),
        )  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """The fields of a recipe alone, JSON-able, also of a configuration that adds others."""
        return {f.name: getattr(self, f.name) for f in fields(Recipe)}


def network(arch: str, weights: Path | None = None) -> nn.Module:
    """A network N x 1 x H x W -> N x 1 (logits), from scratch or from a weights file.

    The last layer starts at zero in either case: timm's own start for a single output spreads logits over several units, and
    short trainings would be spent on undoing it.

    Raises:
        PreflightError: the file does not fit.
    """
    import timm

    name = ARCHITECTURES[arch].timm
    if weights is None:
        net = timm.create_model(name, num_classes=1, in_chans=1, pretrained=False)
    else:
        problem = misfit(arch, weights)
        if problem:
            raise PreflightError(problem)
        overlay = {"file": str(weights)}
        net = timm.create_model(name, num_classes=1, in_chans=1, pretrained=True, pretrained_cfg_overlay=overlay)
    head: nn.Module = net.get_classifier()  # type: ignore[operator]
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return net


def misfit(arch: str, weights: Path) -> str:
    """Why a weights file cannot start an architecture, in one line; empty where it can.

    timm would load whatever names happen to agree and leave the rest as it is, so the file is compared first: all of the
    backbone must be in it, in the right shapes. The stem may have one channel or three (they are summed), the last layer any
    number of outputs (it is dropped).
    """
    import timm
    from timm.models import load_state_dict

    name = ARCHITECTURES[arch].timm
    what = f"--set evaluators.classification.weights={arch}={weights}"
    try:
        state = load_state_dict(str(weights), weights_only=True)
        shapes = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # whatever a damaged or hostile file makes the unpickler raise
        return f"{what}: {unreadable(weights, error)}"
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=1, in_chans=3)
    config: Any = net.default_cfg
    head, stem = f"{config['classifier']}.", f"{config['first_conv']}.weight"
    backbone = {k: tuple(v.shape) for k, v in net.state_dict().items() if not k.startswith(head) and "num_batches" not in k}
    allowed = {key: {shape, (shape[0], 1, *shape[2:])} if key == stem else {shape} for key, shape in backbone.items()}
    wrong = [key for key, shapes_ok in allowed.items() if shapes.get(key) not in shapes_ok]
    if not wrong:
        return ""
    return (
        f"{what} does not hold a {name}: {len(wrong)} of {len(backbone)} tensors are missing or of another shape "
        f"(first: {wrong[0]}). Give a file in timm's layout for {name}, or leave {arch} out of weights to train from scratch."
    )


class Classifier(Trainable):
    """Trains a network on labels with binary cross-entropy (AdamW, warm-up, cosine)."""

    def __init__(self, net: nn.Module, lr: float, smoothing: float) -> None:
        super().__init__()
        self.net, self.lr, self.smoothing = net, lr, smoothing

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One; fused, as the update of so many weights costs as much as the pass of so few small images."""
        return {"K": torch.optim.AdamW(self.net.parameters(), lr=self.lr, weight_decay=1e-2, fused=True)}

    def lr_factor(self, step: int, total: int) -> float:
        """Linear warm-up over the first tenth, then cosine to 0."""
        warm = max(1, total // 10)
        return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def step(self, batch: LabelledBatch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        targets = batch.labels[:, 0] * (1 - self.smoothing) + self.smoothing / 2
        loss = F.binary_cross_entropy_with_logits(self.net(batch.image)[:, 0].float(), targets)
        optim["K"].update_params(loss)
        return {"loss": loss.detach()}


def settle(net: nn.Module, images: Iterable[Tensor]) -> None:
    """Estimate batch statistics anew with the final weights, over training images.

    Running averages trail behind: after some dozen steps they still hold much of their first values, and a network in eval
    mode then gives nearly the same answer for every image.

    Args:
        net: left in eval mode.
        images: batches N x 1 x H x W in [-1, 1], as the network was trained with; each counts alike.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
    net.train()
    with torch.no_grad():
        for batch in images:
            net(batch)
    net.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
