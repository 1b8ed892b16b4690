"""What an evaluator is, with which models it scores, and what it drew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from bench.files import digest
from bench.records import LOCAL, Local
from leaderboards.cells import span
from leaderboards.groups import Record, prior_id, text
from leaderboards.subjects import title
from leaderboards.tables import Table

ABOUT = {
    "faithfulness": "Translated images against the true clear counterpart, inside the opacity and away from it.",
    "fidelity": "Distance of the translated images, as a set, from real clear images.",
    "segmentation": "Segmenters that saw no translated image find the lungs before and after translation.",
    "classification": "Opacity or clear? Classifiers learn it from each kind of images, cross-fitted by patient.",
    "detection": "One detector, trained on real images, counts lesions before and after translation.",
}
EXTRACTORS = {
    "inception": "FID and KID: Inception-v3 of 2015-12-05 through torch-fidelity, translated against real clear images.",
    "cxr": (
        "FD-cxr and KD-cxr: Frechet and kernel distance of the finding classifier's pooled features (classifier {prior}). "
        "They are not FID or KID, and compare only under the same classifier."
    ),
}
#: Weight hashes of one model that a line has room for ...
MANY = 3
#: ... and models.
LONG = 6
#: Facts of a model that are told, where they are texts.
TOLD = ("encoder", "start", "trained_on", "trained_by", "file", "library", "licence")


def evaluator(table: Table, name: str) -> str:
    """A paragraph on an evaluator: what it is, the classifiers its numbers rest on, its models; empty where nothing is known."""
    records = [record for row in table.rows for record in row.records if record.get("evaluator") == name]
    kinds = {(text((record.get("params") or {}).get("extractor")), prior_id(record)) for record in records}
    lines = [ABOUT[name]] if name in ABOUT and records else []
    for kind, prior in sorted(kind for kind in kinds if kind[0]):
        lines.append(EXTRACTORS.get(kind, f"Feature extractor: {kind}.").format(prior=f"`{prior}`" if prior else "without an id"))
    used = {prior for _, prior in kinds}
    lines += [_classifier(prior) for prior in table.priors if text(prior.get("id")) in used - {""}]
    return " ".join([*lines, *_models(table, name)])


def table_lines(table: Table) -> list[str]:
    """What a whole table rests on: classifiers that methods were trained with and nothing scored with, and the data."""
    records = [record for row in table.rows for record in row.records]
    used = {prior_id(record) for record in records}
    lines = []
    for prior in table.priors:
        mine = [row.label for row in table.rows if any(_trained_with(record, prior) for record in row.records)]
        if mine and text(prior.get("id")) not in used:
            lines.append(f"{', '.join(mine)} trained with: {_classifier(prior)}")
    if not any(row.original for row in table.rows):
        lines.append("`original`, the untranslated images, is missing here: give the whole results folder, not a part of it.")
    return [*lines, f"Data fingerprint `{table.context['dataset_fingerprint']}`."]


def _trained_with(record: Record, prior: Mapping[str, Any]) -> bool:
    return bool(record.get("trained_with_prior")) and text((record.get("prior") or {}).get("id")) == text(prior.get("id"))


def _classifier(prior: Mapping[str, Any]) -> str:
    findings = ", ".join(prior.get("findings") or ()) or "none"
    by = prior.get("trained_by") or "unknown"
    n, datasets = prior.get("n_train"), ", ".join(prior.get("datasets") or ())
    what = " of ".join(filter(None, [f"{n} images" if n is not None else "images", datasets]))
    learnt = f" on {what}" if what != "images" else ""
    line = f"Finding classifier `{prior.get('id')}`: trained by {by}{learnt}, findings {findings}"
    if prior.get("val_auroc") is not None:
        scored, every = prior.get("findings_scored"), len(prior.get("findings") or ())
        of = f" of {scored} of {every} findings" if scored is not None else ""
        line += f"; mean AUROC {prior['val_auroc']:.2f}{of} on {prior.get('n_val')} held-out images"
    elif by != "harness":
        line += "; whom it has seen is unknown, test patients may be among them"
    return line + "."


#: Row label, seed, and what the record says about the model.
Use = tuple[str, str, Mapping[str, Any]]


def _models(table: Table, name: str) -> list[str]:
    """An evaluator's models: names, numbers of training images, weights. What is the same for all is said once; what records
    name without weights is a remembered result and no model."""
    found: dict[str, list[Use]] = {}
    for row in table.rows:
        for record in (record for record in row.records if record["evaluator"] == name):
            for model in (model for model in record.get("models") or () if model.get("weights_id")):
                found.setdefault(model["name"], []).append((row.label, str(record.get("seed")), model))
    if not found:
        return []
    facts = [_facts(uses[0][2]) for uses in found.values()]
    common = [fact for fact in facts[0] if all(fact in other for other in facts)]
    for_all = f" ({', '.join(common)})" if common and len(found) > 1 else ""
    if len(found) > LONG:
        return [_many(found, common)]
    told = [_model(model, uses, common if for_all else ()) for model, uses in sorted(found.items())]
    return [f"Model{'s' if len(told) > 1 else ''}{for_all}: {', '.join(told)}."]


def _many(found: Mapping[str, Sequence[Use]], common: Sequence[str]) -> str:
    """Models by number alone: as a product, where their names are one."""
    uneven = sorted(name for name, uses in found.items() if not _alike(uses))
    line = f"{len(found)} models ({'; '.join([_product(sorted(found)), *common])}), weights ids in the records"
    return line + (f"; not the same for all rows: {_product(uneven)}." if uneven else ".")


def _product(names: Sequence[str]) -> str:
    """``a-x, a-y, b-x, b-y`` -> ``a, b x x, y``."""
    pairs = [(name.rpartition("-")[0], name.rpartition("-")[2]) for name in names]
    heads, tails = (list(dict.fromkeys(pair[k] for pair in pairs)) for k in (0, 1))
    if len(names) < 2 or len(heads) * len(tails) > len(names) or not all(heads):
        return ", ".join(names)
    return f"{', '.join(heads)} x {', '.join(tails)}"


def _facts(model: Mapping[str, Any]) -> list[str]:
    """How many images it learnt from, and its facts that are texts."""
    n = next((model[key] for key in ("n", "images") if isinstance(model.get(key), int)), None)
    learnt = model.get("learnt_from")
    folds = [fold.values() for fold in (learnt if isinstance(learnt, list) else [learnt]) if isinstance(fold, dict)]
    sums = [sum(numbers) for numbers in folds if all(isinstance(number, int) for number in numbers)]
    told = [f"n = {span(sorted(sums)) if n is None else n}"] if sums or n is not None else []
    return told + [f"{key.replace('_', ' ')} {' '.join(v.split())}" for key in TOLD if isinstance(v := model.get(key), str) and v]


def _alike(uses: Sequence[Use]) -> bool:
    """Whether all methods were scored with the same weights, seed by seed."""
    by_seed: dict[str, set[str]] = {}
    for _, seed, model in uses:
        by_seed.setdefault(seed, set()).add(_short(model))
    return all(len(some) == 1 for some in by_seed.values())


def _model(name: str, uses: Sequence[Use], common: Sequence[str]) -> str:
    """Name, facts that are not common to all, weights; says where methods were scored with different ones."""
    told = [fact for fact in _facts(uses[0][2]) if fact not in common]
    holders: dict[str, dict[str, None]] = {}
    for method, _, model in uses:
        holders.setdefault(_short(model), {})[method] = None
    if _alike(uses):
        told.append(" ".join(holders) if len(holders) <= MANY else f"{len(holders)} sets of weights, by seed")
    elif len(holders) <= MANY:
        told.append("not the same for all rows: " + ", ".join(f"{w} for {', '.join(who)}" for w, who in holders.items()))
    else:
        told.append(f"not the same for all rows: {len(holders)} sets of weights")
    return f"{name} ({', '.join(told)})"


def _short(model: Mapping[str, Any]) -> str:
    """The hash of its weights (of all folds)."""
    weights = model["weights_id"]
    return f"`{(weights if isinstance(weights, str) else digest(weights))[:8]}`"


#: Row label -> (name, path relative to the results folder) of its pictures.
Pictures = Mapping[str, Sequence[tuple[str, str]]]


def pictures(table: Table) -> Pictures:
    """What evaluators drew, method by method, of the first seed."""
    found = {}
    for row in table.rows:
        first: dict[str, Record] = {}
        for record in sorted(row.records, key=lambda r: str(r.get("seed"))):
            if record.get("figures"):
                first.setdefault(record["evaluator"], record)
        if first:
            found[row.label] = [picture for record in first.values() for picture in _pictures(record)]
    return found


def _pictures(record: Record) -> list[tuple[str, str]]:
    local = record.get(LOCAL)
    folder = f"{local.folder}/" if isinstance(local, Local) and local.folder not in ("", ".") else ""
    found = []
    for path in record["figures"]:
        what = path.rsplit("/", 1)[-1].rsplit(".", 1)[0].replace("_", " ")
        name = title(record["evaluator"]) + (f", {what}" if what != record["evaluator"] else "")
        found.append((name.replace("[", "(").replace("]", ")"), quote(folder + path)))
    return found
