"""Embeddings of single patches of feature maps, for contrastive losses (CUT)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.networks.conv import init_weights
from methods.networks.style_content import wide


class PatchEmbedding(nn.Module):
    """For every feature map an own MLP (Linear ReLU Linear) on its vectors at single places, then length 1 (Park et al. 2020).

    Args:
        inputs: channels of the feature maps.
        dim: length of the embeddings, and of the hidden layer.
        init: ``normal``, ``xavier`` or ``kaiming``, see `init_weights`.
    """

    def __init__(self, inputs: Sequence[int], dim: int = 256, init: str = "xavier") -> None:
        super().__init__()
        self.mlps = nn.ModuleList([nn.Sequential(nn.Linear(n, dim), nn.ReLU(), nn.Linear(dim, dim)) for n in inputs])
        init_weights(self, init)

    def forward(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Feature vectors N x P x F, one tensor a feature map -> embeddings N x P x dim of length 1, float32."""
        out = [wide(mlp(v)) for mlp, v in zip(self.mlps, vectors, strict=True)]
        # not the root of a sum, whose slope is infinite at 0: of an embedding of zeros it would make NaN
        return [v / (torch.linalg.vector_norm(v, dim=-1, keepdim=True) + 1e-7) for v in out]


def pick(features: Tensor, places: Tensor) -> Tensor:
    """Vectors of a feature map at given places.

    Args:
        features: N x F x h x w.
        places: S x P indices into the h * w pixels; the N images are S sets of equal size, one row of places each.

    Returns:
        N x P x F.
    """
    index = places.repeat_interleave(len(features) // len(places), dim=0)[:, None].expand(-1, features.shape[1], -1)
    return torch.gather(features.flatten(2), 2, index).transpose(1, 2)
