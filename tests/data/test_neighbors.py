"""Neighbor lists against ASE's, and the skin that keeps them."""

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list as ase_neighbor_list

from kernelpot.data import _pairs
from kernelpot.data.neighbors import SkinList, neighbor_list, pair_forces, pair_virial
from kernelpot.data.system import System
from tests.conftest import rattled_alloy, structures


def as_sorted(i, j, vectors):
    rows = np.column_stack([i, j, np.round(vectors, 7)])
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("name", list(structures()))
@pytest.mark.parametrize("cutoff", [2.9, 6.0])
def test_pairs_are_ases(name, cutoff):
    atoms = structures()[name]
    found = neighbor_list(atoms, cutoff)
    i, j, vectors = ase_neighbor_list("ijD", atoms, cutoff)
    ours = as_sorted(found.centers, found.neighbors, found.displacements(atoms.positions))
    np.testing.assert_allclose(ours, as_sorted(i, j, vectors), atol=2e-7)
    assert found.first[-1] == found.n_pairs == len(i)


def test_several_structures_are_numbered_through():
    parts = [structures()["cluster"], Atoms("Cu"), structures()["crystal"]]
    together = neighbor_list(parts, 4.0)
    counts = [neighbor_list(p, 4.0).n_pairs for p in parts]
    assert together.n_pairs == sum(counts)
    assert together.first[4] == together.first[5] == counts[0]
    alone = neighbor_list(parts[2], 4.0)
    np.testing.assert_array_equal(together.neighbors[counts[0] :] - 5, alone.neighbors)
    np.testing.assert_array_equal(together.shifts[counts[0] :], alone.shifts)


def test_compiled_sums_over_pairs_are_numpys(rng):
    """Displacements, forces, virial, and pairs added to what is there, in any order."""
    atoms = structures()["crystal"]
    pairs = neighbor_list(atoms, 6.0)
    n_atoms, centers, neighbors = len(atoms), pairs.centers, pairs.neighbors
    found = pairs.displacements(atoms.positions)
    np.testing.assert_allclose(
        found, atoms.positions[neighbors] - atoms.positions[centers] + pairs.shifts, atol=1e-14
    )
    gradient = rng.normal(size=(pairs.n_pairs, 3))
    expected = np.zeros((n_atoms, 3))
    np.add.at(expected, centers, gradient)
    np.subtract.at(expected, neighbors, gradient)
    np.testing.assert_allclose(pair_forces(pairs, gradient), expected, atol=1e-12)
    np.testing.assert_allclose(pair_virial(found, gradient), -found.T @ gradient, rtol=1e-12)
    members = rng.normal(size=(pairs.n_pairs, 3, 4))
    system = System.of([atoms], 6.0, pairs=pairs)
    for m, (forces, virial) in enumerate(zip(*system.of_members(members), strict=True)):
        own = np.ascontiguousarray(members[:, :, m])
        np.testing.assert_allclose(forces, pair_forces(pairs, own), atol=1e-12)
        np.testing.assert_allclose(virial, pair_virial(found, own), atol=1e-11)
    chosen = np.flatnonzero(rng.random(pairs.n_pairs) < 0.3)
    value, slope = rng.normal(size=(2, len(chosen)))
    energies, summed = rng.normal(size=n_atoms), gradient.copy()
    expected = energies + np.bincount(centers[chosen], value, n_atoms)
    gradient[chosen] += slope[:, None] * found[chosen]
    _pairs.add(chosen, centers, found, value, slope, energies, summed)
    np.testing.assert_allclose(energies, expected, rtol=1e-12)
    np.testing.assert_allclose(summed, gradient, rtol=1e-12)


def distances(pairs, atoms, cutoff):
    d = np.linalg.norm(pairs.displacements(atoms.positions), axis=1)
    return np.sort(d[d < cutoff])


