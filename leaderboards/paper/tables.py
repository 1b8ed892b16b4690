"""Records -> sheets: Table 1 and the numbers of Figure 6 of the paper (Ning et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from leaderboards.groups import Identity, Record
from leaderboards.paper import notes
from leaderboards.paper.blocks import Block, Bundle, blocks, bundles
from leaderboards.paper.build import Field, Grid, distinct, field_of, grid
from leaderboards.sheet import Line, Sheet
from leaderboards.tables import Column
from leaderboards.values import Cell

#: Details of Table 1's columns, by the start of their key.
DELTA = "Change of the lung overlap against the untranslated images, in percentage points; mean over segmenters and patients."
IOU = "Overlap of the segmenters' lungs with the reference after translation; mean over segmenters and patients."
SENSITIVITY = "Share of the reference lung that the segmenters find after translation; mean over segmenters and patients."
SEGMENTATION = (("miou_delta", DELTA), ("miou", IOU), ("sensitivity", SENSITIVITY))
DISTANCE = "Distance of the translated images, as a set, from real clear images of the training set's test part."
#: Figure 6: key of the metric, label, what it is.
LESIONS = (
    ("count_before", "Before", "Mean lesions an opacity image before translation."),
    ("count_after", "After", "Mean lesions an opacity image after translation."),
    ("count_change", "Change", "Mean change a patient."),
    ("count_p", "p", "Two-sided paired Wilcoxon test over patients, before against after; not corrected for several methods."),
    ("opacity_effect", "Effect", "Rank-biserial correlation: -1 where every patient that changed has fewer, 1 where more."),
)  # fmt: skip
P_VALUE = (
    "p: paired Wilcoxon over patients of each method against the untranslated images, not corrected for their number. "
    "Effect: rank-biserial, -1 where every patient that changed has fewer lesions."
)


def distances(block: Block) -> list[Field]:
    """Fréchet distances, then kernel distances, by the names the extractor gives them."""
    own = [c for c in block.table.columns if not c.part and not c.shared and block.table.filled(c)]
    group = f"Images of {block.dataset}"
    return [field_of(block, c, group, detail=DISTANCE) for c in sorted(own, key=lambda c: c.key.startswith("k"))]


def found1(records: Sequence[Record]) -> list[Bundle]:
    """What Table 1 can be made of: distances on the training set's test part, and lungs on every test set with masks."""
    found = []
    for block in blocks(records, ("fidelity", "segmentation")):
        if (block.home and distances(block)) if block.evaluator == "fidelity" else _lungs(block):
            found.append(block)
    return bundles(found)


def table1(made: Sequence[Bundle]) -> list[Sheet]:
    """Methods against distances and lungs."""
    return [_table1(bundle, made) for bundle in made]


def _table1(bundle: Bundle, others: Sequence[Bundle]) -> Sheet:
    own = [field for block in bundle.of("fidelity") for field in distances(block)]
    own += [field for block in bundle.of("segmentation") for field in _lungs(block)]
    table = grid(bundle, own)
    above = notes.above(bundle, others, distinct(own))
    home = bundle.blocks[0].table.context["train_dataset"]
    if not bundle.of("fidelity"):
        above.append(f"No record has a distance of images of {home or 'the training set'}: score it with --suite fidelity.")
    if not bundle.of("segmentation"):
        above.append("No test set here has lung masks and scores of segmentation: score one with --suite segmentation.")
    return Sheet(
        "table1", notes.title("Table 1: translation quality and lungs", bundle, others), notes.context(bundle, distinct(own)),
        table.heads, table.lines, tuple(above), tuple(notes.below(table)), behind=_segmenters(bundle, others),
    )  # fmt: skip


