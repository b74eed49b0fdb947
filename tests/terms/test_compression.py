"""Learned compression: what directions are, and what lies outside of them."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import kernelpot as kp
from kernelpot.data.system import System
from kernelpot.terms import _compression
from kernelpot.terms.compression import (
    FLOOR,
    GRADIENT_WEIGHT,
    CompressedDescriptor,
    directions_from_arrays,
    gains_of,
    learn_directions,
)
from kernelpot.terms.dot_product import normalize
from tests.conftest import label, rattled_alloy, structures

SOAP = kp.SOAPTerm(r_cut=4.0, n_max=3, l_max=2)
SPECIES = (13, 29)


def unit_features(atoms):
    system = System.of([atoms], SOAP.r_cut)
    found = SOAP.descriptor(SPECIES).environments(system, slice(0, len(atoms)))
    return found.key, normalize(found.x)[0]


def test_directions_are_those_of_features_and_of_their_finite_differences():
    """In a cluster each atom is a neighbor of another once."""
    clusters = []
    for seed in range(3):
        cluster = structures()["cluster"]
        cluster.positions += 0.1 * np.random.default_rng(seed).normal(size=(4, 3))
        clusters.append(cluster)
    n = SOAP.descriptor(SPECIES).n_features
    moments, counts = np.zeros((2, n, n)), np.zeros(2)
    h = 1e-4
    for cluster in clusters:
        key, unit = unit_features(cluster)
        for i, k in enumerate(key):
            moments[k] += np.outer(unit[i], unit[i])
            counts[k] += 1
            for j in set(range(4)) - {i}:
                for c in range(3):
                    sides = []
                    for step in (h, -h):
                        moved = cluster.copy()
                        moved.positions[j, c] += step
                        sides.append(unit_features(moved)[1][i])
                    slope = (sides[0] - sides[1]) / (2 * h)
                    moments[k] += GRADIENT_WEIGHT * np.outer(slope, slope)
    found = learn_directions(SOAP.descriptor(SPECIES), clusters, n_directions=5)
    for known, moment, count in zip(found, moments, counts, strict=True):
        values = np.linalg.eigvalsh(moment / count)[::-1]
        # truncation of the differences: h^2
        np.testing.assert_allclose(known.scales**2, values[:5], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(known.vectors.T @ known.vectors, np.eye(5), atol=1e-12)
        kept = np.trace(known.vectors.T @ moment @ known.vectors) / count
        assert known.lost == pytest.approx(1 - kept / values.sum(), abs=1e-7)
        assert known.n_environments == count


def test_free_atoms_take_no_direction_of_what_is_bound(labelled):
    descriptor = SOAP.descriptor(SPECIES)
    one, two = (
        learn_directions(descriptor, frames, n_directions=8)
        for frames in (labelled, [Atoms("Cu"), *labelled, Atoms("Al")])
    )
    for known, again in zip(one, two, strict=True):
        np.testing.assert_array_equal(known.vectors, again.vectors)
    # where there is nothing else
    alone = learn_directions(descriptor, [Atoms("Al"), bulk("Cu", cubic=True)])
    assert np.count_nonzero(alone[0].scales) == 1


def test_what_lies_outside_is_one_more_feature(labelled):
    descriptor = SOAP.descriptor(SPECIES)
    directions = learn_directions(descriptor, labelled, n_directions=8)
    found = CompressedDescriptor(descriptor, directions, 0.3)
    atoms = structures()["slab"]
    system, everything = System.of([atoms], SOAP.r_cut), slice(0, len(atoms))
    p = descriptor.environments(system, everything)
    x = found.environments(system, everything).x
    for k, known in enumerate(directions):
        own = p.key == k
        gains = gains_of(known.scales, 0.3, 1.0)
        assert gains[0] == 1.0
        assert np.all(np.diff(gains) >= 0)
        np.testing.assert_allclose(x[own, :-1], p.x[own] @ known.vectors * gains, atol=1e-12)
        rest = p.x[own] - p.x[own] @ known.vectors @ known.vectors.T
        left = np.square(rest).sum(axis=1) + FLOOR * np.square(p.x[own]).sum(axis=1)
        # a difference of squares of order one
        np.testing.assert_allclose(x[own, -1] ** 2, gains[-1] ** 2 * left, rtol=1e-7)


def test_nothing_is_lost_with_all_directions(labelled):
    """A rotation that is no compression: the kernel is that of SOAP."""
    descriptor = SOAP.descriptor(SPECIES)
    atoms = structures()["crystal"]
    system, everything = System.of([atoms], SOAP.r_cut), slice(0, len(atoms))
    inner = descriptor.environments(system, everything)
    u = normalize(inner.x)[0]
    same = inner.key[:, None] == inner.key
    for directions in (None, learn_directions(descriptor, labelled)):
        found = CompressedDescriptor(descriptor, directions, 0.0)
        x = normalize(found.environments(system, everything).x)[0]
        np.testing.assert_allclose((x @ x.T)[same], (u @ u.T)[same], atol=1e-5)


def test_directions_are_found_again(labelled):
    term = kp.PolynomialSOAP.example(SPECIES)
    constants, notes = term.learned(SPECIES, labelled)
    again = term.descriptor(SPECIES, constants)
    for one, two in zip(again.directions, directions_from_arrays(constants), strict=True):
        np.testing.assert_array_equal(one.vectors, two.vectors)
        np.testing.assert_array_equal(one.scales, two.scales)
    assert again.to_arrays().keys() == constants.keys()
    n = again.inner.n_features
    assert notes[0].startswith(f"{n} features compressed to directions: 12 of Al (")
    # a species that the data do not have
    alone = [a for a in (bulk("Cu", cubic=True), bulk("Cu"))]
    found = learn_directions(SOAP.descriptor(SPECIES), alone)
    assert not found[0].n_environments
    assert not found[0].scales.any()
    assert found[0].vectors.shape == found[1].vectors.shape


# ---- environments of new kinds -----------------------------------------------------


def new_kinds():
    """Structures that rattled crystals tell nothing of."""
    crystal = rattled_alloy(3, (1, 1, 1), 0.05)
    stretched, compressed = (
        Atoms(crystal, cell=factor * crystal.cell.array) for factor in (1.25, 0.8)
    )
    for atoms, factor in ((stretched, 1.25), (compressed, 0.8)):
        atoms.positions *= factor
    return {
        "stretched": stretched,
        "compressed": compressed,
        "free atom": Atoms("Cu"),
        "dimer": Atoms("Al2", [[0, 0, 0], [2.2, 0, 0]]),
    }


def unknown(term, frames, structures):
    """Local std of structures to that of the data's own kind, energies of sites known."""
    pot = kp.KernelPotential([term]).fit(frames, optimize=None)
    seen = pot.predict(rattled_alloy(31, (1, 1, 1), 0.15), gate=True).std_bound.max()
    return {
        name: pot.predict(atoms, gate=True).std_bound.min() / seen
        for name, atoms in structures.items()
    }


