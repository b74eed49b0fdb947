"""The stages of a fit, from labelled frames to a fitted model.

`preparation.prepare` fixes everything known before the kernels (e0, terms, noise, baseline),
`select` chooses the sparse points, `accumulation.accumulate` streams the labels into
triangular factors, `solve` turns these into a model. What passes between stages is immutable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from ase.data import chemical_symbols

from kernelpot.common.types import Progress
from kernelpot.fit import accumulation
from kernelpot.fit.accumulation import Labels
from kernelpot.fit.plan import Plan
from kernelpot.fit.problem import Problem
from kernelpot.fit.settings import Settings
from kernelpot.fit.sparse_points import MAX_CANDIDATE_BYTES, choose_sparse_points
from kernelpot.fit.state import State
from kernelpot.gp.covariance import KernelTerm
from kernelpot.gp.design import Design
from kernelpot.gp.labels import ABSOLUTE
from kernelpot.gp.sharing import rows_of_alike_sites
from kernelpot.regression.factors import GroupedFactor

if TYPE_CHECKING:
    from distributed import Client


class Saver(Protocol):
    """Whoever keeps the state of a fit (`kernelpot.fit.checkpoint.Checkpoint`)."""

    def save_if_due(self, state: State) -> None:
        """Look at the state, and keep it if it is time."""


def select(
    problem: Problem,
    settings: Settings,
    *,
    candidate_bytes: float = MAX_CANDIDATE_BYTES,
    progress: Progress | None = None,
) -> tuple[list[KernelTerm], list[str], Sequence[int]]:
    """Choose the sparse points of every term.

    Returns
    -------
    terms : list of KernelTerm
    notes : list of str
    unseen : sequence of int
        The frames of the problem that no sparse point was chosen from.

    Raises
    ------
    ValueError
        If more points are asked for than there are environments, or given ones leave
        out a species.
    """
    kernel_terms, notes = [], []
    unseen = problem.held_out
    n_terms = len(problem.terms)
    for index, term in enumerate(problem.terms):
        kernel_term, found, chosen_from_all = choose_sparse_points(
            term,
            problem.species,
            problem.frames,
            held_out=problem.held_out,
            given=None if settings.sparse_points is None else settings.sparse_points[index],
            default_n_sparse=settings.default_n_sparse,
            seed=settings.seed,
            candidate_bytes=candidate_bytes,
            progress=None if progress is None else nth_of(progress, index, n_terms),
        )
        kernel_terms.append(kernel_term)
        notes += [f"term {index}: {note}" for note in found]
        unseen = () if chosen_from_all else unseen
    _check_every_species(kernel_terms, problem.species)
    return kernel_terms, notes, unseen


def accumulate(
    problem: Problem,
    state: State,
    plan: Plan,
    *,
    saver: Saver | None = None,
    client: Client | None = None,
    progress: Progress | None = None,
) -> GroupedFactor:
    """Stream the labels of all frames into the factors of their groups.

    Parameters
    ----------
    problem : Problem
    state : State
        Where to start or continue.
    plan : Plan
    saver : Saver, optional
        Is shown the state after each batch.
    client : distributed.Client, optional
        Lets the workers of a cluster do it, from the start.
    progress : callable, optional

    Returns
    -------
    GroupedFactor
    """
    labels = Labels(state.design, problem.frames, problem.references, problem.noise)
    if client is not None:
        from kernelpot.fit.cluster import accumulate_on

        grouped = accumulate_on(client, labels, batch_bytes=plan.batch_bytes, progress=progress)
    else:
        grouped = accumulation.accumulate(
            labels,
            batch_bytes=plan.batch_bytes,
            n_threads=plan.n_threads,
            tree=state.tree,
            after_batch=None if saver is None else lambda _: saver.save_if_due(state),
            progress=progress,
        )
    ask_for_alike_sites(state.design, grouped)
    return grouped


def ask_for_alike_sites(design: Design, grouped: GroupedFactor) -> None:
    """Add the prior on how the energy is shared among atoms (see `kernelpot.gp.sharing`)."""
    rows = rows_of_alike_sites(design)
    if len(rows):
        grouped.update(ABSOLUTE, rows, np.zeros(len(rows)))


def nth_of(progress: Progress, index: int, n: int) -> Progress:
    """Progress of a stage from that of the `index`-th of its `n` equal shares."""

    def report(stage: str, done: float, total: float) -> None:
        progress(stage, index + (done / total if total else 1.0), n)

    return report


def _check_every_species(terms: Sequence[KernelTerm], species: Sequence[int]) -> None:
    missing = [
        chemical_symbols[number]
        for z, number in enumerate(species)
        if not any(z in term.sparse for term in terms)
    ]
    if missing:
        raise ValueError(
            f"`sparse_points` has no environment of {', '.join(missing)} in any term: add one, "
            "or leave a term's list out to have it selected"
        )
