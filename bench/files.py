"""Files that survive a kill: atomic writes, JSON without NaN, hashes and locks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import socket
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bench.errors import BenchError, PreflightError


class NoSpaceError(BenchError):
    """A file could not be written for want of space.

    Attributes:
        path: the file.
        code: of the system's error.
        what: the message without its remedy.
    """

    path: Path = Path()
    code: int | None = None
    what: str = ""


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that no space is left: on the disk, of a quota, or for a file so large."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        error = error.__cause__
    return False


def no_space(path: Path, error: OSError) -> NoSpaceError:
    """What to raise where `error` (see `disk_full`) kept `path` from being written: the system does not always name the file."""
    large = error.errno == errno.EFBIG
    why = "file too large" if large else "no space left on device"
    remedy = "Raise the limit on the size of files (ulimit -f)" if large else "Free some space"
    what = f"{why} while writing {path}."
    made = NoSpaceError(f"{what} {remedy} and run the same command again.")
    made.path, made.code, made.what = path, error.errno, what
    return made


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise `no_space` with the path for what lacks the space to be written inside; other errors pass.

    Raises:
        NoSpaceError: no space is left; the message names `path`.
    """
    try:
        yield
    except OSError as error:
        if disk_full(error):
            raise no_space(path, error) from error
        raise


def replace_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: `path` is old or new, never half.

    Raises:
        NoSpaceError: no space is left; the message names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            write(temporary)
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_folder(folder: Path, flag: str) -> None:
    """Make a results folder and try to write into it, before any work is done.

    Raises:
        PreflightError: it cannot be made or written to; the message names the flag.
        NoSpaceError: no space is left there; its exit code is that of a `PreflightError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-") as stream:
            stream.write(b"x" * 4096)
    except OSError as error:
        if disk_full(error):
            full = no_space(folder, error)
            full.exit_code = PreflightError.exit_code
            raise full from error
        why = "it is a file" if isinstance(error, (FileExistsError, NotADirectoryError)) else str(error.strerror)
        raise _unwritable(folder, flag, why) from error


def could_be_folder(folder: Path, flag: str) -> None:
    """What can be known of `check_folder`'s answer without making anything.

    Raises:
        PreflightError: a file is in the way, or the folder that it would be made in may not be written to.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise _unwritable(folder, flag, "it is a file" if there.exists() else f"{there} leads nowhere")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(folder, flag, os.strerror(errno.EACCES))


def _unwritable(folder: Path, flag: str, why: str) -> PreflightError:
    return PreflightError(f"{flag} {folder}: cannot write there ({why}). Choose another {flag} DIR.")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""

    def fill(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    replace_atomically(path, fill)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and without NaN (a NaN is a ValueError): the text that hashes are taken of."""
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically. Non-finite floats raise ValueError."""
    write_text(path, json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        BenchError: the file is not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} is not valid JSON ({error}). Delete it and run the same command again.") from error


def digest(value: Any, size: int = 8) -> str:
    """Hash of a JSON-able value's canonical text, `2 * size` hex digits."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=size).hexdigest()


def file_digest(path: Path, size: int = 16) -> str:
    """BLAKE2 hash of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=size)).hexdigest()


def finite(value: float | None) -> float | None:
    """The value, or None where it is not a finite number."""
    return None if value is None or not math.isfinite(value) else float(value)


@contextmanager
def lock(path: Path, wait: bool, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the system drops it when the process ends, however it ends.

    Args:
        path: the lock file; it holds process id, host and command of its holder.
        wait: wait for the holder (saying so once) instead of raising.
        say: where to say that we wait.

    Raises:
        BenchError: somebody else holds it and `wait` is False.
        NoSpaceError: no space is left for its line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(stream)
            if not wait:
                raise BenchError(
                    f"{path.parent} is in use by {holder}. Wait for it, or choose another --runs DIR."
                ) from None
            if say:
                say(f"waiting for {holder}, which is making {path.parent}")
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        who = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)})
        with naming(path):
            os.write(stream.fileno(), who.encode())  # unbuffered: what a full disk refuses is not tried again at the end
        try:
            yield
        finally:
            stream.truncate(0)
            fcntl.flock(stream, fcntl.LOCK_UN)


#: Characters of another process' command that a message has room for.
_COMMAND = 60


def _holder(stream: IO[str]) -> str:
    stream.seek(0)
    try:
        who = json.loads(stream.read())
        return f"process {who['pid']} on {who['host']} ({_brief(str(who['command']))})"
    except (json.JSONDecodeError, KeyError, TypeError):
        return "another process"


def _brief(command: str) -> str:
    """The first words of a command, without the folder of its program: enough to know it again."""
    program, *words = command.split() or ["unknown"]
    name = "bench" if program.endswith("__main__.py") else Path(program).name
    return textwrap.shorten(" ".join([name, *words]), _COMMAND, placeholder=" ...")
