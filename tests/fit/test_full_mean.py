"""Whole quadratic forms: the mean by conjugate gradients against dense solutions."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.common.types import KINDS
from kernelpot.data.neighbors import neighbor_list
from kernelpot.fit import full_mean
from kernelpot.fit.accumulation import FactorTree
from kernelpot.fit.full_mean import (
    NormalEquations,
    WholeForms,
    continued,
    whole_mean,
    with_share,
    with_solution,
)
from kernelpot.fit.left_out import build_rows
from kernelpot.fit.pipeline import accumulate, select
from kernelpot.fit.plan import plan_memory
from kernelpot.fit.problem import prepare
from kernelpot.fit.settings import Settings
from kernelpot.fit.state import State
from kernelpot.gp.quadratic import Forms, QuadraticRows
from kernelpot.gp.sharing import rows_of_alike_sites
from kernelpot.regression import conjugate_gradients as cg
from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import rattled_alloy, structures

TERM = kp.PolynomialSOAP(
    r_cut=4.0, n_max=3, l_max=2, n_directions=10, n_sparse=50, full=True, delta=0.8
)
# given, so that whole forms do not lower it
NOISE = {"baseline": [], "sigma_forces": 0.1, "sigma_energy": 0.01, "sigma_stress": 0.005}
ALL = 110  # monomials of ten directions of two species
SOAP = kp.SOAPTerm(r_cut=3.5, n_max=2, l_max=1, n_sparse=6)


def setup(terms, labelled, scale=1.0, **settings):
    """Forms of a fit, with its problem and factors; delta of all terms times `scale`."""
    settings = Settings(terms=terms, baseline=[], **settings)
    problem = prepare(kp.read_dataset(labelled), settings)
    state = select(problem, settings)
    grouped = accumulate(problem, state)
    columns = np.full(state.design.n_columns, scale)
    columns[-1] = 1.0
    factor = grouped.posterior(problem.noise.sigma, columns)
    return problem, state, factor, Forms.of(state.design, columns)


def accumulated(problem, state):
    """Factors of all labels, from the start."""
    design = state.design
    return accumulate(problem, State(design, [], FactorTree(design.n_columns)))


def groups_of(grouped):
    """Groups of labels whose noise may be chosen."""
    return [group for group in grouped.groups if group[0] in KINDS]


@pytest.fixture(scope="module")
def two_terms(labelled):
    return setup([TERM, SOAP], labelled, 1.3)


def dense(terms, labelled, **settings):
    """Solution with every monomial as a column, and the design."""
    full = [t.changed(n_sparse=ALL) if isinstance(t, kp.PolynomialSOAP) else t for t in terms]
    _, state, factor, _ = setup(full, labelled, **settings)
    return state.design, factor.solve()


def test_rows_times_weights_are_those_of_the_design(two_terms, rng):
    problem, state, _, forms = two_terms
    frames = problem.frames[:5]
    rows = QuadraticRows.of(forms, frames, problem.noise)
    w = rng.normal(size=state.design.n_columns)
    built = state.design.rows(frames, problem.noise)
    sigma = built.noise(problem.noise.sigma)
    expected = built.phi @ (forms.scale * w) / sigma
    found = rows.times(*forms.split(forms.unknowns(w)))
    # derivatives are kept in single precision
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(rows.y, built.y / sigma, rtol=1e-13)


def test_back_is_the_adjoint(two_terms, rng):
    problem, _, _, forms = two_terms
    rows = QuadraticRows.of(forms, problem.frames[3:9], problem.noise)
    x = rng.normal(size=forms.size)
    others, matrices = forms.split(x)
    for matrix in matrices:
        matrix += matrix.T.copy()
    residual = rng.normal(size=len(rows.y))
    found_others, found = rows.back(residual)
    for matrix in found:
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12, atol=1e-9)
    backwards = others @ found_others + sum(
        np.vdot(a, b) for a, b in zip(matrices, found, strict=True)
    )
    assert residual @ rows.times(others, matrices) == pytest.approx(backwards, rel=1e-9)


def test_the_operator_is_the_normal_matrix(two_terms, rng):
    """In the columns of the design it is R^T R, its own prior rows included."""
    problem, state, factor, forms = two_terms
    equations = NormalEquations(forms, problem.frames, problem.noise, factor)
    w = rng.normal(size=state.design.n_columns)
    found = forms.weights(equations(forms.unknowns(w)))
    expected = factor.R.T @ (factor.R @ w)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    right = factor.R.T @ factor.matrix[:-1, -1]
    np.testing.assert_allclose(
        forms.weights(equations.right), right, atol=1e-4 * np.abs(right).max()
    )
    # the preconditioner inverts it there
    back = forms.weights(equations.precondition(forms.unknowns(expected)))
    np.testing.assert_allclose(back, w, atol=1e-6 * np.abs(w).max())
    assert len(rows_of_alike_sites(state.design))


def test_memory_and_threads_change_no_bit(two_terms, rng):
    problem, _, factor, forms = two_terms
    x = rng.normal(size=forms.size)
    results = []
    for options in ({}, {"max_bytes": 0.0}, {"n_threads": 2}):
        equations = NormalEquations(forms, problem.frames, problem.noise, factor, **options)
        assert (len(equations._kept) == 0) == ("max_bytes" in options)
        results.append((equations(x), equations.right, equations.precondition(x)))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("terms", [[TERM], [SOAP, TERM]])
def test_iterations_end_at_the_solution_of_all_monomials(terms, labelled, monkeypatch):
    monkeypatch.setattr(full_mean, "TOLERANCE", 1e-7)
    monkeypatch.setattr(full_mean, "MAX_ITERATIONS", 1000)
    pot = kp.KernelPotential(terms, **NOISE)
    pot.fit(labelled, optimize=None, calibrate=False)
    design, w = dense(terms, labelled, **{k: v for k, v in NOISE.items() if k != "baseline"})
    reference = kp.KernelPotential(
        [t.changed(n_sparse=ALL, full=False) if t is TERM else t for t in terms],
        **NOISE,
    ).fit(labelled, optimize=None, calibrate=False)
    assert pot.model.design.n_sparse < design.n_sparse == reference.model.design.n_sparse
    np.testing.assert_allclose(reference.model.factor.solve(), w, atol=1e-8)
    part = kp.KernelPotential(
        [t.changed(full=False) if t is TERM else t for t in terms],
        **NOISE,
    ).fit(labelled, optimize=None, calibrate=False)
    for name in ("crystal", "cluster"):
        atoms = structures()[name]
        one, two, three = (p.predict(atoms) for p in (pot, reference, part))
        scale = np.abs(two.forces).max()
        # derivatives in single precision, and the tolerance
        np.testing.assert_allclose(one.forces, two.forces, atol=2e-4 * scale)
        assert one.energy == pytest.approx(two.energy, abs=1e-3)
        assert np.abs(three.forces - two.forces).max() > 50 * np.abs(one.forces - two.forces).max()
    assert pot.model.virial_offset == pytest.approx(reference.model.virial_offset, abs=1e-4)


def test_the_variance_is_that_of_the_columns_and_other_monomials_are_prior(labelled):
    """More novelty than with every monomial, and less that the data leave open."""
    settings = NOISE
    full, part, whole = (
        kp.KernelPotential([t], **settings).fit(labelled, optimize=None, calibrate=False)
        for t in (TERM, TERM.changed(full=False), TERM.changed(n_sparse=ALL, full=False))
    )
    for name in ("crystal", "cluster"):
        one, two, three = (
            p.predict(structures()[name], return_std=True).posterior for p in (full, part, whole)
        )
        np.testing.assert_allclose(one.forces_std, two.forces_std, rtol=1e-12)
        np.testing.assert_allclose(one.energies_std, two.energies_std, rtol=1e-12)
        assert np.all(one.forces_novelty > three.forces_novelty)
        left = one.forces_std**2 - one.forces_novelty**2
        assert np.all(left < three.forces_std**2 - three.forces_novelty**2)
        np.testing.assert_allclose(one.forces_std, three.forces_std, rtol=0.5)


@pytest.fixture(scope="module")
def pot(labelled):
    return kp.KernelPotential([TERM], baseline=[kp.Wall()]).fit(labelled, optimize=None)


def test_forces_and_stress_are_derivatives(pot):
    atoms = structures()["crystal"]
    found = pot.predict(atoms)
    numerical = numerical_forces(pot, atoms)
    np.testing.assert_allclose(found.forces, numerical, atol=1e-6 * np.abs(numerical).max())
    numerical = numerical_stress(pot, atoms)
    np.testing.assert_allclose(found.stress, numerical, atol=1e-6 * np.abs(numerical).max())


def test_files_and_committees_have_the_whole_form(pot, tmp_path):
    assert pot.model.local.tails
    assert "mean of all 110 monomials of the second degree, of which 50 have" in pot.summary()
    pot.save(tmp_path / "model.kpot")
    again = kp.load(tmp_path / "model.kpot")
    assert again.model.form_noise == pot.model.form_noise != pot.model.noise
    assert again.model.noise == pot.model.noise
    atoms = rattled_alloy(33, (1, 1, 1), 0.2)
    one, two = pot.predict(atoms, return_std=True), again.predict(atoms, return_std=True)
    np.testing.assert_array_equal(one.forces, two.forces)
    np.testing.assert_array_equal(one.forces_std, two.forces_std)
    committee = pot.sample(400, 2)
    together = committee.predict(atoms)
    member = committee[3].predict(atoms)
    assert together.energies[3] == pytest.approx(member.energy, abs=1e-8)
    # what members deviate by is in single precision
    spread = np.abs(together.forces - pot.predict(atoms).forces).max()
    np.testing.assert_allclose(together.forces[3], member.forces, rtol=0, atol=5e-5 * spread)
    # the mean of so many is off by std / 20; 5 sigma
    std = together.energies.std()
    assert together.energies.mean() == pytest.approx(one.energy, abs=5 * std / 20)


def test_calibrated_standard_deviations_are_those_of_deviations_in_the_columns(pot):
    model, atoms = pot.model, structures()["crystal"]
    found = pot.predict(atoms, return_std=True)
    bare = replace(model, local=replace(model.local, weights=0 * model.local.weights))
    nothing = bare.predict(atoms)  # but what is beside the columns
    deviations = []
    for own in model.uncertainty.members.weights:
        member = replace(model, local=replace(model.local, weights=own)).predict(atoms)
        deviations.append((member.energy - nothing.energy, member.forces - nothing.forces))
    system = model.system(atoms)
    excess = model.calibration.excess(
        model.uncertainty.spilling(system), model.local.prior(system), atoms.numbers
    )
    growth = model.calibration.growth
    assert growth.power == 0.5
    assert growth.r_cut == model.r_cut
    open_ = np.sqrt(np.mean([forces**2 for _, forces in deviations], axis=0))
    by_atom, together = growth.factors(open_, system)
    for kind, values, grown in zip(
        ("energy", "forces"), zip(*deviations, strict=True), (together, by_atom), strict=True
    ):
        spread = np.sqrt(np.mean(np.square(values), axis=0))
        expected = model.calibration.std(kind, spread, atoms.numbers, excess, grown=grown)
        np.testing.assert_allclose(getattr(found, f"{kind}_std"), expected, rtol=1e-5)
    assert np.all(found.forces_std > 0)
    assert found.stress_std.shape == (6,)


def test_a_slim_file_of_a_whole_form_predicts_the_same(pot, tmp_path):
    pot.save(tmp_path / "slim.kpot", slim=True)
    slim = kp.load(tmp_path / "slim.kpot")
    assert slim.model.is_slim
    assert slim.model.local.tails.keys() == pot.model.local.tails.keys()
    again = pickle.loads(pickle.dumps(slim.model))  # noqa: S301
    for name in ("crystal", "cluster"):
        atoms = structures()[name]
        one = pot.predict(atoms, return_std=True)
        assert one == slim.predict(atoms, return_std=True)
        assert one == again.predict(atoms, return_std=True)


def test_noise_that_is_not_given_is_less_than_that_of_the_columns(labelled):
    full, part = (
        kp.KernelPotential([t], baseline=[], sigma_energy=0.01).fit(
            labelled, optimize=None, calibrate=False
        )
        for t in (TERM, TERM.changed(full=False))
    )
    one, two, of_forms = full.model.noise, part.model.noise, full.model.form_noise
    assert part.model.form_noise is None
    assert one == two  # variances are those of the columns at their own
    assert of_forms.sigma_energy == one.sigma_energy == 0.01
    assert of_forms.sigma_forces == pytest.approx(0.25 * one.sigma_forces)
    assert of_forms.sigma_stress == pytest.approx(0.25 * one.sigma_stress)
    notes = "; ".join(full.model.training.notes)
    assert "noise of forces, stress in whole forms is 0.25 of that for the columns" in notes


def test_labels_that_scatter_have_more_noise_than_they_are_given(labelled):
    """A share that follows the scatter predicts structures left out worse, and is not taken."""
    rng = np.random.default_rng(4)
    noisy = [atoms.copy() for atoms in labelled]
    for atoms in noisy:
        forces = atoms.arrays["REF_forces"]
        forces += 3.0 * rng.normal(size=forces.shape)
    # forces decide; their noise is a tenth of what is right
    problem, state, _, forms = setup(
        [TERM], noisy, sigma_forces=0.3, sigma_energy=1.0, sigma_stress=1.0
    )
    grouped = accumulated(problem, state)
    rows = build_rows(state.design, problem.frames, problem.noise, range(2, 22))

    def share(free):
        whole = WholeForms(
            forms,
            problem.frames,
            problem.noise,
            free,
            lambda n: grouped.posterior(n.sigma, forms.scale),
        )
        return whole.fit(rows).noise.sigma_forces / problem.noise.sigma_forces

    assert share([g for g in grouped.groups if g[0] == "forces"]) >= 1.0
    assert share([]) == 1.0  # given noise stays


def test_a_factor_with_another_solution(two_terms, rng):
    _, state, factor, _ = two_terms
    w = rng.normal(size=state.design.n_columns)
    changed = with_solution(factor, w)
    np.testing.assert_allclose(changed.solve(), w, atol=1e-6)
    np.testing.assert_array_equal(changed.R, factor.R)


def test_labels_less_what_is_beside_the_columns(pot, labelled):
    """Their rows and the factor's solution leave the errors of the model."""
    model = pot.model
    data = kp.read_dataset(labelled)
    for index in (0, 16, 22):
        rows = model.design.structure_rows(index, model.remainder(data[index]), model.noise)
        found = (rows.y - rows.phi @ model.factor.solve()) * rows.unit
        predicted = pot.predict(data[index].atoms)
        assert found[0] == pytest.approx(data[index].energy - predicted.energy, abs=1e-8)
        n = 3 * len(data[index])
        errors = data[index].forces - predicted.forces
        np.testing.assert_allclose(found[1 : 1 + n], errors.ravel(), atol=1e-8)


