"""What every kind of baseline term must do; a new kind is tested here without a new test."""

import json
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import kernelpot as kp
from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.baseline.kinds import BASELINE_KINDS, baseline_of
from kernelpot.baseline.reference import BaselineTerm, ReadsAtoms, Reference, terms_of
from kernelpot.data.system import Contribution, System
from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import rattled_alloy, structures

SPECIES = (13, 29)
PAIRS = ((13, 13), (13, 29), (29, 13), (29, 29))
NAMES = list(structures())


@pytest.fixture(scope="module", params=list(BASELINE_KINDS))
def term(request):
    if request.param == "d3":
        pytest.importorskip("dftd3", reason="the extra `dispersion` is not installed")
    return BASELINE_KINDS[request.param].example(SPECIES)


@pytest.fixture(scope="module")
def pot(term, labelled):
    kernels = [kp.SOAPTerm.example(SPECIES).changed(n_sparse=30)]
    return kp.KernelPotential(kernels, baseline=[kp.Wall(), term]).fit(labelled, optimize=None)


def served(term, atoms):
    """The structure; the test is skipped where the term refuses it."""
    if isinstance(term, ReadsAtoms):
        try:
            term.check(atoms, "it")
        except ValueError as error:
            pytest.skip(f"refused: {error}")
    return atoms


def evaluated(term, *batch):
    """Energy of each atom, forces, and virial of each structure."""
    system = System.of(batch, term.r_cut)
    result = Contribution.zero(system)
    term.evaluate(system, result)
    return result.energies, system.forces(result), np.array(system.virials(result))


def energy(term, atoms):
    return evaluated(term, atoms)[0].sum()


def moved(atoms, i, axis, step):
    copy = atoms.copy()
    copy.positions[i, axis] += step
    return copy


def strained(atoms, a, b, step):
    strain = np.eye(3)
    strain[a, b] += step
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ strain)
    copy.positions = atoms.positions @ strain
    return copy


def central(function, step=1e-4):
    return (function(step) - function(-step)) / (2 * step)


# ---- the kind ----------------------------------------------------------------------


def test_examples_are_terms_of_their_kind(term):
    assert isinstance(term, BaselineTerm)
    assert isinstance(term, BASELINE_KINDS[term.kind])
    assert terms_of(term) == [term]
    for species in ((1,), (1, 8), (3, 8, 22)):
        z = max(species)
        found, _ = type(term).example(species).pair_energy(np.array([1.0]), z, z)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["crystal", "cluster"])
def test_examples_act_on_what_the_other_tests_take(term, name):
    """Tests of a term that vanishes, or refuses everything, could not fail."""
    atoms = structures()[name]
    if isinstance(term, ReadsAtoms):
        term.check(atoms, name)
    energies, forces, virials = evaluated(term, atoms)
    assert np.abs(energies).min() > 1e-3
    assert np.abs(forces).max() > 1e-2
    assert np.abs(virials).max() > 1e-2


def test_a_complete_term_stays_as_it_is(term, labelled):
    known = Reference(AtomicEnergies(dict.fromkeys(SPECIES, 0.0), "given"))
    data = kp.read_dataset(labelled)
    assert term.fit(data, SPECIES, known) == term


def test_a_term_is_described(term):
    heading, *lines = term.describe()
    assert lines
    for line in (heading, *lines):
        assert line.strip()
        assert "\n" not in line
    assert heading.endswith(":")


# ---- energies, forces, virials -----------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_forces_and_virial_are_derivatives(term, name):
    atoms = served(term, structures()[name])
    _, forces, (virial,) = evaluated(term, atoms)
    # truncation: the square of the step times third derivatives of repulsion, some 1e3 eV/Å^3
    for i in range(len(atoms)):
        for c in range(3):
            slope = central(lambda x, i=i, c=c: energy(term, moved(atoms, i, c, x)))
            assert forces[i, c] == pytest.approx(-slope, abs=1e-5)
    np.testing.assert_allclose(virial, virial.T, atol=1e-12 * max(1.0, np.abs(virial).max()))
    for a in range(3):
        for b in range(3):
            slope = central(lambda x, a=a, b=b: energy(term, strained(atoms, a, b, x)))
            assert virial[a, b] == pytest.approx(-slope, abs=1e-4)


def test_energies_add_up(term):
    """A baseline is the sum of free atoms and its terms, whatever their order."""
    atoms = structures()["crystal"]
    e0, wall = AtomicEnergies({13: -2.0, 29: -3.0}, "given"), kp.Wall({p: 2.9 for p in PAIRS})
    own, other = evaluated(term, atoms), evaluated(wall, atoms)
    for terms in ((term, wall), (wall, term)):
        found, forces, virial = Reference(e0, terms).labels(atoms)
        expected = own[0].sum() + other[0].sum() + e0.total(atoms.numbers)
        assert found == pytest.approx(expected, abs=1e-11)
        np.testing.assert_allclose(forces, own[1] + other[1], atol=1e-11)
        full = own[2][0] + other[2][0]
        np.testing.assert_allclose(virial[[0, 1, 2]], np.diag(full), atol=1e-10)