def test_the_skin_list_is_complete_while_atoms_move_and_the_cell_strains(rng):
    atoms = rattled_alloy(1)
    cutoff = 4.5
    kept = SkinList(cutoff, skin=0.6)
    for step in range(40):
        found = distances(kept.update(atoms), atoms, cutoff)
        expected = distances(neighbor_list(atoms, cutoff), atoms, cutoff)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        atoms.positions += 0.02 * rng.normal(size=atoms.positions.shape)
        if step % 3 == 0:
            strain = np.eye(3) + 0.004 * rng.normal(size=(3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        if step == 20:
            atoms.wrap()
    assert 1 < kept.n_builds < 25


def test_the_skin_list_is_rebuilt_when_it_must_be():
    atoms = rattled_alloy(1)
    kept = SkinList(4.0, skin=0.5)
    kept.update(atoms)
    kept.update(atoms)
    assert kept.n_builds == 1
    atoms.positions[0, 0] += 0.26  # more than half the skin
    kept.update(atoms)
    assert kept.n_builds == 2
    atoms.pbc = (True, True, False)
    kept.update(atoms)
    assert kept.n_builds == 3
    atoms.numbers[0] = 13 if atoms.numbers[0] == 29 else 29
    kept.update(atoms)
    assert kept.n_builds == 4
    atoms.set_cell(atoms.cell.array * 1.2, scale_atoms=True)
    kept.update(atoms)
    assert kept.n_builds == 5


def test_the_skin_list_is_the_same_object_while_nothing_but_atoms_moves():
    atoms = structures()["crystal"]
    skin = SkinList(4.0, 0.5)
    first = skin.update(atoms)
    atoms.positions += 0.01
    assert skin.update(atoms) is first
    atoms.set_cell(1.001 * atoms.cell, scale_atoms=True)
    other = skin.update(atoms)
    assert skin.n_builds == 1
    assert other is not first
    np.testing.assert_allclose(other.shifts, 1.001 * first.shifts, atol=1e-12)


def test_a_negative_skin_is_refused():
    with pytest.raises(ValueError, match="`skin` must not be negative"):
        SkinList(4.0, -0.1)


def test_no_pairs_within_zero():
    """Terms of whole structures and free-atom energies reach nowhere; nothing is searched."""
    crystal = bulk("Cu", cubic=True)
    found = neighbor_list([crystal, crystal[:1]], 0.0)
    assert found.n_pairs == 0
    np.testing.assert_array_equal(found.first, np.zeros(6))
    assert found.displacements(np.zeros((5, 3))).shape == (0, 3)


def every_pair(atoms, cutoff):
    """Pairs and displacements from all images that can be within reach."""
    periodic = np.array(atoms.cell)[atoms.pbc]
    inverse = np.linalg.pinv(periodic)
    scaled = atoms.positions @ inverse
    most = np.ceil(cutoff * np.linalg.norm(inverse, axis=0) + np.ptp(scaled, axis=0)).astype(int)
    images = np.array(list(product(*[range(-m, m + 1) for m in most])), dtype=int)
    d = atoms.positions[None, :, None] - atoms.positions[:, None, None] + images @ periodic
    near = np.linalg.norm(d, axis=3) < cutoff
    itself = np.eye(len(atoms), dtype=bool)[:, :, None] & ~images.any(axis=1)
    i, j, _ = np.nonzero(near & ~itself)
    return i, j, d[near & ~itself]


@pytest.mark.parametrize("seed", range(40))
def test_pairs_do_not_depend_on_empty_space(seed):
    """Far atoms, sheared and flat cells, any periodicity: pairs of all images, by distance."""
    rng = np.random.default_rng(seed)
    n, cutoff = int(rng.integers(2, 12)), float(rng.choice([0.05, 1.0, 4.0]))
    pbc = rng.random(3) < 0.5
    cell = np.diag(10 ** rng.uniform(0.3, 2.0, 3)) @ (np.eye(3) + rng.uniform(-0.4, 0.4, (3, 3)))
    positions = rng.uniform(0, 1, (n, 3)) @ cell
    positions[n // 2 :] = positions[: n - n // 2] + rng.normal(0, cutoff / 2, (n - n // 2, 3))
    atoms = Atoms(f"Cu{n}", positions, cell=cell, pbc=pbc)
    if not pbc.all():  # along an open direction, and across the periodic ones
        across = np.linalg.svd(cell[pbc])[2][-1]
        atoms.positions[rng.random(n) < 0.3] += across * 10 ** rng.uniform(2, 6)
    found = neighbor_list(atoms, cutoff)
    i, j, vectors = every_pair(atoms, cutoff)
    assert found.n_pairs == len(i)
    ours = as_sorted(found.centers, found.neighbors, found.displacements(atoms.positions))
    np.testing.assert_allclose(ours, as_sorted(i, j, vectors), atol=2e-7)


@pytest.mark.parametrize("distance", [1e4, 1e5, 1e6, 1e9])
@pytest.mark.parametrize("pbc", [False, (True, True, False), (False, False, True)])
def test_an_atom_far_away_has_no_neighbors(distance, pbc):
    """The search divided by zero, which ended the interpreter, or took minutes."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.pbc = pbc
    far = atoms + Atoms("Cu", [[0.5 * atoms.cell[0, 0]] * 3])
    far.positions[-1, 0 if not np.any(pbc) or pbc[2] else 2] += distance
    found, without = neighbor_list(far, 5.0), neighbor_list(atoms, 5.0)
    assert found.n_pairs == without.n_pairs
    assert found.first[-1] == found.first[-2]


def test_a_search_sorts_into_few_cells(monkeypatch):
    """Work goes by atoms, not by space: the search library is never given many empty cells."""
    import vesin

    reaches = []
    search = vesin.NeighborList

    def noted(cutoff, **options):
        reaches.append(cutoff)
        return search(cutoff=cutoff, **options)

    monkeypatch.setattr(vesin, "NeighborList", noted)
    slab = bulk("Cu", cubic=True) * (3, 3, 2)
    slab.center(vacuum=20.0, axis=2)
    neighbor_list(slab, 0.05)
    assert np.prod(np.maximum(slab.cell.lengths() / reaches[-1], 1)) < 100 + 4 * len(slab)
    neighbor_list(slab, 5.0)
    assert reaches[-1] == 5.0  # as asked, where nothing is gained
