"""Dynamics that stops where it is not physics, and time steps that are too long."""

import copy
import functools
import json
import math
import types
import warnings
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLength
from ase.vibrations import Vibrations

import kernelpot as kp
from kernelpot.md.bounds import Bounds, Watch
from kernelpot.md.dynamics import UnphysicalDynamicsError, _why_stopped, run_dynamics
from kernelpot.md.vibration import TimestepWarning, fastest_period, warn_of_long_timestep
from tests.conftest import rattled_alloy


class Known:
    """What `run_dynamics` asks of a model, for calculators without one."""

    n_threads = 1
    uncertainty = types.MappingProxyType({})
    model = SimpleNamespace(
        local_std=lambda atoms, n_threads: np.zeros(len(atoms)),
        reference=SimpleNamespace(array_names=()),
    )


class Metal(Known, EMT):
    """EMT, which counts."""

    n_evaluations = 0

    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        self.n_evaluations += 1


class Formula(Known, Calculator):
    """Energy and forces by ``formula(positions, n_evaluations)``."""

    implemented_properties = ("energy", "forces")

    def __init__(self, formula):
        super().__init__()
        self.formula, self.n_evaluations = formula, 0

    def calculate(self, atoms=None, properties=(), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        energy, forces = self.formula(self.atoms.positions, self.n_evaluations)
        self.n_evaluations += 1
        self.results = {"energy": energy, "forces": forces}


def spring(stiffness, length):
    """Two atoms on a harmonic spring [eV/Å^2, Å]."""

    def formula(positions, _):
        bond = positions[1] - positions[0]
        r = np.linalg.norm(bond)
        pull = stiffness * (r - length) * bond / r
        return 0.5 * stiffness * (r - length) ** 2, np.array([pull, -pull])

    return Formula(formula)


def downhill(force):
    """Every atom falls along x without end, by a constant force [eV/Å]."""
    return Formula(lambda x, _: (-force * x[:, 0].sum(), np.tile([force, 0.0, 0.0], (len(x), 1))))


# ---- the fastest vibration ----------------------------------------------------------


def dense_periods(atoms):
    """Periods [fs] of all vibrations, from a dense Hessian."""
    n = 3 * len(atoms)
    probe = atoms.copy()
    probe.calc = atoms.calc
    hessian = np.empty((n, n))
    for k, shift in enumerate(0.005 * np.eye(n).reshape(n, -1, 3)):
        forces = []
        for sign in (1, -1):
            probe.positions = atoms.positions + sign * shift
            forces.append(probe.get_forces().ravel())
        hessian[k] = (forces[1] - forces[0]) / 0.01
    masses = np.repeat(atoms.get_masses(), 3)
    curvatures = np.linalg.eigvalsh(0.5 * (hessian + hessian.T) / np.sqrt(np.outer(masses, masses)))
    return 2 * np.pi / np.sqrt(curvatures[curvatures > 1e-6]) / units.fs


def with_hydrogen():
    atoms = bulk("Pt", cubic=True).repeat(2)
    atoms.numbers[5] = 1
    return atoms


def cluster():
    return Atoms("Cu3Al", [[0, 0, 0], [2.4, 0, 0.2], [0.3, 2.3, 0.5], [1.2, 1.1, 2.0]])


@pytest.mark.parametrize(
    "atoms",
    [
        cluster(),
        molecule("CH3CH2OH"),
        bulk("Cu", cubic=True).repeat(2),
        rattled_alloy(2),
        with_hydrogen(),
    ],
    ids=lambda atoms: str(atoms.symbols),
)
def test_the_fastest_period_is_that_of_the_whole_hessian(atoms):
    atoms.calc = Metal()
    positions = atoms.positions.copy()
    period = fastest_period(atoms)
    assert atoms.calc.n_evaluations <= 24
    # Lanczos' method stops at a thousandth of the eigenvalue
    assert period == pytest.approx(dense_periods(atoms).min(), rel=2e-3)
    np.testing.assert_array_equal(atoms.positions, positions)
    assert fastest_period(atoms) == period


def test_the_fastest_period_is_that_of_ase(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = Metal()
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
    vibrations.run()
    wavenumber = vibrations.get_frequencies().real.max()  # [1/cm]
    period = 1e15 / (wavenumber * 100 * units._c)
    assert fastest_period(atoms) == pytest.approx(period, rel=5e-3)


@pytest.mark.parametrize("n_other", [0, 1, 40])
def test_the_fastest_period_of_a_spring(n_other):
    stiffness, length = 30.0, 1.1
    pair = spring(stiffness, length).formula

    def formula(positions, count):
        energy, forces = pair(positions[:2], count)
        return energy, np.vstack([forces, np.zeros((n_other, 3))])

    atoms = Atoms(f"HCl{'Ar' * n_other}", np.zeros((2 + n_other, 3)))
    atoms.positions[:, 2] = 30.0 * np.arange(2 + n_other)
    atoms.positions[1] = [0, 0, length]
    atoms.calc = Formula(formula)
    m = atoms.get_masses()
    reduced = m[0] * m[1] / (m[0] + m[1])
    expected = 2 * math.pi * math.sqrt(reduced / stiffness) / units.fs
    assert fastest_period(atoms) == pytest.approx(expected, rel=1e-3)


def test_what_does_not_vibrate_has_no_period():
    for atoms in (Atoms("Cu"), bulk("Cu"), Atoms("Cu2", [[0, 0, 0], [0, 0, 30.0]])):
        atoms.calc = Metal()
        assert fastest_period(atoms) == math.inf


def test_vibrations_that_constraints_forbid_do_not_count():
    atoms = with_hydrogen()
    atoms.calc = Metal()
    free = fastest_period(atoms)
    atoms.set_constraint(FixAtoms([5]))
    moving = [k for k in range(len(atoms)) if k != 5]
    assert fastest_period(atoms) > 1.5 * free
    held = dense_periods_of(atoms, moving)
    assert fastest_period(atoms) == pytest.approx(held, rel=2e-3)
    atoms = Atoms("HCl", [[0, 0, 0], [0, 0, 1.1]])
    atoms.calc = spring(30.0, 1.1)
    bond = fastest_period(atoms)
    atoms.set_constraint(FixBondLength(0, 1))
    # turned by 0.01 Å the bond is 0.00005 Å longer
    assert fastest_period(atoms) > 100 * bond


def dense_periods_of(atoms, moving):
    """Fastest period [fs] with the other atoms held: they are made too heavy to move."""
    heavy = atoms.copy()
    heavy.calc = atoms.calc
    heavy.set_constraint()
    masses = np.full(len(atoms), 1e12)
    masses[moving] = atoms.get_masses()[moving]
    heavy.set_masses(masses)
    return dense_periods(heavy).min()


@pytest.mark.parametrize(
    ("timestep", "message"),
    [
        (0.5, None),
        (1.0, None),
        (1.01, "9.9 steps per period, where 10 are needed; take 1 fs or less"),
        (3.0, "3.3 steps per period"),
        (3.2, "the integration will not be stable; take 1 fs or less"),
    ],
)
def test_long_time_steps_are_warned_of(timestep, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_long_timestep(timestep, 10.0)
    assert len(caught) == (message is not None)
    if message is not None:
        assert message in str(caught[0].message)
        assert caught[0].category is TimestepWarning


@pytest.mark.parametrize(("factor", "bounded"), [(1.9, True), (2.1, False)])
def test_integration_is_unstable_where_the_warning_says_so(factor, bounded):
    atoms = Atoms("HCl", [[0, 0, 0], [0, 0, 1.1]])
    atoms.calc = spring(30.0, 1.1)
    timestep = factor * fastest_period(atoms) / (2 * math.pi)
    run = functools.partial(
        run_dynamics, atoms, atoms.calc, timestep=timestep, temperature=1.0, steps=100
    )
    with pytest.warns(TimestepWarning) as caught:
        energies = run(bounds=None).rows[:, 1]
    assert (max(energies) < 1.0) == bounded  # [eV]; the temperature is 1 K
    assert ("not be stable" in str(caught[0].message)) is not bounded


def test_hydrogen_needs_short_steps():
    atoms = molecule("CH3CH2OH")
    with pytest.warns(TimestepWarning, match="time step of 5 fs .* will not be stable"):
        run_dynamics(atoms, Metal(), timestep=5.0, steps=1, bounds=False)
    result = run_dynamics(atoms, Metal(), timestep=0.5, steps=1)  # warnings are errors here
    atoms.calc = Metal()
    assert result.summary()["fastest_period_fs"] == fastest_period(atoms)
    result = run_dynamics(atoms, Metal(), timestep=5.0, steps=1, bounds=None, check_timestep=False)
    assert result.summary()["fastest_period_fs"] is None


# ---- bounds -------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [300.0, 2000.0])
@pytest.mark.parametrize(
    ("atoms", "timestep"),
    [
        (Atoms("Cu"), 1.0),
        (bulk("Cu"), 2.0),
        (bulk("Cu", cubic=True), 2.0),
        (rattled_alloy(1, (1, 1, 1)), 2.0),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]]), 1.0),
        (molecule("H2O"), 0.5),
        (molecule("C2H6"), 0.5),
    ],
    ids=lambda value: str(getattr(value, "symbols", value)),
)
def test_a_few_hot_atoms_are_no_alarm(atoms, timestep, temperature):
    n_seeds = {"nve": 5, "nvt": 5} | ({"npt": 2} if atoms.pbc.all() else {})
    for ensemble, seeds in n_seeds.items():
        for seed in range(seeds):
            options = {"temperature": temperature, "timestep": timestep, "seed": seed}
            result = run_dynamics(atoms, Metal(), ensemble=ensemble, steps=150, **options)
            assert result.n_steps == 150


