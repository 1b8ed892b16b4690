"""A 3-D analytic chest: body, thoracic cavity, lungs, heart, mediastinum, diaphragm, and where points lie in it.

The lungs are what remains of the thoracic cavity after the apices' caps, heart, great vessels, spine and everything under
the diaphragm are taken away; nothing is painted in two dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from bench.data.synthetic.projection import Ellipsoid, Floats, Interval, Rays, covered, intersect
from bench.data.synthetic.spec import Body, Shot

_GRID = np.linspace(-40, 40, 801)


class Profile:
    """A smooth function of height: knots in cm, constant beyond them."""

    def __init__(self, knots: dict[float, float], scale: float = 1.0) -> None:
        heights = np.array(list(knots))
        fit = PchipInterpolator(heights, np.array(list(knots.values())))
        self._table = (fit(np.clip(_GRID, heights[0], heights[-1])) * scale).astype(np.float32)

    def __call__(self, y: npt.ArrayLike) -> Floats:
        at = np.clip((np.asarray(y, np.float32) + np.float32(40)) * np.float32(10), 0, np.float32(799.9))
        index = at.astype(np.int32)
        low = self._table[index]
        value: Floats = low + (at - index.astype(np.float32)) * (self._table[index + 1] - low)
        return value


@dataclass(frozen=True)
class Lungs:
    """Lungs along a set of rays.

    Attributes:
        span: depths between which a ray may meet lung, cm.
        blocks: depth intervals inside `span` that are not lung.
        chord: length of lung, cm.
        mask: where a ray crosses lung and nothing of mediastinum, heart or abdomen (heart excluded).
    """

    span: Interval
    blocks: tuple[Interval, ...]
    chord: Floats
    mask: npt.NDArray[np.bool_]


class Chest:
    """Geometry of one patient in one pose (cm).

    Args:
        body: the patient.
        shot: the pose; inspiration moves the diaphragm, a lying patient has a wider mediastinum and heart.
    """

    def __init__(self, body: Body, shot: Shot) -> None:
        self.body, self.shot = body, shot
        s, b, d = body.size, body.size * body.broad, body.size * body.deep
        supine = shot.view == "AP"
        self.scale = s
        self.half_width = Profile(
            {-18: 5.0, -14: 8.2, -12: 9.6, -9: 11.1, -5: 12.5, 0: 13.4, 5: 13.9, 10: 14.0, 15: 13.7}, b
        )
        self.half_depth = Profile({-16: 4.0, -13: 5.2, -8: 7.2, -2: 8.6, 5: 9.3, 14: 9.4}, d)
        self.middle = Profile({-16: -3.0, -12: -2.4, -6: -0.9, 0: 0.0, 14: 0.3}, d)
        wide = (1.12 if supine else 1.0) * s
        self.mediastinum_left = Profile({-20: 3.6, -13: 3.3, -9: 3.2, -3: 3.4, 2: 3.4, 14: 3.0}, wide)
        self.mediastinum_right = Profile({-20: 3.6, -13: 3.1, -10: 3.0, -6: 3.5, -3: 3.5, 0: 3.4, 14: 2.8}, wide)
        drop = 3.2 * (1 - shot.inspiration)
        self.dome_tops = (7.6 * s + body.domes[0] - drop, 9.0 * s + body.domes[1] - drop)  # right, left
        self.apex = -14.6 * s
        sink = min(max(self.dome_tops[1] - 9.0 * s, -2.5), 1.0)
        h = body.heart * s * (1.05 if supine else 1.0)
        g = s * (h / s) ** 0.6  # enlargement is mostly of the left ventricle
        self.heart = (
            Ellipsoid((2.2 * s, 4.6 * s + 0.8 * sink, 2.2 * s), (7.3 * h, 5.1 * h, 6.3 * h), body.heart_turn),
            Ellipsoid((1.0 * s, 2.2 * s + 0.5 * sink, -2.6 * s), (4.2 * g, 3.8 * g, 3.6 * g)),  # left atrium
            Ellipsoid((-0.9 * s, 3.4 * s + 0.8 * sink, 1.6 * s), (3.4 * g, 5.6 * g, 5.6 * g)),
        )
        a = body.aorta * s
        self.vessels = (
            Ellipsoid((1.9 * s, -6.0 * s, -1.0), (2.1 * a, 2.0 * a, 4.0)),  # aortic arch
            Ellipsoid((2.0 * s, -2.2 * s, 1.0), (2.4 * s, 2.9 * s, 3.5)),  # pulmonary trunk
        )
        self.aorta_radius = 1.25 * a
        self.domes: tuple[Ellipsoid, ...] = tuple(
            Ellipsoid((side * 6.9 * b, top + 4.9 * s, 0.6 * d), (7.3 * b, 4.9 * s, 11.0 * d))
            for side, top in zip((-1, 1), self.dome_tops, strict=True)
        )
        middle = 0.5 * sum(self.dome_tops) + 6.1 * s  # central tendon and crura close the gap between the domes
        self.domes += (Ellipsoid((0.3 * s, middle, 0.0), (7.0 * b, 4.9 * s, 13.0 * d)),)

    def spine_at(self, y: Floats) -> Floats:
        """Sideways position of the spine at a height, cm."""
        return np.float32(self.body.scoliosis) * np.sin(y * np.float32(0.16) + np.float32(1.0))

    def cavity(self, rays: Rays) -> Interval:
        """Depth interval inside the rib cage."""
        x, y = rays.at(0.0)
        width, depth, middle = self.half_width(y), self.half_depth(y), self.middle(y)
        u = 1 - np.abs(x / width) ** np.float32(2.4)
        half = depth * np.maximum(u, 0) ** np.float32(1 / 2.4)
        front, back = middle + half, middle - half
        # the cage narrows upwards, so its front and back are met at other heights than its middle: one correction
        (xf, yf), (xb, yb) = rays.at(front), rays.at(back)
        front = self.middle(yf) + self.half_depth(yf) * np.maximum(1 - np.abs(xf / self.half_width(yf)) ** 2.4, 0) ** 0.4167
        back = self.middle(yb) - self.half_depth(yb) * np.maximum(1 - np.abs(xb / self.half_width(yb)) ** 2.4, 0) ** 0.4167
        inside = u > 0
        # corrected ends meet at the silhouette, which is that of the middle plane
        close = np.clip(u / np.float32(0.08), 0, 1) ** np.float32(0.4)
        front, back = middle + (front - middle) * close, middle + (back - middle) * close
        return np.where(inside, back, 0), np.where(inside, np.maximum(front, back), 0)

    def caps(self, rays: Rays) -> Interval:
        """Depth interval under the domes of the two lung apices (paraboloids)."""
        x, y = rays.at(-3.0)
        off = (np.abs(x - self.spine_at(y)) - np.float32(5.2 * self.scale)) / np.float32(4.0 * self.scale)
        depth = (y - np.float32(self.apex)) / np.float32(2.6 * self.scale) - off * off
        half = np.float32(5.5 * self.scale) * np.sqrt(np.maximum(depth, 0))
        low = np.float32(-3.0) - half
        return low, low + 2 * half

    def mediastinum(self, rays: Rays) -> list[Interval]:
        """Great vessels, oesophagus, spine: what keeps the lungs apart besides the heart."""
        _, y = rays.at(0.0)
        s, spine = self.scale, self.spine_at(y)
        axis = spine * np.float32(0.6)
        width = np.where(rays.x > axis, self.mediastinum_left(y), self.mediastinum_right(y))
        descending = _column(rays, spine + np.float32(1.7 * s), self.aorta_radius, (-4.6, self.aorta_radius, 0.5))
        below_arch = y > -6.5 * s
        return [
            _column(rays, axis, width, (0.0, 8.0 * s, 1.15)),
            (np.where(below_arch, descending[0], 0), np.where(below_arch, descending[1], 0)),
            _column(rays, spine, 3.0 * s, (-7.6 * self.body.deep, 3.0, 1.2)),
            *(vessel.interval(rays) for vessel in self.vessels),
        ]

    def below(self, rays: Rays) -> list[Interval]:
        """Abdomen: inside a dome, or lower than both domes' widest level."""
        spans = [dome.interval(rays) for dome in self.domes]
        for side, dome in zip((-1, 1), self.domes[:2], strict=True):
            near = ((rays.x > 0) == (side > 0)) & (rays.y > dome.centre[1])
            spans.append((np.where(near, np.float32(-30), 0), np.where(near, np.float32(30), 0)))
        return spans

    def lungs(self, rays: Rays) -> Lungs:
        """Cut the lungs out of the cavity along each ray."""
        span = intersect(self.cavity(rays), self.caps(rays))
        heart = [part.interval(rays) for part in self.heart]
        middle, below = self.mediastinum(rays), self.below(rays)
        blocks = [*heart, *middle, *below]
        chord = span[1] - span[0] - covered(span, blocks)
        free = np.ones(rays.x.shape, bool)
        for low, high in blocks:
            free &= high <= low
        return Lungs(span, tuple(blocks), chord, free & (chord > 0.3))

    def place(self, side: int, up: float, out: float, front: float) -> tuple[float, float, float]:
        """Position in a lung from relative coordinates (see `Lesion`), cm."""
        top, bottom = self.apex + 1.5, self.dome_tops[0 if side < 0 else 1] + 1.0
        y = np.float32(top + up * (bottom - top))
        inner = 2.6 * self.scale + (3.2 * self.scale if side > 0 else 1.2) * float(np.clip((y + 1) / 6, 0, 1))
        x = inner + out * (float(self.half_width(y)) - inner)
        room = float(self.half_depth(y)) * max(1 - (x / float(self.half_width(y))) ** 2.4, 0.05) ** 0.4167
        return side * x, float(y), float(self.middle(y)) + front * room

    def in_lung(self, points: Floats) -> npt.NDArray[np.bool_]:
        """Whether points (..., 3) lie in lung, tested in 3-D."""
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        wall = np.abs(x / self.half_width(y)) ** 2.4 + np.abs((z - self.middle(y)) / self.half_depth(y)) ** 2.4
        inside = wall < 0.95
        off = (np.abs(x) - 5.2 * self.scale) / (4.0 * self.scale)
        inside &= (y - self.apex) / (2.6 * self.scale) - off * off > ((z + 3) / (5.5 * self.scale)) ** 2
        for part in (*self.heart, *self.vessels, *self.domes):
            inside &= ~part.inside(x, y, z)
        low = np.where(x > 0, self.domes[1].centre[1], self.domes[0].centre[1])
        width = np.where(x > 0, self.mediastinum_left(y), self.mediastinum_right(y))
        return inside & (y < low) & ((x / width) ** 2 + (np.abs(z) / (8.0 * self.scale)) ** 0.87 > 1)

    def wall_distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Rough distance to the chest wall, cm (0 at the pleura)."""
        u, v = np.abs(x / self.half_width(y)), np.abs((z - self.middle(y)) / self.half_depth(y))
        return (1 - (u**2.4 + v**2.4) ** np.float32(1 / 2.4)) * np.float32(11 * self.scale)


def _column(rays: Rays, axis: Floats, width: Floats | float, depth: tuple[float, float, float]) -> Interval:
    """Depth interval inside a vertical column around `axis` (x, cm) of half width `width`.

    `depth` is its middle and half depth in cm, and the power that shapes its flanks: 0.5 is an ellipse, above 1 they taper.
    """
    middle, reach, power = (np.float32(v) for v in depth)
    x, _ = rays.at(float(middle))
    half = reach * np.maximum(1 - ((x - axis) / np.asarray(width, np.float32)) ** 2, 0) ** power
    return middle - half, middle + half
