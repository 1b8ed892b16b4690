"""Command line parts that several verbs share: the parser, flags, numbers, and messages on the error stream."""

from __future__ import annotations

import argparse
import errno
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench.errors import UsageError, did_you_mean
from bench.files import NoSpaceError, disk_full


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


#: What is said where a command is ended from outside.
INTERRUPTED = "interrupted: finished work is kept, the same command carries on."


def speak_safely() -> None:
    """Let what the terminal's encoding lacks come out as ``?``: no good run may fail for a dot in its table."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def speak_when_ended() -> None:
    """Say on SIGTERM what Ctrl-C says, then end by the signal (exit code 143 in a shell).

    Nothing is unwound: files are whole whenever a process ends. Children inherit the handler and end in silence. The processes of
    torchrun keep the system's: one that waits for the others inside a collective call would never come to run a handler of ours.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 or threading.current_thread() is not threading.main_thread():
        return  # Python lets only the main thread set handlers: a caller in another one keeps its own
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    own = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() == own:
            os.write(2, f"\n{INTERRUPTED}\n".encode())  # print() may be at work right now, and cannot be entered twice
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)


#: Options that name places a command writes to.
_PLACES = {"out": "--out", "figures": "--figures", "cache": "--cache", "runs": "--runs"}


def os_error(error: OSError | NoSpaceError, options: argparse.Namespace) -> str:
    """What the system refused, in one line: the path (or where it may lie), the flag that led there, and what to do."""
    told = isinstance(error, NoSpaceError)
    path = os.fsdecode((error.path if isinstance(error, NoSpaceError) else error.filename2 or error.filename) or "")
    given = _given(options)
    flags = [flag for flag, value in given.items() if _related(Path(path), Path(value))][:1] if path else list(given)
    if isinstance(error, NoSpaceError):
        text, code = error.what, error.code
    else:
        places = "" if path or not given else f" (written to: {', '.join(f'{f} {v}' for f, v in given.items())})"
        text, code = f"{path}: {error.strerror}." if path else f"{error.strerror}{places}.", error.errno
    keep = " Finished work is kept." if "runs" in options and "method" in options else ""
    if told or disk_full(error):
        remedy = "Raise the limit on the size of files (ulimit -f)" if code == errno.EFBIG else "Free some space"
        return f"{text} {remedy}{', or choose another ' + ' or '.join(flags) if flags else ''}.{keep}"
    return f"{text} Choose another {flags[0]} (given: {given[flags[0]]}).{keep}" if path and flags else text + keep


def _given(options: argparse.Namespace) -> dict[str, str]:
    """The flags that name places a command writes to, with what they name here."""
    named = {flag: getattr(options, name, None) for name, flag in _PLACES.items()}
    if "cache" in options:
        named["--cache"] = options.cache or os.environ.get("BENCH_CACHE")
    return {flag: value for flag, value in named.items() if isinstance(value, str) and value}


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
    """Folders searched for weight files: --assets, then $BENCH_ASSETS, then torch's checkpoint folder.

    Raises:
        UsageError: a folder of --assets is none. The others need not be there: they hold for all commands of a machine.
    """
    for folder in extra:
        if not Path(folder).is_dir():
            raise UsageError(f"--assets {folder}: {'is a file; name its folder' if Path(folder).exists() else 'no such folder'}.")
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
