"""Records -> blocks -> bundles: which scores of several test sets may stand side by side in one paper table.

A block is all that is comparable of one evaluator on one test set (`leaderboards.groups`). A bundle has at most one block for each
evaluator and test set, all of methods trained alike: one sheet is made of one bundle. Whatever does not fit goes into another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from leaderboards.evidence import Evidence, Verdict
from leaderboards.groups import (
    ORIGINAL,
    TEST_FIELDS,
    Identity,
    Record,
    groups,
    identity,
    label,
    older,
    order,
    split,
    undecidable,
)
from leaderboards.tables import Column, Row, Table, tables

#: What all blocks of a bundle must agree in, and its name for a reader.
SETTING = {
    "train_dataset": "training set", "preset": "preset", "image_size": "image size", "split": "split", "direction": "direction",
    "schema": "schema of the records",
}  # fmt: skip
#: Evaluator and test set.
Slot = tuple[str, str]


@dataclass(frozen=True)
class Block:
    """All comparable scores of one evaluator on one test set.

    Attributes:
        evaluator: its name.
        table: rows and columns; the context says test set, data, reference and training.
        who: row label -> method, version, configuration.
        records: all records behind it, those that failed included.
        passed: older records of the same scores that do not count.
        undecidable: what is said of scores with two records of the same time.
    """

    evaluator: str
    table: Table
    who: Mapping[str, Identity]
    records: tuple[Record, ...]
    passed: int = 0
    undecidable: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        """The test set."""
        return self.table.context["dataset"]

    @property
    def home(self) -> bool:
        """Whether it is the test part of the training set."""
        return self.dataset == self.table.context["train_dataset"]

    @property
    def variant(self) -> str:
        """What tells it from others of its evaluator and test set, without the evaluator's name; empty for nothing."""
        return "; ".join(words.removeprefix(self.evaluator).strip() for words in self.table.variants)

    @property
    def trained(self) -> frozenset[Identity]:
        """Its methods but the do-nothing one."""
        return frozenset(who for who in self.who.values() if who[0] != ORIGINAL)

    @cached_property
    def rows(self) -> Mapping[Identity, Row]:
        """Rows by method."""
        return {self.who[row.label]: row for row in self.table.rows}

    def column(self, key: str) -> Column | None:
        """A column with values, by key."""
        return next((c for c in self.table.columns if c.key == key and self.table.filled(c)), None)

    @cached_property
    def evidence(self) -> Evidence:
        """The tests between its values."""
        return Evidence()

    def test(self, column: Column, one: Identity, other: Identity) -> Verdict | None:
        """The test of two methods' values, not corrected; None where there is none, or the values are no method's."""
        if column.shared:
            return None
        return self.evidence.between((self.rows[one], column), (self.rows[other], column))


@dataclass(frozen=True)
class Bundle:
    """Blocks that may stand side by side, in the order of columns."""

    blocks: tuple[Block, ...]

    def of(self, evaluator: str) -> tuple[Block, ...]:
        """The blocks of an evaluator: the training set's first."""
        return tuple(block for block in self.blocks if block.evaluator == evaluator)

    @cached_property
    def everybody(self) -> tuple[Identity, ...]:
        """All methods, ``original`` first."""
        return tuple(sorted(self.members, key=lambda who: (who[0] != ORIGINAL, who)))

    @cached_property
    def members(self) -> Mapping[Identity, Sequence[Record]]:
        """Method -> its records in all blocks."""
        return members(record for block in self.blocks for record in block.records)

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """What tells bundles apart: name -> value."""
        context = self.blocks[0].table.context
        found = {name: context[key] for key, name in SETTING.items()}
        for block in self.blocks:
            own = block.table.context
            found[f"data of {block.dataset}"] = own["dataset_fingerprint"]
            found[f"reference of {block.dataset}"] = f"{own['reference']} {own['reference_fingerprint'][:8]}".strip()
            found[f"{block.evaluator} on {block.dataset}"] = block.variant
        return found

    def name(self, who: Identity) -> str:
        """A method's label among all of the bundle."""
        return label(who, self.members)

    def fits(self, block: Block) -> bool:
        """Whether a block may join: trained alike, by methods that are here, on the same data where the test set is here."""
        mine, own = self.blocks[0].table.context, block.table.context
        if any((b.evaluator, b.dataset) == (block.evaluator, block.dataset) for b in self.blocks):
            return False
        if any(mine[name] != own[name] for name in SETTING):
            return False
        same_set = [b.table.context for b in self.blocks if b.dataset == block.dataset]
        if any(context[name] != own[name] for context in same_set for name in TEST_FIELDS):
            return False
        trained = frozenset().union(*(b.trained for b in self.blocks))
        return not trained or not block.trained or bool(trained & block.trained)


def blocks(records: Iterable[Record], evaluators: Iterable[str]) -> list[Block]:
    """All blocks of some evaluators: those of the training set first, then by test set, the one with most methods first."""
    everything = sorted(records, key=order)
    found = []
    for evaluator in evaluators:
        mine = [record for record in everything if record.get("evaluator") == evaluator]
        passed = older(mine)
        tied = undecidable(mine)
        for group, members in groups(mine):
            for variants, some in split(members):
                counts = passed.get(group, {})
                found += [_block(evaluator, replace(table, variants=tuple(variants)), some, counts) for table in tables(some)]
        found = [replace(b, undecidable=tuple(x for x in tied if f" on {b.dataset}, seed" in x))
                 if tied and b.evaluator == evaluator else b for b in found]  # fmt: skip
    return sorted(found, key=_place)


def _block(evaluator: str, table: Table, records: Sequence[Record], passed: Mapping[Identity, int]) -> Block:
    everybody = members(records)
    n = sum(passed.get(who, 0) for who in everybody)
    return Block(evaluator, table, {label(who, everybody): who for who in everybody}, tuple(records), n)


def members(records: Iterable[Record]) -> dict[Identity, list[Record]]:
    """Method -> its records."""
    found: dict[Identity, list[Record]] = {}
    for record in records:
        found.setdefault(identity(record), []).append(record)
    return found


def _place(block: Block) -> tuple[Any, ...]:
    return not block.home, block.dataset, -len(block.table.rows), tuple(block.table.context.values()), block.table.variants


def bundles(found: Iterable[Block]) -> list[Bundle]:
    """Blocks side by side: each joins the first bundle that it fits, or opens one."""
    made: list[Bundle] = []
    for block in found:
        index = next((i for i, bundle in enumerate(made) if bundle.fits(block)), None)
        if index is None:
            made.append(Bundle((block,)))
        else:
            made[index] = Bundle((*made[index].blocks, block))
    return made


def differences(bundle: Bundle, others: Sequence[Bundle]) -> dict[str, str]:
    """Of the facts that are not the same for all bundles, this one's; those of data it does not hold are left out."""
    mine = bundle.facts
    return {
        name: value for name, value in mine.items()
        if any(name in other.facts and other.facts[name] != value for other in others)
    }  # fmt: skip
