"""Counting lesions: hand-computed counts and AP, the controls, and what is said of a detector that sees nothing."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import job, prepare_job
from PIL import Image
from scipy import ndimage

from bench.contracts import Score
from bench.data.contract import Box, FloatImage
from bench.data.imageset import ImageSet, Item
from bench.data.load import open_datasets
from bench.errors import DataError, PreflightError, UsageError
from evaluators import count_figures, tv_detector, yolo
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
    pooled_error,
    rank,
)
from evaluators.detection import COLUMNS, PARTS, Detection, _matched
from evaluators.detection_real import DEFAULT_CONFIDENCE, DetectionConfig, Real
from evaluators.detectors import Detections, annotated, detect_all, packed, unpacked
from evaluators.proportions import NO_WIDTH
from evaluators.statistics import change_intervals, paired_test

SIDE = 32
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def found(*boxes: tuple[float, Box]) -> Detections:
    """Detections from (score, box)."""
    ordered = sorted(boxes, key=lambda b: -b[0])
    return Detections(
        np.array([b for _, b in ordered], np.float32).reshape(-1, 4), np.array([s for s, _ in ordered], np.float32)
    )


NOTHING = found()


# -- average precision -----------------------------------------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    truth: list[list[Box]] = [[(0, 0, 10, 10), (20, 20, 10, 10)], [(5, 5, 10, 10)], []]
    ranked = rank(
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
    assert average_precision(rank([found((0.5, (0, 0, 10, 10)))] * 3, truth)) == 1.0
    assert average_precision(rank([NOTHING] * 3, truth)) == 0.0
    assert np.isnan(average_precision(rank([NOTHING] * 3, [[]] * 3)))


def test_equal_confidences_have_no_order() -> None:
    one, other = found((0.5, (0, 0, 10, 10))), found((0.5, (20, 20, 4, 4)))
    truth: list[list[Box]] = [[(0, 0, 10, 10)], [(0, 0, 10, 10)]]
    forwards, backwards = average_precision(rank([one, other], truth)), average_precision(rank([other, one], truth))
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
    assert best_confidence(rank([NOTHING], [[(0.0, 0.0, 5.0, 5.0)]]))[1] == 0


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


# -- what is learnt from -----------------------------------------------------------------------------------------------------


def _set(boxes: Sequence[tuple[Box, ...] | None], images: Bytes | None = None, name: str = "toy") -> ImageSet:
    items = [Item(f"i{k}", f"p{k}", "opacity" if b else "clear", boxes=b) for k, b in enumerate(boxes)]
    return ImageSet(name, items, {"image": np.zeros((len(items), SIDE, SIDE), np.uint8) if images is None else images}, name)


def test_boxes_outside_or_without_area_are_left_out_and_told() -> None:
    images = _set(
        [((0, 0, 8, 8), (40, 0, 5, 5)), ((28, 28, 8, 8),), (), None, ((3, 3, 0, 5),), ((-9, 0, 9, 5), (2, 2, 5, -1))]
    )
    kept, note = annotated([images])
    ((clean, rows),) = kept
    assert rows == [0, 1, 2]  # images that lost all of their boxes are not background, and unknown is not none
    assert [clean.items[row].boxes for row in rows] == [((0, 0, 8, 8),), ((28, 28, 4, 4),), ()]
    assert "4 boxes" in note and "2 images" in note and "1 boxes cut" in note
    assert images.items[0].boxes == ((0, 0, 8, 8), (40, 0, 5, 5))  # the caller's set is as it was
    assert annotated([_set([None, None])]) == ([], "")


def test_a_box_that_is_not_finite_is_an_error_that_names_the_image() -> None:
    with pytest.raises(DataError, match=r"toy: image i1 .*finite"):
        annotated([_set([(), ((float("nan"), 0, 5, 5),)])])


# -- the evaluator, with a detector that finds bright squares ----------------------------------------------------------------


class Bright:
    """Finds connected pixels above 0.75; its confidence is their greatest value less a half, times two."""

    def __init__(self, name: str = "bright") -> None:
        self.id, self.facts, self.seen = name, {"library": "none", "images": 3}, 0

    def detect(self, images: FloatImage) -> list[Detections]:
        self.seen += len(images)
        return [self.one(image) for image in images]

    def one(self, image: FloatImage) -> Detections:
        labels, _ = ndimage.label(image > 0.75)
        boxes = []
        for part in ndimage.find_objects(labels):
            y, x = part
            boxes.append((2 * float(image[part].max()) - 1, (x.start, y.start, x.stop - x.start, y.stop - y.start)))
        return found(*boxes)


class Blind(Bright):
    """Finds nothing."""

    def one(self, image: FloatImage) -> Detections:
        return NOTHING


class Everywhere(Bright):
    """The same wrong box in every image."""

    def one(self, image: FloatImage) -> Detections:
        return found((0.9, (0, 0, SIDE, 2)))


Use = Callable[[Any], Any]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Lets the evaluator train a given detector."""

    def give(detector: Any) -> Any:
        monkeypatch.setattr(tv_detector, "train_torchvision", lambda job, settings, learn: detector)
        return detector

    return give


