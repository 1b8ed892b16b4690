"""Translation models of OpenMMLab's mmagic as methods: ``mmagic:cyclegan`` (its CycleGAN) and ``mmagic:PATH`` (a config of one's own).

The model, its losses and its training step are mmagic's (Apache-2.0), called and not copied; this file builds the model, hands
it the harness's batches and optimizer wrappers, and keeps its replay pools in checkpoints. The package comes with an extra:
``pip install "cxr-bench[mmagic]"``.

mmagic 1.2.0, its last release, cannot be imported whole beside today's libraries: its packages pull in every editor, compiled
mmcv operators and names that diffusers has retired. The translation models need none of that, so `translation_models` imports
their modules one by one.

Differences from training with mmagic's own runner: images come in [-1, 1] and are not rescaled; the learning rate is the
harness's (constant, then linear to 0); in evaluation the generator is in evaluation mode (mmagic leaves dropout and batch
statistics on there, so that an image's translation would depend on its neighbours).
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from mmengine.logging import MessageHub
from mmengine.registry import OPTIMIZERS, DefaultScope
from torch import Tensor, nn

from bench.checking import check_above, check_at_least, check_below_one, check_choice, weights
from bench.contracts import Batch, Method, OptimWrappers, Prior, Translation
from bench.errors import PreflightError, UsageError, unknown
from bench.files import digest
from methods.mmagic_files import ADAM, domains, read, told

# -- mmagic itself ---------------------------------------------------------------------------------------------------------

#: Packages whose ``__init__`` imports what cannot be imported; stood in for while the modules below are.
_PACKAGES = (
    "mmagic", "mmagic.utils", "mmagic.models", "mmagic.models.utils", "mmagic.models.base_models", "mmagic.models.archs",
    "mmagic.models.editors",
)  # fmt: skip
_BASE = "mmagic.models.base_models.base_translation_model"
#: What translation models are made of, in an order in which each finds what it imports from those before.
_MODULES = (
    "mmagic.registry", "mmagic.utils.typing", "mmagic.utils.img_utils", "mmagic.structures", "mmagic.models.utils.model_utils",
    _BASE, "mmagic.models.archs.conv", "mmagic.models.archs.patch_disc", "mmagic.models.editors.cyclegan",
    "mmagic.models.editors.pix2pix",
)  # fmt: skip


def require_mmagic() -> None:
    """Refuse to go on without the extra.

    Raises:
        PreflightError: mmagic or mmcv is not installed.
    """
    missing = [name for name in ("mmagic", "mmcv") if find_spec(name) is None]
    if missing:
        raise PreflightError(f'methods mmagic:... need {" and ".join(missing)}: pip install "cxr-bench[mmagic]".')


@contextmanager
def translation_models() -> Iterator[Any]:
    """mmagic's model registry with the translation models in it; build models within the block.

    Within the block every package of `_PACKAGES` that is not imported yet is an empty module that knows its folder, so that
    the modules below it import without its ``__init__``, and that shows their names, as the real one would. After the block,
    however it ends, the empty packages are gone. Modules that were imported stay; they are whole, and a later ``import mmagic``
    finds and uses them. Where a user has imported mmagic before, the user's packages are used as they are.
    """
    require_mmagic()
    spec: Any = find_spec("mmagic")
    root = Path(spec.submodule_search_locations[0])
    bare = {name: ModuleType(name) for name in _PACKAGES if name not in sys.modules}
    for name, package in bare.items():
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    sys.modules.update(bare)
    models: Any = None
    try:
        for name in _MODULES:
            module = importlib.import_module(name)
            if parent := bare.get(name.rpartition(".")[0]):
                vars(parent).update({key: value for key, value in vars(module).items() if not key.startswith("_")})
        models = importlib.import_module("mmagic.registry").MODELS
        complete = models._imported  # the first build notes that all of mmagic.models was imported, which is not so here
        with DefaultScope.overwrite_default_scope("mmagic"):  # where mmcv looks for layers that mmagic registers
            yield models
    finally:
        if models is not None and "mmagic.models" in bare:
            models._imported = complete
        for name in bare:
            del sys.modules[name]


# -- the adapter -----------------------------------------------------------------------------------------------------------


class Pools(nn.Module):
    """Replay pools of a model (lists of images) as part of the state."""

    model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)  # held, not owned

    def _pools(self) -> dict[str, Any]:
        return {domain: pool for domain, pool in getattr(self.model, "image_buffers", {}).items() if pool.buffer_size}

    def get_extra_state(self) -> dict[str, list[Tensor]]:
        """Domain -> images, each 1 x C x H x W."""
        return {domain: [image.cpu().clone() for image in pool.image_buffer] for domain, pool in self._pools().items()}

    def empty_extra_state(self) -> dict[str, list[Tensor]]:
        """The state of pools without images: what goes into files that are handed on."""
        return {domain: [] for domain in self._pools()}

    def set_extra_state(self, state: Mapping[str, Sequence[Tensor]]) -> None:
        """Put the images back, on the model's device."""
        device = next(self.model.parameters()).device
        for domain, pool in self._pools().items():
            pool.image_buffer = [image.to(device, copy=True) for image in state[domain]]
            pool.img_num = len(pool.image_buffer)


