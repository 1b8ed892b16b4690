"""Skeleton: ribs, clavicles, scapulae, upper arms as swept tubes; spine as a modulated column."""

from __future__ import annotations

import numpy as np

from bench.data.synthetic.anatomy import Chest
from bench.data.synthetic.projection import Ellipsoid, Floats, Rays, Splat, tangents

#: Attenuation of bone above that of soft tissue, per cm: marrow-filled and cortical.
MARROW, CORTEX = 0.11, 0.42


def add_skeleton(splat: Splat, chest: Chest) -> None:
    """Add every tubular bone to a projection."""
    _ribs(splat, chest)
    for side in (-1, 1):
        _clavicle(splat, chest, side)
        _scapula(splat, chest, side)
        _arm(splat, chest, side)


def _ribs(splat: Splat, chest: Chest) -> None:
    number = np.arange(12, dtype=np.float32)
    rng = np.random.default_rng(chest.body.seed)
    s = chest.scale
    head = (-14.2 + 2.36 * number + rng.normal(0, 0.12, 12)) * s
    fall = np.interp(number, [0, 1, 3, 6, 8, 11], [4.8, 7.2, 10.2, 12.4, 12.0, 8.0]) * chest.body.rib_slope * s
    end = np.interp(number, [0, 1, 6, 9, 10, 11], [0.72, 0.76, 0.80, 0.74, 0.52, 0.36])
    count = max(48, int(38 * s / splat.step))
    curves, inward = [], []
    for side in (-1, 1):
        t = np.linspace(0, 1, count, dtype=np.float32)
        angle = np.pi * (0.085 + (end[:, None] - 0.085) * t)
        reach = (angle / np.pi - 0.085) / 0.715
        y = head[:, None] + fall[:, None] * (reach**1.2 - 0.03 * np.sin(np.pi * np.minimum(reach * 2.2, 1)))
        across, depth = np.abs(np.sin(angle)) ** (2 / 2.4), np.abs(np.cos(angle)) ** (2 / 2.4)
        width, deep = chest.half_width(y) + 0.35, chest.half_depth(y) + 0.35
        z = chest.middle(y) - deep * np.sign(np.cos(angle)) * depth
        x = side * width * across
        curves.append(np.stack([x, y, z], axis=-1))
        inward.append(np.stack([side * across / width, 0 * y, -np.sign(np.cos(angle)) * depth / deep], axis=-1))
    curve = np.concatenate(curves).astype(np.float32)
    normal = np.concatenate(inward).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    along, steps = tangents(curve)
    wide = np.cross(along, normal)
    wide /= np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-6)
    half = np.tile(np.interp(number, [0, 2, 8, 11], [0.50, 0.54, 0.60, 0.45]) * s, 2)[:, None, None].astype(np.float32)
    rows = max(3, int(np.ceil(1.4 * s / splat.step)))
    share = (np.arange(rows, dtype=np.float32) + 0.5) / rows * 2 - 1
    thick = 0.72 * s * np.sqrt(1 - share**2)
    cortex = np.minimum(0.16 / np.sqrt(1 - share**2), 0.5)  # the shell is met more obliquely towards the edges
    way = np.linspace(0, 1, count)
    taper = (np.clip((1 - way) * 14, 0.25, 1) * np.interp(way, [0, 0.3, 0.5, 1], [1.05, 1.05, 0.7, 0.75])).astype(np.float32)
    weight = (MARROW * thick + CORTEX * cortex)[None, None] * (2 * half / rows) * steps[..., None] * taper[None, :, None]
    weight = weight * np.float32(chest.body.bone)
    for layer in (-0.17 * s, 0.17 * s):
        middle = curve + np.float32(layer) * normal
        points = middle[..., None, :] + (share * half)[..., None] * wide[..., None, :]
        splat.add(points.astype(np.float32), (weight / 2).astype(np.float32))


def _hollow(splat: Splat, chest: Chest, points: list[list[float]], radius: float | list[float], wall: float) -> None:
    splat.tube(points, radius, MARROW * chest.body.bone)
    splat.tube(points, radius, CORTEX * chest.body.bone, wall)


def _clavicle(splat: Splat, chest: Chest, side: int) -> None:
    s, lift = chest.scale, 1.6 * (1 - chest.shot.arms) - 0.4
    y = -11.2
    points = [
        [1.9, y + 1.6, 5.6], [3.2, y + 1.2, 6.0], [6.2, y + 0.5, 6.0], [10.0, y - 1.3 - 0.5 * lift, 3.2],
        [13.0, y - 1.9 - 0.8 * lift, 1.0], [15.6, y - 1.7 - lift, -0.5],
    ]  # fmt: skip
    scaled = [[side * x * s, v * s, z * s] for x, v, z in points]
    _hollow(
        splat,
        chest,
        scaled,
        [0.3 * s, 0.8 * s, 0.85 * s, 0.76 * s, 0.7 * s, 0.66 * s, 0.65 * s, 0.7 * s, 0.75 * s, 0.75 * s, 0.5 * s],
        0.16,
    )


