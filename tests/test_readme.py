"""The README's own method and evaluator run, word for word."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import ROOT, TINY, Bench, forget_imports, records


def blocks() -> dict[str, str]:
    """What each Python block of the README registers -> its code."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        [(kind, name)] = re.findall(r'@register_(\w+)\("([\w-]+)"\)', code)
        found[f"{kind} {name}"] = code
    return found


def test_the_blocks_of_the_readme() -> None:
    assert list(blocks()) == ["method mine", "evaluator judge"], "each has a test here"


def test_lines_fit_a_screen() -> None:
    assert not [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if len(line) > 130]


def test_the_readme_method_runs(bench: Bench, tmp_path: Path, cache: Path) -> None:
    code = blocks()["method mine"]
    assert f"`mine.py`, is complete with its {len(code.splitlines())} lines:" in (ROOT / "README.md").read_text(encoding="utf-8")
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


def test_the_readme_evaluator_runs(bench: Bench, tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text(blocks()["evaluator judge"])
    words = [*TINY, "--import", judge, "--suite", "judge", "--set", "evaluators.judge.iterations=3", "--runs", tmp_path / "runs"]
    done = bench("run", "--method", "toy", *words)
    assert done.code == 0, done.err
    assert done.out.count("fit       judge for synthetic") == 1
    found = records(tmp_path / "runs")
    assert set(found) == {"original/synthetic--judge", "toy/synthetic--judge"}
    for record in found.values():
        assert record["status"] == "ok" and 0 <= record["scores"]["opaque"]["value"] <= 100
        assert [model["name"] for model in record["models"]] == ["judge"] and record["per_image"]
    weights = {record["models"][0]["weights_id"] for record in found.values()}
    assert len(weights) == 1, "learnt once for all methods"
