"""The random numbers of a step: shares of processes, resume, and independence of names, steps and samples."""

from __future__ import annotations

import pytest
import torch

from bench.contracts import Draws

KINDS = ["normal", "uniform", "normal_map"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shares", [[6], [3, 3], [2, 2, 2], [1, 5]])
def test_shares_of_processes_make_up_the_whole(kind: str, shares: list[int]) -> None:
    whole = getattr(Draws(7, 3, 0, 6, 6), kind)("noise", 4, 5, 6)
    parts, start = [], 0
    for count in shares:
        parts.append(getattr(Draws(7, 3, start, count, 6), kind)("noise", 4, 5, 6))
        start += count
    assert whole.shape == (6, 4, 5, 6) and torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_depend_on_seed_step_and_name_alone(kind: str) -> None:
    first = getattr(Draws(7, 3, 0, 2, 2), kind)("noise", 40)
    torch.manual_seed(1)
    torch.rand(3)
    after = Draws(7, 3, 0, 2, 2)  # as after a resume, and after others were drawn
    getattr(after, kind)("other", 9)
    state = torch.get_rng_state()
    assert torch.equal(getattr(after, kind)("noise", 40), first)
    assert torch.equal(torch.get_rng_state(), state), "the global stream is left alone"
    for draws, name in ((Draws(8, 3, 0, 2, 2), "noise"), (Draws(7, 4, 0, 2, 2), "noise"), (Draws(7, 3, 0, 2, 2), "noises")):
        assert not torch.equal(getattr(draws, kind)(name, 40), first)
    assert not torch.equal(first[0], first[1])


def test_maps_are_standard_normal_and_samples_unrelated() -> None:
    one, two = Draws(0, 0, 0, 2, 2).normal_map("noise", 8, 64, 64).flatten(1)
    for values in (one, two):
        assert abs(float(values.mean())) < 0.02 and abs(float(values.std()) - 1) < 0.02
    assert abs(float((one * two).mean())) < 0.02


def test_a_process_draws_the_maps_of_its_own_samples_only(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, normal_ = list[int](), torch.Tensor.normal_
    monkeypatch.setattr(torch.Tensor, "normal_", lambda x, **options: drawn.append(x.numel()) or normal_(x, **options))
    Draws(0, 0, 4, 2, 64).normal_map("noise", 3, 5)
    assert drawn == [15, 15]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_maps_on_a_gpu_repeat_and_do_not_depend_on_the_number_of_processes() -> None:
    whole = Draws(7, 3, 0, 4, 4, "cuda").normal_map("noise", 8, 32, 32)
    assert whole.device.type == "cuda" and torch.equal(Draws(7, 3, 0, 4, 4, "cuda").normal_map("noise", 8, 32, 32), whole)
    parts = [Draws(7, 3, start, 2, 4, "cuda").normal_map("noise", 8, 32, 32) for start in (0, 2)]
    assert torch.equal(torch.cat(parts), whole)
    assert abs(float(whole.mean())) < 0.03 and abs(float(whole.std()) - 1) < 0.03
