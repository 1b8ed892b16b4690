"""Records -> sheets: Table 3 of the paper, the ablation of ``ours``.

Rows are told by the method's resolved configuration in the records, not by file names: four switches, everything else equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.files import canonical_json
from leaderboards.groups import ORIGINAL, TRAIN_FIELDS, Identity, Record, identity, text
from leaderboards.paper import notes
from leaderboards.paper.blocks import Bundle, blocks, bundles
from leaderboards.paper.build import distinct, grid
from leaderboards.paper.tables import distances
from leaderboards.sheet import Sheet

OURS = "ours"
#: Masks, feature alignment, label consistency, empty masks where nothing needs translation: in the order the paper adds them.
SWITCHES = ("aaspm", "fa", "lca", "baml")
ROWS: dict[tuple[bool, ...], str] = {
    (False, False, False, False): "none", (True, False, False, False): "AASPM", (False, True, False, False): "FA",
    (True, True, False, False): "AASPM + FA", (True, True, True, False): "AASPM + FA + LCA", (True, True, True, True): "full",
}  # fmt: skip
#: Of what a training cost, what makes it another training.
BUDGET = ("iterations", "images_seen", "precision")
COMMAND = "bench run --method ours --suite ablation"
WHY = "One of several tables of ours, whose rows differ in more than the four switches; this one: {}."
REFERENCE = "`original` is a line for reference: marks hold among the rows of the ablation."
UNKNOWN = (
    "{n} records of ours do not say their method's configuration (an older version wrote them), so their rows are unknown: score "
    "again with --force score."
)


#: Blocks, and the methods of one sheet in them.
Part = tuple[Bundle, Sequence[Identity]]


@dataclass(frozen=True)
class _Recipe:
    """How a row was trained.

    Attributes:
        switches: values of `SWITCHES`.
        rest: everything else of the method, which must agree within a sheet ...
        budget: ... and so must how long it was trained; None where nothing says so, for it failed.
    """

    switches: tuple[bool, ...]
    rest: Mapping[str, str]
    budget: Mapping[str, str] | None = None

    @property
    def facts(self) -> Mapping[str, str]:
        """All that must agree."""
        return {**self.rest, **(self.budget or {})}

    def alike(self, other: _Recipe) -> bool:
        """Whether nothing but switches tells them apart, as far as is known."""
        return self.rest == other.rest and (self.budget == other.budget or None in (self.budget, other.budget))

    @property
    def name(self) -> str:
        """The paper's row; its switches where the paper has none."""
        on = [name.upper() for name, value in zip(SWITCHES, self.switches, strict=True) if value]
        return ROWS.get(self.switches) or f"{' + '.join(on)} (no row of the paper)"

    @property
    def place(self) -> int:
        """Where the row stands."""
        return list(ROWS).index(self.switches) if self.switches in ROWS else len(ROWS)


def _recipe(record: Record) -> _Recipe | None:
    """None where the record does not say."""
    config: Any = record.get("method_config")
    if not isinstance(config, Mapping) or not all(isinstance(config.get(name), bool) for name in SWITCHES):
        return None
    cost = record.get("cost") or {}
    rest = {name: text(value) for name, value in config.items() if name not in SWITCHES}
    rest["version"] = text(record.get("method_version"))
    budget = {name: text(cost.get(name)) for name in BUDGET}
    return _Recipe(tuple(bool(config[name]) for name in SWITCHES), rest, budget if record.get("status") == "ok" else None)


def found3(records: Sequence[Record]) -> list[Part]:
    """What Table 3 can be made of; empty where no two rows were trained alike but for their switches."""
    mine = [record for record in records if record.get("method") in (OURS, ORIGINAL)]
    made = bundles(block for block in blocks(mine, ("fidelity",)) if block.home and distances(block))
    return [(bundle, who) for bundle in made for who in _alike(bundle)]


def table3(parts: Sequence[Part]) -> list[Sheet]:
    """The rows of the ablation against distances."""
    return [_sheet(bundle, who, parts) for bundle, who in parts]


def _recipes(bundle: Bundle) -> dict[Identity, _Recipe]:
    """Of each configuration, by its records that succeeded where there are any."""
    found: dict[Identity, _Recipe] = {}
    for who, records in bundle.members.items():
        mine = sorted(records, key=lambda r: r.get("status") != "ok") if who[0] == OURS else []
        recipe = _recipe(mine[0]) if mine else None
        if recipe:
            found[who] = recipe
    return found


