"""The command line: help, nearest names, exit codes, and the verbs that take images from elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TINY, TOY, Bench, folder, forget_imports, records, spawn
from fixtures_data import chest, save_png, write_dicom
from PIL import Image

Toy = tuple[str, ...]
VERBS = ("run", "score", "translate", "list", "data check", "data show", "check", "assets", "leaderboard")


# -- help, names, codes ----------------------------------------------------------------------------------------------------


def test_help_and_mistakes_cost_no_torch() -> None:
    code = f"""
import sys
from bench import cli
for words in {[v.split() for v in VERBS]!r}:
    try:
        cli._main([*words, "--help"])
    except SystemExit as stop:
        print("CODE", stop.code)
    assert "torch" not in sys.modules, words
for words in (["list"], ["list", "suites"], ["run", "--method", "our"], ["run", "--method", "ours", "--preset", "quik"],
              ["run", "--method", "ours", "--set", "train.x=1"], ["run", "--method", "ours", "--suite", "al"]):
    print("CODE", cli._main(words))
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("CODE")]
    assert codes == ["0"] * (len(VERBS) + 2) + ["2"] * 4
    assert done.stdout.count("example: bench ") == len(VERBS)
    for verb in VERBS:
        assert f"usage: bench {verb} " in done.stdout and f"example: bench {verb.split()[0]}" in done.stdout


