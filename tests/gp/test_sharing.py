"""How the energy is shared among atoms: a weak prior where labels say nothing."""

import dataclasses

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.datasets import load_ethanol
from kernelpot.gp.design import Design
from kernelpot.gp.sharing import ALIKE_POINTS, SIGMA_ALIKE, rows_of_alike_sites
from kernelpot.gp.variance import posterior_variances
from kernelpot.safety.thresholds import gate_std

OXYGEN, HYDROXYL = 2, 3  # atoms of the shipped ethanol


def test_rows_are_differences_from_the_mean_of_the_species(potential):
    design = potential.model.design
    rows = rows_of_alike_sites(design)
    start = 0
    for block in sorted(design.blocks, key=lambda b: (b.term, b.key)):
        n = min(ALIKE_POINTS, len(block.points))
        own = rows[start : start + n]
        chosen = np.linspace(0, len(block.points) - 1, n).astype(int)
        K = design.terms[block.term].kernel.gram(block.points)
        centered = K - K.mean(axis=0) - K.mean(axis=1)[:, None] + K.mean()
        prior = SIGMA_ALIKE * potential.terms[block.term].delta
        expected = centered[np.ix_(chosen, chosen)] / prior**2
        np.testing.assert_allclose(own @ own.T, expected, atol=1e-8 * np.abs(expected).max())
        outside = np.ones(design.n_columns, dtype=bool)
        outside[block.columns] = False
        assert not own[:, outside].any()
        start += n
    assert start == len(rows)


def test_one_species_has_nobody_to_share_with(potential):
    whole = potential.model.design
    own = [(block, block.T) for _, block in whole.blocks_of(whole.species[0])]
    alone = Design.known(whole.species, whole.terms, own)
    assert rows_of_alike_sites(alone).shape == (0, alone.n_columns)


def fitted_to_molecules(terms):
    """A model, the frames of one molecule that it was fitted to, and others."""
    data = list(load_ethanol("train"))
    frames = [f for f in data if len(f) == 9]
    train = [*(f for f in data if len(f) == 1), *frames[::4][:30]]
    fitted = kp.KernelPotential(terms, n_sparse=90, baseline=[kp.Wall()]).fit(
        train, optimize=None, calibrate=False
    )
    return fitted.model, train, frames[1::4][:10]


@pytest.fixture(scope="module")
def molecules():
    """With sparse points of three ranges, as alloys have by default."""
    shapes = ((3.1, 0.26, 6, 2), (4.2, 0.32, 6, 2), (5.9, 0.48, 8, 3))
    names = ("r_cut", "sigma_atom", "l_max", "zeta")
    return fitted_to_molecules(
        [kp.SOAPTerm(delta=4.7, **dict(zip(names, shape, strict=True))) for shape in shapes]
    )


@pytest.fixture(scope="module")
def whole_form():
    """With the default of molecules."""
    return fitted_to_molecules(None)


def without_prior(model):
    """The same model, its labels alone: the rows of the prior taken out of the factor."""
    rows = rows_of_alike_sites(model.design)
    information = model.factor.matrix.T @ model.factor.matrix
    information[:-1, :-1] -= rows.T @ rows
    factor = model.factor.copy()
    factor.matrix[...] = np.linalg.cholesky(information).T
    return factor


@pytest.mark.parametrize("kind", ["molecules", "whole_form"])
def test_the_local_std_of_a_molecule_tells_the_known_from_the_unknown(kind, request):
    model, _, unseen = request.getfixturevalue(kind)
    inside = [gate_std(model.local, model.system(frame.atoms)) for frame in unseen]
    torn = [frame.atoms.copy() for frame in unseen]
    for atoms in torn:
        atoms.positions[HYDROXYL] += atoms.positions[HYDROXYL] - atoms.positions[OXYGEN]
    outside = [gate_std(model.local, model.system(atoms))[HYDROXYL] for atoms in torn]
    hydroxyl = np.array([std[HYDROXYL] for std in inside])
    assert np.min(outside) > 4 * np.max(hydroxyl)
    # what is known of the sites takes away what labels leave open, and no more
    for frame, std in zip(unseen, inside, strict=True):
        assert np.all(std <= model.posterior_local_std(frame.atoms))
        assert np.all(std**2 >= (1 - 1e-9) * novelty_of(model, frame.atoms))


def novelty_of(model, atoms):
    """Part of the local variances that the sparse points do not span."""
    spilling = model.predict(atoms, return_std="local").spilling
    return spilling * model.local.prior(model.system(atoms))


def test_the_prior_narrows_what_labels_leave_open(molecules):
    model, _, unseen = molecules
    (labels_alone,) = posterior_variances(model.design, [without_prior(model)])
    before = type(model.local)(model.design, model.local.weights, labels_alone, labels_alone)
    for frame in unseen:
        novelty = novelty_of(model, frame.atoms)
        alone = gate_std(before, model.system(frame.atoms)) ** 2 - novelty
        left_open = model.posterior_local_std(frame.atoms) ** 2 - novelty
        assert np.all(left_open < alone)
        assert left_open[HYDROXYL] < 0.95 * alone[HYDROXYL]


def test_labels_are_explained_as_well_by_sites_more_alike(molecules):
    model, train, unseen = molecules
    labels_alone = without_prior(model)
    solution = np.linalg.solve(labels_alone.R, labels_alone.matrix[:-1, -1])
    local = dataclasses.replace(model.local, weights=model.design.weights(solution))
    alone = dataclasses.replace(model, local=local)
    errors, spreads = [], []
    for found in (model, alone):
        errors.append(
            np.mean([np.abs(found.predict(f.atoms).forces - f.forces).mean() for f in unseen])
        )
        energies = [
            found.local.evaluate(found.system(f.atoms), gradient=False).energies
            for f in train
            if len(f) == 9
        ]
        spreads.append(np.ptp(np.mean(energies, axis=0)[3:]))
    assert errors[0] < 1.03 * errors[1]
    assert spreads[0] < 0.9 * spreads[1]
