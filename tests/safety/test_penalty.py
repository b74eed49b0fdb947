"""What the safety net adds, as a function of standard deviation and energy."""

import numpy as np
import pytest

from kernelpot.safety.damping import Damping
from kernelpot.safety.gate import (
    BOND_ENERGY,
    CONTACT_WIDTH,
    FLOOR_RISE,
    FLOOR_WIDTH,
    PessimisticEnergies,
    VarianceGate,
    penalty,
)
from tests.safety.gated import crowded, exact_std, kernels_and_baseline, net_of


def added(x, known=0.1, width=0.05, kappa=3.0):
    """Penalty and slope at standard deviations that exceed what is known by x."""
    std = np.atleast_1d(known + np.asarray(x, dtype=float))
    return penalty(std, np.full_like(std, known), np.full_like(std, width), kappa)


def test_the_penalty_sets_in_with_value_slope_and_curvature_zero():
    width, kappa = 0.05, 3.0
    below = np.linspace(-0.1, 0.0, 11)
    for value in added(below):
        assert np.all(value == 0)
    # a cubic onset: each derivative up to the second goes to zero with x
    x = width * np.array([1e-1, 1e-2, 1e-3])
    value, slope = added(x)
    bound = kappa * x**3 / (x + width) ** 2
    np.testing.assert_allclose(value, BOND_ENERGY * np.log1p(bound / BOND_ENERGY), rtol=1e-10)
    assert np.all(value <= kappa * x**3 / width**2)
    assert np.all(slope <= 3 * kappa * x**2 / width**2)
    step = 1e-4 * x
    curvature = (added(x + step)[1] - added(x - step)[1]) / (2 * step)
    assert np.all(curvature <= 6 * kappa * x / width**2)
    assert np.all(np.diff(curvature) < 0)
    third = curvature / x  # and no further: C2, not C3
    np.testing.assert_allclose(third[-1], 6 * kappa / width**2, rtol=1e-2)


@pytest.mark.parametrize("kappa", [1.0, 5.0])
@pytest.mark.parametrize("width", [0.02, 0.1])
def test_the_slope_of_the_penalty_is_its_derivative(width, kappa):
    x, step = np.linspace(1e-3, 2.0, 200), 1e-6
    options = {"width": width, "kappa": kappa}
    numerical = (added(x + step, **options)[0] - added(x - step, **options)[0]) / (2 * step)
    np.testing.assert_allclose(added(x, **options)[1], numerical, rtol=1e-6, atol=1e-8)


def test_the_penalty_grows_ever_on_as_kappa_standard_deviations_and_then_their_logarithm():
    width, kappa = 0.05, 3.0
    value, slope = added(np.linspace(1e-4, 5.0, 3000))
    assert np.all(np.diff(value) > 0)
    assert np.all(slope > 0)
    far = np.array([1e2, 1e3])
    value, slope = added(far)
    # x^3 / (x + w)^2 = x - 2 w + 3 w^2 / x - ...
    expected = BOND_ENERGY * np.log(kappa * (far - 2 * width) / BOND_ENERGY)
    np.testing.assert_allclose(value, expected, atol=BOND_ENERGY**2 / (kappa * 1e2) * 1.01)
    np.testing.assert_allclose(slope, BOND_ENERGY / far, rtol=1e-2)
    # nowhere more than all of what is not known, nowhere less than that but for 2 w
    x = np.linspace(0.0, 5.0, 1000)
    bound = BOND_ENERGY * np.expm1(added(x)[0] / BOND_ENERGY)
    assert np.all(bound <= kappa * x * (1 + 1e-12))
    assert np.all(bound >= kappa * (x - 2 * width))


def test_nothing_is_added_without_a_limit():
    std = np.array([0.5, 2.0, 0.0])
    known = np.array([np.inf, 0.1, np.inf])
    value, slope = penalty(std, known, np.array([np.inf, 0.05, np.inf]), 3.0)
    expected = penalty(std[1:2], known[1:2], np.array([0.05]), 3.0)
    np.testing.assert_array_equal(value, [0.0, expected[0][0], 0.0])
    np.testing.assert_array_equal(slope, [0.0, expected[1][0], 0.0])


@pytest.mark.parametrize("kappa", [0.0, 3.0])
@pytest.mark.parametrize("distances", [(0.55, 0.65, 0.69), (0.45, 0.6), (0.3, 0.4), (1.1, 1.2)])
def test_the_energy_is_that_of_the_formula(potential, distances, kappa):
    atoms = crowded(potential, distances)
    model, net = potential.model, potential.model.safety
    local, known = kernels_and_baseline(potential, atoms)
    z = model.species.index(29)
    x = exact_std(potential, atoms) - net.std_known[z]
    assert np.all(x > 0)
    bound = kappa * x**3 / (x + net.width[z]) ** 2
    raised = local + BOND_ENERGY * np.log1p(bound / BOND_ENERGY)
    if kappa:
        t = np.minimum(x / (FLOOR_RISE * net.width[z]), 1.0)
        under = net.average[z] - local
        step = t**3 * (10 - 15 * t + 6 * t**2)
        raised += step * 0.5 * (under + np.sqrt(under**2 + FLOOR_WIDTH**2))
    system = model.system(atoms)
    damping = net.damping(system.numbers, system.pairs, system.distances)
    keep = np.ones(len(atoms)) if damping is None else damping.keep
    below = net.contact[z] - raised
    lift = 0.5 * (below + np.sqrt(below**2 + CONTACT_WIDTH**2))
    gate = VarianceGate(kappa=kappa) if kappa else None
    found = potential.predict(atoms, gate=gate)
    np.testing.assert_allclose(
        found.energies, known + raised + (1 - keep) * lift, rtol=1e-9, atol=1e-9
    )


def test_a_constant_added_to_the_energies_of_a_species_goes_through_the_net(rng):
    z_index = np.array([0, 1, 0, 1, 1])
    energies, variances = rng.normal(size=5), rng.uniform(0.0, 2.0, 5)
    shift = np.array([4.0, -7.0])
    damping = Damping(np.array([1.0, 0.0, 0.3, 0.8, 0.5]), *np.zeros((3, 0), dtype=int))
    known, average, contact = np.array([0.2, 0.4]), np.array([0.1, 0.3]), np.array([1.0, 2.0])

    def blended(energies, shift):
        net = net_of(known, np.array([0.5, 1.0]), contact + shift, average=average + shift)
        return PessimisticEnergies(net, z_index, known, 3.0, damping)(
            slice(0, 5), energies, variances
        )

    one = blended(energies, np.zeros(2))
    two = blended(energies + shift[z_index], shift)
    np.testing.assert_allclose(two.energies, one.energies + shift[z_index], rtol=1e-12)
    for name in ("by_energy", "by_variance", "by_keep", "added"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-12)
