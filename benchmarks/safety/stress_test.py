"""How often molecular dynamics explodes: kernels alone, with wall, with wall and gate.

    python benchmarks/safety/stress_test.py DATA_DIR [--systems zuo2020-Si ...] [--starts 100]

Potentials are fitted to 20 frames of each data set (defaults, 300 sparse points per term
at most) and driven where they know nothing: Langevin dynamics from training frames, and from
random overlapping positions that are relaxed first (FIRE, maxstep 0.1 Å, 300 steps), at
temperatures from 300 to 5,000 K. A run has exploded if an energy or force is not
finite, if the temperature averaged over its last half exceeds ten times the target, or if
two atoms come nearer than min(0.5 Å, half the shortest training distance of their
species), looked at every 10 steps.
"""

import argparse
import json
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("KERNELPOT_NUM_THREADS", "1")

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE

import kernelpot as kp
from kernelpot.data.neighbors import neighbor_list

SYSTEMS = ("zuo2020-Si", "zuo2020-Mo", "zuo2020-Cu", "rmd17-ethanol", "3bpa")
TEMPERATURES = (300, 1000, 2000, 5000)
N_FRAMES, MAX_ATOMS = 20, 64
VARIANTS = ("plain GP", "GP + wall", "GP + wall + gate")


def training_frames(path, seed):
    """Twenty frames of moderate size, drawn at random."""
    data = kp.read_dataset(os.path.join(path, "train.xyz"))
    small = [frame for frame in data if 1 < len(frame) <= MAX_ATOMS]
    chosen = np.random.default_rng(seed).permutation(len(small))[:N_FRAMES]
    return kp.Dataset([small[i] for i in sorted(chosen)])


def fitted(variant, frames):
    """Fit one of the variants; returns a function that makes calculators."""
    baseline = {"plain GP": [], "GP + wall": [kp.Wall()]}.get(variant)
    gate = kp.VarianceGate(on_gate=None) if variant == "GP + wall + gate" else None
    pot = kp.KernelPotential(preset="fast", baseline=baseline).fit(frames, calibrate=False)
    return lambda: pot.calculator(gate=gate)


def overlapping(atoms, rng):
    """The same atoms at random positions in the same volume (a sphere without a cell)."""
    atoms = atoms.copy()
    if atoms.pbc.any():
        atoms.set_scaled_positions(rng.random((len(atoms), 3)))
    else:
        radius = (3 / (4 * np.pi) * 8.0 * len(atoms)) ** (1 / 3)
        directions = rng.normal(size=(len(atoms), 3))
        directions /= np.linalg.norm(directions, axis=1)[:, None]
        atoms.positions = directions * radius * rng.random((len(atoms), 1)) ** (1 / 3)
    return atoms


class Exploded(Exception):
    """A run has failed; the message says how."""


def check(atoms, limits):
    """Raise `Exploded` for values that are not finite or atoms that are too near."""
    finite = np.isfinite(atoms.get_potential_energy()) and np.isfinite(atoms.get_forces()).all()
    if not (finite and np.isfinite(atoms.positions).all()):
        raise Exploded("not finite")
    pairs = neighbor_list(atoms, 0.5)
    if pairs.n_pairs:
        distances = np.linalg.norm(pairs.displacements(atoms.positions), axis=1)
        z1, z2 = atoms.numbers[pairs.centers], atoms.numbers[pairs.neighbors]
        for a, b, r in zip(np.minimum(z1, z2), np.maximum(z1, z2), distances, strict=True):
            if r < min(0.5, 0.5 * limits.get((int(a), int(b)), 1.0)):
                raise Exploded("atoms too near")


def run(atoms, calculator, temperature, picoseconds, timestep, limits, seed, *, relax):
    """One trajectory; returns why it exploded, or None."""
    rng = np.random.default_rng(seed)
    atoms.calc = calculator
    try:
        if relax:
            FIRE(atoms, maxstep=0.1, logfile=None).run(fmax=0.05, steps=300)
            check(atoms, limits)
        thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
        step = timestep * units.fs
        dynamics = Langevin(
            atoms, step, temperature_K=temperature, friction=0.01 / units.fs, fixcm=False, rng=rng
        )
        n_steps = round(1000 * picoseconds / timestep)
        temperatures = []

        def look():
            check(atoms, limits)
            temperatures.append(atoms.get_temperature())

        dynamics.attach(look, interval=10)
        dynamics.run(n_steps)
        mean = np.mean(temperatures[len(temperatures) // 2 :])
        if not mean <= 10 * temperature:
            raise Exploded("temperature")
    except Exploded as failure:
        return str(failure)
    except (ValueError, FloatingPointError, RuntimeError) as error:
        return f"{type(error).__name__}: {str(error)[:60]}"
    return None


def stress(system, path, arguments):
    """All runs of one system; returns counts of failures and of gated runs."""
    frames = training_frames(path, arguments.seed)
    limits = frames.distances.shortest
    timestep = 0.5 if any(z == 1 for z in frames.species) else 1.0
    found = []
    for variant in arguments.variants:
        make = fitted(variant, frames)
        started = time.perf_counter()
        for start in range(arguments.starts):
            rng = np.random.default_rng([arguments.seed, start])
            frame = frames[int(rng.integers(len(frames)))].atoms
            atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
            # every other round of temperatures starts from overlapping positions
            temperature = TEMPERATURES[start % len(TEMPERATURES)]
            relax = bool(start // len(TEMPERATURES) % 2)
            if relax:
                atoms = overlapping(atoms, rng)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                why = run(
                    atoms, make(), temperature, arguments.ps, timestep, limits, start,
                    relax=relax,
                )  # fmt: skip
            found.append((variant, temperature, relax, why))
        lost = [f for f in found if f[0] == variant and f[3] is not None]
        seconds = time.perf_counter() - started
        print(
            f"{system}, {variant}: {len(lost)} of {arguments.starts} ({seconds:.0f} s)", flush=True
        )
    return found


def main():
    """Print the table of exploded fractions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--starts", type=int, default=100, help="per system and variant")
    parser.add_argument("--ps", type=float, default=1.0, help="length of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="systems at the same time")
    parser.add_argument("--json", help="file for every single outcome")
    arguments = parser.parse_args()
    paths = [os.path.join(arguments.data_dir, system) for system in arguments.systems]
    with ProcessPoolExecutor(arguments.workers) as pool:
        n = len(paths)
        results = list(pool.map(stress, arguments.systems, paths, [arguments] * n))
    print("\n| system | start | runs | " + " | ".join(arguments.variants) + " |")
    print("|---|---|---|" + "---|" * len(arguments.variants))
    for system, found in zip(arguments.systems, results, strict=True):
        for relax, name in ((False, "training frames"), (True, "overlapping")):
            cells = []
            for variant in arguments.variants:
                mine = [f[3] is not None for f in found if f[0] == variant and f[2] == relax]
                cells.append(f"{np.mean(mine):.2f}" if mine else "-")
            print(f"| {system} | {name} | {len(mine)} | " + " | ".join(cells) + " |")
    if arguments.json:
        everything = dict(zip(arguments.systems, results, strict=True))
        with open(arguments.json, "w", encoding="utf-8") as stream:
            json.dump(everything, stream, indent=1)


if __name__ == "__main__":
    main()
