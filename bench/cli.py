"""The ``bench`` command: call one function, print, exit code. Heavy imports happen inside the verbs."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.arguments import INTERRUPTED, asset_dirs, first, os_error, speak_safely, speak_when_ended, tell
from bench.errors import BenchError, UsageError
from bench.files import NoSpaceError
from bench.parser import build_parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``bench`` command. Exit codes: 0 done, 1 a stage failed, 2 wrong usage, 3 blocked by preflight."""
    speak_safely()
    speak_when_ended()
    raise SystemExit(_main(list(sys.argv[1:] if arguments is None else arguments)))


def _main(arguments: list[str]) -> int:
    parser = build_parser(_CALLS)
    verb = next((a for a in arguments if not a.startswith("-")), "")
    options, rest = parser.parse_known_args(arguments)
    if rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(options.call(options) or 0)
    except BenchError as error:
        tell(f"error: {os_error(error, options) if isinstance(error, NoSpaceError) else error}")
        return error.exit_code
    except KeyboardInterrupt:
        tell(f"\n{INTERRUPTED}")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        tell(f"error: {os_error(error, options)}")
        return 1
    finally:
        _end_tracking()
        _leave_processes(verb)


def _end_tracking() -> bool:
    """End the W&B runs; False, and said, where there was no space for them."""
    if "bench.tracking" not in sys.modules:
        return True
    from bench import tracking

    tracking.finish()
    if words := tracking.full():
        tell(f"error: {words}")
    return not words


def _leave_processes(verb: str) -> None:
    if verb == "run" and "WORLD_SIZE" in os.environ and "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def _csv(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _spec(options: argparse.Namespace, method: str | None = None) -> Any:
    """A RunSpec from the command line, without methods where none is named. Names are checked before anything heavy is imported."""
    from bench import config, suites
    from bench.registry import load_plugins

    for text in load_plugins(options.imports):
        tell(f"warning: {text}")
    methods = () if method is None else _methods(method)
    suites.evaluators(options.suite)
    suites.check(options.suite, None if method is None else methods)
    flags = _flags(options)
    resolved = config.load(options.preset, options.config, options.sets, flags)
    try:
        seeds = tuple(int(s) for s in options.seeds.split(","))
    except ValueError:
        raise UsageError(f"--seeds {options.seeds}: whole numbers, for example --seeds 0,1,2.") from None
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {options.seeds}: a seed is given twice.")
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise UsageError(f"--seeds {options.seeds}: whole numbers from 0 to {2**32 - 1}.")
    runs, cache = _places(options)
    if precision := getattr(options, "precision", ""):  # last: it may take a second to measure
        flags["train"] = {**flags.get("train", {}), "precision": _precision(precision, options, cache)}
        resolved = config.load(options.preset, options.config, options.sets, flags)
    if options.image_interval is not None and options.wandb == "off" and not options.tracker:
        raise UsageError("--image-interval: nobody gets the pictures. Add --wandb offline or --tracker tensorboard.")
    run_options = config.RunOptions(
        runs=runs, cache=cache, device=options.device, workers=options.workers, log_interval=options.log_interval,
        trackers=tuple(options.tracker), wandb=options.wandb, image_interval=options.image_interval,
        assets=asset_dirs(options.assets),
    )  # fmt: skip
    from bench.experiment import EMBEDDED, RunSpec

    return RunSpec(
        methods=methods, suite=options.suite, preset=options.preset, config=resolved, data=tuple(options.data) or EMBEDDED,
        seeds=seeds, options=run_options, train_on=options.train_on,
        force=getattr(options, "force", ""),
    )  # fmt: skip


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    """Keys of the configuration that have a flag of their own."""
    flags: dict[str, Any] = {}
    if options.segmenter_weights:
        flags["evaluators"] = {"segmentation": {"weights": list(options.segmenter_weights)}}
    if getattr(options, "compile", False):
        flags["train"] = {"compile": True}
    return flags


def _precision(wanted: str, options: argparse.Namespace, cache: Path) -> str:
    """What --precision means here; the same in all processes."""
    from bench import device, pipeline

    pipeline.threads(options.threads)
    place = device.choose(options.device)
    device.join_processes(place)
    return device.resolve_precision(wanted, place, cache / "bf16.json")


def _methods(text: str) -> tuple[str, ...]:
    """Names of methods, checked; ``all`` is every registered one but the baseline."""
    from bench.registry import METHODS

    names = _csv(text)
    if names == ("all",):
        return tuple(n for n in METHODS.names() if n != "original")
    if not names:
        raise UsageError("--method needs a name; see: bench list methods.")
    return tuple(METHODS.check(n) for n in names)


def _run(options: argparse.Namespace) -> int:
    if options.json and not options.dry_run:
        raise UsageError("--json goes with --dry-run: it prints the plan as JSON.")
    from bench.progress import console

    console.stderr = bool(options.json)  # then the plan alone goes to stdout
    _check_places(options)
    spec = _spec(options, options.method)
    from bench import pipeline, rows

    every = rows.specs(spec, lambda variant: _variant(options, spec, variant))
    pipeline.threads(options.threads)
    if options.dry_run:
        problems = rows.show_plans(every, options.json, quiet=not first())
        for text in problems:
            tell(f"error: {text}")
        return 3 if problems else 0
    _make_places(spec)
    outcome = rows.run(every)
    if not first():
        return 1 if outcome.failed else 0
    board = _print_leaderboard(spec.options.runs)
    _track_tables(spec.options.runs)
    for folder in outcome.folders:
        print(f"results      {folder}")
    for picture in outcome.pictures:
        print(f"picture      {picture}")
    print(f"leaderboard  {board}")
    complete = _end_tracking()
    if outcome.failed:
        titles = "; ".join(outcome.failed)
        tell(f"error: {len(outcome.failed)} stages not done: {titles}. The rest is kept; run the same command again.")
    return 1 if outcome.failed or not complete else 0


