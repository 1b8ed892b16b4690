"""Results folders as they are found: each thing that is wrong with one is a clear line, and what is good is shown all the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare_tools import noisy, write_run
from conftest import ROOT, TOY, Answer, Bench, folder
from conftest import records as read
from leaderboard_tools import fidelity

from bench import records
from bench.record_schema import SCHEMA

Toy = tuple[str, ...]
PAST = Path(__file__).with_name("records")


def put(runs: Path, method: str, content: Any = None, /, **changes: Any) -> Path:
    """The record of a method, or whatever text is to lie in its place."""
    path = runs / method / "rsna" / "seed0-1a2b3c4d" / "records" / "rsna--fidelity-12345678.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {**fidelity(method, 0.1, 1.0), "schema": SCHEMA, "method_config": {}, **changes}
    path.write_text(json.dumps(made) if content is None else content, encoding="utf-8")
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A results folder with two good records."""
    put(tmp_path / "runs", "original")
    put(tmp_path / "runs", "good")
    return tmp_path / "runs"


def shown(answer: Answer, *lines: str) -> None:
    """The good rows are there, the error stream holds these lines and no other, nothing failed."""
    assert answer.code == 0, answer.err
    assert "| original" in answer.out and "| good" in answer.out
    assert answer.err.splitlines() == list(lines)


def left_out(path: Path, why: str) -> str:
    return f"warning: {path} is left out of the leaderboard: {why}"


# -- nothing there -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [[], ["ours/rsna/seed0-1a2b3c4d/records"], ["cache", "pictures"]])
def test_an_empty_runs_folder(bench: Bench, tmp_path: Path, inside: list[str]) -> None:
    for name in ("", *inside):
        (tmp_path / "runs" / name).mkdir(parents=True, exist_ok=True)
    answer = bench("leaderboard", tmp_path / "runs")
    line = f"error: no records below {tmp_path / 'runs'}. Make some: bench run --method ours --suite all."
    assert (answer.code, answer.out, answer.err.splitlines()) == (2, "", [line])


def test_a_folder_that_is_none(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, why in (("nowhere", "does not exist"), ("file", "is no folder")):
        answer = bench("leaderboard", tmp_path / name)
        assert answer.code == 2 and answer.err.startswith(f"error: {tmp_path / name} {why}. ") and answer.out == ""


def test_a_folder_of_bad_records_alone(bench: Bench, tmp_path: Path) -> None:
    path = put(tmp_path / "runs", "a", "{")
    answer = bench("leaderboard", tmp_path / "runs")
    first, last = answer.err.splitlines()
    assert answer.code == 2 and first.startswith(left_out(path, "not valid JSON")) and last.startswith("error: no records below ")


# -- half written ------------------------------------------------------------------------------------------------------------


def test_a_record_cut_short_anywhere(bench: Bench, runs: Path) -> None:
    whole = put(runs, "odd").read_text()
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path = put(runs, "odd", whole[:length])
        answer = bench("leaderboard", runs)
        (line,) = answer.err.splitlines()
        assert line.startswith(left_out(path, "not valid JSON (")) and line.endswith("). Delete it and score again.")
        shown(answer, line)


def test_what_a_kill_leaves_is_no_record(bench: Bench, runs: Path) -> None:
    """A process that ends while it writes leaves its temporary file, and the record as it was."""
    path = put(runs, "good")
    before = path.read_bytes()
    code = "import os, sys\nfrom pathlib import Path\nfrom bench import records\nos.replace = lambda *_: os._exit(9)\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}records.write(Path(sys.argv[1]), {{'method': 'half'}})", str(path)], cwd=ROOT, check=False
    )
    (temporary,) = set(path.parent.iterdir()) - {path}
    assert done.returncode == 9 and temporary.name.endswith(".tmp") and path.read_bytes() == before
    temporary.write_bytes(temporary.read_bytes()[:9])
    shown(bench("leaderboard", runs))


