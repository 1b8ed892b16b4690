"""What W&B gets out of records and tables: plain values under stable names."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import finite
from bench.tracking.gate import OPEN, bare

if TYPE_CHECKING:
    import pandas as pd


def command() -> str:
    """The command as it was typed, without folders."""
    return " ".join(["bench", *(shlex.quote(str(bare(word))) for word in sys.argv[1:])])


#: What stands for words of a record that stay here.
WITHHELD = "told in the record, which stays on its machine"


def wordless(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what was said of images: notes, doubts, warnings and errors, unless all its data are open.

    A doubtful score stays one, and a failed record says that it failed.
    """
    if {record.get("policy"), record.get("train_policy")} <= OPEN:
        return dict(record)
    scores = {
        key: {**score, "note": "", "doubt": WITHHELD if score.get("doubt") else score.get("doubt")}
        for key, score in record["scores"].items()
    }
    return {**record, "scores": scores, "warnings": [], "error": WITHHELD if record.get("error") else record.get("error")}


def score_values(record: Mapping[str, Any], cell: str) -> dict[str, Any]:
    """What is logged of a record: ``CELL/metric``, with ``/std``, ``/ci_low``, ``/ci_high``, ``/n`` and ``/doubt`` where known.

    A failed score is logged as such, without its message, which may name images.
    """
    record = wordless(record)
    values: dict[str, Any] = {f"{cell}/status": record["status"], f"{cell}/key": record["key"]}
    values |= {f"{cell}/{k}": record[k] for k in ("dataset_fingerprint", "reference_fingerprint", "evaluator_version")}
    for metric, score in record["scores"].items():
        low, high = score.get("ci") or (None, None)
        parts = {"": score["value"], "/std": score.get("std"), "/ci_low": low, "/ci_high": high, "/n": score.get("n")}
        values |= {f"{cell}/{metric}{end}": value for end, value in parts.items() if value is not None}
        if score.get("doubt"):
            values[f"{cell}/{metric}/doubt"] = bare(score["doubt"])
    return values


def flat(frame: pd.DataFrame) -> tuple[list[str | int], list[Iterable[Any]]]:
    """Columns and rows of a table with its index in front; heads of several levels are joined by `` / ``; NaN is None."""
    named = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    heads = [" / ".join(str(p) for p in c if str(p)) if isinstance(c, tuple) else str(c) for c in named.columns]
    columns: list[str | int] = [f"{h} ({heads[: i + 1].count(h)})" if h in heads[:i] else h for i, h in enumerate(heads)]
    return columns, [[_cell(value) for value in row] for row in named.itertuples(index=False, name=None)]


def _cell(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return finite(value)
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def sha256(path: Path) -> str:
    """Hash of a file, as wandb gives it for pictures."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
