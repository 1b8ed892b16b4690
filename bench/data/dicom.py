"""Decoding one DICOM file to grey values in [0, 1]."""

from __future__ import annotations

import contextlib
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut, apply_rescale, apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEGTransferSyntaxes,
)

from bench.data.contract import FloatImage
from bench.data.tables import one_line, parse_age, parse_sex, parse_view
from bench.errors import DataError

# Public chest X-ray collections carry values the standard does not allow (RSNA: PatientAge "62" instead of "062Y").
# pydicom would warn once a file; the pixels do not depend on them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\b")

#: Rec. 601 luma, the weights Pillow and JPEG use.
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)

#: Pillow decodes baseline JPEG about five times faster than gdcm, and unlike it refuses streams that are cut off.
_PLUGINS = {JPEGBaseline8Bit: "pillow", JPEGExtended12Bit: "pillow", JPEG2000: "pylibjpeg", JPEG2000Lossless: "pylibjpeg"}

#: Streams that only gdcm can decode, with the JPEG marker that starts their frame.
_FRAME_MARKERS = {JPEGLossless: 0xC3, JPEGLosslessSV1: 0xC3, JPEGLSLossless: 0xF7, JPEGLSNearLossless: 0xF7}

_HEADER_TAGS = ["ViewPosition", "PatientSex", "PatientAge", "Rows", "Columns"]


@dataclass(frozen=True)
class Header:
    """What a DICOM header says about the patient and the projection; unknown values are empty or None."""

    view: str
    sex: str
    age: float | None
    rows: int
    columns: int


