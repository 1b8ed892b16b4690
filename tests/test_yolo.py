"""YOLOv5u in its own process: no network, nothing left behind in ours, and the boxes it is given and gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from jobs import prepare_job
from PIL import Image

from bench.contracts import Job
from bench.data.imageset import ImageSet, Item
from bench.data.load import open_datasets
from bench.errors import BenchError, DataError, PreflightError, UsageError
from evaluators import yolo, yolo_child
from evaluators.detectors import LEAST, Detections
from evaluators.yolo import Annotated, YoloDetector, YoloSettings, load_yolo, missing_yolo, train_yolo
from evaluators.yolo_child import YoloProcess, serving, stop_detecting
from evaluators.yolo_process import Worker

needs_ultralytics = pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not installed")
TINY = YoloSettings(image_size=64, epochs=1, batch_size=4, lr=0.004)
Boxes = tuple[tuple[float, float, float, float], ...] | None


def images(boxes: list[Boxes], size: int = 64, name: str = "toy/train") -> ImageSet:
    """Dark noise with a bright rectangle for each box."""
    pixels = np.random.default_rng(0).integers(0, 60, (len(boxes), size, size)).astype(np.uint8)
    for image, some in zip(pixels, boxes, strict=True):
        for x, y, width, height in some or ():
            image[max(0, int(y)) : int(y + height), max(0, int(x)) : int(x + width)] = 220
    items = [Item(f"i{k}", f"p{k}", "opacity" if some else "clear", boxes=some) for k, some in enumerate(boxes)]
    return ImageSet(name, items, {"image": pixels}, f"{size}-{boxes}")


def annotated(n: int = 12) -> Annotated:
    return images([((8.0 + k, 20.0, 20.0, 16.0),) if k % 2 else () for k in range(n)]), list(range(n))


def job(folder: Path) -> Job:
    return prepare_job(folder, annotated(2)[0], None)


@pytest.fixture(autouse=True, scope="module")
def _nothing_kept() -> Iterator[None]:
    yield
    stop_detecting()


# One real training and detection, with every way to the network watched

_GUARD = """
import os, socket
def _note(name, text):
    with open(os.path.join({folder!r}, name), "a") as stream:
        stream.write(text + "\\n")
def _refuse(name):
    def call(*args, **kwargs):
        _note("calls", name + repr(args[-1:]))
        raise OSError("no network here")
    return call
for _name in ("connect", "connect_ex", "sendto", "sendmsg"):
    setattr(socket.socket, _name, _refuse(_name))
