"""Closed forms of several means against sums over sparse points, in double precision."""

import numpy as np
import pytest

from kernelpot.terms import several_means
from kernelpot.terms.dot_product import DotProductKernel, normalize
from kernelpot.terms.polynomial import PolynomialKernel, leading_monomials
from kernelpot.terms.several_means import CubicMeans


@pytest.fixture
def features(rng):
    """Unit vectors as of power spectra: near each other, along few directions."""
    n_features = 130  # more than are rotated together
    scales = 0.2 * 0.75 ** np.arange(n_features)
    rotation = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
    mean = np.abs(rng.normal(size=n_features))
    mean /= np.linalg.norm(mean)

    def draw(n):
        return normalize(mean + (scales * rng.normal(size=(n, n_features))) @ rotation)[0]

    return draw


def of_points(kernel, u, points, weights):
    """Energies and derivatives by features, one sum over points each."""
    similarity = kernel.similarity(u, points)
    slopes = kernel.slopes(similarity)
    by_u = np.stack([(slopes * own) @ points for own in weights], axis=2)
    return kernel.values(similarity) @ weights.T, by_u


def check(means, kernel, u, points, weights, tolerance):
    expected, by_u = of_points(kernel, u, points, weights)
    found, energies = means(u, None, None)
    assert found.dtype == np.float32
    np.testing.assert_allclose(energies, expected.sum(axis=0), atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(found, by_u, atol=tolerance * np.abs(by_u).max())
    # Euler's theorem
    each = np.einsum("ef,efm->em", u, found.astype(float)) / means.degree
    np.testing.assert_allclose(each, expected, atol=tolerance * np.abs(by_u).max())
    weight = np.linspace(0.0, 1.0, len(u))
    known, weighted = means(u, kernel.similarity(u, points), weight)
    np.testing.assert_allclose(known, found, atol=1e-6 * np.abs(by_u).max())
    scale = np.abs(expected).max()
    np.testing.assert_allclose(weighted, weight @ expected, atol=1e-9 * scale)
    assert means.n_bytes > 0


@pytest.mark.parametrize(("zeta", "n"), [(1, 80), (2, 80), (2, 300), (3, 80)])
def test_closed_forms_are_sums_over_points(features, zeta, n, rng):
    kernel = DotProductKernel(zeta, 1.7)
    points, u = features(n), features(9)
    weights = rng.normal(size=(4, len(points)))
    means = kernel.several_means(points, weights, 1e9)
    check(means, kernel, u, points, weights, 1e-6)


def test_the_third_degree_with_weights_that_cancel(features, rng):
    """As whitened draws have them: large, and with a sum that is that of the prior."""
    kernel = DotProductKernel(3, 1.0)
    points = features(200)
    scale, vectors = np.linalg.eigh(kernel.gram(points))
    kept = scale > 1e-9
    weights = (vectors[:, kept] / np.sqrt(scale[kept]) @ rng.normal(size=(kept.sum(), 5))).T
    assert np.abs(weights).max() > 100
    means = kernel.several_means(points, weights, 1e9)
    # of the prior, coefficients that are left out included
    check(means, kernel, features(20), points, weights, 3e-5)
    # sums over points in single precision lose all but some digits
    u = features(20)
    expected = of_points(kernel, u, points, weights)[1]
    slopes = kernel.slopes(kernel.similarity(u, points)).astype(np.float32)
    naive = np.stack(
        [(slopes * own.astype(np.float32)) @ points.astype(np.float32) for own in weights], axis=2
    )
    errors = [np.abs(found - expected).max() for found in (means(u, None, None)[0], naive)]
    assert 3 * errors[0] < errors[1]


def test_points_that_repeat_others_and_coefficients_that_are_left_out(features, rng, monkeypatch):
    kernel = DotProductKernel(3, 1.0)
    points = features(60)
    points = np.concatenate([points, points[:20]])
    weights = rng.normal(size=(2, len(points)))
    monkeypatch.setattr(several_means, "NEGLIGIBLE", 0.0)
    whole = kernel.several_means(points, weights, 1e9)
    assert len(whole.pivots) == 60
    check(whole, kernel, features(5), points, weights, 1e-6)
    monkeypatch.setattr(several_means, "NEGLIGIBLE", 1e-5)
    less = CubicMeans.of(points, weights)
    assert less.n_bytes < 0.9 * whole.n_bytes
    check(less, kernel, features(5), points, weights, 1e-3)


def test_nothing_where_it_costs_more_or_needs_too_much_memory(features, rng):
    points = features(300)
    weights = rng.normal(size=(2, len(points)))
    assert DotProductKernel(4, 1.0).several_means(points, weights, 1e9) is None
    assert DotProductKernel(3, 1.0).several_means(points, weights, 1e9) is None  # two members
    weights = rng.normal(size=(5, len(points)))
    assert DotProductKernel(2, 1.0).several_means(points[:60], weights[:, :60], 1e9) is None
    for zeta in (2, 3):
        kernel = DotProductKernel(zeta, 1.0)
        assert kernel.several_means(points, weights, 1e9) is not None
        assert kernel.several_means(points, weights, 1e3) is None


@pytest.mark.parametrize("degree", [1, 2])
def test_polynomials(features, degree, rng):
    kernel = PolynomialKernel(degree, 1.3)
    points = leading_monomials(0.9 ** np.arange(12.0), degree)[0][:30]
    weights = rng.normal(size=(3, len(points)))
    u = features(6)
    means = kernel.several_means(points, weights, 1e9)
    found, energies = means(u, None, None)
    for m, own in enumerate(weights):
        values, by_u, along = kernel.fast_mean(points, own)(u)
        np.testing.assert_allclose(found[:, :, m], by_u, atol=1e-6 * np.abs(by_u).max())
        np.testing.assert_allclose(energies[m], values.sum(), atol=1e-12)
        np.testing.assert_allclose(along, means.degree * values, atol=1e-12)
    assert kernel.several_means(points, weights, 1.0) is None
    assert PolynomialKernel(3, 1.0).several_means(points, weights, 1e9) is None
