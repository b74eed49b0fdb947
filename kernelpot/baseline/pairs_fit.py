"""Least squares for functions of distance: labels as linear functionals of tables.

Energies, forces and virials are linear in a pair energy. With the pair energy as a
cubic Hermite table (values and slopes at knots) they are one sparse matrix times the
table, built once; a trial set of parameters then costs one table and one product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
    shortest = min((s.distances.min() for s in systems if len(s.distances)), default=np.inf)
    if not shortest < r_cut:
        raise ValueError(
            f"no two atoms of the data are closer than r_cut {r_cut:g} Å: give the parameters of "
            "the pair functions, or a longer r_cut"
        )
    knots = np.linspace(shortest, r_cut, max(8, int((r_cut - shortest) / SPACING)))
    # where e0 is least squares the zero of energy means nothing
    all_species = sorted({z for frame in frames for z in frame.atoms.numbers.tolist()})
    species = [] if known.e0.absolute else all_species
    n_constants = len(species)
    columns = {pair: 2 * len(knots) * k for k, pair in enumerate(pairs)}
    n_columns = 2 * len(knots) * len(pairs)
    stride = max(1, sum(len(f) for f in frames if f.forces is not None) // MAX_FORCE_ATOMS)

    blocks: dict[str, list[sparse.csr_matrix]] = {"energy": [], "forces": [], "virial": []}
    targets: dict[str, list[FloatArray]] = {kind: [] for kind in blocks}
    nuisance: dict[str, list[FloatArray]] = {kind: [] for kind in blocks}
    for frame, system in zip(frames, systems, strict=True):
        explained = known.labels(frame.atoms)
        z1 = system.numbers[system.pairs.centers]
        z2 = system.numbers[system.pairs.neighbors]
        low, high = np.minimum(z1, z2), np.maximum(z1, z2)
        offset = np.full(len(low), -1)
        for (a, b), column in columns.items():
            offset[(low == a) & (high == b)] = column
        mine = np.flatnonzero((offset >= 0) & (system.distances < r_cut))
        r, vectors = system.distances[mine], system.displacements[mine]
        left, value, slope = _hermite(r, knots)
        left = left + offset[mine]
        where = np.array([left, left + len(knots), left + 1, left + 1 + len(knots)])
        n_atoms = len(system.numbers)

        def row(factor: FloatArray, weights: FloatArray, where: IntArray = where) -> FloatArray:
            total = np.bincount(where.ravel(), (factor * weights).ravel(), n_columns)
            return np.asarray(total, dtype=float)

        counts = [float(np.sum(frame.atoms.numbers == z)) for z in species]
        if frame.energy is not None:
            energy_row = row(value, np.full(len(r), 0.5)) / n_atoms
            blocks["energy"].append(sparse.csr_matrix(energy_row))
            targets["energy"].append(np.array([frame.energy - explained[0]]) / n_atoms)
            nuisance["energy"].append(np.array([counts]) / n_atoms)
        if frame.virial is not None:
            rows = [
                row(slope, -0.5 * vectors[:, a] * vectors[:, b] / r) / n_atoms for a, b in VOIGT
            ]
            blocks["virial"].append(sparse.csr_matrix(np.array(rows)))
            targets["virial"].append((frame.virial - explained[2]) / n_atoms)
            nuisance["virial"].append(np.zeros((6, n_constants)))
        if frame.forces is not None:
            atoms = np.arange(0, n_atoms, stride)
            row_of = np.full(n_atoms, -1)
            row_of[atoms] = 3 * np.arange(len(atoms))
            first = row_of[system.pairs.centers[mine]]
            kept = np.flatnonzero(first >= 0)
            entries = [
                sparse.coo_matrix(
                    (
                        (slope[:, kept] * (vectors[kept, c] / r[kept])).ravel(),
                        (np.tile(first[kept] + c, 4), where[:, kept].ravel()),
                    ),
                    shape=(3 * len(atoms), n_columns),
                ).tocsr()
                for c in range(3)
            ]
            blocks["forces"].append(entries[0] + entries[1] + entries[2])
            targets["forces"].append((frame.forces - explained[1])[atoms].ravel())
            nuisance["forces"].append(np.zeros((3 * len(atoms), n_constants)))
    return _scaled(knots, blocks, targets, nuisance)


def _scaled(
    knots: FloatArray,
    blocks: Mapping[str, list[sparse.csr_matrix]],
    targets: Mapping[str, list[FloatArray]],
    nuisance: Mapping[str, list[FloatArray]],
) -> Labels:
    """Labels in units of their spread beyond constants, every kind of equal weight."""
    kinds = [kind for kind, found in blocks.items() if found]
    parts: list[tuple[sparse.csr_matrix, FloatArray, FloatArray, FloatArray]] = []
    for kind in kinds:
        y, constants = np.concatenate(targets[kind]), np.concatenate(nuisance[kind])
        level = constants @ np.linalg.lstsq(constants, y, rcond=1e-10)[0]
        # the median, so that outliers do not widen the scale by which they are judged;
        # the root mean square where most labels vanish by symmetry
        spread = float(np.median(np.abs(y - level))) / MEDIAN_OF_NORMAL
        if spread < 1e-8:
            spread = float(np.sqrt(np.mean((y - level) ** 2)))
        if spread < 1e-8:  # one frame, or perfect crystals: nothing to learn from this kind
            continue
        matrix = sparse.vstack(blocks[kind]) / spread
        parts.append((matrix, constants / spread, y / spread, np.full(len(y), 1.0 / len(y))))
    if not parts:
        raise ValueError(
            "the data do not determine pair functions (no forces, no two different energies): "
            "give their parameters"
        )
    constants = np.concatenate([part[1] for part in parts])
    u, s, _ = np.linalg.svd(constants, full_matrices=False)
    return Labels(
        knots,
        sparse.csr_matrix(sparse.vstack([part[0] for part in parts])),
        u[:, s > 1e-8 * max(s[0], 1e-300)] if s.size and s[0] > 0 else constants[:, :0],
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
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
