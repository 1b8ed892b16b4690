"""The pictures a run ends with: one method's input, output, activation mask and difference; all methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.contract import OPACITY
from bench.data.imageset import ImageSet
from bench.files import replace_atomically

Column = tuple[str, Any, str, tuple[float, float]]  # title, images n x H x W, colour map, its range
GREY = ("gray", (0.0, 1.0))
MAGMA = ("magma", (0.0, 1.0))
#: Rows of a picture.
CASES = 6


def translation_grid(source: ImageSet, translated: ImageSet, path: Path, title: str) -> Path:
    """Draw the first opacity images of a test set (all images where it has none) and their translations.

    Columns: input, output, activation mask (where the method has one), output - input (blue darker, red brighter, full
    scale +-0.5) and the true clear image (where it is known). Rows: the first `CASES` images in the order of the set.

    Returns:
        The PNG file.
    """
    rows = _cases(source)
    before, after = source.pixels(rows), translated.pixels(rows)
    columns: list[Column] = [("input", before, *GREY), ("output", after, *GREY)]
    if "mask" in translated.planes:
        columns.append(("activation mask", translated.pixels(rows, "mask"), *MAGMA))
    columns.append(("output - input", after - before, "RdBu_r", (-0.5, 0.5)))
    if "counterpart" in source.planes:
        columns.append(("true clear image", source.pixels(rows, "counterpart"), *GREY))
    if "opacity" in source.planes:
        columns.append(("true opacity", source.pixels(rows, "opacity"), *MAGMA))
    return _draw(columns, [source.ids[i] for i in rows], path, title)


def comparison_grid(source: ImageSet, translated: Mapping[str, ImageSet], path: Path, title: str) -> Path:
    """Draw the translations of several methods side by side, as the paper's Figure 3: a row an image, a column a method.

    The images are the first opacity images of the test set, the same for every method; the true clear image comes last where
    it is known.

    Returns:
        The PNG file.
    """
    rows = _cases(source)
    columns: list[Column] = [("input", source.pixels(rows), *GREY)]
    columns += [(name, images.pixels(rows), *GREY) for name, images in translated.items()]
    if "counterpart" in source.planes:
        columns.append(("true clear image", source.pixels(rows, "counterpart"), *GREY))
    return _draw(columns, [source.ids[i] for i in rows], path, title)


def _cases(source: ImageSet) -> list[int]:
    """Rows of the first opacity images of a set, of its first images where it has none."""
    return [i for i, d in enumerate(source.domains) if d == OPACITY][:CASES] or list(range(min(CASES, len(source))))


def _draw(columns: Sequence[Column], labels: Sequence[str], path: Path, title: str) -> Path:
    from matplotlib.figure import Figure  # without pyplot: drawing leaves the backend of a notebook alone

    figure = Figure(figsize=(1.7 * len(columns), 1.7 * len(labels) + 0.7), layout="constrained")
    axes = figure.subplots(len(labels), len(columns), squeeze=False)
    for column, (name, values, colours, (low, high)) in enumerate(columns):
        for row, label in enumerate(labels):
            axis = axes[row][column]
            axis.imshow(np.asarray(values[row]), cmap=colours, vmin=low, vmax=high, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name, fontsize=9)
            if column == 0:
                axis.set_ylabel(label[-16:], fontsize=6)
    figure.suptitle(title, fontsize=10)
    replace_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))
    return path
