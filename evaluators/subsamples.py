"""Subsamples of image sets: whole patients, and a mix of views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from evaluators.statistics import IntArray


def shuffled(patients: Sequence[str], rng: np.random.Generator) -> IntArray:
    """All image indices, patients in random order, each one's images side by side: its start is a subsample by patient."""
    names, group = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return np.argsort(rng.permutation(len(names))[group], kind="stable")


def halves(patients: Sequence[str], n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Two random subsamples of at most n images with no patient in both."""
    order = shuffled(patients, rng)
    taken = {patients[i] for i in order[:n]}
    rest = np.array([i for i in order if patients[i] not in taken], dtype=np.int64)
    return order[:n], rest[:n]


def view_quotas(wanted: Counter[str], there: Counter[str], n: int) -> dict[str, int]:
    """Images of each view in the largest set of at most n that has the mix `wanted`, from those that are `there`."""
    total = sum(wanted.values())
    for size in range(n, 1, -1):
        quotas = {view: size * count // total for view, count in wanted.items()}
        left = sorted(wanted, key=lambda view: (-(size * wanted[view] % total), view))
        for view in left[: size - sum(quotas.values())]:
            quotas[view] += 1
        if all(quotas[view] <= there[view] for view in quotas):
            return quotas
    return {}


def quotas_of(wanted: Sequence[str], there: Sequence[str], n: int) -> tuple[dict[str, int], str]:
    """Quotas from the images whose view is known, and a note."""
    known = Counter(view for view in wanted if view)
    if not known:
        return {}, "the opacity images' views are not known"
    quotas = view_quotas(known, Counter(there), n)
    if not quotas:
        return {}, f"the reference has too few images of the opacity images' views ({', '.join(sorted(known))})"
    few = "" if (size := sum(quotas.values())) == n else f"; no more than {size} have the opacity images' views"
    partly = "" if (k := known.total()) == len(wanted) else f"; {len(wanted) - k} of {len(wanted)} opacity images have no view"
    return quotas, f"reference of {', '.join(f'{quotas[view]} {view}' for view in sorted(quotas))}{few}{partly}"


def first_of_each(order: IntArray, views: Sequence[str], quotas: dict[str, int]) -> IntArray:
    """The first images of each view, as many as its quota, of images in some `order`."""
    return np.concatenate([[i for i in order if views[i] == view][:quota] for view, quota in quotas.items()]).astype(np.int64)
