"""Assembling a baseline, and the proof that it pushes atoms apart at short range.

A bare dispersion or two unlike charges beat any wall at some distance. So every pair
of species is scanned, from 0.2 Å to where the data begin, and small crystals of the
data are compressed. Where the sum of all terms pulls, the wall is strengthened, then
moved out; where that does not help the baseline is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.baseline.reference import BaselineTerm, Explained, Reference, fit_terms
from kernelpot.baseline.wall import WALL_OUTER, Wall
from kernelpot.common.types import FloatArray, Pair
from kernelpot.data.dataset import Dataset
from kernelpot.data.distances import contact_distances
from kernelpot.data.system import Contribution, System

# Shortest distance looked at [Å], and what a pair must cost there at least [eV].
SHORTEST = 0.2
LEAST_COST = 1.0
N_POINTS = 500
# Rounding: slopes [eV/Å] and differences of energies [eV] below this pull nobody.
ROUNDING = 1e-9
# What a wall is multiplied by, and then how far it is moved out, until nothing pulls.
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
REACHES = (1.0, 1.05, 1.1, 1.2, 1.3)
# Crystals that are compressed: so many, of at most so many atoms, down to this share of
# the contact distances in so many steps.
MAX_CRYSTALS = 4
MAX_CRYSTAL_ATOMS = 16
COMPRESSED = 0.3
N_COMPRESSIONS = 16


def pair_energy(
    terms: Sequence[BaselineTerm], r: FloatArray, pair: Pair
) -> tuple[FloatArray, FloatArray]:
    """Energy of an isolated pair under all terms, and its derivative.

    Parameters
    ----------
    terms : sequence of BaselineTerm
    r : ndarray of shape (n,)
        Distances [Å].
    pair : (Z, Z')

    Returns
    -------
    energy, derivative : ndarray of shape (n,)
        [eV] and [eV/Å].
    """
    energy, slope = np.zeros(len(r)), np.zeros(len(r))
    for term in terms:
        added, d_added = term.pair_energy(r, *pair)
        energy += added
        slope += d_added
    return energy, slope


def pull(terms: Sequence[BaselineTerm], pair: Pair, contact: float) -> str | None:
    """Where a pair attracts below the distance at which the data begin.

    Parameters
    ----------
    terms : sequence of BaselineTerm
    pair : (Z, Z')
    contact : float
        Closest approach in the data [Å].

    Returns
    -------
    str or None
        What is wrong; None if the energy falls with distance throughout.
    """
    r = np.linspace(SHORTEST, WALL_OUTER * contact, N_POINTS)
    energy, slope = pair_energy(terms, r, pair)
    name = f"{chemical_symbols[pair[0]]}-{chemical_symbols[pair[1]]}"
    wrong = np.flatnonzero(~(slope <= ROUNDING))
    if len(wrong):
        at = r[wrong]
        return f"{name} attracts between {at[0]:.2f} and {at[-1]:.2f} Å"
    if not (np.diff(energy) <= ROUNDING).all() or energy[0] - energy[-1] < LEAST_COST:
        return f"{name} does not repel below {r[-1]:.2f} Å"
    return None


def crystals(data: Dataset) -> list[Atoms]:
    """A few small crystals of the data, of different composition where there are."""
    found: dict[tuple[str, int], Atoms] = {}
    for frame in sorted(data, key=len):
        if np.all(frame.atoms.pbc) and len(frame) <= MAX_CRYSTAL_ATOMS:
            found.setdefault((frame.atoms.get_chemical_formula(), len(frame)), frame.atoms)
    return list(found.values())[:MAX_CRYSTALS]


def compression(
    terms: Sequence[BaselineTerm],
    atoms: Atoms,
    contact: Mapping[Pair, float],
    shares: FloatArray,
) -> FloatArray:
    """Energy of a uniformly compressed crystal.

    Parameters
    ----------
    terms : sequence of BaselineTerm
    atoms : ase.Atoms
    contact : mapping of (Z, Z') to float
        Closest approach of each pair in the data [Å].
    shares : ndarray of shape (n_shares,)
        Closest distances, in units of the contact distance of the pair.

    Returns
    -------
    ndarray of shape (n_shares,)
        [eV].
    """
    reach = 2.0 * max(contact.values())
    nearest = np.inf
    while not np.isfinite(nearest):
        system = System.of([atoms], reach)
        z1 = system.numbers[system.pairs.centers]
        z2 = system.numbers[system.pairs.neighbors]
        limit = [
            contact[min(a, b), max(a, b)] for a, b in zip(z1.tolist(), z2.tolist(), strict=True)
        ]
        nearest = float((system.distances / limit).min()) if limit else np.inf
        reach *= 2.0
    r_cut = max(term.r_cut for term in terms)
    energies = []
    for share in shares:
        squeezed = atoms.copy()
        squeezed.set_cell(atoms.cell * (share / nearest), scale_atoms=True)
        system = System.of([squeezed], r_cut)
        result = Contribution.zero(system)
        for term in terms:
            term.evaluate(system, result)
        energies.append(float(result.energies.sum()))
    return np.array(energies)


def collapse(
    terms: Sequence[BaselineTerm], data: Dataset, contact: Mapping[Pair, float]
) -> str | None:
    """What is wrong with compressed crystals; None if compression always costs."""
    shares = np.linspace(WALL_OUTER, COMPRESSED, N_COMPRESSIONS)
    for atoms in crystals(data):
        energy = compression(terms, atoms, contact, shares)
        if not (np.diff(energy) > 0).all():
            return f"a compressed crystal of {atoms.get_chemical_formula()} gains energy"
    return None


def assemble(
    terms: Sequence[BaselineTerm], data: Dataset, species: Sequence[int], e0: AtomicEnergies
) -> tuple[Explained, list[str]]:
    """Fit terms one after the other and make sure that their sum repels.

    Parameters
    ----------
    terms : sequence of BaselineTerm
    data : Dataset
    species : sequence of int
        Atomic numbers that must be served.
    e0 : AtomicEnergies

    Returns
    -------
    explained : Explained
        The reference, with what it explains of the data.
    notes : list of str
        Walls that were strengthened or moved out.

    Raises
    ------
    ValueError
        If a pair or a compressed crystal attracts at short range whatever the wall.
    """
    fitted = list(fit_terms(terms, data, species, e0).baseline)
    notes: list[str] = []
    if fitted and not all(isinstance(term, Wall) for term in fitted):
        contact = contact_distances(data, species)
        for pair in contact:
            fitted, note = _repelling(fitted, [pair], contact, data)
            notes += note
        fitted, note = _repelling(fitted, list(contact), contact, data, crystal=True)
        notes += note
    return Explained.of(Reference(e0, tuple(fitted)), data), notes


def _repelling(
    terms: list[BaselineTerm],
    pairs: Sequence[Pair],
    contact: Mapping[Pair, float],
    data: Dataset,
    *,
    crystal: bool = False,
) -> tuple[list[BaselineTerm], list[str]]:
    """Terms with the least wall that makes the pairs, or crystals of them, repel."""

    def wrong(trial: Sequence[BaselineTerm]) -> str | None:
        if crystal:
            return collapse(trial, data, contact)
        return pull(trial, pairs[0], contact[pairs[0]])

    problem = wrong(terms)
    if problem is None:
        return terms, []
    wall = next((term for term in terms if isinstance(term, Wall)), None)
    if wall is None:
        raise ValueError(
            f"the baseline is not repulsive at short range: {problem}; add kernelpot.Wall() to it"
        )
    for reach in REACHES:
        for strength in STRENGTHS:
            new = _stronger(wall, pairs, strength, reach)
            trial: list[BaselineTerm] = [new if term is wall else term for term in terms]
            if wrong(trial) is None:
                how = [f"{strength:g} times as strong"] if strength > 1 else []
                how += [f"moved out by {100 * (reach - 1):.0f} %"] if reach > 1 else []
                return trial, [f"{problem} under the baseline: wall {' and '.join(how)}"]
    raise ValueError(
        f"the baseline is not repulsive at short range: {problem}, even with a wall "
        f"{STRENGTHS[-1]:g} times as strong and moved out by {100 * (REACHES[-1] - 1):.0f} %; damp "
        "dispersion (damping='tang-toennies') and charges at short range, or give the pair a "
        "repulsive function"
    )


def _stronger(wall: Wall, pairs: Sequence[Pair], strength: float, reach: float) -> Wall:
    strengths, reaches = dict(wall.strength or {}), dict(wall.reach or {})
    for pair in pairs:
        strengths[pair] = strengths.get(pair, 1.0) * strength
        reaches[pair] = reaches.get(pair, 1.0) * reach
    return replace(wall, strength=strengths, reach=reaches)
