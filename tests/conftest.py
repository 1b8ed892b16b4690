"""Fixtures for tests that go through the command line: tiny rendered images, tiny trainings, one cache for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
ROOT = Path(__file__).resolve().parent.parent
TOY = Path(__file__).with_name("toy.py")
#: A run of the toy method takes about a second with these.
TINY = (
    "--import", str(TOY), "--data", "synthetic,images=24", "--device", "cpu", "--threads", "1", "--workers", "1",
    "--log-interval", "1", "--set", "data.size=32", "--set", "train.iterations=6", "--set", "train.batch_size=2",
    "--set", "train.checkpoint_interval=2", "--set", "train.ema=0.5",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on the error stream."""
        return self.err.strip().splitlines()[-1]


Bench = Callable[..., Answer]


@pytest.fixture
def bench(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Call ``bench`` in this process: ``bench("list", "methods")``."""
    from bench import cli

    def call(*words: Any) -> Answer:
        arguments = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        capfd.readouterr()
        try:
            code = cli._main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        return Answer(code, out, err)

    return call


def spawn(*words: Any, module: str = "bench", **environment: str) -> Answer:
    """Call ``python -m bench`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, check=False,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


_FORKING = """
import json, os, sys
import bench.pipeline, bench.external, evaluators.fidelity, evaluators.faithfulness, methods.ours
import scipy.ndimage, scipy.stats, sklearn.metrics, torch_fidelity.utils, torchmetrics.functional.image, torchvision.models
from bench import cli
for line in sys.stdin:
    words, environment, output = json.loads(line)
    child = os.fork()
    if not child:
        os.environ.update(environment)
        for stream in (1, 2):
            os.dup2(os.open(output + str(stream), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.argv = ["bench", *words]
        code = 1
        try:
            code = cli._main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)  # with all that was imported, an orderly end takes seconds
"""


class Forks:
    """Calls ``bench`` in processes of their own that need not import torch anew: copies of one that has."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.parent = subprocess.Popen(
            [sys.executable, "-c", _FORKING], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def start(self, *words: Any, **environment: str) -> int:
        """Start a command; returns its process id."""
        assert self.parent.stdin is not None and self.parent.stdout is not None
        self.parent.stdin.write(json.dumps([[str(w) for w in words], environment, str(self.place / "stream")]) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def finish(self) -> Answer:
        """Wait for the command that was started."""
        assert self.parent.stdout is not None
        code = int(self.parent.stdout.readline())
        return Answer(code, *((self.place / f"stream{n}").read_text() for n in (1, 2)))

    def __call__(self, *words: Any, **environment: str) -> Answer:
        """Start a command and wait for it."""
        self.start(*words, **environment)
        return self.finish()


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """`Forks` for the tests of one file."""
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    assert made.parent.stdin is not None
    made.parent.stdin.close()
    made.parent.wait(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium for the tests of one file."""
    from page_tools import CHROMIUM, FLAGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded images and priors that the tests of one worker share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def toy(cache: Path, tmp_path: Path) -> tuple[str, ...]:
    """Flags of a tiny run of the toy method into ``tmp_path/runs``."""
    return ("--method", "toy", "--suite", "toy-score", *TINY, "--runs", str(tmp_path / "runs"), "--cache", str(cache))


def records(runs: Path) -> dict[str, dict[str, Any]]:
    """``method/test--evaluator`` -> record of every record below a folder."""
    found = [json.loads(path.read_text()) for path in sorted(runs.rglob("records/*.json"))]
    return {f"{r['method']}/{r['dataset']}--{r['evaluator']}": r for r in found}


def scores(runs: Path) -> dict[str, Any]:
    """The scores of every record below a folder."""
    return {name: record["scores"] for name, record in records(runs).items()}


def forget_imports() -> None:
    """Undo --import and entry points, as if the process were new."""
    from bench.registry import EVALUATORS, METHODS

    for registry in (METHODS, EVALUATORS):
        for name in set(registry.module_dict) - set(registry.builtin):
            registry._module_dict.pop(name)
    for name in [n for n in sys.modules if n.startswith("bench_import_")]:
        del sys.modules[name]


def folder(runs: Path, method: str = "toy") -> Path:
    """The one run folder of a method."""
    (found,) = (runs / method).glob("*/*/")
    return found


@pytest.fixture(scope="session", autouse=True)
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What libraries leave in the system's temporary folder (wandb, torchrun, inductor) is gone with the tests."""
    tmp_path_factory.getbasetemp()  # pytest's own folder stays where it is
    with tempfile.TemporaryDirectory(prefix="cxr-", ignore_cleanup_errors=True) as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", scratch)
        patch.setattr(tempfile, "tempdir", scratch)
        yield


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the machine has set."""
    for name in ("BENCH_CACHE", "BENCH_ASSETS", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _clean_registries() -> Iterator[None]:
    """What a test registers with --import is gone after it."""
    yield
    forget_imports()
