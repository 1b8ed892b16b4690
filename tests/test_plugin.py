"""Methods and evaluators from outside the repository."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY, Bench, forget_imports, records

METHOD = '''
from dataclasses import dataclass

import torch
from torch import nn

from bench.contracts import Evaluator, Method, Metric, Score, Translation
from bench.registry import register_evaluator, register_method


@register_method("outsider")
class Outsider(Method):
    paper, license = "mine", "MIT"

    @dataclass(frozen=True)
    class Config:
        lr: float = 0.01

    def __init__(self, config, channels, prior=None):
        super().__init__(config, channels)
        self.net = nn.Conv2d(channels, channels, 3, padding=1)

    def optimizers(self):
        return {"G": torch.optim.Adam(self.net.parameters(), lr=self.config.lr)}

    def step(self, batch, optim, stage):
        loss = (self.net(batch.opacity) - batch.clear.mean()).square().mean()
        optim["G"].update_params(loss)
        return {"loss": loss.detach()}

    def translate(self, images, direction="a2b", seeds=None):
        return Translation(self.net(images).clamp(-1, 1))


@register_evaluator("brightness")
class Brightness(Evaluator):
    @dataclass(frozen=True)
    class Config:
        pass

    @classmethod
    def metrics(cls, params):
        return (Metric("brightness", "Brightness", "none", primary=True),)

    def score(self, job):
        return {"brightness": Score(float(job.translated.pixels().mean()), len(job.translated))}
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "my_method.py"
    path.write_text(METHOD)
    return path


def test_through_the_whole_pipeline(bench: Bench, plugin: Path, tmp_path: Path, cache: Path) -> None:
    assert len(METHOD.strip().splitlines()) <= 60
    checked = bench("check", "--method", "outsider", "--import", plugin)
    assert checked.code == 0 and "holds the contract" in checked.out

    runs = tmp_path / "runs"
    flags = [w for w in TINY if w not in ("--import", TINY[1])]
    words = ["run", "--method", "outsider", "--suite", "brightness", "--import", plugin, *flags, "--runs", runs, "--cache", cache]
    done = bench(*words)
    assert done.code == 0, done.err
    found = records(runs)
    assert set(found) == {"outsider/synthetic--brightness", "original/synthetic--brightness"}
    mine = found["outsider/synthetic--brightness"]
    assert mine["status"] == "ok" and mine["trained_by"] == "harness" and mine["cost"]["iterations"] == 6
    assert mine["scores"]["brightness"]["n"] == mine["n_translated"] > 0
    origin = (runs / "outsider").rglob("config.json")
    assert '"my_method.py@' in next(origin).read_text()

    board = bench("leaderboard", runs)
    assert "outsider" in board.out and "original" in board.out and "Brightness" in board.out

    plugin.write_text(METHOD + "\n# a change of mine\n")  # another file is another method: nothing of the old one counts
    forget_imports()
    again = bench(*words, "--dry-run")
    assert "cached" not in next(line for line in again.out.splitlines() if line.startswith("train"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from bench.registry import register_method\n@register_method('ours')\nclass Mine: pass\n", "method 'ours' is built in"),
        ("import os\n\nraise ValueError('oh no')\n", "bad.py, line 3: ValueError: oh no"),
        ("import no_such_package\n", "bad.py, line 1: ModuleNotFoundError"),
        ("def f(:\n", "SyntaxError: invalid syntax (bad.py, line 1)"),
    ],
    ids=["taken name", "raises", "import", "syntax"],
)
def test_bad_plugin_is_one_line(bench: Bench, tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    answer = bench("list", "methods", "--import", path)
    assert answer.code == 2
    assert expected in answer.err and len(answer.err.strip().splitlines()) == 1


def test_two_plugins_cannot_share_a_name(bench: Bench, tmp_path: Path) -> None:
    text = "from bench.registry import register_evaluator\n@register_evaluator('twice')\nclass Mine: pass\n"
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text(text)
    two.write_text(text)
    answer = bench("list", "evaluators", "--import", one, "--import", two)
    assert answer.code == 2 and "two.py" in answer.err and "twice" in answer.err


def test_missing_file(bench: Bench, tmp_path: Path) -> None:
    answer = bench("check", "--method", "x", "--import", tmp_path / "nowhere.py")
    assert answer.code == 2 and "nowhere.py does not exist" in answer.err


def test_installed_plugins_are_found_and_a_broken_one_does_not_hide_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def good() -> None:
        from bench.registry import METHODS, register_method

        if "installed" not in METHODS.names():
            register_method("installed")(type("Installed", (), {"__module__": __name__}))

    def broken() -> None:
        raise ImportError("no module named something")

    points = [SimpleNamespace(name="broken", load=broken), SimpleNamespace(name="good", load=good)]
    asked = []

    def entry_points(group: str) -> list[SimpleNamespace]:
        asked.append(group)
        return points

    monkeypatch.setattr("bench.registry.entry_points", entry_points)
    answer = bench("list", "methods")
    assert answer.code == 0 and "installed" in answer.out and asked == ["bench.plugins"]
    assert "plug-in 'broken' could not be imported: ImportError: no module named something" in answer.err
