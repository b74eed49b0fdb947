"""Charges from energies and forces: what is found, when it is used, and a model with it."""

import copy
import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.baseline.reference import Reference
from kernelpot.baseline.smeared import SmearedCoulomb
from kernelpot.cli.console import read_config
from kernelpot.data.dataset import Dataset
from kernelpot.data.order import fingerprint
from kernelpot.data.reading import read_dataset
from kernelpot.fit.defaults import length_scale
from kernelpot.md.trajectory import TrajectoryFile
from kernelpot.plot.scans import strain_curve
from kernelpot.testing import numerical_forces, numerical_stress

WIDTH = 0.8
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def true_charges(atoms, total=0.0):
    """By the number of neighbors of the other species, neutralized evenly."""
    d = atoms.get_all_distances() + 99 * np.eye(len(atoms))
    sign = np.where(atoms.numbers == 11, 1.0, -1.0)
    near = 1 / (1 + np.exp((d - 3.4) / 0.3)) * (sign[:, None] != sign)
    q = sign * (0.35 + 0.1 * near.sum(axis=1))
    return q + (total - q.sum()) / len(q)


def true_energy(atoms, charged=True):
    """Gaussian charges that depend on the environment, and repulsion."""
    q = true_charges(atoms, atoms.info.get("charge", 0.0)) * charged
    d = atoms.get_all_distances() + 99 * np.eye(len(atoms))
    electrostatic = 0.5 * q @ SmearedCoulomb(atoms, np.full(len(q), WIDTH)).potential(q)
    well = 0.0 if charged else -3.0 * np.exp(-2.5 * (d - 2.4)).sum()
    return electrostatic + 0.5 * 1200 * np.exp(-d / 0.31).sum() + 0.5 * well


def labelled(atoms, charged=True):
    forces = np.empty((len(atoms), 3))
    for i in range(len(atoms)):
        for c in range(3):
            at = []
            for step in (1e-4, -1e-4):
                moved = atoms.copy()
                moved.positions[i, c] += step
                at.append(true_energy(moved, charged))
            forces[i, c] = (at[1] - at[0]) / 2e-4
    atoms = atoms.copy()
    atoms.info["REF_energy"] = true_energy(atoms, charged)
    atoms.arrays["REF_forces"] = forces
    return atoms


