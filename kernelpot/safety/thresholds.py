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
from kernelpot.gp.known_sites import left_out_std
from kernelpot.gp.local import LocalModel
from kernelpot.regression.evidence import prior_amplitude
from kernelpot.regression.factors import TriangularFactor
from kernelpot.safety.damping import Damping, damping

# Standard deviations by which unknown environments are held to be worse than predicted.
KAPPA = 3.0
# Environments count as known up to this quantile of the std of atoms of the data ...
QUANTILE = 0.999
# ... and to so much more where that is of so many atoms that neither sparse points nor known
# sites were chosen from, as of new structures of the same kind some reach further; for each tenth
# of `MANY_ATOMS`, of which few reach further than these. (Of 3BPA at 300 K the 99.9 % quantile
# of frames that were not fitted is 1.6 to 2.5 times that of 99 %.) Where there are not so many,
# structures are left out in turn, and the atoms of half a structure may lie beyond: a structure
# that is like no other must not decide what counts as known.
MARGIN, ENOUGH_ATOMS, MANY_ATOMS, ODD_STRUCTURES = 1.5, 100, 10_000, 0.5
# Few structures, less than so many, may differ so much that each is a surprise to the others.
# Then environments of the data themselves count as known, and others whose energy is less
# uncertain than this [eV], about thermal energy at 1,000 K: whatever counts as known may sink by
# as much.
ENOUGH_STRUCTURES, LARGEST_OF_FEW = 100, 0.1
# Of the prior std, environments count as known at most up to this share, so that there is
# something left to go by, and at least to this, or rounding would count.
LARGEST_SHARE_OF_PRIOR, SMALLEST_SHARE_OF_PRIOR = 0.3, 1e-3
# The penalty sets in over this multiple of the std that counts as known, or where that is too
# steep over a larger one (`kernelpot.safety.width`).
RELATIVE_WIDTH = 1.0
# The prior of terms whose environments differ in weight or number is that of about so many
# structures.
PRIOR_STRUCTURES = 10


@dataclass(frozen=True)
class SafetyNet:
    """What a fit learned about the limits of its data.

    Attributes
    ----------
    std_known : ndarray of shape (n_species,)
        Local standard deviation up to which environments count as known [eV]; infinite for
        a species whose atoms have no energies of their own.
    width : ndarray of shape (n_species,)
        Over what the penalty sets in beyond that [eV].
    average : ndarray of shape (n_species,)
        Mean local energy of the atoms of the data, beyond e0 and baseline [eV].
    contact : ndarray of shape (n_species,)
        To what local energies are lifted where atoms are nearer to each other than those of
        the data, beyond e0 and baseline [eV].
    d_min : mapping of (Z, Z') to float
        Distances that scale the damping [Å]; empty without a wall.
    std_of_data, prior_std : ndarray of shape (n_species,)
        A high quantile of the std of atoms of the data, their structures left out in turn,
        and that of the prior [eV].
    amplitude : float
        By how much stds beyond the data are too small
        (`kernelpot.regression.evidence.prior_amplitude`), at least 1: data that are gentler
        than the prior say nothing of what is elsewhere.
    note : str
        How it was found.
    """

    std_known: FloatArray
    width: FloatArray
    average: FloatArray
    contact: FloatArray
    d_min: Mapping[Pair, float]
    std_of_data: FloatArray
    prior_std: FloatArray
    amplitude: float = 1.0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        return {
            "std_known": self.std_known.tolist(),
            "width": [None if np.isinf(w) else w for w in self.width.tolist()],
            "average": self.average.tolist(),
            "contact": self.contact.tolist(),
            "d_min": [[a, b, d] for (a, b), d in sorted(self.d_min.items())],
            "std_of_data": self.std_of_data.tolist(),
            "prior_std": self.prior_std.tolist(),
            "amplitude": self.amplitude,
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
            np.array([np.inf if s is None else s for s in data["std_known"]], dtype=float),
            np.array([np.inf if w is None else w for w in data["width"]], dtype=float),
            np.array(data["average"], dtype=float),
            np.array(data["contact"], dtype=float),
            {(int(a), int(b)): float(d) for a, b, d in data["d_min"]},
            np.array(data["std_of_data"], dtype=float),
            np.array(data["prior_std"], dtype=float),
            float(data["amplitude"]),
            data["note"],
        )

    def raised(
        self,
        local: LocalModel,
        factor: TriangularFactor,
        structures: Sequence[Atoms],
        *,
        n_threads: int = 1,
    ) -> SafetyNet:
        """Return the net for a model that has seen more structures.

        The average is that of theirs, as how energy is shared has changed for the others,
        and the energy of contact rises above them where it has to; what counts as known
        stays.

        Parameters
        ----------
        local : LocalModel
            The updated model.
        factor : TriangularFactor
            Of its labels.
        structures : sequence of ase.Atoms
            The new ones.
        n_threads : int

        Returns
        -------
        SafetyNet
        """
        average, largest = _local_energies(local, structures, n_threads)
        return replace(
            self,
            average=np.where(np.isfinite(average), average, self.average),
            contact=np.maximum(self.contact, largest + KAPPA * self.prior_std),
            amplitude=_amplitude(factor),
        )

    def damping(
        self, numbers: IntArray, pairs: NeighborList, distances: FloatArray
    ) -> Damping | None:
        """How nearness damps local energies; see `kernelpot.safety.damping.damping`."""
        return damping(self.d_min, numbers, pairs, distances)


