"""Frame of the published implementations that `scripts/benchmark --training` times our training steps against.

Nothing of theirs is in here: their modules are imported from checkouts of yours, run as they are but for what current PyTorch
or a machine without a GPU refuses, and get our weights. Each adapter knows how to build the published trainer for given sizes,
in which order its parameters meet ours, which numbers to hand it where it asks for noise, and where it keeps its losses.
"""

from __future__ import annotations

import io
import sys
import types
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.contracts import Draws

#: Top-level modules that checkouts call by the same names; they are imported one checkout at a time, and put away again.
SHARED_NAMES = {"trainer", "networks", "utils", "model", "models", "util", "uvcgan"}


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
    """Parameters of the convolutions in order, then of the linear layers, then of the layer norms (each side has its own class)."""
    found = list[Tensor]()
    for kind in (nn.Conv2d, nn.Linear, None):
        layer = [m for m in net.modules() if (isinstance(m, kind) if kind else type(m).__name__ == "LayerNorm")]
        found += [p for m in layer for p in m.parameters()]
    return found


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
        self.folder, self.setting = folder, setting
        with importing(folder, **self.stubs()), cuda_means(setting.device):
            self.model = self.build(method)
        for value in [*list(vars(self.model).values()), self.model]:
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