PLACES: list[Box] = [(2, 2, 6, 6), (20, 2, 6, 6), (2, 20, 6, 6), (20, 20, 6, 6)]
#: Squares in each opacity image; images 0 and 1 are of one patient.
SQUARES = (1, 3, 2, 2, 1, 4)
PARAMS = DetectionConfig(detector="fcos", n_boot=100)


def _draw(squares: Sequence[int]) -> Bytes:
    images = np.full((len(squares), SIDE, SIDE), 60, np.uint8)
    for image, number in zip(images, squares, strict=True):
        for x, y, w, h in PLACES[:number]:
            image[int(y) : int(y + h), int(x) : int(x + w)] = 255
    return images


def _items(squares: Sequence[int], boxes: bool = True) -> list[Item]:
    return [
        Item(f"i{k}", f"p{max(k, 1)}", "opacity" if n else "clear", boxes=tuple(PLACES[:n]) if boxes else None)
        for k, n in enumerate(squares)
    ]


def _source(squares: Sequence[int] = (*SQUARES, 0, 0, 0), boxes: bool = True, name: str = "squares") -> ImageSet:
    lungs = np.zeros((len(squares), SIDE, SIDE), np.uint8)
    lungs[:, :, :16] = 1
    return ImageSet(name, _items(squares, boxes), {"image": _draw(squares), "lung_mask": lungs}, f"{name}{boxes}")


def _translated(squares: Sequence[int]) -> ImageSet:
    return ImageSet("out", _items((*SQUARES, 0, 0, 0)), {"image": _draw(squares)}, f"out{squares}")


def _score(tmp_path: Path, squares: Sequence[int], params: Any = PARAMS, **more: Any) -> dict[str, Score]:
    source = more.pop("source", None) or _source()
    images = _source(name="train")
    more = {"learn": (images,), "check": (images,), **more}
    return Detection().score(job(tmp_path, _translated(squares), params, source, **more))


def test_doing_nothing_changes_nothing(use: Use, tmp_path: Path) -> None:
    detector = use(Bright())
    scores = _score(tmp_path, (*SQUARES, 0, 0, 0))
    assert set(scores) == {m.key for m in Detection.metrics(PARAMS)}
    assert scores["count_change"].value == 0.0 and scores["count_change"].ci == (0.0, 0.0)
    assert scores["count_p"].value == 1.0 and scores["opacity_p_permutation"].value == 1.0
    assert scores["opacity_effect"].value == 0.0 and scores["opacity_unchanged"].value == 100.0
    none = {(s.value, s.n, s.note) for key, s in scores.items() if key.startswith("psnr_")}
    assert none == {(None, 0, "no opacity image was changed: there is no control to match")}
    assert scores["map50"].value == 1.0 and not scores["count_change"].doubt
    # patients' means: (1 + 3) / 2, 2, 2, 1, 4
    assert scores["count_before"].value == pytest.approx((2 + 2 + 2 + 1 + 4) / 5)
    assert scores["count_before"].per_image == dict(zip(["i0", "i1", "i2", "i3", "i4", "i5"], map(float, SQUARES), strict=True))
    assert scores["clear_before"].value == 0.0
    # the test set, the validation images and the fixed blur; unchanged images are not looked at again
    assert detector.seen == 9 + 9 + 6


