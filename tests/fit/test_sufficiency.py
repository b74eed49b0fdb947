"""Data that are too few are said to be, with what would help."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

import kernelpot as kp
from kernelpot.baseline.free_atoms import atomic_energies
from kernelpot.data.dataset import Frame
from kernelpot.fit.sufficiency import (
    FewDataWarning,
    _little_known,
    _one_volume,
    effective_labels,
)
from kernelpot.safety.thresholds import LARGEST_SHARE_OF_PRIOR, SafetyNet


def frame(formula, energy=-1.0, forces=None, virial=None):
    atoms = Atoms(formula)
    atoms.positions = 2.5 * np.arange(3 * len(atoms)).reshape(-1, 3)
    return Frame(atoms, energy, forces, virial, name=formula)


@pytest.mark.parametrize(
    ("formulas", "undetermined"),
    [
        (["Cu3Al", "Cu6Al2"], [13, 29]),
        (["Cu3Al", "CuAl"], []),
        (["Cu2", "Cu3Al"], []),
        (["Cu3Al", "Cu2", "AlNiO", "AlNiO"], [8, 28]),
    ],
)
def test_species_whose_free_atoms_compositions_leave_open(formulas, undetermined):
    data = kp.Dataset([frame(f, -2.0 - k) for k, f in enumerate(formulas)])
    assert sorted(atomic_energies(data).undetermined) == undetermined


def test_effective_labels_are_those_that_say_something():
    forces = np.ones((3, 3))
    forces[0] = 0.0  # a copper atom on a site of symmetry
    data = [
        frame("Cu2Al", forces=forces),
        frame("Cu", forces=np.zeros((1, 3))),  # a free atom has no environment
        frame("AlNi", energy=None, virial=np.eye(3)),
    ]
    assert effective_labels((13, 28, 29), data) == {13: 1 + 3 + 6, 28: 6, 29: 1 + 3}


def test_cells_of_one_volume_without_stresses_tell_no_pressure():
    def cells(factors, virial=None):
        return [
            Frame(bulk("Cu", a=3.6 * f) * (2, 1, 1), -1.0, np.ones((2, 3)), virial, name="bulk")
            for f in factors
        ]

    (text,) = _one_volume(cells([1.0, 1.001]))
    assert "all cells have 11.7 Å^3 per atom, and no stresses" in text
    assert _one_volume(cells([1.0, 1.02])) == []
    assert _one_volume(cells([1.0, 1.0], np.eye(3))) == []
    assert _one_volume(cells([2.0, 2.0])) == []  # a box
    assert _one_volume([frame("Cu2Al")]) == []


def test_little_known_species_are_named():
    def net(share):
        ones = np.ones(2)
        return SafetyNet(ones, ones, ones, ones, {}, np.array([0.01, share]), ones)

    assert _little_known((13, 29), net(0.9 * LARGEST_SHARE_OF_PRIOR)) == []
    (text,) = _little_known((13, 29), net(0.5))
    assert "local std of Cu is up to 0.5 x that of the prior" in text


def crystals(n):
    frames = []
    for seed in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.numbers[0] = 13
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = None
        frames.append(atoms)
    return frames


def test_a_fit_to_few_data_says_so_loudly():
    pot = kp.KernelPotential(preset="fast", n_sparse=20)
    with pytest.warns(FewDataWarning) as caught:
        pot.fit(crystals(6), optimize=None)
    said = [str(w.message) for w in caught]
    assert any("do not determine the energies of free atoms of Al, Cu" in text for text in said)
    assert any("few labels: 24 of Al, 60 of Cu" in text for text in said)
    assert list(pot.model.training.shortcomings) == said
    lines = pot.summary().split("\n")
    assert lines[1 : 1 + len(said)] == [f"WARNING, {text}" for text in said]
