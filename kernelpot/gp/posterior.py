r"""Predictive variance of total energies, forces and virials (DTC [1]_).

Each is a linear functional of the local energies. With :math:`\phi` its whitened
covariance with the sparse points and :math:`k_{**}` its prior variance,

.. math:: v = k_{**} - |\phi|^2 + |R^{-\top} \phi|^2 .

Let x be a coordinate (of an atom, or a strain), u_i the embedded features of environment i
and :math:`g_i = \partial u_i / \partial x`. A derivative by x has

.. math::
    \phi = -T^\top \sum_i k'(s_{iq}) \, \partial_i s_{iq}, \qquad
    k_{**} = \sum_{ij} k''(s_{ij}) \, \partial_i s_{ij} \, \partial_j s_{ij}
             + k'(s_{ij}) \, g_i \cdot g_j

over pairs of environments of the same class, and all terms; s is the similarity of the
kernel and :math:`\partial_i` its change as environment i moves. An energy has
:math:`k_{**} = \sum_{ij} k(s_{ij})`. Weights of environments multiply their energies. Only
an atom's own environments and its neighbors' depend on its position, all depend on a strain.

References
----------
.. [1] Quiñonero-Candela, Rasmussen, J. Mach. Learn. Res. 6, 1939 (2005), section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import System
from kernelpot.gp.blocks import Block
from kernelpot.gp.design import Design
from kernelpot.gp.tangents import Motion, StructureEnvironments
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.novelty import novelty
from kernelpot.terms.base import Kernel

# Atoms whose force rows are under way together, and environments of one Gram block.
ATOMS = 32
BLOCK = 256


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
    design : Design
    factor : TriangularFactor
        Of all species together: total energies and forces couple them.
    """

    design: Design
    factor: TriangularFactor

    def std(self, system: System, *, virial: bool, n_threads: int = 1) -> PredictiveStd:
        """Standard deviations of energy, forces and virial of one structure.

        Memory beyond that of the pairs: features of all atoms, their derivatives by
        strain if `virial` (48 bytes per environment and feature, one class of one term at a
        time), and some megabytes per thread.

        Parameters
        ----------
        system : System
            One structure, with all pairs within the largest cutoff.
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
        environments = (StructureEnvironments.of(term, system) for term in self.design.terms)
        n_columns = self.design.layout.size
        with single_blas_thread():
            # one term at a time, as the derivatives by strain are large
            phi = np.zeros((7 if virial else 1, n_columns))
            whole = np.sqrt(
                self.variances(phi, *self._whole(environments, n_threads, len(phi), phi))
            )
            terms = [StructureEnvironments.of(term, system) for term in self.design.terms]
            n_atoms = system.n_atoms
            starts = range(0, n_atoms, ATOMS)

            def work(start: int) -> FloatArray:
                atoms = np.arange(start, min(start + ATOMS, n_atoms))
                phi = np.zeros((3 * len(atoms), n_columns))
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

    def prior(self, system: System, *, virial: bool) -> tuple[FloatArray, FloatArray]:
        """Prior variances of energy, forces and virial of one structure.

        What `std` starts from, at a third of its cost, for those who know the covariances
        with the sparse points already.

        Parameters
        ----------
        system, virial
            As in `std`.

        Returns
        -------
        prior, scale : ndarray of shape (1 + 3 n_atoms [+ 6],)
            As `novelty` takes them.
        """
        with single_blas_thread():
            terms = [StructureEnvironments.of(term, system) for term in self.design.terms]
            whole = self._whole(terms, 1, 7 if virial else 1)
            forces = self._forces(terms, np.arange(system.n_atoms))
        prior, scale = (
            np.concatenate([w[:1], f, w[1:]]) for w, f in zip(whole, forces, strict=True)
        )
        return prior, scale

    def _blocks(self, t: int) -> list[tuple[int, Block]]:
        """Blocks of a term, each with the index of its class of environments."""
        keys = self.design.terms[t].descriptor.keys
        return [(keys.index(b.key), b) for b in self.design.blocks if b.term == t]

    def _forces(
        self,
        terms: Sequence[StructureEnvironments],
        atoms: IntArray,
        phi: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Prior and scale of the force components of some atoms; fills `phi` if it is given."""
        prior, scale = np.zeros(3 * len(atoms)), np.zeros(3 * len(atoms))
        for t, environments in enumerate(terms):
            kernel = environments.term.kernel
            blocks = self._blocks(t)
            rows = []
            if phi is not None:
                rows = [np.zeros((len(phi), len(block.points))) for _, block in blocks]
            for k, atom in enumerate(atoms):
                own = slice(3 * k, 3 * k + 3)
                members, motion = environments.moved_by(int(atom))
                for index, (key, block) in enumerate(blocks):
                    chosen = environments.found.key[members] == key
                    if chosen.any():
                        part = motion.take(chosen)
                        if phi is not None:
                            rows[index][own] = -covariance_of_derivative(kernel, part, block.points)
                        prior[own] += derivative_prior(kernel.between, part)
                        scale[own] += largest_prior(kernel.between, part)
            for K, (_, block) in zip(rows, blocks, strict=False):
                assert phi is not None
                phi[:, block.columns] = block.whitened(K)
        return prior, scale

    def _whole(
        self,
        environments: Iterable[StructureEnvironments],
        n_threads: int,
        n_rows: int,
        phi: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Of the energy, and of the six virial components for seven rows, as `_forces`."""
        prior, scale = np.zeros(n_rows), np.zeros(n_rows)
        for t, of_term in enumerate(environments):
            kernel = of_term.term.kernel
            for key, block in self._blocks(t):
                members = np.flatnonzero(of_term.found.key == key)
                if not len(members):
                    continue
                u, weight = of_term.u[members], of_term.weight(members)
                motion = of_term.strained(members, n_threads) if n_rows > 1 else None
                prior[0] += energy_prior(kernel.between, u, weight)
                scale[0] += kernel.between.diagonal() * len(u) ** 2
                if motion is not None:
                    prior[1:] += derivative_prior(kernel.between, motion)
                    scale[1:] += largest_prior(kernel.between, motion)
                if phi is not None:
                    K = sum_of_kernels(kernel, u, block.points, weight)[None]
                    if motion is not None:
                        K = np.concatenate(
                            [K, -covariance_of_derivative(kernel, motion, block.points)]
                        )
                    phi[:, block.columns] = block.whitened(K)
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


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))


def sum_of_kernels(
    kernel: Kernel, u: FloatArray, points: FloatArray, weight: FloatArray | None = None
) -> FloatArray:
    """Covariance of a sum of energies of environments with sparse points.

    Parameters
    ----------
    kernel : Kernel
    u : ndarray of shape (n_env, n_features)
        Embedded features.
    points : ndarray of shape (n_sparse, n_features)
    weight : ndarray of shape (n_env,), optional
        Factors of the energies.

    Returns
    -------
    ndarray of shape (n_sparse,)
        [eV^2].
    """
    total = np.zeros(len(points))
    for part in _chunks(len(u)):
        values = kernel(u[part], points)
        total += values.sum(axis=0) if weight is None else weight[part] @ values
    return total


def covariance_of_derivative(kernel: Kernel, motion: Motion, points: FloatArray) -> FloatArray:
    """Covariance of derivatives of summed energies with sparse points.

    Parameters
    ----------
    kernel : Kernel
    motion : Motion
        Environments of one class, and how n coordinates move them.
    points : ndarray of shape (n_sparse, n_features)

    Returns
    -------
    ndarray of shape (n, n_sparse)
        [eV^2 / unit of the coordinate].
    """
    total = np.zeros((len(motion.by_u), len(points)))
    for part in _chunks(len(motion.u)):
        some = motion.take(part)
        similarity = kernel.similarity(some.u, points)
        slopes = kernel.slopes(similarity)
        if some.weight is not None:
            slopes *= some.weight[:, None]
        for row, g in zip(total, some.by_u, strict=True):
            row += np.einsum("em,em->m", slopes, kernel.directional(g, some.u, points))
        if some.by_weight is not None:
            total += some.by_weight @ kernel.values(similarity)
    return total


def _block_pairs(n: int) -> Iterator[tuple[slice, slice, float]]:
    """Blocks of the upper triangle of a symmetric matrix, with their multiplicity."""
    for a in _chunks(n):
        for b in _chunks(n):
            if b.start >= a.start:
                yield a, b, 1.0 if a == b else 2.0


def energy_prior(kernel: Kernel, u: FloatArray, weight: FloatArray | None = None) -> float:
    r"""Prior variance of a sum of energies of environments of one class.

    In closed form where the kernel has one, else Gram blocks.

    Parameters
    ----------
    kernel : Kernel
    u : ndarray of shape (n_env, n_features)
        Embedded features.
    weight : ndarray of shape (n_env,), optional

    Returns
    -------
    float
        [eV^2].
    """
    if weight is not None:
        return sum(
            m * float(weight[a] @ kernel(u[a], u[b]) @ weight[b])
            for a, b, m in _block_pairs(len(u))
        )
    known = kernel.energy_prior(u)
    if known is not None:
        return known
    return sum(m * float(kernel(u[a], u[b]).sum()) for a, b, m in _block_pairs(len(u)))


def derivative_prior(kernel: Kernel, motion: Motion) -> FloatArray:
    r"""Prior variances of derivatives of summed energies of environments of one class.

    In closed form where the kernel has one, else Gram blocks of the formula above.

    Parameters
    ----------
    kernel : Kernel
    motion : Motion
        The environments, and how n coordinates move them.

    Returns
    -------
    ndarray of shape (n,)
        [eV^2 / unit of the coordinate squared].
    """
    if motion.weight is None:
        known = kernel.derivative_prior(motion.u, motion.by_u)
        if known is not None:
            return known
    total = np.zeros(len(motion.by_u))
    for a, b, multiplicity in _block_pairs(len(motion.u)):
        total += multiplicity * _between(kernel, motion.take(a), motion.take(b))
    return total


def _between(kernel: Kernel, first: Motion, second: Motion) -> FloatArray:
    """Prior covariances of the derivatives of two sums of energies, coordinate by coordinate."""
    similarity = kernel.similarity(first.u, second.u)
    slopes, curvatures = kernel.slopes(similarity), kernel.curvatures(similarity)
    unweighted, v, w = slopes, first.weight, second.weight
    if v is not None and w is not None:
        slopes, curvatures = v[:, None] * slopes * w, v[:, None] * curvatures * w
    found = np.empty(len(first.by_u))
    for k, (g, h) in enumerate(zip(first.by_u, second.by_u, strict=True)):
        left = kernel.directional(g, first.u, second.u)
        right = kernel.directional(h, second.u, first.u).T
        part = np.vdot(slopes, g @ h.T)
        part += np.vdot(curvatures, left * right)
        if not (v is None or w is None or first.by_weight is None or second.by_weight is None):
            dv, dw = first.by_weight[k], second.by_weight[k]
            part += dv @ (unweighted * right) @ w
            part += v @ (unweighted * left) @ dw
            part += dv @ kernel.values(similarity) @ dw
        found[k] = part
    return found


def largest_prior(kernel: Kernel, motion: Motion) -> FloatArray:
    r"""What `derivative_prior` is at most, :math:`k'(s_{ii}) (\sum_i |g_i|)^2` without weights.

    Parameters
    ----------
    kernel : Kernel
    motion : Motion

    Returns
    -------
    ndarray of shape (n,)
    """
    lengths = np.sqrt(np.einsum("cef,cef->ce", motion.by_u, motion.by_u))
    if motion.weight is None:
        return kernel.largest_slope() * lengths.sum(axis=1) ** 2
    root = np.sqrt(kernel.largest_slope()) * (lengths @ motion.weight)
    if motion.by_weight is not None:
        root += np.sqrt(kernel.diagonal()) * np.abs(motion.by_weight).sum(axis=1)
    return root**2
