"""Run records: one small JSON file per (method, test set, seed, evaluator). Leaderboards are a function of these alone."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.errors import BenchError, UsageError
from bench.files import digest, finite, replace_atomically, write_json
from bench.record_schema import SCHEMA, misfit, problem, upgrade

if TYPE_CHECKING:
    from bench.contracts import Metric, Score

#: Where `load` puts what it finds beside a record (`Local`). Never written; hashes and the order of records leave it out.
LOCAL = "_local"
_PACKAGES = (
    "cxr-bench",
    "torch",
    "torchvision",
    "mmengine",
    "torch-fidelity",
    "torchmetrics",
    "timm",
    "segmentation-models-pytorch",
    "ultralytics",
    "mmagic",
    "mmcv-lite",
    "scikit-learn",
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
            "driver": _driver(),
            "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        }
    else:
        report["name"] = platform.processor() or platform.machine()
    return report


def _driver() -> str | None:
    """Version of NVIDIA's kernel driver, as it tells itself; None where it does not."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[0] if found else None


def command_line() -> str:
    """The command as a user would type it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["bench" if name in ("__main__.py", "bench") else name, *sys.argv[1:]])


def without_folders(command: str) -> str:
    """A command for others to read: of paths from the root or somebody's home the last part is left, ``rsna=/data/rsna`` as
    ``rsna=rsna``; relative ones are kept."""
    try:
        words = shlex.split(command)
    except ValueError:  # quotes that do not close: nobody's shell took that
        words = command.split()
    return shlex.join("".join(_last(piece) for piece in re.split(r"([=,:])", word)) for word in words)


def _last(piece: str) -> str:
    return Path(piece).name or "/" if re.match(r"~|/(?!/)", piece) else piece


def now() -> str:
    """UTC time, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def score_fields(scores: dict[str, Score]) -> dict[str, Any]:
    """Scores as JSON-able values; what is not finite becomes null. Draws, rounded to 8 digits, are there where all are finite."""
    return {
        key: {
            "value": finite(s.value), "std": finite(s.std), "std_over": s.std_over, "n": s.n, "note": s.note,
            "ci": [finite(v) for v in s.ci] if s.ci else None, "doubt": s.doubt,
            **({"draws": [float(f"{v:.8g}") for v in s.draws]} if s.draws and all(map(math.isfinite, s.draws)) else {}),
        }
        for key, s in scores.items()
    }  # fmt: skip


