"""A descriptor of one's own: a small class in Python, named by its import path."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from ase import Atoms

from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.data.system import System
from kernelpot.terms.base import Environments
from kernelpot.terms.of_atoms import OfAtoms
from kernelpot.terms.over_pairs import OverPairs, PairJacobian
from kernelpot.terms.parameters import (
    N_SPARSE_RANGE,
    Range,
    TermBase,
    require,
    require_number,
)
from kernelpot.terms.scaling import mean_and_scale, some_systems
from kernelpot.terms.stationary import FUNCTIONS, NAMES, StationaryKernel, require_function

# Displacement of derivatives by differences [Å].
STEP = 1e-4


class LocalDescriptor(Protocol):
    """What a class of one's own must be: features of an atom from its neighbors.

    Made with ``species`` (atomic numbers, ascending), ``r_cut`` [Å] and the numbers of
    `CustomTerm.parameters` by name.
    """

    n_features: int

    def values(self, center: int, numbers: IntArray, displacements: FloatArray) -> FloatArray:
        """Features of an atom.

        They must vanish, or stop to change, smoothly where a neighbor reaches the cutoff.

        Parameters
        ----------
        center : int
            Its atomic number.
        numbers : ndarray of shape (n,)
            Those of its neighbors within the cutoff.
        displacements : ndarray of shape (n, 3)
            From the atom to them [Å].

        Returns
        -------
        ndarray of shape (n_features,)
        """

    # and, unless it is to be done by differences, ``jacobian`` with the same arguments: the
    # derivatives of the features by the displacements, shape (n, 3, n_features)


def import_path(descriptor: type | str) -> str:
    """Where a class can be imported from, as ``"package.module:Name"``."""
    if isinstance(descriptor, str):
        return descriptor
    return f"{descriptor.__module__}:{descriptor.__qualname__}"


def imported(path: str) -> Any:
    """The class of an import path.

    Raises
    ------
    ValueError
        If there is none, or it has no ``values``; the message says what to do.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the descriptor {path!r} cannot be imported here ({error}): a model with a descriptor "
            "of one's own needs the module that defines it, where it was when the model was "
            "fitted; put it on PYTHONPATH or install it"
        ) from error
    if not (isinstance(found, type) and callable(getattr(found, "values", None))):
        raise ValueError(
            f"{path!r} is no descriptor: it must be a class with a method `values` (and best one "
            "`jacobian`), see kernelpot.terms.custom.LocalDescriptor"
        )
    return found


