"""UNIT: its step against the losses written out image by image, what it shares with MUNIT, and what it promises the harness."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from autoencoding_tools import lsgan, make_batch
from autoencoding_tools import unit as build
from method_tools import DoubleDraws, Recorder, count, one_thread, wrappers  # noqa: F401  (a fixture)
from torch import Tensor

from bench.config import load, section_config, train_config
from bench.contracts import Batch
from bench.errors import UsageError
from bench.registry import METHODS
from methods.unit import Unit, UnitConfig, kl


def first_log(**changes: Any) -> dict[str, float]:
    method = build(**changes)
    return {name: float(v) for name, v in method.step(make_batch(), wrappers(method), "train").items()}


def written_out(method: Unit, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Terms of both sides, every image through every network on its own, and the generators' weighted sum."""
    a, b, gen_a, gen_b = batch.opacity, batch.clear, method.gen["a"], method.gen["b"]

    def noisy(code: Tensor, name: str) -> Tensor:
        return code + batch.draws.normal_map(name, *code.shape[1:])

    h_a, h_b = gen_a.encoder(a), gen_b.encoder(b)
    z_a, z_b = noisy(h_a, "code_a"), noisy(h_b, "code_b")
    fake_a, fake_b = gen_a.decoder(z_b), gen_b.decoder(z_a)
    back_b, back_a = gen_a.encoder(fake_a), gen_b.encoder(fake_b)
    disc_a, disc_b = method.disc["a"], method.disc["b"]
    terms = {
        "d_a": lsgan(disc_a, a, 1) + lsgan(disc_a, fake_a.detach(), 0),
        "d_b": lsgan(disc_b, b, 1) + lsgan(disc_b, fake_b.detach(), 0),
        "g_adv_a": lsgan(disc_a, fake_a, 1),
        "g_adv_b": lsgan(disc_b, fake_b, 1),
        "rec_a": (gen_a.decoder(z_a) - a).abs().mean(),
        "rec_b": (gen_b.decoder(z_b) - b).abs().mean(),
        "kl_a": (h_a**2).mean(),
        "kl_b": (h_b**2).mean(),
        "kl_cyc_a": (back_a**2).mean(),
        "kl_cyc_b": (back_b**2).mean(),
        "cyc_a": (gen_a.decoder(noisy(back_a, "cycle_a")) - a).abs().mean(),
        "cyc_b": (gen_b.decoder(noisy(back_b, "cycle_b")) - b).abs().mean(),
    }
    weights = {"g_adv": 1, "rec": 10, "kl": 0.01, "kl_cyc": 0.01, "cyc": 10}
    return terms, torch.stack([w * (terms[f"{k}_a"] + terms[f"{k}_b"]) for k, w in weights.items()]).sum()


@pytest.mark.parametrize("channels", [1, 3])
def test_step_gives_the_terms_and_gradients_of_the_written_out_losses(channels: int) -> None:
    method, batch = build(channels).double(), make_batch(channels, draws=DoubleDraws)
    optim = wrappers(method, Recorder)
    log = method.step(batch, optim, "train")
    assert isinstance(batch.draws, DoubleDraws) and len(set(batch.draws.asked)) == len(batch.draws.asked) == 4
    terms, g_total = written_out(method, batch)
    assert log.keys() == terms.keys() | {"d_total", "g_total"}
    for name, term in terms.items():
        torch.testing.assert_close(log[name], term.detach(), msg=name)
    for name, loss in {"D": terms["d_a"] + terms["d_b"], "G": g_total}.items():
        torch.testing.assert_close(optim[name].loss, loss.detach())
        parameters = optim[name].optimizer.param_groups[0]["params"]
        for got, expected in zip(optim[name].grads, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-12)


def test_kl_of_known_codes() -> None:
    assert float(kl(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))) == 3.5
    assert kl(torch.full((1, 4), 300.0).bfloat16()).dtype is torch.float32


