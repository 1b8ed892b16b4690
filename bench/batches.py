"""Training data by step: cached pixels, converted and augmented on the device."""

from __future__ import annotations

from typing import Any

import torch

from bench.contracts import Batch, Draws, LabelledBatch
from bench.data.imageset import ImageSet
from bench.data.sampling import Augment, LabelledSource, UnpairedSource, mask_to_model, to_model


class TranslationBatches:
    """Unpaired batches for translation methods.

    Args:
        opacity: training images with opacities.
        clear: training images without.
        seed: the run's seed.
        batch_size: images a domain and step, over all processes.
        size: side of the images that methods see.
        augment: augmentation.
        channels: image channels; grey is repeated.
        rank, world: this process among all.
        lung_mask: hand over lung masks.
    """

    def __init__(
        self, opacity: ImageSet, clear: ImageSet, seed: int, batch_size: int, size: int, augment: Augment,
        channels: int = 1, rank: int = 0, world: int = 1, lung_mask: bool = False,
    ) -> None:  # fmt: skip
        self.source = UnpairedSource(opacity, clear, seed, batch_size, rank=rank, world=world, lung_mask=lung_mask)
        self.seed, self.batch_size, self.size, self.augment, self.channels = seed, batch_size, size, augment, channels

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Stored values of this process's share of a step."""
        return self.source[step]

    def batch(self, raw: dict[str, Any], device: torch.device) -> Batch:
        """What `Method.step` gets."""
        draws = Draws(self.seed, raw["step"], raw["start"], raw["count"], raw["total"], device)
        images = {
            domain: to_model(raw[domain], self.size, draws, self.augment, device, name=domain).expand(
                -1, self.channels, -1, -1
            )
            for domain in ("opacity", "clear")
        }
        extra = {
            name: mask_to_model(value, self.size, draws, self.augment, device, name=name.removeprefix("lung_mask_"))
            for name, value in raw.items()
            if name.startswith("lung_mask_")
        }
        return Batch(images["opacity"], images["clear"], draws, extra)


class LabelledBatches:
    """Labelled batches for the finding classifier, which one process trains; arguments as `TranslationBatches`, with the findings
    wanted."""

    def __init__(
        self, sets: list[ImageSet], findings: tuple[str, ...], seed: int, batch_size: int, size: int, augment: Augment
    ) -> None:
        self.source = LabelledSource(sets, findings, seed, batch_size)
        self.seed, self.batch_size, self.size, self.augment = seed, batch_size, size, augment

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Stored values of a step."""
        return self.source[step]

    def batch(self, raw: dict[str, Any], device: torch.device) -> LabelledBatch:
        """What `PriorTraining.step` gets."""
        draws = Draws(self.seed, raw["step"], raw["start"], raw["count"], raw["total"], device)
        image = to_model(raw["image"], self.size, draws, self.augment, device)
        return LabelledBatch(image, raw["labels"].to(device), raw["known"].to(device), draws)
