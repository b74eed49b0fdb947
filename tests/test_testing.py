"""Finite differences of a function whose derivatives are known."""

import types

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import rattled_alloy


class Emt:
    """EMT's energies by `predict`, and nothing else."""

    def predict(self, atoms):
        assert atoms.calc is None
        work = atoms.copy()
        work.calc = EMT()
        return types.SimpleNamespace(energy=work.get_potential_energy())


@pytest.fixture
def crystal():
    atoms = rattled_alloy(2, (1, 1, 1))
    atoms.set_array("charges", np.arange(4.0))
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.calc = EMT()
    return atoms


def test_derivatives_are_those_of_the_energy(crystal):
    expected = crystal.get_forces(apply_constraint=False)
    # a step of 1e-4 squared, times third derivatives of some eV/Å^3 (EMT's)
    np.testing.assert_allclose(numerical_forces(Emt(), crystal), expected, atol=1e-7)
    np.testing.assert_allclose(numerical_stress(Emt(), crystal), crystal.get_stress(), atol=1e-7)


def test_the_structure_stays_as_it_was(crystal):
    before = crystal.copy()
    calculator = crystal.calc
    numerical_forces(Emt(), crystal)
    numerical_stress(Emt(), crystal)
    assert crystal == before
    assert crystal.calc is calculator
    assert len(crystal.constraints) == 1


def test_arrays_and_steps_reach_the_potential():
    seen = []

    class Charged:
        def predict(self, atoms):
            seen.append((atoms.positions[0, 0], atoms.cell[0, 0]))
            return types.SimpleNamespace(
                energy=float(atoms.arrays["charges"] @ atoms.positions[:, 0])
            )

    atoms = Atoms("NaCl", [[0, 0, 0], [2.4, 0, 0]], cell=[5, 5, 5], pbc=True)
    atoms.set_array("charges", np.array([1.0, -2.0]))
    np.testing.assert_allclose(
        numerical_forces(Charged(), atoms, step=0.1), [[-1, 0, 0], [2, 0, 0]], atol=1e-12
    )
    assert max(x for x, _ in seen) == pytest.approx(0.1)
    stress = numerical_stress(Charged(), atoms, step=0.01)
    np.testing.assert_allclose(stress, np.array([-4.8, 0, 0, 0, 0, 0]) / 125, atol=1e-12)
    assert max(x for _, x in seen) == pytest.approx(5.05)
