"""DRIT++: sizes of its networks, terms of its losses, and its settings."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from drit_tools import build, trained_by
from method_tools import count, one_thread  # noqa: F401  (a fixture)
from torch import nn

from bench.errors import UsageError
from bench.registry import METHODS
from methods import losses
from methods.drit import Drit, DritConfig
from methods.networks import drit as networks
from methods.networks.patch_disc import MultiScaleDiscriminator

# ---- networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "concat", "expected"),
    [
        (3, True, (9_018_112, 2_688_160, 9_564_710, 8_271_171, 10_683_649, 65_039_315)),
        (1, True, (9_005_568, 2_684_064, 9_564_386, 8_265_027, 10_683_649, 64_997_775)),
        (3, False, (9_018_112, 5_529_872, 17_146_374, 8_271_171, 10_683_649, 75_462_691)),
        (1, False, (9_005_568, 5_517_328, 17_146_114, 8_265_027, 10_683_649, 75_412_767)),
    ],
)
def test_published_sizes(channels: int, concat: bool, expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        m = Drit(DritConfig(concat=concat), channels)
    parts = (count(m.content, m.content_shared), count(m.attribute), count(m.decoder, m.decoder_shared))
    assert (*parts, count(m.disc["a"]), count(m.disc_content), count(m)) == expected
    images = torch.empty(1, channels, 256, 256, device="meta")
    code = m.content_shared(m.content["a"](images))
    assert code.shape == (1, 256, 64, 64)
    assert m.attribute["a"](images).shape == (1, 16 if concat else 8)
    assert m.decoder["b"](m.decoder_shared(code), torch.empty(1, 8, device="meta")).shape == images.shape
    assert [x.shape[-1] for x in m.disc["a2"](images)] == [16, 8, 4]


@pytest.mark.parametrize(("size", "side"), [(53, 1), (54, 1), (64, 2), (128, 10)])
def test_content_discriminator_sizes(size: int, side: int) -> None:
    with torch.device("meta"):
        (out,) = networks.ContentDiscriminator(256)(torch.empty(2, 256, size, size))
    assert out.shape == (2, 1, side, side)


@pytest.mark.parametrize(("layers", "least"), [(0, 4), (1, 11), (2, 25), (3, 53)])
def test_small_images_need_a_smaller_content_discriminator(layers: int, least: int) -> None:
    disc = networks.ContentDiscriminator(4, layers)
    assert disc(torch.zeros(1, 4, least, least))[0].shape == (1, 1, 1, 1)
    with pytest.raises(UsageError, match=f"at least {4 * least}.*content_disc_layers"):
        disc(torch.zeros(1, 4, least - 1, least))


def test_image_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 4"):
        networks.ContentBody(1, 4)(torch.zeros(1, 1, 30, 32))


def test_layer_norm_is_the_standard_one() -> None:
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64) * 3 + 1
    norm = networks.LayerNorm(6).double()
    with torch.no_grad():
        norm.scale.uniform_(0.5, 2)
        norm.shift.normal_()
    plain = F.layer_norm(x, x.shape[1:])
    torch.testing.assert_close(norm(x), plain * norm.scale.view(1, -1, 1, 1) + norm.shift.view(1, -1, 1, 1))


def test_discriminators_have_the_slope_of_their_publication() -> None:
    leaky = [m.negative_slope for m in build().disc.modules() if isinstance(m, nn.LeakyReLU)]
    assert set(leaky) == {0.01}
    assert {m.negative_slope for m in MultiScaleDiscriminator(1, 4).modules() if isinstance(m, nn.LeakyReLU)} == {0.2}


def test_initial_weights() -> None:
    normal, kaiming = (dict(build(width=16, init=init).named_parameters()) for init in ("normal", "kaiming"))
    up = "decoder.b.up.0.conv.weight"
    for name in ("content.a.down.1.weight", up):
        assert float(normal[name].detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(normal["disc_content.body.0.bias"].detach().abs().max()) > 0  # biases are PyTorch's
    assert float(kaiming[up].detach().std()) == pytest.approx((2 / (len(kaiming[up]) * 9)) ** 0.5, rel=0.05)


# ---- losses --------------------------------------------------------------------------------------------------------------


def test_cross_entropy_sums_scales_and_averages_values() -> None:
    maps = [torch.tensor([[[[0.0, log(3)]]]]), torch.tensor([[[[0.0]]]])]
    # sigmoids 1/2, 3/4 and 1/2: -log of them, or of what is left to 1
    assert float(losses.bce_gan(maps, 1)) == pytest.approx((log(2) + log(4 / 3)) / 2 + log(2))
    assert float(losses.bce_gan(maps, 0)) == pytest.approx((log(2) + log(4)) / 2 + log(2))
    assert float(losses.bce_gan([maps[1]], 0.5)) == pytest.approx(log(2))
    assert float(losses.bce_gan(maps, 0.5)) == pytest.approx((log(2) + (log(4 / 3) + log(4)) / 2) / 2 + log(2))


def test_attribute_terms() -> None:
    mean, log_variance = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, log(2)], [0.0, 0.0]])
    # first code: 1/2 and (2 - 1 - log 2) / 2; second: 0 and 2
    assert float(losses.kl_normal(mean, log_variance)) == pytest.approx((0.5 + (1 - log(2)) / 2 + 2) / 2)
    assert float(losses.kl_normal(torch.zeros(3, 8), torch.zeros(3, 8))) == 0
    assert float(losses.mean_square(torch.tensor([[1.0, 3.0]]))) == pytest.approx(5.0)


def test_mode_seeking_term() -> None:
    one, two = torch.zeros(2, 1, 2, 2), torch.stack([torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.1)])
    z, other = torch.zeros(2, 4), torch.ones(2, 4)
    # images 0.5 and 0.1 apart for codes 1 apart
    assert float(losses.mode_seeking(one, two, z, other)) == pytest.approx((2 + 10) / 2, rel=1e-3)
    assert float(losses.mode_seeking(one, one, z, other)) == pytest.approx(1e5, rel=1e-3)


def test_defaults_are_the_published_ones() -> None:
    c = DritConfig()
    assert (c.adv_w, c.content_adv_w, c.cycle_w, c.self_w, c.kl_w, c.code_w, c.latent_w, c.mode_w) == (
        *(1, 1, 10, 10, 0.01, 0.01, 10, 1),
    )
    assert (c.mode_seeking, c.concat, c.d_iter, c.content_clip) == (True, True, 3, 5)
    rates = {name: o.defaults["lr"] for name, o in build(lr=1e-4).optimizers().items()}
    assert rates == pytest.approx({"G": 1e-4, "D": 1e-4, "D_content": 4e-5})
    for optimizer in build().optimizers().values():
        assert (optimizer.defaults["betas"], optimizer.defaults["weight_decay"]) == ((0.5, 0.999), 1e-4)
    method = build()
    owned = {id(p) for name in ("G", "D", "D_content") for p in trained_by(method, name)}
    assert owned == {id(p) for p in method.parameters()}
    assert [method.lr_factor(s, 1200) for s in (0, 599, 900)] == [1, 1, 0.5]
    assert METHODS.get("drit") is Drit


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        *[({"style": "mean"}, "style"), ({"init": "xavier"}, "init"), ({"d_iter": 0}, "d_iter"), ({"lr": 0.0}, "lr")],
        *[({"kl_w": -0.1}, "kl_w"), ({"beta2": 1.0}, "beta2"), ({"weight_decay": -1.0}, "weight_decay")],
        ({"mode_w": float("nan")}, "mode_w"),
    ],
)
def test_settings_that_mean_nothing_name_their_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match=key):
        DritConfig(**changes)
