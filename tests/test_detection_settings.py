"""Settings of detection, and what is said where weights, libraries or boxes are missing."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_tools import PARAMS, SIDE, SQUARES, Bright, _draw, _set, _source
from jobs import prepare_job

from bench.errors import DataError, PreflightError, UsageError
from evaluators import count_figures, tv_detector, yolo
from evaluators.counting import counts
from evaluators.detection import COLUMNS, PARTS, Detection
from evaluators.detection_real import DetectionConfig
from evaluators.detectors import detect_all
from evaluators.statistics import paired_test

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
