"""Error bars of derived properties: elastic constants and the vacancy of silicon.

    python benchmarks/uncertainty/committee.py [--members 12] [--size 2] [--preset default]

Fits the shipped silicon data, draws potentials from the posterior and computes with the
fit and with every member: lattice constant, elastic constants (relaxed internal
coordinates) and the formation energy of a vacancy, from structures that each relaxes for
itself. The spread is what the data leave undetermined between the sparse points; what
these do not span, and errors of the data, are not in it.
"""

import argparse

import numpy as np
from ase.build import bulk
from ase.optimize import BFGS
from ase.units import GPa
from scipy.optimize import minimize_scalar

import kernelpot as kp
from kernelpot.datasets import load_silicon

FORCE_TOLERANCE = 2e-3  # eV/Å
STRAIN = 2e-3


def relaxed(atoms, calculator):
    """Copy with forces below the tolerance, cell fixed."""
    atoms = atoms.copy()
    atoms.calc = calculator
    if not BFGS(atoms, logfile=None).run(fmax=FORCE_TOLERANCE, steps=300):
        raise RuntimeError(f"{atoms} did not relax within 300 steps")
    return atoms


def lattice_constant(calculator):
    """Cubic lattice constant of least energy [Å]."""

    def energy(a):
        atoms = bulk("Si", a=a)
        atoms.calc = calculator
        return atoms.get_potential_energy()

    return minimize_scalar(energy, bounds=(5.2, 5.8), method="bounded", options={"xatol": 1e-5}).x


def elastic_constants(calculator, a):
    """C11, C12 and C44 [GPa] from stresses of strained, relaxed crystals."""
    crystal = bulk("Si", a=a, cubic=True)

    def stress(*components):
        both = []
        for sign in (1, -1):
            strain = np.eye(3)
            for i, j in components:
                strain[i, j] += sign * STRAIN
            atoms = crystal.copy()
            atoms.set_cell(crystal.cell @ strain, scale_atoms=True)
            both.append(relaxed(atoms, calculator).get_stress())
        return (both[0] - both[1]) / (2 * STRAIN) / GPa

    along = stress((0, 0))
    # e_yz = e_zy = STRAIN is an engineering strain of twice that
    shear = stress((1, 2), (2, 1))
    return along[0], along[1], shear[3] / 2


def vacancy_energy(calculator, a, size):
    """Formation energy of a vacancy [eV] in a supercell of `size` cubic cells a side."""
    crystal = bulk("Si", a=a, cubic=True).repeat(size)
    crystal.calc = calculator
    whole = crystal.get_potential_energy()
    n = len(crystal)
    missing = crystal.copy()
    del missing[0]
    # without symmetry, or it would stay at a saddle point
    missing.positions += 0.02 * np.random.default_rng(0).normal(size=missing.positions.shape)
    return relaxed(missing, calculator).get_potential_energy() - whole * (n - 1) / n


def properties(potential, size):
    """Everything the table has, of one potential."""
    calculator = potential.calculator()
    a = lattice_constant(calculator)
    return np.array([a, *elastic_constants(calculator, a), vacancy_energy(calculator, a, size)])


def main():
    """Print the fit's value, the members' mean and spread of each property."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=12)
    parser.add_argument("--size", type=int, default=2, help="supercell of the vacancy")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    potential = kp.KernelPotential(preset=arguments.preset).fit(load_silicon())
    committee = potential.sample(arguments.members, rng=arguments.seed)
    fit = properties(potential, arguments.size)
    found = np.array([properties(member, arguments.size) for member in committee])
    names = ["lattice constant [Å]", "C11 [GPa]", "C12 [GPa]", "C44 [GPa]", "vacancy [eV]"]
    print(f"{len(committee)} members, vacancy in {8 * arguments.size**3} sites")
    print(f"{'':22}{'fit':>10}{'mean':>10}{'std':>10}")
    for name, value, mean, std in zip(
        names, fit, found.mean(axis=0), found.std(axis=0, ddof=1), strict=True
    ):
        print(f"{name:22}{value:10.3f}{mean:10.3f}{std:10.3f}")


if __name__ == "__main__":
    main()