def test_counts_before_and_after_by_hand(use: Use, tmp_path: Path) -> None:
    use(Bright())
    after = (0, 1, 2, 0, 2, 0, 0, 1, 0)
    scores = _score(tmp_path, after)
    changes = np.array([-1.5, 0, -2, 1, -4])  # patients: images 0 and 1 are one
    assert scores["count_change"].value == pytest.approx(changes.mean())
    assert scores["count_after"].value == pytest.approx((0.5 + 2 + 0 + 2 + 0) / 5)
    assert scores["count_change"].per_image == {"i0": -1, "i1": -2, "i2": 0, "i3": -2, "i4": 1, "i5": -4}
    assert scores["opacity_median"].value == -1.5
    assert "quartiles -2.00 and 0.00" in scores["opacity_median"].note
    assert (scores["opacity_reduced"].value, scores["opacity_unchanged"].value, scores["opacity_increased"].value) == (60, 20, 20)
    assert scores["opacity_zeros"].value == 1 and scores["opacity_p"].n == 5
    # Pratt's ranks of |change|: 0 -> 1 (left out), 1 -> 2, 1.5 -> 3, 2 -> 4, 4 -> 5; minus 3 + 4 + 5, plus 2
    assert scores["opacity_effect"].value == pytest.approx((2 - 12) / 14)
    assert scores["count_clear"].value == pytest.approx(1 / 3)
    assert scores["clear_increased"].value == pytest.approx(100 / 3)
    assert scores["opacity_area_before"].value == pytest.approx(100 * 36 / SIDE**2 * (2 + 2 + 2 + 1 + 4) / 5)
    # squares 1 and 3 lie in the lung, which is the left half
    assert scores["opacity_lung_before"].value == pytest.approx(100 * 36 / (SIDE * 16) * ((1 + 2) / 2 + 1 + 1 + 1 + 2) / 5)
    assert scores["count_change"].note == (
        "FCOS trained on 3 images of train; confidence >= 0.95 (highest F1, 1.00, at IoU 0.5 on 9 images of train)"
    )
    # four of five patients changed: the approximation's p is no more the one to report
    assert scores["count_p"].value == scores["opacity_p_permutation"].value == 4 / 16
    assert "exact" in scores["count_p"].note
    for suffix in ("median", "reduced", "unchanged", "increased", "effect"):
        score = scores[f"opacity_{suffix}"]
        assert score.ci is not None and score.value is not None and score.ci[0] <= score.value <= score.ci[1]
    assert scores["opacity_reduced"].ci == (20, 100)


def test_blur_and_noise_are_controls(use: Use, tmp_path: Path) -> None:
    use(Bright())
    scores = _score(tmp_path, (0,) * 9)
    assert scores["count_change"].value == -scores["count_before"].value  # type: ignore[operator]
    assert "; sigma 8 pixels, the strongest tried: PSNR 14.2 dB" in scores["psnr_blur_after"].note  # it cannot remove as much
    told = re.search(r"sigma [\d.]+: PSNR ([\d.]+) dB, the translation's ([\d.]+) dB;", scores["psnr_noise_after"].note)
    assert told and float(told[1]) == pytest.approx(float(told[2]), abs=0.1)
    assert scores["psnr_noise_after"].value != scores["count_after"].value
    assert scores["blur_before"].value == scores["count_before"].value
    assert "sigma 0.5 pixels" in scores["blur_change"].note


