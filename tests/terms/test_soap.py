"""SOAP: dscribe's `create` is the oracle, finite differences check derivatives."""

import dataclasses

import numba
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llvmlite import ir
from scipy.special import sph_harm_y

from kernelpot import SOAP, SOAPTerm
from kernelpot.data.neighbors import neighbor_list
from kernelpot.data.system import species_index
from kernelpot.terms import _soap, _soap_vector, power_spectrum
from kernelpot.terms.soap import COMPRESSIONS
from tests.conftest import rattled_alloy, structures

SPECIES = (13, 29)


def prepare(soap, atoms):
    pairs = neighbor_list(atoms, soap.term.r_cut)
    index = species_index(atoms.numbers, soap.species)
    displacements = pairs.displacements(atoms.positions)
    return pairs, soap.pairs(pairs.first, pairs.neighbors, displacements, index)


def features(soap, atoms):
    _, batch = prepare(soap, atoms)
    return soap.features(soap.expansion(batch, 0, len(atoms)))


def relative(value, reference):
    return np.abs(value - reference).max() / np.abs(reference).max()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    n_max=st.integers(1, 9),
    l_max=st.integers(0, 9),
    r_cut=st.floats(2.5, 5.5),
    sigma_atom=st.floats(0.2, 0.9),
    cutoff_power=st.sampled_from([1.0, 2.0, 3.5]),
    central_weight=st.floats(0.05, 2.0),
    compression=st.sampled_from(COMPRESSIONS),
    weights=st.none() | st.tuples(st.floats(0.3, 2.0), st.floats(0.3, 2.0)),
    seed=st.integers(0, 1000),
    n_species=st.integers(1, 3),
)
def test_features_equal_dscribe(
    n_max, l_max, r_cut, sigma_atom, cutoff_power, central_weight, compression, weights, seed,
    n_species,
):  # fmt: skip
    species = {1: (29,), 2: SPECIES, 3: (8, 13, 29)}[n_species]
    atoms = rattled_alloy(seed, (1, 1, 1))
    atoms.numbers[:] = np.resize(species, len(atoms))
    weighting = None
    if weights is not None:
        weighting = dict(zip(("O", "Al", "Cu"), (*weights, 1.1), strict=True))
    term = SOAPTerm(
        r_cut=r_cut,
        n_max=n_max,
        l_max=l_max,
        sigma_atom=sigma_atom,
        cutoff_power=cutoff_power,
        central_weight=central_weight,
        compression=compression,
        species_weighting=weighting,
    )
    soap = SOAP(term, species, specialize=False)
    assert relative(features(soap, atoms), soap.create(atoms)) < 1e-9


@pytest.mark.parametrize("name", list(structures()))
def test_features_equal_dscribe_for_every_periodicity(name):
    atoms = structures()[name]
    soap = SOAP(SOAPTerm(r_cut=4.5, n_max=4, l_max=3), SPECIES, specialize=False)
    reference = soap.create(atoms)
    assert relative(features(soap, atoms), reference) < 1e-9


@pytest.mark.parametrize(("n_max", "l_max"), [(1, 0), (3, 2), (5, 7), (8, 4)])
def test_vector_code_is_the_plain_loops(n_max, l_max, rng):
    atoms = rattled_alloy(1, (1, 1, 1))
    atoms += Atoms("Cu", [[20.0, 20.0, 20.0]])  # one center without neighbors
    atoms.pbc = False
    results = []
    for specialize in (False, True):
        soap = SOAP(SOAPTerm(r_cut=4.5, n_max=n_max, l_max=l_max), SPECIES, specialize=specialize)
        pairs, batch = prepare(soap, atoms)
        # a run of centers that is not the whole structure
        coefficients = soap.expansion(batch, 1, len(atoms))
        cotangent = np.random.default_rng(3).normal(size=(len(atoms) - 1, soap.n_features))
        gradient = np.zeros((pairs.n_pairs, 3))
        soap.pair_gradients(batch, 1, len(atoms), coefficients, cotangent, gradient)
        results.append((coefficients, gradient))
    for plain, vector in zip(*results, strict=True):
        np.testing.assert_allclose(vector, plain, rtol=1e-11, atol=1e-12 * np.abs(plain).max())


