"""Pairs of atoms, compared by their distance: the 2-body term of GAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import ClassVar

import numpy as np

from kernelpot.common.smoothstep import smoothstep
from kernelpot.common.types import Array, IntArray
from kernelpot.data.system import System
from kernelpot.terms.base import Environments, Key
from kernelpot.terms.few_distances import FewDistancesTerm
from kernelpot.terms.over_pairs import OverPairs, PairJacobian
from kernelpot.terms.stationary import FUNCTIONS, StationaryKernel
from kernelpot.terms.tabulation import Tabulation

# Nodes of splines in a length scale. Of more than these rounding would be seen in the forces.
NODES = 20
# Sparse points of each pair of species: a smooth function of one number needs no more.
N_SPARSE = 30


@dataclass(frozen=True)
class PairTerm(FewDistancesTerm):
    r"""A pair potential as a Gaussian process: one smooth function of distance per pair.

    The energy is :math:`\sum_{i<j} w(r_{ij}) f_{ZZ'}(r_{ij})` [1]_ with a function f of its
    own for each unordered pair of species, of the covariance
    :math:`\delta^2 \exp(-(r - r')^2 / 2 \theta^2)` or that of Matérn, and a C2 step w that falls
    from 1 to 0 over the last `cutoff_width` before the cutoff. A pair's energy is shared half
    and half.

    Predictions take each f from a spline of the fifth degree with 20 nodes in a length scale, so
    that they cost the same whatever the number of sparse points; the summary of a model states
    its error, which is that of rounding.

    Parameters
    ----------
    r_cut : float
        Cutoff [Å].
    length_scale : float, default=0.7
        :math:`\theta` [Å].
    cutoff_width : float, default=1.0
        Width of the step [Å], at most `r_cut`.
    delta : float, default=1.0
        Prior standard deviation of a pair's energy [eV].
    n_sparse : int or None, default=None
        Sparse points, all pairs of species together. None: 30 for each pair of species, or
        all distinct distances if there are fewer.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How sparse points are chosen; default farthest-point sampling.
    function : {"gaussian", "matern52"}
        Covariance of f: infinitely smooth, or Matérn's of twice differentiable functions.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    References
    ----------
    .. [1] Bartók, Csányi, Int. J. Quantum Chem. 115, 1051 (2015), sec. 4.
    """

    r_cut: float
    length_scale: float = 0.7
    cutoff_width: float = 1.0
    delta: float = 1.0
    n_sparse: int | None = None
    sparse_method: str = "farthest_point"
    function: str = "gaussian"

    kind: ClassVar[str] = "pair"
    points_of_key: ClassVar[int] = N_SPARSE

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> PairDistances:
        """Distances of the pairs of some species.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            There are none.

        Returns
        -------
        PairDistances
        """
        return PairDistances(species, float(self.r_cut), float(self.cutoff_width))

    def kernel(self) -> StationaryKernel:
        """Function of the difference of two distances, its means as splines.

        Returns
        -------
        StationaryKernel
        """
        make = FUNCTIONS[self.function]
        return make(
            float(self.length_scale),
            float(self.delta),
            Tabulation(float(self.length_scale) / NODES),
        )

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        return self._described("pairs")


@dataclass(frozen=True)
class PairDistances(OverPairs):
    """Every pair within the cutoff as an environment of its center; a `Descriptor`.

    Parameters
    ----------
    species : tuple of int
        Atomic numbers that may occur, ascending.
    r_cut : float
        [Å].
    cutoff_width : float
        [Å].
    """

    species: tuple[int, ...]
    r_cut: float
    cutoff_width: float

    @cached_property
    def keys(self) -> Sequence[Key]:
        """Unordered pairs of species."""
        return list(combinations_with_replacement(self.species, 2))

    @property
    def n_features(self) -> int:
        """The distance."""
        return 1

    @property
    def has_centers(self) -> bool:
        """Half of a pair's energy belongs to each of its atoms."""
        return True

    @property
    def one_per_atom(self) -> bool:
        """An atom has as many environments as neighbors."""
        return False

    def center_species(self, key: Key) -> Sequence[int]:
        """Either species of the pair."""
        return key

    @cached_property
    def _key_of(self) -> IntArray:
        """Index of the key of two species indices."""
        index = {z: k for k, z in enumerate(self.species)}
        table = np.empty((len(self.species),) * 2, dtype=np.int64)
        for key, (a, b) in enumerate(self.keys):
            table[index[a], index[b]] = table[index[b], index[a]] = key
        return table

    def count(self, system: System) -> IntArray:
        """Number of pairs of each key, both directions counted."""
        key = self.environments(system, slice(0, system.n_atoms)).key
        return np.bincount(key, minlength=len(self.keys))

    def environments(self, system: System, atoms: slice) -> Environments:
        """Pairs of a run of centers."""
        first = system.pairs.first
        run = slice(int(first[atoms.start]), int(first[atoms.stop]))
        pairs = run.start + np.flatnonzero(system.distances[run] < self.r_cut)
        r = system.distances[pairs]
        step, slope = smoothstep((self.r_cut - r) / self.cutoff_width)
        centers = system.pairs.centers[pairs]
        z_index = system.z_index(self.species)

        def jacobian() -> PairJacobian:
            directions = system.displacements[pairs] / r[:, None]
            by_weight = directions * (-0.5 / self.cutoff_width * slope)[:, None]
            return PairJacobian(np.arange(len(pairs)), pairs, directions[:, :, None], by_weight)

        return Environments(
            self._key_of[z_index[centers], z_index[system.pairs.neighbors[pairs]]],
            centers,
            system.structure_of[centers],
            r[:, None],
            0.5 * step,
            jacobian,
        )

    def to_arrays(self) -> dict[str, Array]:
        """No constants."""
        return {}
