"""CycleGAN and its networks: sizes, the step against a plain restatement, what is promised to the harness."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine_tools import CPU, SETTINGS, InterruptedTrainingError, Source, losses, weights
from method_tools import Recorder, count, one_thread, wrappers  # noqa: F401
from torch import Tensor, nn

from bench import engine
from bench.contracts import Batch, Draws
from bench.errors import UsageError
from bench.progress import Progress
from methods.cyclegan import CycleGAN, CycleGANConfig
from methods.networks.conv import BlurDown, BlurUp, NormActivation, Reflect
from methods.networks.patchgan import PatchGAN
from methods.networks.resnet import ResnetGenerator
from methods.networks.style_content import instance_norm

SMALL: dict[str, Any] = {"width": 8, "n_blocks": 2, "disc_width": 8, "init": "kaiming", "disc_init": "kaiming"}


def build(double: bool = True, channels: int = 1, **changes: Any) -> CycleGAN:
    torch.manual_seed(0)
    method = CycleGAN(CycleGANConfig(**{**SMALL, **changes}), channels)
    return method.double() if double else method


def make_batch(step: int = 0, double: bool = True, channels: int = 1) -> Batch:
    x = torch.rand(2, 2, channels, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 - 1
    return Batch(*(x.double() if double else x), Draws(5, step, 0, 2, 2))


def plain_losses(m: CycleGAN, a: Tensor, b: Tensor, identity: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Generators' loss and the translations, every image through every network on its own."""
    fake_b, fake_a = m.gen_ab(a), m.gen_ba(b)
    loss = ((m.disc["b"](fake_b) - 1) ** 2).mean() + ((m.disc["a"](fake_a) - 1) ** 2).mean()
    loss = loss + 10 * (F.l1_loss(m.gen_ba(fake_b), a) + F.l1_loss(m.gen_ab(fake_a), b))
    if identity:
        loss = loss + 5 * (F.l1_loss(m.gen_ab(b), b) + F.l1_loss(m.gen_ba(a), a))
    return loss, fake_a, fake_b


