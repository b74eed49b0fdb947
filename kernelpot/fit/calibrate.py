"""Calibrating a fitted model with structures left out one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from ase import Atoms

from kernelpot.common.parallel import thread_count
from kernelpot.common.types import KINDS, FloatArray, IntArray, Progress
from kernelpot.data.system import volume_of
from kernelpot.fit.noise import MINIMUM_STRUCTURES
from kernelpot.fit.problem import Problem
from kernelpot.model.calibration import Beyond, Calibration
from kernelpot.model.fitted import N_MEMBERS, FittedModel
from kernelpot.regression.leave_one_out import leave_one_out
from kernelpot.regression.rows import StructureRows

# Atoms whose prior standard deviations of forces and virials are looked at.
PRIOR_ATOMS = 64

Scalars = TypeVar("Scalars", FloatArray, IntArray)


def calibrated(
    model: FittedModel,
    problem: Problem,
    structures: Sequence[StructureRows],
    scale: FloatArray | None = None,
    *,
    residuals: Mapping[int, FloatArray] | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> FittedModel:
    """Calibrate a model with some of the structures it was fitted to, each left out.

    What the others leave open of a label is known in closed form. A prediction estimates it
    by the spread of a few potentials; it is given the same scatter here, for which scales
    and quantiles then make up.

    Parameters
    ----------
    model : FittedModel
    problem : Problem
    structures : sequence of StructureRows
        Rows of frames of `problem`.
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
    rng = np.random.default_rng(0)
    errors: dict[str, list[FloatArray]] = {kind: [] for kind in KINDS}
    open_: dict[str, list[FloatArray]] = {kind: [] for kind in KINDS}
    numbers: dict[str, list[IntArray]] = {kind: [] for kind in KINDS}
    found = leave_one_out(
        structures,
        model.factor,
        model.noise.sigma,
        scale,
        variance=True,
        n_threads=thread_count(n_threads),
    )
    for done, left in enumerate(found):
        atoms = problem.frames[left.rows.index].atoms
        volume = volume_of(atoms)
        residual = left.residual if residuals is None else residuals[left.rows.index]
        for kind in KINDS:
            own = left.rows.kind == KINDS.index(kind)
            if not own.any() or (kind == "stress" and volume is None):
                continue
            unit = 1.0
            if kind == "energy":
                unit = 1.0 / np.sqrt(len(atoms))
            elif kind == "stress" and volume is not None:
                unit = 1.0 / volume
            assert left.variance is not None
            n = np.count_nonzero(own)
            scatter = np.sqrt(rng.chisquare(N_MEMBERS, n) / N_MEMBERS)
            errors[kind].append(unit * residual[own])
            open_[kind].append(unit * scatter * np.sqrt(left.variance[own]))
            numbers[kind].append(
                np.repeat(atoms.numbers, 3) if kind == "forces" else np.zeros(n, dtype=np.int64)
            )
        if progress is not None:
            progress("calibration", done + 1, len(structures))
    calibration = Calibration.of(
        _joined(errors),
        _joined(open_),
        _joined(numbers),
        len(structures),
        beyond_of(model, [problem.frames[rows.index].atoms for rows in structures]),
    )
    return replace(model, calibration=calibration)


def beyond_of(model: FittedModel, structures: Sequence[Atoms]) -> dict[int, Beyond]:
    """What tells environments that are like nothing in the data.

    Parameters
    ----------
    model : FittedModel
    structures : sequence of ase.Atoms
        Those left out. Of some of them sparse points were not chosen from: their spilling is
        that of new structures.

    Returns
    -------
    dict of int to Beyond
        Of each species that they have.
    """
    spilling: dict[int, float] = {}
    squares: dict[int, list[FloatArray]] = {}
    strains: list[float] = []
    n_atoms = 0
    for atoms in structures:
        system = model.system(atoms)
        found = model.spilling(system)
        for z in np.unique(atoms.numbers).tolist():
            spilling[z] = max(spilling.get(z, 0.0), float(found[atoms.numbers == z].max()))
        # a few atoms of each species tell the slopes of the prior
        new = [z for z in spilling if z not in squares]
        if n_atoms + len(atoms) <= PRIOR_ATOMS or new:
            n_atoms += len(atoms)
            prior = np.maximum(model.local.prior(system), 1e-300)
            strained = volume_of(atoms) is not None
            labels = model.posterior.prior(system, virial=strained)[0]
            of_forces = labels[1 : 1 + 3 * len(atoms)].reshape(-1, 3) / prior[:, None]
            for z in np.unique(atoms.numbers).tolist():
                squares.setdefault(z, []).append(of_forces[atoms.numbers == z].mean(axis=1))
            if strained:
                strains.append(float(labels[-6:].mean() / prior.sum()))
    strain = float(np.sqrt(np.mean(strains))) if strains else 0.0
    return {
        z: Beyond(most, float(np.sqrt(np.mean(np.concatenate(squares[z])))), strain)
        for z, most in spilling.items()
    }


def _joined(parts: Mapping[str, list[Scalars]]) -> dict[str, Scalars]:
    """Arrays of each kind that has any, one after the other."""
    return {kind: np.concatenate(arrays) for kind, arrays in parts.items() if arrays}
