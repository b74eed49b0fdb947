"""The stages of a fit, from labelled frames to a fitted model.

`prepare` fixes everything known before the kernels (e0, terms, noise, baseline),
`select` chooses the sparse points, `accumulate` streams the labels into triangular
factors, `choose_hyperparameters` looks for noise and prior scales that the data prefer,
`solve` turns all this into a model. What passes between stages is immutable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.units import GPa

from kernelpot import defaults, fitting
from kernelpot.baseline import AtomicEnergies, Wall, atomic_energies
from kernelpot.calibration import Calibration
from kernelpot.checks import label_sources
from kernelpot.covariance import KernelTerm
from kernelpot.dataset import Dataset, Frame
from kernelpot.evaluation import LocalModel
from kernelpot.fitted import FittedModel, Reference, posterior_variances
from kernelpot.fitting import (
    Design,
    KnownLabels,
    Progress,
    canonical_order,
    choose_sparse_points,
)
from kernelpot.leave_one_out import (
    StructureRows,
    build_rows,
    choose_structures,
    leave_one_out,
)
from kernelpot.metrics import evaluate
from kernelpot.observations import KINDS, SIGMA_ISOLATED, Noise, bulk_volume
from kernelpot.parallel import thread_count
from kernelpot.regression import GroupedFactor
from kernelpot.terms import SOAPTerm
from kernelpot.tuning import MINIMUM_STRUCTURES, Free, column_scale, tune

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """What the user asked for: the parameters of `KernelPotential`."""

    terms: Sequence[SOAPTerm] | None = None
    preset: str = "default"
    n_sparse: int | None = None
    sigma_energy: float | None = None
    sigma_forces: float | None = None
    sigma_stress: float | None = None
    config_type_sigma: Mapping[str, Mapping[str, float]] | None = None
    e0: Mapping[str, float] | str | None = None
    baseline: Wall | Sequence[Wall] | None = None
    sparse_points: Sequence[Sequence[tuple[Atoms, int]] | None] | None = None
    seed: int = 0

    @property
    def default_n_sparse(self) -> int:
        """Sparse points of a term that names no number."""
        return defaults.N_SPARSE[self.preset]


@dataclass(frozen=True)
class Problem:
    """Everything known before the kernels.

    Attributes
    ----------
    dataset : Dataset
        In canonical order.
    species : tuple of int
    terms : list of SOAPTerm
    noise : Noise
    reference : Reference
        What the kernels need not explain.
    frames : list of Frame
        What is fitted: the data, and one isolated atom per species where e0 is known.
    references : list of KnownLabels
        Energy, forces and virial of `reference` for each of `frames`.
    notes : list of str
        Choices made, for the user.
    """

    dataset: Dataset
    species: tuple[int, ...]
    terms: Sequence[SOAPTerm]
    noise: Noise
    reference: Reference
    frames: Sequence[Frame]
    references: Sequence[KnownLabels]
    notes: Sequence[str]


# ---- stages ----------------------------------------------------------------------------


def prepare(data: Dataset, settings: Settings) -> Problem:
    """Choose e0, terms, noise and baseline; cheap, so that every refusal comes first.

    Raises
    ------
    ValueError
        If data or parameters are unusable; the message names the remedy.
    """
    dataset = Dataset(canonical_order(data))
    e0 = atomic_energies(dataset, _given_e0(settings.e0))
    terms, notes = _choose_terms(settings, dataset, e0)
    noise, noise_notes = _choose_noise(settings, dataset)
    given = [Wall()] if settings.baseline is None else settings.baseline
    walls = [given] if isinstance(given, Wall) else list(given)
    reference = Reference(e0, [wall.fit(dataset, dataset.species) for wall in walls])
    frames = canonical_order(with_isolated_atoms(dataset, e0))
    return Problem(
        dataset,
        dataset.species,
        terms,
        noise,
        reference,
        frames,
        [reference.labels(frame.atoms) for frame in frames],
        [*notes, *_isolated_notes(dataset, e0), *noise_notes],
    )


def select(
    problem: Problem, settings: Settings, *, progress: Progress | None = None
) -> tuple[list[KernelTerm], list[str]]:
    """Choose the sparse points of every term.

    Returns
    -------
    terms : list of KernelTerm
    notes : list of str

    Raises
    ------
    ValueError
        If more points are asked for than there are environments, or given ones leave
        out a species.
    """
    kernel_terms, notes = [], []
    for index, term in enumerate(problem.terms):
        kernel_term, found = choose_sparse_points(
            term,
            problem.species,
            problem.frames,
            given=None if settings.sparse_points is None else settings.sparse_points[index],
            default_n_sparse=settings.default_n_sparse,
            seed=settings.seed,
            progress=progress,
        )
        kernel_terms.append(kernel_term)
        notes += [f"term {index}: {note}" for note in found]
    _check_every_species(kernel_terms, problem.species)
    return kernel_terms, notes


def accumulate(
    problem: Problem, design: Design, *, n_threads: int = 1, progress: Progress | None = None
) -> GroupedFactor:
    """Stream the labels of all frames into the factors of their groups."""
    return fitting.accumulate(
        design,
        problem.frames,
        problem.references,
        problem.noise,
        n_threads=n_threads,
        progress=progress,
    )


@dataclass(frozen=True)
class Choice:
    """Hyper-parameters chosen after the labels were accumulated.

    Attributes
    ----------
    noise : Noise
    design : Design
        With the delta chosen.
    scale : ndarray of shape (n_columns,)
        Of the columns of the accumulated rows, to those of `design`.
    structures : list of StructureRows
        Rows of some structures, by the design before the choice.
    record : dict
        What was chosen, how, and the leave-one-structure-out errors.
    notes : list of str
    """

    noise: Noise
    design: Design
    scale: FloatArray
    structures: Sequence[StructureRows]
    record: dict[str, Any]
    notes: Sequence[str]


def choose_hyperparameters(
    method: str | None,
    problem: Problem,
    settings: Settings,
    design: Design,
    grouped: GroupedFactor,
    *,
    n_threads: int = 1,
    calibrate: bool = True,
    progress: Progress | None = None,
) -> Choice:
    """Choose noise and prior scales that the user did not give.

    Parameters
    ----------
    method : {"loo", "evidence", None}
    problem, settings, design, grouped
        What the earlier stages made.
    n_threads : int
    calibrate : bool
        Whether `structures` will be wanted even if nothing is to be chosen.
    progress : callable, optional

    Returns
    -------
    Choice
    """
    groups: list[Any] = grouped.groups
    labelled = {kind for kind, config_type in groups if not config_type}
    free = Free(
        tuple(
            kind
            for kind in KINDS
            if kind in labelled and getattr(settings, f"sigma_{kind}") is None
        ),
        tuple(range(len(problem.terms))) if settings.terms is None else (),
    )
    structures: list[StructureRows] = []
    if calibrate or (method is not None and free.names):
        chosen = choose_structures(problem.frames, design.n_columns, seed=settings.seed)
        structures = build_rows(
            design,
            problem.frames,
            problem.references,
            problem.noise,
            chosen,
            n_threads=n_threads,
        )
    tuned = tune(
        method,
        grouped,
        design.whitened,
        problem.noise,
        free,
        structures,
        [problem.frames[rows.index].config_type for rows in structures],
        n_threads=n_threads,
        progress=progress,
    )
    return Choice(
        tuned.noise,
        design.rescaled(tuned.delta),
        column_scale(design.whitened, tuned.delta),
        structures,
        tuned.record,
        tuned.notes,
    )


def solve(
    problem: Problem, choice: Choice, grouped: GroupedFactor, notes: Sequence[str] = ()
) -> FittedModel:
    """Combine the factors with the prior, and make a model of the solution.

    The training record holds what was fitted; `record_errors` adds the errors.
    """
    design, noise = choice.design, choice.noise
    factor = grouped.posterior(noise.sigma, choice.scale)
    solution = factor.solve()
    present = sorted({z for z, _ in design.whitening})
    columns = {z: design.whitened.species(z) for z in present}
    local = LocalModel(
        design.terms,
        design.weights(solution),
        design.whitening,
        posterior_variances(design.terms, factor, columns),
    )
    offset = design.virial_offset(solution)
    dataset = problem.dataset
    training: dict[str, Any] = {
        "n_structures": len(dataset),
        "n_atoms": dataset.n_atoms,
        "n_rows": factor.n_rows,
        "config_types": dataset.config_types,
        "sources": label_sources(dataset),
        "hyperparameters": choice.record,
        # tell whether data are those of the fit (`KernelPotential.suspicious`)
        "fingerprints": [fitting.fingerprint(frame) for frame in problem.frames],
        "notes": [
            *_still_true(problem.notes, problem.noise, noise),
            *notes,
            *choice.notes,
            *_virial_note(offset, dataset),
        ],
    }
    return FittedModel(problem.species, problem.reference, local, factor, noise, offset, training)


def calibrate(
    model: FittedModel,
    problem: Problem,
    structures: Sequence[StructureRows],
    *,
    scale: FloatArray | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> FittedModel:
    """Calibrate a model with some of the structures it was fitted to, each left out.

    The posterior variance without a structure is that of its rows, in closed form, plus
    their novelty: what of the prior variance the sparse points do not span, from the
    model's own standard deviations. Structures among which sparse points were chosen have
    too little novelty: those left out of the selection are the better choice.

    Parameters
    ----------
    model : FittedModel
    problem : Problem
    structures : sequence of StructureRows
        Rows of frames of `problem`.
    scale : ndarray of shape (n_columns,), optional
        Of the columns of these rows to those of the model.
    n_threads : int, optional
    progress : callable, optional

    Returns
    -------
    FittedModel
        With its `calibration`; unchanged where there are fewer than ten structures.
    """
    if len(structures) < MINIMUM_STRUCTURES:
        return model
    frames = [problem.frames[rows.index] for rows in structures]
    threads = thread_count(n_threads)
    left_out = leave_one_out(
        structures, model.factor, model.noise.sigma, scale, variance=True, n_threads=threads
    )
    predicted = model.predict_many([f.atoms for f in frames], return_std=True, n_threads=n_threads)
    residuals: dict[str, list[FloatArray]] = {kind: [] for kind in KINDS}
    std: dict[str, list[FloatArray]] = {kind: [] for kind in KINDS}
    numbers: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for done, (frame, left, found) in enumerate(zip(frames, left_out, predicted, strict=True)):
        assert found.forces_std is not None
        assert left.variance is not None
        assert left.included is not None
        whole: dict[str, Any] = {
            "energy": [found.energy_std],
            "forces": found.forces_std.ravel(),
            "stress": None if found.stress_std is None else found.stress_std,
        }
        for kind in KINDS:
            own = left.rows.kind == KINDS.index(kind)
            if not own.any() or whole[kind] is None:
                continue
            unit = frame.atoms.get_volume() if kind == "stress" else 1.0
            # what the model says with the structure fitted = novelty + included
            novelty = np.maximum((np.asarray(whole[kind]) * unit) ** 2 - left.included[own], 0.0)
            std[kind].append(np.sqrt(left.variance[own] + novelty))
            residuals[kind].append(left.residual[own])
            numbers[kind].append(
                np.repeat(frame.atoms.numbers, 3)
                if kind == "forces"
                else np.zeros(own.sum(), dtype=np.int64)
            )
        if progress is not None:
            progress("calibration", done + 1, len(frames))
    labelled = [kind for kind in KINDS if residuals[kind]]

    def joined(parts: Mapping[str, list[Any]]) -> dict[str, Any]:
        return {kind: np.concatenate(parts[kind]) for kind in labelled}

    calibration = Calibration.of(joined(residuals), joined(std), joined(numbers), len(frames))
    return replace(model, calibration=calibration)


def record_errors(
    model: FittedModel,
    dataset: Dataset,
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Put the errors on the training data into the model's training record."""
    if progress is not None:
        progress("training errors", 0, 1)
    model.training["errors"] = evaluate(model, dataset, n_threads=n_threads)


