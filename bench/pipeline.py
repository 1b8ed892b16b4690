"""Walks a plan: does what is to do, skips what is done, and keeps going past a failure where that makes sense."""

from __future__ import annotations

import errno
import time
import traceback
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.markup import escape
from rich.table import Table

from bench import doubts, ending, scores, stages, tracking
from bench import plan as planning
from bench.contracts import Method
from bench.device import choose, first_alone, join_processes, keep_memory, world
from bench.engine import set_precision
from bench.errors import BenchError, PreflightError, brief
from bench.experiment import BASELINE, Experiment, RunSpec, evaluator_config, method_config
from bench.files import disk_full, lock, write_text
from bench.plan import BLOCKED, CACHED, LEFT_OUT, TODO, Stage
from bench.progress import Progress, clock, errors, say, show, warn


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        stages: the plan, with final statuses (``done``, ``cached``, ``failed``, ``blocked``, ``left out``).
        seconds: stage title -> wall-clock seconds of what was done now.
        pictures: pictures to show: of several methods side by side, or all of the one that was asked for.
        folders: result folders of several methods, which hold the pictures of each.
    """

    stages: list[Stage]
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    @property
    def failed(self) -> list[Stage]:
        """Stages that failed or were blocked by a failure."""
        return [s for s in self.stages if s.status in ("failed", BLOCKED)]


def open_run(spec: RunSpec) -> Experiment:
    """Resolve names, open the datasets and join the other processes of a distributed run.

    Raises:
        UsageError: unknown names, or a batch that cannot be shared out among the processes.
        BenchError: the data cannot be used; in every process where it is found in the first.
    """
    for name in dict.fromkeys([*spec.methods, *spec.config.methods]):  # a misspelt key is an error in every section
        method_config(spec.config, name)
    for name in spec.config.evaluators:
        evaluator_config(spec.config, name)
    rank, processes = world()
    doubts.check_batch(spec, processes)
    device = choose(spec.options.device)
    doubts.check_speed(spec, device)
    keep_memory(device)
    join_processes(device)
    meter = Progress("reading", quiet=rank != 0)

    def opened() -> Experiment:
        return Experiment(spec, device, lambda what, done, total: _show(meter, what, done, total))

    with first_alone():  # it reads tables and hashes files; the others then find them remembered
        experiment = opened() if rank == 0 else None
    return experiment or opened()


def close_to_others(experiment: Experiment) -> None:
    """Where images may not leave their owner, nobody else on the machine may read the cache either."""
    if experiment.policy() == "credentialed":
        cache = experiment.spec.options.cache
        cache.mkdir(parents=True, exist_ok=True)
        cache.chmod(0o700)


def _show(meter: Progress, what: str, done: int, total: int) -> None:
    if meter.title != what:
        meter.stop()
        meter.title, meter.total = what, -1
    meter.counter()(done, total)


def run(spec: RunSpec) -> Outcome:
    """Do everything a run needs and is not done yet.

    Raises:
        PreflightError: something needed is missing; every problem that can be known now, one line each.
        BenchError: nothing could be done (names, data, locks); failures of single stages are in the outcome instead.
    """
    rank, _ = world()
    experiment = open_run(spec)
    set_precision(spec.config.train)  # for every stage alike, whether this run trains or finds its training done
    if problems := planning.problems(planning.plan(experiment)):
        raise PreflightError("\n".join(problems))
    with ExitStack() as held:
        with first_alone():
            if rank == 0:
                close_to_others(experiment)
                _hold(experiment, held)
        plan = planning.plan(experiment)
        if rank == 0:
            for text in experiment.notes():
                say(f"note      {text}")
            print_plan(plan, brief=True)
            tracking.of(experiment)  # whether there is an account is said before the work
            doubts.doubt_compiling(experiment, plan)
            doubts.doubt_lengths(experiment, plan)
            rehearse(experiment, plan)
        outcome = walk(plan)
    outcome.pictures = ending.end(experiment, plan) if rank == 0 else []
    for name in spec.methods:
        for seed in spec.seeds:
            folder = experiment.folder(name, seed)
            if len(spec.methods) > 1:
                outcome.folders += [folder] if folder.is_dir() else []
                continue
            train_key = experiment.train_key(name, seed)
            keys = {test: experiment.translate_key(train_key, test) for test in experiment.test_names()}
            found = [stages.picture(folder, test, key) for test, key in keys.items()]
            drawn = [s.marker for s in plan if s.kind == "score" and s.method == name and s.marker.is_relative_to(folder)]
            found += [f for marker in drawn for f in scores.figures(folder / "scores" / marker.stem)]
            outcome.pictures += [p for p in found if p.is_file()]
    return outcome


def rehearse(experiment: Experiment, plan: list[Stage]) -> None:
    """Build each method that is to be trained and translate one blank image: what cannot work fails now, not after hours."""
    for stage in plan:
        if stage.kind == "train" and stage.status == TODO:
            try:
                stages.rehearse(experiment, stage.method)
            except Exception as error:
                stage.status, stage.reason = BLOCKED, _describe(error, stage)
                errors.print(f"error: {stage.kind} {stage.title}: {stage.reason}", markup=False)


def walk(plan: list[Stage]) -> Outcome:
    """Run the stages that are to do, in order and under their locks, going on past a failure where that makes sense."""
    outcome = Outcome(plan)
    for stage in plan:
        try:
            _do(stage, outcome)
        except BenchError as error:  # of a stage that several processes share: the run ends, and the tables tell why
            stage.status, stage.reason = "failed", str(error)
            if world()[0] == 0:
                _lose_rest(plan)
            raise
    return outcome


def _lose_rest(plan: list[Stage]) -> None:
    """Leave the records of all scores that a failure made impossible."""
    for stage in plan:
        if stage.runs and any(before.status in ("failed", BLOCKED) for before in stage.after):
            stage.status = BLOCKED
            _lose(stage)


def _hold(experiment: Experiment, held: ExitStack) -> None:
    """Lock the requested methods' result folders, failing at once; what runs share is locked stage by stage."""
    spec = experiment.spec
    for name in spec.methods:
        cls: type[Method] = method_config(spec.config, name)[0]
        for seed in spec.seeds if cls.stages else (0,):
            if name != BASELINE:
                held.enter_context(lock(experiment.folder(name, seed) / ".lock", wait=False))


