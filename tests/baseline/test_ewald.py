"""Electrostatics as a term of the baseline: charges, refusals, and the whole path of a fit."""

import io

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.baseline.pair_functions import COULOMB
from kernelpot.baseline.reference import BaselineTerm, ReadsAtoms, Reference
from kernelpot.data.neighbors import neighbor_list, pair_forces
from kernelpot.data.system import VOIGT
from kernelpot.testing import numerical_forces, numerical_stress

SPECIES = (11, 17)
FREE = Reference(AtomicEnergies({11: 0.0, 17: 0.0}, "given"))


def salt(seed, size=(1, 1, 1), amplitude=0.12):
    """Rock salt, strained and rattled."""
    rng = np.random.default_rng(seed)
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(size)
    strain = np.eye(3) * (1 + 0.03 * rng.normal()) + 0.02 * rng.normal(size=(3, 3))
    atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
    atoms.positions += amplitude * rng.normal(size=atoms.positions.shape)
    return atoms


def labelled_salt(atoms, charge=0.8, noise=0.0):
    """Labels of Coulomb's law plus a Born-Mayer repulsion between unlike ions."""
    reference = Reference(FREE.e0, [kp.Ewald({"Na": charge, "Cl": -charge}, widths=0.5)])
    energy, forces, virial = reference.labels(atoms)
    pairs = neighbor_list(atoms, 9.0)
    d = pairs.displacements(atoms.positions)
    r = np.linalg.norm(d, axis=1)
    unlike = atoms.numbers[pairs.centers] != atoms.numbers[pairs.neighbors]
    repulsion = np.where(unlike, 1500.0 * np.exp(-r / 0.31), 0.0)
    gradient = (-0.5 * repulsion / 0.31 / r)[:, None] * d
    atoms = atoms.copy()
    atoms.info["REF_energy"] = energy + 0.5 * repulsion.sum()
    rng = np.random.default_rng(int(1e6 * abs(energy)) % 2**31)
    forces = forces + pair_forces(pairs, gradient) + noise * rng.normal(size=forces.shape)
    atoms.arrays["REF_forces"] = forces
    if atoms.pbc.all():
        full = -d.T @ gradient
        for value, (a, b) in zip(virial, VOIGT, strict=True):
            full[a, b] += value
            full[b, a] += value if a != b else 0.0
        atoms.info["REF_virial"] = full
    atoms.set_initial_charges(np.where(atoms.numbers == 11, charge, -charge))
    return atoms


@pytest.fixture(scope="module")
def salts():
    return [labelled_salt(salt(s), noise=0.01) for s in range(12)]


@pytest.fixture(scope="module")
def terms():
    return [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, sigma_atom=0.5, n_sparse=50)]


def ewald_energy(term, atoms):
    return Reference(AtomicEnergies(dict.fromkeys(range(100), 0.0), "given"), [term]).labels(atoms)[
        0
    ]


# ---- charges -----------------------------------------------------------------------


def test_it_is_a_term_of_the_baseline():
    term = kp.Ewald({"Na": 1.0, "Cl": -1.0})
    assert isinstance(term, BaselineTerm)
    assert isinstance(term, ReadsAtoms)


def test_charges_of_species_and_of_atoms_agree():
    atoms = labelled_salt(salt(3), charge=0.7)
    by_species = kp.Ewald({"Na": 0.7, "Cl": -0.7}, widths=0.4)
    by_atom = kp.Ewald("initial_charges", widths=0.4)
    assert by_atom.array_names == ("initial_charges",)
    assert ewald_energy(by_species, atoms) == pytest.approx(ewald_energy(by_atom, atoms), rel=1e-14)


def test_energy_of_rock_salt_in_electron_volts():
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    energy = ewald_energy(kp.Ewald({"Na": 1.0, "Cl": -1.0}, widths=0.0), atoms)
    assert energy == pytest.approx(-1.747564594633 * COULOMB / 2.82, rel=1e-8)


def test_fitted_charges_are_those_of_the_labels(salts):
    found = kp.Ewald("fit").fit(kp.read_dataset(salts), SPECIES, FREE)
    assert set(found.charges) == {"Na", "Cl"}
    # noise in the labels, and repulsion that the term does not have
    assert found.charges["Na"] == pytest.approx(0.8, abs=0.02)
    assert found.charges["Cl"] == pytest.approx(-found.charges["Na"], rel=1e-12)  # neutral cells
    assert 0 < found.errors["Na"] < 0.02
    assert abs(found.charges["Na"] - 0.8) < 4 * found.errors["Na"]


