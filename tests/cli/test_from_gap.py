"""From gap_fit: published commands become configurations, with every option accounted for."""

import json
import re

import ase.io
import numpy as np
import pytest

import kernelpot as kp
from kernelpot.cli.console import read_config
from kernelpot.cli.from_gap import translate
from kernelpot.cli.gap_command import parse_gap_command
from kernelpot.cli.verbs import main
from kernelpot.datasets import load_silicon
from kernelpot.terms.kinds import TERMS
from tests.cli.gap_commands import COMMANDS


@pytest.fixture(scope="module")
def translated():
    return {name: translate(parse_gap_command(text)) for name, text in COMMANDS.items()}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_fit_takes_the_result(translated, tmp_path, name):
    path = tmp_path / "fit.toml"
    path.write_text(translated[name].to_toml(), encoding="utf-8")
    config = read_config(str(path))
    keys = config.pop("keys", {})
    kp.LabelKeys(**keys)
    potential = kp.KernelPotential(**config)
    potential._settings().own_sigmas  # noqa: B018
    command = parse_gap_command(COMMANDS[name])
    n_triplets = sum(d.options.get("order") == "3" for d in command.descriptors)
    expected = len(command.descriptors) - (0 if "triplet" in TERMS else n_triplets)
    assert len(config["terms"]) == expected


@pytest.mark.parametrize("name", list(COMMANDS))
def test_no_option_is_lost(translated, name):
    text = translated[name].to_toml()
    command = parse_gap_command(COMMANDS[name])
    # words that are lines of the configuration under another name
    renamed = {"cutoff": "r_cut", "delta": "delta", "at_file": "kernelpot fit",
               "atoms_filename": "kernelpot fit", "gp_file": ".kpot"}  # fmt: skip
    everything = [*command.options, *(o for d in command.descriptors for o in d.options)]
    for option in everything:
        assert re.search(rf"\b{option}\b", text) or renamed[option] in text, option
    assert "NOT KNOWN" not in text


def test_values_of_silicon_with_hydrogen(translated):
    found = translated["silicon-hydrogen"].to_dict()
    silicon, hydrogen = found["terms"]
    assert silicon == {
        "kind": "soap", "r_cut": 5.0, "n_max": 12, "l_max": 6, "sigma_atom": 0.5, "zeta": 4,
        "delta": 3.0, "n_sparse": 6000, "sparse_method": "cur",
    }  # fmt: skip
    assert (hydrogen["r_cut"], hydrogen["sigma_atom"], hydrogen["n_sparse"]) == (3.0, 0.3, 3000)
    # they were for one species each, which is said
    assert any("delete all but one" in remark for remark in found["remarks"])
    assert found["parameters"] == {"sigma_energy": 0.001, "sigma_forces": 0.1, "e0": "isolated"}
    assert found["keys"] == {
        "energy": "dft_energy", "forces": "dft_force", "virial": "dft_virial",
    }  # fmt: skip
    assert found["config_type_sigma.liquid"] == {"energy": 0.003, "forces": 0.15}
    left = {entry["option"] for entry in found["not_translated"]}
    # a potential that is subtracted, and a virial's sigma without a volume, are said
    assert "core_param_file=potentials/pairPotentials/SiH_pairpot.xml" in left
    assert any("virials 0.05" in option for option in left)


def test_virials_that_gap_fit_would_not_have_read_count_for_nothing():
    command = parse_gap_command(COMMANDS["silicon-zuo2020"])
    frames = []
    for frame in [f for f in load_silicon() if f.virial is not None][:6]:
        atoms = frame.atoms.copy()
        atoms.info |= {
            "dft_energy": frame.energy,
            "virial": frame.virial[[0, 5, 4, 5, 1, 3, 4, 3, 2]],
        }
        frames.append(atoms)
    read = kp.read_dataset(frames, keys=kp.LabelKeys(virial="virial"))
    # "virial" is the name that gap_fit takes
    assert translate(command, read).to_dict()["parameters"]["sigma_stress"] < 0.01
    for atoms in frames:
        atoms.info["REF_virial"] = atoms.info.pop("virial")
    found = translate(command, kp.read_dataset(frames))
    assert found.to_dict()["parameters"]["sigma_stress"] == 1000.0
    assert "named virial, those of the data are REF_virial; delete the line" in found.to_toml()
    # whose name is given is read
    command.options["virial_parameter_name"] = "dft_virial"
    assert translate(command, read).to_dict()["parameters"]["sigma_stress"] < 0.01


def test_pairs_and_free_atoms_of_two_species(translated):
    found = translated["two-species"].to_dict()
    pair, soap = found["terms"]
    assert found["e0"] == {"H": -13.6, "O": -432.5}
    assert found["parameters"]["seed"] == 999
    # gap_fit counts each of three pairs, each of two species
    assert (pair["n_sparse"], soap["n_sparse"]) == (60, 400)
    assert (pair["length_scale"], pair["cutoff_width"], pair["r_cut"]) == (1.0, 0.6, 5.0)
    assert any("Hessians 1" in entry["option"] for entry in found["not_translated"])


def test_a_script_and_what_follows_the_command(translated):
    found = translated["carbon-queue"].to_dict()
    assert found["train"] == "../train_216_125_64_v.xyz"
    assert [term["kind"] for term in found["terms"]] == ["pair", "soap"]
    assert "virial" not in found["keys"]
    text = translated["carbon-queue"].to_toml()
    assert "fit.log" not in text
    assert "SBATCH" not in text


