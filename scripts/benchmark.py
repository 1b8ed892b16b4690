"""Measurements: speed of every part of the spine, training against published code, whether `ours` learns, what scoring costs.

Speed: training images/s of `ours` (whole loss, width 16) at 64 and 256 pixels through the engine and as a bare loop of steps
(the difference is what engine, hooks, logging and the last checkpoint cost), cache build images/s, translated images/s, peak
memory. Training figures are medians of interleaved repeats; the spread is printed with them.

Training against published code: see `benchmark_training`.

Learning: trains `ours` on the embedded data with several seeds and prints the change of the mean absolute error inside the
opacity region against the untranslated input, with its 95 % interval over patients, and the change outside.

Scoring: the whole suite on the embedded data for two methods and for six (filters that learn nothing, so that scoring alone
is measured; classifiers on generated images and masks are made for each method by nature, and filters have neither). What
evaluators learn and compute on real images is counted, once.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark_training
import torch
from mmengine.optim import OptimWrapper
from rich.console import Console
from rich.table import Table

from bench import records, stages, suites
from bench.batches import TranslationBatches
from bench.config import RunOptions, load
from bench.contracts import Translation
from bench.data.contract import CLEAR, OPACITY
from bench.data.sampling import Augment
from bench.errors import BenchError, UsageError
from bench.experiment import EMBEDDED, Experiment, RunSpec
from bench.files import read_json
from bench.pipeline import run as run_experiment
from bench.progress import Progress, clock
from bench.registry import METHODS, register_method
from bench.translations import translate_set

console = Console(highlight=False)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def spec(folder: Path, sets: list[str], method: str = "ours", seeds: tuple[int, ...] = (0,), data: str = "synthetic") -> RunSpec:
    """A quick run of one method below `folder`, keeping decoded images between runs."""
    options = RunOptions(runs=folder, cache=folder / "cache", workers=2, device=str(DEVICE))
    return RunSpec((method,), "faithfulness", "quick", load("quick", None, sets), (data,), seeds, options)


def prepared(folder: Path, size: int, steps: int, seed: int = 0) -> Experiment:
    """An experiment with its prior at hand; two iterations of it, for how well it classifies costs no time here."""
    sets = [f"data.size={size}", f"train.iterations={steps}", "prior.iterations=2", "train.checkpoint_interval=1000000"]
    experiment = Experiment(spec(folder, sets, seeds=(seed,)), DEVICE)
    key = experiment.prior_key()
    if not (stages.prior_folder(experiment, key) / "prior.json").is_file():
        stages.make_prior(experiment, key)
    return experiment


def engine_speed(experiment: Experiment, seed: int) -> float:
    """Images/s of a whole training through the engine."""
    stages.train(experiment, "ours", seed)
    rate: float = read_json(experiment.folder("ours", seed) / "train.json")["cost"]["images_per_second"]
    return rate


def bare_speed(experiment: Experiment, seed: int) -> float:
    """Images/s of the same steps in a plain loop."""
    settings = experiment.spec.config.train
    method = stages.build_method(experiment, "ours", seed).to(DEVICE).train()
    if settings.channels_last:
        method.to(memory_format=torch.channels_last)
    optim = {name: OptimWrapper(optimizer=o) for name, o in method.optimizers().items()}
    sets = [experiment.train_set(domain) for domain in (OPACITY, CLEAR)]
    augment = Augment(min_crop=experiment.data.min_crop)
    batches = TranslationBatches(sets[0], sets[1], seed, settings.batch_size, experiment.data.size, augment)
    started = time.monotonic()
    for step in range(settings.iterations):
        method.step(batches.batch(batches[step], DEVICE), optim, "train")
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return settings.iterations * settings.batch_size / (time.monotonic() - started)


def training_row(folder: Path, size: int, steps: int, repeats: int) -> str:
    """Interleaved engine and bare training, as a line of the table."""
    engine, bare = [], []
    for seed in range(repeats):
        experiment = prepared(folder, size, steps, seed)
        engine.append(engine_speed(experiment, seed))
        bare.append(bare_speed(experiment, seed))
    fast, plain = statistics.median(engine), statistics.median(bare)
    spread = max(bare) / min(bare) - 1
    return f"{fast:.2f} images/s; bare loop {plain:.2f} (spread {spread:.0%}); engine {(plain / fast - 1) * 100:+.1f} %"


def cache_speed(folder: Path, size: int, images: int) -> float:
    """Rendered and cached images/s of the embedded data with two workers."""
    experiment = Experiment(spec(folder, [f"data.size={size}"], "original", data=f"synthetic,images={images}"), DEVICE)
    started = time.monotonic()
    total = sum(len(experiment.images(*key)) for key in experiment.image_stages())
    return total / (time.monotonic() - started)


def translate_speed(folder: Path, size: int) -> float:
    """Translated images/s, PNG files included."""
    experiment = prepared(folder, size, 1)
    method, images = stages.build_method(experiment, "ours", 0), experiment.test_set("synthetic")
    with tempfile.TemporaryDirectory() as target:
        started = time.monotonic()
        translate_set(method, images, Path(target), "benchmark", 0, DEVICE, Progress("translate", quiet=True))
        return len(images) / (time.monotonic() - started)


def peak_memory() -> float:
    """MiB: of the GPU where there is one, else of this process."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def speed(folder: Path) -> None:
    """Print the speed table; `folder` must be new."""
    table = Table("what", "measured", box=None)
    for size, images in ((128, 100), (512, 16)):
        table.add_row(f"cache build {size} px, rendering included", f"{cache_speed(folder / 'build', size, images):.1f} images/s")
    for size, steps, repeats in ((64, 30, 4), (256, 6, 4)):
        table.add_row(f"training {size} px, batch 4", training_row(folder, size, steps, repeats))
    for size in (64, 256):
        table.add_row(f"translation {size} px, PNG written", f"{translate_speed(folder, size):.1f} images/s")
    table.add_row("peak memory", f"{peak_memory():.0f} MiB")
    console.print(f"{platform.machine()}, {DEVICE}, {torch.get_num_threads()} threads, torch {torch.__version__}, quick networks")
    console.print(table)


