"""The compiled accumulation of rows against NumPy."""

import numpy as np

from kernelpot.terms import _rows


def test_accumulated_rows_are_einsums(rng):
    n_pairs, n_points, n_atoms, n_structures = 9, 4, 6, 2
    along_points = rng.normal(size=(n_pairs, 3, n_points))
    along_self = rng.normal(size=(n_pairs, 3))
    center = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3])
    atom = np.array([0, 0, 2, 2, 2, 3, 3, 5, 5])
    neighbor = np.array([1, 0, 0, 1, 2, 4, 5, 3, 4])  # one atom sees its own image
    structure = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    displacement = rng.normal(size=(n_pairs, 3))
    own, slopes = rng.normal(size=(4, n_points)), rng.normal(size=(4, n_points))
    forces = np.zeros((3 * n_atoms, n_points))
    virials = np.zeros((6 * n_structures, n_points))
    _rows.accumulate(
        along_points, along_self, center, atom, neighbor, structure, displacement, own,
        slopes, forces, virials,
    )  # fmt: skip
    self_part = own[center][:, None, :] * along_self[:, :, None]
    d = slopes[center][:, None, :] * (along_points - self_part)
    expected = np.zeros((n_atoms, 3, n_points))
    np.add.at(expected, atom, d)
    np.subtract.at(expected, neighbor, d)
    np.testing.assert_allclose(forces.reshape(expected.shape), expected, rtol=1e-12, atol=1e-14)
    full = np.zeros((n_structures, 3, 3, n_points))
    np.add.at(full, structure, -np.einsum("pa,pbm->pabm", displacement, d))
    for k, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        np.testing.assert_allclose(virials[k::6], full[:, a, b], rtol=1e-12, atol=1e-14)
