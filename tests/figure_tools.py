"""Case sets and records of detection for tests of the paper's figures, and what a drawn figure says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from leaderboard_tools import metric, record, score
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.records import LOCAL, Local
from leaderboards.cases import Case, CaseSet, Grey, Result
from leaderboards.figures import counts
from leaderboards.tables import tables

NAMES = ("ours", "cyclegan", "unit", "munit", "drit", "uvcgan", "cut", "acl_gan")
LONG = (*NAMES, "ours (lca=false, ema=0.999)", "mmagic:configs/cyclegan_resnet.py", "autoencoding_of_images", "drit v2")
CONTEXT = {
    "dataset": "rsna", "dataset_fingerprint": "0123456789abcdef", "train_dataset": "rsna", "preset": "quick", "image_size": "32",
}  # fmt: skip


def picture(number: int, side: int = 32) -> Grey:
    """A gradient that no other number has."""
    rows, columns = np.mgrid[:side, :side]
    found: Grey = ((rows * (number % 5 + 1) + columns * (number % 7 + 1) + 11 * number) % 256).astype(np.uint8)
    return found


def box(left: int, right: int, side: int = 32) -> Any:
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[side // 4 : side // 2, left:right] = True
    return mask


def case(number: int, methods: Sequence[str] = NAMES, side: int = 32, **changes: Any) -> Case:
    masks = {name: picture(k + number, side) for k, name in enumerate(methods) if name.startswith("ours")}
    results = {
        name: Result(picture(100 * number + k + 1, side), masks.get(name), {"unet": box(4, 12, side)})
        for k, name in enumerate(methods)
    }
    known = {"opacity": picture(3, side), "counterpart": picture(100 * number + 90, side), "lungs": box(4, 16, side)}
    fields = {**known, "lungs_before": {"unet": box(8, 20, side)}, **changes}
    return Case(f"image-{number}", picture(100 * number, side), results, **fields)


def case_set(methods: Sequence[str] = NAMES, cases: int = 3, side: int = 32, **changes: Any) -> CaseSet:
    some = tuple(case(k, methods, side) for k in range(cases))
    title, rule = "rsna, trained on rsna, quick preset, 32 px", "The first 3 opacity images"
    return replace(CaseSet("rsna", title, rule, False, tuple(methods), some, 7, CONTEXT), **changes)


#: Image -> patient, before, after. By patient 3 1 2 0 before and 1 1 0 1 after.
IMAGES = {"a1": ("a", 2, 0), "a2": ("a", 4, 2), "b": ("b", 1, 1), "c": ("c", 2, 0), "d": ("d", 0, 1)}
#: Ranks of the changes -2 0 -2 1 with the zero's: 3.5, 1, 3.5, 2. Of the 8 signs 4 give a sum of at least 5.
EFFECT, P = -5 / 9, 4 / 8
METRICS = [
    metric("count_change", "Change", "lower", 2, primary=True), metric("count_after", "After", "lower", 2),
    metric("count_before", "Before", "none", 2, shared=True), metric("count_p", "p (Wilcoxon)", "none", 4),
    metric("opacity_zeros", "Pairs without change", "none", 0, part="YOLO"), metric("map50", "mAP50", "none", shared=True),
    metric("opacity_effect", "Effect", "none", part="YOLO"), metric("psnr_blur_after", "After", "none", part="blur"),
]  # fmt: skip
Change = dict[str, Any]


def detection(root: Path, method: str, doubt: str = "", p: float = P, rows: Any = None, **changes: Any) -> dict[str, Any]:
    """A record with its values by image; a clear image (``e``) has no counts of opacity images."""
    folder = f"{method}/rsna/seed{changes.get('seed', 0)}-1a2b3c4d"
    scores = {
        "count_change": score(-0.75, n=5, doubt=doubt), "count_before": score(1.5, n=5), "count_p": score(p, n=4, doubt=doubt),
        "count_after": score(0.75, n=5, doubt=doubt, note="YOLOv5u trained on 286 images"), "opacity_zeros": score(1.0, n=4),
        "opacity_effect": score(EFFECT, n=4, ci=[-1.0, 0.5]), "map50": score(0.61, n=9), "psnr_blur_after": score(1.25, n=5),
    }  # fmt: skip
    made = record(
        method, "detection", metrics=METRICS, scores=scores, per_image="rsna--detection-1.csv", image_size=32, direction="a2b"
    )
    each = {name: {i: float(v[k]) for i, v in (rows or IMAGES).items()} for k, name in ((1, "before"), (2, "after"))}
    more = {f"{part}_{side}": values for part in ("count", "opacity") for side, values in each.items()}
    patients = {"clear": "e", **{image: values[0] for image, values in (rows or IMAGES).items()}}
    return {**made, LOCAL: Local(folder, {}, patients, str(root), more), **changes}


def drawn(records: Sequence[dict[str, Any]]) -> Figure:
    (table,) = tables(records)
    return counts.counts(table)


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in visible(figure)]


def visible(figure: Figure) -> list[Text]:
    return [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text().strip()]


def panels(figure: Figure) -> list[Any]:
    """Axes with an image, row by row."""
    return [axis for axis in figure.axes if axis.images]