def test_outliers_do_not_move_fitted_charges(salts):
    spoilt = [atoms.copy() for atoms in salts]
    for atoms in spoilt:
        atoms.arrays["REF_forces"][0] += [1.0, -2.0, 1.5]
    found = kp.Ewald("fit").fit(kp.read_dataset(spoilt), SPECIES, FREE)
    # as without the outliers, to twice what noise does
    assert found.charges["Na"] == pytest.approx(0.8, abs=0.02)


def test_charges_of_molecules_need_no_neutral_cell():
    frames = []
    rng = np.random.default_rng(5)
    for _ in range(12):
        positions = np.array([[0.0, 0, 0], [2.6, 0, 0], [0, 7.2, 0], [0, 0, 8.3]])
        atoms = Atoms("NaClNaCl", positions + 0.5 * rng.normal(size=(4, 3)))
        frames.append(labelled_salt(atoms))
    found = kp.Ewald("fit").fit(kp.read_dataset(frames), SPECIES, FREE)
    assert found.charges["Na"] == pytest.approx(0.8, abs=5e-3)
    assert found.charges["Cl"] == pytest.approx(-0.8, abs=5e-3)


def test_three_species_with_one_composition():
    true = {"Na": 0.9, "Cl": -0.8, "K": 0.6}
    term = kp.Ewald(true, widths=0.5)
    frames = []
    for seed in range(4):
        atoms = salt(seed, (2, 1, 1), 0.2)[:12]
        atoms.symbols = "Na4Cl6K2"
        rng = np.random.default_rng(seed)
        atoms.numbers = rng.permutation(atoms.numbers)
        labels = Reference(AtomicEnergies({11: 1.0, 17: -2.0, 19: 3.0}, "given"), [term])
        atoms.info["REF_energy"], atoms.arrays["REF_forces"], _ = labels.labels(atoms)
        frames.append(atoms)
    nothing = Reference(AtomicEnergies({11: 0.0, 17: 0.0, 19: 0.0}, "given"))
    found = kp.Ewald("fit", widths=0.5).fit(kp.read_dataset(frames), (11, 17, 19), nothing)
    assert found.charges == pytest.approx(true, abs=1e-4)


def test_neutrality_can_be_impossible(salts):
    sodium = labelled_salt(bulk("Na", "bcc", a=4.2, cubic=True), charge=0.0)
    with pytest.raises(ValueError, match="no charges of Na, Cl leave all periodic cells neutral"):
        kp.Ewald("fit").fit(kp.read_dataset([*salts, sodium]), SPECIES, FREE)


def test_too_few_labels_are_said_to_be_too_few(salts):
    one = salts[0].copy()
    del one.arrays["REF_forces"], one.info["REF_virial"]
    with pytest.raises(ValueError, match="the 1 labels do not determine the charges of Na, Cl"):
        kp.Ewald("fit").fit(kp.read_dataset(one), SPECIES, FREE)


# ---- damping -----------------------------------------------------------------------


def test_widths_come_from_the_shortest_distances(salts):
    data = kp.read_dataset(salts)
    term = kp.Ewald({"Na": 1.0, "Cl": -1.0}).fit(data, SPECIES, FREE)
    nearest = data.distances.shortest[11, 17]
    assert term.widths[11, 17] == pytest.approx(0.3 * nearest)
    energy, _ = term.pair_energy(np.array([nearest]), 11, 17)
    assert energy[0] == pytest.approx(-COULOMB / nearest, rel=3e-6)
    given = kp.Ewald({"Na": 1.0, "Cl": -1.0}, widths={("Cl", "Na"): 0.6})
    assert given.fit(data, SPECIES, FREE).widths[11, 17] == 0.6
    with pytest.raises(
        ValueError, match=r"`widths` of Na-Na must be below .* third of the shortest"
    ):
        kp.Ewald({"Na": 1.0, "Cl": -1.0}, widths=1.2).fit(data, SPECIES, FREE)


@pytest.mark.parametrize("widths", [0.0, 0.5])
def test_pair_energy_is_the_energy_of_a_pair(widths):
    term = kp.Ewald({"Na": 1.0, "Cl": -1.5}, widths=widths)
    r = np.array([0.2, 0.6, 2.0, 7.0])
    energy, slope = term.pair_energy(r, 17, 11)
    for distance, value in zip(r, energy, strict=True):
        pair = Atoms("NaCl", [[0, 0, 0], [0, 0, distance]])
        assert ewald_energy(term, pair) == pytest.approx(value, rel=1e-12)
    step = 1e-6
    numerical = term.pair_energy(r + step, 17, 11)[0] - term.pair_energy(r - step, 17, 11)[0]
    np.testing.assert_allclose(slope, numerical / (2 * step), rtol=1e-6)


