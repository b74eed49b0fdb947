"""Neighbor lists: full, sorted by center (CSR), every periodicity.

The pairs come from `vesin`; this module adds what molecular dynamics needs: a list
over many structures at once (for fitting) and a list that survives small moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms

from kernelpot.common.types import BoolArray, FloatArray, IntArray
from kernelpot.data import _pairs

# What an atom of a dense solid or a molecule occupies, about [Å^3].
VOLUME_PER_ATOM = 10.0

# Species of the pairs of lists as short as this are all looked at once, and remembered.
MANY_PAIRS = 4096

# Searches take long where cells are many more than atoms, empty ones included.
CELLS, CELLS_PER_ATOM = 100, 4


@dataclass(frozen=True)
class NeighborList:
    """Pairs ``i -> j`` of one or several structures, sorted by center.

    Parameters
    ----------
    first : ndarray of shape (n_atoms + 1,)
        Pairs of center ``i`` are ``first[i] .. first[i + 1] - 1``.
    neighbors : ndarray of shape (n_pairs,)
        Index of the neighboring atom of each pair.
    shifts : ndarray of shape (n_pairs, 3)
        Cartesian translation of the neighbor's periodic image [Å]: the displacement
        of a pair is ``positions[j] - positions[i] + shift``.
    """

    first: IntArray
    neighbors: IntArray
    shifts: FloatArray
    _sound_for: int = field(default=-1, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Fields, without what is remembered: copies and files have no use for it."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def n_pairs(self) -> int:
        """Number of pairs, both directions counted."""
        return len(self.neighbors)

    @cached_property
    def centers(self) -> IntArray:
        """Index of the center of each pair, shape (n_pairs,)."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def species_codes(self, numbers: IntArray) -> tuple[IntArray, IntArray]:
        """Species of the atoms of each pair as one number, and those that occur; remembered.

        Parameters
        ----------
        numbers : ndarray of shape (n_atoms,)
            Atomic numbers.

        Returns
        -------
        codes : ndarray of shape (n_pairs,)
            1000 times the smaller atomic number, plus the larger.
        present : ndarray
            Ascending.
        """
        known = self._codes.get("last")
        if known is None or not np.array_equal(known[0], numbers):
            codes = _species_code(numbers[self.centers], numbers[self.neighbors])
            known = self._codes["last"] = numbers.copy(), codes, np.unique(codes)
        return known[1:]

    @cached_property
    def _codes(self) -> dict[str, tuple[IntArray, IntArray, IntArray]]:
        """Of `species_codes`: for which atomic numbers, and what was found."""
        return {}

    @cached_property
    def memo(self) -> dict[int, Any]:
        """What others keep of these pairs, by their identity: for atoms that move."""
        return {}

    def check(self, n_atoms: int) -> None:
        """Refuse a list that is not of so many atoms: compiled loops go by it unchecked.

        Parameters
        ----------
        n_atoms : int

        Raises
        ------
        ValueError
            If the list is of another number of atoms, or names one that does not exist.
        """
        if n_atoms == self._sound_for:
            return
        first, neighbors = np.asarray(self.first), np.asarray(self.neighbors)
        sound = (
            len(first) == n_atoms + 1
            and first[0] == 0
            and first[-1] == len(neighbors) == len(self.shifts)
            and bool(np.all(np.diff(first) >= 0))
            and (not len(neighbors) or (neighbors.min() >= 0 and neighbors.max() < n_atoms))
        )
        if not sound:
            raise ValueError(
                f"the neighbor list is of another structure than the {n_atoms} atoms given: it has "
                f"{len(first) - 1} centers and {len(neighbors)} pairs with atoms up to "
                f"{neighbors.max() if len(neighbors) else '-'}; search for neighbors anew"
            )
        object.__setattr__(self, "_sound_for", n_atoms)

    def displacements(self, positions: FloatArray) -> FloatArray:
        """Vectors from center to neighbor.

        Parameters
        ----------
        positions : ndarray of shape (n_atoms, 3)
            [Å].

        Returns
        -------
        ndarray of shape (n_pairs, 3)
            [Å].

        Raises
        ------
        ValueError
            If the list is not of so many atoms.
        """
        positions = np.asarray(positions, dtype=float)
        self.check(len(positions))
        found = np.empty((self.n_pairs, 3))
        _pairs.displacements(self.first, self.neighbors, self.shifts, positions, found)
        return found


def _box(atoms: Atoms) -> FloatArray:
    """Cell with missing vectors filled in; zero without any periodicity."""
    return np.array(atoms.cell.complete()) if np.any(atoms.pbc) else np.zeros((3, 3))


