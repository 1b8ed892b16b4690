"""Counting lesions by hand: average precision, counts, areas, and the controls of translations."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_tools import NOTHING, SIDE, Bytes, found
from scipy import ndimage

from bench.data.contract import Box
from evaluators.counting import (
    Ranked,
    average_precision,
    average_precision_interval,
    best_confidence,
    blurred,
    box_area,
    counts,
    decibel,
    hits,
    lung_cover,
    matched_strength,
    noised,
    pool_detections,
    pooled_error,
)
from evaluators.detectors import packed, unpacked
from evaluators.statistics import change_intervals, paired_test

# -- average precision -----------------------------------------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    truth: list[list[Box]] = [[(0, 0, 10, 10), (20, 20, 10, 10)], [(5, 5, 10, 10)], []]
    ranked = pool_detections(
        [
            found((0.9, (0, 0, 10, 10)), (0.7, (20, 20, 10, 9))),
            found((0.8, (20, 0, 10, 10))),
            found((0.6, (0, 0, 4, 4))),
        ],
        truth,
    )
    assert ranked.hits.tolist() == [True, False, True, False]
    # precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3: one third at 1, one third at 2/3, the last third at 0
    assert average_precision(ranked) == pytest.approx(1 / 3 + 2 / 9)


def test_interpolation_takes_the_best_precision_at_no_less_recall() -> None:
    ranked = Ranked(np.array([0.9, 0.8, 0.7]), np.array([False, True, True]), np.zeros(3, np.int64), np.array([2]))
    assert average_precision(ranked) == pytest.approx(2 / 3)  # precision 1/2 at recall 1/2, but 2/3 at recall 1


def test_a_box_is_hit_once_and_at_half_overlap() -> None:
    truth: list[Box] = [(0, 0, 10, 10)]
    assert hits(found((0.9, (0, 0, 10, 5)), (0.8, (0, 0, 10, 10))), truth).tolist() == [True, False]  # IoU exactly 0.5
    assert hits(found((0.9, (0, 0, 10, 4.9))), truth).tolist() == [False]
    # the nearest free box is taken, so that two boxes that overlap can both be found
    pair: list[Box] = [(0, 0, 10, 10), (2, 0, 10, 10)]
    assert hits(found((0.9, (0, 0, 10, 10)), (0.8, (0, 0, 10, 10))), pair).tolist() == [True, True]


def test_average_precision_ends() -> None:
    truth: list[list[Box]] = [[(0, 0, 10, 10)]] * 3
    assert average_precision(pool_detections([found((0.5, (0, 0, 10, 10)))] * 3, truth)) == 1.0
    assert average_precision(pool_detections([NOTHING] * 3, truth)) == 0.0
    assert np.isnan(average_precision(pool_detections([NOTHING] * 3, [[]] * 3)))


def test_equal_confidences_have_no_order() -> None:
    one, other = found((0.5, (0, 0, 10, 10))), found((0.5, (20, 20, 4, 4)))
    truth: list[list[Box]] = [[(0, 0, 10, 10)], [(0, 0, 10, 10)]]
    forwards, backwards = (average_precision(pool_detections(found, truth)) for found in ([one, other], [other, one]))
    assert forwards == backwards == pytest.approx(1 / 4)  # half of the boxes at precision 1/2


def _random_ranked(seed: int) -> Ranked:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 8, 60)
    return Ranked(np.sort(rng.random(60))[::-1], rng.random(60) < 0.4, image, np.bincount(image, minlength=8) + 2)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_the_mean_of_interpolated_precision_over_boxes(seed: int) -> None:
    ranked = _random_ranked(seed)
    precision = ranked.hits.cumsum() / np.arange(1, 61)
    recall = ranked.hits.cumsum()
    levels = [precision[recall >= k].max(initial=0.0) for k in range(1, int(ranked.boxes.sum()) + 1)]
    assert average_precision(ranked) == pytest.approx(np.mean(levels))


def test_weights_are_copies_of_images() -> None:
    ranked, weights = _random_ranked(1), np.array([2.0, 0, 1, 1, 3, 1, 1, 0])
    copies = np.repeat(np.arange(60), weights[ranked.image].astype(int))
    again = Ranked(ranked.scores[copies], ranked.hits[copies], ranked.image[copies], (ranked.boxes * weights).astype(np.int64))
    assert average_precision(ranked, weights) == pytest.approx(average_precision(again))
    low, high = average_precision_interval(ranked, [str(i) for i in range(8)], 0, 300) or (1, 0)
    assert low < average_precision(ranked) < high
    assert average_precision_interval(ranked, ["a", "b", "c", "c", "a", "a", "b", "b"], 0, 300) is None


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="ultralytics is not installed")
def test_average_precision_as_ultralytics_computes_it(tmp_path: Path) -> None:
    """Theirs reads the curve at 101 recalls; in a process of its own, for importing it changes this one."""
    rankeds = [_random_ranked(seed) for seed in range(5)]
    (tmp_path / "in.json").write_text(json.dumps([[r.scores.tolist(), r.hits.tolist(), int(r.boxes.sum())] for r in rankeds]))
    code = (
        "import json, sys, numpy as np; from ultralytics.utils.metrics import ap_per_class\n"
        "for s, h, n in json.load(open('in.json')):\n"
        "    out = ap_per_class(np.array(h)[:, None], np.array(s), np.zeros(len(s)), np.zeros(n))\n"
        "    print('AP', float(out[5][0][0]))"
    )
    environment = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    theirs = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("AP ")]
    assert theirs == pytest.approx([average_precision(r) for r in rankeds], abs=0.015)


# -- counts, areas, the confidence ---------------------------------------------------------------------------------------------


def test_counts_and_areas_by_hand() -> None:
    some = [found((0.9, (0, 0, 10, 10)), (0.3, (5, 5, 10, 10))), NOTHING]
    assert counts(some, 0.25).tolist() == [2, 0]
    assert counts(some, 0.3).tolist() == [2, 0]  # at least
    assert counts(some, 0.31).tolist() == [1, 0]
    assert box_area(some, 0.25, 20).tolist() == [50.0, 0.0]  # the 5 x 5 that both share counts twice
    lungs = np.zeros((2, 20, 20), np.uint8)
    lungs[0, :, :10], lungs[0, 0, 0] = 1, 255
    # 199 lung pixels; the first box holds 99 of them, the second 50, of which 25 are in the first
    assert lung_cover(some, 0.25, lungs)[0] == pytest.approx(100 * (99 + 50 - 25) / 199)
    assert np.isnan(lung_cover(some, 0.25, lungs)[1])


def test_best_confidence_by_hand() -> None:
    ranked = Ranked(
        np.array([0.9, 0.8, 0.55, 0.2]), np.array([True, True, False, True]), np.zeros(4, np.int64), np.array([4])
    )
    # F1 with 2, 3, 4 kept: 4/6, 4/7, 6/8
    assert best_confidence(ranked) == (0.2, pytest.approx(0.75))
    assert best_confidence(pool_detections([NOTHING], [[(0.0, 0.0, 5.0, 5.0)]]))[1] == 0


def test_packing_keeps_everything() -> None:
    some = [found((0.9, (0, 0, 10, 10)), (0.3, (5, 5, 10, 10))), NOTHING, found((0.4, (1, 2, 3, 4)))]
    again = unpacked(packed(some))
    assert [a.scores.tolist() for a in again] == [a.scores.tolist() for a in some]
    assert [a.boxes.tolist() for a in again] == [a.boxes.tolist() for a in some]
    assert [len(a.scores) for a in unpacked(packed([NOTHING, NOTHING]))] == [0, 0]


# -- controls ---------------------------------------------------------------------------------------------------------------


def _radiographs(n: int = 5) -> Bytes:
    noise = np.random.default_rng(0).random((n, SIDE, SIDE)) * 255
    return np.stack([ndimage.gaussian_filter(i, 1.5) for i in noise]).astype(np.uint8)


@pytest.mark.parametrize("psnr", [26.0, 32.0, 40.0])
def test_controls_are_as_far_from_the_input_as_the_translation(psnr: float) -> None:
    images, ids, target = _radiographs(), list("abcde"), 10 ** (-psnr / 10)

    def blur(rows: np.ndarray[Any, Any], sigma: float) -> Bytes:
        return blurred(images[rows], sigma)

    def noise(rows: np.ndarray[Any, Any], sigma: float) -> Bytes:
        return noised(images[rows], sigma, [ids[i] for i in rows], 0)

    for make, most in ((blur, 8.0), (noise, 1.0)):
        strength, error = matched_strength(make, images, target, most)
        assert decibel(error) == pytest.approx(psnr, abs=0.1)
        squares = (make(np.arange(5), strength).astype(float) - images) ** 2
        assert error == pytest.approx(squares.mean() / 255**2)
    strength, error = matched_strength(blur, images, 0.3, 8.0)  # no blur is that far
    assert strength == 8.0 and 0 < error < 0.3


def test_errors_are_pooled_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((3, 2, 2), np.uint8)
    other = np.stack([np.full((2, 2), 255, np.uint8), images[0], images[0]])
    monkeypatch.setattr("evaluators.counting._CHUNK", 2)
    assert pooled_error(lambda rows: other[rows], images) == pytest.approx(1 / 3)
    assert decibel(1 / 1000) == pytest.approx(30) and decibel(0.0) == np.inf


def _resampled(change: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], levels: np.ndarray[Any, Any]) -> list[float]:
    some = np.repeat(levels, weights)
    test = paired_test(np.zeros(len(some)), some, [str(i) for i in range(len(some))], 0, 1, 1)
    return [float(np.median(some)), test.reduced, test.unchanged, test.increased, test.effect]


@pytest.mark.parametrize("n", [4, 9, 24])
def test_intervals_of_changes_are_those_of_every_resample_taken_alone(n: int) -> None:
    change = np.random.default_rng(n).integers(-4, 3, n) / 2
    levels, number = np.unique(change, return_counts=True)
    draws = np.random.default_rng(5).multinomial(n, number / n, size=200)
    alone = np.array([_resampled(change, weights, levels) for weights in draws])
    found = change_intervals(change, 5, 200)
    assert list(found) == ["median", "reduced", "unchanged", "increased", "effect"]
    for values, ci in zip(alone.T, found.values(), strict=True):
        assert ci == pytest.approx(np.percentile(values, [2.5, 97.5]))
    assert change_intervals(change[:3], 0, 200) == {}
    assert set(change_intervals(np.full(8, 1e-12), 0, 50).values()) == {(0.0, 0.0), (1.0, 1.0)}  # rounding is no change


def test_noise_of_an_image_is_its_own() -> None:
    images = _radiographs()
    whole = noised(images, 0.1, list("abcde"), 3)
    assert np.array_equal(noised(images[3:], 0.1, ["d", "e"], 3), whole[3:])
    assert not np.array_equal(noised(images[:1], 0.1, ["b"], 3), whole[:1])
    assert np.array_equal(noised(images, 0.0, list("abcde"), 3), images)
