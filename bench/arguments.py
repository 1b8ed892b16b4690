"""Command line parts that several verbs share: the parser, flags, numbers, and messages on the error stream."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench.errors import did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse that answers unknown words with the nearest known one, in one line, exit code 2."""

    words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Remember the words, for `error`."""
        self.words = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if "invalid choice: '" in message:
            word = message.split("invalid choice: '")[1].split("'", maxsplit=1)[0]
            known = message.split("choose from ")[1].rstrip(")").replace("'", "").split(", ")
            message = f"unknown word '{word}'.{did_you_mean(word, known)} Known: {', '.join(known)}."
        known = [o for a in self._actions for o in a.option_strings if o.startswith("--")]
        flags = [word.split("=")[0] for word in self.words if word.startswith("--")]
        flag = next((f for f in flags if not any(k.startswith(f) for k in known)), "")
        if flag and message.startswith(("unrecognized arguments:", "the following arguments are required:")):
            message = f"unknown flag {flag}.{did_you_mean(flag, known)} See: {self.prog} --help."
        tell(f"error: {message}")
        raise SystemExit(2)


def tell(text: str) -> None:
    """Print on the error stream; of several processes only the first speaks."""
    if first():
        print(text, file=sys.stderr)


def first() -> bool:
    return os.environ.get("RANK", "0") in ("", "0")


#: Options that name places a command writes to.
_PLACES = {"out": "--out", "cache": "--cache", "runs": "--runs"}


def os_error(error: OSError, options: argparse.Namespace) -> str:
    """What the system refused, in one line: the path, the flag that led there, and what to do."""
    path = os.fspath(error.filename2 or error.filename or "")
    path = path.decode(errors="replace") if isinstance(path, bytes) else str(path)
    text = f"{path}: {error.strerror}." if path else f"{error.strerror}."
    given = {flag: value for name, flag in _PLACES.items() if isinstance(value := getattr(options, name, None), str) and value}
    flag = next((f for f, v in given.items() if path and _related(Path(path), Path(v))), "")
    keep = " Finished work is kept." if "runs" in options and "method" in options else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text} Free some space, or choose another {flag or next(iter(given), 'place')}.{keep}"
    return f"{text} Choose another {flag} (given: {given[flag]}).{keep}" if flag else text + keep


def _related(path: Path, given: Path) -> bool:
    """Whether a path is the given one, its temporary file, below it or one of its parents (which could not be made)."""
    path, given = path.absolute(), given.absolute()
    if path.parent == given.parent and path.name.startswith(f".{given.name}."):
        return True
    return path.is_relative_to(given) or given.is_relative_to(path)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {least}.")
    return int(text)


natural, positive = functools.partial(_at_least, 0), functools.partial(_at_least, 1)


def asset_dirs(extra: list[str]) -> tuple[Path, ...]:
    """Folders searched for weight files: --assets, then $BENCH_ASSETS, then torch's checkpoint folder."""
    home = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch")
    named = [*extra, *os.environ.get("BENCH_ASSETS", "").split(os.pathsep)]
    return (*[Path(p) for p in named if p], home / "hub" / "checkpoints")


def suite(parser: argparse.ArgumentParser) -> None:
    """Add --suite."""
    parser.add_argument(
        "--suite", default="all",
        help="which evaluators score: a suite, an evaluator, or 'all' (default); 'ablation' makes Table 3 with --method ours",
    )  # fmt: skip


def configuration(parser: argparse.ArgumentParser) -> None:
    """Add --preset, --config and --set."""
    parser.add_argument("--preset", default="quick", help="quick (default), small or paper; see: bench list presets")
    parser.add_argument("--config", default=None, metavar="FILE", help="YAML file merged over the preset")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="override one key; may be repeated"
    )


def segmenters(parser: argparse.ArgumentParser) -> None:
    """Add --segmenter-weights."""
    parser.add_argument(
        "--segmenter-weights", action="append", default=[], metavar="ARCH=PATH",
        help="a lung segmenter of your own instead of one trained here: unet, pspnet, cenet or vgg; may be repeated",
    )  # fmt: skip


def experiment(parser: argparse.ArgumentParser) -> None:
    """Add what describes an experiment: configuration, data, places, device."""
    configuration(parser)
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="dataset; may be repeated (default: the embedded ones)",
    )
    parser.add_argument(
        "--train-on", default="", metavar="NAME", help="dataset to train on (default: the first with both domains)"
    )
    parser.add_argument("--runs", default="runs", metavar="DIR", help="results folder (default: runs)")
    parser.add_argument(
        "--cache", default="", metavar="DIR", help="decoded images and features (default: $BENCH_CACHE or RUNS/cache)"
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE",
        help="file that registers a method or evaluator",
    )
    parser.add_argument("--assets", action="append", default=[], metavar="DIR", help="folder searched for weight files")
    segmenters(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--threads", type=natural, default=0, help="compute threads (default: all cores)")
    parser.add_argument("--workers", type=positive, default=max(1, min(8, os.cpu_count() or 1)), help="decoding processes")
    parser.add_argument("--tracker", action="append", default=[], choices=("tensorboard",), help="send losses there, too")
    parser.add_argument(
        "--wandb", choices=("online", "offline", "off"), default="off",
        help="log losses, scores, tables and pictures of open data to W&B; offline: below RUNS/wandb (default off)",
    )  # fmt: skip
    parser.add_argument(
        "--log-interval", type=positive, default=10, metavar="STEPS", help="training steps between log lines"
    )
    parser.add_argument(
        "--image-interval", type=natural, default=None, metavar="STEPS",
        help="training steps between pictures for --wandb and --tracker, open data only (default: ten a training; 0: none)",
    )  # fmt: skip
