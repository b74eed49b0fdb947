"""A fitted model: immutable parts that together predict, and nothing of how they came."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.baseline.coulomb_remainder import beside_bare_charges
from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.baseline.reference import BaselineTerm, Reference
from kernelpot.common.archive import plain
from kernelpot.common.parallel import thread_count
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.dataset import Frame
from kernelpot.data.neighbors import NeighborList
from kernelpot.data.soundness import check_cell, check_distances
from kernelpot.data.system import System, species_index, voigt, volume_of
from kernelpot.gp.blend import Blend, UpToKnown
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise
from kernelpot.gp.local import LocalEvaluation, LocalModel
from kernelpot.model.calibration import Calibration
from kernelpot.model.prediction import PosteriorStd, Prediction, ReturnStd
from kernelpot.model.record import NOTHING, TrainingRecord
from kernelpot.model.region import Evaluated, RegionPrediction
from kernelpot.model.self_test import SelfTest
from kernelpot.model.uncertainty import Uncertainty, spilling_of
from kernelpot.regression.factors import AbsentFactor, TriangularFactor
from kernelpot.safety.gate import PessimisticEnergies, VarianceGate
from kernelpot.safety.thresholds import SafetyNet
from kernelpot.terms.base import is_local, key_name
from kernelpot.terms.charges import ChargesDescriptor, check_periodicity, total_charge

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
    deviations : ndarray of shape (n_members, n_sparse) or None
        Of the weights in `Uncertainty.members`, where there is no factor to draw them from [1/eV].
    form_noise : Noise or None
        That of the mean, where it is a whole quadratic form (`kernelpot.fit.full_mean`);
        `noise` is that of the columns, which variances are of.
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
    deviations: FloatArray | None = None
    form_noise: Noise | None = None

    @property
    def is_slim(self) -> bool:
        """Whether it holds what prediction needs and not the factor of the training."""
        return isinstance(self.factor, AbsentFactor)

    def slim(self) -> FittedModel:
        """The same model without the factors of the training, for prediction alone.

        Returns
        -------
        FittedModel
            Energies, forces, stress, calibrated standard deviations and the safety net are
            the same; what needs the factor raises ValueError.
        """
        if self.is_slim:
            return self
        absent = AbsentFactor(self.factor.n_rows)
        deviations = None if self.calibration is None else self.uncertainty.members.weights
        return replace(self, factor=absent, known=absent, deviations=deviations)

    def __deepcopy__(self, memo: dict[int, Any]) -> FittedModel:
        """The same: it is immutable."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Fields, without what was computed from them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def e0(self) -> AtomicEnergies:
        """Energies of isolated atoms."""
        return self.reference.e0

    @property
    def baseline(self) -> Sequence[BaselineTerm]:
        """Terms of the baseline."""
        return self.reference.baseline

    @cached_property
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
        stresses: bool = False,
    ) -> Prediction:
        """Predict a structure; see `KernelPotential.predict`. Also stresses of its atoms."""
        system = self.system(atoms, neighbors)
        return self._predict(
            system, return_std=return_std, gate=gate, n_threads=n_threads, stresses=stresses
        )[0]

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
        if isinstance(structures, Atoms):
            raise TypeError("predict_many takes a sequence of structures; predict takes one")
        structures = list(structures)
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
        stresses: bool = False,
    ) -> list[Prediction]:
        """Evaluate structures that were found sound."""
        local_only = return_std == "local"
        if not (local_only or isinstance(return_std, bool | np.bool_)):
            raise ValueError(f"`return_std` must be False, True or 'local', got {return_std!r}")
        found = self._evaluate_all(
            system,
            std=bool(return_std),
            spilling=bool(return_std),
            watched=bool(return_std) and not local_only,
            gate=gate,
            n_threads=n_threads,
        )
        result, spilling = found.result, found.spilling
        charges = self.charges(system)
        shares = system.atom_virials(result) if stresses else None
        predictions = []
        first = system.first_atom
        for index, atoms in enumerate(system.structures):
            own = slice(first[index], first[index + 1])
            volume = volume_of(atoms)
            stress = None if volume is None else -voigt(found.virials[index]) / volume
            of_atoms = None
            if shares is not None and volume is not None:
                of_atoms = -np.array([voigt(share) for share in shares[own]]) / volume
            predicted = Prediction(
                float(result.energies[own].sum()),
                result.energies[own],
                found.forces[own],
                stress,
                None if found.std is None else found.std[own],
                None if spilling is None else spilling[own],
                penalty=None if found.penalty is None else found.penalty[own],
                std_bound=None if found.bound is None else found.bound[own],
                outside=None if found.outside is None else found.outside[own],
                stresses=of_atoms,
                numbers=atoms.numbers,
                charges=None if charges is None else charges[own],
                dipole=None if charges is None else _dipole(atoms, charges[own]),
                calibration=self.calibration,
            )
            if return_std:
                predicted = self._with_std(predicted, system.part(index), local_only, n_threads)
            predictions.append(predicted)
        return predictions

    def predict_region(
        self,
        numbers: IntArray,
        first: IntArray,
        neighbors: IntArray,
        displacements: FloatArray,
        *,
        return_std: bool = False,
        gate: VarianceGate | None = None,
        n_threads: int | None = None,
    ) -> RegionPrediction:
        """Evaluate part of a structure: centers, with neighbors among them and among ghosts.

        What programs need that divide a structure among processes. `predict` goes the same way:
        a structure without ghosts gives the same bits.

        Parameters
        ----------
        numbers : ndarray of shape (n_atoms,)
            Atomic numbers: of the centers, then of the ghosts. Images of a center are ghosts of
            their own.
        first : ndarray of shape (n_centers + 1,)
            Pairs of center ``i`` are ``first[i] .. first[i + 1] - 1``.
        neighbors : ndarray of shape (n_pairs,)
            Index of the neighbor of each pair: all of them closer than `r_cut`, longer pairs do
            no harm.
        displacements : ndarray of shape (n_pairs, 3)
            From center to neighbor [Å].
        return_std : bool, default=False
            Also standard deviations of the energies of the centers.
        gate : VarianceGate, optional
        n_threads : int, optional

        Returns
        -------
        RegionPrediction

        Raises
        ------
        ValueError
            If a part of the model needs whole structures (`check_regional`), the list is not of
            these atoms, a species is unknown or two atoms sit on one spot.
        """
        self.check_regional()
        system = System.region(numbers, first, neighbors, displacements)
        check_distances(system.pairs, system.displacements, "region")
        found = self._evaluate_all(
            system, std=return_std, spilling=False, watched=False, gate=gate, n_threads=n_threads
        )
        own = slice(0, system.n_centers)
        std = None
        if found.std is not None:
            std = self.uncertainty.of_energies(found.std[own], system.numbers[own])
        return RegionPrediction(
            found.result.energies[own],
            found.forces,
            found.virials[0],
            std,
            None if found.penalty is None else found.penalty[own],
            None if found.bound is None else found.bound[own],
            system,
            found.result,
        )

    def check_regional(self) -> None:
        """Refuse to be evaluated for parts of structures where that is not possible.

        Raises
        ------
        ValueError
            Naming the terms that need whole structures.
        """
        whole = [t.term.kind for t in self.local.terms if not is_local(t.descriptor)]
        whole += [term.kind for term in self.baseline if not term.local]
        if whole:
            raise ValueError(
                f"this model has a part that needs whole structures ({', '.join(whole)}), and "
                "cannot be evaluated region by region; fit one of terms of atoms and their "
                "neighbors, or use the ASE calculator"
            )

    def beside_bare_charges(self) -> tuple[FittedModel, dict[str, float]]:
        """The model without the charges that another program sums.

        Returns
        -------
        model : FittedModel
            With what remains of damped charges in their place
            (`kernelpot.baseline.coulomb_remainder`).
        charges : dict of symbol to float
            Whose Coulomb energy is to be added, bare and to infinity [e]; empty if there are none.

        Raises
        ------
        ValueError
            If the charges are not those of species.
        """
        terms, charges = beside_bare_charges(self.baseline)
        if not charges:
            return self, {}
        return replace(self, reference=replace(self.reference, baseline=terms)), charges

    def _evaluate_all(
        self,
        system: System,
        *,
        std: bool,
        spilling: bool,
        watched: bool,
        gate: VarianceGate | None,
        n_threads: int | None,
    ) -> Evaluated:
        """Everything that is found atom by atom, of structures or of a region.

        `watched` also finds which atoms are beyond the data where there is no gate.
        """
        blend: Blend | None = self._blend(system, gate)
        if watched and blend is None:
            blend = UpToKnown(self._known(gate))
        found = self._evaluate(
            system,
            variance=std,
            novelty=spilling,
            blend=blend,
            n_threads=n_threads,
        )
        result = found.result
        self.reference.add_to(system, result)
        penalty = bound = None
        if gate is not None and found.added is not None and found.bound is not None:
            penalty, bound = found.added, np.sqrt(found.bound)
        elif watched:  # damping alone looks at no variances
            bound = self._std_bound(system, found, blend, n_threads)
        outside = None
        if watched and bound is not None:
            outside = bound > self._known(gate)[system.z_index(self.species)]
        return Evaluated(
            result,
            system.forces(result),
            system.virials(result),
            None if found.variance is None else np.sqrt(found.variance),
            spilling_of(found) if spilling else None,
            penalty,
            bound,
            outside,
        )

    @property
    def has_charges(self) -> bool:
        """Whether charges of atoms are part of the model."""
        return any(isinstance(t.descriptor, ChargesDescriptor) for t in self.local.terms)

    def charges(self, system: System) -> FloatArray | None:
        """Charges of all atoms of a system, where they are part of the model.

        Parameters
        ----------
        system : System

        Returns
        -------
        ndarray of shape (n_atoms,) or None
            [e].
        """
        for block in self.design.blocks:
            bound = self.design.terms[block.term]
            if isinstance(bound.descriptor, ChargesDescriptor):
                weights = bound.kernel.diagonal() * self.local.weights[block.sparse]
                coefficients = bound.descriptor.coefficients(weights)
                return bound.descriptor.charges(system, coefficients)
        return None

    def _known(self, gate: VarianceGate | None) -> FloatArray:
        """Local std of each species up to which atoms count as known [eV]."""
        return self.safety.std_known if gate is None else gate.known(self.species, self.safety)

    def _std_bound(
        self, system: System, found: LocalEvaluation, blend: Blend | None, n_threads: int | None
    ) -> FloatArray:
        """Local std given those of the data, exact beyond what counts as known [eV]."""
        if not isinstance(blend, UpToKnown):
            watch = UpToKnown(self.safety.std_known)
            found = self._evaluate(system, gradient=False, blend=watch, n_threads=n_threads)
        assert found.bound is not None
        return np.sqrt(found.bound)

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
    def uncertainty(self) -> Uncertainty:
        """Standard deviations, and the posterior they come from."""
        return Uncertainty(self.local, self.factor, self.calibration, self.deviations)

    def _with_std(
        self, predicted: Prediction, system: System, local_only: bool, n_threads: int | None
    ) -> Prediction:
        """Add standard deviations of one structure; the local ones are there, of the posterior."""
        local = predicted.energies_std
        assert local is not None
        assert predicted.spilling is not None
        (atoms,) = system.structures
        # not the pairs: predictions of many structures may be kept
        full: dict[str, Any] = {
            "find_posterior": partial(self._posterior_std, atoms.copy(), local),
            "energies_std": self.uncertainty.of_energies(local, system.numbers),
        }
        if not local_only:
            full |= self.uncertainty.full(system, spilling=predicted.spilling, n_threads=n_threads)
        return replace(predicted, **full)

    def _posterior_std(self, atoms: Atoms, local: FloatArray) -> PosteriorStd:
        """Standard deviations of the posterior; the local ones are known."""
        return self.uncertainty.of_posterior(self.system(atoms), local)

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
        return self.uncertainty.full(self.system(atoms, neighbors), n_threads=n_threads)

    def local_std(self, atoms: Atoms, *, n_threads: int | None = None) -> FloatArray:
        """Standard deviation of local energies; see `KernelPotential.local_std`."""
        std = self.posterior_local_std(atoms, n_threads=n_threads)
        return self.uncertainty.of_energies(std, atoms.numbers)

    def posterior_local_std(self, atoms: Atoms, *, n_threads: int | None = None) -> FloatArray:
        """Standard deviation of local energies in the posterior itself.

        Parameters
        ----------
        atoms : ase.Atoms
        n_threads : int, optional

        Returns
        -------
        ndarray of shape (n_atoms,)
            [eV].
        """
        threads = thread_count(n_threads)
        return self.uncertainty.posterior_energies(self.system(atoms), n_threads=threads)

    def variance_gradient(self, atoms: Atoms, weights: FloatArray) -> FloatArray:
        """Gradient of weighted local variances; see `KernelPotential.variance_gradient`."""
        system = self.system(atoms)
        weights = np.asarray(weights, dtype=float)
        if weights.shape != (len(atoms),):
            raise ValueError(f"`weights` must have shape ({len(atoms)},), got {weights.shape}")
        return self.uncertainty.variance_gradient(system, weights)

    def _check(self, atoms: Atoms, name: str) -> None:
        if not isinstance(atoms, Atoms):
            what = f"{name} must be an ase.Atoms, got {type(atoms).__name__}"
            if isinstance(atoms, (list, tuple)):
                what += "; predict_many takes several structures"
            elif isinstance(atoms, (str, os.PathLike)):
                what += f"; ase.io.read({str(atoms)!r}) makes structures of a file"
            raise TypeError(what)
        check_cell(atoms, name)
        try:
            species_index(atoms.numbers, self.species)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        self.reference.check(atoms, name)
        if self.has_charges:
            check_periodicity(atoms, name)
            total_charge(atoms)

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
                    "spline_error": self.local.spline_error(t),
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
            "slim": self.is_slim,
            "about": self.training.about(),
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "self_test": None if self.self_test is None else self.self_test.to_dict(),
            "training": {k: v for k, v in self.training.to_dict().items() if k != "fingerprints"},
        }


def _dipole(atoms: Atoms, charges: FloatArray) -> FloatArray | None:
    """Dipole of charges about the center of mass; none of what is periodic [e Å]."""
    if atoms.pbc.any():
        return None
    return charges @ (atoms.positions - atoms.get_center_of_mass())


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
