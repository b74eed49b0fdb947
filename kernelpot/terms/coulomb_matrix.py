"""Eigenvalues of the Coulomb matrix of a molecule, as a descriptor of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from ase import Atoms

from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.terms.parameters import N_SPARSE_RANGE, Range
from kernelpot.terms.stationary import FUNCTIONS, NAMES, StationaryKernel, require_function
from kernelpot.terms.whole_structures import WholeMoleculeTerm, WholeStructures

# Eigenvalues that hardly spread in the data count as if they spread by this share of the others.
LEAST_SPREAD = 0.01


@dataclass(frozen=True)
class CoulombMatrixTerm(WholeMoleculeTerm):
    r"""The energy of one molecule by the eigenvalues of its Coulomb matrix [1]_.

    :math:`M_{ii} = 0.5 Z_i^{2.4}`, :math:`M_{ij} = Z_i Z_j / r_{ij}` (in units of 1/Å, as
    dscribe's ``CoulombMatrix``); its eigenvalues, the largest first, do not change where like
    atoms change places. They are N numbers for 3 N - 6 degrees of freedom, so that different
    shapes of a molecule can have the same ones, and each has a kink where two of them cross:
    the oldest descriptor of whole molecules, and no more than that (`GDMLTerm` is the one to
    fit with). Each is divided by its standard deviation in the data, and by the square root of
    their number.

    For one molecule without periodicity, its atoms always in the same order: anything else is
    refused. Single atoms have their energies e0. There is no energy of an atom, so that the
    safety net has nothing to go by.

    Parameters
    ----------
    length_scale : float, default=10.0
        Of the kernel, in spreads of the eigenvalues.
    delta : float, default=1.0
        Prior standard deviation of the energy [eV].
    n_sparse : int or None, default=None
        Sparse points: molecules of the data.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How they are chosen; default farthest-point sampling.
    function : {"gaussian", "matern52"}
        Kernel.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    References
    ----------
    .. [1] Rupp, Tkatchenko, Müller, von Lilienfeld, Phys. Rev. Lett. 108, 058301 (2012).
    """

    length_scale: float = 10.0
    delta: float = 1.0
    n_sparse: int | None = None
    sparse_method: str = "farthest_point"
    function: str = "gaussian"

    kind: ClassVar[str] = "coulomb_matrix"

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        require_function(self.function)

    @classmethod
    def example(cls, species: tuple[int, ...]) -> CoulombMatrixTerm:
        """A small term, to try things out with.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        CoulombMatrixTerm
        """
        return cls(length_scale=3.0)

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters that a search over kernels may change."""
        return {
            "length_scale": Range(1.3, factors=(0.3, 5.0), of_features=False),
            "n_sparse": N_SPARSE_RANGE,
        }

    @staticmethod
    def _described() -> type[CoulombEigenvalues]:
        return CoulombEigenvalues

    def _learned(
        self, x: FloatArray, numbers: IntArray, molecules: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """How much the eigenvalues spread."""
        spread = x.std(axis=0)
        usual = float(np.sqrt(np.mean(spread**2)))
        spread = np.maximum(spread, LEAST_SPREAD * usual) if usual > 0 else np.ones_like(spread)
        return {"mean": x.mean(axis=0), "scale": 1.0 / (spread * np.sqrt(len(spread)))}, []

    def kernel(self) -> StationaryKernel:
        """Function of the distance of scaled eigenvalues.

        Returns
        -------
        StationaryKernel
        """
        return FUNCTIONS[self.function](float(self.length_scale), float(self.delta))

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        return [
            "eigenvalues of the Coulomb matrix of a whole molecule",
            f"{NAMES[self.function]} kernel of length scale {self.length_scale:.3g} in spreads of "
            f"the eigenvalues, prior std delta {self.delta:.3g} eV",
        ]


@dataclass(frozen=True, eq=False)
class CoulombEigenvalues(WholeStructures):
    """Scaled eigenvalues of the Coulomb matrix; a `Descriptor`.

    Parameters
    ----------
    species : tuple of int
        Atomic numbers that may occur, ascending.
    numbers : ndarray of shape (n_atoms,) or None
        The atoms of the molecule, in their order.
    mean, scale : ndarray of shape (n_atoms,) or None
        What is subtracted from the eigenvalues, the largest first, so that distances keep
        their digits, and what they are multiplied by; None for 0 and 1.
    """

    mean: FloatArray | None = None
    scale: FloatArray | None = None

    @property
    def n_features(self) -> int:
        """Atoms; one where these are not known yet."""
        return 1 if self.numbers is None else len(self.numbers)

    def _decomposed(self, atoms: Atoms) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Charges, displacements, eigenvalues and eigenvectors, the largest first."""
        z = atoms.numbers.astype(float)
        d = atoms.positions[None] - atoms.positions[:, None]
        r = np.sqrt(np.einsum("ijc,ijc->ij", d, d))
        np.fill_diagonal(r, 1.0)
        matrix = np.multiply.outer(z, z) / r
        np.fill_diagonal(matrix, 0.5 * z**2.4)
        values, vectors = np.linalg.eigh(matrix)
        return z, d, values[::-1], vectors[:, ::-1]

    def features(self, atoms: Atoms) -> FloatArray:
        """Scaled eigenvalues."""
        values = self._decomposed(atoms)[2]
        if self.mean is None or self.scale is None:
            return values
        return (values - self.mean) * self.scale

    def jacobian(self, atoms: Atoms) -> FloatArray:
        r"""Their derivatives by positions, through the eigenvectors.

        :math:`\partial \lambda_k = v_k^\top \partial M v_k`.
        """
        z, d, values, v = self._decomposed(atoms)
        r2 = np.einsum("ijc,ijc->ij", d, d)
        np.fill_diagonal(r2, 1.0)
        # of the element (i, j) by the position of i
        by_i = (np.multiply.outer(z, z) / r2**1.5)[:, :, None] * d
        found = 2.0 * np.einsum("ijc,ik,jk->ick", by_i, v, v, optimize=True)
        return found if self.scale is None else found * self.scale
