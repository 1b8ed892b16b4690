"""The random numbers of training: a pure function of seed, step, name and sample."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Draws:
    """The random numbers of one training step: a pure function of (seed, step, name, sample).

    The same numbers come out after every resume and for any number of processes, each of which gets those of its own
    samples, so a method that uses only these has nothing else to save. They are the same on every kind of device, too, but for
    `normal_map`.

    Args:
        seed: the run's seed.
        step: iteration, from 0.
        start: index of this process's first sample in the global batch.
        count: number of samples of this process.
        total: samples in the global batch.
        device: where the numbers are wanted.
    """

    def __init__(self, seed: int, step: int, start: int, count: int, total: int, device: torch.device | str = "cpu"):
        self.seed, self.step = seed, step
        self.start, self.count, self.total = start, count, total
        self.device = torch.device(device)

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator seeded by (seed, step, name); the same in every process."""
        return self._seeded(name, "cpu")

    def _seeded(self, name: str, device: torch.device | str) -> torch.Generator:
        digest = hashlib.blake2b(f"{self.seed}/{self.step}/{name}".encode(), digest_size=8).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)

    def _mine(self, values: Tensor) -> Tensor:
        return values[self.start : self.start + self.count].to(self.device, non_blocking=True)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers, ``count x *shape``."""
        return self._mine(torch.randn(self.total, *shape, generator=self.generator(name)))

    def normal_map(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers, ``count x *shape``, drawn where they are wanted: for maps of a million numbers.

        Each sample has a generator of its own, seeded by (seed, step, name, sample), so a process draws its own samples only.
        The same numbers come out after a resume and for any number of processes on one kind of device, but a CPU and a GPU
        draw others.
        """
        values = torch.empty(self.count, *shape, device=self.device)
        for sample, value in enumerate(values, self.start):
            value.normal_(generator=self._seeded(f"{name}#{sample}", self.device))
        return values

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), ``count x *shape``."""
        return self._mine(torch.rand(self.total, *shape, generator=self.generator(name)))