@pytest.mark.parametrize("n_left", [3, 12])
def test_errors_of_structures_left_out_are_those_of_a_fit_without_them(
    labelled, monkeypatch, n_left
):
    """In one fold, after which the solution for all goes on, or in several."""
    monkeypatch.setattr(full_mean, "TOLERANCE", 1e-7)
    monkeypatch.setattr(full_mean, "MAX_ITERATIONS", 1000)
    for name in ("FOLD", "MORE", "LAST"):
        monkeypatch.setattr(full_mean, f"{name}_ITERATIONS", 1000)
    if n_left == 3:
        monkeypatch.setattr(full_mean, "MAX_FOLDS", 1)
    problem, state, factor, forms = setup([TERM], labelled)
    grouped = accumulated(problem, state)
    rows = build_rows(state.design, problem.frames, problem.noise, range(3, 3 + n_left))
    columns = np.ones(state.design.n_columns)
    whole = WholeForms(
        forms,
        problem.frames,
        problem.noise,
        groups_of(grouped),
        lambda noise: grouped.posterior(noise.sigma, columns),
    )
    folds = whole._folds(rows, [])
    assert len(folds) == (1 if n_left == 3 else 4)
    found = whole.fit(rows)
    assert sorted(found.residuals) == [r.index for r in rows]
    low = grouped.posterior(found.noise.sigma, columns)
    nothing = forms.unknowns(np.zeros(state.design.n_columns))
    for fold in folds:
        left = [r.index for r in fold]
        rest = [f for index, f in enumerate(problem.frames) if index not in left]
        x = whole_mean(NormalEquations(forms, rest, found.noise, low), nothing).x
        for index in left:
            of_one = QuadraticRows.of(forms, [problem.frames[index]], problem.noise)
            expected = (of_one.y - of_one.times(*forms.split(x))) * of_one.noise
            np.testing.assert_allclose(found.residuals[index], expected, atol=2e-3)
    x = whole_mean(NormalEquations(forms, problem.frames, found.noise, low), nothing).x
    # derivatives are kept in single precision
    w = forms.weights(x)
    np.testing.assert_allclose(found.factor.solve(), w, atol=2e-4 * np.abs(w).max())
    np.testing.assert_array_equal(found.factor.R, factor.R)


