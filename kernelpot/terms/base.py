"""What a kind of term is: a descriptor of environments, and a kernel to compare them.

A term of a model is written by the user as a small frozen dataclass (`Term`). For the
species of a fit it becomes a `Descriptor`, which finds the environments of structures and
knows how positions move their features, and a `Kernel`, which compares features. Everything
else (rows of the regression, local energies and forces, variances, files, reports) is
written once against these three protocols, in `kernelpot.gp` and above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from ase.data import chemical_symbols

from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.data.system import VOIGT_COLUMNS, VOIGT_ROWS, Contribution, System
from kernelpot.terms import _rows

# Class of environments that are compared with each other and with nothing else: the atomic
# numbers that distinguish it. ``(Z,)`` for environments of the species Z, ``(Z, Z')`` for
# pairs, ``()`` for whole structures.
Key = tuple[int, ...]
Self = TypeVar("Self", bound="TermBase")

# How sparse points may be chosen (`kernelpot.regression.selection`).
SELECTIONS = ("farthest_point", "cur", "kmeans", "random")
# Feature derivatives are formed for so many bytes of pairs at a time: small enough that the
# allocator reuses the memory instead of mapping fresh pages for every chunk.
JACOBIAN_BYTES = 16e6


# ---- environments ------------------------------------------------------------------


@dataclass(frozen=True)
class Environments:
    """Environments of the atoms of a system, or of some of them, in one descriptor.

    Sorted by center (without centers by structure).

    Attributes
    ----------
    key : ndarray of shape (n,)
        Class of each: an index in `Descriptor.keys`.
    center : ndarray of shape (n,)
        The atom whose local energy each contributes to; -1 where it belongs to its
        structure as a whole.
    structure : ndarray of shape (n,)
        The structure each is part of.
    x : ndarray of shape (n, n_features)
        Features.
    weight : ndarray of shape (n,) or None
        Smooth factor of each one's energy; None for 1 everywhere.
    state : object
        What the descriptor's derivatives need.
    """

    key: IntArray
    center: IntArray
    structure: IntArray
    x: FloatArray
    weight: FloatArray | None = None
    state: Any = None

    def __len__(self) -> int:
        """Return the number of environments."""
        return len(self.key)


@dataclass(frozen=True)
class RowGradient:
    """Derivative of kernels by features, as rows of the regression take it.

    Of the environment e and the point m it is ``slope[e, m] (point[m] - own[e, m] at[e])``.

    Attributes
    ----------
    points : ndarray of shape (n_points, n_features)
    at : ndarray of shape (n, n_features)
    slope, own : ndarray of shape (n, n_points)
    by_weight : ndarray of shape (n, n_points)
        Derivative by the environment's weight: the kernel.
    """

    points: FloatArray
    at: FloatArray
    slope: FloatArray
    own: FloatArray
    by_weight: FloatArray


class Tangents(Protocol):
    """How single coordinates move the environments of one structure."""

    def moved_by(self, atom: int) -> tuple[IntArray, FloatArray, FloatArray | None]:
        """Environments that depend on an atom's position, and how.

        An environment may hold several images of the atom: their derivatives add up.

        Parameters
        ----------
        atom : int

        Returns
        -------
        members : ndarray of shape (n_env,)
            Indices of environments, each once.
        by_x : ndarray of shape (n_env, 3, n_features)
            Derivatives of their features [1/Å].
        by_weight : ndarray of shape (n_env, 3) or None
            Of their weights [1/Å]; None where these do not change.
        """

    def strained(self, members: IntArray) -> tuple[FloatArray, FloatArray | None]:
        """How environments change under strain.

        Parameters
        ----------
        members : ndarray of shape (n_env,)

        Returns
        -------
        by_x : ndarray of shape (n_env, 6, n_features)
            By xx yy zz yz xz xy.
        by_weight : ndarray of shape (n_env, 6) or None
        """


class Descriptor(Protocol):
    """A term for a fixed set of species: environments and their derivatives."""

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that may occur, ascending."""

    @property
    def keys(self) -> Sequence[Key]:
        """Classes of environments, in the order of `Environments.key`."""

    @property
    def r_cut(self) -> float:
        """Reach of the pairs it needs [Å]; 0 for one that needs none."""

    @property
    def n_features(self) -> int:
        """Number of features."""

    @property
    def has_centers(self) -> bool:
        """Whether environments belong to atoms; else they belong to whole structures."""

    @property
    def one_per_atom(self) -> bool:
        """Whether every atom has exactly one environment, of weight 1."""

    def center_species(self, key: Key) -> Sequence[int]:
        """Atomic numbers of the atoms that may be the center of such an environment."""

    def count(self, system: System) -> IntArray:
        """Number of environments of each key, shape (n_keys,)."""

    def environments(self, system: System, atoms: slice) -> Environments:
        """Environments of a run of atoms (all of the system's without centers)."""

    def pull(
        self,
        system: System,
        environments: Environments,
        by_x: FloatArray,
        by_weight: FloatArray | None,
        out: Contribution,
    ) -> None:
        """Add the derivatives of a scalar to `out`, from those by features and weights.

        Parameters
        ----------
        system : System
        environments : Environments
        by_x : ndarray of shape (n, n_features)
        by_weight : ndarray of shape (n,) or None
        out : Contribution
            Receives them, by addition: ``gradient`` by pair displacements, ``forces`` and
            ``virials`` what is none of these.
        """

    def add_rows(
        self,
        system: System,
        environments: Environments,
        chosen: IntArray,
        gradient: RowGradient,
        force_rows: FloatArray,
        virial_rows: FloatArray,
    ) -> None:
        """Add to the rows of forces and virials what some environments contribute.

        Parameters
        ----------
        system : System
        environments : Environments
        chosen : ndarray of shape (n,)
            The environments that `gradient` is about, all of one key.
        gradient : RowGradient
        force_rows : ndarray of shape (3 n_atoms, n_points)
        virial_rows : ndarray of shape (6 n_structures, n_points)
            xx yy zz yz xz xy; may be empty.
        """

    def tangents(self, system: System, environments: Environments) -> Tangents:
        """How coordinates move the environments of a system of one structure."""

    def to_arrays(self) -> dict[str, Array]:
        """Constants that must travel with a model; given back when it is loaded."""