def test_a_forward_of_their_own_has_noise_of_its_own_and_leaves_generators_alone() -> None:
    batch = make_batch(draws=DoubleDraws)
    method = build(share_forward=False).double()
    calls = {"encoder": 0, "decoder": 0}
    for kind in calls:
        for d in "ab":

            def counted(*_: Any, kind: str = kind) -> None:
                calls[kind] += 1

            getattr(method.gen[d], kind).register_forward_hook(counted)
    separate = method.step(batch, wrappers(method, Recorder), "train")
    assert isinstance(batch.draws, DoubleDraws)
    assert batch.draws.asked == ["disc_code_a", "disc_code_b", "code_a", "code_b", "cycle_a", "cycle_b"]
    assert calls == {"encoder": 6, "decoder": 6}
    method = build().double()
    shared = method.step(make_batch(draws=DoubleDraws), wrappers(method, Recorder), "train")
    torch.testing.assert_close(separate["g_total"], shared["g_total"])
    assert abs(float(separate["d_total"] - shared["d_total"])) > 1e-6


def test_generators_learn_from_the_updated_discriminators() -> None:
    method, batch = build(lr=1e-2), make_batch()
    before = copy.deepcopy(method)
    log = method.step(batch, wrappers(method), "train")
    updated = copy.deepcopy(before)
    updated.disc.load_state_dict(method.disc.state_dict())
    old, new = (probe.step(batch, wrappers(probe, Recorder), "train")["g_adv_b"] for probe in (before, updated))
    torch.testing.assert_close(log["g_adv_b"], new, rtol=1e-5, atol=1e-6)
    assert abs(float(old - new)) > 0.01
    assert all(p.requires_grad for p in method.parameters())


@pytest.mark.parametrize("share", [True, False])
def test_autocast_serves_no_stale_weights(share: bool) -> None:
    method, batch = build(lr=1e-2, share_forward=share), make_batch()
    updated = copy.deepcopy(method)
    optim = wrappers(updated, Recorder)
    with torch.autocast("cpu", torch.bfloat16):
        log = method.step(batch, wrappers(method), "train")
    updated.disc.load_state_dict(method.disc.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        expected = updated.step(batch, optim, "train")
    torch.testing.assert_close(log["g_adv_b"], expected["g_adv_b"], rtol=1e-3, atol=1e-3)
    assert all(v.isfinite() and v.dtype is torch.float32 for v in log.values())
    assert all(g is not None and g.isfinite().all() for g in optim["G"].grads)


def test_it_learns_to_draw_images_again() -> None:
    method = build(lr=4e-3)
    optim = wrappers(method)
    logs = [method.step(make_batch(), optim, "train") for _ in range(15)]
    for name in ("rec_a", "rec_b", "cyc_a", "cyc_b"):
        assert float(logs[-1][name]) < 0.9 * float(logs[0][name]), name


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"rec_w": 0.0}, {"rec_a", "rec_b"}),
        ({"cyc_w": 0.0}, {"cyc_a", "cyc_b"}),
        ({"cyc_w": 0.0, "kl_cyc_w": 0.0}, {"cyc_a", "cyc_b", "kl_cyc_a", "kl_cyc_b"}),
        ({"kl_w": 0.0}, set()),
    ],
)
def test_passes_that_nobody_weighs_are_left_out(changes: dict[str, Any], gone: set[str]) -> None:
    everything, fewer = first_log(), first_log(**changes)
    assert everything.keys() - fewer.keys() == gone and not fewer.keys() - everything.keys()
    for name in fewer.keys() - {"g_total"}:
        assert fewer[name] == pytest.approx(everything[name], rel=1e-4)
    assert fewer["g_total"] < everything["g_total"]


