"""The finding classifier as a feature extractor of torch-fidelity; imported by `evaluators.features` when it is used."""

from __future__ import annotations

from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench.contracts import Prior


class PooledPrior(FeatureExtractorBase):  # type: ignore[misc]
    """The prior's post-ReLU feature maps, averaged over the image: N x C x H x W in [-1, 1] -> N x F."""

    def __init__(self, prior: Prior) -> None:
        super().__init__("cxr", ["pooled"])
        self.prior = prior.eval()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("pooled",)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.prior.features(images, relu=True).mean(dim=(2, 3)),)
