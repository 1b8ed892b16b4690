"""Figures 3, 4 and 5: cases, a row each, drawn from what is stored; nothing is computed but IoU and differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import DataError
from leaderboards.cases import Case, CaseSet, Flags, Grey
from leaderboards.figures.layout import (
    GAP,
    GREY,
    HEAD,
    MARGIN,
    NARROW,
    SMALL,
    TITLE,
    WIDE,
    Page,
    height,
    shortened,
    style,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns beside each other at most; more go below, so that panels stay large enough to see anything in.
COLUMNS = 10
#: Inches: of the names at the left; side of a panel at most; height of all panels of a page.
NAMES, LARGEST, TALL = 0.26, 1.3, 7.2
#: Side of a panel at least where cases are left out for want of height, in one band, and in several.
SMALLEST, SMALLEST_OF_BANDS = 1.0, 0.7
#: Columns for which half a page is wide enough.
HALF = 4
#: Outlines that eyes without red or green tell apart; in grey print, one is dashed.
REFERENCE, PREDICTED = "#ffb000", "#4db8ff"
#: Differences are shown from minus this to plus this, in shares of the range from black to white.
SPAN = 0.3
#: Colours of activation masks and true opacities.
STRENGTH = "magma"
#: The segmenter of Figure 4 unless another is asked for; names in full.
SEGMENTER = "unet"
TITLES = {"unet": "U-Net", "pspnet": "PSPNet", "cenet": "CE-Net", "vgg": "VGG"}
#: The method of Figure 5 unless another is asked for.
METHOD = "ours"

#: Draws a case into axes.
Draw = Callable[["Axes", Case], Any]


@dataclass(frozen=True)
class _Column:
    head: str
    draw: Draw
    bar: tuple[str, str] | None = None
    """Colour map and what it shows, for a colour bar below."""


# -- figures -----------------------------------------------------------------------------------------------------------------


def translations(found: CaseSet) -> Figure:
    """Figure 3: input, translations by method, and the true clear image where it is known."""
    columns = [_Column(name, _translation(name)) for name in found.methods]
    last = [_Column("true clear image", _counterpart)] if any(c.counterpart is not None for c in found.cases) else []
    return _figure(found, f"Translations by method, {found.test}", [_Column("input", _input)], columns, last)


def segmentation(found: CaseSet, segmenter: str = "") -> Figure:
    """Figure 4: the lungs a segmenter sees in the input and in each translation, beside the reference.

    Args:
        found: with lungs of that segmenter (`segmenter_of` says which).
        segmenter: its name; by default `SEGMENTER`, or the first by name where that is not stored.
    """
    name = segmenter_of(found, segmenter)
    first = _Column("input", lambda axis, case: _outlined(axis, case, case.image, case.lungs_before.get(name)))
    columns = [_Column(method, _segmented(method, name)) for method in found.methods]
    unsure = any(c.undecided is not None and c.undecided.any() for c in found.cases)
    title = f"Lungs segmented by {full_name(name)} before and after translation, {found.test}; IoU against the reference"
    return _figure(found, title + (" where that is decided" if unsure else ""), [first], columns, [], key=True)


def removal(found: CaseSet, method: str) -> Figure:
    """Figure 5: what one method did: input, activation mask, output, what changed, and where opacity truly is, if that is known.

    Args:
        found: with activation masks of that method.
        method: its row label.
    """
    mask = _Column("activation mask", lambda axis, case: _coloured(axis, case.results[method].mask), (STRENGTH, ""))
    change = _Column("output \u2212 input", _difference(method), ("RdBu_r", "share of the grey range"))
    columns = [_Column("input", _input), mask, _Column("output", _translation(method)), change]
    if any(c.opacity is not None for c in found.cases):
        columns.append(_Column("true opacity", lambda axis, case: _coloured(axis, case.opacity), (STRENGTH, "")))
    title = f"Input, activation mask, output and difference of {method}, {found.test}"
    return _figure(found, title, columns, [], [])


def segmenter_of(found: CaseSet, asked: str = "") -> str:
    """The segmenter that Figure 4 shows: the one asked for, else `SEGMENTER`, else the first by name; empty where its lungs are
    not stored for anything."""
    stored, wanted = segmenters(found), asked or SEGMENTER
    same = [name for name in stored if _plain(name) == _plain(wanted)]
    return same[0] if same else "" if asked or not stored else stored[0]


def segmenters(found: CaseSet) -> list[str]:
    """All whose lungs are stored for anything, sorted."""
    return sorted({n for c in found.cases for some in (c.lungs_before, *(r.lungs for r in c.results.values())) for n in some})


def masked(found: CaseSet) -> list[str]:
    """Methods with an activation mask of each case."""
    return [name for name in found.methods if found.cases and all(case.results[name].mask is not None for case in found.cases)]


def full_name(segmenter: str) -> str:
    """A segmenter's name for readers."""
    return TITLES.get(_plain(segmenter), segmenter)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


