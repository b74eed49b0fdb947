"""Hot silicon learned on the fly, with the first-principles code behind the shipped data.

    python benchmarks/learning/silicon_on_the_fly.py FOLDER [--python /usr/bin/python3]

Fits free atoms, strained crystals and the four least rattled cells of the shipped silicon,
then heats a cubic cell of 8 atoms. Where an atom is known less well than those of the
rattled cells, GPAW (of the interpreter named, which need not have kernelpot) labels it as
``benchmarks/reference/silicon.py`` did. A run that was stopped continues when
started again with the same arguments.
"""

import argparse
import json
import os
import subprocess
import sys

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes

HERE = os.path.dirname(os.path.abspath(__file__))
KNOWN = ("isolated_atom", "crystal", "stretched")


class Silicon(Calculator):
    """The reference of the shipped silicon, run by another interpreter.

    Parameters
    ----------
    python : str
        Interpreter that has gpaw.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, python):
        super().__init__()
        self.python = python

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Send the structure, wait for the labels."""
        super().calculate(atoms, properties, system_changes)
        structure = {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
        }
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["OMP_NUM_THREADS"] = "1"
        done = subprocess.run(
            [self.python, os.path.abspath(__file__), "--worker"],
            input=json.dumps(structure),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the reference failed: {done.stderr.strip()[-500:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        stress = -np.array(found["virial"]) / atoms.get_volume()
        self.results = {
            "energy": found["energy"],
            "free_energy": found["energy"],
            "forces": np.array(found["forces"]),
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


def worker():
    """Label one structure from standard input (the interpreter that has gpaw)."""
    sys.path.insert(0, os.path.join(HERE, "..", "reference"))
    import silicon

    given = json.load(sys.stdin)
    atoms = Atoms(given["numbers"], given["positions"], cell=given["cell"], pbc=True)
    found = silicon.label("rattled", atoms, False)
    labels = {
        "energy": float(found.info["REF_energy"]),
        "forces": found.arrays["REF_forces"].tolist(),
        "virial": found.info["REF_virial"].tolist(),
    }
    print(json.dumps(labels))


def main():
    """Run, and print the log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--temperature", type=float, default=2000.0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--calls", type=int, default=5, help="of the reference, at most")
    arguments = parser.parse_args()
    if arguments.worker:
        worker()
        return
    if arguments.folder is None:
        parser.error("name a folder for the run")

    from ase.build import bulk
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import thermalize_momenta

    import kernelpot as kp
    from kernelpot.datasets import load_silicon

    frames = load_silicon()
    rattled = [f for f in frames if f.config_type == "rattled"]
    rattled.sort(key=lambda frame: float(np.square(frame.forces).mean()))
    data = kp.Dataset([*(f for f in frames if f.config_type in KNOWN), *rattled[:4]])
    saved = os.path.join(arguments.folder, "start.kpot")
    os.makedirs(arguments.folder, exist_ok=True)
    if not os.path.exists(saved):
        kp.KernelPotential(preset="fast").fit(data).save(saved)
    start = kp.load(saved)
    # with so few data the gate's own limit is a generous one; thresholds are calibrated stds
    known = start.predict_many([frame.atoms for frame in rattled[:4]], return_std="local")
    threshold = max(float(found.interval(None).energies.max()) for found in known)
    atoms = bulk("Si", a=5.469, cubic=True)
    thermalize_momenta(atoms, temperature_K=arguments.temperature, rng=np.random.default_rng(1))
    run = kp.OnTheFly(
        start,
        data,
        atoms,
        reference=Silicon(arguments.python),
        folder=os.path.join(arguments.folder, "run"),
        threshold=threshold,
        max_calls=arguments.calls,
        make_dynamics=lambda atoms, rng: Langevin(
            atoms,
            1.0 * units.fs,
            temperature_K=arguments.temperature,
            friction=0.01 / units.fs,
            fixcm=False,
            rng=rng,
        ),
    ).run(arguments.steps)
    print(f"{run.step} steps, {run.n_calls} calls of the reference")
    print("step reason    std->after [eV] (threshold)  dE [meV/atom]  dF MAE, max [eV/A]  s")
    for e in run.log:
        print(
            f"{e['step']:4d} {e['reason']:9s} {e['std']:.4f}->{e['std_after']:.4f} "
            f"({e['threshold']:.4f}) {1e3 * e['energy_error']:8.2f} {e['forces_mae']:8.3f} "
            f"{e['forces_max_error']:7.3f} {e['seconds']:7.0f}"
        )
    test = kp.Dataset([f for f in load_silicon("test") if f.config_type == "rattled"])
    if len(test):
        for name, pot in (("before", start), ("after", run.potential)):
            found = kp.evaluate(pot, test)
            print(
                f"{name}: rattled test frames, energy MAE "
                f"{found['energy_mae_mev_per_atom']:.2f} meV/atom, forces MAE "
                f"{found['forces_mae_ev_per_ang']:.4f} eV/A"
            )


if __name__ == "__main__":
    main()
