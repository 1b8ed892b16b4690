"""Parameters of `evaluators.segmentation`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.checking import check_above, check_at_least, check_below_one, check_choice, check_within
from bench.data.sampling import Augment
from bench.errors import UsageError, unknown
from evaluators.segmenter_files import entries
from evaluators.segmenters import ARCHS, ENCODERS, Distort
from evaluators.statistics import N_BOOT

#: What `recipes` may say of an architecture.
_RECIPE = {"iterations": int, "batch_size": int, "lr": float}


@dataclass(frozen=True)
class SegmentationConfig:
    """Parameters of `Segmentation`. Defaults train from scratch as section C.4 of the protocol has it.

    Attributes:
        archs: architectures: ``unet``, ``pspnet``, ``cenet``, ``vgg``.
        iterations: training steps of each.
        batch_size: images a step.
        lr: greatest learning rate, encoder from scratch.
        lr_pretrained: likewise where the encoder starts from a file.
        weight_decay: of AdamW.
        warmup: share of the steps in which the rate rises.
        beta2: decay of AdamW's mean of squared gradients; 0.999 averages over more steps than a short training has.
        recipes: ``ARCH.iterations=N``, ``ARCH.batch_size=N`` and ``ARCH.lr=X`` for single architectures.
        precision: of the training, ``fp32`` or ``bf16``; predictions are always fp32.
        channels_last: layout in training; faster on some machines.
        rotation: greatest rotation in degrees.
        min_crop: least side of the random square crop, as a share of the image (so objects appear up to 1 / min_crop larger).
        brightness, contrast: greatest changes of grey values; see `Augment`.
        gamma: greatest exponent of grey values, and the inverse of the least; 1 is off.
        expand: greatest width of a black margin around training images before they are cropped, as a share of their side: lungs
            appear smaller, too.
        flip: mirror every second training image. Off: the heart has its side, and where a reference leaves it out the left
            lung's outline is learnt from its place. Both lungs are one class, so it can be tried where images are few.
        folds: of cross-fitting, where no training image has a lung mask.
        model_seed: of weights, order of images, augmentation and folds.
        weights: ``ARCH=PATH``: segmenters of the user's own, used as they are. They are given grey images in [-1, 1] (black
            to white, no other standardisation) and must answer with logits of one class, lung.
        encoder_weights: ``resnet34=PATH`` and ``vgg16_bn=PATH``: what encoders start from; they learn to take grey in [-1, 1].
        definition: ``image`` (mean over images) or ``pooled`` (all pixels of the test set together).
        classes: ``lung``, or ``both`` for the mean of lung and background.
        postprocess: keep only the two largest components of a prediction (of at least 1 % of the image) and fill their holes.
        n_boot: bootstrap resamples over patients behind each interval.
        cases: rows of the figure.
    """

    archs: tuple[str, ...] = tuple(ARCHS)
    iterations: int = 15_000
    batch_size: int = 8
    lr: float = 1e-3
    lr_pretrained: float = 3e-4
    weight_decay: float = 1e-4
    warmup: float = 0.03
    beta2: float = 0.999
    recipes: tuple[str, ...] = ()
    precision: str = "fp32"
    channels_last: bool = False
    rotation: float = 15.0
    min_crop: float = 0.8
    brightness: float = 0.1
    contrast: float = 0.3
    gamma: float = 1.5
    expand: float = 0.1
    flip: bool = False
    folds: int = 5
    model_seed: int = 0
    weights: tuple[str, ...] = ()
    encoder_weights: tuple[str, ...] = ()
    definition: str = "image"
    classes: str = "lung"
    postprocess: bool = False
    n_boot: int = N_BOOT
    cases: int = 4

    def __post_init__(self) -> None:
        for arch in self.archs:
            if arch not in ARCHS:
                raise unknown("segmenter", arch, ARCHS)
        if not self.archs or len(set(self.archs)) < len(self.archs):
            raise UsageError("segmentation: archs must name at least one segmenter, each once.")
        check_choice(self, ("image", "pooled"), "definition")
        check_choice(self, ("lung", "both"), "classes")
        check_choice(self, ("fp32", "bf16"), "precision")
        check_at_least(self, 2, "folds")
        check_at_least(self, 1, "n_boot", "cases", "iterations", "batch_size")
        check_above(self, 0, "lr", "lr_pretrained", "beta2")
        check_below_one(self, "beta2")
        check_within(self, 0, 1, "warmup")
        for arch in self.archs:
            recipe = self.recipe(arch)
            for key, least in (("iterations", 1), ("batch_size", 1), ("lr", 0)):
                if not least <= recipe[key] < math.inf:
                    raise UsageError(f"recipes: {key} of {arch}: {recipe[key]} is not a number of at least {least}.")
        _ = self.augment, self.distort, self.own, self.encoders  # these raise, too

    @cached_property
    def augment(self) -> Augment:
        """Augmentation of training images."""
        return Augment(self.min_crop, self.rotation, self.brightness, self.contrast)

    @cached_property
    def distort(self) -> Distort:
        """The rest of it."""
        return Distort(self.expand, self.gamma, self.flip)

    @cached_property
    def own(self) -> dict[str, str]:
        """Architecture -> file of the user's own segmenter, as given; in the order of `archs`."""
        found = entries(self.weights, tuple(ARCHS), "weights")
        return {arch: found[arch] for arch in self.archs if arch in found}

    @cached_property
    def encoders(self) -> dict[str, str]:
        """Encoder -> file to start from, as given."""
        return entries(self.encoder_weights, ENCODERS, "encoder_weights")

    def recipe(self, arch: str) -> dict[str, Any]:
        """``iterations``, ``batch_size`` and ``lr`` (0: not set) of an architecture."""
        found: dict[str, Any] = {"iterations": self.iterations, "batch_size": self.batch_size, "lr": 0.0}
        for text in self.recipes:
            where, _, value = text.partition("=")
            name, _, key = where.partition(".")
            if name not in ARCHS or key not in _RECIPE:
                raise UsageError(f"segmentation: recipes '{text}': expected ARCH.KEY=VALUE, KEY one of {', '.join(_RECIPE)}.")
            try:
                parsed = _RECIPE[key](value)
            except ValueError:
                raise UsageError(f"segmentation: recipes '{text}': '{value}' is not a number.") from None
            if name == arch:
                found[key] = parsed
        return found
