"""Soft tissue around the lungs, airways and the trees of pulmonary vessels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.data.synthetic.anatomy import Chest, Profile
from bench.data.synthetic.bones import arm_axis
from bench.data.synthetic.projection import Camera, Ellipsoid, Floats, Rays, Splat

#: Attenuation per cm at the beam's mean energy: water-like tissue and aerated lung.
WATER, AIRY = 0.19, 0.052

Doubles = npt.NDArray[np.float64]


def outline(chest: Chest, rays: Rays, camera: Camera) -> Floats:
    """Length of soft tissue along each ray, lungs counted as tissue, cm."""
    body, s = chest.body, chest.scale
    x, y = rays.at(0.0)
    wall = 2.6 * s + 1.0 * body.fat
    # trunk: follows the rib cage; above the armpits the shoulders take over
    width, depth = chest.half_width(y) + np.float32(wall), chest.half_depth(y) + np.float32(1.5 + 0.75 * body.fat)
    depth = depth + np.float32(0.05) * np.clip(y, 0, 20)  # the belly is deeper than the chest
    trunk = 2 * depth * np.maximum(1 - np.abs(x / width) ** 2.6, 0) ** np.float32(1 / 2.6)
    raised = 1.3 * (1 - chest.shot.arms)
    reach = Profile({
        -30: 6.0, -21: 5.6, -18.5: 6.0, -16.5: 8.3, -15.2 - raised / 2: 12.5, -13.6 - raised: 16.5, -11.0: 19.5,
        -7.0: 20.3, -4.0: 19.0, -2.0: 15.0, 0.0: 9.0,
    }, s)  # fmt: skip
    thick = Profile({-30: 5.6, -20: 5.4, -16: 5.6, -12: 6.6, -8: 6.6, -3: 5.4, 1: 2.0}, s * (0.9 + 0.06 * body.fat))
    shoulder = 2 * thick(y) * np.maximum(1 - np.abs(x / reach(y)) ** 2.8, 0) ** np.float32(1 / 2.8) * (y < 0)
    limb = Splat(camera)  # arms
    for side in (-1, 1):
        limb.tube(arm_axis(chest, side), [1.5, 4.3 * s + 0.4 * body.fat, 4.4 * s + 0.4 * body.fat, 4.2 * s], 1.0)
    parts = [trunk, shoulder, np.maximum(limb.image(), 0)]
    # the overlapping parts are one body: a soft maximum, not a sum
    total: Floats = sum(part**4 for part in parts) ** np.float32(0.25)
    return total + _breasts(chest, rays) + _chest_muscles(chest, rays)


def _breasts(chest: Chest, rays: Rays) -> Floats:
    total = np.zeros_like(rays.x)
    if chest.body.breast == 0:
        return total
    size, flat = chest.body.breast, chest.shot.view == "AP"
    front = float(chest.half_depth(np.float32(4.0))) + 2.0
    for side in (-1, 1):
        radii = (6.3 * size + 0.7 * flat, 5.6 * size, (4.2 - 1.4 * flat) * size)
        centre = (side * (8.4 + 1.2 * flat) * chest.scale, (4.6 + (1 - flat)) * chest.scale, front)
        _, y = rays.at(front)
        lower = 1 / (1 + np.exp(-(y - centre[1] + 3.0 * size) / 1.2))  # blends upwards into the chest, ends below in a fold
        chord = Ellipsoid(centre, radii, side * 0.25).chord(rays) / np.float32(2 * radii[2])
        total += np.float32(0.9 * radii[2]) * chord**1.4 * lower
    return total.astype(np.float32)


def _chest_muscles(chest: Chest, rays: Rays) -> Floats:
    total = np.zeros_like(rays.x)
    strength = 0.5 if chest.body.sex == "M" else 0.25
    for side in (-1, 1):
        muscle = Ellipsoid((side * 11.0 * chest.scale, -6.0 * chest.scale, 9.0), (8.0, 4.2, 2.4), side * -0.5)
        total += np.float32(strength) * muscle.chord(rays)
    return total


def add_airways(splat: Splat, chest: Chest) -> None:
    """Add trachea and main bronchi: air where the outline counted tissue."""
    s = chest.scale
    shift = 0.25 * s
    carina = [-shift, -5.4 * s, -2.6]
    splat.tube([[0.0, -24 * s, -0.5], [0.0, -13 * s, -1.6], carina], 0.82 * s, -0.85 * WATER)
    splat.tube([carina, [-2.0 * s, -4.0 * s, -2.8], [-4.2 * s, -2.0 * s, -2.8]], [0.62 * s, 0.6 * s, 0.4 * s], -0.8 * WATER)
    splat.tube([carina, [2.2 * s, -3.8 * s, -3.0], [4.8 * s, -1.8 * s, -3.2]], [0.6 * s, 0.52 * s, 0.35 * s], -0.8 * WATER)


def gas(chest: Chest, rays: Rays) -> Floats:
    """Length of air in the stomach and bowel under the left dome, cm."""
    g, s = chest.body.gas, chest.scale
    if g < 0.2:
        return np.zeros_like(rays.x)
    top = chest.dome_tops[1]
    bubble = Ellipsoid((6.4 * s, top + 1.0 + 1.5 * g, 2.5), (2.9 * g * s, 1.5 * g, 2.3 * g), 0.1).chord(rays)
    rng = np.random.default_rng(chest.body.seed + 2)
    for _ in range(int(rng.integers(0, 4))):
        place = (rng.uniform(2, 11.5) * s, top + rng.uniform(4.0, 9.0), rng.uniform(0, 5))
        radii = (rng.uniform(0.8, 2.2), rng.uniform(0.7, 1.3), 1.2)
        bubble = bubble + np.float32(0.5) * Ellipsoid(place, radii, rng.uniform(-1, 1)).chord(rays)
    return bubble


def hila(chest: Chest, rays: Rays, air: Floats) -> Floats:
    """Length of lung that the roots of the lungs (nodes, large vessels) replace, cm."""
    s, total = chest.scale, np.zeros_like(rays.x)
    x, y = rays.at(-1.0)
    for side, height in ((-1, -0.6), (1, -1.6)):
        far = ((x - side * 3.9 * s) / (1.5 * s)) ** 2 + ((y - height * s) / (2.5 * s)) ** 2
        total += np.exp(-far)
    return np.minimum(2.6 * np.float32(chest.body.vessels) * total, 0.5 * air)


def add_vessels(splat: Splat, chest: Chest) -> None:
    """Add pulmonary vessels: trees that branch from both hila into the lungs, thicker towards the bases."""
    rng = np.random.default_rng(chest.body.seed + 1)
    s = chest.scale
    for side in (-1, 1):
        lift = -0.9 if side > 0 else 0.0  # the left hilum stands higher
        angles = np.concatenate([np.linspace(-1.35, 1.45, 9), [-0.5, 0.4, 1.0, 1.25, 1.5]]) + rng.normal(0, 0.07, 14)
        depths = rng.uniform(-0.75, 0.75, 14)
        start = np.stack([np.full(14, side * 3.5 * s), (-1.2 + lift) * s + 1.5 * np.sin(angles), depths * 0.8 - 1.0], -1)
        heading = np.stack([side * np.cos(angles), np.sin(angles), depths], -1)
        radius = (0.44 + 0.16 * (np.sin(angles) + 1) / 2) * s
        _grow(splat, chest, rng, (start, heading, radius))


def _grow(splat: Splat, chest: Chest, rng: np.random.Generator, roots: tuple[Doubles, Doubles, Doubles]) -> None:
    """Grow trees from roots: where they start (n, 3), where they head (n, 3) and their radius (n), cm."""
    start, heading, radius = roots
    length = 4.4 * chest.scale
    for generation in range(5):
        heading = heading / np.linalg.norm(heading, axis=1, keepdims=True)
        n = len(start)
        count = max(6, int(length / splat.step))
        t = np.linspace(0, 1, count)[None, :, None]
        reach = (length * rng.uniform(0.7, 1.25, n))[:, None]
        bend = rng.normal(0, 0.2, (n, 3))
        end = start + reach * (heading + 0.5 * bend)
        middle = start + 0.5 * reach * (heading - 0.2 * bend)
        curves = ((1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * middle[:, None] + t**2 * end[:, None]).astype(np.float32)
        radii = (radius[:, None] * (1 - 0.28 * t[..., 0])).astype(np.float32)
        air = chest.in_lung(curves) | (np.full(curves.shape[:2], generation == 0) & (np.abs(curves[..., 0]) > 3.6))
        splat.sweep(curves, radii, (chest.body.vessels * (WATER - AIRY) * air).astype(np.float32))
        alive = air[:, -1]
        start, heading, radius = end[alive], (end - middle)[alive], radius[alive]
        if not len(start):
            return
        spread = rng.normal(0, 0.34, (2, len(start), 3))
        heading = heading / np.linalg.norm(heading, axis=1, keepdims=True)
        heading = np.concatenate([heading + spread[0], heading * 0.9 - spread[0] + 0.4 * spread[1]])
        start, radius = np.tile(start, (2, 1)), np.tile(radius * 0.72, 2)
        length *= 0.78
