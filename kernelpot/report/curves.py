"""Energies along scans to where the data end: dimers, and uniform compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.types import FloatArray
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.potential import KernelPotential

# Points of a scan; a dimer from this share of the shortest distance of the data on.
N_POINTS = 60
SHORTEST_SHARE = 0.4
# Linear factors of the scan of crystals and molecules, how many of them, and their atoms.
FACTORS = (0.6, 1.3)
MAX_SCANNED, MAX_SCANNED_ATOMS = 3, 64
# Rounding: energies [eV] that rise by less on stretching do not pull.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Curve:
    """Energy of a structure along a scan, with the gate and without.

    Attributes
    ----------
    name : str
    x : ndarray of shape (n,)
        Distance [Å] or linear factor.
    gated, ungated, baseline : ndarray of shape (n,)
        Energy over free atoms [eV], of a dimer or per atom of a crystal.
    std : ndarray of shape (n,)
        Largest local standard deviation [eV].
    penalty : ndarray of shape (n,)
        Largest penalty of an atom [eV].
    contact : float or None
        x of the shortest distance of the data; None where they have no such pair.
    """

    name: str
    x: FloatArray
    gated: FloatArray
    ungated: FloatArray
    baseline: FloatArray
    std: FloatArray
    penalty: FloatArray
    contact: float | None

    @property
    def repulsive(self) -> bool | None:
        """Whether the gated energy rises all the way inward from the data; None if unknown."""
        if self.contact is None:
            return None
        inside = self.gated[self.x <= self.contact]
        return bool((np.diff(inside) <= ROUNDING).all()) if len(inside) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        columns = ("x", "gated", "ungated", "baseline", "std", "penalty")
        return {
            "name": self.name,
            "contact": self.contact,
            "repulsive": self.repulsive,
            **{name: getattr(self, name).tolist() for name in columns},
        }


def dimer_curves(
    potential: KernelPotential, notes: list[str], *, n_threads: int | None = None
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
    model = potential.model
    curves: list[Curve] = []
    if model.design.of_molecules:
        notes.append("no curves of dimers: a term of the model compares whole molecules")
        return curves
    for a, b in combinations_with_replacement(model.species, 2):
        contact = model.safety.d_min.get((a, b))
        start = SHORTEST_SHARE * contact if contact else 0.8
        r = np.linspace(start, model.r_cut + 0.5, N_POINTS)
        name = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
        dimers = [Atoms([a, b], [[0, 0, 0], [0, 0, distance]]) for distance in r]
        curve = _curve(
            potential, name, r, dimers, contact, notes, per_atom=False, n_threads=n_threads
        )
        curves += [] if curve is None else [curve]
    return curves


def compression_curves(
    potential: KernelPotential,
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
    factors = np.linspace(*FACTORS, N_POINTS)
    curves = []
    for frame in list(chosen.values())[:MAX_SCANNED]:
        name = f"{frame.atoms.get_chemical_formula()} ({frame.name})"
        scaled = []
        for factor in factors:
            atoms = Atoms(
                frame.atoms.numbers,
                factor * frame.atoms.positions,
                cell=factor * frame.atoms.cell.array,
                pbc=frame.atoms.pbc,
            )
            scaled.append(atoms)
        # the structure itself is data: inward of it compression must cost
        curve = _curve(potential, name, factors, scaled, 0.9, notes, n_threads=n_threads)
        curves += [] if curve is None else [curve]
    return curves


def _curve(
    potential: KernelPotential,
    name: str,
    x: FloatArray,
    structures: Sequence[Atoms],
    contact: float | None,
    notes: list[str],
    *,
    per_atom: bool = True,
    n_threads: int | None = None,
) -> Curve | None:
    """Evaluate a scan; None, and a note, where the model refuses these structures."""
    model = potential.model
    scale = 1.0 / len(structures[0]) if per_atom else 1.0
    free = model.e0.total(structures[0].numbers)
    try:
        ungated = list(potential.predict_many(structures, return_std="local", n_threads=n_threads))
        gated = list(potential.predict_many(structures, gate=True, n_threads=n_threads))
    except ValueError as error:
        notes.append(f"no curve of {name}: {error}")
        return None
    known = [model.reference.labels(atoms)[0] for atoms in structures]
    return Curve(
        name,
        x,
        np.array([(p.energy - free) * scale for p in gated]),
        np.array([(p.energy - free) * scale for p in ungated]),
        np.array([(energy - free) * scale for energy in known]),
        np.array([_largest(p.energies_std) for p in ungated]),
        np.array([_largest(p.penalty) for p in gated]),
        contact,
    )


def _largest(values: FloatArray | None) -> float:
    assert values is not None
    return float(values.max())
