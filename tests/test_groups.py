"""Names of rows whose configurations differ, and records that a later one outdoes."""

from __future__ import annotations

from typing import Any

import pytest
from leaderboard_tools import fidelity, record, score

from leaderboards import groups
from leaderboards.render import leaderboard
from leaderboards.tables import tables

FULL = {"aaspm": True, "baml": True, "fa": True, "lca": True, "lr": 1e-4, "style": "fixed", "betas": [0.5, 0.9]}


def row(name: str, config: dict[str, Any] | None, method: str = "ours", **changes: Any) -> dict[str, Any]:
    """A record of a configuration whose hash starts with eight times `name`."""
    value = (ord(name) - ord("0")) / 10
    return fidelity(method, value, 50 + value, config_fingerprint=name * 16, method_config=config, **changes)


def names(*rows: dict[str, Any]) -> list[str]:
    """Labels of one table, in the order of the rows given (by their values)."""
    (table,) = tables([*reversed(rows)])
    return [line.label for line in table.rows]


def test_a_single_configuration_needs_no_name() -> None:
    assert names(row("1", FULL), fidelity("cut", 9.0, 90.0)) == ["ours", "cut"]


def test_rows_are_named_by_the_keys_in_which_they_differ() -> None:
    assert names(row("1", FULL), row("2", FULL | {"lca": False})) == ["ours (lca=true)", "ours (lca=false)"]
    some = [row("1", FULL), row("2", FULL | {"lca": False, "lr": 2e-4}), row("3", FULL | {"lr": 2e-4})]
    assert names(*some) == ["ours (lca=true, lr=0.0001)", "ours (lca=false, lr=0.0002)", "ours (lca=true, lr=0.0002)"]
    assert names(row("1", FULL), row("2", FULL | {"betas": []})) == ["ours (betas=0.5+0.9)", "ours (betas=none)"]
    assert names(row("1", FULL), row("2", FULL | {"new": 1})) == ["ours (without new)", "ours (new=1)"]


def test_many_switches_become_signs() -> None:
    none = FULL | dict.fromkeys(("aaspm", "baml", "fa", "lca"), False)
    some = [row("1", none), row("2", none | {"aaspm": True, "fa": True}), row("3", FULL)]
    assert names(*some) == ["ours (-aaspm -baml -fa -lca)", "ours (+aaspm -baml +fa -lca)", "ours (+aaspm +baml +fa +lca)"]
    some = [row("1", none), row("2", FULL | {"style": "free"})]
    assert names(*some) == ["ours (-aaspm -baml -fa -lca, style=fixed)", "ours (+aaspm +baml +fa +lca, style=free)"]


def test_hashes_where_keys_would_not_do() -> None:
    hashes = ["ours (11111111)", "ours (22222222)"]
    numbers = {"a": 1, "b": 1, "c": 1, "d": 1}
    assert names(row("1", numbers), row("2", dict.fromkeys(numbers, 2))) == hashes, "more than three"
    assert names(row("1", FULL), row("2", FULL)) == hashes, "trainings that differ in something else"
    assert names(row("1", None), row("2", None)) == hashes, "nothing is known"
    assert names(row("1", FULL), row("2", None)) == hashes, "one alone differs from nothing that is known"
    assert names(row("1", {"style": "x" * 99}), row("2", {"style": "y"})) == ["ours (11111111)", "ours (style=y)"]
    switches = dict.fromkeys("abcdefg", True)
    assert names(row("1", switches), row("2", dict.fromkeys(switches, False))) == hashes, "seven signs are no name"
    three = [row("1", FULL), row("2", FULL | {"lca": False}), row("3", FULL | {"lca": False})]
    assert names(*three) == ["ours (lca=true)", "ours (lca=false, 22222222)", "ours (lca=false, 33333333)"]
    assert names(row("1", FULL), row("2", FULL | {"lca": False}), row("3", None))[2] == "ours (33333333)"


