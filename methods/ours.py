"""The paper's method: lung-opacity removal with adaptive activation masks and cross-domain alignment (arXiv 2503.19860).

ACL-GAN's adversarial-consistency loop A -> B -> A between opacity (A) and clear (B) radiographs (`methods.consistency`), plus

* AASPM: generators also draw a mask m; a translation is ``m * out + (1 - m) * x`` (equation 1), and penalties shape m;
* BAML: masks of images that need no translation should be empty;
* FA and LCA: a frozen finding classifier psi(phi(x)) keeps features alike and takes the opacity findings away.

The paper published no code and leaves details open; `methods.losses` says how each is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from bench.checking import check_above, check_at_least, check_choice, check_within
from bench.contracts import FrozenHolder, Prior
from bench.errors import UsageError
from bench.registry import register_method
from methods import losses
from methods.consistency import ConsistencyConfig, ConsistencyMethod, Generated
from methods.munit_family import Terms


@dataclass(frozen=True)
class OursConfig(ConsistencyConfig):
    """Hyper-parameters; the paper's where it states them, ACL-GAN's (`ConsistencyConfig`) otherwise.

    Attributes:
        aaspm, baml, fa, lca: the paper's modules; `aaspm` off means generators without a mask.
        symmetric, mask_penalty: also run the mirrored loop B -> A -> B; ``acl_gan`` takes that method's own mask penalties.
        *_w: loss weights; `style_w` multiplies `feature_w`.
        upper, kappa, repulsion_*: equations 2 and 3; `repulsion_tanh` reads the centre in [-1, 1] instead of [0, 1].
        phi_relu: align the classifier's features after its last ReLU (which it pools) or before.
        lca_threshold: source probability of a present finding.
        beta1, beta2: for short runs (below 5e4 iterations) take 0.5, 0.999 and `disc_lr_factor` 2.5, so that the
            discriminators are of use sooner.
        g_every: ACL-GAN's own schedule is 2.
        lr_decay_every: 1e5 of 2.5e5 iterations.
    """

    aaspm: bool = True
    baml: bool = True
    fa: bool = True
    lca: bool = True
    symmetric: bool = False
    mask_penalty: str = "paper"
    adv_w: float = 2.0
    aaspm_w: float = 0.01
    acl_mask_w: float = 0.025
    bam_w: float = 0.1
    feature_w: float = 0.5
    style_w: float = 0.5
    classifier_w: float = 0.5
    upper: float = 0.75
    kappa: float = 175.0
    repulsion_centre: float = 0.1
    repulsion_height: float = 0.2
    repulsion_eps: float = 0.01
    repulsion_tanh: bool = False
    phi_relu: bool = True
    lca_threshold: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.9999
    g_every: int = 1

    def __post_init__(self) -> None:
        """Refuse values and combinations that mean nothing, naming the key."""
        super().__post_init__()
        check_choice(self, ("paper", "acl_gan"), "mask_penalty")
        check_at_least(self, 0, "kappa", "repulsion_height")
        check_above(self, 0, "repulsion_eps")
        check_within(self, 0, 1, "upper", "lca_threshold")
        check_within(self, -1 if self.repulsion_tanh else 0, 1, "repulsion_centre")
        if not self.aaspm and (self.baml or self.mask_penalty == "acl_gan"):
            raise UsageError(f"{'baml=true' if self.baml else 'mask_penalty=acl_gan'} needs a mask (aaspm=true).")


@register_method("ours")
class Ours(ConsistencyMethod):
    """Adaptive activation masks and cross-domain alignment on top of ACL-GAN."""

    Config: ClassVar[type] = OursConfig
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Unpaired Translation of Chest X-ray Images for Lung Opacity Diagnosis (arXiv 2503.19860)"
    needs: ClassVar[frozenset[str]] = frozenset({"prior"})

    def __init__(self, config: OursConfig, channels: int, prior: Prior | None = None) -> None:
        """Build the loop's networks, and hold the prior."""
        c = config
        super().__init__(c, channels, masked=c.aaspm, symmetric=c.symmetric, stay_clear=c.baml)
        #: Of equation 8.
        self.weights |= {
            **{"upper": c.aaspm_w, "repulsion": c.aaspm_w, "acl_mask": c.acl_mask_w, "bam": c.bam_w},
            **{"fa_struct": c.feature_w, "fa_style": c.feature_w * c.style_w, "lca": c.classifier_w},
        }
        self.holder: FrozenHolder | None = None
        if self.requires(c):
            if prior is None or (c.lca and not prior.opacity_indices):
                raise UsageError("'ours' needs a prior (lca=true: one with opacity findings), or fa=false and lca=false.")
            self.holder = FrozenHolder(prior)

    @classmethod
    def requires(cls, config: OursConfig) -> frozenset[str]:
        """The prior, unless both alignment terms are off."""
        return cls.needs if config.fa or config.lca else frozenset()

    def mask_terms(self, masks: Mapping[tuple[str, str], Tensor], log: Terms) -> None:
        """Equations 2 to 4. BAML owns the masks of images that stay; without it they are penalised like the others."""
        c = self.config
        if c.baml:
            log["bam"] = losses.baml(masks["a", "intra"]) + losses.baml(masks["b", "intra"])
        punished = [mask for (_, role), mask in masks.items() if not (c.baml and role == "intra")]
        if c.mask_penalty == "acl_gan":
            log["acl_mask"] = torch.stack([losses.acl_mask(mask) for mask in punished]).sum()
        else:
            shape = (c.repulsion_centre, c.repulsion_height, c.repulsion_eps, c.repulsion_tanh)
            log["upper"] = torch.stack([losses.mask_upper(mask, c.upper, c.kappa) for mask in punished]).mean()
            log["repulsion"] = torch.stack([losses.mask_repulsion(mask, *shape) for mask in punished]).mean()

    def other_terms(self, source: Mapping[str, Tensor], made: Generated, log: Terms) -> None:
        """Equations 5 to 7 on (x_A, its translation), from one classifier forward; FA on both loops, LCA on removal only."""
        if self.holder is None:
            return
        c, n, prior = self.config, len(source["a"]), cast(Prior, self.holder.module)
        loops = [("a", "b"), ("b", "a")] if c.symmetric and c.fa else [("a", "b")]
        with torch.no_grad():
            before = losses.phi(prior, torch.cat([source[origin] for origin, _ in loops]), c.phi_relu)
        after = losses.phi(prior, torch.cat([made[target]["fake"].image for _, target in loops]), c.phi_relu)
        if c.fa:
            log["fa_struct"] = len(loops) * losses.fa_structural(after, before)
            log["fa_style"] = len(loops) * losses.fa_style(after, before)
        if c.lca:
            kept, shown = (losses.psi(prior, features[:n], c.phi_relu) for features in (after, before))
            log["lca"], log["lca_share"] = losses.lca(kept, shown, prior.opacity_indices, c.lca_threshold)
