"""Detection (the paper's Figure 6): how many lesions does a detector find before and after translation?

One detector is trained once, on real images with opacity boxes, and counts on every method's images. The confidence it counts at
is fixed beforehand on real validation images. The unit is the patient; before and after are paired.

A count that falls proves little by itself: detectors find less in any image they did not learn from. So beside it stand the
detector's mAP50 on untouched images (where it is not surely above a floor, every count is in doubt), the translated clear images,
in which nothing should be found, and controls that remove nothing: a blur, and a blur and noise of the images that the
translation changed, as far from them (pooled squared error) as the translation is.

p values are exact where few patients changed (`evaluators.statistics.Paired.best_p`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bench.assets import Slot
from bench.contracts import Evaluator, Job, Metric, Score, ScoreJob
from bench.data.contract import CLEAR, OPACITY
from bench.files import write_json
from bench.registry import register_evaluator
from evaluators.count_figures import Panel, box_plot, curve_plot
from evaluators.counting import (
    CURVE,
    blurred,
    box_area,
    counts,
    decibel,
    lung_cover,
    matched_strength,
    noised,
    pooled_error,
)
from evaluators.detection_real import BLUR, TITLES, DetectionConfig, RealImages
from evaluators.detectors import Detections, detect_all
from evaluators.proportions import NO_WIDTH, exact_interval, flat
from evaluators.statistics import (
    EXACT,
    FloatArray,
    IntArray,
    Paired,
    change_intervals,
    mean_interval,
    paired_test,
    patient_means,
)

Bytes = npt.NDArray[np.uint8]

NO_IMAGES = {OPACITY: "no opacity images in this test set", CLEAR: "no clear images in this test set"}
UNCHANGED = "no opacity image was changed: there is no control to match"
#: Parts: key prefix -> name, and whether its numbers are the same for every method.
PARTS = {
    "opacity": ("opacity images", False),
    "clear": ("clear images", False),
    "blur": ("control: blur of 1/64 of the side", True),
    "psnr_blur": ("control: blur of the translation's PSNR", False),
    "psnr_noise": ("control: noise of the translation's PSNR", False),
}
#: Columns of a part: key suffix, label, unit, digits.
COLUMNS = (
    ("before", "Before", "", 2), ("after", "After", "", 2), ("change", "Change", "", 2), ("median", "Median change", "", 2),
    ("reduced", "Reduced", "%", 1), ("unchanged", "Unchanged", "%", 1), ("increased", "Increased", "%", 1),
    ("shift", "Shift (HL)", "", 2), ("effect", "Effect (rank-biserial)", "", 3), ("p", "p (Wilcoxon)", "", 4),
    ("p_permutation", "p (permutation)", "", 4), ("zeros", "Pairs without change", "", 0),
    ("area_before", "Box area before", "%", 2), ("area_after", "Box area after", "%", 2),
    ("lung_before", "Lung in boxes before", "%", 2), ("lung_after", "Lung in boxes after", "%", 2),
)  # fmt: skip


@register_evaluator("detection")
class Detection(Evaluator):
    """Lesions per image before and after translation, counted by one detector that learnt from real images."""

    Config: ClassVar[type] = DetectionConfig
    version: ClassVar[int] = 3
    needs: ClassVar[frozenset[str]] = frozenset({"images to learn from"})

    @classmethod
    def requires(cls, params: Any) -> frozenset[str]:
        """Nothing with weights of the user's own."""
        return frozenset() if params.weights else cls.needs

    @classmethod
    def learns(cls, params: Any) -> str:
        """Boxes: also for choosing the confidence of the user's own detector."""
        return "boxes"

    @classmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        """The headline, then the parts. Only the headline is ranked: a control has no best."""
        title = TITLES[params.detector]
        parts = [
            Metric(f"{prefix}_{suffix}", label, "none", unit, digits, part=f"{title} · {name}", shared=shared)
            for prefix, (name, shared) in PARTS.items()
            for suffix, label, unit, digits in COLUMNS
        ]
        return (
            Metric("count_change", "Change in lesions", "lower", digits=2, primary=True),
            Metric("count_before", "Lesions before", "none", digits=2, shared=True),
            Metric("count_after", "Lesions after", "lower", digits=2),
            Metric("count_p", "p (Wilcoxon)", "none", digits=4),
            Metric("count_clear", "Lesions in clear images after", "lower", digits=2),
            Metric("map50", "Detector mAP50", "none", digits=3, shared=True),
            *parts,
        )

    @classmethod
    def missing_assets(cls, params: Any, assets: tuple[Path, ...]) -> list[str]:
        """ultralytics where it is wanted and not installed, and the user's weights where they are not there or of another
        detector."""
        missing: list[str] = params.missing()
        return missing

    @classmethod
    def slots(cls, params: Any, assets: tuple[Path, ...]) -> tuple[Slot, ...]:
        """The user's own detector."""
        found = params.path if params.weights and params.path.is_file() else None
        return (
            Slot("--set evaluators.detection.weights=FILE", f"a {TITLES[params.detector]} detector used as it is",
                 params.weights, found),
        )  # fmt: skip

    @classmethod
    def files(cls, params: Any, assets: tuple[Path, ...]) -> tuple[Path, ...]:
        """The user's own weights."""
        return (params.path,) if params.weights else ()

    @classmethod
    def parts(cls, params: Any) -> tuple[str, ...]:
        """Versions of the detector's recipe, of its library, and of what is done with its boxes."""
        found: tuple[str, ...] = params.parts()
        return found

    def prepare(self, job: Job) -> None:
        """Train the detector, choose the confidence, and look at everything real."""
        real = RealImages(job)
        _ = real.before, real.control, real.doubt

    def score(self, job: ScoreJob) -> dict[str, Score]:
        """Count on the translated images and on controls as far from the input, and compare patient by patient."""
        real = RealImages(job)
        pairs = _pairs(job, real)
        parts = {prefix: _Part(real, pair).scores() for prefix, pair in pairs.items()}
        scores = {f"{prefix}_{suffix}": score for prefix, part in parts.items() for suffix, score in part.items()}
        scores |= {
            "count_change": scores["opacity_change"], "count_before": scores["opacity_before"],
            "count_after": scores["opacity_after"], "count_p": scores["opacity_p"], "count_clear": scores["clear_after"],
            "map50": real.quality,
        }  # fmt: skip
        _draw(job, real, {prefix: pairs[prefix] for prefix in (OPACITY, CLEAR) if pairs[prefix].rows})
        return scores


