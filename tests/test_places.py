"""How commands end: places that cannot be written to, a full disk, a terminal of few letters, a signal."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TOY, Answer, Bench, spawn
from leaderboard_tools import fidelity, write

from bench import cli
from bench.arguments import asset_dirs
from bench.errors import UsageError
from bench.files import NoSpaceError, could_be_folder, lock

Toy = tuple[str, ...]


def limited(*words: Any) -> Answer:
    """Call ``bench`` where no file may grow beyond 8 KiB."""
    command = [sys.executable, "-m", "bench", *map(str, words)]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 8; exec "$@"', "-", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def refuse(code: int) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return call


# -- space -----------------------------------------------------------------------------------------------------------------


def test_a_limit_on_files_is_told_with_file_and_flag(bench: Bench, tmp_path: Path) -> None:
    answer = limited("data", "show", "synthetic,images=24", "--out", tmp_path / "page.png")
    assert answer.code == 1 and answer.err == (
        f"error: file too large while writing {tmp_path / 'page.png'}. Raise the limit on the size of files (ulimit -f), or choose "
        "another --out.\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_run_ends_at_a_limit_on_files(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.posix_fallocate", refuse(errno.EFBIG))
    answer = bench("run", *toy, "--cache", tmp_path / "cold")
    assert answer.code == 1 and f"error: file too large while writing {tmp_path / 'cold' / 'data'}" in answer.err
    assert answer.err.endswith("or choose another --cache. Finished work is kept.\n") and "traceback" not in answer.err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_lock_without_room_for_its_line_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("os.write", refuse(code))
    with pytest.raises(NoSpaceError, match=r"while writing .*\.lock\. "), lock(tmp_path / ".lock", wait=False):
        pass


@pytest.mark.parametrize("words", [("--out", "board.md"), ("--figures", "drawn"), ("--format", "json", "--out", "board.json")])
def test_a_full_disk_is_told_alike_whatever_is_written(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    runs = write(tmp_path / "runs", [fidelity("original", 0.2, 2.0), fidelity("a", 1 / 3, 1.0)])
    monkeypatch.setattr("os.fsync", refuse(errno.ENOSPC))
    monkeypatch.setattr("bench.files.tempfile.NamedTemporaryFile", refuse(errno.ENOSPC))
    answer = bench("leaderboard", runs, *words[:-1], tmp_path / words[-1])
    before_any_work = "--figures" in words
    assert answer.code == (3 if before_any_work else 1) and answer.last == (
        f"error: no space left on device while writing {tmp_path / words[-1]}. Free some space, or choose another {words[-2]}."
    )


def test_places_are_told_where_the_system_names_no_file(bench: Bench, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.pipeline.run", refuse(errno.ENOSPC))
    runs, cache = toy[toy.index("--runs") + 1], toy[toy.index("--cache") + 1]
    answer = bench("run", *toy)
    assert answer.code == 1 and answer.err == (
        f"error: No space left on device (written to: --cache {cache}, --runs {runs}). Free some space, or choose another --cache or "
        "--runs. Finished work is kept.\n"
    )


# -- places ----------------------------------------------------------------------------------------------------------------


def test_a_plan_refuses_the_places_that_a_run_refuses(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for flag in ("--runs", "--cache"):
        for place in (tmp_path / "file", tmp_path / "file" / "below"):
            answers = [bench("run", *toy, flag, place, *more) for more in ((), ("--dry-run",))]
            assert [a.code for a in answers] == [3, 3] and answers[0].err == answers[1].err
            assert f"error: {flag} {place}: cannot write there (it is a file)." in answers[1].err
    plan = bench("run", *toy, "--runs", tmp_path / "new" / "runs", "--dry-run")
    assert plan.code == 0 and not (tmp_path / "new").exists(), "looking makes nothing"


def test_a_disk_that_is_full_before_any_work_is_a_block(
    bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no, real = refuse(errno.ENOSPC), tempfile.NamedTemporaryFile
    own = {True: no, False: real}  # not those of mmengine, which reads presets by way of one
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **named: own[named.get("prefix") == ".write-test-"](**named))
    answer = bench("run", *toy, "--runs", tmp_path / "new")
    assert answer.code == 3 and f"no space left on device while writing {tmp_path / 'new'}. Free some space" in answer.err


def test_a_full_temporary_folder_is_named(bench: Bench, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse(errno.ENOSPC))
    answer = bench("run", *toy)
    assert answer.code == 1 and f"no space left on device while writing {tempfile.gettempdir()}. Free some space" in answer.last


def test_a_command_may_be_called_in_a_thread(capfd: pytest.CaptureFixture[str]) -> None:
    """Signals are the main thread's."""
    codes: list[object] = []

    def call() -> None:
        try:
            cli.main(["list", "methods"])
        except SystemExit as end:
            codes.append(end.code)

    caller = threading.Thread(target=call)
    caller.start()
    caller.join()
    assert codes == [0] and "ours" in capfd.readouterr().out


