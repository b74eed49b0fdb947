"""Penalties set in as gently as time steps need."""

from dataclasses import replace

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.datasets import load_ethanol
from kernelpot.safety.gate import penalty
from kernelpot.safety.thresholds import KAPPA, RELATIVE_WIDTH, SafetyNet
from kernelpot.safety.width import STEP, STIFFNESS, _Path, _slope, _ways_out, widened
from tests.conftest import rattled_alloy


def net_of(known):
    """A net of given limits."""
    known = np.asarray(known, dtype=float)
    ones = np.ones_like(known)
    return SafetyNet(known, 0.5 * known, ones, ones, {}, known, ones)


def test_the_slope_is_that_of_the_fastest_growth_near_the_onset():
    known = np.array([0.1, 0.3])
    s = STEP * np.arange(40)
    stds = np.stack(
        [
            0.02 + 0.1 * s,  # slow
            np.where(s < 0.5, 0.1 + 0.2 * s, 0.2 + 5.0 * (s - 0.5)),  # fast, but far out
            0.3 + 0.7 * s,  # another species
        ],
        axis=1,
    )
    path = _Path(np.array([0, 0, 1]), stds)
    assert _slope(net_of(known), 0, path) == pytest.approx(0.2, rel=1e-9)
    assert _slope(net_of(known), 1, path) == pytest.approx(0.7, rel=1e-9)
    assert _slope(net_of([50.0, 0.3]), 0, path) == 0.0  # never near its onset


def slope_of(model, net, structures, z):
    """Of the three slower quarters of the ways out of each species, the fastest [eV/Å]."""
    return max(
        np.quantile([_slope(net, z, p) for p in paths], 0.75, method="lower")
        for number in model.species
        for paths in [_ways_out(net, model.local, model.species, structures, number, 1)]
    )


def test_widths_grow_until_force_constants_are_those_of_bonds_and_never_shrink(potential):
    model = potential.model
    structures = [rattled_alloy(seed, (1, 1, 1)) for seed in range(6)]
    narrow = replace(model.safety, width=np.full(2, 1e-6))
    found = widened(narrow, model.local, model.species, structures)
    assert found.width.min() > 1e-6
    for z, width in enumerate(found.width):
        # an atom that leaves its data as quickly as any, along a line
        x = np.linspace(0.0, 3.0 * width, 4001)
        bound = penalty(x, np.zeros(1), np.full(1, width), KAPPA * narrow.amplitude)[0]
        # without the saturation far out, which only softens it
        bound = 2.0 * np.expm1(bound / 2.0)
        curvature = np.diff(bound, 2) / np.diff(x)[0] ** 2
        slope = slope_of(model, narrow, structures, z)
        assert curvature.max() * slope**2 == pytest.approx(STIFFNESS, rel=1e-3)
    stiffer = widened(
        replace(narrow, amplitude=2.5 * narrow.amplitude), model.local, model.species, structures
    )
    np.testing.assert_allclose(stiffer.width, 2.5 * found.width, rtol=1e-12)
    np.testing.assert_array_equal(found.std_known, narrow.std_known)
    np.testing.assert_array_equal(found.contact, narrow.contact)
    wide = replace(model.safety, width=np.full(2, 7.0))
    kept = widened(wide, model.local, model.species, structures)
    np.testing.assert_array_equal(kept.width, 7.0)


def test_hydrogen_needs_wider_onsets_than_heavy_atoms():
    frames = load_ethanol("train")[:20]
    terms = [kp.SOAPTerm(r_cut=3.5, n_max=4, l_max=3, n_sparse=120)]
    pot = kp.KernelPotential(terms, e0="least_squares").fit(frames, optimize=None, calibrate=False)
    model = pot.model
    narrow = replace(model.safety, width=np.full(len(model.species), 1e-6))
    found = widened(narrow, model.local, model.species, [frame.atoms for frame in frames])
    width = dict(zip(model.species, found.width, strict=True))
    assert width[1] > 1.5 * width[6]
    assert np.all(model.safety.width >= RELATIVE_WIDTH * model.safety.std_known)


def test_ways_out_lead_away_from_what_is_known(potential):
    model = potential.model
    structures = [rattled_alloy(seed, (1, 1, 1)) for seed in range(6)]
    paths = _ways_out(model.safety, model.local, model.species, structures, 29, 1)
    assert len(paths) == 6
    for path in paths:
        assert path.stds.shape[1] == len(path.z_index) == 4
        known = model.safety.std_known[path.z_index]
        assert np.all(path.stds[0] < known)
    assert any(np.any(p.stds[-1] > model.safety.std_known[p.z_index]) for p in paths)


def test_species_without_a_limit_have_no_ways_out(potential):
    model = potential.model
    structures = [rattled_alloy(seed, (1, 1, 1)) for seed in range(6)]
    unlimited = replace(model.safety, std_known=np.full(2, np.inf), width=np.full(2, np.inf))
    found = widened(unlimited, model.local, model.species, structures)
    np.testing.assert_array_equal(found.width, np.inf)


def test_isolated_atoms_alone_leave_the_width_as_it_is(potential):
    model = potential.model
    atoms = [f.atoms for f in load_ethanol() if len(f) == 1]
    found = widened(model.safety, model.local, model.species, atoms)
    np.testing.assert_array_equal(found.width, model.safety.width)