def test_pair_energy_of_atomic_charges_is_the_most_attractive_seen(salts):
    varied = [atoms.copy() for atoms in salts[:2]]
    for atoms in varied:
        charges = atoms.get_initial_charges()
        charges[[0, 1]] *= 1.25  # Na 0: +1.0, Cl 1: -1.0
        atoms.set_initial_charges(charges)
    assert varied[0].get_initial_charges().sum() == pytest.approx(0.0)
    term = kp.Ewald("initial_charges").fit(kp.read_dataset(varied), SPECIES, FREE)
    assert term.ranges["Na"] == pytest.approx((0.8, 1.0))
    energy, _ = term.pair_energy(np.array([5.0]), 11, 17)
    assert energy[0] == pytest.approx(-COULOMB / 5.0, rel=1e-6)
    energy, _ = term.pair_energy(np.array([5.0]), 11, 11)
    assert energy[0] == pytest.approx(0.64 * COULOMB / 5.0, rel=1e-6)


# ---- refusals ----------------------------------------------------------------------


def test_a_neutralizing_background_makes_a_wigner_crystal():
    """Simple cubic, Coldwell-Horsfall and Maradudin, J. Math. Phys. 1, 395 (1960)."""
    term = kp.Ewald({"Na": 1.0}, widths=0.4, background="neutralizing")
    energy = ewald_energy(term, Atoms("Na", cell=[4, 4, 4], pbc=True))
    # what charges feel of the background has no place for their width: 4 Å are ten widths
    assert energy == pytest.approx(-1.4186487397 * COULOMB / 4.0, rel=1e-8)


def test_a_charged_cell_is_refused_with_its_charge(salts, terms):
    term = kp.Ewald({"Na": 1.0, "Cl": -0.5}, widths=0.4)
    with pytest.raises(ValueError, match=r"net charge of \+2 e.*background='neutralizing'"):
        term.check(salts[0], "structure")
    with pytest.raises(ValueError, match=r"^\S+ ?\d+: the periodic cell has a net charge of \+2 e"):
        kp.KernelPotential(terms, baseline=[kp.Wall(), term]).fit(salts)
    molecule = Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]])
    term.check(molecule, "molecule")  # a charged molecule is fine


def test_missing_charges_are_named(salts):
    by_species = kp.Ewald({"Na": 1.0}, widths=0.4)
    with pytest.raises(ValueError, match="frame 7: no charge for Cl; add it to Ewald"):
        by_species.check(salts[0], "frame 7")
    bare = Atoms(salts[0].numbers, salts[0].positions, cell=salts[0].cell, pbc=True)
    by_atom = kp.Ewald("initial_charges", widths=0.4)
    with pytest.raises(ValueError, match="frame 7 has no per-atom charges 'initial_charges'; set"):
        by_atom.check(bare, "frame 7")
    bare.set_initial_charges(np.where(np.arange(8) == 3, np.nan, 0.0))
    with pytest.raises(ValueError, match="initial_charges of atom 3 is not finite"):
        by_atom.check(bare, "frame 7")
    with pytest.raises(ValueError, match=r"positions must have shape \(8,\), got \(8, 3\)"):
        kp.Ewald("positions", widths=0.4).check(bare, "frame 7")
    with pytest.raises(ValueError, match="the charges are not fitted yet"):
        kp.Ewald("fit", widths=0.4).check(bare, "frame 7")
    with pytest.raises(ValueError, match="no damping width for Na-Na yet"):
        ewald_energy(kp.Ewald({"Na": 1.0, "Cl": -1.0}), salts[0])


def test_partial_periodicity_is_refused(salts):
    slab = salts[0].copy()
    slab.pbc = (True, True, False)
    with pytest.raises(ValueError, match="periodic along x, y only"):
        kp.Ewald({"Na": 1.0, "Cl": -1.0}, widths=0.4).check(slab, "slab")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"charges": {}}, "`charges` must be such as"),
        ({"charges": None}, "`charges` must be such as"),
        ({"charges": ""}, "names no array"),
        ({"charges": {"Xy": 1.0}}, "not a chemical symbol: 'Xy'"),
        ({"charges": {"Na": np.nan}}, "`charges` must be finite"),
        ({"charges": "fit", "accuracy": 0.5}, "`accuracy` must be between"),
        ({"charges": "fit", "background": "uniform"}, "`background` must be None or"),
        ({"charges": "fit", "widths": -0.1}, "`widths` must not be negative, got -0.1 Å"),
        ({"charges": "fit", "widths": {"Na": 0.1}}, "keyed by pairs of symbols"),
    ],
)
def test_unphysical_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.Ewald(**arguments)


