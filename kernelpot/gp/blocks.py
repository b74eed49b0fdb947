"""Terms for the species of a fit, and their sparse points block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kernelpot.common.types import Array, FloatArray
from kernelpot.terms.base import Descriptor, Kernel, Key, Term


@dataclass(frozen=True)
class BoundTerm:
    """A term for fixed species.

    Attributes
    ----------
    term : Term
        Hyper-parameters.
    descriptor : Descriptor
    kernel : Kernel
    """

    term: Term
    descriptor: Descriptor
    kernel: Kernel

    @classmethod
    def of(
        cls,
        term: Term,
        species: tuple[int, ...],
        constants: Mapping[str, Array] | None = None,
    ) -> BoundTerm:
        """Descriptor and kernel of a term for some species.

        Parameters
        ----------
        term : Term
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            `Descriptor.to_arrays` of an earlier one.
        """
        descriptor = term.descriptor(species, constants)
        return cls(term, descriptor, term.kernel_of(descriptor))


@dataclass(frozen=True)
class Points:
    """Sparse points of one class of environments in one term.

    Attributes
    ----------
    term : int
        Index of the term.
    key : Key
        Class of environments.
    points : ndarray of shape (n_points, n_features)
        As the kernel embeds them, or what it has in their place (`Kernel.explicit`).
    sites : ndarray of shape (n_sites, n_features) or None
        Some embedded environments of the class, where the points are none.
    """

    term: int
    key: Key
    points: Array
    sites: FloatArray | None = None


@dataclass(frozen=True)
class Block(Points):
    """Sparse points with their whitening, and their place in the regression.

    Attributes
    ----------
    T : ndarray of shape (n_points, rank) or (n_points,)
        Whitening, ``T.T @ K_mm @ T = I``; its diagonal where it has nothing else.
    sparse : slice
        These points among all of the model.
    columns : slice
        Whitened columns.
    """

    T: FloatArray = field(kw_only=True)
    sparse: slice = field(kw_only=True)
    columns: slice = field(kw_only=True)

    @property
    def rank(self) -> int:
        """Whitened columns."""
        return int(self.T.shape[-1])

    def whitened(self, K: FloatArray) -> FloatArray:
        """Whitened covariances, from those with the points, (n, n_points) to (n, rank)."""
        return K * self.T if self.T.ndim == 1 else K @ self.T

    def of_points(self, w: FloatArray) -> FloatArray:
        """Weights of the points, from those of whitened columns, (rank, ...) likewise."""
        if self.T.ndim == 1:
            return self.T.reshape(-1, *[1] * (w.ndim - 1)) * w
        return self.T @ w


def lay_out(points: Iterable[tuple[Points, FloatArray]]) -> list[Block]:
    """Blocks, one after the other, of sparse points with their whitening."""
    blocks: list[Block] = []
    sparse = column = 0
    for found, T in sorted(points, key=lambda pair: (pair[0].key, pair[0].term)):
        n_points, rank = T.shape[0], T.shape[-1]
        blocks.append(
            Block(
                found.term,
                found.key,
                found.points,
                found.sites,
                T=T,
                sparse=slice(sparse, sparse + n_points),
                columns=slice(column, column + rank),
            )
        )
        sparse += n_points
        column += rank
    return blocks


def reach(terms: Sequence[BoundTerm]) -> float:
    """Largest radial cutoff [Å]."""
    return max(term.descriptor.r_cut for term in terms)
