"""A fitted model: immutable parts that together predict, and nothing of how they came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.baseline.reference import BaselineTerm, Reference
from kernelpot.common.archive import plain
from kernelpot.common.parallel import thread_count
from kernelpot.common.types import FloatArray
from kernelpot.data.dataset import Frame
from kernelpot.data.neighbors import NeighborList
from kernelpot.data.soundness import check_cell, check_distances
from kernelpot.data.system import Contribution, System, species_index, voigt
from kernelpot.gp.blend import Blend, Blended
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise
from kernelpot.gp.local import LocalEvaluation, LocalModel
from kernelpot.gp.posterior import Posterior
from kernelpot.model.calibration import Calibration
from kernelpot.model.prediction import Prediction
from kernelpot.model.record import NOTHING, TrainingRecord
from kernelpot.model.self_test import SelfTest
from kernelpot.regression.factors import TriangularFactor
from kernelpot.safety.gate import PessimisticEnergies, VarianceGate
from kernelpot.safety.thresholds import SafetyNet
from kernelpot.terms.base import key_name

# What `return_std` may be.
ReturnStd = bool | Literal["local"]
# Small structures are evaluated together up to so many atoms: matrix products of a few
# rows are bound by memory.
GROUP_ATOMS = 1024


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
    known : TriangularFactor
        The same with the local energies of the data taken as known
        (`kernelpot.gp.known_sites`).
    noise : Noise
    safety : SafetyNet
        Where the data end.
    virial_offset : float
        Isotropic virial per atom that the labels carry beyond the derivative of their
        energies [eV/atom]; kept out of predictions.
    calibration : Calibration or None
        From standard deviations to intervals.
    training : TrainingRecord
        Counts, timing, choices made and errors on the training data.
    self_test : SelfTest or None
        What the model's test of itself found; None if it was not made.
    """

    species: tuple[int, ...]
    reference: Reference
    local: LocalModel
    factor: TriangularFactor
    known: TriangularFactor
    noise: Noise
    safety: SafetyNet
    virial_offset: float
    calibration: Calibration | None = None
    training: TrainingRecord = NOTHING
    self_test: SelfTest | None = None

    @property
    def e0(self) -> AtomicEnergies:
        """Energies of isolated atoms."""
        return self.reference.e0

    @property
    def baseline(self) -> Sequence[BaselineTerm]:
        """Terms of the baseline."""
        return self.reference.baseline

    @property
    def r_cut(self) -> float:
        """Distance beyond which atoms do not interact [Å]."""
        return max(self.local.r_cut, self.reference.r_cut)

    def predict(
        self,
        atoms: Atoms,
        *,
        return_std: ReturnStd = False,
        gate: VarianceGate | None = None,
        neighbors: NeighborList | None = None,
        n_threads: int | None = None,
    ) -> Prediction:
        """Predict a structure; see `KernelPotential.predict`."""
        system = self.system(atoms, neighbors)
        return self._predict(system, return_std=return_std, gate=gate, n_threads=n_threads)[0]

    def predict_many(
        self,
        structures: Sequence[Atoms],
        *,
        return_std: ReturnStd = False,
        gate: VarianceGate | None = None,
        n_threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predict structures one after the other; see `KernelPotential.predict_many`."""
        for index, atoms in enumerate(structures):
            self._check(atoms, f"structure {index}" if names is None else names[index])
        for group in _groups(structures):
            system = System.of(group, self.r_cut)
            check_distances(system.pairs, system.displacements, "structure")
            yield from self._predict(system, return_std=return_std, gate=gate, n_threads=n_threads)

    def _predict(
        self,
        system: System,
        *,
        return_std: ReturnStd,
        gate: VarianceGate | None,
        n_threads: int | None,
    ) -> list[Prediction]:
        """Evaluate structures that were found sound."""
        local_only = return_std == "local"
        if not (local_only or isinstance(return_std, bool | np.bool_)):
            raise ValueError(f"`return_std` must be False, True or 'local', got {return_std!r}")
        blend = self._blend(system, gate)
        found = self._evaluate(
            system,
            variance=bool(return_std),
            novelty=bool(return_std),
            blend=blend,
            n_threads=n_threads,
        )
        result = found.result
        self.reference.add_to(system, result)
        forces, virials = system.forces(result), system.virials(result)
        std = spilling = None
        if not (found.variance is None or found.novelty is None or found.prior is None):
            std = np.sqrt(found.variance)
            # a free atom has nothing to be known of in a term of pairs
            spilling = np.divide(
                found.novelty, found.prior, out=np.zeros_like(std), where=found.prior > 0
            )
        penalty = bound = None
        if gate is not None and found.added is not None and found.bound is not None:
            penalty, bound = found.added, np.sqrt(found.bound)
        predictions = []
        first = system.first_atom
        for index, (atoms, virial) in enumerate(zip(system.structures, virials, strict=True)):
            own = slice(first[index], first[index + 1])
            stress = -voigt(virial) / atoms.get_volume() if np.all(atoms.pbc) else None
            predicted = Prediction(
                float(result.energies[own].sum()),
                result.energies[own],
                forces[own],
                stress,
                None if std is None else std[own],
                None if spilling is None else spilling[own],
                penalty=None if penalty is None else penalty[own],
                std_bound=None if bound is None else bound[own],
                numbers=atoms.numbers,
                calibration=self.calibration,
            )
            if return_std and not local_only:
                full = self._full_std(system.part(index), n_threads)
                predicted = replace(predicted, **full)
            predictions.append(predicted)
        return predictions

    def _blend(self, system: System, gate: VarianceGate | None) -> PessimisticEnergies | None:
        """The pessimistic energy; None where it is that of the kernels alone."""
        damping = self.safety.damping(system.numbers, system.pairs, system.distances)
        if gate is None and damping is None:
            return None
        known, kappa = None, 0.0
        if gate is not None:
            known, kappa = gate.known(self.species, self.safety), gate.kappa
        z_index = system.z_index(self.species)
        return PessimisticEnergies(self.safety, z_index, known, kappa, damping)

    @property
    def design(self) -> Design:
        """What rows of the regression are made of, as they are in `factor`."""
        return self.local.design

    def remainder(self, frame: Frame) -> Frame:
        """Labels of a frame less what the columns of the regression need not explain.

        That is `reference`, and of whole quadratic forms what is beside the columns.

        Parameters
        ----------
        frame : Frame

        Returns
        -------
        Frame
        """
        left = self.reference.remainder(frame)
        if not self.local.tails:
            return left
        system = System.of([frame.atoms], self.local.r_cut)
        found = self._beside.evaluate(system).result
        return replace(
            left,
            energy=None if left.energy is None else left.energy - float(found.energies.sum()),
            forces=None if left.forces is None else left.forces - system.forces(found),
            virial=None if left.virial is None else left.virial - voigt(system.virials(found)[0]),
        )

    @cached_property
    def _beside(self) -> LocalModel:
        """The mean without what the columns have of it."""
        weights = np.zeros_like(self.local.weights)
        local = self.local
        return LocalModel(local.design, weights, local.variances, tails=local.tails)

    @cached_property
    def posterior(self) -> Posterior:
        """Posterior of total energies, forces and virials."""
        return Posterior(self.design, self.factor)

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
            ``energy_std``, ``forces_std``, ``stress_std`` and their ``..._novelty``, as in
            `Prediction`.
        """
        return self._full_std(self.system(atoms, neighbors), n_threads)

    def _full_std(self, system: System, n_threads: int | None) -> dict[str, Any]:
        (atoms,) = system.structures
        periodic = bool(np.all(atoms.pbc))
        found = self.posterior.std(system, virial=periodic, n_threads=thread_count(n_threads))
        volume = atoms.get_volume() if periodic else np.inf
        return {
            "energy_std": found.energy,
            "forces_std": found.forces,
            "stress_std": None if found.virial is None else found.virial / volume,
            "energy_novelty": found.energy_novelty,
            "forces_novelty": found.forces_novelty,
            "stress_novelty": (
                None if found.virial_novelty is None else found.virial_novelty / volume
            ),
        }

    def local_std(self, atoms: Atoms, *, n_threads: int | None = None) -> FloatArray:
        """Standard deviation of local energies; see `KernelPotential.local_std`."""
        found = self._evaluate(
            self.system(atoms), gradient=False, variance=True, n_threads=n_threads
        )
        assert found.variance is not None
        return np.sqrt(found.variance)

    def variance_gradient(self, atoms: Atoms, weights: FloatArray) -> FloatArray:
        """Gradient of weighted local variances; see `KernelPotential.variance_gradient`."""
        system = self.system(atoms)
        found = self._evaluate(system, blend=_WeightedVariance(weights))
        return -system.forces(found.result)

    def _check(self, atoms: Atoms, name: str) -> None:
        check_cell(atoms, name)
        try:
            species_index(atoms.numbers, self.species)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        self.reference.check(atoms, name)

    def system(self, atoms: Atoms, neighbors: NeighborList | None = None) -> System:
        """Check a structure, and find its pairs unless they are given.

        Parameters
        ----------
        atoms : ase.Atoms
        neighbors : NeighborList, optional
            All pairs to at least `r_cut`.

        Returns
        -------
        System

        Raises
        ------
        ValueError
            If the structure has a species the model does not know, or is not sound.
        """
        self._check(atoms, "structure")
        system = System.of([atoms], self.r_cut, pairs=neighbors)
        check_distances(system.pairs, system.displacements, "structure")
        return system

    def _evaluate(
        self,
        system: System,
        *,
        gradient: bool = True,
        variance: bool = False,
        novelty: bool = False,
        blend: Blend | None = None,
        n_threads: int | None = None,
    ) -> LocalEvaluation:
        return self.local.evaluate(
            system,
            gradient=gradient,
            variance=variance,
            novelty=novelty,
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
        for t, bound in enumerate(self.local.terms):
            own = [block for block in self.design.blocks if block.term == t]
            terms.append(
                {
                    **plain(bound.term.to_dict()),
                    "r_cut": bound.term.r_cut,
                    "sparse_method": bound.term.sparse_method,
                    "description": bound.term.describe(),
                    "n_features": bound.descriptor.n_features,
                    "n_sparse": {key_name(block.key): len(block.points) for block in own},
                    "rank": {key_name(block.key): block.rank for block in own},
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
            "baseline": [term.to_dict() for term in self.baseline],
            "gate": {
                **{
                    name: dict(zip(symbols, getattr(self.safety, name).tolist(), strict=True))
                    for name in ("std_known", "width", "average", "contact")
                },
                "origin": self.safety.note,
            },
            "virial_offset": self.virial_offset,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "self_test": None if self.self_test is None else self.self_test.to_dict(),
            "training": {k: v for k, v in self.training.to_dict().items() if k != "fingerprints"},
        }


@dataclass(frozen=True)
class _WeightedVariance:
    """The weighted variance itself in place of the energy."""

    weights: FloatArray
    gauge_fixed: bool = False

    def irrelevant_below(self, species: int) -> float:
        return -np.inf

    def __call__(self, atoms: slice, energies: FloatArray, variances: FloatArray) -> Blended:
        return Blended(variances, np.zeros_like(energies), self.weights[atoms])

    def pull(self, system: System, by_keep: FloatArray, result: Contribution) -> None:
        """Depends on nothing else."""


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
