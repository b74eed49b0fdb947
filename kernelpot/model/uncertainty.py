"""How certain a model is: its posterior, and standard deviations calibrated on structures left out.

The posterior is exact, and costly where derivatives are asked for. What predictions have is the
spread of some potentials drawn from it (`Members`), times the scales that structures left out
have shown (`kernelpot.model.calibration`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kernelpot.common.parallel import thread_count
from kernelpot.common.types import FloatArray
from kernelpot.data.system import Contribution, System, voigt, volume_of
from kernelpot.gp.blend import Blended
from kernelpot.gp.local import LocalEvaluation, LocalModel
from kernelpot.gp.members import Members, drawn
from kernelpot.gp.posterior import Posterior
from kernelpot.model.calibration import Calibration
from kernelpot.model.prediction import PosteriorStd
from kernelpot.regression.factors import TriangularFactor

# Potentials drawn from the posterior whose spread tells what the data leave open, to one part in
# the root of twice as many.
N_MEMBERS = 16


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations of what a model predicts for systems that were found sound.

    Parameters
    ----------
    local : LocalModel
    factor : TriangularFactor
        Posterior precision of the whitened weights.
    calibration : Calibration or None
        From the spread of the members to errors.
    deviations : ndarray of shape (n_members, n_sparse) or None
        Of the weights in `members`, where there is no factor to draw them from [1/eV].
    """

    local: LocalModel
    factor: TriangularFactor
    calibration: Calibration | None = None
    deviations: FloatArray | None = None

    @cached_property
    def posterior(self) -> Posterior:
        """Posterior of total energies, forces and virials."""
        return Posterior(self.local.design, self.factor)

    @cached_property
    def members(self) -> Members:
        """Deviations of the weights in potentials drawn from the posterior, always the same."""
        weights = self.deviations
        if weights is None:
            rng = np.random.default_rng(0)
            weights = drawn(self.local.design, self.factor, N_MEMBERS, rng)
        return Members(self.local.design, weights)

    def full(
        self,
        system: System,
        *,
        spilling: FloatArray | None = None,
        n_threads: int | None = None,
    ) -> dict[str, Any]:
        """Standard deviations that need the posterior of all species together.

        Parameters
        ----------
        system : System
            Of one structure.
        spilling : ndarray of shape (n_atoms,), optional
            If it is known.
        n_threads : int, optional

        Returns
        -------
        dict
            ``energy_std``, ``forces_std`` and ``stress_std`` as in `Prediction`.
        """
        (atoms,) = system.structures
        volume = volume_of(atoms)
        threads = thread_count(n_threads)
        if self.calibration is None:
            found = self.posterior.std(system, virial=volume is not None, n_threads=threads)
            return {
                "energy_std": found.energy,
                "forces_std": found.forces,
                "stress_std": (
                    None if found.virial is None or volume is None else found.virial / volume
                ),
            }
        calibration, numbers = self.calibration, system.numbers
        energies, forces, virials = self.members.evaluate(system, n_threads=threads)
        if spilling is None:
            spilling = self.spilling(system, n_threads=threads)
        excess = calibration.excess(spilling, self.local.prior(system), numbers)
        by_atom, together = np.ones(len(numbers)), 1.0
        if calibration.growth is not None:
            open_ = np.sqrt(np.mean(forces**2, axis=0))
            by_atom, together = calibration.growth.factors(open_, system)

        def std(kind: str, deviations: FloatArray, grown: Any) -> Any:
            spread = np.sqrt(np.mean(deviations**2, axis=0))
            return calibration.std(kind, spread, numbers, excess, volume or np.inf, grown)

        stresses = None if volume is None else np.array([voigt(v) for v in virials]) / volume
        return {
            "energy_std": std("energy", energies, together),
            "forces_std": std("forces", forces, by_atom),
            "stress_std": None if stresses is None else std("stress", stresses, together),
        }

    def of_energies(self, posterior_std: FloatArray, numbers: Any) -> FloatArray:
        """Calibrated standard deviations of local energies.

        Parameters
        ----------
        posterior_std : ndarray of shape (n_atoms,)
            From `posterior_energies` [eV].
        numbers : ndarray of int, shape (n_atoms,)
            Atomic numbers.

        Returns
        -------
        ndarray of shape (n_atoms,)
            [eV].
        """
        if self.calibration is None:
            return posterior_std
        return np.asarray(self.calibration.std("energies", posterior_std, numbers))

    def posterior_energies(self, system: System, *, n_threads: int = 1) -> FloatArray:
        """Standard deviations of local energies in the posterior itself.

        Parameters
        ----------
        system : System
        n_threads : int

        Returns
        -------
        ndarray of shape (n_atoms,)
            [eV].
        """
        found = self.local.evaluate(system, gradient=False, variance=True, n_threads=n_threads)
        assert found.variance is not None
        return np.sqrt(found.variance)

    def spilling(self, system: System, *, n_threads: int = 1) -> FloatArray:
        """Share of the prior variance of local energies that the sparse points do not span.

        Parameters
        ----------
        system : System
        n_threads : int

        Returns
        -------
        ndarray of shape (n_atoms,)
        """
        return spilling_of(
            self.local.evaluate(system, gradient=False, novelty=True, n_threads=n_threads)
        )

    def of_posterior(self, system: System, energies: FloatArray) -> PosteriorStd:
        """Standard deviations of the posterior, with their parts.

        Parameters
        ----------
        system : System
            Of one structure.
        energies : ndarray of shape (n_atoms,)
            Those of local energies, which are known (`posterior_energies`) [eV].

        Returns
        -------
        PosteriorStd
        """
        threads = thread_count(None)
        (atoms,) = system.structures
        volume = volume_of(atoms)
        found = self.posterior.std(system, virial=volume is not None, n_threads=threads)
        novel = self.local.evaluate(system, gradient=False, novelty=True, n_threads=threads).novelty
        assert novel is not None

        def parts(kind: str, whole: Any, novelty: Any, scale: float = 1.0) -> dict[str, Any]:
            names = (f"{kind}_std", f"{kind}_open", f"{kind}_novelty")
            if whole is None:
                return dict.fromkeys(names)
            # both were squared and rooted: what is left of equal ones is rounding
            left = np.sqrt(np.maximum(np.square(whole) - np.square(novelty), 0.0))
            return dict(zip(names, (whole * scale, left * scale, novelty * scale), strict=True))

        return PosteriorStd(
            **parts("energy", found.energy, found.energy_novelty),
            **parts("forces", found.forces, found.forces_novelty),
            **parts("stress", found.virial, found.virial_novelty, 1.0 / (volume or np.inf)),
            **parts("energies", energies, np.sqrt(novel)),
        )

    def variance_gradient(self, system: System, weights: FloatArray) -> FloatArray:
        """Gradient of a weighted sum of local variances by the positions.

        Parameters
        ----------
        system : System
        weights : ndarray of shape (n_atoms,)

        Returns
        -------
        ndarray of shape (n_atoms, 3)
            [eV^2/Å].
        """
        blend = _WeightedVariance(weights)
        found = self.local.evaluate(system, blend=blend, n_threads=thread_count(None))
        return -system.forces(found.result)


def spilling_of(found: LocalEvaluation) -> FloatArray:
    """Novelty over prior variance, both of which were asked for.

    Parameters
    ----------
    found : LocalEvaluation

    Returns
    -------
    ndarray of shape (n_atoms,)
    """
    assert found.novelty is not None
    assert found.prior is not None
    # a free atom has nothing to be known of in a term of pairs
    return np.divide(
        found.novelty, found.prior, out=np.zeros_like(found.novelty), where=found.prior > 0
    )


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