def test_other_noise_and_frames_left_out_are_those_of_equations_of_their_own(two_terms, rng):
    problem, state, _, forms = two_terms
    grouped = accumulated(problem, state)
    noise = with_share(problem.noise, groups_of(grouped), 0.5)
    factor = grouped.posterior(noise.sigma, forms.scale)
    every = NormalEquations(forms, problem.frames, problem.noise, factor)
    left = [1, 9, 17]
    rest = [frame for index, frame in enumerate(problem.frames) if index not in left]
    x = rng.normal(size=forms.size)
    for changed, own in (
        (every.changed(noise, factor), NormalEquations(forms, problem.frames, noise, factor)),
        (every.changed(noise, factor, left), NormalEquations(forms, rest, noise, factor)),
    ):
        for one, two in (
            (changed(x), own(x)),
            (changed.right, own.right),
            (changed.precondition(x), own.precondition(x)),
        ):
            np.testing.assert_allclose(one, two, atol=1e-6 * np.abs(two).max())


def test_a_solution_is_continued_with_a_factor_of_other_noise(labelled, monkeypatch):
    monkeypatch.setattr(full_mean, "TOLERANCE", 1e-6)
    monkeypatch.setattr(full_mean, "MAX_ITERATIONS", 1000)
    problem, state, factor, forms = setup([TERM], labelled)
    groups = groups_of(accumulated(problem, state))
    noise = with_share(problem.noise, groups, 0.25)
    start = forms.unknowns(factor.solve())
    solutions = []
    for ratio in (1.0, 1.0 / 16):
        found, _, note = continued(forms, problem.frames, noise, factor, start, ratio=ratio)
        solutions.append(found.solve())
        assert "iterations" in note
    np.testing.assert_allclose(*solutions, atol=1e-3)


