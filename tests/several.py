"""A group of processes on the CPU (gloo) for tests that need more of it than a whole ``bench run``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def together(folder: Path, count: int, task: Callable[..., Any], *args: Any) -> list[Any]:
    """Call ``task(rank, *args)`` in `count` processes of a group.

    Args:
        folder: for what the processes share; made here.
        count: of processes.
        task: a function of a module's top level; returns tensors, numbers, texts and collections of them.
        args: whatever can be pickled.

    Returns:
        What each process returned, by rank.
    """
    folder.mkdir(parents=True)
    spawn(_enter, (folder, count, task, args), nprocs=count)
    return [torch.load(folder / str(rank), weights_only=True) for rank in range(count)]


def _enter(rank: int, folder: Path, count: int, task: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MKL_NUM_THREADS": "1"}
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=count)
    torch.save(task(rank, *args), folder / str(rank))
    dist.destroy_process_group()
