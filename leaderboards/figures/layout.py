"""A page of a paper to draw on: places in inches from the top left corner, text that is measured before it is set, bytes that
depend on the input alone.

Everything is laid out for the width at which it is printed, so a font size here is the size on paper. matplotlib is loaded when
the first page is made.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import digest, replace_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Widths in inches: both columns of a two-column page, and one.
WIDE, NARROW = 7.0, 3.4
#: Font sizes in points: heading, heads of columns, whatever else there is to read. Nothing is smaller than `SMALL`.
TITLE, HEAD, SMALL = 8.0, 6.5, 6.0
#: Dots per inch of a PNG in print, and of one on a screen.
PRINT, SCREEN = 300, 110
#: Inches: white at the edges, and between panels.
MARGIN, GAP = 0.03, 0.04
GREY = "0.35"
#: Height of a line in font sizes.
LEADING = 1.25
_JOINTS = "/_:.,=-+"
_FONT = "DejaVu Sans"  # comes with matplotlib: the same on every machine


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own settings, whatever the user's are: TrueType fonts that journals take, and no other difference."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({
            "pdf.fonttype": 42, "font.family": _FONT, "font.size": SMALL, "axes.linewidth": 0.6, "axes.unicode_minus": True,
        })  # fmt: skip
        yield


class Page:
    """A figure of a given width, as tall as what is put on it.

    Attributes:
        width: inches.
        cursor: inches from the top to where the next thing goes.
    """

    def __init__(self, width: float) -> None:
        self.width, self.cursor = width, MARGIN
        self._placed: list[tuple[Axes, tuple[float, float, float, float]]] = []
        self._texts: list[tuple[Any, float, float]] = []
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=(width, 1.0))
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place in inches."""
        axis = self.figure.add_axes((0.0, 0.0, 1.0, 1.0), label=f"{len(self._placed)}")
        self._placed.append((axis, (left, top, width, height)))
        return axis

    def text(self, left: float, top: float, words: str, size: float = SMALL, **options: Any) -> None:
        """Text whose anchor (upper left unless `options` say otherwise) is at a place in inches."""
        chosen: dict[str, Any] = {"va": "top", "ha": "left", "linespacing": LEADING} | options
        self._texts.append((self.figure.text(0.0, 0.0, words, fontsize=size, **chosen), left, top))

    def paragraph(self, words: str, size: float = SMALL, **options: Any) -> None:
        """Text over the whole width at the cursor, which moves below it."""
        lines = wrapped(words, self.width - 2 * MARGIN, size, options.get("fontweight") == "bold")
        self.text(MARGIN, self.cursor, "\n".join(lines), size, **options)
        self.cursor += height(len(lines), size)

    def done(self) -> Figure:
        """The figure, cut off below the cursor."""
        tall = self.cursor + MARGIN
        self.figure.set_size_inches(self.width, tall)
        for axis, (left, top, width, high) in self._placed:
            axis.set_position((left / self.width, 1 - (top + high) / tall, width / self.width, high / tall))
        for words, left, top in self._texts:
            words.set_position((left / self.width, 1 - top / tall))
        return self.figure


# -- text --------------------------------------------------------------------------------------------------------------------


def height(lines: int, size: float) -> float:
    """Inches that some lines of text take."""
    return lines * size * LEADING / 72 + 0.02


@cache
def breadth(words: str, size: float, bold: bool = False) -> float:
    """Inches that a line of text is wide."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not words.strip():
        return 0.3 * size / 72 * len(words)
    font = FontProperties(family=_FONT, weight="bold" if bold else "normal")
    path = TextPath((0, 0), words.replace("$", r"\$"), size=size, prop=font)
    return float(path.get_extents().x1) / 72


def wrapped(words: str, width: float, size: float, bold: bool = False) -> list[str]:
    """Text in lines that are no wider than `width` inches; a word that is too long is cut."""
    lines, line = [], ""
    for word in words.split():
        longer = f"{line} {word}".lstrip()
        if breadth(longer, size, bold) <= width:
            line = longer
            continue
        lines += [line] if line else []
        *cut, line = _cut(word, width, size, bold)
        lines += cut
    return [*lines, *([line] if line else [])]


def _cut(word: str, width: float, size: float, bold: bool) -> list[str]:
    """A word in pieces that fit, cut behind a joint where there is one in the second half of what fits."""
    pieces = []
    while breadth(word, size, bold) > width and len(word) > 1:
        fits = next((k for k in range(len(word) - 1, 1, -1) if breadth(word[:k], size, bold) <= width), 1)
        joint = max(word.rfind(mark, 0, fits) for mark in _JOINTS) + 1
        fits = joint if joint > fits / 2 else fits
        pieces.append(word[:fits])
        word = word[fits:]
    return [*pieces, word]


def shortened(words: str, width: float, size: float) -> str:
    """The end of a name that is too long for `width` inches, behind an ellipsis: names of images differ at their ends."""
    if breadth(words, size) <= width:
        return words
    return next((f"…{words[k:]}" for k in range(1, len(words)) if breadth(f"…{words[k:]}", size) <= width), "…")


# -- names and files ---------------------------------------------------------------------------------------------------------


def slugs(told: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """A file name for each of some test sets: its name, with training set, preset and size where it is there more than once, and
    with a hash of all that tells it from the others where these are the same, too.

    Args:
        told: name and context of each.
    """
    brief = [file_name(name) for name, _ in told]
    longer = [
        "-".join([short, *(file_name(context[key]) for key in ("train_dataset", "preset", "image_size") if context.get(key))])
        for short, (_, context) in zip(brief, told, strict=True)
    ]
    found = []
    for k, (name, context) in enumerate(told):
        choice = brief[k] if brief.count(brief[k]) == 1 else longer[k]
        if choice == longer[k] and longer.count(longer[k]) > 1:
            choice = f"{choice}-{digest([name, dict(context)], 4)}"
        found.append(choice if choice not in found else f"{choice}-{k + 1}")
    return found


def file_name(name: str) -> str:
    """A name with nothing in it that a file name may not have."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") or "set"


def png(figure: Figure, dots: int) -> bytes:
    """A figure as PNG, without anything of when and with what it was made. Images are smoothed where they are drawn smaller than
    they are."""
    return _bytes(figure, "antialiased", "png", dpi=dots, metadata={"Software": None})


def screen(figure: Figure, dots: int = SCREEN) -> bytes:
    """A figure as PNG for a screen, of the 256 colours that suit it best: a third of the bytes."""
    from PIL import Image

    stream = io.BytesIO()
    with Image.open(io.BytesIO(png(figure, dots))) as full:
        full.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def pdf(figure: Figure) -> bytes:
    """A figure as PDF, likewise; its images keep every pixel that they have."""
    return _bytes(figure, "none", "pdf", metadata={"Creator": None, "Producer": None, "CreationDate": None})


def _bytes(figure: Figure, interpolation: str, form: str, **options: Any) -> bytes:
    for axis in figure.axes:
        for image in axis.images:
            image.set_interpolation(interpolation)
    stream = io.BytesIO()
    with style():
        figure.savefig(stream, format=form, **options)
    return stream.getvalue()


def save(path: Path, content: bytes) -> Path:
    """Write a file atomically."""

    def fill(temporary: Path) -> None:
        temporary.write_bytes(content)

    replace_atomically(path, fill)
    return path
