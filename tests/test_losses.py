"""Loss terms against values worked out by hand, and their gradients in float64."""

from __future__ import annotations

from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods import losses


def double(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return (torch.rand(*shape, dtype=torch.float64) * (high - low) + low).requires_grad_()


def test_lsgan_sums_scales_and_averages_pixels() -> None:
    maps = [torch.tensor([[[[0.0, 0.5]]]]), torch.tensor([[[[2.0]]]])]
    # target 1: mean(1, 0.25) + 1 = 1.625; target 0: mean(0, 0.25) + 4 = 4.125
    assert float(losses.lsgan(maps, 1)) == pytest.approx(1.625)
    assert float(losses.lsgan(maps, 0)) == pytest.approx(4.125)
    # above 0.5: (no, no) and (yes) -> right for target 1: 0 and 1, mean 0.5; for target 0: 1 and 0
    assert float(losses.lsgan_accuracy(maps, 1)) == pytest.approx(0.5)
    assert float(losses.lsgan_accuracy([maps[0]], 0)) == 1.0


def test_l1() -> None:
    assert float(losses.l1(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 1.0]))) == pytest.approx(1.25)


def test_mask_upper() -> None:
    mask = torch.stack([torch.full((1, 4, 4), 0.95), torch.full((1, 4, 4), 0.75)])
    # (175 * 0.2^2 + 0) / 2 = 3.5; per image: an empty second mask must not pay for the first
    assert float(losses.mask_upper(mask)) == pytest.approx(3.5, rel=1e-5)
    mask[1] = 0
    assert float(losses.mask_upper(mask)) == pytest.approx(3.5, rel=1e-5)
    assert float(losses.mask_upper(torch.full((1, 1, 4, 4), 0.75))) == 0


@pytest.mark.parametrize(("value", "expected"), [(0.0, 1.555), (0.1, 2.512), (0.5, 1.195), (1.0, 1.019)])
def test_mask_repulsion_values(value: float, expected: float) -> None:
    assert float(losses.mask_repulsion(torch.full((2, 1, 3, 3), value))) == pytest.approx(expected, abs=6e-4)


def test_mask_repulsion_peaks_at_its_centre() -> None:
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    values = torch.stack([losses.mask_repulsion(v.view(1, 1, 1, 1)) for v in grid])
    assert float(grid[values.argmax()]) == pytest.approx(0.1)
    other = torch.stack([losses.mask_repulsion(v.view(1, 1, 1, 1), tanh_range=True) for v in grid])
    assert float(grid[other.argmax()]) == pytest.approx(0.55)
    # literal reading at m = 0, t = -1: (1.1 + 0.01)^-0.2 = 0.97935
    assert float(other[0]) == pytest.approx(0.97935, abs=1e-5)


def test_baml_is_the_mean_area() -> None:
    assert float(losses.baml(torch.tensor([[[[0.0, 0.5]]], [[[1.0, 0.1]]]]))) == pytest.approx(0.4)


def test_acl_mask() -> None:
    mask = torch.full((3, 1, 4, 4), 0.6)
    # area 0.6: 65.536 * 0.1^2 = 0.65536; pixels: 1 / (0.1 + 0.01) / 3 = 3.030303
    assert float(losses.acl_mask(mask)) == pytest.approx(0.65536 + 3.030303, rel=1e-4)
    # area 0.2: 65.536 * 0.1^2; pixels: 1 / 0.31 / 3 = 1.075269
    assert float(losses.acl_mask(torch.full((3, 1, 4, 4), 0.2))) == pytest.approx(0.65536 + 1.075269, rel=1e-4)
    # of the whole batch: (1 + 0 + 0.2) / 3 = 0.4 lies inside the bounds; pixels (1/0.51 + 1/0.51 + 1/0.31) / 9
    mask = torch.stack([torch.full((1, 4, 4), v) for v in (1.0, 0.0, 0.2)])
    assert float(losses.acl_mask(mask)) == pytest.approx((2 / 0.51 + 1 / 0.31) / 9, rel=1e-4)


def test_acl_mask_equals_upstream_sums_at_upstream_size() -> None:
    m = torch.rand(3, 1, 256, 256, dtype=torch.float64) * 0.4 + 0.4
    size = 0.001 * F.relu((m - 0.5).sum()) ** 2 + 0.001 * F.relu((0.3 - m).sum()) ** 2
    literal = (size + (1 / ((m - 0.5).abs() + 0.01)).sum()) / (3 * 256 * 256 * 3)
    torch.testing.assert_close(losses.acl_mask(m), literal)


def test_fa_structural() -> None:
    # one channel, two pixels: (0, 2) -> (-1, 1), (0, 4) -> (-1, 1), (4, 0) -> (1, -1) (eps aside)
    rising, steeper, falling = (torch.tensor(v).view(1, 1, 1, 2) for v in ([0.0, 2.0], [0.0, 4.0], [4.0, 0.0]))
    assert float(losses.fa_structural(rising, steeper)) == pytest.approx(0, abs=1e-8)
    assert float(losses.fa_structural(rising, falling)) == pytest.approx(4, rel=1e-4)
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    expected = F.mse_loss(F.instance_norm(x), F.instance_norm(y))
    torch.testing.assert_close(losses.fa_structural(x, y), expected)


def test_fa_style() -> None:
    # F = [[1, 1], [0, 2]] over 2 pixels: F F^T / 2 = [[1, 1], [1, 2]]; G = 0: mean squared entries (1 + 1 + 1 + 4) / 4
    features = torch.tensor([[1.0, 1.0], [0.0, 2.0]]).view(1, 2, 1, 2)
    torch.testing.assert_close(losses.gram(features), torch.tensor([[[1.0, 1.0], [1.0, 2.0]]]))
    assert float(losses.fa_style(features, torch.zeros_like(features))) == pytest.approx(7 / 4)


