"""What methods' comparisons tell, as markdown: few pairs in one table; many as ranks with letters and as differences from
``original`` and from the best.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import ascii_letters

from evaluators.ranks import Rank
from evaluators.statistics import EXACT
from leaderboards.cells import MISSING, heading, interval, markdown, number, p_value
from leaderboards.compare import Comparisons, Family
from leaderboards.evidence import ALPHA
from leaderboards.subjects import labels
from leaderboards.tables import Column

#: More pairs than this, of all metrics together, are not told one by one.
LONG = 12


def section(found: Comparisons, full: bool = False) -> str:
    """The comparisons as markdown; empty where there are none.

    Args:
        found: of one table.
        full: tell every pair, however many there are; many are folded.
    """
    if not found.families:
        return ""
    parts = ["### Comparisons"]
    long = sum(len(family.pairs) for family in found.families) > LONG
    if long:
        parts += _brief(found)
    if full or not long:
        parts.append(folded("All pairs and ranks", _every(found)) if long else _every(found))
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in _about(found, long, full))])


def folded(summary: str, text: str) -> str:
    """Markdown that a reader opens."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def _every(found: Comparisons) -> str:
    ranked = [family for family in found.families if family.ranks]
    return "\n\n".join([_pair_table(found.families), *([_rank_table(ranked)] if ranked else [])])


# -- many pairs --------------------------------------------------------------------------------------------------------------


def _brief(found: Comparisons) -> list[str]:
    """Ranks with letters; differences from ``original``, and from the best where that is another. Metrics of which all of this is
    the same (a metric and its change from the input) share their columns."""
    methods = [label for label in found.methods if any(label in _members(family) for family in found.families)]
    alike: dict[tuple[tuple[str, ...], ...], list[Column]] = {}
    bases: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for family in found.families:
        from_whom = dict.fromkeys((found.original, found.best.get(family.column.id, "")))
        some = [base for base in from_whom if base in _members(family)]
        texts = tuple(map(tuple, (_rank_cells(family, methods), *(_differences(family, methods, base) for base in some))))
        alike.setdefault(texts, []).append(family.column)
        bases[texts] = some
    ranks: list[tuple[str, Sequence[str]]] = [("Rank [95 % CI], letters", methods)]
    steps: list[tuple[str, Sequence[str]]] = [("Difference [95 % CI], p (Holm)", methods)]
    for (cells, *others), columns in alike.items():
        name = " / ".join(map(heading, columns))
        ranks.append((name, cells))
        for k, (base, words) in enumerate(zip(bases[(cells, *others)], others, strict=True)):
            steps.append((f"{name}: from {base}" if k == 0 else f"from {base}", words))
    return [markdown(grid) for grid in (ranks, steps) if len(grid) > 1]


def _members(family: Family) -> list[str]:
    return list(dict.fromkeys(label for pair in family.pairs for label in (pair.first, pair.second)))


def _rank_cells(family: Family, methods: Sequence[str]) -> list[str]:
    given = letters(family)
    found = []
    for label in methods:
        rank = family.ranks.get(label)
        words = [f"{rank.rank:g} {_ends(rank)}"] if rank else []
        found.append(" ".join([*words, given.get(label, "")]).strip() or MISSING)
    return found


def letters(family: Family) -> dict[str, str]:
    """Method -> letters, by rank: two methods differ (Holm) exactly where they share none. Pairs never compared share one.

    The compact letter display of all pairs: every group of methods that are all alike and that no other such group holds has a
    letter (insertion and absorption; Piepho, J. Comput. Graph. Stat. 13, 2004, 456).
    """
    ordered = sorted(_members(family), key=lambda label: family.ranks[label].rank if label in family.ranks else 0.0)
    place = {label: k for k, label in enumerate(ordered)}
    alike: list[frozenset[str]] = [frozenset(ordered)]
    for pair in family.pairs:
        if pair.p_holm < ALPHA:
            split = [part for group in alike for part in _without(group, pair.first, pair.second)]
            alike = _largest(split)
    alike.sort(key=lambda group: sorted(place[label] for label in group))
    names = [ascii_letters[k] if k < len(ascii_letters) else f"({k + 1})" for k in range(len(alike))]
    return {label: "".join(name for name, group in zip(names, alike, strict=True) if label in group) for label in ordered}


def _without(group: frozenset[str], one: str, other: str) -> list[frozenset[str]]:
    return [group - {one}, group - {other}] if {one, other} <= group else [group]


