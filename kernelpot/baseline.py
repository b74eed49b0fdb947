r"""What the Gaussian process does not have to learn: free atoms and a repulsive wall.

The wall is the universal screened-nuclear repulsion of Ziegler, Biersack and
Littmark [1]_ times a C2 switch that ends inside the shortest distance of the
training data: where there are data it is exactly zero.

References
----------
.. [1] Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols, covalent_radii
from ase.units import Bohr

from kernelpot.dataset import Dataset
from kernelpot.neighbors import NeighborList, neighbor_list

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Pair = tuple[int, int]

COULOMB = 14.399645478  # e^2 / (4 pi epsilon_0) [eV Å]
_ZBL_AMPLITUDE = np.array([0.18175, 0.50986, 0.28022, 0.02817])
_ZBL_RATE = np.array([3.19980, 0.94229, 0.40290, 0.20162])

# The wall acts fully below the first and not at all above the second fraction of d_min.
WALL_INNER, WALL_OUTER = 0.7, 0.95


def smoothstep(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """C2 step from 0 at x <= 0 to 1 at x >= 1, and its derivative."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10.0 + x * (6.0 * x - 15.0)), 30.0 * x**2 * (1.0 - x) ** 2


def zbl(r: FloatArray, z1: IntArray, z2: IntArray) -> tuple[FloatArray, FloatArray]:
    """Universal screened-nuclear repulsion [eV] and d/dr [eV/Å].

    Parameters
    ----------
    r : ndarray of shape (n,)
        Distances [Å].
    z1, z2 : ndarray of shape (n,)
        Atomic numbers.
    """
    length = 0.88534 * Bohr / (z1**0.23 + z2**0.23)
    x = (r / length)[:, None]
    terms = _ZBL_AMPLITUDE * np.exp(-_ZBL_RATE * x)
    screening = terms.sum(axis=1)
    d_screening = -(terms * _ZBL_RATE).sum(axis=1) / length
    bare = COULOMB * z1 * z2 / r
    return bare * screening, bare * (d_screening - screening / r)


