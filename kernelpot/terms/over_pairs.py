"""For descriptors that are made of pairs: rows and tangents from one Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import VOIGT_COLUMNS, VOIGT_ROWS, System
from kernelpot.terms import _rows
from kernelpot.terms.base import RowGradient

# Feature derivatives are formed for so many bytes of pairs at a time: small enough that the
# allocator reuses the memory instead of mapping fresh pages for every chunk.
JACOBIAN_BYTES = 16e6


def chunks_of(pairs: IntArray, bytes_per_pair: float) -> Iterator[IntArray]:
    """Cut pairs into runs whose derivatives fit into `JACOBIAN_BYTES`."""
    size = max(1, int(JACOBIAN_BYTES / bytes_per_pair))
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def add_pair_rows(
    system: System,
    pairs: IntArray,
    rows: IntArray,
    jacobian: FloatArray,
    gradient: RowGradient,
    columns: IntArray | None,
    points_t: FloatArray,
    force_rows: FloatArray,
    virial_rows: FloatArray,
) -> None:
    """Add what displacements of pairs contribute to rows of forces and virials.

    Parameters
    ----------
    system : System
    pairs : ndarray of shape (n,)
        Pairs whose displacement changes an environment.
    rows : ndarray of shape (n,)
        Which environment of `gradient` each changes.
    jacobian : ndarray of shape (n, 3, n_some)
        Derivatives of features by the displacement.
    gradient : RowGradient
    columns : ndarray of shape (n_some,) or None
        Which features these are; None for all.
    points_t : ndarray of shape (n_some, n_points)
        The points' values of these features.
    force_rows, virial_rows
        As in `Descriptor.add_rows`.
    """
    at = gradient.at if columns is None else gradient.at[:, columns]
    along_self = np.einsum("pcf,pf->pc", jacobian, at[rows], optimize=True)
    flat = jacobian.reshape(-1, jacobian.shape[2])
    along_points = (flat @ points_t).reshape(len(pairs), 3, -1)
    centers = system.pairs.centers[pairs]
    _rows.accumulate(
        along_points,
        along_self,
        rows,
        centers,
        system.pairs.neighbors[pairs],
        system.structure_of[centers],
        system.displacements[pairs],
        gradient.own,
        gradient.slope,
        force_rows,
        virial_rows,
    )


class CenterTangents:
    """`Tangents` of a descriptor with one environment per atom, made of pairs.

    Parameters
    ----------
    system : System
        Of one structure.
    r_cut : float
        Reach of the descriptor [Å].
    jacobian : callable
        Derivatives of the features of the centers of some pairs by their displacements,
        shape (n, 3, n_features).
    """

    def __init__(
        self, system: System, r_cut: float, jacobian: Callable[[IntArray], FloatArray]
    ) -> None:
        self._jacobian = jacobian
        self._displacements = system.displacements
        self._centers, self._neighbors = system.pairs.centers, system.pairs.neighbors
        self._outgoing = np.flatnonzero(system.distances < r_cut)
        # stable: those of one neighbor stay sorted by center
        order = np.argsort(self._neighbors[self._outgoing], kind="stable")
        self._incoming = self._outgoing[order]
        self._outgoing_first = np.searchsorted(self._outgoing, system.pairs.first)
        self._incoming_first = np.searchsorted(
            self._neighbors[self._incoming], np.arange(system.n_atoms + 1)
        )

    def _out(self, atom: int) -> IntArray:
        return self._outgoing[self._outgoing_first[atom] : self._outgoing_first[atom + 1]]

    def moved_by(self, atom: int) -> tuple[IntArray, FloatArray, FloatArray | None]:
        """Environments that depend on an atom's position, its own first; see `Tangents`.

        Images of the atom in its own environment move with it.
        """
        out = self._out(atom)
        into = self._incoming[self._incoming_first[atom] : self._incoming_first[atom + 1]]
        out, into = out[self._neighbors[out] != atom], into[self._centers[into] != atom]
        others, runs = np.unique(self._centers[into], return_index=True)
        own = self._jacobian(out)
        by_x = np.empty((1 + len(others), *own.shape[1:]))
        by_x[0] = -own.sum(axis=0)
        if len(others):
            by_x[1:] = np.add.reduceat(self._jacobian(into), runs, axis=0)
        return np.concatenate([[atom], others]), by_x, None

    def strained(self, members: IntArray) -> tuple[FloatArray, FloatArray | None]:
        """How environments change under strain; see `Tangents`."""
        parts = []
        for atom in members:
            out = self._out(int(atom))
            jacobian = self._jacobian(out)
            flat = jacobian.reshape(len(out), 3 * jacobian.shape[2])
            full = self._displacements[out].T @ flat
            parts.append(full.reshape(3, 3, -1)[VOIGT_ROWS, VOIGT_COLUMNS])
        return np.array(parts), None