@dataclass(frozen=True)
class CustomTerm(TermBase):
    """Features of atoms from a class of one's own, compared by a stationary kernel.

    The class gets the neighbors of one atom at a time and returns its features, and if it has a
    method ``jacobian`` their derivatives; without one they come from central differences, six
    evaluations for each neighbor. Either way it is a loop in Python: for trying things out. A
    model file names the class by its import path, and loading it imports that module.

    Features are centred and divided by their standard deviation in the data, and by the square
    root of their number, so that a length scale of one is the typical difference of two
    environments.

    Parameters
    ----------
    descriptor_class : type or str
        The class (`kernelpot.terms.custom.LocalDescriptor`), or where it can be imported from,
        ``"package.module:Name"``.
    r_cut : float
        Reach of its neighbors [Å].
    parameters : mapping of str to float, optional
        Further arguments of the class.
    length_scale : float, default=1.0
        Of the kernel, in the unit said above.
    delta : float, default=1.0
        Prior standard deviation of an atom's energy [eV].
    n_sparse : int or None, default=None
        Sparse points, all species together.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How sparse points are chosen; default farthest-point sampling.
    function : {"gaussian", "matern52"}
        Kernel.

    Raises
    ------
    ValueError
        If the class cannot be imported, or a value is out of range; the message names it.
    """

    descriptor_class: str
    r_cut: float
    parameters: Mapping[str, float] | None = None
    length_scale: float = 1.0
    delta: float = 1.0
    n_sparse: int | None = None
    sparse_method: str = "farthest_point"
    function: str = "gaussian"

    kind: ClassVar[str] = "custom"

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        object.__setattr__(self, "descriptor_class", import_path(self.descriptor_class))
        imported(self.descriptor_class)
        require_number("length_scale", self.length_scale)
        for name in ("r_cut", "length_scale"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        require_function(self.function)

    @classmethod
    def example(cls, species: tuple[int, ...]) -> CustomTerm:
        """A small term, to try things out with.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        CustomTerm
        """
        return cls(import_path(NeighborShells), r_cut=4.3, parameters={"n_shells": 3})

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters that a search over kernels may change."""
        return {
            "length_scale": Range(1.3, factors=(0.3, 5.0), of_features=False),
            "r_cut": Range(1.12, factors=(0.6, 1.6), minimum=1.0),
            "n_sparse": N_SPARSE_RANGE,
        }

    def learned(
        self, species: tuple[int, ...], structures: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """Mean and spread of the features in some structures.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        structures : sequence of ase.Atoms

        Returns
        -------
        constants : dict of str to ndarray
            For `descriptor`.
        notes : list of str
            How derivatives are made.
        """
        plain = self.descriptor(species)
        mean, scale = mean_and_scale(
            lambda system: plain.values(system, slice(0, system.n_atoms)),
            some_systems(structures, float(self.r_cut)),
            species,
            plain.n_features,
        )
        how = "its own" if hasattr(plain.inner, "jacobian") else "by differences, slowly"
        return {"mean": mean, "scale": scale}, [
            f"{plain.n_features} features of {self.descriptor_class}, derivatives {how}"
        ]

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> CustomDescriptor:
        """Features of the atoms of some species.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            From `learned`, or of an earlier descriptor.

        Returns
        -------
        CustomDescriptor
        """
        make = imported(self.descriptor_class)
        inner = make(species=species, r_cut=float(self.r_cut), **dict(self.parameters or {}))
        if not constants:
            return CustomDescriptor(species, float(self.r_cut), inner)
        return CustomDescriptor(
            species, float(self.r_cut), inner, constants["mean"], constants["scale"]
        )

    def kernel(self) -> StationaryKernel:
        """Function of the distance of scaled features.

        Returns
        -------
        StationaryKernel
        """
        return FUNCTIONS[self.function](float(self.length_scale), float(self.delta))

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        given = ", ".join(f"{name} {value:g}" for name, value in (self.parameters or {}).items())
        return [
            f"{self.descriptor_class}, r_cut {self.r_cut:.2f} Å{', ' if given else ''}{given}",
            f"{NAMES[self.function]} kernel of length scale {self.length_scale:.3g} in spreads of "
            f"features, prior std delta {self.delta:.3g} eV",
        ]


@dataclass(frozen=True, eq=False)
class CustomDescriptor(OfAtoms, OverPairs):
    """Scaled features of every atom by a class of one's own; a `Descriptor`.

    Parameters
    ----------
    species : tuple of int
        Atomic numbers that may occur, ascending.
    r_cut : float
        [Å].
    inner : LocalDescriptor
    mean, scale : ndarray of shape (n_species, n_features), optional
        What is subtracted from features, and what they are multiplied by.
    """

    species: tuple[int, ...]
    r_cut: float
    inner: LocalDescriptor
    mean: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    scale: FloatArray = field(default_factory=lambda: np.empty((0, 0)))

    def __post_init__(self) -> None:
        """Fill in mean and scale."""
        if not self.scale.size:
            n = self.n_features
            object.__setattr__(self, "mean", np.zeros((len(self.species), n)))
            object.__setattr__(self, "scale", np.full((len(self.species), n), 1.0 / np.sqrt(n)))

    @property
    def n_features(self) -> int:
        """Features that the class says it has."""
        return int(self.inner.n_features)

    def _neighbors(self, system: System, atom: int) -> tuple[IntArray, int, IntArray, FloatArray]:
        """Pairs of an atom within the cutoff, and the arguments of the class."""
        first = system.pairs.first
        own = np.arange(first[atom], first[atom + 1])
        own = own[system.distances[own] < self.r_cut]
        numbers = system.numbers[system.pairs.neighbors[own]]
        return own, int(system.numbers[atom]), numbers, system.displacements[own]

    def values(self, system: System, atoms: slice) -> FloatArray:
        """Features as the class returns them, shape (n_atoms, n_features).

        Raises
        ------
        ValueError
            If they are of another shape.
        """
        found = np.empty((atoms.stop - atoms.start, self.n_features))
        for e, atom in enumerate(range(atoms.start, atoms.stop)):
            row = np.asarray(self.inner.values(*self._neighbors(system, atom)[1:]), dtype=float)
            if row.shape != (self.n_features,):
                raise ValueError(
                    f"`values` of {type(self.inner).__name__} must return n_features = "
                    f"{self.n_features} numbers, got an array of shape {row.shape}"
                )
            found[e] = row
        return found

    def jacobian(self, center: int, numbers: IntArray, displacements: FloatArray) -> FloatArray:
        """Derivatives of the features of an atom, shape (n, 3, n_features)."""
        shape = (len(numbers), 3, self.n_features)
        own = getattr(self.inner, "jacobian", None)
        if own is not None:
            found = np.asarray(own(center, numbers, displacements), dtype=float)
            if found.shape != shape:
                raise ValueError(
                    f"`jacobian` of {type(self.inner).__name__} must be of shape (n, 3, "
                    f"n_features) = {shape}, got {found.shape}"
                )
            return found
        found = np.empty(shape)
        for p, c in np.ndindex(shape[:2]):
            sides = []
            for sign in (1.0, -1.0):
                moved = displacements.copy()
                moved[p, c] += sign * STEP
                sides.append(np.asarray(self.inner.values(center, numbers, moved), dtype=float))
            found[p, c] = (sides[0] - sides[1]) / (2.0 * STEP)
        return found

    def environments(self, system: System, atoms: slice) -> Environments:
        """Scaled features of a run of atoms."""
        key = system.z_index(self.species)[atoms]

        def jacobian() -> PairJacobian:
            pairs, owners = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
            parts = [np.empty((0, 3, self.n_features))]
            for e, atom in enumerate(range(atoms.start, atoms.stop)):
                own, center, numbers, displacements = self._neighbors(system, atom)
                pairs.append(own)
                owners.append(np.full(len(own), e))
                parts.append(self.jacobian(center, numbers, displacements) * self.scale[key[e]])
            return PairJacobian(
                np.concatenate(owners), np.concatenate(pairs), np.concatenate(parts)
            )

        x = (self.values(system, atoms) - self.mean[key]) * self.scale[key]
        centers = np.arange(atoms.start, atoms.stop)
        return Environments(key, centers, system.structure_of[atoms], x, None, jacobian)

    def to_arrays(self) -> dict[str, Array]:
        """Mean and scale."""
        return {"mean": self.mean, "scale": self.scale}


class NeighborShells:
    """Smoothly counted neighbors of each species in shells: an example of a `LocalDescriptor`.

    Parameters
    ----------
    species : tuple of int
    r_cut : float
        [Å].
    n_shells : int
    """

    def __init__(self, species: tuple[int, ...], r_cut: float, n_shells: int = 4) -> None:
        self.species, self.r_cut = species, r_cut
        self.n_shells = int(n_shells)
        self.n_features = self.n_shells * len(species)

    def _shells(self, displacements: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Distances, share of each neighbor in each shell, and its derivative by distance."""
        r = np.linalg.norm(displacements, axis=1)[:, None]
        x = (r - np.linspace(0.4, 0.8, self.n_shells) * self.r_cut) / (0.15 * self.r_cut)
        cut, gauss = (1.0 - (r / self.r_cut) ** 2) ** 3, np.exp(-(x**2) / 2.0)
        cut_slope = -6.0 * r / self.r_cut**2 * (1.0 - (r / self.r_cut) ** 2) ** 2
        return r, cut * gauss, gauss * (cut_slope - cut * x / (0.15 * self.r_cut))

    def values(self, center: int, numbers: IntArray, displacements: FloatArray) -> FloatArray:
        """Neighbors in each shell, species by species."""
        shares = self._shells(displacements)[1]
        return np.concatenate([shares[numbers == z].sum(axis=0) for z in self.species])

    def jacobian(self, center: int, numbers: IntArray, displacements: FloatArray) -> FloatArray:
        """Their derivatives by the displacements."""
        r, _, slopes = self._shells(displacements)
        along = (displacements / r)[:, :, None] * slopes[:, None]
        same = numbers[:, None] == np.array(self.species)
        return np.concatenate(
            [along * same[:, k, None, None] for k in range(same.shape[1])], axis=2
        )
