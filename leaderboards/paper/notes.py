"""What stands above and below a paper table: why there are several, what its numbers rest on, what its marks mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.records import without_folders
from leaderboards import about
from leaderboards.cells import shown_std, span
from leaderboards.changes import WHY
from leaderboards.groups import ORIGINAL, Identity, Record, digest_of, text
from leaderboards.marks import grounds, meaning
from leaderboards.notes import brackets_are, floor
from leaderboards.paper.blocks import SETTING, Block, Bundle, differences
from leaderboards.paper.build import Field, Grid, distinct, used
from leaderboards.subjects import labels
from leaderboards.subjects import title as heading
from leaderboards.tables import Column

#: So many commands, or versions of a package, are told.
MANY = 3
#: Packages whose versions are told; the records have the others.
PACKAGES = (
    "cxr-bench", "python", "torch", "torchvision", "torch-fidelity", "timm", "segmentation-models-pytorch", "ultralytics", "scipy",
)  # fmt: skip
#: So many characters of what tells a sheet from others are in its title.
BRIEF = 24
LEAKY = "Split by image: patients are unknown, the same patient may be in training and test"


Names = Mapping[Identity, str]
NAMELESS: Names = {}


def context(bundle: Bundle, own: Sequence[Block]) -> dict[str, str]:
    """What all rows share, for a reader."""
    shared = bundle.blocks[0].table.context
    found = {name: shared[key] for key, name in SETTING.items() if shared[key] and key != "schema"}
    for block in own:
        mine = block.table.context
        found[f"data of {block.dataset}"] = mine["dataset_fingerprint"]
        found[f"reference of {block.dataset}"] = f"{mine['reference']} {mine['reference_fingerprint'][:8]}".strip()
        found[f"{block.evaluator} of {block.dataset}"] = block.variant
    return {name: value for name, value in found.items() if value}


def title(what: str, bundle: Bundle, others: Sequence[Bundle]) -> str:
    """What a sheet shows, the setting, and what tells it from the other sheets."""
    shared = bundle.blocks[0].table.context
    words = [
        what, f"trained on {shared['train_dataset']}" if shared["train_dataset"] else "",
        f"preset {shared['preset']}" if shared["preset"] else "", f"{shared['image_size']} px" if shared["image_size"] else "",
    ]  # fmt: skip
    rest = [f"{name} {_short(name, value, others)}" for name, value in differences(bundle, others).items()
            if value and name not in ("training set", "preset", "image size")]  # fmt: skip
    return " · ".join(filter(None, [*words, *rest]))


def _short(name: str, value: str, others: Sequence[Bundle]) -> str:
    """The start of a long value, where it still tells it from the others'."""
    values = {other.facts[name] for other in others if name in other.facts}
    cut = len({found[:BRIEF] for found in values}) == len(values)
    return value if len(value) <= BRIEF or not cut else f"{value[:BRIEF]}…"


def above(bundle: Bundle, others: Sequence[Bundle], own: Sequence[Block]) -> list[str]:
    """Why there are several sheets, and what makes any number look better than it is."""
    lines = []
    if len(others) > 1:
        told = [f"{name} {value}" for name, value in differences(bundle, others).items() if value]
        why = ", ".join(told) if told else "other configurations of the methods than in the others"
        lines.append(f"One of {len(others)} tables that must not be ranked together; what tells this one: {why}.")
    trained = dict.fromkeys(block.table.trained for block in own if block.table.trained)
    lines += [f"All methods: {words}. They compare with each other, not with the preset's." for words in trained]
    leaky = [block.dataset for block in own if block.table.split_by]
    if leaky:
        lines.append(f"{LEAKY} ({', '.join(dict.fromkeys(leaky))}).")
    if not any(who[0] == ORIGINAL for who in bundle.everybody):
        lines.append("`original`, the untranslated images, is missing: whether any method beats doing nothing cannot be said.")
    return lines


def below(table: Grid) -> list[str]:
    """All notes of a sheet, few lines."""
    fields, records = table.fields, used(table.fields, table.who)
    own = distinct(fields)
    lines = [
        *marks(table), *doubts(own, fields, table.names), *undecided(table), *untested(own, fields, table.names), *floors(own),
        *spreads(table), *counts(table), *unequal(fields), *favours(own, fields, table.names), *remarks(own, fields),
        *warnings(own, table.names), *evaluators(own), *provenance(own, records, table.names),
    ]  # fmt: skip
    return list(dict.fromkeys(lines))


