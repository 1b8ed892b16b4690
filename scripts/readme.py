"""The README's own leaderboard and picture (`scripts/readme`).

``scripts/readme`` writes the leaderboard anew from the records in ``docs/example``, ``--from RUNS`` takes records and picture out
of a results folder first, and ``--run`` makes that results folder: every method on the embedded data, scored with everything.

``docs/example`` is a results folder like any other (``bench leaderboard docs/example``), cut to what Table 1 shows: records of its
two evaluators with their headline metrics and those of each segmenter, and values by image of the headline metrics. All that a record
says of where its numbers come from is kept; folders in a record's command are cut to their last part. That the cut changes no number
is checked each time: both give the same text. The README shows six columns of it; the whole table stands in
``docs/example/README.md``.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from bench import records, sources
from bench.errors import BenchError, DataError, UsageError
from bench.files import read_json, replace_atomically, write_json, write_text

if TYPE_CHECKING:
    from leaderboards.sheet import Sheet

ROOT = Path(__file__).resolve().parent.parent
README, EXAMPLE, PICTURE = ROOT / "README.md", ROOT / "docs" / "example", ROOT / "docs" / "example.png"
#: The whole table, beside the records that it is made of; and where the README links to it.
WHOLE = EXAMPLE / "README.md"
LINK = f"{WHOLE.relative_to(ROOT)}"
#: Where ``--run`` makes the results, relative to the project's root: records hold their command, and no folder of this machine.
RUNS = Path("runs/readme")
RUN = ("run", "--method", "all", "--suite", "all", "--preset", "quick", "--runs", str(RUNS))
BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
#: What Table 1 is made of.
EVALUATORS = ("fidelity", "segmentation")
#: Metrics beside the primary ones that it shows or tells; a segmenter's own have the same key and its name behind a slash.
SHOWN = ("sensitivity", "kd_cxr_floor", "fd_cxr_floor")
#: Columns that the README has room for: the training set's images and lungs, and of the other test sets the lungs' overlap alone.
OWN_COLUMNS, COLUMNS, FITS = ("fidelity.", "segmentation.miou_delta"), ("segmentation.miou",), 6
#: Lines below the table without which its numbers cannot be read; the others stand in `WHOLE`.
READ = re.compile(r"Marks|Ties of|±|\[low|n: |.*favours ours")
#: Lines below the table that name the records themselves, which the cut changes: their command, number and digest.
OF_RECORDS = re.compile(r"- (Made by: |\d+ records?, digest )")
#: Bytes that all committed records may take together, and the picture.
MOST, LARGEST = 1_000_000, 200_000
#: The picture: test set, images, the method whose mask is shown, the others beside it, and how often a pixel is repeated.
TEST, CASES, METHOD, OTHERS, SCALE = "synthetic", 3, "ours", ("acl_gan", "cyclegan", "munit"), 2
#: A path that begins at the root, or at somebody's home.
ABSOLUTE = re.compile(r"(?<![\w.:/~])(?:~/[\w./-]+|/[\w.-]+/[\w./-]*)")

Record = dict[str, Any]
Bytes = npt.NDArray[np.uint8]


def main(words: Sequence[str] | None = None) -> int:
    """Do what the flags say; 0 or, with one line on the error stream, a `BenchError`'s exit code."""
    parser = argparse.ArgumentParser(prog="scripts/readme", description="Write the README's leaderboard and picture.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--run", action="store_true", help=f"make the results first, in {RUNS}: about an hour on two CPU cores")
    what.add_argument("--from", dest="runs", type=Path, metavar="RUNS", help="take records and picture out of this results folder")
    options = parser.parse_args(words)
    try:
        if options.run:
            run()
        runs = RUNS if options.run else options.runs
        if runs is not None:
            if not runs.is_dir():
                raise UsageError(f"--from {runs}: no such folder. Name a results folder made by `bench run`.")
            collect(runs, EXAMPLE)
            draw(runs, PICTURE)
        write_text(WHOLE, whole(EXAMPLE))
        write_text(README, placed(README.read_text(encoding="utf-8"), board(EXAMPLE)))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{README.name} {EXAMPLE.relative_to(ROOT)} {PICTURE.relative_to(ROOT)}")
    return 0


def run() -> None:
    """Train, translate and score every method; what is there already is kept.

    Raises:
        BenchError: something failed; its own message stands above.
    """
    done = subprocess.run([Path(sys.executable).with_name("bench"), *RUN], cwd=ROOT, check=False)
    if done.returncode:
        raise BenchError(f"`{shlex.join(['bench', *RUN])}` ended with exit code {done.returncode}; the same command carries on.")


# -- records -----------------------------------------------------------------------------------------------------------------


