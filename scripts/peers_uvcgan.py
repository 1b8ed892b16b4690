"""Adapter of LS4GAN/uvcgan, the second stage of training. See `peers`."""

from __future__ import annotations

import importlib
import types
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from peers import Peer, Setting, replaced
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.contracts import Draws


class Named(dict[str, Any]):
    """A dictionary with attributes, as upstream keeps its networks, images and losses."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class UvcganPeer(Peer):
    """The published model around its own networks, losses, pools and step; its configuration files and folders are left out."""

    file, text = "uvcgan/cgan/cyclegan.py", "class CycleGANModel"
    names: ClassVar[dict[str, str | tuple[str, float]]] = {
        **{"g_adv_b": "gen_ab", "g_adv_a": "gen_ba", "cycle_a": ("cycle_a", 0.1), "cycle_b": ("cycle_b", 0.1)},
        **{"identity_a": ("idt_a", 0.2), "identity_b": ("idt_b", 0.2)},
    }

    @classmethod
    def unfit(cls, setting: Setting) -> str:
        """Its widths are several; they stay as published."""
        if setting.width != 64 or setting.size % 16:
            return "measured as published: --width 64 and a --size that 16 divides"
        return ""

    @classmethod
    def ours(cls, setting: Setting) -> dict[str, Any]:
        """Without the first stage."""
        return {"pretrain": False}

    def stubs(self) -> dict[str, types.ModuleType]:
        """Packages that are folders only: their own imports ask for more than the step needs."""
        found = {}
        for name in ("uvcgan", "uvcgan.torch", "uvcgan.cgan"):
            found[name] = types.ModuleType(name)
            found[name].__path__ = [str(self.folder / name.replace(".", "/"))]
        return found

    def build(self, method: Any) -> Any:
        """Generators, discriminators, losses, pools, optimizers."""
        c, s = method.config, self.setting
        base = "uvcgan.base."
        make = importlib.import_module("uvcgan.models.generator.vitunet").ViTUNetGenerator
        judge = importlib.import_module(base + "networks").NLayerDiscriminator
        pool = importlib.import_module(base + "image_pool").ImagePool
        kind = importlib.import_module("uvcgan.cgan.cyclegan").CycleGANModel
        shape = (s.channels, s.size, s.size)
        generator = {
            **{"features": c.vit_dim, "n_heads": c.vit_heads, "n_blocks": c.n_blocks, "ffn_features": 4 * c.vit_dim},
            **{"embed_features": c.vit_dim, "activ": "gelu", "norm": "layer", "image_shape": shape, "rezero": True},
            **{"unet_features_list": [c.width << i for i in range(c.levels)], "unet_activ": "leakyrelu"},
            **{"unet_norm": "instance", "unet_downsample": "conv", "unet_upsample": "upsample-conv", "activ_output": "sigmoid"},
        }
        self.nets = nn.ModuleDict({name: make(**generator) for name in ("gen_ab", "gen_ba")})
        self.nets.update({name: judge(shape, norm="instance") for name in ("disc_a", "disc_b")})
        self.nets.to(s.device).train()
        model = object.__new__(kind)
        model.models, model.images, model.losses = Named(self.nets.items()), Named(), Named()
        model.lambda_a = model.lambda_b = c.cycle_w
        model.lambda_idt = c.identity_w
        model.criterion_gan = importlib.import_module(base + "losses").GANLoss("lsgan")
        model.gradient_penalty = {"lambda_gp": c.gp_w, "constant": c.gp_centre}
        model.criterion_cycle = model.criterion_idt = nn.L1Loss()
        model.pred_a_pool, model.pred_b_pool = pool(c.pool_size), pool(c.pool_size)

        def adam(*names: str) -> Optimizer:
            return torch.optim.Adam([p for n in names for p in self.nets[n].parameters()], lr=c.lr, betas=(c.beta1, c.beta2))

        model.optimizers = Named(gen=adam("gen_ab", "gen_ba"), disc=adam("disc_a", "disc_b"))
        return model

    def pairs(self, method: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Generators layer by layer, then discriminators."""
        for name in ("gen_ab", "gen_ba"):
            yield from generator_pairs(getattr(method, name), self.nets[name])
        for d in "ab":
            mine, theirs = ([m for m in net.modules() if isinstance(m, nn.Conv2d)] for net in (method.disc[d], self.nets[f"disc_{d}"]))
            for a, b in zip(mine, theirs, strict=True):
                yield list(a.parameters()), list(b.parameters())

    @contextmanager
    def fed(self, draws: Draws) -> Iterator[None]:
        """Within the block, the gradient penalties mix with our shares."""
        queue = deque(draws.uniform(f"penalty_{d}", 1, 1, 1).flatten(1) for d in "ba")
        with replaced(torch, "rand", lambda *_, **__: queue.popleft()):
            yield

    def update(self, opacity: Tensor, clear: Tensor, full: bool) -> None:
        """Generators, then discriminators, of images in [0, 1]."""
        self.model.images.update(real_a=(opacity + 1) / 2, real_b=(clear + 1) / 2)
        self.model.optimization_step()

    def losses(self) -> dict[str, float]:
        """With the discriminators' losses, which have their penalty in them."""
        found = {"d_total": float((self.model.losses.disc_a + self.model.losses.disc_b).detach())}
        for mine, theirs in self.names.items():
            name, factor = theirs if isinstance(theirs, tuple) else (theirs, 1.0)
            found[mine] = float(self.model.losses[name].detach()) * factor
        return found

    def optimizers(self) -> list[Optimizer]:
        """Both."""
        return list(self.model.optimizers.values())


def generator_pairs(mine: Any, theirs: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Parameters of a generator, ours and theirs; theirs counts a token's row before its column."""
    both = [(mine.enter, theirs.net.layer_input[0]), (mine.leave, theirs.net.layer_output)]
    block = theirs.net.unet
    for i in range(len(mine.encode)):
        down, up = block.conv.block.block, block.deconv.block.block
        both += [(mine.encode[i].conv1, down[1]), (mine.encode[i].conv2, down[4]), (mine.shrink[i], block.conv.downsample)]
        both += [(mine.grow[i], block.deconv.upsample[1]), (mine.decode[i].conv1, up[1]), (mine.decode[i].conv2, up[4])]
        block = block.inner_module
    vit = mine.vit
    yield [vit.position.weight.flip(1), vit.position.bias], list(block.trans_input.embed.projector.parameters())
    both += [(vit.enter, block.trans_input.output), (vit.leave, block.trans_output)]
    for a, b in zip(vit.blocks, block.encoder.encoder, strict=True):
        both += [(a.norm1, b.norm1), (a.norm2, b.norm2), (a.mlp[0], b.ffn.net[0]), (a.mlp[2], b.ffn.net[2])]
        both += [(a.attention.out, b.atten.out_proj)]
        yield [*a.attention.qkv.parameters(), a.weight], [b.atten.in_proj_weight, b.atten.in_proj_bias, b.re_alpha]
    for a, b in both:
        yield [a.weight, a.bias], [b.weight, b.bias]
