"""Turn raw reference frames into the train and test files that ship with the package.

    python split.py silicon-raw.xyz silicon ../../kernelpot/datasets/data

Every fifth frame of each group goes to the test set, in the order of computation; isolated
atoms stay in training. Coordinates and labels are rounded to 1e-6 (eV, Å, eV/Å).
"""

import argparse
import os

import ase.io
import numpy as np


def main():
    """Write NAME-train.xyz and NAME-test.xyz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw")
    parser.add_argument("name")
    parser.add_argument("folder")
    arguments = parser.parse_args()
    parts = {"train": [], "test": []}
    seen = {}
    raw = sorted(ase.io.read(arguments.raw, ":", format="extxyz"), key=lambda a: a.info["frame"])
    for atoms in raw:
        group = atoms.info["config_type"]
        seen[group] = seen.get(group, 0) + 1
        test = seen[group] % 5 == 3 and group != "isolated_atom"
        del atoms.info["frame"]
        atoms.info["REF_energy"] = round(float(atoms.info["REF_energy"]), 6)
        atoms.arrays["REF_forces"] = np.round(atoms.arrays["REF_forces"], 6) + 0.0
        if "REF_virial" in atoms.info:
            virial = np.asarray(atoms.info["REF_virial"], dtype=float).reshape(3, 3)
            atoms.info["REF_virial"] = np.round(0.5 * (virial + virial.T), 6) + 0.0
        parts["test" if test else "train"].append(atoms)
    for part, frames in parts.items():
        path = os.path.join(arguments.folder, f"{arguments.name}-{part}.xyz")
        ase.io.write(path, frames, format="extxyz")
        groups = {}
        for atoms in frames:
            groups[atoms.info["config_type"]] = groups.get(atoms.info["config_type"], 0) + 1
        print(path, len(frames), groups)


if __name__ == "__main__":
    main()