def _alike(bundle: Bundle) -> list[list[Identity]]:
    """Methods that differ in nothing but switches, the most rows first; nothing where none has two rows."""
    found: list[list[Identity]] = []
    recipes = _recipes(bundle)
    for who in sorted(recipes, key=lambda who: (recipes[who].budget is None, who)):
        group = next((some for some in found if recipes[some[0]].alike(recipes[who])), None)
        if group is None:
            found.append([who])
        else:
            group.append(who)
    several = [some for some in found if len({recipes[who].switches for who in some}) > 1]
    return sorted(found, key=lambda some: (-len(some), some)) if several else []


def whole(records: Sequence[Record]) -> tuple[list[Record], int]:
    """Records without rows of the ablation: ``ours`` with modules off, where it is there with all of them and equal otherwise.

    Returns:
        The others, and how many configurations were left out.
    """
    recipes = [_recipe(record) if record.get("method") == OURS else None for record in records]
    full = {_twin(r, recipe) for r, recipe in zip(records, recipes, strict=True) if recipe and all(recipe.switches)}
    kept, left = [], set()
    for record, recipe in zip(records, recipes, strict=True):
        if recipe and not all(recipe.switches) and _twin(record, recipe) in full:
            left.add(identity(record))
        else:
            kept.append(record)
    return kept, len(left)


def _twin(record: Record, recipe: _Recipe) -> str:
    return canonical_json([recipe.rest, *(text(record.get(name)) for name in TRAIN_FIELDS)])


def _sheet(bundle: Bundle, chosen: Sequence[Identity], parts: Sequence[Part]) -> Sheet:
    recipes = _recipes(bundle)
    everybody = [*(who for who in bundle.everybody if who[0] == ORIGINAL), *chosen]
    fields = [field for block in bundle.blocks for field in distances(block)]
    namesakes = [recipes[who].switches for who in chosen]

    def name(who: Identity) -> str:
        if who not in recipes:
            return bundle.name(who)
        alone = namesakes.count(recipes[who].switches) == 1
        return recipes[who].name if alone else f"{recipes[who].name} ({who[2][:8]})"

    table = grid(bundle, fields, name, everybody, rival=False)
    place = {who: (who[0] != ORIGINAL, recipes[who].place if who in recipes else -1, who) for who in table.who}
    order = sorted(range(len(table.who)), key=lambda i: place[table.who[i]])
    table = replace(table, who=tuple(table.who[i] for i in order), lines=tuple(table.lines[i] for i in order))
    own = distinct(fields)
    bundled = list({id(one): one for one, _ in parts}.values())
    odd = _told_apart(bundle, chosen, parts)
    above = [*notes.above(bundle, bundled, own), *([WHY.format(odd)] if odd else []), *_unknown(bundle), *_lacking(chosen, recipes)]
    title = " · ".join(filter(None, [notes.title("Table 3: ablation of ours", bundle, bundled), odd]))
    reference = [REFERENCE] if any(line.original for line in table.lines) else []
    return Sheet(
        "table3", title, notes.context(bundle, own), table.heads, table.lines,
        tuple(above), (*reference, *notes.below(table)), corner="Modules",
    )  # fmt: skip


def _told_apart(bundle: Bundle, chosen: Sequence[Identity], parts: Sequence[Part]) -> str:
    """What tells rows of this sheet from those of others of the same setting; empty where there are none."""
    recipes = _recipes(bundle)
    groups = [who for one, who in parts if one is bundle]
    rests = [recipes[who[0]].facts for who in groups]
    mine = recipes[chosen[0]].facts
    keys = sorted({key for rest in rests for key in rest})
    return ", ".join(f"{key} {mine.get(key) or 'unset'}" for key in keys if len({rest.get(key) for rest in rests}) > 1)


def unknown_rows(records: Iterable[Record]) -> int:
    """Number of records of ``ours`` that succeeded and do not say which row they are."""
    mine = (r for r in records if (r.get("method"), r.get("evaluator"), r.get("status")) == (OURS, "fidelity", "ok"))
    return sum(_recipe(record) is None for record in mine)


def _unknown(bundle: Bundle) -> list[str]:
    n = unknown_rows(record for block in bundle.blocks for record in block.records)
    return [UNKNOWN.format(n=n)] if n else []


def _lacking(chosen: Sequence[Identity], recipes: Mapping[Identity, _Recipe]) -> list[str]:
    here = {recipes[who].switches for who in chosen}
    rows = [name for switches, name in ROWS.items() if switches not in here]
    return [f"Rows of the paper's table without scores: {', '.join(rows)}. {COMMAND} makes them."] if rows else []
