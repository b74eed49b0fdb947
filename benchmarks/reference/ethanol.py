"""Reference data for ethanol: PBE/def2-SVP with PySCF, one frame at a time.

Geometries come from Langevin dynamics with GFN2-xTB (tblite) at 300, 600 and 1,000 K and
from rigid rotations of the hydroxyl and methyl groups; only PySCF's energies and forces are
kept as labels. Stopped runs resume: frames already in the output are skipped.

    pip install pyscf tblite ase
    OMP_NUM_THREADS=1 python ethanol.py ethanol-raw.xyz --frames 60
"""

import argparse
import os
import time

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import molecule

BASIS = "def2-svp"
FUNCTIONAL = "PBE"
TEMPERATURES = (300, 600, 1000)
PER_TEMPERATURE = 70


def dynamics_frames(path, seed=11):
    """Geometries along GFN2-xTB dynamics; kept in a file so that resuming is exact."""
    if os.path.exists(path):
        return ase.io.read(path, ":", format="extxyz")
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
    from tblite.ase import TBLite

    frames = []
    for k, temperature in enumerate(TEMPERATURES):
        rng = np.random.default_rng(seed + k)
        atoms = molecule("CH3CH2OH")
        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
        thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
        Stationary(atoms)
        ZeroRotation(atoms)
        run = Langevin(
            atoms, 0.5 * units.fs, temperature_K=temperature, friction=0.02 / units.fs,
            fixcm=False, rng=rng,
        )  # fmt: skip
        run.run(500)
        for _ in range(PER_TEMPERATURE):
            run.run(100)
            frame = Atoms(atoms.numbers, atoms.positions - atoms.get_center_of_mass())
            frame.info["config_type"] = f"md_{temperature}K"
            frames.append(frame)
    ase.io.write(path, frames, format="extxyz")
    return frames


def torsion_frames():
    """Rigid rotations about C-O (hydroxyl hydrogen) and C-C (methyl hydrogens)."""
    atoms = molecule("CH3CH2OH")
    symbols = np.array(atoms.get_chemical_symbols())
    distances = atoms.get_all_distances()
    oxygen = int(np.flatnonzero(symbols == "O")[0])
    carbons = np.flatnonzero(symbols == "C")
    near = int(carbons[np.argmin(distances[oxygen, carbons])])
    far = int(carbons[np.argmax(distances[oxygen, carbons])])
    hydrogens = np.flatnonzero(symbols == "H")
    hydroxyl = int(hydrogens[np.argmin(distances[oxygen, hydrogens])])
    methyl = [int(h) for h in hydrogens if distances[far, h] < 1.2]
    frames = []
    for angle in range(15, 375, 30):
        turned = atoms.copy()
        turned.rotate_dihedral(far, near, oxygen, hydroxyl, angle, indices=[hydroxyl])
        turned.info["config_type"] = "torsion_oh"
        frames.append(turned)
    for angle in range(10, 130, 20):
        turned = atoms.copy()
        turned.rotate_dihedral(oxygen, near, far, methyl[0], angle, indices=methyl)
        turned.info["config_type"] = "torsion_ch3"
        frames.append(turned)
    return frames


def frames(path):
    """All structures in the order of computation: any beginning is complete."""
    free = []
    for symbol in "HCO":
        atoms = Atoms(symbol)
        atoms.info["config_type"] = "isolated_atom"
        free.append(atoms)
    pool = dynamics_frames(path) + torsion_frames()
    order = np.random.default_rng(5).permutation(len(pool))
    return free + [pool[k] for k in order]


def label(atoms):
    """Energy [eV] and forces [eV/Å] of PBE/def2-SVP."""
    from pyscf import dft, gto

    geometry = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
    spin = {"H": 1, "C": 2, "O": 2}[atoms.get_chemical_symbols()[0]] if len(atoms) == 1 else 0
    mol = gto.M(atom=geometry, basis=BASIS, unit="Angstrom", spin=spin, verbose=0)
    field = (dft.UKS if spin else dft.RKS)(mol, xc=FUNCTIONAL).density_fit()
    field.grids.level = 3
    field.conv_tol = 1e-10
    energy = field.kernel()
    if not field.converged:
        raise RuntimeError("the self-consistent field did not converge")
    forces = np.zeros((len(atoms), 3))
    if len(atoms) > 1:
        gradient = field.nuc_grad_method()
        gradient.grid_response = True
        forces = -gradient.kernel() * units.Hartree / units.Bohr
    result = Atoms(atoms.numbers, atoms.positions)
    result.info["REF_energy"] = energy * units.Hartree
    result.arrays["REF_forces"] = forces
    result.info["config_type"] = atoms.info["config_type"]
    return result


def main():
    """Compute the frames that are not in the output yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--geometries", default="ethanol-geometries.xyz")
    parser.add_argument("--frames", type=int, default=None, help="stop after so many")
    arguments = parser.parse_args()
    done = set()
    if os.path.exists(arguments.output):
        done = {a.info["frame"] for a in ase.io.read(arguments.output, ":", format="extxyz")}
    everything = frames(arguments.geometries)
    print(f"{len(everything)} frames, {len(done)} done", flush=True)
    for index, atoms in enumerate(everything[: arguments.frames]):
        if index in done:
            continue
        began = time.time()
        try:
            found = label(atoms)
        except RuntimeError as error:
            print(f"{index}: {error}", flush=True)
            continue
        found.info["frame"] = index
        ase.io.write(arguments.output, found, format="extxyz", append=True)
        print(f"{index} {found.info['config_type']} {time.time() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