def test_calibration_learns_of_structures_left_out(labelled):
    """Not of residuals, which a form of so many coefficients makes small."""
    pot = kp.KernelPotential([TERM], baseline=[kp.Wall()]).fit(labelled, optimize=None)
    calibration = pot.model.calibration
    assert calibration is not None
    assert calibration.n_structures == 20


def test_an_update_continues_from_the_form_that_is_there(labelled, monkeypatch):
    monkeypatch.setattr(full_mean, "TOLERANCE", 1e-6)
    monkeypatch.setattr(full_mean, "MAX_ITERATIONS", 1000)
    old, new = labelled[:19], labelled[19:]
    settings = NOISE

    def before():
        pot = kp.KernelPotential([TERM], **settings)
        return pot.fit(old, optimize=None, calibrate=False)

    atoms = structures()["cluster"]
    one = before()
    first = one.predict(atoms)
    one.update(new)  # the columns learn, the rest stays
    for index, tail in before().model.local.tails.items():
        np.testing.assert_array_equal(one.model.local.tails[index], tail)
    assert "beside the columns" in "; ".join(one.model.training.notes)
    two, three = before(), before()
    two.update(new, data=old)  # everything learns
    three.update(new, data=old, add_sparse=4)
    assert three.model.design.n_sparse == two.model.design.n_sparse + 4
    # the same equations, whichever of their unknowns are columns
    np.testing.assert_allclose(two.predict(atoms).forces, three.predict(atoms).forces, atol=2e-3)
    truth = new[0].arrays["REF_forces"]
    errors = [
        np.abs(f - truth).max()
        for f in (first.forces, one.predict(new[0]).forces, two.predict(new[0]).forces)
    ]
    assert errors[2] < errors[0]
    assert errors[1] < errors[0]