for _name in ("getaddrinfo", "create_connection", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
    setattr(socket, _name, _refuse(_name))
_note("guarded", str(os.getpid()))
"""


@dataclass(frozen=True)
class Trained:
    """What came of one epoch."""

    job: Job
    detector: YoloDetector
    found: list[Detections]
    guard: Path
    before: dict[str, Any]
    after: dict[str, Any]
    environment: dict[str, str]


def state() -> dict[str, Any]:
    """What importing ultralytics would change."""
    options = (torch.get_num_threads(), np.get_printoptions(), torch._tensor_str.PRINT_OPTS)
    return {"save": torch.save, "options": options, "environment": dict(os.environ), "ultralytics": "ultralytics" in sys.modules}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    if find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed")
    folder = tmp_path_factory.mktemp("yolo")
    guard = folder / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(_GUARD.format(folder=str(guard)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{guard}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("ULTRALYTICS_API_KEY", "ul_secret")  # would be used, were it passed on
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "0")
        job_, before = job(folder), state()
        detector = train_yolo(job_, TINY, [annotated()], [annotated(4)])
        found = detector.detect(annotated(5)[0].pixels())
        after, environment = state(), dict(os.environ)
        assert isinstance(detector, YoloDetector)
        yield Trained(job_, detector, found, guard, before, after, environment)


def test_no_network_call_of_any_kind(trained: Trained) -> None:
    guarded = (trained.guard / "guarded").read_text().split()
    assert len(guarded) >= 2, "training and detecting ran in guarded processes"
    assert not (trained.guard / "calls").exists(), (trained.guard / "calls").read_text()
    call = "import socket; socket.create_connection(('127.0.0.1', 9))"  # the guard does see calls
    done = subprocess.run([sys.executable, "-c", call], env=trained.environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "no network here" in done.stderr
    assert (trained.guard / "calls").read_text().startswith("create_connection")
    (trained.guard / "calls").unlink()


def test_our_process_stays_as_it_was(trained: Trained) -> None:
    assert trained.after == trained.before
    assert not trained.after["ultralytics"]
    assert torch.save.__module__ == "torch.serialization"


def test_facts_say_what_it_is(trained: Trained) -> None:
    facts = trained.detector.facts
    assert facts["parameters"] == 2_508_659  # v5n with one class, three channels, the anchor-free head
    assert facts["architecture"] == "yolov5nu (anchor-free)" and facts["pretrained"] is False
    assert "AGPL-3.0" in facts["licence"] and facts["library"].startswith("ultralytics ")
    assert (facts["images"], facts["boxes"], facts["images_without_boxes"]) == (12, 6, 6)
    assert 0 <= facts["held_out_map50"] <= 1
    assert trained.job.fits.used["yolov5nu"]["weights_id"] == facts["weights_id"]


def test_no_copies_of_images_are_left(trained: Trained) -> None:
    left = {path.name for path in trained.detector.folder.rglob("*") if path.is_file()}
    assert left <= {"weights.pt", "fit.json", ".lock", "train.log", "detect.log", "Arial.ttf", "settings.json"}
    stop_detecting()
    assert not list(trained.detector.folder.glob("work-*"))


def test_detections_are_in_the_image_and_sorted(trained: Trained) -> None:
    assert len(trained.found) == 5
    for one in trained.found:
        assert one.boxes.dtype == one.scores.dtype == np.float32
        assert one.boxes.shape == (len(one.scores), 4)
        assert (one.scores >= LEAST).all() and (np.diff(one.scores) <= 0).all()
        assert (one.boxes[:, :2] >= 0).all() and (one.boxes[:, :2] + one.boxes[:, 2:] <= 64.001).all()
    assert trained.detector.detect(np.zeros((0, 64, 64), np.float32)) == []
    with pytest.raises(ValueError, match="n x S x S"):
        trained.detector.detect(np.zeros((2, 1, 64, 64), np.float32))


def test_trained_once_and_thresholds_train_nothing(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo, "YoloProcess", None)
    again = train_yolo(trained.job, TINY, [annotated()], [annotated(4)])
    assert again.id == trained.detector.id
    other = train_yolo(trained.job, replace(TINY, nms_iou=0.6), [annotated()], [annotated(4)])
    assert other.id != again.id and other.facts["weights_id"] == again.facts["weights_id"]
    with pytest.raises(TypeError):
        train_yolo(trained.job, replace(TINY, seed=1), [annotated()], [annotated(4)])


def test_the_same_inputs_give_the_same_weights(trained: Trained, tmp_path: Path) -> None:
    again = train_yolo(job(tmp_path), TINY, [annotated()], [annotated(4)])
    assert again.facts["weights_id"] == trained.detector.facts["weights_id"]
    assert again.facts["held_out_map50"] == trained.detector.facts["held_out_map50"]


def test_weights_of_the_users_own(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    shutil.copyfile(trained.detector.weights, path)
    detector = load_yolo(job(tmp_path), path, YoloSettings(image_size=512))
    assert detector.facts["file"] == "mine.pt" and detector.facts["counted"] == ["opacity"]
    assert detector.facts["weights_id"] == trained.detector.facts["weights_id"]
    assert detector.id == trained.detector.id  # at the 64 pixels it was trained at
    for a, b in zip(detector.detect(annotated(5)[0].pixels()), trained.found, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)


class Evil:
    """Pickled so that loading it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_another_version_of_ultralytics_is_another_detector(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained.detector.facts["library"] == f"ultralytics {yolo.library_version()}"  # found without importing it
    assert yolo.file_problem(trained.detector.weights) == ""
    detector = trained.detector
    monkeypatch.setattr(yolo, "library_version", lambda: "0.0")
    other = YoloDetector(detector.weights, detector.folder, detector.facts, TINY, 64, (), torch.device("cpu"))
    assert other.id != detector.id
    monkeypatch.setattr(yolo, "YoloProcess", None)
    with pytest.raises(TypeError):  # trains again
        train_yolo(trained.job, TINY, [annotated()], [annotated(4)])


@needs_ultralytics
def test_files_that_are_no_weights_are_refused_and_never_run(tmp_path: Path) -> None:
    made, evil, text = tmp_path / "made", tmp_path / "evil.pt", tmp_path / "text.pt"
    torch.save({"model": Evil(made)}, evil)
    text.write_text("not weights")
    with YoloProcess(tmp_path, "load.log", 1) as child:
        for path in (evil, text):
            with pytest.raises(BenchError, match=rf"loading failed: TypeError: .*{path.name}"):
                child.ask("loading", task="describe", weights=str(path))
    assert not made.exists()


@pytest.mark.usefixtures("installed")
def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.pt"
    path.write_text("not weights")
    monkeypatch.setattr(yolo, "YoloProcess", Describes)
    monkeypatch.setattr(Describes, "told", BenchError("loading failed: TypeError: no. Log: x.log"), raising=False)
    with pytest.raises(PreflightError, match=r"text.pt cannot be used as ultralytics weights. loading failed.*Log: x.log"):
        load_yolo(job(tmp_path), path, TINY)
    with pytest.raises(PreflightError, match="no such file"):
        load_yolo(job(tmp_path), tmp_path / "none.pt", TINY)


# Without ultralytics


def test_missing_ultralytics_is_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo, "find_spec", lambda name: None)
    text = missing_yolo()
    for part in ('pip install "cxr-bench[yolo]"', "AGPL-3.0", "--set evaluators.detection.detector=fcos"):
        assert part in text
    assert "\n" not in text
    with pytest.raises(PreflightError, match="not installed"):
        train_yolo(job(tmp_path), TINY, [annotated()], [])
    with pytest.raises(PreflightError, match="not installed"):
        load_yolo(job(tmp_path), tmp_path / "x.pt", TINY)
    monkeypatch.setattr(yolo, "find_spec", lambda name: object())
    assert missing_yolo() == ""


def test_importing_the_script_imports_nothing_heavy() -> None:
    code = "import sys, evaluators.yolo_process; print(*{'torch', 'numpy', 'bench', 'ultralytics'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ultralytics were there, for what comes before it is used."""
    monkeypatch.setattr(yolo, "find_spec", lambda name: object())


@pytest.mark.usefixtures("installed")
def test_nothing_to_learn_from(tmp_path: Path) -> None:
    for learn in ([], [(images([(), ()]), [0, 1])]):
        with pytest.raises(DataError, match="no opacity box"):
            train_yolo(job(tmp_path), TINY, learn, [])


@pytest.mark.parametrize("wrong", [
    {"model": "yolov8n"}, {"image_size": 100}, {"image_size": 32}, {"epochs": 0}, {"lr": 0.0}, {"lr": float("nan")},
    {"mosaic": 0.9}, {"nms_iou": 1.5}, {"max_detections": 0}, {"seed": -1}, {"scale": 1.0},
])  # fmt: skip
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(wrong))}: "):
        YoloSettings(**wrong)


