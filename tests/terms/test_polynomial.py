"""Monomials of features: the dot-product kernel by its exact features."""

import math
from itertools import combinations_with_replacement

import numpy as np
import pytest
from ase.build import bulk

import kernelpot as kp
from kernelpot.data.system import System
from kernelpot.fit.monomials import choose_monomials
from kernelpot.gp.covariance import covariance_rows
from kernelpot.regression.selection import MINIMUM_PER_CLASS
from kernelpot.terms.dot_product import normalize
from kernelpot.terms.polynomial import (
    PolynomialKernel,
    factors,
    leading_monomials,
    n_monomials,
)
from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import label, structures

DEGREES = [1, 2, 3]
SPECIES = (13, 29)


def all_monomials(n, degree):
    return np.array(list(combinations_with_replacement(range(n), degree)))


def by_numpy(u, index):
    """Monomials times the roots of the multinomial coefficients, one by one."""
    columns = []
    for row in index:
        _, repeated = np.unique(row, return_counts=True)
        ways = math.factorial(len(row)) / np.prod([math.factorial(k) for k in repeated])
        columns.append(np.sqrt(ways) * u[:, row].prod(axis=1))
    return np.stack(columns, axis=1)


@pytest.fixture
def u(rng):
    return normalize(rng.normal(size=(7, 6)))[0]


@pytest.mark.parametrize("degree", DEGREES)
def test_monomials_are_the_exact_features_of_the_dot_product_kernel(u, degree):
    kernel, index = PolynomialKernel(degree, 1.3), all_monomials(6, degree)
    values = kernel.similarity(u, index)
    np.testing.assert_allclose(values, by_numpy(u, index), rtol=1e-13)
    np.testing.assert_allclose(values @ values.T, (u @ u.T) ** degree, atol=1e-14)
    np.testing.assert_allclose(kernel(u, index), 1.69 * values, rtol=1e-14)
    np.testing.assert_allclose(kernel.between(u, u), 1.69 * (u @ u.T) ** degree, atol=1e-14)
    assert len(index) == n_monomials(6, degree)


@pytest.mark.parametrize("degree", DEGREES)
def test_derivatives_of_monomials(u, degree, rng):
    kernel, index = PolynomialKernel(degree, 1.3), all_monomials(6, degree)
    step = rng.normal(size=u.shape)
    sides = [by_numpy(u + h * step, index) for h in (1e-5, -1e-5)]
    along = (sides[0] - sides[1]) / 2e-5
    # truncation: h^2
    np.testing.assert_allclose(kernel.directional(step, u, index), along, atol=1e-9)
    cotangent = rng.normal(size=(len(u), len(index)))
    found = kernel.contract(cotangent, u, index)
    np.testing.assert_allclose(
        np.einsum("ef,ef->e", found, step), np.einsum("em,em->e", cotangent, along), atol=1e-8
    )
    # the part along u, which normalization removes (Euler)
    np.testing.assert_allclose(
        np.einsum("ef,ef->e", found, u),
        np.einsum("em,em->e", cotangent, kernel.own(kernel.similarity(u, index))),
        atol=1e-12,
    )


@pytest.mark.parametrize("degree", DEGREES)
def test_the_closed_form_of_the_mean_is_the_sum(u, degree, rng):
    kernel = PolynomialKernel(degree, 1.3)
    index = all_monomials(5, degree)[::2]  # not all; the last feature has no place
    weights = rng.normal(size=len(index))
    mean, by_u, own = kernel.fast_mean(index, weights)(u)
    similarity = kernel.similarity(u, index)
    expected, slopes, expected_own = kernel.mean_and_slopes(similarity, weights)
    np.testing.assert_allclose(mean, expected, atol=1e-13)
    np.testing.assert_allclose(own, expected_own, atol=1e-13)
    np.testing.assert_allclose(by_u, kernel.contract(slopes, u, index), atol=1e-13)
    assert kernel.fast_mean(index[:0], weights[:0]) is None


