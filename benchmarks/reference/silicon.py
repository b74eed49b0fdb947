"""Reference data for silicon: PBE plane waves with GPAW, one frame at a time.

The run can be stopped and started again: frames already in the output are skipped.
The first frames are a small but complete set (every group is represented), the rest
make it denser. GPAW comes with Debian as the packages ``gpaw`` and ``gpaw-data``; its
interpreter need not have kernelpot:

    OMP_NUM_THREADS=1 python3 silicon.py silicon-raw.xyz --frames 40
"""

import argparse
import os
import time

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, diamond100, diamond111

LATTICE = 5.469  # PBE [Å]
PLANE_WAVES = 300  # [eV]
K_LENGTH = 16.4  # k-points over reciprocal length [Å]: 3 x 3 x 3 for the cubic cell
SMEARING = 0.1  # [eV]


def shortest(atoms):
    """Shortest distance, periodic images included [Å]."""
    from ase.neighborlist import neighbor_list

    d = neighbor_list("d", atoms, 4.0)
    return d.min() if len(d) else np.inf


def strained(atoms, rng, amount):
    """Copy with a random symmetric strain of the given standard deviation."""
    strain = amount * rng.normal(size=(3, 3))
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    return copy


def scaled(atoms, factor):
    """Copy with all lengths multiplied."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell * factor, scale_atoms=True)
    return copy


def rattled(atoms, rng, amplitude):
    """Copy with normal displacements [Å], no two atoms closer than 1.8 Å."""
    while True:
        copy = atoms.copy()
        copy.positions += amplitude * rng.normal(size=copy.positions.shape)
        if shortest(copy) > 1.8:
            return copy


def disordered(rng, volume, n=8):
    """Random atoms in a cube, at least 1.9 Å apart, at a given volume per atom [Å^3]."""
    length = (n * volume) ** (1 / 3)
    while True:
        cell = length * (np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
        atoms = Atoms(f"Si{n}", cell=cell, pbc=True, scaled_positions=rng.random((n, 3)))
        for _ in range(200):  # push close pairs apart
            i, j, d, vector = _close_pairs(atoms, 2.2)
            if not len(i):
                break
            push = 0.3 * (2.2 - d)[:, None] * vector / d[:, None]
            np.add.at(atoms.positions, j, push)
        if shortest(atoms) > 1.9:
            atoms.wrap()
            return atoms


def _close_pairs(atoms, limit):
    from ase.neighborlist import neighbor_list

    return neighbor_list("ijdD", atoms, limit)


def frames(seed=2024):
    """All structures in the order of computation, as (group, atoms, spin-polarized)."""
    rng = np.random.default_rng(seed)
    cubic = bulk("Si", a=LATTICE, cubic=True)
    groups = {"isolated_atom": [Atoms("Si", positions=[[4.5] * 3], cell=[9.0, 9.1, 9.2])]}
    # one cell shape for all crystals: their k-points err alike
    crystal = [scaled(cubic, factor) for factor in (1.0, 0.94, 0.97, 1.03, 1.06)]
    crystal += [strained(cubic, rng, 0.03) for _ in range(7)]
    groups["crystal"] = crystal
    groups["rattled"] = [
        rattled(strained(cubic, rng, 0.02), rng, amplitude)
        for _ in range(8)
        for amplitude in (0.05, 0.1, 0.15, 0.2, 0.28)
    ]
    groups["vacancy"] = []
    for k in range(10):
        hole = strained(cubic, rng, 0.01)
        del hole[k % 8]
        groups["vacancy"].append(rattled(hole, rng, 0.05 + 0.02 * k))
    groups["surface"] = []
    for k in range(8):
        build = diamond100 if k % 2 else diamond111
        slab = build("Si", (1, 1, 6), a=LATTICE, vacuum=4.0)
        slab.pbc = True
        groups["surface"].append(rattled(slab, rng, 0.05 + 0.02 * k))
    groups["disordered"] = [disordered(rng, v) for v in np.linspace(15.0, 24.0, 14)]
    phases = []
    for k in range(14):
        kind = k % 5
        if kind == 0:
            atoms = bulk("Si", "sc", a=2.53)
        elif kind == 1:
            atoms = bulk("Si", "fcc", a=3.87)
        elif kind == 2:
            atoms = bulk("Si", "bcc", a=3.09, cubic=True)
        elif kind == 3:
            atoms = bulk("Si", "hcp", a=2.70, c=4.6)
        else:  # beta-tin
            atoms = Atoms(
                "Si4",
                cell=[4.81, 4.81, 2.65],
                pbc=True,
                scaled_positions=[[0, 0, 0], [0, 0.5, 0.25], [0.5, 0.5, 0.5], [0.5, 0, 0.75]],
            )
        if len(atoms) == 1:
            atoms = atoms.repeat((2, 1, 1))
        phases.append(rattled(strained(atoms, rng, 0.03), rng, 0.02 + 0.008 * k))
    groups["phases"] = phases
    groups["dimer"] = [
        Atoms("Si2", [[4.0, 4.1, 4.0], [4.0, 4.1, 4.0 + r]], cell=[8.0, 8.2, 8.0 + r])
        for r in (2.25, 3.0, 2.0, 3.6, 2.6, 4.4, 1.8)
    ]
    # Deal from every group in proportion to its size, so that any beginning is complete.
    order = []
    for group, members in groups.items():
        spin = group in ("isolated_atom", "dimer")
        for k, atoms in enumerate(members):
            order.append(((k + 0.3) / len(members), group, atoms, spin))
    order.sort(key=lambda entry: entry[0] if entry[1] != "isolated_atom" else -1.0)
    dealt = [(group, atoms, spin) for _, group, atoms, spin in order]
    # without these a potential may well prefer a torn crystal to a whole one
    return dealt + [("stretched", scaled(cubic, f), False) for f in (1.1, 1.2, 1.15, 1.3)]


def label(group, atoms, spin):
    """Compute energy, forces and (for crystals) stress; attach them as REF_ labels."""
    from gpaw import GPAW, PW, FermiDirac, MixerSum

    work = atoms.copy()
    free = group in ("isolated_atom", "dimer")
    if free:
        k_points = (1, 1, 1)
        work.set_initial_magnetic_moments([2.0 if len(atoms) == 1 else 1.0] * len(atoms))
        # the usual history of densities diverges for open shells in vacuum
        special = {"mixer": MixerSum(0.25, 1, 1.0), "nbands": 4 + 4 * len(atoms)}
    else:
        special = {}
        spacing = np.linalg.norm(np.linalg.inv(work.cell.array), axis=0)
        k_points = tuple(max(1, round(K_LENGTH * b)) for b in spacing)
        if group == "surface":
            k_points = (*k_points[:2], 1)
    work.pbc = True
    work.calc = GPAW(
        mode=PW(PLANE_WAVES),
        xc="PBE",
        kpts={"size": k_points, "gamma": True},
        spinpol=spin,
        occupations=FermiDirac(SMEARING),
        convergence={"density": 1e-5, "energy": 1e-5},
        maxiter=300,
        txt=None,
        **special,
    )
    result = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=not free)
    if free:
        result.cell = None
    # The free energy is what forces and stress are derivatives of. The entropy of the
    # half-filled level of a single atom is no part of the energy of a free atom.
    result.info["REF_energy"] = work.get_potential_energy(force_consistent=len(atoms) > 1)
    result.arrays["REF_forces"] = work.get_forces()
    if not free and group != "surface":
        result.info["REF_virial"] = -work.get_stress(voigt=False) * work.get_volume()
    result.info["config_type"] = group
    return result


def main():
    """Compute the frames that are not in the output yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--frames", type=int, default=None, help="stop after so many")
    arguments = parser.parse_args()
    done = set()
    if os.path.exists(arguments.output):
        done = {a.info["frame"] for a in ase.io.read(arguments.output, ":", format="extxyz")}
    everything = frames()
    print(f"{len(everything)} frames, {len(done)} done", flush=True)
    for index, (group, atoms, spin) in enumerate(everything[: arguments.frames]):
        if index in done:
            continue
        began = time.time()
        try:
            found = label(group, atoms, spin)
        except Exception as error:
            print(f"{index} {group}: not converged ({error})", flush=True)
            continue
        found.info["frame"] = index
        ase.io.write(arguments.output, found, format="extxyz", append=True)
        print(f"{index} {group} {len(atoms)} atoms {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
