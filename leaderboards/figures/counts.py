"""Figure 6: lesions that the detector finds in each patient's opacity images before and after translation, method by method.

Everything comes from the records of `evaluators.detection`: the tests as the leaderboard has them (`leaderboards.changes` makes those
of several seeds), the boxes and points out of the values by image that came with the records. The unit is the patient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.records import LOCAL, Local
from evaluators.statistics import EXACT, FloatArray, holm, patient_means
from leaderboards import changes
from leaderboards.cells import MISSING, number, p_value, span
from leaderboards.figures.layout import GREY, HEAD, MARGIN, SMALL, TITLE, WIDE, Page, height, style, wrapped
from leaderboards.groups import Record, text
from leaderboards.tables import Row, Table
from leaderboards.values import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVALUATOR = "detection"
BEFORE, AFTER, DOUBTFUL = "#e69f00", "#0072b2", "0.6"
#: Inches: names at the left, plot; then the columns of numbers: heading, width.
NAMES, PLOT = 1.0, 2.85
NUMBERS = (("patients", 0.62), ("mean", 0.68), ("effect, 95 % interval", 0.72), ("p", 0.48), ("p, Holm", 0.46))
#: Height of a method in inches; width of its marks in shares of that.
ROW, BOX, JITTER = 0.42, 0.26, 0.13
#: How a method with several seeds is shown.
SEVERAL = " (several of a method averaged image by image, then tested)"
#: Means of the evaluator's controls: key of the score, mark, name.
CONTROLS = (("psnr_blur_after", "v", "blur"), ("psnr_noise_after", "^", "noise"))


@dataclass(frozen=True)
class Counts:
    """One method.

    Attributes:
        label: row of the leaderboard.
        why: why there is nothing to draw; empty where there is.
        doubt: why the numbers must not be relied upon; empty where they may.
        seeds: those that were scored.
        before, after: (P,) lesions an image, one number a patient; of several seeds, of their mean by image.
        cells: key of a score -> value, as the leaderboard has it.
        note: how counts came about.
    """

    label: str
    why: str = ""
    doubt: str = ""
    seeds: tuple[int, ...] = ()
    before: FloatArray = field(default_factory=lambda: np.zeros(0))
    after: FloatArray = field(default_factory=lambda: np.zeros(0))
    cells: Mapping[str, Cell] = field(default_factory=dict)
    note: str = ""

    def value(self, key: str) -> float | None:
        """A score's value; None for none."""
        found = self.cells.get(key)
        return None if found is None else found.value


# -- numbers -----------------------------------------------------------------------------------------------------------------


def counted(table: Table) -> list[Counts]:
    """The methods of a table in its order, ``original`` left out; empty where the evaluator did not run."""
    if not any(column.evaluator == EVALUATOR for column in table.columns):
        return []
    return [_counts(row, table) for row in table.rows if not row.original]


def _counts(row: Row, table: Table) -> Counts:
    mine = sorted((r for r in row.records if r.get("evaluator") == EVALUATOR), key=lambda r: (r.get("seed") or 0, text(r.get("key"))))
    if not mine:
        told = [line for line in row.problems if EVALUATOR in line] or row.problems
        return Counts(row.label, "; ".join(told) or "not scored")
    cells = {key: cell for (evaluator, key), cell in row.cells.items() if evaluator == EVALUATOR}
    cells |= {column.key: one.cell for column in table.columns if column.evaluator == EVALUATOR
              for one in table.real.get(column.id, ()) if not one.methods or row.label in one.methods}  # fmt: skip
    seeds, note = tuple(int(r.get("seed") or 0) for r in mine), text((mine[0]["scores"].get("count_after") or {}).get("note"))
    if "count_after" not in cells:
        return Counts(row.label, note or "no counts in the record")
    for record in mine:
        if why := _misfit(record):
            name = Path(text(record.get("per_image"))).name or "no file"
            return Counts(row.label, f"values by image ({name}): {why}. Score again with --force score", seeds=seeds, cells=cells)
    both = _by_patient(mine)
    if both is None:
        return Counts(row.label, "its seeds have no image in common", seeds=seeds, cells=cells)
    return Counts(row.label, "", " ".join(cells["count_after"].doubt.split()), seeds, *both, cells, note)


def _by_patient(records: Sequence[Record]) -> tuple[FloatArray, FloatArray] | None:
    """Lesions before and after (P,), averaged over the records' seeds by image; None where values by image or patients lack."""
    beside = [local for record in records if isinstance(local := record.get(LOCAL), Local)]
    three = changes.counts(beside, "count", len(records))
    return (patient_means(three[0], three[2]), patient_means(three[1], three[2])) if three else None


