"""Cost of all potentials of a committee against that of one evaluation, in one run.

    python benchmarks/speed/members.py [--atoms 64] [--members 20]

CPU time of one thread, medians of alternating repetitions: energies, forces and virials of all
members by `kernelpot.gp.members`, and of their mean by `kernelpot.gp.local`, neighbor list
included in both. Rattled silicon with weights drawn at random: the cost does not depend on them.
"""

import argparse
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from compare import crystal, default_terms, model

from kernelpot.data.system import System
from kernelpot.gp.blocks import BoundTerm, Points
from kernelpot.gp.design import Design
from kernelpot.gp.local import LocalModel
from kernelpot.gp.members import Members
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.terms.polynomial import leading_monomials
from kernelpot.terms.polynomial_soap import PolynomialSOAP
from kernelpot.terms.soap import SOAPTerm


def random_quadratic(term, species, frames, n_columns):
    """A quadratic model on directions learned from some frames, with random weights."""
    bound = BoundTerm.of(term, species, term.learned(species, frames)[0])
    each = n_columns // len(species)
    points = [
        Points(0, (z,), leading_monomials(scales, term.degree)[0][:each])
        for z, scales in zip(species, bound.descriptor.scales, strict=True)
    ]
    design = Design.of(species, [bound], points)
    no_data = {
        k: LocalVariance.of([block.T], np.eye(len(block.points)))
        for k, block in enumerate(design.blocks)
    }
    return LocalModel(design, np.random.default_rng(1).normal(size=design.n_sparse), no_data)


def evaluation(local, atoms):
    """A function that evaluates the mean."""

    def evaluate():
        system = System.of([atoms], local.r_cut)
        found = local.evaluate(system)
        return found.energies.sum(), system.forces(found.result), system.virials(found.result)

    return evaluate


def committee(local, atoms, n):
    """A function that evaluates members."""
    deviations = np.random.default_rng(2).normal(size=(n, local.design.n_sparse))
    members = Members(local.design, deviations, local.weights)
    return lambda: members.evaluate(System.of([atoms], local.r_cut))


def main():
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, default=64)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    frames = [crystal(64) for _ in range(4)]
    for atoms in frames:
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    quadratic = PolynomialSOAP(r_cut=7.0, sigma_atom=0.5)
    models = {
        "two default terms, 1,000 sparse points each": model(default_terms(), 1000),
        "SOAP, zeta 2, 1,000 sparse points": model([SOAPTerm(r_cut=5.0)], 1000),
        "quadratic, 1,000 monomials": random_quadratic(quadratic, (14,), frames, 1000),
    }
    atoms = crystal(arguments.atoms)
    print(f"{len(atoms)} atoms of Si, {arguments.members} members, one thread\n")
    print("| model | one evaluation, CPU us/atom | all members | ratio |")
    print("|---|---|---|---|")
    for name, local in models.items():
        functions = evaluation(local, atoms), committee(local, atoms, arguments.members)
        times = [[], []]
        for function in functions:
            function()
        for _ in range(arguments.repetitions):
            for function, found in zip(functions, times, strict=True):
                began = time.process_time()
                function()
                found.append(time.process_time() - began)
        one, all_of_them = (1e6 * float(np.median(found)) / len(atoms) for found in times)
        print(f"| {name} | {one:.1f} | {all_of_them:.1f} | {all_of_them / one:.1f} |")


if __name__ == "__main__":
    main()
