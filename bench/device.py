"""Which device to use, what precision pays there, and the processes of a distributed run."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional as F

from bench.errors import BenchError, PreflightError, UsageError
from bench.files import read_json, write_json
from bench.progress import say, warn

#: bf16 pays on a CPU that trains convolutions at least this much faster with it.
PAYS = 1.3
#: Seconds after which `bf16_speedup` begins no further turn.
_MEASURING = 0.5
#: Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose(wanted: str) -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; a GPU becomes torch's current one, which library calls go to.

    Raises:
        PreflightError: a GPU was asked for and there is none, or none of that number.
        UsageError: not a device.
    """
    device = _resolve(wanted)
    if device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise PreflightError(f"--device {wanted}: {device} is not one of the {torch.cuda.device_count()} GPUs here.")
        torch.cuda.set_device(device)
    return device


def _resolve(wanted: str) -> torch.device:
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


def keep_memory(device: torch.device) -> None:
    """Let a CPU's freed tensors stay with the process for the next ones (glibc; nothing elsewhere).

    glibc gives large blocks back to the system as soon as they are free, and gets the next one page by page: with feature maps
    of some megabytes that is a tenth to a fifth of a training step. Numbers do not change.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


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


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 itself. A CPU always can; `bf16_speedup` says whether it should."""
    if device.type != "cuda":
        return True
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def bf16_speedup(memory: Path) -> float:
    """How many times faster this CPU trains a convolution under bf16 autocast than in fp32.

    Two 3 x 3 convolutions of 64 channels at 64 x 64, batch 2, forward and backward; fp32 and bf16 in turn, at least twice,
    the fastest of each. Draws no random number. All processes get what the first one found.

    Args:
        memory: file that remembers what was measured: with a neighbour's noise a run that is carried on would choose anew.
    """
    key = f"{_cpu()}, {torch.get_num_threads()} threads, {world()[1]} processes, torch {torch.__version__}"
    found = [0.0]
    if world()[0] == 0:
        known: dict[str, float] = read_json(memory) if memory.is_file() else {}
        if key not in known:
            write_json(memory, known | {key: _measure(_MEASURING)})
        found = [read_json(memory)[key]]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    return found[0]


def _cpu() -> str:
    """The processor's name, as well as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor() or "CPU")


def _measure(limit: float) -> float:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 64, 64, 64, generator=generator)
    kernels = [(torch.randn(64, 64, 3, 3, generator=generator) / 24).requires_grad_() for _ in range(2)]

    def turn(bf16: bool) -> float:
        began = time.perf_counter()
        with torch.enable_grad():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                out = F.conv2d(F.conv2d(image, kernels[0], padding=1).relu(), kernels[1], padding=1)
            torch.autograd.grad(out.float().square().mean(), kernels)
        return time.perf_counter() - began

    started, slow, fast = time.perf_counter(), list[float](), list[float]()
    while len(slow) < 2 or (len(slow) < 20 and time.perf_counter() - started < limit):  # the first turn sets kernels up
        slow.append(turn(False))
        fast.append(turn(True))
    return min(slow) / min(fast)


def resolve_precision(wanted: str, device: torch.device, memory: Path) -> str:
    """What ``--precision`` means on a device, and one line about what was found out there.

    Args:
        wanted: ``fp32``, ``bf16`` or ``auto``: bf16 where the GPU has it, or where it pays on this CPU.
        device: where the run trains.
        memory: see `bf16_speedup`.

    Returns:
        ``fp32`` or ``bf16``.

    Raises:
        PreflightError: bf16 was asked for and the GPU lacks it.
    """
    auto = wanted == "auto"
    if wanted == "fp32":
        return wanted
    if device.type == "cuda":
        if not auto:
            require_bf16(device, "--precision fp32")
        found = "bf16" if has_bf16(device) else "fp32"
        text = f"{torch.cuda.get_device_name(device)} {'computes' if found == 'bf16' else 'does not compute'} in bf16"
    else:
        ratio = bf16_speedup(memory)
        found = "bf16" if ratio >= PAYS or not auto else "fp32"
        text = f"bf16 trains convolutions {ratio:.2f} times as fast as fp32 on this CPU, and pays from {PAYS} on"
        if not auto and ratio < PAYS and world()[0] == 0:
            warn(f"--precision bf16: {text}. Use --precision fp32, or auto.")
    if auto and world()[0] == 0:
        say(f"precision {found}: {text}")
    return found


def require_bf16(device: torch.device, remedy: str) -> None:
    """Refuse bf16 on a GPU that would only emulate it.

    Raises:
        PreflightError: it would.
    """
    if not has_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise PreflightError(f"train.precision=bf16: {name} does not compute in bf16. Use {remedy}.")
