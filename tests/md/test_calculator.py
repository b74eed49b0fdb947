"""The ASE calculator: nothing computed twice, and everything ASE does with it."""

import copy

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import kernelpot as kp
from kernelpot.md.dynamics import COLUMNS, energy_drift, run_dynamics
from kernelpot.safety.gate import GateClosedError
from tests.conftest import label, structures


@pytest.fixture(scope="module")
def copper():
    """A potential of EMT copper good enough to relax, vibrate and run."""
    rng = np.random.default_rng(4)
    frames = []
    for k in range(16):
        atoms = bulk("Cu", cubic=True, a=3.6)
        strain = np.eye(3) + 0.025 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += (0.02 + 0.01 * k) * rng.normal(size=(4, 3))
        frames.append(label(atoms))
    term = kp.SOAPTerm(r_cut=5.0, n_max=5, l_max=4, n_sparse=64)
    return kp.KernelPotential([term]).fit(frames)


def test_results_are_the_prediction(potential):
    atoms = structures()["crystal"]
    expected = potential.predict(atoms, return_std=True)
    atoms.calc = potential.calculator(with_std=True, gate=None)
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, rel=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(), expected.stress, atol=1e-12)
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.energies, atol=1e-10)
    np.testing.assert_allclose(
        atoms.calc.uncertainty["energies_std"], expected.energies_std, atol=1e-8
    )


def test_nothing_is_computed_twice(potential):
    atoms = structures()["crystal"]
    calculator = potential.calculator()
    atoms.calc = calculator
    for _ in range(2):
        atoms.get_potential_energy()
        atoms.get_forces()
        atoms.get_stress()
        atoms.get_potential_energies()
    assert calculator.n_evaluations == 1
    atoms.positions[0] += 0.01
    atoms.get_forces()
    atoms.get_potential_energy()
    assert calculator.n_evaluations == 2
    atoms.set_momenta(np.ones((len(atoms), 3)))  # as dynamics does between two requests
    atoms.set_tags(1)
    atoms.get_forces()
    assert calculator.n_evaluations == 2
    calculator.get_property("energies_std", atoms)
    atoms.positions[0] += 0.01
    atoms.get_forces()
    calculator.get_property("energies_std", atoms)
    assert calculator.n_evaluations == 4


def test_every_change_that_ase_knows_is_seen(potential):
    atoms = structures()["crystal"]
    calculator = atoms.calc = potential.calculator()
    atoms.get_potential_energy()
    changes = {
        "positions": lambda a: a.positions.__setitem__((0, 0), a.positions[0, 0] + 1e-9),
        "cell": lambda a: a.set_cell(a.cell * (1 + 1e-9)),
        "pbc": lambda a: a.set_pbc([True, True, False]),
        "numbers": lambda a: a.numbers.__setitem__(0, 13 if a.numbers[0] == 29 else 29),
        "initial_charges": lambda a: a.set_initial_charges(np.ones(len(a))),
    }
    assert calculator.check_state(atoms.copy()) == []
    for name, change in changes.items():
        other = atoms.copy()
        change(other)
        assert calculator.check_state(other) == [name]


def test_a_cluster_has_no_stress(potential):
    from ase.calculators.calculator import PropertyNotImplementedError

    atoms = structures()["cluster"]
    atoms.calc = potential.calculator()
    atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_the_neighbor_list_is_kept_while_atoms_move_little(copper):
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.05, seed=1)
    calculator = copper.calculator(skin=0.6)
    atoms.calc = calculator
    thermalize_momenta(atoms, temperature_K=600, rng=np.random.default_rng(0))
    energies = []
    dynamics = VelocityVerlet(atoms, 2 * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_potential_energy()))
    dynamics.run(40)
    fresh = copper.predict(atoms)
    assert energies[-1] == pytest.approx(fresh.energy, abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), fresh.forces, atol=1e-9)
    assert calculator._list.n_builds < 15
    assert calculator.n_evaluations == 41


def test_relaxation_of_positions_and_cell(copper):
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.rattle(0.1, seed=2)
    atoms.calc = copper.calculator()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.002, steps=200)
    assert np.abs(atoms.get_forces()).max() < 0.011
    assert np.abs(atoms.get_stress()).max() * atoms.get_volume() < 0.011
    # EMT copper
    assert atoms.get_volume() ** (1 / 3) == pytest.approx(3.59, abs=2e-3)


def test_energy_is_conserved(copper):
    atoms = bulk("Cu", cubic=True).repeat(2)
    result = run_dynamics(
        atoms, copper.calculator(), temperature=600, timestep=2.0, steps=300, interval=5
    )
    assert abs(result.summary()["drift_ev_per_atom"]) < 2e-4
    assert result.rows.shape == (61, len(COLUMNS))
    assert (result.rows[:, 5] > 0).all()


