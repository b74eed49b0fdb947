"""What contracting the density does to errors, times and the number of features.

    python benchmarks/accuracy/contraction.py DATA_DIR [--sets acetut-TiAl ...] [--seed 5]

A fifth of each *training* file is left out and predicted; test files play no part. The default
terms with all channels, and contracted down to some shares of the density, with and without a
bound of the channels of a degree; 500 sparse points per term (molecules: whole forms of 250
frames), noise as it starts. Mean absolute errors, CPU seconds of the fit (no calibration), and CPU
microseconds per atom of an evaluation of the largest structure left out.
"""

import argparse
import dataclasses
import os
import sys
import time
import warnings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "speed"))

from _tables import show
from members import evaluation

import kernelpot as kp
from kernelpot.fit.problem import prepare
from kernelpot.fit.settings import Settings

SETS = ("zuo2020-Si", "zuo2020-Mo", "zuo2020-Cu", "acetut-TiAl", "gpumd-PbTe", "rmd17-ethanol")
# Share left out, and channels of a degree at most.
TRIED = ((None, None), (1e-3, None), (1e-4, None), (1e-5, None), (1e-6, None), (1e-7, None),
         (1e-7, 8), (1e-7, 12))  # fmt: skip
# Frames of molecules that are fitted to, and predicted.
FEW, LEFT_OUT = 250, 150
HEADER = (
    "set", "share", "channels", "features", "energy [meV/atom]", "forces [eV/Å]", "fit [s]",
    "us/atom",
)  # fmt: skip


def split(path, seed):
    """Frames to fit to and frames left out, of a training file."""
    data = kp.read_dataset(path)
    free = [f for f in data if len(f) == 1]
    bound = [f for f in data if len(f) > 1]
    order = np.random.default_rng(seed).permutation(len(bound))
    n, last = len(bound) // 5, len(bound)
    if not any(f.atoms.pbc.any() for f in bound):
        n, last = min(n, LEFT_OUT), min(n, LEFT_OUT) + FEW
    train = [bound[k] for k in np.sort(order[n:last])]
    return kp.Dataset(free + train), kp.Dataset([bound[k] for k in np.sort(order[:n])])


def main():
    """Print one row per set and contraction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in arguments.sets:
        train, left_out = split(os.path.join(arguments.data_dir, name, "train.xyz"), arguments.seed)
        terms = prepare(train, Settings()).terms
        largest = max((f.atoms for f in left_out), key=len)
        for share, n_channels in TRIED:
            changed = [
                dataclasses.replace(
                    term,
                    contraction=share,
                    n_channels=n_channels,
                    n_sparse=None if getattr(term, "full", False) else 500,
                )
                for term in terms
            ]
            began = time.process_time()
            pot = kp.KernelPotential(terms=changed).fit(train, optimize=None, calibrate=False)
            fit = time.process_time() - began
            errors = kp.evaluate(pot, left_out)
            evaluate, times = evaluation(pot.model.local, largest), []
            for _ in range(8):
                began = time.process_time()
                evaluate()
                times.append(time.process_time() - began)
            features = [
                getattr(term.descriptor, "inner", term.descriptor).n_features
                for term in pot.model.local.terms
            ]
            rows.append([
                name, "all" if share is None else f"{share:g}", n_channels or "",
                ", ".join(map(str, features)), f"{errors['energy_mae_mev_per_atom']:.3f}",
                f"{errors['forces_mae_ev_per_ang']:.5f}", f"{fit:.0f}",
                f"{1e6 * np.median(times[1:]) / len(largest):.0f}",
            ])  # fmt: skip
            print(*rows[-1], sep=" | ", flush=True)
    show(HEADER, rows, arguments.output)


if __name__ == "__main__":
    main()