# -- before against after -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Detections in the same images before and after something was done to them.

    Attributes:
        rows: of the test set.
        before, after: one entry a row.
        kind: domain of the images.
        note: remark.
        each: keep values by image.
        why_none: why there is nothing to compare where there are no rows.
    """

    rows: list[int]
    before: list[Detections]
    after: list[Detections]
    kind: str
    note: str = ""
    each: bool = False
    why_none: str = ""


def _pairs(job: ScoreJob, real: RealImages) -> dict[str, _Pair]:
    """Part -> what it compares. All images that this method changed go through the detector in one call."""
    domains = job.source.domains
    opacity, clear = ([i for i, d in enumerate(domains) if d == domain] for domain in (OPACITY, CLEAR))
    matched = _matched(job, opacity)
    asked = [(list(range(len(job.source))), job.translated.bytes()), *((opacity, images) for images, _ in matched)]
    after, *controls = _detected(real, asked)
    before = [real.before[i] for i in opacity]
    pairs = {
        "opacity": _Pair(opacity, before, [after[i] for i in opacity], OPACITY, each=True),
        "clear": _Pair(clear, [real.before[i] for i in clear], [after[i] for i in clear], CLEAR, each=True),
        "blur": _Pair(opacity, before, real.control if opacity else [], OPACITY, f"sigma {BLUR * job.source.size:.3g} pixels"),
    }
    for k, name in enumerate(("psnr_blur", "psnr_noise")):
        none = _Pair([], [], [], OPACITY, why_none=UNCHANGED if opacity else "")
        pairs[name] = _Pair(opacity, before, controls[k], OPACITY, matched[k][1]) if matched else none
    return pairs


def _matched(job: ScoreJob, opacity: list[int]) -> list[tuple[Bytes, str]]:
    """A blur and a noise of the images that the translation changed, with as large an error as its own in just these, and a remark
    on each. Images that it left alone are left alone. Empty where it changed none."""
    source, translated = job.source.bytes(opacity), job.translated.bytes(opacity)
    changed = np.flatnonzero((source != translated).any(axis=(1, 2)))
    if not len(changed):
        return []
    inputs, ids = source[changed], [job.source.ids[opacity[i]] for i in changed]
    target = pooled_error(lambda rows: translated[changed[rows]], inputs)

    def blur(rows: IntArray, sigma: float) -> Bytes:
        return blurred(inputs[rows], sigma)

    def noise(rows: IntArray, sigma: float) -> Bytes:
        return noised(inputs[rows], sigma, [ids[i] for i in rows], job.seed)

    found = []
    for make, most, unit in ((blur, job.source.size / 4, " pixels"), (noise, 1.0, "")):
        strength, error = matched_strength(make, inputs, target, most)
        images = source.copy()
        images[changed] = make(np.arange(len(changed)), strength)
        which = "" if len(changed) == len(opacity) else f" in the {len(changed)} of {len(opacity)} images it changed"
        far = ", the strongest tried" if strength == most and error < target else ""
        found.append((
            images, f"sigma {strength:.3g}{unit}{far}: PSNR {decibel(error):.1f} dB, the translation's {decibel(target):.1f} dB{which}"
        ))  # fmt: skip
    return found


def _detected(real: RealImages, asked: list[tuple[list[int], Bytes]]) -> list[list[Detections]]:
    """Detections in images made from rows of the test set. An image that is still its source keeps what was found in that: doing
    nothing changes nothing, whatever the batch that the image would be in."""
    changed = [(images != real.job.source.bytes(rows)).any(axis=(1, 2)) for rows, images in asked]
    fresh = iter(detect_all(real.detector, np.concatenate([images[new] for (_, images), new in zip(asked, changed, strict=True)])))
    return [
        [next(fresh) if new else real.before[row] for row, new in zip(rows, news, strict=True)]
        for (rows, _), news in zip(asked, changed, strict=True)
    ]


class _Part:
    """The scores of one comparison, by suffix of `COLUMNS`."""

    def __init__(self, real: RealImages, pair: _Pair) -> None:
        self.real, self.pair, self.job = real, pair, real.job
        self.ids = [self.job.source.ids[i] for i in pair.rows]
        self.patients = [self.job.source.patients[i] for i in pair.rows]
        self.note = "; ".join(part for part in (pair.note, real.note) if part)

    def scores(self) -> dict[str, Score]:
        """All of them; without a value where the test set has no such image."""
        if not self.pair.rows:
            return {suffix: Score(None, 0, note=self.pair.why_none or NO_IMAGES[self.pair.kind]) for suffix, *_ in COLUMNS}
        least = self.real.confidence
        before, after = counts(self.pair.before, least), counts(self.pair.after, least)
        return {
            "before": self._mean(before), "after": self._mean(after, "" if after.any() else "finds nothing"),
            "change": self._mean(after - before, "" if (before.any() or after.any()) else "finds nothing, before or after"),
            **self._tests(before, after), **self._areas(),
        }  # fmt: skip

    def _mean(self, values: FloatArray, note: str = "") -> Score:
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):
            return Score(None, 0, note="no lung masks")
        estimate = mean_interval(values[known], [self.patients[i] for i in known], self.job.seed, self.real.params.n_boot)
        each = {self.ids[i]: float(values[i]) for i in known} if self.pair.each else None
        text = "; ".join(part for part in (note, self.note) if part)
        return Score(estimate.value, len(known), ci=estimate.ci, note=text, per_image=each, doubt=self.real.doubt)

    def _tests(self, before: FloatArray, after: FloatArray) -> dict[str, Score]:
        seed, n_boot = self.job.seed, self.real.params.n_boot
        test = paired_test(before, after, self.patients, seed, n_boot)
        change = patient_means(after - before, self.patients)
        low, high = np.percentile(change, [25, 75])
        same = f"{test.n} patients, {test.zeros} of them without change"
        values: dict[str, tuple[float, str]] = {
            "median": (float(np.median(change)), f"quartiles {low:.2f} and {high:.2f}"),
            "reduced": (100 * test.reduced, ""), "unchanged": (100 * test.unchanged, ""),
            "increased": (100 * test.increased, ""), "shift": (test.shift, ""), "effect": (test.effect, same),
            "p": (test.best_p, f"{same}: {_how(test)}"), "p_permutation": (test.p_permutation, same),
            "zeros": (float(test.zeros), same),
        }  # fmt: skip
        intervals = change_intervals(change, seed, n_boot) | ({"shift": test.shift_ci} if test.shift_ci else {})
        if flat(intervals.get("effect")):
            del intervals["effect"]
            values["effect"] = (test.effect, f"{same}; {NO_WIDTH}")
        percent = {"reduced": test.reduced, "unchanged": test.unchanged, "increased": test.increased}
        intervals |= {key: exact_interval(share, test.n) for key, share in percent.items() if flat(intervals.get(key))}
        cis = {key: (100 * a, 100 * b) if key in percent else (a, b) for key, (a, b) in intervals.items()}
        return {
            key: Score(
                value, test.n, ci=cis.get(key), note="; ".join(part for part in (note, self.note) if part), doubt=self.real.doubt
            )
            for key, (value, note) in values.items()
        }  # fmt: skip

    def _areas(self) -> dict[str, Score]:
        least, source = self.real.confidence, self.job.source
        found = {"before": self.pair.before, "after": self.pair.after}
        scores = {f"area_{side}": self._mean(box_area(some, least, source.size)) for side, some in found.items()}
        lungs = source.raw(self.pair.rows, "lung_mask").astype(np.uint8) if "lung_mask" in source.planes else None
        for side, some in found.items():
            covered = np.full(len(some), np.nan) if lungs is None else lung_cover(some, least, lungs)
            scores[f"lung_{side}"] = self._mean(covered)
        return scores


def _how(test: Paired) -> str:
    """How `Paired.best_p` came about."""
    return f"exact, for at most {EXACT} changed" if test.n - test.zeros <= EXACT else "normal approximation"


# -- pictures -----------------------------------------------------------------------------------------------------------------


def _draw(job: ScoreJob, real: RealImages, pairs: Mapping[str, _Pair]) -> None:
    """``counts.png`` (box plots), ``curve.png`` and its numbers, ``curve.json``."""
    panels, curves, numbers = [], [], {}
    for name, pair in pairs.items():
        patients = [job.source.patients[i] for i in pair.rows]
        before, after = (patient_means(counts(f, real.confidence), patients) for f in (pair.before, pair.after))
        test = paired_test(before, after, sorted(set(patients)), job.seed, 1)
        panels.append(Panel(f"{name} images", before, after, test))
        curve = [
            np.array([patient_means(counts(f, least), patients).mean() for least in CURVE]) for f in (pair.before, pair.after)
        ]
        curves.append((f"{name} images", curve[0], curve[1]))
        numbers[name] = {"before": curve[0].tolist(), "after": curve[1].tolist()}
    if not panels:
        return
    title = f"{TITLES[real.params.detector]}: lesions before and after translation"
    quality = "mAP50 unknown" if real.quality.value is None else f"mAP50 {real.quality.value:.2f} on {real.judged}"
    caption = f"{quality}, confidence \u2265 {real.confidence:g}" + ("\nnot to be relied upon" if real.doubt else "")
    box_plot(panels, job.scratch / "counts.png", title, caption)
    curve_plot(CURVE, curves, real.confidence, job.scratch / "curve.png", title)
    write_json(job.scratch / "curve.json", {"confidence": list(CURVE), "counts": numbers, "counted_at": real.confidence})