def _variant(options: argparse.Namespace, spec: Any, variant: str) -> Any:
    """The configuration of a suite's variant: its file over --config, --set and flags over both."""
    from bench import config

    flags = _flags(options)
    if options.precision:  # as it was found to be
        flags["train"] = {**flags.get("train", {}), "precision": spec.config.train.precision}
    return config.load(options.preset, options.config, options.sets, flags, variant)


def _places(options: argparse.Namespace) -> tuple[Path, Path]:
    """The results folder and the cache."""
    runs = Path(options.runs)
    return runs, Path(options.cache or os.environ.get("BENCH_CACHE") or runs / "cache")


def _check_places(options: argparse.Namespace) -> None:
    """Say of places that cannot be written to, before anything is read; makes nothing, so that plans are refused like runs."""
    from bench.files import could_be_folder

    runs, cache = _places(options)
    could_be_folder(runs, "--runs")
    could_be_folder(cache, "--cache")


def _make_places(spec: Any) -> None:
    """Make the results and cache folders and try to write there, before any work."""
    from bench.files import check_folder

    check_folder(spec.options.runs, "--runs")
    check_folder(spec.options.cache, "--cache")


def _print_leaderboard(runs: Path) -> Path:
    from bench import records
    from bench.files import write_text
    from bench.progress import warn
    from leaderboards import render

    found, warnings = records.load([runs])
    for text in warnings:
        warn(text)
    path = runs / "leaderboard.md"
    write_text(path, render.leaderboard(found))
    print()
    print(render.short(found, max(80, shutil.get_terminal_size((100, 24)).columns)))
    print()
    return path


def _track_tables(runs: Path) -> None:
    """Hand the paper's tables and figures of all records of a results folder to the tracker, where there is one.

    Records of earlier runs are among them, of data that this run does not know: what they say of it in words, and its images, stay
    here (`bench.tracking.values.wordless`).
    """
    from bench import records, tracking

    if not (tracker := tracking.current()):
        return
    with tracker.guarded():
        from bench.tracking.gate import OPEN
        from bench.tracking.values import wordless
        from leaderboards import cases, figures, frames, general, paper
        from leaderboards.command import IN_FIGURES

        found = [wordless(record) for record in records.load([runs])[0]]
        tracker.log_leaderboard(frames.frames([*general.sheets(found), *paper.sheets(found)]))
        made = cases.case_sets(found, count=IN_FIGURES)
        for one in (one for one in made if one.context["policy"] not in OPEN):
            tracker.tell(f"no figures of {one.title}: its images stay on this machine ({one.context['policy']})")
        tracker.log_figures(figures.named(found, [one for one in made if one.context["policy"] in OPEN]))
    tracker.close()


def _wandb_sync(options: argparse.Namespace) -> int:
    from bench.tracking import files

    print("\n".join(files.explain(Path(options.runs))))
    return 0


def _score(options: argparse.Namespace) -> int:
    spec = _spec(options)
    from bench import external, pipeline

    pipeline.threads(options.threads)
    _make_places(spec)
    failed = external.score(spec, Path(options.images), options.name, options.on)
    print(f"leaderboard  {_print_leaderboard(spec.options.runs)}")
    _track_tables(spec.options.runs)
    return 0 if _end_tracking() and not failed else 1


def _translate(options: argparse.Namespace) -> int:
    from bench.registry import load_plugins

    load_plugins(options.imports)
    from bench import external

    return external.translate(Path(options.run), Path(options.input), Path(options.out), options.device)


def _list(options: argparse.Namespace) -> int:
    from bench import listing
    from bench.registry import load_plugins

    for text in load_plugins(options.imports):
        tell(f"warning: {text}")
    listing.show(options.what, options.long, Path(options.runs))
    return 0


def _data_reader(options: argparse.Namespace) -> Any:
    from bench.data.load import DataSource
    from bench.registry import load_plugins

    load_plugins(options.imports)
    name, _, extra = options.name.partition(",")
    text = name + (f"={options.path}" if options.path else "") + (f",{extra}" if extra else "")
    return DataSource.parse(text).reader()


def _data_check(options: argparse.Namespace) -> int:
    reader = _data_reader(options)
    from bench.data import check
    from bench.progress import Progress, console

    report = check.inspect(reader, decode=options.decode, workers=options.workers, progress=Progress("decoding").counter())
    console.print(check.render(report), markup=False)
    return 0 if report.usable else 3


def _data_show(options: argparse.Namespace) -> int:
    reader = _data_reader(options)
    from bench import listing

    print(listing.show_dataset(reader, Path(options.out), options.size, options.count))
    return 0


def _check(options: argparse.Namespace) -> int:
    from bench.registry import METHODS, load_plugins

    load_plugins(options.imports)
    METHODS.check(options.method)
    from bench import checks

    for line in checks.check_method(options.method):
        print(line)
    return 0


def _assets(options: argparse.Namespace) -> int:
    from bench import listing
    from bench.registry import load_plugins

    for text in load_plugins(options.imports):
        tell(f"warning: {text}")
    from bench import config

    resolved = config.load(options.preset, options.config, options.sets, _flags(options))
    listing.show_assets(asset_dirs(options.assets), resolved)
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    from leaderboards import command

    return command.show(options)


_CALLS = {
    "run": _run, "score": _score, "translate": _translate, "list": _list, "data check": _data_check, "data show": _data_show,
    "check": _check, "assets": _assets, "leaderboard": _leaderboard, "wandb sync": _wandb_sync,
}  # fmt: skip
