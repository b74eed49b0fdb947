"""Regions of a structure, evaluated apart, add up to the whole."""

import numpy as np
import pytest
from ase.build import bulk

import kernelpot as kp
from kernelpot.data.neighbors import neighbor_list
from kernelpot.data.system import System, voigt
from kernelpot.safety.gate import VarianceGate
from kernelpot.terms.base import is_local
from kernelpot.terms.kinds import KINDS, TERMS
from tests.conftest import label, rattled_alloy, structures

SPECIES = (13, 29)
# so little counts as known that the safety net acts on most atoms
GATE = VarianceGate(std_known=1e-3)


LOCAL = [term.kind for term in KINDS if is_local(term.example(SPECIES).descriptor(SPECIES))]


@pytest.fixture(scope="module", params=LOCAL)
def model(request, labelled):
    term = TERMS[request.param].example(SPECIES).changed(n_sparse=30)
    walls = [kp.Wall.example(SPECIES), kp.PairBaseline.example(SPECIES)]
    pot = kp.KernelPotential([term], baseline=walls)
    return pot.fit(labelled[:12], optimize=None, self_test=False).model


def test_kinds_of_whole_structures_say_so():
    frames = []
    for seed in range(8):
        cluster = structures()["cluster"]
        cluster.positions += 0.1 * np.random.default_rng(seed).normal(size=(4, 3))
        frames.append(label(cluster))
    whole = [term.kind for term in KINDS if term.kind not in LOCAL]
    assert whole
    for kind in whole:
        term = TERMS[kind].example(SPECIES).changed(n_sparse=8)
        pot = kp.KernelPotential([term], baseline=[])
        pot.fit(frames, optimize=None, self_test=False)
        with pytest.raises(ValueError, match=f"needs whole structures.*{kind}"):
            pot.model.check_regional()


def regions(atoms, r_cut, parts):
    """Each part of the atoms, with ghosts: arguments of predict_region, and whose image each is."""
    pairs = neighbor_list(atoms, r_cut)
    displacements = pairs.displacements(atoms.positions)
    for own in parts:
        place = {int(a): k for k, a in enumerate(own)}
        ghosts, first, neighbors, chosen = {}, [0], [], []
        for a in own:
            for p in range(pairs.first[a], pairs.first[a + 1]):
                b, shift = int(pairs.neighbors[p]), tuple(np.round(pairs.shifts[p], 6))
                if b in place and not np.any(shift):
                    neighbors.append(place[b])
                else:
                    neighbors.append(len(own) + ghosts.setdefault((b, shift), len(ghosts)))
                chosen.append(p)
            first.append(len(neighbors))
        owners = np.array([*own, *(b for b, _ in ghosts)], dtype=int)
        yield (
            (
                atoms.numbers[owners],
                np.array(first),
                np.array(neighbors, dtype=int),
                displacements[chosen],
            ),
            owners,
        )


