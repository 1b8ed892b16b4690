"""Which device to use, and the processes of a distributed run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from bench.errors import BenchError, PreflightError, UsageError


def choose(wanted: str) -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        PreflightError: a GPU was asked for and there is none.
        UsageError: not a device.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if wanted == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UsageError(f"--device {wanted}: auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise PreflightError(f"--device {wanted}: no CUDA GPU is usable here. Use --device cpu, or check the driver.")
        return torch.device("cuda", local if device.index is None else device.index)
    if device.type != "cpu":
        raise UsageError(f"--device {wanted}: auto, cpu, cuda or cuda:N.")
    return device


def world() -> tuple[int, int]:
    """(rank, number of processes) as torchrun started us; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def join_processes(device: torch.device) -> None:
    """Join the process group of ``torchrun``; nothing to do without it.

    The time-out is a day: while the first process decodes, translates and scores, the others wait.
    """
    if world()[1] == 1 or dist.is_initialized():
        return
    os.environ.setdefault("MKL_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))  # or mmengine does it, with a warning
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))


@contextmanager
def first_alone() -> Iterator[None]:
    """What the first process does in the block by itself; the others wait at its end, and a failure there ends them, too."""
    rank, processes = world()
    failure: list[BenchError | None] = [None]
    try:
        yield
    except Exception as error:
        failure = [error if isinstance(error, BenchError) else BenchError(f"{type(error).__name__}: {error}")]
        raise
    finally:
        if processes > 1 and (rank == 0 or failure[0] is None):
            dist.broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]
