"""The web page in a real browser without a network: sorting, filters, slider, keys, overlays, colours, width, size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_tools import HOSTILE, LONG, Tab, case_sets, data_of, disc, grouped, needs_browser, noisy, pixels, png, sheet

from leaderboards.cases import Case, CaseSet, Result
from leaderboards.cells import MISSING
from leaderboards.page import page
from leaderboards.page.images import encoded


@pytest.fixture(scope="module")
def large() -> str:
    """Six methods with masks and lungs, 24 cases; the first of 512 px, the others of 256."""
    methods = tuple(f"method {k}" for k in range(6))
    names = ("U-Net", "PSPNet", "CE-Net", "VGG")

    def one(number: int, size: int) -> Case:
        lungs = {name: disc(size, size / 4 + k + number) for k, name in enumerate(names)}
        images = [noisy(256, 100 * number + k).repeat(size // 256, 0).repeat(size // 256, 1) for k in range(3 + 2 * len(methods))]
        results = {m: Result(images[3 + 2 * k], images[4 + 2 * k], lungs) for k, m in enumerate(methods)}
        return Case(f"img-{number}", images[0], results, images[1], images[2], lungs["VGG"], lungs_before=lungs)

    cases = [one(number, 256 if number else 512) for number in range(24)]
    return page([sheet()], [CaseSet("t", "T", "First 24.", False, methods, tuple(cases))], {}, "text " * 20000, "bench")


def test_six_methods_and_24_cases_fit_at_256_pixels(large: str) -> None:
    assert len(large.encode()) < 5_000_000
    data = data_of(large)
    assert len(data["images"]) > 24 * (3 + 6 * 2)
    image = pixels(data["images"][data["sets"][0]["cases"][0]["image"]])
    assert image.shape == (256, 256)
    told = re.search(r"reduced from 512 to 256 px .* quality (\d+)\).* pixels differ by ([\d.]+) of 255", large)
    assert told and int(told[1]) >= 80 and 0 < float(told[2]) < 4
    assert np.abs(image - noisy(256, 0).astype(float)).mean() <= float(told[2]) + 0.05
    assert len(encoded(noisy(256, 0), None)) > 20_000  # no test at all if the images were easy


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    figures = {"Figure 3. Translations by method.": png(), HOSTILE: png(20, 20)}
    path.write_text(page([sheet(), grouped()], case_sets(), figures, f"# All\n{HOSTILE}", "bench leaderboard runs --format html"))
    return path


@pytest.fixture
def tab(browser: Any, file: Path) -> Iterator[Tab]:
    opened = Tab(browser, file, viewport={"width": 1280, "height": 900})
    yield opened
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    opened.context.close()


@needs_browser
def test_sorting_follows_direction_then_turns_then_ends(tab: Tab) -> None:
    order = tab.column(0)
    assert order[0] == "original" and order[3] == "unit [1]"
    fd = tab.heading(0)
    assert fd.get_attribute("aria-sort") == "none"
    fd.locator("button").click()
    assert fd.get_attribute("aria-sort") == "ascending"  # lower is better
    # by number, not by text; a doubtful value, then a missing one, last
    assert tab.column(1) == ["9.5", "12.0", "90.0", "1.0\u2009†", f"{MISSING}\nno value"]
    fd.locator("button").click()
    assert fd.get_attribute("aria-sort") == "descending" and tab.column(1)[:4] == ["90.0", "12.0", "9.5", "1.0\u2009†"]
    assert tab.column(1)[4].startswith(MISSING)
    miou = tab.heading(1)
    miou.locator("button").focus()
    tab.page.keyboard.press("Enter")
    assert miou.get_attribute("aria-sort") == "descending" and fd.get_attribute("aria-sort") == "none"
    assert tab.column(2) == ["70.50", "70.12", "69.00", "-5.00", "failed"]
    assert "sorted by Lungs mIoU, descending" in tab.page.locator(".sheet [role=status]").first.inner_text()
    tab.page.keyboard.press("Enter")
    assert tab.column(2) == ["-5.00", "69.00", "70.12", "70.50", "failed"]
    tab.page.keyboard.press("Enter")
    assert miou.get_attribute("aria-sort") == "none" and tab.column(0) == order


@needs_browser
def test_rows_of_a_group_are_sorted_among_themselves(tab: Tab) -> None:
    tab.page.locator("table").nth(2).locator('th[data-column="0"] button').click()
    assert tab.column(0, table=2) == ["VGG 1", "VGG 0", "PSP 1", "PSP 0"]
    assert tab.page.locator("table").nth(2).locator("tr.band .stub").all_inner_texts() == ["VGG", "PSP"]


@needs_browser
def test_filter_and_choice_of_columns(tab: Tab) -> None:
    search = tab.page.get_by_label("Show rows with").first
    search.fill("CUT")
    assert tab.column(0) == ["cut"]
    search.fill("failed unit")
    assert tab.column(0) == ["unit [1]"]
    search.fill("nothing like it")
    assert tab.page.locator("table").first.locator("tbody").inner_text() == "No row has these words."
    search.fill("")
    assert len(tab.column(0)) == 5
    chooser = tab.page.locator("details.choose").first
    chooser.locator("summary").click()
    chooser.get_by_label("All columns of Lungs").uncheck()
    headings = tab.page.locator("table").first.locator("thead th")
    assert headings.all_text_contents() == ["Method", "Images", "FD\u00a0↓, lower is better"]
    chooser.get_by_label("mIoU").check()
    assert tab.page.locator("table").first.locator("tbody tr").first.locator("td").count() == 2
    assert chooser.get_by_label("All columns of Lungs").evaluate("box => box.indeterminate")


@needs_browser
def test_marks_doubts_and_failures_are_words_too(tab: Tab) -> None:
    rows = tab.page.locator("table").first.locator("tbody tr")
    assert "best" in rows.nth(1).locator("td").first.locator(".sr").inner_text()
    weight = "node => getComputedStyle(node).fontWeight"
    assert int(rows.nth(1).locator(".best").first.evaluate(weight)) >= 700 > int(rows.nth(2).locator(".value").first.evaluate(weight))
    assert "underline" in rows.nth(2).locator(".second").first.evaluate("node => getComputedStyle(node).textDecorationLine")
    tie = rows.nth(0).locator(".tie").inner_text()
    assert "‡" in tie and "not shown to differ from the best" in tie
    doubtful = rows.nth(3).locator("td").first
    described = tab.page.locator(f"#{doubtful.get_attribute('aria-describedby')}")
    assert "two images only" in described.inner_text() and "†" in doubtful.inner_text()
    notes = tab.page.locator(".sheet .notes").first.inner_text()
    assert "[1] unit: segmentation: no weights." in notes and "two images only" in notes and "n = 38." in notes
    assert tab.page.locator(".sheet .notice").first.inner_text() == "Measured at 64 px."
    assert "± 1.2" in rows.nth(1).inner_text()
    tab.page.get_by_label("Spread and intervals").first.uncheck()
    assert "± 1.2" not in rows.nth(1).inner_text()
    tab.page.get_by_label("n and seeds of each value").first.check()
    assert "n 38, 3 seeds" in rows.nth(1).inner_text()


@needs_browser
def test_the_divider_follows_keys_and_pointer(tab: Tab) -> None:
    slider, stage = tab.page.locator("input.wipe"), tab.page.locator(".stage")

    def share() -> float:
        clip = tab.page.locator("img.translation").evaluate("node => getComputedStyle(node).clipPath")
        assert clip.startswith("inset(0px")
        return float((re.findall(r"([\d.]+)%", clip) or ["0"])[0])

    assert share() == 50
    slider.focus()
    for _ in range(3):
        tab.page.keyboard.press("ArrowRight")
    assert share() == 53 and slider.get_attribute("aria-valuetext") == "53 % input, 47 % cut"
    tab.page.keyboard.press("Home")
    assert share() == 0
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 40)
    tab.page.mouse.down()
    assert share() == 30
    tab.page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 60, steps=4)
    assert share() == 80
    tab.page.mouse.up()
    tab.page.mouse.move(box["x"] + 5, box["y"] + 60)
    assert share() == 80 and slider.input_value() == "80"
    assert slider.evaluate("node => node === document.activeElement")


@needs_browser
def test_keys_go_through_the_cases_and_everything_follows(tab: Tab) -> None:
    shown = tab.page.get_by_label("Case", exact=True)
    assert "The first 3 images. Training seed 0." in tab.page.locator("#cases").inner_text()
    assert shown.locator("option").all_inner_texts() == ["1. img-0 (first)", "2. img-1 (first)", "3. img-2 (first)"]
    tab.page.locator("input.wipe").focus()
    tab.page.keyboard.press("j")
    assert shown.evaluate("node => node.selectedIndex") == 1
    assert [image.get_attribute("alt") for image in tab.page.locator(".stage img").all()] == [
        "Input of case img-1", "Translation of case img-1 by cut",
    ]  # fmt: skip
    tab.page.keyboard.press("j")
    tab.page.keyboard.press("j")
    assert shown.evaluate("node => node.selectedIndex") == 0
    tab.page.keyboard.press("k")
    assert shown.evaluate("node => node.selectedIndex") == 2
    assert tab.page.locator(".scores").inner_text().split() == [
        "Scores", "of", "case", "img-2", "alone", "Score", "cut", "faithfulness/error", "0.1235", "segmentation/iou", MISSING,
    ]  # fmt: skip
    tab.page.get_by_label("Show rows with").first.focus()
    tab.page.keyboard.press("k")
    assert shown.evaluate("node => node.selectedIndex") == 2  # typed, not a command
    tab.page.get_by_label("Method", exact=True).select_option("ours")
    assert "12" in tab.page.locator(".scores").inner_text()
    tab.page.get_by_label("Test set").select_option(index=1)
    assert shown.locator("option").all_inner_texts() == [f"1. {LONG} (best)"]


#: Red, green, blue and opacity of every pixel in the middle row of a canvas (read from a copy: the canvas stays as it is).
ROW = """node => { const copy = Object.assign(document.createElement('canvas'), { width: node.width, height: 1 });
  const context = copy.getContext('2d', { willReadFrequently: true });
  context.drawImage(node, 0, -(node.height >> 1));
  return [...context.getImageData(0, 0, node.width, 1).data]; }"""


@needs_browser
def test_overlays_are_drawn_where_the_masks_are(tab: Tab) -> None:
    def option(words: str) -> Any:
        return tab.page.get_by_role("checkbox", name=words)

    assert option("Activation mask").is_disabled()  # cut has none
    tab.page.get_by_label("Method", exact=True).select_option("ours")
    option("Activation mask").check()
    canvas = tab.page.locator(".stage canvas")
    canvas.wait_for()
    assert canvas.get_attribute("aria-label") == "Activation mask of ours"
    row = np.reshape(canvas.evaluate(ROW), (32, 4))
    assert np.array_equal(row[:, 3] > 150, disc(32, 8)[16]) and np.array_equal(row[:, 3] > 0, disc(32, 8)[16])
    assert row[16, 0] > row[16, 2] + 100
    option("Activation mask").uncheck()
    option("Lungs in the translation").check()
    canvas.wait_for()
    drawn = np.flatnonzero(np.reshape(canvas.evaluate(ROW), (1024, 4))[:, 3])
    inside = np.flatnonzero(disc(32, 9)[16])  # what the translation shows; in the input it is disc(32, 6)
    assert {round(x / 32) for x in drawn} == {inside[0], inside[-1] + 1}  # an outline along pixel edges, not an area
    option("Lungs in the input").check()
    tab.page.wait_for_function("document.querySelectorAll('.stage canvas').length === 2")
    option("Reference lungs").check()
    option("True opacity").check()
    tab.page.wait_for_function("document.querySelectorAll('.stage canvas').length === 4")
    option("True clear image in place").check()
    assert tab.page.locator(".stage img").first.get_attribute("alt") == "True clear image of case img-0"
    option("All methods side by side").check()
    captions = tab.page.locator(".grid figcaption").all_inner_texts()
    assert captions == ["Input", "True clear image", "cut", "ours"]
    assert tab.page.locator(".scores thead").inner_text().split() == ["Score", "cut", "ours", "selected"]
    tab.page.locator(".grid figcaption button").first.click()
    assert tab.page.locator(".stage").count() == 1 and tab.page.get_by_label("Method", exact=True).input_value() == "cut"
    tab.page.keyboard.press("j")
    assert option("True opacity").is_disabled() and option("Reference lungs").is_disabled()


#: Texts whose contrast with what is behind them is below WCAG AA, those of switched-off controls and of images left out.
CONTRAST = """() => {
  const rgb = words => words.match(/[\\d.]+/g).map(Number);
  const lum = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const found = []; let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || node.closest('script, style, noscript, .sr') || node.closest('option')) continue;
    const style = getComputedStyle(node);
    let behind = node, back;
    do { back = rgb(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; } while (behind && back[3] === 0);
    const [a, b] = [lum(rgb(style.color)), lum(back)].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(`${node.tagName} ${node.className} ${style.color} on ${back}: ${node.textContent}`);
  }
  return [seen, found];
}"""


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_the_button_for_the_other_scheme(browser: Any, file: Path, scheme: str) -> None:
    tab = Tab(browser, file, viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    background = "getComputedStyle(document.documentElement).backgroundColor"
    colours = {"light": "rgb(253, 253, 251)", "dark": "rgb(21, 24, 27)"}
    other = {"light": "dark", "dark": "light"}[scheme]
    button = tab.page.get_by_role("button", name="Dark mode")
    for now, pressed in ((scheme, scheme == "dark"), (other, other == "dark")):
        assert tab.page.evaluate(background) == colours[now]
        assert button.get_attribute("aria-pressed") == str(pressed).lower()
        tab.page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
        seen, found = tab.page.evaluate(CONTRAST)
        assert seen > 100 and found == []
        button.click()
    assert tab.page.evaluate(background) == colours[scheme] and tab.complaints == []
    tab.context.close()


@needs_browser
def test_a_narrow_screen_never_scrolls_sideways(browser: Any, file: Path) -> None:
    tab = Tab(browser, file, viewport={"width": 390, "height": 844}, has_touch=True)
    width = "document.documentElement.scrollWidth"
    tab.page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    assert tab.page.evaluate(width) <= 390
    tab.page.get_by_label("All methods side by side").check()
    assert tab.page.evaluate(width) <= 390
    tab.page.get_by_label("Test set").select_option(index=1)
    assert tab.page.evaluate(width) <= 390
    scroll = tab.page.locator(".scroll").first
    assert scroll.evaluate("node => node.scrollWidth > node.clientWidth")
    label = scroll.locator("tbody th").first
    before = label.bounding_box()["x"]
    scroll.evaluate("node => { node.scrollLeft = 80; }")
    assert scroll.evaluate("node => node.scrollLeft") > 0 and label.bounding_box()["x"] == pytest.approx(before, abs=1)
    tab.context.close()


@needs_browser
def test_everything_has_a_name_and_a_place(tab: Tab) -> None:
    unnamed = tab.page.evaluate("""() => [...document.querySelectorAll('input, select, button, [role=region]')]
      .filter(node => !(node.labels?.length || node.getAttribute('aria-label') || node.textContent.trim())).length""")
    assert unnamed == 0
    assert tab.page.evaluate("[...document.images].every(image => image.alt && image.complete && image.naturalWidth > 0)")
    assert tab.page.evaluate("document.documentElement.lang") == "en" and tab.page.title() == "Chest X-ray translation: leaderboard"
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert tab.page.get_by_role(landmark).count() == 1
    ids = tab.page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))
    tab.page.keyboard.press("Tab")
    outline = tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle + document.activeElement.textContent")
    assert outline == "solidSkip to the tables"
    assert "MIMIC test: images and per-image scores of this restricted dataset are left out" in tab.page.locator("#cases").inner_text()
    facts = tab.page.locator("#facts")
    assert "bench leaderboard runs --format html" in facts.text_content() and "0b37caaea88029b0" in facts.text_content()


@needs_browser
def test_hostile_labels_are_text(tab: Tab) -> None:
    assert HOSTILE in tab.column(0)
    assert tab.page.locator("#figures figcaption").nth(1).text_content() == HOSTILE
    assert tab.page.locator("pre").text_content() == f"# All\n{HOSTILE}"
    assert tab.page.get_by_label("Test set").locator("option").nth(1).text_content() == HOSTILE
    assert tab.page.locator("img[src=x]").count() == 0 and tab.page.title().startswith("Chest")


@needs_browser
def test_a_page_without_anything_says_so(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "empty.html"
    path.write_text(page([], [], {}, "", ""))
    tab = Tab(browser, path)
    assert "No records yet" in tab.page.locator("#tables").inner_text()
    assert "no cases to show" in tab.page.locator("#cases").inner_text()
    assert not tab.page.locator("#figures").is_visible() and not tab.page.locator("#text").is_visible()
    assert tab.complaints == []
    tab.context.close()


@needs_browser
def test_the_large_page_works(browser: Any, large: str, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    path.write_text(large)
    tab = Tab(browser, path, viewport={"width": 1280, "height": 900})
    tab.page.get_by_label("All methods side by side").check()
    tab.page.get_by_role("checkbox", name="Activation mask").check()
    tab.page.wait_for_function("document.querySelectorAll('.grid canvas').length === 6")
    assert tab.page.evaluate("[...document.querySelectorAll('.grid img')].every(image => image.naturalWidth === 256)")
    assert tab.complaints == []
    tab.context.close()