def test_controls_match_the_images_that_were_changed(use: Use, tmp_path: Path) -> None:
    """One image of six loses its squares. A mean of PSNRs over all six would ask for next to nothing."""
    use(Bright())
    after = (0, *SQUARES[1:], 0, 0, 0)
    work = job(tmp_path, _translated(after), PARAMS, _source())
    for images, note in _matched(work, [0, 1, 2, 3, 4, 5]):
        assert np.array_equal(images[1:], work.source.bytes()[1:6])  # what the translation left alone is left alone
        square = (images[0].astype(float) - work.source.bytes()[0]) ** 2
        assert square.mean() == pytest.approx(36 * 195**2 / SIDE**2, rel=0.05) or "the strongest tried" in note
        assert "in the 1 of 6 images it changed" in note
    assert "the strongest tried" not in note  # the noise reaches it
    scores = _score(tmp_path, after)
    assert scores["psnr_noise_change"].n == 6 and scores["psnr_noise_change"].value is not None


def test_a_blind_detector_puts_every_count_in_doubt(use: Use, tmp_path: Path) -> None:
    use(Everywhere())
    scores = _score(tmp_path, (0,) * 9)
    assert scores["map50"].value == 0.0 and not scores["map50"].doubt
    counting = {key: score for key, score in scores.items() if key != "map50"}
    expected = "the detector is blind: mAP50 0.00 on squares, floor 0.10"
    assert {score.doubt for score in counting.values()} == {expected}
    assert f"confidence >= {DEFAULT_CONFIDENCE}" in scores["count_change"].note and "no hit" in scores["count_change"].note


def test_a_detector_that_is_not_surely_above_the_floor_is_in_doubt(use: Use, tmp_path: Path) -> None:
    """It sees one image's lesions: mAP50 4 / 13, which is above the floor, and 0 in every resample without that patient."""

    class Rarely(Bright):
        def one(self, image: FloatImage) -> Detections:
            return super().one(image) if ndimage.label(image > 0.75)[1] == 4 else NOTHING

    use(Rarely())
    scores = _score(tmp_path, (0,) * 9)
    assert scores["map50"].value == pytest.approx(4 / 13) and scores["map50"].ci is not None and scores["map50"].ci[0] == 0
    assert scores["count_change"].doubt.startswith("the detector may be blind: mAP50 0.31 [0.00, ")
    assert scores["count_change"].doubt.endswith("] on squares, floor 0.10")
    assert not _score(tmp_path, (0,) * 9, DetectionConfig(detector="fcos", n_boot=100, map_floor=0.0))["count_change"].doubt


def test_patients_who_all_agree_are_not_certain(use: Use, tmp_path: Path) -> None:
    """All five lose lesions. A bootstrap of them has no width."""
    use(Bright())
    scores = _score(tmp_path, (0,) * 9)
    assert (scores["opacity_reduced"].value, scores["opacity_increased"].value) == (100, 0)
    assert scores["opacity_reduced"].ci == pytest.approx((100 * 0.025 ** (1 / 5), 100))
    assert scores["opacity_increased"].ci == pytest.approx((0, 100 * (1 - 0.025 ** (1 / 5))))
    effect = scores["opacity_effect"]
    assert effect.value == -1 and effect.ci is None and f"5 patients, 0 of them without change; {NO_WIDTH}" in effect.note
    assert scores["opacity_median"].ci is not None


def test_a_detector_that_finds_nothing(use: Use, tmp_path: Path) -> None:
    use(Blind())
    scores = _score(tmp_path, (0,) * 9)
    assert scores["count_before"].value == scores["count_after"].value == scores["count_change"].value == 0.0
    assert scores["count_p"].value == 1.0 and scores["opacity_p_permutation"].value == 1.0
    assert "finds nothing" in scores["count_change"].note and "finds nothing" in scores["count_after"].note
    assert "blind" in scores["count_change"].doubt and scores["map50"].value == 0.0
    # even without a floor, nothing can be lost where nothing is found
    again = _score(tmp_path, (0,) * 9, DetectionConfig(detector="fcos", n_boot=100, map_floor=0.0))
    assert "finds nothing in 6 untouched opacity images" in again["count_change"].doubt