@dataclass(frozen=True)
class Wall:
    """Short-range repulsion of every pair of species.

    Parameters
    ----------
    d_min : mapping of (Z, Z') to float, optional
        Distance [Å] that scales the wall of each pair: full below 0.7 and zero above
        0.95 of it. Missing pairs are filled in by `fit`.
    """

    d_min: Mapping[Pair, float] | None = None

    def __post_init__(self) -> None:
        """Order every pair of species, check the distances."""
        if self.d_min is not None:
            for pair, value in self.d_min.items():
                if not (np.isfinite(value) and value > 0):
                    raise ValueError(f"`d_min` of {pair} must be positive, got {value!r}")
            known = {(min(a, b), max(a, b)): float(v) for (a, b), v in self.d_min.items()}
            object.__setattr__(self, "d_min", known)

    def fit(self, data: Dataset, species: Sequence[int]) -> Wall:
        """Take the shortest training distances, capped by chemistry.

        A pair of species seen in the data gets its shortest distance, at most 0.95 of
        the sum of covalent radii; a pair never seen gets 0.8 of that sum.

        Parameters
        ----------
        data : Dataset
        species : sequence of int
            Atomic numbers that need a wall.

        Returns
        -------
        Wall
        """
        known = self.d_min or {}
        shortest = shortest_distances(data)
        result = {}
        for a in species:
            for b in species:
                if a > b:
                    continue
                touching = float(covalent_radii[a] + covalent_radii[b])
                seen = shortest.get((a, b))
                value = 0.8 * touching if seen is None else min(seen, 0.95 * touching)
                result[a, b] = known.get((a, b), value)
        return Wall(result)

    @property
    def r_cut(self) -> float:
        """Largest distance at which any pair feels the wall [Å]."""
        return WALL_OUTER * max((self.d_min or {}).values(), default=0.0)

    def pair_energy(self, r: FloatArray, z1: int, z2: int) -> tuple[FloatArray, FloatArray]:
        """Energy of one pair and its derivative.

        Parameters
        ----------
        r : ndarray of shape (n,)
            Distances [Å].
        z1, z2 : int
            Atomic numbers.

        Returns
        -------
        energy, derivative : ndarray of shape (n,)
            [eV] and [eV/Å].

        Raises
        ------
        ValueError
            Before the wall has distances.
        """
        if self.d_min is None:
            raise ValueError("the wall has no distances yet: fit it, or give `d_min`")
        d_min = self.d_min[min(z1, z2), max(z1, z2)]
        value, slope = zbl(r, np.full(r.shape, z1), np.full(r.shape, z2))
        inner, outer = WALL_INNER * d_min, WALL_OUTER * d_min
        step, d_step = smoothstep((outer - r) / (outer - inner))
        return value * step, slope * step - value * d_step / (outer - inner)

    def evaluate(
        self,
        numbers: IntArray,
        pairs: NeighborList,
        displacements: FloatArray,
        distances: FloatArray,
    ) -> tuple[FloatArray, FloatArray, IntArray]:
        """Energy per atom and gradient of the pairs that feel the wall.

        Parameters
        ----------
        numbers : ndarray of shape (n_atoms,)
            Atomic numbers.
        pairs : NeighborList
        displacements : ndarray of shape (n_pairs, 3)
            [Å].
        distances : ndarray of shape (n_pairs,)
            [Å].

        Returns
        -------
        energies : ndarray of shape (n_atoms,)
            [eV]; a pair is shared half and half.
        gradient : ndarray of shape (n_close, 3)
            Derivative of the energy by the displacement of each close pair [eV/Å].
        close : ndarray of shape (n_close,)
            Indices of those pairs.
        """
        energies = np.zeros(len(numbers))
        close = np.flatnonzero(distances < self.r_cut)
        gradient = np.zeros((len(close), 3))
        if len(close):
            i, j = pairs.centers[close], pairs.neighbors[close]
            low, high = np.minimum(numbers[i], numbers[j]), np.maximum(numbers[i], numbers[j])
            for a, b in {(int(a), int(b)) for a, b in zip(low, high, strict=True)}:
                mine = np.flatnonzero((low == a) & (high == b))
                r = distances[close[mine]]
                value, slope = self.pair_energy(r, a, b)
                energies += 0.5 * np.bincount(i[mine], value, len(numbers))
                gradient[mine] = (0.5 * slope / r)[:, None] * displacements[close[mine]]
        return energies, gradient, close

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        d_min = self.d_min or {}
        return {"kind": "wall", "d_min": [[a, b, d] for (a, b), d in sorted(d_min.items())]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Wall:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        Wall
        """
        return cls({(int(a), int(b)): float(d) for a, b, d in data["d_min"]})

    def describe(self) -> list[str]:
        """Return one line per pair of species for reports.

        Returns
        -------
        list of str
        """
        return [
            f"{chemical_symbols[a]}-{chemical_symbols[b]}: full below "
            f"{WALL_INNER * d:.2f} Å, zero above {WALL_OUTER * d:.2f} Å"
            for (a, b), d in sorted((self.d_min or {}).items())
        ]


def shortest_distances(data: Dataset, limit: float = 4.0) -> dict[Pair, float]:
    """Shortest distance of each pair of species below `limit` in the data [Å]."""
    result: dict[Pair, float] = {}
    for frame in data:
        pairs = neighbor_list(frame.atoms, limit)
        if not pairs.n_pairs:
            continue
        distance = np.linalg.norm(pairs.displacements(frame.atoms.positions), axis=1)
        numbers = frame.atoms.numbers
        z1, z2 = numbers[pairs.centers], numbers[pairs.neighbors]
        code = np.minimum(z1, z2) * 1000 + np.maximum(z1, z2)
        for value in np.unique(code):
            key = (int(value // 1000), int(value % 1000))
            nearest = float(distance[code == value].min())
            result[key] = min(nearest, result.get(key, np.inf))
    return result


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
    """

    e0: Mapping[int, float]
    origin: str
    note: str = ""

    @property
    def absolute(self) -> bool:
        """Whether they are energies of free atoms (dissociation means something)."""
        return self.origin in ("isolated atoms", "given")

    def total(self, numbers: IntArray) -> float:
        """Sum over the atoms of a structure [eV]."""
        return float(sum(self.e0[int(z)] for z in numbers))


def atomic_energies(
    data: Dataset, given: Mapping[int, float] | str | None = None
) -> AtomicEnergies:
    """Find e0 of every species of the data.

    Parameters
    ----------
    data : Dataset
    given : mapping of atomic number to float, "isolated", "least_squares" or None
        Values [eV], or where to take them from. None: isolated atoms if the data have
        one of each species, otherwise least squares.

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
    labelled = [f for f in data if f.energy is not None]
    if not labelled:
        note = "no energies in the data: e0 = 0, energies are defined up to a constant"
        return AtomicEnergies(dict.fromkeys(species, 0.0), "least squares", note)
    counts = np.array([[np.sum(f.atoms.numbers == z) for z in species] for f in labelled])
    size = counts.sum(axis=1)
    composition = counts / size[:, None]
    target = np.array([f.energy for f in labelled], dtype=float) / size
    solution, _, rank, _ = np.linalg.lstsq(composition, target, rcond=1e-8)
    note = "dissociation energies mean nothing: e0 is a fit, not the energy of free atoms"
    if rank < len(species):
        note += (
            f"; the compositions determine only {rank} of {len(species)} values "
            "(minimum norm taken)"
        )
    return AtomicEnergies(
        {z: float(e) for z, e in zip(species, solution, strict=True)}, "least squares", note
    )
