"""What ``bench leaderboard`` does: records -> the general leaderboard, paper tables, figures, the web page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import records
from bench.arguments import tell
from bench.errors import PreflightError, UsageError
from bench.files import check_folder, write_text
from leaderboards.groups import Record, text
from leaderboards.published import NOT_TRANSCRIBED

if TYPE_CHECKING:
    from leaderboards.cases import CaseSet
    from leaderboards.sheet import Sheet

#: Where the page goes without ``--out``: it is no text for a terminal.
PAGE = "leaderboard.html"
#: Formats for programs: without ``--table`` they hold everything.
DATA = ("csv", "json")
#: Which cases are shown where the command does not say, ...
RULE = "first"
#: ... and how many.
IN_FIGURES, IN_PAGE = 4, 24


def show(options: argparse.Namespace) -> int:
    """Read records, write what was asked for, print it or its path.

    Args:
        options: ``runs``, ``table``, ``format``, ``full``, ``against``, ``figures``, ``cases``, ``count``, ``out`` of the command
            line; empty (``count``: None) where not given.

    Raises:
        UsageError: flags that do not go together, or no records.
        PreflightError: the records do not hold what was asked for.
    """
    form = options.format or "md"
    _check(options, form)
    found = _load(options.runs)
    if form != "md" or options.table or options.figures:
        _check_scored(found, options.runs)
    say = _Once()
    figures = _figures(found, options, say) if options.figures else []
    if options.figures and not (options.table or options.format or options.out):
        print("\n".join(map(str, figures)))
        return 0
    body = _page(found, options, say) if form == "html" else _text(found, options, form, say)
    out = options.out or (PAGE if form == "html" else "")
    for path in figures:
        print(path) if out else tell(f"figure       {path}")  # the text alone goes to a pipe
    if out:
        write_text(Path(out), body)
        print(out)
    else:
        print(body.rstrip("\n"))
    return 0


class _Once:
    """Says each note once, on the error stream."""

    def __init__(self) -> None:
        self._said = set[str]()

    def __call__(self, *notes: str) -> None:
        for words in notes:
            if words not in self._said:
                tell(f"note: {words}")
            self._said.add(words)


def _check(options: argparse.Namespace, form: str) -> None:
    """Flags that contradict each other, before anything is read."""
    general = not options.table and form == "md"
    if options.out and Path(options.out).is_dir():
        name = Path(options.out) / f"leaderboard.{'tex' if form == 'latex' else form}"
        raise UsageError(f"--out {options.out}: is a folder. Name the file, for example {name}.")
    if options.against and (general or options.table == "general"):
        raise UsageError("--against goes with the paper's tables: add --table 1, 3 or all.")
    if options.against and options.table in NOT_TRANSCRIBED:
        raise UsageError(f"--against {options.against} --table {options.table}: {NOT_TRANSCRIBED[options.table]}")
    if options.full and not general:
        raise UsageError("--full goes with the general leaderboard in markdown; csv and json hold everything anyway.")
    if (options.cases or options.count) and not (options.figures or form == "html"):
        raise UsageError(f"{'--cases' if options.cases else '--count'} goes with --figures DIR or --format html.")
    if options.figures:
        check_folder(Path(options.figures), "--figures")


def _load(runs: Sequence[str]) -> list[dict[str, Any]]:
    found, warnings = records.load([Path(p) for p in runs])
    for words in warnings:
        tell(f"warning: {words}")
    if not found:
        raise UsageError(f"no records below {', '.join(runs)}. Make some: bench run --method ours --suite all.")
    return found


def _check_scored(found: Sequence[Record], runs: Sequence[str]) -> None:
    if any(record.get("status") == "ok" for record in found):
        return
    first = found[0]
    reason = (text(first.get("error")).strip().splitlines() or ["no reason recorded"])[0].rstrip(".")
    raise PreflightError(
        f"none of the {len(found)} records below {', '.join(runs)} holds a score; the first, {first['evaluator']} of "
        f"{first['method']}, {first['status']}: {reason}. Mend that and run the same `bench run` command again."
    )


def _text(found: Sequence[Record], options: argparse.Namespace, form: str, say: _Once) -> str:
    from leaderboards import formats, render

    if not options.table and form == "md":
        return render.leaderboard(found, full=options.full)
    return formats.write(_sheets(found, options, options.table or ("" if form in DATA else "all"), say), form)


def _sheets(found: Sequence[Record], options: argparse.Namespace, table: str, say: _Once) -> list[Sheet]:
    """The sheets of a table; of all, the general leaderboard's included, where none is named."""
    from leaderboards import general

    own = general.sheets(found) if table in ("", "general") else []
    if table == "general":
        return own
    from leaderboards import paper

    made, lacking = paper.made(found, table or "all", options.against)
    if not made and not own:
        raise PreflightError(" ".join([f"no record below {', '.join(options.runs)} has a place in --table {table}.", *lacking]))
    say(*lacking)
    return [*made, *own]


def _page(found: Sequence[Record], options: argparse.Namespace, say: _Once) -> str:
    from leaderboards import figures, render
    from leaderboards.page import page

    sheets = _sheets(found, options, options.table or "all", say)
    drawn = figures.pngs(found, _cases(found, options, IN_FIGURES, say))
    general = render.leaderboard(found, full=True, pictures=False)
    return page(sheets, _cases(found, options, IN_PAGE, say), drawn, general, records.without_folders(records.command_line()))


def _figures(found: Sequence[Record], options: argparse.Namespace, say: _Once) -> list[Path]:
    from leaderboards import figures

    cases = _cases(found, options, IN_FIGURES, say)
    say(*figures.lacking([one for one in cases if not one.restricted], found))
    written = figures.write(found, cases, Path(options.figures))
    if not written:
        raise PreflightError("no figure can be drawn, for the reasons above. Nothing was written.")
    return written


def _cases(found: Sequence[Record], options: argparse.Namespace, count: int, say: _Once) -> list[CaseSet]:
    """The cases that the rule chooses; says which there are not, and which nobody will see. `figures` and `page` draw none of a
    restricted dataset."""
    from leaderboards import cases

    made, lacking = cases.opened(found, options.cases or RULE, options.count or count)
    held = sorted({one.test for one in made if one.restricted})
    if held:
        say(f"images of {', '.join(held)} are left out: whoever gets them needs a licence of their own. Numbers are all there.")
    say(*lacking)
    return made
