"""W&B: losses, scores, tables and pictures of open data, for those who ask for it with ``--wandb online`` or ``offline``.

One group an experiment (the data that is learnt from and the configuration of data, training and prior), one W&B run a method and
seed, one run ``shared`` for the losses of the finding classifier and the evaluators' models (but YOLO, which trains in a process of
ultralytics' own), and one run ``leaderboard`` for tables, figures and the pictures of several methods.

The id of a training's run is its key: a resumed training goes on in the same run. Online that is wandb's ``resume="allow"``. Offline
wandb (0.31) makes a folder for every process; the parts carry the same id and ``wandb sync`` joins them
(`bench.tracking.files.explain`). What earlier parts hold is read back from their logs: no step, score, picture or table is logged a
second time. What a kill has cost wandb of the losses is taken from the training's own log.

What is sent: losses and learning rates; scores with their spread, interval and n; tables; the resolved configuration; data
fingerprints; versions of packages; code revision; the command; pictures of open data. The client adds its own version, that of
Python, the kind of operating system, and times. Nothing else: console capture, code, git, host and user names, system figures and
the list of installed packages are switched off (`PRIVATE`), folders are cut out of paths (`bench.tracking.gate.bare`), error messages
stay here, pictures and words go through `bench.tracking.gate.Gate`. Files lie below RUNS/wandb.

wandb is imported when it is used, never otherwise. Tracking cannot fail a run: what goes wrong is said once, and dropped. A full
disk ends the logging, and the run, when it is done, with exit code 1 (`full`). In a distributed run the first process logs.

`bench.tracking.tracker` decides what is logged where, `bench.tracking.gate` what may leave the machine, `bench.tracking.values` makes
plain values of records and tables, `bench.tracking.curves` logs losses, `bench.tracking.files` reads back what wandb wrote.
`bench.tracking.backends` and `bench.tracking.images` are mmengine's way in from a training; they bring torch and are imported by
their names.
"""

from __future__ import annotations

from bench.tracking.curves import Curve, Open
from bench.tracking.tracker import PRIVATE, Tracker, current, finish, full, of

__all__ = ["PRIVATE", "Curve", "Open", "Tracker", "current", "finish", "full", "of"]