def test_features_of_absent_species_cost_nothing_and_count_as_unknown(labelled):
    """Directions have no part of them; what is left has."""
    copper = [bulk("Cu", cubic=True) for _ in range(3)]
    for seed, atoms in enumerate(copper):
        atoms.rattle(0.1, seed=seed)
    term = kp.PolynomialSOAP.example(SPECIES)
    found = term.descriptor(SPECIES, term.learned(SPECIES, copper)[0])
    n = found.inner.n_features
    columns, matrix = found._map_of(1, (0, 1))
    assert len(columns) < n / 2
    assert matrix.shape == (len(columns), found.n_directions)
    alloy = rattled_alloy(2, (1, 1, 1), 0.1)
    left = []
    for atoms in (copper[0], alloy):
        system = System.of([atoms], term.r_cut)
        x = normalize(found.environments(system, slice(0, len(atoms))).x)[0]
        left.append(x[atoms.numbers == 29, -1] ** 2)
    assert left[1].min() > 100 * left[0].max()


@pytest.mark.parametrize("compression", ["off", "mu1nu1"])
def test_nothing_is_done_for_species_that_are_not_there(compression):
    """Of one species among two: few features are multiplied, and all numbers stay."""
    term = kp.PolynomialSOAP(r_cut=4.0, n_max=3, l_max=2, compression=compression)
    frames = [rattled_alloy(seed, (1, 1, 1), 0.2) for seed in range(4)]
    found = term.descriptor(SPECIES, term.learned(SPECIES, frames)[0])
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=0)
    n = found.inner.n_features
    assert len(found._map_of(1, (1,))[0]) <= n / 2 < len(found._map_of(1, (0, 1))[0])
    system = System.of([copper], term.r_cut)
    mine = found.environments(system, slice(0, len(copper)))
    assert mine.state.state.channels == (1,)
    full = found.inner.soap.create(copper)
    np.testing.assert_allclose(mine.state.x, full, atol=1e-9 * np.abs(full).max())
    x = full @ found._maps[1]
    np.testing.assert_allclose(mine.x[:, :-1], x, atol=1e-9 * np.abs(x).max())


