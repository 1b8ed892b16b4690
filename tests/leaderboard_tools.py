"""Hand-made records for the leaderboard, and the cells of what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import records

METRICS = {
    "fidelity": [
        {"key": "kid", "label": "KID", "better": "lower", "unit": "", "digits": 3, "primary": True},
        {"key": "fid", "label": "FID", "better": "lower", "unit": "", "digits": 1, "primary": True},
    ],
    "faithfulness": [{"key": "psnr", "label": "PSNR", "better": "higher", "unit": "dB", "digits": 1, "primary": False}],
    "counts": [{"key": "boxes", "label": "Boxes", "better": "none", "unit": "", "digits": 0, "primary": False}],
}


def score(value: float | None, **rest: Any) -> dict[str, Any]:
    return {"value": value, "std": None, "std_over": "", "ci": None, "n": 50, "note": "", **rest}


def record(method: str, evaluator: str = "fidelity", **changes: Any) -> dict[str, Any]:
    base = {
        "schema": 1, "method": method, "method_version": 1, "config_fingerprint": f"cfg-{method}",
        "train_dataset": "" if method == "original" else "rsna", "dataset": "rsna",
        "dataset_fingerprint": "0123456789abcdef", "reference": "clear",
        "split": "test", "seed": 0, "preset": "paper", "evaluator": evaluator,
        "params": {"extractor": "inception"} if evaluator == "fidelity" else {}, "metrics": METRICS.get(evaluator, []),
        "scores": {}, "n_translated": 50, "n_reference": 60, "status": "ok", "error": None,
        "cost": {"iterations": None, "images_seen": None, "seconds": None, "parameters": None}, "prior": None,
    }  # fmt: skip
    return {**base, **changes}


def fidelity(method: str, kid: float, fid: float, **changes: Any) -> dict[str, Any]:
    note = "subset size 25, half of the smaller set (configured: 1000)"
    scores = {
        "kid": score(kid, std=0.004, std_over="subsets", note=note),
        "fid": score(fid, ci=[fid - 2, fid + 2.04]),
    }
    return record(method, **{"scores": scores, **changes})


def metric(key: str, label: str, better: str = "higher", digits: int = 3, **rest: Any) -> dict[str, Any]:
    return {"key": key, "label": label, "better": better, "unit": "", "digits": digits, "primary": False, **rest}


def block(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without the heading's own line of dashes."""
    (found,) = [part for part in text.split("\n### ")[1:] if part.startswith(f"{heading}\n")]
    lines = [line for line in found.splitlines() if line.startswith("|") and not line.startswith("|:")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def write(root: Path, found: list[dict[str, Any]]) -> Path:
    for k, made in enumerate(found):
        records.write(root / made["method"] / "rsna" / "seed0-1a2b3c4d" / "records" / f"rsna--{made['evaluator']}-{k:08d}.json", made)
    return root
