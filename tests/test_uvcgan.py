"""UVCGAN: its generator, both stages of training against plain restatements, its budget, and what it promises the harness."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, Bench
from engine_tools import CPU, InterruptedTrainingError, Source, same
from method_tools import Recorder, count, one_thread, wrappers  # noqa: F401
from torch import Tensor, nn
from uvcgan_tools import build, make_batch, wake

from bench import engine
from bench.config import TrainConfig
from bench.contracts import Draws
from bench.errors import UsageError
from bench.progress import Progress
from methods.networks.patchgan import PatchGAN
from methods.networks.uvcgan import Attention, PixelViT, ViTUNet
from methods.uvcgan import UVCGAN, UVCGANConfig, gradient_penalty, jittered, turned, visible

NET: dict[str, Any] = {"width": 8, "levels": 2, "vit_dim": 16, "vit_heads": 2, "vit_blocks": 2, "init": "kaiming"}


# -- generator -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "generator", "disc"), [(1, 31_359_277, 2_762_689), (3, 31_360_239, 2_764_737)])
def test_parameter_counts(channels: int, generator: int, disc: int) -> None:
    with torch.device("meta"):
        net = ViTUNet(channels)
        six = ViTUNet(channels, vit_blocks=6)
        method = UVCGAN(UVCGANConfig(), channels)
    assert (count(net), count(net.vit)) == (generator, 21_737_868)
    assert channels == 1 or count(six) == 20_713_449
    assert count(method) == 2 * generator + 2 * disc


def test_output_is_between_0_and_1_at_any_multiple_of_the_levels() -> None:
    net = ViTUNet(3, **NET)
    for height, width in ((32, 32), (16, 24)):  # the same weights at every size
        out = net(torch.rand(2, 3, height, width))
        assert out.shape == (2, 3, height, width) and out.min() >= 0 and out.max() <= 1
    with pytest.raises(UsageError, match=r"multiple of 4.*levels"):
        net(torch.rand(1, 3, 32, 30))


def test_generator_written_out() -> None:
    torch.manual_seed(1)
    net = ViTUNet(1, **NET).double()
    wake(net)
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)

    def conv(layer: Any, h: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(h, layer.weight, layer.bias, stride, padding)

    def pair(block: Any, h: Tensor) -> Tensor:
        h = F.leaky_relu(conv(block.conv1, F.instance_norm(h)), 0.01)
        return F.leaky_relu(conv(block.conv2, F.instance_norm(h)), 0.01)

    h = F.leaky_relu(conv(net.enter, x), 0.01)
    skip0 = pair(net.encode[0], h)
    skip1 = pair(net.encode[1], conv(net.shrink[0], skip0, 2, 0))
    low = net.vit(conv(net.shrink[1], skip1, 2, 0))
    assert low.shape == (2, 16, 4, 4)
    h = pair(net.decode[1], torch.cat([conv(net.grow[1], low.repeat_interleave(2, 2).repeat_interleave(2, 3)), skip1], 1))
    h = pair(net.decode[0], torch.cat([conv(net.grow[0], h.repeat_interleave(2, 2).repeat_interleave(2, 3)), skip0], 1))
    torch.testing.assert_close(net(x), conv(net.leave, h, padding=0).sigmoid())


def test_transformer_written_out() -> None:
    torch.manual_seed(1)
    vit = PixelViT(6, dim=8, heads=2, blocks=1).double()
    wake(vit)
    block = vit.blocks[0]
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(block.attention.qkv.weight)
        theirs.in_proj_bias.copy_(block.attention.qkv.bias.uniform_())
        theirs.out_proj.load_state_dict(block.attention.out.state_dict())
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64)
    at = torch.tensor([[x, y] for y in (-1.0, 1.0) for x in (-1.0, 0.0, 1.0)], dtype=torch.float64)
    tokens = torch.cat([torch.sin(vit.position(at)).expand(2, -1, -1), x.flatten(2).transpose(1, 2)], dim=2)
    tokens = vit.enter(tokens)
    normed = block.norm1(tokens)
    tokens = tokens + 0.5 * theirs(normed, normed, normed)[0]
    tokens = tokens + 0.5 * block.mlp(block.norm2(tokens))
    expected = vit.leave(tokens).transpose(1, 2).reshape(2, 6, 2, 3)
    torch.testing.assert_close(vit(x), expected)


def test_blocks_of_the_transformer_count_for_nothing_at_first() -> None:
    net = ViTUNet(1, **NET)
    x = torch.rand(1, 1, 16, 16)
    before = net(x)
    inside = [m for b in net.vit.blocks for m in b.modules() if isinstance(m, nn.Linear | nn.LayerNorm)]
    with torch.no_grad():
        for layer in inside:
            layer.weight.add_(torch.randn_like(layer.weight))
    assert torch.equal(net(x), before)
    net(x).mean().backward()  # but they will: the weight they are added with learns
    assert all(block.weight.grad.abs() > 0 for block in net.vit.blocks)
    wake(net)
    assert not torch.allclose(net(x), before)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = ViTUNet(1, width=32, levels=2, vit_dim=96, vit_heads=2, vit_blocks=1)
    for layer in (net.encode[1].conv1, net.vit.enter, net.vit.position, net.vit.blocks[0].attention.out):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.15)
    qkv = next(m for m in net.modules() if isinstance(m, Attention)).qkv.weight.detach()
    assert float(qkv.abs().max()) == pytest.approx((6 / (4 * 96)) ** 0.5, rel=0.01)  # xavier uniform over all three at once
    assert all(not p.any() for n, p in net.named_parameters() if n.endswith("bias"))
    with pytest.raises(UsageError, match="vit_heads"):
        PixelViT(8, dim=10, heads=4)


def test_bf16_and_channels_last() -> None:
    net = ViTUNet(1, **NET)
    wake(net)
    x = torch.rand(2, 1, 32, 32)
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        codes = net.vit.positions(64, 64)
        traced = torch.compile(net, fullgraph=True, backend="eager")(x)
    assert narrow.dtype is torch.float32 and (narrow - expected).abs().mean() < 0.02
    assert codes.dtype is torch.float32 and codes[0].unique(dim=0).shape[0] == 64 * 64, "no two pixels share a code"
    torch.testing.assert_close(traced, narrow, rtol=1e-2, atol=2e-2)


# -- gradient penalty ------------------------------------------------------------------------------------------------------


def test_penalty_in_closed_form() -> None:
    """An output that is linear has the same slope w everywhere: (|w| - c)^2, whose gradient is 2 (|w| - c) w / |w|."""
    disc = nn.Conv2d(1, 1, 4, bias=False)
    images = torch.rand(2, 3, 1, 4, 4)
    value = gradient_penalty(disc, *images, torch.rand(3, 1, 1, 1), 5.0)
    w = disc.weight.detach()
    assert float(value.detach()) == pytest.approx((float(w.norm()) - 5) ** 2, rel=1e-5)
    value.backward()
    torch.testing.assert_close(disc.weight.grad, 2 * (w.norm() - 5) * w / w.norm())


def test_penalty_of_a_patch_discriminator() -> None:
    torch.manual_seed(3)
    disc = PatchGAN(1, 4, layers=1, init="kaiming").double()
    real, fake = torch.rand(2, 2, 1, 16, 16, dtype=torch.float64)
    share = torch.tensor([0.25, 0.9]).double().view(2, 1, 1, 1)
    value = gradient_penalty(disc, real, fake, share, 3.0)

    # |gradient of the sum of all patches| of each mixture by itself, by finite differences along every pixel
    mixed, step = share * real + (1 - share) * fake, 1e-5
    lengths = []
    with torch.no_grad():
        for x in mixed:
            nudges = step * torch.eye(256, dtype=torch.float64).view(256, 1, 16, 16)
            slope = (disc(x + nudges) - disc(x - nudges)).sum(dim=(1, 2, 3)) / (2 * step)
            lengths.append(float(slope.norm()))
    assert float(value.detach()) == pytest.approx(sum((n - 3) ** 2 for n in lengths) / 2, rel=1e-4)

    value.backward()
    weight = disc.body[2].weight
    assert weight.grad is not None and weight.grad.abs().max() > 0
    place, ends = (1, 2, 0, 3), []
    for sign in (1, -1):
        moved = copy.deepcopy(disc)
        with torch.no_grad():
            moved.body[2].weight[place] += sign * step
        ends.append(float(gradient_penalty(moved, real, fake, share, 3.0).detach()))
    assert float(weight.grad[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


def test_penalty_is_float32_and_stays_out_of_compiled_code() -> None:
    disc = PatchGAN(1, 4, layers=1, init="kaiming")
    arguments = (*torch.rand(2, 2, 1, 16, 16), torch.rand(2, 1, 1, 1), 3.0)
    expected = gradient_penalty(disc, *arguments)
    disc.compile(backend="aot_eager")  # refuses to be differentiated twice, as inductor does
    with torch.autocast("cpu", torch.bfloat16):
        value = gradient_penalty(disc, *arguments)
    assert value.dtype is torch.float32 and torch.equal(value, expected)
    value.backward()
    assert disc.body[2].weight.grad.abs().max() > 0  # type: ignore[union-attr, operator]


# -- pretraining -----------------------------------------------------------------------------------------------------------


def test_masks() -> None:
    draws = Draws(0, 0, 0, 64, 64)
    mask = visible(torch.rand(64, 3, 32, 32), draws, "mask", 8, 0.4)
    assert mask.shape == (64, 1, 32, 32) and set(mask.unique().tolist()) == {0.0, 1.0}
    squares = mask.view(64, 4, 8, 4, 8).transpose(2, 3).flatten(3)
    assert (squares.amin(3) == squares.amax(3)).all(), "a square is seen or not"
    assert float(mask.mean()) == pytest.approx(0.6, abs=0.04)
    assert len({tuple(m.flatten().tolist()) for m in mask}) == 64
    assert visible(torch.rand(64, 1, 20, 30), draws, "mask", 8, 0.4).shape == (64, 1, 20, 30)
    assert visible(torch.rand(64, 1, 32, 32), draws, "mask", 8, 0.0).all()


def test_augmentation() -> None:
    x = torch.rand(2, 1, 6, 6)
    upright, quarter = torch.tensor([[0.5], [0.5]]), torch.tensor([[1.0], [0.0]])
    torch.testing.assert_close(turned(x, upright, 10), x)
    expected = torch.stack([torch.rot90(x[0], 1, (1, 2)), torch.rot90(x[1], -1, (1, 2))])
    torch.testing.assert_close(turned(x, quarter, 90), expected, rtol=1e-4, atol=1e-5)
    assert turned(x, quarter, 0) is x
    assert turned(torch.full_like(x, 0.7), torch.rand(2, 1), 10).min() > 0.69, "nothing black comes in from outside"

    luck = torch.tensor([[1.0, 0.5], [0.25, 0.0]])  # factors 1.2 and 1, 0.9 and 0.8
    bright = (x[1] * 0.9).clamp(0, 1)
    expected = torch.stack([(x[0] * 1.2).clamp(0, 1), 0.8 * bright + 0.2 * bright.mean()])
    torch.testing.assert_close(jittered(x, luck, 0.2), expected)
    torch.testing.assert_close(jittered(x, torch.rand(2, 2), 0.0), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_pretraining_loss_written_out(channels: int) -> None:
    method = build(channels, double=True)
    method.begin("pretrain")
    batch = make_batch(channels=channels, double=True)
    optim = wrappers(method, Recorder)
    log = method.step(batch, optim, "pretrain")
    assert set(optim) == {"G"} and log.keys() == {"restore_a", "restore_b", "g_total"}
    total = 0.0
    for domain, images in (("a", batch.opacity), ("b", batch.clear)):
        whole = turned((images + 1) / 2, batch.draws.uniform(f"rotate_{domain}", 1), 10)
        whole = jittered(whole, batch.draws.uniform(f"jitter_{domain}", 2), 0.2)
        kept = (batch.draws.uniform(f"mask_{domain}", 1, 4, 4) >= 0.4).repeat_interleave(8, 2).repeat_interleave(8, 3)
        assert 0 < kept.float().mean() < 1
        term = (method.gen_ab(torch.where(kept, whole, 0.0)) - whole).abs().mean()
        assert float(log[f"restore_{domain}"]) == pytest.approx(float(term.detach()), rel=1e-6)
        total = total + term
    total.backward()  # type: ignore[attr-defined]
    for got, parameter in zip(optim["G"].grads, method.gen_ab.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-5, atol=1e-9)


def test_one_generator_learns_first_and_hands_over() -> None:
    method = build(pretrain_lr=2e-3)
    before = copy.deepcopy(method.state_dict())
    method.begin("pretrain")
    optim = wrappers(method)
    group = optim["G"].optimizer.param_groups[0]
    assert isinstance(optim["G"].optimizer, torch.optim.AdamW)
    assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-3, (0.9, 0.99), 0.05)
    errors = [float(method.step(make_batch(), optim, "pretrain")["g_total"]) for _ in range(40)]
    assert errors[-1] < 0.9 * errors[0]
    moved = {n.partition(".")[0] for n, v in method.state_dict().items() if isinstance(v, Tensor) and not torch.equal(v, before[n])}
    assert moved == {"gen_ab"}

    learnt = copy.deepcopy(method.gen_ab.state_dict())
    method.begin("train")
    assert same(dict(method.gen_ab.state_dict()), dict(learnt)) and same(dict(method.gen_ba.state_dict()), dict(learnt))
    assert all(torch.equal(v, before[f"disc.{n}"]) for n, v in method.disc.state_dict().items()), "discriminators are new"
    optimizers = method.optimizers()
    adam = optimizers["G"].param_groups[0]
    assert type(optimizers["G"]) is torch.optim.Adam and len(adam["params"]) == 2 * len(learnt)
    assert (adam["lr"], adam["betas"]) == (1e-4, (0.5, 0.99))

    alone = build(pretrain=False)
    alone.begin("train")
    assert not same(dict(alone.gen_ab.state_dict()), dict(alone.gen_ba.state_dict())), "nothing learnt, nothing handed over"


def test_learning_rates_of_the_stages() -> None:
    method = build(pretrain_cycles=2)
    assert [method.lr_factor(s, 8) for s in (0, 4, 6)] == [1.0, 1.0, 0.5], "in training, which is what translates"
    method.begin("pretrain")
    factors = [method.lr_factor(s, 8) for s in range(8)]
    assert factors[:4] == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-4) and factors[4:] == pytest.approx(factors[:4])
    assert method.lr_factor(39_999, 80_000) == pytest.approx(1e-5, rel=1e-3)
    method.begin("train")
    assert method.lr_factor(6, 8) == 0.5


# -- training --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_training_losses_written_out(channels: int) -> None:
    method = build(channels, double=True, gp_w=0.01, gp_centre=2.0)
    for net in (method.gen_ab, method.gen_ba):
        wake(net)
    batch = make_batch(channels=channels, double=True)
    optim = wrappers(method, Recorder)
    log = method.step(batch, optim, "train")

    a, b, ab, ba = (batch.opacity + 1) / 2, (batch.clear + 1) / 2, method.gen_ab, method.gen_ba
    d_a, d_b = method.disc["a"], method.disc["b"]
    fake_b, fake_a = ab(a), ba(b)
    loss = ((d_b(fake_b) - 1) ** 2).mean() + ((d_a(fake_a) - 1) ** 2).mean()
    loss = loss + 10 * (F.l1_loss(ba(fake_b), a) + F.l1_loss(ab(fake_a), b)) + 5 * (F.l1_loss(ab(b), b) + F.l1_loss(ba(a), a))
    assert optim["G"].loss == pytest.approx(float(loss.detach()), rel=1e-9)
    expected = torch.autograd.grad(loss, [*ab.parameters(), *ba.parameters()])
    for got, wanted in zip(optim["G"].grads, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-8)

    loss = torch.zeros((), dtype=torch.float64)
    for d, disc, real, fake in (("a", d_a, a, fake_a.detach()), ("b", d_b, b, fake_b.detach())):
        plain = 0.5 * (((disc(real) - 1) ** 2).mean() + (disc(fake) ** 2).mean())
        assert float(log[f"d_{d}"]) == pytest.approx(float(plain.detach()), rel=1e-9)
        share = batch.draws.uniform(f"penalty_{d}", 1, 1, 1)
        loss = loss + plain + 0.01 * gradient_penalty(disc, real, fake, share, 2.0)
    assert optim["D"].loss == pytest.approx(float(loss.detach()), rel=1e-6)
    for got, wanted in zip(optim["D"].grads, torch.autograd.grad(loss, list(method.disc.parameters())), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_bf16_steps_are_finite_and_close(stage: str) -> None:
    logs = []
    for enabled in (False, True):
        method = build()
        method.begin(stage)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logs.append(method.step(make_batch(), wrappers(method), stage))
    for name, value in logs[0].items():
        assert logs[1][name].dtype is torch.float32
        assert float(logs[1][name]) == pytest.approx(float(value), rel=0.1), name


def test_penalty_can_be_left_out() -> None:
    method = build(gp_w=0.0)
    log = method.step(make_batch(), wrappers(method), "train")
    assert not any(name.startswith("penalty") for name in log)
    assert float(log["d_total"]) == pytest.approx(float(log["d_a"] + log["d_b"]))


def test_translation_maps_there_and_back() -> None:
    method = build()
    images = make_batch().opacity
    out = method.translate(images, "b2a").image
    torch.testing.assert_close(out, 2 * method.gen_ba((images + 1) / 2) - 1)
    assert out.min() >= -1 and out.max() <= 1 and not out.requires_grad
    with pytest.raises(UsageError, match="direction"):
        method.translate(images, "a2c")


# -- budget and stages -----------------------------------------------------------------------------------------------------


def test_budget_is_shared_between_the_stages() -> None:
    def stages(updates: int, batch: int, **changes: Any) -> list[tuple[int, int]]:
        config = UVCGANConfig(**changes)
        return [UVCGAN.budget(config, stage, updates, batch) for stage in UVCGAN.stages]

    assert stages(1_000_000, 1) == [(134_946, 64), (1_000_000, 1)], "as published"
    assert stages(400, 4, pretrain=False, pretrain_share=0.25) == [(0, 4), (400, 4)]
    assert stages(400, 4, pretrain_share=0.25, pretrain_batch=4) == [(100, 4), (300, 4)]
    assert stages(20_000, 4, pretrain_share=0.25, pretrain_batch=16) == [(1250, 16), (15_000, 4)]
    assert stages(1, 2, pretrain_share=0.25, pretrain_batch=4) == [(1, 4), (1, 2)]
    for updates, batch, share, first in ((401, 4, 0.3, 16), (77, 3, 0.1, 2), (1000, 2, 0.5, 64)):
        both = stages(updates, batch, pretrain_share=share, pretrain_batch=first)
        seen = sum(UVCGAN.images_seen(None, "", iterations, size) for iterations, size in both)
        assert updates * batch - batch < seen <= updates * batch
        assert abs(both[0][0] * first - share * updates * batch) <= first


def fit(model: UVCGAN, where: Path, stage: str, stop: int | None = None) -> None:
    settings = TrainConfig(iterations=4, batch_size=2, checkpoint_interval=1)
    engine.fit(
        model, Source(stop, 32), settings, where / stage, stage, 0, f"uvcgan-{stage}", CPU, Progress("uvcgan", quiet=True), 1
    )


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = build()
    for stage in UVCGAN.stages:
        fit(whole, tmp_path / "whole", stage)
    for stage, stop in (("pretrain", 2), ("train", 2)):
        halted = build()
        with pytest.raises(InterruptedTrainingError):
            for each in UVCGAN.stages:
                fit(halted, tmp_path / "parts", each, stop if each == stage else None)
    again = build()
    for stage in UVCGAN.stages:
        fit(again, tmp_path / "parts", stage)
    assert same(dict(again.state_dict()), dict(whole.state_dict()))
    assert not same(dict(whole.gen_ab.state_dict()), dict(whole.gen_ba.state_dict()))


@pytest.mark.parametrize("pretrain", [True, False])
def test_a_stage_without_iterations_is_left_out(bench: Bench, tmp_path: Path, pretrain: bool) -> None:
    words = ("--method", "uvcgan", "--suite", "toy-score", *TINY, "--runs", str(tmp_path / "runs"))
    answer = bench("run", *words, "--set", f"methods.uvcgan.pretrain={pretrain}")
    assert answer.code == 0, answer.err
    run = next((tmp_path / "runs" / "uvcgan").rglob("train.json")).parent
    facts = json.loads((run / "train.json").read_text())
    found = {name: (stage["iterations"], stage["batch_size"]) for name, stage in facts["stages"].items()}
    assert found == ({"pretrain": (1, 4), "train": (4, 2)} if pretrain else {"train": (6, 2)})
    assert facts["images_seen"] == 12 and (run / "train" / "pretrain").exists() == pretrain


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"levels": 0}, "levels"), ({"vit_dim": 100}, "vit_heads"), ({"pretrain_share": 1.0}, "pretrain_share"),
        ({"gp_w": -1.0}, "gp_w"), ({"mask_share": 1.5}, "mask_share"), ({"mask_patch": 0}, "mask_patch"),
        ({"pretrain_lr": 0.0}, "pretrain_lr"), ({"rotate": -1.0}, "rotate"), ({"width": 0}, "width"),
        ({"cycle_w": float("nan")}, "cycle_w"), ({"pretrain_chunk": 0}, "pretrain_chunk"),
    ],
)  # fmt: skip
def test_values_that_mean_nothing_name_their_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match=key):
        UVCGANConfig(**changes)
