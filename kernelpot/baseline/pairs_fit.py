"""Least squares for functions of distance: labels as linear functionals of tables.

Energies, forces and virials are linear in a pair energy. With the pair energy as a
cubic Hermite table (values and slopes at knots) they are one sparse matrix times the
table, built once; a trial set of parameters then costs one table and one product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import least_squares

from kernelpot.baseline.reference import Reference
from kernelpot.common.types import FloatArray, IntArray, Pair
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.data.system import VOIGT, System

# Frames, and atoms whose forces are looked at: a handful of parameters needs no more.
MAX_FRAMES = 200
MAX_FORCE_ATOMS = 2000
# Distance of the knots of the tables [Å].
SPACING = 0.02
# Median of the absolute value of a standard normal variable.
MEDIAN_OF_NORMAL = 0.6745
# Step of a parameter's logarithm for the derivative of a table.
STEP = 1e-4


@dataclass(frozen=True)
class Labels:
    """Scaled labels as linear functionals of the tables of all pairs.

    Attributes
    ----------
    knots : ndarray of shape (n_knots,)
        Distances [Å].
    matrix : sparse matrix of shape (n_rows, n_pairs * 2 * n_knots)
        Columns pair by pair: values, then slopes.
    nuisance : ndarray of shape (n_rows, n_nuisance)
        Constants per species where e0 leave them open.
    targets : ndarray of shape (n_rows,)
        In units of the spread of their kind.
    weights : ndarray of shape (n_rows,)
        Every kind of label weighs the same.
    """

    knots: FloatArray
    matrix: sparse.csr_matrix
    nuisance: FloatArray
    targets: FloatArray
    weights: FloatArray


@dataclass(frozen=True)
class Solution:
    """Logarithms of the parameters, their covariance, and the cost.

    Attributes
    ----------
    logarithms : ndarray of shape (n,)
    covariance : ndarray of shape (n, n)
    cost : float
    explained : float
        Share of the weighted squared labels that is explained beyond constants.
    """

    logarithms: FloatArray
    covariance: FloatArray
    cost: float
    explained: float


def some_frames(data: Dataset) -> list[Frame]:
    """Evenly chosen frames of more than a free atom."""
    frames = [frame for frame in data if not frame.is_isolated_atom]
    return frames[:: -(-len(frames) // MAX_FRAMES)] if frames else []


def bond_lengths(frames: Sequence[Frame], r_cut: float) -> dict[Pair, float]:
    """Median distance to the nearest neighbor of each pair of species within reach [Å]."""
    nearest: dict[Pair, list[float]] = {}
    for frame in frames:
        system = System.of([frame.atoms], r_cut)
        i, j = system.pairs.centers, system.pairs.neighbors
        for z in np.unique(system.numbers):
            of_z = np.flatnonzero(system.numbers[j] == z)
            if not len(of_z):
                continue
            least = np.full(len(system.numbers), np.inf)
            np.minimum.at(least, i[of_z], system.distances[of_z])
            for center in np.flatnonzero(np.isfinite(least)):
                a, b = sorted((int(system.numbers[center]), int(z)))
                nearest.setdefault((a, b), []).append(float(least[center]))
    return {pair: float(np.median(found)) for pair, found in nearest.items()}


def _hermite(r: FloatArray, knots: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
    """Left knots, and weights of value and slope at either knot for V and dV/dr."""
    h = knots[1] - knots[0]
    left = np.clip(((r - knots[0]) / h).astype(np.int64), 0, len(knots) - 2)
    t = (r - knots[left]) / h
    value = np.array(
        [
            (1 + 2 * t) * (1 - t) ** 2,
            h * t * (1 - t) ** 2,
            t**2 * (3 - 2 * t),
            h * t**2 * (t - 1),
        ]
    )
    slope = np.array(
        [6 * t * (t - 1) / h, (1 - t) * (1 - 3 * t), 6 * t * (1 - t) / h, t * (3 * t - 2)]
    )
    return left, value, slope


class _Part(NamedTuple):
    """Labels of one kind of one frame; see `Labels`."""

    matrix: sparse.csr_matrix
    targets: FloatArray
    nuisance: FloatArray


@dataclass(frozen=True)
class _FramePairs:
    """Labels of a frame as functionals of the tables.

    Attributes
    ----------
    centers : ndarray of shape (n,)
        Of the pairs within reach of the tables.
    r : ndarray of shape (n,)
        [Å].
    vectors : ndarray of shape (n, 3)
        From center to neighbor [Å].
    where : ndarray of shape (4, n)
        Columns of value and slope at either knot.
    value, slope : ndarray of shape (4, n)
        Their weights for V and dV/dr.
    n_atoms, n_columns : int
    """

    centers: IntArray
    r: FloatArray
    vectors: FloatArray
    where: IntArray
    value: FloatArray
    slope: FloatArray
    n_atoms: int
    n_columns: int

    @classmethod
    def of(
        cls, system: System, pairs: Sequence[Pair], knots: FloatArray, r_cut: float
    ) -> _FramePairs:
        z1 = system.numbers[system.pairs.centers]
        z2 = system.numbers[system.pairs.neighbors]
        low, high = np.minimum(z1, z2), np.maximum(z1, z2)
        offset = np.full(len(low), -1)
        for k, (a, b) in enumerate(pairs):
            offset[(low == a) & (high == b)] = 2 * len(knots) * k
        mine = np.flatnonzero((offset >= 0) & (system.distances < r_cut))
        left, value, slope = _hermite(system.distances[mine], knots)
        left = left + offset[mine]
        return cls(
            system.pairs.centers[mine],
            system.distances[mine],
            system.displacements[mine],
            np.array([left, left + len(knots), left + 1, left + 1 + len(knots)]),
            value,
            slope,
            len(system.numbers),
            2 * len(knots) * len(pairs),
        )

    def _sum(self, factor: FloatArray, weights: FloatArray) -> FloatArray:
        total = np.bincount(self.where.ravel(), (factor * weights).ravel(), self.n_columns)
        return np.asarray(total, dtype=float)

    def energy(self) -> sparse.csr_matrix:
        """Energy per atom, one row."""
        return sparse.csr_matrix(self._sum(self.value, np.full(len(self.r), 0.5)) / self.n_atoms)

    def virial(self) -> sparse.csr_matrix:
        """Virial per atom, six rows."""
        rows = [
            self._sum(self.slope, -0.5 * self.vectors[:, a] * self.vectors[:, b] / self.r)
            / self.n_atoms
            for a, b in VOIGT
        ]
        return sparse.csr_matrix(np.array(rows))

    def forces(self, atoms: IntArray) -> sparse.csr_matrix:
        """Forces on some atoms, three rows each."""
        row_of = np.full(self.n_atoms, -1)
        row_of[atoms] = 3 * np.arange(len(atoms))
        first = row_of[self.centers]
        kept = np.flatnonzero(first >= 0)
        x, y, z = (
            sparse.coo_matrix(
                (
                    (self.slope[:, kept] * (self.vectors[kept, c] / self.r[kept])).ravel(),
                    (np.tile(first[kept] + c, 4), self.where[:, kept].ravel()),
                ),
                shape=(3 * len(atoms), self.n_columns),
            ).tocsr()
            for c in range(3)
        )
        return x + y + z


def labels(
    frames: Sequence[Frame], known: Reference, pairs: Sequence[Pair], r_cut: float
) -> Labels:
    """Write the labels of frames as functionals of the tables of `pairs`.

    Parameters
    ----------
    frames : sequence of Frame
    known : Reference
        What is explained already.
    pairs : sequence of (Z, Z')
    r_cut : float
        Reach of the tables [Å].

    Raises
    ------
    ValueError
        If no frame has a pair within reach.
    """
    systems = [System.of([frame.atoms], r_cut) for frame in frames]
    knots = _knots(systems, r_cut)
    # where e0 is least squares the zero of energy means nothing
    all_species = sorted({z for frame in frames for z in frame.atoms.numbers.tolist()})
    species = [] if known.e0.absolute else all_species
    stride = max(1, sum(len(f) for f in frames if f.forces is not None) // MAX_FORCE_ATOMS)
    parts: dict[str, list[_Part]] = {"energy": [], "forces": [], "virial": []}
    for frame, system in zip(frames, systems, strict=True):
        energy, forces, virial = known.labels(frame.atoms)
        found = _FramePairs.of(system, pairs, knots, r_cut)
        n_atoms = len(frame)
        if frame.energy is not None:
            counts = [float(np.sum(frame.atoms.numbers == z)) for z in species]
            target = np.array([frame.energy - energy]) / n_atoms
            parts["energy"].append(_Part(found.energy(), target, np.array([counts]) / n_atoms))
        if frame.virial is not None:
            target = (frame.virial - virial) / n_atoms
            parts["virial"].append(_Part(found.virial(), target, np.zeros((6, len(species)))))
        if frame.forces is not None:
            atoms = np.arange(0, n_atoms, stride)
            target = (frame.forces - forces)[atoms].ravel()
            nothing = np.zeros((len(target), len(species)))
            parts["forces"].append(_Part(found.forces(atoms), target, nothing))
    return _scaled(knots, parts)


def _knots(systems: Sequence[System], r_cut: float) -> FloatArray:
    """Distances from the shortest of the data to `r_cut` [Å]."""
    shortest = min((s.distances.min() for s in systems if len(s.distances)), default=np.inf)
    if not shortest < r_cut:
        raise ValueError(
            f"no two atoms of the data are closer than r_cut {r_cut:g} Å: give the parameters of "
            "the pair functions, or a longer r_cut"
        )
    return np.linspace(shortest, r_cut, max(8, int((r_cut - shortest) / SPACING)))


def _scaled(knots: FloatArray, parts: Mapping[str, Sequence[_Part]]) -> Labels:
    """Labels in units of their spread beyond constants, every kind of equal weight."""
    scaled: list[tuple[_Part, FloatArray]] = []
    for found in parts.values():
        if not found:
            continue
        y = np.concatenate([part.targets for part in found])
        constants = np.concatenate([part.nuisance for part in found])
        level = constants @ np.linalg.lstsq(constants, y, rcond=1e-10)[0]
        # the median, so that outliers do not widen the scale by which they are judged;
        # the root mean square where most labels vanish by symmetry
        spread = float(np.median(np.abs(y - level))) / MEDIAN_OF_NORMAL
        if spread < 1e-8:
            spread = float(np.sqrt(np.mean((y - level) ** 2)))
        if spread < 1e-8:  # one frame, or perfect crystals: nothing to learn from this kind
            continue
        matrix = sparse.vstack([part.matrix for part in found]) / spread
        whole = _Part(matrix, y / spread, constants / spread)
        scaled.append((whole, np.full(len(y), 1.0 / len(y))))
    if not scaled:
        raise ValueError(
            "the data do not determine pair functions (no forces, no two different energies): "
            "give their parameters"
        )
    constants = np.concatenate([part.nuisance for part, _ in scaled])
    u, s, _ = np.linalg.svd(constants, full_matrices=False)
    return Labels(
        knots,
        sparse.csr_matrix(sparse.vstack([part.matrix for part, _ in scaled])),
        u[:, s > 1e-8 * max(s[0], 1e-300)] if s.size and s[0] > 0 else constants[:, :0],
        np.concatenate([part.targets for part, _ in scaled]),
        np.concatenate([weights for _, weights in scaled]),
    )


def solve(
    data: Labels,
    table: Callable[[FloatArray], FloatArray],
    start: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
) -> Solution:
    """Robust least squares (soft L1) for the logarithms of positive parameters.

    Parameters
    ----------
    data : Labels
    table : callable
        ``table(logarithms) -> values and slopes`` of all pairs at the knots.
    start, lower, upper : ndarray of shape (n,)
        Logarithms of the first guess and of the bounds.

    Returns
    -------
    Solution
    """
    n, n_rows = len(start), len(data.targets)

    def residuals(x: FloatArray) -> FloatArray:
        explained = data.matrix @ table(x[:n]) + data.nuisance @ x[n:]
        return np.asarray(explained - data.targets)

    def jacobian(x: FloatArray) -> FloatArray:
        result = np.empty((n_rows, len(x)))
        for k in range(n):
            step = np.zeros(n)
            step[k] = STEP
            change = table(x[:n] + step) - table(x[:n] - step)
            result[:, k] = data.matrix @ (change / (2.0 * STEP))
        result[:, n:] = data.nuisance
        return result

    def soft_l1(z: FloatArray) -> FloatArray:
        root = np.sqrt(1.0 + z)
        return data.weights * np.array([2.0 * (root - 1.0), 1.0 / root, -0.5 / root**3])

    free = data.nuisance.shape[1]
    constants = data.nuisance.T @ data.targets
    found = least_squares(
        residuals,
        np.concatenate([np.clip(start, lower + 1e-9, upper - 1e-9), constants]),
        jacobian,
        (
            np.concatenate([lower, np.full(free, -np.inf)]),
            np.concatenate([upper, np.full(free, np.inf)]),
        ),
        loss=soft_l1,
        x_scale="jac",
        max_nfev=100,
    )
    J = jacobian(found.x)
    weight = data.weights / np.sqrt(1.0 + residuals(found.x) ** 2)
    curvature = (J.T * weight) @ J
    # residual variance per degree of freedom, as for an ordinary fit with these weights
    freedom = max(1, n_rows - len(found.x))
    scale = float(weight @ residuals(found.x) ** 2) / freedom
    covariance = np.asarray(np.linalg.pinv(curvature, rcond=1e-12, hermitian=True) * scale)
    before = data.targets - data.nuisance @ constants
    return Solution(
        found.x[:n],
        covariance[:n, :n],
        float(found.cost),
        1.0 - float(data.weights @ residuals(found.x) ** 2) / float(data.weights @ before**2),
    )
