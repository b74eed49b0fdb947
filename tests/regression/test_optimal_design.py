"""Labels that tell most about all others."""

import numpy as np
import pytest

from kernelpot.regression.optimal_design import choose_for_the_mean


@pytest.fixture
def groups():
    rng = np.random.default_rng(3)
    rows = [rng.normal(size=(2 + k % 3, 7)) for k in range(8)]
    weights = [np.where(rng.random(len(r)) < 0.3, 0.0, rng.random(len(r))) for r in rows]
    known = rng.normal(size=(5, 7))
    return rows, weights, np.eye(7) + known.T @ known


def remaining(rows, weights, precision, chosen):
    """Sum of weighted variances given some groups, from an inverse."""
    for k in chosen:
        precision = precision + rows[k].T @ rows[k]
    covariance = np.linalg.inv(precision)
    pairs = zip(rows, weights, strict=True)
    return sum(w**2 @ np.einsum("rm,mn,rn->r", r, covariance, r) for r, w in pairs)


def test_each_choice_is_the_best_of_all_that_are_left(groups):
    rows, weights, precision = groups
    chosen, left = choose_for_the_mean(rows, weights, np.linalg.cholesky(precision).T, 5)
    for k, (index, value) in enumerate(zip(chosen, left, strict=True)):
        before = list(chosen[:k])
        found = {
            c: remaining(rows, weights, precision, [*before, c])
            for c in range(len(rows))
            if c not in before
        }
        assert index == min(found, key=found.get)
        assert value == pytest.approx(found[index], rel=1e-10)


def test_an_outlier_is_not_what_teaches_most():
    """Its variance is the largest, but nothing else depends on it."""
    common = np.array([[1.0, 0.0]])
    rows = [3.0 * np.array([[0.0, 1.0]]), *[common] * 20]
    weights = [np.ones(1)] * 21
    chosen, left = choose_for_the_mean(rows, weights, np.eye(2), 2)
    assert chosen[0] > 0
    assert chosen[1] == 0
    np.testing.assert_allclose(left, [9.0 + 20 / 2, 9 / 10 + 20 / 2])
