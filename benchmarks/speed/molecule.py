"""Cost of a step of molecular dynamics of one small molecule, in one run.

    python benchmarks/speed/molecule.py [--steps 200] [--monomials 3000] [--model FILE]

A whole quadratic form of the shipped ethanol, or any model of ethanol. Milliseconds of a step of
VelocityVerlet of nine atoms, ASE's work included, with the safety net and without: processor time,
median of ten runs, of the way that a few atoms go (`kernelpot.gp.small`) and of the general one by
turns; and wall-clock time, the shortest run, for on a machine that does other things too the
others tell of these. Here it is the calls of Python and the bytes of the maps that count, not
operations.
"""

import argparse
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase import units
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.datasets import load_ethanol
from kernelpot.gp import local

REPETITIONS = 10


def fitted(n_monomials):
    """A model of the shipped ethanol; its noise plays no part here."""
    term = kp.PolynomialSOAP(r_cut=6.0, n_sparse=n_monomials, full=True)
    return kp.KernelPotential([term]).fit(load_ethanol(), optimize=None, self_test=False)


def main():
    """Print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--monomials", type=int, default=3000)
    parser.add_argument("--model", help="a .kpot file instead of a fit")
    arguments = parser.parse_args()
    if arguments.model:
        potential = kp.load(arguments.model, verify=False)
    else:
        potential = fitted(arguments.monomials)
    molecule = next(f.atoms for f in reversed(list(load_ethanol())) if len(f.atoms) == 9)
    print("| | CPU ms per step | in the general way | ratio | wall clock, shortest run |")
    print("|---|---|---|---|---|")
    for name, gate in (("with the safety net", kp.VarianceGate(on_gate=None)), ("without", None)):
        runs = {}
        for way in (local.SMALL, 0):
            atoms = molecule.copy()
            thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
            atoms.calc = potential.calculator(n_threads=1, gate=gate)
            runs[way] = VelocityVerlet(atoms, 0.5 * units.fs), [], []
        usual, steps = local.SMALL, arguments.steps // REPETITIONS
        for repetition in range(REPETITIONS + 1):  # the first one compiles
            for way, (dynamics, cpu, wall) in runs.items():
                local.SMALL = way
                began = time.process_time(), time.perf_counter()
                dynamics.run(steps)
                if repetition:
                    cpu.append(1e3 * (time.process_time() - began[0]) / steps)
                    wall.append(1e3 * (time.perf_counter() - began[1]) / steps)
        local.SMALL = usual
        short, general = (float(np.median(cpu)) for _, cpu, _ in runs.values())
        print(f"| {name} | {short:.2f} | {general:.2f} | {general / short:.2f} | "
              f"{min(runs[usual][2]):.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
