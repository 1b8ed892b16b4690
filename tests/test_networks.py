"""Networks of the MUNIT family: sizes, identities and behaviour that other code rests on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from method_tools import count
from torch import Tensor, nn

from bench.errors import UsageError
from methods.networks.patch_disc import MultiScaleDiscriminator, judge
from methods.networks.style_content import (
    ContentEncoder,
    Decoder,
    LayerNorm,
    ReflectionConv,
    StyleEncoder,
    StyleGenerator,
    instance_norm,
)

LAST = torch.channels_last


@pytest.mark.parametrize(
    ("channels", "style", "content", "decoder", "generator"),
    [(1, 2_758_664, 5_379_584, 5_751_490, 15_010_506), (3, 2_764_936, 5_385_856, 5_757_764, 15_029_324)],
)
def test_masked_generator_counts(channels: int, style: int, content: int, decoder: int, generator: int) -> None:
    net = StyleGenerator(channels, channels + 1)
    parts = (count(net.style), count(net.content), count(net.decoder), count(net.mlp))
    assert parts == (style, content, decoder, 1_120_768)
    assert count(net) == generator


@pytest.mark.parametrize(("channels", "decoder", "generator"), [(1, 5_748_353, 15_007_369), (3, 5_754_627, 15_026_187)])
def test_plain_generator_counts(channels: int, decoder: int, generator: int) -> None:
    net = StyleGenerator(channels, channels)
    assert (count(net.decoder), count(net)) == (decoder, generator)


@pytest.mark.parametrize(("channels", "image", "pair"), [(1, 8_265_027, 8_268_099), (3, 8_271_171, 8_280_387)])
def test_discriminator_counts(channels: int, image: int, pair: int) -> None:
    assert count(MultiScaleDiscriminator(channels)) == image
    assert count(MultiScaleDiscriminator(2 * channels)) == pair


def test_shapes_at_256() -> None:
    x = torch.zeros(1, 1, 256, 256)
    with torch.no_grad():
        assert ContentEncoder(1)(x).shape == (1, 256, 64, 64)
        assert [m.shape for m in MultiScaleDiscriminator(1)(x)] == [(1, 1, 16, 16), (1, 1, 8, 8), (1, 1, 4, 4)]
        assert StyleEncoder(1, width=8)(x).shape == (1, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_generator_output(channels: int) -> None:
    net = StyleGenerator(channels, channels + 1, width=8, n_res=2)
    out = net(torch.rand(2, channels, 32, 48) * 2 - 1, torch.randn(2, 8))
    assert out.shape == (2, channels + 1, 32, 48)
    assert out.abs().max() <= 1


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_is_the_same_in_both_memory_layouts(affine: bool) -> None:
    """Contiguous memory goes through group norm, channels-last memory does not: values and all gradients agree."""
    torch.manual_seed(0)
    x, scale, shift = torch.randn(2, 6, 9, 7) * 3 + 5, torch.randn(2, 6, 1, 1), torch.randn(2, 6, 1, 1)
    found = []
    for layout in (torch.contiguous_format, LAST):
        leaves = [t.clone().requires_grad_() for t in (x, scale, shift)]
        y = instance_norm(leaves[0].contiguous(memory_format=layout), *(leaves[1:] if affine else ()))
        (y * torch.arange(y[0].numel()).view_as(y[0]).sin()).pow(2).sum().backward()
        found.append([y, *(t.grad for t in leaves[: 3 if affine else 1])])
    assert found[0][0].is_contiguous() and found[1][0].is_contiguous(memory_format=LAST)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_instance_norm_in_contiguous_memory_can_be_followed_in_place_and_differentiated_twice() -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: F.leaky_relu(instance_norm(t), 0.2, inplace=True).pow(3), (x,))
    y = instance_norm(x)
    assert not y._is_view()


def test_adain_with_scale_one_and_shift_zero_is_instance_norm() -> None:
    x = torch.randn(2, 5, 9, 7) * 3 + 4
    one, zero = torch.ones(2, 5, 1, 1), torch.zeros(2, 5, 1, 1)
    expected = F.instance_norm(x, eps=1e-5)
    torch.testing.assert_close(instance_norm(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(instance_norm(x, one, zero), expected, rtol=1e-5, atol=1e-5)
    scale, shift = torch.randn(2, 5, 1, 1), torch.randn(2, 5, 1, 1)
    torch.testing.assert_close(instance_norm(x, scale, shift), expected * scale + shift, rtol=1e-5, atol=1e-5)


def test_layer_norm_definition() -> None:
    x = torch.randn(3, 4, 6, 5) * 2 + 1
    norm = LayerNorm(4)
    with torch.no_grad():
        norm.shift.uniform_()
    flat = x.flatten(1)
    plain = ((flat - flat.mean(1, keepdim=True)) / (flat.std(1, correction=1, keepdim=True) + 1e-5)).view_as(x)
    expected = plain * norm.scale.view(1, -1, 1, 1) + norm.shift.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # no spread: eps outside the root keeps it finite
        constant = norm(torch.full((1, 4, 3, 3), 0.5))
    torch.testing.assert_close(constant, norm.shift.detach().view(1, -1, 1, 1).expand_as(constant), rtol=0, atol=0.01)


def test_layer_norm_starts_uniform() -> None:
    norm = LayerNorm(4000)
    assert norm.scale.min() >= 0 and norm.scale.max() <= 1
    assert abs(float(norm.scale.detach().mean()) - 0.5) < 0.03
    assert not norm.shift.any()


def test_norm_gradients() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    scale, shift = (torch.randn(2, 3, 1, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(instance_norm, (x, scale, shift))
    assert torch.autograd.gradcheck(LayerNorm(3).double(), (x,))


def test_norms_keep_channels_last_and_type() -> None:
    x = torch.randn(2, 8, 6, 6).to(memory_format=LAST)
    for norm in (instance_norm, LayerNorm(8)):
        assert norm(x).is_contiguous(memory_format=LAST)
        assert norm(x.bfloat16()).dtype is torch.bfloat16


def test_layer_norm_statistics_are_float32() -> None:
    x = (torch.randn(1, 64, 64, 64) + 30).bfloat16()
    norm = LayerNorm(64)
    nn.init.ones_(norm.scale)
    values = x.float()
    expected = (values - values.mean()) / (values.std() + 1e-5)
    assert (norm(x).float() - expected).abs().max() < 0.02  # a bf16 mean of numbers near 30 would be off by up to 0.06


def test_adain_parameters_are_shift_then_scale_block_by_block() -> None:
    decoder = Decoder(1, width=4, n_res=2, downsamples=1)
    assert decoder.adain_size == 2 * 4 * 8
    content = torch.randn(1, 8, 4, 4)
    adain = torch.zeros(1, decoder.adain_size)
    seen: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: seen.append(out)) for block in decoder.blocks]
    adain[:, 16:24] = 2.0  # shift of the first block's second norm: with all scales 0 the block adds just that
    adain[:, 32 + 16 : 32 + 24] = -1.0
    decoder(content, adain)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(seen[0], content + 2)
    torch.testing.assert_close(seen[1], content + 1)


def test_initial_weights() -> None:
    net = StyleGenerator(1, 2, width=32)
    conv, out = net.decoder.blocks[0].conv1, net.decoder.out
    assert isinstance(conv, nn.Conv2d)
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert float(out.weight.detach().std()) == pytest.approx((2 / (32 * 49)) ** 0.5, rel=0.05)
    assert all(not p.any() for name, p in net.named_parameters() if name.endswith("bias"))
    normal, kaiming = MultiScaleDiscriminator(1, 32), MultiScaleDiscriminator(1, 32, init="kaiming")
    assert float(normal.scales[0][4].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(kaiming.scales[0][4].weight.detach().std()) == pytest.approx((2 / 1.04 / (64 * 16)) ** 0.5, rel=0.02)
    with pytest.raises(UsageError, match="disc_init"):
        MultiScaleDiscriminator(1, 8, init="xavier")


def test_judging_sets_together_equals_judging_them_apart() -> None:
    disc = MultiScaleDiscriminator(1, 8, layers=3, scales=2, init="kaiming")
    first, second = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)
    for together, alone in zip(judge(disc, [first, second]), (disc(first), disc(second)), strict=True):
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_pooling_between_scales_does_not_count_padding() -> None:
    disc = MultiScaleDiscriminator(1, 8, layers=1, scales=2)
    seen: list[Tensor] = []
    disc.scales[1].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    disc(torch.ones(1, 1, 16, 16))
    torch.testing.assert_close(seen[0], torch.ones(1, 1, 8, 8))


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 64"):
        MultiScaleDiscriminator(1, 4)(torch.zeros(1, 1, 32, 32))
    assert len(MultiScaleDiscriminator(1, 4)(torch.zeros(1, 1, 64, 64))) == 3
    with pytest.raises(UsageError, match="multiple of 4"):
        ContentEncoder(1, 4)(torch.zeros(1, 1, 30, 30))


def test_bf16_autocast_keeps_padding_narrow_and_results_finite() -> None:
    net = StyleGenerator(1, 2, width=8, n_res=1)
    pads: list[torch.dtype] = []
    conv = net.decoder.up[0]
    assert isinstance(conv, ReflectionConv)
    conv.register_forward_pre_hook(lambda _m, args: pads.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        out = net(torch.rand(1, 1, 32, 32), torch.randn(1, 8))
        padded = conv(torch.randn(1, 32, 8, 8).bfloat16())
    assert pads[0] is torch.bfloat16 and padded.dtype is torch.bfloat16
    assert out.dtype is torch.float32 and out.isfinite().all()


def test_networks_trace_as_one_graph_and_keep_channels_last() -> None:
    net = StyleGenerator(1, 2, width=4, n_res=1)
    x, z = torch.randn(2, 1, 16, 16).to(memory_format=LAST), torch.randn(2, 8)
    broken: list[str] = []
    for name, module in net.to(memory_format=LAST).named_modules():
        if isinstance(module, ReflectionConv | LayerNorm):
            module.register_forward_hook(
                lambda _m, _i, out, n=name: None if out.is_contiguous(memory_format=LAST) else broken.append(n)
            )
    expected = net(x, z)
    assert not broken
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(x, z)
        compiled = torch.compile(net, fullgraph=True, backend="eager")(x, z)  # traced only: generating code takes a minute
    torch.testing.assert_close(compiled, narrow, rtol=1e-2, atol=1e-2)
    assert (narrow - expected).abs().mean() < 0.05