@pytest.mark.parametrize("damage", ["{", "", "[]", "null", '{"key": NaN}', "[" * 100_000])
def test_a_run_writes_a_damaged_record_anew(bench: Bench, toy: Toy, tmp_path: Path, damage: str) -> None:
    assert bench("run", *toy).code == 0
    (path,) = (folder(tmp_path / "runs") / "records").glob("*.json")
    scores = json.loads(path.read_text())["scores"]
    path.write_text(damage)
    answer = bench("run", *toy)
    assert answer.code == 0 and not answer.err and "score     toy" in answer.out and "train     " not in answer.out
    assert json.loads(path.read_text())["scores"] == scores


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 1'])
def test_scoring_images_from_elsewhere_writes_a_damaged_record_anew(bench: Bench, toy: Toy, tmp_path: Path, damage: str) -> None:
    assert bench("run", *toy).code == 0
    (images,) = (folder(tmp_path / "runs") / "translated").glob("*/images")
    words = ["score", "--images", images, "--as", "mine", *toy[2:]]
    assert bench(*words).code == 0
    (path,) = (tmp_path / "runs" / "mine").rglob("records/*.json")
    whole = json.loads(path.read_text())
    assert whole["method_config"] is None and whole["schema"] == SCHEMA
    path.write_text(damage)
    answer = bench(*words)
    assert answer.code == 0 and not answer.err and json.loads(path.read_text())["scores"] == whole["scores"]
    assert "kept      mine" in bench(*words).out


# -- schemas -----------------------------------------------------------------------------------------------------------------


def past(runs: Path, schema: int, change: Callable[[dict[str, Any], dict[str, Any]], None] | None = None) -> Path:
    """A run as it was written under a schema; returns its record."""
    run = runs / "ours" / "synthetic" / "seed0-1a2b3c4d"
    shutil.copytree(PAST / f"schema{schema}", run)
    facts, record = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "record"))
    if change:
        change(facts, record)
    (run / "config.json").write_text(json.dumps(facts))
    (run / "record.json").unlink()
    (run / "records").mkdir()
    (run / "records" / "synthetic--fidelity-00000000.json").write_text(json.dumps(record))
    return run / "records" / "synthetic--fidelity-00000000.json"


def test_every_schema_there_was_has_a_record_here() -> None:
    assert {p.name for p in PAST.iterdir()} == {f"schema{k + 1}" for k in range(SCHEMA)}
    assert all(json.loads((PAST / f"schema{k + 1}" / "record.json").read_text())["schema"] == k + 1 for k in range(SCHEMA))


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
def test_a_record_of_every_schema_is_read(bench: Bench, runs: Path, schema: int) -> None:
    path = past(runs, schema)
    before = path.read_bytes()
    answer = bench("leaderboard", runs)
    shown(answer)
    assert "| ours" in answer.out and "12.50" in answer.out and path.read_bytes() == before
    (record,) = [r for r in records.load([runs])[0] if r["method"] == "ours"]
    told = {k: v for k, v in record.items() if k != records.LOCAL}
    newest = json.loads((PAST / f"schema{SCHEMA}" / "record.json").read_text())
    assert told == {**newest, "train_policy": "open"}, "an upgraded record is what would be written today"


def _set(section: int, **changes: Any) -> Callable[..., None]:
    return lambda *both: both[section].update(changes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set(0, method="cut"), None), (_set(0, method_version=2), None), (_set(0, seed=1), None), (_set(0, train_dataset="x"), None),
        (_set(0, config=[]), None), (_set(0, config={"methods": {}}), None), (_set(0, config={"methods": {"ours": [1]}}), None),
        (_set(0, config={"methods": {"ours": {"style": "a\nb"}}}), None), (_set(0, origin="external"), None),
        (_set(0, config={"methods": {"ours": {}}}), {}),
        (_set(1, method="original"), {}), (_set(1, trained_by="external"), None),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_known_is_not_invented(tmp_path: Path, change: Any, expected: Any) -> None:
    past(tmp_path, 1, change)
    ((record,), warnings) = records.load([tmp_path])
    assert record["method_config"] == expected and not warnings


@pytest.mark.parametrize("content", [None, "{", "[]", '{"config": NaN}'])
def test_a_lost_specification_costs_the_configuration_alone(bench: Bench, runs: Path, content: str | None) -> None:
    config = past(runs, 1).parents[1] / "config.json"
    config.unlink() if content is None else config.write_text(content)
    shown(bench("leaderboard", runs))
    (record,) = [r for r in records.load([runs])[0] if r["method"] == "ours"]
    assert record["schema"] == SCHEMA and record["method_config"] is None and record["scores"]["fd_cxr"]["value"] == 12.5


