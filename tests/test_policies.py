"""Data policies: what nobody stated is not open; what may be looked at but not passed on is shown, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from case_tools import two_methods
from conftest import Bench
from fixtures_data import make_folder
from page_tools import Tab, case_sets, data_of, needs_browser

from bench import records
from bench.data.contract import Reader
from bench.data.readers.folder import Folder
from bench.data.readers.synthetic import Synthetic
from bench.files import read_json, write_json
from leaderboards import cases
from leaderboards.page import page

FORBIDDEN = "Do not pass this file on"


def test_data_that_nobody_said_anything_of_are_not_open(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "mine")
    assert Reader.policy == Folder(root).policy == "no-redistribution"
    assert Folder(root, policy="open").policy == "open" and Synthetic.policy == "open"


@pytest.mark.parametrize(
    ("test", "train", "manifest", "policy", "restricted"),
    [
        ("open", "open", "open", "open", False),
        ("open", "attribution", "open", "attribution", False),
        ("no-redistribution", "open", "open", "no-redistribution", False),
        ("open", "no-redistribution", "open", "no-redistribution", False),
        ("open", "open", "no-redistribution", "no-redistribution", False),
        ("no-redistribution", "credentialed", "open", "credentialed", True),
        ("open", "open", "secret", "secret", True),
    ],
)
def test_the_strictest_policy_of_what_is_shown_holds(
    tmp_path: Path, test: str, train: str, manifest: str, policy: str, restricted: bool
) -> None:
    two = two_methods(tmp_path)
    two.score("ours", policy=test, train_policy=train)
    two.score("cyclegan", train_policy="open")
    write_json(two.place / "manifest.json", {**read_json(two.place / "manifest.json"), "policy": manifest})
    (found,) = cases.case_sets(two.load())
    assert (found.context["policy"], found.restricted) == (policy, restricted)


@pytest.mark.parametrize(("policy", "said"), [("no-redistribution", True), ("attribution", False), ("open", False)])
def test_the_command_says_what_must_not_be_passed_on(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, policy: str, said: bool
) -> None:
    assert bench("run", *toy).code == 0
    for path in (tmp_path / "runs").rglob("records/*.json"):
        records.write(path, {**json.loads(path.read_text()), "policy": policy})
    web = bench("leaderboard", tmp_path / "runs", "--format", "html", "--table", "general", "--out", tmp_path / "page.html")
    figures = bench("leaderboard", tmp_path / "runs", "--figures", tmp_path / "figures")
    for answer in (web, figures):
        assert answer.code == 0, answer.err
        assert answer.err.count("images of synthetic are shown") == answer.err.count("forbid to pass them on") == int(said)
    data = data_of((tmp_path / "page.html").read_text())
    assert len(data["kept"]) == int(said) and data["sets"] and not data["withheld"]
    assert (tmp_path / "figures" / "figure3-synthetic.png").is_file()


@needs_browser
def test_the_page_says_so_beside_the_cases(browser: Any, tmp_path: Path) -> None:
    first, *others = case_sets()
    for policy in ("no-redistribution", "open"):
        kept = replace(first, context={"policy": policy})
        (tmp_path / "page.html").write_text(page([], [kept, *others], {}, "", ""))
        tab = Tab(browser, tmp_path / "page.html")
        words = tab.page.locator("#cases").inner_text()
        assert (FORBIDDEN in words) == (policy == "no-redistribution") and tab.complaints == []
        assert (f"{kept.title}: the terms" in words) == (policy == "no-redistribution")
        tab.context.close()
