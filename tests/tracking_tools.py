"""What tests of tracking share: no account, no server, and a look at what wandb wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.tracking import files

#: How picture files begin.
SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff\xe0", b"GIF89a")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test knows an account, or can reach a server."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def logged(runs: Path) -> dict[str, files.Logged]:
    """Name -> what all logs of the W&B run hold."""
    found = [files.read([path]) for path in files.waiting(runs / "wandb")]
    return {one.name: files.read(files.logs_of(runs / "wandb", one.run_id)) for one in found}


def blobs(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def pictures(place: Path) -> list[Path]:
    """Files that are pictures, or hold one."""
    return [p for p, data in blobs(place).items() if any(s in data for s in SIGNATURES) or p.suffix in (".png", ".jpg")]
