r"""A small linear model of labels, to test them against each other.

Local energies are linear in smooth functions of the surroundings of an atom: sums over its
neighbors, species by species, of functions of the distance; powers of two such sums; and the
squared lengths of sums of unit vectors and of their traceless products. That is crude for a
potential and good enough to tell signs, units and single absurd labels: a model fitted to one
kind of label predicts the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.dataset import Frame
from kernelpot.data.neighbors import neighbor_list, pair_forces
from kernelpot.data.system import VOIGT

# Atoms whose neighbors are summed at a time.
_BATCH = 1000
# Functions of the distance per pair of species; with many species fewer.
_N_RADIAL, _N_RADIAL_MANY, _MANY = 10, 5, 4
_SWEEPS = 8


@dataclass(frozen=True)
class Rows:
    """What each function of the model contributes to the labels of some frames.

    Attributes
    ----------
    energy : ndarray of shape (n_frames, n_functions)
        [eV] for a coefficient of one.
    forces : ndarray of shape (n_atoms, 3, n_functions)
        [eV/Å].
    virial : ndarray of shape (n_frames, 6, n_functions)
        [eV].
    """

    energy: FloatArray
    forces: FloatArray
    virial: FloatArray


class SmallModel:
    """The functions of a small linear model.

    Parameters
    ----------
    species : sequence of int
        Atomic numbers.
    r_cut : float
        Reach [Å].
    r_min : float
        Shortest distance of the data [Å].
    """

    def __init__(self, species: Sequence[int], r_cut: float, r_min: float) -> None:
        self.species = tuple(sorted(species))
        self.r_cut = r_cut
        n = _N_RADIAL if len(self.species) <= _MANY else _N_RADIAL_MANY
        self._centers = np.linspace(0.9 * r_min, r_cut, n)
        self._width = self._centers[1] - self._centers[0]
        self._decays = np.array([1.5, 3.0]) / r_min
        self._pairs = list(combinations_with_replacement(range(len(self.species)), 2))

    @property
    def n_functions(self) -> int:
        """Number of functions."""
        return len(self._pairs) * len(self._centers) + 8 * len(self.species)

    def rows(self, frames: Sequence[Frame]) -> Iterator[tuple[list[int], Rows]]:
        """Rows of frames, in batches of some.

        Parameters
        ----------
        frames : sequence of Frame

        Yields
        ------
        indices : list of int
            Frames of the batch.
        rows : Rows
        """
        batch: list[int] = []
        size = 0
        for index, frame in enumerate(frames):
            batch.append(index)
            size += len(frame)
            if size >= _BATCH or index == len(frames) - 1:
                yield batch, self._rows([frames[k].atoms for k in batch])
                batch, size = [], 0

    def _rows(self, structures: Sequence[Atoms]) -> Rows:
        pairs = neighbor_list(structures, self.r_cut)
        sizes = [len(atoms) for atoms in structures]
        n_atoms, first = sum(sizes), np.concatenate([[0], np.cumsum(sizes)])
        frame_of = np.repeat(np.arange(len(structures)), sizes)
        vectors = pairs.displacements(np.concatenate([a.positions for a in structures]))
        r = np.linalg.norm(vectors, axis=1)
        unit = vectors / np.maximum(r, 1e-12)[:, None]
        kind = np.searchsorted(self.species, np.concatenate([a.numbers for a in structures]))
        rows = Rows(
            np.zeros((len(structures), self.n_functions)),
            np.zeros((n_atoms, 3, self.n_functions)),
            np.zeros((len(structures), 6, self.n_functions)),
        )
        smooth, falling = self._cutoff(r)
        frame_of_pair = frame_of[pairs.centers]
        column = 0

        def add(energies: FloatArray, gradient: FloatArray) -> None:
            """One function: energies of the atoms, derivative by every displacement."""
            nonlocal column
            rows.energy[:, column] = np.bincount(frame_of, energies, len(structures))
            rows.forces[:, :, column] = pair_forces(pairs, gradient)
            for k, (a, b) in enumerate(VOIGT):
                work = -0.5 * (vectors[:, a] * gradient[:, b] + vectors[:, b] * gradient[:, a])
                rows.virial[:, k, column] = np.bincount(frame_of_pair, work, len(structures))
            column += 1

        low = np.minimum(kind[pairs.centers], kind[pairs.neighbors])
        high = np.maximum(kind[pairs.centers], kind[pairs.neighbors])
        for a, b in self._pairs:
            own = (low == a) & (high == b)
            for center in self._centers:
                x = (r - center) / self._width
                bump = np.where(own, np.exp(-0.5 * x**2), 0.0)
                value = 0.5 * bump * smooth
                slope = 0.5 * bump * (falling - x / self._width * smooth)
                add(_sums(pairs.centers, value, n_atoms), slope[:, None] * unit)
        for local, gradient in self._many_body(r, unit, smooth, falling, pairs.centers, n_atoms):
            for z in range(len(self.species)):
                own_atoms = kind == z
                add(
                    np.where(own_atoms, local, 0.0),
                    np.where(own_atoms[pairs.centers, None], gradient, 0.0),
                )
        assert column == self.n_functions
        assert first[-1] == n_atoms
        return rows

    def _many_body(
        self,
        r: FloatArray,
        unit: FloatArray,
        smooth: FloatArray,
        falling: FloatArray,
        centers: IntArray,
        n_atoms: int,
    ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Energies of atoms and their derivative by displacements, eight functions."""
        inverse = 1.0 / np.maximum(r, 1e-12)[:, None]
        for decay in self._decays:
            g = np.exp(-decay * r) * smooth * np.exp(decay * self._centers[0])
            slope = np.exp(-decay * (r - self._centers[0])) * (falling - decay * smooth)
            radial = slope[:, None] * unit
            rho = _sums(centers, g, n_atoms)
            root = np.sqrt(rho + 1e-6)
            yield root, (0.5 / root)[centers, None] * radial
            yield rho**2, (2.0 * rho)[centers, None] * radial
            # sum of g u: its squared length
            a = np.stack([np.bincount(centers, g * unit[:, k], n_atoms) for k in range(3)], axis=1)
            along = np.einsum("pk,pk->p", a[centers], unit)
            across = a[centers] - along[:, None] * unit
            yield (
                np.einsum("nk,nk->n", a, a),
                2.0 * (along[:, None] * radial + (g[:, None] * inverse) * across),
            )
            # sum of g (u u - 1/3)
            b = np.zeros((n_atoms, 3, 3))
            for k in range(3):
                for m in range(3):
                    product = g * (unit[:, k] * unit[:, m] - (k == m) / 3.0)
                    b[:, k, m] = np.bincount(centers, product, n_atoms)
            bu = np.einsum("pkm,pm->pk", b[centers], unit)
            ubu = np.einsum("pk,pk->p", bu, unit)
            yield (
                np.einsum("nkm,nkm->n", b, b),
                2.0 * ubu[:, None] * radial
                + 4.0 * (g[:, None] * inverse) * (bu - ubu[:, None] * unit),
            )

    def _cutoff(self, r: FloatArray) -> tuple[FloatArray, FloatArray]:
        x = np.clip(r / self.r_cut, 0.0, 1.0)
        return (1.0 - x**2) ** 2, -4.0 * x * (1.0 - x**2) / self.r_cut


