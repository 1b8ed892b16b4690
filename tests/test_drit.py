"""DRIT++: its step against the losses written out image by image, and its two Adam steps against a plain loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from drit_tools import Recorder, build, make_batch, trained_by
from method_tools import DoubleDraws, one_thread, wrappers  # noqa: F401  (a fixture)
from torch import Tensor, nn

from bench.config import load, train_config
from bench.contracts import Batch
from bench.errors import UsageError
from methods.drit import Drit, DritConfig, TwoStepAdam


def bce(disc: nn.Module, x: Tensor, target: float) -> Tensor:
    """The published form: a sigmoid, then its cross-entropy."""
    maps = [torch.sigmoid(m) for m in disc(x)]
    return torch.stack([F.binary_cross_entropy(m, torch.full_like(m, target)) for m in maps]).sum()


def written_out(method: Drit, batch: Batch) -> dict[str, Tensor]:
    """Losses of all updates at one set of weights for a batch of 1 + 1, every image through every network on its own."""
    c, m = method.config, method
    a, a_other, b, b_other = batch.opacity[:1], batch.opacity[1:], batch.clear[:1], batch.clear[1:]

    def noise(name: str, *shape: int) -> tuple[Tensor, Tensor]:
        values = (batch.draws.normal_map if len(shape) == 3 else batch.draws.normal)(name, *shape)
        return values[:1], values[1:]

    def content(d: str, x: Tensor, added: Tensor) -> Tensor:
        out: Tensor = m.content_shared(m.content[d](x)) + added
        return out

    def attribute(d: str, x: Tensor) -> tuple[Tensor, Tensor]:
        out = m.attribute[d](x)
        return (out[:, : c.style_dim], out[:, c.style_dim :]) if c.concat else (out, out)

    def draw(d: str, content: Tensor, style: Tensor) -> Tensor:
        out: Tensor = m.decoder[d](m.decoder_shared(content), style)
        return out

    size = (4 * c.width, 8, 8)
    noise_a, noise_b = noise("noise", *size)
    c_a, c_b = content("a", a, noise_a), content("b", b, noise_b)
    (mu_a, var_a), (mu_b, var_b) = attribute("a", a), attribute("b", b)
    eps_a, eps_b = noise("attribute", c.style_dim)
    z_a, z_b = (mu_a + eps_a * torch.exp(var_a / 2), mu_b + eps_b * torch.exp(var_b / 2)) if c.concat else (mu_a, mu_b)
    z1, z2 = noise("style", c.style_dim)
    fake_a, fake_b, self_a, self_b = draw("a", c_b, z_a), draw("b", c_a, z_b), draw("a", c_a, z_a), draw("b", c_b, z_b)
    random_a, random_b, again_a, again_b = draw("a", c_b, z1), draw("b", c_a, z1), draw("a", c_b, z2), draw("b", c_a, z2)
    noise_a, noise_b = noise("noise_back", *size)
    back_b, back_a = content("a", fake_a, noise_a), content("b", fake_b, noise_b)
    (mu_back_a, var_back_a), (mu_back_b, var_back_b) = attribute("a", fake_a), attribute("b", fake_b)
    eps_a, eps_b = noise("attribute_back", c.style_dim)
    if c.concat:
        z_a, z_b = mu_back_a + eps_a * torch.exp(var_back_a / 2), mu_back_b + eps_b * torch.exp(var_back_b / 2)
    else:
        z_a, z_b = mu_back_a, mu_back_b
    cycle_a, cycle_b = draw("a", back_a, z_a), draw("b", back_b, z_b)

    out: dict[str, Tensor] = {}
    out["D"] = bce(m.disc["a"], a, 1) + bce(m.disc["a"], fake_a.detach(), 0)
    out["D"] = out["D"] + bce(m.disc["b"], b, 1) + bce(m.disc["b"], fake_b.detach(), 0)
    seconds = [("a2", a_other, random_a), ("b2", b_other, random_b)]
    seconds += [("a2", a_other, again_a), ("b2", b_other, again_b)] if c.mode_seeking else []
    for name, real, fake in seconds:
        out["D"] = out["D"] + bce(m.disc[name], real, 1) + bce(m.disc[name], fake.detach(), 0)
    out["D_content"] = bce(m.disc_content, c_a.detach(), 0) + bce(m.disc_content, c_b.detach(), 1)
    pull = [
        -0.5 * (1 + var - mu**2 - var.exp()).sum() if c.concat else (mu**2).mean()
        for mu, var in ((mu_a, var_a), (mu_b, var_b))
    ]
    out["first"] = (
        bce(m.disc["a"], fake_a, 1)
        + bce(m.disc["b"], fake_b, 1)
        + bce(m.disc_content, c_a, 0.5)
        + bce(m.disc_content, c_b, 0.5)
        + 10 * ((cycle_a - a).abs().mean() + (cycle_b - b).abs().mean())
        + 10 * ((self_a - a).abs().mean() + (self_b - b).abs().mean())
        + 0.01 * (pull[0] + pull[1])
        + 0.01 * ((c_a**2).mean() + (c_b**2).mean())
    )
    out["second"] = 10 * ((attribute("a", random_a)[0] - z1).abs().mean() + (attribute("b", random_b)[0] - z1).abs().mean())
    for name, _, fake in seconds:
        out["second"] = out["second"] + bce(m.disc[name], fake, 1)
    if c.mode_seeking:
        for one, two in ((random_a, again_a), (random_b, again_b)):
            out["second"] = out["second"] + 1 / ((two - one).abs().mean() / (z2 - z1).abs().mean() + 1e-5)
    return out


VARIANTS: list[dict[str, Any]] = [{}, {"mode_seeking": False}, {"concat": False}]


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_shared_and_stacked_calls_give_the_gradients_of_the_written_out_losses(
    channels: int, changes: dict[str, Any]
) -> None:
    method, batch = build(channels, **changes).double(), make_batch(channels, double=True)
    optim = wrappers(method, Recorder)
    method.step(batch, optim, "train")
    expected = written_out(method, batch)
    for name in ("D", "D_content"):
        torch.testing.assert_close(optim[name].loss, expected[name].detach())
        close(optim[name].grads[0], torch.autograd.grad(expected[name], trained_by(method, name)))
    torch.testing.assert_close(optim["G"].loss, expected["first"].detach())
    twice = optim["G"].optimizer.twice
    both, stand_ins = optim["G"].grads
    close(both, torch.autograd.grad(expected["first"], trained_by(method, "G"), retain_graph=True))
    close(stand_ins, torch.autograd.grad(expected["second"], twice))


def close(found: list[Tensor], expected: tuple[Tensor, ...]) -> None:
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-10)


def plain_loop(method: Drit, batches: list[Batch]) -> None:
    """Upstream's updates in the order that was meant: an Adam a network, two backwards before two Adam steps."""
    c, nets = method.config, method.inference_modules()
    twice = [p for net in nets.values() for p in net.parameters()]
    once = list(method.attribute.parameters())

    def adam(parameters: Any, lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.999), weight_decay=1e-4)

    discs = {name: adam(disc.parameters(), c.lr) for name, disc in method.disc.items()}
    content = adam(method.disc_content.parameters(), 0.4 * c.lr)
    generator, attribute = adam(twice, c.lr), adam(once, c.lr)
    for batch in batches:
        full = (batch.draws.step + 1) % 3 == 0
        for p in method.parameters():
            p.grad = None
        terms = written_out(method, batch)
        if full:
            terms["D"].backward(retain_graph=True)
        terms["D_content"].backward(retain_graph=True)
        nn.utils.clip_grad_norm_(method.disc_content.parameters(), c.content_clip)
        content.step()
        if not full:
            continue
        for optimizer in discs.values():
            optimizer.step()
        terms = written_out(method, batch)  # the same forward, judged by the updated discriminators
        first = torch.autograd.grad(terms["first"], twice + once, retain_graph=True)
        second = torch.autograd.grad(terms["second"], twice)
        for p, g in zip(twice + once, first, strict=True):
            p.grad = g
        generator.step()
        attribute.step()
        for p, g in zip(twice, second, strict=True):
            p.grad = g
        generator.step()


