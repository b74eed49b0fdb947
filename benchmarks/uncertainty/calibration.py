"""Do standard deviations and intervals hold? Coverage, rank correlation and likelihood.

    python benchmarks/uncertainty/calibration.py DATA_DIR [--sets zuo2020-Si ...] [--plot FILE.png]

DATA_DIR holds ``zuo2020-Si/train.xyz``, ``zuo2020-Si/test.xyz`` and so on. Everything is
fitted and calibrated on the training file with the defaults, and judged on the test file, which
nothing else looks at: overall and per config type of at least 300 force components (30 energies,
180 stresses), beside the best constant standard deviation, which hindsight alone could choose, and
beside the best that any could be (``kernelpot.model.errors.nll_bound``): where errors are Gaussian
given the structure, E log|e| = E log(sigma) - 0.635, and E log|e| + 0.635 + 0.5 + log(2 pi) / 2 is
the likelihood of the true sigma of each label; errors with heavier tails given the structure reach
less, only lighter ones more. With ``--validation`` a fifth of the training file stands in for the
test file. FLARE reports rank correlations of 0.83 (Si) and 0.79 (Mo) between std and error
(arXiv:2106.01949).
"""

import argparse
import os
import sys
import warnings

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "accuracy"))

from _sets import load
from _tables import show

import kernelpot as kp
from kernelpot.model.errors import reliability

SETS = (
    "zuo2020-Si", "zuo2020-Mo", "zuo2020-Cu", "rmd17-ethanol", "3bpa", "acetut-TiAl", "gpumd-PbTe",
)  # fmt: skip
# Labels of a group that say something.
LABELS = {"energy": 30, "forces": 300, "stress": 180}
HEADER = (
    "set", "group", "quantity", "labels", "within 68 %", "within 95 %", "within one std",
    "within 1.96 std", "Spearman", "NLL", "NLL constant", "NLL bound",
)  # fmt: skip


def row(name, group, kind, judged):
    """Cells of one quantity."""

    def cell(key, scale=1.0, digits=2):
        value = judged.get(key)
        return "-" if value is None else f"{scale * value:.{digits}f}"

    shares = ("coverage_68", "coverage_95", "coverage_std", "coverage_two_std")
    return [
        name, group, kind, cell("n", 1, 0), *(cell(key, 100, 1) for key in shares),
        cell("spearman"), cell("nll"), cell("nll_constant"), cell("nll_bound"),
    ]  # fmt: skip


def forces_and_std(pot, test):
    """Errors of force components and their standard deviations."""
    predictions = pot.predict_many([f.atoms for f in test], return_std=True)
    found = [
        ((p.forces - frame.forces).ravel(), p.forces_std.ravel())
        for frame, p in zip(test, predictions, strict=True)
    ]
    error, std = (np.concatenate(part) for part in zip(*found, strict=True))
    used = std > 1e-3 * np.sqrt(np.mean(std**2))  # the others are zero by symmetry
    return error[used], std[used]


def fitted(train, name, arguments):
    """The potential of a data set, from its file if there is one."""
    path = arguments.models and os.path.join(arguments.models, f"{name}.kpot")
    if path and os.path.exists(path):
        return kp.load(path)
    pot = kp.KernelPotential(n_sparse=arguments.n_sparse).fit(train)
    if path:
        pot.save(path)
    return pot


def main():
    """Print one row per set, config type and quantity."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument(
        "--models", metavar="DIR", help="keep fitted potentials here, and reuse them"
    )
    parser.add_argument("--n-sparse", type=int, help="sparse points per term")
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--plot", metavar="FILE", help="reliability diagram of the forces")
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, curves = [], {}
    for name in arguments.sets:
        train, test = load(arguments.data_dir, name, arguments.validation)
        pot = fitted(train, name, arguments)
        known = set(pot.model.species)
        test = kp.Dataset([f for f in test if set(f.atoms.numbers.tolist()) <= known])
        errors = kp.evaluate(pot, test, uncertainty=True)
        for kind, judged in errors["uncertainty"].items():
            rows.append(row(name, "all", kind, judged))
        for config_type, group in errors["by_config_type"].items():
            for kind, judged in group["uncertainty"].items():
                if judged["n"] >= LABELS[kind]:
                    rows.append(row(name, config_type, kind, judged))
        if arguments.plot:
            labelled = [f for f in test if f.forces is not None]
            curves[name] = reliability(*forces_and_std(pot, labelled))
    show(HEADER, rows, arguments.output)
    if arguments.plot:
        plot(curves, arguments.plot)


def plot(curves, path):
    """Promised against found coverage of multiples of the standard deviation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], color="gray", lw=1)
    for k, (name, curve) in enumerate(curves.items()):
        axes.plot(*curve, color=f"C{k}", label=name)
    axes.set(xlabel="promised coverage", ylabel="force components within")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
