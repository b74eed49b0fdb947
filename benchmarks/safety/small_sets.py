"""Small data sets whose compositions do not determine the energies of free atoms.

    python benchmarks/safety/small_sets.py DIRECTORY [--frames 20]

Needs `tblite` (GFN tight binding), which labels them. Three sets, each of one composition:
a pair of molecules, a compound of one stoichiometry, and an oxide surface with a dimer of two
metals on it. The first frame of a set is relaxed, so that lower energies than those of the data
are few; the others are snapshots of Langevin dynamics, every tenth step. Each set is written
as `DIRECTORY/<name>/train.xyz`.
"""

import argparse
import os

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE
from ase.spacegroup import crystal

STEPS_BETWEEN = 10


def molecule_pair():
    """Water and methanol, hydrogen-bonded."""
    water, methanol = molecule("H2O"), molecule("CH3OH")
    methanol.positions += np.array([0.0, 0.6, 2.9])
    return water + methanol, "GFN2-xTB", 400, 0.5


def compound():
    """Alpha quartz."""
    quartz = crystal(
        ("Si", "O"), [(0.4697, 0, 0), (0.4135, 0.2669, 0.1191)], spacegroup=152,
        cellpar=[4.916, 4.916, 5.405, 90, 90, 120],
    )  # fmt: skip
    return Atoms(quartz), "GFN1-xTB", 600, 1.0


def surface_with_dimer():
    """Two layers of MgO (100) that carry CuAu."""
    slab = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat((2, 2, 1))
    top = slab.positions[:, 2].max()
    oxygen = slab.positions[(slab.numbers == 8) & (slab.positions[:, 2] > top - 0.1)][0]
    dimer = Atoms("CuAu", [oxygen + [0, 0, 2.1], oxygen + [0, 0, 4.5]])
    slab += dimer
    slab.center(vacuum=7.0, axis=2)
    slab.pbc = True
    return slab, "GFN1-xTB", 300, 2.0


SETS = {
    "water-methanol": molecule_pair,
    "quartz": compound,
    "MgO-CuAu": surface_with_dimer,
}


def labelled(atoms):
    """A frame with energy and forces."""
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info["REF_energy"] = float(atoms.get_potential_energy())
    frame.arrays["REF_forces"] = atoms.get_forces()
    return frame


def sampled(atoms, method, temperature, timestep, n_frames, seed):
    """Frames of a dynamics after a short relaxation, with labels."""
    from tblite.ase import TBLite

    rng = np.random.default_rng(seed)
    atoms.calc = TBLite(method=method, verbosity=0)
    # the vacuum above a surface would shrink
    bulk = atoms.pbc.all() and atoms.get_volume() < 20 * len(atoms)
    FIRE(FrechetCellFilter(atoms) if bulk else atoms, logfile=None).run(fmax=0.05, steps=150)
    frames = [labelled(atoms)]
    thermalize_momenta(atoms, temperature_K=2 * temperature, rng=rng)
    dynamics = Langevin(
        atoms, timestep * units.fs, temperature_K=temperature, friction=0.02 / units.fs,
        fixcm=False, rng=rng,
    )  # fmt: skip
    while len(frames) < n_frames:
        dynamics.run(STEPS_BETWEEN)
        frames.append(labelled(atoms))
    return frames


def main():
    """Write every set that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.sets:
        path = os.path.join(arguments.directory, name, "train.xyz")
        if os.path.exists(path):
            continue
        frames = sampled(*SETS[name](), arguments.frames, arguments.seed)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write(path, frames)
        print(f"{name}: {len(frames)} frames of {len(frames[0])} atoms", flush=True)


if __name__ == "__main__":
    main()
