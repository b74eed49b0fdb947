"""A fit from beginning to end: the stages, and what passes between them.

`problem.prepare` fixes everything known before the kernels (e0, terms, noise, baseline),
`select` chooses the sparse points, `accumulate` streams the labels into triangular factors,
`noise` and `calibrate` leave structures out, `solution.solve` turns the factors into a model.
What passes between stages is immutable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from kernelpot.common.parallel import thread_count
from kernelpot.common.types import Group, Progress
from kernelpot.data.dataset import Dataset
from kernelpot.fit import accumulation
from kernelpot.fit.accumulation import Labels
from kernelpot.fit.basis import is_form_better, is_open
from kernelpot.fit.calibrate import calibrated
from kernelpot.fit.checkpoint import Checkpoint, fingerprint
from kernelpot.fit.defaults import Basis
from kernelpot.fit.full_mean import Keeper, WholeForms, WholeMean
from kernelpot.fit.gradient_domain import AllDirections, forces_alone, term_of, with_less_noise
from kernelpot.fit.hyperparameters import Tuned
from kernelpot.fit.left_out import choose_some, rows_of, structures_to_leave_out
from kernelpot.fit.noise import (
    METHODS,
    MINIMUM_STRUCTURES,
    choose_hyperparameters,
    free_parameters,
    is_searched,
)
from kernelpot.fit.plan import OverBudgetError, Plan, expected_seconds, plan_memory
from kernelpot.fit.problem import Problem, prepare
from kernelpot.fit.progress import Overall, never_back, nth_of
from kernelpot.fit.settings import Settings
from kernelpot.fit.solution import record, solve
from kernelpot.fit.sparse_points import MAX_CANDIDATE_BYTES
from kernelpot.fit.state import State
from kernelpot.gp.quadratic import Forms
from kernelpot.model.fitted import FittedModel
from kernelpot.regression.factors import GroupedFactor
from kernelpot.regression.leave_one_out import LeftOut, leave_out_together
from kernelpot.regression.rows import StructureRows

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Options:
    """How a fit is made: arguments of `KernelPotential.fit`, which has their meaning."""

    optimize: str | None = "loo"
    calibrate: bool = True
    memory: float | str | None = None
    n_threads: int | None = None
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_interval: float = 60.0
    client: Client | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense before any work starts."""
        if self.optimize not in METHODS:
            raise ValueError(f"`optimize` must be 'loo', 'evidence' or None, got {self.optimize!r}")
        if self.client is not None and self.checkpoint is not None:
            raise ValueError(
                "`checkpoint` is for a fit in one process: with `client` lost workers are "
                "made up for by the others; leave one of the two out"
            )


class Saver(Protocol):
    """Whoever keeps the state of a fit (`kernelpot.fit.checkpoint.Checkpoint`)."""

    def save_if_due(self, state: State) -> None:
        """Look at the state, and keep it if it is time."""


def fit(data: Dataset, settings: Settings, options: Options) -> FittedModel:
    """Fit a model to labelled structures.

    Parameters
    ----------
    data : Dataset
    settings : Settings
    options : Options

    Returns
    -------
    FittedModel

    Raises
    ------
    ValueError
        If data or parameters are unusable, or the checkpoint belongs to another fit;
        the message names the remedy.
    """
    started = time.perf_counter()
    if is_open(data, settings, options.optimize):
        reached = _better_basis(data, settings, options)
    else:
        reached = _mean(data, settings, options)
    model = _finished(reached, options)
    training = replace(model.training, wall_seconds=time.perf_counter() - started)
    for saver in reached.savers:
        saver.remove()
    return replace(model, training=training.stamped())


@dataclass(frozen=True)
class _Reached:
    """A fit that has its mean: what later stages need."""

    problem: Problem
    plan: Plan
    progress: Progress | None
    state: State
    grouped: GroupedFactor
    tuned: Tuned
    left_out: Sequence[StructureRows]
    whole: WholeMean | None
    savers: Sequence[Checkpoint]
    notes: Sequence[str] = ()

    def errors(self, folds: Sequence[Sequence[int]]) -> list[LeftOut]:
        """Of structures left out, some frames together."""
        rows = {own.index: own for own in self.left_out}
        known = [[rows[index] for index in fold if index in rows] for fold in folds]
        if self.whole is not None:
            residuals = self.whole.residuals or {}
            return [
                LeftOut(own, residuals[own.index], own.unit, None, True)
                for fold in known
                for own in fold
            ]
        sigma, scale = self.tuned.noise.sigma, self.tuned.scale(self.state.design)
        factor = self.grouped.posterior(sigma, scale)
        return leave_out_together([fold for fold in known if fold], factor, sigma, scale)


