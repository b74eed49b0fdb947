"""Pairs and triplets as splines: cost per atom against sparse points, and their error.

    python benchmarks/speed/pairs_and_triplets.py

Silicon of the shipped data, cutoff 3.5 Å; forces of a rattled crystal of 1,728 atoms without
the safety net, on one thread. Seconds are of the process, the best of three.
"""

import time

import numpy as np
from ase.build import bulk

import kernelpot as kp
from kernelpot.datasets import load_silicon

R_CUT, STEP = 3.5, 0.1


def microseconds(pot, atoms):
    """CPU time of an evaluation of energy, forces and stress, per atom."""
    pot.predict(atoms, n_threads=1)
    times = []
    for _ in range(3):
        start = time.process_time()
        pot.predict(atoms, n_threads=1)
        times.append(time.process_time() - start)
    return 1e6 * min(times) / len(atoms)


def main():
    """Print one row for each number of sparse points."""
    train, test = load_silicon("train"), load_silicon("test")
    atoms = bulk("Si", cubic=True).repeat(6)
    atoms.rattle(0.05, seed=0)
    print(
        "| triplets' sparse points | by the kernel [us/atom] | by splines [us/atom] | stated error "
        "[eV/triplet] | energy apart [meV/atom] | forces apart [meV/Å] | F RMSE test [eV/Å] |"
    )
    print("|" + "---|" * 7)
    for n_sparse in (100, 200, 400):
        pots = []
        for step in (None, STEP):
            terms = [
                kp.PairTerm(r_cut=R_CUT, n_sparse=30),
                kp.TripletTerm(r_cut=R_CUT, n_sparse=n_sparse, spline_step=step),
            ]
            pot = kp.KernelPotential(terms, baseline=[])
            pots.append(pot.fit(train, calibrate=False, self_test=False))
        exact, tabulated = (pot.predict(atoms) for pot in pots)
        rmse = kp.evaluate(pots[1], test)["forces_rmse_ev_per_ang"]
        costs = [microseconds(pot, atoms) for pot in pots]
        print(
            f"| {n_sparse} | {costs[0]:.1f} | {costs[1]:.1f} "
            f"| {pots[1].model.local.spline_error(1):.1e} "
            f"| {1e3 * abs(exact.energy - tabulated.energy) / len(atoms):.1e} "
            f"| {1e3 * np.abs(exact.forces - tabulated.forces).max():.1e} | {rmse:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
