"""Errors with fixed noise, the evidence, and leaving one structure out.

    python benchmarks/accuracy/hyperparameters.py DATA_DIR

DATA_DIR holds ``zuo2020-Si/train.xyz``, ``zuo2020-Si/test.xyz`` and so on. The last rows
start the search from sigmas that are wrong by a factor of ten either way. With
``--validation`` a fifth of the training file stands in for the test file: whatever is
decided about the search is decided on that.
"""

import argparse
import os
import sys
import time
from unittest import mock

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from _sets import load
from _tables import show

import kernelpot as kp
from kernelpot.fit import defaults

# method, and factors on the default sigmas of energy, forces and stress
CASES = {
    "defaults": (None, (1, 1, 1)),
    "evidence": ("evidence", (1, 1, 1)),
    "leave one out": ("loo", (1, 1, 1)),
    "from E x 10, F / 10, S / 10": ("loo", (10, 0.1, 0.1)),
    "from E / 10, F x 10, S x 10": ("loo", (0.1, 10, 10)),
}


def row(name, train, test, n_sparse):
    """Fit one case and evaluate it."""
    method, factors = CASES[name]
    start = time.perf_counter()
    with (
        mock.patch.object(defaults, "SIGMA_ENERGY", factors[0] * defaults.SIGMA_ENERGY),
        mock.patch.object(defaults, "FORCES_SHARE", factors[1] * defaults.FORCES_SHARE),
        mock.patch.object(defaults, "SIGMA_STRESS", factors[2] * defaults.SIGMA_STRESS),
    ):
        pot = kp.KernelPotential(n_sparse=n_sparse).fit(train, optimize=method, calibrate=False)
    wall = time.perf_counter() - start
    noise = pot.fitted_.noise
    errors = kp.evaluate(pot, test)
    stress = errors["stress_mae_gpa"]
    return [
        name,
        f"{errors['energy_mae_mev_per_atom']:.2f}",
        f"{errors['forces_mae_ev_per_ang']:.4f}",
        "-" if stress is None else f"{stress:.3f}",
        f"{1e3 * noise.sigma_energy:.2g}",
        f"{noise.sigma_forces:.2g}",
        f"{noise.sigma_stress:.2g}",
        f"{wall:.0f}",
    ]


def main():
    """Print one row per element and case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--elements", nargs="+", default=["Si", "Mo", "Cu"])
    parser.add_argument("--n-sparse", type=int, help="sparse points per term")
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    header = [
        "element", "noise by", "E MAE [meV/atom]", "F MAE [eV/Å]", "stress MAE [GPa]",
        "sigma E [meV/atom]", "sigma F [eV/Å]", "sigma S [eV/Å^3]", "fit [s]",
    ]  # fmt: skip
    rows = []
    for element in arguments.elements:
        train, test = load(arguments.data_dir, element, arguments.validation)
        rows += [[element, *row(name, train, test, arguments.n_sparse)] for name in CASES]
    show(header, rows, arguments.output)


if __name__ == "__main__":
    main()
