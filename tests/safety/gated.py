"""A potential seen through a gate, for the tests of the safety net."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms

import kernelpot as kp
from kernelpot.safety.gate import (
    VarianceGate,
)
from kernelpot.safety.thresholds import KAPPA, SafetyNet, gate_std
from kernelpot.testing import numerical_forces, numerical_stress


def net_of(known, width, contact, d_min=(), average=None):
    """A net of given limits."""
    average = np.full(2, -1e6) if average is None else average
    return SafetyNet(known, width, average, contact, dict(d_min), np.zeros(2), np.ones(2))


@dataclass
class Gated:
    """A potential seen through a gate."""

    potential: kp.KernelPotential
    gate: VarianceGate | bool | None

    def predict(self, atoms):
        return self.potential.predict(atoms, gate=self.gate)


def exact_std(potential, atoms):
    """Local standard deviations as the gate sees them, of all atoms."""
    return gate_std(potential.model.local, potential.model.system(atoms))


def gate_with(potential, atoms, beyond, kappa=KAPPA):
    """A gate beyond which there are no, some or all atoms of a structure."""
    std = np.sort(exact_std(potential, atoms))
    known = {"none": 1.1 * std[-1], "some": 0.5 * (std[0] + std[-1]), "all": 0.5 * std[0]}
    return VarianceGate(std_known=known[beyond], kappa=kappa, on_gate=None)


def counts(found, beyond):
    """Whether no, some or all atoms are beyond."""
    n, of = np.count_nonzero(found.penalty), len(found.penalty)
    return {"none": n == 0, "some": 0 < n < of, "all": n == of}[beyond]


def assert_derivatives(gated, atoms, step=3e-5):
    """Forces and stress are derivatives of the energy."""
    found = gated.predict(atoms)
    scale = max(1.0, np.abs(found.forces).max())
    numerical = numerical_forces(gated, atoms, step=step)
    np.testing.assert_allclose(found.forces, numerical, atol=1e-6 * scale)
    if atoms.pbc.all():
        numerical = numerical_stress(gated, atoms, step=step)
        np.testing.assert_allclose(found.stress, numerical, atol=1e-7 * scale)
    return found


def crowded(potential, distances):
    """A copper atom with neighbors at the given fractions of the shortest distance."""
    d_min = potential.fitted_.safety.d_min[29, 29]
    directions = np.array([[1.0, 0.1, 0.0], [-0.2, 1.0, 0.3], [0.1, -0.3, -1.0]])
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    points = [np.zeros(3)]
    points += [f * d_min * u for f, u in zip(distances, directions, strict=False)]
    return Atoms(f"Cu{len(points)}", points)


def kernels_and_baseline(potential, atoms):
    """Energies of the atoms by kernels alone, and by free atoms and baseline."""
    model = potential.model
    system = model.system(atoms)
    local = model.local.evaluate(system, gradient=False).energies
    return local, model.reference.evaluate(system).energies
