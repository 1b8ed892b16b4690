"""Errors a user can act on.

Every expected failure is a `BenchError`: one line that names the file, row or flag and the remedy. The command line prints
that line and exits with the error's code; nothing else in the project calls `sys.exit`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """A failure with a remedy. `exit_code` is the process's exit status (1: a stage failed)."""

    exit_code = 1


class UsageError(BenchError):
    """The command was wrong: unknown name, unknown key, bad value."""

    exit_code = 2


class DataError(BenchError):
    """Input data cannot be used; the message names the file or row."""

    exit_code = 3


class PreflightError(BenchError):
    """Something needed is missing; found before any work was done."""

    exit_code = 3


class TrainingError(BenchError):
    """Training stopped by itself, for example because a loss is not finite."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name; an empty string where none is known."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f" Did you mean '{near[0]}'?" if near else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for an unknown name of a kind ("method", "suite", "config key")."""
    names = sorted(known)
    return UsageError(f"unknown {kind} '{name}'.{did_you_mean(name, names)} Available: {', '.join(names)}.")


def brief(error: Exception) -> str:
    """One line about an error that stops nothing."""
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
