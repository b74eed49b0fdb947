"""Does the safety net leave alone what the data cover, and do crystals stay bound beyond it?

    python benchmarks/safety/within_data.py DATA_DIR [--sets zuo2020-Si ...] [--models DIR]

Potentials are fitted to each training file with the defaults. Of up to 300 structures of the test
file, by config type: how many atoms the net raises, by how much at most, and mean absolute errors
with the net and without. Then the training crystal of lowest energy is scaled from 0.7 to 1.4
times its lengths; those at which the energy, with the net, does not rise away from the minimum
are named.
"""

import argparse
import os
import sys
import warnings

import numpy as np
from ase import Atoms

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "accuracy"))

from _sets import load
from _tables import show

import kernelpot as kp
from kernelpot.safety.gate import NOTICEABLE

SETS = (
    "zuo2020-Si", "zuo2020-Mo", "zuo2020-Cu", "rmd17-ethanol", "3bpa", "acetut-TiAl", "gpumd-PbTe",
)  # fmt: skip
MOST_STRUCTURES = 300
SCALES = np.linspace(0.7, 1.4, 29)
HEADER = (
    "set", "group", "atoms", "raised", "at most [meV]", "energy [meV/atom], net / without",
    "forces [meV/Å], net / without",
)  # fmt: skip


def bare(frame):
    """Atoms of a frame without its labels."""
    atoms = frame.atoms
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def within(pot, frames):
    """Cells of a group of test structures."""
    net = kp.VarianceGate(on_gate=None)
    penalties, energy, forces = [], [], []
    for frame in frames:
        atoms = bare(frame)
        found = [pot.predict(atoms, gate=gate) for gate in (net, None)]
        penalties.append(found[0].penalty)
        if frame.energy is not None:
            energy.append([abs(p.energy - frame.energy) / len(atoms) for p in found])
        if frame.forces is not None:
            forces.append([np.abs(p.forces - frame.forces).mean() for p in found])
    penalty = np.concatenate(penalties)
    errors = [
        " / ".join(f"{1e3 * e:.2f}" for e in np.mean(of, axis=0)) if of else "-"
        for of in (energy, forces)
    ]
    return [
        str(len(penalty)), str(int(np.sum(penalty > NOTICEABLE))), f"{1e3 * penalty.max():.3f}",
        *errors,
    ]  # fmt: skip


def crystal(pot, train):
    """A sentence on the training crystal of lowest energy, if there is any."""
    crystals = [f for f in train if f.atoms.pbc.all() and f.energy is not None and len(f) > 1]
    if not crystals:
        return None
    lowest = bare(min(crystals, key=lambda f: pot.predict(f.atoms, gate=None).energy / len(f)))
    energies = []
    for scale in SCALES:
        atoms = lowest.copy()
        atoms.set_cell(scale * lowest.cell, scale_atoms=True)
        net = kp.VarianceGate(on_gate=None)
        energies.append(pot.predict(atoms, gate=net).energy / len(atoms))
    energies = np.array(energies) - min(energies)
    k = int(energies.argmin())
    outwards = np.concatenate([-np.diff(energies[: k + 1]), np.diff(energies[k:])])
    lengths = np.delete(SCALES, k)
    falls = [f"{s:.3f}" for s, rise in zip(lengths, outwards, strict=True) if rise <= 0]
    at = ", ".join(f"{e:.2f} at {s:.3g}" for s, e in zip(SCALES[::4], energies[::4], strict=False))
    verdict = f"falls at {', '.join(falls)}" if falls else "rises everywhere"
    return f"{lowest.symbols}: {verdict}; eV/atom: {at}"


def main():
    """Print a row per set and config type, and a line per crystal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--models", metavar="DIR", help="of fitted potentials, SET.kpot, if there")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, crystals = [], []
    for name in arguments.sets:
        train, test = load(arguments.data_dir, name)
        path = arguments.models and os.path.join(arguments.models, f"{name}.kpot")
        if path and os.path.exists(path):
            pot = kp.load(path)
        else:
            pot = kp.KernelPotential().fit(train, self_test=False, calibrate=False)
        known = set(pot.model.species)
        test = [f for f in test if len(f) > 1 and set(f.atoms.numbers.tolist()) <= known]
        if len(test) > MOST_STRUCTURES:
            chosen = np.random.default_rng(0).permutation(len(test))[:MOST_STRUCTURES]
            test = [test[i] for i in sorted(chosen)]
        for group in sorted({f.config_type for f in test}):
            rows.append([name, group, *within(pot, [f for f in test if f.config_type == group])])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
        found = crystal(pot, train)
        if found:
            crystals.append(f"{name}, {found}")
    show(HEADER, rows)
    print("\nCrystals of lowest energy, their lengths scaled, with the net:\n")
    for line in crystals:
        print(f"- {line}")


if __name__ == "__main__":
    main()