def test_records_of_two_schemas_share_a_table(bench: Bench, tmp_path: Path) -> None:
    past(tmp_path / "runs", 1)
    path = past(tmp_path / "new", 2, _set(1, config_fingerprint="00000000000000c9"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"method_config": record["method_config"] | {"lca": True}}))
    answer = bench("leaderboard", tmp_path / "runs", tmp_path / "new")
    assert answer.code == 0 and not answer.err and answer.out.count("\n## ") == 1
    assert "| ours (lca=false) |" in answer.out and "| ours (lca=true)" in answer.out
    last = bench("leaderboard", tmp_path / "runs").out.splitlines()[-1]
    past(tmp_path / "same", 2)
    assert bench("leaderboard", tmp_path / "same").out.splitlines()[-1] == last, "the digest is of results, not of how they are kept"


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99])
def test_a_newer_record_is_named_with_the_remedy(bench: Bench, runs: Path, schema: int) -> None:
    path = put(runs, "odd", schema=schema, scores="in a way of its own")
    why = f"it is of schema {schema}, newer than {SCHEMA}, the newest that this cxr-bench reads. Update cxr-bench."
    shown(bench("leaderboard", runs), left_out(path, why))


NAMELESS = f"it names no schema, so it is no record that this cxr-bench knows (schemas 1 to {SCHEMA}). Delete it and score again."


@pytest.mark.parametrize("schema", ["2", 1.0, None, True])
def test_a_record_without_a_schema_is_named(bench: Bench, runs: Path, schema: Any) -> None:
    path = put(runs, "odd", schema=schema)
    shown(bench("leaderboard", runs), left_out(path, NAMELESS))


@pytest.mark.parametrize("schema", [0, -1])
def test_an_older_schema_than_the_first_is_named(bench: Bench, runs: Path, schema: int) -> None:
    why = f"it is of schema {schema}, older than 1, the oldest that this cxr-bench reads. Delete it and score again."
    path = put(runs, "odd", schema=schema)
    shown(bench("leaderboard", runs), left_out(path, why))


def test_an_older_schema_is_no_reason_to_score_again(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    assert bench("run", *toy).code == 0
    (images,) = (folder(tmp_path / "runs") / "translated").glob("*/images")
    words = ["score", "--images", images, "--as", "mine", *toy[2:]]
    assert bench(*words).code == 0
    board = bench("leaderboard", tmp_path / "runs").out
    configs = {name: record["method_config"] for name, record in read(tmp_path / "runs").items()}
    assert configs["toy/synthetic--toy-score"]["lr"] == 0.01 and configs["original/synthetic--toy-score"] == {}
    before = {}
    for path in (tmp_path / "runs").rglob("records/*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in record.items() if k != "method_config"} | {"schema": 1}))
        before[path] = path.read_bytes()
    again = bench("run", *toy)
    assert again.code == 0 and not again.err and "to do" not in again.out
    assert "kept      mine" in bench(*words).out
    assert {path: path.read_bytes() for path in before} == before and len(before) == 3
    assert bench("leaderboard", tmp_path / "runs").out == board, "what is read back is what was written"
    found, _ = records.load([tmp_path / "runs"])
    assert {f"{r['method']}/{r['dataset']}--{r['evaluator']}": r["method_config"] for r in found} == configs


# -- odd values ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none(bench: Bench, runs: Path, number: str) -> None:
    good = put(runs, "odd").read_text()
    path = put(runs, "odd", good.replace('"value": 0.1', f'"value": {number}', 1))
    assert path.read_text() != good
    shown(bench("leaderboard", runs), left_out(path, f"not valid JSON ({number} is no number of JSON). Delete it and score again."))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scores": []}, "'scores' is list"), ({"method_config": "lca=true"}, "'method_config' is str"),
        ({"metrics": {}}, "'metrics' is dict"), ({"params": None}, "'params' is NoneType"), ({"method": 1}, "'method' is int"),
        ({"scores": {"kid": {"value": "0.1", "n": 1}}}, "'scores.kid.value' is str"),
        *[
            (changes, "it holds texts or numbers that cannot be written")
            for changes in ({"seed": 10**400}, {"cost": {"images_seen": 10**30}}, {"scores": {"kid": {"value": 1e200, "n": 1}}})
        ],
    ],
)
def test_wrong_types_and_huge_numbers(bench: Bench, runs: Path, changes: dict[str, Any], why: str) -> None:
    path = put(runs, "odd", **changes)
    shown(bench("leaderboard", runs), left_out(path, f"{why}. Delete it and score again."))


