"""Every baseline pushes atoms apart at short range, or is refused; the default one."""

import os
import warnings
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import kernelpot as kp
from kernelpot.baseline.free_atoms import AtomicEnergies, atomic_energies
from kernelpot.baseline.pair_functions import COULOMB
from kernelpot.baseline.reference import Reference
from kernelpot.baseline.repulsion import assemble, compression, pair_energy, pull
from kernelpot.data.dataset import Dataset
from kernelpot.data.distances import contact_distances
from kernelpot.data.order import canonical_order
from kernelpot.datasets import load_ethanol, load_silicon
from kernelpot.fit import default_baseline, defaults
from kernelpot.fit.default_baseline import LeftOut, choose_baseline
from kernelpot.gp.labels import Noise
from tests.conftest import label, rattled_alloy

SHARED = ("zuo2020-Si", "zuo2020-Mo", "zuo2020-Cu", "rmd17-ethanol", "3bpa")


class Charges:
    """Bare point charges of isolated pairs: what must be caught."""

    kind = "charges of the test"
    r_cut = 8.0

    def __init__(self, charges):
        self.charges = charges

    def fit(self, data, species, known):
        return self

    def pair_energy(self, r, z1, z2):
        product = COULOMB * self.charges[z1] * self.charges[z2]
        return product / r, -product / r**2

    def evaluate(self, system, result):
        mine = np.flatnonzero(system.distances < self.r_cut)
        z = system.numbers
        centers = system.pairs.centers[mine]
        r = system.distances[mine]
        for k, (i, j) in enumerate(zip(centers, system.pairs.neighbors[mine], strict=True)):
            energy, slope = self.pair_energy(r[k], z[i], z[j])
            result.energies[i] += 0.5 * energy
            result.gradient[mine[k]] += 0.5 * slope / r[k] * system.displacements[mine[k]]

    def to_dict(self):
        return {"kind": self.kind}

    @classmethod
    def from_dict(cls, data):
        return cls({})

    def describe(self):
        return ["Charges"]


def silica():
    """Rattled silicon and oxygen in the zinc-blende structure, at 1.6 Å and beyond."""
    frames = []
    for seed in range(3):
        atoms = bulk("SiO", "zincblende", a=3.9)
        atoms.positions += 0.05 * np.random.default_rng(seed).normal(size=(2, 3))
        atoms.info["REF_energy"] = -10.0
        frames.append(atoms)
    return kp.read_dataset(frames)


E0 = AtomicEnergies({8: 0.0, 14: 0.0}, "given")
# van Beest, Kramer, van Santen, Phys. Rev. Lett. 64, 1955 (1990): A, 1/b, C and charges
BKS = {
    ("O", "O"): (1388.7730, 1 / 2.76000, 175.0000),
    ("Si", "O"): (18003.7572, 1 / 4.87318, 133.5381),
}
CHARGES = {8: -1.2, 14: 2.4}


def bks(damping):
    pairs = {p: kp.Buckingham(A=A, rho=rho, C=C, damping=damping) for p, (A, rho, C) in BKS.items()}
    return kp.PairBaseline({**pairs, ("Si", "Si"): None}, r_cut=5.5)


def test_bare_dispersion_and_charges_are_refused():
    term = bks(None)
    energy, _ = pair_energy([term, Charges(CHARGES)], np.array([0.2]), (8, 14))
    assert energy[0] == pytest.approx(-2.08e6, rel=1e-4)
    with pytest.raises(ValueError, match="not repulsive at short range: O-O attracts between 0.20"):
        assemble([kp.Wall(), term, Charges(CHARGES)], silica(), (8, 14), E0)
    with pytest.raises(ValueError, match="even with a wall 100 times as strong.*tang-toennies"):
        assemble([kp.Wall(), term], silica(), (8, 14), E0)
    with pytest.raises(ValueError, match="add kernelpot.Wall()"):
        assemble([term], silica(), (8, 14), E0)


def test_damped_dispersion_needs_no_more_than_the_wall():
    explained, notes = assemble(
        [kp.Wall(), bks("tang-toennies"), Charges(CHARGES)], silica(), (8, 14), E0
    )
    assert notes == []
    for pair, distance in contact_distances(silica(), (8, 14)).items():
        assert pull(explained.reference.baseline, pair, distance) is None


def test_the_wall_gives_way_until_unlike_charges_repel():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info["REF_energy"] = -8.0
    data, e0 = kp.read_dataset(atoms), AtomicEnergies({11: 0.0, 17: 0.0}, "given")
    charges = Charges({11: 1.0, 17: -1.0})
    contact = contact_distances(data, (11, 17))
    before = [kp.Wall().fit(data, (11, 17)), charges]
    assert pull(before, (11, 17), contact[11, 17]).startswith("Na-Cl attracts between 2.")
    explained, notes = assemble([kp.Wall(), charges], data, (11, 17), e0)
    assert notes[0].startswith("Na-Cl attracts between 2.")
    assert "under the baseline: wall " in notes[0]
    assert "moved out by" in notes[0]
    for pair, distance in contact.items():
        assert pull(explained.reference.baseline, pair, distance) is None
    shares = np.linspace(0.95, 0.3, 12)
    assert (
        np.diff(compression(explained.reference.baseline, data[0].atoms, contact, shares)) > 0
    ).all()


