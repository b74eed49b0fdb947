r"""Predictive variance of total energies, forces and virials (DTC [1]_).

Each is a linear functional of the local energies. With :math:`\phi` its whitened
covariance with the sparse points and :math:`k_{**}` its prior variance,

.. math:: v = k_{**} - |\phi|^2 + |R^{-\top} \phi|^2 .

Let x be a coordinate (of an atom, or a strain), u_i the unit features of environment i
and :math:`g_i = \partial u_i / \partial x`. A derivative by x has

.. math::
    \phi = -T^\top \sum_i k'(u_i \cdot q) \, g_i \cdot q, \qquad
    k_{**} = \sum_{ij} k''(c_{ij}) (g_i \cdot u_j)(u_i \cdot g_j)
             + k'(c_{ij}) \, g_i \cdot g_j, \quad c_{ij} = u_i \cdot u_j

over pairs of environments of the same species, and all terms; an energy has
:math:`k_{**} = \sum_{ij} k(c_{ij})`. Only an atom's own environment and its neighbors'
depend on its position, all depend on a strain.

References
----------
.. [1] Quiñonero-Candela, Rasmussen, J. Mach. Learn. Res. 6, 1939 (2005), section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.neighbors import NeighborList
from kernelpot.gp.covariance import KernelTerm
from kernelpot.gp.tangents import Environments
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.layout import Layout
from kernelpot.terms.dot_product import DotProductKernel

# Atoms whose force rows are under way together, and environments of one Gram block.
ATOMS = 32
BLOCK = 256
# Novelty k** - |phi|^2 below this share of k** (of what k** would be were nothing to cancel)
# counts as zero. Whitening divides by square roots of eigenvalues down to 1e-12 of the
# largest and so magnifies rounding, but in directions that explain little: at most 1e-13
# was seen (silicon and ethanol, up to 3,000 sparse points and rank deficient).
RESOLUTION = 1e-12
# Negative beyond this is no rounding. Ten thousand times what was seen, as the worst case
# (the smallest kept eigenvalues are relatively off by 1e-16 M / 1e-12) is larger.
ROUNDING = 1e-8


@dataclass(frozen=True)
class PredictiveStd:
    """Posterior standard deviations of one structure.

    Attributes
    ----------
    energy : float
        Of the total energy [eV].
    forces : ndarray of shape (n_atoms, 3)
        Of each force component [eV/Å].
    virial : ndarray of shape (6,) or None
        Of xx yy zz yz xz xy [eV], if it was asked for.
    energy_novelty, forces_novelty, virial_novelty
        The part of each, in quadrature, that the sparse points do not span.
    """

    energy: float
    forces: FloatArray
    virial: FloatArray | None
    energy_novelty: float
    forces_novelty: FloatArray
    virial_novelty: FloatArray | None


@dataclass(frozen=True)
class Posterior:
    """The posterior over functions: variances of linear functionals of local energies.

    Parameters
    ----------
    terms : sequence of KernelTerm
    whitening : mapping of (species, term) to ndarray of shape (n_sparse, rank)
    factor : TriangularFactor
        Of all species together: total energies and forces couple them.
    """

    terms: Sequence[KernelTerm]
    whitening: Mapping[tuple[int, int], FloatArray]
    factor: TriangularFactor

    @cached_property
    def layout(self) -> Layout:
        """Whitened columns of each species and term."""
        return Layout.of({key: T.shape[1] for key, T in self.whitening.items()})

    def std(
        self,
        z_index: IntArray,
        pairs: NeighborList,
        displacements: FloatArray,
        *,
        virial: bool,
        n_threads: int = 1,
    ) -> PredictiveStd:
        """Standard deviations of energy, forces and virial of one structure.

        Memory beyond that of the pairs: features of all atoms, their derivatives by
        strain if `virial` (48 bytes per atom and feature, one species of one term at a
        time), and some megabytes per thread.

        Parameters
        ----------
        z_index : ndarray of shape (n_atoms,)
            Species index of each atom.
        pairs : NeighborList
            All pairs within the largest cutoff (longer ones are skipped).
        displacements : ndarray of shape (n_pairs, 3)
            Vectors from center to neighbor [Å].
        virial : bool
            Whether that of the virial is wanted.
        n_threads : int
            The result does not depend on it.

        Returns
        -------
        PredictiveStd

        Raises
        ------
        FloatingPointError
            If a variance is negative beyond rounding (a bug, never clipped silently).
        """
        environments = (Environments.of(term, z_index, pairs, displacements) for term in self.terms)
        with single_blas_thread():
            # one term at a time, as the derivatives by strain are large
            phi = np.zeros((7 if virial else 1, self.layout.size))
            whole = np.sqrt(
                self.variances(phi, *self._whole(environments, n_threads, len(phi), phi))
            )
            terms = [Environments.of(term, z_index, pairs, displacements) for term in self.terms]
            n_atoms = len(z_index)
            starts = range(0, n_atoms, ATOMS)

            def work(start: int) -> FloatArray:
                atoms = np.arange(start, min(start + ATOMS, n_atoms))
                phi = np.zeros((3 * len(atoms), self.layout.size))
                return self.variances(phi, *self._forces(terms, atoms, phi))

            parts = list(map_in_order(work, starts, min(n_threads, len(starts))))
            forces = np.sqrt(np.concatenate(parts, axis=1)).reshape(2, -1, 3)
        return PredictiveStd(
            float(whole[0, 0]),
            forces[0],
            whole[0, 1:] if virial else None,
            float(whole[1, 0]),
            forces[1],
            whole[1, 1:] if virial else None,
        )

    def prior(
        self,
        z_index: IntArray,
        pairs: NeighborList,
        displacements: FloatArray,
        *,
        virial: bool,
    ) -> tuple[FloatArray, FloatArray]:
        """Prior variances of energy, forces and virial of one structure.

        What `std` starts from, at a third of its cost, for those who know the covariances
        with the sparse points already.

        Parameters
        ----------
        z_index, pairs, displacements, virial
            As in `std`.

        Returns
        -------
        prior, scale : ndarray of shape (1 + 3 n_atoms [+ 6],)
            As `novelty` takes them.
        """
        with single_blas_thread():
            terms = [Environments.of(term, z_index, pairs, displacements) for term in self.terms]
            whole = self._whole(terms, 1, 7 if virial else 1)
            forces = self._forces(terms, np.arange(len(z_index)))
        prior, scale = (
            np.concatenate([w[:1], f, w[1:]]) for w, f in zip(whole, forces, strict=True)
        )
        return prior, scale

    def _forces(
        self, terms: Sequence[Environments], atoms: IntArray, phi: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Prior and scale of the force components of some atoms; fills `phi` if it is given."""
        prior, scale = np.zeros(3 * len(atoms)), np.zeros(3 * len(atoms))
        for t, environments in enumerate(terms):
            term = environments.term
            rows = {}
            if phi is not None:
                rows = {z: np.zeros((len(phi), len(points))) for z, points in term.sparse.items()}
            for k, atom in enumerate(atoms):
                own = slice(3 * k, 3 * k + 3)
                members, tangents = environments.moved_by(int(atom))
                for z, points in term.sparse.items():
                    chosen = environments.z_index[members] == z
                    if chosen.any():
                        unit, g = environments.unit[members[chosen]], tangents[:, chosen]
                        if phi is not None:
                            rows[z][own] = -covariance_of_derivative(term.kernel, unit, g, points)
                        prior[own] += derivative_prior(term.kernel, unit, g)
                        scale[own] += largest_prior(term.kernel, g)
            if phi is not None:
                for z, K in rows.items():
                    phi[:, self.layout.blocks[z, t]] = K @ self.whitening[z, t]
        return prior, scale

    def _whole(
        self,
        environments: Iterable[Environments],
        n_threads: int,
        n_rows: int,
        phi: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Of the energy, and of the six virial components for seven rows, as `_forces`."""
        prior, scale = np.zeros(n_rows), np.zeros(n_rows)
        for t, of_term in enumerate(environments):
            kernel = of_term.term.kernel
            for z in sorted(set(of_term.term.sparse) & set(of_term.z_index.tolist())):
                members = np.flatnonzero(of_term.z_index == z)
                unit, points = of_term.unit[members], of_term.term.sparse[z]
                tangents = of_term.strained(members, n_threads) if n_rows > 1 else None
                prior[0] += energy_prior(kernel, unit)
                scale[0] += kernel.diagonal() * len(unit) ** 2
                if tangents is not None:
                    prior[1:] += derivative_prior(kernel, unit, tangents)
                    scale[1:] += largest_prior(kernel, tangents)
                if phi is not None:
                    K = sum_of_kernels(kernel, unit, points)[None]
                    if tangents is not None:
                        K = np.concatenate(
                            [K, -covariance_of_derivative(kernel, unit, tangents, points)]
                        )
                    phi[:, self.layout.blocks[z, t]] = K @ self.whitening[z, t]
        return prior, scale

    def variances(self, phi: FloatArray, prior: FloatArray, scale: FloatArray) -> FloatArray:
        """Posterior variances of linear functionals.

        Parameters
        ----------
        phi : ndarray of shape (n, n_columns)
            Whitened covariances with the sparse points.
        prior : ndarray of shape (n,)
            Prior variances.
        scale : ndarray of shape (n,)
            What they would be were nothing to cancel: rounding is relative to this
            (every force in a perfect crystal cancels).

        Returns
        -------
        ndarray of shape (2, n)
            The variances, and the part of them that is novelty. Not negative; novelty
            below numerical resolution counts as zero.

        Raises
        ------
        FloatingPointError
            If the novelty is negative beyond rounding.
        """
        found = novelty(phi, prior, scale)
        return np.array([found + self.factor.open_variance(phi), found])


def novelty(phi: FloatArray, prior: FloatArray, scale: FloatArray) -> FloatArray:
    """The part of prior variances that the sparse points do not span.

    Parameters
    ----------
    phi : ndarray of shape (n, n_columns)
        Whitened covariances with the sparse points.
    prior, scale : ndarray of shape (n,)
        As in `Posterior.variances`.

    Returns
    -------
    ndarray of shape (n,)
        Not negative; zero below numerical resolution.

    Raises
    ------
    FloatingPointError
        If it is negative beyond rounding.
    """
    found = prior - np.einsum("nm,nm->n", phi, phi)
    if np.any(found < -ROUNDING * scale):
        worst = int(np.argmin(found + ROUNDING * scale))
        raise FloatingPointError(
            f"negative variance {found[worst]:.3g} (prior {prior[worst]:.3g}): the "
            "whitened features explain more than there is"
        )
    found[found < RESOLUTION * scale] = 0.0
    return found


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))


def sum_of_kernels(kernel: DotProductKernel, unit: FloatArray, points: FloatArray) -> FloatArray:
    """Covariance of a sum of local energies with sparse points.

    Parameters
    ----------
    kernel : DotProductKernel
    unit : ndarray of shape (n_env, n_features)
    points : ndarray of shape (n_sparse, n_features)

    Returns
    -------
    ndarray of shape (n_sparse,)
        [eV^2].
    """
    total = np.zeros(len(points))
    for part in _chunks(len(unit)):
        total += kernel(unit[part], points).sum(axis=0)
    return total


def covariance_of_derivative(
    kernel: DotProductKernel, unit: FloatArray, tangents: FloatArray, points: FloatArray
) -> FloatArray:
    """Covariance of derivatives of summed local energies with sparse points.

    Parameters
    ----------
    kernel : DotProductKernel
    unit : ndarray of shape (n_env, n_features)
    tangents : ndarray of shape (n, n_env, n_features)
        Derivatives of `unit` by n coordinates.
    points : ndarray of shape (n_sparse, n_features)

    Returns
    -------
    ndarray of shape (n, n_sparse)
        [eV^2 / unit of the coordinate].
    """
    total = np.zeros((len(tangents), len(points)))
    for part in _chunks(len(unit)):
        slopes = kernel.slopes(kernel.cosine(unit[part], points))
        for row, g in zip(total, tangents, strict=True):
            row += np.einsum("em,em->m", slopes, g[part] @ points.T)
    return total


def _block_pairs(n: int) -> Iterator[tuple[slice, slice, float]]:
    """Blocks of the upper triangle of a symmetric matrix, with their multiplicity."""
    for a in _chunks(n):
        for b in _chunks(n):
            if b.start >= a.start:
                yield a, b, 1.0 if a == b else 2.0


def energy_prior(kernel: DotProductKernel, unit: FloatArray) -> float:
    r"""Prior variance of a sum of local energies of one species.

    For zeta = 2 and more environments than features it is
    :math:`\delta^2 |U^\top U|_F^2`, linear in their number; else Gram blocks.

    Parameters
    ----------
    kernel : DotProductKernel
    unit : ndarray of shape (n_env, n_features)

    Returns
    -------
    float
        [eV^2].
    """
    n, n_features = unit.shape
    if kernel.zeta == 2 and n > n_features:
        return kernel.diagonal() * float(np.square(unit.T @ unit).sum())
    return sum(m * float(kernel(unit[a], unit[b]).sum()) for a, b, m in _block_pairs(n))


def derivative_prior(
    kernel: DotProductKernel, unit: FloatArray, tangents: FloatArray
) -> FloatArray:
    r"""Prior variances of derivatives of summed local energies of one species.

    For zeta = 2 and more environments than features it is
    :math:`\delta^2 |\partial_x U^\top U|_F^2`; else Gram blocks of the formula above.

    Parameters
    ----------
    kernel : DotProductKernel
    unit : ndarray of shape (n_env, n_features)
    tangents : ndarray of shape (n, n_env, n_features)
        Derivatives of `unit` by n coordinates.

    Returns
    -------
    ndarray of shape (n,)
        [eV^2 / unit of the coordinate squared].
    """
    n, n_features = unit.shape
    total = np.zeros(len(tangents))
    if kernel.zeta == 2 and n > n_features:
        for k, g in enumerate(tangents):
            moved = unit.T @ g
            total[k] = kernel.diagonal() * np.square(moved + moved.T).sum()
        return total
    for a, b, multiplicity in _block_pairs(n):
        cosine = kernel.cosine(unit[a], unit[b])
        slopes, curvatures = kernel.slopes(cosine), kernel.curvatures(cosine)
        for k, g in enumerate(tangents):
            part = np.vdot(slopes, g[a] @ g[b].T)
            if kernel.zeta != 1:
                part += np.vdot(curvatures, (g[a] @ unit[b].T) * (unit[a] @ g[b].T))
            total[k] += multiplicity * part
    return total


def largest_prior(kernel: DotProductKernel, tangents: FloatArray) -> FloatArray:
    r"""What `derivative_prior` is at most, :math:`k'(1) (\sum_i |g_i|)^2`.

    Parameters
    ----------
    kernel : DotProductKernel
    tangents : ndarray of shape (n, n_env, n_features)

    Returns
    -------
    ndarray of shape (n,)
    """
    lengths = np.sqrt(np.einsum("cef,cef->ce", tangents, tangents))
    return kernel.diagonal() * kernel.zeta * lengths.sum(axis=1) ** 2