def cluster(n_neighbors, numbers, rng):
    """An atom with neighbors of some species, and one of them beyond the cutoff."""
    positions = rng.normal(size=(n_neighbors + 2, 3))
    positions *= rng.uniform(1.0, 2.5, size=(len(positions), 1)) / np.linalg.norm(
        positions, axis=1, keepdims=True
    )
    positions[0], positions[-1] = 0.0, (9.0, 0.0, 0.0)
    return Atoms(rng.choice(numbers, len(positions)), positions)


# more radial functions than there are elements in a vector, as many, and fewer
@pytest.mark.parametrize(("n_max", "l_max"), [(9, 1), (8, 4), (3, 2)])
@pytest.mark.parametrize("n_species", [1, 3])
def test_pairs_that_are_treated_together_are_treated_as_each_alone(n_species, n_max, l_max, rng):
    """Whatever their number: full groups, others, and pairs that are too few for one."""
    species = (8, *SPECIES)[-n_species:]
    of = SOAPTerm(r_cut=5.1, n_max=n_max, l_max=l_max)
    plain, vector = (SOAP(of, species, specialize=yes) for yes in (False, True))
    for n_neighbors in (1, 3, 4, 5, 8, 11, 12, 20, 31):
        atoms = cluster(n_neighbors, species, rng)
        pairs, batch = prepare(plain, atoms)
        found = []
        for soap in (plain, vector):
            coefficients, gradient = (
                soap.expansion(batch, 0, len(atoms)),
                np.ones_like(batch.displacements),
            )
            adjoint = np.random.default_rng(n_neighbors).normal(size=coefficients.shape)
            soap.pull(batch, 0, len(atoms), adjoint, gradient)
            found.append((coefficients, gradient))
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-11, atol=1e-12 * np.abs(one).max())


def test_groups_of_pairs(rng):
    """Each pair within the cutoff once; groups of one channel, none of too few."""
    n_channels, r_cut = 4, 3.0
    for n in (0, 1, 7, 40, 90):
        displacements = rng.uniform(-3.0, 3.0, size=(n + 2, 3))
        if n > 1:
            displacements[2] = np.nan
        channels = rng.choice(n_channels, p=(0.1, 0.2, 0.2, 0.5), size=n + 2)
        room = _soap._room(n, n_channels)
        n_groups, n_near = _soap._group(1, n + 1, displacements, channels, r_cut, *room)
        pair, distance, bounds = room[3:]
        lengths = np.linalg.norm(displacements, axis=1)
        near = 1 + np.flatnonzero(lengths[1 : n + 1] < r_cut)
        np.testing.assert_array_equal(np.sort(pair[:n_near]), near)
        np.testing.assert_allclose(distance[:n_near], lengths[pair[:n_near]], rtol=1e-14)
        for group in range(n_groups):
            members = pair[bounds[group] : bounds[group + 1]]
            assert len(set(channels[members])) == 1
            assert _soap.FEW <= len(members) <= _soap_vector.LANES
        left = channels[pair[bounds[n_groups] : n_near]]
        assert np.all(np.diff(left) >= 0)
        assert np.bincount(left, minlength=1).max() < _soap.FEW


def moved_as_each_alone(soap, atoms, n_members, rng):
    """Compare derivatives of several scalars with those of each, in double precision."""
    pairs, batch = prepare(soap, atoms)
    coefficients = soap.expansion(batch, 1, len(atoms))
    shape = (len(atoms) - 1, soap.n_features, n_members)
    cotangents = rng.normal(size=shape).astype(np.float32)
    found = np.ones((pairs.n_pairs, 3, n_members), dtype=np.float32)
    soap.members_gradients(batch, 1, len(atoms), coefficients, cotangents, found)
    for m in range(n_members):
        alone = np.ones((pairs.n_pairs, 3))
        cotangent = np.ascontiguousarray(cotangents[:, :, m], dtype=float)
        soap.pair_gradients(batch, 1, len(atoms), coefficients, cotangent, alone)
        # sums of some hundred products of singles
        np.testing.assert_allclose(found[:, :, m], alone, atol=2e-6 * np.abs(alone).max())


