r"""Charges of the species from energies, forces and virials.

The labels are modelled as

.. math:: y = \sum_{a \le b} q_a q_b \, A_{ab} + \sum_n c_n B_n + \sum_a \epsilon_a n_a

A: Coulomb sums of unit charges; B: short-ranged functions of each pair of species, which
stand for what the kernels will learn; the last sum, over the composition, for energies
only. Charges are restricted to those that leave every periodic cell neutral. Because A
enters by products of charges the problem is not linear, but c and epsilon are, and are
eliminated by a QR factorization; outliers lose weight as in Huber's estimator [1]_.

References
----------
.. [1] Huber, Ann. Math. Stat. 35, 73 (1964).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from scipy.linalg import null_space

from kernelpot.baseline.coulomb import CoulombSum
from kernelpot.baseline.pair_functions import COULOMB
from kernelpot.baseline.reference import Reference
from kernelpot.common.types import FloatArray
from kernelpot.data.dataset import Dataset
from kernelpot.data.neighbors import neighbor_list, pair_forces
from kernelpot.data.system import voigt

# Short-ranged functions end at R_SHORT [Å] and decay as overlapping shells do [1/Å].
R_SHORT = 6.0
_RATES = (1.5, 3.0, 5.0)
# Labels used at most; of more, frames at equal spacing.
MAX_ROWS = 20_000
# Residuals beyond so many robust standard deviations lose weight (95 % efficient).
_HUBER = 1.345
_MAX_REWEIGHTS = 20
# Charges of opposite sign fit alike: the first of these that is present is negative
# (F O Cl N Br I S Se C).
_NEGATIVE = (9, 8, 17, 7, 35, 53, 16, 34, 6)


class _Column(NamedTuple):
    """Energy [eV], forces [eV/Å] and virial [eV, Voigt] per unit of one parameter."""

    energy: float
    forces: FloatArray
    virial: FloatArray


@dataclass(frozen=True)
class FittedCharges:
    """Charges found in data.

    Attributes
    ----------
    charges : dict of str to float
        Of each species [e].
    errors : dict of str to float
        Standard errors [e], from the scatter of the residuals; they know nothing of
        what the model leaves out.
    """

    charges: dict[str, float]
    errors: dict[str, float]


def fit_charges(
    data: Dataset,
    species: Sequence[int],
    known: Reference,
    coulomb: Callable[[Atoms, FloatArray], CoulombSum],
    *,
    neutral: bool = True,
) -> FittedCharges:
    """Find the charges of the species that explain the labels best.

    Parameters
    ----------
    data : Dataset
    species : sequence of int
        Atomic numbers.
    known : Reference
        What is explained already.
    coulomb : callable
        ``coulomb(atoms, charges)``: the Coulomb sum of any charges.
    neutral : bool
        Whether every periodic cell must be neutral.

    Returns
    -------
    FittedCharges

    Raises
    ------
    ValueError
        If no charges but zero are neutral in every cell, or the labels do not determine
        them.
    """
    basis = _neutral_basis(data, species) if neutral else np.eye(len(species))
    pairs = list(combinations_with_replacement(range(len(species)), 2))
    rows = _all_rows(data, species, pairs, known, coulomb)
    undetermined = ValueError(
        f"the {len(rows)} labels do not determine the charges of "
        f"{', '.join(chemical_symbols[z] for z in species)}: give them as Ewald(charges={{...}})"
    )
    if len(rows) < rows.shape[1]:
        raise undetermined
    weights = np.ones(len(rows))
    for _ in range(_MAX_REWEIGHTS):
        solution, design, residual = _solve_weighted(rows, weights, basis, pairs)
        size = np.maximum(np.abs(residual), 1e-300)
        spread = max(1.4826 * float(np.median(size)), 1e-9)
        changed = np.sqrt(np.minimum(1.0, _HUBER * spread / size))
        converged = np.abs(changed - weights).max() < 1e-3
        weights = changed
        if converged:
            break
    charges = basis @ solution
    jacobian = design @ _product_slopes(charges, pairs) @ basis
    if np.linalg.svd(jacobian, compute_uv=False)[-1] < 1e-6:
        raise undetermined
    variance = float(((weights * residual) ** 2).sum()) / max(1, len(rows) - rows.shape[1])
    covariance = basis @ np.linalg.inv(jacobian.T @ jacobian) @ basis.T * variance
    sign = next((-np.sign(charges[species.index(z)]) for z in _NEGATIVE if z in species), 1.0)
    symbols = [chemical_symbols[z] for z in species]
    return FittedCharges(
        {s: float(sign * q) for s, q in zip(symbols, charges, strict=True)},
        {s: float(e) for s, e in zip(symbols, np.sqrt(np.diag(covariance)), strict=True)},
    )


def _neutral_basis(data: Dataset, species: Sequence[int]) -> FloatArray:
    """Orthonormal columns that span the charges neutral in every periodic cell."""
    counts = {
        tuple(int(np.sum(f.atoms.numbers == z)) for z in species)
        for f in data
        if f.atoms.pbc.all() and not f.is_isolated_atom
    }
    if not counts:
        return np.eye(len(species))
    basis = null_space(np.array(sorted(counts), dtype=float))
    if basis.shape[1] == 0:
        raise ValueError(
            f"no charges of {', '.join(chemical_symbols[z] for z in species)} leave all periodic "
            f"cells neutral ({len(counts)} compositions): leave out charges='fit', or use "
            "background='neutralizing'"
        )
    return np.asarray(basis)


def _all_rows(
    data: Dataset,
    species: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    known: Reference,
    coulomb: Callable[[Atoms, FloatArray], CoulombSum],
) -> FloatArray:
    """Rows of frames at equal spacing, each kind of label with the same total weight.

    The columns are the composition, the short-ranged functions, the products of
    charges, and the target.
    """
    frames = [frame for frame in data if len(frame) > 1]
    step = max(1, -(-sum(frame.n_rows for frame in frames) // MAX_ROWS))
    blocks: list[list[FloatArray]] = [[], [], []]
    for frame in frames[::step]:
        columns = _columns(frame.atoms, species, pairs, coulomb)
        energy, forces, virial = known.labels(frame.atoms)
        per_atom = 1.0 / len(frame)
        if frame.energy is not None:
            row = [*(c.energy for c in columns), frame.energy - energy]
            blocks[0].append(per_atom * np.array([row]))
        if frame.forces is not None:
            target = (frame.forces - forces).ravel()
            blocks[1].append(np.column_stack([*(c.forces.ravel() for c in columns), target]))
        if frame.virial is not None:
            target = frame.virial - virial
            blocks[2].append(per_atom * np.column_stack([*(c.virial for c in columns), target]))
    result = []
    for kind, found in enumerate(blocks):
        if not found:
            continue
        rows = np.concatenate(found)
        target = rows[:, -1]
        if kind == 0:  # what the composition explains says nothing about charges
            composition = rows[:, : len(species)]
            target = target - composition @ np.linalg.lstsq(composition, target, rcond=1e-8)[0]
        size = float(np.linalg.norm(target))
        result.append(rows / size if size > 0 else rows)
    return np.concatenate(result) if result else np.zeros((0, 1))


def _columns(
    atoms: Atoms,
    species: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    coulomb: Callable[[Atoms, FloatArray], CoulombSum],
) -> list[_Column]:
    """What one structure contributes to each column but the target."""
    members = [(atoms.numbers == z).astype(float) for z in species]
    columns = [
        _Column(float(m.sum()), np.zeros(atoms.positions.shape), np.zeros(6)) for m in members
    ]
    columns += _short_ranged(atoms, species, pairs)
    alone = [coulomb(atoms, m) for m in members]
    for a, b in pairs:
        found = alone[a] if a == b else coulomb(atoms, members[a] + members[b])
        energy, forces, virial = found.energies.sum(), found.forces, found.virial
        if a != b:  # only what the one does to the other
            for one in (alone[a], alone[b]):
                energy = energy - one.energies.sum()
                forces = forces - one.forces
                virial = virial - one.virial
        columns.append(_Column(COULOMB * float(energy), COULOMB * forces, COULOMB * voigt(virial)))
    return columns


def _short_ranged(
    atoms: Atoms, species: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> list[_Column]:
    """``(1 - r / R_SHORT)^3 exp(-rate r)`` of each pair of species and each rate."""
    found = neighbor_list(atoms, R_SHORT)
    displacements = found.displacements(atoms.positions)
    r = np.sqrt(np.einsum("pc,pc->p", displacements, displacements))
    z1, z2 = atoms.numbers[found.centers], atoms.numbers[found.neighbors]
    result = []
    for a, b in pairs:
        mine = ((z1 == species[a]) & (z2 == species[b])) | ((z1 == species[b]) & (z2 == species[a]))
        x = np.where(mine, 1.0 - r / R_SHORT, 0.0)
        for rate in _RATES:
            decay = np.exp(-rate * (r - 2.0))  # of order one at a bond
            slope = -decay * x**2 * (rate * x + 3.0 / R_SHORT)
            gradient = (0.5 * slope / np.maximum(r, 1e-12))[:, None] * displacements
            result.append(
                _Column(
                    0.5 * float((decay * x**3).sum()),
                    pair_forces(found, gradient),
                    voigt(-displacements.T @ gradient),
                )
            )
    return result


def _solve_weighted(
    rows: FloatArray, weights: FloatArray, basis: FloatArray, pairs: Sequence[tuple[int, int]]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Eliminate what is linear, solve for the charges.

    Returns
    -------
    solution : ndarray of shape (n_basis,)
        Coordinates of the charges in the basis.
    design : ndarray of shape (n_pairs + 1, n_pairs)
        What is left of the columns of the products.
    residual : ndarray of shape (n_rows,)
        Unweighted.
    """
    n = rows.shape[1] - len(pairs) - 1
    triangle = np.asarray(np.linalg.qr(rows * weights[:, None], mode="r"))
    design, target = triangle[n:, n:-1], triangle[n:, -1]
    solution = _solve(design, target, basis, pairs)
    products = _products(basis @ solution, pairs)
    rest = triangle[:n, -1] - triangle[:n, n:-1] @ products
    linear, *_ = np.linalg.lstsq(triangle[:n, :n], rest, rcond=1e-12)
    return solution, design, rows[:, -1] - rows[:, :-1] @ np.concatenate([linear, products])


