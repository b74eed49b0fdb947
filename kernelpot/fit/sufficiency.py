"""Whether the data are enough for what a model is used for; if not, what would help."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols

from kernelpot.data.dataset import Frame
from kernelpot.fit.added_frames import NO_PRESSURE, SIGMA_PRESSURE, one_volume
from kernelpot.fit.problem import Problem
from kernelpot.safety.thresholds import LARGEST_SHARE_OF_PRIOR, SafetyNet

# Fewer labels of a species are too few, and forces below this are zero by symmetry [eV/Å].
MINIMUM_LABELS, ZERO_FORCE = 100, 1e-6


class FewDataWarning(UserWarning):
    """The data are too few for the model to be relied upon."""


def shortcomings(problem: Problem, net: SafetyNet) -> list[str]:
    """What the data lack, and the remedy, one sentence each.

    Parameters
    ----------
    problem : Problem
    net : SafetyNet
        Of the model fitted to them.

    Returns
    -------
    list of str
        Empty where nothing is known to be missing.
    """
    return [
        *_undetermined(problem),
        *_few_labels(problem.species, problem.dataset),
        *_one_volume(problem.dataset),
        *_little_known(problem.species, net),
    ]


def _undetermined(problem: Problem) -> list[str]:
    e0 = problem.reference.e0
    if not e0.undetermined:
        return []
    names = _symbols(e0.undetermined)
    return [
        f"the compositions of the data do not determine the energies of free atoms of {names}: "
        "energies of other compositions, fragments and surfaces with another number of atoms mean "
        f"nothing. Add isolated atoms of {names} (or give e0), or structures of other compositions"
    ]


def effective_labels(species: Sequence[int], data: Sequence[Frame]) -> dict[int, int]:
    """Labels that say something of each species: of its structures and of its atoms.

    Parameters
    ----------
    species : sequence of int
        Atomic numbers.
    data : sequence of Frame

    Returns
    -------
    dict of int to int
        Energies and six components of each virial of structures that hold it, and force
        components of its atoms that are not zero by symmetry.
    """
    counts = dict.fromkeys(species, 0)
    for frame in data:
        if len(frame) == 1:
            continue
        whole = (frame.energy is not None) + 6 * (frame.virial is not None)
        for number in set(frame.atoms.numbers.tolist()):
            counts[number] += whole
            if frame.forces is not None:
                own = frame.forces[frame.atoms.numbers == number]
                counts[number] += int(np.sum(np.abs(own) > ZERO_FORCE))
    return counts


def _few_labels(species: Sequence[int], data: Sequence[Frame]) -> list[str]:
    counts = effective_labels(species, data)
    few = {z: n for z, n in counts.items() if n < MINIMUM_LABELS}
    if not few:
        return []
    found = ", ".join(f"{n} of {chemical_symbols[z]}" for z, n in few.items())
    return [
        f"few labels: {found} (at least {MINIMUM_LABELS} of each species are wanted: an energy, "
        "six stresses of a structure, and three forces of each atom). Add structures with forces"
    ]


def _one_volume(data: Sequence[Frame]) -> list[str]:
    """Crystals of one volume without stresses: forces on atoms tell no pressure."""
    volume = one_volume(data)
    if volume is None:
        return []
    return [
        f"{NO_PRESSURE}: all cells have {volume:.3g} Å^3 per atom, and no stresses; how energy "
        "depends on the volume is extrapolated, and cells that relax or dynamics at constant "
        "pressure mean little. The pressure of the structure of lowest energy was taken as 0 +- "
        f"{SIGMA_PRESSURE:g} GPa. Add stresses, or cells of other volumes"
    ]


def _little_known(species: Sequence[int], net: SafetyNet) -> list[str]:
    share = np.divide(
        net.std_of_data, net.prior_std, out=np.zeros_like(net.prior_std), where=net.prior_std > 0
    )
    unknown = [z for z, s in zip(species, share, strict=True) if s > LARGEST_SHARE_OF_PRIOR]
    if not unknown:
        return []
    return [
        f"what is known of a structure of the data from the others is little: the local std of "
        f"{_symbols(unknown)} is up to {share.max():.2g} x that of the prior (at most "
        f"{LARGEST_SHARE_OF_PRIOR:g} is wanted). Add frames between those there are, such as "
        "snapshots of dynamics"
    ]


def _symbols(numbers: Sequence[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)
