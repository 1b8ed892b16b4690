"""The picture every run ends with: input, output, activation mask and difference side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.data.contract import OPACITY
from bench.data.imageset import ImageSet
from bench.files import replace_atomically


def translation_grid(source: ImageSet, translated: ImageSet, path: Path, title: str, cases: int = 6) -> Path:
    """Draw the first opacity images of a test set (all images where it has none) and their translations.

    Columns: input, output, activation mask (where the method has one), output - input (blue darker, red brighter, full
    scale +-0.5) and the true clear image (where it is known). Rows: the first `cases` images in the order of the set.

    Returns:
        The PNG file.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [i for i, d in enumerate(source.domains) if d == OPACITY][:cases] or list(range(min(cases, len(source))))
    before, after = source.pixels(rows), translated.pixels(rows)
    columns = [("input", before, "gray", (0.0, 1.0)), ("output", after, "gray", (0.0, 1.0))]
    if "mask" in translated.planes:
        columns.append(("activation mask", translated.pixels(rows, "mask"), "magma", (0.0, 1.0)))
    columns.append(("output - input", after - before, "RdBu_r", (-0.5, 0.5)))
    if "counterpart" in source.planes:
        columns.append(("true clear image", source.pixels(rows, "counterpart"), "gray", (0.0, 1.0)))
    if "opacity" in source.planes:
        columns.append(("true opacity", source.pixels(rows, "opacity"), "magma", (0.0, 1.0)))

    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(1.7 * len(columns), 1.7 * len(rows) + 0.7), squeeze=False, layout="constrained"
    )
    for column, (name, values, colours, (low, high)) in enumerate(columns):
        for row in range(len(rows)):
            axis = axes[row][column]
            axis.imshow(np.asarray(values[row]), cmap=colours, vmin=low, vmax=high, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name, fontsize=9)
            if column == 0:
                axis.set_ylabel(source.ids[rows[row]][-16:], fontsize=6)
    figure.suptitle(title, fontsize=10)
    replace_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))
    plt.close(figure)
    return path