def test_a_link_that_leads_nowhere_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(Exception, match="leads nowhere"):
        could_be_folder(tmp_path / "link", "--runs")


def test_a_folder_of_assets_that_is_not_there_is_refused(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for words in (["assets"], ["run", *toy, "--dry-run"]):
        answer = bench(*words, "--assets", tmp_path / "nope")
        assert answer.code == 2 and answer.err == f"error: --assets {tmp_path / 'nope'}: no such folder.\n"
    with pytest.raises(UsageError, match="is a file; name its folder"):
        asset_dirs([str(tmp_path / "file")])


# -- letters, signals, methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_terminal_that_lacks_a_letter_gets_a_question_mark(tmp_path: Path, environment: dict[str, str]) -> None:
    runs = write(tmp_path / "runs", [fidelity("original", 0.2, 2.0), fidelity("a", 1 / 3, 1.0)])
    answer = spawn("leaderboard", runs, **environment)
    assert answer.code == 0 and not answer.err and "?" in answer.out and "| a " in answer.out
    saved = spawn("leaderboard", runs, "--out", tmp_path / "board.md", **environment)
    assert saved.code == 0 and "·" in (tmp_path / "board.md").read_text(encoding="utf-8"), "files have all letters"


ENDED = """
import os, signal
from bench import cli, listing
def show(*_):
    if not (child := os.fork()):
        signal.raise_signal(signal.SIGTERM)
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    signal.raise_signal(signal.SIGTERM)
listing.show = show
cli.main(["list"])
"""


@pytest.mark.parametrize(("processes", "said"), [("", 1), ("1", 1), ("2", 0)])
def test_sigterm_is_answered_like_ctrl_c_by_the_main_process_alone(processes: str, said: int) -> None:
    """Processes of torchrun end as the system ends them: torchrun itself says why."""
    done = subprocess.run(
        [sys.executable, "-c", ENDED], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "WORLD_SIZE": processes},
    )  # fmt: skip
    assert done.returncode == -15 and done.stdout == "child -15\n", done.stderr
    assert done.stderr == "\ninterrupted: finished work is kept, the same command carries on.\n" * said


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("None", "step must return a dict of scalar losses, not NoneType."),
        ("{}", "step must return a dict of scalar losses, not an empty one."),
        ("{'x': 1.0}", "step's 'x' must be a detached scalar tensor."),
        ("{'x': torch.zeros(2)}", "step's 'x' must be a detached scalar tensor."),
    ],
)
def test_a_step_that_returns_no_losses_is_told_in_the_words_of_the_check(
    bench: Bench, toy: Toy, tmp_path: Path, returned: str, expected: str
) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        "import torch\nfrom bench.registry import METHODS, import_file, register_method\n"
        f"import_file({str(TOY)!r})\n@register_method('bad')\nclass Bad(METHODS.get('toy')):\n"
        f"    def step(self, *a):\n        super().step(*a)\n        return {returned}\n"
    )
    answer = bench("run", *toy, "--method", "bad", "--import", plugin)
    assert answer.code == 1 and f"training stopped: {expected}" in answer.err and "TypeError" not in answer.err
    check = bench("check", "--method", "bad", "--import", plugin)
    assert check.code == 1 and expected in check.err


def test_a_plan_as_json_is_refused_like_a_plan(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = bench("run", *toy, "--runs", tmp_path / "file", "--dry-run", "--json")
    assert answer.code == 3 and not answer.out
    assert json.loads(bench("run", *toy, "--dry-run", "--json").out)