def test_a_detector_that_finds_as_much_in_clear_images_is_in_doubt(use: Use, tmp_path: Path) -> None:
    use(Bright())
    squares = _draw((*SQUARES, 4, 4, 4))  # the clear images are full of squares that are no opacities
    source = ImageSet("both", _items((*SQUARES, 0, 0, 0)), {"image": squares}, "both")
    scores = _score(tmp_path, (*SQUARES, 4, 4, 4), source=source)
    assert scores["map50"].value is not None and scores["map50"].value > PARAMS.map_floor
    assert "what it counts are not opacities" in scores["count_change"].doubt


def test_without_boxes_in_the_test_set_quality_is_that_on_validation_images(use: Use, tmp_path: Path) -> None:
    use(Bright())
    own = {"learn": (_source(name="mine/train"),), "check": (_source(name="mine/val"),)}
    scores = _score(tmp_path, (0,) * 9, source=_source(boxes=False, name="mine/test"), **own)
    assert scores["map50"].value == 1.0 and scores["map50"].note.startswith("on 9 untouched images of mine/val (")
    assert "no test image has boxes" in scores["map50"].note
    assert not scores["count_change"].doubt and not scores["map50"].doubt
    blank = _score(tmp_path, (0,) * 9, source=_source(boxes=False), check=(), cache=tmp_path / "other")
    assert blank["map50"].value is None and blank["map50"].note
    assert "nobody knows" in blank["count_change"].doubt
    assert "confidence >= 0.25 (YOLOv5's default: no validation image has boxes)" in blank["count_change"].note


def test_quality_borrowed_from_another_dataset_vouches_for_nothing(
    use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Bright())
    captions = []
    monkeypatch.setattr("evaluators.detection.box_plot", lambda panels, path, title, caption: captions.append(caption))
    other = {"learn": (_source(name="mine/train"),), "check": (_source(name="mine/val"),)}
    scores = _score(tmp_path, (0,) * 9, source=_source(boxes=False, name="theirs/test"), **other)
    expected = "how well it sees lesions here is unknown: mAP50 1.00 is of mine/val, and theirs/test has no boxes"
    assert {score.doubt for key, score in scores.items() if key != "map50"} == {expected}
    assert scores["map50"].doubt == "of mine/val, and theirs/test has no boxes"
    assert "FCOS trained on 3 images of mine/train" in scores["count_change"].note
    (caption,) = captions
    assert "mAP50 1.00 on mine/val" in caption and "not to be relied upon" in caption
    longer = {"learn": other["learn"], "check": (_source(name="theirs-not/val"),)}  # a name that only begins alike
    again = _score(tmp_path, (0,) * 9, source=_source(boxes=False, name="theirs/test"), **longer)
    assert "theirs-not/val" in again["count_change"].doubt


def test_a_test_set_known_to_have_no_lesion_needs_no_quality_of_its_own(use: Use, tmp_path: Path) -> None:
    source = _source((0, 0, 0, 0), name="clear/test")
    work: dict[str, Any] = {"learn": (_source(name="mine/train"),), "check": (_source(name="mine/val"),)}
    translated = ImageSet("out", source.items, {"image": _draw((0, 1, 0, 0))}, "out")
    use(Bright())
    scores = Detection().score(job(tmp_path, translated, PARAMS, source, **work))
    assert scores["count_clear"].value == pytest.approx(1 / 6) and not scores["count_clear"].doubt  # images 0 and 1 are one patient's
    assert scores["map50"].note.endswith("; no lesion in this test set") and "has boxes" not in scores["map50"].note
    use(Everywhere("everywhere"))  # ... but one that sees nothing where there is something has no false alarms to tell of
    blind = Detection().score(job(tmp_path, translated, PARAMS, source, **work))
    assert blind["count_clear"].doubt == "the detector is blind: mAP50 0.00 on mine/val, floor 0.10"


