"""Records -> sheets: Table 2 of the paper. Classifiers learn opacity from original images, generated images and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from leaderboards.evidence import Place
from leaderboards.groups import ORIGINAL, Identity, Record
from leaderboards.marks import Test
from leaderboards.paper import notes
from leaderboards.paper.blocks import Block, Bundle, blocks, bundles
from leaderboards.paper.build import Field, Grid, field_of, mark, problems
from leaderboards.sheet import Entry, Line, Sheet
from leaderboards.subjects import DOT
from leaderboards.tables import Column

#: The columns: all but AUROC follow from the pooled confusion matrix.
SCORES = {
    "Accuracy": "Share of images whose class is found.",
    "Precision": "Share of the images called opacity that are.",
    "Recall": "Share of the opacity images that are called so.",
    "F1": "Harmonic mean of precision and recall.",
    "AUROC": "Area under the ROC curve within each fold, averaged over folds by their images.",
}
#: The matrix itself.
COUNTS = {
    "TP": "Opacity called opacity.", "FP": "Clear called opacity.", "FN": "Opacity called clear.", "TN": "Clear called clear.",
}  # fmt: skip
REAL = "the same whatever the method"
READING = (
    f"Original: classifiers of the untranslated images, {REAL}. Marks hold within one architecture. Accuracy, precision, recall "
    "and F1 follow from one confusion matrix, pooled over the folds; it stands behind this table. AUROC is the area under the ROC "
    "curve within each fold, averaged over folds by their images: folds are not calibrated alike."
)


def found2(records: Sequence[Record]) -> list[Bundle]:
    """What Table 2 can be made of: every test set on which classifiers were trained."""
    return bundles(block for block in blocks(records, ("classification",)) if _parts([block]))


def table2(made: Sequence[Bundle]) -> list[Sheet]:
    """Architectures and data types: is opacity found in generated images and masks as it is in the originals?"""
    return [_sheet(bundle, made) for bundle in made]


def _sheet(bundle: Bundle, others: Sequence[Bundle]) -> Sheet:
    own = list(bundle.blocks)
    table, matrix = _grid(bundle, SCORES), _grid(bundle, COUNTS)
    context = notes.context(bundle, own)
    behind = Sheet(
        "table2-confusion", notes.title("Table 2: confusion matrices, pooled over folds", bundle, others), context, matrix.heads,
        matrix.lines, corner="Learnt from",
    )  # fmt: skip
    return Sheet(
        "table2", notes.title("Table 2: opacity or clear, by architecture and data type", bundle, others), context, table.heads,
        table.lines, tuple(notes.above(bundle, others, own)), (READING, *_empty(own), *notes.below(table)), corner="Learnt from",
        behind=(behind,) if matrix.lines else (),
    )  # fmt: skip


def _parts(own: Sequence[Block]) -> list[str]:
    """Parts with values, in the order of the evaluator: ``ResNet50 · Original``."""
    found = (c.part for block in own for c in block.table.columns if c.part and c.label in SCORES and block.table.filled(c))
    return list(dict.fromkeys(found))


def _empty(own: Sequence[Block]) -> list[str]:
    """Why parts have no value on a test set, each reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for block in own:
        for remark in block.table.notes:
            empty = [c for c in remark.columns if c.part and c.label in SCORES and not block.table.filled(c)]
            for kind in dict.fromkeys(column.part.partition(DOT)[2] or column.part for column in empty):
                found.setdefault((remark.text, kind), []).append(block.dataset)
    reasons: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (words, kind), where in found.items():
        reasons.setdefault((words, tuple(dict.fromkeys(where))), []).append(kind)
    return [f"No value of {', '.join(kinds)} on {', '.join(where)}: {words.rstrip('.')}." for (words, where), kinds in reasons.items()]


def _grid(bundle: Bundle, names: dict[str, str]) -> Grid:
    """Lines of all parts, grouped by architecture and marked within it."""
    own = list(bundle.blocks)
    fields = [field for block in own for name in names if (field := _field(block, name, names[name]))]
    groups: dict[str, list[tuple[str, Line]]] = {}
    for part in _parts(own):
        groups.setdefault(part.split(DOT)[0], []).extend((part, line) for line in _lines(bundle, fields, part))
    marked = [mark([line for _, line in some], fields, partial(_test, lines=some)) for some in groups.values()]
    lines = tuple(line for some, _ in marked for line in some)
    called = {who: bundle.name(who) for who in bundle.everybody}
    return Grid(tuple(fields), bundle.everybody, lines, tuple(found for _, found in marked), called)


def _test(field: Field, lines: Sequence[tuple[str, Line]]) -> Test:
    """The tests of a column between the lines of one architecture. What no method changes is any method's: the first one's that has
    anything to test by."""
    evidence, own = field.block.evidence, dict[int, Place]()
    for k, (part, line) in enumerate(lines):
        column, rows = _column(field, part), field.block.rows
        rows_of = [rows[line.who]] if line.who in rows else list(rows.values()) if not any(line.who) else []
        found = next((row for row in rows_of if column and evidence.of((row, column))), None)
        if column and found:
            own[k] = (found, column)
    return lambda i, j: evidence.between(own[i], own[j]) if i in own and j in own else None


def _field(block: Block, name: str, detail: str) -> Field | None:
    """A column of all parts: direction and digits are those of a part that is ranked, where any is."""
    alike = [c for c in block.table.columns if c.part and c.label == name and block.table.filled(c)]
    column = next((c for c in alike if c.sign), alike[0] if alike else None)
    if column is None:
        return None
    made = field_of(block, column, f"Opacity in {block.dataset}", detail=detail)
    head = replace(made.head, key=f"{block.dataset}.classification.{name.lower()}")
    return replace(made, head=head, also=tuple(c for c in alike if c != column))


def _lines(bundle: Bundle, fields: Sequence[Field], part: str) -> list[Line]:
    """The rows of a part: one, where no method changes it, or one a method that has a value or failed."""
    architecture, _, kind = part.partition(DOT)
    rows: list[tuple[Identity, tuple[Entry, ...]]] = []
    for who in bundle.everybody:
        entries = tuple(_entry(field, part, who) for field in fields)
        if any(entry.cell for entry in entries) or any(entry.text for entry in entries):
            rows.append((who, entries))
    if rows and _shared(fields, part):
        each = [dict.fromkeys(entry.cell for entry in column if entry.cell) for column in zip(*(e for _, e in rows), strict=True)]
        if all(len(values) < 2 for values in each):
            once = tuple(Entry(next(iter(values), None)) for values in each)
            return [Line(kind or part, once, architecture, original=kind == "Original")]
    own = [field.block for field in fields]
    return [
        Line(f"{kind}, {bundle.name(who)}", entries, architecture, who[0] == ORIGINAL, problems(own, who), who)
        for who, entries in rows
    ]


def _shared(fields: Sequence[Field], part: str) -> bool:
    return all(column.shared for field in fields if (column := _column(field, part)))


def _column(field: Field, part: str) -> Column | None:
    columns = field.block.table.columns
    return next((c for c in columns if c.part == part and c.label == field.column.label and field.block.table.filled(c)), None)


def _entry(field: Field, part: str, who: Identity) -> Entry:
    column = _column(field, part)
    return replace(field, column=column).entry(who) if column else Entry()
