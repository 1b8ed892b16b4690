"""What `bench leaderboard` reads, writes, prints and refuses; on records, and on a tiny run with its stored images."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from classifier_tools import ROWS
from conftest import Bench
from leaderboard_tools import METRICS, fidelity, record, score, write
from page_tools import data_of

from bench import records
from leaderboards.render import leaderboard

FAILED = {"status": "failed", "error": "out of memory\nTraceback", "scores": {}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A results folder with FID and KID of two methods."""
    return write(tmp_path / "runs", [fidelity("original", 0.2, 2.0), fidelity("a", 1 / 3, 1.0)])


def test_markdown_is_the_general_leaderboard(bench: Bench, runs: Path) -> None:
    answer = bench("leaderboard", runs)
    assert answer.code == 0 and answer.out == leaderboard(records.load([runs])[0]) and not answer.err
    assert bench("leaderboard", runs, "--format", "md").out == answer.out
    assert bench("leaderboard", runs, "--full").out == leaderboard(records.load([runs])[0], full=True)


def test_a_table_of_the_paper(bench: Bench, runs: Path) -> None:
    answer = bench("leaderboard", runs, "--table", "1")
    assert answer.code == 0 and answer.out.startswith("## Table 1") and "| a " in answer.out and not answer.err
    latex = bench("leaderboard", runs, "--table", "1", "--format", "latex")
    assert latex.code == 0 and "\\toprule" in latex.out and "\\begin{tabular}" in latex.out
    beside = bench("leaderboard", runs, "--table", "1", "--against", "paper")
    assert beside.code == 0 and "published" in beside.out and "67.18" not in answer.out


def test_data_formats_hold_everything_without_a_table(bench: Bench, runs: Path) -> None:
    answer = bench("leaderboard", runs, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert answer.code == 0 and {row["sheet"] for row in rows} == {"table1", "general"}
    (kid,) = [row for row in rows if row["sheet"] == "general" and row["line"] == "a" and row["head"] == "fidelity/kid"]
    assert float(kid["value"]) == 1 / 3 and kid["in.dataset_fingerprint"] == "0123456789abcdef" and kid["n"] == "50"
    assert "note: Table 3 needs" in answer.err, "what cannot be made is said, and not among the data"
    named = bench("leaderboard", runs, "--format", "csv", "--table", "all")
    assert {row["sheet"] for row in csv.DictReader(io.StringIO(named.out))} == {"table1"}
    found = json.loads(bench("leaderboard", runs, "--format", "json", "--table", "general").out)
    assert [sheet["key"] for sheet in found["sheets"]] == ["general"]


def test_a_table_that_is_not_transcribed_is_printed_as_measured(bench: Bench, tmp_path: Path) -> None:
    runs = write(tmp_path / "runs", ROWS)
    answer = bench("leaderboard", runs, "--table", "2", "--against", "paper")
    assert answer.code == 0 and "- The printed numbers of Table 2 have not been transcribed" in answer.out
    assert "Generated, drit" in answer.out and answer.out.index("not been transcribed") < answer.out.index("Generated, drit")


def test_the_general_table_in_markdown_is_the_default_view(bench: Bench, runs: Path) -> None:
    assert bench("leaderboard", runs, "--table", "general").out == bench("leaderboard", runs).out
    assert bench("leaderboard", runs, "--table", "general", "--full").out == bench("leaderboard", runs, "--full").out
    latex = bench("leaderboard", runs, "--table", "general", "--format", "latex")
    assert latex.code == 0 and "KID" in latex.out and latex.out.count("\\label") == 1


def test_files_left_out_are_in_the_document(bench: Bench, runs: Path, tmp_path: Path) -> None:
    bad = next(runs.rglob("records/*.json")).with_name("z.json")
    bad.write_text('{"schema": 2, "value": NaN}')
    words = f"1 file left out: {bad.relative_to(runs)} (not valid JSON (NaN is no number of JSON))."
    for form, more in (("md", ()), ("md", ("--table", "1")), ("latex", ("--table", "1")), ("html", ()), ("json", ())):
        out = tmp_path / f"made.{form}"
        assert bench("leaderboard", runs, "--format", form, *more, "--out", out).code == 0
        text = out.read_text()
        assert words.replace("_", "\\_") in text or words in text, (form, more)
        assert str(tmp_path) not in text


def test_out(bench: Bench, runs: Path, tmp_path: Path) -> None:
    answer = bench("leaderboard", runs, "--table", "1", "--format", "latex", "--out", tmp_path / "new" / "t.tex")
    assert answer.code == 0 and answer.out == f"{tmp_path / 'new' / 't.tex'}\n"
    assert (tmp_path / "new" / "t.tex").read_text() == bench("leaderboard", runs, "--table", "1", "--format", "latex").out
    for form, name in (("md", "leaderboard.md"), ("latex", "leaderboard.tex"), ("html", "leaderboard.html")):
        answer = bench("leaderboard", runs, "--format", form, "--out", tmp_path)
        words = f"--out {tmp_path}: is a folder. Name the file, for example {tmp_path / name}."
        assert answer.code == 2 and answer.err == f"error: {words}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--table fig7", "unknown word 'fig7'. Did you mean 'fig6'? Known: 1, 2, 3, fig6, all, general."),
        ("--format htm", "unknown word 'htm'. Did you mean 'html'?"),
        ("--against papers", "unknown word 'papers'. Did you mean 'paper'?"),
        ("--against paper", "--against goes with the paper's tables: add --table"),
        ("--against paper --table general", "--against goes with the paper's tables"),
        ("--full --format csv", "--full goes with the general leaderboard"),
        ("--full --table 1", "--full goes with the general leaderboard"),
        ("--cases first", "--cases goes with --figures DIR or --format html"),
        ("--count 3 --format csv", "--count goes with --figures DIR or --format html"),
        ("--count 0 --format html", "'0' is no whole number of at least 1"),
        ("--tabel 1", "unknown flag --tabel. Did you mean --table?"),
    ],
)
def test_wrong_use(bench: Bench, runs: Path, words: str, expected: str) -> None:
    answer = bench("leaderboard", runs, *words.split())
    assert answer.code == 2 and expected.replace("Did you mean --table", "Did you mean '--table'") in answer.err
    assert len(answer.err.splitlines()) == 1 and not answer.out