def test_the_plan_counts_derivatives_that_are_kept(labelled):
    """Within a budget they have what is left."""
    settings = [Settings(terms=[TERM.changed(full=full)], baseline=[]) for full in (False, True)]
    of_part, problem = (prepare(kp.read_dataset(labelled), own) for own in settings)
    without = plan_memory(of_part, settings[0], 1, None)
    free, roomy = (plan_memory(problem, settings[1], 1, memory) for memory in (None, "8GB"))
    # the process may grow by some megabytes from one plan to the next
    tight = plan_memory(problem, settings[1], 1, roomy.needed + 1e8)
    pairs = sum(len(neighbor_list([f.atoms], 4.0).neighbors) for f in problem.frames)
    kept = 12 * pairs * TERM.n_directions
    assert free.parts["solution"] - without.parts["solution"] == pytest.approx(kept, rel=0.3)
    assert roomy.spare_bytes == full_mean.MAX_BYTES
    assert tight.spare_bytes < 0.3e9


def test_other_noise_is_tried_while_it_pays(two_terms, monkeypatch):
    """Less where the first beats the columns, more where it does not, then the other way."""
    problem, state, _, forms = two_terms
    grouped = accumulated(problem, state)
    rows = build_rows(state.design, problem.frames, problem.noise, range(3, 9))
    free = groups_of(grouped)

    def tried(scores, of_columns):
        found = []

        def trial(self, share, folds, by_columns, score, before):
            found.append((share, None if before is None else before.share))
            return full_mean.Trial(share, self.noise, None, residuals, scores[share], [])

        monkeypatch.setattr(WholeForms, "_trial", trial)
        monkeypatch.setattr(full_mean.Score, "__call__", lambda self, errors: of_columns)
        whole = WholeForms(
            forms,
            problem.frames,
            problem.noise,
            free,
            lambda n: grouped.posterior(n.sigma, forms.scale),
        )
        best, notes = whole._best([rows], grouped.posterior(problem.noise.sigma, forms.scale))
        assert f"in whole forms is {best.share:g} of" in notes[0]
        return best.share, found

    residuals = {r.index: np.ones(len(r.y)) for r in rows}
    first, less, least, more = 0.25, 0.0625, 0.015625, 1.0
    assert tried({first: -2.0, less: -2.5, least: -2.5}, 0.0) == (
        less,
        [(first, None), (less, first), (least, less)],
    )
    both = [(first, None), (less, first), (more, first)]
    assert tried({first: -2.0, less: -2.01, more: -1.0}, 0.0) == (first, both)
    assert tried({first: -2.0, less: -2.01, more: -2.4, 4.0: -2.3}, 0.0)[0] == more
    assert tried({first: -0.5, more: 0.0, less: -0.2}, 0.0) == (first, [both[0], both[2], both[1]])
    assert tried({first: -0.5, more: -1.0, 4.0: -0.9}, 0.0)[0] == more