# ---- choices ---------------------------------------------------------------------------


def _given_e0(e0: Mapping[str, float] | str | None) -> Mapping[int, float] | str | None:
    if e0 is None or isinstance(e0, str):
        if e0 not in (None, "isolated", "least_squares"):
            raise ValueError(f"`e0` must be a mapping, 'isolated' or 'least_squares', got {e0!r}")
        return e0
    wrong = [symbol for symbol in e0 if symbol not in atomic_numbers]
    if wrong:
        raise ValueError(f"`e0`: not a chemical symbol: {', '.join(map(repr, wrong))}")
    return {atomic_numbers[symbol]: float(e) for symbol, e in e0.items()}


def _choose_terms(
    settings: Settings, data: Dataset, e0: AtomicEnergies
) -> tuple[list[SOAPTerm], list[str]]:
    if settings.preset not in defaults.N_SPARSE:
        raise ValueError(
            f"`preset` must be one of {', '.join(defaults.N_SPARSE)}, got {settings.preset!r}"
        )
    if settings.terms is None:
        if settings.sparse_points is not None:
            raise ValueError("`sparse_points` needs explicit `terms`")
        return defaults.terms(data, e0, n_sparse=settings.n_sparse)
    terms = list(settings.terms)
    if not terms:
        raise ValueError("`terms` must hold at least one SOAPTerm, got none")
    if settings.n_sparse is not None:
        if all(t.n_sparse is not None for t in terms):
            raise ValueError(
                "`n_sparse` has no effect: every term names its own number; change "
                "the terms, or leave n_sparse out of them"
            )
        terms = [
            t if t.n_sparse is not None else replace(t, n_sparse=settings.n_sparse) for t in terms
        ]
    if settings.sparse_points is not None and len(settings.sparse_points) != len(terms):
        raise ValueError(
            "`sparse_points` must have one entry per term, got "
            f"{len(settings.sparse_points)} for {len(terms)}"
        )
    return terms, []


