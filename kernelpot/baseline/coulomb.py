r"""Coulomb energy of point charges: finite systems, and periodic ones by Ewald's sum.

The interaction of two charges at distance r is

.. math:: \phi(r) = \frac{\mathrm{erf}(r / w)}{r}, \qquad \phi(0) = \frac{2}{\sqrt\pi\, w},

with a width w of each pair of species, or 1/r where the width is 0. A periodic system
is summed as Ewald [1]_ did, in the form of [2]_: short-ranged pairs, waves, the
charges' own waves, and where the cell is charged a uniform background [3]_. The surface
term is left out ("tin foil" around the crystal). Numbers here are in e, Å and e^2/Å.

References
----------
.. [1] Ewald, Ann. Phys. 369, 253 (1921).
.. [2] Kolafa, Perram, Mol. Simul. 9, 351 (1992).
.. [3] Hummer, Pratt, García, J. Phys. Chem. 100, 1206 (1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernelpot.baseline import _coulomb
from kernelpot.common.types import FloatArray, IntArray

# Beyond so many widths erfc(r / w) is below 1e-16: there the damping is exactly zero.
DAMPING_REACH = 6.0
# A pair costs about so many times what an atom costs in one wave.
_PAIR_COST = 10.0
# Bins per real-space radius: finer ones waste fewer distances, but more on empty bins.
_BINS_PER_RADIUS = 3.0


@dataclass(frozen=True)
class CoulombSum:
    """Energy of a set of charges and its derivatives.

    Attributes
    ----------
    energies : ndarray of shape (n_atoms,)
        Half of each charge times the potential it feels [e^2/Å].
    forces : ndarray of shape (n_atoms, 3)
        [e^2/Å^2].
    virial : ndarray of shape (3, 3)
        Minus the derivative of the energy by strain [e^2/Å].
    """

    energies: FloatArray
    forces: FloatArray
    virial: FloatArray


@dataclass(frozen=True)
class Splitting:
    """How a periodic sum is divided between space and waves.

    Attributes
    ----------
    alpha : float
        Inverse width of the screening charges [1/Å].
    r_real : float
        Pairs beyond it are left to the waves [Å].
    k_max : float
        Longest wave vector [1/Å].
    """

    alpha: float
    r_real: float
    k_max: float


def splitting(
    n_atoms: int, volume: float, accuracy: float, *, alpha: float | None = None, r_min: float = 0.0
) -> Splitting:
    r"""Cutoffs of both sums from the accuracy asked for.

    With :math:`s^2 = -\ln \mathrm{accuracy}` the pairs end at :math:`s/\alpha` and the
    waves at :math:`2 s \alpha`: the first terms left out of either sum carry the factor
    :math:`e^{-s^2}`, the accuracy. The :math:`\alpha` of least work grows as
    :math:`(N/V^2)^{1/6}`; both sums then cost :math:`N^{3/2}`.

    Parameters
    ----------
    n_atoms : int
    volume : float
        [Å^3].
    accuracy : float
        Between 0 and 1.
    alpha : float, optional
        [1/Å]; by default that of least work.
    r_min : float
        The pairs must reach at least so far [Å].
    """
    s = np.sqrt(-np.log(accuracy))
    if alpha is None:
        alpha = np.sqrt(np.pi) * (_PAIR_COST * n_atoms / volume**2) ** (1 / 6)
        alpha = min(float(alpha), s / r_min) if r_min > 0 else float(alpha)
    return Splitting(alpha, float(max(s / alpha, r_min)), float(2.0 * s * alpha))


def finite_sum(
    positions: FloatArray, charges: FloatArray, kinds: IntArray, widths: FloatArray
) -> CoulombSum:
    """Sum over all pairs of a molecule or cluster.

    Parameters
    ----------
    positions : ndarray of shape (n_atoms, 3)
        [Å].
    charges : ndarray of shape (n_atoms,)
        [e].
    kinds : ndarray of shape (n_atoms,)
        Row of each atom's species in `widths`.
    widths : ndarray of shape (n_kinds, n_kinds)
        Damping widths, 0 for none [Å].
    """
    result = _empty(len(charges))
    _coulomb.all_pairs(
        np.ascontiguousarray(positions), charges, kinds, widths, DAMPING_REACH,
        result.energies, result.forces, result.virial,
    )  # fmt: skip
    _fill_lower(result.virial)
    return result


def periodic_sum(
    positions: FloatArray,
    cell: FloatArray,
    charges: FloatArray,
    kinds: IntArray,
    widths: FloatArray,
    *,
    accuracy: float = 1e-8,
    alpha: float | None = None,
) -> CoulombSum:
    r"""Ewald's sum over a cell periodic in three directions.

    A net charge Q is neutralized by a uniform background, which adds
    :math:`-\pi Q^2 / (2 V \alpha^2)`.

    Parameters
    ----------
    positions : ndarray of shape (n_atoms, 3)
        [Å]; anywhere.
    cell : ndarray of shape (3, 3)
        Rows are the lattice vectors [Å], of either handedness.
    charges, kinds, widths
        As in `finite_sum`.
    accuracy : float
        See `splitting`.
    alpha : float, optional
        See `splitting`; the sum does not depend on it.
    """
    volume = float(abs(np.linalg.det(cell)))
    r_min = DAMPING_REACH * float(widths.max(initial=0.0))
    split = splitting(len(charges), volume, accuracy, alpha=alpha, r_min=r_min)
    fractional = np.asarray(np.linalg.solve(cell.T, positions.T).T, dtype=float)
    fractional -= np.floor(fractional)
    result = _pairs(fractional, cell, charges, kinds, widths, split)
    _add_waves(fractional, cell, volume, charges, split, result)
    result.energies[:] -= split.alpha / np.sqrt(np.pi) * charges**2
    background = -0.5 * np.pi / (volume * split.alpha**2) * charges.sum()
    result.energies[:] += background * charges
    result.virial[np.diag_indices(3)] += background * charges.sum()
    return result


def _pairs(
    fractional: FloatArray,
    cell: FloatArray,
    charges: FloatArray,
    kinds: IntArray,
    widths: FloatArray,
    split: Splitting,
) -> CoulombSum:
    """Short-ranged part, atoms sorted into bins of the cell."""
    n_atoms = len(charges)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    bins = heights * _BINS_PER_RADIUS / split.r_real
    # no more bins than atoms, so that memory stays linear in a mostly empty cell
    bins *= min(1.0, (n_atoms / np.maximum(bins, 1.0).prod()) ** (1 / 3))
    bins = np.maximum(bins.astype(np.int64), 1)
    reach = np.ceil(split.r_real * bins / heights).astype(np.int64)
    index = np.minimum((fractional * bins).astype(np.int64), bins - 1)
    flat = (index[:, 0] * bins[1] + index[:, 1]) * bins[2] + index[:, 2]
    order = np.argsort(flat, kind="stable")
    first = np.zeros(bins.prod() + 1, dtype=np.int64)
    np.cumsum(np.bincount(flat, minlength=bins.prod()), out=first[1:])
    found = _empty(n_atoms)
    _coulomb.real_space(
        np.ascontiguousarray((fractional @ cell)[order]), charges[order], kinds[order],
        first, bins, reach, np.ascontiguousarray(cell), widths,
        split.alpha, split.r_real, DAMPING_REACH,
        found.energies, found.forces, found.virial,
    )  # fmt: skip
    _fill_lower(found.virial)
    result = _empty(n_atoms)
    result.energies[order], result.forces[order] = found.energies, found.forces
    result.virial[:] = found.virial
    return result


def _add_waves(
    fractional: FloatArray,
    cell: FloatArray,
    volume: float,
    charges: FloatArray,
    split: Splitting,
    result: CoulombSum,
) -> None:
    """Long-ranged part: a sum over half of the wave vectors, k and -k being the same."""
    reciprocal = np.asarray(2.0 * np.pi * np.linalg.inv(cell).T, dtype=float)  # rows
    indices, rows = wave_vectors(cell, reciprocal, split.k_max)
    if len(indices) == 0:
        return
    n_max = np.abs(indices).max(axis=0)
    angles = 2.0 * np.pi * fractional
    real, imag = np.zeros(len(indices)), np.zeros(len(indices))
    _coulomb.structure_factors(angles, charges, rows, n_max, real, imag)
    k = indices @ reciprocal
    k2 = np.einsum("kc,kc->k", k, k)
    weight = 4.0 * np.pi / volume * np.exp(-k2 / (4.0 * split.alpha**2)) / k2
    energy_k = weight * (real**2 + imag**2)
    potential, slope = np.empty(len(charges)), np.empty((len(charges), 3))
    _coulomb.wave_fields(angles, rows, n_max, weight * real, weight * imag, potential, slope)
    result.energies[:] += charges * potential
    result.forces[:] -= 2.0 * charges[:, None] * (slope @ reciprocal)
    # strain scales the volume and bends the wave vectors
    bend = 2.0 * energy_k * (1.0 / k2 + 0.25 / split.alpha**2)
    result.virial[:] += energy_k.sum() * np.eye(3) - np.einsum("k,ka,kb->ab", bend, k, k)


def wave_vectors(
    cell: FloatArray, reciprocal: FloatArray, k_max: float
) -> tuple[IntArray, IntArray]:
    """Indices of half of the wave vectors up to `k_max`, and their rows.

    Returns
    -------
    indices : ndarray of shape (n_waves, 3)
        Sorted; the first index that is not zero is positive.
    rows : ndarray of shape (n_rows, 5)
        Runs of consecutive third index, as the compiled sums want them.
    """
    limit = np.floor(k_max * np.linalg.norm(cell, axis=1) / (2.0 * np.pi)).astype(np.int64)
    b = np.arange(-limit[1], limit[1] + 1)
    c = np.arange(-limit[2], limit[2] + 1)
    plane = np.stack(np.meshgrid(b, c, indexing="ij"), axis=-1).reshape(-1, 2)
    in_plane = plane @ reciprocal[1:]
    found = []
    for a in range(limit[0] + 1):
        k = in_plane + a * reciprocal[0]
        keep = np.einsum("kc,kc->k", k, k) <= k_max**2
        if a == 0:
            keep &= (plane[:, 0] > 0) | ((plane[:, 0] == 0) & (plane[:, 1] > 0))
        chosen = plane[keep]
        found.append(np.column_stack([np.full(len(chosen), a), chosen]))
    indices = np.concatenate(found)
    if len(indices) == 0:
        return indices, np.zeros((0, 5), dtype=np.int64)
    # a ball is convex: in each row the third index has no gaps
    starts = np.flatnonzero(np.any(np.diff(indices[:, :2], axis=0) != 0, axis=1)) + 1
    starts = np.concatenate([[0], starts])
    counts = np.diff(np.append(starts, len(indices)))
    return indices, np.column_stack([indices[starts], starts, counts])


def _empty(n_atoms: int) -> CoulombSum:
    return CoulombSum(np.zeros(n_atoms), np.zeros((n_atoms, 3)), np.zeros((3, 3)))


def _fill_lower(virial: FloatArray) -> None:
    virial[[1, 2, 2], [0, 0, 1]] = virial[[0, 0, 1], [1, 2, 2]]
