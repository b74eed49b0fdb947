"""Do standard deviations grow as errors do, in structures hotter than any that were fitted?

    python benchmarks/uncertainty/hotter.py DATA_DIR [--sets rmd17-ethanol 3bpa] [--coldest 0.8]

Training files alone (``DATA_DIR/rmd17-ethanol/train.xyz`` and so on): of each config type and
composition the structures are sorted by energy, the coldest share but an eighth of it (chosen at
random) is fitted with the defaults, and forces are judged on that eighth and on the hottest fifth.
Kinds of fewer than eight structures are fitted.
"""

import argparse
import os
import sys
import warnings

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "accuracy"))

from _tables import show

import kernelpot as kp

HEADER = (
    "set", "coldest", "fitted", "judged on", "structures", "force RMSE [eV/Å]", "within one std",
    "within 1.96 std", "NLL", "NLL constant", "NLL bound",
)  # fmt: skip
HOTTEST = 0.2
LEFT_OUT = 8
FEW = 8


def split(frames, coldest, most, rng):
    """Structures to fit, those left out of the cold ones, and the hottest."""
    kinds = {}
    for frame in frames:
        formula = frame.atoms.get_chemical_formula(empirical=bool(frame.atoms.pbc.any()))
        kinds.setdefault((frame.config_type, formula), []).append(frame)
    fitted, cold, hot = [], [], []
    for own in kinds.values():
        if len(own) < FEW or own[0].energy is None or len(own[0]) == 1:
            fitted += own
            continue
        own = sorted(own, key=lambda f: f.energy / len(f))
        shuffled = rng.permutation(round(coldest * len(own)))
        n = len(shuffled) // LEFT_OUT
        cold += [own[i] for i in shuffled[:n]]
        fitted += [own[i] for i in shuffled[n:]]
        hot += own[round((1 - HOTTEST) * len(own)) :]

    def some(chosen, n):
        return [chosen[i] for i in np.sort(rng.permutation(len(chosen))[:n])]

    alone = [f for f in fitted if len(f) == 1]
    return alone + some([f for f in fitted if len(f) > 1], most), some(cold, 60), some(hot, 60)


def main():
    """Print one row for the cold structures left out and one for the hot ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--sets", nargs="+", default=["rmd17-ethanol", "3bpa"])
    parser.add_argument("--coldest", type=float, nargs="+", default=[0.4, 0.8])
    parser.add_argument("--most", type=int, default=400, help="structures fitted, at most")
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in arguments.sets:
        frames = list(kp.read_dataset(os.path.join(arguments.data_dir, name, "train.xyz")))
        for coldest in arguments.coldest:
            rng = np.random.default_rng(0)
            fitted, cold, hot = split(frames, coldest, arguments.most, rng)
            pot = kp.KernelPotential().fit(kp.Dataset(fitted), self_test=False)
            for what, judged in (("cold, left out", cold), ("hottest fifth", hot)):
                found = kp.evaluate(pot, kp.Dataset(judged), uncertainty=True)
                forces = found["uncertainty"]["forces"]
                rows.append([
                    name, f"{100 * coldest:.0f} %", str(len(fitted)), what, str(len(judged)),
                    f"{found['forces_rmse_ev_per_ang']:.4f}", f"{100 * forces['coverage_std']:.1f}",
                    f"{100 * forces['coverage_two_std']:.1f}", f"{forces['nll']:.2f}",
                    f"{forces['nll_constant']:.2f}", f"{forces['nll_bound']:.2f}",
                ])  # fmt: skip
    show(HEADER, rows, arguments.output)


if __name__ == "__main__":
    main()
