"""The structures that are left out one at a time, and their rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.data.dataset import Frame
from kernelpot.fit.added_frames import is_assumed
from kernelpot.fit.problem import Problem
from kernelpot.fit.state import State
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise
from kernelpot.regression.rows import StructureRows

# Structures, rows and bytes of rows kept in memory.
MAX_STRUCTURES = 100
MAX_ROWS = 12_000
MAX_BYTES = 2e8


def choose_structures(
    frames: Sequence[Frame],
    n_columns: int,
    *,
    max_structures: int = MAX_STRUCTURES,
    max_rows: int = MAX_ROWS,
    max_bytes: float = MAX_BYTES,
    first: Sequence[int] = (),
    seed: int = 0,
) -> list[int]:
    """Pick structures at random, each config type in proportion to its number.

    Parameters
    ----------
    frames : sequence of Frame
        In canonical order. Isolated atoms, assumed labels and frames without labels are
        passed over, as is any frame of more rows than are left.
    n_columns : int
        Columns of the regression.
    max_structures, max_rows : int
    max_bytes : float
        Bounds of the selection.
    first : sequence of int
        Structures to take before all others.
    seed : int

    Returns
    -------
    list of int
        Indices, ascending.
    """
    rng = np.random.default_rng(seed)
    limit = min(max_rows, int(max_bytes / (8 * n_columns)))
    members: dict[tuple[bool, str], list[int]] = {}
    preferred = set(first)
    for index, frame in enumerate(frames):
        if frame.n_rows and not (frame.is_isolated_atom or is_assumed(frame)):
            members.setdefault((index not in preferred, frame.config_type), []).append(index)
    ranked: list[tuple[bool, float, int]] = []
    for (later, _), indices in sorted(members.items()):
        shuffled = rng.permutation(indices)
        # a type of n members comes up at 1/2n, 3/2n, ...: any prefix is in proportion
        ranked += [(later, (k + 0.5) / len(shuffled), int(i)) for k, i in enumerate(shuffled)]
    chosen: list[int] = []
    for _, _, index in sorted(ranked):
        rows = frames[index].n_rows
        if len(chosen) < max_structures and rows <= limit:
            chosen.append(index)
            limit -= rows
    return sorted(chosen)


def build_rows(
    design: Design,
    frames: Sequence[Frame],
    noise: Noise,
    chosen: Sequence[int],
    *,
    n_threads: int = 1,
) -> list[StructureRows]:
    """Rows of some of the frames, in threads."""

    def build(index: int) -> StructureRows:
        return design.structure_rows(index, frames[index], noise)

    with single_blas_thread():
        return list(map_in_order(build, chosen, n_threads))


def choose_some(structures: Sequence[StructureRows], unseen: Sequence[int], n: int) -> list[int]:
    """Frames of some structures, those first that no sparse point was chosen from.

    Parameters
    ----------
    structures : sequence of StructureRows
    unseen : sequence of int
        Frames that no sparse point was chosen from.
    n : int
        At least so many, if there are.

    Returns
    -------
    list of int
        Ascending.
    """
    indices = [rows.index for rows in structures]
    first = [index for index in indices if index in set(unseen)]
    others = [index for index in indices if index not in set(unseen)]
    more = max(0, min(n - len(first), len(others)))
    chosen = [others[k * len(others) // more] for k in range(more)]
    return sorted([*first, *chosen])


def structures_to_leave_out(
    problem: Problem,
    state: State,
    *,
    optimize: str | None,
    calibrate: bool,
    max_bytes: float = MAX_BYTES,
    n_threads: int = 1,
) -> list[StructureRows]:
    """Rows of the structures that are left out one at a time; none where nobody asks.

    Those held out of the choice of sparse points come first: their environments are as
    new to the model as those of a simulation.
    """
    if optimize is None and not calibrate:
        return []
    design = state.design
    chosen = choose_structures(
        problem.frames, design.n_columns, max_bytes=max_bytes, first=state.unseen
    )
    return build_rows(design, problem.frames, problem.noise, chosen, n_threads=n_threads)
