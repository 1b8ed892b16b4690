"""The paper's method: its step against the loss written out term by term, its switches, and what it promises the harness."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_tools import DoubleDraws, Recorder, check_two_runs_of_two_steps, one_thread, wrappers  # noqa: F401  (a fixture)
from mmengine.optim import OptimWrapper
from ours_tools import SMALL, TinyPrior, build, make_batch
from torch import Tensor, nn

from bench.contracts import Batch, Draws
from bench.errors import UsageError
from bench.registry import METHODS
from methods import losses
from methods.ours import Ours, OursConfig
from methods.reference import Original


def first_log(**changes: Any) -> dict[str, float]:
    method = build(**changes)
    log = method.step(make_batch(), wrappers(method), "train")
    assert {"d_total", "g_total"} <= log.keys()
    return {name: float(value) for name, value in log.items() if not name.endswith("_total")}


def written_out(method: Ours, batch: Batch) -> tuple[Tensor, Tensor]:
    """Discriminator and generator loss in the paper's terms, every image through every network on its own."""
    a, b, c = batch.opacity, batch.clear, method.config
    ab, ba, d_a, d_b, pair = method.gen_ab, method.gen_ba, method.disc["a"], method.disc["b"], method.disc_pair["a"]

    def translate(generator: nn.Module, x: Tensor, noise: str) -> tuple[Tensor, Tensor]:
        out = generator(x, batch.draws.normal(f"style_{noise}", c.style_dim))
        mask = (out[:, method.channels :] + 1) / 2
        return mask * out[:, : method.channels] + (1 - mask) * x, mask

    fake_b, mask_fake_b = translate(ab, a, "fake_b")
    intra_a, mask_intra_a = translate(ba, a, "intra_a")
    back_a, mask_back_a = translate(ba, fake_b, "back_a")
    _, mask_intra_b = translate(ab, b, "intra_b")
    rec_a = ba(a, ba.encode_style(a))[:, : method.channels]
    rec_b = ab(b, ab.encode_style(b))[:, : method.channels]

    def g(disc: nn.Module, x: Tensor, target: float) -> Tensor:
        return sum(((m - target) ** 2).mean() for m in disc(x))  # type: ignore[return-value]

    d_loss = 0.5 * (g(d_a, a, 1) + g(d_a, intra_a.detach(), 0)) + 0.5 * (g(d_a, a, 1) + g(d_a, back_a.detach(), 0))
    d_loss = d_loss + g(d_b, b, 1) + g(d_b, fake_b.detach(), 0)
    joined = [torch.cat([a, x.detach()], dim=1) for x in (intra_a, back_a)]
    d_loss = d_loss + 0.2 * (g(pair, joined[0], 0) + g(pair, joined[1], 1))

    g_adv = 0.5 * g(d_a, intra_a, 1) + 0.5 * g(d_a, back_a, 1) + g(d_b, fake_b, 1)
    g_pair = g(pair, torch.cat([a, intra_a], 1), 1) + g(pair, torch.cat([a, back_a], 1), 0)
    masks = (mask_fake_b, mask_back_a)
    upper = sum(175 * F.relu(m.mean((1, 2, 3)) - 0.75).square().mean() for m in masks) / 2
    repulsion = sum(((m - 0.1).abs() + 0.01).pow(-0.2).mean() for m in masks) / 2

    prior = method.holder.module  # type: ignore[union-attr]
    phi = [prior.features(x) for x in (fake_b, a)]
    struct = F.mse_loss(F.instance_norm(phi[0]), F.instance_norm(phi[1].detach()))
    grams = [torch.einsum("nchw,ndhw->ncd", p, p) / p[0, 0].numel() for p in phi]
    style = F.mse_loss(grams[0], grams[1].detach())
    lca = -torch.log(1 - prior.classify(phi[0])[:, 0]).mean()  # of the tiny prior only finding 0 is selected, always
    g_loss = (
        2 * (g_adv + 0.2 * g_pair)
        + (rec_a - a).abs().mean()
        + (rec_b - b).abs().mean()
        + 0.01 * (upper + repulsion)
        + 0.1 * (mask_intra_b.mean() + mask_intra_a.mean())
        + 0.5 * (struct + 0.5 * style)
        + 0.5 * lca
    )
    return d_loss, g_loss