def test_as_a_module() -> None:
    answer = spawn("--help")
    assert answer.code == 0 and all(verb.split()[0] in answer.out for verb in VERBS)
    assert spawn("rum").code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("rum", "unknown word 'rum'. Did you mean 'run'?"),
        ("run --method our", "unknown method 'our'. Did you mean 'ours'? Available: "),
        ("run --method ours,orignal", "unknown method 'orignal'. Did you mean 'original'?"),
        ("run --metod ours", "unknown flag --metod. Did you mean '--method'?"),
        ("run --method ours --sute all", "unknown flag --sute. Did you mean '--suite'? See: bench run --help."),
        ("run --method ours --dryrun", "unknown flag --dryrun. Did you mean '--dry-run'?"),
        ("run --method ours --suite fidelty", "unknown suite 'fidelty'. Did you mean 'fidelity'?"),
        ("run --method ours --preset quik", "unknown preset 'quik'. Did you mean 'quick'?"),
        ("run --method ours --set trian.ema=0.5", "unknown config key 'trian'"),
        ("run --method ours --set train.emma=0.5", "unknown config key 'train.emma'. Did you mean 'train.ema'?"),
        ("run --method ours --set methods.ours.widht=3", "Did you mean 'methods.ours.width'?"),
        ("run --method original --set methods.ours.widht=3", "Did you mean 'methods.ours.width'?"),
        ("run --method original --set evaluators.fidelity.extractr=x", "Did you mean 'evaluators.fidelity.extractor'?"),
        ("run --method original --set datasets.synthetic.imges=9", "Did you mean 'images'?"),
        ("run --method original --data synthetc", "unknown dataset 'synthetc'. Did you mean 'synthetic'?"),
        ("run --method original --data synthetic,imges=3", "Did you mean 'images'?"),
        ("run --method original --data =", "--data '=': expected NAME, NAME=PATH"),
        ("run --method original --data synthetic --data synthetic", "dataset 'synthetic' is named twice"),
        ("run --method original --data synthetic,images=9 --train-on rsna", "--train-on rsna: not among --data (synthetic)"),
        ("run --method original --force trian", "unknown word 'trian'. Did you mean 'train'?"),
        ("run --method original --seeds a", "--seeds a: whole numbers"),
        ("run --method original --seeds=-1", "--seeds -1: whole numbers from 0"),
        ("run --method original --workers 0", "'0' is no whole number of at least 1"),
        ("run --method original --log-interval 0", "'0' is no whole number of at least 1"),
        ("run --method original --threads x", "'x' is no whole number of at least 0"),
        ("run --method original --device gpu", "--device gpu: auto, cpu, cuda or cuda:N"),
        ("run --method=", "--method needs a name"),
        ("run", "the following arguments are required: --method"),
        ("list method", "unknown word 'method'. Did you mean 'methods'?"),
        ("data chek rsna", "unknown word 'chek'. Did you mean 'check'?"),
        ("data check rsan /nowhere", "unknown dataset 'rsan'. Did you mean 'rsna'?"),
        ("check --method our", "unknown method 'our'. Did you mean 'ours'?"),
        ("leaderboard nowhere-at-all", "nowhere-at-all does not exist"),
        ("translate nowhere-at-all x --out y", "nowhere-at-all is not a run"),
        ("score --images nowhere --as mine --suite fidelity", "--images nowhere: no such folder"),
        ("score --images . --as ours --suite fidelity", "--as ours: that is a method of this harness"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(bench: Bench, tmp_path: Path, words: str, expected: str) -> None:
    takes_runs = words.split(maxsplit=1)[0] in ("run", "score") and "--method" in words
    answer = bench(*words.split(), *(["--runs", tmp_path / "runs"] if takes_runs else []))
    assert answer.code == 2
    assert expected in answer.err and answer.err.startswith("error: ") and len(answer.err.splitlines()) == 1
    assert not (tmp_path / "runs" / "original").exists()


def test_a_gpu_that_is_not_there_exits_3(bench: Bench, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    answer = bench("run", *toy, "--device", "cuda")
    assert answer.code == 3 and "--device cuda: no CUDA GPU is usable here. Use --device cpu" in answer.err


def test_runs_that_is_a_file(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = bench("run", *toy, "--runs", tmp_path / "file")
    assert answer.code == 1 and len(answer.err.splitlines()) == 1 and "another --runs DIR" in answer.err


def test_interrupted_exits_130(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.listing.show", interrupt)
    answer = bench("list")
    assert answer.code == 130 and "finished work is kept, the same command carries on" in answer.err


# -- dry run, list, assets, leaderboard ------------------------------------------------------------------------------------


def test_dry_run_prints_the_plan_and_does_nothing(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    answer = bench("run", *toy, "--dry-run")
    assert answer.code == 0
    head, *rows = [line for line in answer.out.splitlines() if line.strip()]
    assert head.split() == ["stage", "what", "status", "why"]
    assert [row.split()[0] for row in rows if row.startswith(("data", "train", "translate", "score"))][-3:] == [
        "train", "translate", "score"
    ]  # fmt: skip
    assert not list((tmp_path / "runs").glob("toy/**/*"))


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("methods", ["original", "ours"]),
        ("evaluators", ["faithfulness", "fidelity"]),
        ("datasets", ["covid", "folder", "jsrt", "mimic", "nih14", "rsna", "synthetic"]),
        ("suites", ["all", "fidelity"]),
        ("presets", ["paper", "quick", "small"]),
    ],
)
def test_list(bench: Bench, what: str, expected: list[str]) -> None:
    answer = bench("list", what)
    assert answer.code == 0 and set(expected) <= set(answer.out.split())
    long = bench("list", what, "--long")
    assert long.code == 0 and len(long.out) > len(answer.out) and all(name in long.out for name in expected)


def test_list_runs(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    empty = bench("list", "runs", "--runs", tmp_path / "runs")
    assert empty.code == 0 and "no runs below" in empty.out
    assert bench("run", *toy).code == 0
    answer = bench("list", "runs", "--runs", tmp_path / "runs")
    assert answer.code == 0 and "toy" in answer.out and "original" in answer.out


def test_assets_say_what_is_missing_and_what_is_wrong(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    answer = bench("assets")
    name = "weights-inception-2015-12-05-6726825d.pth"
    assert answer.code == 0 and f"{name}: not found" in answer.out and "6726825d0af5f729" in answer.out
    (tmp_path / name).write_text("not it")
    wrong = bench("assets", "--assets", tmp_path)
    assert "WRONG CONTENT" in wrong.out


def test_leaderboard(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = bench("leaderboard", tmp_path / "empty")
    assert empty.code == 2 and "no records below" in empty.err and "bench run --method ours" in empty.err
    assert bench("run", *toy).code == 0
    answer = bench("leaderboard", tmp_path / "runs")
    assert answer.code == 0 and "| toy" in answer.out and "| original" in answer.out
    assert bench("leaderboard", tmp_path / "runs", "--out", tmp_path / "table.md").code == 0
    assert (tmp_path / "table.md").read_text().strip() == answer.out.strip()
    assert (tmp_path / "runs" / "leaderboard.md").read_text().strip() == answer.out.strip()
    broken = folder(tmp_path / "runs") / "records" / "synthetic--toy-score.json"
    broken.write_text("{")
    answer = bench("leaderboard", tmp_path / "runs")
    assert answer.code == 0 and f"warning: {broken} is not valid JSON" in answer.err and "| toy" not in answer.out


# -- score -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(bench: Bench, cache: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """Images that another program made for the test set (of another size), and the flags to score them."""
    words = [*TINY, "--runs", str(tmp_path / "runs"), "--cache", str(cache)]
    assert bench("run", "--method", "original", "--suite", "toy-score", *words).code == 0
    made = tmp_path / "made"
    for path in (tmp_path / "runs" / "original").rglob("images/*.png"):
        save_png(made / path.name, np.kron(np.asarray(Image.open(path)), np.ones((2, 2), np.uint8)))
    return made, ["score", "--images", str(made), "--as", "my-gan", "--suite", "toy-score", *words]


def test_score_images_made_elsewhere(bench: Bench, outside: tuple[Path, list[str]], tmp_path: Path) -> None:
    made, words = outside
    answer = bench(*words)
    assert answer.code == 0, answer.err
    record = records(tmp_path / "runs")["my-gan/synthetic--toy-score"]
    assert record["trained_by"] == "external" and record["status"] == "ok"
    assert record["scores"]["change"]["value"] == pytest.approx(0, abs=0.03) and record["scores"]["change"]["n"] == 7
    assert "my-gan" in answer.out and "original" in answer.out
    for path in made.iterdir():
        save_png(path, 255 - np.asarray(Image.open(path)))
    assert bench(*words).code == 0
    assert len(list((tmp_path / "runs" / "my-gan").rglob("records/*.json"))) == 2, "other images, another row's record"


def test_score_lists_missing_and_surplus_images(bench: Bench, outside: tuple[Path, list[str]]) -> None:
    made, words = outside
    first, *_ = sorted(made.iterdir())
    shutil.copy(first, made / "stranger.png")
    surplus = bench(*words)
    assert surplus.code == 0 and "1 images belong to no image of synthetic/test and are left out: stranger" in surplus.err
    first.unlink()
    missing = bench(*words)
    assert missing.code == 3
    assert f"1 of 7 images of synthetic/test are missing in {made}: {first.stem}. Files are named by image id" in missing.err


def test_score_of_a_broken_image_names_it(bench: Bench, outside: tuple[Path, list[str]]) -> None:
    made, words = outside
    path = sorted(made.iterdir())[3]
    path.write_text("no image")
    answer = bench(*words)
    assert answer.code == 3 and path.name in answer.err and len(answer.err.splitlines()) == 1


def test_score_with_a_failing_evaluator(bench: Bench, outside: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import suites

    monkeypatch.setitem(suites.SUITES, "both", ("toy-broken", "toy-score"))
    answer = bench(*outside[1], "--suite", "both")
    assert answer.code == 1 and "evaluator 'toy-broken' failed on synthetic for 'my-gan'" in answer.err
    found = records(outside[0].parent / "runs")
    assert found["my-gan/synthetic--toy-score"]["status"] == "ok"
    assert found["my-gan/synthetic--toy-broken"]["status"] == "failed"


def test_score_on_an_unknown_test_set(bench: Bench, outside: tuple[Path, list[str]]) -> None:
    answer = bench(*outside[1], "--on", "rsna")
    assert answer.code == 2 and "--on rsna: not a test set of this run (synthetic)" in answer.err


# -- translate -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(bench: Bench, toy: Toy, tmp_path: Path) -> Path:
    assert bench("run", *toy).code == 0
    return folder(tmp_path / "runs")


def test_translate_a_folder_of_ones_own(bench: Bench, run: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    save_png(films / "grey.png", chest(1, 64)[:, :48])
    save_png(films / "deep" / "sixteen.png", chest(2, 64, top=65535))
    save_png(films / "colour.png", np.repeat(chest(3, 64)[..., None], 3, axis=2))
    write_dicom(films / "film.dcm", chest(4, 80))
    (films / "broken.png").write_text("no image")
    (films / "notes.txt").write_text("left alone")
    answer = bench("translate", run, films, "--out", tmp_path / "out", "--import", TOY, "--device", "cpu")
    assert answer.code == 1
    assert "skipped: " in answer.err and "broken.png" in answer.err
    assert "4 images translated" in answer.out and "1 skipped" in answer.out
    out = tmp_path / "out"
    assert {p.name for p in (out / "images").iterdir()} == {"grey.png", "sixteen.png", "colour.png", "film.png"}
    assert {p.name for p in (out / "masks").iterdir()} == {"grey.png", "sixteen.png", "colour.png", "film.png"}
    told = json.loads((out / "translations.json").read_text())
    assert told["method"] == "toy" and told["size"] == 32 and told["images"]["grey"]["native"] == [64, 48]
    with Image.open(out / "images" / "grey.png") as image:
        assert image.mode == "L" and image.size == (24, 32), "padding is cut off again"
    first = (out / "images" / "film.png").read_bytes()
    alone = bench("translate", run, films / "film.dcm", "--out", tmp_path / "alone", "--import", TOY, "--device", "cpu")
    assert alone.code == 0 and (tmp_path / "alone" / "images" / "film.png").read_bytes() == first


def test_translate_mistakes(bench: Bench, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    to = ["--out", tmp_path / "out", "--device", "cpu"]
    for words, expected in (
        ([run, tmp_path / "empty", *to, "--import", TOY], "no DICOM, PNG or JPEG file there"),
        ([run, tmp_path / "nowhere", *to, "--import", TOY], "nowhere does not exist"),
        ([tmp_path, tmp_path / "empty", *to], "is not a run: it has no config.json"),
    ):
        answer = bench("translate", *words)
        assert answer.code == 2 and expected in answer.err and len(answer.err.splitlines()) == 1
    forget_imports()
    answer = bench("translate", run, tmp_path / "empty", *to)
    assert answer.code == 2 and "toy" in answer.err and "--import" in answer.err
    (run / "train.json").unlink()
    answer = bench("translate", run, tmp_path / "empty", *to, "--import", TOY)
    assert answer.code == 2 and "its training did not finish. Run the same `bench run` command again" in answer.err


# -- check -----------------------------------------------------------------------------------------------------------------


def test_check_of_a_good_method(bench: Bench) -> None:
    answer = bench("check", "--method", "toy", "--import", TOY)
    assert answer.code == 0 and "toy: holds the contract" in answer.out
    assert bench("check", "--method", "original").code == 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("paper = ''", "paper is empty"),
        ("license = ''", "license is empty"),
        ("directions = ('left',)", "directions must be among 'a2b' and 'b2a'"),
        ("Config = None", "Config is missing"),
        ("version = 1\n    def optimizers(self): return {}", "optimizers() returned none"),
        ("def step(self, batch, optim, stage): return None", "step must return a dict of scalar losses, not NoneType"),
        ("def step(self, *a): return {'x': torch.tensor(float('nan'))}", "step's 'x' is nan after 1 steps"),
        ("def step(self, *a): return {'x': torch.zeros(2)}", "step's 'x' must be a detached scalar tensor"),
        ("def step(self, *a): return {'x': torch.zeros(())}", "two steps changed nothing under optimizer"),
        ("def step(self, *a): raise ValueError('no')", "ValueError: no"),
        ("def lr_factor(self, step, total): return -1.0", "lr_factor must be finite and not negative"),
        ("def translate(self, x, d='a2b', s=None): return x", "translate must return a Translation, not Tensor"),
        ("def translate(self, x, d='a2b', s=None): return Translation(x[:1])", "translate returned (1, 1, 64, 64) for (2, 1, 64, 64)"),
        ("def translate(self, x, d='a2b', s=None): return Translation(x * 3)", "must be finite and in [-1, 1]"),
        ("def translate(self, x, d='a2b', s=None): return Translation(torch.rand_like(x))", "other values for the same images"),
        ("def translate(self, x, d='a2b', s=None): return Translation(x - x.mean(0))", "depends on the other images"),
        ("def translate(self, x, d='a2b', s=None): return Translation(x, x)", "with values in [0, 1]"),
        ("def translate(self, x, d='a2b', s=None): raise KeyError('seeds')", "KeyError: 'seeds'"),
    ],
)
def test_check_names_what_breaks_the_contract(bench: Bench, tmp_path: Path, body: str, expected: str) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        f"import torch\nfrom bench.contracts import Translation\nfrom bench.registry import METHODS, import_file, register_method\n"
        f"import_file({str(TOY)!r})\n@register_method('bad')\nclass Bad(METHODS.get('toy')):\n    {body}\n"
    )
    answer = bench("check", "--method", "bad", "--import", plugin)
    assert answer.code == 1 and answer.err.startswith("error: method 'bad': ")
    assert expected in answer.err and len(answer.err.splitlines()) == 1
