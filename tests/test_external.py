"""Images from elsewhere: ``bench score`` of a folder, ``bench translate`` with a run."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, TOY, Bench, folder, forget_imports, records
from fixtures_data import chest, make_folder, save_png, write_dicom
from PIL import Image

from bench import pipeline, stages
from bench.files import lock
from bench.plan import Stage

Toy = tuple[str, ...]


# -- score -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(bench: Bench, cache: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """Images that another program made for the test set (of another size), and the flags to score them."""
    words = [*TINY, "--runs", str(tmp_path / "runs"), "--cache", str(cache)]
    assert bench("run", "--method", "original", "--suite", "toy-score", *words).code == 0
    made = tmp_path / "made"
    for path in (tmp_path / "runs" / "original").rglob("images/*.png"):
        save_png(made / path.name, np.kron(np.asarray(Image.open(path)), np.ones((2, 2), np.uint8)))
    return made, ["score", "--images", str(made), "--as", "my-gan", "--suite", "toy-score", *words]


def test_score_images_made_elsewhere(bench: Bench, outside: tuple[Path, list[str]], tmp_path: Path) -> None:
    made, words = outside
    answer = bench(*words)
    assert answer.code == 0, answer.err
    record = records(tmp_path / "runs")["my-gan/synthetic--toy-score"]
    assert record["trained_by"] == "external" and record["status"] == "ok"
    assert record["scores"]["change"]["value"] == pytest.approx(0, abs=0.03) and record["scores"]["change"]["n"] == 7
    assert "my-gan" in answer.out and "original" in answer.out
    for path in made.iterdir():
        save_png(path, 255 - np.asarray(Image.open(path)))
    assert bench(*words).code == 0
    assert len(list((tmp_path / "runs" / "my-gan").rglob("records/*.json"))) == 2, "other images, another row's record"


def test_score_lists_missing_and_surplus_images(bench: Bench, outside: tuple[Path, list[str]]) -> None:
    made, words = outside
    first, *_ = sorted(made.iterdir())
    shutil.copy(first, made / "stranger.png")
    surplus = bench(*words)
    assert surplus.code == 0 and "1 images belong to no image of synthetic/test and are left out: stranger" in surplus.err
    first.unlink()
    missing = bench(*words)
    assert missing.code == 3
    assert f"1 of 7 images of synthetic/test are missing in {made}: {first.stem}. Files are named by image id" in missing.err


def test_score_never_takes_a_mask_or_a_twin_for_the_image(bench: Bench, outside: tuple[Path, list[str]], tmp_path: Path) -> None:
    made, words = outside
    assert bench(*words).code == 0
    plain = records(tmp_path / "runs")["my-gan/synthetic--toy-score"]["scores"]
    made.rename(tmp_path / "images")
    (made / "masks").mkdir(parents=True)
    (tmp_path / "images").rename(made / "images")
    for path in (made / "images").iterdir():
        save_png(made / "masks" / path.name, np.zeros((32, 32), np.uint8))
    assert bench(*words).code == 0
    assert records(tmp_path / "runs")["my-gan/synthetic--toy-score"]["scores"] == plain
    first = sorted((made / "images").iterdir())[0]
    (made / "images" / "again").mkdir()
    shutil.copy(first, made / "images" / "again" / first.name)
    twice = bench(*words)
    assert twice.code == 3 and f"image '{first.stem}' is there twice" in twice.err


def test_score_of_a_broken_image_names_it(bench: Bench, outside: tuple[Path, list[str]]) -> None:
    made, words = outside
    path = sorted(made.iterdir())[3]
    path.write_text("no image")
    answer = bench(*words)
    assert answer.code == 3 and path.name in answer.err and len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("wrong", ["misnamed", "cut short", "empty"])
@pytest.mark.parametrize("skip", [False, True])
def test_score_looks_at_the_images_before_any_work(
    bench: Bench, outside: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, skip: bool
) -> None:
    made, words = outside
    first, *_ = sorted(made.iterdir())
    if wrong == "misnamed":
        first.rename(made / "stranger.png")
    elif wrong == "cut short":
        first.write_bytes(first.read_bytes()[:-200])
    else:
        shutil.rmtree(made)
        made.mkdir()
    walked: list[str] = []
    walk = pipeline.walk

    def watched(plan: list[Stage]) -> pipeline.Outcome:
        walked.extend(stage.kind for stage in plan)
        return walk(plan)

    monkeypatch.setattr(pipeline, "walk", watched)
    fresh = ["--runs", str(tmp_path / "fresh"), "--cache", str(tmp_path / "cache"), "--set", f"data.skip_corrupt={skip}"]
    answer = bench(*words, *fresh)
    assert answer.code == 3 and len(answer.err.splitlines()) == (2 if wrong == "misnamed" else 1)
    told = {"misnamed": "1 of 7 images of synthetic/test are missing", "empty": "7 of 7 images of synthetic/test are missing"}
    assert told.get(wrong, f"{first}: the image is cut off or damaged") in answer.err
    assert walked == (["data"] if skip else []), "which images it leaves out, only decoding of the test set tells"
    assert not list((tmp_path / "fresh").rglob("config.json"))


def test_score_of_a_set_without_its_corrupt_images(bench: Bench, cache: Path, tmp_path: Path) -> None:
    """An image of the test set that cannot be decoded is asked of nobody."""
    root = make_folder(tmp_path / "folder", images=24, patients=24, masks=False, table=False)
    words = [*[w for w in TINY if w not in ("--data", "synthetic,images=24")], "--data", f"folder={root}", "--suite", "toy-score"]
    words += ["--runs", str(tmp_path / "runs"), "--set", "data.skip_corrupt=true"]
    assert bench("run", "--method", "original", *words, "--cache", str(tmp_path / "one")).code == 0
    images = next((tmp_path / "runs" / "original").rglob("images"))
    first, *_ = sorted(images.iterdir())
    (film,) = (p for p in root.rglob(f"{first.stem}.*") if p.is_file())
    film.write_bytes(film.read_bytes()[:-40])
    first.unlink()
    words[words.index("--runs") + 1] = str(tmp_path / "later")
    answer = bench("score", "--images", images, "--as", "my-gan", *words, "--cache", str(tmp_path / "two"))
    assert answer.code == 0, answer.err
    assert records(tmp_path / "later")["my-gan/folder--toy-score"]["status"] == "ok"


def test_score_with_a_failing_evaluator(bench: Bench, outside: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.registry import SUITES

    monkeypatch.setitem(SUITES.module_dict, "both", lambda: ("toy-broken", "toy-score"))
    answer = bench(*outside[1], "--suite", "both")
    assert answer.code == 1 and "evaluator 'toy-broken' failed on synthetic for 'my-gan'" in answer.err
    found = records(outside[0].parent / "runs")
    assert found["my-gan/synthetic--toy-score"]["status"] == "ok"
    assert found["my-gan/synthetic--toy-broken"]["status"] == "failed"


def test_score_on_an_unknown_test_set(bench: Bench, outside: tuple[Path, list[str]]) -> None:
    answer = bench(*outside[1], "--on", "rsna")
    assert answer.code == 2
    assert "--on rsna: not a test set of this run (synthetic). Give its folder: --data rsna=PATH." in answer.err
    other = bench(*outside[1], "--on", "elsewhere")
    assert other.code == 2 and other.last.endswith("--on elsewhere: not a test set of this run (synthetic).")


def test_score_in_fresh_runs_scores_the_untranslated_images_too(bench: Bench, outside: tuple[Path, list[str]], tmp_path: Path) -> None:
    words = [*outside[1], "--runs", str(tmp_path / "fresh"), "--data", "synthetic-icu,images=4"]
    answer = bench(*words)
    assert answer.code == 0, answer.err
    assert set(records(tmp_path / "fresh")) == {"my-gan/synthetic--toy-score", "original/synthetic--toy-score"}
    assert "original" in answer.out and "| original" in (tmp_path / "fresh" / "leaderboard.md").read_text()


def test_score_writes_what_its_folder_holds(bench: Bench, outside: tuple[Path, list[str]], tmp_path: Path) -> None:
    made, words = outside
    assert bench(*words).code == 0
    run = folder(tmp_path / "runs", "my-gan")
    facts = json.loads((run / "config.json").read_text())
    assert facts["origin"] == "external" and facts["method"] == "my-gan" and facts["test"] == "synthetic"
    assert facts["images"] == str(made) and run.name == f"external-{facts['content'][:8]}" and facts["config"]["data"]["size"] == 32
    listed = bench("list", "runs", "--runs", tmp_path / "runs")
    assert listed.code == 0 and "my-gan" in listed.out and not listed.err
    answer = bench("translate", run, made, "--out", tmp_path / "out")
    assert answer.code == 2 and "holds scores of images made elsewhere; there is nothing to translate with" in answer.err


def test_score_on_credentialed_data_is_its_owners_only(bench: Bench, cache: Path, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "folder", images=24, patients=24, masks=False, table=False)
    words = [*[w for w in TINY if w not in ("--data", "synthetic,images=24")], "--data", f"folder={root},policy=credentialed"]
    words += ["--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache"), "--suite", "toy-score"]
    assert bench("run", "--method", "original", *words).code == 0
    images = next((tmp_path / "runs" / "original").rglob("images"))
    answer = bench("score", "--images", images, "--as", "my-gan", *words)
    assert answer.code == 0, answer.err
    run = folder(tmp_path / "runs", "my-gan")
    assert run.stat().st_mode & 0o777 == 0o700 and json.loads((run / "config.json").read_text())["policy"] == "credentialed"


def test_score_waits_for_who_makes_the_prior(
    bench: Bench, outside: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is training the shared classifier holds its lock: scoring must neither train it beside, nor use half of it."""
    plugin = tmp_path / "needy.py"
    plugin.write_text(
        "from bench.registry import EVALUATORS, import_file, register_evaluator\n"
        f"import_file({str(TOY)!r})\n@register_evaluator('needy')\nclass Needy(EVALUATORS.get('toy-score')):\n"
        "    needs = frozenset({'prior'})\n"
    )
    held = threading.Event()
    seen: list[str] = []
    real: Callable[..., Any] = stages.make_prior

    def make(experiment: Any, key: str) -> None:
        seen.append("made" if held.is_set() else "made while another process holds the lock")
        real(experiment, key)

    def folder_of(experiment: Any, key: str) -> Path:
        return tmp_path / "prior" / key

    monkeypatch.setattr(stages, "make_prior", make)
    monkeypatch.setattr(stages, "prior_folder", folder_of)
    sets = [w for s in ("prior.iterations=2", "prior.batch_size=4", "data.size=64") for w in ("--set", s)]
    words = [*outside[1], "--import", str(plugin), "--suite", "needy", *sets, "--set", "prior.arch=densenet_small"]
    dry = bench("run", "--method", "original", *words[words.index("--as") + 2 :], "--dry-run", "--json")
    (row,) = [row for row in json.loads(dry.out) if row["stage"] == "prior"]
    with lock(tmp_path / "prior" / row["key"] / ".lock", wait=False):
        answers: list[Any] = []
        scoring = threading.Thread(target=lambda: answers.append(bench(*words)))
        scoring.start()
        scoring.join(3)
        assert scoring.is_alive() and not seen
        held.set()
    scoring.join(60)
    assert seen == ["made"] and answers[0].code == 0, answers[0].err
    assert bench(*words).code == 0 and seen == ["made"]


