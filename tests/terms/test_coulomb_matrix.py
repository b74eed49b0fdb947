"""Eigenvalues of the Coulomb matrix against dscribe, and their derivatives."""

import numpy as np
import pytest
from ase.build import molecule
from dscribe.descriptors import CoulombMatrix

import kernelpot as kp
from kernelpot.data.system import System
from tests.conftest import label


@pytest.fixture
def ethanol(rng):
    atoms = molecule("CH3CH2OH")
    atoms.positions += 0.05 * rng.normal(size=(9, 3))
    return atoms


def test_eigenvalues_are_those_of_dscribe(ethanol):
    oracle = CoulombMatrix(n_atoms_max=9, permutation="eigenspectrum").create(ethanol)
    found = kp.CoulombMatrixTerm().descriptor((1, 6, 8)).features(ethanol)
    assert np.all(np.diff(found) <= 0)
    # dscribe sorts by absolute values
    np.testing.assert_allclose(found, np.sort(oracle)[::-1], atol=1e-9)


def test_derivatives_go_through_the_eigenvectors(ethanol):
    descriptor = kp.CoulombMatrixTerm().descriptor((1, 6, 8))
    found = descriptor.jacobian(ethanol)
    h = 1e-5
    for i in range(9):
        for c in range(3):
            values = []
            for sign in (1, -1):
                moved = ethanol.copy()
                moved.positions[i, c] += sign * h
                values.append(descriptor.features(moved))
            slope = (values[0] - values[1]) / (2 * h)
            # eigenvalues of up to 70 / Å are rounded at 1e-14, and divided by the step
            np.testing.assert_allclose(found[i, c], slope, atol=1e-7)


def test_like_atoms_may_change_places(ethanol):
    descriptor = kp.CoulombMatrixTerm().descriptor((1, 6, 8))
    swapped = ethanol.copy()
    hydrogens = np.flatnonzero(ethanol.numbers == 1)
    swapped.positions[hydrogens] = ethanol.positions[np.roll(hydrogens, 2)]
    one, two = (descriptor.features(a) for a in (ethanol, swapped))
    np.testing.assert_allclose(one, two, atol=1e-10)


def test_features_are_centred_and_spread_alike():
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(12):
        atoms = molecule("H2O")
        atoms.positions += 0.05 * rng.normal(size=(3, 3))
        frames.append(label(atoms))
    term = kp.CoulombMatrixTerm(n_sparse=10)
    constants, _ = term.learned((1, 8), frames)
    descriptor = term.descriptor((1, 8), constants)
    x = descriptor.environments(System.of(frames, 0.0), slice(0, 36)).x
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-12)
    assert x.std(axis=0).max() == pytest.approx(1 / np.sqrt(3))
    pot = kp.KernelPotential([term], baseline=[]).fit(frames, optimize=None)
    assert "eigenvalues of the Coulomb matrix of a whole molecule" in pot.summary()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length_scale": -1.0}, "`length_scale` must be positive"),
        ({"function": "cubic"}, "`function` must be one of gaussian, matern52"),
    ],
)
def test_wrong_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.CoulombMatrixTerm(**arguments)
