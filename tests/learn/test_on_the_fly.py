"""Molecular dynamics that learns on the way; ASE's EMT stands in for the reference."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.learn import run_state
from kernelpot.learn.on_the_fly import OnTheFly, _threshold, velocity_verlet
from kernelpot.safety.thresholds import gate_std
from tests.conftest import label

TERMS = [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, sigma_atom=0.5, n_sparse=8)]


def copper(seed, amplitude):
    atoms = bulk("Cu", cubic=True)
    atoms.positions += amplitude * np.random.default_rng(seed).normal(size=atoms.positions.shape)
    return atoms


def cold_data():
    return [label(copper(s, 0.04)) for s in range(8)]


def cold_potential():
    return kp.KernelPotential(TERMS, baseline=[kp.Wall()]).fit(cold_data())


def hot_start():
    atoms = bulk("Cu", cubic=True)
    thermalize_momenta(atoms, temperature_K=1500, rng=np.random.default_rng(5))
    return atoms


def langevin(atoms, rng):
    return Langevin(
        atoms, 2 * units.fs, temperature_K=1500, friction=0.02 / units.fs, fixcm=False, rng=rng
    )


class Forgetful(EMT):
    """EMT that does not depend, in the last bit, on what it was asked before."""

    def calculate(self, *args):
        self.initialize(args[0])  # without the neighbor list, and its order, of an earlier call
        super().calculate(*args)


OPTIONS = {
    "reference": Forgetful(),
    "make_dynamics": langevin,
    "threshold": 0.0008,
    "add_sparse": 5,
    "interval": 4,
    "checkpoint_interval": 7,
}


@pytest.fixture(scope="module")
def pot():
    return cold_potential()


@pytest.fixture(scope="module")
def finished(pot, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run = OnTheFly(pot, cold_data(), hot_start(), folder=folder, **OPTIONS)
    return run.run(60)


def entries(folder):
    with open(os.path.join(folder, "log.jsonl"), encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def test_the_reference_is_asked_and_what_it_says_is_learned(finished, pot):
    log = entries(finished.folder)
    assert log == finished.log
    assert len(log) == finished.n_calls >= 3
    assert {entry["reason"] for entry in log} <= {"novel", "uncertain"}
    last = -10
    for entry in log:
        # soon after a call it takes twice as much
        expected = 0.0008 * (2 if entry["step"] < last + 10 else 1)
        assert entry["std"] > entry["threshold"] == pytest.approx(expected)
        last = entry["step"]
        assert entry["std_after"] < entry["std"]
        assert 0 < entry["n_added"] <= 5
    model = finished.potential.model
    assert model.training.n_structures == 8 + len(log) == len(finished.data)
    # the potential given is left as it was
    assert pot.model.training.n_structures == 8
    assert finished.step == 60
    trajectory = ase.io.read(os.path.join(finished.folder, "trajectory.xyz"), ":")
    assert [atoms.info["step"] for atoms in trajectory] == list(range(0, 61, 4))


def test_the_errors_in_the_log_are_those_found(finished, pot):
    """The first call is made with the potential given."""
    labelled = kp.read_dataset(os.path.join(finished.folder, "labelled.xyz"))
    assert len(labelled) == finished.n_calls
    first, entry = labelled[0], finished.log[0]
    true = label(first.atoms)
    assert first.energy == pytest.approx(true.info["REF_energy"], abs=1e-6)
    np.testing.assert_allclose(first.forces, true.arrays["REF_forces"], atol=1e-6)
    np.testing.assert_allclose(first.virial, kp.read_dataset(true)[0].virial, atol=1e-6)
    found = pot.predict(first.atoms, gate=True)
    energy_error = (found.energy - first.energy) / len(first)
    assert entry["energy_error"] == pytest.approx(energy_error, abs=1e-6)
    error = found.forces - first.forces
    assert entry["forces_mae"] == pytest.approx(np.abs(error).mean(), abs=1e-6)
    largest = np.linalg.norm(error, axis=1).max()
    assert entry["forces_max_error"] == pytest.approx(largest, abs=1e-6)
    std = gate_std(pot.model.local, pot.model.system(first.atoms))
    assert entry["std"] == pytest.approx(std[entry["atom"]], rel=1e-4)
    # what was learned is what the public update makes of it
    again = cold_potential()
    again.update(labelled[:1], add_sparse=entry["n_added"], data=cold_data())
    std = gate_std(again.model.local, again.model.system(first.atoms))
    assert entry["std_after"] == pytest.approx(std[entry["atom"]], rel=1e-3)


CHILD = """
    import sys
    from tests.learn.test_on_the_fly import OPTIONS, OnTheFly, cold_data, cold_potential, hot_start
    import kernelpot as kp

    run = OnTheFly(kp.load(sys.argv[1]), cold_data(), hot_start(), folder=sys.argv[2], **OPTIONS)
    run.dynamics.attach(lambda: print(run.dynamics.nsteps, flush=True))
    run.run(60)