@pytest.mark.parametrize("specialize", [False, True])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_members_are_moved_as_each_alone(compression, specialize, rng):
    atoms = rattled_alloy(1, (2, 2, 1))  # more neighbors than are taken together
    term = SOAPTerm(r_cut=5.0, n_max=5, l_max=3, compression=compression)
    moved_as_each_alone(SOAP(term, SPECIES, specialize=specialize), atoms, 3, rng)


@pytest.mark.parametrize(("n_max", "l_max"), [(1, 0), (3, 2), (5, 7), (8, 4)])
def test_members_of_one_species_are_moved_as_each_alone(n_max, l_max, rng):
    atoms = rattled_alloy(1, (1, 1, 1))
    atoms += Atoms("Cu", [[20.0, 20.0, 20.0]])  # one center without neighbors
    atoms.pbc = False
    atoms.numbers[:] = 29
    soap = SOAP(SOAPTerm(r_cut=4.5, n_max=n_max, l_max=l_max), (29,))
    moved_as_each_alone(soap, atoms, 3, rng)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_is_left_out_for_absent_species_is_zero(compression, rng):
    atoms = rattled_alloy(1, (1, 1, 1))
    atoms.numbers[:] = np.resize((8, 29), len(atoms))
    term = SOAPTerm(r_cut=4.5, n_max=3, l_max=2, compression=compression)
    soap = SOAP(term, (8, 13, 29), specialize=False)
    pairs, batch = prepare(soap, atoms)
    channels = soap.present_channels(batch)
    assert channels == ((0,) if compression == "mu2" else (0, 2))
    coefficients = soap.expansion(batch, 0, len(atoms))
    full = soap.features(coefficients)
    np.testing.assert_array_equal(soap.features(coefficients, channels), full)
    present = soap.present_features(channels)
    assert (full[:, ~present] == 0).all()
    assert (full[:, present] != 0).any(axis=0).all()
    cotangent = rng.normal(size=full.shape)
    found, expected = np.zeros((2, pairs.n_pairs, 3))
    soap.pair_gradients(batch, 0, len(atoms), coefficients, cotangent, found, channels)
    soap.pair_gradients(batch, 0, len(atoms), coefficients, cotangent, expected)
    np.testing.assert_allclose(found, expected, atol=1e-13 * np.abs(expected).max())


def gradients(soap, atoms):
    """Coefficients and pair gradients of some cotangent."""
    pairs, batch = prepare(soap, atoms)
    coefficients = soap.expansion(batch, 0, len(atoms))
    cotangent = np.random.default_rng(3).normal(size=(len(atoms), soap.n_features))
    gradient = np.zeros((pairs.n_pairs, 3))
    soap.pair_gradients(batch, 0, len(atoms), coefficients, cotangent, gradient)
    return coefficients, gradient


def refuse(*args):
    raise TypeError("this llvmlite has another interface")


def test_plain_loops_serve_where_vector_code_does_not_compile(monkeypatch):
    atoms = rattled_alloy(1, (1, 1, 1))
    for name in ("expand_vector", "pair_gradients_vector"):
        # neither compiled yet nor cached
        monkeypatch.setattr(_soap, name, numba.njit(getattr(_soap, name).py_func))
    monkeypatch.setattr(_soap_vector._Vectors, "pointer", refuse)
    monkeypatch.setattr(power_spectrum, "_vector_failures", [])
    terms = [SOAPTerm(r_cut=4.5, n_max=n, l_max=2) for n in (3, 4)]
    with pytest.warns(RuntimeWarning, match="plain loops .* this llvmlite has another") as found:
        results = [gradients(SOAP(term, SPECIES), atoms) for term in terms]
    assert len(found) == 1
    for term, result in zip(terms, results, strict=True):
        plain = gradients(SOAP(term, SPECIES, specialize=False), atoms)
        for one, other in zip(result, plain, strict=True):
            np.testing.assert_array_equal(one, other)


