"""Cost of an evaluation against the number of species, in one run.

    python benchmarks/speed/species.py [--atoms 256] [--species 1 2 4 10]

CPU time of one thread, medians of alternating repetitions: energy, forces and virial, neighbor
list included. One crystal with its atoms renamed at random, so that neighbors are as many
whatever the number of species; the default terms (two of one element, three of several) with
1,000 sparse points each, all species together, and channels contracted as by default, learned from
such crystals. Up to four species also without the contraction. Weights are random: the cost does
not depend on them. A last row has as many species in the model as the one before, and two of
them in the crystal.
"""

import argparse
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from compare import crystal
from members import evaluation

from kernelpot.data.system import System
from kernelpot.fit.defaults import COMPOUND, CONTRACTION, ELEMENT, MAX_CHANNELS
from kernelpot.gp.blocks import BoundTerm, Points
from kernelpot.gp.design import Design
from kernelpot.gp.local import LocalModel
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.terms.soap import SOAPTerm

ELEMENTS = (13, 14, 22, 23, 24, 25, 26, 27, 28, 29)
N_SPARSE = 1000


def alloy(n_atoms, numbers, seed=0):
    """A rattled crystal of silicon whose atoms are any of some species."""
    atoms = crystal(n_atoms)
    rng = np.random.default_rng(seed)
    atoms.numbers = rng.choice(numbers, len(atoms))
    atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    return atoms


def default_terms(n_species, length, contracted):
    """The default terms of so many species."""
    channels = {"contraction": CONTRACTION, "n_channels": MAX_CHANNELS} if contracted else {}
    return [
        SOAPTerm(
            r_cut=shape.cutoff * length,
            sigma_atom=shape.width * length,
            l_max=shape.l_max,
            zeta=shape.zeta,
            **channels,
        )
        for shape in (ELEMENT if n_species == 1 else COMPOUND)
    ]


def random_model(terms, species, frames):
    """A model with sparse points from some frames and random weights."""
    bound = [
        BoundTerm.of(term, species, term.learned(species, frames)[0] or None) for term in terms
    ]
    each = N_SPARSE // len(species)
    points = []
    for t, term in enumerate(bound):
        own = {z: np.empty((0, term.descriptor.n_features)) for z in species}
        seed = 0
        while any(len(u) < each for u in own.values()):
            atoms = alloy(64, species, seed)
            system = System.of([atoms], term.descriptor.r_cut)
            found = term.descriptor.environments(system, slice(0, len(atoms)))
            u, _ = term.kernel.embed(found.x)
            for k, z in enumerate(species):
                own[z] = np.concatenate([own[z], u[found.key == k]])
            seed += 1
        points += [Points(t, (z,), u[:each]) for z, u in own.items()]
    design = Design.of(species, bound, points)
    no_data = {}
    for k, z in enumerate(species):
        bases = [block.T for block in design.blocks if block.key == (z,)]
        no_data[k] = LocalVariance.of(bases, np.eye(sum(basis.shape[1] for basis in bases)))
    return LocalModel(design, np.random.default_rng(1).normal(size=design.n_sparse), no_data)


def main():
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, default=256)
    parser.add_argument("--species", type=int, nargs="+", default=[1, 2, 4, 10])
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    length = (crystal(64).get_volume() / len(crystal(64))) ** (1 / 3)
    functions = {}
    features = {}
    for n in arguments.species:
        numbers = ELEMENTS[:n]
        frames = [alloy(64, numbers, seed) for seed in range(2 * n)]
        for contracted in (True, False) if n <= 4 else (True,):
            local = random_model(default_terms(n, length, contracted), numbers, frames)
            name = str(n) if contracted else f"{n}, all channels"
            features[name] = [term.descriptor.n_features for term in local.terms]
            functions[name] = evaluation(local, alloy(arguments.atoms, numbers))
            if contracted:
                last = local
    if n > 2:
        functions[f"2 of {n}"] = evaluation(last, alloy(arguments.atoms, numbers[:2]))
        features[f"2 of {n}"] = features[str(n)]
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(arguments.repetitions):
        for name, function in functions.items():
            began = time.process_time()
            function()
            times[name].append(time.process_time() - began)
    n_atoms = len(crystal(arguments.atoms))
    print(f"{n_atoms} atoms, the default terms, {N_SPARSE:,} sparse points each, one thread\n")
    print("| species | features | CPU us/atom | ratio to the first |")
    print("|---|---|---|---|")
    reference = None
    for name, found in times.items():
        us = 1e6 * float(np.median(found)) / n_atoms
        reference = reference or us
        lengths = ", ".join(f"{number:,}" for number in features[name])
        print(f"| {name} | {lengths} | {us:.1f} | {us / reference:.2f} |")


if __name__ == "__main__":
    main()
