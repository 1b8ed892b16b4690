"""The picture of several methods side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.axes
import numpy as np
import pytest
from conftest import TINY, Bench

from bench import ending, stages
from bench.errors import BenchError

TWINS = """
import os

from bench.contracts import Translation
from bench.registry import METHODS, register_method


class Gamma(METHODS.get("original")):
    gamma = 1.0

    def translate(self, images, direction="a2b", seeds=None):
        return Translation(((images + 1) / 2).pow(self.gamma * float(os.environ.get("POWER", "1"))) * 2 - 1)


register_method("dark")(type("Dark", (Gamma,), {"gamma": 2.0, "__module__": __name__}))
register_method("bright")(type("Bright", (Gamma,), {"gamma": 0.5, "__module__": __name__}))
"""


def test_several_methods_are_drawn_on_the_same_images(
    bench: Bench, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, runs = tmp_path / "twins.py", tmp_path / "runs"
    plugin.write_text(TWINS)
    drawn: list[tuple[matplotlib.axes.Axes, float]] = []
    show = matplotlib.axes.Axes.imshow

    def seen(axis: matplotlib.axes.Axes, image: Any, **options: Any) -> Any:
        drawn.append((axis, float(np.mean(image))))
        return show(axis, image, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "imshow", seen)
    words = ("run", "--suite", "toy-score", *TINY, "--import", plugin, "--runs", runs, "--cache", cache)
    assert bench(*words, "--method", "dark").code == 0
    assert not (runs / "pictures").exists(), "one method has nobody to stand beside"

    drawn.clear()
    both = bench(*words, "--method", "dark,bright")
    assert both.code == 0, both.err
    (picture,) = (runs / "pictures").iterdir()
    assert str(picture) in both.out and picture.name.startswith("synthetic-")
    assert both.out.count("results ") == 2 and both.out.count("picture ") == 1, "folders instead of every method's pictures"
    titles = [axis.get_title() for axis, _ in drawn]
    assert [t for t in titles if t] == ["input", "dark", "bright", "true clear image"]
    rows = len(drawn) // 4
    before, dark, bright = (np.array([mean for _, mean in drawn[i * rows : (i + 1) * rows]]) for i in range(3))
    assert rows > 0 and (dark < before).all() and (bright > before).all()

    drawn.clear()
    assert str(picture) in bench(*words, "--method", "dark,bright").out and not drawn, "kept, not drawn again"

    monkeypatch.setenv("POWER", "1.5")
    answer = bench(*words, "--method", "dark,bright", "--force", "translate")
    assert answer.code == 0, answer.err
    (other,) = (runs / "pictures").iterdir()
    assert other != picture and str(other) in answer.out and drawn, "other images of the same methods: the old picture is gone"


def test_a_picture_that_cannot_be_drawn_is_a_warning(
    bench: Bench, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, runs = tmp_path / "twins.py", tmp_path / "runs"
    plugin.write_text(TWINS)

    def broken(*_: Any) -> None:
        raise ValueError("no font")

    monkeypatch.setattr(ending, "comparison_grid", broken)
    words = ("run", "--suite", "toy-score", *TINY, "--import", plugin, "--runs", runs, "--cache", cache, "--method", "dark,bright")
    answer = bench(*words)
    assert answer.code == 0 and "leaderboard  " in answer.out and (runs / "leaderboard.md").is_file()
    assert "synthetic: no picture of the methods side by side: ValueError: no font" in answer.err


def test_what_is_not_done_is_not_drawn(bench: Bench, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Translations of an earlier run lie there still, but this one could not make them."""
    plugin, runs = tmp_path / "twins.py", tmp_path / "runs"
    plugin.write_text(TWINS)
    words = ("run", "--suite", "toy-score", *TINY, "--import", plugin, "--runs", runs, "--cache", cache, "--method", "toy,dark")
    assert bench(*words).code == 0
    next((runs / "toy").rglob("train.json")).unlink()
    (picture,) = (runs / "pictures").iterdir()
    picture.unlink()

    def broken(*_: Any, **__: Any) -> None:
        raise BenchError("no training today")

    monkeypatch.setattr(stages, "fit", broken)
    answer = bench(*words)
    assert answer.code == 1 and "no training today" in answer.err and not any((runs / "pictures").iterdir())
