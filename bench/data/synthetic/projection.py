"""Cone-beam geometry: rays, exact chords of ellipsoids, interval arithmetic along rays, and splatting of swept tubes.

Patient coordinates in cm: x to the patient's left (image right), y downwards, z forwards (anterior). The plane z = 0 lies
in the middle of the chest; pixels are addressed by where their ray crosses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import make_interp_spline

Floats = npt.NDArray[np.float32]
Interval = tuple[Floats, Floats]


@dataclass(frozen=True)
class Camera:
    """A point source and a square detector.

    Attributes:
        size: pixels a side.
        width: side of the detector in cm, measured in the plane z = 0 (its side divided by the magnification).
        source: distance from the source to z = 0 in cm; positive when it is behind the patient (PA), negative for AP.
        centre: (x, y) of the detector's centre in the plane z = 0, cm.
        turn: rotation of the patient about the body axis, radians (moves structures sideways by depth).
        tilt: lordotic tilt, radians (moves structures up or down by depth).
        roll: rotation in the image plane, radians.
    """

    size: int
    width: float
    source: float
    centre: tuple[float, float]
    turn: float
    tilt: float
    roll: float

    @property
    def pixel(self) -> float:
        """Pixel pitch in the plane z = 0, cm."""
        return self.width / self.size

    def rays(self) -> Rays:
        """One ray through the centre of each pixel."""
        line = (np.arange(self.size, dtype=np.float32) + 0.5) * self.pixel - self.width / 2
        u, v = np.meshgrid(line, line)
        c, s = np.cos(self.roll), np.sin(self.roll)
        x = (c * u - s * v + self.centre[0]).astype(np.float32)
        y = (s * u + c * v + self.centre[1]).astype(np.float32)
        slope_x = (x / self.source + np.tan(self.turn)).astype(np.float32)
        slope_y = (y / self.source + np.tan(self.tilt)).astype(np.float32)
        return Rays(x, y, slope_x, slope_y)

    def to_pixels(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Project points (..., 3): column and row in pixels (fractional; 0 is the first pixel's centre), magnification."""
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        scale = 1 + z / np.float32(self.source)
        u = (x - np.float32(np.tan(self.turn)) * z) / scale - np.float32(self.centre[0])
        v = (y - np.float32(np.tan(self.tilt)) * z) / scale - np.float32(self.centre[1])
        c, s = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        half = np.float32(self.size / 2 - 0.5)
        column = (c * u + s * v) / np.float32(self.pixel) + half
        row = (c * v - s * u) / np.float32(self.pixel) + half
        return column, row, np.reciprocal(scale)


@dataclass(frozen=True)
class Rays:
    """Rays (x + slope_x z, y + slope_y z, z), one a pixel; every field is H x W (or any one shape), cm and cm per cm."""

    x: Floats
    y: Floats
    slope_x: Floats
    slope_y: Floats

    def at(self, z: Floats | float) -> tuple[Floats, Floats]:
        """Where the rays are at depth z (cm)."""
        return self.x + self.slope_x * np.float32(z), self.y + self.slope_y * np.float32(z)

    def of(self, where: npt.NDArray[np.bool_]) -> Rays:
        """The rays of some pixels, as a flat list."""
        return Rays(self.x[where], self.y[where], self.slope_x[where], self.slope_y[where])


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with its first two axes rotated in the image plane.

    Attributes:
        centre: (x, y, z) in cm.
        radii: half axes in cm.
        angle: rotation of the first axis from +x towards +y (downwards), radians.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    angle: float = 0.0

    def whiten(self, x: Floats, y: Floats, z: Floats | float) -> tuple[Floats, Floats, Floats]:
        """Map coordinates so that the ellipsoid becomes the unit sphere."""
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        a, b = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        r = np.asarray(self.radii, np.float32)
        depth = np.asarray(z, np.float32) - np.float32(self.centre[2])
        return (c * a + s * b) / r[0], (c * b - s * a) / r[1], depth / r[2]

    def inside(self, x: Floats, y: Floats, z: Floats) -> npt.NDArray[np.bool_]:
        """Whether points lie inside."""
        a, b, c = self.whiten(x, y, z)
        return a * a + b * b + c * c < 1

    def interval(self, rays: Rays) -> Interval:
        """Depths (cm) at which rays enter and leave; (0, 0) where they miss. Exact, perspective included."""
        a0, b0, c0 = self.whiten(rays.x, rays.y, 0.0)
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        r = np.asarray(self.radii, np.float32)
        a1 = (c * rays.slope_x + s * rays.slope_y) / r[0]
        b1 = (c * rays.slope_y - s * rays.slope_x) / r[1]
        c1 = 1 / r[2]
        square = a1 * a1 + b1 * b1 + c1 * c1
        half = a0 * a1 + b0 * b1 + c0 * c1
        root = half * half - square * (a0 * a0 + b0 * b0 + c0 * c0 - 1)
        hit = root > 0
        root = np.sqrt(np.where(hit, root, 0))
        return np.where(hit, (-half - root) / square, 0), np.where(hit, (-half + root) / square, 0)

    def chord(self, rays: Rays) -> Floats:
        """Length of each ray inside, cm."""
        near, far = self.interval(rays)
        return far - near


def intersect(first: Interval, second: Interval) -> Interval:
    """Intersection of two intervals; empty ones have equal ends."""
    low = np.maximum(first[0], second[0])
    return low, np.maximum(np.minimum(first[1], second[1]), low)


