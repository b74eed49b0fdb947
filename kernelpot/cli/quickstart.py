"""The main job in one command: fit shipped data, evaluate, run dynamics, draw."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from kernelpot.common.types import FloatArray
from kernelpot.datasets import load_silicon
from kernelpot.md.dynamics import run_dynamics
from kernelpot.model.errors import evaluate
from kernelpot.potential import KernelPotential


def quickstart(
    folder: str,
    *,
    say: Callable[[str], None],
    progress: Callable[[str, float, float], None] | None = None,
    n_threads: int | None = None,
) -> dict[str, Any]:
    """Fit the shipped silicon, show what came out, and save model and picture.

    Parameters
    ----------
    folder : str
        Where ``silicon.kpot`` and ``silicon.png`` are written.
    say : callable
        Receives the lines to print.
    progress : callable, optional
    n_threads : int, optional

    Returns
    -------
    dict
        Errors, drift, and the scans, as plain data.
    """
    from kernelpot.model.summary import error_table

    train, test = load_silicon("train"), load_silicon("test")
    say(f"Silicon, PBE: {len(train)} structures to fit, {len(test)} to test\n")
    potential = KernelPotential().fit(train, n_threads=n_threads, progress=progress)
    errors = {
        "train": potential.fitted_.training.errors,
        "test": evaluate(potential, test, n_threads=n_threads),
    }
    for name, found in errors.items():
        say(f"Errors on the {name}ing structures:".replace("testing", "test"))
        say(error_table(found) + "\n")

    crystal = bulk("Si", a=5.469, cubic=True).repeat(2)
    say("Molecular dynamics (NVE): 64 atoms, 1 ps from 600 K")
    run = run_dynamics(
        crystal,
        potential.calculator(n_threads=n_threads),
        temperature=600,
        steps=1000,
        interval=10,
        progress=progress,
    )
    dynamics = run.summary()
    say(
        f"  mean temperature {dynamics['mean_temperature_k']:.0f} K, drift of the total energy "
        f"{dynamics['drift_ev_per_atom']:.1e} eV/atom, largest local std "
        f"{dynamics['max_energies_std']:.3f} eV\n"
    )

    scans = {"dimer": dimer_scan(potential), "stretch": stretch_scan(potential)}
    say("What it does not know, it says (largest local std):")
    for r, energy, std in scans["dimer"][::6]:
        say(f"  Si2 at {r:.2f} Å: {energy:8.3f} eV, std {std:.3f} eV")
    for factor, energy, std in scans["stretch"][::4]:
        say(f"  crystal x {factor:.2f}: {energy:7.3f} eV/atom, std {std:.3f} eV")

    model, picture = (os.path.join(folder, f"silicon.{end}") for end in ("kpot", "png"))
    potential.save(model)
    draw(potential, {"train": train, "test": test}, scans, picture)
    say(f"\nwrote {model} and {picture}")
    say("Next: kernelpot info silicon.kpot; kernelpot fit YOUR.xyz -o model.kpot")
    return {
        "errors": errors,
        "dynamics": dynamics,
        "scans": {name: scan.tolist() for name, scan in scans.items()},
        "model": model,
        "picture": picture,
    }


def dimer_scan(potential: KernelPotential) -> FloatArray:
    """Rows of distance [Å], energy over two free atoms [eV], largest local std [eV]."""
    rows = []
    for r in np.linspace(1.6, 7.0, 37):
        found = potential.predict(Atoms("Si2", [[0, 0, 0], [0, 0, r]]), return_std="local")
        assert found.energies_std is not None
        rows.append((r, found.energy - 2 * potential.fitted_.e0.e0[14], found.energies_std.max()))
    return np.array(rows)


def stretch_scan(potential: KernelPotential) -> FloatArray:
    """Rows of linear strain factor, energy per atom over free atoms [eV], local std [eV]."""
    rows = []
    for factor in np.linspace(0.8, 1.4, 25):
        found = potential.predict(bulk("Si", a=5.469 * factor), return_std="local")
        assert found.energies_std is not None
        energy = found.energy / 2 - potential.fitted_.e0.e0[14]
        rows.append((factor, energy, found.energies_std.max()))
    return np.array(rows)


def draw(
    potential: KernelPotential, data: dict[str, Any], scans: dict[str, FloatArray], path: str
) -> None:
    """Parity of energies and forces, and both scans with their std."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    for name, frames in data.items():
        energies, forces = [], []
        for frame in frames:
            found = potential.predict(frame.atoms)
            free = potential.fitted_.e0.total(frame.atoms.numbers)
            if frame.energy is not None:
                reference = (frame.energy - free) / len(frame)
                energies.append((reference, (found.energy - free) / len(frame)))
            if frame.forces is not None:
                forces.append(np.stack([frame.forces.ravel(), found.forces.ravel()], axis=1))
        axes[0, 0].plot(*np.array(energies).T, ".", label=name)
        axes[0, 1].plot(*np.concatenate(forces).T, ".", markersize=2, label=name)
    for axis, unit in ((axes[0, 0], "energy [eV/atom]"), (axes[0, 1], "force component [eV/Å]")):
        limits = [
            min(axis.get_xlim()[0], axis.get_ylim()[0]),
            max(axis.get_xlim()[1], axis.get_ylim()[1]),
        ]
        axis.plot(limits, limits, "k-", linewidth=0.5)
        axis.set(xlabel=f"PBE {unit}", ylabel=f"kernelpot {unit}")
        axis.legend()
    labels = {
        "dimer": ("Si-Si distance [Å]", "energy of the dimer [eV]"),
        "stretch": ("lattice constant / equilibrium", "energy of the crystal [eV/atom]"),
    }
    for axis, (name, (x_label, y_label)) in zip(axes[1], labels.items(), strict=True):
        x, energy, std = scans[name].T
        axis.plot(x, energy)
        axis.fill_between(
            x, energy - 2 * std, energy + 2 * std, alpha=0.3, label="± 2 std (largest atom)"
        )
        low = energy.min()
        axis.set(xlabel=x_label, ylabel=y_label, ylim=(low - 1, max(low + 8, 2)))
        axis.legend()
    figure.savefig(path, dpi=120)
