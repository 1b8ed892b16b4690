"""Our training steps against published ones: same weights, data and machine, in turn in one process (`scripts/benchmark --training`).

A pair is timed only if one full iteration of both, from the same weights, images and random numbers in fp32, gives the same
losses. Then peer and variants take turns (peer, exact, peer, shared, peer, full, and again), so that what disturbs the machine
disturbs both:

* exact: our step with what upstream computes (``share_forward: false``), fp32, eager, upstream's flags;
* shared: with one forward for discriminators and generators (``share_forward: true``), where a method has the choice;
* full: shared, networks compiled, channels last, bf16 autocast; flags as in `bench run`.

On a CPU a figure is the minimum of the timings, on CUDA the median. ``A-A`` is the peer against itself (every second of its
timings against the others): a ratio as near to 1 is no difference. Images are random, and on the device already.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from peers import Peer, Setting
from peers_resnet import CutPeer, CycleGANPeer
from peers_style import AclGanPeer, DritPeer, MunitPeer, OursPeer, UnitPeer
from peers_uvcgan import UvcganPeer
from rich.console import Console
from rich.table import Table
from timing import Timings, peak_memory, seconds_of, spread, take_turns
from torch import Tensor

from bench.config import TrainConfig
from bench.contracts import Batch, Draws, Method
from bench.device import keep_memory
from bench.engine import compile_networks, set_precision
from bench.errors import BenchError, UsageError, unknown
from bench.registry import METHODS
from bench.runner import ParallelOptimWrapper

PEERS: dict[str, type[Peer]] = {
    "cyclegan": CycleGANPeer, "munit": MunitPeer, "unit": UnitPeer, "acl_gan": AclGanPeer, "ours": OursPeer, "drit": DritPeer,
    "cut": CutPeer, "uvcgan": UvcganPeer,
}  # fmt: skip
VARIANTS = ("exact", "shared", "full")
#: Largest relative difference of a loss between peers that agree.
TOLERANCE = 1e-4

@contextmanager
def flags(engine: bool) -> Iterator[None]:
    """Within the block, the engine's switches for CUDA; or upstream's: PyTorch's defaults (TF32 for convolutions) and cuDNN's search
    for the fastest kernels."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    kept = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    if engine:
        set_precision(TrainConfig())
        cudnn.benchmark = False
    else:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = False, True, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = kept


class Ours:
    """A variant of our step.

    Args:
        name: method.
        variant: exact, shared or full.
        setting: sizes.
        weights: of another variant; None begins anew.
    """

    def __init__(self, name: str, variant: str, setting: Setting, weights: Mapping[str, Any] | None = None) -> None:
        kind = METHODS.get(name)
        keys = PEERS[name].ours(setting)
        if has_choice(name):
            keys["share_forward"] = variant != "exact"
        torch.manual_seed(0)
        self.method: Method = kind(kind.Config(**keys), setting.channels)
        if weights is not None:
            self.method.load_state_dict(weights)
        self.setting, self.whole, self.stage = setting, variant == "full", self.method.stages[-1]
        self.method.begin(self.stage)
        if self.whole:
            self.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            compile_networks(self.method)
        self.method.to(setting.device).train()
        self.optim = {n: ParallelOptimWrapper(1, optimizer=o) for n, o in self.method.optimizers().items()}

    def step(self, opacity: Tensor, clear: Tensor, number: int) -> dict[str, Tensor]:
        """Iteration `number`, as the engine runs it."""
        n, device = self.setting.batch, self.setting.device
        batch = Batch(opacity, clear, Draws(0, number, 0, n, n, device))
        with flags(self.whole), torch.autocast(device.type, torch.bfloat16, enabled=self.whole):
            return self.method.step(batch, self.optim, self.stage)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """PyTorch's, out of their wrappers."""
        return [wrapper.optimizer for wrapper in self.optim.values()]


def has_choice(name: str) -> bool:
    """Whether a method can share the generators' forward between discriminators and generators."""
    return "share_forward" in {f.name for f in fields(METHODS.get(name).Config)}


def images(setting: Setting) -> tuple[Tensor, Tensor]:
    """Random images of both domains on the device, in [-1, 1]."""
    shape = (2, setting.batch, setting.channels, setting.size, setting.size)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    opacity, clear = drawn.to(setting.device)
    return opacity, clear


