"""Models that only predict: what they carry, what they import, and what copies share."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.cli.verbs import main
from tests.conftest import label, rattled_alloy, structures


@pytest.fixture(scope="module")
def path(potential, tmp_path_factory):
    path = tmp_path_factory.mktemp("slim") / "model.kpot"
    potential.save(path)
    return path


def test_a_slim_file_predicts_the_same(potential, path, tmp_path):
    potential.save(tmp_path / "slim.kpot", slim=True)
    slim = kp.load(tmp_path / "slim.kpot")
    assert (tmp_path / "slim.kpot").stat().st_size < 0.8 * path.stat().st_size
    assert slim.model.is_slim
    assert not potential.model.is_slim
    for name, atoms in structures().items():
        for gate in (False, True):
            for std in ("local", True):
                one, two = (p.predict(atoms, return_std=std, gate=gate) for p in (potential, slim))
                assert one == two, name
    assert "Slim: without the factor" in slim.summary()
    assert slim.describe()["slim"]
    slim.save(tmp_path / "again.kpot")  # stays what it is
    assert kp.load(tmp_path / "again.kpot").model.is_slim


def test_what_needs_the_factor_says_so(potential, tmp_path):
    potential.save(tmp_path / "slim.kpot", slim=True)
    slim = kp.load(tmp_path / "slim.kpot")
    atoms = structures()["crystal"]
    frame = label(rattled_alloy(1, (1, 1, 1)))
    for use in (
        lambda: slim.predict(atoms, return_std=True).posterior,
        lambda: slim.sample(2),
        lambda: slim.suspicious([frame]),
        lambda: slim.update([frame]),
    ):
        with pytest.raises(ValueError, match="this potential is slim"):
            use()


def test_the_command_line_exports(path, tmp_path, capsys):
    out = tmp_path / "slim.kpot"
    arguments = ["export", str(path), "-o", str(out), "--slim", "--json", str(tmp_path / "a.json")]
    assert main(arguments) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["slim"]
    assert found["bytes"] < found["bytes_before"]
    assert main(["info", str(out)]) == 0
    # the whole model is not lost to its own name
    assert main(["export", str(path), "-o", str(path), "--slim"]) == 2
    assert "name another file" in capsys.readouterr().err
    assert not kp.load(path).model.is_slim
    assert main(["export", str(path), "-o", str(tmp_path / "copy.kpot")]) == 0
    assert not kp.load(tmp_path / "copy.kpot").model.is_slim


def test_a_pickled_calculator_carries_no_factor(potential):
    atoms = structures()["crystal"]
    atoms.calc = potential.calculator()
    forces = atoms.get_forces()
    packed = pickle.dumps(atoms.calc)
    whole = sum(m.nbytes for m in (potential.model.factor.matrix, potential.model.known.matrix))
    kept = potential.model.uncertainty.members.weights.nbytes
    assert len(packed) < len(pickle.dumps(potential.model)) - 0.9 * (whole - kept)
    other = pickle.loads(packed)  # noqa: S301
    fresh = structures()["crystal"]
    fresh.calc = other
    np.testing.assert_array_equal(fresh.get_forces(), forces)
    np.testing.assert_array_equal(
        other.get_property("energies_std", fresh), atoms.calc.get_property("energies_std", atoms)
    )
    np.testing.assert_array_equal(
        other.get_property("forces_std", fresh), atoms.calc.get_property("forces_std", atoms)
    )


def test_copies_share_the_model(potential):
    atoms = structures()["crystal"]
    atoms.calc = potential.calculator()
    energy = atoms.get_potential_energy()
    for other in (copy.deepcopy(atoms.calc), copy.copy(atoms.calc)):
        assert other.model is atoms.calc.model
        assert other.results["energy"] == energy
        assert other.results is not atoms.calc.results
        assert other.uncertainty.keys() == atoms.calc.uncertainty.keys()
        moved = structures()["crystal"]
        moved.positions[0] += 0.1
        moved.calc = other
        assert moved.get_potential_energy() != energy
        assert atoms.calc.results["energy"] == energy
        assert other.get_property("forces_std", moved).shape == (4, 3)  # a copy is not slim
    assert copy.deepcopy(potential).model is potential.model
    assert copy.deepcopy(potential) is not potential


def test_a_copied_model_evaluates_after_a_pickle_to_the_same_bits(potential):
    model = pickle.loads(pickle.dumps(potential.model))  # noqa: S301
    atoms = rattled_alloy(8, (1, 1, 1))
    assert model.predict(atoms, return_std=True) == potential.model.predict(atoms, return_std=True)


def test_two_loads_of_one_file_hash_alike(path):
    joblib = pytest.importorskip("joblib")
    one, two = kp.load(path), kp.load(path)
    assert joblib.hash(one) == joblib.hash(two)
    assert joblib.hash(one.model) == joblib.hash(two.model)
    assert joblib.hash(one.calculator()) == joblib.hash(two.calculator())
    one.predict(structures()["crystal"])
    assert joblib.hash(one) == joblib.hash(two)


def test_a_process_that_only_predicts_imports_little(path):
    """What takes long to import, and what no prediction needs."""
    code = f"""
import sys
import kernelpot as kp
from ase import Atoms
atoms = Atoms("CuAl", [[0, 0, 0], [0, 0, 2.5]], cell=[9, 9, 9], pbc=True)
atoms.calc = kp.KernelPotCalculator({str(path)!r})
atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
print(*(name for name in (
    "scipy.stats", "scipy.optimize", "scipy.interpolate", "scipy.special", "scipy.spatial",
    "sklearn", "pandas", "dscribe", "matplotlib", "distributed", "kernelpot.fit",
) if name in sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
