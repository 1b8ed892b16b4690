"""Test images kept beside the results."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Bench, records
from fixtures_data import make_folder, save_png
from PIL import Image

from bench import cli, pipeline, sources, stages, translations
from bench.data.imageset import ImageSet, Item
from bench.experiment import Experiment
from bench.files import read_json
from bench.parser import build_parser

Toy = tuple[str, ...]


def opened(words: Toy) -> Experiment:
    """The experiment of a ``bench run`` with these words."""
    return pipeline.open_run(cli._spec(build_parser(cli._CALLS).parse_args(["run", *words])))


def kept(runs: Path) -> Path:
    """The one test set that is kept in a results folder."""
    (found,) = (runs / "sources").iterdir()
    return found


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.fixture
def done(bench: Bench, toy: Toy, tmp_path: Path) -> Path:
    """The results folder of a finished run."""
    answer = bench("run", *toy)
    assert answer.code == 0, answer.err
    return tmp_path / "runs"


def test_a_run_keeps_what_methods_saw(done: Path, toy: Toy) -> None:
    images = opened(toy).test_set("synthetic")
    folder, facts = kept(done), read_json(kept(done) / "manifest.json")
    record = records(done)["toy/synthetic--toy-score"]
    assert folder == sources.location(done, "synthetic", record["dataset_fingerprint"], record["image_size"])
    assert facts["fingerprint"] == images.fingerprint == record["dataset_fingerprint"]
    assert (facts["dataset"], facts["size"], facts["policy"], facts["split"]) == ("synthetic", 32, "open", "test")
    assert facts["ids"] == images.ids and facts["domains"] == dict(zip(images.ids, images.domains, strict=True))
    assert facts["planes"] == ["images", "opacity", "counterpart", "lungs"] and set(images.domains) == {"opacity", "clear"}
    (untranslated,) = (done / "original").rglob("images")
    for row, image_id in enumerate(images.ids):
        found = {name: pixels(folder / name / f"{image_id}.png") for name in facts["planes"]}
        assert np.array_equal(found["images"], pixels(untranslated / f"{image_id}.png")), "the translator's input"
        assert np.array_equal(found["opacity"], images.bytes([row], "opacity")[0])
        assert np.array_equal(found["counterpart"], images.bytes([row], "counterpart")[0])
        assert np.array_equal(found["lungs"] == 255, images.raw([row], "lung_mask")[0] == 1)
    assert {p.name for p in folder.iterdir()} == {*facts["planes"], "manifest.json"} and not list(folder.rglob(".*"))


def test_a_finished_run_keeps_what_is_missing_and_does_nothing_else(bench: Bench, done: Path, toy: Toy) -> None:
    before = {p.relative_to(kept(done)): p.read_bytes() for p in kept(done).rglob("*") if p.is_file()}
    others = {p: p.stat().st_mtime_ns for kind in ("toy", "original") for p in (done / kind).rglob("*.*") if p.name != ".lock"}
    shutil.rmtree(done / "sources")
    answer = bench("run", *toy)
    assert answer.code == 0 and "done in" not in answer.out, answer.out
    assert {p.relative_to(kept(done)): p.read_bytes() for p in kept(done).rglob("*") if p.is_file()} == before
    assert {p: p.stat().st_mtime_ns for p in others} == others


def test_what_is_complete_is_told_without_decoding(done: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = opened(toy)

    def decode(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Experiment, "images", decode)
    assert sources.keep(experiment, "synthetic") == kept(done)
    (kept(done) / "manifest.json").unlink()
    with pytest.raises(AssertionError, match="decoded"):
        sources.keep(experiment, "synthetic")


@pytest.mark.parametrize("after", [0, 5, 12])
def test_a_kill_leaves_no_manifest_and_is_taken_up(done: Path, toy: Toy, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {p.relative_to(kept(done)): p.read_bytes() for p in kept(done).rglob("*") if p.is_file()}
    shutil.rmtree(done / "sources")
    write, written = translations.write_png, list[Path]()

    def killed(path: Path, values: Any) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        write(path, values)

    monkeypatch.setattr(translations, "write_png", killed)
    monkeypatch.setattr(sources, "ThreadPoolExecutor", lambda _: _OneByOne())
    with pytest.raises(KeyboardInterrupt):
        sources.keep(opened(toy), "synthetic")
    assert not list(done.rglob("sources/*/manifest.json")) and len(written) == after
    first = set(written)

    def noted(path: Path, values: Any) -> None:
        written.append(path)
        write(path, values)

    monkeypatch.setattr(translations, "write_png", noted)
    sources.keep(opened(toy), "synthetic")
    assert {p.relative_to(kept(done)): p.read_bytes() for p in kept(done).rglob("*") if p.is_file()} == whole
    complete = {path for path in first if all((path.parents[1] / name / path.name) in first for name in sources.PLANES)}
    assert complete.isdisjoint(written[after:]), "what is there is not written again"


class _OneByOne:
    """Writers that write in turn: a kill then leaves a known number of files."""

    map = staticmethod(map)

    def __enter__(self) -> _OneByOne:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"fingerprint": "x"}', "\x00"])
def test_a_damaged_manifest_is_written_again(done: Path, toy: Toy, damage: str) -> None:
    path = kept(done) / "manifest.json"
    good = path.read_text()
    path.write_text(damage)
    assert sources.manifest(path.parent) is None
    sources.keep(opened(toy), "synthetic")
    assert path.read_text() == good


def test_what_an_earlier_version_kept_is_written_again(bench: Bench, done: Path, toy: Toy) -> None:
    path = kept(done) / "manifest.json"
    good = path.read_text()
    facts = json.loads(good)
    assert facts.pop("contents") == {}, "square images have no padding"
    path.write_text(json.dumps(facts))
    assert sources.manifest(path.parent) is None
    assert bench("run", *toy).code == 0 and path.read_text() == good


def test_where_images_lie_in_their_padding(bench: Bench, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "folder", images=24, patients=24, masks=False, table=False)
    for path in root.rglob("*.png"):
        save_png(path, pixels(path)[:, 8:40])
    words = [*[w for w in TINY if w not in ("--data", "synthetic,images=24")], "--suite", "toy-score", "--data", f"folder={root}"]
    places = ["--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    assert bench("run", "--method", "original", *words, *places).code == 0
    facts = read_json(kept(tmp_path / "runs") / "manifest.json")
    assert facts["contents"] == {image_id: [0, 8, 32, 16] for image_id in facts["ids"]}, "64 x 32 in 32 x 32"


def test_inputs_are_kept_before_anything_is_trained(bench: Bench, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "train", killed)
    with contextlib.suppress(KeyboardInterrupt):
        bench("run", *toy)
    assert sources.manifest(kept(tmp_path / "runs")) and not list((tmp_path / "runs").rglob("toy/**/train.json"))


def test_other_images_stand_beside(bench: Bench, done: Path, toy: Toy) -> None:
    assert bench("run", *toy, "--set", "data.size=48").code == 0
    more = tuple(word.replace("images=24", "images=40") for word in toy)
    assert bench("run", *more).code == 0
    ids = {folder.name: (sources.manifest(folder) or {})["ids"] for folder in (done / "sources").iterdir()}
    images = [opened(words).test_set("synthetic") for words in (toy, (*toy, "--set", "data.size=48"), more)]
    assert ids == {f"synthetic-{some.fingerprint[:8]}-{some.size}": some.ids for some in images} and len(ids) == 3


def test_credentialed_images_are_their_owners_only(bench: Bench, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "folder", images=24, patients=24, masks=False, table=False)
    words = [*[w for w in TINY if w not in ("--data", "synthetic,images=24")], "--suite", "toy-score"]
    for policy, mode in (("credentialed", 0o700), ("open", 0o755)):
        runs = tmp_path / policy
        flags = ["--data", f"folder={root},policy={policy}", "--runs", str(runs), "--cache", str(tmp_path / "cache")]
        assert bench("run", "--method", "original", *words, *flags).code == 0
        facts = read_json(kept(runs) / "manifest.json")
        assert facts["policy"] == policy and facts["planes"] == ["images"]
        assert kept(runs).stat().st_mode & 0o777 == mode & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_cannot_be_kept_is_a_warning(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sources").write_text("in the way")
    answer = bench("run", *toy)
    assert answer.code == 0, answer.err
    assert f"warning: synthetic: its images are not kept in {tmp_path / 'runs' / 'sources'}, so figures will lack them: " in answer.err
    assert "toy/synthetic--toy-score" in records(tmp_path / "runs")


def test_a_full_disk_ends_the_run(bench: Bench, done: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(done / "sources")

    def full(path: Path, values: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(translations, "write_png", full)
    answer = bench("run", *toy)
    assert answer.code != 0 and "space" in answer.err, answer.err


def test_score_keeps_them_too(bench: Bench, toy: Toy, tmp_path: Path) -> None:
    assert bench("run", *toy, "--method", "original").code == 0
    images = next((tmp_path / "runs" / "original").rglob("images"))
    shutil.rmtree(tmp_path / "runs" / "sources")
    words = toy[2:]
    assert bench("score", "--images", images, "--as", "my-gan", *words).code == 0
    assert len(read_json(kept(tmp_path / "runs") / "manifest.json")["ids"]) == len(list(images.iterdir()))
    answer = bench("score", "--images", images, "--as", "sources", *words)
    assert answer.code == 2 and "--as sources: that is the folder of test images; choose another name." in answer.err


def test_codes_and_deep_images_by_hand(tmp_path: Path) -> None:
    codes = np.array([[[0, 1], [255, 1]], [[255, 255], [255, 255]]], np.uint8)
    deep = np.array([[[0, 65535], [32768, 257]], [[128, 129], [65407, 65406]]], np.uint16)
    images = ImageSet("x", [Item("a", "p", "opacity"), Item("b", "p", "clear")], {"image": deep, "lung_mask": codes}, "f")
    found = dict(sources._values(images, [0, 1], ["images", "lungs"]))
    assert found["lungs"].tolist() == [[[0, 255], [127, 255]], [[127, 127], [127, 127]]] and found["lungs"].dtype == np.uint8
    assert found["images"].tolist() == [[[0, 255], [128, 1]], [[0, 1], [255, 254]]]


def test_the_hash_tells_other_files(done: Path, toy: Toy) -> None:
    path, manifest = next((kept(done) / "images").iterdir()), kept(done) / "manifest.json"
    before = json.loads(manifest.read_text())["content"]
    save_png(path, 255 - pixels(path))
    manifest.unlink()
    sources.keep(opened(toy), "synthetic")
    assert json.loads(manifest.read_text())["content"] != before, "what is there whole is not written again"