# Files


def test_files_of_images_and_labels(tmp_path: Path) -> None:
    some = images([((8, 16, 32, 8), (-4, 10, 20, 8)), (), ((60, 60, 8, 8),), None])
    assert yolo._write(tmp_path, "train", [(some, [0, 1, 2])]) == {"images": 3, "boxes": 3, "images_without_boxes": 1}
    texts = [(tmp_path / "labels/train" / f"{k:06d}.txt").read_text() for k in range(3)]
    assert texts[0] == "0 0.375000 0.312500 0.500000 0.125000\n0 0.125000 0.218750 0.250000 0.125000\n"
    assert texts[1:] == ["", "0 0.968750 0.968750 0.062500 0.062500\n"]
    for k in range(3):
        with Image.open(tmp_path / "images/train" / f"{k:06d}.png") as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), some.bytes([k])[0])
    with pytest.raises(ValueError, match="i3"):
        yolo._write(tmp_path, "val", [(some, [3])])


def test_sets_of_several_sizes(tmp_path: Path) -> None:
    counts = yolo._write(tmp_path, "train", [(images([((0, 0, 16, 16),)]), [0]), (images([((0, 0, 16, 16),)], 32), [0])])
    assert counts["images"] == 2
    assert (tmp_path / "labels/train/000001.txt").read_text() == "0 0.250000 0.250000 0.500000 0.500000\n"


@pytest.mark.parametrize("box", [(70.0, 5.0, 4.0, 4.0), (5.0, 5.0, 0.0, 9.0), (5.0, 5.0, 3.0, -2.0), (float("nan"), 5.0, 4.0, 4.0)])
def test_boxes_without_area_are_refused(tmp_path: Path, box: tuple[float, float, float, float]) -> None:
    items = [Item("odd", "p", "opacity", boxes=(box,))]
    some = ImageSet("toy/train", items, {"image": np.zeros((1, 64, 64), np.uint8)}, "x")
    with pytest.raises(DataError, match=r"toy/train: image odd has a box .*no area inside its 64 x 64 pixels"):
        yolo._write(tmp_path, "train", [(some, [0])])


