"""Adapters of published code with CycleGAN's loop or networks: CycleGAN, CUT. See `peers`."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from peers import Peer, Setting, replaced, tensors
from torch import Tensor

from bench.contracts import Draws
from methods.cut import distinct

Names = dict[str, str | tuple[str, float]]


class CycleGANPeer(Peer):
    """junyanz/pytorch-CycleGAN-and-pix2pix, or the copy of it in taesungp/contrastive-unpaired-translation."""

    file, text, model_class = "models/cycle_gan_model.py", "class CycleGANModel", "CycleGANModel"
    names: ClassVar[Names] = {
        **{"g_adv_b": "loss_G_A", "g_adv_a": "loss_G_B", "d_b": "loss_D_A", "d_a": "loss_D_B", "g_total": "loss_G"},
        **{"cycle_a": ("loss_cycle_A", 0.1), "cycle_b": ("loss_cycle_B", 0.1)},
        **{"identity_b": ("loss_idt_A", 0.2), "identity_a": ("loss_idt_B", 0.2)},
    }

    def stubs(self) -> dict[str, types.ModuleType]:
        """No HTML pages of results."""
        return {name: types.ModuleType(name) for name in ("dominate", "dominate.tags")}

    def options(self, method: Any) -> dict[str, Any]:
        """Its command line, for our configuration."""
        c, s = method.config, self.setting
        return {
            **{"gpu_ids": [], "device": s.device, "isTrain": True, "checkpoints_dir": ".", "name": "", "preprocess": "none"},
            **{"direction": "AtoB", "verbose": False, "continue_train": False, "amp": False, "batch_size": s.batch},
            **{"load_size": s.size, "crop_size": s.size, "input_nc": s.channels, "output_nc": s.channels},
            **{"netG": "resnet_9blocks", "netD": "basic", "ngf": c.width, "ndf": c.disc_width, "n_layers_D": c.disc_layers},
            **dict.fromkeys(("norm", "normG", "normD"), "instance"),
            **{"no_dropout": True, "no_antialias": True, "no_antialias_up": True, "init_type": "normal", "init_gain": 0.02},
            **{"gan_mode": "lsgan", "pool_size": 50, "lr": c.lr, "beta1": c.beta1, "beta2": c.beta2},
            **{"lambda_A": 10.0, "lambda_B": 10.0, "lambda_identity": 0.5},
        }

    def build(self, method: Any) -> Any:
        """The model with its optimizers."""
        module = importlib.import_module(self.file.removesuffix(".py").replace("/", "."))
        model = getattr(module, self.model_class)(SimpleNamespace(**self.options(method)))
        model.device = self.setting.device
        return model

    def pairs(self, method: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Network by network."""
        up = self.model
        for mine, theirs in (
            *((method.gen_ab, up.netG_A), (method.gen_ba, up.netG_B)),
            *((method.disc["b"], up.netD_A), (method.disc["a"], up.netD_B)),
        ):
            yield tensors(mine), tensors(theirs)

    def update(self, opacity: Tensor, clear: Tensor, full: bool) -> None:
        """Generators, then discriminators."""
        self.model.set_input({"A": opacity, "B": clear, "A_paths": "", "B_paths": ""})
        self.model.optimize_parameters()


class CutPeer(CycleGANPeer):
    """taesungp/contrastive-unpaired-translation."""

    file, text, model_class = "models/cut_model.py", "class CUTModel", "CUTModel"
    names: ClassVar[Names] = {
        **{"d_b": "loss_D", "g_adv_b": "loss_G_GAN", "nce": "loss_NCE", "nce_identity": "loss_NCE_Y", "g_total": "loss_G"},
    }

    def options(self, method: Any) -> dict[str, Any]:
        """CUT's own on top of CycleGAN's."""
        c = method.config
        return super().options(method) | {
            **{"no_antialias": False, "no_antialias_up": False, "init_type": "xavier", "pool_size": 0, "CUT_mode": "CUT"},
            **{"lambda_GAN": c.adv_w, "lambda_NCE": c.nce_w, "nce_idt": c.identity, "flip_equivariance": c.flip},
            **{"nce_layers": "0,4,8,12,16", "nce_includes_all_negatives_from_minibatch": False, "nce_T": c.temperature},
            **{"netF": "mlp_sample", "netF_nc": c.embedding, "num_patches": c.patches},
        }

    def build(self, method: Any) -> Any:
        """The model; its MLPs, which upstream makes at the first sight of features, are made here, with their optimizer."""
        model, c = super().build(method), method.config
        model.netF.create_mlp([torch.zeros(1, method.gen.tap_channels[t], 2, 2) for t in method.taps])
        model.optimizer_F = torch.optim.Adam(model.netF.parameters(), lr=c.lr, betas=(c.beta1, c.beta2))
        return model

    def pairs(self, method: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Network by network."""
        up = self.model
        for mine, theirs in ((method.gen, up.netG), (method.disc, up.netD), (method.embed, up.netF)):
            yield tensors(mine), tensors(theirs)

    @contextmanager
    def fed(self, draws: Draws) -> Iterator[None]:
        """Within the block, upstream looks at the places that our step looks at: image set by image set, map by map."""
        c = self.method_config
        wanted = iter([f"patches_{i}_{s}" for s in range(2) for i in range(5)])

        def places(pixels: int) -> Any:
            return distinct(pixels, c.patches, draws.generator(next(wanted))).numpy()

        with replaced(np.random, "permutation", places):
            yield

    def __init__(self, folder: Path, setting: Setting, method: Any) -> None:
        """As others, and remember how many places there are."""
        self.method_config = method.config
        super().__init__(folder, setting, method)