def test_a_wall_that_suffices_is_left_as_it_is():
    data = silica()
    explained, notes = assemble([kp.Wall()], data, (8, 14), E0)
    assert notes == []
    assert explained.reference.baseline[0] == kp.Wall().fit(data, (8, 14))
    assert assemble([], data, (8, 14), E0)[0].reference == Reference(E0, ())


def test_a_weak_attraction_strengthens_the_wall_and_the_potential_says_so(labelled, small_terms):
    dip = kp.Tabulated([0.1, 1.2, 1.5, 1.7, 2.2, 3.0, 5.0], [0.0, 0.0, -1.5, -1.4, -0.3, 0.0, 0.0])
    pairs = {("Cu", "Cu"): dip, ("Al", "Al"): None, ("Cu", "Al"): None}
    pot = kp.KernelPotential(
        small_terms[:1], baseline=[kp.Wall(), kp.PairBaseline(pairs, r_cut=4.0)]
    ).fit(labelled)
    assert "Cu-Cu attracts between" in pot.summary()
    assert "under the baseline: wall" in pot.summary()
    contact = contact_distances(kp.read_dataset(labelled), (13, 29))
    (wall, _), net = pot.model.baseline, pot.model.safety
    assert wall.reach[29, 29] > 1
    assert wall.distance((29, 29)) == wall.reach[29, 29] * contact[29, 29]
    # where the data begin is another matter: damping, reports and updates go by that
    assert wall.d_min == net.d_min == contact
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pot.update(labelled[-6:] + labelled[:14])
    r = np.linspace(0.2, 0.95 * contact_distances(kp.read_dataset(labelled), (29,))[29, 29], 4000)
    assert (np.diff(pair_energy(pot.model.baseline, r, (29, 29))[0]) < 0).all()


# ---- the default -----------------------------------------------------------------------


def default_reference(data):
    data = Dataset(canonical_order(data))
    e0 = atomic_energies(data)
    terms, _ = defaults.terms(data, e0)
    noise = Noise(**defaults.sigmas(data)[0])
    baseline, notes = choose_baseline(data, data.species, e0, terms, noise)
    return baseline.reference, notes


def assert_repulsive(reference, data):
    contact = contact_distances(data, data.species)
    for pair in combinations_with_replacement(data.species, 2):
        r = np.linspace(0.2, 0.95 * contact[pair], 3000)
        energy, slope = pair_energy(reference.baseline, r, pair)
        assert (slope <= 0).all(), pair
        assert (np.diff(energy) <= 0).all(), pair
        assert energy[0] > energy[-1] + 10.0


@pytest.fixture(scope="module")
def silicon():
    return load_silicon(), *default_reference(load_silicon())


def test_shipped_silicon_repels_and_holds_together(silicon):
    data, reference, notes = silicon
    assert_repulsive(reference, data)
    assert notes[0].startswith("baseline: wall and a Morse function per pair (5-fold on")
    contact = contact_distances(data, data.species)
    crystal = bulk("Si")
    # all the way to nearest neighbors at 0.2 Å: ever higher
    shares = np.linspace(0.95, 0.2 / contact[14, 14], 12)
    energy = compression(reference.baseline, crystal, contact, shares)
    assert (np.diff(energy) > 0).all()
    # with the baseline alone a crystal is bound, about as dense as it should be
    stretch = np.array([0.85, 0.95, 1.0, 1.05, 1.15, 1.3, 3.0])
    alone = np.array([reference.labels(scaled(crystal, s))[0] for s in stretch])
    free = 2 * reference.e0.e0[14]
    assert alone.min() < free - 0.5
    assert 0.95 <= stretch[alone.argmin()] <= 1.05
    assert (np.diff(alone[3:]) > 0).all()
    assert alone[-1] == pytest.approx(free, abs=1e-9)


def scaled(atoms, factor):
    result = atoms.copy()
    result.set_cell(atoms.cell * factor, scale_atoms=True)
    return result


