"""Hand-made records for Table 2: classifiers of three kinds of images, each with a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaderboard_tools import metric, score
from paper_tools import made

#: True positives, false positives, false negatives, true negatives.
Matrix = tuple[int, int, int, int]
NAMES = {"resnet50": "ResNet50", "densenet": "DenseNet"}
LABELS = ("Accuracy", "F1", "Recall", "Precision", "AUROC")
METRICS = [
    made_
    for arch, title in NAMES.items()
    for kind in ("original", "generated", "mask")
    for made_ in (
        *(metric(f"{arch}_{kind}_{label.lower()}", label, "none" if kind == "original" else "higher",
                 part=f"{title} · {kind.title()}", shared=kind == "original") for label in LABELS),
        *(metric(f"{arch}_{kind}_{label.lower()}", label, "none", 0, part=f"{title} · {kind.title()}", shared=kind == "original")
          for label in ("TP", "FP", "FN", "TN")),
    )
] + [metric("floor_auroc", "AUROC", "none", part="View, age, sex · Original", shared=True)]  # fmt: skip
ORIGINAL: Matrix = (20, 10, 20, 50)


def learnt(method: str, matrices: Mapping[str, Matrix], **changes: Any) -> dict[str, Any]:
    """A record in which each ``arch_kind`` has a matrix; AUROC is 0.01 above accuracy, intervals reach 0.02."""
    scores: dict[str, Any] = {metric["key"]: score(None, n=0) for metric in METRICS}
    for name, (tp, fp, fn, tn) in matrices.items():
        n, precision, recall = tp + fp + fn + tn, tp / (tp + fp), tp / (tp + fn)
        found = {
            "accuracy": (tp + tn) / n, "precision": precision, "recall": recall,
            "f1": 2 * precision * recall / (precision + recall), "auroc": (tp + tn) / n + 0.01,
        }  # fmt: skip
        scores |= {f"{name}_{key}": score(v, n=n, ci=[v - 0.02, v + 0.02]) for key, v in found.items()}
        scores |= {f"{name}_{key}": score(float(v), n=n) for key, v in {"tp": tp, "fp": fp, "fn": fn, "tn": tn}.items()}
    scores["floor_auroc"] = score(0.6, n=100, ci=[0.5, 0.7])
    return made(method, "classification", scores, metrics=METRICS, **changes)


REAL = {"resnet50_original": ORIGINAL, "densenet_original": (30, 5, 10, 55)}
ROWS = [
    learnt("original", REAL),
    learnt("ours", {**REAL, "resnet50_generated": (30, 10, 10, 50), "resnet50_mask": (31, 10, 9, 50),
                    "densenet_mask": (20, 20, 20, 40)}),
    learnt("drit", {**REAL, "resnet50_generated": (24, 10, 16, 50)}),
]  # fmt: skip
