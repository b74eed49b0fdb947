"""What a fit learns of the limits of its data, for the gate (`kernelpot.safety.gate`) to act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.types import FloatArray, IntArray, Pair
from kernelpot.data.neighbors import NeighborList
from kernelpot.data.system import System
from kernelpot.gp.blend import AsItIs
from kernelpot.gp.local import LocalModel
from kernelpot.safety.damping import Damping, damping

# The fallback energy lies this far above the largest local energy of the data [eV].
FALLBACK_MARGIN = 0.1
# The gate begins to close at this multiple of a high quantile of the std of structures
# that were left out of the choice of sparse points, ...
QUANTILE, QUANTILE_FACTOR = 0.999, 2.0
# ... which is up to so much larger than that of structures the choice was made from; by how
# much is measured, species taken together, where that many atoms were left out.
CHOSEN_FROM_FACTOR, ENOUGH_TO_COMPARE = 3.5, 10
# With fewer atoms left out, up to so many structures the choice was made from count too.
ENOUGH_ATOMS, MAX_STRUCTURES = 200, 100
# The gate is closed at this multiple of the std at which it begins to close, or where that
# is too steep at a larger one (`kernelpot.safety.width`).
CLOSED_FACTOR = 3.0
# The gate begins to close at most at this share of the prior std, so that it can close at all.
LARGEST_SHARE_OF_PRIOR = 0.3
# The prior of terms whose environments differ in weight or number is that of about so many
# structures.
PRIOR_STRUCTURES = 10


@dataclass(frozen=True)
class SafetyNet:
    """What a fit learned about the limits of its data.

    Attributes
    ----------
    std_low : ndarray of shape (n_species,)
        Local standard deviation at which the gate begins to close [eV]; infinite for a
        species whose atoms have no energies of their own.
    fallback : ndarray of shape (n_species,)
        Local energy that takes over, beyond e0 and baseline [eV].
    d_min : mapping of (Z, Z') to float
        Distances that scale the damping [Å]; empty without a wall.
    closed_factor : ndarray of shape (n_species,)
        Multiple of `std_low` at which the gate is closed.
    note : str
        How the thresholds were found.
    """

    std_low: FloatArray
    fallback: FloatArray
    d_min: Mapping[Pair, float]
    closed_factor: FloatArray
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        return {
            "std_low": self.std_low.tolist(),
            "fallback": self.fallback.tolist(),
            "d_min": [[a, b, d] for (a, b), d in sorted(self.d_min.items())],
            "closed_factor": self.closed_factor.tolist(),
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SafetyNet:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        SafetyNet
        """
        return cls(
            # JSON has no infinity
            np.array([np.inf if s is None else s for s in data["std_low"]], dtype=float),
            np.array(data["fallback"], dtype=float),
            {(int(a), int(b)): float(d) for a, b, d in data["d_min"]},
            np.array(data["closed_factor"], dtype=float),
            data["note"],
        )

    def raised(
        self,
        local: LocalModel,
        species: Sequence[int],
        structures: Sequence[Atoms],
        *,
        n_threads: int = 1,
    ) -> SafetyNet:
        """Return the net for a model that has seen more structures.

        The fallback rises above their local energies where it has to; thresholds stay.

        Parameters
        ----------
        local : LocalModel
            The updated model.
        species : sequence of int
            Atomic numbers.
        structures : sequence of ase.Atoms
            The new ones.
        n_threads : int

        Returns
        -------
        SafetyNet
        """
        largest = np.full(len(species), -np.inf)
        for atoms in structures:
            system = System.of([atoms], local.r_cut)
            found = local.evaluate(system, gradient=False, n_threads=n_threads)
            np.maximum.at(largest, system.z_index(species), found.energies)
        return replace(self, fallback=np.maximum(self.fallback, largest + FALLBACK_MARGIN))

    def damping(
        self, numbers: IntArray, pairs: NeighborList, distances: FloatArray
    ) -> Damping | None:
        """How nearness damps local energies; see `kernelpot.safety.damping.damping`."""
        return damping(self.d_min, numbers, pairs, distances)


def learn_safety_net(
    local: LocalModel,
    species: Sequence[int],
    structures: Sequence[Atoms],
    held_out: Sequence[int],
    d_min: Mapping[Pair, float],
    *,
    n_threads: int = 1,
) -> SafetyNet:
    """Thresholds and fallback energies from the training structures.

    Parameters
    ----------
    local : LocalModel
    species : sequence of int
        Atomic numbers.
    structures : sequence of ase.Atoms
    held_out : sequence of int
        Those the sparse points were not chosen from.
    d_min : mapping of (Z, Z') to float
        Distances that scale the damping [Å].
    n_threads : int

    Returns
    -------
    SafetyNet
    """
    largest = np.full(len(species), -np.inf)
    stds: dict[tuple[bool, int], list[FloatArray]] = {}
    unseen = set(held_out)
    sampled = set(unseen)
    for number in species:
        holders = [i for i, atoms in enumerate(structures) if number in atoms.numbers]
        n_unseen = sum(np.sum(structures[i].numbers == number) for i in unseen & set(holders))
        if n_unseen < ENOUGH_ATOMS:
            sampled.update(holders[:: max(1, len(holders) // MAX_STRUCTURES)])
    for index, atoms in enumerate(structures):
        system = System.of([atoms], local.r_cut)
        blend = AsItIs() if index in sampled else None
        found = local.evaluate(system, gradient=False, blend=blend, n_threads=n_threads)
        z_index = system.z_index(species)
        np.maximum.at(largest, z_index, found.energies)
        if found.bound is not None:
            for z in np.unique(z_index):
                std = np.sqrt(found.bound[z_index == z])
                stds.setdefault((index in unseen, int(z)), []).append(std)
    left_out, chosen_from = (
        [np.concatenate(stds.get((is_unseen, z), [np.empty(0)])) for z in range(len(species))]
        for is_unseen in (True, False)
    )
    bias = _bias(left_out, chosen_from)
    low = np.empty(len(species))
    notes = []
    prior_std = typical_prior_std(local, species, structures)
    for z, number in enumerate(species):
        if prior_std[z] == 0.0:
            low[z] = np.inf
            notes.append(
                f"{chemical_symbols[number]}: outside the gate, as no term has energies of "
                "single atoms"
            )
            continue
        low[z], note = _threshold(left_out[z], chosen_from[z], bias, float(prior_std[z]))
        notes.append(f"{chemical_symbols[number]}: {note}")
    return SafetyNet(
        low,
        largest + FALLBACK_MARGIN,
        dict(d_min),
        np.full(len(species), CLOSED_FACTOR),
        "; ".join(notes),
    )


def _bias(left_out: Sequence[FloatArray], chosen_from: Sequence[FloatArray]) -> float:
    """By what the std of atoms left out exceeds that of the others, of all species together."""
    ratios = [
        unseen / np.median(seen)
        for unseen, seen in zip(left_out, chosen_from, strict=True)
        if len(unseen) and len(seen) and np.median(seen) > 0
    ]
    pooled = np.concatenate([np.empty(0), *ratios])
    if len(pooled) < ENOUGH_TO_COMPARE:
        return CHOSEN_FROM_FACTOR
    return float(np.clip(np.median(pooled), 1.0, CHOSEN_FROM_FACTOR))


def _threshold(
    left_out: FloatArray, chosen_from: FloatArray, bias: float, prior_std: float
) -> tuple[float, str]:
    """Local std at which the gate of a species begins to close, and how it was found [eV].

    Parameters
    ----------
    left_out, chosen_from : ndarray
        Standard deviations of atoms that the sparse points were not chosen from, and of
        such that they were.
    bias : float
        By what the former exceed the latter.
    prior_std : float
    """
    # a std of exactly zero (one environment, repeated) would gate rounding noise
    low = 1e-3 * prior_std
    found = []
    if len(left_out):
        low = max(low, QUANTILE_FACTOR * float(np.quantile(left_out, QUANTILE)))
        found.append(f"{QUANTILE_FACTOR:g} x that of {len(left_out)} atoms left out of the choice")
    if len(left_out) < ENOUGH_ATOMS and len(chosen_from):
        factor = QUANTILE_FACTOR * bias
        low = max(low, factor * float(np.quantile(chosen_from, QUANTILE)))
        found.append(f"{factor:.3g} x that of {len(chosen_from)} atoms in the choice")
    limit = LARGEST_SHARE_OF_PRIOR * prior_std
    if low > limit:
        low = limit
        found.append(
            f"at most {LARGEST_SHARE_OF_PRIOR:g} x the prior std of {prior_std:.3g} eV, which "
            "this is: the model knows little of its own data"
        )
    return low, f"{100 * QUANTILE:g} % quantile of the local std, {', or '.join(found)}"


def typical_prior_std(
    local: LocalModel, species: Sequence[int], structures: Sequence[Atoms]
) -> FloatArray:
    """Prior standard deviation of a local energy of each species.

    Parameters
    ----------
    local : LocalModel
    species : sequence of int
        Atomic numbers.
    structures : sequence of ase.Atoms
        Where the prior depends on the environment: its median over some of these.

    Returns
    -------
    ndarray of shape (n_species,)
        [eV].
    """
    typical = np.empty(len(species))
    for z, number in enumerate(species):
        holders = [atoms for atoms in structures if number in atoms.numbers]
        some = holders[:: max(1, len(holders) // PRIOR_STRUCTURES)]
        priors = []
        for atoms in some:
            system = System.of([atoms], local.r_cut)
            priors.append(local.prior(system)[system.numbers == number])
        # atoms without an environment tell nothing: then what one environment would have
        found = np.concatenate(priors)
        one = sum(local.terms[block.term].kernel.diagonal() for _, block in local.blocks_of(z))
        typical[z] = np.sqrt(np.median(found[found > 0]) if np.any(found > 0) else one)
    return typical


def gate_std(local: LocalModel, system: System, *, n_threads: int = 1) -> FloatArray:
    """Standard deviations the gate compares with its thresholds.

    Parameters
    ----------
    local : LocalModel
    system : System
    n_threads : int

    Returns
    -------
    ndarray of shape (n_atoms,)
        [eV], exact everywhere; with several species given the mean local energy of each.
    """
    found = local.evaluate(system, gradient=False, blend=AsItIs(), n_threads=n_threads)
    assert found.bound is not None
    return np.sqrt(found.bound)