@pytest.mark.parametrize("channels", [1, 3])
def test_one_shared_forward_gives_the_gradients_of_the_written_out_losses(channels: int) -> None:
    method, batch = build(channels).double(), make_batch(channels, double=True)
    optim = wrappers(method, Recorder)
    method.step(batch, optim, "train")
    for name, loss in zip("DG", written_out(method, batch), strict=True):
        torch.testing.assert_close(optim[name].loss, loss.detach())
        parameters = optim[name].optimizer.param_groups[0]["params"]
        for got, expected in zip(optim[name].grads, torch.autograd.grad(loss, parameters), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-12)


def test_generators_learn_from_the_updated_discriminators() -> None:
    method, batch = build(lr=1e-2), make_batch()
    before = copy.deepcopy(method)
    log = method.step(batch, wrappers(method), "train")
    updated = copy.deepcopy(before)
    updated.disc.load_state_dict(method.disc.state_dict())
    old, new = (probe.step(batch, wrappers(probe, Recorder), "train")["g_adv_b"] for probe in (before, updated))
    torch.testing.assert_close(log["g_adv_b"], new, rtol=1e-5, atol=1e-6)
    assert abs(float(old - new)) > 0.01


def test_autocast_does_not_serve_weights_from_before_the_update() -> None:
    method, batch = build(lr=1e-2), make_batch()
    updated = copy.deepcopy(method)
    with torch.autocast("cpu", torch.bfloat16):
        log = method.step(batch, wrappers(method), "train")
    updated.disc.load_state_dict(method.disc.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        expected = updated.step(batch, wrappers(updated, Recorder), "train")
    torch.testing.assert_close(log["g_adv_b"], expected["g_adv_b"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("changes", [{}, {"symmetric": True}, {"mask_penalty": "acl_gan", "baml": False}])
@pytest.mark.parametrize("channels", [1, 3])
def test_steps_are_finite_change_every_network_and_repeat(channels: int, changes: dict[str, Any]) -> None:
    check_two_runs_of_two_steps(lambda: build(channels, **changes), lambda step: make_batch(channels, step))


def test_bf16_step_is_finite_and_near_the_float32_one() -> None:
    plain = first_log()
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        log = method.step(make_batch(), wrappers(method), "train")
    assert all(v.isfinite() and v.dtype is torch.float32 for v in log.values())
    for name in ("rec", "repulsion", "bam", "lca", "mask_a"):
        assert float(log[name]) == pytest.approx(plain[name], rel=0.03)


def differing(first: dict[str, float], second: dict[str, float]) -> set[str]:
    """Keys in one only, or with other values (up to rounding: stacks of another height sum in another order)."""
    return {k for k in first.keys() | second.keys() if first.get(k) != pytest.approx(second.get(k, 1e9), rel=1e-4, abs=1e-6)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fa": False}, {"fa_struct", "fa_style"}),
        ({"lca": False}, {"lca", "lca_share"}),
        # without BAML the masks of images that stay are penalised like the others
        ({"baml": False}, {"bam", "upper", "repulsion"}),
        ({"mask_penalty": "acl_gan"}, {"upper", "repulsion", "acl_mask"}),
        ({"repulsion_tanh": True}, {"repulsion"}),
        ({"upper": 0.1}, {"upper"}),
        ({"kappa": 10.0, "upper": 0.1}, {"upper"}),
        ({"phi_relu": False}, {"fa_struct", "fa_style"}),
        ({"lca_threshold": 0.999}, {"lca", "lca_share"}),
        ({"acl_w": 0.0}, {"d_pair", "g_pair", "pair_accuracy"}),
        ({"rec_w": 0.0}, {"rec"}),
        ({"style": "random", "style_seed": 7}, set()),
    ],
)
def test_each_switch_changes_its_own_terms_only(changes: dict[str, Any], expected: set[str]) -> None:
    # upper is 0 at small masks: lower the free area so that its changes show
    base = {"upper": 0.2}
    found = differing(first_log(**base), first_log(**{**base, **changes}))
    assert found == expected


def test_without_aaspm_there_is_no_mask_head() -> None:
    method = build(aaspm=False, baml=False)
    assert method.gen_ab.decoder.out.out_channels == 1
    log = method.step(make_batch(), wrappers(method), "train")
    assert not {"bam", "upper", "repulsion", "mask_a", "mask_b"} & log.keys()
    assert {"fa_struct", "lca", "rec", "d_pair"} <= log.keys()
    assert method.translate(make_batch().opacity).mask is None


@pytest.mark.parametrize(
    "weight", ["adv_w", "rec_w", "aaspm_w", "bam_w", "feature_w", "style_w", "classifier_w", "acl_w", "acl_mask_w"]
)
def test_weights_reach_the_loss(weight: str) -> None:
    penalty = {"mask_penalty": "acl_gan"} if weight == "acl_mask_w" else {}
    totals, log = [], {}
    for factor in (1.0, 2.0):
        method = build(**penalty, **{weight: factor * getattr(OursConfig, weight)})
        optim = wrappers(method, Recorder)
        log = {k: float(v) for k, v in method.step(make_batch(), optim, "train").items()}
        totals.append(float(optim["G"].loss))
    c = OursConfig()
    share = {
        "adv_w": 2 * (log["g_adv_a"] + log["g_adv_b"] + 0.2 * log["g_pair"]),
        "acl_w": 2 * 0.2 * log["g_pair"],
        "rec_w": log["rec"],
        "aaspm_w": c.aaspm_w * (log.get("upper", 0) + log.get("repulsion", 0)),
        "acl_mask_w": c.acl_mask_w * log.get("acl_mask", 0),
        "bam_w": c.bam_w * log["bam"],
        "feature_w": c.feature_w * (log["fa_struct"] + c.style_w * log["fa_style"]),
        "style_w": c.feature_w * c.style_w * log["fa_style"],
        "classifier_w": c.classifier_w * log["lca"],
    }
    assert totals[1] - totals[0] == pytest.approx(share[weight], rel=1e-2, abs=1e-5)


def test_lca_reaches_the_generator_only_where_a_finding_is_present() -> None:
    grads = []
    for threshold in (0.5, 0.9999):
        method = build(fa=False, adv_w=0.0, rec_w=0.0, aaspm_w=0.0, bam_w=0.0, lca_threshold=threshold)
        optim = wrappers(method, Recorder)
        log = method.step(make_batch(), optim, "train")
        grads.append(sum(float(g.abs().sum()) for g in optim["G"].grads if g is not None))
        assert float(log["lca_share"]) == (1.0 if threshold == 0.5 else 0.0)
    assert grads[0] > 0 and grads[1] == 0


def test_symmetric_loop_doubles_the_roles() -> None:
    method = build(symmetric=True)
    assert set(method.disc_pair) == {"a", "b"}
    batch = make_batch()
    made = method.make({"a": batch.opacity, "b": batch.clear}, batch.draws)
    assert set(made["a"]) == set(made["b"]) == {"fake", "intra", "back", "rec"}
    one, two = build(), method  # same seed, but the generators come first, so they are equal
    log_one, log_two = (m.step(make_batch(), wrappers(m), "train") for m in (one, two))
    for name in ("rec", "bam", "lca", "lca_share"):
        torch.testing.assert_close(log_one[name], log_two[name], rtol=1e-4, atol=1e-6)
    assert log_two["d_a"] > log_one["d_a"] and log_two["fa_struct"] > log_one["fa_struct"]


def test_prior_stays_as_it_was_and_out_of_the_state() -> None:
    method = build()
    prior = method.holder.module  # type: ignore[union-attr]
    assert isinstance(prior, TinyPrior)
    before = copy.deepcopy(prior.state_dict())
    optim = wrappers(method)
    method.train()
    for step in range(10):
        method.step(make_batch(step=step), optim, "train")
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())
    assert not prior.training and all(p.grad is None for p in prior.parameters())
    assert not [name for name in method.state_dict() if "prior" in name or "holder" in name]
    owned = {id(p) for o in method.optimizers().values() for group in o.param_groups for p in group["params"]}
    assert owned == {id(p) for p in method.parameters()}


def test_discriminators_can_learn_again_after_the_step() -> None:
    method = build()
    method.step(make_batch(), wrappers(method), "train")
    assert all(p.requires_grad for p in method.parameters())


def test_gradients_are_exact_under_data_parallelism(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients(start: int, count: int) -> list[Tensor]:
        method = build().double()
        optim = wrappers(method, Recorder)
        method.step(make_batch(start=start, count=count, total=4, double=True), optim, "train")
        return [g for name in "DG" for g in optim[name].grads if g is not None]

    whole = gradients(0, 4)
    monkeypatch.setattr(losses, "all_reduce", lambda value, op: value.fill_(2.0))  # each of two processes selects two images
    halves = [gradients(0, 2), gradients(2, 2)]
    for full, first, second in zip(whole, *halves, strict=True):
        torch.testing.assert_close((first + second) / 2, full, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_translation_depends_on_neither_batch_size_nor_order(direction: str) -> None:
    method = build(style="random")
    images, seeds = torch.rand(4, 1, 32, 32) * 2 - 1, [3, 1, 4, 1]
    together = method.translate(images, direction, seeds)
    assert together.mask is not None
    assert together.image.shape == images.shape and together.mask.shape == images.shape
    assert together.image.abs().max() <= 1 and together.mask.min() >= 0 and together.mask.max() <= 1
    assert not together.image.requires_grad
    order = [2, 0, 3, 1]
    shuffled = method.translate(images[order], direction, [seeds[i] for i in order])
    torch.testing.assert_close(shuffled.image, together.image[order], rtol=0, atol=1e-5)
    alone = [method.translate(images[i : i + 1], direction, [seeds[i]]).image for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together.image, rtol=0, atol=1e-5)


def test_blend_is_exact_at_the_ends_of_the_mask() -> None:
    method = build()
    raw, x = torch.rand(2, 2, 8, 8) * 2 - 1, torch.rand(2, 1, 8, 8) * 2 - 1
    raw[0, 1], raw[1, 1] = 1, -1
    blended = method._blend(raw, x)
    assert torch.equal(blended.image[0], raw[0, :1]) and torch.equal(blended.image[1], x[1])
    assert blended.mask is not None
    assert torch.equal(blended.mask.amax(dim=(1, 2, 3)), torch.tensor([1.0, 0.0]))


def test_learning_rate_steps_at_40_and_80_percent() -> None:
    method = build()
    factors = {step: method.lr_factor(step, 250_000) for step in (0, 99_999, 100_000, 199_999, 200_000, 249_999)}
    assert list(factors.values()) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_defaults_are_the_papers() -> None:
    c = OursConfig()
    assert (c.adv_w, c.acl_w, c.rec_w, c.aaspm_w, c.bam_w, c.feature_w, c.style_w, c.classifier_w) == (
        *(2, 0.2, 1, 0.01, 0.1, 0.5, 0.5, 0.5),
    )
    assert (c.lr, c.beta1, c.beta2, c.weight_decay) == (1e-4, 0.9, 0.9999, 1e-4)
    method = Ours(OursConfig(fa=False, lca=False), 1)
    assert sum(p.numel() for p in method.parameters()) == 54_819_165
    assert [o.defaults["lr"] for o in build(lr=0.1, disc_lr_factor=2.5).optimizers().values()] == [0.1, 0.25]
    assert {name: type(o) for name, o in method.optimizers().items()} == {"G": torch.optim.Adam, "D": torch.optim.Adam}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"aaspm": False}, "baml"),
        ({"aaspm": False, "baml": False, "mask_penalty": "acl_gan"}, "mask_penalty"),
        ({"mask_penalty": "none"}, "mask_penalty"),
        ({"style": "mean"}, "style"),
        ({"disc_init": "xavier"}, "disc_init"),
        ({"width": 0}, "width"),
    ],
)
def test_contradictory_settings_name_their_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match=key):
        OursConfig(**changes)


