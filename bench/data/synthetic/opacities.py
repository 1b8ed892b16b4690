"""Opacities as density fields in the 3-D lungs: which share of the air is replaced by fluid at a point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.data.synthetic.anatomy import Chest, Lungs
from bench.data.synthetic.projection import Floats, Rays
from bench.data.synthetic.spec import Lesion
from bench.data.synthetic.texture import fractal

#: Depth samples of each ray inside the lungs.
SAMPLES = 16


@dataclass(frozen=True)
class Points:
    """Sample points in the lungs, one shape for all fields, cm: coordinates and distance to the chest wall."""

    x: Floats
    y: Floats
    z: Floats
    wall: Floats


def filled(chest: Chest, rays: Rays, lungs: Lungs, lesions: tuple[Lesion, ...]) -> Floats:
    """Length of air that the lesions replace along each ray, H x W, cm."""
    result = np.zeros_like(rays.x)
    where = lungs.chord > 0.05
    if not lesions or not where.any():
        return result
    flat = rays.of(where)
    low, high = lungs.span[0][where], lungs.span[1][where]
    step = (high - low) / SAMPLES
    z: Floats = (low[:, None] + (np.arange(SAMPLES) + 0.5) * step[:, None]).astype(np.float32)
    share = np.ones_like(z)
    for block in lungs.blocks:
        start, stop = block[0][where], block[1][where]
        if (stop > start).any():
            overlap = np.minimum(stop[:, None], z + step[:, None] / 2) - np.maximum(start[:, None], z - step[:, None] / 2)
            share -= np.clip(overlap / step[:, None], 0, 1)
    x = flat.x[:, None] + flat.slope_x[:, None] * z
    y = flat.y[:, None] + flat.slope_y[:, None] * z
    points = Points(x, y, z, chest.wall_distance(x, y, z))
    aerated = np.ones_like(z)
    for lesion in lesions:
        aerated *= 1 - np.clip(density(chest, lesion, points), 0, 1)
    result[where] = ((1 - aerated) * np.clip(share, 0, 1)).sum(axis=1) * step
    return result


def density(chest: Chest, lesion: Lesion, points: Points) -> Floats:
    """Share of air replaced at each point, 0 to 1."""
    return FIELDS[lesion.kind](chest, lesion, points)


def _rise(value: Floats, low: float, high: float) -> Floats:
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _noise(lesion: Lesion, points: Points, pitch: float, fine: float = 0.35) -> Floats:
    coarse = fractal(points.x, points.y, points.z, lesion.offset, pitch)
    return coarse + np.float32(fine) * fractal(points.z, points.x, points.y, lesion.offset, pitch / 3.3)


def _distance(chest: Chest, lesion: Lesion, points: Points, stretch: tuple[float, float, float]) -> Floats:
    x, y, z = chest.place(lesion.side, lesion.up, lesion.out, lesion.front)
    a, b, c = (np.float32(lesion.extent * k) for k in stretch)
    u, v, w = (points.x - np.float32(x)) / a, (points.y - np.float32(y)) / b, (points.z - np.float32(z)) / c
    far = np.sqrt(u * u + v * v + w * w)
    other = np.sign(points.x) != np.sign(lesion.side)  # nothing crosses to the other lung
    return np.where(other, np.float32(9), far)


def _consolidation(chest: Chest, lesion: Lesion, points: Points) -> Floats:
    far = _distance(chest, lesion, points, (1.05, 1.0, 1.25))
    noise = _noise(lesion, points, 0.30)
    return np.float32(lesion.density) * _rise(1.0 - far + 0.22 * noise, 0.0, 0.42) * np.clip(0.85 + 0.18 * noise, 0.35, 1)


def _infiltrate(chest: Chest, lesion: Lesion, points: Points) -> Floats:
    far = _distance(chest, lesion, points, (1.0, 1.15, 1.5))
    noise = _noise(lesion, points, 0.20, 0.5)
    return np.float32(lesion.density) * _rise(1.05 - far, 0.0, 0.5) * _rise(noise, -0.7, 0.9)


def _nodule(chest: Chest, lesion: Lesion, points: Points) -> Floats:
    far = _distance(chest, lesion, points, (1.0, 1.0, 1.0))
    bumps = fractal(points.x, points.y, points.z, lesion.offset, 0.12 * lesion.extent)
    return np.float32(lesion.density) * _rise(1.08 - far + 0.06 * bumps, 0.0, 0.16)


def _oedema(chest: Chest, lesion: Lesion, points: Points) -> Floats:
    s = chest.scale
    across, over = np.abs(points.x) - np.float32(3.4 * s), (points.y + np.float32(0.2 * s)) * np.float32(0.78)
    far = np.hypot(np.hypot(across, over), points.z * np.float32(0.8)) / np.float32(lesion.extent)
    noise = _noise(lesion, points, 0.24, 0.5)
    wings = np.exp(-(far**3)) * _rise(points.wall, 0.4, 2.6)  # the lung's outer rim stays clear
    return np.float32(lesion.density) * wings * np.clip(0.72 + 0.38 * noise, 0.1, 1.4)


def _ards(chest: Chest, lesion: Lesion, points: Points) -> Floats:
    noise = _noise(lesion, points, 0.36, 0.45)
    level = _rise(points.y, -13 * chest.scale, 7 * chest.scale)
    back = _rise(-points.z, -7, 6)
    amount = np.float32(lesion.extent - 0.62) * 1.6 + 0.55 * level + 0.35 * back + 0.55 * noise - 0.30
    return np.float32(lesion.density) * _rise(amount.astype(np.float32), -0.45, 0.75)


def _effusion(chest: Chest, lesion: Lesion, points: Points) -> Floats:
    dome = chest.domes[0 if lesion.side < 0 else 1]
    surface = np.float32(dome.centre[1] - 0.8 - 0.62 * lesion.extent)
    climb = np.float32(1.2 + 0.55 * lesion.extent) * np.exp(-np.maximum(points.wall, 0) / np.float32(1.5))
    fluid = _rise(points.y - surface + climb, -0.35, 0.35)  # the meniscus: higher along the chest wall
    if chest.shot.view == "AP":  # part of the fluid runs to the back of a lying patient
        layer = np.float32(0.26 * lesion.extent - 0.9) - points.wall - np.float32(0.12) * points.z
        veil = _rise(layer, 0, 0.7) * _rise(points.y, -6, 5) * (points.z < 0)
        fluid = np.maximum(fluid, np.float32(0.9) * veil)
    mine = np.sign(points.x) == np.sign(lesion.side)
    return np.where(mine, np.float32(lesion.density) * fluid, np.float32(0))


def _atelectasis(chest: Chest, lesion: Lesion, points: Points) -> Floats:
    x, y, z = chest.place(lesion.side, lesion.up, lesion.out, lesion.front)
    tilt = np.float32((lesion.offset[0] / 64 - 0.5) * 0.7)
    along, over = points.x - np.float32(x), points.y - np.float32(y) - tilt * (points.x - np.float32(x))
    wave = 0.3 * fractal(points.x, points.y, points.z, lesion.offset, 0.3)
    thin = np.exp(-(((over + wave) / np.float32(0.75 * lesion.extent)) ** 2))
    disc = _rise(1 - np.hypot(along / 5.0, (points.z - np.float32(z)) / 6.5), 0.0, 0.35)
    return np.where(np.sign(points.x) == np.sign(lesion.side), np.float32(lesion.density) * thin * disc, np.float32(0))


FIELDS = {
    "consolidation": _consolidation,
    "oedema": _oedema,
    "effusion": _effusion,
    "atelectasis": _atelectasis,
    "nodule": _nodule,
    "mass": _nodule,
    "infiltrate": _infiltrate,
    "ards": _ards,
}
