"""Watches trainings for what their loss curves hide: saturated losses, dead masks, outputs that have collapsed.

Nothing here knows a method. Losses are judged by what their names begin with (see `Trainable.step`) and by how they move,
outputs by comparing what `Method.translate` makes of a few training images with these images. What is found is a warning in
the run's record and in the notes of the leaderboard; a warning goes when what it told of has passed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor, nn

from bench.contracts import Method

#: Steps at the start of a training that nothing is told of: networks are still near their random start.
FIRST = 100
#: A loss is pinned when it was so for this many steps, this share of the run and this many looks: the longest of the three.
SPAN, SHARE, LOOKS = 200, 0.05, 10
#: A loss whose values differ by less than this share of the largest does not move at all; a discriminator's stands still.
NO_MOVE, STANDSTILL = 1e-4, 1e-2
#: A discriminator's loss below this is none. At chance LSGAN has 0.5, cross-entropy 1.4 and the hinge loss 2.
NO_LOSS = 0.02
#: The generators learn from their discriminator if their adversarial term falls by this share.
PROGRESS = 0.2

#: Standard deviation (of values in [-1, 1]) below which an output is flat, and that an input must have to tell.
FLAT, STRUCTURE = 0.01, 0.05
#: Outputs are alike when they differ from each other by less than this share of what their inputs do.
ALIKE = 0.1
#: A pixel is changed when it moved by more than 2 % of the range; outputs are copies when fewer than this share are.
CHANGE, COPIED = 0.04, 1e-3
#: Values beyond this are saturated; more than half of them are too many, unless nearly as many (less `EDGES`) came in.
EDGE, TOO_MANY, EDGES = 0.99, 0.5, 0.25
#: Images of a domain that are translated for a look.
IMAGES = 4

#: Ending of a discriminator's loss that the generators are to keep at chance, not to beat.
CHANCE = "_chance"

Streak = dict[str, float]  # since and until which step, how many looks, lowest and highest value


class CollapseWatch:
    """Judges logged losses and translated images.

    Losses, by name (a mean over one logging interval each). "Long" is 200 steps, 5 % of the run and 10 looks at least:

    * ``mask_*`` is the mean of an activation mask, [0, 1]: below 0.001 it is empty, above 0.99 it covers the image.
    * ``d_*`` is a discriminator's loss. Long from 0 to 0.02 (a critic's, which may be negative, is no loss) while its
      `opponents` fall by no more than 20 %: the discriminator has won, the generators learn nothing from it. Long within 1 %:
      it stands still, at chance for example. One whose name ends in ``_chance`` belongs there: it and its opponents may.
    * Any loss that long moves by less than 1e-4 of its value stands still. A loss other than ``d_*`` and ``g_adv*`` may stay at
      exactly 0: hinges and parts that are switched off do.
    * ``*_share`` and ``*_accuracy`` are no losses; ``P_total`` is judged by its parts where there are other ``P_*``.

    Outputs: see `see_outputs`.

    Attributes:
        warnings: what holds now, by what it is about; for the run's record.

    Args:
        total: iterations of the run.
    """

    def __init__(self, total: int = 0) -> None:
        self.span = max(SPAN, round(SHARE * total))
        self.warnings: dict[str, str] = {}
        self.streaks: dict[str, Streak] = {}
        self.adversarial: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"warnings": self.warnings, "streaks": self.streaks, "adversarial": self.adversarial}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Carry on from `state`; what it lacks starts anew."""
        self.warnings = dict(state.get("warnings", {}))
        self.streaks = {name: dict(streak) for name, streak in state.get("streaks", {}).items()}
        self.adversarial = dict(state.get("adversarial", {}))

    def see(self, step: int, losses: Mapping[str, float]) -> None:
        """Look at one interval's mean losses."""
        for name in (n for n in losses if n.startswith("mask_")):
            self._mask(step, name, losses[name])
        rest = {n: v for n, v in losses.items() if not n.startswith("mask_") and not n.endswith(("_share", "_accuracy"))}
        terms = {n: v for n, v in rest.items() if not _is_sum(n, rest)}
        # Not every interval has every term.
        self.adversarial |= {n: v for n, v in terms.items() if _answers(n) or n.endswith(CHANCE)}
        fooled = {g for name in self.adversarial if name.endswith(CHANCE) for g in opponents(name, self.adversarial)}
        for name, value in terms.items():
            if name.startswith("d_"):
                self._discriminator(step, name, value)
            elif name not in fooled:
                self._still(step, name, value, NO_MOVE)

    def _mask(self, step: int, name: str, value: float) -> None:
        text = ""
        if step >= FIRST and value < 1e-3:
            text = f"{name}: the activation mask is empty (mean {value:.1e} at step {step})"
        elif step >= FIRST and value > 0.99:
            text = f"{name}: the activation mask covers the image (mean {value:.3f} at step {step})"
        self._tell(name, text)

    def _discriminator(self, step: int, name: str, value: float) -> None:
        pairs = opponents(name, self.adversarial) or [n for n in self.adversarial if n.startswith("g_adv")]
        against = {n: self.adversarial[n] for n in pairs}
        lost = True
        for rival, level in {name: value, **against}.items():
            key = f"{name} against {rival}"
            old = self.streaks.get(key)
            falls = old is not None and rival != name and level < old["high"] - PROGRESS * abs(old["high"])
            streak = self._extend(key, step, level, broken=not 0 <= value <= NO_LOSS or falls)
            lost = lost and 0 <= value <= NO_LOSS and self._long(streak)
        if not lost:
            self._tell(f"{name} won", "")
            if not name.endswith(CHANCE):
                self._still(step, name, value, STANDSTILL)
            return
        others = ", ".join(f"{n} {v:.3g}" for n, v in sorted(against.items()))
        since = max(self.streaks[f"{name} against {rival}"]["since"] for rival in (name, *against))
        self._tell(name, "")
        self.streaks.pop(name, None)
        self._tell(
            f"{name} won",
            f"{name}: the discriminator has won and teaches the generators nothing (loss {value:.1e}"
            f"{f', {others} does not fall' if others else ''}, steps {since:.0f} to {step})",
        )

    def _still(self, step: int, name: str, value: float, tolerance: float) -> None:
        old = self.streaks.get(name)
        low, high = (min(old["low"], value), max(old["high"], value)) if old else (value, value)
        streak = self._extend(name, step, value, broken=high - low > tolerance * max(abs(low), abs(high)))
        idle = streak["low"] == streak["high"] == 0 and not name.startswith(("d_", "g_adv"))
        text = ""
        if self._long(streak) and not idle:
            text = (
                f"{name}: the loss stands still ({streak['low']:.6g} to {streak['high']:.6g}, "
                f"steps {streak['since']:.0f} to {step})"
            )
        self._tell(name, text)

    def _extend(self, key: str, step: int, value: float, broken: bool) -> Streak:
        """Lengthen a streak by one look, or begin it anew where it is broken."""
        old = self.streaks.get(key)
        if old is None or broken:
            streak = {"since": step, "until": step, "looks": 1, "low": value, "high": value}
        else:
            looks = old["looks"] + 1
            streak = {
                "since": old["since"], "until": step, "looks": looks,
                "low": min(old["low"], value), "high": max(old["high"], value),
            }  # fmt: skip
        self.streaks[key] = streak
        return streak

    def _long(self, streak: Streak) -> bool:
        return streak["until"] - streak["since"] >= self.span and streak["looks"] >= LOOKS

    def _tell(self, about: str, text: str) -> None:
        if text:
            self.warnings[about] = text
        else:
            self.warnings.pop(about, None)

    def see_outputs(self, step: int, direction: str, source: Tensor, made: Tensor) -> None:
        """Look at translations of a few images (N x C x H x W, [-1, 1]) and tell the first of these that holds:

        * values that are not finite;
        * at least half of the outputs are flat (standard deviation below 0.01) where their inputs are not (0.05);
        * outputs of different images are nearly the same: they differ by less than a tenth of what the inputs do (mode collapse);
        * outputs are copies: fewer than one in a thousand pixels moved by more than 2 % of the range;
        * outputs are saturated: more than half of the values are within 0.01 of -1 or 1, and a quarter more than came in.
        """
        if step < FIRST:
            return
        seen = output_statistics(source, made)
        text = ""
        if not seen["finite"]:
            text = "outputs hold values that are not finite"
        elif seen["flat_share"] >= 0.5:
            text = f"outputs are flat (mean standard deviation {seen['detail']:.1e} within an image)"
        elif seen["spread"] < ALIKE * seen["spread_in"] and seen["spread_in"] > FLAT:
            text = (
                "outputs of different images are nearly the same (mode collapse: they differ by "
                f"{seen['spread']:.1e}, their inputs by {seen['spread_in']:.1e})"
            )
        elif seen["changed"] < COPIED:
            text = f"outputs are copies of their inputs ({seen['changed']:.2%} of the pixels changed)"
        elif seen["edges"] > max(TOO_MANY, seen["edges_in"] + EDGES):
            text = f"outputs are saturated ({seen['edges']:.0%} of the values at -1 or 1; inputs {seen['edges_in']:.0%})"
        self._tell(f"outputs {direction}", text and f"{direction}: {text}, step {step}, {len(source)} training images")


