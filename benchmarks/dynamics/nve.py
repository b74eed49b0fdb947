"""Drift of the total energy of hot silicon in NVE.

    python benchmarks/dynamics/nve.py MODEL.kpot [--temperature 1000] [--picoseconds 10]

512 atoms; velocities are drawn at twice the temperature, half of which becomes potential
energy. Reports the slope of block averages of the total energy over the whole run.
"""

import argparse

from ase.build import bulk

import kernelpot as kp
from kernelpot.md.dynamics import run_dynamics


def main():
    """Run and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--temperature", type=float, default=1000.0)
    parser.add_argument("--picoseconds", type=float, default=10.0)
    parser.add_argument("--timestep", type=float, default=1.0, help="[fs]")
    arguments = parser.parse_args()
    result = run_dynamics(
        bulk("Si", a=5.46, cubic=True).repeat(4),
        kp.load(arguments.model).calculator(),
        temperature=2 * arguments.temperature,
        timestep=arguments.timestep,
        steps=round(1000 * arguments.picoseconds / arguments.timestep),
        interval=10,
    )
    summary = result.summary()
    total = result.rows[:, 1]
    print(
        f"{summary['n_atoms']} atoms, {summary['time_ps']:.1f} ps, mean temperature "
        f"{summary['mean_temperature_k']:.0f} K: drift {summary['drift_ev_per_atom']:.2e} "
        f"eV/atom, fluctuation {total.std():.2e} eV/atom, "
        f"{summary['us_per_atom_step']:.0f} us per atom and step"
    )


if __name__ == "__main__":
    main()
