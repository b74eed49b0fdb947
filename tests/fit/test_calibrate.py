"""How errors depend on the open part, found from structures left out."""

from dataclasses import replace

import numpy as np
import pytest

from kernelpot.fit.calibrate import POWERS_BELOW, likeliest
from kernelpot.model.growth import Growth


@pytest.mark.parametrize("power", [0.0, -0.25, -0.5])
def test_the_power_below_is_that_of_the_errors(power, rng):
    """Half of the labels are of quiet structures, open by a hundredth of the others."""
    n = 4000
    numbers = np.repeat([22, 13], n // 2)
    quiet = np.arange(n) % 2 == 0
    u = np.where(quiet, 0.01, 1.4) * np.exp(0.3 * rng.normal(size=n))
    open_ = np.where(numbers == 13, 0.02, 0.1) * u * np.exp(0.3 * rng.normal(size=n))
    errors = 5.0 * open_ * np.minimum(u, 1.0) ** power * rng.normal(size=n)
    plain = Growth.of(0.0, 0.0, 4.0, open_, numbers)
    candidates = [replace(plain, power_below=p) for p in POWERS_BELOW]
    assert likeliest(candidates, errors, open_, numbers, u**2).power_below == power


def test_a_power_that_gains_nothing_is_not_taken(rng):
    open_ = np.exp(0.5 * rng.normal(size=3000))
    numbers = np.full(3000, 14)
    plain = Growth.of(0.0, 0.0, 4.0, open_, numbers)
    # everything is about as well known: the powers are as good as each other
    squares = np.exp(0.02 * rng.normal(size=3000))
    candidates = [replace(plain, power_below=p) for p in POWERS_BELOW]
    found = likeliest(candidates, open_ * rng.normal(size=3000), open_, numbers, squares)
    assert found is candidates[0]
