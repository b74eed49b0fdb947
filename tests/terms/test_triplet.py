"""Triplets against loops in Python, at collinear places, and as splines."""

import numpy as np
import pytest
from ase import Atoms
from ase.geometry import get_angles, get_distances

import kernelpot as kp
from kernelpot.data.system import System
from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import rattled_alloy, structures


def step(r, r_cut, width):
    x = np.clip((r_cut - r) / width, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def by_loops(atoms, r_cut, width, third):
    """Species, features and weight of each triplet of a structure, sorted."""
    shifts = [s for s in np.ndindex(5, 5, 5)] if atoms.pbc.any() else [(2, 2, 2)]
    found = []
    for i in range(len(atoms)):
        near = []
        for j in range(len(atoms)):
            for s in shifts:
                d = atoms.positions[j] + (np.array(s) - 2) @ atoms.cell.array - atoms.positions[i]
                if 1e-9 < np.linalg.norm(d) < r_cut:
                    near.append((atoms.numbers[j], d))
        for a in range(len(near)):
            for b in range(a + 1, len(near)):
                (z, d), (w, e) = sorted((near[a], near[b]), key=lambda pair: pair[0])
                r, s = np.linalg.norm(d), np.linalg.norm(e)
                difference = (r - s) ** 2 if z == w else r - s
                apart = get_distances([d], [e])[1][0, 0]
                angle = 2.0 * np.cos(np.radians(get_angles([d], [e])[0]))
                weight = step(r, r_cut, width) * step(s, r_cut, width)
                last = {"distance": apart, "cosine": angle}[third]
                found.append((i, atoms.numbers[i], z, w, r + s, difference, last, weight))
    return np.array(sorted(found))


@pytest.mark.parametrize("third", ["distance", "cosine"])
@pytest.mark.parametrize("name", ["crystal", "cluster"])
def test_features_are_those_of_loops(name, third):
    atoms = structures()[name]
    term = kp.TripletTerm(r_cut=3.4, cutoff_width=0.8, third=third)
    descriptor = term.descriptor((13, 29))
    found = descriptor.environments(System.of([atoms], 5.0), slice(0, len(atoms)))
    rows = np.column_stack(
        [found.center, [descriptor.keys[k] for k in found.key], found.x, found.weight]
    )
    expected = by_loops(atoms, 3.4, 0.8, third)
    assert len(expected) > 3
    # where one key of sorting ties but for rounding, order by all of them does not
    order = np.lexsort(np.round(rows, 6).T[::-1])
    again = np.lexsort(np.round(expected, 6).T[::-1])
    np.testing.assert_allclose(rows[order], expected[again], atol=1e-10)


def test_outer_atoms_of_one_species_are_alike():
    """Of two, it matters which is nearer."""
    term = kp.TripletTerm(r_cut=4.0)
    for symbols, alike in (("AlCu2", True), ("CuAlCu", False)):
        x = []
        for r, s in ((2.3, 2.9), (2.9, 2.3)):
            atoms = Atoms(symbols, [[0, 0, 0], [0, 0, r], [0, s, 0]])
            descriptor = term.descriptor((13, 29))
            found = descriptor.environments(System.of([atoms], 4.0), slice(0, 1))
            x.append(found.x[0])
        assert np.allclose(*x) == alike


@pytest.mark.parametrize("third", ["distance", "cosine"])
@pytest.mark.parametrize("angle", [0.0, 1e-8, 0.7, np.pi - 1e-8, np.pi])
def test_collinear_triplets_are_smooth(angle, third):
    d = np.array([np.sin(angle), 0.0, np.cos(angle)])
    atoms = Atoms("Al3", [[0, 0, 0], [0, 0, 1.7], 3.0 * d])
    term = kp.TripletTerm(r_cut=5.0, third=third)
    descriptor = term.descriptor((13,))

    def values(positions):
        found = descriptor.environments(System.of([Atoms("Al3", positions)], 5.0), slice(0, 3))
        return np.column_stack([found.x, found.weight])

    system = System.of([atoms], 5.0)
    tangents = descriptor.tangents(system, descriptor.environments(system, slice(0, 3)))
    h = 1e-5
    for atom in range(3):
        members, by_x, by_weight = tangents.moved_by(atom)
        for c in range(3):
            move = np.zeros((3, 3))
            move[atom, c] = h
            slope = (values(atoms.positions + move) - values(atoms.positions - move)) / (2 * h)
            whole = np.zeros_like(slope)
            whole[members] = np.column_stack([by_x[:, c], by_weight[:, c]])
            np.testing.assert_allclose(whole, slope, atol=1e-8)


@pytest.fixture(scope="module", params=["gaussian", "matern52"])
def pots(request, labelled):
    """The same model by the kernel and by splines."""
    terms = [
        kp.PairTerm(r_cut=4.5, function=request.param, n_sparse=40),
        kp.TripletTerm(r_cut=4.0, function=request.param, n_sparse=120),
    ]
    exact = kp.KernelPotential(terms, baseline=[]).fit(labelled, optimize=None)
    terms[1] = terms[1].changed(spline_step=0.1)
    return exact, kp.KernelPotential(terms, baseline=[]).fit(labelled, optimize=None)


def test_splines_are_the_kernel_within_their_stated_error(pots):
    exact, tabulated = pots
    atoms = rattled_alloy(40, (1, 1, 1), 0.1)
    one, two = exact.predict(atoms), tabulated.predict(atoms)
    means = [c.mean for c in tabulated.model.local.compiled.values() if c.mean is not None]
    tables = [mean for mean in means if mean.low.shape == (3,)]
    assert 0 < len(tables) < len(means)
    error = tabulated.model.local.spline_error(1)
    assert error == max(mean.errors[0] for mean in tables)
    assert 0 < error < 1e-3
    term = tabulated.terms[1].descriptor((13, 29))
    n = len(term.environments(System.of([atoms], 4.0), slice(0, len(atoms))))
    assert 0 < np.abs(one.energies - two.energies).max() < n * error
    assert "by splines, within" in tabulated.summary()
    # energy and forces are of the same function, whatever its distance from the kernel's
    np.testing.assert_allclose(two.forces, numerical_forces(tabulated, atoms), atol=1e-5)
    np.testing.assert_allclose(two.stress, numerical_stress(tabulated, atoms), atol=1e-5)


def test_beyond_a_table_is_the_kernel(pots):
    exact, tabulated = pots
    close = Atoms("Cu3", [[0, 0, 0], [0, 0, 1.2], [0, 1.3, 0]])  # nothing like it in the data
    one, two = exact.predict(close), tabulated.predict(close)
    np.testing.assert_allclose(one.forces, two.forces, atol=1e-8)


def test_a_finer_table_is_closer(labelled):
    errors = []
    for spline_step in (0.2, 0.1):
        term = kp.TripletTerm(r_cut=3.5, n_sparse=120, spline_step=spline_step)
        pot = kp.KernelPotential([term], baseline=[]).fit(labelled[:10], optimize=None)
        means = [c.mean for c in pot.model.local.compiled.values() if c.mean is not None]
        errors.append(max(mean.errors[0] for mean in means))
    assert errors[1] < 0.2 * errors[0]  # the fourth power of the step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r_cut": -1.0}, "`r_cut` must be positive"),
        ({"r_cut": 4.0, "cutoff_width": 5.0}, r"`cutoff_width` must be at most r_cut \(4 Å\)"),
        ({"r_cut": 4.0, "spline_step": 0.0}, "`spline_step` must be positive"),
        ({"r_cut": 4.0, "function": "cubic"}, "`function` must be one of gaussian, matern52"),
        ({"r_cut": 4.0, "third": "angle"}, "`third` must be one of distance, cosine"),
    ],
)
def test_wrong_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.TripletTerm(**arguments)


def test_a_table_that_would_be_too_large_is_refused(labelled):
    term = kp.TripletTerm(r_cut=3.5, n_sparse=120, spline_step=1e-3)
    with pytest.raises(ValueError, match="nodes is too large: use a wider step than 0.001"):
        kp.KernelPotential([term], baseline=[]).fit(labelled[:6], optimize=None)