def test_a_class_without_monomials(u):
    """As a design has it for a class that the data do not have."""
    kernel, nothing = PolynomialKernel(2, 1.0), np.zeros((0, 6))
    assert kernel.similarity(u, nothing).shape == (7, 0)
    assert kernel.directional(u, u, nothing).shape == (7, 0)
    assert not kernel.contract(np.zeros((7, 0)), u, nothing).any()
    mean, slopes, own = kernel.mean_and_slopes(kernel.similarity(u, nothing), np.zeros(0))
    assert slopes.shape == (7, 0)
    assert not mean.any()
    assert not own.any()


@pytest.mark.parametrize("degree", DEGREES)
def test_monomials_come_by_prior_scale(degree):
    scales = np.array([1.0, 0.7, 0.2, 0.05, 0.0])
    index, scale = leading_monomials(scales, degree)
    assert len(index) == n_monomials(4, degree)  # none of a feature that does not vary
    assert np.all(np.diff(scale) <= 0)
    np.testing.assert_allclose(scale, factors(index) * scales[index].prod(axis=1))
    assert {tuple(row) for row in index} == {tuple(row) for row in all_monomials(4, degree)}


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_factors_are_roots_of_multinomial_coefficients(degree):
    index = np.array(list(combinations_with_replacement(range(4), degree)))
    counts = np.stack([(index == a).sum(axis=1) for a in range(4)], axis=1)
    divisors = [math.prod(map(math.factorial, row)) for row in counts.tolist()]
    expected = np.sqrt(math.factorial(degree) / np.array(divisors))
    np.testing.assert_allclose(factors(index), expected, rtol=1e-15)


def test_classes_share_monomials_by_scale_and_abundance():
    scales = np.array([0.8 ** np.arange(12), 0.8 ** np.arange(12), np.zeros(12)])
    one, two, none = choose_monomials(scales, np.array([1000, 10, 0]), 2, 60)
    assert len(one) + len(two) == 60
    assert len(one) > len(two) >= MINIMUM_PER_CLASS
    assert not len(none)
    # the least of those chosen is not below the largest of those left out
    index, scale = leading_monomials(scales[0], 2)
    np.testing.assert_array_equal(one, index[: len(one)])
    rest = scale[len(one)] * np.sqrt(1000)
    ranked = leading_monomials(scales[1], 2)[1] * np.sqrt(10)
    assert len(two) == MINIMUM_PER_CLASS or ranked[len(two) - 1] >= rest
    # a longer choice starts with a shorter one
    longer = choose_monomials(scales, np.array([1000, 10, 0]), 2, 70)[0]
    np.testing.assert_array_equal(longer[: len(one)], one)


@pytest.mark.parametrize("degree", [1, 3])
def test_every_degree_has_exact_forces_and_rows(labelled, degree):
    """The second is what the conformance tests take."""
    term = kp.PolynomialSOAP.example(SPECIES).changed(degree=degree, n_sparse=20 * degree)
    pot = kp.KernelPotential([term], baseline=[]).fit(labelled, optimize=None)
    atoms = structures()["crystal"]
    found = pot.predict(atoms)
    numerical = numerical_forces(pot, atoms)
    np.testing.assert_allclose(found.forces, numerical, atol=1e-6 * np.abs(numerical).max())
    numerical = numerical_stress(pot, atoms)
    np.testing.assert_allclose(found.stress, numerical, atol=1e-6 * np.abs(numerical).max())
    design = pot.model.design
    rows = dict(covariance_rows(design.terms, design.blocks, System.of([atoms], pot.r_cut)))
    forces = sum(rows[k] @ pot.model.local.weights[b.sparse] for k, b in enumerate(design.blocks))
    np.testing.assert_allclose(
        forces[1 : 1 + 3 * len(atoms)], found.forces.ravel(), atol=1e-9 * np.abs(numerical).max()
    )


