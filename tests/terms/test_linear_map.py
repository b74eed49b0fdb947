"""Linear maps of other terms' features."""

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.data.system import System
from tests.conftest import structures

SOAP = kp.SOAPTerm(r_cut=4.0, n_max=3, l_max=2, n_sparse=40)
SPECIES = (13, 29)


def test_an_orthogonal_map_changes_nothing(labelled, rng):
    n = SOAP.descriptor(SPECIES).n_features
    turn = np.linalg.qr(rng.normal(size=(n, n)))[0]
    plain, mapped = (
        kp.KernelPotential([term], baseline=[kp.Wall()]).fit(labelled, optimize=None)
        for term in (SOAP, kp.LinearMap(SOAP, turn))
    )
    atoms = structures()["crystal"]
    one, two = (p.predict(atoms, return_std=True) for p in (plain, mapped))
    assert one.energy == pytest.approx(two.energy, abs=1e-6)
    np.testing.assert_allclose(one.forces, two.forces, atol=1e-5)
    np.testing.assert_allclose(one.forces_std, two.forces_std, rtol=1e-3)


def test_principal_directions_lose_least(labelled):
    """Of all maps to so few features none keeps more of the features' squares."""
    found = kp.LinearMap.principal(SOAP, labelled, 6)
    descriptor, kernel = SOAP.descriptor(SPECIES), SOAP.kernel()
    for k, name in enumerate(("Al", "Cu")):
        u = []
        for atoms in labelled:
            system = System.of([atoms], SOAP.r_cut)
            own = descriptor.environments(system, slice(0, len(atoms)))
            u.append(kernel.embed(own.x[own.key == k])[0])
        values = np.linalg.svd(np.concatenate(u), compute_uv=False)
        kept = np.square(np.concatenate(u) @ found.matrix[name]).sum()
        assert kept == pytest.approx(np.square(values[:6]).sum(), rel=1e-10)
        np.testing.assert_allclose(found.matrix[name].T @ found.matrix[name], np.eye(6), atol=1e-12)


def test_few_directions_do_nearly_as_well(labelled):
    plain, mapped = (
        kp.KernelPotential([term], baseline=[kp.Wall()]).fit(labelled, optimize=None)
        for term in (SOAP, kp.LinearMap.principal(SOAP, labelled, 20))
    )
    key = "forces_mae_ev_per_ang"
    # a third of the features
    assert mapped.model.training.errors[key] < 1.5 * plain.model.training.errors[key]


def test_a_map_that_leaves_nothing_of_an_environment_is_refused(labelled):
    atoms = structures()["cluster"]
    descriptor = SOAP.descriptor(SPECIES)
    free = descriptor.environments(System.of([atoms[[0]]], 4.0), slice(0, 1)).x[0]
    blind = np.flatnonzero(free == 0)[:4]  # features that a free atom does not have
    term = kp.LinearMap(SOAP, np.eye(len(free))[:, blind])
    with pytest.raises(ValueError, match="sends an environment of Cu to nothing"):
        term.descriptor(SPECIES).environments(System.of([atoms[[0]]], 4.0), slice(0, 1))


@pytest.mark.parametrize(
    ("term", "matrix", "error", "message"),
    [
        ({"kind": "pair"}, np.eye(2), TypeError, "`term` must be a term"),
        (kp.SOAPTerm, np.eye(2), TypeError, "`term` must be a term"),
        (kp.PolynomialSOAP(r_cut=4.0), np.eye(2), TypeError, "maps its features itself"),
        (SOAP, np.ones(3), ValueError, "two-dimensional"),
        (SOAP, [[np.nan]], ValueError, "finite"),
        (SOAP, {"Al": np.eye(3), "Cu": np.eye(4)}, ValueError, "of one shape"),
    ],
)
def test_wrong_maps_are_refused(term, matrix, error, message):
    with pytest.raises(error, match=message):
        kp.LinearMap(term, matrix)


def test_maps_that_do_not_fit_the_species_are_refused(labelled):
    n = SOAP.descriptor(SPECIES).n_features
    for matrix, message in (
        (np.eye(3), f"must have {n} rows"),
        ({"Al": np.eye(n)}, "has none for Cu"),
        ({"Al": np.eye(n), "Cu": np.eye(n), "Xe": np.eye(n)}, "`matrix` names Xe"),
    ):
        with pytest.raises(ValueError, match=message):
            kp.KernelPotential([kp.LinearMap(SOAP, matrix)]).fit(labelled)
    with pytest.raises(ValueError, match="no environment of Al-Al"):
        kp.LinearMap.principal(kp.PairTerm(r_cut=1.5), labelled, 1)
