"""Cost of all potentials of a committee against that of one evaluation, in one run.

    python benchmarks/speed/members.py [--atoms 64 512] [--members 20]

CPU time of one thread, medians of alternating repetitions: energies, forces and virials of all
members (a mean and what each deviates by) by `kernelpot.gp.members`, and of their mean by
`kernelpot.gp.local`, neighbor list included in both. Rattled silicon with weights drawn at
random: the cost does not depend on them.

The bound is one evaluation and the products with matrices that are done for each member, at the
rates that large square ones reach in the same run (sgemm, dgemm): by features of an environment
from its features (or from what these are made of), and by displacements from those, 6 F M for
each pair of F features and M members.
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
from kernelpot.terms.compression import CompressedDescriptor
from kernelpot.terms.polynomial import leading_monomials
from kernelpot.terms.polynomial_soap import PolynomialSOAP
from kernelpot.terms.several_means import QuadraticMeans
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


def committee(local, n):
    """All members."""
    deviations = np.random.default_rng(2).normal(size=(n, local.design.n_sparse))
    return Members(local.design, deviations, local.weights)


def rate(dtype):
    """Floating-point operations of a product of large matrices per CPU second."""
    n = 1000
    a, b = np.random.default_rng(0).normal(size=(2, n, n)).astype(dtype)
    times = []
    for _ in range(6):
        began = time.process_time()
        a @ b
        times.append(time.process_time() - began)
    return 2 * n**3 / min(times)


def products(members, atoms):
    """Floating-point operations in single and in double precision per atom, as they are done."""
    single = double = 0.0
    n, system = len(members), System.of([atoms], members.design.r_cut)
    for term in members.design.terms:
        descriptor = term.descriptor
        n_features = descriptor.n_features
        if isinstance(descriptor, CompressedDescriptor):
            single += 2 * n * descriptor.n_directions * descriptor.inner.n_features
            n_features = descriptor.inner.n_features
        n_pairs = np.count_nonzero(system.distances < descriptor.r_cut) / len(atoms)
        single += 6 * n_pairs * n_features * n
    for means in members._several.values():
        if isinstance(means, QuadraticMeans):
            single += 2 * means.matrices.size
            continue
        double += 2 * sum(part.size for part in means.inverse)
        for components, blocks in means.chunks:
            single += 2 * (sum(block.size for block in blocks) + n * components.size)
    return single, double


def main():
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, nargs="+", default=[64])
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
    single, double = rate(np.float32), rate(np.float64)
    print(f"Si, {arguments.members} members, one thread; CPU us per atom\n")
    print("| model | atoms | one evaluation | all members | ratio | bound of the ratio |")
    print("|---|---|---|---|---|---|")
    for n_atoms in arguments.atoms:
        atoms = crystal(n_atoms)
        for name, local in models.items():
            members = committee(local, arguments.members)
            functions = (
                evaluation(local, atoms),
                lambda m=members, a=atoms: m.evaluate(System.of([a], m.design.r_cut)),
            )
            times = [[], []]
            for function in functions:
                function()
            for _ in range(arguments.repetitions):
                for function, found in zip(functions, times, strict=True):
                    began = time.process_time()
                    function()
                    found.append(time.process_time() - began)
            one, all_of_them = (1e6 * float(np.median(found)) / len(atoms) for found in times)
            of_single, of_double = products(members, atoms)
            bound = 1.0 + 1e6 * (of_single / single + of_double / double) / one
            print(
                f"| {name} | {len(atoms)} | {one:.1f} | {all_of_them:.1f} "
                f"| {all_of_them / one:.1f} | {bound:.1f} |"
            )


if __name__ == "__main__":
    main()
