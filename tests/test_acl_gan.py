"""ACL-GAN: its losses against their definitions, its schedule, and what it shares with the paper's method."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_tools import DoubleDraws, Recorder, one_thread, wrappers  # noqa: F401  (a fixture)
from torch import Tensor, nn

from bench.config import load, train_config
from bench.contracts import Batch, Draws
from bench.errors import UsageError
from bench.experiment import method_config
from bench.registry import METHODS
from methods.acl_gan import AclGan, AclGanConfig

SMALL: dict[str, Any] = {
    **{"width": 8, "n_res": 1, "mlp_dim": 16, "disc_width": 8, "disc_layers": 3, "disc_scales": 2, "disc_init": "kaiming"},
    "lr": 1e-3,
}


def build(channels: int = 1, **changes: Any) -> AclGan:
    torch.manual_seed(0)
    return AclGan(AclGanConfig(**{**SMALL, **changes}), channels)


def make_batch(channels: int = 1, step: int = 0, double: bool = False) -> Batch:
    images = torch.rand(2, 2, channels, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 - 1
    images = images.double() if double else images
    return Batch(images[0], images[1], (DoubleDraws if double else Draws)(5, step, 0, 2, 2))


def written_out(method: AclGan, batch: Batch) -> tuple[Tensor, Tensor]:
    """Discriminator and generator loss as released, every image through every network on its own, sums as upstream's."""
    a, b, c = batch.opacity, batch.clear, method.channels
    ab, ba, d_a, d_b, pair = method.gen_ab, method.gen_ba, method.disc["a"], method.disc["b"], method.disc_pair["a"]
    masks = []

    def translate(generator: nn.Module, x: Tensor, noise: str) -> Tensor:
        out = generator(x, batch.draws.normal(f"style_{noise}", 8))
        if not method.config.mask:
            return out
        m = (out[:, c:] + 1) / 2
        masks.append(m)
        return m * out[:, :c] + (1 - m) * x

    x_b, x_a1 = translate(ab, a, "fake_b"), translate(ba, a, "intra_a")
    x_a2 = translate(ba, x_b, "back_a")
    rec_a, rec_b = (g(x, g.encode_style(x))[:, :c] for g, x in ((ba, a), (ab, b)))

    def away(disc: nn.Module, x: Tensor, target: float) -> Tensor:
        return sum(((m - target) ** 2).mean() for m in disc(x))  # type: ignore[return-value]

    d_loss = 0.5 * sum(away(d_a, a, 1) + away(d_a, x.detach(), 0) for x in (x_a1, x_a2))
    d_loss = d_loss + away(d_b, b, 1) + away(d_b, x_b.detach(), 0)
    pairs = [torch.cat([a, x], dim=1) for x in (x_a1, x_a2)]
    d_loss = d_loss + 0.2 * (away(pair, pairs[0].detach(), 0) + away(pair, pairs[1].detach(), 1))
    g_loss = 0.5 * (away(d_a, x_a1, 1) + away(d_a, x_a2, 1)) + away(d_b, x_b, 1)
    g_loss = g_loss + 0.2 * (away(pair, pairs[0], 1) + away(pair, pairs[1], 0))
    g_loss = g_loss + (rec_a - a).abs().mean() + (rec_b - b).abs().mean()
    size, decided = 0, 0
    for m in masks:
        size = size + 0.001 * F.relu((m - 0.5).sum()) ** 2 + 0.001 * F.relu((0.3 - m).sum()) ** 2
        decided = decided + (1 / ((m - 0.5).abs() + 0.01)).sum()
    return d_loss, g_loss + 0.025 * (size + decided) / a[:, 0].numel() / 3


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_step_gives_the_gradients_of_the_written_out_losses(channels: int, mask: bool) -> None:
    # upstream's sums over this batch of 2 x 32 x 32, rather than over one of 3 x 256 x 256
    method = build(channels, mask=mask, delta=0.001 * 2 * 32**2 / (3 * 256**2)).double()
    batch = make_batch(channels, double=True)
    optim = wrappers(method, Recorder)
    method.step(batch, optim, "train")
    for name, loss in zip("DG", written_out(method, batch), strict=True):
        torch.testing.assert_close(optim[name].loss, loss.detach())
        parameters = optim[name].optimizer.param_groups[0]["params"]
        for got, expected in zip(optim[name].grads, torch.autograd.grad(loss, parameters), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("area", "expected"), [(0.2, 0.01 * 65.536), (0.4, 0.0), (0.7, 0.04 * 65.536)])