def _do(stage: Stage, outcome: Outcome) -> None:
    """Run one stage in all processes that take part, and tell every process how it went."""
    rank, processes = world()
    blocker = next((s for s in stage.after if s.status in ("failed", BLOCKED)), None)
    if rank == 0 and stage.runs and not stage.forced and stage.is_done():
        stage.status = CACHED  # what it is made from was done again and came out as before
    if rank == 0 and stage.runs and stage.forced and stage.kind == "train" and not blocker:
        stages.forget_training(stage.marker)  # before the others look for checkpoints
    status = [stage.status]
    if processes > 1:
        dist.broadcast_object_list(status)
    stage.status = status[0]
    if blocker and stage.runs:
        stage.status, stage.reason = BLOCKED, f"{blocker.kind} of {blocker.title} failed"
        if rank == 0:
            _lose(stage)
        return
    if not stage.runs:
        return
    started = time.monotonic()
    failure = [_attempt(stage, rank, processes) if rank == 0 or stage.collective else None]
    if processes > 1:
        dist.broadcast_object_list(failure)
    seconds = time.monotonic() - started
    outcome.seconds[f"{stage.kind} {stage.title}"] = seconds
    if failure[0]:
        stage.status, stage.reason = "failed", failure[0]
        if rank == 0:
            errors.print(f"error: {stage.kind} {stage.title}: {failure[0]}", markup=False)
    else:
        stage.status = "done"
        if rank == 0:
            say(f"          done in {clock(seconds)}")


