"""The baseline: what the Gaussian process does not have to learn.

A baseline is the energy of isolated atoms and a sum of terms. Every term adds its
energies and derivatives to common accumulators, so that a sum of terms costs one
search for neighbors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from ase import Atoms

from kernelpot.baseline.free_atoms import AtomicEnergies, atomic_energies
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data import _pairs
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.data.neighbors import by_species
from kernelpot.data.system import Contribution, System, voigt

# Pairs evaluated at a time, so that work arrays stay in the cache.
CHUNK = 8192


def add_pairs(
    system: System,
    result: Contribution,
    r_cut: float,
    pair_energy: Callable[[FloatArray, int, int], tuple[FloatArray, FloatArray]],
) -> None:
    """Add the energies and gradients of all pairs closer than `r_cut`, in place.

    Parameters
    ----------
    system : System
    result : Contribution
        A pair's energy is shared half and half.
    r_cut : float
        [Å].
    pair_energy : callable
        As `BaselineTerm.pair_energy`.
    """
    close = np.flatnonzero(system.distances < r_cut)
    if not len(close):
        return
    value, slope = np.zeros(len(close)), np.zeros(len(close))
    distances = system.distances[close]
    for species, members in by_species(system.numbers, system.pairs, close):
        for start in range(0, len(members), CHUNK):
            some = members[start : start + CHUNK]
            value[some], slope[some] = pair_energy(distances[some], *species)
    add_values(system, result, close, distances, value, slope)


def add_values(
    system: System,
    result: Contribution,
    chosen: IntArray,
    distances: FloatArray,
    value: FloatArray,
    slope: FloatArray,
) -> None:
    """Add energies of some pairs, half to each of their two directions, in place.

    Parameters
    ----------
    system : System
    result : Contribution
    chosen : ndarray of shape (n,)
        Pairs, both directions of each.
    distances, value, slope : ndarray of shape (n,)
        [Å], energies [eV] and their derivatives [eV/Å].
    """
    _pairs.add(
        chosen,
        system.pairs.centers,
        system.displacements,
        0.5 * value,
        slope * (0.5 / distances),
        result.energies,
        result.gradient,
    )


@runtime_checkable
class BaselineTerm(Protocol):
    """A term of the baseline.

    Attributes
    ----------
    kind : str
        Its name in model files.
    local : bool
        Whether the energy is a sum over atoms and pairs within `r_cut` of each other; else it
        needs the whole structure, and no program that cuts space into domains can have it.
    """

    kind: ClassVar[str]
    local: ClassVar[bool]

    @property
    def r_cut(self) -> float:
        """Reach of the pairs it needs [Å]."""

    def fit(self, data: Dataset, species: Sequence[int], known: Reference) -> BaselineTerm:
        """Return a copy with everything known that was left open.

        Parameters
        ----------
        data : Dataset
        species : sequence of int
            Atomic numbers the term must be able to serve.
        known : Reference
            Free atoms and the terms before it: ``known.labels(atoms)`` is explained.
        """

    def evaluate(self, system: System, result: Contribution) -> None:
        """Add energies and derivatives of all structures to `result`."""

    def pair_energy(self, r: FloatArray, z1: int, z2: int) -> tuple[FloatArray, FloatArray]:
        """Energy [eV] and d/dr [eV/Å] of one isolated pair, for scans and plots."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file, ``"kind"`` among them."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BaselineTerm:
        """Inverse of `to_dict`."""

    @classmethod
    def example(cls, species: Sequence[int]) -> BaselineTerm:
        """A small term of this kind, complete, to try things out with."""

    def describe(self) -> list[str]:
        """Return a heading and one line per fact, for reports."""


@runtime_checkable
class ReadsAtoms(Protocol):
    """A term that needs more of a structure than its species and pairs.

    Attributes
    ----------
    array_names : tuple of str
        Arrays of ``atoms.arrays`` it reads.
    """

    @property
    def array_names(self) -> tuple[str, ...]:
        """Arrays of ``atoms.arrays`` it reads."""

    def check(self, atoms: Atoms, name: str) -> None:
        """Raise ValueError, with the name, for a structure it cannot be evaluated for."""


def terms_of(baseline: BaselineTerm | Sequence[BaselineTerm]) -> list[BaselineTerm]:
    """List the terms of a baseline given as one term or a sequence.

    Raises
    ------
    TypeError
        If something is not a term.
    """
    terms = list(baseline) if isinstance(baseline, Sequence) else [baseline]
    for term in terms:
        if isinstance(term, type) or not isinstance(term, BaselineTerm):
            raise TypeError(
                "`baseline` must be one term such as kernelpot.Wall() or a sequence of terms, "
                f"got {term!r}"
            )
    return terms


