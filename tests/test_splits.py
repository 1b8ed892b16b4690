"""Splits: by patient, stable, official ones first."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench.data.contract import ImageRecord, Manifest
from bench.data.splits import assign, side, verify
from bench.errors import DataError, UsageError


def record(image: str, patient: str, split: str = "") -> ImageRecord:
    return ImageRecord(image, f"{image}.png", "clear", patient, split=split)


def manifest(dataset: str, records: list[ImageRecord], sides: dict[str, str], namespace: str = "") -> Manifest:
    digests = {r.image_id: "0" for r in records}
    return Manifest(dataset, tuple(records), digests, f"{dataset}-1", namespace=namespace).with_splits(sides)


RECORDS = [record(f"i{p:03d}_{k}", f"p{p:03d}") for p in range(120) for k in range(1 + p % 4)]


@pytest.mark.parametrize("seed", range(60))
def test_no_patient_is_on_both_sides_in_one_or_two_datasets(seed: int) -> None:
    other = [record(f"x{p:03d}", f"p{p:03d}") for p in range(60, 200)]
    one = manifest("rsna", RECORDS, assign(RECORDS, seed), "nih")
    two = manifest("nih14", other, assign(other, seed), "nih")
    sides: dict[str, set[str]] = {}
    for r in (*one, *two):
        sides.setdefault(r.patient_id, set()).add(r.split)
    assert all(len(found) == 1 for found in sides.values())
    verify([one, two])


def test_shares_come_out_and_the_seed_matters() -> None:
    counts = Counter(side(f"p{i}", 0) for i in range(20_000))
    assert [round(counts[s] / 20_000, 2) for s in ("train", "val", "test")] == [0.7, 0.1, 0.2]
    assert assign(RECORDS, 0) != assign(RECORDS, 1)
    assert set(assign(RECORDS, 3, (0, 0, 1)).values()) == {"test"}
    assert set(assign(RECORDS, 3, (1, 0, 0)).values()) == {"train"}


def test_adding_images_moves_nobody() -> None:
    before = assign(RECORDS, 5)
    after = assign([record("new", "p007"), record("newer", "stranger"), *reversed(RECORDS)], 5)
    assert {image: after[image] for image in before} == before
    assert after["new"] == before["i007_0"]


def test_the_split_of_a_patient_never_changes_between_versions() -> None:
    assert [side(f"p{i}", 0) for i in range(8)] == [
        "train", "test", "train", "train", "train", "train", "train", "val",
    ]  # fmt: skip


def test_an_official_split_takes_the_whole_patient() -> None:
    records = [record("a", "p1", "test"), record("b", "p1"), record("c", "p2", "train")]
    assert assign(records, 0, (1, 0, 0)) == {"a": "test", "b": "test", "c": "train"}
    assert assign([record("d", "p1")], 0, (1, 0, 0), known={"p1": "val"}) == {"d": "val"}


def test_two_official_splits_are_refused() -> None:
    with pytest.raises(DataError, match=r"'p1'.*'train' and 'test'"):
        assign([record("a", "p1", "train"), record("b", "p1", "test")], 0)
    with pytest.raises(DataError, match="'validate' is none of"):
        assign([record("a", "p1", "validate")], 0)


def test_no_patient_and_bad_fractions_are_refused() -> None:
    with pytest.raises(DataError, match="image 'a' has no patient id"):
        assign([record("a", "")], 0)
    with pytest.raises(UsageError, match="sum to 1"):
        assign(RECORDS, 0, (0.7, 0.1, 0.1))


def test_verify_names_the_patient_and_both_images() -> None:
    a, b = record("a", "p1"), record("b", "p1")
    leak = manifest("one", [a, b], {"a": "train", "b": "test"})
    with pytest.raises(DataError, match=r"'p1'.*one/a is in 'train' and one/b in 'test'"):
        verify([leak])
    left = manifest("rsna", [a], {"a": "train"}, "nih")
    right = manifest("nih14", [b], {"b": "test"}, "nih")
    with pytest.raises(DataError, match="rsna/a is in 'train' and nih14/b in 'test'"):
        verify([left, right])
    verify([left, replace(right, namespace="")])  # the same id in two namespaces is two people
