"""Published implementations that `scripts/benchmark --training` times our training steps against.

Nothing of theirs is in here: their modules are imported from checkouts of yours, run as they are but for what current PyTorch
or a machine without a GPU refuses, and get our weights. Each adapter knows how to build the published trainer for given sizes,
in which order its parameters meet ours, which numbers to hand it where it asks for noise, and where it keeps its losses.
"""

from __future__ import annotations

import importlib
import io
import sys
import types
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.contracts import Draws
from methods import losses
from methods.acl_gan import AREA_SCALE
from methods.cut import distinct

#: Top-level modules that checkouts call by the same names; they are imported one checkout at a time, and put away again.
SHARED_NAMES = {"trainer", "networks", "utils", "model", "models", "util"}


@dataclass(frozen=True)
class Setting:
    """What both sides are built for: images of batch x channels x size x size, networks of `width`."""

    size: int
    batch: int
    channels: int
    width: int
    device: torch.device


@contextmanager
def importing(folder: Path, **stubs: types.ModuleType) -> Iterator[None]:
    """Within the block, modules of a checkout can be imported by their names, `stubs` in the place of some."""

    def put_away() -> dict[str, types.ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in SHARED_NAMES}

    kept = put_away()
    sys.modules.update(stubs)
    sys.path.insert(0, str(folder))
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.path.remove(str(folder))
        put_away()
        sys.modules.update(kept)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the block, an attribute has another value."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def cuda_means(device: torch.device) -> Iterator[None]:
    """Within the block, ``.cuda()`` moves to `device`, which may be the CPU."""

    def move(self: Any, *_: Any, **__: Any) -> Any:
        return self.to(device)

    with replaced(Tensor, "cuda", move), replaced(nn.Module, "cuda", move):
        yield


@contextmanager
def handing_out(values: Sequence[Tensor]) -> Iterator[None]:
    """Within the block, ``torch.randn`` gives these, in order and in the shape asked for; none may be left."""
    queue = deque(values)

    def given(*shape: Any, **_: Any) -> Tensor:
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return queue.popleft().reshape(tuple(sizes))

    with replaced(torch, "randn", given):
        yield
    if queue:
        raise ValueError(f"{len(queue)} random tensors fewer were asked for than expected")


def layers(net: nn.Module) -> list[Tensor]:
    """Parameters of the convolutions in order, then of the linear layers, then of the layer norms."""
    kinds = ("Conv2d", "Linear", "LayerNorm")
    return [p for kind in kinds for m in net.modules() if type(m).__name__ == kind for p in m.parameters()]


def tensors(*nets: nn.Module) -> list[Tensor]:
    """Parameters of the networks, in order."""
    return [p for net in nets for p in net.parameters()]


