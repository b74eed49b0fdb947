"""Errors that outgrow what the data leave open."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from kernelpot.data.system import System
from kernelpot.model.calibration import Calibration
from kernelpot.model.growth import Growth

R_CUT = 3.0


@pytest.fixture
def growth():
    return Growth(0.5, 0.5, R_CUT, {0: 0.2, 1: 0.1, 6: 0.4})


def by_loops(growth, open_, system):
    """The formula of the module, pair by pair."""
    unit = np.array([growth.typical.get(int(z), growth.typical[0]) for z in system.numbers])
    own = np.array([np.mean(o**2) / t**2 for o, t in zip(open_, unit, strict=True)])
    found = []
    for i in range(system.n_atoms):
        total, weights = own[i], 1.0
        for p in np.flatnonzero(system.pairs.centers == i):
            x = min(system.distances[p] / growth.r_cut, 1.0)
            weight = 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)
            total += weight * own[system.pairs.neighbors[p]]
            weights += weight
        found.append((total / weights) ** (growth.power / 2))
    return np.array(found), np.mean(own) ** (growth.power / 2)


@pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), bulk("C") * (2, 1, 1)])
def test_the_factor_is_that_of_the_surroundings(growth, atoms, rng):
    # pairs beyond the reach of the factor do no harm
    system = System.of([atoms], R_CUT + 1.0)
    open_ = np.exp(rng.normal(size=(len(atoms), 3)))
    by_atom, together = growth.factors(open_, system)
    expected = by_loops(growth, open_, system)
    np.testing.assert_allclose(by_atom, expected[0], rtol=1e-12)
    assert together == pytest.approx(expected[1], rel=1e-12)
    four_times = growth.factors(4.0 * open_, system)
    np.testing.assert_allclose(four_times[0], 2.0 * by_atom, rtol=1e-12)
    assert four_times[1] == pytest.approx(2.0 * together)


def test_powers_on_both_sides_of_what_is_typical(growth):
    found = replace(growth, power=0.0, power_below=-0.25)
    squares = np.array([0.0, 1e-4, 0.5, 1.0 - 1e-9, 1.0, 4.0])
    expected = [np.sqrt(1000.0) ** 0.5, 1e-4**-0.125, 0.5**-0.125, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(found.of_forces(squares), expected)
    # of energies and stresses that of the first
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    system = System.of([atoms], R_CUT)
    by_atom, together = found.factors(np.full((2, 3), 0.01), system)
    np.testing.assert_allclose(by_atom, 0.1**-0.25)
    assert together == 1.0
    by_atom, together = growth.factors(np.zeros((2, 3)), system)
    np.testing.assert_allclose([*by_atom, together], np.sqrt(1e-3))


def test_an_atom_that_comes_near_is_felt_smoothly(growth):
    open_ = np.array([[0.1] * 3, [0.1] * 3, [9.0] * 3])

    def factor(distance):
        atoms = Atoms("H3", [[0, 0, 0], [0, 0, 0.8], [0, distance, 0]])
        return growth.factors(open_, System.of([atoms], R_CUT + 1.0))[0][0]

    assert factor(R_CUT + 0.1) == pytest.approx(1.0)
    distances = np.linspace(R_CUT - 0.5, R_CUT + 0.1, 601)
    found = np.array([factor(d) for d in distances])
    assert found[0] > 1.5
    # steps of a thousandth of an Ångström: no jump, and no kink where the reach ends
    assert np.abs(np.diff(found)).max() < 0.01
    # a hundredth before it the weight is 10 / 300^3, of a variance 8,100 times as large
    assert np.abs(found[-111:] - 1.0).max() < 1e-3


def test_scale_is_found_of_what_has_grown(rng):
    n, numbers = 1200, np.repeat([1, 6], 600)
    open_ = np.where(numbers == 1, 0.1, 0.3) * np.exp(0.5 * rng.normal(size=n))
    grown = np.exp(0.5 * rng.normal(size=n))
    residual = 3.0 * open_ * grown * rng.normal(size=n)
    growth = Growth.of(0.5, 0.5, R_CUT, open_, numbers)
    assert growth.typical[6] == pytest.approx(np.sqrt(np.mean(open_[600:] ** 2)))
    found = Calibration.of(
        {"forces": residual}, {"forces": open_}, {"forces": numbers}, 20, None, growth,
        {"forces": grown},
    )  # fmt: skip
    for number in (1, 6):
        model = found.model("forces", number)
        # 600 normal errors tell a scale to 3 %
        assert model.scale == pytest.approx(3.0, rel=0.12)
        assert model.constant < 0.3 * model.scale * model.typical
    restored = Calibration.from_dict(found.to_dict())
    assert restored == found
    atoms = Atoms("CH", [[0, 0, 0], [0, 0, 1.1]])
    open_ = np.full((2, 3), 0.2)
    by_atom, _ = growth.factors(open_, System.of([atoms], R_CUT))
    std = restored.std("forces", open_, atoms.numbers, grown=by_atom)
    expected = [
        found.model("forces", z).std(0.2, grown=f) for z, f in zip((6, 1), by_atom, strict=True)
    ]
    np.testing.assert_allclose(std, np.repeat(expected, 3).reshape(2, 3))


def test_nothing_open_is_nothing_to_grow():
    assert Growth.of(0.5, 0.5, R_CUT, np.zeros(6), np.full(6, 1)) is None
    growth = Growth.of(0.5, 0.5, R_CUT, np.array([0.0, 0.0, 1.0]), np.array([1, 1, 6]))
    assert growth.typical[1] == growth.typical[0] > 0  # of a species: that of all


def test_a_file_of_before_has_no_growth():
    found = Calibration({}, 10)
    old = found.to_dict()
    del old["growth"]
    assert Calibration.from_dict(old) == found
