"""Contracted densities against dscribe, finite differences and what they are to keep."""

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import kernelpot as kp
from kernelpot.data.system import Contribution, System
from kernelpot.datasets import load_silicon
from kernelpot.terms import _contraction
from kernelpot.terms.contraction import GRADIENT_WEIGHT, learn_contraction
from kernelpot.terms.power_spectrum import SOAP
from kernelpot.terms.soap import SOAPTerm

SPECIES = (8, 11, 17)


def salt(seed, numbers=(11, 17, 8)):
    """A rattled cell of rock salt with some sites renamed."""
    atoms = bulk("NaCl", "rocksalt", a=4.2, cubic=True)
    atoms.numbers = np.resize(numbers, len(atoms))
    atoms.rattle(0.2, seed=seed)
    return atoms


def term(**changes):
    """A small one with a contraction."""
    return SOAPTerm(r_cut=4.0, n_max=4, l_max=3, **{"contraction": 1e-3, **changes})


def learned(of, species=SPECIES, specialize=True):
    """A descriptor, with the contraction learned from a few cells."""
    constants, _ = of.learned(species, [salt(seed) for seed in range(4)])
    found = of.descriptor(species, constants)
    soap = dataclasses.replace(found.soap.soap, specialize=specialize)
    return dataclasses.replace(found, soap=dataclasses.replace(found.soap, soap=soap))


def environments(descriptor, atoms):
    system = System.of([atoms], descriptor.r_cut)
    return system, descriptor.environments(system, slice(0, len(atoms)))


@pytest.mark.parametrize("specialize", [True, False])
def test_features_are_a_function_of_those_of_dscribe(specialize):
    descriptor, atoms = learned(term(), specialize=specialize), salt(9)
    _, found = environments(descriptor, atoms)
    expected = descriptor.soap.create(atoms)
    np.testing.assert_allclose(found.x, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    some = descriptor.soap.create(atoms, [3, 5])
    np.testing.assert_allclose(some, expected[[3, 5]], rtol=1e-12)


@pytest.mark.parametrize("specialize", [True, False])
def test_derivatives_by_finite_differences(specialize):
    descriptor, atoms = learned(term(), specialize=specialize), salt(9)
    system, found = environments(descriptor, atoms)
    by_x = np.random.default_rng(0).normal(size=found.x.shape)
    out = Contribution.zero(system)
    descriptor.pull(system, found, by_x, None, out)
    forces = system.forces(out)
    step = 1e-4
    for atom, axis in ((0, 0), (3, 1), (5, 2)):
        total = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            total.append((environments(descriptor, moved)[1].x * by_x).sum())
        slope = (total[0] - total[1]) / (2 * step)
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-6)


