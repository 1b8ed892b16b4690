"""W&B runs, and losses of a stage on their way into one: at their steps, none twice, and none lost by a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Curve:
    """The losses of one stage.

    Attributes:
        stage: in front of their names.
        offset: wandb's step of the stage's step 0; None in a run of several stages that have no order: each row gets the next.
        log: the stage's ``log.jsonl``, which may not be there yet.
    """

    stage: str
    offset: int | None
    log: Path | None = None


@dataclass(frozen=True)
class Who:
    """One W&B run.

    Attributes:
        run_id: the same whenever it is about the same.
        name: shown.
        job: ``train``, ``fit``, ``baseline``, ``external`` or ``leaderboard``.
        about: makes its configuration.
        curves: the losses that belong into it, in order.
    """

    run_id: str
    name: str
    job: str
    about: Callable[[], dict[str, Any]]
    curves: Callable[[], list[Curve]] = list


@dataclass
class Open:
    """An open W&B run.

    Attributes:
        run: wandb's.
        last: the last of wandb's steps that was logged before it was opened; -1 for none.
        held: stage -> its last step that was logged before it was opened.
        done: stage -> its last step that was logged since.
    """

    run: Any
    last: int
    held: Mapping[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    _caught: dict[str, int] = field(default_factory=dict)

    def next(self) -> int:
        """A step of wandb's after all that were logged."""
        return max(int(self.run.step), self.last) + 1

    def reached(self, curve: Curve) -> int:
        """The last step of a stage that is logged."""
        return max(self._before(curve), self.done.get(curve.stage, -1))

    def _before(self, curve: Curve) -> int:
        return self.held.get(curve.stage, -1) if curve.offset is None else self.last - curve.offset

    def log(self, curve: Curve, step: int, values: Mapping[str, Any]) -> None:
        """Log values of a stage's step, unless it was logged before the run was opened."""
        if step > self._before(curve):
            at = self.next() if curve.offset is None else curve.offset + step
            self.run.log({f"{curve.stage}/step": step, **{f"{curve.stage}/{k}": v for k, v in values.items()}}, step=at)
            self.done[curve.stage] = max(step, self.done.get(curve.stage, -1))

    def log_losses(self, curve: Curve, step: int, values: Mapping[str, Any]) -> None:
        """`log` of a row of the stage's own log, unless `catch_up` has logged it."""
        if step > self._caught.get(curve.stage, -1):
            self.log(curve, step, values)

    def catch_up(self, curve: Curve) -> None:
        """Log what the stage's own log holds and the run does not."""
        for step, values in rows_of(curve.log):
            if step > self.reached(curve):
                self.name(curve.stage)
                self.log(curve, step, values)
                self._caught[curve.stage] = step

    def name(self, stage: str) -> None:
        """Draw the values of a stage over its own steps."""
        self.run.define_metric(f"{stage}/step", hidden=True)
        self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")


def rows_of(log: Path | None) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and values of each line of a ``log.jsonl``, up to one that a kill cut short."""
    for line in log.read_text().splitlines() if log and log.is_file() else ():
        try:
            row = json.loads(line)
            yield int(row.pop("step")), row
        except (ValueError, KeyError, TypeError, AttributeError):
            return