def plain_disc_loss(disc: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (((disc(real) - 1) ** 2).mean() + (disc(fake) ** 2).mean())


def plain_step(m: CycleGAN, batch: Batch, adam_g: torch.optim.Optimizer, adam_d: torch.optim.Optimizer) -> list[float]:
    """The published iteration: generators against the old discriminators, then these on the fakes of the old generators."""
    a, b = batch.opacity, batch.clear
    loss, fake_a, fake_b = plain_losses(m, a, b)
    adam_g.zero_grad()
    loss.backward()
    adam_g.step()
    adam_d.zero_grad()
    loss_b = plain_disc_loss(m.disc["b"], b, fake_b.detach())
    loss_b.backward()
    loss_a = plain_disc_loss(m.disc["a"], a, fake_a.detach())
    loss_a.backward()
    adam_d.step()
    return [float(x.detach()) for x in (loss, loss_a, loss_b)]


@pytest.mark.parametrize(("channels", "gen", "six", "disc"), [
    (1, 11_365_633, 7_825_153, 2_762_689),
    (3, 11_378_179, 7_837_699, 2_764_737),
])  # fmt: skip
def test_counts(channels: int, gen: int, six: int, disc: int) -> None:
    with torch.device("meta"):
        for blur in (False, True):
            assert count(ResnetGenerator(channels, blur=blur)) == gen
            assert count(PatchGAN(channels, blur=blur)) == disc
        assert count(ResnetGenerator(channels, n_blocks=6)) == six
        assert count(CycleGAN(CycleGANConfig(), channels)) == 2 * (gen + disc)


@pytest.mark.parametrize("blur", [False, True])
def test_shapes(blur: bool) -> None:
    with torch.no_grad():
        disc = PatchGAN(1, 4, blur=blur)
        assert disc(torch.zeros(2, 1, 256, 256)).shape == (2, 1, 30, 30)
        assert disc(torch.zeros(1, 1, 24, 24)).shape == (1, 1, 1, 1)
        with pytest.raises(UsageError, match="disc_layers"):
            disc(torch.zeros(1, 1, 23, 64))
        out = ResnetGenerator(3, 4, 1, blur=blur)(torch.rand(2, 3, 20, 32))
        assert out.shape == (2, 3, 20, 32) and out.abs().max() <= 1
        with pytest.raises(UsageError, match="30 x 32"):
            ResnetGenerator(1, 4, 1)(torch.zeros(1, 1, 30, 32))


def test_the_receptive_field_of_a_patch_is_70_pixels() -> None:
    """Without norms, which see the whole image."""
    disc = PatchGAN(1, 4).double()
    bare = nn.Sequential(*(layer for layer in disc.body if not isinstance(layer, NormActivation)), disc.head)
    x = torch.rand(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)
    bare(x)[0, 0, 15, 15].backward()
    assert x.grad is not None
    rows = x.grad[0, 0].abs().sum(dim=1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_generator_equals_the_layers_in_a_row() -> None:
    net = ResnetGenerator(2, 4, 2).double()
    c = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    x = torch.rand(2, 2, 16, 24, dtype=torch.float64) * 2 - 1

    def norm_relu(t: Tensor) -> Tensor:
        return F.relu(F.instance_norm(t))

    def pad(t: Tensor, n: int) -> Tensor:
        return F.pad(t, (n,) * 4, mode="reflect")

    h = norm_relu(F.conv2d(pad(x, 3), c[0].weight, c[0].bias))
    for conv in c[1:3]:
        h = norm_relu(F.conv2d(h, conv.weight, conv.bias, 2, 1))
    for one, two in (c[3:5], c[5:7]):
        inner = norm_relu(F.conv2d(pad(h, 1), one.weight, one.bias))
        h = h + F.instance_norm(F.conv2d(pad(inner, 1), two.weight, two.bias))
    for conv in c[7:9]:
        h = norm_relu(F.conv_transpose2d(h, conv.weight, conv.bias, 2, 1, 1))
    torch.testing.assert_close(net(x), torch.tanh(F.conv2d(pad(h, 3), c[9].weight, c[9].bias)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [8, 11])
def test_resampling_is_the_binomial_blur(size: int) -> None:
    x = torch.rand(2, 3, size, size, dtype=torch.float64)
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    kernel = (torch.outer(taps, taps) / 16).expand(3, 1, 3, 3)
    down = F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), kernel, stride=2, groups=3)
    torch.testing.assert_close(BlurDown()(x), down)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    kernel = (torch.outer(taps, taps) / 16).expand(3, 1, 4, 4)
    up = F.conv_transpose2d(F.pad(x, (1,) * 4, mode="replicate"), kernel, stride=2, padding=3, groups=3)
    torch.testing.assert_close(BlurUp()(x), up)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_norm_with_activation_has_the_gradients_of_its_formula(slope: float) -> None:
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(NormActivation(slope), x) and torch.autograd.gradgradcheck(NormActivation(slope), x)
    plain = F.leaky_relu(F.instance_norm(x, eps=1e-5), slope)
    torch.testing.assert_close(NormActivation(slope)(x), plain)
    narrow = x.detach().bfloat16().requires_grad_()
    before = narrow.detach().clone()
    NormActivation(slope)(narrow).sum().backward()
    assert torch.equal(narrow, before) and narrow.grad is not None, "its input stays as it was"


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_with_activation_keeps_no_tensor_for_itself(slope: float, dtype: torch.dtype) -> None:
    """Besides what the norm alone keeps, only its own output, which the next layer keeps anyway."""

    def kept(module: nn.Module) -> tuple[set[int], Tensor]:
        storages = dict[int, Tensor]()

        def pack(saved: Tensor) -> Tensor:
            if saved.numel() == x.numel():
                storages[saved.untyped_storage().data_ptr()] = saved
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            out = module(x)
        alive.append((storages, out))
        return set(storages), out

    class Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return instance_norm(x)

    alive = list[object]()
    x = torch.randn(2, 3, 16, 16).to(dtype).requires_grad_()
    norm, (both, out) = kept(Norm())[0], kept(NormActivation(slope))
    assert len(both) == len(norm) + 1 and out.untyped_storage().data_ptr() in both


def test_inits() -> None:
    for init, layer_std in (
        ("normal", 0.02),
        ("kaiming", (2 / (64 * 9)) ** 0.5),
        ("xavier", 0.02 * (2 / (3 * 64 * 9)) ** 0.5),
    ):
        conv = [m for m in ResnetGenerator(1, 64, 1, init=init).modules() if isinstance(m, nn.Conv2d)][1]
        assert conv.weight.std().item() == pytest.approx(layer_std, rel=0.02)
        assert conv.bias is not None and not conv.bias.any()
    up = next(m for m in ResnetGenerator(1, 64, 1, init="kaiming").modules() if isinstance(m, nn.ConvTranspose2d))
    assert up.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02), "of its 256 inputs"
    with pytest.raises(UsageError, match="normal, xavier, kaiming"):
        PatchGAN(1, 4, init="orthogonal")


