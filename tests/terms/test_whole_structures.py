"""A term whose environments are whole structures plugs in with one class and one entry."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from ase.build import molecule

import kernelpot as kp
from kernelpot.data.system import System
from kernelpot.gp.covariance import covariance_rows
from kernelpot.terms.base import Environments
from kernelpot.terms.kinds import TERMS
from kernelpot.terms.parameters import TermBase
from kernelpot.terms.stationary import GaussianKernel
from kernelpot.testing import numerical_forces
from tests.conftest import label


@dataclass(frozen=True)
class InverseDistancesTerm(TermBase):
    """All inverse distances of a molecule, as sGDML has them."""

    delta: float = 1.0
    n_sparse: int | None = None
    sparse_method: str = "farthest_point"

    kind: ClassVar[str] = "inverse_distances"
    r_cut: ClassVar[float] = 0.0
    searched: ClassVar[dict] = {}

    def descriptor(self, species, constants=None):
        return InverseDistances(species)

    def kernel(self):
        return GaussianKernel(0.2, self.delta)

    def describe(self):
        return ["inverse distances"]


@dataclass(frozen=True)
class InverseDistances:
    species: tuple[int, ...]
    n_atoms: int = 9

    keys = [()]
    r_cut = 0.0
    has_centers = False
    one_per_atom = False

    @property
    def n_features(self):
        return self.n_atoms * (self.n_atoms - 1) // 2

    def center_species(self, key):
        return ()

    def count(self, system):
        return np.array([system.n_structures])

    def environments(self, system, atoms):
        i, j = np.triu_indices(self.n_atoms, 1)
        positions = np.array([a.positions for a in system.structures])
        d = positions[:, j] - positions[:, i]
        n = system.n_structures
        x = 1.0 / np.linalg.norm(d, axis=2)
        return Environments(np.zeros(n, int), np.full(n, -1), np.arange(n), x, None, d)

    def _jacobian(self, found, e):
        """Derivatives of the features of a structure by its positions, (n_atoms, 3, n_features)."""
        i, j = np.triu_indices(self.n_atoms, 1)
        by_j = -(found.x[e] ** 3)[:, None] * found.state[e]
        jacobian = np.zeros((self.n_atoms, 3, self.n_features))
        pairs = np.arange(self.n_features)
        jacobian[j, :, pairs] = by_j
        jacobian[i, :, pairs] = -by_j
        return jacobian

    def pull(self, system, found, by_x, by_weight, out):
        for e in range(len(found)):
            own = slice(system.first_atom[e], system.first_atom[e + 1])
            out.forces[own] -= self._jacobian(found, e) @ by_x[e]

    def add_rows(self, system, found, chosen, gradient, force_rows, virial_rows):
        for row, e in enumerate(chosen):
            jacobian = self._jacobian(found, e).reshape(-1, self.n_features)
            by_x = gradient.slope[row][:, None] * (
                gradient.points - gradient.own[row][:, None] * gradient.at[row]
            )
            first = 3 * system.first_atom[e]
            force_rows[first : first + len(jacobian)] -= jacobian @ by_x.T

    def tangents(self, system, found):
        return _Tangents(self._jacobian(found, 0))

    def to_arrays(self):
        return {}


@dataclass(frozen=True)
class _Tangents:
    jacobian: np.ndarray

    def moved_by(self, atom):
        return np.array([0]), self.jacobian[atom][None], None

    def strained(self, members):
        raise AssertionError("a molecule has no strain")


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(TERMS, InverseDistancesTerm.kind, InverseDistancesTerm)


@pytest.fixture
def molecules():
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(24):
        atoms = molecule("CH3CH2OH")
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        frames.append(label(atoms))
    return frames


@pytest.mark.parametrize("beside", [False, True])
def test_a_whole_structure_term_runs_through_everything(registered, molecules, beside, tmp_path):
    terms = [InverseDistancesTerm(n_sparse=15)]
    if beside:
        terms.append(kp.SOAPTerm(r_cut=3.0, n_max=3, l_max=2, n_sparse=40))
    pot = kp.KernelPotential(terms, baseline=[kp.Wall()]).fit(molecules[:20])
    assert pot.model.calibration is not None
    design = pot.model.design
    atoms = molecules[21].copy()
    system = System.of([atoms], design.r_cut)
    rows = dict(covariance_rows(design.terms, design.blocks, system))
    rows = np.concatenate([rows[k] for k in range(len(design.blocks))], axis=1)
    expected = rows @ pot.model.local.weights
    found = pot.model.local.evaluate(pot.model.system(atoms))
    assert found.energies.sum() == pytest.approx(expected[0], rel=1e-10)
    predicted = pot.predict(atoms, return_std=True, gate=True)
    np.testing.assert_allclose(predicted.forces, numerical_forces(pot, atoms), atol=1e-5)
    assert predicted.energy_std > 0
    assert np.all(predicted.forces_std > 0)
    sampled = pot.sample(3, 1)
    one = sampled[1].predict(atoms)
    together = sampled.predict(atoms)
    assert together.energies[1] == pytest.approx(one.energy, abs=1e-8)
    # what SOAP deviates by is in single precision
    spread = np.abs(one.forces - predicted.forces).max()
    atol = 5e-5 * spread if beside else 1e-8
    np.testing.assert_allclose(together.forces[1], one.forces, atol=atol)
    pot.save(tmp_path / "model.kpot")
    again = kp.load(tmp_path / "model.kpot").predict(atoms, return_std=True, gate=True)
    np.testing.assert_array_equal(again.forces, predicted.forces)
    np.testing.assert_array_equal(again.forces_std, predicted.forces_std)


def test_energies_of_no_single_atom_are_outside_the_net_and_that_is_said(registered, molecules):
    pot = kp.KernelPotential([InverseDistancesTerm(n_sparse=15)]).fit(molecules, optimize=None)
    assert "outside the net, as no term has energies of single atoms" in pot.summary()
    atoms = molecules[0].copy()
    atoms.positions[0] += 0.4
    atoms.calc = pot.calculator()
    np.testing.assert_allclose(atoms.get_forces(), pot.predict(atoms).forces)
    assert atoms.calc.uncertainty["n_beyond"] == 0
    assert not atoms.calc.uncertainty["penalty"].any()