def test_what_could_not_be_used_of_the_test_sets_boxes_is_told(use: Use, tmp_path: Path) -> None:
    use(Bright())
    items = [replace(i, boxes=(*(i.boxes or ()), (40.0, 0.0, 5.0, 5.0))) if i.boxes else i for i in _source().items]
    source = ImageSet("odd", items, {"image": _draw((*SQUARES, 0, 0, 0))}, "odd")
    scores = _score(tmp_path, (0,) * 9, source=source)
    assert "6 boxes without area inside their image left out" in scores["map50"].note


def test_a_test_set_without_opacity_images_has_no_headline(use: Use, tmp_path: Path) -> None:
    use(Bright())
    source = _source((0, 0, 0, 0))
    translated = ImageSet("out", source.items, {"image": _draw((0, 1, 0, 0))}, "out")
    images = _source(name="train")
    scores = Detection().score(job(tmp_path, translated, PARAMS, source, learn=(images,), check=(images,)))
    assert scores["count_change"].value is None and "no opacity images" in scores["count_change"].note
    assert scores["count_clear"].value is not None and (tmp_path / "scratch" / "counts.png").is_file()


def test_real_images_are_looked_at_once_for_all_methods(use: Use, tmp_path: Path) -> None:
    detector = use(Bright())
    images = _source(name="train")
    Detection().prepare(prepare_job(tmp_path, _source(), PARAMS, learn=(images,), check=(images,)))
    assert detector.seen == 9 + 9 + 6
    first = _score(tmp_path, (0,) * 9)
    after_one = detector.seen
    second = _score(tmp_path, (1,) * 9)
    assert after_one - 24 <= 3 * 9 and detector.seen - after_one <= 3 * 9  # translated images and two controls each
    shared = [m.key for m in Detection.metrics(PARAMS) if m.shared]
    assert {"count_before", "map50", "blur_change"} <= set(shared)
    assert {k: first[k].value for k in shared} == {k: second[k].value for k in shared}
    detector.id = "another"  # another detector sees everything anew
    _score(tmp_path, (0,) * 9)
    assert detector.seen - after_one > 24 + 9


def test_the_same_job_gives_the_same_scores(use: Use, tmp_path: Path) -> None:
    use(Bright())
    assert _score(tmp_path / "a", (1,) * 9) == _score(tmp_path / "b", (1,) * 9)


def test_a_given_confidence_is_used(use: Use, tmp_path: Path) -> None:
    use(Bright())
    params = DetectionConfig(detector="fcos", n_boot=100, confidence=0.4)
    images = _source(name="train")
    real = Real(prepare_job(tmp_path, _source(), params, learn=(images,), check=(images,)))
    assert real.confidence == 0.4 and "as configured" in real.note