def marks(table: Grid) -> list[str]:
    """What the marks in use mean, and what they rest on."""
    named = [(field.head.label, one) for ranked in table.ranked for one, field in zip(ranked, table.fields, strict=True)]
    return [*meaning(one for _, one in named), *grounds(named)]


def undecided(table: Grid) -> list[str]:
    """Columns in which nothing is shown to differ from the best."""
    found = [
        f"{field.head.label} ({field.head.group})" if field.head.group else field.head.label
        for ranked in table.ranked[:1] for one, field in zip(ranked, table.fields, strict=True) if one.undecided
    ]  # fmt: skip
    return [f"No method is shown to be better than the others, all being ties with the best: {', '.join(found)}."] if found else []


def untested(own: Sequence[Block], fields: Sequence[Field], names: Names = NAMELESS) -> list[str]:
    """Results of tests that several seeds do not have."""
    found = []
    for block in own:
        mine = columns(fields, block)
        for remark in (r for r in block.table.notes if r.text == WHY):
            about = labels(column for column in remark.columns if column in mine)
            found += [f"No {about} of {called(block, remark.methods, names)} ({block.dataset}): {WHY}."] if about else []
    return found


def floors(own: Sequence[Block]) -> list[str]:
    """Distances of real clear images from others."""
    return [line for block in own if (line := floor(block.table))]


def columns(fields: Sequence[Field], block: Block) -> list[Column]:
    """The columns of a block that a sheet shows."""
    return list(dict.fromkeys(column for field in fields if field.block is block for column in field.columns))


def called(block: Block, methods: Iterable[str], names: Names) -> str:
    """Methods of a block by the names of the sheet's lines."""
    return ", ".join(dict.fromkeys(names.get(block.who.get(method, ("", "", "")), method) for method in methods))


def doubts(own: Sequence[Block], fields: Sequence[Field], names: Names = NAMELESS) -> list[str]:
    """Why values are marked †."""
    lines = []
    for block in own:
        mine = columns(fields, block)
        for remark in block.table.doubts:
            about = [column for column in remark.columns if column in mine]
            whom = f" ({called(block, remark.methods, names)})" if remark.methods else ""
            if about:
                lines.append(
                    f"†, not to be relied upon and not ranked: {labels(about)} of {block.dataset}: {remark.text.rstrip('.')}{whom}."
                )
    return lines


def spreads(table: Grid) -> list[str]:
    """What ± and brackets are over."""
    over: dict[str, list[str]] = {}
    ci, seeds = False, 1
    for k, field in enumerate(table.fields):
        cells = [cell for line in table.lines if (cell := line.entries[k].cell)]
        ci = ci or any(cell.ci for cell in cells)
        seeds = max([seeds, *(cell.seeds for cell in cells if cell.ci)])
        for kind in sorted({cell.std_over or "unstated units" for cell in cells if shown_std(cell) is not None}):
            over.setdefault(kind, []).append(field.head.label)
    told = [f"{kind} ({', '.join(dict.fromkeys(names))})" for kind, names in over.items()]
    lines = [f"± is the standard deviation over {'; '.join(told)}."] if told else []
    return [*lines, brackets_are(seeds > 1)] if ci else lines


def counts(table: Grid) -> list[str]:
    """n of each group of columns, and seeds."""
    found: dict[str, set[int]] = {}
    seeds: dict[str, list[str]] = {}
    for k, field in enumerate(table.fields):
        cells = [cell for line in table.lines if (cell := line.entries[k].cell)]
        found.setdefault(field.head.group or field.head.label, set()).update(n for cell in cells for n in cell.n)
    for line in table.lines:
        some = sorted({entry.cell.seeds for entry in line.entries if entry.cell})
        seeds.setdefault(span(some), []).append(line.label)
    n = "; ".join(f"{group} {span(sorted(some))}" for group, some in found.items())
    each = [f"{k} ({', '.join(dict.fromkeys(names))})" if len(seeds) > 1 else k for k, names in seeds.items()]
    return [f"n: {n}. Seeds: {'; '.join(each)}."]


def unequal(fields: Sequence[Field]) -> list[str]:
    """Distances of sets of different sizes."""
    found = []
    for field in (f for f in fields if f.block.evaluator == "fidelity"):
        sizes = {row.cells[field.column.id].n for row in field.block.table.rows if field.column.id in row.cells}
        found += [field.head.label] if len(sizes) > 1 else []
    return [f"n differs between rows: {', '.join(found)}. Distances whose bias depends on n do not compare."] if found else []