@pytest.mark.parametrize("weight", ["adv_w", "rec_w", "cyc_w", "kl_w", "kl_cyc_w"])
def test_weights_reach_the_losses(weight: str) -> None:
    base = build(lr=1e-9), build(lr=1e-9, **{weight: 2 * getattr(UnitConfig, weight)})
    one, two = (m.step(make_batch(), wrappers(m, Recorder), "train") for m in base)
    term = "g_adv" if weight == "adv_w" else weight.removesuffix("_w")
    expected = getattr(UnitConfig, weight) * (one[f"{term}_a"] + one[f"{term}_b"])
    torch.testing.assert_close(two["g_total"] - one["g_total"], expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(two["d_total"], (2 if weight == "adv_w" else 1) * one["d_total"])


@pytest.mark.parametrize(("direction", "origin", "target"), [("a2b", "a", "b"), ("b2a", "b", "a")])
def test_translation_is_the_decoded_mean_code(direction: str, origin: str, target: str) -> None:
    method, images = build(), torch.rand(3, 1, 32, 32) * 2 - 1
    result = method.translate(images, direction, [1, 2, 3])
    assert result.mask is None and not result.image.requires_grad and result.image.abs().max() <= 1
    with torch.no_grad():
        torch.testing.assert_close(result.image, method.gen[target].decoder(method.gen[origin].encoder(images)))
    assert torch.equal(result.image, method.translate(images, direction).image)
    alone = torch.cat([method.translate(images[i : i + 1], direction).image for i in (2, 0)])
    torch.testing.assert_close(alone, result.image[[2, 0]], rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="direction"):
        method.translate(images, "b2b")


@pytest.mark.parametrize(
    ("channels", "encoder", "decoder", "total"),
    [(1, 5_379_584, 5_748_353, 38_785_928), (3, 5_385_856, 5_754_627, 38_823_308)],
)
def test_counts_of_the_published_networks(channels: int, encoder: int, decoder: int, total: int) -> None:
    with torch.device("meta"):
        method = Unit(UnitConfig(), channels)
    for d in "ab":
        assert (count(method.gen[d].encoder), count(method.gen[d].decoder)) == (encoder, decoder)
    assert count(method) == total


def test_optimizers_own_every_parameter_once() -> None:
    method = build(lr=0.1, disc_lr_factor=2.5)
    optimizers = method.optimizers()
    assert {k: (type(o), o.defaults["lr"]) for k, o in optimizers.items()} == {
        "G": (torch.optim.Adam, 0.1),
        "D": (torch.optim.Adam, 0.25),
    }
    assert all(o.defaults["betas"] == (0.5, 0.999) and o.defaults["weight_decay"] == 1e-4 for o in optimizers.values())
    owned = [id(p) for o in optimizers.values() for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in method.parameters())


def test_learning_rate_steps() -> None:
    assert [build().lr_factor(s, 250_000) for s in (0, 99_999, 100_000, 200_000, 249_999)] == [1, 1, 0.5, 0.25, 0.25]
    published = build(lr_decay_every=0.1)
    assert [published.lr_factor(s, 1_000_000) for s in (99_999, 100_000, 300_000, 999_999)] == [1, 0.5, 0.125, 0.5**9]


def test_defaults_and_presets() -> None:
    assert METHODS.get("unit") is Unit and Unit.directions == ("a2b", "b2a")
    c = UnitConfig()
    assert (c.adv_w, c.rec_w, c.cyc_w, c.kl_w, c.kl_cyc_w) == (1, 10, 10, 0.01, 0.01)
    assert (c.lr, c.beta1, c.beta2, c.weight_decay, c.lr_decay) == (1e-4, 0.5, 0.999, 1e-4, 0.5)
    paper, quick = load("paper"), load("quick")
    assert section_config(UnitConfig, paper.methods, "methods", "unit") == UnitConfig(lr_decay_every=0.1)
    assert (train_config(paper, "unit").iterations, train_config(paper, "unit").batch_size) == (1_000_000, 1)
    assert section_config(UnitConfig, quick.methods, "methods", "unit").width == 16


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("disc_init", "xavier"), ("width", 0), ("disc_scales", 0), ("n_res", -1), ("downsamples", 9), ("beta2", 1.5)),
        *(("lr", 0.0), ("lr_decay_every", 0.0), ("cyc_w", -1.0), ("kl_w", -0.1), ("weight_decay", -1.0), ("lr_decay", 2.0)),
        *(("beta1", 1.0), ("lr_decay", 0.0), ("adv_w", float("nan")), ("lr", float("inf"))),
    ],
)
def test_values_that_mean_nothing_name_their_key(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=key):
        UnitConfig(**{key: value})