def cluster(seed, n=8):
    """Ions at random, none closer than bonds are."""
    rng = np.random.default_rng(seed)
    numbers = np.array([11, 17] * (n // 2))
    while True:
        places: list[np.ndarray] = []
        for _ in range(4000):
            new = rng.uniform(-2.9, 2.9, 3)
            z = numbers[len(places)]
            least = [2.4 if numbers[k] != z else 3.0 for k in range(len(places))]
            if all(np.linalg.norm(new - p) > m for p, m in zip(places, least, strict=True)):
                places.append(new)
            if len(places) == n:
                return Atoms(numbers, places)


TERMS = [kp.PairTerm(r_cut=4.5), kp.SOAPTerm(r_cut=4.5, n_max=5, l_max=3, n_sparse=80)]
CHARGES = kp.KernelCharges(
    r_cut=4.0, n_max=5, l_max=3, n_sparse=40, smearing=WIDTH, sigma_charge=0.2
)


@pytest.fixture(scope="module")
def data():
    return [labelled(cluster(seed)) for seed in range(32)]


@pytest.fixture(scope="module")
def pot(data):
    return kp.KernelPotential(TERMS, baseline=[kp.Wall()], charges=CHARGES).fit(data)


@pytest.fixture(scope="module")
def crystal():
    atoms = bulk("NaCl", "rocksalt", a=5.4, cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def fresh(seed, total=0.0):
    atoms = cluster(1000 + seed)
    if total:
        atoms.info["charge"] = total
    return atoms


def test_charges_are_recovered_from_energies_and_forces(pot):
    assert "charges are used" in pot.summary()
    assert "sign: electronegative species are negative" in pot.summary()
    found, true = [], []
    for seed in range(20):
        atoms = fresh(seed)
        found.append(pot.predict(atoms).charges)
        true.append(true_charges(atoms))
    found, true = np.concatenate(found), np.concatenate(true)
    assert np.corrcoef(found, true)[0, 1] > 0.99
    # 32 clusters leave the mean of charges of 0.4 e uncertain by that much
    assert np.sqrt(np.mean((found - true) ** 2)) < 0.08


def test_they_reach_beyond_every_cutoff(pot, data):
    local = kp.KernelPotential(TERMS, baseline=[kp.Wall()]).fit(data, optimize=None)
    a, b = fresh(1), fresh(2)
    a.positions -= a.positions.mean(axis=0)
    b.positions -= b.positions.mean(axis=0)
    joined = []
    for distance in (12.0, 40.0):
        moved = b.copy()
        moved.positions[:, 0] += distance
        joined.append(a + moved)
    true = true_energy(joined[0]) - true_energy(joined[1])
    with_charges, without = (
        p.predict(joined[0]).energy - p.predict(joined[1]).energy for p in (pot, local)
    )
    assert without == pytest.approx(0.0, abs=1e-9)
    assert with_charges == pytest.approx(true, abs=0.25 * abs(true))


@pytest.mark.parametrize("gate", [False, True])
def test_forces_and_stress_are_derivatives(pot, crystal, gate):
    for atoms in (fresh(3), fresh(4, total=1.0), crystal):
        found = pot.predict(atoms, gate=gate)
        numerical = numerical_forces(pot, atoms) if not gate else found.forces
        scale = np.abs(found.forces).max()
        # truncation: the square of the step times third derivatives
        np.testing.assert_allclose(found.forces, numerical, atol=1e-5 * scale)
        np.testing.assert_allclose(found.forces.sum(axis=0), 0.0, atol=1e-7 * scale)
        assert found.charges.sum() == pytest.approx(atoms.info.get("charge", 0.0), abs=1e-12)
    if not gate:
        numerical = numerical_stress(pot, crystal)
        np.testing.assert_allclose(
            pot.predict(crystal).stress, numerical, atol=1e-5 * np.abs(numerical).max()
        )


def test_rows_and_prediction_are_one_model(pot, data):
    """Residuals of rows are errors of predictions: the known part is neither lost nor doubled."""
    model = pot.model
    solution = model.factor.solve()
    for frame in kp.read_dataset(data[:3]):
        rows = model.design.rows([model.remainder(frame)], model.noise)
        left = (rows.y - rows.phi @ solution) * rows.unit
        found = pot.predict(frame.atoms)
        expected = np.append(frame.energy - found.energy, frame.forces - found.forces)
        # weights of pairs are large and cancel: by splines and by sums to 3e-8 eV/Å
        np.testing.assert_allclose(left, expected, atol=1e-7)


def test_uncertainty_and_samples(pot, crystal):
    for atoms in (fresh(5), crystal):
        found = pot.predict(atoms, return_std=True)
        assert found.energy_std > 0
        assert np.all(found.forces_std > 0)
        posterior = found.posterior
        assert posterior.energy_std > 0
        plain = copy.deepcopy(pot)
        plain.fitted_ = replace(pot.model, calibration=None)
        sampled = plain.sample(400, 1).predict(atoms)
        spread = np.std(sampled.energies - found.energy)
        # 400 draws tell a standard deviation to 4 %
        assert spread == pytest.approx(posterior.energy_open, rel=0.2)


def test_a_model_travels(pot, crystal, tmp_path):
    pot.save(tmp_path / "model.kpot")
    again = kp.load(tmp_path / "model.kpot")
    assert again.charges == pot.charges == CHARGES
    for atoms in (fresh(6), fresh(6, total=-1.0), crystal):
        one, two = (p.predict(atoms, return_std=True) for p in (pot, again))
        for name in ("energy", "forces", "charges", "forces_std", "energy_std"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert again.summary() == pot.summary()


def test_an_update_learns_more(pot, data):
    new = [labelled(fresh(seed)) for seed in (7, 8)]
    with warnings.catch_warnings():  # new structures may be closer than the wall's
        warnings.simplefilter("ignore")
        updated = copy.deepcopy(pot).update(new)
    before, after = (
        sum(np.square(p.predict(a).forces - a.arrays["REF_forces"]).sum() for a in new)
        for p in (pot, updated)
    )
    assert after < before


def test_calculators_have_charges_and_dipoles(pot, crystal):
    atoms = fresh(9)
    atoms.calc = pot.calculator(gate=None)
    q = atoms.get_charges()
    np.testing.assert_array_equal(q, pot.predict(atoms).charges)
    np.testing.assert_allclose(atoms.get_dipole_moment(), q @ atoms.positions, atol=1e-9)
    before = atoms.get_potential_energy()
    atoms.info["charge"] = 1.0
    assert atoms.get_potential_energy() != before
    assert atoms.get_charges().sum() == pytest.approx(1.0)
    crystal.calc = pot.calculator(gate=None)
    assert "dipole" not in (crystal.get_forces(), crystal.calc.results)[1]


def test_energy_is_conserved_while_charges_move(pot):
    atoms = fresh(10)
    atoms.calc = pot.calculator(gate=None)
    thermalize_momenta(atoms, temperature_K=200, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    totals, charges = [], []
    for _ in range(40):
        dynamics.run(1)
        totals.append(atoms.get_total_energy())
        charges.append(atoms.get_charges())
    assert np.std(charges, axis=0).max() > 1e-3
    # the time step's error is of its square; wrong forces would drift by tenths of an eV
    assert np.ptp(totals) < 0.02 * np.ptp([len(atoms)]) + 0.02


def test_slabs_and_what_is_no_charge_are_refused(pot, data, crystal):
    slab = crystal.copy()
    slab.pbc = (True, True, False)
    with pytest.raises(ValueError, match="periodic along x, y only"):
        pot.predict(slab)
    atoms = fresh(11)
    atoms.info["charge"] = "plus"
    with pytest.raises(ValueError, match="must be a number"):
        pot.predict(atoms)
    with pytest.raises(ValueError, match="KernelPotential\\(charges=...\\)"):
        kp.KernelPotential([*TERMS, CHARGES]).fit(data)


def test_data_without_charges_do_without():
    data = [labelled(cluster(seed), charged=False) for seed in range(24)]
    one = kp.KernelPotential(TERMS, baseline=[kp.Wall()], charges=CHARGES)
    other = kp.KernelPotential(TERMS, baseline=[kp.Wall()])
    one, other = (p.fit(data, optimize=None, calibrate=False) for p in (one, other))
    assert "charges are not used" in one.summary()
    assert one.predict(fresh(12)).charges is None
    assert one.predict(fresh(12)).energy == other.predict(fresh(12)).energy
    few = kp.KernelPotential(TERMS, charges=CHARGES).fit(data[:12], optimize=None, calibrate=False)
    assert "too few to see whether they help" in few.summary()


@pytest.mark.parametrize("kind", ["charges", "dipole"])
def test_labels_count(data, kind):
    """Of charges of which energies know nothing but the sign's square."""
    given = []
    for atoms in data:
        atoms = atoms.copy()
        if kind == "charges":
            atoms.arrays["REF_charges"] = -true_charges(atoms)
        else:
            atoms.info["REF_dipole"] = -true_charges(atoms) @ atoms.positions
        given.append(atoms)
    pot = kp.KernelPotential(TERMS, baseline=[kp.Wall()], charges=CHARGES)
    pot.fit(given, optimize=None, calibrate=False)
    assert "sign: from total charges or labels" in pot.summary()
    atoms = fresh(13)
    assert np.corrcoef(pot.predict(atoms).charges, -true_charges(atoms))[0, 1] > 0.95


def test_total_charges_of_frames_are_read(data):
    atoms = data[0].copy()
    atoms.info["charge"] = 1
    frames: Dataset = kp.read_dataset([atoms])
    assert frames[0].atoms.info == {"charge": 1}


def crystal_with_labels(seed):
    """Rock salt of constant charges of 0.7 e and a repulsion, with stress."""
    rng = np.random.default_rng(seed)
    atoms = bulk("NaCl", "rocksalt", a=5.5 * rng.uniform(0.95, 1.06), cubic=True)
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True
    )
    atoms.positions += rng.normal(scale=0.2, size=atoms.positions.shape)
    q = np.where(atoms.numbers == 11, 0.7, -0.7)
    coulomb = SmearedCoulomb(atoms, np.full(len(q), WIDTH))
    forces, virial = coulomb.derivatives(q, q)
    pairs = kp.PairBaseline(
        {("Na", "Cl"): kp.BornMayer(1200, 0.31), ("Na", "Na"): None, ("Cl", "Cl"): None}, r_cut=5.0
    )
    known = Reference(AtomicEnergies({11: 0.0, 17: 0.0}, "given"), [pairs])
    energy, of_pairs, virial_of_pairs = known.labels(atoms)
    atoms.info["REF_energy"] = energy + 0.5 * q @ coulomb.potential(q)
    atoms.arrays["REF_forces"] = of_pairs + 0.5 * forces
    full = virial_of_pairs[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    atoms.info["REF_virial"] = full + 0.5 * virial
    return atoms


def test_charges_are_found_in_crystals_with_stress():
    train = [crystal_with_labels(seed) for seed in range(20)]
    test = [crystal_with_labels(seed) for seed in range(100, 104)]
    errors = {}
    for charges in (None, replace(CHARGES, sigma_charge=0.05)):
        pot = kp.KernelPotential([kp.PairTerm(r_cut=4.5)], baseline=[kp.Wall()], charges=charges)
        pot.fit(train, optimize=None, calibrate=False)
        forces, stress = [], []
        for atoms in test:
            found = pot.predict(atoms)
            forces.append(found.forces - atoms.arrays["REF_forces"])
            virial = atoms.info["REF_virial"]
            full = np.array([virial[a, b] for a, b in VOIGT])
            stress.append(found.stress + full / atoms.get_volume())
        errors[charges is not None] = np.std(forces), np.sqrt(np.mean(np.square(stress)))
    assert "charges are used" in pot.summary()
    # what a crystal of one kind leaves open between charges and what is local: the rest is prior
    q = np.where(test[0].numbers == 11, 1, -1) * pot.predict(test[0]).charges
    assert 0.4 < q.min() < q.max() < 0.9
    for with_charges, without in zip(errors[True], errors[False], strict=True):
        assert with_charges < 0.7 * without


def test_the_reach_of_environments_comes_from_the_data(data):
    """Of ions, whose bonds are long, more than of molecules."""
    frames = [a for a in data if len(a) > 1][:12]
    length = length_scale(kp.read_dataset(frames))[0]
    assert 2.4 * 1.5 <= length < 4.5
    term = CHARGES.changed(r_cut=0.0, gate=False, n_sparse=10)
    assert "SOAP r_cut from the data" in term.describe()[0]
    assert term.suited(length).r_cut == pytest.approx(1.6 * length, abs=1e-3)
    assert term.suited(2.0).r_cut == 4.5
    assert CHARGES.suited(length) is CHARGES
    pot = kp.KernelPotential(TERMS[:1], baseline=[], charges=term)
    pot.fit(frames, optimize=None, calibrate=False, self_test=False)
    assert pot.model.design.terms[-1].term == term.suited(length)


def test_a_configuration_file_may_ask_for_charges(tmp_path):
    path = tmp_path / "fit.toml"
    path.write_text("[charges]\nr_cut = 4.0\nsmearing = {Na = 0.9, Cl = 1.0}\n")
    found = read_config(str(path))["charges"]
    assert found == kp.KernelCharges(r_cut=4.0, smearing={"Na": 0.9, "Cl": 1.0})
    path.write_text("[charges]\nsigma_charge = -1.0\n")
    with pytest.raises(ValueError, match=r"\[charges\]: `sigma_charge` must be positive"):
        read_config(str(path))


def test_whole_forms_beside_charges_count_what_is_known_once(data):
    """The form has what its columns have and more: errors are no larger."""
    errors = []
    for full in (False, True):
        form = kp.PolynomialSOAP(
            r_cut=4.5, n_max=4, l_max=3, n_sparse=80, n_directions=30, full=full
        )
        pot = kp.KernelPotential(
            [kp.PairTerm(r_cut=4.5), form],
            charges=replace(CHARGES, gate=False),
            baseline=[kp.Wall()],
        )
        pot.fit(data, optimize=None, calibrate=False, self_test=False)
        assert pot.model.has_charges
        found = [pot.predict(frame.atoms) for frame in kp.read_dataset(data)]
        errors.append(
            [np.mean([abs(p.energy - f.energy) / len(f) for p, f in zip(
                found, kp.read_dataset(data), strict=True)])]
        )  # fmt: skip
    assert errors[1][0] < 2.0 * errors[0][0] + 1e-3


def test_the_total_charge_goes_where_the_structure_goes(pot, tmp_path):
    ion, neutral = fresh(3, total=1.0), fresh(3)
    energy = pot.predict(ion).energy
    assert energy != pytest.approx(pot.predict(neutral).energy)
    # two frames that differ in charge alone are two
    prints = [fingerprint(read_dataset(labelled(atoms))[0]) for atoms in (ion, neutral)]
    assert prints[0] != prints[1]
    # a trajectory of the ion is one of the ion
    atoms = ion.copy()
    atoms.calc = pot.calculator(gate=None)
    atoms.get_forces()
    path = str(tmp_path / "ion.traj")
    TrajectoryFile(path).append(atoms, {})
    assert pot.predict(ase.io.read(path)).energy == pytest.approx(energy, abs=1e-9)
    # a scan of the ion, too
    curve = strain_curve(pot, ion, factors=[1.0])
    of_atom = (energy - pot.model.e0.total(ion.numbers)) / len(ion)
    assert curve.ungated[0] == pytest.approx(of_atom)
    # and a file whose golden structure is an ion reproduces it
    data = [labelled(fresh(k, total=1.0)) for k in range(12)]
    own = kp.KernelPotential(TERMS[1:], baseline=[kp.Wall()], charges=replace(CHARGES, gate=False))
    own.fit(data, optimize=None, calibrate=False, self_test=False).save(tmp_path / "ion.kpot")
    again = kp.load(tmp_path / "ion.kpot")
    assert again.predict(ion).energy == pytest.approx(own.predict(ion).energy, abs=1e-9)


def test_other_tools_take_models_with_charges(pot, data):
    chosen = kp.select_frames(pot, data[:8], 3)
    assert len(chosen) == 3