def _lungs(block: Block, part: str = "") -> list[Field]:
    """Delta, overlap and sensitivity of a test set: averages, or one segmenter's."""
    found = []
    for start, detail in SEGMENTATION:
        own = [c for c in block.table.columns if c.part == part and _stem(c.key) == start and not c.shared]
        mine = [c for c in own if block.table.filled(c)]
        words = detail.replace("segmenters and ", "") if part else detail
        found += [field_of(block, c, f"Lungs of {block.dataset}", _short(c.label), words) for c in mine[:1]]
    return found


def _short(label: str) -> str:
    """``Lung mIoU`` -> ``mIoU``: the heading of the group says of what."""
    rest = label.removeprefix("Lung ")
    return rest if rest.startswith("mIoU") else rest[:1].upper() + rest[1:]


def _stem(key: str) -> str:
    """``miou_delta_pooled/unet`` -> ``miou_delta``: definitions of the overlap have suffixes of their own."""
    return key.split("/", maxsplit=1)[0].removesuffix("_pooled").removesuffix("_both")


def _segmenters(bundle: Bundle, others: Sequence[Bundle]) -> tuple[Sheet, ...]:
    """The same for each segmenter, methods ranked within it."""
    own = bundle.of("segmentation")
    parts = dict.fromkeys(c.part for block in own for c in block.table.columns if c.part and _lungs(block, c.part))
    lines: list[Line] = []
    grids: list[Grid] = []
    for part in parts:
        fields = [replace(f, head=replace(f.head, key=f"{f.block.dataset}.segmentation.{_stem(f.column.key)}"))
                  for block in own for f in _lungs(block, part)]  # fmt: skip
        grids.append(grid(bundle, fields))
        lines += [replace(line, group=part) for line in grids[-1].lines]
    if not lines or len({len(one.fields) for one in grids}) > 1:
        return ()
    whole = Grid(grids[0].fields, grids[0].who, tuple(lines), tuple(r for one in grids for r in one.ranked))
    below = (*notes.marks(whole), *notes.doubts(own, [f for one in grids for f in one.fields]), *notes.spreads(whole),
             "Marks hold within one segmenter.")  # fmt: skip
    return (
        Sheet("table1-segmenters", notes.title("Table 1 by segmenter", bundle, others), notes.context(bundle, own),
              whole.heads, whole.lines, below=below),
    )  # fmt: skip


def found6(records: Sequence[Record]) -> list[Bundle]:
    """What Figure 6 can be made of: every test set in which a detector counted."""
    return bundles(block for block in blocks(records, ("detection",)) if block.column("count_change"))


def figure6(made: Sequence[Bundle]) -> list[Sheet]:
    """Lesion counts before and after translation."""
    found = []
    for bundle in made:
        fields = [field for block in bundle.blocks for field in _lesions(block)]
        table = grid(bundle, fields)
        own = list(bundle.blocks)
        found.append(Sheet(
            "fig6", notes.title("Figure 6: lesions before and after", bundle, made), notes.context(bundle, own), table.heads,
            table.lines, tuple(notes.above(bundle, made, own)), (P_VALUE, *notes.below(table)),
        ))  # fmt: skip
    return found


def _lesions(block: Block) -> list[Field]:
    group = f"Lesions in {block.dataset}"
    found = [
        field_of(block, column, group, label, detail) for key, label, detail in LESIONS if (column := block.column(key))
    ]
    column = block.column("count_p") or block.column("count_change")
    if column:
        patients = field_of(block, column, group, "Patients", "Patients with opacity images.", better="")
        head = replace(patients.head, digits=0, unit="", p=False, key=f"{block.dataset}.detection.patients")
        found.append(replace(patients, head=head, get=_patients(column)))
    return found


def _patients(column: Column) -> Callable[[Block, Identity], Cell | None]:
    """The number behind a test, as a value."""

    def get(block: Block, who: Identity) -> Cell | None:
        cell = block.rows[who].cells.get(column.id)
        return Cell(float(cell.n[0]), n=cell.n, seeds=cell.seeds) if cell and len(cell.n) == 1 else None

    return get
