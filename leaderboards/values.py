"""One value with its spread: of one score, or of several seeds. Nothing is rounded here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

#: 97.5 % of the normal distribution.
NORMAL = 1.96
#: What `Cell.std` of several seeds is over.
SEEDS = "seeds"
#: Image -> value.
Values = Mapping[str, float]
#: Two values an image (of two methods, or before and after), and whose images these are.
Three = tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Cell:
    """One value. `std_over` says what `std` is over, seeds as soon as any method of the column has several; `ci` is over patients, of
    several seeds `reach`; `n` are images; `doubt` says why the value must not be relied upon; `seeds` are behind it."""

    value: float
    std: float | None = None
    std_over: str = ""
    ci: tuple[float, float] | None = None
    n: tuple[int, ...] = ()
    doubt: str = ""
    seeds: int = 1


def cell(scores: Sequence[Mapping[str, Any]], over_seeds: bool, odd: str = "") -> Cell:
    """One score as it is, or the mean of several seeds with their standard deviation and `reach`.

    Args:
        scores: of one method and metric, one a seed, each with a value; at least one.
        over_seeds: whether any method of the column has several seeds: then a lone one shows no other standard deviation.
        odd: why no number of the method can be relied upon. One doubtful seed makes the mean doubtful, too.
    """
    n = distinct((score["n"],) for score in scores if score.get("n") is not None)
    doubt = "; ".join([*([odd] if odd else []), *sorted({score["doubt"] for score in scores if score.get("doubt")})])
    cis = [(float(score["ci"][0]), float(score["ci"][1])) for score in scores if score.get("ci")]
    ci = (statistics.fmean(c[0] for c in cis), statistics.fmean(c[1] for c in cis)) if len(cis) == len(scores) else None
    values = [float(score["value"]) for score in scores]
    if len(values) > 1:
        found = Cell(statistics.fmean(values), statistics.stdev(values), SEEDS, ci, n, doubt, len(values))
        return replace(found, ci=reach(found))
    if over_seeds or scores[0].get("std") is None:
        return Cell(values[0], ci=ci, n=n, doubt=doubt)
    return Cell(values[0], float(scores[0]["std"]), scores[0].get("std_over", ""), ci, n, doubt)


def distinct(numbers: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Every number that occurs, in order."""
    return tuple(sorted({n for some in numbers for n in some}))


def reach(found: Cell) -> tuple[float, float] | None:
    """A 95 % interval of a value; None where nothing is known of its spread.

    Over patients where that is known. Of several seeds, the mean of theirs or Student's over seeds, whichever is wider: seeds say
    nothing of other patients, nor patients of other seeds. Without either, 1.96 standard deviations to each side. A deviation of
    0, of seeds or of anything else, tells nothing: agreement to the last digit makes no value certain.
    """
    known = [found.ci] if found.ci else []
    if found.std and found.seeds > 1:
        half = _quantile(found.seeds - 1) * found.std / math.sqrt(found.seeds)
        known.append((found.value - half, found.value + half))
    elif found.std and not known:
        known.append((found.value - NORMAL * found.std, found.value + NORMAL * found.std))
    return max(known, key=lambda ends: ends[1] - ends[0]) if known else None


def sign_of(better: str) -> int:
    """Factor that makes smaller better: 1 for ``lower``, -1 for ``higher``, 0 for what is not ranked."""
    return {"lower": 1, "higher": -1}.get(better, 0)


def mean_by_image(seeds: Sequence[Values]) -> Values:
    """Mean over seeds of each image's value; images that a seed lacks are left out, so that every image rests on all seeds."""
    return {image: sum(one[image] for one in seeds) / len(seeds) for image in seeds[0] if all(image in one for one in seeds)}


@cache
def _quantile(freedom: int) -> float:
    """97.5 % of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
