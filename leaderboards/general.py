"""The general leaderboard as sheets, for programs: every metric of every evaluator, and behind it every comparison of methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from leaderboards import compare, notes
from leaderboards.cells import FAILED
from leaderboards.changes import is_p
from leaderboards.groups import Record, order
from leaderboards.marks import Ranking
from leaderboards.render import title_of
from leaderboards.sheet import Entry, Head, Line, Sheet
from leaderboards.subjects import HEADLINE, Layout, title
from leaderboards.tables import Column, Row, Table, tables
from leaderboards.values import Cell

if TYPE_CHECKING:
    from leaderboards.compare import Comparisons, Family, Pair


#: What the shift and the p value of a pair are.
PAIR_SHIFT = "Hodges-Lehmann pseudo-median, interval (not corrected for the number of pairs), n patients"
PAIR_P = "paired Wilcoxon over patients, two-sided; of several seeds the larger p of that and of Student's t over seeds"


def sheets(records: Iterable[Record], headline: bool = False) -> list[Sheet]:
    """A sheet for each table, with one for its pairs and one for its ranks behind it where methods were compared; of the `headline`
    metrics alone, and nothing behind it, for readers.

    Values that depend on no translated image stand in a line of their own, or one for each group of methods they differ between.
    """
    return [_sheet(table, headline) for table in tables(sorted(records, key=order))]


def _sheet(table: Table, headline: bool) -> Sheet:
    found = compare.compare(table)
    layout = Layout(table)
    columns = [column for column in (layout.headline if headline else table.columns) if table.filled(column)]
    told = notes.below(layout, HEADLINE) if headline else [
        f"{', '.join(r.methods) + ': ' if r.methods else ''}{r.text}" for r in table.notes
    ]  # fmt: skip
    ranking = Ranking(table.rows)
    return Sheet(
        key="general",
        title=title_of(table),
        context={**table.context, **({"variants": "; ".join(table.variants)} if table.variants else {})},
        heads=tuple(_head(column) for column in columns),
        lines=(*_real(table, columns), *(_line(i, table.rows[i], columns, ranking) for i in range(len(table.rows)))),
        above=tuple(notes.cautions(table)),
        below=(*ranking.meanings(columns), *ranking.grounds(columns), *([line] if (line := notes.floor(table)) else []), *told),
        behind=(_pairs(table, found), _ranks(table, found)) if found.families and not headline else (),
    )


def _head(column: Column) -> Head:
    part = f" · {column.part}" if column.part else ""
    key = f"{column.evaluator}/{column.key}"
    return Head(column.label, f"{title(column.evaluator)}{part}", column.better, column.unit, column.digits, key, p=is_p(column))


def _line(index: int, row: Row, columns: list[Column], ranking: Ranking) -> Line:
    entries = []
    for column in columns:
        cell = row.cells.get(column.id)
        lost = not column.shared and cell is None and bool(row.failed & {column.evaluator, ""})
        entries.append(Entry(cell, FAILED if lost else "", "" if column.shared else ranking.of(column).marks[index]))
    return Line(row.label, tuple(entries), original=row.original, notes=row.problems, who=row.who)


def _real(table: Table, columns: list[Column]) -> list[Line]:
    groups = dict.fromkeys(real.methods for c in columns for real in table.real.get(c.id, ()))
    return [
        Line(
            f"real images ({', '.join(methods)})" if methods else "real images",
            tuple(Entry(next((real.cell for real in table.real.get(c.id, ()) if real.methods == methods), None)) for c in columns),
        )
        for methods in groups
    ]


def _pairs(table: Table, found: Comparisons) -> Sheet:
    """Lines are pairs ``B - A``, by metric."""
    heads = tuple(
        head for family in found.families for c in [family.column] for key in [f"{c.evaluator}/{c.key}"] for head in (
            Head("Shift B - A", c.label, "", c.unit, c.digits, f"{key}.shift", PAIR_SHIFT),
            Head("Effect", c.label, "", "", 2, f"{key}.effect", "rank-biserial correlation"),
            Head("p", c.label, "", "", 3, f"{key}.p", PAIR_P, p=True),
            Head("p (Holm)", c.label, "", "", 3, f"{key}.p_holm", "over all pairs of this metric", p=True),
        )
    )  # fmt: skip
    names = [(a, b) for k, a in enumerate(found.methods) for b in found.methods[k + 1 :]]
    lines = [Line(f"{b} - {a}", tuple(e for f in found.families for e in _pair(f.pair(a, b)))) for a, b in names]
    kept = tuple(line for line in lines if any(entry.cell for entry in line.entries))
    return Sheet("general-pairs", f"Pairs · {title_of(table)}", table.context, heads, kept, corner="B - A")


def _pair(pair: Pair | None) -> tuple[Entry, ...]:
    if pair is None:
        return (Entry(),) * 4
    n = (pair.paired.n,)
    shift = Cell(pair.paired.shift, ci=pair.paired.shift_ci, n=n)
    return Entry(shift), *(Entry(Cell(value, n=n)) for value in (pair.paired.effect, pair.p, pair.p_holm))


def _ranks(table: Table, found: Comparisons) -> Sheet:
    families = [family for family in found.families if family.ranks]
    heads = tuple(
        head for family in families for c in [family.column] for key in [f"{c.evaluator}/{c.key}"] for head in (
            Head("Rank", c.label, "", "", 1, f"{key}.rank", "by the mean over patients of the values by image"),
            Head("P(first)", c.label, "", "", 2, f"{key}.first", "share of resamples in which it is the first"),
        )
    )  # fmt: skip
    lines = tuple(Line(label, tuple(e for f in families for e in _rank(f, label))) for label in found.methods)
    return Sheet("general-ranks", f"Ranks · {title_of(table)}", table.context, heads, lines)


def _rank(family: Family, label: str) -> tuple[Entry, Entry]:
    rank = family.ranks.get(label)
    if rank is None:
        return Entry(), Entry()
    ci = (float(rank.low), float(rank.high)) if rank.low is not None and rank.high is not None else None
    first = Entry() if rank.first is None else Entry(Cell(rank.first, n=(rank.patients,)))
    return Entry(Cell(rank.rank, ci=ci, n=(rank.patients,))), first
