"""JSRT nodule database with the SCR lung masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.data.contract import CLEAR, OTHER, FloatImage, ImageRecord, Problem
from bench.data.pixels import decode
from bench.data.readers.files import FileReader
from bench.data.tables import IMAGE_SUFFIXES, note, parse_age, parse_sex, walk
from bench.errors import DataError
from bench.registry import register_dataset

SIDE, DEEPEST = 2048, 4095
STEM = re.compile(r"JPC(LN|NN)\d{3}", re.IGNORECASE)
LUNGS = ("left lung", "right lung")


@register_dataset("jsrt")
class Jsrt(FileReader):
    """Digitised PA films; lungs without the heart. Images with a nodule are ``other`` unless ``nodules=clear``.

    Images carry no patient ids; each is a patient of its own, as its authors intend.
    """

    policy = "no-redistribution"
    version = 2
    lung_convention = "heart-excluded"
    mask_scaled = True  # SCR's are half as wide as the films
    planes = ("lung_mask",)
    help = "JPCLN001.IMG ... JPCNN093.IMG (or .png) and the SCR masks fold1/masks/left lung/*.gif, at any depth"
    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"nodules": ("other", "clear")}

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        """See `Reader.records`."""
        images: dict[str, Path] = {}
        masks: dict[str, dict[str, Path]] = {}
        order = (".img", *IMAGE_SUFFIXES)
        for path in walk(self.root):
            stem, suffix = path.stem.upper(), path.suffix.lower()
            if not STEM.fullmatch(stem) or suffix not in order:
                continue
            parts = [re.sub(r"[_-]", " ", part.lower()) for part in path.parts[:-1]]
            organ = parts[-1] if parts else ""
            if "lung" in organ and any(side in organ for side in ("left", "right")):
                masks.setdefault(stem, {})[LUNGS["right" in organ]] = path
            elif organ in ("heart", "left clavicle", "right clavicle") or "masks" in parts or "landmarks" in parts:
                continue  # the other structures of SCR
            elif stem not in images or order.index(suffix) < order.index(images[stem].suffix.lower()):
                images[stem] = path
        if not images:
            raise DataError(f"jsrt: {self.root} lacks images. The folder must hold {self.help}.")
        clinical = self._clinical()
        problems = []
        records = []
        for stem, path in sorted(images.items()):
            nodule = stem.startswith("JPCLN")
            lungs = masks.get(stem, {})
            if len(lungs) == 1:
                there = next(iter(lungs))
                problems.append(Problem(lungs[there].as_posix(), "has no mask of the other lung beside it; add it."))
            sex, age, extra = clinical.get(stem, ("", None, {}))
            folds = [part[4:] for p in lungs.values() for part in p.parts if re.fullmatch(r"fold\d", part.lower())]
            records.append(
                ImageRecord(
                    image_id=stem,
                    path=path.as_posix(),
                    domain=OTHER if nodule and self.option("nodules", "other") == "other" else CLEAR,
                    patient_id=stem,
                    view="PA",
                    sex=sex,
                    age=age,
                    findings={"Nodule": float(nodule)},
                    lung_mask=tuple(lungs[side].as_posix() for side in LUNGS) if len(lungs) == 2 else (),
                    extra={"class": "nodule" if nodule else "no nodule", **extra, **({"fold": folds[0]} if folds else {})},
                )
            )
        if masks:
            problems += note("fold*/masks", [r.image_id for r in records if r.image_id not in masks], "without lung masks")
        problems += note("masks", sorted(set(masks) - set(images)), "lung masks without their image")
        problems += note("CLNDAT", sorted(set(clinical) - set(images)), "rows without their image")
        return records, problems, False

    def pixels(self, path: Path) -> tuple[FloatImage, int]:
        """Decode one film. Converted files are 12-bit values too, whether or not the converter stretched them."""
        if path.suffix.lower() == ".img":
            return read_img(path), 12
        image, bits = decode(path)
        if bits == 16 and image.max() <= DEEPEST / 65535.0:
            image = np.clip(image * np.float32(65535.0 / DEEPEST), 0.0, 1.0)
        return image, min(bits, 12)

    def _clinical(self) -> dict[str, tuple[str, float | None, dict[str, str]]]:
        """Stem -> sex, age and extras from CLNDAT_EN.txt (tabs, CR line ends) and CNNDAT_EN.TXT (spaces)."""
        found: dict[str, tuple[str, float | None, dict[str, str]]] = {}
        for path in walk(self.root):
            if path.name.upper() not in ("CLNDAT_EN.TXT", "CNNDAT_EN.TXT"):
                continue
            nodule = path.name.upper().startswith("CLN")
            # Universal newlines know CR-only ends; latin-1 because no byte of this old file may fail.
            for line in (self.root / path).read_text(encoding="latin-1").splitlines():
                cells = [cell.strip() for cell in (line.split("\t") if nodule else line.split())]
                stem = cells[0].split(".")[0].upper() if cells else ""
                if not STEM.fullmatch(stem) or len(cells) < (8 if nodule else 3):
                    continue
                if nodule:
                    names = ("subtlety", "nodule_mm", "nodule_x", "nodule_y", "malignancy")
                    extra = dict(zip(names, (*cells[1:3], *cells[5:8]), strict=True))
                    found[stem] = (parse_sex(cells[4]), parse_age(cells[3]), extra)
                else:
                    found[stem] = (parse_sex(cells[2]), parse_age(cells[1]), {})
        return found


def read_img(path: Path) -> FloatImage:
    """Decode a headerless JSRT film: 2048x2048, big-endian, 12 bits, stored inverted.

    Raises:
        DataError: another size, or values beyond 12 bits; the message names the file.
    """
    size = path.stat().st_size
    if size != SIDE * SIDE * 2:
        raise DataError(f"{path}: {size} bytes; a JSRT film has {SIDE * SIDE * 2} (2048x2048, 16 bits). Download it again.")
    values = np.fromfile(path, dtype=">u2").reshape(SIDE, SIDE)
    if values.max() > DEEPEST:
        raise DataError(f"{path}: holds {values.max()}, more than 12 bits; a JSRT film is big-endian. Download it again.")
    return (np.float32(DEEPEST) - values.astype(np.float32)) / np.float32(DEEPEST)
