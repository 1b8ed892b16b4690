"""What every paper table is made into, and every format and the web page are made from: heads, lines, marks, notes.

`leaderboards.paper` makes sheets from records, `leaderboards.formats` writes them, `leaderboards.page` shows them. Values keep
full precision; whoever writes them rounds with `Head.digits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from leaderboards.values import Cell, sign_of

#: Marks of an entry (`leaderboards.marks`). A tie is a value not shown to differ from the best one, which is marked ``best`` still.
BEST, SECOND, TIE = "best", "second", "tie"


@dataclass(frozen=True)
class Head:
    """One column.

    Attributes:
        label: for example ``mIoU``.
        group: what spans several columns (``RSNA lungs``); empty for none.
        better: ``lower``, ``higher`` or empty where the column is not ranked.
        unit: empty for none.
        digits: decimals to show.
        key: stable name, unique within a sheet, for machine-readable formats: ``rsna.segmentation.iou``.
        detail: one sentence that says what the number is.
        p: whether it is a p value: what would be rounded to zero is shown as less than the last digit.
    """

    label: str
    group: str = ""
    better: str = ""
    unit: str = ""
    digits: int = 2
    key: str = ""
    detail: str = ""
    p: bool = False

    @property
    def sign(self) -> int:
        """See `sign_of`."""
        return sign_of(self.better)


@dataclass(frozen=True)
class Entry:
    """One value, or the text that stands in its place (``failed``, a name); neither is a missing value.

    Attributes:
        cell: the value with its spread, interval, n, seeds and doubt.
        text: shown instead.
        mark: `BEST`, `SECOND`, `TIE` or empty.
    """

    cell: Cell | None = None
    text: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        label: method, or data type, or ablation row.
        entries: one for each head.
        group: rows of one group stand together (an architecture in Table 2); empty for none.
        original: whether this is the do-nothing row.
        notes: what failed, a line each.
        who: method, its version, fingerprint of its configuration; empty for lines of no one method.
    """

    label: str
    entries: tuple[Entry, ...]
    group: str = ""
    original: bool = False
    notes: tuple[str, ...] = ()
    who: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True)
class Sheet:
    """One table that may be ranked: all its numbers are comparable.

    Attributes:
        key: ``table1``, ``table1-segmenters``, ``table2``, ``table3``, ``fig6``.
        title: with what tells it from other sheets of the same key.
        context: name -> value of what all rows share.
        heads, lines: the table; every line has as many entries as there are heads.
        above: what must be read before the numbers (why there are several sheets; what differs from the published protocol).
        below: notes: n, seeds, fingerprints, versions, doubts, what marks mean.
        corner: heading of the labels.
        behind: sheets with the details of this one (Table 1's per segmenter); formats fold them.
    """

    key: str
    title: str
    context: Mapping[str, str]
    heads: tuple[Head, ...]
    lines: tuple[Line, ...]
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    corner: str = "Method"
    behind: tuple[Sheet, ...] = field(default=())