def favours(own: Sequence[Block], fields: Sequence[Field], names: Names = NAMELESS) -> list[str]:
    """Columns of a classifier that methods were trained with."""
    found: dict[str, list[str]] = {}
    for block in own:
        mine = columns(fields, block)
        for method, favoured in block.table.favoured.items():
            about = labels(column for column in mine if column in favoured)
            if about:
                found.setdefault(about, []).append(called(block, [method], names))
    return [
        f"{about}: favours {', '.join(dict.fromkeys(who))}, trained with the classifier that scores here."
        for about, who in found.items()
    ]


def remarks(own: Sequence[Block], fields: Sequence[Field]) -> list[str]:
    """What scores say in words for all methods alike."""
    found: dict[tuple[str, str], list[str]] = {}
    for block in own:
        mine = columns(fields, block)
        for remark in (r for r in block.table.notes if not r.methods):
            about = labels(column for column in mine if column in remark.columns and block.table.filled(column))
            whole = all(column in remark.columns for column in mine)
            if about:
                found.setdefault((block.evaluator if whole else about, remark.text), []).append(block.dataset)
    lines: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (subject, words), where in found.items():
        lines.setdefault((subject, tuple(dict.fromkeys(where))), []).append(words)
    told = ((heading(subject), where, words) for (subject, where), words in lines.items())
    return [f"{subject} ({', '.join(where)}): {'; '.join(words)}." for subject, where, words in told]


def warnings(own: Sequence[Block], names: Names = NAMELESS) -> list[str]:
    """What trainings warned about."""
    found: dict[str, dict[str, None]] = {}
    for block in own:
        for words, methods in block.table.warnings.items():
            found.setdefault(" ".join(words.split()).rstrip("."), {}).update(dict.fromkeys(called(block, [m], names) for m in methods))
    return [f"Training of {', '.join(methods)}: {words}." for words, methods in sorted(found.items())]


def evaluators(own: Sequence[Block]) -> list[str]:
    """What the evaluators are and which models they use, each once."""
    told: dict[str, list[str]] = {}
    for block in own:
        if words := about.evaluator(block.table, block.evaluator):
            told.setdefault(words, []).append(block.dataset)
    return [f"{', '.join(where)}: {words}" if len(told) > 1 else words for words, where in told.items()]


def provenance(own: Sequence[Block], records: Sequence[Record], names: Names = NAMELESS) -> list[str]:
    """Fingerprints, versions, commands, digest."""
    lines = [f"Data: {_data(own)}. Configurations: {_configurations(own, names)}."]
    known = (r for r in records if r.get("evaluator_version"))
    versions = _distinct(f"{text(r.get('evaluator'))} v{text(r.get('evaluator_version'))}" for r in known)
    packages = _packages(records)
    lines.append(f"Evaluators: {', '.join(versions) or 'version unknown'}.{f' Packages: {packages}.' if packages else ''}")
    commands = _distinct(without_folders(text(record.get("command"))) for record in records)
    if commands:
        more = f" and {len(commands) - MANY} others" if len(commands) > MANY else ""
        lines.append(f"Made by: {', '.join(f'`{command}`' for command in commands[:MANY])}{more}.")
    passed = sum(block.passed for block in own)
    older = f" {passed} older records of the same scores do not count: the newest does." if passed else ""
    tied = list(dict.fromkeys(line for block in own for line in block.undecidable))
    return [*lines, *tied, f"{len(records)} records, digest `{digest_of(records)}`.{older}"]


def _data(own: Sequence[Block]) -> str:
    told = []
    for mine in {block.dataset: block.table.context for block in own}.values():
        against = f" against {mine['reference']} `{mine['reference_fingerprint'][:8]}`" if mine["reference"] else ""
        told.append(f"{mine['dataset']} `{mine['dataset_fingerprint']}`{against}")
    return ", ".join(told)


def _configurations(own: Sequence[Block], names: Names) -> str:
    everybody = sorted(who for who in {who for block in own for who in block.who.values()} if not names or who in names)
    called_otherwise = {who: f"{names[who]}: " for who in everybody if who in names and not names[who].startswith(who[0])}
    told = [
        (f"{called_otherwise.get(who, '')}{who[0]} v{who[1] or '?'}", f" `{who[2][:8]}`" if who[2] else "") for who in everybody
    ]
    return ", ".join(f"{name}{config}" for name, config in told)


def _packages(records: Sequence[Record]) -> str:
    found: dict[str, dict[str, None]] = {}
    for record in records:
        versions: Mapping[str, Any] = record.get("versions") or {}
        for name in (name for name in PACKAGES if versions.get(name)):
            found.setdefault(name, {})[text(versions[name])] = None
    return ", ".join(f"{name} {' / '.join(list(found[name])[:MANY])}" for name in PACKAGES if name in found)


def _distinct(words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word})
