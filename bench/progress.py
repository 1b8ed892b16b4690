"""Progress for people: a bar with an estimate on a terminal, a line now and then in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class Progress:
    """Progress of one piece of work. On a terminal a live bar; elsewhere a line every `every` seconds.

    Args:
        title: what is being done.
        quiet: show nothing.
        every: seconds between lines where there is no terminal.
    """

    def __init__(self, title: str, quiet: bool = False, every: float = 20.0) -> None:
        self.title, self.quiet, self.every = title, quiet, every
        self.total = self.first = 0
        self.started = self.shown = time.monotonic()
        self._bar: RichProgress | None = None

    def start(self, total: int, done: int = 0) -> None:
        """Begin, with `done` of `total` steps already made."""
        self.total, self.first = total, done
        self.started = self.shown = time.monotonic()
        if self.quiet or not console.is_terminal:
            return
        self._bar = RichProgress(
            TextColumn("  {task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True,
        )  # fmt: skip
        self._bar.add_task(self.title, total=total, completed=done, note="")
        self._bar.start()

    def advance(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """Show that `done` steps are made."""
        note = "  ".join(f"{k} {v:.3g}" for k, v in _headline(values or {}).items())
        if self._bar is not None:  # the estimate matters more than the losses where there is no room for both
            self._bar.update(self._bar.task_ids[0], completed=done, note=note if console.width >= 110 else "")
        elif not self.quiet and time.monotonic() - self.shown >= self.every:
            self.shown = time.monotonic()
            rate = (done - self.first) / max(1e-9, self.shown - self.started)
            left = (self.total - done) / rate if rate > 0 else float("nan")
            console.print(f"  {self.title}: {done}/{self.total}, about {clock(left)} left  {note}")

    def stop(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def counter(self) -> Callable[[int, int], None]:
        """A callback (done, total) that drives this display."""

        def call(done: int, total: int) -> None:
            if self.total != total or done == 0:
                self.start(total, done)
            self.advance(done)
            if done >= total:
                self.stop()

        return call


def _headline(values: Mapping[str, float]) -> dict[str, float]:
    """The few losses worth a glance: totals first."""
    keys = [k for k in ("loss", "g_total", "d_total", "g", "d", "mask_a") if k in values] or list(values)
    return {k: values[k] for k in keys[:3]}


def clock(seconds: float) -> str:
    """Seconds as ``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if math.isnan(seconds):
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show(table: Table) -> None:
    """Print a table: fitted to a terminal, in full where there is none."""
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    wide = Console(highlight=False, width=1000)
    with wide.capture() as captured:
        wide.print(table, soft_wrap=False)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def say(text: str) -> None:
    """Print a line for the user."""
    console.print(text, markup=False)


def warn(text: str) -> None:
    """Print a warning on the error stream."""
    sys.stdout.flush()
    errors.print(f"warning: {text}", markup=False)