def test_the_turbo_kind_and_its_braces(translated):
    _, soap = translated["iron-turbo"].to_dict()["terms"]
    assert (soap["r_cut"], soap["n_max"], soap["sigma_atom"]) == (3.0, 8, 0.25)
    assert soap["n_sparse"] == 1700
    text = translated["iron-turbo"].to_toml()
    assert re.search(r"rcut_soft=2.5: NO EQUIVALENT", text)


def test_virials_become_stresses_with_the_volume_of_the_data():
    data = load_silicon()
    command = parse_gap_command(COMMANDS["silicon-hydrogen"])
    command.options["config_type_sigma"] = "{vacancy:0.01:0.2:0.4:0.0}"
    found = translate(command, data).to_dict()
    labelled = [f for f in data if f.virial is not None]
    volume = np.mean([f.atoms.get_volume() / len(f) for f in labelled])
    assert found["parameters"]["sigma_stress"] == pytest.approx(0.05 / volume, rel=1e-3)
    own = [f for f in labelled if f.config_type == "vacancy"]
    volume = np.mean([f.atoms.get_volume() / len(f) for f in own])
    assert found["config_type_sigma.vacancy"]["stress"] == pytest.approx(0.4 / volume, rel=1e-3)


def test_descriptors_that_differ_in_species_alone_become_one_term():
    soap = (
        "soap cutoff=4 n_max=6 l_max=4 atom_sigma=0.5 zeta=2 delta=0.2 covariance_type=dot_product"
    )
    command = parse_gap_command(
        f"gap_fit gap={{{soap} n_sparse=100 Z=1 : {soap} n_sparse=300 Z=8 : "
        f"{soap.replace('cutoff=4', 'cutoff=6')} n_sparse=50 Z=1}} default_sigma={{1e-3 0.1 0 0}}"
    )
    found = translate(command)
    assert [term["n_sparse"] for term in found.to_dict()["terms"]] == [400, 50]
    assert any("all act on every species" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gap_fit at_file=a.xyz", r"there is no gap=\{...\}"),
        ("gap_fit gap={soap cutoff=5", "a } is missing"),
        ("gap_fit gap={} at_file=a", "holds no descriptor"),
        ("gap_fit gap={cutoff=5 soap}", "begins with its name"),
        ("gap_fit gap={soap cutoff=5} 3=4", "no option of the form"),
        ("gap_fit gap={soap cutoff=5} config_type_sigma={a:1:2}", "groups of name:energy"),
        ("gap_fit gap={soap cutoff=abc}", "'abc' stands where gap_fit has a number$"),
        ("gap_fit gap={soap cutoff=$r}", "in place of the variables of a shell"),
        ("gap_fit gap={soap cutoff=}", "nothing stands where"),
        ("gap_fit gap={soap cutoff=5 n_max=8.5}", "n_max must be a whole number, got 8.5"),
    ],
)
def test_what_is_no_command_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        translate(parse_gap_command(text))


def test_what_nobody_knows_is_said():
    found = translate(parse_gap_command("gap_fit gap={soap cutoff=5 wings=2 : bees n=1} hum=T"))
    text = found.to_toml()
    assert "hum=T: NOT KNOWN" in text
    assert "wings=2: NOT KNOWN" in text
    assert "bees n=1: NO EQUIVALENT" in text


def test_the_command_line_writes_what_fit_reads(tmp_path, capsys):
    frames = []
    for frame in load_silicon():
        atoms = frame.atoms.copy()
        atoms.info |= {"dft_energy": frame.energy, "config_type": frame.config_type}
        atoms.arrays["dft_force"] = frame.forces
        if frame.virial is not None:
            atoms.info["dft_virial"] = frame.virial[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
        frames.append(atoms)
    train, script, config = (str(tmp_path / n) for n in ("train.xyz", "fit.sh", "fit.toml"))
    ase.io.write(train, frames, format="extxyz")
    text = COMMANDS["silicon-hydrogen"]
    for old, new in (
        ("trainingGAP_iterationData/round6Iteration.xyz", train),
        ("n_sparse=6000", "n_sparse=200"),
        ("n_sparse=3000", "n_sparse=50"),
        ("l_max=6", "l_max=4"),
        ("n_max=12", "n_max=6"),
        ("e0_method=isolated", "e0_method=average"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "fit.sh").write_text(text)
    assert main(["import-gap", script, "-o", config, "--json", str(tmp_path / "a.json")]) == 0
    assert "named in its comments" in capsys.readouterr().out
    # the volume of the data turns virials into stresses
    assert json.loads((tmp_path / "a.json").read_text())["parameters"]["sigma_stress"] < 0.01
    model = str(tmp_path / "m.kpot")
    fit = ["fit", train, "-o", model, "--config", config, "--optimize", "none", "--quiet",
           "--no-self-test"]  # fmt: skip
    assert main(fit) == 0
    pot = kp.load(model)
    assert pot.describe()["sigma_forces"] == 0.1
    n_virials = sum(frame.virial is not None for frame in load_silicon())
    assert pot.model.training.sources["virial"] == {"dft_virial": n_virials}
    found = kp.evaluate(pot, load_silicon("test"))
    assert found["forces_mae_ev_per_ang"] < 0.3
    assert main(["import-gap", "no-such-file"]) == 2
    assert "no file that is there, and no gap_fit command" in capsys.readouterr().err
    assert main(["import-gap", str(tmp_path)]) == 2
    assert "is a directory, and no gap_fit command" in capsys.readouterr().err
    (tmp_path / "bytes.sh").write_bytes(b"\xff\xfe")
    assert main(["import-gap", str(tmp_path / "bytes.sh")]) == 2
    assert "is no text, so not a gap_fit command" in capsys.readouterr().err
    assert main(["import-gap", *COMMANDS["tutorial-2b"].split()]) == 0
    assert 'kind = "pair"' in capsys.readouterr().out
