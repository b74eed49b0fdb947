"""Where the time of an evaluation goes, against what the machine can do.

    python benchmarks/speed/roofline.py [--atoms 4096]

One thread. The machine: rate of dgemm, of multiply-adds in a compiled loop over an array in
the nearest cache, and of copying memory that fits no cache. The engine, stage by stage, for
rattled silicon with n_max = l_max = 8, r_cut 5 Å: floating-point operations and bytes to or
from memory counted from the algorithm (below), time measured, and the share of the rate that
bounds the stage (the faster of the two rates, or the memory).

Counted per pair, with L = (l_max + 1)^2 harmonics and N = n_max radial functions:
expansion 6 N (l_max + 1) (cubic tables) + 8 L (harmonics) + 2 N L (sum); pair gradients
12 N (l_max + 1) (value and slope) + 26 L (harmonics with gradients, sum over
directions) + 4 N L. Per atom: power spectrum N (N + 1) L, its adjoint twice that;
quadratic map 2 F^2, direct kernel 4 F M with F features and M sparse points.
"""

import argparse
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numba
import numpy as np
from compare import crystal, model

from kernelpot.data.neighbors import neighbor_list
from kernelpot.terms.dot_product import normalize
from kernelpot.terms.soap import SOAPTerm

BATCH = 128


def best(function, repetitions=5):
    """Shortest CPU seconds of several calls."""
    function()
    times = []
    for _ in range(repetitions):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)


@numba.njit(fastmath={"reassoc", "contract", "nsz", "arcp"})  # as the package: NaN stays NaN
def multiply_adds(rounds, a, b, x):
    """``x = a x + b`` over a short array, again and again."""
    for _ in range(rounds):
        for i in range(x.shape[0]):
            x[i] = a * x[i] + b
    return x[0]


def machine():
    """Rates of dgemm and multiply-adds [GFLOP/s], and of copying [GB/s]."""
    n = 1000
    a, b = np.random.default_rng(0).normal(size=(2, n, n))
    dgemm = 2 * n**3 / best(lambda: a @ b) / 1e9
    x = np.ones(64)
    rounds = 2_000_000
    fma = 2 * 64 * rounds / best(lambda: multiply_adds(rounds, 0.5, 0.5, x), 3) / 1e9
    source = np.ones(30_000_000)
    target = np.empty_like(source)
    copy = 2 * source.nbytes / best(lambda: np.copyto(target, source)) / 1e9
    return dgemm, fma, copy


def stages(atoms, n_sparse):
    """Seconds of each stage over all atoms, in batches as the engine has them."""
    term = SOAPTerm(r_cut=5.0, n_max=8, l_max=8, sigma_atom=0.5, zeta=2)
    local = model([term], n_sparse)
    soap = local.terms[0].descriptor.soap
    points = np.ascontiguousarray(local.design.blocks[0].points)
    n = len(atoms)
    z_index = np.zeros(n, dtype=np.int64)
    pairs = neighbor_list(atoms, 5.0)
    displacements = pairs.displacements(atoms.positions)
    batch = soap.pairs(pairs.first, pairs.neighbors, displacements, z_index)
    runs = [(s, min(s + BATCH, n)) for s in range(0, n, BATCH)]
    coefficients = [soap.expansion(batch, *run) for run in runs]
    features = [soap.features(c) for c in coefficients]
    units = [normalize(f)[0] for f in features]
    quadratic = points.T @ points
    gradient = np.zeros((pairs.n_pairs, 3))
    direct = local.terms[0].kernel

    def each(function):
        return lambda: [function(k, *run) for k, run in enumerate(runs)]

    def kernel(k, start, stop):
        similarity = direct.similarity(units[k], points)
        return direct.mean_and_slopes(similarity, local.weights)[1] @ points

    timed = {
        "neighbor list": best(lambda: neighbor_list(atoms, 5.0)),
        "expansion": best(each(lambda k, a, b: soap.expansion(batch, a, b))),
        "power spectrum": best(each(lambda k, a, b: soap.features(coefficients[k]))),
        "quadratic map (zeta 2)": best(each(lambda k, a, b: units[k] @ quadratic)),
        "direct kernel": best(each(kernel)),
        "adjoint and pair gradients": best(
            each(
                lambda k, a, b: soap.pair_gradients(
                    batch, a, b, coefficients[k], features[k], gradient
                )
            )
        ),
    }
    return timed, pairs.n_pairs / n, soap.n_features


def main():
    """Print the machine's rates and one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, default=4096)
    parser.add_argument("--sparse", type=int, default=1000)
    arguments = parser.parse_args()
    dgemm, fma, copy = machine()
    print(f"dgemm {dgemm:.0f} GFLOP/s, multiply-adds {fma:.0f} GFLOP/s, copy {copy:.1f} GB/s\n")
    atoms = crystal(arguments.atoms)
    timed, neighbors, F = stages(atoms, arguments.sparse)
    N, degrees, L, M = 8, 9, 81, arguments.sparse
    spectrum = N * (N + 1) * L
    flops = {
        "expansion": neighbors * (6 * N * degrees + 8 * L + 2 * N * L),
        "power spectrum": spectrum,
        "quadratic map (zeta 2)": 2 * F**2,
        "direct kernel": 4 * F * M,
        "adjoint and pair gradients": 2 * spectrum
        + neighbors * (12 * N * degrees + 26 * L + 4 * N * L),
    }
    # pairs: displacement, channel, weight, index in; gradient in and out
    memory = {
        "neighbor list": neighbors * 8 * 4,
        "expansion": neighbors * 8 * 5,
        "power spectrum": 0,
        "quadratic map (zeta 2)": 8 * F**2 / BATCH,
        "direct kernel": 16 * F * M / BATCH,
        "adjoint and pair gradients": neighbors * 8 * 11,
    }
    print(f"{len(atoms)} atoms, {neighbors:.0f} neighbors, {F} features, {M} sparse points\n")
    print("| stage | us/atom | kflop/atom | kB/atom | GFLOP/s | share of the bound |")
    print("|---|---|---|---|---|---|")
    for name, seconds in timed.items():
        us = 1e6 * seconds / len(atoms)
        kflop, kb = flops.get(name, 0) / 1e3, memory[name] / 1e3
        bound = max(kflop / max(dgemm, fma), kb / copy)  # us
        rate = f"{kflop / us:.1f}" if kflop else "-"
        share = f"{100 * bound / us:.0f} %" if kflop else "-"
        print(f"| {name} | {us:.2f} | {kflop:.1f} | {kb:.2f} | {rate} | {share} |")


if __name__ == "__main__":
    main()