def test_what_was_accumulated_before_stays(term, rng):
    atoms = structures()["crystal"]
    system = System.of([atoms], term.r_cut)
    own, result = Contribution.zero(system), Contribution.zero(system)
    term.evaluate(system, own)
    before = {}
    for name in ("energies", "gradient", "forces", "virials"):
        before[name] = rng.normal(size=getattr(result, name).shape)
        getattr(result, name)[:] = before[name]
    term.evaluate(system, result)
    for name, there in before.items():
        # rounding of a sum
        expected = there + getattr(own, name)
        np.testing.assert_allclose(getattr(result, name), expected, rtol=1e-14, atol=1e-13)


def test_pairs_beyond_its_reach_change_nothing(term):
    """A system may hold pairs that other terms need."""
    atoms = structures()["cluster"]
    wide = System.of([atoms], term.r_cut + 3.0)
    result = Contribution.zero(wide)
    term.evaluate(wide, result)
    own = evaluated(term, atoms)
    np.testing.assert_allclose(result.energies, own[0], atol=1e-13)
    np.testing.assert_allclose(wide.forces(result), own[1], atol=1e-12)


def test_a_batch_is_its_structures_one_by_one(term):
    batch = [structures()[name] for name in ("cluster", "crystal", "left_handed")]
    energies, forces, virials = evaluated(term, *batch)
    first = np.cumsum([0, *map(len, batch)])
    for k, atoms in enumerate(batch):
        own = slice(first[k], first[k + 1])
        alone = evaluated(term, atoms)
        np.testing.assert_allclose(energies[own], alone[0], atol=1e-12)
        np.testing.assert_allclose(forces[own], alone[1], atol=1e-11)
        np.testing.assert_allclose(virials[k], alone[2][0], atol=1e-11)


