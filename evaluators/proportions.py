"""Intervals of shares of patients that a bootstrap cannot give.

Where every patient agrees every resample does, and a percentile interval has no width: [1.000, 1.000] from three patients. The
exact interval of Clopper and Pearson (1934) knows how few they are.
"""

from __future__ import annotations

from evaluators.statistics import LEVEL

#: A percentile interval narrower than this has no width but for rounding.
WIDTH = 1e-12
#: Of statistics that are no shares.
NO_WIDTH = "no interval, as all resamples of patients have this value"


def flat(ci: tuple[float, float] | None) -> bool:
    """Whether an interval has no width; not so where there is none."""
    return ci is not None and ci[1] - ci[0] < WIDTH


def exact_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share by Clopper and Pearson, by scipy.

    Args:
        share: in [0, 1]; taken as the nearest whole number of n.
        n: patients, n >= 1.

    Raises:
        ValueError: there is no patient, or the share is out of range.
    """
    from scipy.stats import binomtest

    found = binomtest(round(share * n), n).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)
