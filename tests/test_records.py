"""Records as they come from the disk: an odd one is named and left out, and costs nothing else."""

from __future__ import annotations

import functools
import json
import math
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench

from bench import records
from bench.errors import BenchError
from bench.records import LOCAL, Local
from bench.scoring import Metric, Score
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
    "draws is a number": at("scores.change.draws", 1.5),
    "draws of nothing": at("scores.change.draws", [0.1, None]),
    "metrics of texts": at("metrics", ["change"]),
    "a metric without label": at("metrics", [{"key": "change", "better": "lower"}]),
    "a million digits": at("metrics.0.digits", 10**6),
    "digits is a text": at("metrics.0.digits", "3"),
    "cost is a list": at("cost", [1]),
    "images seen is a text": at("cost.images_seen", "12"),
    "prior is a text": at("prior", "p1"),
    "prior findings are numbers": at("prior", {"id": "p", "findings": [1]}),
    "prior datasets are numbers": at("prior", {"id": "p", "datasets": [1]}),
    "warnings of numbers": at("warnings", [1]),
    "status unknown": at("status", "perhaps"),
    "half a character": at("error", "\ud800"),
    "split_by is a number": at("split_by", 1),
    "part is a number": at("metrics.0.part", 1),
    "part of two lines": at("metrics.0.part", "a\n| b"),
    "shared is a text": at("metrics.0.shared", "yes"),
    "doubt is a number": at("scores.change.doubt", 1),
    "per_image is a list": at("per_image", []),
    "models is an object": at("models", {"name": "x"}),
    "a model is a text": at("models", ["x"]),
    "a model without name": at("models", [{"weights_id": "1"}]),
    "a model's weights are a number": at("models", [{"name": "x", "weights_id": 1}]),
    "figures of numbers": at("figures", [1]),
    "a schema of true": at("schema", True),
    "a schema of text": at("schema", "2"),
    "schema 0": at("schema", 0),
    "a schema of many digits": at("schema", 10**400),
    "method_config is a list": at("method_config", []),
    "method_config of two lines": at("method_config", {"style": {"of": ["a\n| b"]}}),
    "method_config with a key of two lines": at("method_config", {"a\n": 1}),
    "method_config with half a character": at("method_config", {"style": "\ud800"}),
    "images seen are endless": at("cost.images_seen", 10**400),
    "images seen are more than there are": at("cost.images_seen", 2**63),
    "n is endless": at("scores.change.n", 10**400),
    "a seed of many digits": at("seed", -(10**400)),
    "a value whose square is infinite": at("scores.change.value", 1e200),
    "an endless number where nobody looks": at("extra", {"a": [10**400]}),
    "ci of truth": at("scores.change.ci", [True, False]),
    "policy is a list": at("policy", ["open"]),
    "nested beyond writing": at("extra", functools.reduce(lambda inner, _: [inner], range(900), [])),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A record as a run writes it, of this module's own making."""
    from leaderboard_tools import fidelity

    made = fidelity("odd", 0.1, 1.0)
    metric = {"key": "change", "label": "Change", "better": "lower", "unit": "", "digits": 3, "primary": True}
    entry = {"value": 0.5, "std": 0.1, "std_over": "images", "ci": [0.4, 0.6], "n": 7, "note": ""}
    made |= {"schema": records.SCHEMA, "method_config": {"lca": True}}
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


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", " (it is empty)"), ("{", " (expecting property name enclosed in double quotes in line 1)"),
        ('{\n "method": "ou', " (unterminated string starting at in line 2)"), ("\x00", " (expecting value in line 1)"),
        ('{"a": 1e999}', " (1e999 is no number of JSON)"), ('{"schema": 1, "schema": NaN}', " (NaN is no number of JSON)"),
        ('{"a": -Infinity}', " (-Infinity is no number of JSON)"), ("[" * 100_000, ""), ('{"a": ' + "9" * 5000 + "}", ""),
    ],
)  # fmt: skip
def test_what_is_no_json_is_named_and_left_out(tmp_path: Path, content: str, why: str) -> None:
    odd = place(tmp_path, content)
    line = f"{odd} is left out of the leaderboard: not valid JSON{why}. Delete it and score again."
    assert records.load([tmp_path]) == ([], [line])


def loaded(*folders: Path) -> list[dict[str, Any]]:
    """Records without what lies beside them; there are no warnings."""
    found, warnings = records.load(folders)
    assert not warnings
    return [{k: v for k, v in record.items() if k != LOCAL} for record in found]


def test_a_good_record_is_read(tmp_path: Path, good: dict[str, Any]) -> None:
    place(tmp_path, json.dumps(good))
    assert loaded(tmp_path) == [good]
    (tmp_path / "x" / "y" / "z" / "records" / "folder.json").mkdir(parents=True)
    assert len(records.load([tmp_path])[1]) == 1