def _better_basis(data: Dataset, settings: Settings, options: Options) -> _Reached:
    """Fit both bases of compounds, and let structures left out decide."""
    both = [options, options]
    if options.progress is not None:
        forward = never_back(options.progress)
        both = [replace(options, progress=nth_of(forward, k, 2)) for k in range(2)]
    if options.checkpoint is not None:
        own = f"{os.fspath(options.checkpoint)}.form"
        both[1] = replace(both[1], checkpoint=own)
    sparse = _mean(data, settings, both[0], "sparse")
    try:
        form = _mean(data, settings, both[1], "form")
    except OverBudgetError:  # which would have been enough for one of them
        note = (
            "terms with sparse points: the memory budget has no room for a whole form beside them"
        )
        return replace(sparse, notes=[note])
    types = [frame.config_type for frame in sparse.problem.frames]
    folds = () if form.whole is None else form.whole.folds
    better, compared = is_form_better(sparse.errors(folds), form.errors(folds), types)
    chosen, verdict = sparse, "terms with sparse points, as a whole quadratic form is not better"
    if better:
        chosen, verdict = form, "a whole quadratic form, better than terms with sparse points"
    return replace(
        chosen,
        savers=[*sparse.savers, *form.savers],
        notes=[f"{verdict} ({compared})"],
    )


def _mean(
    data: Dataset, settings: Settings, options: Options, basis: Basis | None = None
) -> _Reached:
    """All stages up to the mean."""
    problem = prepare(data, settings, basis=basis, n_threads=thread_count(options.n_threads))
    searched = is_searched(options.optimize, problem, settings)
    plan = plan_memory(
        problem,
        settings,
        thread_count(options.n_threads),
        options.memory,
        searched=searched,
        leaves_out=options.calibrate or options.optimize is not None,
    )
    n_threads, progress = plan.n_threads, options.progress
    if progress is not None:
        progress = Overall(progress, expected_seconds(problem, plan))
    saver = None
    if options.checkpoint is not None:
        of_this_fit = fingerprint(problem, settings, plan, options.optimize, options.calibrate)
        saver = Checkpoint(options.checkpoint, of_this_fit, options.checkpoint_interval)

    state = None if saver is None else saver.load()
    if state is None:
        state = select(problem, settings, plan, progress=progress)
    chosen = structures_to_leave_out(
        problem,
        state,
        optimize=options.optimize,
        calibrate=options.calibrate,
        max_bytes=plan.left_out_bytes,
    )
    kept: dict[int, StructureRows] = {}
    grouped = accumulate(
        problem,
        state,
        plan,
        saver=saver,
        client=options.client,
        progress=progress,
        apart=chosen,
        kept=kept,
    )
    left_out = rows_of(chosen, kept, problem, state, n_threads=n_threads)
    tuned = choose_hyperparameters(
        options.optimize,
        problem,
        settings,
        state,
        grouped,
        left_out,
        n_threads=n_threads,
        progress=progress,
    )
    free = free_parameters(settings, grouped.groups, problem.n_kernels).groups
    tuned = with_less_noise(tuned, state.design, problem.frames, free)
    whole = _whole_mean(
        problem, state, grouped, tuned, left_out, free, plan, options, saver, progress
    )
    savers = [] if saver is None else [saver]
    return _Reached(problem, plan, progress, state, grouped, tuned, left_out, whole, savers)


