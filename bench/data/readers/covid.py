"""COVID-19 images of the covid-chestxray collection with the lung masks of V7 Labs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from bench.data.contract import CLEAR, OPACITY, OTHER, ImageRecord, Problem
from bench.data.masks import WITH_UNDECIDED, read_mask
from bench.data.readers.files import FileReader
from bench.data.tables import by_stem, column, listing, note, one_line, parse_age, parse_sex, parse_view, read_table, safe_id
from bench.errors import DataError
from bench.registry import register_dataset

MASKS = ("lung_masks", "semantic_masks_v7labs_lungs", "annotations/semantic_masks_v7labs_lungs", "annotations/lungs")
OPAQUE = ("PNEUMONIA", "COVID", "ARDS", "SARS", "MERS")


@register_dataset("covid")
class Covid(FileReader):
    """Pneumonia of COVID-19 and relatives with lungs drawn by people, the heart included; undecided pixels count nowhere."""

    # Every image has its own licence, some of them non-commercial.
    policy = "no-redistribution"
    version = 2
    lung_convention = "heart-included"
    mask_values = WITH_UNDECIDED
    planes = ("lung_mask",)
    help = "images/, metadata.csv (filename, finding, patientid) and lung_masks/ or semantic_masks_v7labs_lungs/"
    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"missing": ("fail", "skip")}

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        """See `Reader.records`."""
        self.require("images/", "metadata.csv")
        # Commits of the collection differ in case, and one has a column " url".
        table = read_table(self.root / "metadata.csv", ("filename", "finding"), lower=True)
        folder = next((name for name in MASKS if (self.root / name).is_dir()), "")
        names = listing(self.root / folder) if folder else []
        # Mask names repeat the image's, but converted files changed the suffix of one or the other.
        exact, stems = set(names), by_stem(names)
        files = set(listing(self.root / "images"))
        stem_count = Counter(name.rsplit(".", 1)[0] for name in files)
        keys = ("filename", "finding", "patientid", "view", "modality", "folder", "sex", "age")
        found: dict[str, ImageRecord] = {}
        problems: list[Problem] = []
        absent: list[tuple[str, str]] = []
        skipped: list[str] = []
        for number, cells in enumerate(zip(*(column(table, key) for key in keys), strict=True), start=2):
            file, finding, patient, view, modality, where, sex, age = cells
            row = f"metadata.csv row {number}"
            if where not in ("", "images") or modality.lower() not in ("", "x-ray") or (view and not parse_view(view)):
                skipped.append(file)
                continue
            if file in found:
                continue  # a case's images are listed again for every visit of some sources
            if file not in files:
                try:
                    self.inside(f"images/{file}")
                except DataError as error:
                    problems.append(Problem(row, str(error).removeprefix("covid: ")))
                else:
                    absent.append((row, f"images/{one_line(file, 80)}"))
                continue
            stem = file.rsplit(".", 1)[0]
            mask = file if file in exact else stems.get(stem, "")
            found[file] = ImageRecord(
                # the suffix stays part of the id where two files differ in nothing else
                image_id=safe_id(stem if stem_count[stem] == 1 else file),
                path=f"images/{file}",
                domain=self._domain(finding),
                patient_id=patient or stem,
                view=parse_view(view),
                sex=parse_sex(sex),
                age=parse_age(age.removesuffix(".0")),
                findings=self._findings(finding),
                lung_mask=(f"{folder}/{mask}",) if mask else (),
                extra={"class": finding, **({"view": view} if view else {}), **({} if patient else {"patient": "unknown"})},
            )
        problems += self.absent(absent, "metadata.csv")
        problems += note("metadata.csv", skipped, "CT or neither AP nor PA, left out")
        problems += note("images", sorted(files - set(column(table, "filename"))), "without a row in metadata.csv, ignored")
        records, unmasked = self._with_lungs(list(found.values()))
        problems += unmasked
        if folder:
            problems += note(folder, [r.image_id for r in records if not r.lung_mask], "without a lung mask")
        unknown = [r.image_id for r in records if "patient" in r.extra]
        problems += note("metadata.csv", unknown, "without a patientid, each counted as a patient of its own (leaky)")
        return records, problems, bool(unknown)

    def _with_lungs(self, records: list[ImageRecord]) -> tuple[list[ImageRecord], list[Problem]]:
        """Leave out images whose mask is empty: lateral views and CT slices that the metadata do not mark.

        Where every mask is empty the masks are at fault, not the images, which then stay.
        """

        def empty(record: ImageRecord) -> bool:
            try:
                return bool(record.lung_mask) and not read_mask(self.root / record.lung_mask[0]).any()
            except DataError:
                return False  # kept, so that decoding names the file

        with ThreadPoolExecutor(2) as pool:
            blank = list(pool.map(empty, records))
        if all(without for record, without in zip(records, blank, strict=True) if record.lung_mask):
            return records, []
        left_out = [record.image_id for record, without in zip(records, blank, strict=True) if without]
        kept = [record for record, without in zip(records, blank, strict=True) if not without]
        return kept, note("lung masks", left_out, "empty lung mask (not frontal), left out")

    @staticmethod
    def _domain(finding: str) -> str:
        if any(word in finding.upper() for word in OPAQUE):
            return OPACITY
        return CLEAR if finding.lower() == "no finding" else OTHER

    @staticmethod
    def _findings(finding: str) -> dict[str, float] | None:
        """Pneumonia where the text says so; most rows name only the cause, which is no radiographic finding."""
        if finding.lower() == "no finding":
            return {"Pneumonia": 0.0}
        return {"Pneumonia": 1.0} if "pneumonia" in finding.lower() else None
