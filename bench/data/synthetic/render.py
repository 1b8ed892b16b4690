"""From a case to pixels: line integrals, scatter, quantum noise, detector and display."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects, gaussian_filter, label

from bench.data.contract import Box
from bench.data.synthetic.anatomy import Chest, Lungs
from bench.data.synthetic.bones import add_skeleton, joint_chords, spine
from bench.data.synthetic.devices import add_devices, add_marker
from bench.data.synthetic.opacities import filled
from bench.data.synthetic.projection import Camera, Floats, Rays, Splat
from bench.data.synthetic.softtissue import AIRY, WATER, add_airways, add_vessels, gas, hila, outline
from bench.data.synthetic.spec import Case, Shot, generator
from bench.data.synthetic.texture import fractal

#: Added attenuation that counts as a full opacity (strength 1), and the strength below which the map is zero.
FULL, LEAST = 1.2, 0.02
#: Strength from which a pixel belongs to the opacity's region, and the share of the image below which a part of it gets no
#: box (the largest part always does).
REGION, SMALLEST = 0.1, 0.0015
#: Edge enhancement of the display: its strength and reach (cm).
SHARPEN, REACH = 0.45, 0.55


@dataclass(frozen=True)
class Rendered:
    """One case as pixels, all H x W.

    Attributes:
        image, counterpart: float32 in [0, 1], lungs dark; the counterpart lacks the opacities and shares everything else.
        opacity: float32 in [0, 1], added attenuation over `FULL`, 0 outside.
        lung_mask: uint8, 1 lung (heart excluded).
        boxes: (x, y, width, height) in pixels around each connected opacity.
    """

    image: Floats
    counterpart: Floats
    opacity: Floats
    lung_mask: npt.NDArray[np.uint8]
    boxes: tuple[Box, ...]


def camera(shot: Shot, size: int) -> Camera:
    """The shot's geometry: source behind the patient at 165 cm (PA) or in front at 88 cm (AP)."""
    source = 165.0 if shot.view == "PA" else -88.0
    return Camera(size, shot.width, source, shot.centre, shot.turn, shot.tilt, shot.roll)


def render(case: Case, size: int) -> Rendered:
    """Render a case and its clear counterpart at size x size pixels."""
    view = camera(case.shot, size)
    chest, rays = Chest(case.body, case.shot), view.rays()
    lungs = chest.lungs(rays)
    clear = _attenuation(case, chest, view, rays, lungs)
    added = np.float32(WATER - AIRY) * filled(chest, rays, lungs, case.lesions)
    opacity = np.clip(added / np.float32(FULL), 0, 1)
    opacity[opacity < LEAST] = 0
    shutter = _shutter(case.shot, size)
    opacity = opacity * (shutter > 0.5)
    image, counterpart = _detect(case.shot, view, clear, added, lungs)
    mask = (lungs.mask & (shutter > 0.5)).astype(np.uint8)
    return Rendered(image * shutter, counterpart * shutter, opacity, mask, _boxes(opacity))


def _attenuation(case: Case, chest: Chest, view: Camera, rays: Rays, lungs: Lungs) -> Floats:
    splat = Splat(view)
    add_skeleton(splat, chest)
    add_vessels(splat, chest)
    add_airways(splat, chest)
    add_devices(splat, chest, case)
    add_marker(splat, view, case.shot.seed)
    seed = float(case.body.seed % 64)
    x, y = rays.at(6.0)
    fine = fractal(x, y, lungs.span[1], (seed, 3.0, 9.0), 0.13) + fractal(x, y, lungs.span[0], (seed, 40.0, 1.0), 0.10)
    coarse = fractal(x, y, np.full_like(x, 2.0), (seed, 20.0, 30.0), 0.5)
    air = np.maximum(lungs.chord, 0)
    air = air - hila(chest, rays, air)
    tissue = np.maximum(outline(chest, rays, view) * (1 + np.float32(0.010) * coarse) - air - gas(chest, rays), 0)
    total = np.float32(WATER) * tissue + np.float32(AIRY) * air * (1 + np.float32(0.05) * fine)
    return np.maximum(total + spine(chest, rays) + joint_chords(chest, rays) + splat.image(), 0)


