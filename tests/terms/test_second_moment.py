"""Leading eigenvectors of streamed rows: a sketch against the matrix itself."""

import numpy as np
import pytest

from kernelpot.terms.second_moment import (
    DENSE_COLUMNS,
    OVERSAMPLING,
    DenseMoment,
    SketchedMoment,
    second_moment,
)


@pytest.fixture
def rows(rng):
    """Six hundred columns whose spectrum falls by ten orders of magnitude."""
    scales = 10.0 ** (-5 * np.arange(600) / 150)
    turn = np.linalg.qr(rng.normal(size=(600, 600)))[0]
    return (rng.normal(size=(2000, 600)) * scales) @ turn


def sketched(n_columns, n_wanted, monkeypatch):
    monkeypatch.setattr("kernelpot.terms.second_moment.DENSE_COLUMNS", 0)
    return second_moment(n_columns, n_wanted)


def test_the_matrix_itself(rows):
    moment = second_moment(600, 20)
    assert isinstance(moment, DenseMoment)
    for start in range(0, 2000, 300):
        moment.add(rows[start : start + 300])
    values, vectors = moment.leading(20)
    expected = np.linalg.svd(rows, compute_uv=False)
    np.testing.assert_allclose(values, expected[:20] ** 2, rtol=1e-9)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(20), atol=1e-12)
    assert moment.trace == pytest.approx(np.square(expected).sum(), rel=1e-12)


def test_a_sketch_has_the_leading_eigenvectors(rows, monkeypatch):
    moment = sketched(600, 100, monkeypatch)
    assert isinstance(moment, SketchedMoment)
    assert moment.sketch.shape == (600, 100 + OVERSAMPLING)
    for start in range(0, 2000, 300):
        moment.add(rows[start : start + 300])
    values, vectors = moment.leading(100)
    exact = DenseMoment(rows.T @ rows)
    expected, true = exact.leading(100)
    # of an eigenvalue ten orders below the first
    np.testing.assert_allclose(values, expected, rtol=0.05)
    np.testing.assert_allclose(values[:50], expected[:50], rtol=1e-3)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(100), atol=1e-10)
    # the space of the first 80 lies in that of the 100
    inside = np.linalg.svd(vectors.T @ true[:, :80], compute_uv=False)
    assert inside.min() > 0.99
    assert moment.trace == pytest.approx(exact.trace, rel=1e-12)


def test_sums_are_those_of_the_rows(rows, monkeypatch):
    for make in (lambda: second_moment(600, 30), lambda: sketched(600, 30, monkeypatch)):
        one, two, both = make(), make(), make()
        one.add(rows[:900])
        two.add(rows[900:])
        both.add(np.concatenate([np.sqrt(0.5) * rows[:900], np.sqrt(3.0) * rows[900:]]))
        total = one.plus(0.5, two, 3.0)
        np.testing.assert_allclose(total.leading(30)[0], both.leading(30)[0], rtol=1e-8)
        assert total.trace == pytest.approx(both.trace, rel=1e-12)


def test_few_columns_are_never_sketched():
    assert isinstance(second_moment(DENSE_COLUMNS, 200), DenseMoment)
    assert isinstance(second_moment(DENSE_COLUMNS + 1, 200), SketchedMoment)
