"""Structures numbered through with all their pairs: what baseline, terms and kernels are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from kernelpot.common.types import FloatArray, IntArray, SingleArray
from kernelpot.data import _pairs
from kernelpot.data.neighbors import NeighborList, neighbor_list, pair_forces, pair_virial


@dataclass(frozen=True)
class System:
    """Structures numbered through, with all pairs within the reach of the terms.

    Attributes
    ----------
    structures : sequence of ase.Atoms
    numbers : ndarray of shape (n_atoms,)
        Atomic numbers.
    pairs : NeighborList
        Both directions of every pair, possibly with pairs beyond the reach of a term.
    displacements : ndarray of shape (n_pairs, 3)
        From center to neighbor [Å].
    distances : ndarray of shape (n_pairs,)
        [Å].
    n_ghosts : int
        So many atoms at the end are there as neighbors only: they have no pairs, and their own
        energies are not wanted (`region`).
    """

    structures: Sequence[Atoms]
    numbers: IntArray
    pairs: NeighborList
    displacements: FloatArray
    distances: FloatArray
    n_ghosts: int = 0

    @classmethod
    def of(
        cls,
        structures: Sequence[Atoms],
        r_cut: float,
        *,
        pairs: NeighborList | None = None,
        displacements: FloatArray | None = None,
        n_ghosts: int = 0,
    ) -> System:
        """Number structures through, and find their pairs unless they are given.

        Parameters
        ----------
        structures : sequence of ase.Atoms
        r_cut : float
            Reach of the terms [Å].
        pairs : NeighborList, optional
            All pairs to at least `r_cut`.
        displacements : ndarray of shape (n_pairs, 3), optional
            Of these pairs [Å].
        n_ghosts : int
            Atoms at the end that are neighbors only.
        """
        if pairs is None:
            pairs = neighbor_list(structures, r_cut)
        if len(structures) == 1:
            numbers = structures[0].numbers.copy()
        else:
            numbers = np.concatenate([atoms.numbers for atoms in structures])
        n_atoms = len(numbers)
        if displacements is not None:
            pairs.check(n_atoms)
            if len(displacements) != pairs.n_pairs:
                raise ValueError(
                    f"{len(displacements)} displacements for a list of {pairs.n_pairs} pairs"
                )
        if displacements is None:
            displacements = pairs.displacements(
                structures[0].positions
                if len(structures) == 1
                else np.concatenate([a.positions for a in structures])
            )
        return cls(
            structures,
            numbers,
            pairs,
            displacements,
            np.sqrt(np.einsum("pc,pc->p", displacements, displacements)),
            n_ghosts,
        )

    @classmethod
    def region(
        cls, numbers: IntArray, first: IntArray, neighbors: IntArray, displacements: FloatArray
    ) -> System:
        """Part of a structure that is not known as a whole: some atoms with their neighbors.

        Parameters
        ----------
        numbers : ndarray of shape (n_atoms,)
            Atomic numbers: of the centers, then of ghosts that are neighbors only (images of a
            center are ghosts of their own).
        first : ndarray of shape (n_centers + 1,)
            Pairs of center ``i`` are ``first[i] .. first[i + 1] - 1``.
        neighbors : ndarray of shape (n_pairs,)
            Any atom, center or ghost.
        displacements : ndarray of shape (n_pairs, 3)
            From center to neighbor [Å].

        Returns
        -------
        System
            Of one structure, of which nothing but the number of atoms can be asked.

        Raises
        ------
        ValueError
            If the list is not of these atoms, or the displacements not of this list.
        """
        n_ghosts = len(numbers) - (len(first) - 1)
        first = np.concatenate([first, np.full(max(n_ghosts, 0), len(neighbors))]).astype(np.int64)
        no_shifts = np.broadcast_to(0.0, (len(neighbors), 3))
        pairs = NeighborList(first, np.asarray(neighbors, dtype=np.int64), no_shifts)
        return cls.of(
            cast("Sequence[Atoms]", [_Unseen(np.asarray(numbers))]),
            0.0,
            pairs=pairs,
            displacements=np.ascontiguousarray(displacements, dtype=float),
            n_ghosts=n_ghosts,
        )

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all structures."""
        return len(self.numbers)

    @property
    def n_centers(self) -> int:
        """Number of atoms whose energies are wanted: all but ghosts."""
        return len(self.numbers) - self.n_ghosts

    @property
    def n_structures(self) -> int:
        """Number of structures."""
        return len(self.structures)

    @cached_property
    def _z_index(self) -> dict[tuple[int, ...], IntArray]:
        return {}

    @cached_property
    def memo(self) -> dict[int, Any]:
        """What descriptors keep of these structures, by their identity: for several evaluations."""
        return {}

    def z_index(self, species: Sequence[int]) -> IntArray:
        """Index of each atom's species in an ascending tuple; see `species_index`."""
        known = self._z_index
        key = tuple(species)
        if key not in known:
            known[key] = species_index(self.numbers, key)
        return known[key]

    @cached_property
    def structure_of(self) -> IntArray:
        """Structure that each atom belongs to, shape (n_atoms,)."""
        if self.n_structures == 1:
            return np.zeros(self.n_atoms, dtype=np.int64)
        return np.repeat(np.arange(self.n_structures), np.diff(self.first_atom))

    def part(self, index: int) -> System:
        """One of the structures as a system of its own."""
        start, stop = (int(a) for a in self.first_atom[index : index + 2])
        p = slice(self.pairs.first[start], self.pairs.first[stop])
        pairs = NeighborList(
            self.pairs.first[start : stop + 1] - p.start,
            self.pairs.neighbors[p] - start,
            self.pairs.shifts[p],
        )
        return System(
            [self.structures[index]],
            self.numbers[start:stop],
            pairs,
            self.displacements[p],
            self.distances[p],
        )

    def run(self, atoms: slice) -> System:
        """The same atoms with the pairs of a run of centers only."""
        start, stop = self.pairs.first[atoms.start], self.pairs.first[atoms.stop]
        pairs = NeighborList(
            np.clip(self.pairs.first, start, stop) - start,
            self.pairs.neighbors[start:stop],
            self.pairs.shifts[start:stop],
        )
        return System(
            self.structures,
            self.numbers,
            pairs,
            self.displacements[start:stop],
            self.distances[start:stop],
            self.n_ghosts,
        )

    @cached_property
    def first_atom(self) -> IntArray:
        """Atoms of structure ``s`` are ``first_atom[s] .. first_atom[s + 1] - 1``."""
        return np.concatenate([[0], np.cumsum([len(atoms) for atoms in self.structures])])

    def forces(self, result: Contribution) -> FloatArray:
        """Forces of what has been accumulated [eV/Å], shape (n_atoms, 3)."""
        return pair_forces(self.pairs, result.gradient) + result.forces

    def virials(self, result: Contribution) -> list[FloatArray]:
        """Virial (-dE/d strain) of every structure [eV], each of shape (3, 3)."""
        bounds = self.pairs.first[self.first_atom]
        return [
            virial + pair_virial(self.displacements[start:stop], result.gradient[start:stop])
            for start, stop, virial in zip(bounds[:-1], bounds[1:], result.virials, strict=True)
        ]

    def of_members(self, gradients: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Forces and virial of one structure from derivatives of several energies.

        Parameters
        ----------
        gradients : ndarray of float32, shape (n_pairs, 3, n_members)
            Derivatives by the displacements [eV/Å].

        Returns
        -------
        forces : ndarray of shape (n_members, n_atoms, 3)
            [eV/Å].
        virials : ndarray of shape (n_members, 3, 3)
            [eV].
        """
        n = gradients.shape[2]
        forces, virials = np.zeros((self.n_atoms, 3 * n)), np.zeros((3, 3 * n))
        _pairs.members(
            self.pairs.first, self.pairs.neighbors, self.displacements, gradients, forces, virials
        )
        return (
            np.ascontiguousarray(forces.reshape(-1, 3, n).transpose(2, 0, 1)),
            np.ascontiguousarray(virials.reshape(3, 3, n).transpose(2, 0, 1)),
        )

    def atom_virials(self, result: Contribution) -> FloatArray:
        """Share of each atom in the virial of its structure [eV], shape (n_atoms, 3, 3).

        A pair gives half to either atom; what is no derivative by pair displacements is shared
        alike among the atoms of a structure.
        """
        products = -0.5 * np.einsum("pa,pb->pab", self.displacements, result.gradient)
        products = products.reshape(-1, 9)
        share = np.zeros((self.n_atoms, 9))
        for atoms in (self.pairs.centers, self.pairs.neighbors):
            for component in range(9):
                share[:, component] += np.bincount(
                    atoms, products[:, component], minlength=self.n_atoms
                )
        sizes = np.maximum(np.diff(self.first_atom), 1)  # a region may be empty
        rest = (result.virials / sizes[:, None, None])[self.structure_of]
        return share.reshape(-1, 3, 3) + rest


class _Unseen:
    """The structure a region is part of: only its atoms here are known."""

    def __init__(self, numbers: IntArray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ValueError(
            f"a region knows its atoms and their pairs, not the structure it is part of: {name!r} "
            "was asked of that (by a part of the model that needs whole structures)"
        )


def volume_of(atoms: Atoms) -> float | None:
    """Volume of a cell of three vectors [Å^3], whatever its periodicity; None without one.

    Parameters
    ----------
    atoms : ase.Atoms

    Returns
    -------
    float or None
        None also where the vectors are linearly dependent.
    """
    cell = atoms.cell.array
    if not cell.any():
        return None
    volume = abs(float(np.linalg.det(cell)))
    return volume if volume > 1e-6 else None


@dataclass(frozen=True)
class Contribution:
    """What terms add to, in place.

    Attributes
    ----------
    energies : ndarray of shape (n_atoms,)
        Energy of each atom [eV].
    gradient : ndarray of shape (n_pairs, 3)
        Derivative of the total energy by each pair displacement [eV/Å].
    forces : ndarray of shape (n_atoms, 3)
        Forces that are no derivative by pair displacements (reciprocal space) [eV/Å].
    virials : ndarray of shape (n_structures, 3, 3)
        Virials (-dE/d strain) that are no derivative by pair displacements [eV].
    """

    energies: FloatArray
    gradient: FloatArray
    forces: FloatArray
    virials: FloatArray

    @classmethod
    def zero(cls, system: System) -> Contribution:
        """Nothing yet."""
        n_atoms = len(system.numbers)
        return cls.onto(system, np.zeros(n_atoms), np.zeros((system.pairs.n_pairs, 3)))

    @classmethod
    def onto(cls, system: System, energies: FloatArray, gradient: FloatArray) -> Contribution:
        """Add to energies and pair gradients that are there already."""
        n_atoms, n_structures = len(system.numbers), len(system.structures)
        return cls(energies, gradient, np.zeros((n_atoms, 3)), np.zeros((n_structures, 3, 3)))


def species_index(numbers: IntArray, species: Sequence[int]) -> IntArray:
    """Index of each atom's species in the ascending tuple `species`.

    Raises
    ------
    ValueError
        Naming the elements that are not in `species`.
    """
    known = np.asarray(species)
    index = np.searchsorted(known, numbers)
    index = np.minimum(index, len(known) - 1)
    wrong = np.asarray(numbers)[known[index] != numbers]
    if wrong.size:
        names = sorted({chemical_symbols[z] for z in wrong})
        have = ", ".join(chemical_symbols[z] for z in known)
        raise ValueError(f"unknown species {', '.join(names)}: the model knows {have}")
    return index.astype(np.int64)


# Cartesian axes of the components xx yy zz yz xz xy.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
VOIGT_ROWS, VOIGT_COLUMNS = (list(axis) for axis in zip(*VOIGT, strict=True))


def voigt(full: FloatArray) -> FloatArray:
    """Symmetrize a 3x3 tensor and list xx yy zz yz xz xy."""
    found: FloatArray = full_3x3_to_voigt_6_stress(full)
    return found
