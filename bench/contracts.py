"""The contracts: what a contributor implements, and all that the harness knows of it.

* `Method`: networks, losses, one training step, one translation. Knows nothing of datasets, files, devices or metrics.
* `Evaluator`: scores image sets. Knows nothing of methods. In `bench.scoring`, with all it gets and gives.
* `Prior`: the frozen finding classifier that methods may align with and `fidelity` may take features from.

Tensors are float32, N x C x H x W, range [-1, 1] unless a docstring says otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from bench.draws import Draws
from bench.errors import UsageError
from bench.scoring import Evaluator, Job, Metric, Score, ScoreJob

__all__ = [
    "Batch", "Draws", "Evaluator", "FrozenHolder", "Job", "LabelledBatch", "Method", "Metric", "OptimWrappers", "Prior", "Score",
    "ScoreJob", "Trainable", "Translation", "frozen",
]  # fmt: skip

OptimWrappers = Mapping[str, OptimWrapper]


@dataclass
class Batch:
    """What a translation method sees in one step.

    Attributes:
        opacity: images with opacities, N x C x H x W in [-1, 1].
        clear: images without, same shape; unpaired.
        draws: the step's random numbers.
        extra: what the method's `needs` asked for, for example ``lung_mask_opacity`` (N x 1 x H x W, {0, 1}).
    """

    opacity: Tensor
    clear: Tensor
    draws: Draws
    extra: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class LabelledBatch:
    """What a supervised model (the prior) sees in one step.

    Attributes:
        image: N x C x H x W in [-1, 1].
        labels: N x K in {0, 1}.
        known: N x K in {0, 1}; 0 where the label is unknown and must not count.
        draws: the step's random numbers.
    """

    image: Tensor
    labels: Tensor
    known: Tensor
    draws: Draws


@dataclass
class Translation:
    """Output of a translation.

    Attributes:
        image: N x C x H x W in [-1, 1].
        mask: activation mask N x 1 x H x W in [0, 1], or None for methods without one.
    """

    image: Tensor
    mask: Tensor | None = None


class Trainable(BaseModel):
    """Anything the engine trains: networks with their optimizers and one step.

    Everything that training depends on must be in `state_dict()` (replay pools and queues as modules with extra state), and the
    same in every process of a distributed run, as one process saves it for all (``methods/pool.py`` does so). A module whose
    extra state holds images also has ``empty_extra_state()``: that state without them, which goes into ``weights.pth``.
    """

    #: Stages of training, in order; each is cached on its own. ``()`` for methods that learn nothing.
    stages: ClassVar[tuple[str, ...]] = ("train",)

    def begin(self, stage: str) -> None:
        """Called once before each stage, in order, with what the stage before learnt in place; `optimizers` comes next.

        Override it where stages differ: hand weights on, choose what `optimizers` returns. Default: nothing.
        """

    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Name -> optimizer over this module's parameters, for the stage begun last. The engine wraps each (precision,
        accumulation, ranks)."""

    def lr_factor(self, step: int, total: int) -> float:
        """Factor on every optimizer's base learning rate: constant for the first half, then linear to 0."""
        half = total / 2
        return 1.0 if step < half else max(0.0, 1.0 - (step - half) / max(1.0, total - half))

    @abstractmethod
    def step(self, batch: Any, optim: OptimWrappers, stage: str) -> dict[str, Tensor]:
        """One training iteration, in any update order. Returns detached scalars to log; non-finite ones stop the run.

        Names tell the watch what a scalar is: ``d_X`` a discriminator's loss, ``g_adv_X`` or ``g_X`` (or parts, ``g_X_a``) the
        generators' term that answers it, ``d_X_chance`` a discriminator that the generators are to keep at chance, ``mask_*`` a
        mean mask, ``P_total`` the sum of other ``P_*``, ``*_share`` and ``*_accuracy`` no loss.

        Call ``optim[name].update_params(loss)`` to back-propagate and step (it honours gradient accumulation). It reaches the
        parameters of that optimizer and no others: what a generator's loss would leave in a discriminator is never computed,
        whether it is `frozen` or not. Networks that learn from one loss therefore share an optimizer (and may have parameter
        groups of their own).

        Random numbers come from ``batch.draws``. What torch, numpy and random give by themselves is resumed exactly, too, but
        differs between the processes of a distributed run: a choice that all must make alike (to leave an update out) is drawn
        from ``batch.draws.generator``.
        """

    def networks(self) -> list[nn.Module]:
        """The modules that ``train.compile`` compiles: those that `step` really calls, as ``module(...)``.

        Default: the direct children, containers without a forward of their own (`nn.ModuleDict`) by their children. Override
        it where a child is used through other methods (``encode``): compiling such a child would compile nothing.
        """
        own = [child for name, child in self.named_children() if name != "data_preprocessor"]  # mmengine's, unused here
        return [network for child in own for network in _called(child)]

    def train_step(self, data: Any, optim_wrapper: OptimWrappers) -> dict[str, Tensor]:  # type: ignore[override]
        """mmengine's entry: the engine's data source hands over ``(batch, stage)``."""
        batch, stage = data
        return self.step(batch, optim_wrapper, stage)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Unused: the engine calls `step`; users call `Method.translate`."""
        raise TypeError(f"{type(self).__name__} is trained with step() and used with translate(), not called.")


class Method(Trainable):
    """An unpaired translation method.

    Subclasses are decorated with ``@register_method("name")`` and define:

    Attributes:
        Config: frozen dataclass; every hyper-parameter, the paper's values as defaults.
        version: bumped whenever numbers could change; part of every key.
        paper: citation shown in leaderboards.
        license: licence of this implementation and what it derives from.
        directions: which of ``a2b`` (opacity to clear) and ``b2a`` it can do.
        needs: extra inputs: ``prior`` (the frozen finding classifier), ``lung_mask``.
        one_process: why several processes may not train it together; empty where they may.
    """

    Config: ClassVar[type]
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""
    license: ClassVar[str] = ""
    directions: ClassVar[tuple[str, ...]] = ("a2b",)
    needs: ClassVar[frozenset[str]] = frozenset()
    one_process: ClassVar[str] = ""

    def __init__(self, config: Any, channels: int, prior: Prior | None = None) -> None:
        """Build the networks for `channels` image channels (1 and 3 must work); `prior` only when `needs` asks for it."""
        super().__init__()
        self.config, self.channels = config, channels

    @classmethod
    def requires(cls, config: Any) -> frozenset[str]:
        """What this configuration needs out of `needs` (a switched-off module may need less)."""
        return cls.needs

    @classmethod
    def budget(cls, config: Any, stage: str, updates: int, batch_size: int) -> tuple[int, int]:
        """Iterations and batch size of a stage, for a budget that is counted in generator updates.

        What is compared at equal cost are the images that generators learn from: ``updates * batch_size``. A method whose
        iterations do not all update the generators (DRIT, ACL-GAN) needs more of them; a stage that prepares the generators
        may take its own share; 0 iterations leave it out. Default: one update an iteration.
        """
        return updates, batch_size

    @classmethod
    def images_seen(cls, config: Any, stage: str, iterations: int, batch_size: int) -> int:
        """Images a domain that generators learn from in so many iterations: the inverse of `budget`."""
        return iterations * batch_size

    @classmethod
    def schedule(cls, config: Any, updates: int, batch_size: int) -> dict[str, tuple[int, int]]:
        """The stages that a budget leaves something for, in order, with the iterations and batch size of each.

        Raises:
            UsageError: it leaves out every stage of a method that learns.
        """
        found = {stage: cls.budget(config, stage, updates, batch_size) for stage in cls.stages}
        left = {stage: spent for stage, spent in found.items() if spent[0]}
        if found and not left:
            raise UsageError(f"{cls.__name__}: {updates} iterations of batch size {batch_size} leave nothing for any stage.")
        return left

    @classmethod
    def check_share(cls, config: Any, images: int) -> None:
        """Refuse what one process gets of a batch where `step` cannot take so many images a domain. Default: any number will do.

        Raises:
            UsageError: the message says which numbers will do.
        """

    def inference_modules(self) -> dict[str, nn.Module]:
        """Name -> module used by `translate`; the engine keeps their moving average where a preset asks for one."""
        return {}

    @abstractmethod
    def translate(self, images: Tensor, direction: str = "a2b", seeds: Sequence[int] | None = None) -> Translation:
        """Translate N x C x H x W images in [-1, 1]; one output per input, independent of batch size and order.

        Args:
            images: source images.
            direction: ``a2b`` removes opacities, ``b2a`` adds them.
            seeds: one an image, for methods with random style; None means the method's fixed style.
        """


class Prior(nn.Module):
    """The finding classifier C = psi o phi (the paper's CheXNet), frozen while methods train.

    Attributes:
        findings: names of the K outputs.
        opacity_indices: outputs that are lung opacities (Atelectasis, Effusion, Infiltration, Pneumonia, Consolidation,
            Edema, or Lung_Opacity).
    """

    findings: tuple[str, ...]
    opacity_indices: tuple[int, ...]

    @abstractmethod
    def features(self, images: Tensor, relu: bool = True) -> Tensor:
        """phi: feature maps N x F x h x w of images N x C x H x W in [-1, 1]; `relu` False gives them before the last ReLU."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """psi: finding probabilities N x K in [0, 1] of post-ReLU feature maps."""


class FrozenHolder(nn.Module):
    """Carries a frozen module along with a trainable one: follows its device, stays in eval mode, is not in its state."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "module", module.eval().requires_grad_(False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenHolder:
        self.module._apply(fn)  # type: ignore[operator, union-attr]
        return super()._apply(fn, recurse)


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """The module, or what it contains where it cannot be called itself; frozen ones are left out."""
    if isinstance(module, FrozenHolder):
        return
    if type(module).forward is not nn.Module.forward:
        yield module
    else:
        for child in module.children():
            yield from _called(child)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within the block the modules' parameters take no gradient; activations still pass it through.

    It saves memory and, under bf16, keeps their cast weights out of autocast's cache. Updates do not need it: see `Trainable.step`.
    """
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
