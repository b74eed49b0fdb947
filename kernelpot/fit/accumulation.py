"""Streaming the labels of many frames into triangular factors.

The frames are cut into parts, a part into batches, by their contents alone. The rows of a
batch are built at once; the batches of a part are annihilated into a factor of its own;
the factors of parts are merged in a tree of fixed shape (TSQR [1]_). Whoever does the
work, one thread, several, or the workers of a cluster, performs the same operations on
the same numbers: the result does not depend on it.

References
----------
.. [1] Demmel, Grigori, Hoemmen, Langou, SIAM J. Sci. Comput. 34, A206 (2012).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import Progress
from kernelpot.data.dataset import Frame
from kernelpot.data.neighbors import expected_pairs
from kernelpot.gp.design import Design
from kernelpot.gp.labels import ABSOLUTE, Noise
from kernelpot.gp.sharing import rows_of_alike_sites
from kernelpot.regression.factors import GroupedFactor
from kernelpot.regression.rows import Rows, StructureRows

Batch = list[int]
# Rows of the design matrix built at a time hold at most about so many bytes.
BATCH_BYTES = 48e6
# ... and belong to at most so many atoms (or one larger structure), whose pairs, densities
# and features are in memory with them.
BATCH_ATOMS = 1024
# A part has at least so many rows per column: merging its factor then costs little
# against making it.
ROWS_PER_COLUMN = 4
# Factors of so many parts are merged into a branch, branches into the trunk.
BRANCH = 8


@dataclass(frozen=True)
class Labels:
    """Frames with all that makes rows of them.

    Attributes
    ----------
    design : Design
    frames : sequence of Frame
        Labels less what the kernels need not explain (`Reference.remainder`).
    noise : Noise
    continued : bool
        Whether they are added to others that were fitted before, and with them the rows of
        the design's own prior (`kernelpot.gp.sharing`).
    apart : frozenset of int
        Frames whose rows are made one frame at a time, to the bits that they have alone, so
        that they can be kept (`kernelpot.fit.left_out`).
    """

    design: Design
    frames: Sequence[Frame]
    noise: Noise
    continued: bool = False
    apart: frozenset[int] = frozenset()

    def rows(self, batch: Batch) -> Rows:
        """Whitened rows and targets of some frames."""
        return self.built(batch)[0]

    def built(self, batch: Batch) -> tuple[Rows, list[StructureRows]]:
        """The same, and those of the frames that are `apart`, each of its own."""
        together = [self.frames[i] for i in batch if i not in self.apart]
        alone = [
            self.design.structure_rows(i, self.frames[i], self.noise)
            for i in batch
            if i in self.apart
        ]
        parts: list[Rows] = [self.design.rows(together, self.noise)] if together else []
        return Rows.joined([*parts, *alone]), alone

    def parts(self, batch_bytes: float = BATCH_BYTES) -> list[list[Batch]]:
        """Cut the frames into parts of batches."""
        parts: list[list[Batch]] = [[]]
        size = 0
        for batch in batches(self.frames, self.design.n_columns, batch_bytes):
            if size >= ROWS_PER_COLUMN * self.design.n_columns:
                parts.append([])
                size = 0
            parts[-1].append(batch)
            size += sum(_max_rows(self.frames[i]) for i in batch)
        return parts

    def take(self, indices: Sequence[int]) -> Labels:
        """Labels of some of the frames."""
        apart = frozenset(k for k, i in enumerate(indices) if i in self.apart)
        return replace(self, frames=[self.frames[i] for i in indices], apart=apart)

    def work(self, batch: Batch) -> float:
        """Floating-point operations to make and annihilate the rows of a batch, about."""
        r_cut = self.design.r_cut
        frames = [self.frames[i] for i in batch]
        return sum(self.design.work(f, expected_pairs(f.atoms, r_cut)) for f in frames)

    def add_prior(self, grouped: GroupedFactor) -> None:
        """Add the rows that the design itself asks for, unless they were fitted before."""
        rows = rows_of_alike_sites(self.design)
        if len(rows) and not self.continued:
            grouped.update(ABSOLUTE, rows, np.zeros(len(rows)))


def _max_rows(frame: Frame) -> int:
    return 1 + 3 * len(frame) + 6


def batches(
    frames: Sequence[Frame], n_columns: int, batch_bytes: float = BATCH_BYTES
) -> Iterator[Batch]:
    """Group frame indices so that the rows of a group, and what makes them, stay small."""
    group: Batch = []
    n_rows = n_atoms = 0
    for index, frame in enumerate(frames):
        n_rows += _max_rows(frame)
        n_atoms += len(frame)
        if group and (n_rows * n_columns * 8 > batch_bytes or n_atoms > BATCH_ATOMS):
            yield group
            group, n_rows, n_atoms = [], _max_rows(frame), len(frame)
        group.append(index)
    if group:
        yield group


@dataclass
class FactorTree:
    """Factors on their way from batches to the whole.

    Attributes
    ----------
    n_features : int
    levels : list of GroupedFactor or None
        The part being filled, the branch its predecessors are merged in, the trunk.
    n_batches, n_parts : int
        Finished so far.
    """

    n_features: int
    levels: list[GroupedFactor | None] = field(default_factory=lambda: [None, None, None])
    n_batches: int = 0
    n_parts: int = 0

    def add(self, built: Rows, *, closes_part: bool) -> None:
        """Annihilate the rows of the next batch; merge the part if this was its last."""
        part = self.levels[0] or GroupedFactor(self.n_features)
        for group, phi, y in built.by_group():
            part.update(group, phi, y)
        self.levels[0] = part
        self.n_batches += 1
        if closes_part:
            self.n_parts += 1
            self._lift(0)
            if self.n_parts % BRANCH == 0:
                self._lift(1)

    def result(self) -> GroupedFactor:
        """Factor of everything, once every part is closed."""
        self._lift(1)
        return self.levels[2] or GroupedFactor(self.n_features)

    def _lift(self, level: int) -> None:
        """Merge a level into the one above."""
        lower, upper = self.levels[level], self.levels[level + 1]
        if lower is not None and upper is not None:
            upper.merge(lower)
        self.levels[level + 1] = upper or lower
        self.levels[level] = None


def accumulate(
    labels: Labels,
    *,
    batch_bytes: float = BATCH_BYTES,
    n_threads: int = 1,
    progress: Progress | None = None,
    tree: FactorTree | None = None,
    after_batch: Callable[[FactorTree], Any] | None = None,
    kept: dict[int, StructureRows] | None = None,
) -> GroupedFactor:
    """Stream the rows of all frames into the factors of their groups.

    Parameters
    ----------
    labels : Labels
    batch_bytes : float
        Memory for the rows of a batch.
    n_threads : int
        Threads that build rows; the result does not depend on it.
    progress : callable, optional
        Told the share of the floating-point work that is done.
    tree : FactorTree, optional
        Where to continue.
    after_batch : callable, optional
        Called with the tree after each batch (to save it).
    kept : dict, optional
        Receives the rows of the frames that are `apart`, as far as they are made here.

    Returns
    -------
    GroupedFactor
    """
    tree = tree or FactorTree(labels.design.n_columns)
    parts = labels.parts(batch_bytes)
    last = {id(part[-1]) for part in parts}
    stream = [batch for part in parts for batch in part]
    work = np.cumsum([0.0, *map(labels.work, stream)])
    ahead = stream[tree.n_batches :]
    with single_blas_thread():
        for batch, built in zip(ahead, map_in_order(labels.built, ahead, n_threads), strict=True):
            tree.add(built[0], closes_part=id(batch) in last)
            if kept is not None:
                kept.update((rows.index, rows) for rows in built[1])
            del built
            if after_batch is not None:
                after_batch(tree)
            if progress is not None:
                progress("labels", work[tree.n_batches], work[-1])
        grouped = tree.result()
        labels.add_prior(grouped)
        return grouped
