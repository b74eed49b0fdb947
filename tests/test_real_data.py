"""Published DFT data: run with ``--data-dir DIRECTORY``; skipped without."""

import os

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import kernelpot as kp

pytestmark = pytest.mark.slow


def load(data_dir, name, part):
    path = os.path.join(data_dir, name, f"{part}.xyz")
    if not os.path.exists(path):
        pytest.skip(f"{path} is not there")
    return kp.read_dataset(path)


@pytest.fixture(scope="module")
def silicon(data_dir):
    train = load(data_dir, "zuo2020-Si", "train")
    return kp.KernelPotential(preset="fast").fit(train)


def test_the_unknown_is_less_certain_than_the_known(silicon, data_dir):
    test = load(data_dir, "zuo2020-Si", "test")
    known = np.concatenate([silicon.local_std(f.atoms) for f in test])
    limit = np.quantile(known, 0.995)
    crystal = bulk("Si", cubic=True)
    for atoms, factor in ((Atoms("Si"), 1.0), (crystal, 1.25), (crystal, 0.85)):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell * factor, scale_atoms=True)
        assert silicon.local_std(scaled).min() > limit


def test_even_the_fast_preset_is_a_good_potential(silicon, data_dir):
    errors = kp.evaluate(silicon, load(data_dir, "zuo2020-Si", "test"))
    assert errors["forces_mae_ev_per_ang"] < 0.09
    assert errors["energy_mae_mev_per_atom"] < 5.0


def test_the_label_doctor_knows_copper_and_trusts_silicon(data_dir):
    silicon = load(data_dir, "zuo2020-Si", "train").check()
    assert silicon.warnings == []
    # the trapezoid rule over strains of several per cent
    assert silicon.facts["virial_test"]["slope"] == pytest.approx(1.0, abs=0.02)
    copper = load(data_dir, "zuo2020-Cu", "train").check()
    assert len(copper.warnings) == 1
    assert "disagree by a constant" in copper.warnings[0]


def test_the_fit_finds_coppers_virial_offset(data_dir):
    train = load(data_dir, "zuo2020-Cu", "train")
    part = kp.Dataset(list(train)[::6])
    pot = kp.KernelPotential(n_sparse=150).fit(part)
    checked = train.check().facts["virial_test"]["offset_ev_per_atom"]
    # of a sixth of the structures, by a model of few points: within what is worth a warning
    assert pot.fitted_.virial_offset == pytest.approx(checked, abs=0.03)