def test_a_bad_start_may_relax():
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.17, seed=3)
    result = run_dynamics(atoms, Metal(), temperature=50, timestep=2.0, steps=100, interval=1)
    assert result.rows[:, 4].max() > 1500  # which is heat enough to tell bounds from a factor


def test_default_bounds_are_fluctuations_and_heat():
    def bounds(n_atoms, temperature):
        atoms = Atoms(f"Cu{n_atoms}", np.arange(3.0 * n_atoms).reshape(-1, 3))
        atoms.calc = downhill(0.0)
        return Watch(Bounds(), atoms, temperature, conserved=True).bounds

    heat = 0.5 / (1.5 * units.kB)
    assert bounds(4, 300.0)["max_temperature"] == pytest.approx(300 * chi(12) / 12 + heat)
    assert bounds(100000, 300.0)["max_temperature"] == pytest.approx(300 + heat, rel=0.005)
    # each of three directions has half of kT in the mean
    largest = 0.5 * units.kB * 300 * chi(3, 1e-9 / 4)
    assert bounds(4, 300.0)["max_atom_energy"] == pytest.approx(11 + largest)
    assert bounds(4, 300.0)["max_energy_drift"] == pytest.approx(0.1 + 0.375 * units.kB * 300)


def chi(n, chance=1e-9):
    from scipy.stats import chi2

    return chi2.isf(chance, n)