@pytest.mark.parametrize(
    "name", ["../../esc", "a/b", "", ".hidden", "-x", "a b", "cache", "Cache", "pictures", "original", "toy", "a\nb"]
)
def test_score_as_a_name_that_cannot_be(bench: Bench, outside: tuple[Path, list[str]], tmp_path: Path, name: str) -> None:
    words = [w if w != "my-gan" else f"--as={name}" for w in outside[1] if w != "--as"]
    before = set(tmp_path.parent.iterdir())
    answer = bench(*words)
    assert answer.code == 2 and answer.err.startswith("error: --as ") and "name" in answer.err
    assert set(tmp_path.parent.iterdir()) == before and not list(tmp_path.rglob("external-*"))


def test_score_and_translate_set_the_runs_precision(
    bench: Bench, outside: tuple[Path, list[str]], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import external

    told: list[bool] = []
    monkeypatch.setattr(external, "set_precision", lambda settings: told.append(settings.tf32))
    assert bench(*outside[1], "--set", "train.tf32=true").code == 0
    assert bench("translate", run, outside[0], "--out", tmp_path / "out", "--import", TOY).code == 0
    assert told == [True, False]


# -- translate -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(bench: Bench, toy: Toy, tmp_path: Path) -> Path:
    assert bench("run", *toy).code == 0
    return folder(tmp_path / "runs")


def test_translate_a_folder_of_ones_own(bench: Bench, run: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    save_png(films / "grey.png", chest(1, 64)[:, :48])
    save_png(films / "deep" / "sixteen.png", chest(2, 64, top=65535))
    save_png(films / "colour.png", np.repeat(chest(3, 64)[..., None], 3, axis=2))
    write_dicom(films / "film.dcm", chest(4, 80))
    (films / "broken.png").write_text("no image")
    (films / "notes.txt").write_text("left alone")
    answer = bench("translate", run, films, "--out", tmp_path / "out", "--import", TOY, "--device", "cpu")
    assert answer.code == 1
    assert "skipped: " in answer.err and "broken.png" in answer.err
    assert "4 images translated" in answer.out and "1 skipped" in answer.out
    out = tmp_path / "out"
    assert {p.name for p in (out / "images").iterdir()} == {"grey.png", "sixteen.png", "colour.png", "film.png"}
    assert {p.name for p in (out / "masks").iterdir()} == {"grey.png", "sixteen.png", "colour.png", "film.png"}
    told = json.loads((out / "translations.json").read_text())
    assert told["method"] == "toy" and told["size"] == 32 and told["images"]["grey"]["native"] == [64, 48]
    with Image.open(out / "images" / "grey.png") as image:
        assert image.mode == "L" and image.size == (24, 32), "padding is cut off again"
    first = (out / "images" / "film.png").read_bytes()
    alone = bench("translate", run, films / "film.dcm", "--out", tmp_path / "alone", "--import", TOY, "--device", "cpu")
    assert alone.code == 0 and (tmp_path / "alone" / "images" / "film.png").read_bytes() == first


def test_translate_knows_dicom_without_a_suffix(bench: Bench, run: Path, tmp_path: Path) -> None:
    write_dicom(tmp_path / "films" / "IM0001.dcm", chest(1))
    (tmp_path / "films" / "IM0001.dcm").rename(tmp_path / "films" / "IM0001")
    (tmp_path / "films" / "DICOMDIR.txt").write_text("not an image")
    answer = bench("translate", run, tmp_path / "films", "--out", tmp_path / "out", "--device", "cpu", "--import", TOY)
    assert answer.code == 0, answer.err
    assert [p.name for p in (tmp_path / "out" / "images").iterdir()] == ["IM0001.png"]


def test_translate_mistakes(bench: Bench, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    to = ["--out", tmp_path / "out", "--device", "cpu"]
    for words, expected in (
        ([run, tmp_path / "empty", *to, "--import", TOY], "no DICOM, PNG or JPEG file there"),
        ([run, tmp_path / "nowhere", *to, "--import", TOY], "nowhere does not exist"),
        ([tmp_path, tmp_path / "empty", *to], "is not a run: it has no config.json"),
    ):
        answer = bench("translate", *words)
        assert answer.code == 2 and expected in answer.err and len(answer.err.splitlines()) == 1
    forget_imports()
    answer = bench("translate", run, tmp_path / "empty", *to)
    assert answer.code == 2 and "toy" in answer.err and "--import" in answer.err
    (run / "train.json").unlink()
    answer = bench("translate", run, tmp_path / "empty", *to, "--import", TOY)
    assert answer.code == 2 and "its training did not finish. Run the same `bench run` command again" in answer.err


def test_translate_tells_where_the_methods_file_has_changed(bench: Bench, run: Path, tmp_path: Path) -> None:
    save_png(tmp_path / "films" / "a.png", chest(1, 32))
    words = ["translate", run, tmp_path / "films", "--out", tmp_path / "out", "--device", "cpu", "--import"]
    same = bench(*words, TOY)
    assert same.code == 0 and "has changed" not in same.err
    forget_imports()
    changed = tmp_path / "toy.py"
    changed.write_text(TOY.read_text() + "# mended\n")
    answer = bench(*words, changed)
    assert answer.code == 0 and "method 'toy' has changed since" in answer.err


def test_translate_never_reads_what_it_writes(bench: Bench, run: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    save_png(films / "a.png", chest(1, 32))
    save_png(films / "images" / "b.png", chest(2, 32))
    for source, out, why in (
        (films, films, "lies in the folder that is read"),
        (films, films / "deep" / "out", "lies in the folder that is read"),
        (films / "images", films, "would write over the input"),
        (films / "images" / "b.png", films, "would write over the input"),
    ):
        answer = bench("translate", run, source, "--out", out, "--import", TOY)
        assert answer.code == 2 and answer.err == f"error: --out {out}: {why} ({source}). Choose another --out DIR, beside it.\n"
    assert {p.name for p in films.rglob("*")} == {"a.png", "images", "b.png"}
    assert bench("translate", run, films / "a.png", "--out", films, "--import", TOY).code == 0, "one film, beside it"
    assert bench("translate", run, films / "images", "--out", tmp_path / "films-out", "--import", TOY).code == 0


def test_translate_counts_what_it_skips(bench: Bench, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(tmp_path / "films" / "a.png", chest(1, 32))
    (tmp_path / "films" / "b.png").write_text("no image")
    seen: list[int] = []
    monkeypatch.setattr("bench.progress.Progress.advance", lambda self, done, *more: seen.append(done))
    assert bench("translate", run, tmp_path / "films", "--out", tmp_path / "out", "--import", TOY).code == 1
    assert seen == [1, 2]


def test_translate_with_the_untranslated_run_copies(bench: Bench, run: Path, tmp_path: Path) -> None:
    pixels = chest(1, 32)
    save_png(tmp_path / "films" / "a.png", pixels)
    answer = bench("translate", folder(tmp_path / "runs", "original"), tmp_path / "films", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    with Image.open(tmp_path / "out" / "images" / "a.png") as image:
        assert np.abs(np.asarray(image).astype(int) - pixels).max() <= 1


def test_translate_never_writes_two_images_to_one_file(bench: Bench, run: Path, tmp_path: Path) -> None:
    to = ["--out", tmp_path / "out", "--import", TOY, "--device", "cpu"]
    films = tmp_path / "films"
    for name in ("x.png", "x.tif", "deep/x.png"):
        save_png(films / name, chest(1, 32))
    answer = bench("translate", run, films, *to)
    assert answer.code == 0, answer.err
    assert {p.name for p in (tmp_path / "out" / "images").iterdir()} == {"x_png.png", "x_tif.png", "deep_x_png.png"}
    clash = tmp_path / "clash"
    for name in ("a_b/c.png", "a/b_c.png", "other/c.png"):
        save_png(clash / name, chest(1, 32))
    answer = bench("translate", run, clash, "--out", tmp_path / "none", "--import", TOY)
    assert answer.code == 2 and len(answer.err.splitlines()) == 1 and not (tmp_path / "none").exists()
    assert all(str(clash / name) in answer.err for name in ("a_b/c.png", "a/b_c.png"))


def test_translate_to_a_file(bench: Bench, run: Path, tmp_path: Path) -> None:
    save_png(tmp_path / "films" / "a.png", chest(1, 32))
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", "/proc/nope"):
        answer = bench("translate", run, tmp_path / "films", "--out", place, "--import", TOY)
        assert answer.code == 3 and len(answer.err.splitlines()) == 1
        assert f"--out {place}: cannot write there" in answer.err and "Choose another --out DIR" in answer.err
