"""RSNA Pneumonia Detection Challenge, stage 2, as downloaded from Kaggle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from bench.data.boxes import Drawn, parse_box
from bench.data.contract import CLEAR, LUNG_OPACITY, OPACITY, OTHER, Box, ImageRecord, Problem
from bench.data.dicom import Header, read_header
from bench.data.pixels import image_size
from bench.data.readers.files import CONVENTIONS, FileReader
from bench.data.tables import by_stem, column, listing, note, one_line, read_table, safe_id
from bench.errors import DataError
from bench.registry import register_dataset

IMAGES = "stage_2_train_images"
LABELS = "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
DOMAIN_OF = {"Lung Opacity": OPACITY, "Normal": CLEAR, "No Lung Opacity / Not Normal": OTHER}

#: Side of the challenge's own images: the frame of its boxes. PNG conversions are often smaller.
FRAME = 1024


@register_dataset("rsna")
class Rsna(FileReader):
    """Images with opacity boxes in three classes; "No Lung Opacity / Not Normal" is kept apart as ``other``.

    ``patientId`` in its tables names an image. Patients come from the mapping onto ChestX-ray14, so that one patient has one
    key in both datasets. Boxes are known for every image: of the other two classes, that there are none.

    The challenge has no lung masks. The user's own lie in a folder, one ``<patientId>.png`` an image: ``lung_masks=FOLDER``, with
    ``lung_convention=heart-excluded`` or ``heart-included``.
    """

    patient_namespace: ClassVar[str] = "nih"  # RSNA's images are images of ChestX-ray14
    policy = "attribution"
    planes = ("lung_mask",)
    help = (
        f"{IMAGES}/ (.dcm, .png or .jpg), {LABELS}, {CLASSES} and, for patients, {MAPPING}; options lung_masks=FOLDER of "
        "<patientId>.png with lung_convention"
    )
    MASK_OPTION = "lung_masks"
    mask_scaled = True  # masks of the challenge's frame go with smaller pictures
    decoding: ClassVar[tuple[str, ...]] = ("lung_convention",)
    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "missing": ("fail", "skip"), "mapping": (), "not_normal": ("other", "clear"), "lung_masks": (),
        "lung_convention": CONVENTIONS,
    }  # fmt: skip

    def records(self) -> tuple[list[ImageRecord], list[Problem], bool]:
        """See `Reader.records`."""
        self.require(f"{IMAGES}/", LABELS, CLASSES)
        files = by_stem(listing(self.root / IMAGES), (".dcm", ".png", ".jpg", ".jpeg"))
        kinds, problems = self._classes()
        drawn, targets, found = self._boxes(kinds)
        problems += found
        mapping, found = self._mapping()
        problems += found
        absent: list[tuple[str, str]] = []
        usable: dict[str, str] = {}
        for image, (kind, row) in kinds.items():
            if image in files:
                usable[image] = kind
                continue
            try:
                self.inside(f"{IMAGES}/{image}.dcm")
            except DataError as error:
                problems.append(Problem(row, str(error).removeprefix(f"{self.name}: ")))
            else:
                absent.append((row, f"{IMAGES}/{image}.dcm"))
        problems += self.absent(absent, CLASSES)
        problems += note(IMAGES, sorted(files[s] for s in files if s not in kinds), "without a row in the tables, ignored")
        problems += note(
            LABELS,
            [i for i in usable if (usable[i] == "Lung Opacity") != (targets.get(i) == "1")],
            "Target contradicts the class",
        )
        headers, found = self._headers(usable, files, drawn)
        problems += found
        frames = {
            image: (header.columns, header.rows) if files[image].lower().endswith(".dcm") else (FRAME, FRAME)
            for image, header in headers.items()
            if header.columns and header.rows
        }
        boxes, found = self.placed(drawn, frames, LABELS)
        problems += found
        masks, found = self.user_masks({image: image for image in headers})
        problems += found
        unmapped = [image for image in headers if image not in mapping]
        if mapping:
            problems += note(MAPPING, unmapped, "not in it, each counted as a patient of its own (leaky)")
        records = [
            self._record(
                i, usable[i], files[i], boxes=boxes.get(i, ()), header=header, origin=mapping.get(i, {}), mask=masks.get(i, ())
            )
            for i, header in headers.items()
        ]
        return records, problems, not mapping or bool(unmapped)

    def _record(
        self, image: str, kind: str, file: str, *, boxes: tuple[Box, ...], header: Header, origin: Mapping[str, str],
        mask: tuple[str, ...],
    ) -> ImageRecord:  # fmt: skip
        domain = DOMAIN_OF[kind]
        if domain == OTHER and self.option("not_normal") == "clear":
            domain = CLEAR  # asked for: the paper does not say which of the two classes its targets are
        nih = origin.get("nih_image", "")
        sx, sy = 1.0, 1.0
        if not file.lower().endswith(".dcm") and boxes:
            sx, sy = header.columns / FRAME, header.rows / FRAME
        return ImageRecord(
            image_id=safe_id(image),
            path=f"{IMAGES}/{file}",
            domain=domain,
            patient_id=nih[:8] if nih else image,
            view=header.view,
            sex=header.sex,
            age=header.age,
            findings={LUNG_OPACITY: float(domain == OPACITY)},
            boxes=tuple((x * sx, y * sy, w * sx, h * sy) for x, y, w, h in boxes),
            lung_mask=mask,
            extra={"class": kind, **origin},
        )

    def _classes(self) -> tuple[dict[str, tuple[str, str]], list[Problem]]:
        """Image -> (class, row); the table has one row a box, so images repeat."""
        table = read_table(self.root / CLASSES, ("patientId", "class"))
        kinds: dict[str, tuple[str, str]] = {}
        problems = []
        for number, (image, kind) in enumerate(
            zip(column(table, "patientId"), column(table, "class"), strict=True), start=2
        ):
            row = f"{CLASSES} row {number}"
            if kind not in DOMAIN_OF:
                problems.append(Problem(row, f"unknown class '{one_line(kind, 40)}'; known: {', '.join(DOMAIN_OF)}."))
            elif image not in kinds:
                kinds[image] = (kind, row)
            elif kinds[image][0] != kind:
                problems.append(
                    Problem(row, f"image {image} is '{kind}' here but '{kinds[image][0]}' in {kinds[image][1]}.")
                )
        return kinds, problems

    def _boxes(
        self, kinds: Mapping[str, tuple[str, str]]
    ) -> tuple[dict[str, list[Drawn]], dict[str, str], list[Problem]]:
        """Boxes and Target of each image."""
        table = read_table(self.root / LABELS, ("patientId", "x", "y", "width", "height", "Target"))
        drawn: dict[str, list[Drawn]] = {}
        first: dict[str, tuple[str, str]] = {}
        problems = []
        cells = [column(table, name) for name in ("patientId", "Target", "x", "y", "width", "height")]
        for number, (image, target, *box) in enumerate(zip(*cells, strict=True), start=2):
            row = f"{LABELS} row {number}"
            if image not in kinds:
                problems.append(Problem(row, f"image {image} has no row in {CLASSES}."))
            elif wrong := self._contradiction(target, box, first.setdefault(image, (target, row))):
                problems.append(Problem(row, f"image {one_line(image, 60)}: {wrong}"))
            elif target == "1":
                try:
                    drawn.setdefault(image, []).append(Drawn(row, parse_box(box)))
                except DataError as error:
                    problems.append(Problem(row, f"Target '1' with box {error}"))
        return drawn, {image: target for image, (target, _) in first.items()}, problems

    @staticmethod
    def _contradiction(target: str, box: list[str], first: tuple[str, str]) -> str:
        """How a row's Target contradicts its box or the image's first row, or an empty string."""
        if target not in ("0", "1"):
            return f"Target is '{one_line(target, 20)}'; 1 (with a box) or 0 (without) is needed."
        if target != first[0]:
            return f"Target is {target} here but {one_line(first[0], 20)} in {first[1]}."
        if target == "0" and any(box):
            return f"Target 0 (no opacity) with the box ({', '.join(one_line(cell, 20) for cell in box)})."
        if target == "1" and not any(box):
            return "Target 1 (opacity) without a box."
        return ""

    def _mapping(self) -> tuple[dict[str, dict[str, str]], list[Problem]]:
        path = Path(self.option("mapping")) if self.option("mapping") else self.root / MAPPING
        if not path.is_file():
            if self.option("mapping"):
                raise DataError(f"{self.name}: mapping={path} does not exist.")
            return {}, [
                Problem(
                    MAPPING,
                    "not there, so patients are unknown (patientId is an image id): splits are by image and leak. "
                    "Put the file of the challenge's page into the folder.",
                    fatal=False,
                )
            ]
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            return {
                str(row["subset_img_id"]): {
                    "nih_image": str(row["img_id"]),
                    "orig_labels": "|".join(map(str, row.get("orig_labels") or [])),
                }
                for row in rows
            }, []
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path} is not the challenge's mapping ({one_line(repr(error), 80)}). Download it again."
            ) from error

    def _headers(
        self, usable: Mapping[str, str], files: Mapping[str, str], boxes: Mapping[str, object]
    ) -> tuple[dict[str, Header], list[Problem]]:
        """Headers, unknown where unreadable. Of pictures only those with boxes are opened, for their size."""

        def read(image: str) -> Header | DataError:
            path = self.root / IMAGES / files[image]
            try:
                if path.suffix.lower() == ".dcm":
                    return read_header(path)
                rows, columns = image_size(path) if image in boxes else (0, 0)
                return Header("", "", None, rows, columns)
            except DataError as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            answers = dict(zip(usable, pool.map(read, usable, chunksize=64), strict=True))
        # Not fatal here: decoding meets the same file and decides, so that corrupt images can be left out on request.
        problems = [
            Problem(f"{IMAGES}/{files[i]}", str(a).removeprefix(f"{self.root / IMAGES / files[i]}: "), fatal=False)
            for i, a in answers.items()
            if isinstance(a, DataError)
        ]
        unknown = Header("", "", None, FRAME, FRAME)
        return {i: a if isinstance(a, Header) else unknown for i, a in answers.items()}, problems
