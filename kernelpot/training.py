"""The stages of a fit, from labelled frames to a fitted model.

`preparation.prepare` fixes everything known before the kernels (e0, terms, noise, baseline),
`select` chooses the sparse points, `accumulation.accumulate` streams the labels into
triangular factors, `solve` turns these into a model. What passes between stages is immutable.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa

from kernelpot import accumulation
from kernelpot.accumulation import Labels, State
from kernelpot.baseline import Reference
from kernelpot.checks import label_sources
from kernelpot.covariance import KernelTerm
from kernelpot.dataset import Dataset
from kernelpot.descriptors import SOAP
from kernelpot.evaluation import LocalModel
from kernelpot.fitted import FittedModel, posterior_variances
from kernelpot.fitting import (
    MAX_CANDIDATE_BYTES,
    Design,
    Progress,
    choose_sparse_points,
    fingerprint,
)
from kernelpot.gatewidth import widened
from kernelpot.leave_one_out import MAX_ROWS
from kernelpot.memory import Plan, Workload, plan
from kernelpot.metrics import evaluate
from kernelpot.neighbors import neighbor_list
from kernelpot.observations import ABSOLUTE, Noise
from kernelpot.preparation import Problem, Settings
from kernelpot.regression import GroupedFactor, TriangularFactor
from kernelpot.safety_net import learn_safety_net
from kernelpot.sharing import rows_of_alike_sites
from kernelpot.tuning import Tuned, expected_work
from kernelpot.wall import Wall

if TYPE_CHECKING:
    from distributed import Client

_log = logging.getLogger("kernelpot")


class Saver(Protocol):
    """Whoever keeps the state of a fit (`kernelpot.checkpoint.Checkpoint`)."""

    def save_if_due(self, state: State) -> None:
        """Look at the state, and keep it if it is time."""


# ---- stages ----------------------------------------------------------------------------


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


def plan_memory(
    problem: Problem,
    settings: Settings,
    n_threads: int,
    memory: float | str | None,
    *,
    searched: bool = False,
) -> Plan:
    """Plan the memory of the fit, and log it in plain words."""
    workload = Workload.of(
        problem.terms,
        problem.species,
        problem.frames,
        problem.noise,
        settings.default_n_sparse,
        searched=searched,
    )
    found = plan(workload, n_threads, memory)
    _log.info("the fit %s", found)
    return found


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
        from kernelpot.cluster import accumulate_on

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
    """Add the prior on how the energy is shared among atoms (see `kernelpot.sharing`)."""
    rows = rows_of_alike_sites(design)
    if len(rows):
        grouped.update(ABSOLUTE, rows, np.zeros(len(rows)))


def solve(
    problem: Problem,
    state: State,
    grouped: GroupedFactor,
    tuned: Tuned | None = None,
    *,
    n_threads: int = 1,
) -> FittedModel:
    """Combine the factors with the prior, and make a model of the solution.

    The training record holds what was fitted; `record_errors` adds the errors.

    Parameters
    ----------
    problem, state, grouped
        What the earlier stages made.
    tuned : Tuned, optional
        Noise and prior scales to use instead of those the labels were streamed with.
    n_threads : int

    Returns
    -------
    FittedModel
    """
    if tuned is None:
        tuned = Tuned.unchanged(problem.noise, len(problem.terms))
    noise = tuned.noise
    factor = grouped.posterior(noise.sigma, tuned.scale(state.design))
    local, offset = solution_of(factor, state.design.rescaled(tuned.delta))
    dataset = problem.dataset
    training: dict[str, Any] = {
        "n_structures": len(dataset),
        "n_atoms": dataset.n_atoms,
        "n_rows": sum(frame.n_rows for frame in problem.frames),
        "config_types": dataset.config_types,
        "sources": label_sources(dataset),
        "hyperparameters": tuned.record,
        # tell whether data are those of the fit (`KernelPotential.suspicious`)
        "fingerprints": [fingerprint(frame) for frame in problem.frames],
        "notes": [
            *_still_true(problem.notes, problem.noise, noise),
            *state.notes,
            *tuned.notes,
            *_virial_note(offset, dataset),
        ],
    }
    structures = [frame.atoms for frame in problem.frames]
    safety = learn_safety_net(
        local,
        problem.species,
        structures,
        state.unseen,
        _wall_distances(problem.reference),
        n_threads=n_threads,
    )
    safety = widened(safety, local, problem.species, structures, n_threads=n_threads)
    return FittedModel(
        problem.species, problem.reference, local, factor, noise, safety, offset, training
    )


def solution_of(factor: TriangularFactor, design: Design) -> tuple[LocalModel, float]:
    """Posterior mean and variances of a factor, and the virial offset [eV/atom]."""
    solution = factor.solve()
    present = sorted({z for z, _ in design.whitening})
    columns = {z: design.whitened.species(z) for z in present}
    common = (design.terms, factor, design.whitening, columns)
    # one species alone has nobody to share the energy with
    fixed = posterior_variances(*common, fix_gauge=True) if len(columns) > 1 else None
    local = LocalModel(
        design.terms,
        design.weights(solution),
        design.whitening,
        posterior_variances(*common),
        fixed,
    )
    return local, design.virial_offset(solution)


def _wall_distances(reference: Reference) -> Mapping[tuple[int, int], float]:
    """Distances that scale the wall, and with it the damping; empty without a wall."""
    walls = [term for term in reference.baseline if isinstance(term, Wall)]
    return walls[0].d_min or {} if walls else {}


def record_errors(
    model: FittedModel,
    dataset: Dataset,
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Put the errors on the training data into the model's training record."""

    def report(_: str, done: float, total: float) -> None:
        if progress is not None:
            progress("training errors", done, total)

    model.training["errors"] = evaluate(model, dataset, n_threads=n_threads, progress=report)


