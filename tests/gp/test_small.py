"""The short way of a few atoms against the general one, and its loops against NumPy."""

import copy

import numba
import numpy as np
import pytest
from ase import Atoms

import kernelpot as kp
from kernelpot.data.system import System
from kernelpot.gp import _quadratic, local
from kernelpot.gp.small import SMALL
from kernelpot.terms import _compression
from kernelpot.terms._soap_vector import LANES
from kernelpot.terms.compression import CompressedDescriptor
from kernelpot.terms.polynomial import LeadingQuadratic
from kernelpot.testing import numerical_forces
from tests.conftest import structures

# an odd number of features and of directions, so that every remainder of the loops has its share
SHAPE = {"r_cut": 4.0, "n_max": 3, "l_max": 2, "n_directions": 21, "delta": 0.8}
ROUNDING = 1e-11


@pytest.fixture(scope="module")
def potentials(labelled):
    """One term each: monomials alone, and a whole form."""

    def fit(**polynomial):
        term = kp.PolynomialSOAP(n_sparse=120, **SHAPE, **polynomial)
        pot = kp.KernelPotential([term], sigma_forces=0.1, sigma_energy=0.01)
        return pot.fit(labelled[::3], optimize=None, calibrate=False, self_test=False)

    return {"monomials": fit(), "whole form": fit(full=True)}


def both_ways(monkeypatch, model, atoms, **options):
    """Predictions in the short way, and with none."""
    found = model.predict(atoms, **options)
    with monkeypatch.context() as patch:
        patch.setattr(local, "SMALL", 0)
        return found, model.predict(atoms, **options)


@pytest.mark.parametrize("name", ["monomials", "whole form"])
@pytest.mark.parametrize("gated", [False, True])
def test_it_leads_where_the_general_way_does(potentials, name, gated, monkeypatch):
    model = potentials[name].model
    gate = kp.VarianceGate(on_gate=None) if gated else None
    ways = []
    general = local.LocalModel._evaluate_runs

    def counted(self, *args):
        ways.append("general")
        return general(self, *args)

    monkeypatch.setattr(local.LocalModel, "_evaluate_runs", counted)
    short = 0
    for atoms in structures().values():
        assert len(atoms) <= SMALL
        ways.clear()
        one, other = both_ways(monkeypatch, model, atoms, gate=gate)
        short += len(ways) == 1
        scale = max(1.0, np.abs(other.forces).max())
        np.testing.assert_allclose(one.energies, other.energies, atol=ROUNDING)
        np.testing.assert_allclose(one.forces, other.forces, atol=ROUNDING * scale)
        if other.stress is not None:
            np.testing.assert_allclose(one.stress, other.stress, atol=ROUNDING * scale)
        if gated:
            np.testing.assert_allclose(one.penalty, other.penalty, atol=ROUNDING)
            # differences of numbers that are up to prior over variance times larger
            np.testing.assert_allclose(one.std_bound, other.std_bound, rtol=1e-7)
    # of the structures without a gate all go the short way
    assert short == len(structures()) or (gated and short > 0)


def test_bounds_are_bounds(potentials, labelled):
    """Of what is known: not below the exact std, not above what counts as known."""
    model = potentials["whole form"].model
    n_known = 0
    for frame in labelled[::3][:6]:
        atoms = frame if isinstance(frame, Atoms) else frame.atoms
        if len(atoms) > SMALL:
            continue
        bound = model.predict(atoms, gate=kp.VarianceGate(on_gate=None)).std_bound
        system = model.system(atoms)
        variances = model.local.gauge_fixed or model.local.variances
        exact = local.LocalModel(model.local.design, model.local.weights, variances)
        std = np.sqrt(exact.evaluate(system, variance=True, gradient=False).variance)
        known = model.safety.std_known[np.searchsorted(model.species, atoms.numbers)]
        # both variances are what is left of the prior: their rounding is a share of that
        assert np.all(bound**2 >= std**2 - 1e-12 * exact.prior(system))
        assert np.all((bound <= known) == (std <= known))
        n_known += int(np.sum(std <= known))
    assert n_known


def test_forces_are_derivatives(potentials):
    pot, atoms = potentials["whole form"], structures()["cluster"]
    expected = numerical_forces(pot, atoms)
    np.testing.assert_allclose(pot.predict(atoms).forces, expected, atol=2e-6)


