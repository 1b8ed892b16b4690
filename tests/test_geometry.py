"""Padding, resizing and boxes, by hand."""

from __future__ import annotations

import numpy as np

from bench.data import geometry


def test_geometry_by_hand() -> None:
    """A 20 x 10 image (width x height): 5 rows of padding above and below; at 10 pixels everything halves."""
    frame = geometry.Frame(10, 20, 10)
    assert frame.offset == (5, 0)
    assert frame.content == (3, 0, 5, 10)  # 2.5 rounds up, 7.5 to 8
    assert geometry.Frame(10, 20, 20).content == (5, 0, 10, 20)
    assert frame.boxes([(4, 2, 6, 4)]) == ((2.0, 3.5, 3.0, 2.0),)
    image = np.ones((10, 20), dtype=np.float32)
    same = geometry.Frame(10, 20, 20).image(image)
    assert same[5:15].all()
    assert not same[:5].any()
    assert not same[15:].any()
    small = frame.image(image)
    assert small.shape == (10, 10)
    assert np.allclose(small[[0, 4, 5, 9], 5], [0, 1, 1, 0])
    assert np.allclose(small.sum(), 50, atol=0.5)  # resampling keeps the mass
    mask = np.zeros((10, 20), dtype=np.uint8)
    mask[:, :10], mask[:, 10:] = 1, 255
    codes = geometry.Frame(10, 20, 40).codes(mask)
    assert set(np.unique(codes)) == {0, 1, 255}
    assert (codes[10:30, :20] == 1).all()
    assert (codes[10:30, 20:] == 255).all()
    assert not codes[:10].any()
    ramp = np.linspace(-1, 2, 200, dtype=np.float32).reshape(10, 20)
    assert frame.image(ramp).min() == 0
    assert frame.image(ramp).max() == 1
