"""Threads, size, memory, molecular dynamics and cold start, each in one run.

    python benchmarks/speed/scaling.py [--quick]

Default model of the shipped silicon (two SOAP terms). Ratios are of medians of alternating
wall-clock measurements in this process; cold start is measured in fresh processes with
an empty cache of compiled loops.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.data.neighbors import neighbor_list
from kernelpot.datasets import load_silicon


def crystal(n_atoms):
    """Rattled diamond silicon with about n_atoms atoms."""
    atoms = bulk("Si", cubic=True, a=5.47).repeat(max(1, round((n_atoms / 8) ** (1 / 3))))
    atoms.positions += 0.05 * np.random.default_rng(0).normal(size=atoms.positions.shape)
    return atoms


def alternating(functions, repetitions):
    """Median wall seconds of each function, called in turn."""
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(t)) for name, t in times.items()}


def threads(potential, repetitions):
    """Speed of two threads over one."""
    atoms = crystal(4096)
    found = alternating(
        {n: lambda n=n: potential.predict(atoms, n_threads=n) for n in (1, 2)}, repetitions
    )
    print(f"4,096 atoms: two threads {found[1] / found[2]:.2f} x as fast as one")


def sizes(potential, quick):
    """Time and memory per atom against the number of atoms."""
    print("\n| atoms | us/atom, 1 thread | ratio to 512 | bytes/atom beyond the pairs |")
    print("|---|---|---|---|")
    reference = None
    for n in (512, 4096) if quick else (512, 4096, 32768):
        atoms = crystal(n)
        seconds = alternating({n: lambda a=atoms: potential.predict(a, n_threads=1)}, 3)[n]
        us = 1e6 * seconds / len(atoms)
        reference = reference or us
        pairs = neighbor_list(atoms, potential.r_cut)
        listed = pairs.first.nbytes + pairs.neighbors.nbytes + pairs.shifts.nbytes
        tracemalloc.start()
        potential.predict(atoms, neighbors=pairs, n_threads=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(
            f"| {len(atoms)} | {us:.1f} | {us / reference:.2f} | {peak / len(atoms):.0f} "
            f"(list {listed / len(atoms):.0f}) |"
        )


def dynamics(potential, steps):
    """Cost of a step of VelocityVerlet over that of a bare evaluation."""
    gate = kp.VarianceGate(on_gate=None)
    runs = {}
    for name, options in (("gate=None", {"gate": None}), ("gated (default)", {"gate": gate})):
        atoms = crystal(512)
        atoms.calc = potential.calculator(n_threads=1, **options)
        thermalize_momenta(atoms, temperature_K=600, rng=np.random.default_rng(0))
        runs[name] = VelocityVerlet(atoms, 1.0 * units.fs)
    bare = crystal(512)
    found = alternating(
        {
            "predict": lambda: [potential.predict(bare, n_threads=1) for _ in range(steps)],
            **{name: lambda d=run: d.run(steps) for name, run in runs.items()},
        },
        3,
    )
    print()
    for name in runs:
        print(
            f"MD of 512 atoms, {name}: {found[name] / found['predict']:.2f} x a bare evaluation "
            "(neighbor search included) per step"
        )


FIRST = """
import time, sys
began = time.perf_counter()
import kernelpot as kp
imported = time.perf_counter() - began
pot = kp.load(sys.argv[1], verify=False)
from ase.build import bulk
pot.predict(bulk("Si", a=5.47))
print(imported, time.perf_counter() - began)
"""


def cold_start(path):
    """First prediction of fresh processes, compiled loops missing and present."""
    with tempfile.TemporaryDirectory() as cache:
        environment = dict(os.environ, NUMBA_CACHE_DIR=cache)
        print()
        for name in ("empty cache", "second process"):
            out = subprocess.run(
                [sys.executable, "-c", FIRST, path],
                env=environment, capture_output=True, text=True, check=True,
            ).stdout.split()  # fmt: skip
            print(f"{name}: import {float(out[0]):.2f} s, first prediction {float(out[1]):.1f} s")


def main():
    """Fit the shipped silicon and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller cells")
    arguments = parser.parse_args()
    potential = kp.KernelPotential().fit(load_silicon("train"))
    threads(potential, 3 if arguments.quick else 7)
    sizes(potential, arguments.quick)
    dynamics(potential, 5 if arguments.quick else 20)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "si.kpot")
        potential.save(path)
        cold_start(path)


if __name__ == "__main__":
    main()
