"""Reading the tables of published datasets: csv files, ids, ages, folder listings."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data.contract import ImageRecord, Problem
from bench.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

#: Suffixes of files that can be images; what a file really is, its content says.
IMAGE_SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp")

#: Nobody is older; tables with larger values (ChestX-ray14 has ages of 148 to 414) hold typing errors.
OLDEST = 120.0


def read_table(path: Path, required: Sequence[str] = (), lower: bool = False) -> pd.DataFrame:
    """Read a csv (or csv.gz) as text; blank cells are empty strings, names and cells are stripped of spaces.

    Args:
        path: the file.
        required: columns it must have.
        lower: turn column names to lower case first.

    Raises:
        DataError: the file cannot be read or lacks a column; the message names it.
    """
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # Old copies of Data_Entry_2017.csv end every line with a comma that the header does not have.
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (OSError, EOFError, ValueError) as error:  # pandas' parser errors and bad encodings are ValueErrors
        raise DataError(f"{path} is not a readable csv file ({one_line(error)}). Download it again.") from error
    table.columns = pd.Index([str(name).strip().lower() if lower else str(name).strip() for name in table.columns])
    missing = [name for name in required if name not in table.columns]
    if missing:
        shown = ", ".join(str(name) for name in table.columns[:12])
        raise DataError(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} (it has: {shown}).")
    for name in table.columns:
        table[name] = table[name].fillna("").str.strip()
    return table


def column(table: pd.DataFrame, name: str) -> list[str]:
    """A column as a list of strings; empty strings where the table has no such column."""
    return [str(value) for value in table[name]] if name in table.columns else [""] * len(table)


def one_line(error: object, limit: int = 160) -> str:
    """An error's text on one line, shortened."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def safe_id(text: str) -> str:
    """`text` if it can be a file name (letters, digits, ``. _ -``); else a safe and still distinct form of it."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", text)
    if safe == text and text.strip(".") and not text.startswith((".", "-")) and len(text) <= 150:
        return text
    return f"{safe.strip('._-')[:120] or 'image'}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def parse_age(text: str) -> float | None:
    """Years from ``62``, ``062Y``, ``011M`` (months), ``003W`` or ``010D``; None when unknown or impossible."""
    match = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)\s*([YMWD]?)", text.strip().upper())
    if not match:
        return None
    years = float(match[1]) / {"Y": 1.0, "": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[match[2]]
    return years if years <= OLDEST else None


def parse_sex(text: str) -> str:
    """``M``, ``F`` or empty, from ``M``, ``female`` and the like."""
    first = text.strip().upper()[:1]
    return first if first in ("M", "F") else ""


def parse_view(text: str) -> str:
    """``AP``, ``PA`` or empty, from ``AP Supine``, ``antero-posterior`` and the like."""
    words = re.sub(r"[\s_-]+", " ", text.strip().upper())
    if re.match(r"AP\b", words) or words == "ANTERO POSTERIOR":
        return "AP"
    return "PA" if re.match(r"PA\b", words) or words == "POSTERO ANTERIOR" else ""


def parse_float(text: str) -> float | None:
    """The finite number a cell holds, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def listing(folder: Path) -> list[str]:
    """Names of the files in one folder, sorted, hidden ones left out. Links are followed."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.name != "Thumbs.db" and e.is_file())


def walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, relative to it, sorted; links to folders are followed, loops and hidden names skipped."""
    seen = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in sorted(files):
            if not name.startswith(".") and name != "Thumbs.db":
                yield (Path(where) / name).relative_to(folder)


def by_stem(names: Iterable[str], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, str]:
    """Stem -> name of the image files; of several with one stem the suffix earliest in `suffixes` wins."""
    found: dict[str, tuple[int, str]] = {}
    for name in names:
        stem, suffix = Path(name).stem, Path(name).suffix.lower()
        if suffix in suffixes:
            rank = suffixes.index(suffix)
            if stem not in found or rank < found[stem][0]:
                found[stem] = (rank, name)
    return {stem: name for stem, (_, name) in found.items()}


def note(where: str, names: Sequence[str], what: str) -> list[Problem]:
    """One non-fatal problem for many things: ``where: <what>: 3 images (first: a)``; nothing when `names` is empty."""
    if not names:
        return []
    count = f"{len(names)} image{'s' * (len(names) > 1)}"
    return [Problem(where, f"{what}: {count} (first: {one_line(names[0], 60)})", fatal=False)]


def check_splits(records: Sequence[ImageRecord], where: str) -> list[Problem]:
    """Fatal problem for every patient that a dataset's own split puts on two sides."""
    sides: dict[str, set[str]] = {}
    for record in records:
        if record.split:
            sides.setdefault(record.patient_id, set()).add(record.split)
    problems = [
        Problem(where, f"patient {patient} is in the splits {' and '.join(sorted(found))}; a patient belongs to one.")
        for patient, found in sorted(sides.items())
        if len(found) > 1
    ]
    if sides:
        problems += note(where, [r.image_id for r in records if not r.split], "without a split")
    return problems
