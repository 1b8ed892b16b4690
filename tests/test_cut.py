"""CUT and FastCUT: sizes, the contrastive loss against its definition, the step against a plain restatement."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_tools import Recorder, count, one_thread, wrappers  # noqa: F401
from torch import Tensor, nn

from bench.contracts import Batch, Draws
from bench.errors import UsageError
from methods.cut import CUT, CUTConfig, distinct, patch_nce
from methods.networks.patch_mlp import PatchEmbedding, pick
from methods.networks.resnet import ResnetGenerator

SMALL: dict[str, Any] = {
    **{"width": 8, "n_blocks": 2, "disc_width": 8, "init": "kaiming", "disc_init": "kaiming"},
    **{"nce_blocks": (1, 2), "patches": 16, "embedding": 12},
}


def build(double: bool = True, channels: int = 1, **changes: Any) -> CUT:
    torch.manual_seed(0)
    method = CUT(CUTConfig(**{**SMALL, **changes}), channels)
    return method.double() if double else method


def make_batch(step: int = 0, double: bool = True, channels: int = 1) -> Batch:
    x = torch.rand(2, 2, channels, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 - 1
    return Batch(*(x.double() if double else x), Draws(0, step, 0, 2, 2))


def flipped(step: int) -> bool:
    return torch.rand((), generator=make_batch(step).draws.generator("flip")).item() < 0.5


def plain_nce(m: CUT, source: Tensor, made: Tensor, places: list[Tensor], flip: bool) -> Tensor:
    """Sources encoded anew, one feature map, one image and one patch after the other."""
    queries, keys = m.gen(made, m.taps, False), m.gen(source, m.taps, False)
    if flip:
        queries = [q.flip(3) for q in queries]
    total = torch.zeros((), dtype=source.dtype)
    for mlp, query, key, at in zip(m.embed.mlps, queries, keys, places, strict=True):
        per_patch = []
        for q, k in zip(query, key, strict=True):
            q_rows, k_rows = (mlp(x.flatten(1).T[at]) for x in (q, k))
            q_rows, k_rows = (x / (x.norm(dim=1, keepdim=True) + 1e-7) for x in (q_rows, k_rows.detach()))
            for i in range(len(at)):
                others = [j for j in range(len(at)) if j != i]
                logits = torch.cat([(q_rows[i] * k_rows[i]).sum()[None], k_rows[others] @ q_rows[i]]) / 0.07
                per_patch.append(torch.logsumexp(logits, 0) - logits[0])
        total = total + torch.stack(per_patch).mean()
    return total / len(places)


def plain_losses(m: CUT, batch: Batch) -> tuple[Tensor, Tensor]:
    """Discriminator and generator loss with the weights as they are, without sharing anything."""
    c, a, b = m.config, batch.opacity, batch.clear
    flip = c.flip and flipped(batch.draws.step)
    fake = m.gen(a.flip(3) if flip else a)
    d = 0.5 * (((m.disc(b) - 1) ** 2).mean() + (m.disc(fake.detach()) ** 2).mean())
    sizes = [f.shape[2] * f.shape[3] for f in m.gen(a, m.taps, False)]
    places = [
        [distinct(n, c.patches, batch.draws.generator(f"patches_{i}_{s}")) for i, n in enumerate(sizes)] for s in (0, 1)
    ]
    nce = plain_nce(m, a, fake, places[0], flip)
    if c.identity:
        nce = (nce + plain_nce(m, b, m.gen(b.flip(3) if flip else b), places[1], flip)) / 2
    return d, ((m.disc(fake) - 1) ** 2).mean() + c.nce_w * nce


@pytest.mark.parametrize(("channels", "gen", "mlps", "disc"), [
    (1, 11_365_633, 559_872, 2_762_689),
    (3, 11_378_179, 560_384, 2_764_737),
])  # fmt: skip
def test_counts(channels: int, gen: int, mlps: int, disc: int) -> None:
    with torch.device("meta"):
        method = CUT(CUTConfig(), channels)
    assert (count(method.gen), count(method.embed), count(method.disc)) == (gen, mlps, disc)
    assert count(method) == gen + mlps + disc
    assert method.taps == (0, 1, 2, 3, 7)


def test_taps_at_256() -> None:
    with torch.device("meta"):
        net = ResnetGenerator(3, blur=True)
        made, seen = net(torch.zeros(1, 3, 256, 256), (0, 1, 2, 3, 7))
    shapes = [(3, 262, 262), (128, 256, 256), (256, 128, 128), (256, 64, 64), (256, 64, 64)]
    assert [tuple(f.shape[1:]) for f in seen] == shapes
    assert made.shape == (1, 3, 256, 256)


def test_taps_are_before_norms_and_after_blocks() -> None:
    net = ResnetGenerator(1, 4, 2, blur=True)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    outputs = dict[int, Tensor]()
    for i in (1, 2):
        convs[i].register_forward_hook(lambda _m, _a, out, i=i: outputs.update({i: out}))
    x = torch.rand(2, 1, 16, 16)
    made, seen = net(x, (0, 1, 2, 3, 4))
    assert torch.equal(seen[0], F.pad(x, (3,) * 4, mode="reflect"))
    assert torch.equal(seen[1], outputs[1]) and torch.equal(seen[2], outputs[2])
    assert torch.equal(made, net(x))
    assert all(torch.equal(one, two) for one, two in zip(net(x, (1, 3), False), (seen[1], seen[3]), strict=True))
    assert torch.equal(net.stages[4](seen[3]), seen[4])
    assert not torch.equal(seen[4], seen[3])


def test_pick_takes_the_pixels_of_each_set() -> None:
    x = torch.arange(4 * 3 * 2 * 5).float().view(4, 3, 2, 5)
    places = torch.tensor([[0, 7], [9, 3]])
    for memory in (torch.contiguous_format, torch.channels_last):
        out = pick(x.to(memory_format=memory), places)
        assert out.shape == (4, 2, 3)
        assert torch.equal(out[1, 1], x[1, :, 1, 2]) and torch.equal(out[2, 0], x[2, :, 1, 4])


def test_embeddings_have_length_one() -> None:
    torch.manual_seed(0)  # eight units of a narrow layer may all be off, and a zero vector has no length to bring to one
    out = PatchEmbedding([3, 5], 8, "kaiming")([torch.randn(2, 4, 3), torch.randn(2, 4, 5)])
    assert [v.shape for v in out] == [(2, 4, 8)] * 2
    torch.testing.assert_close(torch.stack(out).norm(dim=-1), torch.ones(2, 2, 4), atol=1e-5, rtol=0)


def test_an_embedding_of_zeros_learns_and_makes_no_nan() -> None:
    """The root of a sum of squares has an infinite slope there; elsewhere the values are those of the root."""
    torch.manual_seed(0)
    embed = PatchEmbedding([3], 8, "kaiming")
    inputs = torch.randn(2, 4, 3)
    plain = embed.mlps[0](inputs)
    root = plain / (plain.square().sum(dim=-1, keepdim=True).sqrt() + 1e-7)
    torch.testing.assert_close(embed([inputs])[0], root, rtol=1e-6, atol=1e-7)
    inputs[1, 2] = 0  # no bias yet: an embedding of zeros
    (out,) = embed([inputs])
    assert not out[1, 2].any()
    (out * torch.rand(8)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in embed.parameters())


def test_a_narrow_method_stays_finite() -> None:
    """Of eight units some patches have none switched on: two steps with such embeddings."""
    torch.manual_seed(0)
    method = CUT(CUTConfig(width=4, embedding=8, init="kaiming"), 1)
    optim = wrappers(method)
    zeros = []
    method.embed.register_forward_hook(lambda _m, _a, out: zeros.append(sum(int((~v.any(-1)).sum()) for v in out)))
    for step in range(2):
        x = torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(step)) * 2 - 1
        log = method.step(Batch(*x, Draws(0, step, 0, 1, 1)), optim, "train")
        assert all(value.isfinite() for value in log.values())
    assert zeros[0] > 0 and all(p.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize(("total", "number", "expected"), [(4, 9, 4), (40, 9, 9), (90, 9, 9), (100_000, 256, 256)])
def test_places_are_distinct_and_spread(total: int, number: int, expected: int) -> None:
    out = distinct(total, number, torch.Generator().manual_seed(1))
    assert len(out) == len(set(out.tolist())) == expected
    assert out.min() >= 0 and out.max() < total
    if total > 1000:
        assert abs(out.double().mean() / total - 0.5) < 0.1


def test_patch_nce_by_hand() -> None:
    same = torch.eye(3)[None]
    e = math.exp(1 / 0.5)
    assert patch_nce(same, same, 0.5).item() == pytest.approx(math.log((e + 2) / e), rel=1e-6)
    alike = torch.ones(2, 4, 1)
    torch.testing.assert_close(patch_nce(alike, alike), torch.full((2,), math.log(4)))
    keys = torch.stack([torch.eye(3), torch.eye(3).roll(1, 0)])  # the second image's keys are at the wrong places
    right, wrong = patch_nce(torch.eye(3).expand(2, -1, -1), keys).tolist()
    assert right < 1e-5 and wrong == pytest.approx(1 / 0.07, rel=1e-4)


def test_keys_take_no_gradient() -> None:
    q, k = torch.randn(1, 3, 4, requires_grad=True), torch.randn(1, 3, 4, requires_grad=True)
    patch_nce(q, k).sum().backward()
    assert q.grad is not None and k.grad is None


CASES = [({}, 0), ({"fast": True}, 0), ({"fast": True}, 1), ({"fast": True}, 2), ({"flip": True}, 1), ({"flip": True}, 2)]


def test_the_cases_hold_both_kinds_of_steps() -> None:
    assert {flipped(s) for s in (0, 1, 2)} == {True, False}


@pytest.mark.parametrize(("changes", "step"), CASES)
def test_first_gradients_equal_those_without_sharing(changes: dict[str, Any], step: int) -> None:
    """Keys of the first pass equal those encoded anew, stacked calls equal separate ones, mirrored places mirrored maps."""
    method, batch = build(**changes), make_batch(step)
    plain, optim = copy.deepcopy(method), wrappers(method, Recorder)
    log = method.step(batch, optim, "train")
    d, g = plain_losses(plain, batch)
    assert [float(log["d_b"]), float(log["g_total"])] == pytest.approx([d.item(), g.item()], abs=1e-10)
    learners = [*plain.gen.parameters(), *plain.embed.parameters()]
    for loss, name, parameters in ((d, "D", list(plain.disc.parameters())), (g, "G", learners)):
        for got, want in zip(optim[name].grads, torch.autograd.grad(loss, parameters), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_cached_keys_are_those_encoded_anew() -> None:
    """To the bit, where image sets are not stacked otherwise."""
    net, x = build(double=False).gen, torch.rand(2, 1, 32, 32)
    _, seen = net(x, (0, 1, 2, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(seen, net(x, (0, 1, 2, 3, 4), False), strict=True))


@pytest.mark.parametrize("fast", [False, True])
def test_steps_equal_a_plain_training(fast: bool) -> None:
    """Discriminator first, then generator and MLPs against it, three Adams as published."""
    method = build(fast=fast, patches=6)
    plain, optim = copy.deepcopy(method), wrappers(method)
    adams = [torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999)) for m in (plain.gen, plain.embed, plain.disc)]
    for step in range(3):
        batch = make_batch(step)
        log = method.step(batch, optim, "train")
        for index, chosen in ((0, adams[2:]), (1, adams[:2])):
            loss = plain_losses(plain, batch)[index]
            plain.zero_grad()
            loss.backward()
            for adam in chosen:
                adam.step()
            assert float(log[("d_b", "g_total")[index]]) == pytest.approx(loss.item(), abs=1e-7)
    for got, want in zip(method.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("changes", "step", "encoded", "made"), [
    ({}, 0, 4, 4),
    ({"fast": True}, None, 2, 2),
    ({"nce_w": 0.0}, 0, 0, 2),
])  # fmt: skip
def test_no_image_is_encoded_twice(changes: dict[str, Any], step: int | None, encoded: int, made: int) -> None:
    step = next(s for s in range(9) if not flipped(s)) if step is None else step
    method, seen = build(**changes), list[tuple[int, bool]]()
    method.gen.register_forward_hook(lambda _m, args, _o: seen.append((len(args[0]), len(args) < 3)))
    log = method.step(make_batch(step), wrappers(method), "train")
    assert sum(n for n, whole in seen if whole) == made
    assert sum(n for n, whole in seen if not whole) == encoded
    assert ("nce" in log) == bool(encoded) and ("nce_identity" in log) == (encoded == 4)


def test_bf16_gradients_are_those_of_fp32_roughly() -> None:
    """Of the MLPs, too, which autocast could have cached without a gradient."""
    grads = []
    for enabled in (False, True):
        method = build(double=False, channels=3, temperature=1.0)
        optim = wrappers(method, Recorder)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            log = method.step(make_batch(double=False, channels=3), optim, "train")
        assert all(v.dtype is torch.float32 and torch.isfinite(v) for v in log.values())
        split = len(list(method.gen.parameters()))
        parts = [optim["G"].grads[:split], optim["G"].grads[split:], optim["D"].grads]
        grads.append([torch.cat([g.flatten() for g in part]) for part in parts])
    for full, half in zip(*grads, strict=True):
        assert F.cosine_similarity(full, half, dim=0) > 0.95


def test_fast_is_four_switches() -> None:
    config = CUTConfig(fast=True)
    assert (config.nce_w, config.identity, config.flip, config.decay_start) == (10.0, False, True, 0.75)
    assert CUTConfig(nce_w=10.0, identity=False, flip=True, decay_start=0.75, fast=True) == config
    with pytest.raises(UsageError, match="nce_w: fast=true"):
        CUTConfig(fast=True, nce_w=3.0)


def test_schedules() -> None:
    slow, fast = build(double=False), build(double=False, fast=True)
    assert [slow.lr_factor(s, 100) for s in (0, 49, 50, 75, 100)] == [1, 1, 1, 0.5, 0]
    assert [fast.lr_factor(s, 200) for s in (0, 150, 175, 200)] == [1, 1, 0.5, 0]


def test_translation() -> None:
    method, x = build(double=False), make_batch(double=False).opacity
    out = method.translate(x)
    assert torch.equal(out.image, method.gen(x)) and out.mask is None and not out.image.requires_grad
    with pytest.raises(UsageError, match="b2a"):
        method.translate(x, "b2a")
    assert {id(n) for n in method.networks()} == {id(n) for n in (method.gen, method.embed, method.disc)}


@pytest.mark.parametrize("bad", [
    {"patches": 1}, {"nce_blocks": (1, 10)}, {"nce_blocks": (5, 1)}, {"temperature": 0.0}, {"decay_start": 1.0}, {"init": "x"},
    {"nce_w": -1.0}, {"embedding": 0}, {"beta2": 1.0}, {"adv_w": float("nan")},
])  # fmt: skip
def test_bad_keys_are_named(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        CUTConfig(**bad)
