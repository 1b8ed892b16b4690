"""Classification (Table 2 of Ning et al. 2025): what can a classifier learn from real images, from generated ones, from masks?

A classifier answers "opacity or clear?" (positive: opacity; ARDS where that is the test set's disease). It learns and is
tested by cross-fitting within the test set, folds by patient id: the translator learnt from none of these images, and no
classifier is tested on a patient id it learnt from. So translator, classifier and test are disjoint. Classes are balanced while
learning (half of each batch) and as frequent as they are in the test.

What each data type learns from and is tested on: `evaluators.classification_protocol`.

Figures at the threshold of 0.5 follow from one confusion matrix pooled over folds, which is reported, too; AUROC and average
precision are means over folds (see `evaluators.discrimination`). A logistic model on view, age and sex is the floor for
``original``: what is known without the image. Unlike in the paper, whose figures fit no common matrix, all agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.assets import Slot, locate
from bench.checking import check_at_least
from bench.contracts import Evaluator, Job, Metric, Score, ScoreJob
from bench.errors import UsageError
from bench.registry import register_evaluator
from evaluators import discrimination as d
from evaluators.classification_figure import draw
from evaluators.classification_protocol import DATA_TYPES, SHEETS, SYNTHETIC, Sheet, Study
from evaluators.classifiers import ARCHITECTURES, LIBRARY, VERSION, Recipe, misfit
from evaluators.statistics import N_BOOT, FloatArray

#: Columns of the table; keys are preceded by architecture and test.
COLUMNS = (
    *(
        Metric(key, label, "higher")
        for key, label in {
            "accuracy": "Accuracy", "f1": "F1", "recall": "Recall", "precision": "Precision", "auroc": "AUROC", "ap": "AP",
            "specificity": "Specificity", "balanced": "Balanced acc.", "mcc": "MCC",
        }.items()
    ),
    *(Metric(key, label, "lower") for key, label in {"brier": "Brier", "ece": "ECE"}.items()),
    *(Metric(key, key.upper(), "none", digits=0) for key in ("tp", "fp", "fn", "tn")),
)  # fmt: skip
#: AUROC of who knows nothing.
CHANCE = 0.5
#: Of the calibration error.
NO_INTERVAL = "no interval, as it is larger on resamples than on the images themselves"
#: View -> AUROC on its images alone, for what is learnt from real images: an AP view by itself hints at a bedridden patient.
VIEWS = {view: Metric(f"auroc_view_{view.lower()}", f"AUROC, {view} views", "higher") for view in ("AP", "PA")}


@dataclass(frozen=True)
class ClassificationConfig(Recipe):
    """Parameters of `Classification`; those of `Recipe` say how classifiers are trained.

    Attributes:
        architectures: which networks: ``resnet50``, ``mobilenet``, ``efficientnet``, ``densenet``.
        data_types: what they learn from: ``original``, ``generated``, ``rvt``, ``mix``, ``mask``.
        weights: files to start from, ``resnet50=PATH`` (timm's layout); others start from scratch.
        n_boot: bootstrap resamples over patients behind each interval.
    """

    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    data_types: tuple[str, ...] = ("original", "generated", "mask")
    weights: tuple[str, ...] = ()
    n_boot: int = N_BOOT

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, values, known in (
            ("architectures", self.architectures, tuple(ARCHITECTURES)), ("data_types", self.data_types, DATA_TYPES),
        ):  # fmt: skip
            wrong = [value for value in values if value not in known]
            if wrong or not values or len(set(values)) < len(values):
                raise UsageError(f"classification: {field}={','.join(values)}: expected some of {', '.join(known)}, each once.")
        check_at_least(self, 0, "n_boot")
        _ = self.starts

    @property
    def starts(self) -> dict[str, Path]:
        """Architecture -> weights file as the user named it."""
        found: dict[str, Path] = {}
        for entry in self.weights:
            arch, _, path = entry.partition("=")
            if arch not in self.architectures or not path or arch in found:
                raise UsageError(
                    f"classification: weights '{entry}': expected ARCHITECTURE=PATH, once for each of "
                    f"{', '.join(self.architectures)}."
                )
            found[arch] = Path(path).expanduser()
        return found

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """The tests of the data types asked for."""
        return tuple(sheet for sheet in SHEETS if sheet.data in self.data_types)


@register_evaluator("classification")
class Classification(Evaluator):
    """Accuracy, F1, recall, precision, AUROC of four classifiers on original, generated and mask images."""

    Config: ClassVar[type] = ClassificationConfig
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"both domains"})

    @classmethod
    def directions(cls, params: Any) -> tuple[str, ...]:
        """Both where something is learnt from synthetic opacity images."""
        return ("a2b", "b2a") if SYNTHETIC & set(params.data_types) else ("a2b",)

    @classmethod
    def metrics(cls, params: Any) -> tuple[Metric, ...]:
        """Mean AUROC of the architectures for each test, then a part for each architecture and test, then the baselines.

        Shared numbers are a property of the data and are ranked by nobody.
        """
        found = [
            Metric(f"auroc_{s.key}", f"AUROC {s.label.lower()}", "higher", primary=s.primary)
            for s in sorted(params.sheets, key=lambda s: not s.primary)
        ]
        for sheet in params.sheets:
            for arch in params.architectures:
                part = f"{ARCHITECTURES[arch].label} · {sheet.label}"
                found += [
                    replace(column, key=f"{arch}_{sheet.key}_{column.key}", part=part)
                    for column in ((*COLUMNS, *VIEWS.values()) if sheet.shared else COLUMNS)
                ]
            if sheet.key == "original":
                part = f"View, age, sex · {sheet.label}"
                found.append(Metric("floor_auroc", "AUROC", "higher", part=part))
            if sheet.key == "mask":
                part = f"Mean of the mask · {sheet.label}"
                found += [Metric(f"mask_mean_{key}", label, "higher", part=part) for key, label in (("auroc", "AUROC"), ("ap", "AP"))]
        for sheet in (s for s in params.sheets if not s.ranked):
            found = [replace(m, better="none", shared=sheet.shared) if _belongs(m, sheet) else m for m in found]
        return tuple(found)

    @classmethod
    def parts(cls, params: Any) -> tuple[str, ...]:
        """Versions of the recipe, and of the networks' library."""
        return f"classifiers {VERSION}", LIBRARY

    @classmethod
    def missing_assets(cls, params: Any, assets: tuple[Path, ...]) -> list[str]:
        """Start weights that are not there, or hold another architecture."""
        lines = []
        for arch, named in params.starts.items():
            path = locate(named, assets)
            if path is None:
                looked = ", ".join(map(str, [Path.cwd(), *assets]))
                lines.append(
                    f"classification: weights {arch}={named}: no such file (looked in {looked}). Give the path of a file in "
                    f"timm's layout for {ARCHITECTURES[arch].timm}, or leave it out to train from scratch."
                )
            elif problem := misfit(arch, path):
                lines.append(problem)
        return lines

    @classmethod
    def slots(cls, params: Any, assets: tuple[Path, ...]) -> tuple[Slot, ...]:
        """What each architecture starts from."""
        starts = params.starts
        return tuple(
            Slot(f"--set evaluators.classification.weights={arch}=FILE",
                 f"what {ARCHITECTURES[arch].label} starts from ({ARCHITECTURES[arch].timm} in timm's keys)",
                 str(starts.get(arch, "")), locate(starts[arch], assets) if arch in starts else None)
            for arch in params.architectures
        )  # fmt: skip

    @classmethod
    def files(cls, params: Any, assets: tuple[Path, ...]) -> tuple[Path, ...]:
        """The start weights that are there."""
        return tuple(path for named in params.starts.values() if (path := locate(named, assets)))

    def prepare(self, job: Job) -> None:
        """Cross-fit the classifiers of real images."""
        study = Study(job)
        for data in job.params.data_types:
            if data == "original" and study.fold is not None:
                for arch in job.params.architectures:
                    study.predictions(data, arch)

    def score(self, job: ScoreJob) -> dict[str, Score]:
        """Cross-fit what depends on the method, then all figures."""
        study, scores, curves = Study(job), dict[str, Score](), dict[str, dict[str, d.Tested]]()
        for sheet in job.params.sheets:
            why = study.why_not(sheet.data)
            if why:
                mine = (m for m in self.metrics(job.params) if _belongs(m, sheet))
                scores |= {metric.key: Score(None, 0, note=why) for metric in mine}
                continue
            tested = {arch: study.tested(sheet, arch) for arch in job.params.architectures}
            scores |= _scores(job, study, sheet, tested)
            curves[sheet.label] = tested
        if curves:
            draw(curves, job.scratch / "classification.png", job.source.name)
        return scores | _by_chance(job, scores)


def _belongs(metric: Metric, sheet: Sheet) -> bool:
    return metric.part.endswith(f" · {sheet.label}") or metric.key == f"auroc_{sheet.key}"


def _join(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _by_chance(job: ScoreJob, scores: Mapping[str, Score]) -> dict[str, Score]:
    """The AUROCs of what is not learnt from real images, with a remark where their architecture learns nothing from those."""
    found = {}
    pairs = {f"{arch}_{{}}_auroc": "this architecture is" for arch in job.params.architectures}
    for name, who in (pairs | {"auroc_{}": "the architectures' mean is"}).items():
        real = scores.get(name.format("original"))
        if real is None or real.value is None or (real.ci[0] if real.ci else real.value) > CHANCE:
            continue
        ends = f" [{real.ci[0]:.2f}, {real.ci[1]:.2f}]" if real.ci else ""
        remark = f"on untranslated images {who} not above chance here: AUROC {real.value:.2f}{ends}"
        for sheet in (s for s in job.params.sheets if not s.shared):
            key = name.format(sheet.key)
            if scores[key].value is not None:
                found[key] = replace(scores[key], note=_join(scores[key].note, remark))
    return found


def _scores(job: ScoreJob, study: Study, sheet: Sheet, tested: dict[str, d.Tested]) -> dict[str, Score]:
    """All figures of one test: mean AUROC, those of each architecture, those of the baselines."""
    scores: dict[str, Score] = {}
    resamples = d.Resamples(next(iter(tested.values())), job.params.n_boot, job.seed)
    values: list[float] = []
    boots = []
    for arch, mine in tested.items():
        boot = d.resampled_auroc(mine, resamples)
        found = _at_threshold(mine, resamples, sheet, study.remark) | _ranking(mine, resamples, boot, study.remark)
        if sheet.shared:
            found |= {metric.key: _of_view(mine, view, job, study.remark) for view, metric in VIEWS.items()}
        scores |= {f"{arch}_{sheet.key}_{key}": score for key, score in found.items()}
        values.append(d.auroc(mine))
        boots.append(boot)
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    mean = np.mean(boots, axis=0)
    scores[f"auroc_{sheet.key}"] = Score(
        float(np.mean(values)), len(mine), spread, "architectures" if spread is not None else "",
        d.interval(mean), _join(study.remark, d.lacking(mean)),
    )  # fmt: skip
    if sheet.key == "original":
        scores["floor_auroc"] = _floor(study, resamples)
    if sheet.key == "mask":
        alone = study.one_number(job.translated.bytes(study.rows, "mask").mean(axis=(1, 2)) / 255)
        ranked = _ranking(alone, resamples, d.resampled_auroc(alone, resamples), study.remark)
        scores |= {f"mask_mean_{key}": ranked[key] for key in ("auroc", "ap")}
    return scores


def _at_threshold(tested: d.Tested, resamples: d.Resamples, sheet: Sheet, note: str) -> dict[str, Score]:
    """The confusion matrix, the figures that follow from it (proved), and calibration."""
    n, counts, found = len(tested), d.matrix(tested), d.threshold_metrics(tested)
    d.verify(found, counts, n)
    intervals = d.metric_intervals(tested, resamples)
    ids = [item.image_id for item in tested.items]
    scores = {}
    for key, value in found.items():
        if not np.isfinite(value):
            scores[key] = Score(None, n, note=_join(note, "no image was called opacity"))
            continue
        ci, why = intervals[key]
        correct = dict(zip(ids, tested.correct.astype(float).tolist(), strict=True))
        # Under "rvt" a real image and its translation carry the same id.
        per_image = correct if key == "accuracy" and sheet.key != "rvt" else None
        scores[key] = Score(value, n, ci=ci, note=_join(note, why), per_image=per_image)
    errors = d.brier(tested)
    boot = resamples.values(lambda weights: weights @ errors / weights.sum(axis=1))
    scores["brier"] = Score(float(errors.mean()), n, ci=d.interval(boot), note=_join(note, d.lacking(boot)))
    scores["ece"] = Score(d.calibration_error(tested), n, note=_join(note, NO_INTERVAL))
    return scores | {name: Score(float(count), n, note=note) for name, count in asdict(counts).items()}


def _ranking(tested: d.Tested, resamples: d.Resamples, boot: FloatArray, note: str) -> dict[str, Score]:
    """AUROC and average precision; `boot` holds the AUROC of every resample."""
    spread = d.fold_spread(tested)
    over = "folds" if spread is not None else ""
    precision = d.resampled_precision(tested, resamples)
    return {
        "auroc": Score(d.auroc(tested), len(tested), spread, over, d.interval(boot), _join(note, d.lacking(boot))),
        "ap": Score(d.average_precision(tested), len(tested), ci=d.interval(precision), note=_join(note, d.lacking(precision))),
    }


def _of_view(tested: d.Tested, view: str, job: ScoreJob, note: str) -> Score:
    """AUROC on the images of one view, in the folds that have both classes there."""
    of = np.array([item.view == view for item in tested.items])
    rows = of & np.isin(tested.fold, [f for f in np.unique(tested.fold) if len(set(tested.label[of & (tested.fold == f)])) == 2])
    if not rows.any():
        return Score(None, int(of.sum()), note=f"no fold has {view} views of both classes")
    mine = tested.only(rows)
    boot = d.resampled_auroc(mine, d.Resamples(mine, job.params.n_boot, job.seed))
    return Score(d.auroc(mine), len(mine), ci=d.interval(boot), note=_join(note, d.lacking(boot)))


def _floor(study: Study, resamples: d.Resamples) -> Score:
    """AUROC of a logistic model on view, age and sex, cross-fitted on the same folds: what needs no image."""
    items = [study.job.source.items[i] for i in study.rows]
    columns: dict[str, list[list[float]]] = {
        "view": [[item.view == view for item in items] for view in ("AP", "PA")],
        "sex": [[item.sex == sex for item in items] for sex in ("F", "M")],
        "age": [[np.nan if item.age is None else item.age for item in items], [item.age is None for item in items]],
    }
    known = {
        "view": any(item.view for item in items), "sex": any(item.sex for item in items),
        "age": any(item.age is not None for item in items),
    }  # fmt: skip
    used = [name for name in columns if known[name]]
    if not used or study.fold is None:
        return Score(None, 0, note="view, age and sex are unknown")
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = np.array([column for name in used for column in columns[name]], dtype=np.float64).T
    probability = np.empty(len(items))
    for fold in np.unique(study.fold):
        out = study.fold == fold
        model = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=1000))
        probability[out] = model.fit(table[~out], study.label[~out]).predict_proba(table[out])[:, 1]
    unknown = [name for name in columns if name not in used]
    note = _join(study.remark, f"unknown: {', '.join(unknown)}" if unknown else "")
    tested = study.one_number(probability)
    return _ranking(tested, resamples, d.resampled_auroc(tested, resamples), note)["auroc"]
