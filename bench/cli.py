"""The ``bench`` command: parse, call one function, print, exit code. Heavy imports happen inside the verbs."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.arguments import Parser, asset_dirs, configuration, experiment, first, os_error, positive, segmenters, suite, tell
from bench.errors import BenchError, UsageError

_VERBS = {
    "run": "train methods, translate the test sets, score them, print the leaderboard",
    "score": "score a folder of images made elsewhere",
    "translate": "translate a folder of DICOM or PNG files with a trained run",
    "list": "list methods, evaluators, datasets, suites, presets or finished runs",
    "data": "check or show a dataset",
    "check": "check a method against the contract, in seconds",
    "assets": "list weight files: which are needed, where they go, whether they are there",
    "leaderboard": "render tables from the records of finished runs",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``bench`` command. Exit codes: 0 done, 1 a stage failed, 2 wrong usage, 3 blocked by preflight."""
    raise SystemExit(_main(list(sys.argv[1:] if arguments is None else arguments)))


def _main(arguments: list[str]) -> int:
    parser = build_parser()
    verb = next((a for a in arguments if not a.startswith("-")), "")
    options, rest = parser.parse_known_args(arguments)
    if rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(options.call(options) or 0)
    except BenchError as error:
        tell(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        tell("\ninterrupted: finished work is kept, the same command carries on.")
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
        _leave_processes(verb)


def _leave_processes(verb: str) -> None:
    if verb == "run" and "WORLD_SIZE" in os.environ and "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; imports nothing heavy."""
    parser = Parser(
        prog="bench", description="Benchmark for unpaired chest X-ray translation.",
        epilog="example: bench run --method ours --suite all", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(metavar="VERB", required=True, title="verbs")

    def add(name: str, call: Any, example: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = verbs.add_parser(
            name, help=_VERBS[name], description=_VERBS[name][0].upper() + _VERBS[name][1:] + ".",
            epilog=f"example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(call=call, parser=sub)
        return sub

    run = add("run", _run, "bench run --method ours --suite all --preset quick --data rsna=/data/rsna")
    run.add_argument("--method", required=True, metavar="A,B", help="methods, or 'all'")
    suite(run)
    experiment(run)
    run.add_argument("--seeds", default="0", metavar="0,1,2", help="one training each (default 0)")
    run.add_argument(
        "--precision", choices=("fp32", "bf16", "auto"), default="",
        help="sets train.precision, which changes numbers; auto: bf16 where it is faster (default: the preset's)",
    )  # fmt: skip
    run.add_argument("--compile", action="store_true", help="sets train.compile: torch.compile, for long runs")
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument(
        "--force", choices=("train", "translate", "score"), default="", help="do a stage again, and all after it"
    )
    run.add_argument("--json", action="store_true", help="with --dry-run: the plan as JSON")

    score = add("score", _score, "bench score --images out/ --as my-gan --on rsna --data rsna=/data/rsna --suite fidelity")
    score.add_argument("--images", required=True, metavar="DIR", help="translated images, named by image id")
    score.add_argument("--as", dest="name", required=True, metavar="NAME", help="row name in the leaderboard")
    score.add_argument("--on", default="", metavar="DATASET", help="test set they belong to (default: the first)")
    suite(score)
    experiment(score)
    score.set_defaults(seeds="0")

    translate = add("translate", _translate, "bench translate runs/ours/rsna/seed0-1a2b3c4d films/ --out clear/")
    translate.add_argument("run", metavar="RUN", help="folder of a finished run (with train.json)")
    translate.add_argument("input", metavar="INPUT", help="a folder, or a file: DICOM, PNG, JPEG")
    translate.add_argument("--out", required=True, metavar="DIR", help="where images/ and masks/ go")
    translate.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    translate.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="FILE", help="the file that defines the method"
    )

    listing = add("list", _list, "bench list methods")
    listing.add_argument(
        "what", nargs="?", default="all", choices=("all", "methods", "evaluators", "datasets", "suites", "presets", "runs")
    )
    listing.add_argument("--long", action="store_true", help="with details (imports what it lists)")
    listing.add_argument("--runs", default="runs", metavar="DIR")
    listing.add_argument("--import", dest="imports", action="append", default=[], metavar="FILE")

    data = add("data", None, "bench data check rsna /data/rsna")
    actions = data.add_subparsers(metavar="ACTION", required=True, title="actions")
    for action, call, text in (
        ("check", _data_check, "count, and name every missing or corrupt file; exit 3 when it cannot be used"),
        ("show", _data_show, "draw a page of images with masks and boxes"),
    ):
        sub = actions.add_parser(action, help=text, description=text, epilog=f"example: bench data {action} rsna /data/rsna")
        sub.set_defaults(call=call, parser=sub)
        sub.add_argument("name", metavar="DATASET", help="a registered dataset; see: bench list datasets")
        sub.add_argument("path", nargs="?", default="", metavar="PATH", help="its folder (none for the embedded ones)")
        sub.add_argument("--import", dest="imports", action="append", default=[], metavar="FILE")
        sub.add_argument("--workers", type=positive, default=2, help="decoding processes")
        if action == "check":
            sub.add_argument("--no-decode", dest="decode", action="store_false", help="read tables only, decode nothing")
        else:
            sub.add_argument("--out", default="dataset.png", metavar="PNG")
            sub.add_argument("--size", type=positive, default=256, metavar="PX", help="side of each image")
            sub.add_argument("--count", type=positive, default=8, metavar="N", help="images a domain")

    check = add("check", _check, "bench check --method mine --import ./mine.py")
    check.add_argument("--method", required=True, metavar="NAME")
    check.add_argument("--import", dest="imports", action="append", default=[], metavar="FILE")

    assets = add("assets", _assets, "bench assets --segmenter-weights unet=unet.pth")
    assets.add_argument(
        "--assets", action="append", default=[], metavar="DIR", help="folder to search, before the usual ones"
    )
    configuration(assets)
    segmenters(assets)
    assets.add_argument("--import", dest="imports", action="append", default=[], metavar="FILE", help="an evaluator's file")

    board = add("leaderboard", _leaderboard, "bench leaderboard runs --out leaderboard.md")
    board.add_argument("runs", nargs="*", default=["runs"], metavar="RUNS", help="results folders (default: runs)")
    board.add_argument("--out", default="", metavar="FILE", help="write here instead of printing")
    return parser


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
    runs = Path(options.runs)
    cache = Path(options.cache or os.environ.get("BENCH_CACHE") or runs / "cache")
    if precision := getattr(options, "precision", ""):  # last: it may take a second to measure
        flags["train"] = {**flags.get("train", {}), "precision": _precision(precision, options, cache)}
        resolved = config.load(options.preset, options.config, options.sets, flags)
    run_options = config.RunOptions(
        runs=runs, cache=cache, device=options.device, workers=options.workers, log_interval=options.log_interval,
        trackers=tuple(options.tracker),
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
    spec = _spec(options, options.method)
    import json

    from bench import pipeline
    from bench import plan as planning

    pipeline.threads(options.threads)
    if options.dry_run:
        found = planning.plan(pipeline.open_run(spec))
        if first():
            print(json.dumps(pipeline.plan_rows(found), indent=1)) if options.json else pipeline.print_plan(found)
        for text in planning.problems(found):
            tell(f"error: {text}")
        return 3 if planning.problems(found) else 0
    _check_places(spec)
    outcome = pipeline.run(spec)
    if not first():
        return 1 if outcome.failed else 0
    board = _print_leaderboard(spec.options.runs)
    for folder in outcome.folders:
        print(f"results      {folder}")
    for picture in outcome.pictures:
        print(f"picture      {picture}")
    print(f"leaderboard  {board}")
    if outcome.failed:
        titles = "; ".join(f"{s.kind} {s.title}" for s in outcome.failed)
        tell(f"error: {len(outcome.failed)} stages not done: {titles}. The rest is kept; run the same command again.")
        return 1
    return 0


def _check_places(spec: Any) -> None:
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


def _score(options: argparse.Namespace) -> int:
    spec = _spec(options)
    from bench import external, pipeline

    pipeline.threads(options.threads)
    _check_places(spec)
    failed = external.score(spec, Path(options.images), options.name, options.on)
    print(f"leaderboard  {_print_leaderboard(spec.options.runs)}")
    return 1 if failed else 0


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
    from bench import records
    from bench.files import write_text
    from leaderboards import render

    found, warnings = records.load([Path(p) for p in options.runs])
    for text in warnings:
        tell(f"warning: {text}")
    if not found:
        raise UsageError(f"no records below {', '.join(options.runs)}. Make some: bench run --method ours --suite all.")
    text = render.leaderboard(found)
    if options.out and Path(options.out).is_dir():
        raise UsageError(f"--out {options.out}: is a folder. Name the file, for example {Path(options.out) / 'leaderboard.md'}.")
    if options.out:
        write_text(Path(options.out), text)
        print(options.out)
    else:
        print(text)
    return 0
