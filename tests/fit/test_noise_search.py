"""The search for noise and prior scales, on errors that are given functions."""

import numpy as np
import pytest

from kernelpot.fit.limits import Limits
from kernelpot.fit.noise_search import (
    FIRST_STEP,
    HALVINGS,
    MARGIN,
    Trials,
    _begin,
    _descend,
    advance,
    farthest_allowed,
)
from kernelpot.fit.scores import WEIGHTS, Errors, Score

KINDS = tuple(WEIGHTS)


def trials_of(exponents, n_parameters, limited=True):
    """Errors of twelve alike structures: one, times an exponential of `exponents(x)`."""

    def evaluate(x):
        values = {k: np.full(12, np.exp(e)) for k, e in zip(KINDS, exponents(x), strict=True)}
        return Errors(values, {k: np.arange(12) for k in KINDS})

    start = evaluate(np.zeros(n_parameters))
    limits = Limits.of(start, ["a"] * 12) if limited else Limits()
    return Trials(evaluate, Score(["a"] * 12), limits, start, n_parameters)


def test_the_search_stops_where_a_kind_would_get_worse():
    """Energies fall along the first parameter and stresses grow; forces fall along the second."""
    trials = trials_of(lambda x: (-x[0], (x[1] - 1.0) ** 2, 3.0 * x[0]), 2)
    _descend(trials, trials.start, np.eye(2), 40)
    best = trials.allowed()[0]
    assert trials.improved
    assert 0.9 * (np.log(1.02) - MARGIN) < 3.0 * best.x[0] <= np.log(1.02)
    assert best.x[1] == pytest.approx(1.0, abs=np.log(FIRST_STEP) / 3)
    free = trials_of(lambda x: (-x[0], (x[1] - 1.0) ** 2, 3.0 * x[0]), 2, limited=False)
    _descend(free, free.start, np.eye(2), 40)
    assert free.allowed()[0].value < best.value - 1.0


def test_the_search_returns_from_forbidden_values():
    """From where the evidence leads, with stresses 2.7 times as large; allowed values are near."""
    trials = trials_of(lambda x: ((x[0] - 2.0) ** 2, (x[1] - 0.5) ** 2, x[0] - 2.0 * x[1]), 2)
    begin = trials(np.array([2.0, 0.5]))
    assert not begin.allowed
    _descend(trials, begin, np.eye(2), 40)
    best = trials.allowed()[0]
    assert best.value < trials.start.value - 3.5
    assert best.x[0] - 2.0 * best.x[1] <= np.log(1.02)


def test_the_search_begins_on_the_way_to_forbidden_values():
    trials = trials_of(lambda x: (-x[0], -x[0], 0.1 * x[0] ** 2), 1)
    outside = trials(np.array([4.0]))
    begin = _begin(trials, outside)
    assert begin.allowed
    assert 0.25 <= begin.x[0] < np.sqrt(10 * np.log(1.02))
    assert _begin(trials, trials(np.array([-1.0]))) is trials.start


def test_half_a_step_is_taken_while_it_pays():
    trials = trials_of(lambda x: (-x[0], 0.0, x[0]), 1)
    advance(trials, trials.start, trials(np.array([1.0])))
    assert len(trials) == 2 + HALVINGS
    worse = trials(np.array([-1.0]))
    known = len(trials)
    advance(trials, trials.start, worse)
    assert len(trials) == known


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.74, 2.0])
def test_the_way_back_ends_short_of_the_limit(limit):
    asked = []

    def allowed(x):
        asked.append(x)
        return bool(x[0] <= limit)

    share = farthest_allowed(np.array([1.0, -5.0]), allowed)
    assert 0 <= share <= min(limit, 1.0)
    assert share > min(limit, 1.0) - 0.5**HALVINGS - 1e-12
    assert len(asked) <= 1 + HALVINGS


def test_no_point_is_evaluated_twice():
    asked = []

    def exponents(x):
        asked.append(tuple(x))
        return -x[0], x[1] ** 2, 0.0

    trials = trials_of(exponents, 2)
    _descend(trials, trials.start, np.eye(2), 20)
    assert len(asked) == len(set(asked)) == len(trials)


@pytest.mark.parametrize(
    ("factor", "named"), [(100.0, True), (99.9, True), (1 / 99.0, True), (50.0, False)]
)
def test_a_bound_is_told_after_rounding(factor, named):
    from types import SimpleNamespace

    from kernelpot.fit.noise import _bound_note

    notes = _bound_note(SimpleNamespace(names=["sigma_forces"]), np.array([np.log(factor)]))
    assert bool(notes) == named
    assert not named or "sigma_forces ended a factor 100 from the default" in notes[0]