def test_mask_terms_by_hand(area: float, expected: float) -> None:
    method, log = build(), dict[str, Tensor]()
    masks = {("b", "fake"): torch.full((3, 1, 4, 4), area), ("a", "intra"): torch.full((3, 1, 4, 4), area)}
    method.mask_terms(masks, log)
    undecided = 1 / (abs(area - 0.5) + 0.01) / 3
    assert float(log["acl_mask"]) == pytest.approx(2 * (expected + undecided), rel=1e-5)


def test_mask_keys_reach_the_loss() -> None:
    def total(**changes: float) -> tuple[float, float]:
        method = build(**changes)
        log = method.step(make_batch(), wrappers(method), "train")
        return float(log["g_total"]), float(log["acl_mask"])

    base = {"upper": 0.1, "lower": 0.1}
    plain, term = total(**base)
    assert total(**base, mask_w=0.05)[0] - plain == pytest.approx(0.025 * term, rel=1e-3)
    assert total(upper=0.2, lower=0.1)[1] < term < total(**base, delta=0.002)[1]
    assert total(upper=1.0, lower=1.0)[1] > term


def test_generators_take_every_second_step() -> None:
    method = build()
    optim = wrappers(method)
    for step, turn in ((0, True), (1, False), (2, True), (3, False)):
        before = copy.deepcopy(method.state_dict())
        log = method.step(make_batch(step=step), optim, "train")
        moved = {k[:3] for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
        assert moved == ({"gen", "dis"} if turn else {"dis"})
        assert ("g_total" in log) == turn and {"d_a", "d_b", "d_pair", "d_total"} <= log.keys()
        assert all(v.ndim == 0 and v.isfinite() and not v.requires_grad for v in log.values())


class OneNoise(DoubleDraws):
    """Discriminators get the noise of the generators."""

    def normal(self, name: str, *shape: int) -> Tensor:
        return super().normal(name.removeprefix("disc_"), *shape)


def test_both_orders_give_the_same_gradients_for_the_same_noise() -> None:
    grads = []
    for share in (True, False):
        method, batch = build(share_forward=share).double(), make_batch(double=True)
        optim = wrappers(method, Recorder)
        batch.draws = OneNoise(5, 0, 0, 2, 2)
        method.step(batch, optim, "train")
        grads.append([g for name in "DG" for g in optim[name].grads])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-12)


def test_a_step_of_the_discriminators_makes_their_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    method, made = build(), list[dict[str, Any]]()
    generate = method.make
    monkeypatch.setattr(method, "make", lambda *a, **k: made.append(generate(*a, **k)) or made[-1])
    optim = wrappers(method)
    for step in (0, 1):
        method.step(make_batch(step=step), optim, "train")
    assert [{d: set(m[d]) for d in "ab"} for m in made] == [
        {"a": {"intra", "back", "rec"}, "b": {"fake", "rec"}},
        {"a": {"intra", "back"}, "b": {"fake"}},
    ]
    assert made[0]["b"]["fake"].image.requires_grad and not made[1]["b"]["fake"].image.requires_grad
    assert all(p.requires_grad for p in method.parameters())


