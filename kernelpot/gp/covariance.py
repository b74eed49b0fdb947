"""Covariance blocks: sparse points with each other, and with training rows.

A force label is a linear functional of local energies just as an energy or a virial
is: one contraction of the feature Jacobian with the sparse points serves all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from kernelpot.common.types import FloatArray
from kernelpot.data.neighbors import neighbor_list
from kernelpot.data.system import species_index
from kernelpot.regression.layout import Layout
from kernelpot.terms import _dot_product
from kernelpot.terms.dot_product import DotProductKernel, normalize
from kernelpot.terms.soap import SOAP

# Feature Jacobians are formed for so many bytes of pairs at a time: small enough that the
# allocator reuses the memory instead of mapping fresh pages for every chunk.
_JACOBIAN_BYTES = 16e6


@dataclass(frozen=True)
class KernelTerm:
    """Descriptor, kernel and sparse points of one term.

    Parameters
    ----------
    soap : SOAP
        The descriptor.
    kernel : DotProductKernel
        The kernel.
    sparse : mapping of int to ndarray of shape (n_sparse, n_features)
        Unit features of the sparse points of each species index that has any.
    """

    soap: SOAP
    kernel: DotProductKernel
    sparse: Mapping[int, FloatArray]

    def K_mm(self, species: int) -> FloatArray:
        """Covariance of the sparse points of one species [eV^2]."""
        points = self.sparse[species]
        cosine = self.kernel.cosine(points, points)
        np.fill_diagonal(cosine, 1.0)  # unit vectors: take the rounding off
        return self.kernel.values(0.5 * (cosine + cosine.T))


def covariance_rows(
    terms: Sequence[KernelTerm],
    layout: Layout,
    species: Sequence[int],
    structures: Sequence[Atoms],
    *,
    derivatives: bool = True,
) -> FloatArray:
    """Covariance of all labels of some structures with all sparse points.

    Parameters
    ----------
    terms : sequence of KernelTerm
    layout : Layout
        Columns: sparse points per (species, term).
    species : sequence of int
        Atomic numbers the species indices refer to.
    structures : sequence of ase.Atoms
        A batch; atoms are numbered through it.
    derivatives : bool, default=True
        Whether force and virial rows are wanted.

    Returns
    -------
    ndarray of shape (n_structures [+ 3 n_atoms + 6 n_structures], n_sparse)
        Energy rows, then force rows, then virial rows.
    """
    n_structures = len(structures)
    sizes = np.array([len(atoms) for atoms in structures])
    n_atoms = int(sizes.sum())
    structure_of = np.repeat(np.arange(n_structures), sizes)
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    positions = np.concatenate([atoms.positions for atoms in structures])
    z_index = species_index(numbers, species)
    r_cut = max(term.soap.term.r_cut for term in terms)
    pairs = neighbor_list(structures, r_cut)
    displacements = pairs.displacements(positions)
    distances = np.linalg.norm(displacements, axis=1)
    centers = pairs.centers

    n_rows = n_structures + (3 * n_atoms + 6 * n_structures if derivatives else 0)
    rows = np.zeros((n_rows, layout.size))
    force_rows = rows[n_structures : n_structures + 3 * n_atoms]
    virial_rows = rows[n_structures + 3 * n_atoms :]

    for index, term in enumerate(terms):
        soap = term.soap
        batch = soap.pairs(pairs.first, pairs.neighbors, displacements, z_index)
        coefficients = soap.expansion(batch, 0, n_atoms)
        unit, norm = normalize(soap.features(coefficients))
        inside = distances < soap.term.r_cut
        for z, points in term.sparse.items():
            members = np.flatnonzero(z_index == z)
            if not len(members):
                continue
            columns = layout.blocks[z, index]
            cosine = term.kernel.cosine(unit[members], points)
            values = term.kernel.values(cosine)
            # members ascend, so the atoms of a structure are one run
            owners, runs = np.unique(structure_of[members], return_index=True)
            rows[owners, columns] += np.add.reduceat(values, runs, axis=0)
            if not derivatives:
                continue
            slopes = term.kernel.slopes(cosine) / norm[members, None]
            row_of = np.full(n_atoms, -1)
            row_of[members] = np.arange(len(members))
            mine = np.flatnonzero(inside & (row_of[centers] >= 0))
            for channel in np.unique(batch.channels[mine]):
                touched = soap.touched_features(int(channel))
                some = points.T[touched]
                own = unit[:, touched]
                found = mine[batch.channels[mine] == channel]
                chunk = max(1, int(_JACOBIAN_BYTES / (24 * (len(touched) + len(points)))))
                for start in range(0, len(found), chunk):
                    p = found[start : start + chunk]
                    atom = centers[p]
                    jacobian = soap.jacobian(batch, p, atom, coefficients, channel=int(channel))
                    along_self = np.einsum("pcf,pf->pc", jacobian, own[atom], optimize=True)
                    flat = jacobian.reshape(-1, len(touched))
                    along_sparse = (flat @ some).reshape(len(p), 3, -1)
                    _dot_product.accumulate_rows(
                        along_sparse,
                        along_self,
                        row_of[atom],
                        atom,
                        pairs.neighbors[p],
                        structure_of[atom],
                        displacements[p],
                        cosine,
                        slopes,
                        force_rows[:, columns],
                        virial_rows[:, columns],
                    )
    return rows
