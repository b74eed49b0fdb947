"""Evidence and its gradients: dense formulas and finite differences."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from kernelpot.regression.evidence import (
    effective_parameters,
    evidence,
    leading_columns,
    prior_amplitude,
    select_columns,
)
from kernelpot.regression.factors import GroupedFactor, TriangularFactor
from kernelpot.regression.layout import Layout

SIGMA = {"few": 0.3, "many": 0.05, "more": 0.4}
BLOCKS = [np.arange(0, 7), np.arange(7, 12)]


@pytest.fixture
def rows(rng):
    """Three groups of rows ``[Phi | y]``: one smaller than the number of columns."""
    return {g: rng.normal(size=(n, 13)) for g, n in (("few", 4), ("many", 40), ("more", 25))}


@pytest.fixture
def grouped(rows):
    result = GroupedFactor(12)
    for group, part in rows.items():
        for half in np.array_split(part, 2):
            result.update(group, half[:, :-1], half[:, -1])
    assert set(result.rows) == {"few"}
    return result


def test_evidence_is_the_dense_density(rows, grouped, rng):
    scale = 0.5 + rng.random(12)
    covariance = np.zeros((69, 69))
    phi = np.concatenate([part[:, :-1] for part in rows.values()]) * scale
    y = np.concatenate([part[:, -1] for part in rows.values()])
    noise = np.repeat([SIGMA[g] for g in rows], [len(part) for part in rows.values()])
    covariance = phi @ phi.T + np.diag(noise**2)
    found = evidence(grouped, SIGMA, scale, BLOCKS)
    expected = -2 * multivariate_normal(np.zeros(69), covariance).logpdf(y)
    assert found.value == pytest.approx(expected, rel=1e-10)
    hat = phi @ phi.T @ np.linalg.inv(covariance)
    assert found.n_parameters == pytest.approx(np.trace(hat), rel=1e-10)
    factor = grouped.posterior(SIGMA.__getitem__, scale)
    assert effective_parameters(factor) == pytest.approx(np.trace(hat), rel=1e-10)


def test_the_prior_amplitude_is_where_the_evidence_is_largest(rng):
    """For targets drawn from a prior of five times the amplitude, it is about five."""
    phi = rng.normal(size=(300, 20))
    y = phi @ (5.0 * rng.normal(size=20)) + 0.01 * rng.normal(size=300)
    factor = TriangularFactor(20)
    factor.update(phi / 0.01, y / 0.01)
    found = prior_amplitude(factor)
    assert 3.0 < found < 8.0
    grouped = GroupedFactor(20)
    grouped.update("all", phi, y)
    at_it = evidence(grouped, {"all": 0.01}, np.full(20, found), [np.arange(20)])
    assert abs(at_it.by_scale[0]) < 1e-3 * 20
    rescaled = TriangularFactor(20)
    rescaled.update(found * phi / 0.01, y / 0.01)
    assert prior_amplitude(rescaled) == pytest.approx(1.0, rel=1e-4)


def test_nothing_determined_leaves_the_prior_as_it_is():
    assert prior_amplitude(TriangularFactor(5)) == 1.0
    silent = TriangularFactor(5)
    silent.update(np.eye(5), np.zeros(5))
    assert prior_amplitude(silent) == 1.0


def test_evidence_gradients_are_finite_differences(grouped, rng):
    scale = 0.5 + rng.random(12)
    found = evidence(grouped, SIGMA, scale, BLOCKS)
    h = 1e-5
    for group in SIGMA:
        values = [
            evidence(grouped, {**SIGMA, group: SIGMA[group] * np.exp(s)}, scale, BLOCKS).value
            for s in (h, -h)
        ]
        assert found.by_sigma[group] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6)
    for block, derivative in zip(BLOCKS, found.by_scale, strict=True):
        values = []
        for s in (h, -h):
            changed = scale.copy()
            changed[block] *= np.exp(s)
            values.append(evidence(grouped, SIGMA, changed, BLOCKS).value)
        assert derivative == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6)


def test_selected_columns_are_the_smaller_problem(rows, grouped):
    columns = np.array([0, 1, 7, 8, 9, 11])
    expected = GroupedFactor(6)
    for group, part in rows.items():
        expected.update(group, part[:, columns], part[:, -1])
    found = select_columns(grouped, columns)
    assert found.counts == expected.counts
    blocks = [np.arange(2), np.arange(2, 5)]
    one, two = (evidence(g, SIGMA, np.ones(6), blocks) for g in (found, expected))
    assert one.value == pytest.approx(two.value, rel=1e-10)
    assert one.by_sigma == pytest.approx(two.by_sigma, rel=1e-8)
    np.testing.assert_allclose(one.by_scale, two.by_scale, rtol=1e-8)


def test_leading_columns_are_the_first_of_each_block_and_the_offset():
    layout = Layout.of([6, 4, 2], [0, 1, 0])
    np.testing.assert_array_equal(leading_columns(layout, 6), [0, 1, 2, 6, 7, 10, 12])
    np.testing.assert_array_equal(leading_columns(layout, 100), np.arange(13))
