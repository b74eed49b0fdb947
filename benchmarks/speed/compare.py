"""Cost of one evaluation against dscribe's descriptor alone, in one run.

    python benchmarks/speed/compare.py [--atoms 512 4096]

CPU time of one thread, medians of alternating repetitions: energy, forces and stress of
rattled silicon, neighbor list included, against `dscribe.descriptors.SOAP.create` for the
same descriptor (features only). Weights of the sparse points are random: the cost does
not depend on them.
"""

import argparse
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase.build import bulk

from kernelpot.data.neighbors import neighbor_list
from kernelpot.data.system import System
from kernelpot.fit.defaults import CONTRACTION, MAX_CHANNELS
from kernelpot.gp.blocks import BoundTerm, Points
from kernelpot.gp.design import Design
from kernelpot.gp.local import LocalModel
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.safety.gate import PessimisticEnergies
from kernelpot.safety.thresholds import KAPPA, RELATIVE_WIDTH, SafetyNet
from kernelpot.terms.power_spectrum import SOAP
from kernelpot.terms.soap import SOAPTerm

SPECIES = (14,)
# Local std up to which atoms count as known: above all there are, below all there are [eV].
ALL_KNOWN, NONE_KNOWN = np.full(1, 30.0), np.full(1, 1e-6)


def crystal(n_atoms):
    """Rattled diamond silicon with about n_atoms atoms."""
    repeat = max(1, round((n_atoms / 8) ** (1 / 3)))
    atoms = bulk("Si", cubic=True).repeat(repeat)
    atoms.positions += 0.1 * np.random.default_rng(0).normal(size=atoms.positions.shape)
    return atoms


def default_terms():
    """The two default terms of silicon (volume per atom 20.4 Å^3)."""
    channels = {"contraction": CONTRACTION, "n_channels": MAX_CHANNELS}
    return [
        SOAPTerm(r_cut=4.785, sigma_atom=0.3965, l_max=6, zeta=2, **channels),
        SOAPTerm(r_cut=7.109, sigma_atom=0.6016, l_max=8, zeta=3, **channels),
    ]


def model(terms, n_sparse):
    """A model with sparse points from rattled silicon and random weights."""
    rng = np.random.default_rng(1)
    source = bulk("Si", cubic=True).repeat(max(3, round((n_sparse / 8) ** (1 / 3)) + 1))
    source.positions += 0.25 * rng.normal(size=source.positions.shape)
    bound = [
        BoundTerm.of(term, SPECIES, term.learned(SPECIES, [source])[0] or None) for term in terms
    ]
    points = []
    for t, term in enumerate(bound):
        system = System.of([source], term.descriptor.r_cut)
        features = term.descriptor.environments(system, slice(0, n_sparse)).x
        points.append(Points(t, SPECIES, term.kernel.embed(features)[0]))
    design = Design.of(SPECIES, bound, points)
    posterior_factor = 0.01 * np.eye(design.layout.size)
    variance = LocalVariance.of([block.T for block in design.blocks], posterior_factor)
    return LocalModel(design, rng.normal(size=design.n_sparse), {0: variance})


def predictor(local, atoms, *, variance=False, known=None):
    """A function that does one whole evaluation from positions.

    `known`: local std up to which atoms count as known; where it is far above that of all of
    them, upper bounds of the variance from a fifth of the sparse points do.
    """
    one = np.ones(1)
    net = SafetyNet(one, RELATIVE_WIDTH * one, 0.0 * one, 0.0 * one, {}, one, one)

    def evaluate():
        system = System.of([atoms], local.r_cut)
        blend = None
        if known is not None:
            z_index = system.z_index(SPECIES)
            blend = PessimisticEnergies(net, z_index, known, KAPPA, None)
        found = local.evaluate(system, variance=variance, blend=blend)
        return found.energies.sum(), system.forces(found.result), system.virials(found.result)

    return evaluate


def descriptors(local, atoms):
    """A function that has dscribe compute the features of every term."""
    found = [SOAP(term.term, SPECIES) for term in local.terms]
    return lambda: [soap.create(atoms) for soap in found]


def measure(candidates, n_atoms, repetitions):
    """Median CPU microseconds per atom of each function, called in turn."""
    for function in candidates.values():
        function()
    times = {name: [] for name in candidates}
    for _ in range(repetitions):
        for name, function in candidates.items():
            began = time.process_time()
            function()
            times[name].append(time.process_time() - began)
    return {name: 1e6 * float(np.median(t)) / n_atoms for name, t in times.items()}


def main():
    """Print one table per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    plain = {"r_cut": 5.0, "n_max": 8, "l_max": 8, "sigma_atom": 0.5}
    one = {zeta: model([SOAPTerm(**plain, zeta=zeta)], 1000) for zeta in (2, 4)}
    default = model(default_terms(), 1000)
    for n in arguments.atoms:
        atoms = crystal(n)
        table = {
            "dscribe create, n_max = l_max = 8, r_cut 5 Å": descriptors(one[2], atoms),
            "neighbor list, 5 Å": lambda a=atoms: neighbor_list(a, 5.0),
            "zeta 2": predictor(one[2], atoms),
            "zeta 2 with local std": predictor(one[2], atoms, variance=True),
            "zeta 2 with bounds of the std (gated, all atoms known)": predictor(
                one[2], atoms, known=ALL_KNOWN
            ),
            "zeta 2 with std and its gradient (gated, no atom known)": predictor(
                one[2], atoms, known=NONE_KNOWN
            ),
            "zeta 4": predictor(one[4], atoms),
            "zeta 4 with local std": predictor(one[4], atoms, variance=True),
            "dscribe create, the two default descriptors": descriptors(default, atoms),
            "default two-term model": predictor(default, atoms),
            "default two-term model with local std": predictor(default, atoms, variance=True),
            "default two-term model, gated, all atoms known": predictor(
                default, atoms, known=ALL_KNOWN
            ),
        }
        found = measure(table, len(atoms), arguments.repetitions)
        print(f"\n{len(atoms)} atoms of Si, 1,000 sparse points per term, one thread\n")
        print("| energy, forces, stress unless said otherwise | CPU us/atom | ratio to dscribe |")
        print("|---|---|---|")
        reference = 1.0
        for name, value in found.items():
            reference = value if name.startswith("dscribe") else reference
            print(f"| {name} | {value:.1f} | {value / reference:.2f} |")


if __name__ == "__main__":
    main()