def test_npt_runs(copper):
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.calc = copper.calculator()
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(1))
    dynamics = IsotropicMTKNPT(
        atoms, 2 * units.fs, temperature_K=300, pressure_au=0.0, tdamp=200 * units.fs,
        pdamp=2000 * units.fs,
    )  # fmt: skip
    dynamics.run(50)
    # three times what it fluctuates by at 300 K with copper's bulk modulus
    assert atoms.get_volume() / 32 == pytest.approx(11.6, abs=0.3)


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
def test_thermostats_hold_the_temperature(copper, ensemble, tmp_path):
    import ase.io

    trajectory = tmp_path / "run.xyz"
    for _ in range(2):  # a second run replaces the file
        result = run_dynamics(
            bulk("Cu", cubic=True).repeat(2),
            copper.calculator(),
            ensemble=ensemble,
            temperature=300,
            timestep=2.0,
            steps=60,
            interval=20,
            trajectory=str(trajectory),
        )
    assert 100 < result.summary()["mean_temperature_k"] < 600
    assert result.summary()["drift_ev_per_atom"] is None
    frames = ase.io.read(trajectory, ":")
    assert len(frames) == 4
    assert frames[-1].arrays["energies_std"].shape == (32,)


def test_finite_displacement_phonons(copper):
    from ase.phonons import Phonons

    crystal = bulk("Cu", a=3.6)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        phonons = Phonons(crystal, copper.calculator(), supercell=(3, 3, 3), name=folder + "/p")
        phonons.run()
        phonons.read(acoustic=True)
        gamma, boundary = phonons.band_structure([[0, 0, 0], [0.5, 0.5, 0]], verbose=False)
    assert np.abs(gamma).max() < 1e-3
    assert boundary.min() > 5e-3  # stable, 10-30 meV


def test_a_model_file_is_enough(potential, tmp_path):
    path = tmp_path / "model.kpot"
    potential.save(path)
    atoms = structures()["cluster"]
    atoms.calc = kp.KernelPotCalculator(path)
    assert atoms.get_potential_energy() == potential.predict(atoms).energy


def test_a_later_fit_does_not_change_a_calculator(labelled):
    pot = kp.KernelPotential([kp.SOAPTerm(r_cut=3.5, n_max=3, l_max=2, n_sparse=40)]).fit(labelled)
    atoms = structures()["crystal"]
    before = pot.predict(atoms).energy
    atoms.calc = pot.calculator()
    pot.terms = [kp.SOAPTerm(r_cut=5.5, n_max=3, l_max=2, n_sparse=40)]
    pot.fit(labelled)
    assert atoms.get_potential_energy() == pytest.approx(before, abs=1e-10)
    assert pot.predict(atoms).energy != pytest.approx(before, abs=1e-6)


def test_unknown_species_are_refused(potential):
    atoms = Atoms("CuO", [[0, 0, 0], [0, 0, 2]])
    atoms.calc = potential.calculator()
    with pytest.raises(ValueError, match="unknown species O"):
        atoms.get_potential_energy()


def test_drift_is_the_slope_of_block_averages():
    t = np.linspace(0, 10, 1001)
    assert energy_drift(t, 3.0 + 2e-3 * t + 1e-4 * np.sin(300 * t)) == pytest.approx(2e-2, rel=1e-4)
    assert energy_drift(t[:1], t[:1]) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1.0}, "`temperature` must be positive"),
        ({"timestep": 0.0}, "`timestep` must be positive"),
        ({"steps": 0}, "`steps` must be at least 1"),
        ({"ensemble": "nph"}, "`ensemble` must be nve, nvt or npt"),
    ],
)
def test_wrong_dynamics_are_refused(copper, change, message):
    with pytest.raises(ValueError, match=message):
        run_dynamics(bulk("Cu", cubic=True), copper.calculator(), **change)


def test_npt_of_a_cluster_is_refused(potential):
    with pytest.raises(ValueError, match="npt needs a structure periodic"):
        run_dynamics(structures()["cluster"], potential.calculator(), ensemble="npt")


def test_unknown_arguments_are_refused_by_name(potential):
    for wrong, close in (("on_gates", "on_gate"), ("nthreads", "n_threads"), ("skn", "skin")):
        message = f"no argument '{wrong}' \\(did you mean '{close}'\\?\\)"
        with pytest.raises(TypeError, match=message):
            potential.calculator(**{wrong: "stop"})
        with pytest.raises(TypeError, match=message):
            potential.calculator().set(**{wrong: "stop"})
    with pytest.raises(TypeError, match="no argument 'device'; it has skin, gate, on_gate"):
        kp.KernelPotCalculator(potential, device="cuda")
    atoms = structures()["crystal"]
    calculator = potential.calculator(atoms=atoms, label="copper")  # those of ASE
    assert atoms.calc is calculator
    with pytest.raises(TypeError, match="what happens beyond the data is said by on_gate"):
        potential.calculator(gate="stop")
    with pytest.raises(ValueError, match="`on_gate` = 'stop' without a gate"):
        potential.calculator(gate=None, on_gate="stop")
    with pytest.raises(ValueError, match="`on_gate` must be 'warn', 'stop'"):
        potential.calculator(on_gate="halt")


