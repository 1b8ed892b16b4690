"""The command line: help, nearest names, exit codes, and the verbs that look at things. Images from elsewhere: test_external."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TOY, Bench, folder, spawn
from fixtures_data import chest, save_png

from bench.progress import Progress

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


#: What planning has no use for, and what each costs a part of a second or more to import.
HEAVY = (
    "monai", "segmentation_models_pytorch", "timm", "torchmetrics", "sklearn", "matplotlib", "pandas", "torch_fidelity",
    "torchvision", "ultralytics", "scipy.stats",
)  # fmt: skip


def test_planning_imports_no_library_that_only_computing_needs(tmp_path: Path) -> None:
    code = f"""
import sys
from bench import cli
for words in (["run", "--method", "ours", "--dry-run", "--runs", {str(tmp_path / "runs")!r}], ["assets"]):
    print("CODE", cli._main(words), *[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if line.startswith("CODE")] == ["CODE 0"] * 2, done.stderr


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
        ("run --method original --set datasets.synthetic.imges=9", "Did you mean 'datasets.synthetic.images'?"),
        ("run --method original --set datasets.rsna.mising=skip", "Did you mean 'datasets.rsna.missing'?"),
        ("run --method original --set datasets.jsrt.foo=1", "'datasets.jsrt.foo'"),
        ("run --method original --data synthetc", "unknown dataset 'synthetc'. Did you mean 'synthetic'?"),
        ("run --method original --data synthetic,imges=3", "Did you mean 'images'?"),
        ("run --method original --data =", "--data '=': expected NAME, NAME=PATH"),
        ("run --method original --data synthetic --data synthetic", "dataset 'synthetic' is named twice"),
        ("run --method original --data synthetic,images=9 --train-on rsna", "--train-on rsna: not among --data (synthetic)"),
        ("run --method original --force trian", "unknown word 'trian'. Did you mean 'train'?"),
        ("run --method original --seeds a", "--seeds a: whole numbers"),
        ("run --method original --seeds ,", "--seeds ,: whole numbers, for example --seeds 0,1,2"),
        ("run --method original --seeds 0,1,", "--seeds 0,1,: whole numbers"),
        ("run --method original --seeds 1,0,01", "--seeds 1,0,01: a seed is given twice"),
        ("run --method original --json", "--json goes with --dry-run"),
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
    assert answer.code == 3 and len(answer.err.splitlines()) == 1 and "it is a file). Choose another --runs DIR" in answer.err


@pytest.mark.parametrize("flag", ["--runs", "--cache"])
@pytest.mark.parametrize("place", ["/proc/nope", "/sys/nope", "/dev/null"])
def test_a_place_that_cannot_be_written_is_found_first(bench: Bench, toy: Toy, flag: str, place: str) -> None:
    answer = bench("run", *toy, flag, place)
    assert answer.code == 3 and len(answer.err.splitlines()) == 1 and not answer.out
    assert answer.err.startswith(f"error: {flag} {place}: cannot write there (") and f"Choose another {flag} DIR." in answer.err
    dry = bench("run", *toy, flag, place, "--dry-run")
    assert len(dry.err.splitlines()) <= 1


def test_only_the_first_of_several_processes_speaks(bench: Bench, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    mistakes = (["run", *toy, "--preset", "quik"], ["run", "--metod", "x"], ["run", *toy, "--runs", "/proc/nope"])
    told = [bench(*words) for words in mistakes]
    monkeypatch.setenv("RANK", "1")
    silent = [bench(*words) for words in mistakes]
    assert [a.code for a in silent] == [a.code for a in told] == [2, 2, 3]
    assert all(a.err for a in told) and not any(a.err for a in silent)


def test_what_the_system_refuses_in_the_middle_is_one_line(
    bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(5, "Input/output error", str(tmp_path / "runs" / "toy" / "train.json"))

    monkeypatch.setattr("bench.pipeline.run", refuse)
    answer = bench("run", *toy)
    assert answer.code == 1 and len(answer.err.splitlines()) == 1
    assert "train.json: Input/output error. Choose another --runs" in answer.err and "Finished work is kept." in answer.err


def test_interrupted_exits_130(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.listing.show", interrupt)
    answer = bench("list")
    assert answer.code == 130 and "finished work is kept, the same command carries on" in answer.err


# -- dry run, list, assets, leaderboard ------------------------------------------------------------------------------------


def test_dry_run_as_json_is_json_alone(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cold cache, so that hashing has something to say, and a display that says all of it."""
    monkeypatch.setattr("bench.pipeline.Progress", functools.partial(Progress, every=-1.0))
    for i in range(8):
        save_png(tmp_path / "folder" / ("opacity", "clear")[i % 2] / f"{i}.png", chest(i, 64))
    words = [*toy, "--cache", str(tmp_path / "cold"), "--data", f"folder={tmp_path / 'folder'}", "--dry-run"]
    answer = bench("run", *words, "--json")
    assert answer.code == 0 and {"stage", "status", "key"} <= set(json.loads(answer.out)[0])
    assert "8/8" in answer.err
    assert "stage" in bench("run", *words).out, "the next call talks as usual"


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
    assert answer.code == 0 and f"{name} or " in answer.out and ": not found" in answer.out and "6726825d0af5f729" in answer.out
    (tmp_path / name).write_text("not it")
    wrong = bench("assets", "--assets", tmp_path)
    assert "WRONG CONTENT" in wrong.out
    assert f"{name} or pt_inception-2015-12-05-6726825d.pth: not found" in answer.out


def test_assets_list_files_of_ones_own_and_what_is_wrong_with_them(bench: Bench, tmp_path: Path) -> None:
    bare = bench("assets")
    for option in (
        "--segmenter-weights unet=FILE", "--segmenter-weights vgg=FILE", "--set evaluators.detection.weights=FILE",
        "--set evaluators.segmentation.encoder_weights=resnet34=FILE", "--set evaluators.classification.weights=densenet=FILE",
        "--set prior.weights=FILE",
    ):  # fmt: skip
        assert f"{option}: not given" in bare.out
    (tmp_path / "unet.pth").write_text("no weights")
    given = bench(
        "assets", "--assets", tmp_path, "--segmenter-weights", "unet=unet.pth", "--set", "evaluators.detection.weights=gone.pt",
    )  # fmt: skip
    assert given.code == 0 and f"--segmenter-weights unet=FILE: found at {tmp_path / 'unet.pth'}" in given.out
    assert "--set evaluators.detection.weights=FILE: NOT FOUND: gone.pt" in given.out
    assert "unet=unet.pth" in given.out + given.err and "cannot be loaded safely" in given.out + given.err


@pytest.mark.parametrize("detector", ["yolo", "fcos"])
@pytest.mark.parametrize("file", ["README.md", "gone.pt", "text.pt"])
def test_detector_files_that_cannot_be_used_block_the_run_at_once(
    bench: Bench, toy: Toy, tmp_path: Path, detector: str, file: str
) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    path = ROOT / file if file == "README.md" else tmp_path / file
    words = ["detection" if word == "toy-score" else word for word in toy]
    sets = [f"evaluators.detection.{text}" for text in (f"weights={path}", f"detector={detector}")]
    answer = bench("run", *words, *(word for text in sets for word in ("--set", text)))
    lines = [line for line in answer.err.splitlines() if line.startswith("error:")]
    assert answer.code == 3 and len(lines) == 1 and str(path) in lines[0] and "evaluators.detection.weights" in lines[0]
    assert "weights_only" not in answer.err + answer.out


def test_assets_of_an_evaluator_of_ones_own(bench: Bench, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "import hashlib\nfrom bench.assets import Asset\nfrom bench.registry import EVALUATORS, import_file, register_evaluator\n"
        f"import_file({str(TOY)!r})\n@register_evaluator('mine')\nclass Mine(EVALUATORS.get('toy-score')):\n"
        "    assets = (Asset(('mine.pth', 'same.pth'), 4, hashlib.sha256(b'mine').hexdigest(), 'mine', 'https://x'),)\n"
    )
    (tmp_path / "same.pth").write_text("mine")
    answer = bench("assets", "--import", plugin, "--assets", tmp_path)
    assert answer.code == 0 and f"mine.pth or same.pth: found at {tmp_path / 'same.pth'}" in answer.out


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
    (broken,) = (folder(tmp_path / "runs") / "records").glob("*.json")
    broken.write_text("{")
    answer = bench("leaderboard", tmp_path / "runs")
    assert answer.code == 0 and "| toy" not in answer.out
    assert f"warning: {broken} is left out of the leaderboard: not valid JSON" in answer.err


def test_leaderboard_out_of_a_part_and_to_bad_places(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    assert bench("run", *toy).code == 0
    run = folder(tmp_path / "runs")
    for part in (run.parents[1], run.parent, run):
        answer = bench("leaderboard", part)
        assert answer.code == 0 and "| toy" in answer.out and "| original" not in answer.out
    both = bench("leaderboard", tmp_path / "runs", run)
    assert both.out == bench("leaderboard", tmp_path / "runs").out, "what is named twice counts once"
    for place, expected in ((tmp_path, "is a folder. Name the file"), ("/proc/x/y.md", "Choose another --out")):
        answer = bench("leaderboard", tmp_path / "runs", "--out", place)
        assert answer.code in (1, 2) and len(answer.err.splitlines()) == 1
        assert str(place) in answer.err and expected in answer.err and "--out" in answer.err
    answer = bench("data", "show", "synthetic", "--out", "/proc/a.png", "--count", "1", "--size", "32")
    assert answer.code == 1 and "Choose another --out (given: /proc/a.png)" in answer.err and len(answer.err.splitlines()) == 1


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
        ("def step(self, *a): return {'x': torch.zeros(())}", "2 steps changed nothing under optimizer"),
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