def stopped(atoms, calculator, tmp_path=None, **options):
    """Run until it stops, and return the error; checks what is the same for all."""
    options = {"check_timestep": False, "steps": 1000, "interval": 7, **options}
    path = None if tmp_path is None else str(tmp_path / "run.traj")
    with pytest.raises(UnphysicalDynamicsError) as caught:
        run_dynamics(atoms, calculator, trajectory=path, **options)
    error = caught.value
    run, n = error.dynamics, error.dynamics.n_steps
    assert f"stopped at step {n} (" in str(error)
    logged = [*range(0, n, 7), n]
    timestep = options.get("timestep", 1.0)
    np.testing.assert_allclose(run.rows[:, 0], np.array(logged) * timestep * 1e-3, atol=1e-12)
    json.dumps(run.summary(), allow_nan=False)
    if path is None:
        assert "keep a trajectory" in str(error)
    else:
        assert f"the last frames of {path}" in str(error)
        frames = ase.io.read(path, ":")
        assert len(frames) == len(logged)
        np.testing.assert_array_equal(frames[-1].positions, run.atoms.positions)
    return error


def test_a_hot_run_stops(tmp_path):
    # 8 atoms fall by 0.7 eV each, energy conserved
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    error = stopped(atoms, downhill(0.1), tmp_path)
    assert error.breach.quantity == "max_temperature"
    assert 4000 < error.breach.bound < error.breach.value < 5900
    assert "the temperature has become" in str(error)
    assert "raise `max_temperature`" in str(error)
    # found at the very step
    assert error.dynamics.rows[-1, 4] == pytest.approx(error.breach.value)
    assert error.dynamics.rows[-2, 4] < error.breach.bound
    drift = error.dynamics.summary()["drift_ev_per_atom"]
    assert abs(drift) < 1e-6
    # where the step is known to be too long, more data would not help
    told = _why_stopped(error.breach, 10, 50.0, None, period=100.0)
    assert "the time step of 50 fs is too long for the fastest vibration, of 100 fs" in told
    assert "take 10 fs or less" in told
    assert "raise" not in told


def test_bounds_are_given_or_none():
    atoms = bulk("Cu", cubic=True)
    error = stopped(atoms, Metal(), bounds=Bounds(max_temperature=10.0))
    assert error.breach.bound == 10.0
    assert error.dynamics.n_steps == 0
    error = stopped(atoms, downhill(0.5), bounds=Bounds(math.inf, math.inf))
    assert error.breach.quantity == "max_energy_fall"
    assert error.breach.bound == 10.0
    for bounds in (None, False, Bounds(math.inf, math.inf, math.inf, math.inf)):
        options = {"steps": 400, "check_timestep": False, "bounds": bounds}
        assert run_dynamics(atoms, downhill(0.5), **options).n_steps == 400
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="`max_energy_drift` must be positive"):
            Bounds(max_energy_drift=wrong)


