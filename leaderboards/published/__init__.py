"""What the paper printed: Ning et al. 2025, Pattern Recognition Letters 193:21-28 (arXiv 2503.19860).

Data files hold the numbers as texts, in the printed precision. Tables 1 and 3 are here; Table 2 and Figure 6 are not transcribed,
and say so. Published numbers are claims of others under their own protocol: they stand beside measured ones, in no ranking.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files

from bench.errors import PreflightError, unknown

#: Tables with a data file ...
TRANSCRIBED = ("1", "3")
#: ... and why the others have none.
NOT_TRANSCRIBED = {
    "2": (
        "The printed numbers of Table 2 have not been transcribed, so there is nothing to compare with. Their accuracy does not "
        "follow from the confusion matrix that precision and recall imply, so they could not be matched digit by digit; here all "
        "follow from one matrix."
    ),
    "fig6": "The numbers behind Figure 6 are not printed as a table and have not been transcribed: there is nothing to compare with.",
}
#: The row that changes are against.
ORIGINAL = "original"


@dataclass(frozen=True)
class Published:
    """One printed table.

    Attributes:
        table: ``1`` or ``3``.
        source: citation, arXiv number and table, as a sentence would have it.
        names: row -> its printed name; rows of Table 1 are methods as they are called here, those of Table 3 switches that are on.
        values: row -> column -> printed text. Columns: ``fid``, ``kid``, ``kid_std``, and of Table 1 ``SET_miou`` and
            ``SET_sensitivity`` (percent) of ``mimic``, ``rsna`` and ``jsrt``.
        oddities: what is known to be odd about it.
    """

    table: str
    source: str
    names: Mapping[str, str]
    values: Mapping[str, Mapping[str, str]]
    oddities: tuple[str, ...]

    def text(self, row: str, column: str) -> str | None:
        """A number as printed; None where it is not. ``SET_miou_delta`` follows from the printed mIoU, to their last digit."""
        own = self.values.get(row, {})
        if not column.endswith("_miou_delta"):
            return own.get(column)
        first, base = (some.get(column.removesuffix("_delta")) for some in (own, self.values.get(ORIGINAL, {})))
        return str(Decimal(first) - Decimal(base)) if first and base else None


@cache
def load(table: str) -> Published:
    """Read a printed table.

    Args:
        table: ``1`` or ``3``.

    Raises:
        PreflightError: the table has not been transcribed.
        UsageError: the paper has no such table.
    """
    if table in NOT_TRANSCRIBED:
        raise PreflightError(NOT_TRANSCRIBED[table])
    if table not in TRANSCRIBED:
        raise unknown("published table", table, TRANSCRIBED)
    facts = json.loads((files(__name__) / f"table{table}.json").read_text(encoding="utf-8"))
    source = f"{facts['source']['citation']} (arXiv {facts['source']['arxiv']}), {facts['source']['table']}"
    values = {row["row"]: {key: value for key, value in row.items() if key not in ("row", "name")} for row in facts["rows"]}
    return Published(facts["table"], source, {row["row"]: row["name"] for row in facts["rows"]}, values, tuple(facts["oddities"]))
