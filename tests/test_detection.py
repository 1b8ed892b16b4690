"""Detection: lesions counted before and after, and what is said of a detector that sees nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_tools import (
    NOTHING,
    PARAMS,
    SIDE,
    SQUARES,
    Blind,
    Bright,
    Everywhere,
    _draw,
    _items,
    _score,
    _set,
    _source,
    _translated,
)
from jobs import job, prepare_job
from PIL import Image
from scipy import ndimage

from bench.contracts import Score
from bench.data.contract import FloatImage
from bench.data.imageset import ImageSet
from bench.data.load import open_datasets
from bench.errors import DataError
from evaluators import tv_detector, yolo
from evaluators.detection import Detection, _matched
from evaluators.detection_real import DEFAULT_CONFIDENCE, DetectionConfig, RealImages
from evaluators.detectors import Detections, annotated
from evaluators.proportions import NO_WIDTH

# -- what is learnt from -----------------------------------------------------------------------------------------------------


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


Use = Callable[[Any], Any]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Lets the evaluator train a given detector."""

    def give(detector: Any) -> Any:
        monkeypatch.setattr(tv_detector, "train_torchvision", lambda job, settings, learn: detector)
        return detector

    return give


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


def test_too_few_patients_for_an_interval_leave_a_detector_in_doubt() -> None:
    images = object.__new__(RealImages)
    images.__dict__.update(quality=Score(0.5, 3), params=PARAMS, judged="squares", borrowed="")
    assert images.doubt == "the detector may be blind: too few patients for an interval of its mAP50 0.50 on squares"


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
    real = RealImages(prepare_job(tmp_path, _source(), params, learn=(images,), check=(images,)))
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
