"""Measurements: speed of every part of the spine, or whether `ours` learns.

Speed: training images/s of `ours` at 64 and 256 pixels through the engine and as a bare loop (the difference is what engine,
hooks and logging cost), cache build images/s, translated images/s, peak memory. Each figure is the median of interleaved
repeats; the spread is printed with it.

Learning: trains `ours` on the embedded data with several seeds and prints the change of the mean absolute error inside the
opacity region against the untranslated input, with its 95 % interval over patients, and the change outside.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench import records, stages
from bench.config import RunOptions, load
from bench.contracts import Draws
from bench.experiment import Experiment, RunSpec, method_config
from bench.pipeline import run as run_experiment

console = Console(highlight=False)


def spec(
    folder: Path,
    sets: list[str],
    method: str = "ours",
    seeds: tuple[int, ...] = (0,),
    data: tuple[str, ...] = ("synthetic",),
) -> RunSpec:
    """A quick run of one method below `folder`, keeping decoded images between runs."""
    options = RunOptions(runs=folder, cache=folder / "cache", workers=2, device="auto")
    return RunSpec((method,), "faithfulness", "quick", load("quick", None, sets), data, seeds, options)


def training_speed(size: int, steps: int, repeats: int, folder: Path) -> dict[str, float]:
    """Images/s of `ours` through the engine and as a bare loop of steps, interleaved."""
    sets = [
        f"data.size={size}",
        "methods.ours.fa=false",
        "methods.ours.lca=false",
        f"train.iterations={steps}",
        "train.checkpoint_interval=100000",
    ]
    engine, bare = [], []
    for repeat in range(repeats):
        experiment = Experiment(spec(folder, sets, seeds=(repeat,)), _device())
        started = time.monotonic()
        method = stages.build_method(experiment, "ours", repeat)
        stages.train(experiment, "ours", repeat)
        facts = json.loads((experiment.folder("ours", repeat) / "train.json").read_text())
        engine.append(facts["cost"]["images_per_second"])
        del method, started
        bare.append(_bare_loop(experiment, repeat, steps))
    return {"engine": statistics.median(engine), "bare": statistics.median(bare), "spread": max(bare) / min(bare) - 1}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _bare_loop(experiment: Experiment, seed: int, steps: int) -> float:
    from mmengine.optim import OptimWrapper

    from bench.batches import TranslationBatches
    from bench.data.contract import CLEAR, OPACITY
    from bench.data.sampling import Augment

    method = stages.build_method(experiment, "ours", seed).to(experiment.device).train()
    optim = {k: OptimWrapper(optimizer=o) for k, o in method.optimizers().items()}
    batch_size = experiment.spec.config.train.batch_size
    batches = TranslationBatches(
        experiment.train_set(OPACITY),
        experiment.train_set(CLEAR),
        seed,
        batch_size,
        experiment.data.size,
        Augment(min_crop=experiment.data.min_crop),
    )
    started = time.monotonic()
    for step in range(steps):
        method.step(batches.batch(batches[step], experiment.device), optim, "train")
    if experiment.device.type == "cuda":
        torch.cuda.synchronize()
    return steps * batch_size / (time.monotonic() - started)


def cache_speed(size: int, images: int, folder: Path) -> float:
    """Rendered and cached images/s of the embedded data with two workers."""
    experiment = Experiment(
        spec(folder / f"cache-{size}", [f"data.size={size}"], "original", data=(f"synthetic,images={images}",)), _device()
    )
    started = time.monotonic()
    total = sum(len(experiment.images(name, split, side)) for name, split, side in experiment.image_stages())
    return total / (time.monotonic() - started)


def translate_speed(size: int, folder: Path) -> float:
    """Translated images/s, PNG files included."""
    from bench.progress import Progress
    from bench.translations import translate_set

    experiment = Experiment(
        spec(folder, [f"data.size={size}", "methods.ours.fa=false", "methods.ours.lca=false"]), _device()
    )
    method, images = stages.build_method(experiment, "ours", 0), experiment.test_set("synthetic")
    with tempfile.TemporaryDirectory() as target:
        started = time.monotonic()
        translate_set(method, images, Path(target), "benchmark", 0, experiment.device, Progress("translate", quiet=True))
        return len(images) / (time.monotonic() - started)


def draw_cost() -> float:
    """Microseconds for one named draw of style noise."""
    draws = Draws(0, 0, 0, 4, 4)
    started = time.perf_counter()
    for i in range(1000):
        draws.normal(str(i), 8)
    return (time.perf_counter() - started) * 1e3


def speed(folder: Path) -> None:
    """Print the speed table."""
    table = Table("what", "value", box=None)
    for size, images in ((128, 100), (512, 16)):
        table.add_row(
            f"cache build, {size} px, 2 workers (rendering included)", f"{cache_speed(size, images, folder):.1f} images/s"
        )
    for size, steps, repeats in ((64, 20, 4), (256, 3, 4)):
        found = training_speed(size, steps, repeats, folder)
        overhead = (found["bare"] / found["engine"] - 1) * 100
        table.add_row(
            f"training `ours` (width 16), {size} px, batch 4",
            f"{found['engine']:.2f} images/s; bare loop {found['bare']:.2f} (spread {found['spread']:.0%}), engine {overhead:+.1f} %",
        )
    for size in (64, 256):
        table.add_row(f"translation, {size} px, PNG written", f"{translate_speed(size, folder):.1f} images/s")
    table.add_row("one style draw", f"{draw_cost():.0f} us")
    peak = (
        torch.cuda.max_memory_allocated() / 2**20
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    )
    table.add_row("peak memory of this process", f"{peak:.0f} MiB")
    console.print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {_device()}")
    console.print(table)


def learning(folder: Path, seeds: tuple[int, ...], sets: list[str]) -> None:
    """Print the learning table: one row a seed."""
    outcome = run_experiment(spec(folder, sets, seeds=seeds))
    if outcome.failed:
        raise SystemExit("; ".join(s.reason for s in outcome.failed))
    found, _ = records.load([folder / "ours"])
    table = Table("seed", "error in the opacity, change", "95 % CI", "change outside", "iterations", "training", box=None)
    below, wanted = 0, {method_config(load("quick", None, sets), "ours")[0].__name__}
    for record in sorted(found, key=lambda r: r["seed"]):
        if record["seed"] not in seeds or not wanted:
            continue
        inside, outside = record["scores"]["mae_in_change"], record["scores"]["change_out"]
        below += inside["ci"][1] < 0
        table.add_row(
            str(record["seed"]), f"{inside['value']:+.1f} %", f"[{inside['ci'][0]:+.1f}, {inside['ci'][1]:+.1f}]",
            f"{outside['value']:.4f}", str(record["cost"]["iterations"]), f"{record['cost']['seconds']:.0f} s",
        )  # fmt: skip
    console.print(table)
    console.print(f"{below} of {len(seeds)} seeds with the whole interval below zero")


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learning", action="store_true", help="whether `ours` learns, instead of speed")
    parser.add_argument("--seeds", default="0,1,2", help="seeds for --learning")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="configuration for --learning"
    )
    parser.add_argument("--runs", default="", metavar="DIR", help="keep results here (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.runs or temporary)
        if options.learning:
            learning(folder, tuple(int(s) for s in options.seeds.split(",")), options.sets)
        else:
            speed(folder)


if __name__ == "__main__":
    main()