def difference(mine: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[float, str]:
    """The largest relative difference of a loss, and which; a loss that one side lacks is infinitely different."""
    gaps = {name: abs(mine.get(name, math.inf) - value) / max(abs(value), 1e-6) for name, value in theirs.items()}
    worst = max(gaps, key=lambda name: gaps[name] if math.isfinite(gaps[name]) else math.inf)
    return (gaps[worst] if math.isfinite(gaps[worst]) else math.inf), worst


def agreement(ours: Ours, peer: Peer, opacity: Tensor, clear: Tensor) -> tuple[float, str]:
    """`difference` after one full iteration of both with equal random numbers, without TF32."""
    n = ours.setting.batch
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    kept = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        draws = Draws(0, peer.turn, 0, n, n, ours.setting.device)
        with peer.fed(draws):
            peer.step(opacity, clear)
        log = ours.method.step(Batch(opacity, clear, draws), ours.optim, ours.stage)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = kept
    return difference({name: float(value) for name, value in log.items()}, peer.losses())


# ---- measuring -----------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What was measured of a method.

    Attributes:
        timings: of full iterations; others: of those between them, where the published schedule has such.
        first: seconds of each variant's first iteration, which compiles.
        memory: peak bytes of the peer (``peer``) and each variant.
        period: iterations of the published schedule for one full one.
    """

    name: str
    timings: Timings
    others: Timings | None
    period: int
    first: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How often to measure what."""

    setting: Setting
    variants: tuple[str, ...]
    repeats: int
    warm_up: int


def measure(name: str, folder: Path, plan: Plan, console: Console) -> Result:
    """Check that a pair agrees, then time it.

    Raises:
        BenchError: it does not agree.
    """
    setting, device = plan.setting, plan.setting.device
    opacity, clear = images(setting)
    exact = Ours(name, "exact", setting)
    weights = {k: v.clone() if isinstance(v, Tensor) else v for k, v in exact.method.state_dict().items()}
    peer = PEERS[name](folder, setting, exact.method)
    gap, worst = agreement(exact, peer, opacity, clear)
    console.print(f"{name}: largest relative difference of a loss from {folder}: {gap:.1e} ({worst})", soft_wrap=True)
    if not gap <= TOLERANCE:
        raise BenchError(f"{name}: '{worst}' differs by {gap:.1e}, more than {TOLERANCE:.0e}; not timed.")

    sides = {"exact": exact} if "exact" in plan.variants else {}
    sides |= {v: Ours(name, v, setting, weights) for v in plan.variants if v != "exact" and (v == "full" or has_choice(name))}

    def theirs(full: bool) -> None:
        with flags(engine=False):
            peer.step(opacity, clear, full)

    def clock(run: Callable[[], object]) -> float:
        return seconds_of(run, device)

    def turns(full: bool, repeats: int) -> Timings:
        offset = peer.turn if full else peer.turn + 1
        runs = {v: (lambda k, s=side: s.step(opacity, clear, offset + peer.period * k)) for v, side in sides.items()}
        return take_turns(lambda _: theirs(full), runs, repeats, clock)

    warm = turns(True, plan.warm_up)
    result = Result(name, turns(True, plan.repeats), None, peer.period, {v: t[0] for v, t in warm.variants.items()})
    result.memory["peer"] = peak_memory(lambda: theirs(True), peer.optimizers(), device)
    for v, side in sides.items():
        result.memory[v] = peak_memory(lambda s=side: s.step(opacity, clear, peer.turn), side.optimizers(), device)  # type: ignore[misc]
    if peer.period > 1:
        turns(False, min(2, plan.warm_up))
        result.others = turns(False, plan.repeats)
    return result


def run(options: argparse.Namespace, device: torch.device) -> None:
    """Measure all methods asked for and print the table.

    Raises:
        UsageError: nothing can be measured.
        BenchError: a pair did not agree or failed; after all others were measured.
    """
    console = Console(highlight=False, width=max(120, Console().width))  # the table's width, also in a file
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_memory(device)  # for both sides, which share the process
    plan = plan_of(options, device)
    found = checkouts(Path(options.peer), options.methods, plan.setting, console)
    results, failures = list[Result](), list[str]()
    for name, folder in found.items():
        try:
            with warnings.catch_warnings(action="ignore"):  # old code has many
                results.append(measure(name, folder, plan, console))
        except BenchError as error:
            failures.append(str(error))
        except Exception as error:  # of code that is not ours
            failures.append(f"{name}: {folder} cannot be run: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        torch._dynamo.reset()
    if results:
        report(results, plan, console)
    if failures:
        raise BenchError("; ".join(failures))


def plan_of(options: argparse.Namespace, device: torch.device) -> Plan:
    """What the options ask for."""
    variants = tuple(options.variants.split(","))
    for name in variants:
        if name not in VARIANTS:
            raise unknown("variant", name, VARIANTS)
    for key in ("size", "batch", "channels", "width"):
        if getattr(options, key) < 1:
            raise UsageError(f"--{key} {getattr(options, key)}: less than 1.")
    cuda = device.type == "cuda"
    setting = Setting(options.size, options.batch, options.channels, options.width, device)
    return Plan(setting, variants, options.repeats or (50 if cuda else 4), 20 if cuda else 2)


def checkouts(path: Path, methods: str, setting: Setting, console: Console) -> dict[str, Path]:
    """Method -> folder of its published code, for those that are there and fit; the others are said.

    Raises:
        UsageError: none is left, or a method has no adapter.
    """
    wanted = methods.split(",") if methods else list(PEERS)
    for name in wanted:
        if name not in PEERS:
            raise unknown("method with a peer", name, PEERS)
    if not path.is_dir():
        raise UsageError(f"--peer {path}: no such folder. Name one that holds checkouts of published code.")
    found = dict[str, Path]()
    for name in wanted:
        folder, reason = PEERS[name].find(path), PEERS[name].unfit(setting)
        if folder is not None and not reason:
            found[name] = folder
        else:
            reason = reason or f"no {PEERS[name].file} with {PEERS[name].text!r} below {path}"
            console.print(f"{name}: skipped; {reason}", soft_wrap=True)
    if not found:
        raise UsageError(f"--peer {path}: no checkout to measure {', '.join(wanted)} against; see above what was looked for.")
    return found


def report(results: Sequence[Result], plan: Plan, console: Console) -> None:
    """Print a line for each side of each method, and what they were measured on."""
    setting = plan.setting
    cuda = setting.device.type == "cuda"
    figure: Callable[[Sequence[float]], float] = statistics.median if cuda else min
    table = Table(
        "method", "side", "s/it", "spread", "it/s", "images/s", "times as fast", "A-A", "peak MiB", "of peer's", "first it", box=None
    )
    for result in results:
        base = result.memory["peer"]
        for side, seconds in {"peer": result.timings.peer, **result.timings.variants}.items():
            each, ours = figure(seconds), side != "peer"
            table.add_row(
                *(result.name, side, f"{each:.4g}", f"{spread(seconds):.0%}", f"{1 / each:.3g}", f"{setting.batch / each:.3g}"),
                f"{result.timings.ratio(side, figure):.2f}" if ours else "",
                "" if ours else f"{result.timings.noise(figure):.2f}",
                f"{result.memory[side] / 2**20:.0f}",
                f"{result.memory[side] / base:.2f}" if ours else "",
                f"{result.first[side]:.1f} s" if ours else "",
            )
    console.print(table)
    for result in results:
        if result.others is not None:
            n, full, other = result.period - 1, result.timings, result.others
            all_in = figure(full.peer) + n * figure(other.peer)
            ratios = [f"{v} {all_in / (figure(full.variants[v]) + n * figure(other.variants[v])):.2f}" for v in full.variants]
            schedule = f"published schedule (one of {result.period} iterations is full)"
            console.print(f"{result.name}, {schedule}: {', '.join(ratios)}", soft_wrap=True)
    environment(plan, console)


def environment(plan: Plan, console: Console) -> None:
    """Print what the figures depend on."""
    s, config = plan.setting, TrainConfig()
    cuda = s.device.type == "cuda"
    name = torch.cuda.get_device_name(s.device) if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    console.print(
        f"{name}; torch {torch.__version__}, Python {platform.python_version()}; width {s.width}; "
        f"{s.batch} x {s.channels} x {s.size} x {s.size} a domain; {'median' if cuda else 'minimum'} of {plan.repeats} after "
        f"{plan.warm_up} for warming up; the first iteration of 'full' compiles",
        soft_wrap=True,
    )
    upstream = ", TF32 in convolutions but not in matrix products, cuDNN benchmark on" if cuda else ""
    engine = f", TF32 {'on' if config.tf32 else 'off'}, cuDNN benchmark off" if cuda else ""
    console.print(f"peer, exact, shared: fp32{upstream}; full: bf16 autocast{engine}", soft_wrap=True)
    if not cuda:
        console.print("freed memory stays with the process, on both sides alike (bench.device.keep_memory)", soft_wrap=True)
    if cuda:
        console.print(f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    memory = "parameters, gradients, optimizer state and the most that PyTorch's allocator adds in a full iteration"
    console.print(f"peak MiB: {memory}", soft_wrap=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this mode."""
    group = parser.add_argument_group("training against published code")
    group.add_argument("--training", action="store_true", help="our training steps against published ones (needs --peer)")
    group.add_argument("--peer", default="", metavar="PATH", help="folder of checkouts of published code, as they are")
    group.add_argument("--methods", default="", metavar="A,B", help=f"default: all that are there, of {', '.join(PEERS)}")
    group.add_argument("--size", type=int, default=128, help="side of the images (default %(default)s)")
    group.add_argument("--batch", type=int, default=2, help="images a domain (default %(default)s)")
    group.add_argument("--channels", type=int, default=3, help="image channels (default %(default)s)")
    group.add_argument("--width", type=int, default=64, help="width of all networks (default %(default)s, the published one)")
    group.add_argument("--repeats", type=int, default=0, help="timings of each variant (default 4, on CUDA 50)")
    group.add_argument("--threads", type=int, default=0, help="threads of a CPU (default: PyTorch's)")
    group.add_argument("--variants", default=",".join(VARIANTS), metavar="A,B", help="default %(default)s")
