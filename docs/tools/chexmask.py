"""Lung masks of CheXmask as PNG files, named as RSNA's images or ChestX-ray14's are.

python docs/tools/chexmask.py ChestX-Ray8.csv OUT [pneumonia-challenge-dataset-mappings_2018.json]

The table has one row an image: its name, an estimate of the mask's quality, and each lung as pairs (start, length) of pixels,
counted from 1, row by row, in a frame of Height x Width. Rows below QUALITY are left out, as its authors advise.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

NAME, SCORE, LUNGS, FRAME = "Image Index", "Dice RCA (Mean)", ["Left Lung", "Right Lung"], ["Height", "Width"]
QUALITY = 0.7


def lung(pairs, height, width):
    """Pairs (start, length) -> height x width, True inside."""
    numbers = np.array(pairs.split(), dtype=np.int64)
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    if len(starts) != len(lengths) or (starts < 0).any() or (lengths < 1).any() or (starts + lengths > height * width).any():
        raise ValueError(f"pairs (start, length) that do not fit {height} x {width} pixels")
    flat = np.zeros(height * width, dtype=bool)
    for start, length in zip(starts, lengths, strict=True):
        flat[start : start + length] = True
    return flat.reshape(height, width)


def main(table, out, mapping=""):
    wanted = {}  # name in ChestX-ray14 -> name of the mask; all under their own names where there is no mapping
    if mapping:
        wanted = {one["img_id"]: one["subset_img_id"] for one in json.loads(Path(mapping).read_text(encoding="utf-8"))}
    Path(out).mkdir(parents=True, exist_ok=True)
    written = poor = 0
    text = dict.fromkeys([NAME, *LUNGS], str)
    for rows in pd.read_csv(table, usecols=[NAME, SCORE, *LUNGS, *FRAME], dtype=text, keep_default_na=False, chunksize=2000):
        for row in rows[rows[NAME].isin(wanted)].to_dict("records") if mapping else rows.to_dict("records"):
            if float(row[SCORE] or 0) < QUALITY:
                poor += 1
                continue
            height, width = (int(row[side]) for side in FRAME)
            try:
                mask = lung(row["Left Lung"], height, width) | lung(row["Right Lung"], height, width)
            except ValueError as error:
                raise ValueError(f"{row[NAME]}: {error}") from error
            name = wanted.get(row[NAME], Path(row[NAME]).stem)
            Image.fromarray(mask.astype(np.uint8) * 255).save(Path(out) / f"{name}.png")
            written += 1
    if not written:
        raise ValueError(f"none of its images is wanted, or all are below a quality of {QUALITY} ({poor})")
    print(f"{written} masks in {out}; {poor} below a quality of {QUALITY} left out")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (OSError, ValueError, KeyError) as problem:
        sys.exit(f"error: {sys.argv[1]}: {problem}")