# -- layout ------------------------------------------------------------------------------------------------------------------


def _figure(
    found: CaseSet, title: str, first: Sequence[_Column], columns: Sequence[_Column], last: Sequence[_Column], key: bool = False
) -> Figure:
    """All cases that fit a page in as many bands as the columns need; each band has the first and the last columns."""
    per_band = COLUMNS - len(first) - len(last)
    bands = max(1, -(-len(columns) // per_band))
    share = max(1, -(-len(columns) // bands))
    groups = [[*first, *columns[k : k + share], *last] for k in range(0, max(1, len(columns)), share)]
    most = max(map(len, groups))
    with style():
        width = NARROW if most <= HALF else WIDE
        side = min(LARGEST if width == WIDE else SMALLEST, (width - 2 * MARGIN - NAMES - (most - 1) * GAP) / most)
        least = min(side, SMALLEST if bands == 1 else SMALLEST_OF_BANDS)
        cases = shown(found.cases, max(1, int(TALL / bands / (least + GAP))))
        side = min(side, TALL / bands / len(cases) - GAP)
        page = Page(max(NARROW, 2 * MARGIN + NAMES + most * (side + GAP) - GAP))
        page.paragraph(title, TITLE, fontweight="bold")
        if key:
            _key(page)
        for group in groups:
            _band(page, group, cases, side)
            page.cursor += 0.03
        page.paragraph(caption(found, len(cases)), SMALL, color=GREY)
        return page.done()


def shown(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many cases, equally many of each kind of the rule as far as there are, in its order."""
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        kinds.setdefault(case.why, []).append(case)
    turns = sorted((k, kind, id(case)) for kind, some in enumerate(kinds.values()) for k, case in enumerate(some))
    chosen = {case for *_, case in turns[:most]}
    return [case for case in cases if id(case) in chosen]


def caption(found: CaseSet, n: int) -> str:
    """What the figure rests on: sets, preset, size, seed, rule, number of cases, fingerprint."""
    context = found.context
    parts = [found.title]
    named = {"train_dataset": "trained on", "preset": "preset", "image_size": "size"}
    for key, word in named.items():
        if (value := context.get(key)) and value not in found.title:
            parts.append(f"{word} {value}")
    parts.append(f"seeds: {context['seeds']}" if context.get("seeds") else f"seed {found.seed}")
    every, rule = len(found.cases), found.rule[:1].lower() + found.rule[1:].rstrip(".")
    parts.append(f"{n} case{'s' if n != 1 else ''}{f' of {every}' if n < every else ''}: {rule}")
    print_of = context.get("dataset_fingerprint") or next((v for k, v in context.items() if "fingerprint" in k.lower()), "")
    parts += [f"data {print_of[:8]}"] if print_of else []
    told = "; ".join(parts) + "."
    return told + (" Images of a restricted dataset: this file must not be passed on." if found.restricted else "")


def _band(page: Page, columns: Sequence[_Column], cases: Sequence[Case], side: float) -> None:
    heads = [wrapped(column.head, side, HEAD) for column in columns]
    below = height(max(map(len, heads)), HEAD)
    lefts = [MARGIN + NAMES + k * (side + GAP) for k in range(len(columns))]
    for left, lines in zip(lefts, heads, strict=True):
        page.text(left + side / 2, page.cursor + below - 0.05, "\n".join(lines), HEAD, ha="center", va="baseline")
    page.cursor += below
    various = len({case.why for case in cases}) > 1
    for case in cases:
        name = shortened(case.image_id, side, SMALL)
        told = f"{shortened(case.why, side, SMALL)}\n{name}" if various else name
        page.text(MARGIN + NAMES - 0.03, page.cursor + side / 2, told, SMALL, rotation=90, va="center", ha="right",
                  multialignment="center")  # fmt: skip
        for left, column in zip(lefts, columns, strict=True):
            axis = page.axes(left, page.cursor, side, side)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_linewidth(0.4)
            column.draw(axis, case)
        page.cursor += side + GAP
    if any(column.bar for column in columns):
        _bars(page, columns, lefts, side)


def _bars(page: Page, columns: Sequence[_Column], lefts: Sequence[float], side: float) -> None:
    """Colour bars below the columns that have colours, with what they mean."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    lines = 0
    for left, column in zip(lefts, columns, strict=True):
        if not column.bar:
            continue
        name, meaning = column.bar
        low, high = (-SPAN, SPAN) if name == "RdBu_r" else (0.0, 1.0)
        axis = page.axes(left + 0.08, page.cursor + 0.02, side - 0.16, 0.07)
        bar = page.figure.colorbar(
            ScalarMappable(Normalize(low, high), name), cax=axis, orientation="horizontal", ticks=[low, (low + high) / 2, high],
            extend="both" if low < 0 else "neither",
        )  # fmt: skip
        bar.ax.set_xticklabels([f"{v:{'+' if low < 0 and v else ''}g}".replace("-", "\u2212") for v in (low, (low + high) / 2, high)])
        bar.ax.tick_params(labelsize=SMALL, length=2, width=0.5, pad=1)
        bar.outline.set_linewidth(0.4)  # type: ignore[operator]
        words = wrapped(meaning, side, SMALL)
        lines = max(lines, len(words))
        page.text(left + side / 2, page.cursor + 0.22, "\n".join(words), SMALL, ha="center")
    page.cursor += 0.22 + height(lines, SMALL)


def _key(page: Page) -> None:
    """What the outlines are, in one line."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=PREDICTED, lw=1.4), Line2D([], [], color=REFERENCE, lw=1.2, ls=(0, (3, 1.5)))]
    axis = page.axes(MARGIN, page.cursor, page.width - 2 * MARGIN, 0.14)
    axis.set_axis_off()
    axis.legend(lines, ["predicted", "reference"], loc="center left", ncols=2, fontsize=SMALL, frameon=False, borderpad=0,
                borderaxespad=0, handlelength=2.4)  # fmt: skip
    page.cursor += 0.16


# -- panels ------------------------------------------------------------------------------------------------------------------


def _grey(axis: Axes, image: Grey) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)


def _input(axis: Axes, case: Case) -> None:
    _grey(axis, case.image)


def _translation(method: str) -> Draw:
    return lambda axis, case: _grey(axis, case.results[method].image)


def _counterpart(axis: Axes, case: Case) -> None:
    _grey(axis, case.counterpart) if case.counterpart is not None else _empty(axis)


def _coloured(axis: Axes, values: Grey | None) -> None:
    if values is None:
        _empty(axis)
    else:
        axis.imshow(values, cmap=STRENGTH, vmin=0, vmax=255)


def _difference(method: str) -> Draw:
    def draw(axis: Axes, case: Case) -> None:
        change = (case.results[method].image.astype(np.float32) - case.image) / 255
        axis.imshow(change, cmap="RdBu_r", vmin=-SPAN, vmax=SPAN)

    return draw


def _segmented(method: str, segmenter: str) -> Draw:
    def draw(axis: Axes, case: Case) -> None:
        result = case.results[method]
        _outlined(axis, case, result.image, result.lungs.get(segmenter))

    return draw


def _outlined(axis: Axes, case: Case, image: Grey, predicted: Flags | None) -> None:
    _grey(axis, image)
    for mask, colour, wide, dash in ((predicted, PREDICTED, 1.1, "solid"), (case.lungs, REFERENCE, 0.8, (0, (2.5, 1.2)))):
        if mask is not None and mask.any():
            _outline(axis, mask, colour, wide, dash)
    odd = case.oddity(predicted) if predicted is not None else ""
    _note(axis, "not stored" if predicted is None else "\n".join(filter(None, [odd, _agreement(case, predicted)])))


def _outline(axis: Axes, mask: Flags, colour: str, wide: float, dash: Any) -> None:
    """Along the edges of pixels, those at the border of the panel, too: what reaches it ends there."""
    height, width = mask.shape
    drawn = axis.contour(
        np.arange(-1, width + 1), np.arange(-1, height + 1), np.pad(mask, 1), levels=[0.5], colors=[colour], linewidths=wide,
        linestyles=[dash], zorder=3,
    )  # fmt: skip
    drawn.set_clip_on(False)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _agreement(case: Case, predicted: Flags) -> str:
    if case.lungs is None:
        return "no reference"
    value = iou(predicted, case.lungs, case.undecided)
    return "IoU \u2013" if value is None else f"IoU {100 * value:.1f} %"


def iou(predicted: Flags, reference: Flags, undecided: Flags | None) -> float | None:
    """Intersection over union in [0, 1], where the reference is decided; None where neither holds a pixel there.

    Args:
        predicted, reference: H x W, nothing of them in padding, which evaluators leave out.
        undecided: H x W, or None.

    Raises:
        DataError: they differ in size.
    """
    if predicted.shape != reference.shape or (undecided is not None and undecided.shape != reference.shape):
        raise DataError(f"lung masks of {predicted.shape} and {reference.shape} pixels: score the segmentation again.")
    counted = np.ones_like(reference) if undecided is None else ~undecided
    both, either = predicted & reference & counted, (predicted | reference) & counted
    return float(both.sum() / either.sum()) if either.any() else None


def _note(axis: Axes, words: str) -> None:
    """Text at the bottom of a panel, on a dark ground: lungs end above it."""
    axis.text(0.5, 0.025, words, transform=axis.transAxes, ha="center", va="bottom", fontsize=SMALL, color="white",
              bbox={"boxstyle": "square,pad=0.12", "facecolor": "black", "alpha": 0.65, "lw": 0})  # fmt: skip


def _empty(axis: Axes) -> None:
    axis.set_facecolor("0.93")
    axis.text(0.5, 0.5, "unknown", transform=axis.transAxes, ha="center", va="center", fontsize=SMALL, color=GREY)
