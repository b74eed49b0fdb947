"""Over what the net sets in: a steep onset shakes atoms faster than time steps resolve.

Beyond what is known the energy grows with the local standard deviation. If that rises
quickly as an atom leaves its data, so does the energy, within a few hundredths of an
ångström: forces are still its exact derivatives, but no ordinary time step follows them. So
single atoms are moved out of training structures, and the onset is so wide that what the
penalty of an atom adds to their force constants is no more than that of a stiff bond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.geometry import get_distances

from kernelpot.common.parallel import map_in_order
from kernelpot.common.types import FloatArray
from kernelpot.data.system import System
from kernelpot.gp.local import LocalModel
from kernelpot.safety.thresholds import KAPPA, SafetyNet, gate_std

# Force constant of a stiff bond [eV/Å^2] (O-H 48, C=O 75, N2 143), which time steps resolve.
STIFFNESS = 80.0
# The largest curvature of g(x) = x^3 / (x + w)^2 times w; at x = w / 3.
PEAK_CURVATURE = 81.0 / 128.0
# Standard deviations that are near the onset, in multiples of what counts as known.
NEAR_ONSET = (0.5, 2.0)
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
        With widths not smaller than before.
    """
    ways = [
        _ways_out(net, local, species, structures, z, n_threads)
        for z, known in zip(species, net.std_known, strict=True)
        if np.isfinite(known)
    ]
    width = net.width.copy()
    for z in np.flatnonzero(np.isfinite(net.std_known)).tolist():
        slopes = [
            np.quantile([_slope(net, z, path) for path in paths], QUANTILE, method="lower")
            for paths in ways
            if paths
        ]
        curvature = KAPPA * net.amplitude * PEAK_CURVATURE * max(slopes, default=0.0) ** 2
        width[z] = max(width[z], curvature / STIFFNESS)
    return replace(net, width=width)


@dataclass(frozen=True)
class _Path:
    """An atom's way out of its data, step by step.

    Attributes
    ----------
    z_index : ndarray of shape (n_atoms,)
        Species index of all atoms.
    stds : ndarray of shape (n_steps, n_atoms)
        Their local std [eV].
    """

    z_index: npt.NDArray[np.int64]
    stds: FloatArray


def _slope(net: SafetyNet, z: int, path: _Path) -> float:
    """Fastest growth of the std of an atom of a species near the onset [eV/Å]."""
    stds = path.stds[:, path.z_index == z]
    low, high = (factor * net.std_known[z] for factor in NEAR_ONSET)
    middle = 0.5 * (stds[1:] + stds[:-1])
    slopes = np.abs(np.diff(stds, axis=0))[(middle > low) & (middle < high)] / STEP
    return float(slopes.max(initial=0.0))


def _ways_out(
    net: SafetyNet,
    local: LocalModel,
    species: Sequence[int],
    structures: Sequence[Atoms],
    number: int,
    n_threads: int,
) -> list[_Path]:
    """Paths of some atoms of a species, each in a thread."""
    rng = np.random.default_rng(number)
    holders = [s for s in structures if len(s) > 1 and number in s.numbers]
    size = max((len(atoms) for atoms in holders), default=1)
    n_paths = min(int(np.clip(ATOMS // size, MIN_MOVED_ATOMS, MOVED_ATOMS)), len(holders))
    moved = []
    for k in np.linspace(0, len(holders) - 1, n_paths).astype(int):
        atoms = holders[k].copy()
        atoms.calc = None
        moved.append((atoms, int(rng.choice(np.flatnonzero(atoms.numbers == number)))))

    def way_out(start: tuple[Atoms, int]) -> _Path:
        atoms, atom = start
        direction = _away_from_nearest(atoms, atom)
        stds = []
        for _ in range(round(DISTANCE / STEP)):
            system = System.of([atoms], local.r_cut)
            stds.append(gate_std(local, system))
            atoms.positions[atom] += STEP * direction
            if _collides(net, atoms, atom):
                break
        return _Path(system.z_index(species), np.array(stds))

    return list(map_in_order(way_out, moved, min(n_threads, max(1, n_paths))))


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
