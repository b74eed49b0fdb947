"""Other bases than the default's, and other choices of noise, by training structures left out.

    python benchmarks/accuracy/bases.py DATA_DIR --sets zuo2020-Si acetut-TiAl [--seed 11]
        [--bases default form ...] [--fixed-noise] [--tolerated 1.02 1.05 --gain 0.02]

A fifth of each *training* file is left out and predicted; test files play no part. Bases are the
default; terms with sparse points, which is the default of solids but for some compounds; one whole
quadratic form in their place, as molecules have it; those terms with the first or last as a whole
form; fewer of them, or one more. `--tolerated` and `--gain` change what the choice of noise may
lose, over all and of a config type, and what it must gain. Mean absolute errors over all labels,
of each config type too, and CPU seconds of the fit (no calibration).
"""

import argparse
import dataclasses
import os
import time
import unittest.mock
import warnings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from _tables import show

import kernelpot as kp
from kernelpot.fit import defaults, limits, noise, pipeline

HEADER = (
    "set", "basis", "energy [meV/atom]", "forces [meV/Å]", "of config types", "noise, and deltas",
    "fit [s]",
)  # fmt: skip


def whole_form(term, **changed):
    """All monomials of the second degree of the features of a term."""
    names = ("r_cut", "sigma_atom", "n_max", "l_max", "delta", "contraction", "n_channels")
    kept = {name: getattr(term, name) for name in names} | changed
    return kp.PolynomialSOAP(full=True, n_directions=200, **kept)


def as_molecules(terms, length):
    """The whole form of the rule of molecules."""
    cutoff, width = defaults.MOLECULE_CUTOFF * length, defaults.MOLECULE_WIDTH * length
    return whole_form(
        terms[-1], r_cut=round(cutoff, 3), sigma_atom=round(width, 4), n_max=6, l_max=4
    )


BASES = {
    "default": None,
    "sparse": lambda terms, _: terms,
    "form": lambda terms, length: [as_molecules(terms, length)],
    "first a form": lambda terms, _: [whole_form(terms[0]), *terms[1:]],
    "last a form": lambda terms, length: [*terms[:-1], as_molecules(terms, length)],
    "last two": lambda terms, _: terms[-2:],
    "last": lambda terms, _: terms[-1:],
    "finer": lambda terms, _: [
        dataclasses.replace(term, n_max=12, l_max=term.l_max + 2) for term in terms
    ],
    "one more": lambda terms, length: [
        dataclasses.replace(
            terms[0], r_cut=round(1.4 * length, 3), sigma_atom=round(0.12 * length, 4)
        ),
        *terms,
    ],
}


def split(path, seed):
    """Frames to fit to and frames left out, of a training file."""
    data = kp.read_dataset(path)
    order = np.random.default_rng(seed).permutation(len(data))
    n = len(data) // 5
    parts = (np.sort(order[n:]), np.sort(order[:n]))
    return tuple(kp.Dataset([data[int(k)] for k in part]) for part in parts)


def fitted(basis, train, fixed_noise):
    """A potential of the default settings with terms changed, deltas as free as the default's."""
    pot = kp.KernelPotential()
    options = {
        "optimize": None if fixed_noise else "loo", "calibrate": False, "self_test": False,
    }  # fmt: skip
    if BASES[basis] is None:
        return pot.fit(train, **options)
    rule = defaults.terms

    def terms(data, *arguments, **given):
        found, notes = rule(data, *arguments, **given)
        return BASES[basis](found, defaults.length_scale(data)[0]), notes

    with (
        unittest.mock.patch.object(defaults, "terms", terms),
        unittest.mock.patch.object(pipeline, "is_open", return_value=False),
    ):
        return pot.fit(train, **options)


def described(pot):
    """Noise and factors on deltas, as chosen."""
    record = pot.model.training.hyperparameters
    if record["method"] is None:
        return "as it starts"
    sigmas = [f"{after:.3g}" for _, after in record["sigmas"].values()]
    return ", ".join([*sigmas, *(f"x {factor:.3g}" for factor in record["delta_factors"])])


def main():
    """Print one row per set and basis."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--fixed-noise", action="store_true")
    parser.add_argument("--tolerated", nargs=2, type=float, metavar=("ALL", "TYPE"))
    parser.add_argument("--gain", type=float)
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.tolerated:
        limits.TOLERATED = dict(zip(limits.TOLERATED, arguments.tolerated, strict=True))
    if arguments.gain is not None:
        noise.WORTHWHILE_GAIN = arguments.gain
    rows = []
    for name in arguments.sets:
        train, left_out = split(os.path.join(arguments.data_dir, name, "train.xyz"), arguments.seed)
        for basis in arguments.bases:
            began = time.process_time()
            pot = fitted(basis, train, arguments.fixed_noise)
            seconds = time.process_time() - began
            errors = kp.evaluate(pot, left_out)
            kinds = ("energy_mae_mev_per_atom", "forces_mae_ev_per_ang")
            energy, forces = (errors[kind] for kind in kinds)
            of_types = "; ".join(
                f"{of_type} {group[kinds[0]]:.3g}, {1e3 * (group[kinds[1]] or 0.0):.4g}"
                for of_type, group in errors["by_config_type"].items()
            )
            rows.append([
                name, basis, f"{energy:.4g}", f"{1e3 * forces:.4g}", of_types, described(pot),
                f"{seconds:.0f}",
            ])  # fmt: skip
            print(*rows[-1], sep=" | ", flush=True)
    show(HEADER, rows, arguments.output)


if __name__ == "__main__":
    main()