def test_pictures(use: Use, tmp_path: Path) -> None:
    use(Bright())
    _score(tmp_path, (0, 1, 2, 0, 2, 0, 0, 1, 0))
    with Image.open(tmp_path / "scratch" / "counts.png") as picture:
        assert picture.width == 770 and picture.height > 500  # 3.5 inches at 220 dots
    assert (tmp_path / "scratch" / "curve.png").is_file()
    curve = json.loads((tmp_path / "scratch" / "curve.json").read_text())
    for values in curve["counts"]["opacity"].values():
        assert values == sorted(values, reverse=True)  # a higher confidence never finds more
    assert curve["confidence"][0] == 0.05 and curve["confidence"][-1] == 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        DetectionConfig(detector="fcos", backbone="resnet18", width=64, image_size=128, iterations=150, batch_size=8),
        pytest.param(
            DetectionConfig(detector="yolo", yolo_model="yolov5n", image_size=64, epochs=20, batch_size=16),
            marks=pytest.mark.skipif(bool(yolo.missing_yolo()), reason="ultralytics is not installed"),
        ),
    ],
    ids=["fcos", "yolo"],
)
def test_opacities_that_are_removed_are_no_longer_counted(params: DetectionConfig, tmp_path: Path) -> None:
    """The whole of it on rendered images: true removal lowers the count, doing nothing and controls do not."""
    (data,) = open_datasets(["synthetic"], 0, cache_root=tmp_path / "images")
    learn, check, source = (data.split(split, 64) for split in ("train", "val", "test"))
    truth = ImageSet("truth", source.items, {"image": source.bytes(plane="counterpart")}, "truth")
    scores = Detection().score(job(tmp_path, truth, params, source, learn=(learn,), check=(check,)))
    assert scores["map50"].value is not None and scores["map50"].value > 0.3
    change, ci, p = scores["count_change"].value, scores["count_change"].ci, scores["count_p"].value
    assert not scores["count_change"].doubt
    assert change is not None and change < -0.2 and ci is not None and ci[1] < 0 and p is not None and p < 0.05
    for control in ("psnr_blur_change", "psnr_noise_change"):
        value = scores[control].value
        assert value is not None and value > change / 2
    same = ImageSet("same", source.items, {"image": source.bytes()}, "same")
    assert Detection().score(job(tmp_path, same, params, source, learn=(learn,), check=(check,)))["count_change"].value == 0.0


# -- parameters and what is missing -------------------------------------------------------------------------------------------


def test_metrics_are_told_apart() -> None:
    metrics = Detection.metrics(DetectionConfig(detector="yolo"))
    assert not any("," in m.label for m in metrics)  # labels stand in lists
    assert len({m.key for m in metrics}) == len(metrics) == 6 + len(PARTS) * len(COLUMNS)
    assert [m.key for m in metrics if m.primary] == ["count_change"]
    assert {m.part for m in metrics if m.key.startswith("opacity_")} == {"YOLOv5u · opacity images"}
    assert len({(m.part, m.label) for m in metrics}) == len(metrics)


def test_needs() -> None:
    assert Detection.learns(DetectionConfig()) == "boxes"
    assert Detection.requires(DetectionConfig()) == {"images to learn from"}
    assert Detection.requires(DetectionConfig(weights="mine.pt")) == frozenset()
    assert Detection.files(DetectionConfig(weights="mine.pt"), ()) == (Path("mine.pt"),)


def test_ultralytics_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(yolo, "find_spec", lambda name: None)
    (line,) = Detection.missing_assets(DetectionConfig(), ())
    assert line == yolo.missing_yolo() and "pip install" in line and "detector=fcos" in line
    assert Detection.missing_assets(DetectionConfig(detector="fcos"), ()) == []
    with pytest.raises(PreflightError, match="ultralytics"):
        Detection().prepare(prepare_job(tmp_path, _source(), DetectionConfig(), learn=(_source(name="train"),)))


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    params = DetectionConfig(detector="fcos", weights=str(tmp_path / "mine.pth"))
    (line,) = Detection.missing_assets(params, ())
    assert "mine.pth" in line and "FCOS" in line
    with pytest.raises(PreflightError, match=r"mine\.pth"):
        Detection().prepare(prepare_job(tmp_path, _source(), params))


def test_weights_of_another_detector_block_the_run_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    small: dict[str, Any] = {"backbone": "resnet18", "width": 64, "weights": str(path)}
    torch.save(tv_detector.build_network(DetectionConfig(detector="fcos", **small).torchvision_settings()).state_dict(), path)
    assert Detection.missing_assets(DetectionConfig(detector="fcos", **small), ()) == []
    for other in ("retinanet", "ssdlite"):
        (line,) = Detection.missing_assets(DetectionConfig(detector=other, **small), ())
        assert str(path) in line and tv_detector.TITLES[other] in line and "Name a file of that architecture" in line
    (line,) = Detection.missing_assets(DetectionConfig(detector="fcos", **{**small, "width": 96}), ())
    assert "width 96" in line
    path.write_text("no weights")
    (line,) = Detection.missing_assets(DetectionConfig(detector="fcos", **small), ())
    assert f"{path} cannot be loaded safely" in line and "\n" not in line


