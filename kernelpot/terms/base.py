"""What a kind of term is: a descriptor of environments, and a kernel to compare them.

A term of a model is written by the user as a small frozen dataclass (`Term`). For the
species of a fit it becomes a `Descriptor`, which finds the environments of structures and
knows how positions move their features, and a `Kernel`, which compares features. Everything
else (rows of the regression, local energies and forces, variances, files, reports) is
written once against these three protocols, in `kernelpot.gp` and above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.types import Array, FloatArray, IntArray, SingleArray
from kernelpot.data.system import Contribution, System
from kernelpot.terms.parameters import Range

# Class of environments that are compared with each other and with nothing else: the atomic
# numbers that distinguish it. ``(Z,)`` for environments of the species Z, ``(Z, Z')`` for
# pairs, ``()`` for whole structures.
Key = tuple[int, ...]


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
        What the descriptor's derivatives need. They are asked for with the same `System`, so
        that it may hold indices of pairs.
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
    Kernels of another form have a subclass, for descriptors that know it.

    Attributes
    ----------
    points : ndarray of shape (n_points, n_features)
        Embedded features of the sparse points.
    at : ndarray of shape (n, n_features)
        Embedded features of the environments, in the order of `chosen` in `add_rows`; so are
        all below.
    slope, own : ndarray of shape (n, n_points)
    by_weight : ndarray of shape (n, n_points)
        Derivative by the environment's weight: the kernel.
    """

    points: FloatArray
    at: FloatArray
    slope: FloatArray
    own: FloatArray
    by_weight: FloatArray

    def of_environment(self, row: int) -> FloatArray:
        """Derivatives of the kernels of one environment by its features.

        Parameters
        ----------
        row : int
            Its place in `at`.

        Returns
        -------
        ndarray of shape (n_points, n_features)
        """
        slope, own = self.slope[row], self.own[row]
        return slope[:, None] * (self.points - own[:, None] * self.at[row])


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
            By xx yy zz yz xz xy: the sum over displacements r of ``r[a]`` times the
            derivative by ``r[b]``, without a factor of 2 off the diagonal.
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
        """Whether environments belong to atoms; else they belong to whole structures.

        Those of an atom are known from its pairs within `r_cut`, and so are their derivatives,
        unless the descriptor has a property ``long_ranged`` that is true (`is_local`).
        """

    @property
    def one_per_atom(self) -> bool:
        """Whether every atom has exactly one environment, of weight 1."""

    def center_species(self, key: Key) -> Sequence[int]:
        """Atomic numbers of the atoms that may be the center of such an environment."""

    def count(self, system: System) -> IntArray:
        """Number of environments of each key in all structures together, shape (n_keys,)."""

    def environments(self, system: System, atoms: slice) -> Environments:
        """Environments of a run of atoms (all of the system's without centers).

        Parameters
        ----------
        system : System
            Of one or more structures. Its pairs may reach farther than `r_cut`: other terms do.
        atoms : slice
            Start and stop are given. Centers are numbered as in the system, not in the run.
        """

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
            Receives them, by addition: ``gradient`` by the displacements of the pairs of
            these centers; without centers and from what is long-ranged also ``forces`` and
            ``virials``, what is no derivative by displacements (runs of centers are evaluated in
            parallel, but these are pulled one after the other).
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

        Rows of forces are the kernel's derivatives by positions times -1, rows of virials those
        by strain times -1.

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
        """How coordinates move the environments of a system of one structure.

        `kernelpot.terms.by_rows.RowTangents` does this for any descriptor, slowly.
        """

    def to_arrays(self) -> dict[str, Array]:
        """Constants that must travel with a model; given back when it is loaded."""


@runtime_checkable
class PullsMembers(Protocol):
    """A descriptor that moves several scalars at once for less than one after the other.

    Only where environments have no weights, and centers.
    """

    def pull_members(
        self,
        system: System,
        environments: Environments,
        by_x: SingleArray,
        gradients: SingleArray,
    ) -> None:
        """Add derivatives by the displacements of pairs; see `Descriptor.pull`.

        Parameters
        ----------
        system : System
        environments : Environments
        by_x : ndarray of float32, shape (n, n_features, n_members)
        gradients : ndarray of float32, shape (n_pairs, 3, n_members)
            Receives them, by addition.
        """