def _attempt(stage: Stage, rank: int, processes: int) -> str | None:
    """Do the work of a stage. Returns why it failed, in one line; None where it did not.

    Raises:
        BenchError: it failed, and the others wait inside a collective call: only leaving can end them.
    """
    try:
        _work(stage, rank)
    except Exception as error:
        why = _describe(error, stage)
        if processes == 1 or not stage.collective:
            return why
        text = f"{stage.kind} {stage.title}: {why}"
        if rank and not isinstance(error, BenchError):  # perhaps this process alone knows of it
            errors.print(f"error: process {rank}: {text}", markup=False)
        raise (error if isinstance(error, BenchError) else BenchError(text)) from error
    return None


def why_lost(stage: Stage) -> str:
    """Why a stage failed or could not be done: the first failure behind it, in one line."""
    blocker = next((s for s in stage.after if s.status in ("failed", BLOCKED)), None)
    return why_lost(blocker) if blocker else f"{stage.kind} of {stage.title}: {stage.reason}"


def _lose(stage: Stage) -> None:
    """Leave a record of a score that cannot be had: no method is missing silently. Without its test set there is no table.

    A score that should have been made again stays as it was where its images do: it is true of them.
    """
    translations = [s for s in stage.after if s.kind == "translate"]
    images = [s for translate in translations for s in translate.after if s.kind == "data"]
    if not stage.lose or any(s.status in ("failed", BLOCKED) for s in images):
        return
    if stage.is_done() and all(s.is_done() for s in translations):
        return
    try:
        stage.lose(why_lost(stage))
    except Exception as error:
        if disk_full(error):
            raise
        warn(f"{stage.kind} {stage.title}: the tables will not tell of its failure: {brief(error)}")


def _work(stage: Stage, rank: int) -> None:
    """Run a stage, holding the lock of what other runs use too; they may have made it while we waited."""
    with lock(stage.shared, wait=True, say=say) if stage.shared else nullcontext():
        if stage.shared and not stage.forced and stage.is_done():
            return
        if rank == 0:
            if stage.reason:
                warn(f"{stage.kind} {stage.title}: {stage.reason}.")
            say(f"{stage.kind:<9} {stage.title}" + (f" ({stage.status})" if stage.status != TODO else ""))
        stage.work()


def _describe(error: Exception, stage: Stage) -> str:
    """One line about a failed stage. What nobody expected keeps its traceback in a file; a full disk ends the run."""
    if disk_full(error) or (isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS)):
        raise error
    if isinstance(error, BenchError):
        return str(error)
    path = stage.marker.parent / "traceback.txt"
    write_text(path, "".join(traceback.format_exception(error)))
    what = " ".join(str(error).split())[:300]
    where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()) if note.startswith("iteration "))
    return f"{where}{type(error).__name__}: {what} (see {path})"


def print_plan(plan: list[Stage], brief: bool = False) -> None:
    """Print the plan as a table, or (brief) one line with its counts."""
    counts: dict[str, int] = {}
    for stage in plan:
        counts[stage.status.split(" at ")[0]] = counts.get(stage.status.split(" at ")[0], 0) + 1
    if brief:
        say("plan      " + ", ".join(f"{n} stages {status}" for status, n in counts.items()))
        for stage in plan:
            if stage.status == LEFT_OUT:
                say(f"          left out: {stage.title}: {stage.reason}")
        return
    table = Table("stage", "what", "status", "why", box=None, pad_edge=False)
    for stage in plan:
        table.add_row(stage.kind, escape(stage.title), stage.status, escape(stage.reason))
    show(table)


def plan_rows(plan: list[Stage]) -> list[dict[str, Any]]:
    """The plan as JSON-able rows."""
    return [
        {"stage": s.kind, "what": s.title, "status": s.status, "why": s.reason, "key": s.key, "result": str(s.marker)}
        for s in plan
    ]


def threads(count: int | None) -> None:
    """Limit compute threads; results on one machine are bit-identical for the same number."""
    if count:
        torch.set_num_threads(count)
