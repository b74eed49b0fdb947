r"""The potential that smeared atoms make around each other, on radial functions and harmonics.

Atoms of a species a are Gaussians of width :math:`\sigma` and charge one. Their potential around
the atom i, projected on Gaussians :math:`R_{nl}(r) = r^l e^{-r^2 / 2 s_n^2}` and real spherical
harmonics, needs no quadrature: a Gaussian seen by a Gaussian is one Gaussian of width
:math:`\Sigma_n^2 = \sigma^2 + s_n^2`, and a harmonic becomes a derivative (Hobson's theorem),

.. math::
   \int R_{nl}(r)\, Y_{lm}(\hat r)\, V_a(r_i + r)\, d^3 r
   = (2\pi)^{3/2} s_n^{2l+3} \sqrt{\tfrac{2l+1}{4\pi}}\,
     T_{lm}(\nabla_i) \sum_{j \in a} \frac{\mathrm{erf}(r_{ij} / \sqrt 2 \Sigma_n)}{r_{ij}},

:math:`T_{lm}` being Racah's solid harmonics (x, y, z for l = 1). For a function of the distance
:math:`T_{lm}(\nabla) \phi = T_{lm}(r)\, (\tfrac{1}{r} \tfrac{d}{dr})^l \phi`, here Boys functions;
in a crystal it is a sum over wave vectors with the factor :math:`i^l\, T_{lm}(k)
\tfrac{4\pi}{k^2} e^{-k^2 \Sigma_n^2 / 2}`, which no other sum has to go with: the Gaussians are
wide. The wave vector zero is left out, as if each species had a neutralizing background.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from ase import Atoms

from kernelpot.baseline.coulomb import wave_vectors
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import VOIGT_COLUMNS, VOIGT_ROWS

# Gaussian factor of the first wave left out.
ACCURACY = 1e-11
# Tables of cosines and sines, and of derivatives of pairs, are made for so many bytes at a time.
TABLE_BYTES = 32e6
# Below this argument Boys functions are a power series, of so many terms.
SERIES_UP_TO, SERIES_TERMS = 0.5, 13

_SQRT3 = np.sqrt(3.0)
# T_2m(r) = r Q_m r, by m from -2 to 2
_QUADRIC = np.zeros((5, 3, 3))
_QUADRIC[0, [0, 1], [1, 0]] = _QUADRIC[1, [1, 2], [2, 1]] = _QUADRIC[3, [0, 2], [2, 0]] = (
    0.5 * _SQRT3
)
_QUADRIC[2] = np.diag([-0.5, -0.5, 1.0])
_QUADRIC[4] = np.diag([0.5 * _SQRT3, -0.5 * _SQRT3, 0.0])
_DIPOLE = np.eye(3)[[1, 2, 0]]  # y, z, x
# Sign of the sum over waves of each degree: of cosines, sines, cosines of k (r_j - r_i).
_WAVE_SIGN = (1.0, -1.0, -1.0)


def boys(order: int, t: FloatArray) -> list[FloatArray]:
    r"""Boys functions :math:`F_m(t) = \int_0^1 u^{2m} e^{-t u^2} du` for m from 0 to `order`.

    Parameters
    ----------
    order : int
    t : ndarray
        Not negative.

    Returns
    -------
    list of ndarray
        Of the shape of `t`.
    """
    from scipy.special import gamma, gammainc  # which take long to import

    half = order + 0.5
    safe = np.maximum(t, SERIES_UP_TO)
    found = gamma(half) * gammainc(half, safe) / (2.0 * safe**half)
    small = t < SERIES_UP_TO
    if np.any(small):
        x, power = t[small], np.ones(np.count_nonzero(small))
        total = np.zeros_like(x)
        for k in range(SERIES_TERMS):
            total = total + power / (2 * (order + k) + 1)
            power = power * (-x) / (k + 1)
        found[small] = total
    result, decay = [found], np.exp(-t)
    for m in range(order, 0, -1):  # downwards, which is stable
        result.append((2.0 * t * result[-1] + decay) / (2 * m - 1))
    return result[::-1]


@dataclass(frozen=True)
class Probes:
    """What the potential around an atom is projected on.

    Parameters
    ----------
    smearing : float
        Width of the atoms [Å].
    widths : tuple of float
        Of the radial functions [Å].
    l_max : int
        Largest degree of the harmonics, 0 to 2.
    """

    smearing: float
    widths: tuple[float, ...]
    l_max: int

    @cached_property
    def total(self) -> FloatArray:
        """Width of an atom as each radial function sees it [Å]."""
        return np.sqrt(self.smearing**2 + np.square(self.widths))

    @cached_property
    def degree(self) -> IntArray:
        """Degree l of each harmonic, shape (n_harmonics,)."""
        return np.repeat(np.arange(self.l_max + 1), 2 * np.arange(self.l_max + 1) + 1)

    @property
    def odd(self) -> slice:
        """Harmonics of odd degree, whose sums are of sines."""
        return slice(1, 4) if self.l_max > 0 else slice(0, 0)

    @cached_property
    def mixing(self) -> FloatArray:
        """Orthonormal projections from plain sums, shape (n_harmonics, n_radial, n_radial).

        Löwdin's orthonormal functions, and the factor in front of the sum over atoms.
        """
        s = np.array(self.widths)
        per_degree = []
        for degree in range(self.l_max + 1):
            l = degree + 1.5
            inverse = 0.5 * (s[:, None] ** -2 + s**-2)
            overlap = 0.5 * _gamma_half(degree + 1) / inverse**l
            norm = 1.0 / np.sqrt(np.diag(overlap))
            values, vectors = np.linalg.eigh(overlap * np.multiply.outer(norm, norm))
            root = (vectors / np.sqrt(values)) @ vectors.T
            factor = (-1.0) ** degree * (2 * np.pi) ** 1.5 * s ** (2 * degree + 3)
            factor *= np.sqrt((2 * degree + 1) / (4 * np.pi)) * norm
            per_degree.append(root * factor)
        return np.array([per_degree[degree] for degree in self.degree])

    def harmonics(self, r: FloatArray) -> FloatArray:
        """Solid harmonics T, shape (n, n_harmonics)."""
        found = [np.ones((len(r), 1))]
        if self.l_max > 0:
            found.append(r @ _DIPOLE.T)
        if self.l_max > 1:
            found.append(np.einsum("pa,mab,pb->pm", r, _QUADRIC, r, optimize=True))
        return np.concatenate(found, axis=1)

    def gradients(self, r: FloatArray) -> FloatArray:
        """Their gradients, shape (n, 3, n_harmonics)."""
        found = [np.zeros((len(r), 3, 1))]
        if self.l_max > 0:
            found.append(np.broadcast_to(_DIPOLE.T, (len(r), 3, 3)))
        if self.l_max > 1:
            found.append(2.0 * np.einsum("mab,pb->pam", _QUADRIC, r))
        return np.concatenate(found, axis=2)


def _gamma_half(k: int) -> float:
    """Gamma function of k + 1/2."""
    return float(np.sqrt(np.pi) * np.prod(np.arange(1, 2 * k, 2)) / 2.0**k)


class Field(Protocol):
    """Plain sums over the atoms of one structure, and their derivatives.

    Sums have the axes center, species, radial function, harmonic. `centers` are some of the
    atoms, `z` the species of all, as an index.
    """

    def sums(self, centers: slice) -> FloatArray:
        """The sums of some centers, shape (n, n_species, n_radial, n_harmonics)."""

    def pull(self, centers: slice, by_sums: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Derivatives of a scalar, from those by the sums.

        Parameters
        ----------
        centers : slice
        by_sums : ndarray of shape (n, n_species, n_radial, n_harmonics)

        Returns
        -------
        by_positions : ndarray of shape (n_atoms, 3)
        by_strain : ndarray of shape (3, 3)
            ``[a, b]``: the sum over displacements r of ``r[a]`` times the derivative by ``r[b]``.
        """

    def jacobian(self, center: int) -> tuple[FloatArray, FloatArray]:
        """Derivatives of the sums of one center.

        Returns
        -------
        by_others : ndarray of shape (n_atoms, 3, n_radial, n_harmonics)
            By the displacement to each atom, of the sum over its species.
        by_strain : ndarray of shape (6, n_species, n_radial, n_harmonics)
            xx yy zz yz xz xy, as in `pull`.
        """


