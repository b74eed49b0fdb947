"""Damping: kernels fall silent where atoms are nearer than those of the data."""

import numpy as np
import pytest
from ase import Atoms

import kernelpot as kp
from kernelpot.data.neighbors import neighbor_list
from kernelpot.safety.thresholds import KAPPA
from tests.conftest import rattled_alloy
from tests.safety.gated import (
    Gated,
    assert_derivatives,
    counts,
    crowded,
    gate_with,
    kernels_and_baseline,
    net_of,
)


@pytest.mark.parametrize(
    "distances", [(0.6,), (0.62, 0.66), (0.55, 0.65, 0.69), (0.45, 0.6), (0.3, 0.4), (0.71,)]
)
def test_damping_is_differentiated_with_and_without_a_gate(potential, distances):
    atoms = crowded(potential, distances)
    assert_derivatives(Gated(potential, None), atoms, step=1e-5)
    for kappa in (1.0, 5.0):
        for beyond in ("none", "some", "all"):
            if beyond == "some" and len(atoms) == 2:
                continue  # one is the image of the other
            gated = Gated(potential, gate_with(potential, atoms, beyond, kappa))
            assert counts(assert_derivatives(gated, atoms, step=1e-5), beyond)


def test_atoms_pressed_into_a_crystal_have_exact_stress_too(potential):
    """Damped and beyond, with neighbors that are neither."""
    atoms = rattled_alloy(5, (2, 1, 1), 0.05)
    towards = atoms.get_distance(0, 1, mic=True, vector=True)
    d_min = min(potential.fitted_.safety.d_min.values())
    atoms.positions[0] += towards * (1 - 0.63 * d_min / np.linalg.norm(towards))
    system = potential.model.system(atoms)
    damping = potential.model.safety.damping(system.numbers, system.pairs, system.distances)
    assert 0 < damping.keep.min() < 1
    gated = Gated(potential, gate_with(potential, atoms, "some"))
    assert counts(assert_derivatives(gated, atoms, step=1e-5), "some")


def test_contact_lies_above_every_local_energy_of_the_data(potential, labelled):
    """By three of the prior standard deviations, all that is possible."""
    model = potential.model
    largest = np.full(2, -np.inf)
    for frame in labelled:
        local, _ = kernels_and_baseline(potential, frame)
        np.maximum.at(largest, model.system(frame).z_index(model.species), local)
    prior = np.sqrt(sum(term.delta**2 for term in potential.terms))
    np.testing.assert_allclose(model.safety.contact, largest + KAPPA * prior, atol=1e-8)


def test_damping_is_the_product_over_neighbors():
    d_min = {(13, 13): 2.0, (13, 29): 1.0, (29, 29): 3.0}
    net = net_of(np.ones(2), np.full(2, 0.5), np.zeros(2), d_min)
    atoms = Atoms("CuAlCu", [[0, 0, 0], [0.6, 0, 0], [0, 1.8, 0]])
    pairs = neighbor_list(atoms, 4.0)
    distances = np.linalg.norm(pairs.displacements(atoms.positions), axis=1)
    damping = net.damping(atoms.numbers, pairs, distances)
    # halfway between 0.5 and 0.7 of the pair's own distance a C2 step is 1/2
    np.testing.assert_allclose(damping.keep, [0.25, 0.5, 0.5], atol=1e-12)
    apart = Atoms("CuAlCu", [[0, 0, 0], [3, 0, 0], [0, 3, 0]])
    pairs = neighbor_list(apart, 4.0)
    distances = np.linalg.norm(pairs.displacements(apart.positions), axis=1)
    assert net.damping(apart.numbers, pairs, distances) is None


def test_damping_touches_no_training_structure(potential, labelled):
    for frame in labelled:
        pairs = neighbor_list(frame, potential.r_cut)
        distances = np.linalg.norm(pairs.displacements(frame.positions), axis=1)
        assert potential.fitted_.safety.damping(frame.numbers, pairs, distances) is None


@pytest.mark.parametrize("gate", [None, True])
def test_kernel_noise_cannot_fight_the_wall(potential, gate):
    """Every pair repels, ever more, from well inside the data down to 0.2 Å."""
    for pair, d_min in potential.fitted_.safety.d_min.items():
        # from 0.5 d_min inwards the kernels are silent
        distances = np.linspace(0.5 * d_min, 0.2, 60)
        energies = [
            potential.predict(Atoms(pair, [[0, 0, 0], [0, 0, r]]), gate=gate).energy
            for r in distances
        ]
        assert np.all(np.diff(energies) > 0)


def test_without_a_wall_nothing_is_damped(labelled, small_terms):
    bare = kp.KernelPotential(small_terms[:1], baseline=[]).fit(labelled)
    assert bare.fitted_.safety.d_min == {}
    close = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.3]])
    local, free = kernels_and_baseline(bare, close)
    assert abs(local.sum()) > 0.01
    assert free.sum() == pytest.approx(bare.model.e0.total(close.numbers), rel=1e-12)
    assert bare.predict(close).energy == pytest.approx(free.sum() + local.sum(), rel=1e-12)