@runtime_checkable
class OwnPoints(Protocol):
    """A descriptor that says what takes the place of sparse points, and what is known of them.

    Attributes
    ----------
    own_points : ndarray of shape (n_points, n_features)
        Points of its only class of environments.
    known_weights : ndarray of shape (n_points,)
        Part of their weights that no label changes: the mean of the prior, in units in which
        the kernel of a point with a unit feature is one.
    """

    @property
    def own_points(self) -> FloatArray:
        """Points of its only class of environments."""

    @property
    def known_weights(self) -> FloatArray:
        """Part of their weights that no label changes."""


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

    What environments are compared with need not be environments: the points of a kernel that
    is `explicit` are features of which the kernel is the sum, and the similarity is their
    value; its derivative is `contract` and `directional` less `own` times u.
    """

    @property
    def delta(self) -> float:
        """Prior standard deviation [eV]."""

    @property
    def explicit(self) -> bool:
        """Whether points are features of environments rather than environments."""

    @property
    def uncorrelated(self) -> bool:
        """Whether the prior has no correlation between points."""

    @property
    def between(self) -> Kernel:
        """The kernel that compares environments with each other: itself unless `explicit`."""

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

    def contract(self, cotangent: FloatArray, u: FloatArray, points: FloatArray) -> FloatArray:
        """Derivative by u, but for the part along it, of a weighted sum of similarities.

        Parameters
        ----------
        cotangent : ndarray of shape (n, n_points)
            Weight of each similarity.
        u : ndarray of shape (n, n_features)
        points : ndarray of shape (n_points, ...)

        Returns
        -------
        ndarray of shape (n, n_features)
        """

    def row_gradient(
        self,
        u: FloatArray,
        norm: FloatArray,
        weight: FloatArray | None,
        points: FloatArray,
        similarity: FloatArray,
        values: FloatArray,
    ) -> RowGradient:
        """Derivative of the kernel by features, for rows of forces and virials.

        Parameters
        ----------
        u : ndarray of shape (n, n_features)
        norm : ndarray of shape (n,)
            From `embed`.
        weight : ndarray of shape (n, 1) or None
            Factor of each environment's energy.
        points : ndarray of shape (n_points, ...)
        similarity, values : ndarray of shape (n, n_points)
        """

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


@runtime_checkable
class HasBeside(Protocol):
    """A kernel whose mean may have more than its points have (`LocalModel.tails`)."""

    def beside(self, tail: FloatArray) -> FastMean:
        """What a mean has beside its points."""

    def completed(self, points: FloatArray, weights: FloatArray, tail: FloatArray) -> FastMean:
        """A mean with what it has beside its points."""


class SeveralMeans(Protocol):
    """Means of several sets of weights: homogeneous functions of embedded features."""

    @property
    def degree(self) -> int:
        """Of homogeneity: an energy is the derivative along features over this."""

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""

    def __call__(
        self, u: FloatArray, similarity: FloatArray | None, weight: FloatArray | None
    ) -> tuple[SingleArray, FloatArray]:
        """Derivatives of all means by embedded features, in single precision, and energies.

        Parameters
        ----------
        u : ndarray of shape (n, n_features)
        similarity : ndarray of shape (n, n_points) or None
            With the points, where it is known.
        weight : ndarray of shape (n,) or None
            Factor of each energy.

        Returns
        -------
        by_u : ndarray of float32, shape (n, n_features, n_members)
            Of unweighted energies; the caller may change it.
        energies : ndarray of shape (n_members,)
            Weighted and summed [eV].
        """


@runtime_checkable
class HasSeveralMeans(Protocol):
    """A kernel with closed forms of several means that cost less than each of them."""

    def several_means(
        self, points: FloatArray, weights: FloatArray, max_bytes: float
    ) -> SeveralMeans | None:
        """Closed forms, or None: there are none, or they need too much memory.

        Parameters
        ----------
        points : ndarray of shape (n_points, n_features)
        weights : ndarray of shape (n_members, n_points)
        max_bytes : float
        """


# ---- terms -------------------------------------------------------------------------


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

    def learned(
        self, species: tuple[int, ...], structures: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """Constants of the descriptor that are learned from structures, and notes on them."""

    def default_n_sparse(self, usual: int, n_keys: int) -> int:
        """Sparse points where `n_sparse` is None, from the usual number of a term."""

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> Descriptor:
        """Descriptor for some species, with the constants of an earlier one if given."""

    def kernel(self) -> Kernel:
        """Kernel that compares its environments."""

    def kernel_of(self, descriptor: Descriptor) -> Kernel:
        """The kernel, with what it needs to know of the descriptor's constants."""

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


def is_local(descriptor: Descriptor) -> bool:
    """Whether the pairs of an atom within `r_cut` are all that its environments are made of.

    What is not local cannot be evaluated for a part of a structure (`System.region`).

    Parameters
    ----------
    descriptor : Descriptor
        Not local are those of whole structures, those that ask for no pairs, and what says
        ``long_ranged``.
    """
    return descriptor.has_centers and descriptor.r_cut > 0 and not is_long_ranged(descriptor)


def is_long_ranged(descriptor: Descriptor) -> bool:
    """Whether a descriptor says that it depends on atoms beyond `r_cut`, in any structure.

    Parameters
    ----------
    descriptor : Descriptor
    """
    return bool(getattr(descriptor, "long_ranged", False))


def key_name(key: Key) -> str:
    """Name of a class of environments, such as ``"Si"`` or ``"H-O"``; "all" for ()."""
    return "-".join(chemical_symbols[z] for z in key) or "all"
