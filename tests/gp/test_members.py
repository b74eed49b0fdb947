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

    return {
        "linear": fit(12, degree=1),
        "quadratic": fit(),
        "whole form": fit(full=True),
        "cubic": fit(degree=3),
    }


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("name", ["linear", "quadratic", "whole form", "cubic"])
def test_members_are_potentials_of_their_own(fitted, name, closed, monkeypatch):
    pot = fitted[name]
    assert bool(pot.model.local.tails) == (name == "whole form")
    if not closed:
        monkeypatch.setattr(members, "MAX_BYTES", 0.0)
    committee = pot.sample(10, 4)  # more than are multiplied together
    assert bool(committee._members._means) == closed
    for atoms in (structures()["crystal"], structures()["cluster"]):
        found = committee.predict(atoms)
        for k in (0, 9):
            own = committee[k].predict(atoms)
            assert found.energies[k] == pytest.approx(own.energy, abs=1e-8)
            np.testing.assert_allclose(found.forces[k], own.forces, atol=1e-8)
            if own.stress is not None:
                np.testing.assert_allclose(found.stresses[k], own.stress, atol=1e-9)


def test_deviations_have_no_part_of_the_mean(fitted):
    """Of a whole form neither: what is beside the columns is common to all members."""
    pot = fitted["whole form"]
    model, atoms = pot.model, structures()["crystal"]
    system = model.system(atoms)
    committee, deviations = pot.sample(3, 5), model.members
    assert not deviations.tails
    together = members.Members(model.design, committee._weights, model.local.tails)
    bare = members.Members(model.design, committee._weights - model.local.weights)
    mean = model.local.evaluate(system).result
    for one, two, own in zip(
        together.evaluate(system),
        bare.evaluate(system),
        (mean.energies.sum(), system.forces(mean), system.virials(mean)[0]),
        strict=True,
    ):
        np.testing.assert_allclose(one - two, np.broadcast_to(own, one.shape), atol=1e-8)
