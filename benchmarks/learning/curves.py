"""Chosen frames against random ones: how many does the same error take?

    python benchmarks/learning/curves.py DATA_DIR [--quick] [--only zuo2020-Si] [--score forces]

Starts from a few random frames of ``train.xyz``, then adds others from the same file, at
random or by ``kp.select_frames``, and fits anew with a fixed number of sparse points.
Errors are those on ``test.xyz``, which plays no part in the choice.
"""

import argparse
import json
import os

import numpy as np

import kernelpot as kp

# frames to start from, largest number fitted, sparse points per term
SETS = {
    "zuo2020-Si": (15, 120, 300),
    "zuo2020-Mo": (15, 120, 300),
    "rmd17-ethanol": (40, 400, 300),
}
QUICK = {
    "zuo2020-Si": (10, 50, 100),
    "zuo2020-Mo": (10, 50, 100),
    "rmd17-ethanol": (20, 100, 100),
}
QUICK_POOL, QUICK_TEST = 120, 100
# Test structures of the kind that there is to choose from, where the file has others too.
KINDS = {"rmd17-ethanol": "test_MD"}
KEYS = {"energy": "energy_mae_mev_per_atom", "forces": "forces_mae_ev_per_ang"}


def fitted(train, indices, n_sparse):
    """Fit some of the frames, with baseline and noise by the same rule at every size."""
    some = kp.Dataset([train[i] for i in indices])
    pot = kp.KernelPotential(n_sparse=n_sparse, baseline=[kp.Wall()])
    return pot.fit(some, optimize=None, calibrate=False)


def errors(train, indices, test, n_sparse):
    """Test errors of a fit to some of the frames."""
    pot = fitted(train, indices, n_sparse)
    found = kp.evaluate(pot, test)
    return {kind: found[key] for kind, key in KEYS.items()}


def order(train, start, n, n_sparse, rounds, score):
    """Indices in the order of choice, `rounds` fits on the way."""
    chosen = list(start)
    for stop in np.linspace(len(start), n, rounds + 1)[1:].round().astype(int):
        pot = fitted(train, chosen, n_sparse)
        rest = [i for i in range(len(train)) if i not in set(chosen)]
        pool = [train[i].atoms for i in rest]
        found = kp.select_frames(pot, pool, stop - len(chosen), score=score)
        chosen += [rest[k] for k in found]
    return chosen


def share_needed(sizes, chosen, random):
    """Frames chosen that reach the last error of random ones, as a share of their number."""
    target = random[-1]
    below = np.flatnonzero(chosen <= target)
    if not len(below):
        return None
    k = int(below[0])
    if k == 0:
        return sizes[0] / sizes[-1]
    log = np.log(chosen[k - 1 : k + 1])
    part = (log[0] - np.log(target)) / (log[0] - log[1])
    return float((sizes[k - 1] + part * (sizes[k] - sizes[k - 1])) / sizes[-1])


def main():
    """Print tables; ``--json`` writes every error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--quick", action="store_true", help="small fits from a part of the data")
    parser.add_argument("--only", choices=list(SETS))
    parser.add_argument("--score", default="mean_forces", help="of kp.select_frames")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=None, help="fits on the way of a choice")
    parser.add_argument("--points", type=int, default=None, help="sizes fitted")
    parser.add_argument("--json", default=None)
    arguments = parser.parse_args()
    seeds = arguments.seeds
    n_points = arguments.points or (3 if arguments.quick else 5)
    rounds = arguments.rounds or (1 if arguments.quick else 2)
    record = {}
    for name, (n_start, n_last, n_sparse) in (QUICK if arguments.quick else SETS).items():
        if arguments.only not in (None, name):
            continue
        folder = os.path.join(arguments.data_dir, name)
        train = kp.read_dataset(os.path.join(folder, "train.xyz"))
        test = kp.read_dataset(os.path.join(folder, "test.xyz"))
        # isolated atoms, of other elements too, are nothing to choose
        train, test = (kp.Dataset([f for f in part if len(f) > 1]) for part in (train, test))
        if name in KINDS:
            test = kp.Dataset([f for f in test if f.config_type == KINDS[name]])
        if arguments.quick:
            test = kp.Dataset(list(test)[:: max(1, len(test) // QUICK_TEST)])
            # the choice costs about as much as a fit of all it chooses from
            pool = np.random.default_rng(99).permutation(len(train))[:QUICK_POOL]
            train = kp.Dataset([train[i] for i in pool])
        n_last = min(n_last, int(0.7 * len(train)))
        sizes = np.geomspace(n_start, n_last, n_points).round().astype(int).tolist()
        table = {(kind, way): [] for kind in KEYS for way in ("random", "chosen")}
        for seed in range(seeds):
            random = np.random.default_rng(seed).permutation(len(train)).tolist()
            chosen = order(train, random[:n_start], n_last, n_sparse, rounds, arguments.score)
            for way, indices in (("random", random), ("chosen", chosen)):
                found = [errors(train, indices[:n], test, n_sparse) for n in sizes]
                for kind in KEYS:
                    table[kind, way].append([e[kind] for e in found])
            print(f"{name}: seed {seed} done", flush=True)
        record[name] = {"sizes": sizes, **{f"{k} {w}": v for (k, w), v in table.items()}}
        print(f"\n{name}: test errors, mean of {seeds} seeds ({n_sparse} sparse points per term)")
        print("frames | energy MAE [meV/atom] random chosen | forces MAE [eV/A] random chosen")
        mean = {key: np.mean(values, axis=0) for key, values in table.items()}
        for k, n in enumerate(sizes):
            cells = [mean[kind, way][k] for kind in KEYS for way in ("random", "chosen")]
            print("{:6d} | {:8.2f} {:8.2f} | {:8.4f} {:8.4f}".format(n, *cells))
        for kind in KEYS:
            share = share_needed(sizes, mean[kind, "chosen"], mean[kind, "random"])
            text = "never reached" if share is None else f"{100 * share:.0f} % of the frames"
            print(f"{kind}: the error of {sizes[-1]} random frames takes {text}")
        print(flush=True)
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump(record, stream, indent=1)


if __name__ == "__main__":
    main()
