"""What W&B has written below RUNS/wandb, read back: which steps and values a run holds already, and what waits to be uploaded.

wandb keeps everything that it was given in ``run-ID.wandb`` files, one a process: a log of protobuf records in LevelDB's log
format (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind a header of seven bytes.
"""

from __future__ import annotations

import json
import shlex
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import UsageError

#: Blocks of a log, the file's own header and that of a piece of a record.
_BLOCK, _MAGIC, _HEAD = 32768, b":W&B", struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class Logged:
    """What one or several log files of a W&B run hold.

    Attributes:
        run_id, name, group, job: as `wandb.init` got them.
        rows: step and values of every logged row, in order.
        summary: the latest value of every key.
        config: key -> value.
        ended: whether the last file was closed by its process (and not by a kill).
    """

    run_id: str = ""
    name: str = ""
    group: str = ""
    job: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    ended: bool = False

    @property
    def last_step(self) -> int:
        """The last step that values were logged for; -1 where there are none."""
        return max((int(row["_step"]) for row in self.rows if "_step" in row), default=-1)

    @property
    def stages(self) -> dict[str, int]:
        """Stage -> its last step that values were logged for."""
        found: dict[str, int] = {}
        for row in self.rows:
            for key, step in row.items():
                if key.endswith("/step"):
                    found[key.removesuffix("/step")] = max(int(step), found.get(key.removesuffix("/step"), -1))
        return found


def pieces(path: Path) -> Iterator[bytes]:
    """The records of a log file; what a kill cut short at its end is left out."""
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        return
    at, parts = len(_MAGIC) + 3, b""
    while at + _HEAD.size <= len(data):
        if _BLOCK - at % _BLOCK < _HEAD.size:  # no room for another header: the block ends with zeros
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or at + length > len(data):
            return
        parts = (parts if kind in (_MIDDLE, _LAST) else b"") + data[at : at + length]
        at += length
        if kind in (_FULL, _LAST):
            yield parts


def read(paths: Iterable[Path]) -> Logged:
    """Everything that the log files of one run hold, in the order given."""
    from wandb.proto import wandb_internal_pb2  # wandb is loaded for those alone who use it

    found = Logged()
    for path in paths:
        found.ended = False
        for piece in pieces(path):
            record = wandb_internal_pb2.Record.FromString(piece)  # type: ignore[attr-defined]
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = record.run
                found.run_id, found.name, found.group, found.job = run.run_id, run.display_name, run.run_group, run.job_type
                found.config |= _values(run.config.update)
            elif kind == "config":
                found.config |= _values(record.config.update)
            elif kind == "history":
                row = _values(record.history.item)
                found.rows.append({"_step": record.history.step.num, **row})
                found.summary |= row
            elif kind == "summary":
                found.summary |= _values(record.summary.update)
            found.ended = found.ended or kind == "exit"
    return found


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """Key (parts of a nested one joined by ``.``) -> value."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items if item.value_json}


def logs_of(home: Path, run_id: str) -> list[Path]:
    """Log files of a run below RUNS/wandb, the oldest first: folders are named by the time they were made."""
    return sorted(home.glob(f"*run-*-{run_id}/run-{run_id}.wandb"), key=lambda path: path.parent.name.split("run-", 1)[1])


def wait_for_a_second_of_its_own(home: Path, run_id: str) -> None:
    """W&B names a run's folder after the second: a part begun in that of the part before would overwrite it."""
    while any(home.glob(f"*run-{time.strftime('%Y%m%d_%H%M%S')}-{run_id}")):
        time.sleep(0.05)


def waiting(home: Path) -> list[Path]:
    """Log files of offline runs, the oldest first."""
    return sorted(home.glob("offline-run-*/run-*.wandb"))


def uploaded(log: Path) -> bool:
    """Whether ``wandb sync`` says that it has uploaded a log file: it leaves a mark beside it."""
    return log.with_name(f"{log.name}.synced").exists()


def explain(runs: Path) -> list[str]:
    """What offline runs a results folder holds, what uploading them would send, and the command that does it.

    Nothing is uploaded. A training that was interrupted has a folder for each part: wandb (0.31) cannot append to an offline
    folder, but the parts carry the same run id, and ``wandb sync`` sends parts of one run one after the other in the order
    they were made, so they end up in one W&B run. Steps that an earlier part holds are not in a later one.

    Raises:
        UsageError: there is no such folder.
    """
    if not runs.is_dir():
        raise UsageError(f"{runs} is no folder. Name a results folder: bench wandb sync RUNS.")
    home = runs / "wandb"
    logs = waiting(home)
    if not logs:
        return [f"{home}: no offline runs. Make some: bench run --wandb offline ..."]
    lines = [f"{home}: {len(logs)} offline run folders", ""]
    lines += [_line(log) for log in logs]
    todo = [log.parent for log in logs if not uploaded(log)]
    if not todo:
        return [*lines, "", "All are uploaded; `wandb clean` removes what is uploaded from this disk."]
    pictures = sum(_pictures(folder) for folder in todo)
    sent = "losses, learning rates, scores, tables, configuration, versions, code revision and data fingerprints"
    return [
        *lines, "",
        f"What is sent: {sent}; " + (f"{pictures} pictures of open data." if pictures else "no pictures."),
        "What is not: images of restricted datasets, image and patient names, source code, console output, host and user names,",
        "folders of this machine, system figures.",
        "",
        "To upload (needs an account: `wandb login` or WANDB_API_KEY), on this machine and before the folder is moved:",
        f"  wandb sync {' '.join(shlex.quote(str(folder)) for folder in todo)}",
        "Parts of an interrupted training have the same id; they are joined to one run. --entity and --project choose where to.",
    ]  # fmt: skip


def _line(log: Path) -> str:
    folder = log.parent
    found = read([log])
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    state = "uploaded" if uploaded(log) else "waits" if found.ended else "waits (still running or broken off)"
    values = sum(isinstance(v, (int, float)) and "/" in k for k, v in found.summary.items())
    holds = f"{len(found.rows)} rows, {values} values, {_pictures(folder)} pictures"
    return f"  {folder.name}  {found.name}  {size / 1e6:.1f} MB  {state}  ({holds})"


def _pictures(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / "files" / "media" / "images").rglob("*"))