def test_vector_code_is_compiled_once_for_all_data_of_a_size(monkeypatch):
    for name in ("expand_vector", "pair_gradients_vector"):
        monkeypatch.setattr(_soap, name, numba.njit(getattr(_soap, name).py_func))
    gradients(SOAP(SOAPTerm(r_cut=4.5, n_max=2, l_max=1), SPECIES), rattled_alloy(1, (1, 1, 1)))
    # trying whether it compiles was the compilation that served
    assert len(_soap.expand_vector.signatures) == 1
    assert len(_soap.pair_gradients_vector.signatures) == 1


def test_vector_code_takes_opaque_pointers():
    """Those of LLVM have no type; llvmlite will have only such when numba does."""
    vector = ir.VectorType(ir.DoubleType(), 4)
    function = ir.Function(
        ir.Module(), ir.FunctionType(ir.DoubleType(), [ir.PointerType()] * 2), "f"
    )
    builder = ir.IRBuilder(function.append_basic_block())
    v = _soap_vector._Vectors(builder, 4)
    source, target = function.args
    v.store(v.load(source, 4), target, 0)
    builder.ret(_soap_vector._scalar(builder, source, ir.Constant(ir.IntType(64), 3)))
    text = str(function)
    assert "getelementptr double, ptr" in text
    assert f"load {vector}, ptr" in text
    assert f"store {vector}" in text
    assert "bitcast" not in text
    assert "load double, ptr" in text


def test_solid_harmonics_are_scipys():
    rng = np.random.default_rng(1)
    l_max = 10
    soap = SOAP(SOAPTerm(r_cut=4.0, l_max=l_max), (29,))
    for x, y, z in rng.normal(size=(5, 3)):
        out = np.zeros((l_max + 1) ** 2)
        scratch, azimuth = np.zeros((l_max + 1) ** 2), np.zeros((2, l_max + 1))
        _soap.solid_harmonics(x, y, z, l_max, soap.prefactor_q, scratch, azimuth, out)
        r = np.sqrt(x * x + y * y + z * z)
        theta, phi = np.arccos(z / r), np.arctan2(y, x)
        for l in range(l_max + 1):
            for m in range(l + 1):
                value = sph_harm_y(l, m, theta, phi) * r**l
                # scipy has the Condon-Shortley phase, we do not
                factor = (-1) ** m * (np.sqrt(2.0) if m else 1.0)
                assert out[l * l + l + m] == pytest.approx(factor * value.real, abs=1e-9 * r**l)
                if m:
                    expected = factor * value.imag
                    assert out[l * l + l - m] == pytest.approx(expected, abs=1e-9 * r**l)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("specialize", [False, True])
def test_adjoint_and_jacobian_equal_finite_differences(compression, specialize, rng):
    atoms = rattled_alloy(2, (1, 1, 1))
    term = SOAPTerm(
        r_cut=4.2,
        n_max=4,
        l_max=3,
        compression=compression,
        species_weighting={"Al": 0.8, "Cu": 1.2},
    )
    soap = SOAP(term, SPECIES, specialize=specialize)
    pairs, batch = prepare(soap, atoms)
    coefficients = soap.expansion(batch, 0, len(atoms))
    everything = np.arange(pairs.n_pairs)
    jacobian = soap.jacobian(batch, everything, pairs.centers, coefficients)

    cotangent = rng.normal(size=(len(atoms), soap.n_features))
    adjoint = np.zeros((pairs.n_pairs, 3))
    soap.pair_gradients(batch, 0, len(atoms), coefficients, cotangent, adjoint)
    contracted = np.einsum("pcf,pf->pc", jacobian, cotangent[pairs.centers])
    assert relative(adjoint, contracted) < 1e-12
    for channel in np.unique(batch.channels):
        found = everything[batch.channels == channel]
        touched = soap.touched_features(int(channel))
        part = soap.jacobian(batch, found, pairs.centers[found], coefficients, channel=int(channel))
        np.testing.assert_array_equal(part, jacobian[found][:, :, touched])
        rest = np.setdiff1d(np.arange(soap.n_features), touched)
        assert not jacobian[found][:, :, rest].any()

    step = 1e-4
    for pair in rng.choice(everything, 6, replace=False):
        center = int(pairs.centers[pair])
        for axis in range(3):
            sides = []
            for sign in (1, -1):
                moved = batch.displacements.copy()
                moved[pair, axis] += sign * step
                shifted = dataclasses.replace(batch, displacements=moved)
                sides.append(soap.features(soap.expansion(shifted, center, center + 1))[0])
            numerical = (sides[0] - sides[1]) / (2 * step)
            scale = np.abs(jacobian).max()
            # O(step^2) of the difference quotient
            assert np.abs(jacobian[pair, axis] - numerical).max() < 2e-6 * scale


