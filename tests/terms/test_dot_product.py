"""Kernels: NumPy oracles for the compiled steps, finite differences, definiteness."""

import numpy as np
import pytest

from kernelpot.terms.dot_product import DotProductKernel, normalize

KERNELS = [
    DotProductKernel(1, 0.7),
    DotProductKernel(2, 1.0),
    DotProductKernel(3, 0.5),
    DotProductKernel(4, 2.0),
    DotProductKernel(6, 1.1),
    DotProductKernel(2.5, 1.3),
]


@pytest.fixture
def unit(rng):
    return normalize(np.abs(rng.normal(size=(12, 7))) + 0.1)[0]


def args(kernel):
    return kernel.zeta, kernel.delta**2


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
class TestEveryKernel:
    def test_values_and_slopes_are_numpys(self, kernel, unit):
        zeta, delta2 = args(kernel)
        cosine = unit @ unit[:5].T
        np.testing.assert_allclose(kernel.values(cosine), delta2 * cosine**zeta, rtol=1e-13)
        expected = delta2 * zeta * cosine ** (zeta - 1)
        np.testing.assert_allclose(kernel.slopes(cosine), expected, rtol=1e-13)
        np.testing.assert_allclose(kernel(unit, unit[:5]), delta2 * cosine**zeta, rtol=1e-13)

    def test_auto_covariance_is_symmetric_with_the_prior_on_the_diagonal(self, kernel, unit):
        K = kernel(unit, unit)
        np.testing.assert_allclose(K, K.T, rtol=1e-13)
        np.testing.assert_allclose(np.diag(K), kernel.diagonal(), rtol=1e-13)
        if float(kernel.zeta).is_integer():
            assert np.linalg.eigvalsh(K).min() > -1e-13 * len(K) * kernel.diagonal()

    def test_fused_steps_are_numpys(self, kernel, unit, rng):
        zeta, delta2 = args(kernel)
        cosine = unit @ unit[:5].T
        slope = delta2 * zeta * cosine ** (zeta - 1)
        weights = rng.normal(size=5)
        mean, slopes, along = kernel.mean_and_slopes(cosine, weights)
        np.testing.assert_allclose(mean, (delta2 * cosine**zeta) @ weights, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(slopes, slope * weights, rtol=1e-12)
        expected = (slope * weights * cosine).sum(axis=1)
        np.testing.assert_allclose(along, expected, rtol=1e-11, atol=1e-13)
        cotangent = rng.normal(size=cosine.shape)
        weighted = cotangent.copy()
        along = kernel.weigh_slopes(cosine, weighted)
        np.testing.assert_allclose(weighted, slope * cotangent, rtol=1e-12)
        expected = (slope * cotangent * cosine).sum(axis=1)
        np.testing.assert_allclose(along, expected, rtol=1e-11, atol=1e-13)

    def test_gradient_by_features_is_a_finite_difference(self, kernel, rng):
        p = np.abs(rng.normal(size=(1, 7))) + 0.1
        q = normalize(np.abs(rng.normal(size=(4, 7))) + 0.1)[0]
        weights = rng.normal(size=4)
        unit, norm = normalize(p)
        _, slopes, along = kernel.mean_and_slopes(kernel.similarity(unit, q), weights)
        gradient = (slopes @ q - along[:, None] * unit) / norm[:, None]
        for f in range(7):
            step = np.zeros_like(p)
            step[0, f] = 1e-6
            sides = [kernel(normalize(p + s * step)[0], q) @ weights for s in (1, -1)]
            numerical = (sides[0] - sides[1]) / 2e-6
            assert gradient[0, f] == pytest.approx(numerical[0], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kind", ["rows", "every other column", "integers"])
def test_unit_vectors_are_numpys(kind, rng):
    features = rng.normal(size=(5, 13))
    if kind == "every other column":
        features = features[:, ::2]
    elif kind == "integers":
        features = rng.integers(1, 9, size=(5, 13))
    before = features.copy()
    unit, norm = normalize(features)
    np.testing.assert_allclose(norm, np.linalg.norm(features, axis=1), rtol=1e-14)
    np.testing.assert_allclose(unit, features / norm[:, None], rtol=1e-14)
    np.testing.assert_array_equal(features, before)


def test_a_non_integer_exponent_treats_negative_overlap_as_none():
    kernel = DotProductKernel(2.5, 1.0)
    assert kernel(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]]))[0, 0] == 0.0
