"""How close atoms come in the data: found once, in one search for neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii

from kernelpot.common.types import FloatArray, IntArray, Pair
from kernelpot.data.neighbors import by_species, neighbor_list

if TYPE_CHECKING:
    from kernelpot.data.dataset import Dataset, Frame

# Distances beyond this are none that anybody asks for [Å].
REACH = 4.0
# Structures whose nearest neighbors tell the length of bonds.
SAMPLED_FRAMES = 200
# Of the sum of covalent radii: the longest distance of closest approach, and that of a pair that
# the data do not have.
LONGEST_CONTACT, UNSEEN_CONTACT = 0.95, 0.8


@dataclass(frozen=True)
class DistanceFacts:
    """Distances in labelled structures.

    Attributes
    ----------
    shortest : mapping of (Z, Z') to float
        Shortest distance of each pair of species that has one below 4 Å [Å].
    heavy : ndarray of int
        Atomic numbers of the atoms other than hydrogen in some of the structures.
    nearest_heavy : ndarray
        Distance of each of these to the nearest other one, of those that have one [Å].
    """

    shortest: Mapping[Pair, float]
    heavy: IntArray
    nearest_heavy: FloatArray

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> DistanceFacts:
        """Look at all structures once.

        Parameters
        ----------
        frames : sequence of Frame
        """
        shortest: dict[Pair, float] = {}
        heavy, nearest = [np.empty(0, dtype=np.int64)], [np.empty(0)]
        every = max(1, len(frames) // SAMPLED_FRAMES)
        for index, frame in enumerate(frames):
            numbers = frame.atoms.numbers
            pairs = neighbor_list(frame.atoms, REACH)
            distance = np.linalg.norm(pairs.displacements(frame.atoms.positions), axis=1)
            for key, members in by_species(numbers, pairs, np.arange(pairs.n_pairs)):
                found = float(distance[members].min())
                shortest[key] = min(found, shortest.get(key, np.inf))
            if index % every == 0:
                heavy.append(numbers[numbers > 1])
                both = (numbers[pairs.centers] > 1) & (numbers[pairs.neighbors] > 1)
                least = np.full(len(numbers), np.inf)
                np.minimum.at(least, pairs.centers[both], distance[both])
                nearest.append(least[np.isfinite(least)])
        return cls(shortest, np.concatenate(heavy), np.concatenate(nearest))


def contact_distances(data: Dataset, species: Sequence[int]) -> dict[Pair, float]:
    """Distance of closest approach of every pair of species.

    Parameters
    ----------
    data : Dataset
    species : sequence of int
        Atomic numbers.

    Returns
    -------
    dict of (Z, Z') to float
        The shortest distance in the data, at most 0.95 of the sum of covalent radii; 0.8
        of that sum for a pair that the data do not have [Å].
    """
    shortest = data.distances.shortest
    result = {}
    for a in sorted(species):
        for b in sorted(species):
            if a <= b:
                touching = float(covalent_radii[a] + covalent_radii[b])
                seen = shortest.get((a, b))
                result[a, b] = (
                    UNSEEN_CONTACT * touching
                    if seen is None
                    else min(seen, LONGEST_CONTACT * touching)
                )
    return result


def is_seen(pair: Pair, contact: float) -> bool:
    """Whether a distance of `contact_distances` was found in the data, not put in for none.

    Parameters
    ----------
    pair : (Z, Z')
    contact : float
        [Å].

    Returns
    -------
    bool
    """
    touching = float(covalent_radii[pair[0]] + covalent_radii[pair[1]])
    return not np.isclose(contact, UNSEEN_CONTACT * touching, rtol=1e-9, atol=0.0)
