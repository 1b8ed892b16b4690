"""What the tests of the web page show: tables with every kind of entry, cases with everything known, labels that want to break out."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leaderboards.cases import Case, CaseSet, Result
from leaderboards.sheet import BEST, SECOND, TIE, Entry, Head, Line, Sheet
from leaderboards.values import Cell

HOSTILE = '</script><script>document.title="stolen"</script><img src=x onerror="document.title=1">"\'&amp; $source ${x}'
LONG = "a_method_with_a_very_long_name_" * 6
SECRET = "restricted-subject-0815"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")


def entry(value: float, mark: str = "", **more: Any) -> Entry:
    return Entry(Cell(value, **more), mark=mark)


def sheet() -> Sheet:
    """Four ranked rows, a failure, a missing and a doubtful value; `low` is better where it is lower."""
    heads = (
        Head("FD", "Images", "lower", digits=1, key="fd", detail="Distance of two sets."),
        Head("mIoU", "Lungs", "higher", "%", 2, "iou"),
        Head("n_found", "Lungs", key="n"),
    )
    lines = (
        Line("original", (entry(90.0), entry(70.123, TIE), entry(3)), original=True),
        Line("cut", (entry(9.5, BEST, std=1.25, ci=(8.0, 11.0), n=(38,), seeds=3), entry(70.5, BEST), entry(10))),
        Line("ours", (entry(12.0, SECOND), entry(69.0, SECOND), Entry())),
        Line("unit", (entry(1.0, doubt="two images only"), Entry(text="failed"), entry(2)), notes=("segmentation: no weights",)),
        Line(HOSTILE, (Entry(), entry(-5.0), entry(7))),
    )
    behind = Sheet("table1-x", "Behind", {}, (Head("Dice", better="higher"),), (Line("cut", (entry(0.5),)),))
    context = {"dataset": "synthetic", "dataset_fingerprint": "0b37caaea88029b0"}
    return Sheet("table1", "Table 1", context, heads, lines, ("Measured at `64 px`.",), ("n = 38.",), behind=(behind,))


def grouped() -> Sheet:
    lines = [Line(f"{arch} {k}", (entry(float(value)),), group=arch) for arch, values in (("VGG", (1, 3)), ("PSP", (2, 4)))
             for k, value in enumerate(values)]  # fmt: skip
    return Sheet("table2", "Table 2", {"preset": "quick"}, (Head("AUROC", better="higher"),), tuple(lines))


def ramp(size: int, shift: int) -> np.ndarray:
    return ((np.add.outer(np.arange(size), np.arange(size)) + shift) % 256).astype(np.uint8)


def disc(size: int, radius: float) -> np.ndarray:
    y, x = np.ogrid[:size, :size]
    return (x - size / 2) ** 2 + (y - size / 2) ** 2 < radius**2


def case(number: int, size: int = 32, **more: Any) -> Case:
    results = {
        "cut": Result(ramp(size, number + 50), scores={"faithfulness/error": 0.123456, "segmentation/iou": float("nan")}),
        "ours": Result(ramp(size, number + 90), np.where(disc(size, 8), 255, 0).astype(np.uint8), {"U-Net": disc(size, 9)},
                       {"faithfulness/error": 12.0}),
    }  # fmt: skip
    return Case(f"img-{number}", ramp(size, number), results, lungs_before={"U-Net": disc(size, 6)}, **more)


def case_sets() -> list[CaseSet]:
    known = {"opacity": ramp(32, 7), "counterpart": ramp(32, 200), "lungs": disc(32, 10), "undecided": disc(32, 3)}
    first = CaseSet("one", "Set one", "The first 3 images.", False, ("cut", "ours"), (case(0, **known), case(1), case(2)))
    named = Case(LONG, ramp(32, 3), {LONG: Result(ramp(32, 4))}, why="best")
    second = CaseSet("two", HOSTILE, "Best of all.", False, (LONG,), (named,))
    held = Case(SECRET, ramp(32, 111), {"ours": Result(ramp(32, 112), scores={SECRET: 1.0})})
    return [first, second, CaseSet("mimic", "MIMIC test", "First.", True, ("ours",), (held,))]


def png(width: int = 300, height: int = 200) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(out, "PNG")
    return out.getvalue()


def noisy(size: int, seed: int) -> np.ndarray:
    """As hard to compress as radiographs: their 256 px take 25 kB without loss."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(20, 235, (12, 12), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth) + rng.normal(0, 2, (size, size)), 0, 255).astype(np.uint8)


def data_of(document: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', document, re.S)
    assert len(found) == 1
    return json.loads(found[0])


def pixels(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        return np.asarray(image.convert("L"))


class Tab:
    """One opened page, with all it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, **how: Any) -> None:
        self.context = browser.new_context(reduced_motion="reduce", offline=True, **how)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())

    def column(self, n: int, table: int = 0) -> list[str]:
        """Labels (0) or first texts of one column of a table."""
        rows = self.page.locator("table").nth(table).locator("tbody tr:not(.band)").all()
        cells = [row.locator("th, td").nth(n) for row in rows]
        return [(value if (value := cell.locator(".value")).count() else cell).inner_text().strip() for cell in cells]

    def heading(self, n: int, table: int = 0) -> Any:
        return self.page.locator("table").nth(table).locator(f'th[data-column="{n}"]')
