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
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any, ClassVar

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from kernelpot.baseline.pair_functions import ZBL
from kernelpot.baseline.reference import Reference, add_pairs
from kernelpot.common.smoothstep import smoothstep
from kernelpot.common.types import FloatArray, Pair
from kernelpot.data.dataset import Dataset
from kernelpot.data.distances import contact_distances
from kernelpot.data.neighbors import MANY_PAIRS
from kernelpot.data.system import Contribution, System

# The wall acts fully below the first and not at all above the second fraction of its distance.
WALL_INNER, WALL_OUTER = 0.7, 0.95
# What a wall knows of each pair of species.
_PER_PAIR = ("d_min", "strength", "reach")


@dataclass(frozen=True)
class Wall:
    """Short-range repulsion of every pair of species.

    Parameters
    ----------
    d_min : mapping of (Z, Z') to float, optional
        Distance [Å] at which the data of each pair begin. Missing pairs are filled in by
        `fit`.
    strength : mapping of (Z, Z') to float, optional
        Factor of the repulsion, 1 where nothing is said.
    reach : mapping of (Z, Z') to float, optional
        Factor of the distances at which the wall acts, 1 where nothing is said: it is full
        below 0.7 and zero above 0.95 of ``reach * d_min``.

    Raises
    ------
    ValueError
        If a distance or factor is not positive.
    """

    d_min: Mapping[Pair, float] | None = None
    strength: Mapping[Pair, float] | None = None
    reach: Mapping[Pair, float] | None = None

    kind: ClassVar[str] = "wall"
    local: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Order every pair of species, check the distances."""
        for name in _PER_PAIR:
            values = getattr(self, name)
            if values is None:
                continue
            for pair, value in values.items():
                if not (np.isfinite(value) and value > 0):
                    raise ValueError(f"`{name}` of {pair} must be positive, got {value!r}")
            ordered = {(min(a, b), max(a, b)): float(v) for (a, b), v in values.items()}
            object.__setattr__(self, name, ordered)

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
        d_min = {**contact_distances(data, species), **(self.d_min or {})}
        return replace(self, d_min=d_min)

    def distance(self, pair: Pair) -> float:
        """Distance that scales where the wall acts.

        Parameters
        ----------
        pair : (Z, Z')
            Ascending.

        Returns
        -------
        float
            `d_min`, times `reach` if the wall was moved [Å].
        """
        return (self.d_min or {})[pair] * (self.reach or {}).get(pair, 1.0)

    @property
    def r_cut(self) -> float:
        """Largest distance at which any pair feels the wall [Å]."""
        return WALL_OUTER * max(map(self.distance, self.d_min or {}), default=0.0)

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
        pair = min(z1, z2), max(z1, z2)
        distance, strength = self.distance(pair), (self.strength or {}).get(pair, 1.0)
        value, slope, _ = ZBL(z1, z2).derivatives(r)
        inner, outer = WALL_INNER * distance, WALL_OUTER * distance
        step, d_step = smoothstep((outer - r) / (outer - inner))
        slope = slope * step - value * d_step / (outer - inner)
        return strength * value * step, strength * slope

    def evaluate(self, system: System, result: Contribution) -> None:
        """Add energies and gradients of the pairs that feel the wall.

        Parameters
        ----------
        system : System
        result : Contribution
            Changed in place; a pair's energy is shared half and half.
        """
        if system.pairs.n_pairs <= MANY_PAIRS and not self._is_felt(system):
            return
        add_pairs(system, result, self.r_cut, self.pair_energy)

    def _is_felt(self, system: System) -> bool:
        """Whether any pair is closer than the wall of its own species reaches."""
        codes, present = system.pairs.species_codes(system.numbers)
        known = system.pairs.memo.get(id(self))
        if known is None or known[0] is not self or known[1] is not codes:
            d_min = self.d_min or {}
            reach = np.array(
                [
                    WALL_OUTER * self.distance(pair) if pair in d_min else np.inf
                    for pair in (divmod(code, 1000) for code in present.tolist())
                ]
            )
            known = self, codes, reach[np.searchsorted(present, codes)]
            system.pairs.memo[id(self)] = known
        return bool((system.distances < known[2]).any())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        per_pair = {name: sorted((getattr(self, name) or {}).items()) for name in _PER_PAIR}
        return {
            "kind": self.kind,
            **{name: [[a, b, v] for (a, b), v in items] for name, items in per_pair.items()},
        }

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
        # before there was a reach, the distances of a wall that was moved out were larger
        per_pair = {"reach": [], **data}
        d_min, strength, reach = (
            {(int(a), int(b)): float(value) for a, b, value in per_pair[name]} for name in _PER_PAIR
        )
        return cls(d_min or None, strength or None, reach or None)

    @classmethod
    def example(cls, species: Sequence[int]) -> Wall:
        """A wall that bonds feel, to try things out with: the tests of all kinds do.

        Parameters
        ----------
        species : sequence of int
            Atomic numbers it will be used for.

        Returns
        -------
        Wall
            With distances of 1.2 times the sum of covalent radii.
        """
        pairs = combinations_with_replacement(sorted(species), 2)
        return cls({(a, b): 1.2 * float(covalent_radii[a] + covalent_radii[b]) for a, b in pairs})

    def describe(self) -> list[str]:
        """Return a heading and one line per pair of species for reports.

        Returns
        -------
        list of str
        """
        lines = []
        for a, b in sorted(self.d_min or {}):
            d = self.distance((a, b))
            factor = (self.strength or {}).get((a, b), 1.0)
            lines.append(
                f"{chemical_symbols[a]}-{chemical_symbols[b]}: full below {WALL_INNER * d:.2f} Å, "
                f"zero above {WALL_OUTER * d:.2f} Å" + (f", x {factor:g}" if factor != 1 else "")
            )
        return ["Short-range wall (ZBL):", *lines]
