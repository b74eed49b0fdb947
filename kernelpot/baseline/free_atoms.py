"""Energies of isolated atoms: from the data, given, or by least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from kernelpot.common.types import IntArray
from kernelpot.data.dataset import Dataset


@dataclass(frozen=True)
class AtomicEnergies:
    """Energies of isolated atoms, and how they were found.

    Attributes
    ----------
    e0 : dict of int to float
        Atomic number to energy [eV].
    origin : str
        "isolated atoms", "given" or "least squares".
    note : str
        What the user should know about them.
    undetermined : sequence of int
        Species whose values the compositions of the data leave open.
    """

    e0: Mapping[int, float]
    origin: str
    note: str = ""
    undetermined: Sequence[int] = ()

    @property
    def absolute(self) -> bool:
        """Whether they are energies of free atoms (dissociation means something)."""
        return self.origin in ("isolated atoms", "given")

    def total(self, numbers: IntArray) -> float:
        """Sum over the atoms of a structure [eV]."""
        return float(sum(self.e0[int(z)] for z in numbers))


def atomic_energies(
    data: Dataset,
    given: Mapping[int, float] | str | None = None,
    explained: Sequence[float] | None = None,
) -> AtomicEnergies:
    """Find e0 of every species of the data.

    Parameters
    ----------
    data : Dataset
    given : mapping of atomic number to float, "isolated", "least_squares" or None
        Values [eV], or where to take them from. None: isolated atoms if the data have
        one of each species, otherwise least squares.
    explained : sequence of float, optional
        Energy of each frame that least squares need not explain [eV].

    Raises
    ------
    ValueError
        If values or isolated atoms are missing for a species, or no frame has an
        energy.
    """
    species = data.species
    if isinstance(given, Mapping):
        missing = [chemical_symbols[z] for z in species if z not in given]
        if missing:
            raise ValueError(f"`e0` has no value for {', '.join(missing)}")
        return AtomicEnergies({z: float(given[z]) for z in species}, "given")
    isolated: dict[int, list[float]] = {}
    for frame in data:
        if frame.is_isolated_atom and frame.energy is not None:
            isolated.setdefault(int(frame.atoms.numbers[0]), []).append(frame.energy)
    missing = [chemical_symbols[z] for z in species if z not in isolated]
    if given == "isolated" and missing:
        raise ValueError(
            f"no isolated atom of {', '.join(missing)} in the data; add one, give e0, or "
            "use e0='least_squares'"
        )
    if not missing and given != "least_squares":
        found = {z: float(np.median(values)) for z, values in isolated.items()}
        return AtomicEnergies({z: found[z] for z in species}, "isolated atoms")
    known = [0.0] * len(data) if explained is None else explained
    energies = [(f, f.energy - e) for f, e in zip(data, known, strict=True) if f.energy is not None]
    labelled = [f for f, _ in energies]
    if not labelled:
        note = "no energies in the data: e0 = 0, energies are defined up to a constant"
        return AtomicEnergies(dict.fromkeys(species, 0.0), "least squares", note, species)
    counts = np.array([[np.sum(f.atoms.numbers == z) for z in species] for f in labelled])
    size = counts.sum(axis=1)
    composition = counts / size[:, None]
    target = np.array([energy for _, energy in energies], dtype=float) / size
    solution, _, rank, _ = np.linalg.lstsq(composition, target, rcond=1e-8)
    # directions of e0 that change no energy
    null = np.linalg.svd(composition)[2][rank:]
    undetermined = [
        z for z, v in zip(species, null.T, strict=True) if np.abs(v).max(initial=0) > 1e-6
    ]
    note = "dissociation energies mean nothing: e0 is a fit, not the energy of free atoms"
    if isolated and missing:
        found_of = ", ".join(chemical_symbols[z] for z in sorted(isolated))
        note += (
            f"; the data have isolated atoms of {found_of} but not of {', '.join(missing)}: add "
            "them, or give e0"
        )
    if rank < len(species):
        note += (
            f"; the compositions determine only {rank} of {len(species)} values "
            "(minimum norm taken)"
        )
    return AtomicEnergies(
        {z: float(e) for z, e in zip(species, solution, strict=True)},
        "least squares",
        note,
        undetermined,
    )