def read_header(path: Path) -> Header:
    """Read the header without the pixels (about 0.3 ms a file).

    Raises:
        DataError: not a DICOM file.
    """
    with _damage_named(path):
        dataset = _open(path, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
        return Header(
            view=parse_view(_text(dataset, "ViewPosition")),
            sex=parse_sex(_text(dataset, "PatientSex")),
            age=parse_age(_text(dataset, "PatientAge")),
            rows=int(_text(dataset, "Rows") or 0),
            columns=int(_text(dataset, "Columns") or 0),
        )


def read_dicom(path: Path) -> tuple[FloatImage, int]:
    """Decode a single-frame DICOM file for display: bone bright, air dark.

    Stored values go through the modality step (rescale or modality LUT), then the first VOI LUT or window. Without one, and
    with a window of no width, the full range of BitsStored maps onto [0, 1], so that equal exposures stay comparable.
    MONOCHROME1 is inverted last. Colour is reduced to luminance.

    Returns:
        float32 HxW in [0, 1] and the number of significant bits (8 to 16).

    Raises:
        DataError: truncated, no pixels, several frames or a compression that cannot be decoded; the message names the file.
    """
    with _damage_named(path):
        return _read(path)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn whatever pydicom raises on damaged elements, at any access to one, into an error that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: the DICOM header is damaged ({one_line(error)}). Download it again.") from error


def _read(path: Path) -> tuple[FloatImage, int]:
    dataset = _open(path)
    if "PixelData" not in dataset:
        # pydicom drops a compressed image whose end is missing, so that both cases look alike but for the header.
        if "BitsStored" in dataset:
            raise DataError(f"{path}: the DICOM file is cut off; its pixel data is missing. Download it again.")
        raise DataError(f"{path}: DICOM file without pixel data (a report, or cut off). Remove it or download it again.")
    frames = int(_text(dataset, "NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(f"{path}: DICOM file with {frames} frames; only single radiographs can be used. Remove it.")
    stored = _stored(dataset, path)
    return _display(stored, dataset), min(max(int(dataset.BitsStored), 8), 16)


def _open(path: Path, **options: Any) -> pydicom.FileDataset:
    try:
        return pydicom.dcmread(path, **options)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file does not exist.") from error
    except InvalidDicomError as error:
        raise DataError(f"{path}: not a DICOM file, or cut off ({path.stat().st_size} bytes). Download it again.") from error
    except Exception as error:  # pydicom lets EOFError, struct.error, ValueError and others through on broken files
        raise DataError(f"{path}: the DICOM file is cut off or damaged ({one_line(error)}). Download it again.") from error


def _text(dataset: pydicom.Dataset, name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else str(value).strip()


def _stored(dataset: pydicom.FileDataset, path: Path) -> npt.NDArray[Any]:
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:
        raise DataError(f"{path}: the DICOM header names no transfer syntax. Rewrite it with `gdcmconv`.")
    if syntax == JPEGExtended12Bit and int(dataset.get("BitsStored") or 8) > 8:
        # gdcm would decode it, but wraps every overshoot at black and white to the other end.
        raise DataError(f"{path}: 12-bit lossy JPEG cannot be decoded. Convert it: `dcmdjpeg {path.name} out.dcm` (DCMTK).")
    if syntax.is_compressed and not _complete(dataset, syntax):
        raise DataError(f"{path}: the DICOM file is cut off (no end of image). Download it again.")
    if syntax in _FRAME_MARKERS and not _sound(dataset, _FRAME_MARKERS[syntax]):
        raise DataError(f"{path}: the pixel data is damaged (its JPEG markers make no sense). Download it again.")
    try:
        return pixel_array(dataset, decoding_plugin=_PLUGINS.get(syntax, ""))
    except NotImplementedError as error:
        raise DataError(
            f"{path}: transfer syntax '{syntax.name}' cannot be decoded. Convert it: `gdcmconv --raw {path.name} out.dcm`."
        ) from error
    except Exception as error:  # every decoder plug-in raises its own kinds
        why = one_line(error)
        if "missing dependencies" in why or "is not supported" in why:
            hint = f"transfer syntax '{syntax.name}': {why}. Convert it with `gdcmconv --raw {path.name} out.dcm`."
        else:
            hint = f"the pixel data is cut off or damaged ({why}). Download it again."
        raise DataError(f"{path}: {hint}") from error


def _complete(dataset: pydicom.Dataset, syntax: pydicom.uid.UID) -> bool:
    """Whether a compressed stream reaches its end marker; gdcm fills the rest of a cut image with grey without a word."""
    return syntax not in JPEGTransferSyntaxes or b"\xff\xd9" in bytes(dataset.PixelData[-64:])


def _sound(dataset: pydicom.Dataset, frame_marker: int) -> bool:
    """Whether the markers of a stream fit the DICOM header: gdcm ends the whole process on streams that do not."""
    try:
        stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
        frames, at = 0, 2
        while stream[at] == 0xFF and stream[at + 1] != 0xDA:  # segments up to the start of scan
            marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
            if marker == frame_marker:
                frames += 1
                precision, *shape = struct.unpack_from(">BHHB", stream, at + 4)
                allocated = 8 if precision <= 8 else 16
                if shape != [dataset.Rows, dataset.Columns, dataset.SamplesPerPixel] or allocated != dataset.BitsAllocated:
                    return False
            elif 0xC0 <= marker < 0xDB and marker != 0xC4:  # another process, or restart markers where none belong
                return False
            at += 2 + length
        start, components = int.from_bytes(stream[at + 2 : at + 4], "big"), stream[at + 4]
        predictor = stream[at + 5 + 2 * components]
        # Inside the scan there are only stuffing, restarts and the end.
        legal = rb"\x00\xd0-\xd7\xd9\xff" if frame_marker == 0xC3 else rb"\x00-\x7f\xd9\xff"
        strange = re.search(rb"\xff[^" + legal + rb"]", stream[at + 2 + start :])
        sane = frame_marker != 0xC3 or (1 <= predictor <= 7 and components == dataset.SamplesPerPixel)
        return stream[:2] == b"\xff\xd8" and stream[at : at + 2] == b"\xff\xda" and frames == 1 and sane and not strange
    except (IndexError, ValueError, struct.error, AttributeError):
        return False


def _display(stored: npt.NDArray[Any], dataset: pydicom.Dataset) -> FloatImage:
    photometric = _text(dataset, "PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 3 and stored.shape[-1] in (3, 4):
        full = np.float32(np.iinfo(stored.dtype).max)
        luminance: FloatImage = np.clip((stored[..., :3].astype(np.float32) @ LUMINANCE) / full, 0.0, 1.0)
        return luminance
    if stored.ndim != 2:
        raise ValueError(f"pixels of shape {stored.shape}")
    values, low, high = _modality(stored, dataset)
    values, low, high = _voi(values, dataset, low, high)
    grey = ((values - low) / (high - low)).astype(np.float32)
    np.clip(grey, 0.0, 1.0, out=grey)
    return 1.0 - grey if photometric == "MONOCHROME1" else grey


def _modality(stored: npt.NDArray[Any], dataset: pydicom.Dataset) -> tuple[npt.NDArray[Any], float, float]:
    """Values after the modality step with the range they can take."""
    bits = int(dataset.BitsStored)
    signed = int(dataset.PixelRepresentation) == 1
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if dataset.get("ModalityLUTSequence"):
        values, depth = _look_up(stored, dataset.ModalityLUTSequence[0])
        return values, 0.0, 2.0**depth - 1
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return stored, low, high
    if float(slope) == 0.0:
        raise ValueError("RescaleSlope is 0")
    ends = sorted((low * float(slope) + float(intercept), high * float(slope) + float(intercept)))
    return apply_rescale(stored, dataset), ends[0], ends[1]


def _voi(
    values: npt.NDArray[Any], dataset: pydicom.Dataset, low: float, high: float
) -> tuple[npt.NDArray[Any], float, float]:
    """Values after the first VOI LUT or window with the range they can take."""
    if dataset.get("VOILUTSequence"):
        values, depth = _look_up(values, dataset.VOILUTSequence[0])
        return values, 0.0, 2.0**depth - 1
    width, center = _first(dataset.get("WindowWidth")), _first(dataset.get("WindowCenter"))
    function = _text(dataset, "VOILUTFunction").upper() or "LINEAR"
    if width is None or center is None or width <= 0 or (width < 1 and function == "LINEAR"):
        return values, low, high
    # apply_windowing works out its output range from the header. It is asked for a plain [0, 255] on values that are already
    # rescaled: a negative slope would turn its range, and with it the picture, upside down.
    window = pydicom.Dataset()
    window.PhotometricInterpretation, window.VOILUTFunction = "MONOCHROME2", function
    window.BitsStored, window.PixelRepresentation = 8, 0
    window.WindowCenter, window.WindowWidth = center, width
    if width == 1 and function == "LINEAR":  # a step; the formula divides by width - 1
        return (values > center - 0.5).astype(np.float32), 0.0, 1.0
    return apply_windowing(np.asarray(values), window), 0.0, 255.0


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    with contextlib.suppress(TypeError):
        value = value[0]
    return float(value)


def _look_up(values: npt.NDArray[Any], item: pydicom.Dataset) -> tuple[npt.NDArray[Any], int]:
    """Values of a LUT item and its depth. Not pydicom's apply_voi: that wraps 12-bit input of a LUT with 8-bit output."""
    entries, first, depth = (int(v) for v in item.LUTDescriptor)
    entries = entries or 2**16
    raw = item.LUTData
    lut = np.frombuffer(raw, dtype="<u2") if isinstance(raw, bytes) else np.atleast_1d(np.asarray(raw))
    if len(lut) * 2 == entries and depth <= 8:  # 8-bit entries packed two a word
        lut = np.asarray(lut, dtype="<u2").view(np.uint8)
    if len(lut) < entries:
        raise ValueError(f"a LUT of {entries} entries holds {len(lut)}")
    # `first` is signed where the pixels are, but is often read as unsigned.
    if first > 2**15 and values.min() < 0:
        first -= 2**16
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return lut[index], depth
