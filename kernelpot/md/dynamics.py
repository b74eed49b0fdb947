"""Molecular dynamics with ASE: energy drift and uncertainty along the way.

A run stops where temperature or energy leave what is physical (`kernelpot.md.bounds`), and
says at its start if the time step is too long (`kernelpot.md.vibration`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units

from kernelpot.common.types import FloatArray
from kernelpot.md.bounds import Bounds, Breach, Watch, as_bounds
from kernelpot.md.calculator import KernelPotCalculator
from kernelpot.md.trajectory import TrajectoryFile
from kernelpot.md.vibration import (
    MIN_STEPS_PER_PERIOD,
    fastest_period,
    warn_of_long_timestep,
)

COLUMNS = (
    "time_ps",
    "etot_ev_per_atom",
    "epot_ev_per_atom",
    "ekin_ev_per_atom",
    "temperature_k",
    "max_energies_std_ev",
    "mean_energies_std_ev",
    "volume_ang3",
    "n_beyond",
    "max_penalty_ev",
    "pressure_gpa",
)


def energy_drift(times: FloatArray, energies: FloatArray, n_blocks: int = 10) -> float:
    """Change of the total energy over a run, from the slope of block averages.

    Parameters
    ----------
    times : ndarray of shape (n,)
        Any unit, ascending.
    energies : ndarray of shape (n,)
        Any unit.
    n_blocks : int
        Blocks to average over before the straight line is fitted.

    Returns
    -------
    float
        Slope times the duration, in the unit of `energies`.
    """
    if len(times) < 2:
        return 0.0
    blocks = min(n_blocks, len(times))
    t = np.array([part.mean() for part in np.array_split(times, blocks)])
    e = np.array([part.mean() for part in np.array_split(energies, blocks)])
    slope = np.polyfit(t - t[0], e - e[0], 1)[0]
    return float(slope * (times[-1] - times[0]))


@dataclass(frozen=True, repr=False)
class Dynamics:
    """A finished run, or the part of one that was stopped.

    Attributes
    ----------
    rows : ndarray of shape (n_log, 11)
        Values of `COLUMNS`.
    atoms : ase.Atoms
        Final state.
    wall_seconds : float
    n_steps : int
        Steps made.
    ensemble : str
    fastest_period : float, optional
        Of the vibrations of the start structure [fs]; None if it was not looked for.
    """

    rows: FloatArray
    atoms: Atoms
    wall_seconds: float
    n_steps: int
    ensemble: str
    fastest_period: float | None = None

    def __repr__(self) -> str:
        """Say how long it ran, and how hot."""
        found = self.summary()
        hot = found["mean_temperature_k"]
        at = "" if hot is None else f", {hot:.0f} K"
        return (
            f"Dynamics({self.ensemble}, {len(self.atoms)} atoms, {self.n_steps} steps, "
            f"{found['time_ps']:.3g} ps{at})"
        )

    def summary(self) -> dict[str, Any]:
        """Drift, temperature and uncertainty in numbers; None for what is not known."""
        sound = self.rows[np.isfinite(self.rows[:, 1])]  # all but the last of a stopped run
        last = sound[len(sound) // 2 :]
        vibrates = self.fastest_period is not None and np.isfinite(self.fastest_period)
        per_step = self.wall_seconds / max(1, self.n_steps) / len(self.atoms)
        return {
            "n_atoms": len(self.atoms),
            "n_steps": self.n_steps,
            "time_ps": float(self.rows[-1, 0]),
            # a thermostat changes the energy: only nve has a drift
            "drift_ev_per_atom": energy_drift(sound[:, 0], sound[:, 1])
            if self.ensemble == "nve"
            else None,
            "mean_temperature_k": float(last[:, 4].mean()) if len(last) else None,
            # of volume and pressure as of the temperature: over the second half
            "averages_from_ps": float(last[0, 0]) if len(last) else None,
            "mean_volume_ang3": _mean(last[:, 7]),
            "mean_pressure_gpa": _mean(last[:, 10]),
            "fastest_period_fs": self.fastest_period if vibrates else None,
            "max_energies_std": float(self.rows[:, 5].max()),
            "max_n_beyond": int(self.rows[:, 8].max()),
            "max_penalty_ev": float(self.rows[:, 9].max()),
            "us_per_atom_step": 1e6 * per_step,
            "wall_seconds": self.wall_seconds,
        }


class UnphysicalDynamicsError(RuntimeError):
    """Temperature or energy of a run have left what is physical.

    Attributes
    ----------
    breach : Breach
        What left which bound.
    dynamics : Dynamics
        The run so far; its last row and state are those that left the bound.
    """

    def __init__(self, message: str, breach: Breach, dynamics: Dynamics) -> None:
        super().__init__(message, breach, dynamics)  # all of them: errors are pickled
        self.breach = breach
        self.dynamics = dynamics

    def __str__(self) -> str:
        return str(self.args[0])


def run_dynamics(
    atoms: Atoms,
    calculator: KernelPotCalculator,
    *,
    ensemble: str = "nve",
    temperature: float = 300.0,
    pressure: float = 0.0,
    timestep: float = 1.0,
    steps: int = 1000,
    interval: int = 10,
    trajectory: str | None = None,
    seed: int = 0,
    bounds: Bounds | bool | None = True,
    check_timestep: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Dynamics:
    """Run molecular dynamics from Maxwell-Boltzmann velocities.

    Parameters
    ----------
    atoms : ase.Atoms
        Start; copied.
    calculator : KernelPotCalculator
    ensemble : {"nve", "nvt", "npt"}
        VelocityVerlet, Langevin, or isotropic Martyna-Tobias-Klein.
    temperature : float
        Of the initial velocities, and of the thermostat [K]. (In nve about half of the
        kinetic energy of a structure at rest in its minimum turns into potential
        energy.)
    pressure : float
        [GPa], npt only.
    timestep : float
        [fs].
    steps, interval : int
        Steps to run, and between log lines.
    trajectory : str, optional
        File to write the logged frames to, ending in ``.traj``, ``.xyz``, ``.extxyz`` or
        ``.db`` (`kernelpot.md.trajectory`); replaced if it exists. Each has energy, forces,
        stress, momenta, constraints, ``step``, ``time_ps``, ``energies_std`` and, with a
        gate, ``penalty``, ``std_bound`` and ``n_beyond``.
    seed : int
        Of velocities and thermostat.
    bounds : Bounds, bool or None, default=True
        Of temperature and energy, looked at after every step: True with defaults that
        fit temperature and number of atoms, None (or False) for none but that energies
        are finite.
    check_timestep : bool, default=True
        Estimate the fastest vibration of the start structure, and warn if the time step
        is too long for it. This costs up to 24 evaluations of the forces before the
        first step. Hotter atoms vibrate faster than the estimate.
    progress : callable, optional

    Returns
    -------
    Dynamics

    Raises
    ------
    ValueError
        If a parameter is out of range.
    UnphysicalDynamicsError
        If temperature or energy leave their bounds, or the energy stops being finite.
        It holds the run so far; log and trajectory end with the state that did.

    Warns
    -----
    TimestepWarning
        If a period of the fastest vibration has less than ten steps.
    """
    _check_parameters(atoms, ensemble, temperature, timestep, steps, interval)
    if not np.isfinite(pressure):
        raise ValueError(f"`pressure` must be a finite number of GPa, got {pressure!r}")
    frames = None
    if trajectory is not None:
        frames = TrajectoryFile(trajectory, calculator.model.reference.array_names)
    rng = np.random.default_rng(seed)
    atoms = _thermalized(atoms, temperature, rng)
    atoms.calc = calculator
    dynamics = _integrator(ensemble, atoms, timestep, temperature, pressure, rng)
    rows: list[tuple[float, ...]] = []
    period = fastest_period(atoms) if check_timestep else None
    if period is not None:
        warn_of_long_timestep(timestep, period)
    watch = Watch(as_bounds(bounds), atoms, temperature, conserved=ensemble == "nve")

    def log() -> None:
        std = potential_std(calculator, atoms)
        rows.append(_row(dynamics.nsteps, timestep, atoms, calculator, std))
        if frames is not None:
            time_ps = dynamics.nsteps * timestep * 1e-3
            notes = {"step": dynamics.nsteps, "time_ps": time_ps, "energies_std": std}
            frames.append(atoms, {**calculator.uncertainty, **notes})
        if progress is not None:
            progress("md", dynamics.nsteps, steps)

    def finished() -> Dynamics:
        wall = time.perf_counter() - began
        return Dynamics(np.array(rows), atoms, wall, dynamics.nsteps, ensemble, period)

    def observe() -> None:
        breach = watch.breach(atoms)
        if breach is not None or dynamics.nsteps % interval == 0:
            log()
        if breach is not None:
            message = _why_stopped(breach, dynamics.nsteps, timestep, trajectory, period)
            raise UnphysicalDynamicsError(message, breach, finished())

    dynamics.attach(observe, interval=1)
    began = time.perf_counter()
    dynamics.run(steps)
    return finished()


def _check_parameters(
    atoms: Atoms, ensemble: str, temperature: float, timestep: float, steps: int, interval: int
) -> None:
    """Raise ValueError for what is out of range; see `run_dynamics`."""
    for name, value in (("temperature", temperature), ("timestep", timestep)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be positive, got {value!r}")
    for name, count in (("steps", steps), ("interval", interval)):
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, got {count!r}")
    if ensemble == "npt" and not np.all(atoms.pbc):
        raise ValueError("npt needs a structure periodic in three directions")


def _why_stopped(
    breach: Breach,
    n_steps: int,
    timestep: float,
    trajectory: str | None,
    period: float | None = None,
) -> str:
    """A sentence of what left which bound and when, and what to do."""
    learn = (
        "keep a trajectory, label its last frames and train on them"
        if trajectory is None
        else f"label the last frames of {trajectory} and train on them"
    )
    shorter = f"take a time step shorter than {timestep:g} fs"
    remedy = {
        "energy": f"{learn}, or {shorter}",
        "max_energy_drift": f"{shorter} or, if that does not help, {learn}",
    }.get(
        breach.quantity,
        f"{learn}, or raise `{breach.quantity}` if so much is real, as after a start far from "
        "equilibrium",
    )
    if period is not None and timestep > period / MIN_STEPS_PER_PERIOD:
        remedy = (
            f"the time step of {timestep:g} fs is too long for the fastest vibration, of "
            f"{period:.3g} fs; take {period / MIN_STEPS_PER_PERIOD:.2g} fs or less"
        )
    time_ps = n_steps * timestep * 1e-3
    return f"stopped at step {n_steps} ({time_ps:.4g} ps) because {breach.text}: {remedy}"


def _thermalized(atoms: Atoms, temperature: float, rng: np.random.Generator) -> Atoms:
    """A copy with Maxwell-Boltzmann velocities whose center of mass is at rest."""
    from ase.md.velocitydistribution import Stationary, thermalize_momenta

    atoms = atoms.copy()
    thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    if len(atoms) > 1:
        Stationary(atoms)
    return atoms


def _integrator(
    ensemble: str,
    atoms: Atoms,
    timestep: float,
    temperature: float,
    pressure: float,
    rng: np.random.Generator,
) -> Any:
    """ASE's dynamics of an ensemble; see `run_dynamics`."""
    from ase.md.langevin import Langevin
    from ase.md.nose_hoover_chain import IsotropicMTKNPT
    from ase.md.verlet import VelocityVerlet

    step = timestep * units.fs
    if ensemble == "nve":
        return VelocityVerlet(atoms, step)
    if ensemble == "nvt":
        return Langevin(
            atoms,
            step,
            temperature_K=temperature,
            friction=0.01 / units.fs,
            fixcm=False,
            rng=rng,
        )
    if ensemble == "npt":
        return IsotropicMTKNPT(
            atoms,
            step,
            temperature_K=temperature,
            pressure_au=pressure * units.GPa,
            tdamp=100 * step,
            pdamp=1000 * step,
        )
    raise ValueError(f"`ensemble` must be nve, nvt or npt, got {ensemble!r}")


