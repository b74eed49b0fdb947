"""Test errors on the elements of Zuo et al. (J. Phys. Chem. A 124, 731, 2020).

One rule of defaults, everything chosen from the training file:

    python benchmarks/accuracy/zuo2020.py DATA_DIR

DATA_DIR holds ``zuo2020-Si/train.xyz``, ``zuo2020-Si/test.xyz`` and so on. Published
errors beside ours: GAP / MTP as listed by ACEpotentials.jl (examples/zuobench).
"""

import argparse
import os

from _tables import run, show

# energy meV/atom, forces eV/Å (published with two digits): GAP, MTP
PUBLISHED = {
    "Ni": ("0.42 / 0.48", "0.02 / 0.01"),
    "Cu": ("0.46 / 0.41", "0.01 / 0.01"),
    "Li": ("0.49 / 0.49", "0.01 / 0.01"),
    "Mo": ("2.24 / 2.83", "0.09 / 0.09"),
    "Si": ("2.91 / 2.21", "0.07 / 0.06"),
    "Ge": ("2.06 / 1.79", "0.05 / 0.05"),
}


def main():
    """Print one row per element found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--elements", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--quick", action="store_true", help="300 sparse points per term")
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    options = ["--preset", "fast"] if arguments.quick else []
    header = [
        "element", "E MAE [meV/atom]", "GAP / MTP", "F MAE [eV/Å]", "GAP / MTP",
        "stress MAE [GPa]", "fit [s]", "peak memory [GB]",
    ]  # fmt: skip
    rows = []
    for element in arguments.elements:
        folder = os.path.join(arguments.data_dir, f"zuo2020-{element}")
        if not os.path.isdir(folder):
            continue
        train, test = (os.path.join(folder, name) for name in ("train.xyz", "test.xyz"))
        fit, errors = run(train, test, options)
        stress = errors["stress_mae_gpa"]
        rows.append(
            [
                element,
                f"{errors['energy_mae_mev_per_atom']:.3f}",
                PUBLISHED[element][0],
                f"{errors['forces_mae_ev_per_ang']:.4f}",
                PUBLISHED[element][1],
                "-" if stress is None else f"{stress:.2f}",
                f"{fit['wall_seconds']:.0f}",
                f"{fit['peak_memory_bytes'] / 1e9:.2f}",
            ]
        )
    show(header, rows, arguments.output)


if __name__ == "__main__":
    main()