def test_all_monomials_are_the_process_itself():
    """With every monomial: mean and variance of the dense Gaussian process on the labels."""
    frames = []
    for seed in range(8):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell((0.94 + 0.02 * seed) * atoms.cell, scale_atoms=True)
        atoms.rattle(0.15, seed=seed)
        atoms.info["REF_energy"] = label(atoms).info["REF_energy"]
        frames.append(atoms)
    sigma = 0.02
    settings = {"baseline": [], "e0": "least_squares", "sigma_energy": sigma}
    term = kp.PolynomialSOAP(r_cut=3.6, n_max=3, l_max=3, n_directions=5, n_sparse=15)
    pot = kp.KernelPotential([term], **settings).fit(frames, optimize=None, calibrate=False)
    model = pot.model
    assert model.design.n_sparse == n_monomials(5, 2)
    descriptor, kernel = model.design.terms[0].descriptor, term.kernel()

    def features(atoms):
        found = descriptor.environments(System.of([atoms], 3.6), slice(0, len(atoms)))
        return kernel.embed(found.x)[0]

    def covariance(one, two):
        """Of what directions span: the part outside is no covariance, but prior variance."""
        return float(np.sum((features(one)[:, :-1] @ features(two)[:, :-1].T) ** 2))

    K = np.array([[covariance(a, b) for b in frames] for a in frames])
    K += np.diag([sigma**2 * len(a) for a in frames])
    e0 = model.e0.total(frames[0].numbers)
    y = np.array([a.info["REF_energy"] for a in frames]) - e0
    new = bulk("Cu", cubic=True)
    new.rattle(0.2, seed=77)
    k = np.array([covariance(new, a) for a in frames])
    found = pot.predict(new, return_std=True)
    assert found.energy - e0 == pytest.approx(k @ np.linalg.solve(K, y), abs=1e-6)
    u = features(new)
    prior = np.sum(kernel.between(u, u))
    expected = prior - k @ np.linalg.solve(K, k)
    assert found.energy_std**2 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"degree": 4}, "`degree` must be 1, 2 or 3, got 4"),
        ({"whitening": 1.5}, "`whitening` must be from 0 to 1"),
        ({"mean_weight": 0.0}, "`mean_weight` must be positive"),
        ({"n_directions": 0}, "`n_directions` must be a positive integer or None"),
        ({"r_cut": 0.9}, "`r_cut` must be larger than 1 Å"),
        ({"central_weight": 0.0}, "`central_weight` must be positive"),
        ({"n_max": 0}, "`n_max` must be an integer >= 1"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        kp.PolynomialSOAP(**{"r_cut": 4.0, **values})


def test_more_monomials_than_there_are_is_refused(labelled):
    term = kp.PolynomialSOAP(r_cut=4.0, n_max=2, l_max=1, n_directions=3)
    with pytest.raises(ValueError, match="`n_sparse` = 50 exceeds the 12 monomials of degree 2"):
        kp.KernelPotential([term.changed(n_sparse=50)], baseline=[]).fit(labelled)
    pot = kp.KernelPotential([term], baseline=[]).fit(labelled, optimize=None)
    assert pot.model.design.n_sparse == 12
    assert "12 monomials instead of" in pot.summary()
    with pytest.raises(ValueError, match="has monomials in place of sparse points"):
        kp.KernelPotential([term], baseline=[], sparse_points=[[(labelled[0], 0)]]).fit(labelled)


def test_an_update_adds_the_next_monomials(labelled):
    term = kp.PolynomialSOAP(r_cut=4.0, n_max=3, l_max=2, n_directions=8, n_sparse=50)
    pot = kp.KernelPotential([term], baseline=[]).fit(labelled[:20], optimize=None)
    n = pot.model.design.n_sparse
    before = [block.points for block in pot.model.design.blocks]
    pot.update(labelled[20:], add_sparse=3, data=labelled[:20])
    assert pot.model.design.n_sparse == n + 3
    for block, points in zip(pot.model.design.blocks, before, strict=True):
        np.testing.assert_array_equal(block.points[: len(points)], points)
    pot.update(labelled[:1], add_sparse=50, data=labelled)
    assert pot.model.design.n_sparse == 72
    notes = "; ".join(pot.model.training.notes)
    assert f"{72 - n - 3} monomials added instead of 50: there are no more" in notes
