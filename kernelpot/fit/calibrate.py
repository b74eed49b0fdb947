"""Calibrating a fitted model with structures left out one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms

from kernelpot.common.parallel import map_in_order, thread_count
from kernelpot.common.types import KINDS, FloatArray, Progress
from kernelpot.data.system import System
from kernelpot.fit.noise import MINIMUM_STRUCTURES
from kernelpot.fit.problem import Problem
from kernelpot.model.calibration import Calibration
from kernelpot.model.fitted import FittedModel
from kernelpot.regression.leave_one_out import leave_one_out
from kernelpot.regression.novelty import novelty
from kernelpot.regression.rows import StructureRows

# So many structures at least, not seen by the choice of sparse points, tell the weight of
# novelty: one alone may be odd.
MINIMUM_UNSEEN = 3


def calibrated(
    model: FittedModel,
    problem: Problem,
    structures: Sequence[StructureRows],
    unseen: Sequence[int],
    scale: FloatArray | None = None,
    *,
    residuals: Mapping[int, FloatArray] | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> FittedModel:
    """Calibrate a model with some of the structures it was fitted to, each left out.

    The posterior variance without a structure is that of its rows, in closed form, plus
    their novelty: what of the prior variance the sparse points do not span. Structures
    from which sparse points were chosen have too little novelty: only those held out of
    the selection tell its weight.

    Parameters
    ----------
    model : FittedModel
    problem : Problem
    structures : sequence of StructureRows
        Rows of frames of `problem`.
    unseen : sequence of int
        Frames that no sparse point was chosen from.
    scale : ndarray of shape (n_columns,), optional
        Of the columns of these rows to those of the model.
    residuals : mapping of int to ndarray, optional
        Errors of a mean that the factor does not know (`kernelpot.fit.full_mean`), by frame;
        of these structures only is then learned.
    n_threads : int, optional
    progress : callable, optional

    Returns
    -------
    FittedModel
        With its `calibration`; unchanged where there are fewer than ten structures.
    """
    if residuals is not None:
        structures = [rows for rows in structures if rows.index in residuals]
    if len(structures) < MINIMUM_STRUCTURES:
        return model
    frames = [problem.frames[rows.index] for rows in structures]
    new = {rows.index for rows in structures} & set(unseen)
    if len(new) < MINIMUM_UNSEEN:
        new = set()
    threads = thread_count(n_threads)
    left_out = leave_one_out(
        structures, model.factor, model.noise.sigma, scale, variance=True, n_threads=threads
    )

    def work(rows: StructureRows) -> FloatArray:
        return label_novelty(model, problem.frames[rows.index].atoms, rows, scale)

    novelties = map_in_order(work, structures, threads)
    parts: dict[str, list[tuple[Any, ...]]] = {kind: [] for kind in KINDS}
    for done, (frame, left, found) in enumerate(zip(frames, left_out, novelties, strict=True)):
        assert left.variance is not None
        residual = left.residual if residuals is None else residuals[left.rows.index]
        for kind in KINDS:
            own = left.rows.kind == KINDS.index(kind)
            if not own.any() or (kind == "stress" and not frame.atoms.pbc.all()):
                continue
            of_forces = np.repeat(frame.atoms.numbers, 3)
            parts[kind].append(
                (
                    residual[own],
                    np.sqrt(left.variance[own]),
                    found[own],
                    of_forces if kind == "forces" else np.zeros(own.sum(), dtype=np.int64),
                    np.full(own.sum(), left.rows.index in new),
                )
            )
        if progress is not None:
            progress("calibration", done + 1, len(frames))
    columns = {kind: list(zip(*found, strict=True)) for kind, found in parts.items() if found}
    errors, open_, novel, numbers, is_new = (
        {kind: np.concatenate(column[k]) for kind, column in columns.items()} for k in range(5)
    )
    calibration = Calibration.of(errors, open_, novel, numbers, len(frames), unseen=is_new)
    return replace(model, calibration=calibration)


def label_novelty(
    model: FittedModel, atoms: Atoms, rows: StructureRows, scale: FloatArray | None = None
) -> FloatArray:
    """Standard deviation of labels by what the sparse points do not span.

    That of `predict` with ``return_std=True``, but the rows are there already.

    Parameters
    ----------
    model : FittedModel
    atoms : ase.Atoms
    rows : StructureRows
        Labels of the structure.
    scale : ndarray of shape (n_columns,), optional
        Of the columns of these rows to those of the model.

    Returns
    -------
    ndarray of shape (n,)
        Of each row [eV, eV/Å, eV].
    """
    columns = rows.phi.shape[1] - 1  # the virial offset is no kernel
    phi = rows.phi[:, :columns] * rows.unit[:, None]
    if scale is not None:
        phi *= scale[:columns]
    system = System.of([atoms], model.local.r_cut)
    prior, largest = model.posterior.prior(
        system, virial=bool(np.any(rows.kind == KINDS.index("stress")))
    )
    # rows are sums over pairs: where these cancel by symmetry, what rounding leaves is
    # relative to one pair (about the prior per Å)
    largest = np.maximum(largest, model.local.prior(system).max())
    # labels in the order of the rows: energy, forces, virial
    start = np.array([0, 1, 1 + 3 * len(atoms)])
    count = np.array([1, 3 * len(atoms), 6])
    present = [start[k] + np.arange(count[k]) for k in range(len(KINDS)) if np.any(rows.kind == k)]
    members = np.concatenate(present)
    return np.sqrt(novelty(phi, prior[members], largest[members]))
