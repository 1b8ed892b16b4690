"""What ``bench leaderboard`` does: records -> the general leaderboard, paper tables, figures, the web page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import records
from bench.arguments import tell
from bench.errors import BenchError, PreflightError, UsageError
from bench.files import check_folder, write_text
from leaderboards.groups import Record, text

if TYPE_CHECKING:
    from leaderboards.cases import CaseSet
    from leaderboards.sheet import Sheet

#: Where the page goes without ``--out``: it is no text for a terminal.
PAGE = "leaderboard.html"
#: So many files that were left out are named.
MANY = 3
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
        BenchError: a stored image is damaged; all else is written.
    """
    form = options.format or "md"
    _check(options, form)
    found, lost = _load(options.runs)
    say = _Once()
    if form != "md" or options.table or options.figures:
        _check_scored(found, options.runs)
    if options.figures:
        check_folder(Path(options.figures), "--figures")
    figures = _figures(found, options, say) if options.figures else []
    if options.figures and not (options.table or options.format or options.out):
        print("\n".join(map(str, figures)))
        return say.end()
    body = _page(found, options, say, lost) if form == "html" else _text(found, options, form, say, lost)
    out = options.out or (PAGE if form == "html" else "")
    for path in figures:
        print(path) if out else tell(f"figure       {path}")  # the text alone goes to a pipe
    if out:
        write_text(Path(out), body)
        print(out)
    else:
        print(body.rstrip("\n"))
    return say.end()


class _Once:
    """Says each note once, on the error stream, and remembers what is damaged."""

    def __init__(self) -> None:
        self._said = set[str]()
        self._lost = dict[str, None]()

    def lost(self, words: str) -> None:
        """A case that cannot be shown for a damaged file: all else is written first."""
        self(f"left out: {words}")
        self._lost[words] = None

    def end(self) -> int:
        """0.

        Raises:
            BenchError: something was damaged.
        """
        if self._lost:
            raise BenchError(f"written without the cases of damaged files: {' '.join(self._lost)}")
        return 0

    def __call__(self, *notes: str) -> None:
        for words in notes:
            if words not in self._said:
                tell(f"note: {words}")
            self._said.add(words)


def _check(options: argparse.Namespace, form: str) -> None:
    """Flags that contradict each other, before anything is read."""
    general = options.table in ("", "general") and form == "md"
    if options.out and Path(options.out).is_dir():
        name = Path(options.out) / f"leaderboard.{'tex' if form == 'latex' else form}"
        raise UsageError(f"--out {options.out}: is a folder. Name the file, for example {name}.")
    if options.against and (general or options.table == "general"):
        raise UsageError("--against goes with the paper's tables: add --table 1, 2, 3, fig6 or all.")
    if options.full and not general:
        raise UsageError("--full goes with the general leaderboard in markdown; csv and json hold everything anyway.")
    if (options.cases or options.count) and not (options.figures or form == "html"):
        raise UsageError(f"{'--cases' if options.cases else '--count'} goes with --figures DIR or --format html.")


def _load(runs: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Records, and a line on the files that were left out, for whoever reads the result elsewhere; empty for none."""
    found, warnings = records.load([Path(p) for p in runs])
    for words in warnings:
        tell(f"warning: {words}")
    if not found:
        raise UsageError(f"no records below {', '.join(runs)}. Make some: bench run --method ours --suite all.")
    return found, _left_out(warnings, runs)


def _left_out(warnings: Sequence[str], runs: Sequence[str]) -> str:
    """Files left out, without the folders of this machine."""
    told = []
    for words in warnings[:MANY]:
        path, _, why = words.partition(" is left out of ")
        root = next((root for root in map(Path, runs) if Path(path).is_relative_to(root)), Path(path).parent)
        about = why.partition(": ")[2].split(". ")[0]
        told.append(f"{Path(path).relative_to(root).as_posix()} ({'values by image: ' if why.startswith('comp') else ''}{about})")
    more = f"; and {len(warnings) - MANY} others" if len(warnings) > MANY else ""
    files = "file" if len(warnings) == 1 else "files"
    return f"{len(warnings)} {files} left out: {'; '.join(told)}{more}." if warnings else ""


def _check_scored(found: Sequence[Record], runs: Sequence[str]) -> None:
    if any(record.get("status") == "ok" for record in found):
        return
    first = found[0]
    reason = (text(first.get("error")).strip().splitlines() or ["no reason recorded"])[0].rstrip(".")
    raise PreflightError(
        f"none of the {len(found)} records below {', '.join(runs)} holds a score; the first, {first['evaluator']} of "
        f"{first['method']}, {first['status']}: {reason}. Mend that and run the same `bench run` command again."
    )


def _text(found: Sequence[Record], options: argparse.Namespace, form: str, say: _Once, lost: str) -> str:
    from leaderboards import formats, render

    if options.table in ("", "general") and form == "md":
        return render.leaderboard(found, full=options.full) + (f"\n{lost}\n" if lost else "")
    return formats.write(_with(_sheets(found, options, say), lost), form)


def _with(sheets: Sequence[Sheet], lost: str) -> list[Sheet]:
    """Sheets that say which files were left out: each may be handed on alone."""
    return [replace(sheet, below=(*sheet.below, lost)) if lost else sheet for sheet in sheets]


def _sheets(found: Sequence[Record], options: argparse.Namespace, say: _Once) -> list[Sheet]:
    """The sheets of a table; where none is named, all that can be filled and the general leaderboard's, which a paper needs only
    where there is no other."""
    from leaderboards import general

    table = options.table
    own = general.sheets(found, headline=options.format == "latex") if table in ("", "general") else []
    if table == "general":
        return own
    from leaderboards import paper

    made, lacking = paper.made(found, table or "all", options.against)
    if not made and not own:
        where = f"no record below {', '.join(options.runs)} has a place in --table {table}."
        raise PreflightError(" ".join([where, *lacking, "What there is: --table general."]))
    say(*lacking)
    return made if made and options.format == "latex" else [*made, *own]


def _page(found: Sequence[Record], options: argparse.Namespace, say: _Once, lost: str) -> str:
    from leaderboards import figures, render
    from leaderboards.page import page

    sheets = _with(_sheets(found, options, say), lost)
    drawn = figures.pngs(found, _cases(found, options, IN_FIGURES, say))
    general = render.leaderboard(found, full=True, pictures=False) + (f"\n{lost}\n" if lost else "")
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

    made, lacking = cases.opened(found, options.cases or RULE, options.count or count, say.lost)
    held = sorted({one.test for one in made if one.restricted})
    if held:
        say(
            f"images of {', '.join(held)} are left out: they are restricted data, or of methods that learnt from such (or from data "
            "that records do not tell of); whoever gets them needs a licence of their own. Numbers are all there."
        )
    kept = sorted({one.test for one in made if one.context["policy"] == cases.KEPT})
    if kept:
        say(f"images of {', '.join(kept)} are shown, and their terms ({cases.KEPT}) forbid to pass them on: keep the files with them.")
    say(*lacking)
    return made
