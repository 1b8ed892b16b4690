"""What a lesion detector is to `evaluators.detection`: something trained once that finds boxes. One file a family of detectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bench.data.contract import FloatImage


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image, most confident first.

    Attributes:
        boxes: (k, 4) float32: x, y, width, height in pixels of the image.
        scores: (k,) float32: confidence in [0, 1].
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


class Detector(Protocol):
    """A trained detector of one class, ``lung opacity``.

    Attributes:
        id: hash of its weights.
        facts: what records say about it: name and version of the library, architecture, ``licence``, numbers of images and boxes
            it learnt from, budget, or the user's file.
    """

    id: str
    facts: dict[str, Any]

    def detect(self, images: FloatImage) -> list[Detections]:
        """Everything found with a confidence of at least `LEAST`, after non-maximum suppression.

        Args:
            images: n x S x S in [0, 1].

        Returns:
            One entry an image, in order; an image without a finding has empty arrays.
        """


#: Confidence below which detectors report nothing; thresholds for counting lie above.
LEAST = 0.01