@pytest.mark.parametrize("changes", [{"content_clip": 0.01}, {"concat": False}])
def test_steps_are_those_of_a_plain_loop(changes: dict[str, Any]) -> None:
    method = build(**changes).double()
    reference = copy.deepcopy(method)
    batches = [make_batch(step=step, double=True) for step in range(6)]
    optim = wrappers(method)
    for batch in batches:
        method.step(batch, optim, "train")
    plain_loop(reference, batches)
    moved = build(**changes).double().state_dict()
    for (name, got), wanted in zip(method.state_dict().items(), reference.state_dict().values(), strict=True):
        if name.endswith("weight"):  # a bias in front of an instance norm has rounding for a gradient, which Adam blows up
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)
            assert not torch.equal(got, moved[name])


def test_two_step_adam_is_two_steps_of_adam_and_leaves_the_others_alone() -> None:
    p, q = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    other_p, other_q = (nn.Parameter(x.detach().clone()) for x in (p, q))
    adam, plain, once = (
        TwoStepAdam([p], [q], lr=0.1),
        torch.optim.Adam([other_p], lr=0.1),
        torch.optim.Adam([other_q], lr=0.1),
    )
    for step in range(3):
        first, second = torch.tensor([1.0, -2.0]) * (step + 1), torch.tensor([-5.0, 0.5])
        handed = adam.second([second])
        assert float(handed.detach()) == 0
        ((p * first).sum() + q.sum() + handed).backward()
        adam.step()
        adam.zero_grad()
        for g in (first, second):
            other_p.grad = g
            plain.step()
        other_q.grad = torch.ones(1)
        once.step()
    torch.testing.assert_close(p, other_p)
    torch.testing.assert_close(q, other_q)
    assert not adam.stand_ins[0].any()
    # its state is found again by another, as after a resume; without second gradients it is Adam
    again = TwoStepAdam([p], [q], lr=0.1)
    again.load_state_dict(adam.state_dict())
    for optimizer, x in ((again, p), (plain, other_p)):
        x.grad = torch.ones(2)
        optimizer.step()
    torch.testing.assert_close(p, other_p)