def test_nothing_to_show(bench: Bench, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for more in ((), ("--table", "1"), ("--format", "html")):
        answer = bench("leaderboard", tmp_path / "empty", *more)
        assert answer.code == 2 and answer.err == (
            f"error: no records below {tmp_path / 'empty'}. Make some: bench run --method ours --suite all.\n"
        )
    answer = bench("leaderboard", runs, "--table", "3")
    assert answer.code == 3 and f"no record below {runs} has a place in --table 3. Table 3 needs" in answer.err


def test_documents_of_runs_that_fill_no_table_of_the_paper(bench: Bench, tmp_path: Path) -> None:
    """Without --table there is a page of what there is; with one the answer says where the numbers are."""
    runs = write(tmp_path / "runs", [record(method, "toy-score", scores={"x": score(1.0)}) for method in ("original", "a")])
    page = bench("leaderboard", runs, "--format", "html", "--out", tmp_path / "page.html")
    assert page.code == 0 and "note: Table 1 needs" in page.err
    assert [sheet["key"] for sheet in data_of((tmp_path / "page.html").read_text())["sheets"]] == ["general"]
    assert "\\begin{tabular}" in bench("leaderboard", runs, "--format", "latex").out
    for form in ("html", "latex", "csv"):
        answer = bench("leaderboard", runs, "--table", "all", "--format", form)
        assert answer.code == 3 and answer.err.endswith("What there is: --table general.\n") and not answer.out


def test_a_page_holds_the_papers_tables_and_the_general_ones(bench: Bench, runs: Path, tmp_path: Path) -> None:
    def keys(*words: str) -> list[str]:
        assert bench("leaderboard", runs, "--format", "html", "--out", tmp_path / "page.html", *words).code == 0
        return [sheet["key"] for sheet in data_of((tmp_path / "page.html").read_text())["sheets"]]

    assert keys() == ["table1", "general"] and keys("--table", "all") == ["table1"] and keys("--table", "general") == ["general"]
    assert "General" not in bench("leaderboard", runs, "--format", "latex").out


def test_all_records_failed(bench: Bench, tmp_path: Path) -> None:
    lost = write(tmp_path / "lost", [fidelity("a", 1.0, 1.0, **FAILED), record("a", "segmentation", **FAILED)])
    general = bench("leaderboard", lost)
    assert general.code == 0 and "failed: out of memory" in general.out, "the general leaderboard says what failed"
    for more in (("--table", "1"), ("--format", "csv"), ("--format", "html"), ("--figures", tmp_path / "figures")):
        answer = bench("leaderboard", lost, *more)
        assert answer.code == 3 and len(answer.err.splitlines()) == 1
        assert "none of the 2 records below" in answer.err and "fidelity of a, failed: out of memory." in answer.err
    assert not (tmp_path / "leaderboard.html").exists()


def test_figures_go_to_a_folder(bench: Bench, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = bench("leaderboard", runs, "--figures", tmp_path / "file")
    assert answer.code == 3 and answer.err.startswith(f"error: --figures {tmp_path / 'file'}: cannot write there (it is a file)")
    answer = bench("leaderboard", runs, "--figures", tmp_path / "figures")
    assert answer.code == 3 and "no stored inputs of rsna" in answer.err and "no figure can be drawn" in answer.err
    assert not list((tmp_path / "figures").iterdir())


# -- with stored images -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(bench: Bench, toy: tuple[str, ...], tmp_path: Path) -> Path:
    """A finished run of the toy method with its images, and scores of fidelity beside its own."""
    assert bench("run", *toy).code == 0
    for path in (tmp_path / "runs").rglob("records/*.json"):
        made = json.loads(path.read_text())
        scores = {"kid": score(0.1, std=0.01, std_over="subsets"), "fid": score(5.0)}
        made |= {"evaluator": "fidelity", "params": {"extractor": "inception"}, "metrics": METRICS["fidelity"], "scores": scores}
        records.write(path.with_name(f"{made['dataset']}--fidelity-12345678.json"), {**made, "per_image": None, "figures": []})
    return tmp_path / "runs"


def restrict(root: Path) -> None:
    for path in root.rglob("records/*.json"):
        records.write(path, {**json.loads(path.read_text()), "policy": "credentialed"})


def test_records_say_the_settings_that_a_preset_gives(stored: Path) -> None:
    found = [json.loads(path.read_text()) for path in stored.rglob("records/*.json")]
    costs = [record["cost"] for record in found if record["method"] != "original"]
    assert costs and all({"iterations", "batch_size", "accumulate", "precision", "tf32", "ema"} <= set(cost) for cost in costs)
    assert costs[0]["tf32"] is False and isinstance(costs[0]["batch_size"], int)


def test_figures_and_page(bench: Bench, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = bench("leaderboard", stored, "--figures", "figures", "--count", "2")
    written = answer.out.splitlines()
    assert answer.code == 0 and "figures/figure3-synthetic.png" in written and "figures/figure3-synthetic.pdf" in written
    assert sorted(written) == sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "figures").iterdir())
    assert "| toy" not in answer.out, "figures alone were asked for"
    piped = bench("leaderboard", stored, "--figures", "figures", "--format", "csv", "--table", "1")
    assert piped.code == 0 and piped.out.startswith("sheet,title,") and "figure" not in piped.out
    assert "figure       figures/figure3-synthetic.png" in piped.err
    answer = bench("leaderboard", stored, "--format", "html")
    assert answer.code == 0 and answer.out == "leaderboard.html\n"
    page = (tmp_path / "leaderboard.html").read_text()
    assert "Table 1" in page and "data:image/" in page
    assert f"bench leaderboard {stored.name} --format html" in page and str(stored.parent) not in page, "it is handed on"
    assert "![" not in page, "the pictures of the markdown leaderboard lie elsewhere"
    assert "cases by toy-score/xyz" in bench("leaderboard", stored, "--format", "html", "--cases", "toy-score/xyz").err


def test_a_damaged_image_costs_its_case_and_the_exit_code(bench: Bench, stored: Path, tmp_path: Path) -> None:
    images = sorted(next(p for p in stored.glob("toy/*/*/translated/*") if "b2a" not in p.name).glob("images/*.png"))
    for path in images:
        path.write_bytes(path.read_bytes()[:40])
    answer = bench("leaderboard", stored, "--format", "html", "--out", tmp_path / "page.html", "--count", "1")
    page = (tmp_path / "page.html").read_text()
    assert answer.code == 1 and "Table 1" in page and str(tmp_path / "page.html") in answer.out
    assert answer.last.startswith("error: written without the cases of damaged files: ")
    assert answer.last.endswith("with --force translate.")
    assert answer.err.count("note: left out: ") == 1, "though figures and page open it"
    figures = bench("leaderboard", stored, "--figures", tmp_path / "figures", "--count", "1")
    assert figures.code == 3 and "left out: " in figures.err


def test_no_folder_of_figures_without_records(bench: Bench, tmp_path: Path) -> None:
    answer = bench("leaderboard", tmp_path / "nowhere", "--figures", tmp_path / "figures")
    assert answer.code == 2 and "does not exist" in answer.err and not (tmp_path / "figures").exists()


def test_restricted_images_are_left_out_and_that_is_said_once(bench: Bench, stored: Path, tmp_path: Path) -> None:
    restrict(stored)
    words = "note: images of synthetic"
    page = bench("leaderboard", stored, "--format", "html", "--out", tmp_path / "page.html")
    assert page.code == 0 and page.err.count(words) == 1 and page.err.count("are left out") == 1
    assert "data:image/" not in (tmp_path / "page.html").read_text() and "Table 1" in (tmp_path / "page.html").read_text()
    figures = bench("leaderboard", stored, "--figures", tmp_path / "figures")
    assert figures.code == 3 and figures.err.count(words) == 1
    assert not list((tmp_path / "figures").iterdir())
