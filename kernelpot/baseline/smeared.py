r"""Electrostatics of Gaussian charges as a bilinear form of them: values and derivatives.

The interaction matrix of a structure is

.. math:: A_{ij} = k_e \frac{\mathrm{erf}(r_{ij} / w_{ij})}{r_{ij}}, \qquad
          A_{ii} = \frac{2 k_e}{\sqrt\pi\, w_{ii}}, \qquad
          w_{ij}^2 = 2 (\sigma_i^2 + \sigma_j^2)

for charges of the Gaussian width :math:`\sigma`, their self-energy included, and in a crystal
the sum of all images by Ewald's method (`kernelpot.baseline.coulomb`). The matrix itself is
formed for rows of a regression alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms

from kernelpot.baseline import _coulomb
from kernelpot.baseline.coulomb import DAMPING_REACH, Splitting, splitting, wave_vectors
from kernelpot.baseline.pair_functions import COULOMB
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.neighbors import neighbor_list
from kernelpot.data.system import VOIGT_COLUMNS, VOIGT_ROWS

# Factor that the first terms left out of both of Ewald's sums carry.
ACCURACY = 1e-9
_SLOPE = 2.0 / np.sqrt(np.pi)  # of erf at the origin


@dataclass(frozen=True)
class SmearedCoulomb:
    """Electrostatics of Gaussian charges at the places of some atoms.

    Parameters
    ----------
    atoms : ase.Atoms
        Periodic in all three directions or in none.
    sigma : ndarray of shape (n_atoms,)
        Width of each charge [Å], positive.
    """

    atoms: Atoms
    sigma: FloatArray

    @property
    def periodic(self) -> bool:
        """Whether images are summed."""
        return bool(self.atoms.pbc.all())

    @cached_property
    def _split(self) -> Splitting:
        reach = DAMPING_REACH * 2.0 * float(self.sigma.max())
        volume = float(self.atoms.get_volume())
        return splitting(len(self.atoms), volume, ACCURACY, r_min=reach)

    @cached_property
    def _pairs(self) -> tuple[IntArray, IntArray, FloatArray, FloatArray, FloatArray]:
        """Directed pairs i, j, displacements, interaction and its slope over r."""
        from scipy.special import erf, erfc  # which take long to import

        if self.periodic:
            found = neighbor_list(self.atoms, self._split.r_real)
            i, j = found.centers, found.neighbors
            d = found.displacements(self.atoms.positions)
        else:
            i, j = np.nonzero(~np.eye(len(self.atoms), dtype=bool))
            d = self.atoms.positions[j] - self.atoms.positions[i]
        r = np.sqrt(np.einsum("pc,pc->p", d, d))
        w = np.sqrt(2.0 * (self.sigma[i] ** 2 + self.sigma[j] ** 2))
        slope = _SLOPE / w * np.exp(-((r / w) ** 2))
        if self.periodic:
            a = self._split.alpha
            value = erfc(a * r) - erfc(r / w)
            slope -= _SLOPE * a * np.exp(-((a * r) ** 2))
        else:
            value = erf(r / w)
        value /= r
        slope = (slope - value) / r**2
        return i, j, d, COULOMB * value, COULOMB * slope

    @cached_property
    def _own(self) -> FloatArray:
        """Diagonal of the matrix beside images."""
        own = 1.0 / (np.sqrt(np.pi) * self.sigma)
        if self.periodic:
            own -= _SLOPE * self._split.alpha
        return COULOMB * own

    @cached_property
    def _waves(self) -> _Waves:
        return _Waves.of(self.atoms, self._split)

    @property
    def _background(self) -> float:
        """Element that the background of a charged cell adds everywhere."""
        return -COULOMB * np.pi / (float(self.atoms.get_volume()) * self._split.alpha**2)

    def potential(self, charges: FloatArray) -> FloatArray:
        """Potentials that charges make at the places of the atoms, A times them.

        Parameters
        ----------
        charges : ndarray of shape (n_atoms,)
            [e].

        Returns
        -------
        ndarray of shape (n_atoms,)
            [V].
        """
        i, j, _, value, _ = self._pairs
        found = np.bincount(i, value * charges[j], minlength=len(charges)) + self._own * charges
        if self.periodic:
            field = self._waves.field(charges)
            found += field.potential + self._background * charges.sum()
        return np.asarray(found)

    def derivatives(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Derivatives of ``a A b`` at constant charges; see `bilinear`.

        Parameters
        ----------
        a, b : ndarray of shape (n_atoms,)
            [e].

        Returns
        -------
        forces : ndarray of shape (n_atoms, 3)
            Minus the derivative by positions [eV/Å].
        virial : ndarray of shape (3, 3)
            Minus the derivative by strain [eV].
        """
        return self.bilinear(a, b)[1:]

    def bilinear(self, a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The potential of `b`, and derivatives of ``a A b`` at constant charges.

        Parameters
        ----------
        a, b : ndarray of shape (n_atoms,)
            [e].

        Returns
        -------
        potential : ndarray of shape (n_atoms,)
            A times `b` [V].
        forces : ndarray of shape (n_atoms, 3)
            Minus the derivative by positions [eV/Å].
        virial : ndarray of shape (3, 3)
            Minus the derivative by strain [eV].
        """
        i, j, d, value, slope = self._pairs
        potential = np.bincount(i, value * b[j], minlength=len(b)) + self._own * b
        product = (a[i] * b[j] * slope)[:, None] * d
        forces = np.empty((len(a), 3))
        for c in range(3):
            forces[:, c] = np.bincount(i, product[:, c], minlength=len(a))
            forces[:, c] -= np.bincount(j, product[:, c], minlength=len(a))
        virial = -d.T @ product
        if self.periodic:
            of_a, of_b = self._waves.field(a), self._waves.field(b)
            potential += of_b.potential + self._background * b.sum()
            forces -= a[:, None] * of_b.gradient + b[:, None] * of_a.gradient
            virial += self._waves.virial(of_a.real * of_b.real + of_a.imag * of_b.imag)
            virial += self._background * a.sum() * b.sum() * np.eye(3)
        return potential, forces, 0.5 * (virial + virial.T)

    # ---- for many columns ----------------------------------------------------------

    @cached_property
    def _matrices(self) -> tuple[FloatArray, FloatArray]:
        """Short-ranged part of the matrix, and of its derivatives by the first atom's place."""
        n = len(self.atoms)
        i, j, d, value, slope = self._pairs
        matrix = np.diag(self._own)
        by_first = np.zeros((3, n, n))
        np.add.at(matrix, (i, j), value)
        for c in range(3):
            np.add.at(by_first[c], (i, j), -slope * d[:, c])
        return matrix, by_first

    def potentials(self, columns: FloatArray) -> FloatArray:
        """Potentials of several sets of charges.

        Parameters
        ----------
        columns : ndarray of shape (n_atoms, n)
            [e].

        Returns
        -------
        ndarray of shape (n_atoms, n)
            [V].
        """
        found = self._matrices[0] @ columns
        if self.periodic:
            cosine, sine = self._waves.matrices
            weight = 2.0 * self._waves.weight[:, None]
            found += cosine @ (weight * (cosine.T @ columns))
            found += sine @ (weight * (sine.T @ columns))
            found += self._background * columns.sum(axis=0)
        return np.asarray(found)

    def rows(self, a: FloatArray, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`derivatives` of one set of charges with each of several.

        Parameters
        ----------
        a : ndarray of shape (n_atoms,)
            [e].
        columns : ndarray of shape (n_atoms, n)
            [e].

        Returns
        -------
        forces : ndarray of shape (n_atoms, 3, n)
            [eV/Å].
        virials : ndarray of shape (6, n)
            xx yy zz yz xz xy [eV].
        """
        _, by_first = self._matrices
        i, j, d, _, slope = self._pairs
        n_atoms = len(a)
        forces = np.empty((n_atoms, 3, columns.shape[1]))
        for c in range(3):
            forces[:, c] = -a[:, None] * (by_first[c] @ columns)
            forces[:, c] -= columns * (by_first[c] @ a)[:, None]
        virials = np.empty((6, columns.shape[1]))
        weighted = a[i] * slope
        for row, (p, q) in enumerate(zip(VOIGT_ROWS, VOIGT_COLUMNS, strict=True)):
            moment = np.bincount(j, weighted * d[:, p] * d[:, q], minlength=n_atoms)
            virials[row] = -moment @ columns
        if self.periodic:
            waves = self._waves
            cosine, sine = waves.matrices
            weight = 2.0 * waves.weight[:, None]
            re, im = cosine.T @ columns, sine.T @ columns
            re_a, im_a = cosine.T @ a, sine.T @ a
            for c in range(3):
                k = waves.k[:, c, None] * weight
                gradient = cosine @ (k * im) - sine @ (k * re)
                of_a = cosine @ (k[:, 0] * im_a) - sine @ (k[:, 0] * re_a)
                forces[:, c] -= a[:, None] * gradient + columns * of_a[:, None]
            product = re_a[:, None] * re + im_a[:, None] * im
            virials += waves.virials(product)
            virials[:3] += self._background * a.sum() * columns.sum(axis=0)
        return forces, virials


@dataclass(frozen=True)
class _Field:
    """Structure factors of charges, potential and its gradient at the places of the atoms."""

    real: FloatArray
    imag: FloatArray
    potential: FloatArray
    gradient: FloatArray


@dataclass(frozen=True)
class _Waves:
    """The long-ranged part of a crystal: a sum over half of the wave vectors."""

    angles: FloatArray
    reciprocal: FloatArray
    table: IntArray
    n_max: IntArray
    k: FloatArray
    weight: FloatArray
    alpha: float

    @classmethod
    def of(cls, atoms: Atoms, split: Splitting) -> _Waves:
        cell = np.array(atoms.cell.array)
        fractional = np.linalg.solve(cell.T, atoms.positions.T).T
        fractional = fractional - np.floor(fractional)
        reciprocal = np.asarray(2.0 * np.pi * np.linalg.inv(cell).T, dtype=float)
        indices, table = wave_vectors(cell, reciprocal, split.k_max)
        k = indices @ reciprocal
        k2 = np.einsum("kc,kc->k", k, k)
        volume = float(abs(np.linalg.det(cell)))
        weight = COULOMB * 4.0 * np.pi / volume * np.exp(-k2 / (4.0 * split.alpha**2)) / k2
        n_max = np.abs(indices).max(axis=0, initial=0)
        angles = np.ascontiguousarray(2.0 * np.pi * fractional)
        return cls(angles, reciprocal, table, n_max, k, weight, split.alpha)

    def field(self, charges: FloatArray) -> _Field:
        """Structure factors of charges, and what they make at the atoms."""
        real, imag = np.zeros(len(self.weight)), np.zeros(len(self.weight))
        charges = np.ascontiguousarray(charges)
        _coulomb.structure_factors(self.angles, charges, self.table, self.n_max, real, imag)
        potential, slope = np.empty(len(self.angles)), np.empty((len(self.angles), 3))
        _coulomb.wave_fields(
            self.angles, self.table, self.n_max,
            self.weight * real, self.weight * imag, potential, slope,
        )  # fmt: skip
        return _Field(real, imag, 2.0 * potential, 2.0 * slope @ self.reciprocal)

    @cached_property
    def _bend(self) -> FloatArray:
        """How the weight of each wave changes under strain, (n_waves, 3, 3)."""
        k2 = np.einsum("kc,kc->k", self.k, self.k)
        bend = 2.0 * (1.0 / k2 + 0.25 / self.alpha**2)
        return np.eye(3) - bend[:, None, None] * self.k[:, :, None] * self.k[:, None, :]

    def virial(self, product: FloatArray) -> FloatArray:
        """Virial from products of structure factors, (n_waves,)."""
        return np.einsum("k,kab->ab", 2.0 * self.weight * product, self._bend)

    def virials(self, product: FloatArray) -> FloatArray:
        """Virials from products of structure factors, (n_waves, n) to (6, n)."""
        bend = 2.0 * self.weight[:, None] * self._bend[:, VOIGT_ROWS, VOIGT_COLUMNS]
        return np.asarray(bend.T @ product)

    @cached_property
    def matrices(self) -> tuple[FloatArray, FloatArray]:
        """Cosines and sines of every atom and wave, (n_atoms, n_waves)."""
        phase = self.angles @ np.linalg.inv(self.reciprocal).T @ self.k.T
        return np.cos(phase), np.sin(phase)
