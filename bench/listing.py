"""What ``bench list``, ``bench data show`` and ``bench assets`` print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from bench import config, records, suites
from bench.assets import Slot, locate
from bench.data.contract import DOMAINS, ImageRecord, Reader
from bench.data.geometry import Frame
from bench.errors import BenchError, DataError, UsageError
from bench.files import replace_atomically
from bench.progress import say, warn
from bench.progress import show as show_table
from bench.registry import DATASETS, EVALUATORS, METHODS


def show(what: str, long: bool, runs: Path) -> None:
    """Print names; with `long`, what each is (which imports it)."""
    sections = ("methods", "evaluators", "datasets", "suites", "presets") if what == "all" else (what,)
    for section in sections:
        if len(sections) > 1:
            say(f"{section}:")
        if section == "runs":
            _runs(runs)
        elif long:
            show_table(_long(section))
        else:
            for name in _names(section):
                say(f"  {name}" if len(sections) > 1 else name)


def _names(section: str) -> list[str]:
    return {
        "methods": _methods, "evaluators": EVALUATORS.names, "datasets": DATASETS.names, "suites": suites.names,
        "presets": config.preset_names,
    }[section]()  # fmt: skip


def _methods() -> list[str]:
    return [*METHODS.names(), *METHODS.members()]


def _long(section: str) -> Table:
    headings, row = _DETAILS[section]
    table = Table(*headings, box=None, pad_edge=False)
    for name in _names(section):
        table.add_row(name, *row(name))
    return table


def _method(name: str) -> tuple[str, ...]:
    cls = METHODS.get(name)
    return str(cls.version), cls.license, cls.paper, METHODS.origin(name)


def _evaluator(name: str) -> tuple[str, ...]:
    cls = EVALUATORS.get(name)
    metrics = ", ".join(m.label for m in cls.metrics(cls.Config()) if not m.part)
    return metrics, ", ".join(sorted(cls.requires(cls.Config()))) or "-"


def _dataset(name: str) -> tuple[str, ...]:
    cls = DATASETS.get(name)
    return cls.policy, cls.help


def _suite(name: str) -> tuple[str, ...]:
    return ", ".join(suites.evaluators(name)), suites.purpose(name)


def _preset(name: str) -> tuple[str, ...]:
    first = (config.PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    return (first.removeprefix("# "),)


#: Section -> headings of its table, and what stands beside each name.
_DETAILS: dict[str, tuple[tuple[str, ...], Callable[[str], tuple[str, ...]]]] = {
    "methods": (("method", "version", "licence", "paper", "from"), _method),
    "evaluators": (("evaluator", "metrics", "needs"), _evaluator),
    "datasets": (("dataset", "policy", "what its folder holds"), _dataset),
    "suites": (("suite", "scores with", "makes"), _suite),
    "presets": ((), _preset),
}


def _runs(runs: Path) -> None:
    found = [p.parent for p in records.run_folders(runs, "config.json")] if runs.is_dir() else []
    if not found:
        say(f"no runs below {runs}. Make one: bench run --method ours --suite all.")
        return
    table = Table("run", "preset", "trained", "records", box=None, pad_edge=False)
    for folder in found:
        try:
            facts = records.run_facts(folder)
        except BenchError as error:
            warn(str(error))
            continue
        untrained = facts["method"] == "original" or facts["origin"] == "external"
        trained = "-" if untrained else "yes" if _finished(folder) else "no"
        table.add_row(str(folder), facts["preset"], trained, str(len(list((folder / "records").glob("*.json")))))
    show_table(table)


def _finished(folder: Path) -> bool:
    try:
        return records.run_weights(folder).is_file()
    except UsageError:
        return False
    except BenchError as error:
        warn(str(error))
        return False


def show_dataset(reader: Reader, out: Path, size: int, count: int) -> Path:
    """Draw the first images of each domain with lung mask (blue), opacity (red) and boxes (yellow). Returns the PNG.

    Raises:
        DataError: there are none, or one cannot be decoded.
    """
    from matplotlib.figure import Figure  # without pyplot: drawing leaves the backend of a notebook alone

    records, problems, _ = reader.records()
    for problem in [p for p in problems if p.fatal][:3]:
        warn(str(problem))
    chosen: dict[str, list[ImageRecord]] = {}
    for domain in DOMAINS:
        some = sorted((r for r in records if r.domain == domain), key=lambda r: r.image_id)[:count]
        if some:
            chosen[domain] = some
    if not chosen:
        raise DataError(f"dataset '{reader.name}' has no opacity or clear images to show.")
    columns = max(len(some) for some in chosen.values())
    figure = Figure(figsize=(1.9 * columns, 2.2 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), columns, squeeze=False)
    for row, (domain, some) in enumerate(chosen.items()):
        for column in range(columns):
            axis = axes[row][column]
            axis.axis("off")
            if column < len(some):
                _draw(axis, reader, some[column], size, f"{domain} {some[column].view}")
    replace_atomically(out, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
    return out


def _draw(axis: Any, reader: Reader, record: ImageRecord, size: int, title: str) -> None:
    from matplotlib.patches import Rectangle

    decoded = reader.load(record, size)
    height, width = decoded.image.shape
    frame = Frame(height, width, size)
    axis.imshow(frame.image(decoded.image), cmap="gray", vmin=0, vmax=1)
    if decoded.lung_mask is not None:
        axis.contour(frame.codes(decoded.lung_mask) == 1, levels=[0.5], colors="deepskyblue", linewidths=0.8)
    if decoded.opacity is not None and decoded.opacity.max() > 0.1:
        axis.contour(frame.image(decoded.opacity), levels=[0.1], colors="red", linewidths=0.8)
    boxes = decoded.boxes if decoded.boxes is not None else record.boxes
    for x, y, across, down in frame.boxes(boxes or ()):
        axis.add_patch(Rectangle((x, y), across, down, fill=False, edgecolor="yellow", linewidth=0.8))
    axis.set_title(f"{title}\n{record.image_id[:18]}", fontsize=6)


def show_assets(folders: tuple[Path, ...], resolved: config.BenchConfig) -> None:
    """Print each evaluator's weight files, their purpose, and where each was found or looked for; then those that may be given,
    and what is wrong with the given ones."""
    from bench.experiment import evaluator_config

    say("searched, in order: " + ", ".join(str(f) for f in folders))
    for asset in dict.fromkeys(asset for name in EVALUATORS.names() for asset in EVALUATORS.get(name).assets):
        found, wrong = asset.find(folders)
        state = f"found at {found}" if found else "not found"
        state = ", ".join([state, *(f"WRONG CONTENT at {path}" for path in wrong)])
        say(f"{' or '.join(asset.names)}: {state}\n  for {asset.purpose}; from {asset.source}")
        say(f"  {asset.size:,} bytes, sha256 {asset.sha256}")
    say("optional, files of your own:")
    weights = resolved.prior.weights
    own = locate(weights, folders) if weights else None
    prior = Slot(
        "--set prior.weights=FILE", "the finding classifier: a DenseNet-121, torchvision or torchxrayvision keys; without it one is "
        "trained on the labels at hand", weights, own,
    )  # fmt: skip
    _slot(prior)
    for name in EVALUATORS.names():
        cls, params = evaluator_config(resolved, name)
        slots = cls.slots(params, folders)
        for slot in slots:
            _slot(slot)
        for line in cls.missing_assets(params, folders) if any(slot.given for slot in slots) else ():
            warn(line)


def _slot(slot: Slot) -> None:
    state = f"found at {slot.found}" if slot.found else f"NOT FOUND: {slot.given}" if slot.given else "not given"
    say(f"{slot.option}: {state}\n  {slot.purpose}")
