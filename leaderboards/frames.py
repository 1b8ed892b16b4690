"""Sheets as named tables of numbers for a tracker: each as readers see it, all as one long table, and what must be read with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leaderboards import formats
from leaderboards.sheet import Sheet

if TYPE_CHECKING:
    import pandas as pd


def frames(sheets: Sequence[Sheet]) -> dict[str, pd.DataFrame]:
    """Name -> table.

    ``table1-1a2b3c4d`` is a sheet (`formats.frame`), named by its key and a hash of its title and context, so that it keeps its
    name when other sheets come and go. ``numbers-NAME`` holds every number of a sheet and those behind it with its spread, interval,
    n, seeds and mark (`formats.tidy`; a table each, as W&B cuts tables off at 10,000 rows), ``sheets`` what stands above and below
    each table. Nothing where there are no sheets.
    """
    import pandas as pd

    every = [*formats.everything(sheets)]
    named = {formats.sheet_id(sheet): sheet for sheet in every}
    about = [
        {
            "table": name, "title": sheet.title, "context": formats.context(sheet), "above": "\n".join(sheet.above),
            "below": "\n".join(sheet.below),
        }
        for name, sheet in named.items()
    ]  # fmt: skip
    if not named:
        return {}
    found = {name: formats.frame(sheet) for name, sheet in named.items()}
    numbers = {f"numbers-{formats.sheet_id(sheet)}": formats.tidy([sheet]) for sheet in sheets}
    return {**found, **numbers, "sheets": pd.DataFrame(about)}
