"""Cost of a step of molecular dynamics of one small molecule, in one run.

    python benchmarks/speed/molecule.py [--steps 200] [--monomials 3000] [--model FILE]

A whole quadratic form of the shipped ethanol, or any model of ethanol. Wall-clock milliseconds of
a step of VelocityVerlet of nine atoms, ASE's work included, with the safety net and without: the
shortest and the median of ten runs, for on a machine that does other things too the median tells
of these. Here it is the calls of Python and the bytes of the maps that count, not operations.
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
    for name, gate in (("with the safety net", kp.VarianceGate(on_gate=None)), ("without", None)):
        atoms = molecule.copy()
        thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
        atoms.calc = potential.calculator(n_threads=1, gate=gate)
        dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
        dynamics.run(20)
        found = []
        for _ in range(REPETITIONS):
            began = time.perf_counter()
            dynamics.run(arguments.steps // REPETITIONS)
            found.append(1e3 * (time.perf_counter() - began) / (arguments.steps // REPETITIONS))
        print(f"{name}: {min(found):.2f} ms per step at best, {np.median(found):.2f} median")


if __name__ == "__main__":
    main()
