"""Leave one structure out: real refits at the same sparse points."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

import kernelpot as kp
from kernelpot.common.types import KINDS
from kernelpot.data.dataset import Frame
from kernelpot.data.reading import read_dataset
from kernelpot.fit.accumulation import FactorTree, Labels, accumulate
from kernelpot.fit.calibrate import beyond_of, calibrated
from kernelpot.fit.hyperparameters import Tuned
from kernelpot.fit.left_out import build_rows, choose_structures
from kernelpot.fit.pipeline import select
from kernelpot.fit.problem import prepare
from kernelpot.fit.settings import Settings
from kernelpot.fit.solution import solve
from kernelpot.fit.state import State
from kernelpot.model.calibration import ErrorModel
from kernelpot.regression import leave_one_out_quick
from kernelpot.regression.leave_one_out import Without, leave_chunk, leave_one_out

SCALES = (1.0, 0.6)


@pytest.fixture(scope="module")
def problem(labelled, small_terms):
    frames = [atoms.copy() for atoms in labelled]
    frames[3].info["sigma_energy"] = 0.02  # noise of its own
    del frames[4].arrays["REF_forces"]
    found = prepare(read_dataset(frames), Settings(terms=small_terms))
    # a structure that sparse points were not chosen from is among those left out
    return replace(found, held_out=[7])


@pytest.fixture(scope="module")
def design(problem):
    return select(problem, Settings(terms=problem.terms)).design


@pytest.fixture(scope="module")
def scale(design):
    """Another delta for the second term."""
    return design.layout.scale(SCALES)


@pytest.fixture(scope="module")
def left_out(problem, design, scale):
    chosen = list(range(len(problem.frames)))
    rows = build_rows(design, problem.frames, problem.noise, chosen, n_threads=2)
    factor = accumulate(Labels(design, problem.frames, problem.noise)).posterior(
        problem.noise.sigma, scale
    )
    return {
        variance: list(leave_one_out(rows, factor, problem.noise.sigma, scale, variance=variance))
        for variance in (False, True)
    }


def refit(problem, design, scale, without):
    """Mean and covariance of the rows of one structure from a fit to all others."""
    others = [k for k in range(len(problem.frames)) if k != without]
    frames = [problem.frames[k] for k in others]
    factor = accumulate(Labels(design, frames, problem.noise)).posterior(problem.noise.sigma, scale)
    [rows] = build_rows(design, problem.frames, problem.noise, [without], n_threads=1)
    A = rows.phi * scale
    spread = A @ np.linalg.inv(factor.R)
    return rows.y - A @ factor.solve(), np.einsum("ij,ij->i", spread, spread), rows


def test_residuals_and_variances_are_those_of_real_refits(problem, design, scale, left_out):
    for k in range(0, len(problem.frames), 3):
        residual, variance, rows = refit(problem, design, scale, k)
        for found in (left_out[False][k], left_out[True][k]):
            # rounding is that of the largest label of the structure, and of its factor's condition
            atol = 1e-8 * np.abs(residual * rows.unit).max()
            np.testing.assert_allclose(found.residual, residual * rows.unit, rtol=1e-8, atol=atol)
            assert found.resolved
        np.testing.assert_allclose(
            left_out[True][k].variance, variance * rows.unit**2, rtol=1e-6, atol=1e-13
        )


def test_several_are_left_out_together(problem, design, scale, rng):
    """Weights and the inverse of the normal matrix are those of a fit to the others."""
    left = [2, 3, 4, 11, 20]  # one with noise of its own, one without forces
    others = [frame for k, frame in enumerate(problem.frames) if k not in left]
    factors = [
        accumulate(Labels(design, frames, problem.noise)).posterior(problem.noise.sigma, scale)
        for frames in (problem.frames, others)
    ]
    rows = build_rows(design, problem.frames, problem.noise, left, n_threads=1)
    found = Without(rows, factors[0], problem.noise.sigma, scale)
    expected = factors[1].solve()
    # of weights that labels determine poorly rounding is seen: 5e-8 with the oldest versions
    np.testing.assert_allclose(found.weights, expected, atol=1e-7 * np.abs(expected).max())
    w = rng.normal(size=design.n_columns)
    R = factors[1].R
    expected = np.linalg.solve(R, np.linalg.solve(R.T, w))
    np.testing.assert_allclose(found.inverse(w), expected, atol=1e-7 * np.abs(expected).max())


def test_residuals_are_labels_minus_predictions_of_a_refit(labelled, small_terms):
    """The same through the front door: given sparse points, fitted without one structure."""
    points = [[(labelled[k], c) for k in range(0, 24, 2) for c in range(3)]] * 2
    terms = [t.changed(n_sparse=None) for t in small_terms]
    options = {
        "sparse_points": points,
        "sigma_energy": 0.002,
        "sigma_forces": 0.05,
        "sigma_stress": 0.005,
        # e0 and walls would change with the data
        "e0": {"Cu": -1.0, "Al": -0.5},
        "baseline": [],
    }
    settings = Settings(terms=terms, **options)
    problem = prepare(read_dataset(labelled), settings)
    design = select(problem, settings).design
    grouped = accumulate(Labels(design, problem.frames, problem.noise))
    factor = grouped.posterior(problem.noise.sigma)
    k = next(k for k, f in enumerate(problem.frames) if f.config_type == "large")
    frame = next(f for f in problem.dataset if f.name == problem.frames[k].name)
    rows = build_rows(design, problem.frames, problem.noise, [k])
    [found] = leave_one_out(rows, factor, problem.noise.sigma)
    rest = [f for f in problem.dataset if f is not frame]
    pot = kp.KernelPotential(terms, **options).fit(kp.Dataset(rest))
    predicted = pot.predict(frame.atoms)
    tolerance = {"rtol": 1e-6, "atol": 1e-8}
    energy = (frame.energy - predicted.energy) / len(frame)
    np.testing.assert_allclose(found.of("energy"), [energy], **tolerance)
    np.testing.assert_allclose(
        found.of("forces"), (frame.forces - predicted.forces).ravel(), **tolerance
    )
    # a virial label is -V stress; the offset of the labels is not part of predictions
    offset = pot.fitted_.virial_offset * len(frame) * np.repeat([1.0, 0.0], 3)
    virial = -predicted.stress * frame.atoms.get_volume() + offset
    np.testing.assert_allclose(
        found.of("stress"), (frame.virial - virial) / frame.atoms.get_volume(), **tolerance
    )


def test_rows_know_their_kind(problem, left_out):
    for frame, found in zip(problem.frames, left_out[True], strict=True):
        sizes = [len(found.of(kind)) for kind in KINDS]
        expected = [frame.energy is not None, 0 if frame.forces is None else frame.forces.size]
        assert sizes == [*expected, 0 if frame.virial is None else 6]
        if frame.sigmas:
            assert found.noise[0] == frame.sigmas["energy"]
        assert found.std("forces").shape == found.of("forces").shape
    with pytest.raises(ValueError, match="not asked for"):
        left_out[False][0].std("energy")


def test_calibration_is_by_residuals_and_what_the_others_leave_open(
    problem, design, scale, monkeypatch
):
    """Under another noise and another delta; so many potentials know the open part exactly."""
    monkeypatch.setattr("kernelpot.fit.calibrate.N_MEMBERS", 10**9)
    grouped = accumulate(Labels(design, problem.frames, problem.noise))
    groups = [("energy", ""), ("forces", "")]
    noise = problem.noise.changed({g: 2.0 * problem.noise.sigma(g) for g in groups})
    state = State(design, [], FactorTree(design.n_columns))
    model = solve(problem, state, grouped, Tuned(noise, SCALES, {}, []))
    chosen = [k for k, f in enumerate(problem.frames) if len(f) > 1]
    rows = build_rows(design, problem.frames, problem.noise, chosen)
    found = calibrated(model, problem, rows, scale).calibration
    assert found.n_structures == len(chosen) >= 10
    left = list(leave_one_out(rows, model.factor, noise.sigma, scale, variance=True))
    for kind in KINDS:
        roots = [np.sqrt(own.rows.n_atoms) if kind == "energy" else 1.0 for own in left]
        pairs = zip(left, roots, strict=True)
        errors = [own.of(kind) * root for own, root in pairs]  # energies are per atom
        pairs = zip(left, roots, strict=True)
        open_ = np.concatenate([own.std(kind) * root for own, root in pairs])
        errors = np.concatenate(errors)
        error_model = found.models[kind][0]
        assert error_model.n_labels == len(errors)
        exact = ErrorModel.of(errors, open_)
        np.testing.assert_allclose(error_model.std(open_), exact.std(open_), rtol=2e-3)
        np.testing.assert_allclose(error_model.quantiles, exact.quantiles, rtol=2e-3)


def test_slopes_of_the_prior_and_spilling_are_those_of_structures_left_out(problem, design, scale):
    grouped = accumulate(Labels(design, problem.frames, problem.noise))
    state = State(design, [], FactorTree(design.n_columns))
    model = solve(problem, state, grouped, Tuned(problem.noise, SCALES, {}, []))
    structures = [f.atoms for f in problem.frames if len(f) > 1][:3]
    found = beyond_of(model, structures)
    spilling = [model.predict(a, return_std="local").spilling for a in structures]
    for z, own in found.items():
        most = max(s[a.numbers == z].max() for s, a in zip(spilling, structures, strict=True))
        assert own.spilling == pytest.approx(most, rel=1e-6)
    squares = {z: [] for z in found}
    for atoms in structures:
        system = model.system(atoms)
        prior = (
            model.uncertainty.posterior.prior(system, virial=False)[0][1:]
            .reshape(-1, 3)
            .mean(axis=1)
        )
        for z, ratio in zip(atoms.numbers, prior / model.local.prior(system), strict=True):
            squares[z].append(ratio)
    for z, own in found.items():
        assert own.slope == pytest.approx(np.sqrt(np.mean(squares[z])), rel=1e-9)
        assert own.strain > 0


def test_labels_that_nothing_else_determines_are_said_to_be(problem, design):
    """With noise near zero a structure alone decides combinations of its labels."""
    rows = build_rows(design, problem.frames, problem.noise, [0, 1])

    def sigma(group):
        return 1e-9

    factor = accumulate(Labels(design, problem.frames[:2], problem.noise, continued=True))
    for found in leave_one_out(rows, factor.posterior(sigma), sigma):
        assert not found.resolved
        assert np.all(np.isfinite(found.residual))


def frame(config_type, n_atoms, energy=0.0):
    atoms = Atoms(f"Cu{n_atoms}", np.arange(3.0 * n_atoms).reshape(n_atoms, 3))
    return Frame(atoms, energy, np.zeros((n_atoms, 3)), None, config_type)


def test_structures_are_chosen_in_proportion_within_the_limits():
    frames = [frame("a", 4)] * 80 + [frame("b", 2)] * 20 + [frame("c", 1)] * 3
    chosen = choose_structures(frames, 10, max_structures=20, seed=3)
    assert chosen == choose_structures(frames, 10, max_structures=20, seed=3)
    assert chosen != choose_structures(frames, 10, max_structures=20, seed=4)
    assert len(set(chosen)) == 20
    assert sum(k < 80 for k in chosen) == 16
    assert not any(k >= 100 for k in chosen)  # isolated atoms
    few = choose_structures(frames, 10, max_rows=60)
    assert 50 < sum(frames[k].n_rows for k in few) <= 60
    by_memory = choose_structures(frames, 10, max_bytes=8 * 10 * 60)
    assert by_memory == few
    assert set(choose_structures(frames, 10, max_structures=5, first=[7, 8, 90])) >= {7, 8, 90}
    unlabelled = Frame(frames[0].atoms, None, None, None)
    assert choose_structures([unlabelled, frames[0]], 10) == [1]


@pytest.mark.parametrize("sigmas", [(1.0, 1.0), (0.1, 0.3), (1e-4, 1e-3)])
def test_single_precision_gives_the_same_residuals(problem, design, scale, sigmas, monkeypatch):
    """Many rows at a time; where it does not do, double precision takes over."""
    chosen = list(range(len(problem.frames)))
    rows = build_rows(design, problem.frames, problem.noise, chosen)
    labels = Labels(design, problem.frames, problem.noise, continued=True)  # no prior beside
    done_anew = []
    monkeypatch.setattr(
        leave_one_out_quick, "leave_chunk", lambda *args: done_anew.append(1) or leave_chunk(*args)
    )

    def sigma(group):
        return problem.noise.sigma(group) * sigmas[group[0] == "forces"]

    factor = accumulate(labels).posterior(sigma, scale)
    exact = list(leave_one_out(rows, factor, sigma, scale))
    found = [
        leave_one_out_quick.QuickLeaveOneOut(rows, n_threads=n)(factor, sigma, scale)
        for n in (1, 2)
    ]
    for one, quick, again in zip(exact, *found, strict=True):
        assert quick.rows is one.rows
        assert quick.resolved == one.resolved
        np.testing.assert_array_equal(quick.residual, again.residual)
        np.testing.assert_allclose(
            quick.residual, one.residual, rtol=1e-6, atol=1e-6 * np.abs(one.residual).max()
        )
        np.testing.assert_allclose(quick.noise, one.noise, rtol=1e-14)
    # how many depends on rounding, but little noise never does without
    assert len(done_anew) < len(rows)
    assert done_anew or sigmas[0] == 1.0