def test_accumulated_steps_are_one_step_on_the_larger_batch() -> None:
    """Both gradient sets add up apart from each other: with one wrapped step for each they would mix."""
    # Discriminators that all but stand still: those of the parts wait for their update while the generators' terms add up.
    changes: dict[str, Any] = {"d_iter": 1, "disc_lr_factor": 1e-9, "content_disc_lr_factor": 1e-9}
    whole, parts = build(**changes).double(), build(**changes).double()
    whole.step(make_batch(count=4, total=4, double=True), wrappers(whole), "train")
    optim, before = wrappers(parts, accumulative_counts=2), copy.deepcopy(parts.state_dict())
    parts.step(make_batch(start=0, count=2, total=4, double=True), optim, "train")
    assert all(torch.equal(value, before[name]) for name, value in parts.state_dict().items())
    parts.step(make_batch(start=2, count=2, total=4, double=True), optim, "train")
    expected = whole.state_dict()
    for name, value in parts.state_dict().items():
        if name.endswith("weight"):
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8)
            assert name.startswith("disc") or not torch.allclose(value, before[name], rtol=1e-5, atol=1e-6)


def test_gradients_are_exact_under_data_parallelism() -> None:
    def gradients(start: int, count: int) -> list[Tensor]:
        method = build().double()
        optim = wrappers(method, Recorder)
        method.step(make_batch(start=start, count=count, total=4, double=True), optim, "train")
        return [g for name in ("G", "D", "D_content") for group in optim[name].grads for g in group]

    for full, first, second in zip(gradients(0, 4), gradients(0, 2), gradients(2, 2), strict=True):
        torch.testing.assert_close((first + second) / 2, full, rtol=1e-6, atol=1e-10)


