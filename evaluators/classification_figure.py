"""ROC curves of the classifiers, one panel for each thing they were tested on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.files import replace_atomically
from evaluators.classifiers import ARCHITECTURES
from evaluators.discrimination import Tested, auroc, mean_roc

_GRID = np.linspace(0, 1, 201)


def draw(curves: Mapping[str, Mapping[str, Tested]], path: Path, title: str) -> Path:
    """Draw the ROC curves, averaged over folds as the AUROC beside each is.

    Args:
        curves: heading of a panel -> architecture -> what it predicted.
        path: the PNG file.
        title: above all panels.

    Returns:
        `path`.
    """
    from matplotlib.figure import Figure  # without pyplot: drawing leaves the backend of a notebook alone

    figure = Figure(figsize=(3.1 * len(curves) + 0.3, 4.0), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False, sharey=True)
    for axis, (heading, by_arch) in zip(axes[0], curves.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
        for arch, tested in by_arch.items():
            sensitivity = np.r_[0.0, mean_roc(tested, _GRID)]
            axis.plot(np.r_[0.0, _GRID], sensitivity, linewidth=1.4, label=f"{ARCHITECTURES[arch].label} {auroc(tested):.2f}")
        tested = next(iter(by_arch.values()))
        axis.set_title(f"{heading} (n = {len(tested)})", fontsize=9)
        axis.set_xlabel("1 - specificity", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_box_aspect(1)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axis.legend(fontsize=7, loc="lower right", frameon=False)
    axes[0][0].set_ylabel("sensitivity", fontsize=8)
    figure.suptitle(f"Classification, mean over folds: {title}", fontsize=10)
    replace_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))
    return path
