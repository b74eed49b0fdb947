"""Forces on ghosts go to the processes that own these atoms.

A process evaluates the energies of its own atoms; these depend on atoms of others, of which it
has copies (ghosts). What its energies do to them is added up by atom and sent to the owner. LAMMPS
sends forces back by itself only for pair styles, and only with ``newton on``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernelpot.common.types import FloatArray, IntArray


class Folding:
    """Adds what was found for ghosts to their owners: made with a list of neighbors.

    All processes make it, and call it, together.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm or None
        None for a single process.
    tags : ndarray of shape (n_atoms,)
        Global number of every atom: own ones, then ghosts.
    n_own : int

    Raises
    ------
    ValueError
        If an atom has no owner.
    """

    def __init__(self, comm: Any, tags: IntArray, n_own: int) -> None:
        self._comm = comm
        self._n_own = n_own
        own = tags[:n_own].astype(np.int64)
        ghosts, self._inverse = np.unique(tags[n_own:].astype(np.int64), return_inverse=True)
        self._n_ghosts = len(ghosts)
        order = np.argsort(own, kind="stable")
        place, mine = _find(own[order], ghosts)
        self._mine, self._mine_at = np.flatnonzero(mine), order[place[mine]]
        others = np.flatnonzero(~mine)
        if comm is None:
            if len(others):
                raise ValueError(f"atom {ghosts[others[0]]} has a ghost, but no owner")
            return
        owners = self._owners(own, ghosts[others])
        wanted, by, n_sent, n_received = self._exchange(ghosts[others], owners)
        self._sent = others[by]
        self._to, self._from = _parts(n_sent), _parts(n_received)
        place, known = _find(own[order], wanted)
        if not known.all():
            raise ValueError(f"atom {wanted[~known][0]} was asked of a process that has it not")
        self._received_at = order[place]

    def _owners(self, own: IntArray, asked: IntArray) -> IntArray:
        """Process that owns each of some atoms; atom t is looked up at process t modulo size."""
        size = self._comm.size
        home, _, _, counts = self._exchange(own, own % size)
        by_tag = np.argsort(home, kind="stable")
        rank = np.repeat(np.arange(size), counts)[by_tag]
        queries, by, n_asked, n_queries = self._exchange(asked, asked % size)
        place, known = _find(home[by_tag], queries)
        answers = np.where(known, rank[place] if len(rank) else -1, -1).astype(np.int64)
        back = np.empty(len(asked), dtype=np.int64)
        self._comm.Alltoallv([answers, n_queries], [back, n_asked])
        owners = np.empty(len(asked), dtype=np.int64)
        owners[by] = back
        lost = self._comm.allreduce(int(np.sum(owners < 0)))
        if lost:
            raise ValueError(f"{lost} ghosts have no owner")
        return owners

    def _exchange(
        self, values: IntArray, to: IntArray
    ) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Send each value to a process: what came, the order of sending, counts out and in."""
        by = np.argsort(to, kind="stable")
        out = np.bincount(to, minlength=self._comm.size).astype(np.int64)
        into = np.empty_like(out)
        self._comm.Alltoall(out, into)
        came = np.empty(into.sum(), dtype=np.int64)
        self._comm.Alltoallv([np.ascontiguousarray(values[by]), out], [came, into])
        return came, by, out, into

    def __call__(self, values: FloatArray) -> FloatArray:
        """Add rows of ghosts to those of their owners.

        Parameters
        ----------
        values : ndarray of shape (n_atoms, n)
            Of own atoms and ghosts.

        Returns
        -------
        ndarray of shape (n_own, n)
        """
        width = values.shape[1]
        total = values[: self._n_own].copy()
        folded = np.empty((self._n_ghosts, width))
        for column in range(width):
            folded[:, column] = np.bincount(
                self._inverse, values[self._n_own :, column], minlength=self._n_ghosts
            )
        total[self._mine_at] += folded[self._mine]  # each atom once
        if self._comm is None:
            return total
        came = np.empty((len(self._received_at), width))
        sent = np.ascontiguousarray(folded[self._sent])
        # with neighbors only: an exchange of all with all would grow with the number of processes
        requests = [self._comm.Irecv(came[own], source=rank) for rank, own in self._from]
        requests += [self._comm.Isend(sent[own], dest=rank) for rank, own in self._to]
        for request in requests:
            request.Wait()
        for column in range(width):
            total[:, column] += np.bincount(
                self._received_at, came[:, column], minlength=self._n_own
            )
        return total


def _parts(counts: IntArray) -> list[tuple[int, slice]]:
    """Processes with which anything is exchanged, and the rows of each."""
    ends = np.cumsum(counts)
    return [
        (int(rank), slice(int(ends[rank] - counts[rank]), int(ends[rank])))
        for rank in np.flatnonzero(counts)
    ]


def _find(ascending: IntArray, wanted: IntArray) -> tuple[IntArray, Any]:
    """Place of each wanted number in an ascending array, and whether it is there."""
    if not len(ascending):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    place = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return place, ascending[place] == wanted
