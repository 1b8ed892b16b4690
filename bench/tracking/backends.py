"""mmengine's visualizer back-ends as this project uses them: training code calls ``runner.visualizer`` and knows no tracker.

What is changed, and why:

* mmengine 0.10's W&B back-end drops the step of every value, so that curves count log lines: here a value is logged at its step.
* its ``add_config`` uploads the source code, its ``add_graph`` gradients: here the one sends the configuration, the other nothing.
* its ``close`` ends the run: here scores follow, and `bench.tracking` ends it.
* what goes wrong in a back-end never stops a training (`Tracker.guarded`); a full disk does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from mmengine.registry import VISBACKENDS
from mmengine.visualization import TensorboardVisBackend, WandbVisBackend

from bench.tracking.curves import Curve, Open
from bench.tracking.gate import bare

#: Name of the W&B back-end in mmengine's registry.
NAME = "TrackedWandbVisBackend"


@VISBACKENDS.register_module(name=NAME)
class TrackedWandbVisBackend(WandbVisBackend):  # type: ignore[misc]
    """Logs a stage of a training to the W&B run of its method and seed, or to that of what all methods share.

    Names are ``STAGE/loss``, drawn over ``STAGE/step``, the iteration. wandb's own step is that of the whole training. What the
    run holds already is not logged again; what it lacks of the stage's own log is logged first.

    Args:
        save_dir: unused; mmengine hands it over.
        start: opens the run; None where it cannot be.
        guarded: `Tracker.guarded`.
        curve: the stage.
        pictures: whether the gate lets pictures of the training data pass.
    """

    def __init__(
        self, save_dir: str, start: Callable[[], Open | None], guarded: Callable[[], AbstractContextManager[None]],
        curve: Curve, pictures: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(save_dir)
        self.start, self.guarded, self.curve, self.pictures = start, guarded, curve, pictures
        self.opened: Open | None = None

    def _init_env(self) -> None:
        """Open the run, on first use; once."""
        self._env_initialized = True
        self.opened = self.start()
        if self.opened:
            with self.guarded():
                self.opened.name(self.curve.stage)
                self.opened.catch_up(self.curve)

    @property
    def experiment(self) -> Any:
        """wandb's run; None where there is none."""
        if not self._env_initialized:
            self._init_env()
        return self.opened.run if self.opened else None

    def add_scalars(self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any) -> None:
        """Log a row of losses at its step."""
        if self.experiment is not None and self.opened is not None:
            with self.guarded():
                self.opened.log_losses(self.curve, step, scalar_dict)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Log a value at its step."""
        if self.experiment is not None and self.opened is not None:
            with self.guarded():
                self.opened.log(self.curve, step, {name: value})

    def add_image(self, name: str, image: Any, step: int = 0, **kwargs: Any) -> None:
        """Log a picture (H x W x 3, 0 to 255) at its step, if the gate has let the training data pass."""
        if self.pictures and self.experiment is not None and self.opened is not None:
            import wandb

            with self.guarded():
                self.opened.log(self.curve, step, {name: wandb.Image(image)})

    def add_config(self, config: Any, **kwargs: Any) -> None:
        """Send a configuration, without folders, and nothing else."""
        run = self.experiment
        if run is not None:
            with self.guarded():
                run.config.update(bare(config.to_dict()), allow_val_change=True)

    def add_graph(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: gradients and networks are not sent."""

    def close(self) -> None:
        """Nothing: the run goes on with scores."""


@VISBACKENDS.register_module()
class TrackedTensorboardVisBackend(TensorboardVisBackend):  # type: ignore[misc]
    """mmengine's TensorBoard back-end, whose failures stop no training.

    Args:
        save_dir: where its files go.
        guarded: `Tracker.guarded`.
        resumed: the step that the training goes on from: what earlier files hold of later ones is not shown; None for a new one.
    """

    def __init__(self, save_dir: str, guarded: Callable[[], AbstractContextManager[None]], resumed: int | None = None) -> None:
        super().__init__(save_dir)
        self.guarded, self.resumed = guarded, resumed

    def _init_env(self) -> None:
        """Open a file; mmengine's own says nothing of a resumed training, whose curves then run twice over the same steps."""
        from torch.utils.tensorboard import SummaryWriter  # here, as tensorboard is for those who use it

        self._tensorboard = SummaryWriter(self._save_dir, purge_step=None if self.resumed is None else self.resumed + 1)

    def add_scalars(self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any) -> None:
        """Write values at their step."""
        with self.guarded():
            super().add_scalars(scalar_dict, step, file_path, **kwargs)

    def add_image(self, name: str, image: Any, step: int = 0, **kwargs: Any) -> None:
        """Write a picture at its step."""
        with self.guarded():
            super().add_image(name, image, step, **kwargs)
