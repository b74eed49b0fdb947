"""The compiled accumulation of rows against NumPy."""

import numpy as np
import pytest
from ase.build import bulk

from kernelpot.data.system import System
from kernelpot.terms import _rows
from kernelpot.terms.base import RowGradient
from kernelpot.terms.over_pairs import add_pair_rows


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


@pytest.mark.parametrize("n_virials", [0, 12])
def test_images_of_an_atom_are_taken_together(rng, n_virials, monkeypatch):
    """Small cells, in which most neighbors are images, against all pairs one by one."""
    cells = [bulk("Si", a=5.4), bulk("Cu", "fcc", a=3.6, cubic=True)]
    for k, cell in enumerate(cells):
        cell.rattle(0.1, seed=k)
    system = System.of(cells, 6.0)
    pairs = np.flatnonzero(rng.uniform(size=system.pairs.n_pairs) < 0.8)
    rows = system.pairs.centers[pairs]
    jacobian = rng.normal(size=(len(pairs), 3, 5))
    points, u = rng.normal(size=(7, 5)), rng.normal(size=(system.n_atoms, 5))
    own, slope = rng.normal(size=(2, system.n_atoms, 7))
    gradient = RowGradient(points, u, slope, own, slope)
    compared, single = [], _rows.accumulate
    n_accumulated = []

    def counted(along_points, *others):
        n_accumulated.append(len(along_points))
        single(along_points, *others)

    monkeypatch.setattr(_rows, "accumulate", counted)
    for chunks in ([slice(None)], [slice(k, k + 1) for k in range(len(pairs))]):
        forces, virials = np.zeros((3 * system.n_atoms, 7)), np.zeros((n_virials, 7))
        for some in chunks:
            add_pair_rows(
                system, pairs[some], rows[some], jacobian[some], gradient, None, points.T.copy(),
                forces, virials,
            )  # fmt: skip
        compared.append(np.concatenate([forces, virials]))
    together, one_by_one = compared
    np.testing.assert_allclose(together, one_by_one, rtol=0, atol=1e-12 * np.abs(together).max())
    assert n_accumulated[0] <= 2 * 2 + 4 * 4  # of each atom as a center, and each in its cell
    assert sum(n_accumulated[1:]) == len(pairs)