def test_free_atoms_need_no_charge():
    term = kp.Ewald("initial_charges", widths=0.4)
    boxed = Atoms("Na", cell=[9, 9, 9], pbc=True)
    assert ewald_energy(term, boxed) == 0.0
    assert ewald_energy(term, Atoms("Na")) == 0.0
    with pytest.raises(ValueError, match="net charge of"):
        kp.Ewald({"Na": 1.0}, widths=0.4).check(bulk("Na"), "crystal")


# ---- in a potential ----------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(salts, terms):
    baseline = [kp.Wall(), kp.Ewald("initial_charges")]
    return kp.KernelPotential(terms, baseline=baseline).fit(salts)


def test_the_fit_reproduces_new_structures(fitted, terms, salts):
    test = [labelled_salt(salt(s)) for s in range(30, 34)]
    errors = kp.evaluate(fitted, test)
    plain = kp.evaluate(kp.KernelPotential(terms, baseline=[kp.Wall()]).fit(salts), test)
    assert errors["energy_mae_mev_per_atom"] < 0.5 * plain["energy_mae_mev_per_atom"]
    assert errors["forces_mae_ev_per_ang"] < plain["forces_mae_ev_per_ang"]


def test_forces_and_stress_of_the_whole_are_derivatives(fitted, salts):
    found = fitted.predict(salts[0])
    # weights of 4e5 eV cancel to some 1e-10 eV; with smaller steps that would be seen
    step = 3e-4
    expected = numerical_forces(fitted, salts[0], step=step)
    np.testing.assert_allclose(found.forces, expected, atol=2e-6)
    expected = numerical_stress(fitted, salts[0], step=step)
    np.testing.assert_allclose(found.stress, expected, atol=1e-7)
    assert found.energies.sum() == pytest.approx(found.energy, rel=1e-14)


def test_gated_forces_with_charges_are_derivatives(fitted, salts):
    class Gated:
        def predict(self, atoms):
            return fitted.predict(atoms, gate=gate)

    stretched = salts[0].copy()
    stretched.set_cell(1.1 * stretched.cell.array, scale_atoms=True)
    std = fitted.predict(stretched, gate=kp.VarianceGate(std_known=1e-6)).std_bound
    gate = kp.VarianceGate(std_known=0.5 * std.min())
    found = Gated().predict(stretched)
    assert np.all(found.penalty > 0)
    np.testing.assert_allclose(found.forces, numerical_forces(Gated(), stretched), atol=5e-6)
    np.testing.assert_allclose(found.stress, numerical_stress(Gated(), stretched), atol=1e-6)


def test_many_structures_at_once(fitted, salts):
    cluster = Atoms("NaClNa", [[0, 0, 0], [0, 0, 2.6], [0, 2.5, 3.0]])
    cluster.set_initial_charges([0.8, -0.8, 0.8])
    structures = [salts[0], cluster, salts[1], Atoms("Cl")]
    for atoms, found in zip(structures, fitted.predict_many(structures), strict=True):
        alone = fitted.predict(atoms)
        np.testing.assert_allclose(found.energies, alone.energies, atol=1e-10)
        np.testing.assert_allclose(found.forces, alone.forces, atol=1e-10)
        if alone.stress is not None:
            np.testing.assert_allclose(found.stress, alone.stress, atol=1e-12)
    bare = Atoms("NaCl", [[0, 0, 0], [0, 0, 2.6]])
    with pytest.raises(ValueError, match="structure 1 has no per-atom charges 'initial_charges'"):
        list(fitted.predict_many([salts[0], bare]))


def test_the_model_file_keeps_charges(fitted, salts, tmp_path):
    path = tmp_path / "salt.kpot"
    fitted.save(path)
    loaded = kp.load(path)  # verifies its golden structure
    assert loaded.predict(salts[2]).energy == fitted.predict(salts[2]).energy
    assert loaded.model.baseline[1] == fitted.model.baseline[1]
    loaded.save(tmp_path / "again.kpot")
    assert (
        kp.load(tmp_path / "again.kpot").predict(salts[2]).energy == fitted.predict(salts[2]).energy
    )


