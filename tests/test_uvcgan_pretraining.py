"""UVCGAN's pretraining in chunks: the gradient of the whole batch in the memory of a few images; its rate follows its batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine_tools import CPU, Source
from method_tools import Recorder, one_thread, wrappers  # noqa: F401
from torch import Tensor, nn
from uvcgan_tools import build, make_batch, wake

from bench import engine
from bench.config import TrainConfig, load
from bench.contracts import Batch
from bench.experiment import method_config
from bench.progress import Progress
from methods.uvcgan import UVCGAN, jittered, turned, visible, with_gradient


class Kept:
    """A tensor kept for the backward pass."""

    def __init__(self, values: Tensor) -> None:
        self.values = values


def kept_at_once(model: nn.Module, step: Callable[[], Any]) -> int:
    """The most bytes of activations that a step keeps for its backward pass at any time."""
    own = {p.data_ptr() for p in model.parameters()}
    sizes = [0, 0]

    def pack(values: Tensor) -> Tensor | Kept:
        if values.data_ptr() in own:
            return values
        kept = Kept(values)
        sizes[0] += values.nbytes
        sizes[1] = max(sizes)
        weakref.finalize(kept, drop, values.nbytes)
        return kept

    def drop(size: int) -> None:
        sizes[0] -= size

    def unpack(kept: Tensor | Kept) -> Tensor:
        return kept.values if isinstance(kept, Kept) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        step()
    return sizes[1]


def stacked(method: UVCGAN, batch: Batch) -> Tensor:
    """The loss of a pretraining step, all images of both domains at once."""
    seen, shown = [], []
    for d, images in (("a", batch.opacity), ("b", batch.clear)):
        whole = turned((images + 1) / 2, batch.draws.uniform(f"rotate_{d}", 1), 10)
        whole = jittered(whole, batch.draws.uniform(f"jitter_{d}", 2), 0.2)
        shown.append(whole)
        seen.append(whole * visible(whole, batch.draws, f"mask_{d}", 8, 0.4))
    return 2 * F.l1_loss(method.gen_ab(torch.cat(seen)), torch.cat(shown))


@pytest.mark.parametrize(
    ("chunk", "sizes", "share"), [(5, [5, 5], 0.55), (2, [2, 2, 1, 2, 2, 1], 0.25), (1, [1] * 10, 0.15)]
)
def test_chunks_change_memory_and_nothing_else(chunk: int, sizes: list[int], share: float) -> None:
    """Against ten images, five a domain, through the generator at once."""
    method = build(double=True, pretrain_chunk=chunk)
    wake(method.gen_ab)
    method.begin("pretrain")
    optim, batch = wrappers(method, Recorder), make_batch(double=True, images=5)
    log, passed = dict[str, Tensor](), list[int]()
    hook = method.gen_ab.register_forward_pre_hook(lambda _, images: passed.append(len(images[0])))
    kept = kept_at_once(method, lambda: log.update(method.step(batch, optim, "pretrain")))
    hook.remove()
    assert passed == sizes

    whole = kept_at_once(method, lambda: stacked(method, batch).backward())
    assert optim["G"].loss == float(log["g_total"]) == float(log["restore_a"] + log["restore_b"])
    assert optim["G"].loss == pytest.approx(float(stacked(method, batch).detach()), rel=1e-12)
    for got, parameter in zip(optim["G"].grads, method.gen_ab.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-9, atol=1e-14)
    assert kept < share * whole


def test_chunks_in_bf16() -> None:
    """Autocast keeps the narrow weights of a step: chunks share them, and each gradient passes through them."""
    method = build(pretrain_chunk=1)
    wake(method.gen_ab)
    method.begin("pretrain")
    optim, batch = wrappers(method, Recorder), make_batch(images=3)
    with torch.autocast("cpu", torch.bfloat16):
        method.step(batch, optim, "pretrain")
        whole = stacked(method, batch)
    whole.backward()
    for got, parameter in zip(optim["G"].grads, method.gen_ab.parameters(), strict=True):
        assert parameter.grad is not None and got.dtype is torch.float32
        assert (got - parameter.grad).norm() < 0.02 * parameter.grad.norm() + 1e-6


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_engine_trains_with_it_compiled_too(tmp_path: Path, accumulate: int) -> None:
    """Through the engine's own optimizer wrapper."""
    torch._dynamo.reset()
    settings = TrainConfig(iterations=4, batch_size=2, accumulate=accumulate, checkpoint_interval=4)
    found = []
    for chunk, compiled in ((2, False), (1, False), (1, True)):
        method = build(pretrain_chunk=chunk)
        if compiled:
            method.gen_ab.compile(dynamic=False, backend="aot_eager")
        where = tmp_path / f"{chunk}{compiled}"
        meter = Progress("", quiet=True)
        result = engine.fit(method, Source(size=32), settings, where, "pretrain", 0, f"u{where.name}", CPU, meter, 1)
        found.append((result.losses, [p.detach().clone() for p in method.gen_ab.parameters()]))
    for losses, weights in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-4)
        for got, expected in zip(weights, found[0][1], strict=True):
            assert (got - expected).abs().mean() < 1e-5
    torch._dynamo.reset()


def test_a_loss_with_a_known_gradient_goes_wherever_a_loss_goes() -> None:
    x, y = (torch.rand(n, requires_grad=True) for n in (3, 4))
    slopes = [torch.tensor([1.0, -2.0, 1e6]), torch.rand(4)]
    loss = with_gradient(torch.tensor(0.125), [x, y], slopes)
    assert float(loss.detach()) == 0.125
    (loss / 2).backward(inputs=[x, y])
    assert torch.equal(x.grad, slopes[0] / 2) and torch.equal(y.grad, slopes[1] / 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("preset", "sets", "rate"),
    [
        ("paper", [], 6.25e-4), ("small", [], 1.5625e-4), ("quick", [], 6.25e-4), ("paper", ["pretrain_batch=4"], 3.90625e-5),
        ("paper", ["pretrain_batch=4", "pretrain_lr=1e-3"], 1e-3),
    ],
)  # fmt: skip
def test_the_rate_of_pretraining_follows_its_batch(preset: str, sets: list[str], rate: float) -> None:
    _, config = method_config(load(preset, None, [f"methods.uvcgan.{s}" for s in sets]), "uvcgan")
    with torch.device("meta"):
        method = UVCGAN(config, 1)
        method.begin("pretrain")
        assert method.optimizers()["G"].param_groups[0]["lr"] == pytest.approx(rate, rel=1e-12)