# ---- kernels -----------------------------------------------------------------------


class FastMean(Protocol):
    """A posterior mean in a closed form that costs less than the kernel."""

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean of embedded features, its derivative by them, and that one's part along them.

        Parameters
        ----------
        u : ndarray of shape (n, n_features)

        Returns
        -------
        mean : ndarray of shape (n,)
        by_u : ndarray of shape (n, n_features)
        own : ndarray of shape (n,)
        """


class Kernel(Protocol):
    r"""Covariance of environments of one class: a function of a similarity.

    Features x are embedded as u (`embed`); the similarity s of two embedded environments
    has the derivative :math:`\partial s(u, q) / \partial u = q - o(s)\, u` (`own`). Unit
    vectors with their dot product are of this kind (o = s: the part along u does nothing),
    and so are distances (:math:`s = -|u - q|^2 / 2`, o = 1).
    """

    @property
    def delta(self) -> float:
        """Prior standard deviation [eV]."""

    def embed(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Embedded features, and what their derivative is divided by, shape (n,)."""

    def tangent(self, u: FloatArray, norm: FloatArray, by_x: FloatArray) -> FloatArray:
        """Derivatives of embedded features from those of features, (n, c, f) to (c, n, f)."""

    def squares(self, u: FloatArray) -> FloatArray:
        """Squared lengths of embedded features, shape (n,)."""

    def similarity(self, u: FloatArray, points: FloatArray) -> FloatArray:
        """Similarity of environments and points, shape (n, n_points)."""

    def own(self, similarity: FloatArray) -> FloatArray:
        """Share of an environment's own features in the derivative, same shape."""

    def __call__(self, u: FloatArray, points: FloatArray) -> FloatArray:
        """Covariance of environments and points [eV^2], shape (n, n_points)."""

    def directional(self, by_u: FloatArray, u: FloatArray, points: FloatArray) -> FloatArray:
        """Derivative of the similarity along derivatives of embedded features.

        Parameters
        ----------
        by_u : ndarray of shape (n, n_features)
            From `tangent`.
        u : ndarray of shape (n, n_features)
        points : ndarray of shape (n_points, n_features)

        Returns
        -------
        ndarray of shape (n, n_points)
        """

    def values(self, similarity: FloatArray) -> FloatArray:
        """Kernel [eV^2], same shape."""

    def slopes(self, similarity: FloatArray) -> FloatArray:
        """Derivative of the kernel by the similarity, same shape."""

    def curvatures(self, similarity: FloatArray) -> FloatArray:
        """Second derivative of the kernel by the similarity, same shape."""

    def diagonal(self) -> float:
        """Kernel of any environment with itself [eV^2]."""

    def largest_slope(self) -> float:
        """Slope at the similarity of an environment with itself."""

    def gram(self, points: FloatArray) -> FloatArray:
        """Kernel of points with each other, symmetric."""

    def fill(self, similarity: FloatArray, columns: IntArray, out: FloatArray) -> None:
        """Write the kernel of each point into its column of `out`."""

    def weigh_slopes(self, similarity: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Turn a cotangent of the kernel into one of the similarity, in place.

        Returns
        -------
        ndarray of shape (n,)
            The sum over points of that times `own`.
        """

    def mean_and_slopes(
        self, similarity: FloatArray, weights: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean ``values @ weights`` with its cotangent of the similarity, as `weigh_slopes`."""

    def fast_mean(self, points: FloatArray, weights: FloatArray) -> FastMean | None:
        """Closed form of the mean, where there is one that costs less."""

    def energy_prior(self, u: FloatArray) -> float | None:
        """Sum of the kernel over all pairs of environments in closed form, or None."""

    def derivative_prior(self, u: FloatArray, tangents: FloatArray) -> FloatArray | None:
        """Prior variances of derivatives of the sum of energies in closed form, or None."""


class SimilarityKernel:
    """What a `Kernel` gets for nothing from `values`, `slopes` and `own`."""

    def embed(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Features as they are."""
        return x, np.ones(len(x))

    def tangent(self, u: FloatArray, norm: FloatArray, by_x: FloatArray) -> FloatArray:
        """Derivatives as they are."""
        return np.ascontiguousarray(by_x.transpose(1, 0, 2))

    def __call__(self: Kernel, u: FloatArray, points: FloatArray) -> FloatArray:
        """Covariance of environments and points [eV^2], shape (n, n_points)."""
        return self.values(self.similarity(u, points))

    def gram(self: Kernel, points: FloatArray) -> FloatArray:
        """Kernel of points with each other, symmetric."""
        similarity = self.similarity(points, points)
        return self.values(0.5 * (similarity + similarity.T))

    def fill(self: Kernel, similarity: FloatArray, columns: IntArray, out: FloatArray) -> None:
        """Write the kernel of each point into its column of `out`."""
        out[:, columns] = self.values(similarity[:, : len(columns)])

    def weigh_slopes(self: Kernel, similarity: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Turn a cotangent of the kernel into one of the similarity, in place."""
        cotangent *= self.slopes(similarity)
        return np.einsum("em,em->e", cotangent, self.own(similarity))

    def mean_and_slopes(
        self: Kernel, similarity: FloatArray, weights: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean ``values @ weights`` with its cotangent of the similarity."""
        slopes = self.slopes(similarity) * weights
        own = np.einsum("em,em->e", slopes, self.own(similarity))
        return self.values(similarity) @ weights, slopes, own

    def fast_mean(self, points: FloatArray, weights: FloatArray) -> FastMean | None:
        """None: the kernel is evaluated."""
        return None

    def energy_prior(self, u: FloatArray) -> float | None:
        """None: the kernel is summed."""
        return None

    def derivative_prior(self, u: FloatArray, tangents: FloatArray) -> FloatArray | None:
        """None: the kernel is summed."""
        return None


# ---- terms -------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """How a search over kernels moves a parameter.

    Attributes
    ----------
    step : float
        Factor of a whole step, or what is added if `additive`.
    factors : (float, float), optional
        Default bounds as factors on the start.
    values : (float, float), optional
        Default bounds as values.
    integer, additive : bool
        Whether values are integers; whether a step is added (and never refined).
    minimum : float
        Smallest value that makes sense.
    by_default : bool
        Whether it is searched if nothing else is said.
    of_features : bool
        Whether it changes the features, not only how they are compared.
    """

    step: float
    factors: tuple[float, float] | None = None
    values: tuple[float, float] | None = None
    integer: bool = False
    additive: bool = False
    minimum: float = 0.0
    by_default: bool = True
    of_features: bool = True


# Sparse points, of any term: more are always better, and cost.
N_SPARSE_RANGE = Range(
    2.0, (0.25, 4.0), integer=True, minimum=1, by_default=False, of_features=False
)


class Term(Protocol):
    """What the user writes: the hyper-parameters of one term, a frozen dataclass."""

    kind: ClassVar[str]

    @property
    def r_cut(self) -> float:
        """Radial cutoff [Å]."""

    @property
    def delta(self) -> float:
        """Prior standard deviation [eV]."""

    @property
    def n_sparse(self) -> int | None:
        """Sparse points, all classes of environments together; None for a default."""

    @property
    def sparse_method(self) -> str:
        """How they are chosen, one of `SELECTIONS`."""

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters that a search over kernels may change."""

    def default_n_sparse(self, usual: int, n_keys: int) -> int:
        """Sparse points where `n_sparse` is None, from the usual number of a term."""

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> Descriptor:
        """Descriptor for some species, with the constants of an earlier one if given."""

    def kernel(self) -> Kernel:
        """Kernel that compares its environments."""

    def value(self, name: str) -> Any:
        """Value of a parameter."""

    def changed(self, **values: Any) -> Any:
        """The same term with other values of some parameters."""

    def describe(self) -> list[str]:
        """Its parameters in words, for reports."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data and arrays it can be rebuilt from, ``"kind"`` among them."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Any:
        """Inverse of `to_dict`."""

    @classmethod
    def example(cls, species: tuple[int, ...]) -> Any:
        """A small term of this kind, to try things out with."""


class TermBase:
    """What a `Term` gets for nothing by being a dataclass."""

    kind: ClassVar[str]

    def default_n_sparse(self, usual: int, n_keys: int) -> int:
        """Return the usual number.

        Parameters
        ----------
        usual : int
            Sparse points of a term that names no number.
        n_keys : int
            Classes of environments that the data have.

        Returns
        -------
        int
        """
        return usual

    def value(self, name: str) -> Any:
        """Return the value of a parameter.

        Parameters
        ----------
        name : str

        Returns
        -------
        float, int, str or None
        """
        return getattr(self, name)

    def changed(self: Self, **values: Any) -> Self:
        """Return the same term with other values of some parameters.

        Parameters
        ----------
        **values
            Fields of the dataclass.

        Returns
        -------
        term
        """
        return replace(self, **values)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Plain data that the term can be rebuilt from.

        Returns
        -------
        dict
        """
        result: dict[str, Any] = {"kind": self.kind}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                value = {str(k): float(v) for k, v in value.items()}
            elif isinstance(value, np.generic):
                value = value.item()
            result[field.name] = value
        return result

    @classmethod
    def from_dict(cls: type[Self], data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        term

        Raises
        ------
        TypeError
            If a field is unknown or missing.
        """
        return cls(**{name: value for name, value in data.items() if name != "kind"})

    @classmethod
    def example(cls: type[Self], species: tuple[int, ...]) -> Self:
        """A small term of this kind, to try things out with: the tests of all kinds do.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        term
        """
        return cls(r_cut=4.0)  # type: ignore[call-arg]


def require(condition: bool, name: str, expected: str, value: object) -> None:
    """Refuse a value of a parameter.

    Raises
    ------
    ValueError
        Unless the condition holds.
    """
    if not condition:
        raise ValueError(f"`{name}` must be {expected}, got {value!r}")


def require_number(name: str, value: object) -> None:
    """Refuse what is no finite number.

    Raises
    ------
    TypeError, ValueError
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"`{name}` must be a number, got {value!r}")
    require(bool(np.isfinite(value)), name, "finite", value)


def key_name(key: Key) -> str:
    """Name of a class of environments, such as ``"Si"`` or ``"H-O"``; "all" for ()."""
    return "-".join(chemical_symbols[z] for z in key) or "all"


# ---- for descriptors that are sums over pairs --------------------------------------


def chunks_of(pairs: IntArray, bytes_per_pair: float) -> Iterator[IntArray]:
    """Cut pairs into runs whose derivatives fit into `JACOBIAN_BYTES`."""
    size = max(1, int(JACOBIAN_BYTES / bytes_per_pair))
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def add_pair_rows(
    system: System,
    pairs: IntArray,
    rows: IntArray,
    jacobian: FloatArray,
    gradient: RowGradient,
    columns: IntArray | None,
    points_t: FloatArray,
    force_rows: FloatArray,
    virial_rows: FloatArray,
) -> None:
    """Add what displacements of pairs contribute to rows of forces and virials.

    Parameters
    ----------
    system : System
    pairs : ndarray of shape (n,)
        Pairs whose displacement changes an environment.
    rows : ndarray of shape (n,)
        Which environment of `gradient` each changes.
    jacobian : ndarray of shape (n, 3, n_some)
        Derivatives of features by the displacement.
    gradient : RowGradient
    columns : ndarray of shape (n_some,) or None
        Which features these are; None for all.
    points_t : ndarray of shape (n_some, n_points)
        The points' values of these features.
    force_rows, virial_rows
        As in `Descriptor.add_rows`.
    """
    at = gradient.at if columns is None else gradient.at[:, columns]
    along_self = np.einsum("pcf,pf->pc", jacobian, at[rows], optimize=True)
    flat = jacobian.reshape(-1, jacobian.shape[2])
    along_points = (flat @ points_t).reshape(len(pairs), 3, -1)
    centers = system.pairs.centers[pairs]
    _rows.accumulate(
        along_points,
        along_self,
        rows,
        centers,
        system.pairs.neighbors[pairs],
        system.structure_of[centers],
        system.displacements[pairs],
        gradient.own,
        gradient.slope,
        force_rows,
        virial_rows,
    )


class CenterTangents:
    """`Tangents` of a descriptor with one environment per atom, made of pairs.

    Parameters
    ----------
    system : System
        Of one structure.
    r_cut : float
        Reach of the descriptor [Å].
    jacobian : callable
        Derivatives of the features of the centers of some pairs by their displacements,
        shape (n, 3, n_features).
    """

    def __init__(
        self, system: System, r_cut: float, jacobian: Callable[[IntArray], FloatArray]
    ) -> None:
        self._jacobian = jacobian
        self._displacements = system.displacements
        self._centers, self._neighbors = system.pairs.centers, system.pairs.neighbors
        self._outgoing = np.flatnonzero(system.distances < r_cut)
        # stable: those of one neighbor stay sorted by center
        order = np.argsort(self._neighbors[self._outgoing], kind="stable")
        self._incoming = self._outgoing[order]
        self._outgoing_first = np.searchsorted(self._outgoing, system.pairs.first)
        self._incoming_first = np.searchsorted(
            self._neighbors[self._incoming], np.arange(system.n_atoms + 1)
        )

    def _out(self, atom: int) -> IntArray:
        return self._outgoing[self._outgoing_first[atom] : self._outgoing_first[atom + 1]]

    def moved_by(self, atom: int) -> tuple[IntArray, FloatArray, FloatArray | None]:
        """Environments that depend on an atom's position, its own first; see `Tangents`.

        Images of the atom in its own environment move with it.
        """
        out = self._out(atom)
        into = self._incoming[self._incoming_first[atom] : self._incoming_first[atom + 1]]
        out, into = out[self._neighbors[out] != atom], into[self._centers[into] != atom]
        others, runs = np.unique(self._centers[into], return_index=True)
        own = self._jacobian(out)
        by_x = np.empty((1 + len(others), *own.shape[1:]))
        by_x[0] = -own.sum(axis=0)
        if len(others):
            by_x[1:] = np.add.reduceat(self._jacobian(into), runs, axis=0)
        return np.concatenate([[atom], others]), by_x, None

    def strained(self, members: IntArray) -> tuple[FloatArray, FloatArray | None]:
        """How environments change under strain; see `Tangents`."""
        parts = []
        for atom in members:
            out = self._out(int(atom))
            jacobian = self._jacobian(out)
            flat = jacobian.reshape(len(out), 3 * jacobian.shape[2])
            full = self._displacements[out].T @ flat
            parts.append(full.reshape(3, 3, -1)[VOIGT_ROWS, VOIGT_COLUMNS])
        return np.array(parts), None