def test_every_pair_of_shipped_ethanol_repels():
    data = load_ethanol()
    bonds = default_baseline.pair_functions(data, data.species, 5.0)
    e0 = atomic_energies(data)
    for terms in ([kp.Wall()], [kp.Wall(), bonds]):
        explained, notes = assemble(terms, data, data.species, e0)
        assert notes == []
        assert_repulsive(explained.reference, data)
    # a pair never seen has the wall alone
    assert bonds.pairs[8, 8] is None
    carbon_hydrogen = explained.reference.baseline[1].pairs[1, 6]
    # bonds of 1.10 Å; what other pairs pull moves the minimum of the function by 2 %
    assert carbon_hydrogen.r_0 == pytest.approx(1.1, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_every_pair_of_published_data_repels(name, data_dir):
    path = os.path.join(data_dir, name, "train.xyz")
    if not os.path.exists(path):
        pytest.skip(f"{path} is not there")
    data = kp.read_dataset(path)
    reference, _ = default_reference(data)
    assert_repulsive(reference, data)
    contact = contact_distances(data, data.species)
    for frame in sorted((f for f in data if f.atoms.pbc.all()), key=len)[:1]:
        shares = np.linspace(0.95, 0.25, 12)
        assert (np.diff(compression(reference.baseline, frame.atoms, contact, shares)) > 0).all()


def test_few_structures_have_the_wall_alone(labelled, small_terms):
    term = replace(small_terms[0], n_sparse=None)
    pot = kp.KernelPotential([term]).fit(labelled[:6])
    assert [term.kind for term in pot.model.baseline] == ["wall"]
    assert "6 structures are too few to see whether pair functions help" in pot.summary()


def test_pair_functions_that_do_not_help_are_dropped(monkeypatch):
    # forces that depend on no distance: a pair function can only learn noise
    rng = np.random.default_rng(0)
    frames = []
    for seed in range(12):
        atoms = rattled_alloy(seed, (1, 1, 1))
        atoms.arrays["REF_forces"] = rng.normal(size=(4, 3))
        frames.append(atoms)
    data = kp.read_dataset(frames)
    monkeypatch.setattr(
        default_baseline,
        "left_out_errors",
        lambda *a, **k: [LeftOut(0.001, 0.1), LeftOut(0.00103, 0.1)],
    )
    _, notes = default_reference(data)
    assert "baseline: the wall alone; with a Morse function per pair" in notes[0]
    assert "errors are up to 3.0 % larger" in notes[0]


def test_the_comparison_sees_what_helps_and_what_harms(labelled):
    data = Dataset(canonical_order(kp.read_dataset(labelled)))
    e0 = atomic_energies(data)
    noise = Noise(**defaults.sigmas(data)[0])
    term = kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, sigma_atom=0.45)
    harm = kp.PairBaseline(
        {p: kp.BornMayer(A=3000.0, rho=0.33) for p in (("Al", "Al"), ("Al", "Cu"), ("Cu", "Cu"))},
        r_cut=3.2, r_on=3.1,
    )  # fmt: skip
    references = [assemble([kp.Wall(), *t], data, (13, 29), e0)[0] for t in ([], [harm])]
    plain, harmed = default_baseline.left_out_errors(list(data), (13, 29), references, term, noise)
    assert harmed.ratios(plain).max() > 1.05
    assert plain.forces < 0.5 * np.concatenate([np.abs(f.forces).ravel() for f in data]).mean()


def test_a_species_known_only_as_a_free_atom_is_no_hindrance(labelled):
    atoms = Atoms("Ni")
    atoms.info["REF_energy"] = -1.0
    reference, notes = default_reference(kp.read_dataset([*labelled, atoms]))
    assert "5-fold" in notes[0]
    assert_repulsive(reference, kp.read_dataset([*labelled, atoms]))


def test_errors_compare_kind_by_kind(monkeypatch, labelled):
    assert LeftOut(0.002, 0.1).ratios(LeftOut(0.001, 0.2)) == pytest.approx([2.0, 0.5])
    assert LeftOut(None, 0.3).ratios(LeftOut(None, 0.1)) == pytest.approx([3.0])
    # better forces do not buy worse energies
    monkeypatch.setattr(
        default_baseline,
        "left_out_errors",
        lambda *a, **k: [LeftOut(0.001, 0.1), LeftOut(0.0012, 0.05)],
    )
    _, notes = default_reference(kp.read_dataset(labelled))
    assert notes[0].startswith("baseline: the wall alone")
    assert str(LeftOut(0.0015, 0.12)) == "energies 1.50 meV/atom, forces 0.1200 eV/Å"


def test_least_squares_energies_refer_to_what_the_baseline_leaves():
    frames = [label(rattled_alloy(s, (1, 1, 1))) for s in range(6)]
    data = kp.read_dataset(frames)
    morse = kp.Morse(depth=0.3, width=0.6, r_0=2.6)
    pairs = {p: morse for p in (("Al", "Al"), ("Al", "Cu"), ("Cu", "Cu"))}
    term = kp.PairBaseline(pairs, r_cut=5.0)
    explained, _ = assemble([kp.Wall(), term], data, (13, 29), atomic_energies(data))
    left = [f.energy - explained.reference.labels(f.atoms)[0] for f in data]
    assert abs(np.mean(left)) < 1e-6
    assert explained.reference.e0.origin == "least squares"
    given = AtomicEnergies({13: -1.0, 29: -2.0}, "given")
    assert assemble([kp.Wall(), term], data, (13, 29), given)[0].reference.e0 == given


def test_a_dimer_comes_apart_at_any_distance(silicon):
    _, reference, _ = silicon
    for distance in (0.3, 0.8, 1.5, 1.9):
        atoms = Atoms("Si2", [[0, 0, 0], [distance, 0, 0]])
        assert reference.labels(atoms)[1][1, 0] > 1.0