def _largest(groups: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """Groups that are in no other one, each once."""
    once = list(dict.fromkeys(groups))
    return [group for group in once if not any(group < other for other in once)]


def _differences(family: Family, methods: Sequence[str], base: str) -> list[str]:
    """Shift of each method from a base, with interval and p, corrected for the comparisons with the base; ``≈`` where no difference is
    shown."""
    found, corrected = list[str](), family.against(base)
    for label in methods:
        pair = family.pair(base, label) if label != base else None
        if pair is None:
            found.append(MISSING)
            continue
        sign, ci, digits = (1 if pair.first == base else -1), pair.paired.shift_ci, family.column.digits
        if ci and sign < 0:
            ci = (-ci[1], -ci[0])
        p = p_value(corrected[label], 3)
        p = f"p{p}" if p.startswith("<") else f"p={p}"
        words = f"{number(sign * pair.paired.shift, digits)} {interval(ci, digits)} {p}"
        found.append(f"≈ {words}" if corrected[label] >= ALPHA else words)
    return found


# -- every pair --------------------------------------------------------------------------------------------------------------


def _pair_table(families: Sequence[Family]) -> str:
    rows = [(family.column, pair) for family in families for pair in family.pairs]
    shifts = [f"{number(pair.paired.shift, c.digits)} {interval(pair.paired.shift_ci, c.digits)}" for c, pair in rows]
    grid = [
        ("Metric", [heading(column) for column, _ in rows]),
        ("A", [pair.first for _, pair in rows]),
        ("B", [pair.second for _, pair in rows]),
        ("Shift B - A [95 % CI]", shifts),
        ("Effect", [number(pair.paired.effect, 2) for _, pair in rows]),
        ("Patients", [str(pair.paired.n) for _, pair in rows]),
        ("p", [p_value(pair.p, 3) for _, pair in rows]),
        ("p (Holm)", [p_value(pair.p_holm, 3) for _, pair in rows]),
    ]
    return markdown(grid, left=3)


def _rank_table(families: Sequence[Family]) -> str:
    rows = [
        (family.column, label, rank)
        for family in families
        for label, rank in sorted(family.ranks.items(), key=lambda item: item[1].rank)
    ]
    grid = [
        ("Metric", [heading(column) for column, *_ in rows]),
        ("Method", [label for _, label, _ in rows]),
        ("Rank [95 % CI]", [f"{rank.rank:g} {_ends(rank)}" for *_, rank in rows]),
        ("P(first)", [MISSING if rank.first is None else number(rank.first, 2) for *_, rank in rows]),
        ("Patients", [str(rank.patients) for *_, rank in rows]),
    ]
    return markdown(grid, left=2)


def _ends(rank: Rank) -> str:
    return MISSING if rank.low is None or rank.high is None else f"[{rank.low:g}, {rank.high:g}]"


def _about(found: Comparisons, long: bool, full: bool) -> list[str]:
    sizes: dict[tuple[str, str], list[Column]] = {}
    for family in found.families:
        some = sorted({pair.paired.n for pair in family.pairs})
        patients = f"{some[0]} to {some[-1]}" if len(some) > 1 else str(some[0]) if some else "0"
        sizes.setdefault((patients, str(len(family.pairs))), []).append(family.column)
    lines = []
    for (n, k), columns in sizes.items():
        which = f": {labels(columns)}" if len(sizes) > 1 else " of each metric" if len(columns) > 1 else ""
        lines.append(f"Paired Wilcoxon over {n} patients, Holm over {k} pair{'s' if k != '1' else ''}{which}.")
    what = "Difference" if long and not full else "Shift"
    effect = " Effect: rank-biserial, from -1 (B lower in every patient that changed) to 1." if full or not long else ""
    guide = f"{_how_to_read(found, full)} " if long else ""
    lines.append(
        f"{guide}Two-sided, Pratt's zeros; exact where at most {EXACT} patients changed. {what}: Hodges-Lehmann pseudo-median of the "
        f"patients' differences; its interval is not corrected for their number, as p (Holm) is.{effect} Ranks are by the mean over "
        "patients of the values by image; their intervals resample patients, and seeds where there are several."
    )
    pooled: dict[str, None] = dict.fromkeys(label for family in found.families for label in family.pooled)
    if pooled:
        lines.append(
            f"Several seeds are averaged image by image first ({', '.join(pooled)}), and p is the larger of the paired test's and of "
            "Student's t over seeds."
        )
    return [*lines, *left_out(found)]


def _how_to_read(found: Comparisons, full: bool) -> str:
    lines = [
        f"Two methods differ (p < {ALPHA:g}, Holm over all pairs) where they share no letter. Differences from one method are "
        f"corrected by Holm over the comparisons with it alone, as ‡ is with the best; ≈: not shown to differ (p ≥ {ALPHA:g})."
    ]
    lost = [
        f"{one} and {other} ({family.column.label})"
        for family in found.families
        for members in [_members(family)]
        for k, one in enumerate(members)
        for other in members[k + 1 :]
        if family.pair(one, other) is None
    ]
    if lost:
        lines.append(f"Without an image in common, and not told apart: {', '.join(lost)}.")
    same = [f.column for f in found.families if found.original and found.best.get(f.column.id) == found.original]
    if same:
        lines.append(f"The best of {labels(same)} is {found.original}.")
    if not full:
        lines.append("Every pair with its effect: `--full`, or `--table general --format csv`.")
    return " ".join(lines)


def left_out(found: Comparisons) -> list[str]:
    """What was not compared, and why."""
    lines = []
    if found.blind:
        whom = dict.fromkeys(found.blind.values())
        metrics = [(labels(c for c, some in found.blind.items() if some == who), who) for who in whom]
        told = "; ".join(f"{words} of {', '.join(who)}" if who else words for words, who in metrics)
        lines.append(f"Not compared between methods, for lack of values by image: {told}.")
    if found.drawn:
        lines.append(f"Compared with the best alone (marks), by the same resamples of patients: {labels(found.drawn)}.")
    if found.nameless:
        lines.append(
            f"Not compared: {', '.join(found.nameless)}. Not every seed has values by image that name their patients: "
            "score again with --force score."
        )
    return lines
