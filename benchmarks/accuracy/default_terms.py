"""Whether the default gains from pairs and triplets, by training structures left out.

    python benchmarks/accuracy/default_terms.py DATA_DIR [--sets zuo2020-Si ...] [--keep DIR]

Pairs and triplets are added to the default terms of each set (with the default baseline and the
preset ``fast``, 300 sparse points a term), within its longest cutoff and within 1.4 of its length
scales. Errors are those of structures left out one at a time, in closed form, noise and deltas
chosen for each model; and of other structures of the training file (of molecules these count: the
closed form is that of the columns, not of their whole form). Test files are not opened. Ratios are
to the default: geometric means of energies and forces. Cost is microseconds per atom of predicting
the others, without `spline_step`. With `--keep` each row is written to a file of that folder, and
taken from there the next time.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import kernelpot as kp
from kernelpot.fit import defaults
from kernelpot.fit.problem import prepare
from kernelpot.fit.settings import Settings

PRESET = "fast"
# Structures of a fit, unless they have more atoms than this, but at least so many; and of the
# comparison with others.
FRAMES, ATOMS, LEAST = 40, 800, 12
OTHERS = 20
# Cutoff of triplets in length scales of the default.
TRIPLET_REACH = 1.4


def some(frames, n, atoms, least):
    """So many frames, evenly chosen, within so many atoms."""
    size = np.mean([len(f) for f in frames])
    n = min(n, max(least, int(atoms / size)), len(frames))
    return np.unique(np.linspace(0, len(frames) - 1, n).astype(int))


def split(data_dir, name):
    """Structures to fit, with all single atoms, and others of the training file."""
    every = kp.read_dataset(os.path.join(data_dir, name, "train.xyz"))
    single = [f for f in every if len(f) == 1]
    bound = [f for f in every if len(f) > 1 and f.energy is not None]
    chosen = some(bound, FRAMES, ATOMS, LEAST)
    rest = [bound[k] for k in sorted(set(range(len(bound))) - set(chosen.tolist()))]
    others = [rest[k] for k in some(rest, OTHERS, ATOMS, 1)]
    return kp.Dataset([*(bound[k] for k in chosen), *single]), kp.Dataset(others)


def models(train):
    """Terms of each row."""
    terms = list(prepare(train, Settings(preset=PRESET)).terms)
    reach = round(TRIPLET_REACH * defaults.length_scale(train)[0], 3)
    pair = kp.PairTerm(r_cut=max(term.r_cut for term in terms))
    triplet = kp.TripletTerm(r_cut=reach)
    return {
        "default": terms,
        "+ pairs": [*terms, pair],
        "+ triplets": [*terms, triplet],
        "+ pairs + triplets": [*terms, pair, triplet],
    }


def figures(terms, train, others):
    """Errors and cost of one model."""
    start = time.process_time()
    pot = kp.KernelPotential(terms, preset=PRESET)
    pot.fit(train, calibrate=False, self_test=False)
    seconds = time.process_time() - start
    start = time.process_time()
    e = kp.evaluate(pot, others)
    cost = 1e6 * (time.process_time() - start) / sum(map(len, others))
    left_out = pot.model.training.hyperparameters.get("loo", {}).get("after", {})
    return {
        "fitted": len(train),
        "left_out": left_out,
        "others": {
            "energy": 1e-3 * e["energy_mae_mev_per_atom"],
            "forces": e["forces_mae_ev_per_ang"],
        },
        "seconds": seconds,
        "cost": cost,
        "points": pot.model.design.n_sparse,
        "notes": list(pot.model.training.notes),
    }


def ratio(found, reference):
    """Geometric mean of errors over those of the default."""
    kinds = [k for k in ("energy", "forces") if found.get(k) and reference.get(k)]
    if not kinds:
        return float("nan")
    return float(np.exp(np.mean([np.log(found[k] / reference[k]) for k in kinds])))


def main():
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--sets", nargs="+", help="folders; default: all that have a train.xyz")
    parser.add_argument("--keep", type=Path, help="folder of the rows that are done")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = sorted(p.parent.name for p in Path(arguments.data_dir).glob("*/train.xyz"))
    header = [
        "data", "frames", "terms", "points", "left out: E MAE [meV/atom]", "F MAE [meV/Å]",
        "ratio", "others: E MAE [meV/atom]", "F MAE [meV/Å]", "ratio", "fit [CPU s]", "µs/atom",
    ]  # fmt: skip
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header), flush=True)
    for name in arguments.sets or found:
        train, others = split(arguments.data_dir, name)
        terms, reference = None, None
        for row in ("default", "+ pairs", "+ triplets", "+ pairs + triplets"):
            kept = None
            if arguments.keep is not None:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                kept = arguments.keep / f"{name}-{row.replace(' ', '')}.json"
            if kept is not None and kept.exists():
                result = json.loads(kept.read_text())
            else:
                terms = terms or models(train)
                result = figures(terms[row], train, others)
                if kept is not None:
                    kept.write_text(json.dumps(result) + "\n")
            reference = reference or result
            cells = [name, str(result["fitted"]), row, str(result["points"])]
            for part in ("left_out", "others"):
                errors = [result[part].get(kind) for kind in ("energy", "forces")]
                cells += ["-" if value is None else f"{1e3 * value:.2f}" for value in errors]
                cells.append(f"{ratio(result[part], reference[part]):.3f}")
            cells += [f"{result['seconds']:.0f}", f"{result['cost']:.0f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
