"""Noise and prior scales that leave-one-structure-out errors or the evidence prefer.

Maximal evidence is not minimal error on this kind of data: its noise model is wrong
(residuals of one structure are correlated), and it pushes the noise of energies far too
high. So the evidence is one starting point, the fixed defaults the other, and the
closed-form leave-one-structure-out error decides. Neither way may errors of any kind of
label or config type grow (`kernelpot.fit.limits`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kernelpot.common.parallel import single_blas_thread
from kernelpot.common.types import KINDS, FloatArray, Progress
from kernelpot.fit.hyperparameters import Candidates, Free, Tuned, far_notes
from kernelpot.fit.limits import TOLERATED, Limits
from kernelpot.fit.noise_search import (
    BOUND,
    farthest_allowed,
    maximize_evidence,
    minimize_left_out,
)
from kernelpot.fit.problem import Problem
from kernelpot.fit.scores import Errors, Score
from kernelpot.fit.settings import Settings
from kernelpot.fit.state import State
from kernelpot.gp.labels import Noise, group_rows
from kernelpot.regression.evidence import effective_parameters
from kernelpot.regression.factors import GroupedFactor, TriangularFactor
from kernelpot.regression.layout import Layout
from kernelpot.regression.leave_one_out import leave_one_out
from kernelpot.regression.rows import StructureRows

METHODS = ("loo", "evidence", None)
# Fewer structures say too little: the defaults stay.
MINIMUM_STRUCTURES = 10
# The start stays unless errors fall by this share on (weighted) average, and by so many
# standard errors: a left-out structure may hold sparse points, so leaving it out forgives
# too little regularization, and small gains are of that kind. With the limits on what may grow
# (`kernelpot.fit.limits`) gains of 3 to 5 % held on validation splits of silicon and molybdenum.
WORTHWHILE_GAIN = 0.02
SIGNIFICANCE = 2.0
# Points of the search, best first, whose errors are computed exactly until one is allowed.
MAX_EXACT = 5
# Columns the evidence is maximized with.
EVIDENCE_COLUMNS = 2000


@dataclass(frozen=True)
class Exact:
    """A point with its exact posterior.

    Attributes
    ----------
    x : ndarray of shape (n_parameters,)
    factor : TriangularFactor
    errors : Errors
        Of structures left out.
    """

    x: FloatArray
    factor: TriangularFactor
    errors: Errors


def tune(
    method: str | None,
    grouped: GroupedFactor,
    layout: Layout,
    noise: Noise,
    free: Free,
    structures: Sequence[StructureRows],
    config_types: Sequence[str],
    *,
    limited: bool = True,
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
    limited : bool
        Whatever the method, the error of structures left out grows for no kind of label,
        by more than 2 % over all of them and 5 % within a config type (`Limits`).
    n_threads : int
    progress : callable, optional

    Returns
    -------
    Tuned
        The start itself where nothing better was found.
    """
    start = Candidates(grouped, layout, noise, free)
    if method is None or not free.names:
        return Tuned.unchanged(noise, start.n_terms)
    if len(structures) < MINIMUM_STRUCTURES:
        note = (
            f"hyper-parameters: the defaults, {len(structures)} structures are too few to choose "
            f"by (at least {MINIMUM_STRUCTURES} are needed)"
        )
        return Tuned.unchanged(noise, start.n_terms, [note])

    def exactly(x: FloatArray) -> Exact:
        factor, sigma, scale = start.posterior(x), start.noise_at(x).sigma, start.scale_at(x)
        left_out = leave_one_out(structures, factor, sigma, scale, n_threads=n_threads)
        return Exact(x, factor, Errors.of(list(left_out)))

    before = exactly(np.zeros(len(free.names)))
    limits = Limits.of(before.errors, config_types) if limited else Limits()
    used = 0
    notes: list[str] = []
    if method == "evidence":
        chosen, notes = _by_evidence(start, before, limits, exactly)
    else:
        with single_blas_thread():
            trials = minimize_left_out(
                start, before.errors, limits, structures, config_types, n_threads, progress
            )
        used = len(trials)
        points = [_rounded(start, trial.x) for trial in trials.allowed()]
        chosen = _first_allowed(points, before, limits, exactly, config_types)
    record = _record(method, start, before, chosen, config_types) | {"n_evaluations": used}
    return Tuned(
        start.noise_at(chosen.x),
        start.delta_at(chosen.x),
        record,
        [*notes, *_bound_note(free, chosen.x)],
    )


