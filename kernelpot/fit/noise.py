"""Noise and prior scales that leave-one-structure-out errors or the evidence prefer.

Maximal evidence is not minimal error on this kind of data: its noise model is wrong
(residuals of one structure are correlated), and it pushes the noise of energies far too
high. So the evidence is one starting point, the fixed defaults the other, and the
closed-form leave-one-structure-out error decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize

from kernelpot.common.parallel import single_blas_thread
from kernelpot.common.types import KINDS, FloatArray, Progress
from kernelpot.fit.hyperparameters import Candidates, Free, Tuned
from kernelpot.fit.problem import Problem
from kernelpot.fit.scores import PULL, Errors, Score, pull
from kernelpot.fit.settings import Settings
from kernelpot.fit.state import State
from kernelpot.gp.labels import ABSOLUTE, Noise, group_rows
from kernelpot.regression.evidence import effective_parameters
from kernelpot.regression.factors import GroupedFactor, TriangularFactor
from kernelpot.regression.layout import Layout
from kernelpot.regression.leave_one_out import LeftOut, leave_one_out
from kernelpot.regression.leave_one_out_quick import GramFactor, QuickLeaveOneOut
from kernelpot.regression.rows import StructureRows

METHODS = ("loo", "evidence", None)
# Fewer structures say too little: the defaults stay.
MINIMUM_STRUCTURES = 10
# Values stay within this factor of the start.
BOUND = 100.0
# The search starts from the evidence's values if their score is lower by this much.
MINIMUM_GAIN = 0.01
# The start stays unless errors fall by this share on (weighted) average, and by so many
# standard errors: a left-out structure may hold sparse points, so leaving it out forgives
# too little regularization, and small gains are of that kind.
WORTHWHILE_GAIN = 0.05
SIGNIFICANCE = 2.0
# First and last step of the search, as factors.
FIRST_STEP, LAST_STEP = 3.0, 1.05
# Floating-point operations one search may take, about; bounds on evaluations.
MAX_WORK = 1.5e12
MINIMUM_EVALUATIONS, MAXIMUM_EVALUATIONS = 12, 50
# Columns the evidence is maximized with: as a start for the search, and on its own.
EVIDENCE_COLUMNS_START, EVIDENCE_COLUMNS = 600, 2000
MAX_EVIDENCE_ITERATIONS = 30


def tune(
    method: str | None,
    grouped: GroupedFactor,
    layout: Layout,
    noise: Noise,
    free: Free,
    structures: Sequence[StructureRows],
    config_types: Sequence[str],
    *,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> Tuned:
    """Choose hyper-parameters.

    Parameters
    ----------
    method : {"loo", "evidence", None}
    grouped : GroupedFactor
        Labels of all data at unit noise.
    layout : Layout
        Whitened columns.
    noise : Noise
        The start, and what stays of it: sigmas of groups that are not free.
    free : Free
    structures : sequence of StructureRows
        Some of the structures in `grouped`, which are left out one at a time.
    config_types : sequence of str
        Their config types.
    n_threads : int
    progress : callable, optional

    Returns
    -------
    Tuned
        The start itself where nothing better was found.
    """
    start = Candidates(grouped, layout, noise, free)
    zero = np.zeros(len(free.names))
    if method is None or not free.names:
        return Tuned.unchanged(noise, start.n_terms)
    if len(structures) < MINIMUM_STRUCTURES:
        note = (
            f"hyper-parameters: the defaults, {len(structures)} structures are too few to choose "
            f"by (at least {MINIMUM_STRUCTURES} are needed)"
        )
        return Tuned.unchanged(noise, start.n_terms, [note])
    factor = start.posterior(zero)
    before = errors = Errors.of(_left_out(start, zero, factor, structures, n_threads))
    with single_blas_thread():
        if method == "evidence":
            x, used = _maximize_evidence(start.smaller(EVIDENCE_COLUMNS)), 0
        else:
            x, used = _minimize_loo(start, before, structures, config_types, n_threads, progress)
    x = _rounded(start, x)
    if x.any():
        chosen = start.posterior(x)
        errors = Errors.of(_left_out(start, x, chosen, structures, n_threads))
        if method == "evidence" or _worthwhile(before, errors, config_types):
            factor = chosen
        else:
            x, errors = zero, before
    after, delta = start.noise_at(x), start.delta_at(x)
    record = {
        "method": method,
        "sigmas": {
            name: [n.sigma(group) for n in (noise, after)]
            for name, group in zip(free.names, free.groups, strict=False)
        },
        "delta_factors": list(delta),
        "loo": {"before": before.mean(), "after": errors.mean()},
        "n_structures": len(structures),
        "n_evaluations": used,
        "n_parameters": effective_parameters(factor),
    }
    return Tuned(after, delta, record, _notes(method, layout, free, x))


def _notes(method: str, layout: Layout, free: Free, x: FloatArray) -> list[str]:
    """What the user should know about the values chosen."""
    notes = []
    if method == "evidence" and layout.size > EVIDENCE_COLUMNS:
        notes.append(
            f"the evidence was maximized with the leading {EVIDENCE_COLUMNS} of "
            f"{layout.size} directions"
        )
    at_bound = [n for n, v in zip(free.names, x, strict=True) if abs(v) > np.log(BOUND) - 1e-6]
    if at_bound:
        notes.append(
            f"{', '.join(at_bound)} ended a factor {BOUND:g} from the default, as far as the "
            "search goes: are the labels in the right units?"
        )
    return notes


def _maximize_evidence(candidates: Candidates) -> FloatArray:
    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = candidates.evidence(x)
        return value + pull(x), gradient + 2.0 * PULL * x / np.log(10.0) ** 2

    n = len(candidates.free.names)
    limit = np.log(BOUND)
    found = minimize(
        objective,
        np.zeros(n),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-limit, limit)] * n,
        options={"maxiter": MAX_EVIDENCE_ITERATIONS, "ftol": 1e-7},
    )
    return np.asarray(found.x)


def _minimize_loo(
    start: Candidates,
    at_start: Errors,
    structures: Sequence[StructureRows],
    config_types: Sequence[str],
    n_threads: int,
    progress: Progress | None,
) -> tuple[FloatArray, int]:
    """Search from the better of defaults and evidence."""
    budget = affordable(start.grouped.n_features, sum(len(rows.y) for rows in structures))
    fast = GramFactor.of(start.grouped)
    leave_out = QuickLeaveOneOut(structures, n_threads=n_threads)
    score = Score(config_types)
    zero = np.zeros(len(start.free.names))
    # the search asks for its start again
    known = {zero.tobytes(): score(at_start)}

    def objective(x: FloatArray) -> float:
        if x.tobytes() not in known:
            sigma, scale = start.noise_at(x).sigma, start.scale_at(x)
            left_out = leave_out(fast.posterior(sigma, scale), sigma, scale)
            known[x.tobytes()] = score(Errors.of(left_out)) + pull(x)
        if progress is not None:
            progress("hyper-parameters", min(len(known), budget), budget)
        return known[x.tobytes()]

    begin = _maximize_evidence(start.smaller(EVIDENCE_COLUMNS_START))
    if objective(begin) > known[zero.tobytes()] - MINIMUM_GAIN:
        begin = zero
    limit = np.log(BOUND)
    directions = _directions(start.free, start.grouped.groups)
    found = minimize(
        lambda u: objective(np.clip(begin + directions.T @ u, -limit, limit)),
        np.zeros(len(directions)),
        method="COBYQA",
        options={
            # a model of all directions, and some steps by it
            "maxfev": max(budget - len(known), 2 * len(directions) + 6),
            "initial_tr_radius": np.log(FIRST_STEP),
            "final_tr_radius": np.log(LAST_STEP),
        },
    )
    return np.clip(begin + directions.T @ found.x, -limit, limit), len(known)


def _worthwhile(before: Errors, after: Errors, config_types: Sequence[str]) -> bool:
    """Whether errors fell by enough, and beyond doubt."""
    score = Score(config_types)
    gain = score.influence(before) - score.influence(after)
    error = float(gain.std()) / np.sqrt(len(gain))
    return bool(gain.mean() > max(WORTHWHILE_GAIN * before.weight, SIGNIFICANCE * error))


def _directions(free: Free, groups: Sequence[Any]) -> FloatArray:
    """Rows to move along, independent of each other.

    All sigmas together (against the prior), those of energies, those of stresses, each
    config type with a sigma of its own, deltas. The first delta is left out where every
    sigma is free: all deltas against these is the first direction.
    """
    all_free = set(free.groups) >= set(groups) - {ABSOLUTE}
    unit = np.eye(len(free.names))
    sigmas = unit[: len(free.groups)]
    of_kind = {
        kind: sum(row for row, group in zip(sigmas, free.groups, strict=True) if group[0] == kind)
        for kind in free.kinds
    }
    wanted = [sigmas.sum(axis=0), *(of_kind[k] for k in free.kinds if k != "forces")]
    wanted += [row for row, (_, name) in zip(sigmas, free.groups, strict=True) if name]
    wanted += list(unit[len(free.groups) + all_free :])
    chosen: list[FloatArray] = []
    for row in wanted:
        if np.linalg.matrix_rank(np.array([*chosen, row])) > len(chosen):
            chosen.append(row)
    return np.array(chosen)


def _left_out(
    candidates: Candidates,
    x: FloatArray,
    factor: TriangularFactor,
    structures: Sequence[StructureRows],
    n_threads: int,
) -> list[LeftOut]:
    noise = candidates.noise_at(x)
    scale = candidates.scale_at(x)
    return list(leave_one_out(structures, factor, noise.sigma, scale, n_threads=n_threads))


def affordable(n_columns: int, n_held: int) -> int:
    """Evaluations the work budget allows (a count, so that results are reproducible).

    Parameters
    ----------
    n_columns : int
    n_held : int
        Rows of the structures left out.
    """
    work = n_columns**2 * (n_held + n_columns / 3.0)
    return int(np.clip(MAX_WORK / work, MINIMUM_EVALUATIONS, MAXIMUM_EVALUATIONS))


def expected_work(n_columns: int, group_rows: Sequence[int], n_held: int) -> float:
    """Floating-point operations of a search in double precision, about (single is twice as fast).

    Parameters
    ----------
    n_columns : int
    group_rows : sequence of int
        Labels of each group.
    n_held : int
        Rows of the structures left out.

    Returns
    -------
    float
    """
    square = float(n_columns) ** 2
    # triangles are combined exactly at the start and in the end
    combined = 2.0 * square * sum(min(rows, n_columns) for rows in group_rows)
    exact = 2.0 * (combined + square * n_held)
    # Cholesky and inverse
    quick = square * (0.5 * n_held + n_columns)
    return exact + 0.5 * combined + affordable(n_columns, n_held) * quick


def _rounded(start: Candidates, x: FloatArray) -> FloatArray:
    """Vector of values rounded to three digits: no more is known, and rounding differs."""
    noise = start.noise_at(x)
    result = [
        np.log(float(f"{noise.sigma(group):.3g}") / start.noise.sigma(group))
        for group in start.free.groups
    ]
    result += [np.log(float(f"{np.exp(v):.3g}")) for v in x[len(start.free.groups) :]]
    return np.where(x == 0, 0.0, result)


def choose_hyperparameters(
    method: str | None,
    problem: Problem,
    settings: Settings,
    state: State,
    grouped: GroupedFactor,
    structures: Sequence[StructureRows],
    *,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> Tuned:
    """Choose noise and prior scales that the user did not give.

    Parameters
    ----------
    method : {"loo", "evidence", None}
    problem, settings, state, grouped
        What the earlier stages made.
    structures : sequence of StructureRows
        Structures to leave out.
    n_threads : int
    progress : callable, optional

    Returns
    -------
    Tuned
    """
    return tune(
        method,
        grouped,
        state.design.layout,
        problem.noise,
        free_parameters(settings, grouped.groups, len(problem.terms)),
        structures,
        [problem.frames[rows.index].config_type for rows in structures],
        n_threads=n_threads,
        progress=progress,
    )


def is_searched(method: str | None, problem: Problem, settings: Settings) -> bool:
    """Whether structures are left out again and again to choose something."""
    groups = list(group_rows(problem.frames, problem.noise))
    return method == "loo" and bool(free_parameters(settings, groups, len(problem.terms)).names)


def free_parameters(settings: Settings, groups: Sequence[Any], n_terms: int) -> Free:
    """What the user left to be chosen, of the labels there are.

    Parameters
    ----------
    settings : Settings
    groups : sequence of Group
        Groups of labels that the data have.
    n_terms : int

    Returns
    -------
    Free
    """
    given = {(kind, "") for kind in KINDS if getattr(settings, f"sigma_{kind}") is not None}
    given |= {
        (kind, name)
        for name, sigmas in settings.own_sigmas.items()
        for kind, sigma in sigmas.items()
        if sigma is not None
    }
    return Free(
        tuple(g for g in groups if g[0] in KINDS and g not in given),
        tuple(range(n_terms)) if settings.terms is None else (),
    )
