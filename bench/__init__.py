"""cxr-bench: one harness that trains, runs and scores unpaired chest X-ray translation methods.

What a method or evaluator of one's own needs can be imported from here; names are resolved on first use, so that
``import bench`` stays quick:

    from bench import Method, Translation, register_method
    from bench import Evaluator, Metric, Score, register_evaluator
    from bench import Reader, register_dataset, register_suite
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.config import TrainConfig
    from bench.contracts import Batch, Method, Trainable, Translation, frozen
    from bench.data.contract import Reader
    from bench.registry import register_dataset, register_evaluator, register_method, register_suite
    from bench.runner import Source
    from bench.scoring import Evaluator, Job, Metric, Score, ScoreJob

_PUBLIC = {
    **dict.fromkeys(("Batch", "Method", "Trainable", "Translation", "frozen"), "bench.contracts"),
    **dict.fromkeys(("Evaluator", "Job", "Metric", "Score", "ScoreJob"), "bench.scoring"),
    "Reader": "bench.data.contract",
    "Source": "bench.runner",
    "TrainConfig": "bench.config",
    **dict.fromkeys(("register_dataset", "register_evaluator", "register_method", "register_suite"), "bench.registry"),
}

__all__ = [
    "Batch",
    "Evaluator",
    "Job",
    "Method",
    "Metric",
    "Reader",
    "Score",
    "ScoreJob",
    "Source",
    "TrainConfig",
    "Trainable",
    "Translation",
    "frozen",
    "register_dataset",
    "register_evaluator",
    "register_method",
    "register_suite",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bench' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)
