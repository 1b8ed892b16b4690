"""What `evaluators.segmentation` leaves to look at: outlines before and after translation beside the reference, and the lungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data.contract import MASK_LUNG
from bench.data.imageset import ImageSet
from bench.files import replace_atomically

#: File beside the figure that holds the lungs found in every translated image; `leaderboards.cases` reads it.
LUNGS = "lungs.npz"
REFERENCE, BEFORE, AFTER = "#33dd55", "#ff9a1f", "#39b8ff"


@dataclass(frozen=True)
class Case:
    """One row of the figure.

    Attributes:
        row: of the image in its set.
        found: segmenter -> (prediction S x S, IoU) before and after translation.
    """

    row: int
    found: Mapping[str, Sequence[tuple[npt.NDArray[np.bool_], float]]]


def draw(source: ImageSet, translated: ImageSet, cases: Sequence[Case], path: Path) -> Path:
    """Draw cases: the input, then for each segmenter its prediction on the input and on the translation.

    The reference is outlined in green in every picture, predictions before in orange, after in blue; below them is the IoU.

    Returns:
        The PNG file.
    """
    from matplotlib.figure import Figure  # without pyplot: drawing leaves the backend of a notebook alone
    from matplotlib.lines import Line2D

    columns = [(name, when) for name in cases[0].found for when in (0, 1)]
    size = (1.75 * (1 + len(columns)), 1.95 * len(cases) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(cases), 1 + len(columns), squeeze=False)
    for k, case in enumerate(cases):
        pictures = [images.pixels([case.row])[0] for images in (source, translated)]
        reference = source.raw([case.row], "lung_mask")[0] == MASK_LUNG
        _panel(axes[k][0], pictures[0], [(reference, REFERENCE, 1.4)])
        axes[k][0].set_ylabel(source.ids[case.row][-18:], fontsize=8)
        for axis, (name, when) in zip(axes[k][1:], columns, strict=True):
            mask, value = case.found[name][when]
            _panel(axis, pictures[when], [(reference, REFERENCE, 0.8), (mask, AFTER if when else BEFORE, 1.4)])
            axis.set_xlabel(f"IoU {100 * value:.1f} %", fontsize=9)
    for axis, title in zip(axes[0], ["input", *(f"{n}\n{'after' if w else 'before'}" for n, w in columns)], strict=True):
        axis.set_title(title, fontsize=10)
    lines = [Line2D([], [], color=colour) for colour in (REFERENCE, BEFORE, AFTER)]
    names = ["reference", "segmented before translation", "segmented after"]
    figure.legend(lines, names, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    replace_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
    return path


def _panel(axis: Any, picture: npt.NDArray[np.float32], outlines: Sequence[tuple[npt.NDArray[np.bool_], str, float]]) -> None:
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for mask, colour, width in outlines:
        if mask.any() and not mask.all():
            axis.contour(mask, levels=[0.5], colors=[colour], linewidths=width)
    axis.set_xticks([])
    axis.set_yticks([])


def keep(found: Mapping[str, npt.NDArray[np.uint8]], ids: Sequence[str], size: int, path: Path) -> None:
    """Write the lungs found in translated images, so that figures can show them without the segmenters.

    What was found before translation stands in the file of the untranslated images (``original``).

    Args:
        found: segmenter -> n x S x ceil(S / 8), packed bits of its predictions.
        ids: of the n images.
        size: S, pixels.
        path: an npz file with these arrays, and ``ids`` and ``size``; it can be read without unpickling.

    Raises:
        BenchError: no space is left.
    """
    arrays: dict[str, Any] = {"ids": np.array(ids, dtype=np.str_), "size": np.array(size), **found}

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as stream:  # savez would add a suffix to a path
            np.savez_compressed(stream, **arrays)

    replace_atomically(path, fill)
