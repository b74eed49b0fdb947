"""`GDMLTerm` on ethanol beside sGDML: errors, time and memory.

    python benchmarks/accuracy/gdml.py DATA_DIR [--frames 1000] [--full]

DATA_DIR holds ``rmd17-ethanol`` with ``train.xyz`` and ``test.xyz`` (group ``test_MD``). sGDML
1.0.3 on the same 1,000 frames: 2.83 meV, 15.9 meV/Å; 224 CPU s, 11.5 GB, 2.2 ms per molecule. The
noise is not searched and nothing is calibrated, as in sGDML; with `--full` both are done. Seconds
are those of the process.
"""

import argparse
import os
import resource
import time
import warnings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import kernelpot as kp


def main():
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--full", action="store_true", help="search the noise, and calibrate")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = os.path.join(arguments.data_dir, "rmd17-ethanol")
    train, test = (kp.read_dataset(os.path.join(folder, f"{p}.xyz")) for p in ("train", "test"))
    single = [f for f in train if len(f) == 1]
    molecules = [f for f in train if len(f) > 1][: arguments.frames]
    options = {} if arguments.full else {"optimize": None, "calibrate": False}
    start = time.process_time()
    pot = kp.KernelPotential([kp.GDMLTerm()], baseline=[])
    pot.fit(kp.Dataset([*molecules, *single]), self_test=False, **options)
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    test = [f for f in test if f.config_type == "test_MD"]
    energies, forces = [], []
    start = time.process_time()
    for frame in test:
        found = pot.predict(frame.atoms)
        energies.append(found.energy - frame.energy)
        forces.append(found.forces - frame.forces)
    cost = (time.process_time() - start) / len(test)
    for note in pot.model.training.notes:
        print("-", note)
    print(
        f"{len(molecules)} frames: energy MAE {1e3 * np.abs(energies).mean():.2f} meV, forces MAE "
        f"{1e3 * np.abs(forces).mean():.1f} meV/Å; fit {seconds:.0f} CPU s, {memory:.2f} GB; "
        f"{1e3 * cost:.1f} ms per molecule"
    )


if __name__ == "__main__":
    main()
