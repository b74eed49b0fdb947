"""Results compare, and are plain data where that is asked for."""

import json
from dataclasses import replace

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.model.errors import Errors
from tests.conftest import label, rattled_alloy, structures


def test_predictions_compare(potential):
    atoms = structures()["crystal"]
    one, two = (potential.predict(atoms, return_std=True) for _ in range(2))
    assert one == two
    assert one != potential.predict(atoms)
    for name in ("energy", "forces", "stress", "energies_std"):
        assert one != replace(two, **{name: getattr(two, name) + 1e-9})
    assert one != replace(two, stress=None)
    assert one != 3
    assert [two, one].index(one) == 0
    nan = replace(one, forces=np.full_like(one.forces, np.nan))
    assert nan == replace(nan, forces=nan.forces.copy())
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    committee = potential.sample(2, 1)
    assert committee.predict(atoms) == committee.predict(atoms)
    frames = kp.read_dataset([label(atoms), label(rattled_alloy(5, (1, 1, 1)))])
    assert frames[0] == kp.read_dataset(label(atoms))[0] or frames[0].name != "structure"
    assert frames[0] == replace(frames[0])
    assert frames[0] != frames[1]


def test_a_prediction_is_plain_data(potential):
    found = potential.predict(structures()["cluster"], return_std=True, gate=True)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["energy"] == found.energy
    assert plain["stress"] is None
    np.testing.assert_array_equal(plain["forces_std"], found.forces_std)
    assert plain["numbers"] == found.numbers.tolist()
    assert "calibration" not in plain


def test_errors_are_a_table(potential, labelled):
    found = kp.evaluate(potential, labelled[::6], uncertainty=True)
    assert isinstance(found, dict)
    assert json.loads(json.dumps(found)) == found
    pandas = pytest.importorskip("pandas")
    table = found.to_frame()
    assert isinstance(table, pandas.DataFrame)
    assert set(table.index) == {"all", *found["by_config_type"]}
    assert table.loc["all", "energy_mae_mev_per_atom"] == found["energy_mae_mev_per_atom"]
    for name, errors in found["by_config_type"].items():
        assert table.loc[name, "forces_mae_ev_per_ang"] == errors["forces_mae_ev_per_ang"]
    expected = found["uncertainty"]["forces"]["coverage_95"]
    assert table.loc["all", "forces_coverage_95"] == expected
    assert table.dtypes["n_atoms"].kind == "i"


def test_a_table_without_pandas_is_refused_by_a_sentence(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        Errors(by_config_type={}).to_frame()
