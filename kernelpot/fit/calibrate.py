"""Calibrating a fitted model with structures left out one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from ase import Atoms

from kernelpot.common.parallel import map_in_order, thread_count
from kernelpot.common.types import KINDS, FloatArray, IntArray, Progress
from kernelpot.data.system import volume_of
from kernelpot.fit.noise import MINIMUM_STRUCTURES
from kernelpot.fit.problem import Problem
from kernelpot.gp.quadratic import Forms
from kernelpot.model.calibration import TAILS, Beyond, Calibration, informative, log_loss
from kernelpot.model.fitted import FittedModel
from kernelpot.model.growth import FLOOR, Growth
from kernelpot.model.uncertainty import N_MEMBERS
from kernelpot.regression.leave_one_out import leave_one_out
from kernelpot.regression.rows import StructureRows

# Atoms whose prior standard deviations of forces and virials are looked at.
PRIOR_ATOMS = 64
# Errors of whole quadratic forms go as the open part to the power one and a half: what they have
# no monomials for is of the third degree. Of forms fitted to the coldest 40 and 80 % of the
# training files, one std without it covers 58 and 59 % of the forces on the hottest fifth of
# ethanol (65 and 68 % of 3BPA), and 71 and 68 % with it (67 and 69 %); and within the data errors
# are more likely with it.
WHOLE_FORM_POWER = 0.5
# Powers of u < 1 that are tried for kernels on sparse points, and what one has to gain over none
# [nats per component]. On training files (halves of the structures left out) errors of TiAl then
# have a likelihood of -1.52 in place of -1.30, of PbTe -2.08 in place of -2.05; of Si, Mo and Cu
# none gains anything.
POWERS_BELOW = (0.0, -0.125, -0.25, -0.375, -0.5)
WORTH_A_POWER = 0.01

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
    own_forces: list[FloatArray | None] = []  # open parts by structure
    counts: dict[str, list[int]] = {kind: [] for kind in KINDS}
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
        own_forces.append(None)
        for kind in KINDS:
            own = left.rows.kind == KINDS.index(kind)
            counts[kind].append(0)
            if not own.any() or (kind == "stress" and volume is None):
                continue
            unit = 1.0
            if kind == "energy":
                unit = 1.0 / np.sqrt(len(atoms))
            elif kind == "stress" and volume is not None:
                unit = 1.0 / volume
            assert left.variance is not None
            n = counts[kind][-1] = int(np.count_nonzero(own))
            scatter = np.sqrt(rng.chisquare(N_MEMBERS, n) / N_MEMBERS)
            errors[kind].append(unit * residual[own])
            open_[kind].append(unit * scatter * np.sqrt(left.variance[own]))
            numbers[kind].append(
                np.repeat(atoms.numbers, 3) if kind == "forces" else np.zeros(n, dtype=np.int64)
            )
            if kind == "forces":
                own_forces[-1] = open_[kind][-1].reshape(-1, 3)
        if progress is not None:
            progress("calibration", done + 1, len(structures))
    frames = [problem.frames[rows.index].atoms for rows in structures]
    labels = _joined(errors), _joined(open_), _joined(numbers)
    growth, grown = _growth(model, *labels, frames, own_forces, counts)
    calibration = Calibration.of(
        *labels,
        len(structures),
        beyond_of(model, frames, n_threads=n_threads),
        growth,
        grown,
    )
    return replace(model, calibration=calibration)


def _growth(
    model: FittedModel,
    errors: Mapping[str, FloatArray],
    open_: Mapping[str, FloatArray],
    numbers: Mapping[str, IntArray],
    structures: Sequence[Atoms],
    own_forces: Sequence[FloatArray | None],
    counts: Mapping[str, Sequence[int]],
) -> tuple[Growth | None, dict[str, FloatArray] | None]:
    """How errors depend on the open part, and its factors for all labels.

    Parameters
    ----------
    model : FittedModel
    errors, open_, numbers : mapping of quantity to ndarray of shape (n,)
        Of all labels, one structure after the other.
    structures : sequence of ase.Atoms
    own_forces : sequence of ndarray of shape (n_atoms, 3) or None
        Open parts of the forces on each; those of structures without labels of forces are not
        known, and taken to be typical.
    counts : mapping of quantity to sequence of int
        Labels of each structure.
    """
    if "forces" not in open_:
        return None, None
    whole = bool(Forms.of(model.design, np.ones(model.design.n_columns)).forms)
    powers = (WHOLE_FORM_POWER, WHOLE_FORM_POWER) if whole else (0.0, 0.0)
    growth = Growth.of(*powers, model.r_cut, open_["forces"], numbers["forces"])
    if growth is None:
        return None, None
    squares: list[FloatArray] = []
    parts: dict[str, list[FloatArray]] = {kind: [] for kind in KINDS}
    for k, (atoms, own) in enumerate(zip(structures, own_forces, strict=True)):
        mean = 1.0
        if own is not None:
            by_atom, mean = growth.relative(own, model.system(atoms))
            squares.append(np.repeat(by_atom, 3))
        for kind in ("energy", "stress"):
            if counts[kind][k]:
                together = max(mean, FLOOR**2) ** (0.5 * growth.power)
                parts[kind].append(np.full(counts[kind][k], together))
    of_forces = np.concatenate(squares)
    if not whole:
        growth = likeliest(
            [replace(growth, power_below=power) for power in POWERS_BELOW],
            errors["forces"],
            open_["forces"],
            numbers["forces"],
            of_forces,
        )
        if growth.power_below == 0.0:
            return None, None
    parts["forces"] = [growth.of_forces(of_forces)]
    return growth, _joined(parts)


def likeliest(
    candidates: Sequence[Growth],
    errors: FloatArray,
    open_: FloatArray,
    numbers: IntArray,
    squares: FloatArray,
) -> Growth:
    """Of some ways in which errors of forces may depend on the open part, the likeliest.

    Parameters
    ----------
    candidates : sequence of Growth
        The first is kept unless another gains `WORTH_A_POWER`.
    errors, open_, numbers, squares : ndarray of shape (n,)
        Of components of forces left out: residual and open part [eV/Å], atomic number, and
        square of u (`Growth.relative`).

    Returns
    -------
    Growth
    """
    losses: list[float] = []
    used = informative(open_)
    for growth in candidates:
        grown = growth.of_forces(squares)
        found = Calibration.of(
            {"forces": errors}, {"forces": open_}, {"forces": numbers}, 0, None, growth,
            {"forces": grown},
        )  # fmt: skip
        loss = 0.0
        for number in np.unique(numbers).tolist():
            own = used & (numbers == number)
            by_species = found.model("forces", number)
            if by_species is not None and own.any():
                std = by_species.std(open_[own], grown=grown[own])
                loss += np.count_nonzero(own) * log_loss(errors[own], std, TAILS)
        losses.append(loss / max(int(np.count_nonzero(used)), 1))
    best = int(np.argmin(losses))
    return candidates[best if losses[best] < losses[0] - WORTH_A_POWER else 0]


def beyond_of(
    model: FittedModel, structures: Sequence[Atoms], *, n_threads: int | None = None
) -> dict[int, Beyond]:
    """What tells environments that are like nothing in the data.

    Parameters
    ----------
    model : FittedModel
    structures : sequence of ase.Atoms
        Those left out. Of some of them sparse points were not chosen from: their spilling is
        that of new structures.
    n_threads : int, optional

    Returns
    -------
    dict of int to Beyond
        Of each species that they have.
    """
    spilling: dict[int, float] = {}
    squares: dict[int, list[FloatArray]] = {}
    strains: list[float] = []
    n_atoms = 0
    systems = [model.system(atoms) for atoms in structures]
    spillings = map_in_order(model.uncertainty.spilling, systems, thread_count(n_threads))
    for system, found in zip(systems, spillings, strict=True):
        (atoms,) = system.structures
        for z in np.unique(atoms.numbers).tolist():
            spilling[z] = max(spilling.get(z, 0.0), float(found[atoms.numbers == z].max()))
        # a few atoms of each species tell the slopes of the prior
        new = [z for z in spilling if z not in squares]
        if n_atoms + len(atoms) <= PRIOR_ATOMS or new:
            n_atoms += len(atoms)
            prior = np.maximum(model.local.prior(system), 1e-300)
            strained = volume_of(atoms) is not None
            labels = model.uncertainty.posterior.prior(system, virial=strained)[0]
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
