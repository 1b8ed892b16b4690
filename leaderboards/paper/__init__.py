"""The paper's tables from records (Ning et al. 2025): what is measured, and beside it what was published.

Pure: the same records give the same sheets, in whatever order they come; nothing is read but the records and the published
numbers that come with the package. `leaderboards.paper.blocks` decides what may stand side by side, `leaderboards.marks` what is
best, second and a tie, `leaderboards.paper.notes` writes the notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.errors import UsageError, unknown
from leaderboards.groups import Record
from leaderboards.paper.ablation import COMMAND, UNKNOWN, found3, table3, unknown_rows, whole
from leaderboards.paper.against import beside
from leaderboards.paper.classifiers import found2, table2
from leaderboards.paper.tables import figure6, found1, found6, table1
from leaderboards.sheet import Sheet

#: Table -> what finds that which it can be made of, and what makes it.
_MAKERS: Mapping[str, tuple[Callable[[Sequence[Record]], list[Any]], Callable[[list[Any]], list[Sheet]]]] = {
    "1": (found1, table1), "2": (found2, table2), "3": (found3, table3), "fig6": (found6, figure6),
}  # fmt: skip
ALL = "all"
#: What can be asked for.
TABLES = (*_MAKERS, ALL)
#: What measured numbers can be set beside.
AGAINST = ("", "paper")
LEFT = "Configurations of ours with modules off, equal otherwise: {n}; they are rows of the ablation (Table 3) and not shown here."
#: What makes the records of a table.
_COMMANDS = {
    "1": "Table 1 needs scores of fidelity on the training set's test part, and of segmentation: bench run --method all --suite all",
    "2": "Table 2 needs scores of classification: bench run --method all --suite classification",
    "3": f"Table 3 needs at least two rows of the ablation, trained alike but for their switches: {COMMAND}",
    "fig6": "Figure 6 needs scores of detection: bench run --method all --suite detection",
}


def sheets(records: Iterable[Record], table: str = ALL, against: str = "") -> list[Sheet]:
    """Make tables of the paper from records.

    Args:
        records: as `bench.records.load` gives them.
        table: one of `TABLES`.
        against: ``paper`` for sheets that set measured values beside the published ones; these rank nothing.

    Returns:
        Sheets in the order of the paper, several of one table where records must not be ranked together; none of a table whose
        records are not there (`missing` says what makes them).

    Raises:
        UsageError: no such table, or nothing known by that name to compare with.

    >>> sheets([], "1")
    []
    """
    return made(records, table, against)[0]


def missing(records: Iterable[Record], table: str = ALL) -> list[str]:
    """One line for each table that no sheet can be made of, with the command that makes its records.

    Raises:
        UsageError: no such table.
    """
    found = list(records)
    return [_missing(name, found) for name in _names(table) if not _find(name, found)[0]]


def made(records: Iterable[Record], table: str = ALL, against: str = "") -> tuple[list[Sheet], list[str]]:
    """`sheets` and `missing` at once: sorting records takes longer than anything else but the paired tests.

    Raises:
        UsageError: as `sheets`.
    """
    names = _names(table)
    if against not in AGAINST:
        raise UsageError(f"--against {against}: only published numbers of the paper are known. Available: paper.")
    own, lines, found = list[Sheet](), list[str](), list(records)
    for name in names:
        parts, left = _find(name, found)
        some = [replace(s, below=(*s.below, LEFT.format(n=left))) if left else s for s in _MAKERS[name][1](parts)]
        own += [beside(name, sheet, found) for sheet in some] if against else some
        lines += [] if parts else [_missing(name, found)]
    return own, lines


def _find(name: str, records: Sequence[Record]) -> tuple[list[Any], int]:
    """What a table can be made of, and how many rows of the ablation, which stand in Table 3 alone, were left out."""
    kept, left = (records, 0) if name == "3" else whole(records)
    return _MAKERS[name][0](kept), left


def _missing(name: str, records: Sequence[Record]) -> str:
    n = unknown_rows(records) if name == "3" else 0
    return f"{_COMMANDS[name]}{f' ({UNKNOWN.format(n=n)})' if n else ''}"


def _names(table: str) -> tuple[str, ...]:
    if table not in TABLES:
        raise unknown("table", table, TABLES)
    return tuple(_MAKERS) if table == ALL else (table,)
