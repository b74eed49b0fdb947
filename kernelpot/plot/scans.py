"""Energies along scans to where the data end: dimers, and uniform compression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.types import FloatArray, Pair
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.data.distances import is_seen
from kernelpot.data.state import state_of
from kernelpot.plot.protocol import Potential

# Points of a scan of dimers, close enough to look smooth where the wall meets the data.
N_DIMER_POINTS = 300
# A dimer from this share of the shortest distance of the data on, and where there is none from
# this distance [Å]; to so much beyond the cutoff [Å].
SHORTEST_SHARE, SHORTEST, BEYOND_CUTOFF = 0.4, 0.8, 0.5
# Linear factors of the scan of crystals and molecules, how many of them, and their atoms.
FACTORS = (0.6, 1.3)
N_FACTORS = 71
MAX_SCANNED, MAX_SCANNED_ATOMS = 3, 64
# Inward of this share of a structure of the data compression must cost.
COMPRESSED = 0.9
# Rounding: energies [eV] that rise by less on stretching do not pull.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Curve:
    """Energy of a structure along a scan, with the gate and without.

    Attributes
    ----------
    name : str
    x : ndarray of shape (n,)
        Distance [Å] or linear factor, for example.
    gated, ungated, baseline : ndarray of shape (n,)
        Energy over free atoms [eV], of a dimer or per atom of another structure.
    energy_std : ndarray of shape (n,)
        Standard deviation of `ungated`, in its unit; not a number for a slim model that is
        not calibrated.
    std : ndarray of shape (n,)
        Largest local standard deviation [eV].
    penalty : ndarray of shape (n,)
        Largest penalty of an atom [eV].
    contact : float or None
        x inward of which energy must rise: the shortest distance of the data, or what is
        taken for it where they have no such pair; None without a wall.
    x_label, y_label : str
        What is on the axes, with units.
    mark : float or None
        x of what is in the data; None if there is none.
    """

    name: str
    x: FloatArray
    gated: FloatArray
    ungated: FloatArray
    baseline: FloatArray
    energy_std: FloatArray
    std: FloatArray
    penalty: FloatArray
    contact: float | None
    x_label: str = "distance [Å]"
    y_label: str = "energy over free atoms [eV]"
    mark: float | None = None

    @property
    def repulsive(self) -> bool | None:
        """Whether the gated energy rises all the way inward from the data; None if unknown."""
        if self.contact is None:
            return None
        inside = self.gated[self.x <= self.contact]
        return bool((np.diff(inside) <= ROUNDING).all()) if len(inside) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        columns = ("x", "gated", "ungated", "baseline", "energy_std", "std", "penalty")
        return {
            "name": self.name,
            "contact": self.contact,
            "repulsive": self.repulsive,
            **{name: getattr(self, name).tolist() for name in columns},
        }


def dimer_curve(potential: Potential, pair: Pair, *, n_threads: int | None = None) -> Curve:
    """Energy of two atoms against their distance.

    Parameters
    ----------
    potential : KernelPotential
    pair : (int, int)
        Atomic numbers, ascending.
    n_threads : int, optional

    Returns
    -------
    Curve

    Raises
    ------
    ValueError
        If the model or its baseline refuses such a dimer.
    """
    model = potential.model
    a, b = pair
    contact = model.safety.d_min.get(pair)
    start = SHORTEST_SHARE * contact if contact else SHORTEST
    r = np.linspace(start, model.r_cut + BEYOND_CUTOFF, N_DIMER_POINTS)
    return scan(
        potential,
        r,
        [Atoms([a, b], [[0, 0, 0], [0, 0, distance]]) for distance in r],
        name=f"{chemical_symbols[a]}-{chemical_symbols[b]}",
        per_atom=False,
        contact=contact,
        mark=contact if contact is not None and is_seen(pair, contact) else None,
        x_label=f"{chemical_symbols[a]}-{chemical_symbols[b]} distance [Å]",
        y_label="energy over free atoms [eV]",
        n_threads=n_threads,
    )


def dimer_curves(
    potential: Potential, notes: list[str], *, n_threads: int | None = None
) -> list[Curve]:
    """Energy of every pair of species against distance.

    Parameters
    ----------
    potential : KernelPotential
    notes : list of str
        Gets a line for each curve that the baseline does not allow.
    n_threads : int, optional

    Returns
    -------
    list of Curve
    """
    curves: list[Curve] = []
    if potential.model.design.of_molecules:
        notes.append("no curves of dimers: a term of the model compares whole molecules")
        return curves
    for a, b in combinations_with_replacement(potential.model.species, 2):
        try:
            curves.append(dimer_curve(potential, (a, b), n_threads=n_threads))
        except ValueError as error:
            notes.append(f"no curve of {chemical_symbols[a]}-{chemical_symbols[b]}: {error}")
    return curves


def strain_curve(
    potential: Potential,
    atoms: Atoms,
    *,
    name: str | None = None,
    factors: Iterable[float] | None = None,
    n_threads: int | None = None,
) -> Curve:
    """Energy of a structure that is compressed and stretched uniformly.

    Parameters
    ----------
    potential : KernelPotential
    atoms : ase.Atoms
    name : str, optional
        Default: `structure_name`.
    factors : iterable of float, optional
        By what cell and positions are multiplied; 0.6 to 1.3 by default.
    n_threads : int, optional

    Returns
    -------
    Curve

    Raises
    ------
    ValueError
        If the model refuses such a structure.
    """
    x = np.linspace(*FACTORS, N_FACTORS) if factors is None else np.array(list(factors), float)
    scaled = [
        Atoms(
            atoms.numbers,
            factor * atoms.positions,
            cell=factor * atoms.cell.array,
            pbc=atoms.pbc,
            info=state_of(atoms),
        )
        for factor in x
    ]
    return scan(
        potential,
        x,
        scaled,
        name=structure_name(atoms) if name is None else name,
        contact=COMPRESSED,
        mark=1.0,
        x_label="lengths / those of the structure",
        n_threads=n_threads,
    )


def compression_curves(
    potential: Potential,
    data: Dataset,
    notes: list[str],
    *,
    n_threads: int | None = None,
) -> list[Curve]:
    """Energy of small structures of the data that are compressed and stretched uniformly.

    Parameters
    ----------
    potential : KernelPotential
    data : Dataset
    notes : list of str
        Gets a line for each curve that the baseline does not allow.
    n_threads : int, optional

    Returns
    -------
    list of Curve
        The smallest structure of each composition, periodic ones first.
    """
    chosen: dict[str, Frame] = {}
    for frame in sorted(data, key=lambda f: (not np.all(f.atoms.pbc), len(f), f.name)):
        if 1 < len(frame) <= MAX_SCANNED_ATOMS or (len(frame) == 1 and np.all(frame.atoms.pbc)):
            chosen.setdefault(frame.atoms.symbols.get_chemical_formula("hill", True), frame)
    curves = []
    for frame in list(chosen.values())[:MAX_SCANNED]:
        if frame.is_isolated_atom:
            continue
        name = f"{structure_name(frame.atoms)} ({frame.name})"
        try:
            curves.append(strain_curve(potential, frame.atoms, name=name, n_threads=n_threads))
        except ValueError as error:
            notes.append(f"no curve of {name}: {error}")
    return curves


def structure_name(atoms: Atoms) -> str:
    """Formula of a structure, and what it is: two atoms of a crystal are no dimer.

    Parameters
    ----------
    atoms : ase.Atoms

    Returns
    -------
    str
    """
    n_periodic = int(np.sum(atoms.pbc))
    if n_periodic:
        kind = {1: "wire", 2: "slab", 3: "crystal"}[n_periodic]
        atom = "atom" if len(atoms) == 1 else "atoms"
        formula = atoms.symbols.get_chemical_formula("hill", True)
        return f"{formula} {kind}, {len(atoms)} {atom} per cell"
    kind = {1: "atom", 2: "dimer"}.get(len(atoms), "molecule" if len(atoms) < 50 else "cluster")
    return f"{atoms.get_chemical_formula()} {kind}"


def scan(
    potential: Potential,
    x: Sequence[float] | FloatArray,
    structures: Sequence[Atoms],
    *,
    name: str = "",
    per_atom: bool = True,
    contact: float | None = None,
    mark: float | None = None,
    x_label: str = "x",
    y_label: str | None = None,
    n_threads: int | None = None,
) -> Curve:
    """Evaluate structures along a path, with the gate and without.

    Parameters
    ----------
    potential : KernelPotential
    x : sequence of float
        Where each structure is on the path.
    structures : sequence of ase.Atoms
    name : str
    per_atom : bool, default=True
        Whether energies are divided by the number of atoms.
    contact, mark : float, optional
        As in `Curve`.
    x_label, y_label : str, optional
    n_threads : int, optional

    Returns
    -------
    Curve

    Raises
    ------
    ValueError
        If there are not as many structures as points, or the model refuses one of them.
    """
    if len(structures) != len(x) or not len(structures):
        raise ValueError(
            f"a scan needs one x for each of its structures, got {len(x)} for {len(structures)}"
        )
    model = potential.model
    whole = not (model.is_slim and model.calibration is None)
    ungated = list(
        potential.predict_many(
            structures, return_std=True if whole else "local", n_threads=n_threads
        )
    )
    gated = list(potential.predict_many(structures, gate=True, n_threads=n_threads))
    free = np.array([model.e0.total(atoms.numbers) for atoms in structures])
    scale = np.array([1.0 / len(atoms) if per_atom else 1.0 for atoms in structures])
    known = [model.reference.labels(atoms)[0] for atoms in structures]
    per = "eV/atom" if per_atom else "eV"
    return Curve(
        name,
        np.asarray(x, dtype=float),
        (np.array([p.energy for p in gated]) - free) * scale,
        (np.array([p.energy for p in ungated]) - free) * scale,
        (np.array(known) - free) * scale,
        np.array([np.nan if p.energy_std is None else p.energy_std for p in ungated]) * scale,
        np.array([_largest(p.energies_std) for p in ungated]),
        np.array([_largest(p.penalty) for p in gated]),
        contact,
        x_label,
        f"energy over free atoms [{per}]" if y_label is None else y_label,
        mark,
    )


def _largest(values: FloatArray | None) -> float:
    assert values is not None
    return float(values.max())
