"""Results that are ASE's, what is beyond them, and both in files."""

import json

import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError, all_properties
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLengths

from kernelpot.md.dynamics import run_dynamics
from tests.conftest import rattled_alloy, structures

CHEAP = {"penalty", "std_bound", "n_beyond"}
LOCAL = {"energies_std", "spilling"}
FULL = {"energy_std", "forces_std", "stress_std"}


@pytest.fixture
def atoms(potential):
    atoms = structures()["crystal"]
    atoms.calc = potential.calculator()
    return atoms


def test_results_hold_names_of_ase_only(atoms):
    calculator = atoms.calc
    assert set(calculator.implemented_properties) <= set(all_properties)
    atoms.get_potential_energy()
    for name in calculator.uncertainty_properties:
        calculator.get_property(name, atoms)
    assert set(calculator.results) <= set(all_properties)
    assert set(calculator.uncertainty) >= CHEAP | LOCAL | FULL


def test_what_clients_do_with_results_works(atoms, tmp_path):
    wanted = ["energy", "free_energy", "energies", "forces", "stress"]
    found = atoms.get_properties(wanted)
    assert found["energy"] == atoms.get_potential_energy()
    np.testing.assert_array_equal(found["forces"], atoms.get_forces())
    atoms.calc.get_property("forces_std", atoms)
    copied = atoms.copy()
    copied.calc = SinglePointCalculator(copied, **atoms.calc.results)
    np.testing.assert_array_equal(copied.get_stress(), atoms.get_stress())
    for name in ("a.xyz", "a.traj", "a.json", "a.db"):
        ase.io.write(tmp_path / name, atoms)
        read = ase.io.read(tmp_path / name)
        assert read.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(read.get_forces(), atoms.get_forces(), atol=1e-7)
    summed = atoms.copy()
    summed.calc = SumCalculator([atoms.calc, EMT()])
    alone = atoms.copy()
    alone.calc = EMT()
    both = atoms.get_potential_energy() + alone.get_potential_energy()
    assert summed.get_potential_energy() == pytest.approx(both, abs=1e-9)
    assert summed.get_stress().shape == (6,)


def test_what_is_beyond_belongs_to_the_configuration(potential, atoms):
    calculator = atoms.calc
    expected = potential.predict(atoms, return_std=True, gate=True)
    for name in ("energies_std", "spilling", "forces_std", "penalty"):
        np.testing.assert_allclose(
            calculator.get_property(name, atoms), getattr(expected, name), atol=1e-9
        )
    assert calculator.n_evaluations == 1
    copied = calculator.get_property("forces_std")
    copied[:] = 0.0
    assert calculator.uncertainty["forces_std"].any()
    atoms.positions[0] += 0.01
    assert calculator.get_property("forces_std", atoms, allow_calculation=False) is None
    assert calculator.uncertainty == {}
    atoms.get_forces()
    assert "forces_std" not in calculator.uncertainty
    assert set(calculator.uncertainty) == CHEAP | LOCAL
    atoms.positions[0] += 0.01
    assert calculator.get_property("energy", atoms, allow_calculation=False) is None
    assert calculator.uncertainty == {}
    calculator.reset()
    assert calculator.uncertainty == {}


def test_what_there_is_not_is_refused(potential):
    cluster = structures()["cluster"]
    calculator = potential.calculator(gate=None)
    with pytest.raises(ValueError, match="'spilling' of what?"):
        calculator.get_property("spilling")
    with pytest.raises(PropertyNotImplementedError, match="the calculator has no gate"):
        calculator.get_property("penalty", cluster)
    with pytest.raises(PropertyNotImplementedError, match="'stress_std' is not defined here"):
        calculator.get_property("stress_std", cluster)
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("magmom", cluster)


def test_annotations_survive_files(potential, tmp_path):
    atoms = structures()["cluster"]
    atoms.calc = potential.calculator(with_std=True)
    atoms.get_forces()
    bare = atoms.calc.annotate()  # a copy of what was evaluated
    assert bare is not atoms
    assert "energies_std" not in atoms.arrays
    assert atoms.calc.annotate(atoms, full_std=True) is atoms
    expected = potential.predict(atoms, return_std=True, gate=True)
    names = ("energies_std", "spilling", "forces_std", "penalty", "std_bound")
    for name in names:
        np.testing.assert_allclose(atoms.arrays[name], getattr(expected, name), atol=1e-9)
    assert atoms.info["energy_std"] == pytest.approx(expected.energy_std)
    assert "forces_novelty" not in atoms.info
    ase.io.write(tmp_path / "a.xyz", atoms)
    read = ase.io.read(tmp_path / "a.xyz")
    for name in names:
        np.testing.assert_allclose(read.arrays[name], atoms.arrays[name], atol=1e-7)
    assert read.info["energy_std"] == pytest.approx(atoms.info["energy_std"])
    assert read.info["n_beyond"] == atoms.info["n_beyond"]
    ase.io.write(tmp_path / "a.traj", atoms)
    read = ase.io.read(tmp_path / "a.traj")
    for name in names:
        np.testing.assert_array_equal(read.info[name], atoms.arrays[name])
    assert read.info["energy_std"] == atoms.info["energy_std"]
    with ase.db.connect(tmp_path / "a.db") as base:
        base.write(atoms, data=atoms.info)
    read = ase.db.connect(tmp_path / "a.db").get(1)
    for name in names:
        np.testing.assert_array_equal(read.data[name], atoms.arrays[name])
    slim = atoms.calc.annotate(info=False)
    assert "energies_std" in slim.arrays
    assert "energies_std" not in slim.info