def test_prior_is_needed_only_for_alignment() -> None:
    assert METHODS.get("ours") is Ours
    assert Ours.requires(OursConfig()) == {"prior"}
    assert Ours.requires(OursConfig(fa=False)) == {"prior"}
    assert Ours.requires(OursConfig(fa=False, lca=False)) == frozenset()
    with pytest.raises(UsageError, match="prior"):
        Ours(OursConfig(**SMALL), 1)
    blind = TinyPrior(1)
    blind.opacity_indices = ()
    with pytest.raises(UsageError, match="opacity"):
        Ours(OursConfig(**SMALL), 1, blind)


def test_original_returns_the_images() -> None:
    method = METHODS.get("original")(Original.Config(), 1)
    images = torch.rand(2, 1, 8, 8)
    result = method.translate(images)
    assert torch.equal(result.image, images) and result.mask is None
    assert method.stages == () and method.optimizers() == {}
    with pytest.raises(UsageError, match="nothing to train"):
        method.step(None, {}, "train")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("downsamples", 9), ("n_res", -1), ("lr", -1.0), ("beta1", 1.5), ("lr_decay_every", 0.0), ("lca_threshold", 2.0)),
        *(("n_res", 0), ("beta2", 1.0), ("lr_decay", 0.0), ("lr_decay", 1.5), ("upper", 1.5), ("repulsion_centre", -0.1)),
        *(("repulsion_eps", 0.0), ("kappa", -1.0), ("repulsion_height", -0.2), ("bam_w", -0.1), ("mlp_dim", 0)),
        *(("classifier_w", float("nan")), ("weight_decay", -1e-4), ("width", 0)),
    ],
)
def test_values_out_of_range_name_their_key(key: str, value: float) -> None:
    from bench.errors import UsageError

    with pytest.raises(UsageError, match=key):
        METHODS.get("ours").Config(**{key: value})