def _by_evidence(
    start: Candidates, before: Exact, limits: Limits, exactly: Callable[[FloatArray], Exact]
) -> tuple[Exact, list[str]]:
    """As near to the largest evidence as errors of structures left out allow."""
    notes = []
    if start.layout.size > EVIDENCE_COLUMNS:
        notes.append(
            f"the evidence was maximized with the leading {EVIDENCE_COLUMNS} of "
            f"{start.layout.size} directions"
        )
    with single_blas_thread():
        best = maximize_evidence(start.smaller(EVIDENCE_COLUMNS))
    # one posterior is kept, that of the farthest point allowed so far: each is large
    reached, refused = [before], []

    def allowed(x: FloatArray) -> bool:
        found = exactly(_rounded(start, x))
        if not limits.allow(found.errors):
            refused.append(limits.worst(found.errors))
            return False
        reached[0] = found
        return True

    share = farthest_allowed(best, allowed)
    if share < 1.0:
        kept = (
            f"the values are those after {100 * share:.0f} % of the way from the defaults, on a "
            f"logarithmic scale: up to there none grows by more than {_percent('all')} "
            f"({_percent('config type')} of a config type)"
        )
        notes.append(
            f"the largest evidence would raise the error of structures left out ({refused[0]}): "
            + (kept if share else "the defaults stay")
        )
    return reached[0], notes


def _first_allowed(
    points: Sequence[FloatArray],
    before: Exact,
    limits: Limits,
    exactly: Callable[[FloatArray], Exact],
    config_types: Sequence[str],
) -> Exact:
    """The best point of a search that is allowed, if it is worth leaving the start."""
    for x in points[:MAX_EXACT]:
        if not x.any():
            break
        found = exactly(x)
        if limits.allow(found.errors):
            return found if is_worthwhile(before.errors, found.errors, config_types) else before
    return before


def _record(
    method: str, start: Candidates, before: Exact, chosen: Exact, config_types: Sequence[str]
) -> dict[str, Any]:
    """What was chosen, as plain data; see `Tuned`."""
    after = start.noise_at(chosen.x)
    free = start.free
    by_type = {
        name: {
            "n_structures": list(config_types).count(name),
            "before": before.errors.of_type(config_types, name).mean(),
            "after": chosen.errors.of_type(config_types, name).mean(),
        }
        for name in sorted(set(config_types))
    }
    return {
        "method": method,
        "sigmas": {
            name: [n.sigma(group) for n in (start.noise, after)]
            for name, group in zip(free.names, free.groups, strict=False)
        },
        "delta_factors": list(start.delta_at(chosen.x)),
        "loo": {
            "before": before.errors.mean(),
            "after": chosen.errors.mean(),
            "by_config_type": by_type,
        },
        "n_structures": len(config_types),
        "n_parameters": effective_parameters(chosen.factor),
    }


def _bound_note(free: Free, x: FloatArray) -> list[str]:
    """Say which values ended where the search does."""
    # optimizers stop near a bound, and rounding does the rest
    at_bound = [n for n, v in zip(free.names, x, strict=True) if abs(v) > np.log(0.95 * BOUND)]
    if not at_bound:
        return []
    return [
        f"{', '.join(at_bound)} ended a factor {BOUND:g} from the default, as far as the "
        "search goes: are the labels in the right units, and are forces no gradients (kernelpot "
        "check)?"
    ]


def is_worthwhile(
    before: Errors,
    after: Errors,
    config_types: Sequence[str],
    significance: float = SIGNIFICANCE,
) -> bool:
    """Whether errors fell by enough, and beyond doubt.

    Parameters
    ----------
    before, after : Errors
        Of the same structures.
    config_types : sequence of str
        Of these.
    significance : float
        Standard errors that the gain must exceed.

    Returns
    -------
    bool
    """
    score = Score(config_types)
    gain = score.influence(before) - score.influence(after)
    error = float(gain.std()) / np.sqrt(len(gain))
    return bool(gain.mean() > max(WORTHWHILE_GAIN * before.weight, significance * error))


def _percent(of: str) -> str:
    """By how much errors may grow."""
    return f"{100 * (TOLERATED[of] - 1):.0f} %"


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
    tuned = tune(
        method,
        grouped,
        state.design.layout,
        problem.noise,
        free_parameters(settings, grouped.groups, problem.n_kernels),
        structures,
        [problem.frames[rows.index].config_type for rows in structures],
        n_threads=n_threads,
        progress=progress,
    )
    deltas = [term.kernel.delta for term in state.design.terms]
    return replace(tuned, notes=[*tuned.notes, *far_notes(tuned.record, deltas)])


def is_searched(method: str | None, problem: Problem, settings: Settings) -> bool:
    """Whether structures are left out again and again to choose something."""
    groups = list(group_rows(problem.frames, problem.noise))
    return method == "loo" and bool(free_parameters(settings, groups, problem.n_kernels).names)


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
