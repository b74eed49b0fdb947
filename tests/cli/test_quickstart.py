"""README, notebook and quickstart are run as a newcomer would."""

import doctest
import json
import pathlib

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.cli.quickstart import scans_of
from kernelpot.cli.verbs import main

README = pathlib.Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_readme_runs_as_shown(tmp_path, monkeypatch):
    if not README.exists():
        pytest.skip("README.md is not beside the tests (installed package)")
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(README), module_relative=False, encoding="utf-8")
    assert result.attempted > 8
    assert result.failed == 0


@pytest.mark.slow
def test_quickstart_does_the_main_job(tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main(["quickstart", "--folder", str(tmp_path), "--quiet", "--json", str(report)]) == 0
    shown = capsys.readouterr().out
    for text in ("Errors on the training", "Errors on the test", "drift", "std", "wrote"):
        assert text in shown
    result = json.loads(report.read_text())
    assert abs(result["dynamics"]["drift_ev_per_atom"]) < 1e-3
    assert (tmp_path / "silicon.png").stat().st_size > 10_000
    # the std of the torn crystal and of the dimer exceeds that of the dynamics
    assert max(result["scans"]["stretch"]["std"]) > 0.1
    # what was saved is what was shown
    saved = scans_of(kp.load(tmp_path / "silicon.kpot"))["stretch"]
    np.testing.assert_allclose(saved.ungated, result["scans"]["stretch"]["ungated"], rtol=1e-9)


def test_quickstart_refuses_a_missing_folder(tmp_path, capsys):
    assert main(["quickstart", "--folder", str(tmp_path / "absent")]) == 2
    assert "there is no directory" in capsys.readouterr().err
