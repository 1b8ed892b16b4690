"""Run records: one small JSON file per (method, test set, seed, evaluator). Leaderboards are a function of these alone."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.contracts import Metric, Score
from bench.errors import BenchError, UsageError
from bench.files import digest, finite, read_json, replace_atomically, write_json

SCHEMA = 1
_PACKAGES = (
    "cxr-bench",
    "torch",
    "torchvision",
    "mmengine",
    "torch-fidelity",
    "torchmetrics",
    "timm",
    "numpy",
    "scipy",
    "pydicom",
)


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of every package that can move a number."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def code_revision() -> dict[str, Any]:
    """Revision and dirty flag of this package's own checkout, or a hash of its sources when it is not one."""
    root = Path(__file__).resolve().parent.parent
    sources = sorted(p for d in ("bench", "methods", "evaluators") for p in (root / d).rglob("*.py"))
    content = digest([[str(p.relative_to(root)), p.read_text(encoding="utf-8")] for p in sources])
    try:
        git = ["git", "-C", str(root)]
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True)
        if Path(top.stdout.strip()).resolve() != root:
            raise OSError("installed inside another repository")
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        return {"revision": revision, "dirty": bool(status.strip()), "sources": content}
    except (OSError, subprocess.CalledProcessError):
        return {"revision": None, "dirty": None, "sources": content}


def device_report(device: Any) -> dict[str, Any]:
    """What computed: device name, driver and determinism flags."""
    import torch

    report: dict[str, Any] = {
        "type": device.type,
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
    if device.type == "cuda":
        report |= {
            "name": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    else:
        report["name"] = platform.processor() or platform.machine()
    return report


def command_line() -> str:
    """The command as a user would type it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["bench" if name in ("__main__.py", "bench") else name, *sys.argv[1:]])


def now() -> str:
    """UTC time, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def score_fields(scores: dict[str, Score]) -> dict[str, Any]:
    """Scores as JSON-able values; what is not finite becomes null."""
    return {
        key: {
            "value": finite(s.value), "std": finite(s.std), "std_over": s.std_over, "n": s.n, "note": s.note,
            "ci": [finite(v) for v in s.ci] if s.ci else None,
        }
        for key, s in scores.items()
    }  # fmt: skip


def metric_fields(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """Metrics as JSON-able values, in table order."""
    return [
        {"key": m.key, "label": m.label, "better": m.better, "unit": m.unit, "digits": m.digits, "primary": m.primary}
        for m in metrics
    ]  # fmt: skip


def write_per_image(path: Path, scores: dict[str, Score]) -> str | None:
    """Write per-image values as CSV (rows: images, columns: metrics). Returns the file's name, or None without any."""
    columns = {key: s.per_image for key, s in scores.items() if s.per_image}
    if not columns:
        return None
    import pandas as pd

    table = pd.DataFrame({key: pd.Series(dict(values)) for key, values in columns.items()}).sort_index()
    replace_atomically(path, lambda temporary: table.to_csv(temporary, index_label="image_id"))
    return path.name


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record atomically; its presence means that the score is done."""
    write_json(path, {"schema": SCHEMA, **record})


def load(folders: Iterable[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """All records below some folders, sorted by path.

    Returns:
        The records, and one warning for each file that is no record (named).
    """
    records, warnings = [], []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} does not exist. Give a results folder made by `bench run` (default: runs).")
        for path in sorted(folder.rglob("records/*.json")):
            try:
                record = read_json(path)
            except BenchError as error:
                warnings.append(str(error))
                continue
            if not isinstance(record, dict) or record.get("schema") != SCHEMA:
                warnings.append(f"{path}: not a record of schema {SCHEMA}; left out.")
                continue
            records.append(record)
    return records, warnings
