"""How wide a gate must be: a steep one shakes atoms faster than time steps resolve.

Between its thresholds the gate replaces the local energies by the fallback, which lies
electronvolts above them. If the variance grows quickly as an atom leaves its data, that
happens within a few hundredths of an ångström: forces are still the exact derivatives of
the energy, but no ordinary time step follows them. So single atoms are moved out of
training structures, and the gate is widened until the energy it adds is no stiffer than
what time steps are made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from ase import Atoms, units
from ase.data import atomic_masses
from ase.geometry import get_distances

from kernelpot.common.smoothstep import smoothstep
from kernelpot.common.types import FloatArray
from kernelpot.data.system import System
from kernelpot.gp.local import LocalModel
from kernelpot.safety.thresholds import CLOSED_FACTOR, SafetyNet, gate_std, typical_prior_std

# The stiffest vibration of the moved atom that a gate may add [rad/fs]: about half as fast
# again as a C-H stretch, 0.4 rad in the 0.5 fs that are usual with hydrogen.
MAX_FREQUENCY = 0.8
# Multiples of `std_low` at which the gate may be closed, but not beyond this share of the
# prior std, which no std exceeds.
FACTORS = (CLOSED_FACTOR, 4.0, 5.5, 7.5, 10.0, 14.0, 20.0, 28.0, 40.0)
LARGEST_SHARE_OF_PRIOR = 0.8
# So many atoms of each species are moved, so far, in such steps [Å].
MOVED_ATOMS, DISTANCE, STEP = 6, 1.6, 0.08
# The fastest quarter of the paths of a species does not count: some lead into the core of
# another atom, where no gate is wide enough.
QUANTILE = 0.75


def widened(
    net: SafetyNet,
    local: LocalModel,
    species: Sequence[int],
    structures: Sequence[Atoms],
    *,
    n_threads: int = 1,
) -> SafetyNet:
    """Return the net with gates wide enough for molecular dynamics.

    Parameters
    ----------
    net : SafetyNet
    local : LocalModel
    species : sequence of int
        Atomic numbers.
    structures : sequence of ase.Atoms
        Training structures, in canonical order.
    n_threads : int

    Returns
    -------
    SafetyNet
        With the smallest `closed_factor`, one for all species, that keeps the frequencies
        of moved atoms below `MAX_FREQUENCY`; the best one if none does.
    """
    gated = np.isfinite(net.std_low)
    ways = [
        _ways_out(net, local, species, structures, z, n_threads)
        for z, has_gate in zip(species, gated, strict=True)
        if has_gate
    ]
    if not any(ways):
        return net
    prior_std = typical_prior_std(local, species, structures)
    limit = np.maximum(LARGEST_SHARE_OF_PRIOR * prior_std / net.std_low, CLOSED_FACTOR)
    fastest, chosen = np.inf, net.closed_factor
    for factor in FACTORS:
        tried = np.minimum(factor, limit)
        found = max(
            np.quantile(
                [_frequency(net.std_low, tried, path) for path in paths], QUANTILE, method="lower"
            )
            for paths in ways
            if paths
        )
        if found < fastest:
            fastest, chosen = found, tried
        if found <= MAX_FREQUENCY:
            break
    return replace(net, closed_factor=chosen)


@dataclass(frozen=True)
class _Path:
    """An atom's way out of its data, step by step.

    Attributes
    ----------
    mass : float
        Of the atom [amu].
    z_index : ndarray of shape (n_atoms,)
        Species index of all atoms.
    heights : ndarray of shape (n_atoms,)
        By how much the fallback lies above their local energies [eV].
    stds : ndarray of shape (n_steps, n_atoms)
        Their local std [eV].
    """

    mass: float
    z_index: npt.NDArray[np.int64]
    heights: FloatArray
    stds: FloatArray


def _frequency(std_low: FloatArray, factor: FloatArray, path: _Path) -> float:
    """Fastest vibration that the gate adds along a path [rad/fs]."""
    low = std_low[path.z_index] ** 2
    high = (factor[path.z_index] * std_low[path.z_index]) ** 2
    closed, _ = smoothstep((path.stds**2 - low) / (high - low))
    added = closed @ path.heights
    stiffness = np.abs(np.diff(added, 2)).max(initial=0.0) / STEP**2
    return float(np.sqrt(stiffness / path.mass) * units.fs)


def _ways_out(
    net: SafetyNet,
    local: LocalModel,
    species: Sequence[int],
    structures: Sequence[Atoms],
    number: int,
    n_threads: int,
) -> list[_Path]:
    """Paths of some atoms of a species."""
    rng = np.random.default_rng(number)
    holders = [s for s in structures if len(s) > 1 and number in s.numbers]
    paths = []
    for k in np.linspace(0, len(holders) - 1, min(MOVED_ATOMS, len(holders))).astype(int):
        atoms = holders[k].copy()
        atoms.calc = None
        atom = int(rng.choice(np.flatnonzero(atoms.numbers == number)))
        system = System.of([atoms], local.r_cut)
        energies = local.evaluate(system, gradient=False, n_threads=n_threads).energies
        z_index = system.z_index(species)
        direction = _away_from_nearest(atoms, atom)
        stds = []
        for _ in range(round(DISTANCE / STEP)):
            system = System.of([atoms], local.r_cut)
            stds.append(gate_std(local, system, n_threads=n_threads))
            atoms.positions[atom] += STEP * direction
            if _collides(net, atoms, atom):
                break
        heights = np.maximum(net.fallback[z_index] - energies, 0.0)
        paths.append(_Path(float(atomic_masses[number]), z_index, heights, np.array(stds)))
    return paths


def _vectors(atoms: Atoms, atom: int) -> tuple[FloatArray, FloatArray]:
    vectors, distances = get_distances(
        atoms.positions[[atom]], np.delete(atoms.positions, atom, 0), atoms.cell, atoms.pbc
    )
    return vectors[0], distances[0]


def _away_from_nearest(atoms: Atoms, atom: int) -> FloatArray:
    """Unit vector from the nearest other atom."""
    vectors, distances = _vectors(atoms, atom)
    nearest = int(np.argmin(distances))
    return np.asarray(-vectors[nearest] / distances[nearest])


def _collides(net: SafetyNet, atoms: Atoms, atom: int) -> bool:
    """Whether an atom is nearer to another than atoms of the training data are."""
    number = int(atoms.numbers[atom])
    others = np.delete(atoms.numbers, atom)
    d_min = [net.d_min.get((min(number, z), max(number, z)), 0.0) for z in others.tolist()]
    return bool(np.any(_vectors(atoms, atom)[1] < d_min))
