"""Known answers for the patient-level statistics."""

import itertools
import sys
import warnings
from math import erfc, sqrt

import numpy as np
import pytest
from scipy import stats

from evaluators.ranks import rank_intervals
from evaluators.statistics import (
    EXACT,
    Paired,
    half_sample_interval,
    half_samples,
    holm,
    mean_interval,
    paired_p,
    paired_test,
    patient_means,
    ratio_interval,
)


def test_patients_count_equally_whatever_their_images() -> None:
    values, patients = [1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]
    np.testing.assert_array_equal(patient_means(values, patients), [1.0, 5.0])
    assert mean_interval(values, patients, seed=0).value == 3.0


def test_bootstrap_interval_of_a_mean_matches_theory() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, 2000)
    found = mean_interval(values, [str(i) for i in range(2000)], seed=1)
    half_width = 1.96 * values.std() / np.sqrt(2000)
    assert found.ci is not None
    assert found.ci == pytest.approx((values.mean() - half_width, values.mean() + half_width), abs=0.02)
    assert found.patients == 2000


def test_interval_by_patient_is_wider_than_by_image_for_clustered_data() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=50), 8) + 0.1 * rng.normal(size=400)
    by_patient = mean_interval(values, [str(i // 8) for i in range(400)], seed=0).ci
    by_image = mean_interval(values, [str(i) for i in range(400)], seed=0).ci
    assert by_patient is not None
    assert by_image is not None
    ratio = (by_patient[1] - by_patient[0]) / (by_image[1] - by_image[0])
    assert ratio == pytest.approx(np.sqrt(8), rel=0.15)


def test_same_seed_same_interval() -> None:
    values, patients = np.arange(20.0), [str(i) for i in range(20)]
    assert mean_interval(values, patients, seed=3) == mean_interval(values, patients, seed=3)
    assert mean_interval(values, patients, seed=3).ci != mean_interval(values, patients, seed=4).ci


def test_order_of_images_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    values, patients, order = rng.normal(size=30), [str(i % 7) for i in range(30)], rng.permutation(30)
    found = mean_interval(values[order], [patients[i] for i in order], seed=0)
    expected = mean_interval(values, patients, seed=0)
    assert found.value == pytest.approx(expected.value)
    assert found.ci == pytest.approx(expected.ci)


def test_too_few_patients_give_no_interval() -> None:
    assert mean_interval([1.0, 2.0, 3.0], ["a", "b", "c"], seed=0).ci is None
    assert mean_interval([1.0] * 10, ["a"] * 10, seed=0).ci is None


def test_ratio_is_of_means_and_exact_for_a_constant_factor() -> None:
    bottom, patients = np.arange(1.0, 13.0), [str(i // 2) for i in range(12)]
    found = ratio_interval(0.25 * bottom, bottom, patients, seed=0)
    assert found.value == 0.25
    assert found.ci == pytest.approx((0.25, 0.25))
    assert ratio_interval([1, 0, 0, 0], [2, 2, 2, 2], list("abcd"), seed=0).value == 0.125


def test_ratio_interval_resamples_both_sides_together() -> None:
    rng = np.random.default_rng(0)
    bottom = rng.uniform(1, 100, 300)
    top = 0.5 * bottom + rng.normal(0, 0.1, 300)
    ci = ratio_interval(top, bottom, [str(i) for i in range(300)], seed=0).ci
    assert ci is not None
    assert ci[1] - ci[0] < 0.002  # resampled apart, the spread of the denominator alone would give 0.1


def test_ratio_with_nothing_below_is_refused() -> None:
    with pytest.raises(ZeroDivisionError):
        ratio_interval([1, 1], [0, 0], ["a", "b"], seed=0)
    assert ratio_interval([1.0] * 9, [1.0] + [0.0] * 8, [str(i) for i in range(9)], seed=0).ci is None


def test_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="patient ids"):
        mean_interval([1.0, 2.0], ["a"], seed=0)


def test_half_samples_take_whole_patients_once() -> None:
    patients = [str(i // 3) for i in range(30)]
    for rows in half_samples(patients, rounds=5, seed=0):
        chosen = {patients[i] for i in rows}
        assert len(chosen) == 5
        assert len(set(rows.tolist())) == len(rows) == 15


def test_half_sample_interval_of_a_difference_of_means_matches_theory() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, 400), rng.normal(0, 1, 400)
    names = [str(i) for i in range(400)]
    ci = half_sample_interval(1.0, lambda i, j: float(a[i].mean() - b[j].mean()), (names, names), rounds=400, seed=0)
    error = np.sqrt(a.var(ddof=1) / 400 + b.var(ddof=1) / 400)
    assert ci == pytest.approx((1 - 1.966 * error, 1 + 1.966 * error), rel=0.03)


def test_half_sample_interval_needs_patients_and_rounds() -> None:
    names = [str(i) for i in range(9)]
    assert half_sample_interval(1.0, lambda a, b: 0.0, (names, ["a"] * 9), rounds=20, seed=0) is None
    assert half_sample_interval(1.0, lambda a, b: 0.0, (names, names), rounds=1, seed=0) is None


# Before and after


def paired(differences: list[float] | np.ndarray, **options: int) -> Paired:
    """A patient an image, from these differences."""
    d = np.asarray(differences, dtype=float)
    return paired_test(5 - 0 * d, 5 + d, [f"{i:05}" for i in range(len(d))], **{"seed": 0, "n_boot": 200, **options})


def test_wilcoxon_equals_a_computation_by_hand_with_zeros_and_ties() -> None:
    found = paired([0, 0, -1, -1, -1, 2, -3, -3, -4])
    # Ranks of |d|: zeros 1.5 1.5, ones 4 4 4, two 6, threes 7.5 7.5, four 9.
    up, down = 6.0, 4 * 3 + 7.5 * 2 + 9
    mean = (9 * 10 - 2 * 3) / 4
    ties = (3**3 - 3) + (2**3 - 2)
    variance = (9 * 10 * 19 - 2 * 3 * 5 - ties / 2) / 24
    assert found.p == pytest.approx(erfc(abs(up - mean) / sqrt(variance) / sqrt(2)), rel=1e-12)
    assert found.effect == pytest.approx((up - down) / (up + down))
    assert (found.n, found.zeros) == (9, 2)
    assert (found.reduced, found.unchanged, found.increased) == pytest.approx((6 / 9, 2 / 9, 1 / 9))
    # All 2^7 signs of the ranks that are not zeros'.
    ranks = [4, 4, 4, 6, 7.5, 7.5, 9]
    sums = [abs(np.dot(signs, ranks)) for signs in itertools.product((-1, 1), repeat=7)]
    assert found.p_permutation == np.mean([total >= down - up for total in sums])


def test_nothing_changed_is_no_evidence_and_not_nan() -> None:
    """scipy's own answer is NaN, with a warning and no error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(stats.wilcoxon(np.zeros(8), zero_method="pratt", method="approx").pvalue)
    for n in (1, 8):
        found = paired(np.zeros(n))
        assert (found.p, found.p_permutation, found.effect, found.shift) == (1.0, 1.0, 0.0, 0.0)
        assert (found.zeros, found.unchanged) == (n, 1.0)
    assert found.shift_ci == (0.0, 0.0)
    assert paired([0.0]).shift_ci is None


def test_rounding_is_neither_a_change_nor_breaks_a_tie() -> None:
    """0.1 + 0.2 differs from 0.3 in the last bit, and 0.4 - 0.3 from 0.3 - 0.2."""
    found = paired_test([0.3, 0.3, 0.2, 0.6], [0.1 + 0.2, 0.4, 0.3, 0.5], list("abcd"), seed=0)
    assert found.zeros == 1
    assert found.p == paired([0, 1, 1, -1]).p


def test_unit_is_the_patient_whose_images_are_averaged() -> None:
    before, after = [3.0, 3.0, 3.0, 2.0, 1.0], [2.0, 4.0, 3.0, 1.0, 0.0]
    found = paired_test(before, after, ["a", "a", "a", "b", "c"], seed=0)
    assert (found.n, found.zeros, found.reduced) == (3, 1, 2 / 3)


def test_pseudo_median_is_the_median_of_all_pairs_means() -> None:
    for n in (1, 2, 5, 6, 30):
        d = np.random.default_rng(n).normal(size=n).round(1)
        pairs = [(d[i] + d[j]) / 2 for i in range(n) for j in range(i, n)]
        assert paired(d).shift == pytest.approx(np.median(pairs), abs=1e-7)


def test_interval_of_the_shift_is_the_bootstrap_of_the_pseudo_median() -> None:
    """Against a resampling that lists all pairs, with the same draws."""
    d = np.sort(np.random.default_rng(0).normal(1, 1, 12))
    found = paired(d, n_boot=400)
    draws = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=400)
    medians = []
    for weights in draws:
        sample = np.repeat(d, weights)
        pairs = np.sort([(sample[i] + sample[j]) / 2 for i in range(12) for j in range(i, 12)])
        medians.append(pairs[38])  # the lower of the two middle ones of 78
    medians.sort()
    assert found.shift_ci == pytest.approx((medians[9], medians[389]), abs=1e-7)
    assert found.shift_ci is not None
    assert found.shift_ci[0] < found.shift < found.shift_ci[1]


def test_interval_of_the_shift_matches_theory() -> None:
    """The pseudo-median's standard error for normal data is sigma sqrt(pi / (3 n))."""
    d = np.random.default_rng(0).normal(2, 3, 1000)
    ci = paired(d, n_boot=2000).shift_ci
    assert ci is not None
    assert ci[1] - ci[0] == pytest.approx(2 * 1.96 * 3 * sqrt(np.pi / 3000), rel=0.08)
    assert sum(ci) / 2 == pytest.approx(2, abs=0.2)


def test_permutation_agrees_with_the_approximation_and_with_scipys_exact_test() -> None:
    d = np.random.default_rng(1).normal(0.25, 1, 60)
    many = paired(d, n_permutations=20_000)
    assert many.p_permutation == pytest.approx(many.p, abs=0.01)
    few = np.random.default_rng(2).normal(0.5, 1, 12)
    assert paired(few).p_permutation == pytest.approx(stats.wilcoxon(few, method="exact").pvalue)
    # Equal ranks make it the sign test, in which as extreme as observed counts as extreme.
    signs = [1] * 9 + [-1] * 5
    assert paired(signs).p_permutation == pytest.approx(stats.binomtest(9, 14).pvalue, abs=0.02)
    assert paired(np.ones(60), n_permutations=999).p_permutation == 1 / 1000  # never zero


def test_the_reported_p_is_exact_where_few_patients_changed() -> None:
    five = paired([-1, -2, -3, -4, -5, *[0] * 20])
    assert five.p < 0.05 < five.best_p == five.p_permutation == 2 / 2**5  # five changes cannot be significant
    most = paired([*np.arange(1, EXACT + 1), 0])
    assert most.best_p == 2 / 2**EXACT  # as exact with the default number of permutations
    more = paired(np.arange(1, EXACT + 2))
    assert more.best_p == more.p != more.p_permutation
    assert paired(np.zeros(4)).best_p == 1.0


def test_no_p_value_is_0() -> None:
    """Of thousands of patients who all change alike the normal distribution's tail is smaller than any number."""
    n = 4000
    found = paired_test([0.0] * n, range(1, n + 1), [f"p{k}" for k in range(n)], seed=0, n_boot=1, n_permutations=1)
    assert found.p == sys.float_info.min and paired_p([0.0] * n, range(1, n + 1), [f"p{k}" for k in range(n)]) > 0


def test_opposite_changes_mirror_each_other() -> None:
    d = np.random.default_rng(3).integers(-2, 4, 40).astype(float)
    one, other = paired(d), paired(-d)
    assert one.p == pytest.approx(other.p)
    assert one.effect == -other.effect
    assert one.shift == pytest.approx(-other.shift)
    assert paired(np.arange(1.0, 9)).effect == 1.0


def test_paired_test_repeats_and_ignores_the_order_of_images() -> None:
    rng = np.random.default_rng(0)
    before, after, patients = rng.normal(size=30), rng.normal(size=30), [str(i % 17) for i in range(30)]
    found, order = paired_test(before, after, patients, seed=4), rng.permutation(30)
    assert found == paired_test(before, after, patients, seed=4)
    assert found != paired_test(before, after, patients, seed=5)
    mixed = paired_test(before[order], after[order], [patients[i] for i in order], seed=4)
    assert mixed.p == pytest.approx(found.p)
    assert mixed.shift_ci == pytest.approx(found.shift_ci, abs=1e-7)


def test_paired_test_refuses_what_is_not_a_number() -> None:
    for values in ([np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(ValueError, match="finite"):
            paired_test([0.0, 0.0], values, ["a", "b"], seed=0)
    with pytest.raises(ValueError, match="at least one"):
        paired_test([], [], [], seed=0)


# Many comparisons


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6, 0.7]) == [1.0, 1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_of_ten_values_in_any_order() -> None:
    p = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]
    # Times 10, 9, ..., 1: 0.010 0.072 0.312 0.287 0.252 0.300 0.296 0.615 0.424 0.216; then never falling.
    expected = [0.01, 0.072, 0.312, 0.312, 0.312, 0.312, 0.312, 0.615, 0.615, 0.615]
    assert holm(p) == pytest.approx(expected)
    order = np.random.default_rng(0).permutation(10)
    assert holm([p[i] for i in order]) == pytest.approx([expected[i] for i in order])


def test_holm_refuses_what_is_no_p_value() -> None:
    for wrong in ([0.1, float("nan")], [1.2], [-0.1]):
        with pytest.raises(ValueError, match="p values"):
            holm(wrong)


# Ranks


def test_clear_order_has_certain_ranks_in_both_directions() -> None:
    values = {name: [{str(i): level + i / 100 for i in range(20)}] for name, level in (("b", 2.0), ("a", 1.0), ("c", 3.0))}
    lower, higher = rank_intervals(values, "lower", seed=0), rank_intervals(values, "higher", seed=0)
    assert {k: (r.rank, r.low, r.high, r.first) for k, r in lower.items()} == {
        "a": (1, 1, 1, 1), "b": (2, 2, 2, 0), "c": (3, 3, 3, 0),
    }  # fmt: skip
    assert [higher[k].rank for k in "abc"] == [3, 2, 1]
    assert list(lower) == list(values)
    assert lower["a"].patients == 20


def test_equal_methods_share_their_mean_rank() -> None:
    rng = np.random.default_rng(0)
    same = {str(i): float(v) for i, v in enumerate(rng.normal(size=31))}
    reverse = dict(reversed(same.items()))
    found = rank_intervals({"a": [same], "b": [reverse], "worst": [{k: v + 9 for k, v in same.items()}]}, "lower", seed=0)
    assert (found["a"].rank, found["a"].low, found["a"].high, found["a"].first) == (1.5, 1.5, 1.5, 0.5)
    assert found["a"] == found["b"]
    assert found["worst"].rank == 3


def test_noisy_methods_swap_ranks_as_often_as_theory_says() -> None:
    """Two methods whose difference lies one standard error from nothing: the better one stays so in 84 % of resamples."""
    n = 400
    d = np.random.default_rng(0).normal(size=n)
    d = (d - d.mean()) / d.std() + 1 / sqrt(n)
    values = {"a": [{str(i): 0.0 for i in range(n)}], "b": [{str(i): float(v) for i, v in enumerate(d)}]}
    found = rank_intervals(values, "lower", seed=0, n_boot=4000)
    assert found["a"].first == pytest.approx(0.841, abs=0.02)
    assert (found["a"].rank, found["a"].low, found["a"].high) == (1, 1, 2)


def test_only_patients_that_all_methods_have_count() -> None:
    values = {"a": [{"p": 1.0, "q": 1.0, "only-a": 99.0}], "b": [{"q": 2.0, "p": 2.0, "only-b": -99.0, "nan": np.nan}]}
    found = rank_intervals(values, "lower", seed=0)
    assert (found["a"].rank, found["b"].rank, found["a"].patients) == (1, 2, 2)
    assert (found["a"].low, found["a"].high, found["a"].first) == (None, None, None)  # too few patients
    with pytest.raises(ValueError, match="no patient"):
        rank_intervals({"a": [{"p": 1.0}], "b": [{"q": 1.0}]}, "lower", seed=0)
    with pytest.raises(ValueError, match="neither"):
        rank_intervals(values, "none", seed=0)


def test_ranks_repeat_and_ignore_the_order_of_methods() -> None:
    rng = np.random.default_rng(0)
    values = {name: [{str(i): float(v) for i, v in enumerate(rng.normal(size=25))}] for name in "abc"}
    found = rank_intervals(values, "lower", seed=1)
    assert found == rank_intervals(dict(reversed(values.items())), "lower", seed=1)
    assert sum(r.first or 0 for r in found.values()) == pytest.approx(1)


def test_a_lucky_seed_makes_no_certain_rank() -> None:
    """Two methods alike for every patient; `b` is better in the mean by one of three seeds alone."""
    a = [{str(i): 1.0 for i in range(30)}] * 3
    b = [{str(i): value for i in range(30)} for value in (0.1, 1.1, 1.1)]
    found = rank_intervals({"a": a, "b": b}, "lower", seed=0)
    assert found["b"].rank == 1 and (found["b"].low, found["b"].high) == (1, 2), "patients agree in every resample, seeds do not"
    first = found["b"].first
    assert first is not None and first == pytest.approx(5 / 9, abs=0.03), "two seeds are drawn: both bad with (2/3) squared"
    mean = {str(i): (0.1 + 1.1 + 1.1) / 3 for i in range(30)}
    pooled = rank_intervals({"a": [a[0]], "b": [mean]}, "lower", seed=0)
    assert (pooled["b"].low, pooled["b"].high) == (1, 1), "seeds averaged before: certain, and wrong"


def test_resampled_seeds_vary_by_the_error_of_their_mean() -> None:
    """Of two methods one seed's standard error apart, the better stays so in 84 %: S - 1 of S seeds have the right spread."""
    seeds = np.random.default_rng(3).normal(size=60)
    seeds = (seeds - seeds.mean()) / seeds.std(ddof=1) + 1 / sqrt(60)
    values = {"a": [{str(i): 0.0 for i in range(8)}], "b": [{str(i): float(v) for i in range(8)} for v in seeds]}
    found = rank_intervals(values, "lower", seed=0, n_boot=4000)
    assert found["a"].first == pytest.approx(0.841, abs=0.02)


@pytest.mark.parametrize("kind", ["few", "many", "counts"])
def test_p_alone_is_that_of_the_whole_test(kind: str) -> None:
    rng = np.random.default_rng(3)
    n = 9 if kind == "few" else 60
    before = rng.normal(size=n)
    after = before + (rng.integers(-1, 3, n) if kind == "counts" else rng.normal(0.3, 1, n))
    patients = [f"p{k // 2}" for k in range(n)]
    found = paired_test(before, after, patients, seed=0, n_boot=10, n_permutations=2**EXACT)
    assert paired_p(before, after, patients) == found.best_p == paired_p(after, before, patients)
    assert paired_p(before, before, patients) == 1.0
    with pytest.raises(ValueError, match="finite"):
        paired_p([float("nan")], [1.0], ["a"])


def test_the_interval_of_a_shift_is_that_of_all_resamples_one_by_one() -> None:
    change = np.array([-3, -1, 0, 0, 2, 2, 5, 9, 12, 20])
    levels, counts = np.unique(change, return_counts=True)
    drawn = np.random.default_rng(5).multinomial(10, counts / 10, size=200)
    medians = []
    for weights in drawn:
        own = np.repeat(levels, weights)
        walsh = sorted((own[i] + own[j]) / 2 for i in range(10) for j in range(i, 10))
        medians.append(walsh[27])  # the 28th of 55: the lower middle one
    medians.sort()
    found = paired_test(np.zeros(10), change, [str(k) for k in range(10)], seed=5, n_boot=200).shift_ci
    assert found == pytest.approx((medians[4], medians[194]))