def test_centre_may_be_negative_where_it_is_read_so() -> None:
    assert OursConfig(repulsion_tanh=True, repulsion_centre=-0.5).repulsion_centre == -0.5


def test_generators_may_take_their_turn_every_second_step() -> None:
    model = build(g_every=2)
    optim = {name: OptimWrapper(optimizer=o) for name, o in model.optimizers().items()}
    batch = make_batch()
    for step, turn in ((0, True), (1, False), (2, True)):
        before = copy.deepcopy(model.state_dict())
        log = model.step(Batch(batch.opacity, batch.clear, Draws(0, step, 0, 2, 2)), optim, "train")
        moved = {k[:3] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert moved == ({"gen", "dis"} if turn else {"dis"})
        assert ("g_total" in log) == turn and "d_total" in log


class OneNoise(Draws):
    """Discriminators get the noise of the generators."""

    def normal(self, name: str, *shape: int) -> Tensor:
        return super().normal(name.removeprefix("disc_"), *shape)


@pytest.mark.parametrize("changes", [{}, {"symmetric": True}, {"aaspm": False, "baml": False}])
def test_a_forward_of_their_own_gives_discriminators_the_same_gradients_for_the_same_noise(changes: dict[str, Any]) -> None:
    grads = []
    for share in (True, False):
        method, batch = build(share_forward=share, **changes), make_batch()
        batch.draws = OneNoise(5, 0, 0, 2, 2)
        optim = wrappers(method, Recorder)
        method.step(batch, optim, "train")
        grads.append({name: optim[name].grads for name in "DG"})
    for name in "DG":
        for one, two in zip(*(g[name] for g in grads), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_forward_of_their_own_shows_discriminators_other_images() -> None:
    logs = []
    for share in (True, False):
        method = build(share_forward=share)
        logs.append({k: float(v) for k, v in method.step(make_batch(), wrappers(method, Recorder), "train").items()})
    d_terms = {"d_a", "d_b", "d_pair", "d_total", "pair_accuracy"}
    assert {"d_a", "d_b", "d_pair", "d_total"} <= differing(*logs) <= d_terms


@pytest.mark.parametrize("share", [True, False])
def test_noise_is_drawn_once_a_name(share: bool) -> None:
    class Counting(Draws):
        def normal(self, name: str, *shape: int) -> Tensor:
            names.append(name)
            return super().normal(name, *shape)

    names = list[str]()
    method, batch = build(share_forward=share), make_batch()
    batch.draws = Counting(5, 0, 0, 2, 2)
    method.step(batch, wrappers(method), "train")
    own = ["disc_style_fake_b", "disc_style_intra_a", "disc_style_back_a"]
    assert names == (own if not share else []) + ["style_fake_b", "style_intra_b", "style_intra_a", "style_back_a"]


def test_bf16_generators_learn_after_a_forward_of_the_discriminators_own() -> None:
    method = build(share_forward=False)
    optim = wrappers(method, Recorder)
    with torch.autocast("cpu", torch.bfloat16):
        method.step(make_batch(), optim, "train")
    assert all(g is not None and g.isfinite().all() for g in optim["G"].grads)


def test_budget_counts_updates_of_the_generators() -> None:
    for every in (1, 2, 3):
        config = OursConfig(g_every=every)
        assert Ours.budget(config, "train", 100, 2) == (100 * every, 2)
        assert Ours.images_seen(config, "train", 100 * every, 2) == 200
