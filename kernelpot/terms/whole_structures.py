"""Descriptors of whole molecules: what they are compared by, and how that moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.formula import Formula

from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.data.system import VOIGT_COLUMNS, VOIGT_ROWS, Contribution, System
from kernelpot.terms.base import Environments, Key, RowGradient
from kernelpot.terms.parameters import TermBase, require, require_number

Self = TypeVar("Self", bound="WholeStructures")


def composition_of(numbers: IntArray) -> str:
    """Formula of some atoms, for messages."""
    return str(Formula.from_list(_symbols(numbers)).format("hill"))


def _symbols(numbers: IntArray) -> list[str]:
    return [chemical_symbols[z] for z in numbers]


@dataclass(frozen=True)
class WholeStructures:
    """One environment for each molecule; what such a `Descriptor` gets for nothing.

    A subclass has `n_features`, `features` and `jacobian`. Single atoms have no environment:
    their energy is that of free atoms.

    Parameters
    ----------
    species : tuple of int
        Atomic numbers that may occur, ascending.
    numbers : ndarray of shape (n_atoms,) or None
        Atomic numbers of the molecule, in the order of its atoms; None for what comes.
    """

    species: tuple[int, ...]
    numbers: IntArray | None = None

    @property
    def keys(self) -> Sequence[Key]:
        """Whole structures are all of one class."""
        return [()]

    @property
    def r_cut(self) -> float:
        """No pairs are needed."""
        return 0.0

    @property
    def has_centers(self) -> bool:
        """The energy is nobody's share."""
        return False

    @property
    def one_per_atom(self) -> bool:
        """One per structure."""
        return False

    def center_species(self, key: Key) -> Sequence[int]:
        """None."""
        return ()

    def features(self, atoms: Atoms) -> FloatArray:
        """Features of a molecule, shape (n_features,)."""
        raise NotImplementedError

    def jacobian(self, atoms: Atoms) -> FloatArray:
        """Derivatives of the features by positions, shape (n_atoms, 3, n_features) [1/Å]."""
        raise NotImplementedError

    def _members(self, system: System) -> IntArray:
        """Structures that are molecules.

        Raises
        ------
        ValueError
            If there are others than single atoms and the molecule that is known.
        """
        sizes = np.diff(system.first_atom)
        members = np.flatnonzero(sizes > 1)
        known = self.numbers
        for s in members:
            atoms = system.structures[int(s)]
            if atoms.pbc.any():
                raise ValueError(
                    f"{composition_of(atoms.numbers)} is periodic: a term of whole molecules has "
                    "no place for images; use terms of atoms such as SOAPTerm, or set pbc=False if "
                    "it is a molecule in a box"
                )
            if known is None:
                known = atoms.numbers
            if len(known) != len(atoms) or np.any(known != atoms.numbers):
                own, other = ("".join(_symbols(z)) for z in (known, atoms.numbers))
                raise ValueError(
                    "a term of whole molecules compares molecules of the same atoms in the same "
                    f"order, here {own}; got {other}: use terms of atoms such as SOAPTerm, or "
                    "order the atoms alike"
                )
        return members

    def of_all(self, structures: Sequence[Atoms]) -> FloatArray:
        """Features of some molecules, which must all be the same one.

        Parameters
        ----------
        structures : sequence of ase.Atoms

        Returns
        -------
        ndarray of shape (n, n_features)
        """
        system = System.of(structures, 0.0)
        return self.environments(system, slice(0, system.n_atoms)).x

    def count(self, system: System) -> IntArray:
        """Number of molecules."""
        return np.array([len(self._members(system))])

    def environments(self, system: System, atoms: slice) -> Environments:
        """All molecules of a system."""
        members = self._members(system)
        n = len(members)
        x = np.array([self.features(system.structures[s]) for s in members])
        return Environments(
            np.zeros(n, dtype=np.int64),
            np.full(n, -1),
            members,
            x.reshape(n, self.n_features if not n else -1),
        )

    @property
    def n_features(self) -> int:
        """Number of features."""
        raise NotImplementedError

    def _of(self, system: System, environments: Environments, e: int) -> tuple[slice, FloatArray]:
        """Atoms of an environment, and the Jacobian of its features."""
        s = int(environments.structure[e])
        own = slice(int(system.first_atom[s]), int(system.first_atom[s + 1]))
        return own, self.jacobian(system.structures[s])

    def pull(
        self,
        system: System,
        environments: Environments,
        by_x: FloatArray,
        by_weight: FloatArray | None,
        out: Contribution,
    ) -> None:
        """Add derivatives by positions and strain; see `Descriptor.pull`."""
        for e in range(len(environments)):
            own, jacobian = self._of(system, environments, e)
            gradient = jacobian @ by_x[e]
            out.forces[own] -= gradient
            s = environments.structure[e]
            out.virials[s] -= system.structures[s].positions.T @ gradient

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
        for row, e in enumerate(chosen):
            own, jacobian = self._of(system, environments, e)
            by_x = gradient.of_environment(row)
            force_rows[3 * own.start : 3 * own.stop] -= (
                jacobian.reshape(-1, jacobian.shape[2]) @ by_x.T
            )
            if len(virial_rows):
                s = environments.structure[e]
                strained = _strained(system.structures[s].positions, jacobian)
                virial_rows[6 * s : 6 * s + 6] -= strained @ by_x.T

    def tangents(self, system: System, environments: Environments) -> MoleculeTangents:
        """How coordinates move the environments; see `Descriptor.tangents`."""
        atoms = system.structures[0]
        jacobian = self.jacobian(atoms) if len(environments) else None
        return MoleculeTangents(atoms.positions, jacobian, self.n_features)

    def to_arrays(self) -> dict[str, Array]:
        """What was learned: the atoms, and the fields of a subclass; nothing before."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        del own["species"]
        if any(value is None for value in own.values()):
            return {}
        return {name: np.atleast_1d(value) for name, value in own.items()}

    @classmethod
    def of_arrays(
        cls: type[Self], species: tuple[int, ...], constants: Mapping[str, Array] | None
    ) -> Self:
        """Inverse of `to_arrays`.

        Parameters
        ----------
        species : tuple of int
        constants : mapping or None

        Returns
        -------
        WholeStructures
        """
        return cls(species, **(constants or {}))


class WholeMoleculeTerm(TermBase):
    """A kernel on descriptors of one molecule; see `TermBase`.

    A subclass has a field `length_scale`, which is checked here, `_described` and `_learned`.
    """

    length_scale: float

    r_cut: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        require_number("length_scale", self.length_scale)
        require(self.length_scale > 0, "length_scale", "positive", self.length_scale)

    @staticmethod
    def _described() -> type[WholeStructures]:
        """Its descriptor."""
        raise NotImplementedError

    def _learned(
        self, x: FloatArray, numbers: IntArray, molecules: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """Constants beside the atoms, from the features of all molecules, and notes."""
        raise NotImplementedError

    def learned(
        self, species: tuple[int, ...], structures: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """The molecule, and what its descriptor takes from the data.

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
            For the user.

        Raises
        ------
        ValueError
            If the structures are not of one molecule, or parameters not of its atoms.
        """
        molecules = [atoms for atoms in structures if len(atoms) > 1]
        if not molecules:
            return {}, []
        numbers = np.array(molecules[0].numbers, dtype=np.int64)
        x = self._described()(species, numbers).of_all(molecules)
        constants, notes = self._learned(x, numbers, molecules)
        return {"numbers": numbers, **constants}, notes

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> WholeStructures:
        """Descriptor of a molecule.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            From `learned`, or of an earlier descriptor.

        Returns
        -------
        WholeStructures
        """
        return self._described().of_arrays(species, constants)


def _strained(positions: FloatArray, jacobian: FloatArray) -> FloatArray:
    """Derivatives by strain (xx yy zz yz xz xy) from those by positions, shape (6, n_features)."""
    full = np.einsum("ia,ibf->abf", positions, jacobian)
    return full[VOIGT_ROWS, VOIGT_COLUMNS]


class MoleculeTangents:
    """`Tangents` of one molecule.

    Parameters
    ----------
    positions : ndarray of shape (n_atoms, 3)
        [Å].
    jacobian : ndarray of shape (n_atoms, 3, n_features) or None
        None for a single atom.
    n_features : int
    """

    def __init__(self, positions: FloatArray, jacobian: FloatArray | None, n_features: int) -> None:
        self._positions, self._jacobian, self._n = positions, jacobian, n_features

    def moved_by(self, atom: int) -> tuple[IntArray, FloatArray, FloatArray | None]:
        """The molecule, and how it changes; see `Tangents`."""
        if self._jacobian is None:
            return np.zeros(0, dtype=np.int64), np.zeros((0, 3, self._n)), None
        return np.zeros(1, dtype=np.int64), self._jacobian[atom][None], None

    def strained(self, members: IntArray) -> tuple[FloatArray, FloatArray | None]:
        """How it changes under strain; see `Tangents`."""
        if self._jacobian is None:
            return np.zeros((0, 6, self._n)), None
        return _strained(self._positions, self._jacobian)[None][members], None
