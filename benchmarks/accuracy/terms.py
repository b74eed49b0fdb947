"""Each kind of term alone, and pairs + triplets + SOAP: errors, features, time, memory.

    python benchmarks/accuracy/terms.py DATA_DIR [--sets rmd17-ethanol ...] [--frames 100]

Every row is one fit in a process of its own, to the first `--frames` structures of the training
file (evenly chosen): errors of structures left out one at a time (as the fit finds them, in closed
form) and of the test file, on which nothing was chosen. Costs are CPU seconds of the fit,
microseconds per atom of predicting the test file, and the peak memory of the process. With
`--keep` each row is written to a file of that folder, and taken from there the next time.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import kernelpot as kp

SETS = ("rmd17-ethanol", "zuo2020-Si", "zuo2020-Cu", "acetut-TiAl")
TEST_FRAMES = 60
# Cutoffs [Å] of pairs, triplets and environments.
CUTOFFS = {
    "rmd17-ethanol": (4.5, 3.0, 4.0),
    "zuo2020-Si": (5.5, 4.2, 5.0),
    "zuo2020-Cu": (5.5, 3.8, 5.0),
    "acetut-TiAl": (6.0, 4.0, 5.0),
}


def models(name):
    """Terms of each row."""
    pair, triplet, around = CUTOFFS[name]
    found = {
        "pair": [kp.PairTerm(r_cut=pair)],
        "triplet": [kp.TripletTerm(r_cut=triplet)],
        "pair + triplet": [kp.PairTerm(r_cut=pair), kp.TripletTerm(r_cut=triplet)],
        "ACSF": [kp.ACSFTerm(r_cut=around)],
        "SOAP": [kp.SOAPTerm(r_cut=around)],
        "SOAP, linear (SNAP)": [kp.PolynomialSOAP(r_cut=around, degree=1)],
        "SOAP, quadratic (qSNAP)": [kp.PolynomialSOAP(r_cut=around, degree=2)],
        "pair + triplet + SOAP": [
            kp.PairTerm(r_cut=pair),
            kp.TripletTerm(r_cut=triplet),
            kp.SOAPTerm(r_cut=around),
        ],
    }
    if name == "rmd17-ethanol":
        found["Coulomb matrix"] = [kp.CoulombMatrixTerm()]
        found["GDML"] = [kp.GDMLTerm()]
    return found


def some(frames, n):
    """So many frames, evenly chosen, and all single atoms."""
    single = [f for f in frames if len(f) == 1]
    others = [f for f in frames if len(f) > 1]
    chosen = np.unique(np.linspace(0, len(others) - 1, min(n, len(others))).astype(int))
    return kp.Dataset([*(others[k] for k in chosen), *single])


def one(data_dir, name, row, n_frames, n_sparse):
    """Fit and evaluate one model; print figures as JSON."""
    warnings.simplefilter("ignore")
    folder = os.path.join(data_dir, name)
    train, test = (kp.read_dataset(os.path.join(folder, f"{p}.xyz")) for p in ("train", "test"))
    test = kp.Dataset([f for f in test if f.forces is not None and len(f) > 1])
    train, test = some(train, n_frames), some(test, TEST_FRAMES)
    start = time.process_time()
    terms = [
        # monomials, directions and molecules are as many as there are
        t if t.kind in ("polynomial", "gdml", "coulomb_matrix") else t.changed(n_sparse=n_sparse)
        for t in models(name)[row]
    ]
    pot = kp.KernelPotential(terms, baseline=[])
    pot.fit(train, calibrate=False, self_test=False)
    seconds = time.process_time() - start
    start = time.process_time()
    e = kp.evaluate(pot, test)
    atoms = sum(map(len, test))
    cost = (time.process_time() - start) / atoms
    left_out = pot.model.training.hyperparameters.get("loo", {}).get("after", {})
    print(
        json.dumps(
            {
                "left_out": left_out,
                "energy": e["energy_rmse_mev_per_atom"],
                "forces": 1e3 * e["forces_rmse_ev_per_ang"],
                "features": [t.descriptor.n_features for t in pot.model.local.terms],
                "points": pot.model.design.n_sparse,
                "seconds": seconds,
                "cost": 1e6 * cost,
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            }
        )
    )


def figures(name, row, arguments):
    """What `one` prints in a process of its own, or what was kept of it.

    Raises
    ------
    RuntimeError
        If the fit fails; nothing is kept then.
    """
    options = ["--frames", str(arguments.frames), "--n-sparse", str(arguments.n_sparse)]
    kept = None
    if arguments.keep is not None:
        words = [name, *re.findall(r"\w+", row), *options[1::2]]
        kept = arguments.keep / ("-".join(words) + ".json")
        if kept.exists():
            return json.loads(kept.read_text())
    command = [sys.executable, __file__, arguments.data_dir, "--sets", name, "--row", row, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout.splitlines()[-1] + "\n")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--n-sparse", type=int, default=500, help="points of each term with points")
    parser.add_argument("--keep", type=Path, help="folder of the rows that are done")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        name = arguments.sets[0]
        one(arguments.data_dir, name, arguments.row, arguments.frames, arguments.n_sparse)
        return
    header = [
        "data", "terms", "features", "points", "left out: E MAE [meV/atom]", "F MAE [meV/Å]",
        "test: E RMSE [meV/atom]", "F RMSE [meV/Å]", "fit [CPU s]", "µs/atom", "peak [GB]",
    ]  # fmt: skip
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header), flush=True)
    for name in arguments.sets:
        for row in models(name):
            try:
                found = figures(name, row, arguments)
            except RuntimeError as error:
                print(f"| {name} | {row} | {error} |", flush=True)
                continue
            left = [found["left_out"].get(kind) for kind in ("energy", "forces")]
            cells = [
                name,
                row,
                " + ".join(map(str, found["features"])),
                str(found["points"]),
                *("-" if value is None else f"{1e3 * value:.1f}" for value in left),
                f"{found['energy']:.1f}",
                f"{found['forces']:.0f}",
                f"{found['seconds']:.0f}",
                f"{found['cost']:.0f}",
                f"{found['memory']:.2f}",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
