"""Hand-made records for the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaderboard_tools import metric, record, score

from bench.files import digest
from bench.records import LOCAL, Local
from leaderboards.sheet import Entry, Line, Sheet

INCEPTION = [metric("kid", "KID", "lower", 4, primary=True), metric("fid", "FID", "lower", 2, primary=True)]
CXR = [metric("kd_cxr", "KD-cxr", "lower", 2, primary=True), metric("fd_cxr", "FD-cxr", "lower", 2, primary=True)]
SEGMENTERS = {"unet": "U-Net", "pspnet": "PSPNet"}
LUNGS = [
    made
    for part, end in (("", ""), *((title, f"/{name}") for name, title in SEGMENTERS.items()))
    for made in (
        metric(f"miou{end}", "Lung mIoU", "higher", 2, unit="%", primary=not part, part=part),
        metric(f"sensitivity{end}", "Lung sensitivity", "higher", 2, unit="%", part=part),
        metric(f"miou_delta{end}", "Lung mIoU delta", "higher", 2, unit="pp", primary=not part, part=part),
    )
]
SWITCHES: dict[str, tuple[bool, bool, bool, bool]] = {
    "none": (False, False, False, False), "AASPM": (True, False, False, False), "FA": (False, True, False, False),
    "AASPM + FA": (True, True, False, False), "AASPM + FA + LCA": (True, True, True, False), "full": (True, True, True, True),
}  # fmt: skip


def made(method: str, evaluator: str, values: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A record of the training set's test part, unless `changes` say otherwise."""
    base = {"train_dataset": "rsna", "image_size": 64, "direction": "a2b", "evaluator_version": 1, "method_config": None}
    return {**record(method, evaluator), **base, "scores": dict(values), "written": "2026-01-01T00:00:00", **changes}


def distances(method: str, fid: float, kid: float, reach: float = 0.5, **changes: Any) -> dict[str, Any]:
    """FID with an interval of `reach` to each side, KID with a spread of a hundredth of that."""
    scores = {
        "fid": score(fid, ci=[fid - reach, fid + reach]), "kid": score(kid, std=reach / 100, std_over="subsets"),
    }  # fmt: skip
    return made(method, "fidelity", scores, **{"metrics": INCEPTION, **changes})


def features(method: str, fd: float, kd: float, prior: str = "p1", **changes: Any) -> dict[str, Any]:
    """FD-cxr and KD-cxr under a finding classifier."""
    about = {"id": prior, "trained_by": "harness", "findings": ["Edema"], "scores_with_it": True}
    scores = {"fd_cxr": score(fd, ci=[fd - 1, fd + 1]), "kd_cxr": score(kd, std=0.1, std_over="subsets")}
    return made(method, "fidelity", scores, **{"metrics": CXR, "params": {"extractor": "cxr"}, "prior": about, **changes})


def lungs(method: str, values: Mapping[str, float], base: Mapping[str, float], **changes: Any) -> dict[str, Any]:
    """Segmentation with these mIoU by image (one image a patient); `base` are those of the untranslated images."""
    miou = sum(values.values()) / len(values)
    delta = {image: values[image] - base[image] for image in values}
    mean = sum(delta.values()) / len(delta)
    each = {"miou": miou, "sensitivity": miou + 5, "miou_delta": mean}
    scores = {
        f"{key}{end}": score(value + shift, n=len(values), ci=[value + shift - 1, value + shift + 1])
        for key, value in each.items()
        for end, by in (("", 0.0), ("/unet", 1.0), ("/pspnet", -1.0))
        for shift in [0.0 if key == "miou_delta" else by]
    }
    local = Local("", {"miou": dict(values), "miou_delta": delta}, {image: f"p{image}" for image in values})
    return {**made(method, "segmentation", scores, **{"metrics": LUNGS, **changes}), LOCAL: local}


def row(name: str, fid: float, kid: float, reach: float = 0.01, **changes: Any) -> dict[str, Any]:
    """A row of the ablation, by the paper's name of it."""
    aaspm, fa, lca, baml = SWITCHES[name]
    config = {"aaspm": aaspm, "fa": fa, "lca": lca, "baml": baml, "width": 16, **changes.pop("config", {})}
    cost = {"iterations": 250_000, "images_seen": 40, **changes.pop("cost", {})}
    print_ = digest([config, cost])
    return distances("ours", fid, kid, reach, **{"method_config": config, "config_fingerprint": print_, "cost": cost, **changes})


def line(sheet: Sheet, label: str, group: str = "") -> Line:
    """The one line of that label."""
    (found,) = [one for one in sheet.lines if one.label == label and one.group == group]
    return found


def entry(sheet: Sheet, label: str, key: str, group: str = "") -> Entry:
    """The entry of a line under the heading of that key."""
    (index,) = [k for k, head in enumerate(sheet.heads) if head.key == key]
    return line(sheet, label, group).entries[index]


def value(sheet: Sheet, label: str, key: str, group: str = "") -> float:
    """The value there."""
    cell = entry(sheet, label, key, group).cell
    assert cell is not None
    return cell.value


def marks(sheet: Sheet, key: str) -> dict[str, str]:
    """Line -> mark of a column."""
    return {one.label: entry(sheet, one.label, key, one.group).mark for one in sheet.lines}