def test_derivatives_are_scattered_as_by_numpy(rng):
    x, rows = rng.normal(size=(5, 7)), np.array([0, 2, 3])
    for columns in (np.array([1, 4, 5]), np.arange(7)):
        along, factor = rng.normal(size=(3, len(columns), 2)), rng.normal(size=(3, 2))
        several = np.full((5, 7, 2), np.nan, dtype=np.float32)
        along, factor = along.astype(np.float32), factor.astype(np.float32)
        _compression.scatter_members(along, factor, x, rows, columns, several)
        for m in range(2):
            found, expected = np.full((2, 5, 7), np.nan)
            own = along[:, :, m].astype(float), factor[:, m].astype(float)
            _compression.scatter(*own, x, rows, columns, found)
            expected[rows] = own[1][:, None] * x[rows]
            expected[np.ix_(rows, columns)] += own[0]
            np.testing.assert_allclose(found, expected, rtol=1e-14)
            np.testing.assert_allclose(several[:, :, m], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("central_weight", [0.2, 1.0])
def test_new_kinds_look_no_less_unknown_than_without_compression(labelled, central_weight):
    shape = {"r_cut": 4.0, "n_max": 4, "l_max": 3, "central_weight": central_weight}
    plain, compressed = (
        unknown(term, labelled[:19], new_kinds())
        for term in (
            kp.SOAPTerm(**shape, sigma_atom=0.45, n_sparse=80),
            kp.PolynomialSOAP(**shape, n_sparse=250),
        )
    )
    for name, ratio in compressed.items():
        # where all is known to be far off, by how much means little
        assert ratio > min(0.5 * plain[name], 10.0)
        assert ratio > 3.0


def test_what_directions_leave_is_spilling(labelled):
    term = kp.PolynomialSOAP(r_cut=4.0, n_max=4, l_max=3, n_sparse=250, central_weight=0.2)
    pot = kp.KernelPotential([term]).fit(labelled[:19], optimize=None)
    inside = pot.predict(rattled_alloy(31, (1, 1, 1), 0.15), return_std="local").spilling
    for name, atoms in new_kinds().items():
        found = pot.predict(atoms, return_std="local").spilling
        assert found.min() > 100 * inside.max(), name


def test_a_species_that_was_nowhere_a_neighbor_looks_unknown():
    """Of two elements apart nothing is known of the alloy."""
    frames = []
    for symbol, a in (("Cu", 3.61), ("Al", 4.05)):
        for seed in range(8):
            atoms = bulk(symbol, cubic=True, a=a)
            atoms.rattle(0.1, seed=seed)
            frames.append(label(atoms))
    term = kp.PolynomialSOAP(r_cut=4.0, n_max=4, l_max=3, n_sparse=150)
    pot = kp.KernelPotential([term], baseline=[]).fit(frames, optimize=None)
    seen = max(pot.predict(frames[k], gate=True).std_bound.max() for k in (0, 10))
    alloy = pot.predict(rattled_alloy(1, (1, 1, 1), 0.1), gate=True)
    assert alloy.std_bound.min() > 10 * seen