class MmagicMethod(Method):
    """A translation model of mmagic: any that takes two domains' images and optimizers ``generators`` and ``discriminators``.

    Subclasses say what is built (`settings`). The model's default domain is clear, the other one opacity.
    """

    name: ClassVar[str] = "mmagic"
    license: ClassVar[str] = "Apache-2.0"
    version: ClassVar[int] = 2
    one_process: ClassVar[str] = (
        "mmagic's models keep a replay pool a process and draw from its random numbers, so results would differ under one key, "
        "and resuming would not be exact."
    )

    @classmethod
    def settings(cls, config: Any) -> dict[str, Any]:
        """mmagic's ``model`` and (name -> optimizer) ``optimizers``."""
        raise NotImplementedError

    @classmethod
    def requires(cls, config: Any) -> frozenset[str]:
        """Nothing of the harness, but mmagic: asked for before anything is done."""
        require_mmagic()
        return cls.needs

    def __init__(self, config: Any, channels: int, prior: Prior | None = None) -> None:
        """Build mmagic's model for `channels` image channels, with its own initial weights."""
        super().__init__(config, channels)
        description = deepcopy(self.settings(config)["model"])
        self.clear, self.opacity = domains(description)
        _set_channels(description, channels)
        self.model = self._build(description)
        for network in self.networks():
            network.init_weights()  # type: ignore[operator]  # mmagic leaves that to its runner
        self.pools = Pools(self.model)

    def _build(self, description: dict[str, Any]) -> Any:
        with translation_models() as models, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unnecessary conv bias")  # CycleGAN's own layers
            kind = models.get(description["type"])
            base = sys.modules[_BASE].BaseTranslationModel
            if not (isinstance(kind, type) and issubclass(kind, base)):
                known = [n for n, c in models.module_dict.items() if issubclass(c, base) and c is not base]
                raise unknown(f"model of method '{self.name}':", str(description["type"]), known)
            try:  # without a preprocessor of its own, images are taken as they are
                return models.build({**description, "data_preprocessor": None})
            except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
                raise UsageError(f"method '{self.name}': mmagic cannot build this model: {told(error)}") from error

    @classmethod
    def _rhythm(cls, config: Any) -> tuple[int, int]:
        """The generators are updated in every so many iterations, after so many updates were left out at the beginning."""
        model = cls.settings(config)["model"]
        every = model.get("discriminator_steps", 1)
        return every, model.get("disc_init_steps", 0) // every

    @classmethod
    def budget(cls, config: Any, stage: str, updates: int, batch_size: int) -> tuple[int, int]:
        """As many iterations as that many updates of the generators take."""
        every, late = cls._rhythm(config)
        return every * (updates + late), batch_size

    @classmethod
    def images_seen(cls, config: Any, stage: str, iterations: int, batch_size: int) -> int:
        """Images a domain of the iterations that update the generators."""
        every, late = cls._rhythm(config)
        return max(0, iterations // every - late) * batch_size

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One for all generators, one for all discriminators."""
        found = {}
        for name, settings in self.settings(self.config)["optimizers"].items():
            try:
                found[name] = OPTIMIZERS.build({**settings, "params": list(getattr(self.model, name).parameters())})
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(f"method '{self.name}': optimizer of the {name}: {told(error)}") from error
        return found

    def networks(self) -> list[nn.Module]:
        """All generators and discriminators."""
        return [*self.model.generators.values(), *self.model.discriminators.values()]

    def inference_modules(self) -> dict[str, nn.Module]:
        """The generators, by the domain they make."""
        return {f"to_{domain}": generator for domain, generator in self.model.generators.items()}

    def step(self, batch: Batch, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        """mmagic's training step; losses are logged by the harness's names (of CycleGAN, ``d_*`` is half of what is learnt from)."""
        # mmagic reads the iteration off the hub and counts accumulated ones itself; the wrappers do that here.
        step, counts = batch.draws.step, optim["discriminators"]._accumulative_counts
        late = step < self.model.disc_init_steps
        MessageHub.get_current_instance().update_info("iter", -1 if late else (step + 1) * counts - 1)
        inputs = {f"img_{self.opacity}": batch.opacity, f"img_{self.clear}": batch.clear}
        terms = self.model.train_step({"inputs": inputs}, optim)
        return {_logged(name): torch.as_tensor(value).detach() for name, value in terms.items()}

    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """The generator's image, N x C x H x W; no mask, no randomness."""
        domain = self.clear if direction == "a2b" else self.opacity
        return Translation(self.model.translation(images, target_domain=domain))


def _logged(name: str) -> str:
    """``loss_gan_d_a`` -> ``d_a``, ``loss_gan_g_a`` -> ``g_adv_a``, ``cycle_loss`` -> ``cycle``, ``loss`` -> ``g_total``."""
    name = name.replace("loss_gan_d", "d").replace("loss_gan_g", "g_adv")
    return "g_total" if name == "loss" else name.removeprefix("loss_").removesuffix("_loss")


def _set_channels(description: dict[str, Any], channels: int) -> None:
    """Fit a description to `channels`; a discriminator of pairs keeps its multiple of the generator's."""
    generator, discriminator = description["generator"], description["discriminator"]
    sets = discriminator.get("in_channels", 1) // generator.get("in_channels", 1)
    generator["in_channels"] = generator["out_channels"] = channels
    discriminator["in_channels"] = max(1, sets) * channels


# -- mmagic:cyclegan -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CycleGANConfig:
    """mmagic's published configuration (``configs/cyclegan/cyclegan_lsgan-resnet-in``).

    Attributes:
        cycle_w, id_w: weights of the cycle and the identity loss. `id_w` stands alone: ten times weaker than the original's
            0.5, which multiplies `cycle_w`.
        pool_size: earlier images kept a domain for the discriminators.
        lr, beta1, beta2: Adam, both optimizers.
        disc_lr_factor: of the discriminators' learning rate.
        width, n_blocks, init: generators; ``normal`` (standard deviation 0.02), ``xavier`` or ``kaiming`` initial weights.
        disc_width, disc_layers, disc_init: discriminators. Take ``disc_init=kaiming`` at small widths.
    """

    cycle_w: float = 10.0
    id_w: float = 0.5
    pool_size: int = 50
    lr: float = 2e-4
    disc_lr_factor: float = 1.0
    beta1: float = 0.5
    beta2: float = 0.999
    width: int = 64
    n_blocks: int = 9
    init: str = "normal"
    disc_width: int = 64
    disc_layers: int = 3
    disc_init: str = "normal"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing, naming the key."""
        check_choice(self, ("normal", "xavier", "kaiming"), "init", "disc_init")
        check_at_least(self, 1, "width", "disc_width", "disc_layers")
        check_at_least(self, 0, *weights(self), "n_blocks", "pool_size")
        check_above(self, 0, "lr", "disc_lr_factor")
        check_below_one(self, "beta1", "beta2")


class MmagicCycleGAN(MmagicMethod):
    """mmagic's CycleGAN. It updates the discriminators first, with images of generators not updated yet."""

    Config: ClassVar[type] = CycleGANConfig
    paper: ClassVar[str] = "CycleGAN (arXiv 1703.10593), as in mmagic 1.2.0"
    directions: ClassVar[tuple[str, ...]] = ("a2b", "b2a")

    @classmethod
    def settings(cls, config: CycleGANConfig) -> dict[str, Any]:
        """The published model with the configuration's numbers."""
        c, norm = config, {"type": "IN"}
        start, disc_start = ({"type": init, "gain": 0.02} for init in (c.init, c.disc_init))
        adam = ADAM | {"lr": c.lr, "betas": (c.beta1, c.beta2)}
        model = {
            "type": "CycleGAN",
            "generator": {
                "type": "ResnetGenerator", "in_channels": 3, "out_channels": 3, "base_channels": c.width, "norm_cfg": norm,
                "use_dropout": False, "num_blocks": c.n_blocks, "padding_mode": "reflect", "init_cfg": start,
            },
            "discriminator": {
                "type": "PatchDiscriminator", "in_channels": 3, "base_channels": c.disc_width, "num_conv": c.disc_layers,
                "norm_cfg": norm, "init_cfg": disc_start,
            },
            "default_domain": "b", "reachable_domains": ["a", "b"], "related_domains": ["a", "b"],
            "buffer_size": c.pool_size,
            "loss_config": {"cycle_loss_weight": c.cycle_w, "id_loss_weight": c.id_w},
        }  # fmt: skip
        return {"model": model, "optimizers": {"generators": adam, "discriminators": adam | {"lr": c.lr * c.disc_lr_factor}}}


# -- mmagic:PATH -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileConfig:
    """`lr`: of both optimizers; ``none`` leaves the file's ``optim_wrapper``, or mmagic's own where it has none."""

    lr: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no learning rate."""
        if self.lr is not None:
            check_above(self, 0, "lr")


class MmagicFile(MmagicMethod):
    """A model out of a mmagic config file; `resolve` makes a subclass for each file."""

    Config: ClassVar[type] = FileConfig
    file: ClassVar[dict[str, Any]] = {}

    @classmethod
    def settings(cls, config: FileConfig) -> dict[str, Any]:
        """The file's, with the learning rate of the configuration."""
        own = {} if config.lr is None else {"lr": config.lr}
        return cls.file | {"optimizers": {name: settings | own for name, settings in cls.file["optimizers"].items()}}


def resolve(name: str) -> type[Method]:
    """The class behind ``mmagic:NAME``.

    Raises:
        UsageError: no such recipe, or a file that holds no translation model.
    """
    if name == "cyclegan":
        return MmagicCycleGAN
    path = Path(name)
    file = read(path)
    _, opacity = domains(file["model"])
    both = opacity in file["model"]["reachable_domains"]
    facts = {"paper": f"{file['model']['type']} of mmagic 1.2.0", "origin": f"{path.name}@{digest(file)[:12]}"}
    directions = ("a2b", "b2a") if both else ("a2b",)
    return type("MmagicFile", (MmagicFile,), {"__module__": __name__, "file": file, "directions": directions, **facts})
