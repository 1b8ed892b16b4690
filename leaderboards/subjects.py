"""What a line is about, in as few words as can be, and below which table it belongs.

A table of the leaderboard has several places with numbers of their own: the headline (primary metrics of all evaluators), and for
each evaluator its other metrics and its parts. A text about some metrics stands once in each place that shows any of them, and
names there only what is needed to tell them from the others shown. What holds for all of an evaluator is said once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from leaderboards.tables import Column, Table

#: Between the words of a part: ``ResNet50 · Mask``.
DOT = " · "
#: So many characters have to be saved for "all but ...".
WORTH = 12


class Place(NamedTuple):
    """Where lines stand: below the headline (no evaluator), or below an evaluator's own table or that of its parts."""

    evaluator: str = ""
    parts: bool = False


HEADLINE = Place()
#: The subject of what holds for an evaluator's metrics in all places.
THROUGHOUT = "Throughout"


def title(evaluator: str) -> str:
    """An evaluator's name as a heading."""
    return evaluator[:1].upper() + evaluator[1:]


@dataclass(frozen=True)
class Layout:
    """The places of one table."""

    table: Table

    @cached_property
    def headline(self) -> tuple[Column, ...]:
        """The primary metrics, or all where none has a value; those without any value included."""
        own = [c for c in self.table.columns if not c.part and not c.shared]
        primary = any(c.primary and self.table.filled(c) for c in own)
        return tuple(c for c in own if c.primary or not primary)

    @cached_property
    def places(self) -> Mapping[Column, Place]:
        """Where the lines about each metric belong."""
        top = set(self.headline)
        return {c: HEADLINE if c in top else Place(c.evaluator, bool(c.part)) for c in self.table.columns}

    def at(self, where: Place) -> tuple[Column, ...]:
        """The metrics whose lines belong there, with or without a value."""
        return tuple(c for c, place in self.places.items() if place == where)

    def shown(self, where: Place) -> tuple[Column, ...]:
        """The metrics of the table there: an evaluator's own table shows those of the headline again."""
        if where == HEADLINE or where.parts:
            return self.at(where)
        return tuple(c for c in self.table.columns if c.evaluator == where.evaluator and not c.part)

    def general(self, evaluator: str, columns: Sequence[Column]) -> bool:
        """Whether these are all metrics of an evaluator that is shown in several places (those of real images do not count)."""
        mine = [c for c in self.table.columns if c.evaluator == evaluator and not c.shared and self.table.filled(c)]
        return len({self.places[c] for c in mine}) > 1 and set(mine) <= set(columns)

    def spread_out(self, columns: Sequence[Column], up: bool = False) -> dict[Place, str]:
        """Where a text about some metrics stands, and its subject there: empty for all that the place shows.

        Args:
            columns: what the text is about.
            up: what holds for all of an evaluator is told by the evaluator's name below the headline, if that shows any of it,
                and not in the evaluator's own section.
        """
        found: dict[Place, list[str]] = {}
        rest: list[Column] = []
        for evaluator in dict.fromkeys(c.evaluator for c in columns):
            mine = [c for c in columns if c.evaluator == evaluator]
            if not self.general(evaluator, columns):
                rest += mine
            else:
                top = up and any(self.places[c] == HEADLINE for c in mine)
                found.setdefault(HEADLINE if top else Place(evaluator), []).append(title(evaluator) if up else THROUGHOUT)
        for where in dict.fromkeys(self.places[c] for c in rest):
            some = [c for c in rest if self.places[c] == where]
            words = subject(some, [c for c in self.shown(where) if c in some or self.table.filled(c)])
            found.setdefault(where, []).extend([words] if words else [])
        return {where: ", ".join(words) for where, words in found.items()}


def subject(some: Sequence[Column], every: Sequence[Column]) -> str:
    """Some metrics in words: parts where all of these parts is meant, labels where it is these labels of every part.

    Args:
        some: which.
        every: those they are told from.

    Returns:
        Empty where all are meant, and these are several.
    """
    if len(every) > 1 and set(every) <= set(some):
        return ""
    main = labels([c for c in some if not c.part])
    some = [c for c in some if c.part]
    if not some:
        return main
    every = [c for c in every if c.part]
    attempts = [_phrases(some, every, order) for order in (("part", "label"), ("label", "part"), ())]
    return ", ".join(filter(None, [main, min(attempts, key=len)]))


def labels(columns: Iterable[Column]) -> str:
    """Labels in words, each once."""
    return ", ".join(dict.fromkeys(c.label for c in columns))


def _phrases(some: Sequence[Column], every: Sequence[Column], order: Sequence[str]) -> str:
    """Whole parts and whole labels in this order, then labels by part; together all of `some`."""
    everything = list(dict.fromkeys(c.part for c in every))
    rest, words = list(some), []
    for axis in order:
        whole = [name for name in dict.fromkeys(getattr(c, axis) for c in rest)
                 if all(c in some for c in every if getattr(c, axis) == name)]  # fmt: skip
        rest = [c for c in rest if getattr(c, axis) not in whole]
        if whole:
            words.append(_parts(whole, everything) if axis == "part" else ", ".join(whole))
    of: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(c.label for c in rest):
        of.setdefault(tuple(c.part for c in rest if c.label == name), []).append(name)
    return ", ".join([*words, *(f"{', '.join(names)} of {_parts(parts, everything)}" for parts, names in of.items())])


def _parts(some: Sequence[str], every: Sequence[str]) -> str:
    """Parts in words: by a word that only these have (``Mask``), without words that all have, or as "all but" another."""
    plain = _cover(some, every)
    others = [part for part in every if part not in some]
    negative = f"all but {_cover(others, every)}" if len(others) == 1 else plain
    return negative if len(negative) + WORTH < len(plain) else plain


def _cover(some: Sequence[str], every: Sequence[str]) -> str:
    split = {part: part.split(DOT) for part in every}
    common = {word for word in split[some[0]] if len(every) > 1 and all(word in words for words in split.values())}
    words = dict.fromkeys(word for part in some for word in split[part] if word not in common)
    owners = {word: [part for part in every if word in split[part]] for word in words}
    groups = {word: found for word, found in owners.items() if len(found) > 1 and set(found) <= set(some)}
    told: dict[str, None] = {}
    done: set[str] = set()
    for word in sorted(groups, key=lambda word: -len(groups[word])):
        if done.isdisjoint(groups[word]):
            told[word] = None
            done |= set(groups[word])
    told |= {DOT.join(word for word in split[part] if word not in common) or part: None for part in some if part not in done}
    return ", ".join(told)
