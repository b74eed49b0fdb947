"""Over what the penalty sets in: a steep one shakes atoms faster than time steps resolve.

Beyond what is known the energy grows with the local standard deviation. If that rises
quickly as an atom leaves its data, so does the energy, within a few hundredths of an
ångström: forces are still its exact derivatives, but no ordinary time step follows them. So
single atoms are moved out of training structures, and the onset of the penalty is widened
until the energy it adds, that of the floor included, is no stiffer than what time steps are
made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from ase import Atoms, units
from ase.data import atomic_masses
from ase.geometry import get_distances

from kernelpot.common.types import FloatArray
from kernelpot.data.system import System
from kernelpot.gp.blend import AsItIs
from kernelpot.gp.local import LocalModel
from kernelpot.safety.gate import floor, penalty
from kernelpot.safety.thresholds import RELATIVE_WIDTH, SafetyNet

# The stiffest vibration of the moved atom that the net may add [rad/fs]: that of a C-H stretch,
# which time steps resolve anyway.
MAX_FREQUENCY = 0.6
# Widths that are tried, in multiples of the std that counts as known.
WIDTHS = (RELATIVE_WIDTH, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
# So many atoms of each species are moved, fewer in large structures, so far and in such steps.
MOVED_ATOMS, MIN_MOVED_ATOMS, ATOMS = 6, 2, 400
DISTANCE, STEP = 1.2, 0.04  # [Å]
# The fastest quarter of the paths of a species does not count: some lead into the core of
# another atom, where nothing is gentle enough.
QUANTILE = 0.75


def widened(
    net: SafetyNet,
    local: LocalModel,
    species: Sequence[int],
    structures: Sequence[Atoms],
    *,
    n_threads: int = 1,
) -> SafetyNet:
    """Return the net that sets in gently enough for molecular dynamics.

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
        With the smallest `relative_width`, one for all species, that keeps the
        frequencies of moved atoms below `MAX_FREQUENCY`; the best one if none does.
    """
    limited = np.isfinite(net.std_known)
    ways = [
        _ways_out(net, local, species, structures, z, n_threads)
        for z, has_limit in zip(species, limited, strict=True)
        if has_limit
    ]
    if not any(ways):
        return net
    fastest, chosen = np.inf, RELATIVE_WIDTH
    for width in WIDTHS:
        found = max(
            np.quantile(
                [_frequency(net, width, path) for path in paths],
                QUANTILE,
                method="lower",
            )
            for paths in ways
            if paths
        )
        if found < fastest:
            fastest, chosen = found, width
        if found <= MAX_FREQUENCY:
            break
    return replace(net, relative_width=np.full(len(species), chosen))


@dataclass(frozen=True)
class _Path:
    """An atom's way out of its data, step by step.

    Attributes
    ----------
    mass : float
        Of the atom [amu].
    z_index : ndarray of shape (n_atoms,)
        Species index of all atoms.
    energies, stds : ndarray of shape (n_steps, n_atoms)
        Their local energies and std [eV].
    """

    mass: float
    z_index: npt.NDArray[np.int64]
    energies: FloatArray
    stds: FloatArray


def _frequency(net: SafetyNet, relative_width: float, path: _Path) -> float:
    """Fastest vibration that the net adds along a path [rad/fs]."""
    known = np.broadcast_to(net.std_known[path.z_index], path.stds.shape)
    width = relative_width * known
    bound = penalty(path.stds, known, width)[0]
    lift = floor(path.stds, path.energies, known, width, net.average[path.z_index])[0]
    added = (bound + lift).sum(axis=1)
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
    size = max((len(atoms) for atoms in holders), default=1)
    n_paths = min(int(np.clip(ATOMS // size, MIN_MOVED_ATOMS, MOVED_ATOMS)), len(holders))
    paths = []
    for k in np.linspace(0, len(holders) - 1, n_paths).astype(int):
        atoms = holders[k].copy()
        atoms.calc = None
        atom = int(rng.choice(np.flatnonzero(atoms.numbers == number)))
        direction = _away_from_nearest(atoms, atom)
        energies, stds = [], []
        for _ in range(round(DISTANCE / STEP)):
            system = System.of([atoms], local.r_cut)
            found = local.evaluate(system, gradient=False, blend=AsItIs(), n_threads=n_threads)
            assert found.bound is not None
            energies.append(found.energies)
            stds.append(np.sqrt(found.bound))
            atoms.positions[atom] += STEP * direction
            if _collides(net, atoms, atom):
                break
        z_index = System.of([atoms], local.r_cut).z_index(species)
        mass = float(atomic_masses[number])
        paths.append(_Path(mass, z_index, np.array(energies), np.array(stds)))
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