def thirds(atoms, rng):
    """The atoms in three parts, one of them empty."""
    order = rng.permutation(len(atoms))
    return [order[: len(atoms) // 3], order[len(atoms) // 3 :], order[:0]]


@pytest.mark.parametrize("name", ["crystal", "slab", "cluster", "tiny"])
@pytest.mark.parametrize("gate", [None, GATE], ids=["kernels", "gate"])
def test_regions_add_up_to_the_whole(model, name, gate, rng):
    atoms = structures()[name]
    whole = model.predict(atoms, gate=gate, return_std="local", stresses=True)
    # of what is nearly known the variance is a small difference of prior variances, whose rounding
    # the root and the gate enlarge
    tolerance = 1e-10 if gate is None else 1e-9
    energies, forces = np.zeros(len(atoms)), np.zeros((len(atoms), 3))
    virial, shares = np.zeros((3, 3)), np.zeros((len(atoms), 3, 3))
    stds, bounds = np.zeros(len(atoms)), np.zeros(len(atoms))
    for arguments, owners in regions(atoms, model.r_cut + 0.3, thirds(atoms, rng)):
        found = model.predict_region(*arguments, gate=gate, return_std=True)
        own = owners[: len(found.energies)]
        energies[own] += found.energies
        stds[own] += found.energies_std
        np.add.at(forces, owners, found.forces)
        np.add.at(shares, owners, found.atom_virials())
        virial += found.virial
        if gate is not None:
            bounds[own] += found.std_bound
            np.testing.assert_allclose(found.penalty, whole.penalty[own], rtol=0, atol=tolerance)
    np.testing.assert_allclose(energies, whole.energies, rtol=0, atol=tolerance)
    np.testing.assert_allclose(forces, whole.forces, rtol=0, atol=tolerance)
    np.testing.assert_allclose(stds, whole.energies_std, rtol=0, atol=tolerance)
    np.testing.assert_allclose(shares.sum(axis=0), virial, rtol=0, atol=tolerance)
    if gate is not None:
        assert whole.penalty.max() > 1e-6  # far above the tolerance
        np.testing.assert_allclose(bounds, whole.std_bound, rtol=0, atol=tolerance)
    if whole.stress is not None:
        volume = atoms.get_volume()
        np.testing.assert_allclose(voigt(virial), -whole.stress * volume, rtol=0, atol=tolerance)
        found = np.array([voigt(share) for share in shares])
        np.testing.assert_allclose(found, -whole.stresses * volume, rtol=0, atol=tolerance)


def test_a_structure_without_ghosts_is_predicted_bit_for_bit(model):
    atoms = structures()["cluster"]
    pairs = neighbor_list(atoms, model.r_cut)
    displacements = pairs.displacements(atoms.positions)
    whole = model.predict(atoms, gate=GATE, return_std="local")
    found = model.predict_region(
        atoms.numbers, pairs.first, pairs.neighbors, displacements, gate=GATE, return_std=True
    )
    for name in ("energies", "forces", "energies_std", "penalty", "std_bound"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)), name


@pytest.fixture(scope="module")
def soap(labelled):
    term = kp.SOAPTerm.example(SPECIES).changed(n_sparse=30)
    return kp.KernelPotential([term], baseline=[kp.Wall(), kp.Ewald.example(SPECIES)]).fit(
        labelled[:12], optimize=None, self_test=False
    )


def test_charges_are_left_to_whoever_sums_them(soap):
    """Whole energy = region + bare charges summed by Ewald (with widths of zero)."""
    with pytest.raises(ValueError, match=r"needs whole structures \(ewald\)"):
        soap.model.check_regional()
    model, charges = soap.model.beside_bare_charges()
    assert charges == {"Al": 0.3, "Cu": -0.1}
    atoms = rattled_alloy(3, (1, 1, 1))
    (arguments, owners), *_ = regions(atoms, model.r_cut, [np.arange(len(atoms))])
    found = model.predict_region(*arguments)
    bare = kp.Ewald(charges, accuracy=1e-13, background="neutralizing", widths=0.0)
    system = System.of([atoms], 0.0)
    result = soap.model.reference.evaluate(system)
    for array in (result.energies, result.forces, result.virials):
        array[:] = 0.0
    bare.evaluate(system, result)
    whole = soap.predict(atoms)
    forces = result.forces.copy()
    np.add.at(forces, owners, found.forces)
    energy = found.energies.sum() + result.energies.sum()
    assert energy == pytest.approx(whole.energy, abs=1e-9)
    np.testing.assert_allclose(forces, whole.forces, rtol=0, atol=1e-9)
    virial = voigt(found.virial + result.virials[0])
    np.testing.assert_allclose(virial, -whole.stress * atoms.get_volume(), rtol=0, atol=1e-8)


def test_charges_of_each_atom_are_refused(labelled):
    term = kp.SOAPTerm.example(SPECIES).changed(n_sparse=5)
    frames = [atoms.copy() for atoms in labelled[:4]]
    for atoms in frames:
        atoms.set_array("charges", np.zeros(len(atoms)))
    pot = kp.KernelPotential([term], baseline=[kp.Wall(), kp.Ewald("charges")])
    pot.fit(frames, optimize=None, self_test=False)
    with pytest.raises(ValueError, match="charges per species; those of this model are 'charges'"):
        pot.model.beside_bare_charges()


def test_unsound_regions_are_refused(soap):
    model, _ = soap.model.beside_bare_charges()
    numbers, first = np.array([29, 29]), np.array([0, 1])
    apart, onto = np.array([[0.0, 0.0, 2.5]]), np.zeros((1, 3))
    with pytest.raises(ValueError, match="atoms 0 and 1 sit on one spot"):
        model.predict_region(numbers, first, np.array([1]), onto)
    with pytest.raises(ValueError, match="no finite distance"):
        model.predict_region(numbers, first, np.array([1]), apart * np.nan)
    with pytest.raises(ValueError, match="neighbor list is of another structure"):
        model.predict_region(numbers, first, np.array([2]), apart)
    with pytest.raises(ValueError, match="1 displacements for a list of 2 pairs"):
        model.predict_region(numbers, np.array([0, 2]), np.array([1, 1]), apart)
    with pytest.raises(ValueError, match="unknown species Si"):
        model.predict_region(np.array([29, 14]), first, np.array([1]), apart)


def test_a_region_has_no_structure_to_ask(soap):
    system = System.region(np.array([13, 29]), np.array([0, 1]), np.array([1]), np.ones((1, 3)))
    assert (system.n_atoms, system.n_centers, system.n_structures) == (2, 1, 1)
    with pytest.raises(ValueError, match="'cell' was asked of that"):
        _ = system.structures[0].cell


def test_one_atom_per_region_of_a_perfect_crystal(soap):
    """Every atom of a cell far smaller than the cutoff is its own ghost many times over."""
    model, _ = soap.model.beside_bare_charges()
    atoms = bulk("Cu", a=3.6)
    (arguments, owners), *_ = regions(atoms, model.r_cut, [np.arange(1)])
    assert len(owners) > 10
    found = model.predict_region(*arguments)
    assert np.abs(found.forces.sum(axis=0)).max() < 1e-10
    assert np.abs(found.forces[1:]).max() > 1e-6