def test_two_of_three_iterations_train_only_the_content_discriminator() -> None:
    method = build()
    optim = wrappers(method)
    for step in range(3):
        before = copy.deepcopy(method.state_dict())
        names = method.step(make_batch(step=step), optim, "train").keys()
        changed = {name.split(".")[0] for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
        if step < 2:
            assert changed == {"disc_content"} and set(names) == {"d_content_chance"}
        else:
            assert changed == {name for name, _ in method.named_children() if name != "data_preprocessor"}
    assert all(p.requires_grad for p in method.parameters())


def test_budget_counts_full_updates_and_encoded_images() -> None:
    config = DritConfig()
    for batch_size in (1, 3, 4):
        iterations, size = Drit.budget(config, "train", 100, batch_size)
        assert (iterations, size) == (300, 2 * batch_size)
        assert Drit.images_seen(config, "train", iterations, size) == 100 * batch_size, "what every other method learns from"
        assert Drit.images_seen(config, "train", iterations - 1, size) == 99 * batch_size
    assert Drit.budget(DritConfig(d_iter=1), "train", 100, 2) == (100, 4)
    with pytest.raises(UsageError, match="batch_size"):
        build().step(make_batch(count=1), {}, "train")


def test_published_budget_is_one_encoded_and_one_random_image() -> None:
    settings = train_config(load("paper"), "drit")
    assert Drit.budget(DritConfig(), "train", settings.iterations, settings.batch_size) == (1_500_000, 2)


def test_generators_learn_from_as_many_images_as_the_budget_says() -> None:
    """Only images that reach encoders count: of the others, discriminators alone see something."""
    method, seen = build(), list[int]()
    for encoder in method.content.values():
        encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    iterations, size = Drit.budget(method.config, "train", 1, 3)
    for step in range(iterations):
        seen.clear()
        method.step(make_batch(step=step, count=size, total=size), wrappers(method), "train")
    assert seen[:2] == [3, 3]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("changes", VARIANTS)
def test_steps_are_finite_and_repeat(channels: int, changes: dict[str, Any]) -> None:
    runs = []
    for _ in range(2):
        method = build(channels, **changes)
        optim = wrappers(method)
        for step in range(6):
            values = method.step(make_batch(channels, step, count=4, total=4), optim, "train")
            assert all(v.ndim == 0 and v.isfinite() and not v.requires_grad for v in values.values())
        runs.append(method.state_dict())
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


@pytest.mark.parametrize("changes", VARIANTS)
def test_bf16_step_is_finite_and_near_the_float32_one(changes: dict[str, Any]) -> None:
    plain = build(**changes)
    expected = plain.step(make_batch(), wrappers(plain), "train")
    method = build(**changes)
    with torch.autocast("cpu", torch.bfloat16):
        found = method.step(make_batch(), wrappers(method), "train")
    assert all(v.isfinite() and v.dtype is torch.float32 for v in found.values())
    for name in ("cycle_a", "self_b", "g_adv_a", "latent_b", "code_a"):
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=0.05)


@pytest.mark.parametrize(
    ("weight", "terms"),
    [
        ("adv_w", ["g_adv_a", "g_adv_b"]),
        ("content_adv_w", ["g_content_a", "g_content_b"]),
        ("cycle_w", ["cycle_a", "cycle_b"]),
        ("self_w", ["self_a", "self_b"]),
        ("kl_w", ["kl_a", "kl_b"]),
        ("code_w", ["code_a", "code_b"]),
        ("latent_w", ["latent_a", "latent_b"]),
        ("mode_w", ["mode_a", "mode_b"]),
    ],
)
def test_weights_reach_the_loss(weight: str, terms: list[str]) -> None:
    total = "g_random_total" if weight in ("latent_w", "mode_w") else "g_total"
    default = getattr(DritConfig, weight)
    one, two = (build(**{weight: factor * default}) for factor in (1.0, 2.0))
    first, second = (m.step(make_batch(), wrappers(m, Recorder), "train") for m in (one, two))
    expected = default * sum(float(first[t]) for t in terms)
    assert float(second[total] - first[total]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
@pytest.mark.parametrize("changes", VARIANTS)
def test_translation_is_without_noise_and_depends_on_neither_batch_size_nor_order(
    direction: str, changes: dict[str, Any]
) -> None:
    method = build(style="random", **changes)
    images, seeds = torch.rand(4, 1, 32, 32) * 2 - 1, [3, 1, 4, 1]
    together = method.translate(images, direction, seeds).image
    assert together.shape == images.shape and together.abs().max() <= 1 and not together.requires_grad
    order = [2, 0, 3, 1]
    shuffled = method.translate(images[order], direction, [seeds[i] for i in order]).image
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-5)
    alone = [method.translate(images[i : i + 1], direction, [seeds[i]]).image for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-5)
