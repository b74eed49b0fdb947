"""A model tests itself, and says so wherever it is met."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

import kernelpot as kp
from kernelpot.cli import main
from kernelpot.data.dataset import Frame
from kernelpot.md import self_test
from kernelpot.md.self_test import run_self_test
from kernelpot.model.self_test import Check, SelfTest, UnsafePotentialWarning


@pytest.fixture(scope="module")
def bottomless(potential, labelled):
    """A copy whose kernels bind twenty times as much, without a net that would hold it."""
    model = potential.model
    local = replace(model.local, weights=20.0 * model.local.weights)
    never = np.full(2, 1e6)
    safety = replace(model.safety, std_known=never, d_min={})
    broken = kp.KernelPotential()
    broken.fitted_ = replace(model, local=local, safety=safety)
    broken._golden = potential._golden
    broken.test_itself(labelled)
    return broken


def test_a_sound_model_passes_and_shows_what_it_did(potential, labelled):
    found = potential.test_itself(labelled)
    assert found.passed
    assert found is potential.model.self_test
    assert 0 < found.seconds < 120
    names = [check.name for check in found.checks]
    assert sum("nve at 300 K" in name for name in names) == sum("1500 K" in n for n in names) >= 1
    assert names[-1] == "dimers"
    assert f"Self-test: passed its test of itself ({len(names)} checks" in potential.summary()


def test_a_model_that_runs_away_fails_with_reason_and_remedy(bottomless):
    found = bottomless.model.self_test
    assert not found.passed
    failed = [check for check in found.checks if not check.passed]
    assert found.verdict.startswith("not safe for dynamics: ")
    for check in failed:
        assert check.name in found.verdict
        assert check.remedy in found.verdict
    assert bottomless.summary().split("\n")[1].startswith("WARNING, not safe for dynamics")


def test_its_calculator_warns_once_when_it_is_made(bottomless):
    with pytest.warns(UnsafePotentialWarning, match="not safe for dynamics"):
        calculator = bottomless.calculator(gate=None)
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], calculator=calculator)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
        atoms.positions[1, 2] += 0.1
        atoms.get_forces()


def test_the_verdict_is_in_the_file(bottomless, tmp_path):
    bottomless.save(tmp_path / "model.kpot")
    loaded = kp.load(tmp_path / "model.kpot")
    assert loaded.model.self_test == bottomless.model.self_test
    assert loaded.describe()["self_test"]["passed"] is False


def test_an_update_forgets_the_verdict(potential, labelled):
    tested = kp.KernelPotential()
    tested.fitted_, tested._golden = potential.model, potential._golden
    tested.fitted_ = replace(tested.model, self_test=SelfTest([], 1.0))
    tested.update(labelled[:1])
    assert tested.model.self_test is None
    assert "The model has not tested itself." in tested.summary()


def test_starts_are_the_lowest_of_each_composition():
    def frame(numbers, energy, distance=2.0):
        positions = [[0, 0, distance * k] for k in range(len(numbers))]
        return Frame(Atoms(numbers, positions), energy, None, None, name="frame")

    data = kp.Dataset(
        [
            frame([29], -1.0),
            frame([29, 29], -3.0, 2.2),
            frame([29, 29], -4.0, 2.4),
            frame([13, 29], -5.0),
            frame([29] * 4, -9.0),  # the same composition, lower by atom
            frame([13, 13], None),
        ]
    )
    starts = self_test._starts(data)
    assert [s.name for s in starts] == ["Cu", "AlCu"]
    assert starts[0].lowest == pytest.approx(-9.0 / 4)
    assert len(starts[0].atoms) == 4
    alone = kp.Dataset([frame([29], -1.0)])
    with pytest.raises(ValueError, match="needs a structure of more than one atom"):
        run_self_test(None, alone)


@pytest.mark.parametrize(
    ("fallen", "beyond", "expected"),
    [
        ([0.05, 0.09], [True, True], False),
        ([0.05, 0.11], [True, True], True),
        ([0.05, 0.11], [True, False], False),
        ([0.51, 0.0], [False, False], True),
    ],
)
def test_an_energy_is_too_low_where_the_data_do_not_reach(fallen, beyond, expected):
    assert self_test._too_low(np.array(fallen), np.array(beyond)) is expected


def test_dimers_that_attract_at_contact_are_named(potential):
    model = potential.model
    assert self_test._dimers(model, 1).passed
    bare = replace(
        model,
        reference=replace(model.reference, baseline=()),
        local=replace(model.local, weights=-5.0 * model.local.weights),
        safety=replace(model.safety, std_known=np.full(2, 1e6), d_min={}),
    )
    found = self_test._dimers(bare, 1)
    assert not found.passed
    assert "falls by up to" in found.found
    assert "a wall in the baseline, or dimers of" in found.remedy


def test_words():
    one = Check("dimers", True, "fine", "nothing")
    two = Check("run", False, "5000 K", "more frames")
    assert SelfTest([one], 2.4).verdict == "passed its test of itself (1 checks, 2 s)"
    found = SelfTest([one, two], 2.4)
    assert found.verdict == "not safe for dynamics: run: 5000 K. What would help: more frames"
    assert found.lines()[1:] == ["  passed  dimers: fine", "  FAILED  run: 5000 K"]
    assert SelfTest.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_fit_and_evaluate_on_the_command_line(tmp_path, labelled, capsys):
    from ase.io import write

    frames = []
    for frame in labelled[:12]:
        atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        atoms.calc = EMT()
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = None
        frames.append(atoms)
    data, model, report = str(tmp_path / "d.xyz"), str(tmp_path / "m.kpot"), tmp_path / "r.json"
    write(data, frames)
    arguments = ["fit", data, "-o", model, "--preset", "fast", "--n-sparse", "40", "--quiet"]
    assert main([*arguments, "--optimize", "none", "--no-self-test", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["self_test"] is None
    assert "The model has not tested itself." in capsys.readouterr().out
    assert main(["evaluate", model, data, "--quiet", "--self-test", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["self_test"]["passed"] in (True, False)
    assert "nve at 300 K" in capsys.readouterr().out