def test_intervals_are_those_of_the_prediction(potential):
    atoms = structures()["crystal"]
    atoms.calc = potential.calculator()
    expected = potential.predict(atoms, return_std=True).interval(0.8)
    found = atoms.calc.interval(atoms, 0.8)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=1e-9)
    assert found.energy == pytest.approx(expected.energy, rel=1e-9)
    atoms.calc.annotate(atoms, level=0.8)
    np.testing.assert_allclose(atoms.arrays["forces_interval"], expected.forces, rtol=1e-9)
    np.testing.assert_allclose(atoms.info["stress_interval"], expected.stress, rtol=1e-9)
    assert atoms.info["interval_level"] == 0.8
    assert "forces_std" not in atoms.arrays


@pytest.mark.parametrize("ending", ["traj", "xyz", "extxyz", "db"])
@pytest.mark.parametrize("constraint", ["FixAtoms", "FixBondLengths", None])
def test_trajectories_hold_all_in_every_format(potential, tmp_path, ending, constraint):
    start = rattled_alloy(3, (1, 1, 1), 0.02)
    start.arrays["REF_forces"] = np.ones((4, 3))  # of the start, not of the frames
    start.set_tags([0, 1, 2, 3])
    if constraint == "FixAtoms":
        start.set_constraint(FixAtoms([1, 2]))
    elif constraint == "FixBondLengths":
        start.set_constraint(FixBondLengths([[0, 1]]))
    path = str(tmp_path / f"run.{ending}")
    for _ in range(2):  # a second run replaces the first
        run = run_dynamics(
            start, potential.calculator(), steps=4, interval=2, trajectory=path, timestep=0.5,
            check_timestep=False, ensemble="nve" if constraint == "FixBondLengths" else "nvt",
        )  # fmt: skip
    frames = ase.io.read(path, ":")
    assert len(frames) == 3
    last, state = frames[-1], run.atoms
    assert last.get_potential_energy() == pytest.approx(state.get_potential_energy(), rel=1e-9)
    raw = state.calc.results
    for name in ("energies", "forces", "stress", "free_energy"):
        if (ending, name) != ("db", "energies"):  # which the data bases of ASE do not keep
            np.testing.assert_allclose(last.calc.results[name], raw[name], atol=1e-7)
    np.testing.assert_allclose(last.positions, state.positions, atol=1e-7)
    np.testing.assert_allclose(last.get_momenta(), state.get_momenta(), atol=1e-7)
    np.testing.assert_array_equal(last.get_tags(), start.get_tags())
    assert "REF_forces" not in last.arrays
    per_atom, info = last.info if ending == "traj" else last.arrays, last.info
    if ending == "db":
        row = ase.db.connect(path).get(3)
        per_atom = info = row.data
        assert row.time_ps == pytest.approx(0.002)
    assert info["time_ps"] == pytest.approx(0.002)
    assert info["step"] == 4
    assert info["n_beyond"] == state.calc.uncertainty["n_beyond"]
    expected = potential.local_std(state)
    np.testing.assert_allclose(per_atom["energies_std"], expected, atol=1e-7)
    for name in ("penalty", "std_bound"):
        np.testing.assert_allclose(per_atom[name], state.calc.uncertainty[name], atol=1e-7)
    if constraint == "FixAtoms":
        np.testing.assert_array_equal(last.constraints[0].get_indices(), [1, 2])
    elif constraint is not None and ending in ("xyz", "extxyz"):
        assert json.loads(last.info["constraints"])[0]["name"] == "FixBondLengths"
    elif constraint is not None:
        assert isinstance(last.constraints[0], FixBondLengths)


def test_a_trajectory_that_could_not_hold_all_is_refused_before_the_run(potential, tmp_path):
    with pytest.raises(ValueError, match=r"a trajectory ends in .traj, .xyz, .extxyz, .db"):
        run_dynamics(
            structures()["crystal"], potential.calculator(), trajectory=str(tmp_path / "a.cif")
        )