def test_bf16_keeps_its_type_between_layers() -> None:
    kinds = []
    for net in (ResnetGenerator(1, 4, 1, blur=True), PatchGAN(1, 4, blur=True)):
        for layer in net.modules():
            if isinstance(layer, NormActivation | BlurDown | BlurUp | Reflect):
                layer.register_forward_hook(lambda _m, args, out: kinds.append((args[0].dtype, out.dtype)))
        with torch.autocast("cpu", torch.bfloat16):
            out = net(torch.rand(1, 1, 32, 32))
    assert kinds[0] == (torch.float32,) * 2  # the image itself
    assert set(kinds[1:]) == {(torch.bfloat16, torch.bfloat16)}
    assert out.dtype is torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert ResnetGenerator(1, 4, 1)(torch.rand(1, 1, 32, 32)).dtype is torch.float32


def test_first_gradients_equal_those_of_separate_calls() -> None:
    method = build(pool_size=0)
    plain, batch, optim = copy.deepcopy(method), make_batch(), wrappers(method, Recorder)
    log = method.step(batch, optim, "train")
    loss, fake_a, fake_b = plain_losses(plain, batch.opacity, batch.clear)
    generators = [*plain.gen_ab.parameters(), *plain.gen_ba.parameters()]
    for got, want in zip(optim["G"].grads, torch.autograd.grad(loss, generators), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    d_a = plain_disc_loss(plain.disc["a"], batch.opacity, fake_a.detach())
    d_b = plain_disc_loss(plain.disc["b"], batch.clear, fake_b.detach())
    for got, want in zip(optim["D"].grads, torch.autograd.grad(d_a + d_b, [*plain.disc.parameters()]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    assert float(log["g_total"]) == pytest.approx(loss.item(), abs=1e-10)
    terms = 10 * (log["cycle_a"] + log["cycle_b"]) + 5 * (log["identity_a"] + log["identity_b"])
    assert float(log["g_total"]) == pytest.approx(float(log["g_adv_a"] + log["g_adv_b"] + terms), abs=1e-10)


def test_steps_equal_a_plain_training() -> None:
    """Order, detaching and optimizers: losses and weights after several updates. In float64, as Adam turns rounding of
    vanishing gradients (the biases in front of a norm) into whole steps."""
    method = build()
    plain, optim = copy.deepcopy(method), wrappers(method)
    adam_g = torch.optim.Adam([*plain.gen_ab.parameters(), *plain.gen_ba.parameters()], lr=2e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam(plain.disc.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for step in range(4):  # 8 images: the pool of 50 still returns what it gets
        log = method.step(make_batch(step), optim, "train")
        want = plain_step(plain, make_batch(step), adam_g, adam_d)
        assert [float(log[k]) for k in ("g_total", "d_a", "d_b")] == pytest.approx(want, abs=1e-7)
    for got, expected in zip(method.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_discriminators_learn_from_the_pool() -> None:
    """Their loss is that of what a copy of the pool, as it was before the step, returns; weights stay as they are."""
    method = build(pool_size=2)
    optim = wrappers(method, Recorder)
    method.step(make_batch(0), optim, "train")
    for step in range(1, 6):
        batch, held = make_batch(step), copy.deepcopy(method.pool)
        log = method.step(batch, optim, "train")
        for d, fake, real in (
            ("b", method.gen_ab(batch.opacity), batch.clear),
            ("a", method.gen_ba(batch.clear), batch.opacity),
        ):
            shown = held[d](fake, batch.draws, f"pool_{d}")
            assert float(log[f"d_{d}"]) == pytest.approx(plain_disc_loss(method.disc[d], real, shown).item(), abs=1e-9)
            assert torch.allclose(held[d].get_extra_state(), method.pool[d].get_extra_state(), atol=1e-9)


@pytest.mark.parametrize(("changes", "images"), [({}, 6), ({"identity_w": 0.0}, 4), ({"cycle_w": 0.0}, 4)])
def test_identity_is_skipped_where_it_weighs_nothing(changes: dict[str, float], images: int) -> None:
    """Images through the first generator: two to translate, two to bring back, and two to keep where that counts."""
    method, seen = build(**changes), list[int]()
    method.gen_ab.register_forward_hook(lambda _m, args, _out: seen.append(len(args[0])))
    log = method.step(make_batch(), wrappers(method), "train")
    assert sum(seen) == images
    assert ("identity_a" in log) == (images == 6)


def test_resume_is_exact() -> None:
    """Weights, pools and optimizers are all there is."""
    method = build(double=False, pool_size=3)
    optim = wrappers(method)
    for step in range(3):
        method.step(make_batch(step, double=False), optim, "train")
    other = build(double=False, pool_size=3)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    others = wrappers(other)
    for name in optim:
        others[name].load_state_dict(copy.deepcopy(optim[name].state_dict()))
    for step in range(3, 7):
        one = method.step(make_batch(step, double=False), optim, "train")
        two = other.step(make_batch(step, double=False), others, "train")
        assert all(torch.equal(one[k], two[k]) for k in one)
    assert all(torch.equal(a, b) for a, b in zip(method.state_dict().values(), other.state_dict().values(), strict=True))


def test_bf16_gradients_are_those_of_fp32_roughly() -> None:
    grads = []
    for enabled in (False, True):
        method = build(double=False, channels=3)
        optim = wrappers(method, Recorder)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            log = method.step(make_batch(double=False, channels=3), optim, "train")
        assert all(v.dtype is torch.float32 and torch.isfinite(v) for v in log.values())
        grads.append([torch.cat([g.flatten() for g in optim[name].grads]) for name in "GD"])
    for full, half in zip(*grads, strict=True):
        assert F.cosine_similarity(full, half, dim=0) > 0.95


def test_translation() -> None:
    method = build(double=False)
    x = make_batch(double=False).opacity
    for direction, generator in (("a2b", method.gen_ab), ("b2a", method.gen_ba)):
        out = method.translate(x, direction)
        assert torch.equal(out.image, generator(x)) and out.mask is None and not out.image.requires_grad
    with pytest.raises(UsageError, match="direction"):
        method.translate(x, "c2d")
    assert set(map(id, method.networks())) == {id(m) for m in (method.gen_ab, method.gen_ba, *method.disc.values())}


@pytest.mark.parametrize("bad", [
    {"width": 0}, {"pool_size": -1}, {"cycle_w": -1.0}, {"lr": 0.0}, {"beta1": 1.0}, {"init": "zeros"}, {"disc_layers": 0},
    {"identity_w": float("nan")}, {"lr": float("inf")},
])  # fmt: skip
def test_bad_keys_are_named(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        CycleGANConfig(**bad)


def test_weights_to_hand_on_hold_no_image_of_a_patient(tmp_path: Path) -> None:
    """The pools are in checkpoints, so that a training resumes exactly, and not in weights.pth."""
    settings = replace(SETTINGS, ema=0.5)

    def fit(folder: Path, stop: int | None = None) -> Any:
        source = Source(stop, size=32)
        method = build(double=False, pool_size=3)
        return engine.fit(method, source, settings, folder, "train", 0, "cyclegan", CPU, Progress("", quiet=True), 1), method

    straight, method = fit(tmp_path / "straight")
    with pytest.raises(InterruptedTrainingError):
        fit(tmp_path / "cut", stop=5)
    kept = torch.load(tmp_path / "cut" / "iter_4.pth", weights_only=True)["state_dict"]
    resumed, _ = fit(tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight") and straight.weights_id == resumed.weights_id
    handed = weights(straight.weights)
    for key in ("pool.a._extra_state", "pool.b._extra_state"):
        assert len(kept[key]) == 3 and handed[key].numel() == 0, key
    assert all(len(pool.get_extra_state()) == 3 for pool in method.pool.values()), "the method goes on with its own"
    fresh = build(double=False, pool_size=3)
    engine.load_weights(fresh, straight.weights)
    batch = make_batch(double=False)
    assert torch.isfinite(fresh.translate(batch.opacity).image).all()
    fresh.step(batch, wrappers(fresh), "train")
    assert len(fresh.pool["a"].get_extra_state()) == 2, "an emptied pool fills again"
