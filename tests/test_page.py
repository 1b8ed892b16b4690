"""The web page as a document: exact images, each once, within a size; what must not be in it; how it tells what it left out."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from page_tools import HOSTILE, SECRET, case_sets, data_of, disc, pixels, png, ramp, sheet
from PIL import Image

from bench.errors import DataError
from leaderboards.cases import Case, CaseSet, Result
from leaderboards.page import page
from leaderboards.page.images import STEPS, Step, Store, figure, reduced


def test_images_are_exact_stored_once_and_bits_are_masks() -> None:
    data = data_of(page([], case_sets(), {}, "", ""))
    one = data["sets"][0]["cases"][0]
    assert np.array_equal(pixels(data["images"][one["image"]]), ramp(32, 0))
    assert np.array_equal(pixels(data["images"][one["results"][1]["mask"]]), np.where(disc(32, 8), 255, 0))
    stored = {10: one["reference"], 3: one["undecided"], 6: one["before"]["U-Net"], 9: one["results"][1]["after"]["U-Net"]}
    for radius, (place, bit) in stored.items():
        assert np.array_equal(pixels(data["images"][place]) >> bit & 1, disc(32, radius))
    assert len(set(data["images"])) == len(data["images"])
    assert data["sets"][0]["cases"][1]["reference"] is None
    store = Store(Step(64))
    assert store.grey(ramp(8, 1)) == store.grey(ramp(8, 1)) != store.grey(ramp(8, 2))
    assert store.flags([disc(8, r) for r in range(1, 11)]) == [(2, b) for b in range(8)] + [(3, 0), (3, 1)]


def test_restricted_cases_never_enter_but_are_named() -> None:
    document = page([sheet()], case_sets(), {}, "", "")
    assert SECRET not in document
    shades = {pixels(uri).tobytes() for uri in data_of(document)["images"]}
    assert ramp(32, 0).tobytes() in shades and ramp(32, 111).tobytes() not in shades and ramp(32, 112).tobytes() not in shades
    assert data_of(document)["withheld"] == ["MIMIC test"]


def test_nothing_in_the_document_ends_an_element_or_loads_anything() -> None:
    document = page([sheet()], case_sets(), {HOSTILE: png()}, f"# All\n{HOSTILE}", f"bench leaderboard {HOSTILE}")
    assert document.count("</script>") == document.count("<script") == 2
    assert HOSTILE not in document
    assert not re.findall(r"""(?:src|href|url|@import|fetch|import)\W{1,3}(?:https?:)?//""", document)
    assert "http://" not in document and "https://" not in document
    assert data_of(document)["sheets"][0]["lines"][4]["label"] == HOSTILE
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', document)
    assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1]


def test_numbers_are_rounded_once_and_keep_their_grounds() -> None:
    lines = data_of(page([sheet()], [], {}, "", ""))["sheets"][0]["lines"]
    rounded = {"text": "9.5", "std": "± 1.2", "ci": "[8.0, 11.0]", "n": "38"}
    assert lines[1]["entries"][0] == {"value": 9.5, "mark": "best", "seeds": 3, **rounded}
    assert lines[2]["entries"][2] == {} and lines[3]["entries"][1] == {"text": "failed", "mark": ""}


def test_images_that_do_not_belong_together_are_refused() -> None:
    odd = Case("odd", ramp(32, 0), {"ours": Result(ramp(16, 0))})
    with pytest.raises(DataError, match="case odd: the translation of ours is 16 x 16 px, the input 32 x 32 px"):
        page([], [CaseSet("t", "T", "r", False, ("ours",), (odd,))], {}, "", "")
    with pytest.raises(DataError, match="case odd: no result of cut"):
        page([], [CaseSet("t", "T", "r", False, ("cut",), (odd,))], {}, "", "")
    with pytest.raises(DataError, match="figure 'Fig' is no image"):
        page([], [], {"Fig": b"<svg/>"}, "", "")


def test_figures_are_kept_or_made_smaller_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (500, 1500), np.uint8))
    out = io.BytesIO()
    noise.save(out, "PNG")
    small = figure("Noise", out.getvalue(), 300_000)
    assert small.changed and len(small.uri) <= 300_000 and 1000 <= small.width <= 1500 and abs(small.width - 3 * small.height) <= 2
    document = page([], [], {"Plain": png(), "Noise": out.getvalue()}, "", "")
    plain, kept = data_of(document)["figures"]
    assert base64.b64decode(plain["uri"].split(",")[1]) == png() and (plain["width"], plain["height"]) == (300, 200)
    assert np.array_equal(pixels(kept["uri"]), np.asarray(noise)) and "figures are reduced" not in document
    monkeypatch.setattr("leaderboards.page.FIGURES", 0.05)
    changed = page([], [], {"Plain": png(), "Noise": out.getvalue()}, "", "")
    assert "1 of 2 figures are reduced or compressed" in changed and len(changed) < len(document) - 500_000


def test_small_images_are_not_enlarged_and_averages_are_over_areas() -> None:
    assert reduced(ramp(20, 0), 256).shape == (20, 20)
    checks = np.indices((4, 8)).sum(0).astype(np.uint8) % 2 * 200
    assert np.array_equal(reduced(checks, 4), np.full((2, 4), 100))
    assert [step.side for step in STEPS] == sorted((step.side for step in STEPS), reverse=True)
