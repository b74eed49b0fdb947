"""What ``kernelpot md`` starts from, where it stops, and what it says."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.md.bounds import Bounds
    from kernelpot.md.dynamics import Dynamics


def bounds_of(arguments: argparse.Namespace) -> Bounds | None:
    """Bounds of temperature and energy, with defaults for what is not given."""
    from kernelpot.md.bounds import Bounds

    if arguments.no_bounds:
        return None
    names = [field.name for field in fields(Bounds)]
    given = {name: getattr(arguments, name) for name in names}
    return Bounds(**{name: value for name, value in given.items() if value is not None})


def start_structure(arguments: argparse.Namespace) -> Atoms:
    """The structure that dynamics starts from."""
    from kernelpot.data.reading import read_structures

    atoms, _ = read_structures(arguments.structure)[0]
    if any(n < 1 for n in arguments.supercell):
        raise ValueError(f"--supercell must be positive, got {list(arguments.supercell)}")
    if tuple(arguments.supercell) != (1, 1, 1):
        if not atoms.pbc.all():
            raise ValueError("--supercell needs a structure periodic in three directions")
        atoms = atoms.repeat(arguments.supercell)
    return atoms


def write_log(path: str, result: Dynamics) -> None:
    """Write the log of a run as CSV."""
    from kernelpot.md.dynamics import COLUMNS

    with open(path, "w", encoding="utf-8") as stream:
        stream.write(",".join(COLUMNS) + "\n")
        for row in result.rows:
            stream.write(",".join(f"{value:.9g}" for value in row) + "\n")


def dynamics_text(result: Dynamics, memory: float) -> str:
    """About twenty lines of the log of a run, and what came of it."""
    from kernelpot.common.tables import table

    header = [
        "time [ps]",
        "E total [eV/atom]",
        "E pot [eV/atom]",
        "T [K]",
        "max std [eV]",
        "beyond",
    ]
    npt = result.ensemble == "npt"
    if npt:
        header += ["V [Å^3]", "P [GPa]"]
    rows = [
        [
            f"{r[0]:.3f}",
            f"{r[1]:.6f}",
            f"{r[2]:.6f}",
            f"{r[4]:.0f}",
            f"{r[5]:.4f}",
            f"{r[8]:.0f}",
            *([f"{r[7]:.2f}", f"{r[10]:.3f}"] if npt else []),
        ]
        for r in result.rows[:: max(1, len(result.rows) // 20)]
    ]
    lines = [table(header, rows)]
    summary = result.summary()
    drift = summary["drift_ev_per_atom"]
    if drift is not None:
        lines.append(
            f"\ndrift of the total energy {drift:.2e} eV/atom in {summary['time_ps']:.3g} ps"
        )
    mean = summary["mean_temperature_k"]
    if mean is not None:
        over = f"over the second half of the run (from {summary['averages_from_ps']:.3g} ps)"
        said = f"mean temperature {mean:.0f} K"
        if npt:
            said += (
                f", volume {summary['mean_volume_ang3']:.2f} Å^3, pressure "
                f"{summary['mean_pressure_gpa']:.3f} GPa"
            )
        lines.append(f"\n{said} {over}")
    lines.append(
        f"\n{summary['us_per_atom_step']:.1f} us per atom and "
        f"step; largest local std {summary['max_energies_std']:.4f} eV; peak memory "
        f"{memory / 1e9:.2f} GB"
    )
    return "\n".join(lines)
