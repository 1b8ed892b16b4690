"""The pool of earlier images: what comes out, that it resumes exactly, and that processes share one."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from bench.contracts import Draws
from bench.errors import UsageError
from methods import pool as module
from methods.pool import ImagePool


def draws(step: int, start: int = 0, count: int = 2, total: int = 2) -> Draws:
    return Draws(7, step, start, count, total)


def images(step: int, count: int = 2) -> Tensor:
    """Images that tell their number in the order of creation."""
    return (torch.arange(count) + step * count).float().view(count, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()


def numbers(x: Tensor) -> list[int]:
    assert torch.equal(x, x[:, :1, :1, :1].expand_as(x))
    return [int(v) for v in x[:, 0, 0, 0]]


def test_while_filling_the_current_images_come_back() -> None:
    pool = ImagePool(6)
    for step in range(3):
        assert numbers(pool(images(step), draws(step), "p")) == [2 * step, 2 * step + 1]
    assert numbers(pool.get_extra_state()) == list(range(6))


def test_a_full_pool_returns_either_the_image_or_one_that_it_replaces() -> None:
    pool, size, kept = ImagePool(4), 4, 0
    for step in range(2):
        pool(images(step), draws(step), "p")
    held, places = list(range(4)), set()
    for step in range(2, 402):
        current = [2 * step, 2 * step + 1]
        for now, out in zip(current, numbers(pool(images(step), draws(step), "p")), strict=True):
            if out == now:
                kept += 1
            else:
                place = held.index(out)  # fails for an image that the pool no longer holds
                places.add(place)
                held[place] = now
        assert numbers(pool.get_extra_state()) == held
    assert 340 < kept < 460  # 800 fair coins: 400 +- 14
    assert places == set(range(size))


def test_images_are_stored_detached_and_by_value() -> None:
    pool = ImagePool(2)
    x = torch.zeros(2, 1, 4, 4, requires_grad=True)
    out = pool(x, draws(0), "p")
    assert not out.requires_grad
    with torch.no_grad():
        x += 1
    assert pool.get_extra_state().abs().max() == 0


def test_size_zero_is_no_pool() -> None:
    pool, x = ImagePool(0), images(3).requires_grad_()
    out = pool(x, draws(0), "p")
    assert torch.equal(out, x) and not out.requires_grad
    assert len(pool.get_extra_state()) == 0
    ImagePool(0).load_state_dict(pool.state_dict())


@pytest.mark.parametrize("stop", [0, 1, 2, 9])
def test_it_resumes_exactly(stop: int) -> None:
    """Through a file loaded with weights_only, from empty, half full, full and exchanged pools."""
    whole, first, second = ImagePool(4), ImagePool(4), ImagePool(4)
    expected = [numbers(whole(images(s), draws(s), "p")) for s in range(20)]
    got = [numbers(first(images(s), draws(s), "p")) for s in range(stop)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    got += [numbers(second(images(s), draws(s), "p")) for s in range(stop, 20)]
    assert got == expected
    assert torch.equal(second.get_extra_state(), whole.get_extra_state())


def test_pools_of_different_names_draw_different_numbers() -> None:
    one, two = ImagePool(2), ImagePool(2)
    outs = [
        [numbers(p(images(s), draws(s), name)) for s in range(30)] for p, name in ((one, "a"), (two, "b"))
    ]  # fmt: skip
    assert outs[0] != outs[1]


def test_processes_share_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with two images each get what one process with all four gets."""
    alone, ranks = ImagePool(6), [ImagePool(6), ImagePool(6)]
    for step in range(30):
        everyone = images(step, 4)
        expected = alone(everyone, draws(step, 0, 4, 4), "p")
        monkeypatch.setattr(module, "all_gather", lambda x, e=everyone: list(e.chunk(2)))
        got = [p(everyone[2 * r : 2 * r + 2], draws(step, 2 * r, 2, 4), "p") for r, p in enumerate(ranks)]
        assert torch.equal(torch.cat(got), expected)
        assert torch.equal(ranks[0].get_extra_state(), ranks[1].get_extra_state())


def test_bad_use_is_told() -> None:
    with pytest.raises(UsageError, match="pool_size"):
        ImagePool(-1)
    pool = ImagePool(4)
    pool(images(0), draws(0), "p")
    with pytest.raises(UsageError, match="1 x 4 x 4"):
        pool(torch.zeros(2, 1, 8, 8), draws(1), "p")
    with pytest.raises(UsageError, match="pool_size"):
        ImagePool(1).load_state_dict(pool.state_dict())
