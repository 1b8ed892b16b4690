"""Compiled networks: one code for each size, and backward passes that may run twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from bench import engine
from bench.contracts import Batch, Draws, Method
from bench.registry import METHODS

TINY: dict[str, Any] = {
    **{"width": 4, "n_res": 1, "mlp_dim": 8, "style_dim": 4, "disc_width": 4, "disc_layers": 2, "disc_scales": 1},
    **{"n_blocks": 1, "content_disc_layers": 0, "lr": 1e-3},
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No code from other tests; one thread, as the networks are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_num_threads(threads)


def build(name: str, **changes: Any) -> Method:
    torch.manual_seed(0)
    cls = METHODS.get(name)
    known = {f.name for f in fields(cls.Config)}
    return cls(cls.Config(**{k: v for k, v in {**TINY, **changes}.items() if k in known}), 1)


def steps(method: Method, count: int, first: int = 0) -> list[dict[str, float]]:
    optim = {name: OptimWrapper(optimizer=o) for name, o in method.optimizers().items()}
    logs = []
    for step in range(first, first + count):
        images = torch.rand(2, 2, 1, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 - 1
        log = method.step(Batch(images[0], images[1], Draws(5, step, 0, 2, 2)), optim, "train")
        logs.append({name: float(value) for name, value in log.items()})
    return logs


@pytest.mark.parametrize(("name", "changes"), [("munit", {}), ("acl_gan", {"g_every": 1}), ("cyclegan", {})])
def test_no_compiled_graph_has_symbolic_sizes(name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked image sets come in several batch sizes; from the second on, torch.compile would make them symbols by itself."""
    sizes, symbolic, compile_ = list[int](), list[str](), nn.Module.compile

    def counting(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        for x in inputs:
            if isinstance(x, torch.SymInt) or any(isinstance(s, torch.SymInt) for s in getattr(x, "shape", ())):
                symbolic.append(str(x))
        images = [x for x in inputs if isinstance(x, torch.Tensor) and x.ndim == 4 and not isinstance(x, nn.Parameter)]
        sizes.extend(int(x.shape[0]) for x in images)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_(self, backend=counting, **options))
    method = build(name, **changes)
    plain = steps(build(name, **changes), 1)
    engine.compile_networks(method)
    compiled = steps(method, 1)
    assert len(set(sizes)) > 1 and not symbolic
    assert compiled[0] == pytest.approx(plain[0], rel=1e-4)


@pytest.mark.slow
def test_a_step_with_two_backward_passes_over_one_graph_compiles() -> None:
    changes = {"d_iter": 1}
    plain = steps(build("drit", **changes), 2)
    method = build("drit", **changes)
    engine.compile_networks(method)
    for found, expected in zip(steps(method, 2), plain, strict=True):
        assert found == pytest.approx(expected, rel=0.02, abs=1e-3)
