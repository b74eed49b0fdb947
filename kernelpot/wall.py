r"""The repulsive wall: universal screened-nuclear repulsion inside the data.

The wall is the repulsion of Ziegler, Biersack and Littmark [1]_ times a C2 switch that
ends inside the shortest distance of the training data: where there are data it is
exactly zero.

References
----------
.. [1] Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols, covalent_radii
from ase.units import Bohr

from kernelpot.baseline import Contribution, Reference, System
from kernelpot.dataset import Dataset
from kernelpot.neighbors import neighbor_list
from kernelpot.switching import smoothstep

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Pair = tuple[int, int]

COULOMB = 14.399645478  # e^2 / (4 pi epsilon_0) [eV Å]
_ZBL_AMPLITUDE = np.array([0.18175, 0.50986, 0.28022, 0.02817])
_ZBL_RATE = np.array([3.19980, 0.94229, 0.40290, 0.20162])

# The wall acts fully below the first and not at all above the second fraction of d_min.
WALL_INNER, WALL_OUTER = 0.7, 0.95


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

    kind: ClassVar[str] = "wall"

    def __post_init__(self) -> None:
        """Order every pair of species, check the distances."""
        if self.d_min is not None:
            for pair, value in self.d_min.items():
                if not (np.isfinite(value) and value > 0):
                    raise ValueError(f"`d_min` of {pair} must be positive, got {value!r}")
            known = {(min(a, b), max(a, b)): float(v) for (a, b), v in self.d_min.items()}
            object.__setattr__(self, "d_min", known)

    def fit(self, data: Dataset, species: Sequence[int], known: Reference | None = None) -> Wall:
        """Take the shortest training distances, capped by chemistry.

        A pair of species seen in the data gets its shortest distance, at most 0.95 of
        the sum of covalent radii; a pair never seen gets 0.8 of that sum.

        Parameters
        ----------
        data : Dataset
        species : sequence of int
            Atomic numbers that need a wall.
        known : Reference, optional
            Not needed: the wall is zero where there are data.

        Returns
        -------
        Wall
        """
        given = self.d_min or {}
        shortest = shortest_distances(data)
        result = {}
        for a in species:
            for b in species:
                if a > b:
                    continue
                touching = float(covalent_radii[a] + covalent_radii[b])
                seen = shortest.get((a, b))
                value = 0.8 * touching if seen is None else min(seen, 0.95 * touching)
                result[a, b] = given.get((a, b), value)
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

    def evaluate(self, system: System, result: Contribution) -> None:
        """Add energies and gradients of the pairs that feel the wall.

        Parameters
        ----------
        system : System
        result : Contribution
            Changed in place; a pair's energy is shared half and half.
        """
        close = np.flatnonzero(system.distances < self.r_cut)
        if not len(close):
            return
        numbers = system.numbers
        i, j = system.pairs.centers[close], system.pairs.neighbors[close]
        low, high = np.minimum(numbers[i], numbers[j]), np.maximum(numbers[i], numbers[j])
        for a, b in {(int(a), int(b)) for a, b in zip(low, high, strict=True)}:
            mine = np.flatnonzero((low == a) & (high == b))
            pair = close[mine]
            r = system.distances[pair]
            value, slope = self.pair_energy(r, a, b)
            result.energies[:] += 0.5 * np.bincount(i[mine], value, len(numbers))
            result.gradient[pair] += (0.5 * slope / r)[:, None] * system.displacements[pair]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        d_min = self.d_min or {}
        return {"kind": self.kind, "d_min": [[a, b, d] for (a, b), d in sorted(d_min.items())]}

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
        """Return a heading and one line per pair of species for reports.

        Returns
        -------
        list of str
        """
        lines = [
            f"{chemical_symbols[a]}-{chemical_symbols[b]}: full below "
            f"{WALL_INNER * d:.2f} Å, zero above {WALL_OUTER * d:.2f} Å"
            for (a, b), d in sorted((self.d_min or {}).items())
        ]
        return ["Short-range wall (ZBL):", *lines]


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