def collect(runs: Path, folder: Path) -> None:
    """Replace the records in `folder` by those of a results folder, cut to what Table 1 shows.

    Raises:
        UsageError: there are none of Table 1.
        DataError: one is of data that may not be handed on, or names a folder of this machine; or the cut would change the
            table, or is too large.
    """
    found = [path for path in records.run_folders(runs, "records/*.json") if _wanted(read_json(path))]
    if not found:
        raise UsageError(f"{runs} holds no record of {' or '.join(EVALUATORS)}: make them with scripts/readme --run.")
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        new = Path(place) / "example"
        for path in found:
            _cut(path, new / path.relative_to(runs))
        size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
        if size > MOST:
            raise DataError(f"the records of {runs} take {size:,} bytes, more than the {MOST:,} that the repository may hold.")
        kept = table(new).splitlines()
        lost = [line for line in table(runs).splitlines() if line not in kept and not OF_RECORDS.match(line)]
        if lost:
            raise DataError(f"{runs}: Table 1 shows what the cut records lack; let SHOWN in scripts/readme.py name it. {lost[0]}")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def _wanted(record: Record) -> bool:
    """Whether Table 1 shows a record: segmentation of any test set, fidelity of the training set's own."""
    own = record.get("dataset") == record.get("train_dataset")
    return record.get("evaluator") in EVALUATORS and (own or record["evaluator"] != "fidelity")


def _cut(path: Path, target: Path) -> None:
    """Write a record without the metrics that Table 1 does not show, and its values by image of the headline ones."""
    record = cut(read_json(path), path)
    write_json(target, record)
    if record.get("per_image"):
        values = pd.read_csv(path.with_name(record["per_image"]), dtype=str, keep_default_na=False)
        shown = [metric["key"] for metric in record["metrics"] if not metric["part"] and metric["key"] in values]
        kept = values[[name for name in ("image_id", "patient_id") if name in values] + shown]
        replace_atomically(target.with_name(record["per_image"]), lambda temporary: kept.to_csv(temporary, index=False))


def cut(record: Record, path: Path) -> Record:
    """A record with the metrics that Table 1 shows, fit to be handed on.

    Raises:
        DataError: its data may not be handed on, or it names a folder of this machine; the message names `path`.
    """
    if record.get("policy") != "open":
        raise DataError(f"{path}: its data are '{record.get('policy')}', not open; the README shows the embedded data alone.")
    bases = {m["key"].split("/")[0] for m in record["metrics"] if m["primary"] or m["key"].startswith(SHOWN)}
    metrics = [m for m in record["metrics"] if m["key"].split("/")[0] in bases]
    scores = {m["key"]: record["scores"][m["key"]] for m in metrics if m["key"] in record["scores"]}
    command = records.without_folders(record["command"])
    new = {**record, "metrics": metrics, "scores": scores, "command": command, "figures": [], "excerpt": "metrics of Table 1"}
    if where := _paths(new):
        raise DataError(f"{path}: '{where[0]}' is a folder of this machine. Make the results with relative folders.")
    return new


def _paths(value: Any) -> list[str]:
    """Absolute paths in any text of a record, web addresses left out."""
    if isinstance(value, Mapping):
        return [found for item in value.values() for found in _paths(item)]
    if isinstance(value, list):
        return [found for item in value for found in _paths(item)]
    return ABSOLUTE.findall(value) if isinstance(value, str) else []


# -- text --------------------------------------------------------------------------------------------------------------------


def _sheets(folder: Path) -> list[Sheet]:
    """Table 1 of the records below a folder, without the tables behind it."""
    from leaderboards.paper import sheets

    found, warnings = records.load([folder])
    if warnings:
        raise DataError(warnings[0])
    made = [replace(sheet, behind=()) for sheet in sheets(found, "1")]
    if not made:
        raise DataError(f"{folder} holds no records that Table 1 could be made of.")
    return made


def table(folder: Path) -> str:
    """Table 1 of the records below a folder as markdown, with all its columns and notes.

    Raises:
        DataError: a record cannot be read, or no table can be made of them.
    """
    from leaderboards.formats import write

    return write(_sheets(folder), "md").strip()


def compact(sheet: Sheet) -> Sheet:
    """A sheet with the columns that the README has room for, named without groups, and the notes that its numbers need.

    Raises:
        DataError: more than `FITS` columns are left, or none.
    """
    train = sheet.context["training set"]
    kept = {}
    for place, head in enumerate(sheet.heads):
        test, _, metric = head.key.partition(".")
        if (test == train and metric.startswith(OWN_COLUMNS)) or metric in COLUMNS:
            kept[place] = replace(head, group="", label=head.label if test == train else f"{head.label} of {test}")
    if not 0 < len(kept) <= FITS:
        raise DataError(f"{len(kept)} columns of '{sheet.title}' were chosen for the README, which has room for {FITS}.")
    lines = tuple(replace(line, entries=tuple(line.entries[place] for place in kept)) for line in sheet.lines)
    notes = tuple(note for note in sheet.below if READ.match(note))
    more = f"All columns, tests, models, fingerprints and versions: [{LINK}]({LINK})."
    return replace(sheet, context={}, heads=tuple(kept.values()), lines=lines, below=(*notes, more))


def whole(folder: Path) -> str:
    """The page beside the records: what they are, and the whole table.

    Raises:
        DataError: as `table`.
    """
    return (
        "# Table 1 on the embedded data\n\nA results folder like any other, cut to what Table 1 shows; "
        "`scripts/readme` writes this page from it.\n\n"
        f"```\nbench leaderboard {EXAMPLE.relative_to(ROOT)} --table 1\n```\n\n{table(folder)}\n"
    )


