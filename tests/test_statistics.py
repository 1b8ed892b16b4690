"""Known answers for the patient-level statistics."""

import numpy as np
import pytest

from evaluators.statistics import half_sample_interval, half_samples, mean_interval, patient_means, ratio_interval


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