def _products(charges: FloatArray, pairs: Sequence[tuple[int, int]]) -> FloatArray:
    return np.array([charges[a] * charges[b] for a, b in pairs])


def _product_slopes(charges: FloatArray, pairs: Sequence[tuple[int, int]]) -> FloatArray:
    """Derivative of the products by the charges."""
    slopes = np.zeros((len(pairs), len(charges)))
    for row, (a, b) in enumerate(pairs):
        slopes[row, a] += charges[b]
        slopes[row, b] += charges[a]
    return slopes


def _solve(
    design: FloatArray, target: FloatArray, basis: FloatArray, pairs: Sequence[tuple[int, int]]
) -> FloatArray:
    """Coordinates of the best charges in the basis, the best of several starts."""
    n = basis.shape[1]
    # the products form a matrix q q^T of rank one: start from the best matrix of any rank
    inside = list(combinations_with_replacement(range(n), 2))
    columns = []
    for a, b in inside:
        matrix = np.outer(basis[:, a], basis[:, b])
        matrix = matrix + matrix.T if a != b else matrix
        columns.append(design @ np.array([matrix[i, j] for i, j in pairs]))
    found, *_ = np.linalg.lstsq(np.column_stack(columns), target, rcond=1e-10)
    matrix = np.zeros((n, n))
    for (a, b), value in zip(inside, found, strict=True):
        matrix[a, b] = matrix[b, a] = value
    values, vectors = np.linalg.eigh(matrix)
    starts = [np.sqrt(max(values[-1], 0.01)) * vectors[:, -1], *(0.5 * np.eye(n))]
    from scipy.optimize import least_squares  # which takes long to import

    fits = [
        least_squares(
            lambda t: design @ _products(basis @ t, pairs) - target,
            start,
            jac=lambda t: design @ _product_slopes(basis @ t, pairs) @ basis,
            method="trf",
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
        )
        for start in starts
    ]
    return np.asarray(min(fits, key=lambda fit: fit.cost).x)
