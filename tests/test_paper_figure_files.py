"""The paper's Figures 3 to 6 as files: what is never drawn, how they read on paper, and equal bytes."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import pytest
from conftest import ROOT
from figure_tools import CONTEXT, LONG, NAMES, case_set, detection, drawn, panels, texts, visible
from matplotlib.figure import Figure

from leaderboards import figures
from leaderboards.figures import cases, layout

# -- restricted datasets -----------------------------------------------------------------------------------------------------


def test_images_of_restricted_datasets_stay(tmp_path: Path) -> None:
    secret, records = case_set(("ours",), 1, restricted=True), [detection(tmp_path / "runs", "ours")]
    written = figures.write(records, [secret], tmp_path / "out")
    assert [p.name for p in written] == ["figure6-rsna.png", "figure6-rsna.pdf"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)
    assert [name.split(".")[0] for name in figures.pngs(records, [secret])] == ["Figure 6"]
    (line,) = figures.lacking([secret])
    assert line.startswith("figures 3 to 5 of rsna: not drawn, images of a restricted dataset")
    asked = figures.write(records, [secret], tmp_path / "out", pdf=False, restricted=True)
    assert [p.name for p in asked] == [f"figure{k}-rsna.png" for k in (3, 4, 5, 6)]
    assert figures.lacking([secret], restricted=True) == []
    for figure in (cases.translations(secret), cases.segmentation(secret), cases.removal(secret, "ours")):
        assert "must not be passed on" in " ".join(texts(figure)).replace("\n", " ")
    assert "passed on" not in cases.caption(case_set(), 3)


# -- on paper ----------------------------------------------------------------------------------------------------------------


def many(tmp_path: Path, methods: Sequence[str]) -> Figure:
    return drawn([detection(tmp_path, name.replace("/", ":"), "blind" if name == "unit" else "") for name in methods])


FIGURES: dict[str, Callable[[Path, Sequence[str], int], Figure]] = {
    "3": lambda _, methods, side: cases.translations(case_set(methods, 2, side)),
    "4": lambda _, methods, side: cases.segmentation(case_set(methods, 2, side)),
    "5": lambda _, methods, side: cases.removal(case_set(methods, 2, side), "ours"),
    "6": lambda tmp_path, methods, side: many(tmp_path, methods),
}


@pytest.mark.parametrize("methods", [("ours",), NAMES, LONG], ids=["one", "eight", "twelve with long names"])
@pytest.mark.parametrize("kind", FIGURES)
def test_lettering_is_readable_in_print_and_nothing_overlaps(kind: str, methods: Sequence[str], tmp_path: Path) -> None:
    figure = FIGURES[kind](tmp_path, methods, 32)
    width, tall = figure.get_size_inches()
    assert width <= 7.2 and tall <= 9.5
    figure.canvas.draw()
    shown = visible(figure)
    assert shown and min(t.get_fontsize() for t in shown) >= 6
    extents = [(t.get_text(), t.get_window_extent()) for t in shown]
    for words, area in extents:
        inside = min(area.x0, area.y0) >= -0.5 and area.x1 <= 100 * width + 0.5 and area.y1 <= 100 * tall + 0.5
        assert inside, f"'{words}' is cut off"
    for (one, here), (other, there) in combinations(extents, 2):
        across = min(here.x1, there.x1) - max(here.x0, there.x0)
        down = min(here.y1, there.y1) - max(here.y0, there.y0)
        assert across <= 1 or down <= 1, f"'{one}' lies on '{other}'"


def test_many_methods_go_into_bands_with_the_input_in_each() -> None:
    found = case_set(LONG, 2)
    figure = cases.translations(found)
    assert texts(figure).count("input") == texts(figure).count("true clear image") == 2
    assert len(panels(figure)) == 2 * (len(LONG) + 4), "every method once a case, input and truth in both bands"
    assert min(axis.get_position().width for axis in panels(figure)) * figure.get_size_inches()[0] >= 0.6


def test_names_that_are_too_long_keep_their_ends() -> None:
    with layout.style():
        assert layout.shortened("short", 1.0, 6) == "short"
        brief = layout.shortened("0004cfab-14fd-4e49-80ba-63a80b6bddd6", 0.6, 6)
        assert brief.startswith("…") and brief.endswith("bddd6") and layout.breadth(brief, 6) <= 0.6
        lines = layout.wrapped("mmagic:configs/cyclegan_resnet.py of something", 0.8, 6.5)
        assert "".join(lines).replace(" ", "") == "mmagic:configs/cyclegan_resnet.pyofsomething" and lines[0].endswith("/")
        assert all(layout.breadth(line, 6.5) <= 0.8 for line in lines)


def test_every_set_has_a_file_of_its_own() -> None:
    paper, other = {**CONTEXT, "preset": "paper"}, {**CONTEXT, "reference": "r"}
    found = layout.slugs([("rsna", CONTEXT), ("jsrt", CONTEXT), ("rsna", paper), ("../x y", {}), ("rsna", other)])
    assert found[1] == "jsrt" and found[2] == "rsna-rsna-paper-32" and found[3] == "x-y"
    assert len(set(found)) == 5 and found[0].startswith("rsna-rsna-quick-32-") and found[4].startswith("rsna-rsna-quick-32-")
    assert len(set(layout.slugs([("a", {})] * 3))) == 3


# -- files -------------------------------------------------------------------------------------------------------------------

_SETTINGS = "{'font.size': 19, 'pdf.fonttype': 3, 'axes.facecolor': 'red', 'savefig.bbox': 'tight'}"
_ELSEWHERE = f"import matplotlib, sys; matplotlib.rcParams.update({_SETTINGS}); sys.path.insert(0, sys.argv[1]); "
_ELSEWHERE += "import test_paper_figure_files; from pathlib import Path; test_paper_figure_files.make(Path(sys.argv[2]))"


def make(out: Path) -> dict[str, str]:
    """All figures of one method, and a hash of each."""
    written = figures.write([detection(out / "runs", "ours")], [case_set(("ours",), 1)], out / "figures")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in written}


def test_the_same_input_gives_the_same_bytes_whatever_the_process_and_its_settings(tmp_path: Path) -> None:
    first, other = make(tmp_path / "one"), tmp_path / "elsewhere"
    command = [sys.executable, "-c", _ELSEWHERE, str(ROOT / "tests"), str(other)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    second = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (other / "figures").iterdir()}
    assert first == second and set(first) == {f"figure{k}-rsna.{form}" for k in (3, 4, 5, 6) for form in ("png", "pdf")}
    for path in (tmp_path / "one" / "figures").iterdir():
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content and b"CreationDate" not in content and b"atplotlib" not in content
        if path.suffix == ".pdf":
            kinds = set(re.findall(rb"/Subtype /(Type3|TrueType|CIDFontType2|Type1)\b", content))
            assert b"/FontFile2" in content and kinds <= {b"TrueType", b"CIDFontType2"} and kinds


def test_a_pdf_keeps_every_pixel_of_its_images(tmp_path: Path) -> None:
    content = layout.pdf(cases.translations(case_set(("ours",), 2, side=256)))
    sizes = re.findall(rb"/Height (\d+).{0,80}?/Width (\d+)|/Width (\d+).{0,80}?/Height (\d+)", content, re.DOTALL)
    assert sum({int(n) for n in found if n} == {256} for found in sizes) >= 6


def test_pictures_for_a_screen(tmp_path: Path) -> None:
    found = figures.pngs([detection(tmp_path, "ours")], [case_set(cases=1), case_set(("ours",), 1, title="rsna, trained on jsrt")])
    assert [re.match(r"Figure \d", name)[0] for name in found] == [f"Figure {k}" for k in (3, 4, 5, 3, 4, 5, 6)]  # type: ignore[index]
    assert all(content.startswith(b"\x89PNG") and len(content) < 400_000 for content in found.values())


def test_matplotlibs_settings_are_left_as_they_were(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    figures.write([], [case_set(("ours",), 1)], tmp_path)
    assert dict(mpl.rcParams) == before and not list(tmp_path.glob(".*"))


def test_figures_load_without_torch_or_matplotlib() -> None:
    code = "import sys, leaderboards.figures\nprint([m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