def _misfit(record: Record) -> str:
    """Why the values by image that came with a record are not to be drawn; empty where they are."""
    both = _by_patient([record])
    if both is None:
        return "no counts before and after with patients"
    scores = record["scores"]
    told = [(scores.get(key) or {}).get("value") for key in ("count_before", "count_after")]
    alike = all(v is not None and math.isclose(some.mean(), v, rel_tol=1e-6, abs_tol=1e-6) for v, some in zip(told, both, strict=True))
    return "" if alike and (scores.get("count_p") or {}).get("n") == len(both[0]) else "they are not those of the record"


def adjusted(found: Sequence[Counts]) -> dict[str, float]:
    """Method -> p value corrected for the number of methods (Holm); doubtful ones are no part of the family."""
    family = [(one.label, p) for one in found if not one.doubt and (p := one.value("count_p")) is not None]
    return dict(zip([name for name, _ in family], holm([p for _, p in family]), strict=True))


# -- drawing -----------------------------------------------------------------------------------------------------------------


def counts(table: Table) -> Figure:
    """Figure 6 of a table in which at least one method was counted.

    Raises:
        ValueError: none was.
    """
    found = counted(table)
    known = [one for one in found if not one.why]
    if not known:
        raise ValueError("no method has counts")
    with style():
        page = Page(WIDE)
        name = table.context.get("dataset", "")
        page.paragraph(f"Lesions found in the opacity images of each patient before and after translation, {name}", TITLE,
                       fontweight="bold")  # fmt: skip
        _rows(page, found, known)
        for words in notes(found):
            page.paragraph(words, SMALL, color=GREY)
        page.paragraph(_caption(table, known), SMALL, color=GREY)
        return page.done()


def _rows(page: Page, found: Sequence[Counts], known: Sequence[Counts]) -> None:
    left = MARGIN + NAMES
    lefts = [left + PLOT + 0.1 + sum(wide for _, wide in NUMBERS[:k]) for k in range(len(NUMBERS))]
    heads = [wrapped(head, wide - 0.05, HEAD) for head, wide in NUMBERS]
    tall = height(max(map(len, heads)), HEAD)
    for place, lines in zip([*lefts, left], [*heads, ["lesions an image, mean of each patient"]], strict=True):
        page.text(place, page.cursor + tall - 0.06, "\n".join(lines), HEAD, va="baseline")
    page.cursor += tall
    axis = page.axes(left, page.cursor, PLOT, ROW * len(found))
    top = max(1.0, *(float(max(one.before.max(), one.after.max())) for one in known))
    _prepare(axis, len(found), top)
    corrected = adjusted(found)
    for k, one in enumerate(found):
        middle = page.cursor + ROW * (k + 0.5)
        label = wrapped(one.label + (" †" if one.doubt else ""), NAMES - 0.4, HEAD)[:3]
        colour = DOUBTFUL if one.doubt or one.why else "black"
        page.text(MARGIN, middle, "\n".join(label), HEAD, va="center", color=colour)
        if one.why:
            page.text(left + 0.08, middle, "no counts (below)", SMALL, va="center", color=GREY)
            continue
        for words, place in (("before", middle - ROW / 4.5), ("after", middle + ROW / 4.5)):
            page.text(left - 0.05, place, words, SMALL, va="center", ha="right", color=GREY)
        _pair(axis, k, one)
        for place, words in zip(lefts, _told(one, corrected.get(one.label)), strict=True):
            page.text(place, middle, words, SMALL, va="center", color=colour)
    page.cursor += ROW * len(found) + 0.2