def board(folder: Path) -> str:
    """What stands between the markers: how it was made, and the table's main columns.

    Raises:
        DataError: as `table` and `compact`.
    """
    from leaderboards.formats import write

    shown = write([compact(sheet) for sheet in _sheets(folder)], "md").strip()
    return (
        "```\nscripts/readme --run                        # makes it: every method on the embedded data, scored with everything\n"
        f"bench leaderboard docs/example --table 1    # prints all of it from the records in docs/example\n```\n\n#{shown}"
    )


def placed(text: str, new: str) -> str:
    """A text with what stands between its markers replaced.

    Raises:
        DataError: the markers are not there once each, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{README.name} must hold the lines {BEGIN} and {END} once each, in this order.")
    return text[: text.index(BEGIN)] + f"{BEGIN}\n\n{new}\n\n{END}" + text.partition(END)[2]


# -- picture -----------------------------------------------------------------------------------------------------------------


def draw(runs: Path, target: Path) -> None:
    """Draw the first opacity images of the test set: input, `METHOD` with its mask, other methods, the truth.

    The PNG's text says which records it belongs to (``Source``: the data's fingerprint and each method's images).

    Raises:
        DataError: images are not there or not of open data, or the picture would be too large.
    """
    mine = [r for r in _records(runs) if r["dataset"] == TEST and r["status"] == "ok" and r.get("translated_content")]
    about = next((r for r in mine if r["method"] == METHOD), None)
    if about is None:
        raise DataError(f"{runs} holds no score of {METHOD} on {TEST}, whose images the picture shows.")
    kept = sources.location(runs, TEST, about["dataset_fingerprint"], about["image_size"])
    facts = sources.manifest(kept)
    if facts is None or facts["policy"] != "open":
        raise DataError(f"{kept} holds no test images of open data: give the command that made {runs} once more.")
    ids = [i for i in facts["ids"] if facts["domains"][i] == "opacity"][:CASES]
    folders = {r["method"]: _translated(runs, r) for r in mine if r["method"] in (METHOD, *OTHERS)}
    panels = [("input", kept / "images", "gray"), (METHOD, folders[METHOD] / "images", "gray")]
    panels += [("activation mask", folders[METHOD] / "masks", "magma")]
    panels += [(name, folders[name] / "images", "gray") for name in OTHERS if name in folders]
    panels += [("true clear image", kept / "counterpart", "gray"), ("true opacity", kept / "opacity", "magma")]
    source = " ".join([about["dataset_fingerprint"], *(f"{r['method']}={r['translated_content']}" for r in _once(mine, folders))])
    _figure([(name, [_pixels(folder / f"{i}.png") for i in ids], colours) for name, folder, colours in panels], ids, target, source)
    if target.stat().st_size > LARGEST:
        raise DataError(f"{target} takes {target.stat().st_size:,} bytes, more than {LARGEST:,}: show fewer cases or methods.")


def _records(runs: Path) -> list[Record]:
    return [read_json(path) for path in records.run_folders(runs, "records/*.json")]


def _once(found: Sequence[Record], methods: Mapping[str, Path]) -> list[Record]:
    """One record for each method, in the order of `methods`."""
    return [next(r for r in found if r["method"] == name) for name in methods]


def _translated(runs: Path, record: Record) -> Path:
    """The folder of the images that a record is about."""
    for path in runs.glob(f"{record['method']}/*/*/translated/{record['dataset']}-*/manifest.json"):
        if read_json(path).get("content") == record["translated_content"]:
            return path.parent
    raise DataError(f"{runs} does not hold the images of {record['method']} that its records are about: run it again.")


def _pixels(path: Path) -> Bytes:
    if not path.is_file():
        raise DataError(f"{path} is not there: give the command that made the results once more.")
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _figure(columns: Sequence[tuple[str, list[Bytes], str]], rows: Sequence[str], target: Path, source: str) -> None:
    """Draw columns (title, images, colour map), and write `source` into the file."""
    from matplotlib.figure import Figure  # without pyplot: drawing leaves the backend of a notebook alone

    side = columns[0][1][0].shape[0] * SCALE / 100  # inches at 100 dots
    shape = (side * len(columns) * 1.06 + 0.3, side * len(rows) * 1.06 + 0.3)
    figure = Figure(figsize=shape, layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for k, (title, images, colours) in enumerate(columns):
        axes[0][k].set_title(title, fontsize=8)
        for row, image in enumerate(images):
            axes[row][k].imshow(image, cmap=colours, vmin=0, vmax=255, interpolation="nearest")
            axes[row][k].set(xticks=[], yticks=[])
    for row, name in enumerate(rows):
        axes[row][0].set_ylabel(name, fontsize=6)
    about = {"Source": source, "Software": None}
    replace_atomically(target, lambda temporary: figure.savefig(temporary, dpi=100, format="png", metadata=about))


if __name__ == "__main__":
    sys.exit(main())