# ---- iterations --------------------------------------------------------------------


def test_conjugate_gradients_solve_and_resume(rng):
    A = rng.normal(size=(30, 30))
    A = A @ A.T + np.eye(30)
    b = rng.normal(size=30)
    diagonal = A.diagonal()
    rule = {"tolerance": 1e-10, "max_iterations": 200}

    def start():
        return cg.begin(A.__matmul__, lambda r: r / diagonal, b, np.zeros(30))

    whole = cg.solve(start(), A.__matmul__, lambda r: r / diagonal, **rule)
    np.testing.assert_allclose(whole.x, np.linalg.solve(A, b), rtol=1e-6)
    assert 0 < whole.relative <= 1e-10
    part = cg.solve(
        start(), A.__matmul__, lambda r: r / diagonal, tolerance=1e-10, max_iterations=7
    )
    assert part.n == 7
    resumed = cg.solve(part, A.__matmul__, lambda r: r / diagonal, **rule)
    assert resumed.n == whole.n
    np.testing.assert_array_equal(resumed.x, whole.x)


def test_an_operator_that_is_not_positive_definite_is_refused():
    A = np.diag([1.0, -1.0])
    state = cg.begin(A.__matmul__, lambda r: r, np.ones(2), np.zeros(2))
    with pytest.raises(FloatingPointError, match="not positive definite"):
        cg.solve(state, A.__matmul__, lambda r: r, tolerance=1e-9, max_iterations=9)