def test_adjoint_adds_to_what_is_there(rng):
    atoms = structures()["cluster"]
    soap = SOAP(SOAPTerm(r_cut=4.2, n_max=3, l_max=2), SPECIES, specialize=False)
    pairs, batch = prepare(soap, atoms)
    coefficients = soap.expansion(batch, 0, len(atoms))
    cotangent = rng.normal(size=(len(atoms), soap.n_features))
    once = np.zeros((pairs.n_pairs, 3))
    soap.pair_gradients(batch, 0, len(atoms), coefficients, cotangent, once)
    twice = once.copy()
    soap.pair_gradients(batch, 0, len(atoms), coefficients, cotangent, twice)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-12)


def test_invariance_to_rotation_translation_and_permutation(rng):
    atoms = structures()["crystal"]
    soap = SOAP(SOAPTerm(r_cut=4.5, n_max=4, l_max=4), SPECIES, specialize=False)
    reference = features(soap, atoms)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation)
    turned.positions = atoms.positions @ rotation + [0.3, -11.0, 4.0]
    np.testing.assert_allclose(features(soap, turned), reference, rtol=0, atol=1e-9)
    order = rng.permutation(len(atoms))
    np.testing.assert_allclose(features(soap, atoms[order]), reference[order], atol=1e-10)
    repeated = features(soap, atoms.repeat((1, 2, 1)))
    np.testing.assert_allclose(repeated, np.tile(reference, (2, 1)), atol=1e-9)


def test_features_are_smooth_when_an_atom_crosses_the_cutoff():
    soap = SOAP(SOAPTerm(r_cut=4.0, n_max=4, l_max=3), (29,), specialize=False)

    def at(r):
        return features(soap, Atoms("Cu3", [[0, 0, 0], [2.3, 0.4, 0], [0, r, 0]]))[0]

    outside = at(4.5)
    scale = np.abs(outside).max()
    assert np.abs(at(4.0 + 1e-9) - outside).max() == 0.0
    # (1 - r/r_cut)^4 for cutoff_power 2
    assert np.abs(at(4.0 - 1e-2) - outside).max() < 1e-8 * scale
    slope = (at(3.99 + 1e-5) - at(3.99 - 1e-5)) / 2e-5
    assert np.abs(slope).max() < 1e-5 * scale


def test_an_isolated_atom_is_described_by_itself():
    soap = SOAP(SOAPTerm(r_cut=4.0, n_max=4, l_max=3), SPECIES, specialize=False)
    alone = Atoms("Al", [[5.0, 5.0, 5.0]])
    found = features(soap, alone)
    assert np.linalg.norm(found) > 0
    assert relative(found, soap.create(alone)) < 1e-9


def test_the_radial_derivative_is_exact():
    soap = SOAP(SOAPTerm(r_cut=4.0, n_max=5, l_max=4, cutoff_power=2.5), (29,))
    r = np.linspace(0.05, 3.95, 7)
    _, slope = soap.radial(r)
    numerical = (soap.radial(r + 1e-5)[0] - soap.radial(r - 1e-5)[0]) / 2e-5
    np.testing.assert_allclose(slope, numerical, atol=1e-6 * np.abs(slope).max())