def _row(
    n_steps: int,
    timestep: float,
    atoms: Atoms,
    calculator: KernelPotCalculator,
    std: FloatArray,
) -> tuple[float, ...]:
    """Values of `COLUMNS` after some steps."""
    n = len(atoms)
    potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
    return (
        n_steps * timestep * 1e-3,
        (potential + kinetic) / n,
        potential / n,
        kinetic / n,
        atoms.get_temperature(),
        float(std.max()),
        float(std.mean()),
        atoms.get_volume() if atoms.pbc.all() else np.nan,
        *gate_state(calculator),
        _pressure(atoms),
    )


def _pressure(atoms: Atoms) -> float:
    """Pressure with its kinetic part [GPa]; NaN without periodicity in three directions."""
    if not atoms.pbc.all() or "stress" not in atoms.calc.results:
        return float("nan")
    stress = atoms.get_stress(include_ideal_gas=True)
    return float(-stress[:3].mean() / units.GPa)


def _mean(values: FloatArray) -> float | None:
    """Mean of what is known; None if nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def potential_std(calculator: KernelPotCalculator, atoms: Atoms) -> FloatArray:
    """Local standard deviations of a configuration, without its forces again."""
    return calculator.model.local_std(atoms, n_threads=calculator.n_threads)


def gate_state(calculator: KernelPotCalculator) -> tuple[float, float]:
    """Number of atoms beyond the data and largest penalty [eV] of the last configuration.

    Both are zero without a gate.
    """
    found = calculator.uncertainty
    if "penalty" not in found:
        return 0.0, 0.0
    return float(found["n_beyond"]), float(found["penalty"].max())