def _choose_noise(settings: Settings, data: Dataset) -> tuple[Noise, list[str]]:
    sigmas, notes = defaults.sigmas(data)
    for name in ("sigma_energy", "sigma_forces", "sigma_stress"):
        value = getattr(settings, name)
        if value is not None:
            sigmas[name] = float(value)
            notes = [note for note in notes if not note.startswith(name)]
    config_types = dict(settings.config_type_sigma or {})
    unknown = set(config_types) - set(data.config_types)
    if unknown:
        raise ValueError(
            f"`config_type_sigma` names {', '.join(sorted(unknown))}; the data have "
            f"{', '.join(sorted(data.config_types))}"
        )
    noise = Noise(**sigmas, config_types=config_types, bulk_volume=bulk_volume(list(data)))
    return noise, notes


def with_isolated_atoms(data: Dataset, e0: AtomicEnergies) -> list[Frame]:
    """Frames to fit; each species with a known e0 gets one isolated atom of that energy."""
    frames = [f for f in data if not (f.is_isolated_atom and e0.absolute)]
    if e0.absolute:
        for z, energy in e0.e0.items():
            atoms = Atoms(numbers=[z], positions=np.zeros((1, 3)))
            frames.append(
                Frame(
                    atoms,
                    energy,
                    None,
                    None,
                    "isolated_atom",
                    f"isolated {chemical_symbols[z]}",
                    {"energy": e0.origin},
                    {"energy": SIGMA_ISOLATED},
                )
            )
    return frames


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


def _isolated_notes(data: Dataset, e0: AtomicEnergies) -> list[str]:
    """Say so where isolated atoms in the data contradict the e0 used."""
    notes = []
    for frame in data:
        if frame.is_isolated_atom and frame.energy is not None and e0.absolute:
            number = int(frame.atoms.numbers[0])
            if abs(frame.energy - e0.e0[number]) > 0.01:
                notes.append(
                    f"{frame.name}: the isolated {chemical_symbols[number]} of "
                    f"{frame.energy:.4f} eV is not used; e0 is {e0.e0[number]:.4f} eV ({e0.origin})"
                )
    return notes


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