def test_dot_products_of_features_are_density_overlaps(rng):
    # sum over all ordered (Z n, Z' n') of p p' must equal the dot product of features
    atoms = structures()["crystal"]
    soap = SOAP(SOAPTerm(r_cut=4.0, n_max=3, l_max=2), SPECIES, specialize=False)
    _, batch = prepare(soap, atoms)
    c = soap.expansion(batch, 0, len(atoms))
    total = np.zeros((len(atoms), len(atoms)))
    for l in range(3):
        part = c[:, :, l * l : (l + 1) ** 2]
        ordered = np.einsum("izqn,iyqm->izynm", part, part).reshape(len(atoms), -1)
        total += 8 * np.pi**2 / (2 * l + 1) * ordered @ ordered.T
    found = soap.features(c)
    np.testing.assert_allclose(found @ found.T, total, rtol=1e-12)


def test_structures_are_not_modified():
    atoms = structures()["unwrapped"]
    before = atoms.copy()
    soap = SOAP(SOAPTerm(r_cut=4.0, n_max=3, l_max=2), SPECIES, specialize=False)
    soap.create(atoms)
    features(soap, atoms)
    assert atoms == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r_cut": 0.9}, "`r_cut` must be larger than 1 Å, got 0.9"),
        ({"n_max": 0}, "`n_max` must be an integer >= 1"),
        ({"l_max": 2.5}, "`l_max` must be an integer"),
        ({"sigma_atom": 0.0}, "`sigma_atom` must be positive"),
        ({"zeta": -1}, "`zeta` must be positive"),
        ({"delta": 0}, "`delta` must be positive"),
        ({"central_weight": 0.0}, "`central_weight` must be positive"),
        ({"cutoff_power": 0.5}, "`cutoff_power` must be at least 1"),
        ({"n_sparse": 0}, "`n_sparse` must be a positive integer"),
        ({"compression": "zip"}, "`compression` must be one of off, mu1nu1"),
        ({"sparse_method": "best"}, "`sparse_method` must be one of"),
        ({"r_cut": float("nan")}, "`r_cut` must be finite"),
    ],
)
def test_wrong_parameters_are_refused(change, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        SOAPTerm(**{"r_cut": 4.0, **change})


def test_whole_numbers_may_come_as_floats():
    term = SOAPTerm(r_cut=4.0, n_max=4.0, l_max=2.0, n_sparse=30.0)
    assert (term.n_max, term.l_max, term.n_sparse) == (4, 2, 30)
    assert SOAP(term, SPECIES).n_features > 0


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_species_weights_must_be_positive(weight):
    with pytest.raises(ValueError, match=r"`species_weighting\[Cu\]` must be positive"):
        SOAPTerm(r_cut=4.0, species_weighting={"Cu": weight})


def test_a_parameter_of_the_wrong_type_is_refused():
    with pytest.raises(TypeError, match="`r_cut` must be a number"):
        SOAPTerm(r_cut="4")


def test_unknown_species_are_named():
    with pytest.raises(ValueError, match="unknown species O: the model knows Al, Cu"):
        species_index(np.array([8, 29]), SPECIES)


def test_an_incomplete_species_weighting_is_refused():
    with pytest.raises(ValueError, match=r"must have a weight for \['Cu'\]"):
        SOAP(SOAPTerm(r_cut=4.0, species_weighting={"Al": 1.0}), SPECIES)


def test_a_one_atom_cell_sees_its_own_images():
    soap = SOAP(SOAPTerm(r_cut=5.0, n_max=4, l_max=4), (13,), specialize=False)
    primitive = bulk("Al", a=4.05)
    cubic = bulk("Al", a=4.05, cubic=True)
    np.testing.assert_allclose(
        features(soap, primitive)[0], features(soap, cubic)[0], rtol=1e-9, atol=1e-12
    )
