"""Best, second, tie: by paired test where there is one, else by spreads; doubtful values are none of these."""

from __future__ import annotations

import pytest

from leaderboards.evidence import PAIRED, Verdict
from leaderboards.marks import OVERLAP, VALUE, marks, overlap
from leaderboards.sheet import BEST, SECOND, TIE
from leaderboards.values import Cell, reach


def untested(_: int, __: int) -> None:
    return None


def with_ci(value: float, reach: float = 0.1, doubt: str = "") -> Cell:
    return Cell(value, ci=(value - reach, value + reach), doubt=doubt)


@pytest.mark.parametrize(("sign", "expected"), [(1, (BEST, SECOND, "")), (-1, ("", SECOND, BEST)), (0, ("", "", ""))])
def test_direction_decides(sign: int, expected: tuple[str, ...]) -> None:
    assert marks([with_ci(1), with_ci(2), with_ci(3)], sign, untested).marks == expected


def test_overlapping_intervals_are_a_tie_and_a_tie_is_no_second() -> None:
    found = marks([with_ci(1.0), with_ci(1.15), with_ci(3.0)], 1, untested)
    assert found.marks == (BEST, TIE, "") and found.grounds == {OVERLAP} and not found.undecided


def test_1_96_standard_deviations_stand_in_for_a_missing_interval() -> None:
    assert overlap(Cell(1.0, std=0.1), Cell(1.39, std=0.1)) is True
    assert overlap(Cell(1.0, std=0.1), Cell(1.40, std=0.1)) is False
    assert reach(Cell(1.0, std=9.0, ci=(0.9, 1.1))) == (0.9, 1.1), "an interval over patients goes before a spread over subsets"
    assert overlap(Cell(1.0, std=0.1), Cell(1.0)) is None
    assert reach(Cell(1.0, std=0.0)) is None, "folds that agree make no interval without width"


def test_of_several_seeds_the_wider_interval_counts() -> None:
    alike = Cell(1.0, 0.001, "seeds", ci=(0.8, 1.2), seeds=3)  # seeds agree: that says nothing of other patients
    assert reach(alike) == (0.8, 1.2) and overlap(alike, with_ci(1.15, 0.01)) is True
    apart = Cell(1.0, 0.3, "seeds", ci=(0.9, 1.1), seeds=3)
    assert reach(apart) == pytest.approx((1 - 4.303 * 0.3 / 3**0.5, 1 + 4.303 * 0.3 / 3**0.5), abs=1e-3)
    assert reach(Cell(1.0, 0.3, "seeds", seeds=2)) == pytest.approx((1 - 12.706 * 0.3 / 2**0.5, 1 + 12.706 * 0.3 / 2**0.5), abs=1e-3)


def test_the_paired_test_goes_before_the_intervals() -> None:
    cells = [with_ci(1.0), with_ci(1.1), with_ci(5.0)]
    p = {1: 0.01, 2: 0.2}
    found = marks(cells, 1, lambda i, j: Verdict(p[j], PAIRED))  # 1 is apart though intervals overlap; 2 is not though they do not
    assert found.marks == (BEST, SECOND, TIE) and found.grounds == {PAIRED}


def test_nothing_told_from_the_best_is_said() -> None:
    found = marks([with_ci(1.0), with_ci(1.1), None], 1, untested)
    assert found.marks == (BEST, TIE, "") and found.undecided
    assert marks([with_ci(1.0), with_ci(1.0)], 1, untested).marks == (BEST, BEST)


def test_without_spread_the_value_alone_counts_and_that_is_a_ground() -> None:
    found = marks([Cell(1.0), Cell(1.001)], 1, untested)
    assert found.marks == (BEST, SECOND) and found.grounds == {VALUE}


def test_doubtful_and_missing_values_take_no_part() -> None:
    found = marks([with_ci(0.1, doubt="two images"), None, with_ci(2), with_ci(3)], 1, untested)
    assert found.marks == ("", "", BEST, SECOND)
    assert marks([with_ci(1, doubt="x"), with_ci(2)], 1, untested).marks == ("", "")  # a lone value wins nothing
