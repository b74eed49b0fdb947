"""How often a potential of few data believes what it should not: an adversary looks for it.

    python benchmarks/safety/stress_test.py DATA_DIR [SMALL_SETS_DIR] [--sets zuo2020-Si ...]

Potentials are fitted to 5, 10, 20 and 50 frames of each data set (`--preset`, by default fast,
which has sparse points for all that is periodic) and attacked by the searches of
`adversary.py`: hot Langevin dynamics, collisions from random overlapping positions, minimisation
from random cells and displacements, basin hopping, ascent in the variance, and falling into the
holes of the kernels first. Kernels alone (no baseline, no net) are attacked in the same way.
SMALL_SETS_DIR is what `small_sets.py` writes.

A run has failed if an energy or force is not finite, if the temperature averaged over its last
half exceeds ten times the target, if two atoms come nearer than min(0.5 Å, half the shortest
training distance of their species), or if the energy lies more than 0.1 eV/atom below the
lowest training energy of the same composition with a local std above those of the data.
"""

import argparse
import json
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("KERNELPOT_NUM_THREADS", "1")

import numpy as np
from adversary import SEARCHES, Limits, attack, bare

import kernelpot as kp

MAX_ATOMS = 128
VARIANTS = ("kernels alone", "with the safety net")


def training_frames(path, n_frames, seed):
    """The first frame and others drawn at random, of moderate size where there are such."""
    data = [frame for frame in kp.read_dataset(path) if len(frame) > 1]
    small = [frame for frame in data if len(frame) <= MAX_ATOMS] or data
    others = 1 + np.random.default_rng(seed).permutation(len(small) - 1)[: n_frames - 1]
    return kp.Dataset([small[i] for i in [0, *sorted(others)]])


def attacked(path, n_frames, seed, arguments):
    """All runs against the potentials of one draw of frames."""
    warnings.simplefilter("ignore")
    name = os.path.basename(os.path.dirname(path))
    frames = training_frames(path, n_frames, seed)
    if len(frames) < n_frames:
        return []
    limits = Limits.of(frames)
    found = []
    for variant in arguments.variants:
        alone = variant == VARIANTS[0]
        began = time.perf_counter()
        pot = kp.KernelPotential(preset=arguments.preset, baseline=[] if alone else None)
        pot.fit(frames, calibrate=False)
        fitted = time.perf_counter() - began
        gate = None if alone else kp.VarianceGate(kappa=arguments.kappa, on_gate=None)
        for k in range(arguments.repeats):
            for search in arguments.searches:
                # the same run whichever searches are asked for
                number = list(SEARCHES).index(search)
                rng = np.random.default_rng([seed, n_frames, k, number])
                atoms = bare(frames[int(rng.integers(len(frames)))])
                began = time.perf_counter()
                why = attack(
                    search, pot, lambda pot=pot, gate=gate: pot.calculator(gate=gate), atoms,
                    rng, limits, arguments.ps,
                )  # fmt: skip
                found.append(
                    {
                        "set": name, "frames": n_frames, "seed": seed, "variant": variant,
                        "search": search, "repeat": k, "failure": why,
                        "seconds": time.perf_counter() - began, "fit_seconds": fitted,
                    }
                )  # fmt: skip
    return found


def tables(found, arguments):
    """Print failures by set, by number of frames and by search."""
    for key in ("set", "frames", "search"):
        print(f"\n| {key} | " + " | ".join(arguments.variants) + " |")
        print("|---|" + "---|" * len(arguments.variants))
        for value in sorted({f[key] for f in found}):
            cells = []
            for variant in arguments.variants:
                mine = [f["failure"] for f in found if f[key] == value and f["variant"] == variant]
                cells.append(f"{sum(w is not None for w in mine)} of {len(mine)}")
            print(f"| {value} | " + " | ".join(cells) + " |")
    for variant in arguments.variants:
        mine = [f["failure"] for f in found if f["variant"] == variant]
        print(f"\n{variant}: {sum(w is not None for w in mine)} of {len(mine)} failed")


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", nargs="+", help="hold SET/train.xyz")
    parser.add_argument("--sets", nargs="+", help="default: all in the directories")
    parser.add_argument("--frames", nargs="+", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--repeats", type=int, default=1, help="of every search")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=SEARCHES)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--kappa", type=float, default=kp.VarianceGate().kappa)
    parser.add_argument("--ps", type=float, default=0.3, help="length of a dynamics")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", help="file for every single outcome")
    arguments = parser.parse_args()
    paths = [
        os.path.join(directory, name, "train.xyz")
        for directory in arguments.directories
        for name in sorted(os.listdir(directory))
        if arguments.sets is None or name in arguments.sets
    ]
    jobs = [
        (path, n, seed)
        for n in arguments.frames
        for seed in arguments.seeds
        for path in paths
        if os.path.exists(path)
    ]
    found = []
    with ProcessPoolExecutor(arguments.workers) as pool:
        futures = {pool.submit(attacked, *job, arguments): job for job in jobs}
        for future in as_completed(futures):
            path, n, seed = futures[future]
            mine = future.result()
            found += mine
            print(f"{os.path.basename(os.path.dirname(path))}, {n} frames, seed {seed}:", end="")
            for variant in arguments.variants:
                own = [f for f in mine if f["variant"] == variant]
                lost = [f"{f['search']} ({f['failure']})" for f in own if f["failure"]]
                print(f" {variant} {len(lost)} of {len(own)}", end=";")
                if lost and variant != VARIANTS[0]:
                    print(" " + ", ".join(lost), end="")
            print(f" {sum(f['seconds'] for f in mine):.0f} s", flush=True)
    found.sort(key=lambda f: (f["set"], f["frames"], f["seed"], f["variant"], f["search"]))
    tables(found, arguments)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as stream:
            json.dump(found, stream, indent=1)


if __name__ == "__main__":
    main()
