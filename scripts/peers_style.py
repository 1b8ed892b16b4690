"""Adapters of published code whose images have content and style: MUNIT, UNIT, ACL-GAN, DRIT++. See `peers`."""

from __future__ import annotations

import importlib
import types
from abc import abstractmethod
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

from peers import Peer, Setting, layers, tensors
from torch import Tensor
from torch.optim import Optimizer

from bench.contracts import Draws
from methods import losses
from methods.acl_gan import AREA_SCALE


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
        return [draws.normal_map(name, *shape) for name in names]


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

    def losses(self) -> dict[str, float]:
        """With the terms that upstream keeps in pieces: reconstructions, and masks as sums over pixels."""
        model, pixels = self.model, self.setting.batch * self.setting.size**2
        masks = [getattr(model, f"loss_gen_focus_{name}_{kind}") for name in ("B", "A", "A2") for kind in ("size", "digit")]
        pieces = {"rec": model.loss_idt_A + model.loss_idt_B, "acl_mask": sum(masks) / pixels / 3}
        return super().losses() | {name: float(value.detach()) for name, value in pieces.items()}

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


class DritPeer(Peer):
    """HsinYingLee/DRIT. It trains the content discriminator alone in two of three iterations.

    PyTorch refuses since 1.5 what upstream does with the generators: a second backward after stepping. Here both backwards come
    first and both steps then, which is the same work.
    """

    file, text = "model.py", "class DRIT("
    period, turn = 3, 2
    names: ClassVar[dict[str, str | tuple[str, float]]] = {
        **{f"d_{d}": f"dis{d.upper()}_loss" for d in ("a", "b", "a2", "b2")},
        **{"d_content_chance": "disContent_loss", "g_total": "G_loss"},
        **{f"g_adv_{d}": f"gan_loss_{d}" for d in "ab"},
        **{f"g_content_{d}": f"gan_loss_{d}content" for d in "ab"},
        **{f"g_adv_{d}2": f"gan2_loss_{d}" for d in "ab"},
        **{f"kl_{d}": (f"kl_loss_za_{d}", 100.0) for d in "ab"},
        **{f"code_{d}": (f"kl_loss_zc_{d}", 100.0) for d in "ab"},
        **{f"cycle_{d}": (f"l1_recon_{d.upper()}_loss", 0.1) for d in "ab"},
        **{f"self_{d}": (f"l1_recon_{d.upper() * 2}_loss", 0.1) for d in "ab"},
        **{f"latent_{d}": (f"l1_recon_z_loss_{d}", 0.1) for d in "ab"},
        **{"mode_b": "lz_AB", "mode_a": "lz_BA"},
    }

    @classmethod
    def unfit(cls, setting: Setting) -> str:
        """Widths and the batch are written into it, and its content discriminator shrinks images of less than 212 to nothing."""
        if setting.size < 212 or setting.batch != 2 or setting.width != 64:
            return "the published code needs --size 212 or more, --batch 2 and --width 64"
        return ""

    def build(self, method: Any) -> Any:
        """DRIT++ as released: Gaussian attributes, mode seeking, three scales."""
        n = self.setting.channels
        options = {"concat": 1, "no_ms": False, "dis_scale": 3, "dis_norm": "None", "dis_spectral_norm": False}
        model = importlib.import_module("model").DRIT(SimpleNamespace(input_dim_a=n, input_dim_b=n, **options))
        model.gpu = self.setting.device.index or 0
        return model

    def pairs(self, method: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Encoders, generators, discriminators; our attribute encoder has mean and variance in one layer."""
        up = self.model
        yield tensors(method.content["a"], method.content["b"], method.content_shared), tensors(
            up.enc_c.convA, up.enc_c.convB, up.enc_c.conv_share
        )
        for d in "ab":
            mine, of = method.attribute[d], d.upper()
            yield tensors(mine.first, mine.blocks), tensors(getattr(up.enc_a, f"conv_{of}"))
            heads = [getattr(up.enc_a, f"{name}_{of}")[0] for name in ("fc", "fcVar")]
            for kind in ("weight", "bias"):
                yield list(getattr(mine.head, kind).chunk(2)), [getattr(head, kind) for head in heads]
            yield tensors(method.decoder[d]), tensors(*(getattr(up.gen, f"dec{of}{i}") for i in range(1, 5)))
        yield tensors(method.decoder_shared), tensors(up.gen.dec_share)
        for name in ("a", "b", "a2", "b2"):
            yield tensors(method.disc[name]), tensors(getattr(up, "dis" + name.upper()))
        yield tensors(method.disc_content), tensors(up.disContent)

    def noise(self, draws: Draws) -> list[Tensor]:
        """Even samples are for domain A, odd ones for B; the two random attributes serve both domains."""
        side = self.setting.size // 4
        code, halves = (4 * self.setting.width, side, side), list[Tensor]()
        for name, shape in (("noise", code), ("attribute", (8,)), ("style", (8,)), ("noise_back", code), ("attribute_back", (8,))):
            values = (draws.normal_map if shape is code else draws.normal)(name, *shape)
            halves += [values[0::2], values[1::2]]
        return halves

    def update(self, opacity: Tensor, clear: Tensor, full: bool) -> None:
        """All discriminators and both steps of the generators, or the content discriminator."""
        if not full:
            self.model.update_D_content(opacity, clear)
            return
        self.model.update_D(opacity, clear)
        optimizers: dict[str, Optimizer] = {name: getattr(self.model, f"{name}_opt") for name in ("enc_c", "enc_a", "gen")}
        parameters = {name: list(getattr(self.model, name).parameters()) for name in optimizers}
        gradients = []
        for backward in (self.model.backward_EG, self.model.backward_G_alone):
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            backward()
            gradients.append({name: [p.grad for p in own] for name, own in parameters.items()})
        for taken, stepped in zip(gradients, (("enc_c", "enc_a", "gen"), ("enc_c", "gen")), strict=True):
            for name in stepped:
                for p, g in zip(parameters[name], taken[name], strict=True):
                    p.grad = g
                optimizers[name].step()
