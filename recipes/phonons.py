"""Phonon frequencies of silicon by phonopy."""

import numpy as np
from ase import Atoms
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from silicon import potential


def main():
    """Displace atoms of a supercell, and read frequencies at center and edge of the zone."""
    crystal = bulk("Si", a=5.47)
    phonon = Phonopy(
        PhonopyAtoms(
            symbols=crystal.get_chemical_symbols(),
            cell=crystal.cell.array,
            scaled_positions=crystal.get_scaled_positions(),
        ),
        np.diag([3, 3, 3]),
    )
    phonon.generate_displacements(distance=0.01)
    calculator = potential().calculator()
    forces = []
    for cell in phonon.supercells_with_displacements:
        atoms = Atoms(
            cell.symbols, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True,
            calculator=calculator,
        )  # fmt: skip
        forces.append(atoms.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    gamma, x = (phonon.get_frequencies(q) for q in ([0, 0, 0], [0.5, 0, 0.5]))
    print("THz at Gamma:", np.round(gamma, 2), "at X:", np.round(x, 2))
    return gamma, x


if __name__ == "__main__":
    main()