@pytest.mark.parametrize(
    "term",
    [
        kp.Ewald("fit"),
        kp.Ewald("charges", 1e-6, "neutralizing", 0.3, None, {"Na": (0.5, 0.75)}),
        kp.Ewald(
            {"Na": 1.0, "Cl": -1.0}, widths={("Na", "Cl"): 0.3}, errors={"Na": 0.1, "Cl": 0.1}
        ),
    ],
)
def test_the_term_survives_its_dictionary(term):
    assert kp.Ewald.from_dict(term.to_dict()) == term


def test_the_summary_names_the_charges(fitted, salts):
    text = fitted.summary()
    assert "charge of each atom from the array 'initial_charges'" in text
    assert "Na: +0.8000 to +0.8000 e in the training data" in text
    lines = kp.Ewald("fit").fit(kp.read_dataset(salts), SPECIES, FREE).describe()
    assert any("fitted, standard error" in line for line in lines)
    assert any("damped by erf(r / w)" in line for line in lines)


def test_molecular_dynamics_conserves_the_energy(fitted):
    atoms = labelled_salt(salt(7, amplitude=0.05))
    atoms.calc = fitted.calculator(skin=0.5, gate=None)
    spread = np.sqrt(units.kB * 300 / atoms.get_masses())[:, None]
    atoms.set_velocities(spread * np.random.default_rng(2).normal(size=(8, 3)))
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    total = []
    dynamics.attach(lambda: total.append(atoms.get_total_energy()))
    dynamics.run(120)
    assert atoms.calc._list.n_builds < 20  # the list was reused
    assert np.ptp(total) < 2e-3 * atoms.get_kinetic_energy()
    slope = np.polyfit(np.arange(len(total)), total, 1)[0]
    assert abs(slope) * 1000 / len(atoms) < 1e-4  # eV/atom/ps
    np.testing.assert_allclose(
        atoms.get_forces(), fitted.predict(atoms.calc.atoms).forces, atol=1e-9
    )


def test_the_calculator_sees_changed_charges(fitted, salts):
    atoms = salts[0].copy()
    atoms.calc = fitted.calculator(gate=None)
    before = atoms.get_potential_energy()
    atoms.set_initial_charges(0.5 * atoms.get_initial_charges())
    assert atoms.get_potential_energy() > before + 5.0


def test_the_calculator_sees_changes_of_an_array_of_any_name(salts, terms):
    own = []
    for atoms in salts[:8]:
        atoms = atoms.copy()
        atoms.set_array("bader", atoms.get_initial_charges())
        own.append(atoms)
    baseline = [kp.Wall(), kp.Ewald("bader")]
    potential = kp.KernelPotential(terms, baseline=baseline).fit(own)
    atoms = own[0].copy()
    atoms.calc = potential.calculator(gate=None)
    before = atoms.get_potential_energy()
    atoms.arrays["bader"] *= 0.5
    assert atoms.get_potential_energy() > before + 5.0


def test_charges_are_read_from_files(salts):
    text = io.StringIO()
    own = salts[0].copy()
    own.set_array("hirshfeld", 0.5 * own.get_initial_charges())
    ase.io.write(text, own, format="extxyz")
    text.seek(0)
    back = ase.io.read(text, format="extxyz")
    frame = kp.read_dataset(back)[0]
    np.testing.assert_allclose(frame.atoms.arrays["hirshfeld"], own.arrays["hirshfeld"], atol=1e-7)
    np.testing.assert_allclose(frame.atoms.get_initial_charges(), own.get_initial_charges())
    assert "REF_forces" not in frame.atoms.arrays


def test_charges_among_results_are_kept(salts):
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms("NaCl", [[0, 0, 0], [0, 0, 2.5]])
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, charges=np.array([0.6, -0.6]))
    frame = kp.read_dataset(atoms)[0]
    np.testing.assert_array_equal(frame.atoms.arrays["charges"], [0.6, -0.6])


def test_free_atoms_by_least_squares_see_what_the_baseline_leaves(salts, terms):
    charges = kp.Ewald({"Na": 0.8, "Cl": -0.8})
    potential = kp.KernelPotential(terms, baseline=[kp.Wall(), charges]).fit(salts)
    left = [
        atoms.info["REF_energy"] - ewald_energy(potential.model.baseline[1], atoms)
        for atoms in salts
    ]
    total = potential.model.e0.total(salts[0].numbers)
    assert total == pytest.approx(np.mean(left), abs=1e-6)
