"""ACL-GAN: unpaired translation under the adversarial-consistency loss (arXiv 2003.04858), by its released recipe.

The loop is in `methods.consistency`. A translation x_B of an image x_A need not come back as x_A itself, only so that a
discriminator of pairs cannot tell (x_A, x_A2), back from B, from (x_A, x_A1), re-drawn within A. Generators draw a mask m beside
the image and a translation is ``m * out + (1 - m) * x``; a size penalty keeps each mask's area within bounds, a second one its
pixels away from 0.5. The publication writes log-likelihood GAN losses, the release has least squares, as here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.checking import check_at_least, check_within
from bench.contracts import Prior
from bench.errors import UsageError
from bench.registry import register_method
from methods import losses
from methods.consistency import ConsistencyConfig, ConsistencyMethod
from methods.munit_family import Terms

#: delta's scale in the mean area's penalty: upstream sums over N x H x W pixels, squares, and divides by 3 N H W.
AREA_SCALE = 3 * 256 * 256 / 3


@dataclass(frozen=True)
class AclGanConfig(ConsistencyConfig):
    """Hyper-parameters; those of the loop are in `ConsistencyConfig`, all defaults the release's (male to female).

    Attributes:
        mask: draw masks; False is the first row of the paper's Table 3. Then the other mask keys are without effect.
        mask_w: weight of the penalties on the masks of x_B, x_A1 and x_A2.
        upper, lower: bounds on a mask's area, share of the image.
        delta: scale of the size penalty. Upstream's sums make it grow with batch and resolution; here it weighs at any size
            as there with 3 images of 256 x 256.
    """

    mask: bool = True
    mask_w: float = 0.025
    upper: float = 0.5
    lower: float = 0.3
    delta: float = 0.001

    def __post_init__(self) -> None:
        """Refuse values and combinations that mean nothing, naming the key."""
        super().__post_init__()
        check_within(self, 0, 1, "upper", "lower")
        check_at_least(self, 0, "delta")
        if self.lower > self.upper:
            raise UsageError(f"lower: {self.lower} is above upper={self.upper}.")


@register_method("acl_gan")
class AclGan(ConsistencyMethod):
    """ACL-GAN with its mask, or without."""

    Config: ClassVar[type] = AclGanConfig
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Unpaired Image-to-Image Translation using Adversarial Consistency Loss (arXiv 2003.04858)"

    def __init__(self, config: AclGanConfig, channels: int, prior: Prior | None = None) -> None:
        """Build the loop's networks."""
        super().__init__(config, channels, masked=config.mask)
        self.weights["acl_mask"] = config.mask_w

    def mask_terms(self, masks: Mapping[tuple[str, str], Tensor], log: Terms) -> None:
        """Size and decidedness of the three masks, summed."""
        c = self.config
        terms = [losses.acl_mask(mask, c.upper, c.lower, c.delta * AREA_SCALE) for mask in masks.values()]
        log["acl_mask"] = torch.stack(terms).sum()
