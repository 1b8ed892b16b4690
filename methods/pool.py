"""The history of generated images that discriminators also learn from."""

from __future__ import annotations

import torch
from mmengine.dist import all_gather
from torch import Tensor, nn

from bench.contracts import Draws
from bench.errors import UsageError


class ImagePool(nn.Module):
    """A buffer of earlier images (Shrivastava et al. 2017, as used by CycleGAN).

    While it fills, it stores what comes and returns it. Once full it returns, for each image with probability 0.5, a random
    stored one and stores the image in its place, else the image itself. Processes that train together keep one pool in
    common: each holds a copy and sees the images of all, so that neither their number nor a resume changes what comes out.

    The images are stored where the module is, detached, and are part of `state_dict` as one tensor, n x C x H x W.

    Args:
        size: images kept; 0 returns all images as they come.
    """

    stored: Tensor

    def __init__(self, size: int = 50) -> None:
        super().__init__()
        if size < 0:
            raise UsageError(f"pool_size: {size} is less than 0.")
        self.size, self.count = size, 0
        # The buffer is allocated with the first images, whose shape it takes; it travels as extra state. Zeros
        # where it is not full yet: the engine refuses weights and buffers that are not finite.
        self.register_buffer("stored", torch.empty(0), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor, draws: Draws, name: str) -> Tensor:
        """Exchange images N x C x H x W for as many, without gradient.

        Args:
            images: the newest, of this process.
            draws: the step's random numbers.
            name: of the numbers to draw; one of its own for each pool and step.
        """
        if self.size == 0:
            return images.detach()
        everyone = images.detach()
        if draws.count < draws.total:
            everyone = torch.cat(all_gather(everyone.contiguous()))
        # Drawn on the CPU for the whole batch: the same in every process, and known without asking the device.
        numbers = torch.rand(draws.total, 2, generator=draws.generator(name)).tolist()
        self._fit(everyone)
        returned = [self._exchange(image, *pair) for image, pair in zip(everyone, numbers, strict=True)]
        return torch.stack(returned[draws.start : draws.start + draws.count])

    def _exchange(self, image: Tensor, luck: float, where: float) -> Tensor:
        if self.count < self.size:
            self.stored[self.count] = image
            self.count += 1
            return image
        if luck < 0.5:
            return image
        place = int(where * self.size)
        earlier = self.stored[place].clone()
        self.stored[place] = image
        return earlier

    def _fit(self, images: Tensor) -> None:
        if self.count == 0:
            self.stored = images.new_zeros(self.size, *images.shape[1:])
        elif self.stored.shape[1:] != images.shape[1:]:
            kept, new = (" x ".join(map(str, shape)) for shape in (self.stored.shape[1:], images.shape[1:]))
            raise UsageError(f"the image pool holds images of {kept} and cannot take {new}: train at one size.")

    def get_extra_state(self) -> Tensor:
        """The stored images, n x C x H x W; an empty tensor before the first."""
        return self.stored[: self.count].clone()

    def empty_extra_state(self) -> Tensor:
        """The state of a pool without images: what goes into files that are handed on."""
        return torch.empty(0)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the images of another pool of this size."""
        if len(state) > self.size:
            raise UsageError(f"pool_size: a pool of {self.size} cannot take over {len(state)} images.")
        self.count = len(state)
        stored = state.new_zeros(self.size, *state.shape[1:]) if self.count else torch.empty(0)
        stored[: self.count] = state
        self.stored = stored.to(self.stored.device)
