"""What the tests of masks and boxes share."""

from __future__ import annotations

from pathlib import Path

from bench.data.load import Dataset, DataSource, open_datasets

LABELS = "stage_2_train_labels.csv"


def opened(tmp_path: Path, name: str, root: Path | None, **options: object) -> Dataset:
    """A dataset whose every image is a test image."""
    return open_datasets([DataSource(name, root, dict(options))], 0, (0, 0, 1), tmp_path / "cache")[0]