def test_the_reaction_of_the_gate_is_an_argument(potential):
    unknown = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.2]])
    unknown.calc = potential.calculator(on_gate="stop")
    with pytest.raises(GateClosedError):
        unknown.get_potential_energy()
    gate = kp.VarianceGate(kappa=2.0)
    assert potential.calculator(gate=gate, on_gate=None).gate == kp.VarianceGate(
        kappa=2.0, on_gate=None
    )
    unknown.calc = potential.calculator(on_gate=None)
    raised = unknown.get_potential_energy()
    unknown.calc.on_gate = "stop"  # also for what was evaluated
    with pytest.raises(GateClosedError):
        unknown.get_potential_energy()
    assert raised > potential.predict(unknown).energy


def test_parameters_change_by_set_and_by_attribute(potential):
    unknown = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.2]])
    gated, plain = (potential.predict(unknown, gate=gate).energy for gate in (True, False))
    for switch_off in (
        lambda calculator: calculator.set(gate=None),
        lambda calculator: setattr(calculator, "gate", None),
        lambda calculator: setattr(calculator, "gate", False),
    ):
        unknown.calc = potential.calculator(on_gate=None)
        assert unknown.get_potential_energy() == pytest.approx(gated, rel=1e-12)
        switch_off(unknown.calc)
        assert unknown.calc.results == {}
        assert unknown.get_potential_energy() == pytest.approx(plain, rel=1e-12)
        assert unknown.calc.uncertainty == {}
    calculator = unknown.calc
    assert calculator.set(gate=None, skin=0.5) == {}
    assert calculator.results
    assert calculator.set(skin=0.7, n_threads=1) == {"skin": 0.7, "n_threads": 1}
    assert calculator._list.skin == calculator.skin == 0.7
    calculator.gate = True
    assert calculator.set(on_gate="stop") == {"on_gate": "stop"}
    assert calculator.todict() == {
        "skin": 0.7,
        "gate": {"kappa": 3.0, "std_known": None, "on_gate": "stop"},
        "with_std": False,
    }
    calculator.with_std = True
    unknown.calc = calculator
    calculator.on_gate = None
    unknown.get_forces()
    assert "energies_std" in calculator.uncertainty
    for name, value in (("skin", -1.0), ("gate", 3)):
        with pytest.raises((ValueError, TypeError), match=name):
            setattr(calculator, name, value)
    assert calculator.skin == 0.7


def test_what_was_not_computed_says_how_to_ask_for_it(potential):
    atoms = structures()["crystal"]
    atoms.calc = calc = potential.calculator()
    atoms.get_potential_energy()
    for held, name, said in (
        (calc.results, "energies_std", r"calc.get_property\('energies_std', atoms\) computes it"),
        (calc.results, "stresses", r"atoms.get_stresses\(\) computes them"),
        (calc.results, "charges", "a model without charges"),
        (calc.results, "magmoms", "there are energy, free_energy, energies, forces, stress"),
        (calc.uncertainty, "energies_std", r"or at every step by potential.calculator\(with_std"),
        (calc.uncertainty, "forces_std", r"get_property\('forces_std', atoms\); it costs"),
        (calc.uncertainty, "std", "there are penalty, std_bound, n_beyond, energies_std"),
    ):
        with pytest.raises(KeyError, match=said):
            held[name]
        assert name not in held
        assert held.get(name) is None
    # doing what the sentences say
    assert calc.get_property("energies_std", atoms).shape == (len(atoms),)
    assert calc.uncertainty["energies_std"].shape == (len(atoms),)
    assert atoms.get_stresses().shape == (len(atoms), 6)
    assert calc.results["stresses"].shape == (len(atoms), 6)
    # of a wire there is no stress, without a gate no penalty
    wire = atoms.copy()
    wire.cell[2] = 0.0
    wire.pbc = (True, True, False)
    wire.calc = calc = potential.calculator(gate=None)
    wire.get_potential_energy()
    with pytest.raises(KeyError, match="its cell has not three vectors"):
        calc.results["stress"]
    with pytest.raises(KeyError, match="the calculator has no gate"):
        calc.uncertainty["penalty"]
    # they are plain data for others
    assert copy.deepcopy(calc.uncertainty) == {}
    assert type(copy.deepcopy(calc.results)) is type(calc.results)