def _prepare(axis: Axes, rows: int, top: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(-0.04 * top, 1.04 * top)
    axis.set_ylim(rows - 0.5, -0.5)
    axis.set_yticks([])
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(axis="x", labelsize=SMALL, length=2, width=0.6, pad=1.5)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", color="0.92", lw=0.5)
    axis.set_axisbelow(True)
    for k in range(1, rows):
        axis.axhline(k - 0.5, color="0.85", lw=0.5)


def _pair(axis: Axes, row: int, one: Counts) -> None:
    rng = np.random.default_rng(0)
    shift = rng.uniform(-JITTER, JITTER, len(one.before))
    for place, values, colour in ((row - 0.22, one.before, BEFORE), (row + 0.22, one.after, AFTER)):
        shade = DOUBTFUL if one.doubt else colour
        axis.scatter(values, place + shift, s=3.5, color=shade, alpha=float(np.clip(20 / len(values), 0.08, 0.6)), lw=0, zorder=3.5)
        _box(axis, place, values, shade)
    for key, mark, _ in CONTROLS:
        if (value := one.value(key)) is not None:
            axis.plot([value], [row + 0.22], mark, ms=4, mfc="none", mec="0.25", mew=0.7, zorder=5)


def _box(axis: Axes, place: float, values: FloatArray, colour: str) -> None:
    """Quartiles, median, mean and whiskers to the farthest value within 1.5 quartile ranges."""
    from matplotlib.cbook import boxplot_stats
    from matplotlib.patches import Rectangle

    s = boxplot_stats(values)[0]
    axis.add_patch(
        Rectangle((s["q1"], place - BOX / 2), s["q3"] - s["q1"], BOX, facecolor=(colour, 0.25), edgecolor=colour, lw=0.8, zorder=3)
    )
    for near, far in ((s["q1"], s["whislo"]), (s["q3"], s["whishi"])):
        axis.plot([near, far], [place, place], color=colour, lw=0.8, zorder=3)
        axis.plot([far, far], [place - BOX / 4, place + BOX / 4], color=colour, lw=0.8, zorder=3)
    axis.plot([s["med"]] * 2, [place - BOX / 2, place + BOX / 2], color="black", lw=1.4, zorder=4, solid_capstyle="butt")
    axis.plot([s["mean"]], [place], "D", ms=3, mfc="white", mec="black", mew=0.7, zorder=6)


def _told(one: Counts, corrected: float | None) -> list[str]:
    """The texts of `NUMBERS`."""
    tested = one.cells.get("opacity_effect")
    effect, ci, p = one.value("opacity_effect"), tested.ci if tested else None, one.value("count_p")
    n, zeros = len(one.before), one.value("opacity_zeros")
    changed = None if zeros is None else n - int(zeros)
    exact = "\nexact" if changed is not None and changed <= EXACT else ""
    return [
        f"{n}" + ("" if changed is None else f"\n{changed} changed"),
        f"{_number(one.before.mean())} → {_number(one.after.mean())}",
        MISSING if effect is None else _number(effect) + (f"\n[{_number(ci[0])}, {_number(ci[1])}]" if ci else ""),
        MISSING if p is None else f"{p_value(p)}{exact}",
        MISSING if corrected is None else p_value(corrected),
    ]  # fmt: skip


def _number(value: float) -> str:
    return number(float(value), 2).replace("-", "\u2212")


def notes(found: Sequence[Counts]) -> Iterator[str]:
    """What is doubtful or missing, and why; one line a reason."""
    for mark, attribute, words in (("† ", "doubt", "not to be relied upon"), ("", "why", "no counts")):
        reasons: dict[str, list[str]] = {}
        for one in found:
            if reason := getattr(one, attribute):
                reasons.setdefault(reason, []).append(one.label)
        yield from (f"{mark}{words} ({', '.join(names)}): {reason.rstrip('.')}." for reason, names in reasons.items())


def _caption(table: Table, known: Sequence[Counts]) -> str:
    context = table.context
    named = {"train_dataset": "trained on {}", "preset": "preset {}", "image_size": "size {} px"}
    seeds, numbers = sorted({seed for one in known for seed in one.seeds}), sorted({len(one.before) for one in known})
    marks = {key: mark for (key, *_), mark in zip(CONTROLS, "▽△", strict=True)}
    shown = ", ".join(f"{marks[key]} {name}" for key, _, name in CONTROLS if any(one.value(key) is not None for one in known))
    told = [
        "; ".join([
            f"Test set {context.get('dataset')}", *table.variants,
            *(form.format(context[key]) for key, form in named.items() if context.get(key)),
            f"seed {', '.join(map(str, seeds))}" + (SEVERAL if any(len(one.seeds) > 1 for one in known) else ""),
            f"n = {span(numbers)} patients", f"data {context.get('dataset_fingerprint', '')[:8]}",
        ]),
        "Boxes: quartiles and median; whiskers: 1.5 quartile ranges; ◇ mean; dots: patients, moved apart up and down"
        + (f"; {shown}: mean after a control as far from the input as the translation (PSNR)" if shown else ""),
        f"p: two-sided paired Wilcoxon signed-rank test (Pratt), exact where at most {EXACT} patients changed; Holm: corrected "
        "for the methods without doubt; effect: rank-biserial correlation, \u22121 when every change is a decrease",
        _detector(known[0]),
    ]  # fmt: skip
    return ". ".join(told) + "."


def _detector(one: Counts) -> str:
    quality = one.value("map50")
    return f"Detector: {one.note}" + (f"; mAP50 {quality:.2f} on untouched images" if quality is not None else "")
