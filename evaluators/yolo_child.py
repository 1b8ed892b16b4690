"""The parent's end of `evaluators.yolo_process`: starting that process without network or a user's settings, asking, ending it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from bench.errors import BenchError
from bench.progress import Progress

_SCRIPT = Path(__file__).with_name("yolo_process.py")
#: What distributed runs and accounts leave in the environment, and ultralytics would act upon.
_DROPPED = (
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "ULTRALYTICS_API_KEY",
    "ULTRALYTICS_PLATFORM_URL", "YOLO_VERBOSE",
)  # fmt: skip


class YoloProcess:
    """The process, with its working folder. Leaving the block ends it.

    Args:
        folder: where the working folder is made and the log kept.
        log: the log's name.
        threads: CPU threads it may use.
    """

    def __init__(self, folder: Path, log: str, threads: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.threads, self.owner, self.busy = folder, threads, os.getpid(), False
        self.work, self.log = Path(tempfile.mkdtemp(prefix="work-", dir=folder)), folder / log
        self.log_start = self.log.stat().st_size if self.log.is_file() else 0
        with self.log.open("ab") as stream:  # -P: beside the script lies a module named like one of Python's own
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), str(self.work), str(threads)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=stream, cwd=self.work, env=_environment(self.work, threads), encoding="utf-8",
                start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> YoloProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ready(self) -> bool:
        """Whether it can be asked: it runs, is this process's own (not one that a fork inherited), and owes no answer."""
        return self.owner == os.getpid() and self.process.poll() is None and not self.busy

    def ask(self, what: str, progress: Progress | None = None, **task: Any) -> dict[str, Any]:
        """Have one task done.

        Args:
            what: for messages: ``training yolov5nu``.
            progress: shows the epochs.
            task: see `evaluators.yolo_process`.

        Raises:
            BenchError: it failed, or the process ended.
        """
        self.busy = True  # stays so if waiting is interrupted: the answer would be taken for that to another question
        try:
            self._pipe(self.process.stdin).write(json.dumps(task) + "\n")
            self._pipe(self.process.stdin).flush()
            for line in self._pipe(self.process.stdout):
                message = _message(line)
                self.busy = not {"done", "error"} & set(message)
                if "done" in message:
                    return dict(message["done"])
                if "error" in message:
                    raise self._failed(what, _plain(message["error"]))
                if "epoch" in message and progress is not None:
                    if not progress.total:
                        progress.start(message["of"])
                    progress.advance(message["epoch"], {"loss": message["loss"]})
        except BrokenPipeError:
            pass
        finally:
            if progress is not None:
                progress.stop()
        status, last = self.process.wait(), self._last_line()
        raise self._failed(what, f"its process ended with status {status}" + (f" after '{last}'" if last else ""))

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream

    def _failed(self, what: str, reason: str) -> BenchError:
        return BenchError(f"{what} failed: {reason.rstrip('.')}. Log: {self.log}")

    def _last_line(self) -> str:
        """The last line of the log with something to read in it."""
        with self.log.open("rb") as stream:
            stream.seek(self.log_start)
            lines = [_plain(line) for line in stream.read().decode("utf-8", "replace").splitlines()]
        return next((line for line in reversed(lines) if re.search(r"\w", line)), "")

    def close(self) -> None:
        """End the process, whatever it does, and remove its working folder."""
        if self.owner != os.getpid():
            return
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                self._pipe(stream).close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.work, ignore_errors=True)


#: The process that detects: starting one takes longer than looking at a few hundred images, so it is kept.
_kept: list[YoloProcess] = []


def serving(folder: Path, threads: int) -> YoloProcess:
    """The process for the detector of this folder, started where there is none."""
    if not (_kept and _kept[0].ready and (_kept[0].folder, _kept[0].threads) == (folder, threads)):
        stop_detecting()
        _kept.append(YoloProcess(folder, "detect.log", threads))
    return _kept[0]


def stop_detecting() -> None:
    """End the process that detects, if there is one; the next `YoloDetector.detect` starts another."""
    while _kept:
        _kept.pop().close()


atexit.register(stop_detecting)


def _message(line: str) -> dict[str, Any]:
    """An answer; empty for anything else (a start-up file of the user's may print)."""
    try:
        message = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return message if isinstance(message, dict) else {}


def _plain(text: str) -> str:
    """One line without colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).split())[:500]


def _environment(work: Path, threads: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    return {
        **kept, "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(work / "config"),
        "ULTRALYTICS_SAFE_LOAD": "1", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "MPLBACKEND": "Agg",
    }  # fmt: skip
