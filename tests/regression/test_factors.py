"""The regression on matrices: dense formulas, closed forms, scikit-learn."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct, Exponentiation

from kernelpot.regression.factors import GroupedFactor, TriangularFactor
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.regression.whitening import whitening


@pytest.fixture
def problem(rng):
    """Well-conditioned covariance blocks, targets and noise."""
    features = rng.normal(size=(60, 8))
    sparse = rng.normal(size=(15, 8))
    K_mm = (sparse @ sparse.T / 8 + 1.0) ** 2 + 0.1 * np.eye(15)
    K_nm = (features @ sparse.T / 8 + 1.0) ** 2
    return K_mm, K_nm, rng.normal(size=60), 0.1 + rng.random(60)


def fit(K_mm, K_nm, y, sigma, batch=60):
    T = whitening(K_mm)
    factor = TriangularFactor(T.shape[1])
    for start in range(0, len(y), batch):
        part = slice(start, start + batch)
        factor.update(K_nm[part] @ T / sigma[part, None], y[part] / sigma[part])
    return T, factor


def test_weights_are_the_dense_formula(problem):
    K_mm, K_nm, y, sigma = problem
    T, factor = fit(*problem)
    A = K_mm + K_nm.T @ (K_nm / sigma[:, None] ** 2)
    expected = np.linalg.solve(A, K_nm.T @ (y / sigma**2))
    np.testing.assert_allclose(T @ factor.solve(), expected, rtol=1e-8, atol=1e-10)
    residual = (y - K_nm @ expected) / sigma
    assert factor.residual == pytest.approx(float(y / sigma @ residual), rel=1e-10)
    assert factor.n_rows == 60


@pytest.mark.parametrize("scaled", [False, True])
def test_groups_at_unit_noise_give_the_posterior_of_any_noise(problem, rng, scaled):
    K_mm, K_nm, y, _ = problem
    T = whitening(K_mm)
    phi = K_nm @ T
    scale = 0.5 + rng.random(phi.shape[1]) if scaled else np.ones(phi.shape[1])
    sigma = {"few": 0.3, "many": 0.05}
    part = {"few": np.arange(4), "many": np.arange(4, 60)}
    first, second = GroupedFactor(phi.shape[1]), GroupedFactor(phi.shape[1])
    for group, rows in part.items():
        halves = np.array_split(rows, 2)
        first.update(group, phi[halves[0]], y[halves[0]])
        second.update(group, phi[halves[1]], y[halves[1]])
    first.merge(second)
    assert first.counts == {"few": 4, "many": 56}
    assert set(first.rows) == {"few"}
    found = first.posterior(sigma.__getitem__, scale)
    weight = np.concatenate([np.full(4, 1 / 0.3), np.full(56, 1 / 0.05)])
    A = (phi * scale) * weight[:, None]
    expected = np.linalg.solve(np.eye(len(scale)) + A.T @ A, A.T @ (weight * y))
    np.testing.assert_allclose(found.solve(), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.R.T @ found.R, np.eye(len(scale)) + A.T @ A, rtol=1e-9)
    residual = weight * y - A @ expected
    assert found.residual == pytest.approx(float((weight * y) @ residual), rel=1e-9)
    assert found.n_rows == 60


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_streamed_equals_one_batch(problem, batch):
    _, whole = fit(*problem)
    _, streamed = fit(*problem, batch=batch)
    np.testing.assert_allclose(streamed.solve(), whole.solve(), rtol=1e-9, atol=1e-11)
    assert streamed.residual == pytest.approx(whole.residual, rel=1e-10)


def test_merged_workers_equal_one_with_the_prior_once(problem):
    K_mm, K_nm, y, sigma = problem
    T, whole = fit(*problem)
    rows, targets = K_nm @ T / sigma[:, None], y / sigma
    workers = []
    for part in np.array_split(np.arange(60), 3):
        worker = TriangularFactor(T.shape[1], prior=False)
        worker.update(rows[part], targets[part])
        workers.append(worker)
    root = TriangularFactor(T.shape[1])
    for worker in workers:
        root.merge(worker)
    np.testing.assert_allclose(root.solve(), whole.solve(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(np.abs(np.diag(root.R)), np.abs(np.diag(whole.R)), rtol=1e-10)
    assert root.n_rows == 60
    # twice the prior would be another model
    wrong = TriangularFactor(T.shape[1])
    wrong.merge(fit(*problem)[1])
    assert np.abs(wrong.solve() - whole.solve()).max() > 1e-4


def test_the_order_of_rows_changes_nothing_beyond_rounding(problem, rng):
    K_mm, K_nm, y, sigma = problem
    _, whole = fit(*problem)
    order = rng.permutation(60)
    _, shuffled = fit(K_mm, K_nm[order], y[order], sigma[order])
    np.testing.assert_allclose(shuffled.solve(), whole.solve(), rtol=1e-9, atol=1e-11)


def test_duplicate_sparse_points_give_the_same_function(problem):
    K_mm, K_nm, y, sigma = problem
    twice = np.concatenate([np.arange(15), [3, 3, 9]])
    T, factor = fit(*problem)
    T2, factor2 = fit(K_mm[np.ix_(twice, twice)], K_nm[:, twice], y, sigma)
    assert T2.shape == (18, 15)
    np.testing.assert_allclose(
        K_nm[:, twice] @ (T2 @ factor2.solve()), K_nm @ (T @ factor.solve()), rtol=1e-7
    )


def test_without_rows_the_posterior_is_the_prior():
    factor = TriangularFactor(4)
    factor.update(np.empty((0, 4)), np.empty(0))
    np.testing.assert_array_equal(factor.solve(), np.zeros(4))
    s = factor.posterior_factor(np.arange(1, 3))
    np.testing.assert_allclose(s.T @ s, np.eye(2), atol=1e-15)


def test_an_indefinite_kernel_matrix_is_refused():
    with pytest.raises(np.linalg.LinAlgError, match="not positive semidefinite.*zeta"):
        whitening(np.array([[1.0, 2.0], [2.0, 1.0]]))


def test_variance_is_the_dense_formula(problem, rng):
    K_mm, K_nm, _, sigma = problem
    T, factor = fit(*problem)
    # test points whose prior variance exceeds what the sparse points explain
    k_star = rng.normal(size=(9, 15))
    inverse = np.linalg.inv(K_mm)
    explained = np.einsum("em,mk,ek->e", k_star, inverse, k_star)
    prior = float(explained.max() + 1.0)
    sigma_posterior = np.linalg.inv(K_mm + K_nm.T @ (K_nm / sigma[:, None] ** 2))
    expected = prior - explained + np.einsum("em,mk,ek->e", k_star, sigma_posterior, k_star)
    variance = LocalVariance.of([T], factor.posterior_factor(np.arange(0, T.shape[1])))
    assert sorted(variance.order) == list(range(15))
    k = k_star[:, variance.order]
    np.testing.assert_allclose(variance(prior, k), expected, rtol=1e-8)
    # with fewer points: upper bounds that fall to the exact value
    bounds = np.array([variance(prior, k, points) for points in range(16)])
    np.testing.assert_allclose(bounds[0], prior)
    assert np.all(np.diff(bounds, axis=0) <= 1e-12)


def test_the_bound_of_few_points_is_the_least_variance_they_allow(problem, rng):
    """The largest quadratic form below the exact one that needs those points only."""
    K_mm, _, _, _ = problem
    T, factor = fit(*problem)
    S = factor.posterior_factor(np.arange(0, T.shape[1]))
    variance = LocalVariance.of([T], S)
    k = rng.normal(size=(1, 15))[:, variance.order]
    Q = (T @ (np.eye(15) - S.T @ S) @ T.T)[np.ix_(variance.order, variance.order)]
    first, rest = slice(0, 6), slice(6, 15)
    # minimized over the kernel with the points left out
    schur = Q[first, first] - Q[first, rest] @ np.linalg.solve(Q[rest, rest], Q[rest, first])
    expected = 1e3 - k[0, first] @ schur @ k[0, first]
    assert variance(1e3, k, 6)[0] == pytest.approx(expected, rel=1e-9)


def test_variance_with_repeated_points_and_several_terms(problem, rng):
    K_mm, K_nm, y, sigma = problem
    twice = np.concatenate([np.arange(15), np.arange(4)])
    T1, T2 = whitening(K_mm[np.ix_(twice, twice)]), whitening(K_mm[:5, :5] + np.eye(5))
    n = T1.shape[1] + T2.shape[1]
    S = np.triu(rng.normal(size=(n, n)))
    S /= np.linalg.norm(S, 2)  # a posterior covariance below the prior's
    variance = LocalVariance.of([T1, T2], S)
    weights = rng.normal(size=(7, 15))  # functions in the span of the sparse points
    k1 = weights @ K_mm[:, twice]
    k2 = rng.normal(size=(7, 5)) @ (K_mm[:5, :5] + np.eye(5))
    phi = np.concatenate([k1 @ T1, k2 @ T2], axis=1)
    expected = 50.0 - np.sum(phi**2, axis=1) + np.sum((phi @ S.T) ** 2, axis=1)
    keep = expected > 0
    assert keep.sum() >= 1
    k = np.concatenate([k1, k2], axis=1)[:, variance.order]
    np.testing.assert_allclose(variance(50.0, k[keep]), expected[keep], rtol=1e-7)


@pytest.mark.parametrize("most_open", [0.9, 1.0])
def test_what_is_explained_is_the_dense_formula_where_labels_leave_a_direction_open(
    problem, most_open, monkeypatch
):
    """By Cholesky, and by eigenvectors where a direction is as open as in the prior."""
    T, factor = fit(*problem)
    S = factor.posterior_factor(np.arange(0, T.shape[1]))
    values, vectors = np.linalg.eigh(S.T @ S)
    values[-1] = most_open
    S = np.sqrt(values)[:, None] * vectors.T
    used, eigh = [], scipy.linalg.eigh
    monkeypatch.setattr(scipy.linalg, "eigh", lambda a: used.append(a) or eigh(a))
    if most_open == 1.0:  # rounding may be on either side
        monkeypatch.setattr(scipy.linalg, "cholesky", refuse)
    variance = LocalVariance.of([T], S)
    assert len(used) == (most_open == 1.0)
    dense = (T @ (np.eye(len(S)) - S.T @ S) @ T.T)[np.ix_(variance.order, variance.order)]
    found = variance.reduction.T @ variance.reduction
    np.testing.assert_allclose(found, dense, rtol=0, atol=1e-12 * np.abs(dense).max())


def refuse(*args):
    raise np.linalg.LinAlgError("not definite")


def test_variances_above_the_prior_are_refused(problem):
    T, _ = fit(*problem)
    with pytest.raises(FloatingPointError, match=r"exceeds its prior by a factor of 1\.21"):
        LocalVariance.of([T], 1.1 * np.eye(T.shape[1]))


def test_variance_of_a_group_of_weights_is_its_marginal(problem):
    T, factor = fit(*problem)
    whole = factor.posterior_factor(np.arange(0, T.shape[1]))
    part = factor.posterior_factor(np.arange(4, 9))
    np.testing.assert_allclose(part.T @ part, (whole.T @ whole)[4:9, 4:9], rtol=1e-10)


def test_open_variance_is_the_dense_formula_for_any_leading_columns(problem, rng):
    T, factor = fit(*problem)
    covariance = np.linalg.inv(factor.R.T @ factor.R)
    phi = rng.normal(size=(5, T.shape[1]))
    expected = np.einsum("nm,mk,nk->n", phi, covariance, phi)
    np.testing.assert_allclose(factor.open_variance(phi), expected, rtol=1e-9)
    phi[:, 7:] = 0.0
    expected = np.einsum("nm,mk,nk->n", phi, covariance, phi)
    np.testing.assert_allclose(factor.open_variance(phi[:, :7]), expected, rtol=1e-9)
    # without data the factor of the targets is zero
    np.testing.assert_allclose(TriangularFactor(7).open_variance(phi[:, :7]), (phi**2).sum(axis=1))


def test_deviations_are_normal_with_the_posterior_covariance(problem):
    _, factor = fit(*problem)
    found = factor.deviations(6, np.random.default_rng(3))
    z = np.random.default_rng(3).standard_normal(found.shape)
    np.testing.assert_allclose(found @ factor.R.T, z, rtol=1e-9, atol=1e-11)


def test_variance_gradient_is_a_finite_difference(rng):
    G = np.asfortranarray(np.tril(rng.normal(size=(5, 5))))
    variance = LocalVariance(np.arange(5), G)
    k = rng.normal(size=(2, 5))
    np.testing.assert_allclose(
        variance(200.0, k), 200.0 - np.sum((k @ G.T) ** 2, axis=1), rtol=1e-12
    )
    gradient = variance.gradient(k)
    for m in range(5):
        step = np.zeros_like(k)
        step[:, m] = 1e-5
        numerical = (variance(200.0, k + step) - variance(200.0, k - step)) / 2e-5
        np.testing.assert_allclose(gradient[:, m], numerical, rtol=1e-6, atol=1e-6)


def test_a_negative_variance_is_raised_not_clipped():
    with pytest.raises(FloatingPointError, match="negative variance"):
        LocalVariance(np.arange(2), np.eye(2, order="F"))(1.0, np.array([[1.1, 0.0]]))


def test_as_many_sparse_points_as_data_is_scikit_learns_exact_gp(rng):
    X = rng.normal(size=(25, 4))
    X /= np.linalg.norm(X, axis=1)[:, None]
    X_test = rng.normal(size=(6, 4))
    X_test /= np.linalg.norm(X_test, axis=1)[:, None]
    y = rng.normal(size=25)
    kernel = Exponentiation(DotProduct(sigma_0=0.0, sigma_0_bounds="fixed"), 4)
    exact = GaussianProcessRegressor(kernel, alpha=0.05**2, optimizer=None).fit(X, y)
    mean, std = exact.predict(X_test, return_std=True)

    K = (X @ X.T) ** 4
    T, factor = fit(K, K, y, np.full(25, 0.05))
    k_star = (X_test @ X.T) ** 4
    # K is nearly singular: its smallest eigenvalues are below the cut
    np.testing.assert_allclose(k_star @ T @ factor.solve(), mean, atol=2e-6)
    variance = LocalVariance.of([T], factor.posterior_factor(np.arange(0, T.shape[1])))
    np.testing.assert_allclose(np.sqrt(variance(1.0, k_star[:, variance.order])), std, atol=2e-6)
