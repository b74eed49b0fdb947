"""``kernelpot lammps`` under mpiexec: one ordinary input, two of whose lines are ours."""

import json
import re

import ase.io
import numpy as np
import pytest
from ase.io.lammpsdata import write_lammps_data

import kernelpot as kp
from kernelpot.cli.verbs import main
from kernelpot.datasets import load_ethanol
from tests.md.conftest import HERE, mpiexec

pytestmark = pytest.mark.slow

INPUT = """
units           metal
atom_style      atomic
read_data       crystal.data
variable        round loop 2
label           again
variable        model string silicon.kpot
include         potential.in
timestep        0.001
thermo          5
thermo_style    custom step temp pe etotal press f_kp[1]
dump            d all custom 5 run.dump id element x y z fx fy fz d_kp_penalty d_kp_std
dump_modify     d element Si sort id format float %.15g
fix             1 all nve
variable        inner loop 2
label           more
run             ${steps}
next            inner
jump            SELF more
unfix           1
undump          d
next            round
jump            SELF again
"""


def command(n, folder, *arguments, check=True):
    return mpiexec(n, "-m", "kernelpot.cli", "lammps", *arguments, cwd=folder, check=check)


def write(folder, text, name="in.si"):
    (folder / name).write_text(text)
    return name


def test_an_input_with_loops_variables_and_an_include(workplace):
    """Loops around and behind the attaching; what is dumped is what ASE finds."""
    write(workplace, "pair_style kernelpot std local\npair_coeff * * ${model} Si\n", "potential.in")
    name = write(workplace, INPUT)
    done = command(
        2, workplace, name, "--log", "run.log", "--var", "steps", "5", "--json", "out.json"
    )
    found = json.loads((workplace / "out.json").read_text())
    assert (found["processes"], found["n_atoms"], found["step"]) == (2, 64, 20)
    assert found["evaluations"] == 4 * 6  # each run evaluates its start
    assert "kernelpot: 64 atoms on 2 processes, 24 evaluations" in done.stdout
    assert "Total wall time" in (workplace / "run.log").read_text()
    atoms = ase.io.read(workplace / "run.dump", index=-1, format="lammps-dump-text")
    assert found["thermo"]["Step"] == 20
    potential = kp.load(workplace / "silicon.kpot")
    expected = potential.predict(atoms, gate=kp.VarianceGate(), return_std="local")
    assert found["thermo"]["PotEng"] == pytest.approx(expected.energy, abs=1e-6)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-6)
    std = atoms.arrays["d_kp_std"].reshape(-1)
    np.testing.assert_allclose(std, expected.energies_std, atol=1e-8)


REST = "units metal\natom_style atomic\nread_data crystal.data\n"
OURS = "pair_style kernelpot\npair_coeff * * silicon.kpot Si\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (REST + OURS + "fix 1 all nve\nrun five\n", "kernelpot: LAMMPS: ERROR: Expected integer"),
        (
            REST + OURS.replace(" Si", " Ge"),
            "in.wrong, line 5: unknown species Ge: the model knows Si",
        ),
    ],
)
def test_what_is_wrong_is_said_once(workplace, text, message):
    name = write(workplace, text, "in.wrong")
    done = command(2, workplace, name, "--quiet", "--log", "none", check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("kernelpot: ") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_gate_stops_all_processes(workplace):
    hot = "velocity all create 60000 1 loop all\nfix 1 all nve\ntimestep 0.002\nthermo 1\nrun 50\n"
    stopping = OURS.replace("kernelpot", "kernelpot on_gate stop")
    name = write(workplace, REST + stopping + hot + "print 'went on'\n", "in.hot")
    done = command(2, workplace, name, "--log", "hot.log", check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("kernelpot: ")]
    assert "atoms are beyond the training data (most of all atom" in sentence
    assert "went on" not in done.stdout
    step = int(sentence.split("step ")[1].split(":")[0])
    rows = [row for row in (workplace / "hot.log").read_text().splitlines() if row.strip()]
    assert int(rows[-1].split()[0]) == step - 1  # what was printed before is kept


@pytest.mark.parametrize("mode", ["raise", "exit", "alone"])
def test_an_error_on_one_process_stops_all(workplace, mode):
    done = mpiexec(2, HERE / "lammps_errors.py", mode, cwd=workplace, check=False)
    assert "no error" not in done.stdout
    assert "went on" not in done.stdout or mode == "raise"
    if mode == "raise":
        # lines of two processes may be written into each other
        assert (
            "0: RuntimeError: ZeroDivisionError: on purpose (process 1 of 2): step 7" in done.stdout
        )
        assert "1: ZeroDivisionError: on purpose: step 7" in done.stdout
    else:
        assert done.returncode == 2, done.stdout + done.stderr
        assert "kernelpot: step 7: ZeroDivisionError: on purpose" in done.stderr


PAGE = HERE.parents[1] / "docs" / "how-to" / "lammps.md"


def worked_inputs():
    """The inputs of the documentation, by name."""
    if not PAGE.exists():
        return {}
    found = re.findall(r"<!-- run: (\w+) -->\n```\n(.*?)```", PAGE.read_text(), re.S)
    return dict(found)


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not beside the tests")
def test_the_documentation_has_its_inputs():
    assert set(worked_inputs()) == {"crystal", "molecule", "stopping", "charged"}


@pytest.fixture(scope="module")
def ethanol(workplace):
    frames = load_ethanol()[:12]
    soap = kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=60)
    potential = kp.KernelPotential([soap]).fit(frames, optimize=None, self_test=False)
    potential.save(workplace / "ethanol.kpot")
    atoms = max((frame.atoms for frame in frames), key=len).copy()
    atoms.center(vacuum=8.0)
    write_lammps_data(
        str(workplace / "ethanol.data"), atoms, specorder=["C", "H", "O"], masses=True,
        units="metal",
    )  # fmt: skip


@pytest.mark.parametrize("label", list(worked_inputs()))
def test_inputs_of_the_documentation_run(workplace, ethanol, label):
    name = write(workplace, worked_inputs()[label], f"in.{label}")
    arguments = ("--log", f"{label}.log", "--var", "steps", "3", "--quiet", "--json", "out.json")
    command(2 if label == "charged" else 1, workplace, name, *arguments)
    found = json.loads((workplace / "out.json").read_text())
    assert 1 <= found["step"] <= 3
    assert np.isfinite(found["thermo"]["PotEng"])
    if label == "stopping":
        assert (workplace / "unknown.data").exists()


def test_a_file_that_is_not_there(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    assert main(["lammps", "in.nowhere"]) == 2
    assert "in.nowhere" in capsys.readouterr().err
