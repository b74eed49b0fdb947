"""A fitted model learns from more data.

The factor of a fit is all that its data left behind. Annihilating further rows into it is
what the fit itself would have done with them: with the same sparse points, e0, baseline
and noise, the updated model is the one fitted to all data together, to rounding. Sparse
points are another matter: a new column of the regression needs the rows of all data.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols

from kernelpot.baseline.wall import Wall
from kernelpot.common.caller import warn_user
from kernelpot.common.types import FloatArray, Progress
from kernelpot.data.dataset import Dataset
from kernelpot.data.order import canonical_order
from kernelpot.fit.accumulation import Labels, accumulate
from kernelpot.fit.added_frames import NO_PRESSURE, one_volume, with_added_frames
from kernelpot.fit.full_mean import continued
from kernelpot.fit.gradient_domain import AllDirections, forces_alone, term_of
from kernelpot.fit.monomials import available_monomials, choose_monomials
from kernelpot.fit.solution import solution_of, training_errors
from kernelpot.fit.sparse_points import all_environments, directions_of
from kernelpot.gp.blocks import Block, BoundTerm, Points
from kernelpot.gp.design import Design
from kernelpot.gp.known_sites import some_structures, with_known_sites
from kernelpot.gp.quadratic import Forms
from kernelpot.model.fitted import FittedModel
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.selection import environment_keys, farthest_from, first_of_each
from kernelpot.safety.thresholds import learn_safety_net
from kernelpot.terms.base import OwnPoints
from kernelpot.terms.compression import CompressedDescriptor
from kernelpot.terms.gdml import DirectionKernel
from kernelpot.terms.polynomial import PolynomialKernel

# Squared distances in single precision, relative to those that matter to the kernel, mean
# nothing below this.
_SAME = 1e-6


def update(
    model: FittedModel,
    new: Dataset,
    *,
    add_sparse: int = 0,
    data: Dataset | None = None,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> FittedModel:
    """Fit a model to more data; see `KernelPotential.update`.

    Parameters
    ----------
    model : FittedModel
    new : Dataset
        Frames to learn from.
    add_sparse : int
        Sparse points per term to add from `new`; needs `data`.
    data : Dataset, optional
        What the model was fitted to so far.
    n_threads : int
    progress : callable, optional

    Returns
    -------
    FittedModel

    Raises
    ------
    ValueError
        If `new` has a species the model does not know, or sparse points are to be added
        without the data the model was fitted to.
    """
    started = time.perf_counter()
    _check_species(model, new)
    _check_previous(model, data, add_sparse)
    notes = [f"updated with {len(new)} structures; e0, baseline and noise stayed as they were"]
    notes += _closer_than_known(model, new)
    notes += _tells_an_assumed_pressure(model, new)
    design = model.design
    if add_sparse:
        assert data is not None
        design, found = _with_more_points(design, new, add_sparse)
        notes += found
        factor = TriangularFactor(design.n_columns)
        everything = with_added_frames(Dataset([*data, *new]), model.e0)
    else:
        factor = model.factor.copy()
        everything = [f for f in new if not (f.is_isolated_atom and model.e0.absolute)]
    # with more points what stands beside them changes, and is found anew
    less = model.reference.remainder if add_sparse else model.remainder
    frames = [less(frame) for frame in canonical_order(everything)]
    labels = Labels(design, frames, model.noise, continued=not add_sparse)
    grouped = accumulate(labels, n_threads=n_threads, progress=progress)
    structures = [frame.atoms for frame in frames]
    sites = [structures[i] for i in some_structures(structures, model.species)]
    grouped.add_to(factor, model.noise.sigma)
    if add_sparse:
        sites_known = with_known_sites(factor, design, sites, n_threads=n_threads)
    else:
        sites_known = model.known.copy()
        grouped.add_to(sites_known, model.noise.sigma)
        sites_known = with_known_sites(sites_known, design, sites, n_threads=n_threads)
    tails = model.local.tails
    if tails and data is not None and term_of(design) is not None:
        factor, tails, note = _all_directions(
            model, design, factor, Dataset([*data, *new]), n_threads
        )
        notes.append(note)
    elif tails and data is not None:
        factor, tails, note = _whole_forms(model, design, factor, Dataset([*data, *new]), n_threads)
        notes.append(note)
    elif tails:
        notes.append("what the mean has beside the columns of the regression stayed as it was")
    local, offset = solution_of(factor, sites_known, design, tails, n_threads=n_threads)
    if add_sparse:
        safety = learn_safety_net(
            local, factor, sites_known, sites, [], model.safety.d_min, n_threads=n_threads
        )
        safety = replace(safety, width=model.safety.width)
    else:
        safety = model.safety.raised(local, factor, structures, n_threads=n_threads)
    updated = replace(
        model,
        local=local,
        factor=factor,
        known=sites_known,
        safety=safety,
        virial_offset=offset,
        self_test=None,
    )
    known = new if data is None else Dataset([*data, *new])
    errors = training_errors(updated, known, n_threads=n_threads, progress=progress)
    training = model.training.continued(
        new,
        notes,
        errors,
        "all data" if data is not None else "the frames of the last update",
        time.perf_counter() - started,
    )
    return replace(updated, training=training.stamped())


def _whole_forms(
    model: FittedModel, design: Design, factor: TriangularFactor, data: Dataset, n_threads: int
) -> tuple[TriangularFactor, dict[int, FloatArray], str]:
    """Whole quadratic forms for all data, from those of the model."""
    forms = Forms.of(design, np.ones(design.n_columns))
    frames = [
        model.reference.remainder(frame)
        for frame in canonical_order(with_added_frames(data, model.e0))
    ]
    start = forms.with_tails(factor.solve(), model.local.tails)
    noise = model.form_noise or model.noise
    ratio = (noise.sigma_forces / model.noise.sigma_forces) ** 2
    return continued(forms, frames, noise, factor, start, ratio=ratio, n_threads=n_threads)


def _all_directions(
    model: FittedModel, design: Design, factor: TriangularFactor, data: Dataset, n_threads: int
) -> tuple[TriangularFactor, dict[int, FloatArray], str]:
    """All directions of all molecules."""
    frames = [
        model.reference.remainder(frame)
        for frame in canonical_order(with_added_frames(data, model.e0))
    ]
    grouped = accumulate(Labels(design, frames, model.noise), n_threads=n_threads)
    of_forces = grouped.posterior(forces_alone(model.noise))
    return AllDirections(design, of_forces).completed(frames, model.noise, factor)


def _check_species(model: FittedModel, new: Dataset) -> None:
    for frame in new:
        unknown = sorted({int(z) for z in frame.atoms.numbers} - set(model.species))
        if unknown:
            raise ValueError(
                f"{frame.name}: {', '.join(chemical_symbols[z] for z in unknown)} is new to the "
                f"model, which knows {', '.join(chemical_symbols[z] for z in model.species)}; "
                "its descriptors have no place for another species: fit anew to all data"
            )


def _check_previous(model: FittedModel, data: Dataset | None, add_sparse: int) -> None:
    if add_sparse < 0:
        raise ValueError(f"`add_sparse` must not be negative, got {add_sparse}")
    if add_sparse and data is None:
        raise ValueError(
            "`add_sparse` needs `data`, all structures the model was fitted to so far: what their "
            "labels say about a new sparse point is not kept in the model. Without them only "
            "the weights of the present points can be updated (leave add_sparse out)"
        )
    if data is not None and len(data) != model.training.n_structures:
        raise ValueError(
            f"`data` must be the {model.training.n_structures} structures the model was "
            f"fitted to so far, got {len(data)}"
        )


def _closer_than_known(model: FittedModel, new: Dataset) -> list[str]:
    """Warn of pairs closer than the data that the wall was built for."""
    found = new.distances.shortest
    notes = []
    for wall in model.baseline:
        for pair, known in (wall.d_min or {}).items() if isinstance(wall, Wall) else ():
            if found.get(pair, np.inf) < known - 1e-9:
                symbols = "-".join(chemical_symbols[z] for z in pair)
                notes.append(
                    f"{symbols} pairs as close as {found[pair]:.3f} Å are closer than the data "
                    f"the wall was built for (d_min {known:.3f} Å), which an update leaves in "
                    "place: to move it, fit anew to all data"
                )
    for note in notes:
        warn_user(note)
    return notes


def _tells_an_assumed_pressure(model: FittedModel, new: Dataset) -> list[str]:
    """Warn where new data tell the pressure that the fit had to assume."""
    assumed = any(text.startswith(NO_PRESSURE) for text in model.training.shortcomings)
    if not assumed or one_volume([*new]) is not None:
        return []
    if not any(len(f) > 1 and f.atoms.pbc.all() for f in new):
        return []
    note = (
        "the pressure that the first fit assumed stays in the model as if it were a label, "
        "although the new data tell of it: to be rid of it, fit anew to all data"
    )
    warn_user(note)
    return [note]


def _with_more_monomials(
    bound: BoundTerm, blocks: Sequence[Block], n: int
) -> tuple[list[Points], str]:
    """Add the `n` monomials of next largest prior scale; they do not depend on the data."""
    descriptor, kernel = bound.descriptor, bound.kernel
    assert isinstance(descriptor, CompressedDescriptor)
    assert isinstance(kernel, PolynomialKernel)
    before = sum(len(block.points) for block in blocks)
    available = int(available_monomials(descriptor.scales, kernel.degree).sum())
    wanted = min(before + n, available)
    chosen = choose_monomials(descriptor.scales, descriptor.abundance, kernel.degree, wanted)
    of_key = dict(zip(descriptor.keys, chosen, strict=True))
    points = [
        Points(block.term, block.key, of_key[block.key], block.sites)
        for block in blocks
        if block.sites is not None
    ]
    fewer = f" instead of {n}: there are no more" if wanted < before + n else ""
    return points, f"{wanted - before} monomials added{fewer}"


def _with_more_directions(
    bound: BoundTerm, block: Block, new: Dataset, n: int
) -> tuple[list[Points], str]:
    """Add `n` directions of new molecules, all of one after those of another."""
    molecules = [frame.atoms for frame in new if len(frame) > 1]
    added = np.zeros((0, block.points.shape[1]))
    if molecules:
        added = directions_of(bound, molecules, bound.term.sparse_method)[1 : n + 1]
    fewer = f" instead of {n}: there are no more" if len(added) < n else ""
    points = Points(block.term, block.key, np.concatenate([block.points, added]))
    return [points], f"{len(added)} directions added{fewer}"


def _with_more_points(design: Design, new: Dataset, n: int) -> tuple[Design, list[str]]:
    """Add to each term the `n` new environments farthest from its sparse points."""
    extended: list[Points] = []
    notes = []
    for t, bound in enumerate(design.terms):
        if isinstance(bound.descriptor, OwnPoints):
            extended += [
                Points(t, block.key, block.points) for block in design.blocks if block.term == t
            ]
            continue
        if bound.kernel.explicit:
            blocks = [block for block in design.blocks if block.term == t]
            if isinstance(bound.kernel, DirectionKernel):
                more, note = _with_more_directions(bound, blocks[0], new, n)
            else:
                more, note = _with_more_monomials(bound, blocks, n)
            extended += more
            notes.append(f"term {t}: {note}")
            continue
        found = [all_environments(bound, frame.atoms) for frame in new]
        keys = np.concatenate([f.key for f in found])
        u = bound.kernel.embed(np.concatenate([f.x for f in found]))[0]
        blocks = [block for block in design.blocks if block.term == t]
        rows: list[FloatArray] = []
        ranked: list[tuple[float, int, int]] = []
        for index, block in enumerate(blocks):
            own = u[keys == bound.descriptor.keys.index(block.key)]
            own = own[first_of_each(environment_keys(own))]
            rows.append(own)
            if not len(own):
                continue
            squares, known = bound.kernel.squares(own), bound.kernel.squares(block.points)
            order, distance = farthest_from(own, block.points, min(n, len(own)), squares, known)
            # in units in which the kernel falls by its whole
            unlike = distance * bound.kernel.largest_slope() / bound.kernel.diagonal() > _SAME
            ranked += [
                (-d, index, int(e)) for d, e in zip(distance[unlike], order[unlike], strict=True)
            ]
        chosen = sorted(ranked)[:n]
        for index, block in enumerate(blocks):
            added = rows[index][[e for _, at, e in chosen if at == index]]
            extended.append(Points(t, block.key, np.concatenate([block.points, added])))
        fewer = f" instead of {n}: the others are known already" if len(chosen) < n else ""
        notes.append(f"term {t}: {len(chosen)} sparse points added{fewer}")
    return Design.of(design.species, design.terms, extended), notes
