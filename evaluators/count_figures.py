"""The pictures of `evaluators.detection`: counts before and after (the paper's Figure 6), and counts at every confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.files import replace_atomically
from evaluators.statistics import FloatArray, Paired

#: Inches: one column of a two-column page.
COLUMN = 3.5
#: Lesions by which a patient's mark is moved up or down at most.
JITTER = 0.04
_GREY, _BEFORE, _AFTER = "0.45", "#c44e52", "#4c72b0"


@dataclass(frozen=True)
class Panel:
    """One pair of boxes.

    Attributes:
        title: which images.
        before, after: (P,) counts, one a patient.
        test: their comparison.
    """

    title: str
    before: FloatArray
    after: FloatArray
    test: Paired


def box_plot(panels: Sequence[Panel], path: Path, title: str, caption: str) -> Path:
    """Box plots before and after with a line a patient. Whiskers reach 1.5 quartile ranges; diamonds are means.

    Counts tie: patients' marks are moved apart, always alike: sideways, and by at most 0.04 upwards or downwards, so that 0 stays 0.

    Returns:
        The PNG file.
    """
    figure, axes = _panels(len(panels), 2.9)
    top = max([1.0, *(float(max(p.before.max(), p.after.max())) for p in panels)])
    for axis, panel in zip(axes[0], panels, strict=True):
        _draw(axis, panel)
        axis.set_ylim(-0.2, top + 0.2)
    axes[0][0].yaxis.get_major_locator().set_params(integer=True)
    axes[0][0].set_ylabel("lesions per image", fontsize=8)
    figure.suptitle(title, fontsize=8)
    figure.supxlabel(caption, fontsize=6.5, color=_GREY)
    return _save(figure, path)


def _draw(axis: Any, panel: Panel) -> None:
    n, rng = len(panel.before), np.random.default_rng(0)
    x, y = rng.uniform(-0.16, 0.16, n), rng.uniform(-JITTER, JITTER, n)
    faint = float(np.clip(12 / n, 0.04, 0.45))
    axis.plot(
        np.stack([0.22 + x / 2, 0.78 + x / 2]), np.stack([panel.before + y, panel.after + y]), color=_GREY, alpha=faint, lw=0.6,
        zorder=1,
    )  # fmt: skip
    for place, shown, values, colour in ((-0.12, 0.22, panel.before, _BEFORE), (1.12, 0.78, panel.after, _AFTER)):
        axis.scatter(shown + x / 2, values + y, s=5, color=colour, alpha=min(1.0, 2.5 * faint), lw=0, zorder=2)
        axis.boxplot(
            values, positions=[place], widths=0.26, showfliers=False, showmeans=True, manage_ticks=False, patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.45, "lw": 0.8}, medianprops={"color": "black", "lw": 1.4},
            meanprops={"marker": "D", "markersize": 3.5, "markerfacecolor": "white", "markeredgecolor": "black"},
            whiskerprops={"lw": 0.8}, capprops={"lw": 0.8}, zorder=3,
        )  # fmt: skip
    axis.set_xlim(-0.4, 1.4)
    axis.set_xticks([0.05, 0.95], ["before", "after"], fontsize=8)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    change = panel.after - panel.before
    value = panel.test.best_p
    p = "p < 0.0001" if value < 1e-4 else "p = 1" if value == 1 else f"p = {value:.4f}"
    told = f"n = {n} patients, {p}\nmedian change {_signed(float(np.median(change)))}\nmean change {_signed(float(change.mean()))}"
    axis.set_title(f"{panel.title}\n{told}", fontsize=7, linespacing=1.25)


def _signed(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "\u2212")
    return "0" if float(f"{value:.2f}") == 0 else text


def curve_plot(
    confidences: Sequence[float], curves: Sequence[tuple[str, FloatArray, FloatArray]], chosen: float, path: Path, title: str
) -> Path:
    """Mean count of lesions at every confidence; one panel a kind of images.

    Args:
        confidences: (T,) least confidence that counts.
        curves: title, mean count before (T,) and after (T,).
        chosen: the confidence that the tables count at.
        path: the PNG file.
        title: above all.
    """
    figure, axes = _panels(len(curves), 2.3)
    for axis, (name, before, after) in zip(axes[0], curves, strict=True):
        for label, values, colour, wide in (("before", before, _BEFORE, 2.0), ("after", after, _AFTER, 1.0)):  # both show if equal
            axis.plot(confidences, values, color=colour, marker="o", ms=2.2 * wide, lw=1.2 * wide, label=label)
        axis.axvline(chosen, color=_GREY, lw=0.8, ls="--")
        axis.set_title(name, fontsize=7)
        axis.set_xlim(0, 1)
        axis.set_yscale("symlog", linthresh=0.1)  # a few at the confidence used, dozens at the least one
        axis.set_ylim(bottom=0)
        axis.set_yticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
        axis.minorticks_off()
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("mean lesions per image", fontsize=8)
    axes[0][-1].legend(fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=8)
    figure.supxlabel("least confidence that counts (dashed: the one used)", fontsize=7)
    return _save(figure, path)


def _panels(count: int, height: float) -> tuple[Any, Any]:
    """A figure of some panels in a row, `height` in inches, and their axes (1 x count)."""
    from matplotlib.figure import Figure  # without pyplot: drawing leaves the backend of a notebook alone

    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False, sharey=True)


def _save(figure: Any, path: Path) -> Path:
    replace_atomically(path, lambda temporary: figure.savefig(temporary, dpi=220, format="png"))
    return path
