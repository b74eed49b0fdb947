"""What no choice of hyper-parameters may do to errors, on errors made by hand."""

import numpy as np
import pytest

from kernelpot.fit.limits import Limits
from kernelpot.fit.scores import Errors, Score


def errors(**kinds):
    """Of all structures, in order; NaN where there is no such label."""
    values = {kind: np.array(kinds.get(kind, []), float) for kind in ("energy", "forces", "stress")}
    members = {kind: np.flatnonzero(~np.isnan(v)) for kind, v in values.items()}
    return Errors({kind: v[members[kind]] for kind, v in values.items()}, members)


def test_a_kind_of_label_is_not_traded_for_others():
    types = ["a"] * 12
    start = errors(energy=[0.95] * 12, forces=[0.1] * 12, stress=[0.00052] * 12)
    other = errors(energy=[0.5] * 12, forces=[0.05] * 12, stress=[0.00249] * 12)
    assert Score(types)(other) < Score(types)(start) - 1.0
    limits = Limits.of(start, types)
    assert not limits.allow(other)
    assert limits.worst(other) == "stress by 379 %"
    assert limits.excess(other).max() == pytest.approx(np.log(0.00249 / 0.00052 / 1.02))


def test_a_config_type_is_not_traded_for_others():
    types = ["bulk"] * 30 + ["surface"] * 10
    start = errors(energy=[4.0] * 30 + [1.0] * 10, forces=[0.1] * 40)
    other = errors(energy=[1.0] * 30 + [1.2] * 10, forces=[0.1] * 40)
    assert Score(types)(other) < Score(types)(start) - 0.5
    assert not Limits.of(start, types).allow(other)
    assert Limits.of(start, types).worst(other) == "energy of surface by 20 %"
    assert Limits.of(start, ["any"] * 40).allow(other)


@pytest.mark.parametrize("kind", ["energy", "forces", "stress"])
def test_two_percent_are_tolerated_and_five_of_a_config_type(kind, rng):
    start = rng.uniform(0.5, 1.5, size=10)
    limits = Limits.of(errors(**{kind: start}), ["a"] * 10)
    assert limits.allow(errors(**{kind: start}))
    assert limits.allow(errors(**{kind: 1.0199 * start}))
    assert not limits.allow(errors(**{kind: 1.0201 * start}))
    # of the mean, not of each structure
    assert limits.allow(errors(**{kind: start[::-1]}))
    both, types = np.tile(start, 2), ["a"] * 10 + ["b"] * 10
    limits = Limits.of(errors(**{kind: both}), types)
    for factor, allowed in ((1.0499, True), (1.0501, False)):
        other = np.concatenate([factor * start, 0.9 * start])
        assert limits.allow(errors(**{kind: other})) is allowed


def test_the_win_of_all_is_allowed():
    types = ["a", "b"] * 10
    start = errors(energy=[39.0] * 20, forces=[0.5] * 20)
    assert Limits.of(start, types).allow(errors(energy=[7.6] * 20, forces=[0.509] * 20))


def test_few_structures_are_limited_together_or_not_at_all():
    """Nine energies of a type say too little, five forces enough; two such types are many."""
    energy, forces = [1.0] * 40, [1.0] * 40
    rare = slice(31, 40)
    worse = np.array(energy)
    worse[rare] = 1.08
    start, other = errors(energy=energy, forces=forces), errors(energy=worse, forces=forces)
    assert Limits.of(start, ["a"] * 31 + ["b"] * 9).allow(other)
    together = Limits.of(start, ["a"] * 30 + ["c"] + ["b"] * 9)
    assert not together.allow(other)
    assert together.worst(other) == "energy of rare config types by 7 %"
    assert not Limits.of(start, ["a"] * 31 + ["b"] * 9).allow(errors(energy=energy, forces=worse))
    four = np.where(np.arange(40) < 36, 1.0, 1.15)
    assert Limits.of(start, ["a"] * 36 + ["b"] * 4).allow(errors(energy=energy, forces=four))


def test_structures_without_a_label_are_not_counted():
    stress = [np.nan] * 10 + [1.0] * 10
    start = errors(energy=[1.0] * 20, stress=stress)
    types = ["molecule"] * 10 + ["crystal"] * 10
    found = Limits.of(start, types)
    assert found.allow(start)
    # the only type with stresses: the same as all
    assert [one.kind for one in found.limited].count("stress") == 1
    assert not found.allow(errors(energy=[1.0] * 20, stress=1.1 * np.array(stress)))


def test_errors_that_are_zero_by_symmetry_may_be_any_rounding():
    types = ["perfect"] * 10 + ["rattled"] * 10
    limits = Limits.of(errors(forces=[1e-14] * 10 + [0.1] * 10), types)
    assert limits.allow(errors(forces=[1e-9] * 10 + [0.1] * 10))
    assert not limits.allow(errors(forces=[1e-3] * 10 + [0.1] * 10))
    assert Limits.of(errors(stress=[0.0] * 10), ["a"] * 10).allow(errors(stress=[0.0] * 10))


def test_a_wrong_label_hides_nothing():
    """Its error alone is most of the mean, and falls a little, while all others double."""
    start = errors(energy=[1.0] * 19 + [1e4])
    other = errors(energy=[2.0] * 19 + [0.99e4])
    assert np.mean(other.values["energy"]) < np.mean(start.values["energy"])
    assert not Limits.of(start, ["a"] * 20).allow(other)
    assert Limits.of(start, ["a"] * 20).allow(errors(energy=[1.0] * 19 + [1.01e4]))
    assert not Limits.of(start, ["a"] * 20).allow(errors(energy=[1.0] * 19 + [1.03e4]))


def test_errors_that_are_no_numbers_are_not_allowed():
    limits = Limits.of(errors(energy=[1.0] * 10), ["a"] * 10)
    found = errors(energy=[1.0] * 10)
    found.values["energy"][3] = np.nan
    assert not limits.allow(found)


def test_without_limits_whatever_is_allowed():
    assert Limits().allow(errors(energy=[1e9] * 10))
