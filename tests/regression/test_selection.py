"""Sparse selection: known answers, determinism, quotas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.regression.selection import (
    environment_keys,
    farthest_from,
    farthest_point,
    first_of_each,
    quotas,
    select,
)


@pytest.fixture
def unit(rng):
    x = rng.normal(size=(80, 6))
    return x / np.linalg.norm(x, axis=1)[:, None]


def on_circle(degrees):
    radians = np.radians(degrees)
    return np.column_stack([np.cos(radians), np.sin(radians)])


def test_farthest_point_spreads_over_an_arc():
    points = on_circle([0.0, 1.0, 2.0, 44.0, 46.0, 88.0, 90.0])
    chosen = farthest_point(points, 3)
    assert set(chosen[:2]) == {0, 6}
    assert chosen[2] in (3, 4)


@pytest.mark.parametrize("method", ["farthest_point", "cur", "kmeans", "random"])
def test_every_method_gives_distinct_points_reproducibly(method, unit):
    first = select(unit, 30, method, seed=3)
    assert len(set(first.tolist())) == 30
    np.testing.assert_array_equal(first, select(unit, 30, method, seed=3))
    assert set(select(unit, 80, method).tolist()) == set(range(80))


def test_farthest_point_does_not_depend_on_the_order(unit, rng):
    order = rng.permutation(len(unit))
    one = {tuple(row) for row in unit[farthest_point(unit, 20)]}
    other = {tuple(row) for row in unit[order][farthest_point(unit[order], 20)]}
    assert one == other


def test_farthest_point_covers_better_than_random(unit):
    def coverage(chosen):
        return (1.0 - unit @ unit[chosen].T).min(axis=1).max()

    assert coverage(farthest_point(unit, 25)) < coverage(select(unit, 25, "random"))


def test_duplicates_are_found(unit):
    repeated = np.concatenate([unit, unit[:10] + 1e-12])
    keys = environment_keys(repeated)
    np.testing.assert_array_equal(first_of_each(keys), np.arange(80))


def test_too_many_points_are_refused(unit):
    with pytest.raises(ValueError, match="cannot choose 81 sparse points from 80"):
        select(unit, 81, "random")


@given(
    n=st.integers(1, 3000),
    counts=st.dictionaries(st.integers(1, 90), st.integers(1, 5000), min_size=1, max_size=5),
)
def test_quotas_use_what_there_is(n, counts):
    share = quotas(n, counts)
    minimum = sum(min(20, c) for c in counts.values())
    assert sum(share.values()) == min(max(n, minimum), sum(counts.values()))
    for z, count in counts.items():
        assert min(20, count) <= share[z] <= count


def test_farthest_point_continues_from_points_chosen_before(unit):
    whole = farthest_point(unit, 12)
    chosen, distance = farthest_from(unit, unit[whole[:5]], 7)
    np.testing.assert_array_equal(chosen, whole[5:])
    assert (np.diff(distance) <= 1e-6).all()
    exact = (2 - 2 * unit[chosen[0]] @ unit[whole[:5]].T).min()
    assert distance[0] == pytest.approx(exact, abs=1e-6)
