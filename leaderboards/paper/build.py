"""Columns of blocks -> a sheet: entries, order of rows, marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from leaderboards.cells import FAILED
from leaderboards.changes import is_p
from leaderboards.groups import ORIGINAL, Identity, Record
from leaderboards.marks import Marks, Test, marks
from leaderboards.paper.blocks import Block, Bundle
from leaderboards.sheet import Entry, Head, Line
from leaderboards.tables import Column
from leaderboards.values import Cell


@dataclass(frozen=True)
class Field:
    """One column of a sheet.

    Attributes:
        head: its heading.
        block: where its values are.
        column: which metric.
        get: makes the value where it is not the metric's own.
        also: other columns whose values stand below the same heading.
    """

    head: Head
    block: Block
    column: Column
    get: Callable[[Block, Identity], Cell | None] | None = field(default=None, compare=False)
    also: tuple[Column, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """Everything below the heading."""
        return (self.column, *self.also)

    def entry(self, who: Identity) -> Entry:
        """A method's value; empty where it has none, a word where its evaluator failed."""
        row = self.block.rows.get(who)
        if row is None:
            return Entry()
        cell = self.get(self.block, who) if self.get else self.cell(who)
        if cell is None and row.failed & {self.block.evaluator, ""}:
            return Entry(text=FAILED)
        return Entry(cell)

    def cell(self, who: Identity) -> Cell | None:
        """The value that the records have; what is the same for all methods is every method's."""
        row = self.block.rows[who]
        if not self.column.shared:
            return row.cells.get(self.column.id)
        real = self.block.table.real.get(self.column.id, ())
        return next((one.cell for one in real if not one.methods or row.label in one.methods), None)


@dataclass(frozen=True)
class Grid:
    """A table before its words.

    Attributes:
        fields: the columns.
        who: the method of each line.
        lines: the rows, marked.
        ranked: how each column was marked, one for each group of lines.
        names: method -> what its line is called.
    """

    fields: tuple[Field, ...]
    who: tuple[Identity, ...]
    lines: tuple[Line, ...]
    ranked: tuple[tuple[Marks, ...], ...]
    names: Mapping[Identity, str] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The headings."""
        return tuple(field.head for field in self.fields)


def field_of(block: Block, column: Column, group: str, label: str = "", detail: str = "", better: str | None = None) -> Field:
    """A column as it is: label, unit, digits and direction are the metric's own."""
    head = Head(
        label or column.label, group, (column.better if column.sign else "") if better is None else better, column.unit,
        column.digits, f"{block.dataset}.{block.evaluator}.{column.key}", detail, is_p(column),
    )  # fmt: skip
    return Field(head, block, column)


def ordered(fields: Sequence[Field], methods: Iterable[Identity]) -> tuple[Identity, ...]:
    """``original`` first, the others by the first ranked column; doubtful and missing values last."""
    lead = next((f for f in fields if f.head.sign), None)

    def place(who: Identity) -> tuple[bool, bool, float, Identity]:
        cell = lead.entry(who).cell if lead else None
        sure = cell if cell and not cell.doubt else None
        return who[0] != ORIGINAL, sure is None, sure.value * lead.head.sign if sure and lead else 0.0, who

    return tuple(sorted(methods, key=place))


def grid(
    bundle: Bundle, fields: Sequence[Field], name: Callable[[Identity], str] | None = None,
    methods: Sequence[Identity] | None = None, rival: bool = True,
) -> Grid:  # fmt: skip
    """Methods (all of them by default) against columns, marked; one without any value or failure in these columns has no line.
    ``original`` is ranked with them where it is a `rival`."""
    present = [who for who in (bundle.everybody if methods is None else methods) if any(f.entry(who) != Entry() for f in fields)]
    who = ordered(fields, present)
    own = distinct(fields)
    names = {one: (name or bundle.name)(one) for one in who}
    made = [
        Line(names[one], tuple(f.entry(one) for f in fields), original=one[0] == ORIGINAL, notes=problems(own, one), who=one)
        for one in who
    ]
    lines, ranked = mark(made, fields, lambda f: lambda i, j: f.block.test(f.column, who[i], who[j]), rival)
    return Grid(tuple(fields), who, lines, (ranked,), names)


def problems(own: Iterable[Block], who: Identity) -> tuple[str, ...]:
    """What failed or was skipped, a line each."""
    return tuple(
        dict.fromkeys(f"{block.dataset}: {line}" for block in own if who in block.rows for line in block.rows[who].problems)
    )


def mark(
    lines: Sequence[Line], fields: Sequence[Field], test: Callable[[Field], Test], rival: bool = True
) -> tuple[tuple[Line, ...], tuple[Marks, ...]]:
    """Lines with the marks of each column, by its test of two lines; ``original`` has none where it is no `rival`."""
    found = []
    for k, one in enumerate(fields):
        cells = [line.entries[k].cell if rival or not line.original else None for line in lines]
        found.append(marks(cells, one.head.sign, test(one)))
    marked = tuple(
        replace(line, entries=tuple(replace(entry, mark=found[k].marks[i]) for k, entry in enumerate(line.entries)))
        for i, line in enumerate(lines)
    )
    return marked, tuple(found)


def used(fields: Sequence[Field], who: Iterable[Identity]) -> list[Record]:
    """The records behind some columns of some methods that succeeded."""
    methods = set(who)
    return [record for block in distinct(fields) for one, row in block.rows.items() if one in methods for record in row.records]


def distinct(fields: Iterable[Field]) -> list[Block]:
    """The blocks behind some columns, each once."""
    return list({id(one.block): one.block for one in fields}.values())
