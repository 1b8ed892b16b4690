"""Runs of suites that name variants of a method: one run for each, in order, sharing data, classifier and leaderboard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import pipeline, suites
from bench import plan as planning
from bench.config import BenchConfig, train_config
from bench.device import world
from bench.errors import BenchError, PreflightError, UsageError
from bench.experiment import RunSpec, method_config
from bench.files import disk_full
from bench.progress import errors, say

#: Variant -> what to do; a suite without variants is one run without a name.
Rows = Mapping[str, RunSpec]


@dataclass
class Done:
    """What all runs came to.

    Attributes:
        folders: result folders to name, those of a suite's rows with the row.
        pictures: pictures to name.
        failed: kind and title of each stage that was not done, or why a whole row was not.
    """

    folders: list[str] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def specs(spec: RunSpec, resolve: Callable[[str], BenchConfig]) -> Rows:
    """The runs of a specification's suite.

    Args:
        spec: what the user asked for.
        resolve: gives the configuration with a variant's file laid over it.

    Raises:
        UsageError: a variant cannot be read, or two of them are the same training.
    """
    variants = suites.variants(spec.suite)
    if not variants:
        return {"": spec}
    rows, settings = dict[str, RunSpec](), dict[str, object]()
    for variant in variants:
        try:
            options = replace(spec.options, label=suites.row(variant))
            rows[variant] = replace(spec, config=resolve(variant), options=options)
            settings[variant] = _settings(rows[variant])
        except UsageError as error:
            raise UsageError(f"--suite {spec.suite}, {variant}: {error}") from error
    suites.check_rows(spec.suite, settings)
    return rows


def _settings(spec: RunSpec) -> object:
    """All that can tell two rows apart, defaults filled in."""
    own = [(method_config(spec.config, name)[1], train_config(spec.config, name)) for name in spec.methods]
    return own, replace(spec.config, methods={}, budgets={})


def run(rows: Rows) -> Done:
    """Run every row. One that fails leaves the others going; a full disk, or a failure among several processes, ends all.

    Raises:
        PreflightError: a row cannot be made; found before any work.
        BenchError: as `pipeline.run` where there is one run only.
    """
    done = Done()
    if len(rows) > 1 and (problems := _problems(rows)):
        raise PreflightError("\n".join(problems))
    for variant, spec in rows.items():
        if variant:
            say(f"row       {_heading(variant)}")
        try:
            outcome = pipeline.run(spec)
        except BenchError as error:
            if not variant or disk_full(error) or world()[1] > 1:
                raise
            errors.print(f"error: {suites.row(variant)}: {error}", markup=False)
            done.failed.append(f"row {suites.row(variant)}")
            continue
        name = f"{suites.row(variant)}: " if variant else ""
        done.failed += [f"{name}{stage.kind} {stage.title}" for stage in outcome.failed]
        folders = _folders(spec, outcome) if variant else outcome.folders
        done.folders += [f"{folder} ({suites.row(variant)})" if variant else str(folder) for folder in folders]
        done.pictures += [] if variant else outcome.pictures  # they lie in the folders of the rows
    return done


def _heading(variant: str) -> str:
    return f"{suites.row(variant)} (configuration {variant})"


def _problems(rows: Rows) -> list[str]:
    """What blocks any row, each reason once."""
    return list(dict.fromkeys(text for spec in rows.values() for text in planning.problems(_plan(spec))))


def _plan(spec: RunSpec) -> list[planning.Stage]:
    return planning.plan(pipeline.open_run(spec))


def _folders(spec: RunSpec, outcome: pipeline.Outcome) -> list[Path]:
    """Result folders of the methods asked for; records lie in them."""
    records = [s.marker for s in outcome.stages if s.kind == "score" and s.key and s.method in spec.methods]
    return [folder for folder in dict.fromkeys(path.parents[1] for path in records) if folder.is_dir()]


def show_plans(rows: Rows, as_json: bool, quiet: bool) -> list[str]:
    """Print the plan of every row, each below a heading, or all as one list of JSON; nothing where `quiet`.

    What rows share (data, classifier, the untranslated images) stands in each plan as it is now.

    Returns:
        What blocks any row, each reason once.
    """
    found, problems = [], list[str]()
    for variant, spec in rows.items():
        plan = _plan(spec)
        problems += planning.problems(plan)
        if as_json:
            found += [({"variant": variant} if variant else {}) | row for row in pipeline.plan_rows(plan)]
        elif not quiet:
            if variant:
                say(f"\nrow {_heading(variant)}")
            pipeline.print_plan(plan)
    if as_json and not quiet:
        print(json.dumps(found, indent=1))
    return list(dict.fromkeys(problems))