def test_stand_ins_are_the_first_images() -> None:
    some = [(images([()] * 3), [2, 0]), (images([()] * 3), [1, 0, 2])]
    assert [rows for _, rows in yolo._first(some, 4)] == [[2, 0], [1, 0]]


def test_boxes_go_to_their_images_most_confident_first() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3], [5, 5, 0, 4]], np.float32)
    found = yolo._by_image(boxes, np.array([0.2, 0.5, 0.9, 0.8], np.float32), np.array([2, 2, 0, 0]), 4)
    assert [d.scores.tolist() for d in found] == [[pytest.approx(0.9)], [], [pytest.approx(0.5), pytest.approx(0.2)], []]
    assert found[2].boxes[0].tolist() == [0, 0, 2, 2] and found[1].boxes.shape == (0, 4)


# The process


class FakeModel:
    """Finds in every image one box, whose width is the image's first pixel."""

    def __init__(self, worker: Worker, channels: int, drops: bool = False) -> None:
        self.model = SimpleNamespace(yaml={"channels": channels})
        self.worker, self.drops, self.batches = worker, drops, list[int]()

    def predict(self, batch: list[Any], **_: Any) -> list[Any]:
        self.batches.append(len(batch))
        assert all(image.shape == (8, 8, self.model.yaml["channels"]) for image in batch)
        assert all((image == image[..., :1]).all() for image in batch)
        some = []
        for k, image in enumerate(batch):
            lost = self.drops and k > 0
            self.worker.dropped |= lost
            box = torch.zeros(0, 4) if lost else torch.tensor([[1.0, 2.0, 1.0 + image[0, 0, 0], 6.0]])
            some.append(SimpleNamespace(boxes=SimpleNamespace(xyxy=box, conf=torch.full((len(box),), 0.5))))
        return some


@pytest.mark.parametrize(("channels", "drops"), [(3, False), (1, False), (3, True)])
def test_images_of_several_batches_and_none_dropped(tmp_path: Path, channels: int, drops: bool) -> None:
    """ultralytics' suppression has a time limit, after which it forgets the rest of a batch: then one image at a time."""
    worker = object.__new__(Worker)
    model = FakeModel(worker, channels, drops)
    worker._loaded, worker.dropped = ("w.pt", model), False
    stored, found = tmp_path / "images.npy", tmp_path / "found.npz"
    np.save(stored, np.arange(1, 6, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2))
    assert worker.detect("w.pt", str(stored), str(found), 2, {}) == {"n": 5}
    assert not stored.exists()
    with np.load(found) as table:
        assert table["boxes"].tolist() == [[1, 2, width, 4] for width in (1, 2, 3, 4, 5)]
        assert table["image"].tolist() == [0, 1, 2, 3, 4]
    assert model.batches == ([2, 1, 1, 2, 1, 1, 1] if drops else [2, 2, 1])


def test_the_environment_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ULTRALYTICS_API_KEY", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("YOLO_OFFLINE", "0")
    found = yolo_child._environment(tmp_path, 3)
    assert not {"ULTRALYTICS_API_KEY", "WORLD_SIZE", "RANK", "LOCAL_RANK"} & set(found)
    assert (found["YOLO_OFFLINE"], found["YOLO_AUTOINSTALL"], found["OMP_NUM_THREADS"]) == ("1", "false", "3")
    assert Path(found["YOLO_CONFIG_DIR"]).is_relative_to(tmp_path)


def test_the_process_ends_with_its_parent_and_clears_up(tmp_path: Path) -> None:
    child = YoloProcess(tmp_path, "x.log", 1)
    (child.work / "patient.png").write_text("x")
    assert child.ready and child.process.stdin is not None
    child.process.stdin.close()  # what the system does when a parent is killed
    assert child.process.wait(30) == 0
    assert not child.work.exists() and not child.ready


def test_a_process_that_dies_is_reported_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "dies.py"
    script.write_text("import sys; print('hello'); print('\\x1b[31mout of \\x1b[0mcandles\\n\\n---', file=sys.stderr); sys.exit(3)")
    monkeypatch.setattr(yolo_child, "_SCRIPT", script)
    with YoloProcess(tmp_path, "x.log", 1) as child, pytest.raises(BenchError) as caught:
        child.ask("training yolov5nu", task="train")
    assert "training yolov5nu failed" in str(caught.value) and "status 3 after 'out of candles'" in str(caught.value)
    assert str(tmp_path / "x.log") in str(caught.value)
    assert not child.work.exists()


