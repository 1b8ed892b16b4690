"""The words of the ``bench`` command: verbs and their flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from bench.arguments import Parser, configuration, experiment, positive, segmenters, suite

_VERBS = {
    "run": "train methods, translate the test sets, score them, print the leaderboard",
    "score": "score a folder of images made elsewhere",
    "translate": "translate a folder of DICOM or PNG files with a trained run",
    "list": "list methods, evaluators, datasets, suites, presets or finished runs",
    "data": "check or show a dataset",
    "check": "check a method against the contract, in seconds",
    "assets": "list weight files: which are needed, where they go, whether they are there",
    "leaderboard": "render tables from the records of finished runs",
    "wandb": "tell how to upload what --wandb offline kept",
}


def build_parser(calls: Mapping[str, Any]) -> argparse.ArgumentParser:
    """The whole command line; imports nothing heavy.

    Args:
        calls: verb (``data check`` with its action) -> the function that gets the parsed options and returns an exit code.
    """
    parser = Parser(
        prog="bench", description="Benchmark for unpaired chest X-ray translation.",
        epilog="example: bench run --method ours --suite all", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(metavar="VERB", required=True, title="verbs")

    def add(name: str, example: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = verbs.add_parser(
            name, help=_VERBS[name], description=_VERBS[name][0].upper() + _VERBS[name][1:] + ".",
            epilog=f"example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(call=calls.get(name), parser=sub)
        return sub

    _run(add("run", "bench run --method ours --suite all --preset quick --data rsna=/data/rsna"))
    _score(add("score", "bench score --images out/ --as my-gan --on rsna --data rsna=/data/rsna --suite fidelity"))
    _translate(add("translate", "bench translate runs/ours/rsna/seed0-1a2b3c4d films/ --out clear/"))
    _list(add("list", "bench list methods"))
    _data(add("data", "bench data check rsna /data/rsna"), calls)
    _check(add("check", "bench check --method mine --import ./mine.py"))
    _assets(add("assets", "bench assets --segmenter-weights unet=unet.pth"))
    leaderboard(add("leaderboard", "bench leaderboard runs --table 1 --against paper"))
    _wandb(add("wandb", "bench wandb sync runs"), calls["wandb sync"])
    return parser


def _run(parser: argparse.ArgumentParser) -> None:
    """Flags of ``bench run``."""
    parser.add_argument("--method", required=True, metavar="A,B", help="methods, or 'all'")
    suite(parser)
    experiment(parser)
    parser.add_argument("--seeds", default="0", metavar="0,1,2", help="one training each (default 0)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "auto"), default="",
        help="sets train.precision, which changes numbers; auto: bf16 where it is faster (default: the preset's)",
    )  # fmt: skip
    parser.add_argument(
        "--compile", action="store_true",
        help="sets train.compile: torch.compile, for long runs; on a GPU together with --set train.channels_last=true",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--force", choices=("train", "translate", "score"), default="", help="do a stage again, and all after it"
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: the plan as JSON")


def _score(parser: argparse.ArgumentParser) -> None:
    """Flags of ``bench score``."""
    parser.add_argument("--images", required=True, metavar="DIR", help="translated images, named by image id")
    parser.add_argument("--as", dest="name", required=True, metavar="NAME", help="row name in the leaderboard")
    parser.add_argument("--on", default="", metavar="DATASET", help="test set they belong to (default: the first)")
    suite(parser)
    experiment(parser)
    parser.set_defaults(seeds="0")


def _translate(parser: argparse.ArgumentParser) -> None:
    """Flags of ``bench translate``."""
    parser.add_argument("run", metavar="RUN", help="folder of a finished run (with train.json)")
    parser.add_argument("input", metavar="INPUT", help="a folder, or a file: DICOM, PNG, JPEG")
    parser.add_argument("--out", required=True, metavar="DIR", help="where images/ and masks/ go")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="FILE", help="the file that defines the method"
    )


def _list(parser: argparse.ArgumentParser) -> None:
    """Flags of ``bench list``."""
    parser.add_argument(
        "what", nargs="?", default="all", choices=("all", "methods", "evaluators", "datasets", "suites", "presets", "runs")
    )
    parser.add_argument("--long", action="store_true", help="with details (imports what it lists)")
    parser.add_argument("--runs", default="runs", metavar="DIR")
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="FILE")


def _data(parser: argparse.ArgumentParser, calls: Mapping[str, Any]) -> None:
    """Actions of ``bench data`` and their flags."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions")
    for action, text in (
        ("check", "count, and name every missing or corrupt file; exit 3 when it cannot be used"),
        ("show", "draw a page of images with masks and boxes"),
    ):
        sub = actions.add_parser(action, help=text, description=text, epilog=f"example: bench data {action} rsna /data/rsna")
        sub.set_defaults(call=calls[f"data {action}"], parser=sub)
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


def _check(parser: argparse.ArgumentParser) -> None:
    """Flags of ``bench check``."""
    parser.add_argument("--method", required=True, metavar="NAME")
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="FILE")


def _assets(parser: argparse.ArgumentParser) -> None:
    """Flags of ``bench assets``."""
    parser.add_argument(
        "--assets", action="append", default=[], metavar="DIR", help="folder to search, before the usual ones"
    )
    configuration(parser)
    segmenters(parser)
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="FILE", help="an evaluator's file")


def _wandb(parser: argparse.ArgumentParser, call: Any) -> None:
    """The action of ``bench wandb``."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions")
    text = "list what --wandb offline kept, and say how to upload it and what will be sent; uploads nothing"
    sync = actions.add_parser("sync", help=text, description=text, epilog="example: bench wandb sync runs")
    sync.set_defaults(call=call, parser=sync)
    sync.add_argument("runs", nargs="?", default="runs", metavar="RUNS", help="results folder (default: runs)")


def leaderboard(board: argparse.ArgumentParser) -> None:
    """Flags of ``bench leaderboard``; `leaderboards.command` does what they say."""
    board.add_argument("runs", nargs="*", default=["runs"], metavar="RUNS", help="results folders (default: runs)")
    board.add_argument(
        "--table", choices=("1", "2", "3", "fig6", "all", "general"), default="",
        help="a table of the paper, all of them, or the general leaderboard (default: general in md, else all that there is)",
    )  # fmt: skip
    board.add_argument("--format", choices=("md", "html", "csv", "latex", "json"), default="", help="default: md; html is one page")
    board.add_argument("--full", action="store_true", help="the general leaderboard with every pair of methods and every part")
    board.add_argument("--against", choices=("paper",), default="", help="published numbers beside the measured ones")
    board.add_argument("--figures", default="", metavar="DIR", help="write Figures 3 to 6 there, as PNG and PDF")
    board.add_argument(
        "--cases", default="", metavar="RULE",
        help="which images figures and page show: first (of the sorted test set, the default), or the best, middling and worst by "
        "EVALUATOR/METRIC@METHOD, the same method in all test sets (without @METHOD: ours)",
    )  # fmt: skip
    board.add_argument("--count", type=positive, metavar="K", help="how many of them (default: 4 in figures, 24 in the page)")
    board.add_argument("--out", default="", metavar="FILE", help="write here instead of printing (html: leaderboard.html)")
