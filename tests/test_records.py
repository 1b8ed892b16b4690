"""Records as they come from the disk: an odd one is named and left out, and costs nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench

from bench import records
from leaderboards import render

Toy = tuple[str, ...]
Change = Callable[[dict[str, Any]], Any]


def at(where: str, value: Any) -> Change:
    """A change of one value, named by dots."""

    def change(record: dict[str, Any]) -> dict[str, Any]:
        *parents, last = where.split(".")
        inner: Any = record
        for name in parents:
            inner = inner[int(name)] if isinstance(inner, list) else inner[name]
        inner[last] = value
        return record

    return change


def without(name: str) -> Change:
    """A change that removes a key."""
    return lambda record: {k: v for k, v in record.items() if k != name}


ODD: dict[str, Change] = {
    "a list": lambda record: [record],
    "null": lambda record: None,
    "another schema": at("schema", 99),
    **{f"no {name}": without(name) for name in ("method", "evaluator", "metrics", "scores", "params", "status", "dataset")},
    "method is a number": at("method", 3),
    "method of two lines": at("method", "a\n| b"),
    "scores is a list": at("scores", []),
    "a score is a number": at("scores.change", 0.5),
    "a score without n": at("scores.change", {"value": 0.5}),
    "value is a text": at("scores.change.value", "0.5"),
    "value is true": at("scores.change.value", True),
    "value is NaN": at("scores.change.value", float("nan")),
    "value is Infinity": at("scores.change.value", float("-inf")),
    "value is endless": at("scores.change.value", 10**400),
    "std is a list": at("scores.change.std", [1]),
    "ci of one number": at("scores.change.ci", [0.1]),
    "ci of texts": at("scores.change.ci", ["a", "b"]),
    "metrics of texts": at("metrics", ["change"]),
    "a metric without label": at("metrics", [{"key": "change", "better": "lower"}]),
    "a million digits": at("metrics.0.digits", 10**6),
    "digits is a text": at("metrics.0.digits", "3"),
    "cost is a list": at("cost", [1]),
    "images seen is a text": at("cost.images_seen", "12"),
    "prior is a text": at("prior", "p1"),
    "prior findings are numbers": at("prior", {"id": "p", "findings": [1]}),
    "warnings of numbers": at("warnings", [1]),
    "status unknown": at("status", "perhaps"),
    "half a character": at("error", "\ud800"),
    "split_by is a number": at("split_by", 1),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A record as a run writes it, of this module's own making."""
    from test_leaderboard import fidelity

    made = fidelity("odd", 0.1, 1.0)
    metric = {"key": "change", "label": "Change", "better": "lower", "unit": "", "digits": 3, "primary": True}
    entry = {"value": 0.5, "std": 0.1, "std_over": "images", "ci": [0.4, 0.6], "n": 7, "note": ""}
    return {**made, "metrics": [metric], "scores": {"change": entry}, "warnings": ["careful"], "split_by": "patient"}


def place(root: Path, content: str, name: str = "odd") -> Path:
    path = root / name / "rsna" / "seed0-1a2b3c4d" / "records" / "rsna--fidelity-12345678.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("case", ODD)
def test_an_odd_record_is_named_and_left_out(tmp_path: Path, good: dict[str, Any], case: str) -> None:
    fine = place(tmp_path, json.dumps({**good, "method": "fine"}), "fine")
    odd = place(tmp_path, json.dumps(ODD[case](json.loads(json.dumps(good)))))
    found, warnings = records.load([tmp_path])
    assert [record["method"] for record in found] == ["fine"] and fine.is_file()
    assert len(warnings) == 1 and warnings[0].startswith(f"{odd} is left out of the leaderboard: ")
    assert len(warnings[0].splitlines()) == 1
    assert "fine" in render.leaderboard(found) and "fine" in render.short(found)


@pytest.mark.parametrize("content", ["", "{", "\x00", '{"a": 1e999}', "[" * 100_000, '{"schema": 1, "schema": NaN}'])
def test_what_is_no_json_is_named_and_left_out(tmp_path: Path, content: str) -> None:
    odd = place(tmp_path, content)
    assert records.load([tmp_path]) == ([], [f"{odd} is left out of the leaderboard: not valid JSON. Delete it and score again."])


def test_a_good_record_is_read(tmp_path: Path, good: dict[str, Any]) -> None:
    place(tmp_path, json.dumps(good))
    assert records.load([tmp_path]) == ([good], [])
    (tmp_path / "x" / "y" / "z" / "records" / "folder.json").mkdir(parents=True)
    assert len(records.load([tmp_path])[1]) == 1


def test_only_run_folders_are_searched(tmp_path: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Translated images and caches are many files; a results folder inside of another one is another one's."""
    path = place(tmp_path, json.dumps(good))
    images = path.parents[1] / "translated" / "rsna-1a2b3c4d" / "images"
    images.mkdir(parents=True)
    place(tmp_path / "demo", json.dumps(good))
    assert records.load([tmp_path])[0] == [good]
    for part in (path.parents[3], path.parents[2], path.parents[1]):
        assert records.load([part]) == ([good], [])
    assert records.load([tmp_path, path.parents[1]])[0] == [good], "named twice, read once"
    listed: list[Path] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda where=".": (listed.append(Path(where)), real(where))[1])
    monkeypatch.setattr(os, "listdir", lambda where=".", real=os.listdir: (listed.append(Path(where)), real(where))[1])
    records.load([tmp_path])
    assert images not in listed


def test_one_odd_record_does_not_stop_a_run(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    assert bench("run", *toy).code == 0
    odd = place(tmp_path / "runs", '{"schema": 1, "method": "x", "scores": {"a": 1}}')
    answer = bench("run", *toy)
    assert answer.code == 0 and f"warning: {odd} is left out" in answer.err and "toy" in answer.out
    board = bench("leaderboard", tmp_path / "runs")
    assert board.code == 0 and f"warning: {odd} is left out" in board.err and "| toy" in board.out


def test_configurations_stand_side_by_side(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    """Two evaluator parameters, two trainings, two sizes: no record replaces another, no table mixes them."""
    sets = ([], ["evaluators.toy-score.factor=2"], ["methods.toy.lr=0.02"], ["data.size=48"])
    for more in sets:
        assert bench("run", *toy, *[w for s in more for w in ("--set", s)]).code == 0
    found, warnings = records.load([tmp_path / "runs"])
    assert not warnings and len([r for r in found if r["method"] == "toy"]) == 4
    text = bench("leaderboard", tmp_path / "runs").out
    parts = text.split("\n## ")[1:]
    assert len(parts) == 3 and all(part.count("| original ") == 1 for part in parts)
    assert sorted(part.count("| toy") for part in parts) == [1, 1, 2]
    assert len({part.splitlines()[0] for part in parts}) == 3
    assert "32 px" in text and "48 px" in text and "factor=2.0" in text
    assert len(list((tmp_path / "runs" / "toy").glob("*/*"))) == 3