"""


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(finished, pot, tmp_path):
    saved, folder = tmp_path / "start.kpot", tmp_path / "killed"
    pot.save(saved)
    root = str(pathlib.Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(CHILD), str(saved), str(folder)],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
        text=True,
    )
    for line in child.stdout:
        if int(line) == 32:  # between two checkpoints
            child.kill()
            break
    child.stdout.close()
    assert child.wait() == (1 if sys.platform == "win32" else -signal.SIGKILL)
    resumed = OnTheFly(kp.load(saved), cold_data(), hot_start(), folder=folder, **OPTIONS)
    assert 0 < resumed.step < 60
    resumed.run(60)
    # to the last bit, in two processes more
    assert entries(folder) == resumed.log
    for found, expected in zip(resumed.log, finished.log, strict=True):
        assert {**found, "seconds": 0.0} == {**expected, "seconds": 0.0}
    np.testing.assert_array_equal(resumed.atoms.positions, finished.atoms.positions)
    np.testing.assert_array_equal(resumed.atoms.get_momenta(), finished.atoms.get_momenta())
    found, expected = resumed.potential.model.factor, finished.potential.model.factor
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    for name in ("trajectory.xyz", "labelled.xyz"):
        assert (folder / name).read_bytes() == (Path(finished.folder) / name).read_bytes()
    assert sorted(os.listdir(folder)) == sorted(os.listdir(finished.folder))
    # nothing is left to do, and another start is another run
    assert OnTheFly(pot, cold_data(), hot_start(), folder=folder, **OPTIONS).run(60).step == 60
    with pytest.raises(ValueError, match="holds a run of another potential"):
        OnTheFly(pot, cold_data(), copper(0, 0.1), folder=folder, **OPTIONS)


def test_a_thermostat_remembers_what_it_was_doing():
    def dynamics(atoms):
        atoms.calc = EMT()
        return NoseHooverChainNVT(atoms, 2 * units.fs, temperature_K=900, tdamp=100 * units.fs)

    whole = hot_start()
    first = dynamics(whole)
    first.run(20)
    numbers = run_state.numbers(first)
    assert any("/" in path for path in numbers)
    other = whole.copy()
    second = dynamics(other)
    run_state.set_numbers(second, {k: v.copy() for k, v in numbers.items()})
    assert second.nsteps == 20
    first.run(15)
    second.run(15)
    np.testing.assert_allclose(other.positions, whole.positions, atol=1e-12)
    assert second.get_conserved_energy() == pytest.approx(first.get_conserved_energy(), abs=1e-9)


def test_a_step_into_the_unknown_is_made_again(pot, tmp_path):
    """The momenta after a call are those of the updated potential alone."""
    options = {**OPTIONS, "folder": tmp_path, "make_dynamics": velocity_verlet}
    run = OnTheFly(pot, cold_data(), hot_start(), **options)
    while not run.log:
        before = run.atoms.copy()
        run.run(run.step + 1)
    assert run.log[0]["step"] == run.step > 0
    before.calc = run.potential.calculator()
    VelocityVerlet(before, 1 * units.fs).run(1)
    np.testing.assert_allclose(before.positions, run.atoms.positions, atol=1e-12)
    np.testing.assert_allclose(before.get_momenta(), run.atoms.get_momenta(), atol=1e-10)
    assert run.dynamics.nsteps == run.step


class Failing(Calculator):
    """A reference without free energy and stress, that fails when told to."""

    implemented_properties = ["energy", "forces"]
    value = 0.0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": self.value, "forces": np.ones((len(atoms), 3))}


def test_budget_bad_labels_and_bad_arguments(pot, tmp_path):
    dimer = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.6]])
    options = {**OPTIONS, "threshold": None, "folder": tmp_path / "a", "max_calls": 0}
    run = OnTheFly(pot, cold_data(), dimer, **options)
    with pytest.warns(UserWarning, match="raise `max_calls`"):
        run.run(5)
    assert run.step == 0
    options |= {"folder": tmp_path / "b", "max_calls": None, "reference": Failing()}
    run = OnTheFly(pot, cold_data(), dimer, **options)
    run.reference.value = np.nan
    with pytest.raises(ValueError, match="not finite at step 0"):
        run.run(5)
    run.reference.value = 0.0
    run.reference.reset()
    run.run(1)
    assert run.log[0]["reason"] == "novel"
    assert run.data[-1].virial is None
    assert run.data[-1].energy == 0.0
    for changed, message in (
        ({"interval": 0}, "`interval` must be at least 1"),
        ({"add_sparse": -1}, "`add_sparse` must not be negative"),
        ({"threshold": -1.0}, "must be positive"),
        ({"threshold": {"Au": 0.1}}, "names Au"),
    ):
        with pytest.raises(ValueError, match=message):
            OnTheFly(pot, cold_data(), hot_start(), **{**options, **changed})
    with pytest.raises(ValueError, match="must be the 8 structures"):
        OnTheFly(pot, cold_data()[:3], hot_start(), **options)
    with pytest.raises(ValueError, match="Au"):
        OnTheFly(pot, cold_data(), bulk("Au"), **options)


def test_thresholds_are_those_of_the_calibrated_std(pot):
    class Twice:
        def local_scale(self, numbers):
            return np.full(len(numbers), 2.0)

    default = pot.model.safety.std_known
    bare = replace(pot.model, calibration=None)
    assert _threshold(bare, None) == pytest.approx(default)
    assert _threshold(bare, 0.01) == pytest.approx([0.01])
    calibrated = replace(pot.model, calibration=Twice())
    assert _threshold(calibrated, None) == pytest.approx(default)
    assert _threshold(calibrated, 0.01) == pytest.approx([0.005])
    assert _threshold(calibrated, {"Cu": 0.01}) == pytest.approx([0.005])
