"""For descriptors that are made of pairs: rows and tangents from one Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import VOIGT_COLUMNS, VOIGT_ROWS, Contribution, System
from kernelpot.terms import _rows
from kernelpot.terms.base import Environments, RowGradient

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
    together = _images_together(system, pairs, rows, jacobian, len(virial_rows) > 0)
    if together is None:
        first, strained, virials = np.arange(len(pairs)), pairs[:0], virial_rows
        stacked = jacobian.reshape(-1, jacobian.shape[2])
    else:
        first, strained, stacked = together
        virials = virial_rows[:0]
    n = 3 * len(first)
    along_points = stacked @ points_t
    moved = stacked[:n].reshape(len(first), 3, -1)
    owners = system.pairs.centers[pairs]
    _rows.accumulate(
        along_points[:n].reshape(len(first), 3, -1),
        np.einsum("pcf,pf->pc", moved, at[rows[first]], optimize=True),
        rows[first],
        owners[first],
        system.pairs.neighbors[pairs[first]],
        system.structure_of[owners[first]],
        system.displacements[pairs[first]],
        gradient.own,
        gradient.slope,
        force_rows,
        virials,
    )
    if len(strained):
        by_strain = stacked[n:].reshape(len(strained), 6, -1)
        _rows.accumulate_virials(
            along_points[n:].reshape(len(strained), 6, -1),
            np.einsum("ekf,ef->ek", by_strain, at[rows[strained]], optimize=True),
            rows[strained],
            system.structure_of[owners[strained]],
            gradient.own,
            gradient.slope,
            virial_rows,
        )


def _images_together(
    system: System, pairs: IntArray, rows: IntArray, jacobian: FloatArray, strain: bool
) -> tuple[IntArray, IntArray, FloatArray] | None:
    """Derivatives of environments by atoms, all images of which move at once, and by strain.

    Returns
    -------
    first : ndarray of shape (n_moved,)
        One of the pairs of each environment and atom.
    strained : ndarray of shape (n_strained,)
        One of the pairs of each environment; none without `strain`.
    stacked : ndarray of shape (3 n_moved + 6 n_strained, n_features)
        Derivatives by each of these atoms, then displacements times derivatives
        (xx yy zz yz xz xy) of each of these environments.

    None where that is no less than the derivatives by all pairs.
    """
    n_atoms = system.n_atoms
    of_atom = rows * n_atoms + system.pairs.centers[pairs]
    of_atom = of_atom * n_atoms + system.pairs.neighbors[pairs]
    _, first, group = np.unique(of_atom, return_index=True, return_inverse=True)
    _, strained, member = np.unique(rows, return_index=True, return_inverse=True)
    strained = strained if strain else strained[:0]
    n, n_strained, n_features = 3 * len(first), 6 * len(strained), jacobian.shape[2]
    if n + n_strained >= 3 * len(pairs):
        return None
    stacked = np.zeros((n + n_strained, n_features))
    moved = stacked[:n].reshape(len(first), 3, n_features)
    by_strain = stacked[n:].reshape(len(strained), 6, n_features)
    _rows.gather(jacobian, group, member, system.displacements[pairs], moved, by_strain)
    return first, strained, stacked


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


# ---- environments of any number per atom, each of a few pairs ------------------------


@dataclass(frozen=True)
class PairJacobian:
    """How displacements of pairs move environments: the entries that are not zero.

    Attributes
    ----------
    owner : ndarray of shape (n,)
        Environment of each entry, ascending.
    pairs : ndarray of shape (n,)
        The pair whose displacement moves it.
    by_x : ndarray of shape (n, 3, n_features)
        Derivatives of features [1/Å].
    by_weight : ndarray of shape (n, 3) or None
        Of weights [1/Å]; None where these are 1.
    """

    owner: IntArray
    pairs: IntArray
    by_x: FloatArray
    by_weight: FloatArray | None = None


class OverPairs:
    """What a `Descriptor` gets for nothing whose state is, or makes, a `PairJacobian`.

    `environments` gives as `state` a function without arguments that returns one, so that
    derivatives are formed where they are asked for.
    """

    def pull(
        self,
        system: System,
        environments: Environments,
        by_x: FloatArray,
        by_weight: FloatArray | None,
        out: Contribution,
    ) -> None:
        """Add derivatives by the displacements of pairs; see `Descriptor.pull`."""
        found: PairJacobian = environments.state()
        _rows.pull(found.owner, found.pairs, found.by_x, by_x, out.gradient)
        if by_weight is not None and found.by_weight is not None:
            jacobian = found.by_weight[:, :, None]
            _rows.pull(found.owner, found.pairs, jacobian, by_weight[:, None], out.gradient)

    def add_rows(
        self,
        system: System,
        environments: Environments,
        chosen: IntArray,
        gradient: RowGradient,
        force_rows: FloatArray,
        virial_rows: FloatArray,
    ) -> None:
        """Add to rows of forces and virials; see `Descriptor.add_rows`."""
        found: PairJacobian = environments.state()
        place = np.full(len(environments), -1)
        place[chosen] = np.arange(len(chosen))
        entries = np.flatnonzero(place[found.owner] >= 0)
        parts = [(gradient, found.by_x, gradient.points.T.copy())]
        if found.by_weight is not None:
            # the kernel changes with the weight as if by one more feature
            n_points = len(gradient.points)
            of_weight = RowGradient(
                np.ones((n_points, 1)),
                np.zeros((len(chosen), 1)),
                gradient.by_weight,
                np.zeros_like(gradient.by_weight),
                gradient.by_weight,
            )
            parts.append((of_weight, found.by_weight[:, :, None], np.ones((1, n_points))))
        for some in chunks_of(entries, 24 * (found.by_x.shape[2] + len(gradient.points))):
            rows = place[found.owner[some]]
            for part, jacobian, points_t in parts:
                add_pair_rows(
                    system,
                    found.pairs[some],
                    rows,
                    jacobian[some],
                    part,
                    None,
                    points_t,
                    force_rows,
                    virial_rows,
                )

    def tangents(self, system: System, environments: Environments) -> PairTangents:
        """How coordinates move the environments; see `Descriptor.tangents`."""
        return PairTangents(system, environments)


class PairTangents:
    """`Tangents` of a descriptor that is `OverPairs`.

    Parameters
    ----------
    system : System
        Of one structure.
    environments : Environments
    """

    def __init__(self, system: System, environments: Environments) -> None:
        found: PairJacobian = environments.state()
        self._found, self._n = found, len(environments)
        self._displacements = system.displacements[found.pairs]
        centers = system.pairs.centers[found.pairs]
        neighbors = system.pairs.neighbors[found.pairs]
        # a pair of an atom and its own image does not change when the atom moves
        apart = np.flatnonzero(centers != neighbors)
        ends = np.concatenate([centers[apart], neighbors[apart]])
        order = np.argsort(ends, kind="stable")
        self._entries = np.concatenate([apart, apart])[order]
        self._signs = np.repeat([-1.0, 1.0], len(apart))[order]
        self._first = np.searchsorted(ends[order], np.arange(system.n_atoms + 1))

    def moved_by(self, atom: int) -> tuple[IntArray, FloatArray, FloatArray | None]:
        """Environments that depend on an atom's position, and how; see `Tangents`."""
        own = slice(self._first[atom], self._first[atom + 1])
        entries, signs = self._entries[own], self._signs[own]
        members, at = np.unique(self._found.owner[entries], return_inverse=True)
        by_x = np.zeros((len(members), *self._found.by_x.shape[1:]))
        np.add.at(by_x, at, signs[:, None, None] * self._found.by_x[entries])
        if self._found.by_weight is None:
            return members, by_x, None
        by_weight = np.zeros((len(members), 3))
        np.add.at(by_weight, at, signs[:, None] * self._found.by_weight[entries])
        return members, by_x, by_weight

    def strained(self, members: IntArray) -> tuple[FloatArray, FloatArray | None]:
        """How environments change under strain; see `Tangents`."""
        place = np.full(self._n, -1)
        place[members] = np.arange(len(members))
        entries = np.flatnonzero(place[self._found.owner] >= 0)
        at, d = place[self._found.owner[entries]], self._displacements[entries]
        jacobian = self._found.by_x[entries]
        by_x = np.zeros((len(members), 6, jacobian.shape[2]))
        np.add.at(by_x, at, d[:, VOIGT_ROWS, None] * jacobian[:, VOIGT_COLUMNS])
        if self._found.by_weight is None:
            return by_x, None
        by_weight = np.zeros((len(members), 6))
        of_weight = self._found.by_weight[entries]
        np.add.at(by_weight, at, d[:, VOIGT_ROWS] * of_weight[:, VOIGT_COLUMNS])
        return by_x, by_weight
