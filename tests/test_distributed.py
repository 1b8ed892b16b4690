"""Two processes on the CPU (gloo, through torchrun) train as one does: the batch is shared out, not doubled."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import TINY, TOY, Bench, Forks, folder, records, spawn

from bench import doubts
from bench.config import RunOptions, load
from bench.data.sampling import _Share
from bench.errors import UsageError
from bench.experiment import RunSpec, method_config, train_config
from bench.registry import METHODS, import_file

OWN = ("--set", "methods.toy.own_noise=false", "--set", "train.batch_size=4")
TWO = "torch.distributed.run --standalone --nproc-per-node 2 -m bench"


def log(runs: Path, method: str = "toy") -> list[dict[str, float]]:
    path = folder(runs, method) / "train" / "train" / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_equal_one(bench: Bench, toy: tuple[str, ...], tmp_path: Path, cache: Path) -> None:
    assert bench("run", *toy, *OWN).code == 0
    one = tmp_path / "runs"
    words = ["--method", "toy", "--suite", "toy-score", *TINY, *OWN]
    answer = spawn("run", *words, "--runs", tmp_path / "two", "--cache", cache, module=TWO)
    assert answer.code == 0, answer.err

    a, b = log(one), log(tmp_path / "two")
    assert [line["step"] for line in a] == [line["step"] for line in b] == list(range(1, 7))
    for name in ("g", "d", "lr_G"):
        assert [x[name] for x in b] == pytest.approx([x[name] for x in a], rel=1e-5), name
    assert a[0]["g"] != a[5]["g"]
    left, right = (torch.load(folder(r) / "train/train/weights.pth", weights_only=True) for r in (one, tmp_path / "two"))
    for name in ("module.weight", "critic.0.weight", "unused"):
        assert torch.allclose(left[name], right[name], atol=1e-5), name
    assert torch.equal(right["unused"], torch.ones(3)), "what has no gradient anywhere is left alone by weight decay"
    found = [records(r)["toy/synthetic--toy-score"] for r in (one, tmp_path / "two")]
    assert found[1]["scores"]["change"]["value"] == pytest.approx(found[0]["scores"]["change"]["value"], rel=1e-2)
    assert [f["cost"]["processes"] for f in found] == [1, 2]
    assert [f["cost"]["images_seen"] for f in found] == [24, 24]
    assert found[0]["key"] == found[1]["key"], "the number of processes is no part of the question"
    assert answer.out.count("train     toy") == 1, "one process speaks"

    again = bench("run", *words, "--runs", tmp_path / "two", "--cache", cache)
    assert again.code == 0 and "plan      7 stages cached\n" in again.out


def test_a_failure_in_training_ends_both_processes(tmp_path: Path, cache: Path) -> None:
    words = ["--method", "toy", "--suite", "toy-score", *TINY, *OWN, "--set", "methods.toy.nan_at=3"]
    answer = spawn("run", *words, "--runs", tmp_path / "runs", "--cache", cache, module=TWO)
    assert answer.code == 1
    assert "loss 'g' is nan at iteration 3" in answer.err
    assert sorted(p.name for p in (tmp_path / "runs" / "toy").rglob("iter_*.pth")) == ["iter_2.pth"]
    lost = records(tmp_path / "runs")["toy/synthetic--toy-score"]
    assert lost["status"] == "failed" and "loss 'g' is nan at iteration 3" in lost["error"], "no method is missing silently"


def test_ours_with_a_prior_trained_by_the_first_process(bench: Bench, tmp_path: Path) -> None:
    words = ["--method", "ours", "--suite", "toy-score", *TINY]
    own = ("data.size=64", "train.batch_size=4", "train.iterations=3", "prior.iterations=4", "prior.batch_size=4")
    small = [f"methods.ours.{s}" for s in ("width=4", "disc_width=4", "n_res=1", "disc_init=kaiming", "beta2=0.999")]
    words += [w for s in (*own, *small) for w in ("--set", s)]
    runs = [tmp_path / name for name in ("one", "two")]
    done = bench("run", *words, "--runs", runs[0])
    assert done.code == 0, done.err
    answer = spawn("run", *words, "--runs", runs[1], module=TWO)
    assert answer.code == 0, answer.err
    a, b = ([json.loads(x) for x in next((r / "cache/prior").rglob("log.jsonl")).read_text().splitlines()] for r in runs)
    assert len(a) == 4 and b == a, "batch norm saw the whole batch"
    a, b = (log(r, "ours") for r in runs)
    assert [x["step"] for x in a] == [x["step"] for x in b] == [1, 2, 3]
    for name in ("g_total", "d_total", "rec", "lca", "mask_a"):
        assert [x[name] for x in b] == pytest.approx([x[name] for x in a], rel=1e-3), name
    assert answer.out.count("prior     ") == 1


def test_a_failure_while_the_data_are_read_ends_both_processes(tmp_path: Path) -> None:
    words = ["--method", "toy", "--suite", "toy-score", *TINY, *OWN, "--data", f"folder={tmp_path / 'nowhere'}"]
    answer = spawn("run", *words, "--runs", tmp_path / "runs", module=TWO)
    assert answer.code == 1 and "exitcode  : 3" in answer.err
    assert "Connection closed" not in answer.err and "barrier" not in answer.err


def test_an_unexpected_failure_in_training_is_one_line(tmp_path: Path, cache: Path) -> None:
    words = ["--method", "toy", "--suite", "toy-score", *TINY, *OWN, "--set", "methods.toy.error_at=3"]
    answer = spawn("run", *words, "--runs", tmp_path / "runs", "--cache", cache, module=TWO)
    assert answer.code == 1
    assert "error: train toy on synthetic, 6 iterations: iteration 3 of stage 'train': ValueError: the method itself" in answer.err
    assert 'toy.py", line' not in answer.err, "no traceback, except in the file that the line names"


def test_a_batch_that_cannot_be_shared_out_is_found_before_anything(
    bench: Bench, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    answer = bench("run", *toy)
    assert answer.code == 2 and "batch size 2 cannot be divided among 4 processes. --set budgets.toy.batch_size=4" in answer.last
    assert not (tmp_path / "runs" / "toy").exists() and not list((tmp_path / "runs").rglob("*.npy"))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["train.batch_size=4"], ""),
        (
            ["train.batch_size=3", "train.iterations=12"],
            r"^method 'toy': batch size 3 cannot be divided among 4 processes\. --set budgets\.toy\.batch_size=4 "
            r"--set budgets\.toy\.iterations=9 sees as many images, but a recipe with another batch is no longer the published "
            r"one\. Or run a method or seed a GPU, each in one process, without torchrun: --device cuda:N\.$",
        ),
        (["train.batch_size=3", "budgets.toy.batch_size=8"], ""),
        (["train.batch_size=4", "budgets.toy.batch_size=6"], "'toy': batch size 6 .*--set budgets.toy.batch_size=8"),
        (["train.batch_size=4", "budgets.ours.batch_size=6"], ""),
    ],
)
def test_the_batch_of_each_method_asked_for_is_looked_at(sets: list[str], message: str) -> None:
    import_file(TOY)
    _looked_at(sets, message)


def test_the_batch_of_each_stage_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    import_file(TOY)
    cls = METHODS.get("toy")
    asked: list[tuple[str, int, int]] = []

    def budget(config: object, stage: str, updates: int, batch_size: int) -> tuple[int, int]:
        asked.append((stage, updates, batch_size))
        return updates, batch_size // 2 if stage == "second" else batch_size

    monkeypatch.setattr(cls, "stages", ("first", "second"))
    monkeypatch.setattr(cls, "budget", budget)
    words = "method 'toy', stage second: batch size 2 cannot be divided among 4 processes. --set budgets.toy.batch_size=8 --set"
    _looked_at(["train.batch_size=4"], words)
    assert asked[:2] == [("first", 400, 4), ("second", 400, 4)]
    asked.clear()
    _looked_at(["train.batch_size=4", "budgets.toy.batch_size=8", "budgets.toy.iterations=9"], "")
    assert asked == [("first", 9, 8), ("second", 9, 8)]


@pytest.mark.parametrize(("size", "message"), [(2, "1 images a process cannot be halved"), (6, "3 images a process"), (4, "")])
def test_a_share_that_a_method_cannot_take_is_found_before_the_run(size: int, message: str) -> None:
    """DRIT doubles the batch and halves what each process gets; found in its first step, it would end every method's run."""
    among = f"'drit': batch size {2 * size} cannot be divided among 4 processes: .*{message}"
    words = f"{among}.*--set budgets.drit.batch_size={4 if size == 2 else 8} " if message else ""
    _looked_at(["train.batch_size=8", f"budgets.drit.batch_size={size}"], words, "drit")


