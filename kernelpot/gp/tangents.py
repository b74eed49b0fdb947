"""Environments of a structure, and how positions and strain move their features.

The adjoint pass of a prediction never forms these derivatives; variances of forces and
stresses need them, an atom or a few at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernelpot.common.parallel import map_in_order
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.neighbors import NeighborList
from kernelpot.data.system import VOIGT_COLUMNS, VOIGT_ROWS
from kernelpot.gp.covariance import KernelTerm
from kernelpot.terms.dot_product import normalize
from kernelpot.terms.soap import SOAP, PairBatch

# Atoms whose derivatives by strain are formed together.
CHUNK = 32


@dataclass(frozen=True)
class Environments:
    """The environments of a structure in one term, and what they depend on.

    Attributes
    ----------
    term : KernelTerm
    z_index : ndarray of shape (n_atoms,)
        Species index of each atom.
    batch : PairBatch
    coefficients : ndarray
        Density coefficients of all centers.
    unit : ndarray of shape (n_atoms, n_features)
        Unit features.
    norm : ndarray of shape (n_atoms,)
        What they were divided by.
    centers, neighbors : ndarray of shape (n_pairs,)
    outgoing, incoming : ndarray
        Pairs within the cutoff, by center and by neighbor.
    outgoing_first, incoming_first : ndarray of shape (n_atoms + 1,)
        Where those of each atom start.
    """

    term: KernelTerm
    z_index: IntArray
    batch: PairBatch
    coefficients: FloatArray
    unit: FloatArray
    norm: FloatArray
    centers: IntArray
    neighbors: IntArray
    outgoing: IntArray
    outgoing_first: IntArray
    incoming: IntArray
    incoming_first: IntArray

    @classmethod
    def of(
        cls,
        term: KernelTerm,
        z_index: IntArray,
        pairs: NeighborList,
        displacements: FloatArray,
    ) -> Environments:
        """Environments of one structure.

        Parameters
        ----------
        term : KernelTerm
        z_index : ndarray of shape (n_atoms,)
        pairs : NeighborList
            All pairs within the cutoff of the term (longer ones are skipped).
        displacements : ndarray of shape (n_pairs, 3)
            Vectors from center to neighbor [Å].

        Returns
        -------
        Environments
        """
        soap = term.soap
        n_atoms = len(z_index)
        batch = soap.pairs(pairs.first, pairs.neighbors, displacements, z_index)
        coefficients = soap.expansion(batch, 0, n_atoms)
        unit, norm = normalize(soap.features(coefficients))
        squared = np.einsum("pc,pc->p", displacements, displacements)
        outgoing = np.flatnonzero(squared < soap.term.r_cut**2)
        # stable: those of one neighbor stay sorted by center
        incoming = outgoing[np.argsort(pairs.neighbors[outgoing], kind="stable")]
        return cls(
            term,
            z_index,
            batch,
            coefficients,
            unit,
            norm,
            pairs.centers,
            pairs.neighbors,
            outgoing,
            np.searchsorted(outgoing, pairs.first),
            incoming,
            np.searchsorted(pairs.neighbors[incoming], np.arange(n_atoms + 1)),
        )

    @property
    def soap(self) -> SOAP:
        """Descriptor of the term."""
        return self.term.soap

    def _jacobian(self, pairs: IntArray) -> FloatArray:
        return self.soap.jacobian(self.batch, pairs, self.centers[pairs], self.coefficients)

    def _of_unit(self, atoms: IntArray, derivative_ecf: FloatArray) -> FloatArray:
        """Derivatives of unit features from those of features, shape (c, e, f)."""
        unit = self.unit[atoms]
        derivative_ecf -= np.einsum("ecf,ef->ec", derivative_ecf, unit)[:, :, None] * unit[:, None]
        derivative_ecf /= self.norm[atoms, None, None]
        return np.ascontiguousarray(derivative_ecf.transpose(1, 0, 2))

    def moved_by(self, atom: int) -> tuple[IntArray, FloatArray]:
        """Environments that depend on an atom's position, and how.

        An environment may hold several images of the atom: their derivatives add up.
        Images of the atom in its own environment move with it.

        Parameters
        ----------
        atom : int

        Returns
        -------
        atoms : ndarray of shape (n_env,)
            Their centers, the atom itself first.
        tangents : ndarray of shape (3, n_env, n_features)
            Derivatives of unit features [1/Å].
        """
        out = self.outgoing[self.outgoing_first[atom] : self.outgoing_first[atom + 1]]
        into = self.incoming[self.incoming_first[atom] : self.incoming_first[atom + 1]]
        out, into = out[self.neighbors[out] != atom], into[self.centers[into] != atom]
        others, runs = np.unique(self.centers[into], return_index=True)
        derivative = np.empty((1 + len(others), 3, self.soap.n_features))
        derivative[0] = -self._jacobian(out).sum(axis=0)
        if len(others):
            derivative[1:] = np.add.reduceat(self._jacobian(into), runs, axis=0)
        atoms = np.concatenate([[atom], others])
        return atoms, self._of_unit(atoms, derivative)

    def strained(self, atoms: IntArray, n_threads: int) -> FloatArray:
        """Derivatives of unit features by strain.

        Parameters
        ----------
        atoms : ndarray of shape (n,)
            Centers.
        n_threads : int

        Returns
        -------
        ndarray of shape (6, n, n_features)
            By xx yy zz yz xz xy.
        """
        n_features = self.soap.n_features
        tangents = np.empty((6, len(atoms), n_features))

        def work(start: int) -> None:
            some = atoms[start : start + CHUNK]
            derivative = np.empty((len(some), 6, n_features))
            for k, atom in enumerate(some):
                out = self.outgoing[self.outgoing_first[atom] : self.outgoing_first[atom + 1]]
                jacobian = self._jacobian(out).reshape(len(out), 3 * n_features)
                full = self.batch.displacements[out].T @ jacobian
                derivative[k] = full.reshape(3, 3, -1)[VOIGT_ROWS, VOIGT_COLUMNS]
            tangents[:, start : start + CHUNK] = self._of_unit(some, derivative)

        starts = range(0, len(atoms), CHUNK)
        for _ in map_in_order(work, starts, min(n_threads, len(starts))):
            pass
        return tangents
