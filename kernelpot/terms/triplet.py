"""Triplets of atoms, compared by their three distances: the 3-body term of GAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import ClassVar

import numpy as np

from kernelpot.common.types import Array, IntArray
from kernelpot.data.system import System
from kernelpot.terms import _triplets
from kernelpot.terms.base import Environments, Key
from kernelpot.terms.few_distances import FewDistancesTerm
from kernelpot.terms.over_pairs import OverPairs, PairJacobian
from kernelpot.terms.parameters import require, require_number
from kernelpot.terms.stationary import FUNCTIONS, StationaryKernel
from kernelpot.terms.tabulation import Tabulation

# Sparse points of each kind of triplet: a smooth function of three numbers.
N_SPARSE = 200
# The third feature of a triplet; the cosine in units of this length [Å], which is what the distance
# of the outer atoms changes by with it at usual bond lengths and angles.
THIRDS = ("distance", "cosine")
COSINE = 2.0


@dataclass(frozen=True)
class TripletTerm(FewDistancesTerm):
    r"""A 3-body potential as a Gaussian process: one smooth function per kind of triplet.

    The energy of atom i is :math:`\sum_{j<k} w(r_{ij}) w(r_{ik}) f(x_{ijk})` [1]_ over pairs of
    its neighbors, with a function f of its own for each species of i and unordered pair of
    species of j and k, and a C2 step w that falls from 1 to 0 over the last `cutoff_width` before
    the cutoff. Its features are :math:`r_{ij} + r_{ik}`, :math:`(r_{ij} - r_{ik})^2` and
    :math:`r_{jk}` (or :math:`\cos \theta_{jik}`), so that f does not change where j and k change
    places; where these are of two species, the difference itself takes the place of its square.
    All are smooth, at collinear triplets too.

    Parameters
    ----------
    r_cut : float
        Cutoff of the two distances from the center [Å]; triplets are as many as the square of
        the neighbors.
    length_scale : float, default=1.0
        Of the covariance of f [Å].
    cutoff_width : float, default=1.0
        Width of the step [Å], at most `r_cut`.
    delta : float, default=1.0
        Prior standard deviation of a triplet's energy [eV].
    n_sparse : int or None, default=None
        Sparse points, all kinds of triplets together. None: 200 for each kind, or all distinct
        triplets if there are fewer.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How sparse points are chosen; default farthest-point sampling.
    function : {"gaussian", "matern52"}
        Covariance of f: infinitely smooth, or Matérn's of twice differentiable functions.
    spline_step : float or None, default=None
        Predict by cubic splines on a grid of this step [Å] in all three features: what it costs
        does not depend on the sparse points then, and the summary of the model states the error.
        Energy and forces are of the spline, consistent with each other. None: by the kernel.
    third : {"distance", "cosine"}
        The third feature: the distance of the two outer atoms, or the cosine of the angle at the
        center, which counts like a distance of 2 Å times its value. (The angle itself has an
        infinite slope by positions where a triplet is collinear.)

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    References
    ----------
    .. [1] Bartók, Csányi, Int. J. Quantum Chem. 115, 1051 (2015), sec. 4.
    """

    r_cut: float
    length_scale: float = 1.0
    cutoff_width: float = 1.0
    delta: float = 1.0
    n_sparse: int | None = None
    sparse_method: str = "farthest_point"
    function: str = "gaussian"
    spline_step: float | None = None

    third: str = "distance"

    kind: ClassVar[str] = "triplet"
    points_of_key: ClassVar[int] = N_SPARSE

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        if self.spline_step is not None:
            require_number("spline_step", self.spline_step)
            require(self.spline_step > 0, "spline_step", "positive", self.spline_step)
        require(self.third in THIRDS, "third", f"one of {', '.join(THIRDS)}", self.third)

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> TripletDistances:
        """Triplets of some species.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            There are none.

        Returns
        -------
        TripletDistances
        """
        unit = COSINE if self.third == "cosine" else 0.0
        return TripletDistances(species, float(self.r_cut), float(self.cutoff_width), unit)

    def kernel(self) -> StationaryKernel:
        """Function of the distance of two triplets' features.

        Returns
        -------
        StationaryKernel
        """
        table = None if self.spline_step is None else Tabulation(float(self.spline_step))
        return FUNCTIONS[self.function](float(self.length_scale), float(self.delta), table)

    @classmethod
    def example(cls, species: tuple[int, ...]) -> TripletTerm:
        """A small term: what compressed crystals cost grows with the sixth power of the cutoff.

        Parameters
        ----------
        species : tuple of int

        Returns
        -------
        TripletTerm
        """
        return cls(r_cut=3.2)

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        more = "" if self.third == "distance" else ", of two distances and the cosine"
        if self.spline_step is not None:
            more += f", by splines of step {self.spline_step:g} Å"
        return self._described("triplets", more)


@dataclass(frozen=True)
class TripletDistances(OverPairs):
    """Every pair of neighbors within the cutoff as an environment; a `Descriptor`.

    Parameters
    ----------
    species : tuple of int
        Atomic numbers that may occur, ascending.
    r_cut : float
        [Å].
    cutoff_width : float
        [Å].
    cosine : float
        What the cosine of the angle is multiplied by to be the third feature [Å]; 0: that is the
        distance of the outer atoms.
    """

    species: tuple[int, ...]
    r_cut: float
    cutoff_width: float
    cosine: float = 0.0

    @cached_property
    def keys(self) -> Sequence[Key]:
        """Species of the center, and unordered pairs of species of its neighbors."""
        outer = list(combinations_with_replacement(self.species, 2))
        return [(z, *pair) for z in self.species for pair in outer]

    @property
    def n_features(self) -> int:
        """Three."""
        return 3

    @property
    def has_centers(self) -> bool:
        """The energy of a triplet belongs to its center."""
        return True

    @property
    def one_per_atom(self) -> bool:
        """An atom has as many environments as pairs of neighbors."""
        return False

    def center_species(self, key: Key) -> Sequence[int]:
        """The first."""
        return key[:1]

    @cached_property
    def _outer(self) -> IntArray:
        """Index of the pair of two species indices."""
        n = len(self.species)
        table = np.zeros((n, n), dtype=np.int64)
        for index, (a, b) in enumerate(combinations_with_replacement(range(n), 2)):
            table[a, b] = table[b, a] = index
        return table

    def count(self, system: System) -> IntArray:
        """Number of triplets of each key."""
        key = self._triplets(system, slice(0, system.n_atoms))[2]
        return np.bincount(key, minlength=len(self.keys))

    def _triplets(
        self, system: System, atoms: slice
    ) -> tuple[IntArray, IntArray, IntArray, IntArray, Array]:
        """Pairs, keys and centers of triplets, and whether their outer atoms are of one species."""
        pairs, z = system.pairs, system.z_index(self.species)
        a, b = _triplets.find(
            pairs.first, atoms.start, atoms.stop, pairs.neighbors, system.distances, z, self.r_cut
        )
        center, left, right = pairs.centers[a], z[pairs.neighbors[a]], z[pairs.neighbors[b]]
        n = len(self.species)
        return (
            a,
            b,
            z[center] * (n * (n + 1) // 2) + self._outer[left, right],
            center,
            left == right,
        )

    def environments(self, system: System, atoms: slice) -> Environments:
        """Triplets of a run of centers."""
        a, b, key, center, alike = self._triplets(system, atoms)
        shape = (
            system.displacements,
            system.distances,
            alike,
            self.r_cut,
            self.cutoff_width,
            self.cosine,
        )
        x, weight = np.empty((len(a), 3)), np.empty(len(a))
        _triplets.features(a, b, *shape, x, weight)

        def jacobian() -> PairJacobian:
            by_x, by_weight = np.empty((len(a), 2, 3, 3)), np.empty((len(a), 2, 3))
            _triplets.jacobian(a, b, *shape, by_x, by_weight)
            return PairJacobian(
                np.repeat(np.arange(len(a)), 2),
                np.stack([a, b], axis=1).ravel(),
                by_x.reshape(-1, 3, 3),
                by_weight.reshape(-1, 3),
            )

        return Environments(key, center, system.structure_of[center], x, weight, jacobian)

    def to_arrays(self) -> dict[str, Array]:
        """No constants."""
        return {}
