"""Cost of an evaluation against the number of species, in one run.

    python benchmarks/speed/species.py [--atoms 256] [--species 1 2 4 10]

CPU time of one thread, medians of alternating repetitions: energy, forces and virial, neighbor
list included. One crystal with its atoms renamed at random, so that neighbors are as many
whatever the number of species; quadratic models on directions learned from such crystals, with
features of all pairs of species ("off") up to four, and shared between them ("mu1nu1"). Weights
are random: the cost does not depend on them. A last row has as many species in the model as the
one before, and two of them in the crystal.
"""

import argparse
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from compare import crystal
from members import evaluation, random_quadratic

from kernelpot.terms.polynomial_soap import PolynomialSOAP

ELEMENTS = (13, 14, 22, 23, 24, 25, 26, 27, 28, 29)


def alloy(n_atoms, numbers, seed=0):
    """A rattled crystal of silicon whose atoms are any of some species."""
    atoms = crystal(n_atoms)
    atoms.numbers = np.random.default_rng(seed).choice(numbers, len(atoms))
    return atoms


def main():
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, default=256)
    parser.add_argument("--species", type=int, nargs="+", default=[1, 2, 4, 10])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--r-cut", type=float, default=6.0)
    arguments = parser.parse_args()
    functions = {}
    features = {}
    for n in arguments.species:
        numbers = ELEMENTS[:n]
        term = PolynomialSOAP(
            r_cut=arguments.r_cut, sigma_atom=0.5, compression="off" if n <= 4 else "mu1nu1"
        )
        frames = [alloy(64, numbers, seed) for seed in range(2 * n)]
        local = random_quadratic(term, numbers, frames, 1000 * n)
        descriptor = local.terms[0].descriptor
        name = f"{n}, {term.compression}"
        features[name] = descriptor.inner.n_features, descriptor.n_directions
        functions[name] = evaluation(local, alloy(arguments.atoms, numbers))
    if n > 2:
        functions[f"2 of {n}"] = evaluation(local, alloy(arguments.atoms, numbers[:2]))
        features[f"2 of {n}"] = features[name]
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(arguments.repetitions):
        for name, function in functions.items():
            began = time.process_time()
            function()
            times[name].append(time.process_time() - began)
    n_atoms = len(crystal(arguments.atoms))
    print(f"{n_atoms} atoms, r_cut {arguments.r_cut} Å, n_max 6, l_max 4, one thread\n")
    print("| species | features | directions | CPU us/atom | ratio to the first |")
    print("|---|---|---|---|---|")
    reference = None
    for name, found in times.items():
        us = 1e6 * float(np.median(found)) / n_atoms
        reference = reference or us
        print(f"| {name} | {features[name][0]} | {features[name][1]} | {us:.1f} | "
              f"{us / reference:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