def opponents(name: str, names: Iterable[str]) -> list[str]:
    """The generators' terms among `names` that answer the discriminator's loss `name`.

    For ``d_X`` (or ``d_X_chance``) ``g_adv_X``, or else ``g_X``, whole or in parts (``g_X_a``, ``g_X_b``).
    """
    about, known = name.removeprefix("d_").removesuffix(CHANCE), list(names)
    for term in (f"g_adv_{about}", f"g_{about}"):
        if found := [n for n in known if n == term or n.startswith(f"{term}_")]:
            return found
    return []


def _answers(name: str) -> bool:
    """True of a generators' term that may answer a discriminator; a sum with other losses does not."""
    return name.startswith("g_") and not name.endswith("_total")


def _is_sum(name: str, names: Iterable[str]) -> bool:
    """True of ``P_total`` where there are other ``P_*``."""
    whole = name.removesuffix("total")
    return whole != name and whole.endswith("_") and any(n != name and n.startswith(whole) for n in names)


def output_statistics(source: Tensor, made: Tensor) -> dict[str, float]:
    """What `CollapseWatch.see_outputs` judges, in one device synchronisation.

    Args:
        source: N x C x H x W in [-1, 1].
        made: their translations, same shape.
    """
    x, y = source.float(), made.float()
    inside, detail = x.flatten(1).std(1), y.flatten(1).std(1)
    several = len(x) > 1
    found = {
        "finite": y.isfinite().all().float(),
        "flat_share": ((detail < FLAT) & (inside >= STRUCTURE)).float().mean(),
        "detail": detail.mean(),
        "spread": y.std(0).mean() if several else y.new_zeros(()),
        "spread_in": x.std(0).mean() if several else x.new_zeros(()),
        "changed": ((y - x).abs() > CHANGE).float().mean(),
        "edges": (y.abs() > EDGE).float().mean(),
        "edges_in": (x.abs() > EDGE).float().mean(),
    }
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))


