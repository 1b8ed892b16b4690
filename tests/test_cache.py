"""Manifest, cache and opening of datasets."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from bench.data import cache, geometry
from bench.data import manifest as manifests
from bench.data.contract import Decoded, ImageRecord, Manifest, Problem, Reader
from bench.data.load import Dataset, DataSource, open_datasets
from bench.data.manifest import read_manifest, usable
from bench.errors import BenchError, DataError, UsageError
from bench.registry import DATASETS, register_dataset

N = 20


class Folder(Reader):
    """PNG files named <patient>_<number>.png; odd patients have opacities. Writes down every image it decodes."""

    name: ClassVar[str] = "toy"
    planes: ClassVar[tuple[str, ...]] = ("lung_mask", "counterpart")
    slow: ClassVar[float] = 0.0

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        found = []
        for path in sorted((self.root / "images").glob("*.png"), reverse=True):
            patient = path.stem.split("_")[0]
            domain = ("clear", "opacity", "other")[int(patient) % 3]
            mask = f"masks/{path.name}"
            found.append(
                ImageRecord(
                    path.stem, f"images/{path.name}", domain, patient,
                    lung_mask=(mask,) if (self.root / mask).exists() else (), boxes=((2, 1, 8, 4),),
                    age=40.0, findings={"Mass": 1.0},
                )
            )  # fmt: skip
        return found, [], False

    def load(self, record: ImageRecord, size: int | None = None) -> Decoded:
        if log := self.options.get("log"):
            with Path(str(log)).open("a") as stream:
                stream.write(f"{record.image_id}\n")
        time.sleep(float(str(self.options.get("slow", 0))))
        values = np.asarray(Image.open(self.inside(record.path)))
        masks = [np.asarray(Image.open(self.inside(name))) for name in record.lung_mask]
        deep = values.dtype != np.uint8
        full = 65535 if deep else 255
        image = values.astype(np.float32) / np.float32(full)
        return Decoded(image, 16 if deep else 8, lung_mask=masks[0] if masks else None)


if "toy" not in DATASETS.names():
    register_dataset("toy")(Folder)


def write(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "toy"
    for i in range(N):
        write(folder / "images" / f"{i:02d}_0.png", rng.integers(0, 256, (24, 20), dtype=np.uint8))
    return folder


def opened(root: Path, **options: object) -> Dataset:
    source = DataSource("toy", root, dict(options))
    return open_datasets([source], 0, (0, 0, 1), root.parent / "cache")[0]


def loads(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def test_every_image_is_decoded_once_and_stays_on_disk(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    images = opened(root, log=log).split("test", 16)
    assert loads(log) != []
    assert sorted(loads(log)) == images.ids == sorted(images.ids)
    again = opened(root, log=log).split("test", 16)
    assert sorted(loads(log)) == images.ids
    assert again.fingerprint == images.fingerprint
    assert again.items == images.items
    plane = again._planes["image"]
    base: Any = plane
    while not isinstance(base, np.memmap):
        base = base.base
    assert plane.dtype == np.uint8
    assert base.mode == "r"
    expected = np.asarray(Image.open(root / "images" / f"{images.ids[3]}.png")).astype(np.float32) / 255
    assert np.array_equal(images.raw([3])[0], np.round(geometry.Frame(24, 20, 16).image(expected) * 255))


def test_other_images_are_there_when_asked_for(root: Path) -> None:
    dataset = opened(root)
    everything = dataset.split("test", 16, ("opacity", "clear", "other"))
    assert set(dataset.split("test", 16).domains) == {"opacity", "clear"}
    assert len(everything) == N
    assert len(everything.where("other")) == 6
    assert dataset.count("test", "clear") == len(everything.where("clear")) == 7


def test_workers_and_one_process_give_the_same(root: Path, tmp_path: Path) -> None:
    reader = Folder(root)
    manifest = read_manifest(reader, tmp_path / "c")
    manifest = manifest.with_splits(dict.fromkeys(manifest.digests, "train"))
    steps: list[tuple[str, int, int]] = []
    sets = [
        cache.build(
            reader, manifest, "train", 16, tmp_path / f"w{workers}", workers=workers,
            progress=lambda *step: steps.append(step), domains=("opacity", "clear", "other"),
        )
        for workers in (1, 3)
    ]  # fmt: skip
    assert np.array_equal(sets[0].raw(), sets[1].raw())
    assert sets[0].fingerprint == sets[1].fingerprint
    assert steps[-1][1:] == (N, N)


def test_another_process_opens_it(root: Path) -> None:
    images = opened(root).split("test", 16)
    (array,) = (root.parent / "cache" / "data").glob("*/test-16.npy")
    code = f"import numpy; print(int(numpy.load({str(array)!r}, mmap_mode='r')[:, 0].sum()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == int(images.raw().sum())


def test_a_killed_build_leaves_nothing_that_counts(root: Path, tmp_path: Path) -> None:
    folder = root.parent / "cache"
    here, log = Path(__file__).parent, tmp_path / "log"
    code = (
        f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]\n"
        "from pathlib import Path\nfrom test_cache import opened\n"
        f"opened(Path({str(root)!r}), slow=0.4, log={str(log)!r}).split('test', 16, ('opacity', 'clear', 'other'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.time() + 20
    while len(loads(log)) < 3 and time.time() < deadline:
        time.sleep(0.02)
    assert len(loads(log)) >= 3, "the first process did not begin in time"
    process.send_signal(signal.SIGKILL)  # the parent only: its workers must not live on and keep the lock
    process.wait()
    half = list(folder.glob("data/*/.test-16.*.tmp"))
    assert len(half) == 1
    assert not list(folder.glob("data/*/test-16.*"))
    started = time.time()
    log = tmp_path / "second log"
    assert len(opened(root, log=log).split("test", 16, ("opacity", "clear", "other"))) == N == len(loads(log))
    assert time.time() - started < 5
    assert not list(folder.glob("data/*/.*.tmp"))


def test_an_array_without_its_index_or_cut_short_does_not_count(root: Path, tmp_path: Path) -> None:
    opened(root).split("test", 16)
    (array,) = (root.parent / "cache" / "data").glob("*/test-16.npy")
    whole = array.read_bytes()
    for damage in (lambda: array.with_suffix(".json").unlink(), lambda: array.write_bytes(whole[:-100])):
        damage()
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        opened(root, log=log).split("test", 16)
        assert len(loads(log)) == 14
        assert array.read_bytes() == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corrupt_file_is_named_in_one_line(root: Path, workers: int) -> None:
    (root / "images" / "15_0.png").write_bytes(b"not a picture")
    (root / "images" / "00_0.png").write_bytes(b"neither")
    dataset = opened(root)
    dataset.workers = workers
    with pytest.raises(DataError, match=r"toy: images/(15|00)_0.png cannot be decoded \(UnidentifiedImageError") as caught:
        dataset.split("test", 16, ("opacity", "clear", "other"))
    assert "\n" not in str(caught.value)
    assert not list((root.parent / "cache" / "data").glob("*/*test-16.*[!k]"))
    dataset.skip_corrupt = True
    images = dataset.split("test", 16, ("opacity", "clear", "other"))
    assert set(cache.left_out(dataset.place("test", 16, ("opacity", "clear", "other")))) == {"15_0", "00_0"}
    assert len(images) == N - 2 == len(images.raw())
    clean = np.asarray(Image.open(root / "images" / "16_0.png")).astype(np.float32) / 255
    row = images.raw([images.ids.index("16_0")])[0]
    assert np.array_equal(row, np.round(geometry.Frame(24, 20, 16).image(clean) * 255))
    with pytest.raises(DataError, match="1 more cannot be decoded"):  # what was skipped once is not silently skipped again
        opened(root).split("test", 16, ("opacity", "clear", "other"))


def test_one_deep_image_makes_the_set_deep(root: Path) -> None:
    deep = (np.arange(24 * 20, dtype=np.uint16) * 130).reshape(24, 20)
    write(root / "images" / "18_0.png", deep)
    images = opened(root).split("test", 24)
    assert images.raw().dtype == np.uint16
    assert np.array_equal(images.raw([images.ids.index("18_0")])[0, :, 2:22], deep)
    shallow = np.asarray(Image.open(root / "images" / "01_0.png"))
    assert np.array_equal(images.bytes([images.ids.index("01_0")])[0, :, 2:22], shallow)


def test_boxes_masks_and_content_arrive_in_the_items(root: Path) -> None:
    for i in range(0, N, 2):
        write(root / "masks" / f"{i:02d}_0.png", np.full((24, 20), 1, dtype=np.uint8))
    images = opened(root).split("test", 48)
    item = images.items[0]
    assert item.native == (24, 20)
    assert item.content == (0, 4, 48, 40)
    assert item.boxes == ((8.0, 2.0, 16.0, 8.0),)
    assert item.age == 40.0
    assert images.planes == {"image", "lung_mask"}
    values = {image: set(np.unique(images.raw([i], "lung_mask"))) for i, image in enumerate(images.ids)}
    assert values["00_0"] == {0, 1}  # padding is background
    assert values["01_0"] == {255}  # nobody drew it: undecided
    index = json.loads(next((root.parent / "cache" / "data").glob("*/test-48.json")).read_text())
    assert "01_0" in index["incomplete"]["lung_mask"]


class Rendered(Reader):
    """Generated images; `counterpart` of the clear ones is themselves."""

    name: ClassVar[str] = "rendered"
    generated: ClassVar[bool] = True
    planes: ClassVar[tuple[str, ...]] = ("opacity", "counterpart")
    policy: ClassVar[str] = "credentialed"

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        kinds = ("clear", "opacity")
        return [ImageRecord(f"r{i}", "", kinds[i % 2], f"p{i}", extra={"seed": str(i)}) for i in range(4)], [], False

    def load(self, record: ImageRecord, size: int | None = None) -> Decoded:
        assert size
        image = np.full((size, size), 0.25, dtype=np.float32)
        if record.domain == "clear":
            return Decoded(image)
        hole = self.options.get("hole") and record.image_id == "r3"
        return Decoded(image * 2, opacity=image, counterpart=None if hole else image, boxes=((0, 0, 2, 2),))


def test_rendered_planes_are_completed_for_clear_images(tmp_path: Path) -> None:
    reader = Rendered()
    manifest = read_manifest(reader, tmp_path)
    assert len(set(manifest.digests.values())) == 4
    manifest = manifest.with_splits(dict.fromkeys(manifest.digests, "val"))
    images = cache.build(reader, manifest, "val", 8, tmp_path)
    assert images.planes == {"image", "opacity", "counterpart"}
    assert [int(v) for v in images.raw(plane="image")[:, 0, 0]] == [64, 128, 64, 128]
    assert [int(v) for v in images.raw(plane="opacity")[:, 0, 0]] == [0, 64, 0, 64]
    assert [int(v) for v in images.raw(plane="counterpart")[:, 0, 0]] == [64, 64, 64, 64]
    assert images.items[1].boxes == ((0, 0, 2, 2),)
    assert images.items[0].boxes is None
    (folder,) = (tmp_path / "data").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    holed = cache.build(Rendered(hole=True), manifest, "val", 12, tmp_path)
    assert holed.planes == {"image", "opacity"}  # one true clear image is missing: the plane is not offered
    assert len(cache.build(reader, manifest, "test", 8, tmp_path)) == 0


def test_the_fingerprint_follows_pixels_and_labels_but_not_the_place(root: Path, tmp_path: Path) -> None:
    first = opened(root)
    pixels = first.split("test", 16).fingerprint
    moved = tmp_path / "elsewhere" / "toy"
    shutil.copytree(root, moved)
    there = opened(moved)
    assert there.fingerprint("test", 16) == first.fingerprint("test", 16)
    assert there.split("test", 16).fingerprint == pixels
    values = np.asarray(Image.open(moved / "images" / "01_0.png")).copy()
    values[0, 0] ^= 1
    write(moved / "images" / "01_0.png", values)
    changed = opened(moved)
    assert changed.fingerprint("test", 16) != first.fingerprint("test", 16)
    assert changed.split("test", 16).fingerprint != pixels
    labelled = replace(
        first.manifest, records=tuple(replace(r, findings={"Mass": 0.0}) for r in first.manifest), decoder="toy-1"
    )
    assert labelled.fingerprint != first.manifest.fingerprint
    assert replace(first.manifest, decoder="toy-2").fingerprint != first.manifest.fingerprint


def test_a_second_run_reads_no_file_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return path.read_bytes().hex()[:32]

    monkeypatch.setattr(manifests, "file_digest", counted)
    monkeypatch.setattr(manifests, "_SETTLED_NS", -1)
    one = read_manifest(Folder(root), tmp_path / "c")
    assert len(read) == N
    assert read_manifest(Folder(root), tmp_path / "c").fingerprint == one.fingerprint
    assert len(read) == N
    target = root / "images" / "07_0.png"
    before = target.stat()
    data = bytearray(target.read_bytes())
    data[-20] ^= 1
    target.write_bytes(data)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same date: only the change time tells
    read_manifest(Folder(root), tmp_path / "c")
    assert read[N:] == [target]


def test_manifest_problems(root: Path, tmp_path: Path) -> None:
    class Odd(Folder):
        name: ClassVar[str] = "odd"

        def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
            found, problems, leaky = super().records()
            extra = [ImageRecord(*more) for more in self.options["more"]]  # type: ignore[attr-defined]
            return [*found, *extra], problems, leaky

    with pytest.raises(DataError, match="image id '03_0' occurs twice"):
        read_manifest(Odd(root, more=[("03_0", "images/03_0.png", "clear", "3")]), tmp_path)
    more = [("../x", "images/03_0.png", "clear", "3"), ("a", "../../secret", "clear", "4"), ("b", "no.png", "foggy", "5")]
    manifest = read_manifest(Odd(root, more=more), tmp_path)
    assert list(manifest.digests) == sorted(manifest.digests)
    assert [p.where for p in manifest.problems] == ["../x", "b", "../../secret", "no.png"]
    with pytest.raises(DataError, match=r"'odd' cannot be used: \.\./x: image ids.*3 more; `bench data check odd PATH`"):
        usable(manifest)
    with pytest.raises(DataError, match="holds no images"):
        usable(Manifest("odd", (), {}, "odd-1"))


def test_a_full_disk_is_told_before_anything_is_decoded(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = tmp_path / "log"
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(BenchError, match=r"no space left on device while writing .*test-16\.npy"):
            opened(root, log=log).split("test", 16)
    assert len(loads(log)) <= 1  # the first image is decoded to learn the depth
    assert not list((root.parent / "cache" / "data").glob("*/*.npy*"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)  # while the index is written
        dataset = opened(root, log=log)
        with pytest.raises(BenchError, match="no space left on device"):
            dataset.split("test", 16)
    assert len(opened(root).split("test", 16)) == 14


def test_sources() -> None:
    assert DataSource.parse("rsna") == DataSource("rsna")
    assert DataSource.parse("rsna=/data/a,b=c/x") == DataSource("rsna", Path("/data/a"), {"b": "c/x"})
    assert DataSource.parse("rsna=/data/one,two") == DataSource("rsna", Path("/data/one,two"))
    assert DataSource.parse("rsna=/d=e") == DataSource("rsna", Path("/d=e"))
    assert DataSource.parse("rsna=d=e").path == Path("d=e")
    parsed = DataSource.parse("synthetic,images=200,noise=0.5,extra=true,tag=007")
    assert parsed == DataSource("synthetic", None, {"images": 200, "noise": 0.5, "extra": True, "tag": "007"})
    assert list(parsed.options) == ["images", "noise", "extra", "tag"]
    for wrong in ("", "=x", "synthetic,images", "synthetic,a=1,a=2", "rsna="):
        with pytest.raises(UsageError):
            DataSource.parse(wrong)


def test_opening_errors_help(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown dataset 'rsma'\. Did you mean 'rsna'\?"):
        open_datasets(["rsma=/x"], 0)
    with pytest.raises(DataError, match=r"folder .* does not exist"):
        open_datasets([f"toy={tmp_path}/nothing"], 0, cache_root=tmp_path)
    with pytest.raises(DataError, match="needs a folder"):
        open_datasets(["toy"], 0, cache_root=tmp_path)
    with pytest.raises(UsageError, match="multiple values"):
        open_datasets([f"toy={tmp_path},root=3"], 0, cache_root=tmp_path)


def test_two_datasets(root: Path) -> None:
    one, two = open_datasets([f"toy={root}", f"toy={root}"], 4, cache_root=root.parent / "cache")
    assert one.fingerprint("test", 16) == two.fingerprint("test", 16)
    assert sum(len(one.split(s, 16, ("opacity", "clear", "other"))) for s in ("train", "val", "test")) == N
    with pytest.raises(UsageError, match="split 'dev'"):
        one.split("dev", 16)