def test_errors_in_the_process_are_told_and_it_lives_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo_child, "_environment", lambda work, threads: {**os.environ, "YOLO_OFFLINE": "0"})
    with YoloProcess(tmp_path, "x.log", 1) as child:
        for _ in range(2):
            with pytest.raises(BenchError, match=r"loading failed: RuntimeError: YOLO_OFFLINE=1 is not set.*Log: "):
                child.ask("loading", task="describe", weights="x.pt")
        assert child.ready
        assert "Traceback" in child.log.read_text()


def test_one_process_is_kept_until_it_cannot_be_asked(tmp_path: Path) -> None:
    first = serving(tmp_path, 1)
    assert serving(tmp_path, 1) is first
    first.busy = True  # someone was interrupted while waiting for its answer
    second = serving(tmp_path, 1)
    assert second is not first and first.process.poll() is not None
    assert serving(tmp_path, 2) is not second
    stop_detecting()
    assert not list(tmp_path.glob("work-*"))


class Describes:
    """Stands for the process: every file is what `told` says, or fails with it."""

    told: Any

    def __init__(self, *_: Any) -> None: ...
    def __enter__(self) -> Describes:
        return self

    def __exit__(self, *_: object) -> None: ...
    def ask(self, *_: Any, **__: Any) -> dict[str, Any]:
        if isinstance(self.told, BenchError):
            raise self.told
        return dict(self.told)


@pytest.mark.usefixtures("installed")
def test_which_classes_of_the_users_weights_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.pt"
    path.write_text("x")
    monkeypatch.setattr(yolo, "YoloProcess", Describes)
    told = {"version": "8", "architecture": "yolov8s", "parameters": 1, "weights_id": "a", "task": "detect", "image_size": 0}
    Describes.told = {**told, "classes": ["nodule", "opacity", "effusion"]}
    detector = load_yolo(job(tmp_path), path, replace(TINY, classes=("opacity", "effusion")))
    assert isinstance(detector, YoloDetector)
    assert detector.arguments["classes"] == [1, 2] and detector.arguments["imgsz"] == 64
    assert detector.facts["counted"] == ["opacity", "effusion"]
    with pytest.raises(UsageError, match="knows 3 classes"):
        load_yolo(job(tmp_path), path, TINY)
    with pytest.raises(UsageError, match="no class 'mass'"):
        load_yolo(job(tmp_path), path, replace(TINY, classes=("mass",)))
    Describes.told = {**told, "task": "segment", "classes": ["x"]}
    with pytest.raises(PreflightError, match="task 'segment'"):
        load_yolo(job(tmp_path / "other"), path, TINY)


# Quality


@needs_ultralytics
@pytest.mark.slow
def test_it_sees_opacities_in_rendered_images(tmp_path: Path, cache: Path) -> None:
    """With the budget of the preset quick: precision over recall at IoU 0.5, and few boxes where there is nothing."""
    (data,) = open_datasets(["synthetic"], 0, cache_root=cache)
    learn, check, test = (data.split(name, 64) for name in ("train", "val", "test"))
    settings = YoloSettings(image_size=96, epochs=12, batch_size=16, lr=0.004)
    every = [(some, list(range(len(some)))) for some in (learn, check)]
    found = train_yolo(job(tmp_path), settings, every[:1], every[1:]).detect(test.pixels())
    assert average_precision(found, test) > 0.4
    counts = {bool(item.boxes): list[int]() for item in test.items}
    for one, item in zip(found, test.items, strict=True):
        counts[bool(item.boxes)].append(int((one.scores >= 0.25).sum()))
    assert np.mean(counts[True]) > 3 * np.mean(counts[False])


def average_precision(found: list[Detections], truth: ImageSet) -> float:
    """Area under the interpolated precision-recall curve; a true box is found once, by the most confident box on it."""
    left = [list(item.boxes or ()) for item in truth.items]
    total, hits = sum(map(len, left)), []
    every = [(float(s), i, b) for i, one in enumerate(found) for s, b in zip(one.scores, one.boxes, strict=True)]
    for _, i, box in sorted(every, key=lambda each: -each[0]):
        best = max(left[i], key=lambda true: overlap(box, true), default=None)
        hits.append(best is not None and overlap(box, best) >= 0.5)
        if hits[-1] and best is not None:
            left[i].remove(best)
    true = np.cumsum(hits)
    precision = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
    return float(precision[np.asarray(hits)].sum() / total)


def overlap(a: Any, b: Any) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return float(both / (a[2] * a[3] + b[2] * b[3] - both))