def test_only_run_folders_are_searched(tmp_path: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Translated images and caches are many files; a results folder inside of another one is another one's."""
    path = place(tmp_path, json.dumps(good))
    images = path.parents[1] / "translated" / "rsna-1a2b3c4d" / "images"
    images.mkdir(parents=True)
    place(tmp_path / "demo", json.dumps(good))
    assert loaded(tmp_path) == [good]
    for part in (path.parents[3], path.parents[2], path.parents[1]):
        assert loaded(part) == [good]
    assert loaded(tmp_path, path.parents[1]) == [good], "named twice, read once"
    folders = [records.load([part])[0][0][LOCAL].folder for part in (tmp_path, path.parents[2], path.parents[1])]
    assert folders == ["odd/rsna/seed0-1a2b3c4d", "seed0-1a2b3c4d", "."]
    listed: list[Path] = []
    real = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda where=".": (listed.append(Path(where)), real(where))[1])
        patch.setattr(os, "listdir", lambda where=".", real=os.listdir: (listed.append(Path(where)), real(where))[1])
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
    parts = [part.split("### Comparisons")[0] for part in text.split("\n## ")[1:]]
    assert len(parts) == 3 and all(part.count("| original ") == 1 for part in parts)
    assert sorted(part.count("| toy") for part in parts) == [1, 1, 2]
    assert len({part.splitlines()[0] for part in parts}) == 3
    assert "32 px" in text and "48 px" in text and "factor=2.0" in text
    assert len(list((tmp_path / "runs" / "toy").glob("*/*"))) == 3


# -- parts, doubts, values by image -----------------------------------------------------------------------------------------


def test_fields_of_metrics_and_scores_come_through(tmp_path: Path, good: dict[str, Any]) -> None:
    metrics = records.metric_fields([Metric("m", "mIoU", "higher", part="U-Net", shared=True), Metric("d", "Dice", "higher")])
    assert [(m["part"], m["shared"]) for m in metrics] == [("U-Net", True), ("", False)]
    scores = records.score_fields({"m": Score(0.5, 3, doubt="few\nimages"), "d": Score(0.5, 3)})
    assert [s["doubt"] for s in scores.values()] == ["few\nimages", ""]
    models = [{"name": "unet", "key": "1", "weights_id": ["2", "3"], "losses": {"dice": [0.1]}, "learnt_from": [{"x": 3}]}]
    written = {**good, "metrics": metrics, "scores": scores, "models": models, "figures": ["scores/a/b.png"]}
    place(tmp_path, json.dumps(written))
    assert loaded(tmp_path) == [written]


def test_draws_are_written_in_eight_digits_or_not_at_all(tmp_path: Path, good: dict[str, Any]) -> None:
    drawn = {"a": (0.123456789123, 12345.67891234), "b": None, "c": [1.0, math.nan]}
    fields = records.score_fields({key: Score(1.0, 3, draws=draws) for key, draws in drawn.items()})
    assert fields["a"]["draws"] == [0.12345679, 12345.679]
    assert "draws" not in fields["b"] and "draws" not in fields["c"]
    written = {**good, "scores": {"change": {**good["scores"]["change"], "draws": fields["a"]["draws"]}}}
    place(tmp_path, json.dumps(written))
    assert loaded(tmp_path) == [written]


@pytest.mark.parametrize("p", [1e-30, 5e-324, 3.1405709422283174e-05])
def test_small_p_values_keep_all_digits(tmp_path: Path, p: float) -> None:
    records.write(tmp_path / "a.json", {"scores": records.score_fields({"p": Score(p, 3)})})
    assert json.loads((tmp_path / "a.json").read_text())["scores"]["p"]["value"] == p


def test_records_without_the_newer_fields_are_read(tmp_path: Path, good: dict[str, Any]) -> None:
    assert not {"models", "figures", "per_image"} & set(good) and "doubt" not in good["scores"]["change"]
    place(tmp_path, json.dumps(good))
    (found,), _ = records.load([tmp_path])
    assert found[LOCAL] == Local("odd/rsna/seed0-1a2b3c4d", {}, {}) and "Change" in render.leaderboard([found])


def test_values_by_image_with_patients(tmp_path: Path) -> None:
    scores = {
        "a": Score(0.5, 2, per_image={"i2": 0.25, "i1": 0.1 + 0.2}), "b": Score(1.0, 1, per_image={"i1": 1.0}), "c": Score(1.0, 1),
    }  # fmt: skip
    path = tmp_path / "x.csv"
    assert records.write_per_image(path, scores, {"i1": "p,1", "i2": "007", "i3": "p3"}) == "x.csv"
    assert path.read_text() == 'image_id,patient_id,a,b\ni1,"p,1",0.30000000000000004,1.0\ni2,007,0.25,\n'
    records.write_per_image(path, scores)
    assert path.read_text().startswith("image_id,a,b\n"), "as before"
    assert records.write_per_image(path, {"c": scores["c"]}, {}) is None
    with pytest.raises(BenchError, match="a, b name 'i1', which is no image of the test set"):
        records.write_per_image(path, scores, {"i2": "p2"})


