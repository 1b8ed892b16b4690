"""What no method's settings may be: one rule for all of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest

from bench import checking
from bench.errors import UsageError
from bench.registry import METHODS
from methods import BUILTIN

NAN, INF = float("nan"), float("inf")
CONFIGS = {name: METHODS.get(name).Config for name in (*BUILTIN, "mmagic:cyclegan") if name != "original"}


def keys(*wanted: str, ending: str = "\0") -> list[tuple[str, str]]:
    """Methods with those of the keys that they have."""
    named = [(m, f.name) for m, config in CONFIGS.items() for f in fields(config)]
    return [(m, name) for m, name in named if name in wanted or name.endswith(ending)]


@pytest.mark.parametrize(("method", "key"), keys("weight_decay", ending="_w"))
def test_weights_are_finite_and_not_negative(method: str, key: str) -> None:
    for bad in (-1e-3, NAN, INF):
        with pytest.raises(UsageError, match=f"^{key}: "):
            CONFIGS[method](**{key: bad})
    assert getattr(CONFIGS[method](**{key: 0.0}), key) == 0


@pytest.mark.parametrize(("method", "key"), keys("beta1", "beta2", "pretrain_beta1", "pretrain_beta2"))
def test_betas_are_below_one(method: str, key: str) -> None:
    for bad in (-0.1, 1.0, NAN):
        with pytest.raises(UsageError, match=f"^{key}: "):
            CONFIGS[method](**{key: bad})


@pytest.mark.parametrize(
    ("method", "key"),
    keys("lr", "disc_lr_factor", "lr_decay", "lr_decay_every", "repulsion_eps", "temperature", "content_clip"),
)
def test_rates_are_finite_and_above_zero(method: str, key: str) -> None:
    for bad in (0.0, -1.0, NAN, INF):
        with pytest.raises(UsageError, match=f"^{key}: "):
            CONFIGS[method](**{key: bad})


@pytest.mark.parametrize(
    ("method", "key"), keys("width", "disc_width", "disc_layers", "disc_scales", "style_dim", "mlp_dim")
)
def test_sizes_are_at_least_one(method: str, key: str) -> None:
    with pytest.raises(UsageError, match=f"^{key}: "):
        CONFIGS[method](**{key: 0})


@pytest.mark.parametrize("method", ["munit", "acl_gan", "ours"])
def test_styled_generators_need_a_residual_block_and_work_with_one(method: str) -> None:
    with pytest.raises(UsageError, match=r"^n_res: "):
        CONFIGS[method](n_res=0)
    assert CONFIGS[method](n_res=1).n_res == 1 and CONFIGS["unit"](n_res=0).n_res == 0


@dataclass(frozen=True)
class Example:
    kind: str = "one"
    share: float = 0.5
    some_w: float = 1.0
    other_w: float = 2.0


def test_limits_are_within_or_without_as_said() -> None:
    checking.check_choice(Example(), ("one", "two"), "kind")
    checking.check_at_least(Example(), 0.5, "share")
    checking.check_within(Example(), 0.5, 0.5, "share")
    assert checking.weights(Example()) == ["some_w", "other_w"]
    refused: list[tuple[Any, ...]] = [
        (checking.check_choice, ("two",), "kind"), (checking.check_above, 0.5, "share"), (checking.check_at_least, 0.6, "share"),
        (checking.check_within, 0.6, 1, "share"), (checking.check_within, 0, 0.4, "share"),
        (checking.check_below_one, "other_w"),
    ]  # fmt: skip
    for check, *limits in refused:
        with pytest.raises(UsageError, match=f"^{limits[-1]}: "):
            check(Example(), *limits)
    with pytest.raises(UsageError, match="direction: 'up' is not one of a2b"):
        checking.check_direction("up", ("a2b",))
