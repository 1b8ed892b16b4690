"""Hand-made records of methods that are compared on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from leaderboard_tools import metric, record, score

from bench import records
from bench.contracts import Score
from bench.records import LOCAL, Local
from leaderboards.compare import Comparisons, compare
from leaderboards.marks import Ranking
from leaderboards.tables import tables

ERROR = metric("error", "Error", "lower", 2, primary=True)
#: Two images a patient, and a patient with one.
IMAGES = [f"i{k:02d}" for k in range(39)]
PATIENTS = {image: f"p{k // 2:02d}" for k, image in enumerate(IMAGES)}


def scored(
    method: str, values: Mapping[str, float], patients: Mapping[str, str] = PATIENTS, metrics: Any = (ERROR,), **changes: Any
) -> dict[str, Any]:
    """A record of `values` by image, whose score is their mean."""
    mean = float(np.mean(list(values.values())))
    key = metrics[0]["key"]
    made = record(method, "quality", metrics=list(metrics), scores={key: score(mean, n=len(values))})
    return {**made, LOCAL: Local("", {key: dict(values)}, dict(patients)), **changes}


def noisy(seed: int, shift: float = 0.0, spread: float = 0.1) -> dict[str, float]:
    """Values that are alike for all seeds but for `spread`, moved by `shift`."""
    base, own = np.random.default_rng(99).normal(1, 1, len(IMAGES)), np.random.default_rng(seed).normal(0, spread, len(IMAGES))
    return dict(zip(IMAGES, (base + own + shift).tolist(), strict=True))


def compared(rows: list[dict[str, Any]]) -> Comparisons:
    (table,) = tables(rows)
    return compare(table)


def marked(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Method -> mark of the error."""
    (table,) = tables(rows)
    column = next(c for c in table.columns if c.key == "error")
    return dict(zip((row.label for row in table.rows), Ranking(table.rows).of(column).marks, strict=True))


def by_patient(values: Mapping[str, float]) -> np.ndarray:
    """Means by patient, computed here."""
    return np.array([np.mean([v for i, v in values.items() if PATIENTS[i] == p]) for p in sorted(set(PATIENTS.values()))])


def write_run(root: Path, method: str, values: Mapping[str, float], patients: Mapping[str, str] | None = PATIENTS) -> Path:
    """A run's record and its values by image, written as a run writes them."""
    path = root / method / "rsna" / "seed0-1a2b3c4d" / "records" / "rsna--quality-12345678.json"
    scores = {"error": Score(float(np.mean(list(values.values()))), len(values), per_image=values)}
    name = records.write_per_image(path.with_suffix(".csv"), scores, patients)
    made = record(method, "quality", metrics=[ERROR], scores=records.score_fields(scores))
    records.write(path, {**made, "per_image": name, "figures": ["scores/x/box.png"]})
    return path
