"""The main job in one command: fit shipped data, evaluate, run dynamics, draw."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from ase.build import bulk

from kernelpot.common.axes import require_matplotlib
from kernelpot.data.dataset import Dataset
from kernelpot.datasets import load_silicon
from kernelpot.md.dynamics import run_dynamics
from kernelpot.model.errors import evaluate
from kernelpot.plot.draw import SCAN, draw_curve
from kernelpot.plot.scans import Curve, dimer_curve, strain_curve
from kernelpot.potential import KernelPotential

# Lattice constant of the data [Å].
LATTICE = 5.469


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

    crystal = bulk("Si", a=LATTICE, cubic=True).repeat(2)
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

    scans = scans_of(potential, n_threads)
    say("What it does not know, it says (kernels alone, without the safety net):")
    for start, unit, curve, every in (
        ("Si2 at", "eV", scans["dimer"], 40),
        ("crystal x", "eV/atom", scans["stretch"], 10),
    ):
        for x, energy, std in list(zip(curve.x, curve.ungated, curve.energy_std, strict=True))[
            ::every
        ]:
            say(f"  {start} {x:.2f}: {energy:8.3f} ± {std:.3f} {unit}")

    model, picture = (os.path.join(folder, f"silicon.{end}") for end in ("kpot", "png"))
    potential.save(model)
    draw(potential, {"train": train, "test": test}, scans, picture, n_threads)
    say(f"\nwrote {model} and {picture}")
    say("Next: kernelpot info silicon.kpot; kernelpot fit YOUR.xyz -o model.kpot")
    return {
        "errors": errors,
        "dynamics": dynamics,
        "scans": {name: scan.to_dict() for name, scan in scans.items()},
        "model": model,
        "picture": picture,
    }


def scans_of(potential: KernelPotential, n_threads: int | None = None) -> dict[str, Curve]:
    """Energies of the dimer, and of the crystal compressed and stretched."""
    crystal = bulk("Si", a=LATTICE)
    return {
        "dimer": dimer_curve(potential, (14, 14), n_threads=n_threads),
        "stretch": strain_curve(
            potential, crystal, factors=np.linspace(0.8, 1.4, 61), n_threads=n_threads
        ),
    }


def draw(
    potential: KernelPotential,
    data: dict[str, Dataset],
    scans: dict[str, Curve],
    path: str,
    n_threads: int | None = None,
) -> None:
    """Parity of energies and forces, and both scans with their std."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * SCAN[0], 2 * SCAN[1]), layout="constrained")
    axes = figure.subplots(2, 2)
    for name, frames in data.items():
        for k, quantity in enumerate(("energy", "forces")):
            potential.plot.parity(
                frames, quantity, label=name, axes=axes[0, k], n_threads=n_threads
            )
    for panel, curve in zip(axes[1], scans.values(), strict=True):
        draw_curve(panel, curve)
    figure.savefig(path, dpi=120)
