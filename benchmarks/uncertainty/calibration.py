"""Do calibrated intervals hold? Coverage, rank correlation and likelihood.

    python benchmarks/uncertainty/calibration.py DATA_DIR [--plot FILE.png]

DATA_DIR holds ``zuo2020-Si/train.xyz``, ``zuo2020-Si/test.xyz`` and so on. Everything is
fitted and calibrated on the training file; with ``--validation`` a fifth of it stands in
for the test file. FLARE reports rank correlations of 0.83 (Si) and 0.79 (Mo) between std
and error (arXiv:2106.01949).
"""

import argparse
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "accuracy"))

from _sets import load
from _tables import show

import kernelpot as kp
from kernelpot.model.errors import negative_log_likelihood, reliability


def row(name, group, kind, judged, raw=""):
    """Cells of one quantity."""

    def cell(key, scale=1.0, digits=2):
        value = judged.get(key)
        return "-" if value is None else f"{scale * value:.{digits}f}"

    return [
        name, group, kind, cell("n", 1, 0), cell("coverage_68", 100, 1),
        cell("coverage_95", 100, 1), cell("spearman"), cell("nll"), cell("nll_constant"), raw,
    ]  # fmt: skip


def forces_and_std(pot, test):
    """Errors of force components, their raw and calibrated std."""
    found = []
    predictions = pot.predict_many([f.atoms for f in test], return_std=True)
    for frame, predicted in zip(test, predictions, strict=True):
        error = predicted.forces - frame.forces
        found.append((error, predicted.forces_std, predicted.interval(None).forces))
    error, raw, calibrated = (
        np.concatenate([e.ravel() for e in part]) for part in zip(*found, strict=True)
    )
    used = raw > 1e-3 * np.sqrt(np.mean(raw**2))  # the others are zero by symmetry
    return error[used], raw[used], calibrated[used]


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
    parser.add_argument("--sets", nargs="+", default=["Si", "Mo", "Cu", "rmd17-ethanol"])
    parser.add_argument(
        "--models", metavar="DIR", help="keep fitted potentials here, and reuse them"
    )
    parser.add_argument("--n-sparse", type=int, help="sparse points per term")
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--plot", metavar="FILE", help="reliability diagram of the forces")
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    header = [
        "set", "group", "quantity", "labels", "within 68 %", "within 95 %", "Spearman",
        "NLL", "NLL constant", "NLL raw",
    ]  # fmt: skip
    rows, curves = [], {}
    for name in arguments.sets:
        train, test = load(arguments.data_dir, name, arguments.validation)
        pot = fitted(train, name, arguments)
        errors = kp.evaluate(pot, test, uncertainty=True)
        error, raw, calibrated = forces_and_std(pot, [f for f in test if f.forces is not None])
        for kind, judged in errors["uncertainty"].items():
            nll = f"{negative_log_likelihood(error, raw):.2f}" if kind == "forces" else ""
            rows.append(row(name, "all", kind, judged, nll))
        for config_type, group in errors["by_config_type"].items():
            judged = group["uncertainty"].get("forces", {})
            rows.append(row(name, config_type, "forces", judged))
        curves[name] = reliability(error, raw), reliability(error, calibrated)
    show(header, rows, arguments.output)
    if arguments.plot:
        plot(curves, arguments.plot)


def plot(curves, path):
    """Promised against found coverage, before and after calibration."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], color="gray", lw=1)
    for k, (name, (raw, calibrated)) in enumerate(curves.items()):
        axes.plot(*raw, "--", color=f"C{k}", label=f"{name}, posterior")
        axes.plot(*calibrated, color=f"C{k}", label=f"{name}, calibrated")
    axes.set(xlabel="promised coverage", ylabel="force components within")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
