"""A linear map of another term's features: fewer of them, given or learned from data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.linalg

from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.data.reading import read_dataset
from kernelpot.data.system import Contribution, System
from kernelpot.terms.base import (
    Descriptor,
    Environments,
    Kernel,
    Key,
    RowGradient,
    Tangents,
    Term,
    key_name,
)
from kernelpot.terms.parameters import Range, TermBase, require

# An environment of which a map keeps less than this share (of the length of its features) is
# refused: where nothing is left the normalized kernel has no limit.
LOST = 1e-5


@dataclass(frozen=True, eq=False)
class LinearMap(TermBase):
    r"""A term whose features are mapped linearly before its kernel compares them.

    :math:`x' = A^\top x`, with exact derivatives; the kernel is that of the term, on x'.
    A projection onto leading directions of the features (`principal`) makes many species
    affordable, and kernels smoother.

    Parameters
    ----------
    term : Term
        Any other kind of term.
    matrix : ndarray of shape (n_features, n_mapped), or mapping of str to such
        A; one for every class of environments, or one for each, named by its species
        (``"Si"``; ``"H-O"`` for pairs).

    Raises
    ------
    TypeError
        If `term` is no term.
    ValueError
        If a matrix is not finite or of the wrong shape (for species, when they are known); on
        evaluation, if it sends an environment to nothing.
    """

    term: Term
    matrix: FloatArray | Mapping[str, FloatArray]

    kind: ClassVar[str] = "linear_map"

    def __post_init__(self) -> None:
        """Check the matrices; take copies that nobody changes."""
        if isinstance(self.term, type) or not hasattr(self.term, "descriptor"):
            raise TypeError(f"`term` must be a term such as SOAPTerm(...), got {self.term!r}")
        if self.term.kernel().explicit:
            raise TypeError(
                f"`term` must be one that compares environments, got {self.term!r}: it maps its "
                "features itself"
            )
        given = self.matrix if isinstance(self.matrix, Mapping) else {"": self.matrix}
        matrices = {}
        for name, value in given.items():
            label = f"matrix of {name}" if name else "matrix"
            array = np.array(value, dtype=float)
            require(
                array.ndim == 2 and array.size > 0,
                label,
                "two-dimensional, (n_features, n_mapped)",
                np.shape(value),
            )
            require(bool(np.isfinite(array).all()), label, "finite", "a value that is not")
            array.flags.writeable = False
            matrices[str(name)] = array
        shapes = {array.shape for array in matrices.values()}
        require(len(shapes) == 1, "matrix", "of one shape for all", sorted(shapes))
        object.__setattr__(
            self, "matrix", matrices if isinstance(self.matrix, Mapping) else matrices[""]
        )

    @classmethod
    def principal(cls, term: Term, data: Any, n_mapped: int) -> LinearMap:
        r"""Map onto the leading directions of the features of some structures.

        Of each class of environments the eigenvectors of :math:`\langle u u^\top \rangle`
        with the largest eigenvalues, u being the features as the kernel compares them.

        Parameters
        ----------
        term : Term
        data : path, Dataset, ase.Atoms, ...
            Labelled structures, whatever `read_dataset` takes.
        n_mapped : int
            Number of directions.

        Returns
        -------
        LinearMap

        Raises
        ------
        ValueError
            If there are not so many features, or a class has no environments.
        """
        dataset = read_dataset(data)
        descriptor, kernel = term.descriptor(dataset.species), term.kernel()
        require(
            1 <= n_mapped <= descriptor.n_features,
            "n_mapped",
            f"between 1 and the {descriptor.n_features} features of the term",
            n_mapped,
        )
        moments = np.zeros((len(descriptor.keys), descriptor.n_features, descriptor.n_features))
        for frame in dataset:
            system = System.of([frame.atoms], descriptor.r_cut)
            found = descriptor.environments(system, slice(0, len(frame)))
            u, _ = kernel.embed(found.x)
            for key in np.unique(found.key):
                own = u[found.key == key]
                moments[key] += own.T @ own
        n = descriptor.n_features
        matrices = {}
        for key, moment in zip(descriptor.keys, moments, strict=True):
            if not moment.any():
                raise ValueError(
                    f"the data have no environment of {key_name(key)} (r_cut {term.r_cut:g} Å), "
                    "so that it has no leading directions"
                )
            _, vectors = scipy.linalg.eigh(moment, subset_by_index=(n - n_mapped, n - 1))
            vectors = vectors[:, ::-1]
            signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(n_mapped)])
            matrices[key_name(key)] = vectors * signs  # repeatable
        return cls(term, matrices)

    @classmethod
    def example(cls, species: tuple[int, ...]) -> LinearMap:
        """A small term of the default kind, mapped at random onto a fifth of its features.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        LinearMap
        """
        from kernelpot.terms.kinds import DEFAULT_KIND, TERMS  # which knows this class

        term = TERMS[DEFAULT_KIND].example(species)
        descriptor = term.descriptor(species)
        n = descriptor.n_features
        rng = np.random.default_rng(0)
        matrices = {key_name(key): rng.normal(size=(n, n // 5 + 1)) for key in descriptor.keys}
        return cls(term, matrices)

    def __eq__(self, other: object) -> bool:
        """Whether term and matrices are the same."""
        if not isinstance(other, LinearMap) or self.term != other.term:
            return False
        mine, others = self._matrices, other._matrices
        return mine.keys() == others.keys() and all(
            np.array_equal(mine[name], others[name]) for name in mine
        )

    def __hash__(self) -> int:
        """Hash of the term and the names of the matrices."""
        return hash((self.term, tuple(sorted(self._matrices))))

    @property
    def _matrices(self) -> Mapping[str, FloatArray]:
        return self.matrix if isinstance(self.matrix, Mapping) else {"": self.matrix}

    # ---- what is the term's --------------------------------------------------------

    @property
    def r_cut(self) -> float:
        """Radial cutoff of the term [Å]."""
        return self.term.r_cut

    @property
    def delta(self) -> float:
        """Prior standard deviation of the term [eV]."""
        return self.term.delta

    @property
    def n_sparse(self) -> int | None:
        """Sparse points of the term."""
        return self.term.n_sparse

    @property
    def sparse_method(self) -> str:
        """How they are chosen."""
        return self.term.sparse_method

    @property
    def searched(self) -> Mapping[str, Range]:
        """What of the term may be changed without another matrix."""
        return {k: r for k, r in self.term.searched.items() if not r.of_features}

    def default_n_sparse(self, usual: int, n_keys: int) -> int:
        """Sparse points where `n_sparse` is None.

        Parameters
        ----------
        usual : int
            Number of a term whose points are not named.
        n_keys : int
            Classes of environments that the data have.

        Returns
        -------
        int
        """
        return self.term.default_n_sparse(usual, n_keys)

    def value(self, name: str) -> Any:
        """Return the value of a parameter of the term.

        Parameters
        ----------
        name : str

        Returns
        -------
        float, int or None
        """
        return self.term.value(name)

    def changed(self, **values: Any) -> LinearMap:
        """Return the same map of the term with other values of some parameters.

        Parameters
        ----------
        **values
            Parameters of the term.

        Returns
        -------
        LinearMap
        """
        return LinearMap(self.term.changed(**values), self.matrix)

    def kernel(self) -> Kernel:
        """Kernel of the term, on mapped features.

        Returns
        -------
        Kernel
        """
        return self.term.kernel()

    # ---- what is its own -----------------------------------------------------------

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> MappedDescriptor:
        """Mapped features of the environments of some species.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            Of the term's descriptor.

        Returns
        -------
        MappedDescriptor

        Raises
        ------
        ValueError
            If a class of environments has no matrix, or one of the wrong shape.
        """
        inner = self.term.descriptor(species, constants)
        names = {key_name(key) for key in inner.keys}
        unknown = set(self._matrices) - names if isinstance(self.matrix, Mapping) else set()
        if unknown:
            raise ValueError(
                f"`matrix` names {', '.join(sorted(unknown))}; the term with these species has "
                f"{', '.join(sorted(names))}"
            )
        found = []
        for key in inner.keys:
            name = key_name(key) if isinstance(self.matrix, Mapping) else ""
            if name not in self._matrices:
                raise ValueError(
                    f"`matrix` has none for {name}, only for {', '.join(self._matrices)}"
                )
            matrix = self._matrices[name]
            if len(matrix) != inner.n_features:
                raise ValueError(
                    f"`matrix` must have {inner.n_features} rows, one for each feature of the "
                    f"term with these species, got {len(matrix)}"
                )
            found.append(matrix)
        return MappedDescriptor(inner, found)

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        first, *others = self.term.describe()
        n_features, n_mapped = next(iter(self._matrices.values())).shape
        return [f"{first}, mapped linearly ({n_features} to {n_mapped} features)", *others]

    def to_dict(self) -> dict[str, Any]:
        """Plain data and arrays that the map can be rebuilt from.

        Returns
        -------
        dict
        """
        matrix = dict(self.matrix) if isinstance(self.matrix, Mapping) else self.matrix
        return {"kind": self.kind, "term": self.term.to_dict(), "matrix": matrix}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LinearMap:
        """Inverse of `to_dict`; a matrix may also be a nested list.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        LinearMap

        Raises
        ------
        TypeError
            If a field is unknown or missing.
        """
        from kernelpot.terms.kinds import term_from_dict  # which knows this class

        given = {name: value for name, value in data.items() if name != "kind"}
        if set(given) != {"term", "matrix"}:
            raise TypeError(f"a linear map has the fields term and matrix, got {sorted(given)}")
        return cls(term_from_dict(given["term"]), given["matrix"])


@dataclass(frozen=True)
class MappedDescriptor:
    """Another descriptor with its features mapped; a `Descriptor`.

    Parameters
    ----------
    inner : Descriptor
    matrices : sequence of ndarray of shape (n_inner, n_features)
        One for each key.
    """

    inner: Descriptor
    matrices: Sequence[FloatArray]

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that may occur, ascending."""
        return self.inner.species

    @property
    def keys(self) -> Sequence[Key]:
        """Classes of environments of the inner descriptor."""
        return self.inner.keys

    @property
    def r_cut(self) -> float:
        """Reach of the pairs it needs [Å]."""
        return self.inner.r_cut

    @cached_property
    def n_features(self) -> int:
        """Number of mapped features."""
        return int(self.matrices[0].shape[1])

    @property
    def has_centers(self) -> bool:
        """Whether environments belong to atoms."""
        return self.inner.has_centers

    @property
    def one_per_atom(self) -> bool:
        """Whether every atom has exactly one environment."""
        return self.inner.one_per_atom

    def center_species(self, key: Key) -> Sequence[int]:
        """Atomic numbers of the atoms that may be centers."""
        return self.inner.center_species(key)

    def count(self, system: System) -> IntArray:
        """Number of environments of each key."""
        return self.inner.count(system)

    def _mapped(self, key: IntArray, x: FloatArray) -> FloatArray:
        """Map what lies along the last axis, environment by environment."""
        mapped = np.empty((*x.shape[:-1], self.n_features))
        for k in np.unique(key):
            own = key == k
            mapped[own] = x[own] @ self.matrices[k]
        return mapped

    def environments(self, system: System, atoms: slice) -> Environments:
        """Environments of a run of atoms."""
        inner = self.inner.environments(system, atoms)
        x = self._mapped(inner.key, inner.x)
        lost = np.einsum("ef,ef->e", x, x) < LOST**2 * np.einsum("ef,ef->e", inner.x, inner.x)
        if lost.any():
            name = key_name(self.keys[inner.key[np.argmax(lost)]])
            raise ValueError(
                f"the linear map sends an environment of {name} to nothing: a kernel that "
                "normalizes features would jump there; keep more directions"
            )
        return Environments(
            inner.key,
            inner.center,
            inner.structure,
            x,
            inner.weight,
            inner,
        )

    def pull(
        self,
        system: System,
        environments: Environments,
        by_x: FloatArray,
        by_weight: FloatArray | None,
        out: Contribution,
    ) -> None:
        """Add derivatives of the inner features; see `Descriptor.pull`."""
        inner = environments.state
        by_inner = np.empty_like(inner.x)
        for k in np.unique(environments.key):
            own = environments.key == k
            by_inner[own] = by_x[own] @ self.matrices[k].T
        self.inner.pull(system, inner, by_inner, by_weight, out)

    def add_rows(
        self,
        system: System,
        environments: Environments,
        chosen: IntArray,
        gradient: RowGradient,
        force_rows: FloatArray,
        virial_rows: FloatArray,
    ) -> None:
        """Add to rows of forces and virials; see `Descriptor.add_rows`."""
        if not len(chosen):
            return
        back = self.matrices[environments.key[chosen[0]]].T
        inner = RowGradient(
            gradient.points @ back,
            gradient.at @ back,
            gradient.slope,
            gradient.own,
            gradient.by_weight,
        )
        self.inner.add_rows(system, environments.state, chosen, inner, force_rows, virial_rows)

    def tangents(self, system: System, environments: Environments) -> Tangents:
        """How coordinates move the environments; see `Descriptor.tangents`."""
        return _MappedTangents(
            self.inner.tangents(system, environments.state), environments.key, self._mapped
        )

    def to_arrays(self) -> dict[str, Array]:
        """Constants of the inner descriptor; the matrices belong to the term."""
        return self.inner.to_arrays()


@dataclass(frozen=True)
class _MappedTangents:
    """`kernelpot.terms.base.Tangents` of mapped features."""

    inner: Tangents
    key: IntArray
    mapped: Any

    def moved_by(self, atom: int) -> tuple[IntArray, FloatArray, FloatArray | None]:
        """Environments that depend on an atom's position; see `Tangents`."""
        members, by_x, by_weight = self.inner.moved_by(atom)
        return members, self.mapped(self.key[members], by_x), by_weight

    def strained(self, members: IntArray) -> tuple[FloatArray, FloatArray | None]:
        """How environments change under strain; see `Tangents`."""
        by_x, by_weight = self.inner.strained(members)
        return self.mapped(self.key[members], by_x), by_weight
