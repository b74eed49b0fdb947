"""The shipped data: there, sound, and first-principles consistent."""

import importlib.resources
import os

import numpy as np
import pytest

from kernelpot.datasets import load_ethanol, load_silicon


@pytest.mark.parametrize("load", [load_silicon, load_ethanol])
def test_train_and_test_do_not_overlap(load):
    train, test = load("train"), load("test")
    seen = {frame.atoms.positions.tobytes() for frame in train}
    assert not any(frame.atoms.positions.tobytes() in seen for frame in test)
    assert set(test.symbols) == set(train.symbols)


@pytest.mark.parametrize("load", [load_silicon, load_ethanol])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_label_doctor_is_content(load, split):
    report = load(split).check()
    # 300 eV of plane waves leave a small Pulay stress in silicon; nothing else is odd
    assert all("disagree by a constant" in w for w in report.warnings)
    if load is load_ethanol:
        assert report.warnings == []
    test = report.facts["virial_test"]
    if test is not None:
        # the trapezoid rule over strains of several per cent
        assert test["slope"] == pytest.approx(1.0, abs=0.01)
        assert abs(test["offset_gpa"]) < 0.5
    assert report.facts["max_net_force_ev_per_ang"] < 5e-3


def test_silicon_has_every_group():
    groups = load_silicon("train").config_types
    for name in ("crystal", "rattled", "vacancy", "surface", "disordered", "phases", "dimer"):
        assert groups[name] >= 2
    assert groups["isolated_atom"] == 1
    assert load_silicon("train").check().facts["isolated_atoms"].keys() == {"Si"}


def test_silicon_is_bound_as_pbe_says():
    train = load_silicon("train")
    free = next(f.energy for f in train if f.is_isolated_atom)
    lowest = min(f.energy / len(f) for f in train if len(f) > 2)
    assert free - lowest == pytest.approx(4.6, abs=0.2)  # PBE: 4.5 to 4.6 eV


def test_ethanol_is_flexible_and_warm():
    train = load_ethanol("train")
    assert {"md_300K", "md_600K", "md_1000K", "torsion_oh", "isolated_atom"} <= set(
        train.config_types
    )
    forces = np.concatenate([f.forces.ravel() for f in train if len(f) > 1])
    assert 0.8 < forces.std() < 3.0


def test_the_files_are_small():
    folder = importlib.resources.files("kernelpot.datasets") / "data"
    total = sum(os.path.getsize(str(entry)) for entry in folder.iterdir())
    assert total < 2e6


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="`split` must be 'train' or 'test'"):
        load_silicon("validation")