def test_files_that_are_no_weights_of_ultralytics_block_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo, "find_spec", lambda name: object())

    def lines(path: Path) -> list[str]:
        return Detection.missing_assets(DetectionConfig(weights=str(path)), ())

    text, plain, odd, gone = (tmp_path / name for name in ("text.pt", "plain.pt", "mine.onnx", "gone.pt"))
    text.write_text("no weights")
    torch.save({"weight": torch.zeros(1)}, plain)
    odd.write_text("x")
    for path, why in ((text, "not a zip file"), (plain, "no model of ultralytics"), (odd, "end in .pt"), (gone, "no such file")):
        (line,) = lines(path)
        assert str(path) in line and why in line and "\n" not in line
    made = tmp_path / "made.pt"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("made/data.pkl", b"cultralytics.nn.tasks\nDetectionModel\n")
    assert lines(made) == []


def test_versions_are_part_of_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    fcos, own = DetectionConfig(detector="fcos"), DetectionConfig()
    seen = {Detection.parts(fcos), Detection.parts(own)}
    assert any("torchvision" in part for part in Detection.parts(fcos))
    for target, name, value, params in (
        ("evaluators.detection_real", "VERSION", 99, fcos), ("evaluators.tv_detector", "VERSION", 99, fcos),
        ("torchvision", "__version__", "99", fcos), ("evaluators.yolo", "VERSION", 99, own),
        ("evaluators.yolo", "library_version", lambda: "99", own),
    ):  # fmt: skip
        monkeypatch.setattr(f"{target}.{name}", value)
        assert Detection.parts(params) not in seen
        seen.add(Detection.parts(params))


def test_marks_of_patients_do_not_look_like_other_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(count_figures, "_save", lambda figure, path: drawn.append(figure))
    none = np.zeros(40)
    test = paired_test(none, none, [str(i) for i in range(40)], 0, 1)
    count_figures.box_plot([count_figures.Panel("x", none, none, test)], tmp_path / "x.png", "t", "c")
    (axis,) = drawn[0].axes
    heights = np.concatenate([c.get_offsets()[:, 1] for c in axis.collections])
    assert len(heights) == 80 and 0 < np.abs(heights).max() <= 0.05
    few = paired_test(np.zeros(5), -np.arange(1.0, 6), list("abcde"), 0, 1)
    count_figures.box_plot([count_figures.Panel("x", np.zeros(5), -np.arange(1.0, 6), few)], tmp_path / "x.png", "t", "c")
    assert "p = 0.0625" in drawn[1].axes[0].get_title()  # the approximation says 0.04


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no opacity box to learn from in toy"):
        Detection().prepare(prepare_job(tmp_path, _source(), PARAMS, learn=(_set([(), ()]),)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"detector": "rcnn"}, {"confidence": 1.0}, {"map_floor": 2.0}, {"n_boot": 0}, {"image_size": 100},
        {"detector": "fcos", "backbone": "vgg"}, {"detector": "fcos", "width": 48}, {"detector": "fcos", "batch_size": 1},
        {"yolo_model": "yolov9"},
    ],
)  # fmt: skip
def test_parameters_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        DetectionConfig(**wrong)


def test_many_images_go_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.detectors._PIXELS", 2 * SIDE * SIDE)
    detector, images = Bright(), _draw(SQUARES)
    assert counts(detect_all(detector, images), 0.25).tolist() == list(SQUARES)
    assert detect_all(detector, images[:0]) == []