def _finished(reached: _Reached, options: Options) -> FittedModel:
    """A model of the solution, calibrated, with the record of its training."""
    problem, state, tuned, whole = reached.problem, reached.state, reached.tuned, reached.whole
    n_threads, progress = reached.plan.n_threads, reached.progress
    notes = [*reached.notes, *state.notes, *(() if whole is None else whole.notes)]
    model = solve(problem, state, reached.grouped, tuned, n_threads=n_threads, whole=whole)
    if options.calibrate:
        model = calibrated(
            model,
            problem,
            reached.left_out,
            tuned.scale(state.design),
            residuals=None if whole is None else whole.residuals,
            n_threads=n_threads,
            progress=progress,
        )
    training = record(model, problem, tuned, notes, n_threads=n_threads, progress=progress)
    return replace(model, training=training.noting(f"the fit {reached.plan}"))


def _whole_mean(
    problem: Problem,
    state: State,
    grouped: GroupedFactor,
    tuned: Tuned,
    left_out: Sequence[StructureRows],
    free: Sequence[Group],
    plan: Plan,
    options: Options,
    keeper: Keeper | None,
    progress: Progress | None,
) -> WholeMean | None:
    """The mean that has more than the columns of the regression, where a term asks for it."""
    scale = tuned.scale(state.design)
    forms = Forms.of(state.design, scale)
    if forms.forms:
        return WholeForms(
            forms,
            problem.frames,
            tuned.noise,
            free,
            lambda noise: grouped.posterior(noise.sigma, scale),
            max_bytes=plan.spare_bytes,
            n_threads=plan.n_threads,
            progress=progress,
        ).fit(left_out, state.unseen, keeper=keeper)
    if term_of(state.design) is None:
        return None
    of_forces = grouped.posterior(forces_alone(tuned.noise), scale)
    return AllDirections(state.design.rescaled(tuned.delta), of_forces).fit(
        problem.frames,
        tuned.noise,
        grouped.posterior(tuned.noise.sigma, scale),
        choose_some(left_out, state.unseen, MINIMUM_STRUCTURES) if options.calibrate else [],
        keeper=keeper,
        progress=progress,
    )


# ---- stages ------------------------------------------------------------------------


def select(
    problem: Problem,
    settings: Settings,
    plan: Plan | None = None,
    *,
    progress: Progress | None = None,
) -> State:
    """Choose the sparse points of every term; nothing is streamed yet.

    Raises
    ------
    ValueError
        If more points are asked for than there are environments, or given ones leave
        out a species.
    """
    return State.chosen(
        problem.terms,
        problem.species,
        problem.frames,
        held_out=problem.held_out,
        settings=settings,
        constants=problem.constants,
        candidate_bytes=MAX_CANDIDATE_BYTES if plan is None else plan.candidate_bytes,
        n_threads=1 if plan is None else plan.n_threads,
        progress=progress,
    )


def accumulate(
    problem: Problem,
    state: State,
    plan: Plan | None = None,
    *,
    n_threads: int = 1,
    saver: Saver | None = None,
    client: Client | None = None,
    progress: Progress | None = None,
    apart: Sequence[int] = (),
    kept: dict[int, StructureRows] | None = None,
) -> GroupedFactor:
    """Stream the labels of all frames into the factors of their groups.

    Parameters
    ----------
    problem : Problem
    state : State
        Where to start or continue.
    plan : Plan, optional
        How to use memory and threads.
    n_threads : int
        Without a plan.
    saver : Saver, optional
        Is shown the state after each batch.
    client : distributed.Client, optional
        Lets the workers of a cluster do it, from the start.
    progress : callable, optional
    apart : sequence of int
        Frames whose rows are made one frame at a time.
    kept : dict, optional
        Receives the rows of these that are made in this process.

    Returns
    -------
    GroupedFactor
    """
    labels = Labels(state.design, problem.frames, problem.noise, apart=frozenset(apart))
    batch_bytes = accumulation.BATCH_BYTES if plan is None else plan.batch_bytes
    if client is not None:
        from kernelpot.fit.cluster import accumulate_on

        return accumulate_on(client, labels, batch_bytes=batch_bytes, progress=progress)
    return accumulation.accumulate(
        labels,
        batch_bytes=batch_bytes,
        n_threads=n_threads if plan is None else plan.n_threads,
        tree=state.tree,
        after_batch=None if saver is None else lambda _: saver.save_if_due(state),
        progress=progress,
        kept=kept,
    )