def learning(folder: Path, seeds: tuple[int, ...], sets: list[str]) -> None:
    """Print the learning table: one row a seed."""
    wanted = spec(folder, sets, seeds=seeds)
    outcome = run_experiment(wanted)
    if outcome.failed:
        raise SystemExit("; ".join(s.reason for s in outcome.failed))
    recipe = Experiment(wanted, DEVICE).recipe_key("ours")
    found = [r for r in records.load([folder])[0] if r["config_fingerprint"] == recipe and r["seed"] in seeds]
    table = Table("seed", "error in the opacity", "95 % CI", "change outside", "iterations", "trained in", box=None)
    below = 0
    for record in sorted(found, key=lambda r: r["seed"]):
        inside, outside, cost = record["scores"]["mae_in_change"], record["scores"]["change_out"], record["cost"]
        low, high = inside["ci"] or (float("nan"), float("nan"))
        below += high < 0
        table.add_row(
            str(record["seed"]), f"{inside['value']:+.1f} %", f"[{low:+.1f}, {high:+.1f}]", f"{outside['value']:.4f}",
            str(cost["iterations"]), clock(cost["seconds"]),
        )  # fmt: skip
    console.print(table)
    console.print(f"{below} of {len(found)} seeds with the whole interval below zero")


def filters(count: int) -> tuple[str, ...]:
    """Register gamma curves as methods; every one makes other images."""

    class Gamma(METHODS.get("original")):  # type: ignore[misc]
        paper, gamma = "a gamma curve", 1.0

        def translate(self, images: torch.Tensor, direction: str = "a2b", seeds: Any = None) -> Translation:
            return Translation(((images + 1) / 2).pow(self.gamma) * 2 - 1)

    names = [f"gamma{i}" for i in range(count)]
    for i, name in enumerate(names):
        register_method(name)(type(name, (Gamma,), {"gamma": 1.0 + 0.05 * (i + 1), "__module__": __name__}))
    return tuple(names)


def scoring(folder: Path, few: int = 2, many: int = 6) -> None:
    """Print what scoring costs for few and for many methods; `folder` must be new."""
    names = filters(many)
    wanted = replace(spec(folder, []), suite="all", data=EMBEDDED)
    cost: dict[str, list[float]] = {}
    for methods in (names[:few], names[few:]):
        outcome = run_experiment(replace(wanted, methods=methods))
        if outcome.failed:
            raise SystemExit("; ".join(s.reason for s in outcome.failed))
        for evaluator in suites.evaluators("all"):
            parts = [
                t for title, t in outcome.seconds.items()
                if title.startswith((f"fit {evaluator} for", "score ")) and f"{evaluator} " in title
            ]  # fmt: skip
            cost.setdefault(evaluator, []).append(sum(parts))
    table = Table("evaluator", f"{few} methods", f"{many} methods", "ratio", box=None)
    cost["all"] = [sum(values) for values in zip(*cost.values(), strict=True)]
    for evaluator, (first, more) in cost.items():
        table.add_row(evaluator, clock(first), clock(first + more), f"{(first + more) / max(first, 1e-9):.2f}")
    console.print(table)


def main() -> None:
    """Parse and measure; what a user can mend is told in a line."""
    try:
        measure(arguments())
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--learning", action="store_true", help="whether `ours` learns, instead of speed")
    parser.add_argument("--scoring", action="store_true", help="what scoring costs for two and for six methods")
    parser.add_argument("--seeds", default="0,1,2", help="seeds for --learning (default 0,1,2)")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="configuration for --learning")
    parser.add_argument("--runs", default="", metavar="DIR", help="keep the results of --learning here (default: thrown away)")
    benchmark_training.add_options(parser)
    options = parser.parse_args()
    if options.training != bool(options.peer):
        raise UsageError("--training and --peer PATH go together: PATH is a folder of checkouts of published code.")
    return options


def measure(options: argparse.Namespace) -> None:
    """Run the measurement asked for."""
    if options.training:
        benchmark_training.run(options, DEVICE)
        return
    with tempfile.TemporaryDirectory() as temporary:
        if options.learning:
            learning(Path(options.runs or temporary), tuple(int(s) for s in options.seeds.split(",")), options.sets)
        elif options.scoring:
            scoring(Path(temporary))
        else:
            speed(Path(temporary))


if __name__ == "__main__":
    main()
