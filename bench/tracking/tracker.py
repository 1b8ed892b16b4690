"""The W&B runs of an experiment: which there are, what is logged to each, and the one tracker of this process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import records
from bench.arguments import first
from bench.config import plain
from bench.files import digest, disk_full, read_json
from bench.progress import say, warn
from bench.tracking import files
from bench.tracking.curves import Curve, Open, Who, rows_of
from bench.tracking.gate import BarredError, Gate, bare
from bench.tracking.values import command, flat, score_values, sha256

if TYPE_CHECKING:
    import pandas as pd

    from bench.experiment import Experiment

#: Where runs go unless WANDB_PROJECT says.
PROJECT = "cxr-bench"
#: Seconds to wait for the server at the start and at the end of a run; what is not sent then is on disk.
START, END = 30, 120
#: wandb settings that keep here what is not said above. A version of wandb that lacks one refuses it, and nothing is logged.
PRIVATE: dict[str, Any] = {
    "console": "off", "save_code": False, "disable_code": True, "disable_git": True, "disable_job_creation": True, "host": "",
    "username": "", "email": "", "x_disable_stats": True, "x_disable_meta": True, "x_disable_machine_info": True,
    "x_save_requirements": False, "silent": True, "init_timeout": START, "finish_timeout": END,
}  # fmt: skip
#: Folders that wandb would make elsewhere.
_PLACES = {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache", "WANDB_ARTIFACT_DIR": "artifacts"}


class Tracker:
    """The W&B runs of one experiment.

    Args:
        experiment: what is tracked; its options say how.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.home = (experiment.spec.options.runs / "wandb").absolute()
        self.gate = Gate(experiment)
        self.mode = "off"
        self.runs: dict[str, Open | None] = {}
        self.known: dict[str, files.Logged] = {}
        self.told: set[str] = set()
        self.lost, self.full = 0, False
        self.before: dict[str, str | None] = {}
        if first() and experiment.spec.options.wandb != "off":
            with self.guarded():
                self.mode = available(experiment.spec.options.wandb)
        if self.on:
            self.before = {name: os.environ.get(name) for name in _PLACES}
            os.environ.update({name: str(self.home / place) for name, place in _PLACES.items()})

    @property
    def on(self) -> bool:
        """Whether anything is logged."""
        return self.mode != "off" and not self.full

    @contextmanager
    def guarded(self, strict: bool = False) -> Iterator[None]:
        """Drop what goes wrong within the block, and say the first of it. A full disk ends the logging: `full` tells of it.

        Args:
            strict: raise where the disk is full: what is written lies among the results.
        """
        try:
            yield
        except BarredError as error:
            self.tell(str(error))
        except Exception as error:
            if disk_full(error):
                if strict:
                    raise
                if not self.full:
                    self.full = True
                    warn(f"W&B: no space is left below {self.home}, so nothing more is logged there.")
                    _full.append(self.home)
                return
            self.lost += 1
            if self.lost == 1:
                words = " ".join(str(error).split())[:300]
                warn(f"W&B: {type(error).__name__}: {words.rstrip('.')}. The run goes on, its results are in its folder.")

    def tell(self, text: str) -> None:
        """Say something once."""
        if text not in self.told:
            self.told.add(text)
            say(f"note      W&B: {text}")

    # -- runs ------------------------------------------------------------------------------------------------------------

    def group(self) -> str:
        """The experiment's name: preset, training data, and a hash of data and configuration that all its methods share.

        Test sets and evaluators are no part of it: a training that is scored on more stays where it was.
        """
        return f"{self.experiment.spec.preset}-{self.experiment.train_name}-{digest(self._shared())[:8]}"

    def _shared(self) -> dict[str, Any]:
        spec, known = self.experiment.spec, self.experiment.datasets
        learnt = {name: known[name].manifest.fingerprint for name in self.gate.learnt()}
        train = {k: v for k, v in plain(spec.config.train).items() if k != "checkpoint_interval"}
        prior = bare(plain(spec.config.prior))
        return {"data": plain(self.experiment.data), "train": train, "prior": prior, "learnt": learnt, "preset": spec.preset}

    def method(self, name: str, seed: int) -> Who:
        """The run of a method and a seed. The untranslated images belong to the experiment, as they have no training."""
        from bench.experiment import BASELINE

        key = self.experiment.train_key(name, seed)
        if name == BASELINE:
            return Who(digest([self.group(), key]), name, "baseline", lambda: self.experiment.describe(name, seed))
        label = self.experiment.spec.options.label
        title = f"{name} ({label}) seed{seed}" if label else f"{name} seed{seed}"
        return Who(key, title, "train", lambda: self.experiment.describe(name, seed), lambda: self._curves(name, seed))

    def _curves(self, name: str, seed: int) -> list[Curve]:
        """Where the losses of a method's stages lie; each stage begins after the steps of those before it."""
        from bench.experiment import method_config

        cls, config = method_config(self.experiment.spec.config, name)
        settings, place = self.experiment.train_config(name), self.experiment.folder(name, seed) / "train"
        curves, passed = [], 0
        for stage, (iterations, _) in cls.schedule(config, settings.iterations, settings.batch_size).items():
            curves.append(Curve(stage, passed, place / stage / "log.jsonl"))
            passed += iterations
        return curves

    def shared(self) -> Who:
        """The run for what all methods share: the finding classifier and the evaluators' models, a stage each."""
        return Who(digest([self.group(), "shared"]), "shared", "fit", self._shared)

    def _owner(self, record: Mapping[str, Any]) -> Who:
        """The run that a record belongs to."""
        if record["trained_by"] != "external":
            return self.method(record["method"], record["seed"])
        about = {"method": record["method"], "origin": "external", "preset": record["preset"]}
        run_id = digest([self.group(), record["method"], record["config_fingerprint"]])
        return Who(run_id, record["method"], "external", lambda: about)

    def earlier(self, run_id: str) -> files.Logged:
        """What the logs on this machine hold of a run."""
        if run_id not in self.known:
            self.known[run_id] = files.read(files.logs_of(self.home, run_id))
        return self.known[run_id]

    def open(self, who: Who) -> Open | None:
        """The W&B run, opened on first use; None where it cannot be."""
        if not self.on:
            return None
        if who.run_id not in self.runs:
            self.runs[who.run_id] = None
            with self.guarded():
                self.runs[who.run_id] = self._start(who)
        return self.runs[who.run_id]

    def _start(self, who: Who) -> Open:
        config = {
            **bare(who.about()), "experiment": bare(self._shared()), "code": records.code_revision(),
            "versions": records.versions(), "command": command(),
        }  # fmt: skip
        self.gate.words(config, f"configuration of {who.name}")
        earlier = self.earlier(who.run_id)
        last, held = earlier.last_step, earlier.stages
        try:
            run = self._init(who, config)
        except Exception as error:
            if self.mode != "online" or disk_full(error):
                raise
            self.mode = "offline"
            words = " ".join(str(error).split())[:200]
            warn(f"W&B cannot be reached ({words}): kept below {self.home} instead; see: bench wandb sync.")
            _let_go()
            run = self._init(who, config)
        opened = Open(run, max(last, int(run.step) - 1), held)
        for curve in who.curves():  # a kill may have cost what wandb had not written yet
            opened.catch_up(curve)
        return opened

    def _init(self, who: Who, config: dict[str, Any]) -> Any:
        import wandb

        self.home.mkdir(parents=True, exist_ok=True)
        if self.experiment.policy() == "credentialed":
            self.home.chmod(0o700)
        files.wait_for_a_second_of_its_own(self.home, who.run_id)
        return wandb.init(
            mode="online" if self.mode == "online" else "offline", project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=self.group(), id=who.run_id, name=who.name, job_type=who.job, resume="allow", reinit="create_new",
            dir=str(self.home.parent), config=config, settings=wandb.Settings(**PRIVATE),
        )  # fmt: skip

    def close(self, failed: Collection[str] = (), code: int = 0, keep: str = "") -> None:
        """End the runs that are open; logging more opens them again.

        Args:
            failed: methods of which something failed: W&B marks their runs.
            code: exit code of all others.
            keep: name of a run that stays open.
        """
        for run_id, opened in [*self.runs.items()]:
            if opened and opened.run.name != keep:
                with self.guarded():
                    bad = opened.run.name.split(" ")[0] in failed
                    told = {f"{stage}/step": step for stage, step in opened.done.items()}
                    self.earlier(run_id).rows.append({"_step": int(opened.run.step), **told})  # its log may be on its way to disk
                    opened.run.finish(exit_code=1 if bad else code)
                del self.runs[run_id]

    def finish(self) -> None:
        """End everything. What is open still was broken off."""
        if self.mode == "off":
            return
        self.close(code=1)
        with self.guarded():
            _let_go()
        for name, value in self.before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if self.mode == "offline" and files.waiting(self.home):
            self.tell(f"kept below {self.home}; how to upload it: bench wandb sync {self.home.parent}")
        if self.lost > 1:
            warn(f"W&B: {self.lost} times something was not logged.")
        self.mode, self.lost = "off", 0

    # -- what is logged --------------------------------------------------------------------------------------------------

    def log_fit(self, stage: str, log: Path) -> None:
        """Log losses of what all methods share that were made by another run, or lost by a kill; those that are there are not."""
        if self.on:
            with self.guarded():
                who, curve = self.shared(), Curve(stage, None, log)
                opened = self.runs.get(who.run_id)
                held = max(opened.reached(curve) if opened else -1, self.earlier(who.run_id).stages.get(stage, -1))
                if any(step > held for step, _ in rows_of(log)) and (opened := self.open(who)):
                    opened.catch_up(curve)

    def log_record(self, path: Path) -> None:
        """Log a record: every score with spread, interval and n, and the evaluator's figures where the gate lets them."""
        if not self.on:
            return
        with self.guarded():
            record = read_json(path)
            who, cell = self._owner(record), f"{record['dataset']}/{record['evaluator']}"
            values = score_values(record, cell)
            self.gate.words(values, cell)
            self._summarise(who, values)
            figures = {f"figures/{cell}/{Path(f).stem}": path.parent.parent / f for f in record.get("figures", ())}
            if figures:
                self.gate.pictures(self.gate.around(record["dataset"], record["evaluator"]), f"figures of {cell}")
                self._pictures(who, figures)

    def log_picture(self, name: str, seed: int, test: str, path: Path) -> None:
        """Log the picture of a method's first translations of a test set."""
        self._log_gated(lambda: self.method(name, seed), {f"pictures/{test}": path}, test)

    def log_comparison(self, test: str, path: Path) -> None:
        """Log the picture of several methods side by side."""
        self._log_gated(self._leaderboard, {f"pictures/{test}": path}, test)

    def _log_gated(self, who: Callable[[], Who], pictures: Mapping[str, Path], test: str) -> None:
        if self.on:
            with self.guarded():
                self.gate.pictures(self.gate.around(test), f"pictures of {test}")
                self._pictures(who(), pictures)

    def _leaderboard(self) -> Who:
        return Who(digest([self.group(), "leaderboard"]), "leaderboard", "leaderboard", self._shared)

    def log_figures(self, figures: Iterable[tuple[str, bytes]]) -> None:
        """Log figures (name, PNG file) of open data to the leaderboard's run. The caller leaves out all others."""
        with self.guarded(), tempfile.TemporaryDirectory() as folder:
            for name, data in figures if self.on else ():
                self.gate.words(name, "name of a figure")
                path = Path(folder) / "figure.png"
                path.write_bytes(data)
                self._pictures(self._leaderboard(), {f"leaderboard/{name}": path})

    def log_leaderboard(self, frames: Mapping[str, pd.DataFrame]) -> None:
        """Log tables, each as a `wandb.Table` under its name; one that is as it was is not logged again."""
        for name, frame in frames.items() if self.on else ():
            with self.guarded():
                columns, rows = flat(frame)
                self.gate.words([columns, rows], f"table {name}")
                key = f"leaderboard/{name}"
                content = digest([columns, rows])
                who = self._leaderboard()
                if self.earlier(who.run_id).summary.get(f"{key}/content") != content and (opened := self.open(who)):
                    import wandb

                    opened.run.log({key: wandb.Table(columns=columns, data=rows, allow_mixed_types=True)}, step=opened.next())
                    opened.run.summary.update({f"{key}/content": content})
                    self.earlier(who.run_id).summary[f"{key}/content"] = content

    def _summarise(self, who: Who, values: Mapping[str, Any]) -> None:
        """Write values into a run's summary that are not there yet."""
        old = self.earlier(who.run_id).summary
        new = {key: value for key, value in values.items() if key not in old or old[key] != value}
        if new and (opened := self.open(who)):
            opened.run.summary.update(new)
            old |= new

    def _pictures(self, who: Who, pictures: Mapping[str, Path]) -> None:
        """Log picture files that the gate has let pass and that are not there yet."""
        old = self.earlier(who.run_id).summary
        there = {key: path for key, path in pictures.items() if path.is_file()}
        new = {key: path for key, path in there.items() if old.get(f"{key}.sha256") != sha256(path)}
        if new and (opened := self.open(who)):
            import wandb

            opened.run.log({key: wandb.Image(str(path)) for key, path in new.items()}, step=opened.next())
            old |= {f"{key}.sha256": sha256(path) for key, path in new.items()}


