"""Model files of earlier format versions are read as they were meant.

``data/version-2.kpot`` was written by the last commit of version 2 (9013733), fitted to
``data/version-2.xyz`` with two SOAP terms and a wall; ``data/version-2.npz`` holds a structure and
what that commit predicted for it from the file, without its gate, and the weights of its gate.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

import kernelpot as kp
from kernelpot.common import archive
from kernelpot.model.file import NO_FLOOR
from kernelpot.safety.gate import GateWarning
from tests.conftest import label, rattled_alloy

DATA = Path(__file__).parent / "data"
PATH, FITTED_TO = DATA / "version-2.kpot", DATA / "version-2.xyz"
PREDICTED = (
    *("energy", "energies", "forces", "stress"),
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
    found = pot.predict(structure(stored), return_std=True)
    for name in PREDICTED:
        scale = np.abs(stored[name]).max()
        np.testing.assert_allclose(getattr(found, name), stored[name], rtol=0, atol=1e-10 * scale)


def test_its_limits_become_those_of_a_pessimistic_energy(pot, stored):
    header = archive.read(PATH)[0]["safety"]
    safety = pot.model.safety
    # the std at which its gate began to close was twice that of the data
    np.testing.assert_array_equal(2.0 * safety.std_known, header["std_low"])
    np.testing.assert_array_equal(safety.contact, header["fallback"])
    assert {(a, b): d for a, b, d in header["d_min"]} == safety.d_min
    assert "from a file of an earlier version" in pot.summary()
    found = pot.predict(structure(stored), gate=True)
    gated = stored["gate_weights"] > 0
    assert 0 < np.count_nonzero(gated) < len(gated)
    # whom that gate gave up is beyond now, most of all who was given up most
    assert np.all(found.penalty[gated] > 0.1)
    assert np.argmax(found.penalty) == np.argmax(stored["gate_weights"])
    np.testing.assert_allclose(found.energies - found.penalty, stored["energies"], rtol=1e-10)


def as_version_3(path, potential, monkeypatch):
    """Write a potential as version 3 did, which had no known sites; one limit is infinite."""
    potential.save(path)
    header, arrays = archive.read(path)
    header = {k: v for k, v in header.items() if k not in ("arrays", "format_version")}
    now = potential.model.safety
    header["safety"] = {
        "std_low": [None, *(2.0 * now.std_known[1:]).tolist()],
        "closed_factor": [3.0] * len(now.std_known),
        "fallback": now.contact.tolist(),
        "d_min": [[a, b, d] for (a, b), d in now.d_min.items()],
        "note": "",
    }
    del arrays["known"]
    with monkeypatch.context() as earlier:
        earlier.setattr(archive, "FORMAT_VERSION", 3)
        archive.write(path, header, arrays)


def test_a_file_of_version_3_loads_and_learns(potential, tmp_path, monkeypatch):
    as_version_3(tmp_path / "three.kpot", potential, monkeypatch)
    found = kp.load(tmp_path / "three.kpot")
    atoms = rattled_alloy(31, (1, 1, 1), 0.5)
    # of an average it did not know
    no_floor = replace(potential.model.safety, average=np.full(2, NO_FLOOR))
    without = replace(potential.model, safety=no_floor)
    one = without.predict(atoms, gate=kp.VarianceGate())
    two = found.predict(atoms, gate=True)
    copper = atoms.numbers == 29
    assert one.penalty[copper].min() > 0
    np.testing.assert_array_equal(two.penalty[copper], one.penalty[copper])
    assert not two.penalty[~copper].any()  # without a limit
    # nothing is known of sites but what labels say
    np.testing.assert_array_equal(found.model.known.matrix, found.model.factor.matrix)
    found.update(label(rattled_alloy(78, (1, 1, 1), 0.15)))
    assert found.model.known.n_rows > found.model.factor.n_rows
    found.save(tmp_path / "four.kpot")
    again = kp.load(tmp_path / "four.kpot")
    assert again.predict(atoms, gate=True).energy == found.predict(atoms, gate=True).energy


def test_it_is_saved_as_of_today_with_the_same_bits(pot, stored, tmp_path):
    pot.save(tmp_path / "today.kpot")
    assert archive.read(tmp_path / "today.kpot")[0]["format_version"] == archive.FORMAT_VERSION == 4
    again = kp.load(tmp_path / "today.kpot")
    one, two = (p.predict(structure(stored), return_std=True, gate=True) for p in (pot, again))
    for name in (*PREDICTED, "penalty"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name in ("factor", "known"):
        stored_now, read = (getattr(p.model, name).matrix for p in (pot, again))
        np.testing.assert_array_equal(read, stored_now)
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
    with pytest.warns(GateWarning, match="3 of 4 atoms"):
        energy = atoms.get_potential_energy()
    raised = float(stored["energy"]) + atoms.calc.uncertainty["penalty"].sum()
    assert energy == pytest.approx(raised, rel=1e-10)
    atoms.calc = pot.calculator(gate=None)
    assert atoms.get_potential_energy() == pytest.approx(float(stored["energy"]), rel=1e-10)
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
