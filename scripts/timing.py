"""Clock and memory of two sides that take turns. On a CPU a figure is the minimum of the timings, on CUDA the median."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which counts memory on a CPU, reports about itself

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Run = Callable[[int], object]  # does the k-th iteration


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, all it starts on the device included."""
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    torch.cuda.synchronize(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


@dataclass
class Timings:
    """Seconds an iteration of the peer and of each variant, in the order they were taken."""

    peer: list[float]
    variants: dict[str, list[float]]

    def ratio(self, name: str, figure: Callable[[Sequence[float]], float]) -> float:
        """How many times faster a variant is than the peer."""
        return figure(self.peer) / figure(self.variants[name])

    def noise(self, figure: Callable[[Sequence[float]], float]) -> float:
        """How many times faster the peer seems than itself, >= 1; not a number where it was timed once."""
        if len(self.peer) < 2:
            return math.nan
        halves = figure(self.peer[0::2]), figure(self.peer[1::2])
        return max(halves) / min(halves)


def take_turns(peer: Run, variants: Mapping[str, Run], repeats: int, clock: Callable[[Callable[[], object]], float]) -> Timings:
    """Time the peer before each variant, `repeats` times through all."""
    taken, count = Timings([], {name: [] for name in variants}), 0
    for k in range(repeats):
        for name, run in variants.items():
            taken.peer.append(clock(lambda i=count: peer(i)))  # type: ignore[misc]
            taken.variants[name].append(clock(lambda run=run, k=k: run(k)))  # type: ignore[misc]
            count += 1
    return taken


def spread(seconds: Sequence[float]) -> float:
    """Slowest over fastest minus 1; of 20 timings or more, upper quartile over lower."""
    if len(seconds) < 20:
        return max(seconds) / min(seconds) - 1
    low, _, high = statistics.quantiles(seconds, n=4)
    return high / low - 1


def held(optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Bytes of parameters, their gradients and the optimizers' state."""
    tensors: dict[int, Tensor] = {}
    for optimizer in optimizers:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        tensors |= {id(t): t for t in (*parameters, *(p.grad for p in parameters if p.grad is not None), *states)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def peak_memory(run: Callable[[], object], optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> int:
    """Largest number of bytes that PyTorch's allocator holds for one side during an iteration: `held`, and what comes on top."""
    optimizers = list(optimizers)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        base, before = held(optimizers), torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return base + torch.cuda.max_memory_allocated(device) - before
    for optimizer in optimizers:
        optimizer.zero_grad()  # the profiler does not see the end of what was there before
    base = held(optimizers)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [(e.start_ns(), e.nbytes()) for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for _, change in sorted(events, key=lambda e: e[0]):
        now += change
        most = max(most, now)
    return base + most