def test_budget_counts_updates_of_the_generators() -> None:
    config = AclGanConfig()
    assert AclGan.budget(config, "train", 400, 4) == (800, 4)
    assert AclGan.images_seen(config, "train", 800, 4) == 400 * 4
    assert AclGan.images_seen(config, "train", 3, 4) == 2 * 4  # steps 0 and 2
    assert AclGan.budget(AclGanConfig(g_every=1), "train", 400, 4) == (400, 4)
    paper = load("paper")
    settings = train_config(paper, "acl_gan")
    assert AclGan.budget(config, "train", settings.iterations, settings.batch_size) == (350_000, 3)
    method = build(**paper.methods["acl_gan"])
    steps = (0, 99_999, 100_000, 199_999, 200_000, 300_000, 349_999)
    assert [method.lr_factor(s, 350_000) for s in steps] == [1, 1, 0.5, 0.5, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(("row", "mask"), [("none", False), ("acl-gan", True)])
def test_rows_of_the_ablation_are_acl_gan_but_for_weight_and_schedule(row: str, mask: bool) -> None:
    """The configurations of `ours` double the adversarial terms and update generators in every step; all else is equal."""
    sets = [f"methods.{m}.{k}=4" for m in ("ours", "acl_gan") for k in ("width", "disc_width", "mlp_dim")]
    config = load("quick", f"ablation/{row}", [*sets, f"methods.acl_gan.mask={mask}"])
    logs, states = [], []
    for name in ("acl_gan", "ours"):
        cls, own = method_config(config, name)
        torch.manual_seed(0)
        method = cls(own, 1)
        states.append(method.state_dict())
        log = method.step(make_batch(), wrappers(method), "train")
        assert (own.adv_w, own.g_every) == ((1, 2) if name == "acl_gan" else (2, 1))
        assert "g_total" not in method.step(make_batch(step=1), wrappers(method), "train") or name == "ours"
        logs.append({k: float(v) for k, v in log.items()})
    first, second = logs
    assert first.keys() == second.keys() and states[0].keys() == states[1].keys()
    assert ("acl_mask" in first) == mask
    adversarial = sum(first[k] for k in ("g_adv_a", "g_adv_b")) + 0.2 * first["g_pair"]
    first["g_total"] += adversarial
    assert first == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize(
    ("channels", "mask", "generator", "total"),
    [
        *[(1, True, 15_010_506, 54_819_165), (3, True, 15_029_324, 54_881_377)],
        *[(1, False, 15_007_369, 54_812_891), (3, False, 15_026_187, 54_875_103)],
    ],
)
def test_parameter_counts(channels: int, mask: bool, generator: int, total: int) -> None:
    with torch.device("meta"):
        method = AclGan(AclGanConfig(mask=mask), channels)
    assert sum(p.numel() for p in method.parameters()) == total
    assert sum(p.numel() for p in method.gen_ab.parameters()) == generator


def test_defaults_are_the_releases() -> None:
    c = AclGanConfig()
    assert (c.adv_w, c.acl_w, c.rec_w, c.mask_w, c.delta, c.upper, c.lower) == (1, 0.2, 1, 0.025, 0.001, 0.5, 0.3)
    assert (c.lr, c.beta1, c.beta2, c.weight_decay, c.g_every, c.disc_lr_factor) == (1e-4, 0.5, 0.999, 1e-4, 2, 1)
    assert METHODS.get("acl_gan") is AclGan and AclGan.requires(c) == frozenset()


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_translation(direction: str, mask: bool) -> None:
    method = build(mask=mask, style="random")
    images = torch.rand(3, 1, 32, 48) * 2 - 1
    out = method.translate(images, direction, [1, 2, 1])
    assert out.image.shape == images.shape and out.image.abs().max() <= 1
    assert (out.mask is not None) == mask
    alone = method.translate(images[1:2], direction, [2])
    torch.testing.assert_close(alone.image, out.image[1:2], rtol=0, atol=1e-5)
    assert not torch.allclose(method.translate(images, direction, [3, 2, 1]).image[0], out.image[0])


def test_bf16_steps_are_finite_and_near_the_float32_ones() -> None:
    method = build()
    plain = method.step(make_batch(), wrappers(method), "train")
    for share in (True, False):
        method = build(share_forward=share)
        before = copy.deepcopy(method.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            log = method.step(make_batch(), wrappers(method), "train")
        assert all(v.isfinite() and v.dtype is torch.float32 for v in log.values())
        for name in ("rec", "mask_a", "mask_b"):
            assert float(log[name]) == pytest.approx(float(plain[name]), rel=0.03)
        still = [k for k, v in method.state_dict().items() if k.endswith("weight") and torch.equal(v, before[k])]
        assert not still  # cast weights kept from the forward without a graph would leave generators where they were


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        *[({"lower": 0.6}, "lower"), ({"upper": 1.5}, "upper"), ({"g_every": 0}, "g_every")],
        *[({"style": "mean"}, "style"), ({"lr": 0}, "lr"), ({"beta1": 1.0}, "beta1")],
        *[({"mask_w": -1.0}, "mask_w"), ({"delta": -0.1}, "delta"), ({"n_res": 0}, "n_res")],
    ],
)
def test_contradictory_settings_name_their_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match=key):
        AclGanConfig(**changes)