def _let_go() -> None:
    """End wandb's process: it writes what it still has, and forgets the ids of runs that could not be begun."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def available(mode: str) -> str:
    """The mode that can be had: ``off``, said once, where wandb is missing, or an account for ``online``. Asks nobody."""
    if mode == "off":
        return mode
    if find_spec("wandb") is None:
        warn(f"--wandb {mode}: the package wandb is not installed, so nothing is logged there. pip install wandb.")
        return "off"
    if mode == "online":
        import wandb

        if not wandb.login(prompt=False, verify=False):  # asks no server: a run without network keeps its record
            warn(
                "--wandb online: no account is known here, so nothing is logged there. Log in with `wandb login` or set "
                "WANDB_API_KEY; --wandb offline keeps a record to upload later."
            )
            return "off"
    return mode


# -- the tracker of this process ---------------------------------------------------------------------------------------------

_current: list[Tracker] = []
#: Folders of W&B whose disk was full.
_full: list[Path] = []


def full() -> str:
    """What to do about a disk that was full for W&B; empty where none was. Asking forgets it."""
    if not _full:
        return ""
    home = _full[0]
    _full.clear()
    return (
        f"No space left on device for W&B below {home}; the results are all there. Free some space, or move that folder to a larger "
        "disk and link to it, and run the same command again: what is missing is logged then. Or leave out --wandb."
    )


def of(experiment: Experiment) -> Tracker:
    """The tracker of an experiment; a process has one at a time."""
    if not _current or _current[0].experiment is not experiment:
        finish()
        _current.append(Tracker(experiment))
    return _current[0]


def current() -> Tracker | None:
    """The tracker of the experiment that was run last, as long as it logs."""
    return _current[0] if _current and _current[0].on else None


def finish() -> None:
    """End the tracker of this process."""
    while _current:
        _current.pop().finish()