def _sums(groups: IntArray, values: FloatArray, n: int) -> FloatArray:
    """Sum of the values of each group."""
    return np.asarray(np.bincount(groups, values, n), dtype=float)


def typical(values: FloatArray) -> float:
    """Median size of what is not zero, such as by symmetry.

    Parameters
    ----------
    values : ndarray

    Returns
    -------
    float
        0 if all are.
    """
    size = np.abs(values[np.abs(values) > 1e-8])
    return float(np.median(size)) if size.size else 0.0


def robust_fit(matrix: FloatArray, target: FloatArray, prior: float = 1e-4) -> FloatArray:
    """Coefficients under which absolute residuals are small, by reweighted least squares.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_functions)
    target : ndarray of shape (n_rows,)
    prior : float
        Ridge, relative to columns of unit length.

    Returns
    -------
    ndarray of shape (n_functions,)
    """
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    weights = np.ones(len(target))
    # an absurd label must not decide the first sweep
    limit = 20.0 * typical(target) + 1e-9
    weights[np.abs(target) > limit] = 0.0
    found = np.zeros(matrix.shape[1])
    for _ in range(_SWEEPS):
        gram = scaled.T @ (weights[:, None] * scaled)
        gram[np.diag_indices(len(gram))] += prior * max(weights.mean(), 1e-12)
        found = np.linalg.solve(gram, scaled.T @ (weights * target))
        residual = target - scaled @ found
        spread = 1.4826 * typical(residual) + 1e-9
        weights = 1.0 / np.sqrt(1.0 + (residual / (2.0 * spread)) ** 2)
        weights[np.abs(residual) > 20.0 * spread] = 0.0
    return found / scale
