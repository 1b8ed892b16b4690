"""MIMIC-CXR-JPG 2.x with a list of ARDS cases of the user's own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd

from bench.data.contract import CLEAR, OPACITY, ImageRecord, Problem
from bench.data.readers.files import CONVENTIONS, ELSEWHERE, FileReader
from bench.data.tables import check_splits, column, note, one_line, parse_float, parse_view, read_table, safe_id
from bench.errors import DataError
from bench.registry import register_dataset

#: Its findings by our names; the others have no counterpart among ours.
NAME_OF = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Consolidation": "Consolidation", "Edema": "Edema",
    "Lung Opacity": "Lung_Opacity", "Pleural Effusion": "Effusion", "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax",
}  # fmt: skip
POLICIES = ("ignore", "u-zeros", "u-ones", "blank-as-negative-if-no-finding")
SPLITS = ("train", "val", "test")
KEPT = ("severity", "reader", "source", "note")


@dataclass(frozen=True)
class _Image:
    """A row of the metadata table."""

    dicom: str
    subject: str
    study: str
    view: str
    posture: str


@register_dataset("mimic")
class Mimic(FileReader):
    """Frontal images named by the user's list: ARDS is ``opacity``, control is ``clear``. Credentialed.

    Uncertain findings (-1) and findings not mentioned are unknown, unless the option ``uncertain`` says otherwise. Lung masks
    are the user's own (column ``lung_mask`` of the list, relative to the dataset's folder or to the one that the option ``masks``
    names), and whether they count the lung behind the heart must be declared (option ``lung_convention``).
    """

    version = 2
    policy = "credentialed"
    MASK_OPTION = "masks"
    mask_scaled = True
    decoding: ClassVar[tuple[str, ...]] = ("lung_convention",)
    planes = ("lung_mask",)
    help = "files/p10/..., mimic-cxr-2.0.0-metadata.csv[.gz] and ards_list.csv (dicom_id, ards; or option ards=PATH)"
    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "ards": (), "masks": (), "uncertain": POLICIES, "lung_convention": CONVENTIONS,
    }  # fmt: skip

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        """See `Reader.records`."""
        metadata, split, chexpert = (self._table(kind) for kind in ("metadata", "split", "chexpert"))
        listed = Path(self.option("ards")) if self.option("ards") else self.root / "ards_list.csv"
        lacking = [] if metadata else ["mimic-cxr-2.0.0-metadata.csv.gz"]
        lacking += [] if listed.is_file() else [f"the ARDS list {listed} (columns dicom_id, ards; option ards=PATH)"]
        if lacking or metadata is None:
            raise DataError(f"mimic: {self.root} lacks {', '.join(lacking)}. The folder must hold {self.help}.")
        rows = read_table(listed, ("ards",))
        if not {"dicom_id", "study_id"} & set(rows.columns):
            raise DataError(f"{listed} lacks the column dicom_id (or study_id).")
        problems = [
            Problem(f"mimic-cxr-2.0.0-{kind}.csv.gz", f"not there; {lost} stay unknown.", fatal=False)
            for kind, path, lost in (("split", split, "official splits"), ("chexpert", chexpert, "findings"))
            if path is None
        ]
        images = self._metadata(metadata)
        official = self._pairs(split, "dicom_id", "split")
        findings = self._findings(chexpert, {image.study for image in images.values()})
        records, found = self._records(rows, listed.name, images, official, findings)
        problems += found + self._cohort(records, listed.name)
        return records, problems, False

    def _records(
        self, rows: pd.DataFrame, file: str, images: Mapping[str, _Image], official: Mapping[str, str],
        findings: Mapping[str, Mapping[str, float]],
    ) -> tuple[list[ImageRecord], list[Problem]]:  # fmt: skip
        frontal: dict[str, list[_Image]] = defaultdict(list)
        for image in images.values():
            if image.view:
                frontal[image.study].append(image)
        records: dict[str, ImageRecord] = {}
        problems: list[Problem] = []
        lateral: list[str] = []
        names = ("dicom_id", "subject_id", "study_id", "ards", "split", "lung_mask")
        for number, cells in enumerate(zip(*(column(rows, name) for name in names), strict=True), start=2):
            dicom, _, study, ards, split, mask = cells
            row = f"{file} row {number}"
            chosen = [images[dicom]] if dicom in images else frontal.get(study, []) if not dicom else []
            wrong = self._wrong(cells, chosen)
            if wrong:
                problems.append(Problem(row, wrong))
                continue
            for image in chosen:
                if not image.view:
                    lateral.append(image.dicom)
                    continue
                if image.dicom in records:
                    problems.append(Problem(row, f"image {image.dicom} is listed twice."))
                    continue
                try:
                    path = self._file(image)
                    masks = (self._mask_file(mask),) if mask else ()
                except DataError as error:
                    problems.append(Problem(row, str(error).removeprefix("mimic: ")))
                    continue
                extra = {key: value for key in KEPT if (value := column(rows, key)[number - 2])}
                ill = parse_float(ards) == 1.0
                extra |= {"class": "ARDS" if ill else "control"}
                extra |= {"posture": image.posture} if image.posture else {}
                records[image.dicom] = ImageRecord(
                    image_id=safe_id(image.dicom), path=path, domain=OPACITY if ill else CLEAR,
                    patient_id=image.subject, study_id=image.study, view=image.view, split=split,
                    findings=findings.get(image.study), lung_mask=masks, extra=extra,
                )  # fmt: skip
        problems += note(file, lateral, "neither AP nor PA, left out")
        if not any(record.split for record in records.values()):  # the list's own split wins over the official one
            side = {"train": "train", "validate": "val", "test": "test"}
            records = {k: replace(r, split=side.get(official.get(k, ""), "")) for k, r in records.items()}
        return list(records.values()), problems

    @staticmethod
    def _wrong(cells: tuple[str, ...], chosen: list[_Image]) -> str:
        """What is wrong with a row of the list, or an empty string."""
        dicom, subject, study, ards, split, _ = cells
        known = chosen[0] if chosen else _Image(dicom, subject, study, "", "")
        checks = (
            (not dicom and not study, "has neither dicom_id nor study_id."),
            (dicom and not chosen, f"dicom_id {one_line(dicom, 60)} is not in the metadata table."),
            (not chosen, f"study_id {one_line(study, 60)} has no AP or PA image in the metadata table."),
            (parse_float(ards) not in (0.0, 1.0), f"ards is '{one_line(ards, 20)}'; 1 (ARDS) or 0 (control) is needed."),
            (split not in ("", *SPLITS), f"split is '{one_line(split, 20)}'; {', '.join(SPLITS)} or nothing is needed."),
            (subject not in ("", known.subject), f"subject_id {one_line(subject, 30)} is {known.subject} in the metadata."),
            (study not in ("", known.study), f"study_id {one_line(study, 30)} is {known.study} in the metadata."),
        )
        return next((what for wrong, what in checks if wrong), "")

    def _cohort(self, records: list[ImageRecord], file: str) -> list[Problem]:
        """Problems of the list as a whole."""
        problems = check_splits(records, file)
        domains = {record.domain for record in records}
        if records and len(domains) == 1:
            kind, value = ("control", 0) if domains == {OPACITY} else ("ARDS", 1)
            problems.append(Problem(file, f"holds no usable {kind} image (ards = {value}); both kinds are needed."))
        proxies = [r.image_id for r in records if "proxy" in r.extra.get("source", "").lower()]
        problems += note(file, proxies, "from a proxy of ARDS, so results must be labelled ards-proxy")
        if any(r.lung_mask for r in records) and not self.lung_convention:
            what = (
                f"names lung masks, which need the option lung_convention={' or '.join(CONVENTIONS)}: it says whether they count the "
                "lung behind the heart."
            )
            problems.append(Problem(file, what))
        return problems

    def _table(self, kind: str) -> Path | None:
        """A table of the release; 2.1.0 kept the names of 2.0.0, and users unpack them or not."""
        found = sorted(self.root.glob(f"mimic-cxr-2.*-{kind}.csv")) + sorted(self.root.glob(f"mimic-cxr-2.*-{kind}.csv.gz"))
        return found[0] if found else None

    def _metadata(self, path: Path) -> dict[str, _Image]:
        table = read_table(path, ("dicom_id", "subject_id", "study_id", "ViewPosition"))
        names = (
            "dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning",
            "PatientOrientationCodeSequence_CodeMeaning",
        )  # fmt: skip
        return {
            dicom: _Image(dicom, subject, study, parse_view(view or meaning), posture)
            for dicom, subject, study, view, meaning, posture in zip(*(column(table, n) for n in names), strict=True)
        }

    @staticmethod
    def _pairs(path: Path | None, key: str, value: str) -> dict[str, str]:
        if path is None:
            return {}
        table = read_table(path, (key, value))
        return dict(zip(column(table, key), column(table, value), strict=True))

    def _findings(self, path: Path | None, studies: set[str]) -> dict[str, dict[str, float]]:
        """Study -> findings; a lateral's study counts for its frontal image too."""
        if path is None:
            return {}
        table = read_table(path, ("study_id", *NAME_OF))
        no_finding = column(table, "No Finding")
        return {
            study: dict(self._labels({name: column(table, name)[i] for name in NAME_OF}, parse_float(no_finding[i]) == 1.0))
            for i, study in enumerate(column(table, "study_id"))
            if study in studies
        }

    def _labels(self, cells: Mapping[str, str], normal: bool) -> Iterator[tuple[str, float]]:
        policy = self.option("uncertain", "ignore")
        for name, cell in cells.items():
            value = parse_float(cell) if cell else None
            if value in (0.0, 1.0):
                yield NAME_OF[name], float(value or 0.0)
            elif value == -1.0 and policy in ("u-zeros", "u-ones"):
                yield NAME_OF[name], float(policy == "u-ones")
            elif value is None and normal and policy == "blank-as-negative-if-no-finding":
                yield NAME_OF[name], 0.0

    def _file(self, image: _Image) -> str:
        """Path of an image; resized mirrors of the tree keep its names."""
        if not (image.subject.isdecimal() and image.study.isdecimal() and re.fullmatch(r"[\w.-]+", image.dicom)):
            raise DataError(f"image {one_line(image.dicom, 60)} has ids in the metadata table that are no file names.")
        stem = f"files/p{image.subject[:2]}/p{image.subject}/s{image.study}/{image.dicom}"
        for suffix in (".jpg", ".png", ".jpeg"):
            if (self.root / (stem + suffix)).is_file():
                return stem + suffix
        raise DataError(f"names {stem}.jpg, which does not exist.")

    def _mask_file(self, mask: str) -> str:
        named = mask if self.mask_root is None else ELSEWHERE + mask
        if not self.inside(named).is_file():
            raise DataError(f"names the mask {mask}, which does not exist{f' in {self.mask_root}' * bool(self.mask_root)}.")
        return named
