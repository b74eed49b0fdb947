"""The default baseline: a wall, and bonds between pairs where the data bear them out.

With a wall alone a solid whose atoms the model does not know would be an ideal gas:
stable, but no physical answer. A Morse function for every pair of species, fitted to
the data, holds it together and repels at short range. It is kept unless a small model
predicts frames left out worse on top of it than without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
from ase.data import chemical_symbols
from scipy.linalg import lstsq

from kernelpot.baseline import pairs_fit
from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.baseline.pair_functions import Morse
from kernelpot.baseline.pairs import PairBaseline
from kernelpot.baseline.reference import Explained
from kernelpot.baseline.repulsion import assemble
from kernelpot.baseline.wall import Wall
from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import KINDS, BoolArray, FloatArray
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.fit.defaults import length_scale
from kernelpot.fit.settings import Settings
from kernelpot.fit.state import State
from kernelpot.gp.labels import Noise, observe
from kernelpot.terms.base import Term
from kernelpot.terms.polynomial_soap import PolynomialSOAP

# Reach of the pair functions in units of `defaults.length_scale`: that of the shorter
# default kernel, about 1.75 bond lengths of a solid.
REACH = 1.75
# How much worse frames left out may be predicted: energies and forces together, either.
TOLERANCE = 1.01
TOLERANCE_OF_ONE = 1.05
# The comparison: structures, their atoms, sparse points, folds.
MAX_FRAMES = 90
MAX_ATOMS = 1200
N_SPARSE = 200
FOLDS = 5
MINIMUM_FRAMES = 2 * FOLDS


@dataclass(frozen=True)
class LeftOut:
    """Errors on frames left out.

    Attributes
    ----------
    energy : float or None
        Mean absolute error [eV/atom].
    forces : float or None
        Mean absolute error of a component [eV/Å].
    """

    energy: float | None
    forces: float | None

    def ratios(self, other: LeftOut) -> FloatArray:
        """Errors over those of another model, of the kinds that both have."""
        both = [(self.energy, other.energy), (self.forces, other.forces)]
        found = [a / b for a, b in both if a is not None and b is not None and b > 0]
        return np.array(found or [1.0])

    def __str__(self) -> str:
        """Return the errors with units."""
        words = [] if self.energy is None else [f"energies {1e3 * self.energy:.2f} meV/atom"]
        words += [] if self.forces is None else [f"forces {self.forces:.4f} eV/Å"]
        return ", ".join(words)


def choose_baseline(
    data: Dataset,
    species: tuple[int, ...],
    e0: AtomicEnergies,
    terms: Sequence[Term],
    noise: Noise,
    *,
    seed: int = 0,
    n_threads: int = 1,
) -> tuple[Explained, list[str]]:
    """Choose between a wall and a wall with fitted pair functions.

    Parameters
    ----------
    data : Dataset
        Training structures in canonical order.
    species : tuple of int
    e0 : AtomicEnergies
    terms : sequence of Term
        Kernels of the model; the comparison is made with the longest-ranged.
    noise : Noise
    seed, n_threads : int

    Returns
    -------
    explained : Explained
        What was chosen, and what it explains of the data.
    notes : list of str
        What was compared, and why it was chosen.
    """
    longest = max(terms, key=lambda term: term.r_cut)
    frames = some_frames(data)
    wall, wall_notes = assemble([Wall()], data, species, e0)
    if len(frames) < MINIMUM_FRAMES:
        return wall, [
            f"baseline: the wall alone; {len(frames)} structures are too few to see whether pair "
            "functions help"
        ]
    try:
        bonds = pair_functions(data, species, longest.r_cut)
        both, notes = assemble([Wall(), bonds], data, species, e0)
        without, with_bonds = left_out_errors(
            frames, species, [wall, both], longest, noise, seed=seed, n_threads=n_threads
        )
    except ValueError as error:
        return wall, [f"baseline: the wall alone; no pair functions: {error}"]
    ratios = with_bonds.ratios(without)
    mean = float(np.exp(np.mean(np.log(ratios))))
    compared = (
        f"{FOLDS}-fold on {len(frames)} training structures: {with_bonds} against {without} with "
        "the wall alone"
    )
    if mean <= TOLERANCE and ratios.max() <= TOLERANCE_OF_ONE:
        notes = [f"baseline: wall and a Morse function per pair ({compared})", *notes]
        unseen = [
            f"{chemical_symbols[a]}-{chemical_symbols[b]}"
            for (a, b), function in bonds.pairs.items()
            if function is None
        ]
        if unseen:
            notes.append(
                f"baseline: {', '.join(unseen)} have the wall alone; the data have none closer "
                f"than {bonds.r_cut:.2f} Å"
            )
        return both, notes
    return wall, [
        f"baseline: the wall alone; with a Morse function per pair errors are up to "
        f"{100 * (ratios.max() - 1):.1f} % larger ({compared})",
        *wall_notes,
    ]


def pair_functions(data: Dataset, species: Sequence[int], r_cut: float) -> PairBaseline:
    """Morse functions to be fitted, of every pair that the data have.

    Parameters
    ----------
    data : Dataset
    species : sequence of int
    r_cut : float
        Longest cutoff of the kernels [Å].

    Returns
    -------
    PairBaseline

    Raises
    ------
    ValueError
        If the data have no pair within reach.
    """
    reach = round(min(r_cut, REACH * length_scale(data)[0]), 3)
    bonds = pairs_fit.bond_lengths(pairs_fit.some_frames(data), reach)
    pairs = combinations_with_replacement(sorted(species), 2)
    chosen = {pair: Morse() if pair in bonds else None for pair in pairs}
    if not bonds:
        raise ValueError(f"the data have no two atoms closer than {reach:.2f} Å")
    return PairBaseline(chosen, r_cut=reach)


def some_frames(data: Dataset) -> list[Frame]:
    """Structures for the comparison: in canonical order, within the limits of its cost."""
    chosen: list[Frame] = []
    n_atoms = 0
    for frame in data:
        if frame.is_isolated_atom or (frame.energy is None and frame.forces is None):
            continue
        if len(chosen) == MAX_FRAMES:
            break
        if n_atoms + len(frame) <= MAX_ATOMS:
            chosen.append(frame)
            n_atoms += len(frame)
    return chosen


def left_out_errors(
    frames: Sequence[Frame],
    species: tuple[int, ...],
    baselines: Sequence[Explained],
    term: Term,
    noise: Noise,
    *,
    seed: int = 0,
    n_threads: int = 1,
) -> list[LeftOut]:
    """Errors of a small model on frames left out, on top of several baselines.

    Every fifth frame is left out in turn. The rows of the kernel are common to all
    baselines and folds.

    Parameters
    ----------
    frames : sequence of Frame
    species : tuple of int
        Of all the data.
    baselines : sequence of Explained
    term : Term
        Kernel; its number of sparse points is replaced by a small one, and a polynomial by
        the kernel of its features: no directions are learned.
    noise : Noise
    seed, n_threads : int

    Returns
    -------
    list of LeftOut
        One per baseline.
    """
    settings = Settings(seed=seed)
    if isinstance(term, PolynomialSOAP):
        term = term.soap
    design = State.chosen(
        [term.changed(n_sparse=None)],
        species,
        frames,
        settings=settings,
        usual=[N_SPARSE],
        n_threads=n_threads,
    ).design
    # stresses follow from energies, and the noise of all frames of a kind is the same
    plain = replace(noise, config_types={})
    left = [
        [replace(f, virial=None, config_type="default", sigmas={}) for f in e.remainders(frames)]
        for e in baselines
    ]

    def build(versions: Sequence[Frame]) -> tuple[FloatArray, FloatArray, BoolArray, FloatArray]:
        frame, *others = versions
        rows = design.rows([frame], plain)
        sigma = rows.noise(plain.sigma)
        phi = rows.phi[:, :-1] / sigma[:, None]  # the virial offset plays no part
        y = [rows.y, *(observe([f], plain).y / rows.unit for f in others)]
        of_energy = rows.kind == KINDS.index("energy")
        size = np.where(of_energy, rows.unit / len(frame), rows.unit) * sigma
        return phi, np.stack(y, axis=1) / sigma[:, None], of_energy, size

    with single_blas_thread():
        built = list(map_in_order(build, zip(*left, strict=True), n_threads))
        features, targets, energies, size = map(np.concatenate, zip(*built, strict=True))
        folds = np.repeat(np.arange(len(built)) % FOLDS, [len(phi) for phi, *_ in built])
        errors = np.empty_like(targets)
        prior = np.eye(features.shape[1])
        for k in range(FOLDS):
            out = folds == k
            stacked = np.concatenate([features[~out], prior])
            right = np.concatenate([targets[~out], np.zeros((len(prior), len(baselines)))])
            errors[out] = targets[out] - features[out] @ lstsq(stacked, right)[0]
    absolute = np.abs(errors) * size[:, None]

    def mean(rows: BoolArray, column: int) -> float | None:
        return float(absolute[rows, column].mean()) if rows.any() else None

    return [LeftOut(mean(energies, c), mean(~energies, c)) for c in range(len(baselines))]
