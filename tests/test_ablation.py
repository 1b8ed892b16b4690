"""Table 3's six rows are six shipped configurations, each with exactly the loss terms of its row."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper

from bench.config import PRESETS, load
from bench.contracts import Batch, Draws
from bench.data.contract import FINDINGS
from bench.experiment import method_config
from bench.prior import DensePrior

MASKS, FEATURES = {"upper", "repulsion"}, {"fa_struct", "fa_style"}
ROWS = {
    "none": set(),
    "aaspm": MASKS,
    "fa": FEATURES,
    "aaspm-fa": MASKS | FEATURES,
    "aaspm-fa-lca": MASKS | FEATURES | {"lca"},
    "full": MASKS | FEATURES | {"lca", "bam"},
}


#: Beside the table: ACL-GAN with a mask and its own penalties on it.
ROWS_BESIDE = ("acl-gan",)


def test_every_row_has_a_file() -> None:
    assert {p.stem for p in (PRESETS / "ablation").glob("*.yaml")} == {*ROWS, *ROWS_BESIDE}


def test_acl_gan_beside_the_table() -> None:
    config = method_config(load("quick", "ablation/acl-gan"), "ours")[1]
    assert config.aaspm and config.mask_penalty == "acl_gan" and not (config.baml or config.fa or config.lca)


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str) -> None:
    sets = [f"methods.ours.{key}=4" for key in ("width", "disc_width")]
    cls, config = method_config(load("quick", f"ablation/{row}", sets), "ours")
    torch.manual_seed(0)
    method = cls(config, 1, DensePrior("densenet_small", FINDINGS, 64).eval() if cls.requires(config) else None)
    optim = {name: OptimWrapper(optimizer=o) for name, o in method.optimizers().items()}
    opacity, clear = torch.rand(2, 2, 1, 64, 64) * 2 - 1
    losses = method.step(Batch(opacity, clear, Draws(0, 0, 0, 2, 2)), optim, "train")
    assert set(losses) & set.union(*ROWS.values()) == ROWS[row]
    assert (method.translate(opacity).mask is not None) == bool(ROWS[row] & MASKS)
    assert all(torch.isfinite(value) for value in losses.values())
