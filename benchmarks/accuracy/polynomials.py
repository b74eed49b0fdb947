"""Polynomials of compressed SOAP beside the defaults: errors, cost of the fit and of an atom.

    python benchmarks/accuracy/polynomials.py DATA_DIR --sets rmd17-ethanol 3bpa Si
    python benchmarks/accuracy/polynomials.py DATA_DIR --sets 3bpa --frames 10 20 50 \
        --models default "sparse points"

A fifth of the training file is the test, and the test file is not opened; with ``--test`` it is,
once, by the models named. The default of molecules is a whole form: "sparse points" are the three
terms of compounds. ``--frames`` are drawn at random, free atoms in addition. ``--uncertainty``
adds the share of force components within their 95 % intervals. Times are those of the processor.
"""

import argparse
import os
import sys
import time
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
from _sets import load
from _tables import show

import kernelpot as kp
from kernelpot.baseline.free_atoms import atomic_energies
from kernelpot.fit import defaults

# Reach and width: the range at which errors of training frames left out stop falling.
MOLECULE = {"r_cut": 6.0, "sigma_atom": 0.45, "n_max": 6, "l_max": 4}
SHAPES = {
    "rmd17-ethanol": MOLECULE,
    "3bpa": {**MOLECULE, "r_cut": 5.0},
    None: {"r_cut": 6.0, "sigma_atom": 0.5, "n_max": 8, "l_max": 6},
}
MODELS = ["default", "linear", "columns", "cubic", "whole form"]
HEADER = [
    "data", "model", "trained on", "group", "frames", "E MAE [meV]", "E RMSE", "F MAE [meV/Å]",
    "F RMSE", "within 95 %", "columns", "fit [CPU s]", "us/atom",
]  # fmt: skip


def models(name, train):
    """Terms by their name in the table; None for the defaults."""
    shape = SHAPES.get(name, SHAPES[None])
    length, _ = defaults.length_scale(train)
    delta = max(1.0, defaults.energy_scale(train, atomic_energies(train)))
    return {
        "default": None,
        "sparse points": [
            kp.SOAPTerm(
                r_cut=own.cutoff * length,
                sigma_atom=own.width * length,
                l_max=own.l_max,
                zeta=own.zeta,
                delta=delta,
            )
            for own in defaults.COMPOUND
        ],
        "linear": [kp.PolynomialSOAP(degree=1, **shape)],
        "columns": [kp.PolynomialSOAP(**shape)],
        "cubic": [kp.PolynomialSOAP(degree=3, **shape)],
        "whole form": [kp.PolynomialSOAP(full=True, **shape)],
    }


def some(train, n):
    """Frames drawn at random, and free atoms; all where no number is given."""
    if n is None:
        return train
    bound = [frame for frame in train if not frame.is_isolated_atom]
    chosen = np.random.default_rng(0).permutation(len(bound))[:n]
    free = [frame for frame in train if frame.is_isolated_atom]
    return kp.Dataset([*free, *(bound[k] for k in sorted(chosen))])


def measure(name, label, terms, train, test, uncertainty):
    """Rows of the table for one model."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pot = kp.KernelPotential(terms).fit(train, self_test=False)
    fit = time.process_time() - started
    frames = [frame.atoms for frame in test]
    list(pot.predict_many(frames[:20]))
    started = time.process_time()
    list(pot.predict_many(frames))
    each = (time.process_time() - started) / sum(map(len, frames))
    errors = kp.evaluate(pot, test, uncertainty=uncertainty)
    molecules = name in SHAPES
    rows = []
    for group, e in {**errors["by_config_type"], "all": errors}.items():
        size = e["n_atoms"] / e["n_structures"] if molecules else 1.0

        def number(key, scale, digits, e=e):
            return "-" if e[key] is None else f"{scale * e[key]:.{digits}f}"

        inside = e["uncertainty"]["forces"]["coverage_95"] if uncertainty else None
        rows.append(
            [
                name,
                label,
                str(len(train)),
                group,
                str(e["n_structures"]),
                number("energy_mae_mev_per_atom", size, 2),
                number("energy_rmse_mev_per_atom", size, 2),
                number("forces_mae_ev_per_ang", 1e3, 2),
                number("forces_rmse_ev_per_ang", 1e3, 1),
                "-" if inside is None else f"{100 * inside:.1f}",
                str(pot.model.design.n_sparse),
                f"{fit:.0f}",
                f"{1e6 * each:.0f}",
            ]
        )
    return rows


def main():
    """Print one row per data set, model and config type."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--sets", nargs="+", default=["rmd17-ethanol", "3bpa", "Si", "Mo", "Cu"])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--frames", nargs="+", type=int, default=[None], help="of the training")
    parser.add_argument("--test", action="store_true", help="open the test file")
    parser.add_argument("--uncertainty", action="store_true")
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.sets:
        whole, test = load(arguments.data_dir, name, validation=not arguments.test)
        for n in arguments.frames:
            train = some(whole, n)
            for label in arguments.models:
                terms = models(name, train)[label]
                rows += measure(name, label, terms, train, test, arguments.uncertainty)
    show(HEADER, rows, arguments.output)


if __name__ == "__main__":
    main()
