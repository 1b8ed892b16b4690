"""Lines, tubes, electrodes and the side marker, as radiopaque curves in and on the patient."""

from __future__ import annotations

import numpy as np

from bench.data.synthetic.anatomy import Chest
from bench.data.synthetic.projection import Camera, Splat
from bench.data.synthetic.spec import Case, generator


def add_devices(splat: Splat, chest: Chest, case: Case) -> None:
    """Add every device of the case. Their course is drawn per image: leads lie differently on every exposure."""
    rng = generator(case.body.seed, case.image, "devices")
    for name in case.devices:
        PARTS[name](splat, chest, rng)


def _tube(splat: Splat, chest: Chest, rng: np.random.Generator) -> None:
    """Endotracheal tube with its radiopaque line, ending above the carina."""
    s, tip = chest.scale, rng.uniform(-9.8, -7.2)
    path = [[rng.normal(0.3, 0.3), -26 * s, 0.5], [0.2, -15 * s, -1.2], [-0.1, tip * s, -2.2]]
    splat.tube(path, 0.5, 0.35, 0.1)
    splat.tube([[x + 0.3, y, z] for x, y, z in path], 0.07, 2.6)


def _gastric(splat: Splat, chest: Chest, rng: np.random.Generator) -> None:
    """Nasogastric tube along the oesophagus into the stomach."""
    s, top = chest.scale, chest.dome_tops[1]
    path = [
        [-0.3, -26 * s, -2], [0.5, -14 * s, -4], [0.6, -4 * s, -5], [1.0, 5 * s, -4.5],
        [2.6, top + 2, -2], [5.5 + rng.normal(0, 0.7), top + 4.2, 2], [8.0, top + 6 + rng.normal(0, 1), 3],
    ]  # fmt: skip
    splat.tube(path, 0.24, 0.25, 0.09)
    splat.tube(path, 0.07, 2.4)


def _central(splat: Splat, chest: Chest, rng: np.random.Generator) -> None:
    """Central venous catheter through the jugular or subclavian vein into the upper caval vein."""
    s, side = chest.scale, -1 if rng.random() < 0.7 else 1
    tip = [-2.3 * s, rng.uniform(-3.5, 0.5) * s, 0.5]
    if rng.random() < 0.5:
        start = [[side * 5.2, -21 * s, 0], [side * 4.0, -15 * s, 1], [side * 2.6 - 0.4, -10.5 * s, 2]]
    else:
        start = [[side * 14, -8.5 * s, 6], [side * 10, -10.6 * s, 5], [side * 4.6, -10.8 * s, 3]]
    splat.tube([*start, [-2.4 * s, -7.0 * s, 1.7], tip], 0.13, 1.7)


def _leads(splat: Splat, chest: Chest, rng: np.random.Generator) -> None:
    """ECG electrodes on the chest and their loose wires."""
    s = chest.scale
    spots = [(-11.0, -8.0), (11.0, -8.0), (-10.5, 7.5), (11.5, 6.5), (1.5, 0.5)]
    for x0, y0 in spots[: int(rng.integers(3, 6))]:
        x, y = x0 * s + rng.normal(0, 1.2), y0 * s + rng.normal(0, 1.2)
        z = float(chest.half_depth(np.float32(y))) * max(0.15, 1 - (x / 17) ** 2) + 2.5
        # a disc lies flat on the skin, so its sweep along z is short; the snap in its middle is metal
        splat.tube([[x, y, z], [x + 0.02, y + 0.02, z + 0.5]], 0.85, 0.22)
        _disc(splat, (x, y, z), 0.42, 0.9)
        side = float(np.sign(x)) if abs(x) > 3 else float(rng.choice([-1, 1]))
        away = [side * rng.uniform(15, 20), y + rng.uniform(4, 12), z - 2]
        bend = [(x + away[0]) / 2 + rng.normal(0, 2), (y + away[1]) / 2 + rng.uniform(1, 4), z + 1]
        splat.tube([[x, y, z], [x + side * 1.2, y + rng.normal(0, 0.8), z + 0.5], bend, away], 0.09, 1.9)


def _disc(splat: Splat, centre: tuple[float, float, float], radius: float, attenuation: float) -> None:
    """A flat disc that faces the detector."""
    x, y, z = centre
    count = max(3, int(np.ceil(2 * radius / splat.step)))
    line = ((np.arange(count) + 0.5) / count * 2 - 1) * radius
    u, v = np.meshgrid(line, line)
    inside = u * u + v * v < radius**2
    points = np.stack([x + u[inside], y + v[inside], np.full(int(inside.sum()), z)], axis=-1).astype(np.float32)
    area = np.pi * radius**2 / max(int(inside.sum()), 1)
    splat.add(points, np.full(len(points), attenuation * area, np.float32))


def _pacemaker(splat: Splat, chest: Chest, rng: np.random.Generator) -> None:
    """Generator under the left clavicle with one lead to the right ventricle."""
    s = chest.scale
    x, y = 10.5 * s + rng.normal(0, 0.6), -8.0 * s + rng.normal(0, 0.6)
    for dx, dy in ((0, 0), (0.7, 0.5), (-0.7, 0.4)):
        _disc(splat, (x + dx, y + dy, 9.0), 1.7, 0.6)
    vein = [[x, y, 9], [6.0, -10.6 * s, 6], [1.0, -9.5 * s, 3], [-2.4 * s, -5 * s, 1.5]]
    splat.tube([*vein, [-2.6 * s, 2.5 * s, 2], [3.4 * s, 7.2 * s, 5]], 0.11, 2.0)


PARTS = {"tube": _tube, "gastric": _gastric, "central": _central, "leads": _leads, "pacemaker": _pacemaker}


def add_marker(splat: Splat, camera: Camera, seed: int) -> None:
    """A lead letter L at the patient's left side, in the upper corner of the field."""
    rng = generator(seed, "marker")
    if rng.random() < 0.25:
        return
    x = camera.centre[0] + camera.width * rng.uniform(0.40, 0.46)
    y = camera.centre[1] - camera.width * rng.uniform(0.30, 0.45)
    for path in ([[x, y - 0.8, 0], [x, y + 0.6, 0]], [[x, y + 0.6, 0], [x + 0.8, y + 0.6, 0]]):
        splat.tube(path, 0.14, 7.0)