@dataclass(frozen=True)
class Reference:
    """What the kernels need not explain: free atoms and baseline.

    Attributes
    ----------
    e0 : AtomicEnergies
    baseline : sequence of BaselineTerm
    """

    e0: AtomicEnergies
    baseline: Sequence[BaselineTerm] = field(default_factory=tuple)

    @property
    def r_cut(self) -> float:
        """Reach of the baseline [Å]."""
        return max((term.r_cut for term in self.baseline), default=0.0)

    @cached_property
    def _readers(self) -> tuple[ReadsAtoms, ...]:
        """Terms that read more of a structure than its numbers and positions."""
        return tuple(term for term in self.baseline if isinstance(term, ReadsAtoms))

    @property
    def array_names(self) -> tuple[str, ...]:
        """Arrays of ``atoms.arrays`` that the terms read."""
        return tuple(dict.fromkeys(n for term in self._readers for n in term.array_names))

    def check(self, atoms: Atoms, name: str) -> None:
        """Refuse a structure that a term cannot be evaluated for.

        Parameters
        ----------
        atoms : ase.Atoms
        name : str
            For the message.

        Raises
        ------
        ValueError
        """
        for term in self._readers:
            term.check(atoms, name)

    def add_to(self, system: System, result: Contribution) -> None:
        """Add energies and derivatives of free atoms and all terms, in place.

        Parameters
        ----------
        system : System
        result : Contribution
        """
        own = slice(0, system.n_centers)
        result.energies[own] += [self.e0.e0[int(z)] for z in system.numbers[own]]
        for term in self.baseline:
            term.evaluate(system, result)

    def evaluate(self, system: System) -> Contribution:
        """Energies and derivatives of free atoms and all terms."""
        result = Contribution.zero(system)
        self.add_to(system, result)
        return result

    def labels(self, atoms: Atoms) -> tuple[float, FloatArray, FloatArray]:
        """Energy, forces and virial (Voigt) to subtract from the labels of a structure."""
        system = System.of([atoms], self.r_cut)
        result = self.evaluate(system)
        virial = voigt(system.virials(result)[0])
        return float(result.energies.sum()), system.forces(result), virial

    def remainder(self, frame: Frame) -> Frame:
        """A frame with labels less what the kernels need not explain.

        Parameters
        ----------
        frame : Frame

        Returns
        -------
        Frame
        """
        return _less(frame, *self.labels(frame.atoms))


def fit_terms(
    terms: Sequence[BaselineTerm], data: Dataset, species: Sequence[int], e0: AtomicEnergies
) -> Reference:
    """Fit terms one after the other, each to what the ones before leave.

    Parameters
    ----------
    terms : sequence of BaselineTerm
    data : Dataset
    species : sequence of int
    e0 : AtomicEnergies

    Returns
    -------
    Reference
    """
    reference = Reference(e0)
    for term in terms:
        fitted = term.fit(data, species, reference)
        reference = Reference(e0, (*reference.baseline, fitted))
    return reference


@dataclass(frozen=True)
class Explained:
    """A reference, and what its terms explain of the data: evaluated once.

    Attributes
    ----------
    reference : Reference
    data : Dataset
    labels : sequence of (energy, forces, virial)
        Of each frame what the terms explain, without the free atoms [eV, eV/Å, eV].
    others : sequence of float or None
        Energies that other parts of a model explain beside them [eV].
    """

    reference: Reference
    data: Dataset
    labels: Sequence[tuple[float, FloatArray, FloatArray]]
    others: Sequence[float] | None = None

    @classmethod
    def of(cls, reference: Reference, data: Dataset) -> Explained:
        """Evaluate the terms of a reference for all frames.

        Least-squares e0 are then referred to what the terms leave, so that the kernels fit
        no constant.

        Parameters
        ----------
        reference : Reference
        data : Dataset
        """
        labels = []
        for frame in data:
            energy, forces, virial = reference.labels(frame.atoms)
            labels.append((energy - reference.e0.total(frame.atoms.numbers), forces, virial))
        energies = [energy for energy, _, _ in labels]
        # the terms may vanish in the data: then e0 stay as they are, to the last bit
        if not reference.e0.absolute and np.any(np.abs(energies) > 1e-9):
            e0 = atomic_energies(data, "least_squares", energies)
            reference = Reference(e0, reference.baseline)
        return cls(reference, data, labels)

    def beside(self, energies: Sequence[float] | None) -> Explained:
        """Beside energies that are no baseline's: least-squares e0 are referred to the rest.

        Parameters
        ----------
        energies : sequence of float or None
            Of each frame [eV]. None: as before, with the e0 that were found.
        """
        if energies is None:
            return replace(self, others=None)
        reference = self.reference
        if not reference.e0.absolute:
            both = [own + e for (own, _, _), e in zip(self.labels, energies, strict=True)]
            e0 = atomic_energies(self.data, "least_squares", both)
            reference = Reference(e0, reference.baseline)
        return replace(self, reference=reference, others=energies)

    def without_terms(self) -> Dataset:
        """The data with energies less what the terms explain; other labels as they are."""
        others = [0.0] * len(self.labels) if self.others is None else self.others
        frames = [
            frame if frame.energy is None else replace(frame, energy=frame.energy - energy - other)
            for frame, (energy, _, _), other in zip(self.data, self.labels, others, strict=True)
        ]
        return self.data.relabelled(frames)

    def remainders(self, frames: Sequence[Frame]) -> list[Frame]:
        """Frames with labels less what the kernels need not explain.

        Parameters
        ----------
        frames : sequence of Frame
            Some of the data, or others.

        Returns
        -------
        list of Frame
        """
        known = {id(f): found for f, found in zip(self.data, self.labels, strict=True)}
        e0 = self.reference.e0
        result = []
        for frame in frames:
            if id(frame) in known:
                energy, forces, virial = known[id(frame)]
                result.append(_less(frame, energy + e0.total(frame.atoms.numbers), forces, virial))
            else:
                result.append(self.reference.remainder(frame))
        return result


def _less(frame: Frame, energy: float, forces: FloatArray, virial: FloatArray) -> Frame:
    return replace(
        frame,
        energy=None if frame.energy is None else frame.energy - energy,
        forces=None if frame.forces is None else frame.forces - forces,
        virial=None if frame.virial is None else frame.virial - virial,
    )
