"""The README's own method runs, word for word."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import ROOT, TINY, Bench, forget_imports, records


def test_the_readme_method_runs(bench: Bench, tmp_path: Path, cache: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 60
    mine = tmp_path / "mine.py"
    mine.write_text(code)
    flags = TINY[2:]
    try:
        assert bench("check", "--method", "mine", "--import", mine).code == 0
        done = bench(
            "run", "--method", "mine", "--import", mine, "--suite", "faithfulness", *flags,
            "--runs", tmp_path / "runs", "--cache", cache,
        )
        assert done.code == 0, done.err
    finally:
        forget_imports()
    record = records(tmp_path / "runs")["mine/synthetic--faithfulness"]
    assert record["status"] == "ok" and record["method"] == "mine"
    assert record["scores"]["mae_in_change"]["value"] is not None