def covered(span: Interval, parts: Sequence[Interval]) -> Floats:
    """Length of `span` that the union of `parts` covers, per ray (cm)."""
    low = np.stack([np.clip(part[0], span[0], span[1]) for part in parts])
    high = np.stack([np.clip(part[1], span[0], span[1]) for part in parts])
    order = np.argsort(low, axis=0)
    low, high = np.take_along_axis(low, order, 0), np.take_along_axis(high, order, 0)
    reached = np.maximum.accumulate(high, axis=0)
    before = np.concatenate([np.broadcast_to(span[0], low[:1].shape), reached[:-1]])
    return np.maximum(high - np.maximum(low, before), 0).sum(axis=0, dtype=np.float32)


class Splat:
    """Adds up attenuation of thin structures, given as quadrature points with volumes, into one projection.

    Sweeping a cross-section along a 3-D curve and projecting its sample points conserves volume exactly, so a rib seen
    end-on at the chest wall comes out as bright as it should.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.step = 0.55 * camera.pixel
        self._columns: list[Floats] = []
        self._rows: list[Floats] = []
        self._weights: list[Floats] = []

    def add(self, points: Floats, weights: Floats) -> None:
        """Add points (..., 3) with weights (...), attenuation times volume in cm^2."""
        column, row, magnification = self.camera.to_pixels(points)
        scaled = np.broadcast_to(weights, column.shape) * magnification**2 / np.float32(self.camera.pixel**2)
        last = self.camera.size
        keep = (column > -1) & (column < last) & (row > -1) & (row < last)
        self._columns.append(column[keep])
        self._rows.append(row[keep])
        self._weights.append(scaled[keep])

    def tube(
        self, controls: Sequence[Sequence[float]], radius: float | Sequence[float], mu: float, wall: float = 0.0
    ) -> None:
        """Sweep a disc (or, with a wall thickness in cm, a ring) along a smooth curve through control points (x, y, z).

        Args:
            controls: two or more points, cm.
            radius: cm, one or one for each control.
            mu: attenuation per cm, relative to what is already there; negative for air.
            wall: thickness of the wall, 0 for a solid tube.
        """
        length = float(np.linalg.norm(np.diff(np.asarray(controls, float), axis=0), axis=1).sum())
        curve = spline(controls, max(8, int(1.15 * length / self.step)))
        outer = np.interp(np.linspace(0, 1, len(curve)), np.linspace(0, 1, np.size(radius)), np.atleast_1d(radius))
        self.sweep(curve[None], outer.astype(np.float32)[None], mu, wall)

    def sweep(self, curves: Floats, radii: Floats, mu: float | Floats, wall: float = 0.0) -> None:
        """Sweep round cross-sections along T curves of N points: curves (T, N, 3), radii (T, N), mu a number or (T, N)."""
        along, steps = tangents(curves)
        normal = np.stack([-along[..., 1], along[..., 0], np.zeros_like(along[..., 0])], axis=-1)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        count = max(2, int(np.ceil(2 * float(radii.max()) / self.step)))
        offset = ((np.arange(count, dtype=np.float32) + 0.5) / count * 2 - 1) * radii[..., None]
        chord = 2 * np.sqrt(np.maximum(radii[..., None] ** 2 - offset**2, 0))
        if wall:
            chord -= 2 * np.sqrt(np.maximum(np.maximum(radii[..., None] - wall, 0) ** 2 - offset**2, 0))
        area = chord * (2 * radii[..., None] / count)
        points = (curves[..., None, :] + offset[..., None] * normal[..., None, :]).astype(np.float32)
        strength = np.asarray(mu, np.float32)
        weights = (strength[..., None] if strength.ndim else strength) * area * steps[..., None]
        self.add(points, weights.astype(np.float32))

    def image(self) -> Floats:
        """Line integrals of everything added so far, H x W."""
        size = self.camera.size
        if not self._columns:
            return np.zeros((size, size), np.float32)
        column, row, weight = (np.concatenate(part) for part in (self._columns, self._rows, self._weights))
        left, top = np.floor(column), np.floor(row)
        fx, fy = column - left, row - top
        stride = size + 2  # a border of one pixel takes what falls half outside
        index = (top.astype(np.int64) + 1) * stride + left.astype(np.int64) + 1
        total = np.zeros(stride * stride)
        corners = ((0, (1 - fx) * (1 - fy)), (1, fx * (1 - fy)), (stride, (1 - fx) * fy), (stride + 1, fx * fy))
        for shift, share in corners:
            total += np.bincount(index + shift, weights=weight * share, minlength=stride * stride)
        return total.reshape(stride, stride)[1:-1, 1:-1].astype(np.float32)


def tangents(curves: Floats) -> tuple[Floats, Floats]:
    """Unit tangents (T, N, 3) and arc length that each point stands for (T, N), cm."""
    difference = np.gradient(curves, axis=1).astype(np.float32)
    steps = np.maximum(np.linalg.norm(difference, axis=-1), 1e-6)
    ends = steps.copy()
    ends[:, [0, -1]] *= 0.5
    return difference / steps[..., None], ends


def spline(controls: Sequence[Sequence[float]], count: int) -> Floats:
    """A smooth curve (count, 3) through control points."""
    points = np.asarray(controls, float)
    at = np.concatenate([[0.0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1)))])
    fit = make_interp_spline(at, points, k=min(3, len(points) - 1))
    curve: Floats = fit(np.linspace(0, at[-1], count)).astype(np.float32)
    return curve
