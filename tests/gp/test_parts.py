"""From derivatives by embedded features to those by features, against NumPy."""

import numpy as np

from kernelpot.gp import _parts


def test_some_rows(rng):
    u, norm = rng.normal(size=(6, 9)), rng.uniform(1.0, 2.0, 6)
    rows = np.array([4, 1, 5])
    by_u, own = rng.normal(size=(3, 9)), rng.normal(size=3)
    found = np.zeros_like(u)
    _parts.to_features(by_u, own, u, norm, rows, found)
    expected = np.zeros_like(u)
    expected[rows] = (by_u - own[:, None] * u[rows]) / norm[rows, None]
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


def test_all_rows_in_place(rng):
    u, norm = rng.normal(size=(4, 9)), rng.uniform(1.0, 2.0, 4)
    by_u, own = rng.normal(size=(4, 9)), rng.normal(size=4)
    expected = (by_u - own[:, None] * u) / norm[:, None]
    _parts.to_features(by_u, own, u, norm, np.arange(4), by_u)
    np.testing.assert_allclose(by_u, expected, rtol=1e-13, atol=1e-15)
