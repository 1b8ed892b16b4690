"""Pictures of a training at work: a few training images, what the method makes of them now, and its activation masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor
from torch.nn import functional as F

from bench.contracts import Method, Translation
from bench.files import disk_full
from bench.progress import warn
from bench.translations import to_bytes
from bench.watch import undisturbed

#: Images in a picture, and the largest side of each, pixels.
IMAGES, SIDE = 4, 256
#: Pictures of a training where nobody says how many.
PICTURES = 10
#: Pixels between images.
GAP = 2


def interval(wanted: int | None, iterations: int) -> int:
    """Steps between two pictures: those wanted, else a tenth of the training; 0 for none."""
    return max(1, iterations // PICTURES) if wanted is None else wanted


class SampleHook(Hook):  # type: ignore[misc]
    """Shows ``runner.visualizer`` what the networks (not their moving averages) make of a few images, every so many steps.

    Training does not notice (`bench.watch.undisturbed`): no mode, gradient, statistic or random state changes; it is done in fp32
    without compiled code, an image at a time, so that it needs less memory than a step. A picture that fails is said once.

    Args:
        images: gives the images, N x C x H x W in [-1, 1], the same at every call.
        every: steps between two pictures; the last step has one, too.
    """

    priority = "LOW"  # after the losses of the step, before its checkpoint

    def __init__(self, images: Callable[[], Tensor], every: int) -> None:
        self.images, self.every, self.failed = images, every, False

    def after_train_iter(self, runner: object, batch_idx: int, data_batch: object = None, outputs: object = None) -> None:
        done = runner.iter + 1  # type: ignore[attr-defined]
        if self.failed or not is_main_process() or (done % self.every and done != runner.max_iters):  # type: ignore[attr-defined]
            return
        try:
            self._show(runner, done)
        except Exception as error:  # a picture must not cost the training
            if disk_full(error):
                raise
            self.failed = True
            warn(f"no pictures of this training: {type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def _show(self, runner: object, done: int) -> None:
        model: Method = runner.model  # type: ignore[attr-defined]
        device: torch.device = runner.device  # type: ignore[attr-defined]
        with undisturbed(model, device, runner.settings.compile):  # type: ignore[attr-defined]
            source = self.images()
            made = [model.translate(x[None].to(device).clone(), "a2b", [0]) for x in source]
            picture = grid(source, made)
        runner.visualizer.add_image("samples", picture, step=done)  # type: ignore[attr-defined]


def grid(source: Tensor, made: list[Translation]) -> npt.NDArray[np.uint8]:
    """One picture (H x W x 3): a row an image; columns input, output and, where the method has one, activation mask.

    Args:
        source: N x C x H x W in [-1, 1].
        made: their translations, one each. Of the masks, 0 is black and 1 white.
    """
    columns = [source, torch.cat([t.image.cpu() for t in made])]
    if all(t.mask is not None for t in made):
        columns.append(torch.cat([t.mask.cpu() for t in made if t.mask is not None]) * 2 - 1)
    drawn = [np.pad(to_bytes(_small(c)), ((0, 0), (0, GAP), (0, GAP))) for c in columns]
    rows = [np.concatenate(row, 1) for row in zip(*drawn, strict=True)]
    return np.repeat(np.concatenate(rows, 0)[:-GAP, :-GAP, None], 3, axis=2)


def _small(images: Tensor) -> Tensor:
    return F.interpolate(images.float(), SIDE, mode="area") if images.shape[-1] > SIDE else images
