"""Test errors on molecules: ethanol (rMD17 geometries) and 3BPA.

One rule of defaults, everything chosen from the training file:

    python benchmarks/accuracy/molecules.py DATA_DIR

DATA_DIR holds ``rmd17-ethanol`` and ``3bpa`` with ``train.xyz`` and ``test.xyz``.
Published for 1,000 ethanol frames (another level of theory, same molecule): GAP 3.5 meV
and 18.1 meV/Å, ACE 1.2 and 7.3, MACE 0.4 and 2.1 (arXiv:2206.07697).
"""

import argparse
import os

from _tables import run, show

SETS = ("rmd17-ethanol", "3bpa")


def main():
    """Print one row per data set and config type."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--quick", action="store_true", help="300 sparse points per term")
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    options = ["--preset", "fast"] if arguments.quick else []
    header = [
        "data", "group", "frames", "E MAE [meV]", "E RMSE [meV]", "F MAE [meV/Å]",
        "F RMSE [meV/Å]", "fit [s]", "peak memory [GB]",
    ]  # fmt: skip

    def number(value, scale, digits):
        return "-" if value is None else f"{scale * value:.{digits}f}"

    rows = []
    for name in arguments.sets:
        folder = os.path.join(arguments.data_dir, name)
        if not os.path.isdir(folder):
            continue
        train, test = (os.path.join(folder, f"{part}.xyz") for part in ("train", "test"))
        fit, errors = run(train, test, options)
        for group, e in errors["by_config_type"].items():
            atoms = e["n_atoms"] / e["n_structures"]
            rows.append(
                [
                    name,
                    group,
                    str(e["n_structures"]),
                    number(e["energy_mae_mev_per_atom"], atoms, 2),
                    number(e["energy_rmse_mev_per_atom"], atoms, 2),
                    number(e["forces_mae_ev_per_ang"], 1e3, 1),
                    number(e["forces_rmse_ev_per_ang"], 1e3, 1),
                    f"{fit['wall_seconds']:.0f}",
                    f"{fit['peak_memory_bytes'] / 1e9:.2f}",
                ]
            )
    show(header, rows, arguments.output)


if __name__ == "__main__":
    main()
