"""The method of the README and the evaluator of docs/extending.md run, word for word; leaderboard and picture are the records'."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT, TINY, Bench, forget_imports, records
from PIL import Image

from bench.errors import DataError, UsageError

PAGE = {"method mine": "README.md", "evaluator judge": "docs/extending.md"}


def blocks(page: str) -> dict[str, str]:
    """What each Python block of a page that registers something registers -> its code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = {}
    for code in (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "@register_" in code):
        [(kind, name)] = re.findall(r'@register_(\w+)\("([\w-]+)"\)', code)
        found[f"{kind} {name}"] = code
    return found


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """``scripts/readme.py``."""
    spec = importlib.util.spec_from_file_location("readme_script", ROOT / "scripts" / "readme.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_blocks_of_the_pages() -> None:
    found = {what: page for page in ("README.md", "docs/extending.md") for what in blocks(page)}
    assert found == PAGE, "each has a test here"


def test_lines_fit_a_screen(script: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    written = text[: text.index(script.BEGIN)] + text.partition(script.END)[2]  # tables of numbers are as wide as they are
    assert not [line for line in written.splitlines() if len(line) > 130]
    assert len(text.splitlines()) <= 330 and text.index("scripts/demo") < text.index(script.BEGIN), "first what to do"


def test_the_readme_method_runs(bench: Bench, tmp_path: Path, cache: Path) -> None:
    code = blocks("README.md")["method mine"]
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


def test_the_evaluator_of_the_page_runs(bench: Bench, tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text(blocks("docs/extending.md")["evaluator judge"])
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


# -- leaderboard and picture -------------------------------------------------------------------------------------------------


Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def board(script: ModuleType) -> str:
    """What the committed records make."""
    return str(script.board(script.EXAMPLE))


@pytest.fixture
def example(script: ModuleType, tmp_path: Path) -> Path:
    """A copy of the committed records of two methods: what takes time are comparisons of all pairs."""
    for name in ("original", "ours"):
        shutil.copytree(script.EXAMPLE / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def edited(folder: Path, which: str, change: Edit) -> Path:
    """Change one record of a folder: the first whose path matches."""
    path = sorted(folder.glob(which))[0]
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def leaderboard(script: ModuleType) -> str:
    """What stands between the README's markers."""
    text: str = script.README.read_text(encoding="utf-8")
    return text.partition(script.BEGIN)[2].partition(script.END)[0].strip()


def test_the_leaderboard_is_that_of_the_committed_records(script: ModuleType, board: str) -> None:
    assert leaderboard(script) == board, "run scripts/readme"


def test_another_number_is_another_leaderboard(script: ModuleType, example: Path) -> None:
    """The test above can fail: a digit that is shown changes the text."""
    before = script.table(example)

    def worse(record: dict[str, Any]) -> None:
        record["scores"]["miou"]["value"] += 0.01

    edited(example, "ours/*/*/records/synthetic--segmentation-*.json", worse)
    changed = [(old, new) for old, new in zip(before.splitlines(), script.table(example).splitlines(), strict=True) if old != new]
    assert [old.split()[1] for old, _ in changed if old.startswith("| ")] == ["ours"]


def test_every_method_is_on_the_leaderboard(script: ModuleType) -> None:
    from bench.registry import METHODS

    shown = re.findall(r"^\| ([a-z_]+) ", leaderboard(script), re.MULTILINE)
    assert set(shown) == {name for name in METHODS.names() if name in METHODS.builtin} and shown[0] == "original"


def test_the_committed_records_are_small_and_name_no_machine(script: ModuleType) -> None:
    files = [path for path in script.EXAMPLE.rglob("*") if path.is_file() and path != script.WHOLE]
    assert sum(path.stat().st_size for path in files) < 1_000_000 and {path.suffix for path in files} == {".json", ".csv"}
    for path in (path for path in files if path.suffix == ".json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert not script._paths(record), path
        assert record["policy"] == "open" and record["dataset"].startswith("synthetic") and record["excerpt"]
        assert all(record[name] for name in ("code", "versions", "device", "command", "dataset_fingerprint", "written")), path
        assert not record.get("per_image") or path.with_name(record["per_image"]).is_file()


def test_the_command_above_the_leaderboard_prints_it(script: ModuleType, bench: Bench, example: Path) -> None:
    assert "bench leaderboard docs/example --table 1 " in leaderboard(script)
    done = bench("leaderboard", example, "--table", "1")
    assert done.code == 0, done.err
    rows = [line for line in script.table(example).splitlines() if line.startswith("| ")]
    assert len(rows) >= 3 and all(row in done.out for row in rows)


def test_the_whole_table_stands_beside_the_records(script: ModuleType) -> None:
    """Every column and note that the README leaves out is one link away."""
    assert script.WHOLE.read_text(encoding="utf-8") == script.whole(script.EXAMPLE), "run scripts/readme"
    assert f"]({script.WHOLE.relative_to(ROOT)})" in leaderboard(script)


def test_the_readme_shows_the_main_columns(script: ModuleType, example: Path) -> None:
    [sheet] = script._sheets(example)
    shown = script.compact(sheet)
    assert [head.label for head in shown.heads] == [
        "FD-cxr", "KD-cxr", "mIoU delta", "mIoU", "mIoU of synthetic-clear", "mIoU of synthetic-icu"
    ]  # fmt: skip
    keys = [head.key for head in sheet.heads]
    for line, whole in zip(shown.lines, sheet.lines, strict=True):
        assert line.entries == tuple(whole.entries[keys.index(head.key)] for head in shown.heads), "values under their own heads"
    assert any("favours ours" in note for note in shown.below) and any(note.startswith("n: ") for note in shown.below)


def test_more_columns_than_fit_are_refused(script: ModuleType, example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "FITS", 5)
    with pytest.raises(DataError, match="room for 5"):
        script.board(example)


def test_the_picture_is_of_the_committed_records(script: ModuleType) -> None:
    assert script.PICTURE.stat().st_size < 200_000
    with Image.open(script.PICTURE) as image:
        image.load()
        source = image.text["Source"].split()  # type: ignore[attr-defined]
    about = {r["method"]: r for r in map(json.loads, (p.read_text() for p in script.EXAMPLE.glob("*/*/*/records/synthetic--*.json")))}
    assert source[0] == about["ours"]["dataset_fingerprint"]
    shown = dict(part.split("=") for part in source[1:])
    assert "ours" in shown and shown == {name: about[name]["translated_content"] for name in shown}


def test_collecting_again_changes_nothing(script: ModuleType, example: Path, tmp_path: Path) -> None:
    script.collect(example, tmp_path / "again")
    files = sorted(path.relative_to(example) for path in example.rglob("*") if path.is_file())
    assert len(files) == 14 and all((tmp_path / "again" / f).read_bytes() == (example / f).read_bytes() for f in files)


def test_folders_of_the_machine_are_cut_from_commands(script: ModuleType, example: Path, tmp_path: Path) -> None:
    def made_elsewhere(record: dict[str, Any]) -> None:
        record["command"] = "bench run --method all --runs /home/somebody/results --data rsna=~/films/rsna --suite all"

    path = edited(example, "ours/*/*/records/synthetic--fidelity-*.json", made_elsewhere)
    script.collect(example, tmp_path / "again")
    record = json.loads((tmp_path / "again" / path.relative_to(example)).read_text())
    assert record["command"] == "bench run --method all --runs results --data rsna=rsna --suite all"


def elsewhere(record: dict[str, Any]) -> None:
    record["warnings"] = ["weights read from /home/somebody/weights.pth"]


def credentialed(record: dict[str, Any]) -> None:
    record["policy"] = "credentialed"


@pytest.mark.parametrize(("change", "named"), [(elsewhere, "/home/somebody/weights.pth"), (credentialed, "not open")])
def test_records_that_may_not_be_handed_on_are_refused(
    script: ModuleType, example: Path, tmp_path: Path, change: Edit, named: str
) -> None:
    path = edited(example, "ours/*/*/records/synthetic--fidelity-*.json", change)
    with pytest.raises(DataError, match=named) as told:
        script.collect(example, tmp_path / "again")
    assert path.name in str(told.value) and not (tmp_path / "again").exists()


def test_too_many_records_and_none_are_refused(
    script: ModuleType, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "MOST", 10_000)
    with pytest.raises(DataError, match="more than the 10,000"):
        script.collect(example, tmp_path / "again")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="scripts/readme --run"):
        script.collect(tmp_path / "empty", tmp_path / "again")


def test_a_cut_that_loses_a_shown_number_is_refused(
    script: ModuleType, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SHOWN", ("nothing",))
    with pytest.raises(DataError, match="SHOWN"):
        script.collect(example, tmp_path / "again")


@pytest.mark.parametrize("text", ["no markers", "{END} {BEGIN}", "{BEGIN} {BEGIN} {END}"])
def test_a_readme_without_its_markers_is_refused(script: ModuleType, text: str) -> None:
    with pytest.raises(DataError, match="once each"):
        script.placed(text.format(BEGIN=script.BEGIN, END=script.END), "new")


def test_what_run_calls_is_a_command(script: ModuleType) -> None:
    from bench.cli import _CALLS
    from bench.parser import build_parser

    options, rest = build_parser(_CALLS).parse_known_args(list(script.RUN))
    assert not rest and options.method == options.suite == "all" and not Path(options.runs).is_absolute()


def test_only_what_stands_between_the_markers_is_replaced(script: ModuleType) -> None:
    found = script.placed(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n", "new")
    assert found == f"before\n{script.BEGIN}\n\nnew\n\n{script.END}\nafter\n"


def test_a_wrong_folder_is_one_line(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = script.README.read_text(encoding="utf-8")
    assert script.main(["--from", str(tmp_path / "nowhere")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --from") and len(told.splitlines()) == 1
    assert script.README.read_text(encoding="utf-8") == before
