"""Gates are as wide as time steps need."""

from dataclasses import replace

import numpy as np
import pytest
from ase import units

from kernelpot.datasets import load_ethanol
from kernelpot.safety.width import MAX_FREQUENCY, STEP, _frequency, _Path, _ways_out, widened
from tests.conftest import rattled_alloy


def test_the_frequency_is_that_of_the_stiffest_part_of_the_step():
    low, factor, width, height, mass = 0.1, 3.0, 40 * STEP, 5.0, 12.0
    s = STEP * np.arange(60)
    # a variance that grows linearly from one threshold to the other over `width`
    variance = low**2 * (1 + (factor**2 - 1) * s / width)
    path = _Path(mass, np.array([0]), np.array([height]), np.sqrt(variance)[:, None])
    found = _frequency(np.array([low]), np.array([factor]), path)
    stiffness = height / width**2 * 10 / np.sqrt(3)  # the largest curvature of the C2 step
    assert found == pytest.approx(np.sqrt(stiffness / mass) * units.fs, rel=5e-3)


def fastest(model, net, structures):
    return max(
        np.quantile([_frequency(net.std_low, net.closed_factor, p) for p in paths], 0.75,
                    method="lower")
        for z in model.species
        for paths in [_ways_out(net, model.local, model.species, structures, z, 1)]
    )  # fmt: skip


def test_a_steep_gate_is_widened_and_a_gentle_one_is_not(potential):
    model = potential.model
    structures = [rattled_alloy(seed, (1, 1, 1)) for seed in range(6)]
    gentle = replace(
        model.safety, closed_factor=np.full(2, 3.0), fallback=np.full(2, -1e3)
    )  # nothing to climb
    kept = widened(gentle, model.local, model.species, structures)
    np.testing.assert_array_equal(kept.closed_factor, 3.0)
    # thresholds far inside the data, a hundred eV to climb
    steep = replace(gentle, std_low=0.05 * model.safety.std_low, fallback=np.full(2, 100.0))
    assert fastest(model, steep, structures) > MAX_FREQUENCY
    found = widened(steep, model.local, model.species, structures)
    assert np.all(found.closed_factor > 3.0)
    assert fastest(model, found, structures) < fastest(model, steep, structures)
    np.testing.assert_array_equal(found.std_low, steep.std_low)


def test_isolated_atoms_alone_leave_the_gate_as_it_is(potential):
    model = potential.model
    atoms = [f.atoms for f in load_ethanol() if len(f) == 1]
    assert widened(model.safety, model.local, model.species, atoms) is model.safety