def test_an_interrupted_fit_continues_to_the_same_model(labelled, tmp_path, monkeypatch):
    plain = {"optimize": None, "calibrate": False}
    whole = kp.KernelPotential([TERM], baseline=[]).fit(labelled, **plain)
    path = tmp_path / "state"

    class Stopped(Exception):
        pass

    original = full_mean.whole_mean

    def stopping(equations, start, *, limit=0, reference=None, keeper=None, progress=None):
        def stop(done):
            if done == 5:
                raise Stopped

        return original(
            equations, start, limit=limit, reference=reference, keeper=keeper, progress=stop
        )

    monkeypatch.setattr(full_mean, "whole_mean", stopping)
    arguments = {**plain, "checkpoint": path, "checkpoint_interval": 0.0}
    monkeypatch.setattr("kernelpot.fit.checkpoint._SHARE", np.inf)  # each time it is asked
    with pytest.raises(Stopped):
        kp.KernelPotential([TERM], baseline=[]).fit(labelled, **arguments)
    monkeypatch.undo()
    monkeypatch.setattr("kernelpot.fit.checkpoint._SHARE", np.inf)
    assert len(list(tmp_path.iterdir())) == 2
    calls = []
    begin = cg.begin
    monkeypatch.setattr(cg, "begin", lambda *a: calls.append(1) or begin(*a))
    again = kp.KernelPotential([TERM], baseline=[]).fit(labelled, **arguments)
    assert not calls
    assert not list(tmp_path.iterdir())
    for index, tail in whole.model.local.tails.items():
        np.testing.assert_array_equal(again.model.local.tails[index], tail)
    one, two = (p.predict(structures()["slab"]) for p in (whole, again))
    np.testing.assert_array_equal(one.forces, two.forces)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="`full` must be False unless degree is 2"):
        kp.PolynomialSOAP(r_cut=4.0, degree=3, full=True)
    with pytest.raises(ValueError, match="`full` must be True or False"):
        kp.PolynomialSOAP(r_cut=4.0, full=1)
