"""ChestX-ray14 of the NIH Clinical Center."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from bench.data.boxes import Drawn, parse_box
from bench.data.contract import CLEAR, FINDINGS, OPACITY, OPACITY_FINDINGS, OTHER, Box, ImageRecord, Problem
from bench.data.pixels import image_size
from bench.data.readers.files import CONVENTIONS, FileReader
from bench.data.tables import (
    check_splits,
    column,
    listing,
    note,
    one_line,
    parse_age,
    parse_sex,
    parse_view,
    read_table,
    safe_id,
)  # fmt: skip
from bench.errors import DataError
from bench.registry import register_dataset

NO_FINDING = "No Finding"


SPLIT_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
BOX_LIST = "BBox_List_2017.csv"

#: Boxes are given in this frame, whatever the size of the files at hand.
FRAME = 1024


@register_dataset("nih14")
class Nih14(FileReader):
    """Images with 14 text-mined findings; patients share their key with `rsna`.

    Opacity boxes are known for the few images of ``BBox_List_2017.csv`` that have some; the others were not looked at. Lung masks
    are the user's own, in a folder, one ``<image>.png`` an image: ``lung_masks=FOLDER``, with ``lung_convention``.
    """

    patient_namespace: ClassVar[str] = "nih"  # RSNA's images are images of ChestX-ray14
    policy = "attribution"
    trains_prior = True
    planes = ("lung_mask",)
    help = (
        "Data_Entry_2017*.csv and images/ (or images_001/images/ to images_012/images/); options lung_masks=FOLDER of <image>.png "
        "with lung_convention"
    )
    MASK_OPTION = "lung_masks"
    mask_scaled = True  # masks of the published size go with smaller copies
    decoding: ClassVar[tuple[str, ...]] = ("lung_convention",)
    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "missing": ("fail", "skip"), "lung_masks": (), "lung_convention": CONVENTIONS,
    }  # fmt: skip

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        """See `Reader.records`."""
        tables = sorted(self.root.glob("Data_Entry_2017*.csv"), reverse=True)  # _v2020 before the older copy
        folders = [f for f in (self.root, *sorted(self.root.glob("images*"))) if f.is_dir()]
        folders += [f / "images" for f in folders if (f / "images").is_dir() and f != self.root]
        files = {name: f / name for f in folders for name in listing(f) if name.lower().endswith((".png", ".jpg", ".jpeg"))}
        lacking = [] if tables else ["Data_Entry_2017_v2020.csv"]
        lacking += [] if files else ["images/*.png"]
        if lacking:
            raise DataError(f"nih14: {self.root} lacks {', '.join(lacking)}. The folder must hold {self.help}.")
        table = read_table(tables[0], ("Image Index", "Finding Labels", "Patient ID"))
        name_of_table = tables[0].name
        splits, problems = self._splits()
        boxes, found = self._boxes(files)
        problems += found
        sex_column = "Patient Gender" if "Patient Gender" in table.columns else "Patient Sex"
        names = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", sex_column, "View Position", "Follow-up #")
        records: dict[str, ImageRecord] = {}
        absent: list[tuple[str, str]] = []
        rows = zip(*(column(table, name) for name in names), strict=True)
        for number, (image, labels, patient, age, sex, view, follow_up) in enumerate(rows, start=2):
            row = f"{name_of_table} row {number}"
            if image in records:
                problems.append(Problem(row, f"repeats image {image}."))
                continue
            problem = self._wrong(image, labels, patient, image in files)
            if problem:
                problems.append(Problem(row, problem))
                continue
            if image not in files:
                absent.append((row, image))
                continue
            present = set(labels.split("|"))
            domain = CLEAR if present == {NO_FINDING} else OPACITY if present & OPACITY_FINDINGS else OTHER
            records[image] = ImageRecord(
                image_id=safe_id(image.rsplit(".", 1)[0]),
                path=files[image].relative_to(self.root).as_posix(),
                domain=domain,
                patient_id=f"{int(patient):08d}",
                view=parse_view(view),
                sex=parse_sex(sex),
                age=parse_age(age),
                split=splits.get(image, ""),
                findings={name: float(name in present) for name in FINDINGS},
                boxes=boxes.get(image),
                extra={"follow_up": follow_up} if follow_up else {},
            )
        problems += self.absent(absent, name_of_table)
        masks, found = self.user_masks({image: image.rsplit(".", 1)[0] for image in records})
        problems += found
        kept = [replace(record, lung_mask=masks.get(image, ())) for image, record in records.items()]
        problems += note(
            "images", sorted(set(files) - set(column(table, "Image Index"))), "without a row in the table, ignored"
        )
        problems += check_splits(kept, " and ".join(SPLIT_LISTS))
        return kept, problems, False

    def _wrong(self, image: str, labels: str, patient: str, there: bool) -> str:
        """What is wrong with a row, or an empty string."""
        if not there:
            try:
                self.inside(f"images/{image}")
            except DataError as error:
                return str(error).removeprefix("nih14: ")
        if not patient.isdecimal():
            return f"image {image} has the patient '{one_line(patient, 30)}'; a number is needed."
        strange = sorted(set(labels.split("|")) - {*FINDINGS, NO_FINDING})
        if strange:
            return f"image {image} has the unknown finding '{one_line(strange[0], 40)}'."
        if NO_FINDING in labels.split("|") and labels != NO_FINDING:
            return f"image {image} has '{NO_FINDING}' and findings."
        return ""

    def _splits(self) -> tuple[dict[str, str], list[Problem]]:
        splits: dict[str, str] = {}
        problems = []
        for file, split in SPLIT_LISTS.items():
            path = self.root / file
            for name in path.read_text(encoding="utf-8").split() if path.is_file() else []:
                if splits.get(name, split) != split:
                    problems.append(Problem(file, f"image {name} is also in the other list."))
                splits[name] = split
        return splits, problems

    def _boxes(self, files: Mapping[str, Path]) -> tuple[dict[str, tuple[Box, ...]], list[Problem]]:
        """Opacity boxes in native pixels; images that are not listed were not looked at."""
        path = self.root / BOX_LIST
        if not path.is_file():
            return {}, []
        table = read_table(path)
        # Its header splits on the commas inside "Bbox [x,y,w,h]", so columns are taken by position.
        if table.shape[1] < 6 or "Image Index" not in table.columns:
            return {}, [Problem(BOX_LIST, "does not have the columns Image Index, Finding Label, Bbox [x, y, w, h].")]
        drawn: dict[str, list[Drawn]] = {}
        problems = []
        for number, row in enumerate(table.iloc[:, :6].itertuples(index=False), start=2):
            image, label = str(row[0]), {"Infiltrate": "Infiltration"}.get(str(row[1]), str(row[1]))
            where = f"{BOX_LIST} row {number}"
            try:
                box = Drawn(where, parse_box([str(cell) for cell in row[2:6]]))
            except DataError as error:
                problems.append(Problem(where, str(error)))
                continue
            if label in OPACITY_FINDINGS and image in files:
                drawn.setdefault(image, []).append(box)
        boxes, found = self.placed(drawn, dict.fromkeys(drawn, (FRAME, FRAME)), BOX_LIST)
        problems += found
        scaled = {}
        for image, own in boxes.items():
            try:
                height, width = image_size(files[image])
            except DataError:
                continue  # decoding will name the file
            sx, sy = width / FRAME, height / FRAME
            scaled[image] = tuple((x * sx, y * sy, w * sx, h * sy) for x, y, w, h in own)
        return scaled, problems