def learn_safety_net(
    local: LocalModel,
    factor: TriangularFactor,
    known: TriangularFactor,
    structures: Sequence[Atoms],
    unseen: Sequence[Atoms],
    d_min: Mapping[Pair, float],
    *,
    n_threads: int = 1,
) -> SafetyNet:
    """What counts as known, and energies of contact, from the training structures.

    Parameters
    ----------
    local : LocalModel
    factor : TriangularFactor
        Of the labels.
    known : TriangularFactor
        Of the labels, with the local energies of `structures` taken as known.
    structures : sequence of ase.Atoms
        Of the data, with atoms of all species.
    unseen : sequence of ase.Atoms
        Of the data, but neither among these nor seen by the choice of sparse points.
    d_min : mapping of (Z, Z') to float
        Distances that scale the damping [Å].
    n_threads : int

    Returns
    -------
    SafetyNet
    """
    species = local.species
    left_out = _of_species(
        structures, left_out_std(known, local.design, structures, n_threads=n_threads), species
    )
    held_out = _of_species(unseen, [_std(local, a, n_threads) for a in unseen], species)
    is_enough = np.array([len(stds) >= ENOUGH_ATOMS for stds in held_out])
    of_few = min(QUANTILE, 1.0 - ODD_STRUCTURES / len(structures))
    of_data = np.array(
        [
            np.quantile(held, QUANTILE) if enough else np.quantile([*left, *held], of_few)
            for left, held, enough in zip(left_out, held_out, is_enough, strict=True)
        ]
    )
    prior_std = typical_prior_std(local, species, structures)
    amplitude = _amplitude(factor)
    limits = np.empty(len(species))
    notes = []
    for z, number in enumerate(species):
        if prior_std[z] == 0.0:
            limits[z] = np.inf
            note = "outside the net, as no term has energies of single atoms"
        else:
            quantile, how = of_few, "their structures left out in turn"
            if is_enough[z]:
                quantile, how = QUANTILE, "held out"
            margin = margin_of(len(held_out[z])) if is_enough[z] else 1.0
            limits[z], note = _known(float(of_data[z]), float(prior_std[z]), margin)
            note = f"{100 * quantile:.3g} % of its atoms, {how}, {note}"
            few = LARGEST_OF_FEW / amplitude
            are_few = not is_enough[z] and len(structures) < ENOUGH_STRUCTURES
            if are_few and limits[z] > few:
                own = _of_species(
                    structures, [_std(local, a, n_threads) for a in structures], [number]
                )
                limits[z] = min(limits[z], max(few, float(own[0].max(initial=0.0))))
                note += f"; these are few, and differ: {limits[z]:.3g} eV counts"
        notes.append(f"{chemical_symbols[number]}: {note}")
    width = RELATIVE_WIDTH * limits
    average, largest = _local_energies(local, structures, n_threads)
    # above all local energies of the data, and what is possible beyond them
    contact = largest + KAPPA * prior_std
    notes.append(f"stds beyond the data count {amplitude:.2g} times, as the weights found say")
    return SafetyNet(
        limits,
        width,
        average,
        contact,
        dict(d_min),
        of_data,
        prior_std,
        amplitude,
        "; ".join(notes),
    )


def _amplitude(factor: TriangularFactor) -> float:
    return max(1.0, prior_amplitude(factor))


def _std(local: LocalModel, atoms: Atoms, n_threads: int) -> FloatArray:
    return gate_std(local, System.of([atoms], local.r_cut), n_threads=n_threads)


def _of_species(
    structures: Sequence[Atoms], stds: Sequence[FloatArray], species: Sequence[int]
) -> list[FloatArray]:
    """Standard deviations of all atoms of each species."""
    numbers = np.concatenate([np.empty(0, dtype=int), *(atoms.numbers for atoms in structures)])
    values = np.concatenate([np.empty(0), *stds])
    return [values[numbers == z] for z in species]


def _local_energies(
    local: LocalModel, structures: Sequence[Atoms], n_threads: int
) -> tuple[FloatArray, FloatArray]:
    """Average and largest local energy of each species in structures [eV].

    Minus infinity for species that the structures do not hold.
    """
    species = local.species
    total, count = np.zeros(len(species)), np.zeros(len(species))
    largest = np.full(len(species), -np.inf)
    for atoms in structures:
        system = System.of([atoms], local.r_cut)
        found = local.evaluate(system, gradient=False, n_threads=n_threads)
        z_index = system.z_index(species)
        np.maximum.at(largest, z_index, found.energies)
        if len(atoms) > 1:  # free atoms say nothing of what binds
            np.add.at(total, z_index, found.energies)
            np.add.at(count, z_index, 1.0)
    average = np.divide(total, count, out=largest.copy(), where=count > 0)
    return average, largest


def margin_of(n_atoms: int) -> float:
    """How much further than the quantile of so many atoms others of the same kind may reach."""
    return float(MARGIN ** max(1.0, np.log10(MANY_ATOMS / n_atoms)))


def _known(std_of_data: float, prior_std: float, margin: float) -> tuple[float, str]:
    """Up to what local std environments of a species count as known, and why [eV]."""
    known = max(margin * std_of_data, SMALLEST_SHARE_OF_PRIOR * prior_std)
    note = f"have a local std below {std_of_data:.3g} eV"
    limit = LARGEST_SHARE_OF_PRIOR * prior_std
    if known <= limit:
        return known, note
    return limit, (
        f"{note}; at most {LARGEST_SHARE_OF_PRIOR:g} x the prior std of {prior_std:.3g} eV counts"
    )


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
