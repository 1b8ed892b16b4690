"""A fixed periodic fractal volume; each patient looks into it at an own place and scale."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import map_coordinates

from bench.data.synthetic.projection import Floats

#: Side of the volume in voxels; it repeats beyond.
SIDE = 64


@lru_cache(maxsize=1)
def volume() -> Floats:
    """Fractal noise, SIDE^3, mean 0 and standard deviation 1, periodic."""
    white = np.random.default_rng(20240531).standard_normal((SIDE, SIDE, SIDE))
    k = np.fft.fftfreq(SIDE) * SIDE
    kz = np.fft.rfftfreq(SIDE) * SIDE
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kz[None, None, :] ** 2)
    spectrum = np.where(radius > 1.5, np.maximum(radius, 1) ** -2.1, 0)
    noise = np.fft.irfftn(np.fft.rfftn(white) * spectrum, s=white.shape, axes=(0, 1, 2))
    return (noise / noise.std()).astype(np.float32)


def fractal(x: Floats, y: Floats, z: Floats, offset: tuple[float, float, float], pitch: float) -> Floats:
    """Noise at points.

    Args:
        x, y, z: coordinates in cm, one shape.
        offset: where the patient looks into the volume, in voxels.
        pitch: cm a voxel; the coarsest lumps are about 20 voxels wide.
    """
    scale = np.float32(1 / pitch)
    # a fixed oblique turn keeps the volume's axes from lining up with the rays
    a = 0.80 * x + 0.36 * y + 0.48 * z
    b = -0.60 * x + 0.48 * y + 0.64 * z
    c = -0.80 * y + 0.60 * z
    at = np.stack([np.ravel(v) * scale + np.float32(o) for v, o in zip((a, b, c), offset, strict=True)])
    values = map_coordinates(volume(), at, order=1, mode="grid-wrap", output=np.float32)
    return values.reshape(np.shape(x))
