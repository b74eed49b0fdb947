"""Wrong labels planted in silicon: where are they in the list of suspects?

    python benchmarks/accuracy/suspects.py DATA_DIR

Planted in ``zuo2020-Si/train.xyz``: an energy shifted by 50 meV/atom, a virial of the
wrong sign, one force component off by 2 eV/Å, one atom called germanium, a cell 2 % too
large, and (harder, in a frame that is hot anyway) one atom moved by 0.5 Å. The potential
is fitted to all of it, errors included.
"""

import argparse
import os
import sys
from dataclasses import replace

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from _sets import load
from _tables import show

import kernelpot as kp


def plant(data):
    """Data with six wrong frames, and what is wrong by index."""
    frames = list(data)
    rng = np.random.default_rng(5)
    several = [k for k, f in enumerate(frames) if len(f) > 8 and f.virial is not None]
    stressed = [k for k in several if np.abs(frames[k].stress).max() > 0.02]
    sign = int(rng.choice(stressed))
    energy, force, moved, cell, swapped = map(
        int, rng.choice([k for k in several if k != sign], 5, replace=False)
    )
    frames[energy] = replace(
        frames[energy], energy=frames[energy].energy + 0.05 * len(data[energy])
    )
    frames[sign] = replace(frames[sign], virial=-frames[sign].virial)
    forces = frames[force].forces.copy()
    forces[3, 0] += 2.0
    frames[force] = replace(frames[force], forces=forces)
    atoms = frames[moved].atoms.copy()
    atoms.positions[0] += 0.5 / np.sqrt(3)
    frames[moved] = replace(frames[moved], atoms=atoms)
    atoms = frames[cell].atoms.copy()
    atoms.set_cell(1.02 * atoms.cell.array, scale_atoms=True)
    frames[cell] = replace(frames[cell], atoms=atoms)
    atoms = frames[swapped].atoms.copy()
    atoms.numbers[0] = 32
    frames[swapped] = replace(frames[swapped], atoms=atoms)
    wrong = {
        energy: "energy + 50 meV/atom",
        sign: "sign of the virial",
        force: "force + 2 eV/Å",
        moved: "atom moved by 0.5 Å",
        cell: "cell 2 % too large",
        swapped: "an atom called Ge",
    }
    return kp.Dataset(frames), wrong


def main():
    """Print the ten worst frames."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--n-sparse", type=int, default=300)
    arguments = parser.parse_args()
    data, wrong = plant(load(arguments.data_dir, "Si")[0])
    pot = kp.KernelPotential(n_sparse=arguments.n_sparse).fit(data, calibrate=False)
    found = pot.suspicious(data)
    rows = [
        [str(rank), s.name.split(":")[-1], s.config_type, wrong.get(s.index, "-"),
         f"{s.score:.1f}", s.describe()]
        for rank, s in enumerate(found[:10], 1)
    ]  # fmt: skip
    show(["rank", "frame", "config type", "planted", "score", "found"], rows)
    ranks = [k for k, s in enumerate(found, 1) if s.index in wrong]
    print(f"\nranks of the planted frames: {ranks}; flagged in all: {len(found.flagged)}")


if __name__ == "__main__":
    main()