def test_versions_stand_before_configurations() -> None:
    some = [row("1", FULL), row("2", FULL | {"lca": False}), row("3", FULL, method_version=2)]
    assert names(*some) == ["ours v1 (lca=true)", "ours v1 (lca=false)", "ours v2"]
    some = [row("1", FULL, "a"), row("2", FULL | {"lca": False}, "b")]
    assert names(*some) == ["a", "b"], "other methods are no namesakes"


def test_names_hold_in_every_line_of_a_table() -> None:
    """Warnings and notes name rows as the table does."""
    some = [row("1", FULL, warnings=["slow"]), row("2", FULL | {"lca": False})]
    some.append(row("2", FULL | {"lca": False}, status="failed", error="boom") | {"evaluator": "detection", "scores": {}})
    text = leaderboard(some)
    assert "11111111" not in text and "22222222" not in text and "boom" in text
    assert text.count("ours (lca=true)") > 1 and text.count("ours (lca=false)") > 1


def test_a_bar_in_a_value_is_no_column() -> None:
    plain, barred = (leaderboard([row("1", {"style": text}), row("2", {"style": "b"})]) for text in ("a", "a|b"))
    widths = [{line.count("|") - line.count(r"\|") for line in text.splitlines() if line.startswith("|")} for text in (plain, barred)]
    assert widths[0] == widths[1]


# -- several records of one score -------------------------------------------------------------------------------------------


def dated(day: int, value: float, **changes: Any) -> dict[str, Any]:
    return fidelity("a", value, 1.0, written=f"2026-01-0{day}T00:00:00+00:00", **changes)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_newest_counts_and_the_older_are_counted(order: tuple[int, ...]) -> None:
    rows = [dated(1, 0.1), dated(3, 0.3), dated(2, 0.2)]
    text = leaderboard([rows[k] for k in order] + [fidelity("original", 9.0, 9.0)])
    assert "0.300" in text and "0.100" not in text and "0.200" not in text
    assert "Of several records of one score the last written counts; older ones left out: 2 (a 2)." in text.splitlines()[-1]


def test_what_is_no_older_record_of_a_score() -> None:
    one = dated(1, 0.1)
    for other in (
        dict(one), dated(2, 0.1, seed=1), dated(2, 0.1, preset="small"), dated(2, 0.1, dataset_fingerprint="f"),
        dated(2, 0.1, config_fingerprint="x"), dated(2, 0.1, params={"extractor": "cxr"}), dated(2, 0.1, evaluator_version=2),
        record("a", "faithfulness", scores={"psnr": score(1.0)}, written="2026-01-02T00:00:00+00:00"),
    ):  # fmt: skip
        assert not groups.older([one, other]) and "left out" not in leaderboard([one, other]).splitlines()[-1]
    failed = dated(0, 0.0, status="failed", scores={}, error="boom")
    assert groups.outdone([failed, one]) == "", "a failure that was mended is no score"


def test_rows_of_one_command_do_not_mend_each_other() -> None:
    """A row of a suite that failed stays in the table beside those made after it; another command ends what was given up."""
    failed = dated(1, 0.0, status="failed", scores={}, error="boom", command="bench run --suite rows", config_fingerprint="f" * 16)
    other, same = dated(2, 0.1, command=failed["command"]), dated(2, 0.2, command=failed["command"], config_fingerprint="f" * 16)
    assert "boom" in leaderboard([failed, other]) and "boom" not in leaderboard([failed, same])
    assert "boom" not in leaderboard([failed, {**other, "command": "bench run"}])
    assert "boom" in leaderboard([failed, {**same, "written": "2025-01-01T00:00:00+00:00"}])


def test_older_records_by_group_and_row() -> None:
    rows = [dated(1, 0.1), dated(2, 0.2), dated(1, 0.1, seed=1), dated(2, 0.2, seed=1), dated(1, 0.1, preset="small")]
    ((group, counts),) = groups.older(rows).items()
    assert "paper" in group and group in dict(groups.groups(rows))
    assert counts == {("a", "1", "cfg-a"): 2}
