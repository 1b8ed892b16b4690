"""Opacity boxes from tables: which are refused, and what is cut off at the image's border.

A box is (x, y, width, height) in pixels, from the top left corner. One that is no box, or lies wholly outside its image, makes a
dataset unusable: a wrong frame would otherwise move every box a little. One that only sticks out is cut and noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.data.contract import Box, Problem
from bench.data.geometry import clip
from bench.data.tables import one_line, parse_float
from bench.errors import DataError

NAMES = ("x", "y", "width", "height")


@dataclass(frozen=True)
class Drawn:
    """A box as a table has it.

    Attributes:
        where: file and row, for messages.
        box: in pixels of the table's frame.
    """

    where: str
    box: Box


def parse_box(cells: Sequence[str]) -> Box:
    """A box from the cells x, y, width and height.

    Raises:
        DataError: a cell holds no number, or the area is not positive; the message begins with the cells.
    """
    shown = f"({', '.join(one_line(cell, 20) for cell in cells)}) is not a box"
    values = [parse_float(cell) for cell in cells]
    for name, cell, value in zip(NAMES, cells, values, strict=True):
        if value is None:
            raise DataError(f"{shown}: {name} is {repr(one_line(cell, 20)) if cell else 'blank'}, a number is needed.")
    x, y, w, h = (value or 0.0 for value in values)
    if w <= 0 or h <= 0:
        raise DataError(f"{shown}: its width and height must be above 0.")
    return x, y, w, h


def place(drawn: Sequence[Drawn], width: int, height: int) -> tuple[tuple[Box, ...], list[Problem], int]:
    """Fit an image's boxes into its frame.

    Args:
        drawn: the boxes; repeated ones count once.
        width: of the frame, pixels.
        height: likewise.

    Returns:
        The boxes inside, a fatal problem for every one wholly outside, and how many were cut at the border.
    """
    kept: dict[Box, None] = {}
    problems = []
    cut = 0
    for row in drawn:
        box = clip(row.box, width, height)
        if box is None:
            shown = ", ".join(f"{value:g}" for value in row.box)
            problems.append(Problem(row.where, f"the box ({shown}) lies outside its image, which is {width}x{height}."))
        else:
            cut += box != row.box and box not in kept
            kept[box] = None
    return tuple(kept), problems, cut
