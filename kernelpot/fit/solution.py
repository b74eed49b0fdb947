"""From the factors of a fit to a model, and the record of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.units import GPa

from kernelpot.baseline.reference import Reference
from kernelpot.baseline.wall import Wall
from kernelpot.common.types import FloatArray, Pair, Progress
from kernelpot.data.dataset import Dataset, label_sources
from kernelpot.data.doctor import virial_test
from kernelpot.data.label_names import unread_labels
from kernelpot.fit.full_mean import WholeMean
from kernelpot.fit.hyperparameters import Tuned
from kernelpot.fit.problem import Problem
from kernelpot.fit.state import State
from kernelpot.fit.sufficiency import shortcomings
from kernelpot.gp.design import Design
from kernelpot.gp.known_sites import some_structures, with_known_sites
from kernelpot.gp.local import LocalModel
from kernelpot.gp.variance import posterior_variances
from kernelpot.model.errors import evaluate
from kernelpot.model.fitted import FittedModel
from kernelpot.model.record import TrainingRecord
from kernelpot.regression.factors import GroupedFactor, TriangularFactor
from kernelpot.safety.thresholds import learn_safety_net
from kernelpot.safety.width import widened


def solve(
    problem: Problem,
    state: State,
    grouped: GroupedFactor,
    tuned: Tuned | None = None,
    *,
    n_threads: int = 1,
    whole: WholeMean | None = None,
) -> FittedModel:
    """Combine the factors with the prior, and make a model of the solution.

    Parameters
    ----------
    problem, state, grouped
        What the earlier stages made.
    tuned : Tuned, optional
        Noise and prior scales to use instead of those the labels were streamed with.
    n_threads : int
    whole : WholeMean, optional
        The mean of whole forms or of all directions, where a term asks for them.

    Returns
    -------
    FittedModel
        Without calibration and training record.
    """
    if tuned is None:
        tuned = Tuned.unchanged(problem.noise, len(problem.terms))
    if whole is None:
        factor = grouped.posterior(tuned.noise.sigma, tuned.scale(state.design))
    else:
        factor = whole.factor
    tails = {} if whole is None else whole.tails
    design = state.design.rescaled(tuned.delta)
    structures = [frame.atoms for frame in problem.frames]
    unseen = set(state.unseen)
    sites, held_out = (
        [part[i] for i in some_structures(part, problem.species)]
        for part in (
            [atoms for i, atoms in enumerate(structures) if i not in unseen],
            [structures[i] for i in sorted(unseen)],
        )
    )
    known = with_known_sites(factor, design, sites, n_threads=n_threads)
    local, offset = solution_of(factor, known, design, tails, n_threads=n_threads)
    safety = learn_safety_net(
        local,
        factor,
        known,
        sites,
        held_out,
        _wall_distances(problem.reference),
        n_threads=n_threads,
    )
    safety = widened(safety, local, problem.species, structures, n_threads=n_threads)
    return FittedModel(
        problem.species,
        problem.reference,
        local,
        factor,
        known,
        tuned.noise,
        safety,
        offset,
        form_noise=None if whole is None else whole.noise,
    )


def solution_of(
    factor: TriangularFactor,
    known: TriangularFactor,
    design: Design,
    tails: Mapping[int, FloatArray] | None = None,
    *,
    n_threads: int = 1,
) -> tuple[LocalModel, float]:
    """Posterior mean and variances, and the virial offset [eV/atom].

    Parameters
    ----------
    factor, known : TriangularFactor
        Of the labels, and with the local energies of the data taken as known.
    design : Design
    tails : mapping of int to ndarray, optional
        What the mean has beside the columns (`LocalModel`).
    n_threads : int
    """
    solution = factor.solve()
    of_labels, of_sites = posterior_variances(design, [factor, known], n_threads=n_threads)
    local = LocalModel(design, design.weights(solution), of_labels, of_sites, tails=tails or {})
    return local, design.virial_offset(solution)


def _wall_distances(reference: Reference) -> Mapping[Pair, float]:
    """Where the data of each pair begin, by which damping goes; empty without a wall."""
    walls = [term for term in reference.baseline if isinstance(term, Wall)]
    return walls[0].d_min or {} if walls else {}


def record(
    model: FittedModel,
    problem: Problem,
    tuned: Tuned,
    notes: Sequence[str],
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> TrainingRecord:
    """Record of a training, with the errors on its data.

    Parameters
    ----------
    model : FittedModel
        Complete but for the record.
    problem : Problem
    tuned : Tuned
    notes : sequence of str
        Of the stages of the fit, for the user.
    n_threads : int, optional
    progress : callable, optional

    Returns
    -------
    TrainingRecord
    """
    dataset = problem.dataset
    kept = [
        note
        for name, note in problem.noise_notes.items()
        if getattr(problem.noise, name) == getattr(tuned.noise, name)
    ]
    return TrainingRecord(
        n_structures=len(dataset),
        n_atoms=dataset.n_atoms,
        n_rows=sum(frame.n_rows for frame in problem.frames),
        config_types=dataset.config_types,
        sources=label_sources(dataset),
        unread=unread_labels(dataset),
        hyperparameters=tuned.record,
        fingerprints=problem.fingerprints,
        notes=[
            *problem.notes,
            *kept,
            *notes,
            *tuned.notes,
            *_virial_note(model.virial_offset, dataset),
        ],
        errors=training_errors(model, dataset, n_threads=n_threads, progress=progress),
        shortcomings=shortcomings(problem, model.safety),
    )


def training_errors(
    model: FittedModel,
    dataset: Dataset,
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Errors of a model on the data it was fitted to; see `evaluate`."""

    def report(_: str, done: float, total: float) -> None:
        if progress is not None:
            progress("training errors", done, total)

    return evaluate(model, dataset, n_threads=n_threads, progress=report)


def _virial_note(offset: float, data: Dataset) -> list[str]:
    """Say so where virials contradict energies by a constant (above 20 meV/atom).

    Where strained copies of a cell tell it directly, they decide, as for ``kernelpot check``:
    what the fit finds is uncertain where it does not reproduce the stresses.
    """
    labelled = [f for f in data if f.virial is not None]
    if abs(offset) < 0.02 or not labelled:
        return []
    volume = float(np.median([f.atoms.get_volume() / len(f) for f in labelled]))
    said = f"{offset:+.3f} eV/atom (about {offset / volume / GPa:+.2f} GPa of pressure"
    test = virial_test(data)
    if test is not None and test["explained"] > 0.8:
        seen = test["offset_ev_per_atom"]
        if abs(seen) < max(0.02, 2.0 * test["offset_error_ev_per_atom"]) or seen * offset < 0:
            error = test["offset_error_ev_per_atom"]
            return [
                f"a constant {said}) of the virial labels was left to them; energies of strained "
                f"cells say {seen:+.3f} +- {error:.3f} eV/atom: it stands for errors of the "
                "stresses, not for a contradiction of the labels"
            ]
    return [
        f"virial labels contradict the energies by a constant {said}; an unconverged basis does "
        "this). The energies were followed: predicted stresses differ from the labels by that much"
    ]
