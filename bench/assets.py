"""Weight files: what evaluators need, what users may give, where files are searched, and what is wrong with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Asset:
    """One weight file.

    Attributes:
        names: file names it is distributed under; the first is the one to ask for.
        size: bytes.
        sha256: of its content.
        purpose: what needs it.
        source: where to get it.
        instead: what to do without it.
    """

    names: tuple[str, ...]
    size: int
    sha256: str
    purpose: str
    source: str
    instead: str = ""

    def find(self, folders: Sequence[Path]) -> tuple[Path | None, list[Path]]:
        """The first file of the right content, and those found on the way that have a right name and another content."""
        wrong: list[Path] = []
        for path in (folder / name for folder in dict.fromkeys(folders) for name in self.names):
            if path.is_file():
                if _sha256(path, path.stat().st_size, path.stat().st_mtime_ns) == self.sha256:
                    return path, wrong
                wrong.append(path)
        return None, wrong

    def missing(self, folders: Sequence[Path]) -> str:
        """One line for a file that is not there: what, where it was searched, how to get it. Empty where it is there."""
        found, wrong = self.find(folders)
        if found:
            return ""
        others = "".join(f"{path} has another SHA-256 and is not used. " for path in wrong)
        return (
            f"{self.purpose} needs {self.names[0]} ({self.size:,} bytes, SHA-256 {self.sha256}). {others}"
            f"Searched: {', '.join(str(f) for f in dict.fromkeys(folders))}. Get it from {self.source} and put it into {folders[0]}"
            + (f", or {self.instead}." if self.instead else ".")
        )


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; size and time of change are there to forget a file that was replaced."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Slot:
    """A file of the user's own that an evaluator can use; none of them is needed.

    Attributes:
        option: how it is given: ``--set evaluators.detection.weights=FILE``.
        purpose: what it is for, and what it has to be.
        given: what the configuration names; empty for nothing.
        found: where that lies; None where it is not there.
    """

    option: str
    purpose: str
    given: str = ""
    found: Path | None = None


def locate(named: str | Path, folders: Sequence[Path]) -> Path | None:
    """A file of the user's own: as it was named, or below the first asset folder that has it."""
    given = Path(named).expanduser()
    return next((path for path in (given, *(folder / given for folder in folders)) if path.is_file()), None)


#: How torch says that a file holds more than tensors; what it advises then would run code out of the file.
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def unreadable(path: Path, error: Exception) -> str:
    """Why the tensors of a weights file cannot be read, and what to do, in one line without torch's advice to run its code."""
    text = " ".join(str(error).split())
    plain = not text or isinstance(error, KeyError)  # of the unpickler, over the first byte that means nothing
    if plain or "weights_only" in text or "Weights only load failed" in text:
        named = _GLOBAL.search(text)
        held = f"it holds an object of {named[1]}, not tensors alone" if named else "it is damaged, or no weights file of torch's"
    else:
        held = f"it is damaged: {text[:100].rstrip('. ')}"
    return f"{path} cannot be loaded safely ({held}). Save it as a plain state dict: torch.save(model.state_dict(), file)."
