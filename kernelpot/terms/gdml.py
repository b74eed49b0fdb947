"""Gradient-domain machine learning of one molecule: the kernel of sGDML, energy conserving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import ClassVar

import numpy as np
import scipy.sparse
from ase import Atoms

from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.terms import _gdml
from kernelpot.terms.base import Descriptor, FastMean, Kernel, RowGradient
from kernelpot.terms.parameters import N_SPARSE_RANGE, Range, require
from kernelpot.terms.similarity import SimilarityKernel
from kernelpot.terms.stationary import SQRT5, Matern52Kernel
from kernelpot.terms.whole_structures import WholeMoleculeTerm, WholeStructures

# Directions that have a column of the regression, in usual numbers of sparse points.
COLUMNS = 2
# Prior standard deviation of the constant part of the energy, in those of the rest.
CONSTANT = 10.0
# Permutations are looked for between so many structures, all pairs of them; a group of more
# than so many is not used.
MATCHED, MAX_PERMUTATIONS = 60, 720
# A permutation must bring two molecules this much closer, or it is the identity.
CLOSER = 0.98
# Directions whose length is below this share of the longest are rigid motions.
RIGID = 1e-6


@dataclass(frozen=True)
class GDMLTerm(WholeMoleculeTerm):
    r"""The energy of one molecule by the forces on it: sGDML [1]_.

    Molecules are compared by their inverse distances :math:`x_{ij} = 1 / r_{ij}`, with the Matérn
    5/2 kernel averaged over permutations of like atoms,
    :math:`k(x, x') = \delta^2 [c^2 + |P|^{-1} \sum_P \kappa(|x - P x'|)]`, so that the energy is
    symmetric by construction. Its basis functions are the derivatives of the kernel along
    directions of the training structures, one for each degree of freedom (3 N - 6 of a
    molecule), and a constant: the force field is learned, and its integral is the energy.

    The regression has the directions of some structures as columns (`n_sparse`); they carry the
    variances. With `complete` and no other term beside this one, the mean takes all directions
    of all structures, by preconditioned conjugate gradients without a matrix: on 1,000 frames
    of ethanol that is a matrix of 27,000 rows and 6 GB which is never formed.

    For one molecule without periodicity, its atoms always in the same order: anything else is
    refused. Single atoms have their energies e0. There is no energy of an atom, so that the
    safety net has nothing to go by.

    Parameters
    ----------
    length_scale : float, default=20.0
        Of the Matérn kernel, in root-mean-square distances of the training structures from
        their mean (in the space of inverse distances).
    permutations : sequence of sequences of int, optional
        Permutations of atoms that change nothing, ``p[i]`` being the atom that takes the place of
        atom i; the group they generate is used. Default: found by matching the training
        structures [1]_; ``()``: none.
    complete : bool, default=True
        Whether the mean takes all directions.
    delta : float, default=1.0
        Prior standard deviation of the energy [eV].
    n_sparse : int or None, default=None
        Directions that have a column. None: 2,000, or all if there are fewer.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How the structures are chosen that have all of their directions among them.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    References
    ----------
    .. [1] Chmiela, Sauceda, Müller, Tkatchenko, Nat. Commun. 9, 3887 (2018).
    """

    length_scale: float = 20.0
    permutations: tuple[tuple[int, ...], ...] | None = None
    complete: bool = True
    delta: float = 1.0
    n_sparse: int | None = None
    sparse_method: str = "farthest_point"

    kind: ClassVar[str] = "gdml"

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        require(isinstance(self.complete, bool), "complete", "True or False", self.complete)
        if self.permutations is not None:
            given = tuple(tuple(int(i) for i in row) for row in self.permutations)
            for row in given:
                require(
                    sorted(row) == list(range(len(row))) and len(row) == len(given[0]),
                    "permutations",
                    "rows of all atoms 0 .. n - 1, each once",
                    row,
                )
            object.__setattr__(self, "permutations", given)

    @classmethod
    def example(cls, species: tuple[int, ...]) -> GDMLTerm:
        """A small term, to try things out with.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        GDMLTerm
        """
        return cls()

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters that a search over kernels may change."""
        return {
            "length_scale": Range(1.4, factors=(0.2, 5.0), of_features=False),
            "n_sparse": N_SPARSE_RANGE,
        }

    def default_n_sparse(self, usual: int, n_keys: int) -> int:
        """Directions with a column where `n_sparse` is None.

        Parameters
        ----------
        usual : int
            Sparse points of a term that names no number.
        n_keys : int
            One.

        Returns
        -------
        int
        """
        return COLUMNS * usual

    @staticmethod
    def _described() -> type[InverseDistances]:
        return InverseDistances

    def _learned(
        self, x: FloatArray, numbers: IntArray, molecules: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """Permutations, and how much inverse distances spread."""
        spread = float(np.sqrt(np.square(x - x.mean(axis=0)).sum(axis=1).mean()))
        if self.permutations is None:
            found = find_permutations(numbers, [atoms.positions for atoms in molecules])
            origin = "found in the data"
        else:
            given = np.array(self.permutations, dtype=np.int64).reshape(-1, len(numbers))
            if np.any(numbers[given] != numbers):
                raise ValueError("`permutations` must exchange atoms of the same species only")
            found, origin = group_of(given, len(numbers)), "of those given"
        constants: dict[str, Array] = {
            "permutations": found,
            "spread": np.array([spread if spread > 0 else 1.0]),
        }
        return constants, [f"{len(found)} permutations of like atoms, {origin}"]

    def kernel(self) -> DirectionKernel:
        """The kernel without permutations.

        Returns
        -------
        DirectionKernel
        """
        return DirectionKernel(float(self.length_scale), float(self.delta))

    def kernel_of(self, descriptor: Descriptor) -> Kernel:
        """The kernel with the permutations that a descriptor knows.

        Parameters
        ----------
        descriptor : InverseDistances

        Returns
        -------
        DirectionKernel
        """
        assert isinstance(descriptor, InverseDistances)
        kernel: Kernel = replace(self.kernel(), index=descriptor.index)
        return kernel

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        found = "found in the data" if self.permutations is None else f"{len(self.permutations)}"
        return [
            f"GDML: inverse distances of a whole molecule, permutations {found}, mean of "
            f"{'all' if self.complete else 'some'} directions",
            f"Matérn 5/2 kernel of length scale {self.length_scale:.3g} in spreads of the data, "
            f"prior std delta {self.delta:.3g} eV",
        ]


# ---- permutations ------------------------------------------------------------------


def group_of(generators: IntArray, n_atoms: int) -> IntArray:
    """All products of some permutations, the identity first.

    Parameters
    ----------
    generators : ndarray of shape (n, n_atoms)
    n_atoms : int

    Returns
    -------
    ndarray of shape (n_permutations, n_atoms)
        Sorted. Only the identity where the group has more than `MAX_PERMUTATIONS`.
    """
    identity = tuple(range(n_atoms))
    known, new = {identity}, [identity]
    while new and len(known) <= MAX_PERMUTATIONS:
        products = {tuple(g[list(p)].tolist()) for p, g in product(new, generators)}
        new = sorted(products - known)
        known.update(new)
    if len(known) > MAX_PERMUTATIONS:
        known = {identity}
    return np.array(sorted(known), dtype=np.int64)


def find_permutations(numbers: IntArray, positions: Sequence[FloatArray]) -> IntArray:
    r"""Permutations that a molecule goes through in some structures.

    Pairs of structures are matched by the absolute eigenvectors of their distance matrices, atoms
    to atoms of the same species by linear assignment [1]_ [2]_; a minimum spanning tree over
    the pairs makes the matchings consistent. Permutations that bring some structure closer to
    the first generate the group.

    Parameters
    ----------
    numbers : ndarray of shape (n_atoms,)
    positions : sequence of ndarray of shape (n_atoms, 3)

    Returns
    -------
    ndarray of shape (n_permutations, n_atoms)
        The identity first.

    References
    ----------
    .. [1] Umeyama, IEEE Trans. Pattern Anal. Mach. Intell. 10, 695 (1988).
    .. [2] Chmiela et al., Nat. Commun. 9, 3887 (2018).
    """
    from scipy.optimize import linear_sum_assignment  # which takes long to import

    chosen = np.linspace(0, len(positions) - 1, min(len(positions), MATCHED)).astype(int)
    some = np.array([positions[k] for k in chosen])
    matrices = np.linalg.norm(some[:, :, None] - some[:, None], axis=3)
    vectors = np.abs(np.linalg.eigh(matrices)[1])
    unlike = 1e3 * (numbers[:, None] != numbers)
    n, n_atoms = len(some), len(numbers)
    cost = np.zeros((n, n))
    match = np.zeros((n, n, n_atoms), dtype=np.int64)
    identity = np.arange(n_atoms)
    for i, j in zip(*np.triu_indices(n, 1), strict=True):
        apart = float(np.linalg.norm(matrices[i] - matrices[j]))
        # atom p[k] of j is like atom k of i
        p = linear_sum_assignment(unlike - vectors[i] @ vectors[j].T)[1]
        matched = float(np.linalg.norm(matrices[i] - matrices[j][np.ix_(p, p)]))
        if not (np.array_equal(numbers[p], numbers) and matched < CLOSER * apart):
            p, matched = identity, apart
        cost[i, j] = cost[j, i] = max(matched, 1e-12)
        match[i, j], match[j, i] = p, np.argsort(p)
    tree = scipy.sparse.csgraph.minimum_spanning_tree(scipy.sparse.csr_matrix(cost))
    order, parent = scipy.sparse.csgraph.breadth_first_order(tree, 0, directed=False)
    to_first = np.tile(identity, (n, 1))
    for k in order[1:]:
        # atoms of k that are like those of its parent, and these like those of the first
        to_first[k] = match[parent[k], k][to_first[parent[k]]]
    found = np.unique(to_first, axis=0)
    kept = [p for p in found if _brings_closer(p, to_first, matrices)]
    return group_of(np.array(kept, dtype=np.int64).reshape(-1, n_atoms), n_atoms)


def _brings_closer(p: IntArray, to_first: IntArray, matrices: FloatArray) -> bool:
    """Whether most structures that a permutation is of are closer to others with it."""
    own = np.flatnonzero((to_first == p).all(axis=1))
    others = np.flatnonzero((to_first != p).any(axis=1))
    if np.array_equal(p, np.arange(len(p))) or not len(others):
        return False
    closer = []
    for k in own:
        plain, matched = matrices[k], matrices[k][np.ix_(p, p)]
        before, after = (
            np.linalg.norm(matrices[others] - m, axis=(1, 2)).min() for m in (plain, matched)
        )
        closer.append(after < CLOSER * before)
    return bool(np.mean(closer) > 0.5)


# ---- descriptor --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class InverseDistances(WholeStructures):
    """All inverse distances of a molecule; a `Descriptor`.

    Parameters
    ----------
    species : tuple of int
        Atomic numbers that may occur, ascending.
    numbers : ndarray of shape (n_atoms,) or None
        The atoms of the molecule, in their order.
    permutations : ndarray of shape (n_permutations, n_atoms) or None
        That the kernel averages over; None for the identity.
    spread : float or ndarray of shape (1,)
        What features are divided by [1/Å].
    """

    permutations: IntArray | None = None
    spread: FloatArray | float = 1.0

    @property
    def n_features(self) -> int:
        """Pairs of atoms; one where these are not known yet."""
        return 1 if self.numbers is None else len(self.numbers) * (len(self.numbers) - 1) // 2

    @cached_property
    def index(self) -> IntArray | None:
        """Feature that takes the place of each, permutation by permutation."""
        if self.permutations is None:
            return None
        n = self.permutations.shape[1]
        i, j = np.triu_indices(n, 1)
        place = np.zeros((n, n), dtype=np.int64)
        place[i, j] = place[j, i] = np.arange(len(i))
        return np.array([place[p[i], p[j]] for p in self.permutations])

    def features(self, atoms: Atoms) -> FloatArray:
        """Inverse distances in units of their spread."""
        i, j = np.triu_indices(len(atoms), 1)
        d = atoms.positions[j] - atoms.positions[i]
        return 1.0 / (np.sqrt(np.einsum("pc,pc->p", d, d)) * self.spread)

    def jacobian(self, atoms: Atoms) -> FloatArray:
        """Their derivatives by positions."""
        i, j = np.triu_indices(len(atoms), 1)
        d = atoms.positions[j] - atoms.positions[i]
        by_j = -d / (np.einsum("pc,pc->p", d, d)[:, None] ** 1.5 * self.spread)
        found = np.zeros((len(atoms), 3, len(i)))
        pairs = np.arange(len(i))
        found[j, :, pairs] = by_j
        found[i, :, pairs] = -by_j
        return found

    def directions(self, atoms: Atoms) -> FloatArray:
        """Displacements of features along all degrees of freedom of a molecule.

        Those of orthonormal displacements of the atoms; rigid motions, which move no feature,
        are left out.

        Parameters
        ----------
        atoms : ase.Atoms

        Returns
        -------
        ndarray of shape (n, n_features)
            The longest first.
        """
        jacobian = self.jacobian(atoms)
        flat = jacobian.reshape(-1, jacobian.shape[2])
        _, lengths, axes = np.linalg.svd(flat, full_matrices=False)
        kept = lengths > RIGID * lengths[0]
        return lengths[kept, None] * axes[kept]


# ---- kernel ------------------------------------------------------------------------


@dataclass(frozen=True)
class DirectionGradient(RowGradient):
    """Derivative of covariances with directions by features, as rows of the regression take it.

    Attributes
    ----------
    kernel : DirectionKernel
    """

    kernel: DirectionKernel | None = None

    def of_environment(self, row: int) -> FloatArray:
        """Derivatives of one environment, shape (n_points, n_features)."""
        assert self.kernel is not None
        return self.kernel.slopes_of(self.at[row], self.points)


@dataclass(frozen=True, eq=False)
class DirectionKernel(SimilarityKernel):
    r"""Covariance of energies with derivatives of the energy along directions.

    A `kernelpot.terms.base.Kernel` that is `explicit`: a point is a descriptor, and behind it
    a direction, 2 n_features numbers. All zeros stand for the constant. Their covariance with a
    descriptor is :math:`\partial_{x'} k \cdot v`, and that is the similarity (of delta one).

    Parameters
    ----------
    length_scale : float
        In the unit of the features.
    delta : float
        Prior standard deviation [eV].
    index : ndarray of shape (n_permutations, n_features) or None
        Permuted features; None for the identity.
    """

    length_scale: float
    delta: float
    index: IntArray | None = None

    @property
    def a(self) -> float:
        """Square root of five over the length scale."""
        return SQRT5 / self.length_scale

    def permuted(self, n_features: int) -> IntArray:
        """Permuted features, the identity where no permutation is known."""
        return np.arange(n_features)[None] if self.index is None else self.index

    def _args(self, points: FloatArray) -> tuple[FloatArray, FloatArray, IntArray, float]:
        n = points.shape[1] // 2
        halves = np.ascontiguousarray(points[:, :n]), np.ascontiguousarray(points[:, n:])
        return *halves, self.permuted(n), self.a

    @property
    def explicit(self) -> bool:
        """Points are directions."""
        return True

    @cached_property
    def between(self) -> Kernel:
        """The kernel of molecules with each other."""
        return PermutedMatern(self.length_scale, self.delta, index=self.index)

    def squares(self, u: FloatArray) -> FloatArray:
        """Squared lengths of features."""
        return np.einsum("ef,ef->e", u, u)

    def similarity(self, u: FloatArray, points: FloatArray) -> FloatArray:
        """Covariances for a delta of one, shape (n, n_points)."""
        out = np.zeros((len(u), len(points)))
        if len(points):
            _gdml.values(u, *self._args(points), out)
            out[:, ~points.any(axis=1)] = CONSTANT
        return out

    def own(self, similarity: FloatArray) -> FloatArray:
        """Zeros: `contract` has all of the derivative."""
        return np.zeros_like(similarity)

    def slopes_of(self, u: FloatArray, points: FloatArray) -> FloatArray:
        """Derivatives of the covariances of one environment, shape (n_points, n_features)."""
        out = np.zeros((len(points), len(u)))
        if len(points):
            _gdml.add_slopes(u, *self._args(points), out)
        return self.diagonal() * out

    def contract(self, cotangent: FloatArray, u: FloatArray, points: FloatArray) -> FloatArray:
        """Derivative of a weighted sum of covariances."""
        factor = 1.0 / self.diagonal()
        found = [c @ self.slopes_of(v, points) for c, v in zip(cotangent, u, strict=True)]
        return factor * np.array(found).reshape(u.shape)

    def directional(self, by_u: FloatArray, u: FloatArray, points: FloatArray) -> FloatArray:
        """Derivative of the covariances along derivatives of features."""
        factor = 1.0 / self.diagonal()
        found = [self.slopes_of(v, points) @ g for g, v in zip(by_u, u, strict=True)]
        return factor * np.array(found).reshape(len(u), len(points))

    def row_gradient(
        self,
        u: FloatArray,
        norm: FloatArray,
        weight: FloatArray | None,
        points: FloatArray,
        similarity: FloatArray,
        values: FloatArray,
    ) -> DirectionGradient:
        """Derivative of the covariances by features; see `Kernel.row_gradient`."""
        nothing = np.zeros((len(u), 0))
        return DirectionGradient(points, u, nothing, nothing, values, self)

    def diagonal(self) -> float:
        """Prior variance that the kernel is relative to [eV^2]."""
        return float(self.delta) ** 2

    def largest_slope(self) -> float:
        """Of the kernel between molecules."""
        return self.between.largest_slope()

    def values(self, similarity: FloatArray) -> FloatArray:
        """Covariance [eV^2], same shape."""
        return self.diagonal() * similarity

    def slopes(self, similarity: FloatArray) -> FloatArray:
        """Constant, same shape."""
        return np.full_like(similarity, self.diagonal())

    def curvatures(self, similarity: FloatArray) -> FloatArray:
        """Zeros, same shape."""
        return np.zeros_like(similarity)

    def gram(self, points: FloatArray) -> FloatArray:
        """Covariance of directions with each other; the constant has none with them."""
        out = np.zeros((len(points), len(points)))
        if len(points):
            _gdml.gram(*self._args(points), out)
            constant = np.flatnonzero(~points.any(axis=1))
            out[constant] = out[:, constant] = 0.0
            out[constant, constant] = 1.0
        return self.diagonal() * out

    # ---- means ---------------------------------------------------------------------

    def fast_mean(self, points: FloatArray, weights: FloatArray) -> FastMean | None:
        """One direction at each molecule, the sum of those with their weights."""
        return self.completed(points, weights, np.zeros((0, points.shape[1])))

    def beside(self, tail: FloatArray) -> FastMean:
        """What a mean has beside its points."""
        return self.completed(np.zeros((0, tail.shape[1])), np.zeros(0), tail)

    def completed(self, points: FloatArray, weights: FloatArray, tail: FloatArray) -> FastMean:
        """The mean with what it has beside its points.

        Parameters
        ----------
        points : ndarray of shape (n_points, 2 n_features)
        weights : ndarray of shape (n_points,)
        tail : ndarray of shape (n, 2 n_features)
            Molecules, each with the sum of its directions times their weights [1/eV].
        """
        n = points.shape[1] // 2
        constant = ~points.any(axis=1)
        x, v = summed(points[~constant], weights[~constant])
        x, v = np.concatenate([x, tail[:, :n]]), np.concatenate([v, tail[:, n:]])
        first, place = np.unique(x, axis=0, return_inverse=True)
        total = np.zeros_like(first)
        np.add.at(total, place.ravel(), v)
        level = CONSTANT * self.diagonal() * float(weights[constant].sum())
        return DirectionMean(first, self.diagonal() * total, self.permuted(n), self.a, level)


def summed(points: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The molecules of some points, and the sum of each one's directions with their weights."""
    n = points.shape[1] // 2
    x, place = np.unique(points[:, :n], axis=0, return_inverse=True)
    v = np.zeros_like(x)
    np.add.at(v, place.ravel(), weights[:, None] * points[:, n:])
    return x, v


@dataclass(frozen=True)
class DirectionMean:
    """A mean as one direction at each of some molecules; a `FastMean`.

    Attributes
    ----------
    x, v : ndarray of shape (n, n_features)
        Molecules and directions.
    index : ndarray of shape (n_permutations, n_features)
    a : float
    level : float
        Constant part [eV].
    """

    x: FloatArray
    v: FloatArray
    index: IntArray
    a: float
    level: float

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, derivative and its part along u, which is none; see `FastMean`."""
        value, by_u = np.full(len(u), self.level), np.zeros_like(u)
        _gdml.mean(u, self.x, self.v, self.index, self.a, value, by_u)
        return value, by_u, np.zeros(len(u))


@dataclass(frozen=True, eq=False)
class PermutedMatern(Matern52Kernel):
    """Matérn 5/2 averaged over permutations, and a constant: between molecules.

    Not a function of one similarity: what the posterior needs of it is here in closed form.

    Parameters
    ----------
    length_scale, delta, index
        As in `DirectionKernel`.
    """

    index: IntArray | None = None

    def _index(self, n_features: int) -> IntArray:
        return np.arange(n_features)[None] if self.index is None else self.index

    def __call__(self, u: FloatArray, points: FloatArray) -> FloatArray:
        """Covariance of molecules [eV^2], shape (n, n_points)."""
        out = np.empty((len(u), len(points)))
        _gdml.kernel(u, points, self._index(u.shape[1]), SQRT5 / self.length_scale, out)
        return float(self.delta) ** 2 * (CONSTANT**2 + out)

    def diagonal(self) -> float:
        """The most that the prior variance of a molecule is [eV^2]."""
        return float(self.delta) ** 2 * (1.0 + CONSTANT**2)

    def largest_slope(self) -> float:
        """Prior variance of a derivative along a feature, at most."""
        return float(self.delta) ** 2 * 5.0 / 3.0 / self.length_scale**2

    def energy_prior(self, u: FloatArray) -> float | None:
        """Sum of the kernel over all pairs."""
        return float(self(u, u).sum())

    def derivative_prior(self, u: FloatArray, tangents: FloatArray) -> FloatArray | None:
        """Prior variances of derivatives."""
        index, a = self._index(u.shape[1]), SQRT5 / self.length_scale
        found = np.empty(len(tangents))
        for k, g in enumerate(tangents):
            moved = np.zeros_like(u)
            _gdml.times(u, np.ascontiguousarray(g), index, a, moved)
            found[k] = np.vdot(g, moved)
        return float(self.delta) ** 2 * found
