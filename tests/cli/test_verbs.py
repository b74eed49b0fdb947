"""The command line: real runs, JSON promises, and one sentence for every mistake."""

import json
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import types

import ase.db
import ase.io
import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.units import GPa

import kernelpot as kp
from kernelpot.cli.arguments import EXAMPLES, build_parser
from kernelpot.cli.console import peak_memory_bytes, read_config
from kernelpot.cli.verbs import main
from kernelpot.md.dynamics import COLUMNS
from tests.conftest import label, rattled_alloy
from tests.data.test_reading import BAD, spoil

ROOT = pathlib.Path(__file__).parents[2]

CONFIG = """
sigma_forces = 0.08
memory = "3GB"

[[terms]]
r_cut = 3.6
n_max = 4
l_max = 3
n_sparse = 40

[[terms]]
r_cut = 5.0
n_max = 4
l_max = 3
zeta = 3
n_sparse = 40

[config_type_sigma.cluster]
energy = 0.01
forces = "search"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, labelled):
    folder = tmp_path_factory.mktemp("cli")
    ase.io.write(folder / "train.xyz", labelled, format="extxyz")
    test = [label(rattled_alloy(900 + s, (1, 1, 1)), f"group{s % 2}") for s in range(4)]
    ase.io.write(folder / "test.xyz", test, format="extxyz")
    ase.io.write(folder / "start.xyz", rattled_alloy(5, (1, 1, 1), 0.02), format="extxyz")
    (folder / "fit.toml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def fitted(folder):
    status = main(
        ["fit", str(folder / "train.xyz"), "-o", str(folder / "model.kpot"), "--quiet",
         "--config", str(folder / "fit.toml"), "--json", str(folder / "fit.json")]
    )  # fmt: skip
    assert status == 0
    return folder / "model.kpot"


def test_peak_memory_is_above_what_is_occupied_now():
    occupied = psutil.Process().memory_info().rss
    # Linux counts pages in batches: the two may differ by a few hundred kB
    assert occupied - 2e6 < peak_memory_bytes() < psutil.virtual_memory().total


def test_peak_memory_is_known_on_windows(monkeypatch):
    memory = types.SimpleNamespace(rss=10, peak_wset=20)
    monkeypatch.setitem(sys.modules, "resource", None)  # importing it fails
    monkeypatch.setattr(
        psutil, "Process", lambda: types.SimpleNamespace(memory_info=lambda: memory)
    )
    assert peak_memory_bytes() == 20


def test_fit_reports_what_it_did(fitted, folder):
    report = json.loads((folder / "fit.json").read_text())
    assert report["n_structures"] == 24
    assert report["n_rows"] > 300
    assert report["n_sparse"]["0"].keys() == {"Al", "Cu"}
    assert sum(report["n_sparse"]["1"].values()) == 40
    assert report["wall_seconds"] > 0
    assert report["peak_memory_bytes"] > 1e7
    assert report["hyperparameters"]["sigma_forces"] == 0.08
    assert report["hyperparameters"]["terms"][1]["zeta"] == 3
    # "search" leaves it to the fit
    assert report["hyperparameters"]["config_type_sigma"]["cluster"]["forces"] > 0
    assert "sigma_forces of cluster" in report["training"]["hyperparameters"]["sigmas"]


def test_a_configuration_file_is_the_python_interface(fitted, folder, labelled):
    parameters = read_config(str(folder / "fit.toml"))
    memory = parameters.pop("memory")
    pot = kp.KernelPotential(**parameters).fit(folder / "train.xyz", memory=memory)
    loaded = kp.load(fitted)
    atoms = rattled_alloy(3)
    assert loaded.predict(atoms).energy == pot.predict(atoms).energy


def test_evaluate_prints_a_table_and_json(fitted, folder, capsys):
    assert main(["evaluate", str(fitted), str(folder / "test.xyz"), "--json", "-"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    expected = kp.evaluate(kp.load(fitted), folder / "test.xyz")
    names = {
        "energy_mae_mev_per_atom", "energy_rmse_mev_per_atom", "forces_mae_ev_per_ang",
        "forces_rmse_ev_per_ang", "stress_mae_gpa", "n_structures", "n_atoms",
    }  # fmt: skip
    for name in names:
        assert report[name] == pytest.approx(expected[name])
    assert set(report["by_config_type"]) == {"group0", "group1"}
    assert names <= set(report["by_config_type"]["group0"])
    assert report["n_structures"] == 4
    assert "group1" in captured.err


def test_evaluate_judges_uncertainty(fitted, folder, tmp_path, capsys):
    path = tmp_path / "out.json"
    arguments = ["evaluate", str(fitted), str(folder / "test.xyz"), "--uncertainty"]
    assert main([*arguments, "--quiet", "--json", str(path)]) == 0
    assert "within 95 %" in capsys.readouterr().out
    judged = json.loads(path.read_text())["uncertainty"]["forces"]
    assert 0 <= judged["coverage_68"] <= judged["coverage_95"] <= 1


def test_check_ranks_frames_against_a_model(fitted, folder, tmp_path, capsys):
    path = tmp_path / "out.json"
    arguments = ["check", str(folder / "train.xyz"), "--model", str(fitted), "--quiet"]
    assert main([*arguments, "--json", str(path)]) == 0
    assert "fitted and left out one at a time" in capsys.readouterr().out
    suspects = json.loads(path.read_text())["suspects"]
    assert len(suspects) == 24
    assert all(s["left_out"] for s in suspects)


def test_the_choice_of_noise_is_an_option(folder, tmp_path):
    fit = ["fit", str(folder / "train.xyz"), "-o", str(tmp_path / "m.kpot"), "--quiet",
           "--config", str(folder / "fit.toml"), "--json", str(tmp_path / "fit.json")]  # fmt: skip
    for name, method in (("none", None), ("loo", "loo")):
        assert main([*fit, "--optimize", name]) == 0
        record = json.loads((tmp_path / "fit.json").read_text())["training"]["hyperparameters"]
        assert record["method"] == method


def test_errors_are_plain_statistics(fitted, folder):
    pot = kp.load(fitted)
    data = kp.read_dataset(folder / "test.xyz")
    found = kp.evaluate(pot, data)
    predictions = [pot.predict(f.atoms) for f in data]
    forces = np.concatenate(
        [(p.forces - f.forces).ravel() for p, f in zip(predictions, data, strict=True)]
    )
    assert found["forces_mae_ev_per_ang"] == pytest.approx(np.abs(forces).mean())
    assert found["forces_rmse_ev_per_ang"] == pytest.approx(np.sqrt((forces**2).mean()))
    energy = [1e3 * abs(p.energy - f.energy) / 4 for p, f in zip(predictions, data, strict=True)]
    assert found["energy_mae_mev_per_atom"] == pytest.approx(np.mean(energy))
    stress = [np.abs(p.stress - f.stress) for p, f in zip(predictions, data, strict=True)]
    assert found["stress_mae_gpa"] == pytest.approx(np.mean(stress) / GPa, rel=1e-6)


def test_update_is_the_python_interface(fitted, folder, tmp_path, capsys):
    arguments = [
        "update", str(fitted), str(folder / "test.xyz"), "-o", str(tmp_path / "new.kpot"),
        "--quiet", "--json", str(tmp_path / "update.json"),
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "updated with 4 structures" in capsys.readouterr().out
    report = json.loads((tmp_path / "update.json").read_text())
    assert report["training"]["n_structures"] == 28
    expected = kp.load(fitted)
    expected.update(folder / "test.xyz")
    atoms = rattled_alloy(1, (1, 1, 1))
    assert kp.load(tmp_path / "new.kpot").predict(atoms).energy == expected.predict(atoms).energy
    more = [*arguments, "--add-sparse", "3"]
    refused(more, capsys, "`add_sparse` needs `data`")
    assert main([*more, "--data", str(folder / "train.xyz")]) == 0
    report = json.loads((tmp_path / "update.json").read_text())
    assert sum(report["n_sparse"]["1"].values()) == 43


def test_a_fit_prints_the_log_and_leaves_the_logger_as_it_was(folder, tmp_path, capsys):
    log = logging.getLogger("kernelpot")
    before = log.level, list(log.handlers)
    train, config = str(folder / "train.xyz"), str(folder / "fit.toml")
    options = ["--quiet", "--config", config, "--optimize", "none"]
    assert main(["fit", train, "-o", str(tmp_path / "model.kpot"), *options]) == 0
    assert "the fit needs about" in capsys.readouterr().out
    assert (log.level, list(log.handlers)) == before


def test_an_interrupted_fit_says_how_to_continue(folder, tmp_path, capsys, monkeypatch):
    from kernelpot.fit import checkpoint

    monkeypatch.setattr("kernelpot.fit.plan.BATCH_BYTES", 1e5)
    command = [
        "fit", str(folder / "train.xyz"), "-o", str(tmp_path / "m.kpot"), "--quiet",
        "--config", str(folder / "fit.toml"), "--checkpoint", str(tmp_path / "state"),
    ]  # fmt: skip
    save = checkpoint.Checkpoint.save

    def save_and_interrupt(self, state):
        save(self, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", save_and_interrupt)
    assert main(command) == 130
    assert f"the same command continues from {tmp_path / 'state'}" in capsys.readouterr().err
    assert not (tmp_path / "m.kpot").exists()
    monkeypatch.setattr(checkpoint.Checkpoint, "save", save)
    assert main(command) == 0
    assert "the fit needs about" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()
    assert (tmp_path / "m.kpot").exists()


def test_evaluate_says_null_without_labels(fitted, folder, tmp_path, capsys):
    atoms = label(rattled_alloy(1, (1, 1, 1)))
    del atoms.info["REF_virial"], atoms.arrays["REF_forces"]
    ase.io.write(tmp_path / "e.xyz", atoms, format="extxyz")
    assert main(["evaluate", str(fitted), str(tmp_path / "e.xyz"), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["stress_mae_gpa"] is None
    assert report["forces_mae_ev_per_ang"] is None
    (frame,) = kp.read_dataset(tmp_path / "e.xyz")
    error = kp.load(fitted).predict(frame.atoms).energy - frame.energy
    assert report["energy_mae_mev_per_atom"] == pytest.approx(1e3 * abs(error) / 4, rel=1e-9)


def test_md_can_stop_at_the_gate_or_go_without(fitted, tmp_path, capsys):
    apart = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.2]])
    ase.io.write(tmp_path / "apart.xyz", apart)
    arguments = ["md", str(fitted), str(tmp_path / "apart.xyz"), "--steps", "2", "--quiet"]
    assert main([*arguments, "--on-gate", "stop"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "atoms are beyond the training data" in message
    report = tmp_path / "md.json"
    assert main([*arguments, "--no-gate", "--no-bounds", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["max_penalty_ev"] == 0


def test_evaluation_through_the_gate(fitted, folder, tmp_path):
    ase.io.write(tmp_path / "far.xyz", label(rattled_alloy(1, (1, 1, 1), 0.6)), format="extxyz")
    errors = {}
    for data in (folder / "train.xyz", tmp_path / "far.xyz"):
        for options in ([], ["--gated"]):
            report = tmp_path / "errors.json"
            arguments = ["evaluate", str(fitted), str(data), "--json", str(report)]
            assert main([*arguments, *options]) == 0
            found = json.loads(report.read_text())["forces_mae_ev_per_ang"]
            errors.setdefault(data.name, []).append(found)
    plain, gated = errors["train.xyz"]
    # of so few training data some atoms are beyond, and not by much
    assert plain < gated < 1.5 * plain
    plain, gated = errors["far.xyz"]
    assert gated != pytest.approx(plain, rel=0.05)


def test_md_runs_and_logs(fitted, folder, tmp_path, capsys):
    log, trajectory, report = (tmp_path / n for n in ("md.csv", "md.traj", "md.json"))
    status = main(
        ["md", str(fitted), str(folder / "start.xyz"), "--supercell", "2", "2", "1", "--steps",
         "20", "--interval", "5", "--log", str(log), "--trajectory", str(trajectory), "--json",
         str(report)]
    )  # fmt: skip
    assert status == 0
    assert "drift of the total energy" in capsys.readouterr().out
    result = json.loads(report.read_text())
    assert result["n_atoms"] == 16
    assert result["time_ps"] == pytest.approx(0.02)
    rows = np.loadtxt(log, delimiter=",", skiprows=1)
    assert rows.shape == (5, len(COLUMNS))
    assert len(ase.io.read(trajectory, ":")) == 5


def test_md_stops_where_it_is_not_physics(fitted, tmp_path, capsys):
    atoms = rattled_alloy(5, (1, 1, 1), 0.02)
    atoms.positions[0] += 0.6 * (atoms.positions[1] - atoms.positions[0])
    ase.io.write(tmp_path / "overlap.xyz", atoms, format="extxyz")
    log, trajectory, report = (tmp_path / n for n in ("md.csv", "md.traj", "md.json"))
    arguments = [
        "md", str(fitted), str(tmp_path / "overlap.xyz"), "--no-gate", "--timestep", "0.2",
        "--interval", "50", "--quiet", "--log", str(log), "--trajectory", str(trajectory),
        "--json", str(report),
    ]  # fmt: skip
    refused(arguments, capsys, f"label the last frames of {trajectory} and train on them")
    found = json.loads(report.read_text())
    assert "stopped at step" in found["stopped"]
    n_rows = len(np.loadtxt(log, delimiter=",", skiprows=1, ndmin=2))
    assert n_rows == len(ase.io.read(trajectory, ":")) == 2 + (found["n_steps"] - 1) // 50
    limits = ["--max-temperature", "1", "--no-timestep-check"]
    refused([*arguments, *limits], capsys, "K, more than 1 K")
    assert json.loads(report.read_text())["n_steps"] == 0
    refused([*arguments, "--max-energy-drift", "-1"], capsys, "`max_energy_drift` must be positive")
    assert main([*arguments, "--no-bounds", "--steps", "50"]) == 0
    found = json.loads(report.read_text())
    assert found["stopped"] is None
    assert found["n_steps"] == 50
    assert found["fastest_period_fs"] > 2


@pytest.mark.parametrize(("timestep", "said"), [("1", False), ("15", True)])
def test_md_says_at_the_start_that_steps_are_long(fitted, folder, capsys, timestep, said):
    arguments = ["md", str(fitted), str(folder / "start.xyz"), "--steps", "1", "--quiet"]
    assert main([*arguments, "--timestep", timestep]) == 0
    out = capsys.readouterr().out
    assert ("warning: the time step of 15 fs is too long for the fastest vibration" in out) is said
    if said:
        assert out.index("warning") < out.index("time [ps]")
        assert main([*arguments, "--timestep", timestep, "--no-timestep-check"]) == 0
        assert "warning" not in capsys.readouterr().out


def test_info_explains(fitted, capsys):
    assert main(["info", str(fitted), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["species"] == ["Al", "Cu"]
    assert "kernelpot potential for Al, Cu" in captured.err


def test_other_label_names(folder, tmp_path, labelled):
    frames = []
    for frame in labelled:
        copy = frame.copy()
        copy.info["dft_energy"] = copy.info.pop("REF_energy")
        copy.arrays["dft_forces"] = copy.arrays.pop("REF_forces")
        copy.info.pop("REF_virial", None)
        frames.append(copy)
    path, out = tmp_path / "named.xyz", tmp_path / "named.kpot"
    ase.io.write(path, frames, format="extxyz")
    arguments = ["fit", str(path), "-o", str(out), "--n-sparse", "20", "--quiet"]
    keys = ["--energy-key", "dft_energy", "--forces-key", "dft_forces"]
    assert main(arguments + keys) == 0
    assert kp.load(out).fitted_.training.sources["energy"] == {"dft_energy": 24}


# ---- mistakes: one sentence, status 2, nothing written ------------------------------


def refused(arguments, capsys, message, output=None):
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("kernelpot: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    if output is not None:
        assert not output.exists()


@pytest.mark.parametrize("what", [w for w in BAD if w not in ("no atoms", "forces shape")])
def test_every_bad_frame_is_refused(what, tmp_path, capsys):
    atoms = spoil(label(rattled_alloy(0, (1, 1, 1)), "bulk"), what)
    # .traj keeps no arrays of other names, .xyz no lists of odd shapes
    suffix = "xyz" if "force" in what else "traj"
    path, out = tmp_path / f"bad.{suffix}", tmp_path / "model.kpot"
    ase.io.write(path, atoms)
    refused(["fit", path, "-o", out], capsys, "", out)


def test_bad_files_and_options_are_refused(folder, fitted, tmp_path, capsys):
    train, out = folder / "train.xyz", tmp_path / "model.kpot"
    refused(["fit", tmp_path / "absent.xyz", "-o", out], capsys, "no file matches", out)
    (tmp_path / "empty.xyz").write_text("")
    refused(["fit", tmp_path / "empty.xyz", "-o", out], capsys, "is empty", out)
    (tmp_path / "cut.xyz").write_text(train.read_text()[:-300])
    refused(["fit", tmp_path / "cut.xyz", "-o", out], capsys, "cannot be read", out)
    refused(["fit", train, "-o", tmp_path / "no" / "m.kpot"], capsys, "there is no directory")
    refused(["fit", train, "-o", tmp_path], capsys, "it is a directory")
    refused(
        ["fit", train, "-o", out, "--energy-key", "wrong", "--forces-key", "w", "--virial-key",
         "w", "--stress-key", "w"],
        capsys, "use --energy-key REF_energy", out,
    )  # fmt: skip
    refused(["fit", train, "-o", out, "--memory", "1MB"], capsys, "the memory budget is", out)
    refused(["fit", train, "-o", out, "--n-sparse", "99999"], capsys, "exceeds the", out)
    refused(["fit", train, "-o", out, "--threads", "0"], capsys, "`n_threads` must be", out)
    for text, message in (
        (
            "sigma_energie = 1.0",
            "unknown sigma_energie (did you mean sigma_energy?); known are charges, checkpoint",
        ),
        ("[[terms]]\nrcut = 3", "[[terms]] number 1: "),
        ("[terms]\nr_cut = 3", "there may be several terms: write [[terms]]"),
        ("[[terms]]\nr_cut = 0.5", "`r_cut` must be larger"),
        ("a = = 1", "is not valid TOML"),
        ("[config_type_sigma.cluster]\nforces = 'seek'", "or 'search' (or None) to let the fit"),
        ("[keys]\nenergie = 'a'", "[keys]: "),
    ):
        (tmp_path / "bad.toml").write_text(text)
        refused(["fit", train, "-o", out, "--config", tmp_path / "bad.toml"], capsys, message, out)
    refused(
        ["fit", train, "-o", out, "--json", tmp_path / "no" / "a.json"], capsys, "cannot write", out
    )
    refused(
        ["fit", train, "-o", out, "--config", folder / "fit.toml", "--n-sparse", "30"],
        capsys, "`n_sparse` has no effect", out,
    )  # fmt: skip
    foreign = label(rattled_alloy(0, (1, 1, 1)))
    foreign.numbers[2] = 79
    ase.io.write(
        tmp_path / "gold.xyz", [label(rattled_alloy(0, (1, 1, 1))), foreign], format="extxyz"
    )
    refused(["evaluate", fitted, tmp_path / "gold.xyz"], capsys, "gold.xyz:1: unknown species Au")
    refused(["evaluate", train, train], capsys, "is not a kernelpot model file")
    refused(["check", fitted], capsys, "is a potential of kernelpot, not structures")
    shutil.copy(train, tmp_path / "own.xyz")
    own, before = tmp_path / "own.xyz", train.read_bytes()
    for words in (
        ["fit", own, "-o", own],
        ["fit", f"{own}@:3", "-o", out, "--checkpoint", own],
        ["evaluate", fitted, own, "-o", own],
        ["evaluate", fitted, own, "--json", fitted],
        ["md", fitted, own, "--trajectory", own],
        ["report", fitted, own, "-o", own],
    ):
        refused(words, capsys, "and is read: name another file")
    assert own.read_bytes() == before
    refused(["evaluate", fitted, f"{train}@x"], capsys, "'x' is no index; name frames as")
    refused(["evaluate", tmp_path / "absent.kpot", train], capsys, "no kernelpot model file '")
    refused(["info", tmp_path / "absent.kpot"], capsys, "there is no kernelpot model file '")
    refused(["info", tmp_path], capsys, "is a directory, not a kernelpot model file")
    config = ["fit", train, "-o", out, "--config"]
    refused([*config, tmp_path / "a.toml"], capsys, "there is no configuration file '", out)
    refused([*config, tmp_path], capsys, "is a directory, not a configuration file", out)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    refused([*config, tmp_path / "bytes"], capsys, "no text, so not a configuration file", out)
    refused(["lammps", tmp_path / "a.in"], capsys, "there is no LAMMPS input '")
    refused(["lammps", tmp_path], capsys, "is a directory, not a LAMMPS input")
    refused(["lammps", tmp_path / "empty.xyz"], capsys, "empty.xyz' is empty")
    refused(["lammps", tmp_path / "bytes"], capsys, "is no text, so not a LAMMPS input")
    refused(
        ["search", train, "-o", tmp_path / "b.toml", "--checkpoint", tmp_path],
        capsys, "it is a directory",
    )  # fmt: skip
    refused(
        ["report", fitted, train, "-o", tmp_path / "r.html", "--chemiscope", "no/a.json.gz"],
        capsys, "cannot write no/a.json.gz: there is no directory",
    )  # fmt: skip
    refused(["md", fitted, folder / "start.xyz", "--steps", "0"], capsys, "`steps`")
    refused(["md", fitted, folder / "start.xyz", "--pressure", "nan"], capsys, "`pressure`")
    refused(["md", fitted, folder / "start.xyz", "--supercell", "0", "1", "1"], capsys, "positive")
    ase.io.write(tmp_path / "oxide.xyz", label_free("CuO"), format="extxyz")
    refused(["md", fitted, tmp_path / "oxide.xyz"], capsys, "unknown species O")


def label_free(symbols):
    from ase import Atoms

    return Atoms(symbols, [[0, 0, 0], [0, 0, 2.0]])


def test_wrong_words_exit_with_two(capsys):
    with pytest.raises(SystemExit) as info:
        main(["fit"])
    assert info.value.code == 2
    with pytest.raises(SystemExit) as info:
        main(["--version"])
    assert info.value.code == 0
    assert kp.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fti", "a.xyz"], "there is no verb 'fti' (did you mean fit?); there are quickstart, "),
        (["NVT"], "there is no verb 'NVT'; there are quickstart, "),
        # before what is missing because of it
        (["fit", "a.xyz", "--ouput", "m.kpot"], "fit has no option --ouput (did you mean --output"),
        (["fit", "a.xyz", "-o", "m", "--nsparse=9"], "no option --nsparse (did you mean --n-spars"),
        (["md", "m", "s", "--stps", "9"], "md has no option --stps (did you mean --steps?); all"),
        (["fit", "a.xyz", "-o", "m", "--seed=-1"], "argument --seed: must be 0 or a larger whole"),
        (["md", "m", "s", "--wings"], "md has no option --wings; all of them: kernelpot md --help"),
    ],
)
def test_misspelt_words_are_recognised(words, said, capsys):
    with pytest.raises(SystemExit) as info:
        main(words)
    assert info.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown
    if "--seed" not in said:  # which argparse says after the usage
        assert len(shown.splitlines()) == 1


def test_an_error_of_the_system_is_a_sentence_without_its_number(tmp_path, capsys, monkeypatch):
    def fail(path):
        raise OSError(28, "No space left on device", "m.kpot")

    monkeypatch.setattr("kernelpot.potential.load", fail)
    assert main(["info", "m.kpot"]) == 2
    assert capsys.readouterr().err == "kernelpot: m.kpot: no space left on device\n"
    monkeypatch.setattr("kernelpot.potential.load", lambda path: bytearray(1 << 62))
    assert main(["info", "m.kpot"]) == 2
    assert "out of memory; fit has --memory" in capsys.readouterr().err


def test_the_command_is_installed(tmp_path):
    script = os.path.join(sysconfig.get_path("scripts"), "kernelpot")
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    for verb in ("fit", "evaluate", "md", "info"):
        assert verb in shown.stdout


def test_importing_is_light():
    code = (
        "import sys, kernelpot; "
        "heavy = {'numba', 'scipy', 'dscribe', 'sklearn', 'ase', 'matplotlib'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_labels_that_are_not_read_are_named(folder, fitted, tmp_path, capsys):
    frames = ase.io.read(folder / "test.xyz", ":")
    for atoms in frames:
        atoms.arrays["vasp_forces"] = atoms.arrays.pop("REF_forces")
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    lost = "forces of 4 of 4 frames: found under 'vasp_forces', not read: read it with --forces-key"
    for verb in (["evaluate", str(fitted)], ["check"]):
        command = [*verb, str(tmp_path / "a.xyz"), "--json", str(tmp_path / "a.json")]
        assert main(command) == 0
        assert capsys.readouterr().out.count(lost) == 1
        found = json.loads((tmp_path / "a.json").read_text())
        unread = found["unread_labels" if verb[0] == "evaluate" else "unread"]
        assert unread["forces"]["vasp_forces"]["n_lost"] == 4
        assert main([*command, "--forces-key", "vasp_forces"]) == 0
        assert lost not in capsys.readouterr().out
        assert main([*command, "--forces-key", "vasp_force"]) == 2
        assert "no frame has 'vasp_force', which was given" in capsys.readouterr().err


def test_energies_of_free_atoms_are_given_by_symbol_or_number():
    parse = build_parser().parse_args
    for text in ("Cu=-3.5,Al=-2", "{29: -3.5, 13: -2.0}"):
        assert list(parse(["fit", "a", "-o", "b", "--e0", text]).e0.values()) == [-3.5, -2.0]
    assert parse(["fit", "a", "-o", "b", "--e0", "isolated"]).e0 == "isolated"
    with pytest.raises(SystemExit):
        parse(["fit", "a", "-o", "b", "--e0", "mean"])


@pytest.mark.parametrize("ending", ["xyz", "traj", "db"])
def test_evaluate_writes_predictions_beside_labels(folder, fitted, tmp_path, capsys, ending):
    path = str(tmp_path / f"predictions.{ending}")
    command = ["evaluate", str(fitted), str(folder / "test.xyz"), "-o", path]
    assert main([*command, "--json", str(tmp_path / "a.json")]) == 0
    out = capsys.readouterr().out
    assert f"wrote {path}" in out
    assert "worst structures" in out
    pot = kp.load(fitted)
    frames, labels = ase.io.read(path, ":"), kp.read_dataset(folder / "test.xyz")
    assert len(frames) == 4
    for k, (atoms, frame) in enumerate(zip(frames, labels, strict=True)):
        found = pot.predict(frame.atoms, return_std="local")
        assert atoms.get_potential_energy() == pytest.approx(found.energy, rel=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), found.forces, atol=1e-7)
        info = ase.db.connect(path).get(k + 1).data if ending == "db" else atoms.info
        arrays = info if ending != "xyz" else atoms.arrays
        np.testing.assert_allclose(arrays["energies_std"], found.energies_std, atol=1e-7)
        np.testing.assert_allclose(arrays["forces_error"], found.forces - frame.forces, atol=1e-6)
        np.testing.assert_allclose(info["stress_error"], found.stress - frame.stress, atol=1e-7)
        error = (found.energy - frame.energy) / len(frame)
        assert info["energy_error_ev_per_atom"] == pytest.approx(error, abs=1e-7)
        assert info["config_type"] == frame.config_type
        np.testing.assert_allclose(arrays["REF_forces"], frame.forces, atol=1e-7)
    worst = json.loads((tmp_path / "a.json").read_text())["worst"]
    errors = [abs(e["energy_error_mev_per_atom"]) for e in worst["energy"]]
    assert errors == sorted(errors, reverse=True)
    assert {e["name"] for e in worst["forces"]} == {f.name for f in labels}
    if ending == "xyz":  # and is read again, by its labels
        assert kp.read_dataset(path)[0].energy == pytest.approx(labels[0].energy)


@pytest.mark.parametrize("verb", list(EXAMPLES))
def test_help_has_defaults_units_and_an_example(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: {EXAMPLES[verb]}" in text
    assert "(default: None)" not in text
    assert "(default: False)" not in text
    build_parser().parse_args(EXAMPLES[verb].split("kernelpot ")[1].split())
    expected = {
        "md": ["time step [fs] (default: 1.0)", "[GPa], npt only (default: 0.0)",
               "[K] (default: 300.0)", "(default: 1000)", "(default: 1 1 1)", "(default: 0)"],
        "fit": ["[eV/atom] (default: chosen)", "[eV/Å^3]", "(default: loo)",
                "[eV] (default: REF_energy"],
        "search": ["(default: 20)"],
        "quickstart": ["(default: .)"],
    }  # fmt: skip
    for words in expected.get(verb, ()):
        assert words in text
    verb_parser = build_parser()._subparsers._group_actions[0].choices[verb]
    assert all(action.help for action in verb_parser._actions)
    assert f"kernelpot {verb} " in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_run_at_constant_pressure_prints_volume_and_pressure(folder, fitted, tmp_path, capsys):
    command = ["md", str(fitted), str(folder / "start.xyz"), "--ensemble", "npt", "--steps", "20",
               "--interval", "5", "--no-timestep-check", "--quiet", "--timestep", "0.5",
               "--supercell", "2", "2", "2", "--json", str(tmp_path / "a.json"),
               "--log", str(tmp_path / "a.csv")]  # fmt: skip
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "V [Å^3]  P [GPa]" in out
    found = json.loads((tmp_path / "a.json").read_text())
    rows = np.genfromtxt(tmp_path / "a.csv", delimiter=",", names=True)
    half = rows[len(rows) // 2 :]
    assert found["mean_temperature_k"] == pytest.approx(half["temperature_k"].mean(), rel=1e-6)
    assert found["mean_volume_ang3"] == pytest.approx(half["volume_ang3"].mean(), rel=1e-6)
    assert found["mean_pressure_gpa"] == pytest.approx(half["pressure_gpa"].mean(), rel=1e-6)
    assert found["averages_from_ps"] == pytest.approx(half["time_ps"][0])
    assert f"over the second half of the run (from {half['time_ps'][0]:.3g} ps)" in out
    assert f"pressure {found['mean_pressure_gpa']:.3f} GPa" in out


def test_a_model_says_where_it_is_from(fitted, labelled, tmp_path, capsys):
    out = tmp_path / "mine.kpot"
    about = ["--author", "A. Nobel", "--license", "CC-BY-4.0"]
    assert main(["export", str(fitted), "-o", str(out), *about]) == 0
    assert main(["info", str(out), "--json", str(tmp_path / "a.json")]) == 0
    about = json.loads((tmp_path / "a.json").read_text())["about"]
    assert about["version"] == kp.__version__
    assert about["author"] == "A. Nobel"
    assert about["licence"] == "CC-BY-4.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", about["date"])
    assert re.fullmatch("[0-9a-f]{64}", about["data_hash"])
    said = capsys.readouterr().out
    assert f"fitted {about['date']} with kernelpot {kp.__version__}, by A. Nobel, licence" in said
    # the same data in another order, and other data
    terms = [kp.SOAPTerm(r_cut=3.6, n_max=2, l_max=2, n_sparse=10)]
    hashes = [
        kp.KernelPotential(terms, baseline=[]).fit(data, optimize=None, calibrate=False)
        .describe()["about"]["data_hash"]
        for data in (labelled[:6], labelled[:6][::-1], labelled[:7])
    ]  # fmt: skip
    assert hashes[0] == hashes[1] != hashes[2]
    assert kp.load(fitted).describe()["about"]["author"] is None


def test_a_fit_announces_its_time_and_where_it_continues(labelled, tmp_path, caplog, monkeypatch):
    from kernelpot.fit.checkpoint import Checkpoint

    terms = [kp.SOAPTerm(r_cut=3.6, n_max=2, l_max=2, n_sparse=10)]
    path = tmp_path / "fit.state"
    monkeypatch.setattr(Checkpoint, "remove", lambda self: None)
    pot = kp.KernelPotential(terms, baseline=[])
    with caplog.at_level("INFO", logger="kernelpot"):
        pot.fit(labelled[:6], optimize=None, checkpoint=path, checkpoint_interval=0.0)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert re.search(r"the fit takes about \d+ (s|min) on \d+ threads", said)
    assert "continues" not in said
    with caplog.at_level("INFO", logger="kernelpot"):
        pot.fit(labelled[:6], optimize=None, checkpoint=path)
    said = caplog.records[-1].getMessage()
    assert re.search(r"continues from .*fit.state of \d{4}-.*: sparse points chosen, \d+ ba", said)