class OutputHook(Hook):  # type: ignore[misc]
    """Translates the first few training images whenever a checkpoint is due and shows them to the watch.

    Only in the last stage, the one that `translate` comes after, and only in the first process. Training does not notice: a
    look that fails is a warning, no random number is drawn from its generators, no mode, gradient or statistic changes. Images
    are those of the first steps, saved with the checkpoints, so every look is at the same ones.

    Args:
        watch: what is told.
        last: this stage is the method's last.
    """

    priority = "LOW"  # before CheckpointHook, so that a checkpoint holds what its own weights led to

    def __init__(self, watch: CollapseWatch, last: bool = True) -> None:
        self.watch, self.last = watch, last
        self.images: dict[str, Tensor] = {}
        self.on = False

    def before_train(self, runner: Any) -> None:
        self.on = isinstance(runner.model, Method) and self.last and is_main_process()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not self.on:
            return
        self._gather(runner.model, data_batch[0])
        done = runner.iter + 1
        if done >= FIRST and runner.checkpoint_due(done):
            self._look(runner, done)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["watched_images"] = {name: images.cpu() for name, images in self.images.items()}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self.images = checkpoint.get("watched_images", {})

    def _gather(self, model: Method, batch: Any) -> None:
        """Keep the first images of each direction's source, of as many steps as it takes."""
        for direction in model.directions:
            have = self.images.get(direction)
            if have is None or len(have) < IMAGES:
                new = (batch.opacity if direction == "a2b" else batch.clear).detach()
                kept = new if have is None else torch.cat([have.to(new.device), new])
                self.images[direction] = kept[:IMAGES].clone()

    def _look(self, runner: Any, done: int) -> None:
        device = runner.device
        with undisturbed(runner.model, device, runner.settings.compile):
            for direction in self.images:
                images = self.images[direction] = self.images[direction].to(device)
                try:
                    made = runner.model.translate(images.clone(), direction, [0] * len(images)).image
                    self.watch.see_outputs(done, direction, images, made)
                except Exception as error:  # a look must not cost the training, whatever is wrong with it
                    words = " ".join(str(error).split())[:200] or type(error).__name__
                    self.watch.warnings[f"outputs {direction}"] = f"{direction}: translate failed at step {done}: {words}"


@contextmanager
def undisturbed(model: nn.Module, device: torch.device, compiled: bool = False) -> Iterator[None]:
    """Within the block a model is in eval mode, without gradients and in fp32; after it, it and all generators are as before.

    Args:
        model: any.
        device: where it is; that device's generator is kept, too.
        compiled: its networks are compiled: they run uncompiled here, as another mode would be compiled anew, for minutes.
    """
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    model.eval()
    try:
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            eager,
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(python)
        np.random.set_state(numpy)
