"""Does the local std see what the data do not cover?

    python benchmarks/uncertainty/off_data.py DATA_DIR [--element Si]

Fits ``zuo2020-<element>/train.xyz`` with the defaults and compares the local std of
isolated, stretched (1.25) and compressed (0.85) atoms with the test frames'.
"""

import argparse
import os

import numpy as np
from ase import Atoms
from ase.build import bulk

import kernelpot as kp


def main():
    """Print quantiles of known frames and the std of unknown ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--element", default="Si")
    parser.add_argument("--preset", default="default")
    arguments = parser.parse_args()
    folder = os.path.join(arguments.data_dir, f"zuo2020-{arguments.element}")
    pot = kp.KernelPotential(preset=arguments.preset).fit(os.path.join(folder, "train.xyz"))
    test = kp.read_dataset(os.path.join(folder, "test.xyz"))
    known = np.concatenate([pot.local_std(f.atoms) for f in test])
    for q in (0.5, 0.99, 0.995, 0.999, 1.0):
        print(f"test frames, {100 * q:5.1f} % quantile: {np.quantile(known, q):.4f} eV")
    crystal = bulk(arguments.element, cubic=True)
    limit = np.quantile(known, 0.995)
    for name, atoms in (
        ("isolated", Atoms(arguments.element)),
        ("stretched 1.25", _scaled(crystal, 1.25)),
        ("compressed 0.85", _scaled(crystal, 0.85)),
    ):
        std = pot.local_std(atoms).min()
        print(f"{name:>16}: {std:.4f} eV, {std / limit:.1f} x the 99.5 % quantile")


def _scaled(atoms, factor):
    copy = atoms.copy()
    copy.set_cell(atoms.cell * factor, scale_atoms=True)
    return copy


if __name__ == "__main__":
    main()