def _search(atoms: Atoms, cutoff: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Where the pairs of each center start, their neighbors, and shifts in cells."""
    if cutoff <= 0 or not len(atoms):
        return (
            np.zeros(len(atoms) + 1, dtype=np.int64),
            np.empty(0, dtype=np.int64),
            np.empty((0, 3)),
        )
    import vesin

    pbc, box = np.asarray(atoms.pbc, dtype=bool), _box(atoms)
    points, reach = _compact(np.ascontiguousarray(atoms.positions, dtype=float), box, pbc, cutoff)
    # each pair once: sorting both directions here takes a third of the time
    search = vesin.NeighborList(cutoff=reach, full_list=False, sorted=False, n_threads=1)
    i, j, shift = search.compute(
        points=points,
        box=box,
        periodic=pbc if pbc.any() else False,
        quantities="ijS",
        copy=False,
    )
    if reach > cutoff:
        apart = points[j] - points[i] + shift @ box
        near = np.einsum("pc,pc->p", apart, apart) < cutoff**2
        i, j, shift = i[near], j[near], shift[near]
    first = np.zeros(len(atoms) + 1, dtype=np.int64)
    neighbors = np.empty(2 * len(i), dtype=np.int64)
    shifts = np.empty((2 * len(i), 3))
    _pairs.both_directions(i, j, shift, first, neighbors, shifts)
    return first, neighbors, shifts


def _compact(
    points: FloatArray, box: FloatArray, pbc: BoolArray, cutoff: float
) -> tuple[FloatArray, float]:
    """Positions and a cutoff with the same pairs, for a search that visits empty cells too.

    The search sorts atoms into cells as wide as the cutoff. Space without atoms along open
    directions is left out, and where there are still many more cells than atoms these are
    made wider: whoever searches so drops pairs beyond the cutoff.
    """
    most = CELLS + CELLS_PER_ATOM * len(points)
    periodic = box[pbc]
    edges = np.linalg.norm(periodic, axis=1).max(initial=0.0)
    longest = max(edges, 0.0 if pbc.all() else np.linalg.norm(np.ptp(points, axis=0)))
    if (longest / cutoff) ** 3 < most:
        return points, cutoff
    open_axes = np.linalg.svd(periodic)[2][len(periodic) :]  # orthonormal, across the periodic
    along = points @ open_axes.T
    if len(open_axes):
        closed = _without_gaps(along, 2 * cutoff)
        points, along = points + (closed - along) @ open_axes, closed
    heights = 1 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)
    extents = np.append(heights, np.ptp(along, axis=0))
    reach = cutoff
    while np.prod(np.maximum(extents / reach, 1)) > most:
        reach *= 1.2
    return points, reach


def _without_gaps(along: FloatArray, widest: float) -> FloatArray:
    """Coordinates with gaps between successive ones shortened to `widest`."""
    order = np.argsort(along, axis=0)
    steps = np.diff(np.take_along_axis(along, order, axis=0), axis=0, prepend=0)
    steps[0] = 0
    closed = np.empty_like(along)
    np.put_along_axis(closed, order, np.cumsum(np.minimum(steps, widest), axis=0), axis=0)
    return closed


def neighbor_list(structures: Atoms | Sequence[Atoms], cutoff: float) -> NeighborList:
    """Find all pairs closer than `cutoff`.

    Parameters
    ----------
    structures : ase.Atoms or sequence of ase.Atoms
        With several structures the atoms are numbered consecutively.
    cutoff : float
        Largest pair distance [Å]; there are no pairs if it is zero.

    Returns
    -------
    NeighborList
        Pairs sorted by center.
    """
    if isinstance(structures, Atoms):
        structures = [structures]
    found = []
    n_atoms = n_pairs = 0
    for atoms in structures:
        first, neighbors, shifts = _search(atoms, cutoff)
        found.append((first[:-1] + n_pairs, neighbors + n_atoms, shifts @ _box(atoms)))
        n_atoms += len(atoms)
        n_pairs += len(neighbors)
    starts, all_neighbors, all_shifts = (
        part[0] if len(found) == 1 else np.concatenate(part) for part in zip(*found, strict=True)
    )
    return NeighborList(np.append(starts, n_pairs), all_neighbors, all_shifts)


def expected_pairs(atoms: Atoms, r_cut: float) -> float:
    """About how many pairs a structure has, both directions counted, without a search.

    Parameters
    ----------
    atoms : ase.Atoms
    r_cut : float
        [Å].
    """
    n = len(atoms)
    volume = VOLUME_PER_ATOM * n
    if np.all(atoms.pbc):
        volume = max(volume, float(atoms.get_volume()))
    found = n * n * (4.0 / 3.0) * np.pi * r_cut**3 / volume
    return float(found if np.any(atoms.pbc) else min(found, n * (n - 1)))


def by_species(
    numbers: IntArray, pairs: NeighborList, chosen: IntArray
) -> Iterator[tuple[tuple[int, int], IntArray]]:
    """Sort pairs by the species of their atoms.

    Parameters
    ----------
    numbers : ndarray of shape (n_atoms,)
        Atomic numbers.
    pairs : NeighborList
    chosen : ndarray of shape (n,)
        Indices of the pairs to sort.

    Yields
    ------
    species : (Z, Z')
        Atomic numbers, ascending.
    members : ndarray of shape (n_members,)
        Positions in `chosen` of their pairs, ascending.
    """
    if len(chosen) and np.all(numbers == numbers[0]):
        yield (int(numbers[0]), int(numbers[0])), np.arange(len(chosen))
        return
    if pairs.n_pairs <= MANY_PAIRS:
        codes, present = pairs.species_codes(numbers)
        code = codes[chosen]
    else:
        code = _species_code(numbers[pairs.centers[chosen]], numbers[pairs.neighbors[chosen]])
        present = np.unique(code)
    for found in present.tolist():
        members = np.flatnonzero(code == found)
        if len(members):
            yield (found // 1000, found % 1000), members


def _species_code(z1: IntArray, z2: IntArray) -> IntArray:
    """One number for each pair of species, whatever their order."""
    found: IntArray = np.minimum(z1, z2) * 1000 + np.maximum(z1, z2)
    return found


def pair_forces(pairs: NeighborList, gradient: FloatArray) -> FloatArray:
    """Forces from the derivative of the energy by displacements.

    Parameters
    ----------
    pairs : NeighborList
    gradient : ndarray of shape (n_pairs, 3)
        [eV/Å].

    Returns
    -------
    ndarray of shape (n_atoms, 3)
        [eV/Å].
    """
    forces = np.zeros((len(pairs.first) - 1, 3))
    _pairs.forces(pairs.first, pairs.neighbors, np.ascontiguousarray(gradient), forces)
    return forces


def pair_virial(displacements: FloatArray, gradient: FloatArray) -> FloatArray:
    """Virial (-dE/d strain) from the derivative of the energy by displacements.

    Parameters
    ----------
    displacements : ndarray of shape (n_pairs, 3)
        [Å].
    gradient : ndarray of shape (n_pairs, 3)
        [eV/Å].

    Returns
    -------
    ndarray of shape (3, 3)
        [eV].
    """
    virial = np.zeros((3, 3))
    _pairs.virial(displacements, gradient, virial)
    return virial


class SkinList:
    """A neighbor list that is reused while atoms move little (Verlet skin).

    The list holds all pairs within ``cutoff + skin``. With the cell changed by the
    affine map F and the atoms displaced by at most u beyond it, no pair can have come
    closer than the cutoff unseen as long as
    ``2 u + |F - 1| (cutoff + skin) <= skin``; otherwise it is rebuilt.

    Parameters
    ----------
    cutoff : float
        Largest interaction distance [Å].
    skin : float, default=0.5
        Extra distance [Å]; 0 rebuilds at every change.

    Attributes
    ----------
    n_builds : int
        How often the list was built.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        if not (np.isfinite(skin) and skin >= 0):
            raise ValueError(f"`skin` must not be negative, got {skin!r} Å")
        self.cutoff = cutoff
        self.skin = skin
        self.n_builds = 0
        self._built: tuple[Atoms, IntArray, IntArray, FloatArray] | None = None
        self._list: tuple[FloatArray, NeighborList] | None = None

    def update(self, atoms: Atoms) -> NeighborList:
        """Return a list that is complete for `atoms`, rebuilding only if needed."""
        if self._built is None or not self._valid(atoms):
            first, j, shift = _search(atoms, self.cutoff + self.skin)
            copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            self._built = copy, first, j, shift
            self._list = None
            self.n_builds += 1
        box = _box(atoms)
        if self._list is None or not np.array_equal(self._list[0], box):
            _, first, j, shift = self._built
            self._list = box, NeighborList(first, j, shift @ box)
        return self._list[1]

    def _valid(self, atoms: Atoms) -> bool:
        assert self._built is not None
        old = self._built[0]
        if (
            len(old) != len(atoms)
            or not np.array_equal(old.pbc, atoms.pbc)
            or not np.array_equal(old.numbers, atoms.numbers)
        ):
            return False
        mapped, strain = old.positions, 0.0
        if atoms.pbc.any() and not np.array_equal(old.cell, atoms.cell):
            affine = np.linalg.solve(_box(old), _box(atoms))
            mapped = old.positions @ affine
            strain = float(np.linalg.norm(affine - np.eye(3), 2))
        moved = float(np.sqrt(((atoms.positions - mapped) ** 2).sum(axis=1).max()))
        return 2.0 * moved + strain * (self.cutoff + self.skin) <= self.skin