@pytest.mark.parametrize("content", ["[]", "[[1, 2]]", "3", '"text"', "null", "true"])
def test_json_that_is_no_record(bench: Bench, runs: Path, content: str) -> None:
    path = put(runs, "odd", content)
    shown(bench("leaderboard", runs), left_out(path, NAMELESS))


def test_two_records_of_one_score(bench: Bench, runs: Path) -> None:
    """Of other folders, for example; the last written counts, wherever it lies, and the line below says that there was another."""
    new, old = (
        fidelity("twice", value, 1.0, schema=SCHEMA, method_config={}, written=f"2026-01-0{day}T00:00:00+00:00")
        for day, value in ((2, 0.222), (1, 0.111))
    )
    put(runs, "twice", json.dumps(new))
    put(runs.parent / "other", "twice", json.dumps(old))
    for folders in ((runs, runs.parent / "other"), (runs.parent / "other", runs)):
        answer = bench("leaderboard", *folders)
        shown(answer)
        assert answer.out.count("| twice") == 1 and "0.222" in answer.out and "0.111" not in answer.out
        assert "one score the last written counts; older ones left out: 1 (twice 1)." in answer.out.splitlines()[-1]
    assert "left out" not in bench("leaderboard", runs).out.splitlines()[-1]


# -- files beside and around -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [None, "", "a,b\n1,2\n", "image_id,patient_id,error\ni00,p00,much\n", "\x00", "\udcff"])
def test_values_by_image_missing_or_damaged(bench: Bench, tmp_path: Path, damage: str | None) -> None:
    original, good, odd = (write_run(tmp_path, name, noisy(k)) for k, name in enumerate(("original", "good", "odd")))
    values = odd.with_suffix(".csv")
    values.unlink() if damage is None else values.write_bytes(damage.encode(errors="surrogateescape"))
    answer = bench("leaderboard", tmp_path)
    (line,) = answer.err.splitlines()
    assert line.startswith(f"warning: {values} is left out of comparisons: ") and line.endswith("Score again with --force score.")
    shown(answer, line)
    assert "| odd" in answer.out, "its scores are good"
    assert original.is_file() and good.is_file()


def test_what_cannot_be_read(bench: Bench, runs: Path) -> None:
    """A folder, and links to nowhere and to themselves: these no user may read either."""
    path = put(runs, "odd")
    path.unlink()
    path.mkdir()
    why = "Make it readable, or delete it and score again."
    shown(bench("leaderboard", runs), left_out(path, f"it cannot be read (Is a directory). {why}"))
    path.rmdir()
    path.symlink_to(path.with_name("nowhere"))
    shown(bench("leaderboard", runs), left_out(path, f"it cannot be read (No such file or directory). {why}"))
    path.unlink()
    path.symlink_to(path)
    shown(bench("leaderboard", runs), left_out(path, f"it cannot be read (Too many levels of symbolic links). {why}"))


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_what_may_not_be_read(bench: Bench, runs: Path) -> None:
    path = put(runs, "odd")
    path.chmod(0)
    why = "it cannot be read (Permission denied). Make it readable, or delete it and score again."
    shown(bench("leaderboard", runs), left_out(path, why))


def test_a_plug_ins_file_is_not_needed_to_read_its_records(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    """Records carry what tables need: methods and evaluators that are not here any more stay in them."""
    assert bench("run", *toy).code == 0 and str(TOY) in toy
    done = subprocess.run(
        [sys.executable, "-m", "bench", "leaderboard", str(tmp_path / "runs")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "| toy" in done.stdout and not done.stderr
