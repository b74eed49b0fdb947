"""Covariance of training rows with sparse points.

A force label is a linear functional of local energies just as an energy or a virial
is: one contraction of the feature Jacobian with the sparse points serves all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import System
from kernelpot.gp.blocks import BoundTerm, Points
from kernelpot.terms.base import Environments

# Environments are compared with the points so many bytes of kernel at a time, at least so
# many environments: an atom has one in SOAP, but dozens in pairs.
CHUNK_BYTES, CHUNK = 16e6, 1024


def covariance_rows(
    terms: Sequence[BoundTerm],
    points: Sequence[Points],
    system: System,
    *,
    derivatives: bool = True,
) -> Iterator[tuple[int, FloatArray]]:
    """Covariance of all labels of some structures with sparse points, block by block.

    Parameters
    ----------
    terms : sequence of BoundTerm
    points : sequence of Points
        Sparse points of classes of environments.
    system : System
        A batch of structures.
    derivatives : bool, default=True
        Whether force and virial rows are wanted.

    Yields
    ------
    index : int
        Of the entry of `points`; term by term.
    rows : ndarray of shape (n_structures [+ 3 n_atoms + 6 n_structures], n_points)
        Energy rows, then force rows, then virial rows.
    """
    for t, term in enumerate(terms):
        environments = term.descriptor.environments(system, slice(0, system.n_atoms))
        u, norm = term.kernel.embed(environments.x)
        for index, block in enumerate(points):
            if block.term == t:
                members = np.flatnonzero(environments.key == term.descriptor.keys.index(block.key))
                yield (
                    index,
                    _block_rows(term, block, system, environments, members, u, norm, derivatives),
                )


def _block_rows(
    term: BoundTerm,
    block: Points,
    system: System,
    environments: Environments,
    members: IntArray,
    u: FloatArray,
    norm: FloatArray,
    derivatives: bool,
) -> FloatArray:
    """Rows of one block of sparse points; `members` are the environments of its class."""
    n_structures, n_atoms = system.n_structures, system.n_atoms
    n_rows = n_structures + (3 * n_atoms + 6 * n_structures if derivatives else 0)
    rows = np.zeros((n_rows, len(block.points)))
    if not (len(members) and len(block.points)):
        return rows
    size = max(CHUNK, int(CHUNK_BYTES / (8 * max(1, len(block.points)))))
    for start in range(0, len(members), size):
        _add_members(
            term, block, system, environments, members[start : start + size], u, norm, rows
        )
    return rows


def _add_members(
    term: BoundTerm,
    block: Points,
    system: System,
    environments: Environments,
    members: IntArray,
    u: FloatArray,
    norm: FloatArray,
    rows: FloatArray,
) -> None:
    """Add some environments to the rows of one block of sparse points."""
    n_structures, n_atoms = system.n_structures, system.n_atoms
    own = u[members]
    similarity = term.kernel.similarity(own, block.points)
    values = term.kernel.values(similarity)
    weight = None if environments.weight is None else environments.weight[members, None]
    # members ascend, so the environments of a structure are one run
    owners, runs = np.unique(environments.structure[members], return_index=True)
    weighted = values if weight is None else weight * values
    rows[owners] += np.add.reduceat(weighted, runs, axis=0)
    if len(rows) > n_structures:
        gradient = term.kernel.row_gradient(
            own, norm[members], weight, block.points, similarity, values
        )
        first_virial = n_structures + 3 * n_atoms
        term.descriptor.add_rows(
            system,
            environments,
            members,
            gradient,
            rows[n_structures:first_virial],
            rows[first_virial:],
        )