SHIPPED = ("acl_gan", "cut", "cyclegan", "drit", "munit", "ours", "unit", "uvcgan")


def _stages(preset: str, method: str, sets: list[str]) -> dict[str, tuple[int, int]]:
    config = load(preset, None, sets)
    (cls, own), settings = method_config(config, method), train_config(config, method)
    return cls.schedule(own, settings.iterations, settings.batch_size)


@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize("preset", ["paper", "small"])
def test_what_the_refusal_says_can_be_done_and_keeps_the_images_seen(preset: str, processes: int) -> None:
    for method in SHIPPED:
        sets: list[str] = []
        for _ in range(4):  # a stage a time
            spec = RunSpec((method,), "all", preset, load(preset, None, sets), ("synthetic",), (0,), RunOptions())
            try:
                doubts.check_batch(spec, processes)
                break
            except UsageError as error:
                sets += re.findall(r"--set (\S+)", str(error))
        else:
            pytest.fail(f"{method}: {sets}")
        before, after = (_stages(preset, method, s) for s in ([], sets))
        for stage, (iterations, size) in before.items():
            assert after[stage][0] * after[stage][1] == pytest.approx(iterations * size, rel=2e-3), (method, stage, sets)


def test_the_examples_of_the_documentation_for_several_gpus() -> None:
    _looked_at([], "", "ours", "paper", 2)
    for method in SHIPPED:
        _looked_at([], "", method, "small", 4)
    sets = ["budgets.acl_gan.batch_size=8", "budgets.acl_gan.iterations=65625"]
    _looked_at([], " ".join(f"--set {s}" for s in sets), "acl_gan", "paper", 8)
    _looked_at(sets, "", "acl_gan", "paper", 8)