def test_lca_by_hand() -> None:
    source = torch.tensor([[0.9, 0.6, 0.8], [0.2, 0.9, 0.1], [0.7, 0.1, 0.2]])
    translated = torch.tensor([[0.5, 0.1, 0.75], [0.9, 0.9, 0.9], [0.2, 0.9, 0.9]])
    # opacities are columns 0 and 2. Image 0 selects both: (-log 0.5 - log 0.25) / 2; image 1 none (column 1 is no opacity);
    # image 2 selects column 0: -log 0.8. Mean over the two images with a selection.
    loss, share = losses.lca(translated, source, (0, 2))
    assert float(loss) == pytest.approx(((-log(0.5) - log(0.25)) / 2 - log(0.8)) / 2)
    assert float(share) == pytest.approx(2 / 3)
    assert float(losses.lca(translated, source, (0, 2), threshold=0.85)[1]) == pytest.approx(1 / 3)


def test_lca_gradient_only_where_a_finding_was_present() -> None:
    source = torch.tensor([[0.9, 0.4], [0.1, 0.2]])
    translated = torch.tensor([[0.6, 0.6], [0.6, 0.6]], requires_grad=True)
    loss, _ = losses.lca(translated, source, (0, 1))
    loss.backward()
    assert translated.grad is not None
    torch.testing.assert_close(translated.grad, torch.tensor([[1 / 0.4, 0.0], [0.0, 0.0]]))  # d(-log(1-p)) = 1/(1-p)


def test_lca_without_any_finding_is_zero_and_differentiable() -> None:
    translated = torch.full((2, 2), 0.9, requires_grad=True)
    loss, share = losses.lca(translated, torch.full((2, 2), 0.5), (0, 1))
    loss.backward()
    assert float(loss.detach()) == 0 and float(share) == 0
    assert translated.grad is not None and not translated.grad.any()


def test_lca_of_a_certain_finding_is_finite() -> None:
    loss, _ = losses.lca(torch.ones(1, 1), torch.ones(1, 1), (0,))
    assert float(loss) == pytest.approx(-log(1e-6), rel=0.02)


def test_lca_and_acl_mask_are_exact_under_data_parallelism(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.tensor([[0.9], [0.8], [0.7], [0.1]], dtype=torch.float64)
    translated = double(4, 1)
    whole, share = losses.lca(translated, source, (0,))
    (whole_grad,) = torch.autograd.grad(whole, translated)
    mask = double(4, 1, 3, 3, low=0.5)
    (mask_grad,) = torch.autograd.grad(losses.acl_mask(mask), mask)

    answer: list[float] = []  # what two processes would agree on
    monkeypatch.setattr(losses, "all_reduce", lambda value, op: value.fill_(answer[0]))
    answer[:] = [1.5]  # (2 + 1) / 2 images selected
    parts = [losses.lca(translated[i : i + 2], source[i : i + 2], (0,)) for i in (0, 2)]
    (grad,) = torch.autograd.grad(torch.stack([p[0] for p in parts]).mean(), translated)
    torch.testing.assert_close(grad, whole_grad)
    assert all(float(p[1]) == pytest.approx(float(share)) for p in parts)
    answer[:] = [float(mask.detach().mean())]
    (grad,) = torch.autograd.grad(torch.stack([losses.acl_mask(mask[i : i + 2]) for i in (0, 2)]).mean(), mask)
    torch.testing.assert_close(grad, mask_grad)


def test_gradients() -> None:
    torch.manual_seed(0)
    check = torch.autograd.gradcheck
    mask = double(2, 1, 3, 3, low=0.75, high=0.95)
    assert check(lambda m: losses.lsgan([m, m[..., :1]], 1.0), (double(2, 1, 3, 3, low=-1),))
    assert check(lambda m: losses.l1(m, torch.zeros_like(m)), (double(5, low=0.1),))
    assert check(losses.mask_upper, (mask,))
    assert check(losses.mask_repulsion, (mask,))
    assert check(losses.mask_repulsion, (double(2, 1, 3, 3, high=0.09),))
    assert check(losses.baml, (mask,))
    assert check(losses.acl_mask, (mask,))
    features, other = double(2, 3, 2, 2, low=-1), double(2, 3, 2, 2, low=-1).detach()
    assert check(lambda f: losses.fa_structural(f, other), (features,))
    assert check(lambda f: losses.fa_style(f, other), (features,))
    source = torch.tensor([[0.9, 0.2], [0.8, 0.7]], dtype=torch.float64)
    assert check(lambda p: losses.lca(p, source, (0, 1))[0], (double(2, 2, low=0.1, high=0.9),))


@pytest.mark.parametrize("loss", [losses.fa_structural, losses.fa_style])
def test_alignment_pulls_only_the_translation(loss: object) -> None:
    source = double(1, 2, 3, 3)
    assert callable(loss)
    loss(double(1, 2, 3, 3), source).backward()
    assert source.grad is None


def test_reductions_are_float32_whatever_comes_in() -> None:
    mask = torch.rand(2, 1, 64, 64).bfloat16()
    features = torch.rand(2, 8, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        terms = [
            losses.lsgan([mask], 1),
            losses.l1(mask, mask),
            losses.mask_upper(mask),
            losses.mask_repulsion(mask),
            losses.baml(mask),
            losses.acl_mask(mask),
            losses.fa_structural(features, features),
            losses.fa_style(features, features),
            losses.lca(features[:, :, 0, 0], features[:, :, 0, 0], (0, 1))[0],
        ]
    assert {t.dtype for t in terms} == {torch.float32}
    torch.testing.assert_close(losses.baml(mask), mask.float().mean())