def expected_seconds(problem: Problem, plan: Plan) -> dict[str, float]:
    """What each stage of a fit takes on an ordinary machine; only the ratios matter."""
    w = plan.workload
    descriptors = [SOAP(term, problem.species) for term in problem.terms]
    n_features = float(sum(soap.n_features for soap in descriptors))
    n_atoms = sum(map(len, problem.frames))
    share = w.n_sparse / (w.n_terms * w.n_species)
    r_cut = max(term.r_cut for term in problem.terms)
    flops = 0.0
    for frame in problem.frames:
        pairs = neighbor_list(frame.atoms, r_cut)
        distances = np.linalg.norm(pairs.displacements(frame.atoms.positions), axis=1)
        for soap in descriptors:
            n_pairs = np.count_nonzero(distances < soap.term.r_cut)
            flops += 6.0 * n_pairs * soap.n_features * share
        flops += frame.n_rows * w.n_sparse**2 * (2.0 + 2.0 / (w.n_terms * w.n_species))
    gflops = 3e10
    n_rows = sum(w.group_rows)
    left_out = min(n_rows, MAX_ROWS)
    search = expected_work(w.n_sparse, w.group_rows, left_out) if w.searched else 0.0
    labels = flops / (gflops * min(plan.n_threads, 4))
    return {
        "sparse points": n_atoms * n_features * (4e-7 + 5e-10 * share),
        "labels": labels,
        "hyper-parameters": search / gflops,
        "calibration": 1.5 * labels * left_out / max(n_rows, 1),
        "solution": 6.0 * w.n_sparse**3 / gflops,
        "training errors": n_atoms * n_features * 2e-7 / plan.n_threads,
    }


def nth_of(progress: Progress, index: int, n: int) -> Progress:
    """Progress of a stage from that of the `index`-th of its `n` equal shares."""

    def report(stage: str, done: float, total: float) -> None:
        progress(stage, index + (done / total if total else 1.0), n)

    return report


# ---- notes -----------------------------------------------------------------------------


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


def _still_true(notes: Sequence[str], before: Noise, after: Noise) -> list[str]:
    """Notes without those on defaults that were replaced."""
    names = ("sigma_energy", "sigma_forces", "sigma_stress")
    changed = tuple(n for n in names if getattr(before, n) != getattr(after, n))
    return [note for note in notes if not (changed and note.startswith(changed))]


def _virial_note(offset: float, data: Dataset) -> list[str]:
    """Say so where virials contradict energies by a constant (above 20 meV/atom)."""
    labelled = [f for f in data if f.virial is not None]
    if abs(offset) < 0.02 or not labelled:
        return []
    volume = float(np.median([f.atoms.get_volume() / len(f) for f in labelled]))
    return [
        f"virial labels contradict the energies by a constant {offset:+.3f} eV/atom (about "
        f"{offset / volume / GPa:+.2f} GPa of pressure; an unconverged basis does this). The "
        "energies were followed: predicted stresses differ from the labels by that much"
    ]