def _scapula(splat: Splat, chest: Chest, side: int) -> None:
    s, away = chest.scale, 3.0 * (1 - chest.shot.arms)
    top = np.array([8.2 + away, -12.2, -8.2])
    tip = np.array([9.6 + 1.5 * away, 2.8, -9.4])
    socket = np.array([15.0 + 0.4 * away, -9.3, -4.2])
    mirror = np.array([side * s, s, s])
    count = max(24, int(15 * s / splat.step))
    u, v = np.meshgrid((np.arange(count) + 0.5) / count, (np.arange(count) + 0.5) / count)
    plate = top + u[..., None] * (tip - top) + (v * (1 - u))[..., None] * (socket - top)
    area = float(np.linalg.norm(np.cross(tip - top, socket - top))) * s * s / count**2
    splat.add((plate * mirror).astype(np.float32), (0.10 * chest.body.bone * area * (1 - u)).astype(np.float32))
    edges = [
        ([socket, (socket + tip) / 2 + [-0.9, 0, 0], tip], 0.42),
        ([top, (top + tip) / 2 + [-0.6, 0, 0], tip], 0.24),
        ([top * 0.75 + tip * 0.25, [13.0 + away / 2, -12.2, -7.5], [17.0, -13.4, -3.6]], 0.5),
        ([top, [12.0 + away / 2, -12.4, -5.5], [13.9 + away / 2, -11.0, -2.0]], 0.35),
    ]
    for points, radius in edges:
        _hollow(splat, chest, [list(np.asarray(p, float) * mirror) for p in points], radius * s, 0.1)


def arm_axis(chest: Chest, side: int) -> list[list[float]]:
    """Centre line of the upper arm: along the body, or held away from it."""
    s, out = chest.scale, 1 - chest.shot.arms
    points = [[16.6, -10.2, -3.0], [18.8 + 3 * out, -4.0, -2.6], [20.8 + 8 * out, 6.0, -1.5], [21.6 + 12 * out, 20.0, -1.0]]
    return [[side * x * s, y * s, z * s] for x, y, z in points]


def _arm(splat: Splat, chest: Chest, side: int) -> None:
    axis = arm_axis(chest, side)
    radii = np.interp(np.linspace(0, 1, 40), [0, 0.04, 0.3, 1], [0.6, 1.3, 1.2, 1.1]) * chest.scale  # rounded at the joint
    _hollow(splat, chest, axis, radii.tolist(), 0.25)


def joint_chords(chest: Chest, rays: Rays) -> Floats:
    """Heads of the upper arms, attenuation (no unit)."""
    total = np.zeros_like(rays.x)
    for side in (-1, 1):
        x, y, z = arm_axis(chest, side)[0]
        r = 2.35 * chest.scale
        outer = Ellipsoid((x - side * 0.5, y - 0.4, z), (r, r, r)).chord(rays)
        total += np.float32(MARROW * chest.body.bone * 1.2) * outer
    return total


def spine(chest: Chest, rays: Rays) -> Floats:
    """Vertebral bodies with discs between them, pedicles and spinous processes, attenuation (no unit)."""
    s = chest.scale
    x, y = rays.at(-7.0)
    x = (x - chest.spine_at(y)) / np.float32(s)
    level = (y / np.float32(s) + np.float32(14.2)) / np.float32(2.36)
    phase = level - np.floor(level)
    grow = np.float32(1.0) + np.float32(0.018) * level
    body = 1 / (1 + np.exp((np.abs(phase - 0.5) - 0.40) * 26))
    waist = (1.62 + 0.22 * (2 * np.abs(phase - 0.5)) ** 2) * grow
    u = np.clip(1 - (np.abs(x) / waist) ** 2, 0, 1)
    bodies = 3.0 * np.sqrt(u) * (0.35 + 0.65 * body)
    plates = np.exp(-(((np.abs(phase - 0.5) - 0.38) / 0.05) ** 2)) * (u > 0)
    pedicle = np.exp(-(((np.abs(x) - 1.25) / 0.36) ** 2) - ((phase - 0.36) / 0.17) ** 2)
    process = np.exp(-((x / 0.33) ** 2) - ((phase - 0.75) / 0.22) ** 2)
    transverse = np.exp(-(((np.abs(x) - 2.4) / 0.8) ** 2) - ((phase - 0.30) / 0.16) ** 2)
    total = 0.4 * MARROW * bodies + 0.05 * plates + 0.2 * pedicle + 0.16 * process + 0.10 * transverse
    value: Floats = (total * chest.body.bone).astype(np.float32)
    return value
