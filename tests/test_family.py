"""What UNIT, MUNIT, DRIT++ and the paper's method promise alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import drit_tools
import ours_tools
import pytest
import torch
from autoencoding_tools import SameDraws, make_batch, munit, unit
from method_tools import DoubleDraws, Recorder, check_two_runs_of_two_steps, one_thread, wrappers  # noqa: F401  (a fixture)
from torch import Tensor, nn

from bench.errors import UsageError

Build = Callable[..., Any]
PAIR = (unit, munit)


@pytest.mark.parametrize("build", PAIR)
def test_a_forward_of_their_own_gives_discriminators_the_same_gradients_for_the_same_noise(build: Build) -> None:
    found = []
    for share in (True, False):
        method = build(share_forward=share).double()
        optim = wrappers(method, Recorder)
        method.step(make_batch(draws=SameDraws), optim, "train")
        found.append([g for name in "DG" for g in optim[name].grads])
    for shared, own in zip(*found, strict=True):
        torch.testing.assert_close(shared, own, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("build", PAIR)
@pytest.mark.parametrize("channels", [1, 3])
def test_steps_change_every_network_and_repeat(build: Build, channels: int) -> None:
    check_two_runs_of_two_steps(lambda: build(channels), lambda step: make_batch(channels, step))


@pytest.mark.parametrize("build", PAIR)
def test_gradients_are_exact_under_data_parallelism(build: Build) -> None:
    def gradients(start: int, count: int) -> list[Tensor]:
        method = build().double()
        optim = wrappers(method, Recorder)
        method.step(make_batch(draws=DoubleDraws, start=start, count=count), optim, "train")
        return [g for name in "DG" for g in optim[name].grads]

    for full, first, second in zip(gradients(0, 2), gradients(0, 1), gradients(1, 1), strict=True):
        torch.testing.assert_close((first + second) / 2, full, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("build", "networks"), [(unit, 6), (munit, 10)])
def test_networks_are_the_parts_that_a_step_calls(build: Build, networks: int) -> None:
    method = build()
    called = set[nn.Module]()
    for network in method.networks():
        network.register_forward_hook(lambda module, *_: called.add(module))
    method.step(make_batch(), wrappers(method), "train")
    assert len(method.networks()) == networks and called == set(method.networks())
    assert {id(p) for n in method.networks() for p in n.parameters()} == {id(p) for p in method.parameters()}


@pytest.mark.parametrize("build", [munit, ours_tools.build, drit_tools.build], ids=["munit", "ours", "drit"])
def test_styles(build: Build) -> None:
    images = (torch.rand(1, 1, 32, 32) * 2 - 1).expand(2, -1, -1, -1)
    fixed, random = build(), build(style="random")
    assert torch.equal(fixed.translate(images, seeds=[1, 2]).image, fixed.translate(images).image)
    assert not torch.equal(build(style_seed=1).translate(images).image, fixed.translate(images).image)
    one, two = random.translate(images, seeds=[1, 2]).image
    assert not torch.allclose(one, two)
    torch.testing.assert_close(random.translate(images).image, fixed.translate(images).image)
    with pytest.raises(UsageError, match="direction"):
        fixed.translate(images, "b2b")