def _detect(shot: Shot, view: Camera, clear: Floats, added: Floats, lungs: Lungs) -> tuple[Floats, Floats]:
    """Expose image and counterpart alike: same quanta, same noise field, same display curve."""
    rng = generator(shot.seed, "noise", view.size)
    noise = rng.standard_normal((view.size, view.size)).astype(np.float32)
    blur = 0.016 / view.pixel  # detector blur of 0.16 mm, in pixels
    noise = gaussian_filter(noise, blur) if blur > 0.2 else noise
    quanta = shot.quanta * 1000 * view.pixel**2
    plain = _signal(shot, view, clear)
    slow = gaussian_filter(plain, 2.6 / view.pixel)
    curve = _curve(shot, plain - np.float32(shot.equalise) * slow, lungs)
    shown = []
    for attenuation in (clear + added, clear):
        signal = _signal(shot, view, attenuation) if attenuation is not clear and added.any() else plain
        noisy = signal + noise * np.exp(0.5 * signal) / np.float32(np.sqrt(quanta))
        crisp = noisy + np.float32(SHARPEN) * (noisy - gaussian_filter(noisy, REACH / view.pixel, truncate=3))
        shown.append(_display(crisp - np.float32(shot.equalise) * slow, curve))
    return shown[0], shown[1]


def _signal(shot: Shot, view: Camera, attenuation: Floats) -> Floats:
    """Logarithm of open field over detected quanta, scatter included (no unit)."""
    primary = np.exp(-attenuation)
    # thick tissue scatters most of what enters it, so beyond a thin layer the source of scatter no longer grows
    scatter = gaussian_filter(np.minimum(primary, 0.05), 5.0 / view.pixel, truncate=2.5)
    signal: Floats = -np.log(primary + np.float32(1.7 * shot.scatter) * scatter + np.float32(2e-4))
    return signal


def _curve(shot: Shot, shown: Floats, lungs: Lungs) -> tuple[float, float, float]:
    """Display curve: offset, slope, and where the dark end bends towards black."""
    air = shown[lungs.mask]
    dark = float(np.median(air)) if air.size else 1.5
    bright = float(np.percentile(shown, 96))
    slope = (shot.body_level - shot.lung_level) / max(bright - dark, 0.3)
    return shot.lung_level - slope * dark, slope, 0.04


def _display(value: Floats, curve: tuple[float, float, float]) -> Floats:
    offset, slope, toe = (np.float32(v) for v in curve)
    linear = offset + slope * value
    soft = toe * np.logaddexp(0, linear / toe)  # film toe: black is approached, not cut
    shoulder = np.float32(0.08)
    bent = 1 - shoulder * np.logaddexp(0, (1 - soft) / shoulder)
    return np.clip(bent, 0, 1).astype(np.float32)


def _shutter(shot: Shot, size: int) -> Floats:
    """1 inside the collimated field, 0 outside, with a soft edge."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    left, right, top, bottom = shot.collimation

    def edge(low: float, high: float) -> Floats:
        ramp = np.minimum(at - low if low else np.ones_like(at), (1 - high) - at if high else np.ones_like(at))
        return np.clip(ramp * size / max(1.0, size / 250) + 0.5, 0, 1).astype(np.float32)

    return edge(top, bottom)[:, None] * edge(left, right)[None, :]


def _boxes(opacity: Floats) -> tuple[Box, ...]:
    parts, count = label(opacity > REGION, structure=np.ones((3, 3)))
    if not count:
        return ()
    area = np.bincount(parts.ravel(), minlength=count + 1)
    boxes = []
    for index, (rows, columns) in enumerate(find_objects(parts), start=1):
        if area[index] >= min(SMALLEST * opacity.size, area[1:].max()):
            boxes.append((
                float(columns.start), float(rows.start),
                float(columns.stop - columns.start), float(rows.stop - rows.start),
            ))  # fmt: skip
    return tuple(boxes)
