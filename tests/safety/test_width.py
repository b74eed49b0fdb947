"""Penalties set in as gently as time steps need."""

from dataclasses import replace

import numpy as np
import pytest
from ase import units

from kernelpot.datasets import load_ethanol
from kernelpot.safety.gate import floor, penalty
from kernelpot.safety.thresholds import KAPPA, RELATIVE_WIDTH, SafetyNet
from kernelpot.safety.width import (
    MAX_FREQUENCY,
    STEP,
    WIDTHS,
    _frequency,
    _Path,
    _ways_out,
    widened,
)
from tests.conftest import rattled_alloy


def net_of(known, average=-1e6):
    """A net of given limits."""
    known = np.asarray(known, dtype=float)
    ones = np.ones_like(known)
    return SafetyNet(known, 0.5 * ones, average * ones, ones, {}, known, ones)


@pytest.mark.parametrize("relative_width", [0.5, 1.0])
def test_the_frequency_is_that_of_the_stiffest_part_of_the_onset(relative_width):
    known, rise, mass = 0.1, 0.02, 12.0  # the std rises by so much per ångström
    s = STEP * np.arange(200)
    stds = (0.9 * known + rise * s)[:, None]
    path = _Path(mass, np.array([0]), np.zeros_like(stds), stds)
    found = _frequency(net_of([known]), relative_width, path)
    # the curvature of x^3 / (x + w)^2 is 6 u (1 - u)^3 / w with u = x / (x + w): at most 81 / 128 w
    stiffness = KAPPA * 81 / (128 * relative_width * known) * rise**2
    assert found == pytest.approx(np.sqrt(stiffness / mass) * units.fs, rel=5e-3)


def test_atoms_of_all_species_on_a_path_add_up():
    known, rise, mass = np.array([0.1, 0.3]), 0.02, 12.0
    s = STEP * np.arange(100)
    stds = np.stack([0.1 + rise * s, 0.05 + 0 * s, 0.3 + 3 * rise * s], axis=1)
    path = _Path(mass, np.array([0, 0, 1]), np.zeros_like(stds), stds)
    added = sum(
        penalty(stds[:, k], np.full_like(s, known[z]), np.full_like(s, 0.5 * known[z]))[0]
        for k, z in ((0, 0), (2, 1))
    )
    stiffness = np.abs(np.diff(added, 2)).max() / STEP**2
    expected = np.sqrt(stiffness / mass) * units.fs
    assert _frequency(net_of(known), 0.5, path) == pytest.approx(expected, rel=1e-9)


def test_the_floor_counts_too():
    known, rise, mass, height = 0.1, 0.02, 12.0, 2.0
    s = STEP * np.arange(500)
    stds = (0.9 * known + rise * s)[:, None]
    path = _Path(mass, np.array([0]), np.full_like(stds, -height), stds)
    added = [
        part(stds[:, 0], *more, np.full_like(s, known), np.full_like(s, 0.5 * known), *last)[0]
        for part, more, last in (
            (penalty, (), ()),
            (floor, (np.full_like(s, -height),), (np.zeros_like(s),)),
        )
    ]
    stiffness = np.abs(np.diff(sum(added), 2)).max() / STEP**2
    expected = np.sqrt(stiffness / mass) * units.fs
    assert _frequency(net_of([known], 0.0), 0.5, path) == pytest.approx(expected, rel=1e-9)
    assert expected > 1.5 * _frequency(net_of([known]), 0.5, path)


def fastest(model, net, width, structures):
    """Of the three slower quarters of the ways out of each species, the fastest [rad/fs]."""
    return max(
        np.quantile([_frequency(net, width, p) for p in paths], 0.75, method="lower")
        for z in model.species
        for paths in [_ways_out(net, model.local, model.species, structures, z, 1)]
    )


def test_the_smallest_width_that_is_gentle_enough_is_taken(potential, monkeypatch):
    model = potential.model
    structures = [rattled_alloy(seed, (1, 1, 1)) for seed in range(6)]
    found = [fastest(model, model.safety, width, structures) for width in WIDTHS]
    assert found[0] > found[1] > found[2]

    def chosen(limit):
        monkeypatch.setattr("kernelpot.safety.width.MAX_FREQUENCY", limit)
        net = widened(model.safety, model.local, model.species, structures)
        np.testing.assert_array_equal(net.std_known, model.safety.std_known)
        np.testing.assert_array_equal(net.contact, model.safety.contact)
        assert len(net.relative_width) == len(model.species)
        (width,) = set(net.relative_width.tolist())
        return width

    assert chosen(1.01 * found[0]) == WIDTHS[0]
    assert chosen(0.99 * found[0]) == WIDTHS[1]
    assert chosen(0.99 * found[1]) == WIDTHS[2]
    assert chosen(0.0) == WIDTHS[-1]  # the best there is


def test_heavy_atoms_need_no_wider_onset_than_the_default(potential):
    model = potential.model
    structures = [rattled_alloy(seed, (1, 1, 1)) for seed in range(6)]
    assert fastest(model, model.safety, RELATIVE_WIDTH, structures) < 0.2 * MAX_FREQUENCY
    np.testing.assert_array_equal(model.safety.relative_width, RELATIVE_WIDTH)


def test_ways_out_lead_away_from_what_is_known(potential):
    model = potential.model
    structures = [rattled_alloy(seed, (1, 1, 1)) for seed in range(6)]
    paths = _ways_out(model.safety, model.local, model.species, structures, 29, 1)
    assert len(paths) == 6
    for path in paths:
        assert path.mass == pytest.approx(63.5, abs=0.1)
        assert path.stds.shape[1] == len(path.z_index) == 4
        known = model.safety.std_known[path.z_index]
        assert np.all(path.stds[0] < known)
    assert any(np.any(p.stds[-1] > model.safety.std_known[p.z_index]) for p in paths)


def test_species_without_a_limit_have_no_ways_out(potential, monkeypatch):
    model = potential.model
    structures = [rattled_alloy(seed, (1, 1, 1)) for seed in range(6)]
    unlimited = replace(model.safety, std_known=np.full(2, np.inf))
    assert widened(unlimited, model.local, model.species, structures) is unlimited
    # nothing is added for aluminium, so it has no say in the width
    net = replace(model.safety, std_known=np.array([np.inf, model.safety.std_known[1]]))
    copper = fastest(model, replace(net), WIDTHS[0], structures)
    monkeypatch.setattr("kernelpot.safety.width.MAX_FREQUENCY", 1.01 * copper)
    found = widened(net, model.local, model.species, structures)
    assert found.relative_width.tolist() == [WIDTHS[0]] * 2


def test_isolated_atoms_alone_leave_the_width_as_it_is(potential):
    model = potential.model
    atoms = [f.atoms for f in load_ethanol() if len(f) == 1]
    assert widened(model.safety, model.local, model.species, atoms) is model.safety
