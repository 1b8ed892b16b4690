"""MUNIT: its step against the losses written out image by image, its styles, and what it promises the harness.

What it shares with UNIT (optimizers, schedule, the order of updates) is tested there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from autoencoding_tools import lsgan, make_batch
from autoencoding_tools import munit as build
from method_tools import DoubleDraws, Recorder, count, one_thread, wrappers  # noqa: F401  (a fixture)
from torch import Tensor

from bench.config import load, section_config, train_config
from bench.contracts import Batch
from bench.errors import UsageError
from bench.registry import METHODS
from methods.munit import Munit, MunitConfig
from methods.styles import style_codes


def first_log(**changes: Any) -> dict[str, float]:
    method = build(**changes)
    return {name: float(v) for name, v in method.step(make_batch(), wrappers(method), "train").items()}


def written_out(method: Munit, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Terms of both sides, every image through every network on its own, and the generators' weighted sum."""
    a, b, gen_a, gen_b = batch.opacity, batch.clear, method.gen["a"], method.gen["b"]
    s_a, s_b = (batch.draws.normal(f"style_{d}", 8) for d in "ab")
    c_a, c_b = gen_a.content(a), gen_b.content(b)
    own_a, own_b = gen_a.style(a), gen_b.style(b)
    fake_a, fake_b = gen_a.decode(c_b, s_a), gen_b.decode(c_a, s_b)
    back_b, back_a = gen_a.content(fake_a), gen_b.content(fake_b)
    disc_a, disc_b = method.disc["a"], method.disc["b"]
    terms = {
        "d_a": lsgan(disc_a, a, 1) + lsgan(disc_a, fake_a.detach(), 0),
        "d_b": lsgan(disc_b, b, 1) + lsgan(disc_b, fake_b.detach(), 0),
        "g_adv_a": lsgan(disc_a, fake_a, 1),
        "g_adv_b": lsgan(disc_b, fake_b, 1),
        "rec_a": (gen_a.decode(c_a, own_a) - a).abs().mean(),
        "rec_b": (gen_b.decode(c_b, own_b) - b).abs().mean(),
        "style_a": (gen_a.style(fake_a) - s_a).abs().mean(),
        "style_b": (gen_b.style(fake_b) - s_b).abs().mean(),
        "content_a": (back_a - c_a).abs().mean(),
        "content_b": (back_b - c_b).abs().mean(),
        "cyc_a": (gen_a.decode(back_a, own_a) - a).abs().mean(),
        "cyc_b": (gen_b.decode(back_b, own_b) - b).abs().mean(),
    }
    weights = {"g_adv": 1, "rec": 10, "style": 1, "content": 1, "cyc": method.config.cyc_w}
    return terms, torch.stack([w * (terms[f"{k}_a"] + terms[f"{k}_b"]) for k, w in weights.items()]).sum()


