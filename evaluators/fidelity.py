"""Fidelity: does the set of translated images look like real clear images? Frechet and kernel distance of features.

Two extractors, never mixed in one column. ``inception`` is the published FID/KID through torch-fidelity (its network,
its weights by hash, its formulas). ``cxr`` takes the finding classifier's features; the same formulas on other features
are another metric, so they are called FD-cxr and KD-cxr, never FID. Both need no counterpart and cannot tell whether the
right thing was removed; `faithfulness` can.

Beside the distance of the whole sets stand rows of one fixed n, because a Frechet distance means something beside another
of the same n only: means over subsamples without replacement, among them the floor, one half of the real clear images
against the other.

Intervals come from half-samples of both sets by patient, the same ones for every method, whose values are kept: methods are
compared by the differences of theirs (`Score.draws`). Rows of fixed n add the error of a mean over so few subsamples.
The floor has none: where both sides are one distribution the distance has no error of first order, which is what
half-samples measure. The spread over its subsamples is what a perfect translator's value would vary by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.assets import Asset
from bench.checking import check_at_least, check_choice
from bench.contracts import Evaluator, Job, Metric, Score, ScoreJob
from bench.data.contract import OPACITY
from bench.data.imageset import ImageSet
from bench.registry import register_evaluator
from evaluators.distances import frechet, frechet_quick, kernel_distance, standardise
from evaluators.features import INCEPTION, LIBRARY, PREPROCESSING, Extractor, Features, missing_weights
from evaluators.statistics import LEVEL, FloatArray, IntArray, half_sample_interval
from evaluators.subsamples import first_of_each, halves, quotas_of, shuffled, view_quotas

#: Kernel and Frechet distance.
Pair = tuple[Score, Score]

#: Below this many images on a side a distance is in doubt: half-samples then have fewer than ten, which differ by who is in them
#: more than methods do, so that not even the interval can be relied upon.
LEAST = 20
#: Below this many images FID's bias is of the order of the value itself (the Inception features have 2048 dimensions).
FEW = 2048
#: Suffix of the keys of the rows of fixed n, and what they are called.
PARTS = {
    "avg": "mean over subsamples, fixed n",
    "views": "view-matched reference, fixed n",
    "back": "clear to opacity, fixed n",
    "floor": "real clear vs real clear (floor)",
}
#: Seed of their subsamples, and of the half-samples behind intervals: whoever made the images, the same patients are drawn.
DRAWS = 2020

_STANDARDISED = "features standardised with the reference set's mean and deviation"
_NO_INTERVAL = "no interval, as both sides are one distribution"
_TOO_FEW = "a fixed n needs two opacity images, and clear images of two patients a half"


@dataclass(frozen=True)
class FidelityConfig:
    """Parameters of `Fidelity`.

    Attributes:
        extractor: ``inception`` (FID, KID) or ``cxr`` (FD-cxr, KD-cxr on the finding classifier's features).
        kid_subsets: subsets that the kernel distance is averaged over.
        kid_subset_size: images in each; at most half of the smaller set, or the spread over subsets would mean nothing.
        batch_size: images through the extractor at once; changes no number.
        subsamples: half-samples by patient behind each interval; 0 for none.
        repeats: subsamples of fixed n behind each row of `PARTS`; 0 leaves these rows out.
        fixed_n: images a side in them, where there are enough: at most all opacity images, and at most half of the reference,
            which is what its floor can have.
    """

    extractor: str = "inception"
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    batch_size: int = 32
    subsamples: int = 20
    repeats: int = 10
    fixed_n: int = 1000

    def __post_init__(self) -> None:
        check_choice(self, tuple(PREPROCESSING), "extractor")
        check_at_least(self, 2, "kid_subset_size", "fixed_n")
        check_at_least(self, 1, "kid_subsets", "batch_size")
        check_at_least(self, 0, "subsamples", "repeats")


@register_evaluator("fidelity")
class Fidelity(Evaluator):
    """Distance of the translated opacity images to the real clear images, in feature space.

    Attributes:
        extracted: images that went through the extractor in the last `prepare` or `score`: ``reference`` and ``source`` (real
            images, only where their features were not known yet), ``translated`` and ``back``.
    """

    Config: ClassVar[type] = FidelityConfig
    version: ClassVar[int] = 3
    needs: ClassVar[frozenset[str]] = frozenset({"prior"})
    min_images: ClassVar[int] = 2
    assets: ClassVar[tuple[Asset, ...]] = (INCEPTION,)

    def __init__(self) -> None:
        self.extracted: Counter[str] = Counter()

    @classmethod
    def requires(cls, params: Any) -> frozenset[str]:
        """Only the ``cxr`` extractor needs the prior."""
        return cls.needs if params.extractor == "cxr" else frozenset()

    @classmethod
    def directions(cls, params: Any) -> tuple[str, ...]:
        """Both where there are rows beside the headline: the way back is one of them."""
        return ("a2b", "b2a") if params.repeats else ("a2b",)

    @classmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        """Kernel distance first: it is unbiased at any n, so tables rank by it. Then the rows of `PARTS`."""
        columns = (("kid", "KID", 4), ("fid", "FID", 2))
        if params.extractor == "cxr":
            columns = (("kd_cxr", "KD-cxr", 2), ("fd_cxr", "FD-cxr", 2))
        rows = PARTS.items() if params.repeats else ()
        return (
            *(Metric(key, label, "lower", digits=digits, primary=True) for key, label, digits in columns),
            *(
                Metric(f"{key}_{suffix}", label, "lower", digits=digits, part=part, shared=suffix == "floor")
                for suffix, part in rows for key, label, digits in columns
            ),
        )  # fmt: skip

    @classmethod
    def missing_assets(cls, params: Any, assets: tuple[Path, ...]) -> list[str]:
        """The Inception weights, unless they are found with the right digest."""
        problem = "" if params.extractor == "cxr" else missing_weights(assets)
        return [problem] if problem else []

    @classmethod
    def parts(cls, params: Any) -> tuple[str, ...]:
        """What is done to pixels, and the library of the network and of both distances."""
        return PREPROCESSING[params.extractor], LIBRARY

    def prepare(self, job: Job) -> None:
        """Features of the reference, and its floor."""
        self.extracted = Counter()
        extractor = Extractor(job, self.extracted)
        extractor.cached(job.reference, "reference")
        if job.params.repeats:
            _floor(job, extractor)

    def score(self, job: ScoreJob) -> dict[str, Score]:
        """Features of both sets, then both distances (generated first), whole and at fixed n."""
        self.extracted = Counter()
        extractor = Extractor(job, self.extracted)
        rows = _to_compare(job.source)
        none = () if rows else ("no opacity images in this test set: all translated images are compared",)
        translated = job.translated.subset(rows, OPACITY) if rows else job.translated
        real = extractor.cached(job.reference, "reference")
        generated = extractor.features(translated, "translated")
        both = _Comparison.of(job, generated, real, (translated, job.reference), none)
        kd, fd = (metric.key for metric in self.metrics(job.params)[:2])
        scores = {kd: both.kernel(), fd: both.frechet()}
        if not job.params.repeats:
            return scores
        parts = {
            "avg": both.averaged(_fixed_n(job)),
            "views": both.averaged(_fixed_n(job), [job.source.items[i].view for i in rows or range(len(job.source))]),
            "back": _backwards(job, extractor),
            "floor": _floor(job, extractor),
        }
        return scores | {f"{k}_{suffix}": pair[i] for suffix, pair in parts.items() for i, k in enumerate((kd, fd))}


def _to_compare(source: ImageSet) -> list[int]:
    """The opacity images; none where the set has none, and all translated images are compared."""
    return [i for i, domain in enumerate(source.domains) if domain == OPACITY]


def _fixed_n(job: Job) -> int:
    """Images a side of the rows of fixed n: one number for all methods, rows and seeds. 0 where there are too few patients."""
    largest = max(Counter(job.reference.patients).values(), default=1)
    half = (len(job.reference) + 1 - largest) // 2  # wherever a patient straddles the halves, this many are left on both sides
    return max(0, min(job.params.fixed_n, len(_to_compare(job.source)) or len(job.source), half))


def _backwards(job: ScoreJob, extractor: Extractor) -> Pair:
    """Translated clear images against real opacity images, where the method made such images."""
    rows = _to_compare(job.source)
    if job.back is None:
        return _nothing("this run made no images from clear to opacity")
    if not rows:
        return _nothing("no opacity images in this test set")
    real = job.source.subset(rows, OPACITY)
    features = extractor.features(job.back, "back"), extractor.cached(real, "source")
    return _Comparison.of(job, *features, (job.back, real)).averaged(_fixed_n(job))


def _floor(job: Job, extractor: Extractor) -> Pair:
    """Real clear images against real clear images of other patients: what a perfect translator would get. Computed once."""
    n, repeats = _fixed_n(job), job.params.repeats
    if n < 2:
        return _nothing(_TOO_FEW)

    def compute() -> dict[str, Any]:
        real = extractor.cached(job.reference, "reference")
        if job.params.extractor == "cxr":
            real, _ = standardise(real, real)
        pairs = (halves(job.reference.patients, n, np.random.default_rng([DRAWS, k])) for k in range(repeats))
        return {"distances": np.array([_both(real[a], real[b]) for a, b in pairs])}

    inputs = {"features": extractor.key(job.reference), "n": n, "repeats": repeats, "version": Fidelity.version, "library": LIBRARY}
    found = job.fits.arrays("fidelity-floor", inputs, compute)["distances"]
    notes = (_STANDARDISED,) if job.params.extractor == "cxr" else ()
    doubt = _few({"reference": len(job.reference)})
    return _summary(found, n, *notes, "halves of the reference, no patient in both", _NO_INTERVAL, doubt=doubt)


@dataclass(frozen=True)
class _Halved:
    """A distance on half-samples.

    Attributes:
        reach: half-width of its 95 % interval, or none.
        draws: its values; the patients in each are the same whoever made the images. None where `reach` is.
    """

    reach: float | None = None
    draws: tuple[float, ...] | None = None


#: Of kernel and Frechet distance.
Halves = tuple[_Halved, _Halved]


@dataclass(frozen=True)
class _Comparison:
    """Features of both sets (n x D, m x D) with their patients and the real ones' views: what scores are computed from."""

    generated: Features
    real: Features
    patients: tuple[list[str], list[str]]
    views: list[str]
    params: FidelityConfig
    seed: int
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, job: ScoreJob, generated: Features, real: Features, images: tuple[ImageSet, ImageSet], notes: tuple[str, ...] = ()
    ) -> _Comparison:
        """Of generated and real images and their features; those of the classifier are standardised."""
        if job.params.extractor == "cxr":
            generated, real = standardise(generated, real)
            notes = (*notes, _STANDARDISED)
        patients, views = (images[0].patients, images[1].patients), [item.view for item in images[1].items]
        return cls(generated, real, patients, views, job.params, job.seed, notes)

    def frechet(self) -> Score:
        """FD with its interval over half-samples."""
        n, m = len(self.generated), len(self.real)
        if min(n, m) < 2:
            return Score(None, n, note=_join(*self.notes, "a covariance needs two images in each set"))
        value = frechet(self.generated, self.real)
        halved = self.halved[1]
        ci = _around(value, halved.reach, least=0.0)
        return Score(value, n, ci=ci, note=_join(*self.notes, _caveat(n, m)), doubt=self.doubt, draws=halved.draws)

    def kernel(self) -> Score:
        """KD over subsets with its interval over half-samples."""
        n, smaller = len(self.generated), min(len(self.generated), len(self.real))
        asked, size = self.params.kid_subset_size, min(self.params.kid_subset_size, smaller // 2)
        if size < 2:
            return Score(None, n, note=_join(*self.notes, "subsets of half the images need four images in each set"))
        value, std = kernel_distance(self.generated, self.real, self.params.kid_subsets, size, self.seed)
        halved = self.halved[0]
        ci = _around(value, halved.reach)
        adapted = f"subset size {size}, half of the smaller set (configured: {asked})" if size < asked else ""
        return Score(value, n, std, "subsets", ci, _join(*self.notes, adapted), doubt=self.doubt, draws=halved.draws)

    def averaged(self, n: int, wanted: Sequence[str] | None = None) -> Pair:
        """Both distances over subsamples of n images a side, drawn by patient and without replacement.

        The interval adds two errors: that of the patients there are, from halves of both sets (of the size they have, as the
        subsamples may need every image), and that of the mean over subsamples.

        Args:
            n: images a side.
            wanted: views of the opacity images; the reference's subsamples then have their mix, and fewer than n images where
                it lacks some view.
        """
        n, quotas, note = min(n, len(self.generated), len(self.real)), None, ""
        if wanted is not None:
            quotas, note = quotas_of(wanted, self.views, n)
            n = sum(quotas.values())
        if n < 2:
            return _nothing(note or _TOO_FEW)
        halved = self.halved if wanted is None else self._halved(Counter(view for view in wanted if view))
        if _Halved() in halved and _Halved() not in self.halved:
            note = _join(note, "no interval, as some halves of the reference lack a view")
        found = []
        for k in range(self.params.repeats):
            rng = np.random.default_rng([DRAWS, k])
            first, second = (shuffled(p, rng) for p in self.patients)
            second = second if quotas is None else first_of_each(second, self.views, quotas)
            found.append(_both(self.generated[first[:n]], self.real[second[:n]]))
        return _summary(np.array(found), n, *self.notes, note, halved=halved, doubt=self.doubt)

    @property
    def doubt(self) -> str:
        """Why the images are too few; empty where they are not."""
        return _few({"translated": len(self.generated), "reference": len(self.real)})

    @cached_property
    def halved(self) -> Halves:
        """Both distances on half-samples alone."""
        return self._halved()

    def _halved(self, mix: Counter[str] | None = None) -> Halves:
        """Likewise; with `mix`, of the largest part of each half of the reference that has this mix of views."""

        def on_halves(distance: Callable[[Features, Features], float]) -> _Halved:
            draws: list[float] = []

            def on(a: IntArray, b: IntArray) -> float:
                b = b if mix is None else self._matched(b, mix)
                draws.append(distance(self.generated[a], self.real[b]) if min(len(a), len(b)) > 1 else np.nan)
                return draws[-1]

            found = half_sample_interval(0.0, on, self.patients, self.params.subsamples, DRAWS)
            return _Halved(found[1], tuple(draws)) if found and np.isfinite(found[1]) else _Halved()

        return on_halves(lambda a, b: kernel_distance(a, b, 1, min(len(a), len(b)), DRAWS)[0]), on_halves(frechet_quick)

    def _matched(self, rows: IntArray, mix: Counter[str]) -> IntArray:
        """Of some real images, the most that have a mix of views."""
        order = rows[shuffled([self.patients[1][i] for i in rows], np.random.default_rng(DRAWS))]
        quotas = view_quotas(mix, Counter(self.views[i] for i in rows), len(rows))
        return first_of_each(order, self.views, quotas) if quotas else order[:0]


def _both(generated: Features, real: Features) -> tuple[float, float]:
    """Kernel and Frechet distance of two sets of one size; the kernel's over all of it."""
    return kernel_distance(generated, real, 1, len(real), DRAWS)[0], frechet_quick(generated, real)


def _summary(distances: FloatArray, n: int, *notes: str, halved: Halves = (_Halved(), _Halved()), doubt: str = "") -> Pair:
    """Mean and spread of kernel and Frechet distances (R x 2), with intervals from half-samples."""
    rounds = len(distances)
    note, (kernel, far) = _join(*notes, f"{rounds} subsamples of {n} images a side"), distances.mean(axis=0).tolist()
    if rounds < 2:
        note = _join(note, "no interval from a single one")
        return Score(kernel, n, note=note, doubt=doubt), Score(far, n, note=_join(note, _caveat(n, n)), doubt=doubt)
    spread = distances.std(axis=0, ddof=1).tolist()
    from scipy import stats

    chance = [float(stats.t.ppf((1 + LEVEL) / 2, rounds - 1)) * s / np.sqrt(rounds) for s in spread]
    wide = [None if one.reach is None else float(np.hypot(one.reach, c)) for one, c in zip(halved, chance, strict=True)]
    return (
        Score(kernel, n, spread[0], "subsamples", _around(kernel, wide[0]), note, doubt=doubt),
        Score(far, n, spread[1], "subsamples", _around(far, wide[1], least=0.0), _join(note, _caveat(n, n)), doubt=doubt),
    )


def _around(value: float, reach: float | None, least: float = -np.inf) -> tuple[float, float] | None:
    return None if reach is None else (max(least, value - reach), value + reach)


def _nothing(why: str) -> Pair:
    return Score(None, 0, note=why), Score(None, 0, note=why)


def _few(sides: Mapping[str, int]) -> str:
    """Doubt where fewer than `LEAST` images are on a side."""
    few = [f"{n} {side} images" for side, n in sides.items() if n < LEAST]
    return f"only {' and '.join(few)}: the distance tells more of who they are than of the method" if few else ""


def _caveat(n: int, m: int) -> str:
    few = f"biased upwards at n = {n} against {m} (fewer than {FEW}): compare only at equal n"
    return few if min(n, m) < FEW else ""


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
