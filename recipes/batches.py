"""Many structures on the workers of dask."""

import dask
import numpy as np
from ase.build import bulk
from silicon import potential


def evaluate(calculator, atoms):
    """Energy and largest local std of one structure, by a calculator of its own."""
    atoms.calc = calculator
    return atoms.get_potential_energy(), float(calculator.get_property("energies_std", atoms).max())


def main(n=8):
    """Calculators are pickled without the factor of the training: each task has one."""
    calculator = potential().calculator(n_threads=1)
    structures = []
    for seed in range(n):
        atoms = bulk("Si", cubic=True, a=5.47)
        atoms.rattle(0.05, seed=seed)
        structures.append(atoms)
    tasks = [dask.delayed(evaluate)(calculator, atoms.copy()) for atoms in structures]
    found = np.array(dask.compute(*tasks, scheduler="processes", num_workers=2))
    expected = [pred.energy for pred in potential().predict_many(structures, gate=True)]
    print(f"{n} structures, energies {found[:, 0].min():.3f} to {found[:, 0].max():.3f} eV")
    return found[:, 0], np.array(expected)


if __name__ == "__main__":
    main()