@pytest.mark.parametrize("cyc_w", [10.0, 0.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_step_gives_the_terms_and_gradients_of_the_written_out_losses(channels: int, cyc_w: float) -> None:
    method, batch = build(channels, cyc_w=cyc_w).double(), make_batch(channels, draws=DoubleDraws)
    optim = wrappers(method, Recorder)
    log = method.step(batch, optim, "train")
    terms, g_total = written_out(method, batch)
    expected = {name: term for name, term in terms.items() if cyc_w or not name.startswith("cyc")}
    assert log.keys() == expected.keys() | {"d_total", "g_total"}
    for name, term in expected.items():
        torch.testing.assert_close(log[name], term.detach(), msg=name)
    for name, loss in {"D": terms["d_a"] + terms["d_b"], "G": g_total}.items():
        torch.testing.assert_close(optim[name].loss, loss.detach())
        parameters = optim[name].optimizer.param_groups[0]["params"]
        for got, right in zip(optim[name].grads, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True):
            torch.testing.assert_close(got, right, rtol=1e-7, atol=1e-12)


def test_the_content_to_be_given_back_is_not_detached() -> None:
    weights: dict[str, Any] = {"adv_w": 0.0, "rec_w": 0.0, "cyc_w": 0.0, "style_rec_w": 0.0}
    method, batch = build(**weights).double(), make_batch(draws=DoubleDraws)
    optim = wrappers(method, Recorder)
    method.step(batch, optim, "train")
    code = method.gen["a"].content(batch.opacity)
    held = method.gen["b"].content(method.gen["b"].decode(code, batch.draws.normal("style_b", 8)))
    parameters = optim["G"].optimizer.param_groups[0]["params"]
    first = next(i for i, p in enumerate(parameters) if p is method.gen["a"].content.down[0].weight)
    detached = torch.autograd.grad((held - code.detach()).abs().mean(), parameters[first])[0]
    assert not torch.allclose(optim["G"].grads[first], detached, rtol=1e-2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # a call draws an image set again and translates the other; the cycle is another call
        ({}, {"content": 4, "style": 4, "decoder": 4, "mlp": 4}),
        ({"cyc_w": 0.0}, {"content": 4, "style": 4, "decoder": 2, "mlp": 2}),
        ({"cyc_w": 0.0, "rec_w": 0.0}, {"content": 4, "style": 2, "decoder": 2, "mlp": 2}),
        # discriminators need no styles of images
        ({"share_forward": False}, {"content": 6, "style": 4, "decoder": 6, "mlp": 6}),
    ],
)
def test_no_pass_is_made_twice(changes: dict[str, Any], expected: dict[str, int]) -> None:
    method, calls = build(**changes), dict.fromkeys(expected, 0)
    for part in calls:
        for d in "ab":

            def counted(*_: Any, part: str = part) -> None:
                calls[part] += 1

            getattr(method.gen[d], part).register_forward_hook(counted)
    draws = make_batch(draws=DoubleDraws)
    method.double().step(draws, wrappers(method), "train")
    assert calls == expected
    assert isinstance(draws.draws, DoubleDraws)
    own = ["disc_style_a", "disc_style_b"] if "share_forward" in changes else []
    assert draws.draws.asked == [*own, "style_a", "style_b"]


@pytest.mark.parametrize("share", [True, False])
def test_bf16_step_is_finite_and_near_the_float32_one(share: bool) -> None:
    plain, method = first_log(share_forward=share), build(share_forward=share)
    optim = wrappers(method, Recorder)
    with torch.autocast("cpu", torch.bfloat16):
        log = method.step(make_batch(), optim, "train")
    assert all(v.isfinite() and v.dtype is torch.float32 for v in log.values())
    assert all(g is not None for name in "DG" for g in optim[name].grads)
    for name in ("rec_a", "style_b", "content_a", "cyc_b", "d_a"):
        assert float(log[name]) == pytest.approx(plain[name], rel=0.05), name


def test_it_learns_to_draw_images_again() -> None:
    method = build(lr=2e-3)
    optim = wrappers(method)
    logs = [method.step(make_batch(), optim, "train") for _ in range(30)]
    for name in ("rec_a", "rec_b", "cyc_a", "cyc_b", "style_a", "style_b"):
        assert float(logs[-1][name]) < 0.9 * float(logs[0][name]), name


@pytest.mark.parametrize("weight", ["adv_w", "rec_w", "cyc_w", "style_rec_w", "content_rec_w"])
def test_weights_reach_the_losses(weight: str) -> None:
    base = build(lr=1e-9), build(lr=1e-9, **{weight: 3 * getattr(MunitConfig, weight)})
    one, three = (m.step(make_batch(), wrappers(m, Recorder), "train") for m in base)
    term = "g_adv" if weight == "adv_w" else weight.removesuffix("_w").removesuffix("_rec")
    expected = 2 * getattr(MunitConfig, weight) * (one[f"{term}_a"] + one[f"{term}_b"])
    torch.testing.assert_close(three["g_total"] - one["g_total"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("direction", "origin", "target"), [("a2b", "a", "b"), ("b2a", "b", "a")])
def test_translation_keeps_the_content_and_takes_the_style_of_its_seed(direction: str, origin: str, target: str) -> None:
    method = build(style="random")
    images, seeds = torch.rand(4, 1, 32, 32) * 2 - 1, [3, 1, 4, 1]
    result = method.translate(images, direction, seeds)
    assert result.mask is None and not result.image.requires_grad and result.image.abs().max() <= 1
    with torch.no_grad():
        code = method.gen[origin].content(images)
        torch.testing.assert_close(result.image, method.gen[target].decode(code, style_codes(seeds, 8)))
    order = [2, 0, 3, 1]
    shuffled = method.translate(images[order], direction, [seeds[i] for i in order])
    torch.testing.assert_close(shuffled.image, result.image[order], rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="direction"):
        method.translate(images, "b2b")


def test_style_codes_are_normal_and_those_of_their_seeds() -> None:
    codes = style_codes(range(2000), 8)
    assert codes.shape == (2000, 8) and abs(float(codes.mean())) < 0.05 and abs(float(codes.std()) - 1) < 0.05
    assert torch.equal(style_codes([5, 7, 5], 8), codes[[5, 7, 5]])


@pytest.mark.parametrize(
    ("channels", "parts", "generator", "total"),
    [
        (1, (2_758_664, 5_379_584, 5_748_353, 1_120_768), 15_007_369, 46_544_792),
        (3, (2_764_936, 5_385_856, 5_754_627, 1_120_768), 15_026_187, 46_594_716),
    ],
)
def test_counts_of_the_published_networks(channels: int, parts: tuple[int, ...], generator: int, total: int) -> None:
    with torch.device("meta"):
        method = Munit(MunitConfig(), channels)
    for gen in method.gen.values():
        assert (count(gen.style), count(gen.content), count(gen.decoder), count(gen.mlp)) == parts
        assert count(gen) == generator
    assert count(method) == total


def test_defaults_and_presets() -> None:
    assert METHODS.get("munit") is Munit and Munit.directions == ("a2b", "b2a")
    c = MunitConfig()
    assert (c.adv_w, c.rec_w, c.style_rec_w, c.content_rec_w, c.cyc_w) == (1, 10, 1, 1, 10)
    paper, quick = load("paper"), load("quick")
    assert section_config(MunitConfig, paper.methods, "methods", "munit") == MunitConfig(lr_decay_every=0.1)
    assert (train_config(paper, "munit").iterations, train_config(paper, "munit").batch_size) == (1_000_000, 1)
    assert section_config(MunitConfig, quick.methods, "methods", "munit").width == 16


@pytest.mark.parametrize(
    ("key", "value"),
    [("style", "mean"), ("style_dim", 0), ("mlp_dim", 0), ("style_rec_w", -1.0), ("content_rec_w", -1.0), ("width", 0), ("n_res", 0)],
)
def test_values_that_mean_nothing_name_their_key(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=key):
        MunitConfig(**{key: value})
