"""The wall and isolated-atom energies."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii

import kernelpot as kp
from kernelpot import Wall, read_dataset
from kernelpot.baseline.free_atoms import atomic_energies
from kernelpot.baseline.pair_functions import ZBL
from kernelpot.common.smoothstep import smoothstep
from kernelpot.data.system import Contribution, System
from tests.conftest import label, rattled_alloy, structures


def test_smoothstep_is_c2():
    x = np.linspace(-0.2, 1.2, 1401)
    value, slope = smoothstep(x)
    assert value[0] == 0.0
    assert value[-1] == 1.0
    np.testing.assert_allclose(np.gradient(value, x), slope, atol=1e-4)
    second = np.gradient(slope, x)
    assert np.abs(np.diff(second)).max() < 0.1  # no jump in curvature


def test_zbl_screening_is_the_published_function():
    # Ziegler, Biersack, Littmark: the four amplitudes sum to 1.00002, and the universal
    # screening function of x = r/a_u at x = 1 and 10
    length = 0.88534 * 0.529177210903 / (2 * 14**0.23)
    for x, expected in ((1.0, 0.41645), (10.0, 0.00876)):
        r = np.array([x * length])
        energy, _, _ = ZBL(14, 14).derivatives(r)
        screening = energy[0] * r[0] / (14.399645478 * 14 * 14)
        assert screening == pytest.approx(expected, abs=2e-4)


@pytest.fixture(scope="module")
def data():
    frames = [label(rattled_alloy(s, (1, 1, 1))) for s in range(4)]
    return read_dataset(frames)


def test_distances_come_from_the_data_capped_by_chemistry(data):
    wall = Wall().fit(data, (8, 13, 29))
    shortest = data.distances.shortest
    touching = covalent_radii[13] + covalent_radii[29]
    assert wall.d_min[13, 29] == pytest.approx(min(shortest[13, 29], 0.95 * touching))
    assert wall.d_min[8, 13] == pytest.approx(0.8 * (covalent_radii[8] + covalent_radii[13]))
    assert len(wall.d_min) == 6
    assert Wall({(29, 13): 1.7}).fit(data, (13, 29)).d_min[13, 29] == 1.7


def test_the_wall_is_zero_where_there_are_data(data):
    wall = Wall().fit(data, (13, 29))
    for frame in data:
        system = System.of([frame.atoms], 4.0)
        result = Contribution.zero(system)
        wall.evaluate(system, result)
        assert not result.energies.any()
        assert not result.gradient.any()


@pytest.mark.parametrize("pair", [(13, 13), (13, 29), (8, 29), (8, 8)])
def test_the_wall_is_repulsive_and_monotonic(data, pair):
    wall = Wall().fit(data, (8, 13, 29))
    r = np.linspace(0.2, wall.r_cut + 0.1, 2000)
    energy, slope = wall.pair_energy(r, *pair)
    assert (energy >= 0).all()
    assert (np.diff(energy) <= 0).all()
    step = 1e-6
    sides = [wall.pair_energy(r + sign * step, *pair)[0] for sign in (1, -1)]
    numerical = (sides[0] - sides[1]) / (2 * step)
    np.testing.assert_allclose(numerical, slope, rtol=1e-6, atol=1e-6)
    assert energy[-1] == slope[-1] == 0.0


@pytest.mark.parametrize("name", ["cluster", "crystal", "slab"])
def test_forces_and_virial_are_derivatives(name):
    wall = Wall({(13, 13): 3.2, (13, 29): 3.0, (29, 29): 2.9})
    atoms = structures()[name]

    def evaluate(a):
        system = System.of([a], wall.r_cut)
        result = Contribution.zero(system)
        wall.evaluate(system, result)
        return result.energies.sum(), system.forces(result), system.virials(result)[0]

    energy, forces, virial = evaluate(atoms)
    assert energy > 1.0
    step = 1e-5
    for axis in range(3):
        sides = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[0, axis] += sign * step
            sides.append(evaluate(moved)[0])
        assert forces[0, axis] == pytest.approx(-(sides[0] - sides[1]) / (2 * step), abs=1e-4)
    sides = []
    for sign in (1, -1):
        strain = np.eye(3)
        strain[0, 1] += sign * step
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ strain)
        moved.positions = atoms.positions @ strain
        sides.append(evaluate(moved)[0])
    assert virial[0, 1] == pytest.approx(-(sides[0] - sides[1]) / (2 * step), abs=1e-3)


def test_the_wall_survives_its_dictionary(data):
    for wall in (Wall(), Wall(strength={(13, 29): 3.0}, reach={(29, 13): 1.2})):
        fitted = wall.fit(data, (13, 29))
        assert fitted.strength == wall.strength
        assert fitted.reach == wall.reach
        assert Wall.from_dict(fitted.to_dict()) == fitted


def test_reach_moves_the_wall_and_leaves_the_distance_of_the_data():
    r = np.linspace(0.5, 3.0, 50)
    moved, longer = Wall({(13, 29): 2.0}, reach={(13, 29): 1.2}), Wall({(13, 29): 2.0 * 1.2})
    for one, other in zip(moved.pair_energy(r, 13, 29), longer.pair_energy(r, 13, 29), strict=True):
        np.testing.assert_array_equal(one, other)
    assert moved.r_cut == longer.r_cut == 0.95 * 2.4
    assert moved.describe() == longer.describe()
    assert moved.d_min == {(13, 29): 2.0}


def test_a_wall_of_a_file_without_reach_acts_where_it_did():
    stored = {"kind": "wall", "d_min": [[13, 29, 2.4]], "strength": [[13, 29, 3.0]]}
    assert Wall.from_dict(stored) == Wall({(13, 29): 2.4}, {(13, 29): 3.0})


def test_a_wall_without_distances_says_so():
    with pytest.raises(ValueError, match="the wall has no distances yet"):
        Wall().pair_energy(np.array([1.0]), 13, 13)
    with pytest.raises(ValueError, match="`d_min` of .* must be positive"):
        Wall({(13, 13): -1.0})
    with pytest.raises(ValueError, match="`reach` of .* must be positive"):
        Wall(reach={(13, 13): 0.0})


def composition(symbols, energy):
    atoms = Atoms(symbols, np.arange(3 * len(Atoms(symbols))).reshape(-1, 3) * 2.0)
    atoms.info["REF_energy"] = energy
    return atoms


def test_isolated_atoms_are_used_when_all_are_there():
    frames = [composition("Cu", -1.0), composition("Al", -2.0), composition("CuAl", -9.0)]
    found = atomic_energies(read_dataset(frames))
    assert found.origin == "isolated atoms"
    assert found.absolute
    assert found.e0 == {13: -2.0, 29: -1.0}
    assert found.total(np.array([13, 29, 29])) == -4.0


def test_least_squares_says_what_it_cannot_know():
    frames = [composition("Cu2Al", -8.0), composition("CuAl", -5.0)]
    found = atomic_energies(read_dataset(frames))
    assert found.origin == "least squares"
    assert found.e0 == pytest.approx({13: -2.0, 29: -3.0})
    assert "dissociation energies mean nothing" in found.note
    frames = [composition("CuAl", -5.0), composition("Cu2Al2", -10.0)]
    found = atomic_energies(read_dataset(frames))
    assert "determine only 1 of 2" in found.note
    assert found.total(np.array([13, 29])) == pytest.approx(-5.0)


def test_e0_given_or_demanded():
    data = read_dataset([composition("CuAl", -5.0)])
    assert atomic_energies(data, {29: -1.0, 13: -2.0}).absolute
    with pytest.raises(ValueError, match="`e0` has no value for Al"):
        atomic_energies(data, {29: -1.0})
    with pytest.raises(ValueError, match="no isolated atom of Al, Cu"):
        atomic_energies(data, "isolated")
    both = read_dataset([composition("Cu", -1.0), composition("Cu2", -4.0)])
    assert atomic_energies(both, "least_squares").origin == "least squares"


def test_forces_alone_leave_the_energy_zero_open():
    atoms = composition("CuAl", 0.0)
    del atoms.info["REF_energy"]
    atoms.arrays["REF_forces"] = np.ones((2, 3))
    found = atomic_energies(read_dataset(atoms))
    assert found.e0 == {13: 0.0, 29: 0.0}
    assert "no energies in the data" in found.note


BONDS = {
    ("C", "C"): kp.Morse(depth=3.0, width=0.5, r_0=1.5),
    ("C", "H"): kp.Morse(depth=4.0, width=0.4, r_0=1.1),
    ("H", "H"): kp.Morse(depth=2.0, width=0.6, r_0=0.8),
}


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize(
    "term",
    [
        kp.Wall({(1, 1): 0.9, (1, 6): 1.0, (6, 6): 1.4}),
        kp.PairBaseline(BONDS, r_cut=3.0),
        kp.PairBaseline(BONDS, r_cut=3.0, switch="force"),
        kp.PairBaseline({**BONDS, ("H", "H"): kp.BornMayer(A=5.0, rho=0.3)}, r_cut=3.0),
    ],
    ids=["wall", "bonds", "force-switched", "mixed"],
)
def test_few_pairs_are_added_as_many_are(term, near, monkeypatch):
    """Molecules take a way with fewer calls; species are swapped on the same list of pairs."""
    atoms = molecule("C2H6")
    if near:
        atoms.positions[2] = atoms.positions[0] + [0.0, 0.6, 0.3]
    system = System.of([atoms], 4.0)
    for _ in range(2):
        found, expected = Contribution.zero(system), Contribution.zero(system)
        term.evaluate(system, found)
        with monkeypatch.context() as patch:
            for module in ("wall", "pairs"):
                patch.setattr(f"kernelpot.baseline.{module}.MANY_PAIRS", 0)
            term.evaluate(system, expected)
        np.testing.assert_allclose(found.energies, expected.energies, rtol=1e-14, atol=1e-16)
        np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-13, atol=1e-15)
        assert expected.energies.any() == (near or not isinstance(term, kp.Wall))
        other = atoms.copy()
        other.numbers = other.numbers[::-1].copy()
        system = System.of([other], 4.0, pairs=system.pairs)
        if isinstance(term, kp.Wall):
            break  # swapped, the molecule is inside of the wall