# ---- physics -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_energy_is_invariant_and_forces_turn_along(term, name, rng):
    atoms = served(term, structures()[name])
    turned = atoms.copy()
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # may be a reflection
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.positions = atoms.positions @ turn.T + [0.3, -0.2, 0.7]
    order = rng.permutation(len(atoms))
    before, after = evaluated(term, atoms), evaluated(term, turned[order])
    np.testing.assert_allclose(after[0], before[0][order], atol=1e-9)
    np.testing.assert_allclose(after[1], before[1][order] @ turn.T, atol=1e-8)
    np.testing.assert_allclose(after[2][0], turn @ before[2][0] @ turn.T, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_energy_is_extensive(term, name):
    atoms = served(term, structures()[name])
    alone = evaluated(term, atoms)
    if atoms.pbc.any():
        twice = evaluated(term, atoms.repeat(tuple(1 + atoms.pbc.astype(int))))
        n = 2 ** int(atoms.pbc.sum())
        np.testing.assert_allclose(twice[0], np.tile(alone[0], n), atol=1e-9)
        np.testing.assert_allclose(twice[1], np.tile(alone[1], (n, 1)), atol=1e-8)
        np.testing.assert_allclose(twice[2], n * alone[2], atol=1e-8)
        return
    far = atoms.copy()
    far.positions[:, 0] += 1e4  # dipoles still feel each other, by 1e-12 eV
    together = evaluated(term, atoms + far)
    np.testing.assert_allclose(together[0], np.tile(alone[0], 2), atol=1e-9)
    np.testing.assert_allclose(together[1], np.tile(alone[1], (2, 1)), atol=1e-9)


@pytest.mark.parametrize("symbol", ["Al", "Cu"])
def test_free_atoms_have_no_energy(term, symbol):
    energies, forces, virials = evaluated(term, Atoms(symbol))
    assert energies[0] == 0.0
    assert not forces.any()
    assert not virials.any()


@pytest.mark.parametrize("pair", PAIRS)
def test_the_energy_of_a_pair_is_that_of_a_dimer(term, pair):
    r = np.linspace(0.3, max(1.05 * term.r_cut, 4.0), 60)
    values, slopes = term.pair_energy(r, *pair)
    assert values.shape == slopes.shape == r.shape
    for distance, value, slope in zip(r, values, slopes, strict=True):
        dimer = Atoms(pair, [[0.1, 0.2, 0.3], [0.1, 0.2 + 0.6 * distance, 0.3 + 0.8 * distance]])
        energies, forces, _ = evaluated(term, dimer)
        scale = max(1.0, abs(value), abs(slope))
        np.testing.assert_allclose(energies, 0.5 * value, atol=1e-11 * scale)
        np.testing.assert_allclose(forces[0], slope * np.array([0, 0.6, 0.8]), atol=1e-11 * scale)
        np.testing.assert_allclose(forces[1], -forces[0], atol=1e-11 * scale)
    step = 1e-5
    numerical = central(lambda x: term.pair_energy(r + x, *pair)[0], step)
    # truncation: the square of the step times third derivatives, some 1e3 of the value per length
    scale = np.maximum(1.0, np.maximum(np.abs(values), np.abs(slopes)))
    assert np.all(np.abs(numerical - slopes) < 1e-6 * scale)
    np.testing.assert_array_equal(term.pair_energy(r, *pair[::-1])[0], values)


@pytest.mark.parametrize("pair", PAIRS)
def test_value_and_slope_are_continuous(term, pair):
    """Through the cutoff and wherever else a term is switched."""
    if term.r_cut == 0:
        pytest.skip("reaches everywhere")
    start, stop = 0.3 * term.r_cut, 1.05 * term.r_cut
    jumps = []
    for n in (20_000, 40_000):
        values, slopes = term.pair_energy(np.linspace(start, stop, n + 1), *pair)
        jumps.append([np.abs(np.diff(values)).max(), np.abs(np.diff(slopes)).max()])
    # continuous functions change by half on half the step; a jump stays
    np.testing.assert_allclose(np.array(jumps[1]) / jumps[0], 0.5, atol=0.01)
    values, slopes = term.pair_energy(np.linspace(term.r_cut, 3 * term.r_cut, 50), *pair)
    assert not values.any()
    assert not slopes.any()
    near = term.r_cut - np.array([1e-2, 1e-3])
    values, slopes = term.pair_energy(near, *pair)
    if abs(values[0]) > 1e-16:  # else it has ended below the rounding of any energy
        assert abs(values[1]) <= 1.1e-2 * abs(values[0])  # falls with the square of the distance
        assert abs(slopes[1]) <= 0.11 * abs(slopes[0])


# ---- files -------------------------------------------------------------------------


def test_a_term_is_rebuilt_from_plain_data(term):
    plain = json.loads(json.dumps(term.to_dict()))
    assert plain["kind"] == term.kind
    (again,) = baseline_of([plain])
    for copy in (again, pickle.loads(pickle.dumps(term))):  # noqa: S301 - our own
        assert copy == term
        assert copy.describe() == term.describe()
        for one, two in zip(
            evaluated(copy, structures()["crystal"]),
            evaluated(term, structures()["crystal"]),
            strict=True,
        ):
            np.testing.assert_array_equal(one, two)


def test_it_travels_with_a_model(pot, term, tmp_path):
    pot.save(tmp_path / "model.kpot")
    again = kp.load(tmp_path / "model.kpot")
    assert list(again.model.baseline) == list(pot.model.baseline)
    assert again.baseline == pot.baseline == [kp.Wall(), term]
    one, two = (p.predict(structures()["crystal"], return_std=True) for p in (pot, again))
    for name in ("energies", "forces", "stress", "energies_std", "forces_std", "stress_std"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert again.summary() == pot.summary()
    for line in term.describe():
        assert line.rstrip(":") in again.summary()


# ---- a potential with it -----------------------------------------------------------


@pytest.mark.parametrize("name", ["crystal", "cluster"])
def test_forces_and_stress_of_a_potential_are_derivatives(pot, term, name):
    assert pot.model.baseline[1] == term
    atoms = rattled_alloy(21, (1, 1, 1)) if name == "crystal" else structures()[name]
    found = pot.predict(atoms)
    # truncation: the square of the step times third derivatives
    numerical = numerical_forces(pot, atoms)
    np.testing.assert_allclose(found.forces, numerical, atol=1e-6 * np.abs(numerical).max())
    if name == "crystal":
        numerical = numerical_stress(pot, atoms)
        np.testing.assert_allclose(found.stress, numerical, atol=1e-6 * np.abs(numerical).max())


def test_kernels_learn_what_it_leaves(pot, labelled):
    errors = pot.model.training.errors
    spread = np.std([a.info["REF_energy"] / len(a) for a in labelled])
    assert errors["energy_rmse_mev_per_atom"] < 300 * spread  # far better than the mean


def test_a_calculator_follows_it(pot):
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.numbers[::4] = 13
    atoms.rattle(0.05, seed=3)
    atoms.calc = pot.calculator(gate=None)
    for _ in range(3):  # within the skin, so that the neighbor list is kept
        atoms.positions += 0.02
        atoms.positions[0] += [0.05, -0.02, 0.03]
        fresh = pot.predict(atoms)
        assert atoms.get_potential_energy() == pytest.approx(fresh.energy, abs=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), fresh.forces, atol=1e-9)
