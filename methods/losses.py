"""Loss terms as pure functions.

Equation numbers are those of the paper (arXiv 2503.19860). It leaves some of them open; "reading" says how such a gap is
closed here, and why. Every function reduces in float32 whatever it is given, and every mean is a mean over equal shares of
the batch, so that averaging gradients over processes gives the gradient of the whole batch; the two exceptions (`lca`, whose
mean runs over selected images, and `acl_mask`, which squares a mean) exchange what they need.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor

from bench.contracts import Prior
from methods.networks.style_content import wide

# ---- adversarial ---------------------------------------------------------------------------------------------------------


def lsgan(maps: Sequence[Tensor], target: float) -> Tensor:
    """Least-squares GAN term of one image set: sum over scales of mean (D - target)^2.

    Args:
        maps: a discriminator's outputs, one a scale, N x 1 x h x w, unbounded.
        target: 1 for "real" (and for generators that want to pass), 0 for "fake".

    Returns:
        Scalar >= 0; about 1 a scale where D says 0 and the target is 1. No factor 0.5.
    """
    return torch.stack([(wide(m) - target).square().mean() for m in maps]).sum()


def lsgan_accuracy(maps: Sequence[Tensor], target: float) -> Tensor:
    """Share of decisions on the right side of 0.5, averaged over scales; in [0, 1], without gradient."""
    with torch.no_grad():
        return torch.stack([((wide(m) > 0.5) == (target > 0.5)).float().mean() for m in maps]).mean()


def bce_gan(maps: Sequence[Tensor], target: float) -> Tensor:
    """Cross-entropy GAN term of one image set: sum over scales of the mean of -t log s(D) - (1 - t) log(1 - s(D)), s sigmoid.

    Args:
        maps: a discriminator's outputs before the sigmoid, one a scale, N x 1 x h x w.
        target: 1 for "real", 0 for "fake", 0.5 for "cannot be told".

    Returns:
        Scalar >= 0; log 2 a scale where D says 0.
    """
    values = [wide(m) for m in maps]
    terms = [F.binary_cross_entropy_with_logits(v, torch.full_like(v, target)) for v in values]
    return torch.stack(terms).sum()


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape."""
    return (wide(output) - wide(target)).abs().mean()


# ---- codes ---------------------------------------------------------------------------------------------------------------


def mean_square(code: Tensor) -> Tensor:
    """Mean of the squares: what is left of the KL divergence to N(0, I) for codes of unit variance."""
    return wide(code).square().mean()