def metric_fields(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """Metrics as JSON-able values, in table order."""
    return [
        {
            "key": m.key, "label": m.label, "better": m.better, "unit": m.unit, "digits": m.digits, "primary": m.primary,
            "part": m.part, "shared": m.shared,
        }
        for m in metrics
    ]  # fmt: skip


def write_per_image(path: Path, scores: dict[str, Score], patients: Mapping[str, str] | None = None) -> str | None:
    """Write per-image values as CSV (rows: images, columns: metrics).

    Args:
        path: the file.
        scores: metric key -> score.
        patients: patient id of every image of the test set; becomes the column ``patient_id``. Methods can only be compared
            where it is there.

    Returns:
        The file's name, or None where no score has per-image values.

    Raises:
        BenchError: a score has a value for an image that `patients` does not know.
    """
    columns = {key: s.per_image for key, s in scores.items() if s.per_image}
    if not columns:
        return None
    import pandas as pd

    table = pd.DataFrame({key: pd.Series(dict(values)) for key, values in columns.items()}).sort_index()
    if patients is not None:
        strange = [str(image) for image in table.index if image not in patients]
        if strange:
            raise BenchError(f"per-image values of {', '.join(columns)} name '{strange[0]}', which is no image of the test set.")
        table.insert(0, "patient_id", [patients[image] for image in table.index])
    replace_atomically(path, lambda temporary: table.to_csv(temporary, index_label="image_id"))
    return path.name


@dataclass(frozen=True)
class Local:
    """What lies beside a record.

    Attributes:
        folder: its run's folder, relative to the results folder it was found in; the record's figures are relative to it.
        values: metric key -> image id -> finite value, of the primary metrics that have values by image.
        patients: image id -> patient id; empty where the values were written without.
        more: as `values`, of the other metrics that have values by image: secondary ones, and those of parts.
        root: that results folder on this machine; what lies there is the same wherever it lies.
    """

    folder: str
    values: Mapping[str, Mapping[str, float]]
    patients: Mapping[str, str]
    root: str = field(default="", compare=False)
    more: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of(self, key: str) -> Mapping[str, float]:
        """The values by image of a metric; empty where there are none."""
        return self.values.get(key) or self.more.get(key, {})


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record atomically; its presence means that the score is done."""
    write_json(path, {"schema": SCHEMA, **record})


def run_folders(folder: Path, holding: str) -> list[Path]:
    """Files that match ``holding`` in the run folders (``method/dataset/run``) of a results folder.

    A method's folder, a dataset's below it or a single run's are understood, too. Nothing deeper is walked: caches and
    translated images hold very many files.
    """
    found = {os.path.realpath(path): path for depth in range(4) for path in folder.glob("*/" * depth + holding)}
    return sorted(found.values())


def run_facts(run: Path) -> dict[str, Any]:
    """The resolved specification of a run, out of its ``config.json``.

    Raises:
        UsageError: the folder is no run.
        BenchError: the file is damaged; the message says how to mend it.
    """
    path = run / "config.json"
    if not path.is_file():
        raise UsageError(f"{run} is not a run: it has no config.json. Runs look like runs/ours/rsna/seed0-1a2b3c4d.")
    facts = parse(path)
    texts = {name: facts.get(name) if isinstance(facts, dict) else None for name in ("method", "origin", "preset")}
    config = facts.get("config") if isinstance(facts, dict) else None
    sections = [config.get(name) if isinstance(config, dict) else None for name in ("data", "train", "methods")]
    if not all(isinstance(t, str) for t in texts.values()) or not all(isinstance(s, dict) for s in sections):
        raise BenchError(
            f"{path} is damaged. Give the command that made this run once more, with --force translate: that writes it anew "
            "without training where the weights are whole."
        )
    return {"train_key": "", **facts}


def run_weights(run: Path) -> Path:
    """The weights file that translation with a finished run uses.

    Raises:
        UsageError: the training did not finish.
        BenchError: ``train.json`` is damaged or names a file that is not there; the message says how to mend it.
    """
    path = run / "train.json"
    if not path.is_file():
        raise UsageError(f"{run} has no train.json: its training did not finish. Run the same `bench run` command again.")
    facts = parse(path)
    name = facts.get("weights") if isinstance(facts, dict) else None
    again = "Delete it and run the same `bench run` command again: training carries on from its last checkpoint."
    if not isinstance(name, str):
        raise BenchError(f"{path} is damaged. {again}")
    weights = run / name
    if not weights.is_file() or not weights.resolve().is_relative_to(run.resolve()):
        raise BenchError(f"{path} names {name}, which is not there. {again}")
    return weights


def parse(path: Path) -> Any:
    """JSON with finite numbers only, or None where the file holds anything else or cannot be read."""
    try:
        return _read(path)
    except (OSError, ValueError, RecursionError):
        return None


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse, parse_float=_finite)


class _NumberError(ValueError):
    """NaN or an infinite number."""


def _refuse(text: str) -> NoReturn:
    raise _NumberError(f"{text[:12]} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def load(folders: Iterable[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """All records of some results folders (or of a single method's or run's), sorted by path.

    Returns:
        The records, each with a `Local` under `LOCAL`, and one warning for each file that is no record, or cannot be read.

    Raises:
        UsageError: a folder does not exist, or is none.
    """
    found: dict[str, tuple[Path, str]] = {}
    for folder in folders:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise UsageError(f"{folder} {what}. Give a results folder made by `bench run` (default: runs).")
        for path in run_folders(folder, "records/*.json"):
            found.setdefault(os.path.realpath(path), (path, path.parents[1].relative_to(folder).as_posix()))
    good, warnings = [], []
    for path, run in sorted(found.values()):
        record, wrong = _checked(path)
        if wrong:
            warnings.append(f"{path} is left out of the leaderboard: {wrong}")
        else:
            try:
                values, more, patients = read_per_image(path.parent, record)
            except (OSError, ValueError, csv.Error) as error:
                values, more, patients = {}, {}, {}
                file = path.parent / Path(record["per_image"]).name
                warnings.append(f"{file} is left out of comparisons: {error}. Score again with --force score.")
            root = path.absolute().parents[1 + len(Path(run).parts)]
            good.append({**record, LOCAL: Local(run, values, patients, str(root), more)})
    return good, warnings


def _checked(path: Path) -> tuple[dict[str, Any], str]:
    """The record of a file, brought to today's schema; or why it is none, with the remedy."""
    again = "Delete it and score again."
    try:
        record = _read(path)
    except OSError as error:
        return {}, f"it cannot be read ({error.strerror}). Make it readable, or delete it and score again."
    except (ValueError, RecursionError) as error:
        return {}, f"not valid JSON{_what_json_lacks(error)}. {again}"
    if wrong := misfit(record):
        return {}, wrong
    record = upgrade(record, lambda: parse(path.parents[1] / "config.json"))
    wrong = problem(record)
    return record, f"{wrong}. {again}" if wrong else ""


def _what_json_lacks(error: Exception) -> str:
    """In brackets, why a text is no JSON; empty where that is of no use."""
    if isinstance(error, _NumberError):
        return f" ({error})"
    if isinstance(error, json.JSONDecodeError):
        return f" ({error.msg[:1].lower()}{error.msg[1:]} in line {error.lineno})" if error.doc.strip() else " (it is empty)"
    return ""


_Columns = dict[str, dict[str, float]]


def read_per_image(folder: Path, record: Mapping[str, Any]) -> tuple[_Columns, _Columns, dict[str, str]]:
    """Values by image of primary and of other metrics, and patients (see `Local`) of a record in `folder`; empty where it has none.

    Raises:
        OSError: the file cannot be read.
        ValueError, csv.Error: it is damaged, or only half of it was written.
    """
    wanted = {m["key"]: m for m in record["metrics"] if record["scores"].get(m["key"], {}).get("value") is not None}
    if not record.get("per_image") or not wanted:
        return {}, {}, {}
    rows = _rows(folder / Path(record["per_image"]).name)
    numbers = {key: {row["image_id"]: float(row[key]) for row in rows if row[key]} for key in wanted if key in rows[0]}
    for key, column in numbers.items():
        n = record["scores"][key]["n"]
        if len(column) < n:
            raise ValueError(f"it has {len(column)} values of {key}, and the score is of {n}")
    values = {key: {i: v for i, v in column.items() if math.isfinite(v)} for key, column in numbers.items()}
    headline = [key for key, m in wanted.items() if m.get("primary") and not m.get("part") and not m.get("shared")]
    return (
        {key: values[key] for key in headline if key in values},
        {key: column for key, column in values.items() if key not in headline},
        {row["image_id"]: row["patient_id"] for row in rows if row.get("patient_id")},
    )


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file of values by image."""
    with path.open(newline="", encoding="utf-8") as stream:
        text = stream.read()
    found: list[dict[str, Any]] = list(csv.DictReader(text.splitlines(keepends=True)))
    if not found or "image_id" not in found[0]:
        raise ValueError("it has no rows with an image_id")
    if not text.endswith("\n") or any(None in row or None in row.values() for row in found):  # csv's mark of longer, shorter rows
        raise ValueError("it ends, or a row of it does, before all columns are there")
    ids = [row["image_id"] for row in found]
    if len(set(ids)) < len(ids):
        raise ValueError("an image has two rows")
    return found
