"""Linear and quadratic models of the power spectrum beside SNAP's published coefficients.

    python benchmarks/accuracy/snap.py DATA_DIR [--elements Si Cu] [--degrees 1 2]

On the official splits of Zuo et al. (J. Phys. Chem. A 124, 731, 2020), with the features that are
`PolynomialSOAP`'s default and with more, within the cutoffs that are published for GAP on these
sets, the default baseline, and noise and delta chosen by leaving structures out. Test files are
read once, by the finished model; errors are mean absolute ones. SNAP's are those of its published
coefficients on the same files.
"""

import argparse
import os
import time
import warnings
from itertools import product

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import kernelpot as kp

# r_cut of the published GAP [Å]; energy [meV/atom] and forces [eV/Å] of SNAP.
CUTOFFS = {"Ni": 3.9, "Cu": 4.1, "Li": 4.8, "Mo": 5.2, "Si": 5.4, "Ge": 5.4}
FEATURES = ((6, 4), (8, 6))
SNAP = {"Si": (6.44, 0.133), "Mo": (5.48, 0.207), "Li": (1.03, 0.0277), "Ge": (6.59, 0.188)}


def main():
    """Print one row per element and degree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--elements", nargs="+", default=["Si"], choices=list(CUTOFFS))
    parser.add_argument("--degrees", nargs="+", type=int, default=[1, 2], choices=(1, 2, 3))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    header = [
        "element", "degree", "n_max, l_max", "columns", "E MAE [meV/atom]", "F MAE [eV/Å]",
        "fit [CPU s]", "µs/atom",
    ]  # fmt: skip
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header), flush=True)
    for element in arguments.elements:
        folder = os.path.join(arguments.data_dir, f"zuo2020-{element}")
        train, test = (kp.read_dataset(os.path.join(folder, f"{p}.xyz")) for p in ("train", "test"))
        if element in SNAP:
            energy, forces = SNAP[element]
            print(f"| {element} | SNAP | - | - | {energy} | {forces} | - | - |", flush=True)
        for degree, (n_max, l_max) in product(arguments.degrees, FEATURES):
            start = time.process_time()
            term = kp.PolynomialSOAP(
                r_cut=CUTOFFS[element], degree=degree, n_max=n_max, l_max=l_max
            )
            pot = kp.KernelPotential([term]).fit(train, calibrate=False, self_test=False)
            seconds, start = time.process_time() - start, time.process_time()
            e = kp.evaluate(pot, test)
            cost = 1e6 * (time.process_time() - start) / sum(map(len, test))
            cells = [
                element,
                str(degree),
                f"{n_max}, {l_max}",
                str(pot.model.design.n_sparse),
                f"{e['energy_mae_mev_per_atom']:.2f}",
                f"{e['forces_mae_ev_per_ang']:.4f}",
                f"{seconds:.0f}",
                f"{cost:.0f}",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