def field_of(atoms: Atoms, z: IntArray, n_species: int, probes: Probes) -> Field:
    """The field of a structure.

    Parameters
    ----------
    atoms : ase.Atoms
        Periodic in all three directions or in none.
    z : ndarray of shape (n_atoms,)
        Species of each atom, as an index.
    n_species : int
    probes : Probes
    """
    if atoms.pbc.any():
        return PeriodicField(atoms, z, n_species, probes)
    return OpenField(atoms.positions, z, n_species, probes)


@dataclass(frozen=True)
class OpenField:
    """The field of a molecule or cluster, a sum over its atoms; a `Field`.

    Parameters
    ----------
    positions : ndarray of shape (n_atoms, 3)
        [Å].
    z : ndarray of shape (n_atoms,)
    n_species : int
    probes : Probes
    """

    positions: FloatArray
    z: IntArray
    n_species: int
    probes: Probes

    def _pairs(self, centers: slice, order: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Displacements (n, n_atoms, 3), harmonics, and (d/dr / r)^l of the potential."""
        d = self.positions - self.positions[centers, None]
        r2 = np.einsum("ijc,ijc->ij", d, d)
        a = 0.5 / self.probes.total**2
        functions = boys(order, a * r2[..., None])
        factor = 2.0 * np.sqrt(a / np.pi)
        radial = np.stack([(-2.0 * a) ** l * factor * f for l, f in enumerate(functions)], axis=-1)
        harmonics = self.probes.harmonics(d.reshape(-1, 3)).reshape(*r2.shape, -1)
        return d, harmonics, radial

    def _by_species(self, of_pairs: FloatArray) -> FloatArray:
        """Sums over the atoms of each species; the second axis of pairs."""
        members = (np.arange(self.n_species)[:, None] == self.z).astype(float)
        return np.asarray(np.einsum("aj,ij...->ia...", members, of_pairs, optimize=True))

    def sums(self, centers: slice) -> FloatArray:
        """The sums of some centers; see `Field.sums`."""
        _, harmonics, radial = self._pairs(centers, self.probes.l_max)
        return self._by_species(radial[..., self.probes.degree] * harmonics[:, :, None, :])

    def pull(self, centers: slice, by_sums: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Derivatives of a scalar; see `Field.pull`."""
        degree = self.probes.degree
        d, harmonics, radial = self._pairs(centers, self.probes.l_max + 1)
        of_pair = by_sums[:, self.z]
        along = np.einsum("ijnm,ijnm,ijm->ij", of_pair, radial[..., degree + 1], harmonics)
        by_d = along[..., None] * d
        turned = np.einsum("ijnm,ijnm->ijm", of_pair, radial[..., degree])
        slopes = self.probes.gradients(d.reshape(-1, 3)).reshape(*d.shape, -1)
        by_d += np.einsum("ijm,ijcm->ijc", turned, slopes)
        found = by_d.sum(axis=0)
        found[centers] -= by_d.sum(axis=1)
        return found, np.einsum("ija,ijb->ab", d, by_d)

    def jacobian(self, center: int) -> tuple[FloatArray, FloatArray]:
        """Derivatives of the sums of one center; see `Field.jacobian`."""
        degree = self.probes.degree
        d, harmonics, radial = self._pairs(slice(center, center + 1), self.probes.l_max + 1)
        d, harmonics, radial = d[0], harmonics[0], radial[0]
        found = (harmonics[:, None] * radial[..., degree + 1])[:, None] * d[:, :, None, None]
        found += radial[..., degree][:, None] * self.probes.gradients(d)[:, :, None]
        strained = d[:, VOIGT_ROWS, None, None] * found[:, VOIGT_COLUMNS]
        return found, self._by_species(strained[None])[0].swapaxes(0, 1)


@dataclass(frozen=True)
class _Run:
    """Some waves, as one radial function has them.

    Attributes
    ----------
    radial : int
    total : float
        Width of an atom as this function sees it [Å].
    probes : Probes
    cosine, sine : ndarray of shape (n_atoms, n_waves)
    members : ndarray of shape (n_atoms, n_species)
        One where an atom is of a species.
    k : ndarray of shape (n_waves, 3)
        [1/Å].
    volume : float
        [Å^3].
    """

    radial: int
    total: float
    probes: Probes
    cosine: FloatArray
    sine: FloatArray
    members: FloatArray
    k: FloatArray
    volume: float

    @cached_property
    def _k2(self) -> FloatArray:
        return np.asarray(np.einsum("kc,kc->k", self.k, self.k))

    @cached_property
    def _scalar(self) -> FloatArray:
        """What all harmonics have of the factors."""
        gaussian = np.exp(-0.5 * self._k2 * self.total**2)
        return np.asarray(8.0 * np.pi / self.volume * gaussian / self._k2)

    @property
    def _sign(self) -> FloatArray:
        return np.array(_WAVE_SIGN)[self.probes.degree]

    @cached_property
    def w(self) -> FloatArray:
        """Factors of the sums, (n_waves, n_harmonics)."""
        return np.asarray(self._scalar[:, None] * self.probes.harmonics(self.k) * self._sign)

    @cached_property
    def structure_factors(self) -> tuple[FloatArray, FloatArray]:
        """Real and imaginary parts for each species, (n_waves, n_species)."""
        return self.cosine.T @ self.members, self.sine.T @ self.members

    @cached_property
    def strained(self) -> FloatArray:
        """Derivatives of factors by strain, (n_waves, 3, 3, n_harmonics).

        A strain that adds r[a] to r[b] takes k[b] from k[a], and the volume grows by its trace.
        """
        radial = -(self.total**2 + 2.0 / self._k2)
        by_k = radial[:, None, None] * self.k[:, :, None] * self.w[:, None]
        by_k += self._scalar[:, None, None] * self.probes.gradients(self.k) * self._sign
        found = -by_k[:, :, None] * self.k[:, None, :, None]
        found -= np.eye(3)[None, :, :, None] * self.w[:, None, None]
        return np.asarray(found)

    def factors(self, w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What cosines and sines of a center are multiplied by, (n_waves, n_species, ...)."""
        real, imag = self.structure_factors
        by_cosine = real[:, :, None] * w[:, None]
        by_sine = imag[:, :, None] * w[:, None]
        odd = self.probes.odd
        by_cosine[..., odd] = imag[:, :, None] * w[:, None, odd]
        by_sine[..., odd] = -real[:, :, None] * w[:, None, odd]
        return by_cosine, by_sine

    @cached_property
    def by_phase(self) -> tuple[FloatArray, FloatArray]:
        """`factors` of the sums themselves."""
        return self.factors(self.w)

    @cached_property
    def by_strain(self) -> list[tuple[FloatArray, FloatArray]]:
        """`factors` of their derivatives by xx yy zz yz xz xy."""
        bent = self.strained[:, VOIGT_ROWS, VOIGT_COLUMNS]
        return [self.factors(bent[:, component]) for component in range(6)]


@dataclass(frozen=True)
class PeriodicField:
    """The field of a crystal, a sum over half of the wave vectors; a `Field`.

    Parameters
    ----------
    atoms : ase.Atoms
    z : ndarray of shape (n_atoms,)
    n_species : int
    probes : Probes
    """

    atoms: Atoms
    z: IntArray
    n_species: int
    probes: Probes

    @cached_property
    def waves(self) -> tuple[FloatArray, list[int]]:
        """Wave vectors [1/Å], the longest first, and how many each radial function leaves out."""
        cell = np.array(self.atoms.cell.array)
        reciprocal = np.asarray(2.0 * np.pi * np.linalg.inv(cell).T, dtype=float)
        reach = np.sqrt(-2.0 * np.log(ACCURACY)) / self.probes.total
        k = wave_vectors(cell, reciprocal, float(reach.max()))[0] @ reciprocal
        k2 = np.einsum("kc,kc->k", k, k)
        order = np.argsort(-k2, kind="stable")
        left_out = [int(np.count_nonzero(k2 > limit**2)) for limit in reach]
        return np.ascontiguousarray(k[order]), left_out

    def _chunks(self) -> list[slice]:
        """Runs of waves whose tables fit."""
        n = len(self.waves[0])
        width = len(self.atoms) + self.n_species * len(self.probes.degree)
        size = max(64, int(TABLE_BYTES / (16 * width)))
        return [slice(a, min(a + size, n)) for a in range(0, n, size)]

    @cached_property
    def _kept(self) -> list[_Run] | None:
        """All waves with what belongs to them, where they are one chunk."""
        chunks = self._chunks()
        return list(self._made(chunks)) if len(chunks) == 1 else None

    def _runs(self) -> Iterable[_Run]:
        """Waves of each radial function, as many at a time as tables have room for."""
        return self._made(self._chunks()) if self._kept is None else self._kept

    def _made(self, chunks: Sequence[slice]) -> Iterator[_Run]:
        k, left_out = self.waves
        volume = float(abs(np.linalg.det(self.atoms.cell.array)))
        members = (self.z[:, None] == np.arange(self.n_species)).astype(float)
        for chunk in chunks:
            phase = self.atoms.positions @ k[chunk].T
            cosine, sine = np.cos(phase), np.sin(phase)
            for n, total in enumerate(self.probes.total):
                first = max(left_out[n] - chunk.start, 0)
                own = k[chunk][first:]
                if len(own):
                    c, s = cosine[:, first:], sine[:, first:]
                    yield _Run(n, float(total), self.probes, c, s, members, own, volume)

    def sums(self, centers: slice) -> FloatArray:
        """The sums of some centers; see `Field.sums`."""
        n, n_harmonics = centers.stop - centers.start, len(self.probes.degree)
        found = np.zeros((n, self.n_species, len(self.probes.widths), n_harmonics))
        for run in self._runs():
            by_cosine, by_sine = run.by_phase
            flat = run.cosine[centers] @ by_cosine.reshape(len(run.k), -1)
            flat += run.sine[centers] @ by_sine.reshape(len(run.k), -1)
            found[:, :, run.radial] += flat.reshape(n, self.n_species, n_harmonics)
        return found

    def pull(self, centers: slice, by_sums: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Derivatives of a scalar; see `Field.pull`."""
        odd = self.probes.odd
        found, strain = np.zeros((len(self.atoms), 3)), np.zeros((3, 3))
        for run in self._runs():
            n_waves, c, s = len(run.k), run.cosine, run.sine
            real, imag = run.structure_factors
            by_cosine, by_sine = run.by_phase
            g = by_sums[:, :, run.radial].reshape(len(by_sums), -1)
            # centers: the sum is u cos + v sin of each one's phase
            u = g @ by_cosine.reshape(n_waves, -1).T
            v = g @ by_sine.reshape(n_waves, -1).T
            found[centers] += (c[centers] * v - s[centers] * u) @ run.k
            # others: p cos + q sin of theirs
            shape = n_waves, self.n_species, len(self.probes.degree)
            of_c, of_s = (c[centers].T @ g).reshape(shape), (s[centers].T @ g).reshape(shape)
            p, q = of_c.copy(), of_s.copy()
            p[..., odd], q[..., odd] = -of_s[..., odd], of_c[..., odd]
            by_factor = np.einsum("ka,kam->km", real, p) + np.einsum("ka,kam->km", imag, q)
            p_z = np.einsum("kam,km->ak", p, run.w)[self.z]
            q_z = np.einsum("kam,km->ak", q, run.w)[self.z]
            found += (c * q_z - s * p_z) @ run.k
            strain += np.einsum("km,kabm->ab", by_factor, run.strained)
        return found, strain

    def jacobian(self, center: int) -> tuple[FloatArray, FloatArray]:
        """Derivatives of the sums of one center; see `Field.jacobian`."""
        n_atoms, odd = len(self.atoms), self.probes.odd
        n_radial, n_harmonics = len(self.probes.widths), len(self.probes.degree)
        found = np.zeros((n_atoms, 3, n_radial, n_harmonics))
        strained = np.zeros((6, self.n_species, n_radial, n_harmonics))
        for run in self._runs():
            c, s = run.cosine[center], run.sine[center]
            own_c, own_s = c[:, None, None], s[:, None, None]
            moved = run.k[:, :, None] * run.w[:, None]
            # the derivative of cos k (r_j - r_i) is -sin, of sin it is cos
            by_cosine, by_sine = own_s * moved, -own_c * moved
            by_cosine[..., odd] = own_c * moved[..., odd]
            by_sine[..., odd] = own_s * moved[..., odd]
            flat = run.cosine @ by_cosine.reshape(len(c), -1)
            flat += run.sine @ by_sine.reshape(len(c), -1)
            found[:, :, run.radial] += flat.reshape(n_atoms, 3, n_harmonics)
            for component, (by_c, by_s) in enumerate(run.by_strain):
                strained[component, :, run.radial] += np.tensordot(c, by_c, 1)
                strained[component, :, run.radial] += np.tensordot(s, by_s, 1)
        return found, strained
