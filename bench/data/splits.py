"""Splits by patient: one hash of (seed, patient) decides, so that no patient is ever on two sides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

from bench.data.contract import SPLITS, ImageRecord, Manifest
from bench.errors import DataError, UsageError

Fractions = tuple[float, float, float]

#: Shares of train, val and test for datasets without an official split.
DEFAULT_FRACTIONS: Fractions = (0.7, 0.1, 0.2)


def side(patient_id: str, seed: int, fractions: Fractions = DEFAULT_FRACTIONS) -> str:
    """The split a patient falls into; depends on nothing but the three arguments."""
    value = int.from_bytes(hashlib.blake2b(f"{seed}/{patient_id}".encode(), digest_size=7).digest(), "big") / 2.0**56
    edge = 0.0
    for split, fraction in zip(SPLITS, fractions, strict=True):
        edge += fraction
        if value < edge:
            return split
    # 0.7 + 0.1 + 0.2 is a hair below 1: what falls through belongs to the last split that has a share at all.
    return [split for split, fraction in zip(SPLITS, fractions, strict=True) if fraction > 0][-1]


def official(records: Iterable[ImageRecord]) -> dict[str, str]:
    """Patient -> official split, for the patients that have one.

    Raises:
        DataError: a patient has two, or a record names a split that does not exist.
    """
    found: dict[str, str] = {}
    for record in records:
        if not record.split:
            continue
        if record.split not in SPLITS:
            raise DataError(f"image '{record.image_id}': split '{record.split}' is none of {', '.join(SPLITS)}.")
        before = found.setdefault(record.patient_id, record.split)
        if before != record.split:
            raise DataError(
                f"patient '{record.patient_id}' is in the official splits '{before}' and '{record.split}' (image "
                f"'{record.image_id}'). A patient must be on one side only: correct the table that lists the splits."
            )
    return found


def assign(
    records: Iterable[ImageRecord],
    seed: int,
    fractions: Fractions = DEFAULT_FRACTIONS,
    known: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Give every image a split, patient by patient.

    A patient any of whose images has an official split goes there with all images; the others are placed by a hash of
    (seed, patient id) alone, so adding images or datasets moves nobody.

    Args:
        records: the images of one dataset.
        seed: seed of the split (not of a run: all runs that are compared share it).
        fractions: shares of train, val and test; they sum to 1. ``(0, 0, 1)`` keeps everything for testing.
        known: patient -> official split in another dataset of the same patient namespace.

    Returns:
        Image id -> ``train``, ``val`` or ``test``.

    Raises:
        DataError: a patient with two official splits, or an image without a patient.
        UsageError: the fractions are not shares.
    """
    if any(not 0 <= f <= 1 for f in fractions) or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise UsageError(f"split fractions {fractions} must be between 0 and 1 and sum to 1 (train, val, test).")
    records = list(records)
    fixed = {**(known or {}), **official(records)}
    sides: dict[str, str] = {}
    for record in records:
        if not record.patient_id:
            raise DataError(f"image '{record.image_id}' has no patient id; a reader that knows none uses the image id.")
        sides[record.image_id] = fixed.get(record.patient_id) or side(record.patient_id, seed, fractions)
    return sides


def verify(manifests: Iterable[Manifest]) -> None:
    """Check that no patient is on two sides, within a manifest or across those that share a patient namespace.

    Raises:
        DataError: one is; the message names the patient, both images and both splits.
    """
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for manifest in manifests:
        namespace = manifest.namespace or manifest.dataset
        for record in manifest:
            here = (record.split, f"{manifest.dataset}/{record.image_id}")
            before = seen.setdefault((namespace, record.patient_id), here)
            if before[0] != record.split:
                raise DataError(
                    f"patient '{record.patient_id}' is on two sides of the split: {before[1]} is in '{before[0]}' and "
                    f"{here[1]} in '{record.split}'. Use one seed and the same fractions for datasets that share patients."
                )