def test_two_commands_share_one_results_folder(bench: Bench, forks: Forks, tmp_path: Path) -> None:
    """A seed a GPU: both at once, with the same data, cache and row `original`."""
    words = ["--method", "toy", "--suite", "toy-score", *TINY, "--runs", tmp_path / "runs"]
    forks.start("run", *words, "--seeds", "0")
    answers = [bench("run", *words, "--seeds", "1"), forks.finish()]
    assert [answer.code for answer in answers] == [0, 0], [answer.err for answer in answers]
    assert len(list((tmp_path / "runs" / "toy").rglob("weights.pth"))) == 2
    scored = [answer.out.count("score     original") for answer in answers]
    assert sum(scored) == 1, "one of them did it"


def _looked_at(sets: list[str], message: str, method: str = "toy", preset: str = "quick", processes: int = 4) -> None:
    spec = RunSpec(("original", method), "all", preset, load(preset, None, sets), ("synthetic",), (0,), RunOptions())
    with pytest.raises(UsageError, match=message) if message else nullcontext():
        doubts.check_batch(spec, processes)


def test_a_batch_that_cannot_be_shared_out() -> None:
    with pytest.raises(UsageError, match="batch size 3 cannot be divided among 2 processes; use a multiple"):
        _Share(3, 0, 2)
    assert [_Share(4, rank, 2).start for rank in (0, 1)] == [0, 2]
