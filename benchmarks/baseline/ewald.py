"""Cost and error of the Ewald sum: rattled rock salt of growing size.

    python benchmarks/baseline/ewald.py [--accuracy 1e-8] [--largest 10]

Times are the best of three on one core; the exponent is that of the time between a size
and the one before. Errors are against the same sum at accuracy 1e-14.
"""

import argparse
import time
import tracemalloc

import numpy as np
from ase.build import bulk

from kernelpot.baseline.coulomb import DAMPING_REACH, periodic_sum, splitting


def main():
    """Print one row per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accuracy", type=float, default=1e-8)
    parser.add_argument("--largest", type=int, default=10, help="cells along each edge")
    arguments = parser.parse_args()
    widths = np.full((2, 2), 0.75)
    header = (
        "atoms", "r_real [Å]", "k_max [1/Å]", "time [ms]", "exponent", "peak memory [MB]",
        "relative energy error", "largest force error [e^2/Å^2]",
    )  # fmt: skip
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    previous, sizes, costs = None, [], []
    for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 14):
        if n > arguments.largest:
            break
        atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(n)
        atoms.rattle(0.1, seed=1)
        charges = np.where(atoms.numbers == 11, 1.0, -1.0)
        kinds = (atoms.numbers == 17).astype(np.int64)
        system = atoms.positions, atoms.cell.array, charges, kinds, widths
        if n == 1:
            periodic_sum(*system)  # compile
        tracemalloc.start()
        found = periodic_sum(*system, accuracy=arguments.accuracy)
        memory = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        times = []
        for _ in range(3):
            began = time.perf_counter()
            periodic_sum(*system, accuracy=arguments.accuracy)
            times.append(time.perf_counter() - began)
        exact = periodic_sum(*system, accuracy=1e-14)
        energy = exact.energies.sum()
        split = splitting(
            len(atoms),
            atoms.get_volume(),
            arguments.accuracy,
            r_min=DAMPING_REACH * widths.max(),
        )
        exponent = "-"
        if previous is not None:
            exponent = f"{np.log(min(times) / previous[1]) / np.log(len(atoms) / previous[0]):.2f}"
        previous = len(atoms), min(times)
        if len(atoms) >= 200:
            sizes.append(len(atoms))
            costs.append(min(times))
        row = (
            str(len(atoms)),
            f"{split.r_real:.1f}",
            f"{split.k_max:.2f}",
            f"{1e3 * min(times):.1f}",
            exponent,
            f"{memory:.1f}",
            f"{abs(found.energies.sum() - energy) / abs(energy):.1e}",
            f"{np.abs(found.forces - exact.forces).max():.1e}",
        )
        print("| " + " | ".join(row) + " |", flush=True)
    if len(sizes) > 1:
        slope = np.polyfit(np.log(sizes), np.log(costs), 1)[0]
        print(f"\ntime grows as N^{slope:.2f} from {sizes[0]} to {sizes[-1]} atoms")


if __name__ == "__main__":
    main()
