"""From the factors of a fit to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.units import GPa

from kernelpot.baseline.reference import Reference
from kernelpot.baseline.wall import Wall
from kernelpot.common.types import Progress
from kernelpot.data.dataset import Dataset, label_sources
from kernelpot.data.order import fingerprint
from kernelpot.fit.hyperparameters import Tuned
from kernelpot.fit.problem import Problem
from kernelpot.fit.state import State
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise
from kernelpot.gp.local import LocalModel
from kernelpot.gp.variance import posterior_variances
from kernelpot.model.errors import evaluate
from kernelpot.model.fitted import FittedModel
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
    """Where the data of each pair begin, by which damping goes; empty without a wall."""
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