def test_load_reads_the_primary_values_beside_a_record(tmp_path: Path, good: dict[str, Any]) -> None:
    names = [
        {**good["metrics"][0], "key": key, **more}
        for key, more in (("a", {}), ("b", {"primary": False}), ("c", {"part": "U-Net"}), ("d", {"shared": True}), ("e", {}))
    ]
    scores = {m["key"]: {**good["scores"]["change"], "n": 3} for m in names}
    path = place(tmp_path, json.dumps({**good, "metrics": names, "scores": scores, "per_image": "../records/x.csv"}))
    each = {"i1": 1.0, "i2": float("inf"), "i3": float("nan"), "007": -2.5}
    every = {m["key"]: Score(0.5, 3, per_image=each) for m in names if m["key"] != "e"}
    records.write_per_image(path.with_name("x.csv"), every, dict.fromkeys(each, "007"))
    (found,), warnings = records.load([tmp_path])
    assert not warnings
    assert found[LOCAL].values == {"a": {"i1": 1.0, "007": -2.5}}, "finite, primary, of the main table"
    assert found[LOCAL].patients == dict.fromkeys(each, "007"), "ids are texts"
    assert found[LOCAL].more == {key: {"i1": 1.0, "007": -2.5} for key in "bcd"}, "other metrics, for the paper's tables"
    assert found[LOCAL].of("c") == found[LOCAL].of("a") and found[LOCAL].of("e") == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image_id,patient_id,change\ni1,p1,1\ni2,p2,2\n", "it has 2 values of change, and the score is of 3"),
        ("image_id,patient_id,change\ni1,p1,1\ni2,p2,2\ni3,p3\n", "it ends, or a row of it does, before all columns are there"),
        ("image_id,patient_id,change\ni1,p1,1\ni2,p2,2\ni3,p3,2", "it ends, or a row of it does, before all columns are there"),
        ("image_id,patient_id,change\ni1,p1,1\ni2,p2,2\ni2,p3,2\n", "an image has two rows"),
    ],
)
def test_half_a_file_of_values_is_not_compared(tmp_path: Path, good: dict[str, Any], text: str, why: str) -> None:
    scores = {"change": {**good["scores"]["change"], "n": 3}}
    path = place(tmp_path, json.dumps({**good, "scores": scores, "per_image": "x.csv"}))
    path.with_name("x.csv").write_text(text)
    (found,), (warning,) = records.load([tmp_path])
    assert not found[LOCAL].values and not found[LOCAL].more and not found[LOCAL].patients
    assert warning == f"{path.with_name('x.csv')} is left out of comparisons: {why}. Score again with --force score."


def test_a_file_name_cannot_lead_elsewhere(tmp_path: Path, good: dict[str, Any]) -> None:
    (tmp_path / "secret.csv").write_text("image_id,change\ni1,1\n")
    for name in (str(tmp_path / "secret.csv"), "../../../../secret.csv", "..", "."):
        place(tmp_path / "runs", json.dumps({**good, "per_image": name}))
        (found,), (warning,) = records.load([tmp_path / "runs"])
        assert not found[LOCAL].values and "is left out of comparisons" in warning


def test_versions_name_what_can_move_a_number() -> None:
    found = records.versions()
    assert {"segmentation-models-pytorch", "ultralytics", "scikit-learn", "torch"} <= set(found)
    assert found["scikit-learn"][0].isdigit()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("bench run --method all --runs runs/readme", "bench run --method all --runs runs/readme"),
        ("bench run --runs /tmp/a/results/ --data rsna=~/films/rsna", "bench run --runs results --data rsna=rsna"),
        ("bench run --data mimic=/data/m,masks=/data/lungs", "bench run --data mimic=m,masks=lungs"),
        ("bench run --runs '/home/jane doe/my runs' --seeds 0,1", "bench run --runs 'my runs' --seeds 0,1"),
        ("bench run --method mmagic:x/y.py --data rsna,images=24", "bench run --method mmagic:x/y.py --data rsna,images=24"),
        ("bench run --note https://example.org/a/b --runs 'x", "bench run --note https://example.org/a/b --runs \"'x\""),
    ],
)  # fmt: skip
def test_commands_are_shown_without_folders_of_the_machine(command: str, shown: str) -> None:
    found = records.without_folders(command)
    assert shlex.split(found) == shlex.split(shown) and found.count("/") == shown.count("/")