def test_the_error_is_copied_with_what_it_holds():
    error = copy.copy(stopped(bulk("Cu"), Metal(), bounds=Bounds(max_temperature=1.0)))
    assert "the temperature has become" in str(error)
    assert error.dynamics.n_steps == 0


def test_a_single_atom_that_gains_more_than_bonds_give(tmp_path):
    def formula(positions, _):
        forces = np.zeros_like(positions)
        forces[17, 0] = 5.0
        return -5.0 * positions[17, 0], forces

    atoms = bulk("Cu", cubic=True).repeat(3)
    error = stopped(atoms, Formula(formula), tmp_path, ensemble="nvt")
    assert error.breach.quantity == "max_atom_energy"
    assert 11 < error.breach.bound < 12
    assert "atom 17, Cu, has a kinetic energy of" in str(error)
    assert error.dynamics.rows[-1, 4] < 2000  # the temperature alone says nothing


def test_a_cold_fall_stops_in_nvt():
    # friction takes the heat away: 0.006 eV/fs at 2,500 K
    atoms = bulk("Cu", cubic=True)
    error = stopped(atoms, downhill(0.6), ensemble="nvt", steps=3000)
    assert error.breach.quantity == "max_energy_fall"
    assert error.dynamics.rows[-1, 4] < 4000
    assert error.breach.value == pytest.approx(10.0, abs=0.1)


def test_energy_that_is_not_conserved_stops_nve_only(tmp_path):
    def leaking(positions, n_evaluations):
        return 0.004 * len(positions) * n_evaluations, np.zeros_like(positions)

    atoms = bulk("Cu", cubic=True)
    error = stopped(atoms, Formula(leaking), tmp_path)
    assert error.breach.quantity == "max_energy_drift"
    # 0.1 eV/atom and a quarter of the kinetic energy
    assert error.dynamics.n_steps == pytest.approx(28, abs=2)
    assert "take a time step shorter than 1 fs or, if that does not help, label" in str(error)
    options = {"ensemble": "nvt", "steps": 100, "check_timestep": False}
    assert run_dynamics(atoms, Formula(leaking), **options).n_steps == 100


def test_a_time_step_too_long_stops_by_its_drift():
    error = stopped(molecule("CH3CH2OH"), Metal(), timestep=4.0)
    assert error.breach.quantity == "max_energy_drift"


@pytest.mark.parametrize("n_sound", [0, 1, 4])
@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_energies_that_are_not_finite_stop(n_sound, ensemble, tmp_path):
    def formula(positions, n_evaluations):
        energy = 0.0 if n_evaluations < n_sound else math.nan
        return energy, np.full_like(positions, energy)

    atoms = bulk("Cu", cubic=True)
    error = stopped(atoms, Formula(formula), tmp_path, interval=7, ensemble=ensemble, bounds=None)
    assert error.breach.quantity == "energy"
    assert error.dynamics.n_steps == n_sound
    assert "the energy is no longer finite" in str(error)
    assert (error.dynamics.summary()["mean_temperature_k"] is None) == (n_sound == 0)


def test_a_potential_that_stops_being_finite(potential, tmp_path):
    class Exploding(kp.KernelPotCalculator):
        def calculate(self, *arguments, **keywords):
            super().calculate(*arguments, **keywords)
            if self.n_evaluations > 3:
                self.results["energy"] = np.nan

    path = tmp_path / "run.xyz"
    with pytest.raises(UnphysicalDynamicsError, match="no longer finite") as caught:
        run_dynamics(
            rattled_alloy(1, (1, 1, 1)), Exploding(potential), steps=9, interval=5,
            trajectory=str(path), check_timestep=False,
        )  # fmt: skip
    assert caught.value.dynamics.n_steps == 3
    frames = ase.io.read(path, ":")
    assert len(frames) == 2
    # .xyz has eight digits
    np.testing.assert_allclose(
        frames[-1].positions, caught.value.dynamics.atoms.positions, atol=1e-8
    )


def test_overlapping_atoms_without_a_gate_stop(potential, tmp_path):
    atoms = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.0]])
    calculator = potential.calculator(gate=None)
    error = stopped(atoms, calculator, tmp_path, timestep=0.25)
    assert error.breach.value > error.breach.bound