def kl_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, I): sum over a code's N x D values, mean over the batch.

    DRIT's code sums over the batch as well, of which it encodes one image: the same at its size, and here at any.
    """
    mean, log_variance = wide(mean), wide(log_variance)
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1).mean()


def mode_seeking(first: Tensor, second: Tensor, code: Tensor, other: Tensor, eps: float = 1e-5) -> Tensor:
    """Mode seeking (Mao et al. 2019): the inverse of how far two translations of one image are apart, for how far their codes.

    Per image ``1 / (mean|second - first| / mean|other - code| + eps)``, then the mean over images; upstream takes the means
    over its batch, of one image.

    Args:
        first, second: translations, N x C x H x W in [-1, 1].
        code, other: what they were made with, N x D.
        eps: keeps the term finite where both translations are the same.

    Returns:
        Scalar > 0.
    """

    def apart(x: Tensor, y: Tensor) -> Tensor:
        return (wide(y) - wide(x)).abs().flatten(1).mean(dim=1)

    return (apart(first, second) / apart(code, other) + eps).reciprocal().mean()


# ---- masks ---------------------------------------------------------------------------------------------------------------


def mask_upper(mask: Tensor, upper: float = 0.75, kappa: float = 175.0) -> Tensor:
    """P_upper, equation 2: keep the mask from covering the image.

    Reading: the paper compares the *sum* over pixels with 0.75, which at 512 x 512 would kill any mask at once; meant is the
    mean area. Per image ``kappa * relu(mean(m) - upper)^2``, then the mean over images. kappa 175 is ACL-GAN's size penalty
    (whose form the paper takes over) at the paper's batch and resolution; it then depends on neither.

    Args:
        mask: N x 1 x H x W in [0, 1].
        upper: free area, share of the image.
        kappa: scale.

    Returns:
        Scalar >= 0.
    """
    return kappa * F.relu(wide(mask).mean(dim=(1, 2, 3)) - upper).square().mean()


def mask_repulsion(
    mask: Tensor, centre: float = 0.1, height: float = 0.2, eps: float = 0.01, tanh_range: bool = False
) -> Tensor:
    """P_repul, equation 3: push every pixel away from `centre`, so that masks become decided.

    Mean over pixels of ``(|m - centre| + eps)^-height``: 2.51 at the centre (its peak), 1.56 at 0, 1.20 at 0.5, 1.02 at 1.
    Reading: the paper sums over pixels, a constant of thousands; and the centre is taken in [0, 1], after equation 1's
    normalisation (`tanh_range` takes it in [-1, 1], before it: 0.55 of the unit range).

    Args:
        mask: N x 1 x H x W in [0, 1].
        centre: the value to leave.
        height: exponent (the paper's F_height).
        eps: keeps the peak finite.
        tanh_range: the other reading of the centre.

    Returns:
        Scalar > 0.
    """
    values = wide(mask)
    if tanh_range:
        values = 2 * values - 1
    return ((values - centre).abs() + eps).pow(-height).mean()


def baml(mask: Tensor) -> Tensor:
    """Boundary-aware mask loss, equation 4, of one generator: its mask on images that need no translation should be empty.

    Reading: mean instead of the paper's sum over pixels, whose gradient would outweigh every mean-reduced term by orders of
    magnitude and empty all masks.

    Args:
        mask: N x 1 x H x W in [0, 1], of G_A on clear images or of G_B on images with opacities.

    Returns:
        Scalar in [0, 1].
    """
    return wide(mask).abs().mean()


def acl_mask(mask: Tensor, upper: float = 0.5, lower: float = 0.3, kappa: float = 65.536) -> Tensor:
    """ACL-GAN's own mask penalties: area between `lower` and `upper` of the whole batch, and pixels away from 0.5.

    ``kappa * (relu(a - upper)^2 + relu(lower - a)^2) + mean(1 / (|m - 0.5| + 0.01)) / 3`` with a the mean over the batch.
    Upstream's sums make kappa ``0.001 * N * H * W / 3``; the default is its value at upstream's batch 3 and 256 x 256, so
    that resolution does not change the penalty.

    Args:
        mask: N x 1 x H x W in [0, 1].
        upper: largest free area.
        lower: smallest free area.
        kappa: scale of the area terms.

    Returns:
        Scalar > 0.
    """
    values = wide(mask)
    local = values.mean()
    area = local + (_across(local.detach().clone()) - local.detach())  # the area of all processes, the gradient of this one
    size = F.relu(area - upper).square() + F.relu(lower - area).square()
    return kappa * size + ((values - 0.5).abs() + 0.01).reciprocal().mean() / 3


# ---- cross-domain alignment ----------------------------------------------------------------------------------------------


def phi(prior: Prior, images: Tensor, relu: bool = True) -> Tensor:
    """Feature maps of images N x C x H x W in [-1, 1], which the prior brings to its own size: N x F x h x w, float32."""
    return wide(prior.features(images, relu=relu))


def psi(prior: Prior, features: Tensor, relu: bool = True) -> Tensor:
    """Finding probabilities N x K in [0, 1] of what `phi` returned; `relu` as there.

    Never in bf16: a probability near 1 would round to 1, where `lca` has no gradient.
    """
    with torch.autocast(features.device.type, enabled=False):
        return prior.classify(features if relu else F.relu(features))


def fa_structural(translated: Tensor, source: Tensor) -> Tensor:
    """Structural feature alignment, equation 5: mean squared difference of instance-normalised feature maps.

    Reading: mean over all elements (the literal squared norm sums tens of thousands and would swamp the adversarial terms).
    Channels dead in an image have no variance: their gradient is bounded by the 1e-5 in the root alone.

    Args:
        translated: phi of the translation, N x F x h x w.
        source: phi of the source, same shape; no gradient flows into it.

    Returns:
        Scalar >= 0.
    """

    def normalised(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(wide(x), dim=(2, 3), correction=0, keepdim=True)
        return (wide(x) - mean) * torch.rsqrt(variance + 1e-5)

    return (normalised(translated) - normalised(source.detach())).square().mean()


def gram(features: Tensor) -> Tensor:
    """Gram matrices ``F F^T / (h w)`` of feature maps N x F x h x w: N x F x F, float32 also under autocast."""
    flat = wide(features).flatten(2)
    with torch.autocast(flat.device.type, enabled=False):
        return flat @ flat.transpose(1, 2) / flat.shape[2]


def fa_style(translated: Tensor, source: Tensor) -> Tensor:
    """Style feature alignment, equation 6: mean squared difference of Gram matrices.

    Reading: Gram matrices divided by the number of pixels only, the difference averaged over F^2 entries; dividing by the
    channels as well would make the term about a million times weaker.

    Args:
        translated: phi of the translation, N x F x h x w.
        source: phi of the source, same shape; no gradient flows into it.

    Returns:
        Scalar >= 0.
    """
    return (gram(translated) - gram(source.detach())).square().mean()


def lca(translated: Tensor, source: Tensor, opacity_indices: Sequence[int], threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Label-conditioned alignment, equation 7, soft: findings that the source shows should be gone from the translation.

    An image's selection q holds the opacity findings with a source probability above `threshold`. Per image the mean over q
    of ``-log(1 - p)``, p the translation's probability (at most 1 - 1e-6); then the mean over images with a selection, 0
    where there is none. Reading: as printed, both arguments of the cross entropy are indicator values and the loss has no
    gradient; this is the same loss with the translation's label kept soft. And q holds positives only: with all opacity
    findings in it, a true negative that stays negative would be punished.

    Args:
        translated: finding probabilities of the translations, N x K in [0, 1].
        source: those of the sources; no gradient flows into them.
        opacity_indices: columns that are opacity findings.
        threshold: least source probability of a selected finding.

    Returns:
        The loss, a scalar >= 0, and the share of images with a selection, without gradient (of all processes).
    """
    columns = list(opacity_indices)
    chosen = (wide(source.detach())[:, columns] > threshold).to(wide(translated).dtype)
    terms = -torch.log1p(-wide(translated)[:, columns].clamp(max=1 - 1e-6)) * chosen
    per_image = terms.sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
    selected = chosen.amax(dim=1).sum()
    count = _across(selected.clone())  # mean over processes of the number selected: exact once gradients are averaged
    loss = per_image.sum() / torch.where(count > 0, count, torch.ones_like(count))
    return loss, count / len(source)


def _across(value: Tensor) -> Tensor:
    """The mean of a scalar over all processes (in place; the value itself where there is one process)."""
    all_reduce(value, op="mean")
    return value
