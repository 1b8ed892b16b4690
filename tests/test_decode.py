"""Decoding: every kind of DICOM and picture to known grey values, and clear errors for what cannot be decoded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from fixtures_data import chest, lungs, save_png, write_dicom
from PIL import Image

from bench.data.dicom import read_dicom, read_header
from bench.data.masks import WITH_UNDECIDED, fit_mask, lung_codes, read_mask
from bench.data.pixels import decode, doubts, image_size, read_image
from bench.data.tables import parse_age, parse_view, safe_id
from bench.errors import DataError


def ramp(bits: int, signed: bool = False) -> np.ndarray[Any, Any]:
    """64x64 stored values over the whole range of `bits`."""
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.round(np.linspace(low, low + 2**bits - 1, 64 * 64)).reshape(64, 64)
    if bits <= 8:
        return values.astype(np.int8 if signed else np.uint8)
    return values.astype(np.int16 if signed else np.uint16)


# The tests' encoder writes unsigned JPEG only.
LOSSLESS = [(s, b, False) for s in ("raw", "jpeg2000", "rle", "lossless") for b in (8, 10, 12, 14, 16)]
LOSSLESS += [(s, b, True) for s in ("raw", "jpeg2000", "rle") for b in (12, 16)]


@pytest.mark.parametrize(("syntax", "bits", "signed"), LOSSLESS)
def test_lossless_dicom_keeps_every_value(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    stored = ramp(bits, signed)
    image, found = read_dicom(write_dicom(tmp_path / "a.dcm", stored, syntax, bits))
    expected = (stored.astype(np.float64) - stored.min()) / (2**bits - 1)
    assert image.dtype == np.float32
    assert found == bits
    np.testing.assert_allclose(image, expected, atol=1e-6)


@pytest.mark.parametrize("syntax", ["jpeg", "extended"])
def test_lossy_jpeg_dicom(tmp_path: Path, syntax: str) -> None:
    image, bits = read_dicom(write_dicom(tmp_path / "a.dcm", chest(1), syntax))
    assert bits == 8
    assert np.abs(image - chest(1) / 255).mean() < 0.02


def test_12_bit_lossy_jpeg_is_refused_because_no_decoder_gets_it_right(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"12-bit lossy JPEG.*dcmdjpeg"):
        read_dicom(write_dicom(tmp_path / "a.dcm", chest(1, top=4095), "extended", 12))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    stored = ramp(12)
    plain, _ = read_dicom(write_dicom(tmp_path / "2.dcm", stored, bits=12))
    inverted, _ = read_dicom(
        write_dicom(tmp_path / "1.dcm", (4095 - stored).astype(np.uint16), bits=12, photometric="MONOCHROME1")
    )
    np.testing.assert_allclose(inverted, plain, atol=1e-6)


@pytest.mark.parametrize("slope", [2.0, -0.5])
def test_rescale_keeps_the_full_range(tmp_path: Path, slope: float) -> None:
    stored = ramp(12)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=12, RescaleSlope=slope, RescaleIntercept=-100)
    expected = stored / 4095
    np.testing.assert_allclose(read_dicom(path)[0], expected if slope > 0 else 1 - expected, atol=1e-6)


@pytest.mark.parametrize(("slope", "intercept"), [(None, None), (2.0, -1000.0), (-1.0, 4095.0)])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_acts_on_rescaled_values(tmp_path: Path, function: str, slope: float | None, intercept: float | None) -> None:
    stored = ramp(12)
    tags: dict[str, Any] = {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": intercept}
    values = stored * (slope or 1.0) + (intercept or 0.0)
    center, width = 1500.0, 800.0
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        bits=12,
        WindowCenter=[center, 9],
        WindowWidth=[width, 9],
        VOILUTFunction=function,
        **tags,
    )
    expected = {
        "LINEAR": np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((values - center) / width + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (values - center) / width)),
    }[function]
    np.testing.assert_allclose(read_dicom(path)[0], expected, atol=1e-5)


def test_window_without_width_means_full_range(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", ramp(12), bits=12, WindowCenter=0, WindowWidth=0)
    np.testing.assert_allclose(read_dicom(path)[0], ramp(12) / 4095, atol=1e-6)


@pytest.mark.parametrize("depth", [8, 12])
def test_voi_lut_of_12_bit_pixels(tmp_path: Path, depth: int) -> None:
    item = pydicom.Dataset()
    lut = np.round((np.arange(4096) / 4095) ** 2 * (2**depth - 1)).astype(np.uint16)
    item.add_new("LUTDescriptor", "US", [4096, 0, depth])
    item.add_new("LUTData", "US", lut.tolist())
    path = write_dicom(tmp_path / "a.dcm", ramp(12), bits=12, VOILUTSequence=[item])
    np.testing.assert_allclose(read_dicom(path)[0], lut[ramp(12)] / (2**depth - 1), atol=1e-6)


def test_colour_dicom_becomes_luminance(tmp_path: Path) -> None:
    stored = np.zeros((64, 64, 3), np.uint8)
    stored[:, 32:] = (255, 0, 0)
    image, _ = read_dicom(write_dicom(tmp_path / "a.dcm", stored, photometric="RGB"))
    assert image[0, 0] == 0
    assert image[0, 40] == pytest.approx(0.299, abs=1e-4)


@pytest.mark.parametrize("syntax", ["raw", "jpeg", "jpeg2000", "rle", "lossless", "extended"])
@pytest.mark.parametrize("kept", [2, 140, 0.5, 0.9, -12])
@pytest.mark.filterwarnings("ignore:End of file reached")
def test_truncated_dicom_is_refused_in_one_line(tmp_path: Path, syntax: str, kept: float) -> None:
    path = write_dicom(tmp_path / "cut.dcm", chest(3, 128), syntax)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if 0 < kept < 1 else int(kept)])
    with pytest.raises(DataError, match=r"cut\.dcm: ") as caught:
        decode(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_dicom_without_pixels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without pixel data"):
        read_dicom(write_dicom(tmp_path / "a.dcm", None))


def test_multi_frame_dicom(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 frames"):
        read_dicom(write_dicom(tmp_path / "a.dcm", ramp(8), NumberOfFrames=3))


def test_unsupported_transfer_syntax_names_the_remedy(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "film.dcm", ramp(8), "jpeg")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"MPEG2.*gdcmconv --raw film\.dcm"):
        read_dicom(path)


def test_header_with_a_bare_age_does_not_warn(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", ramp(8), "jpeg", PatientAge="62", PatientSex="F", ViewPosition="AP")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read_header(path)
        read_dicom(path)
    assert (header.age, header.sex, header.view, header.rows) == (62.0, "F", "AP", 64)


# pictures


GREY = chest(5)


def picture(mode: str) -> Image.Image:
    """`GREY` in a Pillow mode."""
    if mode == "1":
        return Image.fromarray(GREY > 128)
    if mode == "RGBA":
        return Image.merge("RGBA", [Image.fromarray(GREY)] * 3 + [Image.fromarray(GREY // 2)])
    if mode == "LA":
        return Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY // 2)])
    return Image.fromarray(GREY).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_png_modes_keep_the_grey_values_and_drop_alpha(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    picture(mode).save(path)
    image, bits = read_image(path)
    expected = (GREY > 128).astype(float) if mode == "1" else GREY / 255
    np.testing.assert_allclose(image, expected, atol=1e-6)
    assert bits == 8
    assert image.dtype == np.float32


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_files_are_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(ramp(16)).save(path)
    image, bits = read_image(path)
    np.testing.assert_allclose(image, ramp(16) / 65535, atol=1e-6)
    assert bits == 16


def test_12_bit_values_in_a_16_bit_png_need_the_depth(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", chest(1, top=4095))
    assert "depth=12" in doubts(read_image(tmp_path / "a.png")[0])
    image, bits = read_image(tmp_path / "a.png", depth=12)
    np.testing.assert_allclose(image, chest(1, top=4095) / 4095, atol=1e-6)
    assert bits == 12


def test_luminance_of_colour(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", np.full((8, 8, 3), (0, 255, 0), np.uint8))
    assert read_image(tmp_path / "a.png")[0].mean() == pytest.approx(0.587, abs=1e-4)


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    save_png(tmp_path / "png.jpg", GREY)
    write_dicom(tmp_path / "dicom.png", GREY)
    for name in ("png.jpg", "dicom.png"):
        np.testing.assert_allclose(decode(tmp_path / name)[0], GREY / 255, atol=1e-6)
        assert image_size(tmp_path / name) == (64, 64)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "text, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (bytes(range(256)), "not an image of a known kind"),
    ],
)
def test_what_is_no_image_says_so(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(DataError, match=rf"x\.png: .*{what}"):
        decode(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tif"])
def test_truncated_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(chest(1, 128)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cut"):
        decode(path)


def test_polarity_is_doubted_not_changed(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", 255 - GREY)
    image, _ = decode(tmp_path / "a.png")
    assert "inverted" in doubts(image)
    np.testing.assert_allclose(image, 1 - GREY / 255, atol=1e-6)
    assert not doubts(1 - image)


def test_mask_codes_and_sizes(tmp_path: Path) -> None:
    lung = lungs(32)
    for mode, name in (("1", "one.png"), ("L", "grey.png"), ("P", "palette.gif")):
        Image.fromarray(lung.astype(np.uint8) * 255).convert(mode).save(tmp_path / name)
        assert ((read_mask(tmp_path / name) > 0) == lung).all()
    path = tmp_path / "grey.png"
    mask = read_mask(path)
    assert (fit_mask(mask, (64, 64), path) == mask.repeat(2, 0).repeat(2, 1)).all()
    assert (fit_mask(fit_mask(mask, (96, 96), path), (32, 32), path) == mask).all()
    with pytest.raises(DataError, match=r"grey\.png: the mask is 32x32 but its image is 48x48"):
        fit_mask(mask, (48, 48), path)
    assert set(np.unique(lung_codes(np.array([[0, 127, 255]], np.uint8), path, WITH_UNDECIDED))) == {0, 1, 255}
    with pytest.raises(DataError, match="value 126"):
        lung_codes(np.array([[0, 126]], np.uint8), path, WITH_UNDECIDED)
    Image.fromarray(mask).save(tmp_path / "blurred.png", format="JPEG")
    with pytest.raises(DataError, match="JPEG"):
        read_mask(tmp_path / "blurred.png")


def test_cells() -> None:
    assert [parse_age(a) for a in ("62", "058Y", "006M", "153", "414Y", "", "x")] == [62, 58, 0.5, None, None, None, None]
    assert [parse_view(v) for v in ("AP", "pa", "AP Supine", "antero-posterior", "LATERAL", "")] == [
        "AP",
        "PA",
        "AP",
        "AP",
        "",
        "",
    ]
    assert safe_id("a-1.b_c") == "a-1.b_c"
    odd = [safe_id(t) for t in ("../x", "a b", "a_b", ".hidden", "", "é" * 300)]
    assert len(set(odd)) == 6
    assert all(set(i) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") and not i.startswith(".") for i in odd)


@pytest.mark.parametrize("syntax", ["jpeg", "extended", "lossless", "jpeg2000"])
def test_whole_file_with_a_cut_stream_is_refused(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "cut.dcm", chest(3, 128), syntax)
    dataset = pydicom.dcmread(path)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 2]])
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"cut\.dcm: "):
        read_dicom(path)


@pytest.mark.parametrize("change", [{"Columns": 65}, {"Rows": 2}, {"SamplesPerPixel": 3}])
def test_lossless_stream_that_contradicts_its_header_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    path = write_dicom(tmp_path / "odd.dcm", chest(3), "lossless")
    dataset = pydicom.dcmread(path)
    for name, value in change.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"odd\.dcm: the pixel data is damaged"):
        read_dicom(path)
