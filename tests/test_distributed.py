"""Two processes on the CPU (gloo, through torchrun) train as one does: the batch is shared out, not doubled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY, Bench, folder, records, spawn

from bench.data.sampling import _Share
from bench.errors import UsageError

OWN = ("--set", "methods.toy.own_noise=false", "--set", "train.batch_size=4")
TWO = "torch.distributed.run --standalone --nproc-per-node 2 -m bench"


def log(runs: Path) -> list[dict[str, float]]:
    path = folder(runs) / "train" / "train" / "log.jsonl"
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


def test_a_batch_that_cannot_be_shared_out() -> None:
    with pytest.raises(UsageError, match="batch size 3 cannot be divided among 2 processes; use a multiple"):
        _Share(3, 0, 2)
    assert [_Share(4, rank, 2).start for rank in (0, 1)] == [0, 2]
