"""Model files of format version 2 are read as they were meant.

``data/version-2.kpot`` was written by the last commit of that format (9013733), fitted to
``data/version-2.xyz`` with two SOAP terms and a wall; ``data/version-2.npz`` holds a structure and
what that commit predicted for it from the file.
"""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

import kernelpot as kp
from kernelpot.common import archive
from kernelpot.safety.gate import GateWarning
from tests.conftest import label, rattled_alloy

DATA = Path(__file__).parent / "data"
PATH, FITTED_TO = DATA / "version-2.kpot", DATA / "version-2.xyz"
PREDICTED = (
    *("energy", "energies", "forces", "stress", "gate_weights"),
    *("energy_std", "energies_std", "forces_std", "stress_std"),
)


@pytest.fixture
def pot():
    return kp.load(PATH, verify=True)


@pytest.fixture(scope="module")
def stored():
    with np.load(DATA / "version-2.npz") as found:
        return dict(found)


def structure(stored):
    return Atoms(
        stored["numbers"], stored["positions"], cell=stored["cell"], pbc=stored["pbc"].tolist()
    )


def test_the_file_is_of_version_2():
    assert archive.read(PATH)[0]["format_version"] == 2


def test_predictions_are_those_of_its_time(pot, stored):
    # two atoms are inside the wall, whose e^2 / (4 pi epsilon_0) has grown by 3e-11 of it since
    found = pot.predict(structure(stored), return_std=True, gate=True)
    assert 0 < found.gate_weights.max() < 1  # the gate has its say
    for name in PREDICTED:
        scale = np.abs(stored[name]).max()
        np.testing.assert_allclose(getattr(found, name), stored[name], rtol=0, atol=1e-10 * scale)


def test_it_is_saved_as_of_today_with_the_same_bits(pot, stored, tmp_path):
    pot.save(tmp_path / "today.kpot")
    assert archive.read(tmp_path / "today.kpot")[0]["format_version"] == archive.FORMAT_VERSION == 3
    again = kp.load(tmp_path / "today.kpot")
    one, two = (p.predict(structure(stored), return_std=True, gate=True) for p in (pot, again))
    for name in PREDICTED:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(again.model.factor.matrix, pot.model.factor.matrix)
    assert again.terms == pot.terms
    assert again.summary() == pot.summary()


def test_its_training_data_are_recognized(pot):
    found = pot.suspicious(FITTED_TO)
    assert len(found) == pot.model.training.n_structures
    assert all(suspect.left_out for suspect in found)
    other = pot.suspicious(label(rattled_alloy(77, (1, 1, 1), 0.15)))
    assert not any(suspect.left_out for suspect in other)


def test_it_learns_more(pot, stored):
    new = label(rattled_alloy(78, (1, 1, 1), 0.15))
    before = pot.predict(new)
    pot.update(new)
    assert pot.model.training.n_structures == 15
    error = np.abs(pot.predict(new).forces - new.arrays["REF_forces"]).mean()
    assert error < np.abs(before.forces - new.arrays["REF_forces"]).mean()
    n_sparse = pot.model.design.n_sparse
    newer = label(rattled_alloy(79, (1, 1, 1), 0.15))
    old = [*kp.read_dataset(FITTED_TO), *kp.read_dataset(new)]
    pot.update(newer, add_sparse=3, data=kp.Dataset(old))
    assert pot.model.design.n_sparse == n_sparse + 2 * 3
    assert all(suspect.left_out for suspect in pot.suspicious(kp.Dataset(old)))


def test_its_calculator_and_summary(pot, stored):
    atoms = structure(stored)
    atoms.calc = pot.calculator()
    with pytest.warns(GateWarning, match="1 of 4 atoms"):
        energy = atoms.get_potential_energy()
    assert energy == pytest.approx(float(stored["energy"]), rel=1e-10)
    scale = np.abs(stored["forces"]).max()
    np.testing.assert_allclose(atoms.get_forces(), stored["forces"], rtol=0, atol=1e-10 * scale)
    text = pot.summary()
    for said in (
        "Fitted to 14 structures",
        "SOAP r_cut 3.60 Å",
        "SOAP r_cut 5.00 Å",
        "zeta 4",
        "Al 5",
    ):
        assert said in text