def test_a_model_of_several_terms_goes_the_general_way(labelled):
    terms = [
        kp.PolynomialSOAP(n_sparse=20, **SHAPE),
        kp.SOAPTerm(r_cut=3.5, n_max=2, l_max=1, n_sparse=6),
    ]
    pot = kp.KernelPotential(terms, sigma_forces=0.1, sigma_energy=0.01)
    pot.fit(labelled[::6], optimize=None, calibrate=False, self_test=False)
    assert pot.model.local._small is None


def test_the_short_way_is_not_in_files(potentials):
    model = potentials["monomials"].model
    model.predict(structures()["cluster"])
    assert "_small" in vars(model.local)
    assert "_small" not in model.local.__getstate__()


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_one_pass_is_its_steps(potentials, n, vector, rng, monkeypatch):
    """Loops against matrix products, for odd and even numbers of environments."""
    if not vector:
        monkeypatch.setattr(CompressedDescriptor, "_vector", False)
    (term,) = potentials["whole form"].model.local.terms
    descriptor, kernel = term.descriptor, term.kernel
    atoms = Atoms(f"Cu{n}Al", rng.normal(size=(n + 1, 3)) + 2.3 * np.arange(n + 1)[:, None])
    system = System.of([atoms], descriptor.r_cut)
    found = descriptor.environments(system, slice(0, n + 1))
    forms = {}
    for key in (0, 1):
        matrix = rng.normal(size=(19 + key, 19 + key))
        forms[key] = matrix + matrix.T
    padded = {key: descriptor.form_of(form) for key, form in forms.items()}
    energies, u, by_inner = descriptor.quadratic(found.state, padded)
    unit, norm = kernel.embed(found.x)
    np.testing.assert_allclose(u, unit, atol=1e-14)
    by_x = np.empty_like(unit)
    for key, form in forms.items():
        own = found.key == key
        mean, by_u, along = LeadingQuadratic(form)(unit[own])
        np.testing.assert_allclose(energies[own], mean, rtol=1e-12, atol=1e-12)
        by_x[own] = (by_u - along[:, None] * unit[own]) / norm[own, None]
    expected = descriptor._by_inner(found, by_x)
    np.testing.assert_allclose(by_inner, expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("lanes", [LANES, (0,) * LANES], ids=["plain", "vector"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_products_of_few_rows_are_numpys(n, lanes, rng):
    """Numbers of rows that are no multiples of what is done together."""

    @numba.njit
    def products(rows, matrix, along, back):
        _compression.times_map(rows, matrix, along, lanes)
        _compression.map_times(along, matrix, back, lanes)

    rows, matrix = rng.normal(size=(n, 27)), rng.normal(size=(27, 3 * LANES))
    along, back = np.full((n, 3 * LANES), np.nan), np.full((n, 27), np.nan)
    products(rows, matrix, along, back)
    np.testing.assert_allclose(along, rows @ matrix, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(back, rows @ matrix @ matrix.T, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("enough", [0.0, 0.6, 2.0])
def test_the_screen_stops_where_it_may(rng, enough):
    n, prior, stages = 130, 1.0, np.array([40, 90, 130])
    u = rng.normal(size=(4, 9))
    u /= np.linalg.norm(u, axis=1)[:, None]
    index = rng.integers(0, 9, size=(n, 2))
    factor = rng.uniform(0.5, 1.5, size=n)
    triangle = np.tril(rng.normal(size=(n, n))) / n
    variance, rows = np.full(4, np.nan), np.array([0, 1, 3])
    above = _quadratic.screen(u, rows, index, factor, triangle, stages, prior, enough, variance)
    k = factor * u[rows][:, index[:, 0]] * u[rows][:, index[:, 1]]
    falling = (prior - np.cumsum((k @ triangle.T) ** 2, axis=1))[:, stages - 1]
    for row, path in zip(rows, falling, strict=True):
        done = np.flatnonzero(path <= enough)
        expected = path[done[0]] if len(done) else path[-1]
        np.testing.assert_allclose(variance[row], expected, rtol=1e-12)
    assert above == np.sum(falling.min(axis=1) > enough)
    assert np.isnan(variance[2])


def test_pairs_that_stay_are_not_taken_for_others(potentials):
    """What is remembered of a list of pairs belongs to the species it was found for."""
    model, atoms = potentials["monomials"].model, structures()["cluster"]
    pairs = model.system(atoms).pairs
    for _ in range(2):
        one = model.predict(atoms, neighbors=pairs)
        other = model.predict(atoms)
        np.testing.assert_array_equal(one.forces, other.forces)
        atoms.numbers = atoms.numbers[::-1].copy()
    assert pairs.memo
    assert "memo" not in vars(copy.deepcopy(pairs))