@pytest.mark.parametrize("specialize", [True, False])
def test_loops_are_numpys(specialize, rng):
    """More channels than a vector has elements, fewer of some degrees, one that is absent."""
    n, n_l, n_channels, n_max, n_k = 3, 3, 3, 5, 11
    counts = np.array([11, 8, 3])
    size, size_k = ((0,) * n_max, (0,) * n_k) if specialize else (n_max, n_k)
    degree = np.repeat(np.arange(n_l), 2 * np.arange(n_l) + 1)
    c = rng.normal(size=(n, n_channels, n_l**2, n_max))
    c[:, 1] = 0.0
    key, present = np.array([2, 0, 2]), np.array([0, 2])
    vectors = rng.normal(size=(3, n_l, n_channels, n_max, n_k))
    for l, count in enumerate(counts):
        vectors[:, l, :, :, count:] = 0.0
    scale_l, weight_l, floor = rng.uniform(0.5, 2.0, n_l), rng.uniform(30.0, 40.0, n_l), 1e-3
    whole = np.array([[np.square(one[:, degree == l]).sum() for l in range(n_l)] for one in c])
    expected = np.einsum("iaqn,iqank->iqk", c, vectors[key][:, degree])
    contracted, kept, total = np.full_like(expected, np.nan), *np.empty((2, n, n_l))
    _contraction.contract(c, key, present, vectors, size, size_k, contracted, kept, total)
    np.testing.assert_allclose(contracted, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total, whole, rtol=1e-13)
    of_degree = [np.square(expected[:, degree == l]).sum(axis=(1, 2)) for l in range(n_l)]
    np.testing.assert_allclose(kept, np.transpose(of_degree), rtol=1e-12)
    kept *= 1e-3  # of random vectors, which are not orthonormal: the squares stay positive

    def features(contracted, whole, kept):
        found = []
        for l, count in enumerate(counts):
            row, column = np.triu_indices(count)
            gram = np.einsum("iqj,iqk->ijk", *[contracted[:, degree == l]] * 2)
            found.append(
                scale_l[l] * gram[:, row, column] * np.where(row == column, 1.0, np.sqrt(2.0))
            )
        rest = np.sqrt((weight_l * (whole**2 - (1.0 - floor) * kept**2)).sum(axis=1))
        return np.concatenate([*found, rest[:, None]], axis=1)

    x = np.empty((n, int((counts * (counts + 1) // 2).sum()) + 1))
    weights = counts, scale_l, weight_l, floor
    _contraction.power_spectrum(contracted, kept, whole, *weights, size_k, x)
    np.testing.assert_allclose(x, features(expected, whole, kept), rtol=1e-12, atol=1e-12)
    cotangent, adjoint = rng.normal(size=x.shape), np.full_like(c, np.nan)
    vectors_t = np.ascontiguousarray(np.swapaxes(vectors, 3, 4))
    _contraction.power_spectrum_adjoint(
        c, contracted, kept, whole, np.ascontiguousarray(x[:, -1]), key, cotangent, present,
        vectors_t, *weights, size, size_k, adjoint,
    )  # fmt: skip
    # the derivative by densities, with kept a number of its own that moves 1e-3 times as much
    by_contracted = np.zeros_like(expected)
    step = 1e-6
    for q in range(n_l**2):
        for k in range(n_k):
            sides = []
            for sign in (1, -1):
                moved, moved_kept = expected.copy(), kept.copy()
                moved[:, q, k] += sign * step
                moved_kept[:, degree[q]] += 2.0 * sign * step * expected[:, q, k]
                sides.append((cotangent * features(moved, whole, moved_kept)).sum(axis=1))
            by_contracted[:, q, k] = (sides[0] - sides[1]) / (2.0 * step)
    by_whole = 2.0 * cotangent[:, -1:] * weight_l * whole / x[:, -1:]
    by_c = np.einsum("iqk,iqank->iaqn", by_contracted, vectors[key][:, degree])
    by_c += by_whole[:, degree][:, None, :, None] * c
    by_c[:, 1] = 0.0
    np.testing.assert_allclose(adjoint, by_c, rtol=0, atol=1e-7 * np.abs(by_c).max())


@pytest.mark.parametrize("specialize", [True, False])
def test_jacobian_is_what_is_pulled(specialize):
    descriptor, atoms = learned(term(), specialize=specialize), salt(9)
    system, found = environments(descriptor, atoms)
    by_x = np.random.default_rng(1).normal(size=found.x.shape)
    out = Contribution.zero(system)
    descriptor.pull(system, found, by_x, None, out)
    jacobian = descriptor.pair_jacobian(system, found)(np.arange(system.pairs.n_pairs))
    expected = np.einsum("pcf,pf->pc", jacobian, by_x[system.pairs.centers])
    np.testing.assert_allclose(out.gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("specialize", [True, False])
def test_members_are_pulled_as_one_by_one(specialize):
    descriptor, atoms = learned(term(), specialize=specialize), salt(9)
    system, found = environments(descriptor, atoms)
    by_x = np.random.default_rng(2).normal(size=(*found.x.shape, 3)).astype(np.float32)
    gradients = np.zeros((system.pairs.n_pairs, 3, 3), dtype=np.float32)
    descriptor.pull_members(system, found, by_x, gradients)
    for m in range(3):
        out = Contribution.zero(system)
        descriptor.pull(system, found, by_x[:, :, m].astype(float), None, out)
        scale = np.abs(out.gradient).max()
        np.testing.assert_allclose(gradients[:, :, m], out.gradient, rtol=0, atol=3e-6 * scale)


def test_without_anything_left_out_products_are_those_of_all_channels():
    whole, contracted = SOAPTerm(r_cut=4.0, n_max=4, l_max=3), learned(term(contraction=0.0))
    assert contracted.soap.contraction.lost == pytest.approx(0.0, abs=1e-12)
    atoms = salt(9)
    _, every = environments(whole.descriptor(SPECIES), atoms)
    _, found = environments(contracted, atoms)
    np.testing.assert_allclose(found.x[:, -1], 0.0, atol=1e-3 * np.abs(every.x).max())
    for key in range(len(SPECIES)):  # each class has a basis of its own
        own = found.key == key
        products = found.x[own, :-1] @ found.x[own, :-1].T
        np.testing.assert_allclose(products, every.x[own] @ every.x[own].T, rtol=1e-8)


def test_length_is_about_that_of_all_features():
    whole, contracted, atoms = SOAPTerm(r_cut=4.0, n_max=4, l_max=3), learned(term()), salt(9)
    every = environments(whole.descriptor(SPECIES), atoms)[1].x
    found = environments(contracted, atoms)[1].x
    np.testing.assert_allclose(
        np.linalg.norm(found, axis=1), np.linalg.norm(every, axis=1), rtol=2e-3
    )


def test_what_was_not_there_is_outside():
    """A species that the contraction never saw falls into the last feature."""
    constants, _ = term().learned(SPECIES, [salt(seed, (11, 17)) for seed in range(4)])
    descriptor = term().descriptor(SPECIES, constants)

    def outside(atoms):
        found = environments(descriptor, atoms)[1]
        own = found.key != 0
        return (found.x[:, -1] / np.linalg.norm(found.x, axis=1))[own].max()

    assert outside(salt(9, (11, 17))) < 0.1
    assert outside(salt(9)) > 0.4
    squeezed = salt(9, (11, 17))
    squeezed.set_cell(0.75 * squeezed.cell, scale_atoms=True)
    assert outside(squeezed) > 2 * outside(salt(9, (11, 17)))


def test_a_class_without_environments_is_outside_altogether():
    constants, _ = term().learned(SPECIES, [salt(seed, (11, 17)) for seed in range(4)])
    descriptor = term().descriptor(SPECIES, constants)
    found = environments(descriptor, salt(9))[1]
    oxygen = found.x[found.key == 0]
    np.testing.assert_allclose(oxygen[:, :-1], 0.0, atol=1e-14)
    assert (oxygen[:, -1] > 0).all()


def test_gradient_moments_by_finite_differences():
    """Second moments of derivatives of densities, against displaced neighbors."""
    soap = SOAP(SOAPTerm(r_cut=4.0, n_max=3, l_max=2), (11, 17))
    from kernelpot.terms import contraction

    pair = Atoms("NaCl", [[0, 0, 0], [0.7, 1.1, 1.9]])
    moments = np.zeros((2, 3, 6, 6))
    contraction._add_moments(moments, soap, pair)

    def coefficients(atoms):
        system = System.of([atoms], 4.0)
        pairs, kinds = system.pairs, system.z_index((11, 17))
        batch = soap.pairs(pairs.first, pairs.neighbors, system.displacements, kinds)
        return soap.expansion(batch, 0, 1)[0]

    c = coefficients(pair)
    trace = sum(
        scale * (c[:, l * l : (l + 1) ** 2] ** 2).sum() for l, scale in enumerate(soap.scale_l)
    )
    step, slopes = 1e-5, []
    for axis in range(3):
        ends = []
        for sign in (1, -1):
            moved = pair.copy()
            moved.positions[1, axis] += sign * step
            ends.append(coefficients(moved))
        slopes.append((ends[0] - ends[1]) / (2 * step))
    for l, scale in enumerate(soap.scale_l):
        expected = np.zeros((6, 6))
        for weight, rows in ((1.0, c), *((GRADIENT_WEIGHT, slope) for slope in slopes)):
            for m in range(l * l, (l + 1) ** 2):
                channels = rows[:, m].ravel()
                expected += weight * scale / trace * np.outer(channels, channels)
        np.testing.assert_allclose(moments[0, l], expected, rtol=1e-6, atol=1e-9)


def test_number_of_channels_is_bounded_and_repeatable():
    frames = [salt(seed) for seed in range(4)]
    soap = SOAP(term(), SPECIES)
    found = learn_contraction(soap, frames, 0.0, 5)
    assert found.counts.tolist() == [5] * 4
    vectors = found.vectors.reshape(3, 4, -1, 5)
    for key in range(3):
        for l in range(4):
            np.testing.assert_allclose(vectors[key, l].T @ vectors[key, l], np.eye(5), atol=1e-12)
    again = learn_contraction(soap, frames, 0.0, 5)
    assert np.array_equal(again.vectors, found.vectors)
    assert learned(term(n_channels=5)).n_features <= term(n_channels=5).most_features(3)
    whole = SOAPTerm(r_cut=4.0, n_max=4, l_max=3, species_weighting={"Na": 1.0, "Cl": 2.0})
    assert whole.most_features(2) == whole.descriptor((11, 17)).n_features


def test_fit_and_file_keep_the_contraction(tmp_path):
    frames = kp.Dataset(load_silicon()[:12])
    given = SOAPTerm(r_cut=4.0, n_max=4, l_max=3, contraction=1e-4, n_sparse=30)
    pot = kp.KernelPotential(terms=[given]).fit(frames, optimize=None)
    assert "contracted to" in str(pot.summary())
    pot.save(tmp_path / "m.kpot")
    again = kp.load(tmp_path / "m.kpot")
    first, second = (p.predict(frames[1].atoms) for p in (pot, again))
    assert first.energy == second.energy
    assert np.array_equal(first.forces, second.forces)


def test_compressed_after_the_contraction():
    polynomial = kp.PolynomialSOAP(
        r_cut=4.0, n_max=4, l_max=3, n_directions=12, contraction=1e-4, n_channels=6
    )
    constants, notes = polynomial.learned(SPECIES, [salt(seed) for seed in range(4)])
    assert "contracted to" in notes[0]
    descriptor = polynomial.descriptor(SPECIES, constants)
    assert descriptor.inner.n_features <= 4 * 21 + 1
    assert descriptor.n_features == 13


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contraction": 1.5}, "`contraction` must be from 0 to 1"),
        ({"contraction": 1e-3, "compression": "mu2"}, '`compression` must be "off" beside'),
        ({"contraction": None, "n_channels": 3}, "`n_channels` must be None without"),
        ({"n_channels": 0}, "`n_channels` must be a positive integer"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        term(**changes)
