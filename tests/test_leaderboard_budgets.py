"""Trainings that are not their preset's stand in no ranking with those that are; labels, reasons, and what may differ."""

from __future__ import annotations

from typing import Any

import pytest
from paper_tools import distances, entry, line, marks

from leaderboards.budgets import strange
from leaderboards.paper import sheets
from leaderboards.render import leaderboard
from leaderboards.sheet import BEST, SECOND

KEY = "rsna.fidelity.fid"


def trained(method: str, fid: float, iterations: int = 400, **changes: Any) -> dict[str, Any]:
    """A record of preset quick; `changes` of the cost in ``cost``."""
    cost = {"iterations": iterations, "images_seen": 4 * iterations, "precision": "fp32", **changes.pop("cost", {})}
    config = {"width": 16}
    return distances(method, fid, fid / 1000, 0.1, **{"preset": "quick", "cost": cost, "method_config": config, **changes})


ORIGINAL = distances("original", 80.0, 0.08, 0.1, preset="quick")


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        ({"iterations": 2}, "iterations 2 instead of 400"),
        ({"precision": "bf16"}, "precision bf16 instead of fp32"),
        ({"tf32": True}, "tf32 true instead of false"),
        ({"batch_size": 1}, "batch_size 1 instead of 4"),
    ],
)
def test_another_budget_or_precision_is_not_ranked_and_says_why(cost: dict[str, Any], words: str) -> None:
    rows = [ORIGINAL, trained("unit", 70.0), trained("cut", 75.0), trained("drit", 1.0, cost=cost)]
    (sheet,) = sheets(rows, "1")
    assert marks(sheet, KEY) == {"original": "", "unit": BEST, "cut": SECOND, "drit": ""}
    assert [one.label for one in sheet.lines][-1] == "drit", "it is no rank"
    reason = f"trained differently from preset quick: {words}"
    cell = entry(sheet, "drit", KEY).cell
    assert cell and cell.doubt == reason and any(reason in told and "(drit)" in told for told in sheet.below)
    text = leaderboard(rows)
    assert f"{reason} (drit)." in text and "1.00 [0.90, 1.10] †" in text and "**70.00**" in text


def test_two_budgets_of_a_method_are_told_by_them() -> None:
    (sheet,) = sheets([trained("unit", 70.0), trained("unit", 60.0, 2, config_fingerprint="other"), trained("cut", 75.0)], "1")
    assert {one.label for one in sheet.lines} == {"unit (iterations=400)", "unit (iterations=2)", "cut"}
    assert marks(sheet, KEY) == {"unit (iterations=400)": BEST, "cut": SECOND, "unit (iterations=2)": ""}
    assert line(sheet, "unit (iterations=2)").who == ("unit", "1", "other")


def test_methods_may_have_the_budgets_that_their_preset_gives_them() -> None:
    rows = [trained("unit", 70.0, 1_000_000, preset="paper"), trained("ours", 75.0, 250_000, preset="paper")]
    assert all(strange(row) == {} for row in rows)
    assert strange(trained("ours", 75.0, 1_000_000, preset="paper")) == {"iterations": (1_000_000, 250_000)}


def test_all_trained_in_the_same_other_way_compare_with_each_other() -> None:
    (sheet,) = sheets([ORIGINAL, trained("unit", 70.0, 9), trained("cut", 75.0, 9)], "1")
    assert marks(sheet, KEY) == {"original": "", "unit": BEST, "cut": SECOND}
    words = "All methods: trained differently from preset quick: iterations 9 instead of 400. They compare with each other, not"
    assert any(told.startswith(words) for told in sheet.above)
    assert words in leaderboard([ORIGINAL, trained("unit", 70.0, 9), trained("cut", 75.0, 9)])


@pytest.mark.parametrize("changes", [{"preset": "mine"}, {"cost": {"iterations": None, "precision": None}}])
def test_what_is_not_known_is_not_doubted(changes: dict[str, Any]) -> None:
    found = trained("unit", 70.0, 2, **changes)
    assert strange(found) == {} and strange(ORIGINAL) == {}
    assert "trained differently" not in leaderboard([found])
