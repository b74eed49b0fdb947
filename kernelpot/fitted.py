"""A fitted model: immutable parts that together predict, and nothing of how they came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.baseline import AtomicEnergies, Wall
from kernelpot.calibration import Calibration
from kernelpot.covariance import KernelTerm, Layout
from kernelpot.dataset import check_cell, check_distances
from kernelpot.descriptors import species_index
from kernelpot.evaluation import Blend, LocalEvaluation, LocalModel, pair_forces
from kernelpot.fitting import Design
from kernelpot.neighbors import NeighborList, neighbor_list
from kernelpot.observations import Noise
from kernelpot.parallel import thread_count
from kernelpot.posterior import Posterior
from kernelpot.prediction import Prediction
from kernelpot.regression import LocalVariance, TriangularFactor

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# What `return_std` may be.
ReturnStd = bool | Literal["local"]

# Small structures are evaluated together up to so many atoms: matrix products of a few
# rows are bound by memory.
GROUP_ATOMS = 1024

_VOIGT_ROWS, _VOIGT_COLUMNS = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]


def voigt(full: FloatArray) -> FloatArray:
    """Symmetrize a 3x3 tensor and list xx yy zz yz xz xy."""
    return (0.5 * (full + full.T))[_VOIGT_ROWS, _VOIGT_COLUMNS]


@dataclass(frozen=True)
class Reference:
    """What the kernels need not explain: free atoms and baseline.

    Attributes
    ----------
    e0 : AtomicEnergies
    baseline : sequence of Wall
    """

    e0: AtomicEnergies
    baseline: Sequence[Wall]

    @property
    def r_cut(self) -> float:
        """Reach of the baseline [Å]."""
        return max((wall.r_cut for wall in self.baseline), default=0.0)

    def add_to(
        self,
        numbers: IntArray,
        pairs: NeighborList,
        displacements: FloatArray,
        energies: FloatArray,
        gradient: FloatArray,
    ) -> None:
        """Add its energies per atom and pair gradients, in place.

        Parameters
        ----------
        numbers : ndarray of shape (n_atoms,)
        pairs : NeighborList
        displacements : ndarray of shape (n_pairs, 3)
        energies : ndarray of shape (n_atoms,)
        gradient : ndarray of shape (n_pairs, 3)
        """
        energies += [self.e0.e0[int(z)] for z in numbers]
        if self.r_cut > 0:
            distances = np.sqrt(np.einsum("pc,pc->p", displacements, displacements))
            for wall in self.baseline:
                added, slope, close = wall.evaluate(numbers, pairs, displacements, distances)
                energies += added
                gradient[close] += slope

    def labels(self, atoms: Atoms) -> tuple[float, FloatArray, FloatArray]:
        """Energy, forces and virial (Voigt) to subtract from the labels of a structure."""
        pairs = neighbor_list(atoms, max(self.r_cut, 0.1))
        displacements = pairs.displacements(atoms.positions)
        energies, gradient = np.zeros(len(atoms)), np.zeros((pairs.n_pairs, 3))
        self.add_to(atoms.numbers, pairs, displacements, energies, gradient)
        virial = -displacements.T @ gradient
        return float(energies.sum()), pair_forces(pairs, gradient), voigt(virial)


@dataclass(frozen=True)
class FittedModel:
    """Everything a fit yields.

    Attributes
    ----------
    species : tuple of int
        Atomic numbers, ascending.
    reference : Reference
        Free atoms and baseline.
    local : LocalModel
        The local energy function with its posterior.
    factor : TriangularFactor
        Posterior precision of the whitened weights (what an update continues from).
    noise : Noise
    virial_offset : float
        Isotropic virial per atom that the labels carry beyond the derivative of their
        energies [eV/atom]; kept out of predictions.
    training : dict
        Counts, timing, choices made and errors on the training data.
    calibration : Calibration or None
        From standard deviations to intervals.
    """

    species: tuple[int, ...]
    reference: Reference
    local: LocalModel
    factor: TriangularFactor
    noise: Noise
    virial_offset: float
    training: dict[str, Any]
    calibration: Calibration | None = None

    @property
    def e0(self) -> AtomicEnergies:
        """Energies of isolated atoms."""
        return self.reference.e0

    @property
    def baseline(self) -> Sequence[Wall]:
        """Terms of the baseline."""
        return self.reference.baseline

    @property
    def r_cut(self) -> float:
        """Distance beyond which atoms do not interact [Å]."""
        return max([t.soap.term.r_cut for t in self.local.terms] + [self.reference.r_cut])

    def predict(
        self,
        atoms: Atoms,
        *,
        return_std: ReturnStd = False,
        neighbors: NeighborList | None = None,
        n_threads: int | None = None,
    ) -> Prediction:
        """Predict a structure; see `KernelPotential.predict`.

        Parameters
        ----------
        atoms : ase.Atoms
        return_std : bool or "local"
        neighbors : NeighborList, optional
        n_threads : int, optional

        Returns
        -------
        Prediction
        """
        self._check(atoms, "structure")
        if neighbors is None:
            neighbors = neighbor_list(atoms, self.r_cut)
        return self._predict([atoms], neighbors, return_std=return_std, n_threads=n_threads)[0]

    def predict_many(
        self,
        structures: Sequence[Atoms],
        *,
        return_std: ReturnStd = False,
        n_threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predict structures one after the other; see `KernelPotential.predict_many`.

        Parameters
        ----------
        structures : sequence of ase.Atoms
        return_std : bool or "local"
        n_threads : int, optional
        names : sequence of str, optional
            For messages.

        Yields
        ------
        Prediction
        """
        for index, atoms in enumerate(structures):
            self._check(atoms, f"structure {index}" if names is None else names[index])
        for group in _groups(structures):
            pairs = neighbor_list(group, self.r_cut)
            yield from self._predict(group, pairs, return_std=return_std, n_threads=n_threads)

    def _predict(
        self,
        structures: Sequence[Atoms],
        pairs: NeighborList,
        *,
        return_std: ReturnStd,
        n_threads: int | None,
    ) -> list[Prediction]:
        """Evaluate structures whose atoms are numbered through in `pairs`."""
        local_only = return_std == "local"
        if not (local_only or isinstance(return_std, bool | np.bool_)):
            raise ValueError(f"`return_std` must be False, True or 'local', got {return_std!r}")
        numbers = np.concatenate([atoms.numbers for atoms in structures])
        displacements = pairs.displacements(np.concatenate([a.positions for a in structures]))
        check_distances(pairs, displacements, "structure")
        found = self._evaluate(
            numbers, pairs, displacements, variance=bool(return_std), n_threads=n_threads
        )
        energies, gradient = found.energies, found.pair_gradient
        assert gradient is not None
        self.reference.add_to(numbers, pairs, displacements, energies, gradient)
        forces = pair_forces(pairs, gradient)
        std = spilling = None
        if found.variance is not None and found.novelty is not None:
            std = np.sqrt(found.variance)
            index = species_index(numbers, self.species)
            spilling = found.novelty / [self.local.variances[int(z)].prior for z in index]
        result = []
        start = 0
        for atoms in structures:
            own = slice(start, start + len(atoms))
            p = slice(pairs.first[own.start], pairs.first[own.stop])
            stress = None
            if np.all(atoms.pbc):
                stress = voigt(displacements[p].T @ gradient[p]) / atoms.get_volume()
            predicted = Prediction(
                float(energies[own].sum()),
                energies[own],
                forces[own],
                stress,
                None if std is None else std[own],
                None if spilling is None else spilling[own],
                numbers=atoms.numbers,
                calibration=self.calibration,
            )
            if return_std and not local_only:
                part = NeighborList(
                    pairs.first[own.start : own.stop + 1] - p.start,
                    pairs.neighbors[p] - own.start,
                    pairs.shifts[p],
                )
                full = self.full_std(atoms, neighbors=part, n_threads=n_threads)
                predicted = replace(predicted, **full)
            result.append(predicted)
            start = own.stop
        return result

    @property
    def design(self) -> Design:
        """What rows of the regression are made of, as they are in `factor`."""
        whitening = self.local.whitening
        return Design(
            self.local.terms,
            self.species,
            Layout.of({key: len(T) for key, T in whitening.items()}),
            Layout.of({key: T.shape[1] for key, T in whitening.items()}),
            whitening,
        )

    @cached_property
    def posterior(self) -> Posterior:
        """Posterior of total energies, forces and virials."""
        return Posterior(self.local.terms, self.local.whitening, self.factor)

    def full_std(
        self,
        atoms: Atoms,
        *,
        neighbors: NeighborList | None = None,
        n_threads: int | None = None,
    ) -> dict[str, Any]:
        """Standard deviations that need the posterior of all species together.

        Parameters
        ----------
        atoms : ase.Atoms
        neighbors : NeighborList, optional
        n_threads : int, optional

        Returns
        -------
        dict
            ``energy_std``, ``forces_std`` and ``stress_std`` as in `Prediction`.
        """
        if neighbors is None:
            neighbors, _ = self._pairs(atoms)
        periodic = bool(np.all(atoms.pbc))
        found = self.posterior.std(
            species_index(atoms.numbers, self.species),
            neighbors,
            neighbors.displacements(atoms.positions),
            virial=periodic,
            n_threads=thread_count(n_threads),
        )
        return {
            "energy_std": found.energy,
            "forces_std": found.forces,
            "stress_std": None if found.virial is None else found.virial / atoms.get_volume(),
        }

    def local_std(self, atoms: Atoms, *, n_threads: int | None = None) -> FloatArray:
        """Standard deviation of local energies; see `KernelPotential.local_std`.

        Parameters
        ----------
        atoms : ase.Atoms
        n_threads : int, optional

        Returns
        -------
        ndarray of shape (n_atoms,)
        """
        pairs, displacements = self._pairs(atoms)
        found = self._evaluate(
            atoms.numbers,
            pairs,
            displacements,
            gradient=False,
            variance=True,
            n_threads=n_threads,
        )
        assert found.variance is not None
        return np.sqrt(found.variance)

    def variance_gradient(self, atoms: Atoms, weights: FloatArray) -> FloatArray:
        """Gradient of weighted local variances; see `KernelPotential.variance_gradient`.

        Parameters
        ----------
        atoms : ase.Atoms
        weights : ndarray of shape (n_atoms,)

        Returns
        -------
        ndarray of shape (n_atoms, 3)
        """

        def blend(
            batch: slice, energies: FloatArray, variances: FloatArray
        ) -> tuple[FloatArray, FloatArray, FloatArray]:
            return variances, np.zeros_like(energies), weights[batch]

        pairs, displacements = self._pairs(atoms)
        found = self._evaluate(atoms.numbers, pairs, displacements, blend=blend)
        assert found.pair_gradient is not None
        return -pair_forces(pairs, found.pair_gradient)

    def _check(self, atoms: Atoms, name: str) -> None:
        check_cell(atoms, name)
        try:
            species_index(atoms.numbers, self.species)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _pairs(self, atoms: Atoms) -> tuple[NeighborList, FloatArray]:
        """Pairs of a sound structure, with their displacements."""
        self._check(atoms, "structure")
        pairs = neighbor_list(atoms, self.r_cut)
        displacements = pairs.displacements(atoms.positions)
        check_distances(pairs, displacements, "structure")
        return pairs, displacements

    def _evaluate(
        self,
        numbers: IntArray,
        pairs: NeighborList,
        displacements: FloatArray,
        *,
        gradient: bool = True,
        variance: bool = False,
        blend: Blend | None = None,
        n_threads: int | None = None,
    ) -> LocalEvaluation:
        return self.local.evaluate(
            species_index(numbers, self.species),
            pairs,
            displacements,
            gradient=gradient,
            variance=variance,
            blend=blend,
            n_threads=thread_count(n_threads),
        )

    def describe(self) -> dict[str, Any]:
        """Everything that was chosen and found, as plain data.

        Returns
        -------
        dict
        """
        symbols = [chemical_symbols[z] for z in self.species]
        terms = []
        for t, term in enumerate(self.local.terms):
            present = sorted(term.sparse)
            terms.append(
                {
                    **term.soap.term.to_dict(),
                    "n_features": term.soap.n_features,
                    "n_sparse": {symbols[z]: len(term.sparse[z]) for z in present},
                    "rank": {symbols[z]: self.local.whitening[z, t].shape[1] for z in present},
                }
            )
        return {
            "species": symbols,
            "r_cut": self.r_cut,
            "terms": terms,
            "sigma_energy": self.noise.sigma_energy,
            "sigma_forces": self.noise.sigma_forces,
            "sigma_stress": self.noise.sigma_stress,
            "config_type_sigma": {k: dict(v) for k, v in self.noise.config_types.items()},
            "e0": {chemical_symbols[z]: e for z, e in self.e0.e0.items()},
            "e0_origin": self.e0.origin,
            "e0_note": self.e0.note,
            "baseline": [wall.to_dict() for wall in self.baseline],
            "virial_offset": self.virial_offset,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "training": {k: v for k, v in self.training.items() if k != "fingerprints"},
        }


def posterior_variances(
    terms: Sequence[KernelTerm],
    factor: TriangularFactor,
    columns: Mapping[int, slice],
) -> dict[int, LocalVariance]:
    """Posterior of the local energies of each species.

    Parameters
    ----------
    terms : sequence of KernelTerm
    factor : TriangularFactor
    columns : mapping of species index to slice
        Whitened columns of each species.
    """
    return {
        z: LocalVariance(prior_variance(terms, z), factor.posterior_factor(part))
        for z, part in columns.items()
    }


def prior_variance(terms: Sequence[KernelTerm], species: int) -> float:
    """Prior variance of a local energy of a species [eV^2]."""
    return float(sum(t.kernel.diagonal() for t in terms if species in t.sparse))


def _groups(structures: Sequence[Atoms]) -> Iterator[list[Atoms]]:
    """Runs of structures of at most `GROUP_ATOMS` atoms (or one larger structure)."""
    group: list[Atoms] = []
    size = 0
    for atoms in structures:
        if group and size + len(atoms) > GROUP_ATOMS:
            yield group
            group, size = [], 0
        group.append(atoms)
        size += len(atoms)
    if group:
        yield group
