"""Harmonic frequencies of ethanol at the level of theory of the shipped data, for a notebook.

The trans conformer of PBE/def2-SVP (`ethanol.py`), relaxed, and PySCF's analytic second derivatives
(without the response of the grid).

    pip install pyscf ase
    OMP_NUM_THREADS=1 python ethanol_vibrations.py FOLDER
"""

import argparse
import os

import ase.io
import numpy as np
from ase import units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS
from ethanol import BASIS, FUNCTIONAL, label


class PBE(Calculator):
    """The level of theory of the data."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Energy and forces of one structure."""
        super().calculate(atoms, properties, system_changes)
        work = self.atoms.copy()
        work.info["config_type"] = ""
        found = label(work)
        self.results = {
            "energy": found.info["REF_energy"], "forces": found.arrays["REF_forces"]
        }  # fmt: skip


def relaxed(folder):
    """The trans conformer at rest."""
    path = os.path.join(folder, "relaxed.xyz")
    if not os.path.exists(path):
        atoms = molecule("CH3CH2OH")
        atoms.calc = PBE()
        BFGS(atoms).run(fmax=0.003)
        atoms.calc = None
        ase.io.write(path, atoms)
    return ase.io.read(path)


def main():
    """Print the frequencies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    os.makedirs(folder, exist_ok=True)
    atoms = relaxed(folder)
    print("relaxed", atoms.positions.round(4).tolist(), flush=True)
    from pyscf import dft, gto

    geometry = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
    mol = gto.M(atom=geometry, basis=BASIS, unit="Angstrom", verbose=0)
    field = dft.RKS(mol, xc=FUNCTIONAL).density_fit()
    field.grids.level = 3
    field.conv_tol = 1e-10
    field.kernel()
    blocks = field.Hessian().kernel()  # (atom, atom, 3, 3), atomic units
    n = 3 * len(atoms)
    hessian = blocks.transpose(0, 2, 1, 3).reshape(n, n) * units.Hartree / units.Bohr**2
    root = np.repeat(atoms.get_masses(), 3) ** -0.5
    squares = np.linalg.eigvalsh(root[:, None] * (hessian + hessian.T) / 2 * root)
    energies = (
        units._hbar * 1e10 / np.sqrt(units._e * units._amu) * np.sqrt(squares.astype(complex))
    )
    waves = energies / units.invcm
    print("[1/cm]", [round(float(w.real - w.imag), 1) for w in waves])


if __name__ == "__main__":
    main()