class Peer(ABC):
    """A published training step.

    Attributes:
        file, text: the file by which a checkout is known, relative to its folder, and a text in it.
        period, turn: every `period`-th iteration is a full one, with all updates: iteration `turn` (from 0) and so on.
        names: our loss -> its attribute here, or (attribute, factor that makes it ours).
        model: the published trainer.
    """

    file: ClassVar[str]
    text: ClassVar[str]
    period: ClassVar[int] = 1
    turn: ClassVar[int] = 0
    names: ClassVar[dict[str, str | tuple[str, float]]] = {}

    def __init__(self, folder: Path, setting: Setting, method: Any) -> None:
        """Build the published trainer out of a checkout, with our method's weights and settings."""
        self.setting = setting
        with importing(folder, **self.stubs()), cuda_means(setting.device):
            self.model = self.build(method)
        for value in list(vars(self.model).values()) + [self.model]:
            if isinstance(value, nn.Module):
                value.to(setting.device).train()
        with torch.no_grad():
            for mine, theirs in self.pairs(method):
                for a, b in zip(mine, theirs, strict=True):
                    b.copy_(a.view_as(b))

    @classmethod
    def find(cls, path: Path) -> Path | None:
        """The first folder at or below `path` (three levels deep) that holds the published code."""
        for depth in ("", "*/", "*/*/", "*/*/*/"):
            for file in sorted(path.glob(depth + cls.file)):
                if cls.text in file.read_text(encoding="utf-8", errors="replace"):
                    return file.parents[cls.file.count("/")]
        return None

    @classmethod
    def unfit(cls, setting: Setting) -> str:
        """Why the published code cannot run with these sizes; empty where it can."""
        return ""

    @classmethod
    def ours(cls, setting: Setting) -> dict[str, Any]:
        """Keys of our method's configuration that differ from the published recipe."""
        return {"width": setting.width, "disc_width": setting.width}

    def stubs(self) -> dict[str, types.ModuleType]:
        """Modules to be taken instead of the checkout's."""
        return {}

    @abstractmethod
    def build(self, method: Any) -> Any:
        """Import and build the published trainer."""

    @abstractmethod
    def pairs(self, method: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Our parameters and, in the same order, theirs."""

    @abstractmethod
    def update(self, opacity: Tensor, clear: Tensor, full: bool) -> None:
        """What upstream's training loop does in one iteration."""

    def noise(self, draws: Draws) -> list[Tensor]:
        """The numbers that upstream draws with ``torch.randn`` in a full iteration, as our step draws them."""
        return []

    @contextmanager
    def fed(self, draws: Draws) -> Iterator[None]:
        """Within the block, a full iteration gets the random numbers of our step."""
        with handing_out(self.noise(draws)):
            yield

    def step(self, opacity: Tensor, clear: Tensor, full: bool = True) -> None:
        """One iteration: all updates, or those of iterations that are not full."""
        with cuda_means(self.setting.device):
            self.update(opacity, clear, full)

    def losses(self) -> dict[str, float]:
        """The losses of the last iteration by our names."""
        found = {}
        for mine, theirs in self.names.items():
            name, factor = theirs if isinstance(theirs, tuple) else (theirs, 1.0)
            value = getattr(self.model, name)
            found[mine] = float(value.detach() if isinstance(value, Tensor) else value) * factor
        return found

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Its optimizers; together they hold all its parameters."""
        return [v for v in vars(self.model).values() if isinstance(v, torch.optim.Optimizer)]


# ---- MUNIT, UNIT, ACL-GAN: one family of code ----------------------------------------------------------------------------


class StyleFamily(Peer):
    """Trainers with a `dis_update` and a `gen_update`. Initial weights, schedules and pictures are no part of a step."""

    trainer: ClassVar[str]

    def stubs(self) -> dict[str, types.ModuleType]:
        """Their `utils`, which would need YAML and Lua files and more."""
        utils: Any = types.ModuleType("utils")
        utils.weights_init = lambda kind: lambda module: None
        utils.get_scheduler = lambda *_: None
        utils.get_model_list = utils.vgg_preprocess = utils.load_vgg16 = None
        return {"utils": utils}

    def build(self, method: Any) -> Any:
        """The trainer for the sizes and weights of our configuration."""
        c, n = method.config, self.setting.channels
        masked = bool(getattr(method, "masked", False))
        activations = {"activ": "relu", "pad_type": "reflect"}
        self.hyper: dict[str, Any] = {
            **{"lr": c.lr, "beta1": c.beta1, "beta2": c.beta2, "weight_decay": c.weight_decay, "init": "", "display_size": 1},
            **{"input_dim_a": n, "input_dim_b": n, "gan_w": c.adv_w, "recon_x_w": c.rec_w, "vgg_w": 0},
            "gen": {
                **{"dim": c.width, "n_downsample": c.downsamples, "n_res": c.n_res, "output_dim": n + masked, **activations},
                **{"style_dim": getattr(c, "style_dim", 8), "mlp_dim": getattr(c, "mlp_dim", 256)},
            },
            "dis": {
                **{"dim": c.disc_width, "n_layer": c.disc_layers, "num_scales": c.disc_scales, "norm": "none"},
                **{"activ": "lrelu", "gan_type": "lsgan", "pad_type": "reflect"},
            },
        }
        self.hyper |= self.weights(method)
        return getattr(importlib.import_module("trainer"), self.trainer)(self.hyper)

    @abstractmethod
    def weights(self, method: Any) -> dict[str, Any]:
        """Further keys of its configuration."""

    def update(self, opacity: Tensor, clear: Tensor, full: bool) -> None:
        """Discriminators, then generators."""
        self.model.dis_update(opacity, clear, self.hyper)
        if full:
            self.model.gen_update(opacity, clear, self.hyper)


class MunitPeer(StyleFamily):
    """NVlabs/MUNIT."""

    file, text, trainer = "trainer.py", "class MUNIT_Trainer", "MUNIT_Trainer"
    parts: ClassVar[dict[str, str]] = {"content": "enc_content", "style": "enc_style", "mlp": "mlp", "decoder": "dec"}
    names: ClassVar[dict[str, str | tuple[str, float]]] = {
        **{f"d_{d}": f"loss_dis_{d}" for d in ("a", "b", "total")},
        **{f"g_adv_{d}": f"loss_gen_adv_{d}" for d in "ab"},
        **{f"rec_{d}": f"loss_gen_recon_x_{d}" for d in "ab"},
        "g_total": "loss_gen_total",
        **{f"style_{d}": f"loss_gen_recon_s_{d}" for d in "ab"},
        **{f"content_{d}": f"loss_gen_recon_c_{d}" for d in "ab"},
        **{f"cyc_{d}": f"loss_gen_cycrecon_x_{d}" for d in "ab"},
    }

    def weights(self, method: Any) -> dict[str, Any]:
        """Of its own terms."""
        c = method.config
        return {"recon_s_w": c.style_rec_w, "recon_c_w": c.content_rec_w, "recon_x_cyc_w": c.cyc_w}

    def pairs(self, method: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Generators part by part, then discriminators."""
        for d in "ab":
            for mine, theirs in self.parts.items():
                yield layers(getattr(method.gen[d], mine)), layers(getattr(getattr(self.model, f"gen_{d}"), theirs))
            yield layers(method.disc[d]), layers(getattr(self.model, f"dis_{d}"))

    def noise(self, draws: Draws) -> list[Tensor]:
        """Style codes for the discriminators' images, then for the generators'."""
        return [draws.normal(f"{prefix}style_{d}", self.hyper["gen"]["style_dim"]) for prefix in ("disc_", "") for d in "ab"]


class UnitPeer(MunitPeer):
    """UNIT, as in NVlabs/MUNIT or mingyuliutw/UNIT."""

    text, trainer = "class UNIT_Trainer", "UNIT_Trainer"
    parts: ClassVar[dict[str, str]] = {"encoder": "enc", "decoder": "dec"}
    names: ClassVar[dict[str, str | tuple[str, float]]] = {
        **{k: v for k, v in MunitPeer.names.items() if k.partition("_")[0] not in ("style", "content", "cyc")},
        **{f"kl_{d}": f"loss_gen_recon_kl_{d}" for d in "ab"},
        **{f"cyc_{d}": f"loss_gen_cyc_x_{d}" for d in "ab"},
        **{"kl_cyc_a": "loss_gen_recon_kl_cyc_aba", "kl_cyc_b": "loss_gen_recon_kl_cyc_bab"},
    }

    def weights(self, method: Any) -> dict[str, Any]:
        """Of its own terms."""
        c = method.config
        return {"recon_kl_w": c.kl_w, "recon_kl_cyc_w": c.kl_cyc_w, "recon_x_cyc_w": c.cyc_w}

    def noise(self, draws: Draws) -> list[Tensor]:
        """Noise on the codes: for the discriminators' images, for the generators', for the way back."""
        gen, side = self.hyper["gen"], self.setting.size >> self.hyper["gen"]["n_downsample"]
        shape = (gen["dim"] << gen["n_downsample"], side, side)
        names = ("disc_code_a", "disc_code_b", "code_a", "code_b", "cycle_b", "cycle_a")
        return [draws.normal(name, *shape) for name in names]


class AclGanPeer(StyleFamily):
    """hyperplane-lab/ACL-GAN. It updates the generators in every second iteration."""

    file, text, trainer = "trainer.py", "class aclgan_Trainer", "aclgan_Trainer"
    period = 2
    names: ClassVar[dict[str, str | tuple[str, float]]] = {
        **{"d_a": "loss_dis_A", "d_b": "loss_dis_B", "d_pair": "loss_dis_2", "d_total": "loss_dis_total"},
        **{"g_adv_a": "loss_gen_adv_A", "g_adv_b": "loss_gen_adv_B", "g_pair": "loss_gen_adv_2", "g_total": "loss_gen_total"},
    }

    @classmethod
    def unfit(cls, setting: Setting) -> str:
        """Its masked generators are cut at channel 3."""
        return "" if setting.channels == 3 else "the published code has 3 image channels: --channels 3"

    def weights(self, method: Any) -> dict[str, Any]:
        """Pairs have twice the channels; the masks' size penalty is a sum over pixels, ours a mean."""
        pixels = self.setting.batch * self.setting.size**2
        return {
            **{"input_dim_b": 2 * self.setting.channels, "alpha": 1, "gan_cw": method.config.acl_w},
            **{"focus_loss": method.weights["acl_mask"], "focus_delta": self.delta(method) * AREA_SCALE * 3 / pixels},
            **{"focus_upper": 0.5, "focus_lower": 0.3, "focus_epsilon": 0.01},
        }

    def delta(self, method: Any) -> float:
        """Our scale of the size penalty."""
        return float(method.config.delta)

    def pairs(self, method: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Generators part by part, then discriminators."""
        model = self.model
        for mine, theirs in ((method.gen_ab, model.gen_AB), (method.gen_ba, model.gen_BA)):
            for part, its in MunitPeer.parts.items():
                yield layers(getattr(mine, part)), layers(getattr(theirs, its))
        discs = (method.disc["a"], model.dis_A), (method.disc["b"], model.dis_B), (method.disc_pair["a"], model.dis_2)
        for mine, theirs in discs:
            yield layers(mine), layers(theirs)

    def noise(self, draws: Draws) -> list[Tensor]:
        """Three style codes for the discriminators' images, three for the generators'."""
        names = ("style_fake_b", "style_intra_a", "style_back_a")
        return [draws.normal(prefix + name, self.hyper["gen"]["style_dim"]) for prefix in ("disc_", "") for name in names]


class OursPeer(AclGanPeer):
    """ACL-GAN as the base of the paper's method: its masked loop, with the modules that have no peer switched off."""

    period = 1

    @classmethod
    def ours(cls, setting: Setting) -> dict[str, Any]:
        """No mask consistency and no classifier; ACL-GAN's mask penalties, weights and Adam."""
        off = dict.fromkeys(("baml", "fa", "lca"), False)
        return {**super().ours(setting), **off, "mask_penalty": "acl_gan", "adv_w": 1.0, "beta1": 0.5, "beta2": 0.999}

    def delta(self, method: Any) -> float:
        """That of the penalty's default."""
        default = losses.acl_mask.__defaults__
        assert default is not None
        return float(default[-1]) / AREA_SCALE
