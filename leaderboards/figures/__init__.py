"""The paper's Figures 3 to 6 from what the runs stored: files for print, PNGs for a screen.

Figures 3 to 5 hold images. Those of a restricted dataset are left out unless they are asked for, and then say that they must not be
passed on. Figure 6 holds none and is always made. What is left out is said by `lacking`. The same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageError
from leaderboards.cases import CaseSet
from leaderboards.figures import cases, counts, layout
from leaderboards.groups import Record
from leaderboards.tables import Table, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Figure 5 of each method with activation masks, a file each.
EVERY = "all"


@dataclass(frozen=True)
class _Drawing:
    stem: str
    caption: str
    draw: Callable[[], Figure]


def write(
    records: Iterable[Record], case_sets: Sequence[CaseSet], folder: Path, pdf: bool = True, *,
    segmenter: str = "", method: str = "", restricted: bool = False,
) -> list[Path]:  # fmt: skip
    """Write ``figure3-SET.png`` to ``figure5-SET.png`` of each case set and ``figure6-SET.png`` of each table with counts.

    Args:
        records: as `bench.records.load` gives them.
        case_sets: their cases.
        folder: is made where it is missing.
        pdf: write each as PDF, too.
        segmenter: of Figure 4; by default U-Net, or the first by name where that is not stored.
        method: of Figure 5; by default ``ours``, or the first with activation masks where that has none; `EVERY` for each of them.
        restricted: draw images of restricted datasets, too. Such files must not leave the machine.

    Returns:
        The files, sorted by set and figure.

    Raises:
        UsageError: no case set has lungs of that segmenter, or masks of that method.
        DataError: stored masks do not fit the images.
    """
    _check(case_sets, segmenter, method)
    written = []
    drawings = [*_of_cases(case_sets, segmenter, method, restricted), *_of_counts(list(records))]
    for drawing in drawings:
        figure = drawing.draw()
        written.append(layout.save(folder / f"{drawing.stem}.png", layout.png(figure, layout.PRINT)))
        if pdf:
            written.append(layout.save(folder / f"{drawing.stem}.pdf", layout.pdf(figure)))
    return written


def pngs(
    records: Iterable[Record], case_sets: Sequence[CaseSet], *,
    segmenter: str = "", method: str = "", dots: int = layout.SCREEN,
) -> dict[str, bytes]:  # fmt: skip
    """Caption -> PNG for a screen, of the same figures; images of restricted datasets are never among them.

    Args and errors as in `write`, and dots per inch of figures up to 7 inches wide: bytes grow with their square.
    """
    _check(case_sets, segmenter, method)
    drawings = [*_of_cases(case_sets, segmenter, method, restricted=False), *_of_counts(list(records))]
    return {drawing.caption: layout.screen(drawing.draw(), dots) for drawing in drawings}


def named(records: Iterable[Record], case_sets: Sequence[CaseSet], dots: int = layout.SCREEN) -> Iterator[tuple[str, bytes]]:
    """`pngs` one by one, by the names that `write` gives their files (``figure3-SET``)."""
    for drawing in [*_of_cases(case_sets, "", "", restricted=False), *_of_counts(list(records))]:
        yield drawing.stem, layout.screen(drawing.draw(), dots)


def lacking(
    case_sets: Sequence[CaseSet], records: Iterable[Record] = (), *, segmenter: str = "", method: str = "", restricted: bool = False
) -> list[str]:
    """Why figures are not made, a line each; with records, those of Figure 6, too. Args as in `write`."""
    lines = []
    for slug, found in _named(case_sets):
        if found.restricted and not restricted:
            lines.append(f"figures 3 to 5 of {slug}: not drawn, images of a restricted dataset do not leave the machine.")
        elif not found.cases:
            lines.append(f"figures 3 to 5 of {slug}: not drawn, there are no cases.")
        else:
            lines += _missing(slug, found, segmenter, method)
    for slug, _, some in _counted(list(records)):
        if all(one.why for one in some):
            lines += [f"figure 6 of {slug}: not drawn, {words}" for words in counts.notes(some)]
        else:
            lines += [f"figure 6 of {slug}: {words}" for words in counts.notes([one for one in some if one.why])]
    return lines


def _missing(slug: str, found: CaseSet, segmenter: str, method: str) -> Iterator[str]:
    name = cases.segmenter_of(found, segmenter)
    blind = [one for one in found.methods if all(name not in case.results[one].lungs for case in found.cases)]
    if name and blind:
        yield f"figure 4 of {slug}: no lungs by {cases.full_name(name)} are stored of {', '.join(blind)}."
    if not name:
        whose = f" by {segmenter}" if segmenter else ""
        yield f"figure 4 of {slug}: not drawn, no lungs{whose} are stored. Run the segmentation evaluator (with --force score)."
    if not _methods(found, method):
        yield f"figure 5 of {slug}: not drawn, " + (
            f"{method} has no activation masks of these cases." if method not in ("", EVERY) else "no method has activation masks."
        )


# -- what is drawn -----------------------------------------------------------------------------------------------------------


def _of_cases(case_sets: Sequence[CaseSet], segmenter: str, method: str, restricted: bool) -> Iterator[_Drawing]:
    for slug, found in _named(case_sets):
        if (found.restricted and not restricted) or not found.cases:
            continue
        whose = f"{found.title} ({slug})"
        yield _Drawing(f"figure3-{slug}", f"Figure 3. Translations by method: {whose}.", partial(cases.translations, found))
        if name := cases.segmenter_of(found, segmenter):
            told = f"Figure 4. Lungs segmented by {cases.full_name(name)} before and after translation: {whose}."
            yield _Drawing(f"figure4-{slug}", told, partial(cases.segmentation, found, name))
        for one in _methods(found, method):
            told = f"Figure 5. Input, activation mask, output and difference of {one}: {whose}."
            end = f"-{layout.file_name(one)}" if method else ""
            yield _Drawing(f"figure5-{slug}{end}", told, partial(cases.removal, found, one))


def _of_counts(records: Sequence[Record]) -> Iterator[_Drawing]:
    for slug, table, found in _counted(records):
        if any(not one.why for one in found):
            forms = {"dataset": "{}", "train_dataset": "trained on {}", "preset": "{} preset", "image_size": "{} px"}
            told = ", ".join(form.format(value) for key, form in forms.items() if (value := table.context.get(key)))
            words = f"Figure 6. Lesions found before and after translation: {told} ({slug})."
            yield _Drawing(f"figure6-{slug}", words, partial(counts.counts, table))


def _named(case_sets: Sequence[CaseSet]) -> list[tuple[str, CaseSet]]:
    names = layout.slugs([(found.test, {"title": found.title, **found.context, "seed": str(found.seed)}) for found in case_sets])
    return list(zip(names, case_sets, strict=True))


def _counted(records: Sequence[Record]) -> list[tuple[str, Table, list[counts.Counts]]]:
    """File name, table and methods of each table that the detection evaluator ran for."""
    some = [(table, mine) for table in tables(records) if (mine := counts.counted(table))]
    told = [(table.context.get("dataset", ""), {**table.context, "variants": " ".join(table.variants)}) for table, _ in some]
    return [(slug, table, mine) for slug, (table, mine) in zip(layout.slugs(told), some, strict=True)]


def _methods(found: CaseSet, asked: str) -> list[str]:
    """The methods that Figure 5 is drawn of: those asked for that have activation masks."""
    masked = cases.masked(found)
    if asked == EVERY:
        return masked
    wanted = asked or cases.METHOD
    same = [name for name in masked if name == wanted] or [name for name in masked if name.partition(" ")[0] == wanted]
    return same if asked else (same or masked)[:1]


def _check(case_sets: Sequence[CaseSet], segmenter: str, method: str) -> None:
    """Refuse names that nothing stored has.

    Raises:
        UsageError: the message says which there are.
    """
    if not any(found.cases for found in case_sets):
        return
    if segmenter and not any(cases.segmenter_of(found, segmenter) for found in case_sets):
        stored = sorted({name for found in case_sets for name in cases.segmenters(found)})
        raise UsageError(f"figure 4: no lungs by segmenter '{segmenter}' are stored; there are: {', '.join(stored) or 'none'}.")
    if method and method != EVERY and not any(_methods(found, method) for found in case_sets):
        masked = sorted({name for found in case_sets for name in cases.masked(found)})
        raise UsageError(f"figure 5: no activation masks of method '{method}' are stored; there are: {', '.join(masked) or 'none'}.")
