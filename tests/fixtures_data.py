"""Tiny datasets in the exact published layouts, drawn at test time. Each ``make_*`` fills a folder and returns it."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from bench.data.check import Report, inspect
from bench.data.contract import ImageRecord, Reader
from bench.registry import DATASETS

RSNA_CLASSES = ("Lung Opacity", "Normal", "No Lung Opacity / Not Normal")


def chest(seed: int, size: int = 64, opaque: bool = False, top: int = 255) -> npt.NDArray[Any]:
    """Something with the polarity of a chest radiograph: dark corners and lungs, bright spine; values up to `top`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    image = np.where((x / 0.46) ** 2 + (y / 0.55) ** 2 < 1, 0.65, 0.05)
    image = np.where(np.abs(x) < 0.07, 0.9, image)
    image[lungs(size)] = 0.25
    if opaque:
        cx, cy, r = 0.23 * rng.choice([-1, 1]), rng.uniform(-0.1, 0.15), rng.uniform(0.08, 0.12)
        image += 0.45 * np.exp(-(((x - cx) / r) ** 2 + ((y - cy) / r) ** 2))
    image = np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1)
    return np.round(image * top).astype(np.uint8 if top < 256 else np.uint16)


def lungs(size: int = 64, side: str = "both") -> npt.NDArray[np.bool_]:
    """The lungs of `chest`; ``left`` is the patient's left, on the right of the image."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    ellipse = ((np.abs(x) - 0.23) / 0.14) ** 2 + (y / 0.33) ** 2 < 1
    chosen: npt.NDArray[np.bool_] = ellipse & {"both": abs(x) < 1, "left": x > 0, "right": x < 0}[side]
    return chosen


def save_png(path: Path, pixels: npt.NDArray[Any]) -> None:
    """Write a PNG whatever the name says; uint16 becomes a 16-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a csv file, gzipped where the name ends so."""
    lines = [",".join(header)]
    for row in rows:
        cells = ["" if cell is None else str(cell) for cell in row]
        lines.append(",".join(f'"{c}"' if "," in c else c for c in cells))
    data = ("\n".join(lines) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def edit_csv(path: Path, change: Any) -> None:
    """Rewrite a csv file: `change` gets its rows (lists, header first) and returns the new ones."""
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    rows = change(rows)
    write_csv(path, rows[0], rows[1:])


def write_dicom(
    path: Path,
    stored: npt.NDArray[Any] | None,
    syntax: str = "raw",
    bits: int | None = None,
    photometric: str = "MONOCHROME2",
    **tags: Any,
) -> Path:
    """Write a DICOM file of stored values.

    Args:
        path: the file.
        stored: HxW or HxWx3, signed or not; None leaves the pixels out.
        syntax: ``raw``, ``jpeg`` (baseline), ``jpeg2000``, ``rle``, ``lossless`` or ``extended`` (12-bit JPEG).
        bits: BitsStored; by default all bits of the type.
        photometric: photometric interpretation.
        **tags: other elements by keyword.
    """
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CR", path.stem[:60], path.stem[:60]
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if stored is not None:
        dataset.Rows, dataset.Columns = stored.shape[:2]
        dataset.SamplesPerPixel = 3 if stored.ndim == 3 else 1
        dataset.PhotometricInterpretation = photometric
        if stored.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = stored.dtype.itemsize * 8
        dataset.BitsStored = bits or dataset.BitsAllocated
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(stored.dtype.kind == "i")
        data = np.ascontiguousarray(stored).tobytes()
        dataset.add_new("PixelData", "OW" if stored.dtype.itemsize == 2 else "OB", data + b"\0" * (len(data) % 2))
    for name, value in tags.items():
        setattr(dataset, name, value)
    if stored is not None and syntax == "jpeg":
        buffer = BytesIO()
        Image.fromarray(stored).save(buffer, format="JPEG", quality=95)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    elif syntax in ("jpeg2000", "rle"):
        dataset.compress(JPEG2000Lossless if syntax == "jpeg2000" else RLELossless, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    if syntax in ("lossless", "extended"):
        _transcode(path, syntax)
    return path


def _transcode(path: Path, syntax: str) -> None:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    kinds = {"lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1, "extended": gdcm.TransferSyntax.JPEGExtendedProcess2_4}
    change.SetTransferSyntax(gdcm.TransferSyntax(kinds[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetFileName(str(path))
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def rsna_id(number: int) -> str:
    """Id of the n-th image of `make_rsna`."""
    return f"{number:08x}-0000-4000-8000-{number:012x}"


def make_rsna(
    root: Path,
    images: int = 18,
    patients: int = 9,
    size: int = 64,
    *,
    suffix: str = ".dcm",
    syntax: str = "jpeg",
    mapping: bool = True,
    classes: Sequence[str] = RSNA_CLASSES,
) -> Path:
    """Stage 2: image i has class i modulo 3 and patient i modulo `patients`; every second positive has two boxes.

    Boxes are in pixels of the DICOM files, or in the challenge's frame of 1024 for pictures (`suffix` .png or .jpg).
    """
    labels: list[list[object]] = []
    kinds: list[list[object]] = []
    origins = []
    scale = 1.0 if suffix == ".dcm" else 1024 / size
    for i in range(images):
        name, kind = rsna_id(i), classes[i % len(classes)]
        pixels = chest(i, size, opaque=kind == "Lung Opacity")
        path = root / "stage_2_train_images" / f"{name}{suffix}"
        if suffix == ".dcm":
            view, sex = ("AP", "M") if i % 2 else ("PA", "F")
            # A bare number is what the challenge's files hold, though the standard asks for "050Y".
            write_dicom(path, pixels, syntax, ViewPosition=view, PatientSex=sex, PatientAge=str(30 + i))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        boxes = 0 if kind != "Lung Opacity" else 1 + (i // 3) % 2
        for b in range(max(boxes, 1)):
            box = [v * scale * size / 64 for v in (8.0 + 24 * b, 20.0, 16.0, 20.0)] if boxes else [None] * 4
            labels.append([name, *box, int(boxes > 0)])
            kinds.append([name, kind])
        origin = f"{(i % patients) + 1:08d}_{i:03d}.png"
        origins.append({"subset_img_id": name, "img_id": origin, "subset_init_label": kind, "orig_labels": ["Infiltration"]})
    write_csv(root / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"), labels)
    write_csv(root / "stage_2_detailed_class_info.csv", ("patientId", "class"), kinds)
    if mapping:
        (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(origins))
    return root


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def make_nih14(
    root: Path,
    images: int = 18,
    patients: int = 9,
    size: int = 64,
    *,
    old: bool = False,
    lists: bool = False,
    boxes: bool = False,
) -> Path:
    """ChestX-ray14: labels cycle through opacity, clear and other.

    Args:
        root: folder to fill.
        images, patients, size: how many, and how large.
        old: the 2017 table (ages like ``058Y``, a comma at the end of every line) and the folders of the Kaggle mirror.
        lists: write the official lists; patients 1 and 2 are tested.
        boxes: write ``BBox_List_2017.csv`` with one box in the first image.
    """
    labels = ("Effusion|Infiltration", "No Finding", "Cardiomegaly")
    lines, split = [NIH_HEADER + "," * old], {"train_val_list.txt": "", "test_list.txt": ""}
    for i in range(images):
        patient = i % patients + 1
        name = f"{patient:08d}_{i:03d}.png"
        folder = root / f"images_{1 + i % 2:03d}" / "images" if old else root / "images"
        save_png(folder / name, chest(i, size, opaque=i % 3 == 0))
        age = f"{20 + i:03d}Y" if old else str(20 + i)
        view, sex = ("AP", "M") if i % 2 else ("PA", "F")
        lines.append(f"{name},{labels[i % 3]},{i},{patient},{age},{sex},{view},2500,2048,0.168,0.168" + "," * old)
        split["test_list.txt" if patient <= 2 else "train_val_list.txt"] += f"{name}\n"
    table = "Data_Entry_2017.csv" if old else "Data_Entry_2017_v2020.csv"
    (root / table).write_text("\n".join(lines) + "\n")
    if lists:
        for file, text in split.items():
            (root / file).write_text(text)
    if boxes:
        text = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Infiltrate,512.0,256.0,128.0,256.0,,,\n"
        (root / "BBox_List_2017.csv").write_text(text + "00000001_000.png,Nodule,10.0,10.0,20.0,20.0,,,\n")
    return root


MIMIC_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip


def make_mimic(root: Path, images: int = 12, size: int = 64, packed: bool = True, masks: bool = False) -> Path:
    """MIMIC-CXR-JPG 2.x: one patient an image, every second with ARDS; each study also has a lateral that is not listed.

    The first study's labels: Edema 1, Pneumonia -1 (uncertain), Pneumothorax 0, the rest blank.
    """
    metadata: list[list[object]] = []
    split: list[list[object]] = []
    chexpert: list[list[object]] = []
    listed: list[list[object]] = []
    for i in range(images):
        subject, study, ards = 10000032 + i, 50414267 + i, i % 2 == 0
        for view in ("AP" if ards else "PA", "LATERAL"):
            dicom = f"{i:08x}-{'aaaa' if view == 'LATERAL' else 'ffff'}"
            path = root / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(chest(i, size, opaque=ards)[: size - 4]).save(path, quality=95)
            metadata.append([dicom, subject, study, "CHEST", view, size - 4, size, 21800101, 120000, "", "", "Recumbent"])
            split.append([dicom, study, subject, "train"])
            if view != "LATERAL":
                mask = f"masks/{dicom}.png" if masks else ""
                if masks:
                    save_png(root / mask, (lungs(size)[: size - 4] * 255).astype(np.uint8))
                listed.append([dicom, subject, study, int(ards), "", "severe" if ards else "", mask, "physician"])
        values = {"Edema": 1.0, "Pneumonia": -1.0, "Pneumothorax": 0.0} if ards else {"No Finding": 1.0}
        chexpert.append([subject, study, *(values.get(name) for name in MIMIC_FINDINGS)])
    end = ".csv.gz" if packed else ".csv"
    columns = (
        "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
        "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
        "PatientOrientationCodeSequence_CodeMeaning",
    )  # fmt: skip
    write_csv(root / f"mimic-cxr-2.0.0-metadata{end}", columns, metadata)
    write_csv(root / f"mimic-cxr-2.0.0-split{end}", ("dicom_id", "study_id", "subject_id", "split"), split)
    write_csv(root / f"mimic-cxr-2.0.0-chexpert{end}", ("subject_id", "study_id", *MIMIC_FINDINGS), chexpert)
    names = ("dicom_id", "subject_id", "study_id", "ards", "split", "severity", "lung_mask", "source")
    write_csv(root / "ards_list.csv", names, listed)
    return root


def make_jsrt(
    root: Path, images: int = 12, raw: int = 1, size: int = 128, *, masks: bool = True, spaces: bool = True
) -> Path:
    """JSRT with SCR masks: even numbers are JPCNN (no nodule), odd ones JPCLN.

    Args:
        root: folder to fill.
        images: how many.
        raw: the first so many as ``.IMG`` of the exact size (8 MB each); the others are 8-bit PNG of `size`.
        size: side of the PNGs and of the masks.
        masks: draw SCR masks, as GIF, odd numbers in fold1.
        spaces: name their folders ``left lung`` rather than ``left_lung``.
    """
    for i in range(images):
        stem = f"JPC{'LN' if i % 2 else 'NN'}{i // 2 + 1:03d}"
        if i < raw:
            small = chest(i, size, top=4095)
            film = (4095 - np.kron(small, np.ones((2048 // size, 2048 // size), np.uint16))).astype(">u2")
            (root / "images").mkdir(parents=True, exist_ok=True)
            (root / "images" / f"{stem}.IMG").write_bytes(film.tobytes())
        else:
            save_png(root / "images" / f"{stem}.png", chest(i, size))
        for side in ("left", "right") if masks else ():
            folder = root / "scratch" / f"fold{1 + i % 2}" / "masks" / (f"{side} lung" if spaces else f"{side}_lung")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((lungs(size, side) * 255).astype(np.uint8)).save(folder / f"{stem}.gif")
        if masks:
            heart = root / "scratch" / f"fold{1 + i % 2}" / "masks" / "heart"
            heart.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((size, size), np.uint8)).save(heart / f"{stem}.gif")
    # tabs and CR-only line ends, as published
    nodules = [
        f"JPCLN{n:03d}.IMG\t3\t15\t53\tFemale\t1634\t692\tmalignant\tl.upper\tlobe\tlung\tcancer"
        for n in range(1, images // 2 + 1)
    ]
    (root / "CLNDAT_EN.txt").write_bytes("\r".join(nodules).encode())
    healthy = [f"JPCNN{n:03d}.IMG   {40 + n}   Male  non-nodule" for n in range(1, (images + 1) // 2 + 1)]
    (root / "CNNDAT_EN.TXT").write_text("\n".join(healthy))
    return root


def make_covid(root: Path, images: int = 12, patients: int = 6, size: int = 64, original: bool = False) -> Path:
    """COVID images with masks of 0, 127 (one column) and 255.

    With `original` the collection's own layout: masks in ``semantic_masks_v7labs_lungs`` as PNG data under ``.jpg`` names,
    more columns, and besides a CT slice, a lateral view and a healthy image.
    """
    rows: list[list[object]] = []
    for i in range(images):
        name = f"case-{i:02d}" + (".jpg" if original else ".png")
        save_png(root / "images" / name, chest(i, size, opaque=True)[:, : size - 4])
        mask = (lungs(size)[:, : size - 4] * 255).astype(np.uint8)
        mask[:, 0] = 127
        save_png(root / ("semantic_masks_v7labs_lungs" if original else "lung_masks") / name, mask)
        finding = ("No Finding" if i == 0 else "Pneumonia/Viral/COVID-19") if original else "COVID-19"
        rows.append([i % patients, name, finding, ("PA", "AP Supine")[i % 2], "X-ray", "images", "M", 60, "doi"])
    if not original:
        write_csv(root / "metadata.csv", ("patientid", "filename", "finding"), [r[:3] for r in rows])
        return root
    for name, view, modality, folder in (("ct.jpg", "Axial", "CT", "images"), ("side.jpg", "L", "X-ray", "images")):
        save_png(root / folder / name, chest(99, size))
        rows.append([77, name, "Pneumonia/Viral/COVID-19", view, modality, folder, "F", 50, ""])
    header = ("Patientid", "filename", "finding", "view", "modality", "folder", "sex", "age", " url")
    write_csv(root / "metadata.csv", header, rows)
    return root


def make_folder(
    root: Path, images: int = 12, patients: int = 6, size: int = 64, *, masks: bool = True, table: bool = True
) -> Path:
    """Domain folders, half of the images in each, one level of nesting, with masks and a table of patients."""
    rows: list[list[object]] = []
    for i in range(images):
        domain = "clear" if i % 2 else "opacity"
        stem = f"scan{i:02d}"
        save_png(root / domain / "site" / f"{stem}.png", chest(i, size, opaque=i % 2 == 0))
        if masks:
            save_png(root / "lung_masks" / f"{stem}.png", lungs(size).astype(np.uint8))
        rows.append([stem, f"p{i % patients}", "AP", "F", 40 + i, "", ""])
    if table:
        names = ("image_id", "patient_id", "view", "sex", "age", "split", "counterpart")
        write_csv(root / "metadata.csv", names, rows)
    return root


def make_masks(root: Path, stems: Iterable[str], size: int = 64) -> Path:
    """A folder ``lung_masks/`` of the user's own below `root`, a PNG of 0 and 255 for every stem."""
    for stem in stems:
        save_png(root / "lung_masks" / f"{stem}.png", (lungs(size) * 255).astype(np.uint8))
    return root


def reader(name: str, root: Path, **options: object) -> Reader:
    """Open a dataset's reader."""
    found: Reader = DATASETS.get(name)(root, **options)
    return found


def records(name: str, root: Path, **options: object) -> dict[str, ImageRecord]:
    """Its records by image id."""
    return {record.image_id: record for record in reader(name, root, **options).records()[0]}


def report(name: str, root: Path, **options: object) -> Report:
    """Its inspection."""
    return inspect(reader(name, root, **options))


def fatal(found: Report) -> list[str]:
    """Problems that make a dataset unusable."""
    return [str(problem) for problem in found.problems if problem.fatal]


def notes(found: Report) -> str:
    """The other problems, one a line."""
    return "\n".join(str(problem) for problem in found.problems if not problem.fatal)
