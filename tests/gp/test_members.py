"""Members evaluated together against each as a potential of its own, whatever the kernel is."""

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.gp import members
from tests.conftest import structures

SHAPE = {"r_cut": 4.0, "n_max": 3, "l_max": 2, "n_directions": 8}


@pytest.fixture(scope="module")
def fitted(labelled):
    """Polynomials beside a kernel with sparse points, of every third structure."""

    def fit(n_sparse=30, **polynomial):
        terms = [
            kp.PolynomialSOAP(n_sparse=n_sparse, **SHAPE, **polynomial),
            kp.SOAPTerm(r_cut=3.5, n_max=2, l_max=1, n_sparse=6),
        ]
        pot = kp.KernelPotential(terms, baseline=[], sigma_forces=0.1, sigma_energy=0.01)
        return pot.fit(labelled[::3], optimize=None, calibrate=False)

    soaps = [
        kp.SOAPTerm(r_cut=r_cut, n_max=3, l_max=2, zeta=zeta, n_sparse=12)
        for r_cut, zeta in ((3.5, 2), (4.0, 3))
    ]
    pot = kp.KernelPotential(soaps, baseline=[], sigma_forces=0.1, sigma_energy=0.01)
    return {
        "sparse points": pot.fit(labelled[::3], optimize=None, calibrate=False),
        "linear": fit(12, degree=1),
        "quadratic": fit(),
        "whole form": fit(full=True),
        "cubic": fit(degree=3),
    }


# Forces of deviations are in single precision, and those of two terms cancel to some part.
PRECISION = 5e-5


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("name", ["linear", "quadratic", "whole form", "cubic", "sparse points"])
def test_members_are_potentials_of_their_own(fitted, name, closed, monkeypatch):
    pot = fitted[name]
    assert bool(pot.model.local.tails) == (name == "whole form")
    if not closed:
        monkeypatch.setattr(members, "MAX_BYTES", 0.0)
    committee = pot.sample(10, 4)  # more than are multiplied together
    known = committee._members
    assert bool(known._several) == closed
    assert bool(known._means) == (closed and name == "cubic")
    for atoms in (structures()["crystal"], structures()["cluster"]):
        found, mean = committee.predict(atoms), pot.predict(atoms)
        for k in (0, 9):
            own = committee[k].predict(atoms)
            spread = np.abs(found.energies - mean.energy).max()  # in double precision
            assert found.energies[k] == pytest.approx(own.energy, abs=1e-6 * spread)
            spread = np.abs(found.forces - mean.forces).max()
            np.testing.assert_allclose(found.forces[k], own.forces, atol=PRECISION * spread)
            if own.stress is not None:
                spread = np.abs(found.stresses - mean.stress).max()
                np.testing.assert_allclose(found.stresses[k], own.stress, atol=PRECISION * spread)


def test_more_members_than_are_evaluated_together(fitted, monkeypatch):
    pot, atoms = fitted["sparse points"], structures()["crystal"]
    expected = pot.sample(10, 4).predict(atoms)
    monkeypatch.setattr(members, "AT_ONCE", 4)
    found = pot.sample(10, 4).predict(atoms)
    for name in ("energies", "forces", "stresses"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)


def test_threads_change_no_bit(fitted):
    committee, atoms = (
        fitted["sparse points"].sample(5, 1),
        structures()["crystal"].repeat((4, 4, 3)),
    )
    assert len(atoms) > members.BATCH
    one, two = (committee.predict(atoms, n_threads=n) for n in (1, 2))
    for name in ("energies", "forces", "stresses"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("name", ["quadratic", "sparse points"])
def test_forces_of_members_are_derivatives_of_their_energies(fitted, name):
    committee, atoms = fitted[name].sample(4, 2), structures()["crystal"]
    step = 0.01
    found = committee.predict(atoms)
    scale = np.abs(found.forces - found.forces.mean(axis=0)).max()
    for atom, axis in ((0, 0), (1, 2)):
        energies = []
        for shift in (-2, -1, 1, 2):
            moved = atoms.copy()
            moved.positions[atom, axis] += shift * step
            energies.append(committee.predict(moved).energies)
        # fourth order in the step
        slopes = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)
        np.testing.assert_allclose(found.forces[:, atom, axis], -slopes, atol=PRECISION * scale)


def test_deviations_have_no_part_of_the_mean(fitted):
    """Of a whole form neither: what is beside the columns is common to all members."""
    pot = fitted["whole form"]
    model, atoms = pot.model, structures()["crystal"]
    system = model.system(atoms)
    committee, deviations = pot.sample(3, 5), model.uncertainty.members
    assert not deviations.tails
    local = model.local
    bare = members.Members(model.design, committee._weights - local.weights)
    together = members.Members(model.design, bare.weights, local.weights, local.tails)
    mean = local.evaluate(system).result
    for one, two, own in zip(
        together.evaluate(system),
        bare.evaluate(system),
        (mean.energies.sum(), system.forces(mean), system.virials(mean)[0]),
        strict=True,
    ):
        np.testing.assert_allclose(one - two, np.broadcast_to(own, one.shape), atol=1e-10)
