"""The web page in a real browser: outlines at borders, words for what outlines cannot show, scores with their units, print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_tools import Tab, entry, needs_browser, ramp, sheet

from leaderboards.cases import Case, CaseSet, Flags, Result
from leaderboards.page import page
from leaderboards.sheet import Head, Line, Sheet
from leaderboards.tables import Column

pytestmark = needs_browser
SIZE = 32
METRICS = {
    "segmentation/miou": Column("segmentation", "miou", "mIoU", "higher", "%", 1, True),
    "toy/n": Column("toy", "n", "Boxes", "none", "", 0, True),
}
SCORES = {"segmentation/miou": 12.3456, "toy/n": 3.0, "other/raw": 0.123456}


def left(columns: int) -> Flags:
    """The first columns of an image."""
    found: Flags = np.zeros((SIZE, SIZE), np.bool_)
    found[4:28, :columns] = True
    return found


def some_case() -> CaseSet:
    """Input without lungs by U-Net; one method sees them at the border, one everywhere in an image with padding."""
    inside = np.zeros((SIZE, SIZE), np.bool_)
    inside[:, 4:28] = True
    nothing = np.zeros((SIZE, SIZE), np.bool_)
    results = {
        "cut": Result(ramp(SIZE, 1), lungs={"PSPNet": nothing, "U-Net": left(16)}, scores=SCORES),
        "ours": Result(ramp(SIZE, 2), lungs={"PSPNet": nothing, "U-Net": inside}, scores={**SCORES, "toy/n": 4.0}),
    }
    case = Case("img-0", ramp(SIZE, 0), results, lungs_before={"PSPNet": nothing, "U-Net": nothing}, inside=inside, why="best")
    return CaseSet("one", "Set one", "First.", False, ("cut", "ours"), (case, replace(case, image_id="img-1")), metrics=METRICS)


def wide() -> Sheet:
    """Table 1 of three test sets: long headings, deviations and intervals in every cell."""
    heads = tuple(
        Head(label, f"{group} of synthetic{'-clear' * (k % 2)}", better, unit, 2, f"{group}{label}{k}")
        for k in range(3)
        for group, label, better, unit in (
            ("Images", "FD-inception", "lower", ""), ("Images", "KD-inception", "lower", ""), ("Lungs", "mIoU delta", "higher", "pp"),
            ("Lungs", "mIoU", "higher", "%"), ("Lungs", "Sensitivity", "higher", "%"),
        )
    )  # fmt: skip
    cell = entry(-541.37, std=113.25, ci=(-1413.32, -669.41), n=(38,), seeds=3)
    return Sheet("table1", "Table 1", {}, heads, tuple(Line(f"method number {k}", (cell,) * len(heads)) for k in range(4)))


@pytest.fixture
def tab(browser: Any, tmp_path: Path) -> Iterator[Tab]:
    path = tmp_path / "page.html"
    path.write_text(page([sheet(), wide()], [some_case()], {}, "", ""))
    opened = Tab(browser, path, viewport={"width": 1280, "height": 900})
    yield opened
    assert opened.complaints == []
    opened.context.close()


def draw(tab: Tab, words: str, canvases: int) -> None:
    tab.page.get_by_role("checkbox", name=words).check()
    tab.page.wait_for_function(f"document.querySelectorAll('.stage canvas').length === {canvases}")


def test_the_segmenter_of_figure_4_is_chosen_first(tab: Tab) -> None:
    select = tab.page.get_by_label("Lungs as seen by")
    assert select.input_value() == "U-Net" and select.locator("option").all_inner_texts() == ["PSPNet", "U-Net"]
    select.select_option("PSPNet")
    tab.page.get_by_label("Method", exact=True).select_option("ours")
    assert select.input_value() == "PSPNet", "a choice is kept"


def test_outlines_end_at_the_border(tab: Tab) -> None:
    draw(tab, "Lungs in the translation", 1)
    row = "node => [...node.getContext('2d').getImageData(0, node.height / 2, node.width, 1).data]"
    drawn = np.flatnonzero(np.reshape(tab.page.locator(".stage canvas").evaluate(row), (1024, 4))[:, 3])
    assert drawn.min() == 0 and set(np.round(drawn[drawn > 100] / 32)) == {16}, "left edge at the border, right edge in the middle"


def test_what_outlines_cannot_show_is_said(tab: Tab) -> None:
    assert tab.page.locator(".odd").count() == 0, "nothing is drawn yet"
    draw(tab, "Lungs in the input", 1)
    assert tab.page.locator(".odd").all_inner_texts() == ["Input: no lungs found"]
    draw(tab, "Lungs in the translation", 2)
    assert tab.page.locator(".odd").all_inner_texts() == ["Input: no lungs found"]
    tab.page.get_by_label("Method", exact=True).select_option("ours")
    tab.page.wait_for_function("document.querySelectorAll('.odd').length === 2")
    assert tab.page.locator(".odd").all_inner_texts() == ["Translation: whole image", "Input: no lungs found"]


def test_scores_have_names_units_and_directions_and_none_looks_best(tab: Tab) -> None:
    rows = tab.page.locator(".scores tbody tr")
    assert rows.nth(0).locator("th").inner_text().split() == ["mIoU", "(%)", "↑", ",", "higher", "is", "better", "segmentation"]
    assert rows.nth(1).locator("th").inner_text().split() == ["Boxes", "toy"], "not ranked"
    assert rows.locator("td").all_inner_texts() == ["12.3", "3", "0.1235"], "rounded as in tables; an unknown one to 4 digits"
    assert rows.nth(2).locator("th").inner_text() == "other/raw"
    tab.page.get_by_label("All methods side by side").check()
    assert tab.page.locator(".scores thead th").all_inner_texts() == ["Score", "cut\nselected", "ours"]
    mine, other = (tab.page.locator(".scores tbody tr").first.locator("td").nth(k) for k in (0, 1))
    style = "node => [getComputedStyle(node).fontWeight, getComputedStyle(node).backgroundColor]"
    (weight, back), (plain, ground) = mine.evaluate(style), other.evaluate(style)
    assert weight == plain and back != ground, "bold means best elsewhere on the page"


def test_hiding_the_column_that_rows_are_sorted_by_ends_the_sorting(tab: Tab) -> None:
    order = tab.column(0)
    tab.heading(0).locator("button").click()
    assert tab.column(0) != order
    chooser = tab.page.locator("details.choose").first
    chooser.locator("summary").click()
    chooser.get_by_label("n_found").uncheck()
    assert tab.column(0) != order, "another column"
    chooser.get_by_label("FD").uncheck()
    assert tab.column(0) == order and "sorted" not in tab.page.locator(".sheet [role=status]").first.inner_text()
    chooser.get_by_label("FD").check()
    assert tab.heading(0).get_attribute("aria-sort") == "none"


#: What of the tables lies outside the paper, and cells whose words run into the next.
OUTSIDE = """() => [...document.querySelectorAll('.sheet > .scroll > table')].flatMap(table => [...table.querySelectorAll('th, td')])
  .filter(cell => cell.getBoundingClientRect().right > document.documentElement.clientWidth + 1
    || cell.scrollWidth > cell.clientWidth + 1 && cell.clientWidth).map(cell => cell.textContent)"""
#: Pixels of 1/96 inch that 10 mm of margin leave of the narrower usual paper, US Letter, on its side.
LETTER = 979


def test_print_has_all_columns_and_says_which_case_it_shows(browser: Any, tab: Tab) -> None:
    line = tab.page.locator(".paper")
    assert not line.is_visible()
    tab.page.keyboard.press("Tab")
    tab.page.get_by_role("button", name="Next case").click()
    tab.page.set_viewport_size({"width": LETTER, "height": 700})
    tab.page.emulate_media(media="print")
    assert line.is_visible() and line.inner_text() == "Set one. Case 2 of 2: img-1 (best), cut."
    assert tab.page.evaluate("document.documentElement.scrollWidth") == LETTER
    assert tab.page.evaluate(OUTSIDE) == []
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", tab.page.pdf(prefer_css_page_size=True))
    assert boxes and all(float(width) > float(height) for width, height in boxes), "on its side"
